//! Checks an entry with as few bytes of its package as possible.
//!
//! - A small package is fetched whole, where it is going to be opened anyway. Of a larger package
//!   only the first bytes are fetched: Portage writes the metadata in front, with a signature of
//!   its own. If these bytes have no such signature, the last bytes are fetched, too. They contain
//!   the Manifest, which covers the metadata. [`verify::head`] bounds both.
//! - A package that is not cached can only be checked where packages are signed.

use std::fs::File;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::blobs::Blobs;
use super::downloads::{Downloads, Uid};
use super::error::FetchError;
use super::index_mismatch::{self, EntryComparer};
use super::outcomes::{Mismatch, OutcomeKind, OutcomeSender};
use super::remote_binhost::{PackageKey, PackageRef};
use crate::config::OnMismatch;
use crate::index::{AuxDigest, AuxValues, Comparison, Entry};
use crate::verify::{self, Head, VerifyError};

/// The number of first bytes that are requested: enough for nearly all packages.
const FIRST: u64 = 64 << 10;
/// Requests for bytes of one package: the first bytes, up to two longer ranges if the metadata is
/// not in them, and the last bytes.
const MAX_REQUESTS: usize = 4;
/// Entries that are known to agree with the first bytes of their packages.
const MAX_PROVED: NonZeroUsize = NonZeroUsize::new(8192).unwrap();

/// The purpose of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CheckFor {
    /// The package is going to be opened, so a small one is fetched whole.
    Plan,
    /// Only the entry is of interest: the check fetches and keeps as little as possible.
    Index,
}

/// The result of checking an entry without its whole package.
#[derive(Debug, Clone)]
pub(crate) enum EntryCheck {
    /// The entry means the same as its package.
    Agrees,
    /// The package contradicts the entry, or is another package.
    Wrong(Arc<FetchError>),
    /// The check could not decide, for this reason.
    Unknown(String),
}

/// Checks entries without their whole packages.
#[derive(Debug)]
pub(super) struct EntryChecker {
    pub(super) blobs: Arc<Blobs>,
    pub(super) downloads: Arc<Downloads>,
    pub(super) comparer: Arc<EntryComparer>,
    pub(super) outcomes: OutcomeSender,
    /// Up to [`MAX_PROVED`] checked entries: the package, and the digest of the entry's values.
    proved: Mutex<LruCache<(PackageKey, AuxDigest), ()>>,
}

impl EntryChecker {
    pub(super) fn new(
        blobs: Arc<Blobs>,
        downloads: Arc<Downloads>,
        comparer: Arc<EntryComparer>,
        outcomes: OutcomeSender,
    ) -> Self {
        Self { blobs, downloads, comparer, outcomes, proved: Mutex::new(LruCache::new(MAX_PROVED)) }
    }

    /// Compares an entry with its package, and fetches as little of the package as possible.
    pub(super) async fn check(&self, wanted: &PackageRef, check_for: CheckFor) -> EntryCheck {
        if wanted.binhost().on_mismatch == OnMismatch::Off {
            return EntryCheck::Unknown("index-mismatch is off".to_owned());
        }
        if let Ok(blob) = self.blobs.get(wanted) {
            return match self.comparer.mismatch(wanted, &blob).await {
                Ok(None) => EntryCheck::Agrees,
                Ok(Some(mismatch)) => EntryCheck::Wrong(mismatch.error),
                Err(error) => EntryCheck::Unknown(error.to_string()),
            };
        }
        if wanted.binhost().policy.keyring.is_none() {
            let reason = "it is not cached, and without signatures only the whole package can prove something";
            return EntryCheck::Unknown(reason.to_owned());
        }
        if check_for == CheckFor::Plan && wanted.record().size <= FIRST && self.blobs.would_keep(wanted).is_ok() {
            match self.check_whole(wanted).await {
                // The refused package may still have signed values, which can show that its entry
                // is wrong.
                Err(error) if is_of_package(&error) => {}
                checked => return EntryCheck::of_whole(checked),
            }
        }
        let mismatch = match self.check_head(wanted).await {
            Ok(check) => return check,
            Err(error) if contradicts(&error) => error,
            Err(error) => return EntryCheck::Unknown(error.to_string()),
        };
        // The signed metadata names another package than the entry does. A download of the whole
        // package finds the same, unless the package is refused before that check.
        match self.check_whole(wanted).await {
            Err(error) if is_of_package(&error) => EntryCheck::Wrong(Arc::new(mismatch)),
            checked => EntryCheck::of_whole(checked),
        }
    }

