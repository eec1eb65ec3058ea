//! Prove that bytes are the package that the index names; the only maker of [`Verified`].
//!
//! Bytes come in through a [`Receiver`], which writes them to a file and digests what it wrote, or are already on the
//! disk ([`recheck`]). Either way the proof is the same:
//!
//! 1. SIZE, and MD5 and SHA1 where the entry has them; SHA-256 names the body.
//! 2. The container, decided by the ending of PATH, else by the `ustar` magic at byte 0x101:
//!    * GPKG (GLEP 78): a tar of plain members in one directory, `gpkg-1`, one `metadata.tar*`, one `image.tar*` and
//!      `Manifest`, whose SHA512 and BLAKE2B of every other member are right. Stricter than Portage where two tar readers
//!      could see different things.
//!    * XPAK (xpak(5)): the segment at the end is consistent.
//! 3. Where the [`Policy`] asks for it: the Manifest carries a good cleartext signature by a key of the [`Keyring`], and
//!    only the text that was verified counts as the Manifest; every other member has its `.sig`, as Portage demands, and
//!    each is good. Signatures of a part of the package are refused under every policy.
//! 4. The package inside has the entry's CPV, and its BUILD_ID and BUILD_TIME where both sides have one: other bytes
//!    under this name are refused even where every digest is right.
//!
//! Memory is bounded whatever the bytes say: members are digested as they pass, and metadata is read back from the file
//! and decompressed as a stream.
//!
//! Without that policy signatures are not judged: a cleartext-signed Manifest is taken for its text.
//!
//! Portage, too, reads what was verified here: what it would read otherwise, or not at all, is refused. `tests/differential.rs`
//! holds this against Python's tarfile and Portage's own check.
//!
//! [`described()`] reads the metadata of a local package, and proves nothing.
//!
//! Not its job: syncing, naming or removing files: whoever gave the file unlinks it when the proof fails.

mod decompress;
mod file_digests;
mod gpkg;
mod head;
mod keyring;
mod keyring_check;
mod local_metadata;
mod manifest;
mod metadata;
mod openpgp;
mod proof;
mod receiver;
mod signature;
mod tar_header;
#[cfg(test)]
mod tests;
mod values;
mod xpak;

use std::fs::File;
use std::io;

pub use file_digests::Sums;
pub use gpkg::GpkgError;
pub use head::{Head, head};
pub use keyring::{Keyring, KeyringError, KeyringReport};
pub use keyring_check::Anchors;
pub use local_metadata::{PackageFormat, aux_values, described};
pub use manifest::ManifestError;
pub use metadata::MetadataError;
pub use receiver::{Receiver, recheck};
pub use signature::{Assurance, Fingerprint, Policy, SignatureError, Signer};
pub use tar_header::TarError;
pub use xpak::XpakError;

use crate::index::{AuxValues, Entry, Sha256Digest};

/// Version of the rules by which a package is verified. Raised when a package that passed is refused from now on, or when more
/// is to be known of it: what an older version accepted is then verified again.
pub const RULES: u8 = 5;

/// A file whose bytes are the package of its entry.
#[derive(Debug)]
pub struct Verified {
    file: File,
    entry: Entry,
    digest: Sha256Digest,
    assurance: Assurance,
    values: AuxValues,
}

impl Verified {
    /// Length of the body in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.entry.size
    }

    /// SHA-256 of the body.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// How it was proven, and who signed it where that was asked for.
    #[must_use]
    pub fn assurance(&self) -> Assurance {
        self.assurance
    }

    /// What Portage writes into an index of this package. What its own index says beyond the identity is not compared here.
    #[must_use]
    pub fn aux_values(&self) -> &AuxValues {
        &self.values
    }

    /// The entry that the body was proven against.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The file, open as it was given.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file away.
    #[must_use]
    pub fn into_file(self) -> File {
        self.file
    }
}

/// Why there is no [`Verified`].
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The local file could not be read or written: says nothing about the package.
    #[error("{attempted}: {source}")]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The body ended early.
    #[error("the package has {got} bytes, its index entry says {expected}")]
    Truncated {
        /// SIZE.
        expected: u64,
        /// Bytes there are.
        got: u64,
    },
    /// The body goes on after SIZE.
    #[error("the package has more than the {expected} bytes of its index entry")]
    TooLong {
        /// SIZE.
        expected: u64,
    },
    /// The whole file has another digest.
    #[error("the package has {kind} {got}, its index entry says {expected}")]
    Digest {
        /// `MD5` or `SHA1`.
        kind: &'static str,
        /// That of the entry, in hexadecimal.
        expected: String,
        /// That of the bytes, in hexadecimal.
        got: String,
    },
    /// It is not a sound GPKG.
    #[error("checking the GPKG container: {0}")]
    Gpkg(#[from] GpkgError),
    /// It is not a sound XPAK.
    #[error("checking the XPAK segment: {0}")]
    Xpak(#[from] XpakError),
    /// A signature is asked for, and is not there or not good.
    #[error("checking the signature of {of}: {fault}")]
    Signature {
        /// `Manifest`, or the member that has the signature.
        of: String,
        /// What is wrong.
        fault: SignatureError,
    },
    /// A signature is asked for, and an XPAK cannot have one.
    #[error(
        "this package is an XPAK, which cannot be signed, and this binhost's packages must be signed; have it built as \
         GPKG (BINPKG_FORMAT=gpkg), or mount with --verify-signature false"
    )]
    Unsignable,
    /// Portage here decompresses members without an ending by another setting than that they were made with.
    #[error(
        "its metadata or image is not compressed, and Portage on this machine cannot read such a package: set \
         BINPKG_COMPRESS=\"none\" in make.conf if it is to, or have whoever runs the binhost build with compression"
    )]
    Uncompressed,
    /// What the package says of itself cannot be read.
    #[error("reading the metadata of the package: {0}")]
    Metadata(#[from] MetadataError),
    /// The metadata is compressed in a way that this program cannot read.
    #[error("reading the metadata of the package: there is no decoder for `.{extension}`")]
    Compression {
        /// Ending of the member's name, without the dot.
        extension: String,
    },
    /// The package inside is another one.
    #[error("the package inside has {what} {found:?}, its index entry says {expected:?}")]
    Identity {
        /// `CPV`, `BUILD_ID` or `BUILD_TIME`.
        what: &'static str,
        /// That of the entry.
        expected: String,
        /// That of the package.
        found: String,
    },
    /// These bytes were refused before; only [`Receiver::restart`] goes on.
    #[error("the bytes before these were refused already")]
    Refused,
}

impl VerifyError {
    /// The failure of the local file, where it was that and not the package.
    #[must_use]
    pub fn io_error(&self) -> Option<&io::Error> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }

    /// Whether the bytes are those of the package, which is refused for how it was built or signed.
    #[must_use]
    pub fn is_of_package(&self) -> bool {
        match self {
            Self::Signature { fault, .. } => {
                !matches!(fault, SignatureError::Bad { .. } | SignatureError::Malformed(_))
            }
            Self::Unsignable | Self::Uncompressed => true,
            _ => false,
        }
    }

    /// Whether the same bytes may be taken, or refused, once the system clock shows another time.
    #[must_use]
    pub fn depends_on_clock(&self) -> bool {
        matches!(self, Self::Signature { fault, .. } if fault.depends_on_clock())
    }

    /// For `map_err`: a local failure while doing `attempted`.
    fn io(attempted: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { attempted, source }
    }
}
