//! Local packages that other machines may have (`serve-local`): those that every user of this
//! machine may read.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};
use portable_atomic::AtomicU64;

use crate::index::{BinhostId, ListedEntry, Listing, View};
use crate::local::{Errno, LowerDirectory, Stat, Time, open_for_everybody, stat_for_everybody};

/// Inode number and generation, size and modification time of a file.
type FileVersion = (u64, u64, u64, Time);

fn version(stat: &Stat) -> FileVersion {
    (stat.number, stat.generation, stat.size, stat.mtime)
}

/// The files of local packages, by path.
type FilesByPath = HashMap<Box<str>, FileVersion>;

/// The local packages of the published index.
#[derive(Debug)]
pub(crate) struct PublishedLocalPackages {
    lower: Arc<LowerDirectory>,
    served: RwLock<FilesByPath>,
    /// What the last selection has, until its index is published.
    selected: Mutex<FilesByPath>,
    /// Number of packages that the last index had no digests of.
    left_out: AtomicUsize,
    /// A digest of what the last selection depended on.
    facts: AtomicU64,
}

impl PublishedLocalPackages {
    /// Serves nothing before [`PublishedLocalPackages::serve`].
    pub(crate) fn new(lower: Arc<LowerDirectory>) -> Self {
        Self {
            lower,
            served: RwLock::default(),
            selected: Mutex::default(),
            left_out: AtomicUsize::new(0),
            facts: AtomicU64::new(0),
        }
    }

    /// Selects the packages of `listing` that every user may read. Returns their entries. Three
    /// kinds are left out: an entry without a digest, since Portage would take its package from no
    /// other machine; a package of a binhost of `view` that `shares` does not name; and the paths
    /// of `withheld`. Portage has put packages of the latter two kinds there if it fetched them
    /// itself.
    ///
    /// What is not selected is not served any more. [`Self::serve`] serves the others, when the
    /// index with their entries is published.
    ///
    /// # Errors
    /// There are too many open files, or an index cannot be read.
    pub(crate) fn select(
        &self,
        listing: &Listing,
        view: &View,
        shares: &dyn Fn(BinhostId) -> bool,
        withheld: &HashSet<String>,
    ) -> io::Result<Listing> {
        self.facts.store(self.facts_of(listing), Ordering::Relaxed);
        let private = private_packages(listing, view, shares)?;
        let is_other = |entry: &ListedEntry| !private.contains(&*entry.path) && !withheld.contains(&*entry.path);
        let readable = listing.retained(|entry| is_other(entry) && self.readable(entry).is_some())?;
        let has_digest = |entry: &ListedEntry| {
            listing.stanza(entry).is_ok_and(|text| ["MD5", "SHA1"].iter().any(|key| text.get(key).is_some()))
        };
        let selected = readable.retained(has_digest)?;
        let left_out = readable.entries().len() - selected.entries().len();
        if self.left_out.swap(left_out, Ordering::Relaxed) != left_out && left_out > 0 {
            tracing::info!(
                left_out,
                "local packages are not served, since Portage's index has no digests of them; `emaint --fix binhost` adds \
                 them"
            );
        }
        let files = selected.entries().iter().filter_map(|entry| Some((entry.path.clone(), self.readable(entry)?)));
        let files: FilesByPath = files.collect();
        self.served.write().retain(|path, version| files.get(path) == Some(version));
        *self.selected.lock() = files;
        Ok(selected)
    }

    /// Serves the packages of the last selection: the index that is published has their entries.
    pub(crate) fn serve(&self) {
        *self.served.write() = std::mem::take(&mut *self.selected.lock());
    }

    /// Whether [`Self::select`] could select others of `listing` than before.
    pub(crate) fn has_changed(&self, listing: &Listing) -> bool {
        self.facts.load(Ordering::Relaxed) != self.facts_of(listing)
    }

