//! Certificates and signatures, judged by sequoia under its standard policy. No other file names
//! sequoia.
//!
//! sequoia judges a key as of the time of the signature. binhostfs also requires the key to be good
//! now, because Portage accepts only gpg's GOODSIG. A signature by a key that has expired or was
//! revoked since is refused.

pub(super) mod fingerprint;
pub(super) mod keyring;
pub(super) mod keyring_check;
pub(super) mod signature;

use std::io::{self, Read};
use std::time::{SystemTime, UNIX_EPOCH};

use sequoia_openpgp as openpgp;

use openpgp::cert::amalgamation::key::ErasedKeyAmalgamation;
use openpgp::cert::amalgamation::{ValidAmalgamation as _, ValidateAmalgamation as _};
use openpgp::cert::prelude::CertParser;
use openpgp::crypto::hash::Context;
use openpgp::packet::Signature;
use openpgp::packet::key::PublicParts;
use openpgp::parse::stream::{
    MessageLayer, MessageStructure, VerificationError, VerificationHelper, VerificationResult, VerifierBuilder,
};
use openpgp::parse::{PacketParser, PacketParserResult, Parse as _};
use openpgp::policy::{HashAlgoSecurity, Policy as _, StandardPolicy};
use openpgp::serialize::SerializeInto as _;
use openpgp::types::{HashAlgorithm, RevocationStatus, SignatureType};
use openpgp::{Cert, KeyHandle, Packet};
use sha2::{Digest as _, Sha256};

use super::Digest512;
use crate::index::Digest;
use crate::sys::{Passed, PastEvent, WrongClock};
use fingerprint::Fingerprint;
use signature::{SignatureError, Signer};

const POLICY: &StandardPolicy<'static> = &StandardPolicy::new();
/// Most signatures in one file. Each of them may need another pass over the signed bytes.
const MAX_SIGNATURES: usize = 8;
/// Part of every certificate digest in a `Signer`. Raising the version makes binhostfs judge again
/// what an older version accepted.
const JUDGEMENT: &[u8] = b"binhostfs signatures 3\n";

/// A primary key or subkey together with its certificate.
type KeyInCertificate<'a> = ErasedKeyAmalgamation<'a, PublicParts>;

/// The certificates of one file.
#[derive(Debug, Default)]
pub(super) struct Certificates(Vec<Cert>);

impl Certificates {
    /// Parses certificates, armoured (also several armours in a row) or binary. Also returns the
    /// problems of certificates that cannot be read.
    pub(super) fn parse(bytes: &[u8]) -> (Self, Vec<String>) {
        let mut problems = Vec::new();
        let mut certificates = Vec::new();
        match CertParser::from_bytes(bytes) {
            Ok(all) => all.for_each(|one| match one {
                Ok(certificate) => certificates.push(certificate.strip_secret_key_material()),
                Err(error) => problems.push(format!("a certificate in it cannot be read: {error}")),
            }),
            Err(error) => problems.push(format!("it is not a file of OpenPGP certificates: {error}")),
        }
        (Self(certificates), problems)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the fingerprints of the primary keys.
    pub(super) fn fingerprints(&self) -> Vec<Fingerprint> {
        self.0.iter().filter_map(primary).collect()
    }
}

/// A key that may sign, as of the time of the judgement.
#[derive(Debug)]
struct SigningKey {
    signer: Signer,
    /// When the key or its certificate expires.
    until: Option<SystemTime>,
}

/// The certificates of all files at one moment, and the keys among them that may sign.
#[derive(Debug, Default)]
pub(super) struct Keys {
    certificates: Vec<Cert>,
    signing: Vec<SigningKey>,
    /// One line for each certificate without a key that may sign: fingerprint and reason.
    unusable: Vec<String>,
    /// Period for which this judgement holds. `None`: no bound on that side.
    judged_from: Option<SystemTime>,
    judged_until: Option<SystemTime>,
    last_signed: Option<SystemTime>,
}

impl Keys {
    /// Judges all certificates as of `now`. Copies of one certificate in several files are merged,
    /// so that a revocation in any of them counts.
    pub(super) fn new<'a>(files: impl IntoIterator<Item = &'a Certificates>, now: SystemTime) -> Self {
        let mut certificates: Vec<Cert> = Vec::new();
        for certificate in files.into_iter().flat_map(|file| file.0.iter().cloned()) {
            let same = certificates.iter().position(|other| other.fingerprint() == certificate.fingerprint());
            match same.map(|at| certificates.swap_remove(at)) {
                None => certificates.push(certificate),
                // Merging fails only for certificates with different fingerprints.
                Some(other) => certificates.extend(other.merge_public(certificate)),
            }
        }
        let mut keys = Self::default();
        for certificate in &certificates {
            keys.note(certificate, now);
        }
        let ends = || keys.signing.iter().filter_map(|key| key.until);
        let changes = || certificates.iter().flat_map(changes).chain(ends());
        let last_signed = certificates.iter().flat_map(signed_at).max();
        Self {
            judged_from: changes().filter(|change| *change <= now).max(),
            judged_until: changes().filter(|change| *change > now).min(),
            last_signed,
            certificates,
            ..keys
        }
    }

