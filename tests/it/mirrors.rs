//! Several URLs of one binhost: who is asked, what a bad one costs, and that any of them is enough.

use std::fs;
use std::time::{Duration, Instant};

use binhostfs::internals::upstream::{PATIENCE, STALL_TIMEOUT};
use serde_json::Value;

use crate::harness::{Act, Mounted, Options, Origin, Package, can_mount, eventually, index_of};

const PAYLOAD: usize = 300_000;
/// In the midst of the body.
const MIDDLE: usize = 150_000;
const TIME: u64 = 1_760_000_000;
/// Less than a silent URL costs where nobody else is at hand; the rest is for machines under load.
const SOON: Duration = STALL_TIMEOUT;
/// A first rest is over.
const RESTED: u64 = 25;
/// A refresh a second, and what one with a silent URL takes.
const REFRESHED: u64 = 20;

fn packages<const N: usize>(names: [&'static str; N]) -> [Package; N] {
    names.map(|pf| Package::new(pf, PAYLOAD))
}

fn options(first: &str, second: &Origin) -> Options {
    Options::new(first).with(["--mirror", &second.url()])
}

fn mount(first: &Origin, second: &Origin) -> Mounted {
    let mounted = options(&first.url(), second).mount();
    // The first refresh comes by itself.
    eventually(REFRESHED, "a refresh", || mounted.counter("unmodified") == 1);
    mounted
}

/// Reads a package and says how long that took.
fn read(mounted: &Mounted, package: &Package) -> Duration {
    let start = Instant::now();
    assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes, "{}", package.path);
    start.elapsed()
}

/// What `status` says about a URL.
fn mirror(mounted: &Mounted, url: &str) -> Value {
    let status = mounted.status();
    let all = status["binhosts"][0]["mirrors"].as_array().unwrap();
    all.iter().find(|mirror| mirror["url"].as_str().unwrap().starts_with(url)).unwrap().clone()
}

/// How often the package was asked for, and from which byte on.
fn asked(origin: &Origin, package: &Package) -> Vec<Option<usize>> {
    let from = |range: &String| range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap();
    origin.asked(&package.path).iter().map(|asked| asked.range.as_ref().map(from)).collect()
}

fn everywhere(origin: &Origin, packages: &[Package], act: &Act) {
    for path in packages.iter().map(|package| package.path.as_str()).chain(["Packages.gz", "Packages"]) {
        origin.script(path, [act.clone()]);
    }
}

#[test]
fn the_next_mirror_takes_over() {
    if !can_mount() {
        return;
    }
    let (whole, rest) = (vec![None], vec![Some(MIDDLE)]);
    let table = [
        ("wrong-1", Act::Flip(1000), whole.clone()),
        ("absent-1", Act::Status(404, Vec::new()), whole.clone()),
        ("broken-1", Act::Status(500, Vec::new()), whole.clone()),
        ("old-1", Act::ShortBy(7), whole.clone()),
        ("loop-1", Act::Redirect("/app-misc/loop/loop-1-1.gpkg.tar".to_owned()), whole.clone()),
        // The mirror goes on where the first one broke off.
        ("closed-1", Act::CloseAt(MIDDLE), rest.clone()),
        ("stalled-1", Act::StallAt(MIDDLE), rest.clone()),
        ("chunked-1", Act::ChunkedUpTo(MIDDLE), rest.clone()),
        // Parts that do not fit together are fetched again.
        ("closed-and-wrong-1", Act::CloseAt(MIDDLE), vec![Some(MIDDLE), None]),
    ];
    std::thread::scope(|scope| {
        for (pf, act, expected) in table {
            scope.spawn(move || {
                let [package] = packages([pf]);
                let origin = || Origin::with(std::slice::from_ref(&package));
                let (first, second) = (origin(), origin());
                let mounted = mount(&first, &second);
                if pf == "closed-and-wrong-1" {
                    first.put(&package.path, package.bytes.iter().map(|byte| byte ^ 1).collect());
                }
                first.script(&package.path, [act]);
                let took = read(&mounted, &package);
                assert!(took < SOON, "{pf}: {took:?}");
                assert_eq!(asked(&second, &package), expected, "{pf}");
                let times = if pf == "loop-1" { 6 } else { 1 };
                assert_eq!(first.asked(&package.path).len(), times, "{pf}");
                assert_eq!(mounted.counter("failed_opens"), 0);
            });
        }
    });
}

