//! One user cannot have so many files open that nobody else can open any.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::handover::{can_hand_over, reload};
use crate::harness::{Act, Mounted, Options, Origin, Package, binary, can_mount, eventually};

/// The daemon's limit of open files.
const LIMIT: usize = 1024;
/// What of that is one user's.
const SHARE: usize = LIMIT / 4;
/// What is the daemon's.
const OWN: usize = 256;

/// Opens what it is told to, holds it, and says how many there are and what the first failure was.
const HOLDER: &str = "
import os, sys
mode, held, first = sys.argv[1], [], 0
for name in sys.stdin:
    name = name.rstrip('\\n')
    if not name:
        break
    try:
        held.append(os.open(name, os.O_RDONLY if mode == 'read' else os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644))
    except OSError as error:
        first = first or error.errno
print(len(held), first, flush=True)
sys.stdin.read()
";

/// A user who has files open until it is dropped.
struct Holder {
    child: Child,
    input: Option<ChildStdin>,
    held: usize,
    errno: i32,
}

impl Holder {
    fn start(user: u32, mode: &str, names: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups"]);
        command.args(["prlimit", "--nofile=20000", "python3", "-c", HOLDER, mode]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let names: String = names.into_iter().map(|name| format!("{}\n", name.display())).collect();
        let mut input = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, format!("{names}\n").as_bytes()).unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        let numbers: Vec<i32> = said.split_whitespace().map(|number| number.parse().unwrap()).collect();
        Self { child, input: Some(input), held: usize::try_from(numbers[0]).unwrap(), errno: numbers[1] }
    }

    fn has(&self) -> (usize, i32) {
        (self.held, self.errno)
    }

