//! Several binhosts in one mount, mirrors that have to agree, and builds that change.

use std::fs;

use serde_json::Value;

use crate::harness::{Act, Mounted, Options, Origin, Package, can_mount, eventually};

const TIME: u64 = 1_760_000_000;
/// A refresh a second, and what one with a dead URL takes.
const REFRESHED: u64 = 30;
const EIO: Option<i32> = Some(5);

fn package(pf: &'static str, payload: usize) -> Package {
    Package::new(pf, payload)
}

fn mount(preferred: &Origin, other: &Origin) -> Mounted {
    Options::new(preferred.url()).with(["--binhost", &other.url(), "--refresh", "1s"]).mount()
}

fn reads(mounted: &Mounted, path: &str, package: &Package) {
    assert!(fs::read(mounted.path(path)).unwrap() == package.bytes, "{path}");
}

fn binhost(mounted: &Mounted, number: usize) -> Value {
    mounted.status()["binhosts"][number].clone()
}

fn name(mounted: &Mounted, number: usize) -> String {
    binhost(mounted, number)["name"].as_str().unwrap().to_owned()
}

fn shown(mounted: &Mounted) -> Vec<String> {
    let text = fs::read_to_string(mounted.path("Packages")).unwrap();
    let mut paths: Vec<String> =
        text.lines().filter_map(|line| line.strip_prefix("PATH: ")).map(str::to_owned).collect();
    paths.sort();
    paths
}

#[test]
fn each_package_comes_from_its_binhost() {
    if !can_mount() {
        return;
    }
    let [same, mine, theirs] = [package("same-1", 9_000), package("mine-1", 9_000), package("theirs-1", 9_000)];
    // Another build at the same path.
    let other = package("mine-1", 12_000);
    let (one, two) =
        (Origin::with(&[same.clone(), mine.clone()]), Origin::with(&[same.clone(), other.clone(), theirs.clone()]));
    let mut mounted = mount(&one, &two);
    let below = format!("{}/{}", name(&mounted, 1), other.path);
    let mut expected = vec![below.clone(), mine.path.clone(), same.path.clone(), theirs.path.clone()];
    expected.sort();
    for _ in 0..2 {
        assert_eq!((shown(&mounted), mounted.listing()), (expected.clone(), expected.clone()));
        for (path, package) in [(&mine.path, &mine), (&below, &other), (&same.path, &same), (&theirs.path, &theirs)] {
            reads(&mounted, path, package);
        }
        mounted.settled();
        mounted.stop();
        mounted.start();
    }
    assert_eq!((one.package_requests(), two.package_requests()), (2, 2), "each was fetched once, from its binhost");
    let entries = &binhost(&mounted, 1)["entries"];
    assert_eq!((&entries["superseded"], &entries["moved"]), (&1.into(), &1.into()), "{entries}");
}

#[test]
fn one_binhost_that_is_away_harms_no_other() {
    if !can_mount() {
        return;
    }
    let [mine, theirs, new] = [package("mine-1", 9_000), package("theirs-1", 9_000), package("new-1", 9_000)];
    let (one, two) = (Origin::with(std::slice::from_ref(&mine)), Origin::with(std::slice::from_ref(&theirs)));
    let address = one.address();
    let mounted = mount(&one, &two);
    drop(one);
    two.publish(TIME + 1, &[theirs.clone(), new.clone()]);
    eventually(REFRESHED, "the other's news", || shown(&mounted) == [&*mine.path, &*new.path, &*theirs.path]);
    eventually(REFRESHED, "it is said to be away", || binhost(&mounted, 0)["away"] == true);
    reads(&mounted, &new.path, &new);
    assert_eq!(fs::read(mounted.path(&mine.path)).unwrap_err().raw_os_error(), EIO);
    assert_eq!(binhost(&mounted, 1)["refresh"]["error"], Value::Null);
    let _back = {
        let origin = Origin::start_on(address);
        origin.publish(TIME, std::slice::from_ref(&mine));
        origin
    };
    eventually(REFRESHED, "it is back", || binhost(&mounted, 0)["away"] == false);
    reads(&mounted, &mine.path, &mine);
}

