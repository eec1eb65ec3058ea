//! How downloads and comparisons end, as far as it decides which entries are visible.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::error::FetchError;
use super::remote_binhost::PackageRef;
use crate::index::{AuxDigest, BinhostId, EntryId, IndexMismatch};

/// Download outcomes that wait in the channel. More are dropped: the next download of the same
/// package sends them again.
pub(crate) const MAX_OUTCOMES: usize = 256;

/// How a download ended, sent to the daemon, which decides which entries are visible.
#[derive(Debug)]
pub(crate) struct DownloadOutcome {
    /// The binhost of the package.
    pub binhost: BinhostId,
    pub id: EntryId,
    /// The PATH of the package at its binhost.
    pub path: String,
    /// URI of the index header that the entry belongs to.
    pub uri: Option<String>,
    pub kind: OutcomeKind,
}

/// The kinds of a [`DownloadOutcome`].
#[derive(Debug)]
pub(crate) enum OutcomeKind {
    Verified,
    /// The package stays refused as long as the binhost serves the same bytes.
    Refused(Arc<FetchError>),
    /// The package is the right one, but its entry contradicts it.
    IndexMismatch(Mismatch),
    /// No mirror sent the package.
    Unreachable,
}

/// An entry that contradicts its package.
#[derive(Debug, Clone)]
pub(crate) struct Mismatch {
    pub id: EntryId,
    /// PATH of the entry at the binhost.
    pub path: String,
    /// The digest of the entry's values. Another index may have other values for the same package.
    pub entry: AuxDigest,
    /// The keys that differ, as an error.
    pub error: Arc<FetchError>,
}

impl Mismatch {
    /// A mismatch of an entry whose digest is `entry`, with the differences `found`.
    pub(super) fn new(wanted: &PackageRef, entry: AuxDigest, found: Vec<IndexMismatch>) -> Self {
        let (id, path) = (wanted.record().id, wanted.own_path().to_owned());
        Self { id, path, entry, error: Arc::new(FetchError::IndexMismatch(found)) }
    }
}

/// Sends download outcomes to the daemon.
#[derive(Debug, Clone)]
pub(super) struct OutcomeSender(mpsc::Sender<DownloadOutcome>);

impl OutcomeSender {
    /// A sender, and the channel of its outcomes.
    pub(super) fn new() -> (Self, mpsc::Receiver<DownloadOutcome>) {
        let (sender, receiver) = mpsc::channel(MAX_OUTCOMES);
        (Self(sender), receiver)
    }

    /// Sends how a download or a comparison with the index ended.
    pub(super) fn send(&self, wanted: &PackageRef, kind: OutcomeKind) {
        let ((binhost, id), path, uri) = (wanted.key(), wanted.own_path().to_owned(), wanted.uri().map(str::to_owned));
        if self.0.try_send(DownloadOutcome { binhost, id, path, uri, kind }).is_err() {
            tracing::debug!(path = wanted.path(), "too many outcomes at once; this one is dropped");
        }
    }
}
