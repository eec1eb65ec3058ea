//! `Packages` and `Packages.gz` of the local packages alone.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::{Compression, GzBuilder};
use portable_atomic::AtomicU64;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::lower::Walk;
use super::scan::FileFacts;
use super::{Caller, INDEX, LocalScan, LowerDirectory, Stat, is_package, unlisted};
use crate::index::{ListedEntry, Listing, Stanza};

/// Name of the compressed index in PKGDIR.
pub const COMPRESSED: &str = "Packages.gz";
/// Where both are written before they get their names. Never shown.
const NEW: &str = ".Packages.binhostfs-new";

/// What the name of a copy begins with until the copy is whole. Never shown.
const NEW_COPY: &str = ".binhostfs-new-";

/// Whether `path` is one of those that are made here and not shown as they are.
#[must_use]
pub fn is_own(path: &Path) -> bool {
    is_new_copy(path) || [INDEX, COMPRESSED, NEW].iter().any(|name| path.as_os_str().as_bytes() == name.as_bytes())
}

fn is_new_copy(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().starts_with(NEW_COPY.as_bytes()))
}

/// What a copy is called until it is whole: no other that is being made, of this daemon or of one that goes, is called so.
pub(super) fn new_name() -> String {
    static MADE: AtomicU64 = AtomicU64::new(0);
    format!("{NEW_COPY}{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed))
}

/// A listing that is written, and not yet in its place.
#[derive(Debug)]
pub struct Prepared {
    /// What it lists.
    pub listing: Listing,
    /// The file that waits beneath to be given its name.
    waits: Option<File>,
}

/// Files that are no packages, as they were when that was found out.
pub type NoPackages = HashSet<(String, FileFacts)>;

impl LowerDirectory {
    /// The listing that is beneath, with those of its entries that are `wanted`; an empty one where there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn listing(&self, wanted: impl FnMut(&ListedEntry) -> bool) -> io::Result<Listing> {
        match self.lower.read(Path::new(INDEX)) {
            Ok(file) if file.metadata()?.is_file() => Listing::parse(file, wanted),
            Ok(_) | Err(Errno::NOENT | Errno::LOOP) => Ok(Listing::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Attributes of the index beneath.
    #[must_use]
    pub fn index_stat(&self) -> Option<Stat> {
        self.lower.stat(Path::new(INDEX)).ok().filter(Stat::is_file)
    }

    /// Whether there is a compressed one.
    #[must_use]
    pub fn is_compressed(&self) -> bool {
        self.lower.stat(Path::new(COMPRESSED)).is_ok_and(|stat| stat.is_file())
    }

    /// Entries of packages that `listing` does not know, from their own metadata. What is in `others` is passed over, and what
    /// proves to be no package is added.
    #[must_use]
    pub fn pick_up(&self, listing: &Listing, survey: &LocalScan, others: &mut NoPackages) -> Vec<Stanza> {
        let listed: HashSet<&str> =
            listing.entries().iter().filter(|entry| survey.has(entry)).map(|entry| &*entry.path).collect();
        let new =
            |(path, facts): &(&str, FileFacts)| is_package(Path::new(path)) && facts.0 > 0 && !listed.contains(path);
        let mut found: Vec<(&str, FileFacts)> = survey.files().filter(new).collect();
        found.sort_unstable();
        let mut gone = std::mem::take(others);
        let mut entries = Vec::new();
        for (path, (size, mtime)) in found {
            let key = (path.to_owned(), (size, mtime));
            if gone.remove(&key) {
                others.insert(key);
                continue;
            }
            let file = self.lower.read(Path::new(path)).map_err(unlisted::NotPicked::from);
            match file.and_then(|file| unlisted::entry(&file, path, size, mtime)) {
                Ok(entry) => entries.push(entry),
                // It may be had another time.
                Err(unlisted::NotPicked::Open(error)) => tracing::debug!(path, %error, "a local file is not listed"),
                Err(error) => {
                    tracing::debug!(path, %error, "a local file is not listed");
                    others.insert(key);
                }
            }
        }
        entries
    }

    /// Writes what `source` lists of the local files, with `more`. Nothing is replaced yet. What Portage has not written so is
    /// `amended`: it gets a new TIMESTAMP.
    ///
    /// # Errors
    /// Of whatever could not be read or written; EROFS where nothing may be.
    pub fn prepare(&self, source: &Listing, survey: &LocalScan, amended: Option<&[Stanza]>) -> io::Result<Prepared> {
        if self.read_only {
            return Err(Errno::ROFS.into());
        }
        let mut file = self.new_file()?;
        let (more, timestamp) = (amended.unwrap_or_default(), amended.map(|_| now()));
        let written = source.write(|entry| survey.has(entry), more, timestamp, &mut file);
        let written = written.and_then(|()| file.sync_all());
        match written.and_then(|()| Ok((Listing::parse(file.try_clone()?, |_| true)?, file))) {
            Ok((listing, file)) => Ok(Prepared { listing, waits: Some(file) }),
            Err(error) => {
                self.discard();
                Err(error)
            }
        }
    }

    /// The same for where nothing can be written beneath: to `file`, and nothing will be replaced.
    ///
    /// # Errors
    /// Of whatever could not be read or written.
    pub fn prepare_elsewhere(
        &self,
        source: &Listing,
        survey: &LocalScan,
        more: &[Stanza],
        mut file: File,
    ) -> io::Result<Prepared> {
        source.write(|entry| survey.has(entry), more, Some(now()), &mut file)?;
        Ok(Prepared { listing: Listing::parse(file, |_| true)?, waits: None })
    }

    /// Puts what was prepared in the place of what was there, with owner and permissions as `like` has them, else as before.
    ///
    /// # Errors
    /// It stays as it was.
    pub fn commit(&self, prepared: Prepared, like: Option<Stat>) -> io::Result<Listing> {
        if let Some(file) = &prepared.waits {
            let timestamp = prepared.listing.header().timestamp();
            let placed = self.place(file, INDEX, like.or_else(|| self.index_stat()), timestamp);
            if let Err(error) = placed {
                self.discard();
                return Err(error);
            }
        }
        Ok(prepared.listing)
    }

    /// Makes the compressed index anew from the other one.
    ///
    /// # Errors
    /// It stays as it was.
    pub fn compress(&self, like: Option<Stat>) -> io::Result<()> {
        let compressed =
            self.write_compressed().and_then(|(file, timestamp)| self.place(&file, COMPRESSED, like, timestamp));
        compressed.inspect_err(|_| self.discard())
    }

    /// Removes what was prepared.
    pub fn discard(&self) {
        // It is in nobody's way.
        let _ = rustix::fs::unlinkat(self.lower.root(), NEW, AtFlags::empty());
    }

    /// Removes the compressed index, as the caller.
    ///
    /// # Errors
    /// Of unlink(2).
    pub fn remove_compressed(&self, caller: Caller) -> Result<(), Errno> {
        caller.act(|| rustix::fs::unlinkat(self.lower.root(), COMPRESSED, AtFlags::empty()))
    }

    /// What a crash has left.
    pub(super) fn remove_leftovers(&self) {
        self.discard();
        // What cannot be listed, or removed, is in nobody's way: it is not shown.
        let _ = self.lower.walk(&mut |path, name| {
            if name.kind == FileType::RegularFile
                && is_new_copy(path)
                && let Ok((directory, name)) = self.lower.parent(path)
            {
                let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
            }
            Walk::Go
        });
    }

    /// Never a file that is there: others than root may be able to write to the directory, and put a link there.
    fn new_file(&self) -> io::Result<File> {
        self.discard();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        Ok(self.lower.open_at(Path::new(NEW), flags, Mode::from_raw_mode(0o600))?.into())
    }

    fn write_compressed(&self) -> io::Result<(File, Option<i64>)> {
        let mut source = self.lower.read(Path::new(INDEX))?;
        let file = self.new_file()?;
        let timestamp = Listing::parse(source.try_clone()?, |_| false)?.header().timestamp();
        let mtime = timestamp.and_then(|time| u32::try_from(time).ok()).unwrap_or_default();
        io::Seek::rewind(&mut source)?;
        let mut encoder = GzBuilder::new().mtime(mtime).write(&file, Compression::default());
        let mut buffer = vec![0; 64 << 10];
        loop {
            match source.read(&mut buffer)? {
                0 => break,
                count => encoder.write_all(buffer.get(..count).unwrap_or_default())?,
            }
        }
        encoder.finish()?;
        file.sync_all()?;
        Ok((file, timestamp))
    }

    /// Gives what was written the name `name`, and the time that Portage gives it.
    fn place(&self, file: &File, name: &str, like: Option<Stat>, timestamp: Option<i64>) -> io::Result<()> {
        if let Some(Stat { mode, uid, gid, .. }) = like {
            rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
            rustix::fs::fchmod(file, Mode::from_raw_mode(mode.into()))?;
        } else {
            rustix::fs::fchmod(file, Mode::from_raw_mode(0o644))?;
        }
        if let Some(timestamp) = timestamp {
            let time = Timespec { tv_sec: timestamp, tv_nsec: 0 };
            rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time })?;
        }
        rustix::fs::renameat(self.lower.root(), NEW, self.lower.root(), name)?;
        Ok(())
    }
}

/// Seconds since the epoch.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| span.as_secs().cast_signed())
}
