//! What a machine writes into the object store: packages that it has proved, and what follows when
//! an object proves wrong or gets old.
//!
//! * Writes wait in a bounded queue, and happen one after the other while nothing is downloaded. A
//!   package that other machines wait for (`claims`) is written first, and at once.
//! * A package is stored only with all its digests: the store checks MD5 and SHA-256 as it arrives.
//! * A wrong object is read once more, since a node or the network may be at fault. Then the
//!   package takes its place. PUT replaces an object at once: no machine finds it missing, and
//!   nothing is lost that another machine has repaired meanwhile.
//! * An object is deleted only if the store does not take the package, and if the object's own
//!   size, MD5 or SHA1 is another one than in its key. What this machine's policy thinks of a
//!   package never matters here.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};
use parking_lot::Mutex;
use sha1::Sha1;
use tokio::sync::Notify;
use tokio::time::Instant;
use url::Url;

use super::claims::Claim;
use super::signature::{EMPTY, Headers, hex};
use super::{ERROR_PATIENCE, MAX_OBJECT, ObjectStore, object_name, refusal};
use crate::upstream::UpstreamError;
use crate::upstream::client::{RequestCondition, UpstreamResponse};
use crate::upstream::retry::{PATIENCE, STALL_TIMEOUT};
use crate::upstream::tier::{MemberSlot, ProvedPackage, StoreFinding};

/// Maximum number of writes that wait.
const MAX_QUEUE: usize = 64;
/// Maximum number of bytes of packages that wait or are written. They stay on the disk, also when
/// evicted.
const MAX_BYTES: u64 = 2 << 30;
/// How long a write waits for downloads to end, and how often it looks.
const BUSY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_millis(200));
/// Time for one write: as much as any request, and so many bytes a second.
const MIN_RATE: u64 = 64 << 10;
/// How long this machine claims no package after the store has refused one: it may be full.
pub(super) const REFUSED: Duration = Duration::from_secs(300);

/// A write that waits.
#[derive(Debug)]
struct Write {
    package: ProvedPackage,
    reason: StoreFinding,
    /// The claim of this machine, until the package is stored. Other machines may wait for it.
    claim: Option<Claim>,
}

/// The writes that wait, and the one that runs.
#[derive(Debug, Default)]
pub(super) struct WriteQueue {
    writes: Mutex<QueuedWrites>,
    added: Notify,
}

#[derive(Debug, Default)]
struct QueuedWrites {
    waiting: VecDeque<Write>,
    /// Size in bytes of the package that is being written.
    running: u64,
    /// When the store refused the last package. `None`: it took that one.
    refused: Option<Instant>,
}

impl WriteQueue {
    /// Whether others may wait for this machine to store a package of `size` bytes.
    pub(super) fn may_claim(&self, size: u64) -> bool {
        let writes = self.writes.lock();
        writes.has_room(size) && writes.refused.is_none_or(|at| at.elapsed() >= REFUSED)
    }
}

impl QueuedWrites {
    /// Whether a package of `size` bytes may wait, too. Any package may if it is the only one.
    fn has_room(&self, size: u64) -> bool {
        let waiting: u64 = self.waiting.iter().map(|write| write.package.size).sum();
        let bytes = waiting.saturating_add(self.running);
        self.waiting.len() < MAX_QUEUE && (bytes == 0 || bytes.saturating_add(size) <= MAX_BYTES)
    }

    /// Whether other machines may wait for a package that waits.
    fn has_claimed(&self) -> bool {
        self.waiting.iter().any(|write| write.claim.is_some())
    }

    /// Takes the write that runs next. `None`: nothing waits.
    fn start_next(&mut self) -> Option<Write> {
        let claimed = self.waiting.iter().position(|write| write.claim.is_some());
        let next = self.waiting.remove(claimed.unwrap_or_default());
        self.running = next.as_ref().map_or(0, |write| write.package.size);
        next
    }
}

impl ObjectStore {
    /// Queues what follows from the proof of a package, of which the store was found to have that.
    /// The `claim` ends when the package is stored, or cannot be.
    pub(in crate::upstream) fn proved(&self, reason: StoreFinding, package: ProvedPackage, claim: Option<Claim>) {
        if !self.writes || reason == StoreFinding::Nothing || package.size > MAX_OBJECT {
            return;
        }
        let mut writes = self.queue.writes.lock();
        if !writes.has_room(package.size) {
            self.metrics.object_store_skipped.increase();
            tracing::debug!(key = package.key, "too much waits to be stored");
            return;
        }
        if let Some(claim) = &claim {
            claim.completed();
        }
        writes.waiting.push_back(Write { package, reason, claim });
        drop(writes);
        self.queue.added.notify_one();
    }

