//! Generations on disk: the `Packages` that Portage reads, and the indexes that it was made of.
//!
//! ```text
//! generations/<n>/Packages      the rendered index, unless it is rendered when it is read
//! generations/<n>/index-<k>     the stored index of each binhost: a hard link, which outlives it
//! generations/<n>/ids           identities of all entries that are shown, sorted, 16 bytes each
//! generations/<n>/kept          exists if the administrator wants to keep the generation
//! generations/<n>/state.json    the recipe of the rendered index; written last
//! generations/rollback.json     which generation is shown in place of the newest (`rollback`)
//! ```
//! Where the disk has no room for `Packages`, `state.json` has a table of its parts instead
//! ([`OnDemandIndex`]), and nothing else is stored of it. If there is no room for that either, the
//! oldest generations give way, unless the administrator marked them. If that is not enough, the
//! generation is shown and not kept.
//!
//! Small files are written under another name, made durable and renamed; `Packages` counts only
//! once `state.json` exists. A generation that is damaged, or whose `Packages` has another size or
//! modification time than recorded, is rendered again.
//!
//! Of generations with the same indexes, which differ only in their hidden entries, the last one is
//! kept. Of all others, the configured number is kept, and those that the administrator marked.

mod form;
pub(super) mod rollback;
pub(super) mod usage;

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use form::PackagesForm;

use crate::cache::Space;
use crate::config::StoreIndex;
use crate::index::{EntryId, Index, IndexRenderer, OnDemandIndex, RENDER_VERSION, Rendered, RenderedChunk, View};
use crate::sys::durable::{blocking, read_json, sync_directory, write_file, write_json};
use crate::sys::file_stamp::{FileStamp, stamp};
use crate::sys::{is_full_disk, seconds_now};
use crate::tree::{FileContent, KEPT_TREES, PACKAGES, PackagesFile, Tree};

pub(super) const STATE: &str = "state.json";
const IDS: &str = "ids";
const KEPT: &str = "kept";
/// The beginning of an index's name, before its number.
const INDEX: &str = "index-";

/// A stored index that a generation is made of.
#[derive(Debug, Clone)]
pub(super) struct RecipeIndex {
    /// Name of the binhost's directory in the cache.
    pub(super) directory: String,
    /// Path of the index, and its size and modification time when it was read.
    pub(super) text: PathBuf,
    pub(super) stamp: FileStamp,
    /// Entries of this index on which the mirrors did not agree.
    pub(super) disputed: Arc<HashSet<EntryId>>,
}

/// The inputs that a generation was rendered from: the same recipe gives the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recipe {
    render_version: u32,
    /// Directory and stored index of each binhost, the most preferred first; binhosts that are no
    /// longer configured come last.
    pub(super) indexes: Vec<(String, FileStamp)>,
    /// Fingerprint of the view that was rendered.
    view: String,
}

impl Recipe {
    fn new(ingredients: &[RecipeIndex], view: &View) -> Self {
        let indexes = ingredients.iter().map(|index| (index.directory.clone(), index.stamp)).collect();
        let view = format!("{} {}", view.parts().len(), view.fingerprint());
        Self { render_version: RENDER_VERSION, indexes, view }
    }

    /// The indexes in sorted order. Generations of one group differ only in hidden entries; for the
    /// administrator they are one generation.
    fn group(&self) -> Vec<(String, FileStamp)> {
        let mut group = self.indexes.clone();
        group.sort();
        group
    }
}

/// The content of a generation's `state.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GenerationState {
    pub(super) recipe: Recipe,
    /// Size and modification time of the rendered file. Without a file, the size alone.
    file: FileStamp,
    /// Entries, bytes and CRC of each chunk of an index without a file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    chunks: Vec<(u32, u32, u32)>,
    pub(super) timestamp: i64,
    digest: String,
    /// When these indexes were first shown, seconds since the epoch.
    #[serde(default)]
    pub(super) since: u64,
    /// Number of the generation that first showed them. Orders generations even if the clock was
    /// set back.
    #[serde(default)]
    first: u64,
    #[serde(default)]
    pub(super) packages: u64,
    /// Whether all its indexes were kept, so that the generation can be shown again.
    #[serde(default)]
    pub(super) whole: bool,
    /// For each index, the entries on which the mirrors did not agree; identities in hexadecimal.
    #[serde(default)]
    pub(super) disputed: Vec<Vec<String>>,
}

