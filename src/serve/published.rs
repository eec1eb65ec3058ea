//! `Packages` as other machines see it.
//!
//! Portage takes an index only if its TIMESTAMP or Last-Modified is newer than the one that it has,
//! by more than a tolerance. So both are one value, which grows by [`STEP`] at least whenever the
//! content changes, also after a rollback, a restart, and a change of the clock. `serve/state.json`
//! in the cache keeps the value and the digest of the content that it belongs to.
//!
//! On a full disk, the index is made in memory until there is space again.

use std::borrow::Borrow;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use flate2::{Compression, GzBuilder};
use parking_lot::{Mutex, RwLock};
use portable_atomic::AtomicU64;
use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::index::{BinhostId, Digest, DigestWriter, IndexRenderer, Listing, Rendered, Sha256Digest, View};
use crate::sys::durable::{read_json, write_json};
use crate::sys::{is_full, is_full_disk, seconds_now};

/// Seconds from one TIMESTAMP to the next at least. Portage asks for an index that is newer than
/// its own by more than 5 s. Source: portage 3.0.83, `util/_urlopen.py`, TIMESTAMP_TOLERANCE.
const STEP: u64 = 6;
const STATE: &str = "state.json";
/// What precedes the value of TIMESTAMP, which is never in the first line of an index.
const STAMP: &[u8] = b"\nTIMESTAMP: ";
/// Bytes that are read at once.
const PIECE: usize = 64 << 10;

/// The index that was published last.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct IndexStamp {
    /// Its TIMESTAMP, seconds since the epoch.
    timestamp: u64,
    /// Its SHA-256.
    digest: String,
    /// Whether the disk was too full to store this.
    #[serde(skip)]
    is_unsaved: bool,
}

/// Where an index is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Disk,
    Memory,
}

/// An index as a file, plain or compressed.
#[derive(Debug)]
pub(super) struct IndexFile {
    pub(super) file: Arc<File>,
    pub(super) size: u64,
    pub(super) digest: Sha256Digest,
}

/// Both forms of one index.
#[derive(Debug)]
pub(super) struct BothForms {
    pub(super) plain: IndexFile,
    pub(super) compressed: IndexFile,
    /// TIMESTAMP and Last-Modified, seconds since the epoch.
    pub(super) timestamp: u64,
    place: Place,
}

/// The index for other machines.
#[derive(Debug)]
pub(crate) struct PublishedIndex {
    directory: PathBuf,
    state: Mutex<IndexStamp>,
    current: RwLock<Option<Arc<BothForms>>>,
    /// Bytes that were written to the disk since [`Self::take_written`].
    written: AtomicU64,
}

impl PublishedIndex {
    /// Reads what was published last from `directory`, if that is there.
    pub(crate) fn open(directory: PathBuf) -> Self {
        let state = Mutex::new(read_json(&directory.join(STATE)).unwrap_or_default());
        Self { directory, state, current: RwLock::default(), written: AtomicU64::new(0) }
    }

    /// Publishes the entries of the view that `newest` returns, as far as `shares` names their
    /// binhosts, and the local entries beside it. The last one to publish calls `newest` last.
    /// `published` is called before the next one is.
    ///
    /// # Errors
    /// The index cannot be rendered or stored. The one before stays published.
    pub(crate) fn publish<V: Borrow<View>>(
        &self,
        newest: impl FnOnce() -> io::Result<(V, Listing)>,
        shares: &dyn Fn(BinhostId) -> bool,
        published: impl FnOnce(),
    ) -> io::Result<()> {
        self.publish_at(seconds_now(), newest, shares, published)
    }

