//! Faults of the GPKG container, each in a package that is otherwise sound and has the digests of its entry.

use super::super::{GpkgError, ManifestError, TarError};
use super::sample::{
    GPKG, Parts, VALUES, compress, container, entry, gpkg_of, header, manifest, member, metadata_tar, parts, regular,
    tar,
};
use super::*;
use tar::{EntryType, Header};

fn good() -> Parts {
    parts("gz", compress("gz", &metadata_tar(&VALUES)))
}

fn gpkg_fault(bytes: &[u8]) -> GpkgError {
    match fault(GPKG, bytes) {
        VerifyError::Gpkg(fault) => fault,
        error => panic!("{error}"),
    }
}

/// The fault of a container that has `members` after those of a good one.
fn fault_with(members: &[Vec<u8>]) -> GpkgError {
    let sound = gpkg_of(&good());
    let end = sound.len() - sound.iter().rev().take_while(|b| **b == 0).count();
    let before = sound[..end.next_multiple_of(512)].to_vec();
    gpkg_fault(&tar(&[vec![before], members.to_vec()].concat()))
}

fn passes(bytes: &[u8]) {
    prove(bytes, &entry(GPKG, bytes)).unwrap();
}

#[test]
fn members_in_any_order_with_signatures_and_extras() {
    let mut parts = good();
    parts.push(("metadata.tar.gz.sig".to_owned(), b"-----BEGIN PGP SIGNATURE-----".to_vec()));
    parts.push(("image.tar.zst.sig".to_owned(), b"\x89\x01\x33".to_vec()));
    parts.push(("notes".to_owned(), b"extra".to_vec()));
    passes(&gpkg_of(&parts));
    parts.reverse();
    passes(&gpkg_of(&parts));
    let mut members: Vec<_> = parts.iter().map(|(name, bytes)| regular(&format!("x/{name}"), bytes)).collect();
    members.insert(0, regular("x/Manifest", manifest(&parts).as_bytes()));
    passes(&tar(&members));
}

#[test]
fn gnu_headers_long_names_and_base_256_sizes_pass() {
    let directory = "d".repeat(160);
    let mut members = Vec::new();
    let parts = good();
    for (name, bytes) in [&parts[..], &[("Manifest".to_owned(), manifest(&parts).into_bytes())]].concat() {
        let long = format!("{directory}/{name}\0").into_bytes();
        members.push(member(
            &header(Header::new_gnu(), "././@LongLink", long.len() as u64, EntryType::GNULongName),
            &long,
        ));
        let mut head = header(Header::new_gnu(), "cut", 0, EntryType::Regular);
        head.as_old_mut().size = [0; 12];
        head.as_old_mut().size[0] = 0x80;
        head.as_old_mut().size[10..].copy_from_slice(&u16::try_from(bytes.len()).unwrap().to_be_bytes());
        head.set_cksum();
        members.push(member(&head, &bytes));
    }
    passes(&tar(&members));
}

#[test]
fn headers_that_are_not_taken() {
    let head = |change: fn(&mut Header)| {
        let mut head = header(Header::new_gnu(), "hello-2.0-r1-3/x", 0, EntryType::Regular);
        change(&mut head);
        head
    };
    let tar_fault = |change: fn(&mut Header)| {
        let mut head = head(change);
        head.set_cksum();
        match fault_with(&[member(&head, b"")]) {
            GpkgError::Tar(fault) => fault,
            error => panic!("{error}"),
        }
    };
    assert_eq!(tar_fault(|head| head.as_mut_bytes()[257] = b'U'), TarError::Magic);
    assert_eq!(tar_fault(|head| head.as_old_mut().size = *b"abcdefghijkl"), TarError::Number);
    assert_eq!(tar_fault(|head| head.as_old_mut().size[..2].copy_from_slice(b"\x80\x01")), TarError::Number);
    assert_eq!(tar_fault(|head| head.as_old_mut().size = [0xff; 12]), TarError::Number);
    assert_eq!(tar_fault(|head| head.as_mut_bytes()[345] = b'/'), TarError::Extension);
    assert_eq!(tar_fault(|head| head.as_old_mut().name[3] = b'\n'), TarError::Name);
    assert_eq!(tar_fault(|head| head.as_old_mut().name[3] = 0xff), TarError::Name);
    let unsummed = head(|head| head.as_old_mut().mode[3] += 1);
    assert_eq!(fault_with(&[member(&unsummed, b"")]), TarError::Checksum.into());
    assert_eq!(fault_with(&[vec![1; 512]]), TarError::Magic.into());
}

#[test]
fn only_regular_files() {
    let name = "hello-2.0-r1-3/x";
    for kind in [b'1', b'2', b'3', b'5', b'6', b'7', b'S', b'K', b'x', b'g', b'V'] {
        let head = header(Header::new_ustar(), name, 0, EntryType::new(kind));
        assert_eq!(fault_with(&[member(&head, b"")]), GpkgError::NotRegular(name.to_owned()));
    }
}