#[test]
fn a_bad_first_url_costs_one_package_a_moment_and_the_next_nothing() {
    if !can_mount() {
        return;
    }
    let acts = [Act::Silence, Act::StallAt(0), Act::Status(503, Vec::new()), Act::ResetAt(0)];
    std::thread::scope(|scope| {
        for act in acts {
            scope.spawn(move || {
                let all = packages(["one-1", "two-1", "three-1", "four-1"]);
                let (first, second) = (Origin::with(&all), Origin::with(&all));
                let mounted = mount(&first, &second);
                everywhere(&first, &all, &act);
                let took = read(&mounted, &all[0]);
                assert!(took < SOON, "{act:?}: {took:?}");
                assert_eq!(asked(&first, &all[0]), [None], "{act:?}");
                let bad = mirror(&mounted, &first.url());
                assert_eq!((&bad["state"], &bad["failures"]), (&"backing_off".into(), &1.into()), "{act:?}");
                assert!(bad["last_error"].as_str().unwrap().contains(&first.url()), "{bad}");
                assert!(bad["backing_off_until"].as_u64() >= mounted.status()["time"].as_u64(), "{bad}");
                for package in &all[1..3] {
                    let took = read(&mounted, package);
                    assert!(took < PATIENCE, "{act:?}: {took:?}");
                }
                assert_eq!(first.package_requests(), 1, "{act:?}");
                let good = mirror(&mounted, &second.url());
                assert_eq!((&good["state"], &good["failures"]), (&"healthy".into(), &0.into()));
                assert!(good["rate"].as_u64().unwrap() > 0);

                // Once it has rested, it is the first again, and if it does well nothing is held against it.
                everywhere(&first, &all, &Act::Serve);
                eventually(RESTED, "it has rested", || mirror(&mounted, &first.url())["state"] == "healthy");
                read(&mounted, &all[3]);
                assert_eq!((asked(&first, &all[3]).len(), asked(&second, &all[3]).len()), (1, 0), "{act:?}");
                assert_eq!(mirror(&mounted, &first.url())["failures"], 0);
            });
        }
    });
}

#[test]
fn a_bad_first_url_does_not_hold_up_the_first_start() {
    if !can_mount() {
        return;
    }
    for act in [Some(Act::Silence), Some(Act::Status(500, Vec::new())), None] {
        let all = packages(["one-1", "two-1"]);
        let (first, second) = (Origin::with(&all), Origin::with(&all));
        let (url, _reserved) = (first.url(), first.address());
        match &act {
            Some(act) => everywhere(&first, &all, act),
            None => drop(first),
        }
        let start = Instant::now();
        let mut mounted = options(&url, &second).mount();
        assert!(start.elapsed() < SOON, "{act:?}: {:?}", start.elapsed());
        let took: Duration = all.iter().map(|package| read(&mounted, package)).sum();
        // The index has shown already that it is bad.
        assert!(took < PATIENCE, "{act:?}: {took:?}");
        assert_eq!(mirror(&mounted, &url)["state"], "backing_off");
        assert_eq!(mounted.stop(), Some(0));
    }
}

