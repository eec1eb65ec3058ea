//! fuser's types around [`Operations`].

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    AccessFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use super::attach::FUSE_HAS_RESEND;
use super::backing::{self, Backing};
use super::handles::Handles;
use super::ledger::{Agreement, Ledger};
use super::ops::{Opening, Operations};
use super::{FsError, TTL, waiting, xattrs};
use crate::fetch::Wanted;
use crate::metrics::{Metrics, Operation, Outcome, Timed};
use crate::tree::{Age, Attributes, Inode, Node, Tree};

/// Requests that the kernel may have under way in the background, reading ahead.
const MAX_BACKGROUND: u16 = 64;
/// Largest request; the kernel makes reads up to this size too.
const MAX_REQUEST: u32 = 1 << 20;
/// What the kernel reads ahead unless it is told otherwise; it takes no more.
const READ_AHEAD: u32 = 128 << 10;
const BLOCK: u32 = 4096;

/// What all requests share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) operations: Operations,
    pub(super) metrics: Arc<Metrics>,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) handles: Handles,
    device: Arc<OwnedFd>,
    agreement: OnceLock<Agreement>,
    /// Held for writing while nothing may be opened or closed.
    pause: RwLock<()>,
    /// Set when the kernel and the configuration allow it.
    passthrough: std::sync::atomic::AtomicBool,
    /// Told when the session ends.
    pub(super) ended: tokio::sync::Notify,
    /// It has ended.
    over: std::sync::atomic::AtomicBool,
}

impl Shared {
    pub(super) fn new(
        operations: Operations,
        metrics: Arc<Metrics>,
        passthrough: bool,
        device: OwnedFd,
        ledger: Ledger,
    ) -> Arc<Self> {
        let passthrough = std::sync::atomic::AtomicBool::new(passthrough);
        let runtime = tokio::runtime::Handle::current();
        Arc::new(Self {
            operations,
            metrics,
            runtime,
            handles: Handles::new(ledger),
            device: Arc::new(device),
            agreement: OnceLock::new(),
            pause: RwLock::new(()),
            passthrough,
            ended: tokio::sync::Notify::new(),
            over: std::sync::atomic::AtomicBool::new(false),
        })
    }

    pub(super) fn device(&self) -> &OwnedFd {
        &self.device
    }

    /// What is agreed on with the kernel; to be asked once the session is there.
    pub(super) fn agreement(&self) -> Agreement {
        self.agreement.get().copied().unwrap_or_default()
    }

    /// Takes up what the daemon before this one left open.
    pub(super) fn inherit(&self) {
        let (records, highest) = self.handles.ledger(Ledger::read);
        let used: std::collections::HashSet<u32> = records.iter().filter_map(|record| record.backing()).collect();
        // What was asked for when it was killed, or not given back yet.
        (1..=highest.saturating_add(16))
            .filter(|id| !used.contains(id))
            .for_each(|id| backing::close(&self.device, id));
        self.handles.inherit(records, |id| Backing::new(id, Arc::downgrade(&self.device)));
    }

    /// Copies of device and ledger, where a next daemon can go on with them.
    pub(super) fn descriptors(&self) -> Option<(OwnedFd, OwnedFd)> {
        if self.agreement().flags & FUSE_HAS_RESEND == 0 {
            return None;
        }
        let ledger = self.handles.ledger(|ledger| std::os::fd::AsFd::as_fd(ledger).try_clone_to_owned()).ok()?;
        Some((self.device.try_clone().ok()?, ledger))
    }

    /// Nothing is opened or closed while the answer lives: what is noted is what the kernel was told.
    pub(super) fn pause(&self) -> impl Sized + '_ {
        self.pause.write().unwrap_or_else(PoisonError::into_inner)
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

