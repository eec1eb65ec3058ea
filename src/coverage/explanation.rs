//! The main cause of one package in words.

use super::calculation::{Candidate, PlannedPackage};
use super::causes::{Analysis, JudgedBuild};
use crate::api::Cause;

/// Explains the main cause to people, in one line.
pub(crate) fn explain(analysis: &Analysis<'_>) -> String {
    let Analysis { planned, main, nearest, hidden, .. } = analysis;
    let text = match (main, nearest) {
        (Cause::Hidden | Cause::CpuLevel, _) => {
            let reason = hidden.and_then(|entry| entry.reason.clone());
            reason.unwrap_or_else(|| "binhostfs hides a build that emerge would take".to_owned())
        }
        (Cause::Absent, _) => absent(planned),
        (Cause::Version, Some(build)) => version(build.candidate),
        (Cause::Slot, Some(build)) => {
            format!("built for slot {}, planned is {}", build.candidate.full_slot(), planned.full_slot())
        }
        (Cause::Chost, Some(build)) => format!("built for {}", build.candidate.chost),
        (Cause::Keywords, Some(build)) => keywords(build.candidate),
        (Cause::License, Some(build)) => {
            format!("{} is not accepted", listed(&build.candidate.missing_licenses, "its licence"))
        }
        (Cause::Excluded, build) => excluded(planned, build.as_ref()),
        (Cause::UserPatches, _) => "the user patches of this machine are not those of the build".to_owned(),
        (Cause::Use, Some(build)) => flags(planned, build),
        (Cause::Deps, build) => dependencies(build.as_ref()),
        _ => "Portage passes over it for a reason that it does not name".to_owned(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn absent(planned: &PlannedPackage) -> String {
    let facts = planned.source.as_ref();
    if facts.is_some_and(|facts| facts.bindist) {
        "RESTRICT=bindist: no binhost may distribute it".to_owned()
    } else if facts.is_some_and(|facts| facts.live) {
        "a live ebuild, and no index has it".to_owned()
    } else {
        "no index has it".to_owned()
    }
}

fn version(nearest: &Candidate) -> String {
    let side = if nearest.newer { "ahead of" } else { "behind" };
    let slot = if nearest.same_slot { String::new() } else { format!(" in slot {}", nearest.full_slot()) };
    format!("the binhost has {}{slot}: it is {side} the ebuild repository", nearest.version)
}

fn keywords(nearest: &Candidate) -> String {
    format!("{} is not accepted", listed(&nearest.missing_keywords, "its keyword"))
}

fn excluded(planned: &PlannedPackage, nearest: Option<&JudgedBuild<'_>>) -> String {
    let by = planned.source.as_ref().and_then(|facts| facts.excluded.clone());
    let masks = || nearest.map(|build| build.candidate.masks.join(", ")).filter(|masks| !masks.is_empty());
    format!("excluded by {}", by.or_else(masks).unwrap_or_else(|| "Portage's configuration".to_owned()))
}

fn dependencies(nearest: Option<&JudgedBuild<'_>>) -> String {
    let dropped = nearest.map(|build| build.candidate.dropped.join(", ")).filter(|dropped| !dropped.is_empty());
    match dropped {
        Some(why) => format!("emerge cannot fit its dependencies in: {why}"),
        None => "the ebuild's dependencies have changed since the build".to_owned(),
    }
}

/// The flags that differ, and why package.use cannot change some of them.
fn flags(planned: &PlannedPackage, nearest: &JudgedBuild<'_>) -> String {
    let Candidate { use_differs, build_id, .. } = nearest.candidate;
    let build = build_id.map(|build| format!(" (build {build})")).unwrap_or_default();
    let text = format!("the nearest build has {}{build}", listed(use_differs, "other flags"));
    if nearest.immutable.is_empty() {
        return text;
    }
    let has = |flags: &[String], name: &str| flags.iter().any(|flag| flag == name);
    let why = |name: &&str| {
        let why = if has(&planned.masked, name) || has(&planned.forced, name) {
            "the profile fixes it"
        } else if has(&planned.fixed, name) {
            "your configuration sets it"
        } else {
            "the ebuild does not have it"
        };
        format!("{name}: {why}")
    };
    format!("{text}; {}", nearest.immutable.iter().map(why).collect::<Vec<_>>().join(", "))
}

fn listed(words: &[String], otherwise: &str) -> String {
    if words.is_empty() { otherwise.to_owned() } else { words.join(" ") }
}
