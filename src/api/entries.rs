//! Comparison of index entries with their packages, on request. Fields are only ever added.

use serde::{Deserialize, Serialize};

/// Maximum number of entries in one request.
pub(crate) const MAX_CHECKED: usize = 32;

/// The results of a request, in the order of its paths.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckedEntries {
    /// One result for each path of the request.
    pub entries: Vec<CheckedEntry>,
}

/// The result of one comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckedEntry {
    /// The path at which the entry is shown.
    pub path: String,
    /// Whether the entry agrees with its package.
    pub outcome: EntryOutcome,
    /// Why the entry is wrong, or why it could not be checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The outcome of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EntryOutcome {
    /// The entry agrees with its package.
    Agrees,
    /// The package contradicts the entry, or is another package.
    Wrong,
    /// The comparison could not be made.
    Unknown,
}
