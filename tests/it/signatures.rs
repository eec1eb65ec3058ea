//! OpenPGP: packages that the real Portage signed, the same packages signed by keys of all kinds, and what becomes of a cache
//! when the policy or the keyring changes. gpg is asked about every Manifest, and must agree.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use binhostfs::index::{Cpv, Digest, Entry, PkgPath};
use binhostfs::verify::{Keyring, Policy, recheck};
use blake2::Blake2b512;
use md5::{Digest as _, Md5};
use sha1::Sha1;
use sha2::Sha512;

use crate::harness::portage::test_environment;
use crate::harness::{Gpg, Mounted, Options, Origin, Package, binary, can_mount, eventually, have};

const EIO: Option<i32> = Some(5);
const LONG_AGO: &str = "20200101T120000!";

fn gpg() -> Option<Gpg> {
    let gpg = Gpg::new();
    have(gpg.is_some(), "gpg");
    gpg
}

/// A package that Portage made, and its entry in Portage's index.
#[derive(Debug, Clone)]
struct Real {
    path: String,
    stanza: String,
    bytes: Vec<u8>,
}

/// A binhost that Portage made.
fn binhost(name: &str) -> Option<(PathBuf, String, Vec<Real>)> {
    if !can_mount() {
        return None;
    }
    let environment = test_environment()?;
    let directory = environment.join("binhosts").join(name);
    let text = fs::read_to_string(directory.join("Packages")).unwrap();
    let (header, entries) = text.split_once("\n\n").unwrap();
    let real = |stanza: &str| {
        let path = stanza.lines().find_map(|line| line.strip_prefix("PATH: ")).unwrap().to_owned();
        Real { bytes: fs::read(directory.join(&path)).unwrap(), stanza: stanza.to_owned(), path }
    };
    let packages = entries.split("\n\n").filter(|stanza| !stanza.trim().is_empty()).map(real).collect();
    Some((environment.join("env/signing-key.pgp"), header.to_owned(), packages))
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Real {
    /// With other bytes, and an entry that is right for them.
    fn with(&self, bytes: Vec<u8>) -> Self {
        let line = |line: &str| match line.split_once(": ") {
            Some(("SIZE", _)) => format!("SIZE: {}\n", bytes.len()),
            Some(("MD5", _)) => format!("MD5: {}\n", hex(&Md5::digest(&bytes))),
            Some(("SHA1", _)) => format!("SHA1: {}\n", hex(&Sha1::digest(&bytes))),
            _ => format!("{line}\n"),
        };
        let stanza = self.stanza.lines().map(line).collect::<String>().trim_end().to_owned();
        Self { path: self.path.clone(), stanza, bytes }
    }

    /// With the members and the Manifest that `change` makes of it.
    fn changed(&self, change: impl FnOnce(&mut Members)) -> Self {
        let mut members = Members::of(&self.bytes);
        change(&mut members);
        self.with(members.tar())
    }

    fn manifest(&self) -> Vec<u8> {
        Members::of(&self.bytes).manifest
    }
}

/// A GPKG, taken apart.
#[derive(Debug)]
struct Members {
    directory: String,
    members: Vec<(String, Vec<u8>)>,
    manifest: Vec<u8>,
}

impl Members {
    fn of(bytes: &[u8]) -> Self {
        let (mut members, mut manifest, mut prefix) = (Vec::new(), Vec::new(), String::new());
        for entry in tar::Archive::new(bytes).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            let (directory, name) = path.split_once('/').unwrap();
            directory.clone_into(&mut prefix);
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            if name == "Manifest" {
                manifest = bytes;
            } else {
                members.push((name.to_owned(), bytes));
            }
        }
        Self { directory: prefix, members, manifest }
    }

    /// The text that its Manifest must have.
    fn text(&self) -> String {
        let line = |(name, bytes): &(String, Vec<u8>)| {
            let (sha512, blake2b) = (hex(&Sha512::digest(bytes)), hex(&Blake2b512::digest(bytes)));
            format!("DATA {name} {} SHA512 {sha512} BLAKE2B {blake2b}\n", bytes.len())
        };
        self.members.iter().map(line).collect()
    }

    fn without_signatures(&mut self) {
        self.members.retain(|(name, _)| !name.ends_with(".sig"));
        self.manifest = self.text().into_bytes();
    }

    /// Signs members and Manifest by a key.
    fn sign(&mut self, gpg: &Gpg, options: &[&str]) {
        self.without_signatures();
        let sign = |(name, bytes): &(String, Vec<u8>)| (format!("{name}.sig"), gpg.detach(options, bytes));
        let signatures: Vec<_> = self.members.iter().filter(|(name, _)| name.contains(".tar")).map(sign).collect();
        self.members.extend(signatures);
        self.manifest = gpg.clearsign(options, self.text().as_bytes());
    }

    fn tar(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let all = self.members.iter().map(|(name, bytes)| (name.as_str(), bytes));
        for (name, bytes) in all.chain([("Manifest", &self.manifest)]) {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_entry_type(tar::EntryType::Regular);
            builder.append_data(&mut header, format!("{}/{name}", self.directory), bytes.as_slice()).unwrap();
        }
        builder.into_inner().unwrap()
    }
}

