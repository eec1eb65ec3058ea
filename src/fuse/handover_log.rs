//! The handover log: a record for a later daemon of how the connection was set up, and which inodes
//! are open and how.
//!
//! The log is a file in memory, held by the same processes that hold the device. Records have a
//! fixed size and the machine's byte order. The first one is a [`HeaderBytes`] and describes the
//! connection. Each other one is a [`RecordBytes`] and describes an open inode and a user who has
//! it open, or is unused (inode 0). Each record is written by one pwrite(2): a daemon that is
//! killed leaves it whole.
//!
//! After a crash, a count may be too high by opens and closes that were in progress, and is never
//! too low. An inode whose mode is lost would be served in two ways, which its readers would
//! notice.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout};

use crate::local;
use crate::tree::{Attributes, Inode, Node};

const MAGIC: &[u8; 16] = b"binhostfs opened";
/// Changes with the format, and with everything else that a daemon of another version would
/// misread. Examples are the meaning of file handles, the making of inode numbers, and the
/// negotiation with the kernel.
const VERSION: u32 = 4;
const RECORD: usize = 256;
/// Longest path of a file that a record can have.
const MAX_PATH: usize = 192;
/// Most pairs of an open inode and a user that can be recorded at the same time.
pub(super) const MAX_RECORDS: u32 = 65_536;

/// The first record as bytes. `magic`, `version` and `device` have the same place in every version.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct HeaderBytes {
    magic: [u8; 16],
    version: u32,
    minor: u32,
    device: u64,
    flags: u64,
    readahead: u64,
    generation: u64,
    /// Inode of `Packages`.
    packages: u64,
    beneath_device: u64,
    beneath_inode: u64,
    unused: [u8; 176],
}

/// Each other record as bytes. All fields behind `mtime` are zeros if a backing file serves the
/// inode; `length` and `path` are if the path is too long.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RecordBytes {
    inode: u64,
    opens: u64,
    /// Number of the backing file, or 0.
    backing: u32,
    user: u32,
    size: u64,
    mtime: i64,
    file_inode: u64,
    /// In ns.
    file_mtime: i64,
    length: u64,
    path: [u8; MAX_PATH],
}

const _: () = assert!(size_of::<HeaderBytes>() == RECORD && size_of::<RecordBytes>() == RECORD);

/// Result of the negotiation between daemon and kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Negotiated {
    /// The flags of FUSE_INIT in effect.
    pub(super) flags: u64,
    pub(super) minor: u32,
    pub(super) readahead: u32,
}

/// The tree that was published last: its generation, and the inode of its `Packages`, which is
/// derived from the whole content.
pub(super) type PublishedId = (u64, Inode);

/// Device and inode of the lower directory.
pub(super) type Beneath = (u64, u64);

/// How the reads of an open inode are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Served {
    /// By the kernel, from the backing file of this number.
    Backing(u32),
    /// By the daemon, from this file, if it has a name.
    File(Option<LoggedFile>),
}

/// A file's path, with the inode and mtime that it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LoggedFile {
    path: PathBuf,
    inode: u64,
    mtime: i64,
}

impl LoggedFile {
    fn of(file: &File) -> Option<Self> {
        let path = rustix::fs::readlink(format!("/proc/self/fd/{}", raw(file)), Vec::new()).ok()?;
        let path = PathBuf::from(OsStr::from_bytes(path.to_bytes()));
        let metadata = file.metadata().ok()?;
        Some(Self { path, inode: metadata.ino(), mtime: modified(&metadata) })
    }

    /// Opens the file, if it still exists and is the same.
    fn open(&self, size: u64) -> Option<Arc<File>> {
        let file = File::open(&self.path).ok()?;
        let metadata = file.metadata().ok()?;
        let same = (metadata.ino(), modified(&metadata), metadata.len()) == (self.inode, self.mtime, size);
        (same && metadata.is_file()).then(|| Arc::new(file))
    }
}

fn raw(file: &File) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(file)
}

