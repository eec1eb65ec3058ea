//! Certificate files of a keyring, read again when they change.
//!
//! Each use checks with stat(2) whether a file has changed. If a file becomes unreadable, binhostfs
//! warns and keeps its last certificates until the file can be read or the daemon restarts.
//!
//! The usability of keys also depends on the time. It is judged again when the system clock is set,
//! and when a signature, revocation or key of a certificate begins or ends.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;
use std::{fs, io};

use parking_lot::Mutex;

use super::{Certificates, Keys};
use crate::sys::Passed;
use crate::verify::Fingerprint;

/// Largest file of certificates, in bytes. Gentoo's has some 100 KiB.
const MAX_FILE: u64 = 16 << 20;

/// Why signatures cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// No certificate could be read from any file.
    #[error(
        "packages must be signed, but there is no key to check signatures with: {0}. On Gentoo, install \
         sec-keys/openpgp-keys-gentoo-release; else give the file of the binhost's certificate with --keyring FILE, or \
         accept unsigned packages with --verify-signature false"
    )]
    Missing(String),
    /// There are certificates, and none of them may sign packages.
    #[error(
        "packages must be signed, but no key of the keyring may sign: {0}. Update the keyring (on Gentoo: \
         sec-keys/openpgp-keys-gentoo-release), or give the file of another certificate of the binhost with --keyring FILE"
    )]
    Unusable(String),
}

impl KeyringError {
    /// Adds the name of the binhost whose packages need the keyring.
    #[must_use]
    pub fn of_binhost(self, name: &str) -> Self {
        let named = |why: String| format!("{why} (for the binhost {name})");
        match self {
            Self::Missing(why) => Self::Missing(named(why)),
            Self::Unusable(why) => Self::Unusable(named(why)),
        }
    }
}

/// Keys that are trusted to sign packages.
#[derive(Debug)]
pub struct Keyring(Mutex<LoadedKeyring>);

/// State of a keyring at one moment, for status output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyringReport {
    /// Paths of the certificate files.
    pub files: Vec<PathBuf>,
    /// Keys and subkeys that may sign.
    pub keys: usize,
    /// Unreadable files and unusable certificates, with the reasons.
    pub problems: Vec<String>,
}

#[derive(Debug)]
struct LoadedKeyring {
    files: Vec<CertificateFile>,
    keys: Arc<Keys>,
}

#[derive(Debug)]
struct CertificateFile {
    path: PathBuf,
    stamp: Option<KeyringStamp>,
    certificates: Certificates,
    problems: Vec<String>,
}

/// File attributes that change whenever the file changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KeyringStamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Keyring {
    /// Opens a keyring of these files. Unreadable files and unusable certificates cause a warning.
    ///
    /// # Errors
    /// No key may sign, and the reason is not a system clock that is behind the keyring.
    pub fn open(paths: impl IntoIterator<Item = PathBuf>) -> Result<Self, KeyringError> {
        Self::open_at(paths, SystemTime::now())
    }

    pub(crate) fn open_at(paths: impl IntoIterator<Item = PathBuf>, now: SystemTime) -> Result<Self, KeyringError> {
        let mut files: Vec<CertificateFile> = paths.into_iter().map(CertificateFile::new).collect();
        files.iter_mut().for_each(|file| {
            file.read_if_changed();
        });
        let mut state = LoadedKeyring { files, keys: Arc::default() };
        state.unite(now);
        if state.keys.count() > 0 || state.may_have_keys_later(now) {
            return Ok(Self(Mutex::new(state)));
        }
        let without = state.files.iter().all(|file| file.certificates.is_empty());
        let problems = state.problems().join("; ");
        Err(if without { KeyringError::Missing(problems) } else { KeyringError::Unusable(problems) })
    }

    /// Whether any key may sign now.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        self.current().count() > 0
    }

    /// Returns when a key was last created or signed by its owner. `None`: there is no key.
    #[must_use]
    pub fn last_signed(&self) -> Option<Passed> {
        self.current().last_signed()
    }

    /// Reads changed files again and reports the present state.
    #[must_use]
    pub fn report(&self) -> KeyringReport {
        self.current();
        let state = self.0.lock();
        let files = state.files.iter().map(|file| file.path.clone()).collect();
        KeyringReport { files, keys: state.keys.count(), problems: state.problems() }
    }

    /// Returns the primary keys of the certificates by which packages may be signed, for
    /// [`Anchors`](crate::verify::Anchors).
    #[must_use]
    pub fn primary_keys(&self) -> Vec<Fingerprint> {
        self.current().primary_keys()
    }

    pub(in crate::verify) fn current(&self) -> Arc<Keys> {
        let mut state = self.0.lock();
        let mut changed = false;
        for file in &mut state.files {
            changed |= file.read_if_changed();
        }
        let now = SystemTime::now();
        if changed || !state.keys.is_judged_for(now) {
            let before = state.keys.count();
            state.unite(now);
            if changed {
                tracing::info!(keys = state.keys.count(), "the keyring has changed");
            } else if before != state.keys.count() {
                tracing::info!(keys = state.keys.count(), before, "the keys that may sign have changed with time");
            }
        }
        Arc::clone(&state.keys)
    }
}

