//! Entries of a binhost that contradict their packages: refused entries, and index mismatches.
//!
//! The cached packages are compared before an index is shown, so that no emerge plans with a wrong
//! entry. All other packages are compared when they are fetched (`fetch`). A mismatch is recorded
//! with the digest of its entry: once the entry changes, it is shown again.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Weak};

use super::refusals::{Refusal, Refusals};
use crate::api::{FailureStatus, HiddenReason};
use crate::config::OnMismatch;
use crate::fetch::{DownloadOutcome, FetchError, Fetcher, Mismatch, RemoteBinhost};
use crate::index::{AuxDigest, BinhostId, EntryId, EntryValues, Index};
use crate::sys::durable::blocking;
use crate::sys::{offset, seconds_now};

/// Refused packages that one refresh checks for other bytes.
const MAX_PROBES: usize = 64;
/// Index mismatches that are listed while they are not refused.
const MAX_WARNED: usize = 64;

/// An entry and the digest of its values when it was an index mismatch.
pub(crate) type RecordedMismatch = (EntryId, AuxDigest);

/// Entries of `index` whose values differ from those recorded in `said`.
fn changed(index: &Index, said: &HashMap<EntryId, AuxDigest>) -> anyhow::Result<HashSet<EntryId>> {
    let mut changed = HashSet::new();
    for record in index.records() {
        if let Some(before) = said.get(&record.id)
            && EntryValues::of(&index.stanza(record)?, index).digest() != *before
        {
            changed.insert(record.id);
        }
    }
    Ok(changed)
}

/// An index mismatch that is not refused.
#[derive(Debug)]
struct Warned {
    mismatch: RecordedMismatch,
    status: FailureStatus,
}

/// The rejected entries of a binhost at one moment.
#[derive(Debug, Clone)]
pub(crate) struct RejectedEntries {
    refusals: Arc<Vec<Refusal>>,
    warned: Arc<Vec<Arc<Warned>>>,
}

impl RejectedEntries {
    /// The refusals, oldest first.
    pub(crate) fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    /// Reasons of refusals, by entry.
    pub(crate) fn refused(&self) -> HashMap<EntryId, (HiddenReason, String)> {
        let why = |refusal: &Refusal| match refusal.said() {
            Some(_) => HiddenReason::Mismatch,
            None => HiddenReason::Refused,
        };
        let reason = |refusal: &Refusal| Some((refusal.id()?, (why(refusal), refusal.reason.clone())));
        self.refusals.iter().filter_map(reason).collect()
    }

    /// Reasons of the index mismatches that are shown nevertheless.
    pub(crate) fn warned(&self) -> HashMap<EntryId, String> {
        self.warned.iter().map(|warned| (warned.mismatch.0, warned.status.reason.clone())).collect()
    }

