//! The name of a package towards other machines, which know its entry and not its SHA-256:
//! `<sha1>-<md5>-<size>`.

use std::fmt;
use std::str::FromStr;

use super::{Digest, Entry, Md5Digest, Sha1Digest};

/// Both digests and the size of a package, as its entry states them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShareKey {
    pub sha1: Sha1Digest,
    pub md5: Md5Digest,
    /// Size in bytes, never 0.
    pub size: u64,
}

/// The text is no key of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not <sha1>-<md5>-<size>, in lower-case hexadecimal and decimal digits")]
pub struct ShareKeyError;

impl Entry {
    /// The key of the package. `None`: the entry lacks one of the digests, and its package is not
    /// shared.
    #[must_use]
    pub fn share_key(&self) -> Option<ShareKey> {
        Some(ShareKey { sha1: self.sha1?, md5: self.md5?, size: self.size })
    }
}

impl fmt::Display for ShareKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.sha1, self.md5, self.size)
    }
}

/// Only the text that `Display` writes is accepted, so that a blob has one URL.
impl FromStr for ShareKey {
    type Err = ShareKeyError;

    fn from_str(text: &str) -> Result<Self, ShareKeyError> {
        let mut parts = text.splitn(3, '-');
        let mut part = || parts.next().ok_or(ShareKeyError);
        let sha1: Digest<20> = part()?.parse().map_err(|_| ShareKeyError)?;
        let md5: Digest<16> = part()?.parse().map_err(|_| ShareKeyError)?;
        let size = part()?.parse().map_err(|_| ShareKeyError)?;
        let key = Self { sha1, md5, size };
        if size > 0 && key.to_string() == text { Ok(key) } else { Err(ShareKeyError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709-d41d8cd98f00b204e9800998ecf8427e-17";

    #[test]
    fn a_key_survives_its_text() {
        let key: ShareKey = KEY.parse().unwrap();
        assert_eq!((key.to_string().as_str(), key.size), (KEY, 17));
    }

    #[test]
    fn a_blob_has_one_text() {
        for text in [
            "",
            "-",
            "--",
            &KEY.to_uppercase(),
            &KEY.replace("-17", "-017"),
            &KEY.replace("-17", "-+17"),
            &KEY.replace("-17", "-0"),
            &KEY.replace("-17", "-99999999999999999999"),
            &KEY.replace("-17", "-17-1"),
            &KEY.replace("d41d", "d41"),
            &KEY.replace('-', "/"),
            &format!("{KEY} "),
        ] {
            assert_eq!(text.parse::<ShareKey>(), Err(ShareKeyError), "{text:?}");
        }
    }
}
