//! One binhost: its stored index, what is left out of it, and how it is asked.
//!
//! ```text
//! index/<binhost>/Packages      the last good index, decompressed
//! index/<binhost>/state.json    its validators, and when a binhost last confirmed it
//! index/<binhost>/refused.json  entries that are left out, and why (`refusals`)
//! index/<binhost>/votes/        what its other URLs have, where they have to agree (`quorum`)
//! ```
//! Everything is written beside its name, made durable and renamed. What is damaged, or has another size or modification
//! time than it was left with, is not relied on: the index is fetched again whole.

mod mismatches;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::freshness::{self, IndexRejection, Order};
use super::last_refresh::{LastRefresh, When};
use super::quorum::Votes;
use super::refusals::{Refusal, Refusals};
use crate::config::{BinhostConfig, Offline};
use crate::daemon::generations::RecipeIndex;
use crate::daemon::shown;
use crate::daemon::tasks::clock::Clock;
use crate::fetch::{DownloadOutcome, OutcomeKind, RemoteBinhost};
use crate::index::{BinhostId, BinhostIndex, EntryId, Index};
use crate::sys::durable::{blocking, read_json, sync_directory, write_json};
use crate::sys::{Moment, offset, seconds_now};
use crate::tree::PACKAGES;
use crate::upstream::{IndexAnswer, Upstream, UpstreamError, Validators};
use mismatches::Mismatches;

/// Refused packages that are looked at after a refresh.
const MAX_PROBES: usize = 64;
/// How much older than it is a confirmation may be on disk: a refresh that brings nothing writes nothing.
const CONFIRMED_MEMORY: u64 = 6 * 3600;
/// How long a binhost may take to deliver its index, or its mirrors their votes: the others have to wait for it.
const REFRESH_BUDGET: Duration = Duration::from_secs(15 * 60);
const STATE: &str = "state.json";
/// An index on its way.
const INCOMING: &str = "Packages.new";

/// What is known of the stored index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct IndexState {
    validators: Validators,
    /// Seconds since the epoch.
    confirmed: u64,
    /// The newest TIMESTAMP that was accepted by a clock that was set, seconds since the epoch: see `freshness`.
    timestamp: i64,
    /// What it was before the first of the indexes in a row that came from `from`.
    before: i64,
    /// Too many entries of the index are wrong.
    distrusted: bool,
    /// Since when the binhost has had only indexes that are older, seconds since the epoch; 0: that is not so.
    older_since: u64,
    /// The URL of the binhost that it came from, without credentials.
    from: String,
    /// The stored index when it was written.
    file: FileStamp,
}

/// Size and modification time (ns) of a file: it is believed only as long as it has them.
pub(crate) type FileStamp = (u64, i64);

/// What a refresh brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefreshOutcome {
    /// Something else is to be shown.
    Changed,
    /// Everything is as it was.
    Unmodified,
}

/// The index that is in use.
#[derive(Debug, Clone)]
pub(crate) struct Current {
    pub(crate) index: Arc<Index>,
    pub(crate) stamp: FileStamp,
}

/// An index of an earlier generation.
#[derive(Debug)]
pub(crate) struct Earlier {
    pub(crate) index: Arc<Index>,
    pub(crate) stamp: FileStamp,
    /// Entries on which the mirrors did not agree then.
    pub(crate) disputed: HashSet<EntryId>,
}

