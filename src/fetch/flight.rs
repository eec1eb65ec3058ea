//! One download from beginning to end.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, watch};

use super::origin::Key;
use super::receive::{Place, Receiving};
use super::{FetchError, Fetcher, Flight, GRACE, Origin, Outcome, Verdict, VerdictKind, Wanted, alarms, verdicts};
use crate::index::Entry;
use crate::store::{Body, Placement, Unproved};
use crate::upstream::{BodyStream, Event};
use crate::verify::{VerifyError, recheck};

/// Flies until the package is there or cannot be had, tells everybody who waits, and leaves the table.
pub(super) async fn fly(
    fetcher: Arc<Fetcher>,
    flight: Arc<Flight>,
    wanted: Wanted,
    turn: Option<OwnedSemaphorePermit>,
) {
    let key = wanted.key();
    // A panic in here must not leave waiters behind, nor a flight that never ends.
    let guard = Landing { fetcher: &fetcher, flight: &flight, wanted: &wanted };
    let started = Instant::now();
    let outcome = tokio::select! {
        outcome = get(&fetcher, &flight, &wanted, turn) => outcome.map_err(Arc::new),
        () = abandoned(&fetcher, &flight, key) => Err(Arc::new(FetchError::Stopped)),
    };
    match &outcome {
        Ok(_) => fetcher.failures.clear(key, wanted.path()),
        Err(error) if matches!(**error, FetchError::Stopped) => {
            tracing::debug!(path = wanted.path(), "nobody waits for it any more")
        }
        // Whoever opens it tries again, and tells.
        Err(error) if !flight.is_asked() => {
            tracing::debug!(path = wanted.path(), %error, "cannot be had ahead");
        }
        Err(error) => {
            let seconds = started.elapsed().as_secs_f32();
            let advice = error.advice();
            let path = wanted.path();
            tracing::warn!(
                binhostfs.package = path,
                binhostfs.reason = %error,
                "cannot be had: {path} after {seconds:.1} s: {error}; {advice}"
            );
            fetcher.failures.add(key, wanted.path(), error);
            if matches!(**error, FetchError::Refused { .. }) {
                fetcher.metrics.refused.increase();
            }
        }
    }
    if outcome.is_ok() || flight.is_asked() {
        tell(&fetcher, &wanted, &outcome);
    }
    flight.settle(|| outcome);
    drop(guard);
}

/// Takes the flight off the table, whatever happened.
struct Landing<'a> {
    fetcher: &'a Fetcher,
    flight: &'a Flight,
    wanted: &'a Wanted,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.flight.settle(|| Err(Arc::new(FetchError::Stopped)));
        let mut flights = self.fetcher.flights();
        // When it was abandoned, there may be another one already.
        if flights.get(&self.wanted.key()).is_some_and(|flight| std::ptr::eq(&raw const **flight, self.flight)) {
            flights.remove(&self.wanted.key());
        }
        drop(flights);
        self.fetcher.moved.notify_waiters();
    }
}

/// Who fetches ahead waits for the end of a flight, and keeps it going meanwhile.
pub(super) struct Landed {
    flight: Weak<Flight>,
    receiver: watch::Receiver<Option<Outcome>>,
}

impl Landed {
    pub(super) fn new(flight: &Arc<Flight>, receiver: watch::Receiver<Option<Outcome>>) -> Self {
        flight.ahead.fetch_add(1, Ordering::Relaxed);
        Self { flight: Arc::downgrade(flight), receiver }
    }

    /// The flight. To keep it would keep it from ending.
    pub(super) fn flight(&self) -> Weak<Flight> {
        Weak::clone(&self.flight)
    }

    /// The flight is over, and what it brought is kept or not. `None`: it ended without an outcome.
    pub(super) async fn outcome(mut self) -> Option<Outcome> {
        // An outcome comes before the end.
        while self.receiver.changed().await.is_ok() {}
        self.receiver.borrow().clone()
    }
}

