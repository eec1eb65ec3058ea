//! The shape of the answer, for the daemon and for who asks. Fields are only ever added.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{ByteSize, Interval};
use crate::metrics::Readings;

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
    /// Whether OpenPGP signatures are checked.
    pub signatures: bool,
    /// What they are checked with; none where they are not checked.
    #[serde(default)]
    pub keyring: Option<KeyringStatus>,
    /// Where packages come from.
    pub binhost: BinhostStatus,
    /// What is shown.
    pub generation: GenerationStatus,
    /// How the index is kept up to date.
    pub refresh: RefreshStatus,
    /// Packages that are left out because what the binhost serves is not what its index says.
    #[serde(default)]
    pub refused: Vec<FailureStatus>,
    /// The cache.
    pub cache: CacheStatus,
    /// Downloads in progress.
    pub downloads: Vec<DownloadStatus>,
    /// What could not be had lately, newest first.
    pub failures: Vec<FailureStatus>,
    /// Counters since the start.
    pub metrics: Readings,
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

/// Where packages come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BinhostStatus {
    /// URLs as configured, without credentials.
    pub urls: Vec<String>,
    /// How each of them does, in the order in which they would be asked now; also places that an index names.
    #[serde(default)]
    pub mirrors: Vec<MirrorStatus>,
}

/// How a URL of a binhost does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MirrorStatus {
    /// The URL, without credentials.
    pub url: String,
    /// Whether it is asked.
    pub state: MirrorState,
    /// When it is asked again; only while it rests. Where no other URL is better it is asked all the same.
    pub resting_until: Option<u64>,
    /// Smoothed rate of downloads, bytes/s; none: not known.
    pub rate: Option<u64>,
    /// Smoothed time to the first byte, ms; none: not known.
    pub first_byte_ms: Option<u64>,
    /// Failures in a row.
    pub failures: u64,
    /// Packages from it that proved wrong.
    pub wrong: u64,
    /// The last failure, be it over or not.
    pub last_error: Option<String>,
    /// When that was.
    pub last_error_time: Option<u64>,
}

/// See [`MirrorStatus`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MirrorState {
    /// Nothing is known against it.
    Healthy,
    /// It served wrong bytes lately: asked after the healthy ones.
    Distrusted,
    /// It has rested, and one download tries it.
    Trying,
    /// It failed lately, and is left alone for a while.
    Resting,
}