/// What is shown of a binhost.
#[derive(Debug, Clone)]
pub(crate) enum IndexChoice {
    /// The index that is in use.
    Latest,
    /// That of an earlier generation; `None`: that did not know the binhost.
    Earlier(Option<Arc<Earlier>>),
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Binhost {
    pub(crate) config: BinhostConfig,
    pub(crate) id: BinhostId,
    pub(crate) origin: Arc<RemoteBinhost>,
    directory: PathBuf,
    state: IndexState,
    /// As it was written last.
    written: IndexState,
    refusals: Refusals,
    mismatches: Mismatches,
    votes: Votes,
    current: Option<Current>,
    face: IndexChoice,
    /// Attempts to fetch the index that were broken off.
    broken_off: u64,
    refresh: LastRefresh,
    /// No URL answered the last time.
    unreachable: bool,
    /// TIMESTAMP of the index that was said to be old.
    noted_age: i64,
}

impl Binhost {
    /// Opens what is stored of a binhost below `store`.
    pub(crate) fn open(
        store: &Path,
        config: BinhostConfig,
        id: BinhostId,
        origin: Arc<RemoteBinhost>,
    ) -> anyhow::Result<Self> {
        let directory = store.join("index").join(&config.directory);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.with_context(|| format!("creating {}", directory.display()))?;
        let state: IndexState = read_json(&directory.join(STATE)).unwrap_or_default();
        let written = state.clone();
        let refusals = Refusals::load(&directory, &judged_under(&origin));
        let votes = Votes::open(&directory, &config)?;
        let refresh = LastRefresh::default();
        let (current, face, broken_off, unreachable, noted_age) = (None, IndexChoice::Latest, 0, false, 0);
        remove_broken_off(&directory);
        Ok(Self {
            config,
            id,
            origin,
            directory,
            state,
            written,
            refusals,
            mismatches: Mismatches::default(),
            votes,
            current,
            face,
            broken_off,
            refresh,
            unreachable,
            noted_age,
        })
    }

    /// Stands in for `before`, which is the same binhost with other settings: it has not come nearer. What is frozen is not
    /// asked, and would never be found to be back.
    pub(crate) fn inherit_reachability(&mut self, before: &Self) {
        self.unreachable = before.unreachable && !self.config.frozen;
    }

    /// Takes the stored index, if there is a usable one.
    pub(crate) async fn load(&mut self) {
        let path = self.directory.join(PACKAGES);
        let stored = blocking(move || match File::open(&path) {
            Ok(file) => Ok(Some((Index::parse(file.try_clone()?)?, stamp(&file.metadata()?)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        });
        match stored.await {
            Ok(Some((index, stamp))) => {
                if stamp != self.state.file {
                    // It may have lost entries and still be an index: better than none until a binhost sends it whole.
                    tracing::warn!(
                        binhost = self.config.name,
                        "the stored index is not as it was left; it will be fetched again"
                    );
                    self.state.validators = Validators::default();
                }
                let confirmed = Some(When::Stored(self.state.confirmed.max(1)));
                let older_since = self.older_since();
                self.refresh = LastRefresh { confirmed, attempted: confirmed, error: None, older_since };
                self.origin.note_confirmed(self.state.confirmed);
                self.take_up(index, stamp);
                self.count_votes().await;
            }
            Ok(None) => self.forget_index(),
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    binhost = self.config.name,
                    "the stored index cannot be used; it will be fetched again"
                );
                self.forget_index();
            }
        }
    }

    /// The stored index is of no use; how old the next one may be is still known.
    fn forget_index(&mut self) {
        self.state = IndexState { timestamp: self.state.timestamp, ..IndexState::default() };
    }

    fn take_up(&mut self, index: Index, stamp: FileStamp) {
        log_dropped(&self.config.name, &index);
        let earlier = self.earlier().cloned();
        self.refusals.follow(|id| index.contains(id) || earlier.as_ref().is_some_and(|e| e.index.contains(id)));
        self.current = Some(Current { index: Arc::new(index), stamp });
    }

    /// Its index, if there is one.
    pub(crate) fn current(&self) -> Option<&Current> {
        self.current.as_ref()
    }

    /// Shows something else of it from now on.
    pub(crate) fn set_face(&mut self, face: IndexChoice) {
        self.face = face;
    }

    fn earlier(&self) -> Option<&Arc<Earlier>> {
        match &self.face {
            IndexChoice::Latest => None,
            IndexChoice::Earlier(earlier) => earlier.as_ref(),
        }
    }

    /// The index that is shown, if there is one.
    pub(crate) fn published_index(&self) -> Option<Current> {
        match &self.face {
            IndexChoice::Latest => self.current.clone(),
            IndexChoice::Earlier(earlier) => {
                let Earlier { index, stamp, .. } = &**earlier.as_ref()?;
                Some(Current { index: Arc::clone(index), stamp: *stamp })
            }
        }
    }

    /// The index that is not shown because that of an earlier generation is; with the name of the binhost.
    pub(crate) fn newer(&self) -> Option<(String, Arc<Index>)> {
        let IndexChoice::Earlier(_) = self.face else { return None };
        Some((self.config.name.clone(), Arc::clone(&self.current.as_ref()?.index)))
    }

    pub(crate) fn part(&self) -> Option<BinhostIndex> {
        Some(BinhostIndex { origin: self.id, index: self.published_index()?.index })
    }

    /// What is shown of it is made of this.
    pub(crate) fn ingredient(&self) -> Option<RecipeIndex> {
        let (directory, text) = (self.config.directory.clone(), self.directory.join(PACKAGES));
        let (stamp, disputed) = (self.current.as_ref()?.stamp, self.votes.disputed().clone());
        Some(RecipeIndex { directory, text, stamp, disputed })
    }

    /// Whether no URL of it answered lately.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.unreachable
    }

