//! The way to a package for other machines: what they may have, and how far it is.
//!
//! Other machines share downloads with this one. They have limits of their own (`serve`), so the
//! bulk-read limit does not count them.
//!
//! Not its job: HTTP, and which machines are answered (`serve`).

use std::sync::Arc;

use super::blobs::Blobs;
use super::downloads::{Downloads, TransferState, Uid};
use super::error::Outcome;
use super::remote_binhost::{PackageRef, RemoteBinhosts};
use crate::cache::Blob;
use crate::index::{BinhostId, ShareKey};
use crate::metrics::Metrics;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct MachineFetcher {
    pub(super) binhosts: Arc<RemoteBinhosts>,
    pub(super) blobs: Arc<Blobs>,
    pub(super) downloads: Arc<Downloads>,
    pub(super) metrics: Arc<Metrics>,
}

impl MachineFetcher {
    /// Returns the blob, and fetches the package if it is not cached. `client` stands for the
    /// machine. Dropping the future only gives up waiting.
    ///
    /// # Errors
    /// The package cannot be fetched. All waiters get the same reason.
    pub(crate) async fn open(&self, wanted: PackageRef, client: Uid) -> Outcome {
        self.downloads.open(&wanted, client, None).await
    }

    /// The cached blob of a key that a machine sends, whatever the index says now. `None`: it is
    /// not cached, or its binhost does not share its packages or is no longer used.
    #[must_use]
    pub(crate) fn cached(&self, key: &ShareKey) -> Option<Blob> {
        self.blobs.cache().shared(key, |tag| self.binhosts.shares(tag))
    }

    /// Whether the packages of a binhost may be served.
    #[must_use]
    pub(crate) fn is_shared(&self, id: BinhostId) -> bool {
        self.binhosts.get(id).is_some_and(|binhost| binhost.is_shared())
    }

    /// A text that changes as long as the download of a package makes progress. While the download
    /// waits for its turn, the progress of all others counts.
    #[must_use]
    pub(crate) fn progress_of(&self, wanted: &PackageRef) -> String {
        let of_package = self.downloads.progress().into_iter().find(|progress| progress.path == wanted.path());
        match of_package.filter(|progress| progress.state != TransferState::Waiting) {
            Some(progress) => format!("own-{}", progress.received),
            None => format!("all-{}", self.metrics.bytes_fetched.get()),
        }
    }
}
