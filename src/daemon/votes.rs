//! A quorum of mirrors: an entry is shown only if so many URLs of the binhost have it with the same digests.
//!
//! One of them alone, taken over or led astray, can then neither bring an entry in nor keep an old one alive. What each of
//! the other URLs has is kept as the sorted identities of its entries (16 bytes each) in `votes/<number>.ids`, with what to
//! ask it by the next time in `votes/<number>.json`. One that does not answer keeps its last vote.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::files::{blocking, read_json, write_file, write_json};
use crate::index::{EntryId, Index};
use crate::upstream::{IndexAnswer, Upstream, Validators};

/// What is known of one vote.
#[derive(Debug, Default, Serialize, Deserialize)]
struct VoteState {
    /// The URL of the binhost, without credentials.
    url: String,
    validators: Validators,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Votes {
    directory: PathBuf,
    /// URLs that must have an entry, the one that the index came from among them.
    quorum: usize,
    disputed: HashSet<EntryId>,
}

impl Votes {
    pub(super) fn open(source: &Path, quorum: NonZeroUsize) -> anyhow::Result<Self> {
        let directory = source.join("votes");
        if quorum.get() > 1 {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
            made.with_context(|| format!("creating {}", directory.display()))?;
        }
        Ok(Self { directory, quorum: quorum.get(), disputed: HashSet::new() })
    }

    /// Entries of the index that too few have.
    pub(super) fn disputed(&self) -> &HashSet<EntryId> {
        &self.disputed
    }

    /// Asks every URL but `chosen`, where the index came from, what it has.
    pub(super) async fn ask(&self, upstream: &Upstream, chosen: &str) {
        if self.quorum <= 1 {
            return;
        }
        for (source, url) in upstream.binhost().urls.iter().map(ToString::to_string).enumerate() {
            if url != chosen
                && let Err(error) = self.ask_one(upstream, source, &url).await
            {
                tracing::warn!(url, "no vote of this mirror, its last one counts: {error:#}");
            }
        }
    }

    async fn ask_one(&self, upstream: &Upstream, source: usize, url: &str) -> anyhow::Result<()> {
        let path = self.path(source, "new");
        let options = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let file = options.with_context(|| format!("creating {}", path.display()))?;
        // What arrives is read by descriptor, and does not stay.
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        let known = self.state(source, url).map(|state| state.validators).unwrap_or_default();
        let answer = upstream.index_source(source).next(&known, &file).await.context("it has rested too long")??;
        let IndexAnswer::Fresh(validators) = answer else { return Ok(()) };
        let (ids, json) = (self.path(source, "ids"), self.path(source, "json"));
        let state = VoteState { url: url.to_owned(), validators };
        blocking(move || {
            let index = Index::parse(file)?;
            let mut has: Vec<[u8; 16]> = index.records().iter().map(|record| record.id.0).collect();
            has.sort_unstable();
            // Between the two, what was there is no vote of anybody.
            write_json(&json, &VoteState::default())?;
            write_file(&ids, &has.concat())?;
            write_json(&json, &state)
        })
        .await
    }

    /// Counts the votes that are here for the entries of `index`, which came from `chosen`. `true`: other entries are disputed
    /// than before.
    pub(super) fn count(&mut self, upstream: &Upstream, chosen: &str, index: &Index) -> bool {
        if self.quorum <= 1 {
            return false;
        }
        let mut counts: HashMap<EntryId, usize> = index.records().iter().map(|record| (record.id, 1)).collect();
        for (source, url) in upstream.binhost().urls.iter().map(ToString::to_string).enumerate() {
            if url != chosen && self.state(source, &url).is_some() {
                let ids = fs::read(self.path(source, "ids")).unwrap_or_default();
                let ids: HashSet<EntryId> = ids.as_chunks().0.iter().map(|id| EntryId(*id)).collect();
                for id in ids {
                    counts.entry(id).and_modify(|count| *count += 1);
                }
            }
        }
        let disputed = counts.into_iter().filter(|(_, count)| *count < self.quorum).map(|(id, _)| id).collect();
        let changed = disputed != self.disputed;
        self.disputed = disputed;
        if changed && !self.disputed.is_empty() {
            let (entries, quorum) = (self.disputed.len(), self.quorum);
            tracing::warn!(
                entries,
                quorum,
                "left out: not enough of the binhost's URLs have them with the same digests"
            );
        }
        changed
    }

    fn state(&self, source: usize, url: &str) -> Option<VoteState> {
        read_json(&self.path(source, "json")).filter(|state: &VoteState| state.url == url)
    }

    fn path(&self, source: usize, extension: &str) -> PathBuf {
        self.directory.join(format!("{source}.{extension}"))
    }
}
