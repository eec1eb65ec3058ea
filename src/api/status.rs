//! The answer to `GET /v1/status`, and its form for people. Fields are only ever added.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::metrics::Readings;
use crate::units::{ByteSize, Interval, Plural};

/// Maximum number of downloads that the text for a person lists one by one.
const DOWNLOADS: usize = 30;

/// The daemon at one moment. Times are seconds since the epoch, sizes bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Time of the answer.
    pub time: u64,
    /// When the daemon was started.
    pub started: u64,
    /// Path of the mountpoint. Empty: the daemon has no mount, and only serves other machines.
    pub mountpoint: String,
    /// The packages and indexes that other machines get. `None`: nothing.
    #[serde(default)]
    pub serve: Option<ServeStatus>,
    /// State of the object store. `None`: none is configured.
    #[serde(default)]
    pub object_store: Option<ObjectStoreStatus>,
    /// Whether the kernel reads cached packages without the daemon.
    pub passthrough: bool,
    /// Whether OpenPGP signatures are checked for all binhosts.
    pub signatures: bool,
    /// The binhosts, the most preferred first.
    pub binhosts: Vec<BinhostStatus>,
    /// The generation that is shown.
    pub generation: GenerationStatus,
    /// The refreshes of all binhosts together: the oldest confirmation, the last attempt, and all
    /// problems.
    pub refresh: RefreshStatus,
    /// Why the configuration that is in the files now is not in use.
    pub misconfigured: Option<String>,
    /// Warnings about the configuration and the system clock, each about one thing.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Local packages that Portage fetched itself from a binhost although the binhost's entry is
    /// hidden.
    #[serde(default)]
    pub bypassed: Vec<BypassStatus>,
    /// Refused packages: the package that the binhost serves contradicts its entry.
    pub refused: Vec<FailureStatus>,
    /// Verified packages whose bytes differ from those verified before, the newest first.
    pub alarms: Vec<FailureStatus>,
    /// State of the cache.
    pub cache: CacheStatus,
    /// State of the upgrade prefetch. `None`: it is not configured.
    #[serde(default)]
    pub upgrade_prefetch: Option<UpgradePrefetchStatus>,
    /// Limits of bandwidth, and the quiet hours. `None`: there are none.
    #[serde(default)]
    pub bandwidth: Option<BandwidthStatus>,
    /// Number of downloads by state.
    #[serde(default)]
    pub download_counts: DownloadCounts,
    /// The downloads in progress, and those with waiters. If there are very many, the list has all
    /// downloads with a turn and some others.
    pub downloads: Vec<DownloadStatus>,
    /// Packages whose download failed recently, the newest first.
    pub failures: Vec<FailureStatus>,
    /// Resources of the daemon's process.
    #[serde(default)]
    pub process: ProcessStatus,
    /// Counters since the daemon was started.
    pub metrics: Readings,
}

/// State of the object store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ObjectStoreStatus {
    /// Bucket and prefix.
    pub place: String,
    /// Whether the daemon writes into the store.
    pub writes: bool,
    /// Number of packages that wait to be stored.
    pub waiting: u64,
    /// State of each node, in the order in which they are asked.
    pub nodes: Vec<PeerStatus>,
}

/// The packages and indexes that other machines get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServeStatus {
    /// Address and port.
    pub address: String,
    /// TIMESTAMP of the index that they get.
    pub index_timestamp: u64,
    /// Number of their connections.
    pub connections: u64,
}

impl Status {
    /// The mountpoint, or where a daemon without a mount serves.
    pub(crate) fn subject(&self) -> String {
        match &self.serve {
            Some(serve) if self.mountpoint.is_empty() => format!("http://{}/", serve.address),
            _ => self.mountpoint.clone(),
        }
    }

    /// Why the last refresh failed, unless the status of a binhost has the reason.
    pub(crate) fn general_refresh_error(&self) -> Option<&str> {
        let shown = self.binhosts.iter().any(|binhost| binhost.refresh.error.is_some());
        self.refresh.error.as_deref().filter(|_| !shown)
    }
}

/// The kernel's figures for the daemon's process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessStatus {
    /// Resident memory (RSS) in bytes.
    pub resident: u64,
    /// Bytes that the process had written to disks.
    pub written: u64,
}

/// The keys with which signatures are checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeyringStatus {
    /// The files that have the keys.
    pub files: Vec<String>,
    /// Number of keys and subkeys in the files that may sign.
    pub keys: u64,
    /// Files that cannot be read, and certificates that cannot be used, each with the reason.
    pub problems: Vec<String>,
}

