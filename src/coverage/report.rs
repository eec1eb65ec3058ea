//! The report: how much of a merge list comes as binary packages, and why the rest does not.

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;

use super::calculation::{Calculation, MergeKind, PlannedPackage};
use super::causes::{Analysis, analyses};
use super::explanation::explain;
use super::offer::{Offer, OfferLookup};
use super::suggestion::{Suggestion, VersionHold, hold, suggest};
use crate::api::{Cause, HiddenReason};

/// The report as JSON. Keys may be added; no key changes its meaning.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct CoverageReport {
    /// Packages of the merge list.
    pub(crate) packages: usize,
    /// Packages of the merge list that are binary packages.
    pub(crate) binary: usize,
    /// Bytes of all binary packages that are not local.
    pub(crate) download_bytes: u64,
    /// Bytes of those of them that the cache has.
    pub(crate) cached_bytes: u64,
    /// Time for the others at the measured speed of their binhosts. `None`: a speed is not known.
    pub(crate) download_seconds: Option<u64>,
    /// Whether Portage itself has calculated the merge list. `false`: it comes from the text of
    /// `emerge -pv`, which does not show all causes.
    pub(crate) exact: bool,
    /// Version of Portage.
    pub(crate) portage: String,
    /// The packages that would be compiled, in the order of the merge list.
    pub(crate) source: Vec<SourceReport>,
    /// The binary packages, in the order of the merge list.
    pub(crate) binaries: Vec<BinaryReport>,
    /// Remarks for the user.
    pub(crate) notes: Vec<String>,
    /// The written lines, if writing was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) written: Option<WrittenReport>,
}

/// The lines that a run has written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct WrittenReport {
    /// The directory of the files.
    pub(crate) directory: String,
    /// Lines in package.use/zz-binhostfs.
    pub(crate) package_use: usize,
    /// Lines in package.mask/zz-binhostfs.
    pub(crate) package_mask: usize,
    /// Whether the files were changed.
    pub(crate) changed: bool,
    /// Calculations with other lines.
    pub(crate) rounds: usize,
    /// `packages` and `binary` before.
    pub(crate) before_packages: usize,
    pub(crate) before_binary: usize,
}

/// A package that would be compiled.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct SourceReport {
    pub(crate) cpv: String,
    pub(crate) slot: String,
    /// The main cause.
    pub(crate) cause: Cause,
    /// All causes, the main one first.
    pub(crate) causes: Vec<Cause>,
    /// The main cause in words.
    pub(crate) detail: String,
    /// Which reason hides the package, if that is the cause.
    pub(crate) hidden: Option<HiddenReason>,
    pub(crate) nearest: Option<NearestBuild>,
    pub(crate) suggestion: Option<Suggestion>,
    /// The mask with which emerge takes an older version as binary package.
    #[serde(skip)]
    pub(crate) hold: Option<VersionHold>,
    /// The packages of the merge list that depend on it, also through others, by CPV.
    #[serde(skip)]
    pub(crate) dependents: BTreeSet<String>,
}

/// The build that comes nearest to being taken.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct NearestBuild {
    pub(crate) cpv: String,
    pub(crate) slot: String,
    pub(crate) build_id: Option<u64>,
    pub(crate) path: String,
    pub(crate) size: Option<u64>,
    /// Name of the binhost; empty for a local package.
    pub(crate) binhost: String,
    /// The flags that differ, as the build has them.
    pub(crate) use_differs: Vec<String>,
}

/// A package that comes as binary package.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct BinaryReport {
    pub(crate) cpv: String,
    pub(crate) slot: String,
    pub(crate) build_id: Option<u64>,
    pub(crate) path: String,
    pub(crate) size: u64,
    pub(crate) cached: bool,
    /// Whether it is a local package, so that nothing is fetched.
    pub(crate) local: bool,
    /// Name of the binhost; empty for a local package.
    pub(crate) binhost: String,
}

