//! Composes the daemon: opens the cache, shows the last good index, mounts, keeps the index up to
//! date, and stops.
//!
//! | file | job |
//! |---|---|
//! | `binhosts` | the binhosts and their indexes |
//! | `generations` | generations on disk, and rollback |
//! | `refresh` | keeps the published tree up to date |
//! | `refresh_schedule` | when the indexes are asked for |
//! | `repository` | how far the ebuild repository is from an index |
//! | `request` | requests to the refresher |
//! | `handle` | requests of the control socket: to the refresher, or done at once |
//! | `request_queue` | the requests, in order; questions are answered at once |
//! | `state` | what all parts share, and the status |
//! | `explain` | what becomes of entries, and why |
//! | `offer` | what binhosts offer, without a mount |
//! | `manage` | pins, evictions and collections |
//! | `acceptance` | which packages emerge takes here |
//! | `portage_keyring` | whether Portage will accept the packages |
//! | `bypass` | packages that Portage fetched past the mount |
//! | `comparison` | how these are found |
//! | `held` | those that are held back until the administrator allows them |
//! | `serving` | what other machines are served |
//! | `tasks` | what runs beside the refreshes |
//! | `service` | systemd, rights, handover |
//! | `daemon_scene` | test: a daemon without a mount |
//!
//! Order at the start: keys, cache, stored index, lower directory, mount, serving, control socket.
//! The daemon uses the network before the mount only if there is no stored index, and then for at
//! most [`START_BUDGET`].
//!
//! Not its job: the command line.

mod acceptance;
mod binhosts;
mod bypass;
mod comparison;
#[cfg(test)]
mod daemon_scene;
mod explain;
mod generations;
mod handle;
mod held;
mod manage;
mod offer;
mod portage_keyring;
mod refresh;
mod refresh_schedule;
mod repository;
mod request;
mod request_queue;
mod service;
mod serving;
mod state;
mod tasks;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::api::Status;
use crate::cache::{Cache, Limits};
use crate::config::{MountConfig, MountOptions, SignaturePolicy};
use crate::control::{Listener, Server};
use crate::fetch::{BandwidthLimits, Fetcher};
use crate::fs::{Filesystem, PublishedTree};
use crate::fuse::{Begun, Kept, KeptDescriptors, Mount};
use crate::metrics::Metrics;
use crate::sys::{Passed, seconds_now};
use crate::units::Interval;
use crate::upstream::ObjectStore;
pub(crate) use crate::verify::KeyringError;
use crate::verify::{Keyring, Policy};
pub(crate) use offer::offer;
pub(crate) use service::confinement::confine;
pub(crate) use service::descriptors::raise_descriptor_limit;
pub(crate) use service::handover::{Program, fitting, give_up, kept, take_up};
pub(crate) use service::supervise::supervise;

use binhosts::Binhosts;
use handle::{Handle, Reload};
use refresh::Refresher;
use service::handover::ReloadError;
use serving::Serving;
pub(crate) use serving::check_token;
use state::DaemonState;

/// How long a start without a stored index waits for a binhost before it shows an empty PKGDIR.
pub const START_BUDGET: Duration = Duration::from_secs(20);
/// Interval of small upkeep: times of last use are written, and old transient blobs are dropped.
const TIDY: Duration = Duration::from_secs(60);
/// How long an answer on the control socket may take to be written.
const ANSWERED: Duration = Duration::from_millis(100);
/// Maximum number of requests in the channel to the refresher.
const MAX_REQUESTS: usize = 4;

/// Whether a daemon mounts.
#[derive(Debug)]
pub(crate) enum Mounting {
    /// The daemon mounts, or continues the mount of another daemon.
    Mounted(Option<Kept>),
    /// The daemon only serves other machines.
    Unmounted,
}

