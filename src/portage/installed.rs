//! Installed packages: the database `var/db/pkg`, one directory `CATEGORY/PF` for each package.
//!
//! Source: portage 3.0.83, `dbapi/vartree.py`. A package's values are in two layouts, which may stand side by side:
//!
//! | layout | files in `CATEGORY/PF` | written by |
//! |---|---|---|
//! | individual | one for each value, named as the value is (`SLOT`, `USE`, …) | every Portage |
//! | consolidated | `metadata`: `#format=1`, a line `KEY=value` for each value, `#dir_mtime=` with the directory's mtime in ns | 3.0.82 and later |
//!
//! `emaint vdb --fix --delete-individual-files` leaves the consolidated one alone. As in Portage, a `metadata` of another format,
//! or older than its directory, says nothing, and one that is current says all: a value that it lacks is empty.
//!
//! No symbolic link below `var/db/pkg` is followed, only plain files are opened, and reads and counts are bounded. A name that is
//! no package's is skipped, and so is a package with something else in the place of a file. What the database says decides what
//! is prefetched and evicted, nothing else.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::Cpv;

/// Below Portage's root.
const PATH: &str = "var/db/pkg";
/// Packages that are read; a whole desktop has about 2,000.
const MAX_INSTALLED: usize = 16 << 10;
/// Names that are read, in all directories together.
const MAX_NAMES: usize = 64 << 10;
/// Bytes that are read of a value's own file.
const MAX_VALUE: u64 = 16 << 10;
/// Bytes of a `metadata` file; a larger one says nothing. The dependencies of the largest packages take some 30 KiB.
const MAX_METADATA: u64 = 1 << 20;
const METADATA: &CStr = c"metadata";
const FORMAT: &str = "#format=";
const DIR_MTIME: &str = "#dir_mtime=";

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledPackage {
    /// Category, name and version.
    pub cpv: Cpv,
    /// SLOT without its subslot; `0` where the database has none, as in Portage.
    pub slot: String,
    /// USE, sorted.
    pub flags: Vec<String>,
    /// BUILD_ID: it was installed from a binary package.
    pub build_id: Option<u64>,
    /// BUILD_TIME, seconds since the epoch.
    pub build_time: Option<u64>,
}

/// The installed-package database of one root.
#[derive(Debug)]
pub struct InstalledPackages {
    base: File,
}

impl InstalledPackages {
    /// Opens the database below `root`.
    ///
    /// # Errors
    /// There is no such directory, or it cannot be opened.
    pub fn open(root: &Path) -> io::Result<Self> {
        // The database itself may lie elsewhere.
        let flags = directory() - OFlags::NOFOLLOW;
        Ok(Self { base: rustix::fs::open(root.join(PATH), flags, Mode::empty())?.into() })
    }

    /// Reads every package.
    ///
    /// # Errors
    /// The database cannot be listed. A package that cannot be read is skipped.
    pub fn all(&self) -> io::Result<Vec<InstalledPackage>> {
        self.up_to(MAX_INSTALLED, MAX_NAMES)
    }