    /// Whether only what is here may be shown of it.
    pub(crate) fn hides(&self) -> bool {
        self.unreachable && self.config.offline == Offline::Hide
    }

    /// Why no package of it can be had, whatever is asked.
    pub(crate) fn nowhere(&self) -> Option<String> {
        let index = self.published_index()?.index;
        self.origin.upstream.nowhere(index.header().uri())
    }

    /// Whether only the administrator asks for another index than the one that is stored.
    pub(crate) fn is_frozen(&self) -> bool {
        self.config.frozen && self.current.is_some()
    }

    pub(crate) fn last_refresh(&self) -> &LastRefresh {
        &self.refresh
    }

    pub(crate) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Entries on which its mirrors do not agree.
    pub(crate) fn disputed(&self) -> usize {
        self.votes.disputed().len()
    }

    /// How old the index that is shown may be before that is worth a note.
    pub(crate) fn max_index_age(&self) -> Option<Duration> {
        self.config.max_index_age.filter(|_| matches!(self.face, IndexChoice::Latest) && !self.config.frozen)
    }

    /// What must not be shown: refused, or disputed.
    pub(crate) fn hidden(&self) -> HashSet<EntryId> {
        let mut hidden = self.refusals.ids();
        hidden.extend(self.earlier().map_or(self.votes.disputed(), |earlier| &earlier.disputed));
        hidden
    }

    /// Asks the binhost for its index.
    pub(crate) async fn refresh(&mut self, order: Order) -> anyhow::Result<RefreshOutcome> {
        let was_unreachable = self.unreachable;
        let outcome = tokio::time::timeout(REFRESH_BUDGET, self.fetch_index(order)).await.unwrap_or_else(|_| {
            self.break_off();
            Err(anyhow::anyhow!("no index after {}: the line or the binhost is too slow", shown(REFRESH_BUDGET)))
        });
        let now = Some(When::Now(Moment::now()));
        (self.refresh.attempted, self.refresh.older_since) = (now, self.older_since());
        match outcome {
            Ok(news) => {
                (self.unreachable, self.refresh.confirmed, self.refresh.error) = (false, now, None);
                self.origin.note_confirmed(self.state.confirmed);
                self.note_age();
                let disputes = self.collect_votes().await;
                Ok(if was_unreachable || disputes { RefreshOutcome::Changed } else { news })
            }
            Err(error) => {
                let text = format!("{error:#}");
                // The same failure over and over is said once.
                if self.refresh.error.as_deref() != Some(&text) {
                    let stays = if self.current.is_some() { "the last good one stays" } else { "there is none yet" };
                    tracing::warn!(binhost = self.config.name, "refreshing the index; {stays}: {text}");
                }
                self.refresh.error = Some(text);
                Err(error)
            }
        }
    }

    /// Says once of an index that it is old.
    fn note_age(&mut self) {
        let (Some(most), Clock::Set(now), Some(shown)) = (self.max_index_age(), Clock::now(), self.published_index())
        else {
            return;
        };
        let timestamp = freshness::timestamp(&shown.index);
        let made = u64::try_from(timestamp).unwrap_or_default();
        if made > 0 && now.saturating_sub(made) > most.as_secs() && self.noted_age != timestamp {
            self.noted_age = timestamp;
            let age = crate::daemon::shown(Duration::from_secs(now - made));
            tracing::warn!(
                binhost = self.config.name,
                "the index was made {age} ago (max-index-age): nothing has been built since then, or a mirror holds back what has"
            );
        }
    }

