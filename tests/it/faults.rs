//! What can go wrong with a package: what open(2) says and how soon, what is left behind, and how it heals.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use binhostfs::internals::fetch::TURNS_OF_USER;
use binhostfs::internals::upstream::{NO_PROGRESS_BUDGET, STALL_TIMEOUT};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Act, Mounted, Options, Origin, Package, can_mount, eventually, index_of};

/// Three tries wait 1.2 s in between at most; the rest is for machines under load.
const AT_ONCE: Duration = Duration::from_secs(10);
/// No try is begun after the budget, and the last one may be silent for as long as it takes to connect (2 s) and to
/// stall; 3 s for machines under load.
const BUDGET: Duration = NO_PROGRESS_BUDGET.saturating_add(STALL_TIMEOUT).saturating_add(Duration::from_secs(5));
/// Longer than failures are remembered, and than a refresh of the index that a failure asks for.
const HEALED: u64 = 30;
const PAYLOAD: usize = 300_000;
/// In the midst of the body.
const MIDDLE: usize = 150_000;

/// `path` opened and read: the bytes or the errno, and how long it took.
fn open(path: &Path) -> (Result<Vec<u8>, Option<i32>>, Duration) {
    let start = Instant::now();
    let result = fs::read(path).map_err(|error| error.raw_os_error());
    (result, start.elapsed())
}

fn fails(mounted: &Mounted, package: &Package, within: Duration, reason: &str) {
    let (result, took) = open(&mounted.path(&package.path));
    let Package { path, .. } = package;
    assert_eq!(result.err(), Some(Some(libc::EIO)), "{path}");
    assert!(took < within, "{path}: {took:?}");
    let said = mounted.reason(path).unwrap_or_default();
    assert!(said.contains(reason), "{path}: {reason:?} is not in {said:?}");
}

fn heals(mounted: &Mounted, package: &Package) {
    eventually(HEALED, &package.path, || open(&mounted.path(&package.path)).0.is_ok_and(|read| read == package.bytes));
    eventually(5, "no failure any more", || mounted.reason(&package.path).is_none());
}

fn nothing_is_left(mounted: &Mounted) {
    all_are_kept(mounted, 0);
}

/// So many packages are in the cache and nothing else. Who waits has a package before it is safe on the disk.
fn all_are_kept(mounted: &Mounted, count: usize) {
    eventually(20, "nothing in incoming/", || mounted.incoming().is_empty());
    assert_eq!(mounted.blobs().len(), count);
}

/// Runs `test` for each of `cases`, no more at once than are downloaded at once.
fn for_each<T: Sync>(cases: &[T], test: impl Fn(&T) + Sync) {
    for some in cases.chunks(TURNS_OF_USER) {
        std::thread::scope(|scope| some.iter().for_each(|case| drop(scope.spawn(|| test(case)))));
    }
}

/// Where the content of a member of a GPKG begins.
fn member(package: &Package, name: &str) -> usize {
    let name = format!("/{name}\0");
    package.bytes.windows(name.len()).position(|part| part == name.as_bytes()).unwrap() / 512 * 512 + 512
}

/// Redirects `path` so many times, at last to bytes that are there.
fn redirect(origin: &Origin, package: &Package, times: usize) {
    let hop = |left: usize| format!("hop/{left}/{}", package.path);
    origin.put(&hop(0), package.bytes.clone());
    origin.script(&package.path, [Act::Redirect(format!("{}/{}", origin.url(), hop(times - 1)))]);
    for left in 1..times {
        origin.script(&hop(left), [Act::Redirect(format!("/{}", hop(left - 1)))]);
    }
}

