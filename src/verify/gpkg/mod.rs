//! Parses a GPKG container (GLEP 78) as a stream. Of all members only the Manifest is kept in
//! memory.
//!
//! Portage opens a container with Python's `tarfile.open(file, "r")`, which tries gzip, bzip2, xz,
//! LZMA (and zstd from Python 3.14) before it reads a plain tar. One file can be a tar to this
//! program and a compressed tar to Portage. Therefore a file passes only if it can be nothing but a
//! tar. The file begins with the name field of a header, which is one of
//!
//! * `directory/name`, where the directory has only the characters of a PF;
//! * `././@LongLink`, the header of a GNU long name;
//! * a member's name that Portage itself gives, where the directory is in the prefix.
//!
//! No compressed file begins in one of these ways. LZMA has no magic, but its bytes 1 to 4 are the
//! window size: a power of two, or half as much again. All four bytes are printable here, and no
//! such number has four printable bytes. The directory's name is in no Manifest, so it is not
//! signed. This restriction is stricter than GLEP 78, which leaves the directory's name open.
//!
//! A long name has a header of its own only where it must have one, before a GNU header. Portage
//! never writes such a header for a short name.

pub(super) mod manifest;
pub(super) mod metadata;

use std::cell::Cell;
use std::fs::File;
use std::io::Read as _;
use std::mem;

use blake2::{Blake2b512, Digest as _};

use super::Digest512;
use super::decompress::FileSection;
use super::openpgp::MemberHash;
use super::tar_header::{BLOCK, Format, MAX_NAME, MemberKind, TarError, TarHeader, is_zero, padding};
use super::{Policy, SignatureError, VerifyError};
use crate::index::Digest;
use manifest::{ManifestError, ManifestRecord};

/// Most members of a container, Manifest included; Portage makes 4, or 6 with signatures.
const MAX_MEMBERS: usize = 64;
/// Largest Manifest in bytes.
const MAX_MANIFEST: u64 = 1 << 20;
/// Longest directory name and longest member name, in bytes: the limit of file systems.
const MAX_PART: usize = 255;
/// Name in the header that precedes a long name.
const LONG_LINK: &str = "././@LongLink";
const MANIFEST: &str = "Manifest";
const VERSION: &str = "gpkg-1";
/// Largest signature of a member, in bytes. Portage's signatures have some 800.
const MAX_SIGNATURE: u64 = 64 << 10;
/// Bytes after the metadata that hold its signature: a header and some 800 bytes, with room for
/// several keys.
const AFTER_METADATA: u64 = 8 << 10;
/// Ending of the names of signature members.
const SIGNATURE: &str = ".sig";
const METADATA: &str = "metadata.tar";
const IMAGE: &str = "image.tar";
/// Endings that may follow `metadata.tar` and `image.tar`: the compressions that Portage recognises
/// by their endings.
const COMPRESSIONS: [&str; 8] = ["", ".gz", ".bz2", ".lz4", ".lz", ".lzo", ".xz", ".zst"];

