//! Whatever its options, the state of its root and its version: emerge plans from the mount what it plans from a plain copy.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::harness::binhost::{configuration, repository};
use crate::harness::portage::{self, Emerge, Nginx, copy_of};
use crate::harness::{Mounted, Options};

/// MODE, USE and options of emerge.
const SETS: [(&str, &str, &[&str]); 14] = [
    ("-k", "", &[]),
    ("-K", "", &[]),
    ("-k", "doc", &[]),
    ("-k", "-nls", &["--newuse", "--deep", "--update"]),
    ("-k", "doc", &["--binpkg-respect-use=n"]),
    ("-k", "", &["--binpkg-changed-deps=y"]),
    ("-k", "", &["--usepkg-exclude", "app-misc/greet dev-libs/libfoo"]),
    ("-k", "static-libs", &["--emptytree"]),
    ("-K", "", &["--emptytree", "--jobs", "4"]),
    ("-k", "", &["--update", "--deep", "--rebuilt-binaries=y"]),
    ("-k", "", &["--update", "--deep", "--changed-deps=y"]),
    ("-k", "", &["--onlydeps"]),
    ("-k", "doc", &["--nodeps"]),
    ("-k", "", &["--update", "--deep", "--with-bdeps=y", "--complete-graph"]),
];
/// Portage's default since some version.
const TRUSTED: &str = "pkgdir-index-trusted";
const VISITED: &str = "-pkgdir-index-trusted";
const PROACTIVE: &str = "buildpkg buildpkg-proactive";

/// A mount of a binhost, and a plain copy of it.
struct Sides {
    mounted: Mounted,
    copy: TempDir,
    _nginx: Nginx,
    /// What `make-repo.sh` made for another version of Portage.
    base: Option<PathBuf>,
}

impl Sides {
    fn of(name: &str) -> Option<Self> {
        Self::with(name, &[])
    }

    /// With more options of `binhostfs mount`.
    fn with(name: &str, options: &[&str]) -> Option<Self> {
        let binhost = portage::binhost(name)?;
        let nginx = Nginx::serve(&binhost);
        let mounted = Options::new(nginx.url()).with(options.iter().copied()).mount();
        Some(Self { mounted, copy: copy_of(&binhost), _nginx: nginx, base: None })
    }

    fn emerge(&self, pkgdir: &Path, mode: &str) -> Emerge {
        let emerge = Emerge::from(pkgdir.to_owned()).with("MODE", mode);
        match &self.base {
            Some(base) => emerge.with("BASE", base.to_str().unwrap()),
            None => emerge,
        }
    }

    /// All merge lists from the mount, which are those from the copy.
    fn lists(&self, root: &Emerge, features: &str, atoms: &[&str]) -> Vec<Vec<String>> {
        let list = |(mode, flags, options): &(&str, &str, &[&str])| {
            let [ours, theirs] = [&self.mounted.mountpoint(), self.copy.path()].map(|pkgdir| {
                let emerge = self.emerge(pkgdir, mode).into_root_of(root).with("USE", flags).with("FEATURES", features);
                emerge.plan(options.iter().chain(atoms).copied())
            });
            assert_eq!(ours, theirs, "{mode} USE={flags:?} FEATURES={features:?} {options:?}");
            ours
        };
        let lists: Vec<_> = SETS.iter().map(list).collect();
        // The sets are no use if they all come to the same.
        let different: BTreeSet<_> = lists.iter().collect();
        assert!(different.len() >= 4, "{different:?}");
        for kind in ["binary ", "ebuild "] {
            assert!(lists.iter().flatten().any(|line| line.starts_with(kind)), "{kind}: {lists:?}");
        }
        lists
    }
}

#[test]
fn into_an_empty_root() {
    let Some(sides) = Sides::of("gpkg-multi") else { return };
    let root = Emerge::from(sides.copy.path().to_owned());
    sides.lists(&root, VISITED, &["app-misc/greet", "app-misc/usesfoo"]);
}

#[test]
fn from_an_index_that_is_rendered_when_it_is_read() {
    let Some(sides) = Sides::with("gpkg-multi", &["--store-index", "small"]) else { return };
    assert_eq!(sides.mounted.status()["generation"]["rendered_on_read"], true);
    let root = Emerge::from(sides.copy.path().to_owned());
    sides.lists(&root, TRUSTED, &["app-misc/greet", "app-misc/usesfoo"]);
}

#[test]
fn with_packages_that_are_built_only_where_there_is_none() {
    let Some(sides) = Sides::of("gpkg-multi") else { return };
    let root = Emerge::from(sides.copy.path().to_owned());
    root.succeed(["=app-misc/hello-1.0"]);
    sides.lists(&root, PROACTIVE, &["app-misc/greet"]);
}

