//! The tree that Portage sees: a generation of the binhosts' indexes with the local packages in
//! front, and its `Packages` file.
//!
//! Two things change the tree: another generation of the binhosts' indexes
//! ([`PublishedTree::publish`]), and local packages. Local packages change in two ways:
//!
//! * Portage renames a new `Packages` into its place ([`PublishedTree::replace`]). Its entries of
//!   local files are written to the lower directory. File and tree become visible together, before
//!   the rename returns.
//! * Files are added or removed without a new index. A moment later a rescan finds them
//!   ([`PublishedTree::rescan`]).
//!
//! Everything is rendered before anything is replaced, so a failure changes nothing. Without local
//! packages, the published file is the generation's own.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard, RwLock};
use tokio::sync::Notify;

use super::merged_index::{Compressed, Merged, Merger};
use crate::index::{Listing, Stanza};
use crate::local::{COMPRESSED, LocalScan, LowerDirectory, NoPackages, Stat};
use crate::tree::{Change, Inode, PACKAGES, Snapshots, Tree};

#[derive(Debug)]
struct PublishedState {
    /// The generation's tree, without local packages.
    remote: Arc<Tree>,
    listing: Arc<Listing>,
    /// Local files that look like packages but are not.
    others: NoPackages,
    /// Whether the lower directory's index lists packages that do not exist.
    stale: bool,
    /// Fingerprint of the last scan of the lower directory:
    /// [`LocalScan::fingerprint`](crate::local::LocalScan::fingerprint).
    seen: u64,
}

/// Changes in the lower directory since the last scan.
#[derive(Debug)]
struct LocalChanges {
    /// The listing before the scan.
    listing: Arc<Listing>,
    survey: LocalScan,
    seen: u64,
    /// Packages that exist but are not listed.
    more: Vec<Stanza>,
}

/// The published tree. The lock on the state is never held while the kernel is notified. Otherwise
/// a deadlock could follow: a caller that renames holds the kernel's lock on the directory, and
/// waits for the lock on the state.
#[derive(Debug)]
pub(crate) struct PublishedTree {
    snapshots: Arc<Snapshots>,
    layer: Arc<LowerDirectory>,
    merger: Merger,
    state: Mutex<PublishedState>,
    compressed: RwLock<Option<Compressed>>,
    touched: Notify,
    listener: ChangeListener,
}

type OnChanges = Box<dyn Fn(Vec<Change>) + Send + Sync>;

/// Receives the changes of each published tree.
#[derive(Default)]
struct ChangeListener(OnceLock<OnChanges>);

impl fmt::Debug for ChangeListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ChangeListener").field(&self.0.get().is_some()).finish()
    }
}

impl ChangeListener {
    /// Must not be called with the lock on the state: the listener may wait for a program that
    /// changes the index.
    fn receive(&self, changes: Vec<Change>) {
        if let Some(on_changes) = self.0.get() {
            on_changes(changes);
        }
    }
}

impl PublishedTree {
    /// Publishes `remote` with the local packages of the lower directory.
    ///
    /// Entries of packages that do not exist are left out; packages that are not listed are left to
    /// [`PublishedTree::rescan`]. If the lower directory cannot be scanned completely, all its
    /// listed entries are used until a scan succeeds.
    ///
    /// # Errors
    /// The lower directory cannot be read, or `scratch` cannot be written.
    pub(crate) fn new(remote: Arc<Tree>, layer: Arc<LowerDirectory>, scratch: PathBuf) -> io::Result<Self> {
        let merger = Merger { layer: Arc::clone(&layer), scratch };
        let (survey, mut stale) =
            LocalScan::of(&layer).map_or_else(|_| (LocalScan::default(), true), |survey| (survey, false));
        let (whole, mut choice) = (!stale, survey.choice());
        let listing = Arc::new(layer.index().listing(|entry| {
            let wanted = !whole || choice(entry);
            stale |= !wanted;
            wanted
        })?);
        drop(choice);
        let Merged { tree, compressed } = merger.merge(&remote, &listing, &survey)?;
        let snapshots = Arc::new(Snapshots::new(tree));
        let state = Mutex::new(PublishedState { remote, listing, others: NoPackages::new(), stale, seen: 0 });
        let (compressed, touched, listener) = (RwLock::new(compressed), Notify::new(), ChangeListener::default());
        let front = Self { snapshots, layer, merger, state, compressed, touched, listener };
        if stale || !survey.is_empty() {
            front.touch();
        }
        Ok(front)
    }

    /// Sets what receives the changes of each tree that is published from now on, after its
    /// publication. Only the first call counts.
    pub(crate) fn notify_with(&self, on_changes: impl Fn(Vec<Change>) + Send + Sync + 'static) {
        // `set` fails at a second call, which is ignored.
        drop(self.listener.0.set(Box::new(on_changes)));
    }

    /// The current tree and recent ones.
    #[must_use]
    pub(crate) fn snapshots(&self) -> &Arc<Snapshots> {
        &self.snapshots
    }