fn serve(header: &str, packages: &[Real]) -> Origin {
    let origin = Origin::start();
    publish(&origin, header, packages);
    origin
}

fn publish(origin: &Origin, header: &str, packages: &[Real]) {
    let mut text = format!("{header}\n\n");
    for Real { path, stanza, bytes } in packages {
        origin.put(path, bytes.clone());
        text += &format!("{stanza}\n\n");
    }
    origin.put_index(text.as_bytes());
}

fn with_keys(origin: &Origin, keyring: &Path) -> Options {
    Options::new(origin.url()).with(["--keyring", keyring.to_str().unwrap()])
}

fn readable(mounted: &Mounted, package: &Real) -> bool {
    match fs::read(mounted.path(&package.path)) {
        Ok(bytes) => {
            assert!(bytes == package.bytes, "{}", package.path);
            true
        }
        Err(error) => {
            assert_eq!(error.raw_os_error(), EIO, "{}", package.path);
            false
        }
    }
}

fn refresh(mounted: &Mounted) {
    let asked = Command::new(binary()).args(["refresh", "--control"]).arg(mounted.control()).output().unwrap();
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
}

#[test]
fn what_portage_signed_is_readable_with_its_key_and_with_no_other() {
    let Some((key, header, packages)) = binhost("gpkg-signed") else { return };
    let origin = serve(&header, &packages);
    let mounted = with_keys(&origin, &key).mount();
    for package in &packages {
        assert!(readable(&mounted, package));
        assert!(Gpg::verifies(&fs::read(&key).unwrap(), &package.manifest()));
    }
    assert_eq!(mounted.status()["binhosts"][0]["keyring"]["keys"], 1);
    drop(mounted);

    let Some(gpg) = gpg() else { return };
    let other = gpg.key("other", "ed25519", "sign", "0", None);
    let other = gpg.write("other.pgp", &gpg.export(&[&other]));
    let mounted = with_keys(&origin, &other).mount();
    assert!(!readable(&mounted, &packages[0]));
    let reason = mounted.reason(&packages[0].path).unwrap();
    assert!(reason.contains("unknown key") && reason.contains("--keyring"), "{reason}");
    assert!(mounted.bodies().is_empty());
}

