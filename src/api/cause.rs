//! Why emerge does not take a binary package. Values are only ever added.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::portage::{FlagDifference, Rejection};

/// The cause for which emerge compiles a package. The order is that of precedence: of several
/// causes, the first one is the main cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Cause {
    /// binhostfs hides the package.
    Hidden,
    /// No index has the package.
    Absent,
    /// The indexes have only other versions of it.
    Version,
    /// The packages of this version have another slot or sub-slot.
    Slot,
    /// The packages are for another CHOST.
    Chost,
    /// The packages need another CPU.
    CpuLevel,
    /// The keywords of the packages are not accepted.
    Keywords,
    /// A licence of the packages is not accepted.
    License,
    /// Portage's configuration excludes the package.
    Excluded,
    /// The patches of the user differ.
    UserPatches,
    /// USE flags differ.
    Use,
    /// The dependencies of the ebuild have changed.
    Deps,
    /// None of the causes above.
    Unknown,
}

impl Cause {
    /// All causes, in order of precedence.
    pub(crate) const ALL: [Self; 13] = [
        Self::Hidden,
        Self::Absent,
        Self::Version,
        Self::Slot,
        Self::Chost,
        Self::CpuLevel,
        Self::Keywords,
        Self::License,
        Self::Excluded,
        Self::UserPatches,
        Self::Use,
        Self::Deps,
        Self::Unknown,
    ];

    /// Name of the cause, the same as in JSON.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Hidden => "hidden",
            Self::Absent => "absent",
            Self::Version => "version",
            Self::Slot => "slot",
            Self::Chost => "chost",
            Self::CpuLevel => "cpu-level",
            Self::Keywords => "keywords",
            Self::License => "license",
            Self::Excluded => "excluded",
            Self::UserPatches => "user-patches",
            Self::Use => "use",
            Self::Deps => "deps",
            Self::Unknown => "unknown",
        }
    }

    /// The causes that the entry of a package shows by itself, in order. A flag that package.use
    /// can change counts as well.
    #[must_use]
    pub(crate) fn of_entry(rejections: &[Rejection], difference: Option<&FlagDifference>) -> Vec<Self> {
        let differs = difference.is_some_and(|difference| !difference.flags.is_empty());
        let mut causes: Vec<Self> = rejections.iter().map(Self::from).chain(differs.then_some(Self::Use)).collect();
        causes.sort_unstable();
        causes.dedup();
        causes
    }
}

impl From<&Rejection> for Cause {
    fn from(rejection: &Rejection) -> Self {
        match rejection {
            Rejection::Excluded(_) | Rejection::NotIncluded => Self::Excluded,
            Rejection::Unpatched | Rejection::Patched => Self::UserPatches,
            Rejection::Chost(_) => Self::Chost,
            Rejection::Eapi(_) => Self::Unknown,
            Rejection::Keywords(_) => Self::Keywords,
            Rejection::Licenses(_) => Self::License,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why binhostfs hides an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HiddenReason {
    /// The package contradicts its entry.
    Refused,
    /// The entry differs from its package in a key that Portage's resolver uses.
    Mismatch,
    /// Too few mirrors list the entry alike.
    Disputed,
    /// The binhost cannot be reached, and the package is not in the cache.
    Offline,
    /// Another package has its path.
    PathConflict,
    /// The package has a format that cannot be signed, and signatures are required.
    UnsignedFormat,
    /// `include` or `exclude` of the configuration.
    Filtered,
    /// A preferred binhost has the same package.
    Shadowed,
    /// A local package is in front of it.
    Local,
    /// Portage could not read the entry, or it would do harm.
    Dropped,
    /// The binhost is left out because its packages need another CPU.
    CpuLevel,
}

impl HiddenReason {
    /// The cause if emerge would take the hidden package. `None`: Portage sees the package
    /// elsewhere, so hiding the entry is the cause of nothing.
    #[must_use]
    pub(crate) const fn cause(self) -> Option<Cause> {
        match self {
            Self::Shadowed | Self::Local => None,
            Self::CpuLevel => Some(Cause::CpuLevel),
            Self::Refused
            | Self::Mismatch
            | Self::Disputed
            | Self::Offline
            | Self::PathConflict
            | Self::UnsignedFormat
            | Self::Filtered
            | Self::Dropped => Some(Cause::Hidden),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_json() {
        for cause in Cause::ALL {
            assert_eq!(serde_json::to_string(&cause).unwrap(), format!("\"{}\"", cause.name()));
        }
        assert!(Cause::ALL.is_sorted());
    }

    #[test]
    fn an_entry_shows_causes_in_order_of_precedence() {
        let rejections = [Rejection::Patched, Rejection::Keywords("~x".to_owned()), Rejection::Unpatched];
        let difference = FlagDifference { flags: vec!["-doc".to_owned()], is_fixed: false };
        let causes = Cause::of_entry(&rejections, Some(&difference));
        assert_eq!(causes, [Cause::Keywords, Cause::UserPatches, Cause::Use]);
        assert_eq!(Cause::of_entry(&[], Some(&FlagDifference { flags: Vec::new(), is_fixed: false })), []);
    }
}
