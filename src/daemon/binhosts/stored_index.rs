//! The last good index of a binhost, on disk.
//!
//! ```text
//! index/<binhost>/Packages    the index, in compressed blocks: see `index::blocks`
//! index/<binhost>/state.json  its validators, and when a URL last confirmed it
//! ```
//! Every file is written under another name, made durable and renamed. The daemon does not rely on
//! a file that is damaged or whose size or modification time has changed: it fetches the whole
//! index again.
//!
//! Not its job: which URL sends the index, and which entries are hidden (`binhost`).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};

use super::freshness::{self, Order};
use crate::index::{Index, IndexLimits, IndexText};
use crate::sys::durable::{blocking, read_json, sync_directory, write_json};
use crate::sys::file_stamp::{FileStamp, stamp};
use crate::sys::{Clock, WholeFile, seconds_now};
use crate::tree::PACKAGES;
use crate::upstream::Validators;

/// How much older the confirmation time on disk may be than the real one, s. A refresh without
/// changes writes nothing until then.
const CONFIRMED_MEMORY: u64 = 6 * 3600;
const STATE: &str = "state.json";
/// File name of an index while it is downloaded.
const INCOMING: &str = "Packages.new";

/// Facts about the stored index, as kept in `state.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct IndexState {
    pub(super) validators: Validators,
    /// When a URL last confirmed or sent the index, seconds since the epoch.
    pub(super) confirmed: u64,
    /// The newest TIMESTAMP that was accepted while the clock was set, seconds since the epoch: see
    /// `freshness`.
    pub(super) timestamp: i64,
    /// Value of `timestamp` before the first of the consecutive indexes from the URL `from`.
    pub(super) before: i64,
    /// Whether too many entries of the index are mismatches; see `mismatches`.
    pub(super) distrusted: bool,
    /// Since when the binhost has had only older indexes, seconds since the epoch; 0: it has a
    /// current one.
    pub(super) older_since: u64,
    /// URL of the binhost that the index came from, without credentials.
    pub(super) from: String,
    /// Size and modification time of the stored index when it was written.
    file: FileStamp,
}

/// Whether a refresh changed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefreshOutcome {
    /// The view has to be composed again.
    Changed,
    /// Index and votes are as before.
    Unmodified,
}

/// The latest index of a binhost, which is in use.
#[derive(Debug, Clone)]
pub(crate) struct Current {
    pub(crate) index: Arc<Index>,
    pub(crate) stamp: FileStamp,
}

/// An index that was downloaded and may be taken.
#[derive(Debug)]
pub(super) enum Received {
    /// The index in use.
    Same,
    /// Another one, with its file.
    New(File, Box<Index>),
}

/// See the module's documentation.
#[derive(Debug)]
pub(in crate::daemon) struct StoredIndex {
    directory: PathBuf,
    /// Name of the binhost, for the log.
    binhost: String,
    limits: IndexLimits,
    pub(super) state: IndexState,
    /// The state as last written to disk.
    written: IndexState,
    current: Option<Current>,
    /// Number of attempts to fetch the index that were cancelled.
    broken_off: u64,
    /// Bytes that downloads wrote to the disk since [`StoredIndex::take_downloaded`].
    downloaded: u64,
    /// Most bytes that the next index may take in memory. `None`: it goes to the disk.
    memory: Option<u64>,
    /// The index in use, if the disk had no room for it.
    in_memory: Option<File>,
}

impl StoredIndex {
    /// The stored state in `directory`. The index itself is read by [`StoredIndex::load`].
    pub(super) fn open(directory: PathBuf, binhost: &str, limits: IndexLimits) -> Self {
        let state: IndexState = read_json(&directory.join(STATE)).unwrap_or_default();
        remove_broken_off(&directory);
        let (written, binhost) = (state.clone(), binhost.to_owned());
        Self {
            directory,
            binhost,
            limits,
            state,
            written,
            current: None,
            broken_off: 0,
            downloaded: 0,
            memory: None,
            in_memory: None,
        }
    }

