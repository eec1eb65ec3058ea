//! Plain Portage on machines without binhostfs: `emerge --getbinpkg` from a hub, and nginx in front.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::client::serves;
use super::request;
use crate::harness::portage::{Emerge, Nginx, binhost, entries};
use crate::harness::{Mounted, Options};

/// An emerge of another machine, whose index of the hub stays where it is between runs.
fn plain(pkgdir: &Path, hub: &str) -> Emerge {
    Emerge::from(pkgdir.to_owned()).with("MODE", "-gK").with("BINREPOS", hub).with("FEATURES", "getbinpkg")
}

fn url(hub: &Mounted) -> String {
    format!("http://{}", serves(hub))
}

#[test]
fn plain_emerge_installs_from_a_hub_and_takes_a_rollback_at_its_next_run() {
    let Some(source) = binhost("gpkg-multi") else { return };
    let copy = crate::harness::portage::copy_of(&source);
    let nginx = Nginx::serve(copy.path());
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let file = place.path().join("binhostfs.toml");
    let configure = |more: &str| {
        fs::write(&file, format!("{more}[binhost.lab]\nurl = \"{}\"\n", nginx.url())).unwrap();
    };
    configure("");
    let root = place.path().to_str().unwrap();
    let hub = Options::configured(&file).with(["--portage-root", root]).unmounted().mount();
    let pkgdir = TempDir::with_prefix("binhostfs-it.").unwrap();
    let emerge = plain(pkgdir.path(), &url(&hub));
    let wanted = "app-misc/hello";
    emerge.succeed([wanted]);
    assert!(emerge.names().iter().any(|name| name.starts_with("app-misc/hello-")), "{:?}", emerge.names());
    let fetched = nginx.fetched();
    assert!(!fetched.is_empty() && fetched.iter().all(|path| entries_has(copy.path(), path)), "{fetched:?}");

    // A filter reaches it at its next run.
    let plan = |emerge: &Emerge| emerge.plan([wanted]);
    let before = plan(&emerge);
    assert!(before.iter().any(|line| line.starts_with("binary app-misc/hello-")), "{before:?}");
    configure("exclude = [\"app-misc/hello\"]\n");
    let shows = || request(serves(&hub), "GET", "/Packages", &[]).text().contains("CPV: app-misc/hello-");
    crate::harness::eventually(30, "the filter is in use", || !shows());
    let said = emerge.run(["--pretend", wanted]);
    assert!(said.code != Some(0) && said.output.contains("there are no binary packages to satisfy"), "{}", said.output);
    configure("");
    crate::harness::eventually(30, "the filter is gone", shows);
    assert_eq!(plan(&emerge), before);

    // So does a rollback: the index that the hub shows again is older than the last one.
    let index = fs::read_to_string(copy.path().join("Packages")).unwrap();
    let without: Vec<&str> = index.split("\n\n").filter(|stanza| !stanza.contains("CPV: app-misc/hello-")).collect();
    let stamp = |text: &str, add: u64| {
        let line = text.lines().find_map(|line| line.strip_prefix("TIMESTAMP: ")).unwrap();
        text.replace(&format!("TIMESTAMP: {line}\n"), &format!("TIMESTAMP: {}\n", line.parse::<u64>().unwrap() + add))
    };
    fs::remove_file(copy.path().join("Packages.gz")).unwrap();
    fs::write(copy.path().join("Packages"), stamp(&without.join("\n\n"), 60)).unwrap();
    hub.runs(&["refresh"]);
    assert!(!shows());
    assert_ne!(emerge.run(["--pretend", wanted]).code, Some(0));
    hub.runs(&["rollback"]);
    assert!(shows());
    assert_eq!(plan(&emerge), before);
}

/// Whether the binhost's index has a package at this path.
fn entries_has(binhost: &Path, path: &str) -> bool {
    entries(&binhost.join("Packages")).iter().any(|entry| entry["PATH"] == path)
}

/// The example of docs/guides/fleet.md, with the addresses of the test.
#[test]
fn a_server_in_front_serves_the_same() {
    let Some(source) = binhost("gpkg-multi") else { return };
    let nginx = Nginx::serve(&source);
    let hub = Options::new(nginx.url()).unmounted().mount();
    let guide = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guides/fleet.md")).unwrap();
    let example = guide.split("```nginx\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let location = &example[example.find("location").unwrap()..example.rfind('}').unwrap()];
    assert!(location.contains("http://127.0.0.1:8081"), "{location}");
    let location = location.replace("http://127.0.0.1:8081", &url(&hub));
    let front = Nginx::serve_with(Path::new("/nonexistent"), &location);
    let address = front.url().trim_start_matches("http://").parse().unwrap();
    let entry = &entries(&source.join("Packages"))[0];
    let bytes = fs::read(source.join(&entry["PATH"])).unwrap();
    let path = format!("/{}", entry["PATH"]);
    let whole = request(address, "GET", &path, &[]);
    assert!(whole.status == 200 && whole.body == bytes, "{}", whole.head);
    let part = request(address, "GET", &path, &["Range: bytes=5-99"]);
    assert!(part.status == 206 && part.body == bytes[5..100], "{}", part.head);
    let date = request(address, "GET", "/Packages.gz", &[]).header("last-modified").unwrap().to_owned();
    assert_eq!(request(address, "GET", "/Packages.gz", &[&format!("If-Modified-Since: {date}")]).status, 304);
    let pkgdir = TempDir::with_prefix("binhostfs-it.").unwrap();
    let emerge = plain(pkgdir.path(), &front.url());
    emerge.succeed(["app-misc/hello"]);
    assert!(!emerge.names().is_empty());
}
