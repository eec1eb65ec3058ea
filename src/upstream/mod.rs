//! Fetches the index and the packages of a binhost, over http, https or from a directory.
//!
//! | file | job |
//! |---|---|
//! | `index` | the index, from the best URL |
//! | `body` | one package as a stream that survives breaks |
//! | `head` | some bytes of a package, by Range |
//! | `candidates` | the URLs of one file, and which is asked next |
//! | `sharers` | those that are asked first: peers, then the object store |
//! | `tier` | their records |
//! | `peers` | other binhostfs |
//! | `object_store` | a store with the S3 protocol |
//! | `no_object_store` | stands in for it in a program that is built without |
//! | `mirrors` | the URLs of one binhost and their order |
//! | `health` | the record of one URL |
//! | `mirror_tracker` | the mirrors as their requests share them: lock, clock, random numbers |
//! | `retry` | which failures are retried, where and when |
//! | `package_urls` | the URLs of the packages of an index |
//! | `reach` | the addresses to which an index or a redirect may lead |
//! | `throughput` | the rate of a connection |
//! | `unpack` | an index as received -> decompressed, within a bound |
//! | `client` | HTTP; only it names reqwest, and a script of answers for tests |
//! | `local` | `file:` binhosts |
//! | `error` | errors of requests |
//! | `scene` | tests: one package at peers and mirrors that answer as the test says |
//!
//! * The index is requested conditionally (ETag, Last-Modified) and written to a file decompressed,
//!   within a bound.
//! * A package is a plain GET. Range with If-Range is used only to continue after a break. All
//!   bytes returned are unverified.
//! * Timeouts: 2 s to connect, and 10 s of silence, or 3 s if another URL is available. A minimum
//!   rate makes sure that nothing hangs for ever. The number of tries without progress is bounded,
//!   with jittered backoff.
//! * A binhost may have several URLs with the same content. After a failure another URL is asked at
//!   once, and continues where the first one broke off. The failed URL backs off, and costs the
//!   next packages nothing. A download leaves a URL that is much slower than another one was, a
//!   bounded number of times.
//! * `mirrors` decides which URL is asked first, `package_urls` finds the URLs of packages.
//! * Redirects are bounded and never lead from https to http.
//! * `retry` alone decides which requests are repeated, at which URL and when.
//!
//! Not its job: trusting or verifying any of these bytes.

mod body;
mod candidates;
mod client;
mod error;
mod head;
mod health;
mod index;
mod local;
mod mirror_tracker;
mod mirrors;
#[cfg_attr(not(feature = "object-store"), path = "no_object_store.rs")]
mod object_store;
mod package_urls;
mod peers;
mod reach;
mod retry;
#[cfg(test)]
mod scene;
mod sharers;
mod throughput;
mod tier;
mod unpack;

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::Instant;

pub(crate) use body::{BodyFault, BodyStream, Event, ResumePoint};
#[cfg(test)]
pub(crate) use client::script::{Act, Answer, ScriptedBinhost, ScriptedServer};
pub(crate) use error::UpstreamError;
pub(crate) use health::HealthState;
pub(crate) use index::{IndexAnswer, IndexTarget, Validators};
pub(crate) use mirror_tracker::{Active, UrlReport};
pub(crate) use object_store::ObjectStore;
pub(crate) use retry::jittered;
pub use retry::{NO_PROGRESS_BUDGET, PATIENCE, STALL_TIMEOUT};
pub(crate) use tier::{MemberCounts, MemberReport, ProvedPackage};

use crate::config::{BinhostConfig, BinhostUrl};
use crate::metrics::Metrics;
use candidates::{Candidates, UrlCandidate};
use mirror_tracker::MirrorTracker;
use package_urls::PackageUrls;
use sharers::Sharers;

/// One binhost, its mirrors and the connections to it.
#[derive(Debug)]
pub(crate) struct Upstream {
    client: client::Client,
    binhost: BinhostConfig,
    metrics: Arc<Metrics>,
    mirrors: MirrorTracker,
    sharers: Sharers,
    /// Permits to read from a `file:` URL.
    local_reads: Arc<Semaphore>,
}