/// Runs a daemon until SIGTERM, SIGINT or SIGHUP, or until the mountpoint is unmounted. A signal is
/// obeyed from the beginning: everything that was started is undone. A reload executes `program`.
///
/// # Errors
/// See [`Daemon::start`]; or signals cannot be received.
pub(crate) async fn run(config: MountConfig, mounting: Mounting, program: Program) -> anyhow::Result<()> {
    let mut stop = Stop::listen()?;
    // Descriptors of the mount, to unmount it if the daemon does not start.
    let namespace = config.namespace.clone();
    let spare = match &mounting {
        Mounting::Mounted(kept) => kept.as_ref().and_then(|kept| kept.descriptors().ok()),
        Mounting::Unmounted => None,
    };
    let give_up_spare = |spare: Option<KeptDescriptors>| {
        spare.into_iter().for_each(|descriptors| give_up(Kept::from_descriptors(descriptors, namespace.clone())));
    };
    let daemon = tokio::select! {
        started = Daemon::start(config, mounting) => started,
        () = stop.requested() => {
            give_up_spare(spare);
            return Ok(());
        }
    };
    let daemon = match daemon {
        Err(error) if error.is::<KeyringError>() => {
            // A missing or bad key would fail again, so the mount is given up.
            give_up_spare(spare);
            return Err(error);
        }
        other => other?,
    };
    drop(spare);
    daemon.run(&mut stop, &program).await;
    Ok(())
}

/// Checks that the keys exist that [`Daemon::start`] needs. Returns advice for the administrator,
/// so that Portage trusts these keys too. Changes nothing.
///
/// # Errors
/// The daemon would not start: see [`KeyringError`].
pub(crate) fn check_keys(config: &MountConfig) -> Result<Vec<String>, KeyringError> {
    let policies = policies(config)?;
    let signed = policies.iter().filter_map(|policy| policy.keyring.as_ref()?.last_signed());
    let clock = signed.fold(Passed::BUILT, |known, signed| known.or_later(Some(signed))).check(seconds_now());
    let clock = clock.err().map(|wrong| wrong.to_string());
    Ok(clock.into_iter().chain(portage_keyring::advice(&policies, &config.portage_gnupg)).collect())
}

/// The signals that stop a daemon.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Stop {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        let (terminate, interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, hangup: listen(SignalKind::hangup())? })
    }

    async fn requested(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = self.interrupt.recv() => tracing::info!("SIGINT: stopping"),
            _ = self.hangup.recv() => tracing::info!("SIGHUP: stopping"),
        }
    }
}

/// The object store, if one is configured.
fn open_store(config: &MountConfig, metrics: &Arc<Metrics>) -> anyhow::Result<Option<Arc<ObjectStore>>> {
    let Some(store) = config.object_store.clone() else { return Ok(None) };
    Ok(ObjectStore::new(store, Arc::clone(metrics)).context("the object store")?.map(Arc::new))
}

/// Puts packages into the object store, while nothing is downloaded.
async fn store_packages(shared: Arc<DaemonState>) {
    if let Some(store) = &shared.store {
        store.write(|| shared.fetcher.counts().live > 0).await;
    }
}

/// A running daemon, which unmounts when it is dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    shared: Arc<DaemonState>,
    refresher: tokio::task::JoinHandle<()>,
    follower: tokio::task::JoinHandle<()>,
    scrubber: tokio::task::JoinHandle<()>,
    watcher: tokio::task::JoinHandle<()>,
    comparer: tokio::task::JoinHandle<()>,
    upgrader: tokio::task::JoinHandle<()>,
    rebuilder: tokio::task::JoinHandle<()>,
    network: tokio::task::JoinHandle<()>,
    storer: tokio::task::JoinHandle<()>,
    reloads: mpsc::Receiver<Reload>,
    _control: Server,
    _listener: Option<Listener>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.refresher.abort();
        self.follower.abort();
        self.scrubber.abort();
        self.watcher.abort();
        self.comparer.abort();
        self.upgrader.abort();
        self.rebuilder.abort();
        self.network.abort();
        self.storer.abort();
        self.shared.mount.iter().for_each(Mount::unmount);
    }
}

