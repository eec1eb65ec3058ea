//! An object store between peers and mirrors, as it should be and as it should not: a scripted one.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::client::share_key;
use super::sharers::{
    self, a_black_hole_costs_one_open, check_config, directory_of, lies, lies_harm_nobody, origin_of, packages, ranges,
    reads,
};
use crate::harness::signed::{Real, binhost, serve};
use crate::harness::{Act, Mounted, Options, Origin, Package, ReservedAddress, can_mount, eventually, gpg};

/// The secret of the key that machines of these tests have.
const SECRET: &str = "a-secret-of-the-store";

/// The keys of the section for a scripted store.
const SCRIPTED: &str = "bucket = \"bucket\"\nprefix = \"fleet\"";

/// The path of the object with these bytes at a scripted store.
fn object(bytes: &[u8]) -> String {
    format!("bucket/fleet/v1/{}", share_key(bytes))
}

/// The path of a package at a scripted store.
fn at(package: &Package) -> String {
    object(&package.bytes)
}

/// A scripted store that has these packages.
fn scripted(packages: &[Package]) -> Origin {
    sharers::scripted(packages, at)
}

/// A machine with an empty cache and these lines in `[object-store]`.
fn configured(origin: &Origin, endpoints: &[String], lines: &str, more: &[&str]) -> Mounted {
    with_store(Options::new(origin.url()).with(more.iter().copied()), endpoints, lines)
}

/// The same with other options.
pub(super) fn with_store(options: Options, endpoints: &[String], lines: &str) -> Mounted {
    let place = tempfile::TempDir::with_prefix("binhostfs-it.").unwrap();
    let file = place.path().join("own.toml");
    fs::write(&file, format!("[object-store]\nendpoints = {endpoints:?}\n{lines}\n")).unwrap();
    let options = options.with(["--config", file.to_str().unwrap()]);
    let options = options.variable("AWS_ACCESS_KEY_ID", "GK1").variable("AWS_SECRET_ACCESS_KEY", SECRET);
    options.mount_in(place)
}

/// A machine that has these endpoints of a scripted store.
fn machine(origin: &Origin, endpoints: &[String]) -> Mounted {
    configured(origin, endpoints, SCRIPTED, &[])
}

fn node(machine: &Mounted, at: usize) -> serde_json::Value {
    machine.status()["object_store"]["nodes"][at].clone()
}

#[test]
fn a_store_spares_the_binhost_and_is_named_everywhere() {
    if !can_mount() {
        return;
    }
    let all = packages(2, 300_000);
    let (origin, store) = (Origin::with(&all), scripted(&all[..1]));
    let machine = machine(&origin, &[store.url()]);
    all.iter().for_each(|package| reads(&machine, package));
    machine.settled();
    assert_eq!(origin.asked_packages(), [all[1].path.clone()]);
    // The index never comes from there, and nothing is asked with HEAD.
    let asked: Vec<_> = store.asked_with("GET").into_iter().map(|asked| asked.path).collect();
    assert_eq!(asked, [at(&all[0]), at(&all[1])]);
    let said = store.authorizations();
    assert!(said.iter().all(|said| said.starts_with("AWS4-HMAC-SHA256 Credential=GK1/")), "{said:?}");
    let from = format!("object store {}", store.url());
    let origin_of = origin_of(&machine, &all[0]);
    assert!(origin_of.contains(&from), "{origin_of}");
    let why = machine.runs(&["why", "app-misc/p0"]);
    assert!(why.contains(&from), "{why}");
    let status = machine.status_text();
    for line in ["store       bucket/fleet: had 1 of 2 packages, ".to_owned(), format!("  node      {}", store.url())] {
        assert!(status.contains(&line), "{status}");
    }
    assert_eq!((machine.counter("object_store_hits"), machine.counter("object_store_misses")), (1, 1));
    assert_eq!(machine.counter("object_store_bytes"), all[0].bytes.len() as u64);
    let page = machine.ask("GET", "/").body;
    assert!(page.contains("Object store") && page.contains("bucket/fleet; ") && page.contains(", 0 wrong"), "{page}");
    for text in [machine.log(), status, page, machine.ask("GET", "/metrics").body, machine.status().to_string()] {
        assert!(!text.contains(SECRET), "{text}");
    }
}

