//! Package atoms, which select entries: `dev-libs/libfoo`, `>=app-editors/vim-9:0`,
//! `dev-*/*::gentoo`.
//!
//! The rules are Portage's (3.0.83, `dep/__init__.py`: `Atom`, `match_from_list`,
//! `extended_cp_match`). The extended syntax of Portage's configuration files is included: `*`
//! stands for any number of characters in a category or in a name, and `=cat/name-*text*` for any
//! version that has that text.
//!
//! Restrictions that cannot be checked against an entry are refused, not ignored: USE, blockers,
//! slot operators, BUILD_ID. A version without operator in extended syntax (`*/foo-1`) is refused
//! as well. Portage accepts it, but no package can match.

use std::fmt;
use std::str::FromStr;

use super::cpv::{is_name, is_word, split_version};
use super::{Cpv, Version};

/// The slot of a package without SLOT.
const DEFAULT_SLOT: &str = "0";
/// Portage's name for the repository of a package without one.
const UNKNOWN_REPOSITORY: &str = "__unknown__";
/// The characters besides word characters that names may have after the first character.
const CATEGORY: &[u8] = b"+.-";
const PACKAGE: &[u8] = b"+-";
const SLOT: &[u8] = b"+.-";
const REPOSITORY: &[u8] = b"-";

/// A parsed atom with its text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Atom {
    text: Box<str>,
    category: Box<str>,
    package: Box<str>,
    versions: Versions,
    slot: Option<SlotRestriction>,
    repository: Option<Box<str>>,
}

