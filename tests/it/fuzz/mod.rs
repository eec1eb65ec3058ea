//! The corpora of the fuzz targets (`tests/fuzz`), replayed without cargo-fuzz.

#[expect(unreachable_pub, reason = "`tests/fuzz` builds the same files as a library")]
mod bodies;
mod seeds;

use std::fs;
use std::path::Path;

use crate::harness::have;

/// Runs `body` over all inputs that are kept for `target`.
fn replay(target: &str, body: fn(&[u8])) {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    if !have(package.exists(), "tests/fuzz, which is no part of the published package") {
        return;
    }
    let mut count = 0;
    for input in fs::read_dir(package.join("corpus").join(target)).unwrap() {
        let path = input.unwrap().path();
        // Shown where the body fails.
        eprintln!("{}", path.display());
        body(&fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count > 0, "no inputs for {target}");
}

#[test]
fn index_corpus() {
    replay("index", bodies::index);
}

#[test]
fn entry_corpus() {
    replay("entry", bodies::entry);
}

#[test]
fn listing_corpus() {
    replay("listing", bodies::listing);
}

#[test]
fn gpkg_corpus() {
    replay("gpkg", bodies::gpkg);
}

#[test]
fn manifest_corpus() {
    replay("manifest", bodies::manifest);
}

#[test]
fn xpak_corpus() {
    replay("xpak", bodies::xpak);
}
