//! Explains what the daemon does with the entries that match some atoms, and why.

use std::collections::{HashMap, HashSet};
mod index_text;
mod local;
mod nearest;
mod unfit;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;

pub(super) use self::index_text::shown_index;
use self::local::LocalPackages;
use super::acceptance::acceptance;
use crate::api::{CallerStatus, Cause, HiddenReason, PackageState, PackageStatus};
use crate::cache::Cache;
use crate::fetch::{Fetcher, RemoteBinhost};
use crate::fs::PublishedTree;
use crate::index::{EntryId, Index};
use crate::policy::{self, Decision, Rules, UnionMember};
use crate::portage::Atom;
use crate::portage::{Acceptance, BinaryPackage, KeyValues};
use crate::sys::durable::blocking;

/// Reason why emerge rejects a build that no line in package.use can make acceptable.
const FIXED: &str = "USE: the profile forces or masks a flag that it has otherwise";

/// The facts about a binhost that its index does not have.
pub(super) struct BinhostContext {
    pub(super) name: String,
    pub(super) remote: Arc<RemoteBinhost>,
    /// Reasons of refusals, by entry.
    pub(super) refused: HashMap<EntryId, (HiddenReason, String)>,
    /// Reasons of index mismatches that are not refused.
    pub(super) mismatched: HashMap<EntryId, String>,
    /// Number of URLs that have to list an entry alike.
    pub(super) quorum: usize,
    /// Why no package of the binhost can be fetched, if there is a reason.
    pub(super) nowhere: Option<String>,
}

/// All data that answers need, as of one moment. The caller therefore never waits for a binhost.
pub(super) struct Explained {
    pub(super) inputs: Vec<UnionMember>,
    pub(super) beside: Vec<BinhostContext>,
    pub(super) rules: Arc<Rules>,
    pub(super) cache: Arc<Cache>,
    pub(super) fetcher: Arc<Fetcher>,
    /// Name of a binhost without an index, if there is one.
    pub(super) indexless: Option<String>,
    /// Latest indexes that are not shown because an earlier generation is, with the names of their
    /// binhosts.
    pub(super) newer: Vec<(String, Arc<Index>)>,
}

/// The machine that `emerge` runs on: its local packages, and the root of Portage's files.
pub(super) struct Machine {
    pub(super) front: Arc<PublishedTree>,
    pub(super) root: PathBuf,
}

impl fmt::Debug for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Explained").field("beside", &self.beside.len()).finish_non_exhaustive()
    }
}

impl Explained {
    /// Lists all entries of all binhosts that match one of `atoms` (all entries if there are no
    /// atoms), with the decision about each. `failures` has reasons of recent failed downloads, by
    /// the path at which the package is shown.
    pub(super) async fn answer(
        self: Arc<Self>,
        atoms: Vec<Atom>,
        failures: HashMap<String, String>,
        machine: Machine,
    ) -> anyhow::Result<Vec<PackageStatus>> {
        blocking(move || {
            let Self { inputs, beside, rules, cache, fetcher, .. } = &*self;
            let pinned = cache.pins().list().into_iter().map(|pin| pin.id).collect();
            let (atoms, failures) = (&atoms, &failures);
            let acceptance = (!atoms.is_empty()).then(|| acceptance(&machine.root));
            let acceptance = acceptance.as_ref();
            let local = &LocalPackages::of(&machine).context("looking at the local packages")?;
            Question { inputs, beside, atoms, failures, cache, fetcher, pinned, acceptance, local }.answer(rules)
        })
        .await
    }
}

struct Question<'a> {
    inputs: &'a [UnionMember],
    beside: &'a [BinhostContext],
    atoms: &'a [Atom],
    failures: &'a HashMap<String, String>,
    cache: &'a Cache,
    pinned: HashSet<EntryId>,
    fetcher: &'a Fetcher,
    /// Set only if there are atoms: computing it takes time for each package.
    acceptance: Option<&'a Acceptance>,
    local: &'a LocalPackages,
}

