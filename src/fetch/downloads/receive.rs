//! Gathers the bytes of a download. Blocking threads prove and write them, one piece at a time.
//!
//! Between two pieces a download has no thread. No file is opened, no buffer is allocated and no
//! blob is evicted before the first bytes have come.

use std::sync::Arc;
use std::{fmt, io};

use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_blocking};

use super::DownloadContext;
use super::listed::ListedDownload;
use crate::cache::{Blob, CacheError, Incoming, Placement, Resumed};
use crate::fetch::alarms;
use crate::fetch::error::FetchError;
use crate::index::Entry;
use crate::sys::is_full;
use crate::verify::{Receiver, VerifyError};

/// Fewer bytes are not kept: fetching them takes no longer than the request to continue.
pub const WORTH_KEEPING: u64 = 64 << 10;
/// Size of a piece in bytes. Below 128 KiB the digests share one CPU, and every write is a system
/// call. A chunk from the network has 8 to 400 KiB, and holds a buffer that may be larger. One
/// piece is gathered while another one is proved. Further bytes wait in the kernel.
const GATHER: usize = 512 << 10;

/// The place that a download is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Destination {
    Cache,
    /// Memory is used after the disk was full in the middle of a transfer.
    Memory,
}

/// The reason why bytes were not accepted.
#[derive(Debug)]
pub(super) enum ReceiveError {
    Verify(VerifyError),
    Cache(CacheError),
    Disk(io::Error),
    Stopped,
}

impl ReceiveError {
    pub(super) fn into_error(self, url: String) -> FetchError {
        match self {
            Self::Verify(reason) => FetchError::Refused { url, reason },
            Self::Cache(error) => FetchError::Cache(error),
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

/// The download and its entry, as the blocking threads use them.
struct ReceivedFrom {
    listed: ListedDownload,
    entry: Entry,
    medium: Destination,
}

impl ReceivedFrom {
    fn context(&self) -> &DownloadContext {
        &self.listed.downloads.context
    }
}

/// The file of a download, and the state of the verification of its bytes. All methods block.
pub(super) struct Partial {
    incoming: Incoming,
    receiver: Receiver,
}

impl fmt::Debug for Partial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partial").field("incoming", &self.incoming).finish_non_exhaustive()
    }
}

/// The result of a blocking write: the file, unless the bytes are wrong, and the emptied buffer.
type WriteResult = (Result<Box<Partial>, ReceiveError>, Vec<u8>);

/// The receiving side of a download. Dropping one of its futures loses only the piece that was
/// given to that future. The exception is a future of `restart` or `finish`, which may lose
/// everything.
pub(super) struct Receiving {
    source: Arc<ReceivedFrom>,
    /// Bytes that no blocking thread has yet.
    gathered: Vec<u8>,
    /// The second buffer, while it is empty.
    spare: Vec<u8>,
    writing: Option<JoinHandle<WriteResult>>,
    partial: Option<Box<Partial>>,
    /// The error of [`Self::park`], which the next operation returns.
    failure: Option<ReceiveError>,
}

impl Receiving {
    pub(super) fn new(listed: &ListedDownload, entry: &Entry, medium: Destination) -> Self {
        listed.download.set_placed(false);
        let source = Arc::new(ReceivedFrom { listed: listed.clone(), entry: entry.clone(), medium });
        Self { source, gathered: Vec::new(), spare: Vec::new(), writing: None, partial: None, failure: None }
    }

    /// Continues an interrupted download. `None`: the room of its bytes was needed for something
    /// else.
    pub(super) fn going_on(listed: &ListedDownload, entry: &Entry, mut partial: Box<Partial>) -> Option<Self> {
        let mut receiving = Self::new(listed, entry, Destination::Cache);
        if partial.incoming.resume() == Resumed::Lost {
            listed.downloads.runtime.spawn_blocking(move || drop(partial));
            return None;
        }
        listed.download.set_placed(true);
        listed.download.go_on_at(partial.receiver.received());
        receiving.partial = Some(partial);
        Some(receiving)
    }

    /// Adds the next bytes. Waits while the piece before them is being written.
    pub(super) async fn bytes(&mut self, mut bytes: Bytes) -> Result<(), ReceiveError> {
        while !bytes.is_empty() {
            if self.gathered.capacity() == 0 {
                let size = usize::try_from(self.source.entry.size).unwrap_or(GATHER);
                self.gathered.reserve_exact(GATHER.min(size));
            }
            // The buffer never grows beyond this size, because growing would double it.
            let room = GATHER.saturating_sub(self.gathered.len());
            self.gathered.extend_from_slice(&bytes.split_to(bytes.len().min(room)));
            if self.gathered.len() >= GATHER {
                self.hand_over().await?;
            }
        }
        Ok(())
    }

