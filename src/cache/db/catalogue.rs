//! The sled database: which entry is which blob, and what is known of each blob.
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
//! The handling of sled follows from measurements:
//!
//! * `flush()` alone does not make a grown file durable, so `fdatasync` of sled's file follows.
//! * A kill inside `open` leaves `snap.*.generating`, with which every later open fails, so that
//!   file is deleted first.
//! * A damaged file makes sled panic, so opening and reading everything happens inside
//!   `catch_unwind`.
//! * A write error stays until the database is opened again, which is tried after [`REOPEN_AFTER`].
//! * Opening the database writes: a full disk is no damage.
//!
//! Removals are durable at once. Insertions need not be: without its record a blob is an orphan,
//! which costs a proof and no download. So flushes of insertions within [`LAZY`] are postponed to
//! the next flush, or to [`Catalogue::settle`].

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::index::{AuxDigest, Digest, EntryId, Sha256Digest, ShareKey};
use crate::verify::{Assurance, Fingerprint, RULES, Signer};

use super::rows::{BlobHead, BlobKey, DailyWrites, RowKey, WRITTEN_KEY};
use super::shared::{self, BinhostTag, BlobKeys};
use crate::cache::CacheError;
use crate::sys::is_full;

/// After a write error, the cache works without the database for this long before it opens it
/// again.
const REOPEN_AFTER: Duration = Duration::from_secs(10);
/// Commits within this time of a flush share the next flush of their records.
const LAZY: Duration = Duration::from_secs(5);
/// Size of sled's page cache, in bytes.
const SLED_CACHE: u64 = 4 << 20;
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

#[derive(Debug)]
enum Database {
    Open {
        db: sled::Db,
        /// sled's own file, kept open to make its size durable.
        file: File,
    },
    Broken {
        since: Instant,
    },
}

/// Why the database is not open.
#[derive(Debug)]
enum Unopened {
    /// The disk is full; the database may be sound.
    Full(String),
    Damaged(String),
}

impl Unopened {
    fn reason(self) -> String {
        match self {
            Self::Full(reason) | Self::Damaged(reason) => reason,
        }
    }
}

impl From<io::Error> for Unopened {
    fn from(error: io::Error) -> Self {
        if is_full(&error) { Self::Full(error.to_string()) } else { Self::Damaged(error.to_string()) }
    }
}

impl From<sled::Error> for Unopened {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) => error.into(),
            other => Self::Damaged(other.to_string()),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Catalogue {
    directory: PathBuf,
    database: RwLock<Database>,
    flushed: Mutex<Flushed>,
}

/// State of the flushes to disk.
#[derive(Debug)]
struct Flushed {
    /// Time of the last flush.
    last: Option<Instant>,
    /// Whether a flush was postponed since then.
    put_off: bool,
}

/// When a batch must be on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durable {
    Now,
    Soon,
}

impl Catalogue {
    /// Opens the database, and replaces it if it is damaged.
    pub(crate) fn open(directory: &Path) -> Result<Self, CacheError> {
        let database = open_or_replace(directory)?;
        let flushed = Mutex::new(Flushed { last: None, put_off: false });
        Ok(Self { directory: directory.to_owned(), database: RwLock::new(database), flushed })
    }

    /// Whether the database can be read at all.
    pub(crate) fn is_open(&self) -> bool {
        matches!(&*self.database.read(), Database::Open { .. })
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
        self.with(read).unwrap_or_default()
    }

    /// The count that was stored with the last record.
    pub(crate) fn written(&self) -> DailyWrites {
        let value = self.with(|db| db.get(WRITTEN_KEY).ok().flatten()).flatten();
        value.and_then(|value| DailyWrites::decode(&value)).unwrap_or_default()
    }

