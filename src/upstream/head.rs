//! Fetches some bytes of a package, by Range.
//!
//! If a server does not support Range, the first bytes are read from the whole file, and the
//! connection is then closed.

use std::ops::Range;

use super::client::{RequestCondition, UpstreamResponse};
use super::local::LocalFile;
use super::{Upstream, UpstreamError};
use crate::config;

impl Upstream {
    /// Fetches the bytes in `range` of the package at `path`, which has `size` bytes; fewer at its
    /// end. One URL is asked once: the one that a download would start with.
    ///
    /// # Errors
    /// The URL fails, has a file of another size, or would also send the bytes before the range.
    pub(crate) async fn fetch_range(
        &self,
        uri: Option<&str>,
        path: &str,
        size: u64,
        range: Range<u64>,
    ) -> Result<Vec<u8>, UpstreamError> {
        let range = range.start.min(size)..range.end.min(size);
        let count = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or_default();
        let mut candidates = self.candidates(uri, path, 0);
        let Some(url) = self.mirrors.choose(&mut candidates) else { return Err(candidates.take_error()) };
        let mut bytes = Vec::with_capacity(count);
        if url.scheme() == "file" {
            let mut file = LocalFile::open(&url, size, &self.local_reads).await?;
            file.seek(range.start)?;
            while bytes.len() < count
                && let Some(chunk) = file.chunk().await?
            {
                bytes.extend_from_slice(&chunk);
            }
            bytes.truncate(count);
            return Ok(bytes);
        }
        let patience = self.mirrors.patience(&candidates);
        let mut answer = self.client.get(&url, RequestCondition::Range(range.clone()), patience).await?;
        check(&answer, &range, size, config::display(&url))?;
        while bytes.len() < count
            && let Some(chunk) = answer.chunk(patience).await?
        {
            bytes.extend_from_slice(&chunk);
        }
        bytes.truncate(count);
        self.metrics.bytes_fetched.add(bytes.len() as u64);
        match bytes.len() {
            got if got == count => Ok(bytes),
            got => {
                Err(UpstreamError::Truncated { url: config::display(&url), got: got as u64, expected: count as u64 })
            }
        }
    }
}

/// Checks that an answer begins with the requested range, and that the file has `size` bytes.
fn check(answer: &UpstreamResponse, range: &Range<u64>, size: u64, url: String) -> Result<(), UpstreamError> {
    let said = answer.content_range().unwrap_or_default();
    let is_part = answer.status() == 206;
    let size_of_all = match is_part {
        true => said.rsplit_once('/').and_then(|(_, all)| all.parse().ok()),
        // The server does not support Range, and begins to send the whole file.
        false => answer.length(),
    };
    match size_of_all {
        Some(got) if got != size => Err(UpstreamError::SizeMismatch { url, got, expected: size }),
        _ if !is_part && range.start > 0 => Err(UpstreamError::NoRange { url }),
        _ if is_part && said != format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1)) => {
            Err(UpstreamError::WrongRange { url, range: said })
        }
        _ => Ok(()),
    }
}
