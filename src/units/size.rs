//! Sizes in bytes in the notation that people use.

use std::fmt;
use std::str::FromStr;

/// A size in bytes, with suffixes in powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A text that is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size: give bytes, or a number with K, M, G or T (powers of 1024), e.g. 8G")]
pub struct SizeError(String);

const UNITS: [(char, u32); 4] = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];

impl ByteSize {
    /// The shortest text that is parsed to exactly this size, e.g. `8G`.
    #[must_use]
    pub(crate) fn notation(&self) -> String {
        let whole = |(_, shift): &&(char, u32)| self.0 > 0 && self.0.trailing_zeros() >= *shift;
        match UNITS.iter().rev().find(whole) {
            Some((letter, shift)) => format!("{}{letter}", self.0 >> shift),
            None => self.0.to_string(),
        }
    }
}

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let error = || SizeError(text.to_owned());
        let upper = text.trim().to_ascii_uppercase();
        let plain = upper.strip_suffix("IB").or_else(|| upper.strip_suffix('B')).unwrap_or(&upper);
        let unit = UNITS.iter().find(|(letter, _)| plain.ends_with(*letter));
        let (number, shift) = match unit {
            Some((letter, shift)) => (plain.strip_suffix(*letter).unwrap_or(plain).trim_end(), *shift),
            None => (plain.trim_end(), 0),
        };
        let plain_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        let number: u64 = plain_number.then(|| number.parse().ok()).flatten().ok_or_else(error)?;
        number.checked_mul(1 << shift).filter(|bytes| *bytes <= i64::MAX as u64).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().rev().find(|(_, shift)| self.0 >> shift > 0) {
            Some((letter, shift)) => {
                write!(f, "{:.1} {letter}iB", self.0 as f64 / f64::from(1 << (shift - 10)) / 1024.0)
            }
            None => write!(f, "{} B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in
            [("0", 0), ("1024", 1024), ("1k", 1024), ("8G", 8 << 30), ("8 GiB", 8 << 30), ("2TB", 2 << 40)]
        {
            assert_eq!(text.parse::<ByteSize>().unwrap().0, bytes, "{text}");
        }
        for bad in ["", "G", "-1", "1.5G", "1GG", "+1", "1x", "99999999999G", "0x10"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_as_people_would_write_them() {
        for text in ["0", "1", "1000", "1K", "1025", "1536K", "8G", "3T", "2048T"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().notation(), text);
        }
    }

    #[test]
    fn sizes_as_people_read_them() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (8 << 30, "8.0 GiB"), (3 << 40, "3.0 TiB")]
        {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }
}