    fn up_to(&self, packages: usize, mut left: usize) -> io::Result<Vec<InstalledPackage>> {
        let mut found = Vec::new();
        for category in names(&self.base, &mut left)? {
            let Ok(category) = category.into_string() else { continue };
            for cpv in self.list(&category, &mut left) {
                found.extend(self.read(&cpv));
                if found.len() >= packages {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }

    /// Lists the packages of a category, without reading them. A category that cannot be read has none.
    #[must_use]
    pub fn in_category(&self, category: &str) -> Vec<Cpv> {
        self.list(category, &mut { MAX_NAMES })
    }

    fn list(&self, category: &str, left: &mut usize) -> Vec<Cpv> {
        let Some(directory) = enter(&self.base, category) else { return Vec::new() };
        let names = names(&directory, left).unwrap_or_default();
        names.iter().filter_map(|pf| Cpv::parse(&format!("{category}/{}", pf.to_str().ok()?)).ok()).collect()
    }

    /// Reads one package. `None`: it is not installed, or something of it cannot be read.
    #[must_use]
    pub fn read(&self, cpv: &Cpv) -> Option<InstalledPackage> {
        let (category, pf) = cpv.as_str().split_once('/')?;
        let values = InstalledValues::of(enter(&enter(&self.base, category)?, pf)?).ok()?;
        let get = |name| values.get(name).ok();
        let slot = get("SLOT")?.split('/').next().filter(|slot| !slot.is_empty()).unwrap_or("0").to_owned();
        let mut flags: Vec<String> = get("USE")?.split_whitespace().map(str::to_owned).collect();
        flags.sort();
        let build_id = get("BUILD_ID")?.parse().ok();
        let build_time = get("BUILD_TIME")?.parse().ok();
        Some(InstalledPackage { cpv: cpv.clone(), slot, flags, build_id, build_time })
    }
}

fn directory() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC
}

/// A directory of Portage's in another.
fn enter(parent: &File, name: &str) -> Option<File> {
    // Portage's own temporary ones begin with a minus.
    let usual = !name.starts_with(['.', '-']) && !name.contains('/');
    usual.then(|| rustix::fs::openat(parent, name, directory(), Mode::empty()).ok()).flatten().map(File::from)
}

/// Names of what may be directories, `left` at most.
fn names(directory: &File, left: &mut usize) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if *left == 0 {
            break;
        }
        *left -= 1;
        if matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// The values of one package, from whichever layout counts.
struct InstalledValues {
    directory: File,
    consolidated: Option<HashMap<String, String>>,
}

impl InstalledValues {
    fn of(directory: File) -> io::Result<Self> {
        let consolidated = consolidated(&directory)?;
        Ok(Self { directory, consolidated })
    }

    /// A value without white space around it; empty where there is none.
    fn get(&self, name: &str) -> io::Result<String> {
        let value = match &self.consolidated {
            Some(values) => values.get(name).cloned(),
            None => text(&self.directory, &CString::new(name)?, MAX_VALUE)?,
        };
        Ok(value.unwrap_or_default().trim().to_owned())
    }
}

/// What `metadata` says. `None`: it does not count.
fn consolidated(directory: &File) -> io::Result<Option<HashMap<String, String>>> {
    let text = text(directory, METADATA, MAX_METADATA + 1)?;
    let Some(text) = text.filter(|text| text.len() as u64 <= MAX_METADATA) else { return Ok(None) };
    let made = directory.metadata()?;
    let made = i128::from(made.mtime()) * 1_000_000_000 + i128::from(made.mtime_nsec());
    Ok(parse(&text).filter(|(_, written)| *written == made).map(|(values, _)| values))
}

/// Values of a `metadata` file, and its `#dir_mtime`. `None`: Portage would not take them.
fn parse(text: &str) -> Option<(HashMap<String, String>, i128)> {
    let (mut values, mut format, mut written) = (HashMap::new(), None, None);
    for line in text.lines() {
        if let Some(version) = line.strip_prefix(FORMAT) {
            format = Some(version.trim().parse::<u32>().ok().filter(|version| *version == 1)?);
        } else if let Some(time) = line.strip_prefix(DIR_MTIME) {
            written = Some(time.trim().parse().ok()?);
        } else if let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            values.insert(key.to_owned(), value.to_owned());
        }
    }
    format.and(written).map(|written| (values, written))
}

/// The first `max` bytes of a plain file. `None`: there is none of that name.
fn text(directory: &File, name: &CStr, max: u64) -> io::Result<Option<String>> {
    let no_file = || io::Error::other("this is no plain file");
    // A device may do something when it is opened.
    let place = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        other => other?,
    };
    if !FileType::from_raw_mode(place.st_mode).is_file() {
        return Err(no_file());
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(directory, name, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(no_file());
    }
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests;
