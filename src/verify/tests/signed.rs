//! Compares signatures by keys of all kinds with gpg's judgement of the same Manifests.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, UNIX_EPOCH};

use parking_lot::Mutex;

use super::super::openpgp::{Certificates, Keys as OpenPgpKeys};
use super::super::{Assurance, Keyring, KeyringError, SignatureError};
use super::gpg::Gpg;
use super::sample::{GPKG, Parts, VALUES, XPAK, compress, container, entry, gpkg, manifest, metadata_tar, parts, xpak};
use super::*;

const LONG_AGO: &str = "20200101T120000!";

/// Keys of all kinds in one gpg home.
pub(super) struct Keys {
    pub(super) gpg: Gpg,
    pub(super) rsa: String,
    pub(super) ed25519: String,
    subkey: String,
    expired: String,
    revoked: String,
    not_signing: String,
    pub(super) stranger: String,
    /// Signatures that were made before the keys became unusable.
    by_expired: Vec<u8>,
    by_revoked: Vec<u8>,
    by_not_signing: Vec<u8>,
    /// A package whose members the good ed25519 key signed.
    parts: Parts,
    /// The certificates of all keys but the stranger, an old DSA key first.
    file: PathBuf,
}

/// Keys shared by the tests that run at the same time. `None`: there is no gpg, and the test is
/// skipped; tests that must not be skipped are in tests/it.
///
/// The last test removes the keys. A static would never be dropped.
pub(super) fn keys() -> Option<Arc<Keys>> {
    static KEYS: Mutex<Weak<Keys>> = Mutex::new(Weak::new());
    let mut shared = KEYS.lock();
    let keys = shared.upgrade().or_else(|| Keys::make().map(Arc::new))?;
    *shared = Arc::downgrade(&keys);
    Some(keys)
}

impl Keys {
    fn make() -> Option<Self> {
        let gpg = Gpg::new()?;
        gpg.run(&["--gen-key"], b"%no-protection\nKey-Type: DSA\nKey-Length: 1024\nName-Email: dsa@example.invalid\n");
        let dsa = gpg.fingerprints("dsa").remove(0);
        let rsa = gpg.key("rsa", "rsa4096", "sign", "0", None);
        let ed25519 = gpg.key("ed", "ed25519", "sign", "0", None);
        let stranger = gpg.key("stranger", "ed25519", "sign", "0", None);
        gpg.run(&["--local-user", &stranger, "--quick-sign-key", &ed25519], b"");
        let primary = gpg.key("primary", "ed25519", "cert", "0", None);
        gpg.run(&["--quick-add-key", &primary, "ed25519", "sign", "0"], b"");
        let subkey = gpg.fingerprints("primary").remove(1);
        let expired = gpg.key("expired", "ed25519", "sign", "1y", Some(LONG_AGO));
        let revoked = gpg.key("revoked", "ed25519", "sign", "0", None);
        let not_signing = gpg.key("other", "ed25519", "sign", "0", None);

        let parts = signed(&gpg, &format!("{ed25519}!"));
        let text = manifest(&parts);
        let by_expired = gpg.clearsign(&["--faked-system-time", LONG_AGO, "--local-user", &expired], text.as_bytes());
        let by_revoked = gpg.clearsign(&["--local-user", &revoked], text.as_bytes());
        let by_not_signing = gpg.clearsign(&["--local-user", &not_signing], text.as_bytes());
        gpg.revoke(&revoked);
        gpg.edit(&not_signing, b"change-usage\nS\nQ\nsave\n");
        let all = gpg.export(&[&dsa, &rsa, &ed25519, &primary, &expired, &revoked, &not_signing]);
        let file = gpg.write("all.pgp", &all);
        Some(Self {
            gpg,
            rsa,
            ed25519,
            subkey,
            expired,
            revoked,
            not_signing,
            stranger,
            by_expired,
            by_revoked,
            by_not_signing,
            parts,
            file,
        })
    }

    pub(super) fn good(&self) -> Parts {
        self.parts.clone()
    }

    pub(super) fn policy(&self) -> Policy {
        policy([self.file.clone()])
    }

    pub(super) fn by(&self, key: &str, text: &[u8]) -> Vec<u8> {
        self.gpg.clearsign(&["--local-user", &format!("{key}!")], text)
    }
}

