//! Names: several of one file, long ones, and those that are not to be seen.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::io::Errno;

use super::index::as_nobody;
use super::{beneath, mounted, tree};
use crate::harness::{Options, Origin, Package, can_mount};

fn names(directory: &Path) -> Vec<String> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_name_of_a_file_is_listed_once() {
    if !can_mount() {
        return;
    }
    let (_origin, _, mounted) = mounted("auto");
    let directory = mounted.path("app-misc/new");
    fs::create_dir(&directory).unwrap();
    let expected: BTreeSet<String> = (0..300).map(|at| format!("{at:03}{}", "x".repeat(100))).collect();
    fs::write(directory.join(expected.first().unwrap()), "").unwrap();
    for name in expected.iter().skip(1) {
        fs::hard_link(directory.join(expected.first().unwrap()), directory.join(name)).unwrap();
    }
    let listed = names(&directory);
    assert_eq!((listed.len(), listed.into_iter().collect::<BTreeSet<_>>()), (300, expected));
}

#[test]
fn a_name_may_be_as_long_as_any_and_two_may_write_at_once() {
    if !can_mount() {
        return;
    }
    let pf: &'static str = Box::leak(format!("{}-1.0", "x".repeat(236)).into_boxed_str());
    let package = Package::new(pf, 20_000_000);
    assert!(Path::new(&package.path).file_name().unwrap().len() > 245, "{}", package.path);
    let origin = Origin::with(std::slice::from_ref(&package));
    let mounted = Options::new(origin.url()).mount();
    let path = mounted.path(&package.path);
    let open = || {
        let file = fs::File::options().read(true).write(true).open(&path).unwrap();
        assert_eq!(file.metadata().unwrap().len(), package.bytes.len() as u64);
    };
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(open))));
    assert!(fs::read(&path).unwrap() == package.bytes);
    let place = beneath(mounted);
    let files = |(_, (_, bytes)): &(_, (u32, Vec<u8>))| !bytes.is_empty();
    let found: Vec<_> = tree(&place.path().join("pkgdir")).into_iter().filter(files).map(|(path, _)| path).collect();
    assert!(found.contains(&package.path.clone().into()) && found.len() <= 2, "{found:?}");
}

#[test]
fn half_a_copy_is_not_shown_and_goes() {
    if !can_mount() {
        return;
    }
    let (_origin, _, mut mounted) = mounted("auto");
    fs::create_dir(mounted.path("app-misc/new")).unwrap();
    assert_eq!(mounted.stop(), Some(0));
    let left = mounted.path("app-misc/new/.binhostfs-new-7-0");
    fs::write(&left, "half").unwrap();
    mounted.start();
    assert!(names(&mounted.path("app-misc/new")).is_empty() && !left.exists());
    assert_eq!(mounted.stop(), Some(0));
    assert!(!left.exists());
}

#[test]
fn what_only_the_binhost_has_is_made_by_those_who_may_and_when_it_is_needed() {
    if !can_mount() {
        return;
    }
    let (_origin, packages, mounted) = mounted("auto");
    fs::set_permissions(mounted.place(), fs::Permissions::from_mode(0o755)).unwrap();
    let (package, directory) = (mounted.path(&packages[0].path), mounted.path("app-misc/one"));
    assert_eq!(package.parent(), Some(directory.as_path()));
    // There is such a file already.
    assert_eq!(rustix::fs::mkdir(&package, rustix::fs::Mode::RWXU), Err(Errno::EXIST));
    // The topmost directory is everybody's, the one between is not.
    fs::create_dir(mounted.path("app-misc/new")).unwrap();
    fs::set_permissions(mounted.path("app-misc"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(mounted.mountpoint(), fs::Permissions::from_mode(0o777)).unwrap();
    let refused = as_nobody(|| fs::write(directory.join("own"), "").unwrap_err());
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::ACCESS));
    let place = beneath(mounted);
    let found: Vec<_> = tree(&place.path().join("pkgdir")).into_keys().collect();
    assert_eq!(found, [Path::new("app-misc"), Path::new("app-misc/new")]);
}
