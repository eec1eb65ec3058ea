//! The shape of the answer, for the daemon and for who asks. Fields are only ever added.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::metrics::Readings;
use crate::units::{ByteSize, Interval, Plural};

/// Downloads that are told of one by one, for a person.
const DOWNLOADS: usize = 30;

/// The daemon at one moment. Times are seconds since the epoch, sizes bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Now.
    pub time: u64,
    /// Since when it runs.
    pub started: u64,
    /// Where it is mounted.
    pub mountpoint: String,
    /// Whether the kernel reads cached packages without the daemon.
    pub passthrough: bool,
    /// Whether OpenPGP signatures are checked, whatever the binhost.
    pub signatures: bool,
    /// Where packages come from, the most preferred first.
    pub binhosts: Vec<BinhostStatus>,
    /// What is shown.
    pub generation: GenerationStatus,
    /// How the indexes are kept up to date: of several, the oldest confirmation, the last attempt and all problems.
    pub refresh: RefreshStatus,
    /// Why the configuration, as it stands in the files, is not in use.
    pub misconfigured: Option<String>,
    /// What an administrator should know of the configuration, one thing each.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Local packages that Portage fetched itself from a binhost, of which they are hidden.
    #[serde(default)]
    pub bypassed: Vec<BypassStatus>,
    /// Packages that are left out because what their binhost serves is not what its index says.
    pub refused: Vec<FailureStatus>,
    /// Verified packages that had other bytes when they were verified before, newest first.
    pub alarms: Vec<FailureStatus>,
    /// The cache.
    pub cache: CacheStatus,
    /// What is fetched because installed packages can be upgraded; none where that is not configured.
    #[serde(default)]
    pub upgrade_prefetch: Option<UpgradePrefetchStatus>,
    /// How many downloads there are.
    #[serde(default)]
    pub download_counts: DownloadCounts,
    /// Downloads in progress, and those that somebody waits for; of very many, those with a turn and some others.
    pub downloads: Vec<DownloadStatus>,
    /// What could not be had lately, newest first.
    pub failures: Vec<FailureStatus>,
    /// The daemon's process.
    #[serde(default)]
    pub process: ProcessStatus,
    /// Counters since the start.
    pub metrics: Readings,
}

/// What the kernel says of the daemon's process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Bytes of memory (RSS).
    pub resident: u64,
    /// Bytes that it had written to disks.
    pub written: u64,
}

/// What signatures are checked with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyringStatus {
    /// Its files.
    pub files: Vec<String>,
    /// Keys and subkeys in them that may sign.
    pub keys: u64,
    /// Files that cannot be read and certificates of no use, and why.
    pub problems: Vec<String>,
}

/// A binhost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BinhostStatus {
    /// What it is called in the configuration.
    pub name: String,
    /// Its URLs in the order in which they are configured, without credentials.
    pub urls: Vec<String>,
    /// How each of them does, in the order in which they would be asked now; also places that an index names.
    #[serde(default)]
    pub mirrors: Vec<MirrorStatus>,
    /// Packages of it that are shown.
    pub packages: u64,
    /// TIMESTAMP of its index; 0 without one.
    pub index_timestamp: i64,
    /// How its index is kept up to date.
    pub refresh: RefreshStatus,
    /// Whether none of its URLs answered the last time.
    pub unreachable: bool,
    /// Whether only `binhostfs refresh` asks for its index (`frozen` in binrepos.conf).
    #[serde(default)]
    pub not_refreshed: bool,
    /// What signatures are checked with; none where they are not checked.
    pub keyring: Option<KeyringStatus>,
    /// Entries of its index that are not shown, or not as they are.
    pub entries: EntriesStatus,
    /// Why nothing of it can be used, where that is for one reason.
    #[serde(default)]
    pub unusable: Option<String>,
    /// How old its index may be before that is worth a note, s; none where any age will do, or an earlier one is shown.
    #[serde(default)]
    pub max_index_age: Option<u64>,
    /// Entries that say something else of their package than the package, whether they are refused or not.
    #[serde(default)]
    pub index_mismatches: Vec<FailureStatus>,
}

