//! The file of the catalogue: opening it, whatever state it is in, and making changes durable.
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
//! the next flush, or to [`Database::settle`].
//!
//! Not its job: keys and values.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use crate::cache::CacheError;
use crate::sys::is_full;

/// After a write error, the cache works without the database for this long before it opens it
/// again.
const REOPEN_AFTER: Duration = Duration::from_secs(10);
/// Commits within this time of a flush share the next flush of their records.
const LAZY: Duration = Duration::from_secs(5);
/// Size of sled's page cache, in bytes.
const SLED_CACHE: u64 = 4 << 20;

#[derive(Debug)]
enum DatabaseState {
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

/// The sled database, open or closed after an error.
#[derive(Debug)]
pub(crate) struct Database {
    directory: PathBuf,
    state: RwLock<DatabaseState>,
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

impl Database {
    /// Opens the database, and replaces it if it is damaged.
    pub(crate) fn open(directory: &Path) -> Result<Self, CacheError> {
        let state = open_or_replace(directory)?;
        let flushed = Mutex::new(Flushed { last: None, put_off: false });
        Ok(Self { directory: directory.to_owned(), state: RwLock::new(state), flushed })
    }

    /// Whether the database can be read at all.
    pub(crate) fn is_open(&self) -> bool {
        matches!(&*self.state.read(), DatabaseState::Open { .. })
    }

    /// Makes postponed changes durable. Writes nothing if there are none.
    pub(crate) fn settle(&self) {
        if self.flushed.lock().put_off
            && let Err(error) = self.change(|_| Ok(()), Durable::Now)
        {
            tracing::debug!(%error, "making records durable");
        }
    }

    /// Writes all of a batch, or nothing of it.
    ///
    /// # Errors
    /// The database is closed, or this closes it.
    pub(crate) fn apply(&self, batch: sled::Batch, durable: Durable) -> io::Result<()> {
        self.change(|db| db.apply_batch(batch), durable)
    }

    fn change(&self, change: impl FnOnce(&sled::Db) -> sled::Result<()>, durable: Durable) -> io::Result<()> {
        let result = match &*self.state.read() {
            DatabaseState::Open { db, file } => {
                let write = || change(db).map_err(io::Error::from).and_then(|()| self.flush(db, file, durable));
                catch_unwind(AssertUnwindSafe(write)).unwrap_or_else(|_| Err(io::Error::other("sled panicked")))
            }
            DatabaseState::Broken { .. } => return Err(io::Error::other("the catalogue had a write error before")),
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

    /// Calls `read` with the open database. `None`: it is closed, or sled panicked.
    pub(crate) fn with<T>(&self, read: impl FnOnce(&sled::Db) -> T) -> Option<T> {
        match &*self.state.read() {
            DatabaseState::Open { db, .. } => catch_unwind(AssertUnwindSafe(|| read(db))).ok(),
            DatabaseState::Broken { .. } => None,
        }
    }

    /// Closes the database until [`REOPEN_AFTER`] has passed.
    pub(crate) fn close(&self) {
        let broken = DatabaseState::Broken { since: Instant::now() };
        let before = std::mem::replace(&mut *self.state.write(), broken);
        // Dropping sled writes once more, and may fail again.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(before)));
    }

    /// Opens the database again if it was closed [`REOPEN_AFTER`] ago.
    pub(super) fn reopen_if_broken(&self) {
        let mut state = self.state.write();
        if matches!(&*state, DatabaseState::Broken { since } if since.elapsed() >= REOPEN_AFTER) {
            *state = match open_once(&self.directory) {
                Ok(open) => {
                    tracing::info!("the catalogue can be written again");
                    open
                }
                Err(unopened) => {
                    tracing::debug!(reason = unopened.reason(), "opening the catalogue again");
                    DatabaseState::Broken { since: Instant::now() }
                }
            };
        }
    }
}

fn open_or_replace(directory: &Path) -> Result<DatabaseState, CacheError> {
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

fn without_space(directory: &Path, reason: &str) -> DatabaseState {
    tracing::warn!(
        reason,
        catalogue = %directory.display(),
        "no space to open the catalogue; cached packages are proved again when they are opened, and none are kept until there is"
    );
    DatabaseState::Broken { since: Instant::now() }
}

/// Opens the database and reads every row once: damage may show only then.
fn open_once(directory: &Path) -> Result<DatabaseState, Unopened> {
    let open = || -> Result<DatabaseState, Unopened> {
        let config = sled::Config::new().path(directory).cache_capacity(SLED_CACHE).use_compression(false);
        let config = config.flush_every_ms(Some(5000));
        let db = open_patiently(&config)?;
        db.iter().try_for_each(|row| row.map(|_| ()))?;
        let file = File::open(directory.join("db"))?;
        // sled creates its directory, and does not make that durable.
        for path in [Some(directory), directory.parent()].into_iter().flatten() {
            File::open(path).and_then(|directory| directory.sync_all())?;
        }
        Ok(DatabaseState::Open { db, file })
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

    const KEY: &[u8] = b"e";

    fn filled(directory: &Path) {
        let database = Database::open(directory).unwrap();
        let mut batch = sled::Batch::default();
        batch.insert(KEY, b"value");
        database.apply(batch, Durable::Now).unwrap();
    }

    #[test]
    fn damage_is_an_empty_database_never_a_failure() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("catalogue");
        let mut lost = 0;
        for round in 0..12 {
            filled(&path);
            let file = path.join("db");
            let mut bytes = fs::read(&file).unwrap();
            let at = bytes.len() * round / 12;
            bytes.iter_mut().skip(at).take(4096).for_each(|byte| *byte ^= 0x5a);
            if round % 3 == 0 {
                bytes.truncate(at);
            }
            fs::write(&file, bytes).unwrap();
            fs::write(path.join("snap.0000.generating"), "half").unwrap();
            let database = Database::open(&path).unwrap();
            lost += u32::from(database.with(|db| db.get(KEY).unwrap().is_none()).unwrap());
        }
        assert!(lost > 0, "the damage was never noticed");
    }

    #[test]
    fn after_an_error_nothing_is_read_or_written_until_it_is_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("catalogue");
        filled(&path);
        let database = Database::open(&path).unwrap();
        database.close();
        database.reopen_if_broken();
        assert!(!database.is_open() && database.with(|_| ()).is_none(), "too early");
        let error = database.apply(sled::Batch::default(), Durable::Now).unwrap_err();
        assert!(error.to_string().contains("had a write error before"), "{error}");
        *database.state.write() = DatabaseState::Broken { since: Instant::now() - REOPEN_AFTER };
        database.reopen_if_broken();
        assert!(database.is_open() && database.with(|db| db.contains_key(KEY).unwrap()).unwrap());
    }

    #[test]
    fn changes_soon_after_a_flush_wait_for_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::open(&directory.path().join("catalogue")).unwrap();
        let write = |durable| database.apply(sled::Batch::default(), durable).unwrap();
        let is_put_off = || database.flushed.lock().put_off;
        write(Durable::Soon);
        assert!(!is_put_off(), "nothing was flushed before");
        write(Durable::Soon);
        assert!(is_put_off());
        database.settle();
        assert!(!is_put_off());
        write(Durable::Soon);
        write(Durable::Now);
        assert!(!is_put_off());
        database.flushed.lock().last = Some(Instant::now() - LAZY);
        write(Durable::Soon);
        assert!(!is_put_off(), "the last flush was long ago");
    }
}
