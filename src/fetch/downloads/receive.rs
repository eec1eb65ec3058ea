//! What has come of a download: gathered here, proved and written by blocking threads, one piece at a time.
//!
//! Between two pieces a download has no thread. Nothing is opened, allocated or evicted before its first bytes have come.

use std::sync::Arc;
use std::{fmt, io};

use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_blocking};

use super::interrupted::WORTH_KEEPING;
use super::listed::ListedDownload;
use crate::cache::{Blob, Incoming, Placement, Resumed, StoreError, is_full};
use crate::fetch::{FetchError, alarms};
use crate::index::Entry;
use crate::verify::{Receiver, VerifyError};

/// Bytes that are handed over and proved at once: below 128 KiB the digests share one CPU, and every write is a system call.
/// A chunk from the network has 8 to 400 KiB and holds a buffer that may be larger. One such buffer fills while another is
/// proved; the rest waits in the kernel.
const GATHER: usize = 512 << 10;

/// Where a download goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Destination {
    Cache,
    /// The disk turned out to be full in the middle.
    Memory,
}

/// Why bytes were not taken.
#[derive(Debug)]
pub(super) enum ReceiveError {
    Verify(VerifyError),
    Store(StoreError),
    Disk(io::Error),
    Stopped,
}

impl ReceiveError {
    pub(super) fn into_error(self, url: String) -> FetchError {
        match self {
            Self::Verify(reason) => FetchError::Refused { url, reason },
            Self::Store(error) => FetchError::Store(error),
            Self::Disk(error) => FetchError::Disk(error),
            Self::Stopped => FetchError::Stopped,
        }
    }
}

impl From<VerifyError> for ReceiveError {
    fn from(error: VerifyError) -> Self {
        match error.io_error().map(|source| io::Error::new(source.kind(), source.to_string())) {
            Some(source) => Self::Disk(source),
            None => Self::Verify(error),
        }
    }
}

/// What is received.
struct ReceivedFrom {
    listed: ListedDownload,
    entry: Entry,
    medium: Destination,
}

/// The file of a download, and what its bytes prove so far. All of it blocks.
pub(super) struct Partial {
    incoming: Incoming,
    receiver: Receiver,
}

impl fmt::Debug for Partial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partial").field("incoming", &self.incoming).finish_non_exhaustive()
    }
}

/// What a blocking thread gives back: the file, unless something is wrong with it, and the emptied buffer.
type WriteResult = (Result<Box<Partial>, ReceiveError>, Vec<u8>);

/// See the module's documentation. A future of it that is dropped loses nothing that was received but for the piece given to
/// it, unless it was about to begin anew or to end.
pub(super) struct Receiving {
    source: Arc<ReceivedFrom>,
    /// Bytes that are not handed over yet.
    gathered: Vec<u8>,
    /// The other buffer, while it is empty.
    spare: Vec<u8>,
    writing: Option<JoinHandle<WriteResult>>,
    partial: Option<Box<Partial>>,
    /// Why it could not be parked.
    failure: Option<ReceiveError>,
}

impl Receiving {
    pub(super) fn new(listed: &ListedDownload, entry: &Entry, medium: Destination) -> Self {
        listed.download.set_placed(false);
        let source = Arc::new(ReceivedFrom { listed: listed.clone(), entry: entry.clone(), medium });
        Self { source, gathered: Vec::new(), spare: Vec::new(), writing: None, partial: None, failure: None }
    }

    /// Goes on where an earlier download was interrupted. `None`: something else needed the room of what it had received.
    pub(super) fn going_on(listed: &ListedDownload, entry: &Entry, mut partial: Box<Partial>) -> Option<Self> {
        let mut receiving = Self::new(listed, entry, Destination::Cache);
        if partial.incoming.resume() == Resumed::Lost {
            listed.fetcher.downloads.runtime.spawn_blocking(move || drop(partial));
            return None;
        }
        listed.download.set_placed(true);
        listed.download.go_on_at(partial.receiver.received());
        receiving.partial = Some(partial);
        Some(receiving)
    }