/// A generation on disk, identified by its number.
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

    /// Path of the generation's index number `at`.
    pub(super) fn index(&self, at: usize) -> PathBuf {
        self.path.join(index_name(at))
    }

    /// The number under which these indexes were first shown. Rendering them again does not change
    /// this number.
    pub(super) fn first(&self) -> u64 {
        if self.state.first == 0 { self.number } else { self.state.first }
    }

    /// Identities of the entries that are shown, sorted. `None`: the file is missing or damaged.
    pub(super) fn ids(&self) -> Option<Vec<[u8; 16]>> {
        let bytes = fs::read(self.path.join(IDS)).ok()?;
        let (ids, rest) = bytes.as_chunks();
        (rest.is_empty() && ids.len() as u64 == self.state.packages).then(|| ids.to_vec())
    }

    /// Entries that this generation names: those that are shown, or, if the list is damaged, all
    /// entries of its indexes.
    pub(super) fn named(&self) -> Vec<EntryId> {
        if let Some(ids) = self.ids() {
            return ids.into_iter().map(EntryId).collect();
        }
        let indexes = (0..self.state.recipe.indexes.len()).map(|at| self.index(at));
        let indexes = indexes.filter_map(|path| Index::parse(File::open(path).ok()?).ok());
        indexes.flat_map(|index| index.records().iter().map(|record| record.id).collect::<Vec<_>>()).collect()
    }

    /// The rendered index of `view`, if it is unchanged since it was stored.
    fn packages(&self, view: &Arc<View>) -> Option<PackagesFile> {
        let Self { path, state, .. } = self;
        if !state.chunks.is_empty() {
            let digest = state.digest.parse().ok()?;
            let rendered = Rendered { size: state.file.0, timestamp: state.timestamp, digest };
            let chunks = state.chunks.iter().map(|(entries, bytes, crc)| RenderedChunk {
                entries: *entries,
                bytes: *bytes,
                crc: *crc,
            });
            return OnDemandIndex::restored(Arc::clone(view), rendered, chunks.collect()).map(PackagesFile::on_demand);
        }
        let file = File::open(path.join(PACKAGES)).ok()?;
        let digest = state.digest.parse().ok()?;
        if stamp(&file.metadata().ok()?) != state.file {
            tracing::warn!(generation = %path.display(), "what Portage reads is not as it was left; it is rendered again");
            return None;
        }
        let rendered = Rendered { size: state.file.0, timestamp: state.timestamp, digest };
        Some(PackagesFile { content: Arc::new(file).into(), rendered })
    }
}

/// The directory of all generations.
#[derive(Debug)]
pub(super) struct GenerationStore {
    pub(super) directory: PathBuf,
    /// Number of generations with different indexes to keep.
    keep: usize,
    /// Number of the generation that is shown.
    shown: u64,
    /// Numbers of the generations whose trees are in memory.
    in_memory: Vec<u64>,
    store: StoreIndex,
    /// Room on the disk, which decides in what form `Packages` is kept.
    space: Option<Arc<Space>>,
    /// The form of the last generation.
    form: Option<PackagesForm>,
    /// Bytes that were written since [`GenerationStore::take_written`].
    written: u64,
}

impl GenerationStore {
    /// `space`: that of the cache, if the form is to depend on it.
    pub(super) fn open(
        cache: &Path,
        keep: usize,
        (store, space): (StoreIndex, Option<Arc<Space>>),
    ) -> anyhow::Result<Self> {
        let directory = directory(cache);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.with_context(|| format!("creating {}", directory.display()))?;
        Ok(Self { directory, keep, shown: 0, in_memory: Vec::new(), store, space, form: None, written: 0 })
    }

