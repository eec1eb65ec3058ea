//! The main job: names, attributes, first and later reads.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::harness::{Mounted, Options, Origin, Package, can_mount, eventually};

fn two_packages() -> [Package; 2] {
    [Package::new("one-1.0", 300_000), Package::new("two-2.0-r1", 5_000)]
}

fn both_ways(test: impl Fn(&Origin, &[Package], Mounted)) {
    if !can_mount() {
        return;
    }
    for passthrough in ["auto", "off"] {
        let packages = two_packages();
        let origin = Origin::with(&packages);
        let mounted = Options::new(origin.url()).with(["--passthrough", passthrough]).mount();
        assert_eq!(mounted.status()["passthrough"].as_bool(), Some(passthrough == "auto"));
        test(&origin, &packages, mounted);
    }
}

#[test]
fn a_package_is_fetched_once_and_read_right() {
    both_ways(|origin, packages, mounted| {
        for package in packages {
            let path = mounted.path(&package.path);
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!((metadata.len(), metadata.mtime()), (package.bytes.len() as u64, 1_760_000_000));
            assert!(origin.asked(&package.path).is_empty(), "stat must not fetch");
            for _ in 0..3 {
                assert!(fs::read(&path).unwrap() == package.bytes);
            }
            assert_eq!(origin.asked(&package.path).len(), 1);
        }
        assert_eq!(mounted.counter("misses"), 2);
        // A body can be read before it is on disk.
        eventually(10, "both packages are kept", || mounted.blobs().len() == 2);
    });
}

#[test]
fn the_index_is_what_portage_wants() {
    both_ways(|origin, packages, mounted| {
        let text = fs::read_to_string(mounted.path("Packages")).unwrap();
        assert_eq!(fs::metadata(mounted.path("Packages")).unwrap().mtime(), 1_760_000_000);
        assert_eq!(text.matches("USER_PATCHES: \n").count(), 2);
        assert!(text.starts_with("ARCH: amd64\nPACKAGES: 2\nTIMESTAMP: 1760000000\nVERSION: 0\n\n"), "{text}");
        for package in packages {
            assert!(text.contains(&format!("PATH: {}\n", package.path)));
        }
        assert_eq!(origin.package_requests(), 0);
    });
}

#[test]
fn nothing_can_be_written_to_a_read_only_mount() {
    if !can_mount() {
        return;
    }
    for passthrough in ["auto", "off"] {
        let packages = two_packages();
        let origin = Origin::with(&packages);
        let mounted = Options::new(origin.url()).with(["--passthrough", passthrough, "--read-only"]).mount();
        let path = mounted.path(&packages[0].path);
        let read_only = |result: std::io::Result<()>| {
            assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        };
        read_only(fs::write(mounted.path("new"), "x"));
        read_only(fs::File::options().write(true).open(&path).map(|_| ()));
        read_only(fs::remove_file(&path));
        read_only(fs::create_dir(mounted.path("directory")));
        read_only(fs::rename(&path, mounted.path("elsewhere")));
        let access = rustix::fs::access(&path, rustix::fs::Access::WRITE_OK);
        assert_eq!(access, Err(rustix::io::Errno::ROFS));
    }
}

#[test]
fn a_restart_shows_the_same_inodes_and_needs_no_network() {
    if !can_mount() {
        return;
    }
    let packages = two_packages();
    let origin = Origin::with(&packages);
    let mut mounted = Options::new(origin.url()).mount();
    let paths = ["Packages", "app-misc", &packages[0].path, &packages[1].path];
    let inodes = |mounted: &Mounted| paths.map(|path| fs::metadata(mounted.path(path)).unwrap().ino());
    let before = inodes(&mounted);
    assert!(fs::read(mounted.path(&packages[0].path)).unwrap() == packages[0].bytes);
    assert_eq!(mounted.stop(), Some(0));
    assert!(!mounted.is_mounted());
    let _reserved = origin.address();
    drop(origin);
    mounted.start();
    assert_eq!(inodes(&mounted), before);
    assert!(fs::read(mounted.path(&packages[0].path)).unwrap() == packages[0].bytes);
    assert!(fs::read(mounted.path(&packages[1].path)).is_err());
}

#[test]
fn only_https_needs_ca_certificates() {
    if !can_mount() {
        return;
    }
    let packages = two_packages();
    let origin = Origin::with(&packages);
    for (url, warned) in [(origin.url(), false), ("https://127.0.0.1:1".to_owned(), true)] {
        let options = Options::new(url).variable("SSL_CERT_FILE", "/dev/null").variable("SSL_CERT_DIR", "");
        let mounted = options.mount();
        assert_eq!(mounted.log().contains("install the system's CA certificates"), warned, "{}", mounted.log());
        assert_eq!(fs::read(mounted.path(&packages[0].path)).is_ok(), !warned);
    }
}
