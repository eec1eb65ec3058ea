//! The rows of the database: which entry is which blob, and what is known of each blob.
//!
//! ```text
//! key                      value
//! 'e' EntryId (16 bytes)   SHA-256 of the blob (32 bytes)
//! 'b' SHA-256 (32 bytes)   `rows::BlobHead`, assurance, EntryIds (16 bytes each)
//! 'h' BuildKey (16 bytes)  `rows::BuildValue`: `build_history`
//! 'd' ShareKey (16 bytes)  `shared::SharedValue`
//! 'p' EntryId (16 bytes)   a pin: `rows::PinHead`, PATH (its first 96 bytes): `pins`
//! 'w'                      bytes written today: `rows::WrittenValue`; goes along with 'b'
//! assurance                1 if a member is not compressed, else 0 (1 byte), length of the
//!                          signer's fingerprint (1; 0: not signed), fingerprint, state of its
//!                          certificate (16; only with a fingerprint)
//! ```
//! Numbers are big endian. Records have at most 128 bytes, and as many EntryIds as fit, 5 at most:
//! larger records make sled waste space. A record of other `RULES` is ignored, and its blob is an
//! orphan: it is verified again before it is used.
//!
//! Not its job: sled itself, and when a row is on the disk (`database`).

use std::io;
use std::path::Path;

use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::index::{AuxDigest, Digest, EntryId, Sha256Digest, ShareKey};
use crate::verify::{Assurance, Fingerprint, RULES, Signer};

use super::build_history::BuildHistory;
use super::database::{Database, Durable};
use super::pins::PinRows;
use super::rows::{BlobHead, BlobKey, DailyWrites, RowKey, WRITTEN_KEY};
use super::shared::{self, BinhostTag, BlobKeys};
use crate::cache::CacheError;

/// Most entries in the record of one blob, which its eviction removes.
const MAX_ENTRIES_OF_BLOB: usize = 5;
/// Most bytes of a record.
const MAX_RECORD: usize = 128;

/// The record of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BlobRecord {
    pub(crate) size: u64,
    /// Modification time of the file, in ns since the epoch.
    pub(crate) mtime: i64,
    /// Seconds since the epoch.
    pub(crate) last_use: u64,
    /// Digest of the metadata values in the package.
    pub(crate) values: AuxDigest,
    /// How the blob was proved.
    pub(crate) assurance: Assurance,
    /// Entries whose package is this blob.
    pub(crate) entries: Vec<EntryId>,
}

impl BlobRecord {
    fn encode(&self) -> Vec<u8> {
        let head = BlobHead {
            rules: RULES,
            size: self.size.into(),
            mtime: self.mtime.into(),
            last_use: self.last_use.into(),
            values: self.values.0,
        };
        let mut bytes = head.as_bytes().to_vec();
        bytes.push(self.assurance.uncompressed.into());
        match &self.assurance.signer {
            None => bytes.push(0),
            Some(Signer { fingerprint, certificate }) => {
                let fingerprint = fingerprint.as_bytes();
                bytes.extend(u8::try_from(fingerprint.len()));
                bytes.extend(fingerprint);
                bytes.extend(certificate.0);
            }
        }
        let room = (MAX_RECORD - bytes.len()) / 16;
        self.entries.iter().take(MAX_ENTRIES_OF_BLOB.min(room)).for_each(|id| bytes.extend(id.0));
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (BlobHead { rules, size, mtime, last_use, values }, rest) = BlobHead::read_from_prefix(bytes).ok()?;
        let (assurance, ids) = decode_assurance(rest)?;
        let ids = <[[u8; 16]]>::ref_from_bytes(ids).ok().filter(|_| rules == RULES)?;
        let (size, mtime, last_use) = (size.get(), mtime.get(), last_use.get());
        let entries = ids.iter().copied().map(EntryId).collect();
        Some(Self { size, mtime, last_use, values: AuxDigest(values), assurance, entries })
    }
}

