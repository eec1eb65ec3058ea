//! Indexes and generations on disk.
//!
//! ```text
//! index/<binhost>/Packages      the last good index, decompressed
//! index/<binhost>/state.json    its validators, and when a binhost last confirmed it
//! index/<binhost>/refused.json  entries that are left out, and why (`refusals`)
//! generations/<n>/Packages      what Portage reads
//! generations/<n>/state.json    what it was rendered from
//! ```
//! Everything is written beside its name, made durable and renamed. What is damaged, or has another size or modification
//! time than it was left with, is not relied on: the index is fetched again whole, the generation rendered again.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::files::{read_json, seconds_now, sync_directory, write_json};
use super::refusals::Refusals;
use crate::index::{Digest, EntryId, Index, RENDER_VERSION, Rendered};
use crate::tree::{PACKAGES, PackagesFile, Tree};
use crate::upstream::Validators;

/// Generations kept on disk: the one that is shown and the one before.
const KEPT: usize = 2;
const STATE: &str = "state.json";

/// What is known of the stored index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct IndexState {
    validators: Validators,
    /// Seconds since the epoch.
    confirmed: u64,
    /// The newest TIMESTAMP that was accepted, seconds since the epoch.
    timestamp: i64,
    /// The stored index when it was written.
    file: Stamp,
}

/// Size and modification time (ns) of a file: it is believed only as long as it has them.
type Stamp = (u64, i64);

/// What a generation was rendered from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct GenerationState {
    render_version: u32,
    binhost: String,
    /// The stored index.
    index: Stamp,
    /// Digest of the identities that were left out.
    #[serde(default)]
    hidden: String,
    /// What was rendered.
    file: Stamp,
    timestamp: i64,
    digest: String,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Generations {
    index: PathBuf,
    generations: PathBuf,
    binhost: String,
    state: IndexState,
    number: u64,
    refusals: Refusals,
    /// The whole index that is shown, and its file.
    shown: Option<(Arc<Index>, Stamp)>,
}

/// Whether an index may be older than the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// TIMESTAMP must not go back: an old index brings back packages with known holes.
    Forward,
    /// The administrator says that it is all right.
    Any,
}

impl Generations {
    /// `policy`: what packages are judged by now.
    pub(super) fn open(store: &Path, binhost: &str, policy: &str) -> anyhow::Result<Self> {
        let (index, generations) = (store.join("index").join(binhost), store.join("generations"));
        for directory in [&index, &generations] {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
            made.with_context(|| format!("creating {}", directory.display()))?;
        }
        let state = read_json(&index.join(STATE)).unwrap_or_default();
        let number = numbers(&generations).last().copied().unwrap_or_default();
        let refusals = Refusals::load(&index, policy);
        Ok(Self { index, generations, binhost: binhost.to_owned(), state, number, refusals, shown: None })
    }

