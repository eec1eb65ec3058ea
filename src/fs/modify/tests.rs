//! Each refusal of an operation: its errno, and that everything stays as it was.

use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::time::Duration;

use super::*;
use crate::fetch::Lookup;
use crate::fetch::sample::PackageScene;
use crate::fs::scene::{FsScene, errno, nobody};
use crate::tree::PACKAGES;

/// A binhost's packages, in a directory and at the top.
const PACKAGES_OF_BINHOST: [(&str, u64); 2] = [("a/x.xpak", 3), ("top.xpak", 4)];
const EXCLUSIVE: OFlags = OFlags::RDWR.union(OFlags::CREATE).union(OFlags::EXCL);
const SHARED: OFlags = OFlags::RDWR.union(OFlags::CREATE);

fn scene() -> FsScene {
    FsScene::new(PACKAGES_OF_BINHOST)
}

/// The operations of a scene on paths, each with the errno of its failure.
impl FsScene {
    fn modifier(&self) -> &Modifier {
        self.filesystem.modifier()
    }

    fn create(&self, caller: Caller, path: &str, flags: OFlags) -> Result<(), i32> {
        let (parent, name) = self.split(path);
        errno(self.modifier().create(caller, parent, name, 0o644, flags))
    }

    fn make_directory(&self, caller: Caller, path: &str) -> Result<(), i32> {
        let (parent, name) = self.split(path);
        errno(self.modifier().make_directory(caller, parent, name, 0o755))
    }

    fn symlink(&self, path: &str) -> Result<(), i32> {
        let (parent, name) = self.split(path);
        errno(self.modifier().symlink(Caller::DAEMON, parent, name, Path::new("target")))
    }

    fn link(&self, from: &str, to: &str) -> Result<(), i32> {
        let (parent, name) = self.split(to);
        errno(self.modifier().link(Caller::DAEMON, self.inode(from), parent, name))
    }

    fn unlink(&self, caller: Caller, path: &str) -> Result<(), i32> {
        let (parent, name) = self.split(path);
        errno(self.modifier().unlink(caller, parent, name))
    }

    fn remove_directory(&self, caller: Caller, path: &str) -> Result<(), i32> {
        let (parent, name) = self.split(path);
        errno(self.modifier().remove_directory(caller, parent, name))
    }

    fn renaming(&self, caller: Caller, from: &str, to: &str, replace: Replace) -> Result<Renaming, FsError> {
        self.modifier().rename(caller, self.split(from), self.split(to), replace)
    }

    fn rename(&self, from: &str, to: &str, replace: Replace) -> Result<(), i32> {
        errno(self.renaming(Caller::DAEMON, from, to, replace))
    }

    fn change(&self, caller: Caller, path: &str, change: AttrChange) -> Result<(), i32> {
        errno(self.modifier().change(caller, self.inode(path), (None, None), &change))
    }

    /// Whether a rescan is requested. Takes the request.
    fn is_rescan_requested(&self) -> bool {
        let changed = self.filesystem.names().front().changed();
        self.runtime.block_on(async { tokio::time::timeout(Duration::ZERO, changed).await.is_ok() })
    }

