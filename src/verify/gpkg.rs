//! The GPKG container (GLEP 78), taken apart while it streams past; nothing of a member but its Manifest is kept.
//!
//! Portage opens a container with Python's `tarfile.open(file, "r")`, which tries gzip, bzip2, xz, LZMA (and zstd from
//! Python 3.14) before it reads a plain tar. One file can be a tar to this program and a compressed tar to Portage, so
//! only what can be nothing but a tar passes. The name's field of a header begins the file, and is one of
//!
//! * `directory/name`, where the directory has only the characters of a PF;
//! * `././@LongLink`, the header of a GNU long name;
//! * a member's name that Portage itself gives, where the directory is in the prefix.
//!
//! None begins like a compressed file. LZMA has no magic: a size of its window stands in the bytes 1 to 4, a power of two
//! or half as much again, and all four of these bytes are printable here, which no such number allows. The directory is
//! in no Manifest, so nobody signs it: that is stricter than GLEP 78, which leaves its name open.
//!
//! A long name stands before a GNU header and only where it has to: a header of its own for a short name is no form that
//! Portage writes.

use std::cell::Cell;
use std::fs::File;
use std::io::Read as _;
use std::mem;

use blake2::{Blake2b512, Digest as _};

use super::decompress::FileSection;
use super::manifest::{Digest512, ManifestError, ManifestRecord};
use super::openpgp::MemberHash;
use super::tar_header::{BLOCK, Format, Kind, MAX_NAME, TarError, TarHeader, is_zero, padding};
use super::{Policy, SignatureError, VerifyError};
use crate::index::Digest;

/// Most members of a container, Manifest included; Portage makes 4, or 6 with signatures.
const MAX_MEMBERS: usize = 64;
/// Largest Manifest in bytes.
const MAX_MANIFEST: u64 = 1 << 20;
/// Longest directory, and longest name in it, in bytes: what a file system takes.
const MAX_PART: usize = 255;
/// Name of the header in front of a long name.
const LONG_LINK: &str = "././@LongLink";
const MANIFEST: &str = "Manifest";
const VERSION: &str = "gpkg-1";
/// Largest signature of a member in bytes; Portage's have some 800.
const MAX_SIGNATURE: u64 = 64 << 10;
/// Bytes after the metadata that have its signature: a header and some 800 bytes, with room for several keys.
const AFTER_METADATA: u64 = 8 << 10;
/// Ending of their names.
const SIGNATURE: &str = ".sig";
const METADATA: &str = "metadata.tar";
const IMAGE: &str = "image.tar";
/// What follows `metadata.tar` and `image.tar`: the compressions that Portage tells by their endings.
const COMPRESSIONS: [&str; 8] = ["", ".gz", ".bz2", ".lz4", ".lz", ".lzo", ".xz", ".zst"];

/// Why bytes are not a sound GPKG.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpkgError {
    /// A block is not the header of a member.
    #[error("{0}")]
    Tar(#[from] TarError),
    /// Something else than a regular file.
    #[error("{0:?} is not a regular file")]
    NotRegular(String),
    /// Not `directory/name` in the characters of a PF.
    #[error("the member name {0:?} is not one directory and one name of letters, digits, and `+_.-`")]
    Name(String),
    /// A GNU long name that is too short or too long, malformed, or not in front of the member that it names.
    #[error("a GNU long name is not as Portage writes it: over {MAX_NAME} bytes, and right before its member")]
    LongName,
    /// Members in two directories.
    #[error("{0:?} is not in the directory of the members before it")]
    Directory(String),
    /// Two members of one name.
    #[error("there are two members {0:?}")]
    Duplicate(String),
    /// More than 64 members.
    #[error("there are more than {MAX_MEMBERS} members")]
    TooMany,
    /// A member goes on beyond SIZE.
    #[error("{0:?} goes on after the end of the package")]
    PastEnd(String),
    /// Bytes that are not zero between two members.
    #[error("the padding after a member is not zero")]
    Padding,
    /// Bytes that are not zero after the end of the tar.
    #[error("there is something after the end of the tar")]
    AfterEnd,
    /// The file ends before the two zero blocks at the end of the tar.
    #[error("the tar has no end")]
    Unfinished,
    /// A member that must be there.
    #[error("there is no member {0}")]
    Missing(&'static str),
    /// Two members where only one may be, e.g. `metadata.tar.xz` and `metadata.tar.zst`.
    #[error("there is more than one member {0}")]
    Ambiguous(&'static str),
    /// `image.tar.lol`: Portage knows no such compression, and does not find the member.
    #[error("the ending of {0:?} is that of no compression that Portage knows")]
    Compression(String),
    /// Portage cannot read an empty tar.
    #[error("{0:?} is empty")]
    Empty(String),
    /// Signatures of members without one of the Manifest, or the other way round; Portage refuses both.
    #[error(
        "only a part of it is signed; emerge would refuse it, whoever runs the binhost has to sign it anew (gpkg-sign)"
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
    /// A member has another size.
    #[error("{name:?} has {got} bytes, the Manifest says {expected}")]
    Size {
        /// The member.
        name: String,
        /// That of the Manifest.
        expected: u64,
        /// That of the member.
        got: u64,
    },
    /// A member has another digest.
    #[error("{name:?} does not have the {kind} of the Manifest")]
    Digest {
        /// The member.
        name: String,
        /// `SHA512` or `BLAKE2B`.
        kind: &'static str,
    },
    /// Bytes after a fault.
    #[error("the bytes before these were refused already")]
    Refused,
}

/// A whole container: what it has inside still has to be compared with its Manifest.
pub(super) struct Contents {
    members: Vec<Member>,
    pub(super) manifest: Vec<u8>,
    pub(super) metadata: MetadataMember,
    /// Metadata or image has no ending: Portage decompresses it by the reader's own BINPKG_COMPRESS.
    pub(super) uncompressed: bool,
}

/// Where the metadata tar is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MetadataMember {
    pub(super) offset: u64,
    pub(super) size: u64,
    /// Of its compression, without the dot; empty where there is none.
    pub(super) extension: String,
}

/// A member that has passed.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) hash: MemberHash,
    blake2b: Digest512,
    /// Whether all its bytes were pushed. `false`: its digests are of no use ([`Container::leave_out_image`]).
    pub(super) is_whole: bool,
}

