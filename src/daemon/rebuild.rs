//! Proves bodies without a record in the background, as a lost or damaged catalogue leaves them, and takes them back.
//!
//! Whoever opens such a package proves it anyway; this is so that the cache is whole before anybody asks, and so that what belongs
//! to nothing is known. A body is tried for each entry of its size that is shown. One at a time, with pauses, and not while
//! something is fetched: whoever waits for that needs the disk more.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::TIDY;
use super::state::Shared;

/// No more than so many bytes/s are read.
const RATE: u64 = 8 << 20;

/// Goes on for ever: what is shown later may name what nothing names now.
pub(super) async fn in_background(shared: Arc<Shared>) {
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
pub(super) async fn pass(shared: &Arc<Shared>, rate: Option<u64>) {
    let mut sizes = orphan_sizes(shared).await;
    if sizes.is_empty() {
        return;
    }
    let (tree, mut proved) = (shared.snapshots.current(), 0_u64);
    let view = tree.view();
    for row in 0..view.len() as u32 {
        let Some(size) = view.record(row).map(|record| record.size).filter(|size| sizes.contains(size)) else {
            continue;
        };
        let Some(wanted) = shared.fetcher.wanted(view, row) else { continue };
        while rate.is_some() && !shared.fetcher.in_progress().is_empty() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        if shared.fetcher.prove(&wanted).await {
            proved += 1;
            sizes = orphan_sizes(shared).await;
        }
        let pause = rate.map(|rate| Duration::from_millis(size.saturating_mul(1000) / rate));
        tokio::time::sleep(pause.unwrap_or_default()).await;
    }
    let left = shared.store.orphan_sizes().len();
    tracing::info!(proved, left, "bodies without a record were proved again and taken back; sizes of which none was");
}

async fn orphan_sizes(shared: &Arc<Shared>) -> HashSet<u64> {
    let store = Arc::clone(&shared.store);
    tokio::task::spawn_blocking(move || store.orphan_sizes()).await.unwrap_or_default()
}
