//! The first bytes of a package, by Range; of a server that does not know that, what it sends until it is not read any more.

use super::client::RequestCondition;
use super::local::LocalFile;
use super::{Upstream, UpstreamError};
use crate::config;

impl Upstream {
    /// The first `count` bytes of the package at `path`, which has `size`; all of it where it has no more. One URL is asked, once:
    /// the one that a download would be begun with.
    ///
    /// # Errors
    /// The URL fails, or has a file of another size.
    pub async fn first_bytes(
        &self,
        uri: Option<&str>,
        path: &str,
        size: u64,
        count: u64,
    ) -> Result<Vec<u8>, UpstreamError> {
        let count = count.min(size);
        let mut candidates = self.candidates(uri, path, 0);
        let Some(url) = self.choose(&mut candidates) else { return Err(candidates.take_error()) };
        let mut bytes = Vec::with_capacity(usize::try_from(count).unwrap_or_default());
        if url.scheme() == "file" {
            let mut file = LocalFile::open(&url, size, &self.local_reads).await?;
            while (bytes.len() as u64) < count
                && let Some(chunk) = file.chunk().await?
            {
                bytes.extend_from_slice(&chunk);
            }
            bytes.truncate(usize::try_from(count).unwrap_or_default());
            return Ok(bytes);
        }
        let patience = self.patience(&candidates);
        let mut answer = self.client.get(&url, RequestCondition::First(count), patience).await?;
        let (shown, range) = (config::display(&url), answer.content_range().unwrap_or_default());
        let size_of_all = match answer.status() {
            206 => range.rsplit_once('/').and_then(|(_, all)| all.parse().ok()),
            // It does not know Range, and begins to send the whole.
            _ => answer.length(),
        };
        if let Some(got) = size_of_all.filter(|got| *got != size) {
            return Err(UpstreamError::SizeMismatch { url: shown, got, expected: size });
        }
        if answer.status() == 206 && range != format!("bytes 0-{}/{size}", count.saturating_sub(1)) {
            return Err(UpstreamError::WrongRange { url: shown, range });
        }
        while (bytes.len() as u64) < count
            && let Some(chunk) = answer.chunk(patience).await?
        {
            bytes.extend_from_slice(&chunk);
        }
        bytes.truncate(usize::try_from(count).unwrap_or_default());
        self.metrics.bytes_fetched.add(bytes.len() as u64);
        match bytes.len() as u64 {
            got if got == count => Ok(bytes),
            got => Err(UpstreamError::Truncated { url: shown, got, expected: count }),
        }
    }
}