/// Entries of an index that are not shown, or not as they are, by number.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EntriesStatus {
    /// Not fit for Portage.
    pub dropped: u64,
    /// Why they are not.
    pub dropped_reasons: String,
    /// What the binhost serves is not what its index says.
    pub refused: u64,
    /// Too few of its URLs say the same of them.
    pub disputed: u64,
    /// XPAK, where signatures are asked for.
    pub unsigned_format: u64,
    /// Not selected by the configuration.
    pub filtered: u64,
    /// Not in the cache, while the binhost is away or its packages are nowhere.
    pub offline: u64,
    /// A preferred binhost has the same one.
    pub shadowed: u64,
    /// Their PATH, also below the binhost's name, is taken.
    pub path_conflict: u64,
    /// Shown below the name of the binhost, since their PATH is taken.
    pub moved: u64,
    /// Shown with a dependency on the libc that they were built against.
    pub libc_guarded: u64,
}

/// How a URL of a binhost does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MirrorStatus {
    /// The URL, without credentials.
    pub url: String,
    /// Whether it is asked.
    pub state: MirrorState,
    /// When it is asked again; only while it rests. Where no other URL is better it is asked all the same.
    pub backing_off_until: Option<u64>,
    /// Smoothed rate of downloads, bytes/s; none: not known.
    pub rate: Option<u64>,
    /// Smoothed time to the first byte, ms; none: not known.
    pub first_byte_ms: Option<u64>,
    /// Failures in a row.
    pub failures: u64,
    /// Packages from it that proved wrong.
    pub wrong: u64,
    /// Why it is distrusted; none: it is not.
    #[serde(default)]
    pub distrusted_for: Option<String>,
    /// The last failure, be it over or not.
    pub last_error: Option<String>,
    /// When that was.
    pub last_error_time: Option<u64>,
}

/// See [`MirrorStatus`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MirrorState {
    /// Nothing is known against it.
    Healthy,
    /// It served something wrong lately: asked after the healthy ones.
    Distrusted,
    /// It has rested, and one download tries it.
    Probing,
    /// It failed lately, and is left alone for a while.
    BackingOff,
}

impl MirrorStatus {
    /// Why it is distrusted, where it is.
    pub(crate) fn distrust(&self) -> &str {
        // A daemon of an earlier version distrusted for this alone.
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
    /// TIMESTAMP of its index, if that is worth a note.
    pub(crate) fn stale_since(&self, now: u64) -> Option<u64> {
        let since = u64::try_from(self.index_timestamp).ok().filter(|since| *since > 0)?;
        self.max_index_age.filter(|most| now.saturating_sub(since) > *most).map(|_| since)
    }

    /// Its URLs for a person, at the time `now`.
    fn lines(&self, now: u64) -> Vec<String> {
        // A daemon of another version may not say how they do.
        let unknown = self.urls.iter().filter(|url| self.mirrors.iter().all(|mirror| mirror.url != **url)).cloned();
        self.mirrors.iter().map(|mirror| mirror.line(now)).chain(unknown).collect()
    }
}

/// What is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationStatus {
    /// Number of the generation.
    pub number: u64,
    /// Packages in it.
    pub packages: u64,
    /// TIMESTAMP of what Portage reads, s since the epoch.
    pub index_timestamp: i64,
    /// When it was made; 0: not known.
    #[serde(default)]
    pub created: u64,
    /// Packages of the directory beneath the mount, which are shown in front of it.
    #[serde(default)]
    pub local: u64,
    /// It is an earlier one, which the administrator has chosen.
    #[serde(default)]
    pub rolled_back: bool,
    /// Why the one that the administrator has chosen is not shown.
    #[serde(default)]
    pub problem: Option<String>,
}

