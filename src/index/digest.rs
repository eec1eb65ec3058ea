//! Digests of fixed length, written as lower-case hexadecimal digits.

use std::fmt::{self, Write as _};
use std::str::FromStr;

/// A digest of `N` bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest<const N: usize>(pub [u8; N]);

/// The MD5 of a package file.
pub(crate) type Md5Digest = Digest<16>;
/// The SHA1 of a package file.
pub(crate) type Sha1Digest = Digest<20>;
/// The SHA-256 of a package file, which names its blob in the cache.
pub(crate) type Sha256Digest = Digest<32>;

/// The text is not a digest of the expected length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a digest: {0} hexadecimal digits were expected")]
pub struct DigestError(usize);

impl<const N: usize> FromStr for Digest<N> {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let mut bytes = [0; N];
        if text.len() != 2 * N {
            return Err(DigestError(2 * N));
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digit = |c: u8| char::from(c).to_digit(16).ok_or(DigestError(2 * N));
            let (high, low) = match pair {
                [high, low] => (digit(*high)?, digit(*low)?),
                _ => return Err(DigestError(2 * N)),
            };
            *byte = (high << 4 | low) as u8;
        }
        Ok(Self(bytes))
    }
}

impl<const N: usize> fmt::Display for Digest<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Digests name blobs, so each open writes one. Digits are cheaper to write than numbers.
        let digit = |half: u8| char::from_digit(half.into(), 16).unwrap_or_default();
        self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]).try_for_each(|half| f.write_char(digit(half)))
    }
}

impl<const N: usize> fmt::Debug for Digest<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_round_trip_and_refusals() {
        let text = "00ff10a9d41d8cd98f00b204e9800998";
        let digest: Md5Digest = text.parse().unwrap();
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.to_uppercase().parse::<Md5Digest>().unwrap(), digest);
        for bad in ["", "00", "zzff10a9d41d8cd98f00b204e9800998", "00ff10a9d41d8cd98f00b204e980099é"] {
            assert!(bad.parse::<Md5Digest>().is_err(), "{bad}");
        }
    }
}
