//! What Portage sees as `Packages`: what the binhosts have, with the local packages in front.
//!
//! Two things change it: another generation of the binhosts' indexes ([`PublishedTree::publish`]), and local packages. The second comes in
//! two ways. Portage renames a new `Packages` into its place ([`PublishedTree::replace`]): its entries of local files are written
//! beneath, and both become visible at once, before the rename returns. Or files come and go without that, and are looked at a
//! moment later ([`PublishedTree::rescan`]).
//!
//! Everything is rendered before anything is replaced: what fails leaves all as it was. Where nothing is local, the generation's
//! own file is shown.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::Notify;

use super::merge::{Compressed, Merged, Merger};
use crate::index::{Listing, Stanza};
use crate::local::{COMPRESSED, LocalScan, LowerDirectory, NoPackages, Stat};
use crate::tree::{Change, Inode, PACKAGES, Snapshots, Tree};

#[derive(Debug)]
struct PublishedState {
    /// What the binhosts have.
    remote: Arc<Tree>,
    listing: Arc<Listing>,
    /// Local files that look like packages and are none.
    others: NoPackages,
    /// The index beneath lists more than there is.
    stale: bool,
    /// What was beneath when it was last looked at: [`LocalScan::fingerprint`](crate::local::LocalScan::fingerprint).
    seen: u64,
}

/// What has changed beneath since it was last looked at.
#[derive(Debug)]
struct LocalChanges {
    /// What was listed then.
    listing: Arc<Listing>,
    survey: LocalScan,
    seen: u64,
    /// What is there and not listed.
    more: Vec<Stanza>,
}

/// See the module's documentation. The lock on the state is never held while the kernel is told of a change: whoever renames
/// holds the kernel's lock on the directory, and waits for ours.
#[derive(Debug)]
pub struct PublishedTree {
    snapshots: Arc<Snapshots>,
    layer: Arc<LowerDirectory>,
    merger: Merger,
    state: Mutex<PublishedState>,
    compressed: RwLock<Option<Compressed>>,
    touched: Notify,
}