#[test]
fn a_lying_store_harms_nobody() {
    if !can_mount() {
        return;
    }
    let mut acts = lies("wrong");
    acts.extend([
        (Act::Status(500, Vec::new()), "failures"),
        (Act::Status(503, Vec::new()), "failures"),
        (Act::Silence, "failures"),
        (Act::Status(404, Vec::new()), "misses"),
    ]);
    lies_harm_nobody(&acts, at, |origin, store| machine(origin, &[store.to_owned()]), |machine| node(machine, 0));
}

/// What the binhost itself offers so, the object has as well: badly signed, not as its Manifest says, and another package.
#[test]
fn a_store_is_not_blamed_for_what_the_binhost_offers() {
    let Some((key, header, real)) = binhost("gpkg-signed") else { return };
    let bad_signature = real[0].changed(|members| {
        let signed = String::from_utf8(members.manifest.clone()).unwrap();
        members.members[1].1.push(0);
        let (head, tail) = (signed.find("\n\n").unwrap() + 2, signed.find("-----BEGIN PGP SIGNATURE").unwrap());
        members.manifest = format!("{}{}{}", &signed[..head], members.text(), &signed[tail..]).into_bytes();
    });
    let bad_member = real[1].changed(|members| members.members[1].1.push(0));
    let another = real[2].with(real[3].bytes.clone());
    let all: Vec<Real> = vec![bad_signature, bad_member, another, real[4].clone()];
    let (origin, store) = (serve(&header, &all), Origin::start());
    all.iter().for_each(|package| store.put(&object(&package.bytes), package.bytes.clone()));
    let machine = configured(&origin, &[store.url()], SCRIPTED, &["--keyring", key.to_str().unwrap()]);
    for (package, says) in all.iter().zip(["BAD signature", "Manifest", "the package inside has"]) {
        assert_eq!(fs::read(machine.path(&package.path)).unwrap_err().raw_os_error(), Some(5));
        let reason = machine.reason(&package.path).unwrap();
        assert!(reason.contains(says), "{reason}");
        let node = node(&machine, 0);
        assert_eq!((node["state"].as_str(), node["wrong"].as_u64()), (Some("healthy"), Some(0)), "{says}: {node}");
    }
    assert!(fs::read(machine.path(&all[3].path)).unwrap() == all[3].bytes);
    assert_eq!((machine.counter("object_store_hits"), origin.asked(&all[3].path).len()), (4, 0));
    assert!(store.asked_with("PUT").is_empty() && store.asked_with("DELETE").is_empty());
}

/// What is in a local directory is read from there, and not stored.
#[test]
fn a_local_binhost_needs_no_store() {
    if !can_mount() {
        return;
    }
    let all = packages(1, 50_000);
    let (binhost, store) = (directory_of(&all), Origin::start());
    let local = Options::new(format!("file://{}", binhost.path().display()));
    let machine = with_store(local, &[store.url()], SCRIPTED);
    reads(&machine, &all[0]);
    machine.settled();
    assert_eq!((machine.counter("object_store_misses"), machine.counter("object_store_puts")), (0, 0));
    assert!(store.asked_packages().is_empty());
}

/// Two objects of one size are exchanged: both are wrong, and both packages are had.
#[test]
fn exchanged_objects_are_found() {
    if !can_mount() {
        return;
    }
    let all = [Package::new("p0-1", 200_000), Package::new("p1-1", 200_000)];
    assert!(all[0].bytes != all[1].bytes && all[0].bytes.len() == all[1].bytes.len());
    let (origin, store) = (Origin::with(&all), Origin::start());
    store.put(&at(&all[0]), all[1].bytes.clone());
    store.put(&at(&all[1]), all[0].bytes.clone());
    // A node is asked for nothing more after the first one.
    let nodes = [store.url(), store.url().replace("127.0.0.1", "localhost")];
    let machine = machine(&origin, &nodes);
    all.iter().for_each(|package| reads(&machine, package));
    assert_eq!((machine.counter("object_store_wrong"), machine.counter("refused")), (2, 0));
    assert_eq!(origin.package_requests(), 2);
}

