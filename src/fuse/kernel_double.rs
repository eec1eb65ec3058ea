//! Test: a kernel that sends requests over a pair of sockets, so that the adapter is tested without
//! a mount. Layouts and numbers: linux/fuse.h.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use fuser::{BackgroundSession, InitFlags, Session};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::adapter::{Adapter, AdapterState};
use super::connection;
use super::handover_log::{HandoverLog, Negotiated};
use crate::config::Prefetch;
use crate::fetch::sample::PackageScene;
use crate::fs::{Filesystem, PublishedTree};
use crate::local::LowerDirectory;
use crate::tree::{Inode, Tree};

/// How long a reply may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of fuse_out_header.
const OUT_HEADER: usize = 16;
/// Bytes of fuse_entry_out.
const ENTRY: usize = 40 + ATTR;
/// Bytes of fuse_attr.
const ATTR: usize = 88;
/// Bytes of fuse_dirent.
const DIRENT: usize = 24;

/// What a request is for.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(super) enum Opcode {
    Lookup = 1,
    Getattr = 3,
    Setattr = 4,
    Readlink = 5,
    Symlink = 6,
    Mknod = 8,
    Mkdir = 9,
    Unlink = 10,
    Rmdir = 11,
    Link = 13,
    Open = 14,
    Read = 15,
    Write = 16,
    Statfs = 17,
    Release = 18,
    Fsync = 20,
    Setxattr = 21,
    Getxattr = 22,
    Listxattr = 23,
    Opendir = 27,
    Readdir = 28,
    Fsyncdir = 30,
    Access = 34,
    Create = 35,
    Destroy = 38,
    Ioctl = 39,
    Fallocate = 43,
    Readdirplus = 44,
    Rename2 = 45,
    Lseek = 46,
}

/// The body of a request.
#[derive(Debug, Default, Clone)]
pub(super) struct RequestBody(Vec<u8>);

impl RequestBody {
    pub(super) fn words(words: &[u32]) -> Self {
        Self(words.iter().flat_map(|word| word.to_ne_bytes()).collect())
    }

    pub(super) fn long(mut self, number: u64) -> Self {
        self.0.extend(number.to_ne_bytes());
        self
    }

    pub(super) fn and(mut self, words: &[u32]) -> Self {
        self.0.extend(Self::words(words).0);
        self
    }

    pub(super) fn name(mut self, name: &str) -> Self {
        self.0.extend(name.as_bytes());
        self.0.push(0);
        self
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}

/// The body of a reply, or its errno.
pub(super) type KernelReply = Result<Vec<u8>, i32>;

pub(super) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub(super) fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The attributes in a reply, and how long they are valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) links: u32,
    /// In seconds.
    pub(super) ttl: u64,
}

impl Found {
    /// From fuse_entry_out.
    pub(super) fn of_entry(bytes: &[u8]) -> Self {
        let found = Self::of_attr(&bytes[40..], long(bytes, 24));
        assert_eq!((long(bytes, 0), long(bytes, 16)), (found.inode, found.ttl), "name and attributes are of one file");
        found
    }

    /// From fuse_attr_out.
    fn of_attr_out(bytes: &[u8]) -> Self {
        Self::of_attr(&bytes[16..], long(bytes, 0))
    }

    fn of_attr(bytes: &[u8], ttl: u64) -> Self {
        Self { inode: long(bytes, 0), size: long(bytes, 8), mode: word(bytes, 60), links: word(bytes, 64), ttl }
    }

    pub(super) fn is_directory(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }
}

/// The kernel's side of a session, and all that the adapter stands on.
pub(super) struct KernelDouble {
    pub(super) state: Arc<AdapterState>,
    pub(super) scene: PackageScene,
    /// The reply to FUSE_INIT.
    pub(super) agreed: Vec<u8>,
    pub(super) runtime: Runtime,
    /// The number of the process that makes the requests.
    pub(super) pid: Cell<u32>,
    place: TempDir,
    socket: UnixDatagram,
    next: Cell<u64>,
    early: RefCell<HashMap<u64, KernelReply>>,
    session: Option<BackgroundSession>,
}

impl KernelDouble {
    /// A mount of three packages that are not cached, with an empty lower directory.
    pub(super) fn new() -> Self {
        Self::with(InitFlags::all(), false)
    }

    /// The same where the kernel offers these flags, and the lower directory may be read-only.
    pub(super) fn with(offered: InitFlags, read_only: bool) -> Self {
        let mut kernel = Self::without_session(read_only);
        let offer = Negotiated { flags: offered.bits(), minor: 41, readahead: 1 << 20 };
        kernel.socket.send(&connection::init(offer)).unwrap();
        let session = connection::connect(Adapter(Arc::clone(&kernel.state)), kernel.state.device()).unwrap();
        kernel.agreed = receive(&kernel.socket).unwrap().split_off(OUT_HEADER);
        kernel.serve(session);
        kernel
    }

