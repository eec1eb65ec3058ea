//! One download from its first turn to its end.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::lane::Lane;
use super::listed::ListedDownload;
use super::receive::{Destination, Receiving};
use super::turn::Turn;
use super::{GRACE, SILENCE};
use crate::cache::Blob;
use crate::fetch::error::{FetchError, Outcome, refusal_kind};
use crate::fetch::outcomes::OutcomeKind;
use crate::fetch::remote_binhost::PackageRef;
use crate::index::Entry;
use crate::sys::is_full;
use crate::upstream::{BodyFault, BodyStream, Event, ProvedPackage};
use crate::verify::VerifyError;

/// How often the bytes of a parked download may be lost before the download fails.
const MAX_LOSSES: usize = 2;

/// The transfer of a package from its binhost, from the first turn there on.
struct Transfer<'a> {
    stream: BodyStream<'a>,
    entry: Entry,
    /// `None`: the transfer starts with the first byte of the package.
    receiving: Option<Receiving>,
    /// Given back when the bytes of an interrupted download are kept.
    _only: Option<OwnedSemaphorePermit>,
}

impl<'a> Transfer<'a> {
    /// Continues an interrupted download of the package, if there is one.
    async fn new(listed: &ListedDownload, wanted: &'a PackageRef, entry: Entry) -> Self {
        let only = listed.downloads.interrupted.only_transfer(wanted.key()).await;
        let mut stream = begin(wanted, &entry);
        let left = listed.downloads.interrupted.take(wanted, &entry);
        let receiving = left.and_then(|(partial, part)| {
            let received = partial.received();
            let receiving = Receiving::going_on(listed, &entry, partial)?;
            tracing::debug!(path = wanted.path(), received, "an interrupted download goes on");
            stream.go_on(part, received);
            Some(receiving)
        });
        Self { stream, entry, receiving, _only: only }
    }

    /// Keeps the received bytes for the next download of the package, because there is no waiter
    /// left.
    async fn interrupt(self, listed: &ListedDownload) {
        let Some(receiving) = self.receiving else { return };
        let (Some(part), Some(partial)) = (self.stream.into_part(), receiving.interrupt().await) else { return };
        let downloads = &listed.downloads;
        let gone = downloads.interrupted.keep(&listed.download.wanted, self.entry, partial, part);
        downloads.runtime.spawn_blocking(move || drop(gone));
    }
}

fn begin<'a>(wanted: &'a PackageRef, entry: &Entry) -> BodyStream<'a> {
    let (path, key) = (entry.path.as_str(), entry.share_key().map(|key| key.to_string()));
    wanted.binhost().upstream.body(wanted.uri(), path, entry.size).with_sharers(key, path)
}

/// Runs a download to its end, unless it must wait for a turn in another lane, and notifies all
/// waiters.
pub(super) async fn run(mut turn: Turn) {
    let (listed, wanted) = (turn.listed.clone(), turn.wanted().clone());
    let mut transfer = None;
    let ended = tokio::select! {
        ended = fetch(&mut turn, &wanted, &mut transfer) => ended,
        () = deserted(&listed) => Err(FetchError::Stopped),
        () = listed.download.stopped() => Err(FetchError::Stopped),
    };
    match ended {
        Ok(None) => turn.change_lane(),
        Ok(Some(blob)) => {
            let ahead = !listed.is_asked();
            conclude(&listed, Ok(blob.clone()));
            if ahead {
                // The package may not be opened for a while, but its entry is visible already. The
                // comparison hides a wrong entry now.
                drop(listed.downloads.context.comparer.held_against(&listed.download.wanted, blob).await);
            }
        }
        Err(error) => {
            let stopped = matches!(error, FetchError::Stopped);
            conclude(&listed, Err(Arc::new(error)));
            if let Some(transfer) = transfer.filter(|_| stopped) {
                transfer.interrupt(&listed).await;
            }
        }
    }
}

/// Completes when the download has lost its last waiter and still has none [`GRACE`] later. A
/// download that was never opened gets no grace. The download has left the table then, so nobody
/// can join it.
async fn deserted(listed: &ListedDownload) {
    loop {
        listed.download.deserted().await;
        if listed.is_asked() {
            tokio::time::sleep(GRACE).await;
        }
        if !listed.end_unless_wanted() {
            return;
        }
    }
}

