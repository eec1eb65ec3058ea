//! Finds the directories of the profile. Each of them may have settings for packages.
//!
//! Source: portage 3.0.83, `package/ebuild/_config/LocationsManager.py` (`_addProfile`).

use std::path::{Path, PathBuf};

use super::files::Files;
use super::{PortagePaths, normal};

/// The most directories of a profile. More than these are a sign of parents that refer to each
/// other.
const MAX_DIRECTORIES: usize = 1000;

/// Name and location of an ebuild repository.
pub(crate) type Repository = (String, PathBuf);

/// The directories of the profile, parents first and `etc/portage/profile` last. `None`: there is
/// no profile that Portage could read.
pub(crate) fn directories(
    places: &PortagePaths,
    files: &mut Files,
    repositories: &[Repository],
) -> Option<Vec<PathBuf>> {
    let etc = places.config_root.join("etc");
    let links = [etc.join("portage/make.profile"), etc.join("make.profile")];
    let profile = links.iter().find(|link| link.is_dir())?.canonicalize().ok()?;
    let mut found = Vec::new();
    add(&profile, files, repositories, &mut vec![], &mut found)?;
    found.extend(Some(etc.join("portage/profile")).filter(|own| own.is_dir()));
    Some(found)
}

/// Adds `directory` after its parents. `above` has the directories that inherit from it, to detect
/// circles.
fn add(
    directory: &Path,
    files: &mut Files,
    repositories: &[Repository],
    above: &mut Vec<PathBuf>,
    found: &mut Vec<PathBuf>,
) -> Option<()> {
    if above.iter().any(|other| other == directory) || found.len() >= MAX_DIRECTORIES || !directory.is_dir() {
        return None;
    }
    above.push(directory.to_owned());
    for line in lines(files, &directory.join("parent"))? {
        add(&parent(directory, &line.join(" "), repositories)?, files, repositories, above, found)?;
    }
    above.pop();
    found.push(directory.to_owned());
    Some(())
}

/// Resolves a line of a `parent` file: `../base`, `/var/db/repos/x/profiles/base`, `x:base`, or
/// `:base` for the same repository.
fn parent(directory: &Path, text: &str, repositories: &[Repository]) -> Option<PathBuf> {
    let path = match text.split_once(':').filter(|_| !text.starts_with('/')) {
        None => directory.join(text),
        Some(("", path)) => {
            let around = repositories.iter().filter(|(_, location)| directory.starts_with(location));
            around.max_by_key(|(_, location)| location.as_os_str().len())?.1.join("profiles").join(path)
        }
        Some((name, path)) => repositories.iter().find(|(other, _)| other == name)?.1.join("profiles").join(path),
    };
    let path = PathBuf::from(normal(&path.to_string_lossy()));
    path.canonicalize().ok()
}

/// The words of each line of a file, or of all files of a directory, without comments. A path that
/// does not exist has no lines. `None`: the path cannot be read.
pub(crate) fn lines(files: &mut Files, path: &Path) -> Option<Vec<Vec<String>>> {
    let mut lines = Vec::new();
    for file in files.list(path).ok()? {
        let bytes = files.read(&file).ok()?.unwrap_or_default();
        for line in String::from_utf8_lossy(&bytes).lines() {
            let words: Vec<String> =
                line.split_whitespace().take_while(|word| !word.starts_with('#')).map(str::to_owned).collect();
            lines.extend(Some(words).filter(|words| !words.is_empty()));
        }
    }
    Some(lines)
}
