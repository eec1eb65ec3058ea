//! Finds the user patches `etc/portage/patches/CATEGORY/NAME/*.patch`, and computes the digest that
//! Portage compares with USER_PATCHES of a package.
//!
//! Source: portage 3.0.83, `package/ebuild/_config/UserPatches.py`. NAME is the package's name,
//! with or without version, and with or without `:SLOT`. All directories that exist count. Of
//! several files with one name, the one in the most particular directory counts.
//!
//! Symbolic links are followed, as in Portage. Only plain files are read; counts and sizes are
//! bounded.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::Cpv;

/// The path of the patches below Portage's root.
const PATH: &str = "etc/portage/patches";
const ENDINGS: [&[u8]; 2] = [b".diff", b".patch"];
/// The most names that are read in one directory.
const MAX_NAMES: usize = 1024;
/// The size of the largest patch, in bytes.
const MAX_PATCH: u64 = 16 << 20;

/// The user patches below one root.
#[derive(Debug, Clone)]
pub(crate) struct UserPatches {
    /// The directory of the patches, if it exists.
    directory: Option<PathBuf>,
}

impl UserPatches {
    /// The patches below `root`, which need not exist.
    #[must_use]
    pub(crate) fn below(root: &Path) -> Self {
        Self { directory: Some(root.join(PATH)).filter(|directory| directory.is_dir()) }
    }

    /// The digest over all patches that Portage would apply to a package; empty where there is
    /// none. `slot` has no subslot.
    #[must_use]
    pub(crate) fn digest(&self, cpv: &Cpv, slot: &str) -> String {
        let Some(directory) = &self.directory else { return String::new() };
        let mut digests: BTreeMap<OsString, String> = BTreeMap::new();
        for name in [cpv.cp().to_owned(), cpv.to_string(), format!("{}:{slot}", cpv.cp()), format!("{cpv}:{slot}")] {
            // Patches that cannot be read stop emerge, so the digest does not matter then.
            digests.extend(patches(&directory.join(name)).unwrap_or_default());
        }
        let empty = hex(Sha256::new());
        let all: String = digests.into_values().filter(|digest| *digest != empty).collect();
        if all.is_empty() { all } else { hex(Sha256::new_with_prefix(all)) }
    }
}

/// Names and digests of the patches in `directory`.
fn patches(directory: &Path) -> io::Result<Vec<(OsString, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)?.take(MAX_NAMES) {
        let entry = entry?;
        let name = entry.file_name();
        if ENDINGS.iter().any(|ending| name.as_bytes().ends_with(ending))
            && let Some(digest) = digest(&entry.path())?
        {
            found.push((name, digest));
        }
    }
    Ok(found)
}

/// The SHA-256 of a patch. `None`: the path is no plain file, or the file is too large for a patch.
fn digest(path: &Path) -> io::Result<Option<String>> {
    // Without O_NONBLOCK, opening a FIFO would wait for a writer.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > MAX_PATCH {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(MAX_PATCH).read_to_end(&mut bytes)?;
    Ok(Some(hex(Sha256::new_with_prefix(bytes))))
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_particular_of_each_name_counts() {
        let root = tempfile::tempdir().unwrap();
        let digest = |cpv: &str, slot: &str| UserPatches::below(root.path()).digest(&Cpv::parse(cpv).unwrap(), slot);
        let of = |texts: &[&str]| {
            let all: String = texts.iter().map(|text| hex(Sha256::new_with_prefix(text))).collect();
            hex(Sha256::new_with_prefix(all))
        };
        assert_eq!(digest("a/x-1", "0"), "");
        for (path, text) in [
            ("a/x/1.patch", "one"),
            ("a/x/2.diff", "two"),
            ("a/x/3.txt", "no patch"),
            ("a/x/4.patch", ""),
            ("a/x-1-r1/2.diff", "of the version"),
            ("a/x:3/1.patch", "of the slot"),
            ("a/y/0.patch", ""),
        ] {
            let file = root.path().join(PATH).join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        fs::create_dir(root.path().join(PATH).join("a/x/5.patch")).unwrap();
        assert_eq!(digest("a/x-1", "0"), of(&["one", "two"]));
        assert_eq!(digest("a/x-1-r1", "0"), of(&["one", "of the version"]));
        assert_eq!(digest("a/x-1-r1", "3"), of(&["of the slot", "of the version"]));
        assert_eq!(digest("a/y-1", "0"), "");
    }
}