impl Drop for Landed {
    fn drop(&mut self) {
        if let Some(flight) = self.flight.upgrade() {
            flight.ahead.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Ends when nobody has waited for [`GRACE`], at once where nobody ever did; nobody can join it any more then.
async fn abandoned(fetcher: &Fetcher, flight: &Flight, key: Key) {
    loop {
        flight.outcome.closed().await;
        if flight.is_asked() {
            tokio::time::sleep(GRACE).await;
        }
        let mut flights = fetcher.flights();
        // Who joins does so while it holds the table.
        if flight.outcome.receiver_count() == 0 {
            flights.remove(&key);
            return;
        }
    }
}

/// Tells whoever decides what is shown, if it concerns them.
fn tell(fetcher: &Fetcher, wanted: &Wanted, outcome: &Outcome) {
    let kind = match outcome {
        Ok(_) => VerdictKind::Verified,
        Err(error) if error.is_final() => VerdictKind::Refused(Arc::clone(error)),
        Err(error) if matches!(**error, FetchError::Upstream(_)) => VerdictKind::Unreachable,
        Err(_) => return,
    };
    let ((origin, id), path, uri) = (wanted.key(), wanted.own_path().to_owned(), wanted.uri().map(str::to_owned));
    if fetcher.verdicts.try_send(Verdict { origin, id, path, uri, kind }).is_err() {
        tracing::debug!(path = wanted.path(), "too many verdicts at once; this one is dropped");
    }
}

async fn get(
    fetcher: &Arc<Fetcher>,
    flight: &Arc<Flight>,
    wanted: &Wanted,
    turn: Option<OwnedSemaphorePermit>,
) -> Result<Body, FetchError> {
    let entry = {
        let wanted = wanted.clone();
        let read = tokio::task::spawn_blocking(move || wanted.entry()).await;
        read.map_err(|_| FetchError::Stopped)?.map_err(FetchError::Index)?
    };
    if let Some(body) = adopt(fetcher, wanted.origin(), &entry).await {
        return Ok(body);
    }
    let _turn = match turn {
        Some(turn) => turn,
        None => Arc::clone(&fetcher.turns).acquire_owned().await.map_err(|_| FetchError::Stopped)?,
    };
    fetcher.metrics.downloads.increase();
    let started = Instant::now();
    let begin = || wanted.origin().upstream.body(wanted.uri(), entry.path.as_str(), entry.size);
    let (mut stream, mut place) = (begin(), Place::Cache);
    loop {
        match download(fetcher, flight, (wanted.origin(), &entry), &mut stream, place).await {
            Ok(body) => {
                fetcher.metrics.detail.downloads.observe(started.elapsed());
                let source = stream.source();
                body.note_source(source.strip_suffix(wanted.own_path()).unwrap_or(&source));
                log_fetched(&entry, &body, &stream, started.elapsed());
                return Ok(body);
            }
            Err(FetchError::Refused { url, reason }) => {
                verdicts::kind(&reason).into_iter().for_each(|kind| fetcher.metrics.detail.refused(kind));
                if !stream.reject() {
                    return Err(FetchError::Refused { url, reason });
                }
                tracing::warn!(path = %entry.path, %reason, url, "refused; trying once more");
            }
            Err(FetchError::Disk(error)) if place == Place::Cache && error.kind() == ErrorKind::StorageFull => {
                tracing::warn!(path = %entry.path, %error, "the cache's disk is full; fetching once more, into memory");
                (stream, place) = (begin(), Place::Memory);
            }
            Err(error) => return Err(error),
        }
    }
}

fn log_fetched(entry: &Entry, body: &Body, stream: &BodyStream<'_>, took: Duration) {
    let (bytes, seconds, source) = (entry.size, took.as_secs_f32(), stream.source());
    let verdict = match body.assurance().signer {
        None => "digests only".to_owned(),
        Some(signer) => format!("signed by {}", signer.fingerprint),
    };
    tracing::info!(
        binhostfs.package = %entry.path,
        binhostfs.bytes = bytes,
        binhostfs.source = source,
        binhostfs.verdict = verdict,
        "fetched and verified {} ({bytes} bytes in {seconds:.2} s from {source}; {verdict})",
        entry.path
    );
}

/// A body that lies in the cache unproved may be it: proving that is cheaper than fetching it again.
async fn adopt(fetcher: &Arc<Fetcher>, origin: &Arc<Origin>, entry: &Entry) -> Option<Body> {
    let (fetcher, origin, entry) = (Arc::clone(fetcher), Arc::clone(origin), entry.clone());
    let proved = tokio::task::spawn_blocking(move || {
        let candidates = fetcher.store.unproved(entry.id(), entry.size, &origin.policy);
        let adopted = candidates.into_iter().find_map(|candidate| adopt_one(&fetcher, &origin, &entry, candidate));
        // Somebody else may have adopted it meanwhile.
        adopted.or_else(|| fetcher.store.get(entry.id(), entry.size, &origin.policy))
    });
    proved.await.ok().flatten()
}

pub(super) fn adopt_one(fetcher: &Fetcher, origin: &Origin, entry: &Entry, candidate: Unproved) -> Option<Body> {
    let Unproved { digest, file, own } = candidate;
    match recheck(file, entry.clone(), &origin.policy) {
        Ok(verified) => {
            let body = fetcher.store.body(verified);
            tracing::info!(path = %entry.path, "found in the cache, and proved again");
            let witness = alarms::witness(origin, entry);
            if let Placement::Unkept(_) = fetcher.store.adopt(digest, &body, entry.id(), witness) {
                fetcher.held.hold(entry.id(), body.clone());
            }
            Some(body)
        }
        // Signatures come after digests: it is the package that was asked for, and may not be served.
        Err(error) if error.io_error().is_none() && (own || matches!(error, VerifyError::Signature { .. })) => {
            tracing::warn!(path = %entry.path, %error, "what the cache has of it is refused and removed");
            fetcher.store.reject(digest);
            None
        }
        // Another package of the same size, or the disk.
        Err(_) => None,
    }
}

async fn download(
    fetcher: &Arc<Fetcher>,
    flight: &Arc<Flight>,
    (origin, entry): (&Arc<Origin>, &Entry),
    stream: &mut BodyStream<'_>,
    place: Place,
) -> Result<Body, FetchError> {
    let mut receiving =
        Receiving::start(Arc::clone(fetcher), Arc::clone(flight), (Arc::clone(origin), entry.clone()), place);
    loop {
        let goes_on = match stream.next().await {
            Ok(Event::Chunk(bytes)) => receiving.bytes(bytes).await,
            Ok(Event::Restart) => receiving.restart().await,
            Ok(Event::End) => break,
            Err(error) => {
                receiving.abandon().await;
                return Err(error.into());
            }
        };
        if !goes_on {
            // The other side has seen enough; it says what is wrong.
            break;
        }
    }
    let url = stream.source();
    receiving.finish().await.map_err(|failure| failure.into_error(url))
}

/// Why a flight begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Somebody opens the package.
    Open,
    /// A plan has it.
    Plan,
    /// The line has nothing else to do.
    Spare,
}

impl Flight {
    /// A flight that is not in the table yet.
    pub(super) fn new(wanted: &Wanted, cause: Cause) -> (Arc<Self>, watch::Receiver<Option<Outcome>>) {
        let (outcome, receiver) = watch::channel(None);
        let flight = Self {
            outcome,
            path: wanted.path().to_owned(),
            size: wanted.record().size,
            received: AtomicU64::new(0),
            began: Instant::now(),
            heard: AtomicU64::new(0),
            planned: cause == Cause::Plan,
            asked: AtomicBool::new(cause == Cause::Open),
            placed: AtomicBool::new(false),
            ahead: AtomicUsize::new(0),
        };
        (Arc::new(flight), receiver)
    }

    /// So many bytes came in.
    pub(super) fn hear(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now, Ordering::Relaxed);
    }

    /// Bytes that are still to come.
    pub(super) fn left(&self) -> u64 {
        self.size.saturating_sub(self.received.load(Ordering::Relaxed))
    }

    /// Whether nothing has come in for so long.
    pub(super) fn is_still(&self, time: Duration) -> bool {
        let heard = Duration::from_millis(self.heard.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(heard) > time
    }

    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Tells everybody who waits how it ended, unless they know already.
    pub(super) fn settle(&self, outcome: impl FnOnce() -> Outcome) {
        self.outcome.send_if_modified(|slot| {
            let open = slot.is_none();
            if open {
                *slot = Some(outcome());
            }
            open
        });
    }
}
