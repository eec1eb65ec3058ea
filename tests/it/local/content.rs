//! What is shown of both, and what stays beneath.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Access, CWD};
use rustix::io::Errno;

use super::{beneath, mounted, tree};
use crate::harness::portage::entries;
use crate::harness::{Options, Origin, Package, can_mount, eventually, index_of};

fn allowed(path: &Path, access: Access) -> bool {
    rustix::fs::accessat(CWD, path, access, rustix::fs::AtFlags::empty()).is_ok()
}

/// Renames a new `Packages` into its place as Portage does.
fn write_index(pkgdir: &Path, text: &str) {
    let new = pkgdir.join("Packagesabcd");
    fs::write(&new, text).unwrap();
    fs::rename(&new, pkgdir.join("Packages")).unwrap();
}

#[test]
fn packages_of_the_binhost_are_never_changed() {
    if !can_mount() {
        return;
    }
    for passthrough in ["auto", "off"] {
        let (_origin, packages, mounted) = mounted(passthrough);
        let (path, directory) = (mounted.path(&packages[0].path), mounted.path("app-misc"));
        assert!(allowed(&directory, Access::WRITE_OK) && allowed(&mounted.mountpoint(), Access::WRITE_OK));
        assert!(allowed(&path, Access::READ_OK) && !allowed(&path, Access::WRITE_OK));
        assert_eq!(rustix::fs::chmod(&path, rustix::fs::Mode::RUSR), Err(Errno::PERM));
        assert_eq!(rustix::fs::rename(&path, mounted.path("elsewhere")), Err(Errno::XDEV));
        assert_eq!(rustix::fs::rmdir(&directory), Err(Errno::NOTEMPTY));
        // Removing it takes it out of the cache.
        assert!(fs::read(&path).unwrap() == packages[0].bytes);
        eventually(10, "it is kept", || mounted.blobs().len() == 1);
        fs::remove_file(&path).unwrap();
        assert!(mounted.blobs().is_empty() && mounted.log().contains("it leaves the cache"), "{}", mounted.log());
        assert!(fs::read(&path).unwrap() == packages[0].bytes);
        // Writing to it makes a local file, which starts with its bytes.
        let inode = fs::metadata(&path).unwrap().ino();
        let file = fs::File::options().read(true).write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"local", 0).unwrap();
        drop(file);
        let mut expected = packages[0].bytes.clone();
        expected[..5].copy_from_slice(b"local");
        assert!(fs::read(&path).unwrap() == expected);
        assert!(fs::metadata(&path).unwrap().ino() != inode && allowed(&path, Access::WRITE_OK));
        let gone = || !fs::read_to_string(mounted.path("Packages")).unwrap().contains("CPV: app-misc/one-1.0\n");
        eventually(20, "what is not the binhost's any more is not listed as such", gone);
        fs::write(mounted.path(&packages[1].path), "short").unwrap();
        assert_eq!(fs::read(mounted.path(&packages[1].path)).unwrap(), b"short");
        fs::remove_file(&path).unwrap();
        assert!(fs::read(&path).unwrap() == packages[0].bytes);
        eventually(20, "it is listed again", || !gone());
        let place = beneath(mounted);
        let names: Vec<_> =
            tree(&place.path().join("pkgdir")).into_keys().filter(|path| path.extension().is_some()).collect();
        assert_eq!(names, [Path::new(&packages[1].path)]);
    }
}

