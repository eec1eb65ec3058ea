//! Where packages come from and what they have to prove: one [`RemoteBinhost`] for each binhost.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};

use portable_atomic::AtomicU64;

use crate::config::OnMismatch;
use crate::index::{BinhostId, BinhostIndex, EntryId, Record, Stanza, View};
use crate::sys::{Passed, PastEvent, WrongClock, seconds_now};
use crate::upstream::Upstream;
use crate::verify::Policy;

/// One binhost, for as long as something of it is shown.
#[derive(Debug)]
pub struct RemoteBinhost {
    /// What its directory in the cache is called: never given to another binhost.
    pub name: String,
    /// Its URLs.
    pub upstream: Arc<Upstream>,
    /// What its packages must prove.
    pub policy: Policy,
    /// What it leads to when its index says something else of a package than the package.
    pub on_mismatch: OnMismatch,
    /// When its index was last confirmed, seconds since the epoch; 0: not known.
    confirmed: AtomicU64,
}

impl RemoteBinhost {
    /// A binhost of which nothing is known yet.
    #[must_use]
    pub fn new(name: String, upstream: Arc<Upstream>, policy: Policy, on_mismatch: OnMismatch) -> Self {
        Self { name, upstream, policy, on_mismatch, confirmed: AtomicU64::new(0) }
    }

    /// Its index was confirmed at `time`, seconds since the epoch, by the clock of then.
    pub fn note_confirmed(&self, time: u64) {
        self.confirmed.store(time, Ordering::Relaxed);
    }

    /// Whether the system clock can be right.
    ///
    /// # Errors
    /// It shows a time before the program was built, before a key was signed, or before the index was confirmed.
    pub fn check_clock(&self) -> Result<(), WrongClock> {
        let confirmed = Passed::new(self.confirmed.load(Ordering::Relaxed), PastEvent::IndexConfirmed);
        let signed = self.policy.keyring.as_ref().and_then(|keyring| keyring.last_signed());
        Passed::BUILT.or_later(signed).or_later(Some(confirmed)).check(seconds_now())
    }

    /// Whether there is a key to check signatures with, where they are asked for.
    ///
    /// # Errors
    /// There is none, and the clock is why.
    pub(super) fn check_keys(&self) -> Result<(), WrongClock> {
        let without = self.policy.keyring.as_ref().is_some_and(|keyring| !keyring.has_keys());
        if without { self.check_clock() } else { Ok(()) }
    }
}

/// All binhosts of which something may be asked for.
#[derive(Debug, Default)]
pub(super) struct RemoteBinhosts(RwLock<HashMap<BinhostId, Arc<RemoteBinhost>>>);

impl RemoteBinhosts {
    /// What earlier generations have of the same binhost is asked for, and judged, in the same way from now on.
    pub(super) fn add(&self, id: BinhostId, origin: Arc<RemoteBinhost>) {
        let mut origins = self.0.write().unwrap_or_else(PoisonError::into_inner);
        origins
            .values_mut()
            .filter(|before| before.name == origin.name)
            .for_each(|before| *before = Arc::clone(&origin));
        origins.insert(id, origin);
    }

    pub(super) fn get(&self, id: BinhostId) -> Option<Arc<RemoteBinhost>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    pub(super) fn retain(&self, wanted: &HashSet<BinhostId>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).retain(|id, _| wanted.contains(id));
    }
}

/// What a package is known by here: two binhosts may serve the same one and have other things proved of it.
pub(super) type PackageKey = (BinhostId, EntryId);

/// A package of a generation that someone wants.
#[derive(Debug, Clone)]
pub struct PackageRef {
    view: Arc<View>,
    row: u32,
    record: Record,
    origin_id: BinhostId,
    origin: Arc<RemoteBinhost>,
}

impl PackageRef {
    pub(super) fn new(origins: &RemoteBinhosts, view: &Arc<View>, row: u32) -> Option<Self> {
        let (record, origin_id) = (*view.record(row)?, view.part(row)?.origin);
        Some(Self { view: Arc::clone(view), row, record, origin_id, origin: origins.get(origin_id)? })
    }

    /// Where the package is shown.
    #[must_use]
    pub fn path(&self) -> &str {
        self.view.path(self.row)
    }

    /// Its record.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    pub(super) fn view(&self) -> &Arc<View> {
        &self.view
    }

    pub(super) fn key(&self) -> PackageKey {
        (self.origin_id, self.record.id)
    }

    pub(super) fn origin(&self) -> &Arc<RemoteBinhost> {
        &self.origin
    }

    /// PATH at its binhost.
    pub(super) fn own_path(&self) -> &str {
        self.part().map_or("", |part| part.index.path(&self.record))
    }

    /// URI of the header of its index.
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
