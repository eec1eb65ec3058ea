//! `Packages` and `Packages.gz` of the local packages alone.
//!
//! Both are written under a temporary name in the lower directory, made durable and renamed.
//!
//! Not its job: entries of remote packages.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::{Compression, GzBuilder};
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::INDEX;
use super::caller::Caller;
use super::lower::LowerCalls;
use super::own_names::{COMPRESSED, NEW};
use super::scan::{FileFacts, LocalScan};
use super::stat::Stat;
use super::unlisted::{self, is_package};
use crate::index::{ListedEntry, Listing, Stanza};

/// A listing that is written, but not yet renamed to its place.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The entries that the new index has.
    pub listing: Arc<Listing>,
    /// The file in the lower directory that waits for its name; `None` where nothing is to be
    /// replaced.
    waits: Option<File>,
}

/// Files that are not packages, with the size and time that they had when this was found out.
pub(crate) type NoPackages = HashSet<(String, FileFacts)>;

/// The indexes in the lower directory.
#[derive(Debug)]
pub(crate) struct LocalIndex {
    pub(super) lower: Arc<LowerCalls>,
    /// Whether nothing may be written, not even an index.
    pub(super) read_only: bool,
}

impl LocalIndex {
    /// The entries of the lower directory's index for which `wanted` returns true; an empty listing
    /// where there is no index.
    ///
    /// # Errors
    /// The index cannot be read.
    pub(crate) fn listing(&self, wanted: impl FnMut(&ListedEntry) -> bool) -> io::Result<Listing> {
        match self.lower.read(Path::new(INDEX)) {
            Ok(file) if file.metadata()?.is_file() => Listing::parse(file, wanted),
            Ok(_) | Err(Errno::NOENT | Errno::LOOP) => Ok(Listing::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Attributes of the index in the lower directory.
    #[must_use]
    pub(crate) fn stat(&self) -> Option<Stat> {
        self.lower.stat(Path::new(INDEX)).ok().filter(Stat::is_file)
    }

    /// Attributes of the compressed index in the lower directory.
    #[must_use]
    pub(crate) fn stat_compressed(&self) -> Option<Stat> {
        self.lower.stat(Path::new(COMPRESSED)).ok().filter(Stat::is_file)
    }

    /// Whether the lower directory has a compressed index.
    #[must_use]
    pub(crate) fn is_compressed(&self) -> bool {
        self.stat_compressed().is_some()
    }

    /// Makes entries for packages that `listing` lacks, from their own metadata. Files in `others`
    /// are skipped. A file that proves to be no package is added to `others`.
    #[must_use]
    pub(crate) fn pick_up(&self, listing: &Listing, survey: &LocalScan, others: &mut NoPackages) -> Vec<Stanza> {
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
                // The file may be readable the next time.
                Err(unlisted::NotPicked::Open(error)) => tracing::debug!(path, %error, "a local file is not listed"),
                Err(error) => {
                    tracing::debug!(path, %error, "a local file is not listed");
                    others.insert(key);
                }
            }
        }
        entries
    }

    /// Writes those entries of `source` whose files exist, and the `amended` entries, to a
    /// temporary file. The current index stays. An index with `amended` entries differs from
    /// Portage's, so it gets a new TIMESTAMP.
    ///
    /// # Errors
    /// An error of reading or writing; EROFS where the lower directory is read-only.
    pub(crate) fn prepare(
        &self,
        source: &Listing,
        survey: &LocalScan,
        amended: Option<&[Stanza]>,
    ) -> io::Result<Prepared> {
        if self.read_only {
            return Err(Errno::ROFS.into());
        }
        let mut file = self.new_file()?;
        let (more, timestamp) = (amended.unwrap_or_default(), amended.map(|_| now()));
        let written = source.write(|entry| survey.has(entry), more, timestamp, &mut file);
        let written = written.and_then(|()| file.sync_all());
        match written.and_then(|()| Ok((Listing::parse(file.try_clone()?, |_| true)?, file))) {
            Ok((listing, file)) => Ok(Prepared { listing: Arc::new(listing), waits: Some(file) }),
            Err(error) => {
                self.discard();
                Err(error)
            }
        }
    }

    /// The same as [`Self::prepare`] for a read-only lower directory: writes to `file`, and
    /// [`Self::commit`] will replace nothing.
    ///
    /// # Errors
    /// An error of reading or writing.
    pub(crate) fn prepare_elsewhere(
        &self,
        source: &Listing,
        survey: &LocalScan,
        more: &[Stanza],
        mut file: File,
    ) -> io::Result<Prepared> {
        source.write(|entry| survey.has(entry), more, Some(now()), &mut file)?;
        Ok(Prepared { listing: Arc::new(Listing::parse(file, |_| true)?), waits: None })
    }

    /// Replaces the index by the prepared one, with owner and permissions of `like`, or else of the
    /// index before.
    ///
    /// # Errors
    /// The index could not be replaced; the one before stays.
    pub(crate) fn commit(&self, prepared: Prepared, like: Option<Stat>) -> io::Result<Arc<Listing>> {
        if let Some(file) = &prepared.waits {
            let timestamp = prepared.listing.header().timestamp();
            let placed = self.place(file, INDEX, like.or_else(|| self.stat()), timestamp);
            if let Err(error) = placed {
                self.discard();
                return Err(error);
            }
        }
        Ok(prepared.listing)
    }

    /// Writes the compressed index again from `Packages`.
    ///
    /// # Errors
    /// The compressed index could not be replaced; the one before stays.
    pub(crate) fn compress(&self, like: Option<Stat>) -> io::Result<()> {
        let compressed =
            self.write_compressed().and_then(|(file, timestamp)| self.place(&file, COMPRESSED, like, timestamp));
        compressed.inspect_err(|_| self.discard())
    }

    /// Removes the temporary file of a prepared index.
    pub(crate) fn discard(&self) {
        // A file that cannot be removed does no harm: the mount never shows it, and the next write
        // removes it first.
        let _ = rustix::fs::unlinkat(self.lower.root(), NEW, AtFlags::empty());
    }

    /// Removes the compressed index, as the caller.
    ///
    /// # Errors
    /// Those of unlink(2).
    pub(crate) fn remove_compressed(&self, caller: Caller) -> Result<(), Errno> {
        caller.act(|| rustix::fs::unlinkat(self.lower.root(), COMPRESSED, AtFlags::empty()))
    }

    /// Makes the temporary file; never opens an existing one. Other users may be able to write to
    /// the directory and to put a link there.
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

    /// Renames the temporary file to `name`. Its modification time becomes TIMESTAMP, as Portage
    /// sets it.
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

/// The present time in seconds since the epoch.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| span.as_secs().cast_signed())
}

#[cfg(test)]
mod tests;
