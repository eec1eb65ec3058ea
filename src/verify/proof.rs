//! The proof of one package: digests, container, signatures and metadata, for bytes from any
//! source.

use std::cell::Cell;
use std::fs::File;
use std::thread;

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::decompress::FileSection;
use super::format::{MAGIC, MAGIC_AT, PackageFormat as Format};
use super::gpkg::{Container, Contents, GpkgError, Member};
use super::gpkg::{manifest, metadata};
use super::openpgp::Keys;
use super::{Assurance, Policy, SignatureError, Signer, VerifyError, xpak};
use crate::index::{AuxValues, Digest, Entry, Sha256Digest};

/// Smallest chunk, in bytes, for which a second thread pays off. The digests of such a chunk take
/// about 0.5 ms, starting a thread about 0.03 ms.
const WORTH_A_THREAD: usize = 128 << 10;

/// State of an unfinished proof.
pub(super) struct Proof {
    whole: WholeDigests,
    structure: Structure,
    two_processors: bool,
}

/// Digests of the whole file. A digest that the entry lacks is not computed.
struct WholeDigests {
    md5: Option<Md5>,
    sha1: Option<Sha1>,
    sha256: Sha256,
}

/// Parser for the container, fed while the bytes arrive.
enum Structure {
    Gpkg(Box<Container>),
    /// An XPAK has its segment at the end: nothing is parsed before the last byte.
    Xpak,
    /// PATH has no known ending. The first bytes, collected here, decide the format.
    Undecided(Vec<u8>),
}

impl Proof {
    pub(super) fn new(entry: &Entry) -> Self {
        let sha256 = Sha256::new();
        let whole = WholeDigests { md5: entry.md5.map(|_| Md5::new()), sha1: entry.sha1.map(|_| Sha1::new()), sha256 };
        let two_processors = thread::available_parallelism().is_ok_and(|count| count.get() >= 2);
        Self { whole, structure: Structure::by_name(entry), two_processors }
    }

    /// Digests the next bytes and parses the container.
    pub(super) fn update(&mut self, chunk: &[u8], entry: &Entry, policy: &Policy) -> Result<(), VerifyError> {
        self.digest(chunk, entry)?;
        self.structure.allowed(policy)
    }

    fn digest(&mut self, chunk: &[u8], entry: &Entry) -> Result<(), GpkgError> {
        let Self { whole, structure, two_processors } = self;
        let beside = *two_processors && matches!(structure, Structure::Gpkg(_)) && chunk.len() >= WORTH_A_THREAD;
        if !beside {
            whole.update(chunk);
            return structure.update(chunk, entry);
        }
        // Two of the five digests are computed on this thread, the other three on the second one.
        let (beside, result) = thread::scope(|scope| {
            let beside = thread::Builder::new().spawn_scoped(scope, || whole.update(chunk)).is_ok();
            (beside, structure.update(chunk, entry))
        });
        if !beside {
            whole.update(chunk);
        }
        result
    }

    /// Judges the package after its last byte. All `entry.size` bytes were pushed, and `file` has
    /// them.
    ///
    /// Signatures are judged before metadata is read: bytes without a required signature are never
    /// decompressed.
    pub(super) fn finish(
        self,
        file: &File,
        entry: &Entry,
        policy: &Policy,
    ) -> Result<(Sha256Digest, Assurance, AuxValues), VerifyError> {
        let digest = self.whole.finish(entry)?;
        let (values, assurance) = match self.structure {
            Structure::Gpkg(container) => {
                let contents = container.finish()?;
                let assurance =
                    Assurance { signer: judge(&contents, file, policy)?, uncompressed: contents.uncompressed };
                contents.readable(policy)?;
                (metadata::read(file, &contents.metadata)?, assurance)
            }
            Structure::Xpak | Structure::Undecided(_) => {
                Structure::Xpak.allowed(policy)?;
                (xpak::read(file, entry.size)?, Assurance::default())
            }
        };
        values.check(entry)?;
        Ok((digest, assurance, values.aux_values()))
    }
}

/// Compares the Manifest with the members and checks signatures. Returns the signer, or `None` if
/// the policy has no keyring.
fn judge(contents: &Contents, file: &File, policy: &Policy) -> Result<Option<Signer>, VerifyError> {
    let Some(keyring) = &policy.keyring else {
        let signed = manifest::is_signed(&contents.manifest).map_err(GpkgError::from)?;
        contents.compare(manifest::parse(&contents.manifest).map_err(GpkgError::from)?)?;
        // Portage checks signatures wherever a package has some, even if the binhost does not
        // require them.
        let whole = if signed { contents.unsigned().is_none() } else { !contents.has_signatures() };
        return if whole { Ok(None) } else { Err(GpkgError::HalfSigned.into()) };
    };
    let keys = keyring.current();
    let signer = signer_of_manifest(contents, &keys)?;
    Ok(Some(members(contents, file, &keys, signer)?))
}