/// State of one binhost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct BinhostStatus {
    /// Name of the binhost in the configuration.
    pub name: String,
    /// The configured URLs in their order, without credentials.
    pub urls: Vec<String>,
    /// State of each mirror, in the order in which the daemon would ask them now. The list includes
    /// mirrors that an index names.
    #[serde(default)]
    pub mirrors: Vec<MirrorStatus>,
    /// State of each peer, in the order in which they are asked.
    #[serde(default)]
    pub peers: Vec<PeerStatus>,
    /// Number of packages of this binhost that are shown.
    pub packages: u64,
    /// TIMESTAMP of the binhost's index; where a binhostfs serves the index, that of the index that
    /// it was made of. 0: the binhost has no index.
    pub index_timestamp: i64,
    /// How the last refreshes of the index ended.
    pub refresh: RefreshStatus,
    /// Whether no URL of the binhost answered at the last attempt.
    pub unreachable: bool,
    /// Whether only `binhostfs refresh` asks for the index (`frozen` in binrepos.conf).
    #[serde(default)]
    pub not_refreshed: bool,
    /// The keys with which signatures are checked. `None`: signatures are not checked.
    pub keyring: Option<KeyringStatus>,
    /// Entries of the index that are hidden or changed.
    pub entries: EntriesStatus,
    /// Why no entry of the index can be used, if all have the same reason.
    #[serde(default)]
    pub unusable: Option<String>,
    /// Age of the index in seconds from which it is worth a note. `None`: there is no limit, or an
    /// earlier index is shown.
    #[serde(default)]
    pub max_index_age: Option<u64>,
    /// Entries that contradict their package, refused or not.
    #[serde(default)]
    pub index_mismatches: Vec<FailureStatus>,
    /// How far the ebuild repository is from the index. `None`: the index names no commit that the
    /// repository is known to have been at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryDistance>,
}

/// How far an ebuild repository of this machine is from the commit that an index names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RepositoryDistance {
    /// Name of the ebuild repository.
    pub name: String,
    /// The commit from which the binhost has built, by its index.
    pub commit: String,
    /// How many syncs ago the repository was at this commit. 0: it is at this commit.
    pub syncs: u64,
}

impl fmt::Display for RepositoryDistance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, commit, syncs } = self;
        let short = commit.get(..12).unwrap_or(commit);
        match syncs {
            0 => write!(f, "built from the commit that the ebuild repository {name} is at ({short})"),
            syncs => {
                let syncs = Plural(*syncs, "sync");
                write!(
                    f,
                    "the ebuild repository {name} is {syncs} ahead of the commit that it was built from ({short})"
                )
            }
        }
    }
}

/// Numbers of entries that are hidden or changed, by reason.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct EntriesStatus {
    /// Entries that are not fit for Portage.
    pub dropped: u64,
    /// Why the dropped entries are not fit.
    pub dropped_reasons: String,
    /// Refused entries: the package that the binhost serves contradicts its entry.
    pub refused: u64,
    /// Entries on which too few URLs of the binhost agree.
    pub disputed: u64,
    /// XPAK packages, where signatures are required.
    pub unsigned_format: u64,
    /// Entries that the configuration does not select.
    pub filtered: u64,
    /// Entries without a cached package, while the binhost is unreachable or its packages cannot be
    /// fetched from any URL.
    pub offline: u64,
    /// Entries whose package a preferred binhost has as well.
    pub shadowed: u64,
    /// Entries whose PATH is taken, also below the binhost's name.
    pub path_conflict: u64,
    /// Entries that are shown below the binhost's name, since their PATH is taken.
    pub moved: u64,
    /// Entries that are shown with a dependency on the libc that they were built against.
    pub libc_guarded: u64,
}

impl EntriesStatus {
    /// For a person: the counts of hidden entries that are not 0, each with what the entries are.
    pub(crate) fn hidden(&self) -> Vec<String> {
        let dropped = format!("unfit entries: {}", self.dropped_reasons);
        nonzero(&[
            (self.dropped, &dropped),
            (self.refused, "refused (see below)"),
            (self.disputed, "on which too few of its URLs agree"),
            (self.unsigned_format, "in XPAK, which cannot be signed"),
            (self.filtered, "not selected by the configuration"),
            (self.offline, "not in the cache, and cannot be had now"),
            (self.shadowed, "that a preferred binhost has"),
            (self.path_conflict, "whose path is taken"),
        ])
    }

    /// For a person: the counts of changed entries that are not 0, each with what was changed.
    pub(crate) fn changed(&self) -> Vec<String> {
        nonzero(&[(self.moved, "shown below its name"), (self.libc_guarded, "shown with a dependency on their libc")])
    }
}

fn nonzero(counts: &[(u64, &str)]) -> Vec<String> {
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    counts.map(|(count, what)| format!("{count} {what}")).collect()
}

/// State of one mirror of a binhost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MirrorStatus {
    /// URL of the mirror, without credentials.
    pub url: String,
    /// Whether the daemon asks the mirror.
    pub state: MirrorState,
    /// When the back-off ends. The daemon asks the mirror earlier if no other mirror is better.
    /// `None`: the mirror is not backing off.
    pub backing_off_until: Option<u64>,
    /// Smoothed rate of downloads in bytes/s. `None`: the rate is not known.
    pub rate: Option<u64>,
    /// Smoothed time to the first byte in ms. `None`: the time is not known.
    pub first_byte_ms: Option<u64>,
    /// Number of failures in a row.
    pub failures: u64,
    /// Number of packages from this mirror that proved wrong.
    pub wrong: u64,
    /// Why the mirror is distrusted. `None`: the mirror is not distrusted.
    #[serde(default)]
    pub distrusted_for: Option<String>,
    /// The last failure, even if the mirror has recovered since.
    pub last_error: Option<String>,
    /// Time of the last failure.
    pub last_error_time: Option<u64>,
}

