//! One binhost: its stored index, the entries hidden from it, and its refresh.
//!
//! ```text
//! index/<binhost>/Packages      the last good index, decompressed
//! index/<binhost>/state.json    its validators, and when a URL last confirmed it
//! index/<binhost>/refused.json  refused entries and their reasons (`refusals`)
//! index/<binhost>/votes/        the entries that its other URLs have, for a quorum (`quorum`)
//! ```
//! Every file is written under another name, made durable and renamed. The daemon does not rely on
//! a file that is damaged or whose size or modification time has changed: it fetches the whole
//! index again.

mod mismatches;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
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
use crate::daemon::generations::rollback::Earlier;
use crate::daemon::shown;
use crate::fetch::{DownloadOutcome, OutcomeKind, RemoteBinhost};
use crate::index::{BinhostId, BinhostIndex, EntryId, Index, IndexLimits};
use crate::sys::Clock;
use crate::sys::durable::{blocking, read_json, sync_directory, write_json};
use crate::sys::file_stamp::{FileStamp, stamp};
use crate::sys::{Moment, offset, seconds_now};
use crate::tree::PACKAGES;
use crate::upstream::{IndexAnswer, Upstream, UpstreamError, Validators};
use mismatches::Mismatches;

/// Refused packages that one refresh checks for other bytes.
const MAX_PROBES: usize = 64;
/// How much older the confirmation time on disk may be than the real one, s. A refresh without
/// changes writes nothing until then.
const CONFIRMED_MEMORY: u64 = 6 * 3600;
/// How long a binhost may take to deliver its index, or its mirrors their votes: the other binhosts
/// wait for it.
const REFRESH_BUDGET: Duration = Duration::from_secs(15 * 60);
const STATE: &str = "state.json";
/// File name of an index while it is downloaded.
const INCOMING: &str = "Packages.new";

/// Facts about the stored index, as kept in `state.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct IndexState {
    validators: Validators,
    /// When a URL last confirmed or sent the index, seconds since the epoch.
    confirmed: u64,
    /// The newest TIMESTAMP that was accepted while the clock was set, seconds since the epoch: see
    /// `freshness`.
    timestamp: i64,
    /// Value of `timestamp` before the first of the consecutive indexes from the URL `from`.
    before: i64,
    /// Whether too many entries of the index are mismatches; see `mismatches`.
    distrusted: bool,
    /// Since when the binhost has had only older indexes, seconds since the epoch; 0: it has a
    /// current one.
    older_since: u64,
    /// URL of the binhost that the index came from, without credentials.
    from: String,
    /// Size and modification time of the stored index when it was written.
    file: FileStamp,
}

/// Whether a refresh changed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefreshOutcome {
    /// The view has to be composed again.
    Changed,
    /// Index and votes are as before.
    Unmodified,
}

/// The latest index of a binhost, which is in use.
#[derive(Debug, Clone)]
pub(crate) struct Current {
    pub(crate) index: Arc<Index>,
    pub(crate) stamp: FileStamp,
}

/// The index of a binhost that is shown.
#[derive(Debug, Clone)]
pub(crate) enum IndexChoice {
    /// The latest index, which is the default.
    Latest,
    /// The index of an earlier generation. `None`: that generation did not have this binhost.
    Earlier(Option<Arc<Earlier>>),
}

/// State of one binhost; the module's documentation describes its files.
#[derive(Debug)]
pub(crate) struct Binhost {
    pub(crate) config: BinhostConfig,
    pub(crate) id: BinhostId,
    pub(crate) remote: Arc<RemoteBinhost>,
    directory: PathBuf,
    state: IndexState,
    /// The state as last written to disk.
    written: IndexState,
    refusals: Refusals,
    mismatches: Mismatches,
    votes: Votes,
    current: Option<Current>,
    choice: IndexChoice,
    /// Number of attempts to fetch the index that were cancelled.
    broken_off: u64,
    refresh: LastRefresh,
    /// Whether no URL answered the last refresh.
    unreachable: bool,
    /// TIMESTAMP of the index that the log already called old.
    noted_age: i64,
}