#[test]
fn a_slow_url_is_left_in_the_middle_for_one_that_was_faster() {
    if !can_mount() {
        return;
    }
    let [known, last] = packages(["known-1", "last-1"]);
    let large = Package::new("large-1", 8 << 20);
    let all = [known.clone(), large.clone(), last.clone()];
    // Some 600 KiB/s: 14 s for all of it.
    let slow = Act::Slow(64 << 10, Duration::from_millis(100));
    std::thread::scope(|scope| {
        for second_too in [false, true] {
            let (all, known, large, last, slow) = (&all, &known, &large, &last, slow.clone());
            scope.spawn(move || {
                let (first, second) = (Origin::with(all), Origin::with(all));
                let mounted = mount(&first, &second);
                // So that the second one is known to be fast.
                first.script(&known.path, [Act::Status(404, Vec::new())]);
                read(&mounted, known);
                if second_too {
                    second.script(&large.path, [slow.clone()]);
                }
                first.script(&large.path, [slow]);
                read(&mounted, large);
                assert_eq!(asked(&first, large), [None]);
                let (rest, requests) = (asked(&second, large), first.package_requests());
                let from = rest[0].unwrap();
                assert!((1 << 20..7 << 20).contains(&from), "{from}");
                // Both served a part, once; with two slow ones nobody goes to and fro.
                assert_eq!((rest.len(), requests), (1, 2));
                assert_eq!(
                    (mounted.counter("mirror_switches"), mounted.counter("resumes")),
                    (1, u64::from(!second_too))
                );
                assert_eq!(mounted.counter("failed_opens"), 0);
                if !second_too {
                    assert!(mounted.counter("bytes_fetched") <= all[..2].iter().map(|p| p.bytes.len() as u64).sum());
                    // The next one goes to the fast one at once.
                    read(&mounted, last);
                    assert_eq!((asked(&first, last).len(), asked(&second, last).len()), (0, 1));
                    assert_eq!(mirror(&mounted, &first.url())["state"], "healthy");
                }
            });
        }
    });
}

#[test]
fn who_was_never_asked_gets_a_chance() {
    if !can_mount() {
        return;
    }
    let all = packages(["a-1", "b-1", "c-1", "d-1", "e-1", "f-1", "g-1", "h-1", "i-1"]);
    let (first, second) = (Origin::with(&all), Origin::with(&all));
    let mounted = mount(&first, &second);
    for package in &all {
        read(&mounted, package);
    }
    assert_eq!((first.package_requests(), second.package_requests()), (8, 1));
    assert!(mirror(&mounted, &second.url())["rate"].as_u64().unwrap() > 0);
}

