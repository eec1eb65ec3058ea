//! Every error of an operation -> the errno that the caller sees. The only place where one is chosen.

use std::sync::Arc;

use crate::fetch::FetchError;

/// Why an operation fails.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FsError {
    /// No such name.
    #[error("no such file")]
    NotFound,
    /// An inode of a generation that is no longer held.
    #[error("the file is from a generation that is gone")]
    Stale,
    /// A directory operation on a file.
    #[error("not a directory")]
    NotADirectory,
    /// A file operation on a directory.
    #[error("is a directory")]
    IsADirectory,
    /// The mount is read-only.
    #[error("read-only file system")]
    ReadOnly,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// The caller's buffer is too small for an extended attribute.
    #[error("the buffer is too small")]
    TooSmall,
    /// The caller was interrupted, or is gone.
    #[error("interrupted")]
    Interrupted,
    /// A read of a file that is not open.
    #[error("not an open file")]
    NotOpen,
    /// Reading a cached body failed.
    #[error("reading the cache failed")]
    Read,
    /// The package cannot be had.
    #[error(transparent)]
    Fetch(#[from] Arc<FetchError>),
}

impl FsError {
    /// The errno, as in errno(3).
    #[must_use]
    pub fn errno(&self) -> i32 {
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
            Self::Fetch(error) => match **error {
                // Portage takes every one of these for "this package fails", and goes on with --keep-going.
                FetchError::Index(_)
                | FetchError::Upstream(_)
                | FetchError::Refused { .. }
                | FetchError::Store(_)
                | FetchError::Disk(_)
                | FetchError::Stopped => libc::EIO,
                FetchError::Busy => libc::EAGAIN,
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
            (fetch(FetchError::Stopped), libc::EIO),
            (fetch(FetchError::Disk(std::io::ErrorKind::StorageFull.into())), libc::EIO),
            (fetch(FetchError::Busy), libc::EAGAIN),
        ] {
            assert_eq!(error.errno(), errno, "{error}");
        }
    }
}
