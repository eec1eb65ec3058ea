//! One binhost: its index, the entries hidden from it, and its refresh.
//!
//! Below `index/<binhost>/` are the last good index (`stored_index`), the refused entries
//! (`refusals`), and the entries that its other URLs have, for a quorum (`quorum`).
//!
//! If an index has [`DISTRUSTED`] mismatches, its URL is asked for an index after the other URLs.
//! Its TIMESTAMP no longer counts, so it does not make the index of another URL too old.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::freshness::{self, IndexRejection, Order};
use super::last_refresh::{LastRefresh, When};
use super::quorum::Votes;
use super::rejections::Rejections;
use super::snapshot::BinhostSnapshot;
use super::stored_index::{Current, RefreshOutcome, StoredIndex};
use crate::config::{BinhostConfig, Offline};
use crate::daemon::generations::RecipeIndex;
use crate::daemon::generations::rollback::Earlier;
use crate::daemon::shown;
use crate::fetch::{DownloadOutcome, Fetcher, Mismatch, OutcomeKind, RemoteBinhost};
use crate::index::{BinhostId, EntryId, Index, IndexLimits};
use crate::sys::{Clock, Moment, is_full_disk};
use crate::upstream::{IndexAnswer, IndexTarget, Upstream, UpstreamError, Validators};

/// How long a binhost may take to deliver its index, or its mirrors their votes: the other binhosts
/// wait for it.
const REFRESH_BUDGET: Duration = Duration::from_secs(15 * 60);
/// Index mismatches before an index is distrusted: a single one may be a mistake.
const DISTRUSTED: usize = 2;

/// The index of a binhost that is shown.
#[derive(Debug, Clone)]
pub(crate) enum IndexChoice {
    /// The latest index, which is the default.
    Latest,
    /// The index of an earlier generation. `None`: that generation did not have this binhost.
    Earlier(Option<Arc<Earlier>>),
}

/// One binhost.
#[derive(Debug)]
pub(crate) struct Binhost {
    pub(crate) config: Arc<BinhostConfig>,
    pub(crate) id: BinhostId,
    pub(crate) remote: Arc<RemoteBinhost>,
    pub(in crate::daemon) stored: StoredIndex,
    pub(in crate::daemon) rejections: Rejections,
    pub(super) votes: Votes,
    /// The index that is shown from now on.
    pub(super) choice: IndexChoice,
    pub(super) last_refresh: LastRefresh,
    /// Whether no URL answered the last refresh.
    pub(crate) unreachable: bool,
    /// Whether the disk had no room for an index at the last refresh.
    pub(super) disk_full: bool,
    /// Whether the index or its disputed entries have changed since a tree was made of them. A
    /// refresh that is cancelled after the change leaves this to the next one.
    pub(super) unpublished: bool,
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
        let rejections = Rejections::load(&directory, &remote);
        let votes = Votes::open(&directory, &config)?;
        let stored = StoredIndex::open(directory, &config.name, IndexLimits::of_size(config.max_index.0));
        Ok(Self {
            config: Arc::new(config),
            id,
            remote,
            stored,
            rejections,
            votes,
            choice: IndexChoice::Latest,
            last_refresh: LastRefresh::default(),
            unreachable: false,
            disk_full: false,
            unpublished: false,
            noted_age: 0,
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
        if !self.stored.load().await {
            return;
        }
        let confirmed = self.stored.state.confirmed;
        let (at, older_since) = (Some(When::Stored(confirmed.max(1))), self.stored.older_since());
        self.last_refresh = LastRefresh { confirmed: at, attempted: at, error: None, older_since };
        self.remote.note_confirmed(confirmed);
        self.follow_index();
        self.count_votes().await;
    }

    /// Forgets the refusals of entries that the index no longer has.
    fn follow_index(&mut self) {
        let Some(Current { index, .. }) = self.stored.current() else { return };
        log_dropped(&self.config.name, index);
        let earlier = self.earlier().cloned();
        self.rejections.follow(|id| index.contains(id) || earlier.as_ref().is_some_and(|e| e.index.contains(id)));
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
            IndexChoice::Latest => self.stored.current().cloned(),
            IndexChoice::Earlier(earlier) => {
                let Earlier { index, stamp, .. } = &**earlier.as_ref()?;
                Some(Current { index: Arc::clone(index), stamp: *stamp })
            }
        }
    }

    /// The name of the binhost and its latest index, if an earlier generation is shown instead.
    pub(crate) fn newer(&self) -> Option<(String, Arc<Index>)> {
        let IndexChoice::Earlier(_) = self.choice else { return None };
        Some((self.config.name.clone(), Arc::clone(&self.stored.current()?.index)))
    }

