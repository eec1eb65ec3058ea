//! A machine whose clock is wrong: it mounts all the same, says what is wrong, and judges signatures again when the clock is set.

use std::fs;

use crate::harness::clock::{TestClock, now};
use crate::harness::signed::{Real, binhost, serve, with_keys};
use crate::harness::{Mounted, Options, eventually, gpg, have};

const EIO: Option<i32> = Some(5);
const HOUR: u64 = 3600;
const DAY: u64 = 86400;
const WRONG: &str = "the clock of this machine is wrong: it shows Thu, 01 Jan 1970";

/// Whether the daemon goes by the test's clock.
fn obeys(mounted: &Mounted, clock: u64) -> bool {
    let shown = mounted.status()["time"].as_u64().unwrap();
    have(shown.abs_diff(clock) < HOUR, "a program that takes the time from libc")
}

fn is_readable(mounted: &Mounted, package: &Real) -> bool {
    match fs::read(mounted.path(&package.path)) {
        Ok(bytes) => bytes == package.bytes,
        Err(error) => {
            assert!(error.raw_os_error() == EIO || error.kind() == std::io::ErrorKind::NotFound, "{error}");
            false
        }
    }
}

fn warns(mounted: &Mounted) -> bool {
    mounted.status()["warnings"].as_array().unwrap().iter().any(|warning| warning.as_str().unwrap().contains(WRONG))
}

/// Whether opens fail, and for the clock alone.
fn blames_the_clock(mounted: &Mounted, package: &Real) -> bool {
    let failed = !is_readable(mounted, package);
    let reason = mounted.reason(&package.path).unwrap_or_default();
    let hidden = !mounted.status()["refused"].as_array().unwrap().is_empty();
    let keyring = mounted.status()["binhosts"][0]["keyring"].to_string();
    failed && reason.contains(WRONG) && warns(mounted) && !hidden && keyring.contains(WRONG)
}

#[test]
fn without_a_clock_it_mounts_and_opens_fail_until_the_clock_is_set() {
    let Some((key, header, packages)) = binhost("gpkg-signed") else { return };
    let Some(clock) = TestClock::new() else { return };
    let (origin, package) = (serve(&header, &packages), &packages[0]);
    clock.set(HOUR);
    let mut mounted = clock.of(with_keys(&origin, &key)).mount();
    if !obeys(&mounted, HOUR) {
        return;
    }
    assert_eq!(mounted.listing().len(), packages.len());
    assert!(blames_the_clock(&mounted, package), "{}\n{}", mounted.status_text(), mounted.log());
    assert!(origin.asked(&package.path).is_empty(), "nothing is fetched that cannot be judged");
    assert!(!mounted.log().contains("--verify-signature"), "{}", mounted.log());
    let log = mounted.log();
    let said = log.lines().filter(|line| line.contains("WARN") && line.contains(WRONG)).count();
    assert_eq!(said, 2, "by the daemon and for the open: {log}");

    clock.set(now());
    let status = mounted.status();
    let times = [&status["started"], &status["refresh"]["confirmed"], &status["failures"][0]["time"]];
    let recent = |time: &serde_json::Value| status["time"].as_u64().unwrap() - time.as_u64().unwrap() < HOUR;
    assert!(times.into_iter().all(recent), "{status}");
    eventually(20, "the keys are good now", || is_readable(&mounted, package));
    assert!(!warns(&mounted) && mounted.blobs().len() == 1);

    // What is in the cache stays there, and is served once the clock is right.
    mounted.stop();
    clock.set(HOUR);
    mounted.start();
    assert!(blames_the_clock(&mounted, package), "{}\n{}", mounted.status_text(), mounted.log());
    clock.set(now());
    eventually(20, "the keys are good again", || is_readable(&mounted, package));
    assert_eq!(origin.asked(&package.path).len(), 1);
}

/// The package is signed tomorrow, as it seems to a clock that is a day late.
#[test]
fn what_a_late_clock_refused_comes_back_when_the_clock_is_set() {
    let Some((_, header, packages)) = binhost("gpkg-signed") else { return };
    let (Some(clock), Some(gpg)) = (TestClock::new(), gpg()) else { return };
    let key = gpg.key("builder", "ed25519", "sign", "0", None);
    let tomorrow = format!("{}!", now() + DAY);
    let package =
        packages[0].changed(|members| members.sign(&gpg, &["--faked-system-time", &tomorrow, "--local-user", &key]));
    let keyring = gpg.write("builder.pgp", &gpg.export(&[&key]));
    let origin = serve(&header, std::slice::from_ref(&package));
    let options: Options = clock.of(with_keys(&origin, &keyring)).with(["--refresh", "1s"]);
    let mounted = options.mount();
    if !obeys(&mounted, now()) {
        return;
    }
    assert!(!is_readable(&mounted, &package));
    eventually(20, "it is hidden", || mounted.listing().is_empty());
    let refused = mounted.status()["refused"].to_string();
    assert!(refused.contains("is not valid now") && !warns(&mounted), "{refused}");

    clock.set(now() + 2 * DAY);
    eventually(20, "it is shown again", || mounted.listing() == [package.path.as_str()]);
    eventually(20, "it can be read", || is_readable(&mounted, &package));
}
