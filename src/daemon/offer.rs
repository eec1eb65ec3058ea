//! The offer of the binhosts, without a daemon and without a mount: their indexes are fetched into
//! a temporary directory, and the same decisions are made as for a mount.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;

use super::binhosts::freshness::Order;
use super::binhosts::{Asker, Binhosts};
use super::explain::{Machine, shown_index};
use super::policies;
use crate::cache::Cache;
use crate::config::MountConfig;
use crate::coverage::{Offer, hides_any};
use crate::fetch::Fetcher;
use crate::fs::PublishedTree;
use crate::local::LowerDirectory;
use crate::metrics::Metrics;
use crate::sys::durable::blocking;
use crate::sys::mount_on;

/// Fetches the indexes of the binhosts of `config`, whose cache directory is a temporary one.
/// Packages in PKGDIR are local packages, unless a binhostfs is mounted there.
///
/// # Errors
/// A keyring cannot be read, no binhost sends its index, or the directory cannot be written.
pub(crate) async fn offer(config: &MountConfig) -> anyhow::Result<Offer> {
    let metrics = Arc::new(Metrics::default());
    let (directory, bound, counted) =
        (config.options.cache_dir.clone(), config.options.cache_size.0, Arc::clone(&metrics));
    let cache = blocking(move || Ok(Arc::new(Cache::open(&directory, bound, counted)?))).await?;
    // Nothing is downloaded but indexes, so no outcome is sent.
    let (fetcher, _outcomes) = Fetcher::new(Arc::clone(&cache), Arc::clone(&metrics));
    let mut binhosts =
        Binhosts::open(Arc::clone(&cache), Arc::clone(&fetcher), metrics, None, config, policies(config)?)?;
    let failures = binhosts.refresh(Order::Forward, Asker::Administrator).await;
    let failures: Vec<String> = failures.iter().map(ToString::to_string).collect();
    if binhosts.all.iter().all(|binhost| binhost.stored.current().is_none()) {
        anyhow::bail!("no binhost has sent its index: {}", failures.join("; "));
    }
    let tree = binhosts.tree().await?;
    let (pkgdir, place) = (config.mountpoint.clone(), cache.directory().to_owned());
    let front = blocking(move || {
        let empty = place.join("pkgdir");
        std::fs::create_dir_all(&empty).context("making a temporary directory")?;
        let without = || LowerDirectory::open(&empty, true).with_context(|| format!("opening {}", empty.display()));
        let layer = lower_directory(&pkgdir).map_or_else(without, Ok)?;
        Ok(Arc::new(PublishedTree::new(tree, Arc::new(layer), place)?))
    })
    .await?;
    let explained = binhosts.snapshot().explained();
    let machine = Machine { front: Arc::clone(&front), root: config.portage_root.clone() };
    let packages = Arc::clone(&explained).answer(Vec::new(), HashMap::new(), machine).await?;
    let hides_any = hides_any(&packages);
    let both = blocking(move || {
        let all = hides_any.then(|| explained.whole_index(&front)).transpose()?;
        Ok((shown_index(&front)?, all))
    });
    let (shown, all) = both.await?;
    Ok(Offer { shown, all, packages, rates: HashMap::new(), warnings: failures })
}

/// The directory of local packages. `None`: there is none that can be read, or a binhostfs is
/// mounted on it, whose packages are not local.
fn lower_directory(pkgdir: &Path) -> Option<LowerDirectory> {
    let is_mounted = mount_on(pkgdir).ok().flatten().is_some_and(|mount| mount.kind.starts_with("fuse"));
    if is_mounted { None } else { LowerDirectory::open(pkgdir, true).ok() }
}
