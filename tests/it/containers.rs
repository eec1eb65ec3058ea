//! One mount, many containers: all kinds read it, also across a crash, and none can do more than read.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use tempfile::TempDir;

use crate::harness::portage::{Emerge, Nginx, binhost, entries, test_environment};
use crate::harness::{Act, Mounted, Options, Origin, Package, can_mount, eventually, have};

/// How a container is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `unshare -Urm`: all is shared but what is mounted.
    Unshare,
    Bubblewrap,
    Nspawn,
    Podman,
    /// The container's root is somebody else outside.
    PodmanMapped,
}

const KINDS: [Kind; 5] = [Kind::Unshare, Kind::Bubblewrap, Kind::Nspawn, Kind::Podman, Kind::PodmanMapped];

/// A place for containers, with a root file system for those that bring none; cleared when dropped.
pub(crate) struct Host {
    place: TempDir,
    rootfs: PathBuf,
    /// What podman's containers may write to.
    pub(crate) writable: Option<PathBuf>,
}

impl Host {
    /// `None`: skipped, loudly.
    pub(crate) fn new(suite: &str) -> Option<Self> {
        let programs = ["podman", "runc", "bwrap", "systemd-nspawn", "unshare"];
        let there = |program: &&str| Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
        let lacking: Vec<&str> = programs.into_iter().filter(|program| !there(program)).collect();
        if !can_mount() || !have(lacking.is_empty(), &lacking.join(", ")) {
            return None;
        }
        let rootfs = test_environment()?.join(suite).join("rootfs");
        let ready = have(rootfs.with_file_name("stamp").exists(), "the root file system of tests/systemd/prepare.sh");
        let place = TempDir::with_prefix("binhostfs-it.").unwrap();
        fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
        ready.then_some(Self { place, rootfs, writable: None })
    }

    /// One that no other machine has.
    fn name(&self) -> String {
        self.place.path().file_name().unwrap().to_str().unwrap().to_owned()
    }

