//! Commands for cached packages: pin them, remove them, and remove blobs that no index names.
//!
//! The indexes of kept generations count as well: a rollback may need packages that the binhost no
//! longer has.

use std::collections::HashSet;
use std::sync::Arc;

use super::explain::Explained;
use super::generations;
use crate::api::{ApiError, CacheTask, ErrorCode, Managed, ManagedPackage};
use crate::cache::{Cache, Pin, PinError, Removed};
use crate::index::EntryId;
use crate::policy::{self, Decision, Rules, UnionMember};
use crate::portage::{Atom, AtomError};
use crate::sys::durable::blocking;
use crate::tree::Snapshots;

/// Why a task was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum ManageError {
    /// Nobody knows what the binhost still has.
    #[error(
        "the binhost {0} has no index yet, so its packages are not known: nothing is removed; `binhostfs refresh` \
         asks for it"
    )]
    NoIndex(String),
    /// The request has no names.
    #[error("no package is named")]
    Unnamed,
    /// A name is no atom.
    #[error(transparent)]
    Atom(#[from] AtomError),
    /// No package matches that is in the state that the task needs.
    #[error("nothing that is {0} matches")]
    NoMatch(&'static str),
    /// A package that matches is pinned.
    #[error("{0} is pinned, so nothing is removed; `binhostfs pin --remove` lets it go")]
    Pinned(String),
    /// The pins cannot be changed.
    #[error("{0:#}")]
    Pin(PinError),
    /// An index cannot be read.
    #[error("{0}")]
    Index(#[from] std::io::Error),
    /// The daemon is at fault.
    #[error("{0:#}")]
    Task(anyhow::Error),
}

impl From<ManageError> for ApiError {
    fn from(error: ManageError) -> Self {
        let code = match error {
            ManageError::NoIndex(_)
            | ManageError::Pinned(_)
            | ManageError::Pin(PinError::TooLarge { .. } | PinError::TooMany) => ErrorCode::Conflict,
            ManageError::Unnamed | ManageError::Atom(_) | ManageError::NoMatch(_) => ErrorCode::BadRequest,
            ManageError::Pin(PinError::Catalogue(_)) | ManageError::Index(_) => ErrorCode::Failed,
            ManageError::Task(_) => ErrorCode::Internal,
        };
        Self::new(code, error)
    }
}

impl Explained {
    /// Runs `task` for the packages that one of `names` matches. A name is an atom, or for a pin
    /// also its PATH. `snapshots` has the packages that can be opened, also by an emerge that read
    /// an earlier index.
    ///
    /// # Errors
    /// See [`ManageError`].
    pub(super) async fn manage(
        self: Arc<Self>,
        snapshots: Arc<Snapshots>,
        task: CacheTask,
        names: Vec<String>,
    ) -> Result<Managed, ManageError> {
        if let Some(name) = self.indexless.as_ref().filter(|_| task == CacheTask::Collect) {
            return Err(ManageError::NoIndex(name.clone()));
        }
        let done = blocking(move || {
            let Self { inputs, rules, cache, .. } = &*self;
            Ok(Manager { inputs, rules, cache, names: &names, snapshots: &snapshots }.run(task))
        });
        done.await.map_err(ManageError::Task)?
    }
}

/// An entry of an index that matches a name.
struct MatchedEntry {
    id: EntryId,
    size: u64,
    path: String,
}

struct Manager<'a> {
    inputs: &'a [UnionMember],
    rules: &'a Rules,
    cache: &'a Cache,
    names: &'a [String],
    snapshots: &'a Snapshots,
}

impl Manager<'_> {
    fn run(&self, task: CacheTask) -> Result<Managed, ManageError> {
        match task {
            CacheTask::Pins => Ok(self.report(self.cache.pins().list())),
            CacheTask::Pin => {
                let pins: Vec<Pin> =
                    self.matching_entries()?.iter().map(|found| Pin::new(found.id, found.size, &found.path)).collect();
                matched(&pins, "shown")?;
                self.cache.pins().add(&pins).map_err(ManageError::Pin)?;
                Ok(self.report(pins))
            }
            CacheTask::Unpin => self.unpin(),
            CacheTask::Evict => self.evict(),
            CacheTask::Collect => {
                let records = self.inputs.iter().flat_map(|input| input.part.index.records());
                // Evaluated only when the iterator reaches this point, so that packages of a newer
                // tree count too.
                let still = std::iter::once_with(|| self.still_named()).flatten();
                let Removed { blobs, bytes } = self.cache.retain(records.map(|record| record.id).chain(still));
                tracing::info!(blobs, bytes, "removed what no index names");
                Ok(Managed { removed: blobs, freed: bytes, ..Managed::default() })
            }
        }
    }

    /// Entries that can still be opened, or shown again by a rollback.
    fn still_named(&self) -> HashSet<EntryId> {
        let mut named: HashSet<EntryId> = HashSet::new();
        for tree in self.snapshots.all() {
            let view = tree.view();
            named.extend((0..view.len() as u32).filter_map(|row| view.record(row)).map(|record| record.id));
        }
        for stored in generations::stored(&generations::directory(self.cache.directory())) {
            named.extend(stored.named());
        }
        named
    }

    fn unpin(&self) -> Result<Managed, ManageError> {
        // A pinned package that no index names any more can only be named by its path.
        let is_path = |name: &&String| self.cache.pins().list().iter().any(|pin| pin.path == **name);
        let atoms: Vec<String> = self.names.iter().filter(|name| !is_path(name)).cloned().collect();
        let matching = Manager { names: &atoms, ..*self };
        let found = if atoms.is_empty() { Vec::new() } else { matching.found(|_| true)? };
        let chosen = |pin: &Pin| self.names.contains(&pin.path) || found.iter().any(|found| found.id == pin.id);
        let chosen: Vec<Pin> = self.cache.pins().list().into_iter().filter(chosen).collect();
        matched(&chosen, "pinned")?;
        self.cache.pins().remove(&chosen.iter().map(|pin| pin.id).collect::<Vec<_>>()).map_err(ManageError::Pin)?;
        Ok(self.report(chosen))
    }

    fn evict(&self) -> Result<Managed, ManageError> {
        let mut found = self.found(|_| true)?;
        found.retain(|found| self.cache.digest(found.id).is_some());
        matched(&found, "cached")?;
        let pinned: Vec<Pin> = self.cache.pins().list();
        if let Some(pin) = pinned.iter().find(|pin| found.iter().any(|found| found.id == pin.id)) {
            return Err(ManageError::Pinned(pin.path.clone()));
        }
        let mut managed = Managed::default();
        for MatchedEntry { id, size, path } in found {
            // Two entries may name one blob.
            if let Some(bytes) = self.cache.forget(id) {
                managed.removed += 1;
                managed.freed += bytes;
                managed.packages.push(ManagedPackage { path, size, cached: false, pinned: false });
            }
        }
        Ok(managed)
    }

    fn report(&self, pins: Vec<Pin>) -> Managed {
        let now: Vec<EntryId> = self.cache.pins().list().iter().map(|pin| pin.id).collect();
        let package = |Pin { id, size, path, .. }: Pin| {
            let (cached, pinned) = (self.cache.digest(id).is_some(), now.contains(&id));
            ManagedPackage { path, size, cached, pinned }
        };
        Managed { packages: pins.into_iter().map(package).collect(), ..Managed::default() }
    }

    fn matching_entries(&self) -> Result<Vec<MatchedEntry>, ManageError> {
        self.found(|fate| matches!(fate, Decision::Shown { .. }))
    }

    /// Entries that match the names and whose decision `admits` accepts, sorted by path.
    fn found(&self, admits: impl Fn(&Decision) -> bool) -> Result<Vec<MatchedEntry>, ManageError> {
        if self.names.is_empty() {
            return Err(ManageError::Unnamed);
        }
        let atoms = self.names.iter().map(|name| name.parse::<Atom>()).collect::<Result<Vec<_>, _>>()?;
        let (mut found, mut failed) = (Vec::new(), Ok(()));
        policy::decide(self.inputs, self.rules, &mut |part, record, fate| {
            if admits(&fate) {
                match self.match_entry(&atoms, part, record, fate) {
                    Ok(entry) => found.extend(entry),
                    Err(error) => failed = Err(error),
                }
            }
        })?;
        failed?;
        found.sort_by(|a: &MatchedEntry, b| a.path.cmp(&b.path));
        Ok(found)
    }

    fn match_entry(
        &self,
        atoms: &[Atom],
        part: u16,
        record: u32,
        fate: Decision,
    ) -> std::io::Result<Option<MatchedEntry>> {
        let Some(UnionMember { part, .. }) = self.inputs.get(usize::from(part)) else { return Ok(None) };
        let Some(record) = part.index.records().get(record as usize) else { return Ok(None) };
        let stanza = part.index.stanza(record)?;
        let entry = stanza.entry()?;
        let repository = stanza.repository().or_else(|| part.index.header().repository());
        if !atoms.iter().any(|atom| atom.matches(&entry.cpv, stanza.get("SLOT"), repository)) {
            return Ok(None);
        }
        let place = if let Decision::Shown { place, .. } = fate { place } else { None };
        let path = place.map_or_else(|| part.index.path(record).to_owned(), String::from);
        Ok(Some(MatchedEntry { id: record.id, size: record.size, path }))
    }
}

/// Refuses an empty selection. `state`: what the selected packages have to be.
fn matched<T>(selected: &[T], state: &'static str) -> Result<(), ManageError> {
    if selected.is_empty() { Err(ManageError::NoMatch(state)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_request_is_not_one_of_the_daemon() {
        let code = |error: ManageError| ApiError::from(error).code();
        assert_eq!(code(matched::<Pin>(&[], "cached").unwrap_err()), ErrorCode::BadRequest);
        assert_eq!(code("".parse::<Atom>().unwrap_err().into()), ErrorCode::BadRequest);
        assert_eq!(code(ManageError::Pinned("a".to_owned())), ErrorCode::Conflict);
        assert_eq!(code(std::io::Error::other("x").into()), ErrorCode::Failed);
        let task = ManageError::Task(anyhow::anyhow!("below").context("above"));
        assert_eq!(ApiError::from(task).to_string(), "above: below");
    }
}