    /// Discards the received bytes, because the transfer starts again with the first byte.
    pub(super) async fn restart(&mut self) -> Result<(), ReceiveError> {
        self.gathered.clear();
        if let Some(mut partial) = self.written().await? {
            let restarted = spawn_blocking(move || partial.restart().map(|()| partial)).await;
            self.partial = Some(restarted.map_err(|_| ReceiveError::Stopped)??);
        }
        Ok(())
    }

    /// Verifies the whole package, after its last byte.
    pub(super) async fn finish(mut self) -> Result<Blob, ReceiveError> {
        let partial = self.written().await?;
        let (source, rest) = (Arc::clone(&self.source), std::mem::take(&mut self.gathered));
        let finished = spawn_blocking(move || write(partial, &source, rest).0?.finish(&source));
        finished.await.map_err(|_| ReceiveError::Stopped)?
    }

    /// Gives the buffers and the reservation back. The next operation returns the error, if there
    /// is one.
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

    /// The received bytes, for the next download to continue with. `None`: the bytes are too few to
    /// keep, or cannot be kept.
    pub(super) async fn interrupt(mut self) -> Option<Box<Partial>> {
        let partial = self.written().await.ok()?;
        if partial.is_none() && self.gathered.is_empty() {
            return None;
        }
        let (source, rest) = (Arc::clone(&self.source), std::mem::take(&mut self.gathered));
        spawn_blocking(move || write(partial, &source, rest).0.ok()?.abandon()).await.ok()?
    }

    /// Continues after [`Self::park`]. `false`: the received bytes are lost.
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

    /// Waits until the piece before this one is written, and returns the file. `None`: there is no
    /// file yet.
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
            // Removing a large file takes a while, so a blocking thread does it.
            self.source.listed.downloads.runtime.spawn_blocking(move || drop(partial));
        }
    }
}

/// Writes a piece. The first piece creates the file.
fn write(partial: Option<Box<Partial>>, source: &ReceivedFrom, mut bytes: Vec<u8>) -> WriteResult {
    let opened = partial.map_or_else(|| Partial::open(source).map(Box::new), Ok);
    let written = opened.and_then(|mut partial| partial.write(&bytes, source).map(|()| partial));
    bytes.clear();
    (written, bytes)
}

impl Partial {
    fn open(source: &ReceivedFrom) -> Result<Self, ReceiveError> {
        let (cache, entry) = (source.context().blobs.cache(), &source.entry);
        let incoming = match source.medium {
            Destination::Cache => cache.incoming(entry.size),
            Destination::Memory => Incoming::in_memory(cache.space(), entry.size),
        };
        let incoming = incoming.map_err(ReceiveError::Cache)?;
        source.listed.download.set_placed(true);
        let policy = source.listed.download.wanted.binhost().policy.clone();
        let receiver = Receiver::new(incoming.file().map_err(ReceiveError::Disk)?, entry.clone(), policy);
        Ok(Self { incoming, receiver })
    }

    /// Reserves room for a piece, proves it and writes it. If the disk is full, evicts blobs and
    /// tries once more.
    fn write(&mut self, bytes: &[u8], source: &ReceivedFrom) -> Result<(), ReceiveError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let upto = self.receiver.received().saturating_add(bytes.len() as u64);
        self.incoming.reserve(upto).map_err(ReceiveError::Disk)?;
        match self.receiver.write(bytes).map_err(ReceiveError::from) {
            Err(ReceiveError::Disk(error)) if is_full(&error) => {
                if !source.context().blobs.cache().space().make_room(bytes.len() as u64) {
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

    /// Parks the file without a waiter. `None`: the bytes are too few to keep, or the cache cannot
    /// keep them.
    fn abandon(mut self: Box<Self>) -> Option<Box<Self>> {
        let received = self.receiver.received();
        (received >= WORTH_KEEPING && self.incoming.abandon(received)).then_some(self)
    }

    pub(super) fn received(&self) -> u64 {
        self.receiver.received()
    }

    /// Verifies the blob. Waiters are answered as soon as it is proved; the commit to the cache
    /// follows.
    fn finish(self: Box<Self>, source: &ReceivedFrom) -> Result<Blob, ReceiveError> {
        let Self { incoming, receiver } = *self;
        let ReceivedFrom { listed, entry, .. } = source;
        let (context, binhost) = (source.context(), listed.download.wanted.binhost());
        let blob = context.blobs.cache().blob(receiver.finish()?);
        context.metrics.verified.increase();
        listed.download.settle(|| Ok(blob.clone()));
        let keys = alarms::keys_of(binhost, entry);
        if let Some(build) = keys.build {
            context.alarms.compare(build, entry, blob.digest());
        }
        let placement = context.blobs.commit(incoming, &blob, entry.id(), keys);
        if let Placement::Unkept(reason) = placement {
            tracing::info!(path = %entry.path, reason, "served, but not kept in the cache");
            // A transient blob takes room. A package that nobody waits for must not displace one
            // that is in use.
            if listed.is_asked() {
                context.blobs.hold(entry.id(), blob.clone());
            }
        }
        Ok(blob)
    }
}
