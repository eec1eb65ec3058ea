//! Fetches the index of a binhost from the best of its URLs.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use url::Url;

use super::candidates::{Candidates, UrlCandidate};
use super::client::RequestCondition;
use super::mirrors::MirrorSlot;
use super::retry::{self, RATE_FLOOR, RATE_WINDOW, RetryDecision};
use super::throughput::Throughput;
use super::unpack::{IndexWriter, blocking};
use super::{Upstream, UpstreamError, local};
use crate::config::{self, BinhostUrl};

/// Names of an index, the preferred one first.
const COMPRESSED: &str = "Packages.gz";
const PLAIN: &str = "Packages";

/// Values that show whether the index at a URL is still the one that was received.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Validators {
    /// The URL that the index came from, without credentials. ETag and Last-Modified are valid for
    /// this URL only.
    pub url: String,
    /// ETag of the index. For a local file: its modification time and size.
    pub etag: Option<String>,
    /// Last-Modified of the index.
    pub last_modified: Option<String>,
}

/// Answer of a binhost to a request for its index.
#[derive(Debug)]
pub(crate) enum IndexAnswer {
    /// The index is the one that the validators belong to.
    NotModified,
    /// A new index was written to the caller's file. The validators are for the next request.
    Fresh(Validators),
}

/// Where an index is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IndexTarget<'a> {
    pub file: &'a File,
    /// Most bytes that the file may take.
    pub most: u64,
}

/// The URLs of an index, asked one after the other: see [`Upstream::index_sources`].
#[derive(Debug)]
pub(crate) struct IndexSources<'a> {
    upstream: &'a Upstream,
    candidates: Candidates,
}

impl Upstream {
    /// Returns the URLs to ask for the index. The URL that `known` belongs to is first, unless it
    /// is unhealthy or the first configured URL has not been asked for long.
    #[must_use]
    pub(crate) fn index_sources(&self, known: &Validators) -> IndexSources<'_> {
        let bases = &self.binhost.urls;
        let first = self.mirrors.lock().index_first(self.slot_of_index(known), Instant::now());
        let all = bases.iter().enumerate().map(|(slot, base)| UrlCandidate::new(slot, base.join(COMPRESSED)));
        IndexSources { upstream: self, candidates: Candidates::new(all.collect(), Some(first)) }
    }

    /// Returns only the URL number `number`, for callers that compare what each URL serves.
    #[must_use]
    pub(crate) fn index_source(&self, number: usize) -> IndexSources<'_> {
        let one = self.binhost.urls.get(number).map(|base| UrlCandidate::new(number, base.join(COMPRESSED)));
        IndexSources { upstream: self, candidates: Candidates::new(one.into_iter().collect(), None) }
    }

    /// Returns the URL of the binhost that an index came from.
    #[must_use]
    pub(crate) fn base_of(&self, known: &Validators) -> Option<&BinhostUrl> {
        self.binhost.urls.get(self.slot_of_index(known)?)
    }

    /// Records that an index from a URL of the binhost is not to be used. Other URLs are asked
    /// first for a while.
    pub(crate) fn note_wrong_index(&self, from: &Validators, reason: &str) {
        if let Some(slot) = self.slot_of_index(from) {
            self.mirrors.note_wrong_index(slot, &from.url, reason);
        }
    }

    fn slot_of_index(&self, known: &Validators) -> Option<MirrorSlot> {
        self.binhost.urls.iter().position(|base| has_index_of(base, known))
    }
}

fn has_index_of(base: &BinhostUrl, known: &Validators) -> bool {
    [COMPRESSED, PLAIN].iter().any(|name| config::display(&base.join(name)) == known.url)
}

