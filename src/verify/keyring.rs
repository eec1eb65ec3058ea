//! Files of certificates, read again when they change.
//!
//! Whether they have changed is asked at each use, by stat(2). A file that has become unreadable is warned about, and what
//! it had last counts until it can be read again, or until the daemon starts anew.
//!
//! What keys are good for depends on the time as well: it is judged again when the system clock is set, and when something of a
//! certificate begins or ends.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use std::{fs, io};

use super::Fingerprint;
use super::openpgp::{Certificates, Keys};
use crate::sys::Passed;

/// Largest file of certificates in bytes. Gentoo's has some 100 KiB.
const MAX_FILE: u64 = 16 << 20;

/// Why there is nothing to check signatures with.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// No file has a key that may sign.
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
    /// The same, and whose packages it is about.
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

/// A keyring at one moment, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyringReport {
    /// Its files.
    pub files: Vec<PathBuf>,
    /// Keys and subkeys that may sign.
    pub keys: usize,
    /// Files that cannot be read and certificates of no use, and why.
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

/// What changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KeyringStamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Keyring {
    /// The keys of these files. Files that cannot be read and certificates of no use are warned about.
    ///
    /// # Errors
    /// There is no key that may sign, nor would there be one if the system clock were not behind the keyring.
    pub fn open(paths: impl IntoIterator<Item = PathBuf>) -> Result<Self, KeyringError> {
        Self::open_at(paths, SystemTime::now())
    }

    pub(super) fn open_at(paths: impl IntoIterator<Item = PathBuf>, now: SystemTime) -> Result<Self, KeyringError> {
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

    /// Whether there is a key now that may sign.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        self.current().count() > 0
    }

    /// When a key was last made or signed by its owner. `None`: there is no key.
    #[must_use]
    pub fn last_signed(&self) -> Option<Passed> {
        self.current().last_signed()
    }

    /// What it has now.
    #[must_use]
    pub fn report(&self) -> KeyringReport {
        self.current();
        let state = self.lock();
        let files = state.files.iter().map(|file| file.path.clone()).collect();
        KeyringReport { files, keys: state.keys.count(), problems: state.problems() }
    }

    /// Primary keys of the certificates by which packages may be signed, for [`Anchors`](super::Anchors).
    #[must_use]
    pub fn primary_keys(&self) -> Vec<Fingerprint> {
        self.current().primary_keys()
    }

    pub(super) fn current(&self) -> Arc<Keys> {
        let mut state = self.lock();
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
                tracing::info!(keys = state.keys.count(), before, "other keys of the keyring may sign by now");
            }
        }
        Arc::clone(&state.keys)
    }

    fn lock(&self) -> MutexGuard<'_, LoadedKeyring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LoadedKeyring {
    fn unite(&mut self, now: SystemTime) {
        self.keys = Arc::new(Keys::new(self.files.iter().map(|file| &file.certificates), now));
        for problem in self.keys.unusable() {
            tracing::info!(problem, "in the keyring, but of no use");
        }
    }

    /// Whether it is the clock, and not the keys, why none of them may sign.
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

    /// `true`: its certificates may be others than before.
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

    /// Once for each problem, not at each use.
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
