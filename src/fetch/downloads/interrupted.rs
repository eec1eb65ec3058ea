//! What downloads had received when the last one who waited for them went away. The next download of the same package goes on
//! from there: its bytes and what they prove so far are as they were, and the whole is proved as ever.
//!
//! The cache counts them as parked, and takes their room before it evicts anything.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::receive::Partial;
use crate::fetch::remote_binhost::PackageKey;
use crate::fetch::{PackageRef, RemoteBinhost};
use crate::index::Entry;
use crate::upstream::ResumePoint;

/// How long they are kept: whoever has pressed Ctrl-C by mistake, or thinks about it, comes back within that.
pub const KEPT_FOR: Duration = Duration::from_secs(15 * 60);
/// Less than this is fetched as quickly as it is asked about, bytes.
pub const WORTH_KEEPING: u64 = 64 << 10;
/// Most that are kept: each has a file open.
const MOST: usize = 16;

/// What one download left.
#[derive(Debug)]
struct InterruptedBody {
    key: PackageKey,
    entry: Entry,
    /// How it was to be proved.
    origin: Arc<RemoteBinhost>,
    partial: Box<Partial>,
    /// Where it came from.
    part: ResumePoint,
    at: Instant,
}

/// See the module's documentation. Oldest first.
#[derive(Debug, Default)]
pub(super) struct Interrupted(Mutex<VecDeque<InterruptedBody>>);

impl Interrupted {
    /// Keeps it for a while; the answer is what has to go for it. To be dropped where that may take its time.
    #[must_use]
    pub(super) fn keep(
        &self,
        wanted: &PackageRef,
        entry: Entry,
        partial: Box<Partial>,
        part: ResumePoint,
    ) -> Option<impl Send + use<>> {
        let (key, origin, at) = (wanted.key(), Arc::clone(wanted.origin()), Instant::now());
        let mut all = self.all();
        let same = all.iter().position(|left| left.key == key);
        let gone = if same.is_none() && all.len() >= MOST { Some(0) } else { same };
        let gone = gone.and_then(|at| all.remove(at));
        all.push_back(InterruptedBody { key, entry, origin, partial, part, at });
        gone
    }

    /// What there is of a package.
    pub(super) fn take(&self, wanted: &PackageRef, entry: &Entry) -> Option<(Box<Partial>, ResumePoint)> {
        let mut all = self.all();
        let at = all.iter().position(|left| left.key == wanted.key())?;
        let left = all.remove(at)?;
        let same = left.entry == *entry && Arc::ptr_eq(&left.origin, wanted.origin());
        same.then_some((left.partial, left.part))
    }

    /// Takes out what was kept for long enough. To be dropped where that may take its time.
    #[must_use]
    pub(super) fn take_old(&self) -> Vec<impl Send + use<>> {
        let mut all = self.all();
        let old = all.partition_point(|left| left.at.elapsed() >= KEPT_FOR);
        all.drain(..old).collect()
    }

    fn all(&self) -> MutexGuard<'_, VecDeque<InterruptedBody>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
