//! The text of an index in a file, whichever form the file has.
//!
//! A stored index is a file of compressed blocks (`blocks`). The text itself is the form in which
//! earlier versions stored an index. An [`IndexText`] reads both at any offset.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::blocks::{BLOCK, Blocks};

/// Blocks that a second thread decompresses before they are asked for.
const AHEAD: usize = 2;

/// A text that is read by offset. Reads do not depend on the descriptor's own position.
#[derive(Debug)]
pub(crate) struct IndexText {
    file: File,
    /// `None`: the file is the text itself.
    blocks: Option<Blocks>,
}

impl IndexText {
    /// Opens a text in the form that the file has.
    ///
    /// # Errors
    /// Reading fails. [`io::ErrorKind::InvalidData`]: the table of blocks is damaged.
    pub(crate) fn open(file: File) -> io::Result<Self> {
        let blocks = Blocks::of(&file)?;
        Ok(Self { file, blocks })
    }

    /// Bytes of the text.
    ///
    /// # Errors
    /// The file cannot be examined.
    pub(crate) fn size(&self) -> io::Result<u64> {
        match &self.blocks {
            Some(blocks) => Ok(blocks.size()),
            None => Ok(self.file.metadata()?.len()),
        }
    }

    /// Reads exactly `buffer.len()` bytes from `offset` on.
    ///
    /// # Errors
    /// Reading fails, or a block is damaged. [`io::ErrorKind::UnexpectedEof`]: the text is shorter.
    pub(crate) fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        let Some(blocks) = &self.blocks else { return self.file.read_exact_at(buffer, offset) };
        while !buffer.is_empty() {
            let count = blocks.read_at(&self.file, buffer, offset)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer = buffer.get_mut(count..).unwrap_or_default();
            offset += count as u64;
        }
        Ok(())
    }

    /// Reads the text from front to back.
    pub(crate) fn reader(&self) -> TextReader<'_> {
        TextReader { text: self, next: 0, ahead: None, buffer: Vec::new(), used: 0 }
    }

    /// Calls `read` with a reader of the text from front to back. Where there are two processors, a
    /// second thread decompresses the blocks meanwhile.
    pub(super) fn read_through<T>(&self, read: impl FnOnce(TextReader<'_>) -> T) -> T {
        let two_processors = || thread::available_parallelism().is_ok_and(|count| count.get() >= 2);
        let Some(blocks) = self.blocks.as_ref().filter(|blocks| blocks.count() > AHEAD && two_processors()) else {
            return read(self.reader());
        };
        let (sender, receiver) = sync_channel(AHEAD);
        thread::scope(|scope| {
            let decompress = move || decompress(blocks, &self.file, &sender);
            let ahead = thread::Builder::new().spawn_scoped(scope, decompress).is_ok().then_some(receiver);
            read(TextReader { ahead, ..self.reader() })
        })
    }

    /// Whether both have the same text, in whatever form.
    ///
    /// # Errors
    /// Reading fails, or a block is damaged.
    pub(crate) fn is_same(&self, other: &Self) -> io::Result<bool> {
        if self.size()? != other.size()? {
            return Ok(false);
        }
        let (mut ours, mut theirs) = (self.reader(), other.reader());
        loop {
            let (left, right) = (ours.fill_buf()?, theirs.fill_buf()?);
            let count = left.len().min(right.len());
            if left.get(..count) != right.get(..count) || left.is_empty() != right.is_empty() {
                return Ok(false);
            }
            if count == 0 {
                return Ok(true);
            }
            ours.consume(count);
            theirs.consume(count);
        }
    }
}

/// Sends all blocks in their order. Ends with the first that cannot be read, or with the receiver.
fn decompress(blocks: &Blocks, file: &File, sender: &SyncSender<io::Result<Vec<u8>>>) {
    for number in 0..blocks.count() {
        let mut text = Vec::new();
        let block = blocks.read_block(file, number, &mut text).map(|()| text);
        let is_last = block.is_err();
        if sender.send(block).is_err() || is_last {
            return;
        }
    }
}

/// Reads a text from front to back, with a buffer of one block.
#[derive(Debug)]
pub(crate) struct TextReader<'a> {
    text: &'a IndexText,
    /// Number of the block that is read next.
    next: usize,
    /// The blocks from `next` on, from the thread that decompresses them.
    ahead: Option<Receiver<io::Result<Vec<u8>>>>,
    buffer: Vec<u8>,
    used: usize,
}