/// A long name with the NUL that ends it.
fn long_name(bytes: &[u8]) -> Result<String, GpkgError> {
    let name = bytes.strip_suffix(&[0]).and_then(|name| std::str::from_utf8(name).ok());
    name.map(str::to_owned).ok_or(GpkgError::LongName)
}

/// The lengths of long names, with their NUL.
fn is_long(size: u64) -> bool {
    usize::try_from(size).is_ok_and(|size| (MAX_NAME + 2..=2 * MAX_PART + 2).contains(&size))
}

/// The characters of a PF (PMS 3.1), and of the members' names.
fn is_part(part: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = part.bytes();
    part.len() <= MAX_PART
        && bytes.next().is_some_and(word)
        && bytes.all(|byte| word(byte) || matches!(byte, b'+' | b'.' | b'-'))
}

/// What Portage names a member, signatures included.
fn is_known(name: &str) -> bool {
    let name = name.strip_suffix(SIGNATURE).unwrap_or(name);
    name == VERSION || name == MANIFEST || is_tar(METADATA, name) || is_tar(IMAGE, name)
}

/// Whether a member is the tar `stem`, compressed or not.
fn is_tar(stem: &str, name: &str) -> bool {
    name.strip_prefix(stem).is_some_and(|ending| COMPRESSIONS.contains(&ending))
}

/// What the bytes after a header belong to.
enum Part {
    Member(Box<Passing>),
    Manifest(Vec<u8>),
    LongName(Vec<u8>),
}

/// A member that is passing.
struct Passing {
    name: String,
    offset: u64,
    size: u64,
    hash: MemberHash,
    blake2b: Blake2b512,
}

enum State {
    /// Bytes of `block` that are filled.
    Header(usize),
    /// Bytes of the part and of padding after it that are to come.
    Body(Part, u64, u64),
    /// Bytes that are to come.
    Padding(u64),
    /// Zero bytes at the end so far.
    End(u64),
    Refused,
}

/// What the first bytes of a container have.
pub(super) enum Front<'a> {
    /// Metadata, and the signature of that.
    Signed { metadata: &'a Member, signature: &'a Member },
    /// Not all of it: so many bytes may have.
    Needs(u64),
    /// Something else.
    Elsewhere,
}

