//! State that all parts of the daemon share, and the status that the daemon reports.
//!
//! | file | job |
//! |---|---|
//! | `prefetch_jobs` | prefetch jobs by number |
//! | `upgrade_budget` | bytes that upgrade prefetch may fetch a day |
//! | `check_rate` | the rate of checks of entries |

pub(super) mod check_rate;
pub(super) mod prefetch_jobs;
pub(super) mod upgrade_budget;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::binhosts::Binhosts;
use super::binhosts::report::{BinhostReport, RollbackReport, sharer};
use super::binhosts::snapshot::ViewSnapshot;
use super::comparison;
use super::generations::usage::{disk_usage, nameless};
use super::held::HeldPackages;
use super::service::mount_visibility;
use super::serving::Serving;
use super::shown;
use crate::api::{
    ApiError, BandwidthStatus, BinhostStatus, BypassStatus, CacheStatus, DownloadCounts, DownloadState, DownloadStatus,
    FailureStatus, GenerationStatus, ObjectStoreStatus, ProcessStatus, RefreshStatus, Status,
};
use crate::cache::Cache;
use crate::config::{MountConfig, Prefetch};
use crate::fetch::{self, Bandwidth, BandwidthLimits, Counts, DownloadProgress, FailureReport, Fetcher};
use crate::fs::PublishedTree;
use crate::fuse::Mount;
use crate::index::Listing;
use crate::metrics::Metrics;
use crate::serve::ServeError;
use crate::sys::{Moment, WrongClock, seconds_now};
use crate::tree::{PackagesFile, Snapshots, Tree};
use crate::units::{ByteSize, Plural};
use crate::upstream::ObjectStore;
use check_rate::CheckRate;
use prefetch_jobs::PrefetchJobs;
use upgrade_budget::UpgradeBudget;

#[derive(Debug)]
pub(super) struct DaemonState {
    pub(super) config: MountConfig,
    /// `None`: the daemon only serves other machines.
    pub(super) mount: Option<Mount>,
    /// `None`: other machines are not served.
    pub(super) serving: Option<Serving>,
    pub(super) cache: Arc<Cache>,
    pub(super) fetcher: Arc<Fetcher>,
    pub(super) front: Arc<PublishedTree>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) store: Option<Arc<ObjectStore>>,
    reports: Mutex<Vec<BinhostReport>>,
    rollback: Mutex<RollbackReport>,
    pub(super) prefetch_jobs: PrefetchJobs,
    pub(super) upgrade_budget: UpgradeBudget,
    pub(super) check_rate: CheckRate,
    /// Notified when a new tree is published after a refresh or rollback.
    pub(super) tree_published: Notify,
    /// Why the published tree is older than the indexes.
    problem: Mutex<Option<String>>,
    /// Why the configuration in the files cannot be used.
    misconfigured: Mutex<Option<String>>,
    /// Warnings about the configuration for the administrator.
    warnings: Mutex<Vec<String>>,
    /// The binhosts and rules, from which the decision about each entry follows.
    snapshot: Mutex<Option<ViewSnapshot>>,
    /// Notified when local packages or decisions about entries may have changed.
    pub(super) changed: Notify,
    bypassed: Mutex<Vec<BypassStatus>>,
    pub(super) held: HeldPackages,
    started: Moment,
    /// Whether the log already has a warning that the system clock is wrong.
    clock_is_wrong: AtomicBool,
}

impl DaemonState {
    pub(super) fn new(
        config: MountConfig,
        mount: Option<Mount>,
        serving: Option<Serving>,
        cache: Arc<Cache>,
        fetcher: Arc<Fetcher>,
        front: Arc<PublishedTree>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let upgrade_budget = UpgradeBudget::open(cache.directory(), config.options.prefetch_budget.0);
        let snapshots = Arc::clone(front.snapshots());
        let warnings = Mutex::new(config.warnings.clone());
        let held = HeldPackages::load(cache.directory());
        Self {
            config,
            mount,
            serving,
            cache,
            fetcher,
            front,
            snapshots,
            metrics,
            store: None,
            reports: Mutex::default(),
            rollback: Mutex::default(),
            prefetch_jobs: PrefetchJobs::default(),
            upgrade_budget,
            check_rate: CheckRate::new(),
            tree_published: Notify::new(),
            problem: Mutex::default(),
            misconfigured: Mutex::default(),
            warnings,
            snapshot: Mutex::default(),
            changed: Notify::new(),
            bypassed: Mutex::default(),
            held,
            started: Moment::now(),
            clock_is_wrong: AtomicBool::new(false),
        }
    }

    /// Adds the object store, whose state `status` shows.
    pub(super) fn with_store(self, store: Option<Arc<ObjectStore>>) -> Self {
        Self { store, ..self }
    }

