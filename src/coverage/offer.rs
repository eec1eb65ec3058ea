//! The offer of the binhosts: the index that Portage sees, and the decision about every entry.

use std::collections::HashMap;

use crate::api::{PackageState, PackageStatus};
use crate::portage::Cpv;

/// The offer of all binhosts and local packages at one moment.
#[derive(Debug, Default)]
pub(crate) struct Offer {
    /// `Packages` as Portage sees it.
    pub(crate) shown: Vec<u8>,
    /// The same with the entries that are hidden. `None`: none is that emerge could take.
    pub(crate) all: Option<Vec<u8>>,
    /// Every entry, with the decision about it.
    pub(crate) packages: Vec<PackageStatus>,
    /// Measured speed of each binhost, in bytes a second.
    pub(crate) rates: HashMap<String, u64>,
    /// Remarks on the offer, for the user.
    pub(crate) warnings: Vec<String>,
}

/// Whether one of the entries would be missed if it were not in an index.
pub(crate) fn hides_any(packages: &[PackageStatus]) -> bool {
    let is_missed = |package: &PackageStatus| package.hidden.is_some_and(|why| why.cause().is_some());
    packages.iter().any(is_missed)
}

impl Offer {
    /// The offer of no binhost.
    pub(crate) fn of_nothing() -> Self {
        let empty = b"PACKAGES: 0\nVERSION: 0\n\n".to_vec();
        Self { shown: empty, ..Self::default() }
    }
}

/// Finds entries of an offer.
#[derive(Debug)]
pub(crate) struct OfferLookup<'a> {
    shown: HashMap<&'a str, &'a PackageStatus>,
    /// Hidden entries by category and name.
    hidden: HashMap<String, Vec<&'a PackageStatus>>,
    rates: &'a HashMap<String, u64>,
}

impl<'a> OfferLookup<'a> {
    pub(crate) fn new(offer: &'a Offer) -> Self {
        let mut lookup = Self { shown: HashMap::new(), hidden: HashMap::new(), rates: &offer.rates };
        for package in &offer.packages {
            match package.state {
                PackageState::Shown => drop(lookup.shown.insert(&package.path, package)),
                PackageState::LeftOut => {
                    let Ok(cpv) = Cpv::parse(&package.cpv) else { continue };
                    lookup.hidden.entry(cpv.cp().to_owned()).or_default().push(package);
                }
            }
        }
        lookup
    }

    /// The entry that is shown at `path`.
    pub(crate) fn shown(&self, path: &str) -> Option<&'a PackageStatus> {
        self.shown.get(path).copied()
    }

    /// The hidden entries of a package, of all versions. Entries that Portage sees elsewhere are
    /// not among them.
    pub(crate) fn hidden(&self, cp: &str) -> impl Iterator<Item = &'a PackageStatus> {
        let hidden = self.hidden.get(cp).into_iter().flatten().copied();
        hidden.filter(|package| package.hidden.is_none_or(|why| why.cause().is_some()))
    }

    /// The measured speed of a binhost, in bytes a second.
    pub(crate) fn rate(&self, binhost: &str) -> Option<u64> {
        self.rates.get(binhost).copied().filter(|rate| *rate > 0)
    }
}
