//! Small real GPKG packages, built in memory. Source of the format: GLEP 78.

use std::io::{self, Write as _};

use blake2::Blake2b512;
use sha2::{Digest as _, Sha512};

/// A package, with the values that its index entry needs.
#[derive(Debug, Clone)]
pub(crate) struct Package {
    pub(crate) category: &'static str,
    pub(crate) pf: &'static str,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) const BUILD_ID: u32 = 1;
pub(crate) const BUILD_TIME: u64 = 1_760_000_000;

/// Builds a package that installs one file of `payload` bytes.
pub(crate) fn build(category: &'static str, pf: &'static str, payload: usize) -> io::Result<Package> {
    let text = |value: &str| format!("{value}\n").into_bytes();
    let metadata = [
        ("metadata/BUILD_ID", text(&BUILD_ID.to_string())),
        ("metadata/BUILD_TIME", text(&BUILD_TIME.to_string())),
        ("metadata/CATEGORY", text(category)),
        ("metadata/EAPI", text("8")),
        ("metadata/PF", text(pf)),
        ("metadata/SLOT", text("0")),
        ("metadata/repository", text("gentoo")),
    ];
    let image = [(format!("image/usr/share/{pf}/payload"), noise(payload))];
    let image: Vec<(&str, Vec<u8>)> = image.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    let members = [
        ("gpkg-1", Vec::new()),
        ("metadata.tar.gz", compressed(&archive(&metadata)?)?),
        ("image.tar.gz", compressed(&archive(&image)?)?),
    ];
    let manifest: String = members.iter().map(|(name, bytes)| manifest_line(name, bytes)).collect();
    let prefix = format!("{pf}-{BUILD_ID}");
    let names: Vec<String> = members.iter().map(|(name, _)| format!("{prefix}/{name}")).collect();
    let named = names.iter().map(String::as_str).zip(members.iter().map(|(_, bytes)| bytes.clone()));
    let manifest_name = format!("{prefix}/Manifest");
    let all: Vec<(&str, Vec<u8>)> = named.chain([(manifest_name.as_str(), manifest.into_bytes())]).collect();
    Ok(Package { category, pf, bytes: archive(&all)? })
}

impl Package {
    pub(crate) fn path(&self) -> String {
        // Good enough for the names that are built here: cuts a revision, then a version.
        let versioned = self.pf.rsplit_once("-r").map_or(self.pf, |(rest, _)| rest);
        let name = versioned.rsplit_once('-').map_or(versioned, |(name, _)| name);
        format!("{}/{name}/{}-{BUILD_ID}.gpkg.tar", self.category, self.pf)
    }
}

fn archive(members: &[(&str, Vec<u8>)]) -> io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        // As Portage does: names that do not fit into the two fields of a ustar header take a GNU
        // header.
        let directory = name.find('/').unwrap_or_default();
        let mut header = if directory >= 154 { tar::Header::new_gnu() } else { tar::Header::new_ustar() };
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(BUILD_TIME);
        header.set_uid(0);
        header.set_gid(0);
        header.set_entry_type(tar::EntryType::Regular);
        builder.append_data(&mut header, name, bytes.as_slice())?;
    }
    builder.into_inner()
}

fn compressed(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn manifest_line(name: &str, bytes: &[u8]) -> String {
    let hex = |digest: &[u8]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (sha512, blake2b) = (hex(&Sha512::digest(bytes)), hex(&Blake2b512::digest(bytes)));
    format!("DATA {name} {} SHA512 {sha512} BLAKE2B {blake2b}\n", bytes.len())
}

/// Bytes that no compressor shrinks, the same every time.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(count).collect()
}
