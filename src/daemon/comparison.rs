//! Compares local packages with the entries of the binhosts' indexes that are hidden.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;

use super::binhosts::snapshot::ViewSnapshot;
use super::explain::{self, BinhostContext};
use super::held::{FileIdentity, HeldPackages};
use crate::index::{Entry, Index, Listing, Record};
use crate::local::{Caller, LowerDirectory, OFlags, Stat, Time, stat_of};
use crate::policy::{self, Decision};
use crate::verify::Sums;

/// A local package with the digests of a hidden entry.
pub(super) struct Bypass {
    pub(super) binhost: String,
    pub(super) reason: String,
    pub(super) identity: FileIdentity,
    /// The file that was compared.
    pub(super) seen: Stat,
    /// Whether the binhost's packages have to be signed, and the entry is hidden for what it is.
    pub(super) is_distrusted: bool,
}

/// Result of a comparison.
#[derive(Default)]
pub(super) struct LocalMatches {
    pub(super) bypasses: Vec<(String, Bypass)>,
    /// Entries that are shown and have the size of a held package.
    pub(super) shown: Vec<FileIdentity>,
    /// Number of entries that could not be read, and are not compared.
    pub(super) unreadable: usize,
}

/// Finds local packages with the digests of entries that are hidden at every binhost. `digests`:
/// those of packages that have none in the listing. `None`: such packages are left out.
pub(super) fn find(
    (layer, held): (&LowerDirectory, &HeldPackages),
    snapshot: &ViewSnapshot,
    listing: &Listing,
    digests: Option<&mut ReadDigests>,
) -> io::Result<LocalMatches> {
    let locals = Locals::of(layer, listing, snapshot, digests);
    let held_sizes = held.sizes();
    if locals.0.is_empty() && held_sizes.is_empty() {
        return Ok(LocalMatches::default());
    }
    let mut identities = Vec::new();
    let explained = snapshot.explained();
    let (mut found, mut shown) = (HashMap::<&str, Bypass>::new(), HashSet::new());
    let mut unreadable = Unreadable::default();
    let mut look = |at: u16, number: u32, fate: Decision| -> io::Result<()> {
        let at = usize::from(at);
        let (Some(input), Some(beside)) = (explained.inputs.get(at), explained.beside.get(at)) else { return Ok(()) };
        let index = &input.part.index;
        let Some(record) = index.records().get(number as usize) else { return Ok(()) };
        if held_sizes.contains(&record.size) && matches!(fate, Decision::Shown { .. }) {
            identities.push(FileIdentity::of(&index.stanza(record)?.entry()?));
        }
        for (path, identity, seen) in locals.same(index, record)? {
            let Some(reason) = hidden(&fate, beside, record) else {
                shown.insert(path);
                continue;
            };
            let is_distrusted = is_signed(beside) && fate != Decision::Offline;
            let binhost = beside.name.clone();
            found.entry(path).or_insert(Bypass { binhost, reason, identity, seen, is_distrusted });
        }
        Ok(())
    };
    policy::decide(&explained.inputs, &explained.rules, &mut |at, number, fate| {
        if let Err(error) = look(at, number, fate) {
            unreadable.add(error);
        }
    })?;
    for (name, index) in &explained.newer {
        for record in index.records() {
            let same = locals.same(index, record).unwrap_or_else(|error| {
                unreadable.add(error);
                Vec::new()
            });
            for (path, identity, seen) in same {
                let reason = "an earlier generation is shown; `binhostfs rollback --latest` undoes it".to_owned();
                // Nothing is said against it but its time.
                let bypass = Bypass { binhost: name.clone(), reason, identity, seen, is_distrusted: false };
                found.entry(path).or_insert(bypass);
            }
        }
    }
    let found = found.into_iter().filter(|(path, _)| !shown.contains(path));
    let bypasses = found.map(|(path, bypass)| (path.to_owned(), bypass)).collect();
    Ok(LocalMatches { bypasses, shown: identities, unreadable: unreadable.report() })
}

