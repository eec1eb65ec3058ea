//! Finds the lines with which emerge compiles the fewest packages, by trying them.
//!
//! A round is one calculation. All lines that the report suggests are tried together. A line makes
//! things worse if emerge does not resolve with it, or if packages would be compiled that were
//! binary before or were not needed. The lines that may be the cause are taken out of the group:
//! those whose package depends on these packages, or is named by emerge. Where none is, the group
//! is halved. A line that does not help is taken back.

use std::collections::{HashSet, VecDeque};

use super::lines::OwnLines;
use super::report::{CoverageReport, SourceReport};
use crate::portage::Cpv;

/// The most calculations.
pub(crate) const MAX_ROUNDS: usize = 5;

/// Lines, and what emerge does with them.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) lines: OwnLines,
    pub(crate) report: CoverageReport,
}

/// Which masks may be written.
#[derive(Debug)]
pub(crate) enum Holds {
    /// Masks of all packages that can be held.
    All,
    /// Only these masks, where they are still needed.
    Only(OwnLines),
}

/// Lines that belong together: a mask often needs a line in package.use.
#[derive(Debug)]
struct LineChange {
    /// Name of the package that is to become binary.
    name: String,
    package_use: Option<String>,
    mask: Option<String>,
}

/// The result of the rounds.
#[derive(Debug)]
pub(crate) struct Improved {
    pub(crate) best: Attempt,
    pub(crate) rounds: usize,
}

/// The result of a calculation with some lines.
#[derive(Debug)]
pub(crate) enum Tried {
    Resolved(Box<CoverageReport>),
    /// emerge does not resolve; its message.
    Unresolved(String),
}

/// Improves `start`. `calculate` tries other lines.
pub(crate) fn improve<E>(
    start: Attempt,
    holds: &Holds,
    mut calculate: impl FnMut(&OwnLines) -> Result<Tried, E>,
) -> Result<Improved, E> {
    let mut search = Search { best: start, tried: HashSet::new(), groups: VecDeque::new() };
    search.suggest(holds);
    let mut rounds = 0;
    while rounds < MAX_ROUNDS
        && let Some(group) = search.groups.pop_front()
    {
        rounds += 1;
        let lines = with(&search.best.lines, &group);
        let tried = calculate(&lines)?;
        search.judge(group, lines, tried, holds);
    }
    search.take_back_useless();
    Ok(Improved { best: search.best, rounds })
}

struct Search {
    best: Attempt,
    /// Lines that were tried, so that none is tried twice.
    tried: HashSet<String>,
    groups: VecDeque<Vec<LineChange>>,
}

impl Search {
    /// Adds a group with all new lines that the best report suggests.
    fn suggest(&mut self, holds: &Holds) {
        let changes = self.best.report.source.iter().filter_map(|source| change(source, holds));
        let new: Vec<LineChange> = changes.filter(|change| !self.tried.contains(&change.key())).collect();
        self.tried.extend(new.iter().map(LineChange::key));
        if !new.is_empty() {
            self.groups.push_front(new);
        }
    }

    fn judge(&mut self, group: Vec<LineChange>, lines: OwnLines, tried: Tried, holds: &Holds) {
        let suspects = match tried {
            Tried::Resolved(report) => {
                let worse = worse(&self.best.report, &report, holds);
                if worse.is_empty() && report.source.len() < self.best.report.source.len() {
                    self.best = Attempt { lines, report: *report };
                    self.take_back_useless();
                    return self.suggest(holds);
                }
                let dependents: HashSet<String> =
                    worse.iter().flat_map(|source| &source.dependents).map(|cpv| name(cpv)).collect();
                let is_suspect = |change: &LineChange| dependents.contains(&change.name);
                group.iter().map(is_suspect).collect()
            }
            Tried::Unresolved(message) => group.iter().map(|change| message.contains(&change.name)).collect(),
        };
        self.split(group, suspects);
    }

    /// Tries the parts of a group that has made things worse. A line that was alone is given up.
    fn split(&mut self, group: Vec<LineChange>, suspects: Vec<bool>) {
        if group.len() < 2 {
            return;
        }
        let half = group.len() / 2;
        let (suspected, total) = (suspects.iter().filter(|suspect| **suspect).count(), suspects.len());
        let is_known = suspected > 0 && suspected < total;
        let numbered = group.into_iter().zip(suspects).enumerate();
        let (second, first): (Vec<_>, Vec<_>) =
            numbered.partition(|(number, (_, suspect))| if is_known { *suspect } else { *number >= half });
        for part in [second, first] {
            self.groups.push_front(part.into_iter().map(|(_, (change, _))| change).collect());
        }
    }

    /// Removes the lines of packages that are compiled nevertheless.
    fn take_back_useless(&mut self) {
        let Attempt { lines, report } = &mut self.best;
        for source in &report.source {
            lines.package_use.remove(&format!("={}", source.cpv));
            // Masked for a build that emerge does not take.
            let slot = source.slot.split('/').next().unwrap_or_default();
            lines.package_mask.remove(&format!(">{}:{slot}", source.cpv));
        }
    }
}

impl LineChange {
    fn key(&self) -> String {
        format!("{:?} {:?}", self.package_use, self.mask)
    }
}

fn change(source: &SourceReport, holds: &Holds) -> Option<LineChange> {
    if let Some(suggestion) = source.suggestion.as_ref().filter(|suggestion| suggestion.file == Some("package.use")) {
        return Some(LineChange { name: name(&source.cpv), package_use: Some(suggestion.line.clone()), mask: None });
    }
    let hold = source.hold.as_ref()?;
    let is_allowed = match holds {
        Holds::All => true,
        Holds::Only(lines) => lines.package_mask.contains(&hold.mask),
    };
    let (package_use, mask) = (hold.package_use.clone(), Some(hold.mask.clone()));
    is_allowed.then(|| LineChange { name: name(&source.cpv), package_use, mask })
}

fn with(lines: &OwnLines, group: &[LineChange]) -> OwnLines {
    let mut lines = lines.clone();
    for change in group {
        change.package_use.iter().for_each(|line| lines.package_use.insert(line));
        change.mask.iter().for_each(|line| lines.package_mask.insert(line));
    }
    lines
}

/// The packages that are compiled after, and were not before, and that no further line would make
/// binary.
fn worse<'a>(before: &CoverageReport, after: &'a CoverageReport, holds: &Holds) -> Vec<&'a SourceReport> {
    let compiled: HashSet<String> = before.source.iter().map(|source| key(&source.cpv, &source.slot)).collect();
    let is_new = |source: &&SourceReport| !compiled.contains(&key(&source.cpv, &source.slot));
    after.source.iter().filter(is_new).filter(|source| change(source, holds).is_none()).collect()
}

/// Name and slot of a package, without version and sub-slot.
fn key(cpv: &str, slot: &str) -> String {
    let slot = slot.split('/').next().unwrap_or_default();
    format!("{}:{slot}", name(cpv))
}

fn name(cpv: &str) -> String {
    Cpv::parse(cpv).map_or_else(|_| cpv.to_owned(), |cpv| cpv.cp().to_owned())
}

#[cfg(test)]
mod tests;
