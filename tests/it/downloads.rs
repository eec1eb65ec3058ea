//! The table of downloads under attack: who is silent, slow, greedy or lies about a size holds up nobody else.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use binhostfs::internals::fetch::{MAX_LIVE, PLACES};
use tempfile::TempDir;

use crate::harness::{Act, Mounted, Options, Origin, Package, Stopped, can_mount, eventually};

/// Users without any rights.
const A: u32 = 65_534;
const B: u32 = 12_345;
/// What a package of 20 KiB takes from a sound binhost, whatever another one does.
const AT_ONCE: Duration = Duration::from_secs(1);

fn package(name: &str, payload: usize) -> Package {
    Package::new(Box::leak(name.to_owned().into_boxed_str()), payload)
}

fn packages(prefix: &str, count: usize, payload: usize) -> Vec<Package> {
    (0..count).map(|at| package(&format!("{prefix}{at}-1"), payload)).collect()
}

/// Two binhosts, the first one preferred.
fn mount(first: &str, second: &Origin) -> Mounted {
    Options::new(first).with(["--binhost", &second.url(), "--prefetch", "off"]).mount_in(place())
}

/// Directories that other users get through.
fn place() -> TempDir {
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    place
}

/// Opens and reads what it is told to as another user, each in a thread of its own, and says of each how that ended.
const READER: &str = "
import os, signal, sys, threading
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
threading.stack_size(128 << 10)
def read(path):
    try:
        with open(path, 'rb') as file: said = 'read %d' % len(file.read())
    except OSError as error: said = 'errno %d' % error.errno
    os.write(1, (path + ' ' + said + '\\n').encode())
for line in sys.stdin: threading.Thread(target=read, args=(line.rstrip(),), daemon=True).start()
signal.pause()
";

/// A user who opens packages; killed when dropped.
struct User(Child);

impl User {
    fn opens<'a>(mounted: &Mounted, uid: u32, paths: impl IntoIterator<Item = &'a str>) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", READER, &uid.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        paths.into_iter().for_each(|path| writeln!(input, "{}", mounted.path(path).display()).unwrap());
        Self(child)
    }

    /// How the next `count` opens end: path and result.
    fn says(&mut self, count: usize) -> Vec<String> {
        let lines = BufReader::with_capacity(1, self.0.stdout.as_mut().unwrap()).lines();
        lines.take(count).map(Result::unwrap).collect()
    }

    /// The next `count` opens end well.
    fn has(&mut self, count: usize) {
        self.says(count).iter().for_each(|line| assert!(line.contains(" read "), "{line}"));
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn paths(packages: &[Package]) -> impl Iterator<Item = &str> {
    packages.iter().map(|package| package.path.as_str())
}

fn count(mounted: &Mounted, what: &str) -> u64 {
    mounted.status()["download_counts"][what].as_u64().unwrap()
}

/// Waits until so many opens wait.
fn await_opens(mounted: &Mounted, opens: usize) {
    eventually(120, &format!("{opens} opens wait"), || count(mounted, "opens") == opens as u64);
}

fn reads(mounted: &Mounted, package: &Package) -> Duration {
    let before = Instant::now();
    assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes, "{}", package.path);
    before.elapsed()
}

fn all_are_read(mounted: &Mounted, packages: &[Package]) {
    for package in packages {
        reads(mounted, package);
    }
}

fn status_of(pid: u32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    value.trim().trim_end_matches(" kB").parse().unwrap()
}

fn threads(mounted: &Mounted) -> u64 {
    status_of(mounted.pid(), "Threads:")
}

fn descriptors(mounted: &Mounted) -> usize {
    fs::read_dir(format!("/proc/{}/fd", mounted.pid())).unwrap().count()
}

#[test]
fn a_silent_binhost_delays_no_package_of_another() {
    if !can_mount() {
        return;
    }
    let silent_packages = packages("silent", 18, 20_000);
    let [one, two] = ["one-1", "two-1"].map(|name| package(name, 20_000));
    let (silent, sound) = (Origin::with(&silent_packages), Origin::with(&[one.clone(), two.clone()]));
    silent_packages.iter().for_each(|package| silent.script(&package.path, [Act::Silence]));
    let mounted = mount(&silent.url(), &sound);
    let _user = User::opens(&mounted, A, paths(&silent_packages));
    await_opens(&mounted, 18);
    let took = reads(&mounted, &one);
    assert!(took < AT_ONCE, "{took:?}");
    // Nor of the user who does that.
    let before = Instant::now();
    User::opens(&mounted, A, [two.path.as_str()]).has(1);
    assert!(before.elapsed() < AT_ONCE, "{:?}", before.elapsed());
    // A silent download is parked after a second, and makes room for the next.
    eventually(20, "all of them are parked", || count(&mounted, "parked") == 18);
    assert_eq!((count(&mounted, "live"), mounted.status()["cache"]["reserved"].as_u64()), (0, Some(0)));
}

