//! What Portage sees as `Packages`: what the binhosts have, with the local packages in front.
//!
//! Two things change it: another generation of the binhosts' indexes ([`Front::show`]), and local packages. The second comes in
//! two ways. Portage renames a new `Packages` into its place ([`Front::replace`]): its entries of local files are written
//! beneath, and both become visible at once, before the rename returns. Or files come and go without that, and are looked at a
//! moment later ([`Front::look_again`]).
//!
//! Everything is rendered before anything is replaced: what fails leaves all as it was. Where nothing is local, the generation's
//! own file is shown.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::Notify;

use super::merge::{Compressed, Merged, Merger};
use crate::index::Listing;
use crate::local::{COMPRESSED, Caller, Errno, Layer, NoPackages, Stat};
use crate::tree::{Change, Inode, PACKAGES, Snapshots, Tree};

#[derive(Debug)]
struct State {
    /// What the binhosts have.
    remote: Arc<Tree>,
    listing: Listing,
    /// Local files that look like packages and are none.
    others: NoPackages,
    /// The index beneath lists more than there is.
    stale: bool,
    /// What was beneath when it was last looked at: [`Survey::fingerprint`](crate::local::Survey::fingerprint).
    seen: u64,
}

/// See the module's documentation. The lock on the state is never held while the kernel is told of a change: whoever renames
/// holds the kernel's lock on the directory, and waits for ours.
#[derive(Debug)]
pub struct Front {
    snapshots: Arc<Snapshots>,
    layer: Arc<Layer>,
    merger: Merger,
    state: Mutex<State>,
    compressed: RwLock<Option<Compressed>>,
    touched: Notify,
}

impl Front {
    /// Shows `remote` with what is beneath. What is listed there and not there is left out; what is there and not listed is for
    /// [`Front::look_again`].
    ///
    /// # Errors
    /// What is beneath cannot be read, or nothing can be written to `scratch`.
    pub fn new(remote: Arc<Tree>, layer: Arc<Layer>, scratch: PathBuf) -> io::Result<Self> {
        let merger = Merger { layer: Arc::clone(&layer), scratch };
        let survey = layer.survey();
        let mut listing = layer.listing()?;
        // What could not be looked at may be there.
        let stale = survey.check().is_ok() && !listing.entries().iter().all(|entry| survey.has(entry));
        if stale {
            let mut file = merger.new_file()?;
            listing.write(|entry| survey.has(entry), &[], None, &mut file)?;
            listing = Listing::parse(file)?;
        }
        let Merged { tree, compressed } = merger.merge(&remote, &listing, &survey)?;
        let snapshots = Arc::new(Snapshots::new(tree));
        let state = Mutex::new(State { remote, listing, others: NoPackages::new(), stale, seen: 0 });
        let front =
            Self { snapshots, layer, merger, state, compressed: RwLock::new(compressed), touched: Notify::new() };
        if stale || !survey.is_empty() {
            front.touch();
        }
        Ok(front)
    }

    /// What is shown, and was lately.
    #[must_use]
    pub fn snapshots(&self) -> &Arc<Snapshots> {
        &self.snapshots
    }

    /// The directory beneath.
    #[must_use]
    pub fn layer(&self) -> &Arc<Layer> {
        &self.layer
    }

    /// Local packages that are shown.
    #[must_use]
    pub fn local_packages(&self) -> usize {
        self.state().listing.entries().len()
    }

    /// Shows another generation. What the kernel has to be told of; `None`: it shows nothing new.
    ///
    /// # Errors
    /// It cannot be rendered; the one before stays.
    pub fn show(&self, remote: Arc<Tree>) -> io::Result<Option<Vec<Change>>> {
        let mut state = self.state();
        let Merged { tree, compressed } = self.merger.merge(&remote, &state.listing, &self.layer.survey())?;
        state.remote = remote;
        let current = self.snapshots.current();
        let same = tree.packages().rendered.digest == current.packages().rendered.digest;
        self.set_compressed(compressed);
        if same && tree.view().is_from_same_places(current.view()) {
            return Ok(None);
        }
        let before = self.snapshots.replace(Arc::clone(&tree));
        drop(state);
        Ok(Some(before.changes(&tree)))
    }

