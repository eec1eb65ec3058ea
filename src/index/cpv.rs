//! CPV: category, package and version, e.g. `dev-libs/libfoo-1.3.0_p1-r2`.
//!
//! The rules are Portage's (`versions.py`): one invalid CPV in an index crashes emerge, so what does not match never
//! reaches it. Stricter in one point: ASCII only.

use std::fmt;

/// A valid CPV.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cpv(Box<str>);

/// A text that is not a CPV.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid CPV: {0:?}")]
pub struct CpvError(String);

impl Cpv {
    /// Checks `text`.
    ///
    /// # Errors
    /// It is not `category/name-version`.
    pub fn parse(text: &str) -> Result<Self, CpvError> {
        if is_cpv(text) { Ok(Self(text.into())) } else { Err(CpvError(text.chars().take(80).collect())) }
    }

    /// The whole text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Cpv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_cpv(text: &str) -> bool {
    let Some((category, pf)) = text.split_once('/') else { return false };
    text.len() <= 255 && is_name(category, b"+.-") && is_pf(pf)
}

/// First byte a word byte or `+`, the others also one of `more`.
fn is_name(text: &str, more: &[u8]) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| is_word(b) || b == b'+') && bytes.all(|b| is_word(b) || more.contains(&b))
}

fn is_pf(pf: &str) -> bool {
    let Some((name, _)) = split_version(pf) else { return false };
    // A name that ends in a version itself is ambiguous, and Portage refuses it.
    is_name(name, b"+-") && split_version(name).is_none_or(|(rest, _)| !is_name(rest, b"+-"))
}

/// Splits `name-1.2-r3` into `name` and `1.2-r3`.
fn split_version(pf: &str) -> Option<(&str, &str)> {
    let (rest, last) = pf.rsplit_once('-')?;
    if let Some(revision) = last.strip_prefix('r')
        && !revision.is_empty()
        && revision.bytes().all(|b| b.is_ascii_digit())
        && let Some((name, version)) = rest.rsplit_once('-')
        && is_version(version)
    {
        return pf.get(name.len() + 1..).map(|whole| (name, whole));
    }
    is_version(last).then_some((rest, last))
}

/// `1.2.3b_alpha4_p5`: digits, more digits after dots, one letter, suffixes.
fn is_version(text: &str) -> bool {
    let (numbers, suffixes) = text.split_once('_').map_or((text, None), |(n, s)| (n, Some(s)));
    let numbers = numbers.strip_suffix(|c: char| c.is_ascii_lowercase()).unwrap_or(numbers);
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    numbers.split('.').all(is_number) && suffixes.is_none_or(|s| s.split('_').all(is_suffix))
}

fn is_suffix(text: &str) -> bool {
    let word = text.trim_end_matches(|c: char| c.is_ascii_digit());
    matches!(word, "pre" | "p" | "beta" | "alpha" | "rc")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_portage_takes_and_what_it_refuses() {
        for good in [
            "app-misc/hello-2.0-r1",
            "dev-libs/libfoo-1.3.0",
            "acct-user/demo-0",
            "x11-libs/gtk+-3.24.43",
            "sys-libs/glibc-2.41_p20250101_rc2-r3",
            "dev-lang/python-3.13.0b",
            "media-fonts/font-adobe-100dpi-1.0.4",
            "dev-db/mysql++-3.2.5",
            "net-im/foo-r1-1.0",
            "_x/_y-1",
            "virtual/libc-1_p",
        ] {
            assert!(Cpv::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/",
            "hello-1",
            "app-misc/hello",
            "app-misc/hello-",
            "app-misc/hello-1-2",
            "app-misc/hello-1-r1-2",
            "app-misc/-1",
            "-app/hello-1",
            "app-misc/hello-1.",
            "app-misc/hello-1..2",
            "app-misc/hello-1_foo",
            "app-misc/hello-1_",
            "app-misc/hello-1ab",
            "app-misc/hello-1-r",
            "app-misc/a/b-1",
            "app-misc/he llo-1",
            "app-misc/hello-1\n",
            "app-misc/h.llo-1",
            "app-misc/héllo-1",
        ] {
            assert!(Cpv::parse(bad).is_err(), "{bad}");
        }
    }
}
