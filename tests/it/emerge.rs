//! The real emerge installs through a mount, from a binhost that nginx serves.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::portage::{self, Emerge, Ended, Nginx};
use crate::harness::{Mounted, Options, eventually};
use crate::sharing::Disk;

/// app-misc/greet and all that it depends on.
const GREET: [&str; 7] = [
    "acct-group/demo-0",
    "acct-user/demo-0",
    "app-misc/greet-0.9",
    "app-misc/hello-2.0-r1",
    "dev-libs/libfoo-1.3.0",
    "sys-libs/glibc-2.41",
    "virtual/libgreet-0",
];
const TRUSTED: &str = "";
const VISITED: &str = "-pkgdir-index-trusted";

fn served(binhost: &Path) -> (Nginx, Mounted) {
    let nginx = Nginx::serve(binhost);
    let mounted = Options::new(nginx.url()).mount();
    (nginx, mounted)
}

fn emerge(mounted: &Mounted) -> Emerge {
    Emerge::from(mounted.mountpoint())
}

#[track_caller]
fn assert_no_complaint(mounted: &Mounted) {
    let log = mounted.log();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "the daemon complains:\n{log}");
}

#[track_caller]
fn assert_greet(emerge: &Emerge) {
    assert_eq!(emerge.names(), GREET);
    assert_eq!([emerge.says("usr/bin/greet"), emerge.says("usr/bin/hello")], ["greet-0.9", "hello-2.0-r1"]);
}

/// It ended by itself, and says which package failed on what.
#[track_caller]
fn assert_failed(ended: &Ended, cpv: &str, path: &Path) {
    let Ended { code, output } = ended;
    assert_eq!(*code, Some(1), "{output}");
    let error = format!("Input/output error: '{}'", path.display());
    for part in [format!(">>> Failed to emerge {cpv}"), error] {
        assert!(output.contains(&part), "{part:?} is not in:\n{output}");
    }
}

/// Each way with a new mount: what is planned, what is fetched, what is installed.
fn greet_installs(name: &str, ways: &[(&str, &str)]) {
    let Some(binhost) = portage::binhost(name) else { return };
    for (mode, features) in ways {
        let (nginx, mounted) = served(&binhost);
        let emerge = emerge(&mounted).with("MODE", mode).with("FEATURES", features);
        let plan = emerge.succeed(["--pretend", "app-misc/greet"]);
        for cpv in GREET {
            assert!(plan.lines().any(|l| l.starts_with("[binary") && l.contains(cpv)), "{cpv} is not in:\n{plan}");
        }
        assert!(nginx.fetched().is_empty(), "planning fetched {:?}", nginx.fetched());
        emerge.succeed(["app-misc/greet"]);
        assert_greet(&emerge);
        assert_eq!(nginx.fetched(), emerge.sources(&binhost), "fetched and installed with {mode} {features:?}");
        assert_no_complaint(&mounted);
    }
}

#[test]
fn gpkg_multi_trusted() {
    greet_installs("gpkg-multi", &[("-K", TRUSTED), ("-k", TRUSTED)]);
}

#[test]
fn gpkg_multi_visited() {
    greet_installs("gpkg-multi", &[("-K", VISITED), ("-k", VISITED)]);
}

#[test]
fn gpkg_flat() {
    greet_installs("gpkg-flat", &[("-K", VISITED), ("-k", TRUSTED)]);
}

#[test]
fn xpak_multi() {
    greet_installs("xpak-multi", &[("-K", TRUSTED), ("-k", VISITED)]);
}

#[test]
fn xpak_flat() {
    greet_installs("xpak-flat", &[("-K", VISITED), ("-k", TRUSTED)]);
}

#[test]
fn signed_packages_by_their_digests() {
    greet_installs("gpkg-signed", &[("-K", TRUSTED), ("-k", VISITED)]);
}

#[test]
fn what_is_planned_is_fetched_ahead() {
    let Some(binhost) = portage::binhost("gpkg-multi") else { return };
    let nginx = Nginx::serve_with(&binhost, "location ~ tar$ { limit_rate 4k; }");
    let mounted = Options::new(nginx.url()).mount();
    for mode in ["-K", "-k"] {
        let emerge = emerge(&mounted).with("MODE", mode);
        let before = std::time::Instant::now();
        emerge.succeed(["app-misc/greet"]);
        eprintln!("emerge {mode} took {:.1} s", before.elapsed().as_secs_f32());
        assert_greet(&emerge);
        assert_eq!(nginx.fetched(), emerge.sources(&binhost));
    }
    let (prefetched, hits) = (mounted.counter("prefetched"), mounted.counter("prefetch_hits"));
    // The first one is opened before there is anything to go by; the second may be while the plan is read.
    assert!((5..=6).contains(&prefetched) && hits == prefetched, "{prefetched} fetched ahead, {hits} opened");
    assert_no_complaint(&mounted);
}

