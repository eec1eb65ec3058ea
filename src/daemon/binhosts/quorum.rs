//! A quorum of mirrors: an entry is shown only if enough URLs of the binhost list it alike.
//!
//! A single mirror that is compromised or misled can then neither add an entry, nor change one, nor
//! keep an old one.
//!
//! The vote of each other URL is stored as the sorted digests of its entries ([`EntryDigest`], 16
//! bytes each) in `votes/<digest of the URL>.digests`. A `.json` file beside it has the validators
//! for the next request. A URL that does not answer keeps its last vote. If the index comes from
//! another URL than before, the previous URL's index becomes its vote. A damaged vote does not
//! count, and is fetched again whole.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::freshness;
use crate::config::BinhostConfig;
use crate::index::{EntryDigest, EntryId, Index, IndexLimits};
use crate::sys::Clock;
use crate::sys::durable::{blocking, read_json, write_file};
use crate::sys::file_stamp::{FileStamp, stamp};
use crate::upstream::{IndexAnswer, IndexTarget, Upstream, Validators};

/// File name extensions of a stored vote.
const DIGESTS: &str = "digests";
const STATE: &str = "json";

/// Facts about one stored vote.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct VoteState {
    /// URL of the binhost, without credentials.
    url: String,
    validators: Validators,
    /// Size and modification time of the digests when they were written.
    file: FileStamp,
}

/// The votes of a binhost's URLs.
#[derive(Debug)]
pub(crate) struct Votes {
    directory: PathBuf,
    /// Number of URLs that must list an entry, including the one that the index came from.
    quorum: usize,
    disputed: Arc<HashSet<EntryId>>,
    /// URLs that did not answer, with the error that was logged.
    silent: HashMap<String, String>,
}

impl Votes {
    /// Opens the votes of the URLs of `binhost`, stored below `source`. Removes the votes of other
    /// URLs.
    pub(crate) fn open(source: &Path, binhost: &BinhostConfig) -> anyhow::Result<Self> {
        let (directory, quorum) = (source.join("votes"), binhost.quorum.get());
        let votes = Self { directory, quorum, disputed: Arc::default(), silent: HashMap::new() };
        if quorum > 1 {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&votes.directory);
            made.with_context(|| format!("creating {}", votes.directory.display()))?;
            let files = |url: String| [DIGESTS, STATE].map(|extension| votes.path(&url, extension));
            let stays: HashSet<PathBuf> = binhost.urls.iter().flat_map(|url| files(url.to_string())).collect();
            let all = fs::read_dir(&votes.directory).into_iter().flatten().flatten().map(|entry| entry.path());
            for path in all.filter(|path| !stays.contains(path)) {
                // A file that cannot be removed only takes up space.
                let _ = fs::remove_file(path);
            }
        }
        Ok(votes)
    }

    /// Entries of the index that fewer URLs than the quorum list.
    pub(crate) fn disputed(&self) -> &Arc<HashSet<EntryId>> {
        &self.disputed
    }

    /// Fetches the vote of every URL but `chosen`, which the index came from.
    pub(crate) async fn collect(&mut self, upstream: &Upstream, chosen: &str) {
        if self.quorum <= 1 {
            return;
        }
        for (source, url) in upstream.binhost().urls.iter().map(ToString::to_string).enumerate() {
            if url == chosen {
                continue;
            }
            match self.collect_one(upstream, source, &url).await {
                Ok(()) => drop(self.silent.remove(&url)),
                Err(error) => {
                    let error = format!("{error:#}");
                    // A failure that repeats is logged once.
                    if self.silent.get(&url) != Some(&error) {
                        tracing::warn!(url, "this mirror sent no index; its last vote counts: {error}");
                        self.silent.insert(url, error);
                    }
                }
            }
        }
    }

    /// Stores `index` as the vote of `url`.
    pub(crate) async fn keep(&self, url: &str, validators: Validators, index: Arc<Index>) {
        if self.quorum <= 1 || url.is_empty() {
            return;
        }
        let vote = self.vote(url, validators);
        if let Err(error) = blocking(move || vote.write(&index)).await {
            tracing::warn!(url, "the vote of this mirror cannot be saved: {error:#}");
        }
    }

    async fn collect_one(&self, upstream: &Upstream, source: usize, url: &str) -> anyhow::Result<()> {
        let path = self.path(url, "new");
        let options = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let file = options.with_context(|| format!("creating {}", path.display()))?;
        // The file is read through its descriptor only, and vanishes when that is closed.
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        let known = self.state(url).map(|state| state.validators).unwrap_or_default();
        let answer = upstream
            .index_source(source)
            .next(&known, IndexTarget { file: &file, most: u64::MAX })
            .await
            .context("it has rested too long")??;
        let IndexAnswer::Fresh(validators) = answer else { return Ok(()) };
        let limits = IndexLimits::of_size(upstream.binhost().max_index.0);
        let index = blocking(move || Ok(Index::parse_within(file, limits)?)).await?;
        let clock = Clock::now();
        if let Err(unfit) = freshness::not_ahead(freshness::judged_timestamp(&index, clock), clock) {
            upstream.note_wrong_index(&validators, &unfit.to_string());
            return Err(unfit.into());
        }
        let vote = self.vote(url, validators);
        blocking(move || vote.write(&index)).await
    }

    /// Counts the stored votes for the entries of `index`, which came from `chosen`. `true`: the
    /// disputed entries have changed.
    pub(crate) async fn count(&mut self, upstream: &Upstream, chosen: &str, index: Arc<Index>) -> bool {
        if self.quorum <= 1 {
            return false;
        }
        let urls: Vec<String> = upstream.binhost().urls.iter().map(ToString::to_string).collect();
        // The index may come from a URL that the binhost no longer has.
        let own = usize::from(urls.iter().any(|url| url == chosen));
        let others = urls.iter().filter(|url| *url != chosen && self.state(url).is_some());
        let votes: Vec<PathBuf> = others.map(|url| self.path(url, DIGESTS)).collect();
        let (quorum, all) = (self.quorum, Arc::clone(&index));
        let disputed = blocking(move || disputed(&index, own, &votes, quorum)).await.unwrap_or_else(|error| {
            tracing::warn!("the votes of the mirrors cannot be counted: {error:#}");
            all.records().iter().map(|record| record.id).collect()
        });
        let changed = disputed != *self.disputed;
        self.disputed = Arc::new(disputed);
        if changed && !self.disputed.is_empty() {
            let (entries, quorum) = (self.disputed.len(), self.quorum);
            tracing::warn!(
                entries,
                quorum,
                "entries are hidden: fewer of the binhost's URLs agree on them than quorum asks for"
            );
        }
        changed
    }

    /// Facts about the stored vote of a URL, unless its file has changed since it was written.
    fn state(&self, url: &str) -> Option<VoteState> {
        let state = read_json(&self.path(url, STATE)).filter(|state: &VoteState| state.url == url)?;
        let file = fs::metadata(self.path(url, DIGESTS)).ok()?;
        (stamp(&file) == state.file).then_some(state)
    }

    fn vote(&self, url: &str, validators: Validators) -> Vote {
        let (digests, json) = (self.path(url, DIGESTS), self.path(url, STATE));
        Vote { digests, json, url: url.to_owned(), validators }
    }

    fn path(&self, url: &str, extension: &str) -> PathBuf {
        let name: String = Sha256::digest(url).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        self.directory.join(name).with_extension(extension)
    }
}

