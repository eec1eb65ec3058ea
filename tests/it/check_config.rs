//! Configuration from files alone: `mount` without options, and `check-config`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Options, Origin, Package, binary, can_mount, have};

/// A system whose Portage has one binhost, and packages in `var/cache/binpkgs`.
struct System(TempDir);

impl System {
    fn with(binhost: &str) -> Self {
        let system = Self(TempDir::with_prefix("binhostfs-it.").unwrap());
        for directory in ["etc/portage", "pkgdir"] {
            fs::create_dir_all(system.path(directory)).unwrap();
        }
        fs::set_permissions(system.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
        system.write("etc/portage/make.conf", &format!("PKGDIR=\"{}\"\n", system.path("pkgdir").display()));
        system.write("etc/portage/binrepos.conf", binhost);
        system
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).unwrap();
    }

    fn command(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(words).arg("--portage-root").arg(self.0.path()).env_remove("RUST_LOG");
        command
    }

    fn check(&self, more: &[&str]) -> Output {
        self.command(binary(), &["check-config"]).args(more).output().unwrap()
    }

    fn json(&self, more: &[&str]) -> (Option<i32>, Value) {
        let output = self.check(&[&["--json"], more].concat());
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
    }
}

const UNSIGNED: &str = "[home]\nsync-uri = https://packages.example/x\nverify-signature = false\npriority = 3\n";

#[test]
fn every_value_is_shown_with_its_source() {
    let system = System::with(UNSIGNED);
    let (code, told) = system.json(&["--cache-size", "3G"]);
    assert_eq!((code, &told["usable"], &told["error"]), (Some(0), &true.into(), &Value::Null));
    let setting = |key: &str| {
        let settings = told["settings"].as_array().unwrap();
        let setting = settings.iter().find(|setting| setting["key"] == key).unwrap_or_else(|| panic!("{key}: {told}"));
        (setting["value"].as_str().unwrap(), setting["source"].as_str().unwrap())
    };
    let (make_conf, binrepos) = (system.path("etc/portage/make.conf:1"), system.path("etc/portage/binrepos.conf"));
    assert_eq!(setting("mountpoint"), (system.path("pkgdir").to_str().unwrap(), make_conf.to_str().unwrap()));
    assert_eq!(setting("cache-size"), ("3.0 GiB", "--cache-size"));
    assert_eq!(setting("refresh"), ("30 min", "default"));
    assert_eq!(
        setting("binhost.home.url"),
        ("https://packages.example/x", format!("{}:2", binrepos.display()).as_str())
    );
    assert_eq!(setting("binhost.home.verify-signature"), ("false", format!("{}:3", binrepos.display()).as_str()));
    let text = String::from_utf8(system.check(&[]).stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with("binhost.home.priority = 3 ")).unwrap();
    assert!(line.ends_with(&format!("# {}:4", binrepos.display())), "{text}");
}

#[test]
fn what_mount_would_refuse_is_refused_with_the_same_code() {
    let signed = UNSIGNED.replace("false", "true");
    for (binrepos, own, says) in [
        ("", "", "no binhost: looked for a section with sync-uri in "),
        (UNSIGNED, "chache-size = 1", "did you mean \"cache-size\"?"),
        (UNSIGNED, "mountpoint = \"/none\"", "create the directory first"),
        (UNSIGNED, "mountpoint = \"/proc\"", "/proc is a mountpoint already"),
        (signed.as_str(), "keyring = \"/none.asc\"", "there is no key to check signatures with"),
        ("[a]\nsync-uri = %(none)s\n", "", "%(none)s is not set; emerge cannot read it either"),
    ] {
        let system = System::with(binrepos);
        system.write("own.toml", own);
        let config = system.path("own.toml");
        for command in ["check-config", "mount"] {
            let output = system.command(binary(), &[command]).arg("--config").arg(&config).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{command}: {error}");
            assert!(error.contains(says), "{command}: {error}");
        }
        let (code, told) = system.json(&["--config", config.to_str().unwrap()]);
        assert_eq!((code, &told["usable"]), (Some(2), &false.into()));
        assert!(told["error"].as_str().unwrap().contains(says), "{told}");
    }
}

