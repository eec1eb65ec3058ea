//! What somebody without a key can still do, sentence by sentence of docs/trust.md: each is shown to be so, so that the page
//! does not promise too much.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::harness::portage::Emerge;
use crate::harness::signed::{Real, binhost, publish, serve, with_keys};
use crate::harness::{Act, Mounted, Options, Origin, eventually};

/// A header with another TIMESTAMP.
fn stamped(header: &str, timestamp: u64) -> String {
    let line = header.lines().find(|line| line.starts_with("TIMESTAMP: ")).unwrap();
    header.replace(line, &format!("TIMESTAMP: {timestamp}"))
}

fn paths(packages: &[Real]) -> Vec<&str> {
    let mut paths: Vec<&str> = packages.iter().map(|package| package.path.as_str()).collect();
    paths.sort_unstable();
    paths
}

fn merged(mounted: &Mounted, atom: &str) -> Vec<String> {
    let emerge = Emerge::from(mounted.mountpoint()).with("MODE", "-K");
    emerge.succeed([atom]);
    emerge.names()
}

#[test]
fn a_mirror_can_withhold() {
    let Some((key, header, packages)) = binhost("gpkg-signed") else { return };
    let (withheld, rest) = packages.split_first().unwrap();
    let origin = serve(&header, rest);
    let mounted = with_keys(&origin, &key).mount();
    assert_eq!(mounted.listing(), paths(rest));
    assert_eq!(mounted.status()["refused"].as_array().unwrap().len(), 0);
    drop(mounted);
    // It has an entry, and serves nothing for it.
    let origin = serve(&header, &packages);
    origin.script(&withheld.path, [Act::Status(404, Vec::new())]);
    let mounted = with_keys(&origin, &key).mount();
    fs::read(mounted.path(&withheld.path)).unwrap_err();
    eventually(20, "it leaves the index", || mounted.listing() == paths(rest));
    drop(mounted);
    // Another one that has to agree only makes it worse; one that answers instead helps.
    let other = serve(&header, &packages);
    let mounted = with_keys(&origin, &key).with(["--mirror", &other.url()]).mount();
    assert!(fs::read(mounted.path(&withheld.path)).unwrap() == withheld.bytes);
}

#[test]
fn a_mirror_can_delay_and_its_age_is_noted() {
    let Some((key, header, packages)) = binhost("gpkg-signed") else { return };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (old, older) = (stamped(&header, now - 30 * 86400), stamped(&header, now - 31 * 86400));
    let origin = serve(&old, &packages);
    let mount = |more: &str| {
        let place = TempDir::with_prefix("binhostfs-it.").unwrap();
        let file = place.path().join("binhostfs.toml");
        fs::write(&file, format!("{more}\n[binhost.test]\nurl = \"{}\"\n", origin.url())).unwrap();
        Options::configured(&file).with(["--keyring", key.to_str().unwrap()]).mount_in(place)
    };
    let mounted = mount("max-index-age = \"29d\"");
    assert_eq!(mounted.listing(), paths(&packages));
    eventually(20, "it is noted", || mounted.log().contains("the index was made 30 days ago (max-index-age)"));
    assert!(
        mounted.status_text().contains("its index was made 30 days ago (max-index-age)"),
        "{}",
        mounted.status_text()
    );
    // What is older still is no index for it.
    publish(&origin, &older, &packages[1..]);
    assert!(!mounted.output_of(&["refresh"]).status.success());
    assert_eq!(mounted.listing(), paths(&packages));
    drop(mounted);
    for fine in ["max-index-age = \"32d\"", "max-index-age = 0", ""] {
        let mounted = mount(fine);
        assert!(mounted.output_of(&["refresh"]).status.success());
        assert!(!mounted.log().contains("max-index-age"), "{fine}");
        assert!(!mounted.status_text().contains("max-index-age"), "{fine}: {}", mounted.status_text());
    }
}

