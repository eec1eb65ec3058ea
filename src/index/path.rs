//! PATH: the location of a package, relative to the binhost and to PKGDIR.
//!
//! Portage follows an absolute PATH out of PKGDIR, so only plain relative paths are accepted.

use std::fmt;

/// The longest PATH, and the longest part of one, in bytes.
const MAX_PATH: usize = 1024;
const MAX_PART: usize = 255;
/// The deepest PATH, in parts.
const MAX_DEPTH: usize = 16;
/// Temporary name of an index in PKGDIR while binhostfs writes it.
pub(crate) const TEMPORARY_INDEX: &str = ".Packages.binhostfs-new";
/// Prefix of the temporary names of packages that binhostfs copies into PKGDIR.
pub(crate) const TEMPORARY_COPY: &str = ".binhostfs-new-";
/// Suffix of the names of packages in PKGDIR that binhostfs holds back. Portage takes no such name
/// for a package.
pub(crate) const HELD: &str = ".binhostfs-held";

/// A relative path without empty, `.` or `..` parts and without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PkgPath(Box<str>);

/// Why a PATH is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The path starts with `/`.
    #[error("the PATH is absolute")]
    Absolute,
    /// The path is empty, or has an empty, `.` or `..` part, or a control character.
    #[error("the PATH is not a plain relative path")]
    NotPlain,
    /// The path or one of its parts is too long, or the path is too deep.
    #[error("the PATH is too long")]
    TooLong,
    /// The first part is a name that Portage reserves in PKGDIR, or a part is a temporary name of
    /// binhostfs's own.
    #[error("the PATH is a name with a meaning of its own")]
    Reserved,
}

impl PkgPath {
    /// Parses and checks `text`.
    ///
    /// # Errors
    /// See [`PathError`].
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.starts_with('/') {
            return Err(PathError::Absolute);
        }
        let parts = || text.split('/');
        if text.len() > MAX_PATH || parts().count() > MAX_DEPTH || parts().any(|part| part.len() > MAX_PART) {
            return Err(PathError::TooLong);
        }
        if parts().any(|part| matches!(part, "" | "." | "..")) || text.chars().any(char::is_control) {
            return Err(PathError::NotPlain);
        }
        // Portage gives these names a meaning of its own at the top of PKGDIR.
        if parts().next().is_some_and(|first| matches!(first, "Packages" | "Packages.gz" | "All" | TEMPORARY_INDEX)) {
            return Err(PathError::Reserved);
        }
        // The mount never shows these names.
        if parts().any(|part| part.starts_with(TEMPORARY_COPY) || part.ends_with(HELD)) {
            return Err(PathError::Reserved);
        }
        Ok(Self(text.into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PkgPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_pass() {
        for good in ["app-misc/hello/hello-1-1.gpkg.tar", "a.tbz2", "x/..y/z", "a/Packages", "dev-db/mysql++-1.tbz2"] {
            assert_eq!(PkgPath::parse(good).unwrap().as_str(), good);
        }
        let deep = "a/".repeat(16) + "b";
        let long = "a".repeat(256);
        for (bad, why) in [
            ("/etc/shadow", PathError::Absolute),
            ("", PathError::NotPlain),
            ("../x", PathError::NotPlain),
            ("a/../b", PathError::NotPlain),
            ("a//b", PathError::NotPlain),
            ("a/", PathError::NotPlain),
            ("./a", PathError::NotPlain),
            ("a\u{1}b", PathError::NotPlain),
            ("a\u{85}b", PathError::NotPlain),
            ("Packages", PathError::Reserved),
            ("Packages.gz", PathError::Reserved),
            ("Packages/x.gpkg.tar", PathError::Reserved),
            (".Packages.binhostfs-new", PathError::Reserved),
            ("a/.binhostfs-new-1-1", PathError::Reserved),
            (".binhostfs-new-x/a.xpak", PathError::Reserved),
            ("a/b.xpak.binhostfs-held", PathError::Reserved),
            (&deep, PathError::TooLong),
            (&long, PathError::TooLong),
        ] {
            assert_eq!(PkgPath::parse(bad), Err(why), "{bad}");
        }
    }
}
