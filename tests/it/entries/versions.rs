//! Packages and indexes of several versions of Portage, which `tests/portage/other-versions.sh` installs: is there an entry that
//! we would take for an index mismatch? The numbers are the evidence for the default of `index-mismatch`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use binhostfs::internals::index::{AuxKey, Comparison};
use tempfile::TempDir;

use super::generate::{Metadata, Random, ebuild, metadata};
use super::{comparisons, make_index};
use crate::harness::number;

/// What came of some indexes.
#[derive(Default)]
struct Count {
    entries: usize,
    other_forms: BTreeMap<AuxKey, usize>,
    mismatches: Vec<String>,
}

impl Count {
    fn add(&mut self, writer: &str, pkgdir: &Path) {
        for (path, comparison) in comparisons(pkgdir) {
            self.entries += 1;
            match comparison {
                Comparison::Equal => {}
                Comparison::OtherForm(keys) => {
                    keys.iter().for_each(|key| *self.other_forms.entry(key).or_default() += 1)
                }
                Comparison::Mismatch(found) => {
                    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
                    self.mismatches.push(format!("{writer}: {path}: {}", found.join("; ")));
                }
            }
        }
    }
}

/// The versions, the oldest first.
fn versions() -> Vec<PathBuf> {
    let directory =
        std::env::var("BINHOSTFS_TEST_PORTAGES").expect("BINHOSTFS_TEST_PORTAGES; see tests/portage/other-versions.sh");
    let mut found: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("complete").exists())
        .collect();
    found.sort();
    assert!(found.len() >= 4, "{found:?}");
    found
}

fn name(version: &Path) -> &str {
    version.file_name().unwrap().to_str().unwrap()
}

fn report(what: &str, packages: usize, count: &Count) {
    let Count { entries, other_forms, mismatches } = count;
    let forms: Vec<String> = other_forms.iter().map(|(key, count)| format!("{key} {count}")).collect();
    let (forms, wrong) = (forms.join(", "), mismatches.len());
    eprintln!("{what}: {packages} packages, {entries} entries, {wrong} mismatches; other forms: {forms}");
    assert!(mismatches.is_empty(), "{}", mismatches.join("\n"));
}

/// Each version packs generated metadata and adds it to an index; then it, and the version after it, makes the index anew.
#[test]
#[ignore = "needs what tests/portage/other-versions.sh installs, and 15 minutes"]
fn indexes_of_other_versions_agree_with_their_packages() {
    let (versions, each) = (versions(), number("BINHOSTFS_TEST_PACKAGES", 160));
    let (mut random, mut packages) = (Random(18), 0);
    let mut count = Count::default();
    for (at, version) in versions.iter().enumerate() {
        for format in ["xpak", "gpkg"] {
            let pkgdir = TempDir::with_prefix("binhostfs-it.").unwrap();
            let generated: Vec<Metadata> = (0..each).map(|number| metadata(&mut random, number)).collect();
            let taken = make_index(version, pkgdir.path(), &generated, "inject", format, "");
            assert_eq!(taken, each, "{} {format}", name(version));
            packages += taken;
            count.add(&format!("{} {format}", name(version)), pkgdir.path());
            for writer in [version, &versions[(at + 1) % versions.len()]] {
                // 3.0.48 and later cannot read each GPKG that 3.0.31 wrote a BUILD_ID into.
                assert!(make_index(writer, pkgdir.path(), &[], "walk", format, "") > each / 4, "{}", name(writer));
                count.add(&format!("{} {format} of {}", name(writer), name(version)), pkgdir.path());
            }
            report(&format!("{} {format}", name(version)), packages, &count);
        }
    }
}

/// Each version builds generated ebuilds, as emerge does it.
#[test]
#[ignore = "needs what tests/portage/other-versions.sh installs, and 25 minutes"]
fn ebuilds_that_other_versions_build_agree_with_their_index() {
    let (versions, each) = (versions(), number("BINHOSTFS_TEST_EBUILDS", 15));
    let (mut random, mut packages) = (Random(19), 0);
    let mut count = Count::default();
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/portage/build-binhost.sh");
    for version in &versions {
        let mut atoms = Vec::new();
        for number in 0..each {
            let directory = version.join(format!("env/repo/app-misc/p{number}"));
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join(format!("p{number}-1.ebuild")), ebuild(&mut random)).unwrap();
            atoms.push(format!("=app-misc/p{number}-1"));
        }
        for format in ["xpak", "gpkg", "gpkg-signed"] {
            let pkgdir = TempDir::with_prefix("binhostfs-it.").unwrap();
            let mut command = Command::new(&build);
            command
                .arg(pkgdir.path())
                .arg(format)
                .arg(version.join("env"))
                .args(&atoms)
                .env("USE", random.some_flags());
            assert!(command.status().unwrap().success(), "{} {format}", name(version));
            packages += each;
            count.add(&format!("{} {format}", name(version)), pkgdir.path());
        }
        report(&format!("built by {}", name(version)), packages, &count);
    }
    assert_eq!(count.entries, packages);
}
