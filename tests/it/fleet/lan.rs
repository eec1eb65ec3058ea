//! A network of the test's own: namespaces, each with one interface and one address, on one switch.
//!
//! A namespace lives as long as a process in it. That process ends with the test, also when the test is killed, and the kernel
//! then removes the interfaces.

use std::fs;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::harness::{eventually, have};

/// A process that holds a network namespace.
#[derive(Debug)]
struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up && echo && exec sleep 3600"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        // The death signal is that of this thread, and stays over execve.
        #[allow(unsafe_code, reason = "between fork and exec")]
        // SAFETY: prctl is a system call, and allocates nothing.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let mut child = command.spawn().unwrap();
        let mut line = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut line).expect("a namespace");
        Self(child)
    }

    fn file(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    fn run(&self, words: &str) {
        let status = Command::new("nsenter").arg(format!("--net={}", self.file())).args(words.split(' ')).status();
        assert!(status.unwrap().success(), "{words}");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The switch, and the machines on it. Machine 0 has the address 10.83.0.1, and so on.
#[derive(Debug)]
pub(super) struct Lan {
    machines: Vec<Namespace>,
    _switch: Namespace,
}

impl Lan {
    /// So many machines. `None`: skipped, loudly.
    pub(super) fn new(machines: usize) -> Option<Self> {
        let tools = ["unshare", "nsenter", "ip"].iter().all(|tool| Command::new(tool).arg("-V").output().is_ok());
        let root = rustix::process::geteuid().is_root();
        have(tools && root, "network namespaces need root, unshare, nsenter and ip").then(|| Self::wire(machines))
    }

    fn wire(count: usize) -> Self {
        let switch = Namespace::new();
        switch.run("ip link add switch type bridge");
        switch.run("ip link set switch up");
        let machines: Vec<Namespace> = (0..count).map(|_| Namespace::new()).collect();
        for (at, machine) in machines.iter().enumerate() {
            // Both ends are made where they belong, so that no name is in the namespace of the test.
            switch.run(&format!("ip link add port{at} type veth peer name eth0 netns {}", machine.0.id()));
            switch.run(&format!("ip link set port{at} master switch up"));
            machine.run(&format!("ip address add {}/24 dev eth0", Self::address(at)));
            machine.run("ip link set eth0 up");
        }
        Self { machines, _switch: switch }
    }

    pub(super) fn address(at: usize) -> String {
        format!("10.83.0.{}", at + 1)
    }

    /// Words before a program, which run it on this machine.
    pub(super) fn on(&self, at: usize) -> [String; 2] {
        ["nsenter".to_owned(), format!("--net={}", self.machines[at].file())]
    }

    /// Runs a command on this machine. `true`: it succeeded.
    pub(super) fn run(&self, at: usize, words: &[&str]) -> bool {
        let [enter, namespace] = self.on(at);
        Command::new(enter)
            .arg(namespace)
            .args(words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    }
}

/// A real nginx on one machine of a network; stopped when dropped. It counts requests and bytes.
#[derive(Debug)]
pub(super) struct Server {
    prefix: TempDir,
    child: Child,
    address: String,
}

impl Server {
    /// Serves a directory on port 80 of machine `at`. Paths that match `slow` get 30 KB a second.
    pub(super) fn start(lan: &Lan, at: usize, directory: &Path, slow: Option<&str>) -> Self {
        let (prefix, address) = (TempDir::with_prefix("binhostfs-it.").unwrap(), Lan::address(at));
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {kind};\n"))
            .concat();
        let slow = slow.map(|slow| format!("location ~ \"{slow}\" {{ limit_rate 30000; }}\n")).unwrap_or_default();
        let configuration = format!(
            "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n{temporary}\
             log_format count '$uri $status $body_bytes_sent';\naccess_log access.log count;\n\
             server {{\nlisten {address}:80;\nroot {};\n{slow}}}\n}}\n",
            directory.display()
        );
        fs::write(prefix.path().join("nginx.conf"), configuration).unwrap();
        let [enter, namespace] = lan.on(at);
        let mut command = Command::new(enter);
        command.arg(namespace).arg("nginx").arg("-p").arg(prefix.path()).args(["-e", "stderr", "-c", "nginx.conf"]);
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        let pid = prefix.path().join("nginx.pid");
        eventually(20, "nginx listens", || pid.exists());
        Self { prefix, child, address }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests for packages, and bytes sent to them. Ended requests only, in the log's order.
    pub(super) fn sent(&self) -> Vec<(String, u64)> {
        let log = fs::read_to_string(self.prefix.path().join("access.log")).unwrap_or_default();
        let lines = log.lines().filter_map(|line| {
            let mut words = line.split(' ');
            let (path, _, bytes) = (words.next()?, words.next()?, words.next()?);
            (!path.contains("Packages")).then(|| (path.trim_start_matches('/').to_owned(), bytes.parse().unwrap()))
        });
        lines.collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
