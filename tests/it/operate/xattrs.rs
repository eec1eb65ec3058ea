//! Extended attributes: how a file stands, without a word to the network.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use sha2::{Digest as _, Sha256};

use crate::harness::{Act, Options, Origin, Package, can_mount, eventually, have};

/// All that getfattr says of a file.
fn attributes(path: &Path) -> BTreeMap<String, String> {
    let output = Command::new("getfattr").args(["--absolute-names", "-d", "-m", "-"]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect()
}

fn of(state: &str, more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let all = [("state", state)].into_iter().chain(more.iter().copied());
    all.map(|(name, value)| (format!("user.binhostfs.{name}"), value.to_owned())).collect()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn each_file_says_how_it_stands() {
    let tool = Command::new("getfattr").arg("--version").output().is_ok();
    if !can_mount() || !have(tool, "getfattr") {
        return;
    }
    let packages =
        [Package::new("good-1.0", 50_000), Package::new("gone-1.0", 50_000), Package::new("slow-1.0", 900_000)];
    let origin = Origin::with(&packages);
    origin.script(&packages[1].path, [Act::Status(503, Vec::new())]);
    origin.script(&packages[2].path, [Act::StallAt(400_000)]);
    let mounted = Options::new(origin.url()).mount();
    let [good, gone, slow] = packages.each_ref().map(|package| mounted.path(&package.path));
    let name = mounted.status()["binhosts"][0]["name"].as_str().unwrap().to_owned();
    for path in [&good, &gone, &slow] {
        assert_eq!(attributes(path), of("remote", &[("origin", &name)]));
    }
    assert_eq!(
        attributes(&mounted.path("Packages")),
        of("index", &[("sha256", &hex(&fs::read(mounted.path("Packages")).unwrap()))])
    );
    assert!(attributes(&mounted.path("app-misc")).is_empty());
    assert!(origin.asked_packages().is_empty(), "attributes asked the network");

    fs::read(&good).unwrap();
    mounted.settled();
    let url = format!("{name} {}", mounted.status()["binhosts"][0]["urls"][0].as_str().unwrap());
    assert_eq!(
        attributes(&good),
        of("cached", &[("origin", &url), ("sha256", &hex(&packages[0].bytes)), ("verified-by", "digests")])
    );
    fs::read(&gone).unwrap_err();
    let reason = mounted.reason(&packages[1].path).unwrap();
    assert_eq!(attributes(&gone), of("failed", &[("origin", &name), ("reason", &reason)]));
    let reader = std::thread::spawn({
        let slow = slow.clone();
        move || fs::read(slow)
    });
    eventually(20, "it is being fetched", || !mounted.status()["downloads"].as_array().unwrap().is_empty());
    assert_eq!(attributes(&slow), of("fetching", &[("origin", &name)]));

    // Copies that keep attributes keep these, and nothing fails for what there is not.
    let copy = mounted.place().join("copy");
    assert!(Command::new("cp").arg("-a").arg(&good).arg(&copy).status().unwrap().success());
    assert!(fs::read(&copy).unwrap() == packages[0].bytes);
    let one = Command::new("getfattr").args(["-n", "user.other"]).arg(&good).output().unwrap();
    assert!(String::from_utf8_lossy(&one.stderr).contains("No such attribute"));
    drop(origin);
    drop(reader.join());
}
