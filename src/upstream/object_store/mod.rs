//! A store of objects with the S3 protocol, which is asked for a package after the peers and before
//! the mirrors.
//!
//! * A package is the object `PREFIX/v1/<sha1>-<md5>-<size>`. It is requested with GET, never HEAD,
//!   and no index comes from here. Only claims are listed.
//! * The endpoints are nodes of one store: what one lacks, no other has. A node that fails is left
//!   out for a while (`tier`), and the next one goes on in the middle of a package.
//! * Redirects are not followed.
//!
//! | file | job |
//! |---|---|
//! | `claims` | has one machine of several fetch a package that the store lacks |
//! | `signature` | signs requests |
//! | `writes` | stores, renews and deletes objects |
//!
//! Not its job: trusting these bytes (`body`).

mod claims;
mod signature;
mod writes;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use url::Url;

use super::UpstreamError;
use super::client::{Client, RequestCondition, UpstreamResponse};
use super::retry::{self, PATIENCE};
use super::tier::{MemberReport, MemberSlot, StoreAnswer, Tier, TierKind, Wanted, fitting, total_of};
use crate::config::{BinhostUrl, ObjectStoreConfig, StoreAccess};
use crate::metrics::Metrics;
pub(super) use claims::DownloadClaims;
use claims::{ClaimRole, Claims};
use signature::{EMPTY, Headers};
use writes::WriteQueue;

/// The objects of this version of the keys are below it.
const VERSION: &str = "v1";
/// The largest object that a store takes in one piece, in bytes.
const MAX_OBJECT: u64 = 5 << 30;
/// How much of an error's text is read, to find the store's name for it.
const MAX_ERROR: usize = 8 << 10;
/// Time for the text of an error. A node may send it slower than anybody can wait.
const ERROR_PATIENCE: Duration = Duration::from_secs(1);

/// The counters of the nodes.
const KIND: TierKind = TierKind {
    name: "a node of the object store",
    hits: |metrics| &metrics.object_store_hits,
    misses: |metrics| &metrics.object_store_misses,
    failures: |metrics| &metrics.object_store_failures,
    wrong: |metrics| &metrics.object_store_wrong,
    bytes: |metrics| &metrics.object_store_bytes,
};

/// The nodes, each with a record of its reads and another one of its writes: a store that takes
/// nothing more can still be read.
#[derive(Debug)]
struct Nodes {
    reads: Tier,
    writes: Tier,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct ObjectStore {
    config: Arc<ObjectStoreConfig>,
    client: Client,
    nodes: Nodes,
    metrics: Arc<Metrics>,
    /// Whether this machine writes.
    writes: bool,
    queue: WriteQueue,
    /// `None`: this machine claims no package, and waits for none.
    claims: Option<Claims>,
}

impl ObjectStore {
    /// Prepares the HTTP client. No connection is made yet.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub(crate) fn new(config: Arc<ObjectStoreConfig>, metrics: Arc<Metrics>) -> Result<Option<Self>, UpstreamError> {
        // With the bucket in front of them, hosts have other names, and may be as near.
        let reached = config.endpoints.iter().filter_map(|base| object_url(&config, base, &[]).as_str().parse().ok());
        let client = Client::of_peers(&reached.collect::<Vec<BinhostUrl>>())?;
        let [reads, writes] = [(); 2].map(|()| Tier::new(KIND, &config.endpoints));
        let nodes = Nodes { reads, writes };
        let writes = config.access == StoreAccess::ReadWrite && config.key.is_some();
        let claims = || Claims::new(Arc::clone(&config), client.clone(), Arc::clone(&metrics), writes);
        let claims = config.claims.then(claims);
        Ok(Some(Self { config, client, nodes, metrics, writes, queue: WriteQueue::default(), claims }))
    }

    /// The nodes as those that are read.
    pub(super) fn tier(&self) -> &Tier {
        &self.nodes.reads
    }

    /// All records of the nodes.
    pub(super) fn tiers(&self) -> impl Iterator<Item = &Tier> {
        [&self.nodes.reads, &self.nodes.writes].into_iter().chain(self.claims.iter().map(Claims::tier))
    }

    /// Reports on the nodes, in the configured order.
    #[must_use]
    pub(crate) fn reports(&self) -> Vec<MemberReport> {
        self.nodes.reads.reports()
    }

    /// Bucket and prefix, for people.
    #[must_use]
    pub(crate) fn place(&self) -> String {
        match &*self.config.prefix {
            "" => self.config.bucket.clone(),
            prefix => format!("{}/{prefix}", self.config.bucket),
        }
    }

    /// Whether this machine writes into the store.
    #[must_use]
    pub(crate) fn is_written(&self) -> bool {
        self.writes
    }

    /// The next node from number `from` on that is to be asked now, and the URL of a package there.
    pub(super) fn next(&self, from: MemberSlot, wanted: &Wanted) -> Option<(MemberSlot, Url)> {
        if wanted.size > MAX_OBJECT {
            return None;
        }
        let (slot, base) = self.nodes.reads.next(from)?;
        Some((slot, self.object(&base, &wanted.key)))
    }

    /// Asks a node for a package, from the byte `offset` on.
    pub(super) async fn ask(&self, (slot, url): (MemberSlot, &Url), wanted: &Wanted, offset: u64) -> StoreAnswer {
        let began = Instant::now();
        match self.answer(url, wanted, offset).await {
            Ok(Some(answer)) => {
                self.nodes.reads.note_hit(slot, began.elapsed(), &self.metrics);
                StoreAnswer::Has { is_old: self.is_old(&answer), answer: Box::new(answer) }
            }
            Ok(None) => {
                self.nodes.reads.note_miss(slot, &self.metrics);
                StoreAnswer::Lacks
            }
            Err(UpstreamError::SizeMismatch { .. }) => {
                self.nodes.reads.note_wrong(slot, &self.metrics);
                StoreAnswer::Wrong
            }
            Err(error) => {
                self.nodes.reads.note_failure(slot, &error, &self.metrics);
                StoreAnswer::Failed
            }
        }
    }