#[test]
fn into_a_root_whose_database_is_consolidated() {
    let Some(sides) = Sides::of("gpkg-multi") else { return };
    let root = Emerge::from(sides.copy.path().to_owned());
    root.succeed(["--nodeps", "=sys-libs/glibc-2.40-r3", "=dev-libs/libfoo-1.2.3", "=app-misc/hello-1.0"]);
    root.succeed(["--nodeps", "=app-misc/usesfoo-1"]);
    let atoms = ["app-misc/greet", "app-misc/usesfoo"];
    let before = sides.lists(&root, TRUSTED, &atoms);
    root.emaint(&["vdb", "--fix", "--delete-individual-files"]);
    assert!(!root.path("var/db/pkg/app-misc/hello-1.0/SLOT").exists());
    assert_eq!(sides.lists(&root, TRUSTED, &atoms), before);
    // It is upgraded through the mount, and what is left to do is the same.
    let emerge = sides.emerge(&sides.mounted.mountpoint(), "-k").into_root_of(&root);
    emerge.succeed(["--update", "--deep", "app-misc/greet"]);
    assert_eq!(root.says("usr/bin/hello"), "hello-2.0-r1");
    sides.lists(&root, TRUSTED, &atoms);
}

/// emerge runs pkg_pretend of all binary packages before it merges the first one.
#[test]
fn four_jobs_with_pkg_pretend_of_binaries() {
    const EBUILD: &str = "EAPI=8\nDESCRIPTION=x\nSLOT=0\nLICENSE=GPL-2\nKEYWORDS=amd64\nS=\"${WORKDIR}\"\n\
                          pkg_pretend() { elog \"${PN} pretends ${MERGE_TYPE}\"; }\nsrc_install() { keepdir /etc/${PN}; }\n";
    let Some(_) = portage::binhost("gpkg-multi") else { return };
    let names: Vec<String> = (1..=6).map(|number| format!("pretend{number}")).collect();
    let served = TempDir::with_prefix("binhostfs-it.").unwrap();
    let pkgdir = format!("PKGDIR=\"{}\"\n", served.path().display());
    let builder = configuration("", &pkgdir).unwrap();
    let ebuilds: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), EBUILD)).collect();
    fs::write(builder.path().join("etc/portage/repos.conf"), repository(builder.path(), &ebuilds)).unwrap();
    let atoms: Vec<String> = names.iter().map(|name| format!("app-misc/{name}")).collect();
    let atoms = || atoms.iter().map(String::as_str);
    Emerge::configured(builder.path()).with("MODE", "--buildpkgonly").succeed(atoms());

    let nginx = Nginx::serve(served.path());
    let mounted = Options::new(nginx.url()).mount();
    let copy = copy_of(served.path());
    let merge = |pkgdir: &Path| {
        let emerge = Emerge::from(pkgdir.to_owned()).with("CONFIGROOT", builder.path().to_str().unwrap());
        let emerge = emerge.with("MODE", "-k");
        let plan = emerge.plan(["--jobs", "4"].into_iter().chain(atoms()));
        let output = emerge.succeed(["--jobs", "4"].into_iter().chain(atoms()));
        let pretended = names.iter().filter(|name| output.contains(&format!("{name} pretends binary"))).count();
        assert_eq!(pretended, names.len(), "{output}");
        (plan, emerge.names())
    };
    let ours = merge(&mounted.mountpoint());
    assert_eq!(ours, merge(copy.path()));
    assert_eq!((ours.1.len(), nginx.fetched().len()), (names.len(), names.len()));
    assert_eq!((mounted.counter("failed_opens"), mounted.counter("bulk_reads_refused")), (0, 0));
}

/// Plans and merges with another version of Portage than that of the test environment.
fn for_portage(version: &str) {
    let Some(mut sides) = Sides::of("gpkg-multi") else { return };
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = std::env::var_os("BINHOSTFS_TEST_PORTAGES").map(PathBuf::from);
    let directory = directory.unwrap_or_else(|| checkout.join("target/portages"));
    let script = checkout.join("tests/portage/other-versions.sh");
    assert!(Command::new(script).arg(&directory).arg(version).status().unwrap().success());
    sides.base = Some(directory.join(version).join("env"));
    let root = sides.emerge(sides.copy.path(), "-K");
    let told = root.succeed(["--version"]);
    assert!(told.contains(&format!("Portage {version} ")), "{told}");
    sides.lists(&root, VISITED, &["app-misc/greet", "app-misc/usesfoo"]);
    root.succeed(["--nodeps", "=sys-libs/glibc-2.40-r3", "=dev-libs/libfoo-1.2.3", "=app-misc/hello-1.0"]);
    for features in [TRUSTED, VISITED] {
        sides.lists(&root, features, &["app-misc/greet"]);
    }
    sides.emerge(&sides.mounted.mountpoint(), "-k").into_root_of(&root).succeed(["--update", "app-misc/greet"]);
    assert_eq!(root.says("usr/bin/greet"), "greet-0.9");
    assert_eq!(sides.mounted.counter("failed_opens"), 0);
}

#[test]
#[ignore = "group portages: installs an older Portage from PyPI"]
fn for_portage_3_0_48() {
    for_portage("3.0.48");
}

#[test]
#[ignore = "group portages: installs an older Portage from PyPI"]
fn for_portage_3_0_65() {
    for_portage("3.0.65");
}
