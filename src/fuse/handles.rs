//! Open files by inode.
//!
//! The kernel demands that all opens of an inode are served alike, passthrough of one backing file or plain reads. So the
//! first open of an inode decides, and the decision stands until the last close. File handles are the inode numbers: a
//! later daemon can tell what they mean, with what the [`Ledger`] says of them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::FsError;
use super::backing::Backing;
use super::ledger::{Ledger, OpenRecord, Shown};
use crate::local;
use crate::tree::{Attributes, Inode};

#[derive(Debug)]
struct OpenInode {
    /// `None`: a daemon before this one opened it, and this one has not had to read it yet, or cannot find it.
    file: Option<Arc<File>>,
    /// Of something that never changes.
    attributes: Option<Attributes>,
    /// Of a local file: tells it from one that has its number later.
    generation: u64,
    /// Somebody may have written to it.
    written: bool,
    /// The kernel's name for the file, where reads pass through.
    backing: Option<Arc<Backing>>,
    opens: u64,
}

#[derive(Debug)]
struct Table {
    open: HashMap<Inode, OpenInode>,
    ledger: Ledger,
}

#[derive(Debug)]
pub(super) struct Handles(Mutex<Table>);

impl Handles {
    /// Nothing is open; what will be is noted in `ledger`.
    pub(super) fn new(ledger: Ledger) -> Self {
        Self(Mutex::new(Table { open: HashMap::new(), ledger }))
    }

    /// What a daemon before this one left open. `back` makes a backing of its number.
    pub(super) fn inherit(&self, records: Vec<OpenRecord>, back: impl Fn(u32) -> Backing) {
        let mut table = self.lock();
        for record in records {
            let backing = record.backing().map(|id| Arc::new(back(id)));
            let written = local::is_number(record.inode.0);
            let (file, attributes) = (record.file(), record.attributes());
            let (generation, opens) = (record.generation(), record.opens);
            let open = OpenInode { file, attributes, generation, written, backing, opens };
            table.open.insert(record.inode, open);
        }
    }

    /// Counts one more open. `back` is asked for a backing only by the first one; `None` from it means plain reads.
    ///
    /// # Errors
    /// A file of that number that is gone is still open, of a daemon before this one. Its handle is the same, so that who has it
    /// would get at this file.
    pub(super) fn open(
        &self,
        inode: Inode,
        file: &Arc<File>,
        attributes: Option<Attributes>,
        back: impl FnOnce(&File) -> Option<Backing>,
    ) -> Result<Option<Arc<Backing>>, FsError> {
        let generation = if attributes.is_none() { local::generation_of(file) } else { 0 };
        let mut table = self.lock();
        let Table { open, ledger } = &mut *table;
        match open.entry(inode) {
            Entry::Occupied(mut entry) => {
                let open = entry.get_mut();
                if open.generation != generation {
                    return Err(FsError::Stale);
                }
                open.opens += 1;
                open.file.get_or_insert_with(|| Arc::clone(file));
                ledger.count(inode, open.opens);
                Ok(open.backing.clone())
            }
            Entry::Vacant(entry) => {
                let backing = back(file).map(Arc::new);
                let id = backing.as_ref().map(|backing| backing.id());
                ledger.opened(&match attributes {
                    Some(attributes) => OpenRecord::new(attributes, id, file),
                    None => OpenRecord::of_local(inode, generation, id),
                });
                let file = Some(Arc::clone(file));
                let open = OpenInode { file, attributes, generation, written: false, backing, opens: 1 };
                Ok(entry.insert(open).backing.clone())
            }
        }
    }

    /// Somebody opens it to write.
    pub(super) fn written(&self, inode: Inode) {
        if let Some(open) = self.lock().open.get_mut(&inode) {
            open.written = true;
        }
    }

    /// Counts one open less. `true`: nobody has it open any more, and somebody may have written to it.
    pub(super) fn release(&self, inode: Inode) -> bool {
        let mut table = self.lock();
        let Table { open, ledger } = &mut *table;
        let Entry::Occupied(mut entry) = open.entry(inode) else { return false };
        let opens = entry.get().opens.saturating_sub(1);
        entry.get_mut().opens = opens;
        ledger.count(inode, opens);
        if opens == 0 {
            let last = entry.remove();
            // Closing a backing is a system call: not under the lock.
            drop(table);
            return last.written;
        }
        false
    }

