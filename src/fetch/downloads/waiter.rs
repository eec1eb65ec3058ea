//! Who waits for a download.

use std::sync::Arc;

use tokio::sync::watch;

use super::Priority;
use super::download::{Download, Phase};
use super::listed::ListedDownload;
use crate::cache::Blob;
use crate::fetch::{FetchError, Outcome};

/// Somebody who waits, until this is dropped.
#[derive(Debug)]
pub(in crate::fetch) struct Waiter {
    /// In this order: who looks whether anybody waits does so once nobody watches.
    part: Option<Participation>,
    watcher: Watcher,
}

/// A part in a download.
#[derive(Debug)]
struct Participation {
    listed: ListedDownload,
    priority: Priority,
}

/// Sees how far a download is, and does not keep it going.
#[derive(Debug, Clone)]
pub(in crate::fetch) struct Watcher {
    phase: watch::Receiver<Phase>,
}

impl Waiter {
    /// To be called while the table is locked.
    pub(super) fn new(listed: ListedDownload, priority: Priority) -> Self {
        let phase = listed.download.phase();
        Self { part: Some(Participation { listed, priority }), watcher: Watcher { phase } }
    }

    /// For what is here already.
    pub(super) fn of(body: Blob) -> Self {
        let phase = watch::channel(Phase { begun: true, outcome: Some(Ok(body)), ended: true }).1;
        Self { part: None, watcher: Watcher { phase } }
    }

    /// The package as soon as it is proved, or why it cannot be had.
    pub(in crate::fetch) async fn outcome(mut self) -> Outcome {
        self.watcher.once(|phase| phase.outcome.is_some()).await
    }

    /// How it ended, once what it brought is kept or not.
    pub(in crate::fetch) async fn end(&mut self) -> Outcome {
        self.watcher.end().await
    }

    pub(in crate::fetch) fn watcher(&self) -> &Watcher {
        &self.watcher
    }

    /// The download; `None`: it was here already.
    pub(in crate::fetch) fn download(&self) -> Option<&Arc<Download>> {
        self.part.as_ref().map(|part| &part.listed.download)
    }
}

impl Watcher {
    /// Waits until the download has had a turn, or is over. `false`: it is over without one.
    pub(in crate::fetch) async fn begun(&mut self) -> bool {
        // Without a sender it is over.
        drop(self.phase.wait_for(|phase| phase.begun || phase.ended).await);
        self.has_begun()
    }

    /// Whether the download has had a turn.
    pub(in crate::fetch) fn has_begun(&self) -> bool {
        self.phase.borrow().begun
    }

    /// Whether it is over.
    pub(in crate::fetch) fn has_ended(&self) -> bool {
        self.phase.borrow().ended
    }

    /// How it ended, once what it brought is kept or not.
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