#[test]
fn what_one_binhost_cannot_deliver_comes_from_the_next() {
    if !can_mount() {
        return;
    }
    let package = package("both-1", 9_000);
    let (one, two) = (Origin::with(std::slice::from_ref(&package)), Origin::with(std::slice::from_ref(&package)));
    one.script(&package.path, [Act::Flip(3_000)]);
    let mounted = mount(&one, &two);
    assert_eq!(fs::read(mounted.path(&package.path)).unwrap_err().raw_os_error(), EIO);
    eventually(REFRESHED, "the other binhost's takes its place", || binhost(&mounted, 1)["packages"] == 1);
    assert_eq!(shown(&mounted), [&*package.path]);
    reads(&mounted, &package.path, &package);
    assert_eq!(binhost(&mounted, 0)["entries"]["refused"], 1);
}

#[test]
fn a_quorum_of_mirrors_decides_what_is_shown() {
    if !can_mount() {
        return;
    }
    let [agreed, forged, missing] =
        [package("agreed-1", 9_000), package("forged-1", 9_000), package("missing-1", 9_000)];
    let real = package("forged-1", 9_500);
    let one = Origin::with(&[agreed.clone(), forged.clone(), missing.clone()]);
    let two = Origin::with(&[agreed.clone(), real.clone()]);
    let address = two.address();
    let mut mounted =
        Options::new(one.url()).with(["--mirror", &two.url(), "--quorum", "2", "--refresh", "1s"]).mount();
    eventually(REFRESHED, "what both have", || shown(&mounted) == [&*agreed.path]);
    assert_eq!(binhost(&mounted, 0)["entries"]["disputed"], 2);
    assert!(fs::metadata(mounted.path(&missing.path)).is_err());
    reads(&mounted, &agreed.path, &agreed);
    // Without the other mirror its last word counts, also after a restart.
    drop(two);
    mounted.stop();
    mounted.start();
    assert_eq!(shown(&mounted), [&*agreed.path]);
    let two = Origin::start_on(address);
    two.publish(TIME + 1, &[agreed.clone(), real, missing.clone()]);
    eventually(REFRESHED, "they agree on one more", || shown(&mounted) == [&*agreed.path, &*missing.path]);
    reads(&mounted, &missing.path, &missing);
}

#[test]
fn nothing_is_shown_before_the_mirrors_were_asked() {
    if !can_mount() {
        return;
    }
    let package = package("one-1", 9_000);
    let (one, two) = (Origin::with(std::slice::from_ref(&package)), Origin::start());
    two.script("Packages.gz", [Act::Status(503, Vec::new())]);
    let mounted = Options::new(one.url()).with(["--mirror", &two.url(), "--quorum", "2"]).mount();
    assert!(shown(&mounted).is_empty());
    assert!(mounted.log().contains("not enough of the binhost's URLs"), "{}", mounted.log());
}

#[test]
fn the_same_build_with_other_bytes_is_an_alarm() {
    if !can_mount() {
        return;
    }
    let (before, after) = (package("build-1", 9_000), package("build-1", 9_100));
    assert_eq!((before.build_id, &before.path), (after.build_id, &after.path));
    let origin = Origin::with(std::slice::from_ref(&before));
    let mut mounted = Options::new(origin.url()).with(["--refresh", "1s"]).mount();
    reads(&mounted, &before.path, &before);
    mounted.settled();
    mounted.stop();
    mounted.start();
    assert_eq!(mounted.status()["alarms"], serde_json::json!([]));
    origin.publish(TIME + 1, std::slice::from_ref(&after));
    eventually(REFRESHED, "the new index", || mounted.counter("refreshes") == 1);
    reads(&mounted, &after.path, &after);
    eventually(5, "the alarm", || mounted.counter("alarms") == 1);
    let status = mounted.status();
    assert_eq!(status["alarms"][0]["path"], after.path.as_str());
    assert!(status["alarms"][0]["reason"].as_str().unwrap().contains("other bytes than before"), "{status}");
    assert!(mounted.log().contains("ALARM"));
}
