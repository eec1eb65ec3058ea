//! Local packages: opened before anything is mounted, and looked at again when files came or went without Portage's index.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use crate::cache::Store;
use crate::config::{MountConfig, Writes};
use crate::daemon::state::{DaemonState, give_memory_back};
use crate::fs::PublishedTree;
use crate::fuse::Kept;
use crate::local::{LowerDirectory, sees_callers};
use crate::sys::durable::blocking;
use crate::tree::Tree;

/// How long nothing more may happen before what is beneath is looked at: Portage writes a package first and its index a moment
/// later.
const SETTLED: Duration = Duration::from_secs(1);
/// After this long it is looked at all the same.
const LATEST: Duration = Duration::from_secs(10);

/// After a failure it is looked at again after this long, and each time after twice as long as before.
const RETRY: Duration = Duration::from_secs(2);
/// But never after longer.
const LATEST_RETRY: Duration = Duration::from_secs(600);

/// The directory beneath a mount that is there.
pub(crate) fn beneath(kept: &Kept) -> anyhow::Result<OwnedFd> {
    let beneath = kept.beneath().context("keeping the directory beneath the mount")?;
    beneath.context("the directory beneath the mount was not handed over with it")
}

/// `remote` with what is beneath the mountpoint in front. `beneath`: the directory, where something is mounted on it already.
pub(crate) async fn open(
    config: &MountConfig,
    store: &Store,
    remote: Arc<Tree>,
    beneath: Option<OwnedFd>,
) -> anyhow::Result<PublishedTree> {
    let (path, namespace) = (config.mountpoint.clone(), config.namespace.clone());
    let scratch = store.directory().join("generations");
    let read_only = config.writes == Writes::Refused;
    if !sees_callers() {
        tracing::warn!(
            "root has no more rights beneath the mount than owners, groups and modes give it: to see which capabilities a \
             caller has takes CAP_SYS_PTRACE, and the /proc of this pid namespace"
        );
    }
    blocking(move || {
        let layer = match beneath {
            Some(beneath) => LowerDirectory::resume(beneath, read_only),
            None => namespace
                .enter(|| LowerDirectory::open(&path, read_only))?
                .with_context(|| format!("opening {}", path.display()))?,
        };
        PublishedTree::new(remote, Arc::new(layer), scratch)
            .context("reading the local packages beneath the mountpoint")
    })
    .await
}

/// Goes on for ever.
pub(crate) async fn watch(shared: Arc<DaemonState>) {
    let mut retry = None;
    loop {
        match retry {
            // Whether the time is over or something has happened.
            Some(after) => drop(tokio::time::timeout(after, shared.front.changed()).await),
            None => shared.front.changed().await,
        }
        let settled = async { while tokio::time::timeout(SETTLED, shared.front.changed()).await.is_ok() {} };
        // Either way it is time.
        let _ = tokio::time::timeout(LATEST, settled).await;
        let front = Arc::clone(&shared.front);
        let looked = blocking(move || Ok(front.rescan()?)).await;
        retry = looked.is_err().then(|| retry.map_or(RETRY, |after| (after * 2).min(LATEST_RETRY)));
        shared.changed.notify_one();
        match looked {
            Ok(changes) if changes.is_empty() => {}
            Ok(changes) => {
                // It waits for whoever is about to change a directory.
                tokio::task::block_in_place(|| shared.mount.notify_kernel(changes));
                give_memory_back();
            }
            Err(error) => tracing::warn!("local packages are not looked at: {error:#}"),
        }
    }
}