fn modified(metadata: &std::fs::Metadata) -> i64 {
    metadata.mtime().wrapping_mul(1_000_000_000).wrapping_add(metadata.mtime_nsec())
}

/// An open inode and a user: the subject of a record.
pub(super) type Holding = (Inode, u32);

/// An inode that a user has open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OpenRecord {
    pub(super) inode: Inode,
    pub(super) user: u32,
    pub(super) opens: u64,
    /// Size in bytes; for a local file, its inode generation.
    pub(super) size: u64,
    pub(super) mtime: i64,
    pub(super) served: Served,
}

impl OpenRecord {
    pub(super) fn new(user: u32, attributes: Attributes, backing: Option<u32>, file: Option<&File>) -> Self {
        let Attributes { inode, size, mtime, .. } = attributes;
        let served = backing.map_or_else(|| Served::File(file.and_then(LoggedFile::of)), Served::Backing);
        Self { inode, user, opens: 1, size, mtime, served }
    }

    /// The record of a local file, which has only its number and generation. A later daemon finds
    /// the file by these, since its path leads through the mount.
    pub(super) fn of_local((inode, user): Holding, generation: u64, backing: Option<u32>) -> Self {
        let served = backing.map_or(Served::File(None), Served::Backing);
        Self { inode, user, opens: 1, size: generation, mtime: 0, served }
    }

    /// Inode generation of a local file; 0 for other files.
    pub(super) fn generation(&self) -> u64 {
        if local::is_number(self.inode.0) { self.size } else { 0 }
    }

    /// The attributes for `stat`, if they never change.
    pub(super) fn attributes(&self) -> Option<Attributes> {
        // No code uses the kind of file any more.
        (!local::is_number(self.inode.0)).then_some(Attributes {
            inode: self.inode,
            node: Node::Packages,
            size: self.size,
            mtime: self.mtime,
            links: 1,
        })
    }

    pub(super) fn backing(&self) -> Option<u32> {
        match self.served {
            Served::Backing(id) => Some(id),
            Served::File(_) => None,
        }
    }

    /// Opens the file that the daemon read, if it still exists.
    pub(super) fn file(&self) -> Option<Arc<File>> {
        match &self.served {
            Served::File(Some(named)) => named.open(self.size),
            Served::File(None) | Served::Backing(_) => None,
        }
    }

    fn encode(&self) -> RecordBytes {
        let mut bytes = RecordBytes {
            inode: self.inode.0,
            opens: self.opens,
            backing: self.backing().unwrap_or_default(),
            user: self.user,
            size: self.size,
            mtime: self.mtime,
            file_inode: 0,
            file_mtime: 0,
            length: 0,
            path: [0; MAX_PATH],
        };
        if let Served::File(Some(LoggedFile { path, inode, mtime })) = &self.served {
            let path = path.as_os_str().as_bytes();
            (bytes.file_inode, bytes.file_mtime) = (*inode, *mtime);
            if let Some(place) = bytes.path.get_mut(..path.len()) {
                place.copy_from_slice(path);
                bytes.length = path.len() as u64;
            }
        }
        bytes
    }

    fn decode(bytes: &RecordBytes) -> Self {
        let RecordBytes { inode, opens, backing, user, size, mtime, file_inode, file_mtime, length, .. } = *bytes;
        let path = usize::try_from(length).ok().and_then(|length| bytes.path.get(..length));
        let named = path.filter(|path| !path.is_empty()).map(|path| LoggedFile {
            path: PathBuf::from(OsStr::from_bytes(path)),
            inode: file_inode,
            mtime: file_mtime,
        });
        let served = if backing == 0 { Served::File(named) } else { Served::Backing(backing) };
        Self { inode: Inode(inode), user, opens, size, mtime, served }
    }
}

/// The first record: the connection, the published tree and the lower directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LogHeader {
    version: u32,
    device: u64,
    agreement: Negotiated,
    shown: PublishedId,
    beneath: Beneath,
}

