//! From start to stop: what is refused and how, what is cleared away, what is left.

use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::harness::{Act, Mounted, Options, Origin, Package, binary, can_mount, eventually};

fn one_package() -> [Package; 1] {
    [Package::new("one-1", 100_000)]
}

fn mounted() -> (Origin, Mounted, Package) {
    let packages = one_package();
    let origin = Origin::with(&packages);
    let mounted = Options::new(origin.url()).mount();
    let [package] = packages;
    (origin, mounted, package)
}

/// Directories for a daemon that is to refuse.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = TempDir::with_prefix("binhostfs-it.").unwrap();
        fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(place.path().join("pkgdir")).unwrap();
        Self(place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Arguments with which it would start.
    fn arguments(&self) -> Vec<String> {
        let path = |name| self.path(name).to_str().unwrap().to_owned();
        let fixed = ["mount", "--verify-signature", "false", "--binhost", "http://127.0.0.1:9"].map(str::to_owned);
        let places = ["--cache-dir".to_owned(), path("cache"), "--control".to_owned(), path("control.sock")];
        fixed.into_iter().chain(places).chain([path("pkgdir")]).collect()
    }

    /// The same, with `value` after `option`; without the option where there is no value.
    fn arguments_with(&self, option: &str, value: Option<&str>) -> Vec<String> {
        let mut arguments = self.arguments();
        let at = arguments.iter().position(|argument| argument == option).unwrap();
        let rest = arguments.split_off(at + 2);
        arguments.truncate(at);
        arguments.extend(value.into_iter().flat_map(|value| [option.to_owned(), value.to_owned()]));
        arguments.into_iter().chain(rest).collect()
    }

    fn is_mounted(&self) -> bool {
        fs::read_to_string("/proc/self/mountinfo").unwrap().contains(self.path("pkgdir").to_str().unwrap())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for _ in 0..4 {
            if !self.is_mounted() {
                return;
            }
            let _ = rustix::mount::unmount(self.path("pkgdir"), rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// Runs a program that is expected to end by itself, soon.
fn run(wrapper: &[&str], arguments: &[String]) -> Output {
    run_program(Path::new(binary()), wrapper, arguments)
}

fn run_program(program: &Path, wrapper: &[&str], arguments: &[String]) -> Output {
    let words: Vec<&str> = wrapper.iter().copied().chain(["timeout", "-k1", "20", program.to_str().unwrap()]).collect();
    let output = Command::new(words[0]).args(&words[1..]).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert_ne!(output.status.code(), Some(124), "{arguments:?} did not end");
    output
}

/// It ends with `code`, says `what` (every part of it) on standard error and nothing on standard output.
fn refused(output: &Output, code: i32, what: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{error}");
    for part in what {
        assert!(error.contains(part), "{part:?} is not in:\n{error}");
    }
    assert!(!error.contains("panicked"), "{error}");
}

#[test]
fn each_signal_to_stop_unmounts_and_is_no_failure() {
    if !can_mount() {
        return;
    }
    let (_origin, mut mounted, package) = mounted();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes);
        mounted.signal(signal);
        assert_eq!(mounted.wait(), Some(0));
        assert!(!mounted.is_mounted() && !mounted.control().exists());
        mounted.start();
    }
    assert_eq!(mounted.stop(), Some(0));
    assert!(!mounted.log().contains("panicked") && !mounted.log().contains("WARN"), "{}", mounted.log());
}

#[test]
fn systemd_is_told() {
    if !can_mount() {
        return;
    }
    let (_origin, mut mounted, _) = mounted();
    let told = mounted.told();
    assert!(told.contains("READY=1") && told.contains(": 1 package, generation 1, index confirmed"), "{told}");
    assert!(!told.contains("STOPPING=1"));
    assert_eq!(mounted.stop(), Some(0));
    assert!(mounted.told().contains("STOPPING=1"));
}

#[test]
fn stopping_waits_for_nobody() {
    if !can_mount() {
        return;
    }
    let (origin, mut mounted, package) = mounted();
    origin.script(&package.path, [Act::StallAt(1000)]);
    let path = mounted.path(&package.path);
    let reader = std::thread::spawn(move || fs::read(path));
    origin.await_requests(&package.path, 1);
    let start = Instant::now();
    assert_eq!(mounted.stop(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert!(reader.join().unwrap().is_err());
    assert!(!mounted.is_mounted());
    assert!(!mounted.log().contains("panicked"), "{}", mounted.log());
}

#[test]
fn a_file_that_is_open_does_not_keep_the_mount() {
    if !can_mount() {
        return;
    }
    let (_origin, mut mounted, package) = mounted();
    let mut open = File::open(mounted.path(&package.path)).unwrap();
    assert_eq!(mounted.stop(), Some(0));
    assert!(!mounted.is_mounted());
    // With passthrough the kernel goes on reading; without, it is an error. Never wrong bytes, and never a hang.
    let mut bytes = Vec::new();
    if open.read_to_end(&mut bytes).is_ok() {
        assert!(bytes == package.bytes);
    }
    mounted.start();
    assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes);
}

#[test]
fn a_stop_while_the_first_index_is_awaited_is_obeyed() {
    if !can_mount() {
        return;
    }
    let origin = Origin::start();
    origin.script("Packages.gz", [Act::Silence]);
    origin.script("Packages", [Act::Silence]);
    let mut mounted = Options::new(origin.url()).unstarted_in(TempDir::with_prefix("binhostfs-it.").unwrap());
    mounted.spawn();
    origin.await_requests("Packages.gz", 1);
    let start = Instant::now();
    assert_eq!(mounted.stop(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(6));
    assert!(!mounted.is_mounted());
}

#[test]
fn an_administrator_may_unmount() {
    if !can_mount() {
        return;
    }
    let (_origin, mut mounted, package) = mounted();
    for flags in [&[][..], &["-l"]] {
        assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes);
        let umount = Command::new("umount").args(flags).arg(mounted.mountpoint()).output().unwrap();
        assert!(umount.status.success(), "{umount:?}");
        assert_eq!(mounted.wait(), Some(0));
        let log = mounted.log();
        assert!(log.contains("unmounted by another program") && !log.contains("cannot be unmounted"), "{log}");
        mounted.start();
    }
}

#[test]
fn the_dead_mount_of_a_killed_daemon_is_cleared() {
    if !can_mount() {
        return;
    }
    let (_origin, mut mounted, package) = mounted();
    for looked_at in [false, true] {
        if looked_at {
            // The kernel goes on answering what it has been told, also when nobody is there any more.
            assert!(Command::new("ls").arg("-la").arg(mounted.mountpoint()).output().unwrap().status.success());
        }
        mounted.kill();
        assert_eq!(rustix::fs::statvfs(mounted.mountpoint()).err(), Some(rustix::io::Errno::NOTCONN));
        // Its socket is there, too, and nobody behind it.
        assert!(mounted.control().exists());
        mounted.start();
        assert!(mounted.log().contains("removing the dead mount"));
        assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes);
    }
    assert_eq!(mounted.stop(), Some(0));
    assert!(!mounted.is_mounted());
}

#[test]
fn a_mountpoint_in_use_is_refused_and_left_alone() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let tmpfs = Command::new("mount").args(["-t", "tmpfs", "some-tmpfs"]).arg(place.path("pkgdir")).status().unwrap();
    assert!(tmpfs.success());
    let output = run(&[], &place.arguments());
    refused(&output, 2, &["is a mountpoint already (tmpfs from some-tmpfs)", "umount"]);
    assert!(place.is_mounted() && !place.path("cache").exists());

    let (_origin, mounted, package) = mounted();
    let mut arguments = place.arguments();
    *arguments.last_mut().unwrap() = mounted.mountpoint().to_str().unwrap().to_owned();
    refused(&run(&[], &arguments), 2, &["binhostfs is mounted on", "stop it first"]);
    // Also by another name.
    symlink(mounted.mountpoint(), place.path("link")).unwrap();
    *arguments.last_mut().unwrap() = place.path("link").to_str().unwrap().to_owned();
    refused(&run(&[], &arguments), 2, &["binhostfs is mounted on", "stop it first"]);
    assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes);
}

