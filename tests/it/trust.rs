//! What signatures are for: the real emerge installs what is well signed, what is not is refused with its own reason and
//! built from source the next time, and no path leads to its bytes.

use std::fs::{self, File, Permissions};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::{CWD, Mode, OFlags, openat};
use tempfile::TempDir;

use crate::harness::portage::{self, Emerge, Nginx};
use crate::harness::signed::{Members, Real, binhost, pkgdir_of, serve, with_keys};
use crate::harness::{Gpg, Mounted, Options, eventually, gpg};

const EIO: Option<i32> = Some(5);
const LONG_AGO: &str = "20200101T120000!";

fn ended<'a>(packages: &'a [Real], end: &str) -> &'a Real {
    packages.iter().find(|package| package.path.ends_with(end)).unwrap_or_else(|| panic!("no {end}"))
}

/// A keyring for Portage itself, in which `certificates` are trusted; as getuto leaves it.
fn portages_keyring(certificates: &[u8], keys: &[&str]) -> TempDir {
    let place = TempDir::with_prefix_in("bhfs-portage.", "/tmp").unwrap();
    let home = place.path().join("gnupg");
    let gpg = Gpg::in_home(&home);
    gpg.run(&["--import"], certificates);
    let trust: String = keys.iter().map(|key| format!("{key}:6:\n")).collect();
    gpg.run(&["--trust-model", "pgp", "--import-ownertrust"], trust.as_bytes());
    gpg.run(&["--trust-model", "pgp", "--check-trustdb"], b"");
    // gpg runs as nobody.
    for path in [place.path(), &home] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    for name in ["pubring.kbx", "trustdb.gpg"] {
        fs::set_permissions(home.join(name), Permissions::from_mode(0o644)).unwrap();
    }
    place
}

#[test]
fn what_portage_signed_installs_under_the_strict_policy() {
    let Some(directory) = portage::binhost("gpkg-signed") else { return };
    let Some((key, ..)) = binhost("gpkg-signed") else { return };
    for features in ["", "binpkg-request-signature"] {
        let nginx = Nginx::serve(&directory);
        let mounted = Options::new(nginx.url()).with(["--keyring", key.to_str().unwrap()]).mount();
        let emerge = Emerge::from(mounted.mountpoint()).with("MODE", "-k").with("FEATURES", features);
        emerge.succeed(["app-misc/greet"]);
        assert_eq!((emerge.says("usr/bin/greet"), emerge.names().len()), ("greet-0.9".to_owned(), 7));
        assert_eq!(nginx.fetched(), emerge.sources(&directory));
        assert!(mounted.status()["refused"].as_array().unwrap().is_empty());
    }
}

