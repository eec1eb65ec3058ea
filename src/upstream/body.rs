//! Reads one package as a stream, which continues after breaks and moves to a better URL.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use url::Url;

use super::candidates::Candidates;
use super::client::{RequestCondition, UpstreamResponse};
use super::local::LocalFile;
use super::mirrors::MirrorSlot;
use super::retry::{self, NO_PROGRESS_BUDGET, RATE_FLOOR, RATE_WINDOW, RetryDecision};
use super::sharers::{SharerSlot, StoreRecord};
use super::throughput::Throughput;
use super::tier::{ProvedPackage, StoreFinding, Wanted};
use super::{Upstream, UpstreamError};
use crate::config;

/// A connection that was not read for so long may break for that reason.
const NEGLECTED: Duration = Duration::from_secs(1);

/// Next event of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The next bytes of the file. The stream may exceed the requested size, which the verifier
    /// must notice.
    Chunk(Bytes),
    /// The package begins again at its first byte. The caller discards the earlier bytes.
    Restart,
    /// The package is complete.
    End,
}

/// Cause for which received bytes are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyFault {
    /// The URL sent bytes that are not those of the package: they have another size or digest.
    Url,
    /// The bytes are no sound package, or another one. That is the fault of the URL if another URL
    /// sends a sound one, and else of the binhost.
    Undecided,
    /// The package was built or signed wrongly, so every other URL has the same bytes.
    Package,
}

#[derive(Debug)]
enum Connection {
    None,
    Http(UpstreamResponse),
    File(LocalFile),
}

/// Origin of the first bytes of a package, needed to continue it.
#[derive(Debug)]
pub(crate) struct ResumePoint {
    url: Url,
    /// ETag or Last-Modified of the file.
    validator: Option<String>,
    /// The sharers that sent some of these bytes. Empty: all are of mirrors.
    sharers: Vec<SharerSlot>,
}

/// Stream of one package. See the module's documentation.
#[derive(Debug)]
pub(crate) struct BodyStream<'a> {
    upstream: &'a Upstream,
    candidates: Candidates,
    size: u64,
    received: u64,
    /// Most bytes that any try has received. Only bytes beyond this count as progress.
    furthest: u64,
    connection: Connection,
    /// Whether the caller did not read the connection for a while. A break is then not the mirror's
    /// fault.
    neglected: bool,
    /// How long the caller kept the connection waiting before the next chunk. If the chunk takes no
    /// longer than that to come, its bytes may have been in the kernel already, and it says nothing
    /// about the rate of the mirror.
    held: Duration,
    pace: Throughput,
    /// Origin of the bytes received. `None`: the next request is for the whole file.
    part: Option<ResumePoint>,
    /// How long calls of [`Self::next`] have waited since the last new byte, without the current
    /// call.
    fruitless: Duration,
    /// Start of the current call's wait for a new byte.
    since: Instant,
    /// Whether the bytes came over several connections.
    spliced: bool,
    sharers: SharersOfBody,
}

/// The sharers of one download. They are asked before the first mirror, each once.
#[derive(Debug, Default)]
struct SharersOfBody {
    /// `None`: no sharer is asked.
    wanted: Option<Wanted>,
    /// The first sharer that was not asked yet.
    next: SharerSlot,
    /// The sharer that is read now, or was until the end.
    current: Option<SharerSlot>,
    /// The sharers that sent some of the bytes received.
    contributed: Vec<SharerSlot>,
    /// Whether the first bytes received are of a mirror that an earlier stream read.
    mirror_first: bool,
    /// The sharers that sent bytes which were refused, and may be as wrong at the binhost.
    suspects: Vec<SharerSlot>,
    store: StoreRecord,
}

impl<'a> BodyStream<'a> {
    pub(super) fn new(upstream: &'a Upstream, candidates: Candidates, size: u64) -> Self {
        Self {
            upstream,
            candidates,
            size,
            received: 0,
            furthest: 0,
            connection: Connection::None,
            neglected: false,
            held: Duration::ZERO,
            pace: Throughput::default(),
            part: None,
            fruitless: Duration::ZERO,
            since: Instant::now(),
            spliced: false,
            sharers: SharersOfBody::default(),
        }
    }

