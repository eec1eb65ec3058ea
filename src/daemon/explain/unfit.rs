//! Lists entries that Portage could not read or that would do harm; no published index has them.

use std::io;

use super::{BinhostContext, described};
use crate::api::{HiddenReason, PackageStatus};
use crate::index::{DroppedEntry, Index};
use crate::portage::{Atom, Cpv};

/// Unfit entries of `index` that one of `atoms` matches, each with its reason. Without atoms the
/// list is empty.
pub(super) fn unfit(index: &Index, beside: &BinhostContext, atoms: &[Atom]) -> io::Result<Vec<PackageStatus>> {
    let mut found = Vec::new();
    if atoms.is_empty() {
        return Ok(found);
    }
    index.unfit(&mut |entry: DroppedEntry<'_>| {
        let DroppedEntry { reason, cpv, stanza } = entry;
        let repository = stanza.repository().or_else(|| index.header().repository());
        let means = |atom: &Atom| match Cpv::parse(cpv) {
            Ok(cpv) => atom.matches(&cpv, stanza.get("SLOT"), repository),
            Err(_) => atom.may_match(cpv),
        };
        if atoms.iter().any(means) {
            found.push(PackageStatus {
                cpv: cpv.to_owned(),
                binhost: beside.name.clone(),
                hidden: Some(HiddenReason::Dropped),
                reason: Some(format!("its entry in the index is not fit for use: {reason}")),
                ..described(stanza, stanza.get("PATH").unwrap_or_default())
            });
        }
    })?;
    Ok(found)
}
