//! One header block of a tar -> name, size, kind.
//!
//! Every byte of the block is accounted for: a header passes only in the form in which Python's tarfile, and so Portage,
//! writes one. Two readers of tar differ on what they make of anything else (a malformed number ends the archive for one
//! and not for the other), and a header in that form is the beginning of no compressed file.
//!
//! Source of the form: CPython 3.9 to 3.14, `tarfile.py`, `TarInfo._create_header`.

use tar::Header;

/// Bytes of a block.
pub(super) const BLOCK: usize = 512;
/// From this size on GNU writes it in base 256: 11 octal digits do not hold it.
const OCTAL_SIZES: u64 = 8 << 30;
/// Longest name of a header without a prefix, in bytes.
pub(super) const MAX_NAME: usize = 100;

/// Why a block is not a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// Neither ustar nor GNU.
    #[error("a tar header has neither the ustar nor the GNU magic")]
    Magic,
    /// Its sum is another one.
    #[error("a tar header has a wrong checksum")]
    Checksum,
    /// A number is not written as Portage writes it.
    #[error("a tar header has a malformed {0}")]
    Number(&'static str),
    /// A text goes on after its first NUL, or is not printable ASCII.
    #[error("a tar header has a {0} that is not plain text")]
    Text(&'static str),
    /// Bytes that are not zero where nothing is written: GNU extension fields, a link's target, the end of the block.
    #[error("a tar header has bytes in its {0}, which Portage leaves empty")]
    Unused(&'static str),
    /// A name is split in two although it is short.
    #[error("a tar header has a name in two parts that fits into one")]
    Prefix,
}

/// What follows a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Regular,
    /// GNU: the name of the next member.
    LongName,
    Other,
}

/// How a header holds a long name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// In one field, or in two.
    Ustar {
        /// In two: the name's field begins after the directory.
        split: bool,
    },
    /// In a member of its own before it.
    Gnu,
}

/// What a header says.
#[derive(Debug)]
pub(super) struct TarHeader {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) kind: Kind,
    pub(super) format: Format,
}

impl TarHeader {
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self, TarError> {
        let header = Header::from_byte_slice(block);
        let (prefix, format) = match (header.as_ustar(), header.as_gnu()) {
            (Some(ustar), _) => (text(&ustar.prefix, "prefix")?, Format::Ustar { split: ustar.prefix != [0; 155] }),
            (_, Some(_)) => ("", Format::Gnu),
            _ => return Err(TarError::Magic),
        };
        // Python ends this one number with a NUL and a space; writers that end it as all others are read alike.
        let sum = &header.as_old().cksum;
        if octal(sum.strip_suffix(b" ").unwrap_or(sum), "checksum")? != checksum(header) {
            return Err(TarError::Checksum);
        }
        let size = checked(header, format)?;
        let mut name = text(&header.as_old().name, "name")?.to_owned();
        if !prefix.is_empty() {
            name = format!("{prefix}/{name}");
            if name.len() <= MAX_NAME {
                return Err(TarError::Prefix);
            }
        }
        let kind = match header.as_old().linkflag {
            [b'0'] => Kind::Regular,
            [b'L'] => Kind::LongName,
            _ => Kind::Other,
        };
        Ok(Self { name, size, kind, format })
    }
}

/// The size, where all fields that this program has no use for are as Portage writes them, too.
fn checked(header: &Header, format: Format) -> Result<u64, TarError> {
    let old = header.as_old();
    for (field, name) in [(&old.mode, "mode"), (&old.uid, "uid"), (&old.gid, "gid")] {
        octal(field, name)?;
    }
    octal(&old.mtime, "mtime")?;
    unused(&old.linkname, "link target")?;
    // Both formats have these in the same places, and GNU has its own fields where ustar has the prefix.
    if let Some(ustar) = header.as_ustar() {
        owner(&ustar.uname, &ustar.gname, &ustar.dev_major, &ustar.dev_minor)?;
        unused(&ustar.pad, "end")?;
    } else if let Some(gnu) = header.as_gnu() {
        owner(&gnu.uname, &gnu.gname, &gnu.dev_major, &gnu.dev_minor)?;
        unused(header.as_bytes().get(345..).unwrap_or_default(), "GNU extension fields")?;
    }
    match (&old.size, format) {
        ([0x80, 0, 0, 0, size @ ..], Format::Gnu) => {
            Some(u64::from_be_bytes(*size)).filter(|size| *size >= OCTAL_SIZES)
        }
        (size, _) => Some(octal(size, "size")?),
    }
    .ok_or(TarError::Number("size"))
}

fn owner(user: &[u8], group: &[u8], major: &[u8], minor: &[u8]) -> Result<(), TarError> {
    text(user, "user name")?;
    text(group, "group name")?;
    // Python 3.9 to 3.11 write 0, later ones nothing.
    for number in [major, minor].into_iter().filter(|number| !is_zero(number)) {
        octal(number, "device number")?;
    }
    Ok(())
}

/// A number that fills its field but for the NUL after it.
fn octal(field: &[u8], name: &'static str) -> Result<u64, TarError> {
    let digits = field.strip_suffix(&[0]).filter(|digits| digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
    let number = |digits: &[u8]| digits.iter().fold(0, |number, digit| number << 3 | u64::from(digit - b'0'));
    digits.map(number).ok_or(TarError::Number(name))
}

/// A text, followed by nothing but NULs.
fn text<'a>(field: &'a [u8], name: &'static str) -> Result<&'a str, TarError> {
    let end = field.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let text = field.get(..end).filter(|text| text.iter().all(|byte| matches!(byte, b' '..=b'~')));
    text.and_then(|text| std::str::from_utf8(text).ok()).ok_or(TarError::Text(name))
}

fn unused(field: &[u8], name: &'static str) -> Result<(), TarError> {
    if is_zero(field) { Ok(()) } else { Err(TarError::Unused(name)) }
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| *b == 0)
}

/// Bytes that fill the last block of `size` bytes.
pub(super) fn padding(size: u64) -> u64 {
    let block = BLOCK as u64;
    (block - size % block) % block
}

fn checksum(header: &Header) -> u64 {
    let sum = |bytes: &[u8]| bytes.iter().map(|b| u64::from(*b)).sum::<u64>();
    // The field itself counts as eight spaces.
    sum(header.as_bytes()) - sum(&header.as_old().cksum) + 8 * u64::from(b' ')
}
