//! Prefetch jobs, as the daemon reports them to its clients. Fields are only ever added.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::portage::Atom;
use crate::units::ByteSize;

/// The packages that a prefetch job fetches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PrefetchRequest {
    /// Of the packages that these atoms select, the newest one in each slot.
    Atoms(Vec<Atom>),
    /// The packages to which installed packages can be upgraded.
    World,
    /// The packages of an emerge's merge plan.
    Plan,
}

/// The answer to a request that starts a prefetch job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PrefetchJob {
    /// Number of the job, for later requests about it.
    pub job: u64,
}

/// The state of a prefetch job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PrefetchStatus {
    /// Number of the job.
    pub job: u64,
    /// Whether the job has not ended.
    pub running: bool,
    /// Whether the job was stopped before its end.
    pub stopped: bool,
    /// Number of packages of the job.
    pub packages: u64,
    /// Size of these packages in bytes.
    pub bytes: u64,
    /// The packages that are being fetched.
    pub underway: Vec<PrefetchUnderway>,
    /// The finished packages in the order in which they finished, beginning with the number that
    /// the request names. If a package occurs twice, the last outcome counts.
    pub done: Vec<PrefetchDone>,
}

/// A package that is being fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PrefetchUnderway {
    /// The path at which the package is shown.
    pub path: String,
    /// Size of the package in bytes.
    pub size: u64,
    /// Number of bytes received.
    pub received: u64,
}

/// A finished package of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PrefetchDone {
    /// The path at which the package is shown, or the requested name if no package matches.
    pub path: String,
    /// Size of the package in bytes. 0 if no package matches.
    pub size: u64,
    /// How the package finished.
    pub outcome: PrefetchOutcome,
    /// Why the package failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How a package of a job finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PrefetchOutcome {
    /// The package was in the cache.
    Cached,
    /// The package was fetched and verified.
    Fetched,
    /// The package could not be fetched or kept.
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
