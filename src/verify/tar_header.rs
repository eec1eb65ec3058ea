//! Parses one header block of a tar into name, size and kind.
//!
//! Every byte of the block is checked. A header passes only in the form that Python's tarfile, and
//! so Portage, writes. Two tar readers may treat any other form differently: a malformed number
//! ends the archive for one of them only. No compressed file begins with a header in this form.
//!
//! Source of the form: CPython 3.9 to 3.14, `tarfile.py`, `TarInfo._create_header`.

use tar::Header;

/// Size of a tar block, in bytes.
pub(crate) const BLOCK: usize = 512;
/// Smallest size that GNU tar writes in base 256, because 11 octal digits do not hold it.
const OCTAL_SIZES: u64 = 8 << 30;
/// Longest name of a header without a prefix, in bytes.
pub(crate) const MAX_NAME: usize = 100;

/// Why a block is not a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// The magic is neither that of ustar nor that of GNU.
    #[error("a tar header has neither the ustar nor the GNU magic")]
    Magic,
    /// The checksum in the header is not that of the block.
    #[error("a tar header has a wrong checksum")]
    Checksum,
    /// A number is not written as Portage writes it.
    #[error("a tar header has a malformed {0}")]
    Number(&'static str),
    /// A text has bytes after its first NUL, or is not printable ASCII.
    #[error("a tar header has a {0} that is not plain text")]
    Text(&'static str),
    /// A part that Portage leaves empty has bytes that are not zero: GNU extension fields, a link's
    /// target, the end of the block.
    #[error("a tar header has bytes in its {0}, which Portage leaves empty")]
    Unused(&'static str),
    /// A name is split into prefix and name although one field holds it.
    #[error("a tar header has a name in two parts that fits into one")]
    Prefix,
}

/// MemberKind of the member that follows a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemberKind {
    Regular,
    /// A GNU long name: the data is the name of the next member.
    LongName,
    Other,
}

/// Format of a header, which decides how a long name is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// The name is in the name field, or in the prefix and name fields.
    Ustar {
        /// Whether the prefix field holds the directory, so that the name field begins after it.
        split: bool,
    },
    /// A long name is in a member of its own, before the member that it names.
    Gnu,
}

/// The parts of a header that the GPKG parser uses.
#[derive(Debug)]
pub(crate) struct TarHeader {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) kind: MemberKind,
    pub(crate) format: Format,
}

impl TarHeader {
    pub(crate) fn parse(block: &[u8; BLOCK]) -> Result<Self, TarError> {
        let header = Header::from_byte_slice(block);
        let (prefix, format) = match (header.as_ustar(), header.as_gnu()) {
            (Some(ustar), _) => (text(&ustar.prefix, "prefix")?, Format::Ustar { split: ustar.prefix != [0; 155] }),
            (_, Some(_)) => ("", Format::Gnu),
            _ => return Err(TarError::Magic),
        };
        // Python ends this number alone with a NUL and a space. All readers also accept a checksum
        // that ends like the other numbers.
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
            [b'0'] => MemberKind::Regular,
            [b'L'] => MemberKind::LongName,
            _ => MemberKind::Other,
        };
        Ok(Self { name, size, kind, format })
    }
}

/// Returns the size, after checking that all unused fields are as Portage writes them.
fn checked(header: &Header, format: Format) -> Result<u64, TarError> {
    let old = header.as_old();
    for (field, name) in [(&old.mode, "mode"), (&old.uid, "uid"), (&old.gid, "gid")] {
        octal(field, name)?;
    }
    octal(&old.mtime, "mtime")?;
    unused(&old.linkname, "link target")?;
    // Both formats have these fields in the same places. GNU has fields of its own where ustar has
    // the prefix.
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
    // Python 3.9 to 3.11 write 0 here, later versions leave the field empty.
    for number in [major, minor].into_iter().filter(|number| !is_zero(number)) {
        octal(number, "device number")?;
    }
    Ok(())
}

/// Parses an octal number that fills its field, except for one NUL at the end.
fn octal(field: &[u8], name: &'static str) -> Result<u64, TarError> {
    let digits = field.strip_suffix(&[0]).filter(|digits| digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
    let number = |digits: &[u8]| digits.iter().fold(0, |number, digit| number << 3 | u64::from(digit - b'0'));
    digits.map(number).ok_or(TarError::Number(name))
}

/// Parses printable ASCII, followed by NULs only.
fn text<'a>(field: &'a [u8], name: &'static str) -> Result<&'a str, TarError> {
    let end = field.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let text = field.get(..end).filter(|text| text.iter().all(|byte| matches!(byte, b' '..=b'~')));
    text.and_then(|text| std::str::from_utf8(text).ok()).ok_or(TarError::Text(name))
}

fn unused(field: &[u8], name: &'static str) -> Result<(), TarError> {
    if is_zero(field) { Ok(()) } else { Err(TarError::Unused(name)) }
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| *b == 0)
}

/// Number of bytes that pad data of `size` bytes to whole blocks.
pub(crate) fn padding(size: u64) -> u64 {
    let block = BLOCK as u64;
    (block - size % block) % block
}

fn checksum(header: &Header) -> u64 {
    let sum = |bytes: &[u8]| bytes.iter().map(|b| u64::from(*b)).sum::<u64>();
    // The checksum field itself counts as eight spaces.
    sum(header.as_bytes()) - sum(&header.as_old().cksum) + 8 * u64::from(b' ')
}
