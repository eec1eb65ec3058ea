//! Classifies a package that cannot be fetched: which check failed, and what the administrator can
//! do about it.

use super::FetchError;
use crate::cache::CacheError;
use crate::metrics::RefusalKind;
use crate::verify::VerifyError;

/// The kind of difference between the bytes and the package. `None`: the error is not such a
/// difference.
pub(super) fn kind(error: &VerifyError) -> Option<RefusalKind> {
    Some(match error {
        VerifyError::Io { .. } | VerifyError::Refused => return None,
        VerifyError::Truncated { .. } | VerifyError::TooLong { .. } => RefusalKind::Size,
        VerifyError::Digest { .. } => RefusalKind::Digest,
        VerifyError::Gpkg(_) | VerifyError::Xpak(_) => RefusalKind::Container,
        VerifyError::Signature { .. } | VerifyError::Unsignable => RefusalKind::Signature,
        VerifyError::Metadata(_) | VerifyError::Compression { .. } | VerifyError::Uncompressed => RefusalKind::Metadata,
        VerifyError::Identity { .. } => RefusalKind::Identity,
    })
}

impl FetchError {
    /// A remedy for the administrator, or the next step that happens without one.
    #[must_use]
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::Index(_) => "check the cache's disk; `binhostfs refresh` gets the index again",
            // The error message names the key and says what to do with it.
            Self::Refused { reason: VerifyError::Signature { .. } | VerifyError::Unsignable, .. } => {
                "it is left out of Packages, and emerge builds it from source, until the keyring or the binhost changes"
            }
            Self::Refused { reason: VerifyError::Uncompressed, .. } => {
                "it is left out of Packages, and emerge builds it from source, until make.conf or the binhost changes"
            }
            Self::Refused { .. } => {
                "it is left out of Packages, and emerge builds it from source, until the binhost changes it; if that does \
                 not happen, tell whoever runs the binhost"
            }
            Self::IndexMismatch(_) => {
                "it is the index that is wrong: with index-mismatch = \"refuse\" the package is left out of Packages until the index \
                 says the same; tell whoever runs the binhost or its mirror"
            }
            Self::Plan { .. } => "that entry is left out of Packages; run emerge again",
            Self::Upstream(error) if error.contradicts_index() => {
                "it is left out of Packages, and emerge builds it from source, until the binhost has it again"
            }
            Self::Upstream(_) => "the next open tries again; `binhostfs status` says how each URL does",
            Self::Clock(_) => "the next open after that tries again",
            Self::Cache(CacheError::NoSpace { .. }) => "free space on the cache's disk, or lower --cache-size",
            Self::Cache(_) | Self::Disk(_) => "check the cache's disk",
            Self::Busy => "the next open tries again; open fewer packages at the same time",
            Self::Unkept(_) | Self::GaveWay => "it is fetched when it is opened",
            Self::BulkRead => "the log says who it was; bulk-read-limit sets how many packages may be opened",
            Self::KeysChanged | Self::Stopped => "the next open tries again",
        }
    }
}