    /// The same before a session is started.
    pub(super) fn without_session(read_only: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let inside = runtime.enter();
        let place = TempDir::new().unwrap();
        for directory in ["pkgdir", "scratch"] {
            std::fs::create_dir(place.path().join(directory)).unwrap();
        }
        let scene = PackageScene::new(1, &["one-1", "three-1", "two-1"], 20_000);
        let tree = Tree::of_view(1, Arc::clone(scene.view()));
        let layer = Arc::new(LowerDirectory::open(&place.path().join("pkgdir"), read_only).unwrap());
        let front = Arc::new(PublishedTree::new(Arc::new(tree), layer, place.path().join("scratch")).unwrap());
        let filesystem = Filesystem::new(front, Arc::clone(&scene.fetcher), Prefetch::Off, Duration::ZERO);
        let (socket, device) = UnixDatagram::pair().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let log = HandoverLog::create().unwrap();
        let state = AdapterState::new(filesystem, Arc::clone(&scene.metrics), true, device.into(), log);
        drop(inside);
        let (next, early, pid) = (Cell::new(2), RefCell::default(), Cell::new(std::process::id()));
        Self { state, scene, agreed: Vec::new(), runtime, pid, place, socket, next, early, session: None }
    }

    /// Has a session answer from now on.
    pub(super) fn serve(&mut self, session: Session<Adapter>) {
        self.session = Some(session.spawn().unwrap());
    }

    /// The number of the notification that was sent before anything else.
    pub(super) fn notification(&self) -> u32 {
        let header = receive(&self.socket).unwrap();
        assert_eq!((word(&header, 0) as usize, long(&header, 8)), (OUT_HEADER, 0));
        word(&header, 4)
    }

    /// A path in the lower directory.
    pub(super) fn lower(&self, path: &str) -> std::path::PathBuf {
        self.place.path().join("pkgdir").join(path)
    }

    /// Sends a request of root, and returns its number.
    pub(super) fn send(&self, opcode: Opcode, inode: u64, body: &RequestBody) -> u64 {
        self.send_as(self.next.replace(self.next.get() + 2), opcode, inode, body)
    }

    /// Sends a request with this number.
    pub(super) fn send_as(&self, number: u64, opcode: Opcode, inode: u64, body: &RequestBody) -> u64 {
        let length = (40 + body.0.len()) as u32;
        let header =
            RequestBody::words(&[length, opcode as u32]).long(number).long(inode).and(&[0, 0, self.pid.get(), 0]);
        self.socket.send(&header.bytes(&body.0).0).unwrap();
        number
    }

    /// Waits for the reply to a request.
    pub(super) fn reply(&self, number: u64) -> KernelReply {
        loop {
            if let Some(answer) = self.early.borrow_mut().remove(&number) {
                return answer;
            }
            let mut header = receive(&self.socket).expect("a reply within 20 s");
            let body = header.split_off(OUT_HEADER);
            let error = word(&header, 4).cast_signed();
            let answer = if error == 0 { Ok(body) } else { Err(-error) };
            self.early.borrow_mut().insert(long(&header, 8), answer);
        }
    }

    /// Whether there is no reply to a request yet. Sees all replies that were sent before a request
    /// that is answered at once, whatever is locked.
    pub(super) fn is_unanswered(&self, number: u64) -> bool {
        self.ask(Opcode::Statfs, Inode::ROOT.0, &RequestBody::default()).unwrap();
        !self.early.borrow().contains_key(&number)
    }

    pub(super) fn ask(&self, opcode: Opcode, inode: u64, body: &RequestBody) -> KernelReply {
        self.reply(self.send(opcode, inode, body))
    }

    pub(super) fn lookup(&self, parent: u64, name: &str) -> Result<Found, i32> {
        self.ask(Opcode::Lookup, parent, &RequestBody::default().name(name)).map(|bytes| Found::of_entry(&bytes))
    }

    /// Looks a path up, name by name.
    pub(super) fn walk(&self, path: &str) -> Result<Found, i32> {
        path.split('/').try_fold(self.attr(Inode::ROOT.0)?, |found, name| self.lookup(found.inode, name))
    }

    pub(super) fn attr(&self, inode: u64) -> Result<Found, i32> {
        self.ask(Opcode::Getattr, inode, &RequestBody::words(&[0, 0]).long(0)).map(|bytes| Found::of_attr_out(&bytes))
    }

    /// FUSE_SETATTR of a file that is open, or not: sets its size.
    pub(super) fn truncate(&self, inode: u64, size: u64, handle: Option<u64>) -> Result<Found, i32> {
        const SIZE: u32 = 1 << 3;
        const HANDLE: u32 = 1 << 6;
        let valid = SIZE | if handle.is_some() { HANDLE } else { 0 };
        let body = RequestBody::words(&[valid, 0]).long(handle.unwrap_or_default()).long(size).bytes(&[0; 64]);
        self.ask(Opcode::Setattr, inode, &body).map(|bytes| Found::of_attr_out(&bytes))
    }

