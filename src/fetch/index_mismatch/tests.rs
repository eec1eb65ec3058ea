//! Cached packages and the entries of a new index.

use tempfile::TempDir;

use super::*;
use crate::cache::{BlobKeys, Placement};
use crate::fetch::fetcher::{Fetcher, Lookup};
use crate::fetch::sample::{self, index_of, package};
use crate::verify::{Policy, Receiver};

const BINHOST: BinhostId = BinhostId(7);

/// A fetcher whose cache has the one package of `index`.
fn fetcher_with(package: &package::Package, index: &Index, on_mismatch: OnMismatch) -> (Arc<Fetcher>, TempDir) {
    let directory = TempDir::new().unwrap();
    let fetcher = sample::fetcher(directory.path(), BINHOST, on_mismatch);
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
    let (fetcher, _directory) = fetcher_with(&package, &right, OnMismatch::Refuse);
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

/// The first package of an index, and its blob.
fn cached(fetcher: &Fetcher, index: &Arc<Index>) -> (PackageRef, Blob) {
    let wanted = fetcher.wanted(&Arc::new(View::whole(BINHOST, Arc::clone(index))), 0).unwrap();
    let blob = fetcher.blobs.get(&wanted).unwrap();
    (wanted, blob)
}

#[tokio::test]
async fn a_mismatch_is_refused_or_logged_or_not_looked_at_as_the_binhost_says() {
    let package = package::build("a", "b-1", 1000).unwrap();
    let wrong = index_of(std::slice::from_ref(&package), "SLOT: 7\n");
    // Whether it is refused, whether an open is answered at once after that, and what is counted.
    for (on_mismatch, refused, at_once, counts) in [
        (OnMismatch::Refuse, true, false, (1, 1)),
        (OnMismatch::Warn, false, true, (1, 0)),
        (OnMismatch::Off, false, true, (0, 0)),
    ] {
        let (fetcher, _directory) = fetcher_with(&package, &wrong, on_mismatch);
        let comparer = &fetcher.comparer;
        let (wanted, blob) = cached(&fetcher, &wrong);
        assert_eq!(comparer.agrees(&wanted, &blob), on_mismatch == OnMismatch::Off, "{on_mismatch:?}");
        // The same entry again is neither read nor logged again.
        for _ in 0..2 {
            match comparer.held_against(&wanted, blob.clone()).await {
                Ok(_) => assert!(!refused, "{on_mismatch:?}"),
                Err(error) => assert!(refused && matches!(*error, FetchError::IndexMismatch(_)), "{error}"),
            }
            assert_eq!(comparer.agrees(&wanted, &blob), at_once, "{on_mismatch:?}");
        }
        let metrics = &comparer.metrics;
        assert_eq!((metrics.index_mismatches.get(), metrics.refused.get()), counts, "{on_mismatch:?}");
    }
}

#[tokio::test]
async fn an_entry_in_another_form_is_compared_once_and_agrees() {
    let package = package::build("a", "b-1", 1000).unwrap();
    // An entry may have what only the header has for others, and the package itself not at all.
    let other = index_of(std::slice::from_ref(&package), "CHOST: x86_64-pc-linux-gnu\n");
    let (fetcher, _directory) = fetcher_with(&package, &other, OnMismatch::Refuse);
    let (wanted, blob) = cached(&fetcher, &other);
    assert!(!fetcher.comparer.agrees(&wanted, &blob), "its digest is another one");
    assert!(fetcher.comparer.held_against(&wanted, blob.clone()).await.is_ok());
    assert!(fetcher.comparer.agrees(&wanted, &blob));
    assert_eq!(fetcher.comparer.metrics.index_mismatches.get(), 0);
}

/// The same package with another mistake in the next index is another mismatch.
#[tokio::test]
async fn each_mistake_of_an_index_is_logged() {
    let package = package::build("a", "b-1", 1000).unwrap();
    let index = |slot: u32| index_of(std::slice::from_ref(&package), &format!("SLOT: {slot}\n"));
    let (fetcher, _directory) = fetcher_with(&package, &index(7), OnMismatch::Warn);
    for (slot, logged) in [(7, 1), (8, 2), (7, 2)] {
        let (wanted, blob) = cached(&fetcher, &index(slot));
        fetcher.comparer.held_against(&wanted, blob).await.unwrap();
        assert_eq!(fetcher.comparer.metrics.index_mismatches.get(), logged, "{slot}");
    }
}
