//! The files that binhostfs writes below a directory like /etc/portage, and nothing else there.
//!
//! Portage reads every file in `package.use` and `package.mask` whose name does not start with a
//! dot. A new file is therefore written under a name with a dot, made durable and renamed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::lines::{Lines, OwnLines};
use crate::sys::durable::sync_directory;

/// Name of the files. It sorts behind others, because of several lines the last one counts.
pub(crate) const FILE: &str = "zz-binhostfs";
const PACKAGE_USE: &str = "package.use";
const PACKAGE_MASK: &str = "package.mask";

/// Why the files cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnFileError {
    /// A directory of files is needed.
    #[error(
        "{0} is a file, and binhostfs only writes a file of its own: make it a directory with \
         `mv {0} {0}.old && mkdir {0} && mv {0}.old {0}/own`; nothing was changed"
    )]
    NoDirectory(PathBuf),
    #[error("{0} was not written by binhostfs: move it away; nothing was changed")]
    Foreign(PathBuf),
    #[error("{0} is no directory; give that of Portage's configuration, e.g. /etc/portage")]
    NoConfiguration(PathBuf),
    #[error("{what} {path}: {error}")]
    Io { what: &'static str, path: PathBuf, error: String },
}

impl OwnFileError {
    fn io<E: std::fmt::Display>(what: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { what, path, error: error.to_string() }
    }
}

/// The files below one directory.
#[derive(Debug, Clone)]
pub(crate) struct OwnFiles {
    directory: PathBuf,
}

impl OwnFiles {
    pub(crate) fn below(directory: &Path) -> Self {
        Self { directory: std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned()) }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reads the present lines; there are none where the files do not exist.
    pub(crate) fn read(&self) -> Result<OwnLines, OwnFileError> {
        Ok(OwnLines { package_use: self.read_one(PACKAGE_USE)?, package_mask: self.read_one(PACKAGE_MASK)? })
    }

    fn read_one(&self, parent: &str) -> Result<Lines, OwnFileError> {
        let path = self.directory.join(parent).join(FILE);
        match fs::read_to_string(&path) {
            Ok(text) => Lines::parse(&text).ok_or(OwnFileError::Foreign(path)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(Lines::default())
            }
            Err(error) => Err(OwnFileError::io("reading", &path)(error)),
        }
    }

    /// The texts of the files with `lines`, by their path below the directory. `None`: there is no
    /// file.
    pub(crate) fn texts(&self, lines: &OwnLines) -> BTreeMap<String, Option<String>> {
        let directory = self.directory.display().to_string();
        let text = |lines: &Lines| (!lines.is_empty()).then(|| lines.render(&directory));
        let both = [(PACKAGE_USE, &lines.package_use), (PACKAGE_MASK, &lines.package_mask)];
        both.into_iter().map(|(parent, lines)| (format!("{parent}/{FILE}"), text(lines))).collect()
    }

    /// Checks that the files can be written, without writing.
    pub(crate) fn check(&self) -> Result<(), OwnFileError> {
        if !self.directory.is_dir() {
            return Err(OwnFileError::NoConfiguration(self.directory.clone()));
        }
        self.read()?;
        for parent in [PACKAGE_USE, PACKAGE_MASK] {
            let parent = self.directory.join(parent);
            if fs::symlink_metadata(&parent).is_ok() && !parent.is_dir() {
                return Err(OwnFileError::NoDirectory(parent));
            }
        }
        Ok(())
    }

    /// Makes the files contain `lines`. A file without lines is removed. Returns whether anything
    /// has changed.
    pub(crate) fn write(&self, lines: &OwnLines) -> Result<bool, OwnFileError> {
        self.check()?;
        let uses = self.write_one(PACKAGE_USE, &lines.package_use)?;
        Ok(self.write_one(PACKAGE_MASK, &lines.package_mask)? || uses)
    }

    fn write_one(&self, parent: &str, lines: &Lines) -> Result<bool, OwnFileError> {
        let before = self.read_one(parent)?;
        if lines.is_empty() {
            return self.remove_one(parent);
        }
        let parent = self.directory.join(parent);
        let made = !parent.is_dir();
        let mut lines = lines.clone();
        lines.made_directory = before.made_directory || made;
        if lines == before {
            return Ok(false);
        }
        if made {
            fs::create_dir(&parent).map_err(OwnFileError::io("making", &parent))?;
        }
        replace(&parent.join(FILE), &lines.render(&self.directory.display().to_string()))?;
        Ok(true)
    }