    /// The stored index as an ingredient of a generation.
    pub(crate) fn ingredient(&self) -> Option<RecipeIndex> {
        let (directory, text) = (self.config.directory.clone(), self.stored.path());
        let (stamp, disputed) = (self.stored.current()?.stamp, Arc::clone(self.votes.disputed()));
        Some(RecipeIndex { directory, text, stamp, disputed })
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
        self.config.frozen && self.stored.current().is_some()
    }

    /// How old the index that is shown may be before the log mentions it. `None` for an earlier
    /// generation and for a frozen binhost.
    pub(crate) fn max_index_age(&self) -> Option<Duration> {
        self.config.max_index_age.filter(|_| matches!(self.choice, IndexChoice::Latest) && !self.config.frozen)
    }

    /// The data that explains the shown entries. `None`: there is no index.
    pub(crate) fn snapshot(&self) -> Option<BinhostSnapshot> {
        Some(BinhostSnapshot {
            config: Arc::clone(&self.config),
            id: self.id,
            remote: Arc::clone(&self.remote),
            index: self.published_index()?.index,
            rejected: self.rejections.now(),
            disputed: Arc::clone(self.earlier().map_or(self.votes.disputed(), |earlier| &earlier.disputed)),
            hides: self.hides(),
        })
    }

    /// Fetches the index, and the votes of the other mirrors.
    pub(crate) async fn refresh(&mut self, order: Order) -> anyhow::Result<RefreshOutcome> {
        self.disk_full = false;
        let was_unreachable = self.unreachable;
        let outcome = tokio::time::timeout(REFRESH_BUDGET, self.fetch_index(order)).await.unwrap_or_else(|_| {
            self.stored.break_off();
            Err(anyhow::anyhow!("no index after {}: the line or the binhost is too slow", shown(REFRESH_BUDGET)))
        });
        let now = Some(When::Now(Moment::now()));
        (self.last_refresh.attempted, self.last_refresh.older_since) = (now, self.stored.older_since());
        match outcome {
            Ok(news) => {
                (self.unreachable, self.last_refresh.confirmed, self.last_refresh.error) = (false, now, None);
                self.remote.note_confirmed(self.stored.state.confirmed);
                self.note_age();
                let disputes = self.collect_votes().await;
                Ok(if was_unreachable || disputes { RefreshOutcome::Changed } else { news })
            }
            Err(error) => {
                let text = format!("{error:#}");
                // A failure that repeats at every refresh is logged once.
                if self.last_refresh.error.as_deref() != Some(&text) {
                    let stays =
                        if self.stored.current().is_some() { "the last good one stays" } else { "there is none yet" };
                    tracing::warn!(binhost = self.config.name, "the index cannot be refreshed; {stays}: {text}");
                }
                self.last_refresh.error = Some(text);
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
        let made = shown.index.header().source_timestamp().unwrap_or_default();
        let made = u64::try_from(made).unwrap_or_default();
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
        let stays = self.stored.current_stays(clock);
        let known = if stays { self.stored.state.validators.clone() } else { Validators::default() };
        let mut sources = upstream.index_sources(&known);
        loop {
            let file = self.stored.incoming().inspect_err(|error| self.disk_full |= is_full_disk(error.as_ref()))?;
            let target = IndexTarget { file: &file, most: self.stored.room() };
            let Some(answer) = sources.next(&known, target).await else { break };
            self.stored.note_downloaded(&file);
            match answer {
                Ok(IndexAnswer::NotModified) if stays => {
                    self.stored.confirm().await;
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
                            older |= blame(&upstream, &validators, &error);
                            self.disk_full |= is_full_disk(error.as_ref());
                            failures.push(format!("{}: {error:#}", validators.url));
                        }
                    }
                }
                Err(error) => {
                    self.disk_full |= error.is_disk_full();
                    unreachable = unreachable && is_absence(&error);
                    failures.push(error.to_string());
                }
            }
        }
        self.stored.discard();
        self.unreachable = unreachable;
        if older {
            self.stored.note_older(clock).await;
        }
        Err(anyhow::anyhow!(failures.join("; ")))
    }

