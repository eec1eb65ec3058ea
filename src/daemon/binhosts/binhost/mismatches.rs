//! Index mismatches: entries that differ from their packages.
//!
//! The cached packages are compared before an index is shown, so that no emerge plans with a wrong
//! entry. All other packages are compared when they are fetched (`fetch`). A mismatch is recorded
//! with the digest of its entry: once the entry changes, it is shown again.
//!
//! If an index has [`DISTRUSTED`] mismatches, its URL is asked for an index after the other URLs.
//! Its TIMESTAMP no longer counts, so it does not make the index of another URL too old.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use super::Binhost;
use crate::api::FailureStatus;
use crate::config::OnMismatch;
use crate::daemon::binhosts::refusals::Refusal;
use crate::fetch::{Fetcher, Mismatch};
use crate::index::{AuxDigest, EntryId, EntryValues, Index};
use crate::sys::durable::blocking;
use crate::sys::seconds_now;
use crate::upstream::Validators;

/// Index mismatches before an index is distrusted: a single one may be a mistake.
const DISTRUSTED: usize = 2;
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

/// Result of comparing one binhost's entries with the cached packages.
#[derive(Debug, Default)]
pub(crate) struct Mismatches {
    /// The index that was compared with the cache.
    held: Option<Weak<Index>>,
    /// Index mismatches that are shown nevertheless.
    warned: Vec<(RecordedMismatch, FailureStatus)>,
}

impl Binhost {
    /// Compares the entries that are shown with the cached packages.
    pub(crate) async fn hold_entries(&mut self, fetcher: &Arc<Fetcher>) {
        let Some(shown) = self.published_index().filter(|_| self.remote.on_mismatch != OnMismatch::Off) else { return };
        let held = self.mismatches.held.as_ref().and_then(Weak::upgrade);
        if held.is_some_and(|held| Arc::ptr_eq(&held, &shown.index)) {
            return;
        }
        let said: HashMap<EntryId, AuxDigest> =
            self.refusals.all().iter().filter_map(|refusal| Some((refusal.id()?, refusal.said()?))).collect();
        let (fetcher, id, index) = (Arc::clone(fetcher), self.id, Arc::clone(&shown.index));
        let compared = blocking(move || Ok((changed(&index, &said)?, fetcher.mismatches(id, &index))));
        match compared.await {
            Ok((changed, found)) => {
                self.mismatches.warned.clear();
                self.refusals
                    .retain(|refusal| refusal.said().is_none() || refusal.id().is_none_or(|id| !changed.contains(&id)));
                for mismatch in &found {
                    self.note_mismatch(mismatch);
                }
                self.mismatches.held = Some(Arc::downgrade(&shown.index));
            }
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                binhost = self.config.name,
                "comparing the index with the cached packages; each is compared when it is opened"
            ),
        }
    }

    /// Records an index mismatch. `true`: the view has to be composed again.
    pub(crate) fn note_mismatch(&mut self, mismatch: &Mismatch) -> bool {
        let Mismatch { id, path, entry, error } = mismatch;
        if !self.knows(*id) {
            return false;
        }
        if self.remote.on_mismatch == OnMismatch::Refuse {
            let refusal = Refusal::new(*id, path, &error.to_string(), &self.judged_under());
            let added = self.refusals.add(refusal.with_said(*entry));
            self.distrust_index();
            return added;
        }
        let warned = &mut self.mismatches.warned;
        if warned.len() < MAX_WARNED && warned.iter().all(|(said, _)| *said != (*id, *entry)) {
            let status = FailureStatus { path: path.clone(), reason: error.to_string(), time: seconds_now() };
            warned.push(((*id, *entry), status));
        }
        false
    }

    /// All index mismatches, refused or not.
    pub(crate) fn index_mismatches(&self) -> Vec<FailureStatus> {
        let refused = self.refusals.all().iter().filter(|refusal| refusal.said().is_some()).map(Refusal::status);
        refused.chain(self.mismatches.warned.iter().map(|(_, status)| status.clone())).collect()
    }

    /// Reasons of the index mismatches that are shown nevertheless.
    pub(crate) fn warned(&self) -> HashMap<EntryId, String> {
        self.mismatches.warned.iter().map(|((id, _), status)| (*id, status.reason.clone())).collect()
    }

    /// Makes the next publication compare all cached packages again.
    pub(crate) fn forget_held(&mut self) {
        self.mismatches.held = None;
    }

    /// Distrusts the index in use if it has too many mismatches and another URL may have a better
    /// one.
    fn distrust_index(&mut self) {
        let wrong = self.refusals.all().iter().filter(|refusal| refusal.said().is_some()).count();
        if wrong < DISTRUSTED || self.state.distrusted || self.config.urls.len() < 2 || self.earlier().is_some() {
            return;
        }
        let reason = format!("{wrong} entries of its index say something else than their packages");
        let validators = std::mem::take(&mut self.state.validators);
        self.remote.upstream.note_wrong_index(&validators, &reason);
        // The URL is kept: another index from the same URL is no better.
        self.state.validators = Validators { url: validators.url, ..Validators::default() };
        (self.state.distrusted, self.state.timestamp) = (true, self.state.before);
    }
}