fn policy(files: impl IntoIterator<Item = PathBuf>) -> Policy {
    Policy::signed(Arc::new(Keyring::open(files).unwrap()))
}

fn unsigned() -> Parts {
    parts("gz", compress("gz", &metadata_tar(&VALUES)))
}

/// Members that this key signed.
fn signed(gpg: &Gpg, key: &str) -> Parts {
    let mut parts = unsigned();
    let sign = |(name, bytes): &(String, Vec<u8>)| (format!("{name}.sig"), gpg.detach(&["--local-user", key], bytes));
    let signatures: Vec<_> = parts.iter().skip(1).map(sign).collect();
    parts.extend(signatures);
    parts
}

fn prove_signed(bytes: &[u8], policy: &Policy) -> Result<Assurance, VerifyError> {
    prove_by(bytes, &entry(GPKG, bytes), policy).map(|verified| verified.assurance())
}

fn signed_by(assurance: Result<Assurance, VerifyError>) -> String {
    assurance.unwrap().signer.expect("it is signed").fingerprint.to_string()
}

fn signature_fault(result: Result<Assurance, VerifyError>) -> SignatureError {
    match result.unwrap_err() {
        VerifyError::Signature { fault, .. } => fault,
        other => panic!("{other}"),
    }
}

/// Returns the assurance on a sound package with this signed Manifest, and checks that gpg's
/// judgement is the same.
fn assurance(keys: &Keys, signed: &[u8]) -> Result<Assurance, VerifyError> {
    let bytes = container(&keys.good(), std::str::from_utf8(signed).unwrap());
    let ours = prove_signed(&bytes, &keys.policy());
    let gpgs = Gpg::verifies(&fs::read(&keys.file).unwrap(), signed);
    assert_eq!(ours.is_ok(), gpgs, "{ours:?}");
    // If no signature is required, the signer makes no difference.
    prove(&bytes, &entry(GPKG, &bytes)).unwrap();
    ours
}

#[test]
fn good_signatures_of_all_kinds_of_keys() {
    let Some(keys) = keys() else { return };
    let keys = &*keys;
    let text = manifest(&keys.good());
    for key in [&keys.rsa, &keys.ed25519, &keys.subkey] {
        assert_eq!(signed_by(assurance(keys, &keys.by(key, text.as_bytes()))), *key);
    }
    let sha256 = keys.gpg.clearsign(&["--digest-algo", "SHA256", "--local-user", &keys.rsa], text.as_bytes());
    assert_eq!(signed_by(assurance(keys, &sha256)), keys.rsa);
}

#[test]
fn each_kind_of_bad_signature_has_its_own_error() {
    let Some(keys) = keys() else { return };
    let keys = &*keys;
    let text = manifest(&keys.good());
    let fault = |signed: &[u8]| signature_fault(assurance(keys, signed));
    let expired = fault(&keys.by_expired);
    assert!(matches!(&expired, SignatureError::Expired { key, .. } if *key == keys.expired), "{expired}");
    assert!(expired.to_string().contains(" expired on ") && expired.to_string().contains(" 2020 "), "{expired}");
    let revoked = fault(&keys.by_revoked);
    assert!(matches!(&revoked, SignatureError::Revoked { key, .. } if *key == keys.revoked), "{revoked}");
    let not_signing = fault(&keys.by_not_signing);
    assert!(matches!(&not_signing, SignatureError::NotForSigning { key } if *key == keys.not_signing), "{not_signing}");
    let unknown = fault(&keys.by(&keys.stranger, text.as_bytes()));
    assert!(matches!(&unknown, SignatureError::UnknownKey { key } if *key == keys.stranger), "{unknown}");
    let weak = ["--digest-algo", "MD5", "--allow-weak-digest-algos", "--local-user", &keys.ed25519];
    let weak = fault(&keys.gpg.clearsign(&weak, text.as_bytes()));
    assert!(matches!(&weak, SignatureError::Weak { key, .. } if *key == keys.ed25519), "{weak}");
    // This program is stricter than gpg 2.2, which still accepts both.
    let dsa = keys.by(&keys.gpg.fingerprints("dsa")[0], text.as_bytes());
    let sha1 = keys.gpg.clearsign(&["--digest-algo", "SHA1", "--local-user", &keys.ed25519], text.as_bytes());
    for signed in [dsa, sha1] {
        let bytes = container(&keys.good(), std::str::from_utf8(&signed).unwrap());
        let weak = signature_fault(prove_signed(&bytes, &keys.policy()));
        assert!(matches!(weak, SignatureError::Weak { .. }), "{weak}");
    }
}

