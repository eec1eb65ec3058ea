//! TIMESTAMP of an index: one from the future shuts no later index out, and none goes back.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::clock::{TestClock, now};
use crate::harness::{Act, Mounted, Options, Origin, Package, can_mount, eventually, have, index_of};

/// A refresh a second.
const REFRESHED: u64 = 20;
const TIME: u64 = 1_760_000_000;
const HOUR: u64 = 3600;
const NEVER: u64 = i64::MAX.cast_unsigned();

fn packages<const N: usize>(names: [&'static str; N]) -> [Package; N] {
    names.map(|pf| Package::new(pf, 9_000))
}

fn options(first: &Origin, mirrors: &[&Origin]) -> Options {
    let urls: Vec<String> = mirrors.iter().map(|mirror| mirror.url()).collect();
    let more = urls.iter().flat_map(|url| ["--mirror", url]);
    Options::new(first.url()).with(["--refresh", "1s"].into_iter().chain(more))
}

fn binhost(mounted: &Mounted) -> Value {
    mounted.status()["binhosts"][0].clone()
}

/// What `status` says about a URL.
fn mirror(mounted: &Mounted, origin: &Origin) -> Value {
    let all = binhost(mounted)["mirrors"].as_array().unwrap().clone();
    all.into_iter().find(|mirror| mirror["url"].as_str().unwrap().starts_with(&origin.url())).unwrap()
}

fn is_blamed(mounted: &Mounted, origin: &Origin) -> bool {
    let mirror = mirror(mounted, origin);
    let reason = mirror["distrusted_for"].as_str().unwrap_or_default();
    mirror["state"] == "distrusted" && reason.contains("from the future")
}

fn shows(mounted: &Mounted, package: &Package) {
    eventually(REFRESHED, &package.path, || mounted.listing() == [&*package.path]);
    assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes);
}

fn await_problem(mounted: &Mounted, problem: &str) {
    let said = || binhost(mounted)["refresh"]["error"].as_str().unwrap_or_default().to_owned();
    eventually(REFRESHED, problem, || said().contains(problem));
}

#[test]
fn a_mirror_from_the_future_is_blamed_and_the_next_one_asked() {
    if !can_mount() {
        return;
    }
    let [lie, old, new, newer] = packages(["lie-1", "old-1", "new-1", "newer-1"]);
    let (liar, honest) = (Origin::with(std::slice::from_ref(&old)), Origin::with(std::slice::from_ref(&old)));
    let mut mounted = options(&liar, &[&honest]).mount();
    shows(&mounted, &old);
    liar.publish(NEVER, std::slice::from_ref(&lie));
    honest.publish(TIME + 1, std::slice::from_ref(&new));
    shows(&mounted, &new);
    assert!(is_blamed(&mounted, &liar) && !is_blamed(&mounted, &honest));
    let said = mounted.log().lines().filter(|line| line.contains("WARN") && line.contains("from the future")).count();
    assert_eq!(said, 1, "{}", mounted.log());
    let asked = liar.asked("Packages.gz").len();
    honest.publish(TIME + 2, std::slice::from_ref(&newer));
    shows(&mounted, &newer);
    assert_eq!(liar.asked("Packages.gz").len(), asked, "others are asked before it");

    mounted.stop();
    honest.publish(TIME + 3, std::slice::from_ref(&new));
    mounted.start();
    shows(&mounted, &new);
    // It is refused where there is nothing else, too.
    let mounted = options(&liar, &[]).mount();
    await_problem(&mounted, "TIMESTAMP 9223372036854775807 is more than 24 h ahead");
    assert!(mounted.listing().is_empty());
    liar.publish(TIME, std::slice::from_ref(&old));
    shows(&mounted, &old);
}

/// Directory of the only binhost's index in the cache.
fn stored(cache: &Path) -> PathBuf {
    let mut all = fs::read_dir(cache.join("v1/index")).unwrap().map(|entry| entry.unwrap().path());
    let directory = all.next().unwrap();
    assert!(all.next().is_none());
    directory
}

/// What an earlier version of the program left, or this one under a wrong clock: it had accepted the index of `package`. An
/// earlier version stored the index as it is.
fn leave_index_of_the_future(mounted: &Mounted, package: &Package) {
    let directory = stored(&mounted.cache());
    let (index, state) = (directory.join("Packages"), directory.join("state.json"));
    fs::write(&index, index_of(NEVER, std::slice::from_ref(package))).unwrap();
    let metadata = fs::metadata(&index).unwrap();
    let mut said: Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    assert_eq!(said["timestamp"], TIME);
    said["timestamp"] = NEVER.into();
    said["file"] = serde_json::json!([metadata.len(), metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec()]);
    // An earlier version knew neither.
    ["older_since", "crc32"].iter().for_each(|field| drop(said.as_object_mut().unwrap().remove(*field)));
    fs::write(state, said.to_string()).unwrap();
}

