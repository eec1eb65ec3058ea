//! The libc guard: Portage installs the libc first that a package was built against.

use std::fs;

use tempfile::TempDir;

use super::{Section, TRUSTED, VISITED, World};
use crate::harness::binhost::Assembled;
use crate::harness::portage::{Emerge, Nginx, binhost};

const HOST: [Section<'_>; 1] = [("host", "", "")];
const OLD: &str = "=sys-libs/glibc-2.40-r3";
const HELLO: &str = "=app-misc/hello-1.1_p20260101";
const NEEDS: (&str, &str) = ("REQUIRES", "x86_64: libc.so.6");

/// Two glibcs, and what was built against the newer one: with no dependency on it, and with one on any.
fn server() -> Option<(Nginx, TempDir)> {
    let multi = binhost("gpkg-multi")?;
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let [many, hello] = ["app-misc/many/many-1-1.gpkg.tar", "app-misc/hello/hello-1.1_p20260101-1.gpkg.tar"];
    Assembled::new(place.path().to_owned(), &multi)
        .take_as(&multi, many, many, &[NEEDS])
        .take_as(&multi, hello, hello, &[NEEDS])
        .take(&multi, "sys-libs/glibc/glibc-2.40-r3-1.gpkg.tar")
        // Built before both, and with default USE.
        .take(&multi, "sys-libs/glibc/glibc-2.41-1.gpkg.tar")
        .take(&multi, "sys-libs/glibc/glibc-2.41-2.gpkg.tar")
        .take(&multi, "acct-group/demo/demo-0-1.gpkg.tar")
        .publish();
    Some((Nginx::serve(place.path()), place))
}

/// With the old glibc and, as on every Gentoo, virtual/libc.
fn on_an_old_libc(emerge: Emerge) -> Emerge {
    let virtual_libc = emerge.path("var/db/pkg/virtual/libc-1");
    fs::create_dir_all(&virtual_libc).unwrap();
    for (key, value) in [
        ("EAPI", "8"),
        ("RDEPEND", "sys-libs/glibc:2.2"),
        ("SLOT", "0"),
        ("USE", ""),
        ("IUSE", ""),
        ("KEYWORDS", "amd64"),
        ("repository", "bhtest"),
        ("CATEGORY", "virtual"),
        ("PF", "libc-1"),
    ] {
        fs::write(virtual_libc.join(key), format!("{value}\n")).unwrap();
    }
    emerge.succeed([OLD]);
    emerge
}

#[test]
fn what_was_built_against_a_newer_libc_brings_it_along() {
    let Some((server, _place)) = server() else { return };
    let off = World::of(&server, &HOST, "").unwrap();
    let on = World::of(&server, &HOST, "libc-guard = true").unwrap();
    assert_eq!(on.mounted.status()["binhosts"][0]["entries"]["libc_guarded"], 2);
    for (package, line) in
        [("app-misc/many", "binary app-misc/many-1-1"), (HELLO, "binary app-misc/hello-1.1_p20260101-1")]
    {
        for mode in ["-k", "-K"] {
            let plan = |world: &World| on_an_old_libc(world.ours().with("MODE", mode)).plan([package]);
            assert_eq!(plan(&off), [line], "{mode} without the guard");
            assert_eq!(plan(&on), ["binary sys-libs/glibc-2.41-2", line], "{mode} with the guard");
        }
    }
    // The order, where both are asked for.
    let both =
        |world: &World| on_an_old_libc(world.ours()).plan(["app-misc/many", "=sys-libs/glibc-2.41", "acct-group/demo"]);
    let place = |plan: &[String], name: &str| plan.iter().position(|line| line.contains(name)).unwrap();
    let (without, with) = (both(&off), both(&on));
    assert!(place(&without, "many") < place(&without, "glibc"), "{without:?}");
    assert!(place(&with, "glibc") < place(&with, "many"), "{with:?}");
}

/// Of an added libc Portage knows only by virtual/libc in the ROOT that it is none of the ebuild's dependencies.
#[test]
fn without_a_libc_portage_has_to_be_told_that_the_dependencies_differ() {
    let Some((server, _place)) = server() else { return };
    let world = World::of(&server, &HOST, "libc-guard = true").unwrap();
    let plan = |mode, option| world.ours().with("MODE", mode).plan([option, "app-misc/many"]);
    let whole = ["binary sys-libs/glibc-2.41-2", "binary app-misc/many-1-1"];
    assert_eq!(plan("-K", "--oneshot"), whole);
    assert_eq!(plan("-k", "--binpkg-changed-deps=n"), whole);
    assert_eq!(plan("-k", "--oneshot"), ["ebuild app-misc/many-1"]);
}

#[test]
fn a_guarded_package_installs_and_stays() {
    let Some((server, _place)) = server() else { return };
    // The entries do not say what the packages say: these were built with the libc that they need.
    let world = World::of(&server, &HOST, "libc-guard = true\nindex-mismatch = \"off\"").unwrap();
    for (mode, features) in [("-k", TRUSTED), ("-k", VISITED), ("-K", VISITED)] {
        let emerge = on_an_old_libc(world.ours().with("MODE", mode).with("FEATURES", features));
        emerge.succeed(["app-misc/many", HELLO]);
        let installed = ["app-misc/hello-1.1_p20260101", "app-misc/many-1", "sys-libs/glibc-2.41", "virtual/libc-1"];
        assert_eq!(emerge.names(), installed, "{mode} {features}");
        for more in [&["--update"][..], &["--update", "--deep", "--newuse"], &["--update", "--changed-deps"]] {
            let plan = emerge.plan(more.iter().copied().chain(["app-misc/many", HELLO]));
            assert!(plan.is_empty(), "{mode} {features} {more:?}: {plan:?}");
        }
    }
    let log = world.mounted.log();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}
