//! The entry's side, and the comparison.

use std::borrow::Cow;
use std::fmt;

use super::super::dependencies::UseFlags;
use super::super::stanza::Stanza;
use super::super::{Header, Index};
use super::key::PerKey;
use super::{AuxKey, AuxKeys, AuxValues, simplest};

/// Most characters of a value in a message.
const SHOWN: usize = 200;

/// The values of an entry, as Portage takes them from an index.
#[derive(Debug, Clone)]
pub struct EntryValues<'a> {
    values: PerKey<&'a str>,
    /// The keys that its writer knew.
    pub(super) compared: AuxKeys,
}

impl<'a> EntryValues<'a> {
    /// Those of an entry of `index`.
    #[must_use]
    pub fn of(stanza: &'a Stanza, index: &'a Index) -> Self {
        let mut values = PerKey::of(|key| index.header().inherited(key));
        let mut path = None;
        for (name, value) in stanza.pairs() {
            // An entry that is no text is in no index.
            let value = std::str::from_utf8(value).unwrap_or_default();
            match AuxKey::of_entry(name) {
                // Of a key that is there twice the last one counts.
                Some(key) => *values.get_mut(key) = value,
                None if name == b"PATH" => path = Some(value),
                None => {}
            }
        }
        // Without PATH it is CPV.tbz2.
        let is_xpak = path.is_none_or(|path| path.is_empty() || path.ends_with(".xpak") || path.ends_with(".tbz2"));
        let mut compared = if is_xpak { index.carried() } else { AuxKeys::ALL };
        // Of a writer that does not know it the comparison makes nothing.
        compared.insert(AuxKey::UserPatches);
        Self { values, compared }
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: AuxKey) -> &'a str {
        self.values.get(key)
    }

    /// What the resolver makes of the value of `key`.
    pub(super) fn simplest(&self, key: AuxKey) -> Cow<'a, str> {
        simplest(key, self.get(key), &UseFlags::of(self.get(AuxKey::Use)))
    }
}

impl Header {
    /// What an entry without `key` has.
    fn inherited(&self, key: AuxKey) -> &str {
        let given = match key {
            AuxKey::Chost => self.get("CHOST"),
            AuxKey::Repository => self.repository(),
            _ => None,
        };
        given.unwrap_or(key.default())
    }

    /// The keys that entries may inherit from here.
    pub(in super::super) fn carried(&self) -> AuxKeys {
        let mut carried = AuxKeys::default();
        let inherited = AuxKey::ALL.into_iter().filter(|key| !self.inherited(*key).is_empty() && key.is_inherited());
        inherited.for_each(|key| carried.insert(key));
        carried
    }
}

/// What the comparison of an entry and a package has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// The entry is what Portage writes of the package.
    Equal,
    /// It means the same: these keys are written as some other writer does it.
    OtherForm(AuxKeys),
    /// It says something else, by each key that differs.
    Mismatch(Vec<IndexMismatch>),
}

/// A key whose value in the index is not the package's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexMismatch {
    /// The key.
    pub key: AuxKey,
    /// The entry's value.
    pub index: String,
    /// What the package makes of it.
    pub package: String,
}

impl AuxValues {
    /// Holds an entry against the package.
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

/// Of long values only what begins shortly before the first difference.
impl fmt::Display for IndexMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let same = self.index.chars().zip(self.package.chars()).take_while(|(one, other)| one == other).count();
        let [index, package] = [&self.index, &self.package].map(|value| excerpt(value, same.saturating_sub(SHOWN / 4)));
        write!(f, "{} is {index} in the index, but {package} in the package", self.key)
    }
}

/// In quotes, and with `…` where something was left out.
fn excerpt(value: &str, start: usize) -> String {
    let start = if value.chars().nth(SHOWN).is_some() { start } else { 0 };
    let shown: String = value.chars().skip(start).take(SHOWN).collect();
    let before = if start > 0 { "…" } else { "" };
    let after = if value.chars().nth(start + SHOWN).is_some() { "…" } else { "" };
    format!("{before}{shown:?}{after}")
}
