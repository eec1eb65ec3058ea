//! Proves that bytes are the package that the index names. No other module makes a [`Verified`].
//!
//! | file | job |
//! |---|---|
//! | `receiver` | bytes from the network or a file |
//! | `proof` | digests, container, signatures and metadata of one package |
//! | `gpkg` | the GPKG container |
//! | `self::tar_header` | one header block |
//! | `gpkg::manifest` | records of the Manifest |
//! | `gpkg::metadata` | `metadata.tar*` |
//! | `head` | a package proved by its first and last bytes |
//! | `format` | which container a package has |
//! | `tar_header` | one header block of a tar |
//! | `xpak` | the XPAK segment |
//! | `decompress` | sections of a file, in bounded memory |
//! | `values` | identity and keys from a package |
//! | `openpgp` | certificates and signatures; the only file that names sequoia |
//! | `openpgp::no_openpgp` | stands in for it in a program that is built without |
//! | `openpgp::fingerprint` | fingerprints of keys |
//! | `openpgp::keyring` | certificate files, read again when they change |
//! | `openpgp::signature` | policy, results and errors of signatures |
//! | `openpgp::keyring_check` | whether Portage's own keyring accepts a key |
//! | `local_metadata` | metadata of a file, unproved |
//! | `file_digests` | digests of a whole file |
//!
//! Bytes arrive through a [`Receiver`], which writes them to a file and digests them, or are
//! already on disk ([`recheck`]). The proof is the same for both:
//!
//! 1. SIZE is right, and MD5 and SHA1 where the entry has them. SHA-256 names the blob.
//! 2. The container is sound. The ending of PATH decides its format, else the `ustar` magic at byte
//!    0x101:
//!    * GPKG (GLEP 78): a tar of plain members in one directory, `gpkg-1`, one `metadata.tar*`, one
//!      `image.tar*` and `Manifest`. SHA512 and BLAKE2B in the Manifest are right for every other
//!      member. The parser is stricter than Portage where two tar readers could see different
//!      things.
//!    * XPAK (xpak(5)): the segment at the end is consistent.
//! 3. Signatures are good, if the [`Policy`] requires them. The Manifest has a good cleartext
//!    signature by a key of the [`Keyring`], and only the verified text counts as the Manifest.
//!    Every other member has its `.sig`, as Portage demands, and each `.sig` is good. A package
//!    that is signed only in part is refused under every policy.
//! 4. The package inside has the entry's CPV, and its BUILD_ID and BUILD_TIME where both sides have
//!    one. Another package under this name is refused even if every digest is right.
//!
//! Memory is bounded for all input. Members are digested while they arrive; metadata is read back
//! from the file and decompressed as a stream.
//!
//! Without a keyring in the policy, signatures are not judged. A cleartext-signed Manifest is then
//! taken for its text.
//!
//! Portage reads every verified package in the same way as this module. A package that Portage
//! would read differently, or not at all, is refused. `tests/differential.rs` compares this module
//! with Python's tarfile and Portage's own check.
//!
//! [`described()`] reads the metadata of a local package, and proves nothing.
//!
//! Not its job: syncing, naming or removing files. The caller that supplied the file unlinks it
//! when the proof fails.

mod decompress;
mod file_digests;
mod format;
mod gpkg;
mod head;
mod local_metadata;
#[cfg_attr(not(feature = "openpgp"), path = "openpgp/no_openpgp.rs")]
mod openpgp;
mod proof;
mod receiver;
mod tar_header;
#[cfg(test)]
mod tests;
mod values;
mod xpak;

use std::fs::File;
use std::io;

pub(crate) use file_digests::Sums;
pub use format::PackageFormat;
pub(crate) use gpkg::GpkgError;
pub(crate) use head::{Head, head};
pub(crate) use local_metadata::aux_values;
pub use local_metadata::described;
pub(crate) use openpgp::fingerprint::Fingerprint;
pub use openpgp::keyring::Keyring;
pub(crate) use openpgp::keyring::{KeyringError, KeyringReport};
pub(crate) use openpgp::keyring_check::Anchors;
pub use openpgp::signature::Policy;
pub(crate) use openpgp::signature::{Assurance, SignatureError, Signer};
pub use receiver::{Receiver, recheck};
pub(crate) use values::MetadataError;
pub(crate) use xpak::XpakError;

use crate::index::{AuxValues, Digest, Entry, Sha256Digest};

/// A SHA-512 or BLAKE2b digest of a member.
type Digest512 = Digest<64>;

/// Version of the verification rules. Raise it when a package that passed is to be refused, or when
/// more must be known of a package. Packages that an older version accepted are then verified
/// again.
pub(crate) const RULES: u8 = 5;

