//! Parses a file into an [`Index`], or returns the reason why it is none.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::BufRead;

use super::drop_reason::DropReason;
use super::line::{RawStanza, StanzaReader};
use super::stanza::{Fields, decoded};
use super::{AuxKeys, Entry, Header, Index, IndexError, IndexText, Record, by_parts};

/// The most entries of any index. The official binhosts have 16,000 (2026).
pub(crate) const MAX_ENTRIES: usize = 500_000;
/// The most bytes of all PATHs of any index together.
const MAX_PATH_BYTES: usize = u32::MAX as usize;

/// The limits of an index, so that it takes a bounded part of the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexLimits {
    pub(crate) entries: usize,
    /// Bytes of all PATHs together.
    pub(crate) path_bytes: usize,
}

/// For an index that was accepted before.
impl Default for IndexLimits {
    fn default() -> Self {
        Self { entries: MAX_ENTRIES, path_bytes: MAX_PATH_BYTES }
    }
}

impl IndexLimits {
    /// The limits of an index of at most `bytes`: 200,000 entries and 32 MiB of PATHs for 192 MiB,
    /// and in proportion. Real entries have 1 to 2 KiB, and PATHs of some 50 bytes.
    pub(crate) fn of_size(bytes: u64) -> Self {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        Self { entries: (bytes / 1006).clamp(1, MAX_ENTRIES), path_bytes: (bytes / 6).min(MAX_PATH_BYTES) }
    }
}

/// The number of entries that were left out, with the first entry of each reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dropped {
    reasons: Vec<(DropReason, u32, String)>,
    stopped_at: Option<u64>,
}

impl Dropped {
    fn add(&mut self, reason: DropReason, name: String) {
        match self.reasons.iter_mut().find(|(r, ..)| *r == reason) {
            Some((_, count, _)) => *count += 1,
            None => self.reasons.push((reason, 1, name)),
        }
    }

    /// The number of entries that were left out for any reason.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.reasons.iter().map(|(_, count, _)| count).sum()
    }

    /// The number of entries that were left out for `reason`.
    #[must_use]
    pub fn count(&self, reason: DropReason) -> u32 {
        self.reasons.iter().find(|(r, ..)| *r == reason).map_or(0, |(_, count, _)| *count)
    }

    /// The byte offset at which parsing stopped before the end of the file, if it did: at a stanza
    /// without any key that Portage knows.
    #[must_use]
    pub fn stopped_at(&self) -> Option<u64> {
        self.stopped_at
    }
}

/// Names each reason, its count and its first entry, for the log.
impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted: Vec<_> =
            DropReason::ALL.iter().filter_map(|r| self.reasons.iter().find(|(x, ..)| x == r)).collect();
        sorted.sort_by_key(|(_, count, _)| std::cmp::Reverse(*count));
        for (at, (reason, count, first)) in sorted.into_iter().enumerate() {
            write!(f, "{}{count} with {reason} (first: {first})", if at == 0 { "" } else { ", " })?;
        }
        match self.stopped_at {
            Some(at) if self.reasons.is_empty() => write!(f, "reading stopped at byte {at}, where Portage stops too"),
            Some(at) => write!(f, "; reading stopped at byte {at}, where Portage stops too"),
            None => Ok(()),
        }
    }
}

pub(super) fn parse(text: File, limits: IndexLimits) -> Result<Index, IndexError> {
    let text = IndexText::open(text)?;
    let (header, draft) = text.read_through(|reader| {
        let mut reader = StanzaReader::new(reader);
        let header = read_header(&mut reader)?;
        let mut draft = IndexBuilder { limits, ..IndexBuilder::default() };
        while let Some(stanza) = reader.next()? {
            if draft.add(&stanza)? == ParseStep::Stop {
                break;
            }
        }
        Ok::<_, IndexError>((header, draft))
    })?;
    let carried = draft.carried.union(header.carried());
    let (records, paths, dropped) = draft.finish();
    Ok(Index { header, records, paths, text: Some(text), dropped, carried })
}

fn read_header(reader: &mut StanzaReader<impl BufRead>) -> Result<Header, IndexError> {
    let Some(stanza) = reader.next()? else { return Err(IndexError::NotAnIndex { start: String::new() }) };
    let start: String =
        String::from_utf8_lossy(stanza.text).lines().next().unwrap_or_default().chars().take(60).collect();
    let header = Header::of(&decoded(stanza.text));
    match header.get("VERSION").map(|version| version.trim().parse::<i64>()) {
        _ if stanza.too_long => Err(IndexError::HeaderTooLarge),
        Some(Ok(version)) if version > 0 => Err(IndexError::Version(version)),
        Some(Ok(_)) => Ok(header),
        None if header.get("PACKAGES").or_else(|| header.get("TIMESTAMP")).is_none() => {
            Err(IndexError::NotAnIndex { start })
        }
        None | Some(Err(_)) => Err(IndexError::NoVersion),
    }
}

#[derive(PartialEq)]
enum ParseStep {
    Go,
    Stop,
}

