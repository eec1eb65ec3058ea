//! Rights of callers to see names, and numbers whose file is gone.

use std::fs;
use std::os::unix::fs::{chown, symlink};

use super::*;
use crate::fs::scene::{FsScene, errno, nobody};
use crate::tree::KEPT_TREES;

/// A binhost's packages, in a directory and at the top.
const PACKAGES_OF_BINHOST: [(&str, u64); 3] = [("a/x.xpak", 3), ("n/y.xpak", 5), ("top.xpak", 4)];
const READ: Access = Access::READ_OK;
const WRITE: Access = Access::WRITE_OK;
const EXECUTE: Access = Access::EXEC_OK;

fn scene() -> FsScene {
    FsScene::new(PACKAGES_OF_BINHOST)
}

impl FsScene {
    fn names(&self) -> &Namespace {
        self.filesystem.names()
    }

    fn look_up(&self, caller: Caller, parent: Inode, name: &str) -> Result<(Attr, Validity), i32> {
        self.names().lookup(caller, parent, OsStr::new(name)).map_err(|error| error.errno())
    }

    /// The errno of a lookup of `path` in its directory.
    fn finds(&self, caller: Caller, path: &str) -> Result<(), i32> {
        let (parent, name) = self.split(path);
        errno(self.names().lookup(caller, parent, name))
    }

    fn access(&self, caller: Caller, path: &str, access: Access) -> Result<(), i32> {
        errno(self.names().access(caller, self.inode(path), access))
    }

    /// The names of a directory behind a position, at most `most` of them, with the positions.
    fn page(&self, caller: Caller, inode: Inode, offset: u64, most: usize) -> Result<Vec<(u64, String)>, i32> {
        let mut names = Vec::new();
        let mut take = |at: u64, name: &OsStr, _: &Attr, _: Validity| {
            names.push((at, name.to_str().unwrap().to_owned()));
            names.len() == most
        };
        self.names().list(caller, inode, offset, &mut take).map_err(|error| error.errno())?;
        Ok(names)
    }

    fn listed(&self, path: &str) -> Vec<String> {
        let mut names = self.page(Caller::DAEMON, self.inode(path), 2, usize::MAX).unwrap();
        names.sort_by(|(_, one), (_, other)| one.cmp(other));
        names.into_iter().map(|(_, name)| name).collect()
    }
}

#[test]
fn a_number_without_a_file_is_stale() {
    let mut scene = scene();
    scene.put("note", "x");
    scene.put("d/note", "x");
    let [note, directory] = ["note", "d"].map(|path| scene.inode(path));
    fs::remove_file(scene.lower("note")).unwrap();
    fs::remove_dir_all(scene.lower("d")).unwrap();
    let package = scene.inode("n/y.xpak");
    let remote_directory = scene.inode("n");
    for generation in 0..KEPT_TREES as u64 {
        assert!(scene.names().place(package).is_ok(), "a tree of {generation} generations before has it");
        scene.publish([("a/x.xpak", 10 + generation)]);
    }
    for (what, inode) in [
        ("a local file that is gone", note),
        ("a local directory that is gone", directory),
        ("a package of a forgotten generation", package),
        ("a directory of a forgotten generation", remote_directory),
        ("a number that nothing had", Inode(1 << 40)),
    ] {
        assert_eq!(errno(scene.names().place(inode)), Err(libc::ESTALE), "{what}");
        assert_eq!(errno(scene.names().attributes(inode)), Err(libc::ESTALE), "{what}");
        assert_eq!(errno(scene.names().access(Caller::DAEMON, inode, READ)), Err(libc::ESTALE), "{what}");
        assert_eq!(scene.look_up(Caller::DAEMON, inode, "x").map(drop), Err(libc::ESTALE), "{what}");
        assert_eq!(scene.page(Caller::DAEMON, inode, 0, 9).map(drop), Err(libc::ESTALE), "{what}");
        assert_eq!(errno(scene.names().read_link(inode)), Err(libc::ESTALE), "{what}");
    }
}

