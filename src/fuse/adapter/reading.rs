//! read(2), where the kernel does not read by itself.

use std::cell::RefCell;
use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;

use fuser::ReplyData;
use rustix::fs::Advice;

use super::super::mapping::MappedRange;
use super::types::failed;
use super::{AdapterState, MAX_REQUEST};
use crate::fetch::Uid;
use crate::fs::FsError;
use crate::fs::filesystem::Reopening;
use crate::local;
use crate::metrics::{Operation, Timed};
use crate::tree::{FileContent, Inode};

/// The smallest read, in bytes, that is answered from a mapping; what is smaller is faster to copy
/// than to map.
const MAPPED_FROM: u32 = 64 << 10;

thread_local! {
    /// Buffer for plain reads; grows to the largest read of the thread.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn read(shared: &Arc<AdapterState>, inode: Inode, (offset, size): (u64, u32), uid: Uid, reply: ReplyData) {
    let mut timed = Timed::begin(&shared.metrics, Operation::Read);
    let Some(content) = shared.handles.content(inode) else {
        shared.runtime.spawn(find_and_read(Arc::clone(shared), inode, (offset, size), (uid, timed), reply));
        return;
    };
    if let FileContent::File(file) = &content
        && size >= MAPPED_FROM
        && !local::is_number(inode.0)
        && let Ok(range) = MappedRange::new(file, offset, size.min(MAX_REQUEST) as usize)
    {
        let bytes = range.as_ref().map_or(&[][..], MappedRange::bytes);
        shared.metrics.bytes_served.add(bytes.len() as u64);
        reply.data(bytes);
        drop(range);
        // The kernel has these bytes for the mount's own file now, and needs them once.
        let _ = rustix::fs::fadvise(file, offset, NonZeroU64::new(size.into()), Advice::DontNeed);
        return;
    }
    BUFFER.with_borrow_mut(|buffer| {
        let size = size.min(MAX_REQUEST) as usize;
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        match buffer.get_mut(..size).map(|buffer| read_full(&content, buffer, offset)) {
            Some(Ok(count)) => {
                shared.metrics.bytes_served.add(count as u64);
                reply.data(buffer.get(..count).unwrap_or_default());
            }
            Some(Err(error)) if local::is_number(inode.0) => reply.error(failed(&mut timed, &error.into())),
            Some(Err(error)) => {
                tracing::warn!(%error, inode = inode.0, "a cached package or the index cannot be read; check the disk of the cache");
                reply.error(failed(&mut timed, &FsError::Read));
            }
            None => reply.error(failed(&mut timed, &FsError::Read)),
        }
    });
}

/// Reads an inode that an earlier daemon opened, and whose file is not where that daemon had it.
/// Finds the inode's content wherever it is now, and fetches the package if necessary.
async fn find_and_read(
    shared: Arc<AdapterState>,
    inode: Inode,
    (offset, size): (u64, u32),
    (uid, mut timed): (Uid, Timed),
    reply: ReplyData,
) {
    let finding = Arc::clone(&shared);
    let found =
        tokio::task::spawn_blocking(move || finding.operations.reopen(inode, finding.handles.generation(inode))).await;
    let found = match found.unwrap_or(Err(FsError::Read)) {
        Ok(Reopening::Ready(content)) => Ok(content),
        Ok(Reopening::Wait(wanted)) => {
            let fetcher = shared.operations.fetcher();
            let blob = fetcher.open(*wanted, &fetcher.miss(0, uid), uid).await;
            blob.map(|blob| FileContent::from(blob.file())).map_err(FsError::from)
        }
        Err(FsError::Stale) => Err(FsError::NotOpen),
        Err(error) => Err(error),
    };
    match found {
        Ok(content) => {
            shared.handles.found(inode, content.clone());
            let mut buffer = vec![0; size.min(MAX_REQUEST) as usize];
            let read = tokio::task::spawn_blocking(move || {
                let count = read_full(&content, &mut buffer, offset)?;
                buffer.truncate(count);
                io::Result::Ok(buffer)
            });
            match read.await {
                Ok(Ok(bytes)) => {
                    shared.metrics.bytes_served.add(bytes.len() as u64);
                    reply.data(&bytes);
                }
                _ => reply.error(failed(&mut timed, &FsError::Read)),
            }
        }
        Err(error) => {
            tracing::warn!(%error, inode = inode.0, "what an earlier daemon opened cannot be read any more");
            reply.error(failed(&mut timed, &error));
        }
    }
}

fn read_full(content: &FileContent, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match content.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