    fn answer_open(&self, file: &Arc<File>, attributes: Attributes, reply: ReplyOpen) {
        let back = |file: &File| match self.passes_through().then(|| reply.open_backing(file)) {
            Some(Ok(backing)) => Some(Backing::new(backing.into_raw(), Arc::downgrade(&self.device))),
            Some(Err(error)) => {
                tracing::debug!(%error, "no passthrough for this file");
                // Not permitted now is not permitted later; other reasons may hold for this file only.
                if error.kind() == io::ErrorKind::PermissionDenied {
                    self.stop_passing_through();
                }
                None
            }
            None => None,
        };
        let handle = FileHandle(attributes.inode.0);
        let _unpaused = self.pause.read().unwrap_or_else(PoisonError::into_inner);
        match self.handles.open(file, attributes, back) {
            Some(backing) => {
                self.metrics.passthrough_opens.increase();
                // SAFETY: it is open, of this connection, and `backing` gives it back: `into_raw` makes sure that this does not.
                let id = unsafe { reply.wrap_backing(backing.id()) };
                reply.opened_passthrough(handle, FopenFlags::FOPEN_NOFLUSH, &id);
                let _ = id.into_raw();
            }
            None => reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH),
        }
    }
}

/// The file system as fuser calls it.
#[derive(Debug)]
pub(super) struct Adapter(pub(super) Arc<Shared>);

thread_local! {
    /// Where plain reads go; grows to the largest read of the thread.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Adapter {
    async fn wait_and_answer(
        shared: Arc<Shared>,
        wanted: Wanted,
        attributes: Attributes,
        (tid, mut timed): (u32, Timed),
        reply: ReplyOpen,
    ) {
        let path = wanted.path().to_owned();
        let outcome = tokio::select! {
            outcome = shared.operations.fetcher().open(wanted) => outcome.map_err(FsError::from),
            () = waiting::interrupted(tid) => Err(FsError::Interrupted),
        };
        match outcome {
            Ok(body) => shared.answer_open(body.file(), attributes, reply),
            Err(error) => {
                match error {
                    FsError::Interrupted => shared.metrics.interrupted_opens.increase(),
                    _ => shared.metrics.failed_opens.increase(),
                }
                tracing::debug!(path, tid, %error, "open fails");
                reply.error(failed(&mut timed, &error));
            }
        }
    }
}

