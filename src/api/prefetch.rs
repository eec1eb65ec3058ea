//! Packages that are fetched before anybody opens them, for the daemon and for who asks. Fields are only ever added.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::portage::Atom;
use crate::units::ByteSize;

/// What is to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrefetchRequest {
    /// The newest of what these select, in each slot.
    Atoms(Vec<Atom>),
    /// What is installed can be upgraded to.
    World,
    /// What emerge has planned.
    Plan,
}

/// The number of what was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefetchJob {
    /// To ask by.
    pub job: u64,
}

/// How far it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefetchStatus {
    /// Its number.
    pub job: u64,
    /// It has not ended.
    pub running: bool,
    /// It was stopped before its end.
    pub stopped: bool,
    /// Packages in all.
    pub packages: u64,
    /// Bytes of them in all.
    pub bytes: u64,
    /// What is being fetched.
    pub underway: Vec<PrefetchUnderway>,
    /// What is done with, in that order, from the number on that was asked for; of what is there twice, the last one counts.
    pub done: Vec<PrefetchDone>,
}

/// A package that is being fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefetchUnderway {
    /// Where it is shown.
    pub path: String,
    /// Bytes in all.
    pub size: u64,
    /// Bytes received.
    pub received: u64,
}

/// A package that is done with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefetchDone {
    /// Where it is shown; what was asked for, where there is nothing.
    pub path: String,
    /// Bytes; 0 where there is nothing.
    pub size: u64,
    /// How it ended.
    pub outcome: PrefetchOutcome,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// See [`PrefetchDone`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrefetchOutcome {
    /// It was in the cache.
    Cached,
    /// It was fetched and verified.
    Fetched,
    /// It could not be had.
    Failed,
}

/// One line for a person.
impl fmt::Display for PrefetchDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, size, outcome, reason } = self;
        match outcome {
            PrefetchOutcome::Cached => write!(f, "cached   {:>10}  {path}", ByteSize(*size).to_string()),
            PrefetchOutcome::Fetched => write!(f, "fetched  {:>10}  {path}", ByteSize(*size).to_string()),
            PrefetchOutcome::Failed => write!(f, "failed   {path}: {}", reason.as_deref().unwrap_or("for no reason")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_a_person() {
        let done = |outcome, reason: Option<&str>| {
            let (path, reason) = ("a/b.xpak".to_owned(), reason.map(str::to_owned));
            PrefetchDone { path, size: 3 << 20, outcome, reason }.to_string()
        };
        assert_eq!(done(PrefetchOutcome::Cached, None), "cached      3.0 MiB  a/b.xpak");
        assert_eq!(done(PrefetchOutcome::Fetched, None), "fetched     3.0 MiB  a/b.xpak");
        assert_eq!(done(PrefetchOutcome::Failed, Some("404")), "failed   a/b.xpak: 404");
    }
}
