//! Finds the process that opened a package: the emerge behind a thread, and the roots that may have
//! its merge plan.
//!
//! Portage reads packages by itself, by forks of itself and by programs that these start (tar,
//! gpg). So the search goes upwards from the thread that opened, for a few processes at most. From
//! the first emerge on, it continues to the topmost emerge, which wrote the plan. Anybody can make
//! up the command line by which an emerge is recognised. The only consequence is that the daemon
//! reads a file.
//!
//! All facts about a process come from one `/proc/PID`, opened once, because the number may belong
//! to another process later.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags};
use rustix::process::Gid;

use crate::sys::assumed_credentials::AssumedCredentials;

/// The most processes that are examined, from the opener upwards. Between the opener and the emerge
/// that planned are at most two forks and a shell.
const MAX_PROCESSES: usize = 8;
/// The most bytes that are read of a file in /proc/PID. Environments rarely have a tenth of this.
const MAX_TEXT: u64 = 256 << 10;

/// The identity of a process, unique also when the process number is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ProcessKey {
    pid: u32,
    /// Start time in clock ticks after boot.
    started: u64,
}

/// A process by its open directory in /proc. While the value exists, the files there belong to no
/// other process.
#[derive(Debug)]
pub(crate) struct Process {
    /// The open directory /proc/PID.
    directory: OwnedFd,
    key: ProcessKey,
}

/// The opener of a package, for callers that only distinguish emerge from other programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Opener {
    /// An emerge, or a process that it started.
    Emerge,
    /// A process that no emerge started.
    Other {
        /// The process group of the opener.
        job: ProcessGroup,
        /// The login session of the opener.
        session: u32,
        pid: u32,
        /// The process's own name (`comm`), which the process can set.
        name: String,
    },
}

/// A process group: the processes of one shell command line and all that they start, e.g.
/// `find -exec` or a pipe into `xargs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessGroup {
    /// The group's number, which is that of its first process. No other process gets the number
    /// while the group has members.
    pub(crate) group: u32,
    /// The start time of the first process, if it still runs. The same number with another start
    /// time is another group.
    pub(crate) began: Option<u64>,
}

/// The opener as /proc describes it.
#[derive(Debug)]
pub(crate) struct OpenerProcess {
    pub(crate) opener: Opener,
    /// The emerge behind the opener, if there is one and its details can be read.
    pub(crate) emerge: Option<Emerge>,
}

/// A process, and what was read of it.
struct ReadProcess {
    process: Process,
    parent: u32,
    /// The file `status` of the thread.
    status: String,
    /// The file `stat` of the process.
    stat: String,
}

/// Finds the process that opened a package in thread `tid`, in one walk of `proc`. Reads memory of
/// other processes, which may block. Do not call this on a thread that others wait for.
pub(crate) fn read_process(proc: &Path, tid: u32) -> Option<OpenerProcess> {
    let (first, found) = FoundEmerge::search(proc, tid);
    Some(match found {
        // Also one of which no more can be read, e.g. because /proc has only processes (`subset=pid`).
        // Its plan is not followed then.
        Some(found) => OpenerProcess { opener: Opener::Emerge, emerge: Emerge::of(proc, found) },
        None => OpenerProcess { opener: other(proc, &first?)?, emerge: None },
    })
}

/// Describes an opener that is no emerge.
fn other(proc: &Path, ReadProcess { process, stat, .. }: &ReadProcess) -> Option<Opener> {
    let (name, fields) = stat.rsplit_once(')')?;
    let name = name.split_once('(')?.1.to_owned();
    // Source: proc_pid_stat(5), fields 5 and 6; the state is the third. 0 means that the group is
    // in another pid namespace.
    let mut numbers = fields.split_whitespace().skip(2).map(|number| number.parse().ok().filter(|number| *number != 0));
    let (group, session): (u32, u32) = (numbers.next()??, numbers.next()??);
    let ProcessKey { pid, started } = process.key;
    let first = || open(&rustix::fs::CWD, &proc.join(group.to_string()), OFlags::PATH).ok();
    let began = if group == pid { Some(started) } else { first().and_then(|first| start(&first)) };
    Some(Opener::Other { job: ProcessGroup { group, began }, session, pid, name })
}

/// The user and groups by which the kernel checks a process's access to files.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileCredentials {
    uid: u32,
    gid: u32,
    groups: Vec<Gid>,
}

