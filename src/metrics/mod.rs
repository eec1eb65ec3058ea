//! Counters and gauges of the daemon. Names and meaning stand here and nowhere else.
//!
//! Not its job: how they are shown.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident),+ $(,)?) => {
        /// Numbers that only grow while the daemon lives.
        #[derive(Debug, Default)]
        pub struct Metrics { $($(#[doc = $doc])+ pub $name: Counter),+ }

        /// The numbers at one moment.
        #[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Readings { $($(#[doc = $doc])+ pub $name: u64),+ }

        impl Metrics {
            /// Reads all of them.
            #[must_use]
            pub fn read(&self) -> Readings {
                Readings { $($name: self.$name.get()),+ }
            }
        }
    };
}

counters! {
    /// Packages opened that were in the cache.
    hits,
    /// Packages opened that were not.
    misses,
    /// Opens that ended with an error.
    failed_opens,
    /// Opens given up because the caller was interrupted or died.
    interrupted_opens,
    /// Downloads begun (one may serve many opens).
    downloads,
    /// Downloads that were verified.
    verified,
    /// Downloads refused because the bytes are not what the index names.
    refused,
    /// Verified packages that had other bytes when they were verified before, with the same BUILD_ID.
    alarms,
    /// Bodies that were on disk without a record, proved again and taken back.
    adopted,
    /// Bytes of packages received from binhosts.
    bytes_fetched,
    /// Requests that had to be repeated.
    retries,
    /// Downloads continued in the middle.
    resumes,
    /// Cached bodies that were read again.
    scrubbed,
    /// Of these, damaged ones: removed.
    damaged,
    /// Bodies evicted to stay within the bound.
    evicted,
    /// Verified bodies served without being kept (no space, or larger than the cache).
    unkept,
    /// Opens refused since something that is no emerge reads one package after the other.
    mass_reads,
    /// Index refreshes that brought a new generation.
    refreshes,
    /// Index refreshes answered with "not modified".
    unmodified,
    /// Index refreshes that failed.
    failed_refreshes,
    /// Downloads that went on at another URL, because one failed or was slow.
    switched,
    /// Packages fetched before anybody opened them, since an emerge was going to.
    prefetched,
    /// Of the packages fetched or being fetched ahead, those that were opened then.
    prefetch_hits,
    /// Bytes of packages fetched ahead.
    prefetched_bytes,
}

/// One number.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increase(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
