//! Portage's plan: what an emerge is going to install, in its order.
//!
//! Portage writes it to `<EROOT>/var/cache/edb/mtimedb` before the first merge (`_emerge/Scheduler.py`, `_save_resume_list`):
//! JSON, whose `resume.binpkgs` has an object for each binary package with the keys of `Packages`, and whose
//! `resume.mergelist` has `["binary", ROOT, CPV, "merge"]` for each one that is still to be merged.
//!
//! The file is another one's, in another one's file system: it is found below that process's root and nowhere else, opened
//! only when it is a plain file, read up to a bound, and believed in nothing but that it names packages.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path};
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::index::View;
use crate::portage::Cpv;

/// Below EROOT.
pub(super) const PATH: &str = "var/cache/edb/mtimedb";
/// Largest file that is read: some ten times what 2,000 packages take.
const MAX_SIZE: u64 = 4 << 20;
/// Packages of a plan that are looked at; a whole desktop has about 2,000.
pub(super) const MAX_PLANNED: usize = 4096;
/// A file's time comes from a coarser clock than a process's.
const CLOCKS: Duration = Duration::from_secs(1);

/// Why there is no plan to be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlanError {
    #[error("opening it: {0}")]
    Open(io::Error),
    #[error("it is no plain file")]
    NotAFile,
    #[error("it is larger than {MAX_SIZE} bytes")]
    TooLarge,
    #[error("it is older than the process")]
    Old,
    #[error("reading it: {0}")]
    Read(io::Error),
    #[error("it is not what Portage writes: {0}")]
    Json(#[from] serde_json::Error),
}

/// A package that is to be installed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Planned {
    cpv: Cpv,
    build_id: Option<u64>,
    build_time: Option<u64>,
    size: u64,
}

impl Planned {
    pub(super) fn cpv(&self) -> &Cpv {
        &self.cpv
    }
}

/// Reads the plan of a process whose root directory is `root`, which was `started` then. Without an emerge under way the list
/// is empty.
///
/// # Errors
/// See [`PlanError`].
pub(super) fn read(root: BorrowedFd<'_>, eroot: &Path, started: SystemTime) -> Result<Vec<Planned>, PlanError> {
    // Not opened before it is known to be a file: a device may do something, a pipe may wait.
    let place = place(root, &eroot.join(PATH)).map_err(|error| PlanError::Open(error.into()))?;
    let metadata = File::from(place.try_clone().map_err(PlanError::Open)?).metadata().map_err(PlanError::Open)?;
    if !metadata.is_file() {
        return Err(PlanError::NotAFile);
    }
    if metadata.len() > MAX_SIZE {
        return Err(PlanError::TooLarge);
    }
    // What an earlier emerge left behind when it was broken off.
    if metadata.modified().map_err(PlanError::Read)? + CLOCKS < started {
        return Err(PlanError::Old);
    }
    let path = format!("/proc/self/fd/{}", place.as_raw_fd());
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(PlanError::Open)?;
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(PlanError::Read)?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(PlanError::TooLarge);
    }
    parse(&bytes)
}

/// What a path below `root` leads to.
fn place(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
        // So has systemd, for a service with RestrictSUIDSGID=: it cannot see what openat2 is going to do.
        Err(rustix::io::Errno::NOSYS) => place_without_links(root, path),
        other => other,
    }
}

/// The same step by step, where no symbolic link is on the way.
fn place_without_links(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let mut place = rustix::io::dup(root)?;
    for component in path.components() {
        let name = match component {
            Component::Normal(name) => name,
            Component::RootDir | Component::CurDir => continue,
            Component::ParentDir | Component::Prefix(_) => return Err(rustix::io::Errno::NOTSUP),
        };
        // A link is opened itself, and has nothing below it.
        place = rustix::fs::openat(&place, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    }
    Ok(place)
}

fn parse(bytes: &[u8]) -> Result<Vec<Planned>, PlanError> {
    let Resume { binpkgs, mergelist } = serde_json::from_slice::<Mtimedb>(bytes)?.resume.unwrap_or_default();
    let binary = |(kind, _, cpv, _): (String, IgnoredAny, String, IgnoredAny)| (kind == "binary").then_some(cpv);
    let left: HashSet<String> = mergelist.0.into_iter().filter_map(binary).collect();
    let mut seen = HashSet::new();
    let planned = |binpkg: Binpkg| {
        let natural = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
        let cpv = Cpv::parse(&binpkg.cpv).ok().filter(|cpv| left.contains(cpv.as_str()))?;
        let (build_id, build_time) = (natural(binpkg.build_id), natural(binpkg.build_time));
        Some(Planned { cpv, build_id, build_time, size: natural(binpkg.size)? })
    };
    Ok(binpkgs.0.into_iter().filter_map(planned).filter(|planned| seen.insert(planned.clone())).collect())
}

/// Numbers of the entries that a plan names, in its order.
pub(super) fn rows(view: &View, plan: &[Planned]) -> Vec<u32> {
    places(view, plan).into_iter().flatten().collect()
}

/// For each package of a plan the number of its entry, if it has one. Reads the text of those whose SIZE occurs in it.
pub(super) fn places(view: &View, plan: &[Planned]) -> Vec<Option<u32>> {
    let mut by_size: HashMap<u64, Vec<usize>> = HashMap::new();
    for (at, planned) in plan.iter().enumerate() {
        by_size.entry(planned.size).or_default().push(at);
    }
    let mut found = vec![None; plan.len()];
    for row in 0..view.len() as u32 {
        let Some(wanted) = view.record(row).and_then(|record| by_size.get(&record.size)) else { continue };
        let Ok(entry) = view.entry(row) else { continue };
        for at in wanted {
            let fits = plan.get(*at).is_some_and(|planned| {
                let Planned { cpv, build_id, build_time, .. } = planned;
                // Of an entry without BUILD_TIME, Portage says that it is 0.
                let same_time = entry.build_time.is_none() || build_time.is_none() || *build_time == entry.build_time;
                *cpv == entry.cpv && *build_id == entry.build_id && same_time
            });
            if let Some(slot) = found.get_mut(*at).filter(|slot| fits && slot.is_none()) {
                *slot = Some(row);
            }
        }
    }
    found
}

#[derive(Debug, Deserialize)]
struct Mtimedb {
    resume: Option<Resume>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Resume {
    binpkgs: AtMost<Binpkg>,
    mergelist: AtMost<(String, IgnoredAny, String, IgnoredAny)>,
}

/// Portage leaves out what it does not know, or writes `null`.
#[derive(Debug, Deserialize)]
struct Binpkg {
    #[serde(rename = "CPV")]
    cpv: String,
    #[serde(rename = "BUILD_ID")]
    build_id: Option<i64>,
    #[serde(rename = "BUILD_TIME")]
    build_time: Option<i64>,
    #[serde(rename = "SIZE")]
    size: Option<i64>,
}

/// The first [`MAX_PLANNED`] of a list: an element takes a hundred times the memory that its text does.
#[derive(Debug)]
struct AtMost<T>(Vec<T>);

impl<T> Default for AtMost<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for AtMost<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct First<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for First<T> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
                let mut first = Vec::new();
                while first.len() < MAX_PLANNED {
                    match list.next_element()? {
                        Some(element) => first.push(element),
                        None => return Ok(first),
                    }
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(first)
            }
        }
        deserializer.deserialize_seq(First(std::marker::PhantomData)).map(Self)
    }
}

#[cfg(test)]
mod tests;