#[test]
fn faults_that_stay_end_in_eio_and_heal() {
    if !can_mount() {
        return;
    }
    let status = |code| vec![Act::Status(code, Vec::new())];
    let itself = "/app-misc/loop/loop-1-1.gpkg.tar".to_owned();
    let image = member(&Package::new("flip-image-1", PAYLOAD), "image.tar.gz") + 1000;
    let manifest = member(&Package::new("flip-manifest-1", PAYLOAD), "Manifest") + 100;
    let metadata = member(&Package::new("flip-metadata-1", PAYLOAD), "metadata.tar.gz") + 100;
    let table = [
        ("closed-1", vec![Act::CloseAt(MIDDLE)], "end of file"),
        ("closed-at-once-1", vec![Act::CloseAt(0)], "end of file"),
        ("reset-1", vec![Act::ResetAt(MIDDLE)], "reset"),
        ("announced-short-1", vec![Act::ShortBy(7)], "index and package do not belong together"),
        ("chunked-short-1", vec![Act::ChunkedUpTo(MIDDLE)], "ended after 150000 of"),
        ("flip-head-1", vec![Act::Flip(3)], "refused"),
        ("flip-metadata-1", vec![Act::Flip(metadata)], "refused"),
        ("flip-image-1", vec![Act::Flip(image)], "refused"),
        ("flip-manifest-1", vec![Act::Flip(manifest)], "refused"),
        ("replaced-in-the-middle-1", vec![Act::CloseAt(MIDDLE), Act::Flip(1000)], "refused"),
        ("html-1", vec![Act::Instead(b"<html>".repeat(99_999))], "index and package do not belong together"),
        ("error-1", status(500), "HTTP status 500"),
        ("unavailable-1", status(503), "HTTP status 503"),
        ("absent-1", status(404), "HTTP status 404"),
        ("forbidden-1", status(403), "HTTP status 403"),
        ("too-many-1", vec![Act::Status(429, vec!["retry-after: 1".to_owned()])], "HTTP status 429"),
        ("loop-1", vec![Act::Redirect(itself)], "more than 5 redirects"),
        ("redirected-1", Vec::new(), "more than 5 redirects"),
    ];
    let packages = table.clone().map(|(pf, ..)| Package::new(pf, PAYLOAD));
    let origin = Origin::with(&packages);
    let mounted = Options::new(origin.url()).mount();
    let cases: Vec<_> = packages.iter().zip(table).collect();
    for_each(&cases, |(package, (pf, acts, reason))| {
        match *pf {
            "redirected-1" => redirect(&origin, package, 6),
            _ => origin.script(&package.path, acts.clone()),
        }
        fails(&mounted, package, AT_ONCE, reason);
        let requests = origin.asked(&package.path).len();
        assert!(requests <= 6, "{pf}: {requests}");
        fails(&mounted, package, Duration::from_secs(2), reason);
        assert_eq!(origin.asked(&package.path).len(), requests, "{pf}: asked again at once");
    });
    nothing_is_left(&mounted);
    packages.iter().for_each(|package| origin.script(&package.path, [Act::Serve]));
    packages.iter().for_each(|package| heals(&mounted, package));
    all_are_kept(&mounted, packages.len());
}

#[test]
fn silence_ends_in_eio_within_the_budget() {
    if !can_mount() {
        return;
    }
    let packages = [Package::new("silent-1", PAYLOAD), Package::new("stalled-1", PAYLOAD)];
    let origin = Origin::with(&packages);
    let mounted = Options::new(origin.url()).mount();
    for_each(&packages, |package| {
        let act = if package.path.contains("silent") { Act::Silence } else { Act::StallAt(MIDDLE) };
        origin.script(&package.path, [act]);
        fails(&mounted, package, BUDGET, "no data for 10 s");
    });
    nothing_is_left(&mounted);
    packages.iter().for_each(|package| origin.script(&package.path, [Act::Serve]));
    packages.iter().for_each(|package| heals(&mounted, package));
}

