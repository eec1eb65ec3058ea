//! A daemon of a test's own, from start to end.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// The program under test: what was built with the tests, or what BINHOSTFS names.
pub(crate) fn binary() -> &'static str {
    static BINARY: OnceLock<String> = OnceLock::new();
    BINARY.get_or_init(|| std::env::var("BINHOSTFS").unwrap_or_else(|_| env!("CARGO_BIN_EXE_binhostfs").to_owned()))
}

/// Waits for a process to end, but not for longer than `patience`; how it did. The kernel reports the end.
pub(crate) fn ends_within(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    if let Some(status) = child.try_wait().unwrap() {
        return Some(status);
    }
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).unwrap();
    let patience = Timespec::try_from(patience).unwrap();
    // A signal may end the wait early, which no test here sends to itself.
    poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&patience)).unwrap();
    child.try_wait().unwrap()
}

/// Where a daemon's binhosts stand.
#[derive(Debug, Clone)]
enum Binhosts {
    Url(String),
    File(PathBuf),
    PortageHere,
    Portage(PathBuf),
}

/// How to start a daemon.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    binhosts: Binhosts,
    more: Vec<String>,
    environment: Vec<(String, String)>,
    wrapper: Vec<String>,
    /// Where it serves other machines without a mount.
    unmounted: Option<String>,
}

impl Options {
    fn of(binhosts: Binhosts) -> Self {
        Self { binhosts, more: Vec::new(), environment: Vec::new(), wrapper: Vec::new(), unmounted: None }
    }

    pub(crate) fn new(url: impl Into<String>) -> Self {
        Self::of(Binhosts::Url(url.into()))
    }

    /// The binhosts stand in a `binhostfs.toml`.
    pub(crate) fn configured(file: &Path) -> Self {
        Self::of(Binhosts::File(file.to_owned()))
    }

    /// With Portage's configuration below the place in which it is mounted, on `pkgdir` there.
    pub(crate) fn of_portage_here() -> Self {
        Self::of(Binhosts::PortageHere)
    }

    /// The binhosts, their signatures and the mountpoint stand in Portage's files below `root`.
    pub(crate) fn of_portage(root: &Path) -> Self {
        Self::of(Binhosts::Portage(root.to_owned()))
    }

    /// With `binhostfs serve` on a free port of loopback, in place of `mount`.
    pub(crate) fn unmounted(self) -> Self {
        self.unmounted_on("127.0.0.1:0")
    }

    /// The same at this address and port.
    pub(crate) fn unmounted_on(mut self, address: &str) -> Self {
        self.unmounted = Some(address.to_owned());
        self
    }

    /// More options of `binhostfs mount`.
    pub(crate) fn with<'a>(mut self, more: impl IntoIterator<Item = &'a str>) -> Self {
        self.more.extend(more.into_iter().map(str::to_owned));
        self
    }

    /// A variable of the daemon's environment.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// What runs the daemon in its own process: words before the program.
    pub(crate) fn run_by<'a>(mut self, wrapper: impl IntoIterator<Item = &'a str>) -> Self {
        self.wrapper = wrapper.into_iter().map(str::to_owned).collect();
        self
    }

    /// Mounts in directories of its own.
    pub(crate) fn mount(self) -> Mounted {
        self.mount_in(TempDir::with_prefix("binhostfs-it.").unwrap())
    }

    /// Mounts in `place`, with the cache that a daemon before may have left there.
    pub(crate) fn mount_in(self, place: TempDir) -> Mounted {
        let mut mounted = self.unstarted_in(place);
        mounted.start();
        mounted
    }

    /// A daemon that is not there yet.
    pub(crate) fn unstarted_in(self, place: TempDir) -> Mounted {
        Mounted { place: Some(place), child: None, options: self, notify: None, told: String::new() }
    }
}

/// A running daemon; stopped and unmounted when dropped, also when the test fails.
#[derive(Debug)]
pub(crate) struct Mounted {
    place: Option<TempDir>,
    child: Option<Child>,
    options: Options,
    notify: Option<UnixDatagram>,
    told: String,
}

/// All files in the `blobs` of a cache.
pub(crate) fn blobs_in(cache: &Path) -> Vec<PathBuf> {
    let below = |directory| fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path());
    below(cache.join("v1/blobs")).flat_map(below).collect()
}

/// Whether the body of a blob has the digest that its path has. True for what is no blob of a package.
pub(crate) fn hashes_to_its_name(body: &Path) -> bool {
    let (directory, file) = (body.parent().unwrap().file_name().unwrap(), body.file_name().unwrap());
    let name = format!("{}{}", directory.to_str().unwrap(), file.to_str().unwrap());
    let digest: String = Sha256::digest(fs::read(body).unwrap()).iter().map(|b| format!("{b:02x}")).collect();
    file.len() != 62 || name == digest
}

