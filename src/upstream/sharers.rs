//! Those that share packages: peers, and after them the nodes of the object store. They are asked
//! for a package by its digests, before the mirrors.
//!
//! Not its job: trusting these bytes, and what follows when they prove wrong (`body`).

use std::sync::Arc;

use url::Url;

use super::UpstreamError;
use super::client::UpstreamResponse;
use super::object_store::{DownloadClaims, ObjectStore};
use super::peers::Peers;
use super::tier::{MemberSlot, ProvedPackage, StoreAnswer, StoreFinding, Tier, Wanted};
use crate::config::BinhostConfig;
use crate::metrics::Metrics;

/// A peer or a node of the object store, in the order in which they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SharerSlot {
    Peer(MemberSlot),
    Node(MemberSlot),
}

impl Default for SharerSlot {
    fn default() -> Self {
        Self::Peer(0)
    }
}

impl SharerSlot {
    /// The one after this one.
    pub(super) fn after(self) -> Self {
        match self {
            Self::Peer(slot) => Self::Peer(slot + 1),
            Self::Node(slot) => Self::Node(slot + 1),
        }
    }

    /// What it is, for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Peer(_) => "peer",
            Self::Node(_) => "object store",
        }
    }
}

/// What the object store was found to have of one download, and the claims there.
#[derive(Debug, Default)]
pub(super) struct StoreRecord {
    pub(super) finding: StoreFinding,
    pub(super) claims: DownloadClaims,
}

/// The sharers of one binhost.
#[derive(Debug)]
pub(super) struct Sharers {
    peers: Peers,
    /// `None`: there is no store, or the binhost is not shared.
    store: Option<Arc<ObjectStore>>,
    metrics: Arc<Metrics>,
}

impl Sharers {
    pub(super) fn new(
        binhost: &BinhostConfig,
        store: Option<Arc<ObjectStore>>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, UpstreamError> {
        Ok(Self { peers: Peers::new(binhost)?, store: store.filter(|_| binhost.share), metrics })
    }

    /// What follows for the store from the proof of a package.
    pub(super) fn proved(&self, record: StoreRecord, package: ProvedPackage) {
        if let Some(store) = &self.store {
            store.proved(record.finding, package, record.claims.own);
        }
    }

    pub(super) fn peers(&self) -> &Peers {
        &self.peers
    }

    /// The next sharer from `from` on that is to be asked now, and the URL of a package there.
    pub(super) fn next(&self, from: SharerSlot, wanted: &Wanted) -> Option<(SharerSlot, Url)> {
        let node = match from {
            SharerSlot::Peer(slot) => match self.peers.next(slot, wanted) {
                Some((slot, url)) => return Some((SharerSlot::Peer(slot), url)),
                None => 0,
            },
            SharerSlot::Node(slot) => slot,
        };
        let (slot, url) = self.store.as_ref()?.next(node, wanted)?;
        Some((SharerSlot::Node(slot), url))
    }

    /// Asks a sharer for a package, from the byte `offset` on. Without an answer, says who is to be
    /// asked next.
    pub(super) async fn ask(
        &self,
        (slot, url): (SharerSlot, &Url),
        wanted: &Wanted,
        offset: u64,
        record: &mut StoreRecord,
    ) -> Result<UpstreamResponse, SharerSlot> {
        match slot {
            SharerSlot::Peer(peer) => {
                self.peers.ask((peer, url), wanted, offset, &self.metrics).await.ok_or(slot.after())
            }
            SharerSlot::Node(node) => {
                let Some(store) = &self.store else { return Err(slot.after()) };
                match store.ask((node, url), wanted, offset).await {
                    StoreAnswer::Has { answer, is_old } => {
                        record.finding = if is_old { StoreFinding::Old } else { StoreFinding::Nothing };
                        record.claims.own = None;
                        Ok(*answer)
                    }
                    StoreAnswer::Failed => Err(slot.after()),
                    // The other nodes are those of the same store.
                    StoreAnswer::Lacks => {
                        record.finding = StoreFinding::Lacks;
                        // Others do not wait for the rest of a package.
                        let again = offset == 0 && store.claim(wanted, &mut record.claims).await;
                        Err(SharerSlot::Node(if again { 0 } else { MemberSlot::MAX }))
                    }
                    StoreAnswer::Wrong => {
                        record.finding = StoreFinding::Wrong;
                        Err(SharerSlot::Node(MemberSlot::MAX))
                    }
                }
            }
        }
    }

    /// Notes a failure of a sharer: it is left out for a while.
    pub(super) fn note_failure(&self, slot: SharerSlot, error: &UpstreamError) {
        self.of(slot, |tier, slot| tier.note_failure(slot, error, &self.metrics));
    }

    /// Notes that a package came to its end from a sharer.
    pub(super) fn note_served(&self, slot: SharerSlot) {
        self.of(slot, Tier::note_served);
    }

    /// Notes bytes from a sharer.
    pub(super) fn note_bytes(&self, slot: SharerSlot, bytes: u64) {
        self.of(slot, |tier, slot| tier.note_bytes(slot, bytes, &self.metrics));
    }

    /// Notes that a sharer served wrong bytes: it is not asked for a while.
    pub(super) fn note_wrong(&self, slot: SharerSlot) {
        self.of(slot, |tier, slot| tier.note_wrong(slot, &self.metrics));
    }

    /// Ends backoff and distrust of all sharers.
    pub(super) fn allow_retries(&self) {
        self.tiers().for_each(Tier::allow_retries);
    }

    /// Ends the backoff of all sharers: the network has changed.
    pub(super) fn network_changed(&self) {
        self.tiers().for_each(Tier::network_changed);
    }

    fn tiers(&self) -> impl Iterator<Item = &Tier> {
        std::iter::once(self.peers.tier()).chain(self.store.iter().flat_map(|store| store.tiers()))
    }

    /// The URL of a sharer, without credentials.
    pub(super) fn display_url(&self, slot: SharerSlot) -> String {
        self.of(slot, Tier::display_url).unwrap_or_default()
    }

    fn of<T>(&self, slot: SharerSlot, what: impl FnOnce(&Tier, MemberSlot) -> T) -> Option<T> {
        match slot {
            SharerSlot::Peer(slot) => Some(what(self.peers.tier(), slot)),
            SharerSlot::Node(slot) => self.store.as_ref().map(|store| what(store.tier(), slot)),
        }
    }
}
