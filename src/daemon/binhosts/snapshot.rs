//! The data that explains the published view: shared with the binhosts, and cheap to take.
//!
//! A refresh holds the binhosts for as long as a server takes to answer. So it takes a snapshot
//! first, from which questions are answered meanwhile. The sets and maps that an answer needs are
//! made only when somebody asks.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use super::rejections::RejectedEntries;
use crate::cache::Cache;
use crate::config::BinhostConfig;
use crate::daemon::explain::{BinhostContext, Explained};
use crate::fetch::{Fetcher, RemoteBinhost};
use crate::index::{BinhostId, BinhostIndex, EntryId, Index, Record};
use crate::policy::{Formats, Here, Rules, UnionMember};

/// One binhost with an index.
#[derive(Debug, Clone)]
pub(crate) struct BinhostSnapshot {
    pub(crate) config: Arc<BinhostConfig>,
    pub(crate) id: BinhostId,
    pub(crate) remote: Arc<RemoteBinhost>,
    /// The index that is shown.
    pub(crate) index: Arc<Index>,
    pub(crate) rejected: RejectedEntries,
    pub(crate) disputed: Arc<HashSet<EntryId>>,
    /// Whether the configuration hides packages that are not cached, because no URL answers.
    pub(crate) hides: bool,
}

impl BinhostSnapshot {
    /// The reason why no package of the binhost can be fetched at all, if there is one.
    fn nowhere(&self) -> Option<String> {
        self.remote.upstream.nowhere(self.index.header().uri())
    }

    /// The binhost as a member of the union.
    pub(crate) fn member(&self, cache: &Arc<Cache>) -> UnionMember {
        let (cached, remote) = (Arc::clone(cache), Arc::clone(&self.remote));
        let here = move |record: &Record| cached.known(record.id, record.size, &remote.policy).is_some();
        let only_here = self.hides || self.nowhere().is_some();
        let mut hidden: HashSet<EntryId> = self.rejected.refusals().iter().filter_map(|refusal| refusal.id()).collect();
        hidden.extend(&*self.disputed);
        UnionMember {
            name: self.config.name.clone(),
            part: BinhostIndex { binhost: self.id, index: Arc::clone(&self.index) },
            hidden,
            selection: self.config.selection.clone(),
            formats: if self.remote.policy.keyring.is_some() { Formats::Signed } else { Formats::All },
            here: only_here.then(|| -> Here { Box::new(here) }),
        }
    }

    fn context(&self) -> BinhostContext {
        BinhostContext {
            name: self.config.name.clone(),
            remote: Arc::clone(&self.remote),
            refused: self.rejected.refused(),
            mismatched: self.rejected.warned(),
            quorum: self.config.quorum.get(),
            nowhere: self.nowhere(),
        }
    }
}

/// All binhosts with an index, and the rules for their entries.
#[derive(Clone)]
pub(crate) struct ViewSnapshot {
    pub(crate) binhosts: Vec<BinhostSnapshot>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) fetcher: Arc<Fetcher>,
    /// Name of a binhost without an index, if there is one.
    pub(crate) indexless: Option<String>,
    /// Latest indexes that are not shown because an earlier generation is, with the names of their
    /// binhosts.
    pub(crate) newer: Vec<(String, Arc<Index>)>,
}

impl fmt::Debug for ViewSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ViewSnapshot").field("binhosts", &self.binhosts.len()).finish_non_exhaustive()
    }
}

impl ViewSnapshot {
    /// The members of the union, in the order of their binhosts.
    pub(crate) fn members(&self) -> Vec<UnionMember> {
        self.binhosts.iter().map(|binhost| binhost.member(&self.cache)).collect()
    }

    /// All indexes: those that are shown, and newer ones behind a rollback.
    pub(crate) fn indexes(&self) -> impl Iterator<Item = &Arc<Index>> {
        let shown = self.binhosts.iter().map(|binhost| &binhost.index);
        shown.chain(self.newer.iter().map(|(_, index)| index))
    }

    /// Everything that answers need.
    pub(crate) fn explained(&self) -> Arc<Explained> {
        let Self { rules, cache, fetcher, indexless, newer, .. } = self;
        Arc::new(Explained {
            inputs: self.members(),
            beside: self.binhosts.iter().map(BinhostSnapshot::context).collect(),
            rules: Arc::clone(rules),
            cache: Arc::clone(cache),
            fetcher: Arc::clone(fetcher),
            indexless: indexless.clone(),
            newer: newer.clone(),
        })
    }
}