    /// Takes the next bytes.
    pub(super) async fn bytes(&mut self, mut bytes: Bytes) -> Result<(), ReceiveError> {
        while !bytes.is_empty() {
            if self.gathered.capacity() == 0 {
                let size = usize::try_from(self.source.entry.size).unwrap_or(GATHER);
                self.gathered.reserve_exact(GATHER.min(size));
            }
            // Never beyond that: growing would double it.
            let room = GATHER.saturating_sub(self.gathered.len());
            self.gathered.extend_from_slice(&bytes.split_to(bytes.len().min(room)));
            if self.gathered.len() >= GATHER {
                self.hand_over().await?;
            }
        }
        Ok(())
    }

    /// The body comes anew from its first byte.
    pub(super) async fn restart(&mut self) -> Result<(), ReceiveError> {
        self.gathered.clear();
        if let Some(mut partial) = self.written().await? {
            let restarted = spawn_blocking(move || partial.restart().map(|()| partial)).await;
            self.partial = Some(restarted.map_err(|_| ReceiveError::Stopped)??);
        }
        Ok(())
    }

    /// All bytes are there: the verdict.
    pub(super) async fn finish(mut self) -> Result<Blob, ReceiveError> {
        let partial = self.written().await?;
        let (source, rest) = (Arc::clone(&self.source), std::mem::take(&mut self.gathered));
        let finished = spawn_blocking(move || write(partial, &source, rest).0?.finish(&source));
        finished.await.map_err(|_| ReceiveError::Stopped)?
    }

    /// Gives back buffers and what is reserved. A failure shows when it goes on.
    pub(super) async fn park(&mut self) {
        let parked = self.write_all_and_park().await;
        self.failure = parked.err();
        (self.gathered, self.spare) = (Vec::new(), Vec::new());
        self.source.listed.download.set_placed(false);
    }

    async fn write_all_and_park(&mut self) -> Result<(), ReceiveError> {
        let partial = self.written().await?;
        if partial.is_some() || !self.gathered.is_empty() {
            let (source, rest) = (Arc::clone(&self.source), std::mem::take(&mut self.gathered));
            self.writing = Some(spawn_blocking(move || {
                let (written, empty) = write(partial, &source, rest);
                (written.map(Partial::park), empty)
            }));
            self.partial = self.written().await?;
        }
        Ok(())
    }

    /// What was received, for another download to go on with. `None`: that is not worth it, or cannot be.
    pub(super) async fn interrupt(mut self) -> Option<Box<Partial>> {
        let partial = self.written().await.ok()?;
        if partial.is_none() && self.gathered.is_empty() {
            return None;
        }
        let (source, rest) = (Arc::clone(&self.source), std::mem::take(&mut self.gathered));
        spawn_blocking(move || write(partial, &source, rest).0.ok()?.abandon()).await.ok()?
    }

    /// Goes on. `false`: what was received is lost.
    pub(super) fn resume(&mut self) -> bool {
        let Some(partial) = &mut self.partial else { return true };
        let whole = partial.incoming.resume() == Resumed::Whole;
        self.source.listed.download.set_placed(whole);
        whole
    }

    async fn hand_over(&mut self) -> Result<(), ReceiveError> {
        let partial = self.written().await?;
        let empty = std::mem::take(&mut self.spare);
        let (source, full) = (Arc::clone(&self.source), std::mem::replace(&mut self.gathered, empty));
        self.writing = Some(spawn_blocking(move || write(partial, &source, full)));
        Ok(())
    }

