//! Binhosts of old, of other machines, and those whose packages are elsewhere.

use std::fs;

use tempfile::TempDir;

use super::{TRUSTED, VISITED, World};
use crate::harness::binhost::Assembled;
use crate::harness::portage::{Nginx, binhost};

const FOREIGN: &str = "aarch64-unknown-linux-gnu";

#[test]
fn an_index_of_old_installs() {
    let Some(xpak) = binhost("xpak-flat") else { return };
    let bare = ["PATH", "REPO", "MTIME", "TIMESTAMP", "BUILD_TIME", "CHOST"];
    for (features, without) in [(TRUSTED, &bare[..3]), (VISITED, &bare)] {
        let place = TempDir::with_prefix("binhostfs-it.").unwrap();
        // Portage of 2016, without FEATURES=binpkg-multi-instance.
        let mut old = Assembled::new(place.path().to_owned(), &xpak);
        for key in without {
            old = old.header(key, "").say(key, "");
        }
        old.take_all(&xpak).publish();
        let text = fs::read_to_string(place.path().join("Packages")).unwrap();
        assert!(!text.contains("\nPATH:") && !text.contains("\nREPO:") && text.contains("\nCPV: app-misc/greet-0.9\n"));
        let server = Nginx::serve(place.path());
        let world = World::of(&server, &[("old", "", "")], "").unwrap();
        assert_eq!(world.paths().len(), 7);
        for features in [VISITED, TRUSTED] {
            let plan = world.ours().with("FEATURES", features).plan(["app-misc/greet"]);
            assert!(plan.len() == 7 && plan.iter().all(|line| line.starts_with("binary ")), "{plan:?}");
            assert!(server.fetched().is_empty(), "planning fetched {:?}", server.fetched());
        }
        let emerge = world.ours().with("FEATURES", features);
        emerge.succeed(["app-misc/greet"]);
        assert_eq!(emerge.says("usr/bin/greet"), "greet-0.9");
        assert_eq!(server.fetched().len(), 7, "{:?}", server.fetched());
    }
}

#[test]
fn an_index_with_a_byte_that_is_not_utf8_installs() {
    let Some(flat) = binhost("gpkg-flat") else { return };
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    Assembled::new(place.path().to_owned(), &flat).say("DESC", "caf@ au lait").take_all(&flat).publish();
    let mut text = fs::read(place.path().join("Packages")).unwrap();
    // As a binhost of another age wrote it, in Latin-1.
    let bytes: Vec<&mut u8> = text.iter_mut().filter(|byte| **byte == b'@').collect();
    assert_eq!(bytes.len(), 7);
    bytes.into_iter().for_each(|byte| *byte = 0xe9);
    fs::write(place.path().join("Packages"), &text).unwrap();
    fs::remove_file(place.path().join("Packages.gz")).unwrap();
    let server = Nginx::serve(place.path());
    let world = World::of(&server, &[("old", "", "")], "").unwrap();
    assert_eq!(world.paths().len(), 7);
    for features in [TRUSTED, VISITED] {
        let theirs = world.theirs().with("FEATURES", features).plan(["app-misc/greet"]);
        assert!(theirs.len() == 7 && theirs.iter().all(|line| line.starts_with("binary ")), "{theirs:?}");
        assert_eq!(world.ours().with("FEATURES", features).plan(["app-misc/greet"]), theirs);
    }
    let emerge = world.ours();
    emerge.succeed(["app-misc/greet"]);
    assert_eq!(emerge.says("usr/bin/greet"), "greet-0.9");
}

#[test]
fn packages_for_another_machine_are_not_taken() {
    let Some(multi) = binhost("gpkg-multi") else { return };
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let [group, user, many] =
        ["acct-group/demo/demo-0-1.gpkg.tar", "acct-user/demo/demo-0-1.gpkg.tar", "app-misc/many/many-1-1.gpkg.tar"];
    // The other one has a newer build of what both have.
    let newer = [("BUILD_TIME", "4000000000"), ("BUILD_ID", "7")];
    Assembled::new(place.path().join("native"), &multi).take(&multi, group).take(&multi, user).publish();
    Assembled::new(place.path().join("foreign"), &multi)
        .header("CHOST", FOREIGN)
        .header("ARCH", "arm64")
        .take_as(&multi, group, group, &newer)
        .take(&multi, many)
        .publish();
    let server = Nginx::serve(place.path());
    for [native, foreign] in [["priority = 2", "priority = 1"], ["priority = 1", "priority = 2"]] {
        let sections = [("native", "native", native), ("foreign", "foreign", foreign)];
        let world = World::of(&server, &sections, "").unwrap();
        assert_eq!(world.paths().len(), 4);
        let arguments = ["acct-user/demo", "app-misc/many"];
        let theirs = world.theirs().plan(arguments);
        let mut sorted = theirs.clone();
        sorted.sort();
        assert_eq!(sorted, ["binary acct-group/demo-0-1", "binary acct-user/demo-0-1", "ebuild app-misc/many-1"]);
        for features in [TRUSTED, VISITED] {
            assert_eq!(world.ours().with("FEATURES", features).plan(arguments), theirs, "{native} {features}");
        }
        // Nor are they hidden: whoever builds for that machine finds them.
        let emerge = world.ours().with("CHOST", FOREIGN).with("ACCEPT_CHOSTS", FOREIGN);
        assert_eq!(emerge.plan(["app-misc/many"]), ["binary app-misc/many-1-1"]);
    }
}

#[test]
fn packages_that_are_elsewhere_install() {
    let Some(flat) = binhost("gpkg-flat") else { return };
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    // As on a forge: the index in one place, files at another host, which sends on to a third.
    let assets = Nginx::serve(&flat);
    let redirect = format!("location /releases/ {{ rewrite ^/releases/v1/(.*)$ {}/$1 redirect; }}", assets.url());
    let releases = Nginx::serve_with(place.path(), &redirect);
    let uri = format!("{}/releases/v1", releases.url());
    Assembled::new(place.path().join("index"), &flat).header("URI", &uri).take_index(&flat).publish();
    let index = Nginx::serve(&place.path().join("index"));
    let world = World::of(&index, &[("forge", "", "")], "").unwrap();
    for features in [TRUSTED, VISITED] {
        let emerge = world.ours().with("FEATURES", features);
        emerge.succeed(["app-misc/greet"]);
        assert_eq!(emerge.says("usr/bin/greet"), "greet-0.9");
        assert_eq!(assets.fetched(), emerge.sources(&flat));
    }
    assert!(index.fetched().is_empty() && releases.fetched().len() == 7, "{:?}", releases.fetched());
    assert!(!fs::read_to_string(world.mounted.path("Packages")).unwrap().contains("URI: "));
}
