//! Why an entry of an index is left out.

use std::fmt;

/// Why an entry is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// CPV is missing or invalid; emerge would crash.
    InvalidCpv,
    /// PATH leads out of PKGDIR or is not a plain path.
    UnsafePath,
    /// SIZE is missing, zero or not a decimal number.
    BadSize,
    /// The entry has neither MD5 nor SHA1, or an invalid digest. Its package could not be verified.
    NoDigest,
    /// The stanza has a NUL or a carriage return.
    NotText,
    /// A line or the whole stanza is too long.
    TooLong,
    /// A later entry has the same instance key (CPV, BUILD_ID, SIZE, BUILD_TIME, MTIME).
    DuplicateInstance,
    /// Another entry with the same PATH was built later or stands later in the index.
    DuplicatePath,
    /// The PATH is a directory of another entry's PATH.
    PathIsDirectory,
}

impl DropReason {
    pub(super) const ALL: [Self; 9] = [
        Self::InvalidCpv,
        Self::UnsafePath,
        Self::BadSize,
        Self::NoDigest,
        Self::NotText,
        Self::TooLong,
        Self::DuplicateInstance,
        Self::DuplicatePath,
        Self::PathIsDirectory,
    ];
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidCpv => "invalid CPV",
            Self::UnsafePath => "unsafe PATH",
            Self::BadSize => "missing or odd SIZE",
            Self::NoDigest => "no usable MD5 or SHA1",
            Self::NotText => "NUL or carriage return",
            Self::TooLong => "a line or stanza that is too long",
            Self::DuplicateInstance => "duplicate instance key",
            Self::DuplicatePath => "duplicate PATH",
            Self::PathIsDirectory => "PATH is a directory of another entry",
        })
    }
}
