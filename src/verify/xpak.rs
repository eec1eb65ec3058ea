//! Parses the XPAK segment at the end of a `.xpak` or `.tbz2` (xpak(5)). All numbers are big
//! endian:
//!
//! ```text
//! compressed tar | "XPAKPACK" index_len data_len | index | data | "XPAKSTOP" | segment_len "STOP"
//!                  ^------------------------ segment ------------------------^
//! ```
//! An index entry is `name_len name data_offset data_len`. The segment has no checksum of its own;
//! the binhost's index has digests of the whole file.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::VerifyError;
use super::values::Values;

/// Largest segment in bytes.
const MAX_SEGMENT: u64 = 64 << 20;
/// Largest index in bytes. Portage writes some 500 bytes.
const MAX_INDEX: u64 = 1 << 20;
/// Bytes of a segment before its index.
const HEAD: u64 = 16;
/// Bytes of a segment that are neither index nor data.
const FRAME: u64 = HEAD + 8;

/// Why bytes are not a sound XPAK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum XpakError {
    /// The file does not end in `XPAKSTOP`, a length and `STOP`.
    #[error("the file does not end in an XPAK trailer")]
    Trailer,
    /// The segment is larger than the file, too small to be one, or larger than 64 MiB.
    #[error("the segment cannot have {0} bytes")]
    Segment(u64),
    /// The segment does not start with `XPAKPACK`.
    #[error("the segment does not start with XPAKPACK")]
    Magic,
    /// The lengths of index and data do not add up to the segment, or the index is larger than 1
    /// MiB.
    #[error("an index of {index} and data of {data} bytes do not make a segment of {segment}")]
    Lengths {
        /// Bytes of the index.
        index: u64,
        /// Bytes of the data.
        data: u64,
        /// Bytes of the segment.
        segment: u64,
    },
    /// The index ends within an entry, or an entry lies outside the data.
    #[error("the index is malformed")]
    Index,
}

/// Returns the values in the segment of `file`, which has `size` bytes.
pub(super) fn read(file: &File, size: u64) -> Result<Values, VerifyError> {
    let mut values = Values::default();
    each(file, size, &mut |key, length, value| {
        if Values::wants(key, length)? {
            values.set(key, value()?)?;
        }
        Ok(())
    })?;
    Ok(values)
}

/// Returns the values that `wanted` selects by key and length, each trimmed.
pub(super) fn values(
    file: &File,
    size: u64,
    wanted: &dyn Fn(&str, u64) -> bool,
) -> Result<BTreeMap<String, String>, VerifyError> {
    let mut values = BTreeMap::new();
    each(file, size, &mut |key, length, value| {
        if wanted(key, length) {
            values.insert(key.to_owned(), String::from_utf8_lossy(&value()?).trim().to_owned());
        }
        Ok(())
    })?;
    Ok(values)
}

type XpakValue<'a> = &'a dyn Fn() -> Result<Vec<u8>, VerifyError>;

/// Calls `told` for each entry, with its key, its length and a function that reads its value.
fn each(
    file: &File,
    size: u64,
    told: &mut dyn FnMut(&str, u64, XpakValue<'_>) -> Result<(), VerifyError>,
) -> Result<(), VerifyError> {
    let segment = segment_length(file, size)?;
    let start = size - 8 - segment;
    let (magic, index, data) = words(read_array::<16>(file, start)?);
    if magic != *b"XPAKPACK" {
        return Err(XpakError::Magic.into());
    }
    let (index, data) = (u64::from(index), u64::from(data));
    if index > MAX_INDEX || FRAME + index + data != segment {
        return Err(XpakError::Lengths { index, data, segment }.into());
    }
    let text = read_vec(file, start + HEAD, index)?;
    let mut rest = text.as_slice();
    while !rest.is_empty() {
        let item =
            XpakItem::parse(&mut rest).filter(|item| item.offset + item.length <= data).ok_or(XpakError::Index)?;
        let Ok(key) = std::str::from_utf8(item.name) else { continue };
        told(key, item.length, &|| read_vec(file, start + HEAD + index + item.offset, item.length))?;
    }
    Ok(())
}

/// Reads the segment's length and checks that it fits into the file.
fn segment_length(file: &File, size: u64) -> Result<u64, VerifyError> {
    let start = size.checked_sub(16).ok_or(XpakError::Trailer)?;
    let (magic, length, stop) = words(read_array(file, start)?);
    if magic != *b"XPAKSTOP" || stop.to_be_bytes() != *b"STOP" {
        return Err(XpakError::Trailer.into());
    }
    let length = u64::from(length);
    let fits = (FRAME..=MAX_SEGMENT).contains(&length) && length + 8 <= size;
    if fits { Ok(length) } else { Err(XpakError::Segment(length).into()) }
}

/// An entry of the index.
struct XpakItem<'a> {
    name: &'a [u8],
    offset: u64,
    length: u64,
}

impl<'a> XpakItem<'a> {
    fn parse(rest: &mut &'a [u8]) -> Option<Self> {
        let length = usize::try_from(number(rest)?).ok()?;
        let (name, after) = rest.split_at_checked(length)?;
        *rest = after;
        Some(Self { name, offset: number(rest)?, length: number(rest)? })
    }
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let (bytes, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u64::from(u32::from_be_bytes(*bytes)))
}

/// Splits eight bytes and two numbers, the layout at both ends of a segment.
fn words(bytes: [u8; 16]) -> ([u8; 8], u32, u32) {
    let [m0, m1, m2, m3, m4, m5, m6, m7, a0, a1, a2, a3, b0, b1, b2, b3] = bytes;
    let magic = [m0, m1, m2, m3, m4, m5, m6, m7];
    (magic, u32::from_be_bytes([a0, a1, a2, a3]), u32::from_be_bytes([b0, b1, b2, b3]))
}

fn read_array<const N: usize>(file: &File, offset: u64) -> Result<[u8; N], VerifyError> {
    let mut bytes = [0; N];
    read_into(file, &mut bytes, offset)?;
    Ok(bytes)
}

/// Reads `length` bytes, of which the caller has checked that they are few.
fn read_vec(file: &File, offset: u64, length: u64) -> Result<Vec<u8>, VerifyError> {
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| XpakError::Index)?];
    read_into(file, &mut bytes, offset)?;
    Ok(bytes)
}

fn read_into(file: &File, bytes: &mut [u8], offset: u64) -> Result<(), VerifyError> {
    file.read_exact_at(bytes, offset).map_err(VerifyError::io("reading a package back from the cache"))
}