impl Daemon {
    /// Starts everything; when this function returns, the mount is usable. Without a mount, other
    /// machines are served; with one, a failure of that is tried again and delays nothing.
    ///
    /// # Errors
    /// The cache, the mountpoint, an address or the control socket cannot be used; or
    /// [`KeyringError`].
    pub(crate) async fn start(config: MountConfig, mounting: Mounting) -> anyhow::Result<Self> {
        let policies = policies(&config)?;
        portage_keyring::warn(&policies, &config.portage_gnupg);
        let metrics = Arc::new(Metrics::default());
        let cache = {
            let (directory, bound, metrics) =
                (config.options.cache_dir.clone(), config.options.cache_size.0, Arc::clone(&metrics));
            let open = tokio::task::spawn_blocking(move || Cache::open(&directory, bound, metrics)).await;
            Arc::new(open.context("opening the cache")?.context("opening the cache")?)
        };
        let (limited, limits) = (Arc::clone(&cache), limits(&config));
        tokio::task::spawn_blocking(move || limited.evictor().set_limits(limits))
            .await
            .context("making room in the cache")?;
        let (fetcher, outcomes) = Fetcher::new(Arc::clone(&cache), Arc::clone(&metrics));
        fetcher.set_bulk_read_limit(config.options.bulk_read_limit);
        let store = open_store(&config, &metrics)?;
        fetcher.bandwidth().set(bandwidth_limits(&config));
        let (held, fetching, counted) = (Arc::clone(&cache), Arc::clone(&fetcher), Arc::clone(&metrics));
        let mut binhosts = Binhosts::open(held, fetching, counted, store.clone(), &config, policies)?;
        let first = binhosts.first().await?;
        let front = match &mounting {
            Mounting::Mounted(kept) => {
                let resumed = kept.as_ref().filter(|kept| !kept.is_new());
                let beneath = resumed.map(tasks::local_watcher::beneath).transpose()?;
                tasks::local_watcher::open(&config, &cache, first, beneath).await?
            }
            Mounting::Unmounted => serving::unmounted(&config, &cache, first).await?,
        };
        let front = Arc::new(front);
        let (shown, root) = (Arc::clone(front.snapshots()), config.portage_root.clone());
        let directory = cache.directory().to_owned();
        cache
            .evictor()
            .classify_by(move |digest_of| tasks::installed_classes::classes(&root, &shown, &directory, digest_of));
        let mounted = matches!(mounting, Mounting::Mounted(_));
        let serving = Serving::new(&config, mounted, &front, &fetcher, &metrics, &cache)?;
        let mount = match mounting {
            Mounting::Mounted(kept) => Some(mount(&config, &front, &fetcher, &metrics, kept)?),
            Mounting::Unmounted => None,
        };
        let shared =
            Arc::new(DaemonState::new(config, mount, serving, cache, fetcher, front, metrics).with_store(store));
        shared.set_reports(&binhosts);
        let served = tokio::task::block_in_place(|| shared.complete_serving());
        if shared.mount.is_none() {
            served?;
        }
        let (requests, incoming) = mpsc::channel(MAX_REQUESTS);
        let following = requests.clone();
        let (reload, reloads) = mpsc::channel(1);
        let handle = Arc::new(Handle { shared: Arc::clone(&shared), requests, reload });
        let group = shared.config.options.control_group.as_ref();
        // The control socket comes last: a `reload` command waits for it, and then connects over
        // TCP.
        let MountOptions { listen, listen_name, .. } = &shared.config.options;
        let listener = listen.map(|address| Listener::start(address, listen_name, Arc::clone(&handle))).transpose()?;
        let control = Server::start(&shared.config.options.control, group, handle)?;
        // A separate task, so that no other event cancels a slow refresh.
        let refresher = tokio::spawn(
            Refresher::new(binhosts, outcomes, incoming, shared.config.options.refresh).run(Arc::clone(&shared)),
        );
        let follower = tokio::spawn(tasks::config_watcher::follow(Arc::clone(&shared), following));
        let scrubber = tokio::spawn(tasks::scrub::in_background(Arc::clone(&shared)));
        let watcher = tokio::spawn(tasks::local_watcher::watch(Arc::clone(&shared)));
        let comparer = tokio::spawn(bypass::watch(Arc::clone(&shared)));
        let upgrader = tokio::spawn(tasks::upgrade_prefetch::in_background(Arc::clone(&shared)));
        let rebuilder = tokio::spawn(tasks::recovery::in_background(Arc::clone(&shared)));
        let network = tokio::spawn(tasks::network_watcher::follow(Arc::clone(&shared)));
        let storer = tokio::spawn(store_packages(Arc::clone(&shared)));
        Ok(Self {
            shared,
            refresher,
            follower,
            scrubber,
            watcher,
            comparer,
            upgrader,
            rebuilder,
            network,
            storer,
            reloads,
            _control: control,
            _listener: listener,
        })
    }