    /// Asks one URL after the other until one has a usable index.
    async fn fetch_index(&mut self, order: Order) -> anyhow::Result<RefreshOutcome> {
        let upstream = Arc::clone(&self.origin.upstream);
        let clock = Clock::now();
        let mut failures = Vec::new();
        let (mut unreachable, mut older) = (true, false);
        // Without an index that may stay, "not modified" would be no use.
        let stays = self.current_stays(clock);
        let known = if stays { self.state.validators.clone() } else { Validators::default() };
        let mut sources = upstream.index_sources(&known);
        loop {
            let file = self.incoming()?;
            let Some(answer) = sources.next(&known, &file).await else { break };
            match answer {
                Ok(IndexAnswer::NotModified) if stays => {
                    self.confirm().await;
                    return Ok(RefreshOutcome::Unmodified);
                }
                Ok(IndexAnswer::NotModified) => {
                    unreachable = false;
                    failures.push("an index is said to be unchanged that nobody asked about".to_owned());
                }
                Ok(IndexAnswer::Fresh(validators)) => {
                    unreachable = false;
                    let from = upstream.base_of(&validators).map(ToString::to_string).unwrap_or_default();
                    match self.take(file, (validators.clone(), from), (order, clock)).await {
                        Ok(news) => return Ok(news),
                        Err(error) => {
                            older |= self.blame(&validators, &error);
                            failures.push(format!("{}: {error:#}", validators.url));
                        }
                    }
                }
                Err(error) => {
                    unreachable = unreachable && is_absence(&error);
                    failures.push(error.to_string());
                }
            }
        }
        self.discard();
        self.unreachable = unreachable;
        if older {
            self.note_older(clock).await;
        }
        Err(anyhow::anyhow!(failures.join("; ")))
    }

    /// Whether there is an index in use that is not from the future: else any other is better.
    fn current_stays(&self, clock: Clock) -> bool {
        self.current.as_ref().is_some_and(|current| !freshness::is_ahead(freshness::timestamp(&current.index), clock))
    }

    /// The newest TIMESTAMP that counts: also that of an index that was taken without a clock, once there is one.
    fn newest(&self, clock: Clock) -> i64 {
        let current = self.current.as_ref().filter(|_| clock != Clock::Unset && !self.state.distrusted);
        let current = current.map(|current| freshness::timestamp(&current.index));
        freshness::newest([self.state.timestamp].into_iter().chain(current), clock)
    }

    /// An index was not taken: blames its URL where that is to blame. `true`: it is older than the one in use.
    fn blame(&self, from: &Validators, error: &anyhow::Error) -> bool {
        let unfit = error.downcast_ref();
        if let Some(IndexRejection::Ahead(_)) = unfit {
            self.origin.upstream.note_wrong_index(from, &error.to_string());
        }
        matches!(unfit, Some(IndexRejection::Older { .. }))
    }

    /// All indexes that the binhost has are older than the one in use.
    async fn note_older(&mut self, clock: Clock) {
        if let (Clock::Set(now), 0) = (clock, self.state.older_since) {
            self.state.older_since = now;
            self.write_state().await;
        }
    }

    fn older_since(&self) -> Option<u64> {
        Some(self.state.older_since).filter(|since| *since > 0)
    }

    /// An empty file for an index to come. It stays while it is empty: nothing is written as long as no index comes.
    fn incoming(&self) -> anyhow::Result<File> {
        let path = self.incoming_path();
        let creating = || format!("creating {}", path.display());
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.with_context(creating)?;
        if file.metadata().with_context(creating)?.len() > 0 {
            file.set_len(0).with_context(creating)?;
        }
        Ok(file)
    }

