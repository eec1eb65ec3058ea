//! Which packages of a binhost are used.

use super::{Section, World};
use crate::harness::portage::{Nginx, binhost, entries, test_environment};

const PACKAGES: [&str; 3] = ["app-misc/greet", "app-misc/usesfoo", "app-misc/many"];

/// The plan through the mount is Portage's own, and there is something of both kinds in it.
#[track_caller]
fn assert_same_plan(world: &World, options: &[&str]) {
    let theirs = world.theirs().plan(options.iter().copied().chain(PACKAGES));
    let ours = world.ours().plan(PACKAGES);
    assert_eq!(ours, theirs, "{options:?}");
    for kind in ["binary ", "ebuild "] {
        assert!(ours.iter().any(|line| line.starts_with(kind)), "{kind}: {ours:?}");
    }
}

fn server() -> Option<Nginx> {
    Some(Nginx::serve(binhost("gpkg-multi")?.parent()?))
}

const MULTI: Section<'_> = ("multi", "gpkg-multi", "");

#[test]
fn as_binrepos_conf_says() {
    let Some(server) = server() else { return };
    for more in [
        "getbinpkg-exclude = dev-libs/libfoo acct-*/*",
        "getbinpkg-include = app-misc/* sys-libs/glibc",
        "getbinpkg-include = app-misc/* dev-libs/*\ngetbinpkg-exclude = greet libfoo:0",
        "getbinpkg-include = libfoo many\ngetbinpkg-exclude = many virtual/*",
    ] {
        assert_same_plan(&World::of(&server, &[("multi", "gpkg-multi", more)], "").unwrap(), &[]);
    }
}

#[test]
fn what_cannot_be_signed_is_planned_from_source_where_it_has_to_be() {
    let (Some(server), Some(environment)) = (server(), test_environment()) else { return };
    let toml = format!("keyring = \"{}\"", environment.join("env/signing-key.pgp").display());
    for (verify, unsignable) in [("verify-signature = true", 7), ("", 0)] {
        let sections =
            [("flat", "xpak-flat", verify), ("signed", "gpkg-signed", "priority = 1\nverify-signature = true")];
        let world = World::of(&server, &sections, &toml).unwrap();
        let arguments = ["app-misc/greet"];
        assert_eq!(world.ours().plan(arguments), world.theirs().plan(arguments));
        assert_eq!(world.mounted.status()["binhosts"][1]["entries"]["unsigned_format"], unsignable);
    }
    let alone = World::of(&server, &[("flat", "xpak-flat", "verify-signature = true")], &toml).unwrap();
    let plan = alone.ours().plan(["app-misc/greet"]);
    assert_eq!(plan, alone.theirs().plan(["app-misc/greet"]));
    assert!(plan.iter().all(|line| line.starts_with("ebuild ")), "{plan:?}");
}

#[test]
fn each_binhost_has_its_own() {
    let Some(server) = server() else { return };
    let sections = [
        ("multi", "gpkg-multi", "priority = 2\ngetbinpkg-include = app-misc/greet app-misc/many"),
        ("flat", "gpkg-flat", "priority = 1\ngetbinpkg-exclude = dev-libs/libfoo"),
    ];
    assert_same_plan(&World::of(&server, &sections, "").unwrap(), &[]);
}

#[test]
fn as_the_options_of_emerge() {
    let Some(server) = server() else { return };
    for (toml, options) in [
        ("exclude = [\"dev-libs/*\", \"app-misc/many\"]", ["--getbinpkg-exclude", "dev-libs/* app-misc/many"]),
        ("include = \"app-misc/*\"", ["--getbinpkg-include", "app-misc/*"]),
        ("[binhost.multi]\nexclude = \"sys-libs/glibc\"", ["--getbinpkg-exclude", "sys-libs/glibc"]),
        (
            "[binhost.multi]\ninclude = [\"*/*demo\", \"*/libfoo:0/1.3\"]",
            ["--getbinpkg-include", "*/*demo */libfoo:0/1.3"],
        ),
    ] {
        assert_same_plan(&World::of(&server, &[MULTI], toml).unwrap(), &options);
    }
}

#[test]
fn versions_too() {
    let Some(server) = server() else { return };
    let toml = "exclude = \">=app-misc/hello-2\"\n[binhost.multi]\ninclude = [\"app-misc/*::bhtest\", \"=sys-libs/glibc-2.40*\"]\n";
    let world = World::of(&server, &[MULTI], toml).unwrap();
    let plan = world.ours().plan(["app-misc/hello", "app-misc/many"]);
    assert!(plan.contains(&"ebuild app-misc/hello-2.0-r1".to_owned()), "{plan:?}");
    assert!(plan.contains(&"binary app-misc/many-1-1".to_owned()), "{plan:?}");
    let older = world.ours().plan(["=app-misc/hello-1.0", "=sys-libs/glibc-2.40-r3"]);
    assert_eq!(older, ["binary sys-libs/glibc-2.40-r3-1", "binary app-misc/hello-1.0-1"]);
    let all = entries(&binhost("gpkg-multi").unwrap().join("Packages")).len();
    let entries = &world.mounted.status()["binhosts"][0]["entries"];
    assert_eq!(entries["filtered"].as_u64().unwrap() as usize, all - world.paths().len(), "{entries}");
}
