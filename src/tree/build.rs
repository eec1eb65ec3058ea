//! View -> [`Tree`], breadth first, so that the children of each directory are contiguous.

use std::collections::VecDeque;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::{Directory, Inode, Node, PackagesFile, Tree};
use crate::index::View;

/// The largest inode number of a tree.
const MAX: u64 = (1 << 62) - 1;

/// A directory whose children are not laid out yet: records `first..end` are below it.
struct Pending {
    directory: u32,
    first: u32,
    end: u32,
}

pub(super) fn build(generation: u64, view: Arc<View>, packages: PackagesFile) -> Tree {
    let count = view.len() as u32;
    let packages_inode = of_content("", &packages.rendered.digest.0);
    let root = Directory { inode: Inode::ROOT, witness: 0, length: 0, children: (0, 0), directories: 0 };
    let mut tree = Tree {
        generation,
        view,
        packages,
        packages_inode,
        directories: vec![root],
        children: Vec::with_capacity(count as usize),
        package_inodes: Vec::new(),
        by_inode: Vec::new(),
    };
    let mut queue = VecDeque::from([Pending { directory: 0, first: 0, end: count }]);
    while let Some(pending) = queue.pop_front() {
        lay_out(&mut tree, &pending, &mut queue);
    }
    number(&mut tree);
    tree.children.shrink_to_fit();
    tree.directories.shrink_to_fit();
    tree
}

/// Copies `tree` with another rendered `Packages`.
pub(super) fn with_packages(tree: &Tree, packages: PackagesFile) -> Tree {
    let packages_inode = of_content("", &packages.rendered.digest.0);
    let mut new = Tree {
        generation: tree.generation,
        view: Arc::clone(&tree.view),
        packages,
        packages_inode,
        directories: tree.directories.clone(),
        children: tree.children.clone(),
        package_inodes: tree.package_inodes.clone(),
        by_inode: tree.by_inode.iter().copied().filter(|node| *node != Node::Packages).collect(),
    };
    // If the inode numbers clash (62 bits: by chance or malice), the new index is put before the
    // older node, which is no index.
    let at = new.by_inode.partition_point(|node| new.inode(*node) < packages_inode);
    new.by_inode.insert(at, Node::Packages);
    new
}

fn lay_out(tree: &mut Tree, pending: &Pending, queue: &mut VecDeque<Pending>) {
    let start = tree.children.len() as u32;
    let own = tree.directories.get(pending.directory as usize).map_or(0, |d| usize::from(d.length));
    let prefix = if own == 0 { 0 } else { own + 1 };
    let mut at = pending.first;
    let mut directories = 0;
    while at < pending.end {
        let path = tree.path(Node::Package(at));
        let Some(length) = path.get(prefix..).and_then(|rest| rest.find('/')).map(|slash| prefix + slash) else {
            tree.children.push(Node::Package(at));
            at += 1;
            continue;
        };
        let below = path.get(..=length).unwrap_or_default();
        let end =
            (at..pending.end).find(|next| !tree.path(Node::Package(*next)).starts_with(below)).unwrap_or(pending.end);
        let directory = tree.directories.len() as u32;
        let inode = Inode(0);
        tree.directories.push(Directory {
            inode,
            witness: at,
            length: length as u16,
            children: (0, 0),
            directories: 0,
        });
        tree.children.push(Node::Directory(directory));
        queue.push_back(Pending { directory, first: at, end });
        directories += 1;
        at = end;
    }
    let end = tree.children.len() as u32;
    if let Some(directory) = tree.directories.get_mut(pending.directory as usize) {
        directory.children = (start, end);
        directory.directories = directories;
    }
}

/// Gives every node its inode number. A counter separates nodes that hash alike (by chance or
/// malice).
fn number(tree: &mut Tree) {
    let directories = (1..tree.directories.len() as u32).map(Node::Directory);
    let nodes: Vec<Node> = directories.chain((0..tree.view.len() as u32).map(Node::Package)).collect();
    let mut numbered: Vec<(Inode, Node)> = Vec::with_capacity(nodes.len() + 2);
    numbered.push((Inode::ROOT, Node::Directory(0)));
    numbered.push((tree.packages_inode, Node::Packages));
    numbered.extend(nodes.iter().map(|node| (inode_of(tree, *node, 0), *node)));
    let mut attempt = 0;
    loop {
        numbered.sort_by_key(|(inode, node)| (*inode, rank(*node)));
        let mut clashed = false;
        attempt += 1;
        let mut before = Inode(0);
        for (inode, node) in &mut numbered {
            if *inode == before {
                *inode = inode_of(tree, *node, attempt);
                clashed = true;
            } else {
                before = *inode;
            }
        }
        if !clashed {
            break;
        }
    }
    tree.package_inodes = vec![Inode(0); tree.view.len()];
    for (inode, node) in &numbered {
        match node {
            Node::Directory(at) => tree.directories.get_mut(*at as usize).into_iter().for_each(|d| d.inode = *inode),
            Node::Package(at) => tree.package_inodes.get_mut(*at as usize).into_iter().for_each(|i| *i = *inode),
            Node::Packages => tree.packages_inode = *inode,
        }
    }
    tree.by_inode = numbered.iter().map(|(_, node)| *node).collect();
}

/// Orders nodes with one inode number: the root and the index keep their numbers.
fn rank(node: Node) -> u64 {
    match node {
        Node::Directory(0) => 0,
        Node::Packages => 1,
        Node::Directory(at) => 2 + u64::from(at),
        Node::Package(at) => (1 << 40) + u64::from(at),
    }
}

