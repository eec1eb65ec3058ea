//! The shown entries of one or more indexes, as one index.
//!
//! A [`View`] owns no entries. It refers to records of its parts, some of which are shown at
//! another path than their binhost's. The caller decides which records are shown, and where. The
//! view keeps them sorted and merges the headers.
//!
//! Not its job: choosing entries (see `policy`).

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::{Digest, Entry, Header, Index, Record, Sha256Digest, Stanza, by_parts};

/// The greatest number of a part, which limits the indexes in one view.
pub(crate) const MAX_PART: u16 = u16::MAX;

/// The id of one binhost, valid while the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BinhostId(pub u32);

/// An index that is a part of a view.
#[derive(Debug, Clone)]
pub struct BinhostIndex {
    /// The binhost of the index.
    pub binhost: BinhostId,
    pub index: Arc<Index>,
}

/// An entry to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownEntry {
    /// Number of the part.
    pub part: u16,
    /// Number of the record in that part.
    pub record: u32,
    /// The path at which the entry is shown, if not at its PATH.
    pub place: Option<Box<str>>,
    /// A dependency that is added to RDEPEND.
    pub dependency: Option<Arc<str>>,
}

/// One entry of a view.
#[derive(Debug, Clone, Copy)]
struct Row {
    record: u32,
    part: u16,
    /// Whether the path is in `places`.
    moved: bool,
}

/// A sorted selection of records. Rows are sorted by path. Paths are unique, and no path is a
/// directory of another.
#[derive(Debug)]
pub struct View {
    rows: Vec<Row>,
    parts: Vec<BinhostIndex>,
    header: Header,
    /// Parts whose headers are left out of the merged header.
    mute: BTreeSet<u16>,
    /// Paths of entries that are not shown at their PATH, by part and record.
    places: HashMap<(u16, u32), Box<str>>,
    dependencies: HashMap<(u16, u32), Arc<str>>,
}

impl View {
    /// Makes a view of `choices`, whose paths must not conflict. A choice that refers to no record
    /// is left out.
    #[must_use]
    pub fn compose(parts: Vec<BinhostIndex>, choices: Vec<ShownEntry>) -> Self {
        let mut view = Self {
            rows: Vec::with_capacity(choices.len()),
            header: Header::united(parts.iter().map(|part| part.index.header())),
            parts,
            mute: BTreeSet::new(),
            places: HashMap::new(),
            dependencies: HashMap::new(),
        };
        let mut sorted = true;
        for ShownEntry { part, record, place, dependency } in choices {
            let row = Row { record, part, moved: place.is_some() };
            if view.find(row).is_none() {
                continue;
            }
            let follows = view.rows.last().is_none_or(|last| last.part == part && last.record < record);
            sorted = sorted && follows && !row.moved;
            place.into_iter().for_each(|place| drop(view.places.insert((part, record), place)));
            dependency.into_iter().for_each(|atom| drop(view.dependencies.insert((part, record), atom)));
            view.rows.push(row);
        }
        // The records of an index are sorted already.
        if !sorted {
            let mut rows = std::mem::take(&mut view.rows);
            rows.sort_unstable_by(|a, b| by_parts(view.path_of(*a), view.path_of(*b)));
            view.rows = rows;
        }
        view
    }

    /// Leaves the headers of these parts out of the merged header, except for TIMESTAMP. For parts
    /// whose entries are all hidden: their headers must not affect the entries of other parts.
    #[must_use]
    pub fn without_headers_of(mut self, mute: BTreeSet<u16>) -> Self {
        if !mute.is_empty() {
            let parts = (0..=MAX_PART).zip(&self.parts).filter(|(number, _)| !mute.contains(number));
            self.header = Header::united(parts.map(|(_, part)| part.index.header()));
            let newest = self.parts.iter().filter_map(|part| part.index.header().timestamp()).max();
            newest.into_iter().for_each(|newest| self.header.set("TIMESTAMP", newest));
            self.mute = mute;
        }
        self
    }

    /// A view of all entries of one index.
    #[must_use]
    pub fn whole(binhost: BinhostId, index: Arc<Index>) -> Self {
        let all = 0..index.records().len() as u32;
        let choice = |record| ShownEntry { part: 0, record, place: None, dependency: None };
        Self::compose(vec![BinhostIndex { binhost, index }], all.map(choice).collect())
    }