    /// The file, once the piece before this one is written; `None`: there is none yet.
    async fn written(&mut self) -> Result<Option<Box<Partial>>, ReceiveError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if let Some(writing) = &mut self.writing {
            let written = writing.await;
            self.writing = None;
            let (partial, buffer) = written.map_err(|_| ReceiveError::Stopped)?;
            self.spare = buffer;
            self.partial = Some(partial?);
        }
        Ok(self.partial.take())
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if let Some(partial) = self.partial.take() {
            // Removing a large file takes its time.
            self.source.listed.fetcher.downloads.runtime.spawn_blocking(move || drop(partial));
        }
    }
}

/// Takes a piece; the first one has the file made.
fn write(partial: Option<Box<Partial>>, source: &ReceivedFrom, mut bytes: Vec<u8>) -> WriteResult {
    let opened = partial.map_or_else(|| Partial::open(source).map(Box::new), Ok);
    let written = opened.and_then(|mut partial| partial.write(&bytes, source).map(|()| partial));
    bytes.clear();
    (written, bytes)
}

impl Partial {
    fn open(source: &ReceivedFrom) -> Result<Self, ReceiveError> {
        let (store, entry) = (&source.listed.fetcher.store, &source.entry);
        let incoming = match source.medium {
            Destination::Cache => store.incoming(entry.size),
            Destination::Memory => store.in_memory(entry.size),
        };
        let incoming = incoming.map_err(ReceiveError::Store)?;
        source.listed.download.set_placed(true);
        let policy = source.listed.download.wanted.origin().policy.clone();
        let receiver = Receiver::new(incoming.file().map_err(ReceiveError::Disk)?, entry.clone(), policy);
        Ok(Self { incoming, receiver })
    }

    /// Makes room for a piece, proves it and writes it; when the disk is full, makes room once more and tries again.
    fn write(&mut self, bytes: &[u8], source: &ReceivedFrom) -> Result<(), ReceiveError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let upto = self.receiver.received().saturating_add(bytes.len() as u64);
        self.incoming.reserve(upto).map_err(ReceiveError::Disk)?;
        match self.receiver.write(bytes).map_err(ReceiveError::from) {
            Err(ReceiveError::Disk(error)) if is_full(&error) => {
                if !source.listed.fetcher.store.make_room(bytes.len() as u64) {
                    return Err(ReceiveError::Disk(error));
                }
                self.receiver.write(bytes)?;
            }
            other => other?,
        }
        self.incoming.start_writeback(self.receiver.received());
        Ok(())
    }

    fn restart(&mut self) -> Result<(), ReceiveError> {
        self.receiver.restart()?;
        self.incoming.restart();
        Ok(())
    }

    fn park(mut self: Box<Self>) -> Box<Self> {
        self.incoming.park(self.receiver.received());
        self
    }

    /// Parks it without anybody who waits for it. `None`: it is not worth it.
    fn abandon(mut self: Box<Self>) -> Option<Box<Self>> {
        let received = self.receiver.received();
        (received >= WORTH_KEEPING && self.incoming.abandon(received)).then_some(self)
    }

    pub(super) fn received(&self) -> u64 {
        self.receiver.received()
    }

    /// Judges the body. It is published as soon as it is proved, and made durable after that.
    fn finish(self: Box<Self>, source: &ReceivedFrom) -> Result<Blob, ReceiveError> {
        let Self { incoming, receiver } = *self;
        let ReceivedFrom { listed, entry, .. } = source;
        let (fetcher, origin) = (&listed.fetcher, listed.download.wanted.origin());
        let body = fetcher.store.body(receiver.finish()?);
        fetcher.metrics.verified.increase();
        listed.download.settle(|| Ok(body.clone()));
        let witness = alarms::build_key(origin, entry);
        if let Some(witness) = witness {
            alarms::compare(fetcher, witness, entry, body.digest());
        }
        if let Placement::Unkept(reason) = fetcher.store.commit(incoming, &body, entry.id(), witness) {
            tracing::info!(path = %entry.path, reason, "served, but not kept in the cache");
            // What nobody waits for must not push out what somebody uses.
            if listed.is_asked() {
                fetcher.held.hold(entry.id(), body.clone());
            }
        }
        Ok(body)
    }
}