    /// The names beneath the mount.
    fn beneath(&self) -> Vec<String> {
        let names = fs::read_dir(self.lower("")).unwrap();
        let mut names: Vec<String> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn mode_of(&self, path: &str) -> u32 {
        fs::symlink_metadata(self.lower(path)).unwrap().permissions().mode() & 0o7777
    }
}

fn mode(mode: u32) -> AttrChange {
    AttrChange { mode: Some(mode), ..AttrChange::default() }
}

fn size(size: u64) -> AttrChange {
    AttrChange { size: Some(size), ..AttrChange::default() }
}

#[test]
fn nothing_changes_where_all_is_read_only() {
    let scene = FsScene::read_only(PACKAGES_OF_BINHOST);
    scene.put("d/note", "x");
    let daemon = Caller::DAEMON;
    for (what, done) in [
        ("create", scene.create(daemon, "new", EXCLUSIVE)),
        ("create where the binhost has a package", scene.create(daemon, "top.xpak", EXCLUSIVE)),
        ("mkdir", scene.make_directory(daemon, "new")),
        ("symlink", scene.symlink("new")),
        ("link", scene.link("d/note", "new")),
        ("unlink", scene.unlink(daemon, "d/note")),
        ("unlink of a package", scene.unlink(daemon, "top.xpak")),
        ("unlink of what is not there", scene.unlink(daemon, "none")),
        ("rmdir", scene.remove_directory(daemon, "d")),
        ("rename", scene.rename("d/note", "new", Replace::Yes)),
        ("a new index", scene.rename("d/note", PACKAGES, Replace::Yes)),
        ("chmod", scene.change(daemon, "d/note", mode(0o600))),
        ("chmod of the index", scene.change(daemon, PACKAGES, mode(0o600))),
        ("truncate of a package", scene.change(daemon, "top.xpak", size(0))),
        ("opening a package for writing", errno(scene.modifier().check_rewriting(daemon))),
    ] {
        assert_eq!(done, Err(libc::EROFS), "{what}");
    }
    assert_eq!((scene.beneath(), fs::read(scene.lower("d/note")).unwrap()), (vec!["d".to_owned()], b"x".to_vec()));
    assert_eq!(scene.link("top.xpak", "new"), Err(libc::EXDEV), "as everywhere");
}

#[test]
fn names_of_binhostfs_are_not_made_and_not_replaced() {
    let scene = scene();
    scene.put("note", "x");
    scene.put("d/.keep", "");
    for name in [PACKAGES, COMPRESSED, ".Packages.binhostfs-new", "d/y.xpak.binhostfs-held"] {
        let daemon = Caller::DAEMON;
        for (what, done) in [
            ("create", scene.create(daemon, name, EXCLUSIVE)),
            ("create without O_EXCL", scene.create(daemon, name, SHARED)),
            ("mkdir", scene.make_directory(daemon, name)),
            ("symlink", scene.symlink(name)),
            ("link", scene.link("note", name)),
            ("rename of a directory", scene.rename("d", name, Replace::Yes)),
        ] {
            assert_eq!(done, Err(libc::EPERM), "{what}: {name}");
        }
    }
    for name in [".Packages.binhostfs-new", "d/y.xpak.binhostfs-held"] {
        assert_eq!(scene.rename("note", name, Replace::Yes), Err(libc::EPERM), "{name}");
        scene.put(name, "own");
        assert_eq!(scene.unlink(Caller::DAEMON, name), Err(libc::EPERM), "{name}");
        assert_eq!(scene.rename(name, "taken", Replace::Yes), Err(libc::EXDEV), "{name}");
        assert_eq!(fs::read(scene.lower(name)).unwrap(), b"own");
    }
    assert_eq!(scene.unlink(Caller::DAEMON, PACKAGES), Err(libc::EPERM));
    assert_eq!(scene.unlink(Caller::DAEMON, COMPRESSED), Err(libc::ENOENT), "there is none");
    assert_eq!(scene.rename(PACKAGES, "taken", Replace::Yes), Err(libc::EXDEV));
}

#[test]
fn a_name_that_is_taken_is_not_made() {
    let scene = scene();
    scene.put("note", "x");
    let daemon = Caller::DAEMON;
    for taken in ["top.xpak", "a", "note"] {
        assert_eq!(scene.create(daemon, taken, EXCLUSIVE), Err(libc::EEXIST), "{taken}");
        // The kernel looks the name up again, and opens what is there.
        assert_eq!(scene.create(daemon, taken, SHARED), Err(libc::ESTALE), "{taken}");
        assert_eq!(scene.make_directory(daemon, taken), Err(libc::EEXIST), "{taken}");
        assert_eq!(scene.symlink(taken), Err(libc::EEXIST), "{taken}");
        assert_eq!(scene.link("note", taken), Err(libc::EEXIST), "{taken}");
        if taken != "note" {
            assert_eq!(scene.rename("note", taken, Replace::No), Err(libc::EEXIST), "{taken}");
        }
    }
    assert_eq!(scene.beneath(), ["note"]);
    let package = scene.inode("top.xpak");
    let create = |parent, name| errno(scene.modifier().create(daemon, parent, name, 0o644, EXCLUSIVE));
    assert_eq!(create(package, OsStr::new("new")), Err(libc::ENOTDIR));
    assert_eq!(create(Inode(1 << 40), OsStr::new("new")), Err(libc::ESTALE), "no such directory");
    // No binhost has such a name.
    assert_eq!(create(Inode::ROOT, OsStr::from_bytes(b"\xff.xpak")), Ok(()));
    assert_eq!(create(Inode::ROOT, OsStr::new(&"n".repeat(256))), Err(libc::ENAMETOOLONG));
}

#[test]
fn a_directory_of_the_binhost_is_made_as_the_lower_one_is() {
    let scene = scene();
    scene.permit("", 0o2775);
    scene.create(Caller::DAEMON, "a/note", EXCLUSIVE).unwrap();
    assert_eq!((scene.mode_of("a"), scene.mode_of("a/note")), (0o2775, 0o644));
    let (both, file) = (scene.lookup("a").unwrap(), scene.lookup("a/note").unwrap());
    assert_eq!((both.inode, both.mode), (tree_inode(Path::new("a")), 0o2775));
    assert!(local::is_number(file.inode.0));
}

#[test]
fn a_caller_without_rights_changes_nothing() {
    let Some(nobody) = nobody() else { return };
    let scene = scene();
    scene.put("note", "x");
    scene.put("sub/held.xpak.binhostfs-held", "held");
    scene.put("sticky/roots", "x");
    scene.permit("sticky", 0o1777);
    let rename = |from: &str, to: &str| errno(scene.renaming(nobody, from, to, Replace::Yes));
    for (what, done) in [
        ("create", scene.create(nobody, "new", EXCLUSIVE)),
        ("create in a binhost's directory", scene.create(nobody, "a/new", EXCLUSIVE)),
        ("mkdir", scene.make_directory(nobody, "new")),
        ("unlink", scene.unlink(nobody, "note")),
        ("unlink of a package", scene.unlink(nobody, "top.xpak")),
        ("unlink of a package in a directory that is not local", scene.unlink(nobody, "a/x.xpak")),
        ("rmdir", scene.remove_directory(nobody, "sub")),
        ("rename", rename("note", "new")),
        ("rename into a directory of all", rename("note", "sticky/new")),
        ("rename from a directory of all", rename("sticky/roots", "new")),
        ("a new index", rename("note", PACKAGES)),
        ("opening a package for writing", errno(scene.modifier().check_rewriting(nobody))),
        ("truncate of a package", scene.change(nobody, "top.xpak", size(0))),
    ] {
        let expected = if what == "rename from a directory of all" { libc::EPERM } else { libc::EACCES };
        assert_eq!(done, Err(expected), "{what}");
    }
    assert_eq!(scene.unlink(nobody, "sticky/roots"), Err(libc::EPERM));
    assert_eq!(scene.change(nobody, "note", mode(0o777)), Err(libc::EPERM));
    // Access is checked before anything goes, also of what the caller does not see.
    assert_eq!(scene.beneath(), ["note", "sticky", "sub"]);
    assert!(scene.lower("sub/held.xpak.binhostfs-held").exists() && scene.lower("sticky/roots").exists());
    scene.create(nobody, "sticky/own", EXCLUSIVE).unwrap();
    assert_eq!(fs::metadata(scene.lower("sticky/own")).unwrap().uid(), nobody.uid);
    scene.unlink(nobody, "sticky/own").unwrap();
}

#[test]
fn only_what_is_local_has_more_than_one_name() {
    let scene = scene();
    scene.put("y.xpak", "bytes");
    fs::create_dir(scene.lower("d")).unwrap();
    for from in ["top.xpak", "a", "d", PACKAGES] {
        assert_eq!(scene.link(from, "new"), Err(libc::EXDEV), "{from}");
    }
    assert!(!scene.is_rescan_requested());
    scene.link("y.xpak", "a/y.xpak").unwrap();
    assert!(scene.is_rescan_requested(), "an index may have to name it");
    let (one, other) = (scene.lookup("y.xpak").unwrap(), scene.lookup("a/y.xpak").unwrap());
    assert_eq!((one.inode, one.links), (other.inode, 2));
}

#[test]
fn what_is_removed_is_of_its_kind() {
    let scene = scene();
    scene.put("d/note", "x");
    scene.put("a/note", "x");
    let daemon = Caller::DAEMON;
    for (path, unlinked, removed) in [
        ("none", libc::ENOENT, libc::ENOENT),
        ("d", libc::EISDIR, libc::ENOTEMPTY),
        ("a", libc::EISDIR, libc::ENOTEMPTY),
    ] {
        assert_eq!((scene.unlink(daemon, path), scene.remove_directory(daemon, path)), (Err(unlinked), Err(removed)));
    }
    for file in ["top.xpak", "d/note", PACKAGES] {
        assert_eq!(scene.remove_directory(daemon, file), Err(libc::ENOTDIR), "{file}");
    }
    // Also where nothing local is in it: the binhost has it.
    scene.unlink(daemon, "a/note").unwrap();
    assert_eq!(scene.remove_directory(daemon, "a"), Err(libc::ENOTEMPTY));
    // A local file hides a package. Without it, the package is there again.
    scene.put("top.xpak", "local");
    let local = scene.inode("top.xpak");
    scene.unlink(daemon, "top.xpak").unwrap();
    assert!(local::is_number(local.0) && !local::is_number(scene.inode("top.xpak").0));
}

#[test]
fn a_directory_goes_with_what_is_held_back_in_it() {
    let scene = scene();
    scene.put("sub/y.xpak.binhostfs-held", "held");
    scene.remove_directory(Caller::DAEMON, "sub").unwrap();
    assert!(scene.beneath().is_empty());
    assert!(scene.is_rescan_requested(), "the list of held packages has one fewer");
    fs::create_dir(scene.lower("empty")).unwrap();
    scene.remove_directory(Caller::DAEMON, "empty").unwrap();
    assert!(!scene.is_rescan_requested());
    // With something else in it, what is held stays.
    scene.put("both/y.xpak.binhostfs-held", "held");
    scene.put("both/note", "x");
    assert_eq!(scene.remove_directory(Caller::DAEMON, "both"), Err(libc::ENOTEMPTY));
    assert!(scene.lower("both/y.xpak.binhostfs-held").exists());
}

/// The package leaves the cache and is still shown: its next open fetches it again.
#[test]
fn a_removed_package_leaves_the_cache_alone() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let inside = runtime.enter();
    let packages = PackageScene::new(1, &["one-1"], 2_000);
    drop(inside);
    let tree = Arc::new(Tree::of_view(1, Arc::clone(packages.view())));
    let scene = FsScene::of(tree, false, |_| Arc::clone(&packages.fetcher));
    let path = packages.packages[0].path();
    let wanted = packages.wanted(0);
    runtime.block_on(packages.fetch(0));
    assert!(matches!(packages.fetcher.look_up(&wanted), Lookup::Ready(_)));
    let before = scene.inode(&path);
    scene.unlink(Caller::DAEMON, &path).unwrap();
    assert!(matches!(packages.fetcher.look_up(&wanted), Lookup::Absent(_)));
    assert_eq!(scene.inode(&path), before);
    scene.unlink(Caller::DAEMON, &path).unwrap();
    runtime.block_on(packages.fetch(0));
    assert_eq!(packages.asked(), [0, 0]);
}

