//! Decides which entries are shown, and where: the indexes of all binhosts -> one [`View`].
//!
//! * Binhosts are in order of preference. Where several have the same package, or entries with one
//!   instance key (Portage cannot distinguish them), the first binhost's entry is shown. Another
//!   package at an occupied PATH is shown at `<binhost>/<PATH>`.
//! * Several builds of one CPV are shown side by side: Portage chooses by USE and BUILD_TIME.
//! * An entry is hidden if it is refused, disputed between mirrors, in a format that cannot be
//!   signed although signatures are required, not selected, or not available now. Hidden entries
//!   are counted by reason.
//! * If all entries of an index are refused or disputed, its header is ignored too. The header
//!   would change how Portage treats other packages.
//! * The libc guard (`libc`) makes Portage merge a package after the libc that it was built
//!   against.
//!
//! The same input gives the same view, whatever happened before. Entries of different packages at
//! different paths do not influence each other.
//!
//! Not its job: fetching, and deciding why an entry is refused.

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

/// The directory of entries without a free path, in [`compose_all`]. No category has this name.
const HIDDEN_PLACE: &str = ".hidden";

/// Whether the cache has the blob of a package.
pub(crate) type Here = Box<dyn Fn(&Record) -> bool + Send + Sync>;

/// The package formats that a binhost may show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Formats {
    /// GPKG and XPAK are both shown.
    #[default]
    All,
    /// XPAK is hidden (by file name): it cannot be signed. With `verify-signature` Portage skips it
    /// too.
    Signed,
}

impl Formats {
    fn admit(self, path: &str) -> bool {
        self == Self::All || ![".xpak", ".tbz2"].iter().any(|suffix| path.ends_with(suffix))
    }
}

/// One binhost as an input of the union.
pub(crate) struct UnionMember {
    /// Name of the binhost, for people and as a path component.
    pub name: String,
    /// Index of the binhost, and the binhost's number.
    pub part: BinhostIndex,
    /// Entries that are refused or disputed between the binhost's mirrors.
    pub hidden: HashSet<EntryId>,
    /// Selection of entries that the configuration sets for this binhost.
    pub selection: Selection,
    /// Package formats that this binhost may show.
    pub formats: Formats,
    /// Set if only cached packages of the binhost may be shown: tests whether the cache has one.
    pub here: Option<Here>,
}

/// Rules that apply to all binhosts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    /// Selection of entries that the configuration sets for all binhosts.
    pub selection: Selection,
    /// Whether entries get a dependency on the libc that they were built against.
    pub libc_guard: LibcGuard,
}

/// Entries of one binhost, counted by decision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct EntryCounts {
    /// Entries that are shown.
    pub shown: u32,
    /// Shown entries that moved below the name of the binhost.
    pub moved: u32,
    /// Shown entries that got a dependency on a libc.
    pub libc_guarded: u32,
    /// Entries that are refused, or disputed between mirrors.
    pub hidden: u32,
    /// Entries in a format that cannot be signed.
    pub unsigned_format: u32,
    /// Entries that include and exclude do not select.
    pub filtered: u32,
    /// Entries without a cached package while only cached packages of the binhost may be shown.
    pub offline: u32,
    /// Entries that a preferred binhost has as well.
    pub shadowed: u32,
    /// Entries without a free path.
    pub path_conflict: u32,
}

/// The view of all binhosts, and the counts.
#[derive(Debug)]
pub(crate) struct Union {
    /// The entries that are shown.
    pub view: View,
    /// Counts of each binhost's entries, by decision.
    pub tallies: Vec<(BinhostId, EntryCounts)>,
}

/// The decision about one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The entry is shown.
    Shown {
        /// Path at which the entry is shown, if it is not the entry's own PATH.
        place: Option<Box<str>>,
        /// Dependency on a libc that the guard adds.
        dependency: Option<Arc<str>>,
    },
    /// Refused, or disputed between mirrors: [`EntryCounts::hidden`].
    Hidden,
    /// In a format that cannot be signed: [`EntryCounts::unsigned_format`].
    UnsignedFormat,
    /// Not selected by include and exclude: [`EntryCounts::filtered`].
    Filtered,
    /// Not cached, and not available now: [`EntryCounts::offline`].
    Offline,
    /// A preferred binhost has the same entry: [`EntryCounts::shadowed`].
    Shadowed,
    /// No path is free for the entry: [`EntryCounts::path_conflict`].
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

/// Decides which entries of `inputs` are shown; the most preferred binhost comes first. Reads the
/// text of the entries only if it has to: with more than one binhost, a selection or the guard.
///
/// # Errors
/// A stored index cannot be read.
pub(crate) fn compose(inputs: &[UnionMember], rules: &Rules) -> io::Result<Union> {
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

/// Makes a view of every entry, also of those that [`compose`] hides. Of entries that Portage
/// cannot distinguish, the first one is shown. An entry without a free path gets one that no
/// binhost has. For calculations: no package can be opened at such a path.
///
/// # Errors
/// A stored index cannot be read.
pub(crate) fn compose_all(inputs: &[UnionMember], rules: &Rules) -> io::Result<View> {
    let open = |input: &UnionMember| UnionMember {
        name: input.name.clone(),
        part: input.part.clone(),
        hidden: HashSet::new(),
        selection: Selection::default(),
        formats: Formats::All,
        here: None,
    };
    let inputs: Vec<UnionMember> = inputs.iter().map(open).collect();
    let rules = Rules { selection: Selection::default(), libc_guard: rules.libc_guard };
    let mut choices = Vec::new();
    let mut choose = |part: u16, record: u32, decision| match decision {
        Decision::Shown { place, dependency } => choices.push(ShownEntry { part, record, place, dependency }),
        Decision::PathConflict => {
            let place = Some(format!("{HIDDEN_PLACE}/{part}/{record}.gpkg.tar").into());
            choices.push(ShownEntry { part, record, place, dependency: None });
        }
        _ => {}
    };
    decide(&inputs, &rules, &mut choose)?;
    Ok(View::compose(inputs.into_iter().map(|input| input.part).collect(), choices))
}

/// Calls `told` with the decision about each entry, by the numbers of its binhost and its record.
///
/// # Errors
/// A stored index cannot be read.
pub(crate) fn decide(
    inputs: &[UnionMember],
    rules: &Rules,
    told: &mut dyn FnMut(u16, u32, Decision),
) -> io::Result<Vec<(BinhostId, EntryCounts)>> {
    let (instances, packages, places) = Default::default();
    let mut draft = UnionBuilder { rules, alone: inputs.len() == 1, instances, packages, places };
    let mut tallies = Vec::with_capacity(inputs.len());
    for (number, input) in (0..=MAX_PART).zip(inputs) {
        tallies.push((input.part.binhost, draft.add(input, &mut |record, fate| told(number, record, fate))?));
    }
    Ok(tallies)
}

/// The packages, instances and paths chosen so far.
struct UnionBuilder<'a> {
    rules: &'a Rules,
    /// Whether there is one binhost only. Its entries cannot conflict, so the checks are skipped.
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
        // Added after the loop: entries of one index do not shadow each other.
        for (record, facts) in chosen {
            self.packages.insert(record.id);
            self.instances.extend(facts.map(|facts| facts.instance));
        }
        Ok(tally)
    }

    /// The reason why an entry is hidden at any path. `None`: nothing hides it.
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

    /// The path at which an entry is shown. `None`: its own path.
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

/// The atom of a libc dependency, shared by all entries that need it.
type Dependency = Arc<str>;

#[cfg(test)]
mod tests;
