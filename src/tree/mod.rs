//! An immutable snapshot of what the mount shows: names, inodes, attributes, and the rendered
//! `Packages`.
//!
//! * Inode numbers are derived, not counted: a directory's from its path, a package's from path and
//!   identity, that of `Packages` from its content. So a restart gives the same numbers, and new
//!   content has a new inode. The numbers are below 2^62; inodes that are not in a tree have
//!   numbers above.
//! * Names are not stored again: a directory stores one record below it and the length of its own
//!   part of that record's path.
//! * A [`Tree`] never changes. [`Snapshots`] holds the current tree and a few earlier ones, so that
//!   a running emerge finds the packages that it has planned.
//!
//! Not its job: bytes of packages, and what the kernel has cached.

mod build;
mod difference;
#[cfg(test)]
mod sample;
mod snapshots;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

pub(crate) use difference::Change;
pub(crate) use snapshots::KEPT_TREES;
pub(crate) use snapshots::{Age, Snapshots};

use crate::index::{OnDemandIndex, Record, Rendered, Sha256Digest, View};

/// File name of the index in PKGDIR.
pub(crate) const PACKAGES: &str = "Packages";

/// An inode number of the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Inode(pub u64);

impl Inode {
    /// Inode of the root directory; FUSE fixes the number.
    pub const ROOT: Self = Self(1);

    /// Returns the number of the directory at `path`, whether or not a tree has it.
    #[must_use]
    pub fn of_directory(path: &[u8]) -> Self {
        if path.is_empty() { Self::ROOT } else { build::of_directory(path) }
    }

    /// Returns the number of a file that binhostfs itself writes, from its path and a digest of its
    /// content.
    #[must_use]
    pub fn of_content(path: &str, digest: &Sha256Digest) -> Self {
        build::of_content(path, &digest.0)
    }
}

/// A file or directory of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// A directory, by its index in the tree's list of directories.
    Directory(u32),
    /// A package, by its row in the view.
    Package(u32),
    /// The rendered index, `Packages`.
    Packages,
}

/// Attributes of a node, as `stat` shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Inode number of the node.
    pub inode: Inode,
    /// The node itself: directory, package or index.
    pub node: Node,
    /// Size in bytes; 4096 for a directory.
    pub size: u64,
    /// Modification time, seconds since the epoch.
    pub mtime: i64,
    /// Number of hard links; for a directory 2 + the number of its subdirectories.
    pub links: u32,
}

/// The bytes of a file that never changes.
#[derive(Debug, Clone)]
pub enum FileContent {
    /// A descriptor that is open for reading.
    File(Arc<File>),
    /// An index that is rendered when it is read.
    OnDemand(Arc<OnDemandIndex>),
}

impl FileContent {
    /// Reads at most `buffer.len()` bytes from `offset` on. Returns 0 only at the end.
    ///
    /// # Errors
    /// Reading fails, or what the index is rendered from has changed.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read_at(buffer, offset),
            Self::OnDemand(index) => index.read_at(buffer, offset),
        }
    }

    /// The file, if there is one.
    #[must_use]
    pub fn file(&self) -> Option<&Arc<File>> {
        match self {
            Self::File(file) => Some(file),
            Self::OnDemand(_) => None,
        }
    }
}

impl From<Arc<File>> for FileContent {
    fn from(file: Arc<File>) -> Self {
        Self::File(file)
    }
}

impl From<&Arc<File>> for FileContent {
    fn from(file: &Arc<File>) -> Self {
        Self::File(Arc::clone(file))
    }
}

/// The rendered index.
#[derive(Debug)]
pub struct PackagesFile {
    /// The text.
    pub content: FileContent,
    /// Size, timestamp and digest of the text.
    pub rendered: Rendered,
}

impl PackagesFile {
    /// An index that is rendered when it is read.
    pub(crate) fn on_demand(index: OnDemandIndex) -> Self {
        let rendered = index.rendered();
        Self { content: FileContent::OnDemand(Arc::new(index)), rendered }
    }
}

#[derive(Debug, Clone)]
struct Directory {
    inode: Inode,
    /// Row of a record below this directory. The first `length` bytes of its path are the
    /// directory's path.
    witness: u32,
    length: u16,
    children: (u32, u32),
    directories: u32,
}

/// An immutable tree of names and inodes; the module's documentation describes its invariants.
#[derive(Debug)]
pub struct Tree {
    generation: u64,
    view: Arc<View>,
    packages: PackagesFile,
    packages_inode: Inode,
    directories: Vec<Directory>,
    /// Children of all directories, those of each directory contiguous and sorted by name.
    children: Vec<Node>,
    /// Inode of each package, by its row in the view.
    package_inodes: Vec<Inode>,
    /// All nodes, sorted by inode number. The numbers themselves are stored with the nodes.
    by_inode: Vec<Node>,
}