    /// All entries, each with its blob and the record of that. Reads the whole database.
    pub(crate) fn entries(&self) -> Vec<(EntryId, Sha256Digest, BlobRecord)> {
        let entries = |db: &sled::Db| -> Vec<EntryId> {
            let rows = db.scan_prefix(b"e").filter_map(Result::ok);
            rows.filter_map(|(key, _)| Some(EntryId(RowKey::read_from_bytes(&key).ok()?.id))).collect()
        };
        let found = self.with(entries).unwrap_or_default();
        let with_blob = |id| self.find(id).map(|(digest, record)| (id, digest, record));
        found.into_iter().filter_map(with_blob).collect()
    }

    pub(crate) fn find(&self, id: EntryId) -> Option<(Sha256Digest, BlobRecord)> {
        self.with(|db| {
            let digest = digest_of(&db.get(RowKey::of_entry(id).as_bytes()).ok()??)?;
            let record = BlobRecord::decode(&db.get(BlobKey::of(digest).as_bytes()).ok()??)?;
            Some((digest, record))
        })?
    }

    pub(crate) fn blob(&self, digest: Sha256Digest) -> Option<BlobRecord> {
        self.with(|db| BlobRecord::decode(&db.get(BlobKey::of(digest).as_bytes()).ok()??))?
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
        self.reopen_if_broken();
        let mut batch = sled::Batch::default();
        written.record(&mut batch);
        keys.build.into_iter().for_each(|build| build.record(&mut batch, digest));
        if let Some((key, binhost)) = &keys.shared {
            batch.insert(shared::row_key(key).as_bytes(), shared::value(digest, *binhost).as_bytes());
        }
        batch.insert(BlobKey::of(digest).as_bytes(), record.encode());
        batch.insert(RowKey::of_entry(id).as_bytes(), &digest.0[..]);
        self.apply(batch, Durable::Soon)
    }

    /// The blob that was recorded for a key, and the binhost that it came from. The blob may have
    /// been evicted since.
    pub(crate) fn shared(&self, key: &ShareKey) -> Option<(Sha256Digest, BinhostTag)> {
        self.with(|db| shared::parts(&db.get(shared::row_key(key).as_bytes()).ok()??))?
    }

    /// Makes postponed changes durable. Writes nothing if there are none.
    pub(crate) fn settle(&self) {
        if self.flushed.lock().put_off
            && let Err(error) = self.change(|_| Ok(()), Durable::Now)
        {
            tracing::debug!(%error, "making records durable");
        }
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
        if let Err(error) = self.apply(batch, Durable::Now) {
            tracing::warn!(%error, "removing records of evicted packages");
        }
    }

