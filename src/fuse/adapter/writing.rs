//! Requests that change something.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use fuser::{RenameFlags, ReplyEmpty};
use rustix::fs::FallocateFlags;

use super::{AdapterState, Operation, Timed, answer};
use crate::fs::FsError;
use crate::fs::attr::{Attr, Validity};
use crate::fs::modify::Renaming;
use crate::fs::replay::Delivery;
use crate::local::{COMPRESSED, Caller, Errno, FileType, OFlags, Replace};
use crate::tree::Inode;

/// Renames a file. Replacing `Packages` may take long to read and write, so that does not happen on
/// a FUSE thread.
pub(super) fn rename(
    shared: &Arc<AdapterState>,
    (caller, asked): (Caller, Delivery),
    from: (Inode, &OsStr),
    to: (Inode, &OsStr),
    flags: RenameFlags,
    reply: ReplyEmpty,
) {
    let timed = Timed::begin(&shared.metrics, Operation::Change);
    let replace = match flags {
        _ if flags.is_empty() => Replace::Yes,
        RenameFlags::RENAME_NOREPLACE => Replace::No,
        _ => return answer(Err(Errno::INVAL.into()), timed, reply),
    };
    let _unpaused = shared.unpaused();
    let renamed = shared.operations.modifier().rename(caller, from, to, replace);
    match asked.renamed(&shared.operations, to, renamed) {
        Ok(Renaming::Done) => reply.ok(),
        Ok(Renaming::Index(new)) => {
            elsewhere(shared, move |shared| {
                let _unpaused = shared.unpaused();
                let replaced = shared.operations.modifier().replace_index(&new);
                shared.note_published();
                if let Err(error) = &replaced {
                    tracing::warn!(%error, "a new index of the local packages is not taken; the one before stays");
                }
                answer(replaced, timed, reply);
            });
        }
        Err(error) => answer(Err(error), timed, reply),
    }
}

pub(super) fn unlink(
    shared: &Arc<AdapterState>,
    (caller, asked): (Caller, Delivery),
    (parent, name): (Inode, &OsStr),
    reply: ReplyEmpty,
) {
    let timed = Timed::begin(&shared.metrics, Operation::Change);
    let (waits, name) = (parent == Inode::ROOT && name == COMPRESSED, name.to_owned());
    let remove = move |shared: &Arc<AdapterState>| {
        let _unpaused = shared.unpaused();
        answer(asked.removed(shared.operations.modifier().unlink(caller, parent, &name)), timed, reply);
    };
    if waits { elsewhere(shared, remove) } else { remove(shared) }
}

/// Runs long work outside the few FUSE threads, which would answer no other request meanwhile.
pub(super) fn elsewhere(shared: &Arc<AdapterState>, work: impl FnOnce(&Arc<AdapterState>) + Send + 'static) {
    let shared = Arc::clone(shared);
    let runtime = shared.runtime.clone();
    runtime.spawn_blocking(move || work(&shared));
}

/// Makes a plain file. Other kinds of files have no place in PKGDIR.
pub(super) fn make_node(
    shared: &AdapterState,
    caller: Caller,
    (parent, name): (Inode, &OsStr),
    mode: u32,
    asked: Delivery,
) -> Result<(Attr, Validity), FsError> {
    if FileType::from_raw_mode(mode) != FileType::RegularFile {
        return Err(Errno::PERM.into());
    }
    let made = shared.operations.modifier().create(caller, parent, name, mode, OFlags::EXCL);
    let (_, attr, validity) = asked.created(&shared.operations, caller, (parent, name), made)?;
    Ok((attr, validity))
}

pub(super) fn write(
    shared: &AdapterState,
    caller: Caller,
    inode: Inode,
    offset: u64,
    data: &[u8],
) -> Result<u32, FsError> {
    let file = writable_file(shared, inode)?;
    caller.charged(|| write_all(&file, offset, data))
}

fn write_all(file: &File, offset: u64, data: &[u8]) -> Result<u32, FsError> {
    let mut written = 0;
    while let Some(rest) = data.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write_at(rest, offset + written as u64) {
            Ok(0) => break,
            Ok(count) => written += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            // Bytes that were written count; the next write returns the error.
            Err(_) if written > 0 => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(written as u32)
}

/// The open file of an inode, for writing. On a read-only mount, even a file that an earlier daemon
/// opened for writing is refused.
fn writable_file(shared: &AdapterState, inode: Inode) -> Result<Arc<File>, FsError> {
    if shared.operations.layer().is_read_only() {
        return Err(FsError::ReadOnly);
    }
    shared.local_file(inode).ok_or(FsError::NotOpen)
}

pub(super) fn allocate(
    shared: &AdapterState,
    caller: Caller,
    inode: Inode,
    (offset, length): (u64, u64),
    mode: i32,
) -> Result<(), FsError> {
    let file = writable_file(shared, inode)?;
    let mode = FallocateFlags::from_bits(mode.cast_unsigned()).ok_or(Errno::OPNOTSUPP)?;
    caller.charged(|| Ok(rustix::fs::fallocate(&file, mode, offset, length)?))
}

pub(super) fn sync(shared: &AdapterState, inode: Inode, datasync: bool) -> Result<(), FsError> {
    match shared.local_file(inode) {
        Some(file) if datasync => Ok(file.sync_data()?),
        Some(file) => Ok(file.sync_all()?),
        // The file is not open and not found, so it cannot have unsaved changes.
        None => Ok(()),
    }
}
