//! The cache within its bounds: what is pinned, removed and taken back, and what reads everything.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::harness::{Mounted, Options, Origin, Package, binary, can_mount, eventually};
use crate::sharing::Disk;

fn packages<const N: usize>(size: usize) -> [Package; N] {
    std::array::from_fn(|at| Package::new(Box::leak(format!("p{at}-1").into_boxed_str()), size + at))
}

fn asked(mounted: &Mounted, words: &[&str]) -> Output {
    Command::new(binary()).args(words).arg("--control").arg(mounted.control()).output().unwrap()
}

/// What a command that has to succeed says.
#[track_caller]
fn says(mounted: &Mounted, words: &[&str]) -> String {
    let output = asked(mounted, words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a command that has to fail says.
#[track_caller]
fn refuses(mounted: &Mounted, words: &[&str]) -> String {
    let output = asked(mounted, words);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{words:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[track_caller]
fn reads(mounted: &Mounted, package: &Package) {
    assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes);
}

#[test]
fn what_is_pinned_survives_restarts_and_evictions() {
    if !can_mount() {
        return;
    }
    let packages: [Package; 8] = packages(300_000);
    let origin = Origin::with(&packages);
    let mut mounted = Options::new(origin.url()).with(["--cache-size", "1M"]).mount();
    assert!(says(&mounted, &["pin", "p0", "app-misc/p1"]).contains("to be kept once it is fetched"));
    reads(&mounted, &packages[0]);
    mounted.settled();
    assert_eq!(mounted.stop(), Some(0));
    mounted.start();
    packages.iter().for_each(|package| {
        reads(&mounted, package);
        mounted.settled();
    });
    let listed: serde_json::Value = serde_json::from_str(&says(&mounted, &["pin", "--json"])).unwrap();
    for (listed, package) in listed["packages"].as_array().unwrap().iter().zip(&packages[..2]) {
        assert_eq!((listed["path"].as_str(), listed["cached"].as_bool()), (Some(package.path.as_str()), Some(true)));
    }
    for package in &packages[..2] {
        reads(&mounted, package);
        assert_eq!(origin.asked(&package.path).len(), 1, "it was pinned, and fetched again");
    }
    assert!(mounted.counter("evicted") >= 5);
    let usage = &mounted.status()["cache"];
    assert!(usage["bytes"].as_u64().unwrap() <= 1 << 20);

    // What would take too much is refused, and so is the eviction of what is pinned.
    assert!(refuses(&mounted, &["pin", "p2"]).contains("is not pinned"));
    assert!(refuses(&mounted, &["evict", "p0"]).contains("is pinned"));
    assert!(refuses(&mounted, &["pin", "none"]).contains("nothing that is shown matches"));
    let said = says(&mounted, &["pin", "--remove", "p0", &packages[1].path]);
    assert_eq!(said.matches("no longer pinned; stays in the cache").count(), 2, "{said}");
    assert_eq!(says(&mounted, &["pin"]), "");
    let told = says(&mounted, &["evict", "p0"]);
    assert!(told.contains(&format!("{}  removed\nremoved 1 package, ", packages[0].path)), "{told}");
    assert!(refuses(&mounted, &["evict", "p0"]).contains("nothing that is cached matches"));
    reads(&mounted, &packages[0]);
    assert_eq!(origin.asked(&packages[0].path).len(), 2);
}

#[test]
fn what_is_installed_goes_before_what_is_still_to_be() {
    if !can_mount() {
        return;
    }
    let packages: [Package; 4] = packages(300_000);
    let origin = Origin::with(&packages);
    let root = tempfile::TempDir::with_prefix("binhostfs-it.").unwrap();
    let installed = root.path().join("var/db/pkg/app-misc/p0-1");
    fs::create_dir_all(&installed).unwrap();
    for (name, value) in [("BUILD_ID", "BUILD_ID"), ("BUILD_TIME", "BUILD_TIME")] {
        fs::write(installed.join(name), format!("{}\n", packages[0].planned()[value])).unwrap();
    }
    fs::write(installed.join("SLOT"), "0\n").unwrap();
    let options =
        Options::new(origin.url()).with(["--cache-size", "1M", "--portage-root", root.path().to_str().unwrap()]);
    let mounted = options.mount();
    for at in [1, 2, 0, 3] {
        reads(&mounted, &packages[at]);
        mounted.settled();
    }
    // The one that was used last but one is the one that is installed.
    for (at, times) in [(1, 1), (2, 1), (3, 1), (0, 2)] {
        reads(&mounted, &packages[at]);
        assert_eq!(origin.asked(&packages[at].path).len(), times, "p{at}");
    }
}

#[test]
fn what_an_earlier_generation_has_is_not_the_first_to_go() {
    if !can_mount() {
        return;
    }
    let packages: [Package; 4] = packages(300_000);
    let origin = Origin::with(&packages);
    let mounted = Options::new(origin.url()).with(["--cache-size", "1M"]).mount();
    let read = |at: usize| {
        reads(&mounted, &packages[at]);
        mounted.settled();
    };
    [1, 0].into_iter().for_each(read);
    origin.publish(1_760_000_001, &packages[1..]);
    says(&mounted, &["refresh"]);
    // The last one pushes out what was not used for longest, and not what only the first generation names.
    [2, 3].into_iter().for_each(read);
    assert_eq!((mounted.blobs().len(), mounted.counter("evicted")), (3, 1));
    says(&mounted, &["rollback"]);
    read(0);
    assert_eq!(origin.asked(&packages[0].path).len(), 1, "it was evicted");
}

#[test]
fn limits_change_while_it_runs() {
    if !can_mount() {
        return;
    }
    let packages: [Package; 4] = packages(300_000);
    let origin = Origin::with(&packages);
    let place = tempfile::TempDir::with_prefix("binhostfs-it.").unwrap();
    let file = place.path().join("binhostfs.toml");
    let write =
        |limits: &str| fs::write(&file, format!("{limits}\n[binhost.one]\nurl = \"{}\"\n", origin.url())).unwrap();
    write("cache-size = \"8M\"");
    let mounted = Options::configured(&file).mount();
    for package in &packages {
        reads(&mounted, package);
        // The order of eviction is that of the commits, which follow the reads.
        mounted.settled();
    }
    assert_eq!(mounted.blobs().len(), 4);
    write("cache-size = \"1M\"");
    eventually(20, "the smaller bound holds", || mounted.blobs().len() == 3);
    assert_eq!(mounted.status()["cache"]["bound"], 1 << 20);
    // What is pinned goes only for this, and it is said once.
    says(&mounted, &["pin", "p2", "p3"]);
    write("cache-size = \"400K\"");
    eventually(20, "the smallest bound holds", || mounted.blobs().len() == 1);
    reads(&mounted, &packages[3]);
    assert!(origin.asked(&packages[3].path).len() == 1);
    reads(&mounted, &packages[0]);
    assert_eq!(mounted.log().matches("is less than what is pinned").count(), 1, "{}", mounted.log());
    says(&mounted, &["pin", "--remove", "p2", "p3"]);
    // Nothing can leave so much of a disk free.
    write("cache-size = \"1M\"\nmin-free = \"1000T\"");
    eventually(20, "min-free holds as far as it can", || mounted.blobs().is_empty());
    reads(&mounted, &packages[0]);
    assert!(mounted.blobs().is_empty());
    write("cache-size = \"1M\"\nwrite-budget = \"310K\"");
    // The four packages of before are more than that.
    eventually(20, "min-free holds no more", || mounted.log().matches("the configuration has changed;").count() == 4);
    reads(&mounted, &packages[1]);
    reads(&mounted, &packages[1]);
    assert!(mounted.blobs().is_empty() && mounted.log().contains("write-budget"), "{}", mounted.log());
}

#[test]
fn what_no_index_names_is_cleared_away() {
    if !can_mount() {
        return;
    }
    let packages: [Package; 4] = packages(50_000);
    let origin = Origin::with(&packages);
    let mounted = Options::new(origin.url()).mount();
    packages.iter().for_each(|package| reads(&mounted, package));
    mounted.settled();
    says(&mounted, &["pin", "p2"]);
    assert!(says(&mounted, &["gc"]).contains("removed 0 packages"));
    let publish = |timestamp| {
        origin.publish(timestamp, &packages[..2]);
        says(&mounted, &["refresh"]);
    };
    publish(1_760_000_001);
    // The first generation is kept: going back to it takes what its binhost has removed.
    assert!(says(&mounted, &["gc"]).contains("removed 0 packages"));
    says(&mounted, &["rollback"]);
    packages.iter().for_each(|package| reads(&mounted, package));
    says(&mounted, &["rollback", "--latest"]);
    // Others come after it, until it goes.
    (1_760_000_002..1_760_000_006).for_each(publish);
    assert!(says(&mounted, &["gc"]).contains("removed 1 package,"));
    assert_eq!(mounted.blobs().len(), 3);
    assert!(says(&mounted, &["pin", "--remove", &packages[2].path]).contains(&packages[2].path));
    assert!(says(&mounted, &["gc"]).contains("removed 1 package,"));
    packages[..2].iter().for_each(|package| reads(&mounted, package));
    assert_eq!(origin.package_requests(), 4);
}

#[test]
fn a_lost_catalogue_is_rebuilt_before_anybody_asks() {
    if !can_mount() {
        return;
    }
    let packages: [Package; 3] = packages(50_000);
    let origin = Origin::with(&packages);
    let mut mounted = Options::new(origin.url()).mount();
    packages.iter().for_each(|package| reads(&mounted, package));
    mounted.settled();
    assert_eq!(mounted.stop(), Some(0));
    fs::remove_dir_all(mounted.cache().join("v1/catalogue")).unwrap();
    mounted.start();
    eventually(30, "all are taken back", || mounted.counter("recovered") == 3);
    assert_eq!((mounted.counter("hits"), mounted.counter("misses")), (0, 0));
    packages.iter().for_each(|package| reads(&mounted, package));
    assert_eq!((origin.package_requests(), mounted.counter("hits")), (3, 3));
    assert!(mounted.log().contains("proved again and kept"), "{}", mounted.log());
}

#[test]
fn blobs_of_one_size_are_read_a_few_times_each() {
    if !can_mount() {
        return;
    }
    let packages: [Package; 24] =
        std::array::from_fn(|at| Package::new(Box::leak(format!("p{at:02}-1").into_boxed_str()), 200_000));
    let size = packages[0].bytes.len();
    assert!(packages.iter().all(|package| package.bytes.len() == size));
    let origin = Origin::with(&packages);
    let mut mounted = Options::new(origin.url()).mount();
    packages.iter().for_each(|package| reads(&mounted, package));
    mounted.settled();
    assert_eq!(mounted.stop(), Some(0));
    fs::remove_dir_all(mounted.cache().join("v1/catalogue")).unwrap();
    mounted.start();
    eventually(60, "all are taken back", || mounted.counter("recovered") == 24);
    let text = fs::read_to_string(format!("/proc/{}/io", mounted.pid())).unwrap();
    let read: usize = text.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap();
    eprintln!("{read} bytes were read for {} blobs of {size}", packages.len());
    // Trying each for each entry of its size would be some 12 times and more.
    assert!(read < 6 * packages.len() * size, "{read}");
}

/// Runs a shell in a session of its own, below the mount.
fn session(mounted: &Mounted, script: &str) -> Output {
    Command::new("setsid").args(["--wait", "sh", "-c", script]).current_dir(mounted.mountpoint()).output().unwrap()
}

#[test]
fn what_reads_everything_is_refused_and_an_emerge_is_not() {
    if !can_mount() {
        return;
    }
    let packages: [Package; 12] = packages(20_000);
    let origin = Origin::with(&packages);
    let mounted = Options::new(origin.url()).with(["--bulk-read-limit", "4", "--prefetch", "off"]).mount();
    // Names and sizes cost nothing.
    assert!(session(&mounted, "find . -type f > /dev/null; du -s . > /dev/null; ls -lR > /dev/null").status.success());
    assert!(session(&mounted, "tar -cf /dev/null .").status.success());
    assert_eq!(origin.package_requests(), 0);
    for (script, complains) in [
        ("grep -r nothing app-misc", true),
        ("cp -r app-misc \"$(mktemp -d)\"", true),
        ("tar -c . | cat > /dev/null", true),
        ("find . -name '*.tar' -exec head -c1 {} \\; > /dev/null", true),
    ] {
        let before = origin.package_requests();
        let output = session(&mounted, script);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(origin.package_requests() - before <= 4, "{script} fetched {}", origin.package_requests() - before);
        if origin.package_requests() < packages.len() && complains {
            assert!(error.contains("Resource temporarily unavailable"), "{script}: {error}");
        }
        // A reader is served before what it reads is in the cache.
        mounted.settled();
        says(&mounted, &["evict", "app-misc/*"]);
    }
    let log = mounted.log();
    assert!(log.contains("\"grep\"") && log.contains("bulk-read-limit") && log.contains("EAGAIN"), "{log}");
    assert_eq!(log.matches("is no emerge").count(), 4, "each is named once: {log}");
    assert!(mounted.counter("bulk_reads_refused") > 0);

    // Whatever an emerge opens, and more of it; and what is here is for anybody.
    let emerge = mounted.place().join("emerge");
    fs::write(&emerge, "#!/bin/sh\nfor file in $(find . -name '*.tar'); do cat $file > /dev/null || exit 1; done\n")
        .unwrap();
    make_executable(&emerge);
    // A script's command line begins with its interpreter: as Portage's, it is told apart by a name of its own.
    let run = format!("exec -a emerge sh {}", emerge.display());
    let output =
        Command::new("setsid").args(["--wait", "bash", "-c", &run]).current_dir(mounted.mountpoint()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let before = origin.package_requests();
    assert!(session(&mounted, "grep -r -m1 '' app-misc > /dev/null").status.success());
    assert_eq!(origin.package_requests(), before);
}

#[test]
fn a_shell_goes_on_after_what_it_had_read_everything() {
    if !can_mount() {
        return;
    }
    let packages: [Package; 40] = packages(5_000);
    let origin = Origin::with(&packages);
    let mounted = Options::new(origin.url()).with(["--bulk-read-limit", "4", "--prefetch", "off"]).mount();
    // As at a prompt: each line is a job.
    let shell = |line: &str| {
        let script = format!("set -m\n{line}");
        let mut command = Command::new("setsid");
        command.args(["--wait", "bash", "-c", &script]).current_dir(mounted.mountpoint()).output().unwrap()
    };
    let uncached = "ls app-misc/*/* | tail -n1";
    for reader in ["grep -r nothing .", "find . -name '*.tar' -exec cat {} \\;", "ls app-misc/*/* | xargs -n1 cat"] {
        let before = origin.package_requests();
        let output = shell(&format!("{reader} > /dev/null\ncat $({uncached}) > /dev/null"));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("Resource temporarily unavailable"), "{reader}: {error}");
        assert!(output.status.success(), "the next line, after {reader}: {error}");
        assert_eq!(origin.package_requests() - before, 5, "{reader}: {error}");
        mounted.settled();
        says(&mounted, &["evict", "app-misc/*"]);
    }
    // However many lines there are.
    let before = origin.package_requests();
    let output = shell("for file in app-misc/*/*; do cat $file > /dev/null; done");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(error.matches("Resource temporarily unavailable").count(), 20, "{error}");
    assert_eq!(origin.package_requests() - before, 20);
}

fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Bytes that a process has had written to disk.
fn written(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
}

#[test]
fn nothing_is_written_when_idle() {
    if !can_mount() {
        return;
    }
    let packages: [Package; 3] = packages(50_000);
    let origin = Origin::with(&packages);
    let mounted = Options::new(origin.url()).with(["--min-free", "1M", "--write-budget", "1G"]).mount();
    packages.iter().for_each(|package| reads(&mounted, package));
    mounted.settled();
    // What is under way ends, also the catalogue's own thread, which looks every 5 s.
    std::thread::sleep(std::time::Duration::from_secs(12));
    let before = written(mounted.pid());
    std::thread::sleep(std::time::Duration::from_secs(20));
    packages.iter().for_each(|package| reads(&mounted, package));
    assert_eq!(written(mounted.pid()) - before, 0);
}

fn free(path: &Path) -> u64 {
    let stat = rustix::fs::statvfs(path).unwrap();
    stat.f_bavail * stat.f_frsize
}

#[test]
fn min_free_holds_while_large_packages_arrive_at_once() {
    if !can_mount() {
        return;
    }
    let packages: [Package; 8] = packages(4 << 20);
    let origin = Origin::with(&packages);
    let disk = Disk::ext4(40);
    let min_free: u64 = 12 << 20;
    let mounted = Options::new(origin.url()).with(["--min-free", "12M"]).mount_in(disk.place());
    let (least, stop) = (portable_atomic::AtomicU64::new(u64::MAX), std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // The kernel reports no change of the free space.
                least.fetch_min(free(&disk.path()), std::sync::atomic::Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        });
        let readers: Vec<_> = packages.iter().map(|package| scope.spawn(|| reads(&mounted, package))).collect();
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        packages.iter().for_each(|package| reads(&mounted, package));
        mounted.settled();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let least = least.into_inner();
    eprintln!("{least} bytes were free at least");
    assert!(least >= min_free, "{least} bytes were free");
    assert!(mounted.status()["cache"]["packages"].as_u64().unwrap() >= 1);
    drop(mounted.into_place());
}
