//! Local files that everybody may read: also readers without an account on this machine.

use std::fs::File;
use std::path::{Component, Path};

use super::own_names::is_own;
use super::{Errno, LowerDirectory, Stat, stat_of};

/// Permission of others to read a file.
const READ: u16 = 0o004;
/// Permission of others to search a directory.
const SEARCH: u16 = 0o001;

/// The attributes of a regular file at `path` that others may read, in directories that others may
/// search. No link is followed.
///
/// # Errors
/// There is no such file (ENOENT), or others may not read it (EACCES).
pub(crate) fn stat_for_everybody(layer: &LowerDirectory, path: &Path) -> Result<Stat, Errno> {
    let is_plain = path.components().all(|component| matches!(component, Component::Normal(_)));
    if !is_plain || path.as_os_str().is_empty() || is_own(path) {
        return Err(Errno::NOENT);
    }
    for directory in path.ancestors().skip(1) {
        let stat = layer.lower.stat(directory)?;
        if !stat.is_directory() {
            return Err(Errno::NOENT);
        }
        if stat.mode & SEARCH == 0 {
            return Err(Errno::ACCESS);
        }
    }
    admitted(layer.lower.stat(path)?)
}

/// Opens such a file.
///
/// # Errors
/// The same.
pub(crate) fn open_for_everybody(layer: &LowerDirectory, path: &Path) -> Result<(File, Stat), Errno> {
    // Opening a device may have an effect, so the file is looked at first.
    stat_for_everybody(layer, path)?;
    let file = layer.lower.read(path)?;
    let stat = admitted(stat_of(&file)?)?;
    Ok((file, stat))
}

fn admitted(stat: Stat) -> Result<Stat, Errno> {
    match (stat.is_file(), stat.mode & READ) {
        (false, _) => Err(Errno::NOENT),
        (true, 0) => Err(Errno::ACCESS),
        (true, _) => Ok(stat),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::io::Read as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use rustix::fs::{FileType, Mode, mknodat};

    use super::*;

    fn open(layer: &LowerDirectory, path: &str) -> Result<String, Errno> {
        let mut text = String::new();
        open_for_everybody(layer, Path::new(path))?.0.read_to_string(&mut text).unwrap();
        Ok(text)
    }

    #[test]
    fn only_what_others_may_read_and_nothing_outside() {
        let place = tempfile::tempdir().unwrap();
        let pkgdir = place.path().join("pkgdir");
        fs::create_dir_all(pkgdir.join("a/closed")).unwrap();
        let mode = |path: &str, mode| fs::set_permissions(pkgdir.join(path), Permissions::from_mode(mode)).unwrap();
        let file = |path: &str, permissions| {
            fs::write(pkgdir.join(path), path).unwrap();
            mode(path, permissions);
        };
        file("top.xpak", 0o644);
        file("a/open.xpak", 0o604);
        file("a/private.xpak", 0o640);
        file("a/closed/open.xpak", 0o644);
        file("Packages", 0o644);
        fs::write(place.path().join("secret"), "secret").unwrap();
        symlink("../secret", pkgdir.join("link.xpak")).unwrap();
        symlink("open.xpak", pkgdir.join("a/inner-link.xpak")).unwrap();
        symlink("..", pkgdir.join("a/up")).unwrap();
        mknodat(rustix::fs::CWD, pkgdir.join("fifo.xpak"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        ["", "a", "a/closed"].into_iter().zip([0o755, 0o711, 0o700]).for_each(|(path, bits)| mode(path, bits));
        let layer = LowerDirectory::open(&pkgdir, true).unwrap();
        assert_eq!(open(&layer, "top.xpak").as_deref(), Ok("top.xpak"));
        assert_eq!(open(&layer, "a/open.xpak").as_deref(), Ok("a/open.xpak"));
        for path in ["a/private.xpak", "a/closed/open.xpak"] {
            assert_eq!(open(&layer, path), Err(Errno::ACCESS), "{path}");
        }
        let outside = place.path().join("secret");
        for path in [
            "",
            ".",
            "..",
            "../secret",
            "a/../../secret",
            outside.to_str().unwrap(),
            "a",
            "link.xpak",
            "a/inner-link.xpak",
            "a/up/top.xpak",
            "fifo.xpak",
            "Packages",
            "none",
            "top.xpak/x",
            "./top.xpak",
        ] {
            assert!(open(&layer, path).is_err_and(|error| error != Errno::ACCESS), "{path}");
        }
        mode("", 0o750);
        assert_eq!(open(&layer, "top.xpak"), Err(Errno::ACCESS));
    }
}
