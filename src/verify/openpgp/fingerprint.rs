//! Fingerprints of OpenPGP keys.

use std::fmt;

/// Fingerprint of an OpenPGP key: 20 bytes (version 4) or 32 bytes (version 6).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    bytes: [u8; 32],
    length: u8,
}

impl Fingerprint {
    /// Returns `None` if `bytes` has neither 20 nor 32 bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let length = match bytes.len() {
            20 => 20,
            32 => 32,
            _ => return None,
        };
        let mut all = [0; 32];
        all.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Some(Self { bytes: all, length })
    }

    /// The 20 or 32 bytes of the fingerprint.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

/// In upper-case hexadecimal, as gpg writes it.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
