//! Faults of the XPAK segment.

use super::super::XpakError;
use super::sample::{VALUES, XPAK, entry, xpak, xpak_segment};
use super::*;

fn xpak_fault(bytes: &[u8]) -> XpakError {
    match fault(XPAK, bytes) {
        VerifyError::Xpak(fault) => fault,
        error => panic!("{error}"),
    }
}

/// The segment of `VALUES` with the bytes at `at` replaced.
fn changed(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut segment = xpak_segment(&VALUES);
    segment[at..at + bytes.len()].copy_from_slice(bytes);
    [b"tar".to_vec(), segment].concat()
}

#[test]
fn both_endings_and_no_tar_at_all() {
    let bytes = xpak();
    prove(&bytes, &entry("app-misc/hello-2.0-r1.tbz2", &bytes)).unwrap();
    let bare = xpak_segment(&VALUES);
    prove(&bare, &entry(XPAK, &bare)).unwrap();
}

#[test]
fn segments_that_are_not_taken() {
    let length = xpak_segment(&VALUES).len();
    let segment = u32::try_from(length - 8).unwrap();
    for short in [&b"x"[..], b"0123456789abcdef", &[0; 600]] {
        assert_eq!(xpak_fault(short), XpakError::Trailer);
    }
    assert_eq!(xpak_fault(&changed(length - 4, b"STOB")), XpakError::Trailer);
    assert_eq!(xpak_fault(&changed(length - 16, b"XPAKSTOB")), XpakError::Trailer);
    for wrong in [0, 16, 23, segment + 4, 65 << 20, u32::MAX] {
        assert_eq!(xpak_fault(&changed(length - 8, &wrong.to_be_bytes())), XpakError::Segment(wrong.into()), "{wrong}");
    }
    for wrong in [24, segment - 1, segment + 3] {
        assert_eq!(xpak_fault(&changed(length - 8, &wrong.to_be_bytes())), XpakError::Magic);
    }
    for (at, wrong) in [(8, 0_u32), (8, u32::MAX), (12, 0), (12, u32::MAX)] {
        assert!(matches!(xpak_fault(&changed(at, &wrong.to_be_bytes())), XpakError::Lengths { .. }));
    }
}

#[test]
fn index_entries_that_are_not_taken() {
    // The first entry: length of its name, `repository`, offset, length.
    for (at, wrong) in [(16, u32::MAX), (16, 0), (30, u32::MAX), (30, 1000), (34, u32::MAX), (34, 1000)] {
        assert_eq!(xpak_fault(&changed(at, &wrong.to_be_bytes())), XpakError::Index, "{at} {wrong}");
    }
    // A name that is not UTF-8 is skipped.
    let bytes = changed(20, b"\xff\xfe");
    prove(&bytes, &entry(XPAK, &bytes)).unwrap();
}