#[test]
fn wrong_bytes_cost_a_mirror_preference() {
    if !can_mount() {
        return;
    }
    let all = packages(["one-1", "two-1", "three-1"]);
    let (first, second) = (Origin::with(&all), Origin::with(&all));
    all.iter().for_each(|package| first.script(&package.path, [Act::Flip(1000)]));
    let mounted = mount(&first, &second);
    read(&mounted, &all[0]);
    let bad = mirror(&mounted, &first.url());
    assert_eq!((&bad["state"], &bad["wrong"]), (&"distrusted".into(), &1.into()), "{bad}");
    assert_eq!(mounted.status()["binhosts"][0]["mirrors"][1], bad);
    read(&mounted, &all[1]);
    assert_eq!((asked(&first, &all[1]).len(), asked(&second, &all[1]).len()), (0, 1));
    // It is still better than nothing, and still not believed.
    second.script(&all[2].path, [Act::Status(404, Vec::new())]);
    let error = fs::read(mounted.path(&all[2].path)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert_eq!(asked(&first, &all[2]), [None]);
    assert_eq!(mirror(&mounted, &first.url())["wrong"], 2);
}

#[test]
fn where_all_are_bad_the_first_to_heal_is_used() {
    if !can_mount() {
        return;
    }
    let all = packages(["one-1", "two-1", "three-1"]);
    let (first, second) = (Origin::with(&all), Origin::with(&all));
    let mounted = mount(&first, &second);
    for origin in [&first, &second] {
        everywhere(origin, &all, &Act::Status(503, Vec::new()));
    }
    let start = Instant::now();
    let error = fs::read(mounted.path(&all[0].path)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert_eq!((first.asked(&all[0].path).len(), second.asked(&all[0].path).len()), (3, 3));
    let reason = mounted.reason(&all[0].path).unwrap();
    assert!(reason.contains(&first.url()) && reason.contains(&second.url()), "{reason}");
    // Both rest, and are asked all the same.
    everywhere(&second, &all, &Act::Serve);
    assert!(read(&mounted, &all[1]) < SOON);
    assert_eq!(mirror(&mounted, &second.url())["state"], "healthy");
    read(&mounted, &all[2]);
    assert_eq!(first.asked(&all[2].path).len(), 0);
    eventually(RESTED, "the one that failed before", || fs::read(mounted.path(&all[0].path)).is_ok());
}

#[test]
fn a_place_that_the_index_names_does_not_switch_mirrors_off() {
    if !can_mount() {
        return;
    }
    let [package] = packages(["one-1"]);
    let index = |uri: &str| index_of(TIME, [&package]).replacen("VERSION", &format!("URI: {uri}\nVERSION"), 1);
    let elsewhere = Origin::start();
    for case in ["the first", "below the first", "elsewhere"] {
        let (first, second) = (Origin::start(), Origin::start());
        let (uri, path) = match case {
            "the first" => (first.url(), package.path.clone()),
            "below the first" => (format!("{}/po/ol/", first.url()), format!("po/ol/{}", package.path)),
            _ => (format!("{}/x", elsewhere.url()), package.path.clone()),
        };
        for origin in [&first, &second] {
            // A mirror copies the index as it is.
            origin.put_index(index(&uri).as_bytes());
        }
        second.put(&path, package.bytes.clone());
        first.script(&path, [Act::Status(503, Vec::new())]);
        elsewhere.script(&format!("x/{}", package.path), [Act::Status(503, Vec::new())]);
        let mounted = mount(&first, &second);
        assert!(read(&mounted, &package) < SOON, "{case}");
        assert_eq!((first.package_requests(), second.package_requests()), (1, 1), "{case}");
    }
    assert_eq!(elsewhere.package_requests(), 1);
}

#[test]
fn the_index_stays_with_one_url_while_that_does_well() {
    if !can_mount() {
        return;
    }
    let [one, two] = packages(["one-1", "two-1"]);
    let (first, second) = (Origin::with(std::slice::from_ref(&one)), Origin::start());
    second.publish(TIME + 1, &[one, two.clone()]);
    let mounted = options(&first.url(), &second).with(["--refresh", "1s"]).mount();
    let unmodified = |more: u64| {
        let before = mounted.counter("unmodified");
        eventually(REFRESHED, "refreshes", || mounted.counter("unmodified") >= before + more);
    };
    unmodified(2);
    assert_eq!((second.asked("Packages.gz").len(), mounted.counter("refreshes")), (0, 0));

    first.script("Packages.gz", [Act::Status(500, Vec::new())]);
    eventually(REFRESHED, "the second one's", || mounted.counter("refreshes") == 1);
    first.script("Packages.gz", [Act::Serve]);
    eventually(RESTED, "it has rested", || mirror(&mounted, &first.url())["state"] == "healthy");
    let before = first.asked("Packages.gz").len();
    unmodified(2);
    assert_eq!(first.asked("Packages.gz").len(), before, "it would bring an older one");
    assert_eq!((mounted.counter("refreshes"), mounted.counter("failed_refreshes")), (1, 0));

    // An older index is no answer: the next URL is asked.
    second.publish(TIME - 1, &[]);
    first.publish(TIME + 2, std::slice::from_ref(&two));
    eventually(REFRESHED, "the first one's", || mounted.counter("refreshes") == 2);
    assert_eq!(mounted.listing(), [two.path]);
    assert!(mounted.status()["refresh"]["error"].is_null());
}
