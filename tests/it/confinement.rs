//! Without systemd, too, the daemon has no more rights than it needs.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use crate::handover::{can_hand_over, reload};
use crate::harness::{Mounted, Options, Origin, Package, can_mount, eventually, have};

/// Numbers of capabilities by their names in a unit. Source: linux/capability.h.
const CAPABILITIES: [(&str, u32); 10] = [
    ("CAP_CHOWN", 0),
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_DAC_READ_SEARCH", 2),
    ("CAP_FOWNER", 3),
    ("CAP_FSETID", 4),
    ("CAP_SETGID", 6),
    ("CAP_SETUID", 7),
    ("CAP_SYS_CHROOT", 18),
    ("CAP_SYS_PTRACE", 19),
    ("CAP_SYS_ADMIN", 21),
];
/// CAP_NET_BIND_SERVICE: the units let nobody answer on a port below 1024, the program does.
const NET_BIND: u64 = 1 << 10;

/// What the units allow.
fn allowed() -> u64 {
    let systemd = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let [one, other] = ["binhostfs.service", "binhostfs@.service"].map(|unit| {
        let text = fs::read_to_string(systemd.join(unit)).unwrap();
        let lines = text.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet="));
        let names: BTreeSet<String> = lines.flat_map(str::split_whitespace).map(str::to_owned).collect();
        names.iter().map(|name| 1 << CAPABILITIES.iter().find(|(known, _)| known == name).unwrap().1).sum::<u64>()
    });
    assert_eq!(one, other);
    one
}

/// A line of /proc/PID/status.
pub(crate) fn line<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"))
}

/// Says what is wrong with the rights of a process, of which this is /proc/PID/status.
#[track_caller]
pub(crate) fn assert_confined(status: &str) {
    let expected = allowed() | NET_BIND;
    let set = |key| u64::from_str_radix(line(status, key).unwrap(), 16).unwrap();
    for (key, expected) in [("CapEff", expected), ("CapPrm", expected), ("CapBnd", expected), ("CapInh", 0)] {
        assert_eq!(format!("{:x}", set(key)), format!("{expected:x}"), "{key}");
    }
    assert_eq!((line(status, "NoNewPrivs"), line(status, "Seccomp")), (Some("1"), Some("2")));
}

fn status(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap()
}

fn daemon(mounted: &Mounted) -> u32 {
    u32::try_from(mounted.status()["pid"].as_u64().unwrap()).unwrap()
}

#[test]
fn the_daemon_and_its_parent_have_what_the_units_allow() {
    if !can_hand_over() {
        return;
    }
    let packages = [Package::new("one-1", 300_000), Package::new("two-1", 300_000), Package::new("three-1", 3000)];
    let origin = Origin::with(&packages);
    let mounted = Options::new(origin.url()).with(["--supervise"]).mount();
    let works = |package: &Package| {
        assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes);
        fs::write(mounted.path("local"), &package.path).unwrap();
        std::os::unix::fs::chown(mounted.path("local"), Some(65534), Some(65534)).unwrap();
    };
    works(&packages[0]);
    let first = daemon(&mounted);
    assert_confined(&status(mounted.pid()));
    let before = status(first);
    assert_confined(&before);
    for limits in [first, mounted.pid()].map(|pid| fs::read_to_string(format!("/proc/{pid}/limits")).unwrap()) {
        let cores = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
        let bytes: Vec<u64> = cores.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        assert!(bytes.len() == 2 && bytes.iter().all(|bytes| *bytes <= 1), "{cores}");
    }

    kill_process(Pid::from_raw(i32::try_from(first).unwrap()).unwrap(), Signal::KILL).unwrap();
    works(&packages[1]);
    eventually(60, "the next daemon answers", || mounted.control().exists());
    let second = daemon(&mounted);
    assert_ne!(first, second);
    assert_confined(&status(second));
    for _ in 0..3 {
        assert!(reload(&mounted).status.success());
    }
    works(&packages[2]);
    let after = status(second);
    assert_confined(&after);
    // However often the program is run, it adds no filter.
    assert_eq!(line(&before, "Seccomp_filters"), line(&after, "Seccomp_filters"));
    assert!(!mounted.log().contains("confinement"), "{}", mounted.log());
}

/// It would have passwords of binhosts in it.
#[test]
fn no_core_is_left() {
    if !can_mount() {
        return;
    }
    let origin = Origin::with(&[Package::new("one-1", 3000)]);
    // Nobody else has changed anything yet, after which the kernel might leave none by itself.
    let dumps = ["sh", "-c", "ulimit -c unlimited && cd \"$TMPDIR\" && exec \"$0\" \"$@\""];
    let place = tempfile::TempDir::with_prefix("binhostfs-it.").unwrap();
    let directory = place.path().join("cores");
    fs::create_dir(&directory).unwrap();
    let options = Options::new(origin.url()).run_by(dumps).variable("TMPDIR", directory.to_str().unwrap());
    let mut mounted = options.mount_in(place);
    mounted.signal(Signal::ABORT);
    let ended = mounted.ended();
    use std::os::unix::process::ExitStatusExt as _;
    assert_eq!(ended.signal(), Some(libc::SIGABRT));
    assert!(!ended.core_dumped() && fs::read_dir(directory).unwrap().next().is_none());
}

#[test]
fn a_small_port_can_be_answered_on() {
    if !can_hand_over() {
        return;
    }
    let free =
        (600..1024).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).find(|it| TcpListener::bind(it).is_ok());
    if !have(free.is_some(), "a free port below 1024, and the right to it") {
        return;
    }
    let origin = Origin::with(&[Package::new("one-1", 3000)]);
    let listen = free.unwrap().to_string();
    for supervise in [&["--supervise"][..], &[]] {
        let options = Options::new(origin.url()).with(["--listen", &listen]).with(supervise.iter().copied());
        let mut mounted = options.mount();
        for _ in 0..2 {
            assert_confined(&status(daemon(&mounted)));
            assert!(std::net::TcpStream::connect(free.unwrap()).is_ok());
            assert!(reload(&mounted).status.success());
            mounted.listen();
            eventually(60, "it answers again", || mounted.log().contains("going on with the mount"));
        }
        assert_eq!(mounted.stop(), Some(0));
    }
}
