//! Fetching ahead of an emerge: what it is going to open is there when it does, and nobody else waits for that.
//!
//! The emerges here are shells by that name, which write a plan as Portage does and open packages.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::harness::{Act, Mounted, Options, Origin, Package, can_mount, eventually, plan_of};

/// A process that opens what it is told to, until it is dropped.
pub(crate) struct Emerge {
    child: Child,
    root: TempDir,
}

/// Reads `cat PATH` and the like from standard input, and says when each has ended.
const SHELL: &str = "echo ready; while read -r line; do eval \"$line\" > /dev/null 2>&1; echo \"$?\"; done";

impl Emerge {
    /// It has just been started, and has planned nothing.
    fn start(name: &str) -> Self {
        let root = TempDir::with_prefix("binhostfs-it.").unwrap();
        let path = root.path().to_owned();
        Self::start_with(name, root, &path)
    }

    fn start_with(name: &str, root: TempDir, path: &Path) -> Self {
        Self::start_as(0, name, root, path)
    }

    fn start_as(user: u32, name: &str, root: TempDir, path: &Path) -> Self {
        let mut command = Command::new("sh");
        command.uid(user).gid(user).arg0(name).args(["-c", SHELL]).env("ROOT", path).env_remove("EPREFIX");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut emerge = Self { child: command.spawn().unwrap(), root };
        assert_eq!(emerge.says(), "ready");
        emerge
    }

    pub(crate) fn with_plan<'a>(packages: impl IntoIterator<Item = &'a Package> + Clone) -> Self {
        let emerge = Self::start("emerge");
        emerge.plan(packages);
        emerge
    }

    fn plan<'a>(&self, packages: impl IntoIterator<Item = &'a Package> + Clone) {
        write_plan(self.root.path(), &plan_of(packages));
    }

    /// Has it run a command, and does not wait.
    fn begin(&mut self, command: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{command}").unwrap();
    }

    fn says(&mut self) -> String {
        let mut line = String::new();
        // Byte by byte: what it says later is for later.
        BufReader::with_capacity(1, self.child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Opens a package by a child of its own, as Portage does with tar, and reads it.
    pub(crate) fn opens(&mut self, mounted: &Mounted, package: &Package) {
        self.begin(&format!("cat {}", mounted.path(&package.path).display()));
        assert_eq!(self.says(), "0");
    }
}

impl Drop for Emerge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As Portage does: beside its name, then renamed.
fn write_plan(root: &Path, plan: &str) {
    let directory = root.join("var/cache/edb");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("mtimedb.new"), plan).unwrap();
    fs::rename(directory.join("mtimedb.new"), directory.join("mtimedb")).unwrap();
}

fn packages<const N: usize>(size: usize) -> [Package; N] {
    std::array::from_fn(|at| Package::new(Box::leak(format!("p{at}-1").into_boxed_str()), size + at))
}

fn cached(mounted: &Mounted) -> u64 {
    mounted.status()["cache"]["packages"].as_u64().unwrap()
}

#[test]
fn the_rest_of_a_plan_arrives_without_being_opened() {
    if !can_mount() {
        return;
    }
    let packages: [Package; 12] = packages(50_000);
    let origin = Origin::with(&packages);
    let mounted = Options::new(origin.url()).mount();
    // Neither the order of the index nor all of it.
    let plan: Vec<&Package> = packages.iter().rev().take(10).collect();
    let mut emerge = Emerge::with_plan(plan.iter().copied());
    emerge.opens(&mounted, plan[0]);
    eventually(20, "all of the plan is cached", || cached(&mounted) == 10);
    // They are counted when that has been noticed.
    eventually(20, "all of them are counted", || mounted.counter("prefetched") == 9);
    let asked = origin.asked_packages();
    for (at, package) in plan.iter().enumerate() {
        // Three at a time.
        let place = asked.iter().position(|path| *path == package.path).unwrap();
        assert!(place.abs_diff(at) <= 3, "{at} of the plan was asked for as {place}: {asked:?}");
    }
    assert_eq!(asked.len(), 10);
    assert_eq!((mounted.counter("misses"), mounted.counter("prefetched"), mounted.counter("prefetch_hits")), (1, 9, 0));
    assert_eq!(mounted.counter("prefetched_bytes"), plan.iter().skip(1).map(|p| p.bytes.len() as u64).sum::<u64>());

    for package in &plan[1..] {
        emerge.opens(&mounted, package);
        emerge.opens(&mounted, package);
    }
    assert_eq!((mounted.counter("misses"), mounted.counter("prefetch_hits")), (1, 9));
    assert_eq!(origin.package_requests(), 10);
}