    /// The number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The indexes of the entries, in the order of preference.
    #[must_use]
    pub fn parts(&self) -> &[BinhostIndex] {
        &self.parts
    }

    /// The merged header: the first index's, with those keys of the others that Portage merges.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The merged header of those indexes whose binhost `shares` names.
    pub(super) fn header_of(&self, shares: &dyn Fn(BinhostId) -> bool) -> Header {
        let parts = (0..=MAX_PART).zip(&self.parts);
        let chosen = parts.filter(|(number, part)| !self.mute.contains(number) && shares(part.binhost));
        Header::united(chosen.map(|(_, part)| part.index.header()))
    }

    /// The number of the entry whose PATH in its binhost's index is `path`, where that is shown at
    /// another path. The search is linear in the number of such entries.
    fn moved_row(&self, path: &str) -> Option<u32> {
        let is_it = |(part, record): &(u16, u32)| {
            let found = self.find(Row { part: *part, record: *record, moved: true });
            found.is_some_and(|(part, record)| part.index.path(record) == path)
        };
        let (_, place) = self.places.iter().find(|(key, _)| is_it(key))?;
        self.row_at(place)
    }

    /// The numbers of the entries that are shown at `path`, or have it as PATH in their index.
    pub(crate) fn rows_of(&self, path: &str) -> impl Iterator<Item = u32> {
        [self.row_at(path), self.moved_row(path)].into_iter().flatten()
    }

    /// The record of entry number `row`.
    #[must_use]
    pub fn record(&self, row: u32) -> Option<&Record> {
        self.find(self.row(row)?).map(|(_, record)| record)
    }

    /// The path at which entry number `row` is shown.
    #[must_use]
    pub fn path(&self, row: u32) -> &str {
        self.row(row).map_or("", |row| self.path_of(row))
    }

    /// The number of the entry that is shown at `path`.
    #[must_use]
    pub fn row_at(&self, path: &str) -> Option<u32> {
        let found = self.rows.binary_search_by(|row| by_parts(self.path_of(*row), path)).ok()?;
        u32::try_from(found).ok()
    }

    /// The index of entry number `row`, with its binhost.
    #[must_use]
    pub fn part(&self, row: u32) -> Option<&BinhostIndex> {
        self.parts.get(usize::from(self.row(row)?.part))
    }

    /// Reads the whole entry number `row` from the text on disk. Its path is the one in the
    /// binhost's index.
    ///
    /// # Errors
    /// The text cannot be read any more, or has changed since it was parsed.
    pub fn entry(&self, row: u32) -> io::Result<Entry> {
        let found = self.row(row).and_then(|row| self.find(row));
        let (part, record) = found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        part.index.entry(record)
    }

    /// The text of entry number `row` in the binhost's index.
    ///
    /// # Errors
    /// The text cannot be read any more.
    pub fn stanza(&self, row: u32) -> io::Result<Stanza> {
        let found = self.row(row).and_then(|row| self.find(row));
        let (part, record) = found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        part.index.stanza(record)
    }

    /// The dependency that is added to RDEPEND of entry number `row`.
    #[must_use]
    pub fn dependency(&self, row: u32) -> Option<&str> {
        let row = self.row(row)?;
        self.dependencies.get(&(row.part, row.record)).map(AsRef::as_ref)
    }

    /// Whether both views take their entries from the same indexes.
    #[must_use]
    pub fn is_of_same_parts(&self, other: &Self) -> bool {
        let same = |(a, b): (&BinhostIndex, &BinhostIndex)| a.binhost == b.binhost && Arc::ptr_eq(&a.index, &b.index);
        self.parts.len() == other.parts.len() && self.parts.iter().zip(&other.parts).all(same)
    }

    /// Whether both views take every entry from the same binhost and the same URI of its header.
    /// The rendered index does not show a difference in these.
    #[must_use]
    pub fn is_from_same_places(&self, other: &Self) -> bool {
        let places = |view: &Self| -> Vec<_> {
            let place = |part: &BinhostIndex| (part.binhost, part.index.header().uri().map(str::to_owned));
            view.parts.iter().map(place).collect()
        };
        let (ours, theirs) = (places(self), places(other));
        let same = |(a, b): (&Row, &Row)| ours.get(usize::from(a.part)) == theirs.get(usize::from(b.part));
        self.rows.len() == other.rows.len() && self.rows.iter().zip(&other.rows).all(same)
    }

