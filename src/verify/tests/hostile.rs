//! Random bytes never cause a panic, and give the same result in chunks of any size.

use proptest::prelude::*;

use super::super::gpkg::{Container, Contents, GpkgError};
use super::metadata::EXTENSIONS;
use super::sample::{GPKG, VALUES, XPAK, compress, entry, gpkg, gpkg_with, metadata_tar, xpak};
use super::*;

/// Bytes to overwrite, by a position that is taken modulo the length, and where to cut the file.
fn mutations() -> impl Strategy<Value = (Vec<(usize, u8)>, Option<usize>)> {
    (prop::collection::vec((any::<usize>(), any::<u8>()), 1..8), prop::option::weighted(0.2, any::<usize>()))
}

fn mutate(bytes: &mut Vec<u8>, (changes, cut): (Vec<(usize, u8)>, Option<usize>)) {
    if let Some(cut) = cut {
        bytes.truncate(cut % bytes.len() + 1);
    }
    let length = bytes.len();
    changes.into_iter().for_each(|(at, byte)| bytes[at % length] = byte);
}

/// Corrects the checksums of all tar headers.
fn sum_headers(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        let mut head = tar::Header::new_old();
        head.as_mut_bytes().copy_from_slice(block);
        head.set_cksum();
        block.copy_from_slice(head.as_bytes());
    }
}

/// Returns a container with changes anywhere, or only in its headers.
fn changed_container((mut changes, cut): (Vec<(usize, u8)>, Option<usize>), in_headers: bool) -> Vec<u8> {
    let mut bytes = gpkg("zst");
    if in_headers {
        let headers: Vec<_> =
            (0..bytes.len()).step_by(512).filter(|at| bytes[at + 257..at + 262] == *b"ustar").collect();
        changes.iter_mut().for_each(|(at, _)| *at = headers[*at % headers.len()] + *at / 7 % 512);
    }
    mutate(&mut bytes, (changes, cut));
    sum_headers(&mut bytes);
    bytes
}

/// Describes a container without the bytes of its image. Also returns how many bytes of the image
/// were left out after the `first`.
fn contents(bytes: &[u8], first: Option<usize>) -> (Result<String, GpkgError>, usize) {
    let (mut container, mut left_out) = (Container::new(bytes.len() as u64), 0);
    let (first, rest) = bytes.split_at(first.unwrap_or(bytes.len()));
    let result = container.push(first).and_then(|()| {
        left_out = usize::try_from(container.leave_out_image()).unwrap() - first.len();
        container.push(&rest[left_out..])?;
        container.finish()
    });
    let said = |contents: Contents| {
        let members: Vec<_> = contents.members().iter().map(|member| (&member.name, member.size)).collect();
        format!("{members:?} {:?} {:?} {}", contents.manifest, contents.metadata.extension, contents.uncompressed)
    };
    (result.map(said), left_out)
}

proptest! {
    /// Leaving out a part of the image does not change how the rest is parsed.
    #[test]
    fn containers_without_a_part_of_their_image(changes in mutations(), in_headers: bool, first: prop::sample::Index) {
        let bytes = changed_container(changes, in_headers);
        let first = first.index(bytes.len() + 1);
        prop_assert_eq!(contents(&bytes, Some(first)).0, contents(&bytes, None).0);
    }

    #[test]
    fn metadata_that_is_no_longer_what_was_compressed(which in 0..EXTENSIONS.len(), changes in mutations()) {
        let extension = EXTENSIONS[which];
        let mut metadata = compress(extension, &metadata_tar(&VALUES));
        mutate(&mut metadata, changes);
        let bytes = gpkg_with(extension, metadata);
        if let Err(error) = receive(&bytes, &entry(GPKG, &bytes), usize::MAX) {
            prop_assert!(error.io_error().is_none());
        }
    }

    #[test]
    fn metadata_that_never_was_compressed(which in 0..EXTENSIONS.len(), tail in prop::collection::vec(any::<u8>(), 0..300), keep in 0_usize..40) {
        let extension = EXTENSIONS[which];
        let mut metadata = compress(extension, &metadata_tar(&VALUES));
        metadata.truncate(keep);
        metadata.extend(tail);
        let bytes = gpkg_with(extension, metadata);
        if let Err(error) = receive(&bytes, &entry(GPKG, &bytes), usize::MAX) {
            prop_assert!(error.io_error().is_none());
        }
    }

    #[test]
    fn containers_that_are_no_longer_what_was_packed(changes in mutations(), in_headers: bool, chunk in 1_usize..2000) {
        let bytes = changed_container(changes, in_headers);
        let entry = entry(GPKG, &bytes);
        let outcome = |result: Result<Verified, VerifyError>| result.map_err(|error| error.to_string()).map(|v| v.digest());
        prop_assert_eq!(outcome(receive(&bytes, &entry, usize::MAX)), outcome(receive(&bytes, &entry, chunk)));
    }

    #[test]
    fn segments_that_are_no_longer_what_was_packed(changes in mutations()) {
        let mut bytes = xpak();
        mutate(&mut bytes, changes);
        if let Err(error) = receive(&bytes, &entry(XPAK, &bytes), usize::MAX) {
            prop_assert!(error.io_error().is_none());
        }
    }

    #[test]
    fn bytes_of_any_kind_under_any_name(bytes in prop::collection::vec(any::<u8>(), 1..2000), name in 0_usize..3) {
        let path = [GPKG, XPAK, "app-misc/hello"][name];
        prop_assert!(receive(&bytes, &entry(path, &bytes), 100).is_err());
    }
}

#[test]
fn a_part_of_the_image_is_left_out_wherever_the_first_bytes_end_in_it() {
    let bytes = gpkg("zst");
    let whole = contents(&bytes, None).0.unwrap();
    let left_out: usize = (0..=bytes.len())
        .map(|first| {
            let (said, left_out) = contents(&bytes, Some(first));
            assert_eq!(said.as_ref(), Ok(&whole), "{first}");
            left_out
        })
        .sum();
    // The image has 1000 bytes.
    assert_eq!(left_out, (1..=1000).sum::<usize>());
}
