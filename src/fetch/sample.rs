//! A fetcher with one binhost that answers nothing, for tests.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use super::fetcher::Fetcher;
use super::remote_binhost::RemoteBinhost;
use crate::cache::Cache;
use crate::config::{BinhostConfig, DEFAULT_MAX_INDEX, Offline, OnMismatch, Selection, SignaturePolicy};
use crate::index::BinhostId;
use crate::metrics::Metrics;
use crate::upstream::Upstream;
use crate::verify::Policy;

/// A fetcher whose cache is at `place`, and whose binhost `id` has unsigned packages. The caller
/// must be inside a tokio runtime.
pub(crate) fn fetcher(place: &Path, id: BinhostId, on_mismatch: OnMismatch) -> Arc<Fetcher> {
    let metrics = Arc::new(Metrics::default());
    let binhost = BinhostConfig {
        name: "host".to_owned(),
        directory: "host".to_owned(),
        urls: vec!["http://127.0.0.1:9".parse().unwrap()],
        signatures: SignaturePolicy::DigestsOnly,
        quorum: NonZeroUsize::MIN,
        selection: Selection::default(),
        offline: Offline::default(),
        on_mismatch,
        max_index_age: None,
        max_index: DEFAULT_MAX_INDEX,
        frozen: false,
        share: true,
        peers: Vec::new(),
    };
    let upstream = Arc::new(Upstream::new(binhost, Arc::clone(&metrics)).unwrap());
    let cache = Arc::new(Cache::open(place, 1 << 20, Arc::clone(&metrics)).unwrap());
    let (fetcher, _) = Fetcher::new(cache, metrics);
    let remote = RemoteBinhost::new("host".to_owned(), upstream, Policy::digests_only(), on_mismatch);
    fetcher.add_binhost(id, Arc::new(remote));
    fetcher
}
