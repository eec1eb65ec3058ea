//! The service under a real systemd: it outlives crashes, hangs and upgrades, and everybody sees it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::machine::Machine;
use crate::harness::{Act, Origin, Package, eventually, plan_of};

const PKGDIR: &str = "/var/cache/binpkgs";

/// Both systemds that there are, with a binhost on the machine's network, and the service running.
fn running(packages: &[Package], options: &str) -> Vec<(Machine, Origin)> {
    let machines = [Machine::boot(), Machine::boot_newer()].into_iter().flatten();
    machines.map(|machine| start(machine, packages, options)).collect()
}

fn start(machine: Machine, packages: &[Package], options: &str) -> (Machine, Origin) {
    let origin = machine.on_network(|| Origin::with(packages));
    fs::create_dir_all(machine.path("/etc/conf.d")).unwrap();
    // A tmpfs: the kernel does not read by itself from the overlay that the machine is on.
    let text = format!("BINHOST={}\nOPTIONS=--verify-signature false --cache-dir /run/cache {options}\n", origin.url());
    fs::write(machine.path("/etc/conf.d/binhostfs"), text).unwrap();
    machine.succeed(&["systemctl", "start", "binhostfs"]);
    (machine, origin)
}

fn path(package: &Package) -> String {
    format!("{PKGDIR}/{}", package.path)
}

fn read(machine: &Machine, package: &Package) -> bool {
    fs::read(machine.path(&path(package))).unwrap() == package.bytes
}

