//! Records of pins.
//!
//! A pin belongs to an entry, and holds for the blob that the entry has now and for later ones. It
//! is stored in the catalogue, and is lost with it.

use std::io;

use zerocopy::{FromBytes as _, IntoBytes as _};

use super::database::{Database, Durable};
use super::rows::{PinHead, RowKey};
use crate::index::EntryId;
use crate::sys::seconds_now;

/// Longest PATH that is remembered, in bytes.
const MAX_PATH: usize = 96;

/// One pinned package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pin {
    /// The pinned entry.
    pub id: EntryId,
    /// Size of the entry's blob in bytes.
    pub size: u64,
    /// When the pin was made, in seconds since the epoch.
    pub since: u64,
    /// The package's PATH, or the beginning of it.
    pub path: String,
}

impl Pin {
    /// Makes a pin with the current time.
    #[must_use]
    pub(crate) fn new(id: EntryId, size: u64, path: &str) -> Self {
        let end = (0..=path.len().min(MAX_PATH)).rev().find(|end| path.is_char_boundary(*end)).unwrap_or_default();
        Self { id, size, since: seconds_now(), path: path.get(..end).unwrap_or_default().to_owned() }
    }

    pub(super) fn record(&self, batch: &mut sled::Batch) {
        let head = PinHead { size: self.size.into(), since: self.since.into() };
        batch.insert(RowKey::of_pin(self.id).as_bytes(), [head.as_bytes(), self.path.as_bytes()].concat());
    }

    fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let key = RowKey::read_from_bytes(key).ok()?;
        let (PinHead { size, since }, path) = PinHead::read_from_prefix(value).ok()?;
        let path = String::from_utf8_lossy(path).into_owned();
        Some(Self { id: EntryId(key.id), size: size.get(), since: since.get(), path })
    }
}

/// The rows of the pins.
pub(crate) struct PinRows<'a>(pub(super) &'a Database);

impl PinRows<'_> {
    pub(crate) fn all(&self) -> Vec<Pin> {
        let read = |db: &sled::Db| -> Vec<Pin> {
            db.scan_prefix(b"p").filter_map(Result::ok).filter_map(|(key, value)| Pin::decode(&key, &value)).collect()
        };
        self.0.with(read).unwrap_or_default()
    }

    /// Writes new pins durably.
    ///
    /// # Errors
    /// The catalogue cannot be written, and has none of them.
    pub(crate) fn add<'a>(&self, pins: impl Iterator<Item = &'a Pin>) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        pins.for_each(|pin| pin.record(&mut batch));
        self.0.apply(batch, Durable::Now)
    }

    /// Removes the pins of entries durably.
    ///
    /// # Errors
    /// The catalogue cannot be written, and has all of them.
    pub(crate) fn remove(&self, ids: &[EntryId]) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        ids.iter().for_each(|id| batch.remove(RowKey::of_pin(*id).as_bytes()));
        self.0.apply(batch, Durable::Now)
    }

    pub(crate) fn contains(&self, id: EntryId) -> bool {
        self.0.with(|db| db.contains_key(RowKey::of_pin(id).as_bytes()).unwrap_or_default()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_survives_the_catalogue_and_stays_small() {
        let path = "ä".repeat(100);
        let pin = Pin::new(EntryId([7; 16]), 5, &path);
        assert_eq!(pin.path, "ä".repeat(MAX_PATH / 2));
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("catalogue");
        let database = Database::open(&place).unwrap();
        let mut batch = sled::Batch::default();
        pin.record(&mut batch);
        database.apply(batch, Durable::Now).unwrap();
        drop(database);
        let database = Database::open(&place).unwrap();
        let pins = PinRows(&database);
        assert_eq!(pins.all(), [pin]);
        assert!(pins.contains(EntryId([7; 16])) && !pins.contains(EntryId([8; 16])));
        let value =
            database.with(|db| db.get(RowKey::of_pin(EntryId([7; 16])).as_bytes()).unwrap().unwrap().len()).unwrap();
        assert!(17 + value <= 129);
        assert_eq!(Pin::decode(b"p", b"short"), None);
    }
}