    /// The tree of the last good index, and when it was confirmed. `None`: there is no usable one.
    pub(super) async fn last(&mut self) -> Option<(Arc<Tree>, u64)> {
        let confirmed = self.state.confirmed.max(1);
        let path = self.index.join(PACKAGES);
        let stored = blocking(move || match File::open(&path) {
            Ok(file) => Ok(Some((Index::parse(file.try_clone()?)?, file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        });
        match stored.await {
            Ok(Some((index, file))) => {
                if file.metadata().ok().is_none_or(|metadata| stamp(&metadata) != self.state.file) {
                    // It may have lost entries and still be an index: better than none until a binhost sends it whole.
                    tracing::warn!("the stored index is not as it was left; it will be fetched again");
                    self.state.validators = Validators::default();
                }
                let tree = self.show(index, &file).await;
                tree.inspect_err(|error| tracing::warn!(error = format!("{error:#}"), "showing the stored index"))
                    .ok()
                    .map(|tree| (tree, confirmed))
            }
            Ok(None) => {
                self.forget_index();
                None
            }
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the stored index cannot be used; it will be fetched again"
                );
                self.forget_index();
                None
            }
        }
    }

    /// The stored index is of no use; how old the next one may be is still known.
    fn forget_index(&mut self) {
        self.state = IndexState { timestamp: self.state.timestamp, ..IndexState::default() };
    }

    /// What to ask a binhost with.
    pub(super) fn validators(&self) -> &Validators {
        &self.state.validators
    }

    /// An empty file for an index to come.
    pub(super) fn incoming(&self) -> anyhow::Result<File> {
        let path = self.incoming_path();
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        file.with_context(|| format!("creating {}", path.display()))
    }

    /// No index came: what there is of one, up to half a GiB, does not stay on the disk.
    pub(super) fn discard(&self) {
        let path = self.incoming_path();
        if let Err(error) = fs::remove_file(&path) {
            tracing::debug!(path = %path.display(), %error, "removing what is no index");
        }
    }

    /// The binhost says that nothing changed.
    pub(super) async fn confirm(&mut self) {
        self.state.confirmed = seconds_now();
        self.write_state().await;
    }

    /// Takes the index in `file`, which [`Generations::incoming`] made, and makes a tree of it; `None`: it is the one that is
    /// shown, byte for byte, from a binhost that cannot say so. Nothing changes on an error.
    pub(super) async fn take(
        &mut self,
        file: File,
        validators: Validators,
        order: Order,
    ) -> anyhow::Result<Option<Arc<Tree>>> {
        if self.is_shown(&file).await {
            self.state.validators = validators;
            self.discard();
            self.confirm().await;
            return Ok(None);
        }
        let copy = file.try_clone()?;
        let index = blocking(move || Ok(Index::parse(copy)?)).await?;
        let timestamp = index.header().timestamp().unwrap_or_default();
        if order == Order::Forward && timestamp < self.state.timestamp {
            anyhow::bail!(
                "the index is older (TIMESTAMP {timestamp}) than the one accepted before ({}): refused, since it could bring \
                 back packages with known holes; `binhostfs refresh --accept-older` takes it all the same",
                self.state.timestamp
            );
        }
        let (from, to, directory) = (self.incoming_path(), self.index.join(PACKAGES), self.index.clone());
        let synced = file.try_clone()?;
        blocking(move || {
            synced.sync_all().context("writing the index to disk")?;
            fs::rename(&from, &to).with_context(|| format!("renaming the index to {}", to.display()))?;
            sync_directory(&directory)
        })
        .await?;
        self.state = IndexState { validators, confirmed: seconds_now(), timestamp, file: stamp(&file.metadata()?) };
        self.write_state().await;
        self.refusals.follow(&index);
        self.show(index, &file).await.map(Some)
    }

    /// Whether `file` has the bytes of the stored index, and that is what is shown.
    async fn is_shown(&self, file: &File) -> bool {
        let path = self.index.join(PACKAGES);
        let (Ok(new), Some((_, shown))) = (file.try_clone(), self.shown.clone()) else { return false };
        let compare = move || {
            let stored = File::open(path)?;
            Ok(stamp(&stored.metadata()?) == shown && same_bytes(&stored, &new)?)
        };
        blocking(compare).await.unwrap_or(false)
    }

    /// A tree without packages, for a binhost that was never reached.
    pub(super) async fn empty(&mut self) -> anyhow::Result<Arc<Tree>> {
        let nothing = self.index.join("nothing");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&nothing);
        let file = file.with_context(|| format!("creating {}", nothing.display()))?;
        self.show(Index::empty(), &file).await
    }

    /// Entries that are left out.
    pub(super) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Leaves an entry out. `None`: it is left out already, or the current index does not have it.
    pub(super) async fn refuse(
        &mut self,
        id: EntryId,
        path: &str,
        reason: &str,
        seen: Option<String>,
        policy: &str,
    ) -> Option<anyhow::Result<Arc<Tree>>> {
        let known = self.shown.as_ref().is_some_and(|(index, _)| index.contains(id));
        (known && self.refusals.add(id, path, reason, seen, policy)).then_some(())?;
        Some(self.show_again().await)
    }

    /// Shows entries again that `pardoned` names. `None`: none of them is left out.
    pub(super) async fn pardon(&mut self, pardoned: impl Fn(EntryId) -> bool) -> Option<anyhow::Result<Arc<Tree>>> {
        self.refusals.retain(|refusal| !refusal.id().is_none_or(&pardoned)).then_some(())?;
        Some(self.show_again().await)
    }

    async fn show_again(&mut self) -> anyhow::Result<Arc<Tree>> {
        let (index, source) = self.shown.clone().context("there is no index yet")?;
        self.render(index, source).await
    }

    async fn show(&mut self, index: Index, file: &File) -> anyhow::Result<Arc<Tree>> {
        log_dropped(&index);
        let (index, source) = (Arc::new(index), stamp(&file.metadata()?));
        self.shown = Some((Arc::clone(&index), source));
        // What could not be rendered is not shown, and has to be tried again.
        self.render(index, source).await.inspect_err(|_| self.shown = None)
    }

    /// Renders `index` without what is refused, unless the newest generation on disk was rendered from just that.
    async fn render(&mut self, index: Arc<Index>, source: Stamp) -> anyhow::Result<Arc<Tree>> {
        let (directory, number, binhost) = (self.generations.clone(), self.number, self.binhost.clone());
        let hidden = self.refusals.ids();
        let tree = blocking(move || {
            let index = if hidden.is_empty() { index } else { Arc::new(index.without(&hidden)) };
            let origin = Origin { binhost: &binhost, index: source, hidden: digest_of(&hidden) };
            let (number, packages) = match reusable(&directory.join(number.to_string()), &origin) {
                Some(packages) => (number, packages),
                None => (number + 1, render(&directory, number + 1, &origin, &index)?),
            };
            Ok(Arc::new(Tree::new(number, index, packages)))
        })
        .await;
        // An index that is stored but not shown has to come again: "not modified" would be the end of it.
        let tree = tree.inspect_err(|_| self.state.validators = Validators::default())?;
        self.number = tree.generation();
        self.remove_old();
        Ok(tree)
    }

