//! Portage's merge plan: the packages that an emerge is going to install, in its order.
//!
//! Portage writes the plan to `<EROOT>/var/cache/edb/mtimedb` before the first merge
//! (`_emerge/Scheduler.py`, `_save_resume_list`). The file is JSON. Its `resume.binpkgs` has an
//! object for each binary package, with the keys of `Packages`. Its `resume.mergelist` has
//! `["binary", ROOT, CPV, "merge"]` for each package that is still to be merged.
//!
//! The file belongs to another process, in that process's file system, and is not trusted:
//!
//! - The path is resolved below that process's root and nowhere else.
//! - The file is opened only if it is a plain file, and read up to a bound.
//! - The daemon uses its content only as the names of packages.

use std::collections::HashSet;
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

use super::Cpv;

/// The path of the plan, relative to EROOT.
pub(crate) const PATH: &str = "var/cache/edb/mtimedb";
/// Largest file that is read, in bytes: some ten times the size of a plan of 2,000 packages.
const MAX_SIZE: u64 = 4 << 20;
/// Packages of a plan that are considered. A whole desktop has about 2,000.
pub(crate) const MAX_PLANNED: usize = 4096;
/// Tolerance between the time of a file and that of a process: the clock for file times is coarser.
const CLOCKS: Duration = Duration::from_secs(1);

/// The reason why a plan cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    #[error("opening it: {0}")]
    Open(#[from] io::Error),
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
pub(crate) struct Planned {
    pub(crate) cpv: Cpv,
    pub(crate) build_id: Option<u64>,
    /// Seconds since the epoch. Portage writes 0 for an entry without BUILD_TIME.
    pub(crate) build_time: Option<u64>,
    /// In bytes.
    pub(crate) size: u64,
}

/// Reads the plan of a process whose root directory is `root` and which started at `started`. The
/// list is empty if no emerge is under way.
///
/// # Errors
/// See [`PlanError`].
pub(crate) fn read(root: BorrowedFd<'_>, eroot: &Path, started: SystemTime) -> Result<Vec<Planned>, PlanError> {
    // The path is resolved without opening the file for reading: opening a device may have an
    // effect, and opening a pipe may wait.
    let place = place(root, &eroot.join(PATH)).map_err(|error| PlanError::Open(error.into()))?;
    let metadata = File::from(place.try_clone().map_err(PlanError::Open)?).metadata().map_err(PlanError::Open)?;
    if !metadata.is_file() {
        return Err(PlanError::NotAFile);
    }
    if metadata.len() > MAX_SIZE {
        return Err(PlanError::TooLarge);
    }
    // A plan that is older than the process was left behind by an earlier, interrupted emerge.
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

/// Resolves a path below `root`, without opening the file for reading.
fn place(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
        // ENOSYS does not always mean an old kernel. With RestrictSUIDSGID=, systemd blocks openat2
        // for a service, because its filter cannot see the flags of the call.
        Err(rustix::io::Errno::NOSYS) => place_without_links(root, path),
        other => other,
    }
}

/// Resolves a path component by component. Symbolic links are not followed.
fn place_without_links(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let mut place = rustix::io::dup(root)?;
    for component in path.components() {
        let name = match component {
            Component::Normal(name) => name,
            Component::RootDir | Component::CurDir => continue,
            Component::ParentDir | Component::Prefix(_) => return Err(rustix::io::Errno::NOTSUP),
        };
        // O_NOFOLLOW with O_PATH opens a link itself, and a link has nothing below it.
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

/// A binary package in the plan. Portage leaves unknown values out, or writes `null`.
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

/// The first [`MAX_PLANNED`] elements of a list. The bound is needed because an element takes a
/// hundred times the memory of its text.
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