/// The versions that an atom matches.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Versions {
    All,
    /// `= >= > <= <`: versions that compare with this one in the given way.
    Compared(VersionOperator, Box<str>),
    /// `~`: this version with any revision.
    Revisions(Box<str>),
    /// `=…*`: versions that begin with this text, up to the end of a part.
    Beginning(Box<str>),
    /// `=…-*text*`: versions that contain this text.
    Containing(Box<str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum VersionOperator {
    Equal,
    AtLeast,
    Above,
    AtMost,
    Below,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SlotRestriction {
    slot: Box<str>,
    subslot: Option<Box<str>>,
}

/// The text cannot be used as an atom.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AtomError {
    /// The atom selects by USE flags, like `cat/name[flag]`.
    #[error("{0:?} asks for USE flags; entries cannot be selected by those: leave out [...]")]
    Use(String),
    /// The atom is a blocker, like `!cat/name`.
    #[error("{0:?} is a blocker, which selects nothing: leave out the `!`")]
    Blocker(String),
    /// The atom has a slot operator, like `cat/name:=`.
    #[error("{0:?} has a slot operator, which means something in dependencies only: name a slot (`:0`), or none")]
    SlotOperator(String),
    /// The atom has a BUILD_ID, like `=cat/name-1-3`.
    #[error("{0:?} names a BUILD_ID; entries cannot be selected by that: leave out the last number")]
    BuildId(String),
    /// The atom has a version without operator, like `cat/name-1`.
    #[error("{0:?} has a version and no operator: write for example \"={0}\"")]
    NoOperator(String),
    /// The atom has an operator without version, like `>=cat/name`.
    #[error("{0:?} has an operator and no version: leave out the operator, or add a version")]
    NoVersion(String),
    /// The atom has wildcards and a version, like `>=cat/*-1` or `cat/*-1`.
    #[error("{0:?} has wildcards in the name and a version: only \"=cat/name-*text*\" can have both")]
    WildcardVersion(String),
    /// The text is no atom for another reason.
    #[error("{0:?} is not a package atom, such as dev-libs/openssl, dev-qt/*, >=app-editors/vim-9:0 or */*::gentoo")]
    Invalid(String),
}

impl Atom {
    /// Whether the atom selects this package. `slot` is the entry's SLOT, with a subslot where it
    /// has one (`0/1.2`); `None` is Portage's default, 0. `repository` is the entry's repository.
    /// As in Portage, a package without one matches any atom.
    #[must_use]
    pub fn matches(&self, cpv: &Cpv, slot: Option<&str>, repository: Option<&str>) -> bool {
        let repository = repository.filter(|name| *name != UNKNOWN_REPOSITORY);
        matches_glob(&self.category, cpv.category())
            && matches_glob(&self.package, cpv.package())
            && self.versions.take(cpv.version())
            && self.slot.as_ref().is_none_or(|ours| ours.takes(slot.unwrap_or(DEFAULT_SLOT)))
            && self.repository.as_deref().is_none_or(|ours| repository.is_none_or(|theirs| theirs == ours))
    }
}

impl Atom {
    /// Whether this atom may be meant for `text`, an invalid CPV. The category and a beginning of
    /// the name must match the atom.
    #[must_use]
    pub fn may_match(&self, text: &str) -> bool {
        let Some((category, name)) = text.split_once('/') else { return false };
        let mut beginnings = name.match_indices('-').filter_map(|(at, _)| name.get(..at)).chain([name]);
        matches_glob(&self.category, category) && beginnings.any(|name| matches_glob(&self.package, name))
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Atom {
    type Err = AtomError;

    fn from_str(text: &str) -> Result<Self, AtomError> {
        parse(text).map_err(|fault| fault(text.chars().take(160).collect()))
    }
}

/// Makes the error from the text of the atom.
type AtomFault = fn(String) -> AtomError;

fn parse(text: &str) -> Result<Atom, AtomFault> {
    if text.starts_with('!') {
        return Err(AtomError::Blocker);
    }
    if text.contains('[') && text.ends_with(']') {
        return Err(AtomError::Use);
    }
    let (rest, repository) = text.split_once("::").map_or((text, None), |(rest, name)| (rest, Some(name)));
    if repository.is_some_and(|name| !is_name(name, REPOSITORY)) {
        return Err(AtomError::Invalid);
    }
    let (rest, slot) = rest.split_once(':').map_or((rest, None), |(rest, slot)| (rest, Some(slot)));
    let slot = slot.map(SlotRestriction::parse).transpose()?;
    let (category, package, versions) = parse_package(rest)?;
    let [category, package] = [category, package].map(Into::into);
    Ok(Atom { text: text.into(), category, package, versions, slot, repository: repository.map(Into::into) })
}

/// Parses category, name and versions; the caller has removed slot and repository.
fn parse_package(text: &str) -> Result<(&str, &str, Versions), AtomFault> {
    let name = text.trim_start_matches(['=', '>', '<', '~']);
    let operator = text.strip_suffix(name).unwrap_or_default();
    let (category, pf) = name.split_once('/').ok_or(AtomError::Invalid as AtomFault)?;
    if operator.is_empty() {
        return parse_unversioned(category, pf);
    }
    if operator == "="
        && let Some((package, text)) = pf.strip_suffix('*').and_then(|pf| pf.rsplit_once("-*"))
        && !text.is_empty()
        && text.bytes().all(is_word)
    {
        let (category, package) = patterns(category, package)?;
        return Ok((category, package, Versions::Containing(text.into())));
    }
    let (pf, beginning) = pf.strip_suffix('*').filter(|_| operator == "=").map_or((pf, false), |pf| (pf, true));
    if pf.contains('*') || category.contains('*') {
        return Err(if patterns(category, pf).is_ok() { AtomError::WildcardVersion } else { AtomError::Invalid });
    }
    let (package, version) = parse_pf(category, pf)?;
    let version = version.into();
    let versions = match operator {
        "=" if beginning => Versions::Beginning(version),
        "=" => Versions::Compared(VersionOperator::Equal, version),
        ">=" => Versions::Compared(VersionOperator::AtLeast, version),
        ">" => Versions::Compared(VersionOperator::Above, version),
        "<=" => Versions::Compared(VersionOperator::AtMost, version),
        "<" => Versions::Compared(VersionOperator::Below, version),
        "~" => Versions::Revisions(version),
        _ => return Err(AtomError::Invalid),
    };
    Ok((category, package, versions))
}

fn parse_unversioned<'a>(category: &'a str, pf: &'a str) -> Result<(&'a str, &'a str, Versions), AtomFault> {
    if let Some((name, _)) = split_version(pf) {
        let (category, name) = patterns(category, name)?;
        let wildcards = category.contains('*') || name.contains('*');
        return Err(if wildcards { AtomError::WildcardVersion } else { AtomError::NoOperator });
    }
    let (category, package) = patterns(category, pf)?;
    Ok((category, package, Versions::All))
}

/// Checks a category and a name that may have wildcards. Portage accepts a leading `+` in these
/// only.
fn patterns<'a>(category: &'a str, package: &'a str) -> Result<(&'a str, &'a str), AtomFault> {
    let is_pattern = |text: &str, more: &[u8]| {
        let first = |b: u8| is_word(b) || b == b'+' || b == b'*';
        text.bytes().next().is_some_and(first)
            && text.bytes().all(|b| first(b) || more.contains(&b))
            && !text.contains("**")
    };
    let good = is_pattern(category, CATEGORY) && is_pattern(package, PACKAGE);
    if good { Ok((category, package)) } else { Err(AtomError::Invalid) }
}

/// Splits name and version of an atom with an operator.
fn parse_pf<'a>(category: &str, pf: &'a str) -> Result<(&'a str, &'a str), AtomFault> {
    let is_cp = |package: &str| is_name(category, CATEGORY) && is_name(package, PACKAGE);
    let Some((package, version)) = split_version(pf) else {
        return Err(if is_cp(pf) { AtomError::NoVersion } else { AtomError::Invalid });
    };
    match split_version(package) {
        Some((shorter, _)) if is_cp(shorter) => Err(AtomError::BuildId),
        _ if is_cp(package) => Ok((package, version)),
        _ => Err(AtomError::Invalid),
    }
}

