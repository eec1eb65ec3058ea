//! A binhost for tests.

use std::num::NonZeroUsize;

use super::{BinhostConfig, DEFAULT_MAX_INDEX, Offline, OnMismatch, Selection, SignaturePolicy};

impl BinhostConfig {
    /// The binhost `host` with these URLs, whose packages are not signed.
    pub(crate) fn of_urls(urls: &[String]) -> Self {
        Self {
            name: "host".to_owned(),
            directory: "host".to_owned(),
            urls: urls.iter().map(|url| url.parse().unwrap()).collect(),
            signatures: SignaturePolicy::DigestsOnly,
            quorum: NonZeroUsize::MIN,
            selection: Selection::default(),
            offline: Offline::default(),
            on_mismatch: OnMismatch::Refuse,
            max_index_age: None,
            max_index: DEFAULT_MAX_INDEX,
            frozen: false,
            share: true,
            share_is_chosen: false,
            peers: Vec::new(),
        }
    }
}
