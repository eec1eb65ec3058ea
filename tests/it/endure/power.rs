//! Power cuts at any moment while packages are fetched, evicted and replaced.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::Churn;
use super::disk::Disk;
use crate::harness::{Mounted, Options, Random, Stopped, binary, blobs_in, eventually, hashes_to_its_name, number};

/// Paths that the cache has.
fn cached(mounted: &Mounted) -> Vec<String> {
    let output = Command::new(binary()).args(["list", "--json", "--control"]).arg(mounted.control()).output().unwrap();
    assert!(output.status.success(), "list: {}", String::from_utf8_lossy(&output.stderr));
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let cached = list["packages"].as_array().unwrap().iter().filter(|package| package["cached"] == true);
    cached.map(|package| package["path"].as_str().unwrap().to_owned()).collect()
}

/// What is durable by now, and how often each has been asked for.
fn durable(mounted: &Mounted, churn: &Churn) -> BTreeMap<String, usize> {
    let asked = |path: &String| churn.origin.asked(path).len();
    let before: BTreeMap<&String, usize> = churn.packages.iter().map(|p| (&p.path, asked(&p.path))).collect();
    let cached = cached(mounted);
    // In the catalogue, and perhaps not yet on the disk.
    let status = mounted.status();
    let under_way = |path: &str| status["downloads"].as_array().unwrap().iter().any(|d| d["path"] == path);
    let steady = cached.into_iter().filter(|path| churn.is_steady(path) && !under_way(path));
    // One that was evicted and asked for again in between is not here yet.
    let unasked = steady.map(|path| (asked(&path), path)).filter(|(count, path)| before.get(path) == Some(count));
    unasked.map(|(count, path)| (path, count)).collect()
}

/// What came of the snapshots.
#[derive(Debug, Default)]
struct Survived {
    read: usize,
    durable: usize,
    evicted: u64,
    refreshes: u64,
    /// Catalogues that could not be read.
    catalogues: usize,
    /// Blobs whose name was on the disk and whose bytes were not.
    torn: usize,
}

/// How many blobs without a record the daemon says that it found.
fn without_record(log: &str) -> usize {
    let found = log.lines().filter(|line| line.contains("without a record; "));
    found.map(|line| line.rsplit_once("found=").unwrap().1.trim().parse::<usize>().unwrap()).sum()
}

/// Starts from what a power cut left; everything that is shown can be read, and what was durable is not fetched again.
fn start_from(cache: &std::path::Path, churn: &Churn, durable: &BTreeMap<String, usize>, survived: &mut Survived) {
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    std::os::unix::fs::symlink(cache, place.path().join("cache")).unwrap();
    // A blob gets its name before its bytes are durable, and its record after that.
    let torn = blobs_in(cache).iter().filter(|body| !hashes_to_its_name(body)).count();
    survived.torn += torn;
    let mut mounted = Options::new(churn.origin.url()).with(["--cache-size", "64M"]).mount_in(place);
    let shown = mounted.listing();
    // The daemon that was stopped may have evicted one and asked for it again, just before.
    let durable = durable.iter().filter(|(path, asked)| churn.origin.asked(path).len() == **asked);
    let durable: Vec<_> = durable.filter(|(path, _)| shown.contains(path)).collect();
    for (at, package) in churn.packages.iter().enumerate().filter(|(_, package)| shown.contains(&package.path)) {
        match churn.read(&mounted.mountpoint(), at) {
            Ok(()) => survived.read += 1,
            // The binhost has another build of it by now.
            Err(_) if !churn.is_steady(&package.path) => {}
            Err(error) => panic!("{}: {error}", package.path),
        }
    }
    for (path, asked) in durable {
        assert_eq!(churn.origin.asked(path).len(), *asked, "{path} was kept, and is lost");
        survived.durable += 1;
    }
    eventually(60, "blobs without a record are found", || torn <= without_record(&mounted.log()));
    assert_eq!(mounted.stop(), Some(0));
    let log = mounted.log();
    assert!(!log.contains("panicked"), "{log}");
    survived.catalogues += usize::from(log.contains("set aside"));
}

#[test]
fn what_a_power_cut_leaves_is_whole_and_loses_nothing_durable() {
    let Some(disk) = Disk::new() else { return };
    let cuts = number("BINHOSTFS_TEST_POWER_CUTS", 10);
    let mut churn = Churn::new(48, 60_000, 900_000, Duration::from_millis(700)).slowly(12);
    let place = TempDir::with_prefix_in("binhostfs-it.", disk.path()).unwrap();
    let within = place.path().strip_prefix(disk.path()).unwrap().join("cache");
    let options = Options::new(churn.origin.url()).with(["--cache-size", "4M", "--refresh", "1s"]);
    let mounted = options.mount_in(place);
    let mut random = Random::new();
    let mut survived = Survived::default();
    let ((), reads) = churn.during(&mounted.mountpoint(), 6, |churn| {
        for _ in 0..cuts {
            random.pause(600);
            let before = durable(&mounted, churn);
            random.pause(100);
            let snapshot = disk.snapshot();
            // What was evicted meanwhile may be gone in the snapshot.
            let after = durable(&mounted, churn);
            let kept = before.into_iter().filter(|(path, asked)| after.get(path) == Some(asked)).collect();
            let _stopped = Stopped::new(&mounted);
            let filesystem = snapshot.mount();
            start_from(&filesystem.path().join(&within), churn, &kept, &mut survived);
        }
        (survived.evicted, survived.refreshes) = (mounted.counter("evicted"), mounted.counter("refreshes"));
    });
    eprintln!("{cuts} power cuts: {survived:?}; meanwhile {reads:?}");
    assert!(
        survived.evicted > 0 && survived.refreshes > 0 && survived.durable > cuts,
        "the cuts came at the wrong moments"
    );
    assert_eq!((survived.catalogues, reads.broken()), (0, 0));
    assert!(!fs::read_to_string(mounted.place().join("log")).unwrap().contains("panicked"));
}
