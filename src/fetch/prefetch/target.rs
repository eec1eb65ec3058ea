//! Resolves the target of a prefetch to packages: packages by name, possible upgrades, or the merge
//! plan of an emerge.
//!
//! Of the matching packages, the newest version in each slot is taken. Of several builds of a
//! version, the newest one is taken (BUILD_TIME, then BUILD_ID). If the package is installed, a
//! build with the same USE flags comes first. Upgrades are limited to packages that emerge accepts
//! ([`Acceptance`]). Masks and dependencies are ignored.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};

use crate::fetch::emerge_plan;
use crate::fetch::fetcher::Fetcher;
use crate::fetch::remote_binhost::PackageRef;
use crate::index::{Entry, Stanza, View};
use crate::portage::merge_plan::{self, PlanError};
use crate::portage::{Acceptance, Atom, BinaryPackage, InstalledPackage, InstalledPackages, Version};

/// The packages that a prefetch job or an upgrade prefetch asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PrefetchTarget {
    /// Packages that match these atoms.
    Atoms(Vec<Atom>),
    /// Newer versions, or newer builds, of the installed packages.
    World,
    /// The packages that an emerge of this system is going to install, or was going to install when
    /// it was interrupted.
    Plan,
}

/// The reason why a target cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrefetchTargetError {
    /// The database of installed packages cannot be read.
    #[error("reading what is installed (var/db/pkg below {root}): {source}", root = root.display())]
    Installed {
        /// The root directory of Portage.
        root: std::path::PathBuf,
        source: io::Error,
    },
    /// The merge plan cannot be read.
    #[error("reading what emerge has planned ({path} below {root}): {reason}", path = merge_plan::PATH, root = root.display())]
    Plan {
        /// The root directory of Portage.
        root: std::path::PathBuf,
        reason: String,
    },
    /// The stored index cannot be read.
    #[error("reading the stored index: {0}")]
    Index(#[from] io::Error),
}

/// The result of resolving a target.
#[derive(Debug, Default)]
pub(crate) struct ResolvedTarget {
    /// The packages to fetch.
    pub wanted: Vec<PackageRef>,
    /// The names without a package, each with its reason.
    pub missing: Vec<(String, String)>,
}

impl PrefetchTarget {
    /// Resolves the target to packages of `view` that `fetcher` can fetch. `root`: the directory
    /// with Portage's database and plan. Upgrades are limited to packages that emerge takes by
    /// `acceptance`. Reads the whole index: not for threads that others wait for.
    ///
    /// # Errors
    /// See [`PrefetchTargetError`].
    pub(crate) fn resolve(
        &self,
        fetcher: &Fetcher,
        view: &Arc<View>,
        root: &Path,
        acceptance: &Acceptance,
    ) -> Result<ResolvedTarget, PrefetchTargetError> {
        let (rows, missing) = match self {
            Self::Atoms(atoms) => matching(view, atoms)?,
            Self::World => {
                let installed = InstalledPackages::open(root)
                    .and_then(|database| database.all())
                    .map_err(|source| PrefetchTargetError::Installed { root: root.to_owned(), source })?;
                (upgrades(view, &installed, acceptance)?, Vec::new())
            }
            Self::Plan => planned(view, root)
                .map_err(|error| PrefetchTargetError::Plan { root: root.to_owned(), reason: error.to_string() })?,
        };
        Ok(ResolvedTarget { wanted: rows.into_iter().filter_map(|row| fetcher.wanted(view, row)).collect(), missing })
    }
}

type Matches = (Vec<u32>, Vec<(String, String)>);

fn matching(view: &View, atoms: &[Atom]) -> io::Result<Matches> {
    let (mut best, mut matched) = (Best::default(), vec![false; atoms.len()]);
    each(view, |row, stanza, entry| {
        let header = view.part(row).map(|part| part.index.header());
        let repository = stanza.repository().or_else(|| header.and_then(|header| header.repository()));
        let mut any = false;
        for (atom, matched) in atoms.iter().zip(&mut matched) {
            if atom.matches(&entry.cpv, stanza.get("SLOT"), repository) {
                (any, *matched) = (true, true);
            }
        }
        if any {
            best.offer(row, stanza, entry, false);
        }
    })?;
    let why = "no package that is shown matches; `binhostfs why` says more";
    let unmatched = atoms.iter().zip(&matched).filter(|(_, matched)| !**matched);
    Ok((best.rows(), unmatched.map(|(atom, _)| (atom.to_string(), why.to_owned())).collect()))
}