#[test]
fn faults_that_pass_are_not_seen() {
    if !can_mount() {
        return;
    }
    let (at_once, stalled) = (Duration::ZERO, STALL_TIMEOUT);
    let wait = vec!["retry-after: 1".to_owned()];
    // What is done, how long that takes at least, and which requests ask for a part.
    let table = [
        ("silent-1", vec![Act::Silence, Act::Serve], stalled, vec![false, false]),
        ("stalled-1", vec![Act::StallAt(MIDDLE), Act::Serve], stalled, vec![false, true]),
        ("slow-1", vec![Act::Slow(PAYLOAD / 40, Duration::from_millis(300))], Duration::from_secs(12), vec![false]),
        ("closed-1", vec![Act::CloseAt(MIDDLE), Act::Serve], at_once, vec![false, true]),
        ("reset-1", vec![Act::ResetAt(MIDDLE), Act::Serve], at_once, vec![false, true]),
        ("chunked-short-1", vec![Act::ChunkedUpTo(MIDDLE), Act::Serve], at_once, vec![false, false]),
        ("wrong-range-1", vec![Act::CloseAt(MIDDLE), Act::WrongRange], at_once, vec![false, true, false]),
        ("no-ranges-1", vec![Act::CloseAt(MIDDLE), Act::Whole], at_once, vec![false, true]),
        (
            "no-such-range-1",
            vec![Act::CloseAt(MIDDLE), Act::Status(416, Vec::new()), Act::Serve],
            at_once,
            vec![false, true, false],
        ),
        ("unavailable-1", vec![Act::Status(503, Vec::new()), Act::Serve], at_once, vec![false, false]),
        ("too-many-1", vec![Act::Status(429, wait), Act::Serve], Duration::from_secs(1), vec![false, false]),
        ("redirected-1", Vec::new(), at_once, vec![false]),
    ];
    let packages = table.clone().map(|(pf, ..)| Package::new(pf, PAYLOAD));
    let origin = Origin::with(&packages);
    let mounted = Options::new(origin.url()).mount();
    let cases: Vec<_> = packages.iter().zip(table).collect();
    for_each(&cases, |(package, (pf, acts, at_least, parts))| {
        match *pf {
            "redirected-1" => redirect(&origin, package, 5),
            _ => origin.script(&package.path, acts.clone()),
        }
        let (read, took) = open(&mounted.path(&package.path));
        assert!(read.is_ok_and(|read| read == package.bytes), "{pf}");
        assert!((*at_least..*at_least + AT_ONCE).contains(&took), "{pf}: {took:?}");
        let asked = origin.asked(&package.path);
        assert_eq!(asked.iter().map(|asked| asked.range.is_some()).collect::<Vec<_>>(), *parts, "{pf}");
        assert!(asked.iter().all(|asked| asked.range.is_some() == asked.if_range.is_some()), "{pf}");
    });
    assert_eq!(mounted.counter("failed_opens"), 0);
    all_are_kept(&mounted, packages.len());
}

/// Like [`fails`], but does not wait for an open that never ends.
fn fails_soon(mounted: &Mounted, package: &Package) {
    let (tell, told) = std::sync::mpsc::channel();
    let path = mounted.path(&package.path);
    // It ends with the mount, too.
    std::thread::spawn(move || tell.send(open(&path).0.err()));
    assert_eq!(told.recv_timeout(AT_ONCE), Ok(Some(Some(libc::EIO))));
    let said = mounted.reason(&package.path).unwrap();
    assert!(said.contains("end of file"), "{said}");
}