impl Upstream {
    /// Prepares the HTTP client. No connection is made yet.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub(crate) fn new(
        binhost: BinhostConfig,
        metrics: Arc<Metrics>,
        store: Option<Arc<ObjectStore>>,
    ) -> Result<Self, UpstreamError> {
        let (client, untrusting) = client::Client::new(reach::Reach::new(&binhost.urls))?;
        if let Some(reason) = untrusting.filter(|_| binhost.urls.iter().any(BinhostUrl::is_https)) {
            tracing::warn!(
                reason,
                "no https server can be trusted: install the system's CA certificates, then restart"
            );
        }
        let mirrors = MirrorTracker::new(&binhost.urls);
        let sharers = Sharers::new(&binhost, store, Arc::clone(&metrics))?;
        let local_reads = Arc::new(Semaphore::new(local::MAX_READS));
        Ok(Self { client, binhost, metrics, mirrors, sharers, local_reads })
    }

    /// The configuration of the binhost.
    #[must_use]
    pub(crate) fn binhost(&self) -> &BinhostConfig {
        &self.binhost
    }

    /// Reports on the URLs, in the order in which they would be asked now.
    #[must_use]
    pub(crate) fn url_reports(&self) -> Vec<UrlReport> {
        self.mirrors.url_reports()
    }

    /// Reports on the peers, in the order in which they are asked.
    #[must_use]
    pub(crate) fn peer_reports(&self) -> Vec<MemberReport> {
        self.sharers.peers().tier().reports()
    }

    /// Ends the backoff of peers and object store, because the network has changed.
    pub(crate) fn network_changed(&self) {
        self.sharers.network_changed();
    }

    /// Ends backoff and distrust of all URLs, peers and the object store, on request of an
    /// administrator.
    pub(crate) fn allow_retries(&self) {
        self.sharers.allow_retries();
        self.mirrors.allow_retries();
    }

    /// Counts a download as active, when it starts or continues.
    #[must_use]
    pub(crate) fn begin(&self) -> Active {
        self.mirrors.begin()
    }

    /// Why no package can be fetched: the header of the index has a `uri` that cannot be requested.
    /// `None`: no such reason is known.
    #[must_use]
    pub(crate) fn nowhere(&self, uri: Option<&str>) -> Option<String> {
        let uri = uri.filter(|uri| package_urls::is_nowhere(&self.binhost.urls, uri))?;
        let shown: String = uri.chars().take(100).map(|c| if c.is_control() { ' ' } else { c }).collect();
        Some(format!(
            "its index says that the packages are at {shown} (URI), and only http, https and file can be asked"
        ))
    }

    /// Starts to read the package at `path` of `size` bytes. `uri` is the URI of the index header,
    /// if it has one: the packages are then at that URI, and not beside the index.
    #[must_use]
    pub(crate) fn body(&self, uri: Option<&str>, path: &str, size: u64) -> BodyStream<'_> {
        BodyStream::new(self, self.candidates(uri, path, size), size)
    }

    /// Returns the URLs of a package of which `size` bytes are to be fetched.
    fn candidates(&self, uri: Option<&str>, path: &str, size: u64) -> Candidates {
        let PackageUrls { elsewhere, configured, refused } = PackageUrls::new(&self.binhost.urls, uri, path);
        if let Some(reason) = refused {
            tracing::warn!(uri, reason, "the index names another place for its packages, which is not used");
        }
        let mut mirrors = self.mirrors.lock();
        let named = elsewhere.map(|base| (mirrors.slot_of(&base), base.join(path)));
        let first = match &named {
            Some((slot, _)) => Some(*slot),
            None if size >= health::MIN_SAMPLE => mirrors.chance(Instant::now()),
            None => None,
        };
        drop(mirrors);
        let all = named.into_iter().chain(configured).map(|(slot, url)| UrlCandidate::new(slot, url)).collect();
        Candidates::new(all, first)
    }

    /// Asks the first URL of a package for properties that change when its bytes do, without the
    /// bytes. `None`: the package is missing, or the URL cannot be asked now.
    pub(crate) async fn probe(&self, uri: Option<&str>, path: &str) -> Option<String> {
        let places = PackageUrls::new(&self.binhost.urls, uri, path);
        let url = places.first(path)?;
        if url.scheme() == "file" {
            let (file, size) = local::open(&url).await.ok()?;
            let modified = file.metadata().ok()?.modified().ok()?;
            return Some(format!("{size} {modified:?}"));
        }
        let slot = places.elsewhere.map_or(0, |base| self.mirrors.lock().slot_of(&base));
        if self.mirrors.lock().state(slot, Instant::now()) >= HealthState::Probing {
            return None;
        }
        let said = self.client.head(&url).await;
        said.inspect_err(|error| self.mirrors.note_failure(Some(slot), error)).ok()?
    }
}
