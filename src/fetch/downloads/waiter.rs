//! The waiters of a download.

use std::sync::Arc;

use tokio::sync::watch;

use super::Priority;
use super::download::{Download, Phase};
use super::listed::ListedDownload;
use crate::fetch::error::{FetchError, Outcome};

/// A share in a download. Dropping it leaves the download.
#[derive(Debug)]
pub(in crate::fetch) struct Waiter {
    /// The order of the fields matters: `part` is dropped first. The download's task looks for
    /// waiters in the table when the last watcher is gone, and must not find this one.
    part: Participation,
    watcher: Watcher,
}

/// An entry among the waiters of a listed download.
#[derive(Debug)]
struct Participation {
    listed: ListedDownload,
    priority: Priority,
}

/// Observes the progress of a download, and is no waiter in the table. A live download notices that
/// its last waiter has left only when all watchers are gone, too.
#[derive(Debug, Clone)]
pub(in crate::fetch) struct Watcher {
    phase: watch::Receiver<Phase>,
}

impl Waiter {
    /// Must be called while the table is locked.
    pub(super) fn new(listed: ListedDownload, priority: Priority) -> Self {
        let phase = listed.download.phase();
        Self { part: Participation { listed, priority }, watcher: Watcher { phase } }
    }

    /// The blob as soon as it is proved, or the reason why it cannot be fetched.
    pub(in crate::fetch) async fn outcome(mut self) -> Outcome {
        self.watcher.once(|phase| phase.outcome.is_some()).await
    }

    /// The outcome, after the commit to the cache has succeeded or failed.
    pub(in crate::fetch) async fn end(&mut self) -> Outcome {
        self.watcher.end().await
    }

    pub(in crate::fetch) fn watcher(&self) -> &Watcher {
        &self.watcher
    }

    pub(in crate::fetch) fn download(&self) -> &Arc<Download> {
        &self.part.listed.download
    }
}

impl Watcher {
    /// Waits until the download has had a turn, or has ended. `false`: it ended without a turn.
    pub(in crate::fetch) async fn begun(&mut self) -> bool {
        // An error means that the sender is gone, and that the download has ended.
        drop(self.phase.wait_for(|phase| phase.begun || phase.ended).await);
        self.has_begun()
    }

    /// Whether the download has had a turn.
    pub(in crate::fetch) fn has_begun(&self) -> bool {
        self.phase.borrow().begun
    }

    /// Whether the download has ended.
    pub(in crate::fetch) fn has_ended(&self) -> bool {
        self.phase.borrow().ended
    }

    /// The outcome, after the commit to the cache has succeeded or failed.
    pub(in crate::fetch) async fn end(&mut self) -> Outcome {
        self.once(|phase| phase.ended).await
    }

    async fn once(&mut self, is: impl FnMut(&Phase) -> bool) -> Outcome {
        let outcome = self.phase.wait_for(is).await.ok().and_then(|phase| phase.outcome.clone());
        outcome.unwrap_or_else(|| Err(Arc::new(FetchError::Stopped)))
    }
}

impl Drop for Participation {
    fn drop(&mut self) {
        self.listed.leave(self.priority);
    }
}
