//! A package as a stream of bytes: sizes, digests, chunks, and a file that fails.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek};

use super::sample::{GPKG, XPAK, entry, gpkg, xpak};
use super::*;

#[test]
fn good_packages_pass_in_chunks_of_any_size() {
    let unnamed = "app-misc/hello-2.0-r1.binpkg";
    for (path, bytes) in [(GPKG, gpkg("gz")), (XPAK, xpak()), (unnamed, gpkg("")), (unnamed, xpak())] {
        let entry = entry(path, &bytes);
        for chunk in [1, 7, 511, 512, 513, 10240, usize::MAX] {
            let verified = receive(&bytes, &entry, chunk).unwrap();
            assert_eq!((verified.size(), verified.entry()), (bytes.len() as u64, &entry));
            assert_eq!(verified.digest().0, <[u8; 32]>::from(<sha2::Sha256 as sha2::Digest>::digest(&bytes)));
            let (mut file, mut stored) = (verified.into_file(), Vec::new());
            file.rewind().unwrap();
            file.read_to_end(&mut stored).unwrap();
            assert!(stored == bytes, "{path} in chunks of {chunk}");
        }
        prove(&bytes, &entry).unwrap();
    }
}

/// The chunks are large enough for the second thread.
#[test]
fn a_large_package_passes_and_its_image_is_covered() {
    let mut parts = sample::parts("gz", sample::compress("gz", &sample::metadata_tar(&sample::VALUES)));
    parts[2].1 = vec![7; 3 << 20];
    let mut bytes = sample::gpkg_of(&parts);
    receive(&bytes, &entry(GPKG, &bytes), 1 << 20).unwrap();
    bytes[2 << 20] = 8;
    assert!(matches!(fault(GPKG, &bytes), VerifyError::Gpkg(_)));
}