/// The bad ones of a binhost: a package of each kind and what is said of it.
fn bad(gpg: &Gpg, keys: &Keys, signed: &[Real], plain: &[Real], xpak: &[Real]) -> Vec<(Real, &'static str)> {
    let by = |package: &Real, options: &[&str]| package.changed(|members| members.sign(gpg, options));
    let local = |key| ["--local-user", key];
    let tampered_manifest = |members: &mut Members| {
        members.sign(gpg, &local(&keys.rsa));
        let text = String::from_utf8(members.manifest.clone()).unwrap();
        let (begin, end) = (text.find("\n\n").unwrap() + 2, text.find("-----BEGIN PGP SIGNATURE").unwrap());
        let image = members.members.iter_mut().find(|(name, _)| name.starts_with("image.tar")).unwrap();
        image.1.push(0);
        members.manifest = format!("{}{}{}", &text[..begin], members.text(), &text[end..]).into_bytes();
    };
    let tampered_member = |members: &mut Members| {
        let image = members.members.iter_mut().find(|(name, _)| name.starts_with("image.tar")).unwrap();
        image.1[100] ^= 1;
    };
    let without_one = |members: &mut Members| {
        members.sign(gpg, &local(&keys.rsa));
        members.members.retain(|(name, _)| !(name.starts_with("image.tar") && name.ends_with(".sig")));
        members.manifest = gpg.clearsign(&local(&keys.rsa), members.text().as_bytes());
    };
    let swapped = ended(signed, "greet-0.9-1.gpkg.tar").with(ended(signed, "hello-2.0-r1-1.gpkg.tar").bytes.clone());
    let [expired, faked] = [["--local-user", &keys.expired], ["--faked-system-time", LONG_AGO]];
    vec![
        (ended(signed, "acct-group/demo/demo-0-1.gpkg.tar").changed(Members::without_signatures), "there is none"),
        (by(ended(signed, "acct-user/demo/demo-0-1.gpkg.tar"), &local(&keys.stranger)), "unknown key"),
        (by(ended(signed, "glibc-2.41-1.gpkg.tar"), &[expired, faked].concat()), "expired on"),
        (by(ended(signed, "libfoo-1.3.0-1.gpkg.tar"), &local(&keys.revoked)), "was revoked"),
        (ended(signed, "hello-2.0-r1-1.gpkg.tar").changed(tampered_manifest), "BAD signature"),
        (swapped, "the package inside has CPV"),
        (ended(plain, "usesfoo-1-1.gpkg.tar").changed(without_one), "although the Manifest is signed"),
        (by(ended(plain, "many-1-1.gpkg.tar"), &local(&keys.rsa)).changed(tampered_member), "SHA512"),
        (ended(xpak, "libgreet-0-1.xpak").disguised(), "XPAK, which cannot be signed"),
    ]
}

/// Good ones of each kind of key.
fn good(gpg: &Gpg, keys: &Keys, plain: &[Real]) -> Vec<Real> {
    let by = |end: &str, key: &str| ended(plain, end).changed(|members| members.sign(gpg, &["--local-user", key]));
    vec![
        by("glibc-2.40-r3-1.gpkg.tar", &keys.rsa),
        by("libfoo-1.2.3-1.gpkg.tar", &keys.certified),
        by("hello-1.0-1.gpkg.tar", &keys.subkey),
    ]
}

/// Keys of a test.
struct Keys {
    rsa: String,
    /// With a signature of a third party's on its certificate.
    certified: String,
    primary: String,
    /// Of `primary`, to be used as it is.
    subkey: String,
    expired: String,
    revoked: String,
    stranger: String,
}

impl Keys {
    fn make(gpg: &Gpg) -> Self {
        let [rsa, certified, revoked, stranger] =
            [("rsa", "rsa4096"), ("certified", "ed25519"), ("revoked", "ed25519"), ("stranger", "ed25519")]
                .map(|(name, algorithm)| gpg.key(name, algorithm, "sign", "0", None));
        gpg.run(&["--local-user", &stranger, "--quick-sign-key", &certified], b"");
        let primary = gpg.key("primary", "ed25519", "cert", "0", None);
        gpg.run(&["--quick-add-key", &primary, "ed25519", "sign", "0"], b"");
        let subkey = format!("{}!", gpg.fingerprints("primary")[1]);
        let expired = gpg.key("expired", "ed25519", "sign", "1y", Some(LONG_AGO));
        Self { rsa, certified, primary, subkey, expired, revoked, stranger }
    }
}

fn cpv(package: &Real) -> String {
    package.stanza.lines().find_map(|line| line.strip_prefix("CPV: ")).unwrap().to_owned()
}

fn atoms<'a>(packages: impl IntoIterator<Item = &'a Real>) -> Vec<String> {
    packages.into_iter().map(|package| format!("={}", cpv(package))).collect()
}

