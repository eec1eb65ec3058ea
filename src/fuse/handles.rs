//! Open files by inode.
//!
//! The kernel requires that all opens of an inode are served alike: by passthrough of one backing
//! file, or by plain reads. So the first open of an inode decides, and its decision stands until
//! the last close.
//!
//! A file handle is the number of the user who opened. The kernel names the inode with each
//! request, but no caller with a close: only the handle shows whose open a close ends. So a later
//! daemon can interpret handles with the records of the [`HandoverLog`].

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::sync::Arc;

use parking_lot::Mutex;

use super::backing::Backing;
use super::handover_log::{HandoverLog, Holding, OpenRecord, PublishedId};
use super::quota::Quota;
use crate::fs::FsError;
use crate::local;
use crate::tree::{Attributes, FileContent, Inode};

#[derive(Debug)]
struct OpenInode {
    /// `None`: an earlier daemon opened the inode, and this one has not had to read it yet, or
    /// cannot find its content.
    content: Option<FileContent>,
    /// Attributes of an inode that never changes; `None` for a local file.
    attributes: Option<Attributes>,
    /// Inode generation of a local file: distinguishes it from a later file with the same number.
    generation: u64,
    /// Whether a caller may have written to the file.
    written: bool,
    /// The kernel's backing number of the file, if reads pass through.
    backing: Option<Arc<Backing>>,
    /// How many times each user has the inode open.
    holders: BTreeMap<u32, u64>,
    /// The holders that have opened the inode for writing. Those of an earlier daemon are missing.
    writers: BTreeSet<u32>,
}

#[derive(Debug)]
struct HandleTable {
    open: HashMap<Inode, OpenInode>,
    log: HandoverLog,
    quota: Quota,
}

#[derive(Debug)]
pub(super) struct Handles(Mutex<HandleTable>);

impl Handles {
    /// An empty table. Opens are recorded in `log` and bounded by `quota`.
    pub(super) fn new(log: HandoverLog, quota: Quota) -> Self {
        Self(Mutex::new(HandleTable { open: HashMap::new(), log, quota }))
    }

    /// Adds the inodes that an earlier daemon left open. `back` makes a `Backing` of its number.
    pub(super) fn inherit(&self, records: Vec<OpenRecord>, back: impl Fn(u32) -> Backing) {
        let HandleTable { open, quota, .. } = &mut *self.0.lock();
        for record in records {
            let entry = open.entry(record.inode).or_insert_with(|| OpenInode {
                content: None,
                attributes: record.attributes(),
                generation: record.generation(),
                written: local::is_number(record.inode.0),
                backing: record.backing().map(|id| Arc::new(back(id))),
                holders: BTreeMap::new(),
                writers: BTreeSet::new(),
            });
            entry.content = entry.content.take().or_else(|| record.file().map(FileContent::from));
            entry.holders.insert(record.user, record.opens);
            quota.inherit(record.user);
        }
    }

    /// Whether the quota lets `user` open an inode, or a new file (`None`). The caller checks this
    /// before it does anything for the open.
    ///
    /// # Errors
    /// Returns the error of [`Quota::check`].
    pub(super) fn admit(&self, user: u32, inode: Option<Inode>) -> Result<(), FsError> {
        let HandleTable { open, quota, .. } = &mut *self.0.lock();
        let held = inode.and_then(|inode| open.get(&inode)).is_some_and(|open| open.holders.contains_key(&user));
        if held { Ok(()) } else { quota.check(user) }
    }

    /// Counts one more open. Only the first open of an inode calls `back` for a backing; `None`
    /// from it means plain reads.
    ///
    /// # Errors
    /// Returns `FsError::Stale` if an earlier file with the same number is still open, from an
    /// earlier daemon. Both would have the same handle, so that readers of the earlier file would
    /// read this one. Returns the error of [`Quota::check`] if the user has too many files open.
    pub(super) fn open(
        &self,
        (inode, user): Holding,
        content: impl Into<FileContent>,
        attributes: Option<Attributes>,
        back: impl FnOnce(&File) -> Option<Backing>,
    ) -> Result<Option<Arc<Backing>>, FsError> {
        let content = content.into();
        let file = content.file().map(AsRef::as_ref);
        let generation = if attributes.is_none() { file.map_or(0, local::generation_of) } else { 0 };
        let HandleTable { open, log, quota } = &mut *self.0.lock();
        let entry = open.entry(inode);
        if let Entry::Occupied(entry) = &entry
            && entry.get().generation != generation
        {
            return Err(FsError::Stale);
        }
        let held = matches!(&entry, Entry::Occupied(entry) if entry.get().holders.contains_key(&user));
        if !held {
            quota.take(user)?;
        }
        let open = entry.or_insert_with(|| {
            let (backing, holders, writers) = (file.and_then(back).map(Arc::new), BTreeMap::new(), BTreeSet::new());
            OpenInode { content: None, attributes, generation, written: false, backing, holders, writers }
        });
        open.content.get_or_insert_with(|| content.clone());
        let opens = open.holders.entry(user).or_default();
        *opens += 1;
        if held {
            log.count((inode, user), *opens);
        } else {
            let id = open.backing.as_ref().map(|backing| backing.id());
            log.opened(&match attributes {
                Some(attributes) => OpenRecord::new(user, attributes, id, file),
                None => OpenRecord::of_local((inode, user), generation, id),
            });
        }
        Ok(open.backing.clone())
    }

