//! Recovery before a download: proves blobs in the cache that have no record.

use std::sync::Arc;

use crate::cache::{Blob, Placement, Unproved};
use crate::fetch::{Fetcher, RemoteBinhost, alarms};
use crate::index::Entry;
use crate::verify::{VerifyError, recheck};

/// Looks for the package among the unproved blobs of the cache. Proving a blob is cheaper than
/// fetching the package again.
pub(super) async fn adopt(fetcher: &Arc<Fetcher>, origin: &Arc<RemoteBinhost>, entry: &Entry) -> Option<Blob> {
    let (fetcher, origin, entry) = (Arc::clone(fetcher), Arc::clone(origin), entry.clone());
    let proved = tokio::task::spawn_blocking(move || {
        let candidates = fetcher.store.unproved(entry.id(), entry.size, &origin.policy);
        let adopted = candidates.into_iter().find_map(|candidate| adopt_one(&fetcher, &origin, &entry, candidate));
        // Another task may have adopted the blob meanwhile.
        adopted.or_else(|| fetcher.store.get(entry.id(), entry.size, &origin.policy))
    });
    proved.await.ok().flatten()
}

/// Adopts one blob into the catalogue, if it is the package of `entry`.
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
        // The blob is judged again when the clock is right.
        Err(error) if error.depends_on_clock() && origin.check_clock().is_err() => None,
        // Signatures are checked after digests. A bad signature therefore means that the blob is
        // the requested package, and that it must not be served.
        Err(error) if error.io_error().is_none() && (own || matches!(error, VerifyError::Signature { .. })) => {
            tracing::warn!(path = %entry.path, %error, "what the cache has of it is refused and removed");
            fetcher.store.reject(digest);
            None
        }
        // The blob is another package of the same size, or the disk failed.
        Err(_) => None,
    }
}
