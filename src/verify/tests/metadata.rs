//! The identity of the package inside, and faults that make its metadata unreadable.

use tar::{EntryType, Header};

use super::super::MetadataError;
use super::super::tar_header::TarError;
use super::sample::{
    GPKG, VALUES, XPAK, compress, entry, gpkg, gpkg_of, gpkg_with, header, member, metadata_tar, parts, regular, tar,
    xpak_with,
};
use super::*;
use crate::index::AuxKey;

pub(super) const EXTENSIONS: [&str; 7] = ["", "gz", "bz2", "lz4", "lz", "xz", "zst"];

fn metadata_fault(extension: &str, metadata: Vec<u8>) -> MetadataError {
    match fault(GPKG, &gpkg_with(extension, metadata)) {
        VerifyError::Metadata(fault) => fault,
        error => panic!("{error}"),
    }
}

#[test]
fn every_compression_of_portage_but_lzo() {
    for extension in EXTENSIONS {
        let bytes = gpkg(extension);
        prove(&bytes, &entry(GPKG, &bytes)).unwrap();
    }
    match fault(GPKG, &gpkg_with("lzo", b"lzo".to_vec())) {
        VerifyError::Compression { extension } => assert_eq!(extension, "lzo"),
        error => panic!("{error}"),
    }
}

#[test]
fn members_without_a_compression_pass_only_where_portage_reads_them() {
    let (raw_metadata, mut raw_image) = (gpkg(""), parts("gz", compress("gz", &metadata_tar(&VALUES))));
    "image.tar".clone_into(&mut raw_image[2].0);
    for bytes in [raw_metadata, gpkg_of(&raw_image)] {
        let entry = entry(GPKG, &bytes);
        let assurance = prove(&bytes, &entry).unwrap().assurance();
        assert!(assurance.uncompressed && READER.admits(&assurance));
        let zstd = Policy::digests_only();
        assert!(matches!(prove_by(&bytes, &entry, &zstd), Err(VerifyError::Uncompressed)) && !zstd.admits(&assurance));
    }
    let bytes = gpkg("gz");
    assert!(Policy::digests_only().admits(&prove(&bytes, &entry(GPKG, &bytes)).unwrap().assurance()));
}