#[test]
fn packages_without_compression() {
    let Some(binhost) = portage::binhost("gpkg-uncompressed") else { return };
    let nginx = Nginx::serve(&binhost);
    let root = tempfile::TempDir::with_prefix("binhostfs-it.").unwrap();
    let make_conf = root.path().join("etc/portage/make.conf");
    fs::create_dir_all(make_conf.parent().unwrap()).unwrap();
    let with_root = || Options::new(nginx.url()).with(["--portage-root", root.path().to_str().unwrap()]);

    // Portage decompresses them as the machine's own packages are compressed, and fails.
    let path = "app-misc/hello/hello-1.0-1.gpkg.tar";
    let mounted = with_root().mount();
    let failed = emerge(&mounted).with("BINPKG_COMPRESS", "zstd").run(["--nodeps", "app-misc/hello"]);
    assert_eq!(failed.code, Some(1), "{}", failed.output);
    assert!(mounted.reason(path).unwrap().contains("BINPKG_COMPRESS"), "{:?}", mounted.reason(path));
    eventually(20, "it leaves the index", || !mounted.listing().contains(&path.to_owned()));
    drop(mounted);

    fs::write(&make_conf, "BINPKG_COMPRESS=\"none\"\n").unwrap();
    let nginx = Nginx::serve(&binhost);
    let mounted = Options::new(nginx.url()).with(["--portage-root", root.path().to_str().unwrap()]).mount();
    let emerge = emerge(&mounted).with("BINPKG_COMPRESS", "");
    emerge.succeed(["app-misc/hello"]);
    assert_eq!(emerge.names(), ["app-misc/hello-1.0", "sys-libs/glibc-2.41"]);
    assert_eq!(emerge.says("usr/bin/hello"), "hello-1.0");
    assert_eq!(nginx.fetched(), emerge.sources(&binhost));
    assert_no_complaint(&mounted);
}

#[test]
fn a_second_root_fetches_nothing() {
    let Some(binhost) = portage::binhost("gpkg-multi") else { return };
    let (nginx, mounted) = served(&binhost);
    for features in [TRUSTED, VISITED] {
        let emerge = emerge(&mounted).with("FEATURES", features);
        emerge.succeed(["app-misc/greet"]);
        assert_greet(&emerge);
        assert_eq!(nginx.fetched(), emerge.sources(&binhost));
    }
    assert_no_complaint(&mounted);
}

#[test]
fn of_several_builds_the_one_with_the_right_use_flags() {
    let Some(binhost) = portage::binhost("gpkg-multi") else { return };
    let (nginx, mounted) = served(&binhost);
    let mut fetched = Vec::new();
    for (flags, build, shown) in [("-nls", "1", vec![]), ("doc", "2", vec!["doc", "nls"]), ("", "3", vec!["nls"])] {
        let emerge = emerge(&mounted).with("MODE", "-k").with("USE", flags);
        emerge.succeed(["--nodeps", "=app-misc/hello-2.0-r1"]);
        assert_eq!(emerge.installed()["app-misc/hello-2.0-r1"].as_deref(), Some(build), "USE={flags:?}");
        let version = fs::read_to_string(emerge.path("usr/share/hello/version")).unwrap();
        let on = version.split_whitespace().filter(|word| ["doc", "nls"].contains(word)).collect::<Vec<_>>();
        assert_eq!(on, shown, "{version}");
        fetched.extend(emerge.sources(&binhost));
    }
    assert_eq!(nginx.fetched(), fetched);
    assert_no_complaint(&mounted);
}