    /// Makes a tree of `view`. Renders `Packages` only if no generation on disk has the same
    /// recipe.
    pub(super) async fn tree(&mut self, view: View, ingredients: Vec<RecipeIndex>) -> anyhow::Result<Arc<Tree>> {
        let (directory, keep, shown) = (self.directory.clone(), self.keep, self.shown);
        let (store, space, form_before, old) = (self.store, self.space.clone(), self.form, self.old());
        let (tree, form, written) = blocking(move || {
            let view = Arc::new(view);
            let bytes = view.parts().iter().map(|part| part.index.text_size()).sum();
            let room = space.as_ref().and_then(|space| space.disk_room());
            let form = PackagesForm::choose(store, bytes, room, form_before);
            let recipe = Recipe::new(&ingredients, &view);
            let all = stored(&directory);
            let same = all.iter().rev().filter(|stored| stored.state.recipe == recipe);
            // What is stored already stays, unless the administrator wants another form.
            let fits = |packages: &PackagesFile| match store {
                StoreIndex::Auto => true,
                StoreIndex::Plain => packages.content.file().is_some(),
                StoreIndex::Small => packages.content.file().is_none(),
            };
            let found = same.filter_map(|stored| Some((stored.number, stored.packages(&view).filter(fits)?))).next();
            let (mut shown_form, mut written) = (None, 0);
            let (number, packages) = match found {
                Some(found) => found,
                None => {
                    // The generation that is shown may not be on the disk.
                    let number = numbers(&directory).last().copied().unwrap_or_default().max(shown) + 1;
                    let group = recipe.group();
                    let before = all.iter().rev().find(|stored| stored.state.recipe.group() == group);
                    let new = New { number, recipe, ingredients, before, old };
                    // Only where it must be a file: a file that does not fit is rendered when it is read,
                    // which costs less than packages.
                    if let (StoreIndex::Plain, Some(space)) = (store, &space) {
                        let _ = space.free_for(bytes);
                    }
                    let packages = new.render(&directory, &view, form)?;
                    (shown_form, written) = (Some(form), own_bytes(&directory.join(number.to_string())));
                    (number, packages)
                }
            };
            remove_old(&directory, keep, number);
            Ok((Arc::new(Tree::new(number, view, packages)), shown_form, written))
        })
        .await?;
        self.shown = tree.generation();
        self.in_memory.retain(|number| *number != tree.generation());
        self.in_memory.insert(0, tree.generation());
        self.in_memory.truncate(KEPT_TREES);
        self.written += written;
        if form.is_some() && form != self.form {
            match form {
                Some(PackagesForm::Rendered(reason)) => {
                    tracing::info!("Packages is rendered when it is read: {reason}")
                }
                _ if self.form.is_some() => tracing::info!("Packages is stored as a file"),
                _ => {}
            }
            self.form = form;
        }
        Ok(tree)
    }

    /// Bytes of generations that were written since the last call.
    pub(super) fn take_written(&mut self) -> u64 {
        std::mem::take(&mut self.written)
    }

    /// Number of the generation that is shown.
    pub(super) fn current_number(&self) -> u64 {
        self.shown
    }

    /// The generations that give way to what is in use.
    pub(super) fn old(&self) -> OldGenerations {
        OldGenerations { directory: self.directory.clone(), in_memory: self.in_memory.clone() }
    }

    /// Marks a generation to be kept, or removes the mark.
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

/// The generations that are neither shown, now or by a stored rollback, nor the newest one, nor
/// marked. On a full disk they give way to what is in use.
#[derive(Debug, Clone)]
pub(super) struct OldGenerations {
    directory: PathBuf,
    /// Numbers of the generations whose trees are in memory, with the one that is shown. Their
    /// files are open, so removing them would free nothing.
    in_memory: Vec<u64>,
}

impl OldGenerations {
    /// Removes the oldest one. `false`: there is none.
    pub(super) fn drop_oldest(&self) -> bool {
        self.drop_oldest_unless(&|_| false)
    }

