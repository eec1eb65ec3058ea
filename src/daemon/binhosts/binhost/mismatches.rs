//! Entries that say something else of a package than the package does.
//!
//! What is in the cache is compared before an index is shown, so that nobody plans by such an entry; all else when it is
//! fetched (`fetch`). What was found is remembered with what the entry said: once it says something else, it is shown again.
//!
//! A URL whose index has [`DISTRUSTED`] of them is asked for an index after the others, and its TIMESTAMP does not count any
//! more: no index of another URL is too old because of it.

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

/// Packages whose entries are wrong before their index is distrusted: one may be a mistake.
const DISTRUSTED: usize = 2;
/// Entries that are told of where they are not refused.
const MAX_WARNED: usize = 64;

/// What an entry said when it was an index mismatch.
pub(crate) type RecordedMismatch = (EntryId, AuxDigest);

/// Of the entries of `index`, those that say something else than they `said`.
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

/// What is known of the entries of one binhost.
#[derive(Debug, Default)]
pub(crate) struct Mismatches {
    /// The index that was held against the cache.
    held: Option<Weak<Index>>,
    /// Those that are shown all the same.
    warned: Vec<(RecordedMismatch, FailureStatus)>,
}

impl Binhost {
    /// Holds what is shown of it against the packages that are in the cache.
    pub(crate) async fn hold_entries(&mut self, fetcher: &Arc<Fetcher>) {
        let Some(shown) = self.published_index().filter(|_| self.origin.on_mismatch != OnMismatch::Off) else { return };
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

    /// An entry is an index mismatch. `true`: something else is to be shown.
    pub(crate) fn note_mismatch(&mut self, mismatch: &Mismatch) -> bool {
        let Mismatch { id, path, entry, error } = mismatch;
        if !self.knows(*id) {
            return false;
        }
        if self.origin.on_mismatch == OnMismatch::Refuse {
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

    /// Index mismatches, whether they are refused or not.
    pub(crate) fn index_mismatches(&self) -> Vec<FailureStatus> {
        let refused = self.refusals.all().iter().filter(|refusal| refusal.said().is_some()).map(Refusal::status);
        refused.chain(self.mismatches.warned.iter().map(|(_, status)| status.clone())).collect()
    }

    /// Reasons of those that are shown all the same.
    pub(crate) fn warned(&self) -> HashMap<EntryId, String> {
        self.mismatches.warned.iter().map(|((id, _), status)| (*id, status.reason.clone())).collect()
    }

    /// Compares all of it again with the next index, or when it is shown the next time.
    pub(crate) fn forget_held(&mut self) {
        self.mismatches.held = None;
    }

    /// The index in use is not believed any more, where too many entries are wrong and another URL may have a better one.
    fn distrust_index(&mut self) {
        let wrong = self.refusals.all().iter().filter(|refusal| refusal.said().is_some()).count();
        if wrong < DISTRUSTED || self.state.distrusted || self.config.urls.len() < 2 || self.earlier().is_some() {
            return;
        }
        let reason = format!("{wrong} entries of its index say something else than their packages");
        let validators = std::mem::take(&mut self.state.validators);
        self.origin.upstream.note_wrong_index(&validators, &reason);
        // Where it came from is still known: its next index is no better for being another one.
        self.state.validators = Validators { url: validators.url, ..Validators::default() };
        (self.state.distrusted, self.state.timestamp) = (true, self.state.before);
    }
}