#[test]
fn each_kind_of_bad_package_is_refused_and_built_the_next_time() {
    let (Some((_, header, signed)), Some((_, _, plain)), Some((_, _, xpak))) =
        (binhost("gpkg-signed"), binhost("gpkg-multi"), binhost("xpak-multi"))
    else {
        return;
    };
    let Some(gpg) = gpg() else { return };
    let keys = Keys::make(&gpg);
    let portage = fs::read(portage::test_environment().unwrap().join("env/signing-key.pgp")).unwrap();
    let (bad, good) = (bad(&gpg, &keys, &signed, &plain, &xpak), good(&gpg, &keys, &plain));
    gpg.revoke(&keys.revoked);
    let certificates = gpg.export(&[&keys.rsa, &keys.certified, &keys.primary, &keys.expired, &keys.revoked]);
    let keyring = gpg.write("keyring.pgp", &[certificates.clone(), portage].concat());
    let home = portages_keyring(&certificates, &[&keys.rsa, &keys.certified, &keys.primary]);
    let packages: Vec<Real> = bad.iter().map(|(package, _)| package).chain(&good).cloned().collect();
    let origin = serve(&header, &packages);
    let mounted = with_keys(&origin, &keyring).mount();
    let emerge = Emerge::from(mounted.mountpoint()).with("MODE", "-k");
    let emerge = emerge.with("BINPKG_GPG_VERIFY_GPG_HOME", home.path().join("gnupg").to_str().unwrap());
    let run = |options: &[&str], atoms: &[String]| {
        emerge.run(options.iter().copied().chain(["--nodeps"]).chain(atoms.iter().map(String::as_str)))
    };

    // Two runs: two versions in one slot do not go together.
    let (bad_atoms, good_atoms) = (atoms(bad.iter().map(|(package, _)| package)), atoms(&good));
    let plan = run(&["-p"], &bad_atoms).output;
    assert_eq!(plan.matches("[binary").count(), bad.len(), "{plan}");
    let ended = run(&["--keep-going"], &bad_atoms);
    assert!(ended.code == Some(1) && emerge.names().is_empty(), "{}", ended.output);
    let well = run(&[], &good_atoms);
    let mut installed: Vec<_> = good.iter().map(cpv).collect();
    installed.sort();
    assert_eq!((well.code, emerge.names()), (Some(0), installed), "{}", well.output);
    let log = mounted.log();
    for (package, said) in &bad {
        let failed = format!(">>> Failed to emerge {}", cpv(package));
        assert!(ended.output.contains(&failed), "{failed} is not in:\n{}", ended.output);
        let about = log.lines().filter(|line| line.contains("WARN") && line.contains(&package.path));
        assert!(about.clone().any(|line| line.contains(said)), "{said}: {:?}", about.collect::<Vec<_>>());
    }

    let refused = || mounted.status()["refused"].as_array().unwrap().clone();
    eventually(20, "all are refused", || refused().len() == bad.len());
    for (package, said) in &bad {
        let reason = refused().iter().find(|entry| entry["path"] == package.path.as_str()).unwrap()["reason"].clone();
        assert!(reason.as_str().unwrap().contains(said), "{said}: {reason}");
        assert!(fs::read(mounted.path(&package.path)).is_err());
    }
    let plan = run(&["-p"], &bad_atoms).output;
    assert_eq!((plan.matches("[ebuild").count(), plan.matches("[binary").count()), (bad.len(), 0), "{plan}");
    assert_eq!(mounted.blobs().len(), good.len());
}

