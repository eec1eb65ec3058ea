//! The installed-package database, as the real Portage writes and reads it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use binhostfs::internals::portage::InstalledPackages;

use crate::harness::portage::{self, Emerge};

/// A line for each package: CPV, SLOT, BUILD_ID, BUILD_TIME and USE.
const PORTAGE: &str = "
import portage
database = portage.db[portage.settings['EROOT']]['vartree'].dbapi
for cpv in database.cpv_all():
    slot, *numbers, use = database.aux_get(cpv, ['SLOT', 'BUILD_ID', 'BUILD_TIME', 'USE'])
    print('IS', cpv, slot.split('/')[0], *(number or '-' for number in numbers), *sorted(use.split()))
";

fn as_portage_reads_it(emerge: &Emerge) -> Vec<String> {
    let output = emerge.python(PORTAGE, "");
    let mut lines: Vec<String> =
        output.lines().filter_map(|line| line.strip_prefix("IS ")).map(str::to_owned).collect();
    lines.sort();
    lines
}

fn as_it_is_read_here(root: &Path) -> Vec<String> {
    let all = InstalledPackages::open(root).unwrap().all().unwrap();
    let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    let line = all.iter().map(|package| {
        let [build_id, build_time] = [package.build_id, package.build_time].map(number);
        let line = format!("{} {} {build_id} {build_time} {}", package.cpv, package.slot, package.flags.join(" "));
        line.trim_end().to_owned()
    });
    let mut lines: Vec<String> = line.collect();
    lines.sort();
    lines
}

#[test]
fn the_database_says_what_it_says_to_portage() {
    let Some(binhost) = portage::binhost("gpkg-multi") else { return };
    let emerge = Emerge::from(binhost);
    emerge.succeed(["=app-misc/greet-0.9"]);
    let root = emerge.path("");
    let hello = root.join("var/db/pkg/app-misc/hello-2.0-r1");
    let agreed = |state: &str| -> BTreeMap<String, String> {
        let lines = as_it_is_read_here(&root);
        assert_eq!(lines, as_portage_reads_it(&emerge), "{state}");
        lines
            .iter()
            .filter_map(|line| line.split_once(' '))
            .map(|(cpv, rest)| (cpv.to_owned(), rest.to_owned()))
            .collect()
    };
    let merged = agreed("as emerge has merged it");
    assert!(merged.len() >= 5 && merged["sys-libs/glibc-2.41"].starts_with("2.2 "), "{merged:?}");
    assert!(hello.join("SLOT").exists());
    emerge.emaint(&["vdb", "--fix"]);
    assert!(hello.join("SLOT").exists() && hello.join("metadata").exists());
    assert_eq!(agreed("both layouts"), merged);
    emerge.emaint(&["vdb", "--fix", "--delete-individual-files"]);
    assert!(!hello.join("SLOT").exists() && hello.join("metadata").exists());
    assert_eq!(agreed("the consolidated layout"), merged);
    // A format that this Portage does not know, and a file that is older than its directory.
    let metadata = fs::read_to_string(hello.join("metadata")).unwrap();
    fs::write(hello.join("metadata"), metadata.replace("#format=1", "#format=2")).unwrap();
    let later = agreed("another format");
    assert_ne!(later, merged);
    fs::write(hello.join("metadata"), &metadata).unwrap();
    assert_eq!(agreed("written back"), merged);
    fs::write(hello.join("USE"), "doc\n").unwrap();
    assert!(agreed("a stale file")["app-misc/hello-2.0-r1"].ends_with(" doc"));
}
