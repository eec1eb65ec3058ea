//! An index that lies about packages that are signed: found for packages that are fetched and for cached ones, whatever key
//! it lies about; and what is right is never refused.

use std::fs;
use std::time::Instant;

use binhostfs::internals::index::AuxKey;
use tempfile::TempDir;

use crate::harness::portage::Emerge;
use crate::harness::signed::{Real, binhost, publish, serve, with_keys};
use crate::harness::{Act, Mounted, Options, Origin, eventually, gpg};

const EIO: Option<i32> = Some(5);

/// Another index for the same packages.
fn serve_index(origin: &Origin, mounted: &Mounted, header: &str, packages: &[Real]) {
    publish(origin, header, packages);
    mounted.runs(&["refresh"]);
}

fn open(mounted: &Mounted, package: &Real) -> Result<(), Option<i32>> {
    let bytes = fs::read(mounted.path(&package.path)).map_err(|error| error.raw_os_error())?;
    assert!(bytes == package.bytes, "{}", package.path);
    Ok(())
}

/// The line of `key` in an entry, where it has one.
fn line(package: &Real, key: AuxKey) -> Option<String> {
    let is_key = |line: &&str| line.split_once(": ").is_some_and(|(name, _)| AuxKey::of_entry(name) == Some(key));
    package.stanza.lines().find(is_key).map(str::to_owned)
}

/// `package` with an entry in which `key` says something else: a changed value, none, or one more.
fn lies(package: &Real, key: AuxKey) -> Vec<Real> {
    let with = |stanza: String| Real { stanza, ..package.clone() };
    let other = match key {
        AuxKey::BuildId => "7",
        AuxKey::BuildTime => "1",
        AuxKey::Eapi => "7",
        AuxKey::Slot => "5",
        _ => "evil/other",
    };
    match line(package, key) {
        Some(line) => {
            let name = line.split_once(": ").unwrap().0;
            let replaced = |by: &str| {
                with(format!("{}\n", package.stanza).replace(&format!("{line}\n"), by).trim_end().to_owned())
            };
            vec![replaced(&format!("{name}: {other}\n")), replaced("")]
        }
        None => vec![with(format!("{}\n{key}: {other}", package.stanza))],
    }
}

/// With `more` in binhostfs.toml, and with a make.conf by which Portage reads packages that are not compressed.
fn mount_unsigned(origin: &Origin, more: &str) -> Mounted {
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let portage = place.path().join("etc/portage");
    fs::create_dir_all(&portage).unwrap();
    fs::write(portage.join("make.conf"), "BINPKG_COMPRESS=\"none\"\n").unwrap();
    let file = place.path().join("binhostfs.toml");
    let text = format!("verify-signature = false\n{more}\n[binhost.test]\nurl = \"{}\"\n", origin.url());
    fs::write(&file, text).unwrap();
    let root = place.path().to_str().unwrap().to_owned();
    Options::configured(&file).with(["--portage-root", &root]).mount_in(place)
}

/// CPV, as an atom.
fn atom(package: &Real) -> String {
    let cpv = package.stanza.lines().find_map(|line| line.strip_prefix("CPV: ")).unwrap();
    format!("={cpv}")
}

