//! The keys of an entry that Portage's resolver uses.

use std::fmt;

use super::dependencies::TokenKind;

/// A key whose value in an index Portage takes from the package's metadata. The keys are those of
/// `_pkgindex_aux_keys`, without DESCRIPTION, SIZE and the URIs, and USER_PATCHES.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AuxKey {
    Bdepend,
    BuildId,
    BuildTime,
    Chost,
    DefinedPhases,
    Depend,
    Eapi,
    Idepend,
    Iuse,
    Keywords,
    License,
    Pdepend,
    Properties,
    Provides,
    Rdepend,
    /// `repository` in a package's metadata, usually REPO in an index.
    Repository,
    Requires,
    Restrict,
    Slot,
    Use,
    UserPatches,
}

/// The number of keys.
const COUNT: usize = 21;

impl AuxKey {
    /// All keys, in the order of their names.
    pub const ALL: [Self; COUNT] = [
        Self::Bdepend,
        Self::BuildId,
        Self::BuildTime,
        Self::Chost,
        Self::DefinedPhases,
        Self::Depend,
        Self::Eapi,
        Self::Idepend,
        Self::Iuse,
        Self::Keywords,
        Self::License,
        Self::Pdepend,
        Self::Properties,
        Self::Provides,
        Self::Rdepend,
        Self::Repository,
        Self::Requires,
        Self::Restrict,
        Self::Slot,
        Self::Use,
        Self::UserPatches,
    ];

    /// The name of the key in the metadata of a package.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bdepend => "BDEPEND",
            Self::BuildId => "BUILD_ID",
            Self::BuildTime => "BUILD_TIME",
            Self::Chost => "CHOST",
            Self::DefinedPhases => "DEFINED_PHASES",
            Self::Depend => "DEPEND",
            Self::Eapi => "EAPI",
            Self::Idepend => "IDEPEND",
            Self::Iuse => "IUSE",
            Self::Keywords => "KEYWORDS",
            Self::License => "LICENSE",
            Self::Pdepend => "PDEPEND",
            Self::Properties => "PROPERTIES",
            Self::Provides => "PROVIDES",
            Self::Rdepend => "RDEPEND",
            Self::Repository => "repository",
            Self::Requires => "REQUIRES",
            Self::Restrict => "RESTRICT",
            Self::Slot => "SLOT",
            Self::Use => "USE",
            Self::UserPatches => "USER_PATCHES",
        }
    }

    /// The key that has `name` in an index, where `repository` is also called REPO.
    #[must_use]
    pub fn of_entry(name: &str) -> Option<Self> {
        Some(match name {
            "BDEPEND" => Self::Bdepend,
            "BUILD_ID" => Self::BuildId,
            "BUILD_TIME" => Self::BuildTime,
            "CHOST" => Self::Chost,
            "DEFINED_PHASES" => Self::DefinedPhases,
            "DEPEND" => Self::Depend,
            "EAPI" => Self::Eapi,
            "IDEPEND" => Self::Idepend,
            "IUSE" => Self::Iuse,
            "KEYWORDS" => Self::Keywords,
            "LICENSE" => Self::License,
            "PDEPEND" => Self::Pdepend,
            "PROPERTIES" => Self::Properties,
            "PROVIDES" => Self::Provides,
            "RDEPEND" => Self::Rdepend,
            "REPO" | "repository" => Self::Repository,
            "REQUIRES" => Self::Requires,
            "RESTRICT" => Self::Restrict,
            "SLOT" => Self::Slot,
            "USE" => Self::Use,
            "USER_PATCHES" => Self::UserPatches,
            _ => return None,
        })
    }

    /// Whether `name` is the name of one of these keys in a package's metadata.
    #[must_use]
    pub fn is_metadata(name: &str) -> bool {
        Self::of_entry(name).is_some_and(|key| key.name() == name)
    }

    /// Portage's value for a key that neither entry nor header has.
    #[must_use]
    pub const fn default(self) -> &'static str {
        match self {
            Self::Eapi | Self::Slot => "0",
            _ => "",
        }
    }

    /// Whether entries without the key have the header's value.
    #[must_use]
    pub const fn is_inherited(self) -> bool {
        matches!(self, Self::Chost | Self::Repository)
    }

    /// The type of the words, if the value may have USE conditionals
    /// (`_pkgindex_use_evaluated_keys`).
    pub(crate) const fn reduced(self) -> Option<TokenKind> {
        match self {
            Self::Bdepend | Self::Depend | Self::Idepend | Self::Pdepend | Self::Rdepend => Some(TokenKind::Atom),
            Self::License | Self::Properties | Self::Restrict => Some(TokenKind::Plain),
            _ => None,
        }
    }
}

impl fmt::Display for AuxKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A set of keys, as a bit mask.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AuxKeys(u32);

impl AuxKeys {
    /// The set of all keys.
    pub const ALL: Self = Self((1 << COUNT) - 1);

    #[must_use]
    pub const fn contains(self, key: AuxKey) -> bool {
        self.0 & (1 << key as u32) != 0
    }

    /// Adds `key` to the set.
    pub const fn insert(&mut self, key: AuxKey) {
        self.0 |= 1 << key as u32;
    }

    /// The keys that are in either set.
    #[must_use]
    pub const fn union(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The keys of the set, in the order of their names.
    pub fn iter(self) -> impl Iterator<Item = AuxKey> {
        AuxKey::ALL.into_iter().filter(move |key| self.contains(*key))
    }

    /// One bit for each key; [`AuxKey::Bdepend`] is the lowest bit.
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }
}

/// One value for each key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PerKey<T>([T; COUNT]);

impl<T> PerKey<T> {
    pub(crate) fn of(make: impl FnMut(AuxKey) -> T) -> Self {
        Self(AuxKey::ALL.map(make))
    }

    #[expect(clippy::indexing_slicing, reason = "there is one element for each key")]
    pub(crate) fn get(&self, key: AuxKey) -> &T {
        &self.0[key as usize]
    }

    #[expect(clippy::indexing_slicing, reason = "there is one element for each key")]
    pub(crate) fn get_mut(&mut self, key: AuxKey) -> &mut T {
        &mut self.0[key as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_name_and_number() {
        for (at, key) in AuxKey::ALL.into_iter().enumerate() {
            assert_eq!(key as usize, at);
            assert_eq!(AuxKey::of_entry(key.name()), Some(key));
            assert!(AuxKey::is_metadata(key.name()));
        }
        assert_eq!(AuxKey::of_entry("REPO"), Some(AuxKey::Repository));
        assert!(!AuxKey::is_metadata("REPO") && !AuxKey::is_metadata("DESCRIPTION"));
    }

    #[test]
    fn sets_hold_what_is_put_in() {
        let mut set = AuxKeys::default();
        set.insert(AuxKey::Bdepend);
        set.insert(AuxKey::Use);
        assert_eq!(set.iter().collect::<Vec<_>>(), [AuxKey::Bdepend, AuxKey::Use]);
        assert_eq!(AuxKeys::ALL.iter().count(), COUNT);
        assert_eq!(set.union(AuxKeys::ALL), AuxKeys::ALL);
    }
}