/// Logs the outcome, remembers a failure, and notifies all waiters.
fn conclude(listed: &ListedDownload, outcome: Outcome) {
    let (context, wanted, asked) = (&listed.downloads.context, &listed.download.wanted, listed.is_asked());
    let path = wanted.path();
    match &outcome {
        Ok(_) => context.failures.fetched(wanted.key(), path),
        Err(error) if matches!(**error, FetchError::Stopped) => {
            tracing::debug!(path, "nobody waits for it any more");
        }
        // The open of the package tries again, and logs its own failure.
        Err(error) if !asked => tracing::debug!(path, %error, "cannot be prefetched"),
        Err(error) => {
            let (seconds, advice) = (listed.download.age().as_secs_f32(), error.advice());
            tracing::warn!(
                binhostfs.package = path,
                binhostfs.reason = %error,
                "cannot fetch {path} (tried for {seconds:.1} s): {error}; {advice}"
            );
            context.failures.add(wanted.key(), path, error);
            if matches!(**error, FetchError::Refused { .. }) {
                context.metrics.refused.increase();
            }
        }
    }
    if outcome.is_ok() || asked {
        send_outcome(listed, &outcome);
    }
    listed.download.settle(|| outcome);
}

/// Sends the outcome to the daemon, if it affects which entries are visible.
fn send_outcome(listed: &ListedDownload, outcome: &Outcome) {
    let wanted = &listed.download.wanted;
    let kind = match outcome {
        Ok(_) => OutcomeKind::Verified,
        Err(error) if error.is_final() => OutcomeKind::Refused(Arc::clone(error)),
        Err(error) if matches!(**error, FetchError::Upstream(_)) => OutcomeKind::Unreachable,
        Err(_) => return,
    };
    listed.downloads.context.outcomes.send(wanted, kind);
}

/// Fetches the package, or looks for it in the cache, depending on the lane. `None`: the cache does
/// not have it.
async fn fetch<'a>(
    turn: &mut Turn,
    wanted: &'a PackageRef,
    transfer: &mut Option<Transfer<'a>>,
) -> Result<Option<Blob>, FetchError> {
    let read = {
        let wanted = wanted.clone();
        tokio::task::spawn_blocking(move || wanted.entry()).await
    };
    let entry = read.map_err(|_| FetchError::Stopped)?.map_err(FetchError::Index)?;
    wanted.binhost().check_keys()?;
    match turn.lane {
        Lane::Cache => {
            let (blobs, binhost) = (Arc::clone(&turn.context().blobs), Arc::clone(wanted.binhost()));
            let recovered = tokio::task::spawn_blocking(move || blobs.recover(&binhost, &entry));
            Ok(recovered.await.ok().flatten())
        }
        Lane::Binhost(_) => {
            let transfer = transfer.insert(Transfer::new(&turn.listed, wanted, entry).await);
            from_binhost(turn, wanted, transfer).await.map(Some)
        }
    }
}

async fn from_binhost<'a>(
    turn: &mut Turn,
    wanted: &'a PackageRef,
    transfer: &mut Transfer<'a>,
) -> Result<Blob, FetchError> {
    let metrics = Arc::clone(&turn.context().metrics);
    metrics.downloads.increase();
    let (started, mut medium) = (Instant::now(), Destination::Cache);
    loop {
        let received = receive(turn, transfer, medium).await;
        let Transfer { stream, entry, receiving, .. } = transfer;
        // A further attempt starts with the first byte.
        *receiving = None;
        match received {
            Ok(blob) => {
                metrics.detail.downloads.observe(started.elapsed());
                let source = stream.source();
                let base = source.strip_suffix(wanted.own_path()).unwrap_or(&source);
                let tier = stream.sharer().map(|sharer| format!("{sharer} ")).unwrap_or_default();
                blob.note_source(&format!("{tier}{base}"));
                log_fetched(entry, &blob, stream, started.elapsed());
                stream.proved(|| proved(entry, &blob));
                return Ok(blob);
            }
            Err(FetchError::Refused { url, reason }) => {
                if reason.depends_on_clock() {
                    // The wrong clock is the cause, neither the package nor the mirror.
                    wanted.binhost().check_clock()?;
                }
                // Wrong bytes of others say nothing about the package.
                let kind = refusal_kind(&reason).filter(|_| !stream.is_of_sharer());
                kind.into_iter().for_each(|kind| metrics.detail.refused(kind));
                if !stream.reject(fault_of(&reason)) {
                    return Err(FetchError::Refused { url, reason });
                }
                tracing::warn!(path = %entry.path, %reason, url, "refused; trying once more");
            }
            Err(FetchError::Disk(error)) if medium == Destination::Cache && is_full(&error) => {
                tracing::warn!(path = %entry.path, %error, "the cache's disk is full; fetching once more, into memory");
                (*stream, medium) = (begin(wanted, entry), Destination::Memory);
            }
            Err(error) => return Err(error),
        }
    }
}

