//! The bridge between the asynchronous download and the synchronous proof: one blocking thread for each flight.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::ahead::REST_OF_LINE;
use super::{FetchError, Fetcher, Flight, Origin, alarms};
use crate::index::Entry;
use crate::store::{Body, Incoming, Placement, StoreError};
use crate::verify::{Receiver, VerifyError};

/// Bytes that are handed over and proved at once: below 128 KiB the digests share one CPU, and every write is a system call.
/// A chunk from the network has 8 to 400 KiB and holds a buffer that may be larger.
const GATHER: usize = 512 << 10;
/// Buffers of [`GATHER`] bytes that are full and wait; one more fills and one more is proved. The rest waits in the kernel.
const QUEUE: usize = 3;

/// Where a download goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Cache,
    /// The disk turned out to be full in the middle.
    Memory,
}

enum Step {
    Bytes(Vec<u8>),
    Restart,
    End,
}

/// Why the thread gave up.
#[derive(Debug)]
pub(super) enum Failure {
    Verify(VerifyError),
    Store(StoreError),
    Disk(io::Error),
    Stopped,
}

impl Failure {
    pub(super) fn into_error(self, url: String) -> FetchError {
        match self {
            Self::Verify(reason) => FetchError::Refused { url, reason },
            Self::Store(error) => FetchError::Store(error),
            Self::Disk(error) => FetchError::Disk(error),
            Self::Stopped => FetchError::Stopped,
        }
    }
}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        match error.io_error().map(|source| io::Error::new(source.kind(), source.to_string())) {
            Some(source) => Self::Disk(source),
            None => Self::Verify(error),
        }
    }
}

/// The near end of the bridge.
pub(super) struct Receiving {
    flight: Arc<Flight>,
    /// What is not handed over yet.
    gathered: Vec<u8>,
    steps: mpsc::Sender<Step>,
    /// Emptied buffers come back.
    empty: mpsc::Receiver<Vec<u8>>,
    result: oneshot::Receiver<Result<Body, Failure>>,
}

impl Receiving {
    pub(super) fn start(
        fetcher: Arc<Fetcher>,
        flight: Arc<Flight>,
        (origin, entry): (Arc<Origin>, Entry),
        place: Place,
    ) -> Self {
        let ((steps, queue), (give_back, empty)) = (mpsc::channel(QUEUE), mpsc::channel(QUEUE + 2));
        let (tell, result) = oneshot::channel();
        let gathered = Vec::with_capacity(GATHER.min(usize::try_from(entry.size).unwrap_or(GATHER)));
        flight.received.store(0, Ordering::Relaxed);
        let receiving = Self { flight: Arc::clone(&flight), gathered, steps, empty, result };
        tokio::task::spawn_blocking(move || {
            let mut tell = Some(tell);
            let mut done = |result| {
                if let Some(tell) = tell.take() {
                    // Nobody may listen any more: the flight was abandoned.
                    let _ = tell.send(result);
                }
            };
            if let Err(failure) = receive(&fetcher, &flight, (&origin, &entry), place, (queue, give_back), &mut done) {
                done(Err(failure));
            }
        });
        receiving
    }

    /// `false`: the far end has given up.
    pub(super) async fn bytes(&mut self, mut bytes: Bytes) -> bool {
        self.flight.hear(bytes.len());
        while !bytes.is_empty() {
            // Never beyond its capacity: growing would double it.
            let room = GATHER - self.gathered.len();
            self.gathered.extend_from_slice(&bytes.split_to(bytes.len().min(room)));
            if self.gathered.len() == GATHER && !self.hand_over().await {
                return false;
            }
        }
        true
    }

    /// The body comes anew from its first byte. `false`: the far end has given up.
    pub(super) async fn restart(&mut self) -> bool {
        self.flight.received.store(0, Ordering::Relaxed);
        self.gathered.clear();
        self.steps.send(Step::Restart).await.is_ok()
    }

