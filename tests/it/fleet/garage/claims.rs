//! Claims: machines that miss the same large packages at the same time, and no hub.

use std::fs;
use std::time::Duration;

use super::{KEY, machine_with};
use crate::fleet::sharers::{packages, read_all, reads};
use crate::harness::clock::{self, TestClock};
use crate::harness::garage::Garage;
use crate::harness::{Act, Mounted, Options, Origin, Package, can_mount, eventually};

const MACHINES: usize = 10;
const CLAIMS: &str = "claims = true";

/// Some 5 MiB a second for each connection.
fn slowly() -> Act {
    Act::Slow(256 << 10, Duration::from_millis(50))
}

/// A store of which the clock of one node is two seconds ahead, that clock, and packages at an origin that takes its time.
fn scene(count: usize) -> Option<(TestClock, Garage, Origin, Vec<Package>)> {
    let clock = TestClock::new().filter(|_| can_mount())?;
    clock.set(clock::now() + 2);
    let garage = Garage::start_with(Some(&clock))?;
    let all = packages(count, 9 << 20);
    let origin = Origin::with(&all);
    all.iter().for_each(|package| origin.script(&package.path, [slowly()]));
    Some((clock, garage, origin, all))
}

/// So many machines. The clock of the first one is two seconds ahead.
fn machines(origin: &Origin, garage: &Garage, clock: &TestClock, count: usize) -> Vec<Mounted> {
    let options = |number| {
        let options = Options::new(origin.url());
        if number == 0 { clock.of(options) } else { options }
    };
    (0..count).map(|number| machine_with(options(number), garage, number, KEY, CLAIMS)).collect()
}

fn sum(machines: &[Mounted], counter: &str) -> u64 {
    machines.iter().map(|machine| machine.counter(counter)).sum()
}

/// Waits until the store has so many packages, and nothing else.
fn no_claim_is_left(garage: &Garage, packages: usize) {
    eventually(30, "there are only packages", || {
        let keys = garage.keys();
        keys.len() == packages && keys.iter().all(|key| key.starts_with("v1/"))
    });
}

#[test]
fn ten_machines_at_once_cost_the_binhost_one_download_each() {
    let Some((clock, garage, origin, all)) = scene(4) else { return };
    let machines = machines(&origin, &garage, &clock, MACHINES);
    read_all(&machines, &all);
    let sizes: u64 = all.iter().map(|package| package.bytes.len() as u64).sum();
    let (sent, names) = (origin.bytes_sent(), ["claims", "claim_waits", "claim_timeouts", "hits", "failures"]);
    let counters = names.map(|name| (name, sum(&machines, &format!("object_store_{name}"))));
    assert!(10 * sent <= 11 * sizes, "{sent} bytes of {sizes}: {counters:?}");
    for machine in &machines {
        assert_eq!(machine.counter("failed_opens"), 0);
        assert!(machine.status()["failures"].as_array().unwrap().is_empty());
    }
    no_claim_is_left(&garage, all.len());
}

/// In the middle of its download.
#[test]
fn an_owner_that_is_killed_costs_one_more_download() {
    let Some((clock, garage, origin, all)) = scene(1) else { return };
    let package = &all[0];
    origin.script(&package.path, [Act::HoldAt(4 << 20), slowly()]);
    let mut machines = machines(&origin, &garage, &clock, MACHINES);
    let (mut owner, others) = (machines.remove(0), machines);
    std::thread::scope(|scope| {
        let path = owner.path(&package.path);
        scope.spawn(move || assert!(fs::read(path).is_err()));
        eventually(30, "it is fetched", || origin.asked(&package.path).len() == 1);
        others.iter().for_each(|machine| drop(scope.spawn(move || reads(machine, package))));
        eventually(30, "the others wait", || sum(&others, "object_store_claim_waits") == others.len() as u64);
        owner.kill();
        eventually(60, "all have it", || sum(&others, "verified") == others.len() as u64);
    });
    assert_eq!((origin.asked(&package.path).len(), sum(&others, "failed_opens")), (2, 0));
    no_claim_is_left(&garage, 1);
}