    /// Reads the stored index. `false`: there is no usable one.
    pub(super) async fn load(&mut self) -> bool {
        let path = self.path();
        let stored = blocking(move || match File::open(&path) {
            Ok(file) => Ok(Some((Index::parse(file.try_clone()?)?, stamp(&file.metadata()?)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        });
        match stored.await {
            Ok(Some((index, stamp))) => {
                if stamp != self.state.file {
                    // The index may have lost entries and still parse. It is better than no index
                    // until a URL sends the whole one.
                    tracing::warn!(
                        binhost = self.binhost,
                        "the stored index is not as it was left; it will be fetched again"
                    );
                    self.state.validators = Validators::default();
                }
                self.current = Some(Current { index: Arc::new(index), stamp });
                return true;
            }
            Ok(None) => self.forget_index(),
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    binhost = self.binhost,
                    "the stored index cannot be used; it will be fetched again"
                );
                self.forget_index();
            }
        }
        false
    }

    /// Forgets the unusable stored index, but not the TIMESTAMP that the next index must reach.
    fn forget_index(&mut self) {
        self.state = IndexState { timestamp: self.state.timestamp, ..IndexState::default() };
    }

    /// The file of the index.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.join(PACKAGES)
    }

    /// The latest index, if there is one.
    pub(in crate::daemon) fn current(&self) -> Option<&Current> {
        self.current.as_ref()
    }

    /// Whether the index in use may stay. An index from the future may not: any other index is
    /// better.
    pub(super) fn current_stays(&self, clock: Clock) -> bool {
        self.current
            .as_ref()
            .is_some_and(|current| !freshness::is_ahead(freshness::judged_timestamp(&current.index, clock), clock))
    }

    /// The newest TIMESTAMP that counts. Includes that of an index that was taken without a clock,
    /// once the clock is set.
    pub(super) fn newest(&self, clock: Clock) -> i64 {
        let current = self.current.as_ref().filter(|_| clock != Clock::Unset && !self.state.distrusted);
        let current = current.map(|current| freshness::judged_timestamp(&current.index, clock));
        freshness::newest([self.state.timestamp].into_iter().chain(current), clock)
    }

    /// Notes that all indexes of the binhost are older than the one in use.
    pub(super) async fn note_older(&mut self, clock: Clock) {
        if let (Clock::Set(now), 0) = (clock, self.state.older_since) {
            self.state.older_since = now;
            self.write_state().await;
        }
    }

    pub(super) fn older_since(&self) -> Option<u64> {
        Some(self.state.older_since).filter(|since| *since > 0)
    }

    /// Opens an empty file for an index to be downloaded. A file that is still empty is used again:
    /// without an index, nothing is written to disk.
    pub(super) fn incoming(&self) -> anyhow::Result<File> {
        if self.memory.is_some() {
            let made = rustix::fs::memfd_create("binhostfs-index", MemfdFlags::CLOEXEC);
            return Ok(made.context("creating a file in memory for the index")?.into());
        }
        let path = self.incoming_path();
        let creating = || format!("creating {}", path.display());
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.with_context(creating)?;
        if file.metadata().with_context(creating)?.len() > 0 {
            file.set_len(0).with_context(creating)?;
        }
        Ok(file)
    }

    /// Counts the bytes that a download has written to its file.
    pub(super) fn note_downloaded(&mut self, file: &File) {
        if self.memory.is_none() {
            self.downloaded += file.metadata().map_or(0, |metadata| metadata.len());
        }
    }

    /// Bytes that downloads have written since the last call.
    pub(super) fn take_downloaded(&mut self) -> u64 {
        std::mem::take(&mut self.downloaded)
    }

    /// Sets where the next index goes: into memory, of at most so many bytes, or to the disk.
    pub(super) fn hold_in_memory(&mut self, most: Option<u64>) {
        self.memory = most;
    }

    /// Bytes of the stored index.
    pub(super) fn bytes(&self) -> u64 {
        self.current.as_ref().map_or(0, |current| current.stamp.0)
    }

    /// Most bytes that the next index may take.
    pub(super) fn room(&self) -> u64 {
        self.memory.unwrap_or(u64::MAX)
    }