#[test]
fn what_cannot_be_renamed_is_copied_or_refused() {
    let scene = scene();
    scene.put("note", "x");
    scene.put("d/note", "x");
    scene.put("a/local", "x");
    for (from, to, errno) in [
        ("none", "new", libc::ENOENT),
        ("top.xpak", "new", libc::EXDEV),
        ("a/x.xpak", "new", libc::EXDEV),
        ("a", "new", libc::EXDEV),
        ("note", "a", libc::EISDIR),
        ("note", "d", libc::EISDIR),
        ("d", "a", libc::ENOTEMPTY),
        ("d", "top.xpak", libc::ENOTDIR),
        ("d", "note", libc::ENOTDIR),
        ("d", "d/sub", libc::EINVAL),
    ] {
        assert_eq!(scene.rename(from, to, Replace::Yes), Err(errno), "{from} to {to}");
    }
    assert_eq!(scene.rename("note", "d/note", Replace::No), Err(libc::EEXIST));
    assert!(!scene.is_rescan_requested(), "nothing has changed");
    // A file may take the place of a package, in a directory that only the binhost had.
    scene.rename("note", "top.xpak", Replace::Yes).unwrap();
    assert!(scene.is_rescan_requested());
    assert_eq!(fs::read(scene.lower("top.xpak")).unwrap(), b"x");
    // Packages may be below a directory.
    scene.rename("d", "e", Replace::Yes).unwrap();
    assert!(scene.is_rescan_requested());
    scene.rename("e/note", "e/other", Replace::No).unwrap();
    assert!(!scene.is_rescan_requested(), "no index names it");
}

