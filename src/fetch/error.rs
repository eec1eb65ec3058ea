//! Why a package cannot be fetched: which check failed, and what the administrator can do about it.

use std::sync::Arc;

use crate::cache::{Blob, CacheError, Unkeepable};
use crate::index::IndexMismatch;
use crate::metrics::RefusalKind;
use crate::sys::WrongClock;
use crate::upstream::UpstreamError;
use crate::verify::VerifyError;

/// Differences of one entry that an error message names.
const MAX_LISTED: usize = 3;

/// The result of a download, for all waiters.
pub(crate) type Outcome = Result<Blob, Arc<FetchError>>;

/// The reason why a package cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The stored index cannot be read from the disk.
    #[error("reading the stored index: {0}")]
    Index(std::io::Error),
    /// The binhost does not deliver the package.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The binhost delivers something else than the package that its index names.
    #[error("refused: {reason} (from {url})")]
    Refused {
        /// The URL that the bytes came from.
        url: String,
        /// The check that failed.
        reason: VerifyError,
    },
    /// The package is the right one, but its index entry contradicts it.
    #[error("index mismatch: {}", listed(.0))]
    IndexMismatch(Vec<IndexMismatch>),
    /// The emerge plan that contains this package also contains a package whose entry is wrong.
    #[error("the plan of this emerge has {path} in it, and {reason}")]
    Plan {
        /// The path at which the wrong package is shown.
        path: String,
        /// The error of that package's check.
        reason: Arc<FetchError>,
    },
    /// Signatures cannot be judged now, because the system clock is wrong.
    #[error("its signature cannot be checked: {0}")]
    Clock(#[from] WrongClock),
    /// The cache cannot take the package.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The cache's disk failed during a write of the package.
    #[error("writing the download to the cache: {0}")]
    Disk(std::io::Error),
    /// Too many opens wait for downloads.
    #[error("too many opens wait for packages already, most of them of the same user")]
    Busy,
    /// The package was not opened by anybody, and the cache would not keep it.
    #[error(transparent)]
    Unkept(#[from] Unkeepable),
    /// An upgrade prefetch was stopped because another package is requested now.
    #[error("the download gave way to another one")]
    GaveWay,
    /// The reader is no emerge, and has already had as many packages fetched as the limit allows.
    #[error(
        "refused: too many packages that are not cached were opened by programs other than emerge (bulk-read-limit)"
    )]
    BulkRead,
    /// Nobody has opened the package, and the configuration has its binhost no longer.
    #[error("its binhost is not used any more")]
    NotUsed,
    /// The package was verified with other keys than those that may sign now.
    #[error("the keys that may sign have changed since it was verified")]
    KeysChanged,
    /// The daemon stops, or the download was stopped.
    #[error("the download was broken off")]
    Stopped,
}

impl FetchError {
    /// Whether the binhost's file contradicts the index or is missing at every URL: a retry would
    /// not help.
    #[must_use]
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::IndexMismatch(_) => true,
            Self::Upstream(error) => error.contradicts_index(),
            Self::Index(_)
            | Self::Plan { .. }
            | Self::Clock(_)
            | Self::Cache(_)
            | Self::Disk(_)
            | Self::Busy
            | Self::Unkept(_)
            | Self::GaveWay
            | Self::BulkRead
            | Self::NotUsed
            | Self::KeysChanged
            | Self::Stopped => false,
        }
    }

    /// Whether the same bytes may be accepted once the system clock shows another time.
    #[must_use]
    pub(crate) fn depends_on_clock(&self) -> bool {
        matches!(self, Self::Refused { reason, .. } if reason.depends_on_clock())
    }

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
                 not happen, tell the binhost's operator"
            }
            Self::IndexMismatch(_) => {
                "it is the index that is wrong: with index-mismatch = \"refuse\" the package is left out of Packages until the index \
                 says the same; tell the operator of the binhost or of its mirror"
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
            Self::NotUsed => "it is fetched when it is opened from a tree that still has it",
            Self::KeysChanged | Self::Stopped => "the next open tries again",
        }
    }
}

/// The first [`MAX_LISTED`] differences, and the number of the others.
fn listed(found: &[IndexMismatch]) -> String {
    let (shown, rest) = found.split_at(found.len().min(MAX_LISTED));
    let shown: Vec<String> = shown.iter().map(ToString::to_string).collect();
    let more = if rest.is_empty() { String::new() } else { format!("; {} more keys differ", rest.len()) };
    shown.join("; ") + &more
}

/// The kind of difference between the bytes and the package. `None`: the error is not such a
/// difference.
pub(super) fn refusal_kind(error: &VerifyError) -> Option<RefusalKind> {
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
