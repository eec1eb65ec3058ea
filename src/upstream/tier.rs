//! A tier of those that are asked for a package before the mirrors: each with its record.
//!
//! * A member that fails is left out for a while, longer each time, and then a single download
//!   tries it.
//! * A member that served wrong bytes is left out for [`DISTRUST`](super::health::DISTRUST).
//!
//! Not its job: the requests (`peers`, `object_store`).

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::UpstreamError;
use super::client::UpstreamResponse;
use super::health::{Health, HealthState};
use super::mirror_tracker::UrlReport;
use super::retry;
use crate::config::BinhostUrl;
use crate::metrics::{Counter, Metrics};

/// Number of a member, in the configured order.
pub(super) type MemberSlot = usize;

/// What is asked for: a package.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// `<sha1>-<md5>-<size>`.
    pub(super) key: String,
    /// PATH at the binhost.
    pub(super) path: String,
    pub(super) size: u64,
    /// How long a mirror is expected to take for it.
    pub(super) mirror_time: Duration,
}

/// What the object store was found to have of a package.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum StoreFinding {
    /// It was not asked, did not answer, or has the package.
    #[default]
    Nothing,
    /// It lacks the package.
    Lacks,
    /// It has the package, in an object that expires before long.
    Old,
    /// It has other bytes under the key of the package.
    Wrong,
}

/// The answer of a node about a package.
#[derive(Debug)]
pub(super) enum StoreAnswer {
    Has {
        answer: Box<UpstreamResponse>,
        /// Whether the object expires before long.
        is_old: bool,
    },
    Lacks,
    /// The object has another size than its key says.
    Wrong,
    Failed,
}

/// A verified package, for the object store.
#[derive(Debug)]
pub(crate) struct ProvedPackage {
    /// `<sha1>-<md5>-<size>`.
    pub key: String,
    pub size: u64,
    pub md5: [u8; 16],
    pub sha1: [u8; 20],
    pub sha256: [u8; 32],
    pub file: Arc<File>,
}

/// What the members of a tier are, and the counters of what they do.
#[derive(Debug, Clone, Copy)]
pub(super) struct TierKind {
    /// For messages: "a peer".
    pub(super) name: &'static str,
    pub(super) hits: fn(&Metrics) -> &Counter,
    pub(super) misses: fn(&Metrics) -> &Counter,
    pub(super) failures: fn(&Metrics) -> &Counter,
    pub(super) wrong: fn(&Metrics) -> &Counter,
    pub(super) bytes: fn(&Metrics) -> &Counter,
}

#[derive(Debug)]
struct TierMember {
    base: BinhostUrl,
    health: Health,
    counts: MemberCounts,
}

/// What a member has had of the packages that it was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MemberCounts {
    pub hits: u64,
    pub misses: u64,
    pub bytes: u64,
}

/// State of one member, for status output.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MemberReport {
    pub url: UrlReport,
    pub counts: MemberCounts,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Tier {
    kind: TierKind,
    all: Mutex<Vec<TierMember>>,
}

impl Tier {
    pub(super) fn new(kind: TierKind, urls: &[BinhostUrl]) -> Self {
        let member = |base: &BinhostUrl| TierMember {
            base: base.clone(),
            health: Health::default(),
            counts: MemberCounts::default(),
        };
        Self { kind, all: Mutex::new(urls.iter().map(member).collect()) }
    }

    /// The next member from number `from` on that is to be asked now, with its URL.
    pub(super) fn next(&self, from: MemberSlot) -> Option<(MemberSlot, BinhostUrl)> {
        let (mut all, now) = (self.all.lock(), Instant::now());
        let (slot, member) = all
            .iter_mut()
            .enumerate()
            .skip(from)
            .find(|(_, member)| member.health.state(now) == HealthState::Healthy)?;
        member.health.note_request(now);
        Some((slot, member.base.clone()))
    }

    /// Whether a member is healthy. This is no request, and takes no trial of one that has failed.
    pub(super) fn has_healthy(&self) -> bool {
        let (all, now) = (self.all.lock(), Instant::now());
        all.iter().any(|member| member.health.state(now) == HealthState::Healthy)
    }

