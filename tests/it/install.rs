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

/// Paths of all files and links below a directory, in order.
fn below(directory: &Path) -> Vec<String> {
    let output = Command::new("find").arg(directory).args(["-not", "-type", "d"]).output().unwrap();
    let mut paths: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    paths.sort();
    paths
}

/// Paths that the script says something of.
fn told(output: &std::process::Output, what: &str) -> Vec<String> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let mut paths: Vec<String> =
        text.lines().filter_map(|line| line.strip_prefix(what)?.strip_prefix(' ')).map(str::to_owned).collect();
    paths.sort();
    paths
}

#[test]
fn what_is_installed_is_said_and_can_be_uninstalled() {
    let [destination, docs] = [(); 2].map(|()| TempDir::with_prefix("binhostfs-it.").unwrap());
    for page in [
        "man/man1/binhostfs.1",
        "man/man1/binhostfs-mount.1",
        "man/man5/binhostfs.toml.5",
        "zsh/site-functions/_binhostfs",
    ] {
        let page = docs.path().join("share").join(page);
        fs::create_dir_all(page.parent().unwrap()).unwrap();
        fs::write(page, "a page").unwrap();
    }
    let install = |arguments: &[&str]| {
        let mut command = Command::new(checkout().join("systemd/install"));
        command.env("DESTDIR", destination.path()).env("BINARY", binary()).env("OPENRC", "yes");
        command.env("DOCS", docs.path()).args(arguments).output().unwrap()
    };
    // Questions and mistakes install nothing.
    for (arguments, code) in [(&["--help"][..], 0), (&["-h"], 0), (&["--nonsense"], 2), (&["--uninstall", "x"], 2)] {
        let output = install(arguments);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let said = if code == 0 { output.stdout } else { output.stderr };
        assert!(String::from_utf8(said).unwrap().contains("usage: systemd/install "), "{arguments:?}");
        assert_eq!(below(destination.path()), [""; 0], "{arguments:?}");
    }
    let output = install(&[]);
    assert!(output.status.success(), "{output:?}");
    let installed = below(destination.path());
    assert_eq!(told(&output, "installed"), installed);
    assert_eq!(installed.len(), 11, "{installed:?}");
    // What is configured, and what is not of this program, stays.
    let [configured, other] =
        ["etc/binhostfs.toml", "usr/share/man/man1/other.1"].map(|path| destination.path().join(path));
    [&configured, &other].into_iter().for_each(|path| fs::write(path, "mine").unwrap());
    let output = install(&["--uninstall"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(told(&output, "removed"), installed);
    assert_eq!(told(&output, "left in place:"), [configured.display().to_string()]);
    assert_eq!(below(destination.path()), [configured.display().to_string(), other.display().to_string()]);
    let confd = destination.path().join("etc/conf.d/binhostfs");
    install(&[]);
    fs::write(&confd, "mine").unwrap();
    assert_eq!(told(&install(&[]), "left as it is:"), [confd.display().to_string()]);
    assert!(!told(&install(&["--uninstall"]), "removed").contains(&confd.display().to_string()));
    assert_eq!(fs::read(&confd).unwrap(), b"mine");
    // A second time there is nothing to remove.
    assert_eq!(told(&install(&["--uninstall"]), "removed"), [""; 0]);
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
        ("sh", "systemd/install"),
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
