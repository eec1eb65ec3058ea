//! Writes an index as received, compressed or not, to a file of blocks within a bound.

use std::fs::File;
use std::io::{self, Write};

use bytes::Bytes;

use super::UpstreamError;
use crate::index::BlockWriter;

/// First bytes of gzip data.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Writer that decompresses gzip data, and stops at the bound.
pub(super) struct IndexWriter {
    url: String,
    start: Vec<u8>,
    sink: Option<Sink>,
    out: Option<Bounded>,
    limit: u64,
}

enum Sink {
    Plain(Box<Bounded>),
    Gzip(Box<flate2::write::MultiGzDecoder<Bounded>>),
}

impl IndexWriter {
    /// Writes an index of at most `limit` bytes to `out`, which may take at most `most` bytes.
    pub(super) fn new(url: String, (out, most): (&File, u64), limit: u64) -> Result<Self, UpstreamError> {
        let fresh = || BlockWriter::within(out.try_clone()?, most);
        let blocks =
            fresh().map_err(|source| UpstreamError::Disk { attempted: "emptying the file for the index", source })?;
        let out = Bounded { blocks, left: limit, fault: None };
        Ok(Self { url, start: Vec::new(), sink: None, out: Some(out), limit })
    }

    pub(super) async fn write(mut self, chunk: Bytes) -> Result<Self, UpstreamError> {
        blocking(move || self.write_now(&chunk).map(|()| self)).await
    }

    pub(super) async fn finish(self) -> Result<(), UpstreamError> {
        blocking(move || self.finish_now()).await
    }

    pub(super) fn write_now(&mut self, bytes: &[u8]) -> Result<(), UpstreamError> {
        if self.sink.is_none() {
            self.start.extend_from_slice(bytes);
            if self.start.len() < GZIP.len() {
                return Ok(());
            }
            let start = self.begin();
            return self.pass_on(&start);
        }
        self.pass_on(bytes)
    }

    /// Chooses by the first bytes and not by the name, because servers may compress or decompress a
    /// file.
    fn begin(&mut self) -> Vec<u8> {
        let start = std::mem::take(&mut self.start);
        self.sink = self.out.take().map(|out| match start.starts_with(&GZIP) {
            true => Sink::Gzip(Box::new(flate2::write::MultiGzDecoder::new(out))),
            false => Sink::Plain(Box::new(out)),
        });
        start
    }

    fn pass_on(&mut self, bytes: &[u8]) -> Result<(), UpstreamError> {
        let written = match &mut self.sink {
            Some(Sink::Plain(out)) => out.write_all(bytes),
            Some(Sink::Gzip(decoder)) => decoder.write_all(bytes),
            None => Ok(()),
        };
        written.map_err(|error| self.explain(error))
    }

    pub(super) fn finish_now(mut self) -> Result<(), UpstreamError> {
        let rest = if self.sink.is_none() { self.begin() } else { Vec::new() };
        self.pass_on(&rest)?;
        let finished = match &mut self.sink {
            Some(Sink::Gzip(decoder)) => decoder.try_finish().and_then(|()| decoder.get_mut().finish()),
            Some(Sink::Plain(out)) => out.finish(),
            None => Ok(()),
        };
        finished.map_err(|error| self.explain(error))
    }

    /// Asks the sink for its error first, because the decoder returns the sink's errors as its own.
    fn explain(&mut self, error: io::Error) -> UpstreamError {
        let bounded = match &mut self.sink {
            Some(Sink::Plain(out)) => Some(&mut **out),
            Some(Sink::Gzip(decoder)) => Some(decoder.get_mut()),
            None => None,
        };
        match bounded.and_then(|out| out.fault.take()) {
            Some(UnpackError::TooLarge) => UpstreamError::TooLarge { url: self.url.clone(), limit: self.limit },
            Some(UnpackError::Io(source)) => UpstreamError::Disk { attempted: "storing the index", source },
            None => UpstreamError::Compressed { url: self.url.clone(), reason: error.to_string() },
        }
    }
}

enum UnpackError {
    TooLarge,
    Io(io::Error),
}

/// A file of blocks that accepts a limited number of bytes of text.
struct Bounded {
    blocks: BlockWriter,
    left: u64,
    fault: Option<UnpackError>,
}

impl Bounded {
    fn finish(&mut self) -> io::Result<()> {
        let finished = self.blocks.finish();
        self.note(finished)
    }

    /// Keeps an error of the disk for [`IndexWriter::explain`].
    fn note<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            let told = io::Error::from(error.kind());
            self.fault = Some(UnpackError::Io(error));
            told
        })
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else {
            self.fault = Some(UnpackError::TooLarge);
            return Err(io::Error::other("too large"));
        };
        let written = self.blocks.write_all(bytes);
        self.note(written)?;
        self.left = left;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.blocks.flush()
    }
}

/// Runs `work` on a thread for blocking calls.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, UpstreamError> + Send + 'static,
) -> Result<T, UpstreamError> {
    let broken =
        || UpstreamError::Disk { attempted: "storing the index", source: io::Error::other("it was broken off") };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(broken()))
}
