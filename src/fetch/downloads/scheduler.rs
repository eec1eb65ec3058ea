//! Starts downloads, and gives turns to them.

use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use super::download::Download;
use super::entry::Stage;
use super::interrupted::Interrupted;
use super::lane::Lane;
use super::listed::ListedDownload;
use super::table::{Counts, DownloadTable, Gate, NextAction, OnTheWay};
use super::turn::Turn;
use super::waiter::Waiter;
use super::{DownloadContext, DownloadProgress, Downloads, Priority, Start, TransferState, Uid, run};
use crate::fetch::bandwidth::Bandwidth;
use crate::fetch::blobs::Absence;
use crate::fetch::error::{FetchError, Outcome};
use crate::fetch::remote_binhost::{PackageKey, PackageRef};

/// Downloads that `status` lists one by one. Further ones are only counted.
const MAX_SHOWN: usize = 256;

impl Downloads {
    /// An empty table. Must be called inside a tokio runtime.
    pub(in crate::fetch) fn new(context: DownloadContext) -> Arc<Self> {
        let (changed, runtime) = (Arc::new(Notify::new()), Handle::current());
        Arc::new_cyclic(|downloads| {
            let scheduler = schedule(Weak::clone(downloads), Arc::clone(&changed), Arc::clone(&context.bandwidth));
            let scheduler = runtime.spawn(scheduler).abort_handle();
            let (table, interrupted) = (Mutex::new(DownloadTable::new()), Interrupted::default());
            Self { context, table, interrupted, changed, moved: watch::Sender::default(), runtime, scheduler }
        })
    }

    /// Starts the download of a package, or joins it: the only way to get a package from a binhost.
    /// `absence`: a look-up for the package that has found nothing.
    ///
    /// The first of these that applies decides:
    ///
    /// 1. Too many opens wait: refused.
    /// 2. The table has a download of the package: joined.
    /// 3. The package is on this machine: the blob. A download may have ended since `absence`.
    /// 4. The package failed a moment ago: refused.
    /// 5. Nobody has opened the package, and its binhost is no longer used, or the cache would not
    ///    keep the package: refused.
    pub(in crate::fetch) fn start(
        self: &Arc<Self>,
        wanted: &PackageRef,
        priority: Priority,
        absence: Option<Absence>,
    ) -> Start {
        let mut table = self.table();
        let start = self.decide(&mut table, wanted, priority, absence);
        if matches!(start, Start::Cached(_) | Start::Refused(_)) {
            return start;
        }
        let in_the_way = table.take_out_of_the_way();
        drop(table);
        for download in in_the_way {
            download.settle(|| Err(Arc::new(FetchError::GaveWay)));
            download.stop();
        }
        self.give_turns();
        start
    }

    fn decide(
        self: &Arc<Self>,
        table: &mut DownloadTable<Arc<Download>>,
        wanted: &PackageRef,
        priority: Priority,
        absence: Option<Absence>,
    ) -> Start {
        let DownloadContext { blobs, binhosts, failures, metrics, .. } = &self.context;
        let (key, opened) = (wanted.key(), priority.uid().is_some());
        if !table.admits(priority) {
            return Start::Refused(Arc::new(FetchError::Busy));
        }
        if let Some((number, download, asked)) = table.join(key, priority) {
            metrics.misses.add(u64::from(opened && !asked));
            if priority.is_waited_for() {
                download.haste.begin();
            }
            return Start::Joined(Waiter::new(ListedDownload::new(self, download, number), priority));
        }
        let absence = match blobs.get_unless(absence, wanted) {
            Ok(blob) => return Start::Cached(blob),
            Err(absence) => absence,
        };
        if let Some(error) = failures.recent(key) {
            return Start::Refused(error);
        }
        if !opened && binhosts.get(key.0).is_none() {
            return Start::Refused(Arc::new(FetchError::NotUsed));
        }
        if !opened && let Err(why) = blobs.would_keep(wanted) {
            return Start::Refused(Arc::new(FetchError::Unkept(why)));
        }
        metrics.misses.add(u64::from(opened));
        let download = Arc::new(Download::new(wanted.clone()));
        let lane = if blobs.may_recover(wanted, absence) { Lane::Cache } else { Lane::Binhost(key.0) };
        if priority.is_waited_for() {
            download.haste.begin();
        }
        let number = table.insert(key, lane, Arc::clone(&download), priority);
        Start::Started(Waiter::new(ListedDownload::new(self, download, number), priority))
    }

