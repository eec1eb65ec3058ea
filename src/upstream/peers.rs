//! Other binhostfs that are asked for a package before the mirrors, by the package's digests.
//!
//! * A peer may be absent at any time, and costs little then: 1 s to connect, once. After a failure
//!   the peer is left out for a while, longer each time, and then a single download tries it.
//! * A peer that lacks a package costs one request, and is asked for the next one as before.
//! * A peer that fetches the package answers 202 until it has it. The download waits as long as the
//!   peer makes progress, within a bound: the whole point of a hub is that it fetches only once.
//! * Redirects of a peer are not followed: they could lead anywhere in the neighbourhood.
//!
//! Not its job: trusting these bytes, and what follows when they prove wrong (`body`).

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use url::Url;

use super::client::{Client, RequestCondition, UpstreamResponse};
use super::health::{Health, HealthState};
use super::mirror_tracker::UrlReport;
use super::retry::{self, PATIENCE, STALL_TIMEOUT};
use super::{Upstream, UpstreamError};
use crate::config::{BinhostConfig, BinhostUrl};
use crate::metrics::Metrics;

/// Directory of the blobs at a peer.
const BLOBS: &str = "v1/blob";
/// Header of a 202: `own-N` when the peer has N bytes of the package, `all-N` when the package waits
/// for its turn at the peer.
const PROGRESS: &str = "binhostfs-progress";
/// How long a peer holds a request before it answers 202, and some time to answer.
const HELD: Duration = Duration::from_secs(2).saturating_add(PATIENCE);
/// Shortest time from one request for the same package to the next.
const PACE: Duration = Duration::from_millis(200);
/// How long a peer may fetch a package, with its progress, and the rate in bytes/s that adds to it.
const MAX_FETCH: (Duration, u64) = (Duration::from_secs(120), 1 << 20);
/// How long a package may wait for its turn at a peer.
const MAX_QUEUE: Duration = Duration::from_secs(30);
/// Bytes that a peer fetches within [`STALL_TIMEOUT`] at least.
const LEAST: u64 = (16 << 10) * STALL_TIMEOUT.as_secs();

/// Number of a peer, in the configured order.
pub(super) type PeerSlot = usize;

/// What is asked for: a package at an offset.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// `<sha1>-<md5>-<size>`.
    pub(super) key: String,
    /// PATH at the binhost.
    pub(super) path: String,
    pub(super) size: u64,
}

#[derive(Debug)]
struct Peer {
    base: BinhostUrl,
    health: Health,
    counts: PeerCounts,
}

/// What a peer has had of the packages that it was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PeerCounts {
    pub hits: u64,
    pub misses: u64,
    pub bytes: u64,
}

/// State of one peer, for status output.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PeerReport {
    pub url: UrlReport,
    pub counts: PeerCounts,
}

/// The peers of one binhost, in the configured order.
#[derive(Debug)]
pub(super) struct Peers {
    /// `None`: no peer is configured, or the binhost is not shared.
    client: Option<Client>,
    all: Mutex<Vec<Peer>>,
}

impl Peers {
    /// Prepares the HTTP client. No connection is made yet.
    pub(super) fn new(binhost: &BinhostConfig) -> Result<Self, UpstreamError> {
        let urls: &[BinhostUrl] = if binhost.share { &binhost.peers } else { &[] };
        let client = (!urls.is_empty()).then(|| Client::of_peers(urls)).transpose()?;
        let peer =
            |base: &BinhostUrl| Peer { base: base.clone(), health: Health::default(), counts: PeerCounts::default() };
        Ok(Self { client, all: Mutex::new(urls.iter().map(peer).collect()) })
    }

    /// The next peer from number `from` on that is to be asked now, and the URL of a package there.
    pub(super) fn next(&self, from: PeerSlot, wanted: &Wanted) -> Option<(PeerSlot, Url)> {
        let (mut all, now) = (self.all.lock(), Instant::now());
        let (slot, peer) =
            all.iter_mut().enumerate().skip(from).find(|(_, peer)| peer.health.state(now) == HealthState::Healthy)?;
        peer.health.note_request(now);
        let mut url = peer.base.join(&format!("{BLOBS}/{}", wanted.key));
        url.query_pairs_mut().append_pair("fetch", "true").append_pair("path", &wanted.path);
        Some((slot, url))
    }

    /// Asks a peer for a package, from the byte `offset` on. `None`: the peer does not have it.
    pub(super) async fn ask(
        &self,
        (slot, url): (PeerSlot, &Url),
        wanted: &Wanted,
        offset: u64,
        metrics: &Metrics,
    ) -> Option<UpstreamResponse> {
        let began = Instant::now();
        match self.answer(url, wanted, offset).await {
            Ok(Some(answer)) => {
                metrics.peer_hits.increase();
                self.note(slot, |peer| {
                    peer.health.note_response(began.elapsed());
                    peer.counts.hits += 1;
                });
                Some(answer)
            }
            Ok(None) => {
                metrics.peer_misses.increase();
                self.note(slot, |peer| {
                    peer.health.served();
                    peer.counts.misses += 1;
                });
                None
            }
            Err(error) => {
                self.note_failure(slot, &error, metrics);
                None
            }
        }
    }