#[test]
fn a_tampered_package_fails_alone() {
    let Some(binhost) = portage::binhost("gpkg-flat") else { return };
    for features in [TRUSTED, VISITED] {
        let copy = portage::copy_of(&binhost);
        let bad = "dev-libs/libfoo-1.3.0.gpkg.tar";
        let mut bytes = fs::read(copy.path().join(bad)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(copy.path().join(bad), bytes).unwrap();
        let (_nginx, mounted) = served(copy.path());
        let emerge = emerge(&mounted).with("FEATURES", features);
        let ended = emerge.run(["--keep-going", "app-misc/greet"]);
        assert_failed(&ended, "dev-libs/libfoo-1.3.0", &mounted.path(bad));
        let installed = ["acct-group/demo-0", "acct-user/demo-0", "sys-libs/glibc-2.41", "virtual/libgreet-0"];
        assert_eq!(emerge.names(), installed, "{}", ended.output);
        let reason = mounted.reason(bad).unwrap();
        assert!(reason.starts_with("refused: "), "{reason}");
        // The next one does not count on it any more: it is planned from source.
        let gone = || !fs::read_to_string(mounted.path("Packages")).unwrap().contains("CPV: dev-libs/libfoo-1.3.0\n");
        eventually(20, "it leaves the index", gone);
        let plan = emerge.with("MODE", "-k").succeed(["-p", "=dev-libs/libfoo-1.3.0"]);
        assert!(plan.contains("[ebuild") && !plan.contains("[binary"), "{plan}");
    }
}

#[test]
fn without_the_binhost_what_is_cached_installs() {
    let Some(binhost) = portage::binhost("gpkg-multi") else { return };
    let (mut nginx, mounted) = served(&binhost);
    emerge(&mounted).succeed(["dev-libs/libfoo"]);
    nginx.stop();
    let emerge = emerge(&mounted);
    emerge.succeed(["dev-libs/libfoo"]);
    let cached = ["dev-libs/libfoo-1.3.0", "sys-libs/glibc-2.41"];
    assert_eq!(emerge.names(), cached);
    let ended = emerge.run(["app-misc/many"]);
    assert_failed(&ended, "app-misc/many-1", &mounted.path("app-misc/many/many-1-1.gpkg.tar"));
    assert_eq!(emerge.names(), cached);
}

#[test]
fn two_at_once_fetch_each_package_once() {
    let Some(binhost) = portage::binhost("gpkg-multi") else { return };
    let (nginx, mounted) = served(&binhost);
    let both = [emerge(&mounted), emerge(&mounted).with("MODE", "-k").with("FEATURES", VISITED)];
    std::thread::scope(|scope| {
        for emerge in &both {
            scope.spawn(|| emerge.succeed(["app-misc/greet", "app-misc/big"]));
        }
    });
    for emerge in &both {
        assert_eq!(emerge.says("usr/bin/greet"), "greet-0.9");
        assert_eq!(fs::metadata(emerge.path("usr/share/big/payload")).unwrap().len(), 50 << 20);
        assert_eq!(nginx.fetched(), emerge.sources(&binhost));
    }
    assert_no_complaint(&mounted);
}

#[test]
fn an_emerge_outlives_the_index_it_was_planned_from() {
    let (Some(binhost), Some(larger)) = (portage::binhost("gpkg-flat"), portage::binhost("gpkg-multi")) else { return };
    let copy = portage::copy_of(&binhost);
    // The last package takes its time, so that there is no doubt what came first.
    let nginx = Nginx::serve_with(copy.path(), "location /app-misc/greet- { limit_rate 2k; }");
    let mounted = Options::new(nginx.url()).with(["--refresh", "1s"]).mount();
    let emerge = emerge(&mounted);
    let before = mounted.status()["generation"]["number"].as_u64().unwrap();
    let ended = std::thread::scope(|scope| {
        let running = scope.spawn(|| emerge.run(["app-misc/greet"]));
        eventually(60, "the first package is fetched", || !nginx.fetched().is_empty());
        add(&larger.join("app-misc/many/many-1-1.gpkg.tar"), copy.path());
        eventually(60, "a new generation is shown", || {
            mounted.status()["generation"]["number"].as_u64().unwrap() > before
        });
        assert!(!running.is_finished(), "the index was to change while emerge runs");
        running.join().unwrap()
    });
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    assert_greet(&emerge);
    assert_eq!(nginx.fetched(), emerge.sources(copy.path()));
    emerge.succeed(["app-misc/many"]);
    assert_no_complaint(&mounted);
}

#[test]
fn a_full_disk_stops_no_emerge() {
    let Some(binhost) = portage::binhost("gpkg-multi") else { return };
    let (nginx, disk) = (Nginx::serve(&binhost), Disk::ext4(16));
    let mounted = Options::new(nginx.url()).mount_in(disk.place());
    disk.fill();
    let emerge = emerge(&mounted);
    emerge.succeed(["app-misc/greet"]);
    assert_greet(&emerge);
    assert_eq!(mounted.counter("failed_opens"), 0);
    assert!(mounted.counter("transient_blobs") > 0, "the disk was to be full\n{}", mounted.log());
    drop(mounted.into_place());
}

#[test]
fn an_emerge_opens_as_much_as_it_likes() {
    let Some(binhost) = portage::binhost("gpkg-multi") else { return };
    let nginx = Nginx::serve(&binhost);
    for more in [&[][..], &["--fetchonly"]] {
        let mounted = Options::new(nginx.url()).with(["--bulk-read-limit", "2", "--prefetch", "off"]).mount();
        let emerge = emerge(&mounted).with("FEATURES", VISITED);
        emerge.succeed(more.iter().copied().chain(["app-misc/greet"]));
        assert_eq!((mounted.counter("bulk_reads_refused"), mounted.counter("downloads")), (0, GREET.len() as u64));
        assert_no_complaint(&mounted);
    }
}

/// Puts a package into a binhost, as an administrator would.
fn add(package: &Path, binhost: &Path) {
    fs::create_dir(binhost.join("app-misc/many")).unwrap();
    assert!(Command::new("cp").arg("-a").arg(package).arg(binhost.join("app-misc/many")).status().unwrap().success());
    let script = r#". "$BINHOSTFS_TEST_ENV/env/env.sh" && exec emaint binhost --fix"#;
    let output = Command::new("bash").args(["-c", script]).env("PKGDIR", binhost).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fs::read_to_string(binhost.join("Packages")).unwrap().contains("CPV: app-misc/many-1\n"));
}