    /// Removes the files, and the directories that were made with them if they are empty. Returns
    /// what was removed.
    pub(crate) fn undo(&self) -> Result<Vec<PathBuf>, OwnFileError> {
        self.read()?;
        let mut removed = Vec::new();
        for parent in [PACKAGE_USE, PACKAGE_MASK] {
            if self.remove_one(parent)? {
                removed.push(self.directory.join(parent).join(FILE));
            }
        }
        Ok(removed)
    }

    fn remove_one(&self, parent: &str) -> Result<bool, OwnFileError> {
        let before = self.read_one(parent)?;
        let parent = self.directory.join(parent);
        let path = parent.join(FILE);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(false);
            }
            Err(error) => return Err(OwnFileError::io("removing", &path)(error)),
        }
        if before.made_directory {
            // Fails where others have written files there, which stay.
            let _ = fs::remove_dir(&parent);
        }
        Ok(true)
    }
}

/// Replaces a file at once, or leaves it as it was.
fn replace(path: &Path, text: &str) -> Result<(), OwnFileError> {
    let new = path.with_file_name(format!(".{FILE}.new"));
    let write = || -> io::Result<()> {
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    if let Err(error) = write() {
        // It may not exist.
        let _ = fs::remove_file(&new);
        return Err(OwnFileError::io("writing", path)(error));
    }
    path.parent().map_or(Ok(()), sync_directory).map_err(OwnFileError::io("writing", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(uses: &[&str], masks: &[&str]) -> OwnLines {
        let mut own = OwnLines::default();
        uses.iter().for_each(|line| own.package_use.insert(line));
        masks.iter().for_each(|line| own.package_mask.insert(line));
        own
    }

    fn listed(directory: &Path) -> Vec<String> {
        let mut names = Vec::new();
        for parent in fs::read_dir(directory).unwrap() {
            let parent = parent.unwrap().path();
            names.push(parent.display().to_string());
            names.extend(
                fs::read_dir(parent).into_iter().flatten().map(|entry| entry.unwrap().path().display().to_string()),
            );
        }
        names.sort();
        names
    }

    #[test]
    fn undo_leaves_what_was_there() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join(PACKAGE_USE)).unwrap();
        fs::write(place.path().join("package.use/own"), "a/x nls\n").unwrap();
        let (before, files) = (listed(place.path()), OwnFiles::below(place.path()));
        let wanted = lines(&["=a/x-1 -nls"], &[">a/y-1:0"]);
        assert!(files.write(&wanted).unwrap());
        assert!(!files.write(&wanted).unwrap(), "the second time nothing changes");
        assert_eq!(files.read().unwrap().package_use, wanted.package_use);
        assert_eq!(listed(place.path()).len(), before.len() + 3);
        assert!(files.write(&lines(&["=a/x-1 -nls"], &[])).unwrap());
        assert!(!place.path().join(PACKAGE_MASK).exists());
        assert_eq!(files.undo().unwrap(), [place.path().join("package.use/zz-binhostfs")]);
        assert_eq!(listed(place.path()), before);
        assert!(files.undo().unwrap().is_empty());
    }

    #[test]
    fn what_is_not_ours_stays() {
        let place = tempfile::tempdir().unwrap();
        let (own, files) = (place.path().join(PACKAGE_USE), OwnFiles::below(place.path()));
        fs::write(&own, "a/x nls\n").unwrap();
        let error = files.write(&lines(&["=a/x-1 -nls"], &[])).unwrap_err().to_string();
        assert!(error.contains("is a file") && error.contains("mkdir"), "{error}");
        assert_eq!(fs::read_to_string(&own).unwrap(), "a/x nls\n");
        fs::remove_file(&own).unwrap();
        fs::create_dir(&own).unwrap();
        fs::write(own.join(FILE), "a/x nls\n").unwrap();
        assert!(matches!(files.write(&lines(&["=a/x-1 -nls"], &[])), Err(OwnFileError::Foreign(_))));
        assert!(matches!(files.undo(), Err(OwnFileError::Foreign(_))));
        assert_eq!(fs::read_to_string(own.join(FILE)).unwrap(), "a/x nls\n");
        let nowhere = OwnFiles::below(&place.path().join("nowhere"));
        assert!(matches!(nowhere.check(), Err(OwnFileError::NoConfiguration(_))));
    }
}
