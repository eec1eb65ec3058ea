//! Certificates and signatures of a program that is built without OpenPGP: nobody has a key, so no
//! signature is good.
//!
//! A configuration that requires signatures is refused before.

pub(super) mod fingerprint;
pub(super) mod keyring;
pub(super) mod keyring_check;
pub(super) mod signature;

use std::io::Read;
use std::time::SystemTime;

use sha2::{Digest as _, Sha512};

use super::Digest512;
use crate::index::Digest;
use crate::sys::Passed;
use fingerprint::Fingerprint;
use signature::{SignatureError, Signer};

/// Why no file has a certificate.
const LACKING: &str = "this binhostfs was built without OpenPGP (cargo's feature openpgp) and reads no certificates";

/// There are none.
#[derive(Debug, Default)]
pub(super) struct Certificates;

impl Certificates {
    pub(super) fn parse(_: &[u8]) -> (Self, Vec<String>) {
        (Self, vec![LACKING.to_owned()])
    }

    pub(super) fn is_empty(&self) -> bool {
        true
    }

    pub(super) fn fingerprints(&self) -> Vec<Fingerprint> {
        Vec::new()
    }
}

/// No keys at all.
#[derive(Debug, Default)]
pub(super) struct Keys;

impl Keys {
    pub(super) fn new<'a>(_: impl IntoIterator<Item = &'a Certificates>, _: SystemTime) -> Self {
        Self
    }

    pub(super) fn is_judged_for(&self, _: SystemTime) -> bool {
        true
    }

    pub(super) fn last_signed(&self) -> Option<Passed> {
        None
    }

    pub(super) fn mark(&self) -> Digest<16> {
        Digest([0; 16])
    }

    pub(super) fn primary_keys(&self) -> Vec<Fingerprint> {
        Vec::new()
    }

    pub(super) fn count(&self) -> usize {
        0
    }

    pub(super) fn unusable(&self) -> &[String] {
        &[]
    }

    pub(super) fn vouches(&self, _: &Signer, _: SystemTime) -> bool {
        false
    }

    pub(super) fn cleartext(&self, _: &[u8]) -> Result<(Vec<u8>, Signer), SignatureError> {
        Err(SignatureError::Missing)
    }

    pub(super) fn detached<R: Read>(
        &self,
        _: &[u8],
        _: &MemberHash,
        _: impl Fn() -> R,
    ) -> Result<Signer, SignatureError> {
        Err(SignatureError::Missing)
    }
}

/// SHA-512 of a member.
#[derive(Clone)]
pub(super) struct MemberHash(Sha512);

impl MemberHash {
    pub(super) fn new() -> Self {
        Self(Sha512::new())
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn finish(&self) -> Digest512 {
        Digest(self.0.clone().finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::keyring::{Keyring, KeyringError};

    #[test]
    fn no_keyring_opens_and_the_reason_is_said() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n").unwrap();
        let error = Keyring::open([file.path().to_owned()]).unwrap_err();
        assert!(matches!(error, KeyringError::Missing(_)), "{error}");
        assert!(error.to_string().contains("cargo's feature openpgp"), "{error}");
    }
}
