//! One package, as a stream that goes on after breaks.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use url::Url;

use super::UpstreamError;
use super::client::{Answer, Client, Condition};
use super::local::LocalFile;
use super::retry::{self, ATTEMPTS, NO_PROGRESS_BUDGET, RATE_FLOOR, RATE_WINDOW, Verdict};
use crate::config;
use crate::metrics::Metrics;

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The next bytes. They may go beyond the size asked for: whoever verifies has to notice.
    Chunk(Bytes),
    /// The body begins again at its first byte: drop what came before.
    Restart,
    /// It is complete.
    End,
}

#[derive(Debug)]
enum Connection {
    None,
    Http(Answer),
    File(LocalFile),
}

/// See the module's documentation.
#[derive(Debug)]
pub struct BodyStream<'a> {
    client: &'a Client,
    metrics: &'a Metrics,
    sources: VecDeque<Url>,
    size: u64,
    received: u64,
    /// The most that any try has got to: only more than that is progress.
    furthest: u64,
    connection: Connection,
    /// ETag or Last-Modified of what was received so far, and where from.
    validator: Option<(Url, String)>,
    attempt: u32,
    last_progress: Instant,
    window: (Instant, u64),
    /// Parts of it came over different connections.
    spliced: bool,
    failures: Vec<UpstreamError>,
}

impl<'a> BodyStream<'a> {
    pub(super) fn new(client: &'a Client, metrics: &'a Metrics, sources: Vec<Url>, size: u64) -> Self {
        let now = Instant::now();
        Self {
            client,
            metrics,
            sources: sources.into(),
            size,
            received: 0,
            furthest: 0,
            connection: Connection::None,
            validator: None,
            attempt: 0,
            last_progress: now,
            window: (now, 0),
            spliced: false,
            failures: Vec::new(),
        }
    }

    /// The URL that is read now, for people.
    #[must_use]
    pub fn source(&self) -> String {
        self.sources.front().map(config::shown).unwrap_or_default()
    }

    /// The next piece. Breaks are healed inside; an error is final.
    ///
    /// # Errors
    /// No URL delivers the body within the bounds of tries and time.
    pub async fn next(&mut self) -> Result<Event, UpstreamError> {
        loop {
            match self.step().await {
                Ok(Some(event)) => return Ok(event),
                Ok(None) => {}
                Err(error) => self.recover(error).await?,
            }
        }
    }

    /// What was received proved wrong. `true`: the stream begins anew (a spliced body once more from the same URL, else the
    /// next URL), the next event is [`Event::Restart`]. `false`: there is nothing left to try.
    pub fn reject(&mut self) -> bool {
        if !std::mem::take(&mut self.spliced) {
            self.sources.pop_front();
        }
        (self.connection, self.validator, self.furthest, self.attempt) = (Connection::None, None, 0, 0);
        self.last_progress = Instant::now();
        !self.sources.is_empty()
    }

    async fn step(&mut self) -> Result<Option<Event>, UpstreamError> {
        let chunk = match &mut self.connection {
            Connection::None => return self.connect().await,
            Connection::Http(answer) => answer.chunk().await?,
            Connection::File(file) => file.chunk().await?,
        };
        match chunk {
            Some(bytes) => {
                self.count(bytes.len() as u64)?;
                Ok(Some(Event::Chunk(bytes)))
            }
            None if self.received < self.size => {
                Err(UpstreamError::Truncated { url: self.source(), got: self.received, expected: self.size })
            }
            None => Ok(Some(Event::End)),
        }
    }