/// How the index is kept up to date.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RefreshStatus {
    /// When a binhost last confirmed or sent the index; 0: never.
    pub confirmed: u64,
    /// When the last attempt ended.
    pub attempted: u64,
    /// Why the last attempt failed, if it did.
    pub error: Option<String>,
    /// Since when all indexes that the binhost had were older than the one in use, and refused; none: that is not so.
    #[serde(default)]
    pub older_since: Option<u64>,
}

/// A binhost that has had only older indexes for longer than this is said to be frozen, s.
const FROZEN: u64 = 24 * 3600;

impl RefreshStatus {
    /// Since when the binhost has had only older indexes, if that is for more than a day at the time `now`: then somebody should
    /// look whether it was set back, or what is in use was never its own.
    pub(crate) fn frozen_since(&self, now: u64) -> Option<u64> {
        self.older_since.filter(|since| now.saturating_sub(*since) > FROZEN)
    }
}

/// The cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CacheStatus {
    /// Its directory.
    pub directory: String,
    /// Bytes of packages in it.
    pub bytes: u64,
    /// Bytes of downloads in progress, and room for what they receive next.
    pub reserved: u64,
    /// Bytes that parked and interrupted downloads have received: they go where something else needs the room.
    #[serde(default)]
    pub parked: u64,
    /// Packages in it.
    pub packages: u64,
    /// Most bytes it may take.
    pub bound: u64,
    /// Entries that are pinned, be they in it or not.
    #[serde(default)]
    pub pinned: u64,
    /// Bytes of packages written today (UTC).
    #[serde(default)]
    pub written_today: u64,
}

/// What is fetched because installed packages can be upgraded.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UpgradePrefetchStatus {
    /// Bytes that may be fetched in a day (UTC).
    pub budget: u64,
    /// Of these, bytes that were fetched today.
    pub spent: u64,
    /// Bytes that are left today.
    pub left: u64,
    /// Packages that would be upgraded to, as far as the cache may take them.
    pub upgrades: u64,
    /// Of these, packages that are here.
    pub cached: u64,
    /// Why that is not known.
    pub problem: Option<String>,
}

/// How many downloads there are, and who waits for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownloadCounts {
    /// Downloads that have a turn.
    pub live: u64,
    /// Downloads whose binhost is silent.
    pub parked: u64,
    /// Downloads that wait for a turn.
    pub waiting: u64,
    /// Opens that wait for a download.
    pub opens: u64,
}

/// What a download does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DownloadState {
    /// It receives.
    #[default]
    Live,
    /// Its binhost is silent.
    Parked,
    /// It waits for a turn.
    Waiting,
}

/// A download in progress.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DownloadStatus {
    /// PATH of the package.
    pub path: String,
    /// What it does.
    #[serde(default)]
    pub state: DownloadState,
    /// Bytes received.
    pub received: u64,
    /// Bytes in all.
    pub size: u64,
    /// Opens that wait for it.
    pub waiters: u64,
    /// It was begun ahead of an emerge, and nobody has opened it yet.
    #[serde(default)]
    pub prefetch: bool,
}

/// A package that could not be had.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailureStatus {
    /// PATH of the package.
    pub path: String,
    /// Why.
    pub reason: String,
    /// When.
    pub time: u64,
}

/// A local package that Portage fetched itself (`getbinpkg`), and that is hidden as the binhost's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BypassStatus {
    /// Where it is, below the mountpoint.
    pub path: String,
    /// The binhost whose index has it.
    pub binhost: String,
    /// Why the binhost's is hidden.
    pub reason: String,
}

/// For a person.
impl fmt::Display for BypassStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, binhost, reason } = self;
        write!(f, "{path} is a local package that Portage fetched itself from {binhost}, where it is hidden: {reason}")
    }
}

/// How a refresh that was asked for went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refreshed {
    /// What is shown now.
    pub summary: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
}

