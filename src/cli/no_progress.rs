//! Stands in for the bars in a program that is built without: a line for each package, on a
//! terminal, too.

use super::output::say;
use crate::api::{PrefetchOutcome, PrefetchStatus};

/// The way in which the progress of a prefetch job is shown.
pub(super) enum ProgressDisplay {
    /// Nothing is shown: the output is for a program.
    Silent,
    Lines,
}

impl ProgressDisplay {
    /// `silent`: nothing is shown before the end.
    pub(super) fn new(silent: bool) -> Self {
        if silent { Self::Silent } else { Self::Lines }
    }

    /// Shows a new status. Its `done` has only packages that finished since the last call.
    pub(super) fn show(&mut self, status: &PrefetchStatus) {
        match self {
            Self::Silent => {}
            // The caller prints failures at the end, to standard error.
            Self::Lines => {
                status.done.iter().filter(|package| package.outcome != PrefetchOutcome::Failed).for_each(say);
            }
        }
    }
}

/// Entries that are checked are not counted aloud.
pub(super) struct EntriesBar;

impl EntriesBar {
    pub(super) fn new(_: usize, _: bool) -> Self {
        Self
    }

    pub(super) fn add(&self, _: usize) {}
}
