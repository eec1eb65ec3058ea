//! Finds packages that Portage itself fetched from a binhost (`getbinpkg`) into the lower
//! directory, although binhostfs hides them.
//!
//! Portage writes packages there that come from binhosts of PORTAGE_BINHOST, and before 3.0.77 from
//! any binhost. A refused or filtered package then counts as a local package, which precedes
//! everything. Such a package has the size and the digests of a hidden entry.
//!
//! **Limitation:** packages that Portage keeps elsewhere (`location` in binrepos.conf) are not
//! checked.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use super::binhosts::snapshot::ViewSnapshot;
use super::explain::{self, BinhostContext};
use super::state::DaemonState;
use crate::api::BypassStatus;
use crate::index::{Entry, Index, Listing, Record};
use crate::policy::{self, Decision};
use crate::sys::durable::blocking;

/// Inputs of the last comparison: with the same inputs, the result is the same.
struct Seen {
    generation: u64,
    listing: Arc<Listing>,
    indexes: Vec<Arc<Index>>,
}

impl Seen {
    fn is_same(&self, other: &Self) -> bool {
        self.generation == other.generation
            && Arc::ptr_eq(&self.listing, &other.listing)
            && self.indexes.len() == other.indexes.len()
            && self.indexes.iter().zip(&other.indexes).all(|(one, other)| Arc::ptr_eq(one, other))
    }
}

/// Compares again whenever the local packages or the hidden entries have changed. Runs until it is
/// cancelled.
pub(super) async fn watch(shared: Arc<DaemonState>) {
    let mut seen: Option<Seen> = None;
    loop {
        shared.changed.notified().await;
        let Some(snapshot) = shared.snapshot() else { continue };
        let now = Seen {
            generation: shared.snapshots.current().generation(),
            listing: shared.front.listing(),
            indexes: snapshot.indexes().cloned().collect(),
        };
        if seen.as_ref().is_some_and(|seen| seen.is_same(&now)) {
            continue;
        }
        let listing = Arc::clone(&now.listing);
        match blocking(move || Ok(find(&snapshot, &listing)?)).await {
            Ok(found) => {
                shared.set_bypassed(found);
                seen = Some(now);
            }
            Err(error) => tracing::warn!("local packages are not compared with what is hidden: {error:#}"),
        }
    }
}

/// Finds local packages with the digests of entries that are hidden at every binhost.
fn find(snapshot: &ViewSnapshot, listing: &Listing) -> io::Result<Vec<BypassStatus>> {
    let locals = Locals::of(listing, snapshot)?;
    if locals.0.is_empty() {
        return Ok(Vec::new());
    }
    let explained = snapshot.explained();
    let (mut found, mut shown, mut failed) = (HashMap::new(), HashSet::new(), Ok(()));
    let mut look = |at: u16, number: u32, fate: Decision| -> io::Result<()> {
        let at = usize::from(at);
        let (Some(input), Some(beside)) = (explained.inputs.get(at), explained.beside.get(at)) else { return Ok(()) };
        let index = &input.part.index;
        let Some(record) = index.records().get(number as usize) else { return Ok(()) };
        for path in locals.same(index, record)? {
            match hidden(&fate, beside, record) {
                Some(reason) => found.entry(path).or_insert_with(|| (beside.name.clone(), reason)),
                None => {
                    shown.insert(path);
                    continue;
                }
            };
        }
        Ok(())
    };
    policy::decide(&explained.inputs, &explained.rules, &mut |at, number, fate| {
        if let Err(error) = look(at, number, fate) {
            failed = Err(error);
        }
    })?;
    failed?;
    for (name, index) in &explained.newer {
        for record in index.records() {
            for path in locals.same(index, record)? {
                let reason = "an earlier generation is shown; `binhostfs rollback --latest` undoes it";
                found.entry(path).or_insert_with(|| (name.clone(), reason.to_owned()));
            }
        }
    }
    let found = found.into_iter().filter(|(path, _)| !shown.contains(path));
    let status = |(path, (binhost, reason)): (&str, _)| BypassStatus { path: path.to_owned(), binhost, reason };
    let mut found: Vec<BypassStatus> = found.map(status).collect();
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}

/// Why an entry is hidden. `None`: the entry is shown, or the same package of another binhost is
/// shown.
fn hidden(fate: &Decision, beside: &BinhostContext, record: &Record) -> Option<String> {
    match fate {
        Decision::Shown { .. } | Decision::Shadowed | Decision::PathConflict => None,
        Decision::Hidden | Decision::UnsignedFormat | Decision::Filtered | Decision::Offline => {
            explain::reason(fate, beside, record.id)
        }
    }
}

/// Local packages by size; only packages whose size occurs in an index.
struct Locals(HashMap<u64, Vec<(String, Entry)>>);

impl Locals {
    fn of(listing: &Listing, snapshot: &ViewSnapshot) -> io::Result<Self> {
        let mut by_size: HashMap<u64, Vec<(String, Entry)>> = HashMap::new();
        if !listing.entries().is_empty() {
            let records = snapshot.indexes().flat_map(|index| index.records());
            let sizes: HashSet<u64> = records.map(|record| record.size).collect();
            for listed in listing.entries().iter().filter(|listed| listed.size.is_some_and(|s| sizes.contains(&s))) {
                // Portage did not fetch a package that has no digests.
                let Ok(entry) = listing.stanza(listed)?.entry() else { continue };
                by_size.entry(entry.size).or_default().push((listed.path.to_string(), entry));
            }
        }
        Ok(Self(by_size))
    }

    /// Paths of the local packages that a record of an index describes.
    fn same(&self, index: &Index, record: &Record) -> io::Result<Vec<&str>> {
        let Some(locals) = self.0.get(&record.size) else { return Ok(Vec::new()) };
        let entry = index.stanza(record)?.entry()?;
        let same = locals.iter().filter(|(_, local)| is_same_file(local, &entry));
        Ok(same.map(|(path, _)| path.as_str()).collect())
    }
}

/// Whether all digests that both entries have are equal, and there is at least one.
fn is_same_file(one: &Entry, other: &Entry) -> bool {
    let md5 = one.md5.as_ref().zip(other.md5.as_ref()).map(|(one, other)| one == other);
    let sha1 = one.sha1.as_ref().zip(other.sha1.as_ref()).map(|(one, other)| one == other);
    matches!((md5, sha1), (Some(true), Some(true) | None) | (None, Some(true)))
}
