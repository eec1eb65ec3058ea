//! Proves bodies without a record in the background, as a lost or damaged catalogue leaves them, and takes them back.
//!
//! Whoever opens such a package proves it anyway; this is so that the cache is whole before anybody asks, and so that what belongs
//! to nothing is known. Each body is read once to find out which entry it may be, of all that can be opened, and once more to
//! prove that. One at a time, with pauses, and not while something is fetched: whoever waits for that needs the disk more.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::daemon::TIDY;
use crate::daemon::state::DaemonState;
use crate::fetch::PackageRef;
use crate::index::Sha256Digest;

/// No more than so many bytes/s are read.
const RATE: u64 = 8 << 20;

/// Goes on for ever: what is shown later may name what nothing names now.
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

/// Tries all of them once, `rate` bytes/s.
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
    let left = shared.store.orphans().len();
    tracing::info!(
        proved,
        left,
        "bodies without a record were proved again and taken back; how many are nothing that is shown"
    );
}

async fn orphans(shared: &Arc<DaemonState>) -> Vec<(Sha256Digest, u64)> {
    let store = Arc::clone(&shared.store);
    tokio::task::spawn_blocking(move || store.orphans()).await.unwrap_or_default()
}

/// What can be opened and has one of these sizes, by size.
fn candidates(shared: &DaemonState, sizes: HashSet<u64>) -> HashMap<u64, Arc<Vec<PackageRef>>> {
    let (mut found, mut seen): (HashMap<u64, Arc<Vec<PackageRef>>>, HashSet<_>) = Default::default();
    for tree in shared.snapshots.all() {
        let view = tree.view();
        for row in 0..view.len() as u32 {
            let (Some(record), Some(part)) = (view.record(row), view.part(row)) else { continue };
            if !sizes.contains(&record.size) || !seen.insert((part.origin, record.id)) {
                continue;
            }
            if let Some(wanted) = shared.fetcher.wanted(view, row) {
                Arc::make_mut(found.entry(record.size).or_default()).push(wanted);
            }
        }
    }
    found
}