    /// Updates the report on the binhosts, which `status` shows from now on.
    pub(super) fn set_reports(&self, binhosts: &Binhosts) {
        *self.rollback.lock() = binhosts.rollback_report();
        *self.reports() = binhosts.reports();
        self.set_snapshot(binhosts);
        self.changed.notify_one();
        self.check_clock();
    }

    /// Updates the decisions about entries, before a tree that follows from them is published.
    pub(super) fn set_snapshot(&self, binhosts: &Binhosts) {
        *self.snapshot.lock() = Some(binhosts.snapshot());
    }

    /// Logs once that the clock is wrong.
    fn check_clock(&self) {
        let wrong = self.wrong_clock();
        let known = self.clock_is_wrong.swap(wrong.is_some(), Ordering::Relaxed);
        if let Some(wrong) = wrong.filter(|_| !known) {
            tracing::warn!("{}", clock_warning(wrong));
        }
    }

    fn wrong_clock(&self) -> Option<WrongClock> {
        self.reports().iter().find_map(|report| report.remote.check_clock().err())
    }

    /// The binhosts and rules, from which the decision about each entry follows.
    pub(super) fn snapshot(&self) -> Option<ViewSnapshot> {
        self.snapshot.lock().clone()
    }

    /// Sets the warnings about the configuration files.
    pub(super) fn set_warnings(&self, warnings: Vec<String>) {
        *self.warnings.lock() = warnings;
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.lock().clone()
    }

    /// Sets the local packages whose entries at a binhost are hidden; logs each new one once.
    pub(super) fn set_bypassed(&self, bypassed: Vec<BypassStatus>) {
        let mut before = self.bypassed.lock();
        // What is held back has been logged.
        for new in bypassed.iter().filter(|new| !new.held && !before.contains(new)) {
            let path = self.config.mountpoint.join(&new.path);
            tracing::warn!("{new}; to get rid of it, turn getbinpkg off and remove {}", path.display());
        }
        *before = bypassed;
    }

    /// Gives local packages that are held back their names again. Returns their paths.
    ///
    /// # Errors
    /// See [`HeldPackages::allow`].
    pub(super) fn allow(&self, paths: Vec<String>) -> Result<Vec<String>, ApiError> {
        let allowed = self.held.allow(self.front.layer(), paths);
        let held = self.held.list(self.front.layer());
        self.bypassed.lock().retain(|bypassed| !bypassed.held || held.contains(bypassed));
        self.front.touch();
        allowed
    }

    /// Sets why a new generation cannot be made. `None`: it can be made.
    pub(super) fn set_problem(&self, problem: Option<String>) {
        let mut before = self.problem.lock();
        if let Some(problem) = problem.as_ref().filter(|problem| before.as_ref() != Some(problem)) {
            tracing::warn!("a new generation cannot be made, and is tried again with every refresh: {problem}");
        }
        *before = problem;
    }

    /// Records the result of a configuration change. `None`: the new configuration is in use.
    pub(super) fn configured(&self, problem: Option<String>) {
        match &problem {
            None => tracing::info!("the configuration has changed; {}", self.summary()),
            Some(problem) => {
                tracing::warn!("the configuration has changed and cannot be used, the last good one stays: {problem}")
            }
        }
        *self.misconfigured.lock() = problem;
    }

    /// Whether the configuration in the files, as last read, is not in use.
    pub(super) fn is_misconfigured(&self) -> bool {
        self.misconfigured.lock().is_some()
    }