#[test]
fn nothing_is_fetched_ahead_where_that_is_switched_off() {
    if !can_mount() {
        return;
    }
    let packages: [Package; 4] = packages(50_000);
    let origin = Origin::with(&packages);
    let mounted = Options::new(origin.url()).with(["--prefetch", "off"]).mount();
    let mut emerge = Emerge::with_plan(&packages);
    // What is fetched ahead is begun before the first open is answered, so the second one comes late enough.
    packages[..2].iter().for_each(|package| emerge.opens(&mounted, package));
    eventually(20, "both are cached", || cached(&mounted) == 2);
    assert_eq!((origin.package_requests(), mounted.counter("prefetched")), (2, 0));
}

#[test]
fn a_plan_that_grows_is_followed_further() {
    if !can_mount() {
        return;
    }
    let packages: [Package; 6] = packages(20_000);
    let origin = Origin::with(&packages);
    let mounted = Options::new(origin.url()).mount();
    let mut emerge = Emerge::with_plan(&packages[..3]);
    emerge.opens(&mounted, &packages[0]);
    eventually(20, "the first plan is cached", || cached(&mounted) == 3);
    emerge.plan(&packages);
    // A plan is not read again at once; nothing tells when it may be.
    std::thread::sleep(Duration::from_secs(3));
    emerge.opens(&mounted, &packages[3]);
    eventually(20, "what came later is cached", || cached(&mounted) == 6);
    assert_eq!(origin.package_requests(), 6);
}

#[test]
fn no_further_ahead_than_a_part_of_the_cache() {
    if !can_mount() {
        return;
    }
    let packages: [Package; 8] = packages(300_000);
    let origin = Origin::with(&packages);
    let mounted = Options::new(origin.url()).with(["--cache-size", "4M"]).mount();
    let mut emerge = Emerge::with_plan(&packages);
    emerge.opens(&mounted, &packages[0]);
    let ahead = |count| {
        eventually(20, "it goes as far as it may", || mounted.counter("prefetched") == count);
        mounted.settled();
        assert_eq!((mounted.counter("prefetched"), origin.package_requests() as u64), (count, count + 1));
    };
    ahead(3);
    // What is opened makes room; what is opened by somebody else too.
    emerge.opens(&mounted, &packages[1]);
    ahead(4);
    assert!(fs::read(mounted.path(&packages[3].path)).unwrap() == packages[3].bytes);
    ahead(5);
}

#[test]
fn what_would_not_be_kept_is_fetched_once() {
    if !can_mount() {
        return;
    }
    let packages: [Package; 4] = packages(50_000);
    let origin = Origin::with(&packages);
    // Nothing can leave so much of a disk free.
    let mounted = Options::new(origin.url()).with(["--min-free", "1000T"]).mount();
    let mut emerge = Emerge::with_plan(&packages);
    emerge.opens(&mounted, &packages[0]);
    // What would be fetched ahead would be now. Only time shows that nothing happens.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(origin.package_requests(), 1);
    packages[1..].iter().for_each(|package| emerge.opens(&mounted, package));
    assert_eq!(origin.package_requests(), 4);
}

