//! Bodies that lie in the cache unproved.

use std::sync::Arc;

use crate::cache::{Blob, Placement, Unproved};
use crate::fetch::{Fetcher, RemoteBinhost, alarms};
use crate::index::Entry;
use crate::verify::{VerifyError, recheck};

/// A body that lies in the cache unproved may be it: proving that is cheaper than fetching it again.
pub(super) async fn adopt(fetcher: &Arc<Fetcher>, origin: &Arc<RemoteBinhost>, entry: &Entry) -> Option<Blob> {
    let (fetcher, origin, entry) = (Arc::clone(fetcher), Arc::clone(origin), entry.clone());
    let proved = tokio::task::spawn_blocking(move || {
        let candidates = fetcher.store.unproved(entry.id(), entry.size, &origin.policy);
        let adopted = candidates.into_iter().find_map(|candidate| adopt_one(&fetcher, &origin, &entry, candidate));
        // Somebody else may have adopted it meanwhile.
        adopted.or_else(|| fetcher.store.get(entry.id(), entry.size, &origin.policy))
    });
    proved.await.ok().flatten()
}

/// Takes one body back, if it is the package of `entry`.
pub(in crate::fetch) fn adopt_one(
    fetcher: &Fetcher,
    origin: &RemoteBinhost,
    entry: &Entry,
    candidate: Unproved,
) -> Option<Blob> {
    let Unproved { digest, file, own } = candidate;
    match recheck(file, entry.clone(), &origin.policy) {
        Ok(verified) => {
            let body = fetcher.store.body(verified);
            tracing::info!(path = %entry.path, "found in the cache, and proved again");
            let witness = alarms::build_key(origin, entry);
            if let Placement::Unkept(_) = fetcher.store.adopt(digest, &body, entry.id(), witness) {
                fetcher.held.hold(entry.id(), body.clone());
            }
            Some(body)
        }
        // It is judged again when the clock is right.
        Err(error) if error.depends_on_clock() && origin.check_clock().is_err() => None,
        // Signatures come after digests: it is the package that was asked for, and may not be served.
        Err(error) if error.io_error().is_none() && (own || matches!(error, VerifyError::Signature { .. })) => {
            tracing::warn!(path = %entry.path, %error, "what the cache has of it is refused and removed");
            fetcher.store.reject(digest);
            None
        }
        // Another package of the same size, or the disk.
        Err(_) => None,
    }
}