/// Decodes the assurance; returns it with the bytes that follow.
fn decode_assurance(bytes: &[u8]) -> Option<(Assurance, &[u8])> {
    let ([uncompressed @ (0 | 1), length], rest) = bytes.split_first_chunk()? else { return None };
    let uncompressed = *uncompressed == 1;
    if *length == 0 {
        return Some((Assurance { signer: None, uncompressed }, rest));
    }
    let (fingerprint, rest) = rest.split_at_checked(usize::from(*length))?;
    let (certificate, rest) = rest.split_first_chunk()?;
    let signer = Signer { fingerprint: Fingerprint::new(fingerprint)?, certificate: Digest(*certificate) };
    Some((Assurance { signer: Some(signer), uncompressed }, rest))
}

/// The records of all blobs, and what belongs to them.
#[derive(Debug)]
pub(crate) struct Catalogue {
    database: Database,
}

impl Catalogue {
    /// Opens the database, and replaces it if it is damaged.
    pub(crate) fn open(directory: &Path) -> Result<Self, CacheError> {
        Ok(Self { database: Database::open(directory)? })
    }

    /// Where all rows are.
    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// The pins.
    pub(crate) fn pins(&self) -> PinRows<'_> {
        PinRows(&self.database)
    }

    /// The build history.
    pub(crate) fn builds(&self) -> BuildHistory<'_> {
        BuildHistory(&self.database)
    }

    /// The records of all blobs. Reads the whole database, so only the start calls it.
    pub(crate) fn records(&self) -> Vec<(Sha256Digest, BlobRecord)> {
        let read = |db: &sled::Db| -> Vec<(Sha256Digest, BlobRecord)> {
            let rows = db.scan_prefix(b"b").filter_map(Result::ok);
            let row = |key: &[u8], value: &[u8]| {
                Some((Digest(BlobKey::read_from_bytes(key).ok()?.digest), BlobRecord::decode(value)?))
            };
            rows.filter_map(|(key, value)| row(&key, &value)).collect()
        };
        self.database.with(read).unwrap_or_default()
    }

    /// The count that was stored with the last record.
    pub(crate) fn written(&self) -> DailyWrites {
        let value = self.database.with(|db| db.get(WRITTEN_KEY).ok().flatten()).flatten();
        value.and_then(|value| DailyWrites::decode(&value)).unwrap_or_default()
    }

    /// All entries, each with its blob and the record of that. Reads the whole database.
    pub(crate) fn entries(&self) -> Vec<(EntryId, Sha256Digest, BlobRecord)> {
        let entries = |db: &sled::Db| -> Vec<EntryId> {
            let rows = db.scan_prefix(b"e").filter_map(Result::ok);
            rows.filter_map(|(key, _)| Some(EntryId(RowKey::read_from_bytes(&key).ok()?.id))).collect()
        };
        let found = self.database.with(entries).unwrap_or_default();
        let with_blob = |id| self.find(id).map(|(digest, record)| (id, digest, record));
        found.into_iter().filter_map(with_blob).collect()
    }

    pub(crate) fn find(&self, id: EntryId) -> Option<(Sha256Digest, BlobRecord)> {
        self.database.with(|db| {
            let digest = digest_of(&db.get(RowKey::of_entry(id).as_bytes()).ok()??)?;
            let record = BlobRecord::decode(&db.get(BlobKey::of(digest).as_bytes()).ok()??)?;
            Some((digest, record))
        })?
    }

    pub(crate) fn blob(&self, digest: Sha256Digest) -> Option<BlobRecord> {
        self.database.with(|db| BlobRecord::decode(&db.get(BlobKey::of(digest).as_bytes()).ok()??))?
    }

    /// Adds the blob of `id`; durable soon.
    pub(crate) fn insert(
        &self,
        digest: Sha256Digest,
        record: &BlobRecord,
        id: EntryId,
        keys: BlobKeys,
        written: DailyWrites,
    ) -> io::Result<()> {
        self.database.reopen_if_broken();
        let mut batch = sled::Batch::default();
        written.record(&mut batch);
        keys.build.into_iter().for_each(|build| build.record(&mut batch, digest));
        if let Some((key, binhost)) = &keys.shared {
            batch.insert(shared::row_key(key).as_bytes(), shared::value(digest, *binhost).as_bytes());
        }
        batch.insert(BlobKey::of(digest).as_bytes(), record.encode());
        batch.insert(RowKey::of_entry(id).as_bytes(), &digest.0[..]);
        self.database.apply(batch, Durable::Soon)
    }

    /// The blob that was recorded for a key, and the binhost that it came from. The blob may have
    /// been evicted since.
    pub(crate) fn shared(&self, key: &ShareKey) -> Option<(Sha256Digest, BinhostTag)> {
        self.database.with(|db| shared::parts(&db.get(shared::row_key(key).as_bytes()).ok()??))?
    }

    /// Removes the records of blobs; durable on return, unless the disk fails. In that case their
    /// files are removed all the same, and a later look-up detects that.
    pub(crate) fn remove(&self, digests: &[Sha256Digest]) {
        let mut batch = sled::Batch::default();
        for digest in digests {
            for id in self.blob(*digest).map(|record| record.entries).unwrap_or_default() {
                // Another blob may have taken the entry over.
                if self.find(id).is_some_and(|(current, _)| current == *digest) {
                    batch.remove(RowKey::of_entry(id).as_bytes());
                }
            }
            batch.remove(BlobKey::of(*digest).as_bytes());
        }
        if let Err(error) = self.database.apply(batch, Durable::Now) {
            tracing::warn!(%error, "the records of evicted packages cannot be removed");
        }
    }

    /// Removes the entries and the keys of other machines whose blob has no record. A record names
    /// only the last entries of its blob, and the eviction of the blob removes no others.
    pub(crate) fn prune_entries(&self) {
        let is_stale = |db: &sled::Db, digest: &[u8]| {
            digest_of(digest.get(..32).unwrap_or_default())
                .is_none_or(|digest| matches!(db.contains_key(BlobKey::of(digest).as_bytes()), Ok(false)))
        };
        let stale = self.database.with(|db| {
            let rows = db.scan_prefix(b"e").chain(db.scan_prefix(b"d")).filter_map(Result::ok);
            let rows = rows.filter(|(_, value)| is_stale(db, value));
            rows.map(|(key, _)| key).collect::<Vec<_>>()
        });
        let Some(stale) = stale.filter(|stale| !stale.is_empty()) else { return };
        let mut batch = sled::Batch::default();
        stale.into_iter().for_each(|key| batch.remove(key));
        if let Err(error) = self.database.apply(batch, Durable::Now) {
            tracing::debug!(%error, "removing entries without a blob");
        }
    }

    /// Writes times of last use, in seconds since the epoch.
    pub(crate) fn update_uses(&self, uses: &[(Sha256Digest, u64)]) {
        let mut batch = sled::Batch::default();
        for (digest, last_use) in uses {
            if let Some(record) = self.blob(*digest) {
                batch.insert(BlobKey::of(*digest).as_bytes(), BlobRecord { last_use: *last_use, ..record }.encode());
            }
        }
        if let Err(error) = self.database.apply(batch, Durable::Now) {
            tracing::debug!(%error, "writing times of last use");
        }
    }
}

