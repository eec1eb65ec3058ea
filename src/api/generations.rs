//! Generations, as the daemon reports them to its clients. Fields are only ever added.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::Interval;

/// The list of generations that the daemon keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GenerationList {
    /// Time of the answer, in seconds since the epoch.
    pub time: u64,
    /// All generations, the newest first.
    pub generations: Vec<GenerationEntry>,
}

/// One generation that the daemon keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GenerationEntry {
    /// Number of the generation.
    pub number: u64,
    /// When the indexes of the generation were first shown, in seconds since the epoch.
    pub since: u64,
    /// TIMESTAMP of the `Packages` file that Portage reads.
    pub index_timestamp: i64,
    /// Number of packages in the generation.
    pub packages: u64,
    /// Number of packages that the generation before did not have. `None`: there is no generation
    /// before, or its packages are not known.
    pub added: Option<u64>,
    /// Number of packages that only the generation before had.
    pub removed: Option<u64>,
    /// Whether Portage sees this generation now.
    pub shown: bool,
    /// Whether the administrator has marked the generation, so that its age does not remove it.
    pub kept: bool,
    /// Whether the generation can be shown again.
    pub usable: bool,
}

/// The generation that a rollback selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RollbackTo {
    /// The newest generation, and every newer one as soon as it exists.
    Latest,
    /// The last complete generation before the one that is shown.
    Previous,
    /// The newest kept generation of the commit that the ebuild repository is at, or of one that it
    /// was at before.
    MatchTree,
    /// The generation with this number.
    Generation(u64),
}

/// Whether a generation is kept when it becomes too old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// The generation is kept, however old it becomes.
    Always,
    /// The generation is removed like any other.
    AsUsual,
}

impl GenerationEntry {
    /// One line of text for a person. `now`: seconds since the epoch.
    #[must_use]
    pub(crate) fn line(&self, now: u64) -> String {
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
