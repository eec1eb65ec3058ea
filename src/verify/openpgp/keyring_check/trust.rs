//! Checks whether gpg trusts keys, by `trustdb.gpg` (GnuPG, `doc/DETAILS`, "Layout of the
//! TrustDB"), where gpg stores the trust that it has computed.
//!
//! Portage accepts a signature only with full or ultimate trust.

use std::io;
use std::path::Path;

use super::{number, read};
use crate::verify::Fingerprint;

const RECORD: usize = 40;
/// Types of records in the database.
const TRUST: u8 = 12;
const VALID: u8 = 13;
/// Trust values, of the low four bits.
const FULLY: u8 = 5;
const ULTIMATE: u8 = 6;
/// Most user IDs of a key that are examined.
const MAX_USER_IDS: usize = 256;

/// Returns those of `keys` that gpg does not trust. Portage's gpg uses the stored trust, even if a
/// recomputation is due.
pub(crate) fn untrusted(directory: &Path, keys: Vec<Fingerprint>) -> io::Result<Vec<Fingerprint>> {
    let bytes = read(&directory.join("trustdb.gpg"))?.unwrap_or_default();
    let (records, _) = bytes.as_chunks::<RECORD>();
    Ok(keys.into_iter().filter(|key| !is_trusted(records, key)).collect())
}

fn is_trusted(records: &[[u8; RECORD]], key: &Fingerprint) -> bool {
    // The database has only the first 20 bytes of a longer fingerprint.
    let name = key.as_bytes().get(..20);
    let Some(record) = records.iter().find(|record| record[0] == TRUST && record.get(2..22) == name) else {
        return false;
    };
    if record[22] & 15 == ULTIMATE {
        return true;
    }
    // Each user ID has a record with its validity and the number of the next record.
    let next = |at: u32| records.get(usize::try_from(at).ok()?).filter(|record| record[0] == VALID);
    let first = number(record, 26).and_then(next);
    let all = std::iter::successors(first, |record| number(*record, 23).and_then(next));
    all.take(MAX_USER_IDS).any(|record| record[22] & 15 >= FULLY)
}
