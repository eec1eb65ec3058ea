//! The bytes of interrupted downloads: downloads whose last waiter left before the end. The next
//! download of the same package continues with these bytes and with the state of their
//! verification. The whole package is verified as usual.
//!
//! The cache counts these files as parked, and takes their room before it evicts blobs.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::receive::Partial;
use crate::fetch::remote_binhost::{PackageKey, PackageRef, RemoteBinhost};
use crate::index::Entry;
use crate::upstream::ResumePoint;

/// How long the bytes are kept. A user who has pressed Ctrl-C by mistake usually tries again within
/// that time.
pub(crate) const KEPT_FOR: Duration = Duration::from_secs(15 * 60);
/// The number of interrupted downloads that are kept. Each of them has a file open.
const MOST: usize = 16;

/// The bytes of one interrupted download.
#[derive(Debug)]
struct InterruptedDownload {
    key: PackageKey,
    entry: Entry,
    /// The binhost, with the policy of the verification.
    binhost: Arc<RemoteBinhost>,
    partial: Box<Partial>,
    /// The URL that the bytes came from, and the validator of the file.
    part: ResumePoint,
    at: Instant,
}

/// The interrupted downloads.
#[derive(Debug, Default)]
pub(super) struct Interrupted {
    /// Oldest first.
    kept: Mutex<VecDeque<InterruptedDownload>>,
    /// One permit for each package that is being transferred.
    transfers: Mutex<HashMap<PackageKey, Weak<Semaphore>>>,
}

impl Interrupted {
    /// Waits until no other task transfers this package. A download that has lost its last waiter
    /// leaves the table before its task has written and kept the last bytes. The next download of
    /// the package continues with them.
    pub(super) async fn only_transfer(&self, key: PackageKey) -> Option<OwnedSemaphorePermit> {
        let transfer = {
            let mut transfers = self.transfers.lock();
            transfers.retain(|_, transfer| transfer.strong_count() > 0);
            let current = transfers.get(&key).and_then(Weak::upgrade);
            current.unwrap_or_else(|| {
                let transfer = Arc::new(Semaphore::new(1));
                transfers.insert(key, Arc::downgrade(&transfer));
                transfer
            })
        };
        // Nobody closes the semaphore.
        transfer.acquire_owned().await.ok()
    }

    /// Keeps the bytes of a download. Returns the entry that is removed for them. The caller drops
    /// that where blocking is allowed, because dropping removes a file.
    #[must_use]
    pub(super) fn keep(
        &self,
        wanted: &PackageRef,
        entry: Entry,
        partial: Box<Partial>,
        part: ResumePoint,
    ) -> Option<impl Send + use<>> {
        let (key, binhost, at) = (wanted.key(), Arc::clone(wanted.binhost()), Instant::now());
        let mut all = self.all();
        let same = all.iter().position(|left| left.key == key);
        let gone = if same.is_none() && all.len() >= MOST { Some(0) } else { same };
        let gone = gone.and_then(|at| all.remove(at));
        all.push_back(InterruptedDownload { key, entry, binhost, partial, part, at });
        gone
    }

    /// Takes the bytes of a package, if its entry and its binhost are unchanged.
    pub(super) fn take(&self, wanted: &PackageRef, entry: &Entry) -> Option<(Box<Partial>, ResumePoint)> {
        let mut all = self.all();
        let at = all.iter().position(|left| left.key == wanted.key())?;
        let left = all.remove(at)?;
        let same = left.entry == *entry && Arc::ptr_eq(&left.binhost, wanted.binhost());
        same.then_some((left.partial, left.part))
    }

    /// Takes out the entries that are older than [`KEPT_FOR`]. The caller drops them where blocking
    /// is allowed.
    #[must_use]
    pub(super) fn take_old(&self) -> Vec<impl Send + use<>> {
        let mut all = self.all();
        let old = all.partition_point(|left| left.at.elapsed() >= KEPT_FOR);
        all.drain(..old).collect()
    }

    fn all(&self) -> MutexGuard<'_, VecDeque<InterruptedDownload>> {
        self.kept.lock()
    }
}
