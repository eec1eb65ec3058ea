//! fuser's types around [`Operations`].

mod open;
mod types;
mod writing;

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BackingId, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::FsError;
use super::attr::{Attr, Validity};
use super::handles::Handles;
use super::ops::Operations;
use crate::local::{self, Access};
use crate::metrics::Metrics;
use crate::tree::Inode;
use types::{BLOCK, caller, errno, file_attr, file_type, ttl};

/// Requests that the kernel may have under way in the background, reading ahead.
const MAX_BACKGROUND: u16 = 64;
/// Largest request; the kernel makes reads up to this size too.
const MAX_REQUEST: u32 = 1 << 20;

/// What all requests share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) operations: Operations,
    pub(super) metrics: Arc<Metrics>,
    pub(super) runtime: tokio::runtime::Handle,
    handles: Handles<BackingId>,
    /// Set when the kernel and the configuration allow it.
    passthrough: std::sync::atomic::AtomicBool,
    /// Told when the session ends.
    pub(super) ended: tokio::sync::Notify,
    /// It has ended.
    over: std::sync::atomic::AtomicBool,
}

impl Shared {
    pub(super) fn new(operations: Operations, metrics: Arc<Metrics>, passthrough: bool) -> Arc<Self> {
        let passthrough = std::sync::atomic::AtomicBool::new(passthrough);
        let runtime = tokio::runtime::Handle::current();
        Arc::new(Self {
            operations,
            metrics,
            runtime,
            handles: Handles::default(),
            passthrough,
            ended: tokio::sync::Notify::new(),
            over: std::sync::atomic::AtomicBool::new(false),
        })
    }

    pub(super) fn passes_through(&self) -> bool {
        self.passthrough.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Whether the session has ended: what is mounted now, if anything, is somebody else's.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(std::sync::atomic::Ordering::SeqCst)
    }

    fn stop_passing_through(&self) {
        self.passthrough.store(false, std::sync::atomic::Ordering::Relaxed);
    }
}

/// The file system as fuser calls it.
#[derive(Debug)]
pub(super) struct Adapter(pub(super) Arc<Shared>);

