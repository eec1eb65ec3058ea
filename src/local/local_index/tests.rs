use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use flate2::read::GzDecoder;
use tempfile::TempDir;

use super::*;
use crate::local::LowerDirectory;

/// The header of an index, and an entry of a package whose SIZE is 3, one whose SIZE is not that of
/// the file, and one without a file.
const TEXT: &str = "ARCH: amd64\nPACKAGES: 3\nTIMESTAMP: 1700000000\nVERSION: 0\n\n\
                    CPV: a/one-1\nPATH: a/one-1.xpak\nSIZE: 3\n\n\
                    CPV: a/changed-1\nPATH: a/changed-1.xpak\nSIZE: 4\n\n\
                    CPV: a/gone-1\nPATH: a/gone-1.xpak\nSIZE: 3\n\n";
/// What is left of it.
const LEFT: &str = "ARCH: amd64\nPACKAGES: 1\nTIMESTAMP: 1700000000\nVERSION: 0\n\n\
                    CPV: a/one-1\nPATH: a/one-1.xpak\nSIZE: 3\n\n";

/// A lower directory with an index and two of its three packages.
struct Place {
    directory: TempDir,
    layer: LowerDirectory,
}

impl Place {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        fs::create_dir(directory.path().join("a")).unwrap();
        let place = Self { layer: LowerDirectory::open(directory.path(), false).unwrap(), directory };
        ["a/one-1.xpak", "a/changed-1.xpak"].iter().for_each(|path| place.write(path, b"one"));
        place.write(INDEX, TEXT.as_bytes());
        place
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn index(&self) -> &LocalIndex {
        self.layer.index()
    }

    fn scan(&self) -> LocalScan {
        LocalScan::of(&self.layer).unwrap()
    }

    fn listing(&self) -> Listing {
        self.index().listing(|_| true).unwrap()
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path(INDEX)).unwrap()
    }

    fn prepare(&self, amended: Option<&[Stanza]>) -> io::Result<Prepared> {
        self.index().prepare(&self.listing(), &self.scan(), amended)
    }

    /// Whether the temporary file exists.
    fn has_new(&self) -> bool {
        self.path(NEW).symlink_metadata().is_ok()
    }

    fn pick_up(&self, others: &mut NoPackages) -> Vec<Stanza> {
        self.index().pick_up(&self.listing(), &self.scan(), others)
    }
}

fn paths(listing: &Listing) -> Vec<&str> {
    listing.entries().iter().map(|entry| &*entry.path).collect()
}

/// A package in Portage's older format.
fn xpak(values: &[(&str, &str)]) -> Vec<u8> {
    let number = |number: usize| u32::try_from(number).unwrap().to_be_bytes();
    let (mut index, mut data) = (Vec::new(), String::new());
    for (key, value) in values {
        index.extend([&number(key.len())[..], key.as_bytes(), &number(data.len()), &number(value.len())].concat());
        data += value;
    }
    let lengths = [number(index.len()), number(data.len())].concat();
    let segment = [b"XPAKPACK", &lengths[..], &index, data.as_bytes(), b"XPAKSTOP"].concat();
    [b"files", &segment[..], &number(segment.len()), b"STOP"].concat()
}

#[test]
fn only_a_plain_file_is_an_index() {
    let place = Place::new();
    assert_eq!(paths(&place.listing()), ["a/one-1.xpak", "a/changed-1.xpak", "a/gone-1.xpak"]);
    let some = place.index().listing(|entry| entry.size == Some(4)).unwrap();
    assert_eq!(paths(&some), ["a/changed-1.xpak"]);
    assert!(place.index().stat().is_some_and(|stat| stat.size == TEXT.len() as u64));
    fs::rename(place.path(INDEX), place.path("elsewhere")).unwrap();
    let none = || place.listing().entries().is_empty() && place.index().stat().is_none();
    assert!(none());
    symlink("elsewhere", place.path(INDEX)).unwrap();
    assert!(none());
    fs::remove_file(place.path(INDEX)).unwrap();
    fs::create_dir(place.path(INDEX)).unwrap();
    assert!(none());
}

#[test]
fn entries_of_packages_that_vanished_are_not_written() {
    let place = Place::new();
    let prepared = place.prepare(None).unwrap();
    assert_eq!(
        (paths(&prepared.listing), place.text(), place.has_new()),
        (vec!["a/one-1.xpak"], TEXT.to_owned(), true)
    );
    fs::set_permissions(place.path(INDEX), Permissions::from_mode(0o640)).unwrap();
    let listing = place.index().commit(prepared, None).unwrap();
    assert_eq!((paths(&listing), place.text(), place.has_new()), (vec!["a/one-1.xpak"], LEFT.to_owned(), false));
    // The texts of the entries are still read from the file that has another name now.
    assert_eq!(listing.stanza(&listing.entries()[0]).unwrap().get("CPV"), Some("a/one-1"));
    // With permissions of the index before, and TIMESTAMP as its time.
    let metadata = fs::metadata(place.path(INDEX)).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (0o640, 1_700_000_000));
}

