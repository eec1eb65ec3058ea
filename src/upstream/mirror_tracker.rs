//! What happens to URLs, told to `mirrors`: the only place with a clock, dice and a lock for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use url::Url;

use super::candidates::Candidates;
use super::health::{Health, HealthState};
use super::mirrors::{MirrorSlot, Mirrors};
use super::retry::{self, FailureCause, Others};
use super::{Upstream, UpstreamError, Validators};
use crate::config::BinhostUrl;

/// A download that takes its part of the way to the binhost; until it is dropped.
#[derive(Debug)]
pub struct Active(Arc<AtomicUsize>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One URL, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct UrlReport {
    /// The URL, without credentials.
    pub url: String,
    /// Whether it is asked.
    pub standing: HealthState,
    /// Until it is asked again, while it rests.
    pub rests_for: Option<Duration>,
    /// Smoothed rate, bytes/s; `None`: not known.
    pub rate: Option<f64>,
    /// Smoothed time to the first byte; `None`: not known.
    pub first_byte: Option<Duration>,
    /// Failures of the host in a row.
    pub failures: u32,
    /// Bodies that proved wrong.
    pub wrong: u64,
    /// Why it comes after others, while it is distrusted.
    pub distrusted_for: Option<String>,
    /// The last failure of the host, and how long ago.
    pub last_error: Option<(String, Duration)>,
}

impl Upstream {
    /// The URLs, in the order in which they would be asked now.
    #[must_use]
    pub fn url_reports(&self) -> Vec<UrlReport> {
        let (mirrors, now) = (self.mirrors(), Instant::now());
        let report = |(base, health): (&BinhostUrl, &Health)| {
            let standing = health.state(now);
            let resting = health.rest_until().filter(|_| standing == HealthState::BackingOff);
            let distrusted = health.distrusted_for().filter(|_| standing == HealthState::Distrusted);
            UrlReport {
                url: base.to_string(),
                standing,
                rests_for: resting.map(|until| until.saturating_duration_since(now)),
                rate: health.rate(),
                first_byte: health.first_byte(),
                failures: health.failures(),
                wrong: health.wrong_bodies(),
                distrusted_for: distrusted.map(str::to_owned),
                last_error: health.last_error().map(|(error, at)| (error.clone(), now.saturating_duration_since(*at))),
            }
        };
        mirrors.all(now).into_iter().map(report).collect()
    }

    /// URLs that rest are tried again now: an administrator says that it is worth it.
    pub fn allow_retries(&self) {
        self.mirrors().allow_retries();
    }

    pub(super) fn mirrors(&self) -> MutexGuard<'_, Mirrors> {
        self.mirrors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The URL to ask now.
    pub(super) fn choose(&self, candidates: &mut Candidates) -> Option<Url> {
        let (mut mirrors, now) = (self.mirrors(), Instant::now());
        let (slot, url) = candidates.choose(&mirrors, now).map(|candidate| (candidate.slot, candidate.url.clone()))?;
        mirrors.note(slot, |health| health.note_request(now));
        Some(url)
    }

    /// A download begins, or goes on, to take its part of the way.
    #[must_use]
    pub fn begin(&self) -> Active {
        self.active.fetch_add(1, Ordering::Relaxed);
        Active(Arc::clone(&self.active))
    }

    /// Downloads that share the way.
    pub(super) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    pub(super) fn note_response(&self, slot: Option<MirrorSlot>, after: Duration) {
        self.note(slot, |health| health.note_response(after));
    }

    pub(super) fn note_served(&self, slot: Option<MirrorSlot>) {
        self.note(slot, Health::served);
    }

    pub(super) fn note_pace(&self, slot: Option<MirrorSlot>, sample: (u64, Duration)) {
        if let Some(slot) = slot {
            self.mirrors().delivered(slot, Instant::now(), sample);
        }
    }

    pub(super) fn note_wrong(&self, slot: Option<MirrorSlot>, url: &str) {
        tracing::debug!(url, "what it served proved wrong; others are preferred for a while");
        self.note(slot, |health| health.wrong(Instant::now()));
    }

    /// An index that was taken from a URL of the binhost is not to be used, and others are asked first for a while.
    pub fn note_wrong_index(&self, from: &Validators, reason: &str) {
        let Some(slot) = self.slot_of_index(from) else { return };
        let mut known = false;
        self.note(Some(slot), |health| {
            known = health.distrusted_for() == Some(reason);
            health.distrust(Instant::now(), reason.to_owned());
        });
        // The same fault over and over is said once.
        if !known {
            tracing::warn!(url = from.url, "this URL of the binhost is asked after the others for a while: {reason}");
        }
    }

    pub(super) fn note_failure(&self, slot: Option<MirrorSlot>, error: &UpstreamError) {
        match retry::fault(error) {
            FailureCause::Host => {
                let (random, at_least) = (retry::random(), retry::requested_delay(error));
                let rest = |failures| retry::rest(failures, random);
                self.note(slot, |health| {
                    let before = health.failures();
                    health.failed(Instant::now(), error.to_string(), rest, at_least);
                    // Of the only one, whoever asked says it.
                    if before == 0 && self.binhost.urls.len() > 1 {
                        tracing::info!(%error, "a URL of the binhost fails; others are asked first");
                    }
                });
            }
            FailureCause::File => self.note(slot, Health::served),
            FailureCause::Own => {}
        }
    }

    /// Whether there are others than the current one of `candidates` to ask instead.
    pub(super) fn others(&self, candidates: &Candidates) -> Others {
        candidates.others(&self.mirrors(), Instant::now())
    }

    /// How long the current one of `candidates` may be silent.
    pub(super) fn patience(&self, candidates: &Candidates) -> Duration {
        candidates.patience(&self.mirrors(), Instant::now())
    }

    /// The URL of a slot, for people.
    pub(super) fn display_url(&self, slot: MirrorSlot) -> String {
        self.mirrors().base(slot).map(ToString::to_string).unwrap_or_default()
    }

    fn note(&self, slot: Option<MirrorSlot>, what: impl FnOnce(&mut Health)) {
        if let Some(slot) = slot {
            self.mirrors().note(slot, what);
        }
    }
}
