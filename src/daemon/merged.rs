//! Which cached packages are installed on the host already: what the cache gives up first (`store::Rank`).
//!
//! Portage notes what is installed in `<ROOT>/var/db/pkg/<category>/<pf>/`. Looked at are the directories of the categories of
//! what is cached, and of each package that is installed in some version its SLOT, BUILD_TIME and BUILD_ID. A host without
//! Portage has none of it, and then nothing is installed. Only the host counts: what containers have installed is not
//! looked at.
//!
//! What only a generation that is kept names is there for going back to it, like what is installed.
//!
//! The files are the administrator's, and still not trusted: only plain files of a few bytes are read, and nothing follows from
//! them but the order of eviction.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::generation;
use crate::index::{Cpv, EntryId, Stanza, View};
use crate::store::{Rank, Ranks, Store};
use crate::tree::Snapshots;

/// Packages of one category that are looked at; the largest has some 2,000 in the whole tree.
const MAX_IN_CATEGORY: usize = 10_000;
/// Most bytes of a file that are read.
const MAX_VALUE: u64 = 256;

/// What each cached package is worth now that can be opened, or shown again.
pub(super) fn ranks(vdb: &Path, snapshots: &Snapshots, store: &Store) -> Ranks {
    let (mut installed, mut ranks) = (Installed { vdb, categories: HashMap::new() }, Ranks::new());
    // Most of it is in all of them.
    let mut seen: HashSet<EntryId> = HashSet::new();
    for tree in snapshots.all() {
        let view: &View = tree.view();
        for row in 0..view.len() as u32 {
            let new = view.record(row).filter(|record| seen.insert(record.id));
            let Some(digest) = new.and_then(|record| store.digest(record.id)) else { continue };
            let rank = view.stanza(row).ok().and_then(|stanza| installed.rank(&stanza)).unwrap_or(Rank::Waiting);
            // One body may be shown at several places; what somebody may still want counts.
            let before = ranks.insert(digest, rank);
            if before == Some(Rank::Waiting) {
                ranks.insert(digest, Rank::Waiting);
            }
        }
    }
    let generations = generation::stored(&generation::directory(store.directory()));
    for id in generations.iter().flat_map(generation::Stored::named).filter(|id| seen.insert(*id)) {
        if let Some(digest) = store.digest(id) {
            ranks.entry(digest).or_insert(Rank::Installed);
        }
    }
    ranks
}

struct Installed<'a> {
    vdb: &'a Path,
    /// What is installed of each category that was asked about.
    categories: HashMap<String, Vec<Cpv>>,
}

impl Installed<'_> {
    /// `None`: it is no package.
    fn rank(&mut self, stanza: &Stanza) -> Option<Rank> {
        let entry = stanza.entry().ok()?;
        let cpv = &entry.cpv;
        let vdb = self.vdb;
        let category = self.categories.entry(cpv.category().to_owned());
        let all = category.or_insert_with(|| category_of(vdb, cpv.category()));
        let slot = main_slot(stanza.get("SLOT").unwrap_or("0"));
        let number = |directory: &Path, name| value(directory, name).and_then(|text| text.parse::<u64>().ok());
        let mut rank = Rank::Waiting;
        for other in all.iter().filter(|other| other.cp() == cpv.cp()) {
            let directory = directory(vdb, other);
            // Another slot is another package.
            if value(&directory, "SLOT").is_some_and(|other| main_slot(&other) != slot) {
                continue;
            }
            let same_build = number(&directory, "BUILD_ID") == entry.build_id || entry.build_id.is_none();
            let same_time = number(&directory, "BUILD_TIME") == entry.build_time || entry.build_time.is_none();
            if other == cpv && same_build && same_time {
                return Some(Rank::Installed);
            }
            // Another build of the version that is installed may be what comes next.
            if other.version() > cpv.version() {
                rank = Rank::Spent;
            }
        }
        Some(rank)
    }
}

/// What is installed of a category.
fn category_of(vdb: &Path, category: &str) -> Vec<Cpv> {
    let entries = fs::read_dir(vdb.join(category)).into_iter().flatten().flatten().take(MAX_IN_CATEGORY);
    let cpv = |entry: fs::DirEntry| Cpv::parse(&format!("{category}/{}", entry.file_name().to_str()?)).ok();
    entries.filter_map(cpv).collect()
}

