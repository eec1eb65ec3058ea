//! kill -9 between doing something and answering: the kernel asks the next daemon for it once more.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};

use crate::handover::can_hand_over;
use crate::harness::{Mounted, Options, Origin, Package, eventually, have};

/// Whether all threads of the daemon are traced.
pub(super) fn is_traced(mounted: &Mounted) -> bool {
    let mut threads = fs::read_dir(format!("/proc/{}/task", mounted.status()["pid"])).unwrap();
    threads.all(|task| {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default();
        !status.contains("TracerPid:\t0\n")
    })
}

/// The daemon, with system calls that change names held up after they were done.
struct HeldUp {
    strace: Child,
    daemon: Pid,
}

impl HeldUp {
    fn new(mounted: &Mounted, calls: &str) -> Self {
        let number = i32::try_from(mounted.status()["pid"].as_u64().unwrap()).unwrap();
        let log = mounted.place().join("strace");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o"]).arg(&log).args(["-p", &number.to_string()]);
        strace.args(["-e", &format!("trace={calls},openat2")]);
        // Ten minutes: it is killed in the midst of them.
        strace.args(["-e", &format!("inject={calls}:delay_exit=600000000")]);
        let strace = strace.stdin(Stdio::null()).spawn().unwrap();
        eventually(60, "strace has the daemon", || is_traced(mounted));
        Self { strace, daemon: Pid::from_raw(number).unwrap() }
    }

    fn kill(self) {
        kill_process(self.daemon, Signal::KILL).unwrap();
    }
}

impl Drop for HeldUp {
    fn drop(&mut self) {
        // What it holds up ends, or goes on, only when it is gone.
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// What is beneath, whatever is mounted on it.
struct Beneath(OwnedFd);

impl Beneath {
    fn path(&self, path: &str) -> PathBuf {
        use std::os::fd::AsRawFd as _;
        Path::new(&format!("/proc/self/fd/{}", self.0.as_fd().as_raw_fd())).join(path)
    }

    fn has(&self, path: &str) -> bool {
        fs::symlink_metadata(self.path(path)).is_ok()
    }
}

const ALL: &str = "renameat2,renameat,mkdirat,unlinkat,linkat,symlinkat";

type Act = (&'static str, fn(&Path) -> io::Result<()>, fn(&Beneath) -> bool);

const ACTS: [Act; 8] = [
    ("mkdir", |at| fs::create_dir(at.join("new")), |beneath| beneath.has("new")),
    ("link", |at| fs::hard_link(at.join("a"), at.join("b")), |beneath| beneath.has("b")),
    ("symlink", |at| std::os::unix::fs::symlink("a", at.join("c")), |beneath| beneath.has("c")),
    ("rename", |at| fs::rename(at.join("b"), at.join("d")), |beneath| beneath.has("d")),
    (
        "rename, NOREPLACE",
        |at| {
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            Ok(rustix::fs::renameat_with(rustix::fs::CWD, at.join("d"), rustix::fs::CWD, at.join("e"), flags)?)
        },
        |beneath| beneath.has("e"),
    ),
    ("unlink", |at| fs::remove_file(at.join("e")), |beneath| !beneath.has("e")),
    ("rmdir", |at| fs::remove_dir(at.join("new")), |beneath| !beneath.has("new")),
    ("a new index", |at| fs::rename(at.join("Packages1"), at.join("Packages")), |beneath| beneath.has("Packages")),
];

#[test]
fn what_was_done_and_not_answered_is_answered_by_the_next_daemon() {
    let strace = Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok();
    if !can_hand_over() || !have(strace, "strace") {
        return;
    }
    let origin = Origin::with(&[Package::new("one-1.0", 3000)]);
    let mut mounted = Options::new(origin.url())
        .with(["--supervise"])
        .unstarted_in(tempfile::TempDir::with_prefix("binhostfs-it.").unwrap());
    let at = mounted.mountpoint();
    fs::create_dir(&at).unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let beneath = Beneath(rustix::fs::open(&at, flags, Mode::empty()).unwrap());
    mounted.start();
    fs::write(at.join("a"), "a").unwrap();
    fs::write(at.join("Packages1"), crate::harness::index_of(1_790_000_000, [])).unwrap();
    for (name, act, is_done) in ACTS {
        // An index is written in many steps, of which the rename counts.
        let calls = if name == "a new index" { "renameat,renameat2" } else { ALL };
        let held_up = HeldUp::new(&mounted, calls);
        std::thread::scope(|scope| {
            let acting = scope.spawn(|| act(&at));
            eventually(60, name, || is_done(&beneath));
            assert!(!acting.is_finished(), "{name} is answered already");
            held_up.kill();
            acting.join().unwrap().unwrap_or_else(|error| panic!("{name}: {error}\n{}", mounted.log()));
        });
        eventually(60, "the next daemon answers", || mounted.control().exists());
    }
    assert_eq!(mounted.log().matches("going on with the mount").count(), ACTS.len());
    // What is asked for twice by somebody is refused as ever.
    assert_eq!(fs::create_dir(at.join("app-misc")).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(File::create_new(at.join("a")).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    let gone = rustix::fs::unlinkat(rustix::fs::CWD, at.join("e"), AtFlags::empty());
    assert_eq!(gone, Err(rustix::io::Errno::NOENT));
    assert_eq!(fs::read_to_string(at.join("a")).unwrap(), "a");
    assert!(!at.join("Packages1").exists());
}
