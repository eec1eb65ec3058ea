//! Which binary packages emerge does not take: user patches, `usepkg-include` and `usepkg-exclude`.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::World;
use crate::harness::binhost::{configuration, repository};
use crate::harness::portage::{Emerge, Nginx, binhost, copy_of};

/// Makes a file; the package's directory is empty.
const PATCH: &str = "--- /dev/null\n+++ b/new\n@@ -0,0 +1 @@\n+new\n";
const OTHER: &str = "--- /dev/null\n+++ b/other\n@@ -0,0 +1 @@\n+other\n";

/// Without a phase of its own Portage would not prepare a source.
const EBUILD: &str = "EAPI=8\nDESCRIPTION=x\nSLOT=0\nLICENSE=GPL-2\nKEYWORDS=amd64\nS=\"${WORKDIR}\"\n\
                      src_prepare() { default; }\nsrc_install() { keepdir /etc/patched; }\n";

/// The one user patch for app-misc/patched, or none.
fn patch(root: &Path, text: Option<&str>) {
    let directory = root.join("etc/portage/patches/app-misc/patched");
    fs::create_dir_all(&directory).unwrap();
    match text {
        Some(text) => fs::write(directory.join("new.patch"), text).unwrap(),
        None => drop(fs::remove_file(directory.join("new.patch"))),
    }
}

/// More lines in a file of Portage's.
fn append(root: &Path, file: &str, lines: &str) -> String {
    let path = root.join("etc/portage").join(file);
    let before = fs::read_to_string(&path).unwrap();
    fs::write(path, format!("{before}{lines}")).unwrap();
    before
}

impl World {
    /// An emerge of the same configuration with the packages in a plain directory.
    fn plain(&self, pkgdir: &Path) -> Emerge {
        let root = self.root.path().to_str().unwrap();
        Emerge::from(pkgdir.to_owned()).with("CONFIGROOT", root).with("MODE", "-k")
    }

    /// Of each build, its path and why emerge does not take it.
    fn rejections(&self, atom: &str) -> Vec<(String, Vec<String>)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        self.why(atom)
            .iter()
            .map(|one| (text(&one["path"]), one["rejected"].as_array().unwrap().iter().map(text).collect()))
            .collect()
    }
}

#[test]
fn a_package_that_was_built_with_the_same_patches_is_taken() {
    let Some(_) = binhost("gpkg-multi") else { return };
    let served = TempDir::with_prefix("binhostfs-it.").unwrap();
    let pkgdir = served.path().join("patched");
    fs::create_dir(&pkgdir).unwrap();
    let builder = configuration("", &format!("PKGDIR=\"{}\"\n", pkgdir.display())).unwrap();
    patch(builder.path(), Some(PATCH));
    let repos_conf = repository(builder.path(), &[("patched", EBUILD)]);
    fs::write(builder.path().join("etc/portage/repos.conf"), &repos_conf).unwrap();
    let package = ["--nodeps", "=app-misc/patched-1"];
    Emerge::configured(builder.path()).with("MODE", "--buildpkgonly").succeed(package);
    let index = fs::read_to_string(pkgdir.join("Packages")).unwrap();
    assert!(index.lines().any(|line| line.len() == "USER_PATCHES: ".len() + 64), "{index}");

    let server = Nginx::serve(served.path());
    let world = World::of(&server, &[("patched", "patched", "")], "").unwrap();
    let root = world.root.path();
    fs::write(root.join("etc/portage/repos.conf"), repos_conf).unwrap();
    let installed = root.join("var/db/pkg/app-misc/patched-0");
    fs::create_dir_all(&installed).unwrap();
    fs::write(installed.join("SLOT"), "0\n").unwrap();
    let copy = copy_of(&pkgdir);
    let make_conf = append(root, "make.conf", "");
    for (text, options, rejected, kind) in [
        (None, "", "it was built with patches, and", "ebuild"),
        (Some(OTHER), "", "it was not built with the patches", "ebuild"),
        (None, "--binpkg-respect-user-patches=n", "", "binary"),
        (Some(PATCH), "", "", "binary"),
    ] {
        patch(root, text);
        let options = format!("EMERGE_DEFAULT_OPTS=\"--color=n {options}\"\n");
        fs::write(root.join("etc/portage/make.conf"), format!("{make_conf}{options}")).unwrap();
        let case = format!("{text:?} {options}");
        let plan = world.ours().plan(package);
        assert_eq!(plan, world.plain(copy.path()).plan(package), "{case}");
        assert!(matches!(&plan[..], [one] if one.starts_with(kind)), "{case}: {plan:?}");
        let rejections = world.rejections("patched");
        let [(_, reasons)] = &rejections[..] else { panic!("{rejections:?}") };
        match rejected {
            "" => assert!(reasons.is_empty(), "{case}: {reasons:?}"),
            why => assert!(matches!(&reasons[..], [one] if one.starts_with(why)), "{case}: {reasons:?}"),
        }
        // What emerge does not take is not fetched for an upgrade to come.
        world.client(&["prefetch", "--world"]);
        let downloads = world.mounted.counter("downloads");
        assert_eq!(downloads, u64::from(kind == "binary"), "{case}");
    }
    world.ours().succeed(package);
}