/// The Manifest is right for the package, but the signature is of other bytes.
#[test]
fn a_signature_of_another_text_is_bad() {
    let Some(keys) = keys() else { return };
    let keys = &*keys;
    let text = manifest(&keys.good());
    let mut other = keys.good();
    other[2].1[0] ^= 1;
    let signed = String::from_utf8(keys.by(&keys.ed25519, manifest(&other).as_bytes())).unwrap();
    let (from, to) = (manifest(&other), text.as_str());
    let bad = signature_fault(assurance(keys, signed.replace(&from, to).as_bytes()));
    assert!(matches!(&bad, SignatureError::Bad { key } if *key == keys.ed25519), "{bad}");
    // The Manifest is signed, but belongs to another package.
    let bytes = container(&keys.good(), &signed);
    assert!(matches!(prove_signed(&bytes, &keys.policy()), Err(VerifyError::Gpkg(_))));
}

#[test]
fn without_a_signature_and_with_a_broken_one() {
    let Some(keys) = keys() else { return };
    let keys = &*keys;
    let text = manifest(&keys.good());
    let without = container(&keys.good(), &text);
    assert_eq!(signature_fault(prove_signed(&without, &keys.policy())), SignatureError::Missing);
    let signed = String::from_utf8(keys.by(&keys.ed25519, text.as_bytes())).unwrap();
    let (begin, end) = (signed.find("-----BEGIN PGP SIGNATURE").unwrap(), signed.find("-----END PGP SIG").unwrap());
    let broken = format!("{}-----BEGIN PGP SIGNATURE-----\n\niQIz\n=abcd\n{}", &signed[..begin], &signed[end..]);
    let fault = signature_fault(assurance(keys, broken.as_bytes()));
    assert!(matches!(fault, SignatureError::Malformed(_) | SignatureError::Missing), "{fault}");
    for (path, bytes) in [(XPAK, xpak()), ("app-misc/hello-2.0-r1.binpkg", xpak())] {
        let refused = prove_by(&bytes, &entry(path, &bytes), &keys.policy()).unwrap_err();
        assert!(matches!(refused, VerifyError::Unsignable), "{refused}");
    }
    let unsigned = gpkg("zst");
    assert_eq!(signature_fault(prove_signed(&unsigned, &keys.policy())), SignatureError::Missing);
}

/// A package whose image has this signature, and whose Manifest is good.
fn with_member_signature(keys: &Keys, signature: &[u8]) -> Vec<u8> {
    let mut parts = keys.good();
    parts.retain(|(name, _)| name != "image.tar.zst.sig");
    parts.push(("image.tar.zst.sig".to_owned(), signature.to_vec()));
    let signed = keys.by(&keys.ed25519, manifest(&parts).as_bytes());
    container(&parts, std::str::from_utf8(&signed).unwrap())
}

