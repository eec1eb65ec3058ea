//! `systemd/gentoo/`: what the ebuild says by itself, by bash's reading and Portage's.
//!
//! Not its phases: all of them go through cargo.eclass, which comes with Gentoo's repository only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::portage::test_environment;

/// The one rule: of several licences, one of these.
const ANY_OF: [&str; 2] = ["MIT", "Apache-2.0"];
/// Gentoo's names where they are others than SPDX's: metadata/license-mapping.conf.
const GENTOO: [(&str, &str); 5] = [
    ("BSD-3-Clause", "BSD"),
    ("BSL-1.0", "Boost-1.0"),
    ("LGPL-2.0-or-later", "LGPL-2+"),
    ("Zlib", "ZLIB"),
    ("bzip2-1.0.6", "BZIP2"),
];

fn ebuild() -> PathBuf {
    let name = format!("systemd/gentoo/binhostfs-{}.ebuild", env!("CARGO_PKG_VERSION"));
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// What a script says that runs after the ebuild has been read; `inherited` has the names of its eclasses.
fn says(script: &str) -> String {
    let before =
        format!("P=binhostfs-{}\ninherit() {{ inherited=$*; }}\n. \"$1\" || exit\n", env!("CARGO_PKG_VERSION"));
    let mut command = Command::new("bash");
    let output = command.args(["-euc", &format!("{before}{script}"), "bash"]).arg(ebuild()).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn variable(name: &str) -> String {
    says(&format!("printf %s \"${name}\""))
}

#[test]
fn portage_takes_what_it_says() {
    let Some(environment) = test_environment() else { return };
    let script = "import sys, portage
from portage.dep import Atom, use_reduce
E = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert portage.eapi_is_supported(E['EAPI'])
assert portage.versions.catpkgsplit('app-portage/' + E['P'], eapi=E['EAPI']) == ('app-portage', 'binhostfs', E['P'].split('-')[1], 'r0')
print(*use_reduce(E['RDEPEND'], eapi=E['EAPI'], token_class=Atom, flat=True))
print(*use_reduce(E['SRC_URI'], eapi=E['EAPI'], is_src_uri=True, flat=True))
print(*use_reduce(E['RESTRICT'], eapi=E['EAPI'], flat=True))
print(use_reduce(E['LICENSE'], eapi=E['EAPI'])[0:2])
print(*[keyword for keyword in E['KEYWORDS'].split() if keyword[0] != '~'])
";
    let mut command = Command::new(environment.join("venv/bin/python"));
    command.args(["-c", script]).env("PORTAGE_OVERRIDE_EPREFIX", environment.join("env/host"));
    for name in ["EAPI", "P", "RDEPEND", "SRC_URI", "RESTRICT", "LICENSE", "KEYWORDS"] {
        command.args([name, &variable(name)]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!(
        "app-misc/ca-certificates sec-keys/openpgp-keys-gentoo-release\n\
         binhostfs-{version}.tar.xz binhostfs-{version}-crates.tar.xz\nfetch\n['||', ['MIT', 'Apache-2.0']]\n\n"
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    assert_eq!((variable("EAPI"), variable("SLOT")), ("8".into(), "0".into()));
    let oldest = env!("CARGO_PKG_RUST_VERSION");
    assert_eq!(variable("RUST_MIN_VER"), format!("{oldest}.0"));
    let readme = include_str!("../../README.md");
    assert!(readme.contains(&format!("[Rust](https://www.rust-lang.org/) {oldest} or later")));
}

/// The eclass inherited last would win, and without rust.eclass's there is no cargo to build with.
#[test]
fn every_eclass_sets_up() {
    assert_eq!(variable("inherited"), "cargo linux-info");
    assert_eq!(
        says("linux-info_pkg_setup() { echo kernel; }; rust_pkg_setup() { echo rust; }; pkg_setup"),
        "kernel\nrust\n"
    );
}

#[test]
fn its_licences_are_those_of_what_is_linked() {
    let license = variable("LICENSE");
    let said: BTreeSet<_> = license.rsplit(')').next().unwrap().split_whitespace().map(str::to_owned).collect();
    let mut linked = BTreeSet::new();
    for (package, expression) in linked_packages() {
        assert_ne!(expression, "none", "{package} has no licence");
        linked.extend(gentoo(&expression));
    }
    assert_eq!(said, linked);
}

/// What of an SPDX expression has to be named.
fn gentoo(expression: &str) -> Vec<String> {
    let term = |term: &str| {
        let term = term.trim_matches(['(', ')', ' ']);
        let choices: Vec<_> = term.split(" OR ").flat_map(|choice| choice.split('/')).map(str::trim).collect();
        let name = ANY_OF.into_iter().find(|any| choices.contains(any)).unwrap_or(term);
        GENTOO.iter().find(|(spdx, _)| *spdx == name).map_or(name, |(_, gentoo)| gentoo).to_owned()
    };
    expression.split(" AND ").map(term).collect()
}

/// Ids and licences of all that ends up in the program on this machine: what it was built from is here, nothing is fetched.
fn linked_packages() -> BTreeMap<String, String> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--offline", "--locked", "--format-version=1", "--filter-platform", &target]);
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |list: &Value, id: &str| list.as_array().unwrap().iter().find(|entry| entry["id"] == id).unwrap().clone();
    let own = metadata["resolve"]["root"].as_str().unwrap().to_owned();
    let (mut seen, mut todo, mut licences) = (BTreeSet::from([own.clone()]), vec![own.clone()], BTreeMap::new());
    while let Some(id) = todo.pop() {
        if id != own {
            let package = of(&metadata["packages"], &id);
            licences.insert(id.clone(), package["license"].as_str().unwrap_or("none").to_owned());
        }
        let node = of(&metadata["resolve"]["nodes"], &id);
        for dependency in node["deps"].as_array().unwrap() {
            // Neither for tests nor for build scripts.
            let linked = dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null());
            let id = dependency["pkg"].as_str().unwrap().to_owned();
            if linked && seen.insert(id.clone()) {
                todo.push(id);
            }
        }
    }
    licences
}