    /// Marks an inode as opened for writing.
    pub(super) fn written(&self, (inode, user): Holding) {
        if let Some(open) = self.0.lock().open.get_mut(&inode) {
            open.written = true;
            open.writers.insert(user);
        }
    }

    /// Whether the user has opened the inode for writing since it last held none of it.
    pub(super) fn writes(&self, (inode, user): Holding) -> bool {
        self.0.lock().open.get(&inode).is_some_and(|open| open.writers.contains(&user))
    }

    /// Counts one open less. Returns `true` after the last close of a file that may have been
    /// written to.
    pub(super) fn release(&self, (inode, user): Holding) -> bool {
        let mut table = self.0.lock();
        let HandleTable { open, log, quota } = &mut *table;
        let Entry::Occupied(mut entry) = open.entry(inode) else { return false };
        let OpenInode { holders, writers, .. } = entry.get_mut();
        let Some(opens) = holders.get_mut(&user) else { return false };
        *opens = opens.saturating_sub(1);
        log.count((inode, user), *opens);
        if *opens == 0 {
            holders.remove(&user);
            writers.remove(&user);
            quota.give_back(user);
        }
        if holders.is_empty() {
            let last = entry.remove();
            // Closing a backing is a system call, so it happens without the lock.
            drop(table);
            return last.written;
        }
        false
    }

    pub(super) fn content(&self, inode: Inode) -> Option<FileContent> {
        self.0.lock().open.get(&inode)?.content.clone()
    }

    /// The file of an open inode, if its content is one.
    pub(super) fn file(&self, inode: Inode) -> Option<Arc<File>> {
        self.content(inode)?.file().cloned()
    }

    /// Sets the content of an open inode.
    pub(super) fn found(&self, inode: Inode, content: impl Into<FileContent>) {
        if let Some(open) = self.0.lock().open.get_mut(&inode) {
            open.content = Some(content.into());
        }
    }

    /// Attributes of an open file, also after its generation is gone.
    pub(super) fn attributes(&self, inode: Inode) -> Option<Attributes> {
        self.0.lock().open.get(&inode).and_then(|open| open.attributes)
    }

    /// Inode generation of an open local file.
    pub(super) fn generation(&self, inode: Inode) -> Option<u64> {
        self.0.lock().open.get(&inode).map(|open| open.generation)
    }

    /// Calls `act` with the handover log.
    pub(super) fn with_log<T>(&self, act: impl FnOnce(&mut HandoverLog) -> T) -> T {
        act(&mut self.0.lock().log)
    }

