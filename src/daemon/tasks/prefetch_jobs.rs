//! Starts prefetch jobs. Each has a number and runs to its end, even if no client asks for its
//! status.

use std::sync::Arc;

use crate::api::{ApiError, ErrorCode, PrefetchRequest};
use crate::daemon::acceptance::acceptance;
use crate::daemon::state::{DaemonState, give_memory_back};
use crate::fetch::{PrefetchTarget, RequestedPrefetch};
use crate::sys::durable::blocking;

/// Prefetch jobs that run at the same time.
const MAX_RUNNING: usize = 4;

/// Starts a prefetch job and returns its number.
pub(crate) async fn begin(shared: &Arc<DaemonState>, wish: PrefetchRequest) -> Result<u64, ApiError> {
    if shared.prefetch_jobs.running() >= MAX_RUNNING {
        let reason = format!("{MAX_RUNNING} prefetches run already; wait for one of them");
        return Err(ApiError::new(ErrorCode::Conflict, reason));
    }
    let wish = match wish {
        PrefetchRequest::Atoms(atoms) => PrefetchTarget::Atoms(atoms),
        PrefetchRequest::World => PrefetchTarget::World,
        PrefetchRequest::Plan => PrefetchTarget::Plan,
    };
    let (fetcher, tree) = (Arc::clone(&shared.fetcher), shared.snapshots.current());
    let root = shared.config.portage_root.clone();
    let meant = blocking(move || Ok(wish.resolve(&fetcher, tree.view(), &root, &acceptance(&root))?)).await;
    give_memory_back();
    let meant = meant.map_err(|error| ApiError::new(ErrorCode::Conflict, error))?;
    let prefetch = Arc::new(RequestedPrefetch::new(meant));
    Ok(shared.prefetch_jobs.run(&shared.fetcher, prefetch))
}
