//! What a body is worth to the host, and so when its turn to be evicted is.
//!
//! 1. what no record names, and what no index names any more, also none that could be shown again: nobody can open it. What
//!    was fetched or used since that was looked at is [`EvictionClass::Waiting`];
//! 2. what is [`EvictionClass::Spent`], and what waits for nobody: not installed, and not used for [`WAITS`];
//! 3. what is [`EvictionClass::Installed`]: kept for a reinstallation, or for going back after the next upgrade;
//! 4. what is [`EvictionClass::Waiting`];
//! 5. what somebody has open: the disk gets nothing back for it;
//! 6. what is pinned.
//!
//! Of equals, the least recently used goes first. Who knows what is installed is asked only when something is to be
//! evicted, and no more often than once in [`RANK_AGAIN`].

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::Store;
use crate::index::Sha256Digest;
use crate::sys::seconds_now;

/// How long what was found out about bodies holds.
pub const RANK_AGAIN: Duration = Duration::from_secs(300);
/// How long a package that is not installed is waited for, s.
pub const WAITS: u64 = 7 * 86400;

/// What the host has of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvictionClass {
    /// The same version and slot, or a newer one, in another build.
    Spent,
    /// Just this; or it is there for going back to an earlier generation.
    Installed,
    /// Nothing, or something older: it may be fetched to be installed soon.
    Waiting,
}

/// Ranks of bodies that an index names.
pub type Ranks = HashMap<Sha256Digest, EvictionClass>;

type Ask = Box<dyn Fn(&Store) -> Ranks + Send + Sync>;

/// Who knows what is installed.
#[derive(Default)]
pub(crate) struct EvictionClassifier {
    ask: OnceLock<Ask>,
    /// When it was asked last.
    ranked: Mutex<Option<Instant>>,
}

impl fmt::Debug for EvictionClassifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ranker").field("ranked", &self.ranked).finish_non_exhaustive()
    }
}

impl Store {
    /// `ask` is asked for ranks when something is to be evicted; it may read files. Only the first one counts.
    pub fn rank_by(&self, ask: impl Fn(&Store) -> Ranks + Send + Sync + 'static) {
        // The second one is not needed.
        drop(self.ranker.ask.set(Box::new(ask)));
    }

    pub(crate) fn rank_if_due(&self) {
        // Whoever comes meanwhile goes by what was known before.
        let (Some(ask), Ok(mut ranked)) = (self.ranker.ask.get(), self.ranker.ranked.try_lock()) else { return };
        if ranked.is_none_or(|at| at.elapsed() >= RANK_AGAIN) {
            let since = seconds_now();
            let ranks = ask(self);
            self.state().rank(&ranks, since);
            *ranked = Some(Instant::now());
        }
    }
}
