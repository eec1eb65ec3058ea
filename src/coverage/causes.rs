//! Why emerge would compile a package: one main cause, and the further ones.
//!
//! The causes of a build are in the order of [`Cause`]. Of all builds of the planned version, the
//! one counts whose first cause comes last: every other build needs more changes. Its first
//! cause is the main cause of the package.

use std::cmp::Reverse;

use super::calculation::{Calculation, Candidate, MergeKind, PlannedName, PlannedPackage, SourceFacts};
use super::nearest::Distance;
use super::offer::OfferLookup;
use crate::api::{Cause, HiddenReason, PackageStatus};
use crate::portage::Version;

/// Portage's reasons for passing over a build, and their causes.
const IGNORED: [(&str, Cause); 3] =
    [("respect_use", Cause::Use), ("changed_deps", Cause::Deps), ("user_patches", Cause::UserPatches)];

/// Why one package would be compiled.
#[derive(Debug, PartialEq)]
pub(crate) struct Analysis<'a> {
    pub(crate) planned: &'a PlannedPackage,
    pub(crate) main: Cause,
    /// All causes, in order of precedence, without the main one.
    pub(crate) further: Vec<Cause>,
    /// The build that comes nearest to being taken.
    pub(crate) nearest: Option<JudgedBuild<'a>>,
    /// The hidden entry that emerge would take, or that is of the planned version.
    pub(crate) hidden: Option<&'a PackageStatus>,
}

/// A build with its causes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JudgedBuild<'a> {
    pub(crate) candidate: &'a Candidate,
    pub(crate) causes: Vec<Cause>,
    /// Flags of the build that package.use cannot or must not change, without signs.
    pub(crate) immutable: Vec<&'a str>,
}

/// Judges all packages that would be compiled, in the order of the merge list.
pub(crate) fn analyses<'a>(calculation: &'a Calculation, offer: &OfferLookup<'a>) -> Vec<Analysis<'a>> {
    let all = calculation.all.as_deref().unwrap_or_default();
    let compiled = calculation.packages.iter().filter(|planned| planned.kind == MergeKind::Ebuild);
    compiled.map(|planned| analysis(planned, all, offer)).collect()
}

fn analysis<'a>(planned: &'a PlannedPackage, all: &[PlannedName], offer: &OfferLookup<'a>) -> Analysis<'a> {
    static UNKNOWN: SourceFacts =
        SourceFacts { live: false, bindist: false, excluded: None, ignored: Vec::new(), candidates: Vec::new() };
    let facts = planned.source.as_ref().unwrap_or(&UNKNOWN);
    let builds: Vec<JudgedBuild<'a>> =
        facts.candidates.iter().map(|candidate| JudgedBuild::new(planned, facts, candidate)).collect();
    let same = || builds.iter().filter(|build| build.candidate.same_version);
    let nearest = same().max_by_key(|build| build.rank()).or_else(|| nearest_other_version(&builds));
    let mut causes: Vec<Cause> = same().flat_map(|build| build.causes.iter().copied()).collect();
    let of_builds = match nearest {
        None => Cause::Absent,
        Some(build) if build.candidate.same_version => build.first_cause(),
        Some(build) => {
            causes.extend(&build.causes);
            Cause::Version
        }
    };
    let (hidden, of_hidden) = hidden(planned, all, offer, same().next().is_some());
    causes.extend([of_builds].into_iter().chain(hidden.and_then(cause_of_hiding)));
    causes.extend(facts.excluded.is_some().then_some(Cause::Excluded));
    let main = of_hidden.unwrap_or(of_builds);
    causes.retain(|cause| *cause != main);
    if hidden.is_some() {
        // An index has it.
        causes.retain(|cause| *cause != Cause::Absent);
    }
    causes.sort_unstable();
    causes.dedup();
    Analysis { planned, main, further: causes, nearest: nearest.cloned(), hidden }
}

/// The hidden entry that matters for `planned`, and the main cause if that is hiding it. Hiding is
/// the main cause if the calculation with hidden entries takes a binary package, or if the only
/// entries of the planned version are hidden.
fn hidden<'a>(
    planned: &PlannedPackage,
    all: &[PlannedName],
    offer: &OfferLookup<'a>,
    is_shown: bool,
) -> (Option<&'a PackageStatus>, Option<Cause>) {
    let taken = all.iter().find(|other| {
        other.kind == MergeKind::Binary && cp_of(&other.cpv) == cp_of(&planned.cpv) && other.slot == planned.slot
    });
    let entries = || offer.hidden(&planned.cp);
    let of_taken = taken.and_then(|taken| {
        let is_same = |entry: &&PackageStatus| entry.cpv == taken.cpv;
        let exact = entries().filter(is_same).find(|entry| entry.build_id == taken.build_id);
        exact.or_else(|| entries().find(is_same))
    });
    let of_version = || {
        let entries = entries().filter(|entry| entry.cpv == planned.cpv);
        entries.min_by_key(|entry| (Reverse(entry.causes.iter().min().copied()), Reverse(entry.build_id)))
    };
    let Some(entry) = of_taken.or_else(of_version) else {
        // The calculation took a build, but no decision about it is known.
        return (None, taken.map(|_| Cause::Hidden));
    };
    let is_main = of_taken.is_some() || !is_shown;
    (Some(entry), Some(entry).filter(|_| is_main).and_then(cause_of_hiding))
}