/// State of one peer of a binhost, or of one node of the object store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PeerStatus {
    /// State of its URL, as of a mirror.
    #[serde(flatten)]
    pub url: MirrorStatus,
    /// Number of packages that it had.
    pub hits: u64,
    /// Number of packages that it did not have.
    pub misses: u64,
    /// Number of bytes from it.
    pub bytes: u64,
}

impl PeerStatus {
    /// One line for a person, at the time `now`.
    pub(crate) fn line(&self, now: u64) -> String {
        let Self { url, hits, misses, bytes } = self;
        let bytes = ByteSize(*bytes);
        format!("{}: had {hits} of {} packages, {bytes}", url.line(now), hits.saturating_add(*misses))
    }
}

/// Whether the daemon asks a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MirrorState {
    /// No recent failure is known.
    Healthy,
    /// The mirror served something wrong recently. The daemon asks it after the healthy ones.
    Distrusted,
    /// The back-off has ended, and one download tries the mirror.
    Probing,
    /// The mirror failed recently, and the daemon waits before it asks again.
    BackingOff,
}

impl MirrorStatus {
    /// Why the mirror is distrusted.
    pub(crate) fn distrust(&self) -> &str {
        // A daemon of an earlier version sends no reason: wrong bytes were its only one.
        self.distrusted_for.as_deref().unwrap_or("served wrong bytes")
    }

    /// One line for a person, at the time `now`.
    fn line(&self, now: u64) -> String {
        let span = |seconds: u64| Interval(Duration::from_secs(seconds));
        let Self { url, failures, wrong, .. } = self;
        let error = self.last_error.as_deref().unwrap_or_default();
        let state = match self.state {
            MirrorState::Healthy => None,
            MirrorState::Distrusted => Some(self.distrust().to_owned()),
            MirrorState::Probing => Some(format!("tried again after: {error}")),
            MirrorState::BackingOff => {
                let left = span(self.backing_off_until.unwrap_or(now).saturating_sub(now));
                Some(format!("rests for {left} after failure {failures}: {error}"))
            }
        };
        let rate = self.rate.map(|rate| format!("{}/s", ByteSize(rate)));
        let wrong = (*wrong > 0).then(|| format!("wrong packages: {wrong}"));
        let notes: Vec<String> = [rate, wrong, state].into_iter().flatten().collect();
        if notes.is_empty() { url.clone() } else { format!("{url} ({})", notes.join("; ")) }
    }
}

impl BinhostStatus {
    /// TIMESTAMP of the index, if the index is older than `max_index_age`.
    pub(crate) fn stale_since(&self, now: u64) -> Option<u64> {
        let since = u64::try_from(self.index_timestamp).ok().filter(|since| *since > 0)?;
        self.max_index_age.filter(|most| now.saturating_sub(since) > *most).map(|_| since)
    }

    /// The mirrors for a person, one line each, at the time `now`.
    fn lines(&self, now: u64) -> Vec<String> {
        // A daemon of another version may not send the state of each URL.
        let unknown = self.urls.iter().filter(|url| self.mirrors.iter().all(|mirror| mirror.url != **url)).cloned();
        self.mirrors.iter().map(|mirror| mirror.line(now)).chain(unknown).collect()
    }
}

/// The generation that is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct GenerationStatus {
    /// Number of the generation.
    pub number: u64,
    /// Number of packages in the generation.
    pub packages: u64,
    /// TIMESTAMP of the `Packages` file that Portage reads, in seconds since the epoch.
    pub index_timestamp: i64,
    /// When the generation was made. 0: the time is not known.
    #[serde(default)]
    pub created: u64,
    /// Number of local packages, which are shown in front of the generation.
    #[serde(default)]
    pub local: u64,
    /// Whether this is an earlier generation that the administrator has chosen.
    #[serde(default)]
    pub rolled_back: bool,
    /// Whether `Packages` is stored nowhere, and rendered when it is read.
    #[serde(default)]
    pub rendered_on_read: bool,
    /// Why the generation that the administrator has chosen is not shown.
    #[serde(default)]
    pub problem: Option<String>,
}

/// How the last refreshes of an index ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RefreshStatus {
    /// When a binhost last confirmed or sent the index. 0: never.
    pub confirmed: u64,
    /// When the last attempt ended.
    pub attempted: u64,
    /// Why the last attempt failed, if it did.
    pub error: Option<String>,
    /// Since when the binhost has had only indexes that are older than the one in use, and were
    /// refused. `None`: its last index was not older.
    #[serde(default)]
    pub older_since: Option<u64>,
}

/// Seconds after which a binhost that has only older indexes is reported as frozen.
const FROZEN: u64 = 24 * 3600;

impl RefreshStatus {
    /// Since when the binhost has had only older indexes, if that is longer than a day at the time
    /// `now`. Then somebody should check: either the binhost was set back, or the index in use was
    /// never its own.
    pub(crate) fn frozen_since(&self, now: u64) -> Option<u64> {
        self.older_since.filter(|since| now.saturating_sub(*since) > FROZEN)
    }
}

