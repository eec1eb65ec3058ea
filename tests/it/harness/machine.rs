//! A machine with a real systemd or OpenRC, on which the program and its units, or its script, are installed.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::portage::test_environment;
use super::process::ends_within;
use super::{binary, can_mount, eventually, have};

/// What is pid 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Init {
    Systemd,
    OpenRc,
}

impl Init {
    /// What of `systemd/` is bound where.
    fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Systemd => &[
                ("binhostfs.service", "/etc/systemd/system/binhostfs.service"),
                ("binhostfs@.service", "/etc/systemd/system/binhostfs@.service"),
            ],
            Self::OpenRc => &[("openrc/binhostfs.initd", "/etc/init.d/binhostfs")],
        }
    }

    /// OpenRC says to nobody that it is ready, and has a signal of its own for powering off.
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Systemd => &[],
            Self::OpenRc => &["--notify-ready=no", "--kill-signal=SIGTERM"],
        }
    }
}

/// A booted container; powered off when dropped. Nothing of it stays.
#[derive(Debug)]
pub(crate) struct Machine {
    child: Child,
    leader: Option<u32>,
    init: Init,
    place: TempDir,
}

impl Machine {
    /// Boots with `binhosts/gpkg-multi` as /srv/source and an empty /var/cache/binpkgs. `None`: skipped, loudly.
    pub(crate) fn boot() -> Option<Self> {
        Self::boot_from("systemd", Init::Systemd)
    }

    /// The same with the systemd of a newer Debian.
    pub(crate) fn boot_newer() -> Option<Self> {
        Self::boot_from("systemd-trixie", Init::Systemd)
    }

    /// The same with OpenRC, in its default runlevel.
    pub(crate) fn boot_openrc() -> Option<Self> {
        let machine = Self::boot_from("openrc", Init::OpenRc)?;
        eventually(60, "OpenRC starts what there is", || machine.run(&["rc-status", "--runlevel"]).1 == "default\n");
        Some(machine)
    }

    /// Boots with systemd and with nothing of this program. `binds`: what is bound where, read-only.
    pub(crate) fn boot_bare(binds: &[(PathBuf, &str)]) -> Option<Self> {
        let (_, rootfs) = Self::image("systemd")?;
        let binds = binds.iter().map(|(from, to)| (from.clone(), (*to).to_owned())).collect();
        Some(Self::start(&rootfs, Init::Systemd, binds))
    }

    fn boot_from(directory: &str, init: Init) -> Option<Self> {
        let (environment, rootfs) = Self::image(directory)?;
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
        let mut binds = vec![
            (binary().into(), "/usr/bin/binhostfs".to_owned()),
            (environment.join("binhosts/gpkg-multi"), "/srv/source".to_owned()),
        ];
        binds.extend(init.files().iter().map(|(file, path)| (checkout.join(file), (*path).to_owned())));
        let machine = Self::start(&rootfs, init, binds);
        fs::create_dir(machine.path("/var/cache/binpkgs")).unwrap();
        Some(machine)
    }

    /// The test environment, and a root file system that `prepare.sh` made there. `None`: skipped, loudly.
    fn image(directory: &str) -> Option<(PathBuf, PathBuf)> {
        let tools = ["systemd-nspawn", "nsenter"];
        let tools = tools.iter().all(|tool| Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_ok());
        if !can_mount() || !have(tools, "systemd-nspawn and nsenter") {
            return None;
        }
        let environment = test_environment()?;
        let rootfs = environment.join(directory).join("rootfs");
        let ready = environment.join(directory).join("stamp").exists();
        have(ready, "the root file system of tests/systemd/prepare.sh").then_some((environment, rootfs))
    }

