//! Entries that are held against their packages on request. Fields are only ever added.

use serde::{Deserialize, Serialize};

/// Most entries of one request.
pub const MAX_CHECKED: usize = 32;

/// What came of it, in the order asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedEntries {
    /// One for each entry.
    pub entries: Vec<CheckedEntry>,
}

/// An entry, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedEntry {
    /// Where it is shown.
    pub path: String,
    /// What came of the comparison.
    pub outcome: EntryOutcome,
    /// Why it does not agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What came of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryOutcome {
    /// It means what its package says.
    Agrees,
    /// Its package says something else, or cannot be had.
    Wrong,
    /// That could not be found out.
    Unknown,
}
