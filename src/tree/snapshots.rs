//! The current tree and the trees before it.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::RwLock;

use super::{Attributes, Inode, Node, Tree};
use crate::index::BinhostId;

/// Number of trees kept: the current one, and earlier ones whose names still resolve for an emerge
/// that read an earlier index. At most two trees have the same indexes: the first one that was
/// shown of them, and the current one.
pub(crate) const KEPT_TREES: usize = 3;

/// The tree that a name was found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    /// The name is in the current tree. [`Tree::changes`] lists the name if the next tree changes
    /// it.
    Current,
    /// The name is in an earlier tree. The name can vanish or get another inode without a
    /// notification to the kernel.
    Earlier,
}

/// The kept trees, shared by all name lookups; there is always at least one.
#[derive(Debug)]
pub(crate) struct Snapshots {
    /// The trees, newest first.
    trees: RwLock<Vec<Arc<Tree>>>,
}

impl Snapshots {
    /// Starts with one tree.
    #[must_use]
    pub(crate) fn new(first: Arc<Tree>) -> Self {
        Self { trees: RwLock::new(vec![first]) }
    }

    /// Returns the newest tree.
    #[must_use]
    pub(crate) fn current(&self) -> Arc<Tree> {
        let trees = self.trees.read();
        #[expect(clippy::expect_used, reason = "`new` puts one in and `replace` never takes the last one out")]
        let newest = trees.first().expect("there is always a tree");
        Arc::clone(newest)
    }

    /// Makes `tree` the current one and returns the one that was current.
    pub(crate) fn replace(&self, tree: Arc<Tree>) -> Arc<Tree> {
        let before = self.current();
        let mut trees = self.trees.write();
        let views = trees.iter().take_while(|earlier| earlier.view().is_of_same_parts(tree.view())).count();
        if views > 1 {
            // The first view of these indexes, which shows all or most of the entries, is behind
            // the one that is removed.
            trees.remove(0);
        }
        trees.insert(0, tree);
        trees.truncate(KEPT_TREES);
        before
    }

    /// Returns the binhosts that have an index in one of the trees.
    #[must_use]
    pub(crate) fn binhosts(&self) -> HashSet<BinhostId> {
        let trees = self.trees.read();
        trees.iter().flat_map(|tree| tree.view().parts()).map(|part| part.binhost).collect()
    }

    /// Returns all trees, newest first.
    #[must_use]
    pub(crate) fn all(&self) -> Vec<Arc<Tree>> {
        self.trees.read().clone()
    }

    /// Finds the newest tree that has this inode, and the node there.
    #[must_use]
    pub(crate) fn find(&self, inode: Inode) -> Option<(Arc<Tree>, Node)> {
        let trees = self.trees.read();
        trees.iter().find_map(|tree| Some((Arc::clone(tree), tree.node(inode)?)))
    }

    /// Finds the child `name` of a directory in the newest tree that has one.
    #[must_use]
    pub(crate) fn lookup(&self, parent: Inode, name: &str) -> Option<(Attributes, Age)> {
        let trees = self.trees.read();
        let ages = std::iter::once(Age::Current).chain(std::iter::repeat(Age::Earlier));
        trees.iter().zip(ages).find_map(|(tree, age)| Some((tree.lookup(parent, name)?, age)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::tree_of;
    use super::*;
    use crate::index::{ShownEntry, View};

    #[test]
    fn earlier_names_still_resolve_and_the_newest_wins() {
        let snapshots = Snapshots::new(Arc::new(tree_of(1, &[("gone.xpak", 1), ("same.xpak", 1)])));
        let lookup = |name| snapshots.lookup(Inode::ROOT, name).unwrap();
        let old = lookup("same.xpak").0.inode;
        snapshots.replace(Arc::new(tree_of(2, &[("same.xpak", 2)])));
        assert_eq!(lookup("gone.xpak").1, Age::Earlier);
        assert_eq!((lookup("same.xpak").0.size, lookup("same.xpak").1), (2, Age::Current));
        assert_eq!(snapshots.find(old).unwrap().0.generation(), 1);
        for generation in 3..3 + KEPT_TREES as u64 {
            snapshots.replace(Arc::new(tree_of(generation, &[])));
        }
        assert!(snapshots.find(old).is_none());
        assert_eq!(snapshots.current().generation(), 2 + KEPT_TREES as u64);
    }

    #[test]
    fn views_of_one_index_push_nothing_out() {
        let whole = tree_of(1, &[("a.xpak", 1), ("b.xpak", 1)]);
        let parts = whole.view().parts().to_vec();
        let view = |generation, rows: std::ops::Range<u32>| {
            let choice = |record| ShownEntry { part: 0, record, place: None, dependency: None };
            let view = Arc::new(View::compose(parts.clone(), rows.map(choice).collect()));
            let packages =
                super::super::PackagesFile { content: whole.packages().content.clone(), ..*whole.packages() };
            Arc::new(Tree::new(generation, view, packages))
        };
        let snapshots = Snapshots::new(Arc::new(tree_of(0, &[("gone.xpak", 1)])));
        snapshots.replace(view(1, 0..2));
        for generation in 2..20 {
            snapshots.replace(view(generation, 1..2));
        }
        assert_eq!(snapshots.current().generation(), 19);
        let age = |name| snapshots.lookup(Inode::ROOT, name).unwrap().1;
        assert_eq!((age("a.xpak"), age("b.xpak"), age("gone.xpak")), (Age::Earlier, Age::Current, Age::Earlier));
    }
}
