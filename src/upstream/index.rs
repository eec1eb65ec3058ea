//! The index of a binhost -> a decompressed file.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use url::Url;

use super::client::Condition;
use super::retry::{self, ATTEMPTS, Verdict};
use super::{Upstream, UpstreamError, local};
use crate::config::{self, BinhostUrl};

/// Largest index that is taken, decompressed. The official ones have 16 MiB (2025).
pub const MAX_INDEX_BYTES: u64 = 512 << 20;
/// First bytes of gzip data.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// What tells whether an index is still the one that was received.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validators {
    /// The URL that it came from, without credentials; the others hold for this one only.
    pub url: String,
    /// Its ETag; of a local file its modification time and size.
    pub etag: Option<String>,
    /// Its Last-Modified.
    pub last_modified: Option<String>,
}

/// What a binhost says to the question for its index.
#[derive(Debug)]
pub enum IndexAnswer {
    /// It is the one that the validators belong to.
    NotModified,
    /// A new one, in the file that was given, and what to ask with the next time.
    Fresh(Validators),
}

impl Upstream {
    /// How many URLs can be asked for the index.
    #[must_use]
    pub fn index_sources(&self) -> usize {
        self.binhost.urls.len()
    }

    /// Asks URL number `source` for its index and writes it to `out` (emptied first), decompressed.
    ///
    /// # Errors
    /// The URL has none, or none that can be stored. `out` is then worthless.
    pub async fn index(&self, source: usize, known: &Validators, out: &File) -> Result<IndexAnswer, UpstreamError> {
        let Some(base) = self.binhost.urls.get(source) else { return Err(UpstreamError::All(Vec::new())) };
        let [compressed, plain] = self.index_urls(base);
        match self.patiently(base, &compressed, known, out).await {
            Err(error) if is_absent(&error) => self.patiently(base, &plain, known, out).await.map_err(|_| error),
            other => other,
        }
    }

    async fn patiently(
        &self,
        base: &BinhostUrl,
        url: &Url,
        known: &Validators,
        out: &File,
    ) -> Result<IndexAnswer, UpstreamError> {
        let mut attempt = 0;
        loop {
            let result =
                if base.is_file() { from_file(url, known, out).await } else { self.over_http(url, known, out).await };
            match result {
                Err(error) if retry::judge(&error) == Verdict::Again && attempt + 1 < ATTEMPTS => {
                    attempt += 1;
                    self.metrics.retries.increase();
                    tokio::time::sleep(retry::wait(attempt, &error)).await;
                }
                other => return other,
            }
        }
    }

    async fn over_http(&self, url: &Url, known: &Validators, out: &File) -> Result<IndexAnswer, UpstreamError> {
        let shown = config::shown(url);
        let same = known.url == shown;
        let (etag, last_modified) =
            (known.etag.as_deref().filter(|_| same), known.last_modified.as_deref().filter(|_| same));
        let mut answer = self.client.get(url, Condition::Changed { etag, last_modified }).await?;
        if answer.status() == 304 {
            return Ok(IndexAnswer::NotModified);
        }
        let validators = Validators { url: shown.clone(), etag: answer.etag(), last_modified: answer.last_modified() };
        let mut writer = IndexWriter::new(shown, out)?;
        while let Some(chunk) = answer.chunk().await? {
            writer = writer.write(chunk).await?;
        }
        writer.finish().await?;
        Ok(IndexAnswer::Fresh(validators))
    }
}