    async fn check_whole(&self, wanted: &PackageRef) -> Result<(), Arc<FetchError>> {
        self.downloads.open(wanted, Uid::ROOT, None).await.map(|_| ())
    }

    async fn check_head(&self, wanted: &PackageRef) -> Result<EntryCheck, FetchError> {
        let of = wanted.clone();
        let read = tokio::task::spawn_blocking(move || {
            Ok((of.entry()?, index_mismatch::with_entry(&of, |entry| entry.digest())?))
        });
        let (entry, said) = read.await.map_err(|_| FetchError::Stopped)?.map_err(FetchError::Index)?;
        let proved = (wanted.key(), said);
        if self.proved.lock().get(&proved).is_some() {
            return Ok(EntryCheck::Agrees);
        }
        let Some((values, refusal)) = signed_values(wanted, &entry).await? else {
            return Ok(EntryCheck::Unknown("its first and last bytes do not have its metadata signed".to_owned()));
        };
        let compared = index_mismatch::with_entry(wanted, |entry| values.compare(entry)).map_err(FetchError::Index)?;
        Ok(match (compared, refusal) {
            (Comparison::Equal | Comparison::OtherForm(_), None) => {
                self.proved.lock().put(proved, ());
                EntryCheck::Agrees
            }
            (Comparison::Equal | Comparison::OtherForm(_), Some(refusal)) => EntryCheck::Unknown(refusal.to_string()),
            (Comparison::Mismatch(found), _) => {
                let mismatch = Mismatch::new(wanted, said, found);
                self.comparer.log_mismatch(wanted, &mismatch);
                self.outcomes.send(wanted, OutcomeKind::IndexMismatch(mismatch.clone()));
                EntryCheck::Wrong(mismatch.error)
            }
        })
    }
}

impl EntryCheck {
    fn of_whole(checked: Result<(), Arc<FetchError>>) -> Self {
        match checked {
            Ok(()) => Self::Agrees,
            Err(error) if contradicts(&error) => Self::Wrong(error),
            Err(error) => Self::Unknown(error.to_string()),
        }
    }
}

/// The signed values in the package of `entry`, from its first and last bytes. The second value
/// says why the package is refused nevertheless ([`Head::Values`]). `None`: the bytes prove
/// nothing.
async fn signed_values(
    wanted: &PackageRef,
    entry: &Entry,
) -> Result<Option<(AuxValues, Option<VerifyError>)>, FetchError> {
    let upstream = &wanted.binhost().upstream;
    let fetch = |range| upstream.fetch_range(wanted.uri(), wanted.own_path(), entry.size, range);
    let (mut next, mut first, mut last) = (0..FIRST, Arc::default(), Arc::default());
    for _ in 0..MAX_REQUESTS {
        let part = if next.start == 0 { &mut first } else { &mut last };
        *part = Arc::new(fetch(next).await?);
        let parts = [Arc::clone(&first), Arc::clone(&last)];
        let (of, policy, path) = (entry.clone(), wanted.binhost().policy.clone(), wanted.path().to_owned());
        let judged = tokio::task::spawn_blocking(move || {
            let file = in_memory(&parts).map_err(FetchError::Disk)?;
            let refused = |reason| FetchError::Refused { url: path, reason };
            verify::head(&file, parts[0].len() as u64, &of, &policy).map_err(refused)
        });
        next = match judged.await.map_err(|_| FetchError::Stopped)?? {
            Head::Values { values, refusal } => return Ok(Some((*values, refusal))),
            Head::Needs(count) => 0..count,
            Head::NeedsLast(from) => from..entry.size,
            Head::Nothing => break,
        };
    }
    Ok(None)
}

/// Whether the error proves that an entry is wrong. Other errors only say that the package cannot
/// be fetched now: an index that is a little older than the files of its binhost must not stop a
/// whole plan.
fn contradicts(error: &FetchError) -> bool {
    matches!(error, FetchError::IndexMismatch(_))
        || matches!(error, FetchError::Refused { reason: VerifyError::Identity { .. }, .. })
}

/// Whether a package is refused because of how it was built or signed.
fn is_of_package(error: &FetchError) -> bool {
    matches!(error, FetchError::Refused { reason, .. } if reason.is_of_package())
}

/// An anonymous file with these bytes, for code that reads files.
fn in_memory(parts: &[Arc<Vec<u8>>]) -> std::io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("binhostfs-head", rustix::fs::MemfdFlags::CLOEXEC)?);
    parts.iter().try_for_each(|part| file.write_all(part))?;
    Ok(file)
}