#[test]
fn the_next_node_goes_on_where_one_broke_off() {
    if !can_mount() {
        return;
    }
    let all = packages(2, 900_000);
    let (origin, first, second) = (Origin::with(&all), scripted(&all), scripted(&all));
    first.script(&at(&all[0]), [Act::CloseAt(500_000)]);
    let machine = machine(&origin, &[first.url(), second.url()]);
    all.iter().for_each(|package| reads(&machine, package));
    assert_eq!(origin.package_requests(), 0);
    assert_eq!(ranges(&second, &at(&all[0])), [Some("bytes=500000-".to_owned())]);
    // The one that failed is left out.
    assert_eq!((first.asked(&at(&all[1])).len(), second.asked(&at(&all[1])).len()), (0, 1));
    assert_eq!(
        (node(&machine, 0)["state"].clone(), node(&machine, 1)["hits"].clone()),
        ("backing_off".into(), 2.into())
    );
}

/// Packages of a binhost with credentials are no matter of the store.
#[test]
fn a_private_binhost_is_no_matter_of_the_store() {
    if !can_mount() {
        return;
    }
    let all = packages(1, 50_000);
    let (origin, store) = (Origin::with(&all), scripted(&all));
    let private = Options::new(format!("http://joe:secret@{}", origin.address()));
    let private = with_store(private, &[store.url()], SCRIPTED);
    reads(&private, &all[0]);
    assert!(store.asked_packages().is_empty());
    assert_eq!(private.counter("object_store_misses"), 0);
}

#[test]
fn a_black_hole_costs_the_first_open_alone() {
    if can_mount() {
        a_black_hole_costs_one_open(|origin, node| machine(origin, &[node.to_owned()]), "object_store_failures");
    }
}

/// Mistakes of the section are told with file, line and remedy, and no secret is.
#[test]
fn what_is_no_store_is_refused() {
    let check = |lines: &str| {
        check_config(&format!("[binhost.a]\nurl = \"http://127.0.0.1:9\"\nverify-signature = false\n{lines}\n"))
    };
    for (lines, says) in [
        ("[object-store]", "own.toml:4: [object-store] has no endpoints: write for example endpoints = ["),
        ("[object-store]\nendpoints = \"http://s\"", "own.toml:4: [object-store] has no bucket: write for example"),
        ("[object-store]\nbucket = \"a\"", "own.toml:5: object-store.bucket: \"a\" is no bucket: it has 3 to 63"),
        ("[object-store]\nendpoint = 1", "own.toml:5: there is no key \"endpoint\" in [object-store]; did you mean"),
        ("[object-store]\nendpoints = \"http://j:secret@s\"", "is no endpoint: give for example http://store.lan"),
        (
            "[object-store]\nendpoints = \"http://127.0.0.1\"\nbucket = \"pkgs\"\npath-style = false",
            "own.toml:4: object-store.path-style = false puts the bucket in front of the host's name, and http://127.0.0.1/",
        ),
    ] {
        let (code, said) = check(lines);
        assert!(code == Some(2) && said.contains(says) && !said.contains("secret"), "{said}");
    }
    let whole = "[object-store]\nendpoints = [\"http://s:3900\"]\nbucket = \"binpkgs\"\n";
    let place = tempfile::TempDir::with_prefix("binhostfs-it.").unwrap();
    let key = place.path().join("key");
    fs::write(&key, "aws_access_key_id = GK1\naws_secret_access_key = secret").unwrap();
    let (_, said) = check(&format!("{whole}credentials = \"{}\"", key.display()));
    assert!(!said.contains("= secret") && !said.contains("not signed"), "{said}");
    assert!(
        said.contains("object-store.bucket = binpkgs") && said.contains("object-store.region = us-east-1"),
        "{said}"
    );
    let (_, said) = check(&format!("{whole}credentials = \"/nowhere/key\""));
    assert!(said.contains("warning: /nowhere/key: ") && said.contains("are not signed"), "{said}");
    let (_, said) = check("");
    assert!(!said.contains("object-store"), "{said}");
}

