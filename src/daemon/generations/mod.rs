//! What Portage reads, on disk, and what it was made from.
//!
//! ```text
//! generations/<n>/Packages      the rendered index
//! generations/<n>/index-<k>     the stored index of each binhost: a hard link, so that it outlives the next one
//! generations/<n>/ids           identities of all entries that are shown, sorted, 16 bytes each
//! generations/<n>/kept          is there: the administrator wants it kept
//! generations/<n>/state.json    what it was rendered from; written last
//! generations/rollback.json     which one is shown in place of the newest (`rollback`)
//! ```
//! Written beside its name, made durable and renamed. One that is damaged, or has another size or modification time than it
//! was left with, is rendered again.
//!
//! Of generations with the same indexes, which differ in what could not be had, the last one is kept; of all others, as many as
//! are configured, and what was marked to be kept.

pub(super) mod rollback;

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::binhosts::binhost::{FileStamp, stamp};
use crate::index::{EntryId, Index, RENDER_VERSION, Rendered, View};
use crate::sys::durable::{blocking, read_json, sync_directory, write_file, write_json};
use crate::sys::seconds_now;
use crate::tree::{PACKAGES, PackagesFile, Tree};

pub(super) const STATE: &str = "state.json";
const IDS: &str = "ids";
const KEPT: &str = "kept";

/// A stored index that is shown.
#[derive(Debug, Clone)]
pub(super) struct RecipeIndex {
    /// Name of the binhost's directory in the cache.
    pub(super) directory: String,
    /// Where it lies, and what it was when it was read.
    pub(super) text: PathBuf,
    pub(super) stamp: FileStamp,
    /// Entries of it on which the mirrors did not agree.
    pub(super) disputed: HashSet<EntryId>,
}

/// What a generation was rendered from: the same recipe gives the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recipe {
    render_version: u32,
    /// Directory and stored index of each binhost, the most preferred first; those that are not used any more at the end.
    pub(super) indexes: Vec<(String, FileStamp)>,
    /// What is shown of them.
    view: String,
}

impl Recipe {
    fn new(ingredients: &[RecipeIndex], view: &View) -> Self {
        let indexes = ingredients.iter().map(|index| (index.directory.clone(), index.stamp)).collect();
        let view = format!("{} {}", view.parts().len(), view.fingerprint());
        Self { render_version: RENDER_VERSION, indexes, view }
    }

    /// Tells generations apart for those who choose one: its indexes, in whatever order.
    fn group(&self) -> Vec<(String, FileStamp)> {
        let mut group = self.indexes.clone();
        group.sort();
        group
    }
}

/// What there is of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GenerationState {
    pub(super) recipe: Recipe,
    /// What was rendered.
    file: FileStamp,
    pub(super) timestamp: i64,
    digest: String,
    /// When these indexes were first shown, seconds since the epoch.
    #[serde(default)]
    pub(super) since: u64,
    /// Number under which that was: clocks can be set back.
    #[serde(default)]
    first: u64,
    #[serde(default)]
    pub(super) packages: u64,
    /// Whether all its indexes are beside it: it can be shown again.
    #[serde(default)]
    pub(super) whole: bool,
    /// Of each index, entries on which the mirrors did not agree; identities in hexadecimal.
    #[serde(default)]
    pub(super) disputed: Vec<Vec<String>>,
}

/// A generation on disk.
#[derive(Debug)]
pub(super) struct StoredGeneration {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) state: GenerationState,
}

impl StoredGeneration {
    pub(super) fn is_kept(&self) -> bool {
        self.path.join(KEPT).exists()
    }

    /// Where index number `at` of it lies.
    pub(super) fn index(&self, at: usize) -> PathBuf {
        self.path.join(index_name(at))
    }

    /// The number under which these indexes were first shown: it stays the same when they are rendered anew.
    pub(super) fn first(&self) -> u64 {
        if self.state.first == 0 { self.number } else { self.state.first }
    }

    /// Identities of what it shows, sorted. `None`: they are not there, or damaged.
    pub(super) fn ids(&self) -> Option<Vec<[u8; 16]>> {
        let bytes = fs::read(self.path.join(IDS)).ok()?;
        let (ids, rest) = bytes.as_chunks();
        (rest.is_empty() && ids.len() as u64 == self.state.packages).then(|| ids.to_vec())
    }

