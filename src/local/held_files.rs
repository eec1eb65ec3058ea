//! Packages that are held back: files with another name, which the mount does not show.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::caller::Caller;
use super::lower::{Name, Walk};
use super::names::Replace;
use super::own_names::{held_path, released_path};
use super::{LowerDirectory, Stat};

/// The packages that are held back in the lower directory, by the paths that they have otherwise.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeldFiles<'a>(pub(super) &'a LowerDirectory);

impl HeldFiles<'_> {
    /// Gives the package `seen` the name of one that is held back.
    ///
    /// # Errors
    /// EROFS; ESTALE: the file is another one by now, or has changed; EEXIST, unless that name may
    /// be replaced. Or another error of renameat2(2).
    pub(crate) fn hold(self, path: &Path, seen: &Stat, replace: Replace) -> Result<(), Errno> {
        if self.0.is_read_only() {
            return Err(Errno::ROFS);
        }
        let _alone = self.0.names_move();
        let now = self.0.stat(path)?;
        if !now.is_file() || !now.is_of(seen) || (now.size, now.mtime) != (seen.size, seen.mtime) {
            return Err(Errno::STALE);
        }
        self.0.names().rename(Caller::DAEMON, now.number, path, &held_path(path), replace)
    }

    /// Gives a package its own name again.
    ///
    /// # Errors
    /// EROFS, EEXIST, or another error of renameat2(2).
    pub(crate) fn release(self, path: &Path) -> Result<(), Errno> {
        if self.0.is_read_only() {
            return Err(Errno::ROFS);
        }
        let _alone = self.0.names_move();
        let held = held_path(path);
        let stat = self.0.stat(&held)?;
        self.0.names().rename(Caller::DAEMON, stat.number, &held, path, Replace::No)
    }

    /// Opens a package for reading.
    ///
    /// # Errors
    /// Those of openat2(2).
    pub(crate) fn open(self, path: &Path) -> Result<File, Errno> {
        self.0.lower.read(&held_path(path))
    }

    /// Whether the package `path` is held back.
    #[must_use]
    pub(crate) fn has(self, path: &Path) -> bool {
        self.0.stat(&held_path(path)).is_ok_and(|stat| stat.is_file())
    }

    /// The paths of all packages, sorted.
    #[must_use]
    pub(crate) fn paths(self) -> Vec<PathBuf> {
        let mut held = Vec::new();
        // The log names a directory that cannot be listed.
        let _ = self.0.lower.walk(&mut |path, name| {
            held.extend(released_path(path).filter(|_| name.kind == FileType::RegularFile));
            Walk::Go
        });
        held.sort_unstable();
        held
    }

    /// Removes the packages of a directory where nothing else is, as the caller: the mount shows
    /// such a directory as empty. Returns the number of packages.
    ///
    /// # Errors
    /// Those of getdents(2) and unlinkat(2).
    pub(crate) fn remove_all(self, caller: Caller, directory: &Path) -> Result<usize, Errno> {
        let lower = &self.0.lower;
        let names = lower.list(directory)?;
        let is_held = |name: &Name| {
            let held = directory.join(&name.name);
            released_path(&held).is_some() && lower.stat(&held).is_ok_and(|stat| stat.is_file())
        };
        if names.is_empty() || !names.iter().all(is_held) {
            return Ok(0);
        }
        caller.act(|| {
            let directory = lower.directory(directory)?;
            names.iter().try_for_each(|held| rustix::fs::unlinkat(&directory, &held.name, AtFlags::empty()))
        })?;
        Ok(names.len())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const NAME: &str = "a.xpak";

    #[test]
    fn only_the_file_that_was_seen_is_held() {
        let place = tempfile::tempdir().unwrap();
        let layer = LowerDirectory::open(place.path(), false).unwrap();
        let (file, path) = (place.path().join(NAME), Path::new(NAME));
        let hold = |seen: &Stat, replace| layer.held().hold(path, seen, replace);
        fs::write(&file, "bytes").unwrap();
        let seen = layer.stat(path).unwrap();
        let (time, _) = seen.mtime;
        for (other, why) in [
            (Stat { generation: seen.generation.wrapping_sub(1), ..seen }, "another file with the number"),
            (Stat { size: 4, ..seen }, "another size"),
            (Stat { mtime: (time - 1, 0), ..seen }, "another time"),
        ] {
            assert_eq!(hold(&other, Replace::Yes), Err(Errno::STALE), "{why}");
        }
        hold(&seen, Replace::No).unwrap();
        assert!(layer.held().has(path) && !file.exists());
        // Another file comes under the name, and neither of the two is overwritten.
        fs::write(&file, "other").unwrap();
        let other = layer.stat(path).unwrap();
        assert_eq!(hold(&other, Replace::No), Err(Errno::EXIST));
        assert_eq!(layer.held().release(path), Err(Errno::EXIST));
        hold(&other, Replace::Yes).unwrap();
        layer.held().release(path).unwrap();
        assert_eq!((fs::read_to_string(&file).unwrap(), layer.held().has(path)), ("other".to_owned(), false));
        assert_eq!(layer.held().release(path), Err(Errno::NOENT));
        // A directory is no package.
        fs::create_dir(place.path().join("d")).unwrap();
        let directory = layer.stat(Path::new("d")).unwrap();
        assert_eq!(layer.held().hold(Path::new("d"), &directory, Replace::Yes), Err(Errno::STALE));
    }

    #[test]
    fn nothing_is_renamed_where_all_is_read_only() {
        let place = tempfile::tempdir().unwrap();
        let held = format!("{NAME}.binhostfs-held");
        fs::write(place.path().join(NAME), "bytes").unwrap();
        fs::write(place.path().join(&held), "held").unwrap();
        let layer = LowerDirectory::open(place.path(), true).unwrap();
        let seen = layer.stat(Path::new(NAME)).unwrap();
        assert_eq!(layer.held().hold(Path::new(NAME), &seen, Replace::Yes), Err(Errno::ROFS));
        assert_eq!(layer.held().release(Path::new(NAME)), Err(Errno::ROFS));
        let text = |name: &str| fs::read_to_string(place.path().join(name)).unwrap();
        assert_eq!((text(NAME), text(&held)), ("bytes".to_owned(), "held".to_owned()));
    }

    #[test]
    fn packages_are_removed_where_nothing_else_is() {
        let place = tempfile::tempdir().unwrap();
        let layer = LowerDirectory::open(place.path(), false).unwrap();
        for directory in ["held", "both", "empty"] {
            fs::create_dir(place.path().join(directory)).unwrap();
        }
        for file in ["held/a", "held/b", "both/a"] {
            fs::write(place.path().join(format!("{file}.xpak.binhostfs-held")), "").unwrap();
        }
        fs::write(place.path().join("both/note"), "").unwrap();
        let remove = |path: &str| layer.held().remove_all(Caller::DAEMON, Path::new(path));
        assert_eq!((remove("held"), remove("both"), remove("empty")), (Ok(2), Ok(0), Ok(0)));
        let listed = |path: &str| fs::read_dir(place.path().join(path)).unwrap().count();
        assert_eq!((listed("held"), listed("both")), (0, 2));
        assert_eq!(remove("none"), Err(Errno::NOENT));
    }
}
