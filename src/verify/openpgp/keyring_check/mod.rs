//! Checks whether Portage's own keyring, `/etc/portage/gnupg`, accepts packages that our keys
//! signed.
//!
//! Portage checks every signed package in PKGDIR with gpg and this keyring, even after binhostfs
//! has verified it. `getuto` fills the keyring, but Portage runs `getuto` only for `--getbinpkg`.
//! With packages from a mount `getuto` may never run, and each package then fails with "signed with
//! at least one unknown key". gpg must also trust the keys: the local key that getuto makes must
//! have signed each of them.
//!
//! The files are only read. gpg itself is not run, because gpg would write to the directory.
//!
//! Not its job: changing the keyring, or deciding whether a package is served.

mod keyrings;
mod trust;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use crate::verify::Fingerprint;

/// Largest file that is read, in bytes. A keyring of getuto's has some 100 KiB.
const MAX_FILE: u64 = 16 << 20;

/// State of Portage's keyring with respect to the keys of binhostfs.
#[derive(Debug)]
pub(crate) enum Anchors {
    /// This machine has no configuration of Portage, so there is nothing to check.
    NoPortage,
    /// Portage has no keyring.
    Missing,
    /// The keyring lacks these primary keys.
    Lacks(Vec<Fingerprint>),
    /// The keyring has all keys, but gpg does not trust these primary keys.
    Untrusted(Vec<Fingerprint>),
    /// The files of the keyring cannot be read.
    Unreadable(io::Error),
    /// The keyring has all keys, and gpg trusts them.
    Fine,
}

impl Anchors {
    /// Looks for these primary keys in `directory`, a GNUPGHOME.
    #[must_use]
    pub(crate) fn of(directory: &Path, keys: &[Fingerprint]) -> Self {
        if directory.parent().is_some_and(|portage| !portage.exists()) {
            return Self::NoPortage;
        }
        Self::inspect(directory, keys).unwrap_or_else(Self::Unreadable)
    }

    fn inspect(directory: &Path, keys: &[Fingerprint]) -> io::Result<Self> {
        let Some(present) = keyrings::which(directory, keys)? else { return Ok(Self::Missing) };
        let (present, lacking): (Vec<Fingerprint>, _) = keys.iter().copied().partition(|key| present.contains(key));
        if !lacking.is_empty() {
            return Ok(Self::Lacks(lacking));
        }
        let untrusted = trust::untrusted(directory, present)?;
        Ok(if untrusted.is_empty() { Self::Fine } else { Self::Untrusted(untrusted) })
    }

    /// Returns one line with the problem and its remedy for the administrator. `None`: there is no
    /// problem.
    #[must_use]
    pub(crate) fn advice(&self, directory: &Path) -> Option<String> {
        let directory = directory.display();
        let sign = "--pinentry-mode loopback --passphrase-file";
        Some(match self {
            Self::NoPortage | Self::Fine => return None,
            Self::Missing => format!(
                "Portage has no keyring in {directory}: emerge checks signed packages itself, and will refuse them as \
                 signed by an unknown key. Run `getuto` (if the directory is there already, remove it before)"
            ),
            Self::Lacks(keys) => format!(
                "Portage's keyring {directory} lacks {}: emerge checks signed packages itself, and will refuse what these \
                 keys signed. Run `getuto`; a key that is not Gentoo's: `gpg --homedir {directory} --import FILE`",
                list(keys)
            ),
            Self::Untrusted(keys) => format!(
                "Portage's keyring {directory} has {}, but gpg does not trust them: emerge will refuse what they signed. \
                 Run, for each of them, `gpg --homedir {directory} {sign} {directory}/pass --quick-lsign-key KEY`, and \
                 then `gpg --homedir {directory} --check-trustdb`",
                list(keys)
            ),
            Self::Unreadable(error) => format!(
                "whether Portage's keyring {directory} has the keys that packages are signed by cannot be told: {error}"
            ),
        })
    }
}

fn list(keys: &[Fingerprint]) -> String {
    keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Reads a whole file; `None` if it does not exist.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let told = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(told(error)),
    };
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(told(io::Error::other(format!("it is not a file of at most {} MiB", MAX_FILE >> 20))));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes)).map_err(told)?;
    Ok(Some(bytes))
}

/// Reads the big-endian number at offset `at`. `None`: the bytes end before it.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(feature = "openpgp")]
#[cfg(test)]
#[path = "tests.rs"]
mod tests;
