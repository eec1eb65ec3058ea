//! After a refusal: what cannot be had leaves the index, so that emerge builds it instead of failing again.

use std::fs;
use std::process::Command;

use crate::harness::{Act, Mounted, Options, Origin, Package, binary, can_mount, eventually, index_of};

const EIO: Option<i32> = Some(5);

fn lists(mounted: &Mounted, path: &str) -> bool {
    fs::read_to_string(mounted.path("Packages")).unwrap().contains(&format!("PATH: {path}\n"))
}

fn refused(mounted: &Mounted) -> Vec<String> {
    let status = mounted.status();
    status["refused"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap().to_owned()).collect()
}

fn refresh(mounted: &Mounted, more: &[&str]) -> (bool, String) {
    let output =
        Command::new(binary()).arg("refresh").args(more).arg("--control").arg(mounted.control()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// Two packages; the binhost serves the first with a wrong byte, or does not have it at all.
fn with_one_bad(act: Act, test: impl Fn(&Origin, &[Package; 2], Mounted)) {
    if !can_mount() {
        return;
    }
    let packages = [Package::new("bad-1.0", 50_000), Package::new("good-1.0", 5_000)];
    let origin = Origin::with(&packages);
    origin.script(&packages[0].path, [act]);
    let mounted = Options::new(origin.url()).mount();
    assert!(lists(&mounted, &packages[0].path));
    assert_eq!(fs::read(mounted.path(&packages[0].path)).unwrap_err().raw_os_error(), EIO);
    eventually(20, "it leaves the index", || !lists(&mounted, &packages[0].path));
    test(&origin, &packages, mounted);
}

#[test]
fn a_refused_package_leaves_the_index_and_the_listing() {
    with_one_bad(Act::Flip(20_000), |_, packages, mut mounted| {
        assert!(lists(&mounted, &packages[1].path));
        let directory = mounted.path("app-misc");
        let names = || fs::read_dir(&directory).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        assert_eq!(names(), ["good"]);
        assert_eq!(refused(&mounted), [packages[0].path.as_str()]);
        assert!(fs::read(mounted.path(&packages[1].path)).unwrap() == packages[1].bytes);
        // A restart forgets nothing, and then not even the path is there any more.
        mounted.stop();
        mounted.start();
        assert!(!lists(&mounted, &packages[0].path) && lists(&mounted, &packages[1].path));
        assert_eq!(refused(&mounted), [packages[0].path.as_str()]);
        assert!(fs::metadata(mounted.path(&packages[0].path)).is_err());
    });
}

#[test]
fn a_package_that_is_gone_leaves_the_index_too() {
    with_one_bad(Act::Status(404, Vec::new()), |_, packages, mounted| {
        assert_eq!(refused(&mounted), [packages[0].path.as_str()]);
    });
}

#[test]
fn it_comes_back_when_the_index_changes() {
    with_one_bad(Act::Flip(20_000), |origin, packages, mounted| {
        let rebuilt = Package::new("bad-1.0", 60_000);
        origin.script(&rebuilt.path, [Act::Serve]);
        origin.publish(1_760_000_001, &[rebuilt.clone(), packages[1].clone()]);
        let (done, text) = refresh(&mounted, &[]);
        assert!(done && text.contains("2 packages"), "{text}");
        assert!(refused(&mounted).is_empty());
        assert!(fs::read(mounted.path(&rebuilt.path)).unwrap() == rebuilt.bytes);
    });
}

#[test]
fn it_comes_back_when_the_binhost_serves_other_bytes() {
    if !can_mount() {
        return;
    }
    let package = Package::new("bad-1.0", 50_000);
    let origin = Origin::with(std::slice::from_ref(&package));
    let mut broken = package.bytes.clone();
    broken[20_000] ^= 1;
    origin.put(&package.path, broken);
    let mounted = Options::new(origin.url()).with(["--refresh", "1s"]).mount();
    assert!(fs::read(mounted.path(&package.path)).is_err());
    eventually(20, "it leaves the index", || !lists(&mounted, &package.path));
    origin.put(&package.path, package.bytes.clone());
    eventually(20, "it comes back", || lists(&mounted, &package.path));
    eventually(20, "it can be read", || {
        fs::read(mounted.path(&package.path)).is_ok_and(|bytes| bytes == package.bytes)
    });
}

#[test]
fn it_comes_back_at_refresh() {
    with_one_bad(Act::Flip(20_000), |origin, packages, mounted| {
        origin.script(&packages[0].path, [Act::Serve]);
        assert!(refresh(&mounted, &[]).0);
        assert!(lists(&mounted, &packages[0].path));
        assert!(fs::read(mounted.path(&packages[0].path)).unwrap() == packages[0].bytes);
    });
}

#[test]
fn a_failure_of_the_network_hides_nothing() {
    if !can_mount() {
        return;
    }
    let package = Package::new("one-1.0", 50_000);
    let origin = Origin::with(std::slice::from_ref(&package));
    origin.script(&package.path, [Act::Status(500, Vec::new())]);
    let mounted = Options::new(origin.url()).mount();
    assert_eq!(fs::read(mounted.path(&package.path)).unwrap_err().raw_os_error(), EIO);
    assert!(refused(&mounted).is_empty() && lists(&mounted, &package.path));
}

#[test]
fn an_older_index_is_refused_until_somebody_accepts_it() {
    if !can_mount() {
        return;
    }
    let (old, new) = (Package::new("old-1.0", 5_000), Package::new("new-1.0", 5_000));
    let origin = Origin::with(std::slice::from_ref(&new));
    let mut mounted = Options::new(origin.url()).mount();
    let replay = index_of(1_750_000_000, [&old]);
    origin.put(&old.path, old.bytes.clone());
    origin.put_index(replay.as_bytes());
    for _ in 0..2 {
        let (done, text) = refresh(&mounted, &[]);
        assert!(!done && text.contains("1750000000") && text.contains("1760000000"), "{text}");
        assert!(lists(&mounted, &new.path) && !lists(&mounted, &old.path));
        assert!(mounted.status()["refresh"]["error"].as_str().unwrap().contains("older"));
        // Not by a restart either.
        mounted.stop();
        mounted.start();
    }
    let (done, text) = refresh(&mounted, &["--accept-older"]);
    assert!(done, "{text}");
    assert!(lists(&mounted, &old.path) && !lists(&mounted, &new.path));
}
