//! Tests with homes that the real gpg made. Files that only a newer gpg makes follow gpg's sources.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::*;
use crate::verify::Keyring;
use crate::verify::tests::gpg::Gpg;

/// An `etc/portage` for one test, a gpg with its own keys, and the keyring of the two keys that
/// sign packages.
struct Scene {
    _portage: tempfile::TempDir,
    home: PathBuf,
    gpg: Gpg,
    keys: Vec<Fingerprint>,
    certificates: Vec<u8>,
}

/// Creates a test scene. `None`: there is no gpg.
fn scene() -> Option<Scene> {
    let gpg = Gpg::new()?;
    let names = [gpg.key("one", "ed25519", "sign", "0", None), gpg.key("two", "ed25519", "cert", "0", None)];
    gpg.run(&["--quick-add-key", &names[1], "ed25519", "sign", "0"], b"");
    let expired = gpg.key("expired", "ed25519", "sign", "1y", Some("20200101T120000!"));
    let certificates = gpg.export(&[&names[0], &names[1], &expired]);
    let keyring = Keyring::open([gpg.write("keyring.pgp", &certificates)]).unwrap();
    let keys = keyring.primary_keys();
    let shown: Vec<String> = keys.iter().map(ToString::to_string).collect();
    assert!(shown.len() == 2 && names.iter().all(|name| shown.contains(name)), "an expired key is not asked for");
    let portage = tempfile::TempDir::with_prefix_in("bhfs-portage.", "/tmp").unwrap();
    let home = portage.path().join("gnupg");
    Some(Scene { home, _portage: portage, gpg, keys, certificates })
}

impl Scene {
    fn anchors(&self) -> Anchors {
        Anchors::of(&self.home, &self.keys)
    }

    fn advice(&self) -> String {
        self.anchors().advice(&self.home).unwrap()
    }

    /// Makes a home as getuto does at first, with a local key.
    fn getuto(&self) -> Gpg {
        let gpg = Gpg::in_home(&self.home);
        gpg.key("local", "ed25519", "sign", "0", None);
        gpg
    }
}

/// Computes the trust as getuto does at its end. Portage's gpg accepts no trust model but this one.
fn check(portage: &Gpg) {
    portage.run(&["--trust-model", "pgp", "--check-trustdb"], b"");
}

#[test]
fn without_portage_nothing_is_said() {
    let nowhere = Path::new("/nonexistent/portage/gnupg");
    let anchors = Anchors::of(nowhere, &[]);
    assert!(matches!(anchors, Anchors::NoPortage) && anchors.advice(nowhere).is_none());
}

#[test]
fn what_getuto_does_makes_it_good_step_by_step() {
    let Some(scene) = scene() else { return };
    assert!(matches!(scene.anchors(), Anchors::Missing));
    assert!(scene.advice().contains("`getuto`"), "{}", scene.advice());
    fs::create_dir(&scene.home).unwrap();
    assert!(matches!(scene.anchors(), Anchors::Missing), "an empty directory is no keyring");

    let portage = scene.getuto();
    let one = scene.gpg.export(&["one"]);
    portage.run(&["--import"], &one);
    let Anchors::Lacks(lacking) = scene.anchors() else { panic!("{:?}", scene.anchors()) };
    assert_eq!(lacking.iter().map(ToString::to_string).collect::<Vec<_>>(), [scene.gpg.fingerprints("two")[0].clone()]);
    assert!(scene.advice().contains(&scene.gpg.fingerprints("two")[0]) && scene.advice().contains("--import FILE"));

    portage.run(&["--import"], &scene.certificates);
    let Anchors::Untrusted(untrusted) = scene.anchors() else { panic!("{:?}", scene.anchors()) };
    assert_eq!(untrusted.len(), 2);
    assert!(scene.advice().contains("--quick-lsign-key"));

    check(&portage);
    assert!(matches!(scene.anchors(), Anchors::Untrusted(_)));
    for key in &scene.keys {
        portage.run(&["--quick-lsign-key", &key.to_string()], b"");
    }
    check(&portage);
    assert!(matches!(scene.anchors(), Anchors::Fine), "{:?}", scene.anchors());
    // getuto imports every day. gpg then has to compute trust again, but Portage's gpg uses the
    // stored trust.
    portage.run(&["--import"], &scene.certificates);
    assert!(matches!(scene.anchors(), Anchors::Fine));
    assert!(scene.anchors().advice(&scene.home).is_none());

    // A deleted key is absent, although its bytes may still be in the file.
    portage.run(&["--delete-keys", &scene.gpg.fingerprints("two")[0]], b"");
    assert!(matches!(scene.anchors(), Anchors::Lacks(keys) if keys.len() == 1));
}

