//! The mount outlives its daemon: crashes, and running the program anew.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portable_atomic::AtomicU64;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Act, Mounted, Options, Origin, Package, binary, can_mount, eventually, have};

/// Whether the kernel can have a connection gone on with.
pub(crate) fn can_hand_over() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or_default());
    let version = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    can_mount() && have(version >= (6, 9), "handing a mount over needs Linux 6.9")
}

fn daemon_of(mounted: &Mounted) -> u32 {
    u32::try_from(mounted.status()["pid"].as_u64().unwrap()).unwrap()
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
}

/// Whether a daemon answers on the control socket, and which.
fn answering(mounted: &Mounted) -> Option<u32> {
    let mut command = Command::new(binary());
    let output = command.args(["status", "--json", "--control"]).arg(mounted.control()).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    u32::try_from(status["pid"].as_u64()?).ok()
}

/// Kills the daemon, and waits for the next one.
fn crash(mounted: &Mounted) {
    let before = daemon_of(mounted);
    kill(before);
    eventually(60, "a daemon is started again", || answering(mounted).is_some_and(|pid| pid != before));
}

pub(crate) fn reload(mounted: &Mounted) -> Output {
    Command::new(binary()).args(["reload", "--control"]).arg(mounted.control()).output().unwrap()
}

fn read(mounted: &Mounted, package: &Package) -> bool {
    fs::read(mounted.path(&package.path)).unwrap() == package.bytes
}

#[test]
fn a_crash_is_not_noticed_by_those_who_read_or_wait() {
    if !can_hand_over() {
        return;
    }
    for passthrough in ["auto", "off"] {
        let packages = [Package::new("one-1", 3 << 20), Package::new("two-1", 2 << 20), Package::new("new-1", 1 << 20)];
        let origin = Origin::with(&packages);
        origin.script(&packages[1].path, [Act::StallAt(1000)]);
        let mut mounted = Options::new(origin.url()).with(["--supervise", "--passthrough", passthrough]).mount();
        assert!(read(&mounted, &packages[0]));
        let mut open = File::open(mounted.path(&packages[0].path)).unwrap();
        let mut index = File::open(mounted.path("Packages")).unwrap();
        let mut half = vec![0; 1 << 20];
        open.read_exact(&mut half).unwrap();
        let inode = open.metadata().unwrap().ino();

        std::thread::scope(|scope| {
            // It has asked the first daemon, and the second one has to find that out.
            let waiting = scope.spawn(|| read(&mounted, &packages[1]));
            origin.await_requests(&packages[1].path, 1);
            let pid = daemon_of(&mounted);
            kill(pid);
            origin.script(&packages[1].path, []);
            // Asked while there is no daemon: waits for the next one.
            let late = scope.spawn(|| read(&mounted, &packages[2]));
            let mut rest = Vec::new();
            open.read_to_end(&mut rest).unwrap();
            assert!([half, rest].concat() == packages[0].bytes);
            assert!(waiting.join().unwrap() && late.join().unwrap());
            eventually(30, "the next daemon answers", || answering(&mounted).is_some_and(|next| next != pid));
        });
        assert_eq!(fs::metadata(mounted.path(&packages[0].path)).unwrap().ino(), inode);
        // The kernel's cache is not asked: what is left of the open files is right as well, also for new ones beside them.
        for file in [&open, &index] {
            rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        }
        assert!(read(&mounted, &packages[0]));
        open.seek(SeekFrom::Start(0)).unwrap();
        let mut all = Vec::new();
        open.read_to_end(&mut all).unwrap();
        assert!(all == packages[0].bytes);
        let mut text = String::new();
        index.read_to_string(&mut text).unwrap();
        assert!(text.contains("PACKAGES: 3\n"), "{text}");
        crash(&mounted);
        assert!(read(&mounted, &packages[0]));
        drop((open, index));
        assert!(read(&mounted, &packages[0]));
        let log = mounted.log();
        assert_eq!(log.matches("going on with the mount").count(), 2, "{log}");
        assert!(!log.contains("panicked"), "{log}");
        assert_eq!(mounted.stop(), Some(0));
        assert!(!mounted.is_mounted());
    }
}

