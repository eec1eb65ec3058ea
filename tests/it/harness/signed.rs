//! Packages that Portage made, taken apart, signed by keys of all kinds, and put together again.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use blake2::Blake2b512;
use md5::{Digest as _, Md5};
use sha1::Sha1;
use sha2::Sha512;
use tempfile::TempDir;

use super::portage::test_environment;
use super::{Gpg, Options, Origin, can_mount};

/// A package that Portage made, and its entry in Portage's index.
#[derive(Debug, Clone)]
pub(crate) struct Real {
    pub(crate) path: String,
    pub(crate) stanza: String,
    pub(crate) bytes: Vec<u8>,
}

impl Real {
    /// With another end of its name, which says nothing of the format.
    pub(crate) fn disguised(&self) -> Self {
        let path = self.path.replace(".xpak", ".package");
        Self { stanza: self.stanza.replace(&self.path, &path), path, bytes: self.bytes.clone() }
    }
}

/// A binhost that Portage made.
pub(crate) fn binhost(name: &str) -> Option<(PathBuf, String, Vec<Real>)> {
    if !can_mount() {
        return None;
    }
    let environment = test_environment()?;
    let directory = environment.join("binhosts").join(name);
    let text = fs::read_to_string(directory.join("Packages")).unwrap();
    let (header, entries) = text.split_once("\n\n").unwrap();
    let real = |stanza: &str| {
        let path = stanza.lines().find_map(|line| line.strip_prefix("PATH: ")).unwrap().to_owned();
        Real { bytes: fs::read(directory.join(&path)).unwrap(), stanza: stanza.to_owned(), path }
    };
    let packages = entries.split("\n\n").filter(|stanza| !stanza.trim().is_empty()).map(real).collect();
    Some((environment.join("env/signing-key.pgp"), header.to_owned(), packages))
}

pub(crate) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Real {
    /// With other bytes, and an entry that is right for them.
    pub(crate) fn with(&self, bytes: Vec<u8>) -> Self {
        let line = |line: &str| match line.split_once(": ") {
            Some(("SIZE", _)) => format!("SIZE: {}\n", bytes.len()),
            Some(("MD5", _)) => format!("MD5: {}\n", hex(&Md5::digest(&bytes))),
            Some(("SHA1", _)) => format!("SHA1: {}\n", hex(&Sha1::digest(&bytes))),
            _ => format!("{line}\n"),
        };
        let stanza = self.stanza.lines().map(line).collect::<String>().trim_end().to_owned();
        Self { path: self.path.clone(), stanza, bytes }
    }

    /// With the members and the Manifest that `change` makes of it.
    pub(crate) fn changed(&self, change: impl FnOnce(&mut Members)) -> Self {
        let mut members = Members::of(&self.bytes);
        change(&mut members);
        self.with(members.tar())
    }

    pub(crate) fn manifest(&self) -> Vec<u8> {
        Members::of(&self.bytes).manifest
    }
}

/// A GPKG, taken apart.
#[derive(Debug)]
pub(crate) struct Members {
    pub(crate) directory: String,
    pub(crate) members: Vec<(String, Vec<u8>)>,
    pub(crate) manifest: Vec<u8>,
}

impl Members {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let (mut members, mut manifest, mut prefix) = (Vec::new(), Vec::new(), String::new());
        for entry in tar::Archive::new(bytes).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            let (directory, name) = path.split_once('/').unwrap();
            directory.clone_into(&mut prefix);
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            if name == "Manifest" {
                manifest = bytes;
            } else {
                members.push((name.to_owned(), bytes));
            }
        }
        Self { directory: prefix, members, manifest }
    }

    /// The text that its Manifest must have.
    pub(crate) fn text(&self) -> String {
        let line = |(name, bytes): &(String, Vec<u8>)| {
            let (sha512, blake2b) = (hex(&Sha512::digest(bytes)), hex(&Blake2b512::digest(bytes)));
            format!("DATA {name} {} SHA512 {sha512} BLAKE2B {blake2b}\n", bytes.len())
        };
        self.members.iter().map(line).collect()
    }

    pub(crate) fn without_signatures(&mut self) {
        self.members.retain(|(name, _)| !name.ends_with(".sig"));
        self.manifest = self.text().into_bytes();
    }

    /// Signs members and Manifest by a key.
    pub(crate) fn sign(&mut self, gpg: &Gpg, options: &[&str]) {
        self.without_signatures();
        let sign = |(name, bytes): &(String, Vec<u8>)| (format!("{name}.sig"), gpg.detach(options, bytes));
        let signatures: Vec<_> = self.members.iter().filter(|(name, _)| name.contains(".tar")).map(sign).collect();
        self.members.extend(signatures);
        self.manifest = gpg.clearsign(options, self.text().as_bytes());
    }

    pub(crate) fn tar(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let all = self.members.iter().map(|(name, bytes)| (name.as_str(), bytes));
        for (name, bytes) in all.chain([("Manifest", &self.manifest)]) {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_entry_type(tar::EntryType::Regular);
            builder.append_data(&mut header, format!("{}/{name}", self.directory), bytes.as_slice()).unwrap();
        }
        builder.into_inner().unwrap()
    }
}

pub(crate) fn serve(header: &str, packages: &[Real]) -> Origin {
    let origin = Origin::start();
    publish(&origin, header, packages);
    origin
}

pub(crate) fn publish(origin: &Origin, header: &str, packages: &[Real]) {
    let mut text = format!("{header}\n\n");
    for Real { path, stanza, bytes } in packages {
        origin.put(path, bytes.clone());
        text += &format!("{stanza}\n\n");
    }
    origin.put_index(text.as_bytes());
}

/// The same in a directory, as an ordinary PKGDIR.
pub(crate) fn pkgdir_of(header: &str, packages: &[Real]) -> TempDir {
    let directory = TempDir::with_prefix("binhostfs-it.").unwrap();
    let mut text = format!("{header}\n\n");
    for Real { path, stanza, bytes } in packages {
        let file = directory.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, bytes).unwrap();
        text += &format!("{stanza}\n\n");
    }
    fs::write(directory.path().join("Packages"), text).unwrap();
    directory
}

pub(crate) fn with_keys(origin: &Origin, keyring: &Path) -> Options {
    Options::new(origin.url()).with(["--keyring", keyring.to_str().unwrap()])
}
