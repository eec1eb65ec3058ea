//! The header stanza of an index.
//!
//! Portage takes values for entries that lack them from the header, and merges the headers of
//! several binhosts (`_merge_pkgindex_header`).

use std::collections::{BTreeMap, BTreeSet};

use super::aux_key::{AuxKey, AuxKeys};
use super::line::pairs;

/// Header keys whose words Portage merges (`iter_iuse_vars`), besides those that start with
/// [`VALUES`].
const UNITED: [&str; 4] = ["IUSE_IMPLICIT", "USE_EXPAND_IMPLICIT", "USE_EXPAND_UNPREFIXED", "USE_EXPAND"];
/// The prefix of the keys that are merged only from a header that lists the rest of the name as
/// implicit.
const VALUES: &str = "USE_EXPAND_VALUES_";
/// The key that Portage takes from the first header that has it.
const ARCH: &str = "ARCH";

/// The header key with the TIMESTAMP of the binhosts' own indexes, in an index that a binhostfs
/// serves: the TIMESTAMP there says when the view changed.
pub(super) const SOURCE_TIMESTAMP: &str = "BINHOSTFS_SOURCE_TIMESTAMP";

/// The header stanza. The last value of a repeated key counts, as in Portage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header(BTreeMap<String, String>);

impl Header {
    pub(super) fn of(text: &str) -> Self {
        let readable = |text: &str| text.replace(char::is_control, " ");
        // One key with two names: the last value of either counts.
        let name = |key: &str| if key == "repository" { "REPO".to_owned() } else { readable(key) };
        Self(pairs(text).map(|(key, value)| (name(key), readable(value))).collect())
    }

    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Sets the value of a key.
    pub(super) fn set(&mut self, key: &str, value: impl ToString) {
        self.0.insert(key.to_owned(), value.to_string());
    }

    /// Removes a key.
    pub(super) fn remove(&mut self, key: &str) {
        self.0.remove(key);
    }

    /// All keys with their values, sorted by key.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// TIMESTAMP in seconds since the epoch.
    #[must_use]
    pub fn timestamp(&self) -> Option<i64> {
        self.get("TIMESTAMP")?.trim().parse().ok().filter(|t| *t > 0)
    }

    /// The TIMESTAMP of the index that a binhost wrote, also where a binhostfs serves it on.
    #[must_use]
    pub fn source_timestamp(&self) -> Option<i64> {
        let source = self.get(SOURCE_TIMESTAMP).and_then(|text| text.trim().parse().ok());
        source.filter(|time| *time > 0).or_else(|| self.timestamp())
    }

    /// URI: the URL of the package files, where they are not beside the index.
    #[must_use]
    pub fn uri(&self) -> Option<&str> {
        self.get("URI").map(str::trim).filter(|uri| !uri.is_empty())
    }

    /// REPO: the ebuild repository of entries that have no REPO of their own.
    #[must_use]
    pub fn repository(&self) -> Option<&str> {
        self.get("REPO")
    }

    /// The value of `key` that an entry without it has.
    pub(super) fn inherited(&self, key: AuxKey) -> &str {
        let given = match key {
            AuxKey::Chost => self.get("CHOST"),
            AuxKey::Repository => self.repository(),
            _ => None,
        };
        given.unwrap_or(key.default())
    }

    /// The keys that entries may inherit from this header.
    pub(super) fn carried(&self) -> AuxKeys {
        let mut carried = AuxKeys::default();
        let inherited = AuxKey::ALL.into_iter().filter(|key| !self.inherited(*key).is_empty() && key.is_inherited());
        inherited.for_each(|key| carried.insert(key));
        carried
    }

    /// Merges headers as Portage merges those of several binhosts. The words of [`UNITED`] are
    /// merged, ARCH comes from the first header that has it, TIMESTAMP from the newest, and all
    /// other keys from the first header.
    pub(super) fn united<'a>(headers: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut headers = headers.into_iter().peekable();
        let Some(first) = headers.next() else { return Self::default() };
        let mut united = first.clone();
        if headers.peek().is_some() {
            let implicit = first.implicit();
            united.0.retain(|key, _| key.strip_prefix(VALUES).is_none_or(|name| implicit.contains(name)));
        }
        for other in headers {
            let implicit = other.implicit();
            let is_united = |key: &str| {
                UNITED.contains(&key) || key.strip_prefix(VALUES).is_some_and(|name| implicit.contains(name))
            };
            for (key, value) in &other.0 {
                let newer = key == "TIMESTAMP" && united.timestamp() < other.timestamp();
                let value = match united.get(key) {
                    Some(before) if is_united(key) => words(before, value),
                    Some(_) if newer => value.clone(),
                    None if is_united(key) || newer || key == ARCH => value.clone(),
                    _ => continue,
                };
                united.0.insert(key.clone(), value);
            }
        }
        united
    }

    /// The names whose values are implicitly in IUSE.
    fn implicit(&self) -> BTreeSet<&str> {
        let words = |key| self.get(key).unwrap_or_default().split_whitespace();
        let implicit: BTreeSet<&str> = words("USE_EXPAND_IMPLICIT").collect();
        let all = words("USE_EXPAND_UNPREFIXED").chain(words("USE_EXPAND"));
        all.filter(|name| implicit.contains(name)).collect()
    }
}

impl crate::portage::KeyValues for Header {
    fn get(&self, key: &str) -> Option<&str> {
        self.get(key)
    }

    fn repository(&self) -> Option<&str> {
        self.repository()
    }
}

/// Whether Portage merges a header key into its own configuration (`_merge_pkgindex_header`).
pub(super) fn is_merged(key: &str) -> bool {
    key == ARCH || UNITED.contains(&key) || key.starts_with(VALUES)
}

fn words(one: &str, other: &str) -> String {
    let all: BTreeSet<&str> = one.split_whitespace().chain(other.split_whitespace()).collect();
    all.into_iter().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &str) -> Header {
        Header::of(text)
    }

    #[test]
    fn the_last_value_of_a_key_counts() {
        let header = header("REPO: one\nrepository: two\nURI:  \nTIMESTAMP: 0\nNAME: a\u{1}b\nNAME: c\u{1}d\n");
        assert_eq!((header.repository(), header.uri(), header.timestamp()), (Some("two"), None, None));
        assert_eq!(header.get("NAME"), Some("c d"));
        assert_eq!(header.pairs().map(|(key, _)| key).collect::<Vec<_>>(), ["NAME", "REPO", "TIMESTAMP", "URI"]);
    }

    #[test]
    fn entries_inherit_what_the_header_states() {
        let stated = header("CHOST: x86_64-pc-linux-gnu\nREPO: gentoo\nSLOT: 7\n");
        assert_eq!(stated.inherited(AuxKey::Chost), "x86_64-pc-linux-gnu");
        assert_eq!(stated.inherited(AuxKey::Repository), "gentoo");
        assert_eq!(stated.inherited(AuxKey::Slot), AuxKey::Slot.default());
        let mut both = AuxKeys::default();
        [AuxKey::Chost, AuxKey::Repository].into_iter().for_each(|key| both.insert(key));
        assert_eq!(stated.carried(), both);
    }
}
