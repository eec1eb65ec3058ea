//! What `list` and `why` say of packages that Portage built into the mount.

use std::process::Command;

use serde_json::Value;

use crate::harness::portage::{self, Emerge, Nginx};
use crate::harness::{Mounted, Options, binary, eventually};

fn client(mounted: &Mounted, words: &[&str]) -> String {
    let output = Command::new(binary()).args(words).arg("--control").arg(mounted.control()).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Whether it is local, whether it is shown, and its USE.
fn why(mounted: &Mounted, atom: &str) -> Vec<(bool, String, String)> {
    let told: Value = serde_json::from_str(&client(mounted, &["why", "--json", atom])).unwrap();
    let text = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
    let all = told["packages"].as_array().unwrap().iter();
    let mut all: Vec<_> = all.map(|one| (one["local"] == true, text(one, "state"), text(one, "use_flags"))).collect();
    all.sort();
    all
}

#[test]
fn a_local_package_is_what_portage_reads_at_its_path() {
    let Some(binhost) = portage::binhost("gpkg-flat") else { return };
    let nginx = Nginx::serve(&binhost);
    let mounted = Options::new(nginx.url()).mount();
    let package = ["--nodeps", "=app-misc/hello-2.0-r1"];
    let emerge = |mode: &str, flags: &str| {
        let emerge = Emerge::from(mounted.mountpoint()).with("MODE", mode).with("USE", flags);
        emerge.with("FEATURES", "-binpkg-multi-instance")
    };
    let path = "app-misc/hello-2.0-r1.gpkg.tar";
    // The binhost's copy is in the cache.
    std::fs::read(mounted.path(path)).unwrap();
    mounted.settled();
    assert!(client(&mounted, &["list", "hello"]).starts_with("cached "));
    assert_eq!(emerge("-k", "doc").plan(package), ["ebuild app-misc/hello-2.0-r1"]);

    emerge("--buildpkgonly", "doc").succeed(package);
    assert_eq!(emerge("-k", "doc").plan(package), ["binary app-misc/hello-2.0-r1"]);
    assert_eq!(emerge("-k", "").plan(package), ["ebuild app-misc/hello-2.0-r1"]);
    let list = client(&mounted, &["list", "hello"]);
    assert!(list.lines().count() == 1 && list.starts_with("local ") && list.trim_end().ends_with(path), "{list}");
    let [(_, remote, _), (_, local, flags)] = &why(&mounted, "hello")[..] else {
        panic!("{:?}", why(&mounted, "hello"))
    };
    assert_eq!((remote.as_str(), local.as_str()), ("left-out", "shown"));
    assert!(flags.split(' ').any(|flag| flag == "doc"), "{flags}");
    let text = client(&mounted, &["why", "hello"]);
    assert!(text.contains(", a local package\n"), "{text}");
    assert!(text.contains("  not shown a local file is at its path, and that is what Portage reads\n"), "{text}");

    // What is not known to any binhost is told, too.
    emerge("--buildpkgonly", "").succeed(["--nodeps", "=app-misc/many-1"]);
    assert_eq!(why(&mounted, "many").len(), 1);
    assert!(client(&mounted, &["list", "many"]).starts_with("local "));
    std::fs::remove_file(mounted.path(path)).unwrap();
    let packages = || std::fs::read_to_string(mounted.path("Packages")).unwrap();
    eventually(30, "the binhost's is shown again", || !packages().contains(" doc "));
    assert!(client(&mounted, &["list", "hello"]).starts_with("cached "));
    assert_eq!(emerge("-k", "doc").plan(package), ["ebuild app-misc/hello-2.0-r1"]);
}