#[test]
fn signatures_of_members_count_where_they_are() {
    let Some(keys) = keys() else { return };
    let keys = &*keys;
    let image = unsigned().remove(2).1;
    let by = |key: &str, more: &[&str], bytes: &[u8]| {
        keys.gpg.detach(&[more, &["--local-user", &format!("{key}!")]].concat(), bytes)
    };
    for (key, more) in
        [(&keys.ed25519, &["--armor"][..]), (&keys.rsa, &["--no-armor"]), (&keys.subkey, &["--digest-algo", "SHA256"])]
    {
        let bytes = with_member_signature(keys, &by(key, more, &image));
        assert_eq!(signed_by(prove_signed(&bytes, &keys.policy())), keys.ed25519);
    }
    let fault =
        |signature: &[u8]| signature_fault(prove_signed(&with_member_signature(keys, signature), &keys.policy()));
    for more in [&["--armor"][..], &["--digest-algo", "SHA256"]] {
        assert!(matches!(fault(&by(&keys.ed25519, more, b"other bytes")), SignatureError::Bad { .. }));
    }
    assert!(matches!(fault(&by(&keys.stranger, &[], &image)), SignatureError::UnknownKey { .. }));
    assert!(matches!(fault(&by(&keys.ed25519, &["--textmode"], &image)), SignatureError::Malformed(_)));
    assert!(matches!(
        fault(&by(&keys.ed25519, &["--digest-algo", "MD5", "--allow-weak-digest-algos"], &image)),
        SignatureError::Weak { .. }
    ));
    for nonsense in [&b""[..], b"\x89\x01\x33", b"-----BEGIN PGP SIGNATURE-----", &[b'x'; 100_000]] {
        let fault = fault(nonsense);
        assert!(matches!(fault, SignatureError::Malformed(_)), "{fault}");
    }
    // Several signatures, as while keys change: one good signature is enough, and one of other
    // bytes is always an error.
    let [mine, others, wrong] = [(&keys.ed25519, &image[..]), (&keys.stranger, &image), (&keys.rsa, b"other")]
        .map(|(key, bytes)| by(key, &["--no-armor"], bytes));
    let both = with_member_signature(keys, &[others.clone(), mine.clone()].concat());
    assert_eq!(signed_by(prove_signed(&both, &keys.policy())), keys.ed25519);
    assert!(matches!(fault(&[mine, wrong].concat()), SignatureError::Bad { .. }));
    assert!(matches!(fault(&others.repeat(9)), SignatureError::Malformed(_)));
    let mut parts = keys.good();
    parts.push(("nothing.sig".to_owned(), by(&keys.ed25519, &[], &image)));
    let signed = keys.by(&keys.ed25519, manifest(&parts).as_bytes());
    let fault =
        signature_fault(prove_signed(&container(&parts, std::str::from_utf8(&signed).unwrap()), &keys.policy()));
    assert!(matches!(fault, SignatureError::Malformed(_)), "{fault}");
}

/// Portage has the same requirement.
#[test]
fn every_member_needs_its_signature() {
    let Some(keys) = keys() else { return };
    let keys = &*keys;
    for member in ["metadata.tar.gz", "image.tar.zst"] {
        let mut parts = keys.good();
        parts.retain(|(name, _)| *name != format!("{member}.sig"));
        let manifest = keys.by(&keys.ed25519, manifest(&parts).as_bytes());
        let bytes = container(&parts, std::str::from_utf8(&manifest).unwrap());
        let refused = prove_signed(&bytes, &keys.policy()).unwrap_err();
        assert!(refused.to_string().contains(member), "{refused}");
        assert_eq!(signature_fault(Err(refused)), SignatureError::MemberUnsigned);
    }
}

/// `gpkg-sign --keep-current-signature` leaves members' signatures by an older key. The assurance
/// is void when either key becomes bad.
#[test]
fn of_two_keys_both_have_to_be_good() {
    let Some(keys) = keys() else { return };
    let gpg = Gpg::new().unwrap();
    let [old, new, third] = ["old", "new", "third"].map(|name| gpg.key(name, "ed25519", "sign", "0", None));
    let parts = signed(&gpg, &old);
    let by_new = |parts: &Parts| {
        let manifest = gpg.clearsign(&["--local-user", &new], manifest(parts).as_bytes());
        container(parts, std::str::from_utf8(&manifest).unwrap())
    };
    let bytes = by_new(&parts);
    let file = gpg.write("both.pgp", &gpg.export(&[&old, &new, &third]));
    let policy = policy([file.clone()]);
    let assurance = prove_signed(&bytes, &policy).unwrap();
    assert_eq!(signed_by(Ok(assurance)), new);
    assert!(policy.admits(&assurance) && !keys.policy().admits(&assurance));
    let only_new = gpg.export(&[&new]);
    fs::write(&file, &only_new).unwrap();
    assert!(!policy.admits(&assurance));
    assert!(matches!(signature_fault(prove_signed(&bytes, &policy)), SignatureError::UnknownKey { .. }));
    // A package that the new key signed alone depends on that key only.
    let alone = by_new(&signed(&gpg, &new));
    let of_one = prove_signed(&alone, &policy).unwrap();
    gpg.revoke(&old);
    fs::write(&file, gpg.export(&[&old, &new, &third])).unwrap();
    assert!(!policy.admits(&assurance) && policy.admits(&of_one));
    assert!(matches!(signature_fault(prove_signed(&bytes, &policy)), SignatureError::Revoked { .. }));

    let mut parts = signed(&gpg, &third);
    parts[3] = signed(&gpg, &gpg.key("fourth", "ed25519", "sign", "0", None)).remove(3);
    fs::write(&file, gpg.export(&[])).unwrap();
    assert_eq!(signature_fault(prove_signed(&by_new(&parts), &policy)), SignatureError::ManyKeys);
}

