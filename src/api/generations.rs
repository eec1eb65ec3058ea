//! Generations, for the daemon and for who asks. Fields are only ever added.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::Interval;

/// The answer to the question what generations there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationList {
    /// Now, seconds since the epoch.
    pub time: u64,
    /// The newest first.
    pub generations: Vec<GenerationEntry>,
}

/// A generation that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationEntry {
    /// Its number.
    pub number: u64,
    /// When its indexes were first shown, seconds since the epoch.
    pub since: u64,
    /// TIMESTAMP of what Portage reads.
    pub index_timestamp: i64,
    /// Packages in it.
    pub packages: u64,
    /// Packages that the one before it did not have. `None`: there is none before it, or that is not known.
    pub added: Option<u64>,
    /// Packages that only the one before it had.
    pub removed: Option<u64>,
    /// It is what Portage sees.
    pub shown: bool,
    /// It is not removed when it becomes too old.
    pub kept: bool,
    /// It can be shown again.
    pub usable: bool,
}

/// Which generation is to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RollbackTo {
    /// The newest, and every newer one as it comes.
    Latest,
    /// The one before the one that is shown.
    Previous,
    /// This one.
    Generation(u64),
}

/// Whether a generation is to be kept when it becomes too old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// It is.
    Always,
    /// It goes like any other.
    AsUsual,
}

impl GenerationEntry {
    /// One line for a person, at the time `now`.
    #[must_use]
    pub fn line(&self, now: u64) -> String {
        let Self { number, since, packages, added, removed, shown, kept, usable, .. } = self;
        let age = Interval(Duration::from_secs(now.saturating_sub(*since))).to_string();
        let differences = added.zip(*removed).map(|(added, removed)| format!("+{added} -{removed}"));
        let notes = [(*shown, "shown"), (*kept, "kept"), (!usable, "cannot be shown again")];
        let notes: Vec<&str> = notes.into_iter().filter_map(|(is, note)| is.then_some(note)).collect();
        let differences = differences.unwrap_or_default();
        let line = format!("{number:>6}  {age:>8} ago  {packages:>6} packages  {differences:<12} {}", notes.join(", "));
        line.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_special() {
        let plain = GenerationEntry {
            number: 12,
            since: 1_000,
            index_timestamp: 900,
            packages: 15_576,
            added: Some(3),
            removed: Some(1),
            shown: false,
            kept: false,
            usable: true,
        };
        assert_eq!(plain.line(8_200), "    12       2 h ago   15576 packages  +3 -1");
        let special = GenerationEntry { added: None, shown: true, kept: true, usable: false, ..plain };
        assert_eq!(
            special.line(1_005),
            "    12       5 s ago   15576 packages               shown, kept, cannot be shown again"
        );
    }
}
