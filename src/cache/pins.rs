//! Pins: packages that the administrator keeps. Their blobs are not evicted.
//!
//! All pins together take at most the bound less 1/[`PIN_SHARE`] of it, so that other packages can
//! be cached too.

use std::io;
use std::sync::Arc;

use super::blob_files::BlobFiles;
use super::db::pins::Pin;
use super::evictor::Evictor;
use crate::index::EntryId;

/// Most pins at one time.
pub(crate) const MAX_PINS: usize = 4096;
/// 1/`PIN_SHARE` of the bound cannot be pinned.
pub(crate) const PIN_SHARE: u64 = 4;

/// Why packages are not pinned.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PinError {
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
    #[error("{MAX_PINS} packages are pinned already, and no more can be; `binhostfs pin --remove` makes room")]
    TooMany,
    /// Writing the pins to the catalogue failed.
    #[error("writing the catalogue: {0}")]
    Catalogue(#[from] io::Error),
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Pins {
    blobs: Arc<BlobFiles>,
    evictor: Arc<Evictor>,
}

impl Pins {
    pub(super) fn new(blobs: &Arc<BlobFiles>, evictor: &Arc<Evictor>) -> Self {
        Self { blobs: Arc::clone(blobs), evictor: Arc::clone(evictor) }
    }

    /// All pins, sorted by PATH.
    pub(crate) fn list(&self) -> Vec<Pin> {
        let mut pins = self.blobs.catalogue.pins().all();
        pins.sort_by(|a, b| a.path.cmp(&b.path));
        pins
    }

    /// Pins all of `pins`, or none.
    ///
    /// # Errors
    /// Returns the [`PinError`] of the first pin that is not possible.
    pub(crate) fn add(&self, pins: &[Pin]) -> Result<(), PinError> {
        let _one_at_a_time = self.blobs.commits.lock();
        let before = self.blobs.catalogue.pins().all();
        let new = || pins.iter().filter(|pin| before.iter().all(|other| other.id != pin.id));
        let bound = self.evictor.limits().bound;
        let (most, mut total) =
            (bound - bound / PIN_SHARE, before.iter().map(|pin| pin.size).fold(0, u64::saturating_add));
        for pin in new() {
            total = total.saturating_add(pin.size);
            if total > most {
                return Err(PinError::TooLarge { path: pin.path.clone(), size: pin.size, total, most });
            }
        }
        if before.len() + new().count() > MAX_PINS {
            return Err(PinError::TooMany);
        }
        self.blobs.catalogue.pins().add(new())?;
        self.set_pinned(pins.iter().map(|pin| pin.id));
        Ok(())
    }

    /// Removes the pins of entries.
    ///
    /// # Errors
    /// The catalogue cannot be written.
    pub(crate) fn remove(&self, ids: &[EntryId]) -> Result<(), PinError> {
        let _one_at_a_time = self.blobs.commits.lock();
        self.blobs.catalogue.pins().remove(ids)?;
        self.set_pinned(ids.iter().copied());
        Ok(())
    }

    /// Marks the blobs of entries as pinned or not, according to the catalogue.
    fn set_pinned(&self, ids: impl Iterator<Item = EntryId>) {
        for (digest, record) in ids.filter_map(|id| self.blobs.catalogue.find(id)) {
            // Several entries may have one blob.
            let pinned = record.entries.iter().any(|id| self.blobs.catalogue.pins().contains(*id));
            self.blobs.state().set_pinned(digest, pinned);
        }
    }
}