impl Adapter {
    /// A read of what a daemon before this one opened, and which is not where that had it: it is the inode's content, from
    /// wherever that can be had now.
    async fn find_and_read(
        shared: Arc<Shared>,
        inode: Inode,
        (offset, size): (u64, u32),
        mut timed: Timed,
        reply: ReplyData,
    ) {
        let found = match shared.operations.open(inode, None) {
            Ok(Opening::Ready(file, _)) => Ok(file),
            Ok(Opening::Wait(wanted, _)) => shared
                .operations
                .fetcher()
                .open(*wanted)
                .await
                .map(|body| Arc::clone(body.file()))
                .map_err(FsError::from),
            Err(FsError::Stale) => Err(FsError::NotOpen),
            Err(error) => Err(error),
        };
        match found {
            Ok(file) => {
                shared.handles.found(inode, &file);
                let mut buffer = vec![0; size.min(MAX_REQUEST) as usize];
                let read = tokio::task::spawn_blocking(move || {
                    let count = read_full(&file, &mut buffer, offset)?;
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
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let mut agreed = config.capabilities() & InitFlags::FUSE_MAX_PAGES;
        for wanted in [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            InitFlags::FUSE_HAS_RESEND,
        ] {
            // An older kernel does without.
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
        let _ = self.0.agreement.set(Agreement { flags: agreed.bits(), minor, readahead: READ_AHEAD });
        let _ = config.set_max_background(MAX_BACKGROUND);
        let _ = config.set_max_write(MAX_REQUEST);
        Ok(())
    }

    fn destroy(&mut self) {
        self.0.over.store(true, std::sync::atomic::Ordering::SeqCst);
        self.0.ended.notify_one();
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut timed = Timed::begin(&self.0.metrics, Operation::Lookup);
        let found =
            name.to_str().ok_or(FsError::NotFound).and_then(|name| self.0.operations.lookup(Inode(parent.0), name));
        match found {
            Ok((attributes, age)) => reply.entry(&ttl(age), &file_attr(attributes), Generation(0)),
            Err(error) => reply.error(failed(&mut timed, &error)),
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let mut timed = Timed::begin(&self.0.metrics, Operation::Getattr);
        let inode = Inode(inode.0);
        let found = self.0.operations.attributes(inode);
        match found.or_else(|error| self.0.handles.attributes(inode).ok_or(error)) {
            Ok(attributes) => reply.attr(&TTL, &file_attr(attributes)),
            Err(error) => reply.error(failed(&mut timed, &error)),
        }
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.0 & libc::O_ACCMODE != libc::O_RDONLY {
            return reply.error(errno(&FsError::ReadOnly));
        }
        let mut timed = Timed::begin(&self.0.metrics, Operation::OpenCached);
        match self.0.operations.open(Inode(inode.0), Some(request.pid())) {
            Ok(Opening::Ready(file, attributes)) => self.0.answer_open(&file, attributes, reply),
            Ok(Opening::Wait(wanted, attributes)) => {
                let (shared, tid) = (Arc::clone(&self.0), request.pid());
                self.0.operations.ahead().missed(&wanted, tid);
                let timed = timed.becoming(Operation::OpenFetched);
                self.0.runtime.spawn(Self::wait_and_answer(shared, *wanted, attributes, (tid, timed), reply));
            }
            Err(error) => reply.error(failed(&mut timed, &error)),
        }
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
        let mut timed = Timed::begin(&self.0.metrics, Operation::Read);
        let Some(file) = self.0.handles.file(Inode(handle.0)) else {
            let shared = Arc::clone(&self.0);
            self.0.runtime.spawn(Self::find_and_read(shared, Inode(handle.0), (offset, size), timed, reply));
            return;
        };
        BUFFER.with_borrow_mut(|buffer| {
            let size = size.min(MAX_REQUEST) as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match buffer.get_mut(..size).map(|buffer| read_full(&file, buffer, offset)) {
                Some(Ok(count)) => {
                    self.0.metrics.bytes_served.add(count as u64);
                    reply.data(buffer.get(..count).unwrap_or_default());
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "reading a cached body");
                    reply.error(failed(&mut timed, &FsError::Read));
                }
                None => reply.error(failed(&mut timed, &FsError::Read)),
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
        let _unpaused = self.0.pause.read().unwrap_or_else(PoisonError::into_inner);
        // In this order: a daemon that is killed in between counts one too many, never one too few.
        reply.ok();
        self.0.handles.release(Inode(handle.0));
    }

    fn opendir(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // With FUSE_NO_OPENDIR_SUPPORT this says: never ask again, and cache listings.
        reply.error(Errno::ENOSYS);
    }

    fn readdir(&self, _request: &Request, inode: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut timed = Timed::begin(&self.0.metrics, Operation::Readdir);
        let (tree, _) = match self.0.operations.directory(Inode(inode.0)) {
            Ok(found) => found,
            Err(error) => return reply.error(failed(&mut timed, &error)),
        };
        for (at, name, attributes) in listing(&tree, Inode(inode.0), offset) {
            if reply.add(INodeNo(attributes.inode.0), at, file_type(attributes.node), name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let mut timed = Timed::begin(&self.0.metrics, Operation::Readdir);
        let (tree, age) = match self.0.operations.directory(Inode(inode.0)) {
            Ok(found) => found,
            Err(error) => return reply.error(failed(&mut timed, &error)),
        };
        for (at, name, attributes) in listing(&tree, Inode(inode.0), offset) {
            let attr = file_attr(attributes);
            // The kernel must not link `.` and `..` into its tree of names.
            let dots = name.starts_with('.') && name.trim_matches('.').is_empty();
            let ttl = if dots { Duration::ZERO } else { ttl(age) };
            if reply.add(attr.ino, at, name, &ttl, &attr, Generation(0)) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        let (bytes, packages) = self.0.operations.totals();
        reply.statfs(bytes.div_ceil(u64::from(BLOCK)), 0, 0, packages, 0, BLOCK, 255, BLOCK);
    }

    fn access(&self, _request: &Request, _inode: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        match mask.contains(AccessFlags::W_OK) {
            true => reply.error(errno(&FsError::ReadOnly)),
            false => reply.ok(),
        }
    }

    fn getxattr(&self, _request: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let timed = Timed::begin(&self.0.metrics, Operation::Xattr);
        let name = name.to_str().unwrap_or_default();
        answer_xattr(xattrs::get(&self.0.operations, Inode(inode.0), name), size, timed, reply);
    }

    fn listxattr(&self, _request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let timed = Timed::begin(&self.0.metrics, Operation::Xattr);
        answer_xattr(xattrs::list(&self.0.operations, Inode(inode.0)), size, timed, reply);
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

    fn fsync(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn flush(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}

/// Names from `offset` on, each with the offset of the one after it: `.`, `..`, then the children.
fn listing(tree: &Tree, inode: Inode, offset: u64) -> impl Iterator<Item = (u64, &str, Attributes)> {
    let itself = tree.node(inode).and_then(|node| tree.attributes(node));
    // Nothing that lists a directory looks at the attributes of `..`.
    let dots = itself.into_iter().flat_map(|own| [(".", own), ("..", own)]);
    let children = tree.list(inode).into_iter().flatten();
    let children = children.filter_map(|(name, node)| Some((name, tree.attributes(node)?)));
    let numbered = (1..).zip(dots.chain(children)).map(|(at, (name, attributes))| (at, name, attributes));
    numbered.skip(usize::try_from(offset).unwrap_or(usize::MAX))
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

/// `size` 0 asks how much there is.
fn answer_xattr(found: Result<Vec<u8>, FsError>, size: u32, mut timed: Timed, reply: ReplyXattr) {
    match found {
        Ok(bytes) if size == 0 => reply.size(u32::try_from(bytes.len()).unwrap_or(u32::MAX)),
        Ok(bytes) if bytes.len() <= size as usize => reply.data(&bytes),
        Ok(_) => reply.error(failed(&mut timed, &FsError::TooSmall)),
        Err(error) => reply.error(failed(&mut timed, &error)),
    }
}

fn errno(error: &FsError) -> Errno {
    Errno::from_i32(error.errno())
}

/// The errno of a request that ends with `error`.
fn failed(timed: &mut Timed, error: &FsError) -> Errno {
    timed.ends(match error {
        FsError::NotFound | FsError::NoAttribute => Outcome::Absent,
        _ => Outcome::Failed,
    });
    errno(error)
}

/// How long the kernel may go on using a name.
fn ttl(age: Age) -> Duration {
    match age {
        Age::Current => TTL,
        Age::Earlier => Duration::ZERO,
    }
}

fn file_type(node: Node) -> FileType {
    match node {
        Node::Directory(_) => FileType::Directory,
        Node::Package(_) | Node::Packages => FileType::RegularFile,
    }
}

fn file_attr(attributes: Attributes) -> FileAttr {
    let Attributes { inode, node, size, mtime, links } = attributes;
    let kind = file_type(node);
    let time = u64::try_from(mtime).map_or(UNIX_EPOCH, |seconds| UNIX_EPOCH + Duration::from_secs(seconds));
    FileAttr {
        ino: INodeNo(inode.0),
        size,
        blocks: size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm: if kind == FileType::Directory { 0o755 } else { 0o644 },
        nlink: links,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}