    /// Removes the entries and the keys of other machines whose blob has no record. A record names
    /// only the last entries of its blob, and the eviction of the blob removes no others.
    pub(crate) fn prune_entries(&self) {
        let is_stale = |db: &sled::Db, digest: &[u8]| {
            digest_of(digest.get(..32).unwrap_or_default())
                .is_none_or(|digest| matches!(db.contains_key(BlobKey::of(digest).as_bytes()), Ok(false)))
        };
        let stale = self.with(|db| {
            let rows = db.scan_prefix(b"e").chain(db.scan_prefix(b"d")).filter_map(Result::ok);
            let rows = rows.filter(|(_, value)| is_stale(db, value));
            rows.map(|(key, _)| key).collect::<Vec<_>>()
        });
        let Some(stale) = stale.filter(|stale| !stale.is_empty()) else { return };
        let mut batch = sled::Batch::default();
        stale.into_iter().for_each(|key| batch.remove(key));
        if let Err(error) = self.apply(batch, Durable::Now) {
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
        if let Err(error) = self.apply(batch, Durable::Now) {
            tracing::debug!(%error, "writing times of last use");
        }
    }

    pub(crate) fn apply(&self, batch: sled::Batch, durable: Durable) -> io::Result<()> {
        self.change(|db| db.apply_batch(batch), durable)
    }

    fn change(&self, change: impl FnOnce(&sled::Db) -> sled::Result<()>, durable: Durable) -> io::Result<()> {
        let result = match &*self.database.read() {
            Database::Open { db, file } => {
                let write = || change(db).map_err(io::Error::from).and_then(|()| self.flush(db, file, durable));
                catch_unwind(AssertUnwindSafe(write)).unwrap_or_else(|_| Err(io::Error::other("sled panicked")))
            }
            Database::Broken { .. } => return Err(io::Error::other("the catalogue had a write error before")),
        };
        if let Err(error) = &result {
            tracing::warn!(%error, catalogue = %self.directory.display(), "the catalogue cannot be written; packages are served without being kept");
            self.close();
        }
        result
    }

    /// Makes changes durable, now or with the next flush.
    fn flush(&self, db: &sled::Db, file: &File, durable: Durable) -> io::Result<()> {
        {
            let mut flushed = self.flushed.lock();
            // Set before the flush: a change that comes during the flush may not be in it.
            flushed.put_off = durable == Durable::Soon && flushed.last.is_some_and(|last| last.elapsed() < LAZY);
            if flushed.put_off {
                return Ok(());
            }
            flushed.last = Some(Instant::now());
        }
        db.flush()?;
        file.sync_data()
    }

    pub(crate) fn with<T>(&self, read: impl FnOnce(&sled::Db) -> T) -> Option<T> {
        match &*self.database.read() {
            Database::Open { db, .. } => catch_unwind(AssertUnwindSafe(|| read(db))).ok(),
            Database::Broken { .. } => None,
        }
    }

    /// Closes the database until [`REOPEN_AFTER`] has passed.
    pub(crate) fn close(&self) {
        let broken = Database::Broken { since: Instant::now() };
        let before = std::mem::replace(&mut *self.database.write(), broken);
        // Dropping sled writes once more, and may fail again.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(before)));
    }

    fn reopen_if_broken(&self) {
        let mut database = self.database.write();
        if matches!(&*database, Database::Broken { since } if since.elapsed() >= REOPEN_AFTER) {
            *database = match open_once(&self.directory) {
                Ok(open) => {
                    tracing::info!("the catalogue can be written again");
                    open
                }
                Err(unopened) => {
                    tracing::debug!(reason = unopened.reason(), "opening the catalogue again");
                    Database::Broken { since: Instant::now() }
                }
            };
        }
    }
}

fn digest_of(bytes: &[u8]) -> Option<Sha256Digest> {
    bytes.try_into().ok().map(Digest)
}

fn open_or_replace(directory: &Path) -> Result<Database, CacheError> {
    remove_snapshots(directory, ".generating");
    match open_once(directory) {
        Ok(database) => return Ok(database),
        Err(Unopened::Full(reason)) => return Ok(without_space(directory, &reason)),
        Err(Unopened::Damaged(reason)) => {
            tracing::warn!(reason, catalogue = %directory.display(), "the catalogue is damaged; trying without its snapshot");
        }
    }
    remove_snapshots(directory, "");
    match open_once(directory) {
        Ok(database) => return Ok(database),
        Err(Unopened::Full(reason)) => return Ok(without_space(directory, &reason)),
        Err(Unopened::Damaged(_)) => {}
    }
    let aside = directory.with_extension("damaged");
    tracing::warn!(
        aside = %aside.display(),
        "the catalogue cannot be read; it is set aside and started anew, cached packages are proved again when they are opened"
    );
    if aside.is_dir() {
        fs::remove_dir_all(&aside).map_err(CacheError::io("removing", &aside))?;
    }
    fs::rename(directory, &aside).map_err(CacheError::io("setting aside", directory))?;
    match open_once(directory) {
        Err(Unopened::Full(reason)) => Ok(without_space(directory, &reason)),
        other => {
            other.map_err(|unopened| CacheError::Catalogue { path: directory.to_owned(), reason: unopened.reason() })
        }
    }
}

fn without_space(directory: &Path, reason: &str) -> Database {
    tracing::warn!(
        reason,
        catalogue = %directory.display(),
        "no space to open the catalogue; cached packages are proved again when they are opened, and none are kept until there is"
    );
    Database::Broken { since: Instant::now() }
}

/// Opens the database and reads every row once: damage may show only then.
fn open_once(directory: &Path) -> Result<Database, Unopened> {
    let open = || -> Result<Database, Unopened> {
        let config = sled::Config::new().path(directory).cache_capacity(SLED_CACHE).use_compression(false);
        let config = config.flush_every_ms(Some(5000));
        let db = open_patiently(&config)?;
        db.iter().try_for_each(|row| row.map(|_| ()))?;
        let file = File::open(directory.join("db"))?;
        // sled creates its directory, and does not make that durable.
        for path in [Some(directory), directory.parent()].into_iter().flatten() {
            File::open(path).and_then(|directory| directory.sync_all())?;
        }
        Ok(Database::Open { db, file })
    };
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(Unopened::Damaged(
            text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
                .unwrap_or_else(|| "sled panicked".to_owned()),
        ))
    })
}

