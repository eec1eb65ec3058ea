//! `binhostfs why`: all there is to say of a package, on a live mount.

use std::fs;
use std::process::Command;

use crate::harness::{Act, Mounted, Options, Origin, Package, binary, can_mount, eventually, have, index_of};

fn why(mounted: &Mounted, atom: &str) -> String {
    let output = Command::new(binary()).args(["why", atom, "--control"]).arg(mounted.control()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The text with times and this run's names taken out.
pub(super) fn plain(mounted: &Mounted, text: &str) -> String {
    let name = mounted.status()["binhosts"][0]["name"].as_str().unwrap().to_owned();
    let url = mounted.status()["binhosts"][0]["urls"][0].as_str().unwrap().to_owned();
    let text = text.replace(&url, "URL/").replace(&name, "NAME");
    let mut lines = Vec::new();
    for line in text.lines() {
        let line = match line.find(" GMT").and_then(|end| Some((end.checked_sub(25)?, end + 4))) {
            Some((begin, end)) => format!("{}TIME{}", &line[..begin], &line[end..]),
            None => line.to_owned(),
        };
        let digits = line.find("(process ").map(|at| at + "(process ".len());
        lines.push(match digits.and_then(|begin| Some((begin, begin + line[begin..].find(')')?))) {
            Some((begin, end)) => format!("{}PID{}", &line[..begin], &line[end..]),
            None => line,
        });
    }
    lines.join("\n") + "\n"
}

#[test]
fn names_what_is_unfit_with_its_reason() {
    if !can_mount() {
        return;
    }
    let packages = [Package::new("good-1.0", 5_000), Package::new("good-2.0", 5_000), Package::new("good-3.0", 5_000)];
    let origin = Origin::with(&packages);
    let index = index_of(1_760_000_000, &packages)
        .replace("CPV: app-misc/good-2.0\n", "CPV: app-misc/good-2.0\u{1b}beta\n")
        .replace(&format!("PATH: {}\n", packages[2].path), "PATH: ../../etc/passwd\n");
    origin.put_index(index.as_bytes());
    let mounted = Options::new(origin.url()).mount();
    assert_eq!(mounted.listing(), std::slice::from_ref(&packages[0].path));
    let text = plain(&mounted, &why(&mounted, "good"));
    for expected in [
        "app-misc/good-1.0:0, build 1, ",
        "app-misc/good-2.0\u{fffd}beta:0, build 1, ",
        "  not shown its entry in the index is not fit for use: invalid CPV\n",
        "app-misc/good-3.0:0, build 1, ",
        "  not shown its entry in the index is not fit for use: unsafe PATH\n",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in:\n{text}");
    }
    let text = why(&mounted, "=app-misc/good-3.0");
    assert!(text.contains("unsafe PATH") && !text.contains("good-1.0"), "{text}");
}

#[test]
fn says_all_there_is() {
    // Where a body came from stands in an attribute of its file.
    let file = tempfile::NamedTempFile::new().unwrap();
    let attributes = rustix::fs::setxattr(file.path(), "user.x", b"y", rustix::fs::XattrFlags::empty()).is_ok();
    if !can_mount() || !have(attributes, "a file system with extended attributes for temporary files") {
        return;
    }
    let packages = [Package::new("good-1.0", 50_000), Package::new("bad-1.0", 50_000)];
    let origin = Origin::with(&packages);
    let index = index_of(1_760_000_000, &packages)
        .replace("CPV: app-misc/good-1.0\n", "CPV: app-misc/good-1.0\nIUSE: +nls doc -test\nUSE: amd64 nls test\n");
    origin.put_index(index.as_bytes());
    origin.script(&packages[1].path, [Act::Flip(20_000)]);
    let mut mounted = Options::new(origin.url()).mount();
    assert_eq!(
        plain(&mounted, &why(&mounted, "good")),
        "\
app-misc/good-1.0:0, build 1, 54.0 KiB from NAME
  shown     at app-misc/good/good-1.0-1.gpkg.tar
  cached    no: fetched when it is opened
  USE       amd64 nls test
  needs     USE=\"nls -doc test\", else emerge -k passes over it
"
    );
    // A process with a name.
    assert!(Command::new("cat").arg(mounted.path(&packages[0].path)).output().unwrap().status.success());
    mounted.settled();
    let told = || mounted.status()["binhosts"][0]["index_mismatches"].as_array().unwrap().len() == 1;
    eventually(20, "its entry is told to be wrong", told);
    assert_eq!(
        plain(&mounted, &why(&mounted, "good")),
        "\
app-misc/good-1.0:0, build 1, 54.0 KiB from NAME
  shown     at app-misc/good/good-1.0-1.gpkg.tar
  cached    verified by the digests of the index; signatures were not asked for
  fetched   TIME, from URL/
  opened    TIME, the last time by cat (process PID)
  warning   index mismatch: IUSE is \"+nls doc -test\" in the index, but \"\" in the package; USE is \"amd64 nls test\" in the index, but \"\" in the package
  USE       amd64 nls test
  needs     USE=\"nls -doc test\", else emerge -k passes over it
"
    );
    // Who opened it is forgotten with the daemon; where it came from is not.
    mounted.stop();
    mounted.start();
    let text = plain(&mounted, &why(&mounted, "good"));
    assert!(text.contains("  fetched   TIME, from URL/\n") && !text.contains("  opened "), "{text}");
    fs::read(mounted.path(&packages[1].path)).unwrap_err();
    eventually(20, "it is left out", || !mounted.status()["refused"].as_array().unwrap().is_empty());
    let text = plain(&mounted, &why(&mounted, "bad"));
    assert!(
        text.contains("  not shown refused: the package has MD5 ")
            && text.contains("`binhostfs refresh` gives it another chance"),
        "{text}"
    );
    assert!(text.contains("  opened    TIME, the last time by ") && !text.contains("needs"), "{text}");
}
