//! Compares an index entry with the package that it names. An index may state anything about a
//! package, but the package itself is signed.
//!
//! Portage makes an entry from the metadata inside the package by a fixed rule, and its resolver
//! looks at nothing but the entry. [`AuxValues::of_package`] applies the same rule to a package.
//! [`EntryValues`] holds an entry as Portage reads it, with the header's values and Portage's
//! defaults. [`AuxValues::compare`] has one of three results:
//!
//! * Equal: the entry is what Portage 3.0.83 writes for that package.
//! * Another form of the same, which some writer of an index is known to write. Portage's resolver
//!   treats both forms alike:
//!   * brackets and USE conditionals that other versions of Portage leave in a dependency string;
//!   * other white space between words;
//!   * no USER_PATCHES, which older versions of Portage do not write: emerge takes the package for
//!     one without patches;
//!   * CHOST or `repository` where the package has none: no version writes an empty value, and
//!     reading the entry again gives the header's.
//! * An index mismatch.
//!
//! For an XPAK, a key that neither the header nor any entry has is not compared, because the writer
//! of the index may be older than the key. For a GPKG, an absent value is compared as well: Portage
//! 3.0.31 is the first version that writes GPKG entries, and it knows all keys.
//!
//! The cache keeps an [`AuxDigest`] of each package to compare later indexes with.
//!
//! Source: portage 3.0.83, `dbapi/bintree.py` (`_read_metadata`, `_eval_use_flags`, `inject`) and
//! `getbinpkg.py`.
//!
//! Not its job: what follows from an index mismatch.

mod compare;
mod digest;

use std::borrow::Cow;

use super::aux_key::{AuxKey, AuxKeys};
pub(crate) use compare::IndexMismatch;
pub use compare::{Comparison, EntryValues};
pub(crate) use digest::AuxDigest;

use super::aux_key::PerKey;
use super::dependencies::{Dependencies, UseFlags};
use crate::portage::words::joined;

/// The values that Portage writes into the entry of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuxValues(PerKey<Box<str>>);

impl AuxValues {
    /// Makes the values from the package's metadata; `value` returns the bytes of a key, if the
    /// package has it.
    ///
    /// A dependency string that Portage cannot reduce stays as it is: Portage itself takes no such
    /// package into an index.
    pub fn of_package<'a>(value: impl Fn(AuxKey) -> Option<&'a [u8]>) -> Self {
        let text = |key| value(key).map(|value| joined(&String::from_utf8_lossy(value)));
        let flags = text(AuxKey::Use).unwrap_or_default();
        let enabled = UseFlags::of(&flags);
        Self(PerKey::of(|key| {
            let text = text(key).unwrap_or_default();
            let reduced = key.reduced().and_then(|kind| Dependencies::reduce(&text, kind, &enabled).ok());
            let text = reduced.map(Dependencies::as_portage).unwrap_or(text);
            if text.is_empty() { key.default().into() } else { text.into() }
        }))
    }

    /// The value of `key`; Portage's default where the package has none.
    #[must_use]
    pub fn get(&self, key: AuxKey) -> &str {
        self.0.get(key)
    }

    fn simplest(&self, key: AuxKey) -> Cow<'_, str> {
        simplest(key, self.get(key), &UseFlags::of(self.get(AuxKey::Use)))
    }
}

/// The value in a form that compares equal for equal meaning.
fn simplest<'a>(key: AuxKey, value: &'a str, enabled: &UseFlags<'_>) -> Cow<'a, str> {
    let reduced = key.reduced().and_then(|kind| Dependencies::reduce(value, kind, enabled).ok());
    reduced.map_or_else(|| Cow::Owned(joined(value)), |reduced| Cow::Owned(reduced.simplest()))
}

#[cfg(test)]
mod tests;