/// Opens the database, with retries: one that this process has just closed stays locked for a
/// moment.
fn open_patiently(config: &sled::Config) -> sled::Result<sled::Db> {
    for _ in 0..20 {
        match config.open() {
            Err(sled::Error::Io(error))
                if error.kind() == io::ErrorKind::WouldBlock || error.to_string().contains("lock") =>
            {
                std::thread::sleep(Duration::from_millis(50));
            }
            other => return other,
        }
    }
    config.open()
}

fn remove_snapshots(directory: &Path, ending: &str) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(ending) {
            let _ = fs::remove_file(entry.path());
        }
    }
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
        catalogue.apply(batch, Durable::Now).unwrap();
        assert_eq!(catalogue.find(id), Some((digest, record.clone())));
        assert_eq!((catalogue.records(), catalogue.written()), (vec![(digest, record.clone())], written));
        assert_eq!((catalogue.build_digest(build), catalogue.pins()), (Some(digest), vec![pin.clone()]));

        let other = Catalogue::open(&directory.path().join("other")).unwrap();
        other.insert(digest, &record, id, BlobKeys { build: Some(build), shared: None }, written).unwrap();
        let mut batch = sled::Batch::default();
        pin.record(&mut batch);
        other.apply(batch, Durable::Now).unwrap();
        let all = |db: &sled::Db| db.iter().map(|row| row.unwrap()).collect::<Vec<_>>();
        let mut found = other.with(all).unwrap();
        // The time at which a build was seen is the present one.
        let seen = u64::from_be_bytes(*found[2].1.last_chunk().unwrap());
        assert!(crate::sys::seconds_now().abs_diff(seen) < 60, "{seen}");
        found[2].1 = [&found[2].1[..32], &number(0x31, 0x32)].concat().into();
        let found: Vec<_> = found.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
        assert_eq!(found, rows);
    }

    #[test]
    fn damage_is_an_empty_catalogue_never_a_failure() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("catalogue");
        let mut lost = 0;
        for round in 0..12 {
            let (_, id) = filled(&path);
            let file = path.join("db");
            let mut bytes = fs::read(&file).unwrap();
            let at = bytes.len() * round / 12;
            bytes.iter_mut().skip(at).take(4096).for_each(|byte| *byte ^= 0x5a);
            if round % 3 == 0 {
                bytes.truncate(at);
            }
            fs::write(&file, bytes).unwrap();
            fs::write(path.join("snap.0000.generating"), "half").unwrap();
            let catalogue = Catalogue::open(&path).unwrap();
            lost += u32::from(catalogue.find(id).is_none());
        }
        assert!(lost > 0, "the damage was never noticed");
    }

    #[test]
    fn entries_of_evicted_blobs_do_not_pile_up() {
        let directory = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::open(&directory.path().join("catalogue")).unwrap();
        let rows = || catalogue.with(|db| db.scan_prefix(b"e").count()).unwrap();
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
        catalogue.apply(batch, Durable::Now).unwrap();
        drop(catalogue);
        assert_eq!(Catalogue::open(&path).unwrap().written(), DailyWrites { day: 20_000, bytes: 1 << 40 });
    }
}
