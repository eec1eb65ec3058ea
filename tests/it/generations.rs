//! Earlier generations: shown again, kept, listed; whatever the binhost does meanwhile.

use std::fs;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::portage::{self, Emerge, Nginx};
use crate::harness::{Act, Mounted, Options, Origin, Package, binary, binhost, can_mount, eventually};

/// A refresh a second, and three tries of each.
const REFRESHED: u64 = 20;
const TIME: u64 = 1_760_000_000;

/// `binhostfs COMMAND… --control …`
fn ask(mounted: &Mounted, command: &[&str]) -> Output {
    Command::new(binary()).args(command).arg("--control").arg(mounted.control()).output().unwrap()
}

#[track_caller]
fn said(mounted: &Mounted, command: &[&str]) -> String {
    let Output { status, stdout, stderr } = ask(mounted, command);
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

#[track_caller]
fn refused(mounted: &Mounted, command: &[&str], why: &str) {
    let Output { status, stderr, .. } = ask(mounted, command);
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    assert!(status.code() == Some(1) && stderr.contains(why), "{command:?}: {status} {stderr}");
}

fn generations(mounted: &Mounted) -> Vec<Value> {
    let all: Value = serde_json::from_str(&said(mounted, &["generations", "--json"])).unwrap();
    all["generations"].as_array().unwrap().clone()
}

fn numbers(mounted: &Mounted) -> Vec<u64> {
    generations(mounted).iter().map(|generation| generation["number"].as_u64().unwrap()).collect()
}

fn shown(mounted: &Mounted) -> u64 {
    mounted.status()["generation"]["number"].as_u64().unwrap()
}

fn await_refreshes(mounted: &Mounted, count: u64) {
    eventually(REFRESHED, "a new generation", || mounted.counter("refreshes") == count);
}

fn publish(origin: &Origin, timestamp: u64, packages: &[&Package]) {
    let packages: Vec<Package> = packages.iter().map(|package| (*package).clone()).collect();
    origin.publish(timestamp, &packages);
}

/// Three indexes one after the other: a package each, and one that stays.
fn three() -> (Origin, Mounted, [Package; 4]) {
    let packages = ["stays-1", "one-1", "two-1", "three-1"].map(|pf| Package::new(pf, 20_000));
    let origin = Origin::with(&packages);
    origin.publish(TIME, &packages[..2]);
    let mounted = Options::new(origin.url()).with(["--refresh", "1s"]).mount();
    for (count, package) in (1..).zip(&packages[2..]) {
        publish(&origin, TIME + count, &[&packages[0], package]);
        await_refreshes(&mounted, count);
    }
    (origin, mounted, packages)
}

fn paths(packages: &[&Package]) -> Vec<String> {
    let mut paths: Vec<String> = packages.iter().map(|package| package.path.clone()).collect();
    paths.sort();
    paths
}

#[test]
fn an_earlier_generation_is_shown_until_that_is_undone() {
    if !can_mount() {
        return;
    }
    let (origin, mut mounted, [stays, one, two, three]) = three();
    let all = generations(&mounted);
    let of = |key: &str| all.iter().map(|generation| generation[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("number"), [3, 2, 1]);
    assert_eq!(of("packages"), [2, 2, 2]);
    assert_eq!(of("added"), [1.into(), 1.into(), Value::Null]);
    assert_eq!(of("removed"), [1.into(), 1.into(), Value::Null]);
    assert_eq!(of("shown"), [true, false, false]);
    assert!(said(&mounted, &["generations"]).lines().next().unwrap().contains(" 2 packages  +1 -1 "));

    let summary = said(&mounted, &["rollback"]);
    assert!(summary.contains("generation 2 (rolled back)"), "{summary}");
    assert_eq!((mounted.listing(), shown(&mounted)), (paths(&[&stays, &two]), 2));
    said(&mounted, &["rollback", "1"]);
    assert_eq!((mounted.listing(), shown(&mounted)), (paths(&[&stays, &one]), 1));
    let text = fs::read_to_string(mounted.path("Packages")).unwrap();
    assert!(text.contains(&format!("TIMESTAMP: {TIME}\n")) && !text.contains("three-1"), "{text}");
    assert!(fs::read(mounted.path(&one.path)).unwrap() == one.bytes);
    refused(&mounted, &["rollback"], "no earlier generation");
    refused(&mounted, &["rollback", "77"], "no generation 77; there are 1, 2, 3");
    assert_eq!((mounted.listing(), shown(&mounted)), (paths(&[&stays, &one]), 1));

    // New indexes change nothing, and neither does a restart.
    let four = Package::new("four-1", 20_000);
    origin.put(&four.path, four.bytes.clone());
    publish(&origin, TIME + 9, &[&stays, &four]);
    let before = mounted.counter("unmodified");
    eventually(REFRESHED, "refreshes", || mounted.counter("unmodified") > before + 1);
    assert_eq!(mounted.listing(), paths(&[&stays, &one]));
    assert_eq!(mounted.stop(), Some(0));
    mounted.start();
    assert_eq!((mounted.listing(), shown(&mounted)), (paths(&[&stays, &one]), 1));
    let status = said(&mounted, &["status"]);
    assert!(status.contains("generation 1, rolled back (`binhostfs rollback --latest` undoes it)"), "{status}");
    assert_eq!(numbers(&mounted), [3, 2, 1]);

    said(&mounted, &["rollback", "--latest"]);
    assert_eq!((mounted.listing(), shown(&mounted)), (paths(&[&stays, &four]), 4));
    assert_eq!(numbers(&mounted), [4, 3, 2]);
    assert!(!said(&mounted, &["status"]).contains("rolled back"));
    // Names of what was shown until now can still be opened.
    assert!(fs::read(mounted.path(&one.path)).unwrap() == one.bytes);
    publish(&origin, TIME + 10, &[&stays, &three]);
    eventually(REFRESHED, "what comes is shown again", || mounted.listing() == paths(&[&stays, &three]));
}

#[test]
fn what_the_binhost_has_removed_can_be_had_only_from_the_cache() {
    if !can_mount() {
        return;
    }
    let (origin, mounted, [stays, one, two, three]) = three();
    assert!(fs::read(mounted.path(&two.path)).unwrap() == two.bytes);
    [&one, &two].iter().for_each(|package| origin.remove(&package.path));
    said(&mounted, &["rollback", "2"]);
    assert!(fs::read(mounted.path(&two.path)).unwrap() == two.bytes);
    said(&mounted, &["rollback", "1"]);
    let error = fs::read(mounted.path(&one.path)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    // Then Portage is not shown it, so that it is built from source.
    eventually(REFRESHED, "it leaves the index", || mounted.listing() == paths(&[&stays]));
    // What is shown comes first.
    eventually(REFRESHED, "it is said why", || mounted.status()["refused"].as_array().unwrap().len() == 1);
    let number = shown(&mounted);
    assert!(number > 3 && mounted.status()["generation"]["rolled_back"] == true, "{number}");
    // It has taken the place of the first one.
    assert_eq!(numbers(&mounted), [3, 2, number]);
    assert!(mounted.status()["refused"][0]["reason"].as_str().unwrap().contains("404"));
    // By its first number too.
    said(&mounted, &["rollback", "--latest"]);
    assert_eq!(mounted.listing(), paths(&[&stays, &three]));
    said(&mounted, &["rollback", "1"]);
    assert_eq!((mounted.listing(), shown(&mounted)), (paths(&[&stays]), number));
}

#[test]
fn a_generation_that_is_to_be_kept_outlives_the_others() {
    if !can_mount() {
        return;
    }
    let (origin, mut mounted, [stays, one, ..]) = three();
    assert!(said(&mounted, &["generations", "--keep", "1"]).contains("generation 1 is kept"));
    for count in 3..6 {
        publish(&origin, TIME + count, &[&stays]);
        await_refreshes(&mounted, count);
    }
    assert_eq!(numbers(&mounted), [6, 5, 4, 1]);
    assert_eq!(generations(&mounted)[3]["kept"], true);
    mounted.kill();
    mounted.start();
    said(&mounted, &["rollback", "1"]);
    assert_eq!(mounted.listing(), paths(&[&stays, &one]));
    said(&mounted, &["rollback", "--latest"]);
    said(&mounted, &["generations", "--release", "1"]);
    assert_eq!(numbers(&mounted), [6, 5, 4]);
    refused(&mounted, &["generations", "--keep", "1"], "no generation 1");
}

#[test]
fn as_many_generations_as_are_configured() {
    if !can_mount() {
        return;
    }
    let packages = ["one-1", "two-1"].map(|pf| Package::new(pf, 9_000));
    let origin = Origin::with(&packages[..1]);
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    let text = format!("refresh = \"1s\"\ngenerations = 1\n[binhost.x]\nurl = \"{}\"\n", origin.url());
    fs::write(file.path(), text).unwrap();
    let mounted = Options::configured(file.path()).mount();
    origin.publish(TIME + 1, &packages[1..]);
    await_refreshes(&mounted, 1);
    assert_eq!(numbers(&mounted), [2]);
    refused(&mounted, &["rollback"], "no earlier generation");
}

#[test]
fn a_damaged_generation_is_not_shown_again() {
    if !can_mount() {
        return;
    }
    let (_origin, mut mounted, [stays, _, two, three]) = three();
    said(&mounted, &["rollback", "1"]);
    mounted.stop();
    let index = mounted.cache().join("v1/generations/1/index-0");
    let mut text = fs::read(&index).unwrap();
    text[50] ^= 1;
    fs::remove_file(&index).unwrap();
    fs::write(&index, text).unwrap();
    mounted.start();
    assert_eq!(mounted.listing(), paths(&[&stays, &three]));
    let status = said(&mounted, &["status"]);
    assert!(status.contains("generation 1 should be shown, and cannot be: ") && status.contains("damaged"), "{status}");
    refused(&mounted, &["rollback", "1"], "damaged");
    said(&mounted, &["rollback", "2"]);
    assert_eq!(mounted.listing(), paths(&[&stays, &two]));
    said(&mounted, &["rollback", "--latest"]);
    assert!(!said(&mounted, &["status"]).contains("should be shown"));
}

/// An index that trickles in may do so for a quarter of an hour.
#[test]
fn nobody_who_asks_waits_for_a_binhost() {
    if !can_mount() {
        return;
    }
    let (origin, mounted, [stays, one, ..]) = three();
    publish(&origin, TIME + 5, &[&stays]);
    origin.script("Packages.gz", [Act::Slow(1, Duration::from_millis(500))]);
    let asked = origin.asked("Packages.gz").len();
    origin.await_requests("Packages.gz", asked + 1);
    for command in [
        &["generations"][..],
        &["why", "stays"],
        &["list"],
        &["rollback", "1"],
        &["why", "one"],
        &["generations", "--keep", "1"],
        &["rollback", "2"],
        &["rollback", "1"],
    ] {
        let before = Instant::now();
        said(&mounted, command);
        assert!(before.elapsed() < Duration::from_secs(10), "{command:?}: {:?}", before.elapsed());
    }
    assert_eq!(mounted.listing(), paths(&[&stays, &one]));
    // What was broken off is asked for again.
    origin.script("Packages.gz", [Act::Serve]);
    said(&mounted, &["generations", "--release", "1"]);
    said(&mounted, &["rollback", "--latest"]);
    eventually(REFRESHED, "the new index is shown", || mounted.listing() == paths(&[&stays]));
}

/// Two versions of app-misc/hello that the real emerge chooses from.
#[test]
fn emerge_plans_what_the_earlier_generation_has() {
    let Some(source) = portage::binhost("gpkg-multi") else { return };
    let place = tempfile::TempDir::with_prefix("binhostfs-it.").unwrap();
    let entries = portage::entries(&source.join("Packages"));
    let path = |cpv: &str| entries.iter().rfind(|entry| entry["CPV"] == cpv).unwrap()["PATH"].clone();
    let publish = |timestamp: &str, cpvs: &[&str]| {
        let assembled = binhost::Assembled::new(place.path().to_owned(), &source).header("TIMESTAMP", timestamp);
        cpvs.iter().fold(assembled, |assembled, cpv| assembled.take(&source, &path(cpv))).publish();
    };
    publish("1760000000", &["app-misc/hello-1.0", "sys-libs/glibc-2.41"]);
    let nginx = Nginx::serve(place.path());
    let mut mounted = Options::new(nginx.url()).with(["--refresh", "1s"]).mount();
    let emerge = Emerge::from(mounted.mountpoint());
    let plan = || emerge.plan(["--quiet", "app-misc/hello"]).into_iter().find(|line| line.contains("hello")).unwrap();
    assert!(plan().contains("hello-1.0"), "{}", plan());
    publish(
        "1760000100",
        &["app-misc/hello-1.0", "app-misc/hello-2.0-r1", "dev-libs/libfoo-1.3.0", "sys-libs/glibc-2.41"],
    );
    await_refreshes(&mounted, 1);
    assert!(plan().contains("hello-2.0-r1"), "{}", plan());
    said(&mounted, &["rollback"]);
    assert!(plan().contains("hello-1.0"), "{}", plan());
    assert_eq!(mounted.stop(), Some(0));
    mounted.start();
    assert!(plan().contains("hello-1.0"), "{}", plan());
    emerge.succeed(["app-misc/hello"]);
    assert_eq!(emerge.says("usr/bin/hello"), "hello-1.0");
    said(&mounted, &["rollback", "--latest"]);
    assert!(plan().contains("hello-2.0-r1"), "{}", plan());
}

/// What emerge has planned can be opened, whatever is shown meanwhile.
#[test]
fn a_running_emerge_ends_what_it_began_across_new_generations() {
    let Some(source) = portage::binhost("gpkg-multi") else { return };
    let copy = portage::copy_of(&source);
    let nginx = Nginx::serve_with(copy.path(), "location ~ tar$ { limit_rate 4k; }");
    let mounted = Options::new(nginx.url()).with(["--refresh", "1s", "--prefetch", "off"]).mount();
    let emerge = Emerge::from(mounted.mountpoint());
    let entries = portage::entries(&source.join("Packages"));
    let [big, many] = ["app-misc/big-1", "app-misc/many-1"]
        .map(|cpv| entries.iter().find(|entry| entry["CPV"] == cpv).unwrap()["PATH"].clone());
    let text = fs::read_to_string(source.join("Packages")).unwrap();
    let built: u64 = text.lines().find_map(|line| line.strip_prefix("TIMESTAMP: ")).unwrap().parse().unwrap();
    let only = |count: u64, paths: &[&String]| {
        let timestamp = (built + count).to_string();
        let new = binhost::Assembled::new(copy.path().to_owned(), &source).header("TIMESTAMP", &timestamp);
        paths.iter().fold(new, |new, path| new.take(&source, path)).publish();
    };
    std::thread::scope(|scope| {
        let ended = scope.spawn(|| emerge.run(["app-misc/greet"]));
        eventually(120, "the first package is being fetched", || !mounted.status()["downloads"][0].is_null());
        for (count, paths) in [(1, &[&big, &many][..]), (2, &[&big])] {
            only(count, paths);
            await_refreshes(&mounted, count);
        }
        assert_eq!(mounted.listing(), [&*big]);
        let before = nginx.fetched().len();
        let ended = ended.join().unwrap();
        assert_eq!(ended.code, Some(0), "{}", ended.output);
        // Most of it was opened after its names had gone.
        assert!(nginx.fetched().len() >= before + 3, "{before} of {:?}", nginx.fetched());
    });
    assert_eq!(emerge.says("usr/bin/greet"), "greet-0.9");
}

#[test]
fn other_rules_hold_for_an_earlier_generation_too() {
    if !can_mount() {
        return;
    }
    let [stays, one, two] = ["stays-1", "one-1", "two-1"].map(|pf| Package::new(pf, 9_000));
    let origin = Origin::with(&[stays.clone(), one.clone()]);
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    let write = |rules: &str| {
        let text = format!("refresh = \"1s\"\n{rules}\n[binhost.x]\nurl = \"{}\"\n", origin.url());
        fs::write(file.path(), text).unwrap();
    };
    write("");
    let mounted = Options::configured(file.path()).mount();
    publish(&origin, TIME + 1, &[&stays, &two]);
    await_refreshes(&mounted, 1);
    said(&mounted, &["rollback"]);
    assert_eq!(mounted.listing(), paths(&[&stays, &one]));
    // A binhost that keeps everybody waiting does not hold it up either.
    publish(&origin, TIME + 2, &[&stays]);
    origin.script("Packages.gz", [Act::Slow(1, Duration::from_millis(500))]);
    origin.await_requests("Packages.gz", origin.asked("Packages.gz").len() + 1);
    write("exclude = [\"app-misc/one\"]");
    eventually(REFRESHED, "the rule holds", || mounted.listing() == paths(&[&stays]));
    assert_eq!(mounted.status()["generation"]["rolled_back"], true);
    assert_eq!(numbers(&mounted), [2, 3]);
    write("");
    eventually(REFRESHED, "it is there again", || mounted.listing() == paths(&[&stays, &one]));
    assert!(fs::read(mounted.path(&one.path)).unwrap() == one.bytes);
    // Of another binhost it had nothing.
    write("[binhost.y]\nurl = \"file:///nonexistent\"");
    eventually(REFRESHED, "there are two", || mounted.status()["binhosts"].as_array().unwrap().len() == 2);
    assert_eq!(mounted.listing(), paths(&[&stays, &one]));
}
