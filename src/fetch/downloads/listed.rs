//! A handle to a download in the table.

use std::sync::Arc;

use super::download::Download;
use super::lane::{Lane, Number};
use super::table::{DownloadTable, OnLeave};
use super::{Downloads, Priority};
use crate::fetch::remote_binhost::PackageKey;

/// One numbered download. Methods have no effect on the table once the download has left it.
#[derive(Debug, Clone)]
pub(super) struct ListedDownload {
    pub(super) downloads: Arc<Downloads>,
    pub(super) download: Arc<Download>,
    number: Number,
}

impl ListedDownload {
    pub(super) fn new(downloads: &Arc<Downloads>, download: Arc<Download>, number: Number) -> Self {
        Self { downloads: Arc::clone(downloads), download, number }
    }

    /// Removes a waiter with this priority.
    pub(super) fn leave(&self, priority: Priority) {
        let left = self.change(|table, key, number| {
            let left = table.leave(key, number, priority);
            // While the table is locked, since the next waiter may come at once.
            if table.priority(key, number).is_some_and(|priority| !priority.is_waited_for()) {
                self.download.haste.end();
            }
            left
        });
        match left {
            OnLeave::Stays => return,
            OnLeave::Removed => self.download.end(),
            OnLeave::Stop => self.download.stop(),
        }
        self.changed();
    }

    /// Gives the turn back.
    pub(super) fn park(&self) {
        if !self.change(DownloadTable::park) {
            self.download.stop();
        }
        self.changed();
    }

    /// Asks for a turn again, and waits for it.
    pub(super) async fn resume(&self) {
        self.change(DownloadTable::resume);
        self.downloads.give_turns();
        self.download.await_turn().await;
    }

    /// Queues the download in another lane. `false`: it has no waiter.
    pub(super) fn change_lane(&self, lane: Lane) -> bool {
        let waits = self.change(|table, key, number| table.change_lane(key, number, lane));
        self.changed();
        waits
    }

    /// Whether somebody has opened the package.
    pub(super) fn is_asked(&self) -> bool {
        self.change(|table, key, number| table.is_asked(key, number))
    }

    /// Removes the download from the table if it has no waiter. `true`: it has one.
    pub(super) fn end_unless_wanted(&self) -> bool {
        self.change(DownloadTable::end_unless_wanted)
    }

    /// Removes the download from the table and marks it as ended.
    pub(super) fn finish(&self) {
        self.change(DownloadTable::finish);
        self.download.end();
        self.changed();
    }

    /// Wakes the scheduler, because a turn may be given.
    pub(super) fn changed(&self) {
        self.downloads.changed.notify_one();
    }

    fn change<T>(&self, change: impl FnOnce(&mut DownloadTable<Arc<Download>>, PackageKey, Number) -> T) -> T {
        change(&mut self.downloads.table(), self.download.wanted.key(), self.number)
    }
}