/// Paths of the packages of `listing` that are distrusted and not allowed. Packages without digests
/// in the listing are not compared. Before the first comparison is possible, all of them are.
pub(super) fn distrusted(
    (layer, held): (&LowerDirectory, &HeldPackages),
    snapshot: Option<&ViewSnapshot>,
    listing: &Listing,
) -> io::Result<HashSet<String>> {
    let Some(snapshot) = snapshot else {
        return Ok(listing.entries().iter().map(|entry| entry.path.to_string()).collect());
    };
    let found = find((layer, held), snapshot, listing, None)?;
    let is_withheld = |bypass: &Bypass| bypass.is_distrusted && !held.is_allowed(&bypass.identity);
    Ok(found.bypasses.into_iter().filter(|(_, bypass)| is_withheld(bypass)).map(|(path, _)| path).collect())
}

/// Entries of stored indexes that cannot be read. The others are compared all the same.
#[derive(Debug, Default)]
struct Unreadable {
    count: usize,
    first: Option<io::Error>,
}

impl Unreadable {
    fn add(&mut self, error: io::Error) {
        self.count += 1;
        self.first.get_or_insert(error);
    }

    /// Logs the number of entries, and returns it.
    fn report(self) -> usize {
        if let Some(error) = self.first {
            tracing::warn!(entries = self.count, %error, "entries of an index cannot be compared with local packages");
        }
        self.count
    }
}

/// Whether packages of the binhost have to be signed.
fn is_signed(beside: &BinhostContext) -> bool {
    beside.remote.policy.keyring.is_some()
}

/// Why an entry is hidden. `None`: the entry is shown, or the same package of another binhost is
/// shown.
fn hidden(fate: &Decision, beside: &BinhostContext, record: &Record) -> Option<String> {
    match fate {
        Decision::Shown { .. } | Decision::Shadowed | Decision::PathConflict => None,
        Decision::Hidden | Decision::UnsignedFormat | Decision::Filtered | Decision::Offline => {
            explain::reason(fate, beside, record.id)
        }
    }
}

/// A local package with the digests that its entry has, or those of its bytes where the entry has
/// none: Portage was interrupted before it wrote the entry.
enum Digests {
    Listed(Entry),
    Read(Sums),
}

impl Digests {
    fn are_of(&self, entry: &Entry) -> bool {
        match self {
            Self::Listed(listed) => is_same_file(listed, entry),
            Self::Read(sums) => sums.fit(entry),
        }
    }
}

/// Local packages by size; only packages whose size occurs in an index.
struct Locals(HashMap<u64, Vec<(String, Digests, Stat)>>);

impl Locals {
    fn of(
        layer: &LowerDirectory,
        listing: &Listing,
        snapshot: &ViewSnapshot,
        mut digests: Option<&mut ReadDigests>,
    ) -> Self {
        let mut by_size: HashMap<u64, Vec<(String, Digests, Stat)>> = HashMap::new();
        if !listing.entries().is_empty() {
            let records = snapshot.indexes().flat_map(|index| index.records());
            let sizes: HashSet<u64> = records.map(|record| record.size).collect();
            for listed in listing.entries().iter().filter(|listed| listed.size.is_some_and(|s| sizes.contains(&s))) {
                let (path, size) = (listed.path.to_string(), listed.size.unwrap_or_default());
                // Before anything is read: a file that changes from now on is not held back.
                let Ok(seen) = layer.stat(Path::new(&path)) else { continue };
                if seen.size != size || listed.mtime.is_some_and(|mtime| mtime != seen.mtime.0) {
                    continue;
                }
                let of_file = match listing.stanza(listed).and_then(|stanza| stanza.entry()) {
                    Ok(entry) => Digests::Listed(entry),
                    Err(_) => match digests.as_mut().map(|digests| digests.of(layer, &path, &seen)) {
                        Some(Ok(sums)) => Digests::Read(sums),
                        // It is gone, or another attempt follows with the next change.
                        Some(Err(_)) | None => continue,
                    },
                };
                by_size.entry(size).or_default().push((path, of_file, seen));
            }
        }
        digests.into_iter().for_each(ReadDigests::forget_others);
        Self(by_size)
    }

    /// Paths of the local packages that a record of an index describes, with the record's digests.
    fn same(&self, index: &Index, record: &Record) -> io::Result<Vec<(&str, FileIdentity, Stat)>> {
        let Some(locals) = self.0.get(&record.size) else { return Ok(Vec::new()) };
        let entry = index.stanza(record)?.entry()?;
        let same = locals.iter().filter(|(_, local, _)| local.are_of(&entry));
        Ok(same.map(|(path, _, seen)| (path.as_str(), FileIdentity::of(&entry), *seen)).collect())
    }
}