#[test]
fn an_ordinary_user_can_check() {
    let tool = Command::new("setpriv").arg("--version").output().is_ok();
    if !have(rustix::process::geteuid().is_root() && tool, "root, to become somebody else, and setpriv") {
        return;
    }
    let system = System::with(UNSIGNED);
    // The program may lie where nobody else can read it.
    fs::copy(binary(), system.path("binhostfs")).unwrap();
    let program = system.path("binhostfs");
    let words = ["--reuid=65534", "--regid=65534", "--clear-groups", program.to_str().unwrap(), "check-config"];
    let output = system.command("setpriv", &words).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("binhost.home.url = https://packages.example/x"));
}

#[test]
fn mount_needs_no_option() {
    if !can_mount() {
        return;
    }
    let package = Package::new("hello-1", 4096);
    let origin = Origin::with(std::slice::from_ref(&package));
    let system = System::with(&format!("[home]\nsync-uri = {}\nverify-signature = false\n", origin.url()));
    let mut mounted = Options::of_portage_here().mount_in(system.0);
    assert_eq!(mounted.listing(), [package.path.as_str()]);
    assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes);
    // What runs is no reason to say that it could not.
    let root = mounted.place().to_str().unwrap().to_owned();
    let output = Command::new(binary()).args(["check-config", "--portage-root", &root]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("warning: binhostfs is mounted on "));
    assert!(mounted.is_mounted());
    assert_eq!(mounted.stop(), Some(0));
}

#[test]
fn defaults_in_the_help_are_those_of_the_program() {
    let help = Command::new(binary()).args(["mount", "-h"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    for default in [
        binhostfs::internals::config::DEFAULT_CACHE_DIR,
        binhostfs::internals::config::DEFAULT_CONTROL,
        binhostfs::internals::config::DEFAULT_KEYRING,
        binhostfs::internals::config::DEFAULT_CONFIG,
        "8G",
        "30m",
    ] {
        assert!(help.contains(&format!("[default: {default}")), "{default}: {help}");
    }
    assert_eq!(binhostfs::internals::config::DEFAULT_CACHE_SIZE.0, 8 << 30);
    assert_eq!(binhostfs::internals::config::DEFAULT_REFRESH.as_secs(), 1800);
}

#[test]
fn a_drop_in_has_the_paths_that_the_daemon_needs() {
    let system = System::with(UNSIGNED);
    let drop_in = |more: &[&str]| {
        let output = system.check(&[&["--systemd"], more].concat());
        let lines = String::from_utf8(output.stdout).unwrap();
        (
            output.status.code(),
            lines.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>(),
        )
    };
    // The files of this test are below /tmp.
    let root = fs::canonicalize(system.0.path()).unwrap();
    let temporary = if root.starts_with("/tmp") || root.starts_with("/var/tmp") { &["PrivateTmp=no"][..] } else { &[] };
    let expected = |more: &[&str]| {
        let lines = [&["[Service]", "ProtectSystem=strict"], temporary, more].concat();
        (Some(0), lines.into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    assert_eq!(drop_in(&[]), expected(&[]));
    // What a unit gives a meaning of its own.
    let odd = "/srv/a b%i\"\\\u{e9}";
    assert_eq!(drop_in(&["--cache-dir", odd]), expected(&["ReadWritePaths=\"/srv/a b%%i\\\"\\\\\u{e9}\""]));
    assert_eq!(drop_in(&["--cache-dir", "/srv/a\nb"]), (Some(2), Vec::new()));
    // What is in /run is made by systemd.
    let control = |path: &str| drop_in(&["--control", path]);
    assert_eq!(control("/run/other/c.sock"), expected(&["RuntimeDirectory=\"other\""]));
    assert_eq!(control("/srv/other/c.sock"), expected(&["ReadWritePaths=\"/srv/other\""]));
    // All of these directories would be writable.
    for path in ["/run/c.sock", "/c.sock", "/var/c.sock"] {
        assert_eq!(control(path), (Some(2), Vec::new()), "{path}");
    }
    // What does not start gets none.
    assert_eq!(drop_in(&["--verify-signature", "true", "--keyring", "/none"]), (Some(2), Vec::new()));
    let output = system.check(&["--systemd", "--json"]);
    assert_eq!(output.status.code(), Some(2));
}
