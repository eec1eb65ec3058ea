//! `Packages`, the index of a binhost: parsed from a file, queried, rendered for Portage.
//!
//! | file | job |
//! |---|---|
//! | `drop_reason` | why an entry is left out |
//! | `parse` | a file -> an index, or why it is none |
//! | `header` | the header stanza, and its union with others |
//! | `line` | stanzas in bounded memory |
//! | `text` | the text of an index, stored in either form |
//! | `blocks` | the form in compressed blocks |
//! | `recent_blocks` | the blocks that were read last, in memory |
//! | `stanza` | one stanza -> typed values |
//! | `unfit` | the entries that parsing dropped |
//! | `view` | shown entries of one or more indexes |
//! | `render` | a view -> `Packages` |
//! | `on_demand` | a view -> any part of `Packages`, without storing it |
//! | `listing` | the `Packages` that Portage keeps in PKGDIR |
//! | `aux_key` | the keys that emerge reads of an entry |
//! | `aux_values` | an entry against its package |
//! | `entry_digest` | one digest of all that Portage reads of an entry |
//! | `share_key` | a package as other machines name it |
//! | `dependencies` | dependency strings |
//! | `path` | PATH |
//! | `digest` | digests in hexadecimal |
//! | `digest_writer` | the size and digest of a file while it is written |
//!
//! Source of the format: portage 3.0.83, `getbinpkg.py` (`PackageIndex`) and `dbapi/bintree.py`.
//!
//! * A file consists of stanzas separated by one empty line; the first stanza is the header. A line
//!   is `KEY: VALUE`, split at the first `:`; exactly one character after the colon is dropped.
//!   Lines without `:` are ignored. Like Portage, the parser stops at the first stanza without any
//!   key that Portage knows.
//! * Text stays on disk, as it is or in compressed blocks ([`IndexText`]). An [`Index`] holds a
//!   [`Record`] of some tens of bytes for each entry, with the byte range of its stanza.
//!   [`Index::entry`] reads the stanza when it is needed.
//! * The parser drops each entry that cannot be served safely and counts it by
//!   [`drop_reason::DropReason`]. Such an entry never reaches Portage. A file that is not a usable
//!   index is refused as a whole ([`IndexError`]), and the caller keeps the last good one.
//! * The index that Portage itself keeps in PKGDIR is a [`Listing`], whose text is copied as it is.
//! * An [`Atom`](crate::portage::Atom) selects entries as Portage's package atoms do.
//! * [`AuxValues::compare`] compares an entry with the package that it names.
//!
//! Not its job: fetching the index, choosing between binhosts, inode numbers.

mod aux_key;
mod aux_values;
mod blocks;
mod dependencies;
mod digest;
mod digest_writer;
mod drop_reason;
mod entry_digest;
mod header;
mod line;
mod listing;
mod on_demand;
mod parse;
mod path;
mod recent_blocks;
mod render;
mod share_key;
mod stanza;
mod text;
mod unfit;
mod view;

use std::fs::File;
use std::io;

use crate::portage::Cpv;
pub use aux_key::{AuxKey, AuxKeys};
pub(crate) use aux_values::{AuxDigest, IndexMismatch};
pub use aux_values::{AuxValues, Comparison, EntryValues};
pub(crate) use blocks::BlockWriter;
pub use dependencies::{Dependencies, TokenKind, UseFlags};
pub use digest::Digest;
pub(crate) use digest::{Md5Digest, Sha1Digest, Sha256Digest};
pub(crate) use digest_writer::DigestWriter;
pub(crate) use entry_digest::EntryDigest;
pub(crate) use header::Header;
pub use listing::Listing;
pub use on_demand::OnDemandIndex;
pub(crate) use on_demand::RenderedChunk;
pub(crate) use parse::{Dropped, IndexLimits, MAX_ENTRIES};
pub use path::PkgPath;
pub(crate) use path::{HELD, TEMPORARY_COPY, TEMPORARY_INDEX};
pub use render::IndexRenderer;
pub(crate) use render::{RENDER_VERSION, Rendered};
pub(crate) use share_key::ShareKey;
pub use stanza::{ListedEntry, Stanza};
pub(crate) use text::IndexText;
pub(crate) use unfit::DroppedEntry;
pub use view::{BinhostId, View};
pub(crate) use view::{BinhostIndex, MAX_PART, ShownEntry};

/// The longest line, in bytes; an entry with a longer line is dropped.
pub(crate) const MAX_LINE: usize = 1 << 20;
/// The longest stanza, in bytes; a longer entry is dropped.
pub(crate) const MAX_STANZA: usize = 4 << 20;

