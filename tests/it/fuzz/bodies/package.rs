//! Targets `gpkg`, `xpak` and `manifest`: the input becomes a package whose index entry has the right digests.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;

use binhostfs::internals::index::{Digest, Entry, PkgPath};
use binhostfs::internals::portage::Cpv;
use binhostfs::internals::verify::{Policy, Receiver, Verified, VerifyError, recheck};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};

use super::archive::{as_python_reads_it, manifest_of, regular, tar, with_checksums, with_manifest};
use super::file;

/// Endings of a metadata tar, by the second byte of an input of `manifest`.
const EXTENSIONS: [&str; 7] = ["", "gz", "bz2", "lz4", "lz", "xz", "zst"];
/// That of a machine whose Portage reads members that are not compressed.
const READER: Policy = Policy { keyring: None, uncompressed: true };
/// Writes of the sizes that an input asks for; the rest comes at once, so that no input is slow.
const MOST_WRITES: usize = 64;

/// `flags c0 c1 c2 GPKG`: checked as the name says it, or without a name that says so (1); checksums (2) and the Manifest
/// (4) mended before; restarted after a part (8). Chunks have c²/16 bytes.
pub fn gpkg(input: &[u8]) {
    let Some(([flags, chunks @ ..], bytes)) = input.split_first_chunk::<4>() else { return };
    let path = if flags & 1 == 0 { "app-misc/hello/hello-2.0-r1-3.gpkg.tar" } else { "app-misc/hello" };
    let mut bytes = bytes.to_vec();
    if flags & 2 != 0 {
        bytes = with_checksums(&bytes);
    }
    if flags & 4 != 0 {
        bytes = with_manifest(&bytes);
    }
    if let Some(Ok(())) = prove(path, &bytes, chunks, flags & 8 != 0) {
        // Without the ending, and without the magic, it may also be taken as an XPAK.
        if flags & 1 == 0 {
            another_reader_agrees(&bytes);
        }
    }
}

/// `flags c0 c1 c2 XPAK`: named `.xpak`, `.tbz2` (1), or so that its bytes have to tell (2); restarted after a part (8).
pub fn xpak(input: &[u8]) {
    let Some(([flags, chunks @ ..], bytes)) = input.split_first_chunk::<4>() else { return };
    let path = ["app-misc/hello/hello-2.0-r1-3.xpak", "app-misc/hello-2.0-r1.tbz2", "hello", "hello.bin"];
    let path = path[usize::from(flags & 3)];
    if let Some(Ok(())) = prove(path, bytes, chunks, flags & 8 != 0) {
        for value in [&b"app-misc"[..], b"hello-2.0-r1", b"STOP"] {
            assert!(bytes.windows(value.len()).any(|window| window == value), "taken for what it does not say it is");
        }
    }
}

/// `0 _ MANIFEST`: a sound container but for this Manifest. `1 E METADATA`: one with this metadata tar, which has the
/// ending E of [`EXTENSIONS`]. `2 E METADATA`: with right checksums, where it is not compressed.
pub fn manifest(input: &[u8]) {
    let Some(([mode, extension], bytes)) = input.split_first_chunk::<2>() else { return };
    let extension = EXTENSIONS[usize::from(*extension) % EXTENSIONS.len()];
    let name = if extension.is_empty() { "metadata.tar".to_owned() } else { format!("metadata.tar.{extension}") };
    let (name, metadata) = match mode % 3 {
        0 => ("metadata.tar", sound_metadata()),
        1 => (name.as_str(), bytes.to_vec()),
        _ => ("metadata.tar", with_checksums(bytes)),
    };
    let package = container((mode % 3 == 0).then_some(bytes), name, &metadata);
    if let Some(Ok(())) = prove("app-misc/hello/hello-2.0-r1-3.gpkg.tar", &package, &[255; 3], false) {
        another_reader_agrees(&package);
        if name == "metadata.tar" {
            let values = as_python_reads_it(&metadata);
            let value = |key: &str| values.get(&format!("metadata/{key}")).map(|value| value.trim());
            assert_eq!((value("CATEGORY"), value("PF")), (Some("app-misc"), Some("hello-2.0-r1")));
        }
    }
}

fn sound_metadata() -> Vec<u8> {
    let value = |(key, value): (&str, &str)| regular(&format!("metadata/{key}"), value.as_bytes());
    tar(&[("CATEGORY", "app-misc\n"), ("PF", "hello-2.0-r1\n"), ("BUILD_ID", "3\n")].map(value))
}