#[test]
fn what_somebody_waits_for_comes_first() {
    if !can_mount() {
        return;
    }
    let packages: [Package; 40] = packages(20_000);
    let origin = Origin::with(&packages);
    for package in &packages[1..30] {
        origin.script(&package.path, [Act::Slow(2_000, Duration::from_millis(500))]);
    }
    let mounted = Options::new(origin.url()).mount();
    let mut emerge = Emerge::with_plan(&packages[..35]);
    emerge.opens(&mounted, &packages[0]);
    eventually(10, "three are fetched ahead", || {
        let status = mounted.status();
        let downloads = status["downloads"].as_array().unwrap();
        downloads.len() == 3 && downloads.iter().all(|d| d["prefetch"] == true && d["waiters"] == 0)
    });
    let before = Instant::now();
    // Far behind in the plan, and in no plan.
    for package in [&packages[33], &packages[34], &packages[38], &packages[39]] {
        assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes);
    }
    assert!(before.elapsed() < Duration::from_secs(3), "{:?}", before.elapsed());
    // It joins what is under way.
    assert!(fs::read(mounted.path(&packages[1].path)).unwrap() == packages[1].bytes);
    assert_eq!(origin.asked(&packages[1].path).len(), 1);
    assert_eq!((mounted.counter("prefetch_hits"), mounted.counter("misses")), (1, 6));
}

#[test]
fn the_next_one_has_the_line_to_itself_until_little_of_it_is_left() {
    if !can_mount() {
        return;
    }
    const LITTLE: u64 = 2 << 20;
    let packages: [Package; 3] = std::array::from_fn(|at| {
        let name = Box::leak(format!("p{at}-1").into_boxed_str());
        Package::new(name, if at == 0 { 20_000 } else { 3_500_000 })
    });
    let origin = Origin::with(&packages);
    // What is left of one when the other begins takes three seconds.
    for package in &packages[1..] {
        origin.script(&package.path, [Act::Slow(64 << 10, Duration::from_millis(100))]);
    }
    let mounted = Options::new(origin.url()).mount();
    let mut emerge = Emerge::with_plan(&packages);
    emerge.opens(&mounted, &packages[0]);
    let mut left = 0;
    eventually(60, "the second begins", || {
        let begun = !origin.asked(&packages[2].path).is_empty();
        let status = mounted.status();
        let downloads = status["downloads"].as_array().unwrap();
        let others = downloads.iter().filter(|d| d["path"] != packages[2].path.as_str());
        let others: Vec<u64> = others.map(|d| d["size"].as_u64().unwrap() - d["received"].as_u64().unwrap()).collect();
        left = others.iter().sum();
        assert!(!begun || left < LITTLE, "{left} bytes are left of the others");
        begun && downloads.len() == 2
    });
    assert!(left > 0, "it begins before they end");
    eventually(60, "all of the plan is cached", || cached(&mounted) == 3);
}

#[test]
fn one_that_stalls_leaves_the_line_to_the_next() {
    if !can_mount() {
        return;
    }
    let packages: [Package; 3] = std::array::from_fn(|at| {
        let name = Box::leak(format!("p{at}-1").into_boxed_str());
        Package::new(name, if at == 0 { 20_000 } else { 6_000_000 })
    });
    let origin = Origin::with(&packages);
    origin.script(&packages[1].path, vec![Act::StallAt(100_000); 20]);
    let mounted = Options::new(origin.url()).mount();
    let mut emerge = Emerge::with_plan(&packages);
    emerge.opens(&mounted, &packages[0]);
    eventually(20, "the one after it is cached", || cached(&mounted) == 2);
    assert!(!origin.asked(&packages[1].path).is_empty());
}

#[test]
fn what_is_under_way_ends_with_its_emerge() {
    if !can_mount() {
        return;
    }
    let packages: [Package; 10] = packages(20_000);
    let origin = Origin::with(&packages);
    for package in &packages[1..] {
        origin.script(&package.path, [Act::Slow(1_000, Duration::from_millis(500))]);
    }
    let mounted = Options::new(origin.url()).mount();
    let mut emerge = Emerge::with_plan(&packages);
    emerge.opens(&mounted, &packages[0]);
    eventually(10, "three are fetched ahead", || mounted.status()["downloads"].as_array().unwrap().len() == 3);
    let mut reader = Command::new("cat").arg(mounted.path(&packages[1].path)).stdout(Stdio::null()).spawn().unwrap();
    eventually(5, "somebody waits", || mounted.counter("prefetch_hits") == 1);
    drop(emerge);
    eventually(5, "one is left", || mounted.status()["downloads"].as_array().unwrap().len() == 1);
    assert!(reader.wait().unwrap().success());
    mounted.settled();
    assert_eq!((origin.package_requests(), cached(&mounted)), (4, 2));
    assert_eq!(mounted.counter("prefetch_wasted"), 2);
    assert_eq!(mounted.counter("failed_opens"), 0);
    assert!(mounted.status()["failures"].as_array().unwrap().is_empty());
}