/// Why a whole file is not accepted as an index.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Reading the file failed.
    #[error("reading the index: {0}")]
    Read(#[from] io::Error),
    /// The file does not start like an index.
    #[error("this is not a Packages index (it starts with {start:?})")]
    NotAnIndex {
        /// The first line of the file, shortened.
        start: String,
    },
    /// The header has no VERSION, or one that is not a number.
    #[error("the index header has no usable VERSION: Portage would ignore the whole index")]
    NoVersion,
    /// The header's VERSION is newer than the one that Portage reads (0).
    #[error("the index has VERSION {0}, Portage reads only version 0")]
    Version(i64),
    /// The file has more entries than it may have.
    #[error("the index has more than {0} entries; if that is right, raise max-index")]
    TooManyEntries(usize),
    /// The PATHs together have more bytes than they may have.
    #[error("the PATHs of the index have more than {0} bytes together; if that is right, raise max-index")]
    TooLongPaths(usize),
    /// The header is longer than [`MAX_STANZA`], or has a line longer than `MAX_LINE`.
    #[error("the index header is larger than {MAX_STANZA} bytes")]
    HeaderTooLarge,
}

/// The identity of an entry, independent of the binhost that serves it: the first 16 bytes of a
/// SHA-256 over CPV, BUILD_ID, BUILD_TIME, SIZE and digests. Two entries with the same id are the
/// same package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId(pub [u8; 16]);

/// The part of an entry that is kept in memory.
#[derive(Debug, Clone, Copy)]
pub struct Record {
    path: (u32, u16),
    stanza: (u64, u32),
    /// SIZE in bytes.
    pub size: u64,
    /// MTIME in seconds since the epoch.
    pub mtime: i64,
    pub id: EntryId,
}

impl Record {
    /// The byte offset of the entry in the text of its index. The offset identifies the entry in
    /// that index.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.stanza.0
    }
}

/// All values of an entry that fetching and verifying its package needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Category, name and version, e.g. `app-misc/hello-2.0-r1`.
    pub cpv: Cpv,
    /// PATH relative to the binhost, also where the index leaves it out.
    pub path: PkgPath,
    /// SIZE in bytes, never 0.
    pub size: u64,
    /// MTIME in seconds since the epoch. Where the index leaves it out, BUILD_TIME, else 1.
    pub mtime: i64,
    /// BUILD_ID, where the entry has one.
    pub build_id: Option<u64>,
    /// BUILD_TIME in seconds since the epoch, where the entry has one.
    pub build_time: Option<u64>,
    /// MD5 of the file, where the entry has one.
    pub md5: Option<Md5Digest>,
    /// SHA1 of the file. Every entry has `md5` or `sha1`.
    pub sha1: Option<Sha1Digest>,
}

/// A parsed index. The records are sorted by path. Paths are unique, and no path is a directory of
/// another.
#[derive(Debug)]
pub struct Index {
    header: Header,
    records: Vec<Record>,
    paths: String,
    text: Option<IndexText>,
    dropped: Dropped,
    carried: AuxKeys,
}

impl Index {
    /// Parses the index in `text`, which stays open for [`Index::entry`] and [`IndexRenderer`].
    ///
    /// # Errors
    /// Reading fails, or the file is not an index that Portage would read.
    pub fn parse(text: File) -> Result<Self, IndexError> {
        parse::parse(text, IndexLimits::default())
    }

    /// The same for an index that somebody has just sent.
    ///
    /// # Errors
    /// Those of [`Index::parse`], or the index is larger than `limits`.
    pub(crate) fn parse_within(text: File, limits: IndexLimits) -> Result<Self, IndexError> {
        parse::parse(text, limits)
    }

    /// An index without entries, for a binhost that has never been reached.
    #[must_use]
    pub fn empty() -> Self {
        let (header, records, paths) = Default::default();
        Self { header, records, paths, text: None, dropped: Dropped::default(), carried: AuxKeys::default() }
    }

    /// Whether an entry has this identity. The search is linear.
    #[must_use]
    pub fn contains(&self, id: EntryId) -> bool {
        self.records.iter().any(|record| record.id == id)
    }

    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Bytes of the text. 0: there is none, or it cannot be examined.
    pub(crate) fn text_size(&self) -> u64 {
        self.text.as_ref().and_then(|text| text.size().ok()).unwrap_or_default()
    }

    /// All entries, sorted by path: bytewise, with `/` before any other byte.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Counts and reasons of the entries that were left out.
    #[must_use]
    pub fn dropped(&self) -> &Dropped {
        &self.dropped
    }

    /// The keys that the header or any entry has a value for. The index's writer presumably knew
    /// exactly these.
    fn carried(&self) -> AuxKeys {
        self.carried
    }

    /// PATH of a record of this index.
    #[must_use]
    pub fn path(&self, record: &Record) -> &str {
        let start = record.path.0 as usize;
        self.paths.get(start..start + usize::from(record.path.1)).unwrap_or_default()
    }