/// Without passthrough the daemon reads for whoever has a package open, also when the package has left the cache since.
#[test]
fn what_was_open_and_is_evicted_is_fetched_again() {
    if !can_hand_over() {
        return;
    }
    let packages = [Package::new("one-1", 600_000), Package::new("two-1", 600_000)];
    let origin = Origin::with(&packages);
    let mounted =
        Options::new(origin.url()).with(["--supervise", "--passthrough", "off", "--cache-size", "1M"]).mount();
    let mut open = File::open(mounted.path(&packages[0].path)).unwrap();
    eventually(20, "it is kept", || mounted.blobs().len() == 1);
    let before = mounted.blobs();
    assert!(read(&mounted, &packages[1]));
    eventually(20, "the other is kept", || mounted.blobs().len() == 1 && mounted.blobs() != before);
    crash(&mounted);
    let mut bytes = Vec::new();
    open.read_to_end(&mut bytes).unwrap();
    assert!(bytes == packages[0].bytes);
}

/// The directory beneath is hidden by the mount: the next daemon is given it.
#[test]
fn local_files_are_there_for_the_next_daemon_and_stay_open() {
    if !can_hand_over() {
        return;
    }
    for passthrough in ["auto", "off"] {
        let packages = [Package::new("one-1", 3000)];
        let origin = Origin::with(&packages);
        let mut mounted = Options::new(origin.url()).with(["--supervise", "--passthrough", passthrough]).mount();
        let device = fs::metadata(mounted.path("")).unwrap().dev();
        let directory = mounted.path("app-misc/mine");
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("note");
        fs::write(&path, "before").unwrap();
        let mut open = File::options().read(true).append(true).open(&path).unwrap();
        let inode = open.metadata().unwrap().ino();
        let made = File::create(directory.join("made")).unwrap();
        for how in ["crash", "reload"] {
            match how {
                "crash" => crash(&mounted),
                _ => assert!(reload(&mounted).status.success()),
            }
            open.write_all(how.as_bytes()).unwrap();
            rustix::fs::fadvise(&open, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
            assert!(fs::read_to_string(&path).unwrap().ends_with(how));
            assert!(read(&mounted, &packages[0]));
            fs::write(directory.join(how), how).unwrap();
        }
        made.set_len(7).unwrap();
        open.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        open.read_to_string(&mut text).unwrap();
        assert_eq!(text, "beforecrashreload");
        assert_eq!(fs::metadata(mounted.path("")).unwrap().dev(), device, "it is the same mount");
        let mut names: Vec<_> = fs::read_dir(&directory).unwrap().map(|name| name.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["crash", "made", "note", "reload"]);
        drop((open, made));
        assert_eq!(mounted.stop(), Some(0));
        // It lies in the directory itself.
        assert_eq!(fs::read_to_string(&path).unwrap(), "beforecrashreload");
        assert_eq!(fs::metadata(directory.join("made")).unwrap().len(), 7);
    }
}

#[test]
fn what_is_open_is_closed_for_the_next_daemon_too() {
    if !can_hand_over() {
        return;
    }
    let packages = [Package::new("one-1", 600_000), Package::new("two-1", 600_000)];
    let origin = Origin::with(&packages);
    let mounted = Options::new(origin.url()).with(["--supervise", "--cache-size", "1M"]).mount();
    let blobs_open = |pid: u32| {
        let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|entry| fs::read_link(entry.unwrap().path()));
        links.filter(|link| link.as_ref().is_ok_and(|link| link.to_string_lossy().contains("/blobs/"))).count()
    };
    let open = File::open(mounted.path(&packages[0].path)).unwrap();
    crash(&mounted);
    drop(open);
    // Opened anew, by whatever way the next daemon would choose: the kernel refuses two at once.
    for package in packages.iter().cycle().take(6) {
        assert!(read(&mounted, package));
    }
    mounted.settled();
    eventually(20, "nothing is held open", || blobs_open(daemon_of(&mounted)) <= 1);
}

