//! The libc guard.
//!
//! A package that was built against a newer glibc than the one that is installed does not run until that glibc is there, and
//! nothing in an index of before Portage 3.0.57 says so (bug 753500): it may be merged first, and whatever it replaces is
//! broken meanwhile. Newer Portage adds a dependency when it builds; the guard adds it for what was built before.
//!
//! REQUIRES names libraries but no symbol versions, so it is an estimate: the newest libc that its binhost has, of those
//! that were built no later than the package. Built against an older one, it waits for a libc that it did not need.

use std::sync::Arc;

use super::Dependency;
use crate::index::{Entry, Stanza};
use crate::portage::Cpv;

/// A C library that has the trap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Libc {
    Glibc,
    Musl,
}

impl Libc {
    const ALL: [Self; 2] = [Self::Glibc, Self::Musl];

    fn package(self) -> &'static str {
        match self {
            Self::Glibc => "sys-libs/glibc",
            Self::Musl => "sys-libs/musl",
        }
    }

    /// Whether a word of REQUIRES is its soname: of glibc `libc.so.6` (alpha: `libc.so.6.1`), of musl `libc.so` or
    /// `libc.musl-x86_64.so.1`.
    fn is_required_by(self, word: &str) -> bool {
        match self {
            Self::Glibc => word.starts_with("libc.so.6"),
            Self::Musl => word == "libc.so" || word.starts_with("libc.musl-"),
        }
    }
}

/// An entry that has to come after a libc.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need {
    libc: Libc,
    /// BUILD_TIME, s since the epoch.
    built: u64,
}

impl Need {
    /// `None`: it needs none, is one, says itself which version, or does not say when it was built.
    pub(super) fn of(entry: &Entry, stanza: &Stanza) -> Option<Self> {
        let built = entry.build_time?;
        let requires = stanza.get("REQUIRES")?;
        let required = |libc: &Libc| requires.split_whitespace().any(|word| libc.is_required_by(word));
        let libc = Libc::ALL.into_iter().find(required)?;
        let known =
            |libc: Libc| stanza.get("RDEPEND").is_some_and(|text| text.split_whitespace().any(|w| bounds(w, libc)));
        let is_libc = Libc::ALL.into_iter().any(|libc| entry.cpv.cp() == libc.package());
        (!is_libc && !known(libc)).then_some(Self { libc, built })
    }
}

/// Whether an atom of a dependency says which version of `libc` is new enough, as the one that newer Portage adds does.
fn bounds(atom: &str, libc: Libc) -> bool {
    let name = atom.trim_start_matches(['>', '=', '~']);
    let version = name.strip_prefix(libc.package()).and_then(|rest| rest.strip_prefix('-'));
    name.len() < atom.len() && version.is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()))
}

/// The libcs of one binhost.
#[derive(Debug, Default)]
pub(super) struct Builds(Vec<Build>);

#[derive(Debug)]
struct Build {
    libc: Libc,
    cpv: Cpv,
    built: u64,
    atom: Dependency,
}

impl Builds {
    pub(super) fn note(&mut self, entry: &Entry) {
        let libc = Libc::ALL.into_iter().find(|libc| entry.cpv.cp() == libc.package());
        if let (Some(libc), Some(built)) = (libc, entry.build_time) {
            let atom = Arc::from(format!(">={}", entry.cpv));
            self.0.push(Build { libc, cpv: entry.cpv.clone(), built, atom });
        }
    }

    /// The newest version first.
    pub(super) fn sort(&mut self) {
        self.0.sort_by(|a, b| b.cpv.version().cmp(&a.cpv.version()));
    }

    pub(super) fn newest_before(&self, need: Need) -> Option<Dependency> {
        let found = self.0.iter().find(|build| build.libc == need.libc && build.built <= need.built)?;
        Some(Arc::clone(&found.atom))
    }
}
