//! A verified blob, and the results of the cache's operations.
//!
//! The URL that a blob came from is an extended attribute of its file: it costs no write of its own
//! and is removed with the file. Where the file system has no such attributes, only the URL is
//! missing.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::index::{AuxDigest, Sha256Digest};
use crate::verify::{Assurance, Verified};

/// Name of the extended attribute.
const SOURCE: &str = "user.binhostfs.source";
/// Longest value that is read, in bytes.
const MAX_SOURCE: usize = 2048;

/// Why the cache does not return the blob of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoBlob {
    /// It has no record of the entry.
    Unknown,
    /// It has one, and the proof is too weak, or the file is not the one of the record any more.
    Unfit,
}

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// An operation on a file or directory of the cache failed.
    #[error("{attempted} {path}: {source}", path = path.display())]
    Io {
        /// The operation, as a phrase before the path.
        attempted: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// Another daemon uses the directory.
    #[error("the cache directory {path} is in use by another binhostfs{pid}: each mount needs its own --cache-dir", path = path.display())]
    InUse {
        path: PathBuf,
        /// ` (pid N)`, or empty if the lock file contains no pid.
        pid: String,
    },
    /// The catalogue could not be opened even after it was recreated.
    #[error("the catalogue {path} cannot be opened: {reason}", path = path.display())]
    Catalogue {
        /// Directory of the sled database.
        path: PathBuf,
        reason: String,
    },
    /// Neither the disk nor memory has room for a package.
    #[error("no space for {size} bytes in {path}, and too large to be held in memory", path = path.display())]
    NoSpace {
        /// Size of the download in bytes.
        size: u64,
        path: PathBuf,
    },
}

impl CacheError {
    pub(crate) fn io(attempted: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { attempted, path, source }
    }
}

/// A verified blob, open for reading. It stays readable after its eviction.
#[derive(Debug, Clone)]
pub struct Blob {
    pub(super) file: Arc<File>,
    pub(super) size: u64,
    pub(super) digest: Sha256Digest,
    pub(super) values: AuxDigest,
    pub(super) assurance: Assurance,
}

impl Blob {
    pub(super) fn new(verified: Verified) -> Self {
        let (size, digest, assurance) = (verified.size(), verified.digest(), verified.assurance());
        let values = verified.aux_values().digest();
        Self { file: Arc::new(verified.into_file()), size, digest, values, assurance }
    }

    #[must_use]
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// SHA-256 of the whole blob.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// Digest of the metadata values in the package; an index entry must have the same values.
    #[must_use]
    pub fn aux_digest(&self) -> AuxDigest {
        self.values
    }

    /// How the blob was proved.
    #[must_use]
    pub fn assurance(&self) -> Assurance {
        self.assurance
    }

    /// Records the URL of its binhost that the blob was fetched from, without credentials.
    pub fn note_source(&self, url: &str) {
        let flags = rustix::fs::XattrFlags::empty();
        if let Err(error) = rustix::fs::fsetxattr(&*self.file, SOURCE, url.as_bytes(), flags) {
            tracing::debug!(error = %io::Error::from(error), "where a blob came from is not noted");
        }
    }
}

/// The URL that the blob at `path` was fetched from, where it is recorded.
pub(super) fn source_of(path: &Path) -> Option<String> {
    let mut value = vec![0; MAX_SOURCE];
    let length = rustix::fs::getxattr(path, SOURCE, &mut value).ok()?;
    value.truncate(length);
    String::from_utf8(value).ok().filter(|url| !url.chars().any(char::is_control))
}

/// A blob that `Cache::get` would most likely return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlobInfo {
    /// SHA-256 of the whole blob.
    pub digest: Sha256Digest,
    /// How the blob was proved.
    pub assurance: Assurance,
    /// Modification time of the file, which is when its last byte was written, in seconds since the
    /// epoch.
    pub since: u64,
}

/// How full the cache is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Bytes of blobs on disk.
    pub bytes: u64,
    /// Bytes of downloads in progress, and room for the bytes that they receive next.
    pub reserved: u64,
    /// Bytes that parked downloads have received; they are discarded when other data needs the
    /// room.
    pub parked: u64,
    /// Number of blobs, orphans included.
    pub blobs: u64,
    /// The bound in bytes.
    pub bound: u64,
}

/// Whether the cache kept a verified blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// The blob is in the cache: its bytes durably, its record soon.
    Kept,
    /// The blob is transient, for this reason.
    Unkept(String),
}

/// Blobs that a request removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    /// Number of removed blobs.
    pub blobs: u64,
    /// Bytes of these blobs.
    pub bytes: u64,
}
