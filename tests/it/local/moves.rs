//! Package moves (profiles/updates), on the mount and on a plain directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::portage::{Side, assert_same, sides};
use crate::harness::portage::{self, entries, test_environment};
use crate::harness::{Mounted, eventually};

/// Portage's configuration with a repository of its own, whose packages can be moved; and a key to sign with.
struct Configuration {
    place: TempDir,
    signed: bool,
}

impl Configuration {
    fn new(signed: bool) -> Self {
        let place = TempDir::with_prefix("binhostfs-it.").unwrap();
        let environment = test_environment().unwrap().join("env");
        let own: &[&str] = if signed { &["conf", "repo", "gnupg-sign"] } else { &["conf", "repo"] };
        let copied = own.iter().map(|name| environment.join(name));
        assert!(Command::new("cp").arg("-a").args(copied).arg(place.path()).status().unwrap().success());
        let at = place.path().display();
        let portage = place.path().join("conf/etc/portage");
        let repository = format!("[DEFAULT]\nmain-repo = bhtest\n[bhtest]\nlocation = {at}/repo\nauto-sync = no\n");
        fs::write(portage.join("repos.conf"), repository).unwrap();
        if signed {
            // The path of an agent's socket has to be short.
            let key = fs::read_to_string(environment.join("gnupg-sign/KEYID")).unwrap();
            let settings = format!(
                "BINPKG_GPG_SIGNING_KEY=\"{}\"\nBINPKG_GPG_SIGNING_GPG_HOME=\"{at}/gnupg-sign\"\nFEATURES=\"${{FEATURES}} binpkg-signing\"\n",
                key.trim()
            );
            let path = portage.join("make.conf");
            fs::write(&path, fs::read_to_string(&path).unwrap() + &settings).unwrap();
        }
        Self { place, signed }
    }

    /// From now on hello and libfoo have other names, and usesfoo another slot.
    fn move_packages(&self) {
        let updates = self.place.path().join("repo/profiles/updates");
        fs::create_dir(&updates).unwrap();
        let lines =
            "move app-misc/hello app-misc/hallo\nmove dev-libs/libfoo dev-libs/libbar\nslotmove app-misc/usesfoo 0 3\n";
        fs::write(updates.join("1Q-2026"), lines).unwrap();
    }
}

impl Drop for Configuration {
    fn drop(&mut self) {
        if self.signed {
            // It ends by itself, too, once its directory is gone.
            let home = self.place.path().join("gnupg-sign");
            let _ = Command::new("gpgconf").arg("--homedir").arg(home).args(["--kill", "all"]).status();
        }
    }
}

fn is_signed(package: &Path) -> bool {
    let members = Command::new("tar").arg("-tf").arg(package).output().unwrap();
    String::from_utf8(members.stdout).unwrap().contains(".sig\n")
}

/// Builds, has emaint and then emerge move what was built and what else `foreign` is to be rid of after each. What Portage says.
fn build_and_move(side: &mut Side, signed: bool, foreign: impl Fn()) -> String {
    let configuration = Configuration::new(signed);
    side.configuration = Some(configuration.place.path().join("conf"));
    side.build("--buildpkgonly", &["=app-misc/hello-1.0", "=app-misc/usesfoo-1", "=app-misc/many-1"]);
    assert_eq!(is_signed(&side.pkgdir.join("app-misc/hello/hello-1.0-1.gpkg.tar")), signed);
    configuration.move_packages();
    let (code, found) = side.run("emaint --check movebin");
    assert!(code == Some(1) && found.contains("moved to 'app-misc/hallo'"), "{found}");
    let said = side.run("emaint --fix movebin").1;
    foreign();
    side.succeed("emaint --fix binhost");
    let updated = side.build("--buildpkgonly", &["=sys-libs/glibc-2.40-r3"]);
    assert!(updated.contains("Performing Global Updates"), "{updated}");
    foreign();
    said
}

/// Portage asks whether it may write to what is moved, and not to what depends on it: that it rewrites if nobody signed it. A
/// local one then stands in front of the binhost's, until it is removed.
fn rewritten_ones_are_local(mounted: &Mounted, remote: &[BTreeMap<String, String>], expected: bool) {
    let shown = entries(&mounted.path("Packages"));
    let other = |entry: &&BTreeMap<_, _>| !shown.contains(entry);
    let rewritten: Vec<_> = remote.iter().filter(other).map(|entry| entry["PATH"].as_str()).collect();
    let dependent = ["app-misc/greet-0.9.gpkg.tar", "app-misc/hello-2.0-r1.gpkg.tar", "virtual/libgreet-0.gpkg.tar"];
    assert_eq!(rewritten, if expected { dependent.to_vec() } else { Vec::new() });
    for path in rewritten {
        let entry = shown.iter().find(|entry| entry["PATH"] == path).unwrap();
        assert!(["hallo", "libbar"].iter().any(|name| entry["RDEPEND"].contains(name)), "{entry:?}");
        fs::remove_file(mounted.path(path)).unwrap();
    }
    eventually(30, "the binhost's are in sight again", || {
        let shown = entries(&mounted.path("Packages"));
        remote.iter().all(|entry| shown.contains(entry))
    });
}

#[test]
fn moves_leave_the_same_as_in_a_plain_directory() {
    for (name, signed) in [("gpkg-flat", false), ("gpkg-signed", true)] {
        let Some(binhost) = portage::binhost(name) else { return };
        let before = fs::read(binhost.join("Packages")).unwrap();
        let (mounted, plain) = sides(&binhost);
        let remote = entries(&mounted.path("Packages"));
        let said = build_and_move(&mut Side::new(&mounted.mountpoint()), signed, || {
            rewritten_ones_are_local(&mounted, &remote, name == "gpkg-flat");
        });
        assert!(said.contains("Cannot update readonly binary: app-misc/hello-2.0-r1"), "{said}");
        let said = build_and_move(&mut Side::new(plain.path()), signed, || ());
        assert_eq!(said.contains("Binpkg update ignored for signed package"), signed, "{said}");
        // What the binhost has is as it was.
        for entry in &remote {
            let shown = entries(&mounted.path("Packages"));
            assert_eq!(shown.iter().find(|shown| shown["PATH"] == entry["PATH"]), Some(entry));
            assert!(fs::read(mounted.path(&entry["PATH"])).unwrap() == fs::read(binhost.join(&entry["PATH"])).unwrap());
        }
        assert_eq!(fs::read(binhost.join("Packages")).unwrap(), before);
        let moved = plain.path().join("app-misc/hallo/hallo-1.0-1.gpkg.tar");
        assert_eq!(moved.exists(), !signed);
        assert_same(mounted, plain.path());
    }
}
