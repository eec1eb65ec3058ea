//! The settings of a system for packages: USE, KEYWORDS, LICENSE and CHOST. All but CHOST have
//! settings for all packages and for some.
//!
//! Source: portage 3.0.83, `package/ebuild/config.py` (`regenerate`, `_accept_chost`),
//! `_config/KeywordsManager.py` and `_config/LicenseManager.py`.

use std::collections::BTreeSet;

use super::{Atom, BinaryPackage};

/// The deepest nesting of brackets that is evaluated in a LICENSE.
const MAX_DEPTH: usize = 64;
/// ACCEPT_LICENSE where no file sets it.
const DEFAULT_LICENSES: [&str; 2] = ["*", "-@EULA"];

/// An incremental variable, and the file that adds to it package by package (`package.use` to USE).
/// `-word` removes a word, `-*` all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct IncrementalVariable {
    /// The words for all packages.
    pub all: Vec<String>,
    /// The words for packages that an atom matches; the more particular atoms come later.
    pub some: Vec<(Atom, Vec<String>)>,
}

/// The settings of one system for packages.
#[derive(Debug, Clone, Default)]
pub(crate) struct PackageSettings {
    /// The accepted CHOSTs; an empty list accepts any.
    pub chosts: Vec<String>,
    /// The words of ACCEPT_KEYWORDS and package.accept_keywords.
    pub keywords: IncrementalVariable,
    /// ACCEPT_LICENSE and package.license, with groups replaced by their licenses.
    pub licenses: IncrementalVariable,
    /// USE and package.use; later layers take precedence.
    pub flags: Vec<IncrementalVariable>,
    /// The flags of use.force and package.use.force.
    pub forced: Vec<IncrementalVariable>,
    /// The flags of use.mask and package.use.mask.
    pub masked: Vec<IncrementalVariable>,
}

impl IncrementalVariable {
    /// The words that are added for `package`, the most particular last.
    fn some<'a>(&'a self, package: &'a BinaryPackage<'_>) -> impl Iterator<Item = &'a [String]> {
        self.some.iter().filter(|(atom, _)| package.matches(atom)).map(|(_, words)| words.as_slice())
    }
}

/// Adds `words` to a set, and removes those that a `-word` removes.
fn stack<'a>(set: &mut BTreeSet<&'a str>, words: impl IntoIterator<Item = &'a str>) {
    for word in words {
        match word.strip_prefix('-') {
            Some("*") => set.clear(),
            Some(name) => match name.strip_suffix('*').filter(|prefix| prefix.ends_with('_')) {
                Some(prefix) => set.retain(|other| !other.starts_with(prefix)),
                None => drop(set.remove(name)),
            },
            None => drop(set.insert(word)),
        }
    }
}

fn stacked<'a>(layers: &'a [IncrementalVariable], package: &'a BinaryPackage<'_>) -> BTreeSet<&'a str> {
    let mut set = BTreeSet::new();
    for layer in layers {
        stack(&mut set, layer.all.iter().map(String::as_str));
        layer.some(package).for_each(|words| stack(&mut set, words.iter().map(String::as_str)));
    }
    set
}

/// The difference between the flags of a build and this system's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FlagDifference {
    /// The flags that differ, as the build has them: `nls`, `-doc`.
    pub flags: Vec<String>,
    /// Whether one of them is forced or masked, so that package.use cannot change it.
    pub is_fixed: bool,
}

impl PackageSettings {
    /// KEYWORDS of `package` if this system accepts none of them.
    pub(super) fn missing_keywords(&self, package: &BinaryPackage<'_>) -> Option<String> {
        let testing: Vec<String> = self
            .keywords
            .all
            .iter()
            .filter(|word| !word.starts_with(['~', '-']))
            .map(|word| format!("~{word}"))
            .collect();
        let mut accepted = BTreeSet::new();
        stack(&mut accepted, self.keywords.all.iter().map(String::as_str));
        for words in self.keywords.some(package) {
            // A line without a keyword means the testing keywords.
            let words = if words.is_empty() { &testing } else { words };
            stack(&mut accepted, words.iter().map(String::as_str));
        }
        let given = package.value("KEYWORDS");
        let takes = |word: &str| {
            let wildcard = if word.starts_with('~') { "~*" } else { "*" };
            accepted.contains(word)
                || word == "*"
                || word == "~*" && accepted.iter().any(|word| word.starts_with('~'))
                || !word.starts_with('-') && accepted.contains(wildcard)
        };
        let is_accepted = accepted.contains("**") || given.split_whitespace().any(takes);
        (!is_accepted).then(|| given.to_owned())
    }