/// State of the cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CacheStatus {
    /// Path of the cache directory.
    pub directory: String,
    /// Bytes of packages in the cache.
    pub bytes: u64,
    /// Bytes of downloads in progress, and the room that they need next.
    pub reserved: u64,
    /// Bytes that parked and interrupted downloads have received. The cache discards them if
    /// something else needs the room.
    #[serde(default)]
    pub parked: u64,
    /// Number of packages in the cache.
    pub packages: u64,
    /// Maximum size of the cache in bytes.
    pub bound: u64,
    /// Number of pinned entries, in the cache or not.
    #[serde(default)]
    pub pinned: u64,
    /// Bytes of packages and indexes written today (UTC).
    #[serde(default)]
    pub written_today: u64,
    /// Bytes of the disk that the indexes of the binhosts and the generations take. They are not
    /// part of `bytes`.
    #[serde(default)]
    pub indexes: u64,
}

/// State of the upgrade prefetch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct UpgradePrefetchStatus {
    /// Bytes that may be fetched in a day (UTC).
    pub budget: u64,
    /// Bytes of this budget that were fetched today.
    pub spent: u64,
    /// Bytes of this budget that are left today.
    pub left: u64,
    /// Number of packages to which installed ones would be upgraded, as far as the cache may take
    /// them.
    pub upgrades: u64,
    /// Number of these packages that are in the cache.
    pub cached: u64,
    /// Why the upgrades are not known.
    pub problem: Option<String>,
}

/// Limits of bandwidth, and the quiet hours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BandwidthStatus {
    /// Bytes of packages that are received a second at most. 0: any.
    pub rate_limit: u64,
    /// Bytes of prefetches that nobody waits for that are received a second at most. 0: any.
    pub prefetch_rate_limit: u64,
    /// When nothing is prefetched that nobody waits for: spans of the day, in local time.
    pub quiet_hours: Vec<String>,
    /// When the present quiet hours end. `None`: it is no quiet hour.
    pub quiet_until: Option<u64>,
}

impl BandwidthStatus {
    /// For a person, at the time `now`: the limits, and whether prefetch rests.
    pub(crate) fn lines(&self, now: u64) -> Vec<String> {
        let Self { rate_limit, prefetch_rate_limit, quiet_hours, quiet_until } = self;
        let rate = |rate: &u64, of: &str| (*rate > 0).then(|| format!("at most {}/s{of}", ByteSize(*rate)));
        let quiet = (!quiet_hours.is_empty()).then(|| {
            let rests = quiet_until.map(|until| {
                let left = Interval(Duration::from_secs(until.saturating_sub(now)));
                format!(", which go on for {left}: prefetch rests")
            });
            format!("quiet hours {}{}", quiet_hours.join(", "), rests.unwrap_or_default())
        });
        [rate(rate_limit, ""), rate(prefetch_rate_limit, " for prefetch"), quiet].into_iter().flatten().collect()
    }
}

/// Numbers of downloads by state, and of opens that wait for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DownloadCounts {
    /// Downloads that have a turn.
    pub live: u64,
    /// Parked downloads: their binhost is silent.
    pub parked: u64,
    /// Downloads that wait for a turn.
    pub waiting: u64,
    /// Opens that wait for a download.
    pub opens: u64,
}

/// State of a download.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DownloadState {
    /// The download has a turn and receives bytes.
    #[default]
    Live,
    /// The binhost of the download is silent.
    Parked,
    /// The download waits for a turn.
    Waiting,
}

/// A download in progress.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DownloadStatus {
    /// PATH of the package.
    pub path: String,
    /// State of the download.
    #[serde(default)]
    pub state: DownloadState,
    /// Number of bytes received.
    pub received: u64,
    /// Size of the package in bytes.
    pub size: u64,
    /// Number of opens that wait for the download.
    pub waiters: u64,
    /// Whether this is a prefetch of a package that nobody has opened so far.
    #[serde(default)]
    pub prefetch: bool,
    /// Whether the download is parked for the quiet hours.
    #[serde(default)]
    pub resting: bool,
}

/// A package with an error: a failed download, a refusal, an alarm or an index mismatch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FailureStatus {
    /// PATH of the package.
    pub path: String,
    /// Reason of the error.
    pub reason: String,
    /// Time of the error.
    pub time: u64,
}

/// A local package that Portage fetched itself (`getbinpkg`) although the binhost's entry is
/// hidden.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BypassStatus {
    /// Path of the local package below the mountpoint.
    pub path: String,
    /// The binhost whose index has the package.
    pub binhost: String,
    /// Why the binhost's entry is hidden.
    pub reason: String,
    /// Whether the package is held back until `binhostfs allow`.
    #[serde(default)]
    pub held: bool,
}

/// The answer to `allow`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Allowed {
    /// Paths of the packages that are local packages like any other now.
    pub paths: Vec<String>,
}

/// Text for a person, in one line.
impl fmt::Display for BypassStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, binhost, reason, held } = self;
        write!(
            f,
            "{path} is a local package that Portage fetched itself from {binhost}, where it is hidden: {reason}"
        )?;
        if *held { write!(f, "; it is held back until `binhostfs allow {path}`") } else { Ok(()) }
    }
}

