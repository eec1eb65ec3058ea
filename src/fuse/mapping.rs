//! A range of a file in this process's memory, so that the kernel copies a reply from the page
//! cache itself.
//!
//! Nobody but the kernel may look at these bytes. Where the disk cannot read a page, write(2) to
//! the FUSE device fails and the kernel answers the reader with EIO; this process would get a
//! SIGBUS for the same page.

use std::fs::File;
use std::io;
use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, ProtFlags};

/// A mapped range of a file; it is unmapped when it is dropped.
#[derive(Debug)]
pub(super) struct MappedRange {
    start: NonNull<libc::c_void>,
    /// Bytes that are mapped: the range, from the start of its first page on.
    length: usize,
    /// Bytes in front of the range.
    skipped: usize,
}

impl MappedRange {
    /// Maps `size` bytes from `offset` on, or fewer at the end of the file; `None` at the end.
    pub(super) fn new(file: &File, offset: u64, size: usize) -> io::Result<Option<Self>> {
        let rest = file.metadata()?.len().saturating_sub(offset);
        let size = size.min(usize::try_from(rest).unwrap_or(usize::MAX));
        if size == 0 {
            return Ok(None);
        }
        let skipped = offset % rustix::param::page_size() as u64;
        let (first, skipped) = (offset - skipped, skipped as usize);
        let length = size.saturating_add(skipped);
        // SAFETY: the kernel chooses the address, so that no other mapping is replaced.
        let start =
            unsafe { rustix::mm::mmap(ptr::null_mut(), length, ProtFlags::READ, MapFlags::SHARED, file, first)? };
        // mmap(2) never chooses 0.
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Some(Self { start, length, skipped }))
    }

    /// The range, for a system call to read from.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: `length` bytes from `start` on are mapped for as long as this value lives, and `skipped` is less.
        // Nobody writes to a file of the cache after it was proved.
        unsafe {
            std::slice::from_raw_parts(self.start.as_ptr().cast::<u8>().add(self.skipped), self.length - self.skipped)
        }
    }
}

impl Drop for MappedRange {
    fn drop(&mut self) {
        // SAFETY: this value made the mapping, and what it lent has been given back.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn file_of(length: usize) -> (File, Vec<u8>) {
        let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        (file, bytes)
    }

    #[test]
    fn a_range_starts_and_ends_anywhere() {
        let (file, bytes) = file_of(20_000);
        for (offset, size) in [(0, 1), (0, 20_000), (1, 4096), (4095, 2), (4096, 4096), (8191, 9000), (19_999, 1)] {
            let range = MappedRange::new(&file, offset, size).unwrap().unwrap();
            let from = offset as usize;
            assert_eq!(range.bytes(), &bytes[from..from + size], "{size} bytes from {offset} on");
        }
    }

    #[test]
    fn a_range_ends_with_its_file() {
        let (file, bytes) = file_of(5000);
        let range = MappedRange::new(&file, 4999, 1 << 20).unwrap().unwrap();
        assert_eq!(range.bytes(), &bytes[4999..]);
        for offset in [5000, 5001, u64::MAX] {
            assert!(MappedRange::new(&file, offset, 4096).unwrap().is_none(), "from {offset} on there is nothing");
        }
        let empty = tempfile::tempfile().unwrap();
        assert!(MappedRange::new(&empty, 0, 4096).unwrap().is_none());
    }

    #[test]
    fn a_page_that_is_gone_is_an_error_of_the_system_call() {
        let (file, _) = file_of(8192);
        let range = MappedRange::new(&file, 0, 8192).unwrap().unwrap();
        file.set_len(0).unwrap();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        // No SIGBUS: only the kernel reads.
        let error = rustix::io::write(&ours, range.bytes()).unwrap_err();
        assert_eq!(error, rustix::io::Errno::FAULT);
    }
}
