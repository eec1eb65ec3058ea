//! Which entries are shown, and how: the indexes of all binhosts -> one [`View`].
//!
//! * Binhosts come in the order of preference. Of one package, and of entries that Portage cannot tell apart (one instance
//!   key), the first binhost's is shown. Another package at a PATH that is taken is shown at `<binhost>/<PATH>`.
//! * Several builds of one CPV stand side by side: Portage chooses by USE and BUILD_TIME.
//! * What is refused, disputed between mirrors, cannot be signed though it has to be, is not selected or cannot be had now
//!   is left out, and counted by reason.
//! * An index of which all is refused or disputed says nothing in the header either: it would change what Portage makes of
//!   other packages.
//! * The libc guard (`libc`): what was built against a newer libc than the one that is installed comes after that libc.
//!
//! The same input gives the same view, whatever happened before. Entries of different packages at different paths do not
//! influence each other.
//!
//! Not its job: fetching, and why something is refused.

mod entry_facts;
mod libc;
mod paths;

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use crate::config::{LibcGuard, Selection};
use crate::index::{BinhostId, BinhostIndex, EntryId, MAX_PART, PkgPath, Record, ShownEntry, View};

use entry_facts::{EntryFacts, EntrySurvey};
use paths::TakenPaths;

/// Whether a package is here.
pub type Here = Box<dyn Fn(&Record) -> bool + Send + Sync>;

/// Which package formats can be had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Formats {
    /// GPKG and XPAK.
    #[default]
    All,
    /// Not XPAK, as its name says: it cannot be signed. With `verify-signature` Portage passes over it too.
    Signed,
}

impl Formats {
    fn admit(self, path: &str) -> bool {
        self == Self::All || ![".xpak", ".tbz2"].iter().any(|suffix| path.ends_with(suffix))
    }
}

/// One binhost's part in what is shown.
pub struct UnionMember {
    /// What people call it: a plain path component.
    pub name: String,
    /// Its index.
    pub part: BinhostIndex,
    /// Entries that cannot be had, or that its mirrors do not agree on.
    pub hidden: HashSet<EntryId>,
    /// Which of its entries are wanted.
    pub selection: Selection,
    /// Which of them can be had.
    pub formats: Formats,
    /// While it is away, and only what is here may be shown.
    pub here: Option<Here>,
}

/// What holds for all binhosts.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Which entries are wanted.
    pub selection: Selection,
    /// Whether entries get a dependency on the libc that they were built against.
    pub libc_guard: LibcGuard,
}

/// What became of the entries of one binhost, by number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EntryCounts {
    /// Shown.
    pub shown: u32,
    /// Of these, shown below the name of the binhost.
    pub moved: u32,
    /// Of these, with a dependency on a libc.
    pub libc_guarded: u32,
    /// Refused, or disputed between mirrors.
    pub hidden: u32,
    /// In a format that cannot be signed.
    pub unsigned_format: u32,
    /// Not selected.
    pub filtered: u32,
    /// Not here while the binhost is away.
    pub offline: u32,
    /// A preferred binhost has the same one.
    pub shadowed: u32,
    /// There is no path for it.
    pub path_conflict: u32,
}

/// What is shown.
#[derive(Debug)]
pub struct Union {
    /// The entries.
    pub view: View,
    /// For each binhost what became of its entries.
    pub tallies: Vec<(BinhostId, EntryCounts)>,
}

/// What becomes of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is shown.
    Shown {
        /// Where, if not at its own path.
        place: Option<Box<str>>,
        /// The dependency on a libc that it gets.
        dependency: Option<Arc<str>>,
    },
    /// See [`EntryCounts::hidden`].
    Hidden,
    /// See [`EntryCounts::unsigned_format`].
    UnsignedFormat,
    /// See [`EntryCounts::filtered`].
    Filtered,
    /// See [`EntryCounts::offline`].
    Offline,
    /// See [`EntryCounts::shadowed`].
    Shadowed,
    /// See [`EntryCounts::path_conflict`].
    PathConflict,
}

impl EntryCounts {
    fn count(&mut self, fate: &Decision) {
        let counter = match fate {
            Decision::Shown { place, dependency } => {
                self.moved += u32::from(place.is_some());
                self.libc_guarded += u32::from(dependency.is_some());
                &mut self.shown
            }
            Decision::Hidden => &mut self.hidden,
            Decision::UnsignedFormat => &mut self.unsigned_format,
            Decision::Filtered => &mut self.filtered,
            Decision::Offline => &mut self.offline,
            Decision::Shadowed => &mut self.shadowed,
            Decision::PathConflict => &mut self.path_conflict,
        };
        *counter += 1;
    }
}