impl LogHeader {
    fn encode(&self) -> HeaderBytes {
        let Self { version, device, agreement: Negotiated { flags, minor, readahead }, shown, beneath } = *self;
        HeaderBytes {
            magic: *MAGIC,
            version,
            minor,
            device,
            flags,
            readahead: readahead.into(),
            generation: shown.0,
            packages: shown.1.0,
            beneath_device: beneath.0,
            beneath_inode: beneath.1,
            unused: [0; 176],
        }
    }

    /// `None`: this is no handover log.
    fn decode(bytes: &HeaderBytes) -> Option<Self> {
        let HeaderBytes { version, minor, device, flags, .. } = *bytes;
        let readahead = u32::try_from(bytes.readahead).unwrap_or(u32::MAX);
        (bytes.magic == *MAGIC).then_some(Self {
            version,
            device,
            agreement: Negotiated { flags, minor, readahead },
            shown: (bytes.generation, Inode(bytes.packages)),
            beneath: (bytes.beneath_device, bytes.beneath_inode),
        })
    }
}

/// The handover log and an index of its records.
#[derive(Debug)]
pub(super) struct HandoverLog {
    file: File,
    head: Option<LogHeader>,
    /// Place of each record.
    places: BTreeMap<Holding, u32>,
    free: Vec<u32>,
    records: u32,
}

impl HandoverLog {
    /// Creates an empty log.
    pub(super) fn create() -> io::Result<Self> {
        let file = rustix::fs::memfd_create("binhostfs-handover", rustix::fs::MemfdFlags::CLOEXEC)?;
        Ok(Self { file: file.into(), head: None, places: BTreeMap::new(), free: Vec::new(), records: 0 })
    }

    /// Opens a log that another process has written; an unwritten one is empty.
    pub(super) fn open(file: OwnedFd) -> Self {
        let file = File::from(file);
        let mut head = HeaderBytes::new_zeroed();
        let head = file.read_exact_at(head.as_mut_bytes(), 0).ok().and_then(|()| LogHeader::decode(&head));
        Self { file, head, places: BTreeMap::new(), free: Vec::new(), records: 0 }
    }

    /// Device number of the log's mount; `None` if nothing was mounted yet.
    pub(super) fn device(&self) -> Option<u64> {
        self.head.map(|head| head.device)
    }

    /// The negotiation, if a daemon with the same `VERSION` wrote it.
    pub(super) fn agreement(&self) -> Option<Negotiated> {
        self.head.filter(|head| head.version == VERSION).map(|head| head.agreement)
    }

    pub(super) fn published(&self) -> Option<PublishedId> {
        self.head.map(|head| head.shown)
    }

    /// The lower directory's device and inode.
    pub(super) fn beneath(&self) -> Option<Beneath> {
        self.head.map(|head| head.beneath)
    }

    /// Starts the log of a mount.
    pub(super) fn begin(
        &mut self,
        device: u64,
        agreement: Negotiated,
        shown: PublishedId,
        beneath: Beneath,
    ) -> io::Result<()> {
        let head = LogHeader { version: VERSION, device, agreement, shown, beneath };
        self.file.set_len(RECORD as u64)?;
        self.file.write_all_at(head.encode().as_bytes(), 0)?;
        self.head = Some(head);
        Ok(())
    }

    /// Records the published tree.
    pub(super) fn record_published(&mut self, shown: PublishedId) {
        if let Some(head) = &mut self.head {
            head.shown = shown;
            let bytes = head.encode();
            self.write(0, bytes.as_bytes());
        }
    }

    /// Reads the open inodes, and the highest backing number in any record, used or not.
    pub(super) fn read(&mut self) -> (Vec<OpenRecord>, u32) {
        let (mut open, mut highest) = (Vec::new(), 0);
        let records = self.file.metadata().map_or(0, |metadata| metadata.len() / RECORD as u64);
        self.records = u32::try_from(records.saturating_sub(1)).unwrap_or(u32::MAX).min(MAX_RECORDS);
        for at in 1..=self.records {
            let mut bytes = RecordBytes::new_zeroed();
            let read = self.file.read_exact_at(bytes.as_mut_bytes(), u64::from(at) * RECORD as u64);
            let record = read.ok().map(|()| OpenRecord::decode(&bytes));
            highest = highest.max(record.as_ref().and_then(OpenRecord::backing).unwrap_or_default());
            match record.filter(|record| record.inode != Inode(0) && record.opens > 0) {
                Some(record) if !self.places.contains_key(&(record.inode, record.user)) => {
                    self.places.insert((record.inode, record.user), at);
                    open.push(record);
                }
                _ => self.free.push(at),
            }
        }
        (open, highest)
    }