    /// Reads the whole entry of a record from the text on disk.
    ///
    /// # Errors
    /// The text cannot be read any more, or has changed since it was parsed.
    pub fn entry(&self, record: &Record) -> io::Result<Entry> {
        let entry = self.stanza(record)?.entry()?;
        if entry.id() == record.id { Ok(entry) } else { Err(changed_on_disk()) }
    }

    /// The text of a record.
    ///
    /// # Errors
    /// The text cannot be read any more.
    pub fn stanza(&self, record: &Record) -> io::Result<Stanza> {
        let mut bytes = vec![0; record.stanza.1 as usize];
        match &self.text {
            Some(text) => text.read_exact_at(&mut bytes, record.stanza.0)?,
            None => return Err(io::ErrorKind::NotFound.into()),
        }
        Ok(Stanza::read(bytes))
    }
}

/// Orders paths bytewise with `/` first. So everything below a directory follows right after the
/// directory's name.
fn by_parts(a: &str, b: &str) -> std::cmp::Ordering {
    let key = |byte: u8| if byte == b'/' { 0 } else { byte };
    a.bytes().map(key).cmp(b.bytes().map(key))
}

fn changed_on_disk() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the stored index is no longer what was read at first")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    const TEXT: &str = "VERSION: 0\n\n\
                        CPV: a/b-1\nMD5: d41d8cd98f00b204e9800998ecf8427e\nMTIME: 3\nPATH: a.b/x.xpak\nSIZE: 5\n\n\
                        CPV: a/c-1\nBUILD_TIME: 7\nMD5: d41d8cd98f00b204e9800998ecf8427e\nPATH: a/x.xpak\nSIZE: 6\n\n\
                        CPV: a-b/d-1\nMD5: d41d8cd98f00b204e9800998ecf8427e\nSIZE: 7\n\n";

    /// An index, and the file that has its text.
    fn index() -> (Index, File) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(TEXT.as_bytes()).unwrap();
        (Index::parse(file.try_clone().unwrap()).unwrap(), file)
    }

    #[test]
    fn what_is_below_a_directory_stands_together() {
        let (index, _) = index();
        // As bytes, `-` and `.` come before `/`.
        let paths: Vec<&str> = index.records().iter().map(|record| index.path(record)).collect();
        assert_eq!(paths, ["a/x.xpak", "a-b/d-1.tbz2", "a.b/x.xpak"]);
        let mut sorted = ["a/b", "a-b", "a", "a.b", "a/b/c", "a/b-c"];
        sorted.sort_by(|a, b| by_parts(a, b));
        assert_eq!(sorted, ["a", "a/b", "a/b/c", "a/b-c", "a-b", "a.b"]);
    }

    #[test]
    fn a_record_leads_to_its_entry() {
        let (index, _) = index();
        let entries: Vec<Entry> = index.records().iter().map(|record| index.entry(record).unwrap()).collect();
        let of = |entry: &Entry| (entry.cpv.to_string(), entry.size, entry.mtime, entry.build_time);
        // Without MTIME, BUILD_TIME counts; without either, 1.
        let expected = [("a/c-1", 6, 7, Some(7)), ("a-b/d-1", 7, 1, None), ("a/b-1", 5, 3, None)];
        for ((entry, record), (cpv, size, mtime, built)) in entries.iter().zip(index.records()).zip(expected) {
            assert_eq!(of(entry), (cpv.to_owned(), size, mtime, built));
            assert_eq!((record.size, record.mtime, record.id), (size, mtime, entry.id()));
            assert_eq!(TEXT[record.offset() as usize..].lines().next(), Some(&*format!("CPV: {cpv}")));
            assert!(index.contains(record.id));
        }
        assert!(!index.contains(EntryId([0; 16])));
    }

    #[test]
    fn text_that_has_changed_is_not_taken_for_the_entry() {
        let (index, file) = index();
        let record = index.records().last().unwrap();
        let at = TEXT.find("SIZE: 5").unwrap() as u64;
        file.write_all_at(b"SIZE: 8", at).unwrap();
        assert_eq!(index.entry(record).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(index.stanza(record).unwrap().get("SIZE"), Some("8"));
        // No entry at all any more.
        file.write_all_at(b"SIZE: x", at).unwrap();
        assert_eq!(index.entry(record).unwrap_err().kind(), io::ErrorKind::InvalidData);
        file.write_all_at(b"SIZE: 5", at).unwrap();
        assert_eq!(index.entry(record).unwrap().size, 5);
        file.set_len(at).unwrap();
        assert_eq!(index.entry(record).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn an_empty_index_has_no_text() {
        let (other, empty) = (index().0, Index::empty());
        let record = &other.records()[1];
        assert!(empty.records().is_empty() && empty.path(record).is_empty() && !empty.contains(record.id));
        assert_eq!(empty.stanza(record).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
