//! A refresh on a full disk: packages are evicted for the index, or it is held in memory until the
//! disk has room for it.

use std::sync::Arc;

use super::binhost::Binhost;
use super::freshness::Order;
use super::stored_index::RefreshOutcome;
use crate::cache::Space;
use crate::daemon::generations::OldGenerations;
use crate::sys::durable::blocking;

/// Space for the first index, whose size is not known.
const FIRST: u64 = 4 << 20;
/// Space that an index takes beside twice the bytes of the one before.
const SLACK: u64 = 256 << 10;

/// Refreshes a binhost. If the disk is full, packages are evicted for the index, and then old
/// generations removed, the oldest first. If that is not enough, the index is held in memory,
/// within the limit for packages. If that is not enough either, the last good index stays.
pub(super) async fn refresh_with_room(
    binhost: &mut Binhost,
    order: Order,
    space: &Arc<Space>,
    generations: &OldGenerations,
) -> anyhow::Result<RefreshOutcome> {
    // A refresh that was cancelled may have left this set.
    binhost.stored.hold_in_memory(None);
    if binhost.stored.is_in_memory() {
        store_held(binhost, space).await;
    }
    let outcome = binhost.refresh(order).await;
    if outcome.is_ok() || !binhost.disk_full {
        return outcome;
    }
    let wanted = match binhost.stored.bytes() {
        0 => FIRST,
        bytes => 2 * bytes + SLACK,
    };
    let (space, generations) = (Arc::clone(space), generations.clone());
    let (freed, memory) = blocking(move || {
        let has_room = || space.disk_room().is_none_or(|room| room.free >= wanted);
        let mut dropped = false;
        while !has_room() && generations.drop_oldest() {
            dropped = true;
        }
        Ok((space.free_for(wanted) || dropped, space.memory_share()))
    })
    .await?;
    if freed {
        let outcome = binhost.refresh(order).await;
        if outcome.is_ok() || !binhost.disk_full {
            return outcome;
        }
    }
    binhost.stored.hold_in_memory(Some(memory));
    let outcome = binhost.refresh(order).await;
    binhost.stored.hold_in_memory(None);
    outcome
}

/// Stores an index that is held in memory, if the disk has room for it now, if need be without
/// packages.
async fn store_held(binhost: &mut Binhost, space: &Arc<Space>) {
    let (space, wanted) = (Arc::clone(space), binhost.stored.bytes() + SLACK);
    let has_room = blocking(move || {
        let has_room = space.disk_room().is_none_or(|room| room.free >= wanted);
        // Nothing is evicted for a write that would fail all the same.
        if has_room {
            let _ = space.free_for(wanted);
        }
        Ok(has_room)
    });
    if !has_room.await.unwrap_or(false) {
        return;
    }
    match binhost.stored.store().await {
        // Its generation is kept from now on, too.
        Ok(()) => binhost.unpublished = true,
        Err(error) => tracing::debug!(error = format!("{error:#}"), "an index stays in memory"),
    }
}