impl SlotRestriction {
    fn parse(text: &str) -> Result<Self, AtomFault> {
        let (slot, subslot) = text.split_once('/').map_or((text, None), |(slot, subslot)| (slot, Some(subslot)));
        if is_name(slot, SLOT) && subslot.is_none_or(|subslot| is_name(subslot, SLOT)) {
            return Ok(Self { slot: slot.into(), subslot: subslot.map(Into::into) });
        }
        Err(if text.ends_with(['=', '*']) { AtomError::SlotOperator } else { AtomError::Invalid })
    }

    /// Whether a package with SLOT `slot` matches. The subslot of a package defaults to its slot.
    fn takes(&self, slot: &str) -> bool {
        // Portage takes the default for an invalid SLOT.
        let theirs = Self::parse(slot).unwrap_or(Self { slot: DEFAULT_SLOT.into(), subslot: None });
        let subslot = theirs.subslot.as_ref().unwrap_or(&theirs.slot);
        self.slot == theirs.slot && self.subslot.as_ref().is_none_or(|ours| ours == subslot)
    }
}

impl Versions {
    fn take(&self, version: Version<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Compared(comparison, ours) => {
                let order = version.cmp(&Version::of_valid(ours));
                match comparison {
                    VersionOperator::Equal => order.is_eq(),
                    VersionOperator::AtLeast => order.is_ge(),
                    VersionOperator::Above => order.is_gt(),
                    VersionOperator::AtMost => order.is_le(),
                    VersionOperator::Below => order.is_lt(),
                }
            }
            Self::Revisions(ours) => version.base() == Version::of_valid(ours).base(),
            Self::Beginning(ours) => begins(version.as_str(), ours),
            Self::Containing(text) => version.as_str().contains(&**text),
        }
    }
}

/// `1.2*` matches 1.2, 1.2.3, 1.2-r1 and 1.2b, but not 1.20. Leading zeros do not count.
fn begins(version: &str, beginning: &str) -> bool {
    let without_zeros = |text: &str| {
        let rest = text.trim_start_matches('0');
        let zero = if rest.starts_with(|c: char| c.is_ascii_digit()) { "" } else { "0" };
        format!("{zero}{rest}")
    };
    let (version, beginning) = (without_zeros(version), without_zeros(beginning));
    let is_digit = |c: char| c.is_ascii_digit();
    version.strip_prefix(&beginning).is_some_and(|rest| {
        rest.is_empty()
            || rest.starts_with(['.', '_', '-'])
            || beginning.ends_with(is_digit) != rest.starts_with(is_digit)
    })
}

