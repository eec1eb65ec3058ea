//! Bytes of a binhost: its index and its packages, over http, https or from a directory.
//!
//! * The index is asked for conditionally (ETag, Last-Modified) and written to a file decompressed, within a bound.
//! * A package is a plain GET; Range with If-Range only to go on after a break. What comes back is unverified.
//! * Times: connect 2 s, silence 10 s, and a floor on the rate, so that nothing hangs for ever; a bounded number of tries
//!   without progress, with jittered backoff; then the next URL.
//! * Redirects are bounded and never lead from https to http.
//! * What may be repeated and what not is decided in `retry` alone.
//!
//! Not its job: believing any of it.

mod body;
mod client;
mod error;
mod index;
mod local;
mod retry;

use std::sync::Arc;

use url::Url;

pub use body::{BodyStream, Event};
pub use error::UpstreamError;
pub use index::{IndexAnswer, MAX_INDEX_BYTES, Validators};
pub use retry::{ATTEMPTS, NO_PROGRESS_BUDGET, STALL_TIMEOUT, jittered};

use crate::config::{Binhost, BinhostUrl};
use crate::metrics::Metrics;

/// One binhost and the connections to it.
#[derive(Debug)]
pub struct Upstream {
    client: client::Client,
    binhost: Binhost,
    metrics: Arc<Metrics>,
}

impl Upstream {
    /// Prepares connections; none is made yet.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(binhost: Binhost, metrics: Arc<Metrics>) -> Result<Self, UpstreamError> {
        let (client, untrusting) = client::Client::new()?;
        if let Some(reason) = untrusting.filter(|_| binhost.urls.iter().any(BinhostUrl::is_https)) {
            tracing::warn!(
                reason,
                "no https server can be trusted: install the system's CA certificates, then restart"
            );
        }
        Ok(Self { client, binhost, metrics })
    }

    /// The binhost.
    #[must_use]
    pub fn binhost(&self) -> &Binhost {
        &self.binhost
    }

    /// Starts to read the package at `path` of `size` bytes. `uri` is the URI of the index header, if it has one: packages
    /// are then there, and not beside the index.
    #[must_use]
    pub fn body(&self, uri: Option<&str>, path: &str, size: u64) -> BodyStream<'_> {
        let sources = self.package_bases(uri).iter().map(|base| base.join(path)).collect();
        BodyStream::new(&self.client, &self.metrics, sources, size)
    }

    /// What the first URL of a package says of it without sending it: changes when its bytes do. `None`: it is not there, or
    /// cannot be asked.
    pub async fn probe(&self, uri: Option<&str>, path: &str) -> Option<String> {
        let url = self.package_bases(uri).first()?.join(path);
        if url.scheme() != "file" {
            return self.client.head(&url).await;
        }
        let (file, size) = local::open(&url).await.ok()?;
        let modified = file.metadata().ok()?.modified().ok()?;
        Some(format!("{size} {modified:?}"))
    }

    fn package_bases(&self, uri: Option<&str>) -> Vec<BinhostUrl> {
        match uri.map(|uri| self.usable_uri(uri)) {
            Some(Ok(base)) => vec![base],
            Some(Err(reason)) => {
                tracing::warn!(uri, reason, "the index names another place for its packages, which is not used");
                self.binhost.urls.clone()
            }
            None => self.binhost.urls.clone(),
        }
    }

    /// The index comes from outside: it must not lead to local files, nor from https to http.
    fn usable_uri(&self, uri: &str) -> Result<BinhostUrl, &'static str> {
        let base: BinhostUrl = uri.parse().map_err(|_| "not an http or https URL")?;
        let (files, secure) =
            (self.binhost.urls.iter().all(BinhostUrl::is_file), self.binhost.urls.iter().all(BinhostUrl::is_https));
        if base.is_file() && !files {
            return Err("it leads to local files");
        }
        if secure && !base.is_https() {
            return Err("it leads from https to http");
        }
        Ok(base)
    }

    /// The URLs of the index, most wanted first: compressed and plain of each mirror in turn.
    fn index_urls(&self, base: &BinhostUrl) -> [Url; 2] {
        [base.join("Packages.gz"), base.join("Packages")]
    }
}
