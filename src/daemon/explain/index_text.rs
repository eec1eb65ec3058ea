//! The text of `Packages`: as Portage sees it, and with every entry that is hidden.

use anyhow::Context as _;

use super::Explained;
use crate::fs::PublishedTree;
use crate::index::IndexRenderer;
use crate::local::LocalScan;
use crate::policy;

/// The published `Packages`.
pub(in crate::daemon) fn shown_index(front: &PublishedTree) -> anyhow::Result<Vec<u8>> {
    let tree = front.snapshots().current();
    let packages = tree.packages();
    let mut text = vec![0; usize::try_from(packages.rendered.size)?];
    let mut filled = 0;
    while let Some(rest) = text.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match packages.content.read_at(rest, filled as u64).context("reading the published index")? {
            0 => anyhow::bail!("the published index has only {filled} bytes"),
            count => filled += count,
        }
    }
    Ok(text)
}

impl Explained {
    /// `Packages` with the hidden entries as well, for a calculation. Local packages come first, as
    /// in the published file.
    pub(in crate::daemon) fn whole_index(&self, front: &PublishedTree) -> anyhow::Result<Vec<u8>> {
        let view = policy::compose_all(&self.inputs, &self.rules)?;
        let (listing, scan) = (front.listing(), LocalScan::of(front.layer()).context("looking at the local packages")?);
        let timestamp = front.snapshots().current().packages().rendered.timestamp;
        let mut text = Vec::new();
        IndexRenderer::beneath(&view, &listing, &|path| scan.shadows(path))
            .and_then(|renderer| renderer.render(&mut text, timestamp))
            .context("rendering the index")?;
        Ok(text)
    }
}