/// Why a member without a signature is refused, and one of another key is not: Portage does the same.
#[test]
fn portage_wants_a_signature_of_each_member_by_any_trusted_key() {
    let Some((_, header, packages)) = binhost("gpkg-signed") else { return };
    let Some(gpg) = gpg() else { return };
    let [old, new] = ["old", "new"].map(|name| gpg.key(name, "ed25519", "sign", "0", None));
    let sign_text = |members: &mut Members| {
        members.manifest = gpg.clearsign(&["--local-user", &new], members.text().as_bytes());
    };
    let without_one = ended(&packages, "acct-group/demo/demo-0-1.gpkg.tar").changed(|members| {
        members.sign(&gpg, &["--local-user", &new]);
        members.members.retain(|(name, _)| !(name.starts_with("image.tar") && name.ends_with(".sig")));
        sign_text(members);
    });
    // As `gpkg-sign --keep-current-signature` does.
    let by_two = ended(&packages, "acct-user/demo/demo-0-1.gpkg.tar").changed(|members| {
        members.sign(&gpg, &["--local-user", &old]);
        sign_text(members);
    });
    let certificates = gpg.export(&[&old, &new]);
    let home = portages_keyring(&certificates, &[&old, &new]);
    let origin = serve(&header, &[without_one.clone(), by_two.clone()]);
    let emerge = |pkgdir: &Path, package: &Real| {
        let emerge = Emerge::from(pkgdir.to_owned()).with("MODE", "-k");
        let emerge = emerge.with("BINPKG_GPG_VERIFY_GPG_HOME", home.path().join("gnupg").to_str().unwrap());
        emerge.run(["--nodeps", &format!("={}", cpv(package))])
    };
    let plain = pkgdir_of(&header, std::slice::from_ref(&without_one));
    let portage = emerge(plain.path(), &without_one);
    assert!(portage.code == Some(1) && portage.output.contains("signature not found"), "{}", portage.output);
    // It would be no use to anybody, whatever is asked of the binhost.
    let lax = Options::new(origin.url()).mount();
    assert_eq!(fs::read(lax.path(&without_one.path)).unwrap_err().raw_os_error(), EIO);
    assert!(lax.reason(&without_one.path).unwrap().contains("only a part of it is signed"));
    let keyring = gpg.write("keyring.pgp", &certificates);
    let strict = with_keys(&origin, &keyring).mount();
    let portage = emerge(&strict.mountpoint(), &by_two);
    assert_eq!(portage.code, Some(0), "{}", portage.output);
    // When the old key goes, nothing that is known of the cached package counts any more.
    fs::write(&keyring, gpg.export(&[&new])).unwrap();
    assert_eq!(fs::read(strict.path(&by_two.path)).unwrap_err().raw_os_error(), EIO);
}

/// A python that maps a file, and says its digest when told to.
struct Mapper(Child);

impl Mapper {
    fn of(path: &Path) -> Self {
        let program = "import hashlib, mmap, sys\n\
                       with open(sys.argv[1], 'rb') as f: m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\n\
                       print('mapped', flush=True)\n\
                       sys.stdin.readline()\n\
                       print(hashlib.md5(m).hexdigest())";
        let mut command = Command::new("python3");
        command.args(["-c", program]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut mapper = Self(command.spawn().unwrap());
        let mut line = [0; 7];
        mapper.0.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        assert_eq!(&line, b"mapped\n");
        mapper
    }

    fn md5(mut self) -> String {
        drop(self.0.stdin.take());
        let mut line = String::new();
        BufReader::new(self.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.0.wait().unwrap();
        line.trim_end().to_owned()
    }
}

/// Opens it in all the ways there are; the errors.
fn ways(mounted: &Mounted, package: &Real, held: &File, directory: &File) -> Vec<Option<i32>> {
    let path = mounted.path(&package.path);
    let name = path.file_name().unwrap();
    let reopened = PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()));
    let at = |directory: &File| openat(directory, name, OFlags::RDONLY | OFlags::DIRECT, Mode::empty());
    let raw = |error: std::io::Error| error.raw_os_error();
    vec![
        File::open(&path).map_err(raw).unwrap_err(),
        fs::copy(&path, mounted.place().join("copy")).map_err(raw).unwrap_err(),
        File::open(reopened).map_err(raw).unwrap_err(),
        at(directory).map_err(|error| Some(error.raw_os_error())).unwrap_err(),
    ]
}

/// Held without being open: O_PATH.
fn hold(path: &Path, more: OFlags) -> File {
    File::from(openat(CWD, path, OFlags::PATH | more, Mode::empty()).unwrap())
}

