//! What an entry says, held against the package: the values that we make of its metadata, and those in the index that the
//! real Portage makes.

mod generate;
mod versions;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use binhostfs::internals::index::{
    AuxKey, AuxKeys, AuxValues, Comparison, Dependencies, EntryValues, Index, Stanza, TokenKind, UseFlags,
};
use binhostfs::internals::verify::{PackageFormat, described};
use tempfile::TempDir;

use crate::harness::portage::test_environment;
use generate::{Metadata, Random};

/// Runs a program in the test environment's Python, with Portage's settings there.
fn python(environment: &Path, program: &str, arguments: &[&str], input: &[u8]) -> String {
    let mut child = Command::new("bash")
        .args(["-c", r#". "$0/env/env.sh" && exec "$0/venv/bin/python" -c "$@""#])
        .arg(environment)
        .arg(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// Has Portage make packages with this metadata in PKGDIR, and their index.
fn make_index(
    environment: &Path,
    pkgdir: &Path,
    packages: &[Metadata],
    way: &str,
    format: &str,
    repository: &str,
) -> usize {
    let text = |bytes: &Vec<u8>| bytes.iter().map(|byte| char::from(*byte)).collect::<String>();
    let objects: Vec<BTreeMap<&str, String>> =
        packages.iter().map(|values| values.iter().map(|(key, value)| (*key, text(value))).collect()).collect();
    let arguments = [pkgdir.to_str().unwrap(), way, format, repository];
    let said = python(environment, include_str!("index.py"), &arguments, &serde_json::to_vec(&objects).unwrap());
    said.lines().last().unwrap().parse().unwrap()
}

/// PKGDIR/Packages, with digests also where Portage leaves them out: walking, it does not read whole packages.
fn index_in(pkgdir: &Path) -> String {
    let text = fs::read_to_string(pkgdir.join("Packages")).unwrap();
    let digest = "MD5: d41d8cd98f00b204e9800998ecf8427e\n";
    let stanza = |stanza: &str| format!("{}{stanza}\n\n", if stanza.contains("\nMD5: ") { "" } else { digest });
    let (header, entries) = text.trim_end().split_once("\n\n").unwrap();
    format!("{header}\n\n{}", entries.split("\n\n").map(stanza).collect::<String>())
}

/// The index that Portage makes of packages with this metadata, which has all of them.
fn portage_index(environment: &Path, packages: &[Metadata], way: &str, repository: &str) -> String {
    let pkgdir = TempDir::with_prefix("binhostfs-it.").unwrap();
    let taken = make_index(environment, pkgdir.path(), packages, way, "xpak", repository);
    assert_eq!(taken, packages.len(), "Portage takes every package");
    index_in(pkgdir.path())
}

fn parsed(text: &str) -> Index {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let index = Index::parse(file).unwrap();
    assert_eq!(index.dropped().total(), 0, "{}", index.dropped());
    index
}

/// Calls `visit` with each entry of the index and the values of its package.
fn each(
    index: &Index,
    packages: &BTreeMap<String, AuxValues>,
    mut visit: impl FnMut(&str, &AuxValues, &EntryValues<'_>),
) {
    for record in index.records() {
        let stanza = index.stanza(record).unwrap();
        let cpv = stanza.get("CPV").unwrap();
        visit(cpv, &packages[cpv], &EntryValues::of(&stanza, index));
    }
}

/// Every value of every entry is ours; but where the package has none, and the header has one for all.
fn all_are_equal(index: &Index, packages: &BTreeMap<String, AuxValues>) {
    let (mut wrong, mut count) = (Vec::new(), 0);
    each(index, packages, |cpv, package, entry| {
        count += 1;
        let mut inherited = AuxKeys::default();
        for key in [AuxKey::Chost, AuxKey::Repository] {
            if package.get(key).is_empty() && !entry.get(key).is_empty() {
                inherited.insert(key);
            }
        }
        let expected = if inherited.is_empty() { Comparison::Equal } else { Comparison::OtherForm(inherited) };
        let found = package.compare(entry);
        let agrees = entry.agrees_with(if inherited.is_empty() { package.digest() } else { entry.digest() });
        if found != expected || !agrees {
            wrong.push(format!("{cpv}: {found:?}"));
        }
    });
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(count, packages.len());
}

/// `text` with what `change` makes of the line of `key` in every entry that has one, and of none in the others.
fn changed(text: &str, key: AuxKey, change: Change<'_>) -> String {
    let mut stanzas = text.trim_end().split("\n\n");
    let mut changed = format!("{}\n\n", stanzas.next().unwrap());
    for stanza in stanzas {
        let value = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (AuxKey::of_entry(name) == Some(key)).then(|| value.to_owned())
        };
        let others: String =
            stanza.lines().filter(|line| value(line).is_none()).map(|line| format!("{line}\n")).collect();
        changed += &format!("{others}{}\n", change(stanza.lines().find_map(value).as_deref()));
    }
    changed
}

/// What is written of a key instead of a value.
type Change<'a> = &'a dyn Fn(Option<&str>) -> String;

/// Whatever an index says of a key of a package, and where it says nothing more.
fn every_change_is_found(text: &str, packages: &BTreeMap<String, AuxValues>, key: AuxKey) {
    let line = |value: &str| format!("{key}: {value}\n");
    let changes: [Change<'_>; 4] = [
        &|value| value.map_or_else(|| line("x/y"), |_| String::new()),
        &|value| line(&format!("{}x", value.unwrap_or_default())),
        &|value| line(&format!("x/y {}", value.unwrap_or_default())),
        &|_| line("x/y"),
    ];
    // One that has every key, so that none is taken for newer than the index.
    let all: String = AuxKey::ALL.map(|key| format!("{key}: 1\n")).concat();
    let all = format!("CPV: app-misc/all-1\nMD5: d41d8cd98f00b204e9800998ecf8427e\nSIZE: 5\n{all}\n");
    let mut packages = packages.clone();
    packages.insert("app-misc/all-1".to_owned(), AuxValues::of_package(|_| Some(b"2")));
    for change in changes {
        let index = parsed(&(changed(text, key, change) + &all));
        let mut count = 0;
        each(&index, &packages, |cpv, package, entry| {
            if key.is_inherited() && package.get(key).is_empty() {
                return;
            }
            count += 1;
            let Comparison::Mismatch(found) = package.compare(entry) else {
                panic!("{key} of {cpv} is {:?}, and that is not found", entry.get(key))
            };
            let keys: Vec<AuxKey> = found.iter().map(|mismatch| mismatch.key).collect();
            assert!(keys.contains(&key), "{cpv}: {keys:?} instead of {key}");
            assert!(!entry.agrees_with(package.digest()), "{cpv}");
        });
        assert!(count > packages.len() / 4, "{key}: {count} of {}", packages.len());
    }
}

#[test]
fn values_are_those_that_portage_writes() {
    let Some(environment) = test_environment() else { return };
    let mut random = Random(16);
    let packages: Vec<Metadata> = (0..600).map(|number| generate::metadata(&mut random, number)).collect();
    let name = |metadata: &Metadata| format!("app-misc/{}", String::from_utf8_lossy(&metadata["PF"]).trim());
    let values_of = |metadata: &Metadata| AuxValues::of_package(|key| metadata.get(key.name()).map(Vec::as_slice));
    let values: BTreeMap<String, AuxValues> =
        packages.iter().map(|package| (name(package), values_of(package))).collect();
    let text = portage_index(&environment, &packages, "walk", "bhtest");
    assert!(text.lines().take_while(|line| !line.is_empty()).any(|line| line == "REPO: bhtest"));
    all_are_equal(&parsed(&text), &values);
    AuxKey::ALL.into_iter().for_each(|key| every_change_is_found(&text, &values, key));

    // Each time Portage reads and writes the whole index.
    let some = &packages[..100];
    let text = portage_index(&environment, some, "inject", "");
    let values = some.iter().map(name).map(|name| (name.clone(), values[&name].clone())).collect();
    all_are_equal(&parsed(&text), &values);
}

/// Of lines with flags, `Atom` or nothing, and a text: what Portage makes of it.
const REDUCE: &str = r#"
import sys
from portage.dep import Atom, paren_enclose, use_reduce
from portage.exception import InvalidDependString
for line in sys.stdin:
    flags, kind, text = line.rstrip("\n").split("\t")
    try:
        print(paren_enclose(use_reduce(text, uselist=flags.split(), token_class=Atom if kind else None)))
    except InvalidDependString:
        print("invalid")
"#;

#[test]
fn dependencies_are_reduced_as_portage_reduces_them() {
    let Some(environment) = test_environment() else { return };
    let mut random = Random(17);
    let (mut questions, mut ours) = (String::new(), Vec::new());
    for round in 0..12_000 {
        let kind = if round % 2 == 0 { TokenKind::Atom } else { TokenKind::Plain };
        let mut text = generate::atoms(&mut random);
        // Of atoms Portage says more than whether brackets are right.
        if kind == TokenKind::Plain && round % 3 == 0 {
            let mut words: Vec<&str> = text.split_whitespace().collect();
            let at = random.below(words.len() + 1);
            match random.below(3) {
                0 if at < words.len() => drop(words.remove(at)),
                _ => words.insert(at, random.of(&["(", ")", "||", "ssl?", "-x?", "!?", "->", "( )", "||(", "a)"])),
            }
            text = words.join(" ");
        }
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let flags = random.some_flags();
        let reduced = Dependencies::reduce(&text, kind, &UseFlags::of(&flags));
        ours.push(reduced.map_or_else(|_| "invalid".to_owned(), Dependencies::as_portage));
        questions += &format!("{flags}\t{}\t{text}\n", if kind == TokenKind::Atom { "Atom" } else { "" });
    }
    let answers = python(&environment, REDUCE, &[], questions.as_bytes());
    let answers: Vec<&str> = answers.split('\n').collect();
    let all = questions.lines().zip(&ours).zip(&answers);
    let differ: Vec<String> = all
        .filter(|((_, ours), theirs)| *ours != **theirs)
        .map(|((question, ours), theirs)| format!("{question}:\n    {ours}\n    {theirs}"))
        .collect();
    assert_eq!(answers.len(), ours.len() + 1);
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ[..differ.len().min(20)].join("\n"));
    let invalid = answers.iter().filter(|answer| **answer == "invalid").count();
    assert!((1000..4000).contains(&invalid), "{invalid}");
}

/// Holds each entry of PKGDIR's index against the package on the disk.
fn comparisons(pkgdir: &Path) -> Vec<(String, Comparison)> {
    let index = parsed(&index_in(pkgdir));
    let compare = |path: &str, stanza: &Stanza| {
        let container = if path.ends_with(".gpkg.tar") { PackageFormat::Gpkg } else { PackageFormat::Xpak };
        let metadata = described(&File::open(pkgdir.join(path)).unwrap(), container, &AuxKey::is_metadata).unwrap();
        let package = AuxValues::of_package(|key| metadata.get(key.name()).map(String::as_bytes));
        package.compare(&EntryValues::of(stanza, &index))
    };
    let paths = index.records().iter().map(|record| (index.path(record), index.stanza(record).unwrap()));
    paths.map(|(path, stanza)| (path.to_owned(), compare(path, &stanza))).collect()
}

#[test]
fn every_package_that_portage_builds_agrees_with_its_index() {
    let Some(environment) = test_environment() else { return };
    let binhosts = fs::read_dir(environment.join("binhosts")).unwrap().map(|binhost| binhost.unwrap().path());
    let all: Vec<(String, Comparison)> = binhosts.flat_map(|binhost| comparisons(&binhost)).collect();
    let wrong: Vec<_> = all.iter().filter(|(_, comparison)| *comparison != Comparison::Equal).collect();
    assert!(wrong.is_empty() && all.len() > 40, "{} of {}: {wrong:?}", wrong.len(), all.len());
}