#[test]
fn one_digest_is_enough_and_each_is_checked() {
    for (path, bytes) in [(GPKG, gpkg("")), (XPAK, xpak())] {
        let good = entry(path, &bytes);
        prove(&bytes, &Entry { md5: None, ..good.clone() }).unwrap();
        prove(&bytes, &Entry { sha1: None, ..good.clone() }).unwrap();
        let other = entry(path, b"other");
        for (kind, entry) in
            [("MD5", Entry { md5: other.md5, ..good.clone() }), ("SHA1", Entry { sha1: other.sha1, ..good })]
        {
            match prove(&bytes, &entry).unwrap_err() {
                VerifyError::Digest { kind: found, expected, got } => assert!(found == kind && expected != got),
                error => panic!("{error}"),
            }
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    for (path, bytes) in [(GPKG, gpkg("zst")), (XPAK, xpak())] {
        let entry = entry(path, &bytes);
        let mut flipped = bytes.clone();
        for at in 0..bytes.len() {
            flipped[at] ^= 1;
            assert!(receive(&flipped, &entry, usize::MAX).is_err(), "{path} at {at}");
            flipped[at] ^= 1;
        }
    }
}

/// As above, but with an index entry for the flipped bytes: the container alone must detect every
/// flipped bit.
#[test]
fn a_flipped_bit_is_refused_by_the_container_itself() {
    let mut bytes = gpkg("zst");
    for at in 0..bytes.len() {
        bytes[at] ^= 1;
        let passed = receive(&bytes, &entry(GPKG, &bytes), usize::MAX).is_ok();
        // The end of the field with a header's checksum has no meaning.
        assert!(!passed || (154..156).contains(&(at % 512)), "at {at}");
        bytes[at] ^= 1;
    }
}

#[test]
fn a_body_cut_at_any_length_is_refused() {
    for (path, bytes) in [(GPKG, gpkg("zst")), (XPAK, xpak())] {
        let entry = entry(path, &bytes);
        for length in 0..bytes.len() {
            match receive(&bytes[..length], &entry, usize::MAX).unwrap_err() {
                VerifyError::Truncated { expected, got } => {
                    assert_eq!((expected, got), (bytes.len() as u64, length as u64));
                }
                error => panic!("{error}"),
            }
        }
        assert!(matches!(prove(&bytes[..600.min(bytes.len() - 1)], &entry), Err(VerifyError::Truncated { .. })));
    }
}

#[test]
fn more_bytes_are_refused_at_once_and_for_good() {
    let bytes = gpkg("");
    let good = entry(GPKG, &bytes);
    let longer = [&bytes[..], b"x"].concat();
    assert!(matches!(prove(&longer, &good), Err(VerifyError::TooLong { .. })));
    let mut receiver = Receiver::new(tempfile::tempfile().unwrap(), good, READER);
    receiver.write(&bytes).unwrap();
    assert!(matches!(receiver.write(b"x"), Err(VerifyError::TooLong { .. })));
    assert_eq!(receiver.received(), bytes.len() as u64);
    assert!(matches!(receiver.write(b""), Err(VerifyError::Refused)));
    assert!(matches!(receiver.finish(), Err(VerifyError::Refused)));
}

#[test]
fn a_fault_of_the_container_is_seen_while_it_streams_and_a_restart_helps() {
    let bytes = gpkg("");
    let mut receiver = Receiver::new(tempfile::tempfile().unwrap(), entry(GPKG, &bytes), READER);
    let page = [b"<html>404</html>".as_slice(), &[b' '; 600]].concat();
    assert!(matches!(receiver.write(&page), Err(VerifyError::Gpkg(_))));
    assert!(matches!(receiver.write(&bytes), Err(VerifyError::Refused)));
    receiver.restart().unwrap();
    assert_eq!(receiver.received(), 0);
    receiver.write(&bytes[..5000]).unwrap();
    receiver.restart().unwrap();
    bytes.chunks(999).for_each(|chunk| receiver.write(chunk).unwrap());
    assert_eq!(receiver.finish().unwrap().file().metadata().unwrap().len(), bytes.len() as u64);
}

/// A file that accepts 100 bytes more, and then fails.
fn full_file(received: &[u8]) -> File {
    let file = File::from(rustix::fs::memfd_create("full", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap());
    file.set_len(received.len() as u64 + 100).unwrap();
    rustix::fs::fcntl_add_seals(&file, rustix::fs::SealFlags::GROW).unwrap();
    file
}

#[test]
fn a_chunk_that_did_not_fit_can_be_written_again() {
    let bytes = gpkg("");
    let (first, second) = bytes.split_at(6000);
    let mut receiver = Receiver::new(tempfile::tempfile().unwrap(), entry(GPKG, &bytes), READER);
    receiver.write(first).unwrap();

    let full = OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
    let good = receiver.exchange_file(full);
    let error = receiver.write(second).unwrap_err();
    assert_eq!(error.io_error().unwrap().kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(receiver.received(), 6000);

    let sealed = full_file(first);
    receiver.exchange_file(sealed.try_clone().unwrap());
    assert!(receiver.write(second).unwrap_err().io_error().is_some());
    assert_eq!(sealed.metadata().unwrap().len(), 6000, "what was written of the chunk is given back");

    receiver.exchange_file(good);
    receiver.write(second).unwrap();
    receiver.finish().unwrap();
}

#[test]
fn a_file_that_cannot_be_read_is_not_the_packages_fault() {
    for (path, bytes) in [(GPKG, gpkg("zst")), (XPAK, xpak())] {
        let entry = entry(path, &bytes);
        let directory = tempfile::tempdir().unwrap();
        let file = File::create(directory.path().join("write-only")).unwrap();
        let mut receiver = Receiver::new(file, entry.clone(), READER);
        receiver.write(&bytes).unwrap();
        assert!(receiver.finish().unwrap_err().io_error().is_some());
        assert!(fault(path, b"not a package").io_error().is_none());
    }
}
