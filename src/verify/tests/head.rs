//! Proofs of the metadata by the first and the last bytes of a package.

use std::io::Write as _;

use super::super::{Head, SignatureError, head};
use super::sample::{GPKG, Parts, container, entry, gpkg, manifest, regular, tar};
use super::signed::{Keys, keys};
use super::*;
use crate::index::AuxKey;

/// Size of an image of which a part is left out, in bytes.
const IMAGE: usize = 200_000;

/// Judges a package by its `first` first bytes, and by its last bytes from the offset `from` on.
fn seen(bytes: &[u8], first: usize, from: Option<u64>, of: &Entry, policy: &Policy) -> Result<Head, VerifyError> {
    let first = &bytes[..first.min(bytes.len())];
    let last = from.map_or(&[][..], |from| &bytes[usize::try_from(from).unwrap()..]);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[first, last].concat()).unwrap();
    head(&file, first.len() as u64, of, policy)
}

/// Judges a package by its first bytes, and adds the last bytes if they are asked for.
fn asked(bytes: &[u8], first: usize, policy: &Policy) -> Result<Head, VerifyError> {
    let of = entry(GPKG, bytes);
    match seen(bytes, first, None, &of, policy)? {
        Head::NeedsLast(from) => seen(bytes, first, Some(from), &of, policy),
        other => Ok(other),
    }
}

fn slot(head: Head) -> Option<(String, Option<VerifyError>)> {
    match head {
        Head::Values { values, refusal } => Some((values.get(AuxKey::Slot).to_owned(), refusal)),
        Head::Needs(_) | Head::NeedsLast(_) | Head::Nothing => None,
    }
}

/// Whether the result proves that the entry is right.
fn is_proof(head: &Result<Head, VerifyError>) -> bool {
    matches!(head, Ok(Head::Values { refusal: None, .. }))
}

/// Sorts the members as Portage does, with each signature behind its member.
fn in_order(mut parts: Parts) -> Parts {
    parts.sort_by_key(|(name, _)| ["gpkg-1", "metadata", "image"].map(|start| !name.starts_with(start)));
    parts
}

/// Members without signatures, and with a large image, for which no signature of the samples is
/// right.
fn of_manifest_only(keys: &Keys) -> Parts {
    let mut parts = keys.good();
    parts.retain(|(name, _)| !name.ends_with(".sig"));
    enlarge(parts)
}

fn enlarge(mut parts: Parts) -> Parts {
    parts.iter_mut().find(|(name, _)| name == "image.tar.zst").unwrap().1.resize(IMAGE, 7);
    parts
}

/// A large package as its builder signs it.
fn signed_at_the_end(keys: &Keys) -> Parts {
    let mut parts = of_manifest_only(keys);
    for at in 1..3 {
        let (name, bytes) = &parts[at];
        let signature = keys.gpg.detach(&["--local-user", &format!("{}!", keys.ed25519)], bytes);
        parts.push((format!("{name}.sig"), signature));
    }
    parts
}

fn packed(keys: &Keys, parts: &Parts) -> Vec<u8> {
    packed_by(keys, &keys.ed25519, parts, &manifest(parts))
}

fn packed_by(keys: &Keys, key: &str, parts: &Parts, text: &str) -> Vec<u8> {
    container(parts, &String::from_utf8(keys.by(key, text.as_bytes())).unwrap())
}