#[test]
fn whatever_key_an_index_lies_about_is_found() {
    let Some((key, header, packages)) = binhost("gpkg-signed") else { return };
    // One with many keys, of which no other package has the name.
    let honest = packages.iter().max_by_key(|package| package.stanza.lines().count()).unwrap();
    let origin = serve(&header, std::slice::from_ref(honest));
    let mounted = with_keys(&origin, &key).mount();
    let mut tried = 0;
    for (key, lie) in AuxKey::ALL.into_iter().flat_map(|key| lies(honest, key).into_iter().map(move |lie| (key, lie))) {
        // Whether it is another entry to who goes by its identity: then it is no hit, and looked at when it is opened.
        let identity = matches!(key, AuxKey::BuildId | AuxKey::BuildTime);

        // The package is fetched.
        if !mounted.blobs().is_empty() {
            mounted.runs(&["evict", &atom(honest)]);
        }
        serve_index(&origin, &mounted, &header, std::slice::from_ref(&lie));
        assert_eq!(open(&mounted, &lie), Err(EIO), "{key}: {}", lie.stanza);
        let reason = mounted.reason(&lie.path).unwrap();
        let expected = if identity && lie.stanza.contains(key.name()) {
            format!("the package inside has {key}")
        } else {
            format!("index mismatch: {key} is ")
        };
        assert!(reason.contains(&expected), "{key}: {reason}");
        eventually(20, "the entry leaves the index", || mounted.listing().is_empty());

        // What is right comes back with the next index, and is read.
        serve_index(&origin, &mounted, &header, std::slice::from_ref(honest));
        eventually(20, "the entry is shown again", || mounted.listing() == [honest.path.as_str()]);
        assert_eq!(open(&mounted, honest), Ok(()), "{key}");

        // The package is in the cache.
        serve_index(&origin, &mounted, &header, std::slice::from_ref(&lie));
        if identity {
            // Under this identity it may have been fetched before: then it is known already.
            assert!(mounted.listing().is_empty() || open(&mounted, &lie) == Err(EIO), "{key}: {}", lie.stanza);
            eventually(20, "the entry leaves the index", || mounted.listing().is_empty());
        } else {
            // The kernel is told of it, and needs a moment where others keep it busy.
            eventually(20, "the entry leaves the index", || mounted.listing().is_empty());
            let status = mounted.status();
            let told = status["binhosts"][0]["index_mismatches"].as_array().unwrap();
            assert!(told.len() == 1 && told[0]["reason"].as_str().unwrap().contains(key.name()), "{told:?}");
        }
        serve_index(&origin, &mounted, &header, std::slice::from_ref(honest));
        eventually(20, "the entry is shown again", || mounted.listing() == [honest.path.as_str()]);
        assert_eq!(open(&mounted, honest), Ok(()), "{key}");
        tried += 1;
    }
    assert!(tried > AuxKey::ALL.len(), "{tried}");
    let header = header.replace("CHOST: x86_64", "CHOST: i686");
    serve_index(&origin, &mounted, &header, std::slice::from_ref(honest));
    eventually(20, "the header's CHOST is the entry's", || mounted.listing().is_empty());
}

#[test]
fn what_is_cached_is_held_against_the_index_after_a_restart_too() {
    let Some((key, header, packages)) = binhost("gpkg-signed") else { return };
    let honest = &packages[0];
    let origin = serve(&header, std::slice::from_ref(honest));
    let mounted = with_keys(&origin, &key).mount();
    assert_eq!(open(&mounted, honest), Ok(()));
    mounted.settled();
    publish(&origin, &header, &lies(honest, AuxKey::Rdepend)[..1]);
    let mounted = with_keys(&origin, &key).mount_in(mounted.into_place());
    eventually(20, "the entry leaves the index", || mounted.listing().is_empty());
    // Without a network the stored index is all there is, and nothing of it is shown for a moment.
    origin.script("Packages", vec![Act::Status(503, Vec::new()); 50]);
    let mounted = with_keys(&origin, &key).mount_in(mounted.into_place());
    assert!(mounted.listing().is_empty());
}

#[test]
fn without_signatures_it_is_a_warning_and_refused_only_if_asked_for() {
    let Some((_, header, packages)) = binhost("gpkg-multi") else { return };
    let honest = &packages[0];
    let lie = &lies(honest, AuxKey::Slot)[0];
    let origin = serve(&header, std::slice::from_ref(lie));
    let unsigned = |more: &str| mount_unsigned(&origin, more);
    let mounted = unsigned("");
    for _ in 0..2 {
        assert_eq!(open(&mounted, lie), Ok(()));
    }
    let told = |mounted: &Mounted| mounted.status()["binhosts"][0]["index_mismatches"].as_array().unwrap().len();
    eventually(20, "it is told", || told(&mounted) == 1);
    let why = mounted.runs(&["why", &atom(lie)]);
    assert!(why.contains("warning   index mismatch: SLOT is \"5\" in the index, but \"0\" in the package"), "{why}");
    assert_eq!(
        (mounted.listing(), mounted.status()["metrics"]["index_mismatches"].as_u64()),
        (vec![lie.path.clone()], Some(1))
    );
    drop(mounted);

    let mounted = unsigned("index-mismatch = \"refuse\"");
    assert_eq!(open(&mounted, lie), Err(EIO));
    eventually(20, "the entry leaves the index", || mounted.listing().is_empty());
    drop(mounted);

    let mounted = unsigned("index-mismatch = \"off\"");
    assert_eq!(open(&mounted, lie), Ok(()));
    assert_eq!((told(&mounted), mounted.status()["metrics"]["index_mismatches"].as_u64()), (0, Some(0)));
}