    /// Notes that a member has a package, and began to send it `after` so long.
    pub(super) fn note_hit(&self, slot: MemberSlot, after: Duration, metrics: &Metrics) {
        (self.kind.hits)(metrics).increase();
        self.note(slot, |member| {
            member.health.note_response(after);
            member.counts.hits += 1;
        });
    }

    /// Notes that a member lacks a package.
    pub(super) fn note_miss(&self, slot: MemberSlot, metrics: &Metrics) {
        (self.kind.misses)(metrics).increase();
        self.note(slot, |member| {
            member.health.served();
            member.counts.misses += 1;
        });
    }

    /// Notes a failure of a member: it is left out for a while.
    pub(super) fn note_failure(&self, slot: MemberSlot, error: &UpstreamError, metrics: &Metrics) {
        (self.kind.failures)(metrics).increase();
        let random = retry::random();
        self.note(slot, |member| {
            if member.health.failures() == 0 {
                tracing::info!(%error, url = %member.base, "{} fails, and is not asked for a while", self.kind.name);
            }
            let backoff = |failures| retry::backoff(failures, random);
            member.health.failed(Instant::now(), error.to_string(), backoff, Duration::ZERO);
        });
    }

    /// Notes that a package came to its end from a member.
    pub(super) fn note_served(&self, slot: MemberSlot) {
        self.note(slot, |member| member.health.served());
    }

    /// Notes bytes from a member.
    pub(super) fn note_bytes(&self, slot: MemberSlot, bytes: u64, metrics: &Metrics) {
        (self.kind.bytes)(metrics).add(bytes);
        self.note(slot, |member| member.counts.bytes += bytes);
    }

    /// Notes that a member served wrong bytes: it is not asked for a while.
    pub(super) fn note_wrong(&self, slot: MemberSlot, metrics: &Metrics) {
        (self.kind.wrong)(metrics).increase();
        self.note(slot, |member| {
            tracing::warn!(url = %member.base, "{} served wrong bytes, and is not asked for a while", self.kind.name);
            member.health.wrong(Instant::now());
        });
    }

    /// Ends backoff and distrust of all members.
    pub(super) fn allow_retries(&self) {
        self.all.lock().iter_mut().for_each(|member| member.health.retry_allowed());
    }

    /// Ends the backoff of all members: the network has changed.
    pub(super) fn network_changed(&self) {
        self.all.lock().iter_mut().for_each(|member| member.health.network_changed());
    }

    /// The URL of a member, without credentials.
    pub(super) fn display_url(&self, slot: MemberSlot) -> String {
        self.all.lock().get(slot).map(|member| member.base.to_string()).unwrap_or_default()
    }

    /// Reports on all members, in the configured order.
    pub(super) fn reports(&self) -> Vec<MemberReport> {
        let (all, now) = (self.all.lock(), Instant::now());
        let report = |member: &TierMember| MemberReport {
            url: UrlReport::new(&member.base, &member.health, now),
            counts: member.counts,
        };
        all.iter().map(report).collect()
    }

    fn note(&self, slot: MemberSlot, what: impl FnOnce(&mut TierMember)) {
        if let Some(member) = self.all.lock().get_mut(slot) {
            what(member);
        }
    }
}

/// Refuses an answer of another size or another part than the requested one.
pub(super) fn fitting(answer: UpstreamResponse, size: u64, offset: u64) -> Result<UpstreamResponse, UpstreamError> {
    if answer.status() == 206 {
        if let Some(got) = total_of(&answer).filter(|got| *got != size) {
            return Err(UpstreamError::SizeMismatch { url: answer.url(), got, expected: size });
        }
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

/// The size of the whole file, as the Content-Range of a 206 or a 416 has it.
pub(super) fn total_of(answer: &UpstreamResponse) -> Option<u64> {
    let range = answer.content_range()?;
    range.rsplit_once('/')?.1.parse().ok()
}
