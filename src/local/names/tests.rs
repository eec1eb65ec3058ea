use std::fs::{self, Permissions};
use std::io::{Seek as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink};

use tempfile::TempDir;

use super::*;
use crate::local::LowerDirectory;

const NOBODY: u32 = 65534;

/// A lower directory.
struct Place {
    directory: TempDir,
    layer: LowerDirectory,
}

impl Place {
    fn new() -> Self {
        // Not TMPDIR: other users may be unable to search a directory above it, as where Portage
        // builds.
        let directory = TempDir::new_in("/tmp").unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let layer = LowerDirectory::open(directory.path(), false).unwrap();
        Self { directory, layer }
    }

    fn names(&self) -> &LowerNames {
        self.layer.names()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn permit(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
    }

    /// The names in a directory.
    fn listed(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(directory)).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Looks a name up as the kernel does. Returns its number.
    fn look_up(&self, name: &str) -> u64 {
        let number = self.layer.stat(Path::new(name)).unwrap().number;
        self.layer.note_lookup(number, Path::new(name));
        number
    }

    /// The paths at which an inode is known to be.
    fn known(&self, number: u64) -> Vec<PathBuf> {
        self.names().known.paths(number)
    }

    fn locate(&self, number: u64) -> Option<PathBuf> {
        self.layer.locate(number, |_, stat| stat.number == number).map(|(path, _)| path)
    }

    fn rename(&self, number: u64, from: &str, to: &str, replace: Replace) -> Result<(), Errno> {
        self.names().rename(Caller::DAEMON, number, Path::new(from), Path::new(to), replace)
    }
}

/// A caller of another user; `None`: only root can act as others.
fn user(uid: u32) -> Option<Caller> {
    rustix::process::geteuid().is_root().then(|| Caller::of_thread(std::process::id(), (uid, 1234)))
}

#[test]
fn a_new_file_has_the_mode_that_is_asked_for_and_serves_all_opens() {
    let place = Place::new();
    let create = |path: &str, flags, mode| place.names().create(Caller::DAEMON, Path::new(path), flags, mode);
    let (mut file, stat) = create("f", OFlags::WRONLY | OFlags::TRUNC | OFlags::APPEND, 0o100_666).unwrap();
    assert_eq!((stat.mode, stat.size, stat.is_file()), (0o666, 0, true));
    assert_eq!(stat.number, place.layer.stat(Path::new("f")).unwrap().number);
    file.write_all(b"text").unwrap();
    let mut text = [0; 4];
    file.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"text");
    // Nothing that has a name is opened or truncated, and no link leads elsewhere.
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path().join("g"), place.path("link")).unwrap();
    symlink(outside.path(), place.path("away")).unwrap();
    for (path, error) in [
        ("f", Errno::EXIST),
        ("link", Errno::EXIST),
        ("away/g", Errno::LOOP),
        ("../g", Errno::XDEV),
        ("none/g", Errno::NOENT),
        ("f/g", Errno::NOTDIR),
    ] {
        assert_eq!(create(path, OFlags::RDWR, 0o644).map(drop), Err(error), "{path}");
    }
    assert_eq!((place.read("f"), outside.path().read_dir().unwrap().count()), ("text".to_owned(), 0));
}

#[test]
fn a_new_file_belongs_to_its_caller() {
    let Some(nobody) = user(NOBODY) else { return };
    let place = Place::new();
    let create = || place.names().create(nobody, Path::new("f"), OFlags::RDWR, 0o400).map(|(_, stat)| stat);
    assert_eq!(create(), Err(Errno::ACCESS));
    place.permit("", 0o777);
    let stat = create().unwrap();
    assert_eq!((stat.uid, stat.gid, stat.mode), (NOBODY, 1234, 0o400));
}

#[test]
fn a_rename_replaces_a_file_only_where_it_may() {
    let place = Place::new();
    place.write("a", "one");
    place.write("b", "two");
    let [a, b] = ["a", "b"].map(|name| place.look_up(name));
    assert_eq!(place.rename(a, "a", "b", Replace::No), Err(Errno::EXIST));
    assert_eq!((place.read("a"), place.read("b")), ("one".to_owned(), "two".to_owned()));
    assert_eq!((place.locate(a), place.locate(b)), (Some("a".into()), Some("b".into())));
    assert_eq!(place.rename(a, "a", "b", Replace::Yes), Ok(()));
    assert_eq!((place.listed(""), place.read("b")), (vec!["b".to_owned()], "one".to_owned()));
    assert_eq!((place.known(a), place.known(b)), (vec![PathBuf::from("b")], vec![]));
    assert_eq!((place.locate(a), place.locate(b)), (Some("b".into()), None));
    assert_eq!(place.rename(a, "b", "c", Replace::No), Ok(()));
    assert_eq!((place.locate(a), place.read("c")), (Some("c".into()), "one".to_owned()));
}

