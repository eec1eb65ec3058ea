//! Shows an earlier generation again, until that is undone.
//!
//! Today's rules apply to the indexes of that generation: refused and filtered entries stay hidden,
//! and every package is verified as always. The daemon still fetches new indexes; it stores them,
//! and shows them when the rollback is undone. `generations/rollback.json` preserves a rollback
//! across a restart.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::{RecipeIndex, StoredGeneration, find, stored};
use crate::api::{GenerationEntry, RollbackTo};
use crate::daemon::repository::distance_of_file;
use crate::index::{Digest, EntryId, Index};
use crate::sys::durable::{read_json, sync_directory, write_json};
use crate::sys::file_stamp::{FileStamp, stamp};

const FILE: &str = "rollback.json";

#[derive(Debug, Serialize, Deserialize)]
struct RollbackFile {
    /// The first number of the generation's indexes.
    generation: u64,
}

/// An index of an earlier generation, for a rollback.
#[derive(Debug)]
pub(crate) struct Earlier {
    pub(crate) index: Arc<Index>,
    pub(crate) stamp: FileStamp,
    /// Entries that were disputed between the mirrors in that generation.
    pub(crate) disputed: Arc<HashSet<EntryId>>,
}

/// An earlier generation, with its indexes read into memory.
#[derive(Debug)]
pub(crate) struct Rollback {
    /// Number of the generation. Changes when the generation is rendered again.
    pub(crate) number: u64,
    first: u64,
    /// The index of each binhost, by the binhost's directory.
    pub(crate) parts: HashMap<String, Arc<Earlier>>,
}

impl Rollback {
    /// Reads the indexes of a generation.
    pub(crate) fn read(directory: &Path, number: u64) -> anyhow::Result<Self> {
        let stored = find(directory, number)?;
        if !is_complete(&stored) {
            anyhow::bail!("generation {number} was made without keeping its indexes, and cannot be shown again");
        }
        let mut parts = HashMap::new();
        for (at, (name, expected)) in stored.state.recipe.indexes.iter().enumerate() {
            let path = stored.index(at);
            let reading = || format!("reading {}", path.display());
            let file = File::open(&path).with_context(reading)?;
            let found = stamp(&file.metadata().with_context(reading)?);
            anyhow::ensure!(found == *expected, "{} is not as it was left: damaged", path.display());
            let index = Arc::new(Index::parse(file).with_context(reading)?);
            let disputed: HashSet<EntryId> =
                stored.state.disputed.get(at).into_iter().flatten().filter_map(|id| identity(id)).collect();
            parts.insert(name.clone(), Arc::new(Earlier { index, stamp: found, disputed: Arc::new(disputed) }));
        }
        Ok(Self { number: stored.number, first: stored.first(), parts })
    }

    /// Stored indexes of the generation: those of `preferred` first, in that order, then the
    /// others.
    pub(crate) fn ingredients(&self, directory: &Path, preferred: &[String]) -> anyhow::Result<Vec<RecipeIndex>> {
        let stored = find(directory, self.number)?;
        let indexes = stored.state.recipe.indexes.iter().enumerate();
        let ingredient = |(at, (name, _)): (usize, &(String, _))| {
            let Earlier { stamp, disputed, .. } = &**self.parts.get(name)?;
            let (directory, text) = (name.clone(), stored.index(at));
            Some(RecipeIndex { directory, text, stamp: *stamp, disputed: Arc::clone(disputed) })
        };
        let mut all: Vec<RecipeIndex> = indexes.filter_map(ingredient).collect();
        let place = |index: &RecipeIndex| preferred.iter().position(|name| *name == index.directory);
        all.sort_by_key(|index| place(index).unwrap_or(usize::MAX));
        Ok(all)
    }

    /// Stores the rollback, so that it survives a restart.
    pub(crate) fn write(&self, directory: &Path) -> anyhow::Result<()> {
        write_json(&directory.join(FILE), &RollbackFile { generation: self.first })
    }
}