/// A vote that is about to be written.
struct Vote {
    digests: PathBuf,
    json: PathBuf,
    url: String,
    validators: Validators,
}

impl Vote {
    /// Writes only the files whose content changes.
    fn write(self, index: &Index) -> anyhow::Result<()> {
        let Self { digests, json, url, validators } = self;
        let mut has = index.digests()?;
        has.sort_unstable();
        let has: Vec<u8> = has.into_iter().flat_map(|digest| digest.0).collect();
        if !fs::read(&digests).is_ok_and(|before| before == has) {
            // Digests that do not match the stamp in `json` are no vote. A crash between the two
            // writes only costs one more request.
            write_file(&digests, &has)?;
        }
        let file = stamp(&fs::metadata(&digests).with_context(|| format!("reading {}", digests.display()))?);
        let state = VoteState { url, validators, file };
        let text = serde_json::to_vec(&state)?;
        if !fs::read(&json).is_ok_and(|before| before == text) {
            write_file(&json, &text)?;
        }
        Ok(())
    }
}

/// Entries of `index` that fewer than `quorum` URLs list; `index` itself counts as `own` votes. If
/// an index lists one package twice, the URLs must agree on both entries.
fn disputed(index: &Index, own: usize, votes: &[PathBuf], quorum: usize) -> anyhow::Result<HashSet<EntryId>> {
    let digests = index.digests()?;
    let mut counts: HashMap<EntryDigest, usize> = digests.iter().map(|digest| (*digest, own)).collect();
    for vote in votes {
        let bytes = fs::read(vote).unwrap_or_default();
        let has: HashSet<EntryDigest> = bytes.as_chunks().0.iter().map(|digest| EntryDigest(*digest)).collect();
        for digest in has {
            counts.entry(digest).and_modify(|count| *count += 1);
        }
    }
    let too_few = |digest: &EntryDigest| counts.get(digest).is_none_or(|count| *count < quorum);
    let disputed = index.records().iter().zip(&digests).filter(|(_, digest)| too_few(digest));
    Ok(disputed.map(|(record, _)| record.id).collect())
}