#[test]
fn the_first_bytes_prove_what_the_package_says_of_itself() {
    let Some(keys) = keys() else { return };
    let bytes = packed(&keys, &in_order(keys.good()));
    let (of, policy) = (entry(GPKG, &bytes), keys.policy());
    let said = |count: usize| match seen(&bytes, count, None, &of, &policy) {
        Ok(Head::Needs(more)) => {
            assert!(more > count as u64 && more <= bytes.len() as u64, "{more}");
            None
        }
        Ok(head @ Head::Values { refusal: None, .. }) => slot(head),
        other => panic!("{count}: {other:?}"),
    };
    let enough = (0..bytes.len()).step_by(64).find(|count| said(*count).is_some()).unwrap();
    assert!(enough > 1024 && said(bytes.len()).unwrap().0 == "0", "{enough}");

    // Another package, no keys, and no signatures prove nothing.
    let other = Entry { build_id: Some(7), ..of.clone() };
    let refused = seen(&bytes, enough, None, &other, &policy).unwrap_err();
    assert!(matches!(refused, VerifyError::Identity { what: "BUILD_ID", .. }), "{refused}");
    assert!(matches!(seen(&bytes, enough, None, &of, &READER), Ok(Head::Nothing)));
    let unsigned = gpkg("gz");
    let refused = asked(&unsigned, unsigned.len(), &policy).unwrap_err();
    assert!(matches!(refused, VerifyError::Signature { fault: SignatureError::Missing, .. }), "{refused}");

    // A changed byte gives the same result, or none.
    let whole = format!("{:?}", seen(&bytes, enough, None, &of, &policy).unwrap());
    for at in (0..enough).step_by(7) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x20;
        if let Ok(head @ Head::Values { .. }) = seen(&changed, enough, None, &of, &policy) {
            assert_eq!(format!("{head:?}"), whole, "{at}");
        }
    }
}

#[test]
fn the_manifest_proves_the_metadata_without_the_image() {
    let Some(keys) = keys() else { return };
    let policy = keys.policy();
    let bytes = packed(&keys, &signed_at_the_end(&keys));
    prove_by(&bytes, &entry(GPKG, &bytes), &policy).unwrap();
    let of = entry(GPKG, &bytes);
    let (mut from_image, mut from_all) = (0, 0);
    for first in (0..bytes.len()).step_by(512 + 64) {
        match seen(&bytes, first, None, &of, &policy).unwrap() {
            Head::Needs(more) => assert!(more > first as u64 && from_image == 0 && from_all == 0, "{more}"),
            Head::NeedsLast(from) => {
                let count = bytes.len() as u64 - from;
                assert!(from >= first as u64 && count <= 64 << 10, "{first} {from}");
                // No more bytes are requested than needed, and nothing is proved before they are
                // there.
                assert!(matches!(seen(&bytes, first, Some(from + 1), &of, &policy), Ok(Head::NeedsLast(_))));
                let (said, refusal) = slot(seen(&bytes, first, Some(from), &of, &policy).unwrap()).unwrap();
                assert!(said == "0" && refusal.is_none(), "{refusal:?}");
                from_image += usize::from(from > first as u64);
            }
            Head::Values { refusal: None, .. } => from_all += 1,
            other => panic!("{first}: {other:?}"),
        }
    }
    assert!(from_image > IMAGE / 600 && from_all > 0, "{from_image} {from_all}");
    // Without keys nothing is proved, and another package is refused.
    assert!(matches!(asked(&bytes, 8192, &READER), Ok(Head::Nothing)));
    let Head::NeedsLast(from) = seen(&bytes, 8192, None, &of, &policy).unwrap() else { panic!() };
    let other = Entry { build_time: Some(7), ..of.clone() };
    let refused = seen(&bytes, 8192, Some(from), &other, &policy).unwrap_err();
    assert!(matches!(refused, VerifyError::Identity { what: "BUILD_TIME", .. }), "{refused}");

    // A changed byte gives the same result, or none.
    let whole = format!("{:?}", asked(&bytes, 8192, &policy).unwrap());
    let from = usize::try_from(from).unwrap();
    for at in (0..8192).chain(from..bytes.len()).step_by(13) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x20;
        if let Ok(head @ Head::Values { refusal: None, .. }) = asked(&changed, 8192, &policy) {
            assert_eq!(format!("{head:?}"), whole, "{at}");
        }
    }
}

