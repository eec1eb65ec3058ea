//! Counters and histograms of the daemon. Their names and meanings are defined here only.
//!
//! A counter of [`Metrics`] is `binhostfs_<name>_total` in Prometheus' text format, and its doc
//! comment is its HELP text. [`Detail`] has the measurements with labels. All values are atomics:
//! counting takes no lock, and histograms have fixed buckets. Names are stable: new ones may be
//! added, none changes its meaning. docs/reference/metrics.md is made from all that `/metrics` has.
//!
//! Not its job: values that are measured when a client asks (the cache, mirrors). `control`
//! collects these.

mod detail;
mod exposition;
mod histogram;

use std::sync::atomic::Ordering;

use portable_atomic::AtomicU64;
use serde::{Deserialize, Serialize};

pub(crate) use detail::{Detail, Operation, Outcome, RefusalKind, Timed};
pub(crate) use exposition::{Exposition, FamilyKind};
pub(crate) use histogram::{Histogram, HistogramReading};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident),+ $(,)?) => {
        /// Numbers that only grow while the daemon runs.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[doc = $doc])+ pub $name: Counter,)+
            /// Measurements that have labels.
            pub detail: Detail,
        }

        /// Values of the counters at one moment.
        #[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Readings { $($(#[doc = $doc])+ pub $name: u64),+ }

        impl Metrics {
            /// Reads all counters without labels.
            #[must_use]
            pub fn read(&self) -> Readings {
                Readings { $($name: self.$name.get()),+ }
            }
        }

        impl Readings {
            /// Iterates over the counters as Prometheus has them: name, HELP text, value.
            pub fn counters(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((concat!("binhostfs_", stringify!($name), "_total"), concat!($($doc),+).trim_ascii(), self.$name)),+]
                    .into_iter()
            }
        }
    };
}

counters! {
    /// Opens of packages that were in the cache.
    hits,
    /// Opens of packages that were not in the cache.
    misses,
    /// Opens that ended with an error.
    failed_opens,
    /// Opens given up because the caller was interrupted or died.
    interrupted_opens,
    /// Downloads started; one download may serve many opens.
    downloads,
    /// Downloads whose bytes were verified.
    verified,
    /// Downloads refused because the bytes contradict the index entry.
    refused,
    /// Index entries found to differ from their package.
    index_mismatches,
    /// Verified packages that had other bytes in an earlier verification, with the same BUILD_ID.
    alarms,
    /// Blobs on disk without a record that were proved again and taken back into the cache.
    recovered,
    /// Bytes of packages received from binhosts.
    bytes_fetched,
    /// Requests to binhosts that had to be repeated.
    retries,
    /// Downloads continued in the middle of a file.
    resumes,
    /// Blobs in the cache that were read again to find damage.
    scrubbed,
    /// Damaged blobs found and removed from the cache.
    damaged,
    /// Blobs evicted to keep the cache within its limit.
    evicted,
    /// Verified packages served without being kept (no space, or larger than the cache).
    transient_blobs,
    /// Opens refused because a job that is no emerge reads one package after the other.
    bulk_reads_refused,
    /// Index refreshes that brought a new generation.
    refreshes,
    /// Index refreshes that found nothing changed.
    unmodified,
    /// Failures of index refreshes; one refresh may fail for several binhosts.
    failed_refreshes,
    /// Downloads that continued at another URL, because one failed or was slow.
    mirror_switches,
    /// Packages fetched before an open, because a running emerge plans to merge them.
    prefetched,
    /// Packages opened after a prefetch for an emerge had begun or ended.
    prefetch_hits,
    /// Bytes of packages fetched before an open for a running emerge.
    prefetched_bytes,
    /// Packages fetched on request (`binhostfs prefetch`), before any open.
    requested_prefetches,
    /// Bytes of packages fetched on request (`binhostfs prefetch`).
    requested_prefetch_bytes,
    /// Packages fetched while the daemon was idle, as upgrades of installed packages.
    upgrade_prefetches,
    /// Bytes received for upgrades while idle, including downloads that were cancelled.
    upgrade_prefetch_bytes,
    /// Packages fetched for an emerge, wholly or in part, but not opened before it ended.
    prefetch_wasted,
    /// Bytes of packages and of Packages read through the daemon, not by the kernel itself.
    bytes_served,
    /// Opens whose reads the kernel does itself (passthrough), so that no counter has their bytes.
    passthrough_opens,
    /// Requests of other machines that were answered (`serve`).
    serve_requests,
    /// Packages sent to other machines by digest (`/v1/blob`), whole or in part.
    serve_blobs,
    /// Bytes sent to other machines.
    serve_bytes,
    /// Packages that peers had, whether or not they proved right.
    peer_hits,
    /// Requests for packages that a peer did not have.
    peer_misses,
    /// Requests to peers that failed: each makes the peer rest for a while.
    peer_failures,
    /// Packages of peers whose bytes proved wrong.
    peer_wrong,
    /// Bytes of packages received from peers; they are also among those of binhosts.
    peer_bytes,
    /// Packages that the object store had, whether or not they proved right.
    object_store_hits,
    /// Requests for packages that the object store did not have.
    object_store_misses,
    /// Requests to nodes of the object store that failed: each makes the node rest for a while.
    object_store_failures,
    /// Packages of the object store whose bytes proved wrong.
    object_store_wrong,
    /// Bytes of packages received from the object store; they are also among those of binhosts.
    object_store_bytes,
    /// Packages put into the object store.
    object_store_puts,
    /// Bytes of packages put into the object store.
    object_store_put_bytes,
    /// Objects in the object store that were copied onto themselves, so that they do not expire.
    object_store_renewed,
    /// Objects in the object store that were replaced, or else deleted, because their bytes
    /// contradict their key.
    object_store_repaired,
    /// Writes to the object store that failed.
    object_store_write_failures,
    /// Packages not put into the object store, because too many waited.
    object_store_skipped,
    /// Packages that this machine claimed in the object store, to fetch them for others, too.
    object_store_claims,
    /// Waits for a package that another machine had claimed.
    object_store_claim_waits,
    /// Waits for a claimed package that were given up: the mirrors were asked.
    object_store_claim_timeouts,
    /// Connections of other machines refused because there were too many.
    serve_refused_connections,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one to the counter.
    pub fn increase(&self) {
        self.add(1);
    }

    /// Adds `n` to the counter.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Returns the present value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
