//! Who opened a package: the emerge behind a thread, and where its plan may lie.
//!
//! Portage reads packages by itself, by forks of itself and by programs that these start (tar, gpg): so we go from the thread
//! that opened upwards, a few processes at most, and from the first emerge on to the topmost, which wrote the plan. What says
//! `emerge` is the command line, which anybody can make up; nothing follows from it but that a file is looked at.
//!
//! All of it is asked of one `/proc/PID`, opened once: what comes later with the same number is another process.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags};

/// Processes looked at, from the opener upwards: between it and the emerge that planned lie two forks and a shell at most.
const MAX_PROCESSES: usize = 8;
/// Of a file in /proc/PID, the bytes that are looked at: environments rarely have a tenth of it.
const MAX_TEXT: u64 = 256 << 10;

/// Tells processes apart, also those that have one number after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ProcessKey {
    pid: u32,
    /// Clock ticks after boot.
    started: u64,
}

/// A process, for as long as this is kept.
#[derive(Debug)]
pub(crate) struct Process {
    /// /proc/PID
    directory: OwnedFd,
    key: ProcessKey,
}

/// Who opened something, for whom it is enough to know whether an emerge did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Opener {
    /// An emerge, or something that it started.
    Emerge,
    /// Something else.
    Other {
        /// What it is a part of.
        job: ProcessGroup,
        /// Its session.
        session: u32,
        pid: u32,
        /// What it calls itself.
        name: String,
    },
}

/// A process group: what a shell starts at one go, and whatever that starts, e.g. `find -exec` or a pipe into `xargs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessGroup {
    /// Its number, which is that of its first process. Nobody else gets it as long as the group has any.
    pub(crate) group: u32,
    /// When its first process was started, if that still runs: another time under the same number is another group.
    pub(crate) began: Option<u64>,
}

/// What /proc tells of an opener.
#[derive(Debug)]
pub(crate) struct OpenerProcess {
    pub(crate) opener: Opener,
    /// The emerge behind it, if there is one.
    pub(crate) emerge: Option<Emerge>,
}

/// Who opened something in thread `tid`. May wait, as [`Emerge::find`].
pub(crate) fn read_process(proc: &Path, tid: u32) -> Option<OpenerProcess> {
    match Emerge::find(proc, tid) {
        Some(emerge) => Some(OpenerProcess { opener: Opener::Emerge, emerge: Some(emerge) }),
        None => Some(OpenerProcess { opener: other(proc, tid)?, emerge: None }),
    }
}

/// Something that is no emerge.
fn other(proc: &Path, tid: u32) -> Option<Opener> {
    let (process, _) = Process::of(proc, tid)?;
    let stat = String::from_utf8_lossy(&read(&process.directory, "stat").ok()?).into_owned();
    let (name, fields) = stat.rsplit_once(')')?;
    let name = name.split_once('(')?.1.to_owned();
    // Source: proc_pid_stat(5), fields 5 and 6; the state is the third. 0: it is another pid namespace's.
    let mut numbers = fields.split_whitespace().skip(2).map(|number| number.parse().ok().filter(|number| *number != 0));
    let (group, session): (u32, u32) = (numbers.next()??, numbers.next()??);
    let first = open(&rustix::fs::CWD, &proc.join(group.to_string()), OFlags::PATH);
    let job = ProcessGroup { group, began: first.ok().and_then(|first| start(&first)) };
    Some(Opener::Other { job, session, pid: process.key.pid, name })
}

/// A running emerge.
#[derive(Debug)]
pub(crate) struct Emerge {
    process: Process,
    /// When it was started.
    pub(crate) started: SystemTime,
    /// Directories below its root that may be its EROOT, the most likely first.
    pub(crate) eroots: Vec<PathBuf>,
}

