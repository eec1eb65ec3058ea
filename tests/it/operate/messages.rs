//! What people are told when something is wrong: what, where, and what to do.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};

use crate::handover::can_hand_over;
use crate::harness::signed::{Members, binhost, serve, with_keys};
use crate::harness::{Act, Mounted, Options, Origin, Package, ReservedAddress, binary, can_mount, eventually};

fn run(words: &[&str]) -> Output {
    Command::new(binary()).args(words).output().unwrap()
}

/// Why the index of a URL cannot be had, as `status` says.
fn problem(mounted: &Mounted) -> String {
    let said = || mounted.status()["binhosts"][0]["refresh"]["error"].as_str().unwrap_or_default().to_owned();
    eventually(30, "the refresh fails", || !said().is_empty());
    said()
}

#[test]
fn a_bad_value_is_named_with_its_option_and_an_example() {
    for (words, parts) in [
        (&["rollback", "abc"][..], &["'abc'", "GENERATION", "e.g. 12"][..]),
        (&["generations", "--keep", "x"], &["'x'", "--keep", "e.g. 12"]),
        (&["mount", "--listen", "foo"], &["'foo'", "--listen", "127.0.0.1:9123"]),
        (&["mount", "--refresh", "x"], &["'x'", "--refresh", "30m"]),
        (
            &["check-config", "--binhost", "http://127.0.0.1/", "--refresh", "0"],
            &["'0'", "--refresh", "0 s is shorter than 1 s", "30m"],
        ),
        (&["mount", "--quorum", "0"], &["'0'", "--quorum", "give for example 2"]),
        (&["mount", "--bulk-read-limit", "x"], &["'x'", "--bulk-read-limit", "give for example 2"]),
        (&["mount", "--cache-size", "8Z"], &["'8Z'", "--cache-size", "8G"]),
        (&["list", "foo bar"], &["'foo bar'", "\"foo bar\" is not a package atom", "dev-libs/openssl"]),
        (&["prefetch"], &["ATOM", "--world", "--plan"]),
    ] {
        let output = run(words);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{words:?}: {text}");
        assert!(!text.contains("invalid digit") && !text.contains("syntax"), "{words:?}: {text}");
    }
}

#[test]
fn a_line_of_the_log_has_the_date_and_a_failure_is_one_line() {
    if !can_mount() {
        return;
    }
    // Nobody listens there any more.
    let address = ReservedAddress::new();
    let mounted = Options::new(format!("http://{address}")).mount();
    let error = problem(&mounted);
    assert!(error.ends_with("Packages.gz: Connection refused (os error 111)"), "{error}");
    let log = mounted.log();
    assert_eq!(log.matches("Connection refused").count(), 1, "{log}");
    assert!(!log.contains("others are asked"), "{log}");
    let form = "0000-00-00T00:00:00.";
    for line in log.lines() {
        let begins =
            line.chars().zip(form.chars()).all(|(c, form)| if form == '0' { c.is_ascii_digit() } else { c == form });
        assert!(begins && line.split(' ').next().unwrap().ends_with('Z'), "{line}");
    }
}

/// Where a server tells whoever speaks TLS to it that it does not, as web servers do.
fn plain_http() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    address
}

#[test]
fn what_a_server_says_no_to_comes_with_advice() {
    if !can_mount() {
        return;
    }
    let origin = Origin::with(&[Package::new("a-1", 9_000)]);
    let below = Options::new(format!("{}/x86-64", origin.url())).mount();
    let error = problem(&below);
    assert!(
        error.contains("/x86-64/Packages.gz: HTTP status 404; is that the directory that holds Packages?"),
        "{error}"
    );
    let nowhere = tempfile::tempdir().unwrap();
    let local = Options::new(format!("file://{}", nowhere.path().display())).mount();
    assert!(problem(&local).contains("is that the directory that holds Packages?"), "{}", problem(&local));
    assert_eq!(local.status()["binhosts"][0]["unreachable"], true);

    origin.script("Packages.gz", [Act::Status(401, Vec::new())]);
    let locked = Options::new(origin.url()).mount();
    assert!(problem(&locked).contains("HTTP status 401") && problem(&locked).contains("netrc"), "{}", problem(&locked));
    let secure = Options::new(format!("https://{}", plain_http())).mount();
    assert!(problem(&secure).contains("seems to speak http and not https"), "{}", problem(&secure));
}

/// Its URL served what its index names.
#[test]
fn an_unsigned_package_is_not_held_against_its_url() {
    let Some((key, header, packages)) = binhost("gpkg-signed") else { return };
    let package = packages[0].changed(Members::without_signatures);
    let origin = serve(&header, std::slice::from_ref(&package));
    let mounted = with_keys(&origin, &key).mount();
    fs::read(mounted.path(&package.path)).unwrap_err();
    eventually(20, "it is left out", || !mounted.status()["refused"].as_array().unwrap().is_empty());
    let mirror = mounted.status()["binhosts"][0]["mirrors"][0].clone();
    assert_eq!((&mirror["wrong"], &mirror["state"]), (&0.into(), &"healthy".into()), "{mirror}");
    assert!(!mounted.status_text().contains("wrong"), "{}", mounted.status_text());
}

#[test]
fn what_is_prefetched_is_not_counted_as_opened() {
    if !can_mount() {
        return;
    }
    let package = Package::new("a-1", 50_000);
    let origin = Origin::with(std::slice::from_ref(&package));
    let mounted = Options::new(origin.url()).mount();
    let control = mounted.control();
    let output = run(&["prefetch", "app-misc/a", "--control", control.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 package fetched (54.0 KiB), 0 were here already"));
    let status = mounted.status_text();
    let opens =
        "opens       0 from the cache, 0 waited for a download, 0 failed\ndownloads   54.0 KiB, 1 package verified\n";
    assert!(status.contains(opens), "{status}");
    if can_hand_over() {
        let output = run(&["reload", "--control", control.to_str().unwrap()]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "the program runs anew; the mount stayed in place\n");
    }
}
