//! Cached packages and the entries of a new index.

use tempfile::TempDir;

use super::*;
use crate::cache::{BlobKeys, Placement};
use crate::fetch::fetcher::{Fetcher, Lookup};
use crate::fetch::sample::{self, index_of, package};
use crate::verify::{Policy, Receiver};

const BINHOST: BinhostId = BinhostId(7);

/// A fetcher whose cache has the one package of `index`.
fn fetcher_with(package: &package::Package, index: &Index) -> (Arc<Fetcher>, TempDir) {
    let directory = TempDir::new().unwrap();
    let fetcher = sample::fetcher(directory.path(), BINHOST, OnMismatch::Refuse);
    let cache = fetcher.blobs.cache();
    let entry = index.entry(&index.records()[0]).unwrap();
    let mut incoming = cache.incoming(entry.size).unwrap();
    incoming.reserve(entry.size).unwrap();
    let mut receiver = Receiver::new(incoming.file().unwrap(), entry.clone(), Policy::digests_only());
    receiver.write(&package.bytes).unwrap();
    let blob = cache.blob(receiver.finish().unwrap());
    assert_eq!(cache.commit(incoming, &blob, entry.id(), BlobKeys::default()), Placement::Kept);
    (fetcher, directory)
}

#[tokio::test]
async fn an_open_looks_into_the_table_that_a_new_index_has_filled() {
    let package = package::build("a", "b-1", 1000).unwrap();
    let index_of = |more: &str| index_of(std::slice::from_ref(&package), more);
    let (right, wrong) = (index_of(""), index_of("SLOT: 7\n"));
    let (fetcher, _directory) = fetcher_with(&package, &right);
    let known = |index: &Arc<Index>| {
        let wanted = fetcher.wanted(&Arc::new(View::whole(BINHOST, Arc::clone(index))), 0).unwrap();
        let blob = fetcher.blobs.get(&wanted).unwrap();
        let before = fetcher.comparer.judgements.is_agreed(index, wanted.record().offset(), blob.digest());
        (before, matches!(fetcher.look_up(&wanted), Lookup::Ready(_)))
    };
    assert!(fetcher.mismatches(BINHOST, &right).is_empty());
    assert_eq!(known(&right), (true, true));
    // The same entry in another index is compared again.
    assert_eq!(known(&index_of("")), (false, true));
    let found = fetcher.mismatches(BINHOST, &wrong);
    assert_eq!(found.iter().map(|mismatch| mismatch.path.as_str()).collect::<Vec<_>>(), [package.path()]);
    assert_eq!(known(&wrong), (false, false));
}