    /// What it names: what it shows, or, where that is damaged, all that its indexes have.
    pub(super) fn named(&self) -> Vec<EntryId> {
        if let Some(ids) = self.ids() {
            return ids.into_iter().map(EntryId).collect();
        }
        let indexes = (0..self.state.recipe.indexes.len()).map(|at| self.index(at));
        let indexes = indexes.filter_map(|path| Index::parse(File::open(path).ok()?).ok());
        indexes.flat_map(|index| index.records().iter().map(|record| record.id).collect::<Vec<_>>()).collect()
    }

    /// What it shows, as it was left.
    fn packages(&self) -> Option<PackagesFile> {
        let Self { path, state, .. } = self;
        let file = File::open(path.join(PACKAGES)).ok()?;
        let digest = state.digest.parse().ok()?;
        if stamp(&file.metadata().ok()?) != state.file {
            tracing::warn!(generation = %path.display(), "what Portage reads is not as it was left; it is rendered again");
            return None;
        }
        let rendered = Rendered { size: state.file.0, timestamp: state.timestamp, digest };
        Some(PackagesFile { file: Arc::new(file), rendered })
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct GenerationStore {
    pub(super) directory: PathBuf,
    /// Different ones that stay.
    keep: usize,
    /// Number of the one that is shown.
    shown: u64,
}

impl GenerationStore {
    pub(super) fn open(store: &Path, keep: usize) -> anyhow::Result<Self> {
        let directory = directory(store);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.with_context(|| format!("creating {}", directory.display()))?;
        Ok(Self { directory, keep, shown: 0 })
    }

    /// A tree of `view`, rendered unless a generation on disk was rendered from just that.
    pub(super) async fn tree(&mut self, view: View, ingredients: Vec<RecipeIndex>) -> anyhow::Result<Arc<Tree>> {
        let (directory, keep) = (self.directory.clone(), self.keep);
        let tree = blocking(move || {
            let recipe = Recipe::new(&ingredients, &view);
            let all = stored(&directory);
            let same = all.iter().rev().filter(|stored| stored.state.recipe == recipe);
            let found = same.filter_map(|stored| Some((stored.number, stored.packages()?))).next();
            let (number, packages) = match found {
                Some(found) => found,
                None => {
                    let number = numbers(&directory).last().copied().unwrap_or_default() + 1;
                    let group = recipe.group();
                    let before = all.iter().rev().find(|stored| stored.state.recipe.group() == group);
                    let new = New { number, recipe, ingredients, before };
                    (number, new.render(&directory, &view)?)
                }
            };
            remove_old(&directory, keep, number);
            Ok(Arc::new(Tree::new(number, Arc::new(view), packages)))
        })
        .await?;
        self.shown = tree.generation();
        Ok(tree)
    }

    /// Number of the one that is shown.
    pub(super) fn current_number(&self) -> u64 {
        self.shown
    }

    /// Marks a generation to be kept, or takes the mark off.
    pub(super) fn mark(&self, number: u64, keep: bool) -> anyhow::Result<()> {
        let stored = find(&self.directory, number)?;
        let path = stored.path.join(KEPT);
        if keep {
            return write_file(&path, b"");
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", path.display()))
            }
            _ => {
                remove_old(&self.directory, self.keep, self.shown);
                Ok(())
            }
        }
    }
}

/// Where the generations of a cache are.
pub(super) fn directory(store: &Path) -> PathBuf {
    store.join("generations")
}

/// All generations that are whole enough to say what they are, in the order in which their indexes were first shown.
pub(super) fn stored(directory: &Path) -> Vec<StoredGeneration> {
    let stored = |number: u64| {
        let path = directory.join(number.to_string());
        Some(StoredGeneration { number, state: read_json(&path.join(STATE))?, path })
    };
    let mut all: Vec<StoredGeneration> = numbers(directory).into_iter().filter_map(stored).collect();
    all.sort_by_key(|stored| (stored.first(), stored.number));
    all
}

/// One of them, by its number, or by one that the same indexes had before.
pub(super) fn find(directory: &Path, number: u64) -> anyhow::Result<StoredGeneration> {
    let all = stored(directory);
    let has: Vec<String> = all.iter().map(|stored| stored.number.to_string()).collect();
    let (named, renamed): (Vec<_>, Vec<_>) = all.into_iter().partition(|stored| stored.number == number);
    let found = named.into_iter().next().or_else(|| renamed.into_iter().rev().find(|stored| stored.first() == number));
    found.with_context(|| format!("there is no generation {number}; there are {}", has.join(", ")))
}

/// A generation to be made.
struct New<'a> {
    number: u64,
    recipe: Recipe,
    ingredients: Vec<RecipeIndex>,
    /// What these indexes were shown as until now.
    before: Option<&'a StoredGeneration>,
}