#[test]
fn after_two_packages_another_url_is_asked_for_the_index() {
    let Some((key, header, packages)) = binhost("gpkg-signed") else { return };
    let stamp = |timestamp: &str| {
        let line = header.lines().find(|line| line.starts_with("TIMESTAMP: ")).unwrap();
        header.replace(line, &format!("TIMESTAMP: {timestamp}"))
    };
    let liar = serve(
        &stamp("1795841930"),
        &packages.iter().map(|honest| lies(honest, AuxKey::Keywords).remove(0)).collect::<Vec<_>>(),
    );
    // Its index is the older one.
    let honest = serve(&stamp("1795841925"), &packages);
    let options = with_keys(&liar, &key).with(["--mirror", &honest.url(), "--refresh", "1h"]);
    let mounted = options.mount();
    assert_eq!(open(&mounted, &packages[0]), Err(EIO));
    eventually(20, "the first leaves the index", || mounted.listing().len() == packages.len() - 1);
    assert_eq!(honest.asked("Packages").len() + honest.asked("Packages.gz").len(), 0, "one may be a mistake");
    assert_eq!(open(&mounted, &packages[1]), Err(EIO));
    eventually(40, "the mirror's index is used", || mounted.listing().len() == packages.len());
    for package in &packages {
        assert_eq!(open(&mounted, package), Ok(()));
    }
    let status = mounted.status();
    assert_eq!(status["binhosts"][0]["index_mismatches"].as_array().unwrap().len(), 0);
    assert!(
        status["binhosts"][0]["mirrors"].to_string().contains("say something else than their packages"),
        "{status}"
    );
}

/// An emerge that trusts the key that the binhost's packages are signed with.
pub(crate) fn emerge(mounted: &Mounted) -> Emerge {
    Emerge::from(mounted.mountpoint()).with("MODE", "-K")
}

pub(crate) fn named<'a>(packages: &'a [Real], name: &str) -> &'a Real {
    packages.iter().find(|package| package.path.starts_with(name)).unwrap()
}

/// `packages` with a dependency of acct-group/demo on another signed package, which nobody has asked for.
pub(crate) fn with_added_dependency(packages: &[Real]) -> Vec<Real> {
    let liar = named(packages, "acct-group/demo/");
    let lie = Real { stanza: format!("{}\nRDEPEND: dev-libs/libfoo", liar.stanza), ..liar.clone() };
    packages.iter().map(|package| if package.path == liar.path { lie.clone() } else { package.clone() }).collect()
}

#[test]
fn a_dependency_that_an_index_adds_is_not_installed() {
    let Some((key, header, honest)) = binhost("gpkg-signed") else { return };
    let packages = with_added_dependency(&honest);
    let added = named(&honest, "dev-libs/libfoo/");
    // What it is for: without the check it is installed before the package of the wrong entry is opened.
    let origin = serve(&header, &packages);
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let file = place.path().join("binhostfs.toml");
    let url = origin.url();
    fs::write(&file, format!("plan-check = 0\n[binhost.test]\nurl = \"{url}\"\n")).unwrap();
    let keyring = ["--keyring", key.to_str().unwrap()];
    let unchecked = Options::configured(&file).with(keyring).mount_in(place);
    let attacked = emerge(&unchecked);
    assert_eq!(attacked.run(["acct-group/demo"]).code, Some(1));
    let brought = ["dev-libs/libfoo-1.3.0", "sys-libs/glibc-2.41"];
    assert_eq!(attacked.names(), brought, "the attack itself does not work");
    drop(unchecked);

    // The package that nobody wants is cached, and so can be had at once; or nothing is.
    for cached in [false, true] {
        let origin = serve(&header, &packages);
        let mounted = with_keys(&origin, &key).mount();
        if cached {
            assert_eq!(open(&mounted, added), Ok(()));
        }
        let safe = emerge(&mounted);
        let ended = safe.run(["acct-group/demo"]);
        assert!(ended.code == Some(1) && safe.names().is_empty(), "{}", ended.output);
        let log = mounted.log();
        assert!(log.contains("no package of an emerge's plan is given out: it has acct-group/demo/"), "{log}");
        assert!(log.contains("RDEPEND is \"dev-libs/libfoo\" in the index, but \"\" in the package"), "{log}");
        eventually(20, "the entry leaves the index", || mounted.listing().len() == packages.len() - 1);
        // The next emerge plans without it.
        let again = safe.run(["acct-group/demo"]);
        assert!(again.code == Some(1) && safe.names().is_empty(), "{}", again.output);
        safe.succeed(["dev-libs/libfoo"]);
        assert_eq!(safe.names(), brought, "what is asked for is installed");
    }
}