impl IndexSources<'_> {
    /// Asks for the index until a URL answers, and writes it to `out` (emptied first), in
    /// compressed blocks. The next call asks the remaining URLs; `None`: no URL is left.
    ///
    /// # Errors
    /// No remaining URL has an index that can be stored. The contents of `out` are then undefined.
    pub(crate) async fn next(
        &mut self,
        known: &Validators,
        out: IndexTarget<'_>,
    ) -> Option<Result<IndexAnswer, UpstreamError>> {
        while let Some(url) = self.upstream.mirrors.choose(&mut self.candidates) {
            let slot = self.candidates.current().map(|candidate| candidate.slot);
            match self.request_once(slot, &url, known, out).await {
                Ok(answer) => {
                    self.upstream.mirrors.note_served(slot);
                    self.candidates.give_up_current();
                    return Some(Ok(answer));
                }
                Err(error) => self.recover(slot, error).await,
            }
        }
        self.candidates.has_error().then(|| Err(self.candidates.take_error()))
    }

    async fn recover(&mut self, slot: Option<MirrorSlot>, error: UpstreamError) {
        self.upstream.mirrors.note_failure(slot, &error);
        let decision = retry::judge(&error, self.upstream.mirrors.others(&self.candidates));
        let wait = retry::wait(self.candidates.tries() + 1, &error);
        self.candidates.failed(error, decision);
        if matches!(decision, RetryDecision::Again | RetryDecision::Later) && self.candidates.any_left() {
            self.upstream.metrics.retries.increase();
            tokio::time::sleep(wait).await;
        }
    }

    /// Asks one URL once for the compressed index, and for the plain one if there is none.
    async fn request_once(
        &self,
        slot: Option<MirrorSlot>,
        compressed: &Url,
        known: &Validators,
        out: IndexTarget<'_>,
    ) -> Result<IndexAnswer, UpstreamError> {
        match self.request(slot, compressed, known, out).await {
            Err(error) if is_absent(&error) => match compressed.join(PLAIN) {
                Ok(plain) => self.request(slot, &plain, known, out).await.map_err(|of_plain| {
                    // If both are missing, the error names the preferred one.
                    if is_absent(&of_plain) { no_index(error) } else { of_plain }
                }),
                Err(_) => Err(error),
            },
            other => other,
        }
    }

    async fn request(
        &self,
        slot: Option<MirrorSlot>,
        url: &Url,
        known: &Validators,
        out: IndexTarget<'_>,
    ) -> Result<IndexAnswer, UpstreamError> {
        if url.scheme() == "file" {
            return from_file(url, known, out, self.upstream.binhost.max_index.0).await;
        }
        let mut pace = Throughput::default();
        let result = self.over_http(slot, url, known, out, &mut pace).await;
        self.upstream.mirrors.note_pace(slot, pace.total());
        result
    }

    async fn over_http(
        &self,
        slot: Option<MirrorSlot>,
        url: &Url,
        known: &Validators,
        out: IndexTarget<'_>,
        pace: &mut Throughput,
    ) -> Result<IndexAnswer, UpstreamError> {
        let shown = config::display(url);
        let same = known.url == shown;
        let (etag, last_modified) =
            (known.etag.as_deref().filter(|_| same), known.last_modified.as_deref().filter(|_| same));
        let patience = || self.upstream.mirrors.patience(&self.candidates);
        let asked = Instant::now();
        let condition = RequestCondition::Changed { etag, last_modified };
        let mut answer = self.upstream.client.get(url, condition, patience()).await?;
        self.upstream.mirrors.note_response(slot, asked.elapsed());
        if answer.status() == 304 {
            return Ok(IndexAnswer::NotModified);
        }
        let validators = Validators { url: shown.clone(), etag: answer.etag(), last_modified: answer.last_modified() };
        let mut writer = IndexWriter::new(shown.clone(), (out.file, out.most), self.upstream.binhost.max_index.0)?;
        let mut waiting = Instant::now();
        while let Some(chunk) = answer.chunk(patience()).await? {
            pace.add(chunk.len() as u64, waiting.elapsed());
            if pace.long().is_some_and(|rate| rate < RATE_FLOOR as f64) {
                return Err(UpstreamError::TooSlow { url: shown, floor: RATE_FLOOR, window: RATE_WINDOW });
            }
            writer = writer.write(chunk).await?;
            waiting = Instant::now();
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

/// Adds a hint to a missing file, because another directory may have the index.
fn no_index(error: UpstreamError) -> UpstreamError {
    match error {
        UpstreamError::Status { status: 404 | 410, .. } | UpstreamError::File { .. } => {
            UpstreamError::NoIndex(Box::new(error))
        }
        other => other,
    }
}

async fn from_file(
    url: &Url,
    known: &Validators,
    out: IndexTarget<'_>,
    limit: u64,
) -> Result<IndexAnswer, UpstreamError> {
    let shown = config::display(url);
    let error = |source| UpstreamError::File { url: shown.clone(), source };
    let (mut file, size) = local::open(url).await.map_err(error)?;
    let metadata = file.metadata().map_err(error)?;
    let etag = Some(format!("{}.{}-{size}", metadata.mtime(), metadata.mtime_nsec()));
    if known.url == shown && known.etag == etag {
        return Ok(IndexAnswer::NotModified);
    }
    let writer = IndexWriter::new(shown.clone(), (out.file, out.most), limit)?;
    let from = shown.clone();
    let copy = move || -> Result<(), UpstreamError> {
        let mut writer = writer;
        let mut bytes = vec![0; 256 << 10];
        loop {
            let read = io::Read::read(&mut file, &mut bytes);
            match read.map_err(|source| UpstreamError::File { url: from.clone(), source })? {
                0 => return writer.finish_now(),
                count => writer.write_now(bytes.get(..count).unwrap_or_default())?,
            }
        }
    };
    blocking(copy).await?;
    Ok(IndexAnswer::Fresh(Validators { url: shown, etag, last_modified: None }))
}

#[cfg(test)]
mod tests;
