//! An immutable snapshot of what the mount shows: names, inodes, attributes, and the rendered `Packages`.
//!
//! * Inode numbers are derived, not counted: a directory's from its path, a package's from path and identity, that of
//!   `Packages` from its content. So a restart gives the same numbers, and new content has a new inode.
//!   They are below 2^62: what is not in a tree has numbers of its own above.
//! * Names are not stored again: a directory remembers one record below it and how much of that record's path is its own.
//! * A [`Tree`] never changes. [`Snapshots`] holds the current one and a few before it, so that a running emerge finds
//!   what it has planned.
//!
//! Not its job: bytes of packages, what the kernel has cached.

mod build;
mod difference;
#[cfg(test)]
mod sample;
mod snapshots;

use std::fs::File;
use std::sync::Arc;

pub use difference::Change;
pub use snapshots::{Age, KEPT_TREES, Snapshots};

use crate::index::{Record, Rendered, Sha256Digest, View};

/// Name of the index in PKGDIR.
pub const PACKAGES: &str = "Packages";

/// An inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Inode(pub u64);

impl Inode {
    /// The root directory; FUSE fixes the number.
    pub const ROOT: Self = Self(1);

    /// The number of the directory at `path`, whether a tree has it or not.
    #[must_use]
    pub fn of_directory(path: &[u8]) -> Self {
        if path.is_empty() { Self::ROOT } else { build::of_directory(path) }
    }

    /// The number of a file that is made here, from its path and a digest of its content.
    #[must_use]
    pub fn of_content(path: &str, digest: &Sha256Digest) -> Self {
        build::of_content(path, &digest.0)
    }
}

/// Something with an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// A directory, by its place in the tree.
    Directory(u32),
    /// A package, by its row in the view.
    Package(u32),
    /// The rendered index.
    Packages,
}

/// What `stat` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Inode number.
    pub inode: Inode,
    /// Directory, package or index.
    pub node: Node,
    /// Bytes; of a directory 4096.
    pub size: u64,
    /// Modification time, seconds since the epoch.
    pub mtime: i64,
    /// Hard links; of a directory 2 + its directories.
    pub links: u32,
}

/// The rendered index as a file.
#[derive(Debug)]
pub struct PackagesFile {
    /// Open for reading.
    pub file: Arc<File>,
    /// What is in it.
    pub rendered: Rendered,
}

#[derive(Debug, Clone)]
struct Directory {
    inode: Inode,
    /// A record below it, and how many bytes of its path are this directory's.
    witness: u32,
    length: u16,
    children: (u32, u32),
    directories: u32,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Tree {
    generation: u64,
    view: Arc<View>,
    packages: PackagesFile,
    packages_inode: Inode,
    directories: Vec<Directory>,
    /// Children of all directories, each directory's together and sorted by name.
    children: Vec<Node>,
    /// Of each record of the index.
    package_inodes: Vec<Inode>,
    /// Everything, sorted by inode; the numbers themselves are with the nodes.
    by_inode: Vec<Node>,
}

impl Tree {
    /// Lays out `view` with its rendered file. `generation` is shown as the directories' modification time as well:
    /// a kernel that has an empty directory cached looks again only when that changes.
    #[must_use]
    pub fn new(generation: u64, view: Arc<View>, packages: PackagesFile) -> Self {
        build::build(generation, view, packages)
    }

    /// The same names with another rendered file.
    #[must_use]
    pub fn with_packages(&self, packages: PackagesFile) -> Self {
        build::with_packages(self, packages)
    }

    /// The generation's number.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Two trees with the same mark show the same: the generation, and the inode of `Packages`, which follows from its content.
    #[must_use]
    pub fn mark(&self) -> (u64, Inode) {
        (self.generation, self.packages_inode)
    }

    /// The entries that this tree shows; packages are numbered as its rows are.
    #[must_use]
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// The rendered index.
    #[must_use]
    pub fn packages(&self) -> &PackagesFile {
        &self.packages
    }

    /// Which node an inode is.
    #[must_use]
    pub fn node(&self, inode: Inode) -> Option<Node> {
        let at = self.by_inode.binary_search_by_key(&inode, |node| self.inode(*node)).ok()?;
        self.by_inode.get(at).copied()
    }

    /// The number of a node of this tree.
    fn inode(&self, node: Node) -> Inode {
        let number = match node {
            Node::Directory(at) => self.directories.get(at as usize).map(|directory| directory.inode),
            Node::Package(at) => self.package_inodes.get(at as usize).copied(),
            Node::Packages => Some(self.packages_inode),
        };
        // Every node has one; 0 is never asked for.
        number.unwrap_or(Inode(0))
    }

    /// The child `name` of a directory.
    #[must_use]
    pub fn lookup(&self, parent: Inode, name: &str) -> Option<Attributes> {
        if parent == Inode::ROOT && name == PACKAGES {
            return self.attributes(Node::Packages);
        }
        let children = self.children_of(parent)?;
        let at = children.binary_search_by(|child| self.name(*child).cmp(name)).ok()?;
        self.attributes(*children.get(at)?)
    }

    /// What `stat` shows of a node.
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

    /// Children of a directory with their names, `Packages` first in the root. `None`: it is no directory.
    #[must_use]
    pub fn list(&self, directory: Inode) -> Option<impl Iterator<Item = (&str, Node)> + Clone> {
        let children = self.children_of(directory)?;
        let index = (directory == Inode::ROOT).then_some((PACKAGES, Node::Packages));
        Some(index.into_iter().chain(children.iter().map(|child| (self.name(*child), *child))))
    }

    /// The record of a package node.
    #[must_use]
    pub fn record(&self, at: u32) -> Option<&Record> {
        self.view.record(at)
    }

    /// Path of a node below the root; empty for the root.
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
        // A generation's number is small; added to TIMESTAMP it stays a plausible time and differs in each generation.
        self.packages.rendered.timestamp.saturating_add(i64::try_from(self.generation).unwrap_or_default())
    }
}