impl Process {
    /// The process of a thread, and its parent's number.
    fn of(proc: &Path, tid: u32) -> Option<(Self, u32)> {
        let status = text(open(&rustix::fs::CWD, &proc.join(tid.to_string()), OFlags::PATH).ok()?, "status")?;
        let number = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|number| number.trim().parse().ok())
        };
        let (pid, parent) = (number("Tgid:")?, number("PPid:")?);
        let directory = open(&rustix::fs::CWD, &proc.join(u32::to_string(&pid)), OFlags::PATH).ok()?;
        let started = start(&directory)?;
        Some((Self { directory, key: ProcessKey { pid, started } }, parent))
    }

    /// Whether it still runs.
    fn is_alive(&self) -> bool {
        start(&self.directory) == Some(self.key.started)
    }

    /// The words of a file of /proc/PID.
    fn words(&self, name: &str) -> Vec<OsString> {
        let bytes = read(&self.directory, name).unwrap_or_default();
        bytes.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect()
    }
}

impl Emerge {
    /// The emerge that opened something in thread `tid`, if one did. `proc` is /proc. Reads memory of processes, which may
    /// make it wait: not for threads that others wait for.
    pub(crate) fn find(proc: &Path, tid: u32) -> Option<Self> {
        let (mut next, mut found) = (tid, None);
        for _ in 0..MAX_PROCESSES {
            // 0: there is no parent, or it is in a pid namespace that we do not see.
            let Some((process, parent)) = (next != 0).then(|| Process::of(proc, next)).flatten() else { break };
            let arguments = process.words("cmdline");
            match script(&arguments) {
                Some(at) => found = Some((process, arguments, at)),
                None if found.is_some() => break,
                None => {}
            }
            next = parent;
        }
        let (process, arguments, at) = found?;
        let started = wall_clock(proc, process.key.started)?;
        let eroots = eroots(&arguments, at, &process.words("environ"));
        Some(Self { process, started, eroots })
    }

    pub(crate) fn key(&self) -> ProcessKey {
        self.process.key
    }

    /// Its root directory, wherever that is.
    pub(crate) fn root(&self) -> io::Result<OwnedFd> {
        Ok(open(&self.process.directory, Path::new("root"), OFlags::PATH | OFlags::DIRECTORY)?)
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&self) -> bool {
        self.process.is_alive()
    }
}

/// Where in a command line the script `emerge` stands: it is run by itself or by a Python. `sudo emerge` is somebody else.
fn script(arguments: &[OsString]) -> Option<usize> {
    let name = |word: &OsString| Path::new(word).file_name().map(|name| name.to_string_lossy().into_owned());
    let is_emerge = |word: &OsString| name(word).is_some_and(|name| name == "emerge");
    let first = arguments.first()?;
    if is_emerge(first) {
        return Some(0);
    }
    name(first).filter(|name| name.starts_with("python") || name.starts_with("pypy"))?;
    let at = 1 + arguments.iter().skip(1).position(|word| !word.as_bytes().starts_with(b"-"))?;
    arguments.get(at).filter(|word| is_emerge(word)).map(|_| at)
}

/// ROOT and EPREFIX as emerge takes them: from its options, else from the environment. What make.conf says is not looked at.
fn eroots(arguments: &[OsString], script: usize, environment: &[OsString]) -> Vec<PathBuf> {
    let variable = |name: &str| find(environment, name, b'=');
    let option = |name: &str| {
        let next = || arguments.iter().position(|word| *word == *name).and_then(|at| arguments.get(at + 1)).cloned();
        find(arguments, name, b'=').or_else(next)
    };
    let root = option("--root").or_else(|| variable("ROOT")).filter(|root| !root.is_empty());
    let root = root.map_or_else(|| PathBuf::from("/"), PathBuf::from);
    // A Portage that lives in a prefix knows it; it shows in where the script is.
    let lives_in = || {
        let script = arguments.get(script)?.as_bytes();
        let end = script.windows(5).position(|part| part == b"/usr/")?;
        Some(OsString::from_vec(script.get(..end)?.to_vec()))
    };
    let given = option("--prefix").or_else(|| variable("EPREFIX")).or_else(|| variable("PORTAGE_OVERRIDE_EPREFIX"));
    let prefix = given.or_else(lives_in).map(PathBuf::from).unwrap_or_default();
    let relative = prefix.strip_prefix("/").unwrap_or(&prefix);
    let mut eroots = vec![root.join(relative), root];
    eroots.dedup();
    eroots.retain(|eroot| eroot.is_absolute());
    eroots
}

