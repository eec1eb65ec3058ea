//! Faults of the GPKG container, each in a package that is otherwise sound and has the digests of
//! its entry.

use tar::{EntryType, Header};

use super::super::GpkgError;
use super::super::gpkg::manifest::ManifestError;
use super::super::tar_header::TarError;
use super::sample::{
    GPKG, Parts, VALUES, compress, container, entry, gpkg_of, header, manifest, member, metadata_tar, parts, regular,
    tar,
};
use super::*;

fn good() -> Parts {
    parts("gz", compress("gz", &metadata_tar(&VALUES)))
}

fn gpkg_fault(bytes: &[u8]) -> GpkgError {
    match fault(GPKG, bytes) {
        VerifyError::Gpkg(fault) => fault,
        error => panic!("{error}"),
    }
}

/// Returns the fault of a container that has `members` after those of a good one.
fn fault_with(members: &[Vec<u8>]) -> GpkgError {
    let sound = gpkg_of(&good());
    let end = sound.len() - sound.iter().rev().take_while(|b| **b == 0).count();
    let before = sound[..end.next_multiple_of(512)].to_vec();
    gpkg_fault(&tar(&[vec![before], members.to_vec()].concat()))
}

fn passes(bytes: &[u8]) {
    prove(bytes, &entry(GPKG, bytes)).unwrap();
}

/// A Manifest that looks signed.
fn clearsigned(text: &str) -> String {
    let signature = "-----BEGIN PGP SIGNATURE-----\n\niQIz\n-----END PGP SIGNATURE-----\n";
    format!("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{text}{signature}")
}

#[test]
fn members_in_any_order_with_signatures_and_extras() {
    let mut parts = good();
    parts.push(("metadata.tar.gz.sig".to_owned(), b"-----BEGIN PGP SIGNATURE-----".to_vec()));
    parts.push(("image.tar.zst.sig".to_owned(), b"\x89\x01\x33".to_vec()));
    parts.push(("notes".to_owned(), b"extra".to_vec()));
    parts.push(("notes.sig".to_owned(), b"\x89\x01\x33".to_vec()));
    passes(&container(&parts, &clearsigned(&manifest(&parts))));
    parts[..3].reverse();
    passes(&container(&parts, &clearsigned(&manifest(&parts))));
    let mut members: Vec<_> = parts.iter().map(|(name, bytes)| regular(&format!("x/{name}"), bytes)).collect();
    members.insert(0, regular("x/Manifest", clearsigned(&manifest(&parts)).as_bytes()));
    passes(&tar(&members));
}

#[test]
fn a_package_is_signed_whole_or_not_at_all() {
    let mut parts = good();
    assert_eq!(gpkg_fault(&container(&parts, &clearsigned(&manifest(&parts)))), GpkgError::HalfSigned);
    parts.push(("metadata.tar.gz.sig".to_owned(), b"\x89\x01\x33".to_vec()));
    assert_eq!(gpkg_fault(&gpkg_of(&parts)), GpkgError::HalfSigned);
    assert_eq!(gpkg_fault(&container(&parts, &clearsigned(&manifest(&parts)))), GpkgError::HalfSigned);
    // Portage does not find a signature before its member.
    parts.insert(0, ("image.tar.zst.sig".to_owned(), b"\x89\x01\x33".to_vec()));
    assert_eq!(gpkg_fault(&container(&parts, &clearsigned(&manifest(&parts)))), GpkgError::HalfSigned);
    let last = parts.remove(0);
    parts.push(last);
    passes(&container(&parts, &clearsigned(&manifest(&parts))));
}

/// Builds a member of a directory whose name is too long for one field, in the forms that Portage
/// writes.
fn in_long_directory(directory: &str, name: &str, bytes: &[u8], format: &Header) -> Vec<u8> {
    let path = format!("{directory}/{name}");
    let size = bytes.len() as u64;
    if format.as_ustar().is_some() {
        let mut head = header(format.clone(), name, size, EntryType::Regular);
        head.as_ustar_mut().unwrap().prefix[..directory.len()].copy_from_slice(directory.as_bytes());
        head.set_cksum();
        return member(&head, bytes);
    }
    let link = header(format.clone(), "././@LongLink", path.len() as u64 + 1, EntryType::GNULongName);
    let head = header(format.clone(), &path[..100], size, EntryType::Regular);
    [member(&link, format!("{path}\0").as_bytes()), member(&head, bytes)].concat()
}