    /// The status, as the control socket reports it.
    #[must_use]
    pub(crate) fn status(&self) -> Status {
        self.shared.status()
    }

    /// Runs until a signal arrives or the mountpoint is unmounted; then unmounts and returns.
    async fn run(mut self, stop: &mut Stop, program: &Program) {
        let mut tidy = tokio::time::interval(TIDY);
        service::systemd::notify_status(vec![NotifyState::Ready], self.shared.summary());
        tracing::info!("{}", self.shared.summary());
        service::watchdog::start(&self.shared.config, self.shared.mount.is_some());
        let cache = Arc::clone(&self.shared.cache);
        let sweep = tokio::task::spawn_blocking(move || cache.recovery().sweep());
        loop {
            tokio::select! {
                () = stop.requested() => break,
                () = self.shared.unmounted() => break tracing::warn!("the mountpoint was unmounted by another program: stopping"),
                _ = tidy.tick() => self.tidy(),
                Some(reply) = self.reloads.recv() => self.reload(program, reply).await,
            }
        }
        service::systemd::notify(vec![NotifyState::Stopping]);
        service::handover::discard();
        // The sweep uses the cache. An incomplete sweep does no harm, but the sweep must not
        // outlive the daemon.
        let _ = sweep.await;
        // Written here, not when the last task drops the cache: the process may exit before that.
        let cache = Arc::clone(&self.shared.cache);
        let _ = tokio::task::spawn_blocking(move || cache.write_uses()).await;
    }

    /// Executes the program in this process. Returns only if that fails.
    async fn reload(&self, program: &Program, reply: Reload) {
        let Some(mount) = &self.shared.mount else {
            // The client may have disconnected.
            let _ = reply.send(Err(ReloadError::NoMount));
            return;
        };
        let tried = program.clone();
        let tried = tokio::task::spawn_blocking(move || service::handover::try_out(&tried)).await;
        if let Err(error) = tried.unwrap_or_else(|error| Err(ReloadError::Test(error))) {
            tracing::warn!("not reloading: {error}");
            // The client may have disconnected.
            let _ = reply.send(Err(error));
            return;
        }
        let _ = reply.send(Ok(()));
        tracing::info!("reloading: running {} anew; the mount stays", program.name.display());
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            service::systemd::notify(vec![NotifyState::Reloading, now]);
        }
        // Gives the client time to get the answer, and writes small data that is still in memory.
        let cache = Arc::clone(&self.shared.cache);
        let _ = tokio::task::spawn_blocking(move || cache.write_uses()).await;
        tokio::time::sleep(ANSWERED).await;
        let error = service::handover::replace(program, mount);
        tracing::error!("reloading failed, going on as before: {error:#}");
        service::systemd::notify(vec![NotifyState::Ready]);
    }

    fn tidy(&self) {
        self.shared.fetcher.let_go();
        let cache = Arc::clone(&self.shared.cache);
        tokio::task::spawn_blocking(move || {
            cache.evictor().keep_free();
            cache.write_uses();
        });
        if self.shared.serving.as_ref().is_some_and(|serving| serving.has_own_changes(&self.shared.front)) {
            let shared = Arc::clone(&self.shared);
            tokio::task::spawn_blocking(move || shared.publish_for_others());
        }
        if self.shared.serving.as_ref().is_some_and(Serving::is_incomplete) {
            let shared = Arc::clone(&self.shared);
            // A failure is in the log and in the status.
            tokio::task::spawn_blocking(move || drop(shared.complete_serving()));
        }
        service::systemd::notify_status(Vec::new(), self.shared.summary());
    }
}