#[test]
fn a_new_index_takes_the_place_of_the_one_before() {
    let scene = scene();
    let index = |number: u32| format!("TIMESTAMP: {number}\nVERSION: 0\n\nCPV: l/y-1\nPATH: l/y-1.xpak\nSIZE: 5\n\n");
    scene.put("l/y-1.xpak", "bytes");
    scene.put("new", &index(2000));
    assert_eq!(scene.rename("new", PACKAGES, Replace::No), Err(libc::EEXIST));
    let renaming = scene.renaming(Caller::DAEMON, "new", PACKAGES, Replace::Yes).unwrap();
    let Renaming::Index(new) = renaming else { panic!("{renaming:?}") };
    scene.modifier().replace_index(&new).unwrap();
    assert!(!scene.lower("new").exists() && scene.lower(PACKAGES).exists());
    assert_eq!(scene.filesystem.names().front().local_packages(), 1);
    // Without a compressed index, RENAME_NOREPLACE makes one.
    scene.put("new.gz", "");
    let renaming = scene.renaming(Caller::DAEMON, "new.gz", COMPRESSED, Replace::No).unwrap();
    let Renaming::Index(new) = renaming else { panic!("{renaming:?}") };
    scene.modifier().replace_index(&new).unwrap();
    assert!(scene.lookup(COMPRESSED).unwrap().size > 0 && !scene.lower("new.gz").exists());
    scene.put("new.gz", "");
    assert_eq!(scene.rename("new.gz", COMPRESSED, Replace::No), Err(libc::EEXIST));
    assert_eq!(scene.link(COMPRESSED, "copy.gz"), Err(libc::EXDEV));
    scene.unlink(Caller::DAEMON, COMPRESSED).unwrap();
    assert_eq!(scene.unlink(Caller::DAEMON, COMPRESSED), Err(libc::ENOENT));
    assert!(!scene.lower(COMPRESSED).exists());
}

