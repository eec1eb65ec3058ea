//! A binhost of which nothing can be used: a warning says why, and goes when that is over.

use std::path::Path;
use std::process::Command;

use crate::harness::portage::binhost;
use crate::harness::{Mounted, Options, Origin, Package, binary, can_mount, eventually, index_of, signed};

const TIME: u64 = 1_760_000_000;

fn unusable(mounted: &Mounted) -> Option<String> {
    mounted.status()["binhosts"][0]["unusable"].as_str().map(str::to_owned)
}

/// It is in `status`, for programs and for people, on the page, and once in the log.
fn is_said(mounted: &Mounted, why: &str) {
    let said = unusable(mounted).unwrap();
    assert!(said.contains(why), "{said}");
    let output = Command::new(binary()).args(["status", "--control"]).arg(mounted.control()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&format!("  warning   nothing of it can be used: {said}")), "{text}");
    assert!(mounted.ask("GET", "/").body.contains("nothing of it can be used"));
    assert_eq!(mounted.log().matches(&format!("can be used: {said}")).count(), 1, "{}", mounted.log());
}

#[test]
fn line_ends_of_another_system_and_packages_for_another_machine() {
    if !can_mount() {
        return;
    }
    let package = Package::new("a-1", 9_000);
    let origin = Origin::with(std::slice::from_ref(&package));
    let mounted = Options::new(origin.url()).mount();
    assert_eq!(unusable(&mounted), None);
    let index = |time, from: &str, to: &str| index_of(time, std::slice::from_ref(&package)).replace(from, to);
    origin.put_index(index(TIME + 1, "\n", "\r\n").as_bytes());
    mounted.runs(&["refresh"]);
    is_said(&mounted, "CR LF");
    // One entry alone is like that.
    origin.put_index(index(TIME + 2, "REPO: gentoo\n", "REPO: gentoo\r\n").as_bytes());
    mounted.runs(&["refresh"]);
    is_said(&mounted, "none of its 1 entries is fit for Portage: 1 with NUL or carriage return");
    origin.put_index(index(TIME + 3, "ARCH: amd64\n", "ARCH: vax\nCHOST: vax-dec-netbsd\n").as_bytes());
    mounted.runs(&["refresh"]);
    is_said(&mounted, "each of its packages (1) is for vax-dec-netbsd");
    assert!(mounted.listing().contains(&package.path));
    mounted.runs(&["refresh"]);
    is_said(&mounted, "vax");
    origin.put_index(index(TIME + 4, "", "").as_bytes());
    mounted.runs(&["refresh"]);
    assert_eq!(unusable(&mounted), None);
}

#[test]
fn packages_that_cannot_be_signed() {
    let (Some(xpak), Some((key, ..))) = (binhost("xpak-flat"), signed::binhost("gpkg-signed")) else { return };
    let url = format!("file://{}", xpak.display());
    let mounted = Options::new(url).with(["--keyring", key.to_str().unwrap()]).mount();
    is_said(&mounted, "each of its packages (7) is an XPAK");
    assert_eq!(mounted.listing(), [""; 0]);
}

#[test]
fn a_selection_of_nothing() {
    if !can_mount() {
        return;
    }
    let origin = Origin::with(&[Package::new("a-1", 9_000)]);
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    let write = |path: &Path, include: &str| {
        let text = format!("include = [\"{include}\"]\n[binhost.x]\nurl = \"{}\"\n", origin.url());
        std::fs::write(path, text).unwrap();
    };
    write(file.path(), "app-misk/*");
    let mounted = Options::configured(file.path()).mount();
    is_said(&mounted, "include and exclude select none of its packages (1)");
    write(file.path(), "app-misc/*");
    eventually(20, "it is corrected", || unusable(&mounted).is_none());
}

#[test]
fn packages_that_are_where_nobody_can_ask() {
    if !can_mount() {
        return;
    }
    let [cached, other] = ["cached-1", "other-1"].map(|pf| Package::new(pf, 9_000));
    let all = [cached.clone(), other.clone()];
    let origin = Origin::with(&all);
    let mounted = Options::new(origin.url()).mount();
    assert!(std::fs::read(mounted.path(&cached.path)).unwrap() == cached.bytes);
    mounted.settled();
    let index = |time, uri: &str| index_of(time, &all).replacen("VERSION", &format!("{uri}VERSION"), 1);
    origin.put_index(index(TIME + 1, "URI: ssh://builder.example/srv/binpkgs\n").as_bytes());
    mounted.runs(&["refresh"]);
    is_said(&mounted, "its index says that the packages are at ssh://builder.example/srv/binpkgs (URI)");
    // What is here can be had.
    assert_eq!(mounted.listing(), std::slice::from_ref(&cached.path));
    let output = Command::new(binary()).args(["why", "other", "--control"]).arg(mounted.control()).output().unwrap();
    let why = String::from_utf8(output.stdout).unwrap();
    assert!(why.contains("ssh://builder.example"), "{why}");
    assert_eq!(origin.package_requests(), 1);
    origin.put_index(index(TIME + 2, "").as_bytes());
    mounted.runs(&["refresh"]);
    assert_eq!((unusable(&mounted), mounted.listing().len()), (None, 2));
}