impl CoverageReport {
    /// Makes the report of a calculation that emerge has resolved.
    pub(crate) fn new(calculation: &Calculation, offer: &Offer, exact: bool) -> Self {
        let lookup = OfferLookup::new(offer);
        let binaries: Vec<BinaryReport> = calculation
            .packages
            .iter()
            .filter(|planned| planned.kind == MergeKind::Binary)
            .map(|planned| binary(planned, &lookup))
            .collect();
        let parents: HashMap<&str, &[String]> =
            calculation.packages.iter().map(|planned| (planned.cpv.as_str(), planned.parents.as_slice())).collect();
        let source = analyses(calculation, &lookup).into_iter().map(|analysis| SourceReport {
            dependents: dependents(&analysis.planned.cpv, &parents),
            ..SourceReport::new(&analysis, &lookup)
        });
        let source: Vec<SourceReport> = source.collect();
        let fetched = || binaries.iter().filter(|binary| !binary.local);
        let mut notes = calculation.notes.clone();
        notes.extend(offer.warnings.iter().cloned());
        notes.extend(calculation.all_error.as_ref().map(|error| {
            format!(
                "whether a hidden package is the cause is not known, because emerge cannot calculate with it: {error}"
            )
        }));
        Self {
            packages: binaries.len() + source.len(),
            binary: binaries.len(),
            download_bytes: fetched().map(|binary| binary.size).sum(),
            cached_bytes: fetched().filter(|binary| binary.cached).map(|binary| binary.size).sum(),
            download_seconds: seconds(fetched().filter(|binary| !binary.cached), &lookup),
            exact,
            portage: calculation.portage.clone(),
            source,
            binaries,
            notes,
            written: None,
        }
    }

    /// The share of binary packages in percent; 100 if there are no packages.
    pub(crate) fn percent(&self) -> f64 {
        if self.packages == 0 { 100.0 } else { self.binary as f64 * 100.0 / self.packages as f64 }
    }

    /// The packages that would be compiled by main cause, the most frequent cause first.
    pub(crate) fn by_cause(&self) -> Vec<(Cause, Vec<&SourceReport>)> {
        let mut groups: Vec<(Cause, Vec<&SourceReport>)> = Vec::new();
        for source in &self.source {
            match groups.iter_mut().find(|(cause, _)| *cause == source.cause) {
                Some((_, group)) => group.push(source),
                None => groups.push((source.cause, vec![source])),
            }
        }
        groups.sort_by(|(a, one), (b, other)| (other.len(), *a).cmp(&(one.len(), *b)));
        groups
    }
}

impl SourceReport {
    fn new(analysis: &Analysis<'_>, offer: &OfferLookup<'_>) -> Self {
        let Analysis { planned, main, further, nearest, hidden } = analysis;
        let nearest = nearest.as_ref().map(|build| {
            let candidate = build.candidate;
            NearestBuild {
                cpv: candidate.cpv.clone(),
                slot: candidate.full_slot(),
                build_id: candidate.build_id,
                path: candidate.path.clone(),
                size: candidate.size,
                binhost: offer.shown(&candidate.path).map(|entry| entry.binhost.clone()).unwrap_or_default(),
                use_differs: candidate.use_differs.clone(),
            }
        });
        let is_hidden = matches!(main, Cause::Hidden | Cause::CpuLevel);
        Self {
            cpv: planned.cpv.clone(),
            slot: planned.full_slot(),
            cause: *main,
            causes: [*main].into_iter().chain(further.iter().copied()).collect(),
            detail: explain(analysis),
            hidden: hidden.filter(|_| is_hidden).and_then(|entry| entry.hidden),
            nearest,
            suggestion: suggest(analysis),
            hold: hold(analysis),
            dependents: BTreeSet::new(),
        }
    }
}

/// The packages that depend on `cpv`, also through others.
fn dependents(cpv: &str, parents: &HashMap<&str, &[String]>) -> BTreeSet<String> {
    let (mut found, mut open) = (BTreeSet::new(), vec![cpv]);
    while let Some(cpv) = open.pop() {
        for parent in parents.get(cpv).copied().unwrap_or_default() {
            if found.insert(parent.clone()) {
                open.push(parent);
            }
        }
    }
    found
}

fn binary(planned: &PlannedPackage, offer: &OfferLookup<'_>) -> BinaryReport {
    let binary = planned.binary.clone().unwrap_or_default();
    let entry = offer.shown(&binary.path);
    BinaryReport {
        cpv: planned.cpv.clone(),
        slot: planned.full_slot(),
        build_id: binary.build_id,
        size: binary.size.or_else(|| entry.map(|entry| entry.size)).unwrap_or_default(),
        cached: entry.is_some_and(|entry| entry.cached),
        local: entry.is_some_and(|entry| entry.local),
        binhost: entry.map(|entry| entry.binhost.clone()).unwrap_or_default(),
        path: binary.path,
    }
}

/// The time to fetch `binaries`, one binhost after the other.
fn seconds<'a>(binaries: impl Iterator<Item = &'a BinaryReport>, offer: &OfferLookup<'_>) -> Option<u64> {
    let mut bytes: HashMap<&str, u64> = HashMap::new();
    for binary in binaries {
        *bytes.entry(&binary.binhost).or_default() += binary.size;
    }
    bytes.into_iter().map(|(binhost, bytes)| Some(bytes.div_ceil(offer.rate(binhost)?))).sum()
}