/// Returns the signer of the Manifest, after comparing the signed text with all members.
pub(super) fn signer_of_manifest(contents: &Contents, keys: &Keys) -> Result<Signer, VerifyError> {
    if !manifest::is_signed(&contents.manifest).map_err(GpkgError::from)? {
        return Err(SignatureError::Missing.of("the Manifest"));
    }
    let (text, signer) = keys.cleartext(&contents.manifest).map_err(|fault| fault.of("the Manifest"))?;
    contents.compare(manifest::parse_text(&text).map_err(GpkgError::from)?)?;
    Ok(signer)
}

/// Checks the signatures of members. The Manifest, signed by `signer`, already covers all members.
/// Portage nevertheless requires a signature of each member, and refuses a wrong one.
///
/// Portage's tools can keep the member signatures of an older key when they sign a package again
/// (`gpkg-sign --keep-current-signature`). The returned signer then depends on both keys.
pub(super) fn members(contents: &Contents, file: &File, keys: &Keys, signer: Signer) -> Result<Signer, VerifyError> {
    if let Some(member) = contents.unsigned() {
        return Err(SignatureError::MemberUnsigned.of(&member.name));
    }
    let mut beside = None;
    for (signature, signed) in contents.signatures() {
        let Some(signed) = signed else {
            return Err(SignatureError::Malformed("there is no such member".to_owned()).of(&signature.name));
        };
        if !signed.is_whole {
            // The signed bytes were left out, so this signature cannot be checked.
            continue;
        }
        let theirs = signer_of(signed, signature, file, keys)?;
        if theirs != signer && *beside.get_or_insert(theirs) != theirs {
            return Err(SignatureError::ManyKeys.of(&signed.name));
        }
    }
    Ok(beside.map_or(signer, |other| signer.beside(&other)))
}

/// Returns the signer of one member of the container in `file`.
pub(super) fn signer_of(signed: &Member, signature: &Member, file: &File, keys: &Keys) -> Result<Signer, VerifyError> {
    let bytes = signature.read(file)?;
    let failure = Cell::new(None);
    let result = keys.detached(&bytes, &signed.hash, || FileSection::new(file, signed.offset, signed.size, &failure));
    if let Some(source) = failure.take() {
        return Err(VerifyError::Io { attempted: "reading a package back from the cache", source });
    }
    result.map_err(|fault| fault.of(&signed.name))
}

impl WholeDigests {
    fn update(&mut self, chunk: &[u8]) {
        self.md5.iter_mut().for_each(|md5| md5.update(chunk));
        self.sha1.iter_mut().for_each(|sha1| sha1.update(chunk));
        self.sha256.update(chunk);
    }

    fn finish(self, entry: &Entry) -> Result<Sha256Digest, VerifyError> {
        same("MD5", entry.md5, self.md5.map(|md5| Digest(md5.finalize().into())))?;
        same("SHA1", entry.sha1, self.sha1.map(|sha1| Digest(sha1.finalize().into())))?;
        Ok(Digest(self.sha256.finalize().into()))
    }
}

fn same<const N: usize>(
    kind: &'static str,
    expected: Option<Digest<N>>,
    got: Option<Digest<N>>,
) -> Result<(), VerifyError> {
    match (expected, got) {
        (Some(expected), Some(got)) if expected != got => {
            Err(VerifyError::Digest { kind, expected: expected.to_string(), got: got.to_string() })
        }
        _ => Ok(()),
    }
}

impl Structure {
    /// Refuses an XPAK at once if signatures are required: an XPAK cannot be signed, so its
    /// download need not finish.
    fn allowed(&self, policy: &Policy) -> Result<(), VerifyError> {
        match self {
            Self::Xpak if policy.keyring.is_some() => Err(VerifyError::Unsignable),
            _ => Ok(()),
        }
    }

    fn by_name(entry: &Entry) -> Self {
        match Format::by_name(entry.path.as_str()) {
            Some(Format::Gpkg) => Self::Gpkg(Box::new(Container::new(entry.size))),
            Some(Format::Xpak) => Self::Xpak,
            None => Self::Undecided(Vec::new()),
        }
    }

    fn update(&mut self, chunk: &[u8], entry: &Entry) -> Result<(), GpkgError> {
        match self {
            Self::Gpkg(container) => container.push(chunk),
            Self::Xpak => Ok(()),
            Self::Undecided(kept) => {
                let missing = (MAGIC_AT + MAGIC.len()).saturating_sub(kept.len()).min(chunk.len());
                let (head, rest) = chunk.split_at_checked(missing).unwrap_or((chunk, &[]));
                kept.extend_from_slice(head);
                if kept.len() < MAGIC_AT + MAGIC.len() {
                    return Ok(());
                }
                if !kept.ends_with(MAGIC) {
                    *self = Self::Xpak;
                    return Ok(());
                }
                let mut container = Box::new(Container::new(entry.size));
                let result = container.push(kept).and_then(|()| container.push(rest));
                *self = Self::Gpkg(container);
                result
            }
        }
    }
}
