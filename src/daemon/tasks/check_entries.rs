//! Compares entries with their packages on request, at a limited rate of requests to a binhost.

use std::sync::Arc;

use futures_util::StreamExt as _;

use crate::api::{CheckedEntry, EntryOutcome};
use crate::daemon::state::DaemonState;
use crate::fetch::{CheckFor, EntryCheck};

/// Entries that one request compares at the same time.
const TOGETHER: usize = 4;

/// Compares the entries that are shown at `paths` with their packages.
pub(crate) async fn check(shared: &Arc<DaemonState>, paths: Vec<String>) -> Vec<CheckedEntry> {
    let checks = futures_util::stream::iter(paths).map(async |path| {
        let (outcome, reason) = match check_one(shared, &path).await {
            EntryCheck::Agrees => (EntryOutcome::Agrees, None),
            EntryCheck::Wrong(error) => (EntryOutcome::Wrong, Some(error.to_string())),
            EntryCheck::Unknown(reason) => (EntryOutcome::Unknown, Some(reason)),
        };
        CheckedEntry { path, outcome, reason }
    });
    checks.buffered(TOGETHER).collect().await
}

async fn check_one(shared: &DaemonState, path: &str) -> EntryCheck {
    let tree = shared.snapshots.current();
    let found = tree.view().row_at(path).and_then(|row| shared.fetcher.wanted(tree.view(), row));
    let Some(wanted) = found else { return EntryCheck::Unknown("no binhost's package is shown there".to_owned()) };
    if !shared.fetcher.is_cached(&wanted) {
        shared.check_rate.turn().await;
    }
    shared.fetcher.check_entry(&wanted, CheckFor::Index).await
}