impl New<'_> {
    fn render(self, generations: &Path, view: &View) -> anyhow::Result<PackagesFile> {
        let directory = generations.join(self.number.to_string());
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.with_context(|| format!("creating {}", directory.display()))?;
        let path = directory.join(PACKAGES);
        let writing = || format!("writing {}", path.display());
        let file =
            File::options().read(true).write(true).create(true).truncate(true).open(&path).with_context(writing)?;
        let rendered = view.render(&file, seconds_now().cast_signed()).with_context(writing)?;
        file.sync_all().with_context(writing)?;
        let file = stamp(&file.metadata().with_context(writing)?);
        self.describe(&directory, view, (rendered, file))?;
        sync_directory(generations)?;
        // Open for reading only: this descriptor is what the kernel reads from.
        Ok(PackagesFile { file: Arc::new(File::open(&path).with_context(writing)?), rendered })
    }

    /// Writes what belongs to it beside what was rendered.
    fn describe(self, directory: &Path, view: &View, (rendered, file): (Rendered, FileStamp)) -> anyhow::Result<()> {
        let mut ids: Vec<[u8; 16]> = (0..view.len() as u32).filter_map(|row| Some(view.record(row)?.id.0)).collect();
        ids.sort_unstable();
        write_file(&directory.join(IDS), &ids.concat())?;
        let link = |(at, index): (usize, &RecipeIndex)| link(index, &directory.join(index_name(at)));
        // All of them, also where one fails.
        let linked = self.ingredients.iter().enumerate().map(link).filter(|linked| *linked).count();
        if self.before.is_some_and(StoredGeneration::is_kept) {
            write_file(&directory.join(KEPT), b"")?;
        }
        let hexadecimal =
            |ids: &HashSet<EntryId>| ids.iter().map(|id| crate::index::Digest(id.0).to_string()).collect();
        let state = GenerationState {
            recipe: self.recipe,
            file,
            timestamp: rendered.timestamp,
            digest: rendered.digest.to_string(),
            since: self.before.map(|before| before.state.since).unwrap_or_else(seconds_now),
            first: self.before.map_or(self.number, StoredGeneration::first),
            packages: ids.len() as u64,
            whole: linked == self.ingredients.len(),
            disputed: self.ingredients.iter().map(|index| hexadecimal(&index.disputed)).collect(),
        };
        write_json(&directory.join(STATE), &state)
    }
}

fn index_name(at: usize) -> String {
    format!("index-{at}")
}

/// Keeps a stored index beside its generation. `false`: it is not there any more as it was read, or cannot be kept.
fn link(index: &RecipeIndex, to: &Path) -> bool {
    let make = || {
        match fs::remove_file(to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::hard_link(&index.text, to)?;
        Ok(stamp(&fs::metadata(to)?) == index.stamp)
    };
    make().unwrap_or_else(|error| {
        tracing::warn!(index = %index.text.display(), %error, "the index is not kept; its generation cannot be shown again");
        false
    })
}

/// Removes what is not to be kept: of the same indexes all but the last, or but `shown`; what is too old; and what showed
/// nothing since there was no index yet.
fn remove_old(directory: &Path, keep: usize, shown: u64) {
    let all = stored(directory);
    let ours = all.iter().find(|stored| stored.number == shown).map(|stored| stored.state.recipe.group());
    let (mut seen, mut stay) = (HashSet::new(), HashSet::from([shown]));
    for stored in all.iter().rev().filter(|stored| !stored.state.recipe.indexes.is_empty()) {
        let group = stored.state.recipe.group();
        let last = ours.as_ref() != Some(&group) && !seen.contains(&group);
        seen.insert(group);
        if last && (seen.len() <= keep || stored.is_kept()) {
            stay.insert(stored.number);
        }
    }
    for number in numbers(directory).into_iter().filter(|number| !stay.contains(number)) {
        let path = directory.join(number.to_string());
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::debug!(path = %path.display(), %error, "removing an old generation");
        }
    }
}