/// The records that were read so far, in the order of the file.
#[derive(Default)]
struct IndexBuilder {
    records: Vec<Record>,
    /// `false` at the index of each record that a later one supersedes.
    kept: Vec<bool>,
    build_times: Vec<u64>,
    paths: String,
    instances: HashMap<[u8; 16], u32>,
    limits: IndexLimits,
    dropped: Dropped,
    carried: AuxKeys,
}

impl IndexBuilder {
    fn add(&mut self, stanza: &RawStanza<'_>) -> Result<ParseStep, IndexError> {
        let text = decoded(stanza.text);
        let fields = Fields::from_text(&text);
        if stanza.too_long {
            self.dropped.add(DropReason::TooLong, fields.name());
            return Ok(ParseStep::Go);
        }
        if !fields.is_entry() {
            self.dropped.stopped_at = Some(stanza.offset);
            return Ok(ParseStep::Stop);
        }
        self.carried = self.carried.union(fields.carried());
        match fields.entry() {
            Ok(entry) => self.push(&entry, (stanza.offset, stanza.text.len() as u32))?,
            Err(reason) => self.dropped.add(reason, fields.name()),
        }
        Ok(ParseStep::Go)
    }

    fn push(&mut self, entry: &Entry, stanza: (u64, u32)) -> Result<(), IndexError> {
        let at = self.records.len();
        let IndexLimits { entries, path_bytes } = self.limits;
        if at >= entries {
            return Err(IndexError::TooManyEntries(entries));
        }
        let path = entry.path.as_str();
        let start = u32::try_from(self.paths.len()).ok().filter(|start| *start as usize + path.len() <= path_bytes);
        let start = start.ok_or(IndexError::TooLongPaths(path_bytes))?;
        self.paths.push_str(path);
        let (size, mtime, id) = (entry.size, entry.mtime, entry.id());
        self.records.push(Record { path: (start, path.len() as u16), stanza, size, mtime, id });
        self.kept.push(true);
        self.build_times.push(entry.build_time.unwrap_or_default());
        // In Portage, the last entry of an instance key wins.
        if let Some(earlier) = self.instances.insert(entry.instance(), at as u32) {
            self.remove(earlier as usize, DropReason::DuplicateInstance);
        }
        Ok(())
    }

    fn remove(&mut self, at: usize, reason: DropReason) {
        if let Some(kept) = self.kept.get_mut(at).filter(|kept| **kept) {
            *kept = false;
            let name = self.records.get(at).map(|record| self.path(record).to_owned());
            self.dropped.add(reason, name.unwrap_or_default());
        }
    }

    fn path(&self, record: &Record) -> &str {
        let start = record.path.0 as usize;
        self.paths.get(start..start + usize::from(record.path.1)).unwrap_or_default()
    }

