//! The users who wait for packages.

use std::collections::HashMap;

use super::super::{MAX_WAITERS, Uid};

/// A user who waits for a package.
#[derive(Debug, Default)]
struct User {
    waiters: usize,
    /// The number of the last turn that this user got.
    served: u64,
}

/// The numbers of waiting opens, by user. A user without waiters is forgotten.
#[derive(Debug, Default)]
pub(super) struct Users {
    users: HashMap<Uid, User>,
    waiters: usize,
}

impl Users {
    /// Whether one more open of this user may wait. No user may have more waiters than are left for
    /// others. Root always has a share.
    pub(super) fn admit(&self, uid: Uid) -> bool {
        let own = self.users.get(&uid).map_or(0, |user| user.waiters);
        own < MAX_WAITERS.saturating_sub(self.waiters) || uid == Uid::ROOT && own < MAX_WAITERS
    }

    pub(super) fn add(&mut self, uid: Uid) {
        self.waiters += 1;
        self.users.entry(uid).or_default().waiters += 1;
    }

    /// Removes `count` waiters of a user.
    pub(super) fn remove(&mut self, uid: Uid, count: usize) {
        self.waiters = self.waiters.saturating_sub(count);
        let Some(user) = self.users.get_mut(&uid) else { return };
        user.waiters = user.waiters.saturating_sub(count);
        if user.waiters == 0 {
            self.users.remove(&uid);
        }
    }

    /// Records that a user got turn number `turn`.
    pub(super) fn serve(&mut self, uid: Uid, turn: u64) {
        self.users.get_mut(&uid).into_iter().for_each(|user| user.served = turn);
    }

    /// The number of the last turn that a user got. `None`: the user does not wait.
    pub(super) fn served(&self, uid: Uid) -> Option<u64> {
        self.users.get(&uid).map(|user| user.served)
    }

    /// The number of all waiting opens.
    pub(super) fn waiters(&self) -> usize {
        self.waiters
    }

    /// Each user with the number of its waiting opens.
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = (Uid, usize)> {
        self.users.iter().map(|(uid, user)| (*uid, user.waiters))
    }
}
