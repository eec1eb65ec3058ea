//! Size, MD5 and SHA1 of a file, to find the index entry that it may belong to. A match is no
//! proof.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use md5::{Digest as _, Md5};
use sha1::Sha1;

use crate::index::{Digest, Entry, Md5Digest, Sha1Digest};

/// Bytes read at once.
const STEP: usize = 256 << 10;

/// Size and digests of a whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sums {
    size: u64,
    md5: Md5Digest,
    sha1: Sha1Digest,
}

impl Sums {
    /// Reads the whole file and digests it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let (mut md5, mut sha1, mut size) = (Md5::new(), Sha1::new(), 0);
        let mut buffer = vec![0; STEP];
        loop {
            match file.read_at(&mut buffer, size) {
                Ok(0) => break,
                Ok(count) => {
                    let chunk = buffer.get(..count).unwrap_or_default();
                    md5.update(chunk);
                    sha1.update(chunk);
                    size += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { size, md5: Digest(md5.finalize().into()), sha1: Digest(sha1.finalize().into()) })
    }

    #[must_use]
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    #[must_use]
    pub(crate) fn digests(&self) -> (Md5Digest, Sha1Digest) {
        (self.md5, self.sha1)
    }

    /// Whether size and digests are those of `entry`. A digest that the entry lacks is not
    /// compared.
    #[must_use]
    pub(crate) fn fit(&self, entry: &Entry) -> bool {
        let md5 = entry.md5.is_none_or(|md5| md5 == self.md5);
        md5 && entry.size == self.size && entry.sha1.is_none_or(|sha1| sha1 == self.sha1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::PkgPath;
    use crate::portage::Cpv;
    use std::io::Write as _;

    #[test]
    fn what_the_index_says_of_it_and_nothing_else() {
        let bytes: Vec<u8> = (0..STEP + 7).map(|at| (at % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let sums = Sums::of(&file).unwrap();
        let right = Entry {
            cpv: Cpv::parse("a/b-1").unwrap(),
            path: PkgPath::parse("a/b-1.xpak").unwrap(),
            size: bytes.len() as u64,
            mtime: 1,
            build_id: None,
            build_time: None,
            md5: Some(Digest(Md5::digest(&bytes).into())),
            sha1: Some(Digest(Sha1::digest(&bytes).into())),
        };
        assert!(sums.fit(&right) && sums.fit(&Entry { sha1: None, ..right.clone() }));
        for wrong in [
            Entry { md5: Some(Digest([1; 16])), ..right.clone() },
            Entry { sha1: Some(Digest([1; 20])), ..right.clone() },
            Entry { size: right.size + 1, ..right.clone() },
        ] {
            assert!(!sums.fit(&wrong));
        }
    }
}