    fn reports(&self) -> MutexGuard<'_, Vec<BinhostReport>> {
        self.reports.lock()
    }

    /// Publishes a tree, with the local packages in front. `false`: the published tree is the same
    /// already.
    ///
    /// # Errors
    /// The tree cannot be written; the published one stays.
    pub(super) fn publish(&self, tree: Arc<Tree>) -> std::io::Result<bool> {
        let changed = tokio::task::block_in_place(|| self.front.publish(tree))?;
        // What is the same for Portage here may differ for others: they may get no local packages.
        tokio::task::block_in_place(|| self.publish_for_others());
        if changed {
            give_memory_back();
            tracing::info!("{}", self.summary());
        }
        Ok(changed)
    }

    /// Ends the rest of all peers: the network has changed.
    pub(super) fn retry_peers(&self) {
        self.reports().iter().for_each(|report| report.remote.upstream.network_changed());
    }

    /// Publishes the index that other machines get. If that fails, they get the one before.
    pub(super) fn publish_for_others(&self) {
        if let Some(serving) = &self.serving {
            serving.publish(&self.front, &self.fetcher, &|listing| self.distrusted(listing));
            self.cache.budget().count(serving.take_written());
        }
    }

    fn distrusted(&self, listing: &Listing) -> std::io::Result<HashSet<String>> {
        comparison::distrusted((self.front.layer(), &self.held), self.snapshot().as_ref(), listing)
    }

    /// Publishes the index that other machines get again if it withholds other local packages than
    /// these. Blocks.
    pub(super) fn withhold_from_others(&self, withheld: &HashSet<String>) {
        if self.serving.as_ref().is_some_and(|serving| serving.withholds_others(withheld)) {
            self.publish_for_others();
        }
    }

    /// Whether the index that other machines get has other local packages than there are.
    pub(super) fn has_local_changes_for_others(&self) -> bool {
        self.serving.as_ref().is_some_and(|serving| serving.has_local_changes(&self.front))
    }

    /// Does what is left of serving other machines.
    ///
    /// # Errors
    /// See [`Serving::complete`].
    pub(super) fn complete_serving(&self) -> Result<(), ServeError> {
        let Some(serving) = &self.serving else { return Ok(()) };
        let completed = serving.complete(&self.front, &self.fetcher, &|listing| self.distrusted(listing));
        self.cache.budget().count(serving.take_written());
        completed
    }

    /// Completes when somebody else has unmounted. Without a mount it never does.
    pub(super) async fn unmounted(&self) {
        match &self.mount {
            Some(mount) => mount.ended().await,
            None => std::future::pending().await,
        }
    }

    /// One line for the log and for `systemctl status`.
    pub(super) fn summary(&self) -> String {
        let status = self.status();
        let Status { generation, refresh, cache, binhosts, .. } = &status;
        let subject = status.subject();
        let (used, bound) = (ByteSize(cache.bytes), ByteSize(cache.bound));
        let without = binhosts.iter().filter(|binhost| binhost.refresh.confirmed == 0).count();
        let index = if without == binhosts.len() {
            "no index yet, shown empty".to_owned()
        } else {
            let GenerationStatus { packages, number, rolled_back, .. } = generation;
            let rolled_back = if *rolled_back { " (rolled back)" } else { "" };
            let missing = if without == 0 {
                String::new()
            } else {
                format!(", {} without an index", Plural(without as u64, "binhost"))
            };
            let confirmed = binhosts.iter().map(|binhost| binhost.refresh.confirmed).filter(|time| *time > 0).min();
            let age = shown(Duration::from_secs(status.time.saturating_sub(confirmed.unwrap_or(refresh.confirmed))));
            let packages = Plural(*packages, "package");
            format!("{packages}, generation {number}{rolled_back}, index confirmed {age} ago{missing}")
        };
        let hidden = |mount: &Mount| mount_visibility::hidden(&self.config.mountpoint, mount.device());
        let hidden = match self.mount.as_ref().and_then(hidden) {
            Some(_) => "; NOBODY ELSE SEES THIS MOUNT, the log says why",
            None => "",
        };
        format!("{subject}: {index}; {} cached, {used} of {bound}{hidden}", cache.packages)
    }

    pub(super) fn status(&self) -> Status {
        let tree = self.snapshots.current();
        let usage = self.cache.usage();
        let reports = self.reports();
        let binhosts: Vec<BinhostStatus> =
            reports.iter().map(|report| report.status(&self.config.portage_root)).collect();
        let refused = reports.iter().flat_map(|report| report.refused.clone()).collect();
        drop(reports);
        let rollback = self.rollback.lock().clone();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            time: seconds_now(),
            started: self.started.by_clock(),
            mountpoint: self.mount.as_ref().map(|_| self.config.mountpoint.display().to_string()).unwrap_or_default(),
            serve: self.serving.as_ref().map(Serving::status),
            object_store: self.store.as_deref().map(object_store),
            passthrough: self.mount.as_ref().is_some_and(Mount::passes_through),
            signatures: binhosts.iter().all(|binhost| binhost.keyring.is_some()),
            generation: GenerationStatus {
                number: tree.generation(),
                packages: tree.view().len() as u64,
                index_timestamp: tree.packages().rendered.timestamp,
                created: made(tree.packages()),
                local: self.front.local_packages() as u64,
                rolled_back: rollback.rolled_back,
                rendered_on_read: tree.packages().content.file().is_none(),
                problem: rollback.problem,
            },
            process: process(),
            refresh: together(&binhosts, self.problem.lock().clone()),
            binhosts,
            misconfigured: self.misconfigured.lock().clone(),
            warnings: {
                let serving = self.serving.as_ref().and_then(Serving::problem);
                self.wrong_clock().map(clock_warning).into_iter().chain(serving).chain(self.warnings()).collect()
            },
            bypassed: self.bypassed.lock().clone(),
            refused,
            alarms: self.fetcher.alarms().into_iter().map(failure).collect(),
            cache: CacheStatus {
                directory: self.config.options.cache_dir.display().to_string(),
                bytes: usage.bytes,
                reserved: usage.reserved,
                parked: usage.parked,
                packages: usage.blobs,
                bound: usage.bound,
                pinned: self.cache.pins().list().len() as u64,
                written_today: self.cache.budget().written().today(),
                indexes: disk_usage(self.cache.directory())
                    + nameless(tree.packages())
                    + self.serving.as_ref().map_or(0, Serving::disk_usage),
            },
            upgrade_prefetch: (self.config.options.prefetch == Prefetch::World).then(|| self.upgrade_budget.status()),
            bandwidth: bandwidth(self.fetcher.bandwidth()),
            download_counts: counts(self.fetcher.counts()),
            downloads: self.fetcher.in_progress().into_iter().map(download).collect(),
            failures: self.fetcher.failures().into_iter().map(failure).collect(),
            metrics: self.metrics.read(),
        }
    }
}