    fn drop_oldest_unless(&self, is_used: &dyn Fn(&StoredGeneration) -> bool) -> bool {
        let rolled_back = rollback::written(&self.directory);
        let mut all = stored(&self.directory);
        // The newest one comes last. Before the first tree is made, none is shown.
        all.pop();
        let may_go = |old: &StoredGeneration| {
            !self.in_memory.contains(&old.number) && rolled_back != Some(old.first()) && !old.is_kept() && !is_used(old)
        };
        let Some(oldest) = all.into_iter().find(may_go) else { return false };
        tracing::warn!(generation = oldest.number, "an earlier generation gives way, because the disk is full");
        remove(&oldest.path);
        !oldest.path.exists()
    }
}

/// The directory of the generations in a cache.
pub(super) fn directory(cache: &Path) -> PathBuf {
    cache.join("generations")
}

/// All generations with a readable `state.json`, in the order in which their indexes were first
/// shown.
pub(super) fn stored(directory: &Path) -> Vec<StoredGeneration> {
    let stored = |number: u64| {
        let path = directory.join(number.to_string());
        Some(StoredGeneration { number, state: read_json(&path.join(STATE))?, path })
    };
    let mut all: Vec<StoredGeneration> = numbers(directory).into_iter().filter_map(stored).collect();
    all.sort_by_key(|stored| (stored.first(), stored.number));
    all
}

/// Finds a generation by its number, or by the first number of the same indexes.
pub(super) fn find(directory: &Path, number: u64) -> anyhow::Result<StoredGeneration> {
    let all = stored(directory);
    let has: Vec<String> = all.iter().map(|stored| stored.number.to_string()).collect();
    let (named, renamed): (Vec<_>, Vec<_>) = all.into_iter().partition(|stored| stored.number == number);
    let found = named.into_iter().next().or_else(|| renamed.into_iter().rev().find(|stored| stored.first() == number));
    found.with_context(|| format!("there is no generation {number}; there are {}", has.join(", ")))
}

/// A generation that is about to be rendered.
struct New<'a> {
    number: u64,
    recipe: Recipe,
    ingredients: Vec<RecipeIndex>,
    /// The generation that has shown these indexes until now.
    before: Option<&'a StoredGeneration>,
    /// The generations that may give way.
    old: OldGenerations,
}

