//! Which binary packages emerge takes on this system, as far as a package's entry says.
//!
//! Source: portage 3.0.83, `_emerge/depgraph.py` (`_wrapped_select_pkg_highest_available_imp`).

use std::fmt;

use super::UserPatches;
use crate::index::{Atom, Cpv, Header, Stanza};

/// What decides whether emerge takes a binary package.
#[derive(Debug, Clone, Default)]
pub struct Acceptance {
    /// If there is one, only packages that one of these matches are installed from binaries (`--usepkg-include`).
    pub include: Vec<Atom>,
    /// Packages that one of these matches are not (`--usepkg-exclude`).
    pub exclude: Vec<Atom>,
    /// The patches that a package must have been built with; `None`: any (`--binpkg-respect-user-patches=n`).
    pub patches: Option<UserPatches>,
}

/// A binary package: what an index says of it.
#[derive(Debug, Clone, Copy)]
pub struct BinaryPackage<'a> {
    /// Category, name and version.
    pub cpv: &'a Cpv,
    /// The entry.
    pub stanza: &'a Stanza,
    /// The header of the index, whose values entries inherit.
    pub header: &'a Header,
}

/// Why emerge does not take a binary package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// This atom of `usepkg-exclude` matches.
    Excluded(Atom),
    /// No atom of `usepkg-include` matches.
    NotIncluded,
    /// This system has user patches for it, and it was built without them, or with others.
    Unpatched,
    /// It was built with user patches, and this system has none for it.
    Patched,
}

impl BinaryPackage<'_> {
    fn slot(&self) -> Option<&str> {
        self.stanza.get("SLOT").filter(|slot| !slot.is_empty())
    }

    fn repository(&self) -> Option<&str> {
        self.stanza.repository().or_else(|| self.header.repository())
    }
}

impl Acceptance {
    /// All reasons why emerge does not take `package`; empty: nothing that its entry says keeps emerge from it.
    #[must_use]
    pub fn rejections(&self, package: &BinaryPackage<'_>) -> Vec<Rejection> {
        self.by_name(package).into_iter().chain(self.by_patches(package)).collect()
    }

    fn by_name(&self, package: &BinaryPackage<'_>) -> Option<Rejection> {
        let (slot, repository) = (package.slot(), package.repository());
        let matches = |atom: &&Atom| atom.matches(package.cpv, slot, repository);
        let excluded = self.exclude.iter().find(matches).map(|atom| Rejection::Excluded(atom.clone()));
        let included = || self.include.is_empty() || self.include.iter().any(|atom| matches(&atom));
        excluded.or_else(|| (!included()).then_some(Rejection::NotIncluded))
    }

    fn by_patches(&self, package: &BinaryPackage<'_>) -> Option<Rejection> {
        let slot = package.slot().unwrap_or("0").split('/').next().unwrap_or_default();
        let wanted = self.patches.as_ref()?.digest(package.cpv, slot);
        let built_with = package.stanza.get("USER_PATCHES").unwrap_or_default().to_lowercase();
        match wanted == built_with {
            true => None,
            false if wanted.is_empty() => Some(Rejection::Patched),
            false => Some(Rejection::Unpatched),
        }
    }
}

/// For a person.
impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Excluded(atom) => {
                write!(f, "usepkg-exclude (repos.conf, EMERGE_DEFAULT_OPTS) has {atom}")
            }
            Self::NotIncluded => f.write_str("usepkg-include (repos.conf, EMERGE_DEFAULT_OPTS) has no atom for it"),
            Self::Unpatched => f.write_str(
                "it was not built with the patches that are for it in /etc/portage/patches \
                 (--binpkg-respect-user-patches=n takes it all the same)",
            ),
            Self::Patched => f.write_str(
                "it was built with patches, and /etc/portage/patches has none for it \
                 (--binpkg-respect-user-patches=n takes it all the same)",
            ),
        }
    }
}