    /// Asks peers and the object store first for the package of this key, which is at `path` at the
    /// binhost. They are not asked for a package that is in a local directory: no sharer is nearer.
    /// Must be called before [`Self::next`].
    #[must_use]
    pub(crate) fn with_sharers(mut self, key: Option<String>, path: &str) -> Self {
        let size = self.size;
        let key = key.filter(|_| !self.candidates.is_local());
        let mirror_time = self.upstream.mirrors.time_of(size);
        self.sharers.wanted = key.map(|key| Wanted { key, path: path.to_owned(), size, mirror_time });
        self
    }

    /// Whether some of the bytes received came from a peer or the object store.
    #[must_use]
    pub(crate) fn is_of_sharer(&self) -> bool {
        !self.sharers.contributed.is_empty()
    }

    /// What the last bytes came from, if not from a mirror: `peer` or `object store`.
    #[must_use]
    pub(crate) fn sharer(&self) -> Option<&'static str> {
        self.sharers.current.map(SharerSlot::name)
    }

    /// Notes that the package is proved. So sharers that sent one that is not sound are at fault.
    /// Tells the object store, as far as something follows from that.
    pub(crate) fn proved(&mut self, package: impl FnOnce() -> Option<ProvedPackage>) {
        std::mem::take(&mut self.sharers.suspects).into_iter().for_each(|sharer| self.blame(sharer));
        let record = std::mem::take(&mut self.sharers.store);
        if record.finding != StoreFinding::Nothing
            && let Some(package) = package()
        {
            self.upstream.sharers.proved(record, package);
        }
    }

    /// The URL that is read now, without credentials: of a sharer, its own.
    #[must_use]
    pub(crate) fn source(&self) -> String {
        if let Some(sharer) = self.sharers.current {
            return self.upstream.sharers.display_url(sharer);
        }
        let current = self.candidates.current().map(|candidate| &candidate.url);
        // A stream that continues with all bytes asks nobody.
        let url = current.or(self.part.as_ref().map(|part| &part.url));
        url.map(config::display).unwrap_or_default()
    }

    /// Returns the next event. The stream recovers from breaks itself; an error is final. Only time
    /// within calls counts against a mirror.
    ///
    /// # Errors
    /// No URL delivers the package within the limits of tries and time.
    pub(crate) async fn next(&mut self) -> Result<Event, UpstreamError> {
        self.since = Instant::now();
        let event = loop {
            match self.step().await {
                Ok(Some(event)) => break event,
                Ok(None) => {}
                Err(error) => self.recover(error).await?,
            }
        };
        self.fruitless += self.since.elapsed();
        Ok(event)
    }

    /// Notes that the caller did not read for so long, although the mirror was ready to send.
    pub(crate) fn kept_waiting(&mut self, time: Duration) {
        self.neglected |= time >= NEGLECTED;
        self.held += time;
    }

    /// Starts again at the first byte and the same URL, because the caller has lost the received
    /// bytes.
    pub(crate) fn start_over(&mut self) {
        self.close();
        self.part = None;
        // Asks the same sharer again.
        self.sharers.next = self.sharers.current.unwrap_or(self.sharers.next);
    }

    /// Returns the origin of the received bytes, for another stream to continue. `None`: no
    /// continuation is possible.
    #[must_use]
    pub(crate) fn into_part(self) -> Option<ResumePoint> {
        self.part.map(|part| ResumePoint { sharers: self.sharers.contributed, ..part })
    }

    /// Continues an earlier stream, whose first `received` bytes the caller has. Must be called
    /// before [`Self::next`].
    pub(crate) fn go_on(&mut self, part: ResumePoint, received: u64) {
        self.sharers.mirror_first = part.sharers.is_empty();
        self.sharers.contributed.clone_from(&part.sharers);
        (self.part, self.received, self.furthest) = (Some(part), received, received);
    }

    /// Refuses the received bytes as wrong. Returns `false` if there is no URL left to try.
    ///
    /// On `true` the stream starts again, and the next event is [`Event::Restart`]. If the bytes
    /// came over several connections, the same URLs are asked for the whole file. Otherwise another
    /// URL is asked.
    pub(crate) fn reject(&mut self, fault: BodyFault) -> bool {
        self.close();
        if self.is_of_sharer() {
            self.reject_sharers(fault);
        } else if std::mem::take(&mut self.spliced) {
            self.candidates.spliced_wrong();
        } else {
            if fault != BodyFault::Package {
                self.upstream.mirrors.note_wrong(self.slot(), &self.source());
            }
            self.candidates.give_up_current();
        }
        self.candidates.begin_anew();
        (self.part, self.furthest, self.fruitless) = (None, 0, Duration::ZERO);
        self.candidates.any_left()
    }

    /// Leaves the sharers, whose bytes proved wrong. The mirrors are asked for the whole file, and
    /// nothing counts against them. Which of several sharers is at fault is unknown. A sharer is
    /// not blamed for what it added to the bytes of a mirror.
    fn reject_sharers(&mut self, fault: BodyFault) {
        for sharer in std::mem::take(&mut self.sharers.contributed) {
            match fault {
                _ if self.sharers.mirror_first => {}
                BodyFault::Url => self.blame(sharer),
                BodyFault::Undecided => self.sharers.suspects.push(sharer),
                // It is as wrong everywhere.
                BodyFault::Package => {}
            }
        }
        (self.spliced, self.sharers.current, self.sharers.wanted) = (false, None, None);
    }

    /// Notes that a sharer sent other bytes than those of the package.
    fn blame(&mut self, sharer: SharerSlot) {
        self.upstream.sharers.note_wrong(sharer);
        if matches!(sharer, SharerSlot::Node(_)) {
            self.sharers.store.finding = StoreFinding::Wrong;
        }
    }

    async fn step(&mut self) -> Result<Option<Event>, UpstreamError> {
        self.keep_up()?;
        let (began, patience) = (Instant::now(), self.upstream.mirrors.patience(&self.candidates));
        let chunk = match &mut self.connection {
            // Nothing is left to be requested of a file of which all bytes are here.
            Connection::None if self.part.is_some() && self.received == self.size => return Ok(Some(Event::End)),
            Connection::None => return self.connect().await,
            Connection::Http(answer) => answer.chunk(patience).await?,
            Connection::File(file) => file.chunk().await?,
        };
        match chunk {
            Some(bytes) => {
                self.count(bytes.len() as u64, began.elapsed());
                Ok(Some(Event::Chunk(bytes)))
            }
            None if self.received < self.size => {
                Err(UpstreamError::Truncated { url: self.source(), got: self.received, expected: self.size })
            }
            None => {
                self.close();
                match self.sharers.current {
                    Some(sharer) => self.upstream.sharers.note_served(sharer),
                    None => self.upstream.mirrors.note_served(self.slot()),
                }
                Ok(Some(Event::End))
            }
        }
    }

    fn count(&mut self, bytes: u64, waited: Duration) {
        self.received += bytes;
        let held = std::mem::take(&mut self.held);
        if held.is_zero() || held < waited {
            self.pace.add(bytes, waited);
        }
        self.upstream.metrics.bytes_fetched.add(bytes);
        if let Some(sharer) = self.sharers.current {
            self.upstream.sharers.note_bytes(sharer, bytes);
        }
        if let Some(claim) = &self.sharers.store.claims.own {
            claim.progressed();
        }
        if self.received > self.furthest {
            self.candidates.progressed(self.received - self.furthest);
            self.furthest = self.received;
            (self.fruitless, self.since) = (Duration::ZERO, Instant::now());
        }
    }

    /// Fails if the rate is too low, or if another URL is much faster.
    fn keep_up(&mut self) -> Result<(), UpstreamError> {
        if self.pace.long().is_some_and(|rate| rate < RATE_FLOOR as f64) {
            return Err(UpstreamError::TooSlow { url: self.source(), floor: RATE_FLOOR, window: RATE_WINDOW });
        }
        let Some(rate) = self.pace.short() else { return Ok(()) };
        // Downloads share the bandwidth, and only their sum shows the speed of the URL.
        let together = rate * self.upstream.mirrors.active() as f64;
        let missing = self.size.saturating_sub(self.received);
        let (mirrors, now) = (self.upstream.mirrors.lock(), Instant::now());
        let Some(better) = self.candidates.outpaced(&mirrors, now, together, missing) else { return Ok(()) };
        drop(mirrors);
        self.candidates.prefer(better);
        Err(UpstreamError::Outpaced {
            url: self.source(),
            rate: rate as u64,
            by: self.upstream.mirrors.display_url(better),
        })
    }

    fn slot(&self) -> Option<MirrorSlot> {
        self.candidates.current().map(|candidate| candidate.slot)
    }

    /// Closes the connection, if there is one, and records its rate.
    fn close(&mut self) {
        (self.connection, self.neglected) = (Connection::None, false);
        self.upstream.mirrors.note_pace(self.slot(), std::mem::take(&mut self.pace).total());
    }

    /// Asks the sharers that are left. `None`: none of them has the package.
    async fn connect_to_sharer(&mut self) -> Option<Option<Event>> {
        let mut asked = false;
        let found = loop {
            let Some(wanted) = &self.sharers.wanted else { break None };
            // After `start_over` the caller has none of the bytes.
            let (sharers, offset) = (&self.upstream.sharers, if self.part.is_some() { self.received } else { 0 });
            let Some((slot, url)) = sharers.next(self.sharers.next, wanted) else { break None };
            asked = true;
            match sharers.ask((slot, &url), wanted, offset, &mut self.sharers.store).await {
                Ok(answer) => {
                    self.sharers.next = slot.after();
                    break Some((slot, url, answer));
                }
                Err(next) => self.sharers.next = next,
            }
        };
        if asked {
            // The mirrors are not to be hurried for what the sharers took.
            (self.fruitless, self.since) = (Duration::ZERO, Instant::now());
        }
        let Some((slot, url, answer)) = found else {
            self.sharers.wanted = None;
            return None;
        };
        let continues = answer.status() == 206;
        self.connection = Connection::Http(answer);
        self.sharers.current = Some(slot);
        // Another connection continues without a validator: the digests decide.
        self.part = Some(ResumePoint { url, validator: None, sharers: Vec::new() });
        if continues {
            self.upstream.metrics.resumes.increase();
            self.spliced = true;
            self.sharers.contributed.push(slot);
            return Some(None);
        }
        let event = self.restarted();
        self.sharers.contributed.push(slot);
        Some(event)
    }

    async fn connect(&mut self) -> Result<Option<Event>, UpstreamError> {
        self.sharers.current = None;
        if self.sharers.wanted.is_some()
            && let Some(connected) = self.connect_to_sharer().await
        {
            return Ok(connected);
        }
        let chosen = self.upstream.mirrors.choose(&mut self.candidates);
        let Some(url) = chosen else { return Err(self.candidates.take_error()) };
        let began = Instant::now();
        if url.scheme() == "file" {
            self.connection = Connection::File(LocalFile::open(&url, self.size, &self.upstream.local_reads).await?);
            self.upstream.mirrors.note_response(self.slot(), began.elapsed());
            return Ok(self.restarted());
        }
        let part = self.part.as_ref().filter(|_| self.received > 0 && !self.candidates.must_send_whole());
        let validator = part.filter(|part| part.url == url).and_then(|part| part.validator.as_deref());
        // Without a validator, or at another URL, only the final digests can show whether the parts
        // fit.
        let resume = part.is_some_and(|part| part.url != url) || validator.is_some();
        let condition =
            if resume { RequestCondition::From { offset: self.received, validator } } else { RequestCondition::None };
        let answer =
            self.upstream.client.get(&url, condition, self.upstream.mirrors.patience(&self.candidates)).await?;
        self.upstream.mirrors.note_response(self.slot(), began.elapsed());
        if resume && answer.status() == 206 {
            return self.resumed(answer).map(|()| None);
        }
        if let Some(got) = answer.length().filter(|got| *got != self.size) {
            return Err(UpstreamError::SizeMismatch { url: self.source(), got, expected: self.size });
        }
        // If-Range accepts only strong validators.
        let etag = answer.etag().filter(|etag| !etag.starts_with("W/"));
        let validator = etag.or_else(|| answer.last_modified());
        self.part = Some(ResumePoint { url, validator, sharers: Vec::new() });
        self.connection = Connection::Http(answer);
        Ok(self.restarted())
    }

    fn resumed(&mut self, answer: UpstreamResponse) -> Result<(), UpstreamError> {
        let range = answer.content_range().unwrap_or_default();
        if range != format!("bytes {}-{}/{}", self.received, self.size - 1, self.size) {
            // The same request would fail again, so the next one is for the whole file.
            (self.part, self.furthest) = (None, self.received);
            return Err(UpstreamError::WrongRange { url: self.source(), range });
        }
        self.upstream.metrics.resumes.increase();
        self.spliced = true;
        self.candidates.contributes();
        self.connection = Connection::Http(answer);
        Ok(())
    }

    /// Starts the package at its first byte.
    fn restarted(&mut self) -> Option<Event> {
        let had_some = std::mem::take(&mut self.received) > 0;
        (self.spliced, self.sharers.mirror_first) = (false, false);
        self.sharers.contributed.clear();
        self.candidates.began();
        had_some.then_some(Event::Restart)
    }

    async fn recover(&mut self, error: UpstreamError) -> Result<(), UpstreamError> {
        let broke = matches!(error, UpstreamError::Transport { .. } | UpstreamError::Truncated { .. });
        let broke_while_waiting = self.neglected && broke;
        self.close();
        if let Some(sharer) = self.sharers.current.take() {
            tracing::debug!(%error, "a {} was left in the middle of a package", sharer.name());
            // A sharer that is slower than a mirror, or was kept waiting, has not failed.
            if !broke_while_waiting && !matches!(error, UpstreamError::Outpaced { .. }) {
                self.upstream.sharers.note_failure(sharer, &error);
            }
            return Ok(());
        }
        let slot @ Some(_) = self.slot() else { return Err(error) };
        let out_of_time = self.fruitless + self.since.elapsed() >= NO_PROGRESS_BUDGET;
        if broke_while_waiting && !out_of_time {
            tracing::debug!(%error, "a connection broke that was kept waiting");
            return Ok(());
        }
        // The server does not have the requested part, so the next request is for the whole file.
        let whole = matches!(error, UpstreamError::Status { status: 416, .. }) && self.received > 0;
        if whole {
            self.part = None;
        }
        self.upstream.mirrors.note_failure(slot, &error);
        let others = self.upstream.mirrors.others(&self.candidates);
        let decision = if whole { RetryDecision::Again } else { retry::judge(&error, others) };
        tracing::debug!(%error, ?decision, "a download was interrupted");
        let wait = retry::wait(self.candidates.tries() + 1, &error);
        self.candidates.failed(error, decision);
        if out_of_time {
            self.candidates.stop();
        }
        if !self.candidates.any_left() {
            return Err(self.candidates.take_error());
        }
        match decision {
            RetryDecision::Elsewhere => self.upstream.metrics.mirror_switches.increase(),
            RetryDecision::Gone => {}
            RetryDecision::Again | RetryDecision::Later => {
                self.upstream.metrics.retries.increase();
                tokio::time::sleep(wait).await;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