    /// The lower directory.
    #[must_use]
    pub(crate) fn layer(&self) -> &Arc<LowerDirectory> {
        &self.layer
    }

    /// The entries of the local packages.
    #[must_use]
    pub(crate) fn listing(&self) -> Arc<Listing> {
        Arc::clone(&self.state().listing)
    }

    /// The tree of the binhosts' indexes, without local packages.
    #[must_use]
    pub(crate) fn remote(&self) -> Arc<Tree> {
        Arc::clone(&self.state().remote)
    }

    /// Number of published local packages.
    #[must_use]
    pub(crate) fn local_packages(&self) -> usize {
        self.state().listing.entries().len()
    }

    /// Publishes another generation. `false`: nothing visible has changed. Must not be called from
    /// a FUSE thread.
    ///
    /// # Errors
    /// The index cannot be rendered; the tree before stays published.
    pub(crate) fn publish(&self, remote: Arc<Tree>) -> io::Result<bool> {
        let mut state = self.state();
        let Merged { tree, compressed } = self.merger.merge(&remote, &state.listing, &LocalScan::of(&self.layer)?)?;
        state.remote = remote;
        let current = self.snapshots.current();
        let same = tree.packages().rendered.digest == current.packages().rendered.digest;
        self.set_compressed(compressed);
        if same && tree.view().is_from_same_places(current.view()) {
            return Ok(false);
        }
        let before = self.snapshots.replace(Arc::clone(&tree));
        drop(state);
        self.listener.receive(before.changes(&tree));
        Ok(true)
    }

    /// Publishes Portage's new index, whose file is `written`. Its entries of local files are
    /// written to the lower directory, with owner and permissions of `like`, and the tree is merged
    /// again.
    ///
    /// # Errors
    /// Nothing has changed.
    pub(crate) fn replace(&self, written: File, like: Stat) -> io::Result<()> {
        let mut state = self.state();
        let survey = LocalScan::of(&self.layer)?;
        let source = Listing::parse(written, survey.choice())?;
        let prepared = self.layer.index().prepare(&source, &survey, None)?;
        let merged = self
            .merger
            .merge(&state.remote, &prepared.listing, &survey)
            .inspect_err(|_| self.layer.index().discard())?;
        state.listing = self.layer.index().commit(prepared, Some(like))?;
        // The new index may list fewer packages than exist: the next rescan must look at all of
        // them.
        (state.stale, state.seen) = (false, 0);
        self.put_in_place(merged);
        drop(state);
        self.touch();
        Ok(())
    }

    /// Replaces the compressed index at Portage's request. Its content comes from the uncompressed
    /// index, in the lower directory and in the tree.
    ///
    /// # Errors
    /// Nothing has changed.
    pub(crate) fn compress(&self, like: Stat) -> io::Result<()> {
        let state = self.state();
        let compressed = self.merger.compressed_of(self.snapshots.current().packages())?;
        self.layer.index().compress(Some(like))?;
        self.set_compressed(Some(compressed));
        drop(state);
        Ok(())
    }

    /// Removes the compressed index from the tree.
    pub(crate) fn forget_compressed(&self) {
        let _state = self.state();
        self.set_compressed(None);
    }

    /// Requests a rescan, since a file in the lower directory has changed that an index could name.
    pub(crate) fn touch(&self) {
        self.touched.notify_one();
    }

    /// Waits until a rescan is requested.
    pub(crate) async fn changed(&self) {
        self.touched.notified().await;
    }

    /// Scans the lower directory: adds packages that are not listed, and removes entries of
    /// packages that no longer exist. `false`: nothing visible has changed. Must not be called from
    /// a FUSE thread.
    ///
    /// # Errors
    /// Nothing has changed.
    pub(crate) fn rescan(&self) -> io::Result<bool> {
        let Some(LocalChanges { listing, survey, seen, more }) = self.news()? else { return Ok(false) };
        let mut state = self.state();
        if !Arc::ptr_eq(&listing, &state.listing) {
            // Portage has replaced the index meanwhile, which requests another rescan.
            return Ok(false);
        }
        let stale = state.stale || !listing.entries().iter().all(|entry| survey.has(entry));
        let changes = if more.is_empty() && !stale {
            let merged = self.merger.merge(&state.remote, &listing, &survey)?;
            self.put_in_place(merged)
        } else {
            self.amend(&mut state, &survey, &more)?
        };
        state.seen = seen;
        drop(state);
        let changed = !changes.is_empty();
        if changed {
            self.listener.receive(changes);
        }
        Ok(changed)
    }

    /// Scans the lower directory without the lock on the state, since a scan may take long.
    ///
    /// The listing is taken before the scan: entries that Portage lists later must not be compared
    /// with an older state of their files.
    fn news(&self) -> io::Result<Option<LocalChanges>> {
        let (listing, before) = {
            let state = self.state();
            (Arc::clone(&state.listing), state.seen)
        };
        let survey = LocalScan::of(&self.layer)?;
        let seen = survey.fingerprint();
        if seen == before {
            return Ok(None);
        }
        let mut others = std::mem::take(&mut self.state().others);
        let more = self.layer.index().pick_up(&listing, &survey, &mut others);
        self.state().others = others;
        Ok(Some(LocalChanges { listing, survey, seen, more }))
    }