    /// Number of writes that wait.
    #[must_use]
    pub(crate) fn waiting(&self) -> usize {
        self.queue.writes.lock().waiting.len()
    }

    /// Writes what is queued, and keeps the claims, for ever. Most writes wait while `is_busy`.
    pub(crate) async fn write(&self, is_busy: impl Fn() -> bool) {
        match &self.claims {
            Some(claims) => drop(tokio::join!(self.write_queued(is_busy), claims.keep())),
            None => self.write_queued(is_busy).await,
        }
    }

    async fn write_queued(&self, is_busy: impl Fn() -> bool) {
        loop {
            let (longest, pause) = BUSY;
            let mut waited = Duration::ZERO;
            while is_busy() && waited < longest && !self.queue.writes.lock().has_claimed() {
                tokio::time::sleep(pause).await;
                waited += pause;
            }
            let next = self.queue.writes.lock().start_next();
            match next {
                Some(write) => {
                    self.write_one(write).await;
                    self.queue.writes.lock().running = 0;
                }
                None => self.queue.added.notified().await,
            }
        }
    }

    async fn write_one(&self, Write { package, reason, claim: _claim }: Write) {
        let key = package.key.clone();
        let done = match reason {
            StoreFinding::Nothing => Ok(()),
            StoreFinding::Lacks => self.put(&package).await,
            StoreFinding::Old => self.renew(&package).await,
            StoreFinding::Wrong => self.repair(&package).await,
        };
        if let Err(error) = done {
            self.metrics.object_store_write_failures.increase();
            tracing::info!(%error, key, "a package cannot be stored");
        }
    }

    async fn put(&self, package: &ProvedPackage) -> Result<(), UpstreamError> {
        let payload = hex(&package.sha256);
        let headers = || vec![("content-md5", STANDARD.encode(package.md5))];
        let sent = self.send("PUT", package, headers, &payload, Some((&package.file, package.size))).await;
        self.queue.writes.lock().refused = sent.as_ref().is_err_and(is_of_store).then(Instant::now);
        sent?;
        self.metrics.object_store_puts.increase();
        self.metrics.object_store_put_bytes.add(package.size);
        tracing::debug!(key = package.key, "stored");
        Ok(())
    }

    /// Copies an object onto itself: its age begins anew.
    async fn renew(&self, package: &ProvedPackage) -> Result<(), UpstreamError> {
        let parts = [&*self.config.prefix, super::VERSION, &*package.key];
        let source = format!("/{}", object_name(&self.config.bucket, &parts));
        let headers =
            || vec![("x-amz-copy-source", source.clone()), ("x-amz-metadata-directive", "REPLACE".to_owned())];
        self.send("PUT", package, headers, EMPTY, None).await?;
        self.metrics.object_store_renewed.increase();
        Ok(())
    }

    /// Looks at an object that proved wrong, and stores the package in its place.
    async fn repair(&self, package: &ProvedPackage) -> Result<(), UpstreamError> {
        let seen = self.look(package).await?;
        if seen == SecondReading::Right {
            // A node or the network was at fault.
            return Ok(());
        }
        let stored = self.put(package).await;
        if seen == SecondReading::Wrong {
            let key = &package.key;
            if stored.is_ok() {
                self.metrics.object_store_repaired.increase();
                tracing::warn!(key, "an object had other bytes than its key says, and is replaced");
            } else if self.delete_if_wrong(package).await {
                self.metrics.object_store_repaired.increase();
                tracing::warn!(key, "an object had other bytes than its key says, and is deleted");
            }
        }
        stored
    }

    /// Deletes an object whose place the store does not give to the right one, because it has no
    /// room left, say. Looks at it again before that: another machine may have repaired it.
    async fn delete_if_wrong(&self, package: &ProvedPackage) -> bool {
        matches!(self.look(package).await, Ok(SecondReading::Wrong))
            && self.send("DELETE", package, Headers::new, EMPTY, None).await.is_ok()
    }

    /// Reads an object from its first byte to its last, at the first node that sends it.
    async fn look(&self, package: &ProvedPackage) -> Result<SecondReading, UpstreamError> {
        let (mut from, mut failed) = (0, UpstreamError::All(Vec::new()));
        while let Some((slot, url)) = self.for_write(from, package) {
            let reading = self.look_at(&url, package).await;
            if let Some(settled) = self.settled(slot, reading, &mut failed) {
                return settled;
            }
            from = slot + 1;
        }
        Err(failed)
    }

