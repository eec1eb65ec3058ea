//! Makes the index files that Portage reads, from a generation of the binhosts' indexes and the
//! local packages.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use flate2::{Compression, GzBuilder};

use crate::index::{DigestWriter, IndexRenderer, Listing, OnDemandIndex, Rendered};
use crate::local::{COMPRESSED, LocalScan, LowerDirectory};
use crate::sys::is_full;
use crate::tree::{Attributes, Inode, Node, PackagesFile, Tree};

/// The compressed index as a file.
#[derive(Debug, Clone)]
pub(crate) struct Compressed {
    pub(crate) file: Arc<File>,
    pub(crate) attributes: Attributes,
}

/// The merged tree and its index files.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) tree: Arc<Tree>,
    /// Present if the lower directory has a compressed index, and the disk has room for this one.
    pub(crate) compressed: Option<Compressed>,
}

/// Merges remote trees with the local packages of one lower directory.
#[derive(Debug)]
pub(crate) struct Merger {
    pub(crate) layer: Arc<LowerDirectory>,
    /// Directory for rendered files.
    pub(crate) scratch: PathBuf,
}

impl Merger {
    /// Merges a remote tree with the local packages. Returns `remote` itself if no local file hides
    /// any of its packages.
    pub(crate) fn merge(&self, remote: &Arc<Tree>, listing: &Arc<Listing>, survey: &LocalScan) -> io::Result<Merged> {
        let view = remote.view();
        let in_the_way = || (0..view.len() as u32).any(|row| survey.shadows(view.path(row)));
        let tree = if listing.entries().is_empty() && (survey.is_empty() || !in_the_way()) {
            Arc::clone(remote)
        } else {
            Arc::new(remote.with_packages(self.render(remote, listing, survey)?))
        };
        let compressed = match self.layer.index().is_compressed().then(|| self.compressed_of(tree.packages())) {
            Some(Err(error)) if is_full(&error) => {
                tracing::warn!(%error, "Packages.gz does not fit on the disk, and is not shown");
                None
            }
            made => made.transpose()?,
        };
        Ok(Merged { tree, compressed })
    }

    /// Renders the merged index to a file, or only when it is read: if the generation's own index
    /// is, and if the disk has no space.
    fn render(&self, remote: &Arc<Tree>, listing: &Arc<Listing>, survey: &LocalScan) -> io::Result<PackagesFile> {
        let PackagesFile { content, rendered: Rendered { timestamp, .. } } = remote.packages();
        let hidden = |path: &str| survey.shadows(path);
        if content.file().is_some() {
            let written = self.new_file().and_then(|file| {
                let rendered = IndexRenderer::beneath(remote.view(), listing, &hidden)?.render(&file, *timestamp)?;
                Ok(PackagesFile { content: Arc::new(file).into(), rendered })
            });
            match written {
                Err(error) if is_full(&error) => {
                    tracing::warn!(%error, "Packages does not fit on the disk, and is rendered when it is read")
                }
                other => return other,
            }
        }
        let index = OnDemandIndex::beneath(Arc::clone(remote.view()), Arc::clone(listing), &hidden, *timestamp)?;
        Ok(PackagesFile::on_demand(index))
    }

    /// Compresses an index. Speed matters more than size: the file is made again each time, and
    /// rarely read.
    pub(crate) fn compressed_of(&self, packages: &PackagesFile) -> io::Result<Compressed> {
        let timestamp = packages.rendered.timestamp;
        let file = self.new_file()?;
        let mtime = u32::try_from(timestamp).unwrap_or_default();
        let counted = DigestWriter::new(&file);
        let mut encoder = GzBuilder::new().mtime(mtime).write(counted, Compression::fast());
        let (mut buffer, mut offset) = (vec![0; 64 << 10], 0);
        loop {
            let count = packages.content.read_at(&mut buffer, offset)?;
            encoder.write_all(buffer.get(..count).unwrap_or_default())?;
            offset += count as u64;
            if count == 0 {
                break;
            }
        }
        let (size, digest) = encoder.finish()?.finish()?;
        let inode = Inode::of_content(COMPRESSED, &digest);
        let attributes = Attributes { inode, node: Node::Packages, size, mtime: timestamp, links: 1 };
        Ok(Compressed { file: Arc::new(file), attributes })
    }

    /// Creates a file without a name, which the kernel frees at the last close.
    pub(crate) fn new_file(&self) -> io::Result<File> {
        let path = self.scratch.join("shown.new");
        let file = File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    }
}