/// Portage sees the text and the signature, but only the signed bytes may count.
#[test]
fn only_the_verified_text_is_the_manifest() {
    let Some(keys) = keys() else { return };
    let keys = &*keys;
    let signed = String::from_utf8(keys.by(&keys.ed25519, manifest(&keys.good()).as_bytes())).unwrap();
    let extra = format!("DATA extra 0 SHA512 {0} BLAKE2B {0}\n", "ab".repeat(64));
    let begin = signed.find("-----BEGIN PGP SIGNATURE").unwrap();
    let other = String::from_utf8(keys.by(&keys.rsa, b"something else\n")).unwrap();
    for changed in [
        format!("{extra}{signed}"),
        format!("{signed}{extra}"),
        format!("{}{extra}{}", &signed[..begin], &signed[begin..]),
        format!("{signed}{signed}"),
        format!("{other}{signed}"),
        signed.replace("\nDATA gpkg-1", "\nX-Header: 1\nDATA gpkg-1"),
        signed.replacen("\n\n", "\nDATA x\n\n", 1),
    ] {
        let bytes = container(&keys.good(), &changed);
        assert!(prove_signed(&bytes, &keys.policy()).is_err(), "{changed}");
    }
}

#[test]
fn a_flipped_bit_is_refused_even_with_the_digests_of_the_index() {
    let Some(keys) = keys() else { return };
    let keys = &*keys;
    let mut bytes =
        with_member_signature(keys, &keys.gpg.detach(&["--local-user", &keys.ed25519], &unsigned().remove(2).1));
    let policy = keys.policy();
    let mut passed = Vec::new();
    for at in (0..bytes.len()).step_by(7) {
        bytes[at] ^= 1;
        if receive_by(&bytes, &entry(GPKG, &bytes), usize::MAX, &policy).is_ok() {
            passed.push(at);
        }
        bytes[at] ^= 1;
    }
    let find = |text: &str| bytes.windows(text.len()).rposition(|part| part == text.as_bytes()).unwrap();
    // No signature covers the end of the field with a header's checksum, which has no meaning, nor
    // the line that names the hash. In the signature itself its checksum and hints such as the
    // key's id are not covered.
    let header = find("-----BEGIN PGP SIGNED")..find("\n\nDATA");
    let signature = find("-----BEGIN PGP SIGNATURE")..find("-----END PGP SIGNATURE");
    passed.retain(|at| !(154..156).contains(&(at % 512)) && !header.contains(at) && !signature.contains(at));
    assert!(passed.is_empty(), "{passed:?}");
}

#[test]
fn a_keyring_follows_its_files() {
    let Some(keys) = keys() else { return };
    let keys = &*keys;
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (directory.path().join("first.asc"), directory.path().join("second.pgp"));
    let paths = [first.clone(), second.clone()];
    let error = Keyring::open(paths.clone()).unwrap_err().to_string();
    assert!(error.contains(first.to_str().unwrap()) && error.contains("--verify-signature false"), "{error}");
    fs::write(&first, "no keys").unwrap();
    assert!(matches!(Keyring::open(paths.clone()), Err(KeyringError::Missing(_))));
    let bad = keys.gpg.export(&[&keys.expired, &keys.revoked, &keys.not_signing]);
    fs::write(&first, &bad).unwrap();
    let error = Keyring::open(paths.clone()).unwrap_err().to_string();
    assert!(["expired on", "was revoked", "not meant for signing"].iter().all(|part| error.contains(part)), "{error}");
    assert!(!error.contains("--verify-signature") && error.contains("Update the keyring"), "{error}");

    // Two armours in a row, as Gentoo's ebuild makes the file.
    let armoured = |key: &str| keys.gpg.run(&["--armor", "--export", key], b"");
    fs::write(&first, [armoured(&keys.revoked), armoured(&keys.rsa)].concat()).unwrap();
    let keyring = Arc::new(Keyring::open(paths).unwrap());
    assert_eq!(keyring.report().keys, 1);
    let policy = Policy::signed(Arc::clone(&keyring));
    let package = |key: &str| {
        let parts = signed(&keys.gpg, key);
        container(&parts, std::str::from_utf8(&keys.by(key, manifest(&parts).as_bytes())).unwrap())
    };
    let (by_rsa, by_ed25519) = (package(&keys.rsa), package(&keys.ed25519));
    let assurance = prove_signed(&by_rsa, &policy).unwrap();
    assert!(matches!(signature_fault(prove_signed(&by_ed25519, &policy)), SignatureError::UnknownKey { .. }));

    fs::write(&second, keys.gpg.export(&[&keys.ed25519])).unwrap();
    let other = prove_signed(&by_ed25519, &policy).unwrap();
    assert!(policy.admits(&assurance) && policy.admits(&other), "another key changes nothing");
    assert!(Policy::digests_only().admits(&assurance) && !policy.admits(&Assurance::default()));

    fs::write(&first, "broken").unwrap();
    assert!(policy.admits(&assurance), "what it had last counts");
    assert!(keyring.report().problems.iter().any(|problem| problem.contains("first.asc")), "{:?}", keyring.report());
    fs::remove_file(&first).unwrap();
    assert!(policy.admits(&assurance));

    fs::write(&first, &bad).unwrap();
    assert!(!policy.admits(&assurance) && policy.admits(&other));
    assert!(matches!(signature_fault(prove_signed(&by_rsa, &policy)), SignatureError::UnknownKey { .. }));
    fs::write(&first, armoured(&keys.rsa)).unwrap();
    assert!(policy.admits(&assurance), "the same certificate again");
}