/// Why bytes are not a sound GPKG.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpkgError {
    /// A block is not the header of a member.
    #[error("{0}")]
    Tar(#[from] TarError),
    /// A member is not a regular file.
    #[error("{0:?} is not a regular file")]
    NotRegular(String),
    /// A member's name is not `directory/name` in the characters of a PF.
    #[error("the member name {0:?} is not one directory and one name of letters, digits, and `+_.-`")]
    Name(String),
    /// A GNU long name is too short, too long or malformed, or does not precede the member that it
    /// names.
    #[error("a GNU long name is not as Portage writes it: over {MAX_NAME} bytes, and right before its member")]
    LongName,
    /// Members are in two different directories.
    #[error("{0:?} is not in the directory of the members before it")]
    Directory(String),
    /// Two members have the same name.
    #[error("there are two members {0:?}")]
    Duplicate(String),
    /// The container has more than 64 members.
    #[error("there are more than {MAX_MEMBERS} members")]
    TooMany,
    /// The data of a member extends beyond SIZE.
    #[error("{0:?} goes on after the end of the package")]
    PastEnd(String),
    /// Bytes between two members are not zero.
    #[error("the padding after a member is not zero")]
    Padding,
    /// Bytes after the end of the tar are not zero.
    #[error("there is something after the end of the tar")]
    AfterEnd,
    /// The file ends before the two zero blocks at the end of the tar.
    #[error("the tar has no end")]
    Unfinished,
    /// A required member is missing.
    #[error("there is no member {0}")]
    Missing(&'static str),
    /// The container has two members where only one may be, e.g. `metadata.tar.xz` and
    /// `metadata.tar.zst`.
    #[error("there is more than one member {0}")]
    Ambiguous(&'static str),
    /// A member has an unknown compression ending, e.g. `image.tar.lol`. Portage does not find such
    /// a member.
    #[error("the ending of {0:?} is that of no compression that Portage knows")]
    Compression(String),
    /// Metadata or image is empty, and Portage cannot read an empty tar.
    #[error("{0:?} is empty")]
    Empty(String),
    /// Members are signed and the Manifest is not, or the other way round. Portage refuses both.
    #[error(
        "only a part of it is signed; emerge would refuse it, the binhost's operator has to sign it again (gpkg-sign)"
    )]
    HalfSigned,
    /// The Manifest has more than 1 MiB.
    #[error("the Manifest has more than {MAX_MANIFEST} bytes")]
    ManifestTooLarge,
    /// The Manifest is malformed.
    #[error("{0}")]
    Manifest(#[from] ManifestError),
    /// The Manifest does not name a member.
    #[error("the Manifest has no record of {0:?}")]
    NoRecord(String),
    /// The Manifest names a member that is not there.
    #[error("the Manifest has a record of {0:?}, which is not there")]
    NoMember(String),
    /// A member's size differs from the Manifest.
    #[error("{name:?} has {got} bytes, the Manifest says {expected}")]
    Size {
        /// Name of the member.
        name: String,
        /// Size in the Manifest.
        expected: u64,
        /// Size of the member.
        got: u64,
    },
    /// A member's digest differs from the Manifest.
    #[error("{name:?} does not have the {kind} of the Manifest")]
    Digest {
        /// Name of the member.
        name: String,
        /// Name of the digest: `SHA512` or `BLAKE2B`.
        kind: &'static str,
    },
    /// The bytes before these were refused.
    #[error("the bytes before these were refused already")]
    Refused,
}

/// A complete container, whose members have yet to be compared with its Manifest.
pub(super) struct Contents {
    members: Vec<Member>,
    pub(super) manifest: Vec<u8>,
    pub(super) metadata: MetadataMember,
    /// Whether metadata or image has no compression ending. Portage then decompresses it by the
    /// reader's own BINPKG_COMPRESS.
    pub(super) uncompressed: bool,
}

/// Position of the metadata tar in the container.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MetadataMember {
    pub(super) offset: u64,
    pub(super) size: u64,
    /// Compression ending of the name, without the dot; empty if there is none.
    pub(super) extension: String,
}

/// A member whose bytes have been digested.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) hash: MemberHash,
    blake2b: Digest512,
    /// Whether all bytes of the member were pushed. If not, the digests are meaningless
    /// ([`Container::leave_out_image`]).
    pub(super) is_whole: bool,
}

/// Parses a long name, which ends with one NUL.
fn long_name(bytes: &[u8]) -> Result<String, GpkgError> {
    let name = bytes.strip_suffix(&[0]).and_then(|name| std::str::from_utf8(name).ok());
    name.map(str::to_owned).ok_or(GpkgError::LongName)
}

/// Whether `size` is a possible length of a long name with its NUL.
fn is_long(size: u64) -> bool {
    usize::try_from(size).is_ok_and(|size| (MAX_NAME + 2..=2 * MAX_PART + 2).contains(&size))
}