#[test]
fn what_fails_ahead_is_tried_again_when_it_is_opened() {
    if !can_mount() {
        return;
    }
    let packages: [Package; 4] = packages(20_000);
    let origin = Origin::with(&packages);
    let (gone, wrong) = (&packages[1], &packages[2]);
    origin.script(&gone.path, [Act::Status(404, Vec::new()), Act::Serve]);
    origin.script(&wrong.path, [Act::Flip(9_000), Act::Serve]);
    let mounted = Options::new(origin.url()).mount();
    let mut emerge = Emerge::with_plan(&packages);
    emerge.opens(&mounted, &packages[0]);
    eventually(20, "the last one is cached", || mounted.counter("prefetched") == 1);
    mounted.settled();
    let status = mounted.status();
    assert!(status["failures"].as_array().unwrap().is_empty() && status["refused"].as_array().unwrap().is_empty());
    assert!(!mounted.log().contains("cannot be had"), "{}", mounted.log());
    emerge.opens(&mounted, gone);
    emerge.opens(&mounted, wrong);
    mounted.settled();
    assert_eq!((mounted.counter("failed_opens"), cached(&mounted)), (0, 4));
}

#[test]
fn only_a_running_emerge_and_its_own_plan_count() {
    if !can_mount() {
        return;
    }
    let packages: [Package; 9] = packages(20_000);
    let origin = Origin::with(&packages);
    let mounted = Options::new(origin.url()).mount();
    // Somebody else, who has the plan of an emerge.
    let mut other = Emerge::start("sh");
    other.plan(&packages[..3]);
    other.opens(&mounted, &packages[0]);
    // What another emerge left behind, long ago.
    let mut late = Emerge::with_plan(&packages[3..6]);
    let plan = late.root.path().join("var/cache/edb/mtimedb");
    let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    fs::File::options().append(true).open(&plan).unwrap().set_modified(hour_ago).unwrap();
    late.opens(&mounted, &packages[3]);
    // The plan of an emerge that opens something else.
    let mut apart = Emerge::with_plan(&packages[4..6]);
    apart.opens(&mounted, &packages[6]);
    let mut last = Emerge::with_plan(&packages[7..]);
    last.opens(&mounted, &packages[7]);
    eventually(20, "the last plan is followed", || cached(&mounted) == 5);
    let mut asked = origin.asked_packages();
    asked.sort();
    assert_eq!(asked, [0, 3, 6, 7, 8].map(|at| packages[at].path.clone()));
}

#[test]
fn a_plan_is_read_as_the_user_of_its_emerge() {
    if !can_mount() {
        return;
    }
    const NOBODY: u32 = 65534;
    let packages: [Package; 2] = packages(20_000);
    let secret = TempDir::with_prefix("binhostfs-it.").unwrap();
    fs::write(secret.path().join("plan"), plan_of(&packages)).unwrap();
    fs::set_permissions(secret.path(), fs::Permissions::from_mode(0o700)).unwrap();
    for case in ["of the user", "a link to what only root may read", "only root may read it"] {
        let origin = Origin::with(&packages);
        let mounted = Options::new(origin.url()).variable("RUST_LOG", "info,binhostfs::fetch=debug").mount();
        let root = TempDir::with_prefix("binhostfs-it.").unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        write_plan(root.path(), &plan_of(&packages));
        let (path, file) = (root.path().to_owned(), root.path().join("var/cache/edb/mtimedb"));
        match case {
            "a link to what only root may read" => {
                fs::remove_file(&file).unwrap();
                std::os::unix::fs::symlink(secret.path().join("plan"), &file).unwrap();
            }
            "only root may read it" => fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap(),
            _ => {}
        }
        let mut emerge = Emerge::start_as(NOBODY, "emerge", root, &path);
        emerge.opens(&mounted, &packages[0]);
        if case == "of the user" {
            eventually(20, "the plan is followed", || cached(&mounted) == 2);
        } else {
            let refused =
                || mounted.log().contains("no plan of an emerge") && mounted.log().contains("Permission denied");
            eventually(20, case, refused);
            assert_eq!(origin.package_requests(), 1, "{case}");
        }
    }
}