#[test]
fn another_package_under_a_false_name_brings_no_other() {
    let Some((key, header, honest)) = binhost("gpkg-signed") else { return };
    let real = named(&honest, "acct-group/demo/");
    let path = "acct-group/fake/fake-0-1.gpkg.tar";
    let stanza = real.stanza.replace("acct-group/demo-0", "acct-group/fake-0").replace(&real.path, path);
    let stanza = format!("{stanza}\nRDEPEND: dev-libs/libfoo");
    let fake = Real { path: path.to_owned(), stanza, bytes: real.bytes.clone() };
    let packages: Vec<Real> = honest.iter().chain([&fake]).cloned().collect();
    let origin = serve(&header, &packages);
    let mounted = with_keys(&origin, &key).mount();
    let safe = emerge(&mounted);
    let ended = safe.run(["acct-group/fake"]);
    assert!(ended.code == Some(1) && safe.names().is_empty(), "{}", ended.output);
    assert!(mounted.log().contains("no package of an emerge's plan is given out"), "{}", mounted.log());
    eventually(20, "the entry leaves the index", || mounted.listing().len() == honest.len());
}

#[test]
fn a_plan_whose_entries_are_right_is_checked_and_merged() {
    let Some((key, header, packages)) = binhost("gpkg-signed") else { return };
    let origin = serve(&header, &packages);
    let mounted = with_keys(&origin, &key).with(["--prefetch", "off"]).mount();
    for _ in 0..2 {
        let emerge = emerge(&mounted);
        emerge.succeed(["acct-user/demo"]);
        assert_eq!(emerge.names(), ["acct-group/demo-0", "acct-user/demo-0"]);
        // Small packages are fetched whole, once.
        assert_eq!(origin.asked_packages().len(), 2);
    }
    assert_eq!(mounted.counter("index_mismatches"), 0);
}

#[test]
fn of_a_large_package_the_first_bytes_are_enough() {
    let Some((_, header, packages)) = binhost("gpkg-signed") else { return };
    let Some(gpg) = gpg() else { return };
    let signer = gpg.key("binhost", "ed25519", "sign", "0", None);
    let large = named(&packages, "app-misc/greet/").changed(|members| {
        let image = members.members.iter_mut().find(|(name, _)| name.starts_with("image.tar")).unwrap();
        image.1.extend((0..1_000_000_u32).map(|at| at.to_le_bytes()[0]));
        members.sign(&gpg, &["--local-user", &signer]);
        // As Portage has them: each signature behind its member.
        members.members.sort_by_key(|(name, _)| ["gpkg-1", "metadata", "image"].map(|start| !name.starts_with(start)));
    });
    let keyring = gpg.write("key.pgp", &gpg.export(&[&signer]));
    let lie = &lies(&large, AuxKey::Rdepend)[0];
    for (entry, agrees) in [(&large, true), (lie, false)] {
        let origin = serve(&header, std::slice::from_ref(entry));
        let mounted = with_keys(&origin, &keyring).mount();
        let (code, checked) = verify_index(&mounted, &[]);
        assert_eq!(
            (code, checked["entries"][0]["outcome"] == "agrees"),
            (Some(i32::from(!agrees)), agrees),
            "{checked}"
        );
        let ranges: Vec<_> = origin.asked(&large.path).into_iter().map(|asked| asked.range).collect();
        assert_eq!(ranges, [Some("bytes=0-65535".to_owned())]);
        assert!(mounted.blobs().is_empty());
        // Asked for once more, it is known.
        let again = verify_index(&mounted, &[]).1["entries"].as_array().unwrap().len();
        assert!(again == usize::from(agrees) && origin.asked(&large.path).len() == 1, "{again}");
    }
    // A server that does not know Range begins to send the whole.
    let origin = serve(&header, std::slice::from_ref(lie));
    origin.script(&large.path, [Act::Whole]);
    let mounted = with_keys(&origin, &keyring).mount();
    let (code, checked) = verify_index(&mounted, &[]);
    assert_eq!((code, checked["entries"][0]["outcome"].as_str()), (Some(1), Some("wrong")), "{checked}");
    assert_eq!(mounted.counter("downloads"), 0);
    // One that answers with something else proves nothing.
    origin.script(&large.path, [Act::Status(503, Vec::new()), Act::WrongRange, Act::ShortBy(100_000), Act::Serve]);
    let mounted = with_keys(&origin, &keyring).mount();
    for _ in 0..3 {
        let (code, checked) = verify_index(&mounted, &[]);
        let outcome = checked["entries"][0]["outcome"].as_str().map(str::to_owned);
        assert_eq!((code, outcome.as_deref()), (Some(0), Some("unknown")), "{checked}");
    }
    assert_eq!(open(&mounted, lie), Err(EIO));
}