    /// A hash that distinguishes views of the same stored indexes. The hash covers the shown
    /// entries, their paths, the added dependencies and the parts without headers.
    #[must_use]
    pub fn fingerprint(&self) -> Sha256Digest {
        let mut hash = Sha256::new_with_prefix(b"view\0");
        for row in &self.rows {
            let key = (row.part, row.record);
            hash.update(row.part.to_be_bytes());
            hash.update(row.record.to_be_bytes());
            let more = [self.places.get(&key).map(AsRef::as_ref), self.dependencies.get(&key).map(AsRef::as_ref)];
            for text in more.into_iter().map(|text: Option<&str>| text.unwrap_or_default()) {
                hash.update(text);
                hash.update([0]);
            }
        }
        // A view without such parts keeps the fingerprint that it had before headers could be left
        // out.
        self.mute.iter().for_each(|part| hash.update(part.to_be_bytes()));
        Digest(hash.finalize().into())
    }

    /// The entries in the order of their text, so that the stored indexes are read from front to
    /// back.
    pub(super) fn in_file_order(&self) -> Vec<u32> {
        let place = |row: &u32| {
            let row = self.row(*row);
            row.map(|row| (row.part, self.find(row).map(|(_, record)| record.stanza.0)))
        };
        let mut order: Vec<u32> = (0..self.rows.len() as u32).collect();
        order.sort_by_cached_key(place);
        order
    }

    fn row(&self, at: u32) -> Option<Row> {
        self.rows.get(at as usize).copied()
    }

    fn find(&self, row: Row) -> Option<(&BinhostIndex, &Record)> {
        let part = self.parts.get(usize::from(row.part))?;
        Some((part, part.index.records().get(row.record as usize)?))
    }

