//! Counters and histograms of the daemon. Names and meaning stand here and nowhere else.
//!
//! A counter of [`Metrics`] is `binhostfs_<name>_total` in Prometheus' text format, and its documentation is its HELP; what
//! has labels is in [`Detail`]. All of it is atomics: counting takes no lock, and histograms have fixed buckets. Names are
//! stable: one may be added, none changes its meaning. `README.md` lists all that `/metrics` has, and a test holds it to that.
//!
//! Not its job: what is not counted but looked at when somebody asks (the cache, mirrors): that is `control`'s.

mod detail;
mod exposition;
mod histogram;

use std::sync::atomic::Ordering;

use portable_atomic::AtomicU64;
use serde::{Deserialize, Serialize};

pub use detail::{Detail, Operation, Outcome, RefusalKind, Timed};
pub use exposition::{Exposition, Family, FamilyKind};
pub use histogram::{Histogram, HistogramReading};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident),+ $(,)?) => {
        /// Numbers that only grow while the daemon lives.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[doc = $doc])+ pub $name: Counter,)+
            /// What has labels.
            pub detail: Detail,
        }

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

        impl Readings {
            /// All of them as Prometheus has them: name, meaning, value.
            pub fn counters(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((concat!("binhostfs_", stringify!($name), "_total"), concat!($($doc),+).trim_ascii(), self.$name)),+]
                    .into_iter()
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
    /// Index entries found to say something else of their package than the package.
    index_mismatches,
    /// Verified packages that had other bytes when they were verified before, with the same BUILD_ID.
    alarms,
    /// Bodies that were on disk without a record, proved again and taken back.
    recovered,
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
    transient_blobs,
    /// Opens refused since something that is no emerge reads one package after the other.
    bulk_reads_refused,
    /// Index refreshes that brought a new generation.
    refreshes,
    /// Index refreshes answered with "not modified".
    unmodified,
    /// Index refreshes that failed.
    failed_refreshes,
    /// Downloads that went on at another URL, because one failed or was slow.
    mirror_switches,
    /// Packages fetched before anybody opened them, since an emerge was going to.
    prefetched,
    /// Of the packages fetched or being fetched ahead, those that were opened then.
    prefetch_hits,
    /// Bytes of packages fetched ahead.
    prefetched_bytes,
    /// Packages fetched before anybody opened them, since somebody asked for that (`binhostfs prefetch`).
    requested_prefetches,
    /// Bytes of these.
    requested_prefetch_bytes,
    /// Packages fetched while nothing else was to do, since what is installed can be upgraded to them.
    upgrade_prefetches,
    /// Bytes received for these, also where they were broken off.
    upgrade_prefetch_bytes,
    /// Packages fetched ahead, or begun, that nobody had opened when their emerge ended.
    prefetch_wasted,
    /// Bytes of packages and of Packages that were read through the daemon. What the kernel reads by itself (passthrough, and its page cache) is not in it.
    bytes_served,
    /// Opens whose reads the kernel does by itself (passthrough): their bytes are in no counter.
    passthrough_opens,
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
