//! Indexes and generations on disk.
//!
//! ```text
//! index/<binhost>/Packages      the last good index, decompressed
//! index/<binhost>/state.json    its validators, and when a binhost last confirmed it
//! generations/<n>/Packages      what Portage reads
//! generations/<n>/state.json    what it was rendered from
//! ```
//! Everything is written beside its name, made durable and renamed. What is damaged, or has another size or modification
//! time than it was left with, is not relied on: the index is fetched again whole, the generation rendered again.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::index::{Index, RENDER_VERSION, Rendered};
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
}

impl Generations {
    pub(super) fn open(store: &Path, binhost: &str) -> anyhow::Result<Self> {
        let (index, generations) = (store.join("index").join(binhost), store.join("generations"));
        for directory in [&index, &generations] {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
            made.with_context(|| format!("creating {}", directory.display()))?;
        }
        let state = read_json(&index.join(STATE)).unwrap_or_default();
        let number = numbers(&generations).last().copied().unwrap_or_default();
        Ok(Self { index, generations, binhost: binhost.to_owned(), state, number })
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
                self.state = IndexState::default();
                None
            }
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the stored index cannot be used; it will be fetched again"
                );
                self.state = IndexState::default();
                None
            }
        }
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

    /// The binhost says that nothing changed.
    pub(super) async fn confirm(&mut self) {
        self.state.confirmed = seconds_now();
        self.write_state().await;
    }

    /// Takes the index in `file`, which [`Generations::incoming`] made, and makes a tree of it. Nothing changes on an error.
    pub(super) async fn take(&mut self, file: File, validators: Validators) -> anyhow::Result<Arc<Tree>> {
        let copy = file.try_clone()?;
        let index = blocking(move || Ok(Index::parse(copy)?)).await?;
        let (from, to, directory) = (self.incoming_path(), self.index.join(PACKAGES), self.index.clone());
        let synced = file.try_clone()?;
        blocking(move || {
            synced.sync_all().context("writing the index to disk")?;
            fs::rename(&from, &to).with_context(|| format!("renaming the index to {}", to.display()))?;
            sync_directory(&directory)
        })
        .await?;
        self.state = IndexState { validators, confirmed: seconds_now(), file: stamp(&file.metadata()?) };
        self.write_state().await;
        let shown = self.show(index, &file).await;
        if shown.is_err() {
            // It is stored and not shown: that it has not changed would be no answer to the next question.
            self.state.validators = Validators::default();
        }
        shown
    }

    /// A tree without packages, for a binhost that was never reached.
    pub(super) async fn empty(&mut self) -> anyhow::Result<Arc<Tree>> {
        let nothing = self.index.join("nothing");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&nothing);
        let file = file.with_context(|| format!("creating {}", nothing.display()))?;
        self.show(Index::empty(), &file).await
    }

    /// Renders `index` unless the newest generation on disk was rendered from it.
    async fn show(&mut self, index: Index, file: &File) -> anyhow::Result<Arc<Tree>> {
        let source = stamp(&file.metadata()?);
        let (directory, number, binhost) = (self.generations.clone(), self.number, self.binhost.clone());
        let tree = blocking(move || {
            log_dropped(&index);
            let (number, packages) = match reusable(&directory.join(number.to_string()), &binhost, source) {
                Some(packages) => (number, packages),
                None => (number + 1, render(&directory, number + 1, &binhost, source, &index)?),
            };
            Ok(Arc::new(Tree::new(number, Arc::new(index), packages)))
        })
        .await?;
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

fn reusable(directory: &Path, binhost: &str, index: Stamp) -> Option<PackagesFile> {
    let state: GenerationState = read_json(&directory.join(STATE))?;
    let file = File::open(directory.join(PACKAGES)).ok()?;
    let same = state.render_version == RENDER_VERSION && state.binhost == binhost && state.index == index;
    let digest = state.digest.parse().ok()?;
    let whole = stamp(&file.metadata().ok()?) == state.file;
    if same && !whole {
        tracing::warn!(generation = %directory.display(), "what Portage reads is not as it was left; it is rendered again");
    }
    let rendered = Rendered { size: state.file.0, timestamp: state.timestamp, digest };
    (same && whole).then(|| PackagesFile { file: Arc::new(file), rendered })
}

fn render(
    generations: &Path,
    number: u64,
    binhost: &str,
    source: Stamp,
    index: &Index,
) -> anyhow::Result<PackagesFile> {
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
        binhost: binhost.to_owned(),
        index: source,
        file: stamp(&file.metadata().with_context(writing)?),
        timestamp: rendered.timestamp,
        digest: rendered.digest.to_string(),
    };
    write_json(&directory.join(STATE), &state)?;
    sync_directory(generations)?;
    // Open for reading only: this descriptor is what the kernel reads from.
    Ok(PackagesFile { file: Arc::new(File::open(&path).with_context(writing)?), rendered })
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

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let text = fs::read(path).ok()?;
    let value = serde_json::from_slice(&text);
    value.inspect_err(|error| tracing::warn!(path = %path.display(), %error, "damaged; doing without")).ok()
}

fn write_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let writing = || format!("writing {}", path.display());
    let new = path.with_extension("new");
    let mut file = File::create(&new).with_context(writing)?;
    file.write_all(&serde_json::to_vec(value)?).with_context(writing)?;
    file.sync_all().with_context(writing)?;
    fs::rename(&new, path).with_context(writing)?;
    path.parent().map_or(Ok(()), sync_directory)
}

fn sync_directory(path: &Path) -> anyhow::Result<()> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.with_context(|| format!("writing {} to disk", path.display()))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("a task was broken off")?
}

/// Seconds since the epoch.
pub(super) fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| span.as_secs())
}