/// Between the request and its work another file may get the name.
#[test]
fn an_index_that_is_another_file_by_now_is_not_taken() {
    let scene = scene();
    scene.put("new", "VERSION: 0\n\n");
    let renaming = scene.renaming(Caller::DAEMON, "new", PACKAGES, Replace::Yes).unwrap();
    let Renaming::Index(new) = renaming else { panic!("{renaming:?}") };
    scene.put("other", "other");
    fs::rename(scene.lower("other"), scene.lower("new")).unwrap();
    assert_eq!(errno(scene.modifier().replace_index(&new)), Err(libc::ESTALE));
    assert_eq!(fs::read(scene.lower("new")).unwrap(), b"other");
    assert!(!scene.lower(PACKAGES).exists());
    fs::remove_file(scene.lower("new")).unwrap();
    assert_eq!(errno(scene.modifier().replace_index(&new)), Err(libc::ENOENT));
}

#[test]
fn a_package_is_emptied_by_a_local_file_alone() {
    let scene = scene();
    let daemon = Caller::DAEMON;
    for change in [mode(0o600), AttrChange { uid: Some(1), ..mode(0o644) }] {
        assert_eq!(scene.change(daemon, "top.xpak", change), Err(libc::EPERM));
    }
    assert_eq!(scene.change(daemon, "top.xpak", size(1)), Err(libc::EPERM), "its bytes are not here");
    assert!(scene.beneath().is_empty());
    // The kernel looks the name up again, and finds the local file.
    assert_eq!(scene.change(daemon, "a/x.xpak", size(0)), Err(libc::ESTALE));
    assert!(scene.is_rescan_requested());
    assert_eq!(fs::read(scene.lower("a/x.xpak")).unwrap(), b"");
    assert!(local::is_number(scene.inode("a/x.xpak").0));
}

