//! Requests that open files: open(2) and creat(2).

use std::ffi::OsStr;
use std::fs::File;
use std::sync::Arc;

use fuser::{FopenFlags, Generation, OpenFlags, ReplyCreate, ReplyOpen};

use super::super::interrupt;
use super::AdapterState;
use super::types::{errno, failed, file_attr, handle_of, ttl};
use crate::fetch::{Miss, Outcome, PackageRef, Uid};
use crate::fs::FsError;
use crate::fs::filesystem::OpenOutcome;
use crate::fs::namespace::InodeTarget;
use crate::fs::replay::Delivery;
use crate::local::{self, COMPRESSED, Caller, INDEX, OFlags};
use crate::metrics::{Operation, Timed};
use crate::tree::{Attributes, FileContent, Inode, Node, Tree};

/// The purpose of an open.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    /// The caller reads the package; these are its attributes.
    Read(Attributes),
    /// The package is copied to the lower directory, where the caller can write to it.
    Copy,
}

pub(super) fn open(shared: &Arc<AdapterState>, caller: Caller, inode: Inode, flags: OpenFlags, reply: ReplyOpen) {
    let mut timed = Timed::begin(&shared.metrics, Operation::OpenCached);
    let flags = OFlags::from_bits_retain(flags.0.cast_unsigned());
    let writes = flags.intersects(OFlags::WRONLY | OFlags::RDWR);
    if let Err(error) = shared.handles.admit(caller.uid, Some(inode)) {
        return reply.error(failed(&mut timed, &error));
    }
    let user = caller.uid;
    let mut steady = Some(shared.operations.layer().names_stay());
    let opened = match shared.operations.names().place(inode) {
        Ok(InodeTarget::Local(..))
            if (writes || flags.contains(OFlags::TRUNC)) && shared.operations.layer().is_read_only() =>
        {
            Err(FsError::ReadOnly)
        }
        Ok(InodeTarget::Local(path, stat)) => match shared.operations.layer().open_file(caller, &path, &stat, flags) {
            Ok(file) => {
                drop(steady);
                return shared.answer_open((inode, user), Arc::new(file), None, writes, reply);
            }
            Err(error) => Err(error.into()),
        },
        Ok(InodeTarget::Remote(tree, Node::Package(at))) if writes => {
            drop(steady);
            return rewrite(shared, caller, (&tree, at), flags, timed, reply);
        }
        Ok(InodeTarget::Remote(_, Node::Packages) | InodeTarget::Compressed(..)) if writes => Err(FsError::Index),
        Ok(InodeTarget::Remote(tree, node)) => {
            // Nothing renames it, and the caller and the cache are looked at next.
            steady = None;
            let may = if matches!(node, Node::Packages) {
                shared.operations.names().may_read_index(caller, INDEX)
            } else {
                Ok(())
            };
            may.and_then(|()| shared.operations.open(&tree, node, Some(caller.pid)))
        }
        Ok(InodeTarget::Compressed(file, attributes)) => {
            steady = None;
            let may = shared.operations.names().may_read_index(caller, COMPRESSED);
            may.map(|()| OpenOutcome::Ready(file.into(), attributes))
        }
        Ok(InodeTarget::Directory(_)) => Err(FsError::IsADirectory),
        // A local file that has lost its name but is open: opened again through /proc.
        Err(error) => match shared.handles.file(inode).filter(|_| local::is_number(inode.0)) {
            Some(file) => match shared.operations.layer().may_open_again(caller, &file, flags) {
                Ok(()) => {
                    drop(steady);
                    return shared.answer_open((inode, user), &file, None, writes, reply);
                }
                Err(error) => Err(error.into()),
            },
            None => Err(error),
        },
    };
    drop(steady);
    match opened {
        Ok(OpenOutcome::Ready(content, attributes)) => {
            shared.answer_open((inode, user), content, Some(attributes), false, reply);
        }
        Ok(OpenOutcome::Check(wanted, attributes)) => {
            let miss = shared.operations.fetcher().miss(caller.pid, Uid(caller.uid));
            let (shared, caller) = (Arc::clone(shared), (caller, timed));
            let runtime = shared.runtime.clone();
            runtime.spawn(wait_and_answer(shared, (*wanted, miss), Purpose::Read(attributes), caller, reply));
        }
        Ok(OpenOutcome::Wait(wanted, absence, attributes)) => {
            let miss = shared.operations.fetcher().miss(caller.pid, Uid(caller.uid)).after(absence);
            shared.operations.ahead().missed(&wanted, &miss);
            let timed = timed.becoming(Operation::OpenFetched);
            let (shared, caller) = (Arc::clone(shared), (caller, timed));
            let runtime = shared.runtime.clone();
            runtime.spawn(wait_and_answer(shared, (*wanted, miss), Purpose::Read(attributes), caller, reply));
        }
        Err(error) => reply.error(failed(&mut timed, &error)),
    }
}

/// Opens a binhost's package for writing: puts a local file in front of it and answers ESTALE, so
/// that the kernel looks the name up again.
fn rewrite(
    shared: &Arc<AdapterState>,
    caller: Caller,
    (tree, at): (&Arc<Tree>, u32),
    flags: OFlags,
    mut timed: Timed,
    reply: ReplyOpen,
) {
    let wanted = shared.operations.modifier().check_rewriting(caller).and_then(|()| shared.operations.wanted(tree, at));
    match wanted {
        Ok(wanted) if flags.contains(OFlags::TRUNC) => {
            let _unpaused = shared.unpaused();
            let made = shared.operations.modifier().leave_placeholder(wanted.path(), None);
            reply.error(failed(&mut timed, &made.err().unwrap_or(FsError::Stale)));
        }
        Ok(wanted) => {
            let timed = timed.becoming(Operation::OpenFetched);
            let (shared, caller) = (Arc::clone(shared), (caller, timed));
            let (runtime, miss) =
                (shared.runtime.clone(), shared.operations.fetcher().miss(caller.0.pid, Uid(caller.0.uid)));
            runtime.spawn(wait_and_answer(shared, (wanted, miss), Purpose::Copy, caller, reply));
        }
        Err(error) => reply.error(failed(&mut timed, &error)),
    }
}

