//! Finds keys in a GNUPGHOME, in the three forms in which gpg keeps public keys.
//!
//! gpg uses one of the forms. Here a key counts as present if it is in any of them. The error is on
//! the side of silence, and only occurs if somebody changed the form and left the old files behind.

use std::io;
use std::path::Path;

use super::{number, read};
use crate::verify::Fingerprint;
use crate::verify::openpgp::Certificates;

/// Type of a blob that has an OpenPGP certificate. Deleted ones are of type 0.
const OPENPGP_BLOB: u8 = 2;

/// Returns those of `keys` that a keyring has. `None`: there is no keyring at all.
pub(crate) fn which(directory: &Path, keys: &[Fingerprint]) -> io::Result<Option<Vec<Fingerprint>>> {
    let mut found = None;
    let mut add = |more: Vec<Fingerprint>| found.get_or_insert_with(Vec::new).extend(more);
    if let Some(bytes) = read(&directory.join("pubring.kbx"))? {
        add(of_keybox(&bytes));
    }
    if let Some(bytes) = read(&directory.join("pubring.gpg"))? {
        add(Certificates::parse(&bytes).0.fingerprints());
    }
    for name in ["public-keys.d/pubring.db", "public-keys.d/pubring.db-wal"] {
        if let Some(bytes) = read(&directory.join(name))? {
            add(keys.iter().copied().filter(|key| in_database(&bytes, key)).collect());
        }
    }
    Ok(found)
}

/// Returns the primary keys of a keybox (GnuPG, `kbx/keybox-blob.c`).
///
/// A keybox is a sequence of blobs: a u32 length, a type, a version, and after 16 more bytes the
/// number and size of key records. The first record is the primary key's and begins with its
/// fingerprint. That has 20 bytes in version 1, and up to 32 in version 2, as the record's flags
/// say.
fn of_keybox(mut bytes: &[u8]) -> Vec<Fingerprint> {
    let mut found = Vec::new();
    while let Some((blob, rest)) = number(bytes, 0).and_then(|length| bytes.split_at_checked(length as usize)) {
        if blob.is_empty() {
            break;
        }
        found.extend(of_blob(blob));
        bytes = rest;
    }
    found
}

fn of_blob(blob: &[u8]) -> Option<Fingerprint> {
    let (&[kind, version], record) = (blob.get(4..)?.first_chunk()?, blob.get(20..)?);
    // Bit 7 of the flags: the fingerprint has 32 bytes.
    let long = version == 2 && record.get(33).is_some_and(|flags| flags & 0x80 != 0);
    let fingerprint = record.get(..if long { 32 } else { 20 })?;
    (kind == OPENPGP_BLOB).then(|| Fingerprint::new(fingerprint)).flatten()
}

/// Whether keyboxd's database (SQLite, `kbx/backend-sqlite.c`) has a key.
///
/// keyboxd keeps fingerprints as plain blobs in rows that are far smaller than a page, so each
/// fingerprint is contiguous in the file. A deleted key may still be found for a while.
fn in_database(bytes: &[u8], key: &Fingerprint) -> bool {
    memchr::memmem::find(bytes, key.as_bytes()).is_some()
}