#[test]
fn a_placeholder_never_replaces_a_file() {
    let scene = scene();
    let mut bytes = tempfile::tempfile().unwrap();
    bytes.write_all(b"package").unwrap();
    let leave = |path: &str| errno(scene.modifier().leave_placeholder(path, Some((&bytes, 1234))));
    leave("a/x.xpak").unwrap();
    let made = fs::metadata(scene.lower("a/x.xpak")).unwrap();
    assert_eq!((made.len(), made.mtime(), scene.mode_of("a/x.xpak")), (7, 1234, 0o644));
    assert!(scene.is_rescan_requested());
    // The kernel may send the request twice.
    scene.put("top.xpak", "local");
    leave("top.xpak").unwrap();
    assert_eq!(fs::read(scene.lower("top.xpak")).unwrap(), b"local");
    scene.put("file", "x");
    assert_eq!(leave("file/x.xpak"), Err(libc::ENOTDIR));
    assert_eq!(scene.beneath(), ["a", "file", "top.xpak"], "no temporary file stays");
}

#[test]
fn the_index_has_an_owner_and_a_mode_where_a_file_keeps_them() {
    let scene = scene();
    let daemon = Caller::DAEMON;
    let time = |time| AttrChange { mtime: Some(time), ..AttrChange::default() };
    assert_eq!(scene.change(daemon, PACKAGES, size(0)), Err(libc::EPERM));
    // Nothing would keep it.
    assert_eq!(scene.change(daemon, PACKAGES, mode(0o600)), Err(libc::EPERM));
    assert_eq!(scene.change(daemon, PACKAGES, mode(0o644)), Ok(()), "it has that mode");
    let before = scene.lookup(PACKAGES).unwrap().mtime;
    scene.change(daemon, PACKAGES, time(Some((5, 0)))).unwrap();
    assert_eq!(scene.lookup(PACKAGES).unwrap().mtime, before, "the time is that of the index");
    if let Some(nobody) = nobody() {
        assert_eq!(scene.change(nobody, PACKAGES, time(Some((5, 0)))), Err(libc::EPERM));
        assert_eq!(scene.change(nobody, PACKAGES, mode(0o644)), Err(libc::EPERM));
    }
    scene.put(PACKAGES, "VERSION: 0\n\n");
    scene.change(daemon, PACKAGES, mode(0o640)).unwrap();
    assert_eq!((scene.mode_of(PACKAGES), scene.lookup(PACKAGES).unwrap().mode), (0o640, 0o640));
    if let Some(nobody) = nobody() {
        assert_eq!(scene.change(nobody, PACKAGES, mode(0o666)), Err(libc::EPERM));
        chown(scene.lower(PACKAGES), Some(nobody.uid), None).unwrap();
        scene.change(nobody, PACKAGES, mode(0o660)).unwrap();
        assert_eq!(scene.mode_of(PACKAGES), 0o660);
    }
}