impl Question<'_> {
    fn answer(&self, rules: &Rules) -> anyhow::Result<Vec<PackageStatus>> {
        let (mut found, mut failed) = (self.local.matching(self.atoms, self.acceptance)?, Ok(()));
        policy::decide(self.inputs, rules, &mut |part, record, fate| match self.look(part, record, fate) {
            Ok(status) => found.extend(status),
            Err(error) => failed = Err(error),
        })?;
        failed?;
        for (input, beside) in self.inputs.iter().zip(self.beside) {
            found.extend(unfit::unfit(&input.part.index, beside, self.atoms)?);
        }
        nearest::mark(&mut found);
        found.sort_by(|a, b| (&a.cpv, a.build_id, &a.path).cmp(&(&b.cpv, b.build_id, &b.path)));
        Ok(found)
    }

    /// The status of one entry. `None`: no atom matches the entry.
    fn look(&self, part: u16, record: u32, fate: Decision) -> std::io::Result<Option<PackageStatus>> {
        let at = usize::from(part);
        let (Some(UnionMember { part, .. }), Some(beside)) = (self.inputs.get(at), self.beside.get(at)) else {
            return Ok(None);
        };
        let Some(record) = part.index.records().get(record as usize) else { return Ok(None) };
        let stanza = part.index.stanza(record)?;
        let entry = stanza.entry()?;
        let slot = stanza.get("SLOT");
        let repository = stanza.repository().or_else(|| part.index.header().repository());
        if !self.atoms.is_empty() && !self.atoms.iter().any(|atom| atom.matches(&entry.cpv, slot, repository)) {
            return Ok(None);
        }
        let binary = BinaryPackage { cpv: &entry.cpv, stanza: &stanza, header: part.index.header() };
        let own = part.index.path(record);
        let (mut hidden, mut reason) = (hidden(&fate, beside, record.id), reason(&fate, beside, record.id));
        let (path, dependency) = match fate {
            Decision::Shown { place, dependency } => (place.map_or_else(|| own.to_owned(), String::from), dependency),
            _ => (own.to_owned(), None),
        };
        if let Some(why) = self.local.hides(&path, &entry).filter(|_| hidden.is_none()) {
            (hidden, reason) = (Some(HiddenReason::Local), Some(why.to_owned()));
        }
        let known = self.cache.known(record.id, record.size, &beside.remote.policy);
        let caller = self.fetcher.caller(part.binhost, record.id).map(|caller| CallerStatus {
            pid: caller.pid,
            name: caller.name,
            time: caller.at.by_clock(),
        });
        Ok(Some(PackageStatus {
            binhost: beside.name.clone(),
            state: if hidden.is_none() { PackageState::Shown } else { PackageState::LeftOut },
            reason,
            hidden,
            dependency: dependency.map(|atom| atom.to_string()),
            cached: known.is_some(),
            pinned: self.pinned.contains(&record.id),
            since: known.map(|known| known.since),
            sha256: known.map(|known| known.digest.to_string()),
            source: known.and_then(|known| self.cache.source(known.digest)),
            caller,
            verified_by: known.map(|known| match known.assurance.signer {
                None => "digests".to_owned(),
                Some(signer) => signer.fingerprint.to_string(),
            }),
            // What is hidden was not opened, and another entry may be shown at its path.
            failure: self.failures.get(&path).filter(|_| hidden.is_none()).cloned(),
            index_mismatch: beside.mismatched.get(&record.id).cloned(),
            ..judged(self.acceptance, &binary, &path)
        }))
    }
}

/// The fields of a status that come from the text of the entry alone.
fn described(stanza: &dyn KeyValues, path: &str) -> PackageStatus {
    let value = |key| stanza.get(key).unwrap_or_default();
    PackageStatus {
        cpv: value("CPV").to_owned(),
        build_id: value("BUILD_ID").parse().ok(),
        slot: stanza.get("SLOT").filter(|slot| !slot.is_empty()).unwrap_or("0").to_owned(),
        use_flags: value("USE").to_owned(),
        use_needed: needed(value("IUSE"), value("USE")),
        size: value("SIZE").parse().unwrap_or_default(),
        path: path.to_owned(),
        ..PackageStatus::default()
    }
}

/// Like `described`; with `acceptance`, also says whether emerge takes the package on this system.
fn judged(acceptance: Option<&Acceptance>, package: &BinaryPackage<'_>, path: &str) -> PackageStatus {
    let Some(acceptance) = acceptance else { return described(package.stanza, path) };
    let difference = acceptance.difference(package);
    let is_fixed = difference.as_ref().is_some_and(|difference| difference.is_fixed);
    let rejections = acceptance.rejections(package);
    let causes = Cause::of_entry(&rejections, difference.as_ref());
    let mut rejected: Vec<String> = rejections.iter().map(ToString::to_string).collect();
    rejected.extend(is_fixed.then(|| FIXED.to_owned()));
    let use_differs = difference.map(|difference| difference.flags);
    PackageStatus { rejected, causes, use_differs, ..described(package.stanza, path) }
}

/// The setting of each flag of the package that emerge requires in USE.
fn needed(iuse: &str, flags: &str) -> Option<String> {
    let on: HashSet<&str> = flags.split_whitespace().collect();
    let sign = |flag: &str| if on.contains(flag) { flag.to_owned() } else { format!("-{flag}") };
    let all: Vec<String> = iuse.split_whitespace().map(|flag| sign(flag.trim_start_matches(['+', '-']))).collect();
    (!all.is_empty()).then(|| all.join(" "))
}

/// Which reason hides an entry. `None`: the entry is shown.
fn hidden(fate: &Decision, beside: &BinhostContext, id: EntryId) -> Option<HiddenReason> {
    Some(match fate {
        Decision::Shown { .. } => return None,
        Decision::Hidden => beside.refused.get(&id).map_or(HiddenReason::Disputed, |(why, _)| *why),
        Decision::UnsignedFormat => HiddenReason::UnsignedFormat,
        Decision::Filtered => HiddenReason::Filtered,
        Decision::Offline => HiddenReason::Offline,
        Decision::Shadowed => HiddenReason::Shadowed,
        Decision::PathConflict => HiddenReason::PathConflict,
    })
}

/// The reason why an entry is hidden, or shown at another path.
pub(super) fn reason(fate: &Decision, beside: &BinhostContext, id: EntryId) -> Option<String> {
    let BinhostContext { name, refused, quorum, nowhere, .. } = beside;
    Some(match fate {
        Decision::Shown { place: None, .. } => return None,
        Decision::Shown { place: Some(_), .. } => "another binhost's package is at its path".to_owned(),
        Decision::Hidden => match refused.get(&id) {
            Some((_, reason)) => format!("{reason}; `binhostfs refresh` gives it another chance"),
            None => format!("fewer than {quorum} URLs of {name} say the same of it in their indexes"),
        },
        Decision::UnsignedFormat => "XPAK packages cannot be signed, and signatures are asked for".to_owned(),
        Decision::Filtered => "the configuration (include, exclude) does not select it".to_owned(),
        Decision::Offline => match nowhere {
            Some(why) => why.clone(),
            None => format!("{name} is away, and it is not in the cache (offline = \"hide\")"),
        },
        Decision::Shadowed => "a preferred binhost has the same one".to_owned(),
        Decision::PathConflict => "its path is taken, and so is that below the binhost's name".to_owned(),
    })
}

#[cfg(test)]
mod tests;