fn digest_of(bytes: &[u8]) -> Option<Sha256Digest> {
    bytes.try_into().ok().map(Digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::BuildKey;
    use crate::cache::db::pins::Pin;

    #[test]
    fn records_round_trip_and_odd_bytes_are_no_record() {
        let signed = |length: usize, uncompressed| {
            let fingerprint = Fingerprint::new(&vec![9; length]).unwrap();
            Assurance { signer: Some(Signer { fingerprint, certificate: Digest([7; 16]) }), uncompressed }
        };
        for assurance in [Assurance::default(), signed(20, true), signed(32, false)] {
            let entries = vec![EntryId([1; 16]), EntryId([2; 16])];
            let values = AuxDigest([4; 16]);
            let record = BlobRecord { size: 7, mtime: -5, last_use: 9, values, assurance, entries };
            let bytes = record.encode();
            assert_eq!(BlobRecord::decode(&bytes), Some(record.clone()));
            let many = BlobRecord { entries: vec![EntryId([3; 16]); 9], ..record };
            let decoded = BlobRecord::decode(&many.encode()).unwrap();
            assert!(many.encode().len() <= MAX_RECORD && decoded.assurance == assurance && decoded.entries.len() >= 2);
            let older_rules = [&[RULES - 1], &bytes[1..]].concat();
            let odd_fingerprint = [&bytes[..size_of::<BlobHead>()], &[0], &[7; 64]].concat();
            for bad in [&[][..], &bytes[..10], &bytes[..42], &bytes[..46], &[9; 58], &older_rules, &odd_fingerprint] {
                assert_eq!(BlobRecord::decode(bad), None);
            }
        }
    }

    fn filled(directory: &Path) -> (Sha256Digest, EntryId) {
        let catalogue = Catalogue::open(directory).unwrap();
        let (digest, id) = (Digest([7; 32]), EntryId([8; 16]));
        let (values, assurance, entries) = (AuxDigest([0; 16]), Assurance::default(), vec![id]);
        let record = BlobRecord { size: 7, mtime: 1, last_use: 9, values, assurance, entries };
        catalogue.insert(digest, &record, id, BlobKeys::default(), DailyWrites::default()).unwrap();
        (digest, id)
    }

    #[test]
    fn what_is_inserted_is_there_after_opening_again_and_gone_after_removal() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("catalogue");
        let (digest, id) = filled(&path);
        let catalogue = Catalogue::open(&path).unwrap();
        assert_eq!(catalogue.find(id).unwrap().0, digest);
        catalogue.update_uses(&[(digest, 77)]);
        assert_eq!(catalogue.records()[0].1.last_use, 77);
        catalogue.remove(&[digest]);
        assert!(catalogue.find(id).is_none() && catalogue.records().is_empty());
    }

    #[test]
    fn a_cache_of_an_earlier_version_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::open(&directory.path().join("catalogue")).unwrap();
        let (digest, id) = (Digest([0xb1; 32]), EntryId([0xe1; 16]));
        let signer = Signer { fingerprint: Fingerprint::new(&[0xf1; 20]).unwrap(), certificate: Digest([0xce; 16]) };
        let record = BlobRecord {
            size: 0x0102_0304_0506_0708,
            mtime: -2,
            last_use: 0x0a0b,
            values: AuxDigest([0xa1; 16]),
            assurance: Assurance { signer: Some(signer), uncompressed: true },
            entries: vec![id, EntryId([0xe2; 16])],
        };
        let (written, build) = (DailyWrites { day: 0x1112, bytes: 0x1314 }, BuildKey::new("a", "b", 1));
        let pin = Pin { id, size: 0x2122, since: 0x2324, path: "a/b".to_owned() };

        let numbers = [[1, 2, 3, 4, 5, 6, 7, 8], [255, 255, 255, 255, 255, 255, 255, 254], [0, 0, 0, 0, 0, 0, 10, 11]];
        let numbers = numbers.concat();
        let assurance = [&[1, 20][..], &[0xf1; 20], &[0xce; 16]].concat();
        let blob = [&[RULES][..], &numbers, &[0xa1; 16], &assurance, &[0xe1; 16], &[0xe2; 16]].concat();
        let number = |high, low| [0, 0, 0, 0, 0, 0, high, low];
        let build_key =
            [0x68, 0x99, 0x94, 0x27, 0xe2, 0x0f, 0x4d, 0x8b, 0xd2, 0x4b, 0xa0, 0x61, 0x79, 0x8a, 0xcc, 0x59, 0x49];
        let rows = [
            ([&b"b"[..], &[0xb1; 32]].concat(), blob),
            ([&b"e"[..], &[0xe1; 16]].concat(), vec![0xb1; 32]),
            (build_key.to_vec(), [&[0xb1; 32][..], &number(0x31, 0x32)].concat()),
            ([&b"p"[..], &[0xe1; 16]].concat(), [&number(0x21, 0x22)[..], &number(0x23, 0x24), b"a/b"].concat()),
            (b"w".to_vec(), [number(0x11, 0x12), number(0x13, 0x14)].concat()),
        ];
        let mut batch = sled::Batch::default();
        rows.iter().for_each(|(key, value)| batch.insert(&key[..], &value[..]));
        catalogue.database().apply(batch, Durable::Now).unwrap();
        assert_eq!(catalogue.find(id), Some((digest, record.clone())));
        assert_eq!((catalogue.records(), catalogue.written()), (vec![(digest, record.clone())], written));
        assert_eq!((catalogue.builds().digest(build), catalogue.pins().all()), (Some(digest), vec![pin.clone()]));

        let other = Catalogue::open(&directory.path().join("other")).unwrap();
        other.insert(digest, &record, id, BlobKeys { build: Some(build), shared: None }, written).unwrap();
        let mut batch = sled::Batch::default();
        pin.record(&mut batch);
        other.database().apply(batch, Durable::Now).unwrap();
        let all = |db: &sled::Db| db.iter().map(|row| row.unwrap()).collect::<Vec<_>>();
        let mut found = other.database().with(all).unwrap();
        // The time at which a build was seen is the present one.
        let seen = u64::from_be_bytes(*found[2].1.last_chunk().unwrap());
        assert!(crate::sys::seconds_now().abs_diff(seen) < 60, "{seen}");
        found[2].1 = [&found[2].1[..32], &number(0x31, 0x32)].concat().into();
        let found: Vec<_> = found.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
        assert_eq!(found, rows);
    }

    #[test]
    fn entries_of_evicted_blobs_do_not_pile_up() {
        let directory = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::open(&directory.path().join("catalogue")).unwrap();
        let rows = || catalogue.database().with(|db| db.scan_prefix(b"e").count()).unwrap();
        let digest = |n: u8| Digest([n; 32]);
        let record = BlobRecord {
            size: 7,
            mtime: 1,
            last_use: 9,
            values: AuxDigest([4; 16]),
            assurance: Assurance::default(),
            entries: Vec::new(),
        };
        let (keys, tag) =
            ([1, 2].map(|size| ShareKey { sha1: Digest([1; 20]), md5: Digest([2; 16]), size }), BinhostTag::new("a"));
        let keys_of = |at: usize| BlobKeys { build: None, shared: Some((keys[at], tag)) };
        let entries: Vec<EntryId> = (1..=9).map(|n| EntryId([n; 16])).collect();
        for (at, id) in entries.iter().enumerate() {
            let last = entries[..=at].iter().rev().copied().collect();
            let record = BlobRecord { entries: last, ..record.clone() };
            catalogue.insert(digest(1), &record, *id, keys_of(0), DailyWrites::default()).unwrap();
        }
        let other = EntryId([99; 16]);
        catalogue.insert(digest(2), &record, other, keys_of(1), DailyWrites::default()).unwrap();
        assert_eq!(keys.map(|key| catalogue.shared(&key)), [Some((digest(1), tag)), Some((digest(2), tag))]);
        catalogue.prune_entries();
        assert_eq!(rows(), 10);
        catalogue.remove(&[digest(1)]);
        assert_eq!(rows(), 1 + entries.len() - MAX_ENTRIES_OF_BLOB);
        catalogue.prune_entries();
        assert_eq!(keys.map(|key| catalogue.shared(&key)), [None, Some((digest(2), tag))]);
        assert_eq!((rows(), catalogue.find(other).map(|(found, _)| found)), (1, Some(digest(2))));
    }

    #[test]
    fn what_was_written_today_outlives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("catalogue");
        let catalogue = Catalogue::open(&path).unwrap();
        assert_eq!(catalogue.written(), DailyWrites::default());
        let mut batch = sled::Batch::default();
        DailyWrites { day: 20_000, bytes: 1 << 40 }.record(&mut batch);
        catalogue.database().apply(batch, Durable::Now).unwrap();
        drop(catalogue);
        assert_eq!(Catalogue::open(&path).unwrap().written(), DailyWrites { day: 20_000, bytes: 1 << 40 });
    }
}