/// The result of a refresh, a rollback or a keep request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Refreshed {
    /// Summary of the result. `None`: the request failed.
    pub summary: Option<String>,
    /// Why the request failed, in what a command prints. `None` in an answer of the daemon: a
    /// request that failed has an [`ApiError`](super::ApiError).
    pub error: Option<String>,
}

/// The result of reading the whole cache again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VerifyResult {
    /// Number of packages that still have the verified bytes.
    pub sound: u64,
    /// Size of these packages in bytes.
    pub bytes: u64,
    /// Number of packages that were damaged, and are removed.
    pub damaged: u64,
}

/// One line for a person.
impl fmt::Display for VerifyResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sound, bytes, damaged } = self;
        let are = if *sound == 1 { "is as it was" } else { "are as they were" };
        write!(f, "{} ({}) {are} verified", Plural(*sound, "package"), ByteSize(*bytes))?;
        match damaged {
            0 => Ok(()),
            1 => f.write_str("; 1 was damaged and is removed: it is fetched again when it is wanted; check the disk"),
            _ => write!(
                f,
                "; {damaged} were damaged and are removed: they are fetched again when they are wanted; check the disk"
            ),
        }
    }
}

/// Text for a person, of several lines.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ago = |time: u64| Interval(Duration::from_secs(self.time.saturating_sub(time)));
        let Self { version, pid, generation, cache, metrics, .. } = self;
        let does = if self.mountpoint.is_empty() { "served" } else { "mounted" };
        let reads = if self.passthrough { "by the kernel (passthrough)" } else { "through the daemon" };
        let (subject, span) = (self.subject(), ago(self.started));
        writeln!(f, "{subject}: {does} for {span} by binhostfs {version} (pid {pid})")?;
        let rolled_back =
            if generation.rolled_back { ", rolled back (`binhostfs rollback --latest` undoes it)" } else { "" };
        let local = if generation.local == 0 {
            String::new()
        } else {
            format!(", {}", Plural(generation.local, "local package"))
        };
        let GenerationStatus { packages, number, .. } = generation;
        let packages = Plural(*packages, "package");
        writeln!(f, "shown       {packages}, generation {number}{rolled_back}{local}")?;
        if let Some(problem) = &generation.problem {
            writeln!(f, "problem     {problem}")?;
        }
        self.binhosts.iter().try_for_each(|binhost| binhost.show(f, self.time, &ago))?;
        if let Some(error) = self.general_refresh_error() {
            writeln!(f, "problem     {error}")?;
        }
        if let Some(error) = &self.misconfigured {
            writeln!(f, "problem     the changed configuration cannot be used, the last good one stays: {error}")?;
        }
        self.warnings.iter().try_for_each(|warning| writeln!(f, "warning     {warning}"))?;
        let (used, bound) = (ByteSize(cache.bytes), ByteSize(cache.bound));
        let pinned = if cache.pinned > 0 { format!(", {} pinned", cache.pinned) } else { String::new() };
        let packages = Plural(cache.packages, "package");
        writeln!(f, "cache       {packages}{pinned}, {used} of {bound}, in {}", cache.directory)?;
        let form = if generation.rendered_on_read { "; Packages is rendered when it is read" } else { "" };
        writeln!(f, "indexes     {} on the disk{form}", ByteSize(cache.indexes))?;
        if !self.mountpoint.is_empty() {
            writeln!(f, "reads       {reads}")?;
        }
        if let Some(ServeStatus { address, connections, .. }) = &self.serve {
            let Readings { serve_requests, serve_blobs, serve_bytes, .. } = metrics;
            let (connections, bytes) = (Plural(*connections, "connection"), ByteSize(*serve_bytes));
            let (requests, blobs) = (Plural(*serve_requests, "request"), Plural(*serve_blobs, "package"));
            writeln!(
                f,
                "serves      on http://{address}/: {connections}, {requests}, {blobs} by digest, {bytes} sent"
            )?;
        }
        if let Some(ObjectStoreStatus { place, writes, waiting, nodes }) = &self.object_store {
            let Readings { object_store_hits, object_store_misses, object_store_wrong, object_store_bytes, .. } =
                metrics;
            let (asked, bytes) =
                (object_store_hits.saturating_add(*object_store_misses), ByteSize(*object_store_bytes));
            let wrong = if *object_store_wrong > 0 { format!(", {object_store_wrong} wrong") } else { String::new() };
            writeln!(
                f,
                "store       {place}: had {object_store_hits} of {}, {bytes}{wrong}",
                Plural(asked, "package")
            )?;
            if *writes {
                let Readings {
                    object_store_puts,
                    object_store_put_bytes,
                    object_store_repaired,
                    object_store_write_failures,
                    ..
                } = metrics;
                let (stored, bytes) = (Plural(*object_store_puts, "package"), ByteSize(*object_store_put_bytes));
                writeln!(
                    f,
                    "  stored    {stored}, {bytes}; {waiting} wait, {object_store_write_failures} failed, {object_store_repaired} wrong ones replaced"
                )?;
            }
            nodes.iter().try_for_each(|node| writeln!(f, "  node      {}", node.line(self.time)))?;
        }
        if let Some(UpgradePrefetchStatus { budget, spent, upgrades, cached, problem, .. }) = &self.upgrade_prefetch {
            let (spent, budget) = (ByteSize(*spent), ByteSize(*budget));
            writeln!(f, "upgrades    {cached} of {upgrades} are here; {spent} of {budget} fetched today")?;
            problem.iter().try_for_each(|problem| writeln!(f, "problem     {problem}"))?;
        }
        let bandwidth = self.bandwidth.iter().flat_map(|bandwidth| bandwidth.lines(self.time));
        for line in bandwidth {
            writeln!(f, "bandwidth   {line}")?;
        }
        let Readings { hits, misses, failed_opens, verified, bytes_fetched, .. } = metrics;
        writeln!(f, "opens       {hits} from the cache, {misses} waited for a download, {failed_opens} failed")?;
        writeln!(f, "downloads   {}, {} verified", ByteSize(*bytes_fetched), Plural(*verified, "package"))?;
        for FailureStatus { path, reason, time } in &self.alarms {
            writeln!(f, "ALARM       {path} {} ago: {reason}", ago(*time))?;
        }
        self.bypassed.iter().try_for_each(|bypassed| writeln!(f, "bypass      {bypassed}"))?;
        for FailureStatus { path, reason, time } in &self.refused {
            writeln!(f, "not shown   {path} since {} ago: {reason}", ago(*time))?;
        }
        for download in self.downloads.iter().take(DOWNLOADS) {
            let DownloadStatus { path, received, size, .. } = download;
            let (received, size) = (ByteSize(*received), ByteSize(*size));
            writeln!(f, "fetching    {path}: {received} of {size}, {}", download.who())?;
        }
        let DownloadCounts { live, parked, waiting, opens } = self.download_counts;
        if self.downloads.len() > DOWNLOADS {
            writeln!(
                f,
                "            {live} downloads have a turn, {parked} are silent, {waiting} wait; {opens} opens wait"
            )?;
        }
        for FailureStatus { path, reason, time } in &self.failures {
            writeln!(f, "failed      {path} {} ago: {reason}", ago(*time))?;
        }
        Ok(())
    }
}

