//! Target `index`: the input is a `Packages` file.

use std::collections::HashMap;
use std::sync::Arc;

use binhostfs::internals::index::{BinhostId, Digest, Entry, Index, IndexRenderer, View};
use sha2::{Digest as _, Sha256};

use super::file;

/// An index that is taken is rendered into one that is taken whole, has the same entries, and has no others in Portage's
/// eyes either.
pub fn index(bytes: &[u8]) {
    let first = match Index::parse(file(bytes)) {
        Ok(index) => Arc::new(index),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let text = rendered(&first);
    let second = Arc::new(Index::parse(file(&text)).expect("what was rendered is an index"));
    assert_eq!(second.dropped().total(), 0, "{}", second.dropped());
    assert_eq!(second.dropped().stopped_at(), None);
    let entries = entries(&first);
    assert_eq!(entries, self::entries(&second));
    assert_eq!(text, rendered(&second), "rendering what was rendered changes it");
    as_portage_reads_it(&text, &entries);
}

fn rendered(index: &Arc<Index>) -> Vec<u8> {
    let mut text = Vec::new();
    let told = IndexRenderer::of(&View::whole(BinhostId(0), Arc::clone(index)))
        .render(&mut text, 42)
        .expect("rendering into memory");
    assert_eq!(told.size, text.len() as u64);
    assert_eq!(told.digest, Digest(Sha256::digest(&text).into()));
    text
}

/// All entries, each of them held against its record.
fn entries(index: &Index) -> Vec<Entry> {
    let entry = |record| {
        let entry = index.entry(record).expect("an entry that was parsed can be read again");
        assert_eq!((entry.size, entry.mtime, entry.id()), (record.size, record.mtime, record.id));
        assert_eq!(entry.path.as_str(), index.path(record));
        entry
    };
    index.records().iter().map(entry).collect()
}

/// Reads `text` as portage 3.0.83 does (`PackageIndex.read` of a file in text mode: every CR ends a line).
fn as_portage_reads_it(text: &[u8], entries: &[Entry]) {
    let text = String::from_utf8(text.to_vec()).expect("what was rendered is UTF-8");
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut stanzas = text.split_terminator("\n\n");
    let header = fields(stanzas.next().expect("a header"));
    assert_eq!(header["PACKAGES"], entries.len().to_string());
    assert_eq!(header["VERSION"], "0");
    assert!(!header.contains_key("URI"));
    let mut expected: Vec<_> =
        entries.iter().map(|e| (e.path.to_string(), e.cpv.to_string(), e.size, e.mtime)).collect();
    let mut found: Vec<_> = stanzas
        .map(|stanza| {
            let fields = fields(stanza);
            assert!(fields.contains_key("USER_PATCHES") && !fields.contains_key("BASE_URI"));
            let number = |key: &str| fields[key].parse::<i64>().expect("a number");
            (fields["PATH"].to_owned(), fields["CPV"].to_owned(), number("SIZE") as u64, number("MTIME"))
        })
        .collect();
    expected.sort();
    found.sort();
    assert_eq!(expected, found);
}

fn fields(stanza: &str) -> HashMap<&str, &str> {
    let mut fields = HashMap::new();
    for line in stanza.split('\n') {
        let Some((key, value)) = line.split_once(':') else { continue };
        let mut value = value.chars();
        value.next();
        fields.insert(key, value.as_str());
    }
    fields
}