#[test]
fn two_daemons_do_not_share_a_cache_or_a_socket() {
    if !can_mount() {
        return;
    }
    let (_origin, mounted, package) = mounted();
    let place = Place::new();
    let cache = mounted.cache();
    let output = run(&[], &place.arguments_with("--cache-dir", cache.to_str()));
    let pid = format!("(pid {})", mounted.pid());
    refused(&output, 1, &["is in use by another binhostfs", &pid, "--cache-dir"]);
    let control = mounted.control();
    let output = run(&[], &place.arguments_with("--control", control.to_str()));
    refused(&output, 1, &["another binhostfs answers on", "--control"]);
    assert!(!place.is_mounted());
    assert_eq!(mounted.status()["pid"], mounted.pid());
    assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes);
}

#[test]
fn a_stale_socket_is_replaced_and_a_file_is_not() {
    if !can_mount() {
        return;
    }
    let packages = one_package();
    let origin = Origin::with(&packages);
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    drop(UnixListener::bind(place.path().join("control.sock")).unwrap());
    let mut mounted = Options::new(origin.url()).mount_in(place);
    assert_eq!(mounted.status()["pid"], mounted.pid());
    assert_eq!(mounted.control().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(mounted.stop(), Some(0));

    let place = Place::new();
    fs::write(place.path("control.sock"), "somebody's").unwrap();
    let output = run(&[], &place.arguments_with("--binhost", Some(&origin.url())));
    refused(&output, 1, &["control socket", "choose another place with --control"]);
    assert_eq!(fs::read(place.path("control.sock")).unwrap(), b"somebody's");
    assert!(!place.is_mounted());
}

#[test]
fn arguments_that_make_no_sense_are_refused_before_anything_is_touched() {
    let place = Place::new();
    let with = |option: &str, value: &str| place.arguments_with(option, Some(value));
    let add = |more: &[&str]| {
        let mut arguments = place.arguments();
        arguments.splice(1..1, more.iter().map(|word| (*word).to_owned()));
        arguments
    };
    let mountpoint = |path: &Path| {
        let mut arguments = place.arguments();
        *arguments.last_mut().unwrap() = path.to_str().unwrap().to_owned();
        arguments
    };
    let (here, file, link) = (place.path("pkgdir"), place.path("file"), place.path("link"));
    fs::write(&file, "").unwrap();
    symlink(&here, &link).unwrap();
    let inside = |path: &Path| with("--cache-dir", path.join("cache/deep").to_str().unwrap());
    for (arguments, parts) in [
        (mountpoint(&place.path("none")), &["none: No such file or directory", "create the directory first"][..]),
        (mountpoint(&file), &["is not a directory"]),
        (inside(&here), &["is inside the mountpoint", "--cache-dir"]),
        (inside(&link), &["is inside the mountpoint", "--cache-dir"]),
        (inside(&place.path("other/../pkgdir")), &["is inside the mountpoint", "--cache-dir"]),
        (with("--cache-dir", here.to_str().unwrap()), &["is inside the mountpoint"]),
        (with("--binhost", "no url"), &["\"no url\" is not a URL"]),
        (with("--binhost", "ftp://host/"), &["only http, https and file URLs"]),
        (with("--binhost", "http://host/?a"), &["--binhost", "directory"]),
        (add(&["--mirror", "nonsense"]), &["\"nonsense\" is not a URL"]),
        (add(&["--cache-size", "much"]), &["--cache-size", "\"much\" is not a size"]),
        (add(&["--cache-size=-1"]), &["--cache-size", "\"-1\" is not a size"]),
        (add(&["--refresh", "0"]), &["--refresh", "0 s is shorter than 1 s", "30m"]),
        (add(&["--refresh", "soon"]), &["\"soon\" is not a span of time"]),
        (add(&["--passthrough", "maybe"]), &["--passthrough", "auto, off"]),
        (add(&["--keyring"]), &["--keyring", "a value is required"]),
        (with("--verify-signature", "perhaps"), &["--verify-signature", "perhaps"]),
        (add(&["--config", "/none.toml"]), &["--config /none.toml: there is no such file"]),
        (add(&["--quorum", "2"]), &["--quorum: 2 URLs of", "add mirrors"]),
        (add(&["--cpu-level", "v3"]), &["'v3'", "--cpu-level", "any, x86-64, x86-64-v2, x86-64-v3"]),
        (add(&["--binhsot", "x"]), &["unexpected argument '--binhsot'", "--binhost"]),
        (
            ["mount", "--portage-root", here.to_str().unwrap()].map(str::to_owned).into(),
            &["no binhost", "sync-uri", "--binhost"],
        ),
        (vec!["mont".to_owned()], &["unrecognized subcommand 'mont'", "mount"]),
        (Vec::new(), &["Usage"]),
    ] {
        let output = run(&[], &arguments);
        refused(&output, 2, parts);
        assert!(!place.path("cache").exists() && fs::read_dir(&here).unwrap().next().is_none());
    }
}

#[test]
fn a_bad_log_filter_is_refused() {
    let place = Place::new();
    let output = Command::new(binary()).args(place.arguments()).env("RUST_LOG", "binhostfs=loud").output().unwrap();
    refused(&output, 2, &["RUST_LOG", "info,binhostfs::fetch=debug"]);
}

#[test]
fn what_the_system_refuses_is_said_plainly() {
    if !can_mount() {
        return;
    }
    let origin = Origin::with(&one_package());
    let place = Place::new();
    let arguments = place.arguments_with("--binhost", Some(&origin.url()));
    // In mount namespaces of their own, which go with the process.
    let hidden = "mount -t tmpfs none /dev && exec \"$@\"";
    let output = run(&["unshare", "-m", "sh", "-c", hidden, "sh"], &arguments);
    refused(&output, 1, &["opening /dev/fuse: No such file or directory", "modprobe fuse"]);

    let frozen = Place::new();
    let arguments = frozen.arguments_with("--binhost", Some(&origin.url()));
    let read_only =
        format!("mount --bind {0} {0} && mount -o remount,bind,ro {0} && exec \"$@\"", frozen.0.path().display());
    let output = run(&["unshare", "-m", "sh", "-c", &read_only, "sh"], &arguments);
    refused(
        &output,
        1,
        &[
            "opening the cache: creating the directory",
            "cache/v1: Read-only file system (os error 30); in a service, ProtectHome=",
        ],
    );
    assert!(!place.is_mounted() && !frozen.is_mounted());
}

#[test]
fn a_user_who_may_not_mount_is_told_so() {
    if !can_mount() {
        return;
    }
    let origin = Origin::with(&one_package());
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let place = Place::new();
    let arguments = place.arguments_with("--binhost", Some(&origin.url()));
    // The program may lie where nobody else can read it.
    let shared = TempDir::with_prefix("binhostfs-it.").unwrap();
    fs::set_permissions(shared.path(), Permissions::from_mode(0o755)).unwrap();
    let program = shared.path().join("binhostfs");
    fs::copy(binary(), &program).unwrap();
    refused(
        &run_program(&program, &nobody, &arguments),
        1,
        &["Permission denied (os error 13); only root can mount\n"],
    );
    // Also where every directory is theirs.
    fs::set_permissions(place.0.path(), Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(place.path("pkgdir"), Permissions::from_mode(0o777)).unwrap();
    refused(
        &run_program(&program, &nobody, &arguments),
        1,
        &["Permission denied (os error 13); only root can mount\n"],
    );
    assert!(!place.is_mounted());
}

#[test]
fn status_says_whom_it_asked() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let arguments = |socket: &Path| ["status", "--control", socket.to_str().unwrap()].map(str::to_owned);
    let nobody_there = run(&[], &arguments(&place.path("none.sock")));
    refused(&nobody_there, 3, &["no binhostfs answers on", "is it running?", "--control"]);
    drop(UnixListener::bind(place.path("stale.sock")).unwrap());
    refused(&run(&[], &arguments(&place.path("stale.sock"))), 3, &["no binhostfs answers on"]);

    let (_origin, mut mounted, package) = mounted();
    let text = run(&[], &arguments(&mounted.control()));
    let out = String::from_utf8_lossy(&text.stdout);
    assert!(text.status.success() && text.stderr.is_empty());
    assert!(
        out.starts_with(mounted.mountpoint().to_str().unwrap()) && out.contains("1 package, generation 1"),
        "{out}"
    );

    assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes);
    eventually(20, "it is kept", || mounted.status()["cache"]["packages"] == 1);
    let status = mounted.status();
    for (field, value) in [
        ("/version", env!("CARGO_PKG_VERSION").into()),
        ("/pid", mounted.pid().into()),
        ("/mountpoint", mounted.mountpoint().to_str().into()),
        ("/signatures", false.into()),
        ("/generation/number", 1.into()),
        ("/generation/packages", 1.into()),
        ("/binhosts/0/entries/dropped", 0.into()),
        ("/binhosts/0/packages", 1.into()),
        ("/binhosts/0/index_timestamp", 1_760_000_000.into()),
        ("/generation/index_timestamp", 1_760_000_000.into()),
        ("/refresh/error", serde_json::Value::Null),
        ("/cache/directory", mounted.cache().to_str().into()),
        ("/cache/bytes", package.bytes.len().into()),
        ("/cache/reserved", 0.into()),
        ("/cache/packages", 1.into()),
        ("/cache/bound", (8_u64 << 30).into()),
        ("/downloads", serde_json::json!([])),
        ("/failures", serde_json::json!([])),
        ("/metrics/misses", 1.into()),
        ("/metrics/downloads", 1.into()),
        ("/metrics/bytes_fetched", package.bytes.len().into()),
    ] {
        assert_eq!(status.pointer(field), Some(&value), "{field} in {status:#}");
    }
    for field in ["/time", "/started", "/refresh/confirmed", "/refresh/attempted"] {
        assert!(status.pointer(field).unwrap().as_u64().unwrap() > 1_760_000_000, "{field}");
    }
    assert_eq!(mounted.stop(), Some(0));
    refused(&run(&[], &arguments(&mounted.control())), 3, &["no binhostfs answers on"]);
}

