//! Finds packages that Portage itself fetched from a binhost (`getbinpkg`) into the lower
//! directory, although binhostfs hides them. Those of a binhost whose packages have to be signed
//! are held back (`held`).
//!
//! Portage writes packages there that come from binhosts of PORTAGE_BINHOST, and before 3.0.77 from
//! any binhost. A refused or filtered package then counts as a local package, which precedes
//! everything. Such a package has the size and the digests of a hidden entry.
//!
//! **Limitation:** packages that Portage keeps elsewhere (`location` in binrepos.conf) are not
//! checked.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::binhosts::snapshot::ViewSnapshot;
use super::comparison::{Bypass, LocalMatches, ReadDigests, find};
use super::held::HeldPackage;
use super::state::DaemonState;
use crate::api::BypassStatus;
use crate::index::{Index, Listing};
use crate::sys::durable::blocking;

/// Inputs of the last comparison: with the same inputs, the result is the same.
struct Seen {
    generation: u64,
    listing: Arc<Listing>,
    indexes: Vec<Arc<Index>>,
    /// Paths of held packages. They change when a directory is renamed or removed.
    held: Vec<PathBuf>,
}

impl Seen {
    fn is_same(&self, other: &Self) -> bool {
        self.generation == other.generation
            && Arc::ptr_eq(&self.listing, &other.listing)
            && self.held == other.held
            && self.indexes.len() == other.indexes.len()
            && self.indexes.iter().zip(&other.indexes).all(|(one, other)| Arc::ptr_eq(one, other))
    }
}

/// Compares again whenever the local packages or the hidden entries have changed. Runs until it is
/// cancelled.
pub(super) async fn watch(shared: Arc<DaemonState>) {
    if shared.mount.is_none() {
        // Nothing of the directory is held back, and what is served is checked when it is published.
        return;
    }
    let mut seen: Option<Seen> = None;
    let mut digests = ReadDigests::default();
    loop {
        shared.changed.notified().await;
        let Some(snapshot) = shared.snapshot() else { continue };
        let front = Arc::clone(&shared.front);
        let Ok(held) = blocking(move || Ok(front.layer().held().paths())).await else { continue };
        let now = Seen {
            generation: shared.snapshots.current().generation(),
            listing: shared.front.listing(),
            indexes: snapshot.indexes().cloned().collect(),
            held,
        };
        if seen.as_ref().is_some_and(|seen| seen.is_same(&now)) {
            continue;
        }
        let (listing, comparing, held) = (Arc::clone(&now.listing), Arc::clone(&shared), now.held.clone());
        let mut reading = std::mem::take(&mut digests);
        let compared = blocking(move || {
            comparing.held.follow(comparing.front.layer(), &held);
            let compared = compare(&comparing, &snapshot, &listing, &mut reading)?;
            comparing.withhold_from_others(&compared.left_distrusted);
            Ok((compared, reading))
        });
        match compared.await {
            Ok((Compared { found, unreadable, .. }, read)) => {
                shared.set_bypassed(found);
                digests = read;
                // What could not be read is compared with the next change, whatever that is.
                seen = (unreadable == 0).then_some(now);
            }
            Err(error) => tracing::warn!("local packages cannot be compared with the hidden entries: {error:#}"),
        }
    }
}

struct Compared {
    /// All that is found or held back.
    found: Vec<BypassStatus>,
    /// Number of entries that could not be read.
    unreadable: usize,
    /// Paths of packages that are distrusted, but could not be held back.
    left_distrusted: HashSet<String>,
}

/// Holds back what is found and distrusted.
fn compare(
    shared: &DaemonState,
    snapshot: &ViewSnapshot,
    listing: &Listing,
    digests: &mut ReadDigests,
) -> io::Result<Compared> {
    let (held, layer) = (&shared.held, shared.front.layer());
    let (mut left, mut left_distrusted) = (Vec::new(), HashSet::new());
    let LocalMatches { bypasses, shown, unreadable } = find((layer, held), snapshot, listing, Some(digests))?;
    if held.release_shown(layer, &shown) {
        shared.front.touch();
    }
    for (path, Bypass { binhost, reason, identity, seen, is_distrusted }) in bypasses {
        if held.is_allowed(&identity) {
            continue;
        }
        let package = HeldPackage { path: path.clone(), binhost: binhost.clone(), reason: reason.clone(), identity };
        if is_distrusted && held.hold(layer, package, &seen) {
            shared.front.touch();
        } else {
            left_distrusted.extend(is_distrusted.then(|| path.clone()));
            left.push(BypassStatus { path, binhost, reason, held: false });
        }
    }
    left.extend(held.list(layer));
    left.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(Compared { found: left, unreadable, left_distrusted })
}
