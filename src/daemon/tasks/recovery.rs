//! Proves blobs without a record in the background, and adds them to the catalogue again. A lost or
//! damaged catalogue leaves such blobs.
//!
//! An open of such a package proves its blob anyway. Recovery completes the cache before an open,
//! and finds the blobs that fit no entry. Each blob is read once to find its entry, among all that
//! can be opened, and once more to prove it. Recovery handles one blob at a time, with pauses, and
//! not during a download: a download needs the disk more.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::daemon::TIDY;
use crate::daemon::state::DaemonState;
use crate::fetch::PackageRef;
use crate::index::Sha256Digest;

/// Maximum rate at which blobs are read, bytes/s.
const RATE: u64 = 8 << 20;

/// Runs until it is cancelled: a later tree may name blobs that no entry names now.
pub(crate) async fn in_background(shared: Arc<DaemonState>) {
    let mut tried = None;
    loop {
        let generation = shared.snapshots.current().generation();
        if tried.replace(generation) != Some(generation) {
            pass(&shared, Some(RATE)).await;
        }
        tokio::time::sleep(TIDY).await;
    }
}

/// Tries to prove each blob without a record once. `rate` is the limit in bytes/s; `None`: without
/// pauses.
pub(crate) async fn pass(shared: &Arc<DaemonState>, rate: Option<u64>) {
    let orphans = orphans(shared).await;
    if orphans.is_empty() {
        return;
    }
    let (all, mut proved) = (candidates(shared, orphans.iter().map(|(_, size)| *size).collect()), 0_u64);
    for (orphan, size) in orphans {
        let Some(among) = all.get(&size) else { continue };
        while rate.is_some() && shared.fetcher.counts().live > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let (fetcher, among) = (Arc::clone(&shared.fetcher), Arc::clone(among));
        let reclaimed = tokio::task::spawn_blocking(move || fetcher.reclaim(orphan, &among)).await;
        proved += u64::from(reclaimed.unwrap_or_default());
        let pause = rate.map(|rate| Duration::from_millis(size.saturating_mul(1000) / rate));
        tokio::time::sleep(pause.unwrap_or_default()).await;
    }
    let left = shared.cache.recovery().orphans().len();
    tracing::info!(
        proved,
        left,
        "blobs without a record were proved again and kept; those left fit no entry that is shown"
    );
}

async fn orphans(shared: &Arc<DaemonState>) -> Vec<(Sha256Digest, u64)> {
    let cache = Arc::clone(&shared.cache);
    tokio::task::spawn_blocking(move || cache.recovery().orphans()).await.unwrap_or_default()
}

/// Packages that can be opened and have one of these sizes, by size.
fn candidates(shared: &DaemonState, sizes: HashSet<u64>) -> HashMap<u64, Arc<Vec<PackageRef>>> {
    let (mut found, mut seen): (HashMap<u64, Arc<Vec<PackageRef>>>, HashSet<_>) = Default::default();
    for tree in shared.snapshots.all() {
        let view = tree.view();
        for row in 0..view.len() as u32 {
            let (Some(record), Some(part)) = (view.record(row), view.part(row)) else { continue };
            if !sizes.contains(&record.size) || !seen.insert((part.binhost, record.id)) {
                continue;
            }
            if let Some(wanted) = shared.fetcher.wanted(view, row) {
                Arc::make_mut(found.entry(record.size).or_default()).push(wanted);
            }
        }
    }
    found
}
