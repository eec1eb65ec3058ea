//! `frozen` in binrepos.conf: only the administrator asks such a binhost for its index.

use std::fs;
use std::path::Path;

use crate::harness::{Options, Origin, Package, can_mount, eventually};

/// Seconds; a refresh takes one.
const REFRESHED: u64 = 20;
const TIME: u64 = 1_760_000_000;

fn write(root: &Path, origin: &Origin, frozen: &str) {
    let file = root.join("etc/portage/binrepos.conf");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, format!("[x]\nsync-uri = {}\nverify-signature = false\n{frozen}", origin.url())).unwrap();
}

#[test]
fn a_frozen_binhost_is_asked_only_by_the_administrator() {
    if !can_mount() {
        return;
    }
    let [one, two, three] = ["one-1", "two-1", "three-1"].map(|pf| Package::new(pf, 20_000));
    let origin = Origin::with(std::slice::from_ref(&one));
    let root = tempfile::TempDir::with_prefix("binhostfs-it.").unwrap();
    write(root.path(), &origin, "frozen = true\n");
    let place = tempfile::TempDir::with_prefix("binhostfs-it.").unwrap();
    let pkgdir = place.path().join("pkgdir");
    // Its index is old on purpose.
    let config = root.path().join("binhostfs.toml");
    fs::write(&config, "max-index-age = \"1d\"\n").unwrap();
    let arguments = [pkgdir.to_str().unwrap(), "--refresh", "1s", "--config", config.to_str().unwrap()];
    let options = Options::of_portage(root.path()).with(arguments);
    // It has no index yet.
    let mut mounted = options.mount_in(place);
    assert_eq!(mounted.listing(), std::slice::from_ref(&one.path));
    let asked = origin.asked("Packages.gz").len();
    origin.publish(TIME + 1, std::slice::from_ref(&two));
    let refreshes = mounted.counter("unmodified");
    eventually(REFRESHED, "the interval ends twice", || mounted.counter("unmodified") >= refreshes + 2);
    mounted.stop();
    mounted.start();
    eventually(REFRESHED, "the interval ends after a restart", || mounted.counter("unmodified") >= 1);
    assert_eq!((origin.asked("Packages.gz").len(), mounted.listing()), (asked, vec![one.path]));
    let status = mounted.runs(&["status"]);
    assert!(status.contains("not refreshed (frozen in binrepos.conf)"), "{status}");
    assert!(!status.contains("max-index-age"), "{status}");
    mounted.runs(&["refresh"]);
    assert_eq!(mounted.listing(), [two.path]);
    origin.publish(TIME + 2, std::slice::from_ref(&three));
    write(root.path(), &origin, "");
    eventually(REFRESHED, "it is asked again", || mounted.listing() == [three.path.clone()]);
    let status = mounted.runs(&["status"]);
    assert!(!status.contains("frozen") && status.contains("(max-index-age)"), "{status}");
}