#[test]
fn a_rename_between_two_names_of_a_file_changes_nothing() {
    let place = Place::new();
    place.write("a", "one");
    let number = place.look_up("a");
    let stat = place.names().link(Caller::DAEMON, Path::new("a"), Path::new("b")).unwrap();
    assert_eq!((stat.number, stat.links), (number, 2));
    place.look_up("b");
    assert_eq!(place.rename(number, "a", "b", Replace::Yes), Ok(()));
    assert_eq!(
        (place.listed(""), place.known(number)),
        (vec!["a".to_owned(), "b".to_owned()], ["a", "b"].map(PathBuf::from).to_vec())
    );
    // Without one of its names, the file is still at the other one.
    place.names().unlink(Caller::DAEMON, Path::new("a"), number).unwrap();
    assert_eq!((place.locate(number), place.read("b")), (Some("b".into()), "one".to_owned()));
}

#[test]
fn a_rename_that_fails_changes_nothing() {
    let place = Place::new();
    fs::create_dir(place.path("d")).unwrap();
    place.write("d/f", "inside");
    place.write("a", "one");
    let [d, a] = ["d", "a"].map(|name| place.look_up(name));
    assert_eq!(place.rename(d, "d", "d/e", Replace::No), Err(Errno::INVAL));
    assert_eq!(place.rename(d, "d", "a", Replace::Yes), Err(Errno::NOTDIR));
    assert_eq!(place.rename(a, "a", "d", Replace::Yes), Err(Errno::ISDIR));
    assert_eq!(place.rename(a, "a", "none/a", Replace::No), Err(Errno::NOENT));
    assert_eq!(place.rename(a, "none", "b", Replace::No), Err(Errno::NOENT));
    assert_eq!((place.listed(""), place.read("d/f")), (vec!["a".to_owned(), "d".to_owned()], "inside".to_owned()));
    assert_eq!((place.known(d), place.known(a)), (vec![PathBuf::from("d")], vec![PathBuf::from("a")]));
}

#[test]
fn a_directory_takes_what_is_known_below_it_along() {
    let place = Place::new();
    fs::create_dir_all(place.path("d/below")).unwrap();
    place.write("d/below/f", "inside");
    let [d, below, f] = ["d", "d/below", "d/below/f"].map(|name| place.look_up(name));
    place.rename(d, "d", "e", Replace::No).unwrap();
    assert_eq!(
        [d, below, f].map(|number| place.locate(number)),
        ["e", "e/below", "e/below/f"].map(|path| Some(path.into()))
    );
    // Over an empty one, which is gone then.
    fs::create_dir(place.path("empty")).unwrap();
    let empty = place.look_up("empty");
    place.rename(d, "e", "empty", Replace::Yes).unwrap();
    assert_eq!((place.locate(empty), place.locate(f)), (None, Some("empty/below/f".into())));
}

#[test]
fn a_file_that_was_replaced_meanwhile_is_not_taken_for_the_new_one() {
    let place = Place::new();
    place.write("a", "old");
    let old = place.look_up("a");
    place.write("b", "new");
    fs::rename(place.path("b"), place.path("a")).unwrap();
    assert_eq!(place.locate(old), None);
    let new = place.look_up("a");
    fs::hard_link(place.path("a"), place.path("c")).unwrap();
    place.look_up("c");
    // unlink(2) removes the name, whichever file has it.
    place.names().unlink(Caller::DAEMON, Path::new("a"), old).unwrap();
    assert_eq!((place.listed(""), place.known(old)), (vec!["c".to_owned()], vec![]));
    assert_eq!((place.locate(new), place.locate(old)), (Some("c".into()), None));
}