#[test]
fn an_inode_that_is_another_file_by_now_is_not_changed() {
    let scene = scene();
    scene.put("note", "x");
    let note = scene.lookup("note").unwrap();
    let change = |generation| {
        let open = (None, Some(generation));
        errno(scene.modifier().change(Caller::DAEMON, note.inode, open, &mode(0o600)))
    };
    assert_eq!(change(note.generation.wrapping_sub(1)), Err(libc::ESTALE));
    assert_eq!(scene.mode_of("note"), 0o644);
    change(note.generation).unwrap();
    // An open file is changed also when its name is gone.
    let file = File::open(scene.lower("note")).unwrap();
    fs::remove_file(scene.lower("note")).unwrap();
    assert_eq!(change(note.generation), Err(libc::ESTALE));
    let open = (Some(&file), Some(note.generation));
    let (attr, _) = scene.modifier().change(Caller::DAEMON, note.inode, open, &mode(0o640)).unwrap();
    assert_eq!((attr.inode, attr.mode, attr.links), (note.inode, 0o640, 0));
}

#[test]
fn a_binhosts_directory_becomes_local_when_its_mode_changes() {
    let scene = scene();
    scene.change(Caller::DAEMON, "a", mode(0o700)).unwrap();
    assert_eq!((scene.mode_of("a"), scene.lookup("a").unwrap().mode), (0o700, 0o700));
    let root = scene.modifier().change(Caller::DAEMON, Inode::ROOT, (None, None), &mode(0o750));
    assert_eq!((errno(root), scene.mode_of("")), (Ok(()), 0o750));
    // Somebody put a file there, beneath the mount, after the kernel had looked the directory up.
    let directory = scene.inode("a");
    fs::remove_dir(scene.lower("a")).unwrap();
    scene.put("a", "file");
    let changed = scene.modifier().change(Caller::DAEMON, directory, (None, None), &mode(0o777));
    assert_eq!((errno(changed), scene.mode_of("a")), (Err(libc::ESTALE), 0o644));
}

#[test]
fn a_symbolic_link_has_times_and_an_owner_alone() {
    let scene = scene();
    symlink("/none", scene.lower("s")).unwrap();
    assert_eq!(scene.change(Caller::DAEMON, "s", mode(0o600)), Err(libc::EOPNOTSUPP));
    assert_eq!(scene.change(Caller::DAEMON, "s", size(0)), Err(libc::EOPNOTSUPP));
    let time = AttrChange { mtime: Some(Some((5, 0))), ..AttrChange::default() };
    scene.change(Caller::DAEMON, "s", time).unwrap();
    assert_eq!(fs::symlink_metadata(scene.lower("s")).unwrap().mtime(), 5);
}

#[test]
fn a_closed_file_is_looked_at_if_an_index_may_name_it() {
    let scene = scene();
    for (path, is_looked_at) in [("note", false), ("y.xpak", true), ("a/x.xpak", true), ("a/note", false)] {
        scene.put(path, "x");
        let inode = scene.inode(path);
        assert!(!scene.is_rescan_requested());
        scene.modifier().closed(inode);
        assert_eq!(scene.is_rescan_requested(), is_looked_at, "{path}");
    }
    // Its last name is gone, or it is no local file.
    let gone = scene.inode("y.xpak");
    fs::remove_file(scene.lower("y.xpak")).unwrap();
    [gone, scene.inode("top.xpak"), scene.inode("a")].into_iter().for_each(|inode| scene.modifier().closed(inode));
    assert!(!scene.is_rescan_requested());
}

#[test]
fn a_directory_without_changes_needs_no_sync() {
    let scene = scene();
    scene.put("d/note", "x");
    let sync = |path: &str| errno(scene.modifier().sync_directory(scene.inode(path)));
    assert_eq!((sync("a"), sync("d"), sync("")), (Ok(()), Ok(()), Ok(())));
    assert_eq!((sync("top.xpak"), sync("d/note")), (Err(libc::ENOTDIR), Err(libc::ENOTDIR)));
}