    async fn write_state(&self) {
        let (path, state) = (self.index.join(STATE), self.state.clone());
        if let Err(error) = blocking(move || write_json(&path, &state)).await {
            tracing::warn!(
                error = format!("{error:#}"),
                "the state of the index is not written; it will be fetched whole at the next start"
            );
        }
    }

    fn remove_old(&self) {
        let numbers = numbers(&self.generations);
        for number in numbers.iter().rev().skip(KEPT) {
            let path = self.generations.join(number.to_string());
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::debug!(path = %path.display(), %error, "removing an old generation");
            }
        }
    }

    fn incoming_path(&self) -> PathBuf {
        self.index.join("Packages.new")
    }
}

fn log_dropped(index: &Index) {
    let dropped = index.dropped();
    if dropped.total() > 0 || dropped.stopped_at().is_some() {
        tracing::warn!(entries = dropped.total(), "entries of the index are left out: {dropped}");
    }
}

/// What a generation is rendered from.
struct Origin<'a> {
    binhost: &'a str,
    index: Stamp,
    hidden: String,
}

/// Empty for an empty set.
fn digest_of(hidden: &HashSet<EntryId>) -> String {
    let mut sorted: Vec<_> = hidden.iter().map(|id| id.0).collect();
    sorted.sort_unstable();
    let hash = Sha256::digest(sorted.concat());
    if sorted.is_empty() { String::new() } else { Digest::<32>(hash.into()).to_string() }
}

fn reusable(directory: &Path, origin: &Origin<'_>) -> Option<PackagesFile> {
    let state: GenerationState = read_json(&directory.join(STATE))?;
    let file = File::open(directory.join(PACKAGES)).ok()?;
    let from = (state.binhost.as_str(), state.index, state.hidden.as_str());
    let same = state.render_version == RENDER_VERSION && from == (origin.binhost, origin.index, origin.hidden.as_str());
    let digest = state.digest.parse().ok()?;
    let whole = stamp(&file.metadata().ok()?) == state.file;
    if same && !whole {
        tracing::warn!(generation = %directory.display(), "what Portage reads is not as it was left; it is rendered again");
    }
    let rendered = Rendered { size: state.file.0, timestamp: state.timestamp, digest };
    (same && whole).then(|| PackagesFile { file: Arc::new(file), rendered })
}

fn render(generations: &Path, number: u64, origin: &Origin<'_>, index: &Index) -> anyhow::Result<PackagesFile> {
    let directory = generations.join(number.to_string());
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
    made.with_context(|| format!("creating {}", directory.display()))?;
    let path = directory.join(PACKAGES);
    let writing = || format!("writing {}", path.display());
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).with_context(writing)?;
    let rendered = index.render(&file, seconds_now().cast_signed()).with_context(writing)?;
    file.sync_all().with_context(writing)?;
    let state = GenerationState {
        render_version: RENDER_VERSION,
        binhost: origin.binhost.to_owned(),
        index: origin.index,
        hidden: origin.hidden.clone(),
        file: stamp(&file.metadata().with_context(writing)?),
        timestamp: rendered.timestamp,
        digest: rendered.digest.to_string(),
    };
    write_json(&directory.join(STATE), &state)?;
    sync_directory(generations)?;
    // Open for reading only: this descriptor is what the kernel reads from.
    Ok(PackagesFile { file: Arc::new(File::open(&path).with_context(writing)?), rendered })
}

/// Compares two files from front to back, wherever their cursors are.
fn same_bytes(one: &File, other: &File) -> io::Result<bool> {
    let size = one.metadata()?.len();
    let mut same = size == other.metadata()?.len();
    let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut position = 0;
    while same && position < size {
        let count = usize::try_from(size - position).unwrap_or(usize::MAX).min(left.len());
        let (Some(left), Some(right)) = (left.get_mut(..count), right.get_mut(..count)) else { break };
        one.read_exact_at(left, position)?;
        other.read_exact_at(right, position)?;
        same = left == right;
        position += count as u64;
    }
    Ok(same)
}

fn stamp(metadata: &fs::Metadata) -> Stamp {
    let mtime = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
    (metadata.len(), mtime)
}

fn numbers(directory: &Path) -> Vec<u64> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut numbers: Vec<u64> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("a task was broken off")?
}