    /// Requests an open, and returns the number of the request.
    pub(super) fn opening(&self, inode: u64, flags: i32) -> u64 {
        self.send(Opcode::Open, inode, &RequestBody::words(&[flags.cast_unsigned(), 0]))
    }

    /// Opens; returns the handle and the flags of the reply.
    pub(super) fn open(&self, inode: u64, flags: i32) -> Result<(u64, u32), i32> {
        self.reply(self.opening(inode, flags)).map(|bytes| (long(&bytes, 0), word(&bytes, 8)))
    }

    pub(super) fn read(&self, inode: u64, handle: u64, offset: u64, size: u32) -> KernelReply {
        let body = RequestBody::default().long(handle).long(offset).and(&[size, 0]).long(0).and(&[0, 0]);
        self.ask(Opcode::Read, inode, &body)
    }

    pub(super) fn write(&self, inode: u64, handle: u64, offset: u64, bytes: &[u8]) -> Result<u32, i32> {
        let body = RequestBody::default().long(handle).long(offset).and(&[bytes.len() as u32, 0]).long(0).and(&[0, 0]);
        self.ask(Opcode::Write, inode, &body.bytes(bytes)).map(|bytes| word(&bytes, 0))
    }

    /// Closes a handle. The reply may precede the release itself.
    pub(super) fn release(&self, inode: u64, handle: u64) {
        let body = RequestBody::default().long(handle).and(&[0, 0]).long(0);
        assert_eq!(self.ask(Opcode::Release, inode, &body), Ok(Vec::new()));
    }

    /// Creates a file for reading and writing; returns it with its handle.
    pub(super) fn create(&self, parent: u64, name: &str) -> Result<(Found, u64), i32> {
        let flags = (libc::O_RDWR | libc::O_CREAT | libc::O_EXCL).cast_unsigned();
        let body = RequestBody::words(&[flags, 0o644, 0, 0]).name(name);
        let created = self.ask(Opcode::Create, parent, &body)?;
        Ok((Found::of_entry(&created), long(&created, ENTRY)))
    }

    pub(super) fn rename(&self, from: (u64, &str), to: (u64, &str), flags: u32) -> KernelReply {
        self.ask(Opcode::Rename2, from.0, &RequestBody::default().long(to.0).and(&[flags, 0]).name(from.1).name(to.1))
    }

    /// One page of a listing of `size` bytes: name, inode and next offset of each entry.
    pub(super) fn page(&self, inode: u64, offset: u64, size: u32) -> Vec<(String, u64, u64)> {
        let body = RequestBody::default().long(0).long(offset).and(&[size, 0]).long(0).and(&[0, 0]);
        let bytes = self.ask(Opcode::Readdir, inode, &body).unwrap();
        assert!(bytes.len() <= size as usize);
        dirents(&bytes, 0).into_iter().map(|(name, at)| (name, long(&bytes, at), long(&bytes, at + 8))).collect()
    }

    /// A listing with the attributes of each name.
    pub(super) fn list_plus(&self, inode: u64) -> Vec<(String, Found)> {
        let body = RequestBody::default().long(0).long(0).and(&[32 << 10, 0]).long(0).and(&[0, 0]);
        let bytes = self.ask(Opcode::Readdirplus, inode, &body).unwrap();
        let found = |at: usize| Found::of_entry(&bytes[at - ENTRY..at]);
        dirents(&bytes, ENTRY).into_iter().map(|(name, at)| (name, found(at))).collect()
    }

    /// Ends the session, as umount(2) does.
    pub(super) fn destroy(&mut self) {
        let Some(session) = self.session.take() else { return };
        // Each of the two threads takes one, and answers it.
        for _ in 0..2 {
            self.ask(Opcode::Destroy, 0, &RequestBody::default()).unwrap();
        }
        session.join().unwrap();
    }
}

impl Drop for KernelDouble {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.destroy();
        }
    }
}

/// The next message, with its header.
fn receive(socket: &UnixDatagram) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; 128 << 10];
    let length = socket.recv(&mut bytes)?;
    bytes.truncate(length);
    assert_eq!(word(&bytes, 0) as usize, length);
    Ok(bytes)
}

/// Names of a listing, and where the fuse_dirent of each is. `before`: bytes that precede each.
fn dirents(bytes: &[u8], before: usize) -> Vec<(String, usize)> {
    let (mut all, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let dirent = at + before;
        let length = word(bytes, dirent + 16) as usize;
        let name = &bytes[dirent + DIRENT..dirent + DIRENT + length];
        all.push((String::from_utf8(name.to_vec()).unwrap(), dirent));
        at = dirent + (DIRENT + length).next_multiple_of(8);
    }
    all
}