#[test]
fn each_kind_of_bad_signature_is_refused_with_its_own_message() {
    let Some((_, header, real)) = binhost("gpkg-signed") else { return };
    let Some(gpg) = gpg() else { return };
    let rsa = gpg.key("rsa", "rsa4096", "sign", "0", None);
    let primary = gpg.key("primary", "ed25519", "cert", "0", None);
    gpg.run(&["--quick-add-key", &primary, "ed25519", "sign", "0"], b"");
    let subkey = format!("{}!", gpg.fingerprints("primary")[1]);
    let expired = gpg.key("expired", "ed25519", "sign", "1y", Some(LONG_AGO));
    let revoked = gpg.key("revoked", "ed25519", "sign", "0", None);
    let stranger = gpg.key("stranger", "ed25519", "sign", "0", None);
    gpg.run(&["--local-user", &stranger, "--quick-sign-key", &rsa], b"");
    let by = |package: &Real, options: &[&str]| package.changed(|members| members.sign(&gpg, options));
    let bad_text = |members: &mut Members| {
        members.sign(&gpg, &["--local-user", &rsa]);
        let signed = String::from_utf8(members.manifest.clone()).unwrap();
        members.members[1].1.push(0);
        // Right for the members, and not what was signed.
        let after = signed.find("-----BEGIN PGP SIGNATURE").unwrap();
        let before = signed.find("\n\n").unwrap() + 2;
        members.manifest = format!("{}{}{}", &signed[..before], members.text(), &signed[after..]).into_bytes();
    };
    let bad_member = |members: &mut Members| {
        members.sign(&gpg, &["--local-user", &rsa]);
        let at = members.members.iter().position(|(name, _)| name.ends_with(".sig")).unwrap();
        members.members[at].1 = gpg.detach(&["--local-user", &rsa], b"other bytes");
        members.manifest = gpg.clearsign(&["--local-user", &rsa], members.text().as_bytes());
    };
    let cases = [
        (by(&real[0], &["--local-user", &rsa, "--armor"]), None),
        (by(&real[1], &["--local-user", &subkey]), None),
        (by(&real[2], &["--local-user", &expired, "--faked-system-time", LONG_AGO]), Some("expired on")),
        (by(&real[3], &["--local-user", &revoked]), Some("was revoked")),
        (by(&real[4], &["--local-user", &stranger]), Some("unknown key")),
        (real[5].changed(bad_text), Some("BAD signature")),
        (real[6].changed(Members::without_signatures), Some("there is none")),
    ];
    gpg.revoke(&revoked);
    let keyring = gpg.write("keyring.pgp", &gpg.export(&[&rsa, &primary, &expired, &revoked]));
    let packages: Vec<Real> = cases.iter().map(|(package, _)| package.clone()).collect();
    let origin = serve(&header, &packages);
    let mounted = with_keys(&origin, &keyring).mount();
    for (package, expected) in &cases {
        let gpgs = Gpg::verifies(&fs::read(&keyring).unwrap(), &package.manifest());
        assert_eq!((readable(&mounted, package), gpgs), (expected.is_none(), expected.is_none()), "{expected:?}");
        let reason = mounted.reason(&package.path);
        match expected {
            None => assert!(reason.is_none(), "{reason:?}"),
            Some(expected) => assert!(reason.as_ref().unwrap().contains(expected), "{reason:?}"),
        }
    }
    assert_eq!(mounted.bodies().len(), 2);
    drop(mounted);

    // The Manifest is good, and a member's own signature is not.
    let package = real[0].changed(bad_member);
    let origin = serve(&header, std::slice::from_ref(&package));
    let mounted = with_keys(&origin, &keyring).mount();
    assert!(!readable(&mounted, &package));
    assert!(mounted.reason(&package.path).unwrap().contains("metadata.tar"), "{:?}", mounted.reason(&package.path));
}

#[test]
fn an_xpak_is_refused_where_signatures_are_asked_for() {
    let Some((key, header, packages)) = binhost("xpak-multi") else { return };
    let origin = serve(&header, &packages);
    let mounted = with_keys(&origin, &key).mount();
    assert!(!readable(&mounted, &packages[0]));
    assert!(mounted.reason(&packages[0].path).unwrap().contains("XPAK, which cannot be signed"));
}

/// A body that came into the cache under a weaker policy is never served under a stricter one, and a good one is not
/// fetched again.
#[test]
fn a_stricter_policy_holds_for_the_cache_too() {
    let Some((key, header, mut packages)) = binhost("gpkg-signed") else { return };
    packages[1] = packages[1].changed(Members::without_signatures);
    // The same bytes once more, under a name without BUILD_ID.
    let mut second = packages[1].clone();
    second.path = "second.gpkg.tar".to_owned();
    let lines = packages[1].stanza.lines().filter(|line| !line.starts_with("BUILD_ID: "));
    let lines = lines.map(|line| if line.starts_with("PATH: ") { "PATH: second.gpkg.tar" } else { line });
    second.stanza = lines.collect::<Vec<_>>().join("\n");
    packages.push(second.clone());
    let origin = serve(&header, &packages);
    let mounted = Options::new(origin.url()).mount();
    for package in [&packages[0], &packages[1], &second] {
        assert!(readable(&mounted, package));
    }
    assert_eq!(mounted.bodies().len(), 2);

    let mut mounted = with_keys(&origin, &key).mount_in(mounted.into_place());
    assert!(readable(&mounted, &packages[0]));
    assert_eq!(origin.asked(&packages[0].path).len(), 1, "proved from the disk");
    assert!(!readable(&mounted, &packages[1]) && !readable(&mounted, &second));
    assert!(mounted.reason(&second.path).unwrap().contains("there is none"));
    assert_eq!(mounted.bodies().len(), 1);
    // From now on it is known to be signed.
    let adopted = mounted.counter("adopted");
    assert!(readable(&mounted, &packages[0]));
    assert_eq!((adopted, mounted.counter("adopted")), (1, 1));
    mounted.stop();
    mounted.start();
    assert!(readable(&mounted, &packages[0]));
    assert_eq!((mounted.counter("adopted"), origin.asked(&packages[0].path).len()), (0, 1));
}