    /// No index came: what there is of one, up to half a GiB, does not stay on the disk.
    pub(crate) fn discard(&self) {
        let path = self.incoming_path();
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > 0)
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::debug!(path = %path.display(), %error, "removing what is no index");
        }
    }

    /// What was under way is not waited for any more. Something of it may still write: the next index comes elsewhere.
    pub(crate) fn break_off(&mut self) {
        self.discard();
        self.broken_off += 1;
    }

    /// The binhost says that nothing changed.
    async fn confirm(&mut self) {
        (self.state.confirmed, self.state.older_since) = (seconds_now(), 0);
        let same = IndexState { confirmed: self.written.confirmed, ..self.state.clone() } == self.written;
        if !same || self.state.confirmed.abs_diff(self.written.confirmed) > CONFIRMED_MEMORY {
            self.write_state().await;
        }
    }

    /// Takes the index in `file`, which [`Binhost::incoming`] made. Nothing changes on an error.
    async fn take(
        &mut self,
        file: File,
        (validators, from): (Validators, String),
        (order, clock): (Order, Clock),
    ) -> anyhow::Result<RefreshOutcome> {
        if let Some(timestamp) = self.current_timestamp(&file).await {
            // From a server that cannot say so.
            freshness::judge(timestamp, self.newest(clock), order, clock)?;
            self.keep_vote(&from).await;
            (self.state.validators, self.state.from) = (validators, from);
            self.discard();
            self.confirm().await;
            return Ok(RefreshOutcome::Unmodified);
        }
        let copy = file.try_clone()?;
        let index = blocking(move || Ok(Index::parse(copy)?)).await?;
        let timestamp = freshness::timestamp(&index);
        freshness::judge(timestamp, self.newest(clock), order, clock)?;
        let (new, to, directory) = (self.incoming_path(), self.directory.join(PACKAGES), self.directory.clone());
        let synced = file.try_clone()?;
        blocking(move || {
            synced.sync_all().context("writing the index to disk")?;
            fs::rename(&new, &to).with_context(|| format!("renaming the index to {}", to.display()))?;
            sync_directory(&directory)
        })
        .await?;
        let stamp = stamp(&file.metadata()?);
        self.keep_vote(&from).await;
        // Both before the next await: a refresh may be broken off.
        let timestamp = freshness::newest_after(timestamp, self.state.timestamp, clock);
        let confirmed = seconds_now();
        let before = if from == self.state.from { self.state.before } else { self.state.timestamp };
        let (older_since, distrusted) = (0, false);
        self.state =
            IndexState { validators, confirmed, timestamp, before, distrusted, older_since, from, file: stamp };
        self.take_up(index, stamp);
        self.write_state().await;
        Ok(RefreshOutcome::Changed)
    }

    /// TIMESTAMP of the index in use, if `file` has the bytes of that.
    async fn current_timestamp(&self, file: &File) -> Option<i64> {
        let path = self.directory.join(PACKAGES);
        let current = self.current.clone()?;
        let (new, known) = (file.try_clone().ok()?, current.stamp);
        let compare = move || {
            let stored = File::open(path)?;
            Ok(stamp(&stored.metadata()?) == known && same_bytes(&stored, &new)?)
        };
        blocking(compare).await.unwrap_or(false).then(|| freshness::timestamp(&current.index))
    }

    /// The index comes from `next` now: where it came from until now has a vote like the others.
    async fn keep_vote(&mut self, next: &str) {
        let IndexState { from, validators, .. } = &self.state;
        if let Some(current) = self.current.as_ref().filter(|_| from != next) {
            self.votes.keep(from, validators.clone(), Arc::clone(&current.index)).await;
        }
    }

    /// Asks the other URLs what they have. `true`: they agree on other entries than before.
    async fn collect_votes(&mut self) -> bool {
        let votes = self.votes.collect(&self.origin.upstream, &self.state.from);
        if tokio::time::timeout(REFRESH_BUDGET, votes).await.is_err() {
            tracing::warn!(
                binhost = self.config.name,
                "not every mirror has told in time what it has; its last vote counts"
            );
        }
        self.count_votes().await
    }

    async fn count_votes(&mut self) -> bool {
        let Some(current) = &self.current else { return false };
        self.votes.count(&self.origin.upstream, &self.state.from, Arc::clone(&current.index)).await
    }

    async fn write_state(&mut self) {
        let (path, state) = (self.directory.join(STATE), self.state.clone());
        self.written = state.clone();
        if let Err(error) = blocking(move || write_json(&path, &state)).await {
            self.written = IndexState::default();
            tracing::warn!(
                error = format!("{error:#}"),
                "the state of the index is not written; it will be fetched whole at the next start"
            );
        }
    }

    /// Judges a package that was downloaded or could not be had. `true`: something else is to be shown.
    pub(crate) async fn record_outcome(&mut self, verdict: &DownloadOutcome) -> bool {
        let error = match &verdict.kind {
            OutcomeKind::Refused(error) => error,
            OutcomeKind::IndexMismatch(mismatch) => return self.note_mismatch(mismatch),
            OutcomeKind::Verified | OutcomeKind::Unreachable => {
                // What its entry says is another matter.
                let over = |refusal: &Refusal| refusal.id() == Some(verdict.id) && refusal.said().is_none();
                return self.refusals.retain(|refusal| !over(refusal));
            }
        };
        let seen = self.origin.upstream.probe(verdict.uri.as_deref(), &verdict.path).await;
        let mut refusal = Refusal::new(verdict.id, &verdict.path, &error.to_string(), &self.judged_under());
        (refusal.seen, refusal.clock) = (seen, error.depends_on_clock().then(offset));
        self.knows(verdict.id) && self.refusals.add(refusal)
    }

    /// Whether an entry is in its index, or in that which is shown instead.
    fn knows(&self, id: EntryId) -> bool {
        let indexes = [self.current.as_ref().map(|current| &current.index), self.earlier().map(|e| &e.index)];
        indexes.into_iter().flatten().any(|index| index.contains(id))
    }

    /// Gives whatever was refused another chance. `true`: there was something.
    pub(crate) fn clear_refusals(&mut self) -> bool {
        self.forget_held();
        self.refusals.retain(|_| false)
    }

    /// Looks whether the binhost has other bytes now for what was refused, or it is judged by other keys or another clock.
    /// `true`: something comes back.
    pub(crate) async fn recheck_refusals(&mut self) -> bool {
        let Some(current) = self.published_index() else { return false };
        let (upstream, policy): (&Upstream, _) = (&self.origin.upstream, self.judged_under());
        let uri = current.index.header().uri();
        let (mut changed, clock) = (HashSet::new(), offset());
        for (number, refusal) in self.refusals.all().iter().enumerate() {
            if refusal.policy != policy || refusal.is_by_other_clock(clock) {
                changed.extend(refusal.id());
            } else if number < MAX_PROBES && refusal.said().is_none() {
                let seen = upstream.probe(uri, &refusal.path).await;
                changed.extend(refusal.id().filter(|_| seen.is_some() && seen != refusal.seen));
            }
        }
        !changed.is_empty() && self.refusals.retain(|refusal| refusal.id().is_none_or(|id| !changed.contains(&id)))
    }

    /// What a judgement depends on: under something else it may be another one.
    fn judged_under(&self) -> String {
        judged_under(&self.origin)
    }

    fn incoming_path(&self) -> PathBuf {
        self.directory.join(match self.broken_off {
            0 => INCOMING.to_owned(),
            number => format!("{INCOMING}.{number}"),
        })
    }
}

