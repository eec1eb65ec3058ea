//! A daemon in a mount namespace of its own, which mounts in that of those who use the mount.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Mounted, Options, Origin, Package, can_mount, eventually};

/// A namespace in which nothing of the host's can be mounted, opened or set.
const SHUT_IN: [&str; 5] = ["unshare", "--mount", "sh", "-c", SCRIPT];
const SCRIPT: &str = "mount -t tmpfs none /dev && : > /dev/null && mount -o remount,bind,ro /sys && exec \"$0\" \"$@\"";

/// A daemon that is shut in, and mounts in the namespace of the test.
fn options(origin: &Origin, wrapper: impl IntoIterator<Item = &'static str>) -> Options {
    Options::new(origin.url()).run_by(wrapper).with(["--mount-namespace", &own()])
}

/// That of the test.
fn own() -> String {
    format!("/proc/{}/ns/mnt", std::process::id())
}

fn namespace_of(pid: &str) -> std::path::PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap()
}

fn read_ahead(mounted: &Mounted) -> String {
    let number = fs::metadata(mounted.mountpoint()).unwrap().dev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    fs::read_to_string(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb")).unwrap()
}

#[test]
fn it_mounts_reads_on_and_unmounts_where_it_is_told_to() {
    if !can_mount() {
        return;
    }
    let packages = [Package::new("one-1", 300_000), Package::new("two-1", 300_000)];
    let origin = Origin::with(&packages);
    let mut mounted = options(&origin, SHUT_IN).with(["--passthrough", "off"]).mount();
    assert_ne!(namespace_of(&mounted.pid().to_string()), namespace_of("self"));
    assert!(mounted.is_mounted() && !mounted.log().contains("sees what is mounted"), "{}", mounted.log());
    assert_eq!(read_ahead(&mounted), "1024\n");
    assert!(fs::read(mounted.path(&packages[0].path)).unwrap() == packages[0].bytes);
    fs::write(mounted.path("local"), "one").unwrap();

    // The next daemon finds the dead mount of this one, and removes it there.
    mounted.kill();
    assert!(mounted.is_mounted());
    mounted.start();
    assert!(fs::read(mounted.path(&packages[1].path)).unwrap() == packages[1].bytes);
    assert_eq!(fs::read(mounted.path("local")).unwrap(), b"one");
    // With a file open it goes all the same.
    let open = fs::File::open(mounted.path(&packages[1].path)).unwrap();
    assert_eq!(mounted.stop(), Some(0));
    assert!(!mounted.is_mounted());
    assert_eq!(fs::read(mounted.path("local")).unwrap(), b"one");
    drop(open);
}

#[test]
fn a_crash_of_one_that_is_shut_in_is_not_noticed() {
    if !can_mount() {
        return;
    }
    let packages = [Package::new("one-1", 300_000), Package::new("two-1", 300_000)];
    let origin = Origin::with(&packages);
    let mut mounted = options(&origin, SHUT_IN).with(["--passthrough", "off", "--supervise"]).mount();
    fs::write(mounted.path("local"), "one").unwrap();
    let mut open = fs::File::open(mounted.path(&packages[0].path)).unwrap();
    let daemon = mounted.status()["pid"].as_i64().unwrap();
    assert_ne!(daemon, i64::from(mounted.pid()));
    let pid = Pid::from_raw(i32::try_from(daemon).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    let mut bytes = Vec::new();
    open.read_to_end(&mut bytes).unwrap();
    assert!(bytes == packages[0].bytes);
    assert!(fs::read(mounted.path(&packages[1].path)).unwrap() == packages[1].bytes);
    assert_eq!(fs::read(mounted.path("local")).unwrap(), b"one");
    eventually(30, "the next daemon answers", || mounted.control().exists());
    assert_ne!(mounted.status()["pid"].as_i64().unwrap(), daemon);
    drop(open);
    assert_eq!(mounted.stop(), Some(0));
    assert!(!mounted.is_mounted());
}

#[test]
fn a_namespace_that_cannot_be_entered_is_said_to_be_one() {
    if !can_mount() {
        return;
    }
    let origin = Origin::with(&[Package::new("one-1", 1000)]);
    let (own, script) = (own(), SCRIPT.replace("exec", "exec setpriv --bounding-set -sys_chroot"));
    for (wrapper, namespace, said) in [
        (SHUT_IN.to_vec(), "/proc/no-such/ns/mnt", "No such file or directory"),
        (SHUT_IN.to_vec(), "/proc/self/ns/net", "it is no mount namespace"),
        (SHUT_IN.to_vec(), "/proc/self/status", "it is no mount namespace"),
        (vec!["unshare", "--mount", "sh", "-c", &script], &own, "CAP_SYS_CHROOT"),
    ] {
        let options = Options::new(origin.url()).run_by(wrapper).with(["--mount-namespace", namespace]);
        let mut mounted = options.unstarted_in(tempfile::TempDir::with_prefix("binhostfs-it.").unwrap());
        mounted.spawn();
        assert_eq!(mounted.wait(), Some(2));
        let log = mounted.log();
        assert!(log.contains(&format!("--mount-namespace {namespace}: ")) && log.contains(said), "{log}");
        assert!(!mounted.is_mounted());
    }
}
