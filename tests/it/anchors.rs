//! Portage's own check of signed packages, and the warning of those whom it will surprise.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::harness::portage::{Emerge, Ended, test_environment};
use crate::harness::signed::{binhost, serve, with_keys};
use crate::harness::{Gpg, binary, can_mount, eventually, gpg, have};

/// What `getuto` is for: a signed package in PKGDIR is refused by Portage itself, whatever the mount thinks of it, as long
/// as the keyring that getuto makes is missing, lacks the key, or does not trust it.
#[test]
fn portage_refuses_signed_packages_without_its_own_keyring() {
    let Some((key, header, packages)) = binhost("gpkg-signed") else { return };
    let Some(environment) = test_environment() else { return };
    let origin = serve(&header, &packages);
    let mounted = with_keys(&origin, &key).mount();
    // gpg runs as nobody.
    let place = TempDir::with_prefix_in("bhfs-portage.", "/tmp").unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let home = place.path().join("gnupg");
    let emerge = || {
        if home.exists() {
            let files = fs::read_dir(&home).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
            files.for_each(|file| fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap());
            fs::set_permissions(&home, Permissions::from_mode(0o755)).unwrap();
        }
        let emerge = Emerge::from(mounted.mountpoint()).with("MODE", "-k");
        let emerge = emerge.with("BINPKG_GPG_VERIFY_GPG_HOME", home.to_str().unwrap());
        emerge.run(["--nodeps", "=sys-libs/glibc-2.41"])
    };
    let refuses = |why: &str| {
        let Ended { code, output } = emerge();
        assert!(code == Some(1) && output.contains("GnuPG verification failed") && output.contains(why), "{output}");
    };
    refuses("signed with at least one unknown key");
    let portage = Gpg::in_home(&home);
    portage.key("local", "ed25519", "sign", "0", None);
    refuses("signed with at least one unknown key");
    portage.run(&["--import"], &fs::read(&key).unwrap());
    refuses("known key of undefined trust");
    let fingerprint = fs::read_to_string(environment.join("env/gnupg-sign/KEYID")).unwrap();
    portage.run(&["--quick-lsign-key", fingerprint.trim()], b"");
    portage.run(&["--trust-model", "pgp", "--check-trustdb"], b"");
    portage.run(&["--import"], &fs::read(&key).unwrap());
    let Ended { code, output } = emerge();
    assert_eq!(code, Some(0), "{output}");
}

/// In a mount namespace with an /etc of its own.
#[test]
fn a_start_without_portages_keyring_says_what_to_run() {
    let Some(gpg) = gpg() else { return };
    let unshare = Command::new("unshare").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !can_mount() || !have(unshare, "unshare") {
        return;
    }
    let one = gpg.key("one", "ed25519", "sign", "0", None);
    let keyring = gpg.write("keyring.pgp", &gpg.export(&[&one]));
    for (portage, expected) in [("true", None), ("mkdir /etc/portage", Some("getuto"))] {
        let place = TempDir::with_prefix("binhostfs-it.").unwrap();
        fs::create_dir(place.path().join("pkgdir")).unwrap();
        let log = fs::File::create(place.path().join("log")).unwrap();
        let mut command = Command::new("unshare");
        let script = format!("mount -t tmpfs none /etc && {portage} && exec \"$@\"");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh", binary(), "mount"]);
        command.args(["--binhost", "http://127.0.0.1:9", "--keyring"]).arg(&keyring);
        command.arg("--cache-dir").arg(place.path().join("cache")).arg("--control").arg(place.path().join("control"));
        let mut child = command.arg(place.path().join("pkgdir")).stdin(Stdio::null()).stderr(log).spawn().unwrap();
        let said = || fs::read_to_string(place.path().join("log")).unwrap();
        // The last thing that a start says.
        eventually(60, "it is mounted", || said().contains("pkgdir: "));
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        child.wait().unwrap();
        let lines: Vec<String> = said().lines().filter(|line| line.contains("keyring")).map(str::to_owned).collect();
        assert_eq!(lines.len(), usize::from(expected.is_some()), "{}", said());
        if let Some(expected) = expected {
            assert!(
                lines[0].contains("WARN") && lines[0].contains(expected) && lines[0].contains("/etc/portage/gnupg")
            );
        }
    }
}
