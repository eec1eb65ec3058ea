//! Requests for packages, and the scheduler that gives turns to downloads.

use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::download::Download;
use super::entry::Stage;
use super::interrupted::Interrupted;
use super::lane::Lane;
use super::listed::ListedDownload;
use super::table::{Counts, DownloadTable, Gate, NextAction, OnTheWay};
use super::turn::Turn;
use super::waiter::Waiter;
use super::{DownloadProgress, DownloadState, Priority, run};
use crate::fetch::remote_binhost::PackageKey;
use crate::fetch::{FetchError, Fetcher, PackageRef};

/// Downloads that `status` lists one by one. Further ones are only counted.
const MAX_SHOWN: usize = 256;

/// The table of all downloads, with its scheduler.
#[derive(Debug)]
pub(in crate::fetch) struct Downloads {
    table: Mutex<DownloadTable<Arc<Download>>>,
    pub(super) interrupted: Interrupted,
    /// Notified when a turn may be free or may be given.
    pub(super) changed: Arc<Notify>,
    pub(super) runtime: Handle,
    scheduler: AbortHandle,
}

impl Downloads {
    /// The downloads of `fetcher`. Must be called inside a tokio runtime.
    pub(in crate::fetch) fn new(fetcher: Weak<Fetcher>) -> Self {
        let (changed, runtime) = (Arc::new(Notify::new()), Handle::current());
        let scheduler = runtime.spawn(schedule(fetcher, Arc::clone(&changed))).abort_handle();
        let (table, interrupted) = (Mutex::new(DownloadTable::new()), Interrupted::default());
        Self { table, interrupted, changed, runtime, scheduler }
    }

    pub(in crate::fetch) fn contains(&self, key: PackageKey) -> bool {
        self.table().contains(key)
    }

    /// Whether there is no download at all.
    pub(in crate::fetch) fn is_empty(&self) -> bool {
        self.table().is_empty()
    }

    pub(in crate::fetch) fn counts(&self) -> Counts {
        self.table().counts()
    }

    /// The running downloads, and those that have waiters. Downloads with a turn come first.
    pub(in crate::fetch) fn progress(&self) -> Vec<DownloadProgress> {
        let table = self.table();
        let mut looks: Vec<_> = table.looks().filter(|look| look.stage != Stage::Waiting || look.waiters > 0).collect();
        looks.sort_unstable_by_key(|look| (look.stage, look.number));
        looks.truncate(MAX_SHOWN);
        looks.sort_by_key(|look| (look.stage, look.download.wanted.path()));
        let progress = looks.into_iter().map(|look| DownloadProgress {
            path: look.download.wanted.path().to_owned(),
            state: match look.stage {
                Stage::Live => DownloadState::Live,
                Stage::Parked => DownloadState::Parked,
                Stage::Resuming | Stage::Waiting => DownloadState::Waiting,
            },
            received: look.download.received(),
            size: look.download.wanted.record().size,
            waiters: look.waiters,
            ahead: !look.asked,
        });
        progress.collect()
    }

    /// Drops the bytes of old interrupted downloads.
    pub(in crate::fetch) fn let_go(&self) {
        let old = self.interrupted.take_old();
        // Removing large files takes a while, so a blocking thread does it.
        self.runtime.spawn_blocking(move || drop(old));
    }

    pub(super) fn table(&self) -> MutexGuard<'_, DownloadTable<Arc<Download>>> {
        self.table.lock()
    }
}

impl Drop for Downloads {
    fn drop(&mut self) {
        self.scheduler.abort();
    }
}

/// Gives turns whenever something has changed, until the fetcher is gone.
async fn schedule(fetcher: Weak<Fetcher>, changed: Arc<Notify>) {
    loop {
        changed.notified().await;
        let Some(fetcher) = fetcher.upgrade() else { return };
        fetcher.start_downloads();
    }
}

impl Fetcher {
    /// Joins the download of a package, or starts one.
    ///
    /// # Errors
    /// The package failed a moment ago, or too many opens wait.
    pub(in crate::fetch) fn request(
        self: &Arc<Self>,
        wanted: &PackageRef,
        priority: Priority,
    ) -> Result<Waiter, Arc<FetchError>> {
        let key = wanted.key();
        let opened = priority.uid().is_some();
        let mut table = self.downloads.table();
        if !table.admits(priority) {
            return Err(Arc::new(FetchError::Busy));
        }
        let waiter = match table.join(key, priority) {
            Some((number, download, asked)) => {
                self.metrics.misses.add(u64::from(opened && !asked));
                Waiter::new(ListedDownload::new(self, download, number), priority)
            }
            None => {
                // A download may have ended and committed the package since the caller looked.
                if let Some(blob) = self.here(wanted.record(), &wanted.binhost().policy) {
                    return Ok(Waiter::of(blob));
                }
                if let Some(error) = self.failures.recent(key) {
                    return Err(error);
                }
                self.metrics.misses.add(u64::from(opened));
                let download = Arc::new(Download::new(wanted.clone()));
                let number = table.insert(key, self.first_lane(wanted), Arc::clone(&download), priority);
                Waiter::new(ListedDownload::new(self, download, number), priority)
            }
        };
        let in_the_way = table.take_out_of_the_way();
        drop(table);
        for download in in_the_way {
            download.settle(|| Err(Arc::new(FetchError::GaveWay)));
            download.stop();
        }
        self.start_downloads();
        Ok(waiter)
    }

    fn first_lane(&self, wanted: &PackageRef) -> Lane {
        let record = wanted.record();
        if self.cache.recovery().may_have_unproved(record.id, record.size) {
            Lane::Cache
        } else {
            Lane::Binhost(wanted.key().0)
        }
    }

    /// Gives turns until there is no free turn or no waiting download.
    pub(super) fn start_downloads(self: &Arc<Self>) {
        loop {
            let step = self.downloads.table().next(|download, on_the_way| self.gate(download, on_the_way));
            match step {
                None => return,
                Some(NextAction::Start(number, lane, download)) => {
                    download.begin();
                    let turn = Turn::new(ListedDownload::new(self, download, number), lane);
                    self.downloads.runtime.spawn(run::run(turn));
                }
                Some(NextAction::Resume(download)) => download.give_turn(),
                Some(NextAction::Refuse(download, why)) => {
                    download.settle(|| Err(Arc::new(FetchError::Unkept(why))));
                    download.end();
                }
            }
        }
    }

    /// Whether a prefetch may begin now.
    fn gate(&self, download: &Download, on_the_way: OnTheWay) -> Gate {
        let size = download.wanted.record().size;
        if let Err(why) = self.cache.space().would_keep(size) {
            return Gate::Never(why);
        }
        // Running downloads already take a part of the cache. A prefetch that does not fit beside
        // them would be fetched and not kept.
        let together = on_the_way.all.saturating_add(size);
        let fits = on_the_way.all == 0 || together <= self.cache.usage().bound;
        let may_write = self.cache.budget().may_write(on_the_way.unplaced.saturating_add(size));
        if fits && may_write { Gate::Open } else { Gate::Later }
    }
}
