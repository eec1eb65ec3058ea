//! Names in the lower directory that are binhostfs's own.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::Ordering;

use portable_atomic::AtomicU64;

use super::INDEX;
use crate::index::{TEMPORARY_COPY, TEMPORARY_INDEX};

/// The file name of the compressed index in PKGDIR.
pub(crate) const COMPRESSED: &str = "Packages.gz";
/// The temporary name of either index while it is written. The mount never shows it.
pub(super) const NEW: &str = TEMPORARY_INDEX;

/// Whether `path` is an index or a temporary file of this module. The mount does not show these
/// files as they are.
#[must_use]
pub(crate) fn is_own(path: &Path) -> bool {
    is_new_copy(path) || [INDEX, COMPRESSED, NEW].iter().any(|name| path.as_os_str().as_bytes() == name.as_bytes())
}

pub(super) fn is_new_copy(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().starts_with(TEMPORARY_COPY.as_bytes()))
}

/// A new temporary name for a copy. The process id and a counter make it unique, also beside a
/// daemon that is being replaced.
pub(super) fn new_name() -> String {
    static MADE: AtomicU64 = AtomicU64::new(0);
    format!("{TEMPORARY_COPY}{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed))
}