/// Checks the merge plan that the caller follows, then opens the blob.
async fn checked_and_opened(shared: &AdapterState, wanted: PackageRef, miss: &Miss, uid: Uid) -> Outcome {
    let ahead = shared.operations.ahead();
    ahead.check_plan(&wanted, miss).await?;
    let opened = shared.operations.fetcher().open(wanted.clone(), miss, uid).await;
    ahead.found(&wanted, miss).await;
    opened
}

async fn wait_and_answer(
    shared: Arc<AdapterState>,
    (wanted, miss): (PackageRef, Miss),
    purpose: Purpose,
    (caller, mut timed): (Caller, Timed),
    reply: ReplyOpen,
) {
    let (path, mtime, tid) = (wanted.path().to_owned(), wanted.record().mtime, caller.pid);
    let outcome = tokio::select! {
        outcome = checked_and_opened(&shared, wanted, &miss, Uid(caller.uid)) => outcome.map_err(FsError::from),
        () = interrupt::interrupted(&shared.waiting, tid, caller.uid) => Err(FsError::Interrupted),
    };
    match (outcome, purpose) {
        (Ok(blob), Purpose::Read(attributes)) => {
            let holding = (attributes.inode, caller.uid);
            shared.answer_open(holding, blob.file(), Some(attributes), false, reply);
        }
        (Ok(blob), Purpose::Copy) => {
            let runtime = shared.runtime.clone();
            runtime.spawn_blocking(move || {
                let _unpaused = shared.unpaused();
                let copied = shared.operations.modifier().leave_placeholder(&path, Some((blob.file(), mtime)));
                reply.error(failed(&mut timed, &copied.err().unwrap_or(FsError::Stale)));
            });
        }
        (Err(error), _) => {
            match error {
                FsError::Interrupted => shared.metrics.interrupted_opens.increase(),
                _ => shared.metrics.failed_opens.increase(),
            }
            tracing::debug!(path, tid, %error, "open fails");
            reply.error(failed(&mut timed, &error));
        }
    }
}

pub(super) fn create(
    shared: &AdapterState,
    (caller, asked): (Caller, Delivery),
    (parent, name): (Inode, &OsStr),
    mode: u32,
    flags: i32,
    reply: ReplyCreate,
) {
    let mut timed = Timed::begin(&shared.metrics, Operation::Change);
    let flags = OFlags::from_bits_retain(flags.cast_unsigned());
    let _unpaused = shared.unpaused();
    let made = shared.handles.admit(caller.uid, None);
    let _steady = shared.operations.layer().names_stay();
    let made = made.and_then(|()| shared.operations.modifier().create(caller, parent, name, mode, flags));
    match asked.created(&shared.operations, caller, (parent, name), made) {
        Ok((file, attr, validity)) => {
            let (ttl, attributes, generation) = (ttl(validity), file_attr(&attr), Generation(attr.generation));
            let handle = handle_of(caller.uid);
            let back = |file: &File| shared.back(|| reply.open_backing(file));
            let backing = match shared.handles.open((attr.inode, caller.uid), Arc::new(file), None, back) {
                Ok(backing) => backing,
                Err(error) => return reply.error(failed(&mut timed, &error)),
            };
            shared.handles.written((attr.inode, caller.uid));
            match backing {
                Some(backing) => {
                    shared.metrics.passthrough_opens.increase();
                    let flags = FopenFlags::FOPEN_NOFLUSH;
                    // SAFETY: as in `answer_open`.
                    let id = unsafe { reply.wrap_backing(backing.id()) };
                    reply.created_passthrough(&ttl, &attributes, generation, handle, flags, &id);
                    let _ = id.into_raw();
                }
                None => reply.created(&ttl, &attributes, generation, handle, FopenFlags::FOPEN_NOFLUSH),
            }
        }
        Err(error) => reply.error(failed(&mut timed, &error)),
    }
}

impl AdapterState {
    /// Answers an open. `attributes` are those of a file that never changes; `None` for a local
    /// file.
    fn answer_open(
        &self,
        (inode, user): (Inode, u32),
        content: impl Into<FileContent>,
        attributes: Option<Attributes>,
        writes: bool,
        reply: ReplyOpen,
    ) {
        let handle = handle_of(user);
        let _unpaused = self.unpaused();
        let backing = match self
            .handles
            .open((inode, user), content, attributes, |file| self.back(|| reply.open_backing(file)))
        {
            Ok(backing) => backing,
            Err(error) => return reply.error(errno(&error)),
        };
        if writes {
            self.handles.written((inode, user));
        }
        // At each open, the kernel drops cached pages of a file that can change.
        let keep = if attributes.is_some() { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() };
        match backing {
            Some(backing) => {
                self.metrics.passthrough_opens.increase();
                // SAFETY: the backing is open and belongs to this connection. `backing` closes it;
                // `into_raw` makes sure that `id` does not.
                let id = unsafe { reply.wrap_backing(backing.id()) };
                reply.opened_passthrough(handle, FopenFlags::FOPEN_NOFLUSH, &id);
                let _ = id.into_raw();
            }
            None => reply.opened(handle, keep | FopenFlags::FOPEN_NOFLUSH),
        }
    }
}