    async fn hand_over(&mut self) -> bool {
        let next = self.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(GATHER));
        let full = std::mem::replace(&mut self.gathered, next);
        self.steps.send(Step::Bytes(full)).await.is_ok()
    }

    /// All bytes are sent: the verdict.
    pub(super) async fn finish(self) -> Result<Body, Failure> {
        let _ = self.steps.send(Step::Bytes(self.gathered)).await;
        let _ = self.steps.send(Step::End).await;
        drop(self.steps);
        self.result.await.unwrap_or(Err(Failure::Stopped))
    }

    /// No more bytes will come.
    pub(super) async fn abandon(self) {
        drop(self.steps);
        let _ = self.result.await;
    }
}

/// The far end. The body is published as soon as it is proved, and made durable after that.
fn receive(
    fetcher: &Fetcher,
    flight: &Flight,
    (origin, entry): (&Origin, &Entry),
    place: Place,
    (mut queue, give_back): (mpsc::Receiver<Step>, mpsc::Sender<Vec<u8>>),
    done: &mut impl FnMut(Result<Body, Failure>),
) -> Result<(), Failure> {
    let incoming = match place {
        Place::Cache => fetcher.store.incoming(entry.size),
        Place::Memory => fetcher.store.in_memory(entry.size),
    };
    let incoming = incoming.map_err(Failure::Store)?;
    flight.placed.store(true, Ordering::Relaxed);
    let file = incoming.file().map_err(Failure::Disk)?;
    let mut receiver = Receiver::new(file, entry.clone(), origin.policy.clone());
    loop {
        match queue.blocking_recv() {
            Some(Step::Bytes(mut bytes)) => {
                write(fetcher, &mut receiver, &bytes, entry)?;
                let left = entry.size.saturating_sub(receiver.received());
                if (left..left + bytes.len() as u64).contains(&REST_OF_LINE) {
                    // The next one may begin.
                    fetcher.moved.notify_waiters();
                }
                incoming.start_writeback(receiver.received());
                bytes.clear();
                // Where it is not wanted any more it is freed.
                let _ = give_back.try_send(bytes);
            }
            Some(Step::Restart) => receiver.restart()?,
            Some(Step::End) => break,
            None => return Err(Failure::Stopped),
        }
    }
    // Nothing is to be sent any more, and a late sender must not wait.
    queue.close();
    let body = fetcher.store.body(receiver.finish()?);
    fetcher.metrics.verified.increase();
    flight.settle(|| Ok(body.clone()));
    keep(fetcher, flight, incoming, &body, (origin, entry));
    done(Ok(body));
    Ok(())
}

/// Writes a chunk; when the disk is full, makes room once and tries again.
fn write(fetcher: &Fetcher, receiver: &mut Receiver, bytes: &[u8], entry: &Entry) -> Result<(), Failure> {
    match receiver.write(bytes).map_err(Failure::from) {
        Err(Failure::Disk(error)) if error.kind() == io::ErrorKind::StorageFull => {
            let missing = entry.size.saturating_sub(receiver.received());
            if !fetcher.store.make_room(missing) {
                return Err(Failure::Disk(error));
            }
            receiver.write(bytes).map_err(Failure::from)
        }
        other => other,
    }
}

fn keep(fetcher: &Fetcher, flight: &Flight, incoming: Incoming<'_>, body: &Body, (origin, entry): (&Origin, &Entry)) {
    let witness = alarms::witness(origin, entry);
    if let Some(witness) = witness {
        alarms::compare(fetcher, witness, entry, body.digest());
    }
    if let Placement::Unkept(reason) = fetcher.store.commit(incoming, body, entry.id(), witness) {
        tracing::info!(path = %entry.path, reason, "served, but not kept in the cache");
        // What nobody waits for must not push out what somebody uses.
        if flight.is_asked() {
            fetcher.held.hold(entry.id(), body.clone());
        }
    }
}