/// The rest of the word that starts with `name` and `separator`.
fn find(words: &[OsString], name: &str, separator: u8) -> Option<OsString> {
    let value = |word: &OsString| {
        let rest = word.as_bytes().strip_prefix(name.as_bytes())?;
        rest.strip_prefix(&[separator]).map(|value| OsString::from_vec(value.to_vec()))
    };
    words.iter().find_map(value)
}

/// When a process was started, in clock ticks after boot. Source: proc_pid_stat(5), field 22; the second may hold anything.
fn start(directory: &OwnedFd) -> Option<u64> {
    let stat = String::from_utf8_lossy(&read(directory, "stat").ok()?).into_owned();
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    // A zombie runs no more.
    fields.next().filter(|state| !matches!(*state, "Z" | "X"))?;
    fields.nth(18)?.parse().ok()
}

fn wall_clock(proc: &Path, ticks: u64) -> Option<SystemTime> {
    let uptime = std::fs::read_to_string(proc.join("uptime")).ok()?;
    let uptime = Duration::try_from_secs_f64(uptime.split_whitespace().next()?.parse().ok()?).ok()?;
    let started = Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
    SystemTime::now().checked_sub(uptime.saturating_sub(started))
}

fn open(directory: &impl std::os::fd::AsFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(directory, path, flags | OFlags::CLOEXEC, Mode::empty())
}

