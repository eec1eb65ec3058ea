//! `Packages` that is stored nowhere: each part is rendered when it is read.
//!
//! An index is rendered in chunks of whole entries. A table has the number of entries, the bytes
//! and the CRC-32 of each chunk, so that the text at any offset is found without the text before
//! it. The table is made by rendering the whole index once. A text that differs from the table is
//! an error: the stored index or the listing has changed.
//!
//! Not its job: whether an index is stored or rendered (`daemon::generations`).

use std::io;
use std::sync::Arc;

use flate2::Crc;
use sha2::{Digest as _, Sha256};

use super::recent_blocks::RecentBlocks;
use super::{Digest, Header, IndexRenderer, Listing, Rendered, View, changed_on_disk};

/// A chunk ends with the entry that fills it to this many bytes.
const CHUNK: usize = 64 << 10;

/// A run of entries that is rendered at once. The first one has the header of the index, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RenderedChunk {
    pub(crate) entries: u32,
    pub(crate) bytes: u32,
    /// CRC-32 of the text.
    pub(crate) crc: u32,
}

/// Where a chunk begins.
#[derive(Debug, Clone, Copy)]
struct ChunkStart {
    offset: u64,
    entry: usize,
}

/// An index that is rendered when it is read; the module's documentation describes how.
#[derive(Debug)]
pub struct OnDemandIndex {
    view: Arc<View>,
    local: Arc<Listing>,
    header: Header,
    /// Rows of the view, in the order in which they are written.
    rows: Vec<u32>,
    rendered: Rendered,
    chunks: Vec<RenderedChunk>,
    starts: Vec<ChunkStart>,
    recent: RecentBlocks,
}

impl OnDemandIndex {
    /// The index that [`IndexRenderer::of`] renders.
    ///
    /// # Errors
    /// The text of an entry cannot be read.
    pub(crate) fn of(view: Arc<View>, timestamp: i64) -> io::Result<Self> {
        let parts = IndexRenderer::of(&view).into_parts();
        Self::measured(view, Arc::default(), parts, timestamp)
    }

    /// The index that [`IndexRenderer::beneath`] renders.
    ///
    /// # Errors
    /// The text of an entry cannot be read.
    pub(crate) fn beneath(
        view: Arc<View>,
        local: Arc<Listing>,
        hidden: &dyn Fn(&str) -> bool,
        timestamp: i64,
    ) -> io::Result<Self> {
        let parts = IndexRenderer::beneath(&view, &local, hidden)?.into_parts();
        Self::measured(view, local, parts, timestamp)
    }

    /// The index of [`OnDemandIndex::of`] with a table that was made earlier. `None`: the table
    /// belongs to another index.
    pub(crate) fn restored(view: Arc<View>, rendered: Rendered, chunks: Vec<RenderedChunk>) -> Option<Self> {
        let (header, rows) = IndexRenderer::of(&view).into_parts();
        let entries: u64 = chunks.iter().map(|chunk| u64::from(chunk.entries)).sum();
        let bytes: u64 = chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum();
        let same = entries == rows.len() as u64 && bytes == rendered.size;
        same.then(|| Self::with_table((view, Arc::default()), (header, rows), rendered, chunks))
    }