impl LoadedKeyring {
    fn unite(&mut self, now: SystemTime) {
        self.keys = Arc::new(Keys::new(self.files.iter().map(|file| &file.certificates), now));
        for problem in self.keys.unusable() {
            tracing::info!(problem, "a certificate of the keyring cannot be used");
        }
    }

    /// Whether a wrong clock, and not the keys, is the reason that no key may sign.
    fn may_have_keys_later(&self, now: SystemTime) -> bool {
        let later = self.keys.last_signed().map(|signed| signed.time()).filter(|signed| now < *signed);
        later.is_some_and(|then| Keys::new(self.files.iter().map(|file| &file.certificates), then).count() > 0)
    }

    fn problems(&self) -> Vec<String> {
        let of_file = |file: &CertificateFile| {
            let path = file.path.display().to_string();
            file.problems.iter().map(move |problem| format!("{path}: {problem}")).collect::<Vec<_>>()
        };
        self.files.iter().flat_map(of_file).chain(self.keys.unusable().iter().cloned()).collect()
    }
}

impl CertificateFile {
    fn new(path: PathBuf) -> Self {
        Self { path, stamp: None, certificates: Certificates::default(), problems: Vec::new() }
    }

    /// Returns `true` if the file was read again and has a certificate, so that its certificates
    /// may have changed.
    fn read_if_changed(&mut self) -> bool {
        let stamp = fs::metadata(&self.path).map(|metadata| KeyringStamp::of(&metadata));
        let stamp = match stamp {
            Ok(stamp) if self.stamp == Some(stamp) => return false,
            Ok(stamp) => stamp,
            Err(error) => {
                self.stamp = None;
                self.complain(vec![error.to_string()]);
                return false;
            }
        };
        self.stamp = Some(stamp);
        let (certificates, problems) = match read(&self.path, stamp.size) {
            Ok(bytes) => Certificates::parse(&bytes),
            Err(error) => {
                self.stamp = None;
                (Certificates::default(), vec![error.to_string()])
            }
        };
        let usable = !certificates.is_empty();
        if usable {
            self.certificates = certificates;
        }
        let nothing = || vec!["there is no certificate in it".to_owned()];
        self.complain(if usable || !problems.is_empty() { problems } else { nothing() });
        usable
    }

    /// Warns once for each new list of problems, not at each use.
    fn complain(&mut self, problems: Vec<String>) {
        if self.problems != problems {
            let kept = if self.certificates.is_empty() { "" } else { "; certificates read from it before still count" };
            for problem in &problems {
                tracing::warn!("keyring {}: {problem}{kept}", self.path.display());
            }
            self.problems = problems;
        }
    }
}

impl KeyringStamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

fn read(path: &std::path::Path, size: u64) -> io::Result<Vec<u8>> {
    if size > MAX_FILE {
        return Err(io::Error::other(format!("it has more than {} MiB", MAX_FILE >> 20)));
    }
    fs::read(path)
}