    /// All index mismatches, refused or not.
    pub(crate) fn index_mismatches(&self) -> Vec<FailureStatus> {
        let refused = self.refusals.iter().filter(|refusal| refusal.said().is_some()).map(Refusal::status);
        refused.chain(self.warned.iter().map(|warned| warned.status.clone())).collect()
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(in crate::daemon) struct Rejections {
    remote: Arc<RemoteBinhost>,
    refusals: Refusals,
    /// The index that was compared with the cache.
    held: Option<Weak<Index>>,
    warned: Arc<Vec<Arc<Warned>>>,
}

impl Rejections {
    /// The refusals stored in `directory` that were made under the policy of `remote`.
    pub(super) fn load(directory: &Path, remote: &Arc<RemoteBinhost>) -> Self {
        let refusals = Refusals::load(directory, &judged_under(remote));
        Self { remote: Arc::clone(remote), refusals, held: None, warned: Arc::default() }
    }

    /// The rejected entries as of now.
    pub(super) fn now(&self) -> RejectedEntries {
        RejectedEntries { refusals: Arc::clone(self.refusals.all()), warned: Arc::clone(&self.warned) }
    }

    /// Forgets the refusals of entries that are no longer `known`.
    pub(super) fn follow(&mut self, known: impl Fn(EntryId) -> bool) {
        self.refusals.follow(known);
    }

    /// Number of refused index mismatches.
    pub(super) fn refused_mismatches(&self) -> usize {
        self.refusals.all().iter().filter(|refusal| refusal.said().is_some()).count()
    }

    /// Forgets the refusal of a package that was fetched. `true`: the view has to be composed
    /// again.
    pub(super) fn forgive(&mut self, id: EntryId) -> bool {
        // An index mismatch stays: it depends on the entry, not on the file.
        let over = |refusal: &Refusal| refusal.id() == Some(id) && refusal.said().is_none();
        self.refusals.retain(|refusal| !over(refusal))
    }

    /// Refuses the entry of a package that contradicts it. `true`: the view has to be composed
    /// again.
    pub(super) async fn refuse(&mut self, outcome: &DownloadOutcome, error: &FetchError) -> bool {
        let seen = self.remote.upstream.probe(outcome.uri.as_deref(), &outcome.path).await;
        let mut refusal = Refusal::new(outcome.id, &outcome.path, &error.to_string(), &judged_under(&self.remote));
        (refusal.seen, refusal.clock) = (seen, error.depends_on_clock().then(offset));
        self.refusals.add(refusal)
    }

    /// Compares the entries of `index`, which is shown, with the cached packages. Returns the index
    /// mismatches. `None`: there is nothing to compare, or comparing failed.
    pub(super) async fn compare(
        &mut self,
        id: BinhostId,
        index: &Arc<Index>,
        fetcher: &Arc<Fetcher>,
    ) -> Option<Vec<Mismatch>> {
        let held = self.held.as_ref().and_then(Weak::upgrade);
        if self.remote.on_mismatch == OnMismatch::Off || held.is_some_and(|held| Arc::ptr_eq(&held, index)) {
            return None;
        }
        let said: HashMap<EntryId, AuxDigest> =
            self.refusals.all().iter().filter_map(|refusal| Some((refusal.id()?, refusal.said()?))).collect();
        let (fetcher, compared) = (Arc::clone(fetcher), Arc::clone(index));
        let found = blocking(move || Ok((changed(&compared, &said)?, fetcher.mismatches(id, &compared))));
        match found.await {
            Ok((changed, found)) => {
                self.warned = Arc::default();
                self.refusals
                    .retain(|refusal| refusal.said().is_none() || refusal.id().is_none_or(|id| !changed.contains(&id)));
                self.held = Some(Arc::downgrade(index));
                Some(found)
            }
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    binhost = self.remote.name,
                    "the index cannot be compared with the cached packages now; each is compared when it is opened"
                );
                None
            }
        }
    }

    /// Records an index mismatch of an entry that the binhost has. `true`: the view has to be
    /// composed again.
    pub(super) fn note_mismatch(&mut self, mismatch: &Mismatch) -> bool {
        let Mismatch { id, path, entry, error } = mismatch;
        if self.remote.on_mismatch == OnMismatch::Refuse {
            let refusal = Refusal::new(*id, path, &error.to_string(), &judged_under(&self.remote));
            return self.refusals.add(refusal.with_said(*entry));
        }
        if self.warned.len() < MAX_WARNED && self.warned.iter().all(|warned| warned.mismatch != (*id, *entry)) {
            let status = FailureStatus { path: path.clone(), reason: error.to_string(), time: seconds_now() };
            Arc::make_mut(&mut self.warned).push(Arc::new(Warned { mismatch: (*id, *entry), status }));
        }
        false
    }

    /// Makes the next publication compare all cached packages again.
    pub(super) fn forget_held(&mut self) {
        self.held = None;
    }

    /// Forgets all refusals, so that the packages are tried again. `true`: there were some.
    pub(in crate::daemon) fn clear(&mut self) -> bool {
        self.forget_held();
        self.refusals.retain(|_| false)
    }

    /// Forgets the refusals that may be outdated, of an index with `uri` in its header: the binhost
    /// has other bytes now, or the keys or the clock have changed. `true`: some entries come back.
    pub(super) async fn recheck(&mut self, uri: Option<&str>) -> bool {
        let (upstream, policy) = (&self.remote.upstream, judged_under(&self.remote));
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
}

/// The policies that a refusal depends on: under others, the package may be accepted.
fn judged_under(remote: &RemoteBinhost) -> String {
    format!("{}, index-mismatch {}", remote.policy, remote.on_mismatch.name())
}
