//! One file, two packages: a signed one for who reads a plain tar, and another for Portage, which opens a container with
//! Python's `tarfile.open(file, "r")` and so tries compressed tars first.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::portage::{Emerge, test_environment};
use crate::harness::signed::{Members, Real, binhost, pkgdir_of, serve, with_keys};
use crate::harness::{Gpg, eventually, gpg};

const EIO: Option<i32> = Some(5);

/// `package` with another in it, which installs `/owned`, in one of the forms of `polyglot.py`.
fn polyglot(package: &Real, form: &str) -> Real {
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let [from, to] = ["signed.gpkg.tar", "polyglot.gpkg.tar"].map(|name| place.path().join(name));
    fs::write(&from, &package.bytes).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/portage/polyglot.py");
    let python = test_environment().unwrap().join("venv/bin/python");
    let made = Command::new(python).arg(script).arg(form).args([&from, &to]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    package.with(fs::read(&to).unwrap())
}

/// An emerge that trusts the key that the binhost's packages are signed with.
fn emerge(pkgdir: &Path) -> Emerge {
    Emerge::from(pkgdir.to_owned()).with("MODE", "-K")
}

#[test]
fn a_package_hidden_in_a_signed_one_is_not_installed() {
    let Some((key, header, packages)) = binhost("gpkg-signed") else { return };
    let signed = packages.iter().find(|package| package.path.starts_with("acct-group/demo/")).unwrap();
    for form in ["bzip2", "lzma", "lzma-max", "lzip"] {
        let polyglot = polyglot(signed, form);
        // What it is for: Portage takes it from a plain directory, and installs what nobody signed.
        let plain = pkgdir_of(&header, std::slice::from_ref(&polyglot));
        let attacked = emerge(plain.path());
        attacked.succeed(["acct-group/demo"]);
        assert!(attacked.path("owned").exists(), "{form}: the attack itself does not work");

        let origin = serve(&header, std::slice::from_ref(&polyglot));
        let mounted = with_keys(&origin, &key).mount();
        assert_eq!(mounted.listing(), [polyglot.path.as_str()]);
        let safe = emerge(&mounted.mountpoint());
        let ended = safe.run(["acct-group/demo"]);
        assert!(ended.code == Some(1) && safe.names().is_empty(), "{form}: {}", ended.output);
        assert!(!safe.path("owned").exists(), "{form}");
        let reason = mounted.reason(&polyglot.path).unwrap();
        assert!(reason.contains("checking the GPKG container"), "{form}: {reason}");
        assert!(mounted.blobs().is_empty());
        eventually(20, "it leaves the index", || mounted.listing().is_empty());
    }

    // The package itself is none the worse for it.
    let origin = serve(&header, std::slice::from_ref(signed));
    let mounted = with_keys(&origin, &key).mount();
    let safe = emerge(&mounted.mountpoint());
    safe.succeed(["acct-group/demo"]);
    assert!(!safe.path("owned").exists());
}

/// The blocks of a tar's member whose name is in front of it.
fn long_name(field: &[u8], path: &str) -> Vec<u8> {
    let long = format!("{path}\0");
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..field.len()].copy_from_slice(field);
    header.set_mode(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(long.len() as u64);
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_cksum();
    let mut blocks = [header.as_bytes(), long.as_bytes()].concat();
    blocks.resize(blocks.len().next_multiple_of(512), 0);
    blocks
}

/// A signed package that begins like something compressed.
fn beginning_with(package: &Real, gpg: &Gpg, key: &str, field: &[u8]) -> Real {
    let directory = "x".repeat(150);
    let mut members = Members::of(&package.bytes);
    members.sign(gpg, &["--local-user", key]);
    members.directory.clone_from(&directory);
    let mut bytes = members.tar();
    let first = &members.members[0].0;
    bytes.splice(..0, long_name(field, &format!("{directory}/{first}")));
    package.with(bytes)
}

#[test]
fn nothing_that_begins_like_a_compressed_file_is_served() {
    let Some((_, header, packages)) = binhost("gpkg-signed") else { return };
    let Some(gpg) = gpg() else { return };
    let key = gpg.key("binhost", "ed25519", "sign", "0", None);
    let beginnings: [&[u8]; 8] = [
        b"BZh91AY&SY",
        b"\x1f\x8b\x08",
        b"\xfd7zXZ\0",
        // LZMA has no magic; the window's size is 8 MiB, and as large as it can be.
        b"]\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff",
        b"]\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"LZIP\x01\x0c",
        // zstd: a frame, and one that is skipped.
        b"\x28\xb5\x2f\xfd",
        b"P*M\x18",
    ];
    let hidden = beginnings.iter().zip(&packages);
    let hidden: Vec<Real> = hidden.map(|(field, package)| beginning_with(package, &gpg, &key, field)).collect();
    let rest = &beginnings[hidden.len()..];
    let again = rest.iter().zip(&packages);
    let again: Vec<Real> = again.map(|(field, package)| beginning_with(package, &gpg, &key, field)).collect();
    let keyring = gpg.write("key.pgp", &gpg.export(&[&key]));
    for packages in [hidden, again] {
        let origin = serve(&header, &packages);
        let mounted = with_keys(&origin, &keyring).mount();
        for package in &packages {
            assert_eq!(fs::read(mounted.path(&package.path)).unwrap_err().raw_os_error(), EIO, "{}", package.path);
            let reason = mounted.reason(&package.path).unwrap();
            assert!(reason.contains("checking the GPKG container"), "{reason}");
        }
        assert!(mounted.blobs().is_empty());
        eventually(20, "they leave the index", || mounted.listing().is_empty());
    }
}