#[test]
fn what_cannot_be_removed_stays_known() {
    let place = Place::new();
    fs::create_dir_all(place.path("d/e")).unwrap();
    place.write("f", "one");
    let [d, e, f] = ["d", "d/e", "f"].map(|name| place.look_up(name));
    let unlink = |name: &str, number| place.names().unlink(Caller::DAEMON, Path::new(name), number);
    let remove = |name: &str, number| place.names().remove_directory(Caller::DAEMON, Path::new(name), number);
    assert_eq!((unlink("d", d), unlink("none", f)), (Err(Errno::ISDIR), Err(Errno::NOENT)));
    assert_eq!((remove("d", d), remove("f", f)), (Err(Errno::NOTEMPTY), Err(Errno::NOTDIR)));
    assert_eq!([d, e, f].map(|number| place.known(number).len()), [1; 3]);
    assert_eq!((remove("d/e", e), remove("d", d), unlink("f", f)), (Ok(()), Ok(()), Ok(())));
    assert_eq!([d, e, f].map(|number| place.known(number).len()), [0; 3]);
    assert!(place.listed("").is_empty());
}

#[test]
fn a_new_directory_is_not_taken_for_the_lower_one() {
    let place = Place::new();
    let directory = Path::new("d");
    // It does not exist yet: the lower directory's mode counts, for a second.
    assert!(place.layer.is_open_to_all(directory));
    let stat = place.names().make_directory(Caller::DAEMON, directory, 0o40_702).unwrap();
    assert_eq!((stat.is_directory(), stat.mode), (true, 0o702));
    assert!(!place.layer.is_open_to_all(directory));
    assert_eq!(place.names().make_directory(Caller::DAEMON, directory, 0o777).map(drop), Err(Errno::EXIST));
}

/// A binhost may have the directory still.
#[test]
fn a_directory_that_was_removed_is_as_open_as_the_lower_one() {
    let (place, directory) = (Place::new(), Path::new("d"));
    place.names().make_directory(Caller::DAEMON, directory, 0o755).unwrap();
    let number = place.look_up("d");
    fs::set_permissions(place.path(""), Permissions::from_mode(0o700)).unwrap();
    assert!(place.layer.is_open_to_all(directory));
    place.names().remove_directory(Caller::DAEMON, directory, number).unwrap();
    assert!(!place.layer.is_open_to_all(directory));
}

#[test]
fn missing_directories_are_made_like_the_lower_one() {
    let Some(nobody) = user(NOBODY) else { return };
    let place = Place::new();
    let make = |caller, path: &str| place.names().make_directories(caller, Path::new(path));
    chown(place.path(""), Some(4321), Some(1234)).unwrap();
    place.permit("", 0o2775);
    fs::create_dir(place.path("a")).unwrap();
    place.permit("a", 0o755);
    assert_eq!(make(nobody, "a/b/c"), Err(Errno::ACCESS));
    assert!(place.listed("a").is_empty());
    // What exists needs no permission.
    assert_eq!((make(nobody, "a"), make(nobody, "")), (Ok(()), Ok(())));
    place.permit("a", 0o775);
    assert_eq!(make(nobody, "a/b/c"), Ok(()));
    for made in ["a/b", "a/b/c"] {
        let metadata = fs::metadata(place.path(made)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (4321, 1234, 0o2775), "{made}");
    }
    place.write("f", "one");
    assert_eq!(make(Caller::DAEMON, "f/d"), Err(Errno::NOTDIR));
    assert_eq!(place.read("f"), "one");
}

#[test]
fn in_a_sticky_directory_only_owners_remove() {
    let (Some(nobody), Some(other), Some(root)) = (user(NOBODY), user(4321), user(0)) else { return };
    let place = Place::new();
    place.write("own", "");
    place.write("roots", "");
    chown(place.path("own"), Some(NOBODY), None).unwrap();
    let may = |caller, path: &str| place.names().may_remove(caller, Path::new(path));
    place.permit("", 0o777);
    assert_eq!((may(other, "own"), may(nobody, "roots")), (Ok(()), Ok(())));
    place.permit("", 0o1777);
    assert_eq!((may(nobody, "own"), may(nobody, "none")), (Ok(()), Ok(())));
    assert_eq!((may(other, "own"), may(nobody, "roots")), (Err(Errno::PERM), Err(Errno::PERM)));
    assert_eq!(may(Caller::DAEMON, "own"), Ok(()));
    chown(place.path(""), Some(4321), None).unwrap();
    assert_eq!((may(other, "own"), may(other, "roots"), may(root, "own")), (Ok(()), Ok(()), Ok(())));
    place.permit("", 0o1755);
    assert_eq!(may(nobody, "own"), Err(Errno::ACCESS));
}

