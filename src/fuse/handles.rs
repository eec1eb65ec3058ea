//! Open files by inode.
//!
//! The kernel demands that all opens of an inode are served alike, passthrough of one backing file or plain reads. So the
//! first open of an inode decides, and the decision stands until the last close. File handles are the inode numbers: a
//! later daemon can tell what they mean.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::tree::{Attributes, Inode};

#[derive(Debug)]
struct OpenInode<B> {
    file: Arc<File>,
    /// Of something that never changes.
    attributes: Option<Attributes>,
    /// Somebody may have written to it.
    written: bool,
    /// The kernel's name for `file`, where reads pass through.
    backing: Option<Arc<B>>,
    opens: u64,
}

/// `B` is what stands for a backing file in the kernel.
#[derive(Debug)]
pub(super) struct Handles<B>(Mutex<HashMap<Inode, OpenInode<B>>>);

impl<B> Default for Handles<B> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<B> Handles<B> {
    /// Counts one more open. `back` is asked for a backing only by the first one; `None` from it means plain reads.
    pub(super) fn open(
        &self,
        inode: Inode,
        file: &Arc<File>,
        attributes: Option<Attributes>,
        back: impl FnOnce(&File) -> Option<B>,
    ) -> Option<Arc<B>> {
        let mut handles = self.lock();
        let open = match handles.entry(inode) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let backing = back(file).map(Arc::new);
                entry.insert(OpenInode { file: Arc::clone(file), attributes, written: false, backing, opens: 0 })
            }
        };
        open.opens += 1;
        open.backing.clone()
    }

    /// Somebody opens it to write.
    pub(super) fn written(&self, inode: Inode) {
        if let Some(open) = self.lock().get_mut(&inode) {
            open.written = true;
        }
    }

    /// Counts one open less. `true`: nobody has it open any more, and somebody may have written to it.
    pub(super) fn release(&self, inode: Inode) -> bool {
        let mut handles = self.lock();
        if let Entry::Occupied(mut entry) = handles.entry(inode) {
            entry.get_mut().opens = entry.get().opens.saturating_sub(1);
            if entry.get().opens == 0 {
                let last = entry.remove();
                // Closing a backing is a system call: not under the lock.
                drop(handles);
                return last.written;
            }
        }
        false
    }

    pub(super) fn file(&self, inode: Inode) -> Option<Arc<File>> {
        self.lock().get(&inode).map(|open| Arc::clone(&open.file))
    }

    /// Of a file that is open, also when its generation is gone.
    pub(super) fn attributes(&self, inode: Inode) -> Option<Attributes> {
        self.lock().get(&inode).and_then(|open| open.attributes)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Inode, OpenInode<B>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Node;

    #[test]
    fn the_first_open_decides_until_the_last_close() {
        let handles: Handles<u8> = Handles::default();
        let file = Arc::new(tempfile::tempfile().unwrap());
        let attributes = Attributes { inode: Inode(5), node: Node::Packages, size: 1, mtime: 1, links: 1 };
        let open = |back: Option<u8>| handles.open(Inode(5), &file, Some(attributes), |_| back);
        assert_eq!(open(Some(1)), Some(Arc::new(1)));
        assert_eq!(open(None), Some(Arc::new(1)));
        handles.written(Inode(5));
        assert!(!handles.release(Inode(5)));
        assert!(handles.file(Inode(5)).is_some() && handles.attributes(Inode(5)).is_some());
        assert!(handles.release(Inode(5)));
        assert!(handles.file(Inode(5)).is_none());
        assert_eq!(open(None), None);
        assert_eq!(open(Some(2)), None);
        handles.release(Inode(77));
    }
}
