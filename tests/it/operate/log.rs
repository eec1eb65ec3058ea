//! The log: one line for each package that is fetched, and what to do where one cannot be had.

use std::fs;

use crate::harness::{Act, Options, Origin, Package, can_mount};

#[test]
fn one_line_a_fetch() {
    if !can_mount() {
        return;
    }
    let packages = [
        Package::new("good-1.0", 50_000),
        Package::new("bad-1.0", 50_000),
        Package::new("gone-1.0", 5_000),
        Package::new("broken-1.0", 5_000),
    ];
    let origin = Origin::with(&packages);
    origin.script(&packages[1].path, [Act::Flip(20_000)]);
    origin.script(&packages[2].path, [Act::Status(404, Vec::new())]);
    origin.script(&packages[3].path, [Act::Status(503, Vec::new())]);
    let mounted = Options::new(origin.url()).mount();
    for package in &packages {
        for _ in 0..2 {
            let _ = fs::read(mounted.path(&package.path));
            mounted.settled();
        }
    }
    let log = mounted.log();
    let line = |package: &Package| {
        let lines: Vec<&str> =
            log.lines().filter(|line| line.contains(&package.path) && !line.contains("INFO a URL")).collect();
        assert_eq!(lines.len(), 1, "{}:\n{log}", package.path);
        lines[0]
    };
    let (url, good) = (origin.url(), &packages[0]);
    let bytes = format!(" INFO fetched and verified {} ({} bytes in ", good.path, good.bytes.len());
    let from = format!(" s from {url}/{}; digests only)", good.path).replace("//app", "/app");
    assert!(line(good).contains(&bytes) && line(good).ends_with(&from), "{}", line(good));
    for (package, reason, advice) in [
        (&packages[1], "refused: the package has MD5", "until the binhost changes it"),
        (
            &packages[2],
            "404",
            "it is left out of Packages, and emerge builds it from source, until the binhost has it again",
        ),
        (&packages[3], "503", "the next open tries again; `binhostfs status` says how each URL does"),
    ] {
        let line = line(package);
        assert!(line.contains(&format!(" WARN cannot fetch {} (tried for ", package.path)), "{line}");
        assert!(line.contains(reason) && line.contains(advice), "{line}");
    }
}
