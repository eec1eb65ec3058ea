//! Signature policy, the result of a signature check, and the errors of signatures.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use super::fingerprint::Fingerprint;
use super::keyring::Keyring;
use crate::index::Digest;

/// Requirements on a package beyond its digests.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Keys that may sign the package. `None`: signatures are not judged.
    pub keyring: Option<Arc<Keyring>>,
    /// Whether a GPKG with uncompressed members passes. Portage applies the reader's own
    /// BINPKG_COMPRESS to a member without a compression ending, and emerge fails if that is not
    /// `none`.
    pub uncompressed: bool,
}

impl Policy {
    /// Requires right sizes and digests, and members that every Portage can decompress.
    #[must_use]
    pub const fn digests_only() -> Self {
        Self { keyring: None, uncompressed: false }
    }

    /// Requires also a good OpenPGP signature by a key of the keyring, beyond
    /// [`Policy::digests_only`].
    #[must_use]
    pub const fn signed(keyring: Arc<Keyring>) -> Self {
        Self { keyring: Some(keyring), uncompressed: false }
    }

    /// Whether a blob with this assurance may be served as it is. `false`: it must be proved again.
    ///
    /// Costs one stat(2) for each file of the keyring, and parsing of the files that have changed.
    #[must_use]
    pub fn admits(&self, assurance: &Assurance) -> bool {
        let vouches = |keyring: &Arc<Keyring>| {
            assurance.signer.is_some_and(|signer| keyring.current().vouches(&signer, SystemTime::now()))
        };
        (self.uncompressed || !assurance.uncompressed) && self.keyring.as_ref().is_none_or(vouches)
    }
}

/// For people, and to see whether two judgements were made under the same policy.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.keyring {
            None => f.write_str("digests only")?,
            Some(keyring) => write!(f, "signed by keyring {}", keyring.current().mark())?,
        }
        if self.uncompressed { f.write_str(", uncompressed members") } else { Ok(()) }
    }
}

/// How a package was proved, and what a reader must be able to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Assurance {
    /// Signer of the package. `None`: the policy required no signature; sizes and digests are
    /// right.
    pub signer: Option<Signer>,
    /// Whether the package is a GPKG with an uncompressed member: see [`Policy::uncompressed`].
    pub uncompressed: bool,
}

impl Assurance {
    /// Adds the signer of another assurance on the same bytes, if this one has none.
    #[must_use]
    pub fn or_signed(self, other: Self) -> Self {
        Self { signer: self.signer.or(other.signer), ..self }
    }
}

/// Identity of a signer. Any change of the certificate (revoked, renewed …) gives another
/// `Signer`, so that the signature is judged again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signer {
    /// The key that signed: a primary key or a subkey.
    pub fingerprint: Fingerprint,
    /// Digest of the key's certificate in the state that the keyring had. If another key signed
    /// members, the digest covers both certificates.
    pub certificate: Digest<16>,
}

impl Signer {
    /// Combines the key of the Manifest with the key `other` of members. The package is accepted
    /// only while both keys are good.
    pub(crate) fn beside(&self, other: &Self) -> Self {
        let both = Sha256::new().chain_update(self.certificate.0).chain_update(other.certificate.0);
        let digest: [u8; 32] = both.chain_update(other.fingerprint.as_bytes()).finalize().into();
        Self { certificate: Digest(std::array::from_fn(|at| digest.get(at).copied().unwrap_or_default())), ..*self }
    }
}

/// A fault of a key or of a signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// A required signature is missing.
    #[error(
        "there is none, and this binhost's packages must be signed; if you trust it without signatures, mount with \
         --verify-signature false"
    )]
    Missing,
    /// The Manifest is signed and this member is not.
    #[error(
        "there is none behind it; emerge would refuse the package for that, although the Manifest is signed. The binhost's operator \
         has to sign it again (gpkg-sign)"
    )]
    MemberUnsigned,
    /// The Manifest is signed by one key, and members by two others.
    #[error("the package is signed by more than two keys; the binhost's operator has to sign it again (gpkg-sign)")]
    ManyKeys,
    /// The signature is of other bytes.
    #[error(
        "BAD signature by key {key}: these are not the bytes that were signed; tell the binhost's operator, and install \
         nothing of it until then"
    )]
    Bad {
        /// Fingerprint of the key.
        key: String,
    },
    /// The signature is by a key that is in no file of the keyring.
    #[error("it is by the unknown key {key}; if you trust that key, give the file of its certificate with --keyring")]
    UnknownKey {
        /// Fingerprint or key id, as the signature has it.
        key: String,
    },
    /// The key, or the certificate that it belongs to, has expired.
    #[error("the key {key} expired on {when}; update the keyring (on Gentoo: sec-keys/openpgp-keys-gentoo-release)")]
    Expired {
        /// Fingerprint of the key.
        key: String,
        /// Date and time of the expiration.
        when: String,
    },
    /// The key, or the certificate that it belongs to, was revoked.
    #[error("the key {key} was revoked ({reason}); nothing that it signed is accepted any more")]
    Revoked {
        /// Fingerprint of the key.
        key: String,
        /// The reason that its owner gave.
        reason: String,
    },
    /// An algorithm is too weak: of the key, of its binding to its certificate, or of the
    /// signature.
    #[error(
        "key or signature of {key} use an algorithm that is too weak ({reason}); the binhost's operator has to sign again"
    )]
    Weak {
        /// Fingerprint of the key.
        key: String,
        /// The reason that sequoia's policy gave.
        reason: String,
    },
    /// The key is not meant for signing.
    #[error("the key {key} is not meant for signing; its owner has to sign with another")]
    NotForSigning {
        /// Fingerprint of the key.
        key: String,
    },
    /// The key is not valid for another reason, e.g. it is younger than the signature.
    #[error("the key {key} cannot be used ({reason}); update the keyring")]
    Unusable {
        /// Fingerprint of the key.
        key: String,
        /// Why the key is not valid.
        reason: String,
    },
    /// The signature itself has expired, or is from the future.
    #[error("the signature by key {key} is not valid now ({reason}); is this machine's clock right?")]
    NotNow {
        /// Fingerprint of the key.
        key: String,
        /// Why the signature is not valid now.
        reason: String,
    },
    /// The signature cannot be parsed.
    #[error("it is malformed: {0}")]
    Malformed(String),
}

impl SignatureError {
    pub(crate) fn depends_on_clock(&self) -> bool {
        matches!(self, Self::Expired { .. } | Self::Unusable { .. } | Self::NotNow { .. })
    }

    /// For `map_err`: makes a `VerifyError` about the member `what`.
    pub(crate) fn of(self, what: &str) -> crate::verify::VerifyError {
        crate::verify::VerifyError::Signature { of: what.to_owned(), fault: self }
    }
}
