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
    attributes: Attributes,
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
        file: &Arc<File>,
        attributes: Attributes,
        back: impl FnOnce(&File) -> Option<B>,
    ) -> Option<Arc<B>> {
        let mut handles = self.lock();
        let open = match handles.entry(attributes.inode) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let backing = back(file).map(Arc::new);
                entry.insert(OpenInode { file: Arc::clone(file), attributes, backing, opens: 0 })
            }
        };
        open.opens += 1;
        open.backing.clone()
    }

    /// Counts one open less.
    pub(super) fn release(&self, inode: Inode) {
        let mut handles = self.lock();
        if let Entry::Occupied(mut entry) = handles.entry(inode) {
            entry.get_mut().opens = entry.get().opens.saturating_sub(1);
            if entry.get().opens == 0 {
                let last = entry.remove();
                // Closing a backing is a system call: not under the lock.
                drop(handles);
                drop(last);
            }
        }
    }

    pub(super) fn file(&self, inode: Inode) -> Option<Arc<File>> {
        self.lock().get(&inode).map(|open| Arc::clone(&open.file))
    }

    /// Of a file that is open, also when its generation is gone.
    pub(super) fn attributes(&self, inode: Inode) -> Option<Attributes> {
        self.lock().get(&inode).map(|open| open.attributes)
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
        assert_eq!(handles.open(&file, attributes, |_| Some(1)), Some(Arc::new(1)));
        assert_eq!(handles.open(&file, attributes, |_| None), Some(Arc::new(1)));
        handles.release(Inode(5));
        assert!(handles.file(Inode(5)).is_some() && handles.attributes(Inode(5)).is_some());
        handles.release(Inode(5));
        assert!(handles.file(Inode(5)).is_none());
        assert_eq!(handles.open(&file, attributes, |_| None), None);
        assert_eq!(handles.open(&file, attributes, |_| Some(2)), None);
        handles.release(Inode(77));
    }
}
