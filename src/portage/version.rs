//! Versions and their order: `1.2.3b_alpha4_p5-r6`.
//!
//! The rules are Portage's (`versions.py`, `vercmp`), i.e. those of the Package Manager
//! Specification. Numbers after a dot compare as fractions where one of them starts with 0. `1.0`
//! is older than `1.0.0`, and a version with `_p` is newer than the same one without.

use std::cmp::Ordering;

/// A valid version with its revision. Versions that Portage takes for the same are equal, also
/// where their texts differ (`1.0` and `1.00`, `1` and `1-r0`).
#[derive(Debug, Clone, Copy)]
pub struct Version<'a>(&'a str);

/// A version, split into its parts.
struct Parts<'a> {
    /// The numbers, separated by dots.
    numbers: &'a str,
    letter: Option<char>,
    /// The suffixes, separated by `_`.
    suffixes: Option<&'a str>,
    revision: &'a str,
}

impl<'a> Version<'a> {
    /// Parses a version with its revision. `None`: the text is not a version.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        Parts::of(text).is_valid().then_some(Self(text))
    }

    /// Takes a text that is known to be a valid version.
    pub(crate) fn of_valid(text: &'a str) -> Self {
        Self(text)
    }

    #[must_use]
    pub fn as_str(&self) -> &'a str {
        self.0
    }

    /// The text without the revision.
    pub(crate) fn base(&self) -> &'a str {
        self.0.split_once('-').map_or(self.0, |(base, _)| base)
    }
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Self {
        let (base, revision) = text.split_once("-r").unwrap_or((text, "0"));
        let (numbers, suffixes) = base.split_once('_').map_or((base, None), |(n, s)| (n, Some(s)));
        let letter = numbers.chars().next_back().filter(char::is_ascii_lowercase);
        let numbers = letter.and_then(|letter| numbers.strip_suffix(letter)).unwrap_or(numbers);
        Self { numbers, letter, suffixes, revision }
    }

    fn is_valid(&self) -> bool {
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let is_suffix = |part: &str| suffix(part).is_some();
        self.numbers.split('.').all(is_number)
            && self.suffixes.is_none_or(|suffixes| suffixes.split('_').all(is_suffix))
            && is_number(self.revision)
    }

    fn suffixes(&self) -> impl Iterator<Item = Suffix<'a>> {
        self.suffixes.into_iter().flat_map(|text| text.split('_')).filter_map(suffix)
    }
}

/// The sort key of a suffix: its kind, then its number; `None` where there is no suffix at all.
type Suffix<'a> = (i8, Option<&'a str>);

/// The key of a missing suffix, which sorts between `_rc` and `_p`.
const NO_SUFFIX: Suffix<'static> = (0, None);

fn suffix(text: &str) -> Option<Suffix<'_>> {
    let kind = text.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = text.get(kind.len()..);
    let order = match kind {
        "alpha" => -4,
        "beta" => -3,
        "pre" => -2,
        "rc" => -1,
        "p" => 0,
        _ => return None,
    };
    Some((order, number))
}

impl Ord for Version<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let (ours, theirs) = (Parts::of(self.0), Parts::of(other.0));
        numbers(ours.numbers, theirs.numbers)
            .then(ours.letter.cmp(&theirs.letter))
            .then_with(|| suffixes(ours.suffixes(), theirs.suffixes()))
            .then_with(|| integers(ours.revision, theirs.revision))
    }
}

impl PartialOrd for Version<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version<'_> {}

/// Compares decimal integers of any length; an empty text counts as 0.
fn integers(ours: &str, theirs: &str) -> Ordering {
    let [ours, theirs] = [ours, theirs].map(|digits| digits.trim_start_matches('0'));
    ours.len().cmp(&theirs.len()).then_with(|| ours.cmp(theirs))
}

fn numbers(ours: &str, theirs: &str) -> Ordering {
    let (mut ours, mut theirs) = (ours.split('.'), theirs.split('.'));
    let first = integers(ours.next().unwrap_or_default(), theirs.next().unwrap_or_default());
    first.then_with(|| compare(ours, theirs, component))
}

/// Compares two numbers that follow a dot.
fn component(ours: &str, theirs: &str) -> Ordering {
    if ours.starts_with('0') || theirs.starts_with('0') {
        ours.trim_end_matches('0').cmp(theirs.trim_end_matches('0'))
    } else {
        integers(ours, theirs)
    }
}

/// Compares item by item; a longer sequence is greater.
fn compare<T>(
    mut ours: impl Iterator<Item = T>,
    mut theirs: impl Iterator<Item = T>,
    by: impl Fn(T, T) -> Ordering,
) -> Ordering {
    loop {
        let order = match (ours.next(), theirs.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(ours), Some(theirs)) => by(ours, theirs),
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// Compares item by item; [`NO_SUFFIX`] stands for the missing items of the shorter sequence.
fn suffixes<'a>(mut ours: impl Iterator<Item = Suffix<'a>>, mut theirs: impl Iterator<Item = Suffix<'a>>) -> Ordering {
    loop {
        let (ours, theirs) = match (ours.next(), theirs.next()) {
            (None, None) => return Ordering::Equal,
            (ours, theirs) => (ours.unwrap_or(NO_SUFFIX), theirs.unwrap_or(NO_SUFFIX)),
        };
        let numbers = || match (ours.1, theirs.1) {
            (Some(ours), Some(theirs)) => integers(ours, theirs),
            (ours, theirs) => ours.is_some().cmp(&theirs.is_some()),
        };
        let order = ours.0.cmp(&theirs.0).then_with(numbers);
        if order.is_ne() {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_in_their_order() {
        let ordered = [
            "0",
            "1_alpha",
            "1_alpha1",
            "1_beta",
            "1_pre2",
            "1_rc3",
            "1_rc3_p1",
            "1",
            "1-r1",
            "1-r10",
            "1_p",
            "1_p1",
            "1b",
            "1.0",
            "1.0.0",
            "1.01",
            "1.02",
            "1.1",
            "1.1b",
            "1.1.1",
            "1.2",
            "1.10",
            "2",
            "10",
            "20250101000000000000000000",
        ];
        for (at, older) in ordered.iter().enumerate() {
            for newer in &ordered[at + 1..] {
                let [older, newer] = [older, newer].map(|text| Version::parse(text).unwrap());
                assert!(older.cmp(&newer).is_lt() && newer.cmp(&older).is_gt(), "{older:?} {newer:?}");
            }
        }
        for (one, same) in [("1.0", "1.00"), ("1", "01"), ("1", "1-r0"), ("1_p", "1_p0"), ("1.010", "1.01")] {
            assert_eq!(Version::parse(one), Version::parse(same));
        }
    }

    const VERSION: &str = "[01]?[0-2](\\.[0-2]{1,3}){0,2}[ab]?(_(alpha|beta|pre|rc|p)[0-2]{0,2}){0,2}(-r[0-2]{1,2})?";

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_order_is_total(a in VERSION, b in VERSION, c in VERSION) {
            let mut three = [&a, &b, &c].map(|text| Version::parse(text).unwrap());
            for version in three {
                prop_assert_eq!(version.cmp(&version), Ordering::Equal);
                for other in three {
                    prop_assert_eq!(version.cmp(&other), other.cmp(&version).reverse());
                }
            }
            three.sort();
            prop_assert!(three[0] <= three[2]);
            if three[0] == three[1] {
                prop_assert_eq!(three[0].cmp(&three[2]), three[1].cmp(&three[2]));
            }
        }
    }
}