    fn measured(
        view: Arc<View>,
        local: Arc<Listing>,
        (header, rows): (Header, Vec<u32>),
        timestamp: i64,
    ) -> io::Result<Self> {
        let timestamp = header.timestamp().unwrap_or(timestamp);
        let (mut chunks, mut hash, mut size) = (Vec::new(), Sha256::new(), 0);
        let renderer = IndexRenderer::again(&view, &local, &header, &rows);
        let (mut text, mut entries) = (Vec::with_capacity(CHUNK * 2), 0);
        renderer.head(timestamp, &mut text)?;
        let count = renderer.len();
        for number in 0..=count {
            if text.len() >= CHUNK || (number == count && !text.is_empty()) {
                let bytes = u32::try_from(text.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
                chunks.push(RenderedChunk { entries, bytes, crc: crc_of(&text) });
                hash.update(&text);
                size += u64::from(bytes);
                text.clear();
                entries = 0;
            }
            if number < count {
                renderer.entry(number, &mut text)?;
                entries += 1;
            }
        }
        let rendered = Rendered { size, timestamp, digest: Digest(hash.finalize().into()) };
        Ok(Self::with_table((view, local), (header, rows), rendered, chunks))
    }

    fn with_table(
        (view, local): (Arc<View>, Arc<Listing>),
        (header, rows): (Header, Vec<u32>),
        rendered: Rendered,
        chunks: Vec<RenderedChunk>,
    ) -> Self {
        let next = |start: &mut ChunkStart, chunk: &RenderedChunk| {
            let this = *start;
            *start =
                ChunkStart { offset: this.offset + u64::from(chunk.bytes), entry: this.entry + chunk.entries as usize };
            Some(this)
        };
        let starts = chunks.iter().scan(ChunkStart { offset: 0, entry: 0 }, next).collect();
        Self { view, local, header, rows, rendered, chunks, starts, recent: RecentBlocks::default() }
    }

    /// Size, timestamp and digest of the whole text.
    #[must_use]
    pub fn rendered(&self) -> Rendered {
        self.rendered
    }

    /// The table, for [`OnDemandIndex::restored`].
    pub(crate) fn chunks(&self) -> &[RenderedChunk] {
        &self.chunks
    }

    /// Reads at most `buffer.len()` bytes from `offset` on: those of one chunk. Returns 0 at the
    /// end.
    ///
    /// # Errors
    /// The text of an entry cannot be read, or has changed.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset >= self.rendered.size {
            return Ok(0);
        }
        let number = self.starts.partition_point(|start| start.offset <= offset).saturating_sub(1);
        let start = self.starts.get(number).map_or(0, |start| start.offset);
        let text = self.recent.get(number, || self.render(number))?;
        let text = text.get((offset - start) as usize..).unwrap_or_default();
        let count = text.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), text.get(..count)) {
            to.copy_from_slice(from);
        }
        Ok(count)
    }

    fn render(&self, number: usize) -> io::Result<Vec<u8>> {
        let renderer = IndexRenderer::again(&self.view, &self.local, &self.header, &self.rows);
        let (chunk, start) = self.chunks.get(number).zip(self.starts.get(number)).ok_or_else(changed_on_disk)?;
        let mut text = Vec::with_capacity(chunk.bytes as usize);
        if number == 0 {
            renderer.head(self.rendered.timestamp, &mut text)?;
        }
        let mut entries = start.entry..start.entry + chunk.entries as usize;
        entries.try_for_each(|entry| renderer.entry(entry, &mut text))?;
        let same = text.len() == chunk.bytes as usize && crc_of(&text) == chunk.crc;
        if same { Ok(text) } else { Err(changed_on_disk()) }
    }
}