/// Whether `part` has only the characters of a PF (PMS 3.1), to which members' names are limited,
/// too.
fn is_part(part: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = part.bytes();
    part.len() <= MAX_PART
        && bytes.next().is_some_and(word)
        && bytes.all(|byte| word(byte) || matches!(byte, b'+' | b'.' | b'-'))
}

/// Whether Portage itself gives this name to a member or to its signature.
fn is_known(name: &str) -> bool {
    let name = name.strip_suffix(SIGNATURE).unwrap_or(name);
    name == VERSION || name == MANIFEST || is_tar(METADATA, name) || is_tar(IMAGE, name)
}

/// Whether a member is the tar `stem`, compressed or not.
fn is_tar(stem: &str, name: &str) -> bool {
    name.strip_prefix(stem).is_some_and(|ending| COMPRESSIONS.contains(&ending))
}

/// The part of the tar to which the bytes after a header belong.
enum Part {
    Member(Box<Passing>),
    Manifest(Vec<u8>),
    LongName(Vec<u8>),
}

/// A member whose bytes are still arriving.
struct Passing {
    name: String,
    offset: u64,
    size: u64,
    hash: MemberHash,
    blake2b: Blake2b512,
}

enum State {
    /// Inside a header: number of bytes in `block` so far.
    Header(usize),
    /// Inside the data of a part: number of data bytes left, then number of padding bytes after
    /// them.
    Body(Part, u64, u64),
    /// Inside padding: number of bytes left.
    Padding(u64),
    /// After the first zero block: number of zero bytes so far.
    End(u64),
    Refused,
}

/// How much of the signed metadata is in the first bytes of a container.
pub(super) enum Front<'a> {
    /// The metadata and its signature are both complete.
    Signed { metadata: &'a Member, signature: &'a Member },
    /// Metadata or signature is incomplete. So many first bytes may contain both.
    Needs(u64),
    /// Other members are in front, or the signature does not follow the metadata.
    Elsewhere,
}

/// Streaming parser of a container. The caller passes all bytes to [`Container::push`], then calls
/// [`Container::finish`].
pub(super) struct Container {
    size: u64,
    position: u64,
    block: [u8; BLOCK],
    state: State,
    long_name: Option<String>,
    directory: Option<String>,
    members: Vec<Member>,
    manifest: Option<Vec<u8>>,
}

impl Container {
    /// Creates a parser for a package of `size` bytes.
    pub(super) fn new(size: u64) -> Self {
        let (position, block, state) = (0, [0; BLOCK], State::Header(0));
        Self { size, position, block, state, long_name: None, directory: None, members: Vec::new(), manifest: None }
    }

    /// Parses and digests the next bytes.
    pub(super) fn push(&mut self, mut chunk: &[u8]) -> Result<(), GpkgError> {
        while !chunk.is_empty() {
            let (state, used) = match mem::replace(&mut self.state, State::Refused) {
                State::Header(filled) => self.header(filled, chunk)?,
                State::Body(part, left, padding) => self.body(part, left, padding, chunk)?,
                State::Padding(left) => between(left, chunk)?,
                State::End(zeros) if is_zero(chunk) => (State::End(zeros + chunk.len() as u64), chunk.len()),
                State::End(_) => return Err(GpkgError::AfterEnd),
                State::Refused => return Err(GpkgError::Refused),
            };
            self.state = state;
            self.position += used as u64;
            chunk = chunk.get(used..).unwrap_or_default();
        }
        Ok(())
    }

    fn header(&mut self, filled: usize, chunk: &[u8]) -> Result<(State, usize), GpkgError> {
        let room = self.block.get_mut(filled..).unwrap_or_default();
        let used = room.len().min(chunk.len());
        room.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        let state = if filled + used < BLOCK {
            State::Header(filled + used)
        } else if !is_zero(&self.block) {
            self.open(self.position + used as u64)?
        } else if self.long_name.is_none() {
            State::End(BLOCK as u64)
        } else {
            return Err(GpkgError::LongName);
        };
        Ok((state, used))
    }