#[test]
fn names_that_are_too_long_for_their_field_pass_in_both_formats() {
    let parts = good();
    let parts = [&parts[..], &[("Manifest".to_owned(), manifest(&parts).into_bytes())]].concat();
    for (length, formats) in
        [(99, &[Header::new_ustar()][..]), (155, &[Header::new_ustar()]), (160, &[Header::new_gnu()])]
    {
        for format in formats {
            let directory = "d".repeat(length);
            let members = parts.iter().map(|(name, bytes)| in_long_directory(&directory, name, bytes, format));
            passes(&tar(&members.collect::<Vec<_>>()));
        }
    }
}

#[test]
fn long_names_in_other_forms_are_not_taken() {
    let long = format!("hello-2.0-r1-3/{}", "x".repeat(100));
    let link = |name: &str, size| header(Header::new_gnu(), name, size, EntryType::GNULongName);
    let before = |text: &str| member(&link("././@LongLink", text.len() as u64 + 1), format!("{text}\0").as_bytes());
    let head = |format: Header, name: &str| member(&header(format, name, 0, EntryType::Regular), b"");
    let good = [before(&long), head(Header::new_gnu(), &long[..100])].concat();
    assert_eq!(fault_with(&[good]), GpkgError::NoRecord("x".repeat(100)), "the name itself passes");
    for bad in [
        // A short name, a name above the limit, a name that its member does not repeat, and other
        // misplaced names.
        [before("hello-2.0-r1-3/x"), head(Header::new_gnu(), "hello-2.0-r1-3/x")].concat(),
        before(&"x".repeat(512)),
        [before(&long), head(Header::new_gnu(), &long[..99])].concat(),
        [before(&long), head(Header::new_ustar(), &long[..100])].concat(),
        [before(&long), before(&long)].concat(),
        // Another name in the header of the long name, a second NUL at its end, and no NUL.
        member(&link("BZh91AY&SY", long.len() as u64 + 1), format!("{long}\0").as_bytes()),
        member(&link("././@LongLink", long.len() as u64 + 2), format!("{long}\0\0").as_bytes()),
        member(&link("././@LongLink", long.len() as u64), long.as_bytes()),
    ] {
        let bad = [bad, head(Header::new_gnu(), &long[..100])].concat();
        assert!(matches!(fault_with(&[bad]), GpkgError::LongName | GpkgError::Name(_)));
    }
    assert_eq!(fault_with(&[before(&long)]), GpkgError::LongName, "of no member");
    // The member's name alone would begin the file.
    let split = |name: &str| in_long_directory(&"d".repeat(120), name, b"", &Header::new_ustar());
    assert_eq!(fault_with(&[split("Z0")]), GpkgError::Name(format!("{}/Z0", "d".repeat(120))));
    let mut short = header(Header::new_ustar(), "x", 0, EntryType::Regular);
    short.as_ustar_mut().unwrap().prefix[..14].copy_from_slice(b"hello-2.0-r1-3");
    short.set_cksum();
    assert_eq!(fault_with(&[member(&short, b"")]), TarError::Prefix.into());
}