    fn start(rootfs: &Path, init: Init, binds: Vec<(PathBuf, String)>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("binhostfs-it-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
        let place = TempDir::with_prefix("binhostfs-it.").unwrap();
        let socket = place.path().join("notify");
        let notify = UnixDatagram::bind(&socket).unwrap();
        notify.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let log = fs::File::create(place.path().join("log")).unwrap();
        // Powered off even if this process is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]).arg(checkout.join("tests/systemd/boot.sh")).arg(rootfs).arg(name);
        command.args(binds.iter().map(|(from, to)| format!("--bind-ro={}:{to}", from.display())));
        command.args(init.options());
        command.env("NOTIFY_SOCKET", &socket).stdin(Stdio::null());
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut machine = Self { child, leader: None, init, place };
        machine.await_ready(&notify);
        machine
    }

    fn await_ready(&mut self, notify: &UnixDatagram) {
        let start = Instant::now();
        let mut message = [0; 4096];
        loop {
            if let Ok(length) = notify.recv(&mut message) {
                let text = String::from_utf8_lossy(&message[..length]).into_owned();
                let leader = text.lines().find_map(|line| line.strip_prefix("X_NSPAWN_LEADER_PID="));
                self.leader = leader.map(|pid| pid.parse().unwrap()).or(self.leader);
                if text.lines().any(|line| line == "READY=1") && self.leader.is_some() {
                    return;
                }
            }
            assert!(self.child.try_wait().unwrap().is_none(), "the machine does not boot:\n{}", self.log());
            // Other machines may have to be waited for.
            assert!(start.elapsed().as_secs() < 180, "the machine does not come up:\n{}", self.log());
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
    }

    /// A path as the machine's pid 1 sees it, with every mount that it sees.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.leader.unwrap()))
    }

    /// A command in the machine, as root, beside its pid 1.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.leader.unwrap().to_string()]);
        command.args(["--mount", "--pid", "--uts", "--ipc", "--net", "--"]).args(words);
        command
    }

    /// Does something on the machine's network.
    #[allow(unsafe_code, reason = "nothing else enters a namespace")]
    pub(crate) fn on_network<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let network = fs::File::open(format!("/proc/{}/ns/net", self.leader.unwrap())).unwrap();
        let enter = || {
            // SAFETY: the descriptor is open; only this thread goes there, and those that it starts.
            assert_eq!(unsafe { libc::setns(std::os::fd::AsRawFd::as_raw_fd(&network), libc::CLONE_NEWNET) }, 0);
            act()
        };
        std::thread::scope(|scope| scope.spawn(enter).join().unwrap())
    }

    /// Lines for the service's unit, after its own.
    pub(crate) fn drop_in(&self, lines: &str) {
        let directory = self.path("/etc/systemd/system/binhostfs.service.d");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("test.conf"), format!("[Service]\n{lines}\n")).unwrap();
        self.succeed(&["systemctl", "daemon-reload"]);
    }

    /// Runs a command in the machine.
    pub(crate) fn run(&self, words: &[&str]) -> (Option<i32>, String) {
        let mut command = self.command(words);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.code(), text)
    }

    /// Runs a command that has to succeed; what it says.
    #[track_caller]
    pub(crate) fn succeed(&self, words: &[&str]) -> String {
        let (code, text) = self.run(words);
        assert_eq!(code, Some(0), "{words:?}: {text}\n{}", self.journal());
        text.trim().to_owned()
    }

    /// A property of the service.
    pub(crate) fn property(&self, name: &str) -> String {
        self.succeed(&["systemctl", "show", "--value", "--property", name, "binhostfs"])
    }

    /// What the service logged.
    pub(crate) fn journal(&self) -> String {
        if self.init == Init::OpenRc {
            return fs::read_to_string(self.path("/var/log/binhostfs.log")).unwrap_or_default();
        }
        self.run(&["journalctl", "--no-pager", "--output=cat", "--unit=binhostfs"]).1
    }

    /// Types of what pid 1 sees mounted on PKGDIR, the topmost last.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", self.leader.unwrap())).unwrap();
        let here = table.lines().filter(|line| line.split(' ').nth(4) == Some("/var/cache/binpkgs"));
        here.map(|line| line.split(" - ").nth(1).unwrap().split(' ').next().unwrap().to_owned()).collect()
    }

    fn signal(pid: u32, signal: Signal) {
        // It may have ended already.
        let _ = kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal);
    }

    fn ends_within(&mut self, seconds: u64) -> bool {
        ends_within(&mut self.child, Duration::from_secs(seconds)).is_some()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() && self.leader.is_some() {
            eprintln!("--- journal of the service\n{}---", self.journal());
        }
        // Powers off.
        Self::signal(self.child.id(), Signal::TERM);
        if !self.ends_within(30) {
            self.leader.into_iter().for_each(|leader| Self::signal(leader, Signal::KILL));
            if !self.ends_within(10) {
                Self::signal(self.child.id(), Signal::KILL);
            }
        }
    }
}
