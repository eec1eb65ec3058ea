//! A download's turn: what it may do, from the first one to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::REST_OF_LINE;
use super::lane::Lane;
use super::listed::ListedDownload;
use crate::fetch::{Fetcher, PackageRef};
use crate::upstream::Active;

/// What the task of a download holds. When it is dropped, the download is over and out of the table, whatever happened: a
/// panic leaves no waiters behind.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) listed: ListedDownload,
    pub(super) lane: Lane,
    /// It takes its part of the way to its binhost.
    active: Option<Active>,
    /// The table has given the download to this.
    held: bool,
}

impl Turn {
    pub(super) fn new(listed: ListedDownload, lane: Lane) -> Self {
        let active = (lane != Lane::Cache).then(|| listed.download.wanted.origin().upstream.begin());
        Self { listed, lane, active, held: true }
    }

    pub(super) fn fetcher(&self) -> &Arc<Fetcher> {
        &self.listed.fetcher
    }

    pub(super) fn wanted(&self) -> &PackageRef {
        &self.listed.download.wanted
    }

    /// Gives the turn back until bytes come.
    pub(super) fn park(&mut self) {
        self.active = None;
        self.listed.park();
    }

    /// Bytes have come: waits for a turn; for how long.
    pub(super) async fn resume(&mut self) -> Duration {
        let began = Instant::now();
        self.listed.resume().await;
        self.active = Some(self.wanted().origin().upstream.begin());
        began.elapsed()
    }

    /// So many bytes came in.
    pub(super) fn receive(&self, bytes: usize) {
        let (bytes, size) = (bytes as u64, self.wanted().record().size);
        let before = self.listed.download.receive(bytes);
        let is_rest = |received: u64| size.saturating_sub(received) < REST_OF_LINE;
        if !is_rest(before) && is_rest(before.saturating_add(bytes)) {
            // The next one may begin.
            self.listed.changed();
        }
    }

    /// The cache does not have it: it waits for a turn of its binhost.
    pub(super) fn change_lane(mut self) {
        let binhost = Lane::Binhost(self.wanted().key().0);
        self.held = !self.listed.change_lane(binhost);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.held {
            self.listed.finish();
        }
    }
}
