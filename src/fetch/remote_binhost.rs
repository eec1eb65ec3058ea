//! Where packages come from and what they must prove: one [`RemoteBinhost`] for each binhost.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::RwLock;
use portable_atomic::AtomicU64;

use crate::cache::BinhostTag;
use crate::config::OnMismatch;
use crate::index::{BinhostId, BinhostIndex, EntryId, Record, ShareKey, Stanza, View};
use crate::sys::{Passed, PastEvent, WrongClock, seconds_now};
use crate::upstream::Upstream;
use crate::verify::Policy;

/// One binhost. It exists as long as packages of it are shown.
#[derive(Debug)]
pub(crate) struct RemoteBinhost {
    /// The name of its directory in the cache. The name is never given to another binhost.
    pub name: String,
    /// The mirrors of the binhost.
    pub upstream: Arc<Upstream>,
    /// The checks that its packages must pass.
    pub policy: Policy,
    /// How the daemon treats an index mismatch of this binhost.
    pub on_mismatch: OnMismatch,
    /// When its index was last confirmed, in seconds since the epoch. 0: not known.
    confirmed: AtomicU64,
}

impl RemoteBinhost {
    /// A binhost whose index was not confirmed yet.
    #[must_use]
    pub(crate) fn new(name: String, upstream: Arc<Upstream>, policy: Policy, on_mismatch: OnMismatch) -> Self {
        Self { name, upstream, policy, on_mismatch, confirmed: AtomicU64::new(0) }
    }

    /// Whether packages of this binhost may be served to other machines.
    #[must_use]
    pub(crate) fn is_shared(&self) -> bool {
        self.upstream.binhost().share
    }

    /// Records that the index was confirmed at `time`, in seconds since the epoch by the clock of
    /// that moment.
    pub(crate) fn note_confirmed(&self, time: u64) {
        self.confirmed.store(time, Ordering::Relaxed);
    }

    /// Checks that the system clock can be right.
    ///
    /// # Errors
    /// The clock shows a time before the program was built, before a key was signed, or before the
    /// index was confirmed.
    pub(crate) fn check_clock(&self) -> Result<(), WrongClock> {
        let confirmed = Passed::new(self.confirmed.load(Ordering::Relaxed), PastEvent::IndexConfirmed);
        let signed = self.policy.keyring.as_ref().and_then(|keyring| keyring.last_signed());
        Passed::BUILT.or_later(signed).or_later(Some(confirmed)).check(seconds_now())
    }

    /// Checks that there is a key to check signatures with, if the policy requires signatures.
    ///
    /// # Errors
    /// There is no key, and a wrong clock is the reason.
    pub(super) fn check_keys(&self) -> Result<(), WrongClock> {
        let without = self.policy.keyring.as_ref().is_some_and(|keyring| !keyring.has_keys());
        if without { self.check_clock() } else { Ok(()) }
    }
}

/// All binhosts that packages can be fetched from.
#[derive(Debug, Default)]
pub(super) struct RemoteBinhosts(RwLock<HashMap<BinhostId, Arc<RemoteBinhost>>>);

impl RemoteBinhosts {
    /// Adds a binhost. Packages of the same binhost in earlier generations are fetched and judged
    /// with these settings, too, from now on.
    pub(super) fn add(&self, id: BinhostId, binhost: Arc<RemoteBinhost>) {
        let mut binhosts = self.0.write();
        binhosts
            .values_mut()
            .filter(|before| before.name == binhost.name)
            .for_each(|before| *before = Arc::clone(&binhost));
        binhosts.insert(id, binhost);
    }

    pub(super) fn get(&self, id: BinhostId) -> Option<Arc<RemoteBinhost>> {
        self.0.read().get(&id).cloned()
    }

    /// Whether the packages of the binhost with this tag may be shared.
    pub(super) fn shares(&self, tag: BinhostTag) -> bool {
        let binhosts = self.0.read();
        let mut of_tag = binhosts.values().filter(|binhost| BinhostTag::new(&binhost.name) == tag).peekable();
        of_tag.peek().is_some() && of_tag.all(|binhost| binhost.is_shared())
    }

    pub(super) fn retain(&self, wanted: &HashSet<BinhostId>) {
        self.0.write().retain(|id, _| wanted.contains(id));
    }
}

/// The identity of a package here. Two binhosts may serve the same package and require different
/// proofs of it.
pub(super) type PackageKey = (BinhostId, EntryId);

/// A package of a generation, with its record and its binhost.
#[derive(Debug, Clone)]
pub(crate) struct PackageRef {
    view: Arc<View>,
    row: u32,
    record: Record,
    binhost_id: BinhostId,
    binhost: Arc<RemoteBinhost>,
}

impl PackageRef {
    pub(super) fn new(binhosts: &RemoteBinhosts, view: &Arc<View>, row: u32) -> Option<Self> {
        let (record, binhost_id) = (*view.record(row)?, view.part(row)?.binhost);
        Some(Self { view: Arc::clone(view), row, record, binhost_id, binhost: binhosts.get(binhost_id)? })
    }

    /// The path at which the package is shown.
    #[must_use]
    pub(crate) fn path(&self) -> &str {
        self.view.path(self.row)
    }

    #[must_use]
    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// Whether the package may be served to other machines.
    #[must_use]
    pub(crate) fn is_shared(&self) -> bool {
        self.binhost.is_shared()
    }

    /// Whether the entry names the package of this key.
    ///
    /// # Errors
    /// The stored index cannot be read.
    pub(crate) fn is_of(&self, key: &ShareKey) -> std::io::Result<bool> {
        Ok(self.record.size == key.size && self.entry()?.share_key() == Some(*key))
    }

    pub(super) fn view(&self) -> &Arc<View> {
        &self.view
    }

    pub(super) fn key(&self) -> PackageKey {
        (self.binhost_id, self.record.id)
    }

    pub(super) fn binhost(&self) -> &Arc<RemoteBinhost> {
        &self.binhost
    }

    /// PATH at its binhost.
    pub(super) fn own_path(&self) -> &str {
        self.part().map_or("", |part| part.index.path(&self.record))
    }

    /// URI in the header of its index.
    pub(super) fn uri(&self) -> Option<&str> {
        self.part()?.index.header().uri()
    }

    pub(super) fn entry(&self) -> std::io::Result<crate::index::Entry> {
        self.view.entry(self.row)
    }

    /// The text of its entry.
    pub(super) fn stanza(&self) -> std::io::Result<Stanza> {
        self.view.stanza(self.row)
    }

    pub(super) fn part(&self) -> Option<&BinhostIndex> {
        self.view.part(self.row)
    }
}
