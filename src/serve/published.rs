//! `Packages` as other machines see it.
//!
//! Portage takes an index only if its TIMESTAMP or Last-Modified is newer than the one that it has,
//! by more than a tolerance. So both are one value, which grows by [`STEP`] at least whenever the
//! content changes, also after a rollback, a restart, and a change of the clock. `serve/state.json`
//! in the cache keeps the value and the digest of the content that it belongs to.

use std::borrow::Borrow;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use flate2::{Compression, GzBuilder};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::index::{BinhostId, Digest, IndexRenderer, Listing, Sha256Digest, View};
use crate::sys::durable::{read_json, write_json};
use crate::sys::seconds_now;

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
struct PublishedState {
    /// Its TIMESTAMP, seconds since the epoch.
    timestamp: u64,
    /// Its SHA-256.
    digest: String,
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
}

/// The index for other machines.
#[derive(Debug)]
pub(crate) struct PublishedIndex {
    directory: PathBuf,
    state: Mutex<PublishedState>,
    current: RwLock<Option<Arc<BothForms>>>,
}

impl PublishedIndex {
    /// Reads what was published last from `directory`, if that is there.
    pub(crate) fn open(directory: PathBuf) -> Self {
        let state = Mutex::new(read_json(&directory.join(STATE)).unwrap_or_default());
        Self { directory, state, current: RwLock::default() }
    }

    /// Publishes the entries of the view that `newest` returns, as far as `shares` names their
    /// binhosts. Whoever publishes last calls `newest` last.
    ///
    /// # Errors
    /// The index cannot be rendered or stored. The one before stays published.
    pub(crate) fn publish<V: Borrow<View>>(
        &self,
        newest: impl FnOnce() -> V,
        shares: &dyn Fn(BinhostId) -> bool,
    ) -> io::Result<()> {
        self.publish_at(seconds_now(), newest, shares)
    }

    fn publish_at<V: Borrow<View>>(
        &self,
        now: u64,
        newest: impl FnOnce() -> V,
        shares: &dyn Fn(BinhostId) -> bool,
    ) -> io::Result<()> {
        let mut state = self.state.lock();
        let view = newest();
        let view = view.borrow();
        let next = now.max(state.timestamp.saturating_add(STEP));
        // With the TIMESTAMP of the last index, the same content has the same digest. A first index
        // has none, and the clock may have had a value of fewer digits.
        let before = if state.timestamp.to_string().len() == next.to_string().len() { state.timestamp } else { next };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let file = self.new_file("Packages.new")?;
        let local = Listing::default();
        let rendered = IndexRenderer::shared(view, shares, &local)?.render(&file, before.cast_signed())?;
        let is_same = rendered.digest.to_string() == state.digest;
        if is_same && self.current().is_some() {
            return Ok(());
        }
        let mut plain = IndexFile { file: Arc::new(file), size: rendered.size, digest: rendered.digest };
        let timestamp = if is_same { before } else { next };
        if timestamp != before {
            stamp(&mut plain, before, timestamp)?;
        }
        let compressed = self.compress(&plain, timestamp)?;
        if !is_same {
            let new = PublishedState { timestamp, digest: plain.digest.to_string() };
            // It must not be seen before it is certain that the next one is newer.
            write_json(&self.directory.join(STATE), &new).map_err(|error| io::Error::other(format!("{error:#}")))?;
            *state = new;
        }
        let both = Arc::new(BothForms { plain, compressed, timestamp });
        *self.current.write() = Some(both);
        Ok(())
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

    fn compress(&self, plain: &IndexFile, timestamp: u64) -> io::Result<IndexFile> {
        let file = self.new_file("Packages.gz.new")?;
        let counted = DigestWriter { out: BufWriter::new(&file), size: 0, hash: Sha256::new() };
        let mtime = u32::try_from(timestamp).unwrap_or_default();
        let mut encoder = GzBuilder::new().mtime(mtime).write(counted, Compression::default());
        pieces(plain, |bytes| encoder.write_all(bytes))?;
        let DigestWriter { mut out, size, hash } = encoder.finish()?;
        out.flush()?;
        drop(out);
        Ok(IndexFile { file: Arc::new(file), size, digest: Digest(hash.finalize().into()) })
    }

    /// A file without a name, which the kernel frees at the last close.
    fn new_file(&self, name: &str) -> io::Result<File> {
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

/// Counts and hashes the bytes that it writes.
struct DigestWriter<W> {
    out: W,
    size: u64,
    hash: Sha256,
}

impl<W: Write> Write for DigestWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.size += written as u64;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
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
                index.publish(|| shown, &|_| true).unwrap();
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
            index.publish_at(now, || shown, &|_| true).unwrap();
            let timestamp = index.current().unwrap().timestamp;
            assert!(timestamp >= now.max(before), "{timestamp} at {now}");
            assert!(text(&index).contains(&format!("\nTIMESTAMP: {timestamp}\n")));
            index = open();
            index.publish_at(now, || shown, &|_| true).unwrap();
            assert_eq!(index.current().unwrap().timestamp, timestamp, "at {now}");
        }
    }

    #[test]
    fn the_view_is_read_when_it_is_its_turn() {
        let directory = tempfile::tempdir().unwrap();
        let index = PublishedIndex::open(directory.path().join("serve"));
        let newest = || {
            assert!(index.state.is_locked(), "another publisher could come in between");
            view("a/b-1")
        };
        index.publish(newest, &|_| true).unwrap();
    }

    #[test]
    fn a_binhost_that_does_not_share_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let index = PublishedIndex::open(directory.path().join("serve"));
        index.publish(|| view("a/b-1"), &|_| true).unwrap();
        assert!(text(&index).contains("a/b-1"));
        index.publish(|| view("a/b-1"), &|_| false).unwrap();
        let text = text(&index);
        assert!(!text.contains("a/b-1") && !text.contains("ARCH") && text.contains("PACKAGES: 0\n"), "{text}");
    }
}