impl New<'_> {
    /// Renders the index in this form. If the disk is full, the index is rendered when it is read.
    fn render(self, generations: &Path, view: &Arc<View>, form: PackagesForm) -> anyhow::Result<PackagesFile> {
        let directory = generations.join(self.number.to_string());
        if form == PackagesForm::Stored {
            match self.store(generations, view) {
                Err(error) if is_full_disk(error.as_ref()) => {
                    remove(&directory);
                    tracing::warn!("Packages does not fit on the disk, and is rendered when it is read: {error:#}");
                }
                other => return other,
            }
        }
        let index = OnDemandIndex::of(Arc::clone(view), seconds_now().cast_signed()).context("rendering the index")?;
        let packages = PackagesFile::on_demand(index);
        loop {
            match self.describe(generations, view, &packages) {
                Err(error) if is_full_disk(error.as_ref()) => {
                    remove(&directory);
                    if self.make_room() {
                        continue;
                    }
                    tracing::warn!("the generation is shown but not kept, because the disk is full: {error:#}");
                }
                other => other?,
            }
            return Ok(packages);
        }
    }

    /// Makes room for this generation. `false`: there is none to be made, or it would be of no use,
    /// since an index of this generation is not on the disk either.
    fn make_room(&self) -> bool {
        let is_stored = |index: &RecipeIndex| fs::metadata(&index.text).is_ok_and(|found| stamp(&found) == index.stamp);
        let is_used = |old: &StoredGeneration| self.ingredients.iter().any(|index| index.text.starts_with(&old.path));
        self.ingredients.iter().all(is_stored) && self.old.drop_oldest_unless(&is_used)
    }

    /// Renders the index into a file of the generation.
    fn store(&self, generations: &Path, view: &View) -> anyhow::Result<PackagesFile> {
        let path = self.directory(generations)?.join(PACKAGES);
        let writing = || format!("writing {}", path.display());
        let file =
            File::options().read(true).write(true).create(true).truncate(true).open(&path).with_context(writing)?;
        let rendered = IndexRenderer::of(view).render(&file, seconds_now().cast_signed()).with_context(writing)?;
        file.sync_all().with_context(writing)?;
        // Open for reading only: the kernel reads from this descriptor.
        let file = File::open(&path).with_context(writing)?;
        let packages = PackagesFile { content: Arc::new(file).into(), rendered };
        self.describe(generations, view, &packages)?;
        Ok(packages)
    }

    /// Makes the directory of the generation.
    fn directory(&self, generations: &Path) -> anyhow::Result<PathBuf> {
        let directory = generations.join(self.number.to_string());
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.with_context(|| format!("creating {}", directory.display()))?;
        Ok(directory)
    }

    /// Writes the files that accompany the rendered index, `state.json` last.
    fn describe(&self, generations: &Path, view: &View, packages: &PackagesFile) -> anyhow::Result<()> {
        let directory = &self.directory(generations)?;
        let PackagesFile { content, rendered } = packages;
        let (file, chunks) = match content {
            FileContent::File(file) => (stamp(&file.metadata().context("examining Packages")?), Vec::new()),
            FileContent::OnDemand(index) => {
                let chunks =
                    index.chunks().iter().map(|RenderedChunk { entries, bytes, crc }| (*entries, *bytes, *crc));
                ((rendered.size, 0), chunks.collect())
            }
        };
        let mut ids: Vec<[u8; 16]> = (0..view.len() as u32).filter_map(|row| Some(view.record(row)?.id.0)).collect();
        ids.sort_unstable();
        write_file(&directory.join(IDS), &ids.concat())?;
        let link = |(at, index): (usize, &RecipeIndex)| link(index, &directory.join(index_name(at)));
        // Links all indexes, also if one of them fails.
        let linked = self.ingredients.iter().enumerate().map(link).filter(|linked| *linked).count();
        if self.before.is_some_and(StoredGeneration::is_kept) {
            write_file(&directory.join(KEPT), b"")?;
        }
        let hexadecimal =
            |ids: &HashSet<EntryId>| ids.iter().map(|id| crate::index::Digest(id.0).to_string()).collect();
        let state = GenerationState {
            recipe: self.recipe.clone(),
            file,
            chunks,
            timestamp: rendered.timestamp,
            digest: rendered.digest.to_string(),
            since: self.before.map(|before| before.state.since).unwrap_or_else(seconds_now),
            first: self.before.map_or(self.number, StoredGeneration::first),
            packages: ids.len() as u64,
            whole: linked == self.ingredients.len(),
            disputed: self.ingredients.iter().map(|index| hexadecimal(&index.disputed)).collect(),
        };
        write_json(&directory.join(STATE), &state)?;
        sync_directory(generations)
    }
}

/// Bytes of the files of a generation, without the indexes of binhosts.
fn own_bytes(generation: &Path) -> u64 {
    let entries = fs::read_dir(generation).into_iter().flatten().flatten();
    let own = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with(INDEX));
    own.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
}

/// Removes a generation. One that cannot be removed only takes up space.
fn remove(generation: &Path) {
    if let Err(error) = fs::remove_dir_all(generation) {
        tracing::debug!(path = %generation.display(), %error, "removing a generation");
    }
}

fn index_name(at: usize) -> String {
    format!("{INDEX}{at}")
}

/// Links a stored index into its generation. `false`: the index has changed since it was read, or
/// linking failed.
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

