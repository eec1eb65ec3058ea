//! Eviction classes of cached packages, by what is installed on the host (`cache::EvictionClass`).
//!
//! Of Portage's installed-package database, the daemon lists the categories of cached packages, and
//! reads the packages that are cached in some version. A host without Portage has no database, and
//! so no installed packages. Packages that containers have installed do not count.
//!
//! A package that only kept generations name counts as installed: it is kept for a rollback.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::cache::{DigestOf, EvictionClass, EvictionClasses};
use crate::daemon::generations;
use crate::index::{EntryId, Stanza, View};
use crate::portage::{Cpv, InstalledPackage, InstalledPackages};
use crate::tree::Snapshots;

/// The eviction class of each cached package that can be opened, or shown again by a rollback.
pub(crate) fn classes(root: &Path, snapshots: &Snapshots, cache: &Path, digest_of: DigestOf<'_>) -> EvictionClasses {
    let (mut installed, mut classes) = (Installed::below(root), EvictionClasses::new());
    // Most entries are in all trees, and are classified once.
    let mut seen: HashSet<EntryId> = HashSet::new();
    for tree in snapshots.all() {
        let view: &View = tree.view();
        for row in 0..view.len() as u32 {
            let new = view.record(row).filter(|record| seen.insert(record.id));
            let Some(digest) = new.and_then(|record| digest_of(record.id)) else { continue };
            let class =
                view.stanza(row).ok().and_then(|stanza| installed.classify(&stanza)).unwrap_or(EvictionClass::Waiting);
            // One blob may be shown at several paths, and counts as what keeps it longest.
            classes.entry(digest).and_modify(|known| *known = class.max(*known)).or_insert(class);
        }
    }
    let generations = generations::stored(&generations::directory(cache));
    for id in generations.iter().flat_map(generations::StoredGeneration::named).filter(|id| seen.insert(*id)) {
        if let Some(digest) = digest_of(id) {
            classes.entry(digest).or_insert(EvictionClass::Installed);
        }
    }
    classes
}

/// Installed packages, of the categories and packages that were looked up.
struct Installed {
    database: Option<InstalledPackages>,
    categories: HashMap<String, Vec<Cpv>>,
    /// Installed versions, by category and name.
    packages: HashMap<String, Vec<InstalledPackage>>,
}

impl Installed {
    fn below(root: &Path) -> Self {
        // A host without Portage has no database.
        let database = InstalledPackages::open(root).ok();
        Self { database, categories: HashMap::new(), packages: HashMap::new() }
    }

    /// The eviction class of an entry. `None`: the stanza is no package.
    fn classify(&mut self, stanza: &Stanza) -> Option<EvictionClass> {
        let entry = stanza.entry().ok()?;
        let cpv = &entry.cpv;
        let slot = main_slot(stanza.get("SLOT").unwrap_or("0"));
        let mut class = EvictionClass::Waiting;
        // Another slot is another package.
        for other in self.of(cpv).iter().filter(|other| other.slot == slot) {
            let same_build = other.build_id == entry.build_id || entry.build_id.is_none();
            let same_time = other.build_time == entry.build_time || entry.build_time.is_none();
            if other.cpv == *cpv && same_build && same_time {
                return Some(EvictionClass::Installed);
            }
            // Another build of the installed version may be installed next, so it is not
            // superseded.
            if other.cpv.version() > cpv.version() {
                class = EvictionClass::Superseded;
            }
        }
        Some(class)
    }

    /// The installed versions of a package.
    fn of(&mut self, cpv: &Cpv) -> &[InstalledPackage] {
        let Some(database) = &self.database else { return &[] };
        let category = self.categories.entry(cpv.category().to_owned());
        let category = category.or_insert_with(|| database.in_category(cpv.category()));
        let versions = category.iter().filter(|other| other.cp() == cpv.cp());
        let packages = self.packages.entry(cpv.cp().to_owned());
        packages.or_insert_with(|| versions.filter_map(|version| database.read(version)).collect())
    }
}

/// SLOT without the sub-slot.
fn main_slot(slot: &str) -> &str {
    slot.split('/').next().unwrap_or(slot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{BinhostId, Index};
    use std::fs;
    use std::io::{Seek as _, Write as _};
    use std::os::unix::fs::MetadataExt as _;
    use std::sync::Arc;

    /// Portage's two layouts of an installed package's values.
    #[derive(Clone, Copy)]
    enum Layout {
        Individual,
        Consolidated,
    }

    fn install(root: &Path, layout: Layout, pf: &str, values: &[(&str, &str)]) {
        let directory = root.join("var/db/pkg/a").join(pf);
        fs::create_dir_all(&directory).unwrap();
        if let Layout::Individual = layout {
            return values.iter().for_each(|(name, value)| fs::write(directory.join(name), value).unwrap());
        }
        fs::write(directory.join("metadata"), "").unwrap();
        let made = fs::metadata(&directory).unwrap();
        let values: String = values.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        let stamp = format!("#dir_mtime={}{:09}\n", made.mtime(), made.mtime_nsec());
        fs::write(directory.join("metadata"), format!("#format=1\n{values}{stamp}")).unwrap();
    }

    /// Eviction classes of packages `a/PF:SLOT`, build BUILD.
    fn classified(root: &Path, packages: &[(&str, &str, u32)]) -> Vec<EvictionClass> {
        let mut file = tempfile::tempfile().unwrap();
        write!(file, "VERSION: 0\n\n").unwrap();
        for (pf, slot, build) in packages {
            let path = format!("a/{pf}-{build}.gpkg.tar");
            writeln!(file, "BUILD_ID: {build}\nBUILD_TIME: {build}00\nCPV: a/{pf}\nMD5: {:032x}\nPATH: {path}\nSIZE: 9\nMTIME: 5\nSLOT: {slot}\n", build).unwrap();
        }
        file.rewind().unwrap();
        let index = Arc::new(Index::parse(file).unwrap());
        let view = View::whole(BinhostId(0), index);
        assert_eq!(view.len(), packages.len());
        let mut installed = Installed::below(root);
        let rows = (0..view.len() as u32)
            .map(|row| (view.path(row).to_owned(), installed.classify(&view.stanza(row).unwrap()).unwrap()));
        let by_path: HashMap<String, EvictionClass> = rows.collect();
        packages.iter().map(|(pf, _, build)| by_path[&format!("a/{pf}-{build}.gpkg.tar")]).collect()
    }

    #[test]
    fn what_is_installed_and_what_it_has_outlived() {
        use EvictionClass::{Installed, Superseded, Waiting};
        for layout in [Layout::Individual, Layout::Consolidated] {
            let place = tempfile::tempdir().unwrap();
            let install = |pf, build, time, slot| {
                install(place.path(), layout, pf, &[("BUILD_ID", build), ("BUILD_TIME", time), ("SLOT", slot)]);
            };
            install("p-2", "2", "200", "0/1");
            install("s-1.2", "1", "100", "1");
            install("s-2.1", "1", "100", "2");
            let classes = classified(
                place.path(),
                &[
                    ("p-1", "0/1", 1),
                    ("p-2", "0/1", 2),
                    ("p-2", "0/1", 3),
                    ("p-3", "0/2", 1),
                    ("q-1", "0", 1),
                    ("s-1.3", "1", 1),
                    ("s-2.0", "2", 1),
                ],
            );
            assert_eq!(classes, [Superseded, Installed, Waiting, Waiting, Waiting, Waiting, Superseded]);
            assert_eq!(classified(&place.path().join("none"), &[("p-2", "0", 2)]), [Waiting]);
        }
    }
}