    /// Parses a complete header, and opens its part, which starts at `offset`.
    fn open(&mut self, offset: u64) -> Result<State, GpkgError> {
        let TarHeader { name, size, kind, format } = TarHeader::parse(&self.block)?;
        if size > self.size.saturating_sub(offset) {
            return Err(GpkgError::PastEnd(name));
        }
        let part = match (kind, self.long_name.take()) {
            (MemberKind::Regular, Some(long)) => {
                if format != Format::Gnu || long.get(..MAX_NAME) != Some(&*name) {
                    return Err(GpkgError::LongName);
                }
                self.open_member(long, offset, size)?
            }
            (MemberKind::Regular, None) => {
                // The file would begin with the member's name, so only a known name may pass.
                let split = format == (Format::Ustar { split: true });
                if split && !name.rsplit('/').next().is_some_and(is_known) {
                    return Err(GpkgError::Name(name));
                }
                self.open_member(name, offset, size)?
            }
            (MemberKind::LongName, None) if format == Format::Gnu && name == LONG_LINK && is_long(size) => {
                Part::LongName(Vec::new())
            }
            (MemberKind::LongName, _) => return Err(GpkgError::LongName),
            (MemberKind::Other, _) => return Err(GpkgError::NotRegular(name)),
        };
        if size > 0 {
            return Ok(State::Body(part, size, padding(size)));
        }
        self.close(part)?;
        Ok(State::Header(0))
    }

    fn open_member(&mut self, path: String, offset: u64, size: u64) -> Result<Part, GpkgError> {
        let name = match path.split_once('/') {
            Some((directory, name)) if is_part(directory) && is_part(name) => {
                if self.directory.get_or_insert_with(|| directory.to_owned()) != directory {
                    return Err(GpkgError::Directory(path));
                }
                name.to_owned()
            }
            _ => return Err(GpkgError::Name(path)),
        };
        if self.members.len() + usize::from(self.manifest.is_some()) >= MAX_MEMBERS {
            return Err(GpkgError::TooMany);
        }
        if self.members.iter().any(|member| member.name == name) || (name == MANIFEST && self.manifest.is_some()) {
            return Err(GpkgError::Duplicate(name));
        }
        if name == MANIFEST {
            return if size <= MAX_MANIFEST {
                Ok(Part::Manifest(Vec::new()))
            } else {
                Err(GpkgError::ManifestTooLarge)
            };
        }
        let (hash, blake2b) = (MemberHash::new(), Blake2b512::new());
        Ok(Part::Member(Box::new(Passing { name, offset, size, hash, blake2b })))
    }

    fn body(&mut self, mut part: Part, left: u64, padding: u64, chunk: &[u8]) -> Result<(State, usize), GpkgError> {
        let bytes = first(chunk, left);
        match &mut part {
            Part::Member(passing) => {
                passing.hash.update(bytes);
                passing.blake2b.update(bytes);
            }
            Part::Manifest(kept) | Part::LongName(kept) => kept.extend_from_slice(bytes),
        }
        let left = left - bytes.len() as u64;
        if left > 0 {
            return Ok((State::Body(part, left, padding), bytes.len()));
        }
        self.close(part)?;
        Ok((after_padding(padding), bytes.len()))
    }

    /// Closes a part whose bytes are complete.
    fn close(&mut self, part: Part) -> Result<(), GpkgError> {
        match part {
            Part::LongName(bytes) => self.long_name = Some(long_name(&bytes)?),
            Part::Manifest(bytes) => self.manifest = Some(bytes),
            Part::Member(passing) => self.members.push(passing.close(true)),
        }
        Ok(())
    }

    /// Leaves out the rest of the image, if the bytes so far end within it. Returns the offset in
    /// the package of the bytes to push next.
    ///
    /// The offsets of members are then right only in a file that has exactly the pushed bytes.
    pub(super) fn leave_out_image(&mut self) -> u64 {
        match mem::replace(&mut self.state, State::Refused) {
            State::Body(Part::Member(passing), left, padding) if is_tar(IMAGE, &passing.name) => {
                self.members.push(passing.close(false));
                self.state = after_padding(padding);
                // The state now describes a package that is smaller by the bytes left out.
                self.size = self.size.saturating_sub(left);
                self.position + left
            }
            state => {
                self.state = state;
                self.position
            }
        }
    }

