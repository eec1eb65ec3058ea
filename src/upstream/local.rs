//! Reads files of a `file:` binhost.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;
use url::Url;

use super::UpstreamError;
use crate::config;

/// Bytes read at once.
const CHUNK: usize = 256 << 10;
/// Most files of one binhost that are opened or read at the same time. A directory on a network may
/// never answer, and each waiting call occupies a thread.
pub(super) const MAX_READS: usize = 2;

/// An open package file in a local directory.
#[derive(Debug)]
pub(super) struct LocalFile {
    file: Option<File>,
    url: String,
    reads: Arc<Semaphore>,
}

impl LocalFile {
    /// Opens the file and compares its size in bytes with the index's.
    pub(super) async fn open(url: &Url, size: u64, reads: &Arc<Semaphore>) -> Result<Self, UpstreamError> {
        let shown = config::display(url);
        let error = |source| UpstreamError::File { url: shown.clone(), source };
        let (file, got) = open_in_turn(url, reads).await.map_err(error)?;
        if got != size {
            return Err(UpstreamError::SizeMismatch { url: shown, got, expected: size });
        }
        Ok(Self { file: Some(file), url: shown, reads: Arc::clone(reads) })
    }

    /// Continues at byte `offset`. The call does not access the disk.
    pub(super) fn seek(&mut self, offset: u64) -> Result<(), UpstreamError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let error = |source| UpstreamError::File { url: self.url.clone(), source };
        file.seek(SeekFrom::Start(offset)).map(drop).map_err(error)
    }

    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let error = |source| UpstreamError::File { url: self.url.clone(), source };
        let Some(mut file) = self.file.take() else { return Ok(None) };
        let read = move || {
            let mut bytes = vec![0; CHUNK];
            let count = file.read(&mut bytes)?;
            bytes.truncate(count);
            Ok((file, bytes))
        };
        let (file, bytes) = in_turn(&self.reads, read).await.map_err(error)?;
        self.file = Some(file);
        Ok((!bytes.is_empty()).then(|| bytes.into()))
    }
}

/// Opens a regular file and returns its size. FIFOs and devices are refused, since they would hang
/// or never end.
pub(super) async fn open(url: &Url) -> io::Result<(File, u64)> {
    let path = path(url)?;
    blocking(move || open_regular(&path)).await
}

async fn open_in_turn(url: &Url, reads: &Arc<Semaphore>) -> io::Result<(File, u64)> {
    let path = path(url)?;
    in_turn(reads, move || open_regular(&path)).await
}

fn path(url: &Url) -> io::Result<PathBuf> {
    config::file_path(url).ok_or_else(|| io::Error::other("not the URL of a local file"))
}

fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(nonblock).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    Ok((file, metadata.len()))
}

/// Runs at most [`MAX_READS`] calls at once. A call that never ends keeps its permit.
async fn in_turn<T: Send + 'static>(
    reads: &Arc<Semaphore>,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let turn = Arc::clone(reads).acquire_owned().await.map_err(io::Error::other)?;
    blocking(move || {
        let done = work();
        drop(turn);
        done
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(io::Error::other("reading was broken off")))
}