fn object_store(store: &ObjectStore) -> ObjectStoreStatus {
    ObjectStoreStatus {
        place: store.place(),
        writes: store.is_written(),
        waiting: store.waiting() as u64,
        nodes: store.reports().into_iter().map(sharer).collect(),
    }
}

fn clock_warning(wrong: WrongClock) -> String {
    format!("{wrong}; until then neither signatures nor certificates of web servers can be judged, and opens may fail")
}

/// Combines the refresh status of all binhosts into one.
fn together(binhosts: &[BinhostStatus], problem: Option<String>) -> RefreshStatus {
    let name = |binhost: &BinhostStatus| if binhosts.len() > 1 { format!("{}: ", binhost.name) } else { String::new() };
    let error = |binhost: &BinhostStatus| binhost.refresh.error.as_ref().map(|error| name(binhost) + error);
    let problems: Vec<String> = binhosts.iter().filter_map(error).chain(problem).collect();
    RefreshStatus {
        confirmed: binhosts.iter().map(|binhost| binhost.refresh.confirmed).min().unwrap_or_default(),
        attempted: binhosts.iter().map(|binhost| binhost.refresh.attempted).max().unwrap_or_default(),
        error: (!problems.is_empty()).then(|| problems.join("; ")),
        older_since: binhosts.iter().filter_map(|binhost| binhost.refresh.older_since).min(),
    }
}

/// Returns free memory to the system. Parsing an index or listing all packages takes much more
/// memory than is kept, and glibc would not return the rest.
pub(super) fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim only returns free pages to the system, and any thread may call it.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// When the file that Portage reads was written. 0: there is no file.
fn made(packages: &PackagesFile) -> u64 {
    let modified =
        packages.content.file().and_then(|file| file.metadata().and_then(|metadata| metadata.modified()).ok());
    modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |span| span.as_secs())
}

/// Memory and written bytes of this process. Source: proc_pid_io(5), proc_pid_status(5).
fn process() -> ProcessStatus {
    let number = |path: &str, key: &str| -> u64 {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|value| value.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
    };
    ProcessStatus {
        resident: number("/proc/self/status", "VmRSS:").saturating_mul(1024),
        written: number("/proc/self/io", "write_bytes:"),
    }
}

fn bandwidth(bandwidth: &Bandwidth) -> Option<BandwidthStatus> {
    let limits = bandwidth.limits();
    (limits != BandwidthLimits::default()).then(|| BandwidthStatus {
        rate_limit: limits.rate.0,
        prefetch_rate_limit: limits.prefetch_rate.0,
        quiet_hours: limits.quiet_hours.iter().map(ToString::to_string).collect(),
        quiet_until: bandwidth.quiet().map(|rest| seconds_now().saturating_add(rest.as_secs())),
    })
}

fn counts(counts: Counts) -> DownloadCounts {
    let Counts { live, parked, waiting, opens } = counts;
    DownloadCounts { live: live as u64, parked: parked as u64, waiting: waiting as u64, opens: opens as u64 }
}

fn download(progress: DownloadProgress) -> DownloadStatus {
    let DownloadProgress { path, state, received, size, waiters, ahead, resting } = progress;
    let state = match state {
        fetch::TransferState::Live => DownloadState::Live,
        fetch::TransferState::Parked => DownloadState::Parked,
        fetch::TransferState::Waiting => DownloadState::Waiting,
    };
    DownloadStatus { path, state, received, size, waiters: waiters as u64, prefetch: ahead, resting }
}

fn failure(report: FailureReport) -> FailureStatus {
    let FailureReport { path, reason, at } = report;
    FailureStatus { path, reason, time: at.by_clock() }
}

#[cfg(test)]
mod tests;
