//! Refusals: entries that are hidden because the package that the binhost serves contradicts its
//! entry.
//!
//! Portage never falls back to source for a package that it found in the index. So such an entry
//! has to leave the index, and the next `emerge --usepkg` builds the package. The refusals are
//! stored beside the index, as `refused.json`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::api::FailureStatus;
use crate::index::{AuxDigest, Digest, EntryId};
use crate::sys::durable::{read_json, write_json};
use crate::sys::{STEP, seconds_now};

/// Maximum number of refusals of one binhost; more of them have another cause.
const MAX_REFUSALS: usize = 4096;

/// One refused entry, with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    /// EntryId of the entry, in hexadecimal.
    id: String,
    pub(crate) path: String,
    pub(crate) reason: String,
    /// Time of the refusal, seconds since the epoch.
    pub(crate) since: u64,
    /// Size, ETag and date of the file, as the binhost reported them. A change means other bytes.
    pub(crate) seen: Option<String>,
    /// The policy under which the package was refused: under another one it may be good.
    #[serde(default)]
    pub(crate) policy: String,
    /// For an index mismatch, the `AuxDigest` of the entry in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    said: Option<String>,
    /// Offset of the clock ([`offset`](crate::sys::offset)), if the refusal depends on the clock.
    #[serde(default)]
    pub(crate) clock: Option<i64>,
}

impl Refusal {
    /// Makes a refusal of the entry `id` under `policy`, with the current time.
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

    /// Limits the refusal of an index mismatch to an entry with these values.
    pub(crate) fn with_said(self, said: AuxDigest) -> Self {
        Self { said: Some(Digest(said.0).to_string()), ..self }
    }

    pub(crate) fn id(&self) -> Option<EntryId> {
        self.id.parse().ok().map(|digest: Digest<16>| EntryId(digest.0))
    }

    /// The refusal as the `status` command shows it.
    pub(crate) fn status(&self) -> FailureStatus {
        FailureStatus { path: self.path.clone(), reason: self.reason.clone(), time: self.since }
    }

    /// For an index mismatch, the digest of the entry's values.
    pub(crate) fn said(&self) -> Option<AuxDigest> {
        self.said.as_ref()?.parse().ok().map(|digest: Digest<16>| AuxDigest(digest.0))
    }

    /// Whether the refusal depends on a clock that was set differently than `clock`.
    pub(crate) fn is_by_other_clock(&self, clock: i64) -> bool {
        self.clock.is_some_and(|then| then.abs_diff(clock) >= STEP)
    }
}

#[derive(Debug)]
pub(crate) struct Refusals {
    file: PathBuf,
    /// Shared with the snapshots that explain a view.
    all: Arc<Vec<Refusal>>,
}

impl Refusals {
    /// Loads the stored refusals that were made under `policy`.
    pub(crate) fn load(directory: &Path, policy: &str) -> Self {
        let file = directory.join("refused.json");
        let mut all: Vec<Refusal> = read_json(&file).unwrap_or_default();
        all.retain(|refusal| refusal.policy == policy);
        Self { file, all: Arc::new(all) }
    }

    /// All refusals, oldest first.
    pub(crate) fn all(&self) -> &Arc<Vec<Refusal>> {
        &self.all
    }

    /// Adds a refusal and stores the list. `false`: the entry is refused already, or there are too
    /// many.
    pub(crate) fn add(&mut self, refusal: Refusal) -> bool {
        if self.all.len() >= MAX_REFUSALS || self.all.iter().any(|other| other.id == refusal.id) {
            return false;
        }
        Arc::make_mut(&mut self.all).push(refusal);
        self.save();
        true
    }

    /// Forgets the refusals for which `keep` is false. `true`: there were some.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Refusal) -> bool) -> bool {
        let changed = !self.all.iter().all(&keep);
        if changed {
            Arc::make_mut(&mut self.all).retain(keep);
            self.save();
        }
        changed
    }

    /// Forgets the refusals of entries that are no longer `known`.
    pub(crate) fn follow(&mut self, known: impl Fn(EntryId) -> bool) {
        self.retain(|refusal| refusal.id().is_some_and(&known));
    }

    fn save(&self) {
        if let Err(error) = write_json(&self.file, &*self.all) {
            tracing::warn!(error = format!("{error:#}"), "the list of refused packages cannot be saved");
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
        assert_eq!((again.all(), again.all().iter().filter_map(Refusal::id).count()), (refusals.all(), 2));
        assert!(again.retain(|refusal| refusal.seen.is_some()));
        let by_other = |clock| again.all().iter().filter(|refusal| refusal.is_by_other_clock(clock)).count();
        assert_eq!([1001, 1000 + STEP.cast_signed(), -1].map(by_other), [0, 1, 1]);
        assert_eq!(Refusals::load(directory.path(), "p").all().len(), 1);
        again.follow(|_| false);
        assert!(again.all().is_empty());
    }
}
