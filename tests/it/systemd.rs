//! `systemd/binhostfs.service` under a real systemd.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use crate::harness::eventually;
use crate::harness::machine::Machine;

const PKGDIR: &str = "/var/cache/binpkgs";
const PACKAGE: &str = "app-misc/greet/greet-0.9-1.gpkg.tar";

/// A machine whose binhost is there, and where the service is configured but not started.
fn configured() -> Option<Machine> {
    let machine = Machine::boot()?;
    symlink("/srv/source", machine.path("/srv/binhost")).unwrap();
    configure(&machine, "BINHOST=file:///srv/binhost\nOPTIONS=--verify-signature false --cache-size 1G\n");
    Some(machine)
}

fn configure(machine: &Machine, text: &str) {
    fs::create_dir_all(machine.path("/etc/conf.d")).unwrap();
    fs::write(machine.path("/etc/conf.d/binhostfs"), text).unwrap();
}

fn package(machine: &Machine) -> std::io::Result<Vec<u8>> {
    fs::read(machine.path(&format!("{PKGDIR}/{PACKAGE}")))
}

#[track_caller]
fn assert_serves(machine: &Machine) {
    assert_eq!((machine.property("ActiveState"), machine.property("SubState")), ("active".into(), "running".into()));
    assert_eq!(machine.mounts(), ["fuse.binhostfs"]);
    let expected = fs::read(machine.path(&format!("/srv/source/{PACKAGE}"))).unwrap();
    assert!(package(machine).unwrap() == expected);
}

#[track_caller]
fn assert_gone(machine: &Machine) {
    assert_eq!(machine.property("ActiveState"), "inactive");
    assert_eq!(machine.mounts(), [""; 0]);
    assert_eq!(fs::read_dir(machine.path(PKGDIR)).unwrap().count(), 0);
    assert!(!machine.path("/run/binhostfs").exists());
}

#[test]
fn the_units_have_nothing_to_complain_about() {
    for machine in [Machine::boot(), Machine::boot_newer()].into_iter().flatten() {
        for unit in ["binhostfs.service", "binhostfs@.service"] {
            let path = format!("/etc/systemd/system/{unit}");
            assert_eq!(machine.run(&["systemd-analyze", "verify", &path]), (Some(0), String::new()));
            // Of 100; whatever else it could do without would take away what it is for.
            let (code, text) = machine.run(&["systemd-analyze", "security", "--offline=true", "--threshold=37", &path]);
            assert_eq!(code, Some(0), "{text}");
        }
    }
}

#[test]
fn the_service_starts_restarts_and_stops() {
    let Some(machine) = configured() else { return };
    assert_gone(&machine);
    machine.succeed(&["systemctl", "--quiet", "enable", "--now", "binhostfs"]);
    // `systemctl start` returns when READY=1 has come: no waiting here.
    assert_serves(&machine);
    let shown = machine.succeed(&["systemctl", "status", "--no-pager", "binhostfs"]);
    let status =
        "Status: \"/var/cache/binpkgs: 17 packages, generation 1, index confirmed 0 s ago; 0 cached, 0 B of 1.0 GiB\"";
    for part in ["Gentoo binhost mounted as PKGDIR", "active (running)", status] {
        assert!(shown.contains(part), "{part:?} is not in:\n{shown}");
    }
    assert!(machine.succeed(&["binhostfs", "status"]).contains(PKGDIR));
    assert_eq!(machine.succeed(&["stat", "--format=%a", "/var/cache/binhostfs"]), "700");

    let inode = fs::metadata(machine.path(&format!("{PKGDIR}/{PACKAGE}"))).unwrap().ino();
    let pid = machine.property("MainPID");
    machine.succeed(&["systemctl", "restart", "binhostfs"]);
    assert_ne!(machine.property("MainPID"), pid);
    assert_serves(&machine);
    assert_eq!(fs::metadata(machine.path(&format!("{PKGDIR}/{PACKAGE}"))).unwrap().ino(), inode);

    machine.succeed(&["systemctl", "stop", "binhostfs"]);
    assert_gone(&machine);
    assert_eq!((machine.property("Result"), machine.property("NRestarts")), ("success".into(), "0".into()));
    let journal = machine.journal();
    assert!(!journal.contains("WARN") && !journal.contains("ERROR"), "{journal}");
}

