//! Ten machines with networks of their own, a hub and a real nginx: what the binhost has to send.

use std::fs;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::lan::{Lan, Server};
use super::sharers::{directory_of, packages, read_all};
use crate::harness::portage::{Emerge, binhost, entries};
use crate::harness::{Mounted, Options, Package, binary, can_mount, eventually, have};

const MACHINES: usize = 10;
const ORIGIN: usize = MACHINES;
const HUB: usize = MACHINES + 1;
const PORT: u16 = 8081;

fn hub_url() -> String {
    format!("http://{}:{PORT}", Lan::address(HUB))
}

/// A hub on its machine of the network.
fn hub(lan: &Lan, origin: &Server) -> Mounted {
    let [enter, namespace] = lan.on(HUB);
    let address = format!("{}:{PORT}", Lan::address(HUB));
    Options::new(origin.url()).unmounted_on(&address).run_by([&*enter, &namespace]).mount()
}

/// A daemon with an empty cache on each of so many machines, which asks the hub first.
fn machines(lan: &Lan, origin: &Server, count: usize) -> Vec<Mounted> {
    let hub = hub_url();
    let start = |at| {
        let [enter, namespace] = lan.on(at);
        Options::new(origin.url()).with(["--peers", &hub]).run_by([&*enter, &namespace]).mount()
    };
    (0..count).map(start).collect()
}

fn size_of(packages: &[Package]) -> u64 {
    packages.iter().map(|package| package.bytes.len() as u64).sum()
}

#[test]
fn ten_machines_at_once_cost_the_binhost_one_download_each() {
    if !can_mount() || !have(Command::new("nginx").arg("-v").output().is_ok(), "nginx") {
        return;
    }
    let Some(lan) = Lan::new(MACHINES + 2) else { return };
    let all = packages(40, 60_000);
    let directory = directory_of(&all);
    let origin = Server::start(&lan, ORIGIN, directory.path(), None);
    let hub = hub(&lan, &origin);
    let machines = machines(&lan, &origin, MACHINES);
    read_all(&machines, &all);
    eventually(10, "nginx has logged all", || origin.sent().len() >= all.len());
    let (mut paths, bytes): (Vec<String>, Vec<u64>) = origin.sent().into_iter().unzip();
    paths.sort();
    let mut expected: Vec<String> = all.iter().map(|package| package.path.clone()).collect();
    expected.sort();
    // 1.00x, in requests and in bytes.
    assert_eq!((paths, bytes.iter().sum::<u64>()), (expected, size_of(&all)));
    assert_eq!(hub.counter("downloads"), all.len() as u64);
    for machine in &machines {
        assert_eq!((machine.counter("peer_hits"), machine.counter("failed_opens")), (all.len() as u64, 0));
    }
}

/// The hub is lost when nine tenths of the packages are handed out, while it fetches the others.
fn the_hub_is_lost(count: usize, lose: impl FnOnce(&Lan, &mut Mounted)) {
    if !can_mount() || !have(Command::new("nginx").arg("-v").output().is_ok(), "nginx") {
        return;
    }
    let Some(lan) = Lan::new(MACHINES + 2) else { return };
    let all = packages(40, 60_000);
    let (early, late) = all.split_at(36);
    let directory = directory_of(&all);
    // The last four take two seconds each.
    let origin = Server::start(&lan, ORIGIN, directory.path(), Some("p3[6-9]-1"));
    let mut hub = hub(&lan, &origin);
    let machines = machines(&lan, &origin, count);
    read_all(&machines, early);
    std::thread::scope(|scope| {
        scope.spawn(|| read_all(&machines, late));
        eventually(20, "the hub fetches", || hub.status()["downloads"].as_array().is_some_and(|all| all.len() == 4));
        lose(&lan, &mut hub);
    });
    for machine in &machines {
        assert_eq!(machine.counter("failed_opens"), 0);
        assert!(machine.status()["failures"].as_array().unwrap().is_empty());
    }
    eventually(10, "nginx has logged all", || origin.sent().len() >= early.len() + count * late.len());
    let sent = origin.sent();
    let bytes: u64 = sent.iter().map(|(_, bytes)| bytes).sum();
    assert!(sent.len() <= 2 * all.len() && bytes <= 2 * size_of(&all), "{} requests, {bytes} bytes", sent.len());
}

#[test]
fn a_hub_that_is_killed_in_the_middle_costs_no_more_than_twice() {
    the_hub_is_lost(MACHINES, |_, hub| hub.kill());
}

/// Its cable is drawn: nothing refuses a connection, and no connection ends.
#[test]
fn a_hub_that_vanishes_in_the_middle_costs_no_more_than_twice() {
    the_hub_is_lost(3, |lan, _| assert!(lan.run(HUB, &["ip", "link", "set", "eth0", "down"])));
}

/// A machine without FUSE installs from a hub: through a `binhostfs serve` of its own, and with plain emerge.
#[test]
fn a_machine_without_fuse_installs_from_a_hub() {
    let Some(source) = binhost("gpkg-multi") else { return };
    let nginx = crate::harness::portage::Nginx::serve(&source);
    let hub = Options::new(nginx.url()).unmounted().mount();
    let hub_url = format!("http://{}", super::client::serves(&hub));
    // An empty /dev/fuse would be opened; there is none.
    let hidden = "mount -t tmpfs none /dev/shm && mkdir -p /dev/shm/dev && for f in null zero full random urandom tty ptmx; do \
                  touch /dev/shm/dev/$f; mount --bind /dev/$f /dev/shm/dev/$f; done; mount --rbind /dev/shm/dev /dev; \
                  test ! -e /dev/fuse && exec \"$@\"";
    let inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c", hidden, "sh"];
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let mut mount = Command::new(inside[0]);
    mount.args(&inside[1..]).arg(binary()).args(["mount", "--binhost", &hub_url, "--verify-signature", "false"]);
    mount.arg("--cache-dir").arg(place.path().join("cache")).arg("--control").arg(place.path().join("control"));
    let mountpoint = place.path().join("pkgdir");
    fs::create_dir(&mountpoint).unwrap();
    let refused = mount.arg(mountpoint).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("/dev/fuse"), "{said}");
    let own = Options::new(nginx.url()).unmounted().with(["--peers", &hub_url]).run_by(inside).mount();
    let pkgdir = TempDir::with_prefix("binhostfs-it.").unwrap();
    let url = format!("http://{}", super::client::serves(&own));
    let emerge =
        Emerge::from(pkgdir.path().to_owned()).with("MODE", "-gK").with("BINREPOS", &url).with("FEATURES", "getbinpkg");
    emerge.succeed(["app-misc/hello"]);
    assert!(emerge.names().iter().any(|name| name.starts_with("app-misc/hello-")), "{:?}", emerge.names());
    let fetched = nginx.fetched();
    let of_hub: Vec<_> = entries(&source.join("Packages")).into_iter().map(|entry| entry["PATH"].clone()).collect();
    assert!(!fetched.is_empty() && fetched.iter().all(|path| of_hub.contains(path)), "{fetched:?}");
    // All of it came through the hub.
    assert_eq!((own.counter("peer_hits"), hub.counter("downloads")), (fetched.len() as u64, fetched.len() as u64));
    assert_eq!(own.counter("peer_misses"), 0);
}