    async fn answer(&self, url: &Url, wanted: &Wanted, offset: u64) -> Result<Option<UpstreamResponse>, UpstreamError> {
        let Some(client) = &self.client else { return Ok(None) };
        let mut wait = Wait::new(wanted.size, Instant::now());
        loop {
            let asked = Instant::now();
            let condition =
                if offset > 0 { RequestCondition::From { offset, validator: None } } else { RequestCondition::None };
            let answer = client.ask_peer(url, condition, HELD).await?;
            match answer.status() {
                200 | 206 => return fitting(answer, wanted.size, offset).map(Some),
                202 => {}
                // It answers, and has other troubles than its absence.
                404 | 410 | 416 | 429 | 500..=599 => return Ok(None),
                status => return Err(UpstreamError::Status { url: answer.url(), status, retry_after: None }),
            }
            if !wait.goes_on(answer.header_text(PROGRESS).as_deref(), Instant::now()) {
                return Err(UpstreamError::Stalled { url: answer.url(), after: wait.since.elapsed() });
            }
            tokio::time::sleep(PACE.saturating_sub(asked.elapsed())).await;
        }
    }

    /// Notes a failure of a peer: it is left out for a while.
    pub(super) fn note_failure(&self, slot: PeerSlot, error: &UpstreamError, metrics: &Metrics) {
        metrics.peer_failures.increase();
        let random = retry::random();
        self.note(slot, |peer| {
            if peer.health.failures() == 0 {
                tracing::info!(%error, peer = %peer.base, "a peer fails, and is not asked for a while");
            }
            let backoff = |failures| retry::backoff(failures, random);
            peer.health.failed(Instant::now(), error.to_string(), backoff, Duration::ZERO);
        });
    }

    /// Notes that a package came to its end from a peer.
    pub(super) fn note_served(&self, slot: PeerSlot) {
        self.note(slot, |peer| peer.health.served());
    }

    /// Notes bytes from a peer.
    pub(super) fn note_bytes(&self, slot: PeerSlot, bytes: u64, metrics: &Metrics) {
        metrics.peer_bytes.add(bytes);
        self.note(slot, |peer| peer.counts.bytes += bytes);
    }

    /// Notes that a peer served wrong bytes: it is not asked for a while.
    pub(super) fn note_wrong(&self, slot: PeerSlot, metrics: &Metrics) {
        metrics.peer_wrong.increase();
        self.note(slot, |peer| {
            tracing::warn!(peer = %peer.base, "a peer served wrong bytes, and is not asked for a while");
            peer.health.wrong(Instant::now());
        });
    }

    /// Ends backoff and distrust of all peers.
    pub(super) fn allow_retries(&self) {
        self.all.lock().iter_mut().for_each(|peer| peer.health.retry_allowed());
    }

    /// Ends the backoff of all peers: the network has changed.
    pub(super) fn network_changed(&self) {
        self.all.lock().iter_mut().for_each(|peer| peer.health.network_changed());
    }

    /// The URL of a peer, without credentials.
    pub(super) fn display_url(&self, slot: PeerSlot) -> String {
        self.all.lock().get(slot).map(|peer| peer.base.to_string()).unwrap_or_default()
    }

    /// Reports on all peers, in the configured order.
    fn reports(&self) -> Vec<PeerReport> {
        let (all, now) = (self.all.lock(), Instant::now());
        let report =
            |peer: &Peer| PeerReport { url: UrlReport::new(&peer.base, &peer.health, now), counts: peer.counts };
        all.iter().map(report).collect()
    }

    fn note(&self, slot: PeerSlot, what: impl FnOnce(&mut Peer)) {
        if let Some(peer) = self.all.lock().get_mut(slot) {
            what(peer);
        }
    }
}

impl Upstream {
    /// Reports on the peers, in the order in which they are asked.
    #[must_use]
    pub(crate) fn peer_reports(&self) -> Vec<PeerReport> {
        self.peers.reports()
    }
}

/// The wait for a package that a peer fetches.
#[derive(Debug)]
struct Wait {
    size: u64,
    began: Instant,
    /// The last progress, and the bytes that the peer had then.
    since: Instant,
    own: Option<u64>,
    all: u64,
}

impl Wait {
    fn new(size: u64, began: Instant) -> Self {
        Self { size, began, since: began, own: None, all: 0 }
    }

    /// Notes the progress that the peer reports, and judges whether the wait is worth it.
    fn goes_on(&mut self, progress: Option<&str>, now: Instant) -> bool {
        let waited = now.saturating_duration_since(self.began);
        let number = |prefix| progress?.strip_prefix(prefix)?.parse::<u64>().ok();
        let progresses = match (number("own-"), number("all-")) {
            (Some(own), _) if own <= self.size => self.fetches(own),
            (_, Some(all)) if waited < MAX_QUEUE => std::mem::replace(&mut self.all, all) < all,
            _ => false,
        };
        if progresses {
            self.since = now;
        }
        let (most, rate) = MAX_FETCH;
        let most = most.saturating_add(Duration::from_secs(self.size / rate));
        now.saturating_duration_since(self.since) < STALL_TIMEOUT && waited < most
    }

    /// Whether the peer has begun, has enough new bytes, or the last ones.
    fn fetches(&mut self, own: u64) -> bool {
        let is_news =
            self.own.is_none_or(|before| own >= before.saturating_add(LEAST) || before < own && own == self.size);
        if is_news {
            self.own = Some(own);
        }
        is_news
    }
}

/// Refuses an answer of another size or another part than the requested one.
fn fitting(answer: UpstreamResponse, size: u64, offset: u64) -> Result<UpstreamResponse, UpstreamError> {
    if answer.status() == 206 {
        let range = answer.content_range().unwrap_or_default();
        if offset == 0 || range != format!("bytes {offset}-{}/{size}", size - 1) {
            return Err(UpstreamError::WrongRange { url: answer.url(), range });
        }
        return Ok(answer);
    }
    match answer.length() {
        Some(got) if got == size => Ok(answer),
        got => Err(UpstreamError::SizeMismatch { url: answer.url(), got: got.unwrap_or_default(), expected: size }),
    }
}

#[cfg(test)]
mod tests;