/// Portage's files, and nothing else.
#[test]
fn the_service_needs_no_configuration_of_its_own() {
    let Some(machine) = Machine::boot() else { return };
    symlink("/srv/source", machine.path("/srv/binhost")).unwrap();
    fs::create_dir_all(machine.path("/etc/portage/binrepos.conf")).unwrap();
    let binrepos = "[local]\nsync-uri = file:///srv/binhost\nverify-signature = false\n";
    fs::write(machine.path("/etc/portage/binrepos.conf/local.conf"), binrepos).unwrap();
    assert!(machine.succeed(&["binhostfs", "check-config"]).contains("binhost.local.url = file:///srv/binhost"));
    machine.succeed(&["systemctl", "start", "binhostfs"]);
    assert_serves(&machine);
    machine.succeed(&["systemctl", "stop", "binhostfs"]);
    assert_gone(&machine);
}

#[test]
fn a_killed_daemon_is_replaced_and_its_mount_stays() {
    let Some(machine) = configured() else { return };
    machine.succeed(&["systemctl", "start", "binhostfs"]);
    assert_serves(&machine);
    let device = || fs::metadata(machine.path(PKGDIR)).unwrap().dev();
    let before = device();
    for round in ["1", "2"] {
        let pid = machine.property("MainPID");
        machine.succeed(&["systemctl", "kill", "--signal=KILL", "binhostfs"]);
        eventually(30, "systemd starts it again", || {
            machine.property("NRestarts") == round && machine.property("ActiveState") == "active"
        });
        assert_ne!(machine.property("MainPID"), pid);
        assert_serves(&machine);
        assert_eq!(device(), before);
    }
    machine.succeed(&["systemctl", "stop", "binhostfs"]);
    assert_gone(&machine);
}

#[test]
fn unmounting_ends_the_service_for_good() {
    let Some(machine) = configured() else { return };
    machine.succeed(&["systemctl", "start", "binhostfs"]);
    machine.succeed(&["umount", PKGDIR]);
    eventually(30, "the service ends", || machine.property("ActiveState") == "inactive");
    assert_gone(&machine);
    assert_eq!(machine.property("NRestarts"), "0");
}

#[test]
fn without_the_binhost_it_starts_all_the_same() {
    let Some(machine) = configured() else { return };
    fs::remove_file(machine.path("/srv/binhost")).unwrap();
    machine.succeed(&["systemctl", "start", "binhostfs"]);
    assert_eq!(machine.property("ActiveState"), "active");
    let status = machine.property("StatusText");
    assert!(status.starts_with("/var/cache/binpkgs: no index yet, shown empty; "), "{status}");
    let packages = fs::read_to_string(machine.path(&format!("{PKGDIR}/Packages"))).unwrap();
    assert!(packages.contains("PACKAGES: 0\n"), "{packages}");

    symlink("/srv/source", machine.path("/srv/binhost")).unwrap();
    machine.succeed(&["systemctl", "restart", "binhostfs"]);
    assert_serves(&machine);

    // From now on it has a last good index, and a package in its cache.
    fs::remove_file(machine.path("/srv/binhost")).unwrap();
    machine.succeed(&["systemctl", "restart", "binhostfs"]);
    assert_serves(&machine);
    assert!(machine.property("StatusText").contains(": 17 packages, generation "));
}

#[test]
fn a_wrong_configuration_is_said_once() {
    let Some(machine) = Machine::boot() else { return };
    let starts = ["systemctl", "start", "binhostfs"];
    for (text, says) in [
        (None, "no binhost: looked for a section with sync-uri in /etc/portage/binrepos.conf"),
        (Some("BINHOST=file:///srv/source\n"), "there is no key to check signatures with"),
        (
            Some("BINHOST=file:///srv/source\nOPTIONS=--verify-signature false\nMOUNTPOINT=/none\n"),
            "create the directory first",
        ),
    ] {
        if let Some(text) = text {
            configure(&machine, text);
        }
        assert_eq!(machine.run(&starts).0, Some(1));
        assert_eq!((machine.property("ActiveState"), machine.property("NRestarts")), ("failed".into(), "0".into()));
        // The journal reads what a process has written after it has ended, too.
        eventually(10, "the journal has the reason", || machine.journal().contains(says));
        let journal = machine.journal();
        assert_eq!(journal.matches(says).count(), 1, "{says:?} is not once in:\n{journal}");
    }
}