impl Binhost {
    /// Opens the stored state of a binhost below `cache`.
    pub(crate) fn open(
        cache: &Path,
        config: BinhostConfig,
        id: BinhostId,
        remote: Arc<RemoteBinhost>,
    ) -> anyhow::Result<Self> {
        let directory = cache.join("index").join(&config.directory);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.with_context(|| format!("creating {}", directory.display()))?;
        let state: IndexState = read_json(&directory.join(STATE)).unwrap_or_default();
        let written = state.clone();
        let refusals = Refusals::load(&directory, &judged_under(&remote));
        let votes = Votes::open(&directory, &config)?;
        let refresh = LastRefresh::default();
        let (current, choice, broken_off, unreachable, noted_age) = (None, IndexChoice::Latest, 0, false, 0);
        remove_broken_off(&directory);
        Ok(Self {
            config,
            id,
            remote,
            directory,
            state,
            written,
            refusals,
            mismatches: Mismatches::default(),
            votes,
            current,
            choice,
            broken_off,
            refresh,
            unreachable,
            noted_age,
        })
    }

    /// Inherits the reachability of the binhost's previous configuration `before`: new settings do
    /// not make it reachable. A frozen binhost is not refreshed and would stay unreachable for
    /// ever, so it starts as reachable.
    pub(crate) fn inherit_reachability(&mut self, before: &Self) {
        self.unreachable = before.unreachable && !self.config.frozen;
    }