#[test]
fn what_is_signed_by_its_manifest_only_shows_that_an_entry_is_wrong_and_not_that_it_is_right() {
    let Some(keys) = keys() else { return };
    let bytes = packed(&keys, &of_manifest_only(&keys));
    for first in [8192, bytes.len()] {
        let (said, refusal) = slot(asked(&bytes, first, &keys.policy()).unwrap()).unwrap();
        let whole = prove_by(&bytes, &entry(GPKG, &bytes), &keys.policy()).unwrap_err();
        assert_eq!((said.as_str(), refusal.unwrap().to_string()), ("0", whole.to_string()));
    }
    // Portage does not find a signature in front of the metadata.
    let mut parts = in_order(keys.good());
    parts.swap(1, 2);
    let bytes = packed(&keys, &enlarge(parts));
    let (_, refusal) = slot(asked(&bytes, 8192, &keys.policy()).unwrap()).unwrap();
    assert_eq!(
        refusal.unwrap().to_string(),
        prove_by(&bytes, &entry(GPKG, &bytes), &keys.policy()).unwrap_err().to_string()
    );
    // The same holds for members that Portage on this machine cannot read.
    let mut parts = of_manifest_only(&keys);
    "image.tar".clone_into(&mut parts[2].0);
    for at in 1..3 {
        let signature = keys.gpg.detach(&["--local-user", &keys.rsa], &parts[at].1);
        parts.push((format!("{}.sig", parts[at].0), signature));
    }
    let bytes = packed(&keys, &parts);
    let (_, refusal) = slot(asked(&bytes, 8192, &keys.policy()).unwrap()).unwrap();
    assert!(matches!(refusal, Some(VerifyError::Uncompressed)), "{refusal:?}");
    assert!(is_proof(&asked(&bytes, 8192, &Policy { uncompressed: true, ..keys.policy() })));
}

/// Each package is refused as a whole, and its parts prove nothing.
#[test]
fn what_contradicts_itself_at_the_end_proves_nothing() {
    let Some(keys) = keys() else { return };
    let (keys, policy) = (&*keys, keys.policy());
    let parts = signed_at_the_end(keys);
    let text = manifest(&parts);
    let with = |change: &dyn Fn(&mut Parts)| {
        let mut parts = parts.clone();
        change(&mut parts);
        parts
    };
    // Manifests of metadata with other bytes, of longer metadata, and of a larger image.
    let other = |at: usize| packed_by(keys, &keys.ed25519, &parts, &manifest(&with(&|parts| parts[at].1[20] ^= 1)));
    let longer = packed_by(keys, &keys.ed25519, &parts, &manifest(&with(&|parts| parts[1].1.push(0))));
    let larger = packed_by(keys, &keys.ed25519, &parts, &manifest(&with(&|parts| parts[2].1.push(0))));
    // The Manifest was changed after it was signed.
    let signed = String::from_utf8(keys.by(&keys.ed25519, text.as_bytes())).unwrap();
    let changed = container(&parts, &signed.replacen("DATA gpkg-1 0 SHA512 ", "DATA gpkg-1 0  SHA512 ", 1));
    let less = text.lines().skip(1).map(|line| format!("{line}\n")).collect::<String>();
    let more = format!("{text}{}", text.lines().next().unwrap().replace("gpkg-1", "image.tar.xz"));
    let bad_member = with(&|parts| parts[3].1 = parts[4].1.clone());
    let twice = with(&|parts| parts.push(("image.tar.xz".to_owned(), vec![1; 100])));
    let nothing_signed = with(&|parts| parts.push(("nothing.sig".to_owned(), parts[3].1.clone())));
    let directory = |name: &str| format!("hello-2.0-r1-3/{name}");
    let mut members: Vec<_> = parts.iter().map(|(name, bytes)| regular(&directory(name), bytes)).collect();
    members.extend([regular(&directory("Manifest"), signed.as_bytes()), regular("other/name", b"")]);
    let (elsewhere, two) = (tar(&members), {
        *members.last_mut().unwrap() = regular(&directory("Manifest"), signed.as_bytes());
        tar(&members)
    });
    let mut after = packed(keys, &parts);
    *after.last_mut().unwrap() = 1;
    let mut padded = packed(keys, &parts);
    let end_of_metadata = 3 * 512 + parts[1].1.len();
    assert!(!end_of_metadata.is_multiple_of(512));
    padded[end_of_metadata] = 1;

    for (what, bytes) in [
        ("other digests of the metadata", other(1)),
        ("another size of the metadata", longer),
        ("another size of the image", larger),
        ("other digests of a signature", other(3)),
        ("no signature", container(&parts, &text)),
        ("an unknown key", packed_by(keys, &keys.stranger, &parts, &text)),
        ("another text than was signed", changed),
        ("a member without a record", packed_by(keys, &keys.ed25519, &parts, &less)),
        ("a record without a member", packed_by(keys, &keys.ed25519, &parts, &more)),
        ("a bad signature of the metadata", packed(keys, &bad_member)),
        ("two images", packed(keys, &twice)),
        ("a signature of nothing", packed(keys, &nothing_signed)),
        ("another directory", elsewhere),
        ("two Manifests", two),
        ("something after the end", after),
        ("something between two members", padded),
        ("no end", packed(keys, &parts)[..end_of(&parts)].to_vec()),
    ] {
        let of = entry(GPKG, &bytes);
        prove_by(&bytes, &of, &policy).expect_err(what);
        let judged = asked(&bytes, 8192, &policy);
        assert!(!matches!(judged, Ok(Head::Values { .. } | Head::NeedsLast(_) | Head::Needs(_))), "{what}: {judged:?}");
        // Except for the padding, the fault is in the last bytes.
        let begun = seen(&bytes, 8192, None, &of, &policy);
        assert!(
            matches!(begun, Ok(Head::NeedsLast(_))) || what == "something between two members",
            "{what}: {begun:?}"
        );
    }
}