#[test]
fn the_program_is_run_anew_under_load() {
    if !can_hand_over() {
        return;
    }
    let packages = [Package::new("one-1", 1 << 20), Package::new("two-1", 700_000), Package::new("slow-1", 2 << 20)];
    let origin = Origin::with(&packages);
    let mut mounted = Options::new(origin.url()).mount();
    let (done, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let pid = mounted.pid();
    std::thread::scope(|scope| {
        for package in [&packages[0], &packages[1], &packages[0]] {
            let (mounted, done, reads) = (&mounted, &done, &reads);
            scope.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    assert!(read(mounted, package));
                    assert!(fs::read_dir(mounted.mountpoint()).unwrap().count() > 1);
                    assert!(fs::metadata(mounted.path(&package.path)).unwrap().len() == package.bytes.len() as u64);
                    reads.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for round in 0..20 {
            let before = reads.load(Ordering::SeqCst);
            let output = reload(&mounted);
            if !output.status.success() {
                done.store(true, Ordering::SeqCst);
                panic!("round {round}: {}", String::from_utf8_lossy(&output.stderr));
            }
            mounted.listen();
            eventually(30, "reads go on", || reads.load(Ordering::SeqCst) > before);
        }
        done.store(true, Ordering::SeqCst);
    });
    assert_eq!(mounted.status()["pid"], pid);
    assert_eq!(mounted.log().matches("going on with the mount").count(), 20);
    // What is waited for is waited for on.
    origin.script(&packages[2].path, [Act::Slow(64 << 10, Duration::from_millis(20))]);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| read(&mounted, &packages[2]));
        origin.await_requests(&packages[2].path, 1);
        assert!(reload(&mounted).status.success());
        assert!(waiting.join().unwrap());
    });
    assert_eq!(mounted.stop(), Some(0));
    assert!(!mounted.is_mounted() && !mounted.log().contains("panicked"), "{}", mounted.log());
}

#[test]
fn a_program_that_would_not_start_is_not_run() {
    if !can_hand_over() {
        return;
    }
    let packages = [Package::new("one-1", 100_000)];
    let origin = Origin::with(&packages);
    let place = tempfile::TempDir::with_prefix("binhostfs-it.").unwrap();
    let file = place.path().join("binhostfs.toml");
    let sound = format!("[binhost.test]\nurl = \"{}\"\n", origin.url());
    fs::write(&file, &sound).unwrap();
    let mounted = Options::configured(&file).mount();
    fs::write(&file, format!("{sound}nonsense = 1\n")).unwrap();
    let output = reload(&mounted);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1) && error.contains("would not start") && error.contains("nonsense"),
        "{error}"
    );
    assert!(read(&mounted, &packages[0]));

    fs::write(&file, format!("refresh = \"2h\"\n{sound}")).unwrap();
    assert!(reload(&mounted).status.success());
    assert!(read(&mounted, &packages[0]));
    assert!(mounted.log().contains("going on with the mount"));
}

#[test]
fn what_crashes_again_and_again_is_given_up() {
    if !can_hand_over() {
        return;
    }
    let packages = [Package::new("one-1", 100_000)];
    let origin = Origin::with(&packages);
    let mut mounted = Options::new(origin.url()).with(["--supervise"]).mount();
    // Nothing to be had from it any more: each daemon ends at once.
    let cache = mounted.cache().join("v1");
    let before = daemon_of(&mounted);
    fs::remove_dir_all(&cache).unwrap();
    fs::write(&cache, "in the way").unwrap();
    kill(before);
    eventually(120, "it is given up", || mounted.has_ended());
    assert!(!mounted.is_mounted());
    assert!(mounted.log().contains("10 times within 60 s"), "{}", mounted.log());
}

/// A mount whose daemon reads requests, and answers the first of them only.
struct Hung {
    place: tempfile::TempDir,
    device: Option<File>,
    daemon: Option<std::thread::JoinHandle<()>>,
}