/// Packages of both formats with one value changed.
fn with_value(key: &str, value: &str) -> [(&'static str, Vec<u8>); 2] {
    let values = VALUES.map(|(other, old)| if other == key { (other, value) } else { (other, old) });
    [(GPKG, gpkg_with("gz", compress("gz", &metadata_tar(&values)))), (XPAK, xpak_with(&values))]
}

#[test]
fn another_package_is_refused_though_every_digest_is_right() {
    for (key, value, what, expected, found) in [
        ("CATEGORY", "app-admin", "CPV", "app-misc/hello-2.0-r1", "app-admin/hello-2.0-r1"),
        ("PF", "hello-2.0\n", "CPV", "app-misc/hello-2.0-r1", "app-misc/hello-2.0"),
        ("PF", "", "CPV", "app-misc/hello-2.0-r1", "app-misc/"),
        ("BUILD_ID", "4\n", "BUILD_ID", "3", "4"),
        ("BUILD_ID", "three", "BUILD_ID", "3", "three"),
        ("BUILD_TIME", "1700000001\n", "BUILD_TIME", "1700000000", "1700000001"),
    ] {
        for (path, bytes) in with_value(key, value) {
            match fault(path, &bytes) {
                VerifyError::Identity { what: w, expected: e, found: f } => {
                    assert_eq!((w, &*e, &*f), (what, expected, found));
                }
                error => panic!("{error}"),
            }
        }
    }
}

#[test]
fn what_one_side_does_not_know_is_not_compared() {
    for key in ["BUILD_ID", "BUILD_TIME"] {
        for (path, bytes) in with_value(key, " \n") {
            prove(&bytes, &entry(path, &bytes)).unwrap();
        }
        for (path, bytes) in with_value(key, "77\n") {
            let entry = Entry { build_id: None, build_time: None, ..entry(path, &bytes) };
            prove(&bytes, &entry).unwrap();
        }
    }
}

#[test]
fn what_portage_writes_of_a_package_comes_with_it() {
    let atoms = "a/b ".repeat(3000);
    let raw = format!("{atoms}off? ( x/y )\n");
    for limit in [0, 256 << 10] {
        let long = "x".repeat(limit);
        let values = [&VALUES[..], &[("DEPEND", &*raw), ("IUSE", &*long)]].concat();
        for (path, bytes) in [(GPKG, gpkg_with("", metadata_tar(&values))), (XPAK, xpak_with(&values))] {
            let verified = prove(&bytes, &entry(path, &bytes)).unwrap();
            let written = |key| verified.aux_values().get(key);
            assert_eq!(written(AuxKey::Depend), atoms.trim_end());
            assert_eq!((written(AuxKey::BuildId), written(AuxKey::Iuse)), ("3", &*long));
        }
    }
    let long = "x".repeat((256 << 10) + 1);
    let values = [&VALUES[..], &[("IUSE", &*long)]].concat();
    for (path, bytes) in [(GPKG, gpkg_with("", metadata_tar(&values))), (XPAK, xpak_with(&values))] {
        assert!(
            matches!(fault(path, &bytes), VerifyError::Metadata(MetadataError::LongValue(key, _)) if key == "IUSE")
        );
    }
}

#[test]
fn values_that_are_not_taken() {
    let long = "x".repeat(4097);
    for (path, bytes) in with_value("PF", &long) {
        assert!(
            matches!(fault(path, &bytes), VerifyError::Metadata(MetadataError::LongValue(key, 4096)) if key == "PF")
        );
    }
    let twice = [&VALUES[..], &[("PF", "hello-2.0-r1")]].concat();
    for (path, bytes) in [(GPKG, gpkg_with("", metadata_tar(&twice))), (XPAK, xpak_with(&twice))] {
        assert!(matches!(fault(path, &bytes), VerifyError::Metadata(MetadataError::Twice(key)) if key == "PF"));
    }
    // Unused values may be anything, but may not occur twice where Portage unpacks them.
    let other = [&VALUES[..], &[("environment.bz2", &*long)]].concat();
    for (path, bytes) in [(GPKG, gpkg_with("", metadata_tar(&other))), (XPAK, xpak_with(&other))] {
        prove(&bytes, &entry(path, &bytes)).unwrap();
    }
    let twice = [&other[..], &[("environment.bz2", "")]].concat();
    assert!(matches!(metadata_fault("", metadata_tar(&twice)), MetadataError::Twice(key) if key == "environment.bz2"));
}

#[test]
fn a_metadata_tar_that_is_not_taken() {
    let plain = metadata_tar(&VALUES);
    for (name, kind) in [("metadata", EntryType::Directory), ("metadata/PF", EntryType::Symlink)] {
        let other = member(&header(Header::new_ustar(), name, 0, kind), b"");
        let fault = metadata_fault("", [other, plain.clone()].concat());
        assert!(matches!(fault, MetadataError::NotRegular(found) if found == name));
    }
    // Python finds the second PF, and this program would not find it.
    for (head, kind) in [(Header::new_gnu(), EntryType::Directory), (Header::new_ustar(), EntryType::new(0))] {
        let hiding = member(&header(head, "metadata/x/", 1024, kind), &regular("metadata/PF", b"other-1"));
        let fault = metadata_fault("", tar(&[hiding]));
        assert!(matches!(fault, MetadataError::NotRegular(_) | MetadataError::Name(_)));
    }
    // Portage up to 3.0.82 takes the first two for PF.
    for name in ["metadata/./PF", "metadata/x/../PF", "./metadata/PF", "PF", "metadata/", "metadata/.."] {
        let fault = metadata_fault("", [regular(name, b"other-1"), plain.clone()].concat());
        assert!(matches!(fault, MetadataError::Name(found) if found == name));
    }
    let mut after = plain.clone();
    *after.last_mut().unwrap() = 1;
    assert!(matches!(metadata_fault("", after), MetadataError::AfterEnd));
    let mut after = compress("gz", &plain);
    after.extend(b"garbage after the compressed data");
    assert!(matches!(metadata_fault("gz", after), MetadataError::Decompress(_)));
    assert!(matches!(metadata_fault("", vec![1; 512]), MetadataError::Tar(TarError::Magic)));
    let cut = plain[..plain.iter().rposition(|b| *b != 0).unwrap()].to_vec();
    for length in [100, 511, 513, cut.len() - 512, cut.len()] {
        assert!(matches!(metadata_fault("", cut[..length].to_vec()), MetadataError::Decompress(_)), "{length}");
    }
    assert!(matches!(fault(GPKG, &gpkg_with("", vec![0; 1024])), VerifyError::Identity { what: "CPV", .. }));
}

#[test]
fn garbage_does_not_decompress() {
    for extension in EXTENSIONS {
        for garbage in
            [vec![0x55; 3000], compress("gz", b"x").into_iter().chain([7; 600]).collect(), b"(\xb5/\xfd".into()]
        {
            match fault(GPKG, &gpkg_with(extension, garbage)) {
                VerifyError::Metadata(_) => {}
                // The decoder takes a truncated stream for the end.
                VerifyError::Identity { what: "CPV", .. } if extension == "lz4" => {}
                error => panic!("{extension}: {error}"),
            }
        }
        let whole = compress(extension, &metadata_tar(&VALUES));
        let half = gpkg_with(extension, whole[..whole.len() / 4].to_vec());
        assert!(fault(GPKG, &half).io_error().is_none());
    }
}

/// A zstd frame that asks for a window of 2 GiB (`--long=31`), with one block of this kind.
fn zstd_frame(kind: u32, size: usize, content: &[u8]) -> Vec<u8> {
    let block = (1 | kind << 1 | u32::try_from(size).unwrap() << 3).to_le_bytes();
    [&[0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3][..], &block[..3], content].concat()
}

#[test]
fn zstd_with_large_windows_and_many_frames() {
    let plain = metadata_tar(&VALUES);
    let (first, second) = plain.split_at(1000);
    let skipped = [&0x184d_2a51_u32.to_le_bytes()[..], &5_u32.to_le_bytes(), b"12345"].concat();
    let frames = [&zstd_frame(0, 1000, first), &skipped, &zstd_frame(0, second.len(), second)].map(|f| &f[..]).concat();
    let bytes = gpkg_with("zst", frames.clone());
    prove(&bytes, &entry(GPKG, &bytes)).unwrap();
    for length in [1008, 1010, 1012, 1016, 1018, 1021, 1022, 1024, 1030] {
        assert!(matches!(metadata_fault("zst", frames[..length].to_vec()), MetadataError::Decompress(_)), "{length}");
    }
}

#[test]
fn bombs_are_refused() {
    let large = header(Header::new_ustar(), "metadata/x", 33 << 20, EntryType::Regular);
    assert!(matches!(metadata_fault("", member(&large, b"")), MetadataError::TooLarge));
    // Many small members, each within its limit: 1 MiB of zeros, 40 times.
    let bomb: Vec<u8> = (0..40).flat_map(|at| regular(&format!("metadata/{at}"), &vec![0; 1 << 20])).collect();
    for extension in ["gz", "bz2", "lz4"] {
        assert!(
            matches!(metadata_fault(extension, compress(extension, &bomb)), MetadataError::TooLarge),
            "{extension}"
        );
    }
    let head = header(Header::new_ustar(), "metadata/x", 31 << 20, EntryType::Regular);
    let zeros = zstd_frame(1, 128 << 10, &[0]).repeat(31 << 3);
    let two = [zstd_frame(0, 512, head.as_bytes()), zeros].concat().repeat(2);
    assert!(matches!(metadata_fault("zst", two), MetadataError::TooLarge));
}
