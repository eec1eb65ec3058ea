//! Other binhostfs that are asked for a package before the mirrors, by the package's digests.
//!
//! * A peer may be absent at any time, and costs little then: 1 s to connect, once (`tier`).
//! * A peer that lacks a package costs one request, and is asked for the next one as before.
//! * A peer that fetches the package answers 202 until it has it. The download waits as long as the
//!   peer makes progress, within a bound: the whole point of a hub is that it fetches only once.
//! * Redirects of a peer are not followed: they could lead anywhere in the neighbourhood.
//!
//! Not its job: trusting these bytes, and what follows when they prove wrong (`body`).

use std::time::Duration;

use tokio::time::Instant;
use url::Url;

use super::UpstreamError;
use super::client::{Client, RequestCondition, UpstreamResponse};
use super::retry::{PATIENCE, STALL_TIMEOUT};
use super::tier::{MemberSlot, Tier, TierKind, Wanted, fitting};
use crate::config::{BinhostConfig, BinhostUrl};
use crate::metrics::Metrics;

/// Directory of the blobs at a peer.
const BLOBS: &str = "v1/blob";
/// Header of a 202: `own-N` when the peer has N bytes of the package, `all-N` when the package
/// waits for its turn at the peer.
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

/// The peers of one binhost, in the configured order.
#[derive(Debug)]
pub(super) struct Peers {
    /// `None`: no peer is configured, or the binhost is not shared.
    client: Option<Client>,
    tier: Tier,
}

/// The counters of peers.
const KIND: TierKind = TierKind {
    name: "a peer",
    hits: |metrics| &metrics.peer_hits,
    misses: |metrics| &metrics.peer_misses,
    failures: |metrics| &metrics.peer_failures,
    wrong: |metrics| &metrics.peer_wrong,
    bytes: |metrics| &metrics.peer_bytes,
};

impl Peers {
    /// Prepares the HTTP client. No connection is made yet.
    pub(super) fn new(binhost: &BinhostConfig) -> Result<Self, UpstreamError> {
        let urls: &[BinhostUrl] = if binhost.share { &binhost.peers } else { &[] };
        let client = (!urls.is_empty()).then(|| Client::of_peers(urls)).transpose()?;
        Ok(Self { client, tier: Tier::new(KIND, urls) })
    }

    pub(super) fn tier(&self) -> &Tier {
        &self.tier
    }

    /// The next peer from number `from` on that is to be asked now, and the URL of a package there.
    pub(super) fn next(&self, from: MemberSlot, wanted: &Wanted) -> Option<(MemberSlot, Url)> {
        let (slot, base) = self.tier.next(from)?;
        let mut url = base.join(&format!("{BLOBS}/{}", wanted.key));
        url.query_pairs_mut().append_pair("fetch", "true").append_pair("path", &wanted.path);
        Some((slot, url))
    }

    /// Asks a peer for a package, from the byte `offset` on. `None`: the peer does not have it.
    pub(super) async fn ask(
        &self,
        (slot, url): (MemberSlot, &Url),
        wanted: &Wanted,
        offset: u64,
        metrics: &Metrics,
    ) -> Option<UpstreamResponse> {
        let began = Instant::now();
        match self.answer(url, wanted, offset).await {
            Ok(Some(answer)) => {
                self.tier.note_hit(slot, began.elapsed(), metrics);
                Some(answer)
            }
            Ok(None) => {
                self.tier.note_miss(slot, metrics);
                None
            }
            Err(error) => {
                self.tier.note_failure(slot, &error, metrics);
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

#[cfg(test)]
mod tests;
