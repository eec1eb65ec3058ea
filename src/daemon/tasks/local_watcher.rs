//! Local packages: opens the lower directory before the mount, and scans it again when files appear
//! or vanish without an update of Portage's index.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use crate::cache::Cache;
use crate::config::{MountConfig, Writes};
use crate::daemon::state::{DaemonState, give_memory_back};
use crate::fs::PublishedTree;
use crate::fuse::Kept;
use crate::local::{LowerDirectory, sees_callers};
use crate::sys::durable::blocking;
use crate::tree::Tree;

/// How long the lower directory must be unchanged before it is scanned: Portage writes a package
/// first and its index a moment later.
const SETTLED: Duration = Duration::from_secs(1);
/// After this long the directory is scanned although it still changes.
const LATEST: Duration = Duration::from_secs(10);

/// Pause after the first failed scan. Each further failure doubles the pause.
const RETRY: Duration = Duration::from_secs(2);
/// Upper limit of the pause after failed scans.
const LATEST_RETRY: Duration = Duration::from_secs(600);

/// The lower directory of a mount that another daemon handed over.
pub(crate) fn beneath(kept: &Kept) -> anyhow::Result<OwnedFd> {
    let beneath = kept.beneath().context("keeping the directory beneath the mount")?;
    beneath.context("the directory beneath the mount was not handed over with it")
}

/// Opens the lower directory and puts its packages in front of `remote`. `beneath` is its
/// descriptor, if the mountpoint is covered by a mount already.
pub(crate) async fn open(
    config: &MountConfig,
    cache: &Cache,
    remote: Arc<Tree>,
    beneath: Option<OwnedFd>,
) -> anyhow::Result<PublishedTree> {
    let (path, namespace) = (config.mountpoint.clone(), config.namespace.clone());
    let scratch = cache.directory().join("generations");
    let read_only = config.options.read_only == Writes::Refused;
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

/// Scans the lower directory after changes. Runs until it is cancelled.
pub(crate) async fn watch(shared: Arc<DaemonState>) {
    let mut retry = None;
    loop {
        match retry {
            // The scan follows in both cases: after the timeout, or after a change.
            Some(after) => drop(tokio::time::timeout(after, shared.front.changed()).await),
            None => shared.front.changed().await,
        }
        let settled = async { while tokio::time::timeout(SETTLED, shared.front.changed()).await.is_ok() {} };
        // The scan follows whether or not the directory is quiet.
        let _ = tokio::time::timeout(LATEST, settled).await;
        let front = Arc::clone(&shared.front);
        let looked = blocking(move || Ok(front.rescan()?)).await;
        retry = looked.is_err().then(|| retry.map_or(RETRY, |after| (after * 2).min(LATEST_RETRY)));
        shared.changed.notify_one();
        // Portage's own change of the index is in the tree before this scan.
        let others = Arc::clone(&shared);
        let publish = move || {
            if others.has_local_changes_for_others() {
                others.publish_for_others();
            }
        };
        drop(tokio::task::spawn_blocking(publish).await);
        match looked {
            Ok(false) => {}
            Ok(true) => give_memory_back(),
            Err(error) => tracing::warn!("local packages cannot be examined: {error:#}"),
        }
    }
}