impl PublishedTree {
    /// Shows `remote` with what is beneath. What is listed there and not there is left out; what is there and not listed is for
    /// [`PublishedTree::rescan`]. Where not everything can be looked at, all that is listed counts until it can.
    ///
    /// # Errors
    /// What is beneath cannot be read, or nothing can be written to `scratch`.
    pub fn new(remote: Arc<Tree>, layer: Arc<LowerDirectory>, scratch: PathBuf) -> io::Result<Self> {
        let merger = Merger { layer: Arc::clone(&layer), scratch };
        let (survey, mut stale) =
            layer.survey().map_or_else(|_| (LocalScan::default(), true), |survey| (survey, false));
        let (whole, mut choice) = (!stale, survey.choice());
        let listing = layer.listing(|entry| {
            let wanted = !whole || choice(entry);
            stale |= !wanted;
            wanted
        })?;
        drop(choice);
        let Merged { tree, compressed } = merger.merge(&remote, &listing, &survey)?;
        let snapshots = Arc::new(Snapshots::new(tree));
        let listing = Arc::new(listing);
        let state = Mutex::new(PublishedState { remote, listing, others: NoPackages::new(), stale, seen: 0 });
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
    pub fn layer(&self) -> &Arc<LowerDirectory> {
        &self.layer
    }

    /// What is listed of the local packages.
    #[must_use]
    pub fn listing(&self) -> Arc<Listing> {
        Arc::clone(&self.state().listing)
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
    pub fn publish(&self, remote: Arc<Tree>) -> io::Result<Option<Vec<Change>>> {
        let mut state = self.state();
        let Merged { tree, compressed } = self.merger.merge(&remote, &state.listing, &self.layer.survey()?)?;
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
    pub(crate) fn replace(&self, written: File, like: Stat) -> io::Result<()> {
        let mut state = self.state();
        let survey = self.layer.survey()?;
        let source = Listing::parse(written, survey.choice())?;
        let prepared = self.layer.prepare(&source, &survey, None)?;
        let merged =
            self.merger.merge(&state.remote, &prepared.listing, &survey).inspect_err(|_| self.layer.discard())?;
        state.listing = Arc::new(self.layer.commit(prepared, Some(like))?);
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
    pub(crate) fn compress(&self, like: Stat) -> io::Result<()> {
        let state = self.state();
        let compressed = self.merger.compressed_of(self.snapshots.current().packages())?;
        self.layer.compress(Some(like))?;
        self.set_compressed(Some(compressed));
        drop(state);
        Ok(())
    }

    /// There is no compressed index any more.
    pub(crate) fn forget_compressed(&self) {
        let _state = self.state();
        self.set_compressed(None);
    }

    /// Something beneath has changed that an index could name.
    pub(crate) fn touch(&self) {
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
    pub fn rescan(&self) -> io::Result<Vec<Change>> {
        let Some(LocalChanges { listing, survey, seen, more }) = self.news()? else { return Ok(Vec::new()) };
        let mut state = self.state();
        if !Arc::ptr_eq(&listing, &state.listing) {
            // Portage has written an index meanwhile, and is followed by another look.
            return Ok(Vec::new());
        }
        let stale = state.stale || !listing.entries().iter().all(|entry| survey.has(entry));
        let changes = if more.is_empty() && !stale {
            let merged = self.merger.merge(&state.remote, &listing, &survey)?;
            self.put_in_place(merged)
        } else {
            self.amend(&mut state, &survey, &more)?
        };
        state.seen = seen;
        Ok(changes)
    }

    /// To read all that takes as long as it takes: nobody has to wait for it. What is listed is taken before what is there: a
    /// file that Portage has listed since then must not look as it was before.
    fn news(&self) -> io::Result<Option<LocalChanges>> {
        let (listing, before) = {
            let state = self.state();
            (Arc::clone(&state.listing), state.seen)
        };
        let survey = self.layer.survey()?;
        let seen = survey.fingerprint();
        if seen == before {
            return Ok(None);
        }
        let mut others = std::mem::take(&mut self.state().others);
        let more = self.layer.pick_up(&listing, &survey, &mut others);
        self.state().others = others;
        Ok(Some(LocalChanges { listing, survey, seen, more }))
    }

    /// Lists `more`, and only what is there.
    fn amend(&self, state: &mut PublishedState, survey: &LocalScan, more: &[Stanza]) -> io::Result<Vec<Change>> {
        let before = state.listing.entries().len();
        let prepared = self.layer.prepare(&state.listing, survey, Some(more)).or_else(|error| {
            if !self.layer.is_read_only() {
                tracing::warn!(%error, "the index of the local packages cannot be written beneath the mount");
            }
            self.layer.prepare_elsewhere(&state.listing, survey, more, self.merger.new_file()?)
        })?;
        let merged =
            self.merger.merge(&state.remote, &prepared.listing, survey).inspect_err(|_| self.layer.discard())?;
        state.listing = Arc::new(self.layer.commit(prepared, None)?);
        state.stale = false;
        let changes = self.put_in_place(merged);
        if self.layer.is_compressed()
            && !self.layer.is_read_only()
            && let Err(error) = self.layer.compress(None)
        {
            tracing::warn!(%error, "Packages.gz beneath the mount stays as it was, until the next index");
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

    pub(crate) fn compressed(&self) -> Option<Compressed> {
        self.compressed.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_compressed(&self, compressed: Option<Compressed>) {
        *self.compressed.write().unwrap_or_else(PoisonError::into_inner) = compressed;
    }

    fn state(&self) -> MutexGuard<'_, PublishedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use rustix::process::Uid;
    use tempfile::TempDir;

    use super::*;
    use crate::index::{BinhostId, Index, View};
    use crate::tree::PackagesFile;

    const TWO: &str = "VERSION: 0\n\nCPV: a/one-1\nPATH: a/one-1.xpak\n\nCPV: b/two-1\nPATH: b/two-1.xpak\n\n";

    /// A PKGDIR with two packages, which are listed.
    /// Where nobody gets, too: TMPDIR may be closed, as it is where Portage builds.
    const TEMPORARY: &str = "/tmp";

    fn place() -> TempDir {
        let place = TempDir::with_prefix_in("binhostfs-front.", TEMPORARY).unwrap();
        for directory in ["", "scratch", "pkgdir", "pkgdir/a", "pkgdir/b"] {
            fs::create_dir_all(place.path().join(directory)).unwrap();
            // Whoever it is that tests.
            fs::set_permissions(place.path().join(directory), fs::Permissions::from_mode(0o777)).unwrap();
        }
        for (name, text) in [("a/one-1.xpak", "1"), ("b/two-1.xpak", "2"), ("Packages", TWO)] {
            fs::write(place.path().join("pkgdir").join(name), text).unwrap();
        }
        place
    }

    fn front(place: &Path) -> PublishedTree {
        let view = Arc::new(View::whole(BinhostId(0), Arc::new(Index::empty())));
        let file = tempfile::tempfile_in(TEMPORARY).unwrap();
        let rendered = view.render(&file, 1000).unwrap();
        let remote = Arc::new(Tree::new(1, view, PackagesFile { file: Arc::new(file), rendered }));
        let layer = LowerDirectory::open(&place.join("pkgdir"), false).unwrap();
        PublishedTree::new(remote, Arc::new(layer), place.join("scratch")).unwrap()
    }

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    /// In a thread that no permission is given to.
    fn as_nobody<T: Send>(act: impl FnOnce() -> T + Send) -> T {
        let nobody = Uid::from_raw(65534);
        let disguised = move || {
            if is_root() {
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            }
            act()
        };
        std::thread::scope(|scope| scope.spawn(disguised).join().unwrap())
    }

    fn give_to_nobody(path: &Path) {
        if is_root() {
            std::os::unix::fs::chown(path, Some(65534), None).unwrap();
        }
    }

    #[test]
    fn what_cannot_be_listed_is_not_gone() {
        let place = place();
        let (pkgdir, front) = (place.path().join("pkgdir"), front(place.path()));
        let written = place.path().join("written");
        fs::write(&written, TWO).unwrap();
        [&written, &pkgdir.join("Packages")].into_iter().for_each(|path| give_to_nobody(path));
        let permit = |mode| fs::set_permissions(pkgdir.join("b"), fs::Permissions::from_mode(mode)).unwrap();
        permit(0);
        as_nobody(|| {
            let like = front.layer().stat(Path::new("Packages")).unwrap();
            let refused = front.replace(File::open(&written).unwrap(), like).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
            front.rescan().unwrap_err();
            assert_eq!((front.local_packages(), self::front(place.path()).local_packages()), (2, 2));
        });
        assert_eq!(fs::read_to_string(pkgdir.join("Packages")).unwrap(), TWO);
        permit(0o755);
        front.rescan().unwrap();
        assert_eq!((front.local_packages(), fs::read_to_string(pkgdir.join("Packages")).unwrap()), (2, TWO.to_owned()));
    }

    #[test]
    fn what_fails_is_done_when_it_is_looked_at_again() {
        let place = place();
        let (pkgdir, front) = (place.path().join("pkgdir"), front(place.path()));
        front.rescan().unwrap();
        fs::remove_file(pkgdir.join("b/two-1.xpak")).unwrap();
        let (scratch, away) = (place.path().join("scratch"), place.path().join("away"));
        fs::rename(&scratch, &away).unwrap();
        front.rescan().unwrap_err();
        assert_eq!((front.local_packages(), fs::read_to_string(pkgdir.join("Packages")).unwrap()), (2, TWO.to_owned()));
        fs::rename(&away, &scratch).unwrap();
        assert!(!front.rescan().unwrap().is_empty());
        assert_eq!(front.local_packages(), 1);
        assert!(!fs::read_to_string(pkgdir.join("Packages")).unwrap().contains("two"));
    }

    #[test]
    fn what_cannot_be_compressed_is_shown() {
        if !is_root() {
            return;
        }
        let place = place();
        let pkgdir = place.path().join("pkgdir");
        fs::write(pkgdir.join("Packages.gz"), "root's").unwrap();
        give_to_nobody(&pkgdir.join("Packages"));
        fs::set_permissions(&pkgdir, fs::Permissions::from_mode(0o1777)).unwrap();
        let front = front(place.path());
        fs::remove_file(pkgdir.join("b/two-1.xpak")).unwrap();
        as_nobody(|| assert!(!front.rescan().unwrap().is_empty()));
        assert_eq!(front.local_packages(), 1);
        assert!(!fs::read_to_string(pkgdir.join("Packages")).unwrap().contains("two"));
        assert_eq!(fs::read_to_string(pkgdir.join("Packages.gz")).unwrap(), "root's");
    }

    #[test]
    fn an_entry_that_is_said_again_and_again_is_kept_once() {
        let place = place();
        let (front, written) = (front(place.path()), place.path().join("written"));
        let nobodys = "CPV: a/none-1\n\n".repeat(1000);
        fs::write(&written, TWO.to_owned() + &"CPV: a/one-1\nPATH: a/one-1.xpak\n\n".repeat(1000) + &nobodys).unwrap();
        let like = front.layer().stat(Path::new("Packages")).unwrap();
        front.replace(File::open(&written).unwrap(), like).unwrap();
        assert_eq!(front.local_packages(), 2);
    }
}
