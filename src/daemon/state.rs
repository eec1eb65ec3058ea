//! What all parts of the daemon share, and what it says about itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use super::files::seconds_now;
use super::refusals::Refusal;
use super::shown;
use crate::config::{ByteSize, MountConfig};
use crate::control::{
    BinhostStatus, CacheStatus, DownloadStatus, FailureStatus, GenerationStatus, KeyringStatus, MirrorState,
    MirrorStatus, RefreshStatus, Status,
};
use crate::fetch::{FailureReport, Fetcher, Progress};
use crate::fuse::Mount;
use crate::metrics::Metrics;
use crate::store::Store;
use crate::tree::{Snapshots, Tree};
use crate::upstream::{Standing, Upstream, UrlReport};
use crate::verify::{KeyringReport, Policy};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: MountConfig,
    pub(super) mount: Mount,
    pub(super) store: Arc<Store>,
    pub(super) fetcher: Arc<Fetcher>,
    pub(super) upstream: Arc<Upstream>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) metrics: Arc<Metrics>,
    refresh: Mutex<RefreshStatus>,
    refusals: Mutex<Vec<FailureStatus>>,
    started: u64,
}

impl Shared {
    /// `confirmed`: when a binhost last confirmed the index that is shown, s since the epoch; 0: never.
    #[expect(clippy::too_many_arguments, reason = "the parts of the daemon, once, with their own types")]
    pub(super) fn new(
        config: MountConfig,
        mount: Mount,
        store: Arc<Store>,
        fetcher: Arc<Fetcher>,
        upstream: Arc<Upstream>,
        snapshots: Arc<Snapshots>,
        metrics: Arc<Metrics>,
        confirmed: u64,
    ) -> Self {
        let refresh = Mutex::new(RefreshStatus { confirmed, attempted: confirmed, error: None });
        let (refusals, started) = (Mutex::default(), seconds_now());
        Self { config, mount, store, fetcher, upstream, snapshots, metrics, refresh, refusals, started }
    }

    /// A binhost sent or confirmed the index just now.
    pub(super) fn refreshed(&self) {
        let now = seconds_now();
        *self.refresh_status() = RefreshStatus { confirmed: now, attempted: now, error: None };
    }

    /// No binhost did.
    pub(super) fn refresh_failed(&self, error: &str) {
        let mut state = self.refresh_status();
        state.attempted = seconds_now();
        // The same failure over and over is said once.
        if state.error.as_deref() != Some(error) {
            tracing::warn!("refreshing the index; the last good one stays: {error}");
        }
        state.error = Some(error.to_owned());
        self.metrics.failed_refreshes.increase();
    }

    /// What is left out of the index, for `status`.
    pub(super) fn set_refusals(&self, refusals: &[Refusal]) {
        let status = |refusal: &Refusal| {
            let Refusal { path, reason, since, .. } = refusal.clone();
            FailureStatus { path, reason, time: since }
        };
        *self.refusals.lock().unwrap_or_else(PoisonError::into_inner) = refusals.iter().map(status).collect();
    }

    fn refresh_status(&self) -> MutexGuard<'_, RefreshStatus> {
        self.refresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a tree in front of Portage. `false`: it shows what is shown already.
    pub(super) fn show(&self, tree: Arc<Tree>) -> bool {
        let current = self.snapshots.current();
        // URI is not rendered: packages may have moved though Portage sees nothing of it.
        let same_place = tree.index().header().uri() == current.index().header().uri();
        if same_place && tree.packages().rendered.digest == current.packages().rendered.digest {
            return false;
        }
        let before = self.snapshots.replace(Arc::clone(&tree));
        self.mount.forget(&before.changes(&tree));
        drop(before);
        give_memory_back();
        tracing::info!("{}", self.summary());
        true
    }

    /// One line for the log and for `systemctl status`.
    pub(super) fn summary(&self) -> String {
        let status = self.status();
        let Status { mountpoint, generation, refresh, cache, .. } = &status;
        let (used, bound) = (ByteSize(cache.bytes), ByteSize(cache.bound));
        let index = match refresh.confirmed {
            0 => "no index yet, shown empty".to_owned(),
            confirmed => {
                let age = shown(Duration::from_secs(status.time.saturating_sub(confirmed)));
                let GenerationStatus { packages, number, .. } = generation;
                format!("{packages} packages, generation {number}, index confirmed {age} ago")
            }
        };
        format!("{mountpoint}: {index}; cache {used} of {bound}")
    }

    pub(super) fn status(&self) -> Status {
        let tree = self.snapshots.current();
        let usage = self.store.usage();
        let dropped = tree.index().dropped();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            time: seconds_now(),
            started: self.started,
            mountpoint: self.config.mountpoint.display().to_string(),
            passthrough: self.mount.passes_through(),
            signatures: matches!(self.fetcher.policy(), Policy::Signed(_)),
            keyring: match self.fetcher.policy() {
                Policy::DigestsOnly => None,
                Policy::Signed(keyring) => Some(keyring_status(keyring.report())),
            },
            binhost: BinhostStatus {
                urls: self.upstream.binhost().urls.iter().map(ToString::to_string).collect(),
                mirrors: self.upstream.url_reports().into_iter().map(mirror).collect(),
            },
            generation: GenerationStatus {
                number: tree.generation(),
                packages: tree.index().records().len() as u64,
                dropped: u64::from(dropped.total()),
                dropped_reasons: dropped.to_string(),
                index_timestamp: tree.index().header().timestamp().unwrap_or_default(),
            },
            refresh: self.refresh_status().clone(),
            refused: self.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            cache: CacheStatus {
                directory: self.config.cache_dir.display().to_string(),
                bytes: usage.bytes,
                reserved: usage.reserved,
                packages: usage.bodies,
                bound: usage.bound,
            },
            downloads: self.fetcher.in_progress().into_iter().map(download).collect(),
            failures: self.fetcher.failures().into_iter().map(failure).collect(),
            metrics: self.metrics.read(),
        }
    }
}

fn keyring_status(report: KeyringReport) -> KeyringStatus {
    let KeyringReport { files, keys, problems } = report;
    KeyringStatus { files: files.iter().map(|path| path.display().to_string()).collect(), keys: keys as u64, problems }
}

/// Reading an index takes several times the memory that its tree keeps; glibc holds on to it.
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim only returns free pages to the system, and is safe to call from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn mirror(report: UrlReport) -> MirrorStatus {
    let UrlReport { url, standing, rests_for, rate, first_byte, failures, wrong, last_error } = report;
    let (last_error, since) = last_error.unzip();
    MirrorStatus {
        url,
        state: match standing {
            Standing::Healthy => MirrorState::Healthy,
            Standing::Distrusted => MirrorState::Distrusted,
            Standing::Trying => MirrorState::Trying,
            Standing::Resting => MirrorState::Resting,
        },
        resting_until: rests_for.map(|span| seconds_now().saturating_add(span.as_secs())),
        rate: rate.map(|rate| rate as u64),
        first_byte_ms: first_byte.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
        failures: u64::from(failures),
        wrong,
        last_error,
        last_error_time: since.map(|span: Duration| seconds_now().saturating_sub(span.as_secs())),
    }
}

fn download(progress: Progress) -> DownloadStatus {
    let Progress { path, received, size, waiters } = progress;
    DownloadStatus { path, received, size, waiters: waiters as u64 }
}

fn failure(report: FailureReport) -> FailureStatus {
    let FailureReport { path, reason, at } = report;
    FailureStatus { path, reason, time: at.duration_since(UNIX_EPOCH).map_or(0, |span| span.as_secs()) }
}
