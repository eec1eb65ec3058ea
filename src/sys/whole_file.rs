//! All of a file, whatever the offset of its descriptor is.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;

/// Reads a file from its beginning, independent of the descriptor's shared offset.
#[derive(Debug)]
pub(crate) struct WholeFile<'a> {
    file: &'a File,
    offset: u64,
}

impl<'a> WholeFile<'a> {
    pub(crate) fn new(file: &'a File) -> Self {
        Self { file, offset: 0 }
    }
}

impl Read for WholeFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}