impl Tree {
    /// Lays out `view` with its rendered file. The number `generation` is also part of the
    /// directories' modification time: a kernel that has cached a directory as empty lists it again
    /// only when that time changes.
    #[must_use]
    pub fn new(generation: u64, view: Arc<View>, packages: PackagesFile) -> Self {
        build::build(generation, view, packages)
    }

    /// Returns a tree with the same names and another rendered file.
    #[must_use]
    pub fn with_packages(&self, packages: PackagesFile) -> Self {
        build::with_packages(self, packages)
    }

    /// The number of the generation that this tree was made of.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Identifies the content: two trees with the same mark show the same. The mark is the
    /// generation and the inode of `Packages`, which follows from the content of that file.
    #[must_use]
    pub fn mark(&self) -> (u64, Inode) {
        (self.generation, self.packages_inode)
    }

    /// The entries that this tree shows. A package's number is its row in this view.
    #[must_use]
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// The rendered index file.
    #[must_use]
    pub fn packages(&self) -> &PackagesFile {
        &self.packages
    }

    /// Finds the node that has this inode number.
    #[must_use]
    pub fn node(&self, inode: Inode) -> Option<Node> {
        let at = self.by_inode.binary_search_by_key(&inode, |node| self.inode(*node)).ok()?;
        self.by_inode.get(at).copied()
    }

    /// Returns the inode number of a node of this tree.
    fn inode(&self, node: Node) -> Inode {
        let number = match node {
            Node::Directory(at) => self.directories.get(at as usize).map(|directory| directory.inode),
            Node::Package(at) => self.package_inodes.get(at as usize).copied(),
            Node::Packages => Some(self.packages_inode),
        };
        // Every node has an inode number; no caller looks up 0.
        number.unwrap_or(Inode(0))
    }

    /// Finds the child `name` of a directory.
    #[must_use]
    pub fn lookup(&self, parent: Inode, name: &str) -> Option<Attributes> {
        if parent == Inode::ROOT && name == PACKAGES {
            return self.attributes(Node::Packages);
        }
        let children = self.children_of(parent)?;
        let at = children.binary_search_by(|child| self.name(*child).cmp(name)).ok()?;
        self.attributes(*children.get(at)?)
    }

    /// Returns the attributes that `stat` shows of a node.
    #[must_use]
    pub fn attributes(&self, node: Node) -> Option<Attributes> {
        Some(match node {
            Node::Directory(at) => {
                let directory = self.directories.get(at as usize)?;
                let (mtime, links) = (self.directory_mtime(), 2 + directory.directories);
                Attributes { inode: directory.inode, node, size: 4096, mtime, links }
            }
            Node::Package(at) => {
                let record = self.record(at)?;
                let inode = *self.package_inodes.get(at as usize)?;
                Attributes { inode, node, size: record.size, mtime: record.mtime, links: 1 }
            }
            Node::Packages => {
                let Rendered { size, timestamp, .. } = self.packages.rendered;
                Attributes { inode: self.packages_inode, node, size, mtime: timestamp, links: 1 }
            }
        })
    }

    /// Lists the children of a directory with their names, `Packages` first in the root. `None`:
    /// the inode is no directory.
    #[must_use]
    pub fn list(&self, directory: Inode) -> Option<impl Iterator<Item = (&str, Node)> + Clone> {
        let children = self.children_of(directory)?;
        let index = (directory == Inode::ROOT).then_some((PACKAGES, Node::Packages));
        Some(index.into_iter().chain(children.iter().map(|child| (self.name(*child), *child))))
    }

    /// Returns the record of a package node.
    #[must_use]
    pub fn record(&self, at: u32) -> Option<&Record> {
        self.view.record(at)
    }

    /// Returns the path of a node below the root; the root has an empty path.
    #[must_use]
    pub fn path(&self, node: Node) -> &str {
        match node {
            Node::Packages => PACKAGES,
            Node::Package(at) => self.view.path(at),
            Node::Directory(at) => {
                let Some(directory) = self.directories.get(at as usize) else { return "" };
                self.view.path(directory.witness).get(..usize::from(directory.length)).unwrap_or_default()
            }
        }
    }

    fn name(&self, node: Node) -> &str {
        let path = self.path(node);
        path.rsplit_once('/').map_or(path, |(_, name)| name)
    }

    fn children_of(&self, inode: Inode) -> Option<&[Node]> {
        let Some(Node::Directory(at)) = self.node(inode) else { return None };
        let (start, end) = self.directories.get(at as usize)?.children;
        self.children.get(start as usize..end as usize)
    }

    fn directory_mtime(&self) -> i64 {
        // The generation number is small. Added to TIMESTAMP it gives a plausible time that differs
        // in each generation.
        self.packages.rendered.timestamp.saturating_add(i64::try_from(self.generation).unwrap_or_default())
    }
}