fn read(directory: &OwnedFd, name: &str) -> io::Result<Vec<u8>> {
    let file = File::from(open(directory, Path::new(name), OFlags::RDONLY | OFlags::NONBLOCK)?);
    let mut bytes = Vec::new();
    file.take(MAX_TEXT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn text(directory: OwnedFd, name: &str) -> Option<String> {
    Some(String::from_utf8_lossy(&read(&directory, name).ok()?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::{Command, Stdio};

    use tempfile::TempDir;

    /// A /proc with processes that were started `ticks` after boot, an hour ago.
    struct Proc(TempDir);

    impl Proc {
        fn new() -> Self {
            let proc = Self(TempDir::new().unwrap());
            fs::write(proc.0.path().join("uptime"), "3600.00 1.00\n").unwrap();
            proc
        }

        fn add(&self, pid: u32, parent: u32, arguments: &[&str], environment: &[&str]) {
            let directory = self.0.path().join(pid.to_string());
            fs::create_dir_all(&directory).unwrap();
            let words = |words: &[&str]| words.iter().map(|word| format!("{word}\0")).collect::<String>();
            fs::write(directory.join("status"), format!("Name:\tx\nTgid:\t{pid}\nPPid:\t{parent}\n")).unwrap();
            let stat = format!("{pid} (a) S 9) S {parent} 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {} 0", 100 * pid);
            fs::write(directory.join("stat"), stat).unwrap();
            fs::write(directory.join("cmdline"), words(arguments)).unwrap();
            fs::write(directory.join("environ"), words(environment)).unwrap();
            let _ = symlink("/", directory.join("root"));
        }

        fn find(&self, tid: u32) -> Option<Emerge> {
            Emerge::find(self.0.path(), tid)
        }
    }

    const SCRIPT: [&str; 4] = ["/usr/bin/python3.13", "-b", "/usr/lib/python-exec/python3.13/emerge", "-k"];

    #[test]
    fn the_topmost_emerge_above_whoever_opens() {
        let proc = Proc::new();
        proc.add(1, 0, &["init"], &[]);
        proc.add(10, 1, &["bash"], &[]);
        proc.add(20, 10, &["sudo", "emerge", "-k", "x"], &["ROOT=/wrong"]);
        proc.add(30, 20, &SCRIPT, &["HOME=/", "ROOT=/mnt/new"]);
        proc.add(31, 30, &SCRIPT, &["ROOT=/mnt/new"]);
        proc.add(32, 31, &["bash", "misc-functions.sh"], &[]);
        proc.add(33, 32, &["tar", "xf", "emerge"], &[]);
        for opener in [33, 31, 30] {
            let emerge = proc.find(opener).unwrap();
            assert_eq!((emerge.key().pid, emerge.key().started), (30, 3000));
            assert_eq!(emerge.eroots, [Path::new("/mnt/new")]);
            let age = emerge.started.elapsed().unwrap().as_secs();
            assert!((3569..=3571).contains(&age), "{age}");
            assert!(emerge.root().is_ok());
        }
        for opener in [20, 10, 1, 0, 99] {
            assert!(proc.find(opener).is_none(), "{opener}");
        }
    }

    #[test]
    fn not_from_too_far_below_nor_round_in_circles() {
        let proc = Proc::new();
        proc.add(1, 0, &SCRIPT, &[]);
        (2..12).for_each(|pid| proc.add(pid, pid - 1, &["sh"], &[]));
        assert!(proc.find(MAX_PROCESSES as u32).is_some());
        assert!(proc.find(MAX_PROCESSES as u32 + 1).is_none());
        proc.add(20, 21, &["sh"], &[]);
        proc.add(21, 20, &["sh"], &[]);
        assert!(proc.find(20).is_none());
    }

    #[test]
    fn what_is_an_emerge() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        for (line, is) in [
            ("emerge -k", Some(0)),
            ("/usr/bin/emerge", Some(0)),
            ("/usr/bin/python3.13 -b -O /usr/lib/python-exec/python3.13/emerge -k", Some(3)),
            ("pypy3 ./emerge", Some(1)),
            ("python3", None),
            ("python3 -c emerge.py", None),
            ("python3 portageq emerge", None),
            ("sh emerge", None),
            ("emerged", None),
            ("timeout 5 emerge", None),
            ("", None),
        ] {
            assert_eq!(script(&words(line)), is, "{line}");
        }
        assert_eq!(script(&[]), None);
    }

    #[test]
    fn where_its_plan_may_lie() {
        let words = |line: &str| line.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        for (arguments, environment, expected) in [
            ("emerge -k x", "", vec!["/"]),
            ("emerge", "ROOT=/r/ XROOT=/no", vec!["/r"]),
            ("emerge --root=/o x", "ROOT=/r", vec!["/o"]),
            ("emerge --root /o x", "", vec!["/o"]),
            ("emerge --root", "ROOT=/r", vec!["/r"]),
            ("emerge --prefix=/p", "ROOT=/r EPREFIX=/q", vec!["/r/p", "/r"]),
            ("emerge", "ROOT=/r EPREFIX=/q PORTAGE_OVERRIDE_EPREFIX=/w", vec!["/r/q", "/r"]),
            ("emerge", "ROOT=/r EPREFIX= PORTAGE_OVERRIDE_EPREFIX=/w", vec!["/r"]),
            ("emerge", "PORTAGE_OVERRIDE_EPREFIX=/w", vec!["/w", "/"]),
            ("/home/u/gentoo/usr/bin/emerge", "", vec!["/home/u/gentoo", "/"]),
            ("/usr/bin/emerge", "", vec!["/"]),
            ("emerge", "ROOT=relative", vec![]),
            ("emerge", "ROOT= EPREFIX=", vec!["/"]),
        ] {
            let expected: Vec<PathBuf> = expected.into_iter().map(PathBuf::from).collect();
            assert_eq!(eroots(&words(arguments), 0, &words(environment)), expected, "{arguments} {environment}");
        }
    }

    #[test]
    fn real_processes_come_and_go() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let (process, parent) = Process::of(Path::new("/proc"), child.id()).unwrap();
        assert_eq!(parent, std::process::id());
        assert!(process.is_alive());
        let started = wall_clock(Path::new("/proc"), process.key.started).unwrap();
        assert!(started.elapsed().unwrap_or_default() < Duration::from_secs(30));
        child.kill().unwrap();
        // Before its parent has asked for it, and after.
        while process.is_alive() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!process.is_alive() && process.words("environ") == [""]);
    }
}
