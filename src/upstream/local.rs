//! Files of a `file:` binhost.

use std::fs::File;
use std::io::{self, Read as _};

use bytes::Bytes;
use url::Url;

use super::UpstreamError;
use crate::config;

/// Bytes read at once.
const CHUNK: usize = 256 << 10;

/// A package in a directory.
#[derive(Debug)]
pub(super) struct LocalFile {
    file: Option<File>,
    url: String,
}

impl LocalFile {
    /// Opens the file and compares its size with the index's, bytes.
    pub(super) async fn open(url: &Url, size: u64) -> Result<Self, UpstreamError> {
        let shown = config::shown(url);
        let error = |source| UpstreamError::File { url: shown.clone(), source };
        let (file, got) = open(url).await.map_err(error)?;
        if got != size {
            return Err(UpstreamError::SizeMismatch { url: shown, got, expected: size });
        }
        Ok(Self { file: Some(file), url: shown })
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
        let (file, bytes) = blocking(read).await.map_err(error)?;
        self.file = Some(file);
        Ok((!bytes.is_empty()).then(|| bytes.into()))
    }
}

/// Opens a regular file; its size. FIFOs and devices would hang or never end.
pub(super) async fn open(url: &Url) -> io::Result<(File, u64)> {
    let path = config::file_path(url).ok_or_else(|| io::Error::other("not the URL of a local file"))?;
    blocking(move || {
        use std::os::unix::fs::OpenOptionsExt as _;
        let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options().read(true).custom_flags(nonblock).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        Ok((file, metadata.len()))
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(io::Error::other("reading was broken off")))
}