/// Removes generations that are no longer needed. Of one group, the last stays, or `shown` if that
/// is in the group. Old groups beyond `keep` go unless they are marked, and so do generations
/// without any index.
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
        remove(&directory.join(number.to_string()));
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
        cache: tempfile::TempDir,
        generations: GenerationStore,
    }

    impl Cache {
        fn new(keep: usize) -> Self {
            let cache = tempfile::tempdir().unwrap();
            fs::create_dir_all(cache.path().join("index")).unwrap();
            let generations = GenerationStore::open(cache.path(), keep, (StoreIndex::Auto, None)).unwrap();
            Self { cache, generations }
        }

        fn text(&self) -> PathBuf {
            self.cache.path().join("index/Packages")
        }

        /// Writes a new index with so many packages.
        fn index(&self, packages: usize) -> (Arc<Index>, RecipeIndex) {
            let entry = |at| format!("CPV: a/p{at}-1\nSIZE: 5\nMD5: {at:032x}\n\n");
            let text: String = (0..packages).map(entry).collect();
            write_file(&self.text(), format!("VERSION: 0\n\n{text}").as_bytes()).unwrap();
            let file = File::open(self.text()).unwrap();
            let stamp = stamp(&file.metadata().unwrap());
            let disputed = Arc::new(HashSet::from([EntryId([7; 16])]));
            let ingredient = RecipeIndex { directory: "x".to_owned(), text: self.text(), stamp, disputed };
            (Arc::new(Index::parse(file).unwrap()), ingredient)
        }

        /// Shows all but the first `hidden` entries of an index.
        async fn show(&mut self, (index, ingredient): &(Arc<Index>, RecipeIndex), hidden: u32) -> u64 {
            let parts = vec![BinhostIndex { binhost: BinhostId(0), index: Arc::clone(index) }];
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
        // The same view is not rendered again; with fewer entries the generation gets another
        // number.
        assert_eq!((cache.show(&one, 0).await, cache.show(&one, 1).await), (1, 2));
        assert_eq!(cache.stored(), [(2, 1, 2, true)]);
        let two = cache.index(4);
        assert_eq!(cache.show(&two, 0).await, 3);
        assert_eq!(cache.stored(), [(2, 1, 2, true), (3, 3, 4, true)]);
        // Either number finds the generation, and its index is unchanged.
        let found = [1, 2].map(|number| find(&cache.generations.directory, number).unwrap());
        assert_eq!(found.each_ref().map(|stored| stored.number), [2, 2]);
        let index = Index::parse(File::open(found[0].index(0)).unwrap()).unwrap();
        assert_eq!((index.records().len(), found[0].ids().unwrap().len()), (3, 2));
        assert_eq!(found[0].state.disputed, [[crate::index::Digest([7; 16]).to_string()]]);
        // The generation that is shown stays, whatever its age, and so does a marked one.
        let three = cache.index(5);
        cache.generations.mark(3, true).unwrap();
        assert_eq!(cache.show(&three, 0).await, 4);
        assert_eq!(cache.stored().iter().map(|stored| stored.0).collect::<Vec<_>>(), [3, 4]);
        let four = cache.index(6);
        assert_eq!((cache.show(&four, 0).await, cache.show(&two, 2).await), (5, 6));
        // The new generation takes over the mark.
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
    async fn the_oldest_gives_way_unless_it_is_shown_or_marked() {
        let mut cache = Cache::new(5);
        for packages in 1..=4 {
            let index = cache.index(packages);
            assert_eq!(cache.show(&index, 0).await, packages as u64);
        }
        // Their trees are in memory until the next start.
        cache.generations.in_memory = vec![4];
        cache.generations.mark(1, true).unwrap();
        let numbers = |cache: &Cache| cache.stored().iter().map(|stored| stored.0).collect::<Vec<_>>();
        assert!(cache.generations.old().drop_oldest());
        assert_eq!(numbers(&cache), [1, 3, 4]);
        assert!(cache.generations.old().drop_oldest() && !cache.generations.old().drop_oldest());
        assert_eq!(numbers(&cache), [1, 4]);
        // A rollback shows it after the next start.
        cache.generations.mark(1, false).unwrap();
        write_json(&cache.generations.directory.join("rollback.json"), &serde_json::json!({ "generation": 1 }))
            .unwrap();
        assert!(!cache.generations.old().drop_oldest());
    }

    #[tokio::test]
    async fn an_index_that_is_not_as_it_was_read_is_not_kept() {
        let mut cache = Cache::new(3);
        let one = cache.index(3);
        let two = cache.index(4);
        // First, another index is in its place already; then there is none.
        assert_eq!(cache.show(&one, 0).await, 1);
        fs::remove_file(cache.text()).unwrap();
        assert_eq!(cache.show(&two, 0).await, 2);
        assert_eq!(cache.stored(), [(1, 1, 3, false), (2, 2, 4, false)]);
    }
}
