//! The form in which an index is stored: compressed blocks with a table of them.
//!
//! ```text
//! magic    8 bytes   89 "BHIDX1" 0A
//! blocks             each a raw deflate stream (RFC 1951) of 64 KiB of the text; the last of less
//! table              for each block: u32 bytes of its stream, u32 CRC-32 of its text
//! footer  24 bytes   u64 bytes of the text, u32 number of blocks, u32 CRC-32 of the table and of
//!                    the two numbers before, and the magic again
//! ```
//! Numbers are big endian. The digit of the magic is the version. The footer is written last, so a
//! file that was cut off has none. The CRCs find what a disk has damaged. They protect against
//! nobody who writes to the cache on purpose: see `docs/security.md`.
//!
//! Not its job: files of other forms (`text`), and when a file is durable (`stored_index`).

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;

use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc, Decompress, FlushDecompress, Status};
use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::recent_blocks::RecentBlocks;

/// First and last bytes of a file. No text begins with a byte that is not UTF-8.
pub(super) const MAGIC: [u8; 8] = *b"\x89BHIDX1\n";
/// Bytes of the text in one block.
pub(super) const BLOCK: usize = 64 << 10;
/// The longest stream of a block: deflate adds 5 bytes for each 16 KiB that it cannot compress.
const MAX_STREAM: u32 = (BLOCK + (BLOCK >> 6)) as u32;

/// One block in the table.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct TableRow {
    length: U32,
    crc: U32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Footer {
    size: U64,
    blocks: U32,
    crc: U32,
    magic: [u8; 8],
}

impl Footer {
    /// The footer of a table.
    fn of(table: &[TableRow], size: u64, blocks: u32) -> Self {
        let (size, blocks) = (U64::new(size), U32::new(blocks));
        let mut crc = Crc::new();
        [table.as_bytes(), size.as_bytes(), blocks.as_bytes()].into_iter().for_each(|part| crc.update(part));
        Self { size, blocks, crc: U32::new(crc.sum()), magic: MAGIC }
    }
}

/// Writes a text as blocks. [`BlockWriter::finish`] completes the file.
pub(crate) struct BlockWriter {
    out: File,
    encoder: DeflateEncoder<Vec<u8>>,
    /// Bytes of the text in the current block, and their CRC.
    pending: usize,
    crc: Crc,
    table: Vec<TableRow>,
    size: u64,
    /// Bytes that the file may still take.
    left: u64,
}

impl BlockWriter {
    /// Empties `out` and writes to it from its start.
    ///
    /// # Errors
    /// The file cannot be written.
    #[cfg(test)]
    pub(crate) fn new(out: File) -> io::Result<Self> {
        Self::within(out, u64::MAX)
    }

    /// Empties `out` and writes at most `most` bytes to it from its start. What exceeds them is
    /// refused as a full disk refuses it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn within(mut out: File, most: u64) -> io::Result<Self> {
        out.set_len(0)?;
        io::Seek::rewind(&mut out)?;
        let encoder = DeflateEncoder::new(Vec::with_capacity(BLOCK / 2), Compression::default());
        let mut this = Self { out, encoder, pending: 0, crc: Crc::new(), table: Vec::new(), size: 0, left: most };
        this.put(&MAGIC)?;
        Ok(this)
    }

    /// Writes the rest of the text, the table and the footer. Nothing may be written afterwards.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.seal()?;
        let blocks = u32::try_from(self.table.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let footer = Footer::of(&self.table, self.size, blocks);
        let table = std::mem::take(&mut self.table);
        self.put(table.as_bytes())?;
        self.put(footer.as_bytes())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or(io::ErrorKind::StorageFull)?;
        self.out.write_all(bytes)
    }

    /// Ends the current block, if it has any text.
    fn seal(&mut self) -> io::Result<()> {
        if self.pending == 0 {
            return Ok(());
        }
        let stream = self.encoder.reset(Vec::with_capacity(BLOCK / 2))?;
        let length = u32::try_from(stream.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.put(&stream)?;
        self.table.push(TableRow { length: U32::new(length), crc: U32::new(self.crc.sum()) });
        (self.pending, self.crc) = (0, Crc::new());
        Ok(())
    }
}

