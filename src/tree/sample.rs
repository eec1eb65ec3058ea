//! Builds trees for tests.

use std::io::Write as _;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::{PackagesFile, Tree};
use crate::index::{BinhostId, Digest, Index, IndexRenderer, Rendered, View};

/// Builds a tree with these paths and sizes.
pub(super) fn tree_of(generation: u64, paths: &[(&str, u64)]) -> Tree {
    let mut text = "VERSION: 0\n\n".to_owned();
    for (at, (path, size)) in paths.iter().enumerate() {
        text += &format!("CPV: a/p{at}-1\nPATH: {path}\nSIZE: {size}\nMD5: {at:032x}\nMTIME: 7\n\n");
    }
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let index = Arc::new(Index::parse(file.try_clone().unwrap()).unwrap());
    let digest = Digest(Sha256::digest(text.as_bytes()).into());
    let rendered = Rendered { size: text.len() as u64, timestamp: 1000, digest };
    let view = Arc::new(View::whole(BinhostId(0), index));
    Tree::new(generation, view, PackagesFile { content: Arc::new(file).into(), rendered })
}

impl Tree {
    /// The tree of a view, with its `Packages`.
    pub(crate) fn of_view(generation: u64, view: Arc<View>) -> Self {
        let file = tempfile::tempfile().unwrap();
        let rendered = IndexRenderer::of(&view).render(&file, 1000).unwrap();
        Self::new(generation, view, PackagesFile { content: Arc::new(file).into(), rendered })
    }
}