thread_local! {
    /// Where plain reads go; grows to the largest read of the thread.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for wanted in [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
        ] {
            // An older kernel does without.
            let _ = config.add_capabilities(wanted);
        }
        let passes = self.0.passes_through()
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(1).is_ok();
        if !passes {
            self.0.stop_passing_through();
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        let _ = config.set_max_write(MAX_REQUEST);
        Ok(())
    }

    fn destroy(&mut self) {
        self.0.over.store(true, std::sync::atomic::Ordering::SeqCst);
        self.0.ended.notify_one();
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer_entry(self.0.operations.lookup(Inode(parent.0), name), reply);
    }

    fn forget(&self, _request: &Request, inode: INodeNo, lookups: u64) {
        self.0.operations.layer().forget(inode.0, lookups);
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let found = self.0.operations.attributes(Inode(inode.0));
        answer_attr(found.or_else(|error| self.open_attributes(Inode(inode.0)).ok_or(error)), reply);
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        open::open(&self.0, caller(request), Inode(inode.0), flags, reply);
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(file) = self.0.handles.file(Inode(handle.0)) else {
            return reply.error(errno(&FsError::NotOpen));
        };
        BUFFER.with_borrow_mut(|buffer| {
            let size = size.min(MAX_REQUEST) as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match buffer.get_mut(..size).map(|buffer| read_full(&file, buffer, offset)) {
                Some(Ok(count)) => reply.data(buffer.get(..count).unwrap_or_default()),
                Some(Err(error)) if local::is_number(handle.0) => reply.error(errno(&error.into())),
                Some(Err(error)) => {
                    tracing::warn!(%error, "reading a cached body");
                    reply.error(errno(&FsError::Read));
                }
                None => reply.error(errno(&FsError::Read)),
            }
        });
    }

    fn release(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        if self.0.handles.release(Inode(handle.0)) {
            self.0.operations.closed(Inode(handle.0));
        }
        reply.ok();
    }

    fn opendir(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // With FUSE_NO_OPENDIR_SUPPORT this says: never ask again, and cache listings.
        reply.error(Errno::ENOSYS);
    }

    fn readdir(&self, _request: &Request, inode: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let told = self.0.operations.list(Inode(inode.0), offset, &mut |at, name, attr, _| {
            reply.add(INodeNo(attr.inode.0), at, file_type(attr.kind), name)
        });
        match told {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let operations = &self.0.operations;
        let told = operations.list(Inode(inode.0), offset, &mut |at, name, attr, validity| {
            // The kernel must not link `.` and `..` into its tree of names.
            let dots = name == "." || name == "..";
            let ttl = if dots { Duration::ZERO } else { ttl(validity) };
            let full = reply.add(INodeNo(attr.inode.0), at, name, &ttl, &file_attr(attr), Generation(attr.generation));
            if !full && !dots && validity != Validity::Told {
                operations.told(Inode(inode.0), name, attr.inode);
            }
            full
        });
        match told {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
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
        let access = Access::from_bits_truncate(mask.bits().cast_unsigned());
        answer(self.0.operations.access(caller(request), Inode(inode.0), access), reply);
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
        let change = types::change(mode, uid, gid, size, (atime, mtime));
        let file = handle.and_then(|handle| self.0.handles.file(Inode(handle.0)));
        let changed = self.0.operations.change(caller(request), Inode(inode.0), file.as_deref(), &change);
        answer_attr(changed, reply);
    }

    fn readlink(&self, _request: &Request, inode: INodeNo, reply: ReplyData) {
        match self.0.operations.read_link(Inode(inode.0)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(&error)),
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
        answer_entry(writing::make_node(&self.0, caller(request), Inode(parent.0), name, mode), reply);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        answer_entry(self.0.operations.make_directory(caller(request), Inode(parent.0), name, mode), reply);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.0.operations.unlink(caller(request), Inode(parent.0), name), reply);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.0.operations.remove_directory(caller(request), Inode(parent.0), name), reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        answer_entry(self.0.operations.symlink(caller(request), Inode(parent.0), name, target), reply);
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
        writing::rename(&self.0, caller(request), from, to, flags, reply);
    }

    fn link(&self, request: &Request, inode: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        let (inode, parent) = (Inode(inode.0), Inode(new_parent.0));
        answer_entry(self.0.operations.link(caller(request), inode, parent, new_name), reply);
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
        open::create(&self.0, caller(request), (Inode(parent.0), name), mode, flags, reply);
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match writing::write(&self.0, Inode(handle.0), offset, data) {
            Ok(count) => reply.written(count),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn fallocate(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        answer(writing::allocate(&self.0, Inode(handle.0), offset, length, mode), reply);
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
        // The kernel then copies by itself.
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
        // Never ask again: callers get EOPNOTSUPP.
        reply.error(Errno::ENOSYS);
    }

    fn removexattr(&self, _request: &Request, _inode: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(&self, _request: &Request, _inode: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        // Never ask again: there are none.
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _request: &Request, _inode: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
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
        // Python asks of every file that it opens whether it is a terminal.
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
        // The kernel then treats a file as one piece without holes.
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _request: &Request, _inode: INodeNo, handle: FileHandle, datasync: bool, reply: ReplyEmpty) {
        answer(writing::sync(&self.0, Inode(handle.0), datasync), reply);
    }

    fn fsyncdir(&self, _request: &Request, inode: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        answer(self.0.operations.sync_directory(Inode(inode.0)), reply);
    }

    fn flush(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}

impl Adapter {
    /// Of a file that is open, and has no name or no generation any more.
    fn open_attributes(&self, inode: Inode) -> Option<(Attr, Validity)> {
        let file = self.0.handles.file(inode)?;
        match self.0.handles.attributes(inode) {
            Some(attributes) => Some((Attr::of_remote(attributes, super::attr::Owner::FILE), Validity::Told)),
            None => {
                let stat = self.0.operations.layer().stat_of(&file).ok()?;
                Some((Attr::of_local(inode, &stat), Validity::Fleeting))
            }
        }
    }
}

fn answer(done: Result<(), FsError>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

fn answer_attr(found: Result<(Attr, Validity), FsError>, reply: ReplyAttr) {
    match found {
        Ok((attr, validity)) => reply.attr(&ttl(validity), &file_attr(&attr)),
        Err(error) => reply.error(errno(&error)),
    }
}

fn answer_entry(found: Result<(Attr, Validity), FsError>, reply: ReplyEntry) {
    match found {
        Ok((attr, validity)) => reply.entry(&ttl(validity), &file_attr(&attr), Generation(attr.generation)),
        Err(error) => reply.error(errno(&error)),
    }
}

fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