    /// Whether a judgement as of `now` would give the same result.
    pub(super) fn is_judged_for(&self, now: SystemTime) -> bool {
        self.judged_from.is_none_or(|from| from <= now) && self.judged_until.is_none_or(|until| now < until)
    }

    /// Returns when a key was last created or signed by its owner.
    pub(super) fn last_signed(&self) -> Option<Passed> {
        let since_epoch = self.last_signed?.duration_since(UNIX_EPOCH).ok()?;
        Some(Passed::new(since_epoch.as_secs(), PastEvent::KeySigned))
    }

    fn note(&mut self, certificate: &Cert, now: SystemTime) {
        let (before, mut reason) = (self.signing.len(), None);
        let mark = mark(certificate);
        for key in certificate.keys() {
            match usable(&key, now) {
                Ok(until) => {
                    let fingerprint = Fingerprint::new(key.key().fingerprint().as_bytes());
                    let signer = fingerprint.map(|fingerprint| Signer { fingerprint, certificate: mark });
                    self.signing.extend(signer.map(|signer| SigningKey { signer, until }));
                }
                Err(SignatureError::NotForSigning { .. }) if reason.is_some() => {}
                Err(error) => reason = Some(error),
            }
        }
        if let (true, Some(reason)) = (self.signing.len() == before, reason) {
            let reason = clock_fault(certificate, now).map_or_else(|| reason.to_string(), |wrong| wrong.to_string());
            self.unusable.push(format!("certificate {}: {reason}", certificate.fingerprint()));
        }
    }

    /// Digest of all certificates in their present state. It changes when a key is added, removed,
    /// revoked or renewed.
    pub(super) fn mark(&self) -> Digest<16> {
        let mut marks: Vec<[u8; 16]> = self.certificates.iter().map(|certificate| mark(certificate).0).collect();
        marks.sort_unstable();
        first_16(&Sha256::digest(marks.concat()))
    }

    /// Returns the primary keys of all certificates that have a key that may sign.
    pub(super) fn primary_keys(&self) -> Vec<Fingerprint> {
        let signs = |certificate: &&Cert| {
            let mark = mark(certificate);
            self.signing.iter().any(|key| key.signer.certificate == mark)
        };
        self.certificates.iter().filter(signs).filter_map(primary).collect()
    }

    /// Number of keys and subkeys that may sign.
    pub(super) fn count(&self) -> usize {
        self.signing.len()
    }

    /// Certificates without a usable key, with the reasons.
    pub(super) fn unusable(&self) -> &[String] {
        &self.unusable
    }

    /// Whether the signer's key may still sign at `now`, with its certificate in the same state. If
    /// a second key signed members, the same must hold for that key.
    pub(super) fn vouches(&self, signer: &Signer, now: SystemTime) -> bool {
        let good = || self.signing.iter().filter(|key| key.until.is_none_or(|until| now < until)).map(|key| key.signer);
        let same = good().filter(|key| key.fingerprint == signer.fingerprint);
        same.into_iter().any(|key| key == *signer || good().any(|other| key.beside(&other) == *signer))
    }

    /// Verifies the cleartext signature in `bytes`. Returns the verified text and the signer.
    pub(super) fn cleartext(&self, bytes: &[u8]) -> Result<(Vec<u8>, Signer), SignatureError> {
        let malformed = |error: &dyn std::fmt::Display| SignatureError::Malformed(error.to_string());
        let reader = SignatureCheck { keys: self, outcome: Err(SignatureError::Missing) };
        let builder = VerifierBuilder::from_bytes(bytes).map_err(|error| malformed(&error))?;
        let mut verifier = builder.with_policy(POLICY, None, reader).map_err(|error| malformed(&error))?;
        let mut text = Vec::new();
        verifier.read_to_end(&mut text).map_err(|error| malformed(&error))?;
        if !verifier.message_processed() {
            return Err(SignatureError::Malformed("it goes on after its end".to_owned()));
        }
        Ok((text, verifier.into_helper().outcome?))
    }