/// A process in the machine that reads the first bytes of a package, says so, and reads the rest when it is told to.
struct Reader {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Reader {
    fn start(machine: &Machine, container: &[&str], package: &Package) -> Self {
        let script = "exec 3< \"$0\" && echo open && read -r line && cat <&3";
        let file = path(package);
        let mut words = container.to_vec();
        words.extend(["sh", "-c", script, &file]);
        let mut child = machine.command(&words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    fn has_opened(&mut self) -> bool {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line == "open\n"
    }

    fn go_on(&mut self) {
        writeln!(self.input).unwrap();
    }

    fn rest(mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.output.read_to_end(&mut bytes).unwrap();
        assert!(self.child.wait().unwrap().success());
        bytes
    }
}

const CONTAINERS: [&[&str]; 3] = [&["unshare", "-m"], &["unshare", "-Urm"], &["unshare", "-Urmpf", "--mount-proc"]];

#[test]
fn three_containers_read_and_one_waits_while_it_is_killed() {
    let packages = [Package::new("one-1", 3 << 20), Package::new("two-1", 2 << 20)];
    for options in ["", "--passthrough off"] {
        for (machine, origin) in running(&packages, options) {
            origin.script(&packages[1].path, [Act::StallAt(5000)]);
            let device = fs::metadata(machine.path(PKGDIR)).unwrap().dev();
            let mut readers = CONTAINERS.map(|container| Reader::start(&machine, container, &packages[0]));
            assert!(readers.iter_mut().all(Reader::has_opened));
            let mut waiting = Reader::start(&machine, CONTAINERS[1], &packages[1]);
            origin.await_requests(&packages[1].path, 1);
            origin.script(&packages[1].path, []);
            machine.succeed(&["systemctl", "kill", "--signal=KILL", "binhostfs"]);
            for mut reader in readers {
                reader.go_on();
                assert!(reader.rest() == packages[0].bytes);
            }
            assert!(waiting.has_opened());
            waiting.go_on();
            assert!(waiting.rest() == packages[1].bytes);
            eventually(30, "it runs again", || machine.property("ActiveState") == "active");
            assert_eq!(
                (machine.property("NRestarts"), machine.property("NFileDescriptorStore")),
                ("1".into(), "3".into())
            );
            assert_eq!(fs::metadata(machine.path(PKGDIR)).unwrap().dev(), device);
            assert!(packages.iter().all(|package| read(&machine, package)));
            machine.succeed(&["systemctl", "stop", "binhostfs"]);
            assert!(machine.mounts().is_empty());
            assert_eq!(machine.property("NFileDescriptorStore"), "0");
        }
    }
}

#[test]
fn a_reload_is_not_noticed_and_runs_what_is_installed() {
    let packages = [Package::new("one-1", 1 << 20), Package::new("two-1", 300_000)];
    for (machine, _origin) in running(&packages, "") {
        let (pid, done) = (machine.property("MainPID"), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for package in &packages {
                let (machine, done) = (&machine, &done);
                scope.spawn(move || {
                    while !done.load(Ordering::SeqCst) {
                        assert!(read(machine, package));
                    }
                });
            }
            for _ in 0..20 {
                let (code, text) = machine.run(&["systemctl", "reload", "binhostfs"]);
                if code != Some(0) {
                    done.store(true, Ordering::SeqCst);
                    panic!("{text}");
                }
            }
            done.store(true, Ordering::SeqCst);
        });
        eventually(30, "it has reloaded", || machine.property("ActiveState") == "active");
        assert_eq!((machine.property("MainPID"), machine.property("NRestarts")), (pid, "0".into()));
        eventually(30, "each says so", || machine.journal().matches("going on with the mount").count() == 20);

        // What would not start is not run, and systemctl says so.
        fs::write(machine.path("/etc/binhostfs.toml"), "nonsense = 1\n").unwrap();
        assert_eq!(machine.run(&["systemctl", "reload", "binhostfs"]).0, Some(1));
        eventually(30, "the log says why", || machine.journal().contains("it would not start"));
        assert!(read(&machine, &packages[0]));
        assert_eq!(machine.property("ActiveState"), "active");
        fs::remove_file(machine.path("/etc/binhostfs.toml")).unwrap();
        machine.succeed(&["systemctl", "stop", "binhostfs"]);
        assert!(machine.mounts().is_empty());
    }
}

#[test]
fn a_daemon_that_hangs_is_started_again() {
    let packages = [Package::new("one-1", 1 << 20), Package::new("two-1", 300_000)];
    for machine in [Machine::boot(), Machine::boot_newer()].into_iter().flatten() {
        machine.drop_in("WatchdogSec=3s");
        let (machine, _origin) = start(machine, &packages, "");
        assert!(read(&machine, &packages[0]));
        let pid = machine.property("MainPID");
        // It is not killed for nothing.
        std::thread::sleep(std::time::Duration::from_secs(5));
        assert_eq!(machine.property("MainPID"), pid);
        machine.succeed(&["systemctl", "kill", "--signal=STOP", "binhostfs"]);
        // Asks a daemon that does not answer, and gets its answer from the next one.
        assert!(read(&machine, &packages[1]));
        eventually(30, "it is started again", || machine.property("NRestarts") == "1");
        eventually(30, "it runs", || machine.property("ActiveState") == "active");
        eventually(30, "the log says why", || machine.journal().contains("Watchdog timeout"));
        assert!(read(&machine, &packages[0]));
    }
}

#[test]
fn it_starts_after_everything_has_crashed() {
    let packages = [Package::new("one-1", 100_000)];
    let Some(machine) = Machine::boot() else { return };
    // Nothing is kept, and nobody starts it again.
    machine.drop_in("Restart=no\nFileDescriptorStoreMax=0");
    let (machine, _origin) = start(machine, &packages, "");
    machine.succeed(&["systemctl", "kill", "--signal=KILL", "binhostfs"]);
    eventually(30, "it is gone", || machine.property("ActiveState") == "failed");
    assert_eq!(machine.mounts(), ["fuse.binhostfs"]);
    machine.succeed(&["systemctl", "start", "binhostfs"]);
    assert_eq!(machine.mounts(), ["fuse.binhostfs"]);
    assert!(read(&machine, &packages[0]));
}

#[test]
fn a_mount_that_nobody_sees_is_said_to_be_one() {
    let packages = [Package::new("one-1", 100_000)];
    for (option, hides) in [("--mount-namespace=/proc/self/ns/mnt", true), ("--mount-namespace=/proc/1/ns/mnt", false)]
    {
        let Some(machine) = Machine::boot() else { return };
        machine.drop_in(&format!(
            "PrivateDevices=no\nExecStart=\nExecStart=/usr/bin/binhostfs mount {option} --binhost=${{BINHOST}} $OPTIONS"
        ));
        let (machine, _origin) = start(machine, &packages, "");
        // The journal is written a moment later.
        eventually(30, "the log is there", || machine.journal().contains("1 package, generation 1"));
        let (journal, status) = (machine.journal(), machine.property("StatusText"));
        assert_eq!(machine.mounts().is_empty(), hides, "{option}");
        assert_eq!(journal.contains("binhostfs.service has a mount namespace of its own"), hides, "{journal}");
        assert_eq!(status.contains("NOBODY ELSE SEES"), hides, "{status}");
        assert!(!hides || journal.contains("with --mount-namespace=/proc/1/ns/mnt"), "{journal}");
    }
}

/// The daemon's own files are read-only to it where they are not its cache; its mount is wherever it is wanted, and whoever may
/// writes there.
#[test]
fn everybody_sees_the_mount_of_a_daemon_that_is_shut_in() {
    let packages = [Package::new("one-1", 100_000)];
    for (place, options) in [("/usr/portage/packages", ""), ("/home/binpkgs", "--passthrough off")] {
        for machine in [Machine::boot(), Machine::boot_newer()].into_iter().flatten() {
            machine.succeed(&["mkdir", "-p", place]);
            machine.succeed(&["sh", "-c", "mkdir -p /etc/conf.d; echo MOUNTPOINT=$0 > /etc/conf.d/mountpoint", place]);
            machine.drop_in("EnvironmentFile=/etc/conf.d/mountpoint");
            let (machine, _origin) = start(machine, &packages, options);
            let mounted = || machine.run(&["findmnt", "--noheadings", "--output", "FSTYPE", "--mountpoint", place]).1;
            let reads =
                || fs::read(machine.path(&format!("{place}/{}", packages[0].path))).unwrap() == packages[0].bytes;
            assert_eq!(mounted(), "fuse.binhostfs\n");
            assert!(reads());
            let pid = machine.property("MainPID");
            for path in ["/usr/bin/x", "/etc/x", "/home/x", "/proc/sys/vm/swappiness", "/sys/fs/cgroup/x"] {
                let (code, said) =
                    machine.run(&["nsenter", "--target", &pid, "--mount", "sh", "-c", "echo 1 > $0", path]);
                assert!(code != Some(0) && said.contains("Read-only file system"), "{path}: {said}");
            }
            let written = format!("{place}/local");
            machine.succeed(&["sh", "-c", "echo one > $0", &written]);
            machine.succeed(&["systemctl", "kill", "--signal=KILL", "binhostfs"]);
            // Whoever reads waits for the next one, which was shut in while nobody answered.
            assert!(reads());
            assert_eq!(machine.succeed(&["cat", &written]), "one");
            eventually(30, "it runs again", || {
                machine.property("ActiveState") == "active" && machine.property("MainPID") != pid
            });
            machine.succeed(&["systemctl", "reload", "binhostfs"]);
            assert!(reads());
            machine.succeed(&["systemctl", "stop", "binhostfs"]);
            assert_eq!(mounted(), "");
            assert_eq!(machine.succeed(&["cat", &written]), "one");
        }
    }
}

/// What the unit takes away is not what the service needs.
#[test]
fn with_the_units_rights_the_kernel_reads_and_plans_are_found() {
    let packages: [Package; 4] =
        std::array::from_fn(|at| Package::new(Box::leak(format!("p{at}-1").into_boxed_str()), 1 << 20));
    for (machine, origin) in running(&packages, "") {
        let mut reader = Reader::start(&machine, CONTAINERS[0], &packages[0]);
        assert!(reader.has_opened());
        machine.succeed(&["systemctl", "kill", "--signal=STOP", "binhostfs"]);
        // Nobody but the kernel can answer.
        reader.go_on();
        let bytes = reader.rest();
        machine.succeed(&["systemctl", "kill", "--signal=CONT", "binhostfs"]);
        assert!(bytes == packages[0].bytes);

        // An emerge in a container with a user namespace and a root of its own, which only it can see.
        let plan = plan_of(&packages[1..]);
        fs::write(machine.path("/run/plan"), plan).unwrap();
        let script = format!(
            "mount -t tmpfs none /mnt && mkdir -p /mnt/var/cache/edb && chmod 700 /mnt/var/cache/edb && exec -a emerge bash -c '
             cp /run/plan /mnt/var/cache/edb/mtimedb && cat {} > /dev/null && sleep 20' ",
            path(&packages[1])
        );
        let mut emerge = machine.command(&["unshare", "-Urm", "env", "ROOT=/mnt", "bash", "-c", &script]);
        let mut emerge = emerge.stdin(Stdio::null()).spawn().unwrap();
        eventually(20, "the rest of the plan is fetched", || origin.asked_packages().len() == 4);
        emerge.kill().unwrap();
        emerge.wait().unwrap();
    }
}

/// The directory beneath is written to as whoever writes, also by a daemon that was given it by systemd.
#[test]
fn with_the_units_rights_local_files_are_whose_they_are() {
    let packages = [Package::new("one-1", 100_000)];
    for (machine, _origin) in running(&packages, "") {
        let directory = format!("{PKGDIR}/mine");
        let script = format!(
            "set -e; mkdir -p {directory}; chgrp 4321 {directory}; chmod 2777 {directory}; cd {directory}
             setpriv --reuid=65534 --regid=1234 --clear-groups sh -c 'umask 0; echo one > own; ! chown 0 own 2> /dev/null'
             setpriv --bounding-set -all sh -c 'echo zero > zero && rm zero && ! chmod 600 own 2> /dev/null'
             echo two > given; chown 65534:1234 given; chmod 600 given; echo too >> given; chmod 644 given; stat -c '%n %u %g %a' . own given"
        );
        assert_eq!(machine.succeed(&["sh", "-c", &script]), ". 0 4321 2777\nown 65534 4321 666\ngiven 65534 1234 644");
        let pid = machine.property("MainPID");
        machine.succeed(&["systemctl", "kill", "--signal=KILL", "binhostfs"]);
        let script = format!("cd {directory}; echo more >> own; cat own; rm given; ls");
        assert_eq!(machine.succeed(&["sh", "-c", &script]), "one\nmore\nown");
        eventually(30, "it runs again", || {
            machine.property("ActiveState") == "active" && machine.property("MainPID") != pid
        });
        assert_eq!(machine.property("NFileDescriptorStore"), "3");
    }
}

/// What systemd hands over in secret reaches the daemon, and its mount is seen all the same.
#[test]
fn passwords_come_from_a_credential() {
    let packages = [Package::new("one-1", 100_000)];
    for machine in [Machine::boot(), Machine::boot_newer()].into_iter().flatten() {
        machine.drop_in("LoadCredential=netrc:/etc/secret");
        fs::write(machine.path("/etc/secret"), "machine 127.0.0.1 login joe password s3cret\n").unwrap();
        let (machine, origin) = start(machine, &packages, "");
        assert!(read(&machine, &packages[0]));
        // joe:s3cret
        assert!(
            origin.authorizations().contains(&"Basic am9lOnMzY3JldA==".to_owned()),
            "{:?}",
            origin.authorizations()
        );
        assert!(!machine.mounts().is_empty());
        let said = machine.journal() + &machine.succeed(&["binhostfs", "status"]);
        assert!(!said.contains("s3cret") && !said.contains("joe"), "{said}");
    }
}

#[test]
fn the_journal_has_fields_that_can_be_searched() {
    let packages = [Package::new("one-1", 100_000), Package::new("two-1", 100_000)];
    for (machine, origin) in running(&packages, "") {
        origin.script(&packages[1].path, vec![Act::Flip(50_000); 9]);
        assert!(read(&machine, &packages[0]));
        assert!(fs::read(machine.path(&path(&packages[1]))).is_err());
        let entries = |matches: &str| {
            let text = machine.succeed(&["journalctl", "--no-pager", "-o", "json", "-u", "binhostfs", matches]);
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<serde_json::Value>>()
        };
        let of = |package: &Package| format!("BINHOSTFS_PACKAGE={}", package.path);
        eventually(30, "both are in the journal", || packages.iter().all(|package| !entries(&of(package)).is_empty()));
        let [fetched, refused] = [0, 1].map(|at| entries(&of(&packages[at])));
        assert_eq!((fetched.len(), refused.len()), (1, 1), "{fetched:?} {refused:?}");
        let (fetched, url) = (&fetched[0], format!("{}/{}", origin.url(), packages[0].path));
        let message = fetched["MESSAGE"].as_str().unwrap();
        let begins = format!("fetched and verified {} ({} bytes in ", packages[0].path, packages[0].bytes.len());
        assert!(
            message.starts_with(&begins) && message.ends_with(&format!(" s from {url}; digests only)")),
            "{message}"
        );
        for (field, value) in [
            ("PRIORITY", "6"),
            ("SYSLOG_IDENTIFIER", "binhostfs"),
            ("BINHOSTFS_BYTES", &packages[0].bytes.len().to_string()),
            ("BINHOSTFS_SOURCE", &url),
            ("BINHOSTFS_VERDICT", "digests only"),
        ] {
            assert_eq!(fetched[field], value, "{field} of {fetched}");
        }
        let reason = refused[0]["BINHOSTFS_REASON"].as_str().unwrap();
        assert!(reason.starts_with("refused: ") && refused[0]["PRIORITY"] == "4", "{refused:?}");
        let message = refused[0]["MESSAGE"].as_str().unwrap();
        assert!(message.starts_with("cannot fetch ") && message.contains(reason), "{message}");
        let all = entries("_TRANSPORT=journal");
        let texts = || all.iter().filter_map(|entry| entry["MESSAGE"].as_str());
        assert_eq!(texts().filter(|text| text.starts_with("fetched and verified")).count(), 1);
        // Nothing comes as a line as well.
        assert!(entries("_TRANSPORT=stdout").iter().all(|entry| entry["_COMM"] != "binhostfs"));
    }
}

#[test]
fn several_mounts_at_once() {
    let packages = [Package::new("one-1", 100_000)];
    let Some(machine) = Machine::boot() else { return };
    let (machine, origin) = start(machine, &packages, "");
    fs::create_dir_all(machine.path("/etc/binhostfs")).unwrap();
    for name in ["red", "blue"] {
        fs::create_dir_all(machine.path(&format!("/srv/{name}"))).unwrap();
        let text = format!(
            "mountpoint = \"/srv/{name}\"\nverify-signature = false\n[binhost.{name}]\nurl = \"{}\"\n",
            origin.url()
        );
        fs::write(machine.path(&format!("/etc/binhostfs/{name}.toml")), text).unwrap();
        machine.succeed(&["systemctl", "start", &format!("binhostfs@{name}")]);
        machine.succeed(&["systemctl", "reload", &format!("binhostfs@{name}")]);
    }
    for name in ["red", "blue"] {
        let file = machine.path(&format!("/srv/{name}/{}", packages[0].path));
        assert!(fs::read(file).unwrap() == packages[0].bytes);
        let socket = format!("/run/binhostfs-{name}/control.sock");
        assert!(machine.succeed(&["binhostfs", "status", "--control", &socket]).starts_with(&format!("/srv/{name}: ")));
    }
    machine.succeed(&["systemctl", "stop", "binhostfs@red"]);
    assert!(read(&machine, &packages[0]));
    assert_eq!(fs::read_dir(machine.path("/srv/red")).unwrap().count(), 0);
}