    /// Removes the partial download of an index, which may have up to half a GiB.
    pub(super) fn discard(&self) {
        let path = self.incoming_path();
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > 0)
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::debug!(path = %path.display(), %error, "removing what is no index");
        }
    }

    /// Cleans up after a cancelled refresh. A part of that refresh may still write to its file, so
    /// the next index gets another file name.
    pub(in crate::daemon) fn break_off(&mut self) {
        self.discard();
        self.broken_off += 1;
    }

    /// Notes that a URL confirmed the index as unchanged.
    pub(super) async fn confirm(&mut self) {
        (self.state.confirmed, self.state.older_since) = (seconds_now(), 0);
        let same = IndexState { confirmed: self.written.confirmed, ..self.state.clone() } == self.written;
        if !same || self.state.confirmed.abs_diff(self.written.confirmed) > CONFIRMED_MEMORY {
            self.write_state().await;
        }
    }

    /// Judges the index in `file`, which [`StoredIndex::incoming`] made. Changes nothing.
    pub(super) async fn judge(&self, file: File, (order, clock): (Order, Clock)) -> anyhow::Result<Received> {
        if let Some(timestamp) = self.current_timestamp(&file, clock).await {
            // The server sent the same index because it does not support conditional requests.
            freshness::judge(timestamp, self.newest(clock), order, clock)?;
            return Ok(Received::Same);
        }
        let copy = file.try_clone()?;
        let limits = self.limits;
        let index = blocking(move || Ok(Index::parse_within(copy, limits)?)).await?;
        freshness::judge(freshness::judged_timestamp(&index, clock), self.newest(clock), order, clock)?;
        Ok(Received::New(file, Box::new(index)))
    }

    /// Takes an index that was judged, from the URL `from`. On an error nothing changes. The caller
    /// has [`StoredIndex::confirm`] or [`StoredIndex::write_state`] write the new state.
    pub(super) async fn take(
        &mut self,
        received: Received,
        (validators, from): (Validators, String),
        clock: Clock,
    ) -> anyhow::Result<RefreshOutcome> {
        let Received::New(file, index) = received else {
            (self.state.validators, self.state.from) = (validators, from);
            self.discard();
            return Ok(RefreshOutcome::Unmodified);
        };
        let (new, to, directory) = (self.incoming_path(), self.path(), self.directory.clone());
        let synced = file.try_clone()?;
        if self.memory.is_some() {
            tracing::warn!(binhost = self.binhost, "the disk is full: the new index is held in memory");
        } else {
            blocking(move || {
                synced.sync_all().context("writing the index to disk")?;
                fs::rename(&new, &to).with_context(|| format!("renaming the index to {}", to.display()))?;
                sync_directory(&directory)
            })
            .await?;
        }
        let stamp = stamp(&file.metadata()?);
        // No await from here on: a refresh may be cancelled at each.
        let timestamp =
            freshness::newest_after(freshness::judged_timestamp(&index, clock), self.state.timestamp, clock);
        let confirmed = seconds_now();
        let before = if from == self.state.from { self.state.before } else { self.state.timestamp };
        let (older_since, distrusted) = (0, false);
        self.state =
            IndexState { validators, confirmed, timestamp, before, distrusted, older_since, from, file: stamp };
        self.current = Some(Current { index: Arc::new(*index), stamp });
        self.in_memory = self.memory.is_some().then_some(file);
        Ok(RefreshOutcome::Changed)
    }

    /// Whether the index in use is held in memory.
    pub(super) fn is_in_memory(&self) -> bool {
        self.in_memory.is_some()
    }

    /// Writes an index that is held in memory to the disk, and uses it from there.
    ///
    /// # Errors
    /// The disk has no room for it. It stays in use.
    pub(super) async fn store(&mut self) -> anyhow::Result<()> {
        let Some(held) = self.in_memory.as_ref().map(File::try_clone).transpose()? else { return Ok(()) };
        let (file, limits) = (self.incoming()?, self.limits);
        let (new, to, directory) = (self.incoming_path(), self.path(), self.directory.clone());
        let stored = blocking(move || {
            io::copy(&mut WholeFile::new(&held), &mut &file).context("writing the index to disk")?;
            file.sync_all().context("writing the index to disk")?;
            fs::rename(&new, &to).with_context(|| format!("renaming the index to {}", to.display()))?;
            sync_directory(&directory)?;
            Ok((Index::parse_within(file.try_clone()?, limits)?, stamp(&file.metadata()?)))
        });
        let (index, stamp) = stored.await.inspect_err(|_| self.discard())?;
        self.downloaded += stamp.0;
        self.state.file = stamp;
        self.current = Some(Current { index: Arc::new(index), stamp });
        self.in_memory = None;
        tracing::info!(binhost = self.binhost, "the index that was held in memory is stored");
        self.write_state().await;
        Ok(())
    }

    /// TIMESTAMP of the index in use, if `file` has the same text.
    async fn current_timestamp(&self, file: &File, clock: Clock) -> Option<i64> {
        let path = self.path();
        let current = self.current.clone()?;
        let (new, known) = (file.try_clone().ok()?, current.stamp);
        let held = self.in_memory.as_ref().and_then(|held| held.try_clone().ok());
        let compare = move || {
            let stored = held.map_or_else(|| File::open(path), Ok)?;
            Ok(stamp(&stored.metadata()?) == known && IndexText::open(stored)?.is_same(&IndexText::open(new)?)?)
        };
        blocking(compare).await.unwrap_or(false).then(|| freshness::judged_timestamp(&current.index, clock))
    }

    pub(super) async fn write_state(&mut self) {
        let (path, state) = (self.directory.join(STATE), self.state.clone());
        self.written = state.clone();
        if let Err(error) = blocking(move || write_json(&path, &state)).await {
            self.written = IndexState::default();
            tracing::warn!(
                error = format!("{error:#}"),
                "the state of the index is not written; it will be fetched whole at the next start"
            );
        }
    }

    fn incoming_path(&self) -> PathBuf {
        self.directory.join(match self.broken_off {
            0 => INCOMING.to_owned(),
            number => format!("{INCOMING}.{number}"),
        })
    }
}

