//! OpenPGP: packages that the real Portage signed, the same packages signed by keys of all kinds, and what becomes of a cache
//! when the policy or the keyring changes. gpg is asked about every Manifest, and must agree.

use std::fs::{self, File};
use std::io::{Seek as _, Write as _};
use std::process::Command;
use std::sync::Arc;

use binhostfs::internals::index::{Digest, Entry, PkgPath};
use binhostfs::internals::portage::Cpv;
use binhostfs::internals::verify::{Keyring, Policy, recheck};
use md5::{Digest as _, Md5};
use sha1::Sha1;

use crate::harness::signed::{Members, Real, binhost, serve, with_keys};
use crate::harness::{Gpg, Mounted, Options, Package, binary, eventually, gpg};

const EIO: Option<i32> = Some(5);
const LONG_AGO: &str = "20200101T120000!";

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
    assert!(mounted.blobs().is_empty());
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
    assert_eq!(mounted.blobs().len(), 2);
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
    let Some((key, header, mut packages)) = binhost("xpak-multi") else { return };
    let disguised = packages[0].disguised();
    packages[0] = disguised.clone();
    let origin = serve(&header, &packages);
    let mounted = with_keys(&origin, &key).mount();
    // Those whose name says what they are are not even shown, as with Portage's verify-signature.
    assert_eq!(mounted.listing(), [&*disguised.path]);
    assert_eq!(
        mounted.status()["binhosts"][0]["entries"]["unsigned_format"].as_u64().unwrap() as usize,
        packages.len() - 1
    );
    assert!(!readable(&mounted, &disguised));
    assert!(mounted.reason(&disguised.path).unwrap().contains("XPAK, which cannot be signed"));
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
    assert_eq!(mounted.blobs().len(), 2);

    let mut mounted = with_keys(&origin, &key).mount_in(mounted.into_place());
    assert!(readable(&mounted, &packages[0]));
    assert_eq!(origin.asked(&packages[0].path).len(), 1, "proved from the disk");
    assert!(!readable(&mounted, &packages[1]) && !readable(&mounted, &second));
    assert!(mounted.reason(&second.path).unwrap().contains("there is none"));
    assert_eq!(mounted.blobs().len(), 1);
    // From now on it is known to be signed.
    let adopted = mounted.counter("recovered");
    assert!(readable(&mounted, &packages[0]));
    assert_eq!((adopted, mounted.counter("recovered")), (1, 1));
    mounted.stop();
    mounted.start();
    assert!(readable(&mounted, &packages[0]));
    assert_eq!((mounted.counter("recovered"), origin.asked(&packages[0].path).len()), (0, 1));
}

/// What is proved again before anybody asks for it obeys the policy of its binhost.
#[test]
fn a_lost_catalogue_brings_back_nothing_unsigned() {
    let Some((key, header, mut packages)) = binhost("gpkg-signed") else { return };
    packages[1] = packages[1].changed(Members::without_signatures);
    let origin = serve(&header, &packages);
    let mut mounted = Options::new(origin.url()).mount();
    assert!(packages.iter().all(|package| readable(&mounted, package)));
    assert_eq!(mounted.blobs().len(), packages.len());
    assert_eq!(mounted.stop(), Some(0));
    fs::remove_dir_all(mounted.cache().join("v1/catalogue")).unwrap();

    let mounted = with_keys(&origin, &key).mount_in(mounted.into_place());
    eventually(60, "all are looked at", || mounted.log().contains("were proved again and kept"));
    assert_eq!(mounted.counter("recovered") as usize, packages.len() - 1, "{}", mounted.log());
    assert_eq!(origin.package_requests(), packages.len());
    assert!(!readable(&mounted, &packages[1]) && readable(&mounted, &packages[0]));
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
    mounted.runs(&["refresh"]);
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
    let policy = Policy::signed(Arc::new(Keyring::open([keyring]).unwrap()));
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