impl DownloadStatus {
    /// For a person: who waits for the download, and what the download waits for.
    pub(crate) fn who(&self) -> String {
        let who = if self.prefetch { "prefetch".to_owned() } else { format!("{} waiting", self.waiters) };
        match self.state {
            DownloadState::Live => who,
            DownloadState::Parked if self.resting => format!("{who}; rests in the quiet hours"),
            DownloadState::Parked => format!("{who}; its binhost is silent"),
            DownloadState::Waiting => format!("{who}; before its turn"),
        }
    }
}

impl BinhostStatus {
    fn show(&self, f: &mut fmt::Formatter<'_>, now: u64, ago: &impl Fn(u64) -> Interval) -> fmt::Result {
        let Self { name, packages, refresh, entries, .. } = self;
        let unreachable = if self.unreachable { "; unreachable" } else { "" };
        let refreshed = if self.not_refreshed { "; not refreshed (frozen in binrepos.conf)" } else { "" };
        match refresh.confirmed {
            0 => writeln!(f, "binhost     {name}: no index yet{unreachable}")?,
            confirmed => {
                let packages = Plural(*packages, "package");
                writeln!(
                    f,
                    "binhost     {name}: {packages}, up to date {} ago{unreachable}{refreshed}",
                    ago(confirmed)
                )?
            }
        }
        self.lines(now).iter().try_for_each(|url| writeln!(f, "  url       {url}"))?;
        self.peers.iter().try_for_each(|peer| writeln!(f, "  peer      {}", peer.line(now)))?;
        match &self.keyring {
            None => writeln!(f, "  signed    not checked (digests only)")?,
            Some(KeyringStatus { files, keys, problems }) => {
                let keys = Plural(*keys, "key");
                writeln!(f, "  signed    checked; {keys} may sign, from {}", files.join(", "))?;
                problems.iter().try_for_each(|problem| writeln!(f, "  keyring   {problem}"))?;
            }
        }
        if let Some(repository) = &self.repository {
            writeln!(f, "  tree      {repository}")?;
        }
        if let Some(reason) = &self.unusable {
            writeln!(f, "  warning   nothing of it can be used: {reason}")?;
        }
        for FailureStatus { path, reason, time } in &self.index_mismatches {
            writeln!(f, "  index     {path} ({} ago): {reason}", ago(*time))?;
        }
        entries.hidden().iter().try_for_each(|hidden| writeln!(f, "  left out  {hidden}"))?;
        entries.changed().iter().try_for_each(|changed| writeln!(f, "  changed   {changed}"))?;
        if let Some(error) = &refresh.error {
            writeln!(f, "  problem   refreshing the index failed {} ago: {error}", ago(refresh.attempted))?;
        }
        if let Some(since) = refresh.frozen_since(now) {
            writeln!(f, "  problem   {}", frozen(ago(since)))?;
        }
        if let Some(since) = self.stale_since(now) {
            writeln!(f, "  note      {}", stale(ago(since)))?;
        }
        Ok(())
    }
}