/// A node that is not there is asked again on request.
#[test]
fn an_absent_node_comes_back() {
    if !can_mount() {
        return;
    }
    let all = packages(2, 50_000);
    let origin = Origin::with(&all);
    let address = ReservedAddress::new();
    let machine = machine(&origin, &[format!("http://{address}")]);
    reads(&machine, &all[0]);
    assert_eq!(node(&machine, 0)["state"], "backing_off");
    let store = Origin::start_on(&address);
    all.iter().for_each(|package| store.put(&at(package), package.bytes.clone()));
    machine.runs(&["refresh"]);
    reads(&machine, &all[1]);
    assert_eq!((node(&machine, 0)["hits"].clone(), origin.package_requests()), (1.into(), 1));
}

/// Waits until nothing is left to be written to the store.
fn written(machine: &Mounted) {
    machine.settled();
    let ends = ["object_store_puts", "object_store_renewed", "object_store_write_failures"];
    eventually(60, "all is written", || {
        let done: u64 = ends.iter().map(|name| machine.counter(name)).sum();
        machine.status()["object_store"]["waiting"] == 0 && done > 0
    });
}

/// One machine after the other: the first one stores what it has proved, the others spare the binhost.
#[test]
fn what_one_machine_has_proved_the_others_have_from_the_store() {
    if !can_mount() {
        return;
    }
    let all = packages(8, 60_000);
    let (origin, store) = (Origin::with(&all), Origin::start());
    for number in 0..3 {
        let machine = machine(&origin, &[store.url()]);
        all.iter().for_each(|package| reads(&machine, package));
        if number == 0 {
            eventually(60, "all is stored", || machine.counter("object_store_puts") == 8);
            assert!(machine.status_text().contains("  stored    8 packages, "), "{}", machine.status_text());
        }
        assert_eq!(machine.counter("object_store_hits"), if number == 0 { 0 } else { 8 });
    }
    assert_eq!(origin.package_requests(), all.len());
    // The scripted store takes nothing without signature and digests.
    let puts = store.asked_with("PUT");
    assert_eq!(puts.len(), all.len());
    assert!(all.iter().all(|package| *store.file(&at(package)).unwrap() == package.bytes));
    assert!(puts.iter().all(|put| put.headers["authorization"].contains("content-md5;host;")), "{puts:?}");
    assert!(store.asked_with("DELETE").is_empty());
}

/// Neither a machine that is told so, nor one without a key, writes.
#[test]
fn a_read_only_machine_never_writes() {
    if !can_mount() {
        return;
    }
    let all = packages(3, 60_000);
    let (origin, store) = (Origin::with(&all), Origin::start());
    store.put(&at(&all[0]), all[1].bytes.clone());
    store.put(&at(&all[1]), all[1].bytes.clone());
    let old = std::time::SystemTime::now() - Duration::from_secs(3600);
    store.set_modified(&at(&all[1]), old);
    let machine = configured(&origin, &[store.url()], &format!("{SCRIPTED}\naccess = \"read-only\"\nexpiry = 60"), &[]);
    [1, 2, 0].into_iter().for_each(|number| reads(&machine, &all[number]));
    machine.settled();
    assert!(machine.counter("object_store_wrong") == 1 && machine.counter("object_store_hits") >= 1);
    // Another machine with the same cache of the store would have written three times by now.
    std::thread::sleep(Duration::from_secs(1));
    assert!(store.asked_with("PUT").is_empty() && store.asked_with("DELETE").is_empty());
    assert!(!machine.status_text().contains("  stored    "));
    let writer = configured(&origin, &[store.url()], &format!("{SCRIPTED}\nexpiry = 60"), &[]);
    [1, 2, 0].into_iter().for_each(|number| reads(&writer, &all[number]));
    eventually(30, "it writes", || store.asked_with("PUT").len() == 3);
    assert!(store.asked_with("DELETE").is_empty());
}