    /// Judges a file of detached signatures, armoured or binary, of the bytes that went into
    /// `hash`. `content` supplies these bytes again, for hashes other than SHA-512.
    pub(super) fn detached<R: Read>(
        &self,
        bytes: &[u8],
        hash: &MemberHash,
        content: impl Fn() -> R,
    ) -> Result<Signer, SignatureError> {
        let signatures = parse_signatures(bytes)?;
        if !(1..=MAX_SIGNATURES).contains(&signatures.len()) {
            return Err(SignatureError::Malformed(format!("there are {} signatures in it", signatures.len())));
        }
        combine(signatures.iter().map(|signature| self.detached_one(signature, hash, &mut content())))
    }

    fn detached_one(
        &self,
        signature: &Signature,
        hash: &MemberHash,
        content: &mut dyn Read,
    ) -> Result<Signer, SignatureError> {
        let key = self.signing_key(signature)?;
        let name = key.key().fingerprint().to_string();
        if signature.typ() != SignatureType::Binary {
            return Err(SignatureError::Malformed("it is not a signature of a binary file".to_owned()));
        }
        let created = signature.signature_creation_time();
        let created = created.ok_or_else(|| SignatureError::Malformed("it has no time of creation".to_owned()))?;
        usable(&key, created)?;
        usable(&key, SystemTime::now())?;
        let now = signature.signature_alive(None, None);
        now.map_err(|error| SignatureError::NotNow { key: name.clone(), reason: error.to_string() })?;
        let context = hash.for_signature(signature, content);
        let context = context.map_err(|error| SignatureError::Malformed(error.to_string()))?;
        signature.verify_hash(key.key(), context).map_err(|_| SignatureError::Bad { key: name.clone() })?;
        POLICY
            .signature(signature, HashAlgoSecurity::default())
            .map_err(|error| SignatureError::Weak { key: name.clone(), reason: reason(&error) })?;
        signer(&key)
    }

    /// Finds the key that a signature names as its issuer.
    fn signing_key(&self, signature: &Signature) -> Result<KeyInCertificate<'_>, SignatureError> {
        let issuers = signature.get_issuers();
        let names = |key: &KeyInCertificate<'_>| issuers.iter().any(|issuer| issuer.aliases(key.key().key_handle()));
        self.certificates.iter().flat_map(Cert::keys).find(names).ok_or_else(|| unknown(signature))
    }
}

/// Judges the results of sequoia's verifier.
struct SignatureCheck<'a> {
    keys: &'a Keys,
    outcome: Result<Signer, SignatureError>,
}

impl SignatureCheck<'_> {
    /// Judges one result of sequoia, adding the check that sequoia omits: whether the key is good
    /// now.
    fn judge(&self, result: &VerificationResult<'_>) -> Result<Signer, SignatureError> {
        match result {
            Ok(good) => {
                let key = good.ka.cert().keys().find(|key| key.key().fingerprint() == good.ka.key().fingerprint());
                let key = key.ok_or_else(|| unknown(good.sig))?;
                usable(&key, SystemTime::now())?;
                signer(&key)
            }
            Err(error) => Err(self.fault(error)),
        }
    }

    fn fault(&self, error: &VerificationError<'_>) -> SignatureError {
        match error {
            VerificationError::MissingKey { sig } => unknown(sig),
            VerificationError::MalformedSignature { error, .. } => SignatureError::Malformed(error.to_string()),
            VerificationError::UnknownSignature { sig } => SignatureError::Malformed(sig.error().to_string()),
            VerificationError::UnboundKey { sig, error, .. } | VerificationError::BadKey { sig, error, .. } => {
                self.key_fault(sig, error)
            }
            VerificationError::BadSignature { sig, ka, error } => {
                let key = ka.key().fingerprint().to_string();
                if is_weak(error) {
                    SignatureError::Weak { key, reason: reason(error) }
                } else if let Err(error) = sig.signature_alive(None, None) {
                    SignatureError::NotNow { key, reason: error.to_string() }
                } else {
                    SignatureError::Bad { key }
                }
            }
            other => SignatureError::Malformed(other.to_string()),
        }
    }

    /// Returns the fault of a signature's key as of now, else as of the time of the signature.
    fn key_fault(&self, signature: &Signature, error: &anyhow::Error) -> SignatureError {
        let key = match self.keys.signing_key(signature) {
            Ok(key) => key,
            Err(error) => return error,
        };
        let then = signature.signature_creation_time();
        let times = [Some(SystemTime::now()), then].into_iter().flatten();
        let faults = times.filter_map(|time| usable(&key, time).err());
        let unusable = || SignatureError::Unusable { key: key.key().fingerprint().to_string(), reason: reason(error) };
        faults.into_iter().next().unwrap_or_else(unusable)
    }
}

