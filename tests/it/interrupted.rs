//! Whoever stops waiting for a package and asks again later gets the rest of it, not all of it once more.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use binhostfs::internals::fetch::WORTH_KEEPING;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::portage::{self, Emerge};
use crate::harness::{Act, Mounted, Options, Origin, Package, can_mount, eventually};

const PART: usize = 1_000_000;

fn package(name: &'static str) -> Package {
    Package::new(name, 3 * PART)
}

/// Somebody who reads a file, until this is dropped.
struct Reader(Child);

impl Reader {
    fn of(mounted: &Mounted, package: &Package) -> Self {
        let mut command = Command::new("cat");
        command.arg(mounted.path(&package.path)).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn parked(mounted: &Mounted) -> u64 {
    mounted.status()["download_counts"]["parked"].as_u64().unwrap()
}

/// Bytes that the cache has of what nobody has whole.
fn partial_bytes(mounted: &Mounted) -> u64 {
    mounted.status()["cache"]["parked"].as_u64().unwrap()
}

/// Opens packages, and goes away when the binhost has been silent for a while.
fn interrupt(mounted: &Mounted, packages: &[Package]) {
    let readers: Vec<Reader> = packages.iter().map(|package| Reader::of(mounted, package)).collect();
    eventually(30, "all are parked", || parked(mounted) == packages.len() as u64);
    drop(readers);
    mounted.settled();
}

fn is_read(mounted: &Mounted, package: &Package) {
    assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes, "{}", package.path);
}

fn ranges(origin: &Origin, path: &str) -> Vec<Option<String>> {
    origin.asked(path).into_iter().map(|asked| asked.range).collect()
}

fn options(origin: &Origin) -> Options {
    Options::new(origin.url()).with(["--prefetch", "off"])
}

#[test]
fn the_next_open_fetches_the_rest() {
    if !can_mount() {
        return;
    }
    let big = package("big-1");
    let origin = Origin::with(std::slice::from_ref(&big));
    origin.script(&big.path, [Act::StallAt(PART), Act::Serve]);
    let mounted = options(&origin).mount();
    interrupt(&mounted, std::slice::from_ref(&big));
    eventually(10, "it is kept", || partial_bytes(&mounted) == PART as u64);
    assert_eq!(mounted.status()["cache"]["reserved"], 0);
    is_read(&mounted, &big);
    assert_eq!(ranges(&origin, &big.path), [None, Some(format!("bytes={PART}-"))]);
    let counters = ["bytes_fetched", "resumes", "verified", "failed_opens"].map(|name| mounted.counter(name));
    assert_eq!(counters[1..3], [1, 1], "{counters:?}");
    assert_eq!(counters[0], big.bytes.len() as u64);
    mounted.settled();
    assert!(partial_bytes(&mounted) == 0 && mounted.incoming().is_empty() && mounted.is_sound());
}

/// As long as it receives something, a download goes on for a while by itself.
#[test]
fn a_download_that_was_left_while_it_received_is_gone_on_with() {
    if !can_mount() {
        return;
    }
    let big = package("big-1");
    let origin = Origin::with(std::slice::from_ref(&big));
    origin.script(&big.path, [Act::Slow(10_000, Duration::from_millis(200)), Act::Serve]);
    let mounted = options(&origin).mount();
    let reader = Reader::of(&mounted, &big);
    eventually(30, "it receives", || mounted.counter("bytes_fetched") > 0);
    drop(reader);
    eventually(90, "it ends", || mounted.status()["downloads"].as_array().unwrap().is_empty());
    eventually(10, "it is kept", || partial_bytes(&mounted) > WORTH_KEEPING);
    let kept = partial_bytes(&mounted);
    is_read(&mounted, &big);
    assert_eq!(ranges(&origin, &big.path), [None, Some(format!("bytes={kept}-"))]);
    assert!(mounted.counter("verified") == 1 && mounted.is_sound());
}

#[test]
fn other_bytes_at_the_binhost_begin_anew() {
    if !can_mount() {
        return;
    }
    let big = package("big-1");
    let mut wrong = big.bytes.clone();
    wrong[PART / 2] ^= 1;
    let origin = Origin::with(std::slice::from_ref(&big));
    origin.put(&big.path, wrong);
    origin.script(&big.path, [Act::StallAt(PART), Act::Serve]);
    let mounted = options(&origin).mount();
    interrupt(&mounted, std::slice::from_ref(&big));
    origin.put(&big.path, big.bytes.clone());
    is_read(&mounted, &big);
    assert!(mounted.counter("verified") == 1 && mounted.is_sound());
}

/// A mirror leaves wrong bytes behind, and another one sends the rest.
#[test]
fn what_is_left_is_believed_no_more_than_what_comes() {
    if !can_mount() {
        return;
    }
    let big = package("big-1");
    let mut wrong = big.bytes.clone();
    wrong[PART / 2] ^= 1;
    let [liar, honest] = [(); 2].map(|()| Origin::with(std::slice::from_ref(&big)));
    liar.put(&big.path, wrong);
    liar.script(&big.path, [Act::StallAt(PART)]);
    honest.script(&big.path, [Act::Silence]);
    let mounted = options(&liar).with(["--mirror", &honest.url()]).mount();
    interrupt(&mounted, std::slice::from_ref(&big));
    eventually(10, "it is kept", || partial_bytes(&mounted) == PART as u64);
    let before = ranges(&honest, &big.path).len();
    liar.script(&big.path, [Act::Status(503, Vec::new())]);
    honest.script(&big.path, [Act::Serve]);
    is_read(&mounted, &big);
    assert_eq!(ranges(&honest, &big.path)[before..], [Some(format!("bytes={PART}-")), None]);
    assert!(mounted.counter("verified") == 1 && mounted.is_sound());
    assert!(mounted.status()["refused"].as_array().unwrap().is_empty());
}

#[test]
fn few_are_kept_and_none_pushes_out_a_package() {
    if !can_mount() {
        return;
    }
    const EACH: usize = 200_000;
    let names: Vec<&'static str> = (0..18).map(|at| &*Box::leak(format!("left{at}-1").into_boxed_str())).collect();
    let left: Vec<Package> = names.into_iter().map(|name| Package::new(name, EACH)).collect();
    let [kept, tiny] = [Package::new("kept-1", EACH), Package::new("tiny-1", EACH)];
    let origin = Origin::with(&[&left[..], &[kept.clone(), tiny.clone()]].concat());
    left.iter().for_each(|package| origin.script(&package.path, [Act::StallAt(EACH / 2)]));
    origin.script(&tiny.path, [Act::StallAt(WORTH_KEEPING as usize / 2)]);
    let mounted = options(&origin).with(["--cache-size", "3M"]).mount();
    is_read(&mounted, &kept);
    interrupt(&mounted, std::slice::from_ref(&tiny));
    eventually(10, "too little is not kept", || partial_bytes(&mounted) == 0 && mounted.incoming().is_empty());
    interrupt(&mounted, &left);
    eventually(10, "16 are kept", || partial_bytes(&mounted) == 16 * (EACH / 2) as u64);
    assert_eq!(mounted.incoming().len(), 16);
    // Another package needs their room, and gets it before the one that is whole goes.
    let large = Package::new("large-1", 2_500_000);
    origin.publish(1_760_000_001, &[kept.clone(), large.clone()]);
    assert_eq!(mounted.ask("POST", "/v1/refresh").status, 200);
    is_read(&mounted, &large);
    mounted.settled();
    assert_eq!(mounted.counter("evicted"), 0);
    let cache = mounted.status()["cache"].clone();
    let bytes = |key: &str| cache[key].as_u64().unwrap();
    assert!(bytes("bytes") + bytes("parked") <= bytes("bound") && bytes("parked") > 0, "{cache}");
    assert_eq!(cache["packages"], 2);
}

/// Ctrl-C while emerge waits for a package; the next emerge has it, and only the rest was sent.
#[test]
fn an_emerge_after_ctrl_c_goes_on() {
    let Some(binhost) = portage::binhost("gpkg-multi") else { return };
    let entry = portage::entries(&binhost.join("Packages")).into_iter().find(|entry| entry["CPV"] == "app-misc/big-1");
    let path = entry.unwrap()["PATH"].clone();
    let origin = Origin::start();
    origin.put_index(&fs::read(binhost.join("Packages")).unwrap());
    for package in portage::entries(&binhost.join("Packages")) {
        origin.put(&package["PATH"], fs::read(binhost.join(&package["PATH"])).unwrap());
    }
    const SENT: usize = 20 << 20;
    origin.script(&path, [Act::StallAt(SENT), Act::Serve]);
    let mounted = Options::new(origin.url()).mount();

    // Says which process is emerge.
    let wrapper = mounted.place().join("wrapper");
    fs::write(&wrapper, "#!/bin/sh\necho $$ > \"$0.pid\"\nexec \"$@\"\n").unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    let emerge = Emerge::from(mounted.mountpoint()).with("WRAP", wrapper.to_str().unwrap());
    let ended = std::thread::scope(|scope| {
        let running = scope.spawn(|| emerge.run(["--nodeps", "app-misc/big"]));
        eventually(120, "emerge waits for the binhost", || parked(&mounted) == 1);
        press_ctrl_c(&wrapper.with_extension("pid"));
        running.join().unwrap()
    });
    assert!(!matches!(ended.code, Some(0 | 124)), "{}", ended.output);
    assert!(!emerge.names().contains(&"app-misc/big-1".to_owned()));
    eventually(20, "what was sent is kept", || partial_bytes(&mounted) == SENT as u64);

    emerge.succeed(["--nodeps", "app-misc/big"]);
    assert_eq!(fs::metadata(emerge.path("usr/share/big/payload")).unwrap().len(), 50 << 20);
    assert_eq!(ranges(&origin, &path), [None, Some(format!("bytes={SENT}-"))]);
    assert_eq!((mounted.counter("resumes"), mounted.counter("failed_opens")), (1, 0));
}

fn press_ctrl_c(pid: &Path) {
    let pid = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::INT).unwrap();
}