    /// Records an inode that a user has just opened.
    pub(super) fn opened(&mut self, record: &OpenRecord) {
        let place = self.free.pop().or_else(|| {
            let next = Some(self.records + 1).filter(|next| *next <= MAX_RECORDS)?;
            self.records = next;
            Some(next)
        });
        if let Some(at) = place {
            self.places.insert((record.inode, record.user), at);
            self.write(at, record.encode().as_bytes());
        }
    }

    /// Records how many times a user has an inode open; 0 frees the record.
    pub(super) fn count(&mut self, holding: Holding, opens: u64) {
        let Some(at) = self.places.get(&holding).copied() else { return };
        if opens == 0 {
            self.places.remove(&holding);
            self.free.push(at);
        }
        let place = u64::from(at) * RECORD as u64 + offset_of!(RecordBytes, opens) as u64;
        self.written(self.file.write_all_at(&opens.to_ne_bytes(), place));
    }

    fn write(&self, at: u32, record: &[u8]) {
        self.written(self.file.write_all_at(record, u64::from(at) * RECORD as u64));
    }

    fn written(&self, result: io::Result<()>) {
        if let Err(error) = result {
            tracing::debug!(%error, "noting what is open");
        }
    }
}

impl AsFd for HandoverLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(inode: u64, size: u64) -> Attributes {
        Attributes { inode: Inode(inode), node: Node::Package(3), size, mtime: -7, links: 1 }
    }

    /// The log as a daemon that gets the descriptor sees it.
    fn again(log: &HandoverLog) -> HandoverLog {
        HandoverLog::open(log.file.try_clone().unwrap().into())
    }

    #[test]
    fn a_successor_reads_what_is_open() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("blob"), directory.path().join("other"));
        std::fs::write(&path, "12345").unwrap();
        std::fs::write(&other, "12345").unwrap();
        let file = File::open(&path).unwrap();
        let mut log = HandoverLog::create().unwrap();
        assert_eq!((again(&log).device(), again(&log).agreement()), (None, None));
        let agreement = Negotiated { flags: 1 << 39 | 5, minor: 45, readahead: 131_072 };
        log.begin(77, agreement, (3, Inode(4)), (6, 7)).unwrap();
        log.opened(&OpenRecord::new(7, attributes(10, 5), None, Some(&file)));
        log.opened(&OpenRecord::new(7, attributes(11, 5), Some(9), Some(&file)));
        log.opened(&OpenRecord::new(7, attributes(12, 5), Some(8), Some(&file)));
        log.opened(&OpenRecord::new(u32::MAX, attributes(12, 5), Some(8), Some(&file)));
        log.count((Inode(10), 7), 2);
        log.count((Inode(11), 7), 0);
        log.count((Inode(10), 8), 7);
        log.count((Inode(12), u32::MAX), 3);
        log.record_published((4, Inode(5)));

        let mut next = again(&log);
        assert_eq!(
            (next.device(), next.agreement(), next.published()),
            (Some(77), Some(agreement), Some((4, Inode(5))))
        );
        assert_eq!(next.beneath(), Some((6, 7)));
        let (open, highest) = next.read();
        let noted: Vec<_> = open.iter().map(|record| (record.inode.0, record.user, record.opens)).collect();
        assert_eq!(noted, [(10, 7, 2), (12, 7, 1), (12, u32::MAX, 3)]);
        assert_eq!((open[1].backing(), highest), (Some(8), 9));
        assert_eq!(open[0].attributes().map(|it| (it.size, it.mtime)), Some((5, -7)));
        assert_eq!(open[0].file().unwrap().metadata().unwrap().ino(), file.metadata().unwrap().ino());
        assert!(open[1].file().is_none());
        // The free record is used first.
        next.opened(&OpenRecord::new(7, attributes(13, 5), None, Some(&file)));
        assert_eq!(again(&next).read().0.len(), 4);
        assert_eq!(next.file.metadata().unwrap().len(), 5 * RECORD as u64);

        std::fs::rename(&other, &path).unwrap();
        assert!(open[0].file().is_none(), "another file of that name is not taken for it");
    }

    #[test]
    fn of_another_version_only_the_device_is_known() {
        let log = HandoverLog::create().unwrap();
        let head = LogHeader {
            version: VERSION + 1,
            device: 5,
            agreement: Negotiated::default(),
            shown: (1, Inode(1)),
            beneath: (0, 0),
        };
        log.file.write_all_at(head.encode().as_bytes(), 0).unwrap();
        assert_eq!((again(&log).device(), again(&log).agreement()), (Some(5), None));
        log.file.write_all_at(b"B", 0).unwrap();
        assert_eq!(again(&log).device(), None);
    }

    /// Zeros behind `bytes`, up to the size of a record.
    fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.resize(256, 0);
        bytes
    }

    #[test]
    fn a_daemon_of_this_version_finds_each_byte_in_its_place() {
        // A number of equal bytes is the same in each byte order.
        let word = |byte: u8| u64::from_ne_bytes([byte; 8]);
        let agreement = Negotiated { flags: word(4), minor: 0x0202_0202, readahead: 5 };
        let header = LogHeader {
            version: 0x0101_0101,
            device: word(3),
            agreement,
            shown: (word(6), Inode(word(7))),
            beneath: (word(8), word(9)),
        };
        let readahead = 5_u64.to_ne_bytes();
        let bytes = [b"binhostfs opened", &[1; 4][..], &[2; 4], &[3; 8], &[4; 8], &readahead, &[6; 8], &[7; 8]];
        let bytes = padded([&bytes.concat()[..], &[8; 8], &[9; 8]].concat());
        assert_eq!(header.encode().as_bytes(), bytes);
        assert_eq!(LogHeader::decode(&HeaderBytes::read_from_bytes(&bytes).unwrap()), Some(header));

        let named = LoggedFile { path: PathBuf::from("/a/path"), inode: word(7), mtime: word(8).cast_signed() };
        let record = OpenRecord {
            inode: Inode(word(1)),
            user: 0x0404_0404,
            opens: word(2),
            size: word(5),
            mtime: word(6).cast_signed(),
            served: Served::File(Some(named)),
        };
        let fixed = [&[1; 8][..], &[2; 8], &[0; 4], &[4; 4], &[5; 8], &[6; 8]].concat();
        let bytes = padded([&fixed[..], &[7; 8], &[8; 8], &7_u64.to_ne_bytes(), b"/a/path"].concat());
        assert_eq!(record.encode().as_bytes(), bytes);
        assert_eq!(OpenRecord::decode(&RecordBytes::read_from_bytes(&bytes).unwrap()), record);

        let backed = OpenRecord { served: Served::Backing(0x0303_0303), ..record };
        let bytes = padded([&fixed[..16], &[3; 4], &fixed[20..]].concat());
        assert_eq!(backed.encode().as_bytes(), bytes);
        assert_eq!(OpenRecord::decode(&RecordBytes::read_from_bytes(&bytes).unwrap()), backed);
    }

    #[test]
    fn a_name_that_is_too_long_is_none() {
        let record = OpenRecord {
            served: Served::File(Some(LoggedFile { path: PathBuf::from("x".repeat(RECORD)), inode: 1, mtime: 1 })),
            ..OpenRecord::new(0, attributes(1, 1), Some(1), Some(&tempfile::tempfile().unwrap()))
        };
        let decoded = OpenRecord::decode(&record.encode());
        assert_eq!(decoded.served, Served::File(None));
        assert!(decoded.file().is_none());
    }
}