/// What reading the whole cache again found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyResult {
    /// Packages that are what was verified.
    pub sound: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Packages that were damaged, and are removed.
    pub damaged: u64,
}

/// For a person.
impl fmt::Display for VerifyResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sound, bytes, damaged } = self;
        let are = if *sound == 1 { "is as it was" } else { "are as they were" };
        write!(f, "{} ({}) {are} verified", Plural(*sound, "package"), ByteSize(*bytes))?;
        match damaged {
            0 => Ok(()),
            _ => write!(
                f,
                "; {damaged} were damaged and are removed: they are fetched again when they are wanted; check the disk"
            ),
        }
    }
}

/// For a person.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ago = |time: u64| Interval(Duration::from_secs(self.time.saturating_sub(time)));
        let Self { mountpoint, version, pid, generation, cache, metrics, .. } = self;
        let reads = if self.passthrough { "by the kernel (passthrough)" } else { "through the daemon" };
        writeln!(f, "{mountpoint}: mounted for {} by binhostfs {version} (pid {pid})", ago(self.started))?;
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
        // Of a binhost it stands there already.
        if let Some(error) =
            self.refresh.error.as_ref().filter(|_| self.binhosts.iter().all(|b| b.refresh.error.is_none()))
        {
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
        writeln!(f, "reads       {reads}")?;
        if let Some(UpgradePrefetchStatus { budget, spent, upgrades, cached, problem, .. }) = &self.upgrade_prefetch {
            let (spent, budget) = (ByteSize(*spent), ByteSize(*budget));
            writeln!(f, "upgrades    {cached} of {upgrades} are here; {spent} of {budget} fetched today")?;
            problem.iter().try_for_each(|problem| writeln!(f, "problem     {problem}"))?;
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
    /// Who waits for it, and for what it waits itself.
    pub(crate) fn who(&self) -> String {
        let who = if self.prefetch { "prefetch".to_owned() } else { format!("{} waiting", self.waiters) };
        match self.state {
            DownloadState::Live => who,
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
        match &self.keyring {
            None => writeln!(f, "  signed    not checked (digests only)")?,
            Some(KeyringStatus { files, keys, problems }) => {
                let keys = Plural(*keys, "key");
                writeln!(f, "  signed    checked; {keys} may sign, from {}", files.join(", "))?;
                problems.iter().try_for_each(|problem| writeln!(f, "  keyring   {problem}"))?;
            }
        }
        if let Some(reason) = &self.unusable {
            writeln!(f, "  warning   nothing of it can be used: {reason}")?;
        }
        for FailureStatus { path, reason, time } in &self.index_mismatches {
            writeln!(f, "  index     {path} ({} ago): {reason}", ago(*time))?;
        }
        if entries.dropped > 0 {
            writeln!(f, "  left out  {} unfit entries: {}", entries.dropped, entries.dropped_reasons)?;
        }
        for (count, what) in [
            (entries.refused, "refused (see below)"),
            (entries.disputed, "on which too few of its URLs agree"),
            (entries.unsigned_format, "in XPAK, which cannot be signed"),
            (entries.filtered, "not selected by the configuration"),
            (entries.offline, "not in the cache, and cannot be had now"),
            (entries.shadowed, "that a preferred binhost has"),
            (entries.path_conflict, "whose path is taken"),
        ] {
            if count > 0 {
                writeln!(f, "  left out  {count} {what}")?;
            }
        }
        for (count, what) in
            [(entries.moved, "below its name"), (entries.libc_guarded, "with a dependency on their libc")]
        {
            if count > 0 {
                writeln!(f, "  changed   {count} shown {what}")?;
            }
        }
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

/// What there is to say of a binhost whose index is so old.
pub(crate) fn stale(span: Interval) -> String {
    format!(
        "its index was made {span} ago (max-index-age): nothing has been built since then, or a mirror holds back what has"
    )
}

/// What there is to say of a binhost that has had only older indexes for so long.
pub(crate) fn frozen(span: Interval) -> String {
    format!(
        "for {span} all its indexes have been older than the one in use, and were refused: ask whoever runs it why, or run \
         `binhostfs refresh --accept-older`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(url: &str, state: MirrorState) -> MirrorStatus {
        MirrorStatus {
            url: url.to_owned(),
            state,
            backing_off_until: None,
            rate: None,
            first_byte_ms: None,
            failures: 0,
            wrong: 0,
            distrusted_for: None,
            last_error: None,
            last_error_time: None,
        }
    }

    fn download(path: &str, waiters: u64, ahead: bool) -> DownloadStatus {
        let state = if ahead { DownloadState::Parked } else { DownloadState::Live };
        DownloadStatus { path: path.to_owned(), state, received: 1 << 20, size: 2 << 20, waiters, prefetch: ahead }
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
    fn reads_well_and_survives_json() {
        let status = Status {
            version: "1.2.3".to_owned(),
            pid: 42,
            time: 10_000,
            started: 2_000,
            mountpoint: "/var/cache/binpkgs".to_owned(),
            passthrough: true,
            signatures: true,
            binhosts: vec![
                BinhostStatus {
                    name: "gentoo".to_owned(),
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
                    unusable: None,
                    max_index_age: None,
                    index_mismatches: Vec::new(),
                },
                BinhostStatus {
                    name: "own".to_owned(),
                    urls: vec!["file:///srv".to_owned()],
                    mirrors: Vec::new(),
                    packages: 0,
                    index_timestamp: 0,
                    refresh: RefreshStatus::default(),
                    unreachable: false,
                    not_refreshed: false,
                    keyring: None,
                    entries: EntriesStatus { moved: 3, ..EntriesStatus::default() },
                    unusable: Some("for another machine".to_owned()),
                    max_index_age: None,
                    index_mismatches: Vec::new(),
                },
            ],
            generation: GenerationStatus {
                number: 3,
                packages: 15_576,
                index_timestamp: 9,
                created: 9_000,
                local: 2,
                rolled_back: true,
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
            },
            download_counts: DownloadCounts { live: 1, parked: 1, waiting: 0, opens: 2 },
            downloads: vec![download("a/b.xpak", 2, false), download("a/f.xpak", 0, true)],
            failures: vec![FailureStatus { path: "a/c.xpak".to_owned(), reason: "refused".to_owned(), time: 9_970 }],
            metrics: Readings { hits: 5, misses: 2, bytes_fetched: 4 << 20, ..Readings::default() },
        };
        let expected = "\
/var/cache/binpkgs: mounted for 2 h by binhostfs 1.2.3 (pid 42)
shown       15576 packages, generation 3, rolled back (`binhostfs rollback --latest` undoes it), 2 local packages
problem     generation 2 is damaged
binhost     gentoo: 15000 packages, up to date 16 min ago; unreachable; not refreshed (frozen in binrepos.conf)
  url       https://b/ (5.0 MiB/s; wrong packages: 1)
  url       https://a/ (rests for 20 s after failure 2: https://a/x: HTTP status 503)
  url       https://c/
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
reads       by the kernel (passthrough)
upgrades    2 of 7 are here; 3.0 MiB of 2.0 GiB fetched today
problem     no database
opens       5 from the cache, 2 waited for a download, 0 failed
downloads   4.0 MiB, 0 packages verified
ALARM       a/e.xpak 1 s ago: other bytes
bypass      a/g.xpak is a local package that Portage fetched itself from gentoo, where it is hidden: not selected
not shown   a/d.xpak since 100 s ago: wrong MD5
fetching    a/b.xpak: 1.0 MiB of 2.0 MiB, 2 waiting
fetching    a/f.xpak: 1.0 MiB of 2.0 MiB, prefetch; its binhost is silent
failed      a/c.xpak 30 s ago: refused
";
        assert_eq!(status.to_string(), expected);
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    }
}