/// An open file, proved to be the package of its entry.
#[derive(Debug)]
pub struct Verified {
    file: File,
    entry: Entry,
    digest: Sha256Digest,
    assurance: Assurance,
    values: AuxValues,
}

impl Verified {
    /// Length of the package in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.entry.size
    }

    /// SHA-256 of the package, which names its blob.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// How the package was proved, and its signer if the policy required one.
    #[must_use]
    pub fn assurance(&self) -> Assurance {
        self.assurance
    }

    /// Values that Portage writes into an index of this package. Values of the binhost's index
    /// beyond the identity are not compared here.
    #[must_use]
    pub fn aux_values(&self) -> &AuxValues {
        &self.values
    }

    /// The entry that the package was proved against.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The file, open as the caller supplied it.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns the file and drops the proof.
    #[must_use]
    pub fn into_file(self) -> File {
        self.file
    }
}

/// Why a package could not be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The local file could not be read or written. This says nothing about the package.
    #[error("{attempted}: {source}")]
    Io {
        /// The operation that failed.
        attempted: &'static str,
        /// The error of the system call.
        source: io::Error,
    },
    /// The package ended early.
    #[error("the package has {got} bytes, its index entry says {expected}")]
    Truncated {
        /// SIZE in the index entry.
        expected: u64,
        /// Number of bytes received.
        got: u64,
    },
    /// The package has bytes beyond SIZE.
    #[error("the package has more than the {expected} bytes of its index entry")]
    TooLong {
        /// SIZE in the index entry.
        expected: u64,
    },
    /// The whole file has another digest.
    #[error("the package has {kind} {got}, its index entry says {expected}")]
    Digest {
        /// Name of the digest: `MD5` or `SHA1`.
        kind: &'static str,
        /// Digest in the entry, in hexadecimal.
        expected: String,
        /// Digest of the bytes, in hexadecimal.
        got: String,
    },
    /// The package is not a sound GPKG.
    #[error("checking the GPKG container: {0}")]
    Gpkg(#[from] GpkgError),
    /// The package is not a sound XPAK.
    #[error("checking the XPAK segment: {0}")]
    Xpak(#[from] XpakError),
    /// A required signature is missing or not good.
    #[error("checking the signature of {of}: {fault}")]
    Signature {
        /// `Manifest`, or the name of the signed member.
        of: String,
        /// The fault of the signature.
        fault: SignatureError,
    },
    /// A signature is required, and an XPAK cannot have one.
    #[error(
        "this package is an XPAK, which cannot be signed, and this binhost's packages must be signed; have it built as \
         GPKG (BINPKG_FORMAT=gpkg), or mount with --verify-signature false"
    )]
    Unsignable,
    /// A member has no compression ending, and Portage on this machine cannot read such a member:
    /// its BINPKG_COMPRESS is not `none`.
    #[error(
        "its metadata or image is not compressed, and Portage on this machine cannot read such a package: set \
         BINPKG_COMPRESS=\"none\" in make.conf if it is to, or ask the binhost's operator to build with compression"
    )]
    Uncompressed,
    /// The metadata of the package cannot be read.
    #[error("reading the metadata of the package: {0}")]
    Metadata(#[from] MetadataError),
    /// The metadata has a compression for which there is no decoder.
    #[error("reading the metadata of the package: there is no decoder for `.{extension}`")]
    Compression {
        /// Ending of the member's name, without the dot.
        extension: String,
    },
    /// The file has another package inside.
    #[error("the package inside has {what} {found:?}, its index entry says {expected:?}")]
    Identity {
        /// Name of the key: `CPV`, `BUILD_ID` or `BUILD_TIME`.
        what: &'static str,
        /// Value in the index entry.
        expected: String,
        /// Value in the package.
        found: String,
    },
    /// Earlier bytes were refused. Only [`Receiver::restart`] resets the receiver.
    #[error("the bytes before these were refused already")]
    Refused,
}

impl VerifyError {
    /// Returns the I/O error, if the local file failed and not the package.
    #[must_use]
    pub fn io_error(&self) -> Option<&io::Error> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }

    /// Whether the bytes are the right package, refused only for the way it was built or signed.
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

    /// Whether the result may change, in either direction, once the system clock shows another
    /// time.
    #[must_use]
    pub fn depends_on_clock(&self) -> bool {
        matches!(self, Self::Signature { fault, .. } if fault.depends_on_clock())
    }

    /// For `map_err`: wraps an I/O error of the operation `attempted`.
    fn io(attempted: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { attempted, source }
    }
}