    /// Reads the stored index, if there is a usable one.
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
                    // The index may have lost entries and still parse. It is better than no index
                    // until a URL sends the whole one.
                    tracing::warn!(
                        binhost = self.config.name,
                        "the stored index is not as it was left; it will be fetched again"
                    );
                    self.state.validators = Validators::default();
                }
                let confirmed = Some(When::Stored(self.state.confirmed.max(1)));
                let older_since = self.older_since();
                self.refresh = LastRefresh { confirmed, attempted: confirmed, error: None, older_since };
                self.remote.note_confirmed(self.state.confirmed);
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

    /// Forgets the unusable stored index, but not the TIMESTAMP that the next index must reach.
    fn forget_index(&mut self) {
        self.state = IndexState { timestamp: self.state.timestamp, ..IndexState::default() };
    }

    fn take_up(&mut self, index: Index, stamp: FileStamp) {
        log_dropped(&self.config.name, &index);
        let earlier = self.earlier().cloned();
        self.refusals.follow(|id| index.contains(id) || earlier.as_ref().is_some_and(|e| e.index.contains(id)));
        self.current = Some(Current { index: Arc::new(index), stamp });
    }

    /// The latest index, if there is one.
    pub(crate) fn current(&self) -> Option<&Current> {
        self.current.as_ref()
    }

    /// Sets the index that is shown from now on.
    pub(crate) fn choose(&mut self, choice: IndexChoice) {
        self.choice = choice;
    }

    fn earlier(&self) -> Option<&Arc<Earlier>> {
        match &self.choice {
            IndexChoice::Latest => None,
            IndexChoice::Earlier(earlier) => earlier.as_ref(),
        }
    }

    /// The index that is shown, if there is one.
    pub(crate) fn published_index(&self) -> Option<Current> {
        match &self.choice {
            IndexChoice::Latest => self.current.clone(),
            IndexChoice::Earlier(earlier) => {
                let Earlier { index, stamp, .. } = &**earlier.as_ref()?;
                Some(Current { index: Arc::clone(index), stamp: *stamp })
            }
        }
    }

    /// The name of the binhost and its latest index, if an earlier generation is shown instead.
    pub(crate) fn newer(&self) -> Option<(String, Arc<Index>)> {
        let IndexChoice::Earlier(_) = self.choice else { return None };
        Some((self.config.name.clone(), Arc::clone(&self.current.as_ref()?.index)))
    }

    pub(crate) fn part(&self) -> Option<BinhostIndex> {
        Some(BinhostIndex { binhost: self.id, index: self.published_index()?.index })
    }

    /// The stored index as an ingredient of a generation.
    pub(crate) fn ingredient(&self) -> Option<RecipeIndex> {
        let (directory, text) = (self.config.directory.clone(), self.directory.join(PACKAGES));
        let (stamp, disputed) = (self.current.as_ref()?.stamp, self.votes.disputed().clone());
        Some(RecipeIndex { directory, text, stamp, disputed })
    }

    /// Whether no URL answered the last refresh.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.unreachable
    }

    /// Whether only cached packages of this binhost may be shown.
    pub(crate) fn hides(&self) -> bool {
        self.unreachable && self.config.offline == Offline::Hide
    }

    /// The reason why no package of this binhost can be fetched at all, if there is one.
    pub(crate) fn nowhere(&self) -> Option<String> {
        let index = self.published_index()?.index;
        self.remote.upstream.nowhere(index.header().uri())
    }

    /// Whether only the administrator can refresh the stored index.
    pub(crate) fn is_frozen(&self) -> bool {
        self.config.frozen && self.current.is_some()
    }

    pub(crate) fn last_refresh(&self) -> &LastRefresh {
        &self.refresh
    }

    pub(crate) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Number of entries on which the mirrors do not agree.
    pub(crate) fn disputed(&self) -> usize {
        self.votes.disputed().len()
    }

    /// How old the index that is shown may be before the log mentions it. `None` for an earlier
    /// generation and for a frozen binhost.
    pub(crate) fn max_index_age(&self) -> Option<Duration> {
        self.config.max_index_age.filter(|_| matches!(self.choice, IndexChoice::Latest) && !self.config.frozen)
    }

    /// Entries that must not be shown: refused or disputed.
    pub(crate) fn hidden(&self) -> HashSet<EntryId> {
        let mut hidden = self.refusals.ids();
        hidden.extend(self.earlier().map_or(self.votes.disputed(), |earlier| &earlier.disputed));
        hidden
    }

    /// Fetches the index, and the votes of the other mirrors.
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
                self.remote.note_confirmed(self.state.confirmed);
                self.note_age();
                let disputes = self.collect_votes().await;
                Ok(if was_unreachable || disputes { RefreshOutcome::Changed } else { news })
            }
            Err(error) => {
                let text = format!("{error:#}");
                // A failure that repeats at every refresh is logged once.
                if self.refresh.error.as_deref() != Some(&text) {
                    let stays = if self.current.is_some() { "the last good one stays" } else { "there is none yet" };
                    tracing::warn!(binhost = self.config.name, "refreshing the index; {stays}: {text}");
                }
                self.refresh.error = Some(text);
                Err(error)
            }
        }
    }

    /// Logs once for each index that it is old.
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

    /// Asks one URL after the other until one sends a usable index.
    async fn fetch_index(&mut self, order: Order) -> anyhow::Result<RefreshOutcome> {
        let upstream = Arc::clone(&self.remote.upstream);
        let clock = Clock::now();
        let mut failures = Vec::new();
        let (mut unreachable, mut older) = (true, false);
        // Without a usable index, the answer "not modified" would be of no use.
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

    /// Whether the index in use may stay. An index from the future may not: any other index is
    /// better.
    fn current_stays(&self, clock: Clock) -> bool {
        self.current.as_ref().is_some_and(|current| !freshness::is_ahead(freshness::timestamp(&current.index), clock))
    }

    /// The newest TIMESTAMP that counts. Includes that of an index that was taken without a clock,
    /// once the clock is set.
    fn newest(&self, clock: Clock) -> i64 {
        let current = self.current.as_ref().filter(|_| clock != Clock::Unset && !self.state.distrusted);
        let current = current.map(|current| freshness::timestamp(&current.index));
        freshness::newest([self.state.timestamp].into_iter().chain(current), clock)
    }

    /// Notes that an index was rejected, and distrusts its URL if that is at fault. `true`: the
    /// index is older than the one in use.
    fn blame(&self, from: &Validators, error: &anyhow::Error) -> bool {
        let unfit = error.downcast_ref();
        if let Some(IndexRejection::Ahead(_)) = unfit {
            self.remote.upstream.note_wrong_index(from, &error.to_string());
        }
        matches!(unfit, Some(IndexRejection::Older { .. }))
    }

    /// Notes that all indexes of the binhost are older than the one in use.
    async fn note_older(&mut self, clock: Clock) {
        if let (Clock::Set(now), 0) = (clock, self.state.older_since) {
            self.state.older_since = now;
            self.write_state().await;
        }
    }

    fn older_since(&self) -> Option<u64> {
        Some(self.state.older_since).filter(|since| *since > 0)
    }

    /// Opens an empty file for an index to be downloaded. A file that is still empty is used again:
    /// without an index, nothing is written to disk.
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

    /// Removes the partial download of an index, which may have up to half a GiB.
    pub(crate) fn discard(&self) {
        let path = self.incoming_path();
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > 0)
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::debug!(path = %path.display(), %error, "removing what is no index");
        }
    }

    /// Cleans up after a cancelled refresh. A part of that refresh may still write to its file, so
    /// the next index gets another file name.
    pub(crate) fn break_off(&mut self) {
        self.discard();
        self.broken_off += 1;
    }

    /// Notes that a URL confirmed the index as unchanged.
    async fn confirm(&mut self) {
        (self.state.confirmed, self.state.older_since) = (seconds_now(), 0);
        let same = IndexState { confirmed: self.written.confirmed, ..self.state.clone() } == self.written;
        if !same || self.state.confirmed.abs_diff(self.written.confirmed) > CONFIRMED_MEMORY {
            self.write_state().await;
        }
    }

    /// Accepts the index in `file`, which [`Binhost::incoming`] made. On an error nothing changes.
    async fn take(
        &mut self,
        file: File,
        (validators, from): (Validators, String),
        (order, clock): (Order, Clock),
    ) -> anyhow::Result<RefreshOutcome> {
        if let Some(timestamp) = self.current_timestamp(&file).await {
            // The server sent the same index because it does not support conditional requests.
            freshness::judge(timestamp, self.newest(clock), order, clock)?;
            self.keep_vote(&from).await;
            (self.state.validators, self.state.from) = (validators, from);
            self.discard();
            self.confirm().await;
            return Ok(RefreshOutcome::Unmodified);
        }
        let copy = file.try_clone()?;
        let limits = IndexLimits::of_size(self.config.max_index.0);
        let index = blocking(move || Ok(Index::parse_within(copy, limits)?)).await?;
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
        // State and index are both set before the next await point: a refresh may be cancelled
        // there.
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

    /// TIMESTAMP of the index in use, if `file` has the same bytes.
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

    /// Keeps the previous URL's index as its vote, because the index comes from the URL `next` now.
    async fn keep_vote(&mut self, next: &str) {
        let IndexState { from, validators, .. } = &self.state;
        if let Some(current) = self.current.as_ref().filter(|_| from != next) {
            self.votes.keep(from, validators.clone(), Arc::clone(&current.index)).await;
        }
    }

    /// Asks the other URLs for their votes. `true`: the disputed entries have changed.
    async fn collect_votes(&mut self) -> bool {
        let votes = self.votes.collect(&self.remote.upstream, &self.state.from);
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
        self.votes.count(&self.remote.upstream, &self.state.from, Arc::clone(&current.index)).await
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

    /// Updates the refusals after a download. `true`: the view has to be composed again.
    pub(crate) async fn record_outcome(&mut self, outcome: &DownloadOutcome) -> bool {
        let error = match &outcome.kind {
            OutcomeKind::Refused(error) => error,
            OutcomeKind::IndexMismatch(mismatch) => return self.note_mismatch(mismatch),
            OutcomeKind::Verified | OutcomeKind::Unreachable => {
                // An index mismatch stays: it depends on the entry, not on the file.
                let over = |refusal: &Refusal| refusal.id() == Some(outcome.id) && refusal.said().is_none();
                return self.refusals.retain(|refusal| !over(refusal));
            }
        };
        let seen = self.remote.upstream.probe(outcome.uri.as_deref(), &outcome.path).await;
        let mut refusal = Refusal::new(outcome.id, &outcome.path, &error.to_string(), &self.judged_under());
        (refusal.seen, refusal.clock) = (seen, error.depends_on_clock().then(offset));
        self.knows(outcome.id) && self.refusals.add(refusal)
    }

    /// Whether an entry is in the latest index, or in the earlier one that is shown instead.
    fn knows(&self, id: EntryId) -> bool {
        let indexes = [self.current.as_ref().map(|current| &current.index), self.earlier().map(|e| &e.index)];
        indexes.into_iter().flatten().any(|index| index.contains(id))
    }

    /// Forgets all refusals, so that the packages are tried again. `true`: there were some.
    pub(crate) fn clear_refusals(&mut self) -> bool {
        self.forget_held();
        self.refusals.retain(|_| false)
    }

    /// Forgets the refusals that may be outdated: the binhost has other bytes now, or the keys or
    /// the clock have changed. `true`: some entries come back.
    pub(crate) async fn recheck_refusals(&mut self) -> bool {
        let Some(current) = self.published_index() else { return false };
        let (upstream, policy): (&Upstream, _) = (&self.remote.upstream, self.judged_under());
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

    /// The policies that a refusal depends on: under others, the package may be accepted.
    fn judged_under(&self) -> String {
        judged_under(&self.remote)
    }

    fn incoming_path(&self) -> PathBuf {
        self.directory.join(match self.broken_off {
            0 => INCOMING.to_owned(),
            number => format!("{INCOMING}.{number}"),
        })
    }
}

fn judged_under(remote: &RemoteBinhost) -> String {
    format!("{}, index-mismatch {}", remote.policy, remote.on_mismatch.name())
}

/// Removes the files that an earlier daemon left of cancelled attempts.
fn remove_broken_off(directory: &Path) {
    let all = fs::read_dir(directory).into_iter().flatten().flatten();
    let left =
        all.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&format!("{INCOMING}."))));
    for path in left.map(|entry| entry.path()) {
        // A file that cannot be removed only takes up space.
        let _ = fs::remove_file(path);
    }
}

/// Whether an error means that no server answers, rather than that the server has no index.
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

/// Compares two files from front to back, independent of their cursors.
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