/// A daemon before this one gave the kernel the number, when the binhost had the directory, too.
#[test]
fn a_directory_is_found_by_the_number_that_it_had_with_the_binhost() {
    let scene = scene();
    scene.put("deep/was/note", "x");
    let InodeTarget::Directory(path) = scene.names().place(tree_inode(Path::new("deep/was"))).unwrap() else {
        panic!()
    };
    assert_eq!(path, Path::new("deep/was"));
    // A file has never had such a number.
    let file = tree_inode(Path::new("deep/was/note"));
    assert_eq!(errno(scene.names().place(file)), Err(libc::ESTALE));
}

#[test]
fn only_a_directory_has_names() {
    let scene = scene();
    scene.put("note", "x");
    symlink("a", scene.lower("s")).unwrap();
    for path in ["note", "s", "top.xpak", PACKAGES] {
        let inode = scene.inode(path);
        assert_eq!(scene.look_up(Caller::DAEMON, inode, "x").map(drop), Err(libc::ENOTDIR), "{path}");
        assert_eq!(scene.page(Caller::DAEMON, inode, 0, 9).map(drop), Err(libc::ENOTDIR), "{path}");
        assert_eq!(errno(scene.names().may_list(Caller::DAEMON, inode)), Err(libc::ENOTDIR), "{path}");
    }
    assert_eq!(scene.finds(Caller::DAEMON, "none"), Err(libc::ENOENT));
    assert_eq!(scene.finds(Caller::DAEMON, &"n".repeat(256)), Err(libc::ENAMETOOLONG));
    let no_text = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff");
    assert_eq!(errno(scene.names().lookup(Caller::DAEMON, Inode::ROOT, no_text)), Err(libc::ENOENT));
}

#[test]
fn names_of_binhostfs_are_not_shown() {
    let scene = scene();
    for name in ["d/y.xpak.binhostfs-held", ".Packages.binhostfs-new", COMPRESSED] {
        scene.put(name, "own");
        assert_eq!(scene.finds(Caller::DAEMON, name), Err(libc::ENOENT), "{name}");
    }
    assert_eq!(scene.listed("d"), [""; 0]);
    assert_eq!(scene.listed(""), [PACKAGES, "a", "d", "n", "top.xpak"]);
    // What the kernel asks of them by its own number is not remembered either.
    scene.names().note_lookup(Inode::ROOT, OsStr::new(PACKAGES), Inode(5));
    scene.names().note_lookup(scene.inode("top.xpak"), OsStr::new("x"), Inode(5));
    assert_eq!(errno(scene.names().place(Inode(5))), Err(libc::ESTALE));
}

/// A symbolic link or a mount beneath leads out of the lower directory.
#[test]
fn a_path_does_not_lead_out_of_the_lower_directory() {
    let scene = scene();
    symlink("/etc", scene.lower("a")).unwrap();
    // The link hides the binhost's directory, and is not followed.
    let link = scene.lookup("a").unwrap();
    assert_eq!(link.kind, FileType::Symlink);
    assert_eq!(scene.names().read_link(link.inode).unwrap(), b"/etc");
    // The kernel may still have the number of the directory that the link hides.
    let directory = tree_inode(Path::new("a"));
    assert_eq!(scene.look_up(Caller::DAEMON, directory, "hostname").map(drop), Err(libc::ENOENT));
    assert!(scene.look_up(Caller::DAEMON, directory, "x.xpak").is_ok());
    let names = scene.page(Caller::DAEMON, directory, 2, 9).unwrap();
    assert_eq!(names.into_iter().map(|(_, name)| name).collect::<Vec<_>>(), ["x.xpak"]);
}

#[test]
fn only_a_symbolic_link_has_a_target() {
    let scene = scene();
    scene.put("note", "x");
    symlink("../none", scene.lower("s")).unwrap();
    assert_eq!(scene.names().read_link(scene.inode("s")).unwrap(), b"../none");
    for path in ["note", "a", "top.xpak", PACKAGES, ""] {
        assert_eq!(errno(scene.names().read_link(scene.inode(path))), Err(libc::EINVAL), "{path}");
    }
}

