//! `systemd/openrc/binhostfs.initd` under a real OpenRC, which is pid 1.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use crate::confinement::assert_confined;
use crate::harness::eventually;
use crate::harness::machine::Machine;

const PKGDIR: &str = "/var/cache/binpkgs";
const PACKAGE: &str = "app-misc/greet/greet-0.9-1.gpkg.tar";
const UNSIGNED: &str = "BINHOST=file:///srv/source\nOPTIONS='--verify-signature false'\n";

/// A machine where the service is configured but not started.
fn configured(text: &str) -> Option<Machine> {
    let machine = Machine::boot_openrc()?;
    configure(&machine, text);
    Some(machine)
}

fn configure(machine: &Machine, text: &str) {
    fs::create_dir_all(machine.path("/etc/conf.d")).unwrap();
    fs::write(machine.path("/etc/conf.d/binhostfs"), text).unwrap();
}

/// Runs an action of the service, for two minutes at most. `openrc-run` can miss the end of the shell that it waits for: it
/// was seen, with no child left, in poll(2) on a pipe of which only it had the ends. A status changes nothing, so it is asked
/// for once more then.
fn service(machine: &Machine, action: &str) -> (Option<i32>, String) {
    let words = ["timeout", "120", "rc-service", "--nocolor", "binhostfs", action];
    match machine.run(&words) {
        (Some(124), _) if action == "status" => machine.run(&words),
        ended => ended,
    }
}

/// The action goes well, by what OpenRC says of it, too.
#[track_caller]
fn succeed(machine: &Machine, action: &str) {
    let (code, text) = service(machine, action);
    assert!(code == Some(0) && !text.contains("ERROR"), "{action}: {text}\n{}", machine.journal());
}

#[track_caller]
fn assert_status(machine: &Machine, status: &str) {
    let (_, text) = service(machine, "status");
    assert!(text.contains(&format!("status: {status}\n")), "{text}");
}

/// Ids of the program's processes there, in order of age: the parent, the daemon.
fn processes(machine: &Machine) -> Vec<String> {
    let (_, text) = machine.run(&["pgrep", "--exact", "binhostfs"]);
    text.lines().map(str::to_owned).collect()
}

fn read(machine: &Machine) -> std::io::Result<Vec<u8>> {
    fs::read(machine.path(&format!("{PKGDIR}/{PACKAGE}")))
}

#[track_caller]
fn assert_serves(machine: &Machine) {
    assert_status(machine, "started");
    assert_eq!(machine.mounts(), ["fuse.binhostfs"]);
    assert!(read(machine).unwrap() == fs::read(machine.path(&format!("/srv/source/{PACKAGE}"))).unwrap());
    assert_eq!(processes(machine).len(), 2);
}

#[track_caller]
fn assert_gone(machine: &Machine) {
    assert_status(machine, "stopped");
    assert_eq!((machine.mounts(), processes(machine)), (Vec::new(), Vec::new()));
    assert_eq!(fs::read_dir(machine.path(PKGDIR)).unwrap().count(), 0);
    assert_eq!(fs::read_dir(machine.path("/run/binhostfs")).unwrap().count(), 0);
}

#[test]
fn the_service_starts_reloads_restarts_and_stops() {
    let Some(machine) = configured(UNSIGNED) else { return };
    assert_status(&machine, "stopped");
    succeed(&machine, "start");
    // It has returned when the mount is of use: no waiting here.
    assert_serves(&machine);
    assert!(machine.succeed(&["binhostfs", "status"]).contains(PKGDIR));
    let daemon = processes(&machine)[1].clone();
    assert_confined(&machine.succeed(&["cat", &format!("/proc/{daemon}/status")]));
    assert_eq!(machine.succeed(&["stat", "--format=%a", "/var/cache/binhostfs"]), "700");
    assert_eq!(machine.succeed(&["stat", "--format=%a", "/var/log/binhostfs.log"]), "640");

    let device = || fs::metadata(machine.path(PKGDIR)).unwrap().dev();
    let (before, was) = (device(), processes(&machine));
    succeed(&machine, "reload");
    assert_serves(&machine);
    assert_eq!((device(), processes(&machine)), (before, was.clone()));
    assert!(machine.journal().contains("reloading: "), "{}", machine.journal());

    succeed(&machine, "restart");
    assert_serves(&machine);
    assert!(processes(&machine).iter().all(|pid| !was.contains(pid)));

    succeed(&machine, "stop");
    assert_gone(&machine);
    let log = machine.journal();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}

#[test]
fn a_runlevel_starts_and_stops_it() {
    let Some(machine) = configured(UNSIGNED) else { return };
    machine.succeed(&["rc-update", "add", "binhostfs", "default"]);
    machine.succeed(&["openrc", "default"]);
    assert_serves(&machine);
    // One without it.
    machine.succeed(&["openrc", "nonetwork"]);
    assert_gone(&machine);
}

#[test]
fn a_killed_daemon_is_replaced_and_its_mount_stays() {
    let Some(machine) = configured(UNSIGNED) else { return };
    succeed(&machine, "start");
    let device = || fs::metadata(machine.path(PKGDIR)).unwrap().dev();
    let (before, was) = (device(), processes(&machine));
    machine.succeed(&["kill", "-KILL", &was[1]]);
    eventually(30, "the parent starts it again", || {
        let now = processes(&machine);
        now.len() == 2 && now[0] == was[0] && now[1] != was[1]
    });
    assert_serves(&machine);
    assert_eq!(device(), before);
    succeed(&machine, "stop");
    assert_gone(&machine);
}