impl Mounted {
    /// The directory with everything else in it.
    pub(crate) fn place(&self) -> &Path {
        self.place.as_ref().unwrap().path()
    }

    pub(crate) fn mountpoint(&self) -> PathBuf {
        self.place().join("pkgdir")
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.place().join("control.sock")
    }

    /// `--cache-dir`.
    pub(crate) fn cache(&self) -> PathBuf {
        self.place().join("cache")
    }

    /// A path below the mountpoint.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.mountpoint().join(path)
    }

    /// Process id of the daemon.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// What the daemon wrote to standard error so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.place().join("log")).unwrap_or_default()
    }

    fn command(&self) -> Command {
        let served = self.options.unmounted.as_deref();
        let does = served.map_or(vec!["mount"], |address| vec!["serve", address]);
        let wrapper = self.options.wrapper.iter().map(String::as_str);
        let mut words = wrapper.chain([binary()]).chain(does.iter().copied());
        let mut command = Command::new(words.next().unwrap());
        command.args(words);
        let mountpoint = served.is_none().then(|| self.mountpoint());
        match &self.options.binhosts {
            Binhosts::Url(url) => command.arg("--binhost").arg(url).args(mountpoint),
            Binhosts::File(file) => command.arg("--config").arg(file).args(mountpoint),
            Binhosts::PortageHere => command.env("PORTAGE_CONFIGROOT", self.place()),
            Binhosts::Portage(root) => command.arg("--portage-root").arg(root),
        };
        let unsigned = !self.options.more.iter().any(|option| option == "--keyring");
        if unsigned && matches!(self.options.binhosts, Binhosts::Url(_) | Binhosts::File(_)) {
            command.args(["--verify-signature", "false"]);
        }
        command.arg("--cache-dir").arg(self.cache()).arg("--control").arg(self.control());
        // Tests read one package after the other.
        if served.is_none() && !self.options.more.iter().any(|option| option == "--bulk-read-limit") {
            command.args(["--bulk-read-limit", "0"]);
        }
        command.args(&self.options.more);
        let log = fs::File::options().create(true).append(true).open(self.place().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        for (name, value) in &self.options.environment {
            command.env(name, value);
        }
        command
    }

    /// Starts the daemon and waits until it says that it is ready.
    pub(crate) fn start(&mut self) {
        assert!(self.try_start(), "the daemon did not start:\n{}", self.log());
    }

    /// Starts the daemon; `false`: it ended before it was ready.
    pub(crate) fn try_start(&mut self) -> bool {
        self.spawn();
        let start = Instant::now();
        while !self.told().contains("READY=1") {
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                self.child = None;
                return false;
            }
            assert!(start.elapsed().as_secs() < 60, "neither ready nor ended:\n{}", self.log());
        }
        true
    }

    /// Starts the daemon and waits for nothing.
    pub(crate) fn spawn(&mut self) {
        fs::create_dir_all(self.mountpoint()).ok();
        let socket = self.place().join("notify");
        fs::remove_file(&socket).ok();
        let notify = UnixDatagram::bind(&socket).unwrap();
        notify.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        self.told = String::new();
        self.notify = Some(notify);
        self.child = Some(self.command().env("NOTIFY_SOCKET", &socket).spawn().unwrap());
    }

    /// What the daemon told systemd since it was started, as far as it came within a moment.
    pub(crate) fn told(&mut self) -> String {
        let mut message = [0; 4096];
        if let Some(Ok(length)) = self.notify.as_ref().map(|notify| notify.recv(&mut message)) {
            self.told.push_str(&String::from_utf8_lossy(&message[..length]));
            self.told.push('\n');
        }
        self.told.clone()
    }

    /// Reads what the daemon tells systemd: a socket that nobody reads gets full.
    pub(crate) fn listen(&self) {
        let mut message = [0; 4096];
        while self.notify.as_ref().is_some_and(|notify| notify.recv(&mut message).is_ok()) {}
    }

    /// Another command of the program, for this daemon.
    pub(crate) fn output_of(&self, words: &[&str]) -> std::process::Output {
        Command::new(binary()).args(words).arg("--control").arg(self.control()).output().unwrap()
    }

    /// The same, which has to end well; what it says.
    pub(crate) fn runs(&self, words: &[&str]) -> String {
        let output = self.output_of(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// `binhostfs status`.
    pub(crate) fn status_text(&self) -> String {
        let output = Command::new(binary()).args(["status", "--control"]).arg(self.control()).output().unwrap();
        assert!(output.status.success(), "status: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// `binhostfs status --json`.
    pub(crate) fn status(&self) -> serde_json::Value {
        let output =
            Command::new(binary()).args(["status", "--json", "--control"]).arg(self.control()).output().unwrap();
        assert!(output.status.success(), "status: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// One of the daemon's counters.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.status()["metrics"][name].as_u64().unwrap_or_else(|| panic!("no counter {name}"))
    }

    /// Why a package could not be had, as `status` says.
    pub(crate) fn reason(&self, path: &str) -> Option<String> {
        let status = self.status();
        let failures = status["failures"].as_array().unwrap();
        failures.iter().find(|f| f["path"] == path).map(|f| f["reason"].as_str().unwrap().to_owned())
    }

    /// Waits until nothing is being downloaded or made durable any more: a package is readable a moment before that.
    pub(crate) fn settled(&self) {
        super::eventually(60, "downloads end", || self.status()["downloads"].as_array().unwrap().is_empty());
    }

    /// All files in the cache's `blobs`, once everything has settled.
    pub(crate) fn blobs(&self) -> Vec<PathBuf> {
        if self.child.is_some() {
            self.settled();
        }
        blobs_in(&self.cache())
    }

    /// Whether every body in the cache hashes to its name.
    pub(crate) fn is_sound(&self) -> bool {
        self.blobs().iter().all(|body| hashes_to_its_name(body))
    }

    /// Names in the cache's `incoming`: downloads that are not finished, or were left behind.
    pub(crate) fn incoming(&self) -> Vec<std::ffi::OsString> {
        fs::read_dir(self.cache().join("v1/incoming")).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    /// Paths of all packages in sight, relative to the mountpoint and sorted.
    pub(crate) fn listing(&self) -> Vec<String> {
        let (mut files, mut directories) = (Vec::new(), vec![self.mountpoint()]);
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
                match entry.file_type().unwrap().is_dir() {
                    true => directories.push(entry.path()),
                    false => files.push(entry.path().strip_prefix(self.mountpoint()).unwrap().display().to_string()),
                }
            }
        }
        files.retain(|file| file != "Packages");
        files.sort();
        files
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
            // It may have ended already.
            let _ = kill_process(pid, signal);
        }
    }

    /// SIGTERM; its exit code. Fails when it does not end.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits for the daemon to end; its exit code. Fails when it does not end.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.child.is_some().then(|| self.ended().code()).flatten()
    }

    /// Waits for the daemon to end; how it did. Fails when it does not end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let status = ends_within(self.child.as_mut().unwrap(), Duration::from_secs(20));
        let status = status.unwrap_or_else(|| panic!("the daemon does not stop:\n{}", self.log()));
        self.child = None;
        status
    }

    /// Whether the process that was started is there no more.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    /// SIGKILL, without unmounting: what a crash leaves.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        let Some(mut child) = self.child.take() else { return };
        if ends_within(&mut child, Duration::from_secs(30)).is_none() {
            // The kernel waits for it to answer while it waits for the kernel; this ends both.
            let _ = rustix::mount::unmount(self.mountpoint(), rustix::mount::UnmountFlags::FORCE);
            panic!("the killed daemon does not end: it was telling the kernel what to forget");
        }
        // Descriptors that it gave to systemd, and nobody has read, would keep the mount alive, and whoever reads it waiting.
        self.notify = None;
    }

    /// Whether something is mounted on the mountpoint.
    pub(crate) fn is_mounted(&self) -> bool {
        let wanted = self.mountpoint().canonicalize().unwrap_or(self.mountpoint());
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().any(|line| line.split(' ').nth(4) == wanted.to_str())
    }

    /// Stops without ceremony and gives the directories back, for a daemon to come.
    pub(crate) fn into_place(mut self) -> TempDir {
        self.end();
        self.place.take().unwrap()
    }

    fn end(&mut self) {
        self.signal(Signal::TERM);
        if let Some(mut child) = self.child.take()
            && ends_within(&mut child, Duration::from_secs(20)).is_none()
        {
            let _ = child.kill();
            let _ = child.wait();
        }
        if self.place.is_some() && self.is_mounted() {
            let _ = rustix::mount::unmount(self.mountpoint(), rustix::mount::UnmountFlags::DETACH);
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.end();
        if let Some(place) = self.place.take() {
            if std::thread::panicking() {
                eprintln!(
                    "--- log of the daemon\n{}---",
                    fs::read_to_string(place.path().join("log")).unwrap_or_default()
                );
            }
            // Never across a mount: tempfile would remove what is below.
            let mounted = fs::read_to_string("/proc/self/mountinfo").unwrap().contains(place.path().to_str().unwrap());
            if mounted {
                eprintln!("left in place, something is still mounted below: {}", place.keep().display());
            }
        }
    }
}

/// A daemon that is stopped, until this is dropped.
pub(crate) struct Stopped<'a>(&'a Mounted);

impl<'a> Stopped<'a> {
    pub(crate) fn new(mounted: &'a Mounted) -> Self {
        mounted.signal(Signal::STOP);
        Self(mounted)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::CONT);
    }
}