/// A wrong object is replaced by the right one, and is missing at no time; a node that only sends something else loses nothing.
#[test]
fn only_wrong_objects_are_replaced() {
    if !can_mount() {
        return;
    }
    let html = b"<html><body>Sign in to this network</body></html>".to_vec();
    let all = packages(4, 60_000);
    let origin = Origin::with(&all);
    // A right object, and a node that lies once.
    for act in [Act::Flip(30_000), Act::Instead(html.clone()), Act::ShortBy(1)] {
        let store = scripted(&all);
        store.script(&at(&all[0]), [act.clone(), Act::Serve]);
        let machine = machine(&origin, &[store.url()]);
        reads(&machine, &all[0]);
        eventually(30, "it is read again", || store.asked_with("GET").len() == 2);
        machine.settled();
        eventually(30, "nothing waits", || machine.status()["object_store"]["waiting"] == 0);
        assert!(*store.file(&at(&all[0])).unwrap() == all[0].bytes, "{act:?}");
        assert!(store.asked_with("PUT").is_empty() && store.asked_with("DELETE").is_empty(), "{act:?}");
        assert_eq!(
            (machine.counter("object_store_wrong"), machine.counter("object_store_repaired")),
            (1, 0),
            "{act:?}"
        );
    }
    // What always answers with a page, and without an ETag, is no object.
    let portal = scripted(&all);
    portal.script(&at(&all[1]), [Act::Instead(html)]);
    let machine = machine(&origin, &[portal.url()]);
    reads(&machine, &all[1]);
    written(&machine);
    assert!(portal.asked_with("DELETE").is_empty() && *portal.file(&at(&all[1])).unwrap() == all[1].bytes);
    // Wrong objects: other bytes, and another size.
    for wrong in [all[3].bytes[..all[2].bytes.len().min(all[3].bytes.len())].to_vec(), vec![7; 100]] {
        let store = Origin::start();
        store.put(&at(&all[2]), wrong);
        let machine = self::machine(&origin, &[store.url()]);
        reads(&machine, &all[2]);
        eventually(30, "it is replaced", || machine.counter("object_store_repaired") == 1);
        assert_eq!((store.asked_with("PUT").len(), machine.counter("object_store_puts")), (1, 1));
        assert!(*store.file(&at(&all[2])).unwrap() == all[2].bytes && store.asked_with("DELETE").is_empty());
        let said = "an object had other bytes than its key says, and is replaced";
        eventually(30, "it is in the log", || machine.log().contains(said));
        let next = self::machine(&origin, &[store.url()]);
        reads(&next, &all[2]);
        assert_eq!(next.counter("object_store_hits"), 1);
    }
}

/// A store that takes no package in the place of a wrong object, because it is full, does not keep the object either. One that
/// another machine has repaired meanwhile stays.
#[test]
fn a_wrong_object_goes_also_if_the_store_is_full() {
    if !can_mount() {
        return;
    }
    let all = packages(2, 60_000);
    let origin = Origin::with(&all);
    let full = || {
        let store = scripted(&all);
        store.refuse(&["PUT"], 507);
        store
    };
    let fails = |machine: &Mounted| {
        reads(machine, &all[0]);
        eventually(30, "it fails", || machine.counter("object_store_write_failures") == 1);
    };
    let store = full();
    store.put(&at(&all[0]), all[1].bytes[..all[0].bytes.len().min(all[1].bytes.len())].to_vec());
    let machine = machine(&origin, &[store.url()]);
    fails(&machine);
    assert!(store.file(&at(&all[0])).is_none());
    assert_eq!((store.asked_with("DELETE").len(), machine.counter("object_store_repaired")), (1, 1));
    assert!(machine.log().contains("an object had other bytes than its key says, and is deleted"), "{}", machine.log());
    // It is wrong when it is read, and when it is read once more.
    let store = full();
    store.script(&at(&all[0]), [Act::Flip(30_000), Act::Flip(30_000), Act::Serve]);
    let machine = self::machine(&origin, &[store.url()]);
    fails(&machine);
    assert!(*store.file(&at(&all[0])).unwrap() == all[0].bytes && store.asked_with("DELETE").is_empty());
    assert_eq!((store.asked_with("GET").len(), machine.counter("object_store_repaired")), (3, 0));
}