/// A server that breaks off and then sends other bytes as the rest could keep a download going for ever.
#[test]
fn a_lie_about_the_rest_is_believed_once_for_each_url() {
    if !can_mount() {
        return;
    }
    let [package, healed] = ["lying-1", "healed-1"].map(|pf| Package::new(pf, PAYLOAD));
    let ranges = |origin: &Origin, package: &Package| {
        origin.asked(&package.path).iter().map(|asked| asked.range.is_some()).collect::<Vec<_>>()
    };
    let origin = || Origin::with(&[package.clone(), healed.clone()]);
    let lying = Act::LyingRange(MIDDLE);

    let alone = origin();
    alone.script(&package.path, [lying.clone()]);
    alone.script(&healed.path, [lying.clone(), lying.clone(), Act::Serve]);
    let mounted = Options::new(alone.url()).mount();
    fails_soon(&mounted, &package);
    // The part that was sent, the lie, and the whole once more.
    assert_eq!(ranges(&alone, &package), [false, true, false]);
    assert!(open(&mounted.path(&healed.path)).0.is_ok_and(|read| read == healed.bytes));
    assert_eq!(ranges(&alone, &healed), [false, true, false]);
    // It is a fault of the connection as long as nobody has sent a whole file that is wrong.
    assert!(mounted.listing().contains(&package.path));

    let (first, second) = (origin(), origin());
    let mounted = Options::new(first.url()).with(["--mirror", &second.url()]).mount();
    first.script(&package.path, [lying.clone()]);
    second.script(&package.path, [lying.clone()]);
    fails_soon(&mounted, &package);
    assert_eq!((ranges(&first, &package), ranges(&second, &package)), (vec![false; 2], vec![true, false]));
    // One that does not lie delivers all the same.
    first.script(&healed.path, [lying]);
    second.script(&healed.path, [Act::LyingRange(MIDDLE), Act::Serve]);
    assert!(open(&mounted.path(&healed.path)).0.is_ok_and(|read| read == healed.bytes));
}

/// The index and the bytes agree, and the bytes are still not the package.
#[test]
fn right_digests_do_not_make_a_package() {
    if !can_mount() {
        return;
    }
    let good =
        ["head-1", "metadata-1", "image-1", "manifest-1", "other-1", "cut-1"].map(|pf| Package::new(pf, PAYLOAD));
    let mut bad = good.clone();
    bad[0].bytes[3] ^= 1;
    for (package, name) in bad.iter_mut().skip(1).zip(["metadata.tar.gz", "image.tar.gz", "Manifest"]) {
        let at = member(package, name) + 100;
        package.bytes[at] ^= 1;
    }
    bad[5].bytes.truncate(MIDDLE);
    let another = Package::new("another-1", PAYLOAD);
    bad[4].bytes = another.bytes.clone();
    let origin = Origin::with(&[&bad[..], std::slice::from_ref(&another)].concat());
    let mounted = Options::new(origin.url()).with(["--refresh", "1s"]).mount();
    // That its bytes are in the cache under their own name does not help.
    assert!(fs::read(mounted.path(&another.path)).unwrap() == another.bytes);
    let reasons = [
        "checking the GPKG container",
        "\"metadata.tar.gz\" does not have the SHA512 of the Manifest",
        "\"image.tar.gz\" does not have the SHA512 of the Manifest",
        "the Manifest",
        "the package inside has CPV \"app-misc/another-1\", its index entry says \"app-misc/other-1\"",
        "goes on after the end of the package",
    ];
    let cases: Vec<_> = bad.iter().zip(reasons).collect();
    for_each(&cases, |(package, reason)| fails(&mounted, package, AT_ONCE, reason));
    all_are_kept(&mounted, 1);
    origin.publish(1_760_000_001, &good);
    good.iter().for_each(|package| heals(&mounted, package));
}

#[test]
fn a_body_without_end_is_cut_off() {
    if !can_mount() {
        return;
    }
    let package = Package::new("endless-1", PAYLOAD);
    let origin = Origin::with(std::slice::from_ref(&package));
    let mounted = Options::new(origin.url()).mount();
    origin.script(&package.path, [Act::Endless]);
    let before = disk_usage(&mounted.cache());
    let most = std::thread::scope(|scope| {
        let opening = scope.spawn(|| fails(&mounted, &package, AT_ONCE, "more than the"));
        let mut most = before;
        while !opening.is_finished() {
            most = most.max(disk_usage(&mounted.cache()));
        }
        most
    });
    assert!(most <= before + package.bytes.len() as u64 + (1 << 20), "{before} -> {most}");
    assert!(mounted.counter("bytes_fetched") < 16 << 20);
    nothing_is_left(&mounted);
    origin.script(&package.path, [Act::Serve]);
    heals(&mounted, &package);
}

