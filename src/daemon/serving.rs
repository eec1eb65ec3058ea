//! What other machines are served, with a mount or without one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;

use crate::api::ServeStatus;
use crate::cache::Cache;
use crate::config::MountConfig;
use crate::fetch::Fetcher;
use crate::fs::PublishedTree;
use crate::local::LowerDirectory;
use crate::metrics::Metrics;
use crate::serve::{self, PublishedIndex, ServeListener, TokenError};
use crate::sys::durable::blocking;
use crate::tree::Tree;

/// Directory of the served index below the cache's.
const DIRECTORY: &str = "serve";

/// The listener for other machines, and the index that they get.
#[derive(Debug)]
pub(super) struct Serving {
    index: Arc<PublishedIndex>,
    listener: ServeListener,
    /// Whether the index is older than the tree: publishing it has failed.
    behind: AtomicBool,
}

impl Serving {
    /// Publishes the index, then listens. `None`: `serve` is not configured.
    pub(super) async fn start(
        config: &MountConfig,
        front: &Arc<PublishedTree>,
        fetcher: &Arc<Fetcher>,
        metrics: &Arc<Metrics>,
        cache: &Cache,
    ) -> anyhow::Result<Option<Self>> {
        let Some(address) = config.options.serve else { return Ok(None) };
        let directory = cache.directory().join(DIRECTORY);
        let (shown, shares) = (Arc::clone(front), Arc::clone(fetcher));
        let index = blocking(move || {
            let opened = PublishedIndex::open(directory.clone());
            let index = opened.with_context(|| format!("opening {}", directory.display()))?;
            let published = publish(&index, &shown, &shares);
            published.with_context(|| format!("writing the index for other machines to {}", directory.display()))?;
            Ok(Arc::new(index))
        })
        .await?;
        let of_packages = (Arc::clone(front.snapshots()), Arc::clone(fetcher), Arc::clone(metrics));
        let token = config.options.serve_token.as_deref();
        let listener = ServeListener::start(address, token, Arc::clone(&index), of_packages)?;
        Ok(Some(Self { index, listener, behind: AtomicBool::new(false) }))
    }

    /// Publishes the index of the tree that is shown now.
    pub(super) fn publish(&self, front: &PublishedTree, fetcher: &Fetcher) {
        let published = publish(&self.index, front, fetcher);
        if let Err(error) = &published {
            tracing::warn!(%error, "other machines get the index before this one; it is made again in a minute");
        }
        self.behind.store(published.is_err(), Ordering::Relaxed);
    }

    /// Whether publishing has failed.
    pub(super) fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Relaxed)
    }

    pub(super) fn status(&self) -> ServeStatus {
        let address: SocketAddr = self.listener.address();
        ServeStatus {
            address: address.to_string(),
            index_timestamp: self.index.timestamp(),
            connections: self.listener.connections() as u64,
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

fn publish(index: &PublishedIndex, front: &PublishedTree, fetcher: &Fetcher) -> std::io::Result<()> {
    index.publish(|| Arc::clone(front.remote().view()), &|binhost| fetcher.is_shared(binhost))
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
