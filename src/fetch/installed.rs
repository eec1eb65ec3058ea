//! What is installed: Portage's database `var/db/pkg`, one directory for each package.
//!
//! Source: portage 3.0.83, `dbapi/vartree.py`: `CATEGORY/PF/` with a small file for each value.
//!
//! Anybody may have put anything there: below `var/db/pkg` no symbolic link is followed, only plain files are opened, and of
//! everything only so much is looked at. What makes no sense is passed over.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Dir, FileType, Mode, OFlags};

use crate::index::Cpv;

/// Below Portage's root.
const PATH: &str = "var/db/pkg";
/// Packages that are looked at; a whole desktop has about 2,000.
const MAX_INSTALLED: usize = 16 << 10;
/// Names that are looked at, in all directories together.
const MAX_NAMES: usize = 64 << 10;
/// Bytes of a value that are looked at.
const MAX_VALUE: u64 = 16 << 10;

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Installed {
    pub(super) cpv: Cpv,
    /// SLOT without its subslot.
    pub(super) slot: String,
    /// USE, sorted.
    pub(super) flags: Vec<String>,
    /// BUILD_ID: it was installed from a binary package.
    pub(super) build_id: Option<u64>,
    pub(super) build_time: Option<u64>,
}

/// All packages that are installed below `root`.
///
/// # Errors
/// There is no such directory, or it cannot be read.
pub(super) fn read(root: &Path) -> io::Result<Vec<Installed>> {
    // The database itself may lie elsewhere.
    let base = rustix::fs::open(root.join(PATH), directory() - OFlags::NOFOLLOW, Mode::empty())?;
    let (mut found, mut names) = (Vec::new(), 0);
    for category in Dir::read_from(&base)? {
        let category = category?;
        let Some(below) = enter(&base, category.file_name(), category.file_type(), &mut names) else { continue };
        let Ok(packages) = Dir::read_from(&below) else { continue };
        for package in packages.flatten() {
            let Some(values) = enter(&below, package.file_name(), package.file_type(), &mut names) else { continue };
            found.extend(look(&values, category.file_name(), package.file_name()));
            if found.len() >= MAX_INSTALLED {
                return Ok(found);
            }
        }
    }
    Ok(found)
}

fn directory() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC
}

/// A directory in another. `None`: it is none, or not one of Portage's, or too much was looked at already.
fn enter(parent: &OwnedFd, name: &CStr, kind: FileType, names: &mut usize) -> Option<OwnedFd> {
    *names += 1;
    // Portage's own temporary ones begin with a minus.
    let usual = !name.to_bytes().starts_with(b".") && !name.to_bytes().starts_with(b"-");
    let may_be = matches!(kind, FileType::Directory | FileType::Unknown) && usual && *names <= MAX_NAMES;
    may_be.then(|| rustix::fs::openat(parent, name, directory(), Mode::empty()).ok()).flatten()
}

fn look(values: &OwnedFd, category: &CStr, pf: &CStr) -> Option<Installed> {
    let cpv = Cpv::parse(&format!("{}/{}", category.to_str().ok()?, pf.to_str().ok()?)).ok()?;
    let number = |name: &CStr| value(values, name)?.parse().ok();
    let slot = value(values, c"SLOT")?;
    let slot = slot.split('/').next().unwrap_or_default().to_owned();
    let flags = value(values, c"USE").unwrap_or_default();
    let mut flags: Vec<String> = flags.split_whitespace().map(str::to_owned).collect();
    flags.sort();
    Some(Installed { cpv, slot, flags, build_id: number(c"BUILD_ID"), build_time: number(c"BUILD_TIME") })
}

