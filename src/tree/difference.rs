//! Computes the names and listings that the kernel must forget when one tree replaces another.

use std::collections::HashSet;

use super::{Inode, Node, PACKAGES, Tree};

/// One name or listing that the kernel may have cached and that has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The name in that directory is gone or has another inode.
    Name {
        /// Inode of the directory.
        parent: Inode,
        /// Name in the directory.
        name: String,
    },
    /// The directory has other names than before.
    Listing(Inode),
}

impl Tree {
    /// Lists the names and listings to invalidate when `newer` replaces this tree. A name that only
    /// `newer` has needs no invalidation: the kernel never caches that a name is absent.
    #[must_use]
    pub fn changes(&self, newer: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for directory in self.directories.iter().map(|directory| directory.inode) {
            let (Some(old), new) = (self.list(directory), newer.list(directory)) else { continue };
            let old: Vec<(&str, Inode)> = old.filter_map(|(name, node)| self.named(name, node)).collect();
            let new: HashSet<(&str, Inode)> =
                new.into_iter().flatten().filter_map(|(name, node)| newer.named(name, node)).collect();
            let before = changes.len();
            for (name, inode) in &old {
                if !new.contains(&(*name, *inode)) {
                    changes.push(Change::Name { parent: directory, name: (*name).to_owned() });
                }
            }
            if changes.len() > before || new.len() != old.len() {
                changes.push(Change::Listing(directory));
            }
        }
        changes
    }

    /// Lists every name and listing of this tree.
    #[must_use]
    pub fn everything(&self) -> Vec<Change> {
        let mut all = Vec::new();
        for parent in self.directories.iter().map(|directory| directory.inode) {
            let names = self.list(parent).into_iter().flatten();
            all.extend(names.map(|(name, _)| Change::Name { parent, name: name.to_owned() }));
            all.push(Change::Listing(parent));
        }
        all
    }

    fn named<'a>(&self, name: &'a str, node: Node) -> Option<(&'a str, Inode)> {
        let inode = match node {
            Node::Packages if name == PACKAGES => self.packages_inode,
            _ => self.attributes(node)?.inode,
        };
        Some((name, inode))
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::tree_of;
    use super::*;

    #[test]
    fn only_what_changed() {
        let old = tree_of(1, &[("a/x.xpak", 1), ("b/y.xpak", 1), ("c/z.xpak", 1)]);
        let new = tree_of(2, &[("a/x.xpak", 1), ("b/y.xpak", 2), ("d/w.xpak", 1)]);
        let inode = |name| old.lookup(Inode::ROOT, name).unwrap().inode;
        let changes = old.changes(&new);
        let name = |parent, name: &str| Change::Name { parent, name: name.to_owned() };
        for expected in [
            name(Inode::ROOT, PACKAGES),
            name(Inode::ROOT, "c"),
            name(inode("b"), "y.xpak"),
            Change::Listing(Inode::ROOT),
            Change::Listing(inode("b")),
        ] {
            assert!(changes.contains(&expected), "{expected:?} is not in {changes:?}");
        }
        assert!(!changes.iter().any(|c| matches!(c, Change::Listing(i) if *i == inode("a"))));
        assert!(old.changes(&old).is_empty());
    }
}
