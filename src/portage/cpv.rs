//! CPV: category, package and version, e.g. `dev-libs/libfoo-1.3.0_p1-r2`.
//!
//! The rules are Portage's (`versions.py`), with one difference: only ASCII is allowed. One invalid
//! CPV in an index crashes emerge, so an entry with one never reaches emerge.

use std::fmt;

use super::Version;

/// A CPV that Portage accepts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cpv(Box<str>);

/// The text is not a CPV.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid CPV: {0:?}")]
pub struct CpvError(String);

impl Cpv {
    /// Parses and checks `text`.
    ///
    /// # Errors
    /// The text is not `category/name-version`.
    pub fn parse(text: &str) -> Result<Self, CpvError> {
        if is_cpv(text) { Ok(Self(text.into())) } else { Err(CpvError(text.chars().take(80).collect())) }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `dev-libs` of `dev-libs/libfoo-1.3.0-r2`.
    #[must_use]
    pub fn category(&self) -> &str {
        self.parts().0
    }

    /// `libfoo` of `dev-libs/libfoo-1.3.0-r2`.
    #[must_use]
    pub fn package(&self) -> &str {
        self.parts().1
    }

    /// `1.3.0-r2` of `dev-libs/libfoo-1.3.0-r2`.
    #[must_use]
    pub fn version(&self) -> Version<'_> {
        Version::of_valid(self.parts().2)
    }

    /// `dev-libs/libfoo` of `dev-libs/libfoo-1.3.0-r2`.
    #[must_use]
    pub fn cp(&self) -> &str {
        let version = self.parts().2.len() + 1;
        self.0.get(..self.0.len().saturating_sub(version)).unwrap_or_default()
    }

    fn parts(&self) -> (&str, &str, &str) {
        // Both parts exist, because `parse` has checked the text.
        let (category, pf) = self.0.split_once('/').unwrap_or_default();
        let (package, version) = split_version(pf).unwrap_or_default();
        (category, package, version)
    }
}

impl fmt::Display for Cpv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_cpv(text: &str) -> bool {
    let Some((category, pf)) = text.split_once('/') else { return false };
    text.len() <= 255 && is_name(category, b"+.-") && is_pf(pf)
}

/// Whether the first byte is a word byte, and each other byte is one or is in `more`.
pub(crate) fn is_name(text: &str, more: &[u8]) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(is_word) && bytes.all(|b| is_word(b) || more.contains(&b))
}

fn is_pf(pf: &str) -> bool {
    let Some((name, _)) = split_version(pf) else { return false };
    // A name that itself ends in a version is ambiguous, and Portage refuses it.
    is_name(name, b"+-") && split_version(name).is_none_or(|(rest, _)| !is_name(rest, b"+-"))
}

/// Splits `name-1.2-r3` into `name` and `1.2-r3`.
pub(crate) fn split_version(pf: &str) -> Option<(&str, &str)> {
    let (rest, last) = pf.rsplit_once('-')?;
    // A revision counts only after a version, because a package may be called `foo-r1`.
    if let Some((name, _)) = rest.rsplit_once('-')
        && let Some(whole) = pf.get(name.len() + 1..)
        && Version::parse(whole).is_some()
    {
        return Some((name, whole));
    }
    Version::parse(last).map(|_| (rest, last))
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
            "+app/hello-1",
            "app-misc/+hello-1",
        ] {
            assert!(Cpv::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_parts_of_a_cpv() {
        for (text, category, package, version) in [
            ("dev-libs/libfoo-1.3.0_p1-r2", "dev-libs", "libfoo", "1.3.0_p1-r2"),
            ("net-im/foo-r1-1.0", "net-im", "foo-r1", "1.0"),
            ("media-fonts/font-adobe-100dpi-1.0.4", "media-fonts", "font-adobe-100dpi", "1.0.4"),
        ] {
            let cpv = Cpv::parse(text).unwrap();
            assert_eq!((cpv.category(), cpv.package(), cpv.version().as_str()), (category, package, version));
            assert_eq!(cpv.cp(), format!("{category}/{package}"));
        }
    }
}
