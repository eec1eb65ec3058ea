//! Suggests lines with which emerge takes a binary package.

use serde::Serialize;

use super::calculation::Candidate;
use super::causes::{Analysis, JudgedBuild};
use super::nearest::package_use;
use crate::api::{Cause, HiddenReason};
use crate::portage::Version;

/// One line to write, or one thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Suggestion {
    /// The file below /etc/portage. `None`: `line` is a command, or an option of emerge.
    pub(crate) file: Option<&'static str>,
    pub(crate) line: String,
    /// Why, in words.
    pub(crate) reason: String,
}

/// A mask of versions newer than that of a binary package, and what else that package needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VersionHold {
    /// The line for package.mask.
    pub(crate) mask: String,
    /// The line for package.use, if the build needs one.
    pub(crate) package_use: Option<String>,
}

/// The suggestion for a package. `None`: nothing that the administrator writes would help.
pub(crate) fn suggest(analysis: &Analysis<'_>) -> Option<Suggestion> {
    let Analysis { planned, main, nearest, hidden, .. } = analysis;
    let cpv = &planned.cpv;
    let file = |file, line, reason: String| Some(Suggestion { file: Some(file), line, reason });
    let advice =
        |line: &str, reason: &str| Some(Suggestion { file: None, line: line.to_owned(), reason: reason.to_owned() });
    match (main, nearest) {
        (Cause::Use, Some(build)) => package_use_line(build).and_then(|line| {
            file("package.use", line, format!("the nearest build has {}", build.candidate.use_differs.join(" ")))
        }),
        (Cause::Keywords, Some(build)) if !build.candidate.missing_keywords.is_empty() => {
            let words = build.candidate.missing_keywords.join(" ");
            file("package.accept_keywords", format!("={cpv} {words}"), format!("the binhost's build has {words} only"))
        }
        (Cause::License, Some(build)) if !build.candidate.missing_licenses.is_empty() => {
            let words = build.candidate.missing_licenses.join(" ");
            file("package.license", format!("={cpv} {words}"), "read the licence before you accept it".to_owned())
        }
        (Cause::Version, Some(build)) => match hold(analysis) {
            Some(VersionHold { mask, .. }) => {
                file("package.mask", mask, format!("the binhost has {} only; --hold does it", build.candidate.version))
            }
            None if build.candidate.newer => ahead(build.candidate),
            None => None,
        },
        (Cause::Excluded, _) => {
            let by = planned.source.as_ref().and_then(|facts| facts.excluded.clone())?;
            advice(&format!("leave out {by}"), "it excludes the package from binary packages")
        }
        (Cause::UserPatches, _) => {
            advice("--binpkg-respect-user-patches=n", "emerge then takes the build without your patches")
        }
        (Cause::Deps, Some(build)) if build.candidate.changed_deps == Some(true) => {
            advice("--binpkg-changed-deps=n", "emerge then takes the build with its older dependencies")
        }
        (Cause::Hidden, _) => match hidden.and_then(|entry| entry.hidden)? {
            HiddenReason::Refused | HiddenReason::Mismatch | HiddenReason::Disputed => {
                advice("binhostfs refresh", "asks the binhost again; tell its operator if that does not help")
            }
            HiddenReason::Offline => advice("binhostfs refresh", "when the binhost can be reached again"),
            HiddenReason::Filtered => {
                advice("change include or exclude in /etc/binhostfs.toml", "they do not select the package")
            }
            HiddenReason::UnsignedFormat => {
                advice("ask the operator of the binhost for GPKG packages", "XPAK packages cannot be signed")
            }
            _ => None,
        },
        _ => None,
    }
}

/// The suggestion for a build whose version is newer than the planned one.
fn ahead(build: &Candidate) -> Option<Suggestion> {
    let Candidate { cpv, ebuild, ebuild_masks, .. } = build;
    match (ebuild.as_str(), &ebuild_masks[..]) {
        ("masked", [only]) if only.contains("keyword") && !build.missing_keywords.is_empty() => {
            let words = build.missing_keywords.join(" ");
            let reason = format!("the binhost has {} with {words} only", build.version);
            Some(Suggestion { file: Some("package.accept_keywords"), line: format!("={cpv} {words}"), reason })
        }
        ("absent", _) => Some(Suggestion {
            file: None,
            line: "emerge --sync".to_owned(),
            reason: "the binhost is ahead of the ebuild repository".to_owned(),
        }),
        _ => None,
    }
}

/// The line for package.use with which emerge takes a build of the planned version.
pub(crate) fn package_use_line(build: &JudgedBuild<'_>) -> Option<String> {
    let Candidate { cpv, use_differs, .. } = build.candidate;
    package_use(cpv, use_differs).filter(|_| build.needs_only_use())
}

/// The mask with which emerge stays at the version of the nearest binary package. `None` where the
/// package would still not be taken, where a newer version is installed, or where a security
/// advisory asks for a newer one.
pub(crate) fn hold(analysis: &Analysis<'_>) -> Option<VersionHold> {
    let Analysis { planned, main, nearest: Some(build), .. } = analysis else { return None };
    let candidate = build.candidate;
    let is_vulnerable = candidate.vulnerable.as_ref().is_some_and(|advisories| !advisories.is_empty());
    let is_free = build.causes.is_empty() || build.needs_only_use();
    if *main != Cause::Version || !is_free || candidate.newer || is_vulnerable {
        return None;
    }
    let held = Version::parse(&candidate.version)?;
    if planned.installed.as_deref().and_then(Version::parse).is_some_and(|installed| installed > held) {
        return None;
    }
    let mask = format!(">{}-{}:{}", planned.cp, candidate.version, planned.slot);
    Some(VersionHold { mask, package_use: package_use(&candidate.cpv, &candidate.use_differs) })
}