/// Matches a text against a pattern, in which `*` stands for any characters. Neither has a `/`.
fn matches_glob(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(head) else { return false };
    let Some((middle, tail)) = rest.rsplit_once('*') else { return text.ends_with(rest) };
    let Some(mut text) = text.strip_suffix(tail) else { return false };
    // The leftmost match is enough, because the rest of the pattern may match anywhere after it.
    middle.split('*').all(|part| match text.split_once(part) {
        Some((_, after)) => {
            text = after;
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn atom(text: &str) -> Atom {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn what_is_selected() {
        for (text, cpv, slot, repository, expected) in [
            ("app-misc/hello", "app-misc/hello-1", None, None, true),
            ("app-misc/hello", "app-misc/hello-world-1", None, None, false),
            ("app-misc/*", "app-misc/hello-1", None, None, true),
            ("*/hello", "app-misc/hello-1", None, None, true),
            ("*/*", "app-misc/hello-1", None, None, true),
            ("dev-*/foo*", "dev-libs/foobar-1", None, None, true),
            ("dev-*/foo*", "dev-libs/barfoo-1", None, None, false),
            ("*-l*s/*o*o*", "dev-libs/foobaro-1", None, None, true),
            ("*/o*o", "dev-libs/o-1", None, None, false),
            ("=app-misc/hello-1.0", "app-misc/hello-1.00", None, None, true),
            ("=app-misc/hello-1.2*", "app-misc/hello-1.2.3-r1", None, None, true),
            ("=app-misc/hello-1.2*", "app-misc/hello-1.20", None, None, false),
            ("~app-misc/hello-1.2", "app-misc/hello-1.2-r5", None, None, true),
            (">=app-misc/hello-2", "app-misc/hello-10", None, None, true),
            ("<app-misc/hello-2", "app-misc/hello-2_rc1", None, None, true),
            ("=*/*-*9999*", "app-misc/hello-99999", None, None, true),
            ("app-misc/hello:0", "app-misc/hello-1", None, None, true),
            ("app-misc/hello:0", "app-misc/hello-1", Some("0/1.2"), None, true),
            ("app-misc/hello:0/1.2", "app-misc/hello-1", Some("0/1.2"), None, true),
            ("app-misc/hello:0/1.2", "app-misc/hello-1", Some("0"), None, false),
            ("app-misc/hello:3/3", "app-misc/hello-1", Some("3"), None, true),
            ("*/*::gentoo", "app-misc/hello-1", None, Some("gentoo"), true),
            ("*/*::gentoo", "app-misc/hello-1", None, Some("guru"), false),
            ("*/*:0::gentoo", "app-misc/hello-1", None, None, true),
        ] {
            let found = atom(text).matches(&Cpv::parse(cpv).unwrap(), slot, repository);
            assert_eq!(found, expected, "{text} {cpv} {slot:?} {repository:?}");
            assert_eq!(atom(text).to_string(), text);
        }
    }

    #[test]
    fn what_may_be_meant() {
        for (text, atoms) in [
            ("app-misc/hello", ["app-misc/hello", "*/hello", "=app-misc/hello-2"]),
            ("app-misc/hello-2.0_x", ["app-misc/hello", "app-*/*", "*/hel*"]),
        ] {
            assert!(atoms.iter().all(|text_of| atom(text_of).may_match(text)), "{text}");
        }
        for text in ["app-misc/hello-world-", "hello", "dev-libs/hello-1", ""] {
            assert!(!atom("app-misc/hell").may_match(text), "{text}");
        }
    }

    #[test]
    fn what_is_refused_says_why() {
        for (text, word) in [
            ("app-misc/hello[nls]", "USE"),
            ("!app-misc/hello", "blocker"),
            ("!!<app-misc/hello-1", "blocker"),
            ("app-misc/hello:=", "slot operator"),
            ("app-misc/hello:*", "slot operator"),
            ("app-misc/hello:0/1=", "slot operator"),
            ("=app-misc/hello-1.2-3", "BUILD_ID"),
            ("app-misc/hello-1.2", "\"=app-misc/hello-1.2\""),
            (">=app-misc/hello", "no version"),
            (">=app-misc/*-1", "wildcards"),
            ("*/hello-1", "wildcards"),
            ("hello", "not a package atom"),
            ("", "not a package atom"),
            ("app-misc/**", "not a package atom"),
            ("app-misc/hello:", "not a package atom"),
            ("app-misc/hello::", "not a package atom"),
            ("=>app-misc/hello-1", "not a package atom"),
            ("app-misc/hello world", "not a package atom"),
        ] {
            let error = text.parse::<Atom>().unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