    /// Portage's new index is in `written`: its entries of local files go beneath, with owner and permissions as `like` has
    /// them, and what is shown is made anew.
    ///
    /// # Errors
    /// Everything stays as it was.
    pub(super) fn replace(&self, written: File, like: Stat) -> io::Result<()> {
        let mut state = self.state();
        let survey = self.layer.survey();
        survey.check()?;
        let source = Listing::parse(written)?;
        let prepared = self.layer.prepare(&source, &survey, None)?;
        let merged =
            self.merger.merge(&state.remote, &prepared.listing, &survey).inspect_err(|_| self.layer.discard())?;
        state.listing = self.layer.commit(prepared, Some(like))?;
        // It may know less than there is.
        (state.stale, state.seen) = (false, 0);
        self.put_in_place(merged);
        drop(state);
        self.touch();
        Ok(())
    }

    /// Portage's new compressed index: it is made from the other one, and so is what is shown.
    ///
    /// # Errors
    /// Everything stays as it was.
    pub(super) fn compress(&self, like: Stat) -> io::Result<()> {
        let state = self.state();
        self.layer.compress(Some(like))?;
        self.set_compressed(Some(self.merger.compressed_of(self.snapshots.current().packages())?));
        drop(state);
        Ok(())
    }

    /// Removes the compressed index, as the caller. Blocks.
    ///
    /// # Errors
    /// Of unlink(2).
    pub(super) fn remove_compressed(&self, caller: Caller) -> Result<(), Errno> {
        let _state = self.state();
        self.layer.remove_compressed(caller)?;
        self.set_compressed(None);
        Ok(())
    }

    /// Something beneath has changed that an index could name.
    pub(super) fn touch(&self) {
        self.touched.notify_one();
    }

    /// Waits until something beneath has changed.
    pub async fn changed(&self) {
        self.touched.notified().await;
    }

    /// Looks at what is beneath: picks up packages that are not listed, leaves out those that are gone. What the kernel has to
    /// be told of.
    ///
    /// # Errors
    /// Everything stays as it was.
    pub fn look_again(&self) -> io::Result<Vec<Change>> {
        let mut state = self.state();
        let survey = self.layer.survey();
        survey.check()?;
        let seen = survey.fingerprint();
        if state.seen == seen {
            return Ok(Vec::new());
        }
        let mut others = std::mem::take(&mut state.others);
        let more = self.layer.pick_up(&state.listing, &survey, &mut others);
        state.others = others;
        let stale = state.stale || !state.listing.entries().iter().all(|entry| survey.has(entry));
        if more.is_empty() && !stale {
            let merged = self.merger.merge(&state.remote, &state.listing, &survey)?;
            state.seen = seen;
            return Ok(self.put_in_place(merged));
        }
        let before = state.listing.entries().len();
        let prepared = self.layer.prepare(&state.listing, &survey, Some(&more)).or_else(|error| {
            if !self.layer.is_read_only() {
                tracing::warn!(%error, "the index of the local packages cannot be written beneath the mount");
            }
            self.layer.prepare_elsewhere(&state.listing, &survey, &more, self.merger.new_file()?)
        })?;
        let merged =
            self.merger.merge(&state.remote, &prepared.listing, &survey).inspect_err(|_| self.layer.discard())?;
        state.listing = self.layer.commit(prepared, None)?;
        (state.stale, state.seen) = (false, seen);
        let changes = self.put_in_place(merged);
        if self.layer.is_compressed()
            && !self.layer.is_read_only()
            && let Err(error) = self.layer.compress(None)
        {
            tracing::warn!(%error, "Packages.gz beneath the mount is not made anew, and is older than Packages now");
        }
        let (picked, now) = (more.len(), state.listing.entries().len());
        tracing::info!(picked, gone = (before + picked).saturating_sub(now), "local packages: {now}");
        Ok(changes)
    }

    fn put_in_place(&self, Merged { tree, compressed }: Merged) -> Vec<Change> {
        let current = self.snapshots.current();
        let had = self.compressed().map(|compressed| compressed.attributes.inode);
        let has = compressed.as_ref().map(|compressed| compressed.attributes.inode);
        self.set_compressed(compressed);
        let mut changes = Vec::new();
        if had != has {
            changes.push(Change::Name { parent: Inode::ROOT, name: COMPRESSED.to_owned() });
        }
        if tree.packages().rendered.digest != current.packages().rendered.digest {
            self.snapshots.replace(tree);
            changes.push(Change::Name { parent: Inode::ROOT, name: PACKAGES.to_owned() });
            changes.push(Change::Listing(Inode::ROOT));
        }
        changes
    }

    pub(super) fn compressed(&self) -> Option<Compressed> {
        self.compressed.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_compressed(&self, compressed: Option<Compressed>) {
        *self.compressed.write().unwrap_or_else(PoisonError::into_inner) = compressed;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