impl FileCredentials {
    /// Source: proc_pid_status(5). The last of the four ids is the one for files.
    fn parse(status: &str) -> Option<Self> {
        let words = |key: &str| Some(status.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace());
        let of_files = |key: &str| words(key)?.nth(3)?.parse().ok();
        let groups = words("Groups:")?.filter_map(|group| group.parse().ok()).map(Gid::from_raw).collect();
        Some(Self { uid: of_files("Uid:")?, gid: of_files("Gid:")?, groups })
    }
}

#[derive(Debug)]
pub(crate) struct Emerge {
    process: Process,
    credentials: FileCredentials,
    /// The start time of the process.
    pub(crate) started: SystemTime,
    /// Directories below the process's root that may be its EROOT, the most likely first.
    pub(crate) eroots: Vec<PathBuf>,
}

impl Process {
    /// Reads the process of a thread.
    fn of(proc: &Path, tid: u32) -> Option<ReadProcess> {
        let status = text(open(&rustix::fs::CWD, &proc.join(tid.to_string()), OFlags::PATH).ok()?, "status")?;
        let number = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|number| number.trim().parse().ok())
        };
        let (pid, parent) = (number("Tgid:")?, number("PPid:")?);
        let directory = open(&rustix::fs::CWD, &proc.join(u32::to_string(&pid)), OFlags::PATH).ok()?;
        let stat = String::from_utf8_lossy(&read(&directory, "stat").ok()?).into_owned();
        let started = start_in(&stat)?;
        Some(ReadProcess { process: Self { directory, key: ProcessKey { pid, started } }, parent, status, stat })
    }

    /// Whether the process still runs.
    fn is_alive(&self) -> bool {
        start(&self.directory) == Some(self.key.started)
    }

    /// The NUL-separated words of a file of /proc/PID.
    fn words(&self, name: &str) -> Vec<OsString> {
        let bytes = read(&self.directory, name).unwrap_or_default();
        bytes.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect()
    }
}

/// A process that is an emerge by its command line.
struct FoundEmerge {
    read: ReadProcess,
    arguments: Vec<OsString>,
    /// The index of the script among the arguments.
    script: usize,
}

impl FoundEmerge {
    /// Finds the topmost emerge behind thread `tid`, if there is one. The first value is the
    /// process of the thread, unless that is the emerge itself.
    fn search(proc: &Path, tid: u32) -> (Option<ReadProcess>, Option<Self>) {
        let (mut next, mut first, mut found) = (tid, None, None::<Self>);
        for _ in 0..MAX_PROCESSES {
            // 0 means that there is no parent, or that it is in a pid namespace that the daemon
            // cannot see.
            let Some(read) = (next != 0).then(|| Process::of(proc, next)).flatten() else { break };
            next = read.parent;
            let arguments = read.process.words("cmdline");
            let before = match script(&arguments) {
                Some(script) => found.replace(Self { read, arguments, script }).map(|below| below.read),
                None if found.is_some() => break,
                None => Some(read),
            };
            first = first.or(before);
        }
        (first, found)
    }
}

impl Emerge {
    fn of(proc: &Path, FoundEmerge { read, arguments, script }: FoundEmerge) -> Option<Self> {
        let ReadProcess { process, status, .. } = read;
        let started = wall_clock(proc, process.key.started)?;
        let eroots = eroots(&arguments, script, &process.words("environ"));
        let credentials = FileCredentials::parse(&status)?;
        Some(Self { process, credentials, started, eroots })
    }

    pub(crate) fn key(&self) -> ProcessKey {
        self.process.key
    }

    /// Opens the root directory of the process, which may differ from the daemon's.
    pub(crate) fn root(&self) -> io::Result<OwnedFd> {
        Ok(open(&self.process.directory, Path::new("root"), OFlags::PATH | OFlags::DIRECTORY)?)
    }

    /// Runs `work` on this thread with the access to files that the emerge has. The emerge may be
    /// anybody's, and its paths may lead anywhere.
    ///
    /// # Errors
    /// The error of `work`; EPERM where the daemon may not assume the credentials.
    pub(crate) fn act<T, E: From<io::Error>>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let FileCredentials { uid, gid, groups } = &self.credentials;
        if *uid == rustix::process::geteuid().as_raw() {
            return work();
        }
        let mut assumed = AssumedCredentials::default();
        assumed.put_on_groups(groups).and_then(|()| assumed.put_on(*uid, *gid)).map_err(io::Error::from)?;
        work()
    }

    /// Whether the emerge still runs.
    pub(crate) fn is_alive(&self) -> bool {
        self.process.is_alive()
    }
}