    fn facts_of(&self, listing: &Listing) -> u64 {
        let mut hasher = DefaultHasher::new();
        for entry in listing.entries() {
            (&entry.path, entry.size, entry.mtime, entry.instance, self.readable(entry).is_some()).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// The file of an entry, if every user may read it.
    fn readable(&self, entry: &ListedEntry) -> Option<FileVersion> {
        let stat = stat_for_everybody(&self.lower, Path::new(&*entry.path)).ok()?;
        let is_listed = entry.size == Some(stat.size) && entry.mtime.is_none_or(|mtime| mtime == stat.mtime.0);
        is_listed.then(|| version(&stat))
    }

    /// Whether the published index has a local package at `path`.
    pub(super) fn has(&self, path: &str) -> bool {
        self.served.read().contains_key(path)
    }

    /// Opens the local package at `path`.
    ///
    /// # Errors
    /// There is no such file that every user may read. ESTALE: there is another one by now, which
    /// has not been selected.
    pub(super) fn open(&self, path: &str) -> Result<(File, Stat), Errno> {
        let (file, stat) = open_for_everybody(&self.lower, Path::new(path))?;
        let is_selected = self.served.read().get(path) == Some(&version(&stat));
        if is_selected { Ok((file, stat)) } else { Err(Errno::STALE) }
    }
}

/// The paths of a listing's packages whose size and MD5 are those of a package that is not shared.
fn private_packages<'a>(
    listing: &'a Listing,
    view: &View,
    shares: &dyn Fn(BinhostId) -> bool,
) -> io::Result<HashSet<&'a str>> {
    let sizes: HashSet<u64> = listing.entries().iter().filter_map(|entry| entry.size).collect();
    let mut digests = HashSet::new();
    // Hidden entries count, too.
    for part in view.parts().iter().filter(|part| !shares(part.binhost)) {
        for record in part.index.records().iter().filter(|record| sizes.contains(&record.size)) {
            digests.extend(part.index.stanza(record)?.entry()?.md5.map(|md5| md5.to_string()));
        }
    }
    let mut private = HashSet::new();
    if !digests.is_empty() {
        for entry in listing.entries() {
            let text = listing.stanza(entry)?;
            if text.get("MD5").is_some_and(|md5| digests.contains(&md5.trim().to_lowercase())) {
                private.insert(&*entry.path);
            }
        }
    }
    Ok(private)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::index::Index;

    const PATHS: [&str; 2] = ["one.xpak", "two.xpak"];

    #[test]
    fn what_is_selected_is_served_when_its_index_is_published() {
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut text = tempfile::tempfile().unwrap();
        write!(text, "VERSION: 0\n\n").unwrap();
        for path in PATHS {
            fs::write(place.path().join(path), "bytes").unwrap();
            fs::set_permissions(place.path().join(path), fs::Permissions::from_mode(0o644)).unwrap();
            let md5 = "5".repeat(32);
            write!(text, "CPV: a/{}\nMD5: {md5}\nPATH: {path}\nSIZE: 5\n\n", path.replace(".xpak", "-1")).unwrap();
        }
        let listing = Listing::parse(text, |_| true).unwrap();
        let lower = LowerDirectory::open(place.path(), true).unwrap();
        let local = PublishedLocalPackages::new(Arc::new(lower));
        let view = View::whole(BinhostId(1), Arc::new(Index::empty()));
        let select = |withheld: &[&str]| {
            let withheld = withheld.iter().map(|path| (*path).to_owned()).collect();
            local.select(&listing, &view, &|_| true, &withheld).unwrap().entries().len()
        };
        let served = || PATHS.map(|path| local.has(path));
        assert_eq!((select(&[]), served()), (2, [false; 2]), "others do not know of them yet");
        local.serve();
        assert_eq!(served(), [true; 2]);
        // What is withheld is not served any more, also while others still have the previous index.
        assert_eq!((select(&["one.xpak"]), served()), (1, [false, true]));
        local.serve();
        assert_eq!((served(), local.open("two.xpak").is_ok()), ([false, true], true));
        // Another file with the name has not been selected.
        fs::write(place.path().join("new"), "BYTES").unwrap();
        fs::set_permissions(place.path().join("new"), fs::Permissions::from_mode(0o644)).unwrap();
        fs::rename(place.path().join("new"), place.path().join("two.xpak")).unwrap();
        assert_eq!(local.open("two.xpak").map(drop), Err(Errno::STALE));
    }
}
