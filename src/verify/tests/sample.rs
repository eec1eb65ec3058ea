//! Packages as Portage makes them, and parts to make others.

use std::io::Write;

use blake2::Blake2b512;
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha512};
use tar::{EntryType, Header};

use crate::index::{Digest, Entry, PkgPath};
use crate::portage::Cpv;

pub(super) const GPKG: &str = "app-misc/hello/hello-2.0-r1-3.gpkg.tar";
pub(super) const XPAK: &str = "app-misc/hello/hello-2.0-r1-3.xpak";
/// Metadata of the samples and the fixtures.
pub(super) const VALUES: [(&str, &str); 5] = [
    ("repository", "gentoo\n"),
    ("CATEGORY", "app-misc\n"),
    ("PF", "hello-2.0-r1\n"),
    ("BUILD_ID", "3\n"),
    ("BUILD_TIME", "1700000000\n"),
];

/// The entry of [`VALUES`] with the digests of `bytes`.
pub(super) fn entry(path: &str, bytes: &[u8]) -> Entry {
    Entry {
        cpv: Cpv::parse("app-misc/hello-2.0-r1").unwrap(),
        path: PkgPath::parse(path).unwrap(),
        size: bytes.len() as u64,
        mtime: 1,
        build_id: Some(3),
        build_time: Some(1_700_000_000),
        md5: Some(Digest(Md5::digest(bytes).into())),
        sha1: Some(Digest(Sha1::digest(bytes).into())),
    }
}

pub(super) fn header(mut header: Header, name: &str, size: u64, kind: EntryType) -> Header {
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header.set_entry_type(kind);
    header.set_cksum();
    header
}

/// A header and its data, padded to the next block.
pub(super) fn member(head: &Header, bytes: &[u8]) -> Vec<u8> {
    let mut all = head.as_bytes().to_vec();
    all.extend_from_slice(bytes);
    all.resize(all.len().next_multiple_of(512), 0);
    all
}

pub(super) fn regular(name: &str, bytes: &[u8]) -> Vec<u8> {
    member(&header(Header::new_ustar(), name, bytes.len() as u64, EntryType::Regular), bytes)
}

/// A tar of `members`, padded as Python's tarfile does.
pub(super) fn tar(members: &[Vec<u8>]) -> Vec<u8> {
    let mut all = members.concat();
    all.resize((all.len() + 1024).next_multiple_of(10240), 0);
    all
}

pub(super) fn metadata_tar(values: &[(&str, &str)]) -> Vec<u8> {
    let all: Vec<_> = values.iter().map(|(key, value)| regular(&format!("metadata/{key}"), value.as_bytes())).collect();
    tar(&all)
}

/// Compresses `bytes` for a member with this ending.
///
/// xz, lzip and zstd are fixtures, made once from the metadata tar of [`VALUES`] by xz 5.4 and zstd
/// 1.5.5. For lzip, a header and a trailer were added around raw LZMA.
pub(super) fn compress(extension: &str, bytes: &[u8]) -> Vec<u8> {
    match extension {
        "" => bytes.to_vec(),
        "gz" => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            out.write_all(bytes).unwrap();
            out.finish().unwrap()
        }
        "bz2" => {
            let mut out = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
            out.write_all(bytes).unwrap();
            out.finish().unwrap()
        }
        "lz4" => {
            let mut out = lz4_flex::frame::FrameEncoder::new(Vec::new());
            out.write_all(bytes).unwrap();
            out.finish().unwrap()
        }
        "lz" => include_bytes!("fixtures/metadata.tar.lz").to_vec(),
        "xz" => include_bytes!("fixtures/metadata.tar.xz").to_vec(),
        "zst" => include_bytes!("fixtures/metadata.tar.zst").to_vec(),
        other => panic!("{other}"),
    }
}

/// Members of a container, name and content, without the Manifest.
pub(super) type Parts = Vec<(String, Vec<u8>)>;

pub(super) fn parts(extension: &str, metadata: Vec<u8>) -> Parts {
    let dot = if extension.is_empty() { "" } else { "." };
    vec![
        ("gpkg-1".to_owned(), Vec::new()),
        (format!("metadata.tar{dot}{extension}"), metadata),
        ("image.tar.zst".to_owned(), (0..=255).cycle().take(1000).collect()),
    ]
}

pub(super) fn manifest(parts: &Parts) -> String {
    let line = |(name, bytes): &(String, Vec<u8>)| {
        let (sha512, blake2b) = (Digest(Sha512::digest(bytes).into()), Digest(Blake2b512::digest(bytes).into()));
        format!("DATA {name} {} SHA512 {sha512} BLAKE2B {blake2b}\n", bytes.len())
    };
    parts.iter().map(line).collect()
}

/// A container of `parts` and this Manifest.
pub(super) fn container(parts: &Parts, manifest: &str) -> Vec<u8> {
    let name = |name: &str| format!("hello-2.0-r1-3/{name}");
    let mut members: Vec<_> = parts.iter().map(|(part, bytes)| regular(&name(part), bytes)).collect();
    members.push(regular(&name("Manifest"), manifest.as_bytes()));
    tar(&members)
}

/// A sound package of `parts`.
pub(super) fn gpkg_of(parts: &Parts) -> Vec<u8> {
    container(parts, &manifest(parts))
}

/// A sound package with this metadata.
pub(super) fn gpkg_with(extension: &str, metadata: Vec<u8>) -> Vec<u8> {
    gpkg_of(&parts(extension, metadata))
}

pub(super) fn gpkg(extension: &str) -> Vec<u8> {
    gpkg_with(extension, compress(extension, &metadata_tar(&VALUES)))
}

/// An XPAK segment of these values, followed by its length.
pub(super) fn xpak_segment(values: &[(&str, &str)]) -> Vec<u8> {
    let (mut index, mut data) = (Vec::new(), Vec::new());
    let number = |number: usize| u32::try_from(number).unwrap().to_be_bytes();
    for (key, value) in values {
        index.extend(number(key.len()));
        index.extend(key.as_bytes());
        index.extend(number(data.len()));
        index.extend(number(value.len()));
        data.extend(value.as_bytes());
    }
    let segment = [b"XPAKPACK", &number(index.len())[..], &number(data.len()), &index, &data, b"XPAKSTOP"].concat();
    [&segment[..], &number(segment.len()), b"STOP"].concat()
}

pub(super) fn xpak_with(values: &[(&str, &str)]) -> Vec<u8> {
    [b"a compressed tar".to_vec(), xpak_segment(values)].concat()
}

pub(super) fn xpak() -> Vec<u8> {
    xpak_with(&VALUES)
}