/// The index of the script `emerge` in a command line: the program itself, or the script of a
/// Python. `sudo emerge` is a process of its own, so it does not count.
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

/// The candidates for EROOT, from ROOT and EPREFIX in emerge's options or environment. make.conf is
/// not read for this.
fn eroots(arguments: &[OsString], script: usize, environment: &[OsString]) -> Vec<PathBuf> {
    let variable = |name: &str| find(environment, name, b'=');
    let option = |name: &str| {
        let next = || arguments.iter().position(|word| *word == *name).and_then(|at| arguments.get(at + 1)).cloned();
        find(arguments, name, b'=').or_else(next)
    };
    let root = option("--root").or_else(|| variable("ROOT")).filter(|root| !root.is_empty());
    let root = root.map_or_else(|| PathBuf::from("/"), PathBuf::from);
    // A Portage that is installed in a prefix knows its prefix; the path of the script shows it.
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

/// The start time of a process in clock ticks after boot; `None` for a zombie. Source:
/// proc_pid_stat(5), field 22. The second field may have any characters, so parsing starts after
/// its last bracket.
fn start(directory: &OwnedFd) -> Option<u64> {
    start_in(&String::from_utf8_lossy(&read(directory, "stat").ok()?))
}

/// The same, from the text of `stat`.
fn start_in(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    // A zombie counts as ended.
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

    const IDS: &str = "Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \n";

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
            fs::write(directory.join("status"), format!("Name:\tx\nTgid:\t{pid}\nPPid:\t{parent}\n{IDS}")).unwrap();
            let stat = format!("{pid} (a) S 9) S {parent} 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {} 0", 100 * pid);
            fs::write(directory.join("stat"), stat).unwrap();
            fs::write(directory.join("cmdline"), words(arguments)).unwrap();
            fs::write(directory.join("environ"), words(environment)).unwrap();
            let _ = symlink("/", directory.join("root"));
        }

        fn find(&self, tid: u32) -> Option<Emerge> {
            read_process(self.0.path(), tid)?.emerge
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
            let before = SystemTime::now();
            let emerge = proc.find(opener).unwrap();
            assert_eq!((emerge.key().pid, emerge.key().started), (30, 3000));
            assert_eq!(emerge.eroots, [Path::new("/mnt/new")]);
            // It was started 3570 s before it was looked at.
            let looked = emerge.started + Duration::from_secs(3570);
            let second = Duration::from_secs(1);
            assert!((before - second..=SystemTime::now() + second).contains(&looked), "{looked:?}, {before:?}");
            assert!(emerge.root().is_ok());
            let groups = [9, 10].map(Gid::from_raw).to_vec();
            assert_eq!(emerge.credentials, FileCredentials { uid: 4, gid: 8, groups });
        }
        for opener in [20, 10, 1, 0, 99] {
            assert!(proc.find(opener).is_none(), "{opener}");
        }
    }

    /// As in a /proc that is mounted with `subset=pid`.
    #[test]
    fn an_emerge_of_which_little_can_be_read_is_one_all_the_same() {
        let proc = Proc::new();
        fs::remove_file(proc.0.path().join("uptime")).unwrap();
        proc.add(30, 1, &SCRIPT, &[]);
        proc.add(31, 30, &["tar", "xf", "x"], &[]);
        for opener in [30, 31] {
            let found = read_process(proc.0.path(), opener).unwrap();
            assert!(found.opener == Opener::Emerge && found.emerge.is_none(), "{opener}: {found:?}");
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
        let ReadProcess { process, parent, .. } = Process::of(Path::new("/proc"), child.id()).unwrap();
        assert_eq!(parent, std::process::id());
        assert!(process.is_alive());
        let started = wall_clock(Path::new("/proc"), process.key.started).unwrap();
        assert!(started.elapsed().unwrap_or_default() < Duration::from_secs(30));
        child.kill().unwrap();
        // Before and after the parent has waited for it.
        while process.is_alive() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!process.is_alive() && process.words("environ") == [""]);
    }
}