/// Returns the offset of the Manifest of `parts`.
fn end_of(parts: &Parts) -> usize {
    parts.iter().map(|(_, bytes)| 512 + bytes.len().next_multiple_of(512)).sum()
}

#[test]
fn no_more_is_asked_for_than_the_end_of_any_real_package() {
    let Some(keys) = keys() else { return };
    let policy = keys.policy();
    // A Manifest of 80 KiB, and a package with that much padding: both pass as whole packages.
    let mut parts = signed_at_the_end(&keys);
    let text = format!("{}{}", manifest(&parts), "\n".repeat(80 << 10));
    let mut long = packed(&keys, &parts);
    long.resize(long.len() + (64 << 10), 0);
    for bytes in [packed_by(&keys, &keys.ed25519, &parts, &text), long] {
        prove_by(&bytes, &entry(GPKG, &bytes), &policy).unwrap();
        assert!(matches!(asked(&bytes, 8192, &policy), Ok(Head::Nothing)));
    }
    // Metadata that is not in front is not searched for, even if the last bytes have it.
    parts.swap(1, 2);
    let bytes = packed(&keys, &parts);
    prove_by(&bytes, &entry(GPKG, &bytes), &policy).unwrap();
    assert!(matches!(asked(&bytes, 8192, &policy), Ok(Head::Nothing)));
    // More first bytes than are ever requested.
    assert!(matches!(seen(&[0; 5 << 20], 5 << 20, None, &entry(GPKG, &[]), &policy), Ok(Head::Nothing)));
}

/// A wrong size of the image cannot shift other members: sizes beyond the end of the package, or
/// beyond all numbers.
#[test]
fn sizes_of_the_image_that_lead_nowhere() {
    let Some(keys) = keys() else { return };
    let policy = keys.policy();
    let mut parts = of_manifest_only(&keys);
    let bytes = packed(&keys, &parts);
    let mut of = entry(GPKG, &bytes);
    let end = end_of(&parts) as u64;
    for size in [end + 700, end, end - 1, 8192, 1024, 0] {
        of.size = size;
        let judged = match seen(&bytes, 8192, None, &of, &policy) {
            Ok(Head::NeedsLast(from)) => seen(&bytes[..end_of(&parts) + 700], 8192, Some(from), &of, &policy),
            judged => judged,
        };
        assert!(matches!(judged, Err(VerifyError::Gpkg(_))), "{size}: {judged:?}");
    }
    of.size = u64::MAX;
    assert!(matches!(seen(&bytes, 8192, None, &of, &policy), Ok(Head::Nothing)));
    parts.remove(2);
    let without_image = packed(&keys, &parts);
    asked(&without_image, without_image.len(), &policy).unwrap_err();
}
