//! Tars, made and mended: a fuzzer alone would hardly ever hit a right checksum or digest.

use std::collections::HashMap;

use binhostfs::internals::index::Digest;
use blake2::Blake2b512;
use sha2::{Digest as _, Sha512};
use tar::{EntryType, Header};

/// Bytes of a block.
const BLOCK: usize = 512;

/// One member, filled up to whole blocks.
pub fn regular(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.set_path(name).expect("a short name");
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(bytes.len() as u64);
    header.set_entry_type(EntryType::Regular);
    header.set_cksum();
    let mut all = header.as_bytes().to_vec();
    all.extend_from_slice(bytes);
    all.resize(all.len().next_multiple_of(BLOCK), 0);
    all
}

/// The shortest tar of these members.
pub fn tar(members: &[Vec<u8>]) -> Vec<u8> {
    let mut all = members.concat();
    all.resize(all.len() + 2 * BLOCK, 0);
    all
}

/// The lines of a Manifest that is right for these members, names and bytes.
pub fn manifest_of<'a>(members: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> String {
    let line = |(name, bytes): (&str, &[u8])| {
        let (sha512, blake2b) = (Digest(Sha512::digest(bytes).into()), Digest(Blake2b512::digest(bytes).into()));
        format!("DATA {name} {} SHA512 {sha512} BLAKE2B {blake2b}\n", bytes.len())
    };
    members.into_iter().map(line).collect()
}

/// A header and what belongs to it, as far as this module understands it.
struct Part<'a> {
    header: Header,
    body: &'a [u8],
}

/// The parts of `bytes` and what follows them.
fn parts(bytes: &[u8]) -> (Vec<Part<'_>>, &[u8]) {
    let (mut parts, mut rest) = (Vec::new(), bytes);
    while let Some((block, after)) = rest.split_first_chunk::<BLOCK>() {
        let header = Header::from_byte_slice(block).clone();
        let size = header.entry_size().ok().and_then(|size| usize::try_from(size).ok());
        let Some(body) = size.and_then(|size| after.get(..size)) else { break };
        if block.iter().all(|b| *b == 0) {
            break;
        }
        parts.push(Part { header, body });
        rest = after.get(body.len().next_multiple_of(BLOCK)..).unwrap_or_default();
    }
    (parts, rest)
}

fn joined(parts: &[Part<'_>], rest: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    for Part { header, body } in parts {
        all.extend_from_slice(header.as_bytes());
        all.extend_from_slice(body);
        all.resize(all.len().next_multiple_of(BLOCK), 0);
    }
    all.extend_from_slice(rest);
    all
}

/// The same tar with right checksums and empty padding.
pub(super) fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let (mut parts, rest) = parts(bytes);
    parts.iter_mut().for_each(|part| part.header.set_cksum());
    joined(&parts, rest)
}

/// The same container with the lines in its Manifest that its members call for.
pub(super) fn with_manifest(bytes: &[u8]) -> Vec<u8> {
    let (mut parts, rest) = parts(bytes);
    let mut long_name = None;
    let mut members = Vec::new();
    let mut manifest_at = None;
    for (at, part) in parts.iter().enumerate() {
        let path = long_name.take().unwrap_or_else(|| text(&part.header.path_bytes()));
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        match part.header.entry_type() {
            EntryType::GNULongName => long_name = Some(text(part.body)),
            _ if name == "Manifest" => manifest_at = Some(at),
            _ => members.push((name, part.body)),
        }
    }
    let manifest = manifest_of(members.iter().map(|(name, body)| (name.as_str(), *body)));
    if let Some(part) = manifest_at.and_then(|at| parts.get_mut(at)) {
        part.header.set_size(manifest.len() as u64);
        part.header.set_cksum();
        part.body = manifest.as_bytes();
    }
    joined(&parts, rest)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

/// Regular members of a plain tar as Python's tarfile finds them, and so Portage: nothing belongs to a directory, whatever
/// size its header has, and a regular file of the oldest kind is one where its name ends in a slash.
pub(super) fn as_python_reads_it(bytes: &[u8]) -> HashMap<String, String> {
    let (mut members, mut rest) = (HashMap::new(), bytes);
    while let Some((block, after)) =
        rest.split_first_chunk::<BLOCK>().filter(|(block, _)| block.iter().any(|b| *b != 0))
    {
        let header = Header::from_byte_slice(block);
        let name = text(&header.path_bytes());
        let kind = header.as_old().linkflag[0];
        if kind == b'5' || (kind == 0 && name.ends_with('/')) {
            rest = after;
            continue;
        }
        let size = header.entry_size().ok().and_then(|size| usize::try_from(size).ok()).unwrap_or(usize::MAX);
        let Some(body) = after.get(..size) else { break };
        members.insert(name, String::from_utf8_lossy(body).into_owned());
        rest = after.get(size.next_multiple_of(BLOCK)..).unwrap_or_default();
    }
    members
}
