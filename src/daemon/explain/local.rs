//! Local packages in the answers of `explain`: Portage reads them before packages of binhosts.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use super::{Machine, judged};
use crate::api::{PackageState, PackageStatus};
use crate::index::{Entry, Listing};
use crate::local::LocalScan;
use crate::portage::{Acceptance, Atom, BinaryPackage, Cpv};

/// The local packages at one moment.
pub(super) struct LocalPackages {
    listing: Arc<Listing>,
    survey: LocalScan,
    instances: HashSet<[u8; 16]>,
}

impl LocalPackages {
    /// Scans the lower directory.
    pub(super) fn of(machine: &Machine) -> io::Result<Self> {
        // Takes the listing before the scan, as `PublishedTree` does: a file that Portage lists
        // meanwhile must not be judged by its earlier state.
        let listing = machine.front.listing();
        let survey = LocalScan::of(machine.front.layer())?;
        let instances = listing.entries().iter().map(|entry| entry.instance).collect();
        Ok(Self { listing, survey, instances })
    }

    /// Local packages that match one of `atoms`; all of them if `atoms` is empty.
    pub(super) fn matching(&self, atoms: &[Atom], acceptance: Option<&Acceptance>) -> io::Result<Vec<PackageStatus>> {
        let (mut found, header) = (Vec::new(), self.listing.header());
        for listed in self.listing.entries().iter().filter(|listed| self.survey.has(listed)) {
            let stanza = self.listing.stanza(listed)?;
            let Ok(cpv) = Cpv::parse(stanza.get("CPV").unwrap_or_default()) else { continue };
            let repository = stanza.repository().or_else(|| header.repository());
            if !atoms.is_empty() && !atoms.iter().any(|atom| atom.matches(&cpv, stanza.get("SLOT"), repository)) {
                continue;
            }
            let binary = BinaryPackage { cpv: &cpv, stanza: &stanza, header };
            found.push(PackageStatus {
                local: true,
                state: PackageState::Shown,
                ..judged(acceptance, &binary, &listed.path)
            });
        }
        Ok(found)
    }

    /// The reason why Portage does not see a binhost's entry that would be shown at `path`.
    pub(super) fn hides(&self, path: &str, entry: &Entry) -> Option<&'static str> {
        if self.survey.shadows(path) {
            Some("a local file is at its path, and that is what Portage reads")
        } else if self.instances.contains(&entry.instance()) {
            Some("Portage cannot tell it from a local package, and reads that one")
        } else {
            None
        }
    }
}
