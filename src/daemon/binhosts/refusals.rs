//! Entries that are not shown because what the binhost serves for them is not what its index says.
//!
//! Portage never falls back to source for a package that it found in the index; so a package that cannot be had has to leave
//! the index, and the next `emerge --usepkg` builds it. Kept beside the stored index, as `refused.json`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::api::FailureStatus;
use crate::index::{AuxDigest, Digest, EntryId};
use crate::sys::durable::{read_json, write_json};
use crate::sys::{STEP, seconds_now};

/// Entries that are left out at the most; a binhost with more of them has other problems.
const MAX_REFUSALS: usize = 4096;

/// One entry that is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    /// EntryId in hexadecimal.
    id: String,
    pub(crate) path: String,
    pub(crate) reason: String,
    /// Seconds since the epoch.
    pub(crate) since: u64,
    /// What the binhost said of the file: size, ETag, date. A change means other bytes.
    pub(crate) seen: Option<String>,
    /// The policy under which it was refused: under another one it may be good.
    #[serde(default)]
    pub(crate) policy: String,
    /// For an index mismatch, the `AuxDigest` of the entry in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    said: Option<String>,
    /// How the clock was set ([`offset`](crate::sys::offset)), where that decided.
    #[serde(default)]
    pub(crate) clock: Option<i64>,
}

impl Refusal {
    /// Of the entry `id`, now, under `policy`.
    pub(crate) fn new(id: EntryId, path: &str, reason: &str, policy: &str) -> Self {
        Self {
            id: Digest(id.0).to_string(),
            path: path.to_owned(),
            reason: reason.to_string(),
            since: seconds_now(),
            seen: None,
            policy: policy.to_owned(),
            said: None,
            clock: None,
        }
    }

    /// Because of an index mismatch: for as long as the entry says this.
    pub(crate) fn with_said(self, said: AuxDigest) -> Self {
        Self { said: Some(Digest(said.0).to_string()), ..self }
    }

    pub(crate) fn id(&self) -> Option<EntryId> {
        self.id.parse().ok().map(|digest: Digest<16>| EntryId(digest.0))
    }

    /// For `status`.
    pub(crate) fn status(&self) -> FailureStatus {
        FailureStatus { path: self.path.clone(), reason: self.reason.clone(), time: self.since }
    }

    /// For an index mismatch, what the entry said.
    pub(crate) fn said(&self) -> Option<AuxDigest> {
        self.said.as_ref()?.parse().ok().map(|digest: Digest<16>| AuxDigest(digest.0))
    }

    /// Whether it was refused by a clock that was set otherwise than `clock`.
    pub(crate) fn is_by_other_clock(&self, clock: i64) -> bool {
        self.clock.is_some_and(|then| then.abs_diff(clock) >= STEP)
    }
}

#[derive(Debug)]
pub(crate) struct Refusals {
    file: PathBuf,
    all: Vec<Refusal>,
}

impl Refusals {
    /// Those that were refused under `policy`.
    pub(crate) fn load(directory: &Path, policy: &str) -> Self {
        let file = directory.join("refused.json");
        let mut all: Vec<Refusal> = read_json(&file).unwrap_or_default();
        all.retain(|refusal| refusal.policy == policy);
        Self { file, all }
    }

    pub(crate) fn all(&self) -> &[Refusal] {
        &self.all
    }

    pub(crate) fn ids(&self) -> HashSet<EntryId> {
        self.all.iter().filter_map(Refusal::id).collect()
    }

    /// `false`: it is left out already, or there are too many.
    pub(crate) fn add(&mut self, refusal: Refusal) -> bool {
        if self.all.len() >= MAX_REFUSALS || self.all.iter().any(|other| other.id == refusal.id) {
            return false;
        }
        self.all.push(refusal);
        self.save();
        true
    }

    /// Forgets those for which `keep` is false; `true`: there were some.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Refusal) -> bool) -> bool {
        let before = self.all.len();
        self.all.retain(keep);
        let changed = self.all.len() != before;
        if changed {
            self.save();
        }
        changed
    }

    /// Forgets entries that are no longer `known`.
    pub(crate) fn follow(&mut self, known: impl Fn(EntryId) -> bool) {
        self.retain(|refusal| refusal.id().is_some_and(&known));
    }

    fn save(&self) {
        if let Err(error) = write_json(&self.file, &self.all) {
            tracing::warn!(error = format!("{error:#}"), "the list of refused packages is not written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survive_a_restart_and_go_one_by_one() {
        let directory = tempfile::tempdir().unwrap();
        let mut refusals = Refusals::load(directory.path(), "p");
        let wrong = || Refusal::new(EntryId([1; 16]), "a/b.xpak", "wrong", "p");
        assert!(refusals.add(wrong()));
        assert!(!refusals.add(wrong()));
        let gone = Refusal::new(EntryId([2; 16]), "a/c.xpak", "gone", "p");
        assert!(refusals.add(Refusal { seen: Some("5".to_owned()), clock: Some(1000), ..gone }));
        assert!(Refusals::load(directory.path(), "another policy").all().is_empty());
        let mut again = Refusals::load(directory.path(), "p");
        assert_eq!((again.all(), again.ids().len()), (refusals.all(), 2));
        assert!(again.retain(|refusal| refusal.seen.is_some()));
        let by_other = |clock| again.all().iter().filter(|refusal| refusal.is_by_other_clock(clock)).count();
        assert_eq!([1001, 1000 + STEP.cast_signed(), -1].map(by_other), [0, 1, 1]);
        assert_eq!(Refusals::load(directory.path(), "p").all().len(), 1);
        again.follow(|_| false);
        assert!(again.all().is_empty());
    }
}