/// Number of the generation that the stored rollback asks for, if there is one.
pub(crate) fn written(directory: &Path) -> Option<u64> {
    let path = directory.join(FILE);
    path.exists().then(|| read_json(&path)).flatten().map(|RollbackFile { generation }| generation)
}

/// Removes the stored rollback, so that the newest generation is shown.
pub(crate) fn undo(directory: &Path) -> anyhow::Result<()> {
    let path = directory.join(FILE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("removing {}", path.display())),
        Ok(()) => sync_directory(directory),
    }
}

/// Finds the number of the requested generation. `shown` is the one that is shown now, `root` the
/// root of Portage's files. `None`: the newest.
pub(crate) fn resolve(directory: &Path, to: RollbackTo, shown: u64, root: &Path) -> anyhow::Result<Option<u64>> {
    match to {
        RollbackTo::Latest => Ok(None),
        RollbackTo::Generation(number) => Ok(Some(number)),
        RollbackTo::MatchTree => matching(directory, root).map(Some),
        RollbackTo::Previous => {
            let before = stored(directory).into_iter().take_while(|stored| stored.number != shown);
            let last = before.filter(is_complete).last();
            let why = "there is no earlier generation that could be shown; `binhostfs generations` says what there is";
            last.map(|stored| Some(stored.number)).context(why)
        }
    }
}

/// The newest of the complete generations whose commit is the nearest to the ebuild repository's.
fn matching(directory: &Path, root: &Path) -> anyhow::Result<u64> {
    let syncs = |stored: &StoredGeneration| {
        let indexes = 0..stored.state.recipe.indexes.len();
        indexes.filter_map(|at| distance_of_file(&stored.index(at), root)).map(|distance| distance.syncs).max()
    };
    let known = stored(directory).into_iter().filter(is_complete).filter_map(|stored| Some((syncs(&stored)?, stored)));
    // Of equally near ones, the last is the newest.
    let best = known.reduce(|best, next| if next.0 <= best.0 { next } else { best });
    let why = "no kept generation names a commit that the ebuild repository is known to have been at \
               (REPO_REVISIONS of the index, and Portage's history of syncs)";
    best.map(|(_, stored)| stored.number).context(why)
}

/// Lists all generations, newest first; `shown` is the one that Portage sees.
pub(crate) fn list(directory: &Path, shown: u64) -> Vec<GenerationEntry> {
    let mut before: Option<Vec<[u8; 16]>> = None;
    let mut entries = Vec::new();
    for stored in stored(directory) {
        let ids = stored.ids();
        let (added, removed) = ids.as_ref().zip(before.as_ref()).map(|(new, old)| differences(old, new)).unzip();
        entries.push(GenerationEntry {
            number: stored.number,
            since: stored.state.since,
            index_timestamp: stored.state.timestamp,
            packages: stored.state.packages,
            added,
            removed,
            shown: stored.number == shown,
            kept: stored.is_kept(),
            usable: is_complete(&stored),
        });
        before = ids;
    }
    entries.reverse();
    entries
}

fn is_complete(stored: &StoredGeneration) -> bool {
    stored.state.whole && !stored.state.recipe.indexes.is_empty()
}

fn identity(text: &str) -> Option<EntryId> {
    text.parse().ok().map(|digest: Digest<16>| EntryId(digest.0))
}

/// Counts the identities that are only in `new`, and those only in `old`; both lists are sorted.
fn differences(old: &[[u8; 16]], new: &[[u8; 16]]) -> (u64, u64) {
    let only = |ours: &[[u8; 16]], theirs: &[[u8; 16]]| {
        ours.iter().filter(|id| theirs.binary_search(id).is_err()).count() as u64
    };
    (only(new, old), only(old, new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_and_what_went() {
        let ids = |all: &[u8]| all.iter().map(|id| [*id; 16]).collect::<Vec<_>>();
        assert_eq!(differences(&ids(&[1, 2, 3]), &ids(&[2, 4, 5, 6])), (3, 2));
        assert_eq!(differences(&[], &ids(&[1])), (1, 0));
        assert_eq!(differences(&ids(&[1, 2]), &ids(&[1, 2])), (0, 0));
    }
}