#[test]
fn what_was_stored_of_the_future_shuts_nothing_out() {
    if !can_mount() {
        return;
    }
    let [old, new] = packages(["old-1", "new-1"]);
    let (first, second) = (Origin::with(std::slice::from_ref(&old)), Origin::with(std::slice::from_ref(&old)));
    let mut mounted = options(&first, &[&second]).mount();
    shows(&mounted, &old);
    mounted.stop();
    leave_index_of_the_future(&mounted, &old);
    // The mirror that it came from says that nothing has changed.
    first.script("Packages.gz", [Act::Status(304, Vec::new())]);
    second.publish(TIME + 1, std::slice::from_ref(&new));
    mounted.start();
    shows(&mounted, &new);
    let text = fs::read_to_string(stored(&mounted.cache()).join("state.json")).unwrap();
    assert!(text.contains(&format!("\"timestamp\":{}", TIME + 1)), "{text}");

    // The same index of the future, again and again, is refused as a new one is.
    mounted.stop();
    let mut alone = options(&first, &[]).mount();
    first.script("Packages.gz", [Act::Serve]);
    shows(&alone, &old);
    alone.stop();
    leave_index_of_the_future(&alone, &old);
    first.put_index(&fs::read(stored(&alone.cache()).join("Packages")).unwrap());
    alone.start();
    await_problem(&alone, "from the future");
    assert_eq!(alone.listing(), [&*old.path], "it is better than nothing");
    first.publish(TIME, std::slice::from_ref(&new));
    shows(&alone, &new);
}

#[test]
fn without_a_clock_an_index_is_taken_and_judged_later() {
    if !can_mount() {
        return;
    }
    let Some(clock) = TestClock::new() else { return };
    let [early, lie, honest] = packages(["early-1", "lie-1", "honest-1"]);
    let (first, second) = (Origin::with(std::slice::from_ref(&early)), Origin::with(std::slice::from_ref(&honest)));
    clock.set(HOUR);
    let mut mounted = clock.of(options(&first, &[&second])).mount();
    if !have(mounted.status()["time"].as_u64().unwrap() < 2 * HOUR, "a program that takes the time from libc") {
        return;
    }
    shows(&mounted, &early);
    first.publish(NEVER, std::slice::from_ref(&lie));
    shows(&mounted, &lie);
    assert!(!is_blamed(&mounted, &first));
    // One that is older than that is taken, too: nothing is known of its age.
    first.publish(TIME + 1, std::slice::from_ref(&early));
    shows(&mounted, &early);
    first.publish(NEVER, std::slice::from_ref(&lie));
    shows(&mounted, &lie);
    mounted.stop();
    mounted.start();
    shows(&mounted, &lie);
    assert!(watches_clock(mounted.pid()));

    clock.set(now());
    shows(&mounted, &honest);
    assert!(is_blamed(&mounted, &first));
    // What is not older is judged as ever from now on.
    second.publish(TIME - 1, std::slice::from_ref(&early));
    await_problem(&mounted, "the index is older");
    assert_eq!(mounted.listing(), [&*honest.path]);
}

/// Whether a process has the kernel report when CLOCK_REALTIME is set (TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET).
fn watches_clock(pid: u32) -> bool {
    let all = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    let texts = all.filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok());
    texts.into_iter().any(|text| text.contains("clockid: 0\n") && text.contains("settime flags: 03\n"))
}

#[test]
fn a_binhost_that_has_had_only_older_indexes_for_a_day_is_pointed_out() {
    if !can_mount() {
        return;
    }
    let Some(clock) = TestClock::new() else { return };
    let [one, two] = packages(["one-1", "two-1"]);
    let origin = Origin::with(std::slice::from_ref(&one));
    let mut mounted = clock.of(options(&origin, &[])).mount();
    let before = mounted.status()["time"].as_u64().unwrap();
    shows(&mounted, &one);
    origin.publish(TIME - 60, std::slice::from_ref(&two));
    await_problem(&mounted, "the index is older");
    let since = binhost(&mounted)["refresh"]["older_since"].as_u64().unwrap();
    assert!((before..=now()).contains(&since), "{since}");
    let name = binhost(&mounted)["name"].as_str().unwrap().to_owned();
    let pointed_out = |mounted: &Mounted| {
        let status = mounted.status_text();
        let page = mounted.ask("GET", "/").body;
        let metrics = mounted.ask("GET", "/metrics").body;
        let said = "all its indexes have been older than the one in use";
        let series = format!("binhostfs_index_frozen{{binhost=\"{name}\"}} 1\n");
        [status.contains(said), page.contains(said), metrics.contains(&series)]
    };
    clock.advance(23 * HOUR);
    if !have(
        mounted.status()["time"].as_u64().unwrap() >= before + 23 * HOUR,
        "a program that takes the time from libc",
    ) {
        return;
    }
    assert_eq!(pointed_out(&mounted), [false; 3]);
    // Neither a restart nor a binhost that is away ends it.
    mounted.stop();
    origin.script("Packages.gz", [Act::Status(503, Vec::new())]);
    mounted.start();
    await_problem(&mounted, "503");
    clock.advance(2 * HOUR);
    assert_eq!(pointed_out(&mounted), [true; 3]);
    assert_eq!(binhost(&mounted)["refresh"]["older_since"], since);

    origin.script("Packages.gz", [Act::Serve]);
    assert_eq!(mounted.ask("POST", "/v1/refresh?accept_older=true").status, 200);
    assert_eq!(mounted.listing(), [&*two.path]);
    assert_eq!(pointed_out(&mounted), [false; 3]);
    assert!(binhost(&mounted)["refresh"]["older_since"].is_null());
}
