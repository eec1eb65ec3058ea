//! Serves other machines, with a mount or without one.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use parking_lot::Mutex;

use crate::api::ServeStatus;
use crate::cache::Cache;
use crate::config::{MountConfig, OWN_TYPE};
use crate::fetch::Fetcher;
use crate::fs::PublishedTree;
use crate::index::{Listing, View};
use crate::local::{LowerDirectory, Time};
use crate::metrics::Metrics;
use crate::serve::{
    self, PublishedIndex, PublishedLocalPackages, ServeError, ServeListener, SharedPackages, TokenError,
};
use crate::sys::durable::blocking;
use crate::sys::mounts_of;
use crate::tree::Tree;

/// Directory of the served index below the cache's.
const DIRECTORY: &str = "serve";

/// Inode, size and the time of the last change of Portage's index.
type IndexFacts = (u64, u64, Time);

fn index_facts(front: &PublishedTree) -> Option<IndexFacts> {
    front.layer().index().stat().map(|stat| (stat.number, stat.size, stat.ctime))
}

/// The listener for other machines, and the index that they get.
#[derive(Debug)]
pub(super) struct Serving {
    /// The address as configured.
    address: SocketAddr,
    token: Option<PathBuf>,
    index: Arc<PublishedIndex>,
    packages: SharedPackages,
    metrics: Arc<Metrics>,
    listener: Mutex<Option<ServeListener>>,
    /// Why the address cannot be used.
    problem: Mutex<Option<String>>,
    mounted: bool,
    /// The index of PKGDIR, where it is not mounted, as it was when it was published.
    own_index: Mutex<Option<IndexFacts>>,
    /// Whether the index is older than the tree: publishing it has failed.
    behind: AtomicBool,
    /// Local packages that were withheld when the index was published.
    withheld: Mutex<HashSet<String>>,
}

/// Finds the packages of a listing that other machines must not get: the binhosts' entries of them
/// are hidden.
pub(super) type Withheld<'a> = &'a dyn Fn(&Listing) -> io::Result<HashSet<String>>;

impl Serving {
    /// Serves nothing yet. `None`: `serve` is not configured.
    ///
    /// # Errors
    /// The token cannot be read.
    pub(super) fn new(
        config: &MountConfig,
        mounted: bool,
        front: &PublishedTree,
        fetcher: &Arc<Fetcher>,
        metrics: &Arc<Metrics>,
        cache: &Cache,
    ) -> Result<Option<Self>, TokenError> {
        let Some(address) = config.options.serve else { return Ok(None) };
        check_token(config)?;
        let local =
            config.options.serve_local.then(|| Arc::new(PublishedLocalPackages::new(Arc::clone(front.layer()))));
        Ok(Some(Self {
            address,
            token: config.options.serve_token.clone(),
            index: Arc::new(PublishedIndex::open(cache.directory().join(DIRECTORY))),
            packages: SharedPackages { fetcher: Arc::clone(fetcher), snapshots: Arc::clone(front.snapshots()), local },
            metrics: Arc::clone(metrics),
            listener: Mutex::default(),
            problem: Mutex::default(),
            mounted,
            own_index: Mutex::default(),
            behind: AtomicBool::new(true),
            withheld: Mutex::default(),
        }))
    }

    /// Does what is left of publishing and listening. Blocks. The caller must be inside a tokio
    /// runtime.
    ///
    /// # Errors
    /// The address cannot be bound. It may be there later: the address of a network that is not up,
    /// or a port that another process still has.
    pub(super) fn complete(
        &self,
        front: &PublishedTree,
        fetcher: &Fetcher,
        withheld: Withheld<'_>,
    ) -> Result<(), ServeError> {
        if self.behind.load(Ordering::Relaxed) {
            self.publish(front, fetcher, withheld);
        }
        let mut listener = self.listener.lock();
        if listener.is_some() {
            return Ok(());
        }
        let (token, packages, metrics) = (self.token.as_deref(), self.packages.clone(), Arc::clone(&self.metrics));
        let started = ServeListener::start(self.address, token, Arc::clone(&self.index), packages, metrics);
        let error = started.as_ref().err().map(|error| format!("other machines are not served: {error}"));
        let before = std::mem::replace(&mut *self.problem.lock(), error.clone());
        if let Some(error) = error.filter(|error| before.as_ref() != Some(error)) {
            tracing::warn!("{error}; it is tried again every minute");
        }
        *listener = Some(started?);
        Ok(())
    }