    async fn look_at(&self, url: &Url, package: &ProvedPackage) -> Result<SecondReading, UpstreamError> {
        let headers = self.signed("GET", url, Headers::new(), EMPTY);
        let mut answer = self.client.ask_store(url, headers, RequestCondition::None, PATIENCE).await?;
        match answer.status() {
            200 => {}
            404 | 410 => return Ok(SecondReading::Unclear),
            _ => return Err(refusal(answer, ERROR_PATIENCE).await),
        }
        // What has no ETag is no object: the network may want somebody to sign in.
        let Some(etag) = answer.etag() else { return Ok(SecondReading::Unclear) };
        let right = is_right(&mut answer, package).await?;
        // The store knows what it has, and something on the way does not deliver that.
        let says_right = etag.trim_matches('"').eq_ignore_ascii_case(&hex(&package.md5));
        Ok(match (right, says_right) {
            (true, _) => SecondReading::Right,
            (false, true) => SecondReading::Unclear,
            (false, false) => SecondReading::Wrong,
        })
    }

    /// Sends a request that writes to the first node that takes it.
    async fn send(
        &self,
        method: &'static str,
        package: &ProvedPackage,
        headers: impl Fn() -> Headers,
        payload: &str,
        body: Option<(&Arc<File>, u64)>,
    ) -> Result<(), UpstreamError> {
        let (mut from, mut failed) = (0, UpstreamError::All(Vec::new()));
        // A store may copy an object as slowly as it is sent.
        let size = if method == "PUT" { package.size } else { 0 };
        let time = STALL_TIMEOUT + Duration::from_secs(size / MIN_RATE);
        while let Some((slot, url)) = self.for_write(from, package) {
            let signed = self.signed(method, &url, headers(), payload);
            let sent = self.send_to((method, &url), signed, body, time).await;
            if let Some(settled) = self.settled(slot, sent, &mut failed) {
                return settled;
            }
            from = slot + 1;
        }
        Err(failed)
    }

    async fn send_to(
        &self,
        (method, url): (&'static str, &Url),
        headers: Headers,
        body: Option<(&Arc<File>, u64)>,
        time: Duration,
    ) -> Result<(), UpstreamError> {
        let answer = self.client.write_to_store(method, url, headers, body, time).await?;
        if !(200..300).contains(&answer.status()) {
            return Err(refusal(answer, ERROR_PATIENCE).await);
        }
        // A copy can fail after its status was sent.
        let patience = if body.is_some() { ERROR_PATIENCE } else { time };
        match refusal(answer, patience).await {
            UpstreamError::Store { code: Some(code), url, .. } => {
                Err(UpstreamError::Store { url, status: 200, code: Some(code) })
            }
            _ => Ok(()),
        }
    }

    /// Notes how a node answered. `None`: it failed, and the next node is to be asked.
    fn settled<T>(
        &self,
        slot: MemberSlot,
        answer: Result<T, UpstreamError>,
        failed: &mut UpstreamError,
    ) -> Option<Result<T, UpstreamError>> {
        match answer {
            Ok(answer) => {
                self.nodes.writes.note_served(slot);
                Some(Ok(answer))
            }
            Err(error) if is_of_store(&error) => Some(Err(error)),
            Err(error) => {
                self.nodes.writes.note_failure(slot, &error, &self.metrics);
                *failed = error;
                None
            }
        }
    }

    fn for_write(&self, from: MemberSlot, package: &ProvedPackage) -> Option<(MemberSlot, Url)> {
        let (slot, base) = self.nodes.writes.next(from)?;
        Some((slot, self.object(&base, &package.key)))
    }
}

/// What an object proved to be when it was read again.
#[derive(Debug, PartialEq, Eq)]
enum SecondReading {
    Right,
    Wrong,
    /// It is not there, or what came is not what the store says that it has.
    Unclear,
}

/// Whether other nodes of the store would say the same: it refuses the request, or has no room
/// (507).
fn is_of_store(error: &UpstreamError) -> bool {
    matches!(error, UpstreamError::Store { status, .. } if !matches!(status, 429 | 500..=506 | 508..=599))
}

async fn is_right(answer: &mut UpstreamResponse, package: &ProvedPackage) -> Result<bool, UpstreamError> {
    if answer.length().is_some_and(|length| length != package.size) {
        return Ok(false);
    }
    let (mut md5, mut sha1, mut size) = (Md5::new(), Sha1::new(), 0);
    while let Some(piece) = answer.chunk(STALL_TIMEOUT).await? {
        size += piece.len() as u64;
        if size > package.size {
            return Ok(false);
        }
        md5.update(&piece);
        sha1.update(&piece);
    }
    Ok(size == package.size && md5.finalize()[..] == package.md5 && sha1.finalize()[..] == package.sha1)
}