/// What changes when a file or its content does: number, generation, size, mtime and ctime. The
/// lower directory is one file system.
type FileState = (u64, u64, u64, Time, Time);

fn version(stat: &Stat) -> FileState {
    (stat.number, stat.generation, stat.size, stat.mtime, stat.ctime)
}

/// Digests of local files, so that a large file is read once and not at each comparison.
#[derive(Debug, Default)]
pub(super) struct ReadDigests {
    known: HashMap<FileState, Sums>,
    used: HashSet<FileState>,
}

impl ReadDigests {
    /// The digests of the file `seen` at `path`.
    ///
    /// # Errors
    /// The file cannot be read, or is another one by now.
    fn of(&mut self, layer: &LowerDirectory, path: &str, seen: &Stat) -> io::Result<Sums> {
        let key = version(seen);
        let sums = match self.known.get(&key) {
            Some(sums) => *sums,
            None => {
                let file = layer.open_file(Caller::DAEMON, Path::new(path), seen, OFlags::RDONLY)?;
                let sums = Sums::of(&file)?;
                if version(&stat_of(&file)?) != key {
                    return Err(io::Error::other("the file has changed while it was read"));
                }
                self.known.insert(key, sums);
                sums
            }
        };
        self.used.insert(key);
        Ok(sums)
    }

    /// Forgets files that nobody asked for since the last call.
    fn forget_others(&mut self) {
        let used = std::mem::take(&mut self.used);
        self.known.retain(|key, _| used.contains(key));
    }
}

/// Whether all digests that both entries have are equal, and there is at least one.
fn is_same_file(one: &Entry, other: &Entry) -> bool {
    let md5 = one.md5.as_ref().zip(other.md5.as_ref()).map(|(one, other)| one == other);
    let sha1 = one.sha1.as_ref().zip(other.sha1.as_ref()).map(|(one, other)| one == other);
    matches!((md5, sha1), (Some(true), Some(true) | None) | (None, Some(true)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::super::binhosts::scene::{Scene, TIME, index};
    use super::super::daemon_scene::DaemonScene;
    use super::*;

    /// Makes all files of a directory empty.
    fn empty(directory: &Path) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { empty(&path) } else { drop(fs::File::create(path).unwrap()) }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_entry_that_cannot_be_read_is_skipped() {
        // So many that most of the text is not in memory any more.
        let names: Vec<String> = (1..=8000).map(|number| format!("one-{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let daemon = DaemonScene::start(Scene::with_index(&index(TIME, &names))).await;
        let (state, path) = (&daemon.state, "app-misc/one-1.gpkg.tar");
        let local = state.cache.directory().join("serve/local").join(path);
        fs::create_dir_all(local.parent().unwrap()).unwrap();
        fs::write(&local, vec![0; 9000]).unwrap();
        let mut text = tempfile::tempfile().unwrap();
        write!(text, "VERSION: 0\n\nCPV: app-misc/one-1\nMD5: {}\nPATH: {path}\nSIZE: 9000\n\n", "5".repeat(32))
            .unwrap();
        let listing = Listing::parse(text, |_| true).unwrap();
        let snapshot = state.snapshot().unwrap();
        let found = |listing: &Listing| {
            find((state.front.layer(), &state.held), &snapshot, listing, Some(&mut ReadDigests::default())).unwrap()
        };
        empty(&state.cache.directory().join("index"));
        // All of them have that size.
        assert!(found(&listing).unreadable > 0);
    }

    #[test]
    fn a_file_is_read_once_until_it_changes() {
        let place = tempfile::tempdir().unwrap();
        let layer = LowerDirectory::open(place.path(), false).unwrap();
        let file = place.path().join("a.xpak");
        let write = |text: &str| {
            fs::write(&file, text).unwrap();
            layer.stat(Path::new("a.xpak")).unwrap()
        };
        let mut digests = ReadDigests::default();
        let seen = write("bytes");
        let first = digests.of(&layer, "a.xpak", &seen).unwrap();
        digests.forget_others();
        fs::remove_file(&file).unwrap();
        assert_eq!(digests.of(&layer, "a.xpak", &seen).unwrap(), first, "it is not read again");
        let changed = write("BYTES");
        assert_ne!(digests.of(&layer, "a.xpak", &changed).unwrap(), first);
        digests.forget_others();
        digests.forget_others();
        fs::remove_file(&file).unwrap();
        digests.of(&layer, "a.xpak", &changed).unwrap_err();
    }
}
