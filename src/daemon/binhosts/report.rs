//! The report of `status` about each binhost.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::binhost::Binhost;
use super::last_refresh::LastRefresh;
use super::refusals::Refusal;
use crate::api::{BinhostStatus, EntriesStatus, FailureStatus, KeyringStatus, MirrorState, MirrorStatus, PeerStatus};
use crate::daemon::repository::{REPO_REVISIONS, distance};
use crate::fetch::RemoteBinhost;
use crate::policy::EntryCounts;
use crate::sys::seconds_now;
use crate::upstream::{HealthState, MemberCounts, MemberReport, UrlReport};
use crate::verify::KeyringReport;

/// Whether an earlier generation is shown, and why a stored rollback is not in effect.
#[derive(Debug, Clone, Default)]
pub(crate) struct RollbackReport {
    pub(crate) rolled_back: bool,
    pub(crate) problem: Option<String>,
}

/// The facts about a binhost for `status`.
#[derive(Debug)]
pub(crate) struct BinhostReport {
    name: String,
    pub(crate) remote: Arc<RemoteBinhost>,
    index_timestamp: i64,
    refresh: LastRefresh,
    unreachable: bool,
    frozen: bool,
    packages: u64,
    entries: EntriesStatus,
    unusable: Option<String>,
    pub(crate) refused: Vec<FailureStatus>,
    index_mismatches: Vec<FailureStatus>,
    max_index_age: Option<Duration>,
    /// REPO_REVISIONS of the index.
    repo_revisions: Option<String>,
}

impl BinhostReport {
    pub(crate) fn new(binhost: &Binhost, tally: EntryCounts, unusable: Option<String>) -> Self {
        let EntryCounts {
            shown, moved, libc_guarded, unsigned_format, filtered, offline, shadowed, path_conflict, ..
        } = tally;
        let index = binhost.published_index().map(|shown| shown.index);
        let dropped = index.as_ref().map(|index| index.dropped());
        let rejected = binhost.rejections.now();
        let refused: Vec<FailureStatus> = rejected.refusals().iter().map(Refusal::status).collect();
        let entries = EntriesStatus {
            dropped: dropped.map_or(0, |dropped| dropped.total().into()),
            dropped_reasons: dropped.map(ToString::to_string).unwrap_or_default(),
            refused: refused.len() as u64,
            disputed: binhost.votes.disputed().len() as u64,
            unsigned_format: unsigned_format.into(),
            filtered: filtered.into(),
            offline: offline.into(),
            shadowed: shadowed.into(),
            path_conflict: path_conflict.into(),
            moved: moved.into(),
            libc_guarded: libc_guarded.into(),
        };
        Self {
            name: binhost.config.name.clone(),
            remote: Arc::clone(&binhost.remote),
            index_timestamp: index.as_ref().and_then(|index| index.header().source_timestamp()).unwrap_or_default(),
            refresh: binhost.last_refresh.clone(),
            unreachable: binhost.unreachable,
            frozen: binhost.is_frozen(),
            packages: shown.into(),
            entries,
            unusable,
            refused,
            index_mismatches: rejected.index_mismatches(),
            max_index_age: binhost.max_index_age(),
            repo_revisions: index.as_ref().and_then(|index| index.header().get(REPO_REVISIONS)).map(str::to_owned),
        }
    }

    /// `root`: the root of Portage's files, to compare the index with the ebuild repository.
    pub(crate) fn status(&self, root: &Path) -> BinhostStatus {
        let Self { name, remote, index_timestamp, refresh, unreachable, frozen, packages, entries, unusable, .. } =
            self;
        BinhostStatus {
            name: name.clone(),
            urls: remote.upstream.binhost().urls.iter().map(ToString::to_string).collect(),
            mirrors: remote.upstream.url_reports().into_iter().map(mirror).collect(),
            peers: remote.upstream.peer_reports().into_iter().map(sharer).collect(),
            packages: *packages,
            index_timestamp: *index_timestamp,
            refresh: refresh.status(),
            unreachable: *unreachable,
            not_refreshed: *frozen,
            keyring: remote.policy.keyring.as_ref().map(|keyring| keyring_status(keyring.report())),
            entries: entries.clone(),
            unusable: unusable.clone(),
            max_index_age: self.max_index_age.map(|span| span.as_secs()),
            index_mismatches: self.index_mismatches.clone(),
            repository: self.repo_revisions.as_deref().and_then(|revisions| distance(revisions, root)),
        }
    }
}

fn keyring_status(report: KeyringReport) -> KeyringStatus {
    let KeyringReport { files, keys, problems } = report;
    KeyringStatus { files: files.iter().map(|path| path.display().to_string()).collect(), keys: keys as u64, problems }
}

/// The state of a peer, or of a node of the object store.
pub(crate) fn sharer(report: MemberReport) -> PeerStatus {
    let MemberReport { url, counts: MemberCounts { hits, misses, bytes } } = report;
    PeerStatus { url: mirror(url), hits, misses, bytes }
}

fn mirror(report: UrlReport) -> MirrorStatus {
    let UrlReport { url, standing, backs_off_for, rate, first_byte, failures, wrong, distrusted_for, last_error } =
        report;
    let (last_error, since) = last_error.unzip();
    MirrorStatus {
        url,
        state: match standing {
            HealthState::Healthy => MirrorState::Healthy,
            HealthState::Distrusted => MirrorState::Distrusted,
            HealthState::Probing => MirrorState::Probing,
            HealthState::BackingOff => MirrorState::BackingOff,
        },
        backing_off_until: backs_off_for.map(|span| seconds_now().saturating_add(span.as_secs())),
        rate: rate.map(|rate| rate as u64),
        first_byte_ms: first_byte.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
        failures: u64::from(failures),
        wrong,
        distrusted_for,
        last_error,
        last_error_time: since.map(|span: Duration| seconds_now().saturating_sub(span.as_secs())),
    }
}