/// Bytes on disk below a directory whose files come and go.
fn disk_usage(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let used = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_usage(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(used).sum()
}

#[test]
fn a_binhost_that_is_gone_is_told_from_one_that_comes_back() {
    if !can_mount() {
        return;
    }
    let package = Package::new("one-1", PAYLOAD);
    let origin = Origin::with(std::slice::from_ref(&package));
    let address = origin.address();
    let mounted = Options::new(origin.url()).mount();
    drop(origin);
    fails(&mounted, &package, AT_ONCE, "refused");
    nothing_is_left(&mounted);
    let origin = Origin::start_on(&address);
    origin.publish(1_760_000_000, std::slice::from_ref(&package));
    heals(&mounted, &package);
}

/// Other bytes of the same size that are a sound package too.
fn rebuilt(package: &Package) -> Package {
    let mut rebuilt = package.clone();
    // Two digits of the first member's time: the checksum of the header stays right.
    assert_ne!(rebuilt.bytes[136], rebuilt.bytes[137]);
    rebuilt.bytes.swap(136, 137);
    rebuilt
}

#[test]
fn packages_replaced_behind_the_index_bring_a_new_index() {
    if !can_mount() {
        return;
    }
    let old = ["same-size-1", "other-size-1", "moved-1"].map(|pf| Package::new(pf, PAYLOAD));
    let new = [rebuilt(&old[0]), Package::new("other-size-1", PAYLOAD / 2), Package::new("moved-1.1", PAYLOAD)];
    let reasons = ["its index entry says", "do not belong together", "404"];
    let cases: Vec<_> = old.iter().zip(&new).zip(reasons).collect();
    for_each(&cases, |((old, new), reason)| {
        let origin = Origin::with(std::slice::from_ref(*old));
        let mounted = Options::new(origin.url()).mount();
        // The first one comes by itself.
        eventually(10, "a refresh", || mounted.counter("unmodified") == 1);
        let before = fs::metadata(mounted.path(&old.path)).unwrap().ino();
        origin.remove(&old.path);
        origin.publish(1_760_000_001, std::slice::from_ref(*new));
        fails(&mounted, old, AT_ONCE, reason);
        nothing_is_left(&mounted);
        eventually(HEALED, "the new package", || fs::read(mounted.path(&new.path)).is_ok_and(|read| read == new.bytes));
        assert_ne!(fs::metadata(mounted.path(&new.path)).unwrap().ino(), before);
        assert_eq!(mounted.listing(), [new.path.as_str()]);
    });
}

#[test]
fn a_proxy_of_the_environment_is_used() {
    if !can_mount() {
        return;
    }
    let package = Package::new("one-1", PAYLOAD);
    let proxy = Origin::with(std::slice::from_ref(&package));
    // Only a proxy can know this host.
    let options = Options::new("http://binhost.invalid/").variable("http_proxy", &proxy.url());
    let mounted = options.variable("no_proxy", "").mount();
    assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes);
    assert_eq!(proxy.asked(&package.path).len(), 1);
}

/// A binhost that only a proxy reaches is not in the neighbourhood, so it must not lead there.
#[test]
fn a_binhost_elsewhere_does_not_lead_to_private_addresses() {
    if !can_mount() {
        return;
    }
    let (redirected, elsewhere) = (Package::new("redirected-1", PAYLOAD), Package::new("elsewhere-1", PAYLOAD));
    let near = Origin::with(&[redirected.clone(), elsewhere.clone()]);
    let proxy = Origin::with(std::slice::from_ref(&redirected));
    proxy.script(&redirected.path, [Act::Redirect(format!("{}/{}", near.url(), redirected.path))]);
    let options = |url: &str| Options::new(url).variable("http_proxy", &proxy.url()).variable("no_proxy", "127.0.0.1");
    let mounted = options("http://198.51.100.7/").mount();
    fails(
        &mounted,
        &redirected,
        AT_ONCE,
        "127.0.0.1 is at a private address, and no configured URL of this binhost is",
    );
    drop(mounted);
    let index = index_of(1_760_000_000, [&elsewhere]);
    proxy.put_index(index.replacen("VERSION", &format!("URI: {}\nVERSION", near.url()), 1).as_bytes());
    let mounted = options("http://198.51.100.7/").mount();
    fails(&mounted, &elsewhere, AT_ONCE, "127.0.0.1 is at a private address, and no configured URL of this binhost is");
    assert!(near.asked(&redirected.path).is_empty() && near.asked(&elsewhere.path).is_empty());
    // A mirror there says that it is meant.
    drop(mounted);
    let mounted = options("http://198.51.100.7/").with(["--mirror", &near.url()]).mount();
    assert!(fs::read(mounted.path(&elsewhere.path)).unwrap() == elsewhere.bytes);
}