/// Mounts, or continues the mount of `kept`.
fn mount(
    config: &MountConfig,
    front: &Arc<PublishedTree>,
    fetcher: &Arc<Fetcher>,
    metrics: &Arc<Metrics>,
    kept: Option<Kept>,
) -> anyhow::Result<Mount> {
    let MountOptions { prefetch, plan_check, .. } = config.options;
    let operations = Filesystem::new(Arc::clone(front), Arc::clone(fetcher), prefetch, plan_check);
    let mount = Mount::new(config, operations, Arc::clone(metrics), kept)?;
    match mount.begun() {
        Begun::Mounted => service::handover::store(&mount),
        Begun::Resumed => tracing::info!("going on with the mount of the daemon before this one"),
    }
    if let Some(why) = service::mount_visibility::hidden(&config.mountpoint, mount.device()) {
        tracing::warn!("{why}");
    }
    Ok(mount)
}

/// Builds the verification policy of each binhost, and opens its keys.
fn policies(config: &MountConfig) -> Result<Vec<Policy>, KeyringError> {
    let mut policies: Vec<Policy> = Vec::new();
    for binhost in &config.binhosts {
        // Binhosts with the same key files share one keyring.
        let same = config.binhosts.iter().zip(&policies).find(|(other, _)| other.signatures == binhost.signatures);
        let policy = match (same, &binhost.signatures) {
            (Some((_, policy)), _) => policy.clone(),
            (None, SignaturePolicy::DigestsOnly) => Policy::digests_only(),
            (None, SignaturePolicy::Required { keyrings }) => {
                let opened = Keyring::open(keyrings.iter().cloned());
                Policy::signed(Arc::new(opened.map_err(|error| error.of_binhost(&binhost.name))?))
            }
        };
        policies.push(Policy { uncompressed: config.uncompressed, ..policy });
    }
    Ok(policies)
}

/// The limits of bandwidth that the configuration sets.
fn bandwidth_limits(config: &MountConfig) -> BandwidthLimits {
    let MountOptions { rate_limit, prefetch_rate_limit, quiet_hours, .. } = &config.options;
    BandwidthLimits { rate: *rate_limit, prefetch_rate: *prefetch_rate_limit, quiet_hours: quiet_hours.clone() }
}

fn limits(config: &MountConfig) -> Limits {
    let writes_per_day = Some(config.options.write_budget.0).filter(|budget| *budget > 0);
    Limits { bound: config.options.cache_size.0, min_free: config.options.min_free.0, writes_per_day }
}

/// Formats a span for people, like `12 min`.
fn shown(span: Duration) -> Interval {
    Interval(span)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::binhosts::scene::Scene;

    #[test]
    fn options_become_limits_of_the_cache() {
        let options = [("cache-size", "3M"), ("min-free", "2M")];
        let Limits { bound, min_free, writes_per_day } = limits(&Scene::new(1, &options).config());
        assert_eq!((bound, min_free, writes_per_day), (3 << 20, 2 << 20, None));
        let limited = [options[0], options[1], ("write-budget", "1G")];
        assert_eq!(limits(&Scene::new(1, &limited).config()).writes_per_day, Some(1 << 30));
    }

    #[test]
    fn every_binhost_has_a_policy_and_an_error_names_whose_keys_are_missing() {
        let mut config = Scene::new(1, &[]).config();
        config.binhosts.push(config.binhosts[0].clone());
        config.uncompressed = true;
        let all = policies(&config).unwrap();
        assert!(all.len() == 2 && all.iter().all(|policy| policy.keyring.is_none() && policy.uncompressed));
        let missing = SignaturePolicy::Required { keyrings: vec!["/nonexistent/key".into()] };
        config.binhosts[1].signatures = missing;
        let error = policies(&config).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/key") && error.contains(&config.binhosts[1].name), "{error}");
    }
}