/// Whoever has a package open keeps what was verified when it was opened; nobody opens it again, by whatever way.
#[test]
fn a_key_that_goes_bad_closes_every_way_to_what_it_signed() {
    let Some((_, header, packages)) = binhost("gpkg-signed") else { return };
    let Some(gpg) = gpg() else { return };
    let [key, other] = ["key", "other"].map(|name| gpg.key(name, "ed25519", "sign", "0", None));
    let package = packages[0].changed(|members| members.sign(&gpg, &["--local-user", &key]));
    let (before, without) = (gpg.export(&[&key, &other]), gpg.export(&[&other]));
    gpg.revoke(&key);
    let revoked = gpg.export(&[&key, &other]);
    let md5 = package.stanza.lines().find_map(|line| line.strip_prefix("MD5: ")).unwrap();
    for (passthrough, after) in [("auto", &revoked), ("off", &revoked), ("auto", &without), ("off", &without)] {
        let keyring = gpg.write("keyring.pgp", &before);
        let origin = serve(&header, std::slice::from_ref(&package));
        let mounted = with_keys(&origin, &keyring).with(["--passthrough", passthrough]).mount();
        let path = mounted.path(&package.path);
        let (held, directory) = (hold(&path, OFlags::empty()), hold(path.parent().unwrap(), OFlags::DIRECTORY));
        let mut open = File::open(&path).unwrap();
        let mapper = Mapper::of(&path);
        let mut bytes = vec![0; 1000];
        open.read_exact(&mut bytes).unwrap();

        fs::write(&keyring, after).unwrap();
        assert_eq!(ways(&mounted, &package, &held, &directory), [EIO; 4]);
        eventually(20, "it leaves the index", || mounted.listing().is_empty());
        assert_eq!(ways(&mounted, &package, &held, &directory)[2], EIO);

        open.rewind().unwrap();
        bytes.clear();
        open.read_to_end(&mut bytes).unwrap();
        assert!(bytes == package.bytes);
        assert_eq!(mapper.md5(), md5);
        drop(open);
        assert!(mounted.blobs().is_empty());
    }
}

/// What was never good is not readable for a moment, and not by a name that was there before it was tried.
#[test]
fn no_way_leads_to_what_was_never_good() {
    let Some((key, header, packages)) = binhost("gpkg-signed") else { return };
    let package = packages[0].changed(Members::without_signatures);
    for passthrough in ["auto", "off"] {
        let origin = serve(&header, std::slice::from_ref(&package));
        let mounted = with_keys(&origin, &key).with(["--passthrough", passthrough]).mount();
        let path = mounted.path(&package.path);
        let (held, directory) = (hold(&path, OFlags::empty()), hold(path.parent().unwrap(), OFlags::DIRECTORY));
        assert_eq!(ways(&mounted, &package, &held, &directory), [EIO; 4]);
        assert!(mounted.blobs().is_empty() && mounted.incoming().is_empty());
    }
}

/// The same bytes under two names, one of which is not theirs: in the cache they are one body.
#[test]
fn a_second_name_does_not_help() {
    let Some((key, header, packages)) = binhost("gpkg-signed") else { return };
    let right = packages[0].clone();
    let mut wrong = ended(&packages, "hello-2.0-r1-1.gpkg.tar").with(right.bytes.clone());
    wrong.path = "app-misc/hello/second-1.gpkg.tar".to_owned();
    wrong.stanza = wrong.stanza.lines().filter(|line| !line.starts_with("PATH: ")).collect::<Vec<_>>().join("\n");
    wrong.stanza += &format!("\nPATH: {}", wrong.path);
    for passthrough in ["auto", "off"] {
        for wrong_first in [true, false] {
            let origin = serve(&header, &[right.clone(), wrong.clone()]);
            let mounted = with_keys(&origin, &key).with(["--passthrough", passthrough]).mount();
            let refuses = || {
                assert_eq!(fs::read(mounted.path(&wrong.path)).unwrap_err().raw_os_error(), EIO);
                let reason = mounted.reason(&wrong.path).unwrap();
                assert!(reason.contains("the package inside has CPV"), "{reason}");
            };
            if wrong_first {
                refuses();
            }
            assert!(fs::read(mounted.path(&right.path)).unwrap() == right.bytes);
            refuses();
            assert!(fs::read(mounted.path(&right.path)).unwrap() == right.bytes, "the good name stays");
            assert_eq!(mounted.blobs().len(), 1);
        }
    }
}
