//! The claims of this machine: owners that are put again and again, and claims to delete.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// How many claims of this machine wait to be deleted, while the store takes no requests.
const MAX_OVER: usize = 256;
/// How many dead claims of others wait to be deleted. The next list names what is left.
pub(super) const MAX_DEAD: usize = 32;

/// A claim of this machine. It is deleted after it is dropped.
#[derive(Debug)]
pub(in crate::upstream) struct Claim {
    /// The key of the package, a slash, and the id.
    pub(super) name: String,
    table: Arc<ClaimTable>,
}

/// The claims of this machine.
#[derive(Debug, Default)]
pub(super) struct ClaimTable {
    claims: Mutex<OpenClaims>,
    /// Notified when there is a new owner.
    pub(super) owned: Notify,
    /// Notified when there is a claim to delete.
    pub(super) over: Notify,
}

#[derive(Debug, Default)]
struct OpenClaims {
    /// The owners, by name.
    owners: BTreeMap<String, OwnerProgress>,
    over: OverClaims,
}

/// The names of claims to delete.
#[derive(Debug, Default)]
pub(super) struct OverClaims {
    /// Of this machine.
    pub(super) own: BTreeSet<String>,
    /// Of others.
    pub(super) dead: BTreeSet<String>,
}

impl OverClaims {
    fn add_own(&mut self, name: String) {
        if self.own.len() < MAX_OVER {
            self.own.insert(name);
        }
    }
}

/// Whether bytes of a package have come since the last heartbeat of its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OwnerProgress {
    None,
    Bytes,
    /// All of it: it waits to be stored.
    Complete,
}

impl Claim {
    /// Notes that bytes of the package have come.
    pub(in crate::upstream) fn progressed(&self) {
        self.note(OwnerProgress::Bytes);
    }

    /// Notes that the package is complete, and is going to be stored.
    pub(in crate::upstream::object_store) fn completed(&self) {
        self.note(OwnerProgress::Complete);
    }

    fn note(&self, progress: OwnerProgress) {
        if let Some(noted) = self.table.claims.lock().owners.get_mut(&self.name) {
            *noted = progress;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name);
        let mut claims = self.table.claims.lock();
        claims.owners.remove(&name);
        claims.over.add_own(name);
        drop(claims);
        self.table.over.notify_one();
    }
}

impl ClaimTable {
    pub(super) fn candidate(self: &Arc<Self>, name: String) -> Claim {
        Claim { name, table: Arc::clone(self) }
    }

    pub(super) fn owner(self: &Arc<Self>, name: String) -> Claim {
        self.claims.lock().owners.insert(name.clone(), OwnerProgress::None);
        self.owned.notify_one();
        Claim { name, table: Arc::clone(self) }
    }

    pub(super) fn has_owners(&self) -> bool {
        !self.claims.lock().owners.is_empty()
    }

    /// Whether there are claims to delete.
    pub(super) fn has_over(&self) -> bool {
        let over = &self.claims.lock().over;
        !over.own.is_empty() || !over.dead.is_empty()
    }

    /// Has a claim of this machine deleted with the next heartbeat. A claim too many dies of its
    /// age.
    pub(super) fn put_off(&self, name: String) {
        self.claims.lock().over.add_own(name);
    }

    /// Has dead claims of others deleted, and no more than [`MAX_DEAD`].
    pub(super) fn delete_dead(&self, names: impl IntoIterator<Item = String>) {
        let dead = &mut self.claims.lock().over.dead;
        for name in names {
            if dead.len() >= MAX_DEAD {
                break;
            }
            dead.insert(name);
        }
        self.over.notify_one();
    }

    /// Takes the claims to delete.
    pub(super) fn take_over(&self) -> OverClaims {
        std::mem::take(&mut self.claims.lock().over)
    }

    /// The owners to put again.
    pub(super) fn due(&self) -> Vec<String> {
        let mut due = Vec::new();
        for (name, progress) in &mut self.claims.lock().owners {
            match progress {
                OwnerProgress::None => continue,
                OwnerProgress::Bytes => *progress = OwnerProgress::None,
                OwnerProgress::Complete => {}
            }
            due.push(name.clone());
        }
        due
    }
}