#[test]
fn sizes_in_base_256_only_where_octal_ends() {
    let mut head = header(Header::new_gnu(), "hello-2.0-r1-3/x", 0, EntryType::Regular);
    for (size, fault) in
        [(7_u64 << 30, TarError::Number("size").into()), (8 << 30, GpkgError::PastEnd("hello-2.0-r1-3/x".to_owned()))]
    {
        head.as_old_mut().size = [0; 12];
        head.as_old_mut().size[0] = 0x80;
        head.as_old_mut().size[4..].copy_from_slice(&size.to_be_bytes());
        head.set_cksum();
        assert_eq!(fault_with(&[member(&head, b"")]), fault);
    }
    let mut ustar = header(Header::new_ustar(), "hello-2.0-r1-3/x", 0, EntryType::Regular);
    ustar.as_old_mut().size = head.as_old().size;
    ustar.set_cksum();
    assert_eq!(fault_with(&[member(&ustar, b"")]), TarError::Number("size").into());
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
    let number = TarError::Number;
    assert_eq!(tar_fault(|head| head.as_old_mut().size = *b"abcdefghijkl"), number("size"));
    assert_eq!(tar_fault(|head| head.as_old_mut().size[..2].copy_from_slice(b"\x80\x01")), number("size"));
    assert_eq!(tar_fault(|head| head.as_old_mut().size = [0xff; 12]), number("size"));
    // Python takes an unreadable number for the end of the archive.
    assert_eq!(tar_fault(|head| head.as_old_mut().mode = *b"0000rwx\0"), number("mode"));
    assert_eq!(tar_fault(|head| head.as_old_mut().mode = *b"000644 \0"), number("mode"));
    assert_eq!(tar_fault(|head| head.as_old_mut().uid = [0xff; 8]), number("uid"));
    assert_eq!(tar_fault(|head| head.as_old_mut().gid = *b"00000000"), number("gid"));
    assert_eq!(tar_fault(|head| head.as_old_mut().mtime = *b"0000000001\0\0"), number("mtime"));
    assert_eq!(tar_fault(|head| head.as_old_mut().mtime[0] = b'-'), number("mtime"));
    assert_eq!(tar_fault(|head| head.as_gnu_mut().unwrap().dev_major = *b"zzzzzzz\0"), number("device number"));
    let text = TarError::Text;
    assert_eq!(tar_fault(|head| head.as_old_mut().name[3] = b'\n'), text("name"));
    assert_eq!(tar_fault(|head| head.as_old_mut().name[3] = 0xff), text("name"));
    assert_eq!(tar_fault(|head| head.as_old_mut().name[99] = b'x'), text("name"));
    assert_eq!(tar_fault(|head| head.as_gnu_mut().unwrap().uname[9] = b'x'), text("user name"));
    assert_eq!(tar_fault(|head| head.as_gnu_mut().unwrap().gname[0] = 0x7f), text("group name"));
    let unused = TarError::Unused;
    assert_eq!(tar_fault(|head| head.as_mut_bytes()[345] = b'/'), unused("GNU extension fields"));
    assert_eq!(tar_fault(|head| head.as_mut_bytes()[511] = 1), unused("GNU extension fields"));
    assert_eq!(tar_fault(|head| head.as_old_mut().linkname[0] = b'x'), unused("link target"));
    let mut ustar = header(Header::new_ustar(), "hello-2.0-r1-3/x", 0, EntryType::Regular);
    ustar.as_ustar_mut().unwrap().pad[0] = 1;
    ustar.set_cksum();
    assert_eq!(fault_with(&[member(&ustar, b"")]), unused("end").into());
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
    let own = "hello-2.0-r1-3";
    let own = |name: &str| format!("{own}/{name}");
    for name in ["/x", "x", "a/b/c", "../x", "./x", "", "BZh91AY&SY/x", ".hidden/x", "-x/x", "a b/x", "(/x"] {
        assert_eq!(fault_with(&[regular(name, b"")]), GpkgError::Name(name.to_owned()));
    }
    for name in [own(".."), own("/x"), own(""), own("a b"), own(".x"), own("image.tar.zst\u{7e}")] {
        assert_eq!(fault_with(&[regular(&name, b"")]), GpkgError::Name(name));
    }
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
fn long_names_that_are_not_taken() {}

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
    for (at, name) in [(1, "metadata.tar.lol"), (2, "image.tar.Z"), (2, "image.tar.")] {
        let mut parts = good();
        name.clone_into(&mut parts[at].0);
        assert_eq!(gpkg_fault(&gpkg_of(&parts)), GpkgError::Compression(name.to_owned()));
        "metadata.tar.gz".clone_into(&mut parts[1].0);
        "image.tar.xz".clone_into(&mut parts[2].0);
        parts[at].1.clear();
        assert_eq!(gpkg_fault(&gpkg_of(&parts)), GpkgError::Empty(parts[at].0.clone()));
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
}
