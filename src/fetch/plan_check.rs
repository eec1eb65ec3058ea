//! Checks the entries of a merge plan before the first package of the plan is answered. Portage
//! would merge a dependency that somebody has added to an entry before it opens the package of that
//! entry.
//!
//! - Entries are checked only where packages are signed and an index mismatch is refused. Otherwise
//!   the result would have no effect.
//! - A small package is fetched whole, since emerge is going to open it. Of a larger package only
//!   the first bytes are fetched: Portage writes the metadata in front, with a signature of its
//!   own. If these bytes have no such signature, the last bytes are fetched, too. They contain the
//!   Manifest, which covers the metadata. [`verify::head`] bounds both.
//! - Only a proof that an entry is wrong stops a plan. A package that cannot be fetched fails when
//!   it is opened.
//! - The open waits for a bounded time. A longer check continues, and stops packages of the plan
//!   that are opened later.
//! - The opener is looked up once for each thread, and remembered for a while. That lookup
//!   (`uncached_open`) and the reading of a plan may never end. Root, the user of emerge, therefore
//!   has readers that other users cannot take.
//!
//! Not its job: fetching the packages of a plan (`prefetch::planned`).

use std::fs::File;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::downloads::Uid;
use super::emerge_plan;
use super::index_mismatch::{self, Mismatch};
use super::remote_binhost::PackageKey;
use super::uncached_open::Miss;
use super::{FetchError, Fetcher, OutcomeKind, PackageRef};
use crate::config::OnMismatch;
use crate::index::{AuxDigest, AuxValues, Comparison, Entry};
use crate::portage::emerge_process::{OpenerProcess, ProcessKey};
use crate::verify::{self, Head, VerifyError};

/// The number of first bytes that are requested: enough for nearly all packages.
const FIRST: u64 = 64 << 10;
/// Requests for bytes of one package: the first bytes, up to two longer ranges if the metadata is
/// not in them, and the last bytes.
const MAX_REQUESTS: usize = 4;
/// Packages of a plan that are checked at the same time.
const TOGETHER: usize = 6;
/// How long the check of a plan may run, also when no open waits for it any more.
const LONGEST: Duration = Duration::from_secs(60);
/// Plans whose check is remembered.
const MAX_PLANS: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// Threads that are known to follow no plan, or a plan that is checked.
const MAX_OPENERS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// How long a thread is remembered. After that another process may have its number.
const KNOWN: Duration = Duration::from_secs(30);
/// Plans that are read at the same time, for root and for all other users. A process may have its
/// files on a file system where reading never ends.
const MAX_READERS: usize = 4;
/// Entries that are known to agree with the first bytes of their packages.
const MAX_PROVED: NonZeroUsize = NonZeroUsize::new(8192).unwrap();

/// Up to [`MAX_PROVED`] checked entries: the package, and the digest of the entry's values.
#[derive(Debug)]
pub(super) struct ProvedAhead(Mutex<LruCache<(PackageKey, AuxDigest), ()>>);

impl Default for ProvedAhead {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_PROVED)))
    }
}

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

