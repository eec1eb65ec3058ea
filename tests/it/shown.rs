//! Everything that `Packages` names can be opened, and is what it says.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use md5::{Digest as _, Md5};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use tempfile::NamedTempFile;

use crate::harness::portage::entries;
use crate::harness::{Options, Origin, Package, can_mount};

const NAMES: [&str; 4] = ["a-1", "a-2", "b-1", "c-1"];

/// Packages of which several claim one path, or one that is a directory of another's; those of a single binhost do not.
fn some_packages() -> impl Strategy<Value = Vec<Package>> {
    let path = prop::sample::select(vec![
        "a.gpkg.tar",
        "a.gpkg.tar/b.gpkg.tar",
        "x/a.gpkg.tar",
        "x/b.gpkg.tar",
        "x/y/a.gpkg.tar",
        // Where another binhost's may be shown.
        "two/a.gpkg.tar",
        "two/x/b.gpkg.tar",
        "three/a.gpkg.tar",
        "two",
    ]);
    let package = (prop::sample::select(NAMES.to_vec()), path, 0_usize..3);
    prop::collection::vec(package, 4..12).prop_map(|all| {
        let mut packages: Vec<Package> = Vec::new();
        for (name, path, size) in all {
            let mut package = Package::new(name, 2_000 + 700 * size);
            package.path = path.to_owned();
            let in_the_way = |other: &Package| {
                let below =
                    |a: &str, b: &str| b.strip_prefix(a).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
                below(&other.path, path) || below(path, &other.path) || other.bytes == package.bytes
            };
            if !packages.iter().any(in_the_way) {
                packages.push(package);
            }
        }
        packages
    })
}

#[test]
fn all_that_is_shown_can_be_had() {
    if !can_mount() {
        return;
    }
    let mut runner = TestRunner::deterministic();
    let (mut moved, mut superseded) = (0, 0);
    for _ in 0..6 {
        let hosts = [(); 3].map(|()| some_packages().new_tree(&mut runner).unwrap().current());
        let origins = hosts.each_ref().map(|packages| Origin::with(packages));
        let sections = ["one", "two", "three"].iter().zip(&origins).zip([3, 2, 1]);
        let toml = sections.map(|((name, origin), priority)| {
            format!("[binhost.{name}]\nurl = \"{}\"\npriority = {priority}\n", origin.url())
        });
        let file = NamedTempFile::with_suffix(".toml").unwrap();
        fs::write(file.path(), toml.collect::<String>()).unwrap();
        let mounted = Options::configured(file.path()).mount();

        let shown = entries(&mounted.path("Packages"));
        let mut contents = BTreeSet::new();
        for entry in &shown {
            let path = mounted.path(&entry["PATH"]);
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!(
                (metadata.len().to_string(), metadata.mtime().to_string()),
                (entry["SIZE"].clone(), entry["MTIME"].clone())
            );
            let md5: String = Md5::digest(fs::read(&path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(md5, entry["MD5"], "{}", path.display());
            assert!(contents.insert(md5), "{} is shown twice", entry["CPV"]);
        }
        let mut paths: Vec<_> = shown.iter().map(|entry| entry["PATH"].clone()).collect();
        paths.sort();
        assert_eq!(mounted.listing(), paths);
        // All of the most wanted one, and of every package of the others the one or a reason why not.
        let status = mounted.status();
        let count = |number: usize, key: &str| status["binhosts"][number]["entries"][key].as_u64().unwrap() as usize;
        for (number, packages) in hosts.iter().enumerate() {
            let shown = status["binhosts"][number]["packages"].as_u64().unwrap() as usize;
            let out = count(number, "shadowed") + count(number, "path_conflict") + count(number, "dropped");
            assert_eq!(shown + out, packages.len());
            moved += count(number, "moved");
            superseded += count(number, "shadowed");
        }
        assert_eq!(status["binhosts"][0]["packages"].as_u64().unwrap() as usize, hosts[0].len() - count(0, "dropped"));
    }
    assert!(moved > 5 && superseded > 5, "{moved} were moved, {superseded} superseded: nothing was in the way");
}