    /// The licenses of `package` that this system does not accept.
    pub(super) fn missing_licenses(&self, package: &BinaryPackage<'_>) -> Vec<String> {
        let of_all: Vec<&str> = match self.licenses.all.is_empty() {
            true => DEFAULT_LICENSES.to_vec(),
            false => self.licenses.all.iter().map(String::as_str).collect(),
        };
        let of_some = self.licenses.some(package).flatten().map(String::as_str);
        let words: Vec<&str> = of_all.into_iter().chain(of_some).collect();
        let accepts = |license: &str| {
            words.iter().fold(false, |accepted, word| match word.strip_prefix('-') {
                Some(other) => accepted && other != "*" && other != license,
                None => accepted || *word == "*" || *word == license,
            })
        };
        let enabled = package.value("USE").split_whitespace().collect();
        let mut tokens = package.value("LICENSE").split_whitespace();
        let mut missing = Licenses { enabled, accepts: &accepts }.missing(&mut tokens, LicenseMode::All, MAX_DEPTH);
        missing.sort();
        missing.dedup();
        missing
    }

    /// Whether packages for this CHOST are accepted; `None` where ACCEPT_CHOSTS cannot be
    /// evaluated.
    pub(super) fn takes_chost(&self, chost: &str) -> Option<bool> {
        // Other texts are regular expressions, which rarely look like plain names.
        let is_plain = |text: &String| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if self.chosts.is_empty() || chost.is_empty() {
            return Some(true);
        }
        self.chosts.iter().all(is_plain).then(|| self.chosts.iter().any(|accepted| accepted == chost))
    }

    /// How the flags of the build differ from this system's.
    #[must_use]
    pub(crate) fn difference(&self, package: &BinaryPackage<'_>) -> FlagDifference {
        let built: BTreeSet<&str> = package.value("USE").split_whitespace().collect();
        let mut wanted = BTreeSet::new();
        let defaults = package.value("IUSE").split_whitespace();
        stack(&mut wanted, defaults.clone().filter_map(|flag| flag.strip_prefix('+')));
        for layer in &self.flags {
            stack(&mut wanted, layer.all.iter().map(String::as_str));
            layer.some(package).for_each(|words| stack(&mut wanted, words.iter().map(String::as_str)));
        }
        let [forced, masked] = [&self.forced, &self.masked].map(|layers| stacked(layers, package));
        let (mut flags, mut is_fixed) = (Vec::new(), false);
        for flag in defaults.map(|flag| flag.trim_start_matches(['+', '-'])) {
            let is_wanted = !masked.contains(flag) && (forced.contains(flag) || wanted.contains(flag));
            if is_wanted != built.contains(flag) {
                is_fixed |= forced.contains(flag) || masked.contains(flag);
                flags.push(if is_wanted { format!("-{flag}") } else { flag.to_owned() });
            }
        }
        FlagDifference { flags, is_fixed }
    }
}

/// The number of licenses of a group that must be accepted.
#[derive(Clone, Copy, PartialEq)]
enum LicenseMode {
    All,
    Any,
    /// No license: the group belongs to a USE flag that is off.
    None,
}

struct Licenses<'a> {
    enabled: BTreeSet<&'a str>,
    accepts: &'a dyn Fn(&str) -> bool,
}