/// The note about a binhost whose index has the age `span`.
pub(crate) fn stale(span: Interval) -> String {
    format!(
        "its index was made {span} ago (max-index-age): nothing has been built since then, or a mirror holds back what has"
    )
}

/// The problem text for a binhost that has had only older indexes for `span`.
pub(crate) fn frozen(span: Interval) -> String {
    format!(
        "for {span} all its indexes have been older than the one in use, and were refused: ask its operator why, or run \
         `binhostfs refresh --accept-older`"
    )
}

#[cfg(test)]
mod tests {
    use super::super::sample::{binhost, mirror};
    use super::*;

    fn download(path: &str, waiters: u64, ahead: bool) -> DownloadStatus {
        let state = if ahead { DownloadState::Parked } else { DownloadState::Live };
        let (path, received, size, resting) = (path.to_owned(), 1 << 20, 2 << 20, path == "a/r.xpak");
        DownloadStatus { path, state, received, size, waiters, prefetch: ahead, resting }
    }

    #[test]
    fn a_binhost_is_frozen_after_a_day() {
        let now = 10 * FROZEN;
        for since in [None, Some(now), Some(now - FROZEN), Some(now + 9)] {
            let refresh = RefreshStatus { older_since: since, ..RefreshStatus::default() };
            assert_eq!(refresh.frozen_since(now), None, "{since:?}");
        }
        let refresh = RefreshStatus { older_since: Some(now - FROZEN - 1), ..RefreshStatus::default() };
        assert_eq!(refresh.frozen_since(now), Some(now - FROZEN - 1));
    }

    #[test]
    fn one_damaged_package_was_damaged_and_several_were() {
        let text = |damaged| VerifyResult { sound: 1, bytes: 1 << 20, damaged }.to_string();
        assert_eq!(text(0), "1 package (1.0 MiB) is as it was verified");
        assert!(text(1).contains("; 1 was damaged and is removed: it is fetched again"), "{}", text(1));
        assert!(text(2).contains("; 2 were damaged and are removed: they are fetched again"), "{}", text(2));
    }

