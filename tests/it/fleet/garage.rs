//! The real thing: a fleet whose only shared place is an object store of three nodes.

mod claims;

use std::fs;

use super::client::share_key;
use super::sharers::{packages, reads};
use super::store::with_store;
use crate::harness::garage::{BUCKET, Garage, KEY, READ_KEY};
use crate::harness::{Mounted, Options, Origin, Package, can_mount, eventually};

/// A machine with an empty cache that uses the store with this key. The nodes are asked in another order by each machine.
fn machine(origin: &Origin, garage: &Garage, number: usize, key: &str, lines: &str) -> Mounted {
    machine_with(Options::new(origin.url()), garage, number, key, lines)
}

/// The same with other options.
fn machine_with(options: Options, garage: &Garage, number: usize, key: &str, lines: &str) -> Mounted {
    let place = tempfile::TempDir::with_prefix("binhostfs-it.").unwrap();
    let file = place.path().join("key");
    fs::write(&file, key).unwrap();
    let mut urls = garage.urls();
    urls.rotate_left(number % 3);
    let lines = format!("bucket = \"{BUCKET}\"\nregion = \"garage\"\ncredentials = \"{}\"\n{lines}", file.display());
    let machine = with_store(options, &urls, &lines);
    // The file is read at the start.
    drop(place);
    machine
}

/// Waits until nothing is left to be stored.
fn stored(machine: &Mounted) {
    eventually(60, "all is stored", || machine.status()["object_store"]["waiting"] == 0);
    let done = || machine.counter("object_store_puts") + machine.counter("object_store_write_failures");
    eventually(60, "all is stored", || done() == machine.counter("object_store_misses"));
}

fn read_all(machine: &Mounted, packages: &[Package]) {
    packages.iter().for_each(|package| reads(machine, package));
    assert_eq!(machine.counter("failed_opens"), 0);
    assert!(machine.status()["failures"].as_array().unwrap().is_empty());
}

/// Ten machines, one after the other, cost the binhost one download of each package, also when a node is killed among them.
#[test]
fn ten_machines_cost_the_binhost_one_download_each_package() {
    if !can_mount() {
        return;
    }
    let Some(mut garage) = Garage::start() else { return };
    let all = packages(40, 60_000);
    let origin = Origin::with(&all);
    for number in 0..10 {
        let machine = machine(&origin, &garage, number, KEY, "");
        if number == 5 {
            let (early, late) = all.split_at(20);
            read_all(&machine, early);
            // It is the one that this machine asks first.
            garage.kill(2);
            read_all(&machine, late);
        } else {
            read_all(&machine, &all);
        }
        stored(&machine);
        let counters =
            ["object_store_puts", "object_store_hits", "object_store_write_failures"].map(|name| machine.counter(name));
        assert_eq!(counters, if number == 0 { [40, 0, 0] } else { [0, 40, 0] }, "{number}: {}", machine.log());
    }
    assert_eq!(origin.package_requests(), all.len());
    let sizes: u64 = all.iter().map(|package| package.bytes.len() as u64).sum();
    let sent: u64 = origin.bytes_sent();
    assert_eq!(sent, sizes, "1.00x");
    eventually(30, "the store has all", || garage.objects() == 40);
}

/// A machine that may only read reads what others have stored, and writes nothing, whether its configuration says so or its key.
#[test]
fn a_machine_that_only_reads_writes_nothing() {
    if !can_mount() {
        return;
    }
    let Some(garage) = Garage::start() else { return };
    let all = packages(3, 60_000);
    let origin = Origin::with(&all);
    let told = machine(&origin, &garage, 0, READ_KEY, "access = \"read-only\"");
    read_all(&told, &all[..1]);
    assert_eq!((told.counter("object_store_misses"), told.counter("object_store_write_failures")), (1, 0));
    let refused = machine(&origin, &garage, 0, READ_KEY, "");
    read_all(&refused, &all[..1]);
    eventually(30, "the store refuses it", || refused.counter("object_store_write_failures") == 1);
    assert!(refused.log().contains("AccessDenied"), "{}", refused.log());
    let writer = machine(&origin, &garage, 0, KEY, "");
    read_all(&writer, &all[1..]);
    stored(&writer);
    read_all(&told, &all[1..]);
    assert_eq!(told.counter("object_store_hits"), 2);
    eventually(30, "the store has two", || garage.objects() == 2);
}

/// An object that is read gets new before it expires, and a wrong one is replaced, as the store itself sees it.
#[test]
fn objects_are_renewed_and_wrong_ones_replaced() {
    if !can_mount() {
        return;
    }
    let Some(garage) = Garage::start() else { return };
    let all = packages(1, 60_000);
    let origin = Origin::with(&all);
    let first = machine(&origin, &garage, 0, KEY, "");
    read_all(&first, &all);
    stored(&first);
    let key = format!("v1/{}", share_key(&all[0].bytes));
    let before = garage.object(&key);
    // Half of two seconds.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let second = machine(&origin, &garage, 1, KEY, "expiry = 2");
    read_all(&second, &all);
    eventually(30, "it is renewed", || garage.object(&key).written > before.written);
    assert_eq!(garage.object(&key).etag, before.etag);
    assert_eq!((second.counter("object_store_renewed"), second.counter("object_store_write_failures")), (1, 0));
    let third = machine(&origin, &garage, 2, KEY, "expiry = \"1h\"");
    read_all(&third, &all);
    assert_eq!((third.counter("object_store_hits"), origin.package_requests()), (1, 1));
    let (renewed, wrong) = (garage.object(&key), vec![7; all[0].bytes.len()]);
    garage.put(&key, &wrong);
    assert!(garage.object(&key).etag != renewed.etag);
    let fourth = machine(&origin, &garage, 0, KEY, "");
    read_all(&fourth, &all);
    eventually(30, "it is replaced", || garage.object(&key).etag == renewed.etag);
    assert_eq!((fourth.counter("object_store_wrong"), fourth.counter("object_store_hits")), (1, 1));
    let fifth = machine(&origin, &garage, 1, KEY, "");
    read_all(&fifth, &all);
    assert_eq!((fifth.counter("object_store_wrong"), fifth.counter("object_store_hits")), (0, 1));
    assert_eq!((origin.package_requests(), garage.objects()), (2, 1));
}
