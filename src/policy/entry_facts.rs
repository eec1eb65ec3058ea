//! Reads from each entry the facts that policy needs beyond its record, front to back in one pass.

use std::io;

use super::libc::{Builds, Need};
use super::{Dependency, Rules};
use crate::config::{LibcGuard, Selection};
use crate::index::{Index, Stanza};

/// The settings that decide which facts a survey reads.
pub(super) struct EntrySurvey<'a> {
    pub(super) alone: bool,
    pub(super) rules: &'a Rules,
    pub(super) selection: &'a Selection,
}

/// The facts about one entry that policy decides by.
#[derive(Debug, Clone, Copy)]
pub(super) struct EntryFacts {
    pub(super) instance: [u8; 16],
    pub(super) selected: bool,
    need: Option<Need>,
}

/// Facts about all entries of an index, by record number. `facts` stays empty if no rule needs
/// them.
#[derive(Debug, Default)]
pub(super) struct Surveyed {
    facts: Vec<EntryFacts>,
    builds: Builds,
}

impl EntrySurvey<'_> {
    pub(super) fn of(&self, index: &Index) -> io::Result<Surveyed> {
        let mut surveyed = Surveyed::default();
        if self.alone && self.selects_all() && self.rules.libc_guard == LibcGuard::Off {
            return Ok(surveyed);
        }
        surveyed.facts.reserve_exact(index.records().len());
        for record in index.records() {
            let stanza = index.stanza(record)?;
            let facts = self.examine(index, &stanza, &mut surveyed.builds)?;
            surveyed.facts.push(facts);
        }
        surveyed.builds.sort();
        Ok(surveyed)
    }

    fn examine(&self, index: &Index, stanza: &Stanza, builds: &mut Builds) -> io::Result<EntryFacts> {
        let entry = stanza.entry()?;
        let selected = self.selects_all() || {
            let (slot, repository) = (stanza.get("SLOT"), stanza.repository().or_else(|| index.header().repository()));
            let admits = |selection: &Selection| selection.admits(&entry.cpv, slot, repository);
            admits(&self.rules.selection) && admits(self.selection)
        };
        let need = match self.rules.libc_guard {
            LibcGuard::Off => None,
            LibcGuard::On => {
                builds.note(&entry);
                Need::of(&entry, stanza)
            }
        };
        Ok(EntryFacts { instance: entry.instance(), selected, need })
    }

    fn selects_all(&self) -> bool {
        [&self.rules.selection, self.selection].iter().all(|selection| selection.is_everything())
    }
}

impl Surveyed {
    pub(super) fn facts(&self, record: u32) -> Option<EntryFacts> {
        self.facts.get(record as usize).copied()
    }

    /// The libc that this package must be merged after.
    pub(super) fn dependency(&self, record: u32) -> Option<Dependency> {
        self.builds.newest_before(self.facts(record)?.need?)
    }
}
