//! The request to `calculate.py` and its answer: emerge's own calculation as JSON.
//!
//! Both sides are parts of one program, so the format may change with every version. Fields that
//! this side does not know are ignored; missing fields have their defaults.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The format that this program reads.
pub(crate) const FORMAT: u32 = 1;

/// A request to emerge for a calculation.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct CalculationRequest {
    /// Arguments of emerge.
    pub(crate) arguments: Vec<String>,
    /// The PKGDIR with the index of the packages that Portage sees.
    pub(crate) pkgdir: Option<PathBuf>,
    /// The same with hidden entries, for a second calculation.
    pub(crate) pkgdir_all: Option<PathBuf>,
    /// The files of binhostfs below /etc/portage, which are read as this text; `None`: as if the
    /// file did not exist. Their flags are not the administrator's choice.
    pub(crate) config: BTreeMap<String, Option<String>>,
    /// Whether the answer names the security advisories that concern each candidate.
    pub(crate) glsa: bool,
}

/// The answer: the merge list, with what is known of each package.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Calculation {
    pub(crate) format: u32,
    /// Version of Portage.
    pub(crate) portage: String,
    pub(crate) settings: Settings,
    /// Whether emerge has found a merge list.
    pub(crate) resolved: bool,
    /// Message of emerge if it has not.
    pub(crate) error: Option<String>,
    /// The merge list in its order.
    pub(crate) packages: Vec<PlannedPackage>,
    /// The merge list of the second calculation. `None`: there was none.
    pub(crate) all: Option<Vec<PlannedName>>,
    pub(crate) all_error: Option<String>,
    /// Remarks on the calculation, for the user.
    pub(crate) notes: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Settings {
    pub(crate) accept_chosts: Vec<String>,
    pub(crate) chost: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MergeKind {
    Binary,
    Ebuild,
    /// Neither is merged, e.g. an uninstall.
    #[default]
    #[serde(other)]
    Other,
}

/// A package of the second merge list.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct PlannedName {
    pub(crate) cpv: String,
    pub(crate) slot: String,
    pub(crate) kind: MergeKind,
    #[serde(deserialize_with = "number")]
    pub(crate) build_id: Option<u64>,
}

/// A package of the merge list.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct PlannedPackage {
    pub(crate) cpv: String,
    pub(crate) cp: String,
    pub(crate) version: String,
    pub(crate) slot: String,
    pub(crate) sub_slot: String,
    pub(crate) repo: String,
    pub(crate) kind: MergeKind,
    /// The version that is installed in the same slot.
    pub(crate) installed: Option<String>,
    /// The packages of the merge list that depend on it, by CPV.
    pub(crate) parents: Vec<String>,
    pub(crate) binary: Option<Binary>,
    /// The flags of the planned package, without signs.
    pub(crate) iuse: Vec<String>,
    /// Flags that the profile forces or masks.
    pub(crate) forced: Vec<String>,
    pub(crate) masked: Vec<String>,
    /// Flags that the administrator has set.
    pub(crate) fixed: Vec<String>,
    /// Set for a package that would be compiled.
    pub(crate) source: Option<SourceFacts>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Binary {
    #[serde(deserialize_with = "number")]
    pub(crate) build_id: Option<u64>,
    pub(crate) path: String,
    pub(crate) size: Option<u64>,
}

/// Why a package may be compiled.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct SourceFacts {
    /// The ebuild fetches the newest sources from a repository.
    pub(crate) live: bool,
    /// No binhost may distribute the package (RESTRICT).
    pub(crate) bindist: bool,
    /// The option or file that excludes the package.
    pub(crate) excluded: Option<String>,
    /// Builds that Portage has passed over, with its own reasons.
    pub(crate) ignored: Vec<Ignored>,
    /// All builds of the package, of any version.
    pub(crate) candidates: Vec<Candidate>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Ignored {
    pub(crate) cpv: String,
    #[serde(deserialize_with = "number")]
    pub(crate) build_id: Option<u64>,
    pub(crate) reason: String,
}

/// A build of a package that would be compiled.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Candidate {
    pub(crate) cpv: String,
    pub(crate) version: String,
    pub(crate) slot: String,
    pub(crate) sub_slot: String,
    #[serde(deserialize_with = "number")]
    pub(crate) build_id: Option<u64>,
    pub(crate) path: String,
    pub(crate) size: Option<u64>,
    pub(crate) chost: String,
    pub(crate) same_version: bool,
    pub(crate) same_slot: bool,
    /// Whether the version is newer than the planned one.
    pub(crate) newer: bool,
    pub(crate) chost_ok: bool,
    /// Why Portage masks the build.
    pub(crate) masks: Vec<String>,
    pub(crate) missing_keywords: Vec<String>,
    pub(crate) missing_licenses: Vec<String>,
    pub(crate) excluded: bool,
    /// The flags that differ, as the build has them: `nls`, `-doc`.
    #[serde(deserialize_with = "flags")]
    pub(crate) use_differs: Vec<String>,
    pub(crate) iuse: Vec<String>,
    pub(crate) changed_deps: Option<bool>,
    pub(crate) user_patches_differ: bool,
    /// Whether emerge sees the ebuild of this version: `visible`, `masked` or `absent`.
    pub(crate) ebuild: String,
    /// Why the ebuild is masked.
    pub(crate) ebuild_masks: Vec<String>,
    /// Why backtracking did without the build, e.g. `slot conflict`.
    pub(crate) dropped: Vec<String>,
    /// Security advisories that concern this version. `None`: they were not looked up.
    pub(crate) vulnerable: Option<Vec<String>>,
}

impl PlannedPackage {
    /// Slot and sub-slot, as Portage writes them.
    pub(crate) fn full_slot(&self) -> String {
        full_slot(&self.slot, &self.sub_slot)
    }
}

impl Candidate {
    pub(crate) fn full_slot(&self) -> String {
        full_slot(&self.slot, &self.sub_slot)
    }
}

fn full_slot(slot: &str, sub_slot: &str) -> String {
    if sub_slot.is_empty() || sub_slot == slot { slot.to_owned() } else { format!("{slot}/{sub_slot}") }
}

/// Flags as package.use has them: `+doc` is `doc`.
fn flags<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let flags: Vec<String> = Vec::deserialize(deserializer)?;
    Ok(flags.into_iter().map(|flag| flag.trim_start_matches('+').to_owned()).collect())
}

/// A number, or a text that may be one. Portage has both.
fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Value {
        Number(u64),
        Text(String),
        Other(serde::de::IgnoredAny),
    }
    Ok(match Option::<Value>::deserialize(deserializer)? {
        Some(Value::Number(number)) => Some(number),
        Some(Value::Text(text)) => text.parse().ok(),
        Some(Value::Other(_)) | None => None,
    })
}