#[test]
fn the_host_of_a_redirect_does_not_learn_where_it_came_from() {
    if !can_mount() {
        return;
    }
    let package = Package::new("one-1", PAYLOAD);
    let (first, second) = (Origin::with(std::slice::from_ref(&package)), Origin::with(std::slice::from_ref(&package)));
    first.script(&package.path, [Act::Redirect(format!("{}/{}", second.url(), package.path))]);
    let mounted = Options::new(first.url()).mount();
    assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes);
    let asked = second.asked(&package.path);
    assert_eq!((asked.len(), asked[0].referer.as_deref()), (1, None));
}

fn cat(path: &Path) -> Child {
    Command::new("cat").arg(path).stdout(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), signal).unwrap();
}

/// `S` asleep, `D` in a system call that cannot be interrupted, `T` stopped: proc_pid_stat(5).
fn state(child: &Child) -> char {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

#[test]
fn a_signal_ends_only_the_open_that_it_is_for() {
    if !can_mount() {
        return;
    }
    let package = Package::new("one-1", PAYLOAD);
    let origin = Origin::with(std::slice::from_ref(&package));
    let mounted = Options::new(origin.url()).mount();
    origin.script(&package.path, [Act::StallAt(MIDDLE), Act::Serve]);
    let path = mounted.path(&package.path);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| fs::read(&path).unwrap());
        let (mut killed, mut terminated, stopped) = (cat(&path), cat(&path), cat(&path));
        eventually(8, "four wait", || mounted.status()["downloads"][0]["waiters"] == 4);
        signal(&stopped, Signal::STOP);
        for (child, with) in [(&mut killed, Signal::KILL), (&mut terminated, Signal::TERM)] {
            signal(child, with);
            let mut ended = None;
            eventually(2, "the process is gone", || {
                ended = child.try_wait().unwrap();
                ended.is_some()
            });
            assert_eq!(ended.unwrap().signal(), Some(with.as_raw()));
        }
        assert!(!reader.is_finished());
        assert!(reader.join().unwrap() == package.bytes);
        eventually(20, "it stops once its open is answered", || state(&stopped) == 'T');
        signal(&stopped, Signal::CONT);
        assert!(stopped.wait_with_output().unwrap().stdout == package.bytes);
    });
    assert_eq!((mounted.counter("interrupted_opens"), mounted.counter("failed_opens")), (2, 0));
    assert_eq!(origin.asked(&package.path).len(), 2);
}

/// A download that nobody waits for any more goes on for a while, and serves who comes next.
#[test]
fn who_goes_away_leaves_the_download_to_the_next() {
    if !can_mount() {
        return;
    }
    let package = Package::new("one-1", PAYLOAD);
    let origin = Origin::with(std::slice::from_ref(&package));
    let mounted = Options::new(origin.url()).mount();
    origin.script(&package.path, [Act::Slow(PAYLOAD / 20, Duration::from_millis(100))]);
    let mut child = cat(&mounted.path(&package.path));
    origin.await_requests(&package.path, 1);
    // SIGINT is ignored by whatever a shell starts in the background.
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes);
    assert_eq!(origin.asked(&package.path).len(), 1);
}
