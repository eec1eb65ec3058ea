//! A binary package, as an entry of an index describes it.

use std::fmt;

use super::{Atom, Cpv};

/// Keys and values of an entry or a header.
pub(crate) trait KeyValues: fmt::Debug {
    fn get(&self, key: &str) -> Option<&str>;
    /// The ebuild repository, by any of its keys.
    fn repository(&self) -> Option<&str>;
}

/// A binary package as an index describes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BinaryPackage<'a> {
    pub cpv: &'a Cpv,
    pub stanza: &'a dyn KeyValues,
    /// The header of the index, whose values entries inherit.
    pub header: &'a dyn KeyValues,
}

impl BinaryPackage<'_> {
    /// The value of `key` in the entry, or in the header where entries inherit it; empty where
    /// there is none.
    pub(crate) fn value(&self, key: &str) -> &str {
        let inherited = || self.header.get(key).filter(|_| key == "CHOST");
        self.stanza.get(key).or_else(inherited).unwrap_or_default()
    }

    pub(crate) fn matches(&self, atom: &Atom) -> bool {
        atom.matches(self.cpv, self.slot(), self.repository())
    }

    pub(crate) fn slot(&self) -> Option<&str> {
        self.stanza.get("SLOT").filter(|slot| !slot.is_empty())
    }

    pub(crate) fn repository(&self) -> Option<&str> {
        self.stanza.repository().or_else(|| self.header.repository())
    }
}
