//! Composes everything: opens the cache, shows the last good index, mounts, keeps the index up to date, stops.
//!
//! Order at the start: keys, cache, stored index, mount, control socket. The network is asked before the mount only when there is
//! no stored index, and then for no longer than [`START_BUDGET`].
//!
//! Not its job: the command line.

mod anchors;
mod explain;
mod files;
mod follow;
mod generation;
mod manage;
mod merged;
mod rebuild;
mod refresh;
mod refusals;
mod scrub;
mod source;
mod sources;
mod state;
mod votes;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::config::{Binhost, Interval, MountConfig, SignaturePolicy};
use crate::control::{Control, Managed, PackageStatus, Server, Status, Task, VerifyResult};
use crate::fetch::Fetcher;
use crate::fuse::{Mount, Operations};
use crate::index::Atom;
use crate::metrics::Metrics;
use crate::store::{Limits, Store};
use crate::tree::Snapshots;
pub use crate::verify::KeyringError;
use crate::verify::{Keyring, Policy};

use refresh::{Refresher, Request};
use source::Order;
use sources::Sources;
use state::Shared;

/// How long a start without a stored index waits for a binhost before it shows an empty PKGDIR.
pub const START_BUDGET: Duration = Duration::from_secs(20);
/// How often small things are tidied: times of last use, bodies that are only held.
const TIDY: Duration = Duration::from_secs(60);
/// Refreshes asked for at the same time.
const MAX_REQUESTS: usize = 4;

/// Starts a daemon, and runs it until SIGTERM, SIGINT or SIGHUP, or until somebody unmounts it. A signal is obeyed from the
/// beginning: whatever was begun is undone.
///
/// # Errors
/// See [`Daemon::start`]; or signals cannot be received.
pub async fn serve(config: MountConfig) -> anyhow::Result<()> {
    let mut stop = Stop::listen()?;
    let daemon = tokio::select! {
        started = Daemon::start(config) => started?,
        () = stop.requested() => return Ok(()),
    };
    daemon.run(&mut stop).await;
    Ok(())
}

/// Whether the keys are there that [`Daemon::start`] would need, and what the administrator should do so that Portage trusts
/// them too. Nothing is changed.
///
/// # Errors
/// It would not start: see [`KeyringError`].
pub fn check_keys(config: &MountConfig) -> Result<Vec<String>, KeyringError> {
    Ok(anchors::advice(&policies(&config.binhosts)?, &config.portage_gnupg))
}

/// The signals that end a daemon.
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

/// A running daemon. Dropping it unmounts.
#[derive(Debug)]
pub struct Daemon {
    shared: Arc<Shared>,
    refresher: tokio::task::JoinHandle<()>,
    follower: tokio::task::JoinHandle<()>,
    scrubber: tokio::task::JoinHandle<()>,
    rebuilder: tokio::task::JoinHandle<()>,
    _control: Server,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.refresher.abort();
        self.follower.abort();
        self.scrubber.abort();
        self.rebuilder.abort();
        self.shared.mount.unmount();
    }
}

impl Daemon {
    /// Starts everything; when this returns, the mount is usable.
    ///
    /// # Errors
    /// The cache, the mountpoint or the control socket cannot be used; or [`KeyringError`].
    pub async fn start(config: MountConfig) -> anyhow::Result<Self> {
        let policies = policies(&config.binhosts)?;
        anchors::warn(&policies, &config.portage_gnupg);
        let metrics = Arc::new(Metrics::default());
        let store = {
            let (directory, bound, metrics) = (config.cache_dir.clone(), config.cache_size.0, Arc::clone(&metrics));
            let open = tokio::task::spawn_blocking(move || Store::open(&directory, bound, metrics)).await;
            Arc::new(open.context("opening the cache")?.context("opening the cache")?)
        };
        let (limited, limits) = (Arc::clone(&store), limits(&config));
        tokio::task::spawn_blocking(move || limited.set_limits(limits)).await.context("making room in the cache")?;
        let (fetcher, verdicts) = Fetcher::new(Arc::clone(&store), Arc::clone(&metrics));
        fetcher.set_mass_read(config.mass_read);
        let fetcher = Arc::new(fetcher);
        let (held, fetching, counted) = (Arc::clone(&store), Arc::clone(&fetcher), Arc::clone(&metrics));
        let mut sources = Sources::open(held, fetching, counted, &config, policies)?;
        let snapshots = Arc::new(Snapshots::new(sources.first().await?));
        let (shown, vdb) = (Arc::clone(&snapshots), config.vdb.clone());
        store.rank_by(move |store| merged::ranks(&vdb, &shown, store));
        let operations = Operations::new(Arc::clone(&snapshots), Arc::clone(&fetcher), config.prefetch);
        let mount = Mount::new(&config.mountpoint, operations, Arc::clone(&metrics), config.passthrough)?;
        let shared = Arc::new(Shared::new(config, mount, store, fetcher, snapshots, metrics));
        shared.set_reports(sources.reports());
        let (requests, incoming) = mpsc::channel(MAX_REQUESTS);
        let following = requests.clone();
        let control =
            Server::start(&shared.config.control, Arc::new(Handle { shared: Arc::clone(&shared), requests }))?;
        // A task of its own: a slow refresh is not broken off by whatever else happens.
        let refresher =
            tokio::spawn(Refresher::new(sources, verdicts, incoming, shared.config.refresh).run(Arc::clone(&shared)));
        let follower = tokio::spawn(follow::follow(Arc::clone(&shared), following));
        let scrubber = tokio::spawn(scrub::in_background(Arc::clone(&shared)));
        let rebuilder = tokio::spawn(rebuild::in_background(Arc::clone(&shared)));
        Ok(Self { shared, refresher, follower, scrubber, rebuilder, _control: control })
    }