#[test]
fn links_are_shown_and_not_followed() {
    let place = Place::new();
    let outside = tempfile::NamedTempFile::new().unwrap();
    let stat = place.names().symlink(Caller::DAEMON, outside.path(), Path::new("link")).unwrap();
    assert_eq!(stat.kind, FileType::Symlink);
    let number = place.look_up("link");
    assert_eq!(place.rename(number, "link", "other", Replace::No), Ok(()));
    assert_eq!(fs::read_link(place.path("other")).unwrap(), outside.path());
    place.names().unlink(Caller::DAEMON, Path::new("other"), number).unwrap();
    assert!(outside.path().exists() && place.listed("").is_empty());
}

#[test]
fn a_placeholder_never_replaces_anything() {
    let place = Place::new();
    place.write("f", "the user's");
    symlink("nowhere", place.path("link")).unwrap();
    let kind = |path: &str| place.names().create_placeholder(Path::new(path), None).map_err(|error| error.kind());
    assert_eq!(kind("new"), Ok(()));
    let metadata = fs::metadata(place.path("new")).unwrap();
    assert_eq!((metadata.len(), metadata.mode() & 0o7777), (0, 0o644));
    for taken in ["f", "link", "new"] {
        assert_eq!(kind(taken), Err(std::io::ErrorKind::AlreadyExists), "{taken}");
    }
    assert_eq!(kind("none/f"), Err(std::io::ErrorKind::NotFound));
    assert_eq!(
        (place.listed(""), place.read("f")),
        (["f", "link", "new"].map(str::to_owned).to_vec(), "the user's".to_owned())
    );
}

#[test]
fn a_placeholder_is_a_whole_copy_or_none() {
    let place = Place::new();
    fs::create_dir(place.path("d")).unwrap();
    let mut blob = tempfile::tempfile().unwrap();
    blob.write_all(&[7; 100_000]).unwrap();
    // Others read the same descriptor, and its offset is anywhere.
    assert_eq!(blob.stream_position().unwrap(), 100_000);
    place.names().create_placeholder(Path::new("d/f"), Some((&blob, 1_700_000_000))).unwrap();
    assert!(fs::read(place.path("d/f")).unwrap() == [7; 100_000]);
    assert_eq!((blob.stream_position().unwrap(), place.listed("d")), (100_000, vec!["f".to_owned()]));
    let metadata = fs::metadata(place.path("d/f")).unwrap();
    assert_eq!((metadata.mtime(), metadata.mtime_nsec(), metadata.mode() & 0o7777), (1_700_000_000, 0, 0o644));
    // A directory cannot be read like a file.
    let unreadable = File::open(place.path("d")).unwrap();
    let error = place.names().create_placeholder(Path::new("d/g"), Some((&unreadable, 1))).unwrap_err();
    assert_eq!((error.raw_os_error(), place.listed("d")), (Some(libc::EISDIR), vec!["f".to_owned()]));
}

#[test]
fn what_a_crash_has_left_is_removed_at_the_next_start() {
    let place = Place::new();
    fs::create_dir(place.path("d")).unwrap();
    let [file, deep, directory] = [(); 3].map(|()| new_name());
    place.write(&file, "");
    place.write(&format!("d/{deep}"), "");
    place.write("d/own", "");
    fs::create_dir(place.path(&directory)).unwrap();
    drop(LowerDirectory::open(place.directory.path(), true).unwrap());
    assert_eq!((place.listed("").len(), place.listed("d").len()), (3, 2), "nothing is written where all is read-only");
    drop(LowerDirectory::open(place.directory.path(), false).unwrap());
    assert_eq!((place.listed(""), place.listed("d")), (vec![directory, "d".to_owned()], vec!["own".to_owned()]));
}

#[test]
fn only_a_directory_that_exists_is_synced() {
    let place = Place::new();
    place.write("f", "");
    let sync = |path: &str| place.names().open_directory(Path::new(path)).map(|opened| opened.sync_all().unwrap());
    assert_eq!((sync(""), sync("none"), sync("f")), (Ok(()), Err(Errno::NOENT), Err(Errno::NOTDIR)));
}