impl Licenses<'_> {
    /// The licenses that are not accepted, up to the bracket that ends the group.
    fn missing<'t>(&self, tokens: &mut impl Iterator<Item = &'t str>, group: LicenseMode, depth: usize) -> Vec<String> {
        let (mut missing, mut accepted, mut next) = (Vec::new(), false, LicenseMode::All);
        while let Some(token) = tokens.next() {
            let of_one = match (token, token.strip_suffix('?')) {
                (")", _) => break,
                ("(", _) if depth == 0 => return Vec::new(),
                ("(", _) => {
                    let group = std::mem::replace(&mut next, LicenseMode::All);
                    let of_group = self.missing(tokens, group, depth - 1);
                    if group == LicenseMode::None {
                        continue;
                    }
                    of_group
                }
                ("||", _) => {
                    next = LicenseMode::Any;
                    continue;
                }
                (_, Some(flag)) => {
                    let is_on = flag
                        .strip_prefix('!')
                        .map_or_else(|| self.enabled.contains(flag), |off| !self.enabled.contains(off));
                    next = if is_on { LicenseMode::All } else { LicenseMode::None };
                    continue;
                }
                (license, None) if (self.accepts)(license) => Vec::new(),
                (license, None) => vec![license.to_owned()],
            };
            accepted |= of_one.is_empty();
            missing.extend(of_one);
        }
        match group {
            LicenseMode::All => missing,
            LicenseMode::Any if !accepted => missing,
            LicenseMode::Any | LicenseMode::None => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::portage::{Cpv, KeyValues};

    #[derive(Debug)]
    struct Pairs<'a>(&'a [(&'a str, &'a str)]);

    impl KeyValues for Pairs<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            self.0.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
        }

        fn repository(&self) -> Option<&str> {
            self.get("repository")
        }
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn layer(all: &str, some: &[(&str, &str)]) -> IncrementalVariable {
        let some = some.iter().map(|(atom, text)| (atom.parse().unwrap(), words(text))).collect();
        IncrementalVariable { all: words(all), some }
    }

    fn with<T>(pairs: &[(&str, &str)], act: impl FnOnce(&BinaryPackage<'_>) -> T) -> T {
        act(&BinaryPackage { cpv: &Cpv::parse("a/b-1").unwrap(), stanza: &Pairs(pairs), header: &Pairs(&[]) })
    }

    #[test]
    fn keywords_are_accepted_as_portage_accepts_them() {
        for (all, some, keywords, accepted) in [
            ("amd64", "", "amd64 ~arm64", true),
            ("amd64", "", "~amd64", false),
            ("amd64 ~amd64", "", "~amd64", true),
            ("amd64", "a/b", "~amd64", true),
            ("amd64", "a/b ~arm64", "~arm64", true),
            ("amd64", "a/b **", "", true),
            ("amd64", "", "", false),
            ("amd64 -amd64", "", "amd64", false),
            ("amd64", "a/b ~*", "~riscv", true),
            ("amd64", "a/b *", "riscv", true),
            ("amd64", "a/c", "~amd64", false),
            ("amd64", "", "*", true),
            ("amd64", "", "~*", false),
            ("amd64", "", "-*", false),
        ] {
            let (atom, more) = some.split_once(' ').unwrap_or((some, ""));
            let some: Vec<_> = Some((atom, more)).filter(|(atom, _)| !atom.is_empty()).into_iter().collect();
            let settings = PackageSettings { keywords: layer(all, &some), ..PackageSettings::default() };
            let missing = with(&[("KEYWORDS", keywords)], |package| settings.missing_keywords(package));
            assert_eq!(missing.is_none(), accepted, "{all} | {some:?} | {keywords}");
        }
    }

    #[test]
    fn licenses_that_are_missing() {
        for (all, license, missing) in [
            ("", "GPL-2 X", ""),
            ("-* GPL-2", "GPL-2", ""),
            ("-* GPL-2", "GPL-2 X", "X"),
            ("* -X", "|| ( X GPL-2 )", ""),
            ("-* GPL-2", "|| ( X Y ) GPL-2", "X Y"),
            ("-* GPL-2", "on? ( X ) off? ( Y ) !off? ( Z )", "X Z"),
            ("-* GPL-2", "|| ( ( X GPL-2 ) Y )", "X Y"),
            ("-* Z", "|| ( ( X GPL-2 ) ( Z ) )", ""),
            ("-* Z", "|| ( off? ( Z ) X )", "X"),
            ("-*", "((( (", "((("),
        ] {
            let settings = PackageSettings { licenses: layer(all, &[]), ..PackageSettings::default() };
            let found = with(&[("LICENSE", license), ("USE", "on")], |package| settings.missing_licenses(package));
            assert_eq!(found, words(missing), "{all} | {license}");
        }
        let deep = "( ".repeat(100_000);
        assert!(with(&[("LICENSE", &deep)], |package| PackageSettings::default().missing_licenses(package)).is_empty());
    }

    #[test]
    fn flags_that_differ_as_the_build_has_them() {
        let mut settings = PackageSettings {
            flags: vec![
                layer("nls py_a py_b", &[("a/*", "doc")]),
                layer("-doc -py_* py_c", &[("a/b", "test"), ("a/c", "x")]),
            ],
            ..PackageSettings::default()
        };
        let of = |settings: &PackageSettings| {
            let pairs = [("IUSE", "+on -off nls doc test py_a py_c x"), ("USE", "amd64 doc py_a x")];
            with(&pairs, |package| settings.difference(package))
        };
        let expected = ["-on", "-nls", "doc", "-test", "py_a", "-py_c", "x"];
        assert_eq!(of(&settings), FlagDifference { flags: words(&expected.join(" ")), is_fixed: false });
        settings.forced = vec![layer("x", &[])];
        settings.masked = vec![layer("on test", &[("a/b", "-test doc")])];
        let expected = ["-nls", "doc", "-test", "py_a", "-py_c"];
        assert_eq!(of(&settings), FlagDifference { flags: words(&expected.join(" ")), is_fixed: true });
    }

    #[test]
    fn a_chost_that_may_be_an_expression_is_not_judged() {
        let takes = |chosts: &str, chost: &str| {
            PackageSettings { chosts: words(chosts), ..PackageSettings::default() }.takes_chost(chost)
        };
        assert_eq!(takes("x86_64-pc-linux-gnu", "x86_64-pc-linux-musl"), Some(false));
        assert_eq!(takes("i686-pc-linux-gnu x86_64-pc-linux-gnu", "x86_64-pc-linux-gnu"), Some(true));
        assert_eq!((takes("", "x"), takes("x", ""), takes("x86_64-.*", "x")), (Some(true), Some(true), None));
    }
}