/// An object is copied onto itself when half of its time is over, and before that not.
#[test]
fn an_object_that_is_read_does_not_expire() {
    if !can_mount() {
        return;
    }
    let all = packages(2, 60_000);
    let (origin, store) = (Origin::with(&all), scripted(&all));
    let ago = |seconds| std::time::SystemTime::now() - Duration::from_secs(seconds);
    store.set_modified(&at(&all[0]), ago(3000));
    store.set_modified(&at(&all[1]), ago(1000));
    let machine = configured(&origin, &[store.url()], &format!("{SCRIPTED}\nexpiry = \"1h\""), &[]);
    all.iter().for_each(|package| reads(&machine, package));
    eventually(30, "it is renewed", || machine.counter("object_store_renewed") == 1);
    let puts = store.asked_with("PUT");
    assert_eq!(puts.iter().map(|put| put.path.clone()).collect::<Vec<_>>(), [at(&all[0])]);
    assert_eq!(puts[0].headers["x-amz-copy-source"], format!("/{}", at(&all[0])));
    assert_eq!((machine.counter("object_store_puts"), origin.package_requests()), (0, 0));
}

/// Writes that fail cost opens nothing, and are told.
#[test]
fn a_store_that_takes_nothing_costs_nothing() {
    if !can_mount() {
        return;
    }
    for status in [403, 500, 507] {
        let all = packages(2, 60_000);
        let (origin, store) = (Origin::with(&all), Origin::start());
        store.refuse(&["PUT", "DELETE"], status);
        let machine = machine(&origin, &[store.url()]);
        reads(&machine, &all[0]);
        eventually(30, "it fails", || machine.counter("object_store_write_failures") == 1);
        reads(&machine, &all[1]);
        assert_eq!(machine.counter("failed_opens"), 0);
        assert!(machine.log().contains("a package cannot be stored"), "{}", machine.log());
        // What cannot be written to can still be read.
        assert_eq!(node(&machine, 0)["state"], "healthy", "{status}");
    }
}

/// A machine with other keys refuses a package that others have stored, and neither deletes nor stores it.
#[test]
fn a_strict_machine_harms_no_object_of_others() {
    let Some((key, header, packages)) = binhost("gpkg-signed") else { return };
    let Some(gpg) = gpg() else { return };
    let other = gpg.key("other", "ed25519", "sign", "0", None);
    let other = gpg.write("other.pgp", &gpg.export(&[&other]));
    let package = &packages[0];
    let (origin, store) = (serve(&header, &packages[..1]), Origin::start());
    let machine =
        |keyring: &Path| configured(&origin, &[store.url()], SCRIPTED, &["--keyring", keyring.to_str().unwrap()]);
    let first = machine(&key);
    assert!(fs::read(first.path(&package.path)).unwrap() == package.bytes);
    eventually(30, "it is stored", || first.counter("object_store_puts") == 1);
    let strict = machine(&other);
    assert_eq!(fs::read(strict.path(&package.path)).unwrap_err().raw_os_error(), Some(5));
    assert_eq!((strict.counter("object_store_hits"), strict.counter("object_store_wrong")), (1, 0));
    let third = machine(&key);
    assert!(fs::read(third.path(&package.path)).unwrap() == package.bytes);
    assert_eq!((third.counter("object_store_hits"), third.counter("object_store_puts")), (1, 0));
    assert!(store.asked_with("DELETE").is_empty() && store.asked_with("PUT").len() == 1);
}