impl Write for BlockWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = bytes.get(..bytes.len().min(BLOCK - self.pending)).unwrap_or_default();
        self.encoder.write_all(part)?;
        self.crc.update(part);
        self.pending += part.len();
        self.size += part.len() as u64;
        if self.pending == BLOCK {
            self.seal()?;
        }
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Place and check sum of one block.
#[derive(Debug, Clone, Copy)]
struct BlockPlace {
    offset: u64,
    length: u32,
    crc: u32,
}

/// The table of a file, and the blocks that were read last.
#[derive(Debug)]
pub(super) struct Blocks {
    size: u64,
    places: Vec<BlockPlace>,
    recent: RecentBlocks,
}

impl Blocks {
    /// Reads the table of a file. `None`: the file does not begin with [`MAGIC`].
    ///
    /// # Errors
    /// Reading fails. [`io::ErrorKind::InvalidData`]: the file is damaged or was cut off.
    pub(super) fn of(file: &File) -> io::Result<Option<Self>> {
        let length = file.metadata()?.len();
        let mut magic = [0; MAGIC.len()];
        if length < MAGIC.len() as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut magic, 0)?;
        if magic != MAGIC {
            return Ok(None);
        }
        Self::with_table(file, length).map(Some)
    }

    fn with_table(file: &File, length: u64) -> io::Result<Self> {
        let end = length.checked_sub(size_of::<Footer>() as u64).ok_or_else(damaged)?;
        let mut footer = Footer::new_zeroed();
        file.read_exact_at(footer.as_mut_bytes(), end)?;
        let (size, blocks) = (footer.size.get(), footer.blocks.get());
        let start = end.checked_sub(u64::from(blocks) * size_of::<TableRow>() as u64);
        let start = start.filter(|_| size.div_ceil(BLOCK as u64) == u64::from(blocks)).ok_or_else(damaged)?;
        let mut table = vec![TableRow::new_zeroed(); blocks as usize];
        file.read_exact_at(table.as_mut_slice().as_mut_bytes(), start)?;
        let mut offset = MAGIC.len() as u64;
        let mut places = Vec::with_capacity(table.len());
        for TableRow { length, crc } in &table {
            places.push(BlockPlace { offset, length: length.get(), crc: crc.get() });
            offset += u64::from(length.get());
        }
        let same = Footer::of(&table, size, blocks).as_bytes() == footer.as_bytes();
        let fits = offset == start && places.iter().all(|place| place.length <= MAX_STREAM);
        if same && fits { Ok(Self { size, places, recent: RecentBlocks::default() }) } else { Err(damaged()) }
    }

    /// Bytes of the text.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The number of blocks.
    pub(super) fn count(&self) -> usize {
        self.places.len()
    }

    /// Reads at most `buffer.len()` bytes of the text from `offset` on: those of one block. Returns
    /// 0 at the end of the text.
    ///
    /// # Errors
    /// Those of [`Blocks::read_block`].
    pub(super) fn read_at(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset >= self.size {
            return Ok(0);
        }
        let number = usize::try_from(offset / BLOCK as u64).map_err(|_| damaged())?;
        let text = self.recent.get(number, || {
            let mut text = Vec::new();
            self.read_block(file, number, &mut text).map(|()| text)
        })?;
        let text = text.get((offset % BLOCK as u64) as usize..).unwrap_or_default();
        let count = text.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), text.get(..count)) {
            to.copy_from_slice(from);
        }
        Ok(count)
    }

    /// Replaces `text` by the text of block number `number`.
    ///
    /// # Errors
    /// Reading fails. [`io::ErrorKind::InvalidData`]: the block is damaged, or there is none of
    /// this number.
    pub(super) fn read_block(&self, file: &File, number: usize, text: &mut Vec<u8>) -> io::Result<()> {
        let place = self.places.get(number).ok_or_else(damaged)?;
        let start = (number * BLOCK) as u64;
        let length = self.size.saturating_sub(start).min(BLOCK as u64) as usize;
        let mut stream = vec![0; place.length as usize];
        file.read_exact_at(&mut stream, place.offset)?;
        text.clear();
        text.resize(length, 0);
        let mut decoder = Decompress::new(false);
        let status = decoder.decompress(&stream, text, FlushDecompress::Finish).map_err(|_| damaged())?;
        let whole = decoder.total_in() == u64::from(place.length) && decoder.total_out() == length as u64;
        if status != Status::StreamEnd || !whole || crc_of(text) != place.crc {
            return Err(damaged());
        }
        Ok(())
    }
}

fn crc_of(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the stored index is damaged or was cut off")
}