/// A container with this Manifest, or the right one.
fn container(manifest: Option<&[u8]>, metadata_name: &str, metadata: &[u8]) -> Vec<u8> {
    let members: [(&str, &[u8]); 3] = [("gpkg-1", b""), (metadata_name, metadata), ("image.tar", b"an image")];
    let right = manifest_of(members);
    let manifest = ("Manifest", manifest.unwrap_or(right.as_bytes()));
    let all: Vec<_> =
        members.iter().chain([&manifest]).map(|(name, bytes)| regular(&format!("p/{name}"), bytes)).collect();
    tar(&all)
}

fn entry(path: &str, bytes: &[u8]) -> Entry {
    Entry {
        cpv: Cpv::parse("app-misc/hello-2.0-r1").expect("a valid CPV"),
        path: PkgPath::parse(path).expect("a valid PATH"),
        size: bytes.len() as u64,
        mtime: 1,
        build_id: Some(3),
        build_time: Some(1_700_000_000),
        md5: Some(Digest(Md5::digest(bytes).into())),
        sha1: Some(Digest(Sha1::digest(bytes).into())),
    }
}

/// Proves `bytes` as they come in, in chunks, and from the disk: both have to come to the same, and what is proven has to
/// be these bytes. `None` where there is nothing to prove.
fn prove(path: &str, bytes: &[u8], chunks: &[u8], restarts: bool) -> Option<Result<(), String>> {
    if bytes.is_empty() {
        return None;
    }
    let entry = entry(path, bytes);
    let received = judge(received(&entry, bytes, chunks, restarts), bytes);
    let rechecked = judge(rechecked(file(bytes), &entry), bytes);
    assert_eq!(received, rechecked);
    Some(received)
}

fn judge(result: Result<Verified, VerifyError>, bytes: &[u8]) -> Result<(), String> {
    let verified = result.map_err(|error| {
        assert!(error.io_error().is_none(), "the file is blamed: {error}");
        error.to_string()
    })?;
    assert_eq!(verified.size(), bytes.len() as u64);
    assert_eq!(verified.digest(), Digest(Sha256::digest(bytes).into()));
    let mut stored = vec![0; bytes.len() + 1];
    let count = verified.file().read_at(&mut stored, 0).expect("reading a file in memory");
    assert!(stored.get(..count) == Some(bytes), "the file has other bytes");
    Ok(())
}

/// The only places, these two, that call what makes a [`Verified`].
fn received(entry: &Entry, bytes: &[u8], chunks: &[u8], restarts: bool) -> Result<Verified, VerifyError> {
    let mut receiver = Receiver::new(file(&[]), entry.clone(), READER);
    if restarts {
        // Whatever it says: it is forgotten.
        drop(receiver.write(bytes.get(bytes.len() / 3..).unwrap_or_default()));
        receiver.restart()?;
    }
    let mut rest = bytes;
    for chunk in chunks.iter().cycle().take(MOST_WRITES) {
        let (chunk, after) = rest.split_at(rest.len().min(usize::from(*chunk) * usize::from(*chunk) / 16));
        receiver.write(chunk)?;
        rest = after;
    }
    receiver.write(rest)?;
    receiver.finish()
}

fn rechecked(file: File, entry: &Entry) -> Result<Verified, VerifyError> {
    recheck(file, entry.clone(), &READER)
}

/// The `tar` crate finds every member in the Manifest, with its digest.
fn another_reader_agrees(bytes: &[u8]) {
    let mut members = Vec::new();
    for member in tar::Archive::new(bytes).entries().expect("a tar") {
        let mut member = member.expect("a member");
        assert!(member.header().entry_type().is_file());
        let path = String::from_utf8(member.path_bytes().into_owned()).expect("a name");
        let mut body = Vec::new();
        member.read_to_end(&mut body).expect("the whole member");
        members.push((path.split_once('/').expect("in a directory").1.to_owned(), body));
    }
    let at = members.iter().position(|(name, _)| name == "Manifest").expect("a Manifest");
    let manifest = String::from_utf8(members.swap_remove(at).1).expect("text").to_ascii_lowercase();
    for (name, body) in members {
        let sha512: Digest<64> = Digest(Sha512::digest(&body).into());
        let (name, sha512) = (format!(" {} ", name.to_ascii_lowercase()), sha512.to_string());
        assert!(manifest.lines().any(|line| line.contains(&name) && line.contains(&sha512)), "{name}");
    }
}
