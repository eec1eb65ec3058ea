//! How far the ebuild repositories of this machine are from an index. A binhost that builds with
//! Portage 3.0.62 or later names the commits of its repositories in the header of its index.
//!
//! The history of a repository is that of Portage's syncs on this machine. A commit that is not in
//! it, e.g. a newer one, is not known, and nothing is said of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::api::RepositoryDistance;
use crate::index::IndexText;
use crate::portage::RepositoryRevisions;

/// Key of the header: a JSON object of names and commits.
pub(super) const REPO_REVISIONS: &str = "REPO_REVISIONS";
/// The bytes of an index that are read for its header.
const HEAD: u64 = 256 << 10;

/// The distance to an index with these `repo_revisions`. `root`: the root of Portage's files.
pub(super) fn distance(repo_revisions: &str, root: &Path) -> Option<RepositoryDistance> {
    let commits: BTreeMap<String, String> = serde_json::from_str(repo_revisions).ok()?;
    commits.into_iter().find_map(|(name, commit)| {
        let syncs = RepositoryRevisions::of(root, root, &name)?.age_of(&commit)?;
        Some(RepositoryDistance { name, commit, syncs: syncs as u64 })
    })
}

/// The same for a stored index. `None`: not known, or the index cannot be read.
pub(super) fn distance_of_file(index: &Path, root: &Path) -> Option<RepositoryDistance> {
    let mut head = Vec::new();
    IndexText::open(File::open(index).ok()?).ok()?.reader().take(HEAD).read_to_end(&mut head).ok()?;
    let head = String::from_utf8_lossy(&head);
    let header = head.split("\n\n").next().unwrap_or_default();
    let mut lines = header.lines().filter_map(|line| line.strip_prefix(REPO_REVISIONS)?.strip_prefix(':'));
    distance(lines.next_back()?.trim(), root)
}