    /// Records the published tree in the handover log.
    pub(super) fn record_published(&self, shown: PublishedId) {
        self.with_log(|log| log.record_published(shown));
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::sync::Weak;

    use super::*;
    use crate::tree::Node;

    const USER: u32 = 7;

    fn empty() -> Handles {
        Handles::new(HandoverLog::create().unwrap(), Quota::of(1024))
    }

    fn backing(id: u32) -> Backing {
        Backing::new(id, Weak::new())
    }

    fn attributes(inode: u64) -> Attributes {
        Attributes { inode: Inode(inode), node: Node::Packages, size: 0, mtime: 1, links: 1 }
    }

    fn opened(
        handles: &Handles,
        file: &Arc<File>,
        attributes: Attributes,
        back: impl FnOnce(&File) -> Option<Backing>,
    ) -> Option<Arc<Backing>> {
        handles.open((attributes.inode, USER), file, Some(attributes), back).unwrap()
    }

    #[test]
    fn the_first_open_decides_until_the_last_close() {
        let handles = empty();
        let file = Arc::new(tempfile::tempfile().unwrap());
        let open = |back: Option<u32>| opened(&handles, &file, attributes(5), |_| back.map(backing)).map(|b| b.id());
        assert_eq!(open(Some(1)), Some(1));
        assert_eq!(open(None), Some(1));
        handles.written((Inode(5), USER));
        assert!(handles.writes((Inode(5), USER)) && !handles.writes((Inode(5), 8)));
        assert!(!handles.release((Inode(5), USER)));
        assert!(handles.file(Inode(5)).is_some() && handles.attributes(Inode(5)).is_some());
        assert!(handles.release((Inode(5), USER)));
        assert!(handles.file(Inode(5)).is_none() && !handles.writes((Inode(5), USER)));
        assert_eq!(open(None), None);
        assert_eq!(open(Some(2)), None);
        handles.release((Inode(77), USER));
    }

    #[test]
    fn and_for_a_later_daemon_too() {
        let handles = empty();
        let file = Arc::new(tempfile::NamedTempFile::new().unwrap());
        let blob = Arc::new(File::open(file.path()).unwrap());
        opened(&handles, &blob, attributes(5), |_| Some(backing(1)));
        opened(&handles, &blob, attributes(6), |_| None);
        opened(&handles, &blob, attributes(6), |_| None);
        opened(&handles, &blob, attributes(7), |_| None);
        handles.release((Inode(7), USER));
        let local = Inode(1 << 62 | 5);
        handles.open((local, USER), &blob, None, |_| None).unwrap();

        let mut log = HandoverLog::open(handles.with_log(|log| log.as_fd().try_clone_to_owned()).unwrap());
        let (records, _) = log.read();
        let later = Handles::new(log, Quota::of(1024));
        later.inherit(records, backing);
        assert!(later.file(Inode(5)).is_none() && later.file(Inode(6)).is_some() && later.file(Inode(7)).is_none());
        let open =
            |inode, back: Option<u32>| opened(&later, &blob, attributes(inode), |_| back.map(backing)).map(|b| b.id());
        assert_eq!((open(5, Some(9)), open(6, Some(9)), open(7, Some(9))), (Some(1), None, Some(9)));
        (0..3).for_each(|_| _ = later.release((Inode(6), USER)));
        assert!(later.generation(local) == handles.generation(local) && later.generation(local) != Some(0));
        // The inode number belongs to another file by now.
        let next = Arc::new(tempfile::tempfile().unwrap());
        assert!(matches!(later.open((local, USER), &next, None, |_| None), Err(FsError::Stale)));
        // A local file can change, and its path leads through the mount.
        assert!(later.file(local).is_none() && later.attributes(local).is_none() && later.release((local, USER)));
        assert!(later.attributes(Inode(6)).is_none());
    }

    #[test]
    fn each_has_what_it_opened_itself_also_later() {
        let handles = empty();
        let file = Arc::new(tempfile::tempfile().unwrap());
        let open = |handles: &Handles, inode, user| {
            let attributes = attributes(inode);
            handles.open((attributes.inode, user), &file, Some(attributes), |_| None).map(drop)
        };
        for inode in 1..=256 {
            open(&handles, inode, USER).unwrap();
        }
        let refused = |handles: &Handles| {
            let (opened, admitted) = (open(handles, 300, USER), handles.admit(USER, Some(Inode(300))));
            assert!(matches!((opened, admitted), (Err(FsError::TooManyOpen), Err(FsError::TooManyOpen))));
            assert!(matches!(handles.admit(USER, None), Err(FsError::TooManyOpen)));
            assert!(handles.file(Inode(300)).is_none());
        };
        refused(&handles);
        // A user can open the same inode twice, and another user's close does not count as the
        // first user's.
        assert!(handles.admit(USER, Some(Inode(1))).is_ok());
        (0..2).for_each(|_| open(&handles, 1, USER).unwrap());
        open(&handles, 1, 8).unwrap();
        assert!(!handles.release((Inode(1), 8)) && !handles.release((Inode(1), 8)) && !handles.release((Inode(1), 9)));
        refused(&handles);

        let mut log = HandoverLog::open(handles.with_log(|log| log.as_fd().try_clone_to_owned()).unwrap());
        let (records, _) = log.read();
        let later = Handles::new(log, Quota::of(1024));
        later.inherit(records, backing);
        refused(&later);
        (0..3).for_each(|_| assert!(later.admit(USER, None).is_err() && !later.release((Inode(1), USER))));
        assert!(later.attributes(Inode(1)).is_none());
        open(&later, 300, USER).unwrap();
    }
}