    /// Accepts the index in `file`, unless it is older than the one in use.
    async fn take(
        &mut self,
        file: File,
        (validators, from): (Validators, String),
        (order, clock): (Order, Clock),
    ) -> anyhow::Result<RefreshOutcome> {
        let received = self.stored.judge(file, (order, clock)).await?;
        // If the index comes from another URL now, the previous one's index is its vote. It is kept
        // first: a refresh that is cancelled here is repeated with the same previous URL.
        if let Some(previous) = self.stored.current().filter(|_| self.stored.state.from != from) {
            let state = &self.stored.state;
            self.votes.keep(&state.from, state.validators.clone(), Arc::clone(&previous.index)).await;
        }
        let outcome = self.stored.take(received, (validators, from), clock).await?;
        match outcome {
            RefreshOutcome::Changed => {
                self.unpublished = true;
                self.follow_index();
                self.stored.write_state().await;
            }
            RefreshOutcome::Unmodified => self.stored.confirm().await,
        }
        Ok(outcome)
    }

    /// Asks the other URLs for their votes. `true`: the disputed entries have changed.
    async fn collect_votes(&mut self) -> bool {
        let votes = self.votes.collect(&self.remote.upstream, &self.stored.state.from);
        if tokio::time::timeout(REFRESH_BUDGET, votes).await.is_err() {
            tracing::warn!(binhost = self.config.name, "a mirror did not send its index in time; its last vote counts");
        }
        self.count_votes().await
    }

    async fn count_votes(&mut self) -> bool {
        let Some(current) = self.stored.current() else { return false };
        let changed =
            self.votes.count(&self.remote.upstream, &self.stored.state.from, Arc::clone(&current.index)).await;
        self.unpublished |= changed;
        changed
    }

    /// Updates the refusals after a download. `true`: the view has to be composed again.
    pub(crate) async fn record_outcome(&mut self, outcome: &DownloadOutcome) -> bool {
        match &outcome.kind {
            OutcomeKind::Refused(error) => self.knows(outcome.id) && self.rejections.refuse(outcome, error).await,
            OutcomeKind::IndexMismatch(mismatch) => self.note_mismatch(mismatch),
            OutcomeKind::Verified | OutcomeKind::Unreachable => self.rejections.forgive(outcome.id),
        }
    }

    /// Compares the entries that are shown with the cached packages.
    pub(crate) async fn compare_entries(&mut self, fetcher: &Arc<Fetcher>) {
        let Some(shown) = self.published_index() else { return };
        let found = self.rejections.compare(self.id, &shown.index, fetcher).await;
        for mismatch in found.iter().flatten() {
            self.note_mismatch(mismatch);
        }
    }

    fn note_mismatch(&mut self, mismatch: &Mismatch) -> bool {
        if !self.knows(mismatch.id) {
            return false;
        }
        let changed = self.rejections.note_mismatch(mismatch);
        self.distrust_index();
        changed
    }

    /// Distrusts the index in use if it has too many mismatches and another URL may have a better
    /// one.
    fn distrust_index(&mut self) {
        let (wrong, state) = (self.rejections.refused_mismatches(), &mut self.stored.state);
        if wrong < DISTRUSTED
            || state.distrusted
            || self.config.urls.len() < 2
            || matches!(self.choice, IndexChoice::Earlier(Some(_)))
        {
            return;
        }
        let reason = format!("{wrong} entries of its index say something else than their packages");
        let validators = std::mem::take(&mut state.validators);
        self.remote.upstream.note_wrong_index(&validators, &reason);
        // The URL is kept: another index from the same URL is no better.
        state.validators = Validators { url: validators.url, ..Validators::default() };
        (state.distrusted, state.timestamp) = (true, state.before);
    }

    /// Whether an entry is in the latest index, or in the earlier one that is shown instead.
    fn knows(&self, id: EntryId) -> bool {
        let indexes = [self.stored.current().map(|current| &current.index), self.earlier().map(|e| &e.index)];
        indexes.into_iter().flatten().any(|index| index.contains(id))
    }

    /// Forgets the refusals that may be outdated. `true`: some entries come back.
    pub(crate) async fn recheck_refusals(&mut self) -> bool {
        let Some(shown) = self.published_index() else { return false };
        self.rejections.recheck(shown.index.header().uri()).await
    }
}

/// Notes that an index was rejected, and distrusts its URL if that is at fault. `true`: the index
/// is older than the one in use.
fn blame(upstream: &Upstream, from: &Validators, error: &anyhow::Error) -> bool {
    let unfit = error.downcast_ref();
    if let Some(IndexRejection::Ahead(_)) = unfit {
        upstream.note_wrong_index(from, &error.to_string());
    }
    matches!(unfit, Some(IndexRejection::Older { .. }))
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

#[cfg(test)]
mod tests;
