//! The index: new ones, bad ones, none at all.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use crate::harness::{Act, Mounted, Options, Origin, Package, can_mount, eventually, index_of};

/// A refresh a second, and three tries of each.
const REFRESHED: u64 = 20;
const TIME: u64 = 1_760_000_000;
/// Most memory of the daemon, KiB, whatever the binhost sends.
const MEMORY: u64 = 64 << 10;

fn packages<const N: usize>(names: [&'static str; N]) -> [Package; N] {
    names.map(|pf| Package::new(pf, 20_000))
}

fn mount(origin: &Origin) -> Mounted {
    Options::new(origin.url()).with(["--refresh", "1s"]).mount()
}

fn paths<'a>(packages: impl IntoIterator<Item = &'a Package>) -> Vec<String> {
    let mut paths: Vec<String> = packages.into_iter().map(|package| package.path.clone()).collect();
    paths.sort();
    paths
}

fn await_refreshes(mounted: &Mounted, count: u64) {
    eventually(REFRESHED, "a new generation", || mounted.counter("refreshes") == count);
}

fn await_problem(mounted: &Mounted, problem: &str) {
    let said = || mounted.status()["refresh"]["error"].as_str().unwrap_or_default().to_owned();
    eventually(REFRESHED, problem, || said().contains(problem));
}

fn await_no_problem(mounted: &Mounted) {
    eventually(REFRESHED, "no problem", || mounted.status()["refresh"]["error"].is_null());
}

fn reads(mounted: &Mounted, package: &Package) {
    assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes, "{}", package.path);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The most memory that the daemon has taken so far, KiB.
fn peak_memory(mounted: &Mounted) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", mounted.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_new_index_is_shown_at_once_and_whole() {
    if !can_mount() {
        return;
    }
    let [stays, goes, comes] = packages(["stays-1", "goes-1", "comes-1"]);
    let [changes, changed] = [Package::new("changes-1", 20_000), Package::new("changes-1", 30_000)];
    let origin = Origin::with(&[stays.clone(), goes.clone(), changes.clone()]);
    let mounted = mount(&origin);
    assert_eq!(mounted.listing(), paths([&stays, &goes, &changes]));
    reads(&mounted, &changes);
    let inode = |package: &Package| fs::metadata(mounted.path(&package.path)).unwrap().ino();
    let before = (inode(&stays), inode(&changes));
    assert!(fs::metadata(mounted.path(&comes.path)).is_err());

    origin.publish(TIME + 60, &[stays.clone(), comes.clone(), changed.clone()]);
    await_refreshes(&mounted, 1);
    assert_eq!(mounted.listing(), paths([&stays, &comes, &changed]));
    assert_eq!(inode(&stays), before.0);
    assert_ne!(inode(&changed), before.1);
    let packages = fs::metadata(mounted.path("Packages")).unwrap();
    let text = fs::read_to_string(mounted.path("Packages")).unwrap();
    assert_eq!((packages.len(), packages.mtime()), (text.len() as u64, 1_760_000_060));
    assert!(text.contains("TIMESTAMP: 1760000060\n") && text.contains(&comes.path) && !text.contains(&goes.path));
    for package in [&stays, &comes, &changed] {
        reads(&mounted, package);
    }
}

