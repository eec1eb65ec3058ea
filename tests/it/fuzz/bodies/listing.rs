//! Target `listing`: the input is a `Packages` file in the directory beneath the mount.

use std::sync::Arc;

use binhostfs::internals::index::{BinhostId, Index, IndexRenderer, ListedEntry, Listing, View};

use super::file;

/// What a binhost has: an entry that can be hidden, one that a local one may be taken for, and one that is neither.
const REMOTE: &[u8] = b"VERSION: 0\nCHOST: x\n\n\
    CPV: a/hidden-1\nPATH: hidden.xpak\nSIZE: 5\nMTIME: 8\nMD5: d41d8cd98f00b204e9800998ecf8427e\n\n\
    CPV: a/b-1\nBUILD_ID: 2\nPATH: like.xpak\nSIZE: 6\nMTIME: 9\nMD5: d41d8cd98f00b204e9800998ecf8427e\n\n\
    CPV: a/other-1\nPATH: other.xpak\nSIZE: 7\nMTIME: 9\nMD5: d41d8cd98f00b204e9800998ecf8427e\n\n";

/// A listing that is taken is written as one that is taken, with the same entries; with a binhost's behind it, it has its
/// own first, and then all of the binhost's that are neither hidden nor taken for one of them.
pub fn listing(bytes: &[u8]) {
    let first = match Listing::parse(file(bytes), |_| true) {
        Ok(listing) => listing,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let text = written(&first);
    let second = read(&text);
    assert_eq!(facts(first.entries()), facts(second.entries()));
    assert_eq!(text, written(&second), "writing what was written changes it");

    let index = Index::parse(file(REMOTE)).expect("an index");
    let remote = read(REMOTE);
    let view = View::whole(BinhostId(0), Arc::new(index));
    let mut text = Vec::new();
    let told = IndexRenderer::beneath(&view, &first, &|path| path == "hidden.xpak")
        .and_then(|renderer| renderer.render(&mut text, 42))
        .expect("rendering into memory");
    assert_eq!(told.size, text.len() as u64);
    let shown = read(&text);
    let (own, theirs) = shown.entries().split_at(first.entries().len());
    assert_eq!(facts(own), facts(first.entries()));
    let taken = |entry: &&ListedEntry| {
        let same = |local: &ListedEntry| {
            (local.size, local.mtime, local.instance) == (entry.size, entry.mtime, entry.instance)
        };
        &*entry.path != "hidden.xpak" && !first.entries().iter().any(same)
    };
    let mut expected: Vec<&str> = remote.entries().iter().filter(taken).map(|entry| &*entry.path).collect();
    let mut found: Vec<&str> = theirs.iter().map(|entry| &*entry.path).collect();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(shown.header().get("PACKAGES"), Some(&*shown.entries().len().to_string()));
}

fn read(text: &[u8]) -> Listing {
    Listing::parse(file(text), |_| true).expect("what was written is a listing")
}

fn written(listing: &Listing) -> Vec<u8> {
    let mut text = Vec::new();
    listing.write(|_| true, &[], Some(7), &mut text).expect("writing into memory");
    text
}

/// PATH, SIZE, MTIME, instance.
type Facts<'a> = (&'a str, Option<u64>, Option<i64>, [u8; 16]);

/// What is known of each entry.
fn facts(entries: &[ListedEntry]) -> Vec<Facts<'_>> {
    entries.iter().map(|entry| (&*entry.path, entry.size, entry.mtime, entry.instance)).collect()
}