#[test]
fn what_was_beneath_is_shown_and_wins() {
    if !can_mount() {
        return;
    }
    let packages = [Package::new("one-1.0", 30_000), Package::new("two-2.0-r1", 5_000)];
    let origin = Origin::with(&packages);
    let mut mounted = Options::new(origin.url()).unstarted_in(tempfile::TempDir::with_prefix("binhostfs-it.").unwrap());
    let local = Package::new("three-3.0", 700);
    let place = |path: &str, bytes: &[u8]| {
        let path = mounted.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        let time =
            fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_760_000_000));
        fs::File::options().write(true).open(&path).unwrap().set_times(time).unwrap();
    };
    place(&local.path, &local.bytes);
    place(&packages[0].path, b"mine");
    place("notes", b"text");
    fs::write(mounted.path("Packages"), index_of(1_770_000_000, [&local, &packages[1]])).unwrap();
    mounted.start();
    assert_eq!(fs::read(mounted.path(&packages[0].path)).unwrap(), b"mine");
    assert_eq!(fs::read(mounted.path("notes")).unwrap(), b"text");
    assert!(fs::read(mounted.path(&packages[1].path)).unwrap() == packages[1].bytes);
    let shown = |mounted: &crate::harness::Mounted| -> Vec<String> {
        entries(&mounted.path("Packages")).into_iter().map(|entry| entry["CPV"].clone()).collect()
    };
    assert_eq!(shown(&mounted), ["app-misc/three-3.0", "app-misc/two-2.0-r1"]);
    let listing = mounted.listing();
    assert_eq!(listing, [&packages[0].path, &local.path, &packages[1].path, "notes"].map(|path| path.to_owned()));
    let metadata = fs::metadata(mounted.path("Packages")).unwrap();
    assert_eq!(metadata.mtime(), 1_770_000_000);
    // The same numbers after a restart.
    let inodes = |mounted: &crate::harness::Mounted| {
        [&local.path, "notes", "Packages", "app-misc"].map(|path| fs::metadata(mounted.path(path)).unwrap().ino())
    };
    // What is listed and not there is left out beneath, too, a moment later.
    eventually(20, "it is tidied", || mounted.log().contains("local packages: 1"));
    let tidied = || fs::metadata(mounted.path("Packages")).unwrap().ino() != metadata.ino();
    eventually(20, "the kernel is told", tidied);
    let before = inodes(&mounted);
    assert_eq!(mounted.stop(), Some(0));
    assert_eq!(entries(&mounted.path("Packages")).len(), 1);
    mounted.start();
    assert_eq!((inodes(&mounted), shown(&mounted).len()), (before, 2));
}

#[test]
fn a_new_index_is_split_at_once() {
    if !can_mount() {
        return;
    }
    let (_origin, packages, mounted) = mounted("auto");
    let local = Package::new("three-3.0", 700);
    fs::create_dir(mounted.path("app-misc/three")).unwrap();
    fs::write(mounted.path(&local.path), &local.bytes).unwrap();
    let mtime = fs::metadata(mounted.path(&local.path)).unwrap().mtime();
    let stanza = local.stanza().replace("MTIME: 1760000000", &format!("MTIME: {mtime}"));
    let text = index_of(1_790_000_000, &packages).replace("PACKAGES: 2", "PACKAGES: 3") + &stanza;
    let before = fs::metadata(mounted.path("Packages")).unwrap();
    write_index(&mounted.mountpoint(), &text);
    let after = fs::metadata(mounted.path("Packages")).unwrap();
    assert_eq!(after.mtime(), 1_790_000_000);
    assert_ne!(after.ino(), before.ino());
    assert!(!mounted.path("Packagesabcd").exists());
    let shown = fs::read_to_string(mounted.path("Packages")).unwrap();
    assert!(shown.contains("PACKAGES: 3\n") && shown.contains("CPV: app-misc/three-3.0\n"), "{shown}");
    assert_eq!(shown.matches("CPV: app-misc/one-1.0\n").count(), 1);
    assert_eq!(rustix::fs::unlink(mounted.path("Packages")), Err(Errno::PERM));
    assert!(!mounted.log().contains("WARN"), "{}", mounted.log());
    let place = beneath(mounted);
    let text = fs::read_to_string(place.path().join("pkgdir/Packages")).unwrap();
    assert_eq!(text, format!("ARCH: amd64\nPACKAGES: 1\nTIMESTAMP: 1790000000\nVERSION: 0\n\n{stanza}"));
}

#[test]
fn a_package_that_is_copied_in_is_picked_up() {
    if !can_mount() {
        return;
    }
    let (_origin, _, mounted) = mounted("auto");
    let local = Package::new("three-3.0", 700);
    fs::create_dir(mounted.path("app-misc/three")).unwrap();
    let misplaced = mounted.path("app-misc/three/other-1-1.gpkg.tar");
    fs::write(&misplaced, &local.bytes).unwrap();
    fs::write(mounted.path(&local.path), &local.bytes).unwrap();
    let entry = || entries(&mounted.path("Packages")).into_iter().find(|entry| entry["CPV"] == "app-misc/three-3.0");
    eventually(20, "it is listed", || entry().is_some());
    let found = entry().unwrap();
    assert_eq!((found["PATH"].as_str(), found["SIZE"].as_str()), (&*local.path, &*local.bytes.len().to_string()));
    assert!(!found.contains_key("MD5") && found.contains_key("SLOT"), "{found:?}");
    fs::remove_file(mounted.path(&local.path)).unwrap();
    eventually(20, "it is gone", || entry().is_none());
    let place = beneath(mounted);
    assert!(fs::read_to_string(place.path().join("pkgdir/Packages")).unwrap().starts_with("PACKAGES: 0\n"));
}
