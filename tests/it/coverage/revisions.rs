//! How far the ebuild repository is from an index that names its commit, and the generation that fits.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::harness::{Mounted, Options, Origin, Package, can_mount, index_of};

const NAMES: [&str; 3] = [
    "1111111111111111111111111111111111111111",
    "2222222222222222222222222222222222222222",
    "3333333333333333333333333333333333333333",
];

/// Publishes an index that was built from a commit; empty: it names none.
fn publish(origin: &Origin, timestamp: u64, commit: &str, package: &Package) {
    let index = index_of(timestamp, [package]);
    let line = match commit {
        "" => String::new(),
        commit => format!("REPO_REVISIONS: {{\"gentoo\": \"{commit}\"}}\n"),
    };
    origin.put_index(index.replacen("VERSION: 0\n", &format!("{line}VERSION: 0\n"), 1).as_bytes());
}

/// What Portage writes at a sync, the newest first.
fn synced(root: &Path, commits: &[&str]) {
    let file = root.join("var/lib/portage/repo_revisions");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, serde_json::json!({ "gentoo": commits }).to_string()).unwrap();
}

fn distance(mounted: &Mounted) -> Value {
    mounted.status()["binhosts"][0]["repository"]["syncs"].clone()
}

#[test]
fn status_says_how_far_the_tree_is_and_rollback_picks_what_fits() {
    if !can_mount() {
        return;
    }
    let [old, middle, new] = NAMES;
    let packages = ["one-1", "two-1", "three-1"].map(|pf| Package::new(pf, 5_000));
    let origin = Origin::with(&packages);
    publish(&origin, 1_760_000_000, old, &packages[0]);
    let root = tempfile::tempdir().unwrap();
    synced(root.path(), &[middle, old]);
    let mounted = Options::new(origin.url()).with(["--portage-root", root.path().to_str().unwrap()]).mount();
    let first = mounted.status()["generation"]["number"].clone();
    assert_eq!(distance(&mounted), 1);
    assert!(mounted.status_text().contains("  tree      the ebuild repository gentoo is 1 sync ahead of the commit"));
    publish(&origin, 1_760_000_100, middle, &packages[1]);
    mounted.runs(&["refresh"]);
    assert_eq!(distance(&mounted), 0);
    assert!(
        mounted.status_text().contains("  tree      built from the commit that the ebuild repository gentoo is at")
    );
    let second = mounted.status()["generation"]["number"].clone();
    // The binhost is ahead of the tree, so how far is not known.
    publish(&origin, 1_760_000_200, new, &packages[2]);
    mounted.runs(&["refresh"]);
    assert_eq!(distance(&mounted), Value::Null);
    assert!(!mounted.status_text().contains("  tree  "));
    mounted.runs(&["rollback", "--match-tree"]);
    assert_eq!((mounted.status()["generation"]["number"].clone(), distance(&mounted)), (second, Value::from(0)));
    assert_eq!(mounted.listing(), std::slice::from_ref(&packages[1].path));
    // An older tree.
    mounted.runs(&["rollback", "--latest"]);
    synced(root.path(), &[old]);
    mounted.runs(&["rollback", "--match-tree"]);
    assert_eq!(mounted.status()["generation"]["number"], first);
    // A tree of which nothing is known.
    synced(root.path(), &[]);
    let output = mounted.output_of(&["rollback", "--match-tree"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && told.contains("no kept generation names a commit"), "{told}");
    assert_eq!(mounted.status()["generation"]["number"], first);
}

#[test]
fn an_index_without_a_commit_says_nothing() {
    if !can_mount() {
        return;
    }
    let package = Package::new("one-1", 5_000);
    let origin = Origin::with(std::slice::from_ref(&package));
    let root = tempfile::tempdir().unwrap();
    synced(root.path(), &NAMES);
    for (timestamp, text) in [(1_760_000_000, ""), (1_760_000_100, "\"}garbage{"), (1_760_000_200, "unknown")] {
        publish(&origin, timestamp, text, &package);
        let mounted = Options::new(origin.url()).with(["--portage-root", root.path().to_str().unwrap()]).mount();
        assert_eq!(distance(&mounted), Value::Null, "{text}");
    }
}