fn upgrades(view: &View, installed: &[InstalledPackage], acceptance: &Acceptance) -> io::Result<Vec<u32>> {
    let mut by_slot: HashMap<(&str, &str), &InstalledPackage> = HashMap::new();
    for package in installed {
        let place = by_slot.entry((package.cpv.cp(), &package.slot)).or_insert(package);
        if package.cpv.version() > place.cpv.version() {
            *place = package;
        }
    }
    let mut best = Best::default();
    each(view, |row, stanza, entry| {
        let (Some(package), Some(part)) = (by_slot.get(&(entry.cpv.cp(), slot(stanza))), view.part(row)) else {
            return;
        };
        let binary = BinaryPackage { cpv: &entry.cpv, stanza, header: part.index.header() };
        if acceptance.rejections(&binary).is_empty() {
            best.offer(row, stanza, entry, same_flags(stanza, package));
        }
    })?;
    best.of.retain(|(cp, slot), candidate| by_slot.get(&(cp, slot)).is_some_and(|package| candidate.replaces(package)));
    Ok(best.rows())
}

fn planned(view: &View, root: &Path) -> Result<Matches, PlanError> {
    let open = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let top = open.map_err(|error| PlanError::Open(error.into()))?;
    let plan = merge_plan::read(top.as_fd(), root, SystemTime::UNIX_EPOCH)?;
    let (mut rows, mut missing) = (Vec::new(), Vec::new());
    for (planned, row) in plan.iter().zip(emerge_plan::places(view, &plan)) {
        match row {
            Some(row) => rows.push(row),
            None => missing.push((planned.cpv.to_string(), "planned, and not shown, or not any more".to_owned())),
        }
    }
    Ok((rows, missing))
}

/// Calls the function for each entry, with its text.
fn each(view: &View, mut told: impl FnMut(u32, &Stanza, &Entry)) -> io::Result<()> {
    for row in 0..view.len() as u32 {
        let (Some(part), Some(record)) = (view.part(row), view.record(row)) else { continue };
        let stanza = part.index.stanza(record)?;
        told(row, &stanza, &stanza.entry()?);
    }
    Ok(())
}

/// SLOT without its subslot.
fn slot(stanza: &Stanza) -> &str {
    stanza.get("SLOT").unwrap_or("0").split('/').next().unwrap_or_default()
}

/// Whether a package was built with the USE flags of the installed package, as far as the package
/// has these flags.
fn same_flags(stanza: &Stanza, installed: &InstalledPackage) -> bool {
    let on: Vec<&str> = stanza.get("USE").unwrap_or_default().split_whitespace().collect();
    let known = stanza.get("IUSE").unwrap_or_default().split_whitespace();
    let mut known = known.map(|flag| flag.trim_start_matches(['+', '-']));
    known.all(|flag| on.contains(&flag) == installed.flags.iter().any(|other| other == flag))
}

/// The best candidate for each slot of each package.
#[derive(Debug, Default)]
struct Best {
    of: HashMap<(String, String), BuildCandidate>,
}

#[derive(Debug)]
struct BuildCandidate {
    row: u32,
    version: String,
    same_flags: bool,
    build_time: Option<u64>,
    build_id: Option<u64>,
}

impl Best {
    fn offer(&mut self, row: u32, stanza: &Stanza, entry: &Entry, same_flags: bool) {
        let Entry { cpv, build_id, build_time, .. } = entry;
        let version = cpv.version().as_str().to_owned();
        let candidate = BuildCandidate { row, version, same_flags, build_time: *build_time, build_id: *build_id };
        let key = (cpv.cp().to_owned(), slot(stanza).to_owned());
        if self.of.get(&key).is_none_or(|before| candidate.compare(before).is_gt()) {
            self.of.insert(key, candidate);
        }
    }

    /// The row numbers of the candidates, in the order of the view.
    fn rows(self) -> Vec<u32> {
        let mut rows: Vec<u32> = self.of.into_values().map(|candidate| candidate.row).collect();
        rows.sort_unstable();
        rows
    }
}

impl BuildCandidate {
    fn compare(&self, other: &Self) -> Ordering {
        let build = |of: &Self| (of.same_flags, of.build_time, of.build_id);
        Version::parse(&self.version).cmp(&Version::parse(&other.version)).then_with(|| build(self).cmp(&build(other)))
    }