fn judged_under(origin: &RemoteBinhost) -> String {
    format!("{}, index-mismatch {}", origin.policy, origin.on_mismatch.name())
}

/// What an earlier daemon left of attempts that were broken off.
fn remove_broken_off(directory: &Path) {
    let all = fs::read_dir(directory).into_iter().flatten().flatten();
    let left =
        all.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&format!("{INCOMING}."))));
    for path in left.map(|entry| entry.path()) {
        // It would only take up room.
        let _ = fs::remove_file(path);
    }
}

/// Whether it says that nobody is there, rather than that there is no index.
fn is_absence(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::Transport { .. } | UpstreamError::Stalled { .. } | UpstreamError::TooSlow { .. } => true,
        UpstreamError::Status { status, .. } => *status >= 500,
        UpstreamError::File { .. } => true,
        UpstreamError::NoIndex(error) => is_absence(error),
        UpstreamError::All(errors) => errors.iter().all(is_absence),
        _ => false,
    }
}

fn log_dropped(binhost: &str, index: &Index) {
    let dropped = index.dropped();
    if dropped.total() > 0 || dropped.stopped_at().is_some() {
        tracing::warn!(binhost, entries = dropped.total(), "entries of the index are left out: {dropped}");
    }
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

pub(crate) fn stamp(metadata: &fs::Metadata) -> FileStamp {
    let mtime = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
    (metadata.len(), mtime)
}