#[test]
fn who_does_not_answer_holds_up_a_plan_no_longer_than_it_may() {
    let Some((key, header, packages)) = binhost("gpkg-signed") else { return };
    let origin = serve(&header, &packages);
    // Nothing is known of it until it is opened: then it is fetched as ever.
    origin.script(&named(&packages, "acct-user/").path, [Act::Silence, Act::Serve]);
    let mounted = with_keys(&origin, &key).with(["--prefetch", "off"]).mount();
    let emerge = emerge(&mounted);
    let began = Instant::now();
    emerge.succeed(["acct-user/demo"]);
    assert_eq!(emerge.names(), ["acct-group/demo-0", "acct-user/demo-0"]);
    assert!(began.elapsed().as_secs() < 120, "{:?}", began.elapsed());
}

pub(crate) fn verify_index(mounted: &Mounted, atoms: &[&str]) -> (Option<i32>, serde_json::Value) {
    let ran = mounted.output_of(&[&["verify", "--index", "--json"], atoms].concat());
    let json = serde_json::from_slice(&ran.stdout);
    (ran.status.code(), json.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&ran.stderr))))
}

#[test]
fn an_index_is_held_against_its_packages_on_request() {
    let Some((key, header, honest)) = binhost("gpkg-signed") else { return };
    let packages = with_added_dependency(&honest);
    let origin = serve(&header, &packages);
    let mounted = with_keys(&origin, &key).mount();
    assert_eq!(open(&mounted, named(&packages, "virtual/libgreet/")), Ok(()));
    let outcomes = |checked: &serde_json::Value| -> Vec<String> {
        let entries = checked["entries"].as_array().unwrap();
        entries.iter().map(|entry| entry["outcome"].as_str().unwrap().to_owned()).collect()
    };
    let (code, some) = verify_index(&mounted, &["dev-libs/*", "virtual/libgreet"]);
    assert_eq!((code, outcomes(&some)), (Some(0), vec!["agrees".to_owned(); 2]), "{some}");
    let (code, all) = verify_index(&mounted, &[]);
    let wrong: Vec<_> =
        all["entries"].as_array().unwrap().iter().filter(|entry| entry["outcome"] != "agrees").collect();
    assert_eq!((code, outcomes(&all).len(), wrong.len()), (Some(1), packages.len(), 1), "{all}");
    assert!(wrong[0]["reason"].as_str().unwrap().starts_with("index mismatch: RDEPEND"), "{all}");
    assert_eq!(wrong[0]["path"], named(&packages, "acct-group/demo/").path);
    // One is cached, and of the others no more was fetched than it takes.
    for package in packages.iter().filter(|package| !package.path.starts_with("virtual/libgreet/")) {
        let ranges: Vec<_> = origin.asked(&package.path).into_iter().map(|asked| asked.range.is_some()).collect();
        assert_eq!(ranges, [true], "{}", package.path);
    }
    eventually(20, "the entry leaves the index", || mounted.listing().len() == packages.len() - 1);
    assert_eq!(verify_index(&mounted, &[]).0, Some(0));
    drop(mounted);

    // Without signatures, what is cached can be compared, and nothing else.
    let mounted = mount_unsigned(&origin, "");
    let liar = named(&packages, "acct-group/demo/");
    assert_eq!(open(&mounted, liar), Ok(()));
    mounted.settled();
    let (code, all) = verify_index(&mounted, &[]);
    let wrong = outcomes(&all).iter().filter(|outcome| *outcome == "wrong").count();
    let unknown = outcomes(&all).iter().filter(|outcome| *outcome == "unknown").count();
    assert_eq!((code, wrong, unknown), (Some(1), 1, packages.len() - 1), "{all}");
}

#[test]
fn nothing_that_portage_has_made_is_an_index_mismatch() {
    let mut compared = 0;
    for name in ["gpkg-flat", "gpkg-multi", "gpkg-signed", "gpkg-uncompressed", "xpak-flat", "xpak-multi"] {
        let Some((_, header, packages)) = binhost(name) else { return };
        let origin = serve(&header, &packages);
        let mounted = mount_unsigned(&origin, "index-mismatch = \"refuse\"");
        for package in &packages {
            assert_eq!(open(&mounted, package), Ok(()), "{name}");
            compared += 1;
        }
        assert_eq!(mounted.status()["metrics"]["index_mismatches"].as_u64(), Some(0), "{name}");
    }
    assert!(compared >= 36, "{compared}");
}