#[test]
fn names_that_are_not_taken() {
    for name in ["/x", "x", "a/b/c", "hello-2.0-r1-3/..", "../x", "./x", "", "hello-2.0-r1-3//x"] {
        assert_eq!(fault_with(&[regular(name, b"")]), GpkgError::Name(name.to_owned()));
    }
    assert_eq!(fault_with(&[regular("hello-2.0-r1-3/", b"")]), TarError::Directory.into());
    assert_eq!(fault_with(&[regular("other/x", b"")]), GpkgError::Directory("other/x".to_owned()));
    for name in ["gpkg-1", "image.tar.zst", "Manifest"] {
        assert_eq!(
            fault_with(&[regular(&format!("hello-2.0-r1-3/{name}"), b"")]),
            GpkgError::Duplicate(name.to_owned())
        );
    }
    let many: Vec<_> = (0..61).map(|n| regular(&format!("hello-2.0-r1-3/{n}"), b"")).collect();
    assert_eq!(fault_with(&many), GpkgError::TooMany);
    assert_eq!(fault_with(&many[..60]), GpkgError::NoRecord("0".to_owned()));
}

#[test]
fn long_names_that_are_not_taken() {
    let long = |size| header(Header::new_gnu(), "././@LongLink", size, EntryType::GNULongName);
    let one = member(&long(4), b"d/x\0");
    assert_eq!(fault_with(&[one.clone(), one.clone()]), GpkgError::LongName);
    assert_eq!(fault_with(std::slice::from_ref(&one)), GpkgError::LongName);
    assert_eq!(fault_with(&[member(&long(4097), &[b'x'; 4097])]), GpkgError::LongName);
    assert_eq!(fault_with(&[member(&long(4), b"x\0y\0")]), GpkgError::LongName);
    assert_eq!(fault_with(&[member(&long(3), b"x\0\0")]), GpkgError::LongName);
    assert_eq!(fault_with(&[one, regular("hello-2.0-r1-3/x", b"")]), GpkgError::Directory("d/x".to_owned()));
}

#[test]
fn members_that_must_be_there_once() {
    for (name, stem) in [("gpkg-1", "gpkg-1"), ("metadata.tar.gz", "metadata.tar"), ("image.tar.zst", "image.tar")] {
        let parts = good().into_iter().filter(|part| part.0 != name).collect();
        assert_eq!(gpkg_fault(&gpkg_of(&parts)), GpkgError::Missing(stem));
    }
    for (name, stem) in [("metadata.tar", "metadata.tar"), ("image.tar.xz", "image.tar")] {
        let parts = [good(), vec![(name.to_owned(), Vec::new())]].concat();
        assert_eq!(gpkg_fault(&gpkg_of(&parts)), GpkgError::Ambiguous(stem));
    }
    let members: Vec<_> = good().iter().map(|(name, bytes)| regular(&format!("x/{name}"), bytes)).collect();
    assert_eq!(gpkg_fault(&tar(&members)), GpkgError::Missing("Manifest"));
    assert_eq!(gpkg_fault(&tar(&[])), GpkgError::Missing("Manifest"));
}

#[test]
fn the_end_of_the_tar() {
    let bytes = gpkg_of(&good());
    let used = bytes.len() - bytes.iter().rev().take_while(|b| **b == 0).count();
    let end = used.next_multiple_of(512);
    passes(&bytes[..end + 1024]);
    for cut in [end, end + 512, end + 1023] {
        assert_eq!(gpkg_fault(&bytes[..cut]), GpkgError::Unfinished, "{cut}");
    }
    assert_eq!(gpkg_fault(&bytes[..end - 512]), GpkgError::PastEnd("hello-2.0-r1-3/Manifest".to_owned()));
    let mut spoilt = bytes.clone();
    *spoilt.last_mut().unwrap() = 1;
    assert_eq!(gpkg_fault(&spoilt), GpkgError::AfterEnd);
    spoilt = bytes;
    spoilt[end - 1] = 1;
    assert_eq!(gpkg_fault(&spoilt), GpkgError::Padding);
    let head = header(Header::new_ustar(), "hello-2.0-r1-3/x", 1 << 20, EntryType::Regular);
    assert_eq!(fault_with(&[member(&head, b"")]), GpkgError::PastEnd("hello-2.0-r1-3/x".to_owned()));
}

#[test]
fn the_manifest_covers_every_member() {
    let parts = good();
    let text = manifest(&parts);
    let lines: Vec<_> = text.lines().collect();
    let with = |text: &str| gpkg_fault(&container(&parts, text));
    assert_eq!(with(&lines[..2].join("\n")), GpkgError::NoRecord("image.tar.zst".to_owned()));
    let extra = text.clone() + &lines[2].replace("image.tar.zst", "other");
    assert_eq!(with(&extra), GpkgError::NoMember("other".to_owned()));
    let name = "image.tar.zst".to_owned();
    assert_eq!(
        with(&text.replace("zst 1000", "zst 999")),
        GpkgError::Size { name: name.clone(), expected: 999, got: 1000 }
    );
    for (at, kind) in [(4, "SHA512"), (6, "BLAKE2B")] {
        let wrong = text.replace(lines[2].split(' ').nth(at).unwrap(), &"0".repeat(128));
        assert_eq!(with(&wrong), GpkgError::Digest { name: name.clone(), kind });
    }
    assert_eq!(with("MISC x 0\n"), ManifestError::Line(1).into());
    assert_eq!(with(&(text.clone() + &text)), ManifestError::Duplicate("gpkg-1".to_owned()).into());
    assert_eq!(with(&"\n".repeat((1 << 20) + 1)), GpkgError::ManifestTooLarge);
    let signed = format!("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{text}-----BEGIN PGP SIGNATURE-----\n\n");
    assert_eq!(with(&signed), ManifestError::Signed("the signature has no end").into());
    passes(&container(&parts, &(signed + "iQIz\n-----END PGP SIGNATURE-----\n")));
}