#[test]
fn usepkg_include_and_exclude_count_as_with_a_plain_directory() {
    let Some(binhost) = binhost("gpkg-multi") else { return };
    let server = Nginx::serve(binhost.parent().unwrap());
    let world = World::of(&server, &[("multi", "gpkg-multi", "")], "").unwrap();
    let copy = copy_of(&binhost);
    let root = world.root.path();
    let [make_conf, repos_conf] = ["make.conf", "repos.conf"].map(|file| append(root, file, ""));
    for (repository, options) in [
        ("usepkg-exclude = app-misc/greet sys-libs/*", ""),
        ("usepkg-include = libfoo app-misc/greet:0", ""),
        ("usepkg-exclude = app-misc/greet", "--usepkg-include 'app-misc/greet dev-libs/libfoo'"),
        ("usepkg-include = app-misc/greet\nusepkg-exclude = app-misc/greet hello", "--usepkg-exclude=acct-*/*"),
        ("", "--usepkg-exclude 'app-misc/greet' --usepkg-exclude=libfoo:0/1.3"),
        ("", "--usepkg-include libfoo --usepkg-exclude libfoo"),
    ] {
        let options = format!("EMERGE_DEFAULT_OPTS=\"--color=n {options}\"\n");
        fs::write(root.join("etc/portage/make.conf"), format!("{make_conf}{options}")).unwrap();
        fs::write(root.join("etc/portage/repos.conf"), format!("{repos_conf}{repository}\n")).unwrap();
        let case = format!("{repository:?} {options}");
        let plan = world.ours().plan(["app-misc/greet"]);
        assert_eq!(plan, world.plain(copy.path()).plan(["app-misc/greet"]), "{case}");
        assert_eq!(plan.len(), 7, "{case}: {plan:?}");
        // USE and dependencies are as they should be: nothing else keeps emerge from a package.
        for line in &plan {
            let (kind, package) = line.split_once(' ').unwrap();
            let path =
                |path: &str| package.split_once('/').is_some_and(|(_, pf)| path.contains(&format!("/{pf}.gpkg")));
            let version = package.split("::").next().unwrap();
            let atom = version.rsplit_once('-').filter(|_| kind == "binary").map_or(version, |(cpv, _)| cpv);
            let rejections = world.rejections(&format!("={atom}"));
            match kind {
                "binary" => assert!(
                    rejections.iter().any(|(at, why)| path(at) && why.is_empty()),
                    "{case}: {line} {rejections:?}"
                ),
                _ => assert!(rejections.iter().all(|(_, why)| !why.is_empty()), "{case}: {line} {rejections:?}"),
            }
        }
        assert_eq!(
            plan.iter().any(|line| line.starts_with("ebuild")),
            !options.contains("--usepkg-exclude libfoo\""),
            "{plan:?}"
        );
    }
}
