//! Portage's own keyring for packages, `/etc/portage/gnupg`: would emerge take what is signed by our keys?
//!
//! Portage checks every signed package in PKGDIR with gpg and this keyring, however good it was here. What fills it is
//! `getuto`, which Portage runs for `--getbinpkg` only: where packages come from a mount, it is easily never run, and each
//! of them fails with "signed with at least one unknown key". gpg's verdict must also be that it trusts the key: each has
//! to be signed by the local key that getuto makes.
//!
//! Only looked at, never asked through gpg, which would write there.
//!
//! Not its job: to change anything there, or to decide whether a package is served.

mod keyrings;
mod trust;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::Fingerprint;

/// Largest file that is looked at, in bytes. A keyring of getuto's has some 100 KiB.
const MAX_FILE: u64 = 16 << 20;

/// What Portage's keyring is good for.
#[derive(Debug)]
pub enum Anchors {
    /// There is no Portage on this machine that could be configured: nothing to say.
    NoPortage,
    /// There is no keyring.
    Missing,
    /// Primary keys that are not in it.
    Lacks(Vec<Fingerprint>),
    /// Primary keys that are in it, and that gpg does not trust. None is lacking.
    Untrusted(Vec<Fingerprint>),
    /// It cannot be told.
    Unreadable(io::Error),
    /// All keys are in it, and trusted.
    Fine,
}

impl Anchors {
    /// Looks at `directory`, a GNUPGHOME, for these primary keys.
    #[must_use]
    pub fn of(directory: &Path, keys: &[Fingerprint]) -> Self {
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

    /// What the administrator should know and do, in one line. `None`: nothing.
    #[must_use]
    pub fn advice(&self, directory: &Path) -> Option<String> {
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

/// `None`: there is no such file.
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

/// The number at `at`, big-endian. `None`: it ends before.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