/// Removes the files that an earlier daemon left of cancelled attempts.
fn remove_broken_off(directory: &Path) {
    let all = fs::read_dir(directory).into_iter().flatten().flatten();
    let left =
        all.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&format!("{INCOMING}."))));
    for path in left.map(|entry| entry.path()) {
        // A file that cannot be removed only takes up space.
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tempfile::TempDir;

    use super::*;

    /// Takes an index with a TIMESTAMP of 1,000 s and this VERSION line.
    async fn take(stored: &mut StoredIndex, text: &str) -> anyhow::Result<RefreshOutcome> {
        let mut file = stored.incoming().unwrap();
        file.write_all(format!("TIMESTAMP: 1000\n{text}\n\n").as_bytes()).unwrap();
        let validators = Validators { etag: Some("\"1\"".to_owned()), ..Validators::default() };
        let (from, now) = ("http://a".to_owned(), Clock::showing(seconds_now()));
        let received = stored.judge(file, (Order::Forward, now)).await?;
        stored.take(received, (validators, from), now).await
    }

    #[tokio::test]
    async fn what_was_changed_on_disk_is_not_said_to_be_known() {
        let place = TempDir::new().unwrap();
        let open = || StoredIndex::open(place.path().to_owned(), "one", IndexLimits::of_size(1 << 20));
        let mut stored = open();
        assert!(!stored.load().await && stored.current().is_none());
        assert!(take(&mut stored, "VERSION: 1").await.is_err());
        assert_eq!(take(&mut stored, "VERSION: 0").await.unwrap(), RefreshOutcome::Changed);
        stored.write_state().await;
        let mut next = open();
        assert!(next.load().await && next.state.validators.etag.is_some());
        // Bytes that still are an index, but not the one that was written.
        fs::write(next.path(), "TIMESTAMP: 1000\nVERSION: 0\nX: y\n\n").unwrap();
        let mut next = open();
        assert!(next.load().await && next.state.validators == Validators::default());
        // One that is none is forgotten, but not how new it was.
        fs::write(next.path(), "<html>").unwrap();
        let mut next = open();
        assert!(!next.load().await && next.current().is_none());
        assert_eq!((next.state.timestamp, &next.state.validators), (1000, &Validators::default()));
    }

    #[tokio::test]
    async fn what_is_held_in_memory_is_stored_when_there_is_room() {
        let place = TempDir::new().unwrap();
        let open = || StoredIndex::open(place.path().to_owned(), "one", IndexLimits::of_size(1 << 20));
        let mut stored = open();
        stored.hold_in_memory(Some(1 << 20));
        take(&mut stored, "VERSION: 0").await.unwrap();
        stored.hold_in_memory(None);
        assert!(stored.is_in_memory() && !stored.path().exists());
        // The same index again is no news.
        assert_eq!(take(&mut stored, "VERSION: 0").await.unwrap(), RefreshOutcome::Unmodified);
        stored.store().await.unwrap();
        assert!(!stored.is_in_memory() && stored.take_downloaded() > 0);
        let mut next = open();
        assert!(next.load().await && next.state.validators.etag.is_some());
        assert_eq!(take(&mut stored, "VERSION: 0").await.unwrap(), RefreshOutcome::Unmodified);
    }

    #[test]
    fn what_a_broken_off_refresh_left_goes() {
        let place = TempDir::new().unwrap();
        let open = || StoredIndex::open(place.path().to_owned(), "one", IndexLimits::of_size(1 << 20));
        let mut stored = open();
        let names = || {
            let mut all: Vec<_> = fs::read_dir(place.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
            all.sort();
            all
        };
        stored.incoming().unwrap().write_all(b"half").unwrap();
        stored.break_off();
        assert!(names().is_empty(), "{:?}", names());
        stored.incoming().unwrap().write_all(b"half").unwrap();
        assert_eq!(names(), ["Packages.new.1"]);
        // It is empty when it is used again, and removed by the next daemon.
        assert_eq!(stored.incoming().unwrap().metadata().unwrap().len(), 0);
        drop(open());
        assert!(names().is_empty(), "{:?}", names());
    }
}