    fn finish(mut self) -> (Vec<Record>, String, Dropped) {
        self.instances = HashMap::new();
        let mut order: Vec<u32> =
            (0..self.records.len() as u32).filter(|at| self.kept.get(*at as usize) == Some(&true)).collect();
        let path_at = |at: u32| self.records.get(at as usize).map_or("", |record| self.path(record));
        let rank = |at: u32| (self.build_times.get(at as usize).copied(), at);
        order.sort_unstable_by(|a, b| by_parts(path_at(*a), path_at(*b)).then(rank(*a).cmp(&rank(*b))));
        let mut clashes = Vec::new();
        for pair in order.windows(2) {
            let &[a, b] = pair else { continue };
            let (first, second) = (path_at(a), path_at(b));
            if first == second {
                clashes.push((a, DropReason::DuplicatePath));
            } else if second.strip_prefix(first).is_some_and(|rest| rest.starts_with('/')) {
                clashes.push((a, DropReason::PathIsDirectory));
            }
        }
        for (at, reason) in clashes {
            self.remove(at as usize, reason);
        }
        order.retain(|at| self.kept.get(*at as usize) == Some(&true));
        let records = order.iter().filter_map(|at| self.records.get(*at as usize).copied()).collect();
        self.paths.shrink_to_fit();
        (records, self.paths, self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    const MD5: &str = "MD5: d41d8cd98f00b204e9800998ecf8427e\n";

    fn index(text: &[u8]) -> Result<Index, IndexError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        Index::parse(file)
    }

    fn entry(cpv: &str, more: &str) -> String {
        format!("CPV: {cpv}\nSIZE: 5\n{MD5}{more}\n")
    }

    #[test]
    fn reads_headers_and_entries() {
        let text = format!(
            "VERSION: 0\nURI: http://x/y\nTIMESTAMP: 7\n\n{}{}",
            entry("a/b-1", ""),
            entry("a/a-1", "PATH: z/y.xpak\n")
        );
        let index = index(text.as_bytes()).unwrap();
        assert_eq!((index.header().uri(), index.header().timestamp()), (Some("http://x/y"), Some(7)));
        let paths: Vec<_> = index.records().iter().map(|r| index.path(r)).collect();
        assert_eq!(paths, ["a/b-1.tbz2", "z/y.xpak"]);
        assert_eq!(index.entry(&index.records()[1]).unwrap().cpv.as_str(), "a/a-1");
        assert_eq!(index.dropped().total(), 0);
    }

    #[test]
    fn refuses_what_is_no_index() {
        let html = b"<!DOCTYPE html>\n<html><body>not here: sorry</body></html>\n".as_slice();
        assert!(matches!(index(html), Err(IndexError::NotAnIndex { start }) if start.contains("DOCTYPE")));
        assert!(matches!(index(b""), Err(IndexError::NotAnIndex { .. })));
        assert!(matches!(index(b"\0\0\0\0"), Err(IndexError::NotAnIndex { .. })));
        assert!(matches!(index(b"PACKAGES: 3\n\n"), Err(IndexError::NoVersion)));
        assert!(matches!(index(b"PACKAGES: 3\nVERSION: x\n\n"), Err(IndexError::NoVersion)));
        assert!(matches!(index(b"VERSION: 1\n\n"), Err(IndexError::Version(1))));
        assert!(index(b"VERSION: 0\n\n").unwrap().records().is_empty());
        assert!(index(b"VERSION: -1").is_ok());
    }

    #[test]
    fn bad_entries_are_dropped_one_by_one() {
        let mut text = format!("VERSION: 0\n\n{}", entry("good/one-1", "")).into_bytes();
        text.extend(entry("bad cpv", "").bytes());
        text.extend(entry("a/b-1", "PATH: /abs\n").bytes());
        text.extend(format!("CPV: a/nosize-1\n{MD5}\n").bytes());
        text.extend(b"CPV: a/nodigest-1\nSIZE: 3\n\n");
        text.extend(entry("a/nul-1", "DESC: \0\n").bytes());
        text.extend(entry("a/long-1", &format!("DESC: {}\n", "x".repeat(10 << 20))).bytes());
        text.extend(entry("good/two-1", "").bytes());
        let index = index(&text).unwrap();
        assert_eq!(index.records().len(), 2);
        for reason in DropReason::ALL.iter().take(6) {
            assert_eq!(index.dropped().count(*reason), 1, "{reason}");
        }
        let said = index.dropped().to_string();
        assert!(said.contains("1 with unsafe PATH (first: a/b-1)"), "{said}");
    }

    #[test]
    fn bytes_that_are_not_utf8_are_replaced_as_portage_replaces_them() {
        let mut text =
            format!("VERSION: 0\n\n{}", entry("a/b-1", "PATH: b.xpak\nDESC: caf@ au lait\nSLOT:@2\n")).into_bytes();
        text.extend(entry("a/p@th-1", "").bytes());
        text.extend(entry("a/c-1", "PATH: c@.xpak\n").bytes());
        // The MD5 is the one that is broken: the entry has no other digest.
        text.extend(b"CPV: a/d-1\nSIZE: 5\nMD5: @41d8cd98f00b204e9800998ecf8427e\n\n");
        text.iter_mut().filter(|byte| **byte == b'@').for_each(|byte| *byte = 0xe9);
        let index = index(&text).unwrap();
        let record = index.records().iter().find(|record| index.path(record) == "b.xpak").unwrap();
        let stanza = index.stanza(record).unwrap();
        // One character after the colon is dropped, whatever the character is.
        assert_eq!((stanza.get("DESC"), stanza.get("SLOT")), (Some("caf\u{fffd} au lait"), Some("2")));
        assert_eq!(index.entry(record).unwrap().id(), record.id);
        assert_eq!(index.dropped().count(DropReason::InvalidCpv), 1);
        assert_eq!(index.dropped().count(DropReason::NoDigest), 1);
        let paths: Vec<&str> = index.records().iter().map(|record| index.path(record)).collect();
        assert_eq!(paths, ["b.xpak", "c\u{fffd}.xpak"]);
    }

    #[test]
    fn one_entry_per_instance_and_per_path() {
        let text = [
            "VERSION: 0\n\n".to_owned(),
            entry("a/b-1", "PATH: first.xpak\n"),
            entry("a/b-1", "PATH: second.xpak\n"),
            entry("a/c-1", "PATH: same.xpak\nBUILD_TIME: 9\n"),
            entry("a/d-1", "PATH: same.xpak\nBUILD_TIME: 5\n"),
            entry("a/e-1", "PATH: dir\n"),
            entry("a/f-1", "PATH: dir/file.xpak\n"),
        ]
        .concat();
        let index = index(text.as_bytes()).unwrap();
        let shown: Vec<_> = index.records().iter().map(|r| index.entry(r).unwrap().cpv.to_string()).collect();
        assert_eq!(shown, ["a/f-1", "a/c-1", "a/b-1"]);
        for reason in [DropReason::DuplicateInstance, DropReason::DuplicatePath, DropReason::PathIsDirectory] {
            assert_eq!(index.dropped().count(reason), 1, "{reason}");
        }
        assert_eq!(index.path(&index.records()[2]), "second.xpak");
    }

    #[test]
    fn stops_where_portage_stops() {
        let text = format!("VERSION: 0\n\n{}\n{}", entry("a/b-1", ""), entry("a/c-1", ""));
        let index = index(text.as_bytes()).unwrap();
        assert_eq!(index.records().len(), 1);
        assert!(index.dropped().stopped_at().is_some());
    }
}