    /// Whether the candidate is newer than the installed package. If the versions are equal, its
    /// build must be newer, and the installed package must come from a binary package.
    fn replaces(&self, installed: &InstalledPackage) -> bool {
        match Version::parse(&self.version).cmp(&Some(installed.cpv.version())) {
            Ordering::Greater => true,
            Ordering::Less => false,
            Ordering::Equal => {
                let newer = self.build_time.zip(installed.build_time).is_some_and(|(ours, theirs)| ours > theirs);
                installed.build_id.is_some() && newer
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    use crate::index::{BinhostId, Index};
    use crate::portage::Cpv;

    /// A view with these entries: the CPV, and further lines of the stanza. The path is made from
    /// the number of the entry.
    fn view(entries: &[(&str, &str)]) -> View {
        let mut text = "VERSION: 0\nREPO: gentoo\n\n".to_owned();
        for (at, (cpv, more)) in entries.iter().enumerate() {
            text += &format!("CPV: {cpv}\nPATH: {at:03}.xpak\nSIZE: 5\nMD5: {at:032x}\n{more}\n");
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        View::whole(BinhostId(0), Arc::new(Index::parse(file).unwrap()))
    }

    fn installed(cpv: &str, slot: &str, build: Option<(u64, u64)>) -> InstalledPackage {
        let (build_id, build_time) = build.unzip();
        let cpv = Cpv::parse(cpv).unwrap();
        InstalledPackage { cpv, slot: slot.to_owned(), flags: vec!["nls".to_owned()], build_id, build_time }
    }

    #[test]
    fn the_newest_of_each_slot() {
        let view = view(&[
            ("a/x-1", ""),
            ("a/x-10", ""),
            ("a/x-9", ""),
            ("a/x-3", "SLOT: 2/2.1\n"),
            ("b/x-1", "BUILD_ID: 2\nBUILD_TIME: 5\n"),
            ("b/x-1", "BUILD_ID: 3\nBUILD_TIME: 5\n"),
            ("b/x-1", "BUILD_ID: 1\nBUILD_TIME: 4\n"),
        ]);
        let rows = |atoms: &[&str]| {
            let atoms: Vec<Atom> = atoms.iter().map(|atom| atom.parse().unwrap()).collect();
            let (rows, missing) = matching(&view, &atoms).unwrap();
            (rows, missing.into_iter().map(|(atom, _)| atom).collect::<Vec<_>>())
        };
        assert_eq!(rows(&["a/x"]), (vec![1, 3], vec![]));
        assert_eq!(rows(&["<a/x-10", "b/x"]), (vec![2, 3, 5], vec![]));
        assert_eq!(rows(&["=a/x-1"]), (vec![0], vec![]));
        assert_eq!(rows(&["*/x:0::gentoo"]), (vec![1, 5], vec![]));
        assert_eq!(rows(&["a/y", "a/x:2"]), (vec![3], vec!["a/y".to_owned()]));
    }

    #[test]
    fn what_would_be_upgraded() {
        let view = view(&[
            ("a/newer-2", ""),
            ("a/newer-3", "SLOT: 3\n"),
            ("a/same-1", "BUILD_ID: 9\nBUILD_TIME: 20\n"),
            ("a/older-1", ""),
            ("a/other-1", ""),
            ("a/flags-2", "IUSE: +nls doc\nUSE: nls\nBUILD_TIME: 1\n"),
            ("a/flags-2", "IUSE: +nls doc\nUSE: nls doc\nBUILD_TIME: 2\n"),
        ]);
        let mut acceptance = Acceptance::default();
        let all = |build, acceptance: &Acceptance| {
            upgrades(
                &view,
                &[
                    installed("a/newer-1", "0", None),
                    installed("a/same-1", "0", build),
                    installed("a/older-2", "0", None),
                    installed("a/flags-1", "0", None),
                    installed("a/absent-1", "0", None),
                ],
                acceptance,
            )
            .unwrap()
        };
        assert_eq!(all(Some((8, 19)), &acceptance), [0, 2, 5]);
        assert_eq!(all(Some((9, 20)), &acceptance), [0, 5]);
        // The installed package was built from source on this machine.
        assert_eq!(all(None, &acceptance), [0, 5]);
        // A package that emerge does not take is not fetched.
        acceptance.exclude = vec!["a/flags".parse().unwrap()];
        assert_eq!(all(None, &acceptance), [0]);
    }
}
