//! The values of an entry, and their comparison with those of the package.

use std::borrow::Cow;
use std::fmt;

use super::super::Index;
use super::super::dependencies::UseFlags;
use super::super::stanza::Stanza;
use super::{AuxKey, AuxKeys, AuxValues, simplest};
use crate::index::aux_key::PerKey;

/// The most characters of a value in a message.
const SHOWN: usize = 200;

/// The values of an entry, as Portage reads them from an index.
#[derive(Debug, Clone)]
pub struct EntryValues<'a> {
    values: PerKey<&'a str>,
    /// The keys that are compared: those that the entry's writer knew.
    pub(super) compared: AuxKeys,
}

impl<'a> EntryValues<'a> {
    /// The values of an entry of `index`.
    #[must_use]
    pub fn of(stanza: &'a Stanza, index: &'a Index) -> Self {
        let mut values = PerKey::of(|key| index.header().inherited(key));
        let mut path = None;
        for (name, value) in stanza.pairs() {
            match AuxKey::of_entry(name) {
                // The last value of a repeated key counts.
                Some(key) => *values.get_mut(key) = value,
                None if name == "PATH" => path = Some(value),
                None => {}
            }
        }
        // An entry without PATH has its package at CPV.tbz2.
        let is_xpak = path.is_none_or(|path| path.is_empty() || path.ends_with(".xpak") || path.ends_with(".tbz2"));
        let mut compared = if is_xpak { index.carried() } else { AuxKeys::ALL };
        // USER_PATCHES is always compared, because the comparison accepts an entry from a writer
        // that does not know it.
        compared.insert(AuxKey::UserPatches);
        Self { values, compared }
    }

    /// The value of `key`, the header's value, or Portage's default.
    #[must_use]
    pub fn get(&self, key: AuxKey) -> &'a str {
        self.values.get(key)
    }

    /// The value of `key` in the form that compares equal for equal meaning.
    pub(super) fn simplest(&self, key: AuxKey) -> Cow<'a, str> {
        simplest(key, self.get(key), &UseFlags::of(self.get(AuxKey::Use)))
    }
}

/// The result of comparing an entry with its package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// The entry is the one that Portage writes for the package.
    Equal,
    /// The entry means the same; another writer's form of these keys differs from Portage's.
    OtherForm(AuxKeys),
    /// The entry means something else; each differing key is listed.
    Mismatch(Vec<IndexMismatch>),
}

/// A key whose value in the index is not the package's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexMismatch {
    pub key: AuxKey,
    /// The value in the entry.
    pub index: String,
    /// The value that Portage derives from the package.
    pub package: String,
}

impl AuxValues {
    /// Compares an entry with the package.
    #[must_use]
    pub fn compare(&self, entry: &EntryValues<'_>) -> Comparison {
        let (mut other_form, mut mismatches) = (AuxKeys::default(), Vec::new());
        for key in entry.compared.iter() {
            let (index, package) = (entry.get(key), self.get(key));
            if index == package {
                continue;
            }
            let inherited = key.is_inherited() && package.is_empty();
            let unsaid = key == AuxKey::UserPatches && index.is_empty();
            if inherited || unsaid || entry.simplest(key) == self.simplest(key) {
                other_form.insert(key);
            } else {
                mismatches.push(IndexMismatch { key, index: index.to_owned(), package: package.to_owned() });
            }
        }
        match (mismatches.is_empty(), other_form.is_empty()) {
            (false, _) => Comparison::Mismatch(mismatches),
            (true, true) => Comparison::Equal,
            (true, false) => Comparison::OtherForm(other_form),
        }
    }
}

/// Shows both values. A long value is cut; the excerpt begins shortly before the first difference.
impl fmt::Display for IndexMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let same = self.index.chars().zip(self.package.chars()).take_while(|(one, other)| one == other).count();
        let [index, package] = [&self.index, &self.package].map(|value| excerpt(value, same.saturating_sub(SHOWN / 4)));
        write!(f, "{} is {index} in the index, but {package} in the package", self.key)
    }
}

/// The value in quotes, with `…` where characters are left out.
fn excerpt(value: &str, start: usize) -> String {
    let start = if value.chars().nth(SHOWN).is_some() { start } else { 0 };
    let shown: String = value.chars().skip(start).take(SHOWN).collect();
    let before = if start > 0 { "…" } else { "" };
    let after = if value.chars().nth(start + SHOWN).is_some() { "…" } else { "" };
    format!("{before}{shown:?}{after}")
}
