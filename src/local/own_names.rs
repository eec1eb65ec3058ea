//! Names in the lower directory that are binhostfs's own.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use portable_atomic::AtomicU64;

use super::INDEX;
use crate::index::{HELD, TEMPORARY_COPY, TEMPORARY_INDEX};

/// The file name of the compressed index in PKGDIR.
pub(crate) const COMPRESSED: &str = "Packages.gz";
/// The temporary name of either index while it is written. The mount never shows it.
pub(super) const NEW: &str = TEMPORARY_INDEX;

/// Whether `path` is an index, a temporary file of this module, or a package that is held back. The
/// mount does not show these files as they are.
#[must_use]
pub(crate) fn is_own(path: &Path) -> bool {
    is_new_copy(path)
        || is_held(path)
        || [INDEX, COMPRESSED, NEW].iter().any(|name| path.as_os_str().as_bytes() == name.as_bytes())
}

pub(super) fn is_new_copy(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().starts_with(TEMPORARY_COPY.as_bytes()))
}

fn is_held(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().ends_with(HELD.as_bytes()))
}

/// The path of the package `path` while it is held back.
pub(super) fn held_path(path: &Path) -> PathBuf {
    let mut held = path.as_os_str().to_owned();
    held.push(HELD);
    held.into()
}

/// The path that a package has when it is not held back, from the path that it has while it is.
pub(super) fn released_path(held: &Path) -> Option<PathBuf> {
    let path = held.as_os_str().as_bytes().strip_suffix(HELD.as_bytes())?;
    let has_name = path.last().is_some_and(|last| *last != b'/');
    has_name.then(|| PathBuf::from(OsStr::from_bytes(path)))
}

/// A new temporary name for a copy. The process id and a counter make it unique, also beside a
/// daemon that is being replaced.
pub(super) fn new_name() -> String {
    static MADE: AtomicU64 = AtomicU64::new(0);
    format!("{TEMPORARY_COPY}{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed))
}