#[test]
fn the_socket_is_a_groups() {
    let Some(machine) = configured() else { return };
    configure(
        &machine,
        "BINHOST=file:///srv/binhost\nOPTIONS=--verify-signature false --control-group adm --listen 127.0.0.1:9123\n",
    );
    machine.succeed(&["systemctl", "start", "binhostfs"]);
    assert_serves(&machine);
    assert_eq!(machine.succeed(&["stat", "--format=%a %G", "/run/binhostfs/control.sock"]), "660 adm");
    let member = ["setpriv", "--reuid=65534", "--regid=adm", "--clear-groups", "binhostfs", "status"];
    assert!(machine.succeed(&member).contains(PKGDIR));
    // What the unit forbids is nothing that the metrics or the attributes of files need.
    let asked =
        "exec 3<>/dev/tcp/127.0.0.1/9123; printf 'GET /metrics HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\n\\r\\n' >&3; cat <&3";
    let metrics = machine.succeed(&["bash", "-c", asked]);
    let resident = metrics.lines().find_map(|line| line.strip_prefix("binhostfs_resident_memory_bytes "));
    assert!(resident.is_some_and(|bytes| bytes.parse::<u64>().unwrap() > 1 << 20), "{metrics}");
    machine.succeed(&["cat", &format!("{PKGDIR}/{PACKAGE}")]);
    let why = machine.succeed(&["binhostfs", "why", "greet"]);
    assert!(why.contains(", from file:///srv/binhost/") && why.contains("the last time by cat (process "), "{why}");
}

/// Tenths of the exposure that systemd-analyze finds in the loaded unit.
fn exposure(machine: &Machine) -> u32 {
    let (_, text) = machine.run(&["systemd-analyze", "security", "--no-pager", "binhostfs.service"]);
    let figure =
        text.lines().find_map(|line| line.split_once("Overall exposure level for binhostfs.service: ")).unwrap().1;
    let (whole, tenths) = figure.split_whitespace().next().unwrap().split_once('.').unwrap();
    whole.parse::<u32>().unwrap() * 10 + tenths.parse::<u32>().unwrap()
}

/// With the drop-in that the program makes of its configuration, the daemon writes to its cache, and to PKGDIR, and to nothing
/// else.
#[test]
fn a_drop_in_by_the_configuration_takes_what_is_left() {
    for machine in [Machine::boot(), Machine::boot_newer()].into_iter().flatten() {
        symlink("/srv/source", machine.path("/srv/binhost")).unwrap();
        fs::write(machine.path("/etc/binhostfs.toml"), "cache-dir = \"/srv/the cache\"\n").unwrap();
        configure(&machine, "BINHOST=file:///srv/binhost\nOPTIONS=--verify-signature false\n");
        let before = exposure(&machine);
        let check =
            ["binhostfs", "check-config", "--systemd", "--binhost=file:///srv/binhost", "--verify-signature=false"];
        let text = machine.succeed(&check);
        assert!(text.contains("\nProtectSystem=strict\nReadWritePaths=\"/srv/the cache\""), "{text}");
        let directory = machine.path("/etc/systemd/system/binhostfs.service.d");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("paths.conf"), text + "\n").unwrap();
        machine.succeed(&["systemctl", "daemon-reload"]);
        let after = exposure(&machine);
        eprintln!("systemd-analyze: {before} before, {after} after");
        assert!(after < before, "{before} {after}");

        // The directory has to be there: a typing error does not let the daemon write elsewhere.
        assert_eq!(machine.run(&["systemctl", "start", "binhostfs"]).0, Some(1));
        machine.succeed(&["systemctl", "stop", "binhostfs"]);
        fs::create_dir(machine.path("/srv/the cache")).unwrap();
        machine.succeed(&["systemctl", "start", "binhostfs"]);
        assert_serves(&machine);
        let writes = |path: &str| {
            let pid = machine.property("MainPID");
            machine.run(&["nsenter", "--target", &pid, "--mount", "touch", path]).0 == Some(0)
        };
        assert!(writes("/srv/the cache/x") && writes("/run/binhostfs/x"));
        for path in ["/srv/x", "/etc/x", "/usr/x", "/var/x", "/var/lib/x", "/root/x"] {
            assert!(!writes(path), "{path}");
        }
        // What is written to the mount is beneath it.
        fs::write(machine.path(&format!("{PKGDIR}/local")), "own").unwrap();
        // systemd sets the namespace up while nobody answers for the mount.
        for _ in 0..2 {
            let pid = machine.property("MainPID");
            machine.succeed(&["systemctl", "kill", "--signal=KILL", "binhostfs"]);
            eventually(30, "systemd starts it again", || {
                machine.property("MainPID") != pid && machine.property("ActiveState") == "active"
            });
            assert_serves(&machine);
        }
        machine.succeed(&["systemctl", "reload", "binhostfs"]);
        assert_serves(&machine);
        machine.succeed(&["systemctl", "restart", "binhostfs"]);
        assert_serves(&machine);
        machine.succeed(&["systemctl", "stop", "binhostfs"]);
        assert_eq!(fs::read_to_string(machine.path(&format!("{PKGDIR}/local"))).unwrap(), "own");
        let journal = machine.journal();
        assert!(!journal.contains("WARN") && !journal.contains("ERROR"), "{journal}");
    }
}