impl Fetcher {
    /// Compares an entry with its package, and fetches as little of the package as possible.
    pub(crate) async fn check_entry(self: &Arc<Self>, wanted: &PackageRef, check_for: CheckFor) -> EntryCheck {
        if wanted.binhost().on_mismatch == OnMismatch::Off {
            return EntryCheck::Unknown("index-mismatch is off".to_owned());
        }
        if let Some(blob) = self.here(wanted.record(), &wanted.binhost().policy) {
            return match self.mismatch(wanted, &blob).await {
                Ok(None) => EntryCheck::Agrees,
                Ok(Some(mismatch)) => EntryCheck::Wrong(mismatch.error),
                Err(error) => EntryCheck::Unknown(error.to_string()),
            };
        }
        if wanted.binhost().policy.keyring.is_none() {
            let reason = "it is not cached, and without signatures only the whole package can prove something";
            return EntryCheck::Unknown(reason.to_owned());
        }
        if check_for == CheckFor::Plan && wanted.record().size <= FIRST && self.would_keep(wanted).is_ok() {
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

    async fn check_whole(self: &Arc<Self>, wanted: &PackageRef) -> Result<(), Arc<FetchError>> {
        self.open(wanted.clone(), &self.miss(0, Uid::ROOT), Uid::ROOT).await.map(|_| ())
    }

    async fn check_head(self: &Arc<Self>, wanted: &PackageRef) -> Result<EntryCheck, FetchError> {
        let of = wanted.clone();
        let read = tokio::task::spawn_blocking(move || {
            Ok((of.entry()?, index_mismatch::with_entry(&of, |entry| entry.digest())?))
        });
        let (entry, said) = read.await.map_err(|_| FetchError::Stopped)?.map_err(FetchError::Index)?;
        let proved = (wanted.key(), said);
        if self.proved_ahead.0.lock().get(&proved).is_some() {
            return Ok(EntryCheck::Agrees);
        }
        let Some((values, refusal)) = signed_values(wanted, &entry).await? else {
            return Ok(EntryCheck::Unknown("its first and last bytes do not have its metadata signed".to_owned()));
        };
        let compared = index_mismatch::with_entry(wanted, |entry| values.compare(entry)).map_err(FetchError::Index)?;
        Ok(match (compared, refusal) {
            (Comparison::Equal | Comparison::OtherForm(_), None) => {
                self.proved_ahead.0.lock().put(proved, ());
                EntryCheck::Agrees
            }
            (Comparison::Equal | Comparison::OtherForm(_), Some(refusal)) => EntryCheck::Unknown(refusal.to_string()),
            (Comparison::Mismatch(found), _) => {
                let mismatch = Mismatch::new(wanted, said, found);
                self.log_mismatch(wanted, &mismatch);
                self.send_outcome(wanted, OutcomeKind::IndexMismatch(mismatch.clone()));
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

/// The progress of the check of one plan.
#[derive(Debug, Clone)]
enum Progress {
    Running,
    /// No entry of the plan is known to be wrong.
    Done,
    /// The emerge had no plan yet.
    NoPlan,
    Wrong(Arc<FetchError>),
}

#[derive(Debug, Clone)]
struct PlanCheck {
    began: Instant,
    progress: watch::Receiver<Progress>,
}

/// The checks of all plans, one for each emerge process.
#[derive(Debug)]
pub(super) struct PlanChecks {
    /// How long an open waits for a check. Zero: nothing is checked.
    limit: Duration,
    plans: Mutex<LruCache<ProcessKey, PlanCheck>>,
    openers: Mutex<LruCache<u32, Instant>>,
    readers_of_root: Arc<Semaphore>,
    readers: Arc<Semaphore>,
}

impl PlanChecks {
    pub(super) fn new(limit: Duration) -> Self {
        let readers = || Arc::new(Semaphore::new(MAX_READERS));
        Self {
            limit,
            plans: Mutex::new(LruCache::new(MAX_PLANS)),
            openers: Mutex::new(LruCache::new(MAX_OPENERS)),
            readers_of_root: readers(),
            readers: readers(),
        }
    }

    /// Whether thread `tid` may follow a plan that is not checked. For FUSE threads.
    pub(super) fn concerns(&self, wanted: &PackageRef, tid: u32) -> bool {
        let binhost = wanted.binhost();
        let is_judged = binhost.policy.keyring.is_some() && binhost.on_mismatch == OnMismatch::Refuse;
        !self.limit.is_zero()
            && tid != 0
            && is_judged
            && self.openers.lock().get(&tid).is_none_or(|known| known.elapsed() > KNOWN)
    }

    /// Waits for the check of the plan that thread `tid` follows, if it follows one. The thread has
    /// opened a package.
    ///
    /// # Errors
    /// An entry of the plan is wrong.
    pub(super) async fn check(
        &self,
        fetcher: &Arc<Fetcher>,
        wanted: &PackageRef,
        (tid, miss): (u32, &Miss),
    ) -> Result<(), Arc<FetchError>> {
        let began = Instant::now();
        let Ok(looked) = tokio::time::timeout(self.limit, miss.opener()).await else { return Ok(()) };
        let Some((looked, key)) = looked.and_then(|looked| Some((Arc::clone(&looked), looked.emerge.as_ref()?.key())))
        else {
            self.clear(tid, began);
            return Ok(());
        };
        let readers = Arc::clone(if miss.is_of_root() { &self.readers_of_root } else { &self.readers });
        let left = self.limit.saturating_sub(began.elapsed());
        let Ok(Ok(reader)) = tokio::time::timeout(left, readers.acquire_owned()).await else { return Ok(()) };
        let mut check = self.of((key, looked, reader), fetcher, wanted);
        let rest = self.limit.saturating_sub(check.began.elapsed());
        let ended = check.progress.wait_for(|progress| !matches!(progress, Progress::Running));
        let progress = match tokio::time::timeout(rest, ended).await {
            Ok(Ok(progress)) => progress.clone(),
            Ok(Err(_)) | Err(_) => Progress::Running,
        };
        match progress {
            Progress::Wrong(error) => Err(error),
            Progress::Done => {
                self.clear(tid, began);
                Ok(())
            }
            Progress::NoPlan => {
                self.plans.lock().pop(&key);
                Ok(())
            }
            // The check continues in its task. The next open waits for it again.
            Progress::Running => Ok(()),
        }
    }

    /// The check of an emerge's plan. Starts the check if there was none.
    fn of(
        &self,
        (key, looked, reader): (ProcessKey, Arc<OpenerProcess>, OwnedSemaphorePermit),
        fetcher: &Arc<Fetcher>,
        wanted: &PackageRef,
    ) -> PlanCheck {
        let mut plans = self.plans.lock();
        if let Some(check) = plans.get(&key) {
            return check.clone();
        }
        let (sender, progress) = watch::channel(Progress::Running);
        let check = PlanCheck { began: Instant::now(), progress };
        plans.put(key, check.clone());
        drop(plans);
        let (fetcher, wanted) = (Arc::clone(fetcher), wanted.clone());
        tokio::spawn(async move {
            // Entries that are not checked after this time stay unknown.
            let _ = tokio::time::timeout(LONGEST, fetcher.check_plan((looked, reader), &wanted, &sender)).await;
            sender.send_if_modified(|progress| {
                let is_running = matches!(progress, Progress::Running);
                if is_running {
                    *progress = Progress::Done;
                }
                is_running
            });
        });
        check
    }

    fn clear(&self, tid: u32, at: Instant) {
        self.openers.lock().put(tid, at);
    }
}

impl Fetcher {
    /// Checks all entries of a plan, also after the first wrong one, so that all wrong entries are
    /// hidden before the next emerge plans.
    async fn check_plan(
        self: Arc<Self>,
        (looked, reader): (Arc<OpenerProcess>, OwnedSemaphorePermit),
        wanted: &PackageRef,
        told: &watch::Sender<Progress>,
    ) {
        let (fetcher, of) = (Arc::clone(&self), wanted.clone());
        let read = tokio::task::spawn_blocking(move || {
            let _reader = reader;
            let rows = emerge_plan::rows(of.view(), &emerge_plan::read(looked.emerge.as_ref()?).ok()?);
            let planned: Vec<PackageRef> = rows.into_iter().filter_map(|row| fetcher.wanted(of.view(), row)).collect();
            (!planned.is_empty()).then_some(planned)
        });
        let Ok(Some(planned)) = read.await else {
            told.send_replace(Progress::NoPlan);
            return;
        };
        let (count, began) = (planned.len(), Instant::now());
        let checks = futures_util::stream::iter(planned).map(|wanted| {
            let fetcher = Arc::clone(&self);
            async move { (fetcher.check_entry(&wanted, CheckFor::Plan).await, wanted) }
        });
        let (mut checks, mut unknown, mut is_stopped) = (checks.buffer_unordered(TOGETHER), 0, false);
        while let Some((check, wanted)) = checks.next().await {
            match check {
                EntryCheck::Agrees => {}
                EntryCheck::Unknown(reason) => {
                    unknown += 1;
                    tracing::debug!(path = wanted.path(), reason, "an entry of a plan is not checked");
                }
                EntryCheck::Wrong(reason) if !is_stopped => {
                    is_stopped = true;
                    let path = wanted.path().to_owned();
                    tracing::warn!("no package of an emerge's plan is given out: it has {path} in it, and {reason}");
                    told.send_replace(Progress::Wrong(Arc::new(FetchError::Plan { path, reason })));
                }
                // The log has the mismatch already, and one wrong entry is enough to stop the plan.
                EntryCheck::Wrong(_) => {}
            }
        }
        tracing::debug!(count, unknown, took = ?began.elapsed(), "the entries of an emerge's plan are checked");
    }
}