#[test]
fn help_and_version_go_to_standard_output() {
    for (arguments, part) in [
        (&["--help"][..], "Exit codes: 0 done"),
        (&["mount", "--help"], "--verify-signature <true|false>"),
        (&["status", "--help"], "--json"),
        (&["--version"], env!("CARGO_PKG_VERSION")),
    ] {
        let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        let output = run(&[], &arguments);
        let out = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && output.stderr.is_empty() && out.contains(part), "{out}");
    }
}

#[test]
fn verify_finds_what_the_disk_has_damaged() {
    if !can_mount() {
        return;
    }
    let (origin, mounted, package) = mounted();
    let verify = |more: &[&str]| {
        let mut command = Command::new(binary());
        let output = command.arg("verify").args(more).arg("--control").arg(mounted.control()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(verify(&["--json"]), (Some(0), "{\"sound\":0,\"bytes\":0,\"damaged\":0}\n".to_owned()));
    assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes);
    mounted.settled();
    let (code, text) = verify(&[]);
    assert!(code == Some(0) && text.starts_with("1 package (") && text.contains("as it was verified"), "{text}");

    // A bit turns, and neither size nor time say so.
    let body = mounted.blobs().pop().unwrap();
    let modified = body.metadata().unwrap().modified().unwrap();
    let file = File::options().write(true).open(&body).unwrap();
    file.write_all_at(&[package.bytes[1000] ^ 1], 1000).unwrap();
    file.set_modified(modified).unwrap();
    let (code, text) = verify(&[]);
    assert!(code == Some(1) && text.contains("1 was damaged and is removed"), "{text}");
    assert!(mounted.blobs().is_empty() && mounted.log().contains("is damaged: it is removed"));
    assert_eq!((mounted.counter("scrubbed"), mounted.counter("damaged")), (2, 1));
    assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes);
    assert_eq!(origin.package_requests(), 2);
}

/// A soak of half an hour ended with a daemon that did not: nobody had read what it tells systemd, and the queue was full.
#[test]
fn a_supervisor_that_does_not_listen_holds_nothing_up() {
    if !can_mount() {
        return;
    }
    let origin = Origin::with(&[Package::new("one-1", 1000)]);
    let mut mounted = Options::new(origin.url()).mount();
    let filler = std::os::unix::net::UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    let full = (0..100_000).any(|_| filler.send_to(b"STATUS=x", mounted.place().join("notify")).is_err());
    assert!(full, "the queue has no end");
    assert_eq!(mounted.stop(), Some(0));
    assert!(!mounted.is_mounted());
}