#[test]
fn the_rights_of_the_lower_directory_count_for_names() {
    let Some(nobody) = nobody() else { return };
    let scene = scene();
    scene.put("closed/note", "x");
    scene.put("listless/note", "x");
    scene.permit("closed", 0o700);
    scene.permit("listless", 0o711);
    let list = |path: &str| scene.page(nobody, scene.inode(path), 0, 99).map(drop);
    let may_list = |path: &str| errno(scene.names().may_list(nobody, scene.inode(path)));
    assert_eq!(scene.finds(nobody, "closed/note"), Err(libc::EACCES));
    assert_eq!(scene.finds(nobody, "listless/note"), Ok(()));
    for (path, expected) in
        [("closed", Err(libc::EACCES)), ("listless", Err(libc::EACCES)), ("a", Ok(())), ("", Ok(()))]
    {
        assert_eq!((list(path), may_list(path)), (expected, expected), "{path:?}");
    }
    // The kernel uses no name without a request where not everybody may search.
    let validity = |caller, path: &str| {
        let (parent, name) = scene.split(path);
        scene.names().lookup(caller, parent, name).unwrap().1
    };
    fs::create_dir(scene.lower("listless/sub")).unwrap();
    fs::create_dir(scene.lower("open")).unwrap();
    assert_eq!(validity(nobody, "listless/sub"), Validity::Fleeting);
    assert_eq!(validity(nobody, "open"), Validity::Directory);
    assert_eq!((validity(nobody, "a"), validity(nobody, "top.xpak")), (Validity::Told, Validity::Told));
}

/// A directory that is not local has the rights of the lower directory itself.
#[test]
fn binhosts_directories_are_as_closed_as_the_lower_one() {
    let Some(nobody) = nobody() else { return };
    let scene = scene();
    scene.permit("", 0o700);
    let directory = tree_inode(Path::new("a"));
    assert_eq!(scene.look_up(nobody, Inode::ROOT, "a").map(drop), Err(libc::EACCES));
    assert_eq!(scene.look_up(nobody, directory, "x.xpak").map(drop), Err(libc::EACCES));
    assert_eq!(scene.page(nobody, directory, 0, 9).map(drop), Err(libc::EACCES));
    assert_eq!(scene.access(nobody, "a", EXECUTE), Err(libc::EACCES));
    assert_eq!(scene.lookup("a").unwrap().mode, 0o700);
    // The name of the index may be in the kernel's cache, and its content is checked for each caller.
    assert_eq!(errno(scene.names().may_read_index(nobody, PACKAGES)), Err(libc::EACCES));
    assert_eq!(errno(scene.names().may_read_index(Caller::DAEMON, PACKAGES)), Ok(()));
}

#[test]
fn the_index_is_read_by_those_who_may_read_the_lower_one() {
    let Some(nobody) = nobody() else { return };
    let scene = scene();
    let may = |name: &str| errno(scene.names().may_read_index(nobody, name));
    assert_eq!((may(PACKAGES), may(COMPRESSED)), (Ok(()), Ok(())), "there is none beneath");
    scene.put(PACKAGES, "VERSION: 0\n\n");
    scene.permit(PACKAGES, 0o640);
    // The compressed one is made from it.
    assert_eq!((may(PACKAGES), may(COMPRESSED)), (Err(libc::EACCES), Err(libc::EACCES)));
    scene.put(COMPRESSED, "");
    scene.permit(COMPRESSED, 0o644);
    assert_eq!((may(PACKAGES), may(COMPRESSED)), (Err(libc::EACCES), Ok(())));
    scene.permit(COMPRESSED, 0o600);
    assert_eq!(may(COMPRESSED), Err(libc::EACCES));
    chown(scene.lower(COMPRESSED), Some(nobody.uid), None).unwrap();
    assert_eq!(may(COMPRESSED), Ok(()));
    scene.permit(PACKAGES, 0o644);
    assert_eq!(may(PACKAGES), Ok(()));
}