    /// Adds entries for `more`, and removes entries of packages that do not exist.
    fn amend(&self, state: &mut PublishedState, survey: &LocalScan, more: &[Stanza]) -> io::Result<Vec<Change>> {
        let before = state.listing.entries().len();
        let prepared = self.layer.index().prepare(&state.listing, survey, Some(more)).or_else(|error| {
            if !self.layer.is_read_only() {
                tracing::warn!(%error, "the index of the local packages cannot be written beneath the mount");
            }
            self.layer.index().prepare_elsewhere(&state.listing, survey, more, self.merger.new_file()?)
        })?;
        let merged = self
            .merger
            .merge(&state.remote, &prepared.listing, survey)
            .inspect_err(|_| self.layer.index().discard())?;
        state.listing = self.layer.index().commit(prepared, None)?;
        state.stale = false;
        let changes = self.put_in_place(merged);
        if self.layer.index().is_compressed()
            && !self.layer.is_read_only()
            && let Err(error) = self.layer.index().compress(None)
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
        self.compressed.read().clone()
    }

    fn set_compressed(&self, compressed: Option<Compressed>) {
        *self.compressed.write() = compressed;
    }

    fn state(&self) -> MutexGuard<'_, PublishedState> {
        self.state.lock()
    }

    /// Test: holds the lock on the state, as a new index does.
    #[cfg(test)]
    pub(crate) fn hold_state(&self) -> impl Sized + '_ {
        self.state()
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
    use crate::index::{BinhostId, Index, IndexRenderer, View};
    use crate::tree::PackagesFile;

    const TWO: &str = "VERSION: 0\n\nCPV: a/one-1\nPATH: a/one-1.xpak\n\nCPV: b/two-1\nPATH: b/two-1.xpak\n\n";

    /// Every user can reach /tmp. TMPDIR may be closed to others, as it is where Portage builds.
    const TEMPORARY: &str = "/tmp";

    /// Makes a PKGDIR with two packages, both listed in its index.
    fn place() -> TempDir {
        let place = TempDir::with_prefix_in("binhostfs-front.", TEMPORARY).unwrap();
        for directory in ["", "scratch", "pkgdir", "pkgdir/a", "pkgdir/b"] {
            fs::create_dir_all(place.path().join(directory)).unwrap();
            // All users may write, whichever user runs the test.
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
        let rendered = IndexRenderer::of(&view).render(&file, 1000).unwrap();
        let remote = Arc::new(Tree::new(1, view, PackagesFile { content: Arc::new(file).into(), rendered }));
        let layer = LowerDirectory::open(&place.join("pkgdir"), false).unwrap();
        PublishedTree::new(remote, Arc::new(layer), place.join("scratch")).unwrap()
    }

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    /// Runs `act` in a thread of user 65534, who has no permissions.
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
        assert!(front.rescan().unwrap());
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
        as_nobody(|| assert!(front.rescan().unwrap()));
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

    #[test]
    fn each_changed_tree_is_told_once_and_without_the_lock() {
        let place = place();
        let front = Arc::new(front(place.path()));
        let told = Arc::new(Mutex::new(Vec::new()));
        let (seen, listening) = (Arc::clone(&told), Arc::downgrade(&front));
        front.notify_with(move |changes| {
            // Takes the lock on the state.
            let packages = listening.upgrade().unwrap().local_packages();
            seen.lock().push((packages, changes.len()));
        });
        // Nothing has changed but what was not scanned before.
        front.rescan().unwrap();
        told.lock().clear();
        assert!(!front.rescan().unwrap() && told.lock().is_empty());
        fs::remove_file(place.path().join("pkgdir/b/two-1.xpak")).unwrap();
        assert!(front.rescan().unwrap());
        // The name `Packages` and the listing of its directory.
        assert_eq!(*told.lock(), [(1, 2)]);
        let index = place.path().join("index");
        fs::write(
            &index,
            "VERSION: 0\n\nCPV: c/three-1\nPATH: c/three-1.xpak\nSIZE: 5\nMD5: 0123456789abcdef0123456789abcdef\n\n",
        )
        .unwrap();
        let view = Arc::new(View::whole(BinhostId(0), Arc::new(Index::parse(File::open(&index).unwrap()).unwrap())));
        let file = tempfile::tempfile_in(TEMPORARY).unwrap();
        let rendered = IndexRenderer::of(&view).render(&file, 2000).unwrap();
        let again = Arc::new(Tree::new(2, view, PackagesFile { content: Arc::new(file).into(), rendered }));
        assert!(front.publish(Arc::clone(&again)).unwrap());
        assert_eq!(told.lock().len(), 2);
        assert!(!front.publish(again).unwrap() && told.lock().len() == 2);
    }
}