fn directory(vdb: &Path, cpv: &Cpv) -> PathBuf {
    vdb.join(cpv.as_str())
}

/// What a file of an installed package says.
fn value(directory: &Path, name: &str) -> Option<String> {
    // A pipe must not be waited for, a link not be followed.
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
    let file = File::options().read(true).custom_flags(flags).open(directory.join(name)).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(MAX_VALUE).read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned())
}

/// SLOT without the sub-slot.
fn main_slot(slot: &str) -> &str {
    slot.split('/').next().unwrap_or(slot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{Index, OriginId};
    use std::io::{Seek as _, Write as _};
    use std::sync::Arc;

    fn install(vdb: &Path, pf: &str, values: &[(&str, &str)]) {
        fs::create_dir_all(vdb.join("a").join(pf)).unwrap();
        for (name, value) in values {
            fs::write(vdb.join("a").join(pf).join(name), format!("{value}\n")).unwrap();
        }
    }

    /// Ranks of packages `a/PF:SLOT`, build BUILD.
    fn ranked(vdb: &Path, packages: &[(&str, &str, u32)]) -> Vec<Rank> {
        let mut file = tempfile::tempfile().unwrap();
        write!(file, "VERSION: 0\n\n").unwrap();
        for (pf, slot, build) in packages {
            let path = format!("a/{pf}-{build}.gpkg.tar");
            writeln!(file, "BUILD_ID: {build}\nBUILD_TIME: {build}00\nCPV: a/{pf}\nMD5: {:032x}\nPATH: {path}\nSIZE: 9\nMTIME: 5\nSLOT: {slot}\n", build).unwrap();
        }
        file.rewind().unwrap();
        let index = Arc::new(Index::parse(file).unwrap());
        let view = View::whole(OriginId(0), index);
        assert_eq!(view.len(), packages.len());
        let mut installed = Installed { vdb, categories: HashMap::new() };
        let rows = (0..view.len() as u32)
            .map(|row| (view.path(row).to_owned(), installed.rank(&view.stanza(row).unwrap()).unwrap()));
        let by_path: HashMap<String, Rank> = rows.collect();
        packages.iter().map(|(pf, _, build)| by_path[&format!("a/{pf}-{build}.gpkg.tar")]).collect()
    }

    #[test]
    fn what_is_installed_and_what_it_has_outlived() {
        let place = tempfile::tempdir().unwrap();
        let build = |build: &'static str, time: &'static str, slot: &'static str| {
            [("BUILD_ID", build), ("BUILD_TIME", time), ("SLOT", slot)]
        };
        install(place.path(), "p-2", &build("2", "200", "0/1"));
        install(place.path(), "s-1.2", &build("1", "100", "1"));
        install(place.path(), "s-2.1", &build("1", "100", "2"));
        let ranks = ranked(
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
        use Rank::{Installed, Spent, Waiting};
        assert_eq!(ranks, [Spent, Installed, Waiting, Waiting, Waiting, Waiting, Spent]);
        assert_eq!(ranked(&place.path().join("none"), &[("p-2", "0", 2)]), [Waiting]);
    }

    #[test]
    fn hostile_files_are_not_read() {
        let place = tempfile::tempdir().unwrap();
        install(place.path(), "p-2", &[("BUILD_ID", "2"), ("SLOT", "0")]);
        let directory = place.path().join("a/p-2");
        std::os::unix::fs::symlink("/proc/self/status", directory.join("BUILD_TIME")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            directory.join("PIPE"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        fs::write(directory.join("LARGE"), "7".repeat(1 << 20)).unwrap();
        assert_eq!(
            (value(&directory, "BUILD_TIME"), value(&directory, "PIPE"), value(&directory, "none")),
            (None, None, None)
        );
        assert_eq!(value(&directory, "LARGE").unwrap().len() as u64, MAX_VALUE);
        assert_eq!(ranked(place.path(), &[("p-2", "0", 2)]), [Rank::Waiting]);
    }
}
