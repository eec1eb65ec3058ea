//! Recovery before a download: proves blobs in the cache that have no record.

use std::sync::Arc;

use crate::cache::{Blob, Placement, Unproved};
use crate::fetch::{Fetcher, RemoteBinhost, alarms};
use crate::index::Entry;
use crate::verify::{VerifyError, recheck};

/// Looks for the package among the unproved blobs of the cache. Proving a blob is cheaper than
/// fetching the package again.
pub(super) async fn adopt(fetcher: &Arc<Fetcher>, binhost: &Arc<RemoteBinhost>, entry: &Entry) -> Option<Blob> {
    let (fetcher, binhost, entry) = (Arc::clone(fetcher), Arc::clone(binhost), entry.clone());
    let proved = tokio::task::spawn_blocking(move || {
        let candidates = fetcher.cache.recovery().unproved(entry.id(), entry.size, &binhost.policy);
        let adopted = candidates.into_iter().find_map(|candidate| adopt_one(&fetcher, &binhost, &entry, candidate));
        // Another task may have adopted the blob meanwhile.
        adopted.or_else(|| fetcher.cache.get(entry.id(), entry.size, &binhost.policy))
    });
    proved.await.ok().flatten()
}

/// Adopts one blob into the catalogue, if it is the package of `entry`.
pub(in crate::fetch) fn adopt_one(
    fetcher: &Fetcher,
    binhost: &RemoteBinhost,
    entry: &Entry,
    candidate: Unproved,
) -> Option<Blob> {
    let Unproved { digest, file, own } = candidate;
    match recheck(file, entry.clone(), &binhost.policy) {
        Ok(verified) => {
            let blob = fetcher.cache.blob(verified);
            tracing::info!(path = %entry.path, "found in the cache, and proved again");
            let build = alarms::build_key(binhost, entry);
            if let Placement::Unkept(_) = fetcher.cache.recovery().adopt(digest, &blob, entry.id(), build) {
                fetcher.held.hold(entry.id(), blob.clone());
            }
            Some(blob)
        }
        // The blob is judged again when the clock is right.
        Err(error) if error.depends_on_clock() && binhost.check_clock().is_err() => None,
        // Signatures are checked after digests. A bad signature therefore means that the blob is
        // the requested package, and that it must not be served.
        Err(error) if error.io_error().is_none() && (own || matches!(error, VerifyError::Signature { .. })) => {
            tracing::warn!(path = %entry.path, %error, "what the cache has of it is refused and removed");
            fetcher.cache.reject(digest);
            None
        }
        // The blob is another package of the same size, or the disk failed.
        Err(_) => None,
    }
}
