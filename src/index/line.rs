//! Reads an index stanza by stanza, with bounded memory for lines of any length.

use std::io::{self, BufRead};

use super::{MAX_LINE, MAX_STANZA};

/// One stanza with the bytes of the file.
pub(super) struct RawStanza<'a> {
    /// The byte offset of the stanza in the file.
    pub(super) offset: u64,
    /// The lines, each with its line end; truncated where `too_long`.
    pub(super) text: &'a [u8],
    /// Whether a line is longer than [`MAX_LINE`], or the stanza is longer than [`MAX_STANZA`].
    pub(super) too_long: bool,
}

/// A cursor over the stanzas of a file.
pub(super) struct StanzaReader<R> {
    input: R,
    position: u64,
    text: Vec<u8>,
}

impl<R: BufRead> StanzaReader<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, position: 0, text: Vec::with_capacity(4096) }
    }

    /// Reads the next stanza, up to an empty line or the end of the file. Two empty lines in a row
    /// give a stanza with an empty `text`. `None` means the end of the file.
    pub(super) fn next(&mut self) -> io::Result<Option<RawStanza<'_>>> {
        let offset = self.position;
        let mut too_long = false;
        self.text.clear();
        loop {
            let line_start = self.text.len();
            let length = self.line(&mut too_long)?;
            if length == 0 && self.text.is_empty() && !too_long {
                return Ok(None);
            }
            let empty_line = length == 1 && self.text.get(line_start) == Some(&b'\n');
            if empty_line {
                self.text.truncate(line_start);
            }
            if empty_line || length == 0 {
                return Ok(Some(RawStanza { offset, text: &self.text, too_long }));
            }
        }
    }

    /// Appends one line to `self.text` if it fits, and returns the full length of the line with its
    /// end.
    fn line(&mut self, too_long: &mut bool) -> io::Result<u64> {
        let mut length = 0;
        loop {
            let available = self.input.fill_buf()?;
            if available.is_empty() {
                return Ok(length);
            }
            let end = memchr::memchr(b'\n', available).map(|at| at + 1);
            let part = available.get(..end.unwrap_or(available.len())).unwrap_or_default();
            length += part.len() as u64;
            if length > MAX_LINE as u64 || self.text.len() + part.len() > MAX_STANZA {
                *too_long = true;
            } else {
                self.text.extend_from_slice(part);
            }
            let used = part.len();
            self.input.consume(used);
            self.position += used as u64;
            if end.is_some() {
                return Ok(length);
            }
        }
    }
}

/// Splits a stanza's text into keys and values. Lines without `:` are skipped.
///
/// Exactly one character after the colon is left out, whatever the character is.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = text;
    let lines = std::iter::from_fn(move || {
        let end = memchr::memchr(b'\n', rest.as_bytes()).unwrap_or(rest.len());
        let line = rest.get(..end).filter(|_| !rest.is_empty())?;
        rest = rest.get(end + 1..).unwrap_or_default();
        Some(line)
    });
    lines.filter_map(|line| {
        let colon = memchr::memchr(b':', line.as_bytes())?;
        let mut value = line.get(colon + 1..)?.chars();
        value.next();
        Some((line.get(..colon)?, value.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stanzas(text: &[u8]) -> Vec<(u64, Vec<u8>, bool)> {
        // A buffer of 7 bytes makes lines cross its end.
        let mut reader = StanzaReader::new(io::BufReader::with_capacity(7, text));
        let mut all = Vec::new();
        while let Some(stanza) = reader.next().unwrap() {
            all.push((stanza.offset, stanza.text.to_vec(), stanza.too_long));
        }
        all
    }

    #[test]
    fn splits_at_empty_lines_and_knows_offsets() {
        assert_eq!(
            stanzas(b"A: 1\nB: 2\n\nC: 3\n"),
            [(0, b"A: 1\nB: 2\n".to_vec(), false), (11, b"C: 3\n".to_vec(), false)]
        );
        assert_eq!(stanzas(b"A: 1"), [(0, b"A: 1".to_vec(), false)]);
        assert_eq!(stanzas(b"A: 1\n\n\nB: 2\n")[1], (6, Vec::new(), false));
        assert!(stanzas(b"").is_empty());
    }

    #[test]
    fn a_long_line_is_flagged_and_not_kept() {
        let mut text = b"A: ".to_vec();
        text.resize(MAX_LINE * 3, b'x');
        text.extend_from_slice(b"\nB: 2\n\nC: 3\n");
        let all = stanzas(&text);
        assert!(all[0].2 && all[0].1.len() <= MAX_LINE + 8);
        assert_eq!(all[1].1, b"C: 3\n");
    }

    #[test]
    fn pairs_drop_one_character_after_the_colon() {
        let all: Vec<_> = pairs("A: 1\nB:2\nC:\nD: \nno colon\nE:  x: y\nF:é\nG:é x\n").collect();
        let expected = [("A", "1"), ("B", ""), ("C", ""), ("D", ""), ("E", " x: y"), ("F", ""), ("G", " x")];
        assert_eq!(all, expected);
    }
}