#[test]
fn packages_are_read_and_nothing_else() {
    let scene = scene();
    let daemon = Caller::DAEMON;
    for (path, access, expected) in [
        ("top.xpak", READ, Ok(())),
        ("top.xpak", WRITE, Err(libc::EACCES)),
        ("top.xpak", READ | EXECUTE, Err(libc::EACCES)),
        // Portage replaces it.
        (PACKAGES, READ | WRITE, Ok(())),
        (PACKAGES, EXECUTE, Err(libc::EACCES)),
        ("a", READ | WRITE | EXECUTE, Ok(())),
        ("", READ | WRITE | EXECUTE, Ok(())),
    ] {
        assert_eq!(scene.access(daemon, path, access), expected, "{path:?} {access:?}");
    }
    scene.put("note", "x");
    scene.permit("note", 0o640);
    assert_eq!(scene.access(daemon, "note", READ | WRITE), Ok(()));
    assert_eq!(scene.access(daemon, "note", EXECUTE), Err(libc::EACCES), "also for root");
    let Some(nobody) = nobody() else { return };
    assert_eq!(scene.access(nobody, "note", READ), Err(libc::EACCES));
    assert_eq!(scene.access(nobody, "top.xpak", READ), Ok(()));
    for directory in ["", "a"] {
        assert_eq!(scene.access(nobody, directory, WRITE), Err(libc::EACCES), "{directory:?}");
        assert_eq!(scene.access(nobody, directory, READ | EXECUTE), Ok(()), "{directory:?}");
    }
}

#[test]
fn nothing_is_written_where_all_is_read_only() {
    let scene = FsScene::read_only(PACKAGES_OF_BINHOST);
    scene.put("note", "x");
    for path in ["note", "a", "top.xpak", PACKAGES, ""] {
        assert_eq!(scene.access(Caller::DAEMON, path, WRITE), Err(libc::EROFS), "{path:?}");
        assert_eq!(scene.access(Caller::DAEMON, path, READ), Ok(()), "{path:?}");
    }
}

/// Local names come and go between two pages of a listing.
#[test]
fn a_listing_goes_on_behind_its_position() {
    let scene = scene();
    let names: Vec<String> = (0..20).map(|number| format!("own-{number}")).collect();
    names.iter().for_each(|name| scene.put(name, "x"));
    let whole = scene.page(Caller::DAEMON, Inode::ROOT, 0, usize::MAX).unwrap();
    assert!(whole.is_sorted());
    let (mut pages, mut offset) = (Vec::new(), 0);
    loop {
        let page = scene.page(Caller::DAEMON, Inode::ROOT, offset, 3).unwrap();
        let Some((last, _)) = page.last() else { break };
        offset = *last;
        pages.extend(page);
    }
    assert_eq!(pages, whole);
    // A name that was listed goes, and another one comes: the others keep their positions.
    let (middle, listed) = whole[15].clone();
    fs::remove_file(scene.lower(&listed)).unwrap();
    scene.put("new", "x");
    let rest: Vec<_> = scene.page(Caller::DAEMON, Inode::ROOT, middle, usize::MAX).unwrap();
    assert_eq!(rest.into_iter().filter(|(_, name)| name != "new").collect::<Vec<_>>(), whole[16..]);
}

#[test]
fn a_local_file_hides_what_the_binhost_has() {
    let scene = scene();
    scene.put("n", "a file in place of the directory");
    scene.put("a/x.xpak", "local");
    scene.put("a/note", "x");
    assert_eq!(
        (scene.listed(""), scene.listed("a")),
        (
            vec![PACKAGES.to_owned(), "a".to_owned(), "n".to_owned(), "top.xpak".to_owned()],
            vec!["note".to_owned(), "x.xpak".to_owned()],
        )
    );
    assert_eq!((scene.lookup("n").unwrap().kind, scene.lookup("a/x.xpak").unwrap().size), (FileType::RegularFile, 5));
    // Both have the directory: it has the number of its path, and the owner of the local one.
    scene.permit("a", 0o750);
    let both = scene.lookup("a").unwrap();
    assert_eq!((both.inode, both.mode, both.links), (tree_inode(Path::new("a")), 0o750, 1));
}