/// The clock is wrong and not the keyring. A key that no later time makes usable is still refused.
#[test]
fn a_clock_before_the_keys_makes_no_keyring_useless() {
    let Some(keys) = keys() else { return };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys.pgp");
    let in_1970 = UNIX_EPOCH + Duration::from_secs(3600);
    fs::write(&file, keys.gpg.export(&[&keys.ed25519, &keys.expired])).unwrap();
    let keyring = Keyring::open_at([file.clone()], in_1970).unwrap();
    assert!(keyring.last_signed().unwrap().check(3600).unwrap_err().to_string().contains("a key of the keyring"));
    assert!(keyring.has_keys(), "it is looked at again");
    for useless in [&keys.revoked, &keys.not_signing] {
        fs::write(&file, keys.gpg.export(&[useless])).unwrap();
        assert!(matches!(Keyring::open_at([file.clone()], in_1970), Err(KeyringError::Unusable(_))), "{useless}");
    }
}

#[test]
fn keys_are_judged_again_when_something_begins_or_ends() {
    let Some(gpg) = Gpg::new() else { return };
    let key = gpg.key("brief", "ed25519", "sign", "1y", Some(LONG_AGO));
    let (certificates, problems) = Certificates::parse(&gpg.export(&[&key]));
    assert!(problems.is_empty());
    let at = |days: u64| UNIX_EPOCH + Duration::from_secs(1_577_880_000 + days * 86400);
    let judged = |days| OpenPgpKeys::new([&certificates], at(days));
    let (before, within, after) =
        (OpenPgpKeys::new([&certificates], at(0) - Duration::from_secs(1)), judged(100), judged(400));
    assert_eq!([&before, &within, &after].map(OpenPgpKeys::count), [0, 1, 0]);
    assert!(!before.is_judged_for(at(0)) && before.is_judged_for(UNIX_EPOCH));
    assert!(within.is_judged_for(at(1)) && !within.is_judged_for(at(400)) && !within.is_judged_for(UNIX_EPOCH));
}

/// Only one of two copies of a certificate has the revocation.
#[test]
fn a_revocation_counts_wherever_it_is() {
    let Some(gpg) = Gpg::new() else { return };
    let key = gpg.key("one", "ed25519", "sign", "0", None);
    let before = gpg.write("before.pgp", &gpg.export(&[&key]));
    let keyring = Arc::new(Keyring::open([before.clone()]).unwrap());
    gpg.revoke(&key);
    let after = gpg.write("after.pgp", &gpg.export(&[&key]));
    for files in [[before.clone(), after.clone()], [after, before.clone()]] {
        assert!(Keyring::open(files).unwrap_err().to_string().contains("was revoked"));
    }
    let signed = keyring.report();
    fs::copy(gpg.home().join("after.pgp"), before).unwrap();
    assert_eq!((signed.keys, keyring.report().keys), (1, 0));
}