#[test]
fn a_key_of_which_gpg_was_told_to_trust_it_is_trusted() {
    let Some(scene) = scene() else { return };
    let portage = scene.getuto();
    portage.run(&["--import"], &scene.certificates);
    let trust: String = scene.keys.iter().map(|key| format!("{key}:6:\n")).collect();
    portage.run(&["--import-ownertrust"], trust.as_bytes());
    check(&portage);
    assert!(matches!(scene.anchors(), Anchors::Fine), "{:?}", scene.anchors());
}

/// gpg keeps using a pubring.gpg from before version 2.1.
#[test]
fn an_old_keyring_counts() {
    let Some(scene) = scene() else { return };
    let portage = scene.getuto();
    portage.run(&["--import"], &scene.certificates);
    let pubring = portage.run(&["--export", "--export-options", "backup"], b"");
    fs::remove_file(scene.home.join("pubring.kbx")).unwrap();
    assert!(matches!(scene.anchors(), Anchors::Missing));
    fs::write(scene.home.join("pubring.gpg"), &pubring).unwrap();
    // gpg rewrites the file itself, with additional packets for trust.
    let third = scene.gpg.key("third", "ed25519", "sign", "0", None);
    portage.run(&["--import"], &scene.gpg.export(&[&third]));
    assert!(!scene.home.join("pubring.kbx").exists());
    for key in &scene.keys {
        portage.run(&["--quick-lsign-key", &key.to_string()], b"");
    }
    check(&portage);
    assert!(matches!(scene.anchors(), Anchors::Fine), "{:?}", scene.anchors());
    portage.run(&["--delete-keys", &scene.gpg.fingerprints("two")[0]], b"");
    assert!(matches!(scene.anchors(), Anchors::Lacks(keys) if keys.len() == 1));
}

/// Rows of keyboxd's database, as its sources describe them.
#[test]
fn the_database_of_keyboxd_counts() {
    let Some(scene) = scene() else { return };
    let home = &scene.home;
    fs::create_dir_all(home.join("public-keys.d")).unwrap();
    let row = |key: &Fingerprint| [b"row".as_slice(), key.as_bytes(), b"keyid"].concat();
    fs::write(home.join("public-keys.d/pubring.db"), row(&scene.keys[0])).unwrap();
    assert!(matches!(scene.anchors(), Anchors::Lacks(keys) if keys == scene.keys[1..]));
    fs::write(home.join("public-keys.d/pubring.db-wal"), row(&scene.keys[1])).unwrap();
    assert!(matches!(scene.anchors(), Anchors::Untrusted(keys) if keys == scene.keys), "there is no trustdb");
}

#[test]
fn a_keybox_of_long_fingerprints() {
    let portage = tempfile::tempdir().unwrap();
    let home = portage.path().join("gnupg");
    fs::create_dir(&home).unwrap();
    let blob = |kind: u8, fill: u8, flags: u16| {
        let record = [vec![fill; 32], flags.to_be_bytes().to_vec(), vec![0; 22]].concat();
        let head =
            [vec![kind, 2, 0, 0], vec![0; 8], 1_u16.to_be_bytes().to_vec(), 56_u16.to_be_bytes().to_vec()].concat();
        [(4 + u32::try_from(head.len() + record.len()).unwrap()).to_be_bytes().to_vec(), head, record].concat()
    };
    let keybox = [blob(2, 7, 0x80), blob(2, 8, 0), blob(0, 9, 0x80)].concat();
    fs::write(home.join("pubring.kbx"), &keybox).unwrap();
    let wanted = [vec![7; 32], vec![8; 20], vec![9; 32]].map(|bytes| Fingerprint::new(&bytes).unwrap());
    assert!(matches!(Anchors::of(&home, &wanted), Anchors::Lacks(keys) if keys == wanted[2..]));
    // A truncated file never causes a panic.
    for length in 0..keybox.len() {
        fs::write(home.join("pubring.kbx"), &keybox[..length]).unwrap();
        assert!(matches!(Anchors::of(&home, &wanted), Anchors::Lacks(_)));
    }
}

#[test]
fn what_cannot_be_read_is_not_called_wrong() {
    let portage = tempfile::tempdir().unwrap();
    let home = portage.path().join("gnupg");
    // A directory in place of a file is unreadable for root, too.
    fs::create_dir_all(home.join("pubring.kbx")).unwrap();
    let anchors = Anchors::of(&home, &[]);
    assert!(matches!(anchors, Anchors::Unreadable(_)));
    let advice = anchors.advice(&home).unwrap();
    assert!(advice.contains("cannot be told") && advice.contains("pubring.kbx"), "{advice}");

    if rustix::process::geteuid().is_root() {
        return;
    }
    fs::set_permissions(&home, fs::Permissions::from_mode(0o000)).unwrap();
    assert!(matches!(Anchors::of(&home, &[]), Anchors::Unreadable(_)));
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
}
