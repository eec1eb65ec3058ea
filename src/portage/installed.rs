//! Reads the installed packages from the database `var/db/pkg`, one directory `CATEGORY/PF` for
//! each package.
//!
//! Source: portage 3.0.83, `dbapi/vartree.py`. A package's values are in two layouts, and one
//! package may have both:
//!
//! | layout | files in `CATEGORY/PF` | written by |
//! |---|---|---|
//! | individual | one for each value, named as the value is (`SLOT`, `USE`, …) | every Portage |
//! | consolidated | one file `metadata` | 3.0.82 and later |
//!
//! `metadata` has `#format=1`, a line `KEY=value` for each value, and `#dir_mtime=` with the
//! directory's mtime in ns.
//!
//! After `emaint vdb --fix --delete-individual-files`, only the consolidated layout is left. As in
//! Portage, a `metadata` file of another format, or one older than its directory, is ignored. A
//! current one replaces the individual files: a value that it lacks is empty.
//!
//! Symbolic links below `var/db/pkg` are not followed, only plain files are opened, and reads and
//! counts are bounded. A name that is no package's is skipped. So is a package with another type of
//! file in the place of a plain one.
//!
//! The database affects prefetches and evictions, nothing else.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::Cpv;

/// The path of the database below Portage's root.
const PATH: &str = "var/db/pkg";
/// The most packages that are read; a whole desktop has about 2,000.
const MAX_INSTALLED: usize = 16 << 10;
/// The most names that are read, in all directories together.
const MAX_NAMES: usize = 64 << 10;
/// The most bytes that are read of an individual value's file.
const MAX_VALUE: u64 = 16 << 10;
/// The most bytes of a `metadata` file; a larger one is ignored. The dependencies of the largest
/// packages take some 30 KiB.
const MAX_METADATA: u64 = 1 << 20;
const METADATA: &CStr = c"metadata";
const FORMAT: &str = "#format=";
const DIR_MTIME: &str = "#dir_mtime=";

/// An installed package with the values that the daemon uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledPackage {
    pub cpv: Cpv,
    /// SLOT without its subslot; `0` where the database has none, as in Portage.
    pub slot: String,
    /// The words of USE, sorted.
    pub flags: Vec<String>,
    /// BUILD_ID, where the package was installed from a binary package that has one.
    pub build_id: Option<u64>,
    /// BUILD_TIME in seconds since the epoch.
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
    /// The directory does not exist, or cannot be opened.
    pub fn open(root: &Path) -> io::Result<Self> {
        // The database itself may be a symbolic link to another place.
        let flags = directory() - OFlags::NOFOLLOW;
        Ok(Self { base: rustix::fs::open(root.join(PATH), flags, Mode::empty())?.into() })
    }

    /// Reads every package that is installed. A package that cannot be read is skipped.
    ///
    /// # Errors
    /// The database cannot be listed.
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

    /// Lists the packages of a category, without reading them. A category that cannot be read has
    /// none.
    #[must_use]
    pub fn in_category(&self, category: &str) -> Vec<Cpv> {
        self.list(category, &mut { MAX_NAMES })
    }

    fn list(&self, category: &str, left: &mut usize) -> Vec<Cpv> {
        let Some(directory) = enter(&self.base, category) else { return Vec::new() };
        let names = names(&directory, left).unwrap_or_default();
        names.iter().filter_map(|pf| Cpv::parse(&format!("{category}/{}", pf.to_str().ok()?)).ok()).collect()
    }

    /// Reads the values of one package. `None`: the package is not installed, or one of its values
    /// cannot be read.
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

/// Opens a directory of the database in another one.
fn enter(parent: &File, name: &str) -> Option<File> {
    // Portage's temporary directories begin with a minus.
    let usual = !name.starts_with(['.', '-']) && !name.contains('/');
    usual.then(|| rustix::fs::openat(parent, name, directory(), Mode::empty()).ok()).flatten().map(File::from)
}

/// The names that may be directories; counts all names and stops when `left` is 0.
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

/// The values of one package, from the layout that counts.
struct InstalledValues {
    directory: File,
    consolidated: Option<HashMap<String, String>>,
}

impl InstalledValues {
    fn of(directory: File) -> io::Result<Self> {
        let consolidated = consolidated(&directory)?;
        Ok(Self { directory, consolidated })
    }

    /// A value without white space around it; empty where the package lacks it.
    fn get(&self, name: &str) -> io::Result<String> {
        let value = match &self.consolidated {
            Some(values) => values.get(name).cloned(),
            None => text(&self.directory, &CString::new(name)?, MAX_VALUE)?,
        };
        Ok(value.unwrap_or_default().trim().to_owned())
    }
}

/// The values in `metadata`. `None`: the file is missing, too large, invalid or older than its
/// directory.
fn consolidated(directory: &File) -> io::Result<Option<HashMap<String, String>>> {
    let text = text(directory, METADATA, MAX_METADATA + 1)?;
    let Some(text) = text.filter(|text| text.len() as u64 <= MAX_METADATA) else { return Ok(None) };
    let made = directory.metadata()?;
    let made = i128::from(made.mtime()) * 1_000_000_000 + i128::from(made.mtime_nsec());
    Ok(parse(&text).filter(|(_, written)| *written == made).map(|(values, _)| values))
}

/// Parses the values and the `#dir_mtime` of a `metadata` file. `None`: Portage would ignore the
/// file.
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

/// The first `max` bytes of a plain file. `None`: the file does not exist.
fn text(directory: &File, name: &CStr, max: u64) -> io::Result<Option<String>> {
    let no_file = || io::Error::other("this is no plain file");
    // Check the type first, because opening a device may have side effects.
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
