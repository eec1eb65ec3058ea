//! Parses the `Manifest` of a GPKG: `DATA <name> <size> SHA512 <hex> BLAKE2B <hex>`, bare or in an
//! OpenPGP cleartext signature.
//!
//! The text must be plain ASCII lines. Portage splits at every line end that Python knows, so other
//! control characters would make Portage see other records than this parser.

use crate::verify::Digest512;

const SIGNED: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
const SIGNATURE: &str = "-----BEGIN PGP SIGNATURE-----";
const SIGNATURE_END: &str = "-----END PGP SIGNATURE-----";

/// Why a Manifest is refused. Line numbers count from 1 within the signed text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The Manifest has bytes other than printable ASCII, spaces and line feeds.
    #[error("the Manifest is not plain ASCII text")]
    NotText,
    /// The cleartext signature does not have the form of RFC 9580.
    #[error("the Manifest's cleartext signature is malformed: {0}")]
    Signed(&'static str),
    /// A line is not `DATA name size SHA512 hex BLAKE2B hex`.
    #[error("line {0} of the Manifest is not a DATA record with SHA512 and BLAKE2B")]
    Line(usize),
    /// Two records have the same name.
    #[error("the Manifest has two records of {0:?}")]
    Duplicate(String),
}

/// Record of one member in the Manifest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ManifestRecord {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) sha512: Digest512,
    pub(crate) blake2b: Digest512,
}

/// Parses the records, signed or not. A signature is not judged.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<ManifestRecord>, ManifestError> {
    let text = plain_text(bytes)?;
    if text.starts_with(SIGNED) { records(signed_lines(text)?) } else { records(text.lines()) }
}

/// Parses the records of a text that was extracted from its signature.
pub(crate) fn parse_text(bytes: &[u8]) -> Result<Vec<ManifestRecord>, ManifestError> {
    records(plain_text(bytes)?.lines())
}

/// Whether the Manifest is a cleartext signature and nothing else, in the one form that all readers
/// interpret alike.
pub(crate) fn is_signed(bytes: &[u8]) -> Result<bool, ManifestError> {
    let text = plain_text(bytes)?;
    Ok(text.starts_with(SIGNED) && signed_lines(text).map(|_| true)?)
}

fn plain_text(bytes: &[u8]) -> Result<&str, ManifestError> {
    let plain = |b: &u8| matches!(b, b'\n' | b' '..=b'~');
    std::str::from_utf8(bytes).ok().filter(|_| bytes.iter().all(plain)).ok_or(ManifestError::NotText)
}

fn records<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Vec<ManifestRecord>, ManifestError> {
    let mut records = Vec::new();
    for (number, line) in (1..).zip(lines).filter(|(_, line)| !line.is_empty()) {
        let record = record(line).ok_or(ManifestError::Line(number))?;
        if records.iter().any(|other: &ManifestRecord| other.name == record.name) {
            return Err(ManifestError::Duplicate(record.name));
        }
        records.push(record);
    }
    Ok(records)
}

/// Returns the lines under a cleartext signature, without dash-escaping. No text may stand around
/// the signature, because a person who views the file would take that text for signed.
fn signed_lines(text: &str) -> Result<Vec<&str>, ManifestError> {
    let mut lines = text.lines();
    if lines.next() != Some(SIGNED) {
        return Err(ManifestError::Signed("its first line"));
    }
    // gpg ignores a signature without Hash, and versions of gpg differ on a second Hash.
    if !lines.next().and_then(|line| line.strip_prefix("Hash: ")).is_some_and(is_hash) || lines.next() != Some("") {
        return Err(ManifestError::Signed("a header other than one Hash"));
    }
    let mut signed = Vec::new();
    loop {
        let line = lines.next().ok_or(ManifestError::Signed("there is no signature"))?;
        match line.strip_prefix('-') {
            None => signed.push(line),
            Some(escaped) if escaped.starts_with(' ') => signed.push(escaped.get(1..).unwrap_or_default()),
            Some(_) if line == SIGNATURE => break,
            Some(_) => return Err(ManifestError::Signed("a line with a dash that is not escaped")),
        }
    }
    if !lines.any(|line| line == SIGNATURE_END) {
        return Err(ManifestError::Signed("the signature has no end"));
    }
    if lines.any(|line| !line.is_empty()) {
        return Err(ManifestError::Signed("text after the signature"));
    }
    Ok(signed)
}

fn is_hash(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'-')
}