/// The machine: [`Container::push`] all bytes, then [`Container::finish`].
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
    /// For a package of `size` bytes.
    pub(super) fn new(size: u64) -> Self {
        let (position, block, state) = (0, [0; BLOCK], State::Header(0));
        Self { size, position, block, state, long_name: None, directory: None, members: Vec::new(), manifest: None }
    }

    /// Takes the next bytes.
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

    /// A whole header is there, and its part starts at `offset`.
    fn open(&mut self, offset: u64) -> Result<State, GpkgError> {
        let TarHeader { name, size, kind, format } = TarHeader::parse(&self.block)?;
        if size > self.size.saturating_sub(offset) {
            return Err(GpkgError::PastEnd(name));
        }
        let part = match (kind, self.long_name.take()) {
            (Kind::Regular, Some(long)) => {
                if format != Format::Gnu || long.get(..MAX_NAME) != Some(&*name) {
                    return Err(GpkgError::LongName);
                }
                self.open_member(long, offset, size)?
            }
            (Kind::Regular, None) => {
                // The file would begin with the member's name.
                let split = format == (Format::Ustar { split: true });
                if split && !name.rsplit('/').next().is_some_and(is_known) {
                    return Err(GpkgError::Name(name));
                }
                self.open_member(name, offset, size)?
            }
            (Kind::LongName, None) if format == Format::Gnu && name == LONG_LINK && is_long(size) => {
                Part::LongName(Vec::new())
            }
            (Kind::LongName, _) => return Err(GpkgError::LongName),
            (Kind::Other, _) => return Err(GpkgError::NotRegular(name)),
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

    /// The whole part is there.
    fn close(&mut self, part: Part) -> Result<(), GpkgError> {
        match part {
            Part::LongName(bytes) => self.long_name = Some(long_name(&bytes)?),
            Part::Manifest(bytes) => self.manifest = Some(bytes),
            Part::Member(passing) => self.members.push(passing.close(true)),
        }
        Ok(())
    }

    /// Leaves out what is missing of the image, if the bytes so far end within it. Returns the offset in the package of
    /// the bytes to be pushed next. In a file of what was pushed, and only there, the offsets of members are right.
    pub(super) fn leave_out_image(&mut self) -> u64 {
        match mem::replace(&mut self.state, State::Refused) {
            State::Body(Part::Member(passing), left, padding) if is_tar(IMAGE, &passing.name) => {
                self.members.push(passing.close(false));
                self.state = after_padding(padding);
                // From here on this is the machine of a package that has so many bytes less.
                self.size = self.size.saturating_sub(left);
                self.position + left
            }
            state => {
                self.state = state;
                self.position
            }
        }
    }

    /// The metadata, if all of it was pushed.
    pub(super) fn metadata(&self) -> Option<&Member> {
        self.members.iter().find(|member| is_tar(METADATA, &member.name) && member.size > 0)
    }

    /// The metadata and its signature, as far as that shows in the first bytes.
    pub(super) fn front(&self) -> Front<'_> {
        let named = |name: &str| self.members.iter().find(|member| member.name == name);
        let metadata = self.metadata();
        let signature = metadata.and_then(|metadata| {
            // Portage does not find one that stands before its member.
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

    /// All bytes were pushed: checks what can only be known now.
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

    /// The one member that is `stem` and the ending of a compression, and that ending.
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

/// The first `count` bytes of `chunk`, or all.
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
    /// The members but the Manifest.
    #[cfg(test)]
    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Every member has its record, every record its member, and they agree.
    pub(super) fn compare(&self, mut records: Vec<ManifestRecord>) -> Result<(), GpkgError> {
        for Member { name, size, hash, blake2b, is_whole, .. } in &self.members {
            let name = || name.clone();
            let at = records.iter().position(|r| r.name == name()).ok_or_else(|| GpkgError::NoRecord(name()))?;
            let record = records.swap_remove(at);
            if record.size != *size {
                return Err(GpkgError::Size { name: name(), expected: record.size, got: *size });
            }
            if !is_whole {
                // Its signed record tells what it would have to be.
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

    /// # Errors
    /// Portage on this machine cannot decompress its members.
    pub(super) fn readable(&self, policy: &Policy) -> Result<(), VerifyError> {
        if self.uncompressed && !policy.uncompressed { Err(VerifyError::Uncompressed) } else { Ok(()) }
    }

    /// Whether a member is a signature.
    pub(super) fn has_signatures(&self) -> bool {
        self.members.iter().any(|member| member.name.ends_with(SIGNATURE))
    }

    /// The first member that has no signature and should have one. Portage does not find a signature that stands before
    /// its member.
    pub(super) fn unsigned(&self) -> Option<&Member> {
        let signed = |at: usize, member: &Member| {
            let name = format!("{}{SIGNATURE}", member.name);
            self.members.iter().skip(at).any(|other| other.name == name)
        };
        let exempt = |member: &Member| member.name == VERSION || member.name.ends_with(SIGNATURE);
        let mut all = self.members.iter().enumerate();
        all.find(|(at, member)| !exempt(member) && !signed(*at, member)).map(|(_, member)| member)
    }

    /// Members that are signatures, each with the member that it signs, where that is there.
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
    /// As a place of metadata.
    pub(super) fn as_metadata(&self) -> MetadataMember {
        let ending = self.name.strip_prefix(METADATA).unwrap_or_default();
        MetadataMember { offset: self.offset, size: self.size, extension: ending.trim_start_matches('.').to_owned() }
    }

    /// The bytes of a signature.
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
