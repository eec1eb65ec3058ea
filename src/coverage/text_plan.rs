//! The merge list in the text of `emerge -pv`, for a Portage that `calculate.py` cannot work with.
//!
//! The text names packages and whether they are binary. It says nothing of why a package is
//! compiled, so only causes that the indexes show are found: hidden, absent and version.

use std::collections::HashMap;

use super::calculation::{Binary, Calculation, Candidate, FORMAT, MergeKind, PlannedPackage, SourceFacts};
use super::offer::Offer;
use crate::api::{PackageState, PackageStatus};
use crate::portage::Cpv;

/// Parses the text that emerge has written.
pub(crate) fn calculation(text: &str, offer: &Offer) -> Calculation {
    let mut entries: HashMap<String, Vec<&PackageStatus>> = HashMap::new();
    for package in offer.packages.iter().filter(|package| package.state == PackageState::Shown) {
        let Ok(cpv) = Cpv::parse(&package.cpv) else { continue };
        entries.entry(cpv.cp().to_owned()).or_default().push(package);
    }
    let note =
        "this Portage is one that binhostfs cannot calculate with; the text of `emerge -pv` does not show every cause";
    Calculation {
        format: FORMAT,
        resolved: true,
        packages: text.lines().filter_map(|line| planned(line, &entries)).collect(),
        notes: vec![note.to_owned()],
        ..Calculation::default()
    }
}

/// Parses one line, e.g. `[ebuild  N     ] app-misc/hello-2.0:0/2::gentoo  USE="nls"`.
fn planned(line: &str, entries: &HashMap<String, Vec<&PackageStatus>>) -> Option<PlannedPackage> {
    let (status, rest) = line.trim_start().strip_prefix('[')?.split_once(']')?;
    let kind = match status.split_whitespace().next()? {
        "ebuild" => MergeKind::Ebuild,
        "binary" => MergeKind::Binary,
        _ => return None,
    };
    let name = rest.split_whitespace().next()?.split("::").next()?;
    let (name, slot) = name.split_once(':').unwrap_or((name, "0"));
    let (slot, sub_slot) = slot.split_once('/').unwrap_or((slot, ""));
    // A binary package has its BUILD_ID behind the version.
    let is_named = |entry: &&&PackageStatus| {
        entry.build_id.is_some_and(|build| name.strip_suffix(&format!("-{build}")) == Some(&entry.cpv))
    };
    let entry = (kind == MergeKind::Binary).then(|| entries.values().flatten().find(is_named)).flatten();
    let cpv = Cpv::parse(entry.map_or(name, |entry| &entry.cpv)).ok()?;
    let builds = entries.get(cpv.cp()).map(Vec::as_slice).unwrap_or_default();
    let entry = entry.or_else(|| builds.iter().find(|entry| entry.cpv == cpv.as_str()));
    Some(PlannedPackage {
        cpv: cpv.to_string(),
        cp: cpv.cp().to_owned(),
        version: cpv.version().as_str().to_owned(),
        slot: slot.to_owned(),
        sub_slot: sub_slot.to_owned(),
        kind,
        binary: entry.filter(|_| kind == MergeKind::Binary).map(|entry| Binary {
            build_id: entry.build_id,
            path: entry.path.clone(),
            size: Some(entry.size),
        }),
        source: (kind == MergeKind::Ebuild).then(|| SourceFacts {
            candidates: builds.iter().map(|entry| candidate(entry, &cpv, slot)).collect(),
            ..SourceFacts::default()
        }),
        ..PlannedPackage::default()
    })
}

fn candidate(entry: &PackageStatus, planned: &Cpv, slot: &str) -> Candidate {
    let version =
        Cpv::parse(&entry.cpv).map(|cpv| (cpv.version().as_str().to_owned(), cpv.version() > planned.version()));
    let (version, newer) = version.unwrap_or_default();
    let (own_slot, sub_slot) = entry.slot.split_once('/').unwrap_or((&entry.slot, ""));
    Candidate {
        cpv: entry.cpv.clone(),
        version,
        newer,
        slot: own_slot.to_owned(),
        sub_slot: sub_slot.to_owned(),
        build_id: entry.build_id,
        path: entry.path.clone(),
        size: Some(entry.size),
        same_version: entry.cpv == planned.as_str(),
        same_slot: own_slot == slot,
        chost_ok: true,
        ..Candidate::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_emerge_are_packages() {
        let entry = |cpv: &str, build: u64| PackageStatus {
            cpv: cpv.to_owned(),
            build_id: Some(build),
            slot: "0".to_owned(),
            path: format!("{cpv}-{build}.gpkg.tar"),
            size: 7,
            state: PackageState::Shown,
            ..PackageStatus::default()
        };
        let packages = vec![entry("a/x-1.2", 3), entry("a/x-1.2", 4), entry("a/y-1", 1)];
        let offer = Offer { packages, ..Offer::default() };
        let text = "These are the packages that would be merged, in order:\n\n\
                    [binary   R    ] a/x-1.2-4::repo  USE=\"nls\" 0 KiB\n\
                    [ebuild  N     ] a/y-2:0/2::repo [1::repo] 1 KiB\n\
                    [ebuild  N     ] a/z-1-r1  1 KiB\n\
                    [uninstall     ] a/v-1\n[blocks b      ] a/w (\"a/w\" is soft blocking a/x-1)\n";
        let found = calculation(text, &offer);
        let names: Vec<(&str, MergeKind, &str)> =
            found.packages.iter().map(|planned| (planned.cpv.as_str(), planned.kind, planned.slot.as_str())).collect();
        assert_eq!(
            names,
            [
                ("a/x-1.2", MergeKind::Binary, "0"),
                ("a/y-2", MergeKind::Ebuild, "0"),
                ("a/z-1-r1", MergeKind::Ebuild, "0")
            ]
        );
        let [x, y, z] = &found.packages[..] else { panic!("{found:?}") };
        assert_eq!(x.binary.as_ref().map(|binary| binary.path.as_str()), Some("a/x-1.2-4.gpkg.tar"));
        let builds = |planned: &PlannedPackage| planned.source.as_ref().unwrap().candidates.len();
        assert_eq!((builds(y), builds(z), y.full_slot().as_str()), (1, 0, "0/2"));
        assert!(!y.source.as_ref().unwrap().candidates[0].same_version);
    }
}
