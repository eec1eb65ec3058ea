//! The index of the local packages, where things go wrong or are asked for by somebody who may not.

use std::fs;

use rustix::io::Errno;

use super::mounted;
use crate::harness::portage::entries;
use crate::harness::{Package, can_mount, eventually};

#[test]
fn what_could_not_be_looked_at_is_looked_at_again() {
    if !can_mount() {
        return;
    }
    let (_origin, _, mounted) = mounted("auto");
    // What is shown cannot be written.
    let (scratch, away) = (mounted.cache().join("v1/generations"), mounted.cache().join("v1/away"));
    fs::rename(&scratch, &away).unwrap();
    let local = Package::new("three-3.0", 700);
    fs::create_dir(mounted.path("app-misc/three")).unwrap();
    fs::write(mounted.path(&local.path), &local.bytes).unwrap();
    eventually(60, "it is tried", || mounted.log().contains("local packages are not looked at"));
    fs::rename(&away, &scratch).unwrap();
    let listed = || entries(&mounted.path("Packages")).iter().any(|entry| entry["CPV"] == "app-misc/three-3.0");
    eventually(60, "it is listed without anything else that happens", listed);
}

#[test]
fn an_endless_index_is_refused() {
    if !can_mount() {
        return;
    }
    let (_origin, _, mounted) = mounted("auto");
    let before = fs::read(mounted.path("Packages")).unwrap();
    let new = mounted.path("Packagesabcd");
    fs::File::create(&new).unwrap().set_len(3 << 30).unwrap();
    assert_eq!(rustix::fs::rename(&new, mounted.path("Packages")), Err(Errno::FBIG));
    assert!(new.exists() && fs::read(mounted.path("Packages")).unwrap() == before);
}