    /// Returns the metadata member, if all of it was pushed.
    pub(super) fn metadata(&self) -> Option<&Member> {
        self.members.iter().find(|member| is_tar(METADATA, &member.name) && member.size > 0)
    }

    /// Looks for the metadata and its signature in the first bytes.
    pub(super) fn front(&self) -> Front<'_> {
        let named = |name: &str| self.members.iter().find(|member| member.name == name);
        let metadata = self.metadata();
        let signature = metadata.and_then(|metadata| {
            // Portage does not find a signature that stands before its member.
            named(&format!("{}{SIGNATURE}", metadata.name)).filter(|signature| signature.offset > metadata.offset)
        });
        if let (Some(metadata), Some(signature)) = (metadata, signature) {
            return Front::Signed { metadata, signature };
        }
        let is_front = |name: &str| name == VERSION || name.starts_with(METADATA);
        let (passing, left) = match &self.state {
            State::Body(Part::Member(passing), left, padding) => (Some(passing.name.as_str()), left + padding),
            State::Body(_, left, padding) => (None, left + padding),
            State::Padding(left) => (None, *left),
            State::Header(_) => (None, 0),
            State::End(_) | State::Refused => return Front::Elsewhere,
        };
        let names = self.members.iter().map(|member| member.name.as_str()).chain(passing);
        if names.into_iter().all(is_front) && self.manifest.is_none() {
            Front::Needs(self.position.saturating_add(left).saturating_add(AFTER_METADATA))
        } else {
            Front::Elsewhere
        }
    }

    /// Checks the container as a whole, after all bytes were pushed.
    pub(super) fn finish(mut self) -> Result<Contents, GpkgError> {
        match self.state {
            State::End(zeros) if zeros >= 2 * BLOCK as u64 => {}
            State::Refused => return Err(GpkgError::Refused),
            _ => return Err(GpkgError::Unfinished),
        }
        let manifest = self.manifest.take().ok_or(GpkgError::Missing(MANIFEST))?;
        if !self.members.iter().any(|member| member.name == VERSION) {
            return Err(GpkgError::Missing(VERSION));
        }
        let (_, image) = self.only_one(IMAGE)?;
        let (metadata, ending) = self.only_one(METADATA)?;
        let uncompressed = image.is_empty() || ending.is_empty();
        let metadata = metadata.as_metadata();
        Ok(Contents { members: self.members, manifest, metadata, uncompressed })
    }

    /// Returns the one member that is named `stem` plus a compression ending, and that ending.
    fn only_one(&self, stem: &'static str) -> Result<(&Member, &str), GpkgError> {
        let mut all = self.members.iter().filter_map(|member| {
            let ending = member.name.strip_prefix(stem)?;
            let other = ending.ends_with(SIGNATURE) || !(ending.is_empty() || ending.starts_with('.'));
            (!other).then_some((member, ending))
        });
        let (member, ending) = all.next().ok_or(GpkgError::Missing(stem))?;
        if all.next().is_some() {
            return Err(GpkgError::Ambiguous(stem));
        }
        if !COMPRESSIONS.contains(&ending) {
            return Err(GpkgError::Compression(member.name.clone()));
        }
        if member.size == 0 {
            return Err(GpkgError::Empty(member.name.clone()));
        }
        Ok((member, ending))
    }
}

/// Returns the first `count` bytes of `chunk`, or all of it.
fn first(chunk: &[u8], count: u64) -> &[u8] {
    usize::try_from(count).ok().and_then(|count| chunk.get(..count)).unwrap_or(chunk)
}

fn after_padding(left: u64) -> State {
    if left > 0 { State::Padding(left) } else { State::Header(0) }
}

