//! Packages of several binhosts side by side.

use tempfile::TempDir;

use super::{TRUSTED, VISITED, World};
use crate::harness::binhost::Assembled;
use crate::harness::portage::{Emerge, Nginx, binhost};

/// A path that both binhosts have, each with another build there.
const HELLO: &str = "app-misc/hello/hello-2.0-r1-1.gpkg.tar";
const LIBFOO: &str = "dev-libs/libfoo/libfoo-1.3.0-1.gpkg.tar";
const GLIBC: &str = "sys-libs/glibc/glibc-2.41-1.gpkg.tar";

/// `one` and `two`: hello without nls in one and with doc in the other, the same libfoo, an older glibc in the preferred one,
/// many only in the other. Each says something of USE that the other does not.
fn two_binhosts() -> Option<TempDir> {
    let multi = binhost("gpkg-multi")?;
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let one = Assembled::new(place.path().join("one"), &multi).header("ARCH", "").header("IUSE_IMPLICIT", "prefix one");
    let one = one.header("USE_EXPAND", "ELIBC KERNEL ONE").header("USE_EXPAND_VALUES_KERNEL", "linux");
    let one = one.header("USE_EXPAND_VALUES_ONE", "not implicit").header("USE_EXPAND_IMPLICIT", "ELIBC KERNEL TWO");
    one.take(&multi, HELLO).take(&multi, LIBFOO).take(&multi, GLIBC).publish();
    let two = Assembled::new(place.path().join("two"), &multi).header("ARCH", "amd64");
    let two = two.header("IUSE_IMPLICIT", "prefix two").header("USE_EXPAND_VALUES_KERNEL", "linux Darwin");
    let two = two.header("USE_EXPAND_IMPLICIT", "ELIBC KERNEL ONE").header("USE_EXPAND_VALUES_TWO", "nor this");
    two.take_as(&multi, "app-misc/hello/hello-2.0-r1-2.gpkg.tar", HELLO, &[])
        .take(&multi, LIBFOO)
        .take(&multi, "sys-libs/glibc/glibc-2.41-2.gpkg.tar")
        .take(&multi, "app-misc/many/many-1-1.gpkg.tar")
        .publish();
    Some(place)
}

#[test]
fn the_plan_is_the_one_of_portage_itself() {
    let Some(place) = two_binhosts() else { return };
    let server = Nginx::serve(place.path());
    for sections in
        [[("one", "one", "priority = 9"), ("two", "two", "priority = 1")], [("one", "one", ""), ("two", "two", "")]]
    {
        let world = World::of(&server, &sections, "").unwrap();
        for (flags, hello) in [
            ("-nls", "binary app-misc/hello-2.0-r1-1"),
            ("doc", "binary app-misc/hello-2.0-r1-2"),
            ("", "ebuild app-misc/hello-2.0-r1"),
        ] {
            let arguments = ["app-misc/hello", "app-misc/many"];
            let theirs = world.theirs().with("USE", flags).plan(arguments);
            assert!(theirs.iter().any(|line| line.starts_with(hello)), "{theirs:?}");
            assert!(theirs.contains(&"binary app-misc/many-1-1".to_owned()), "{theirs:?}");
            for features in [TRUSTED, VISITED] {
                let ours = world.ours().with("USE", flags).with("FEATURES", features).plan(arguments);
                assert_eq!(ours, theirs, "USE={flags:?} {features}");
            }
        }
        assert!(server.fetched().is_empty(), "planning fetched {:?}", server.fetched());
    }
}

#[test]
fn two_builds_with_one_path_install_from_their_binhosts() {
    let Some(place) = two_binhosts() else { return };
    for features in [TRUSTED, VISITED] {
        let server = Nginx::serve(place.path());
        let world = World::of(&server, &[("one", "one", "priority = 9"), ("two", "two", "priority = 1")], "").unwrap();
        let below = format!("two/{HELLO}");
        assert!(world.paths().contains(&HELLO.to_owned()) && world.paths().contains(&below));
        for (flags, build, fetched) in [("-nls", "1", format!("one/{HELLO}")), ("doc", "2", format!("two/{HELLO}"))] {
            let emerge = world.ours().with("USE", flags).with("FEATURES", features);
            emerge.succeed(["app-misc/hello"]);
            assert_eq!(emerge.installed()["app-misc/hello-2.0-r1"].as_deref(), Some(build), "USE={flags:?}");
            assert_eq!(emerge.says("usr/bin/hello"), "hello-2.0-r1");
            assert!(server.fetched().contains(&fetched), "{fetched}: {:?}", server.fetched());
        }
        // What both have came from the preferred one.
        let fetched = server.fetched();
        let libfoo: Vec<_> = fetched.iter().filter(|path| path.ends_with(LIBFOO)).collect();
        assert_eq!(libfoo, [&format!("one/{LIBFOO}")], "{features}");
    }
}

#[test]
fn the_preferred_binhost_is_the_one_that_portage_prefers() {
    let Some(multi) = binhost("gpkg-multi") else { return };
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    for name in ["a", "b"] {
        Assembled::new(place.path().join(name), &multi).take(&multi, "acct-group/demo/demo-0-1.gpkg.tar").publish();
    }
    for (a, b, preferred) in
        [("priority = 2", "priority = 1", "a"), ("priority = 1", "priority = 2", "b"), ("", "", "b")]
    {
        let server = Nginx::serve(place.path());
        let world = World::of(&server, &[("a", "a", a), ("b", "b", b)], "").unwrap();
        let expected = format!("{preferred}/acct-group/demo/demo-0-1.gpkg.tar");
        world.theirs().succeed(["acct-group/demo"]);
        assert!(server.fetched().iter().all(|path| *path == expected), "Portage: {:?}", server.fetched());
        let before = server.fetched().len();
        world.ours().succeed(["acct-group/demo"]);
        assert_eq!(server.fetched(), vec![expected; before + 1]);
    }
}

#[test]
fn headers_are_united_as_portage_unites_them() {
    let Some(place) = two_binhosts() else { return };
    let server = Nginx::serve(place.path());
    let world = World::of(&server, &[("one", "one", "priority = 9"), ("two", "two", "")], "").unwrap();
    let united = |emerge: &Emerge, remote: &str| {
        let script = "import portage, sys\n\
            tree = portage.db[portage.root]['bintree']\n\
            tree.populate(getbinpkgs=sys.argv[1] == 'remote', pretend=True)\n\
            print('united', sorted((k, sorted(v.split())) for k, v in tree._pkgindex_header.items()))";
        let output = emerge.python(script, remote);
        output.lines().find(|line| line.starts_with("united ")).unwrap_or_else(|| panic!("{output}")).to_owned()
    };
    let (ours, theirs) = (united(&world.ours(), "local"), united(&world.theirs(), "remote"));
    assert!(theirs.contains("'ARCH', ['amd64']") && theirs.contains("['one', 'prefix', 'two']"), "{theirs}");
    assert_eq!(ours, theirs);
}
