//! The commits that an ebuild repository on this machine was at, by Portage's own history of syncs,
//! or else by the repository's git.
//!
//! Source: portage 3.0.83, `sync/revision_history.py`; gitrepository-layout(5).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde_json::Value;

use super::conf::{self, PortagePaths};

/// Portage's history below EROOT: a JSON object of names and lists of commits, the newest first.
const HISTORY: &str = "var/lib/portage/repo_revisions";
/// The bytes of a file that are read. `packed-refs` of Gentoo's repository has some kilobytes.
const MAX_FILE: u64 = 4 << 20;

/// The commits that a repository was at, the present one first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RepositoryRevisions(Vec<String>);

impl RepositoryRevisions {
    /// Reads what is known of the repository `name`. `None`: nothing.
    pub(crate) fn of(config_root: &Path, eroot: &Path, name: &str) -> Option<Self> {
        let history = || {
            let mut all: BTreeMap<String, Value> = serde_json::from_str(&read(&eroot.join(HISTORY))?).ok()?;
            let commits: Vec<String> = serde_json::from_value(all.remove(name)?).ok()?;
            Some(commits).filter(|commits| !commits.is_empty())
        };
        let git = || {
            let location = conf::repository_location(&PortagePaths::below(config_root), name)?;
            Some(vec![head(&location.join(".git"))?])
        };
        history().or_else(git).map(Self)
    }

    /// How many syncs ago the repository was at `commit`; 0: it is there now. `None`: not known.
    pub(crate) fn age_of(&self, commit: &str) -> Option<usize> {
        self.0.iter().position(|other| other == commit)
    }
}

/// The commit that is checked out in a git directory.
fn head(git: &Path) -> Option<String> {
    let text = read(&git.join("HEAD"))?;
    let Some(reference) = text.trim().strip_prefix("ref: ") else { return commit(&text) };
    // The name is a path below the directory, and must not lead out of it.
    if !reference.starts_with("refs/") || reference.split('/').any(|part| part == "..") {
        return None;
    }
    let packed = || {
        let packed = read(&git.join("packed-refs"))?;
        packed.lines().find_map(|line| line.strip_suffix(reference)?.strip_suffix(' ').and_then(commit))
    };
    read(&git.join(reference)).as_deref().and_then(commit).or_else(packed)
}

/// A commit: hexadecimal digits, and nothing else.
fn commit(text: &str) -> Option<String> {
    let text = text.trim();
    let is_commit = text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_commit.then(|| text.to_owned())
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_FILE).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const OLD: &str = "1111111111111111111111111111111111111111";
    const NEW: &str = "2222222222222222222222222222222222222222";

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn of(root: &Path) -> Option<Vec<String>> {
        RepositoryRevisions::of(root, root, "gentoo").map(|found| found.0)
    }

    #[test]
    fn the_history_of_syncs_comes_first() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(of(root.path()), None);
        write(root.path(), HISTORY, &format!("{{\"gentoo\": [\"{NEW}\", \"{OLD}\"], \"other\": 5}}"));
        let found = RepositoryRevisions::of(root.path(), root.path(), "gentoo").unwrap();
        assert_eq!((found.age_of(NEW), found.age_of(OLD), found.age_of("3")), (Some(0), Some(1), None));
        assert_eq!(RepositoryRevisions::of(root.path(), root.path(), "other"), None);
        for garbage in ["", "[]", "{\"gentoo\": 5}", "{\"gentoo\": [7]}"] {
            write(root.path(), HISTORY, garbage);
            assert_eq!(of(root.path()), None, "{garbage:?}");
        }
    }

    #[test]
    fn a_repository_of_git_is_at_one_commit() {
        let root = tempfile::tempdir().unwrap();
        let repository = root.path().join("repo");
        let repos_conf = format!("[gentoo]\nlocation = {}\n", repository.display());
        write(root.path(), "etc/portage/repos.conf", &repos_conf);
        assert_eq!(of(root.path()), None);
        write(&repository, ".git/HEAD", "ref: refs/heads/stable\n");
        assert_eq!(of(root.path()), None);
        write(
            &repository,
            ".git/packed-refs",
            &format!("# pack-refs\n{NEW} refs/heads/master\n{OLD} refs/heads/stable\n"),
        );
        assert_eq!(of(root.path()), Some(vec![OLD.to_owned()]));
        write(&repository, ".git/refs/heads/stable", &format!("{NEW}\n"));
        assert_eq!(of(root.path()), Some(vec![NEW.to_owned()]));
        write(&repository, ".git/HEAD", &format!("{OLD}\n"));
        assert_eq!(of(root.path()), Some(vec![OLD.to_owned()]));
        write(&repository, ".git/HEAD", "ref: refs/../../secret\n");
        write(&repository, "secret", OLD);
        assert_eq!(of(root.path()), None);
    }
}