    async fn answer(&self, url: &Url, wanted: &Wanted, offset: u64) -> Result<Option<UpstreamResponse>, UpstreamError> {
        let condition =
            if offset > 0 { RequestCondition::From { offset, validator: None } } else { RequestCondition::None };
        let headers = self.signed("GET", url, Headers::new(), EMPTY);
        let answer = self.client.ask_store(url, headers, condition, PATIENCE).await?;
        match answer.status() {
            200 | 206 => fitting(answer, wanted.size, offset).map(Some),
            // The object ends before the byte that is missing.
            416 if is_too_short(&answer, wanted.size, offset) => {
                let got = total_of(&answer).unwrap_or(offset);
                Err(UpstreamError::SizeMismatch { url: answer.url(), got, expected: wanted.size })
            }
            status => match (refusal(answer, ERROR_PATIENCE).await, status) {
                (UpstreamError::Store { code, .. }, 404 | 410) if code.as_deref() != Some("NoSuchBucket") => Ok(None),
                (error, _) => Err(error),
            },
        }
    }

    /// Whether an object has had half of its time, or a little more: machines that read it at the
    /// same time are not to renew it all at once.
    fn is_old(&self, answer: &UpstreamResponse) -> bool {
        let Some(expiry) = self.config.expiry else { return false };
        let modified = answer.last_modified().and_then(|text| httpdate::parse_http_date(&text).ok());
        let age = modified.and_then(|modified| SystemTime::now().duration_since(modified).ok());
        age.is_some_and(|age| age > expiry.mul_f64(0.5 + retry::random() / 8.0))
    }

    /// The URL of an object at a node.
    fn object(&self, base: &BinhostUrl, key: &str) -> Url {
        object_url(&self.config, base, &[VERSION, key])
    }

    /// The headers of a request, signed if there is a key.
    fn signed(&self, method: &str, url: &Url, headers: Headers, payload: &str) -> Headers {
        signed(&self.config, (method, url), headers, payload)
    }

    /// Claims a package that the store lacks, or waits for the machine that has claimed it. Returns
    /// whether the store is to be asked for the package again. Else the mirrors are to be asked.
    pub(super) async fn claim(&self, wanted: &Wanted, claims: &mut DownloadClaims) -> bool {
        match &self.claims {
            Some(all) => {
                let stores = self.writes && self.nodes.writes.has_healthy() && self.queue.may_claim(wanted.size);
                let role = if stores { ClaimRole::Owner } else { ClaimRole::Waiter };
                all.claim(wanted, claims, role).await
            }
            None => false,
        }
    }
}

/// The headers of a request, signed if there is a key.
fn signed(config: &ObjectStoreConfig, (method, url): (&str, &Url), mut headers: Headers, payload: &str) -> Headers {
    if let Some(key) = &config.key {
        let identity = (key, config.region.as_str());
        signature::sign(&mut headers, identity, (method, url), payload, SystemTime::now());
    }
    headers
}

/// The key of an object: its prefix, and these parts.
fn object_name(prefix: &str, parts: &[&str]) -> String {
    let parts = std::iter::once(prefix).chain(parts.iter().copied());
    parts.filter(|part| !part.is_empty()).collect::<Vec<&str>>().join("/")
}

/// The URL of an object at a node. Without parts of a key, the URL of the bucket.
fn object_url(config: &ObjectStoreConfig, base: &BinhostUrl, parts: &[&str]) -> Url {
    let ObjectStoreConfig { bucket, prefix, path_style, .. } = config;
    let name = if parts.is_empty() { String::new() } else { object_name(prefix, parts) };
    let mut url = base.join(&object_name(if *path_style { bucket } else { "" }, &[&name]));
    if !path_style {
        let host = format!("{bucket}.{}", base.host().unwrap_or_default());
        // It cannot fail: the configuration has neither an address nor a bucket that is no name.
        let _ = url.set_host(Some(&host));
    }
    url
}

/// Whether an object, of which there are no bytes from `offset` on, has another size than its key
/// says. A node that says nothing of the size is believed for an offset within the `size` of the
/// key.
fn is_too_short(answer: &UpstreamResponse, size: u64, offset: u64) -> bool {
    total_of(answer).map_or(offset < size, |total| total != size)
}

/// The text of an answer: its first `most` bytes, as far as they come within `patience`.
async fn text_of(answer: &mut UpstreamResponse, most: usize, patience: Duration) -> String {
    let mut text = Vec::new();
    let reading = async {
        while text.len() < most
            && let Ok(Some(piece)) = answer.chunk(patience).await
        {
            text.extend_from_slice(&piece);
        }
    };
    // What came until then is enough.
    let _ = tokio::time::timeout(patience, reading).await;
    String::from_utf8_lossy(&text).into_owned()
}

/// The error that an answer is, with the store's name for it, if that comes within `patience`.
async fn refusal(mut answer: UpstreamResponse, patience: Duration) -> UpstreamError {
    let text = text_of(&mut answer, MAX_ERROR, patience).await;
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
    let code = code.filter(|code| (1..=64).contains(&code.len()) && code.chars().all(|c| c.is_ascii_alphanumeric()));
    UpstreamError::Store { url: answer.url(), status: answer.status(), code: code.map(str::to_owned) }
}

#[cfg(test)]
mod tests;