fn cause_of_hiding(entry: &PackageStatus) -> Option<Cause> {
    entry.hidden.map_or(Some(Cause::Hidden), HiddenReason::cause)
}

/// Of builds of other versions, the one that emerge would take soonest: of the planned slot, with
/// the fewest causes, and then the newest version.
fn nearest_other_version<'a, 'b>(builds: &'b [JudgedBuild<'a>]) -> Option<&'b JudgedBuild<'a>> {
    let rank = |build: &&JudgedBuild<'a>| {
        let Candidate { same_slot, version, .. } = build.candidate;
        (*same_slot, Reverse(build.causes.len()), Version::parse(version), Reverse(build.distance()))
    };
    builds.iter().max_by(|one, other| rank(one).cmp(&rank(other)))
}

/// The part of a CPV before the version; Portage's names are valid.
fn cp_of(cpv: &str) -> Option<String> {
    crate::portage::Cpv::parse(cpv).ok().map(|cpv| cpv.cp().to_owned())
}

impl<'a> JudgedBuild<'a> {
    fn new(planned: &'a PlannedPackage, facts: &SourceFacts, candidate: &'a Candidate) -> Self {
        let mut causes = causes_of_build(facts, candidate);
        if causes.is_empty() && candidate.same_version {
            let sub_slot_differs = candidate.full_slot() != planned.full_slot();
            causes.push(if sub_slot_differs { Cause::Slot } else { Cause::Unknown });
        }
        Self { candidate, causes, immutable: immutable_flags(planned, candidate) }
    }

    fn first_cause(&self) -> Cause {
        self.causes.first().copied().unwrap_or(Cause::Unknown)
    }

    pub(crate) fn distance(&self) -> Distance {
        Distance::new(self.candidate.use_differs.len(), self.candidate.build_id)
    }

    /// The greatest build is the nearest one. A build whose flags can all be set comes before the
    /// others.
    fn rank(&self) -> (Cause, bool, Reverse<usize>, Reverse<Distance>) {
        (self.first_cause(), self.immutable.is_empty(), Reverse(self.causes.len()), Reverse(self.distance()))
    }

    /// Whether a line in package.use is enough to have emerge take the build.
    pub(crate) fn needs_only_use(&self) -> bool {
        self.causes == [Cause::Use] && self.immutable.is_empty()
    }
}

/// The causes that keep emerge from one build, in order of precedence.
fn causes_of_build(facts: &SourceFacts, build: &Candidate) -> Vec<Cause> {
    let mut causes: Vec<Cause> = build.masks.iter().map(|mask| cause_of_mask(mask)).collect();
    let ignored = facts.ignored.iter().filter(|other| other.cpv == build.cpv && other.build_id == build.build_id);
    let known = |reason: &str| IGNORED.iter().find(|(name, _)| *name == reason).map(|(_, cause)| *cause);
    causes.extend(ignored.filter_map(|other| known(&other.reason)));
    let stated = [
        (!build.same_slot, Cause::Slot),
        (!build.chost_ok, Cause::Chost),
        (!build.missing_keywords.is_empty(), Cause::Keywords),
        (!build.missing_licenses.is_empty(), Cause::License),
        (build.excluded || facts.excluded.is_some(), Cause::Excluded),
        (build.user_patches_differ, Cause::UserPatches),
        (!build.use_differs.is_empty(), Cause::Use),
        (build.changed_deps == Some(true) || !build.dropped.is_empty(), Cause::Deps),
    ];
    causes.extend(stated.into_iter().filter_map(|(applies, cause)| applies.then_some(cause)));
    causes.sort_unstable();
    causes.dedup();
    causes
}

/// The cause of a mask, by the words with which Portage names it.
fn cause_of_mask(mask: &str) -> Cause {
    let mask = mask.to_ascii_lowercase();
    if mask.contains("keyword") {
        Cause::Keywords
    } else if mask.contains("license") {
        Cause::License
    } else if mask.contains("chost") {
        Cause::Chost
    } else if mask.contains("eapi") {
        Cause::Unknown
    } else {
        // package.mask, the profile, ACCEPT_PROPERTIES and ACCEPT_RESTRICT.
        Cause::Excluded
    }
}

/// The differing flags that package.use cannot change, because the profile forces or masks them or
/// the ebuild does not have them, and those that the administrator has set.
fn immutable_flags<'a>(planned: &PlannedPackage, build: &'a Candidate) -> Vec<&'a str> {
    let names = build.use_differs.iter().map(|flag| flag.trim_start_matches(['+', '-']));
    let has = |flags: &[String], name: &str| flags.iter().any(|flag| flag == name);
    let is_immutable = |name: &&str| {
        let set = [&planned.forced, &planned.masked, &planned.fixed];
        !has(&planned.iuse, name) || set.into_iter().any(|flags| has(flags, name))
    };
    names.filter(is_immutable).collect()
}

#[cfg(test)]
mod tests;