/// Entries of an index for packages that nobody serves.
fn entries(count: usize) -> Vec<String> {
    let entry =
        |at: usize| format!("CPV: app-misc/s{at}-1\nMD5: {at:032x}\nPATH: app-misc/s{at}/s{at}-1.xpak\nSIZE: 9000\n\n");
    (0..count).map(entry).collect()
}

#[test]
fn thousands_of_opens_that_wait_cost_little_and_keep_nobody_out() {
    if !can_mount() {
        return;
    }
    const OPENS: usize = 5000;
    let [own, sound_one, last] = ["own-1", "sound-1", "last-1"].map(|name| package(name, 20_000));
    let (silent, sound) = (Origin::start(), Origin::with(std::slice::from_ref(&sound_one)));
    let index = crate::harness::index_of(1_760_000_000, [&own, &last]);
    silent.put_index(
        (index.replacen("PACKAGES: 2", &format!("PACKAGES: {}", OPENS + 2), 1) + &entries(OPENS).concat()).as_bytes(),
    );
    [&own, &last].into_iter().for_each(|package| silent.put(&package.path, package.bytes.clone()));
    let silent_paths: Vec<String> = (0..OPENS).map(|at| format!("app-misc/s{at}/s{at}-1.xpak")).collect();
    silent_paths.iter().for_each(|path| silent.script(path, [Act::Silence]));
    let mounted = mount(&silent.url(), &sound);
    let memory = || status_of(mounted.pid(), "VmRSS:") >> 10;
    let before = (memory(), threads(&mounted), descriptors(&mounted));

    let user = User::opens(&mounted, A, silent_paths.iter().map(String::as_str));
    await_opens(&mounted, OPENS);
    eventually(20, "the user has all places that one user may have", || {
        count(&mounted, "parked") == (PLACES - PLACES / 4) as u64
    });
    let watched = std::cell::Cell::new((0, 0, 0, 0));
    let watch = || {
        let (rss, threads, files, reserved) = watched.get();
        let status = mounted.status();
        let reserving = status["cache"]["reserved"].as_u64().unwrap() + status["cache"]["parked"].as_u64().unwrap();
        watched.set((
            rss.max(memory()),
            threads.max(self::threads(&mounted)),
            files.max(descriptors(&mounted)),
            reserved.max(reserving),
        ));
        assert!(count(&mounted, "live") <= MAX_LIVE as u64);
    };
    watch();
    // Root has a package of the same binhost, and of another one.
    assert!(reads(&mounted, &own) < Duration::from_secs(10));
    watch();
    let took = reads(&mounted, &sound_one);
    assert!(took < AT_ONCE, "{took:?}");
    // As do other users.
    User::opens(&mounted, B, [last.path.as_str()]).has(1);
    watch();
    let (rss, threads, files, reserved) = watched.get();
    eprintln!(
        "with {OPENS} opens: {rss} MiB, {threads} threads, {files} descriptors, {reserved} bytes reserved; before: {before:?}"
    );
    assert!(rss < before.0 + 64, "{rss} MiB, before {}", before.0);
    // The blocking threads of the runtime, and a few others.
    assert!(threads <= before.1 + 24, "{threads}, before {}", before.1);
    assert!(files <= before.2 + 2 * PLACES + 16, "{files}, before {}", before.2);
    assert!(reserved <= 1 << 20, "{reserved}");
    // Who is killed is let go.
    drop(user);
    await_opens(&mounted, 0);
    eventually(20, "their downloads are over", || {
        count(&mounted, "waiting") + count(&mounted, "parked") + count(&mounted, "live") == 0
    });
    assert!(!mounted.log().contains("panicked"), "{}", mounted.log());
}

#[test]
fn a_parked_download_holds_nothing_and_goes_on_when_bytes_come() {
    if !can_mount() {
        return;
    }
    const HALF: usize = 1_500_000;
    let held = packages("held", 6, 2 * HALF);
    let origin = Origin::with(&held);
    held.iter().for_each(|package| origin.script(&package.path, [Act::HoldAt(HALF)]));
    let mounted = Options::new(origin.url()).with(["--prefetch", "off"]).mount_in(place());
    let before = threads(&mounted);
    let mut user = User::opens(&mounted, A, paths(&held));
    eventually(20, "all are parked", || count(&mounted, "parked") == held.len() as u64);
    let status = mounted.status();
    let downloads = status["downloads"].as_array().unwrap();
    assert!(downloads.iter().all(|download| download["state"] == "parked" && download["received"] == HALF), "{status}");
    assert_eq!((&status["cache"]["reserved"], &status["cache"]["parked"]), (&0.into(), &(6 * HALF).into()));
    // Threads that have nothing to do end after two seconds.
    eventually(6, "no thread is kept", || threads(&mounted) <= before);
    held.iter().for_each(|package| origin.release(&package.path));
    user.has(held.len());
    all_are_read(&mounted, &held);
    // Over the connections that were there, and whole.
    assert_eq!((origin.package_requests(), mounted.counter("verified"), mounted.counter("retries")), (6, 6, 0));
    assert!(mounted.is_sound());
    let cache = &mounted.status()["cache"];
    assert_eq!((&cache["reserved"], &cache["parked"], &cache["packages"]), (&0.into(), &0.into(), &6.into()));
}