    fn publish_at<V: Borrow<View>>(
        &self,
        now: u64,
        newest: impl FnOnce() -> io::Result<(V, Listing)>,
        shares: &dyn Fn(BinhostId) -> bool,
        published: impl FnOnce(),
    ) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.is_unsaved {
            self.save(&mut state)?;
        }
        let (view, local) = newest()?;
        let view = view.borrow();
        let next = now.max(state.timestamp.saturating_add(STEP));
        // With the TIMESTAMP of the last index, the same content has the same digest. A first index
        // has none, and the clock may have had a value of fewer digits.
        let before = if state.timestamp.to_string().len() == next.to_string().len() { state.timestamp } else { next };
        let make = |place| {
            let render = |file: &File| IndexRenderer::shared(view, shares, &local)?.render(file, before.cast_signed());
            self.make(place, render, (before, next), &state.digest)
        };
        let made = match make(Place::Disk) {
            Err(error) if is_full(&error) => {
                tracing::warn!(%error, "the index for other machines does not fit on the disk, and is made in memory");
                make(Place::Memory)
            }
            made => made,
        };
        if let Some(both) = made? {
            let digest = both.plain.digest.to_string();
            if digest != state.digest {
                let mut new = IndexStamp { timestamp: both.timestamp, digest, is_unsaved: true };
                // It must not be seen before it is certain that the next one is newer.
                self.save(&mut new)?;
                *state = new;
            }
            if both.place == Place::Disk {
                self.written.fetch_add(both.plain.size + both.compressed.size, Ordering::Relaxed);
            }
            *self.current.write() = Some(Arc::new(both));
        }
        published();
        Ok(())
    }

    /// Makes both forms of an index with one of two TIMESTAMPs: the first one if its digest is
    /// `known` then. `None`: the current index is the same.
    fn make(
        &self,
        place: Place,
        render: impl Fn(&File) -> io::Result<Rendered>,
        (before, next): (u64, u64),
        known: &str,
    ) -> io::Result<Option<BothForms>> {
        let file = self.new_file("Packages.new", place)?;
        let rendered = render(&file)?;
        let is_same = rendered.digest.to_string() == known;
        // What is in memory moves to the disk when there is space.
        if is_same && self.current().is_some_and(|current| current.place == Place::Disk || place == Place::Memory) {
            return Ok(None);
        }
        let mut plain = IndexFile { file: Arc::new(file), size: rendered.size, digest: rendered.digest };
        let timestamp = if is_same { before } else { next };
        if timestamp != before {
            stamp(&mut plain, before, timestamp)?;
        }
        let compressed = self.compress(&plain, timestamp, place)?;
        Ok(Some(BothForms { plain, compressed, timestamp, place }))
    }

    /// Stores the state. On a full disk, the next publication tries again. A restart before that
    /// gives the next index the present time, which is newer as well, unless the restart takes less
    /// than [`STEP`].
    fn save(&self, state: &mut IndexStamp) -> io::Result<()> {
        let stored = match self.make_directory() {
            Ok(()) => write_json(&self.directory.join(STATE), state)
                .map_err(|error| (is_full_disk(error.as_ref()), io::Error::other(format!("{error:#}")))),
            Err(error) => Err((is_full(&error), error)),
        };
        match stored {
            Ok(()) => state.is_unsaved = false,
            Err((true, error)) => tracing::debug!(%error, "the state of the served index is not stored"),
            Err((false, error)) => return Err(error),
        }
        Ok(())
    }

    fn make_directory(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)
    }

    /// Bytes of the disk that the current index takes. Its files have no names.
    pub(crate) fn disk_usage(&self) -> u64 {
        let on_disk = self.current().filter(|current| current.place == Place::Disk);
        let allocated = |index: &IndexFile| index.file.metadata().map_or(0, |metadata| metadata.blocks() * 512);
        on_disk.map_or(0, |current| allocated(&current.plain) + allocated(&current.compressed))
    }

    /// Bytes that were written to the disk since the last call.
    pub(crate) fn take_written(&self) -> u64 {
        self.written.swap(0, Ordering::Relaxed)
    }

    /// The index that other machines get. `None`: none was published yet.
    pub(super) fn current(&self) -> Option<Arc<BothForms>> {
        self.current.read().clone()
    }

    /// TIMESTAMP of the published index, seconds since the epoch; 0: none was published yet.
    #[must_use]
    pub(crate) fn timestamp(&self) -> u64 {
        self.current().map_or(0, |current| current.timestamp)
    }

    fn compress(&self, plain: &IndexFile, timestamp: u64, place: Place) -> io::Result<IndexFile> {
        let file = self.new_file("Packages.gz.new", place)?;
        let counted = DigestWriter::new(BufWriter::new(&file));
        let mtime = u32::try_from(timestamp).unwrap_or_default();
        let mut encoder = GzBuilder::new().mtime(mtime).write(counted, Compression::default());
        pieces(plain, |bytes| encoder.write_all(bytes))?;
        let (size, digest) = encoder.finish()?.finish()?;
        Ok(IndexFile { file: Arc::new(file), size, digest })
    }

    /// A file without a name, which the kernel frees at the last close.
    fn new_file(&self, name: &str, place: Place) -> io::Result<File> {
        if place == Place::Memory {
            return Ok(rustix::fs::memfd_create("binhostfs-served-index", MemfdFlags::CLOEXEC)?.into());
        }
        self.make_directory()?;
        let path = self.directory.join(name);
        let file = File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    }
}

