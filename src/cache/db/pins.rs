//! Pins: packages that the administrator keeps. Their blobs are not evicted.
//!
//! A pin belongs to an entry, and holds for the blob that the entry has now and for later ones. It
//! is stored in the catalogue, and is lost with it. All pins together take at most the bound less
//! 1/[`PIN_SHARE`] of it, so that other packages can be cached too.

use std::io;

use super::catalogue::{Catalogue, Durable};
use crate::cache::Cache;
use crate::index::EntryId;
use crate::sys::seconds_now;

/// Most pins at one time.
pub(crate) const MAX_PINS: usize = 4096;
/// 1/`PIN_SHARE` of the bound cannot be pinned.
pub(crate) const PIN_SHARE: u64 = 4;
/// Longest PATH that is remembered, in bytes.
const MAX_PATH: usize = 96;

/// One pinned package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The pinned entry.
    pub id: EntryId,
    /// Size of the entry's blob in bytes.
    pub size: u64,
    /// When the pin was made, in seconds since the epoch.
    pub since: u64,
    /// The package's PATH, or the beginning of it.
    pub path: String,
}

/// Why packages are not pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The pins would take too much of the bound.
    #[error(
        "{path} ({size} bytes) is not pinned: with what is pinned already that is {total} bytes, and at most {most} of the \
         cache can be; unpin something, or raise cache-size"
    )]
    TooLarge {
        /// PATH of the first package that does not fit.
        path: String,
        /// Size of that package in bytes.
        size: u64,
        /// Bytes of all pins, that package included.
        total: u64,
        /// Most bytes that can be pinned.
        most: u64,
    },
    /// There would be more than `MAX_PINS` pins.
    #[error("more than {MAX_PINS} packages cannot be pinned; unpin something")]
    TooMany,
    /// Writing the pins to the catalogue failed.
    #[error("writing the catalogue: {0}")]
    Catalogue(#[from] io::Error),
}

fn key(id: EntryId) -> [u8; 17] {
    let mut key = [b'p'; 17];
    key.iter_mut().skip(1).zip(id.0).for_each(|(to, from)| *to = from);
    key
}

impl Pin {
    /// Makes a pin with the current time.
    #[must_use]
    pub fn new(id: EntryId, size: u64, path: &str) -> Self {
        let end = (0..=path.len().min(MAX_PATH)).rev().find(|end| path.is_char_boundary(*end)).unwrap_or_default();
        Self { id, size, since: seconds_now(), path: path.get(..end).unwrap_or_default().to_owned() }
    }

    fn record(&self, batch: &mut sled::Batch) {
        let value = [&self.size.to_be_bytes()[..], &self.since.to_be_bytes(), self.path.as_bytes()].concat();
        batch.insert(&key(self.id)[..], value);
    }

    fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let (size, rest) = value.split_first_chunk()?;
        let (since, path) = rest.split_first_chunk()?;
        let (size, since) = (u64::from_be_bytes(*size), u64::from_be_bytes(*since));
        Some(Self {
            id: EntryId(key.get(1..)?.try_into().ok()?),
            size,
            since,
            path: String::from_utf8_lossy(path).into_owned(),
        })
    }
}

impl Catalogue {
    pub(crate) fn pins(&self) -> Vec<Pin> {
        let read = |db: &sled::Db| -> Vec<Pin> {
            db.scan_prefix(b"p").filter_map(Result::ok).filter_map(|(key, value)| Pin::decode(&key, &value)).collect()
        };
        self.with(read).unwrap_or_default()
    }

    pub(crate) fn is_pinned(&self, id: EntryId) -> bool {
        self.with(|db| db.contains_key(key(id)).unwrap_or_default()).unwrap_or_default()
    }
}

impl Cache {
    /// All pins, sorted by PATH.
    #[must_use]
    pub fn pins(&self) -> Vec<Pin> {
        let mut pins = self.catalogue.pins();
        pins.sort_by(|a, b| a.path.cmp(&b.path));
        pins
    }

    /// Pins all of `pins`, or none.
    ///
    /// # Errors
    /// Returns the [`PinError`] of the first pin that is not possible.
    pub fn pin(&self, pins: &[Pin]) -> Result<(), PinError> {
        let _one_at_a_time = self.commits.lock();
        let before = self.catalogue.pins();
        let new = || pins.iter().filter(|pin| before.iter().all(|other| other.id != pin.id));
        let bound = self.limits().bound;
        let (most, mut total) =
            (bound - bound / PIN_SHARE, before.iter().map(|pin| pin.size).fold(0, u64::saturating_add));
        let mut batch = sled::Batch::default();
        for pin in new() {
            total = total.saturating_add(pin.size);
            if total > most {
                return Err(PinError::TooLarge { path: pin.path.clone(), size: pin.size, total, most });
            }
            pin.record(&mut batch);
        }
        if before.len() + new().count() > MAX_PINS {
            return Err(PinError::TooMany);
        }
        self.catalogue.apply(batch, Durable::Now)?;
        self.set_pinned(pins.iter().map(|pin| pin.id));
        Ok(())
    }

    /// Removes the pins of entries.
    ///
    /// # Errors
    /// The catalogue cannot be written.
    pub fn unpin(&self, ids: &[EntryId]) -> Result<(), PinError> {
        let _one_at_a_time = self.commits.lock();
        let mut batch = sled::Batch::default();
        ids.iter().for_each(|id| batch.remove(&key(*id)[..]));
        self.catalogue.apply(batch, Durable::Now)?;
        self.set_pinned(ids.iter().copied());
        Ok(())
    }

    /// Marks the blobs of entries as pinned or not, according to the catalogue.
    fn set_pinned(&self, ids: impl Iterator<Item = EntryId>) {
        for (digest, record) in ids.filter_map(|id| self.catalogue.find(id)) {
            // Several entries may have one blob.
            let pinned = record.entries.iter().any(|id| self.catalogue.is_pinned(*id));
            self.state().set_pinned(digest, pinned);
        }
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
        let catalogue = Catalogue::open(&place).unwrap();
        let mut batch = sled::Batch::default();
        pin.record(&mut batch);
        catalogue.apply(batch, Durable::Now).unwrap();
        drop(catalogue);
        let catalogue = Catalogue::open(&place).unwrap();
        assert_eq!(catalogue.pins(), [pin]);
        assert!(catalogue.is_pinned(EntryId([7; 16])) && !catalogue.is_pinned(EntryId([8; 16])));
        let value = catalogue.with(|db| db.get(key(EntryId([7; 16]))).unwrap().unwrap().len()).unwrap();
        assert!(17 + value <= 129);
        assert_eq!(Pin::decode(b"p", b"short"), None);
    }
}