/// emerge reads the index first, and opens what it planned with it for hours.
#[test]
fn names_of_the_last_indexes_can_still_be_opened() {
    if !can_mount() {
        return;
    }
    let [stays, goes, late] = packages(["stays-1", "goes-1", "late-1"]);
    let origin = Origin::with(&[stays.clone(), goes.clone(), late.clone()]);
    let mounted = mount(&origin);
    for generation in 1..=2 {
        origin.publish(TIME + generation, std::slice::from_ref(&stays));
        await_refreshes(&mounted, generation);
        assert_eq!(mounted.listing(), paths([&stays]));
        reads(&mounted, &goes);
    }
    origin.publish(TIME + 3, std::slice::from_ref(&stays));
    await_refreshes(&mounted, 3);
    for package in [&goes, &late] {
        assert!(!mounted.path(&package.path).exists());
        let error = fs::File::open(mounted.path(&package.path)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    }
}

#[test]
fn a_name_that_comes_back_means_the_new_package() {
    if !can_mount() {
        return;
    }
    let [stays] = packages(["stays-1"]);
    let [old, new] = [Package::new("again-1", 20_000), Package::new("again-1", 30_000)];
    let origin = Origin::with(&[stays.clone(), old.clone()]);
    let mounted = mount(&origin);
    origin.publish(TIME + 1, std::slice::from_ref(&stays));
    await_refreshes(&mounted, 1);
    // Looked at by its old name, and so in the kernel's cache.
    let directory = mounted.path("app-misc/again");
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    assert_eq!(fs::metadata(mounted.path(&old.path)).unwrap().len(), old.bytes.len() as u64);
    let again = [stays, new.clone()];
    origin.publish(TIME + 2, &again);
    await_refreshes(&mounted, 2);
    assert_eq!(fs::metadata(mounted.path(&new.path)).unwrap().len(), new.bytes.len() as u64);
    reads(&mounted, &new);
    assert_eq!(mounted.listing(), paths(&again));
}

#[test]
fn open_files_stay_what_they_were() {
    if !can_mount() {
        return;
    }
    for passthrough in ["auto", "off"] {
        let [goes, comes] = [Package::new("goes-1", 3 << 20), Package::new("comes-1", 20_000)];
        let slow = Package::new("slow-1", 300_000);
        let origin = Origin::with(&[goes.clone(), slow.clone()]);
        let options = Options::new(origin.url()).with(["--refresh", "1s", "--passthrough", passthrough]);
        let mounted = options.mount();
        let mut index = fs::File::open(mounted.path("Packages")).unwrap();
        let mut text = fs::read_to_string(mounted.path("Packages")).unwrap();
        let mut file = fs::File::open(mounted.path(&goes.path)).unwrap();
        let mut start = vec![0; 1000];
        file.read_exact(&mut start).unwrap();
        // One that is still on its way belongs to the old generation too.
        origin.script(&slow.path, [Act::Slow(10_000, Duration::from_millis(100))]);
        let path = mounted.path(&slow.path);
        let waiting = std::thread::spawn(move || fs::read(path).unwrap());
        origin.await_requests(&slow.path, 1);

        origin.remove(&goes.path);
        origin.publish(TIME + 1, std::slice::from_ref(&comes));
        await_refreshes(&mounted, 1);
        assert_eq!(mounted.listing(), paths([&comes]));
        assert_eq!(file.metadata().unwrap().len(), goes.bytes.len() as u64);
        file.read_to_end(&mut start).unwrap();
        assert!(start == goes.bytes);
        let mut old = String::new();
        index.read_to_string(&mut old).unwrap();
        assert_eq!(old, std::mem::take(&mut text));
        assert!(waiting.join().unwrap() == slow.bytes);
    }
}

#[test]
fn the_last_good_index_outlives_bad_ones() {
    if !can_mount() {
        return;
    }
    let [one, two] = packages(["one-1", "two-1"]);
    // What may be wrong with the bytes of an index is tested without a mount, in `daemon::binhosts`.
    let table = [
        ("an HTML page", Act::Instead(b"<!DOCTYPE html>\n<html>404: not here</html>\n".to_vec()), "<!DOCTYPE html>"),
        ("broken off", Act::CloseAt(100), "end of file"),
        ("a redirect in circles", Act::Redirect("/Packages.gz".to_owned()), "redirects"),
    ];
    let test = |(what, act, problem): &(&str, Act, &str)| {
        let origin = Origin::with(std::slice::from_ref(&one));
        let mounted = mount(&origin);
        reads(&mounted, &one);
        let before = fs::read_to_string(mounted.path("Packages")).unwrap();
        origin.script("Packages.gz", [act.clone()]);
        origin.script("Packages", [Act::Status(403, Vec::new())]);
        origin.publish(TIME + 1, std::slice::from_ref(&two));
        await_problem(&mounted, problem);
        assert_eq!(mounted.listing(), paths([&one]), "{what}");
        assert_eq!(fs::read_to_string(mounted.path("Packages")).unwrap(), before, "{what}");
        reads(&mounted, &one);
        assert!(mounted.log().contains("the last good one stays"), "{what}");
        assert_eq!(mounted.counter("refreshes"), 0, "{what}");

        origin.script("Packages.gz", [Act::Serve]);
        await_no_problem(&mounted);
        assert_eq!(mounted.listing(), paths([&two]), "{what}");
        reads(&mounted, &two);
    };
    std::thread::scope(|scope| table.iter().for_each(|case| drop(scope.spawn(|| test(case)))));
}

#[test]
fn an_index_that_never_ends_takes_no_memory() {
    if !can_mount() {
        return;
    }
    let [one] = packages(["one-1"]);
    let origin = Origin::with(std::slice::from_ref(&one));
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let newlines = vec![b'\n'; 1 << 20];
    (0..193).for_each(|_| encoder.write_all(&newlines).unwrap());
    let bomb = encoder.finish().unwrap();
    let mounted = Options::new(origin.url()).with(["--refresh", "5s"]).mount();
    origin.script("Packages.gz", [Act::Instead(bomb), Act::Silence]);
    eventually(60, "the bomb is refused", || mounted.status()["refresh"]["error"].is_string());
    await_problem(&mounted, "larger than 201326592 bytes; if that is right, raise max-index");
    assert_eq!(mounted.listing(), paths([&one]));
    let peak = peak_memory(&mounted);
    assert!(peak < MEMORY, "{peak} KiB");
    let used: u64 = walk(&mounted.cache()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(used < 16 << 20, "{used} bytes of it are left in the cache");
}

#[test]
fn an_index_that_is_too_large_leaves_the_last_good_one() {
    if !can_mount() {
        return;
    }
    let [one, two, three] = packages(["one-1", "two-1", "three-1"]);
    let origin = Origin::with(std::slice::from_ref(&one));
    let place = tempfile::TempDir::with_prefix("binhostfs-it.").unwrap();
    let file = place.path().join("binhostfs.toml");
    let url = origin.url();
    let text = format!("verify-signature = false\nmax-index = \"4K\"\n[binhost.test]\nurl = \"{url}\"\n");
    fs::write(&file, text).unwrap();
    let mounted = Options::configured(&file).with(["--refresh", "5s"]).mount_in(place);
    assert_eq!(mounted.listing(), paths([&one]));
    // 4 KiB are 4 entries, and 682 bytes of PATHs.
    let many: String = (0..5).map(|at| one.stanza().replace("one-1", &format!("one-{at}"))).collect();
    let long = one.stanza().replace(&one.path, &format!("app-misc/{}/{}", "d".repeat(250), "n".repeat(250)));
    let longer = long.replace("one-1", "two-1").replace("ddd", "ddx");
    for (number, (text, reason)) in [
        (format!("X: {}\n", "y".repeat(4096)), "the index is larger than 4096 bytes"),
        (many, "the index has more than 4 entries"),
        (long + &longer, "the PATHs of the index have more than 682 bytes together"),
    ]
    .into_iter()
    .enumerate()
    {
        let header = format!("TIMESTAMP: {}\nVERSION: 0\n", TIME + 1 + number as u64);
        let index = if text.starts_with("X:") { format!("{text}{header}\n") } else { format!("{header}\n{text}") };
        origin.put_index(index.as_bytes());
        await_problem(&mounted, &format!("{reason}; if that is right, raise max-index"));
        assert_eq!(mounted.listing(), paths([&one]), "{reason}");
    }
    origin.publish(TIME + 9, &[two.clone(), three.clone()]);
    await_no_problem(&mounted);
    eventually(REFRESHED, "the next good one is shown", || mounted.listing() == paths([&three, &two]));
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn hostile_entries_are_left_out_one_by_one() {
    if !can_mount() {
        return;
    }
    let good = packages(["alpha-1", "beta-1", "omega-1"]);
    let [bad] = packages(["bad-1"]);
    let stanza = |pf: &str, path: &str| {
        bad.stanza().replace("CPV: app-misc/bad-1", &format!("CPV: app-misc/{pf}")).replace(&bad.path, path)
    };
    let more = |pf: &str, line: &[u8]| [b"DESC: ", line, b"\n", stanza(pf, &format!("x/{pf}")).as_bytes()].concat();
    let hostile = [
        stanza("absolute-1", "/etc/shadow").into_bytes(),
        stanza("up-1", "../log").into_bytes(),
        stanza("up-2", "app-misc/../../cache/v1/lock").into_bytes(),
        stanza("dot-1", "app-misc/./dot-1.xpak").into_bytes(),
        stanza("index-1", "Packages").into_bytes(),
        stanza("below-index-1", "Packages/x.xpak").into_bytes(),
        stanza("no version", "x/no-version.xpak").into_bytes(),
        more("nul-1", b"\0"),
        more("return-1", b"one\rtwo"),
        more("long-1", &vec![b'x'; 10 << 20]),
        // An instance of alpha, which comes again; the path of beta, which was built later; a directory of all.
        good[0].stanza().replace(&good[0].path, "x/alpha.xpak").into_bytes(),
        stanza("beta-2", &good[1].path).replace("BUILD_TIME: 1760000000", "BUILD_TIME: 1750000000").into_bytes(),
        stanza("directory-1", "app-misc").into_bytes(),
    ];
    let mut text = b"ARCH: amd64\nTIMESTAMP: 1760000000\nVERSION: 0\n\n".to_vec();
    text.extend(good[1].stanza().bytes());
    hostile.iter().for_each(|stanza| text.extend(stanza));
    text.extend([good[0].stanza(), good[2].stanza()].concat().bytes());

    let origin = Origin::with(&good);
    origin.put_index(&text);
    let mounted = mount(&origin);
    assert_eq!(mounted.listing(), paths(&good));
    good.iter().for_each(|package| reads(&mounted, package));
    let binhost = &mounted.status()["binhosts"][0];
    let entries = &binhost["entries"];
    assert_eq!((&binhost["packages"], &entries["dropped"]), (&3.into(), &13.into()), "{binhost}");
    for reason in ["unsafe PATH", "invalid CPV", "NUL or carriage return", "too long", "duplicate", "is a directory"] {
        assert!(entries["dropped_reasons"].as_str().unwrap().contains(reason), "{reason}: {entries}");
    }
    let shown = fs::read_to_string(mounted.path("Packages")).unwrap();
    assert!(shown.starts_with("ARCH: amd64\nPACKAGES: 3\n") && shown.matches("CPV: ").count() == 3, "{shown}");
    assert!(shown.lines().filter_map(|line| line.strip_prefix("PATH: ")).all(|path| mounted.path(path).is_file()));
    assert!(mounted.log().contains("entries of the index are left out"));
    assert!(peak_memory(&mounted) < MEMORY);
}

#[test]
fn a_stored_index_is_enough_to_start() {
    if !can_mount() {
        return;
    }
    let [cached, not_cached, new] = packages(["cached-1", "not-cached-1", "new-1"]);
    let origin = Origin::with(&[cached.clone(), not_cached.clone()]);
    let address = origin.address();
    let mut mounted = mount(&origin);
    reads(&mounted, &cached);
    assert_eq!(mounted.stop(), Some(0));
    drop(origin);
    mounted.start();
    assert_eq!(mounted.listing(), paths([&cached, &not_cached]));
    reads(&mounted, &cached);
    assert_eq!(fs::read(mounted.path(&not_cached.path)).unwrap_err().raw_os_error(), Some(libc::EIO));
    await_problem(&mounted, "refused");
    let origin = Origin::start_on(&address);
    origin.publish(TIME + 1, &[cached, not_cached.clone(), new.clone()]);
    await_refreshes(&mounted, 1);
    reads(&mounted, &new);
    reads(&mounted, &not_cached);
}

#[test]
fn a_silent_binhost_does_not_hold_up_a_start_from_the_stored_index() {
    if !can_mount() {
        return;
    }
    let [one] = packages(["one-1"]);
    let origin = Origin::with(std::slice::from_ref(&one));
    let mut mounted = mount(&origin);
    reads(&mounted, &one);
    assert_eq!(mounted.stop(), Some(0));
    origin.script("Packages.gz", [Act::Silence]);
    let start = Instant::now();
    mounted.start();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    reads(&mounted, &one);
}

#[test]
fn without_any_index_the_mount_is_empty_until_the_binhost_comes() {
    if !can_mount() {
        return;
    }
    let [one] = packages(["one-1"]);
    for silent in [false, true] {
        let origin = Origin::start();
        let (address, url) = (origin.address(), origin.url());
        origin.script("Packages.gz", [Act::Silence]);
        let origin = silent.then_some(origin);
        let start = Instant::now();
        let mounted = Options::new(url).with(["--refresh", "1s"]).mount();
        // The daemon's budget for a first index, and 10 s for machines under load.
        assert!(start.elapsed() < binhostfs::internals::daemon::START_BUDGET + Duration::from_secs(10));
        let text = fs::read_to_string(mounted.path("Packages")).unwrap();
        assert!(text.starts_with("PACKAGES: 0\n") && text.contains("\nVERSION: 0\n"), "{text}");
        assert!(mounted.listing().is_empty());
        let log = mounted.log();
        assert!(log.contains("WARN") && log.contains("PKGDIR is shown empty until a binhost answers"), "{log}");
        assert!(log.contains("no index"), "{log}");

        let origin = origin.unwrap_or_else(|| Origin::start_on(&address));
        origin.publish(TIME, std::slice::from_ref(&one));
        origin.script("Packages.gz", [Act::Serve]);
        // A question that is being asked to a silent binhost has to end first.
        eventually(40, "the first index", || mounted.listing() == paths([&one]));
        reads(&mounted, &one);
        let text = fs::read_to_string(mounted.path("Packages")).unwrap();
        assert!(text.contains("PACKAGES: 1\n"), "{text}");
    }
}

#[test]
fn the_header_may_name_another_place_for_packages() {
    if !can_mount() {
        return;
    }
    let [one] = packages(["one-1"]);
    let elsewhere = Origin::start();
    elsewhere.put(&format!("deep/er/{}", one.path), one.bytes.clone());
    let origin = Origin::start();
    origin.put_index(
        index_of(TIME, [&one])
            .replacen("VERSION", &format!("URI: {}/deep/er/\nVERSION", elsewhere.url()), 1)
            .as_bytes(),
    );
    let mounted = mount(&origin);
    reads(&mounted, &one);
    assert_eq!((origin.package_requests(), elsewhere.package_requests()), (0, 1));
    assert!(!fs::read_to_string(mounted.path("Packages")).unwrap().contains("URI"));
}

#[test]
fn an_index_from_the_network_does_not_lead_to_local_files() {
    if !can_mount() {
        return;
    }
    let [one] = packages(["one-1"]);
    let place = tempfile::TempDir::new().unwrap();
    let local = place.path().join(&one.path);
    fs::create_dir_all(local.parent().unwrap()).unwrap();
    fs::write(&local, &one.bytes).unwrap();
    let origin = Origin::start();
    let uri = format!("URI: file://{}\nVERSION", place.path().display());
    origin.put_index(index_of(TIME, [&one]).replacen("VERSION", &uri, 1).as_bytes());
    let mounted = mount(&origin);
    let error = fs::read(mounted.path(&one.path)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!(mounted.log().contains("it leads to local files"), "{}", mounted.log());
    origin.put(&one.path, one.bytes.clone());
    eventually(REFRESHED, "from the binhost itself", || {
        fs::read(mounted.path(&one.path)).is_ok_and(|b| b == one.bytes)
    });
}

/// An XPAK as Portage's oldest binhosts have it. Source of the format: xpak(5).
fn xpak(pf: &str) -> Vec<u8> {
    let number = |number: usize| u32::try_from(number).unwrap().to_be_bytes();
    let (mut index, mut data) = (Vec::new(), Vec::new());
    for (key, value) in [("CATEGORY", "app-misc"), ("PF", pf), ("BUILD_ID", "1"), ("SLOT", "0")] {
        index.extend([&number(key.len())[..], key.as_bytes(), &number(data.len()), &number(value.len())].concat());
        data.extend(value.bytes());
    }
    let lengths = [number(index.len()), number(data.len())].concat();
    let segment = [b"XPAKPACK", &lengths[..], &index, &data, b"XPAKSTOP"].concat();
    [b"a compressed tar", &segment[..], &number(segment.len()), b"STOP"].concat()
}

#[test]
fn an_unchanged_index_makes_no_generation_where_the_binhost_cannot_say_so() {
    if !can_mount() {
        return;
    }
    let [package] = packages(["one-1"]);
    let origin = Origin::with(std::slice::from_ref(&package));
    origin.script("Packages.gz", [Act::Whole]);
    let mounted = Options::new(origin.url()).with(["--refresh", "1s"]).mount();
    eventually(REFRESHED, "asked three times", || mounted.counter("unmodified") >= 3);
    assert!(origin.asked("Packages.gz").iter().all(|asked| !asked.conditional));
    assert_eq!(mounted.status()["generation"]["number"], 1);
    let rendered = fs::read_dir(mounted.cache().join("v1/generations")).unwrap().count();
    assert_eq!((rendered, mounted.counter("refreshes")), (1, 0));
    reads(&mounted, &package);
}

#[test]
fn a_directory_is_a_binhost_too() {
    if !can_mount() {
        return;
    }
    let place = tempfile::TempDir::with_prefix("a binhost with 100% odd #name ").unwrap();
    let put = |path: &str, bytes: &[u8]| {
        let path = place.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // As Portage does it: beside it, then renamed.
        fs::write(path.with_extension("new"), bytes).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    };
    let [gpkg, new] = packages(["gpkg-1", "new-1"]);
    let mut flat = Package { path: "app-misc/flat-1.tbz2".to_owned(), bytes: xpak("flat-1"), ..gpkg.clone() };
    flat.cpv = "app-misc/flat-1".to_owned();
    // Old indexes leave PATH out.
    let index = |time, packages: &[&Package]| {
        index_of(time, packages.iter().copied()).replace(&format!("PATH: {}\n", flat.path), "")
    };
    [&gpkg, &flat, &new].iter().for_each(|package| put(&package.path, &package.bytes));
    put("Packages", index(TIME, &[&gpkg, &flat]).as_bytes());

    let url = url::Url::from_directory_path(place.path()).unwrap();
    let mounted = Options::new(url.as_str()).with(["--refresh", "1s"]).mount();
    assert_eq!(mounted.listing(), paths([&gpkg, &flat]));
    [&gpkg, &flat].iter().for_each(|package| reads(&mounted, package));
    eventually(REFRESHED, "not read again", || mounted.counter("unmodified") > 0);

    put("Packages", index(TIME + 1, &[&flat, &new]).as_bytes());
    await_refreshes(&mounted, 1);
    assert_eq!(mounted.listing(), paths([&flat, &new]));
    put(&new.path, &[&new.bytes[..1000], &[0; 100], &new.bytes[1100..]].concat());
    assert_eq!(fs::read(mounted.path(&new.path)).unwrap_err().raw_os_error(), Some(libc::EIO));
    fs::remove_file(place.path().join(&new.path)).unwrap();
    put(&new.path, &new.bytes);
    eventually(REFRESHED, "healed", || fs::read(mounted.path(&new.path)).is_ok_and(|read| read == new.bytes));

    put("Packages.gz", &gzip(index(TIME + 2, &[&gpkg]).as_bytes()));
    await_refreshes(&mounted, 2);
    fs::remove_dir_all(place.path()).unwrap();
    await_problem(&mounted, "No such file");
    assert_eq!(mounted.listing(), paths([&gpkg]));
    reads(&mounted, &gpkg);
}

#[test]
fn an_index_that_could_not_be_shown_is_shown_later() {
    if !can_mount() {
        return;
    }
    let [one, two] = packages(["one-1", "two-1"]);
    let origin = Origin::with(std::slice::from_ref(&one));
    let mounted = mount(&origin);
    eventually(REFRESHED, "the first refresh is over", || mounted.counter("unmodified") > 0);
    // As a full disk does it, but for root too: nothing can be written there.
    let (generations, aside) = (mounted.cache().join("v1/generations"), mounted.cache().join("v1/aside"));
    fs::rename(&generations, &aside).unwrap();
    fs::write(&generations, "").unwrap();
    origin.publish(TIME + 1, std::slice::from_ref(&two));
    await_problem(&mounted, "generations");
    assert_eq!(mounted.listing(), paths([&one]));
    fs::remove_file(&generations).unwrap();
    fs::rename(&aside, &generations).unwrap();
    await_refreshes(&mounted, 1);
    assert_eq!(mounted.listing(), paths([&two]));
    reads(&mounted, &two);
}
