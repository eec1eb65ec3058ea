//! Decompresses a section of a file as a stream, in bounded memory.
//!
//! The whole output is bounded to [`MAX_METADATA`]. The memory of each decoder is bounded as well:
//!
//! * gzip 32 KiB, bzip2 4 MB and lz4 9 MB, by their formats.
//! * xz and lzip: the decoder's window grows with the output, whatever size the header asks for.
//! * zstd: the window in the header is cut down to [`MAX_METADATA`], beyond which no output can
//!   refer back.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;

use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::VerifyError;

/// Most bytes of metadata that are read, decompressed. Metadata has some 10 KiB, or 1 MiB with a
/// large environment.
pub(super) const MAX_METADATA: u64 = 32 << 20;
/// [`MAX_METADATA`] as a zstd window descriptor: 2^(10 + 15) bytes. Larger descriptors mean larger
/// windows.
const MAX_WINDOW_DESCRIPTOR: u8 = 15 << 3;
/// First 28 bits of the magic of a frame without data (RFC 8878, 3.1.2). `SKIPPABLE_MASK` selects
/// these bits.
const SKIPPABLE: u32 = 0x184D_2A50;
const SKIPPABLE_MASK: u32 = 0xFFFF_FFF0;

/// Reader for `size` bytes of a file from `offset` on. An I/O error is stored in `failure`, because
/// decoders wrap errors and a bad disk must not look like a bad package.
pub(super) struct FileSection<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
    failure: &'a Cell<Option<io::Error>>,
}

impl<'a> FileSection<'a> {
    pub(super) fn new(file: &'a File, offset: u64, size: u64, failure: &'a Cell<Option<io::Error>>) -> Self {
        Self { file, offset, left: size, failure }
    }
}

impl Read for FileSection<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = buffer.get_mut(..count).unwrap_or_default();
        if buffer.is_empty() {
            return Ok(0);
        }
        match self.file.read_at(buffer, self.offset) {
            Ok(0) => {
                self.failure.set(Some(io::ErrorKind::UnexpectedEof.into()));
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Ok(count) => {
                self.offset += count as u64;
                self.left -= count as u64;
                Ok(count)
            }
            Err(error) => {
                let kind = error.kind();
                if kind != io::ErrorKind::Interrupted {
                    self.failure.set(Some(error));
                }
                Err(kind.into())
            }
        }
    }
}

/// Decompresses `input`, chosen by the compression ending of the member's name. An empty ending
/// means no compression.
pub(super) fn decoder<'a>(extension: &str, input: FileSection<'a>) -> Result<Box<dyn Read + 'a>, VerifyError> {
    let input = BufReader::with_capacity(16 << 10, input);
    Ok(match extension {
        "" => Box::new(input),
        "gz" => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        "bz2" => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        "lz4" => Box::new(lz4_flex::frame::FrameDecoder::new(input)),
        "lz" => Box::new(lzma_rust2::LzipReader::new(input)),
        "xz" => Box::new(lzma_rust2::XzReader::new(input, true)),
        "zst" => Box::new(Zstd::new(input)),
        other => return Err(VerifyError::Compression { extension: other.to_owned() }),
    })
}

/// Decoder for a sequence of zstd frames. pzstd writes many frames, and frames without data between
/// them.
struct Zstd<R> {
    input: R,
    frame: FrameDecoder,
    in_frame: bool,
}

impl<R: Read> Zstd<R> {
    fn new(input: R) -> Self {
        let mut frame = FrameDecoder::new();
        frame.set_max_window_size(MAX_METADATA);
        Self { input, frame, in_frame: false }
    }

    /// Advances to the next frame with data. Returns `false` at the end of the input.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            let mut magic = Vec::with_capacity(6);
            if self.input.by_ref().take(4).read_to_end(&mut magic)? == 0 {
                return Ok(false);
            }
            let number = magic.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
            if number & SKIPPABLE_MASK != SKIPPABLE {
                self.start_frame(magic)?;
                return Ok(true);
            }
            let mut length = [0; 4];
            self.input.read_exact(&mut length)?;
            let length = u64::from(u32::from_le_bytes(length));
            if io::copy(&mut self.input.by_ref().take(length), &mut io::sink())? < length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads the frame's header, and reduces its window to the bound.
    fn start_frame(&mut self, mut header: Vec<u8>) -> io::Result<()> {
        let mut byte = [0];
        self.input.read_exact(&mut byte)?;
        header.extend(byte);
        let [descriptor] = byte;
        let single_segment = descriptor & 0x20 != 0;
        if !single_segment {
            self.input.read_exact(&mut byte)?;
            header.extend(byte.map(|window| window.min(MAX_WINDOW_DESCRIPTOR)));
        }
        self.frame.reset(header.chain(&mut self.input)).map_err(io::Error::other)
    }
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while self.in_frame || self.next_frame()? {
            self.in_frame = true;
            while self.frame.can_collect() == 0 && !self.frame.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.frame.decode_blocks(&mut self.input, one).map_err(io::Error::other)?;
            }
            let count = self.frame.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            self.in_frame = false;
        }
        Ok(0)
    }
}