/// Decides what is shown of `inputs`, the most preferred first. Reads the text of the entries where it has to: with more than
/// one binhost, a selection or the guard.
///
/// # Errors
/// A stored index cannot be read.
pub fn compose(inputs: &[UnionMember], rules: &Rules) -> io::Result<Union> {
    let mut choices = Vec::new();
    let mut choose = |part, record, fate| {
        if let Decision::Shown { place, dependency } = fate {
            choices.push(ShownEntry { part, record, place, dependency });
        }
    };
    let tallies = decide(inputs, rules, &mut choose)?;
    let parts = inputs.iter().map(|input| input.part.clone()).collect();
    let all_hidden = |(input, (_, tally)): (&UnionMember, &(BinhostId, EntryCounts))| {
        input.part.index.records().len() == usize::try_from(tally.hidden).unwrap_or(usize::MAX)
    };
    let numbered = (0..=MAX_PART).zip(inputs.iter().zip(&tallies));
    let mute = numbered.filter(|(_, told)| all_hidden(*told)).map(|(number, _)| number).collect();
    Ok(Union { view: View::compose(parts, choices).without_headers_of(mute), tallies })
}

/// Tells `told` what becomes of each entry, by the numbers of its binhost and its record.
///
/// # Errors
/// As [`compose`].
pub fn decide(
    inputs: &[UnionMember],
    rules: &Rules,
    told: &mut dyn FnMut(u16, u32, Decision),
) -> io::Result<Vec<(BinhostId, EntryCounts)>> {
    let (instances, packages, places) = Default::default();
    let mut draft = UnionBuilder { rules, alone: inputs.len() == 1, instances, packages, places };
    let mut tallies = Vec::with_capacity(inputs.len());
    for (number, input) in (0..=MAX_PART).zip(inputs) {
        tallies.push((input.part.origin, draft.add(input, &mut |record, fate| told(number, record, fate))?));
    }
    Ok(tallies)
}

/// What is chosen so far.
struct UnionBuilder<'a> {
    rules: &'a Rules,
    /// There is one binhost: its entries are not in each other's way.
    alone: bool,
    instances: HashSet<[u8; 16]>,
    packages: HashSet<EntryId>,
    places: TakenPaths,
}

impl UnionBuilder<'_> {
    fn add(&mut self, input: &UnionMember, told: &mut dyn FnMut(u32, Decision)) -> io::Result<EntryCounts> {
        let mut tally = EntryCounts::default();
        let survey = EntrySurvey { alone: self.alone, rules: self.rules, selection: &input.selection };
        let surveyed = survey.of(&input.part.index)?;
        let mut chosen = Vec::new();
        for (number, record) in (0_u32..).zip(input.part.index.records()) {
            let facts = surveyed.facts(number);
            let fate = match self.obstacle(input, record, facts.as_ref()) {
                Some(fate) => fate,
                None => match self.place(input, record) {
                    Ok(place) => Decision::Shown { place, dependency: surveyed.dependency(number) },
                    Err(fate) => fate,
                },
            };
            tally.count(&fate);
            if matches!(fate, Decision::Shown { .. }) && !self.alone {
                chosen.push((record, facts));
            }
            told(number, fate);
        }
        // Only now: entries of one index are not in each other's way.
        for (record, facts) in chosen {
            self.packages.insert(record.id);
            self.instances.extend(facts.map(|facts| facts.instance));
        }
        Ok(tally)
    }

    /// Why it is not shown, wherever that would be.
    fn obstacle(&self, input: &UnionMember, record: &Record, facts: Option<&EntryFacts>) -> Option<Decision> {
        let same = |facts: &EntryFacts| self.instances.contains(&facts.instance);
        if input.hidden.contains(&record.id) {
            Some(Decision::Hidden)
        } else if !input.formats.admit(input.part.index.path(record)) {
            Some(Decision::UnsignedFormat)
        } else if facts.is_some_and(|facts| !facts.selected) {
            Some(Decision::Filtered)
        } else if input.here.as_ref().is_some_and(|here| !here(record)) {
            Some(Decision::Offline)
        } else if self.packages.contains(&record.id) || facts.is_some_and(same) {
            Some(Decision::Shadowed)
        } else {
            None
        }
    }

    /// Where it is shown; `None`: at its own path.
    fn place(&mut self, input: &UnionMember, record: &Record) -> Result<Option<Box<str>>, Decision> {
        let path = input.part.index.path(record);
        if self.alone || self.places.take(path) {
            return Ok(None);
        }
        let below = format!("{}/{path}", input.name);
        if PkgPath::parse(&below).is_ok() && self.places.take(&below) {
            Ok(Some(below.into()))
        } else {
            Err(Decision::PathConflict)
        }
    }
}

/// The atom that stands for a libc, to be shared by all entries that need it.
type Dependency = Arc<str>;

#[cfg(test)]
mod tests;
