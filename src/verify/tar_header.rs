//! One header block of a tar -> name, size, kind; refuses what two readers of tar could read differently.

use tar::{EntryType, Header};

/// Bytes of a block.
pub(super) const BLOCK: usize = 512;
/// Where ustar keeps the first part of a long name; GNU headers have other fields there.
const PREFIX_FIELD: std::ops::Range<usize> = 345..500;

/// Why a block is not a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// Neither ustar nor GNU.
    #[error("a tar header has neither the ustar nor the GNU magic")]
    Magic,
    /// Its sum is another one.
    #[error("a tar header has a wrong checksum")]
    Checksum,
    /// Checksum or size is not a number, or one that Portage reads differently.
    #[error("a tar header has a malformed number")]
    Number,
    /// GNU fields where Portage looks for the beginning of the name.
    #[error("a tar header has GNU extension fields")]
    Extension,
    /// A directory with a size, or a file with a name of one. What follows belongs to it for this program and is the next
    /// header for Python's tarfile, and so for Portage.
    #[error("a tar header is that of both a directory and a file")]
    Directory,
    /// Not UTF-8, or with control characters.
    #[error("a tar header has a name that is not plain text")]
    Name,
}

/// What follows a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Regular,
    Directory,
    /// GNU: the name of the next member.
    LongName,
    Other,
}

/// What a header says.
#[derive(Debug)]
pub(super) struct TarHeader {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) kind: Kind,
}

impl TarHeader {
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self, TarError> {
        let header = Header::from_byte_slice(block);
        if header.as_ustar().is_none() && header.as_gnu().is_none() {
            return Err(TarError::Magic);
        }
        if header.cksum().map_err(|_| TarError::Number)? != checksum(header) {
            return Err(TarError::Checksum);
        }
        if header.as_gnu().is_some() && !is_zero(block.get(PREFIX_FIELD).unwrap_or_default()) {
            return Err(TarError::Extension);
        }
        let kind = match header.entry_type() {
            EntryType::Regular => Kind::Regular,
            EntryType::Directory => Kind::Directory,
            EntryType::GNULongName => Kind::LongName,
            _ => Kind::Other,
        };
        let (name, size) = (plain_text(&header.path_bytes())?, size(header)?);
        match kind {
            Kind::Directory if size > 0 => Err(TarError::Directory),
            Kind::Regular if name.ends_with('/') => Err(TarError::Directory),
            _ => Ok(Self { name, size, kind }),
        }
    }
}

/// The name in `bytes`, up to a NUL.
pub(super) fn plain_text(bytes: &[u8]) -> Result<String, TarError> {
    let bytes = bytes.split(|b| *b == 0).next().unwrap_or_default();
    let text = std::str::from_utf8(bytes).map_err(|_| TarError::Name)?;
    if text.chars().any(char::is_control) { Err(TarError::Name) } else { Ok(text.to_owned()) }
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| *b == 0)
}

/// Bytes that fill the last block of `size` bytes.
pub(super) fn padding(size: u64) -> u64 {
    let block = BLOCK as u64;
    (block - size % block) % block
}

fn checksum(header: &Header) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|b| u32::from(*b)).sum::<u32>();
    // The field itself counts as eight spaces.
    sum(header.as_bytes()) - sum(&header.as_old().cksum) + 8 * u32::from(b' ')
}

fn size(header: &Header) -> Result<u64, TarError> {
    let field = &header.as_old().size;
    // Base 256: the `tar` crate reads the last 8 of 12 bytes, Portage all of them.
    let unambiguous = match field {
        [0x80, rest @ ..] => is_zero(rest.get(..3).unwrap_or_default()),
        [first, ..] => first.is_ascii(),
    };
    if unambiguous { header.entry_size().map_err(|_| TarError::Number) } else { Err(TarError::Number) }
}
