//! One digest over all that Portage reads of an entry. Two indexes with the same digest say the
//! same of the entry.
//!
//! The digest covers all rendered keys except DESC and MTIME, which decide nothing. It also covers
//! those header keys that Portage takes over: into entries that lack them (`inherited_keys`), and
//! into its own configuration (`_merge_pkgindex_header`).
//!
//! Not its job: how many mirrors have to agree.

use std::collections::BTreeMap;
use std::io;

use sha2::{Digest as _, Sha256};

use super::header::is_merged;
use super::render::STRIPPED;
use super::stanza::{OWN_KEYS, first_16};
use super::{EntryId, Header, Index, Stanza};

/// Keys that have one name in an index and another one in Portage.
const DESCRIPTION: [&str; 2] = ["DESC", "DESCRIPTION"];
const REPOSITORY: [&str; 2] = ["REPO", "repository"];
/// Header keys that entries without their own value inherit.
const INHERITED: [&str; 3] = ["CHOST", "REPO", "repository"];

/// The first 16 bytes of a SHA-256 over all that Portage reads of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryDigest(pub [u8; 16]);

impl Index {
    /// The digest of each record, in the order of the records. Reads the text of all entries.
    ///
    /// # Errors
    /// The text cannot be read any more.
    pub fn digests(&self) -> io::Result<Vec<EntryDigest>> {
        let start = of_header(&self.header);
        let digest = |record| Ok(self.stanza(record)?.digest(record.id, self.path(record), start.clone()));
        self.records.iter().map(digest).collect()
    }
}

/// The start of the digest of each entry: the header keys that Portage takes over.
fn of_header(header: &Header) -> Sha256 {
    let mut hash = Sha256::new_with_prefix(b"told\0");
    let counted = header.pairs().filter(|(key, _)| INHERITED.contains(key) || is_merged(key));
    counted.for_each(|(key, value)| field(&mut hash, key.as_bytes(), value.as_bytes()));
    hash
}

impl Stanza {
    /// `id` stands for CPV, BUILD_ID, BUILD_TIME, SIZE and digests.
    fn digest(&self, id: EntryId, path: &str, mut hash: Sha256) -> EntryDigest {
        // The last value of a repeated key counts.
        let mut counted: BTreeMap<&str, &str> = BTreeMap::new();
        for (key, value) in self.pairs() {
            let key = if REPOSITORY.contains(&key) { "REPO" } else { key };
            if ![&OWN_KEYS[..], &STRIPPED, &DESCRIPTION].iter().any(|keys| keys.contains(&key)) {
                counted.insert(key, value);
            }
        }
        field(&mut hash, &id.0, path.as_bytes());
        counted.into_iter().for_each(|(key, value)| field(&mut hash, key.as_bytes(), value.as_bytes()));
        EntryDigest(first_16(hash))
    }
}

/// Hashes the lengths as well, so that two different pairs never give the same bytes.
fn field(hash: &mut Sha256, key: &[u8], value: &[u8]) {
    for part in [key, value] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const HEADER: &str = "ARCH: amd64\nCHOST: x\nREPO: gentoo\nUSE_EXPAND: A\nVERSION: 0\n";
    const ENTRY: &str = "CPV: a/b-1\nDESC: it\nMD5: d41d8cd98f00b204e9800998ecf8427e\nPATH: a/b-1.xpak\nRDEPEND: a/c\nSIZE: 5\n\
                         SLOT: 0\nUSE: x\nMTIME: 7\n";

    fn digest(header: &str, entry: &str) -> EntryDigest {
        let mut file = tempfile::tempfile().unwrap();
        write!(file, "{header}\n{entry}\n").unwrap();
        let digests = Index::parse(file).unwrap().digests().unwrap();
        assert_eq!(digests.len(), 1);
        digests[0]
    }

    #[test]
    fn everything_that_decides_counts() {
        let honest = digest(HEADER, ENTRY);
        for lie in [
            ENTRY.replace("a/c", "a/d"),
            ENTRY.replace("RDEPEND: a/c\n", ""),
            ENTRY.replace("SLOT: 0", "SLOT: 1"),
            ENTRY.replace("USE: x", "USE: y"),
            ENTRY.replace("PATH: a/b-1.xpak", "PATH: a/b.xpak"),
            ENTRY.replace("SIZE: 5", "SIZE: 6"),
            format!("{ENTRY}RDEPEND: a/d\n"),
            format!("{ENTRY}repository: other\n"),
            format!("{ENTRY}CHOST: y\n"),
            format!("{ENTRY}BUILD_TIME: 9\n"),
            format!("{ENTRY}KEYWORDS: ~amd64\n"),
            format!("{ENTRY}NEW_IN_SOME_PORTAGE: 1\n"),
        ] {
            assert_ne!(digest(HEADER, &lie), honest, "{lie}");
        }
        for (key, value) in [
            ("ARCH", "arm64"),
            ("CHOST", "y"),
            ("REPO", "other"),
            ("repository", "other"),
            ("IUSE_IMPLICIT", "y"),
            ("USE_EXPAND", "B"),
            ("USE_EXPAND_IMPLICIT", "A"),
            ("USE_EXPAND_UNPREFIXED", "A"),
            ("USE_EXPAND_VALUES_A", "a"),
        ] {
            assert_ne!(digest(&format!("{HEADER}{key}: {value}\n"), ENTRY), honest, "{key}");
        }
    }

    #[test]
    fn what_decides_nothing_does_not_count() {
        let honest = digest(HEADER, ENTRY);
        assert_ne!(digest(HEADER, &format!("{ENTRY}USER_PATCHES: x\n")), honest, "emerge goes by it");
        for same in [
            ENTRY.replace("DESC: it", "DESC: other"),
            ENTRY.replace("DESC: it", "DESCRIPTION: other"),
            ENTRY.replace("MTIME: 7", "_mtime_: 8"),
            ENTRY.replace("USE: x\n", "USE: y\nUSE: x\n"),
            format!("{ENTRY}FETCHCOMMAND: evil\n"),
            format!("SLOT: 0\n{}", ENTRY.replace("SLOT: 0\n", "")),
        ] {
            assert_eq!(digest(HEADER, &same), honest, "{same}");
        }
        for (key, value) in
            [("TIMESTAMP", "9"), ("PACKAGES", "7"), ("URI", "http://x/"), ("PROFILE", "p"), ("FEATURES", "f")]
        {
            assert_eq!(digest(&format!("{HEADER}{key}: {value}\n"), ENTRY), honest, "{key}");
        }
        assert_ne!(digest(HEADER, &ENTRY.replace("USE: x\n", "USE: x\nUSE: y\n")), honest, "the last one counts");
    }
}
