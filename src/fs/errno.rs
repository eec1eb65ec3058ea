//! Maps every error of an operation to the errno that the caller sees. No other module chooses an
//! errno.

use std::sync::Arc;

use crate::fetch::FetchError;
use crate::local::Errno;

/// Why an operation fails.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum FsError {
    /// The name does not exist.
    #[error("no such file")]
    NotFound,
    /// The inode belongs to a generation that is no longer in memory.
    #[error("the file is from a generation that is gone")]
    Stale,
    /// A directory operation was called on a file.
    #[error("not a directory")]
    NotADirectory,
    /// A file operation was called on a directory.
    #[error("is a directory")]
    IsADirectory,
    /// The mount is read-only.
    #[error("read-only file system")]
    ReadOnly,
    /// The extended attribute does not exist.
    #[error("no such attribute")]
    NoAttribute,
    /// The caller's buffer is too small for an extended attribute.
    #[error("the buffer is too small")]
    TooSmall,
    /// The caller was interrupted, or has exited.
    #[error("interrupted")]
    Interrupted,
    /// The file of a read is not open.
    #[error("not an open file")]
    NotOpen,
    /// Reading a cached blob failed.
    #[error("reading the cache failed")]
    Read,
    /// The caller's user has too many files open.
    #[error("too many open files of one user")]
    TooManyOpen,
    /// All users together have too many files open.
    #[error("too many open files")]
    TableFull,
    /// A system call on the lower directory failed.
    #[error("{0}")]
    System(#[from] Errno),
    /// The index can only be replaced, not changed in place.
    #[error("the index cannot be changed in place, only replaced")]
    Index,
    /// A binhost's package cannot be changed.
    #[error("a binhost's package cannot be changed")]
    Remote,
    /// The file cannot be renamed; the caller has to copy it.
    #[error("it cannot be renamed, only copied")]
    OtherFileSystem,
    /// The name exists already.
    #[error("it exists")]
    Exists,
    /// The directory is not empty.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The package cannot be fetched.
    #[error(transparent)]
    Fetch(#[from] Arc<FetchError>),
}

/// Uses the error's own errno, or EIO if it has none.
impl From<std::io::Error> for FsError {
    fn from(error: std::io::Error) -> Self {
        Self::System(Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }
}

impl FsError {
    /// The errno, as in errno(3).
    #[must_use]
    pub(crate) fn errno(&self) -> i32 {
        match self {
            Self::NotFound => libc::ENOENT,
            Self::Stale => libc::ESTALE,
            Self::NotADirectory => libc::ENOTDIR,
            Self::IsADirectory => libc::EISDIR,
            Self::ReadOnly => libc::EROFS,
            Self::NoAttribute => libc::ENODATA,
            Self::TooSmall => libc::ERANGE,
            Self::Interrupted => libc::EINTR,
            Self::NotOpen => libc::EBADF,
            Self::Read => libc::EIO,
            Self::TooManyOpen => libc::EMFILE,
            Self::TableFull => libc::ENFILE,
            Self::System(error) => error.raw_os_error(),
            Self::Index | Self::Remote => libc::EPERM,
            Self::OtherFileSystem => libc::EXDEV,
            Self::Exists => libc::EEXIST,
            Self::NotEmpty => libc::ENOTEMPTY,
            Self::Fetch(error) => match **error {
                // Portage treats each of these as "this package fails", and continues with
                // --keep-going.
                FetchError::Index(_)
                | FetchError::Upstream(_)
                | FetchError::Refused { .. }
                | FetchError::IndexMismatch(_)
                | FetchError::Plan { .. }
                | FetchError::Clock(_)
                | FetchError::Cache(_)
                | FetchError::Disk(_)
                | FetchError::Unkept(_)
                | FetchError::GaveWay
                | FetchError::NotUsed
                | FetchError::KeysChanged
                | FetchError::Stopped => libc::EIO,
                FetchError::Busy | FetchError::BulkRead => libc::EAGAIN,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_errno() {
        let fetch = |error| FsError::Fetch(Arc::new(error));
        for (error, errno) in [
            (FsError::NotFound, libc::ENOENT),
            (FsError::Stale, libc::ESTALE),
            (FsError::NotADirectory, libc::ENOTDIR),
            (FsError::IsADirectory, libc::EISDIR),
            (FsError::ReadOnly, libc::EROFS),
            (FsError::NoAttribute, libc::ENODATA),
            (FsError::TooSmall, libc::ERANGE),
            (FsError::Interrupted, libc::EINTR),
            (FsError::NotOpen, libc::EBADF),
            (FsError::Read, libc::EIO),
            (FsError::TooManyOpen, libc::EMFILE),
            (FsError::TableFull, libc::ENFILE),
            (FsError::System(Errno::DQUOT), libc::EDQUOT),
            (std::io::Error::from_raw_os_error(libc::ENOSPC).into(), libc::ENOSPC),
            (std::io::Error::other("x").into(), libc::EIO),
            (FsError::Index, libc::EPERM),
            (FsError::Remote, libc::EPERM),
            (FsError::OtherFileSystem, libc::EXDEV),
            (FsError::Exists, libc::EEXIST),
            (FsError::NotEmpty, libc::ENOTEMPTY),
            (fetch(FetchError::Stopped), libc::EIO),
            (fetch(FetchError::Disk(std::io::ErrorKind::StorageFull.into())), libc::EIO),
            (fetch(FetchError::Busy), libc::EAGAIN),
            (fetch(FetchError::BulkRead), libc::EAGAIN),
        ] {
            assert_eq!(error.errno(), errno, "{error}");
        }
    }
}