impl VerificationHelper for SignatureCheck<'_> {
    fn get_certs(&mut self, _ids: &[KeyHandle]) -> openpgp::Result<Vec<Cert>> {
        Ok(self.keys.certificates.clone())
    }

    fn check(&mut self, structure: MessageStructure<'_>) -> openpgp::Result<()> {
        let cleartext = structure.processed_csf_message();
        let layers: Vec<MessageLayer<'_>> = structure.into_iter().collect();
        self.outcome = match layers.as_slice() {
            [MessageLayer::SignatureGroup { results }] if cleartext => {
                combine(results.iter().map(|result| self.judge(result)))
            }
            _ => Err(SignatureError::Malformed("it is not a cleartext signature".to_owned())),
        };
        Ok(())
    }
}

/// Combines the results of several signatures. One good signature is enough, since one key of an
/// old and a new one may be unknown here. A signature of other bytes is always an error.
fn combine(all: impl Iterator<Item = Result<Signer, SignatureError>>) -> Result<Signer, SignatureError> {
    let mut combined = Err(SignatureError::Missing);
    for result in all {
        match (&combined, &result) {
            (_, Err(SignatureError::Bad { .. })) => return result,
            (Err(SignatureError::Missing), _) | (Err(_), Ok(_)) => combined = result,
            _ => {}
        }
    }
    combined
}

/// Checks that a key may sign at `time`, and returns when it expires.
fn usable(key: &KeyInCertificate<'_>, time: SystemTime) -> Result<Option<SystemTime>, SignatureError> {
    let name = || key.key().fingerprint().to_string();
    let unusable = |error: anyhow::Error| {
        let (key, reason) = (name(), reason(&error));
        if is_weak(&error) { SignatureError::Weak { key, reason } } else { SignatureError::Unusable { key, reason } }
    };
    let valid = key.clone().with_policy(POLICY, time).map_err(unusable)?;
    let certificate = valid.valid_cert();
    for status in [certificate.revocation_status(), valid.revocation_status()] {
        if let RevocationStatus::Revoked(revocations) = status {
            let given = revocations.iter().find_map(|revocation| revocation.reason_for_revocation());
            let reason = given.map_or_else(|| "no reason given".to_owned(), |(code, _)| code.to_string());
            return Err(SignatureError::Revoked { key: name(), reason });
        }
    }
    let expirations = [certificate.primary_key().key_expiration_time(), valid.key_expiration_time()];
    let until = expirations.into_iter().flatten().min();
    if let Some(until) = until.filter(|until| *until <= time) {
        return Err(SignatureError::Expired { key: name(), when: httpdate::fmt_http_date(until) });
    }
    certificate.alive().and_then(|()| valid.alive()).map_err(unusable)?;
    if valid.for_signing() { Ok(until) } else { Err(SignatureError::NotForSigning { key: name() }) }
}

fn signer(key: &KeyInCertificate<'_>) -> Result<Signer, SignatureError> {
    let fingerprint = Fingerprint::new(key.key().fingerprint().as_bytes());
    let fingerprint = fingerprint.ok_or_else(|| SignatureError::Malformed("a key of an unknown version".to_owned()))?;
    Ok(Signer { fingerprint, certificate: mark(key.cert()) })
}

/// Returns the primary key's fingerprint. `None`: the key has an unknown version.
fn primary(certificate: &Cert) -> Option<Fingerprint> {
    Fingerprint::new(certificate.fingerprint().as_bytes())
}

