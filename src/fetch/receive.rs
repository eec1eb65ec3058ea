//! The bridge between the asynchronous download and the synchronous proof: one blocking thread for each flight.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::{FetchError, Fetcher, Flight};
use crate::index::Entry;
use crate::store::{Body, Incoming, Placement, StoreError};
use crate::verify::{Receiver, VerifyError};

/// Chunks between the network and the proof. A chunk is what one read of the socket gave, and holds a buffer of up to 400 KiB;
/// what comes meanwhile waits in the kernel.
const QUEUE: usize = 2;
/// Bytes that are proved at once: below 128 KiB the digests share one CPU, and every write is a system call.
const GATHER: usize = 512 << 10;

/// Where a download goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Cache,
    /// The disk turned out to be full in the middle.
    Memory,
}

pub(super) enum Step {
    Bytes(Bytes),
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
    steps: mpsc::Sender<Step>,
    result: oneshot::Receiver<Result<Body, Failure>>,
}

impl Receiving {
    pub(super) fn start(fetcher: Arc<Fetcher>, flight: Arc<Flight>, entry: Entry, place: Place) -> Self {
        let (steps, queue) = mpsc::channel(QUEUE);
        let (tell, result) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let mut tell = Some(tell);
            let mut done = |result| {
                if let Some(tell) = tell.take() {
                    // Nobody may listen any more: the flight was abandoned.
                    let _ = tell.send(result);
                }
            };
            if let Err(failure) = receive(&fetcher, &flight, &entry, place, queue, &mut done) {
                done(Err(failure));
            }
        });
        Self { steps, result }
    }

    /// `false`: the far end has given up.
    pub(super) async fn send(&self, step: Step) -> bool {
        self.steps.send(step).await.is_ok()
    }

    /// All bytes are sent: the verdict.
    pub(super) async fn finish(self) -> Result<Body, Failure> {
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
    entry: &Entry,
    place: Place,
    mut queue: mpsc::Receiver<Step>,
    done: &mut impl FnMut(Result<Body, Failure>),
) -> Result<(), Failure> {
    let incoming = match place {
        Place::Cache => fetcher.store.incoming(entry.size),
        Place::Memory => fetcher.store.in_memory(entry.size),
    };
    let incoming = incoming.map_err(Failure::Store)?;
    let file = incoming.file().map_err(Failure::Disk)?;
    let mut receiver = Receiver::new(file, entry.clone(), fetcher.policy.clone());
    let mut gathered = Vec::with_capacity(GATHER.min(usize::try_from(entry.size).unwrap_or(GATHER)));
    loop {
        match queue.blocking_recv() {
            Some(Step::Bytes(mut bytes)) => {
                // Never beyond its capacity: growing would double it.
                while !bytes.is_empty() {
                    gathered.extend_from_slice(&bytes.split_to(bytes.len().min(GATHER - gathered.len())));
                    if gathered.len() == GATHER {
                        write(fetcher, &mut receiver, &gathered, entry)?;
                        incoming.start_writeback(receiver.received());
                        gathered.clear();
                    }
                }
            }
            Some(Step::Restart) => {
                gathered.clear();
                receiver.restart()?;
            }
            Some(Step::End) => break,
            None => return Err(Failure::Stopped),
        }
        flight.received.store(receiver.received() + gathered.len() as u64, Ordering::Relaxed);
    }
    write(fetcher, &mut receiver, &gathered, entry)?;
    drop(gathered);
    // Nothing is to be sent any more, and a late sender must not wait.
    queue.close();
    let body = fetcher.store.body(receiver.finish()?);
    fetcher.metrics.verified.increase();
    flight.settle(|| Ok(body.clone()));
    keep(fetcher, incoming, &body, entry);
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

fn keep(fetcher: &Fetcher, incoming: Incoming<'_>, body: &Body, entry: &Entry) {
    if let Placement::Unkept(reason) = fetcher.store.commit(incoming, body, entry.id()) {
        tracing::info!(path = %entry.path, reason, "served, but not kept in the cache");
        fetcher.held.hold(entry.id(), body.clone());
    }
}