impl MirrorStatus {
    /// One line for a person, at the time `now`.
    fn line(&self, now: u64) -> String {
        let span = |seconds: u64| Interval(Duration::from_secs(seconds));
        let Self { url, failures, wrong, .. } = self;
        let error = self.last_error.as_deref().unwrap_or_default();
        let state = match self.state {
            MirrorState::Healthy => None,
            MirrorState::Distrusted => Some("served wrong bytes".to_owned()),
            MirrorState::Trying => Some(format!("tried again after: {error}")),
            MirrorState::Resting => {
                let left = span(self.resting_until.unwrap_or(now).saturating_sub(now));
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
    /// Entries of the index that are left out.
    pub dropped: u64,
    /// Why they are.
    pub dropped_reasons: String,
    /// TIMESTAMP of the index; 0 without an index.
    pub index_timestamp: i64,
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
}

/// The cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CacheStatus {
    /// Its directory.
    pub directory: String,
    /// Bytes of packages in it.
    pub bytes: u64,
    /// Bytes reserved for downloads in progress.
    pub reserved: u64,
    /// Packages in it.
    pub packages: u64,
    /// Most bytes it may take.
    pub bound: u64,
}

/// A download in progress.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DownloadStatus {
    /// PATH of the package.
    pub path: String,
    /// Bytes received.
    pub received: u64,
    /// Bytes in all.
    pub size: u64,
    /// Opens that wait for it.
    pub waiters: u64,
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

/// How a refresh that was asked for went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refreshed {
    /// What is shown now.
    pub summary: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
}

/// For a person.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ago = |time: u64| Interval(Duration::from_secs(self.time.saturating_sub(time)));
        let Self { mountpoint, version, pid, generation, refresh, cache, metrics, .. } = self;
        let reads = if self.passthrough { "by the kernel (passthrough)" } else { "through the daemon" };
        writeln!(f, "{mountpoint}: mounted for {} by binhostfs {version} (pid {pid})", ago(self.started))?;
        writeln!(f, "binhost     {}", self.binhost.lines(self.time).join("\n            "))?;
        if refresh.confirmed == 0 {
            writeln!(f, "index       none yet: PKGDIR is shown empty")?;
        } else {
            let GenerationStatus { number, packages, .. } = generation;
            writeln!(
                f,
                "index       {packages} packages, generation {number}, up to date {} ago",
                ago(refresh.confirmed)
            )?;
        }
        if generation.dropped > 0 {
            writeln!(f, "left out    {} entries: {}", generation.dropped, generation.dropped_reasons)?;
        }
        if let Some(error) = &refresh.error {
            writeln!(f, "problem     refreshing the index failed {} ago: {error}", ago(refresh.attempted))?;
        }
        let (used, bound) = (ByteSize(cache.bytes), ByteSize(cache.bound));
        writeln!(f, "cache       {} packages, {used} of {bound}, in {}", cache.packages, cache.directory)?;
        writeln!(f, "reads       {reads}")?;
        match &self.keyring {
            None => writeln!(f, "signatures  not checked (digests only)")?,
            Some(KeyringStatus { files, keys, problems }) => {
                writeln!(f, "signatures  checked; {keys} keys may sign, from {}", files.join(", "))?;
                problems.iter().try_for_each(|problem| writeln!(f, "keyring     {problem}"))?;
            }
        }
        let fetched = ByteSize(metrics.bytes_fetched);
        writeln!(
            f,
            "opens       {} from the cache, {} fetched ({fetched}), {} failed",
            metrics.hits, metrics.misses, metrics.failed_opens
        )?;
        for FailureStatus { path, reason, time } in &self.refused {
            writeln!(f, "not shown   {path} since {} ago: {reason}", ago(*time))?;
        }
        for DownloadStatus { path, received, size, waiters } in &self.downloads {
            writeln!(f, "fetching    {path}: {} of {}, {waiters} waiting", ByteSize(*received), ByteSize(*size))?;
        }
        for FailureStatus { path, reason, time } in &self.failures {
            writeln!(f, "failed      {path} {} ago: {reason}", ago(*time))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(url: &str, state: MirrorState) -> MirrorStatus {
        MirrorStatus {
            url: url.to_owned(),
            state,
            resting_until: None,
            rate: None,
            first_byte_ms: None,
            failures: 0,
            wrong: 0,
            last_error: None,
            last_error_time: None,
        }
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
            keyring: Some(KeyringStatus {
                files: vec!["/k".to_owned(), "/l".to_owned()],
                keys: 2,
                problems: vec!["/l: not there".to_owned()],
            }),
            binhost: BinhostStatus {
                urls: ["https://a/", "https://b/", "https://c/"].map(str::to_owned).to_vec(),
                mirrors: vec![
                    MirrorStatus { rate: Some(5 << 20), wrong: 1, ..mirror("https://b/", MirrorState::Healthy) },
                    MirrorStatus {
                        resting_until: Some(10_020),
                        failures: 2,
                        last_error: Some("https://a/x: HTTP status 503".to_owned()),
                        last_error_time: Some(9_990),
                        ..mirror("https://a/", MirrorState::Resting)
                    },
                ],
            },
            generation: GenerationStatus {
                number: 3,
                packages: 15_576,
                dropped: 1,
                dropped_reasons: "1 with unsafe PATH (first: a/b-1)".to_owned(),
                index_timestamp: 9,
            },
            refresh: RefreshStatus { confirmed: 9_000, attempted: 9_990, error: Some("no route".to_owned()) },
            refused: vec![FailureStatus { path: "a/d.xpak".to_owned(), reason: "wrong MD5".to_owned(), time: 9_900 }],
            cache: CacheStatus { directory: "/c".to_owned(), bytes: 3 << 30, reserved: 0, packages: 7, bound: 8 << 30 },
            downloads: vec![DownloadStatus {
                path: "a/b.xpak".to_owned(),
                received: 1 << 20,
                size: 2 << 20,
                waiters: 2,
            }],
            failures: vec![FailureStatus { path: "a/c.xpak".to_owned(), reason: "refused".to_owned(), time: 9_970 }],
            metrics: Readings { hits: 5, misses: 2, bytes_fetched: 4 << 20, ..Readings::default() },
        };
        let expected = "\
/var/cache/binpkgs: mounted for 2 h by binhostfs 1.2.3 (pid 42)
binhost     https://b/ (5.0 MiB/s; wrong packages: 1)
            https://a/ (rests for 20 s after failure 2: https://a/x: HTTP status 503)
            https://c/
index       15576 packages, generation 3, up to date 16 min ago
left out    1 entries: 1 with unsafe PATH (first: a/b-1)
problem     refreshing the index failed 10 s ago: no route
cache       7 packages, 3.0 GiB of 8.0 GiB, in /c
reads       by the kernel (passthrough)
signatures  checked; 2 keys may sign, from /k, /l
keyring     /l: not there
opens       5 from the cache, 2 fetched (4.0 MiB), 0 failed
not shown   a/d.xpak since 100 s ago: wrong MD5
fetching    a/b.xpak: 1.0 MiB of 2.0 MiB, 2 waiting
failed      a/c.xpak 30 s ago: refused
";
        assert_eq!(status.to_string(), expected);
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    }
}