    fn count(&mut self, bytes: u64) -> Result<(), UpstreamError> {
        self.received += bytes;
        self.metrics.bytes_fetched.add(bytes);
        if self.received > self.furthest {
            self.furthest = self.received;
            self.attempt = 0;
            self.last_progress = Instant::now();
        }
        self.window.1 += bytes;
        let elapsed = self.window.0.elapsed();
        if elapsed >= RATE_WINDOW {
            if self.window.1 < RATE_FLOOR * RATE_WINDOW.as_secs() {
                return Err(UpstreamError::TooSlow { url: self.source(), floor: RATE_FLOOR, window: RATE_WINDOW });
            }
            self.window = (Instant::now(), 0);
        }
        Ok(())
    }

    async fn connect(&mut self) -> Result<Option<Event>, UpstreamError> {
        let Some(url) = self.sources.front().cloned() else {
            return Err(UpstreamError::All(std::mem::take(&mut self.failures)));
        };
        self.window = (Instant::now(), 0);
        if url.scheme() == "file" {
            self.connection = Connection::File(LocalFile::open(&url, self.size).await?);
            return Ok(self.restarted());
        }
        let validator =
            self.validator.as_ref().filter(|(from, _)| *from == url).map(|(_, validator)| validator.as_str());
        // Without a validator, or from another mirror, only the digests at the end tell whether the parts fit.
        let resume =
            self.received > 0 && (validator.is_some() || self.validator.as_ref().is_some_and(|(from, _)| *from != url));
        let condition = if resume { Condition::From { offset: self.received, validator } } else { Condition::None };
        let answer = self.client.get(&url, condition).await?;
        if resume && answer.status() == 206 {
            return self.resumed(answer).map(|()| None);
        }
        if let Some(got) = answer.length().filter(|got| *got != self.size) {
            return Err(UpstreamError::SizeMismatch { url: self.source(), got, expected: self.size });
        }
        // If-Range takes only strong validators.
        let etag = answer.etag().filter(|etag| !etag.starts_with("W/"));
        self.validator = etag.or_else(|| answer.last_modified()).map(|validator| (url, validator));
        self.connection = Connection::Http(answer);
        Ok(self.restarted())
    }

    fn resumed(&mut self, answer: Answer) -> Result<(), UpstreamError> {
        let range = answer.content_range().unwrap_or_default();
        if range != format!("bytes {}-{}/{}", self.received, self.size - 1, self.size) {
            // Not to be asked again in the same way.
            (self.validator, self.furthest) = (None, self.received);
            return Err(UpstreamError::WrongRange { url: self.source(), range });
        }
        self.metrics.resumes.increase();
        self.spliced = true;
        self.connection = Connection::Http(answer);
        Ok(())
    }

    /// A body from its first byte on.
    fn restarted(&mut self) -> Option<Event> {
        let had_some = std::mem::take(&mut self.received) > 0;
        self.spliced = false;
        had_some.then_some(Event::Restart)
    }

    async fn recover(&mut self, error: UpstreamError) -> Result<(), UpstreamError> {
        self.connection = Connection::None;
        if self.sources.is_empty() {
            return Err(error);
        }
        self.attempt += 1;
        let out_of_time = self.last_progress.elapsed() >= NO_PROGRESS_BUDGET;
        let status_of_resume = matches!(error, UpstreamError::Status { status: 416, .. }) && self.received > 0;
        if status_of_resume {
            // The server does not have that part: the whole, then.
            self.validator = None;
        }
        if (retry::judge(&error) == Verdict::Again || status_of_resume) && self.attempt < ATTEMPTS && !out_of_time {
            self.metrics.retries.increase();
            tracing::debug!(%error, attempt = self.attempt, "trying again");
            tokio::time::sleep(retry::wait(self.attempt, &error)).await;
            return Ok(());
        }
        self.failures.push(error);
        self.sources.pop_front();
        self.attempt = 0;
        if self.sources.is_empty() || out_of_time {
            self.sources.clear();
            let mut failures = std::mem::take(&mut self.failures);
            return Err(match failures.pop() {
                Some(only) if failures.is_empty() => only,
                last => UpstreamError::All(failures.into_iter().chain(last).collect()),
            });
        }
        Ok(())
    }
}