fn is_absent(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::Status { status, .. } => matches!(status, 403 | 404 | 410),
        UpstreamError::File { source, .. } => source.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

async fn from_file(url: &Url, known: &Validators, out: &File) -> Result<IndexAnswer, UpstreamError> {
    let shown = config::shown(url);
    let error = |source| UpstreamError::File { url: shown.clone(), source };
    let (mut file, size) = local::open(url).await.map_err(error)?;
    let metadata = file.metadata().map_err(error)?;
    let etag = Some(format!("{}.{}-{size}", metadata.mtime(), metadata.mtime_nsec()));
    if known.url == shown && known.etag == etag {
        return Ok(IndexAnswer::NotModified);
    }
    let writer = IndexWriter::new(shown.clone(), out)?;
    let copy = move || -> Result<(), UpstreamError> {
        let mut writer = writer;
        let mut bytes = vec![0; 256 << 10];
        loop {
            let read = io::Read::read(&mut file, &mut bytes);
            match read.map_err(|source| UpstreamError::File { url: writer.url.clone(), source })? {
                0 => return writer.finish_now(),
                count => writer.write_now(bytes.get(..count).unwrap_or_default())?,
            }
        }
    };
    blocking(copy).await?;
    Ok(IndexAnswer::Fresh(Validators { url: shown, etag, last_modified: None }))
}

/// Decompresses what looks compressed, and stops at the bound.
struct IndexWriter {
    url: String,
    start: Vec<u8>,
    sink: Option<Sink>,
    out: Option<Bounded>,
}

enum Sink {
    Plain(Bounded),
    Gzip(Box<flate2::write::MultiGzDecoder<Bounded>>),
}

impl IndexWriter {
    fn new(url: String, out: &File) -> Result<Self, UpstreamError> {
        let fresh = || -> io::Result<File> {
            out.set_len(0)?;
            let mut file = out.try_clone()?;
            io::Seek::rewind(&mut file)?;
            Ok(file)
        };
        let file =
            fresh().map_err(|source| UpstreamError::Store { attempted: "emptying the file for the index", source })?;
        Ok(Self { url, start: Vec::new(), sink: None, out: Some(Bounded { file, left: MAX_INDEX_BYTES, fault: None }) })
    }

    async fn write(mut self, chunk: Bytes) -> Result<Self, UpstreamError> {
        blocking(move || self.write_now(&chunk).map(|()| self)).await
    }

    async fn finish(self) -> Result<(), UpstreamError> {
        blocking(move || self.finish_now()).await
    }

    fn write_now(&mut self, bytes: &[u8]) -> Result<(), UpstreamError> {
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

    /// Chooses by the first bytes, whatever the name says: servers compress, or decompress, as they like.
    fn begin(&mut self) -> Vec<u8> {
        let start = std::mem::take(&mut self.start);
        self.sink = self.out.take().map(|out| match start.starts_with(&GZIP) {
            true => Sink::Gzip(Box::new(flate2::write::MultiGzDecoder::new(out))),
            false => Sink::Plain(out),
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

    fn finish_now(mut self) -> Result<(), UpstreamError> {
        let rest = if self.sink.is_none() { self.begin() } else { Vec::new() };
        self.pass_on(&rest)?;
        let finished = match &mut self.sink {
            Some(Sink::Gzip(decoder)) => decoder.try_finish(),
            _ => Ok(()),
        };
        finished.map_err(|error| self.explain(error))
    }

    /// The decoder passes our own sink's errors on as its own: ask the sink first.
    fn explain(&mut self, error: io::Error) -> UpstreamError {
        let bounded = match &mut self.sink {
            Some(Sink::Plain(out)) => Some(out),
            Some(Sink::Gzip(decoder)) => Some(decoder.get_mut()),
            None => None,
        };
        match bounded.and_then(|out| out.fault.take()) {
            Some(Fault::TooLarge) => UpstreamError::TooLarge { url: self.url.clone(), limit: MAX_INDEX_BYTES },
            Some(Fault::Io(source)) => UpstreamError::Store { attempted: "storing the index", source },
            None => UpstreamError::Compressed { url: self.url.clone(), reason: error.to_string() },
        }
    }
}

enum Fault {
    TooLarge,
    Io(io::Error),
}

/// A file that takes no more than so many bytes.
struct Bounded {
    file: File,
    left: u64,
    fault: Option<Fault>,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else {
            self.fault = Some(Fault::TooLarge);
            return Err(io::Error::other("too large"));
        };
        if let Err(error) = self.file.write_all(bytes) {
            let told = io::Error::from(error.kind());
            self.fault = Some(Fault::Io(error));
            return Err(told);
        }
        self.left = left;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, UpstreamError> + Send + 'static,
) -> Result<T, UpstreamError> {
    let broken =
        || UpstreamError::Store { attempted: "storing the index", source: io::Error::other("it was broken off") };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(broken()))
}
