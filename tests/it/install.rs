//! What distributions and administrators use around the program: the install script, mount(8), init scripts.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::binary;
use crate::harness::machine::Machine;

const PACKAGE: &str = "app-misc/greet/greet-0.9-1.gpkg.tar";

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn everything_is_installed_where_it_belongs() {
    let destination = TempDir::with_prefix("binhostfs-it.").unwrap();
    let docs = TempDir::with_prefix("binhostfs-it.").unwrap();
    fs::create_dir_all(docs.path().join("share/man/man1")).unwrap();
    fs::write(docs.path().join("share/man/man1/binhostfs.1"), "a page").unwrap();
    let path = |path: &str| destination.path().join(path);
    let install = |prefix: &str| {
        let mut command = Command::new(checkout().join("systemd/install"));
        command.env("DESTDIR", destination.path()).env("PREFIX", prefix).env("BINARY", binary()).env("OPENRC", "yes");
        let output = command.env("DOCS", docs.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    install("/usr");
    for (file, mode) in [
        ("usr/bin/binhostfs", 0o755),
        ("sbin/mount.binhostfs", 0o755),
        ("sbin/mount.fuse.binhostfs", 0o755),
        ("usr/lib/systemd/system/binhostfs.service", 0o644),
        ("usr/lib/systemd/system/binhostfs@.service", 0o644),
        ("usr/share/man/man1/binhostfs.1", 0o644),
        ("etc/init.d/binhostfs", 0o755),
        ("etc/conf.d/binhostfs", 0o644),
    ] {
        assert_eq!(fs::metadata(path(file)).unwrap().permissions().mode() & 0o777, mode, "{file}");
    }
    fs::write(path("etc/conf.d/binhostfs"), "mine").unwrap();
    install("/usr/local");
    assert_eq!(fs::read(path("etc/conf.d/binhostfs")).unwrap(), b"mine");
    let unit = fs::read_to_string(path("usr/local/lib/systemd/system/binhostfs@.service")).unwrap();
    assert!(
        unit.contains("ExecStart=/usr/local/bin/binhostfs mount") && !unit.contains("=/usr/bin/binhostfs"),
        "{unit}"
    );
    let script = fs::read_to_string(path("etc/init.d/binhostfs")).unwrap();
    assert!(script.contains("\ncommand=/usr/local/bin/binhostfs\n"), "{script}");
}

/// Every shell that may be sh there: openrc.rs runs the script with one of them.
#[test]
fn scripts_are_what_a_shell_understands() {
    for (shell, file) in [
        ("sh", "systemd/openrc/binhostfs.initd"),
        ("bash", "systemd/openrc/binhostfs.initd"),
        ("sh", "systemd/openrc/binhostfs.confd"),
        ("bash", "systemd/gentoo/binhostfs-0.1.0.ebuild"),
    ] {
        let output = Command::new(shell).arg("-n").arg(checkout().join(file)).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{file}: {output:?}");
    }
}

#[test]
fn mount_and_fstab_and_mount_units() {
    let Some(machine) = Machine::boot() else { return };
    for name in ["mount.binhostfs", "mount.fuse.binhostfs"] {
        fs::copy(checkout().join("systemd/mount.binhostfs"), machine.path(&format!("/usr/sbin/{name}"))).unwrap();
    }
    let expected = fs::read(machine.path(&format!("/srv/source/{PACKAGE}"))).unwrap();
    let read = |directory: &str| fs::read(machine.path(&format!("{directory}/{PACKAGE}")));
    let options = |name: &str| {
        fs::create_dir_all(machine.path(&format!("/srv/{name}"))).unwrap();
        format!(
            "verify-signature=false,cache-dir=/run/{name},control=/run/{name}.sock,nofail,x-systemd.after=network.target"
        )
    };
    for (kind, name) in [("fuse.binhostfs", "one"), ("binhostfs", "two")] {
        let directory = format!("/srv/{name}");
        machine.succeed(&["mount", "-t", kind, "file:///srv/source", &directory, "-o", &options(name)]);
        assert!(read(&directory).unwrap() == expected);
        let again = machine.run(&["mount", "-t", kind, "file:///srv/source", &directory, "-o", &options(name)]);
        assert!(again.0 == Some(32) && again.1.contains("is a mountpoint already"), "{again:?}");
        machine.succeed(&["umount", &directory]);
        assert!(read(&directory).is_err());
    }
    let wrong = machine.run(&["mount", "-t", "fuse.binhostfs", "file:///srv/source", "/srv/one", "-o", "nonsense=1"]);
    assert!(wrong.0 != Some(0) && wrong.1.contains("unexpected argument '--nonsense'"), "{wrong:?}");

    let line = format!("file:///srv/source /srv/fstab fuse.binhostfs {} 0 0\n", options("fstab"));
    fs::write(machine.path("/etc/fstab"), line).unwrap();
    machine.succeed(&["systemctl", "daemon-reload"]);
    machine.succeed(&["systemctl", "start", "srv-fstab.mount"]);
    assert!(read("/srv/fstab").unwrap() == expected);
    assert!(machine.succeed(&["binhostfs", "status", "--control", "/run/fstab.sock"]).starts_with("/srv/fstab: "));
    machine.succeed(&["systemctl", "stop", "srv-fstab.mount"]);
    assert!(read("/srv/fstab").is_err());
    machine.succeed(&["mount", "/srv/fstab"]);
    assert!(read("/srv/fstab").unwrap() == expected);
}