    fn podman(&self) -> Command {
        let mut podman = Command::new("podman");
        for (option, name) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            podman.arg(option).arg(self.place.path().join(name));
        }
        podman.args(["--runtime", "runc", "--cgroup-manager", "cgroupfs"]);
        podman
    }

    /// A command in a container that has each of `binds` where the host has it.
    fn command(&self, kind: Kind, binds: &[&Path], words: &[&str]) -> Command {
        self.command_with(kind, &[], binds, words)
    }

    /// The same with `options` of podman's, or whichever it is.
    pub(crate) fn command_with(&self, kind: Kind, options: &[&str], binds: &[&Path], words: &[&str]) -> Command {
        let mut command = match kind {
            Kind::Unshare => Command::new("unshare"),
            Kind::Bubblewrap => Command::new("bwrap"),
            Kind::Nspawn => Command::new("systemd-nspawn"),
            Kind::Podman | Kind::PodmanMapped => self.podman(),
        };
        match kind {
            Kind::Unshare => command.arg("-Urm"),
            Kind::Bubblewrap => command.args([
                "--unshare-all",
                "--die-with-parent",
                "--ro-bind",
                "/",
                "/",
                "--dev",
                "/dev",
                "--proc",
                "/proc",
            ]),
            Kind::Nspawn => command
                .args(["-q", "--register=no", "--keep-unit", "--volatile=overlay", "--pipe"])
                .args(["-M", &self.name(), "-D"])
                .arg(&self.rootfs),
            Kind::Podman | Kind::PodmanMapped => command.args([
                "run",
                "--rm",
                "--interactive",
                "--network",
                "none",
                "--log-driver",
                "none",
                "--ulimit",
                "nofile=20000:20000",
                "--ulimit",
                "nproc=32768:32768",
            ]),
        };
        if kind == Kind::PodmanMapped {
            command.args(["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"]);
        }
        command.args(options);
        for path in binds {
            let mode = if self.writable.as_deref() == Some(path) { "rw" } else { "ro" };
            let path = path.display();
            match kind {
                Kind::Unshare => &mut command,
                Kind::Bubblewrap => command.args(["--ro-bind", &path.to_string(), &path.to_string()]),
                Kind::Nspawn => command.arg(format!("--bind-ro={path}")),
                Kind::Podman | Kind::PodmanMapped => command.arg("-v").arg(format!("{path}:{path}:{mode},rslave")),
            };
        }
        match kind {
            Kind::Podman | Kind::PodmanMapped => command.arg("--rootfs").arg(format!("{}:O", self.rootfs.display())),
            Kind::Unshare | Kind::Nspawn => command.arg("--"),
            Kind::Bubblewrap => &mut command,
        };
        command.args(words);
        command
    }

    fn run(&self, kind: Kind, binds: &[&Path], script: &str) -> Output {
        self.command(kind, binds, &["sh", "-c", script]).stdin(Stdio::null()).output().unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // nspawn itself removes it only where /run is a tmpfs.
        let _ = fs::remove_dir(Path::new("/run/systemd/nspawn/propagate").join(self.name()));
        let _ = self.podman().args(["rm", "--all", "--force"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        for _ in 0..8 {
            let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let own =
                |line: &&str| line.split(' ').nth(4).is_some_and(|path| Path::new(path).starts_with(self.place.path()));
            let Some(path) = table.lines().rev().find(own).and_then(|line| line.split(' ').nth(4)) else { return };
            let _ = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// Reads one file in two halves with a pause between them, then another one.
struct Reader {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Reader {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    /// Waits until it has opened the file.
    #[track_caller]
    fn opened(mut self) -> Self {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line, "open\n");
        self
    }

    fn finish(&mut self) -> Vec<u8> {
        writeln!(self.input).unwrap();
        let mut bytes = Vec::new();
        self.output.read_to_end(&mut bytes).unwrap();
        assert!(self.child.wait().unwrap().success());
        bytes
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn mounted(packages: &[Package], passthrough: &str) -> (Origin, Mounted) {
    let origin = Origin::with(packages);
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    // The way there is everybody's.
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let options = Options::new(origin.url()).with(["--supervise", "--passthrough", passthrough]);
    (origin, options.mount_in(place))
}

/// The daemon, not the process that starts it again.
fn kill(mounted: &Mounted) {
    let pid = mounted.status()["pid"].as_u64().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn containers_of_all_kinds_read_on_when_the_daemon_is_killed() {
    let packages = [Package::new("one-1", 2 << 20), Package::new("two-1", 500_000)];
    let Some(host) = Host::new("systemd") else { return };
    for passthrough in ["auto", "off"] {
        let (origin, mounted) = mounted(&packages, passthrough);
        let [one, two] = [0, 1].map(|at| mounted.path(&packages[at].path));
        let script =
            format!("exec 3< {} && echo open && read -r line && cat <&3 && cat {}", one.display(), two.display());
        let mountpoint = mounted.mountpoint();
        let start = |kind| Reader::start(host.command(kind, &[&mountpoint], &["sh", "-c", &script])).opened();
        let readers = KINDS.map(start);
        kill(&mounted);
        let expected = [&*packages[0].bytes, &packages[1].bytes].concat();
        for (mut reader, kind) in readers.into_iter().zip(KINDS) {
            assert!(reader.finish() == expected, "{kind:?}");
        }
        assert_eq!(origin.package_requests(), 2, "each is fetched once for all");
        eventually(30, "the next daemon answers", || mounted.control().exists());
    }
}

#[test]
fn three_podman_containers_read_and_one_waits_while_the_daemon_is_killed() {
    let packages = [Package::new("one-1", 2 << 20), Package::new("two-1", 1 << 20)];
    let [one, two] = &packages;
    let Some(host) = Host::new("systemd") else { return };
    for passthrough in ["auto", "off"] {
        let (origin, mounted) = mounted(&packages, passthrough);
        origin.script(&two.path, [Act::StallAt(5000)]);
        let mountpoint = mounted.mountpoint();
        let start = |kind, package: &Package| {
            let file = mounted.path(&package.path);
            let script = format!("exec 3< {} && echo open && read -r line && cat <&3", file.display());
            Reader::start(host.command(kind, &[&mountpoint], &["sh", "-c", &script]))
        };
        let kinds = [Kind::Podman, Kind::Podman, Kind::PodmanMapped];
        let readers = kinds.map(|kind| start(kind, one)).map(Reader::opened);
        let waiting = start(Kind::Podman, two);
        origin.await_requests(&two.path, 1);
        origin.script(&two.path, []);
        kill(&mounted);
        for mut reader in readers {
            assert!(reader.finish() == one.bytes);
        }
        assert!(waiting.opened().finish() == two.bytes);
        assert_eq!(origin.package_requests(), 3, "only what was under way is asked for again");
        eventually(30, "the next daemon answers", || mounted.control().exists());
    }
}

#[test]
fn root_of_a_container_reads_and_nothing_else() {
    let packages = [Package::new("one-1", 100_000)];
    let Some(host) = Host::new("systemd") else { return };
    let (_origin, mounted) = mounted(&packages, "auto");
    assert!(fs::read(mounted.path(&packages[0].path)).unwrap() == packages[0].bytes);
    mounted.settled();
    let mountpoint = mounted.mountpoint();
    let file = mounted.path(&packages[0].path);
    let [mount, package] = [&mountpoint, &file].map(|path| path.display().to_string());
    for kind in [Kind::Nspawn, Kind::Podman, Kind::PodmanMapped, Kind::Bubblewrap] {
        for attempt in [
            format!("echo x > {package}"),
            format!("echo x > {mount}/new"),
            format!("rm {package}"),
            format!("mkdir {mount}/new"),
            format!("mv {package} {package}.old"),
        ] {
            let output = host.run(kind, &[&mountpoint], &attempt);
            assert!(!output.status.success(), "{kind:?}: {attempt}");
        }
        let read = host.run(kind, &[&mountpoint], &format!("cat {package}"));
        assert!(read.status.success() && read.stdout == packages[0].bytes, "{kind:?}: {read:?}");
    }
    for kind in [Kind::Nspawn, Kind::Podman, Kind::PodmanMapped] {
        let nothing = format!("test -e {} || test -e {}", mounted.cache().display(), mounted.control().display());
        assert!(!host.run(kind, &[&mountpoint], &nothing).status.success(), "{kind:?}");
    }
    // Even where all of it is bound by mistake, it is another user's.
    let place = mounted.place();
    let (body, cache) = (mounted.blobs().remove(0).display().to_string(), mounted.cache().display().to_string());
    for attempt in [format!("cat {body}"), format!("ls {cache}/v1"), format!("echo x > {cache}/x")] {
        let output = host.run(Kind::PodmanMapped, &[place], &attempt);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && (error.contains("denied") || error.contains("Read-only")), "{error}");
    }
    let program = crate::harness::binary();
    let status = format!("{program} status --control {}", mounted.control().display());
    let output = host.run(Kind::PodmanMapped, &[place, Path::new(program)], &status);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && error.contains("may only be used by"), "{output:?}");
}

/// The test environment, to be used in a container: seen elsewhere than where it is written to, and with another Python.
pub(crate) struct Environment {
    copy: TempDir,
    scripts: PathBuf,
    /// Words of a shell that make the environment where `copy` and the scripts are bound.
    pub(crate) script: String,
}

impl Environment {
    /// Directories that have to be bound at their own paths.
    pub(crate) fn binds(&self) -> [&Path; 2] {
        [self.copy.path(), &self.scripts]
    }

    pub(crate) fn new() -> Self {
        let environment = test_environment().unwrap();
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/portage");
        let modules = fs::read_dir(environment.join("venv/lib")).unwrap();
        let modules = modules.map(|entry| entry.unwrap().path().join("site-packages"));
        let modules = modules.filter(|path| path.join("portage").exists()).last().unwrap();
        let text = fs::read_to_string(environment.join("env/env.sh")).unwrap();
        let made_in = Path::new(text.split('"').nth(1).unwrap()).parent().unwrap();
        let copy = TempDir::with_prefix("binhostfs-it.").unwrap();
        let mut copying = Command::new("cp");
        copying.arg("-a").arg(environment.join("venv")).arg(copy.path());
        assert!(copying.status().unwrap().success());
        // What other tests write there meanwhile comes and goes.
        let passing = ["tmp", "log"].map(|name| environment.join("env").join(name));
        let own = copy.path().join("env");
        passing.iter().for_each(|path| fs::create_dir_all(own.join(path.file_name().unwrap())).unwrap());
        let lasting = fs::read_dir(environment.join("env")).unwrap().map(|entry| entry.unwrap().path());
        let lasting = lasting.filter(|path| !passing.contains(path));
        assert!(Command::new("cp").arg("-a").args(lasting).arg(&own).status().unwrap().success());
        let script = format!(
            "set -e; mkdir -p {made_in}/venv/bin {made_in}/venv/lib; cp -a {copy}/env {made_in}/; V={made_in}/venv
             echo 'home = /usr/bin' > $V/pyvenv.cfg; ln -s $(command -v python3) $V/bin/python
             ln -s {copy}/venv/etc {copy}/venv/share $V/; ln -s {copy}/venv/lib/portage $V/lib/
             ln -s {modules} $V/lib/$(python3 -c 'import sys; print(\"python%d.%d\" % sys.version_info[:2])')
             cp {copy}/venv/bin/emerge $V/bin/; export BASE={made_in}/env",
            copy = copy.path().display(),
            made_in = made_in.display(),
            modules = copy.path().join(modules.strip_prefix(&environment).unwrap()).parent().unwrap().display(),
        );
        Self { copy, scripts, script }
    }

    /// Runs a shell's words after `emerge-from.sh`, with what there is before them, and then more of them, in a podman container.
    fn emerge(&self, host: &Host, pkgdir: &Path, before: &str, words: &str, then: &str) -> Child {
        let (from, pkgdir_shown) = (self.scripts.join("emerge-from.sh"), pkgdir.display());
        let script =
            format!("{}\n{before} {} {pkgdir_shown} /var/tmp/root {words}\n{then}", self.script, from.display());
        let binds = [pkgdir, self.copy.path(), &self.scripts];
        let mut command = host.command(Kind::Podman, &binds, &["bash", "-c", &script]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

/// What a container says that ends well: both streams, and the last line of the first one.
#[track_caller]
fn said(child: Child) -> (String, String) {
    let output = child.wait_with_output().unwrap();
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
    assert!(output.status.success(), "{text}");
    let last = String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned();
    (text, last)
}

/// A daemon that is reached by everybody.
fn shared(nginx: &Nginx) -> Mounted {
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    Options::new(nginx.url()).with(["--supervise"]).mount_in(place)
}

/// Debian 12 and 13, with the glibc of each, installing at once from one mount.
#[test]
fn the_real_emerge_in_containers_with_different_libcs() {
    let Some(source) = binhost("gpkg-multi") else { return };
    let (Some(older), Some(newer)) = (Host::new("systemd"), Host::new("systemd-trixie")) else { return };
    let (nginx, environment) = (Nginx::serve(&source), Environment::new());
    let mounted = shared(&nginx);
    let then = "sh /var/tmp/root/usr/bin/greet; ldd --version | head -n 1";
    let start = |host: &Host| environment.emerge(host, &mounted.mountpoint(), "", "app-misc/greet", then);
    let [first, second] = [start(&older), start(&newer)].map(|child| {
        let (text, last) = said(child);
        assert!(text.contains("greet-0.9"), "{text}");
        last
    });
    assert_ne!(first, second, "they have the same libc");
    let mut fetched = nginx.fetched();
    let all = fetched.len();
    fetched.dedup();
    assert_eq!(fetched.len(), all, "each package is fetched once: {fetched:?}");
}

/// Two containers and the host build at once; what each has built is listed, and all can be installed.
#[test]
fn the_real_emerge_builds_in_containers_and_on_the_host_at_once() {
    let Some(source) = binhost("gpkg-multi") else { return };
    let (Some(mut older), Some(mut newer)) = (Host::new("systemd"), Host::new("systemd-trixie")) else { return };
    let (nginx, environment) = (Nginx::serve(&source), Environment::new());
    let mounted = shared(&nginx);
    let mountpoint = mounted.mountpoint();
    let before = "FEATURES=-sandbox MODE='--buildpkgonly --nodeps'";
    let [one, other] =
        [(&mut older, "=app-misc/hello-1.0 =app-misc/usesfoo-1"), (&mut newer, "=dev-libs/libfoo-1.2.3")].map(
            |(host, atoms)| {
                host.writable = Some(mountpoint.clone());
                environment.emerge(host, &mountpoint, before, atoms, "")
            },
        );
    let built = Emerge::from(mountpoint.clone()).with("MODE", "--buildpkgonly");
    built.succeed(["--nodeps", "=sys-libs/glibc-2.40-r3", "=app-misc/many-1"]);
    said(one);
    said(other);
    let names = [
        "app-misc/hello-1.0",
        "app-misc/usesfoo-1",
        "dev-libs/libfoo-1.2.3",
        "sys-libs/glibc-2.40-r3",
        "app-misc/many-1",
    ];
    let beneath = {
        let place = mounted.into_place();
        let beneath = place.path().join("pkgdir");
        let listed = entries(&beneath.join("Packages"));
        for entry in &listed {
            let metadata = fs::metadata(beneath.join(&entry["PATH"])).unwrap();
            assert_eq!((entry["SIZE"].clone(), metadata.uid()), (metadata.len().to_string(), 0));
        }
        let mut found: Vec<String> = listed.into_iter().map(|entry| entry["CPV"].clone()).collect();
        found.sort();
        let mut wanted = names.map(str::to_owned);
        wanted.sort();
        assert_eq!(found, wanted);
        place
    };
    let atoms = names.map(|name| format!("={name}"));
    let plain = Emerge::from(beneath.path().join("pkgdir"));
    plain.succeed(["--nodeps"].into_iter().chain(atoms.iter().map(String::as_str)));
}
