//! A binhost and an object store for tests.

use std::num::NonZeroUsize;

use super::{
    BinhostConfig, DEFAULT_MAX_INDEX, ObjectStoreConfig, Offline, OnMismatch, Selection, SignaturePolicy, StoreAccess,
};

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

impl ObjectStoreConfig {
    /// The bucket `bucket` at these URLs, without a key.
    pub(crate) fn of_endpoints<U: AsRef<str>>(urls: &[U]) -> Self {
        Self {
            endpoints: urls.iter().map(|url| url.as_ref().parse().unwrap()).collect(),
            bucket: "bucket".to_owned(),
            prefix: String::new(),
            region: "garage".to_owned(),
            path_style: true,
            access: StoreAccess::ReadWrite,
            expiry: None,
            claims: false,
            key: None,
        }
    }
}