fn crc_of(text: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(text);
    crc.sum()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::super::{BinhostId, BinhostIndex, BlockWriter, Index, ShownEntry};
    use super::*;

    fn blocks(text: &str) -> File {
        let file = tempfile::tempfile().unwrap();
        let mut writer = BlockWriter::new(file.try_clone().unwrap()).unwrap();
        writer.write_all(text.as_bytes()).unwrap();
        writer.finish().unwrap();
        file
    }

    fn entry(at: usize, more: &str, length: usize) -> String {
        format!(
            "CPV: a/p{at}-1\nDESC: {}\nMD5: {at:032x}\nMTIME: {at}\nRDEPEND: {more}\nSIZE: {}\n\n",
            "é".repeat(length),
            at + 1
        )
    }

    fn whole(index: &OnDemandIndex) -> Vec<u8> {
        let (mut text, mut buffer) = (Vec::new(), [0; 1000]);
        loop {
            match index.read_at(&mut buffer, text.len() as u64).unwrap() {
                0 => return text,
                count => text.extend_from_slice(&buffer[..count]),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn whatever_is_read_is_what_would_be_written(
            lengths in prop::collection::vec(prop_oneof![4 => 0..900_usize, 1 => 0..40_000_usize], 0..200),
            hidden in any::<u8>(),
            local in prop::collection::vec(0..900_usize, 0..3),
            reads in prop::collection::vec((any::<prop::sample::Index>(), 0..200_000_usize), 0..12),
        ) {
            let entries: String = lengths.iter().enumerate().map(|(at, length)| entry(at, "x/y", *length)).collect();
            let parse = |text: &str| Arc::new(Index::parse(blocks(text)).unwrap());
            let one = parse(&format!("VERSION: 0\nCHOST: x\nTIMESTAMP: 77\n\n{entries}"));
            let two = parse(&format!("VERSION: 0\nCHOST: y\n\n{}", entry(1000, "é/z", 10)));
            let choice = |part, record| ShownEntry {
                part,
                record,
                place: None,
                dependency: (record % 3 == 0).then(|| "sys-libs/glibc".into()),
            };
            let shown = (0..one.records().len() as u32).filter(|at| at % 5 != u32::from(hidden) % 7);
            let choices = shown.map(|record| choice(0, record)).chain([choice(1, 0)]).collect();
            let parts = [(0, one), (1, two)].map(|(id, index)| BinhostIndex { binhost: BinhostId(id), index });
            let view = Arc::new(View::compose(parts.into(), choices));
            let mine: String = local.iter().enumerate().map(|(at, length)| entry(2000 + at, "", *length)).collect();
            let mut file = tempfile::tempfile().unwrap();
            write!(file, "VERSION: 0\nCHOST: z\n\n{mine}").unwrap();
            let listing = Arc::new(Listing::parse(file, |_| true).unwrap());
            let hides = |path: &str| path.ends_with("7-1.tbz2");

            let (mut plain, mut beneath) = (Vec::new(), Vec::new());
            let told = IndexRenderer::of(&view).render(&mut plain, 42).unwrap();
            let renderer = IndexRenderer::beneath(&view, &listing, &hides).unwrap();
            let told_beneath = renderer.render(&mut beneath, 42).unwrap();
            let lazy = OnDemandIndex::of(Arc::clone(&view), 42).unwrap();
            let lazy_beneath = OnDemandIndex::beneath(Arc::clone(&view), Arc::clone(&listing), &hides, 42).unwrap();
            prop_assert_eq!((lazy.rendered(), lazy_beneath.rendered()), (told, told_beneath));
            let again = OnDemandIndex::restored(view, told, lazy.chunks().to_vec()).unwrap();
            for (index, text) in [(&lazy, &plain), (&lazy_beneath, &beneath), (&again, &plain)] {
                prop_assert!(whole(index) == *text);
                for (at, count) in &reads {
                    let at = at.index(text.len() + 1);
                    let mut buffer = vec![0; *count];
                    let read = index.read_at(&mut buffer, at as u64).unwrap();
                    prop_assert!(buffer[..read] == text[at..at + read]);
                    prop_assert!(read > 0 || *count == 0 || at == text.len());
                }
            }
        }
    }

    #[test]
    fn a_text_that_is_no_longer_what_was_rendered_is_an_error() {
        let text = format!("VERSION: 0\n\n{}{}", entry(1, "one", 5), entry(2, "two", 5));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let view = Arc::new(View::whole(BinhostId(0), Arc::new(Index::parse(file.try_clone().unwrap()).unwrap())));
        let lazy = OnDemandIndex::of(Arc::clone(&view), 42).unwrap();
        let again = || OnDemandIndex::restored(Arc::clone(&view), lazy.rendered(), lazy.chunks().to_vec()).unwrap();
        assert_eq!(whole(&again()).len() as u64, lazy.rendered().size);
        // Not a value that the identity of the entry covers.
        let at = text.find("two").unwrap() as u64;
        std::os::unix::fs::FileExt::write_all_at(&file, b"TWO", at).unwrap();
        let error = again().read_at(&mut [0; 9], 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let mut other = lazy.chunks().to_vec();
        other[0].entries += 1;
        assert!(OnDemandIndex::restored(Arc::clone(&view), lazy.rendered(), other).is_none());
        assert!(OnDemandIndex::restored(view, lazy.rendered(), Vec::new()).is_none());
    }
}
