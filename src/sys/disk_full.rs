//! Errors of a disk without space.

use std::error::Error;
use std::io;

/// Whether an error, or one that it has as its source, means that the disk is full.
pub(crate) fn is_full_disk(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref().is_some_and(is_full) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether the error means no space left, quota, or larger than the file system can hold.
#[must_use]
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("writing: {0}")]
    struct WriteError(#[from] io::Error);

    #[test]
    fn a_cause_counts_as_the_error_itself() {
        let of = |errno| io::Error::from_raw_os_error(errno);
        for (errno, full) in [(libc::ENOSPC, true), (libc::EDQUOT, true), (libc::EIO, false)] {
            assert_eq!((is_full_disk(&of(errno)), is_full_disk(&WriteError(of(errno)))), (full, full));
        }
    }
}