    #[test]
    fn reads_well_and_survives_json() {
        let status = Status {
            version: "1.2.3".to_owned(),
            pid: 42,
            time: 10_000,
            started: 2_000,
            mountpoint: "/var/cache/binpkgs".to_owned(),
            serve: Some(ServeStatus { address: "192.0.2.1:8081".to_owned(), index_timestamp: 9, connections: 2 }),
            object_store: Some(ObjectStoreStatus {
                place: "binpkgs/x".to_owned(),
                writes: true,
                waiting: 2,
                nodes: vec![PeerStatus {
                    url: mirror("http://s/", MirrorState::Healthy),
                    hits: 3,
                    misses: 1,
                    bytes: 2 << 20,
                }],
            }),
            passthrough: true,
            signatures: true,
            binhosts: vec![
                BinhostStatus {
                    urls: ["https://a/", "https://b/", "https://c/"].map(str::to_owned).to_vec(),
                    mirrors: vec![
                        MirrorStatus { rate: Some(5 << 20), wrong: 1, ..mirror("https://b/", MirrorState::Healthy) },
                        MirrorStatus {
                            backing_off_until: Some(10_020),
                            failures: 2,
                            last_error: Some("https://a/x: HTTP status 503".to_owned()),
                            last_error_time: Some(9_990),
                            ..mirror("https://a/", MirrorState::BackingOff)
                        },
                    ],
                    peers: vec![PeerStatus {
                        url: mirror("http://hub/", MirrorState::Healthy),
                        hits: 3,
                        misses: 1,
                        bytes: 2 << 20,
                    }],
                    packages: 15_000,
                    index_timestamp: 9,
                    refresh: RefreshStatus {
                        confirmed: 9_000,
                        attempted: 9_990,
                        error: Some("no route".to_owned()),
                        older_since: Some(1),
                    },
                    unreachable: true,
                    not_refreshed: true,
                    keyring: Some(KeyringStatus {
                        files: vec!["/k".to_owned(), "/l".to_owned()],
                        keys: 2,
                        problems: vec!["/l: not there".to_owned()],
                    }),
                    entries: EntriesStatus {
                        dropped: 1,
                        dropped_reasons: "1 with unsafe PATH (first: a/b-1)".to_owned(),
                        disputed: 7,
                        ..EntriesStatus::default()
                    },
                    ..binhost("gentoo")
                },
                BinhostStatus {
                    urls: vec!["file:///srv".to_owned()],
                    entries: EntriesStatus { moved: 3, ..EntriesStatus::default() },
                    unusable: Some("for another machine".to_owned()),
                    ..binhost("own")
                },
            ],
            generation: GenerationStatus {
                number: 3,
                packages: 15_576,
                index_timestamp: 9,
                created: 9_000,
                local: 2,
                rolled_back: true,
                rendered_on_read: true,
                problem: Some("generation 2 is damaged".to_owned()),
            },
            process: ProcessStatus::default(),
            refresh: RefreshStatus {
                attempted: 9_990,
                error: Some("gentoo: no route".to_owned()),
                ..RefreshStatus::default()
            },
            misconfigured: Some("no such key".to_owned()),
            warnings: vec!["make.conf:3: FEATURES has getbinpkg".to_owned()],
            bypassed: vec![BypassStatus {
                path: "a/g.xpak".to_owned(),
                binhost: "gentoo".to_owned(),
                reason: "not selected".to_owned(),
                held: false,
            }],
            alarms: vec![FailureStatus { path: "a/e.xpak".to_owned(), reason: "other bytes".to_owned(), time: 9_999 }],
            refused: vec![FailureStatus { path: "a/d.xpak".to_owned(), reason: "wrong MD5".to_owned(), time: 9_900 }],
            upgrade_prefetch: Some(UpgradePrefetchStatus {
                budget: 2 << 30,
                spent: 3 << 20,
                upgrades: 7,
                cached: 2,
                problem: Some("no database".to_owned()),
                ..UpgradePrefetchStatus::default()
            }),
            cache: CacheStatus {
                directory: "/c".to_owned(),
                bytes: 3 << 30,
                reserved: 0,
                parked: 0,
                packages: 7,
                bound: 8 << 30,
                pinned: 2,
                written_today: 5,
                indexes: 5 << 20,
            },
            bandwidth: Some(BandwidthStatus {
                rate_limit: 2 << 20,
                prefetch_rate_limit: 500 << 10,
                quiet_hours: vec!["08:00-12:00".to_owned(), "14:00-23:00".to_owned()],
                quiet_until: Some(13_600),
            }),
            download_counts: DownloadCounts { live: 1, parked: 1, waiting: 0, opens: 2 },
            downloads: vec![
                download("a/b.xpak", 2, false),
                download("a/f.xpak", 0, true),
                download("a/r.xpak", 0, true),
            ],
            failures: vec![FailureStatus { path: "a/c.xpak".to_owned(), reason: "refused".to_owned(), time: 9_970 }],
            metrics: Readings {
                hits: 5,
                misses: 2,
                bytes_fetched: 4 << 20,
                serve_requests: 3,
                serve_blobs: 1,
                serve_bytes: 4 << 10,
                object_store_hits: 3,
                object_store_misses: 1,
                object_store_wrong: 1,
                object_store_bytes: 2 << 20,
                object_store_puts: 1,
                object_store_put_bytes: 1 << 20,
                object_store_repaired: 1,
                ..Readings::default()
            },
        };
        let expected = "\
/var/cache/binpkgs: mounted for 2 h by binhostfs 1.2.3 (pid 42)
shown       15576 packages, generation 3, rolled back (`binhostfs rollback --latest` undoes it), 2 local packages
problem     generation 2 is damaged
binhost     gentoo: 15000 packages, up to date 16 min ago; unreachable; not refreshed (frozen in binrepos.conf)
  url       https://b/ (5.0 MiB/s; wrong packages: 1)
  url       https://a/ (rests for 20 s after failure 2: https://a/x: HTTP status 503)
  url       https://c/
  peer      http://hub/: had 3 of 4 packages, 2.0 MiB
  signed    checked; 2 keys may sign, from /k, /l
  keyring   /l: not there
  left out  1 unfit entries: 1 with unsafe PATH (first: a/b-1)
  left out  7 on which too few of its URLs agree
  problem   refreshing the index failed 10 s ago: no route
binhost     own: no index yet
  url       file:///srv
  signed    not checked (digests only)
  warning   nothing of it can be used: for another machine
  changed   3 shown below its name
problem     the changed configuration cannot be used, the last good one stays: no such key
warning     make.conf:3: FEATURES has getbinpkg
cache       7 packages, 2 pinned, 3.0 GiB of 8.0 GiB, in /c
indexes     5.0 MiB on the disk; Packages is rendered when it is read
reads       by the kernel (passthrough)
serves      on http://192.0.2.1:8081/: 2 connections, 3 requests, 1 package by digest, 4.0 KiB sent
store       binpkgs/x: had 3 of 4 packages, 2.0 MiB, 1 wrong
  stored    1 package, 1.0 MiB; 2 wait, 0 failed, 1 wrong ones replaced
  node      http://s/: had 3 of 4 packages, 2.0 MiB
upgrades    2 of 7 are here; 3.0 MiB of 2.0 GiB fetched today
problem     no database
bandwidth   at most 2.0 MiB/s
bandwidth   at most 500.0 KiB/s for prefetch
bandwidth   quiet hours 08:00-12:00, 14:00-23:00, which go on for 60 min: prefetch rests
opens       5 from the cache, 2 waited for a download, 0 failed
downloads   4.0 MiB, 0 packages verified
ALARM       a/e.xpak 1 s ago: other bytes
bypass      a/g.xpak is a local package that Portage fetched itself from gentoo, where it is hidden: not selected
not shown   a/d.xpak since 100 s ago: wrong MD5
fetching    a/b.xpak: 1.0 MiB of 2.0 MiB, 2 waiting
fetching    a/f.xpak: 1.0 MiB of 2.0 MiB, prefetch; its binhost is silent
fetching    a/r.xpak: 1.0 MiB of 2.0 MiB, prefetch; rests in the quiet hours
failed      a/c.xpak 30 s ago: refused
";
        assert_eq!(status.to_string(), expected);
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    }
}