fn between(left: u64, chunk: &[u8]) -> Result<(State, usize), GpkgError> {
    let bytes = first(chunk, left);
    if !is_zero(bytes) {
        return Err(GpkgError::Padding);
    }
    Ok((after_padding(left - bytes.len() as u64), bytes.len()))
}

impl Contents {
    /// All members except the Manifest.
    #[cfg(test)]
    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Checks that each member has a matching record in the Manifest, and each record a member.
    pub(super) fn compare(&self, mut records: Vec<ManifestRecord>) -> Result<(), GpkgError> {
        for Member { name, size, hash, blake2b, is_whole, .. } in &self.members {
            let name = || name.clone();
            let at = records.iter().position(|r| r.name == name()).ok_or_else(|| GpkgError::NoRecord(name()))?;
            let record = records.swap_remove(at);
            if record.size != *size {
                return Err(GpkgError::Size { name: name(), expected: record.size, got: *size });
            }
            if !is_whole {
                // The digest cannot be checked, since the member's bytes were left out.
                continue;
            }
            if record.sha512 != hash.finish() {
                return Err(GpkgError::Digest { name: name(), kind: "SHA512" });
            }
            if record.blake2b != *blake2b {
                return Err(GpkgError::Digest { name: name(), kind: "BLAKE2B" });
            }
        }
        records.pop().map_or(Ok(()), |record| Err(GpkgError::NoMember(record.name)))
    }

    /// Checks that Portage on this machine can decompress the members.
    ///
    /// # Errors
    /// The container has members without a compression ending, and the policy refuses these.
    pub(super) fn readable(&self, policy: &Policy) -> Result<(), VerifyError> {
        if self.uncompressed && !policy.uncompressed { Err(VerifyError::Uncompressed) } else { Ok(()) }
    }

    /// Whether any member is a signature.
    pub(super) fn has_signatures(&self) -> bool {
        self.members.iter().any(|member| member.name.ends_with(SIGNATURE))
    }

    /// Returns the first member that lacks a required signature. A signature before its member does
    /// not count, since Portage does not find it.
    pub(super) fn unsigned(&self) -> Option<&Member> {
        let signed = |at: usize, member: &Member| {
            let name = format!("{}{SIGNATURE}", member.name);
            self.members.iter().skip(at).any(|other| other.name == name)
        };
        let exempt = |member: &Member| member.name == VERSION || member.name.ends_with(SIGNATURE);
        let mut all = self.members.iter().enumerate();
        all.find(|(at, member)| !exempt(member) && !signed(*at, member)).map(|(_, member)| member)
    }

    /// Iterates over the signature members, each with the member that it signs, if that exists.
    pub(super) fn signatures(&self) -> impl Iterator<Item = (&Member, Option<&Member>)> {
        self.members.iter().filter_map(|signature| {
            let signed = signature.name.strip_suffix(SIGNATURE)?;
            Some((signature, self.members.iter().find(|member| member.name == signed)))
        })
    }
}

impl Passing {
    fn close(self, is_whole: bool) -> Member {
        let Self { name, offset, size, hash, blake2b } = self;
        Member { name, offset, size, hash, blake2b: Digest(blake2b.finalize().into()), is_whole }
    }
}

impl Member {
    /// Returns the position of this member as metadata.
    pub(super) fn as_metadata(&self) -> MetadataMember {
        let ending = self.name.strip_prefix(METADATA).unwrap_or_default();
        MetadataMember { offset: self.offset, size: self.size, extension: ending.trim_start_matches('.').to_owned() }
    }

    /// Reads the bytes of a signature.
    pub(super) fn read(&self, file: &File) -> Result<Vec<u8>, VerifyError> {
        if self.size > MAX_SIGNATURE {
            let fault = format!("it has more than {MAX_SIGNATURE} bytes");
            return Err(SignatureError::Malformed(fault).of(&self.name));
        }
        let (mut bytes, failure) = (Vec::new(), Cell::new(None));
        let read = FileSection::new(file, self.offset, self.size, &failure).read_to_end(&mut bytes);
        read.map_err(VerifyError::io("reading a package back from the cache"))?;
        Ok(bytes)
    }
}