/// The cause of refused bytes, as far as they show it.
fn fault_of(reason: &VerifyError) -> BodyFault {
    match reason {
        VerifyError::Truncated { .. } | VerifyError::TooLong { .. } | VerifyError::Digest { .. } => BodyFault::Url,
        reason if reason.is_of_package() => BodyFault::Package,
        _ => BodyFault::Undecided,
    }
}

/// A verified package as an object store takes it. `None`: its entry lacks a digest.
fn proved(entry: &Entry, blob: &Blob) -> Option<ProvedPackage> {
    let key = entry.share_key()?;
    let (file, sha256) = (Arc::clone(blob.file()), blob.digest().0);
    Some(ProvedPackage { key: key.to_string(), size: key.size, md5: key.md5.0, sha1: key.sha1.0, sha256, file })
}

/// One attempt: receives all bytes and verifies them.
async fn receive(turn: &mut Turn, transfer: &mut Transfer<'_>, medium: Destination) -> Result<Blob, FetchError> {
    let Transfer { stream, entry, receiving: slot, .. } = transfer;
    let mut losses = 0;
    loop {
        let receiving = slot.get_or_insert_with(|| {
            turn.listed.download.restart();
            Receiving::new(&turn.listed, entry, medium)
        });
        let received = match next(turn, stream, receiving).await? {
            AfterTransfer::Event(Event::Chunk(bytes)) => {
                turn.receive(bytes.len());
                receiving.bytes(bytes).await
            }
            AfterTransfer::Event(Event::Restart) => {
                turn.listed.download.restart();
                receiving.restart().await
            }
            AfterTransfer::Event(Event::End) => break,
            AfterTransfer::Lost if losses < MAX_LOSSES => {
                losses += 1;
                stream.start_over();
                *slot = None;
                Ok(())
            }
            AfterTransfer::Lost => return Err(FetchError::Disk(std::io::ErrorKind::StorageFull.into())),
        };
        received.map_err(|failure| failure.into_error(stream.source()))?;
    }
    let Some(receiving) = slot.take() else { return Err(FetchError::Stopped) };
    receiving.finish().await.map_err(|failure| failure.into_error(stream.source()))
}

/// The next step of a transfer.
enum AfterTransfer {
    Event(Event),
    /// The received bytes are gone: their room was needed while the download was parked.
    Lost,
}

/// Waits until the limits of bandwidth allow the bytes that were received. In the quiet hours, the
/// download is parked. `false`: the received bytes are gone.
async fn hold_back(turn: &mut Turn, stream: &mut BodyStream<'_>, receiving: &mut Receiving) -> bool {
    stream.kept_waiting(turn.hold_back().await);
    if !turn.rests() {
        return true;
    }
    let began = Instant::now();
    // An error of the parking itself is returned by the next operation of `receiving`.
    receiving.park().await;
    turn.park();
    turn.rest().await;
    turn.resume().await;
    stream.kept_waiting(began.elapsed());
    receiving.resume()
}

/// Waits for the next event, and for a turn to process it. The download is parked while nothing
/// comes.
async fn next(
    turn: &mut Turn,
    stream: &mut BodyStream<'_>,
    receiving: &mut Receiving,
) -> Result<AfterTransfer, FetchError> {
    if !hold_back(turn, stream, receiving).await {
        return Ok(AfterTransfer::Lost);
    }
    let (event, waited) = {
        let mut event = pin!(stream.next());
        tokio::select! {
            biased;
            event = &mut event => return Ok(AfterTransfer::Event(event?)),
            () = tokio::time::sleep(SILENCE) => {}
        }
        // An error of the parking itself is returned by the next operation of `receiving`.
        receiving.park().await;
        turn.park();
        let event = event.await?;
        (event, turn.resume().await)
    };
    stream.kept_waiting(waited);
    Ok(if receiving.resume() { AfterTransfer::Event(event) } else { AfterTransfer::Lost })
}

/// Logs one line for each package, with fields for the journal.
fn log_fetched(entry: &Entry, blob: &Blob, stream: &BodyStream<'_>, took: Duration) {
    let (bytes, seconds, source) = (entry.size, took.as_secs_f32(), stream.source());
    let verdict = match blob.assurance().signer {
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