/// An index with this package, of which it says another SIZE.
fn with_size(index: &str, package: &Package, size: usize) -> String {
    let (before, after) = index.split_once(&format!("PATH: {}\n", package.path)).unwrap();
    format!(
        "{before}PATH: {}\n{}",
        package.path,
        after.replacen(&format!("SIZE: {}", package.bytes.len()), &format!("SIZE: {size}"), 1)
    )
}

#[test]
fn a_false_size_evicts_nothing() {
    if !can_mount() {
        return;
    }
    const FALSE: usize = 7_900_000;
    let cached = packages("cached", 12, 500_000);
    let [absent, short, stalled] = ["absent-1", "short-1", "stalled-1"].map(|name| package(name, 20_000));
    let origin = Origin::start();
    let all: Vec<Package> = cached.iter().chain([&absent, &short, &stalled]).cloned().collect();
    origin.publish(1_760_000_000, &all);
    let mut index = crate::harness::index_of(1_760_000_000, &all);
    for package in [&absent, &short, &stalled] {
        index = with_size(&index, package, FALSE);
        // Whoever believes the index is told that so much is to come.
        origin.put(&package.path, vec![0; FALSE]);
    }
    origin.put_index(index.as_bytes());
    origin.remove(&absent.path);
    origin.script(&short.path, [Act::CloseAt(100_000)]);
    origin.script(&stalled.path, [Act::StallAt(100_000)]);
    let mounted = Options::new(origin.url()).with(["--cache-size", "8M", "--prefetch", "off"]).mount();
    all_are_read(&mounted, &cached);
    mounted.settled();
    let blobs = mounted.blobs();
    let as_before = || {
        assert_eq!((mounted.counter("evicted"), mounted.blobs()), (0, blobs.clone()));
        let requests = origin.package_requests();
        all_are_read(&mounted, &cached);
        assert_eq!(origin.package_requests(), requests, "something is not here any more");
    };
    for package in [&absent, &short] {
        assert_eq!(fs::read(mounted.path(&package.path)).unwrap_err().raw_os_error(), Some(libc::EIO));
        mounted.settled();
        as_before();
    }
    let user = Command::new("cat").arg(mounted.path(&stalled.path)).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut user = User(user.unwrap());
    eventually(20, "it is parked", || count(&mounted, "parked") == 1);
    assert_eq!(mounted.counter("evicted"), 0);
    user.0.kill().unwrap();
    mounted.settled();
    as_before();
}

/// A directory of a server that does not answer: whoever looks into it waits for ever.
#[test]
fn a_directory_that_never_answers_holds_up_no_other_binhost() {
    if !can_mount() {
        return;
    }
    let dead_packages = packages("dead", 30, 20_000);
    let all = packages("sound", 3, 20_000);
    let (origin, sound) = (Origin::with(&dead_packages), Origin::with(&all));
    let dead = Options::new(origin.url()).with(["--prefetch", "off"]).mount();
    let mounted = mount(&format!("file://{}", dead.mountpoint().display()), &sound);
    // Dropped first: what waits for it ends before the mount does.
    let stopped = Stopped::new(&dead);
    let user = User::opens(&mounted, A, paths(&dead_packages));
    await_opens(&mounted, dead_packages.len());
    eventually(20, "they are parked", || count(&mounted, "parked") == (PLACES - PLACES / 4) as u64);
    for package in &all {
        let took = reads(&mounted, package);
        assert!(took < AT_ONCE, "{took:?}");
    }
    drop(stopped);
    drop(user);
}

#[test]
fn parked_downloads_end_with_their_last_waiter() {
    if !can_mount() {
        return;
    }
    let silent = packages("silent", 4, 20_000);
    let origin = Origin::with(&silent);
    silent.iter().for_each(|package| origin.script(&package.path, [Act::Silence]));
    let mounted = Options::new(origin.url()).with(["--prefetch", "off"]).mount_in(place());
    let (first, second) = (User::opens(&mounted, A, paths(&silent)), User::opens(&mounted, B, paths(&silent[..1])));
    await_opens(&mounted, 5);
    eventually(20, "all are parked", || count(&mounted, "parked") == 4);
    drop(first);
    // What is not parked would go on for half a minute.
    eventually(10, "one is left", || count(&mounted, "parked") == 1 && count(&mounted, "opens") == 1);
    drop(second);
    eventually(10, "none is left", || mounted.status()["downloads"].as_array().unwrap().is_empty());
}