    /// Publishes the index of the tree that is shown now. A local package is not served before it
    /// is known not to be `withheld`.
    pub(super) fn publish(&self, front: &PublishedTree, fetcher: &Fetcher, withheld: Withheld<'_>) {
        let shares = |binhost| fetcher.for_machines().is_shared(binhost);
        let select = |local: &Arc<PublishedLocalPackages>, view: &View| {
            let listing = self.own_listing(front)?;
            let withheld = withheld(&listing)?;
            self.note_withheld(&withheld);
            local.select(&listing, view, &shares, &withheld)
        };
        let newest = || {
            let view = Arc::clone(front.remote().view());
            let local = self.packages.local.as_ref().map(|local| select(local, &view)).transpose()?;
            Ok((view, local.unwrap_or_default()))
        };
        let serve = || self.packages.local.iter().for_each(|local| local.serve());
        let published = self.index.publish(newest, &shares, serve);
        if let Err(error) = &published {
            tracing::warn!(%error, "the index for other machines cannot be made; they get the previous one, and it is tried again in a minute");
        }
        self.behind.store(published.is_err(), Ordering::Relaxed);
    }

    fn note_withheld(&self, withheld: &HashSet<String>) {
        let before = std::mem::replace(&mut *self.withheld.lock(), withheld.clone());
        for path in withheld.difference(&before) {
            tracing::warn!(path, "a local package is not served, since its binhost's entry is hidden");
        }
    }

    /// Whether others than `withheld` were withheld when the index was published.
    pub(super) fn withholds_others(&self, withheld: &HashSet<String>) -> bool {
        self.packages.local.is_some() && *self.withheld.lock() != *withheld
    }

    /// Bytes of the disk that the index takes.
    pub(super) fn disk_usage(&self) -> u64 {
        self.index.disk_usage()
    }

    /// Bytes that were written to the disk since the last call.
    pub(super) fn take_written(&self) -> u64 {
        self.index.take_written()
    }

    fn own_listing(&self, front: &PublishedTree) -> io::Result<Arc<Listing>> {
        if self.mounted {
            return Ok(front.listing());
        }
        // Portage writes the index by itself.
        *self.own_index.lock() = index_facts(front);
        front.layer().index().listing(|_| true).map(Arc::new)
    }

    /// Whether Portage has changed the index of a directory that is not mounted.
    pub(super) fn has_own_changes(&self, front: &PublishedTree) -> bool {
        self.packages.local.is_some() && !self.mounted && *self.own_index.lock() != index_facts(front)
    }

    /// Whether local packages are served that have changed since the index was published.
    pub(super) fn has_local_changes(&self, front: &PublishedTree) -> bool {
        self.mounted && self.packages.local.as_ref().is_some_and(|local| local.has_changed(&front.listing()))
    }

    /// Whether something is left for [`Serving::complete`].
    pub(super) fn is_incomplete(&self) -> bool {
        self.behind.load(Ordering::Relaxed) || self.listener.lock().is_none()
    }

    /// Why other machines are not served.
    pub(super) fn problem(&self) -> Option<String> {
        self.problem.lock().clone()
    }

    pub(super) fn status(&self) -> ServeStatus {
        let listener = self.listener.lock();
        let address = listener.as_ref().map_or(self.address, ServeListener::address);
        ServeStatus {
            address: address.to_string(),
            index_timestamp: self.index.timestamp(),
            connections: listener.as_ref().map_or(0, ServeListener::connections) as u64,
        }
    }
}

/// Checks that the token of `serve-token` can be read.
///
/// # Errors
/// The daemon would not start.
pub(crate) fn check_token(config: &MountConfig) -> Result<(), TokenError> {
    config.options.serve_token.as_deref().map_or(Ok(()), serve::check_token)
}

/// The tree of a daemon without a mount. It has local packages only with `serve-local`: those in
/// the directory of the mountpoint, where nothing is written.
///
/// # Errors
/// The directory cannot be read, or another binhostfs is mounted there.
pub(super) async fn unmounted(config: &MountConfig, cache: &Cache, tree: Arc<Tree>) -> anyhow::Result<PublishedTree> {
    let scratch = cache.directory().join("generations");
    let own = config.options.serve_local.then(|| config.mountpoint.clone());
    let empty = cache.directory().join("serve/local");
    blocking(move || {
        let directory = match own {
            Some(own) => own,
            None => {
                std::fs::create_dir_all(&empty).with_context(|| format!("creating {}", empty.display()))?;
                empty
            }
        };
        let lower =
            LowerDirectory::open(&directory, true).with_context(|| format!("opening {}", directory.display()))?;
        // Whatever links led there: the directory itself says where it is.
        let (device, _) = lower.identity().context("looking at the directory with local packages")?;
        let mounts = mounts_of("thread-self").context("reading the mounts")?;
        anyhow::ensure!(
            !mounts.iter().any(|mount| mount.device == device && mount.kind == OWN_TYPE),
            "{} is in a mount of another binhostfs, and has no local packages of its own; set serve-local there",
            directory.display()
        );
        Ok(PublishedTree::new(tree, Arc::new(lower), scratch)?)
    })
    .await
}

#[cfg(test)]
mod tests;