/// The daemon serves on; stopping or restarting the service reaches it all the same.
#[test]
fn a_killed_parent_leaves_nothing_that_stays() {
    let Some(machine) = configured(UNSIGNED) else { return };
    for (action, running) in [("restart", true), ("stop", false)] {
        if processes(&machine).is_empty() {
            succeed(&machine, "start");
        }
        let was = processes(&machine);
        machine.succeed(&["kill", "-KILL", &was[0]]);
        eventually(30, "OpenRC notices", || service(&machine, "status").1.contains("status: crashed\n"));
        assert!(read(&machine).is_ok());
        succeed(&machine, action);
        if running {
            assert_serves(&machine);
            assert!(processes(&machine).iter().all(|pid| !was.contains(pid)));
        } else {
            eventually(30, "the daemon ends", || processes(&machine).is_empty());
            assert_gone(&machine);
        }
    }
    succeed(&machine, "start");
    machine.succeed(&["pkill", "-KILL", "--exact", "binhostfs"]);
    eventually(30, "OpenRC notices", || service(&machine, "status").1.contains("status: crashed\n"));
    assert!(read(&machine).is_err());
    succeed(&machine, "stop");
    // Sockets of the dead stay; the next one takes their place.
    assert_eq!((machine.mounts(), processes(&machine)), (Vec::new(), Vec::new()));
    succeed(&machine, "start");
    assert_serves(&machine);
}

#[test]
fn what_is_configured_reaches_the_program() {
    // Nothing of this is the shell's business.
    let Some(machine) = configured("") else { return };
    symlink("source", machine.path("/srv/a&b;$(touch${IFS}x)*")).unwrap();
    let text = "BINHOST='file:///srv/a&b;$(touch${IFS}x)*'\nMOUNTPOINT='/srv/a place'\nRUST_LOG=info,binhostfs=debug\n\
                OPTIONS='--verify-signature false --control /run/other.sock'\n";
    configure(&machine, text);
    fs::create_dir(machine.path("/srv/a place")).unwrap();
    succeed(&machine, "start");
    let path = format!("/srv/a place/{PACKAGE}");
    assert!(
        fs::read(machine.path(&path)).unwrap() == fs::read(machine.path(&format!("/srv/source/{PACKAGE}"))).unwrap()
    );
    succeed(&machine, "reload");
    let log = machine.journal();
    assert!(log.contains("reloading: ") && log.contains("DEBUG"), "{log}");
    let parent = processes(&machine)[0].clone();
    machine.succeed(&["kill", "-KILL", &parent]);
    succeed(&machine, "stop");
    eventually(30, "the daemon ends", || processes(&machine).is_empty());
    assert!(fs::metadata(machine.path(&path)).is_err());
}

#[test]
fn without_the_binhost_it_starts_all_the_same() {
    let Some(machine) = configured(UNSIGNED) else { return };
    configure(&machine, "BINHOST=file:///srv/none\nOPTIONS='--verify-signature false'\n");
    succeed(&machine, "start");
    assert_status(&machine, "started");
    let packages = fs::read_to_string(machine.path(&format!("{PKGDIR}/Packages"))).unwrap();
    assert!(packages.contains("PACKAGES: 0\n"), "{packages}");
}

#[test]
fn what_keeps_it_from_starting_is_said() {
    let Some(machine) = configured("") else { return };
    let refuses = |says: &str| {
        let (code, text) = service(&machine, "start");
        assert!(code == Some(1) && text.contains(says) && text.contains("failed to start"), "{says:?}: {text}");
        assert_status(&machine, "stopped");
    };
    for (text, says) in [
        ("", "no binhost: looked for a section with sync-uri in /etc/portage/binrepos.conf"),
        ("BINHOST=file:///srv/source\n", "there is no key to check signatures with"),
        (&format!("{UNSIGNED}MOUNTPOINT=/none\n"), "create the directory first"),
    ] {
        configure(&machine, text);
        refuses(says);
        assert_eq!(processes(&machine), [""; 0]);
    }
    // Passes check-config; the daemon itself cannot go on.
    configure(&machine, &UNSIGNED.replace("--verify", "--listen 192.0.2.1:9 --verify"));
    refuses("binhostfs does not answer; /var/log/binhostfs.log says why");
    assert_gone(&machine);
    assert!(machine.journal().contains("192.0.2.1:9"), "{}", machine.journal());

    // Somebody else's.
    configure(&machine, UNSIGNED);
    fs::create_dir(machine.path("/srv/other")).unwrap();
    let by_hand = "setsid binhostfs mount --verify-signature false --binhost file:///srv/source /srv/other < /dev/null > /dev/null 2>&1 &";
    machine.succeed(&["sh", "-c", by_hand]);
    eventually(60, "it answers", || machine.run(&["binhostfs", "status"]).0 == Some(0));
    refuses("another binhostfs answers on /run/binhostfs/control.sock");
    assert!(machine.path(&format!("/srv/other/{PACKAGE}")).exists());
}
