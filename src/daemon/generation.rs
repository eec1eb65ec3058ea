//! What Portage reads, on disk.
//!
//! ```text
//! generations/<n>/Packages      the rendered index
//! generations/<n>/state.json    what it was rendered from
//! ```
//! Written beside its name, made durable and renamed. One that is damaged, or has another size or modification time than it
//! was left with, is rendered again.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::files::{blocking, read_json, seconds_now, sync_directory, write_json};
use super::source::{Stamp, stamp};
use crate::index::{RENDER_VERSION, Rendered, View};
use crate::tree::{PACKAGES, PackagesFile, Tree};

/// Generations kept on disk: the one that is shown and the one before.
const KEPT: usize = 2;
const STATE: &str = "state.json";

/// What a generation was rendered from: the same recipe gives the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recipe {
    render_version: u32,
    /// Directory and stored index of each binhost, the most preferred first.
    indexes: Vec<(String, Stamp)>,
    /// What is shown of them.
    view: String,
}

impl Recipe {
    pub(super) fn new(indexes: Vec<(String, Stamp)>, view: &View) -> Self {
        Self { render_version: RENDER_VERSION, indexes, view: view.fingerprint().to_string() }
    }
}

/// What there is of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct GenerationState {
    recipe: Recipe,
    /// What was rendered.
    file: Stamp,
    timestamp: i64,
    digest: String,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Generations {
    directory: PathBuf,
    number: u64,
}

impl Generations {
    pub(super) fn open(store: &Path) -> anyhow::Result<Self> {
        let directory = store.join("generations");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.with_context(|| format!("creating {}", directory.display()))?;
        let number = numbers(&directory).last().copied().unwrap_or_default();
        Ok(Self { directory, number })
    }

    /// A tree of `view`, rendered unless the newest generation on disk was rendered from just that.
    pub(super) async fn tree(&mut self, view: View, recipe: Recipe) -> anyhow::Result<Arc<Tree>> {
        let (directory, number) = (self.directory.clone(), self.number);
        let tree = blocking(move || {
            let (number, packages) = match reusable(&directory.join(number.to_string()), &recipe) {
                Some(packages) => (number, packages),
                None => (number + 1, render(&directory, number + 1, recipe, &view)?),
            };
            Ok(Arc::new(Tree::new(number, Arc::new(view), packages)))
        })
        .await?;
        self.number = tree.generation();
        self.remove_old();
        Ok(tree)
    }

    fn remove_old(&self) {
        let numbers = numbers(&self.directory);
        for number in numbers.iter().rev().skip(KEPT) {
            let path = self.directory.join(number.to_string());
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::debug!(path = %path.display(), %error, "removing an old generation");
            }
        }
    }
}

fn reusable(directory: &Path, recipe: &Recipe) -> Option<PackagesFile> {
    let state: GenerationState = read_json(&directory.join(STATE))?;
    let file = File::open(directory.join(PACKAGES)).ok()?;
    let digest = state.digest.parse().ok()?;
    let (same, whole) = (state.recipe == *recipe, stamp(&file.metadata().ok()?) == state.file);
    if same && !whole {
        tracing::warn!(generation = %directory.display(), "what Portage reads is not as it was left; it is rendered again");
    }
    let rendered = Rendered { size: state.file.0, timestamp: state.timestamp, digest };
    (same && whole).then(|| PackagesFile { file: Arc::new(file), rendered })
}

fn render(generations: &Path, number: u64, recipe: Recipe, view: &View) -> anyhow::Result<PackagesFile> {
    let directory = generations.join(number.to_string());
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
    made.with_context(|| format!("creating {}", directory.display()))?;
    let path = directory.join(PACKAGES);
    let writing = || format!("writing {}", path.display());
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).with_context(writing)?;
    let rendered = view.render(&file, seconds_now().cast_signed()).with_context(writing)?;
    file.sync_all().with_context(writing)?;
    let state = GenerationState {
        recipe,
        file: stamp(&file.metadata().with_context(writing)?),
        timestamp: rendered.timestamp,
        digest: rendered.digest.to_string(),
    };
    write_json(&directory.join(STATE), &state)?;
    sync_directory(generations)?;
    // Open for reading only: this descriptor is what the kernel reads from.
    Ok(PackagesFile { file: Arc::new(File::open(&path).with_context(writing)?), rendered })
}

fn numbers(directory: &Path) -> Vec<u64> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut numbers: Vec<u64> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}
