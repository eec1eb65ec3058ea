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
pub(super) struct ProcessKey {
    pid: u32,
    /// Clock ticks after boot.
    started: u64,
}

/// A process, for as long as this is kept.
#[derive(Debug)]
pub(super) struct Process {
    /// /proc/PID
    directory: OwnedFd,
    key: ProcessKey,
}

/// A running emerge.
#[derive(Debug)]
pub(super) struct Emerge {
    process: Process,
    /// When it was started.
    pub(super) started: SystemTime,
    /// Directories below its root that may be its EROOT, the most likely first.
    pub(super) eroots: Vec<PathBuf>,
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

    pub(super) fn key(&self) -> ProcessKey {
        self.key
    }

    /// Whether it still runs.
    pub(super) fn is_alive(&self) -> bool {
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
    pub(super) fn find(proc: &Path, tid: u32) -> Option<Self> {
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

    pub(super) fn key(&self) -> ProcessKey {
        self.process.key
    }

    /// Its root directory, wherever that is.
    pub(super) fn root(&self) -> io::Result<OwnedFd> {
        Ok(open(&self.process.directory, Path::new("root"), OFlags::PATH | OFlags::DIRECTORY)?)
    }

    pub(super) fn into_process(self) -> Process {
        self.process
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
    let root = option("--root").or_else(|| variable("ROOT")).map_or_else(|| PathBuf::from("/"), PathBuf::from);
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