impl BufRead for TextReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used >= self.buffer.len() {
            let start = (self.next * BLOCK) as u64;
            self.used = 0;
            // The thread has ended at the end of the text, and after a block that it could not read.
            let ahead = self.ahead.as_ref().and_then(|ahead| ahead.recv().ok());
            let read = match (ahead, &self.text.blocks) {
                (Some(block), _) => block.map(|block| self.buffer = block),
                (None, Some(blocks)) if start >= blocks.size() => {
                    self.buffer.clear();
                    Ok(())
                }
                (None, Some(blocks)) => blocks.read_block(&self.text.file, self.next, &mut self.buffer),
                (None, None) => read_plain(&self.text.file, start, &mut self.buffer),
            };
            // What a damaged block left there is no text.
            read.inspect_err(|_| self.buffer.clear())?;
            self.next += 1;
        }
        Ok(self.buffer.get(self.used..).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.used += count;
    }
}

impl Read for TextReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// Replaces `buffer` by one block's length of the file, or by less at its end.
fn read_plain(file: &File, start: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.resize(BLOCK, 0);
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, start + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::super::{BlockWriter, Index, IndexError};
    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn open(bytes: &[u8]) -> io::Result<IndexText> {
        IndexText::open(file(bytes))
    }

    /// The bytes of a file of blocks.
    fn stored(text: &[u8], pieces: usize) -> Vec<u8> {
        // What the file had before must not count.
        let file = file(&[b'x'; 300]);
        let mut writer = BlockWriter::new(file.try_clone().unwrap()).unwrap();
        text.chunks(pieces).for_each(|piece| writer.write_all(piece).unwrap());
        writer.finish().unwrap();
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// The whole text, read in both ways.
    fn whole(text: &IndexText) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let one = text.reader().read_to_end(&mut bytes).map(|_| bytes);
        let other = text.read_through(|mut reader| {
            let mut bytes = Vec::new();
            let read = reader.read_to_end(&mut bytes);
            // The place where reading failed stays the same.
            assert_eq!(read.is_err(), reader.fill_buf().is_err());
            read.map(|_| bytes)
        });
        assert_eq!(one.as_ref().map_err(io::Error::kind), other.as_ref().map_err(io::Error::kind));
        one
    }

    /// Text that spans up to four blocks, of which some compress and some do not.
    fn texts() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            (any::<u8>(), 0..BLOCK * 2).prop_map(|(byte, count)| vec![byte; count]),
            (any::<u32>(), 0..BLOCK * 2).prop_map(|(seed, count)| {
                let mut state = seed | 1;
                let next = |_| {
                    state ^= state << 13;
                    state ^= state >> 17;
                    state ^= state << 5;
                    state.to_le_bytes()[0]
                };
                (0..count).map(next).collect()
            }),
        ];
        prop::collection::vec(part, 0..3).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn both_forms_read_alike(
            text in texts(),
            pieces in 1..BLOCK * 2,
            reads in prop::collection::vec((any::<prop::sample::Index>(), 0..BLOCK * 2), 0..12),
        ) {
            let (plain, blocks) = (file(&text), open(&stored(&text, pieces)).unwrap());
            // A text that happens to begin like blocks is none that anybody has.
            let plain = IndexText::open(plain).unwrap();
            prop_assert!(plain.blocks.is_none() && blocks.blocks.is_some());
            prop_assert_eq!(blocks.size().unwrap(), text.len() as u64);
            prop_assert!(whole(&blocks).unwrap() == text && whole(&plain).unwrap() == text);
            prop_assert!(plain.is_same(&blocks).unwrap() && blocks.is_same(&plain).unwrap());
            for (at, count) in reads {
                let at = at.index(text.len() + 1);
                let (mut ours, mut theirs) = (vec![0; count], vec![0; count]);
                let (one, other) = (plain.read_exact_at(&mut ours, at as u64), blocks.read_exact_at(&mut theirs, at as u64));
                prop_assert_eq!(one.map_err(|error| error.kind()), other.map_err(|error| error.kind()));
                if at + count <= text.len() {
                    prop_assert!(theirs == text[at..at + count] && ours == theirs);
                }
            }
        }

        #[test]
        fn damage_is_an_error_and_never_another_text(
            text in texts(),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u32,
            kept in any::<prop::sample::Index>(),
        ) {
            let good = stored(&text, BLOCK);
            let mut bytes = good.clone();
            // Damage of the first bytes leaves something that is no index: see below.
            let at = 8 + at.index(bytes.len() - 8);
            bytes[at] ^= 1 << bit;
            // A flipped bit of a stream's padding changes nothing.
            match open(&bytes).and_then(|text| whole(&text)) {
                Ok(same) => prop_assert_eq!(same, text.clone()),
                Err(error) => prop_assert_eq!(error.kind(), io::ErrorKind::InvalidData),
            }
            let short = open(&good[..8 + kept.index(good.len() - 8)]);
            prop_assert_eq!(short.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn no_more_is_written_than_there_is_room_for() {
        let text = b"VERSION: 0\n\n".repeat(10_000);
        let whole = stored(&text, 100).len() as u64;
        let write = |most: u64| {
            let file = tempfile::tempfile().unwrap();
            let mut writer = BlockWriter::within(file.try_clone().unwrap(), most)?;
            writer.write_all(&text)?;
            writer.finish()?;
            file.metadata().map(|metadata| metadata.len())
        };
        assert_eq!(write(whole).unwrap(), whole);
        for most in [whole - 1, whole / 2, 7, 0] {
            assert_eq!(write(most).unwrap_err().kind(), io::ErrorKind::StorageFull, "{most}");
        }
    }

    #[test]
    fn a_reader_that_stops_early_ends_the_thread() {
        let text = b"VERSION: 0\n\n".repeat(100_000);
        let blocks = open(&stored(&text, 1 << 20)).unwrap();
        assert!(blocks.blocks.as_ref().unwrap().count() > 2 * AHEAD);
        let start = blocks.read_through(|mut reader| reader.fill_buf().map(|start| start.len()));
        assert_eq!(start.unwrap(), BLOCK);
    }

    #[test]
    fn texts_are_the_same_if_all_their_bytes_are() {
        let (bytes, mut last) = (vec![1; BLOCK + 1], vec![1; BLOCK + 1]);
        *last.last_mut().unwrap() = 2;
        for (other, same) in [(&bytes, true), (&last, false), (&bytes[1..].to_vec(), false), (&Vec::new(), false)] {
            for form in [other.clone(), stored(other, 7)] {
                assert_eq!(open(&bytes).unwrap().is_same(&open(&form).unwrap()).unwrap(), same, "{}", other.len());
            }
        }
        assert!(open(b"").unwrap().is_same(&open(&stored(b"", 1)).unwrap()).unwrap());
    }

    #[test]
    fn the_format_is_what_is_documented() {
        // A deflate stream of one stored block: final bit, length, its complement, and the text.
        let text = b"VERSION: 0\n\n";
        let stream = [&b"\x01\x0c\x00\xf3\xff"[..], text].concat();
        let numbers = [0, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 1];
        let mut crc = flate2::Crc::new();
        crc.update(text);
        let row = [&[0, 0, 0, 17][..], &crc.sum().to_be_bytes()].concat();
        let mut crc = flate2::Crc::new();
        crc.update(&[&row[..], &numbers].concat());
        let crc = crc.sum().to_be_bytes();
        let bytes = [&b"\x89BHIDX1\n"[..], &stream, &row, &numbers, &crc, b"\x89BHIDX1\n"].concat();
        assert_eq!(whole(&open(&bytes).unwrap()).unwrap(), text);
        assert!(Index::parse(file(&bytes)).unwrap().records().is_empty());
        let written = stored(text, 100);
        assert_eq!((&written[..8], &written[written.len() - 24..][..12]), (&bytes[..8], &numbers[..]));
    }

    #[test]
    fn what_is_half_written_or_promises_too_much_is_no_index() {
        let text = "VERSION: 0\n\n".repeat(20_000);
        let good = stored(text.as_bytes(), 1000);
        assert!(Index::parse(file(&good)).is_ok());
        assert!(matches!(Index::parse(file(&good[..good.len() - 1])), Err(IndexError::Read(_))));
        let mut other = good.clone();
        other[3] ^= 1;
        assert!(matches!(Index::parse(file(&other)), Err(IndexError::NotAnIndex { .. })));
        // More blocks than the file could have, and more text than the blocks could have.
        for (at, bytes) in [(16, [0xff; 4]), (24, [0xff; 4]), (20, [0xff; 4])] {
            let mut other = good.clone();
            let start = other.len() - at;
            other[start..start + 4].copy_from_slice(&bytes);
            assert_eq!(open(&other).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        // Blocks that are damaged only where they are read.
        let blocks = file(&good);
        let text = IndexText::open(blocks.try_clone().unwrap()).unwrap();
        let mut bytes = [0; 9];
        text.read_exact_at(&mut bytes, BLOCK as u64 - 4).unwrap();
        blocks.write_all_at(&[0xaa; 20], 20).unwrap();
        // The block that was read last is in memory.
        text.read_exact_at(&mut bytes, BLOCK as u64 - 4).unwrap();
        let again = IndexText::open(blocks).unwrap();
        assert_eq!(again.read_exact_at(&mut bytes, 0).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