fn numbers(directory: &Path) -> Vec<u64> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut numbers: Vec<u64> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{BinhostId, BinhostIndex, Index, ShownEntry};

    /// A cache with the index of one binhost.
    struct Cache {
        store: tempfile::TempDir,
        generations: GenerationStore,
    }

    impl Cache {
        fn new(keep: usize) -> Self {
            let store = tempfile::tempdir().unwrap();
            fs::create_dir_all(store.path().join("index")).unwrap();
            let generations = GenerationStore::open(store.path(), keep).unwrap();
            Self { store, generations }
        }

        fn text(&self) -> PathBuf {
            self.store.path().join("index/Packages")
        }

        /// A new index, with so many packages.
        fn index(&self, packages: usize) -> (Arc<Index>, RecipeIndex) {
            let entry = |at| format!("CPV: a/p{at}-1\nSIZE: 5\nMD5: {at:032x}\n\n");
            let text: String = (0..packages).map(entry).collect();
            write_file(&self.text(), format!("VERSION: 0\n\n{text}").as_bytes()).unwrap();
            let file = File::open(self.text()).unwrap();
            let stamp = stamp(&file.metadata().unwrap());
            let disputed = HashSet::from([EntryId([7; 16])]);
            let ingredient = RecipeIndex { directory: "x".to_owned(), text: self.text(), stamp, disputed };
            (Arc::new(Index::parse(file).unwrap()), ingredient)
        }

        /// Shows all but the first `hidden` of them.
        async fn show(&mut self, (index, ingredient): &(Arc<Index>, RecipeIndex), hidden: u32) -> u64 {
            let parts = vec![BinhostIndex { origin: BinhostId(0), index: Arc::clone(index) }];
            let rows = hidden..index.records().len() as u32;
            let choices = rows.map(|record| ShownEntry { part: 0, record, place: None, dependency: None }).collect();
            let view = View::compose(parts, choices);
            self.generations.tree(view, vec![ingredient.clone()]).await.unwrap().generation()
        }

        /// Number, first number, packages, whole.
        fn stored(&self) -> Vec<(u64, u64, u64, bool)> {
            let all = stored(&self.generations.directory).into_iter();
            all.map(|s| (s.number, s.first(), s.state.packages, s.state.whole)).collect()
        }
    }

    #[tokio::test]
    async fn the_last_of_the_same_indexes_and_so_many_others() {
        let mut cache = Cache::new(2);
        let one = cache.index(3);
        assert_eq!(cache.show(&one, 0).await, 1);
        // The same again is not made again; with less it is the same generation with another number.
        assert_eq!((cache.show(&one, 0).await, cache.show(&one, 1).await), (1, 2));
        assert_eq!(cache.stored(), [(2, 1, 2, true)]);
        let two = cache.index(4);
        assert_eq!(cache.show(&two, 0).await, 3);
        assert_eq!(cache.stored(), [(2, 1, 2, true), (3, 3, 4, true)]);
        // It is found by either number, and its index is as it was.
        let found = [1, 2].map(|number| find(&cache.generations.directory, number).unwrap());
        assert_eq!(found.each_ref().map(|stored| stored.number), [2, 2]);
        let index = Index::parse(File::open(found[0].index(0)).unwrap()).unwrap();
        assert_eq!((index.records().len(), found[0].ids().unwrap().len()), (3, 2));
        assert_eq!(found[0].state.disputed, [[crate::index::Digest([7; 16]).to_string()]]);
        // What is shown stays, whatever its age, and so does what is marked.
        let three = cache.index(5);
        cache.generations.mark(3, true).unwrap();
        assert_eq!(cache.show(&three, 0).await, 4);
        assert_eq!(cache.stored().iter().map(|stored| stored.0).collect::<Vec<_>>(), [3, 4]);
        let four = cache.index(6);
        assert_eq!((cache.show(&four, 0).await, cache.show(&two, 2).await), (5, 6));
        // The mark goes along.
        assert_eq!(
            cache.stored().iter().map(|stored| (stored.0, stored.1)).collect::<Vec<_>>(),
            [(6, 3), (4, 4), (5, 5)]
        );
        assert_eq!(cache.show(&four, 0).await, 5);
        assert_eq!(cache.stored().len(), 3);
        cache.generations.mark(3, false).unwrap();
        assert_eq!(cache.stored().len(), 2);
        assert!(cache.generations.mark(3, true).unwrap_err().to_string().contains("there are 4, 5"));
    }

    #[tokio::test]
    async fn an_index_that_is_not_as_it_was_read_is_not_kept() {
        let mut cache = Cache::new(3);
        let one = cache.index(3);
        let two = cache.index(4);
        // Another is in its place already; and then there is none.
        assert_eq!(cache.show(&one, 0).await, 1);
        fs::remove_file(cache.text()).unwrap();
        assert_eq!(cache.show(&two, 0).await, 2);
        assert_eq!(cache.stored(), [(1, 1, 3, false), (2, 2, 4, false)]);
    }
}