    fn ends(mut self) {
        self.input = None;
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A daemon with [`LIMIT`], one package, and a directory with `count` local files that everybody may read.
fn mounted(count: usize, options: &[&str]) -> (Origin, Package, Mounted) {
    let package = Package::new("one-1", 300_000);
    let origin = Origin::with(std::slice::from_ref(&package));
    let limit = format!("--nofile={LIMIT}:{LIMIT}");
    let options = Options::new(origin.url()).run_by(["prlimit", &limit]).with(options.iter().copied());
    let mounted = options.mount();
    let everybody = |path: &Path, mode| {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    everybody(mounted.place(), 0o755);
    fs::create_dir(mounted.path("files")).unwrap();
    everybody(&mounted.path("files"), 0o777);
    (0..count).for_each(|at| fs::write(file(&mounted, at), "x").unwrap());
    assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes);
    mounted.settled();
    (origin, package, mounted)
}

fn file(mounted: &Mounted, at: usize) -> PathBuf {
    mounted.path(&format!("files/{at}"))
}

fn files(mounted: &Mounted, range: std::ops::Range<usize>) -> Vec<PathBuf> {
    range.map(|at| file(mounted, at)).collect()
}

/// What root does, and the daemon for everybody.
#[track_caller]
fn assert_works(mounted: &Mounted, package: &Package) {
    assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes);
    assert!(fs::read_dir(mounted.path("files")).unwrap().count() > 500);
    assert_eq!(mounted.listing().iter().filter(|name| **name == package.path).count(), 1);
    let open: Vec<File> = (0..100).map(|at| File::open(file(mounted, at + 300)).unwrap()).collect();
    fs::write(mounted.path("written"), "x").unwrap();
    assert!(mounted.status()["mountpoint"].is_string());
    let why = Command::new(binary()).args(["why", "one", "--control"]).arg(mounted.control()).output().unwrap();
    assert!(why.status.success());
    drop(open);
}

#[test]
fn one_user_leaves_enough_for_others() {
    if !can_mount() {
        return;
    }
    for passthrough in ["auto", "off"] {
        let (_origin, package, mounted) = mounted(1000, &["--passthrough", passthrough]);
        let holder = Holder::start(65534, "read", files(&mounted, 0..1000));
        // However often one is opened, it is one.
        assert_eq!(holder.has(), (SHARE, libc::EMFILE));
        assert_works(&mounted, &package);
        let again = Holder::start(65534, "read", files(&mounted, 0..SHARE));
        assert_eq!(again.has(), (SHARE, 0));
        again.ends();
        // What cannot be opened is not made either.
        let maker = Holder::start(65534, "create", files(&mounted, 2000..2010));
        assert_eq!(maker.has(), (0, libc::EMFILE));
        maker.ends();
        assert!(!file(&mounted, 2000).exists());
        let reader = Holder::start(65534, "read", [mounted.path("Packages"), mounted.path(&package.path)]);
        assert_eq!(reader.has(), (0, libc::EMFILE));
        reader.ends();
        let other = Holder::start(12345, "read", files(&mounted, 0..100));
        assert_eq!(other.has(), (100, 0));
        other.ends();
        // Its number is in the log, once.
        let log = mounted.log();
        assert_eq!(log.matches("uid 65534 has 256 of the ").count(), 1, "{log}");
        assert_eq!(log.matches("cannot open another one").count(), 1, "{log}");
        holder.ends();
        eventually(20, "it may open others again", || {
            let holder = Holder::start(65534, "create", files(&mounted, 2000..2000 + SHARE));
            let has = holder.has();
            holder.ends();
            (2000..2000 + SHARE).for_each(|at| drop(fs::remove_file(file(&mounted, at))));
            has == (SHARE, 0)
        });
        assert_works(&mounted, &package);
    }
}

/// A user may own many ids, in a user namespace.
#[test]
fn many_users_leave_enough_for_root_and_the_daemon() {
    if !can_mount() {
        return;
    }
    let (_origin, package, mounted) = mounted(1000, &["--passthrough", "off"]);
    let holders: Vec<Holder> = (0..4).map(|at| Holder::start(100_000 + at, "read", files(&mounted, 0..1000))).collect();
    let has: Vec<_> = holders.iter().map(Holder::has).collect();
    let all = LIMIT - OWN;
    assert_eq!(has, [(SHARE, libc::EMFILE), (all - 2 * SHARE, libc::EMFILE), (0, libc::ENFILE), (0, libc::ENFILE)]);
    assert_works(&mounted, &package);
    // Root takes all that is left, and the daemon goes on.
    let mut open = Vec::new();
    let refused = (0..1000).find_map(|at| File::open(file(&mounted, at)).map(|file| open.push(file)).err());
    assert_eq!((open.len(), refused.unwrap().raw_os_error()), (SHARE, Some(libc::ENFILE)));
    assert!(mounted.status()["mountpoint"].is_string());
    assert!(fs::read_dir(mounted.path("files")).unwrap().count() >= 1000);
    assert!(fs::metadata(file(&mounted, 999)).is_ok());
    drop(open);
    eventually(20, "root may open others again", || File::open(file(&mounted, 0)).is_ok());
    holders.into_iter().for_each(Holder::ends);
    assert_works(&mounted, &package);
}

/// What was opened of the daemon before counts, and whoever closes it may open others.
#[test]
fn a_crash_or_a_reload_makes_nobody_forget() {
    if !can_hand_over() {
        return;
    }
    for passthrough in ["auto", "off"] {
        let (_origin, package, mounted) = mounted(1000, &["--supervise", "--passthrough", passthrough]);
        let root = File::open(file(&mounted, 0)).unwrap();
        let holder = Holder::start(65534, "read", files(&mounted, 0..1000));
        assert_eq!(holder.has(), (SHARE, libc::EMFILE));
        for how in ["crash", "reload"] {
            let pid = mounted.status()["pid"].as_u64().unwrap();
            if how == "crash" {
                kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
            } else {
                assert!(reload(&mounted).status.success());
            }
            let more = Holder::start(65534, "read", files(&mounted, 500..1000));
            assert_eq!(more.has(), (0, libc::EMFILE), "{how}");
            more.ends();
            assert_works(&mounted, &package);
        }
        holder.ends();
        eventually(20, "it may open others", || {
            let holder = Holder::start(65534, "read", files(&mounted, 500..500 + SHARE));
            let has = holder.has();
            holder.ends();
            has == (SHARE, 0)
        });
        drop(root);
    }
}

/// Whoever waits for a package holds nothing of the daemon's until it comes.
#[test]
fn waiting_takes_no_descriptors() {
    if !can_mount() {
        return;
    }
    let names: Vec<&'static str> = (0..400).map(|at| &*Box::leak(format!("slow{at}-1").into_boxed_str())).collect();
    let packages: Vec<Package> = names.iter().map(|name| Package::new(name, 3000)).collect();
    let origin = Origin::with(&packages);
    packages.iter().for_each(|package| origin.script(&package.path, [Act::StallAt(100)]));
    let limit = format!("--nofile={LIMIT}:{LIMIT}");
    let mounted = Options::new(origin.url()).run_by(["prlimit", &limit]).mount();
    fs::set_permissions(mounted.place(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(mounted.path("local"), "x").unwrap();
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", mounted.pid())).unwrap().count();
    let before = descriptors();
    let script = format!(
        "cd {} && for file in app-misc/*/*.tar; do cat $file > /dev/null & done; wait",
        mounted.mountpoint().display()
    );
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", &script]).stderr(Stdio::null());
    let mut waiting = command.spawn().unwrap();
    let opens = || mounted.status()["download_counts"]["opens"].as_u64().unwrap();
    eventually(60, "all wait", || opens() == packages.len() as u64);
    assert!(descriptors() < before + 64, "{} after {before}", descriptors());
    assert_eq!(fs::read(mounted.path("local")).unwrap(), b"x");
    waiting.kill().unwrap();
    waiting.wait().unwrap();
}

/// Outside a service the limit is often a small one that may be raised.
#[test]
fn the_limit_is_raised_where_it_may_be() {
    if !can_mount() {
        return;
    }
    let origin = Origin::with(&[Package::new("one-1", 3000)]);
    for (limit, expected) in [("--nofile=1024:4096", "4096"), ("--nofile=2048:2048", "2048")] {
        let mounted = Options::new(origin.url()).run_by(["prlimit", limit]).mount();
        let limits = fs::read_to_string(format!("/proc/{}/limits", mounted.pid())).unwrap();
        let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        assert_eq!(files.split_whitespace().next(), Some(expected), "{files}");
    }
}