    /// Fetches a package that `uid` opens, unless it is on this machine. The entry agrees with the
    /// returned blob, as far as the binhost's policy requires it. Dropping the future only gives up
    /// waiting.
    ///
    /// # Errors
    /// The package cannot be fetched, or must not be served.
    pub(in crate::fetch) async fn open(
        self: &Arc<Self>,
        wanted: &PackageRef,
        uid: Uid,
        absence: Option<Absence>,
    ) -> Outcome {
        let blob = match self.start(wanted, Priority::Open(uid), absence) {
            Start::Started(waiter) | Start::Joined(waiter) => waiter.outcome().await?,
            Start::Cached(blob) => blob,
            Start::Refused(error) => return Err(error),
        };
        // A download that has other waiters may have ended before the keys changed.
        if !wanted.binhost().policy.admits(&blob.assurance()) {
            return Err(Arc::new(FetchError::KeysChanged));
        }
        self.context.comparer.held_against(wanted, blob).await
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

    /// Receives each change of the table. Several changes may be received as one.
    pub(in crate::fetch) fn changes(&self) -> watch::Receiver<()> {
        self.moved.subscribe()
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
                Stage::Live => TransferState::Live,
                Stage::Parked => TransferState::Parked,
                Stage::Resuming | Stage::Waiting => TransferState::Waiting,
            },
            received: look.download.received(),
            size: look.download.wanted.record().size,
            waiters: look.waiters,
            ahead: !look.asked,
            resting: look.download.is_resting(),
        });
        progress.collect()
    }

    /// Drops the bytes of old interrupted downloads.
    pub(in crate::fetch) fn let_go(&self) {
        let old = self.interrupted.take_old();
        // Removing large files takes a while, so a blocking thread does it.
        self.runtime.spawn_blocking(move || drop(old));
    }

    /// Gives turns until there is no free turn or no waiting download.
    pub(super) fn give_turns(self: &Arc<Self>) {
        let quiet = self.context.bandwidth.quiet().is_some();
        loop {
            let step = self.table().next(|download, on_the_way| {
                if quiet && !download.haste.is_hasty() {
                    self.context.bandwidth.note_held_back();
                    return Gate::Later;
                }
                self.gate(download, on_the_way)
            });
            match step {
                None => break,
                Some(NextAction::Start(number, lane, download)) => {
                    download.begin();
                    let turn = Turn::new(ListedDownload::new(self, download, number), lane);
                    self.runtime.spawn(run::run(turn));
                }
                Some(NextAction::Resume(download)) => download.give_turn(),
                Some(NextAction::Refuse(download, why)) => {
                    download.settle(|| Err(Arc::new(FetchError::Unkept(why))));
                    download.end();
                }
            }
        }
        self.moved.send_replace(());
    }

    pub(super) fn table(&self) -> MutexGuard<'_, DownloadTable<Arc<Download>>> {
        self.table.lock()
    }

    /// Whether a prefetch may begin now.
    fn gate(&self, download: &Download, on_the_way: OnTheWay) -> Gate {
        let (size, cache) = (download.wanted.record().size, self.context.blobs.cache());
        if let Err(why) = cache.space().would_keep(size) {
            return Gate::Never(why);
        }
        // Running downloads already take a part of the cache. A prefetch that does not fit beside
        // them would be fetched and not kept.
        let together = on_the_way.all.saturating_add(size);
        let fits = on_the_way.all == 0 || together <= cache.usage().bound;
        let may_write = cache.budget().may_write(on_the_way.unplaced.saturating_add(size));
        if fits && may_write { Gate::Open } else { Gate::Later }
    }
}

impl Drop for Downloads {
    fn drop(&mut self) {
        self.scheduler.abort();
    }
}

/// Gives turns whenever something has changed or the quiet hours have ended, until the table is
/// gone.
async fn schedule(downloads: Weak<Downloads>, changed: Arc<Notify>, bandwidth: Arc<Bandwidth>) {
    loop {
        tokio::select! {
            () = changed.notified() => {}
            () = bandwidth.quiet_ended_for_others() => {}
        }
        let Some(downloads) = downloads.upgrade() else { return };
        downloads.give_turns();
    }
}