    /// What it would tell on its socket.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// Runs until it is to stop, or until somebody unmounts it; then unmounts and returns.
    async fn run(self, stop: &mut Stop) {
        let mut tidy = tokio::time::interval(TIDY);
        tell_systemd(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status(&self.shared.summary())]);
        tracing::info!("{}", self.shared.summary());
        let store = Arc::clone(&self.shared.store);
        let sweep = tokio::task::spawn_blocking(move || store.sweep());
        loop {
            tokio::select! {
                () = stop.requested() => break,
                () = self.shared.mount.ended() => break tracing::warn!("unmounted by somebody else: stopping"),
                _ = tidy.tick() => self.tidy(),
            }
        }
        tell_systemd(&[sd_notify::NotifyState::Stopping]);
        // It holds the cache; a half-done sweep harms nothing, but it must not outlive us.
        let _ = sweep.await;
    }

    fn tidy(&self) {
        self.shared.fetcher.let_go();
        let store = Arc::clone(&self.shared.store);
        tokio::task::spawn_blocking(move || {
            store.keep_free();
            store.write_uses();
        });
        tell_systemd(&[sd_notify::NotifyState::Status(&self.shared.summary())]);
    }
}

/// What the packages of each binhost must prove, with the keys for it.
fn policies(binhosts: &[Binhost]) -> Result<Vec<Policy>, KeyringError> {
    let mut policies: Vec<Policy> = Vec::new();
    for binhost in binhosts {
        // Those with the same files share their keys.
        let same = binhosts.iter().zip(&policies).find(|(other, _)| other.signatures == binhost.signatures);
        let policy = match (same, &binhost.signatures) {
            (Some((_, policy)), _) => policy.clone(),
            (None, SignaturePolicy::DigestsOnly) => Policy::DigestsOnly,
            (None, SignaturePolicy::Required { keyrings }) => {
                let opened = Keyring::open(keyrings.iter().cloned());
                let named =
                    |KeyringError::NoKey(why)| KeyringError::NoKey(format!("{why} (for the binhost {})", binhost.name));
                Policy::Signed(Arc::new(opened.map_err(named)?))
            }
        };
        policies.push(policy);
    }
    Ok(policies)
}

fn limits(config: &MountConfig) -> Limits {
    let writes_per_day = Some(config.write_budget.0).filter(|budget| *budget > 0);
    Limits { bound: config.cache_size.0, min_free: config.min_free.0, writes_per_day }
}

/// What the control socket can do.
struct Handle {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
}

impl Control for Handle {
    fn status(&self) -> Status {
        self.shared.status()
    }

    fn packages(&self, atoms: Vec<Atom>) -> oneshot::Receiver<Result<Vec<PackageStatus>, String>> {
        let (reply, receiver) = oneshot::channel();
        if let Err(error) = self.requests.try_send(Request::Explain { atoms, reply })
            && let Request::Explain { reply, .. } = error.into_inner()
        {
            // Whoever asked may have gone.
            let _ = reply.send(Err("too much is asked for at once; try again in a moment".to_owned()));
        }
        receiver
    }

    fn manage(&self, task: Task, names: Vec<String>) -> oneshot::Receiver<Result<Managed, String>> {
        let (reply, receiver) = oneshot::channel();
        if let Err(error) = self.requests.try_send(Request::Manage { task, names, reply })
            && let Request::Manage { reply, .. } = error.into_inner()
        {
            // Whoever asked may have gone.
            let _ = reply.send(Err("too much is asked for at once; try again in a moment".to_owned()));
        }
        receiver
    }

    fn verify(&self) -> oneshot::Receiver<VerifyResult> {
        let (reply, receiver) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let scrub::Found { sound, bytes, damaged } = scrub::all(&shared).await;
            // Whoever asked may have gone.
            let _ = reply.send(VerifyResult { sound, bytes, damaged });
        });
        receiver
    }

    fn refresh(&self, accept_older: bool) -> oneshot::Receiver<Result<String, String>> {
        let (reply, receiver) = oneshot::channel();
        let order = if accept_older { Order::Any } else { Order::Forward };
        if let Err(error) = self.requests.try_send(Request::Refresh { order, reply })
            && let Request::Refresh { reply, .. } = error.into_inner()
        {
            // Whoever asked may have gone.
            let _ = reply.send(Err("too many refreshes are asked for already".to_owned()));
        }
        receiver
    }
}

/// Without systemd there is nobody to tell, which is no error.
fn tell_systemd(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "telling systemd");
    }
}

/// `12 min`, for people.
fn shown(span: Duration) -> Interval {
    Interval(span)
}