/// Calls `take` with the content of a file, from front to back.
fn pieces(index: &IndexFile, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let (mut buffer, mut offset) = (vec![0; PIECE], 0);
    while offset < index.size {
        let count = index.file.read_at(&mut buffer, offset)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        take(buffer.get(..count).unwrap_or_default())?;
        offset += count as u64;
    }
    Ok(())
}

/// Writes another TIMESTAMP of as many digits.
fn stamp(index: &mut IndexFile, before: u64, timestamp: u64) -> io::Result<()> {
    let (before, after) = (before.to_string(), timestamp.to_string());
    let line = [STAMP, before.as_bytes(), b"\n"].concat();
    let (mut head, mut at) = (Vec::new(), None);
    // The header has one such line, and comes first.
    pieces(index, |bytes| {
        if at.is_none() {
            let from = head.len().saturating_sub(line.len());
            head.extend_from_slice(bytes);
            at = memchr::memmem::find(head.get(from..).unwrap_or_default(), &line).map(|found| from + found);
        }
        Ok(())
    })?;
    let at = at.filter(|_| before.len() == after.len());
    let at = at.ok_or_else(|| io::Error::other("the rendered index has no TIMESTAMP of this length"))?;
    index.file.write_all_at(after.as_bytes(), (at + STAMP.len()) as u64)?;
    let mut hash = Sha256::new();
    pieces(index, |bytes| {
        hash.update(bytes);
        Ok(())
    })?;
    index.digest = Digest(hash.finalize().into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::index::Index;

    fn view(cpv: &str) -> View {
        let text = format!("VERSION: 0\nTIMESTAMP: 7\nARCH: amd64\n\nCPV: {cpv}\nSIZE: 5\nMD5: {:032x}\n\n", 9);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        View::whole(BinhostId(1), Arc::new(Index::parse(file).unwrap()))
    }

    fn text(index: &PublishedIndex) -> String {
        let (mut text, current) = (Vec::new(), index.current().unwrap());
        pieces(&current.plain, |bytes| text.write_all(bytes)).unwrap();
        let mut compressed = Vec::new();
        pieces(&current.compressed, |bytes| compressed.write_all(bytes)).unwrap();
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&*compressed).read_to_end(&mut unpacked).unwrap();
        assert!(unpacked == text, "both forms have the same content");
        assert_eq!(current.plain.digest, Digest(Sha256::digest(&text).into()));
        assert_eq!(current.compressed.digest, Digest(Sha256::digest(&compressed).into()));
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn the_timestamp_grows_with_every_change_and_only_then() {
        let directory = tempfile::tempdir().unwrap();
        let open = || PublishedIndex::open(directory.path().join("serve"));
        let (one, other) = (view("a/b-1"), view("a/b-2"));
        let mut last = 0;
        let mut index = open();
        for (shown, changes) in [(&one, true), (&one, false), (&other, true), (&one, true), (&one, false)] {
            for restart in [false, true] {
                if restart {
                    index = open();
                }
                index.publish(|| Ok((shown, Listing::default())), &|_| true, || {}).unwrap();
                let now = index.current().unwrap().timestamp;
                assert_eq!(
                    (now > last, now >= last + STEP),
                    (changes && !restart, changes && !restart),
                    "{now} after {last}"
                );
                last = now;
                let text = text(&index);
                assert!(
                    text.contains(&format!("\nTIMESTAMP: {now}\n"))
                        && text.contains(&format!("CPV: {}", shown.path(0).trim_end_matches(".tbz2"))),
                    "{text}"
                );
                assert!(text.contains("BINHOSTFS_SOURCE_TIMESTAMP: 7\n"), "{text}");
            }
        }
    }

    #[test]
    fn a_clock_that_was_set_later_hinders_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let open = || PublishedIndex::open(directory.path().join("serve"));
        let (one, other) = (view("a/b-1"), view("a/b-2"));
        let mut index = open();
        for (now, shown) in [(100, &one), (200, &other), (1_800_000_000, &other), (1_800_000_001, &one), (9, &other)] {
            let before = index.current().map_or(0, |current| current.timestamp);
            index.publish_at(now, || Ok((shown, Listing::default())), &|_| true, || {}).unwrap();
            let timestamp = index.current().unwrap().timestamp;
            assert!(timestamp >= now.max(before), "{timestamp} at {now}");
            assert!(text(&index).contains(&format!("\nTIMESTAMP: {timestamp}\n")));
            index = open();
            index.publish_at(now, || Ok((shown, Listing::default())), &|_| true, || {}).unwrap();
            assert_eq!(index.current().unwrap().timestamp, timestamp, "at {now}");
        }
    }

    #[test]
    fn the_view_is_read_when_it_is_its_turn() {
        let directory = tempfile::tempdir().unwrap();
        let index = PublishedIndex::open(directory.path().join("serve"));
        let newest = || {
            assert!(index.state.is_locked(), "another publisher could come in between");
            Ok((view("a/b-1"), Listing::default()))
        };
        let published = || assert!(index.state.is_locked() && index.current().is_some(), "the index comes first");
        index.publish(newest, &|_| true, published).unwrap();
    }

    #[test]
    fn an_index_in_memory_moves_to_the_disk_with_its_timestamp() {
        let directory = tempfile::tempdir().unwrap();
        let index = PublishedIndex::open(directory.path().join("serve"));
        let shown = view("a/b-1");
        let render =
            |file: &File| IndexRenderer::shared(&shown, &|_| true, &Listing::default())?.render(file, 1_760_000_000);
        let both = index.make(Place::Memory, render, (1_760_000_000, 1_760_000_000), "").unwrap().unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is written");
        let (timestamp, digest) = (both.timestamp, both.plain.digest.to_string());
        *index.state.lock() = IndexStamp { timestamp, digest, is_unsaved: true };
        *index.current.write() = Some(Arc::new(both));
        let before = text(&index);
        assert_eq!((index.disk_usage(), index.take_written()), (0, 0));
        // There is space again.
        index.publish(|| Ok((&shown, Listing::default())), &|_| true, || {}).unwrap();
        assert_eq!((text(&index), index.timestamp()), (before, timestamp));
        let written = index.take_written();
        assert!(index.disk_usage() >= written && written > 0 && index.take_written() == 0);
        assert_eq!(PublishedIndex::open(directory.path().join("serve")).state.lock().timestamp, timestamp);
    }

    #[test]
    fn a_binhost_that_does_not_share_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let index = PublishedIndex::open(directory.path().join("serve"));
        index.publish(|| Ok((view("a/b-1"), Listing::default())), &|_| true, || {}).unwrap();
        assert!(text(&index).contains("a/b-1"));
        index.publish(|| Ok((view("a/b-1"), Listing::default())), &|_| false, || {}).unwrap();
        let text = text(&index);
        assert!(!text.contains("a/b-1") && !text.contains("ARCH") && text.contains("PACKAGES: 0\n"), "{text}");
    }

    #[test]
    fn local_entries_come_first_and_change_the_timestamp() {
        let directory = tempfile::tempdir().unwrap();
        let index = PublishedIndex::open(directory.path().join("serve"));
        let local = |text: &str| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            Listing::parse(file, |_| true).unwrap()
        };
        let newest = |local| Ok((view("a/b-1"), local));
        index.publish(|| newest(Listing::default()), &|_| true, || {}).unwrap();
        let before = index.timestamp();
        let own = "CHOST: own\nTIMESTAMP: 99\nVERSION: 0\n\nCPV: a/own-1\nPATH: a/own.xpak\nSIZE: 3\n\n";
        index.publish(|| newest(local(own)), &|_| true, || {}).unwrap();
        let (now, shown) = (index.timestamp(), text(&index));
        assert!(now >= before + STEP && shown.contains(&format!("\nTIMESTAMP: {now}\n")), "{shown}");
        assert!(!shown.contains("TIMESTAMP: 99") && shown.contains("PACKAGES: 2\n"), "{shown}");
        assert!(shown.find("CPV: a/own-1") < shown.find("CPV: a/b-1"), "{shown}");
        // A local package hides the one of a binhost at the same path, also where that is not shared.
        let same = "VERSION: 0\n\nCPV: a/b-1\nPATH: a/b-1.tbz2\nDESC: own\nSIZE: 3\n\n";
        for shares in [true, false] {
            index.publish(|| newest(local(same)), &|_| shares, || {}).unwrap();
            let shown = text(&index);
            assert!(shown.contains("DESC: own\n") && shown.contains("PACKAGES: 1\n"), "{shown}");
        }
    }
}