fn record(line: &str) -> Option<ManifestRecord> {
    let mut words = line.split_ascii_whitespace();
    let (Some("DATA"), Some(name), Some(size)) = (words.next(), words.next(), words.next()) else { return None };
    let size = size.bytes().all(|b| b.is_ascii_digit()).then(|| size.parse().ok()).flatten()?;
    let (mut sha512, mut blake2b) = (None, None);
    while let Some(kind) = words.next() {
        let slot = match kind {
            "SHA512" => &mut sha512,
            "BLAKE2B" => &mut blake2b,
            _ => return None,
        };
        if slot.replace(words.next()?.parse().ok()?).is_some() {
            return None;
        }
    }
    Some(ManifestRecord { name: name.to_owned(), size, sha512: sha512?, blake2b: blake2b? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str) -> String {
        format!("DATA {name} 7 SHA512 {} BLAKE2B {}\n", "ab".repeat(64), "cd".repeat(64))
    }

    fn names(text: &str) -> Result<Vec<String>, ManifestError> {
        Ok(parse(text.as_bytes())?.into_iter().map(|record| record.name).collect())
    }

    fn signed(headers: &str, text: &str, after: &str) -> String {
        format!("{SIGNED}\n{headers}\n{text}{SIGNATURE}\n\niQIz\n=abcd\n{SIGNATURE_END}\n{after}")
    }

    #[test]
    fn records_in_both_orders_of_hashes() {
        let swapped = format!("DATA b 0 BLAKE2B {} SHA512 {}", "CD".repeat(64), "ab".repeat(64));
        let records = parse(format!("{}\n{swapped}", line("a")).as_bytes()).unwrap();
        assert_eq!(records[0].size, 7);
        assert_eq!((&*records[1].name, records[1].size), ("b", 0));
        assert_eq!((records[0].sha512, records[0].blake2b), (records[1].sha512, records[1].blake2b));
        assert!(parse(b"").unwrap().is_empty());
    }

    #[test]
    fn other_lines_are_refused() {
        let hash = "ab".repeat(64);
        for bad in [
            "DIST a 7",
            "DATA",
            "DATA a",
            "DATA a 7",
            &format!("DATA a 7 SHA512 {hash}"),
            &format!("DATA a 7 SHA512 {hash} SHA512 {hash}"),
            &format!("DATA a 7 SHA512 {hash} BLAKE2B"),
            &format!("DATA a 7 SHA512 {hash} BLAKE2B {hash} MD5 00"),
            &format!("DATA a 7 SHA512 {hash} BLAKE2B 00"),
            &format!("DATA a +7 SHA512 {hash} BLAKE2B {hash}"),
            &format!("DATA a -7 SHA512 {hash} BLAKE2B {hash}"),
            &format!("DATA a 99999999999999999999 SHA512 {hash} BLAKE2B {hash}"),
            SIGNATURE,
        ] {
            assert_eq!(names(&format!("{}{bad}\n", line("x"))), Err(ManifestError::Line(2)), "{bad}");
        }
        assert_eq!(names(&(line("a") + &line("a"))), Err(ManifestError::Duplicate("a".to_owned())));
        for bad in ["\r", "\u{85}", "\u{2028}", "\0", "\t", "é"] {
            assert_eq!(names(&(line("a") + bad)), Err(ManifestError::NotText));
        }
    }

    #[test]
    fn the_text_of_a_cleartext_signature_is_used() {
        assert_eq!(names(&signed("Hash: SHA512\n", &line("a"), "\n")).unwrap(), ["a"]);
        assert_eq!(names(&signed("Hash: SHA3-256\n", &format!("- {}", line("a")), "")).unwrap(), ["a"]);
    }

    #[test]
    fn malformed_signatures_name_their_fault() {
        let good = signed("Hash: SHA512\n", &line("a"), "");
        for (text, fault) in [
            (good.replacen(SIGNED, &format!("{SIGNED} "), 1), "its first line"),
            (signed("NotDashEscaped: x\n", &line("a"), ""), "a header other than one Hash"),
            (signed("", &line("a"), ""), "a header other than one Hash"),
            (signed("Hash: SHA512\nHash: SHA512\n", &line("a"), ""), "a header other than one Hash"),
            (signed("Hash: SHA256,SHA512\n", &line("a"), ""), "a header other than one Hash"),
            (signed("Hash: \n", &line("a"), ""), "a header other than one Hash"),
            (good[..good.len() / 2].to_owned(), "there is no signature"),
            (signed("Hash: SHA512\n", "-x\n", ""), "a line with a dash that is not escaped"),
            (good.replace(SIGNATURE_END, ""), "the signature has no end"),
            (signed("Hash: SHA512\n", &line("a"), &line("b")), "text after the signature"),
        ] {
            assert_eq!(names(&text), Err(ManifestError::Signed(fault)));
        }
        assert_eq!(names(&format!("{}{good}", line("z"))), Err(ManifestError::Line(2)));
    }
}