#[test]
fn an_index_with_new_entries_has_a_new_timestamp() {
    let place = Place::new();
    let before = now();
    let more = [Stanza::of([("CPV", "a/new-1"), ("PATH", "a/new-1.xpak"), ("SIZE", "9")])];
    let like = Stat { mode: 0o600, ..place.index().stat().unwrap() };
    let prepared = place.prepare(Some(&more)).unwrap();
    let listing = place.index().commit(prepared, Some(like)).unwrap();
    assert_eq!(paths(&listing), ["a/one-1.xpak", "a/new-1.xpak"]);
    let timestamp = listing.header().timestamp().unwrap();
    assert!((before..=now()).contains(&timestamp), "{timestamp}");
    let metadata = fs::metadata(place.path(INDEX)).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (0o600, timestamp));
    assert!(place.text().contains("PACKAGES: 2\n"), "{}", place.text());
}

#[test]
fn the_first_index_can_be_read_by_all() {
    let place = Place::new();
    let prepared = place.prepare(None).unwrap();
    fs::remove_file(place.path(INDEX)).unwrap();
    place.index().commit(prepared, None).unwrap();
    assert_eq!(fs::metadata(place.path(INDEX)).unwrap().mode() & 0o7777, 0o644);
}

#[test]
fn a_discarded_index_leaves_the_one_before() {
    let place = Place::new();
    let prepared = place.prepare(None).unwrap();
    place.index().discard();
    assert_eq!((place.text(), place.has_new()), (TEXT.to_owned(), false));
    // It cannot be committed any more either.
    assert_eq!(place.index().commit(prepared, None).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    assert_eq!(place.text(), TEXT);
}

#[test]
fn nothing_is_written_to_a_read_only_directory() {
    let place = Place::new();
    let layer = LowerDirectory::open(place.directory.path(), true).unwrap();
    let (listing, scan) = (place.listing(), place.scan());
    let refused = layer.index().prepare(&listing, &scan, Some(&[])).unwrap_err();
    assert_eq!((refused.raw_os_error(), place.has_new()), (Some(libc::EROFS), false));
    let more = [Stanza::of([("CPV", "a/new-1")])];
    let elsewhere = tempfile::tempfile().unwrap();
    let prepared = layer.index().prepare_elsewhere(&listing, &scan, &more, elsewhere).unwrap();
    let committed = layer.index().commit(prepared, None).unwrap();
    assert_eq!(paths(&committed), ["a/one-1.xpak", "a/new-1.tbz2"]);
    assert_eq!((place.text(), place.has_new()), (TEXT.to_owned(), false));
}

#[test]
fn an_index_that_cannot_be_written_leaves_the_one_before() {
    let place = Place::new();
    // A directory has the temporary name.
    fs::create_dir(place.path(NEW)).unwrap();
    assert_eq!(place.prepare(None).unwrap_err().raw_os_error(), Some(libc::EEXIST));
    fs::remove_dir(place.path(NEW)).unwrap();
    assert_eq!(place.text(), TEXT);
    // The text of an entry is lost before it is copied.
    let (listing, scan) = (place.listing(), place.scan());
    fs::OpenOptions::new().write(true).open(place.path(INDEX)).unwrap().set_len(80).unwrap();
    let error = place.index().prepare(&listing, &scan, None).unwrap_err();
    assert_eq!((error.kind(), place.has_new()), (io::ErrorKind::UnexpectedEof, false));
    // A directory has the name of the index.
    place.write(INDEX, TEXT.as_bytes());
    let prepared = place.prepare(None).unwrap();
    fs::remove_file(place.path(INDEX)).unwrap();
    fs::create_dir(place.path(INDEX)).unwrap();
    assert_eq!(place.index().commit(prepared, None).unwrap_err().raw_os_error(), Some(libc::EISDIR));
    assert!(!place.has_new());
}

#[test]
fn a_link_at_the_temporary_name_leads_nowhere() {
    let place = Place::new();
    let victim = tempfile::NamedTempFile::new().unwrap();
    fs::write(victim.path(), "precious").unwrap();
    for link in [true, false] {
        if link {
            symlink(victim.path(), place.path(NEW)).unwrap();
        } else {
            place.write(NEW, b"of a crash");
        }
        let prepared = place.prepare(None).unwrap();
        assert_eq!(fs::metadata(place.path(NEW)).unwrap().mode() & 0o7777, 0o600, "nobody else reads or writes it");
        place.index().commit(prepared, None).unwrap();
        assert_eq!((fs::read_to_string(victim.path()).unwrap().as_str(), place.text().as_str()), ("precious", LEFT));
    }
}

#[test]
fn the_compressed_index_is_the_plain_one() {
    let place = Place::new();
    assert!(!place.index().is_compressed());
    place.index().compress(None).unwrap();
    assert!(place.index().is_compressed() && !place.has_new());
    let mut text = String::new();
    GzDecoder::new(File::open(place.path(COMPRESSED)).unwrap()).read_to_string(&mut text).unwrap();
    assert_eq!(text, TEXT);
    let metadata = fs::metadata(place.path(COMPRESSED)).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (0o644, 1_700_000_000));
    // The same index has the same bytes.
    let before = fs::read(place.path(COMPRESSED)).unwrap();
    place.index().compress(Some(Stat { mode: 0o660, ..place.index().stat().unwrap() })).unwrap();
    assert!(fs::read(place.path(COMPRESSED)).unwrap() == before);
    assert_eq!(fs::metadata(place.path(COMPRESSED)).unwrap().mode() & 0o7777, 0o660);
    // Without an index to compress, the one before stays.
    fs::remove_file(place.path(INDEX)).unwrap();
    assert_eq!(place.index().compress(None).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    assert!(fs::read(place.path(COMPRESSED)).unwrap() == before && !place.has_new());
    place.index().remove_compressed(Caller::DAEMON).unwrap();
    assert!(!place.index().is_compressed());
    assert_eq!(place.index().remove_compressed(Caller::DAEMON), Err(Errno::NOENT));
}

#[test]
fn packages_without_an_entry_get_one_from_their_metadata() {
    let place = Place::new();
    let values = [("CATEGORY", "a"), ("PF", "new-1"), ("SLOT", "2"), ("repository", "gentoo"), ("IUSE", "")];
    let package = xpak(&values);
    place.write("a/new-1.tbz2", &package);
    // Of another category, and without the ending of a package.
    place.write("a/strange-1.tbz2", &xpak(&[("CATEGORY", "b"), ("PF", "strange-1"), ("SLOT", "0")]));
    place.write("a/new-1.txt", &package);
    place.write("a/empty-1.tbz2", b"");
    let mut others = NoPackages::new();
    let entries = place.pick_up(&mut others);
    let [entry] = entries.as_slice() else { panic!("{entries:?}") };
    let size = package.len().to_string();
    for (key, value) in [
        ("CPV", Some("a/new-1")),
        ("PATH", Some("a/new-1.tbz2")),
        ("SIZE", Some(size.as_str())),
        ("SLOT", Some("2")),
        ("REPO", Some("gentoo")),
        ("IUSE", None),
    ] {
        assert_eq!(entry.get(key), value, "{key}");
    }
    let mtime = fs::metadata(place.path("a/new-1.tbz2")).unwrap().mtime();
    assert_eq!(entry.get("MTIME"), Some(mtime.to_string().as_str()));
    let mut known: Vec<&str> = others.iter().map(|(path, _)| path.as_str()).collect();
    known.sort_unstable();
    assert_eq!(known, ["a/changed-1.xpak", "a/strange-1.tbz2"]);
}

#[test]
fn what_was_found_to_be_no_package_is_read_again_only_when_it_changes() {
    let place = Place::new();
    place.write("a/new-1.tbz2", b"not yet a package");
    let mut others = NoPackages::new();
    assert!(place.pick_up(&mut others).is_empty());
    let facts = |others: &NoPackages| others.iter().find(|(path, _)| path == "a/new-1.tbz2").map(|(_, facts)| *facts);
    assert_eq!(facts(&others).unwrap().0, 17);
    // A package with the same size and time would be skipped: nobody reads the file again.
    let package = xpak(&[("CATEGORY", "a"), ("PF", "new-1"), ("SLOT", "0")]);
    place.write("a/new-1.tbz2", &package);
    let time = fs::metadata(place.path("a/new-1.tbz2")).unwrap().mtime();
    let mut known = NoPackages::from([("a/new-1.tbz2".to_owned(), (package.len() as u64, time))]);
    assert!(place.pick_up(&mut known).is_empty() && facts(&known).is_some());
    assert_eq!(place.pick_up(&mut others).len(), 1);
    assert_eq!(facts(&others), None);
    // What is gone is forgotten.
    fs::remove_dir_all(place.path("a")).unwrap();
    assert!(place.pick_up(&mut others).is_empty() && others.is_empty());
}