/// Returns the self-signatures of a certificate, in which its owner states the uses and lifetimes
/// of the keys.
fn own_signatures(certificate: &Cert) -> impl Iterator<Item = &Signature> {
    let of_keys = certificate.keys().flat_map(|key| key.bundle().self_signatures());
    of_keys.chain(certificate.userids().flat_map(|user_id| user_id.bundle().self_signatures()))
}

/// Returns the creation times of the self-signatures.
fn signed_at(certificate: &Cert) -> impl Iterator<Item = SystemTime> {
    own_signatures(certificate).filter_map(|signature| signature.signature_creation_time())
}

/// Returns the times at which a signature, revocation or key of a certificate begins or ends. The
/// expiration of keys comes from [`usable`].
fn changes(certificate: &Cert) -> impl Iterator<Item = SystemTime> {
    let revocations = certificate.keys().flat_map(|key| key.bundle().self_revocations());
    let signatures = own_signatures(certificate).chain(revocations);
    let of_signatures = signatures.flat_map(|one| [one.signature_creation_time(), one.signature_expiration_time()]);
    of_signatures.flatten().chain(certificate.keys().map(|key| key.key().creation_time()))
}

/// Returns the fault of the clock, if a wrong clock is the reason that a certificate is unusable.
fn clock_fault(certificate: &Cert, now: SystemTime) -> Option<WrongClock> {
    let signed = signed_at(certificate).max()?;
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |span| span.as_secs());
    let wrong = Passed::new(seconds(signed), PastEvent::KeySigned).check(seconds(now)).err()?;
    certificate.keys().any(|key| usable(&key, signed).is_ok()).then_some(wrong)
}

/// Digest of a certificate with all its signatures and revocations.
fn mark(certificate: &Cert) -> Digest<16> {
    let bytes = certificate.to_vec().unwrap_or_default();
    first_16(&Sha256::new().chain_update(JUDGEMENT).chain_update(bytes).finalize())
}

fn first_16(digest: &[u8]) -> Digest<16> {
    let mut first = [0; 16];
    first.iter_mut().zip(digest).for_each(|(to, from)| *to = *from);
    Digest(first)
}

fn unknown(signature: &Signature) -> SignatureError {
    match signature.get_issuers().first() {
        Some(issuer) => SignatureError::UnknownKey { key: issuer.to_string() },
        None => SignatureError::Malformed("it does not say by which key it is".to_owned()),
    }
}

fn is_weak(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| matches!(cause.downcast_ref(), Some(openpgp::Error::PolicyViolation(..))))
}

/// Formats an error with all its causes in one line.
fn reason(error: &anyhow::Error) -> String {
    format!("{error:#}")
}

/// Parses a file that has signatures and no other packets.
fn parse_signatures(bytes: &[u8]) -> Result<Vec<Signature>, SignatureError> {
    let malformed = |error: anyhow::Error| SignatureError::Malformed(error.to_string());
    let mut signatures = Vec::new();
    let mut next = PacketParser::from_bytes(bytes).map_err(malformed)?;
    while let PacketParserResult::Some(parser) = next {
        let (packet, rest) = parser.next().map_err(malformed)?;
        match packet {
            Packet::Signature(signature) => signatures.push(signature),
            other => return Err(SignatureError::Malformed(format!("there is a {} in it", other.tag()))),
        }
        next = rest;
    }
    Ok(signatures)
}

/// SHA-512 of a member, which also serves to check a signature of that member without reading it
/// again.
#[derive(Clone)]
pub(super) struct MemberHash(Context);

impl MemberHash {
    #[expect(clippy::expect_used, reason = "SHA-512 is always built in")]
    pub(super) fn new() -> Self {
        Self(HashAlgorithm::SHA512.context().expect("there is SHA-512").for_signature(4))
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn finish(&self) -> Digest512 {
        let mut digest = [0; 64];
        // This fails for no hash that exists. The digest would then be all zeros, which no bytes
        // have.
        let _ = self.0.clone().digest(&mut digest);
        Digest(digest)
    }

    /// Returns the hash state that a signature is verified against.
    fn for_signature(&self, signature: &Signature, content: &mut dyn Read) -> openpgp::Result<Context> {
        if signature.hash_algo() == HashAlgorithm::SHA512 && signature.version() == 4 {
            return Ok(self.0.clone());
        }
        let mut context = signature.hash_algo().context()?.for_signature(signature.version());
        if let Some(salt) = signature.salt() {
            context.update(salt);
        }
        io::copy(content, &mut context)?;
        Ok(context)
    }
}
