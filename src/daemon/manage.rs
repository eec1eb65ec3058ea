//! Commands for cached packages: pin them, remove them, and remove blobs that no index names.
//!
//! The indexes of kept generations count as well: a rollback may need packages that the binhost no
//! longer has.

use std::collections::HashSet;
use std::sync::Arc;

use super::explain::Explained;
use super::generations;
use crate::api::{CacheTask, Managed, ManagedPackage};
use crate::cache::{Cache, Pin, Removed};
use crate::index::EntryId;
use crate::policy::{self, Decision, Rules, UnionMember};
use crate::portage::Atom;
use crate::sys::durable::blocking;
use crate::tree::Snapshots;

impl Explained {
    /// Runs `task` for the packages that one of `names` matches. A name is an atom, or for a pin
    /// also its PATH. `snapshots` has the packages that can be opened, also by an emerge that read
    /// an earlier index.
    ///
    /// # Errors
    /// The task cannot be done; the text is for a person.
    pub(super) async fn manage(
        self: Arc<Self>,
        snapshots: Arc<Snapshots>,
        task: CacheTask,
        names: Vec<String>,
    ) -> anyhow::Result<Managed> {
        if let Some(name) = self.indexless.as_ref().filter(|_| task == CacheTask::Collect) {
            anyhow::bail!(
                "the binhost {name} has no index yet, so nobody knows what it still has: nothing is removed; \
                 `binhostfs refresh` asks for it"
            );
        }
        blocking(move || {
            let Self { inputs, rules, cache, .. } = &*self;
            Manager { inputs, rules, cache, names: &names, snapshots: &snapshots }.run(task)
        })
        .await
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
    fn run(&self, task: CacheTask) -> anyhow::Result<Managed> {
        match task {
            CacheTask::Pins => Ok(self.report(self.cache.pins())),
            CacheTask::Pin => {
                let pins: Vec<Pin> =
                    self.matching_entries()?.iter().map(|found| Pin::new(found.id, found.size, &found.path)).collect();
                anyhow::ensure!(!pins.is_empty(), "nothing that is shown matches");
                self.cache.pin(&pins)?;
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

    fn unpin(&self) -> anyhow::Result<Managed> {
        // A pinned package that no index names any more can only be named by its path.
        let is_path = |name: &&String| self.cache.pins().iter().any(|pin| pin.path == **name);
        let atoms: Vec<String> = self.names.iter().filter(|name| !is_path(name)).cloned().collect();
        let matching = Manager { names: &atoms, ..*self };
        let found = if atoms.is_empty() { Vec::new() } else { matching.found(|_| true)? };
        let chosen = |pin: &Pin| self.names.contains(&pin.path) || found.iter().any(|found| found.id == pin.id);
        let chosen: Vec<Pin> = self.cache.pins().into_iter().filter(chosen).collect();
        anyhow::ensure!(!chosen.is_empty(), "nothing that is pinned matches");
        self.cache.unpin(&chosen.iter().map(|pin| pin.id).collect::<Vec<_>>())?;
        Ok(self.report(chosen))
    }

    fn evict(&self) -> anyhow::Result<Managed> {
        let mut found = self.found(|_| true)?;
        found.retain(|found| self.cache.digest(found.id).is_some());
        anyhow::ensure!(!found.is_empty(), "nothing that is cached matches");
        let pinned: Vec<Pin> = self.cache.pins();
        if let Some(pin) = pinned.iter().find(|pin| found.iter().any(|found| found.id == pin.id)) {
            anyhow::bail!("{} is pinned, so nothing is removed; `binhostfs pin --remove` lets it go", pin.path);
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
        let now: Vec<EntryId> = self.cache.pins().iter().map(|pin| pin.id).collect();
        let package = |Pin { id, size, path, .. }: Pin| {
            let (cached, pinned) = (self.cache.digest(id).is_some(), now.contains(&id));
            ManagedPackage { path, size, cached, pinned }
        };
        Managed { packages: pins.into_iter().map(package).collect(), ..Managed::default() }
    }

    fn matching_entries(&self) -> anyhow::Result<Vec<MatchedEntry>> {
        self.found(|fate| matches!(fate, Decision::Shown { .. }))
    }

    /// Entries that match the names and whose decision `admits` accepts, sorted by path.
    fn found(&self, admits: impl Fn(&Decision) -> bool) -> anyhow::Result<Vec<MatchedEntry>> {
        anyhow::ensure!(!self.names.is_empty(), "no package is named");
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