#[test]
fn a_mirror_can_offer_what_the_key_signed() {
    let Some((key, header, packages)) = binhost("gpkg-signed") else { return };
    // The binhost has one package; a mirror lists another of the same key, with an entry that is right.
    let with = |names: &[&str]| -> Vec<Real> {
        packages.iter().filter(|package| names.iter().any(|name| package.path.starts_with(name))).cloned().collect()
    };
    let (own, both) = (with(&["acct-group/"]), with(&["acct-group/", "acct-user/"]));
    let (honest, mirror) = (serve(&header, &own), serve(&header, &both));
    let mounted = with_keys(&mirror, &key).mount();
    assert_eq!(merged(&mounted, "acct-user/demo"), ["acct-group/demo-0", "acct-user/demo-0"]);
    drop(mounted);
    let mounted = with_keys(&mirror, &key).with(["--mirror", &honest.url(), "--quorum", "2"]).mount();
    eventually(20, "the mirrors have voted", || mounted.listing() == paths(&own));
}

#[test]
fn a_mirror_can_have_dependencies_of_nothing_merged() {
    let Some((key, header, packages)) = binhost("gpkg-signed") else { return };
    let liar = packages.iter().find(|package| package.path.starts_with("acct-group/demo/")).unwrap();
    let lie = Real { stanza: format!("{}\nRDEPEND: sys-libs/glibc", liar.stanza), ..liar.clone() };
    let all: Vec<Real> = packages.iter().map(|p| if p.path == lie.path { lie.clone() } else { p.clone() }).collect();
    for act in [Act::Status(404, Vec::new()), Act::Silence] {
        let origin = serve(&header, &all);
        origin.script(&lie.path, [act]);
        let mounted = with_keys(&origin, &key).with(["--prefetch", "off"]).mount();
        let emerge = Emerge::from(mounted.mountpoint()).with("MODE", "-K");
        assert_eq!(emerge.run(["acct-group/demo"]).code, Some(1));
        assert_eq!(emerge.names(), ["sys-libs/glibc-2.41"]);
    }
}

#[test]
fn a_mirror_can_change_the_header_within_the_quorum() {
    let Some((key, header, packages)) = binhost("gpkg-signed") else { return };
    let changed = header.replace("USE_EXPAND_VALUES_ELIBC: glibc musl", "USE_EXPAND_VALUES_ELIBC: glibc musl evil");
    assert_ne!(changed, header);
    let (liar, honest) = (serve(&changed, &packages), serve(&header, &packages));
    let says = |mounted: &Mounted| fs::read_to_string(mounted.path("Packages")).unwrap().contains("musl evil");
    let mounted = with_keys(&liar, &key).mount();
    assert!(says(&mounted) && mounted.listing() == paths(&packages));
    drop(mounted);
    let quorum = |first: &Origin, second: &Origin| {
        with_keys(first, &key).with(["--mirror", &second.url(), "--quorum", "2"]).mount()
    };
    let mounted = quorum(&liar, &honest);
    eventually(20, "the mirrors have voted", || mounted.listing().is_empty() && !says(&mounted));
}

/// `module::test` of each test that the page names.
fn named(text: &str) -> Vec<(String, String)> {
    let code = text.split('`').skip(1).step_by(2);
    let tests = code.filter_map(|code| code.split_once("::"));
    tests.map(|(module, test)| (module.to_owned(), test.to_owned())).collect()
}

#[test]
fn each_sentence_of_the_page_has_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/trust.md")).unwrap();
    let named = named(&page);
    for (module, test) in &named {
        let file = root.join(format!("tests/it/{module}.rs"));
        let source = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(source.contains(&format!("#[test]\nfn {test}() {{")), "there is no test {module}::{test}");
    }
    // A row of a table that names none would be a sentence without a test.
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.contains("| test |"));
    let (rows, without): (Vec<_>, Vec<_>) = rows.partition(|row| row.contains("::"));
    assert!(rows.len() >= 11 && without.is_empty(), "{without:?}");
}
