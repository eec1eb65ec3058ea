//! The FUSE adapter: fuser's types around [`Filesystem`](crate::fs::Filesystem).

mod open;
mod reading;
mod shared;
#[cfg(test)]
mod tests;
mod types;
mod writing;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::handover_log::Negotiated;
use crate::fetch::Uid;
use crate::fs::attr::{Attr, Owner, Validity};
use crate::fs::{FsError, xattrs};
use crate::local::{self, Access, AttrChange};
use crate::metrics::{Operation, Timed};
use crate::tree::Inode;
pub(super) use shared::AdapterState;
use types::{BLOCK, caller, delivery, failed, file_attr, file_type, ttl};

/// Most requests that the kernel may have in the background, for read-ahead.
const MAX_BACKGROUND: u16 = 64;
/// Largest request in bytes; the kernel makes reads up to this size too.
const MAX_REQUEST: u32 = 1 << 20;
/// The kernel's default read-ahead in bytes, which is also the most that it accepts.
const READ_AHEAD: u32 = 128 << 10;

/// The file system as fuser calls it.
#[derive(Debug)]
pub(super) struct Adapter(pub(super) std::sync::Arc<AdapterState>);

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let mut agreed = config.capabilities() & InitFlags::FUSE_MAX_PAGES;
        for wanted in [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_HAS_RESEND,
        ] {
            // An older kernel lacks some of these; the daemon works without them.
            if config.add_capabilities(wanted).is_ok() {
                agreed |= wanted;
            }
        }
        let passes = self.0.passes_through()
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(1).is_ok();
        if passes {
            agreed |= InitFlags::FUSE_PASSTHROUGH;
        } else {
            self.0.stop_passing_through();
        }
        let minor = config.kernel_abi().1;
        let _ = self.0.agreement.set(Negotiated { flags: agreed.bits(), minor, readahead: READ_AHEAD });
        let _ = config.set_max_background(MAX_BACKGROUND);
        let _ = config.set_max_write(MAX_REQUEST);
        Ok(())
    }

    fn destroy(&mut self) {
        self.0.end();
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let timed = self.timed(Operation::Lookup);
        let _steady = self.0.operations.layer().names_stay();
        answer_entry(self.0.operations.names().lookup(caller(request), Inode(parent.0), name), timed, reply);
    }

    fn forget(&self, _request: &Request, inode: INodeNo, lookups: u64) {
        self.0.operations.layer().forget(inode.0, lookups);
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let timed = self.timed(Operation::Getattr);
        let _steady = self.0.operations.layer().names_stay();
        let mut found = self.0.operations.names().attributes(Inode(inode.0));
        // If the generations differ, another file has the inode number by now.
        let open = self.0.handles.generation(Inode(inode.0)).filter(|_| local::is_number(inode.0));
        if found.as_ref().is_ok_and(|(attr, _)| open.is_some_and(|open| open != attr.generation)) {
            found = Err(FsError::Stale);
        }
        answer_attr(found.or_else(|error| self.open_attributes(Inode(inode.0)).ok_or(error)), timed, reply);
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        open::open(&self.0, caller(request), Inode(inode.0), flags, reply);
    }

    fn read(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        reading::read(&self.0, Inode(inode.0), (offset, size), Uid(request.uid()), reply);
    }

    fn release(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _unpaused = self.0.unpaused();
        // The order matters: a daemon that is killed in between counts one open too many, never one
        // too few.
        reply.ok();
        if self.0.handles.release((Inode(inode.0), types::user_of(handle))) {
            self.0.operations.modifier().closed(Inode(inode.0));
        }
    }

    fn opendir(&self, request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let mut timed = self.timed(Operation::Readdir);
        let _steady = self.0.operations.layer().names_stay();
        // The kernel serves cached listings to all users without a request. So the permission is
        // checked here.
        match self.0.operations.names().may_list(caller(request), Inode(inode.0)) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR),
            Err(error) => reply.error(failed(&mut timed, &error)),
        }
    }

    fn readdir(&self, request: &Request, inode: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let timed = self.timed(Operation::Readdir);
        let _steady = self.0.operations.layer().names_stay();
        let told = self.0.operations.names().list(caller(request), Inode(inode.0), offset, &mut |at, name, attr, _| {
            reply.add(INodeNo(attr.inode.0), at, file_type(attr.kind), name)
        });
        match told {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(failed(&mut { timed }, &error)),
        }
    }

    fn readdirplus(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (operations, timed) = (&self.0.operations, self.timed(Operation::Readdir));
        let _steady = self.0.operations.layer().names_stay();
        let told = operations.names().list(caller(request), Inode(inode.0), offset, &mut |at, name, attr, validity| {
            // The kernel must not link `.` and `..` into its tree of names.
            let dots = name == "." || name == "..";
            let ttl = if dots { Duration::ZERO } else { ttl(validity) };
            let full = reply.add(INodeNo(attr.inode.0), at, name, &ttl, &file_attr(attr), Generation(attr.generation));
            if !full && !dots && validity != Validity::Told {
                operations.names().note_lookup(Inode(inode.0), name, attr.inode);
            }
            full
        });
        match told {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(failed(&mut { timed }, &error)),
        }
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        let operations = &self.0.operations;
        match operations.layer().space() {
            Ok(space) if !operations.layer().is_read_only() => {
                let block = u32::try_from(space.f_frsize).unwrap_or(BLOCK);
                let (blocks, free, available) = (space.f_blocks, space.f_bfree, space.f_bavail);
                reply.statfs(blocks, free, available, space.f_files, space.f_ffree, block, 255, block);
            }
            _ => {
                let (bytes, packages) = operations.totals();
                reply.statfs(bytes.div_ceil(u64::from(BLOCK)), 0, 0, packages, 0, BLOCK, 255, BLOCK);
            }
        }
    }

    fn access(&self, request: &Request, inode: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let named = [
            (AccessFlags::R_OK, Access::READ_OK),
            (AccessFlags::W_OK, Access::WRITE_OK),
            (AccessFlags::X_OK, Access::EXEC_OK),
        ];
        let access = named.into_iter().filter(|(flag, _)| mask.contains(*flag)).map(|(_, access)| access).collect();
        let timed = self.timed(Operation::Getattr);
        let _steady = self.0.operations.layer().names_stay();
        answer(self.0.operations.names().access(caller(request), Inode(inode.0), access), timed, reply);
    }

    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (_unpaused, timed) = (self.0.unpaused(), self.timed(Operation::Change));
        let change = types::change(mode, uid, gid, size, (atime, mtime));
        let (inode, caller) = (Inode(inode.0), caller(request));
        let change = AttrChange { by_writer: self.0.handles.writes((inode, caller.uid)), ..change };
        let file = handle.and_then(|_| self.0.local_file(inode));
        let _steady = self.0.operations.layer().names_stay();
        let open = (file.as_deref(), self.0.handles.generation(inode));
        let mut changed = self.0.operations.modifier().change(caller, inode, open, &change);
        // ESTALE: the file has no name any more, but a caller has it open.
        let nameless = changed.as_ref().is_err_and(|error| error.errno() == libc::ESTALE) && change.size.is_none();
        if let Some(file) = self.0.handles.file(inode).filter(|_| nameless) {
            changed = self.0.operations.modifier().change(caller, inode, (Some(&file), None), &change);
        }
        answer_attr(changed, timed, reply);
    }

    fn readlink(&self, _request: &Request, inode: INodeNo, reply: ReplyData) {
        let mut timed = self.timed(Operation::Getattr);
        let _steady = self.0.operations.layer().names_stay();
        match self.0.operations.names().read_link(Inode(inode.0)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(failed(&mut timed, &error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _device: u32,
        reply: ReplyEntry,
    ) {
        let (_unpaused, timed) = (self.0.unpaused(), self.timed(Operation::Change));
        let _steady = self.0.operations.layer().names_stay();
        let place = (Inode(parent.0), name);
        let made = writing::make_node(&self.0, caller(request), place, mode, delivery(request));
        answer_entry(made, timed, reply);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let (_unpaused, timed) = (self.0.unpaused(), self.timed(Operation::Change));
        let _steady = self.0.operations.layer().names_stay();
        let (operations, parent) = (&self.0.operations, Inode(parent.0));
        let made = operations.modifier().make_directory(caller(request), parent, name, mode);
        let made = delivery(request).made(operations, (parent, name), made, |_, stat| stat.is_directory());
        answer_entry(made, timed, reply);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        writing::unlink(&self.0, (caller(request), delivery(request)), (Inode(parent.0), name), reply);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (_unpaused, timed) = (self.0.unpaused(), self.timed(Operation::Change));
        let _steady = self.0.operations.layer().names_stay();
        let removed = self.0.operations.modifier().remove_directory(caller(request), Inode(parent.0), name);
        answer(delivery(request).removed(removed), timed, reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (_unpaused, timed) = (self.0.unpaused(), self.timed(Operation::Change));
        let _steady = self.0.operations.layer().names_stay();
        let (operations, parent) = (&self.0.operations, Inode(parent.0));
        let made = operations.modifier().symlink(caller(request), parent, name, target);
        let is_it = |path: &Path, _: &local::Stat| {
            operations.layer().read_link(path).is_ok_and(|there| there.as_bytes() == target.as_os_str().as_bytes())
        };
        answer_entry(delivery(request).made(operations, (parent, name), made, is_it), timed, reply);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = ((Inode(parent.0), name), (Inode(new_parent.0), new_name));
        writing::rename(&self.0, (caller(request), delivery(request)), from, to, flags, reply);
    }

    fn link(&self, request: &Request, inode: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        let (_unpaused, timed) = (self.0.unpaused(), self.timed(Operation::Change));
        let _steady = self.0.operations.layer().names_stay();
        let (operations, inode, parent) = (&self.0.operations, Inode(inode.0), Inode(new_parent.0));
        let made = operations.modifier().link(caller(request), inode, parent, new_name);
        let made = delivery(request).made(operations, (parent, new_name), made, |_, stat| stat.number == inode.0);
        answer_entry(made, timed, reply);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        open::create(&self.0, (caller(request), delivery(request)), (Inode(parent.0), name), mode, flags, reply);
    }

    fn write(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut timed = self.timed(Operation::Write);
        match writing::write(&self.0, caller(request), Inode(inode.0), offset, data) {
            Ok(count) => reply.written(count),
            Err(error) => reply.error(failed(&mut timed, &error)),
        }
    }

    fn fallocate(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (_unpaused, timed) = (self.0.unpaused(), self.timed(Operation::Change));
        let allocated = writing::allocate(&self.0, caller(request), Inode(inode.0), (offset, length), mode);
        answer(allocated, timed, reply);
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        _to: INodeNo,
        _to_handle: FileHandle,
        _to_offset: u64,
        _length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // After ENOSYS, the kernel copies by itself.
        reply.error(Errno::ENOSYS);
    }

    fn setxattr(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        // ENOSYS means: never ask again. Callers get EOPNOTSUPP.
        reply.error(Errno::ENOSYS);
    }

    fn removexattr(&self, _request: &Request, _inode: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(&self, _request: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let timed = self.timed(Operation::Xattr);
        let name = name.to_str().unwrap_or_default();
        answer_xattr(xattrs::get(&self.0.operations, Inode(inode.0), name), size, timed, reply);
    }

    fn listxattr(&self, _request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let timed = self.timed(Operation::Xattr);
        answer_xattr(Ok(xattrs::list(&self.0.operations, Inode(inode.0))), size, timed, reply);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_size: u32,
        reply: ReplyIoctl,
    ) {
        // Python checks for every file that it opens whether it is a terminal.
        reply.error(Errno::ENOTTY);
    }

    fn lseek(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        // After ENOSYS, the kernel treats a file as one piece without holes.
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _request: &Request, inode: INodeNo, _handle: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let timed = self.timed(Operation::Write);
        writing::elsewhere(&self.0, move |shared| {
            answer(writing::sync(shared, Inode(inode.0), datasync), timed, reply);
        });
    }

    fn fsyncdir(&self, _request: &Request, inode: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let timed = self.timed(Operation::Write);
        writing::elsewhere(&self.0, move |shared| {
            answer(shared.operations.modifier().sync_directory(Inode(inode.0)), timed, reply);
        });
    }

    fn flush(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}

impl Adapter {
    fn timed(&self, operation: Operation) -> Timed {
        Timed::begin(&self.0.metrics, operation)
    }

    /// Attributes of an open file that no longer has a name or a generation.
    fn open_attributes(&self, inode: Inode) -> Option<(Attr, Validity)> {
        if let Some(attributes) = self.0.handles.attributes(inode) {
            return Some((Attr::of_remote(attributes, Owner::FILE), Validity::Told));
        }
        let file = self.0.handles.file(inode)?;
        let stat = local::stat_of(&file).ok()?;
        Some((Attr::of_local(inode, &stat), Validity::Fleeting))
    }
}

fn answer(done: Result<(), FsError>, mut timed: Timed, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(failed(&mut timed, &error)),
    }
}

fn answer_attr(found: Result<(Attr, Validity), FsError>, mut timed: Timed, reply: ReplyAttr) {
    match found {
        Ok((attr, validity)) => reply.attr(&ttl(validity), &file_attr(&attr)),
        Err(error) => reply.error(failed(&mut timed, &error)),
    }
}

fn answer_entry(found: Result<(Attr, Validity), FsError>, mut timed: Timed, reply: ReplyEntry) {
    match found {
        Ok((attr, validity)) => reply.entry(&ttl(validity), &file_attr(&attr), Generation(attr.generation)),
        Err(error) => reply.error(failed(&mut timed, &error)),
    }
}

/// With `size` 0, the caller asks for the length of the value.
fn answer_xattr(found: Result<Vec<u8>, FsError>, size: u32, mut timed: Timed, reply: ReplyXattr) {
    match found {
        Ok(bytes) if size == 0 => reply.size(u32::try_from(bytes.len()).unwrap_or(u32::MAX)),
        Ok(bytes) if bytes.len() <= size as usize => reply.data(&bytes),
        Ok(_) => reply.error(failed(&mut timed, &FsError::TooSmall)),
        Err(error) => reply.error(failed(&mut timed, &error)),
    }
}