    fn path_of(&self, row: Row) -> &str {
        let moved = || self.places.get(&(row.part, row.record)).map(AsRef::as_ref);
        let own = || self.find(row).map(|(part, record)| part.index.path(record));
        if row.moved { moved() } else { own() }.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::IndexRenderer;
    use super::*;
    use std::io::Write as _;

    fn part(binhost: u32, header: &str, entries: &[(&str, &str)]) -> BinhostIndex {
        let mut text = format!("VERSION: 0\n{header}\n");
        for (at, (path, more)) in entries.iter().enumerate() {
            text += &format!("CPV: a/p{at}-1\nPATH: {path}\nSIZE: 5\nMD5: {binhost:016x}{at:016x}\n{more}\n");
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        BinhostIndex { binhost: BinhostId(binhost), index: Arc::new(Index::parse(file).unwrap()) }
    }

    fn choice(part: u16, record: u32) -> ShownEntry {
        ShownEntry { part, record, place: None, dependency: None }
    }

    fn rendered(view: &View) -> String {
        let mut out = Vec::new();
        IndexRenderer::of(view).render(&mut out, 42).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn paths(view: &View) -> Vec<&str> {
        (0..view.len() as u32).map(|row| view.path(row)).collect()
    }

    #[test]
    fn rows_stand_in_the_order_of_their_paths() {
        let parts =
            vec![part(1, "", &[("b/x.xpak", ""), ("d.xpak", "")]), part(2, "", &[("a.xpak", ""), ("c.xpak", "")])];
        let moved = ShownEntry { place: Some("two/c.xpak".into()), ..choice(1, 1) };
        let view =
            View::compose(parts, vec![choice(0, 0), choice(0, 1), choice(1, 0), moved, choice(1, 9), choice(7, 0)]);
        assert_eq!(paths(&view), ["a.xpak", "b/x.xpak", "d.xpak", "two/c.xpak"]);
        assert_eq!(view.part(3).unwrap().binhost, BinhostId(2));
        assert_eq!(view.entry(3).unwrap().path.as_str(), "c.xpak");
        assert!(view.record(4).is_none() && view.path(4).is_empty() && view.entry(4).is_err());
        let text = rendered(&view);
        assert!(text.contains("PACKAGES: 4\n") && text.contains("PATH: two/c.xpak\n"), "{text}");
    }

    #[test]
    fn a_header_that_is_not_believed_only_has_a_time() {
        let one = part(1, "CHOST: x\nIUSE_IMPLICIT: lie\nTIMESTAMP: 9\n", &[("a.xpak", "")]);
        let two = part(2, "CHOST: y\nIUSE_IMPLICIT: z\nTIMESTAMP: 7\n", &[("b.xpak", "")]);
        let both = || View::compose(vec![one.clone(), two.clone()], vec![choice(1, 0)]);
        let view = both().without_headers_of([0].into());
        let header = ["CHOST", "IUSE_IMPLICIT", "TIMESTAMP"].map(|key| view.header().get(key));
        assert_eq!(header, [Some("y"), Some("z"), Some("9")]);
        assert_ne!(view.fingerprint(), both().fingerprint());
        let nothing = both().without_headers_of([0, 1].into());
        assert_eq!(nothing.header().pairs().map(|(key, _)| key).collect::<Vec<_>>(), ["TIMESTAMP"]);
        assert_eq!(both().without_headers_of(BTreeSet::new()).fingerprint(), both().fingerprint());
    }

    #[test]
    fn headers_are_united_as_portage_unites_them() {
        let one = part(1, "CHOST: x\nUSE_EXPAND: B A\nTIMESTAMP: 5\nPROFILE: p\n", &[("a.xpak", "")]);
        let two = part(
            2,
            "ARCH: arm64\nCHOST: y\nUSE_EXPAND: C A\nUSE_EXPAND_IMPLICIT: C\nUSE_EXPAND_VALUES_A: a\nUSE_EXPAND_VALUES_C: z\n\
             TIMESTAMP: 7\nPROFILE: q\n",
            &[],
        );
        let view = View::compose(vec![one, two], vec![choice(0, 0)]);
        for (key, value) in [
            ("CHOST", "x"),
            ("USE_EXPAND", "A B C"),
            ("USE_EXPAND_VALUES_C", "z"),
            ("ARCH", "arm64"),
            ("TIMESTAMP", "7"),
            ("PROFILE", "p"),
        ] {
            assert_eq!(view.header().get(key), Some(value), "{key}");
        }
        assert_eq!(view.header().get("USE_EXPAND_VALUES_A"), None);
    }

    #[test]
    fn what_an_entry_inherits_from_its_own_header_stays() {
        let one = part(1, "CHOST: x\nREPO: gentoo\n", &[("a.xpak", ""), ("b.xpak", "CHOST: z\n")]);
        let two = part(2, "CHOST: y\nREPO: gentoo\n", &[("c.xpak", ""), ("d.xpak", "CHOST: z\n")]);
        let three = part(3, "", &[("e.xpak", "")]);
        let all = vec![choice(0, 0), choice(0, 1), choice(1, 0), choice(1, 1), choice(2, 0)];
        let text = rendered(&View::compose(vec![one, two, three], all));
        let stanza = |path: &str| {
            let found = text.split("\n\n").find(|stanza| stanza.contains(&format!("PATH: {path}\n"))).unwrap();
            let mut kept: Vec<&str> =
                found.lines().filter(|line| line.starts_with("CHOST") || line.starts_with("REPO")).collect();
            kept.sort_unstable();
            kept.join("|")
        };
        assert_eq!(stanza("a.xpak"), "");
        assert_eq!(stanza("b.xpak"), "CHOST: z");
        assert_eq!(stanza("c.xpak"), "CHOST: y");
        assert_eq!(stanza("d.xpak"), "CHOST: z");
        assert_eq!(stanza("e.xpak"), "CHOST: |REPO: ");
    }

    #[test]
    fn a_dependency_is_added_to_what_is_there() {
        let one = part(1, "", &[("a.xpak", "RDEPEND: dev-libs/x\n"), ("b.xpak", "")]);
        let with = |record| ShownEntry { dependency: Some(">=sys-libs/glibc-2.40".into()), ..choice(0, record) };
        let plain = View::compose(vec![one.clone()], vec![choice(0, 0), choice(0, 1)]);
        let view = View::compose(vec![one], vec![with(0), with(1)]);
        let text = rendered(&view);
        assert!(text.contains("RDEPEND: dev-libs/x >=sys-libs/glibc-2.40\n"), "{text}");
        assert!(text.contains("\nRDEPEND: >=sys-libs/glibc-2.40\n"), "{text}");
        assert_eq!(view.dependency(0), Some(">=sys-libs/glibc-2.40"));
        assert_ne!(view.fingerprint(), plain.fingerprint());
        assert!(view.is_of_same_parts(&plain));
    }
}
