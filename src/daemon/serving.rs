//! What other machines are served, with a mount or without one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use parking_lot::Mutex;

use crate::api::ServeStatus;
use crate::cache::Cache;
use crate::config::MountConfig;
use crate::fetch::Fetcher;
use crate::fs::PublishedTree;
use crate::local::LowerDirectory;
use crate::metrics::Metrics;
use crate::serve::{self, PublishedIndex, ServeError, ServeListener, TokenError};
use crate::sys::durable::blocking;
use crate::tree::{Snapshots, Tree};

/// Directory of the served index below the cache's.
const DIRECTORY: &str = "serve";

/// The listener for other machines, and the index that they get.
#[derive(Debug)]
pub(super) struct Serving {
    /// The address as configured.
    address: SocketAddr,
    token: Option<PathBuf>,
    index: Arc<PublishedIndex>,
    packages: (Arc<Snapshots>, Arc<Fetcher>, Arc<Metrics>),
    listener: Mutex<Option<ServeListener>>,
    /// Why the address cannot be used.
    problem: Mutex<Option<String>>,
    /// Whether the index is older than the tree: publishing it has failed.
    behind: AtomicBool,
}

impl Serving {
    /// Serves nothing yet. `None`: `serve` is not configured.
    ///
    /// # Errors
    /// The token cannot be read.
    pub(super) fn new(
        config: &MountConfig,
        front: &PublishedTree,
        fetcher: &Arc<Fetcher>,
        metrics: &Arc<Metrics>,
        cache: &Cache,
    ) -> Result<Option<Self>, TokenError> {
        let Some(address) = config.options.serve else { return Ok(None) };
        check_token(config)?;
        Ok(Some(Self {
            address,
            token: config.options.serve_token.clone(),
            index: Arc::new(PublishedIndex::open(cache.directory().join(DIRECTORY))),
            packages: (Arc::clone(front.snapshots()), Arc::clone(fetcher), Arc::clone(metrics)),
            listener: Mutex::default(),
            problem: Mutex::default(),
            behind: AtomicBool::new(true),
        }))
    }

    /// Does what is left of publishing and listening. Blocks. The caller must be inside a tokio
    /// runtime.
    ///
    /// # Errors
    /// The address cannot be bound. It may be there later: the address of a network that is not up,
    /// or a port that another process still has.
    pub(super) fn complete(&self, front: &PublishedTree, fetcher: &Fetcher) -> Result<(), ServeError> {
        if self.behind.load(Ordering::Relaxed) {
            self.publish(front, fetcher);
        }
        let mut listener = self.listener.lock();
        if listener.is_some() {
            return Ok(());
        }
        let started =
            ServeListener::start(self.address, self.token.as_deref(), Arc::clone(&self.index), self.packages.clone());
        let error = started.as_ref().err().map(|error| format!("other machines are not served: {error}"));
        let before = std::mem::replace(&mut *self.problem.lock(), error.clone());
        if let Some(error) = error.filter(|error| before.as_ref() != Some(error)) {
            tracing::warn!("{error}; it is tried again every minute");
        }
        *listener = Some(started?);
        Ok(())
    }

    /// Publishes the index of the tree that is shown now.
    pub(super) fn publish(&self, front: &PublishedTree, fetcher: &Fetcher) {
        let newest = || Arc::clone(front.remote().view());
        let published = self.index.publish(newest, &|binhost| fetcher.for_machines().is_shared(binhost));
        if let Err(error) = &published {
            tracing::warn!(%error, "the index for other machines cannot be made; they get the previous one, and it is tried again in a minute");
        }
        self.behind.store(published.is_err(), Ordering::Relaxed);
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

/// The tree of a daemon without a mount, which has no local packages.
pub(super) async fn without_local_packages(cache: &Cache, tree: Arc<Tree>) -> anyhow::Result<PublishedTree> {
    let (empty, scratch) = (cache.directory().join("serve/local"), cache.directory().join("generations"));
    blocking(move || {
        std::fs::create_dir_all(&empty).with_context(|| format!("creating {}", empty.display()))?;
        let lower = LowerDirectory::open(&empty, true).with_context(|| format!("opening {}", empty.display()))?;
        Ok(PublishedTree::new(tree, Arc::new(lower), scratch)?)
    })
    .await
}