    pub(super) fn file(&self, inode: Inode) -> Option<Arc<File>> {
        self.lock().open.get(&inode)?.file.clone()
    }

    /// `file` is what an open inode has.
    pub(super) fn found(&self, inode: Inode, file: &Arc<File>) {
        if let Some(open) = self.lock().open.get_mut(&inode) {
            open.file = Some(Arc::clone(file));
        }
    }

    /// Of a file that is open, also when its generation is gone.
    pub(super) fn attributes(&self, inode: Inode) -> Option<Attributes> {
        self.lock().open.get(&inode).and_then(|open| open.attributes)
    }

    /// Of a local file that is open.
    pub(super) fn generation(&self, inode: Inode) -> Option<u64> {
        self.lock().open.get(&inode).map(|open| open.generation)
    }

    /// Does something with the ledger.
    pub(super) fn ledger<T>(&self, act: impl FnOnce(&mut Ledger) -> T) -> T {
        act(&mut self.lock().ledger)
    }

    /// What is shown from now on.
    pub(super) fn show(&self, shown: Shown) {
        self.ledger(|ledger| ledger.show(shown));
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::sync::Weak;

    use super::*;
    use crate::tree::Node;

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
        handles.open(attributes.inode, file, Some(attributes), back).unwrap()
    }

    #[test]
    fn the_first_open_decides_until_the_last_close() {
        let handles = Handles::new(Ledger::create().unwrap());
        let file = Arc::new(tempfile::tempfile().unwrap());
        let open = |back: Option<u32>| opened(&handles, &file, attributes(5), |_| back.map(backing)).map(|b| b.id());
        assert_eq!(open(Some(1)), Some(1));
        assert_eq!(open(None), Some(1));
        handles.written(Inode(5));
        assert!(!handles.release(Inode(5)));
        assert!(handles.file(Inode(5)).is_some() && handles.attributes(Inode(5)).is_some());
        assert!(handles.release(Inode(5)));
        assert!(handles.file(Inode(5)).is_none());
        assert_eq!(open(None), None);
        assert_eq!(open(Some(2)), None);
        handles.release(Inode(77));
    }

    #[test]
    fn and_for_a_later_daemon_too() {
        let handles = Handles::new(Ledger::create().unwrap());
        let file = Arc::new(tempfile::NamedTempFile::new().unwrap());
        let body = Arc::new(File::open(file.path()).unwrap());
        opened(&handles, &body, attributes(5), |_| Some(backing(1)));
        opened(&handles, &body, attributes(6), |_| None);
        opened(&handles, &body, attributes(6), |_| None);
        opened(&handles, &body, attributes(7), |_| None);
        handles.release(Inode(7));
        let local = Inode(1 << 62 | 5);
        handles.open(local, &body, None, |_| None).unwrap();

        let mut ledger = Ledger::open(handles.ledger(|ledger| ledger.as_fd().try_clone_to_owned()).unwrap());
        let (records, _) = ledger.read();
        let later = Handles::new(ledger);
        later.inherit(records, backing);
        assert!(later.file(Inode(5)).is_none() && later.file(Inode(6)).is_some() && later.file(Inode(7)).is_none());
        let open =
            |inode, back: Option<u32>| opened(&later, &body, attributes(inode), |_| back.map(backing)).map(|b| b.id());
        assert_eq!((open(5, Some(9)), open(6, Some(9)), open(7, Some(9))), (Some(1), None, Some(9)));
        (0..3).for_each(|_| _ = later.release(Inode(6)));
        assert!(later.generation(local) == handles.generation(local) && later.generation(local) != Some(0));
        // Its number is another file's by now.
        let next = Arc::new(tempfile::tempfile().unwrap());
        assert!(matches!(later.open(local, &next, None, |_| None), Err(FsError::Stale)));
        // It can change, and its path leads through the mount.
        assert!(later.file(local).is_none() && later.attributes(local).is_none() && later.release(local));
        assert!(later.attributes(Inode(6)).is_none());
    }
}
