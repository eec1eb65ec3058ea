//! What tests start is installed for them: the tables of `tests/run` hold what is in their files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::imports::sources;

/// What no Debian, and no other Linux that is somebody's machine, is without.
const EVERYWHERE: [&str; 8] = ["cat", "cp", "date", "ls", "mkfifo", "mv", "sh", "sleep"];
/// Those of which a test's file shows that it needs them by other means than their names.
const GROUPS: [&str; 4] = ["always", "keys", "portage", "machines"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Programs of each table in `tests/run`.
fn tables() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("tests/run")).unwrap();
    let mut tables = BTreeMap::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_suffix("=(") else { continue };
        let entries = lines.by_ref().take_while(|line| *line != ")");
        let programs = entries.filter_map(|line| line.trim().strip_prefix('"')?.split_once(' '));
        tables.insert(name.to_owned(), programs.map(|(program, _)| program.to_owned()).collect());
    }
    tables
}

/// Files below a directory of the checkout, but for this one, and their text.
fn texts(directory: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    sources(&root().join(directory), &mut files);
    files.retain(|file| !file.ends_with(file!()));
    files.into_iter().map(|file| (file.clone(), fs::read_to_string(file).unwrap())).collect()
}

/// Whether a text has the program's name as a word of its own, or the first one, in quotes.
fn names(text: &str, program: &str) -> bool {
    [format!("\"{program}\""), format!("\"{program} ")].iter().any(|quoted| text.contains(quoted))
}

#[test]
fn what_tests_start_is_installed() {
    let tables = tables();
    let known: BTreeSet<&str> = tables.values().flatten().map(String::as_str).chain(EVERYWHERE).collect();
    let mut started = BTreeSet::new();
    for (file, text) in texts("src").into_iter().chain(texts("tests/it")) {
        for program in text.split("Command::new(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let installed = program.starts_with('/') || known.contains(program);
            assert!(installed, "{} starts {program}, which is in no table of tests/run", file.display());
            started.insert(program.to_owned());
        }
    }
    assert!(started.len() > 20, "{started:?}");
}

/// `tests/run` does not look into the harness for names, but for what tests use of it.
#[test]
fn what_the_harness_starts_belongs_to_a_group() {
    let tables = tables();
    let grouped: BTreeSet<&String> = GROUPS.iter().flat_map(|group| &tables[*group]).collect();
    let harness = texts("tests/it/harness");
    assert!(harness.iter().any(|(_, text)| names(text, "nginx")), "the harness starts nginx");
    for program in tables["named"].iter().filter(|program| !grouped.contains(program)) {
        for (file, text) in &harness {
            assert!(!names(text, program), "{} starts {program}: put it in a group in tests/run", file.display());
        }
    }
}

#[test]
fn no_program_is_installed_for_nothing() {
    let texts = texts("tests/it");
    for program in tables()["named"].iter().filter(|program| *program != "conmon") {
        let named = texts.iter().any(|(_, text)| names(text, program));
        assert!(named, "no test names {program}, which tests/run installs");
    }
}