fn inode_of(tree: &Tree, node: Node, attempt: u32) -> Inode {
    match node {
        Node::Package(at) => {
            let id = tree.record(at).map_or([0; 16], |record| record.id.0);
            derive(b"package\0", tree.path(node), &id, attempt)
        }
        Node::Directory(_) | Node::Packages => derive(b"directory\0", tree.path(node), &[], attempt),
    }
}

/// Computes the number for [`Inode::of_directory`].
pub(super) fn of_directory(path: &[u8]) -> Inode {
    derive(b"directory\0", path, &[], 0)
}

/// Computes the number for [`Inode::of_content`].
pub(super) fn of_content(path: &str, content: &[u8]) -> Inode {
    derive(b"packages\0", path, content, 0)
}

fn derive(kind: &[u8], path: impl AsRef<[u8]>, content: &[u8], attempt: u32) -> Inode {
    let mut hash = Sha256::new_with_prefix(kind);
    hash.update(path);
    hash.update([0]);
    hash.update(content);
    hash.update(attempt.to_be_bytes());
    let number = hash.finalize().iter().take(8).fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    // FUSE reserves 0 and 1. The two upper bits are for inodes that are not in a tree. 32-bit
    // programs may fail with 64-bit inode numbers anyway; Portage does not.
    Inode((number & MAX).max(2))
}

#[cfg(test)]
mod tests {
    use super::super::PACKAGES;
    use super::super::sample::tree_of as tree;
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn names_and_attributes() {
        let tree = tree(3, &[("app/hello/hello-1-1.gpkg.tar", 10), ("app/b.xpak", 20), ("top.tbz2", 30)]);
        let names = |inode| tree.list(inode).unwrap().map(|(name, _)| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(names(Inode::ROOT), [PACKAGES, "app", "top.tbz2"]);
        let app = tree.lookup(Inode::ROOT, "app").unwrap();
        assert_eq!((app.links, app.mtime), (3, 1003));
        assert_eq!(names(app.inode), ["b.xpak", "hello"]);
        let b = tree.lookup(app.inode, "b.xpak").unwrap();
        assert_eq!((b.size, b.mtime, b.links), (20, 7, 1));
        assert_eq!(tree.path(b.node), "app/b.xpak");
        assert!(tree.lookup(app.inode, "nothing").is_none() && tree.lookup(b.inode, "x").is_none());
        assert!(tree.list(b.inode).is_none() && tree.list(Inode(77)).is_none());
        assert_eq!(tree.lookup(Inode::ROOT, PACKAGES).unwrap().mtime, 1000);
    }

    #[test]
    fn inodes_are_derived_from_path_and_content() {
        let (one, two) = (tree(1, &[("a/x.xpak", 10), ("b/y.xpak", 5)]), tree(2, &[("a/x.xpak", 10), ("b/y.xpak", 6)]));
        let inode = |tree: &Tree, directory: &str, name: &str| {
            tree.lookup(tree.lookup(Inode::ROOT, directory).unwrap().inode, name).unwrap().inode
        };
        assert_eq!(inode(&one, "a", "x.xpak"), inode(&two, "a", "x.xpak"));
        assert_ne!(inode(&one, "b", "y.xpak"), inode(&two, "b", "y.xpak"));
        assert_eq!(one.lookup(Inode::ROOT, "b").unwrap().inode, two.lookup(Inode::ROOT, "b").unwrap().inode);
        assert_ne!(one.lookup(Inode::ROOT, PACKAGES).unwrap().inode, two.lookup(Inode::ROOT, PACKAGES).unwrap().inode);
    }

    /// Maps each directory path to the names in it, in the slow and obvious way.
    fn reference<'a>(paths: &BTreeSet<&'a str>) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
        let mut map: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::from([("", BTreeSet::new())]);
        for path in paths {
            let mut rest = *path;
            while let Some((parent, name)) = rest.rsplit_once('/') {
                map.entry(parent).or_default().insert(name);
                rest = parent;
            }
            map.entry("").or_default().insert(rest);
        }
        map
    }

    proptest! {
        #[test]
        fn same_as_a_reference_map(paths in prop::collection::btree_set("[ab-]{1,2}(/[ab.-]{1,2}c){0,3}", 0..24)) {
            let list: Vec<(&str, u64)> = paths.iter().map(|path| (path.as_str(), 9)).collect();
            let tree = tree(1, &list);
            let shown: BTreeSet<&str> = (0..tree.view().len() as u32).map(|row| tree.view().path(row)).collect();
            let reference = reference(&shown);
            let mut inodes = BTreeSet::new();
            let mut queue = vec![(String::new(), Inode::ROOT)];
            let mut directories = 0;
            while let Some((path, inode)) = queue.pop() {
                directories += 1;
                let names: BTreeSet<&str> = tree.list(inode).unwrap().map(|(name, _)| name).filter(|n| *n != PACKAGES).collect();
                prop_assert_eq!(&names, reference.get(path.as_str()).unwrap());
                for name in names {
                    let found = tree.lookup(inode, name).unwrap();
                    prop_assert!(inodes.insert(found.inode));
                    prop_assert_eq!(tree.node(found.inode), Some(found.node));
                    let below = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
                    prop_assert_eq!(tree.path(found.node), below.as_str());
                    if matches!(found.node, Node::Directory(_)) {
                        queue.push((below, found.inode));
                    } else {
                        prop_assert!(shown.contains(below.as_str()));
                    }
                }
            }
            prop_assert_eq!(directories, reference.len());
        }
    }
}
