//! A download in progress.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use super::Store;
use super::budget::Announced;

/// A file for a download, with its reservation; both go away when this is dropped, unless it was committed before.
#[derive(Debug)]
pub struct Incoming<'a> {
    store: &'a Store,
    pub(super) file: File,
    path: Option<PathBuf>,
    reserved: u64,
    /// Space that the file system takes only when it is written.
    promised: u64,
    /// Bytes that went to the disk; `None`: it is in memory, or was there before.
    written: Option<Announced<'a>>,
    /// Why it is not kept, where it has no path.
    pub(super) why: &'static str,
}

impl<'a> Incoming<'a> {
    fn new(store: &'a Store, file: File, path: Option<PathBuf>) -> Self {
        Self {
            store,
            file,
            path,
            reserved: 0,
            promised: 0,
            written: None,
            why: "larger than the cache, or no space for it",
        }
    }

    /// `keep`: it may be committed. Otherwise it has no name from the start, and is gone when the last one closes it.
    pub(super) fn on_disk(file: File, (path, keep): (PathBuf, bool), reserved: u64, written: Announced<'a>) -> Self {
        if !keep {
            remove(&path);
        }
        let path = keep.then_some(path);
        let mut incoming = Self::new(written.store(), file, path);
        (incoming.reserved, incoming.written) = (reserved, Some(written));
        incoming
    }

    pub(super) fn in_memory(store: &'a Store, file: File, why: &'static str) -> Self {
        let mut incoming = Self::new(store, file, None);
        incoming.why = why;
        incoming
    }

    /// For an orphan: it has its place on the disk and is counted there already.
    pub(super) fn orphan(store: &'a Store, file: File, path: PathBuf) -> Self {
        Self::new(store, file, Some(path))
    }

    /// The file system takes its space only when it is written.
    pub(super) fn promise(&mut self, size: u64) {
        let mut state = self.store.state();
        state.promised = state.promised.saturating_sub(self.promised).saturating_add(size);
        drop(state);
        self.promised = size;
    }

    /// The empty file, to be written and verified through.
    ///
    /// # Errors
    /// No more descriptors.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Has the disk begin to write what was received, `received` bytes, so that making it durable at the end is short. For
    /// files in memory, and where the system cannot do it, nothing happens.
    pub fn start_writeback(&self, received: u64) {
        let Some(written) = &self.written else { return };
        written.wrote(received);
        if self.path.is_none() {
            return;
        }
        let length = i64::try_from(received).unwrap_or(i64::MAX);
        // SAFETY: the descriptor is open for as long as `self`; the call only starts input and output on the file.
        unsafe {
            libc::sync_file_range(self.file.as_raw_fd(), 0, length, libc::SYNC_FILE_RANGE_WRITE);
        }
    }

    /// Where it is, if it may be kept.
    pub(super) fn kept_path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// It was renamed away: nothing to remove. An orphan that is not adopted stays where it is.
    pub(super) fn leave_file(&mut self) {
        self.path = None;
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        // After a commit the name is gone already.
        if let Some(path) = self.path.take() {
            remove(&path);
        }
        self.store.unreserve(self.reserved);
        if self.promised > 0 {
            self.promise(0);
        }
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => (),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (),
        Err(error) => tracing::warn!(path = %path.display(), %error, "removing a download"),
    }
}