#[test]
fn a_plan_that_is_a_trap_delays_nobody() {
    if !can_mount() {
        return;
    }
    let packages: [Package; 10] = packages(20_000);
    let origin = Origin::with(&packages);
    let mounted = Options::new(origin.url()).mount();
    // A file system whose daemon answers nothing.
    let dead = Options::new(origin.url()).mount();
    dead.signal(Signal::STOP);
    let stuck = |package: &Package| {
        let root = TempDir::with_prefix("binhostfs-it.").unwrap();
        let mut emerge = Emerge::start_with("emerge", root, &dead.mountpoint());
        let before = Instant::now();
        emerge.opens(&mounted, package);
        assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
        emerge
    };
    let stuck: Vec<Emerge> = packages[..3].iter().map(stuck).collect();
    // A pipe into which nobody writes, and more than anybody reads.
    let mut traps = [Emerge::with_plan(&packages[3..5]), Emerge::with_plan(&packages[4..6])];
    let file = |emerge: &Emerge| emerge.root.path().join("var/cache/edb/mtimedb");
    fs::remove_file(file(&traps[0])).unwrap();
    assert!(Command::new("mkfifo").arg(file(&traps[0])).status().unwrap().success());
    fs::File::create(file(&traps[1])).unwrap().set_len(1 << 30).unwrap();
    for (emerge, package) in traps.iter_mut().zip(&packages[3..5]) {
        let before = Instant::now();
        emerge.opens(&mounted, package);
        assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    }
    // A reader that worked rests for a second at most; nothing tells when it has ended and when that is over.
    std::thread::sleep(Duration::from_secs(3));
    let mut last = Emerge::with_plan(&packages[8..]);
    last.opens(&mounted, &packages[8]);
    eventually(20, "a good plan is followed all the same", || cached(&mounted) == 7);
    eventually(20, "that is counted", || mounted.counter("prefetched") == 1);
    dead.signal(Signal::CONT);
    drop(stuck);
}

#[test]
fn the_plan_of_a_container_is_its_own() {
    if !can_mount() {
        return;
    }
    let packages: [Package; 6] = packages(20_000);
    let origin = Origin::with(&packages);
    let mounted = Options::new(origin.url()).mount();
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let root = place.path().join("root");
    for directory in ["usr", "pkgdir", "gentoo"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    for link in ["bin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{link}"), root.join(link)).unwrap();
    }
    // In a prefix: EROOT is /gentoo in there. It is written by whoever is pid 1 there, after it has started.
    fs::write(place.path().join("plan"), plan_of(&packages)).unwrap();
    fs::create_dir_all(root.join("gentoo/var/cache/edb")).unwrap();
    let inside = "cat > /gentoo/var/cache/edb/mtimedb; test -n \"$(wc -c \"$1\")\" && echo opened; sleep 60";
    let outside = "mount --bind /usr \"$1/usr\" && mount --bind \"$2\" \"$1/pkgdir\" && \
         exec env EPREFIX=/gentoo chroot \"$1\" /bin/bash -c 'exec -a emerge bash -c \"$0\" inside \"$1\"' \"$3\" \"$4\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", outside, "sh"]);
    command.arg(&root).arg(mounted.mountpoint()).arg(inside).arg(Path::new("/pkgdir").join(&packages[0].path));
    command.stdin(fs::File::open(place.path().join("plan")).unwrap()).stdout(Stdio::piped());
    let mut container = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(container.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "opened\n");
    eventually(20, "the rest of its plan is cached", || cached(&mounted) == 6);
    eventually(20, "that is counted", || mounted.counter("prefetched") == 5);
    assert_eq!(origin.package_requests(), 6);
    container.kill().unwrap();
    container.wait().unwrap();
}