fn value(directory: &OwnedFd, name: &CStr) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    // A device may do something when it is opened.
    let place = rustix::fs::statat(directory, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).ok()?;
    FileType::from_raw_mode(place.st_mode).is_file().then_some(())?;
    let file = File::from(rustix::fs::openat(directory, name, flags, Mode::empty()).ok()?);
    let mut text = String::new();
    let plain = file.metadata().ok()?.is_file();
    plain.then(|| file.take(MAX_VALUE).read_to_string(&mut text).ok()).flatten()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::Command;
    use std::time::Instant;

    use tempfile::TempDir;

    fn install(root: &Path, cpv: &str, values: &[(&str, &str)]) {
        let directory = root.join(PATH).join(cpv);
        fs::create_dir_all(&directory).unwrap();
        for (name, value) in values {
            fs::write(directory.join(name), format!("{value}\n")).unwrap();
        }
    }

    fn names(root: &Path) -> Vec<String> {
        let mut names: Vec<String> = read(root).unwrap().iter().map(|package| package.cpv.to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_portage_has_written() {
        let root = TempDir::new().unwrap();
        assert!(read(root.path()).is_err());
        let values = [("SLOT", "0/1.2"), ("USE", "nls  amd64"), ("BUILD_ID", "3"), ("BUILD_TIME", "1700000000")];
        install(root.path(), "app-misc/hello-2.0-r1", &values);
        install(root.path(), "dev-lang/python-3.13.1", &[("SLOT", "3.13")]);
        let mut all = read(root.path()).unwrap();
        all.sort_by_key(|package| package.slot.clone());
        assert_eq!((all[0].cpv.as_str(), &*all[0].slot), ("app-misc/hello-2.0-r1", "0"));
        assert_eq!((all[0].build_id, all[0].build_time), (Some(3), Some(1_700_000_000)));
        assert_eq!(all[0].flags, ["amd64", "nls"]);
        assert_eq!((&*all[1].slot, all[1].build_id), ("3.13", None));
        // The database may lie elsewhere.
        let other = TempDir::new().unwrap();
        fs::create_dir_all(other.path().join("var/db")).unwrap();
        symlink(root.path().join(PATH), other.path().join(PATH)).unwrap();
        assert_eq!(names(other.path()).len(), 2);
    }

    #[test]
    fn traps_are_passed_over() {
        let root = TempDir::new().unwrap();
        let before = Instant::now();
        let base = root.path().join(PATH);
        install(root.path(), "a/good-1", &[("SLOT", "0")]);
        for name in ["a/nonsense", "a/-MERGING-x-1", "-x/y-1", ".z/y-1", "a/no-slot-1"] {
            install(root.path(), name, &[("SLOT", "0")]);
        }
        fs::remove_file(base.join("a/no-slot-1/SLOT")).unwrap();
        let elsewhere = TempDir::new().unwrap();
        install(elsewhere.path(), "l/linked-1", &[("SLOT", "0")]);
        symlink(elsewhere.path().join(PATH).join("l"), base.join("l")).unwrap();
        symlink(elsewhere.path().join(PATH).join("l/linked-1"), base.join("a/linked-1")).unwrap();
        install(root.path(), "a/leads-out-1", &[]);
        symlink("/etc/hostname", base.join("a/leads-out-1/SLOT")).unwrap();
        for (name, trap) in [("a/pipe-1", "SLOT"), ("a/file-1", "USE")] {
            install(root.path(), name, &[]);
            assert!(Command::new("mkfifo").arg(base.join(name).join(trap)).status().unwrap().success());
        }
        fs::write(base.join("a/file-1/SLOT"), "0").unwrap();
        install(root.path(), "a/large-1", &[("SLOT", "0")]);
        File::create(base.join("a/large-1/USE")).unwrap().set_len(1 << 40).unwrap();
        assert!(Command::new("mkfifo").arg(base.join("pipe")).status().unwrap().success());
        assert_eq!(names(root.path()), ["a/file-1", "a/good-1", "a/large-1"]);
        assert!(before.elapsed().as_secs() < 10);
        fs::remove_dir_all(&base).unwrap();
        assert!(Command::new("mkfifo").arg(&base).status().unwrap().success());
        assert!(read(root.path()).is_err());
    }

    #[test]
    fn only_so_many_are_looked_at() {
        let root = TempDir::new().unwrap();
        let base = root.path().join(PATH);
        for category in 0..9 {
            let below = base.join(format!("c{category}"));
            fs::create_dir_all(&below).unwrap();
            (0..8_000).for_each(|number| fs::create_dir(below.join(format!("p{number}-1"))).unwrap());
        }
        install(root.path(), "good/one-1", &[("SLOT", "0")]);
        assert!(read(root.path()).unwrap().len() <= 1);
    }
}
