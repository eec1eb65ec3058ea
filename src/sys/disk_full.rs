//! Errors of a disk without space.

use std::io;

/// Whether the error means no space left, quota, or larger than the file system can hold.
#[must_use]
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
