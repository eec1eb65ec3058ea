//! Counts and hashes the bytes that pass through it, for files whose size and digest are needed as
//! soon as they are written.

use std::io::{self, Write};

use sha2::{Digest as _, Sha256};

use super::{Digest, Sha256Digest};

/// A writer that hands all bytes on to `out`.
pub(crate) struct DigestWriter<W> {
    out: W,
    size: u64,
    hash: Sha256,
}

impl<W: Write> DigestWriter<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, size: 0, hash: Sha256::new() }
    }

    /// Flushes, and returns the number of bytes that were written, with their SHA-256.
    ///
    /// # Errors
    /// Flushing fails.
    pub(crate) fn finish(mut self) -> io::Result<(u64, Sha256Digest)> {
        self.out.flush()?;
        Ok((self.size, Digest(self.hash.finalize().into())))
    }
}

impl<W: Write> Write for DigestWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.size += written as u64;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufWriter;

    use super::*;

    /// Takes at most three bytes at once, as a pipe may.
    struct Narrow<'a>(&'a mut Vec<u8>);

    impl Write for Narrow<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(3);
            self.0.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn only_bytes_that_were_taken_count() {
        let mut taken = Vec::new();
        let mut writer = DigestWriter::new(Narrow(&mut taken));
        assert_eq!(writer.write(b"abcdef").unwrap(), 3);
        writer.write_all(b"defgh").unwrap();
        let (size, digest) = writer.finish().unwrap();
        assert_eq!(taken, b"abcdefgh");
        assert_eq!((size, digest), (8, Digest(Sha256::digest(b"abcdefgh").into())));
    }

    #[test]
    fn a_full_disk_is_found_when_the_file_is_finished() {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut writer = DigestWriter::new(BufWriter::new(full));
        writer.write_all(b"abc").unwrap();
        assert_eq!(writer.finish().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