#[test]
fn a_changed_keyring_counts_at_the_next_open() {
    let Some((key, header, packages)) = binhost("gpkg-signed") else { return };
    let Some(gpg) = gpg() else { return };
    let other = gpg.key("other", "ed25519", "sign", "0", None);
    let package = packages[0].changed(|members| members.sign(&gpg, &["--local-user", &other]));
    let good = gpg.export(&[&other]);
    gpg.revoke(&other);
    let portage = fs::read(&key).unwrap();
    let keyring = gpg.write("keyring.pgp", &[good.clone(), portage.clone()].concat());
    let origin = serve(&header, &[package.clone(), packages[1].clone()]);
    let mounted = with_keys(&origin, &keyring).mount();
    assert!(readable(&mounted, &package) && readable(&mounted, &packages[1]));

    fs::write(&keyring, "broken").unwrap();
    assert!(readable(&mounted, &package), "the last good content counts");
    assert!(mounted.status()["binhosts"][0]["keyring"]["problems"][0].as_str().unwrap().contains("keyring.pgp"));

    fs::write(&keyring, [gpg.export(&[&other]), portage].concat()).unwrap();
    assert!(!readable(&mounted, &package));
    assert!(mounted.reason(&package.path).unwrap().contains("was revoked"));
    assert!(readable(&mounted, &packages[1]), "the other key is what it was");
    assert_eq!(origin.asked(&packages[1].path).len(), 1);

    fs::write(&keyring, good).unwrap();
    refresh(&mounted);
    eventually(20, "it can be read again", || fs::read(mounted.path(&package.path)).is_ok());
}

#[test]
fn what_was_refused_under_one_keyring_is_shown_again_under_another() {
    let Some((key, header, packages)) = binhost("gpkg-signed") else { return };
    let Some(gpg) = gpg() else { return };
    let other = gpg.key("other", "ed25519", "sign", "0", None);
    let keyring = gpg.write("keyring.pgp", &gpg.export(&[&other]));
    let origin = serve(&header, &packages[..1]);
    let mut mounted = with_keys(&origin, &keyring).mount();
    assert!(!readable(&mounted, &packages[0]));
    eventually(20, "it leaves the index", || mounted.listing().is_empty());
    // Not by a restart with the same keys.
    mounted.stop();
    mounted.start();
    assert!(mounted.listing().is_empty());
    mounted.stop();
    fs::copy(&key, &keyring).unwrap();
    mounted.start();
    assert_eq!(mounted.listing(), [packages[0].path.as_str()]);
    assert!(readable(&mounted, &packages[0]));
}

#[test]
fn without_any_key_it_does_not_start() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("pkgdir")).unwrap();
    let missing = directory.path().join("nothing.asc");
    let output = Command::new(binary())
        .args(["mount", "--binhost", "http://127.0.0.1:9", "--keyring"])
        .arg(&missing)
        .arg("--cache-dir")
        .arg(directory.path().join("cache"))
        .arg(directory.path().join("pkgdir"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    for part in [
        missing.to_str().unwrap(),
        "sec-keys/openpgp-keys-gentoo-release",
        "--keyring FILE",
        "--verify-signature false",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!directory.path().join("cache").exists());

    // It is looked at while a package is opened: inside the mount it would wait for itself.
    let inside = directory.path().join("pkgdir/key.asc");
    let mut mount = Command::new(binary());
    mount.args(["mount", "--binhost", "http://127.0.0.1:9", "--keyring"]).arg(inside);
    let output = mount.arg(directory.path().join("pkgdir")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is inside the mountpoint"));
}

/// With digests of the index that are right for the flipped bytes.
#[test]
fn a_byte_flipped_at_every_4_kib_is_refused() {
    let Some(gpg) = gpg() else { return };
    let key = gpg.key("key", "ed25519", "sign", "0", None);
    let keyring = gpg.write("key.pgp", &gpg.export(&[&key]));
    let policy = Policy::Signed(Arc::new(Keyring::open([keyring]).unwrap()));
    let package = Package::new("big-1.0", 1 << 20);
    let mut members = Members::of(&package.bytes);
    members.sign(&gpg, &["--local-user", &key]);
    let mut bytes = members.tar();
    let judge = |bytes: &[u8]| {
        let entry = Entry {
            cpv: Cpv::parse(&package.cpv).unwrap(),
            path: PkgPath::parse(&package.path).unwrap(),
            size: bytes.len() as u64,
            mtime: 1,
            build_id: Some(u64::from(package.build_id)),
            build_time: None,
            md5: Some(Digest(Md5::digest(bytes).into())),
            sha1: Some(Digest(Sha1::digest(bytes).into())),
        };
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        let file: File = file;
        recheck(file, entry, &policy)
    };
    judge(&bytes).unwrap();
    let mut tried = 0;
    for at in (0..bytes.len()).step_by(4096) {
        bytes[at] ^= 0x20;
        assert!(judge(&bytes).is_err(), "at {at}");
        bytes[at] ^= 0x20;
        tried += 1;
    }
    assert!(tried > 250);
}
