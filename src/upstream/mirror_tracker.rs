//! The mirrors of a binhost, shared by its requests. Records their events in `mirrors`, and
//! supplies the clock, the random numbers and the lock that `mirrors` itself does not have.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use url::Url;

use super::UpstreamError;
use super::candidates::Candidates;
use super::health::{Health, HealthState};
use super::mirrors::{MirrorSlot, Mirrors};
use super::retry::{self, FailureCause, Others};
use crate::config::BinhostUrl;

/// The rate that is expected of a mirror that was not measured lately, in bytes/s.
const UNKNOWN_RATE: f64 = (1_u32 << 20) as f64;

/// Counts a download that shares the bandwidth to the binhost, until it is dropped.
#[derive(Debug)]
pub(crate) struct Active(Arc<AtomicUsize>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// State of one URL, for status output.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UrlReport {
    /// The URL, without credentials.
    pub url: String,
    /// State of the mirror, which decides whether it is asked.
    pub standing: HealthState,
    /// Time left until the URL is asked again, while it backs off.
    pub backs_off_for: Option<Duration>,
    /// Smoothed rate in bytes/s; `None`: not known.
    pub rate: Option<f64>,
    /// Smoothed time to the first byte; `None`: not known.
    pub first_byte: Option<Duration>,
    /// Failures of the host in a row.
    pub failures: u32,
    /// Number of packages that proved wrong.
    pub wrong: u64,
    /// Why the URL is ranked behind others, while it is distrusted.
    pub distrusted_for: Option<String>,
    /// The last failure of the host, and how long ago.
    pub last_error: Option<(String, Duration)>,
}

impl UrlReport {
    pub(super) fn new(base: &BinhostUrl, health: &Health, now: Instant) -> Self {
        let standing = health.state(now);
        let resting = health.backoff_until().filter(|_| standing == HealthState::BackingOff);
        let distrusted = health.distrusted_for().filter(|_| standing == HealthState::Distrusted);
        Self {
            url: base.to_string(),
            standing,
            backs_off_for: resting.map(|until| until.saturating_duration_since(now)),
            rate: health.rate(),
            first_byte: health.first_byte(),
            failures: health.failures(),
            wrong: health.wrong_packages(),
            distrusted_for: distrusted.map(str::to_owned),
            last_error: health.last_error().map(|(error, at)| (error.clone(), now.saturating_duration_since(*at))),
        }
    }
}

/// The mirrors of one binhost, and the downloads that use them.
#[derive(Debug)]
pub(super) struct MirrorTracker {
    mirrors: Mutex<Mirrors>,
    /// Whether a failed URL has others beside it.
    has_others: bool,
    /// Number of downloads that share the bandwidth to the binhost.
    active: Arc<AtomicUsize>,
}

impl MirrorTracker {
    pub(super) fn new(urls: &[BinhostUrl]) -> Self {
        Self { mirrors: Mutex::new(Mirrors::new(urls)), has_others: urls.len() > 1, active: Arc::default() }
    }

    /// Reports on the URLs, in the order in which they would be asked now.
    #[must_use]
    pub(super) fn url_reports(&self) -> Vec<UrlReport> {
        let (mirrors, now) = (self.lock(), Instant::now());
        let report = |(base, health): (&BinhostUrl, &Health)| UrlReport::new(base, health, now);
        mirrors.all(now).into_iter().map(report).collect()
    }

    /// Ends backoff and distrust of all URLs, on request of an administrator.
    pub(super) fn allow_retries(&self) {
        self.lock().allow_retries();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Mirrors> {
        self.mirrors.lock()
    }

    /// Chooses the URL to ask now, and records the request.
    pub(super) fn choose(&self, candidates: &mut Candidates) -> Option<Url> {
        let (mut mirrors, now) = (self.lock(), Instant::now());
        let (slot, url) = candidates.choose(&mirrors, now).map(|candidate| (candidate.slot, candidate.url.clone()))?;
        mirrors.note(slot, |health| health.note_request(now));
        Some(url)
    }

    /// Counts a download as active, when it starts or continues.
    #[must_use]
    pub(super) fn begin(&self) -> Active {
        self.active.fetch_add(1, Ordering::Relaxed);
        Active(Arc::clone(&self.active))
    }

    /// How long the first mirror is expected to take for so many bytes, by its rate as measured
    /// lately.
    pub(super) fn time_of(&self, bytes: u64) -> Duration {
        let (mirrors, now) = (self.lock(), Instant::now());
        let first = mirrors.order(now).first().and_then(|slot| mirrors.health(*slot));
        let rate = first.filter(|health| !health.is_unmeasured(now)).and_then(Health::rate);
        Duration::try_from_secs_f64(bytes as f64 / rate.unwrap_or(UNKNOWN_RATE)).unwrap_or(Duration::MAX)
    }

    /// Number of downloads that share the bandwidth.
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
            self.lock().delivered(slot, Instant::now(), sample);
        }
    }

    pub(super) fn note_wrong(&self, slot: Option<MirrorSlot>, url: &str) {
        tracing::debug!(url, "what it served proved wrong; others are preferred for a while");
        self.note(slot, |health| health.wrong(Instant::now()));
    }

    /// Ranks a URL behind the others for a while, because its index is not to be used.
    pub(super) fn note_wrong_index(&self, slot: MirrorSlot, url: &str, reason: &str) {
        let mut known = false;
        self.note(Some(slot), |health| {
            known = health.distrusted_for() == Some(reason);
            health.distrust(Instant::now(), reason.to_owned());
        });
        // A repeated fault is logged once.
        if !known {
            tracing::warn!(url, "this URL of the binhost is asked after the others for a while: {reason}");
        }
    }

    pub(super) fn note_failure(&self, slot: Option<MirrorSlot>, error: &UpstreamError) {
        match retry::fault(error) {
            FailureCause::Host => {
                let (random, at_least) = (retry::random(), retry::requested_delay(error));
                let backoff = |failures| retry::backoff(failures, random);
                self.note(slot, |health| {
                    let before = health.failures();
                    health.failed(Instant::now(), error.to_string(), backoff, at_least);
                    // The caller logs the failure of a binhost's only URL.
                    if before == 0 && self.has_others {
                        tracing::info!(%error, "a URL of the binhost fails; others are asked first");
                    }
                });
            }
            FailureCause::File => self.note(slot, Health::served),
            FailureCause::Own => {}
        }
    }

    /// Whether other URLs than the current one of `candidates` can be asked instead.
    pub(super) fn others(&self, candidates: &Candidates) -> Others {
        candidates.others(&self.lock(), Instant::now())
    }

    /// How long the current URL of `candidates` may send nothing.
    pub(super) fn patience(&self, candidates: &Candidates) -> Duration {
        candidates.patience(&self.lock(), Instant::now())
    }

    /// The URL of a slot, without credentials.
    pub(super) fn display_url(&self, slot: MirrorSlot) -> String {
        self.lock().base(slot).map(ToString::to_string).unwrap_or_default()
    }

    fn note(&self, slot: Option<MirrorSlot>, what: impl FnOnce(&mut Health)) {
        if let Some(slot) = slot {
            self.lock().note(slot, what);
        }
    }
}
