//! The libc guard: adds a dependency on the libc that a package was built against.
//!
//! A package that was built against a newer glibc than the installed one does not run until that
//! glibc is installed. An index made by Portage before 3.0.57 does not record this dependency (bug
//! 753500). Portage may therefore merge the package first, and whatever the package replaces is
//! broken meanwhile. Newer Portage adds the dependency when it builds a package; the guard adds it
//! for older builds.
//!
//! REQUIRES names libraries but no symbol versions, so the guard estimates. It takes the newest
//! libc of the same binhost that was built no later than the package. If the package was built
//! against an older libc, emerge merges a newer libc first without need.

use std::sync::Arc;

use super::Dependency;
use crate::index::{Entry, Stanza};
use crate::portage::Cpv;

/// A C library that this ordering problem applies to.
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

    /// Whether a word of REQUIRES is this libc's soname. glibc has `libc.so.6` (alpha:
    /// `libc.so.6.1`), musl has `libc.so` or `libc.musl-x86_64.so.1`.
    fn is_required_by(self, word: &str) -> bool {
        match self {
            Self::Glibc => word.starts_with("libc.so.6"),
            Self::Musl => word == "libc.so" || word.starts_with("libc.musl-"),
        }
    }
}

/// The need of an entry for a libc that must be merged before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need {
    libc: Libc,
    /// BUILD_TIME, seconds since the epoch.
    built: u64,
}

impl Need {
    /// The need of an entry. `None`: the package links no libc, is a libc, bounds the libc version
    /// itself, or has no BUILD_TIME.
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

/// Whether a dependency atom bounds the version of `libc`, as the atom that newer Portage adds
/// does.
fn bounds(atom: &str, libc: Libc) -> bool {
    let name = atom.trim_start_matches(['>', '=', '~']);
    let version = name.strip_prefix(libc.package()).and_then(|rest| rest.strip_prefix('-'));
    name.len() < atom.len() && version.is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()))
}

/// The libc packages of one binhost.
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

    /// Sorts the builds, newest version first.
    pub(super) fn sort(&mut self) {
        self.0.sort_by(|a, b| b.cpv.version().cmp(&a.cpv.version()));
    }

    pub(super) fn newest_before(&self, need: Need) -> Option<Dependency> {
        let found = self.0.iter().find(|build| build.libc == need.libc && build.built <= need.built)?;
        Some(Arc::clone(&found.atom))
    }
}