impl Hung {
    fn new() -> Self {
        let place = tempfile::TempDir::with_prefix("binhostfs-it.").unwrap();
        let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,subtype=binhostfs", device.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        let flags = MountFlags::NODEV | MountFlags::NOSUID;
        mount("hung", place.path(), "fuse", flags, Some(options.as_c_str())).unwrap();
        let mut reading = device.try_clone().unwrap();
        let daemon = std::thread::spawn(move || {
            let mut request = vec![0; 1 << 20];
            let length = reading.read(&mut request).unwrap();
            assert!(length > 16, "{length}");
            // fuse_out_header with the request's number, and fuse_init_out. Source: linux/fuse.h.
            let mut init = [0_u8; 16 + 64];
            init[0..4].copy_from_slice(&80_u32.to_ne_bytes());
            init[8..16].copy_from_slice(&request[8..16]);
            init[16..20].copy_from_slice(&7_u32.to_ne_bytes());
            init[20..24].copy_from_slice(&31_u32.to_ne_bytes());
            init[36..40].copy_from_slice(&4096_u32.to_ne_bytes());
            reading.write_all(&init).unwrap();
            // Until it is unmounted.
            while reading.read(&mut request).is_ok() {}
        });
        Self { place, device: Some(device), daemon: Some(daemon) }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        unmount(self.place.path(), UnmountFlags::FORCE | UnmountFlags::DETACH).unwrap();
        self.device = None;
        self.daemon.take().unwrap().join().unwrap();
    }
}

/// What `mount` says of a mountpoint that is taken.
fn refused(origin: &Origin, mountpoint: &Path) -> String {
    let place = tempfile::TempDir::with_prefix("binhostfs-it.").unwrap();
    let mut command = Command::new(binary());
    command.args(["mount", "--verify-signature", "false", "--binhost", &origin.url()]).arg("--cache-dir");
    command.arg(place.path().join("cache")).arg("--control").arg(place.path().join("control")).arg(mountpoint);
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    error
}

#[test]
fn a_mount_that_does_not_answer_is_left_alone() {
    if !can_mount() {
        return;
    }
    let packages = [Package::new("one-1", 100_000)];
    let origin = Origin::with(&packages);
    let mounted = Options::new(origin.url()).mount();
    mounted.signal(Signal::STOP);
    let error = refused(&origin, &mounted.mountpoint());
    mounted.signal(Signal::CONT);
    assert!(error.contains("did not answer within 10 s"), "{error}");
    assert!(read(&mounted, &packages[0]));
}

/// What waits for a daemon that has read its request cannot be killed: it may be no part of the process that ends.
#[test]
fn a_daemon_that_hangs_keeps_nobody_from_ending() {
    if !can_mount() {
        return;
    }
    let origin = Origin::with(&[Package::new("one-1", 100_000)]);
    let hung = Hung::new();
    let error = refused(&origin, hung.place.path());
    assert!(error.contains("did not answer within 10 s"), "{error}");
}

/// The kernel has names cached, for an hour, that the next daemon does not know.
#[test]
fn what_the_next_daemon_does_not_show_is_gone() {
    if !can_hand_over() {
        return;
    }
    let packages = [Package::new("one-1", 100_000), Package::new("two-1", 100_000)];
    let origin = Origin::with(&packages);
    let place = tempfile::TempDir::with_prefix("binhostfs-it.").unwrap();
    let file = place.path().join("binhostfs.toml");
    let sound = format!("[binhost.test]\nurl = \"{}\"\n", origin.url());
    fs::write(&file, &sound).unwrap();
    let mounted = Options::configured(&file).with(["--supervise"]).mount();
    let two = mounted.path(&packages[1].path);
    assert!(packages.iter().all(|package| read(&mounted, package)));
    assert_eq!(mounted.listing().len(), 2);
    let before = daemon_of(&mounted);
    // It would take the change itself, a moment later.
    fs::write(&file, format!("exclude = [\"app-misc/two\"]\n{sound}")).unwrap();
    kill(before);
    eventually(60, "the next daemon answers", || answering(&mounted).is_some_and(|pid| pid != before));
    assert_eq!(fs::metadata(&two).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    assert_eq!(mounted.listing(), [packages[0].path.clone()]);
    let index = fs::read_to_string(mounted.path("Packages")).unwrap();
    assert!(index.contains("PACKAGES: 1\n"), "{index}");
    assert!(read(&mounted, &packages[0]));
}
