//! Several binhosts in one mount, mirrors that have to agree, and builds that change.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use serde_json::Value;

use crate::harness::{Act, Mounted, Options, Origin, Package, binary, can_mount, eventually, gpg};

const TIME: u64 = 1_760_000_000;
/// A refresh a second, and what one with a dead URL takes.
const REFRESHED: u64 = 30;
const EIO: Option<i32> = Some(5);

fn package(pf: &'static str, payload: usize) -> Package {
    Package::new(pf, payload)
}

fn mount(preferred: &Origin, other: &Origin) -> Mounted {
    Options::new(preferred.url()).with(["--binhost", &other.url(), "--refresh", "1s"]).mount()
}

fn reads(mounted: &Mounted, path: &str, package: &Package) {
    assert!(fs::read(mounted.path(path)).unwrap() == package.bytes, "{path}");
}

fn binhost(mounted: &Mounted, number: usize) -> Value {
    mounted.status()["binhosts"][number].clone()
}

fn name(mounted: &Mounted, number: usize) -> String {
    binhost(mounted, number)["name"].as_str().unwrap().to_owned()
}

fn shown(mounted: &Mounted) -> Vec<String> {
    let text = fs::read_to_string(mounted.path("Packages")).unwrap();
    let mut paths: Vec<String> =
        text.lines().filter_map(|line| line.strip_prefix("PATH: ")).map(str::to_owned).collect();
    paths.sort();
    paths
}

#[test]
fn each_package_comes_from_its_binhost() {
    if !can_mount() {
        return;
    }
    let [same, mine, theirs] = [package("same-1", 9_000), package("mine-1", 9_000), package("theirs-1", 9_000)];
    // Another build at the same path.
    let other = package("mine-1", 12_000);
    let (one, two) =
        (Origin::with(&[same.clone(), mine.clone()]), Origin::with(&[same.clone(), other.clone(), theirs.clone()]));
    let mut mounted = mount(&one, &two);
    let below = format!("{}/{}", name(&mounted, 1), other.path);
    let mut expected = vec![below.clone(), mine.path.clone(), same.path.clone(), theirs.path.clone()];
    expected.sort();
    for _ in 0..2 {
        assert_eq!((shown(&mounted), mounted.listing()), (expected.clone(), expected.clone()));
        for (path, package) in [(&mine.path, &mine), (&below, &other), (&same.path, &same), (&theirs.path, &theirs)] {
            reads(&mounted, path, package);
        }
        mounted.settled();
        mounted.stop();
        mounted.start();
    }
    assert_eq!((one.package_requests(), two.package_requests()), (2, 2), "each was fetched once, from its binhost");
    let entries = &binhost(&mounted, 1)["entries"];
    assert_eq!((&entries["shadowed"], &entries["moved"]), (&1.into(), &1.into()), "{entries}");
}

#[test]
fn one_binhost_that_is_away_harms_no_other() {
    if !can_mount() {
        return;
    }
    let [mine, theirs, new] = [package("mine-1", 9_000), package("theirs-1", 9_000), package("new-1", 9_000)];
    let (one, two) = (Origin::with(std::slice::from_ref(&mine)), Origin::with(std::slice::from_ref(&theirs)));
    let address = one.address();
    let mounted = mount(&one, &two);
    drop(one);
    two.publish(TIME + 1, &[theirs.clone(), new.clone()]);
    eventually(REFRESHED, "the other's news", || shown(&mounted) == [&*mine.path, &*new.path, &*theirs.path]);
    eventually(REFRESHED, "it is said to be away", || binhost(&mounted, 0)["unreachable"] == true);
    reads(&mounted, &new.path, &new);
    assert_eq!(fs::read(mounted.path(&mine.path)).unwrap_err().raw_os_error(), EIO);
    assert_eq!(binhost(&mounted, 1)["refresh"]["error"], Value::Null);
    let _back = {
        let origin = Origin::start_on(&address);
        origin.publish(TIME, std::slice::from_ref(&mine));
        origin
    };
    eventually(REFRESHED, "it is back", || binhost(&mounted, 0)["unreachable"] == false);
    reads(&mounted, &mine.path, &mine);
}

#[test]
fn what_one_binhost_cannot_deliver_comes_from_the_next() {
    if !can_mount() {
        return;
    }
    let package = package("both-1", 9_000);
    let (one, two) = (Origin::with(std::slice::from_ref(&package)), Origin::with(std::slice::from_ref(&package)));
    one.script(&package.path, [Act::Flip(3_000)]);
    let mounted = mount(&one, &two);
    assert_eq!(fs::read(mounted.path(&package.path)).unwrap_err().raw_os_error(), EIO);
    eventually(REFRESHED, "the other binhost's takes its place", || binhost(&mounted, 1)["packages"] == 1);
    assert_eq!(shown(&mounted), [&*package.path]);
    reads(&mounted, &package.path, &package);
    assert_eq!(binhost(&mounted, 0)["entries"]["refused"], 1);
}

#[test]
fn a_quorum_of_mirrors_decides_what_is_shown() {
    if !can_mount() {
        return;
    }
    let [agreed, forged, missing] =
        [package("agreed-1", 9_000), package("forged-1", 9_000), package("missing-1", 9_000)];
    let real = package("forged-1", 9_500);
    let one = Origin::with(&[agreed.clone(), forged.clone(), missing.clone()]);
    let two = Origin::with(&[agreed.clone(), real.clone()]);
    let address = two.address();
    let mut mounted =
        Options::new(one.url()).with(["--mirror", &two.url(), "--quorum", "2", "--refresh", "1s"]).mount();
    eventually(REFRESHED, "what both have", || shown(&mounted) == [&*agreed.path]);
    // What is shown comes first.
    eventually(REFRESHED, "it is said why", || binhost(&mounted, 0)["entries"]["disputed"] == 2);
    assert!(fs::metadata(mounted.path(&missing.path)).is_err());
    reads(&mounted, &agreed.path, &agreed);
    // Without the other mirror its last word counts, also after a restart.
    drop(two);
    mounted.stop();
    mounted.start();
    assert_eq!(shown(&mounted), [&*agreed.path]);
    let two = Origin::start_on(&address);
    two.publish(TIME + 1, &[agreed.clone(), real, missing.clone()]);
    eventually(REFRESHED, "they agree on one more", || shown(&mounted) == [&*agreed.path, &*missing.path]);
    reads(&mounted, &missing.path, &missing);
}

#[test]
fn nothing_is_shown_before_the_mirrors_were_asked() {
    if !can_mount() {
        return;
    }
    let package = package("one-1", 9_000);
    let (one, two) = (Origin::with(std::slice::from_ref(&package)), Origin::start());
    two.script("Packages.gz", [Act::Status(503, Vec::new())]);
    let mounted = Options::new(one.url()).with(["--mirror", &two.url(), "--quorum", "2"]).mount();
    assert!(shown(&mounted).is_empty());
    assert!(mounted.log().contains("fewer of the binhost's URLs agree"), "{}", mounted.log());
}

#[test]
fn the_same_build_with_other_bytes_is_an_alarm() {
    if !can_mount() {
        return;
    }
    let (before, after) = (package("build-1", 9_000), package("build-1", 9_100));
    assert_eq!((before.build_id, &before.path), (after.build_id, &after.path));
    let origin = Origin::with(std::slice::from_ref(&before));
    let mut mounted = Options::new(origin.url()).with(["--refresh", "1s"]).mount();
    reads(&mounted, &before.path, &before);
    mounted.settled();
    mounted.stop();
    mounted.start();
    assert_eq!(mounted.status()["alarms"], serde_json::json!([]));
    origin.publish(TIME + 1, std::slice::from_ref(&after));
    eventually(REFRESHED, "the new index", || mounted.counter("refreshes") == 1);
    reads(&mounted, &after.path, &after);
    eventually(20, "the alarm", || mounted.counter("alarms") == 1);
    let status = mounted.status();
    assert_eq!(status["alarms"][0]["path"], after.path.as_str());
    assert!(status["alarms"][0]["reason"].as_str().unwrap().contains("other bytes than before"), "{status}");
    assert!(mounted.log().contains("ALARM"));
}

/// A mount whose binhosts stand in a file, which a test may write anew.
struct Configured {
    file: tempfile::NamedTempFile,
    mounted: Mounted,
}

fn toml(binhosts: &[(&str, &Origin)], more: &str) -> String {
    let table = |(name, origin): &(&str, &Origin)| format!("[binhost.{name}]\nurl = \"{}\"\n", origin.url());
    let tables: Vec<String> = binhosts.iter().map(table).collect();
    format!("refresh = \"1s\"\n{more}\n{}", tables.concat())
}

fn configured(text: &str) -> Configured {
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    fs::write(file.path(), text).unwrap();
    let mounted = Options::configured(file.path()).mount();
    Configured { file, mounted }
}

impl Configured {
    /// As editors do it: beside it, and renamed.
    fn write(&self, text: &str) {
        let beside = self.file.path().with_extension("new");
        fs::write(&beside, text).unwrap();
        fs::rename(&beside, self.file.path()).unwrap();
    }
}

#[test]
fn a_changed_configuration_is_taken_without_a_restart() {
    if !can_mount() {
        return;
    }
    let [mine, theirs] = [package("mine-1", 9_000), package("theirs-1", 9_000)];
    let (one, two) = (Origin::with(std::slice::from_ref(&mine)), Origin::with(std::slice::from_ref(&theirs)));
    let configured = configured(&toml(&[("one", &one)], ""));
    let mounted = &configured.mounted;
    assert_eq!(shown(mounted), [&*mine.path]);
    reads(mounted, &mine.path, &mine);
    mounted.settled();
    let held = fs::File::open(mounted.path(&mine.path)).unwrap();

    configured.write(&toml(&[("one", &one), ("two", &two)], ""));
    eventually(REFRESHED, "another binhost", || shown(mounted) == [&*mine.path, &*theirs.path]);
    reads(mounted, &theirs.path, &theirs);
    configured.write(&toml(&[("one", &one), ("two", &two)], "exclude = [\"*/theirs\"]"));
    eventually(REFRESHED, "a package is not selected", || shown(mounted) == [&*mine.path]);

    // What is wrong says so, and changes nothing.
    configured.write("refresh = \"1s\"\ncolour = \"red\"\n");
    eventually(REFRESHED, "it is wrong", || mounted.status()["misconfigured"].is_string());
    let said = mounted.status()["misconfigured"].as_str().unwrap().to_owned();
    assert!(said.contains("colour") && said.contains(configured.file.path().to_str().unwrap()), "{said}");
    reads(mounted, &mine.path, &mine);

    configured.write(&toml(&[("two", &two)], ""));
    eventually(REFRESHED, "one binhost less", || shown(mounted) == [&*theirs.path]);
    // What is shown comes first.
    eventually(REFRESHED, "nothing is wrong", || mounted.status()["misconfigured"].is_null());
    // What an emerge has planned can still be had, and what is open stays.
    reads(mounted, &mine.path, &mine);
    assert_eq!(std::io::read_to_string(&held).unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    assert_eq!(one.package_requests(), 1);
}

fn one_is_held(mounted: &Mounted) -> bool {
    let status = mounted.status();
    let one = status["binhosts"].as_array().unwrap().iter().find(|binhost| binhost["name"] == "one").unwrap();
    one["entries"]["offline"] == 1
}

#[test]
fn while_a_binhost_is_away_only_what_is_here_is_shown_if_so_configured() {
    if !can_mount() {
        return;
    }
    let [cached, not_cached, other] = [package("cached-1", 9_000), package("not-1", 9_000), package("other-1", 9_000)];
    let (one, two) = (Origin::with(&[cached.clone(), not_cached.clone()]), Origin::with(std::slice::from_ref(&other)));
    let address = one.address();
    let mut configured = configured(&toml(&[("one", &one), ("two", &two)], "offline = \"hide\""));
    let all = [&*cached.path, &*not_cached.path, &*other.path];
    assert_eq!(shown(&configured.mounted), all);
    reads(&configured.mounted, &cached.path, &cached);
    configured.mounted.settled();
    drop(one);
    let here = [&*cached.path, &*other.path];
    eventually(REFRESHED, "what is here", || shown(&configured.mounted) == here);
    eventually(20, "it is counted", || one_is_held(&configured.mounted));
    reads(&configured.mounted, &cached.path, &cached);
    // A restart knows nothing of that until it has asked.
    configured.mounted.stop();
    configured.mounted.start();
    eventually(REFRESHED, "what is here", || shown(&configured.mounted) == here);
    let back = Origin::start_on(&address);
    back.publish(TIME, &[cached.clone(), not_cached.clone()]);
    eventually(REFRESHED, "it is back", || shown(&configured.mounted) == all);
    reads(&configured.mounted, &not_cached.path, &not_cached);
}

fn ask(mounted: &Mounted, command: &str, more: &[&str]) -> (Option<i32>, String) {
    let mut process = Command::new(binary());
    let output = process.arg(command).args(more).arg("--control").arg(mounted.control()).output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn list_and_why_say_what_became_of_a_package() {
    if !can_mount() {
        return;
    }
    let [same, mine, bad] = [package("same-1", 9_000), package("mine-1", 9_000), package("bad-1", 9_000)];
    let other = package("mine-1", 12_000);
    let (one, two) =
        (Origin::with(&[same.clone(), mine.clone(), bad.clone()]), Origin::with(&[same.clone(), other.clone()]));
    one.script(&bad.path, [Act::Flip(3_000)]);
    let text = toml(&[("b-one", &one), ("a-two", &two)], "exclude = [\"app-misc/same:0\"]");
    let configured = configured(&text);
    let mounted = &configured.mounted;
    reads(mounted, &mine.path, &mine);
    assert_eq!(fs::read(mounted.path(&bad.path)).unwrap_err().raw_os_error(), EIO);
    eventually(REFRESHED, "the bad one is not shown", || !shown(mounted).contains(&bad.path));
    mounted.settled();

    let (code, text) = ask(mounted, "list", &[]);
    let below = format!("a-two/{}", other.path);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(
        lines.iter().map(|line| (line[0], line[3], line[4])).collect::<Vec<_>>(),
        [("-", below.as_str(), "a-two"), ("cached", mine.path.as_str(), "b-one"),]
    );

    for (atom, parts) in [
        (
            "mine",
            &[
                "app-misc/mine-1:0, build 1",
                "from b-one",
                "verified by the digests",
                "shown     at a-two/",
                "another binhost's",
            ][..],
        ),
        ("app-misc/bad", &["not shown refused: the package has MD5", "another chance", "cached    no"]),
        ("=app-misc/same-1", &["not shown the configuration (include, exclude) does not select it", "from a-two"]),
    ] {
        let (code, text) = ask(mounted, "why", &[atom]);
        assert!(code == Some(0) && parts.iter().all(|part| text.contains(part)), "{atom}: {text}");
    }
    let (code, text) = ask(mounted, "why", &["app-misc/nothing"]);
    assert!(code == Some(1) && text.contains("no binhost has such a package"), "{text}");
    let (code, text) = ask(mounted, "why", &["app-misc/x[use]"]);
    assert!(code == Some(2) && text.contains("[use]"), "{text}");
    let (code, text) = ask(mounted, "why", &["--json", "bad", "mine"]);
    let answer: Value = serde_json::from_str(&text).unwrap();
    let states: Vec<&str> =
        answer["packages"].as_array().unwrap().iter().map(|package| package["state"].as_str().unwrap()).collect();
    assert_eq!((code, states), (Some(0), vec!["left-out", "shown", "shown"]));
}

#[test]
fn a_binhost_in_place_of_another_delivers_at_once() {
    if !can_mount() {
        return;
    }
    let [mine, theirs] = [package("mine-1", 9_000), package("theirs-1", 9_000)];
    let (one, two) = (Origin::with(std::slice::from_ref(&mine)), Origin::with(std::slice::from_ref(&theirs)));
    let configured = configured(&toml(&[("one", &one)], ""));
    configured.write(&toml(&[("two", &two)], ""));
    let mut seen = Vec::new();
    eventually(REFRESHED, "the other binhost", || {
        seen.push(shown(&configured.mounted));
        seen.last().unwrap() == &[&*theirs.path]
    });
    assert!(seen.iter().all(|paths| paths.len() == 1), "Portage saw nothing for a while: {seen:?}");
    reads(&configured.mounted, &theirs.path, &theirs);
}

#[test]
fn each_mirror_of_a_quorum_may_be_away() {
    if !can_mount() {
        return;
    }
    let all = [package("a-1", 9_000), package("b-1", 9_000)];
    let origins: Vec<Origin> = (0..3).map(|_| Origin::with(&all)).collect();
    let toml = |mirrors: [&Origin; 2], more: &str| {
        let mirrors: Vec<String> = mirrors.iter().map(|mirror| format!("\"{}\"", mirror.url())).collect();
        format!("{}mirrors = [{}]\nquorum = 3\n", toml(&[("one", &origins[0])], more), mirrors.join(", "))
    };
    let mut configured = configured(&toml([&origins[1], &origins[2]], ""));
    let paths = [&*all[0].path, &*all[1].path];
    eventually(REFRESHED, "all agree", || shown(&configured.mounted) == paths);
    let requests = |origin: &Origin| origin.asked("Packages.gz").len();
    // The one that the index comes from goes silent: another's takes its place, and its own vote stays.
    origins[0].script("Packages.gz", [Act::Status(503, Vec::new())]);
    origins[2].script("Packages.gz", [Act::Status(503, Vec::new())]);
    let before = requests(&origins[1]);
    eventually(REFRESHED, "the second is asked", || requests(&origins[1]) > before + 2);
    assert_eq!(shown(&configured.mounted), paths);
    // Their order says nothing of what they have.
    configured.write(&toml([&origins[2], &origins[1]], ""));
    let before = requests(&origins[1]);
    eventually(REFRESHED, "the second is asked", || requests(&origins[1]) > before + 2);
    assert_eq!(shown(&configured.mounted), paths);
    configured.mounted.stop();
    configured.mounted.start();
    assert_eq!(shown(&configured.mounted), paths);
}

#[test]
fn a_damaged_vote_is_asked_for_again() {
    if !can_mount() {
        return;
    }
    let package = package("a-1", 9_000);
    let (one, two) = (Origin::with(std::slice::from_ref(&package)), Origin::with(std::slice::from_ref(&package)));
    let mut mounted =
        Options::new(one.url()).with(["--mirror", &two.url(), "--quorum", "2", "--refresh", "1s"]).mount();
    eventually(REFRESHED, "both have it", || shown(&mounted) == [&*package.path]);
    mounted.stop();
    let mut damaged = 0;
    for index in fs::read_dir(mounted.cache().join("v1/index")).unwrap() {
        for vote in fs::read_dir(index.unwrap().path().join("votes")).unwrap().map(|vote| vote.unwrap().path()) {
            if vote.extension().is_some_and(|extension| extension == "digests") {
                fs::write(vote, "").unwrap();
                damaged += 1;
            }
        }
    }
    assert_eq!(damaged, 1);
    mounted.start();
    eventually(REFRESHED, "it is asked whole", || shown(&mounted) == [&*package.path]);
}

/// When each file below a directory was written.
fn written(directory: &Path) -> Vec<(PathBuf, SystemTime)> {
    let mut all = Vec::new();
    for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        match path.is_dir() {
            true => all.extend(written(&path)),
            false => all.push((path.clone(), path.metadata().unwrap().modified().unwrap())),
        }
    }
    all.sort();
    all
}

#[test]
fn nothing_is_written_or_said_while_nothing_changes() {
    if !can_mount() {
        return;
    }
    let [mine, theirs] = [package("mine-1", 9_000), package("theirs-1", 9_000)];
    let origins: Vec<Origin> = (0..3).map(|_| Origin::with(std::slice::from_ref(&mine))).collect();
    // One that cannot say that nothing has changed, and one that is gone.
    origins.iter().take(2).for_each(|origin| origin.script("Packages.gz", [Act::Whole]));
    let away = Origin::with(std::slice::from_ref(&theirs));
    let text = toml(&[("away", &away), ("one", &origins[0])], "offline = \"hide\"");
    let mirrors = format!("mirrors = [\"{}\", \"{}\"]\nquorum = 2\n", origins[1].url(), origins[2].url());
    let configured = configured(&(text + &mirrors));
    let mounted = &configured.mounted;
    eventually(REFRESHED, "they agree", || shown(mounted) == [&*mine.path, &*theirs.path]);
    let _reserved = away.address();
    drop(away);
    origins[2].script("Packages.gz", [Act::Status(500, Vec::new())]);
    eventually(REFRESHED, "it is away", || shown(mounted) == [&*mine.path]);
    let refreshed = |times| {
        let before = mounted.counter("failed_refreshes");
        eventually(REFRESHED, "refreshes", || mounted.counter("failed_refreshes") >= before + times);
    };
    refreshed(4);
    let state = || ["index", "generations"].map(|name| written(&mounted.cache().join("v1").join(name)));
    let (before, said) = (state(), mounted.log().lines().count());
    refreshed(4);
    assert_eq!(state(), before);
    assert_eq!(mounted.log().lines().count(), said, "{}", mounted.log());
}

#[test]
fn keys_that_come_after_the_configuration_are_taken() {
    if !can_mount() {
        return;
    }
    let Some(gpg) = gpg() else { return };
    let package = package("mine-1", 9_000);
    let origin = Origin::with(std::slice::from_ref(&package));
    let place = tempfile::tempdir().unwrap();
    let key = place.path().join("keys/key.asc");
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    fs::write(file.path(), toml(&[("one", &origin)], "verify-signature = false")).unwrap();
    let mounted = Options::configured(file.path()).with(["--keyring", key.to_str().unwrap()]).mount();
    let configured = Configured { file, mounted };
    configured.write(&toml(&[("one", &origin)], "exclude = [\"*/mine\"]"));
    eventually(REFRESHED, "there is no key", || configured.mounted.status()["misconfigured"].is_string());
    assert_eq!(shown(&configured.mounted), [&*package.path]);
    fs::create_dir(key.parent().unwrap()).unwrap();
    fs::write(&key, gpg.export(&[&gpg.key("key", "ed25519", "sign", "0", None)])).unwrap();
    eventually(REFRESHED, "they are taken", || configured.mounted.status()["misconfigured"].is_null());
    assert!(shown(&configured.mounted).is_empty());
    // The name that an emerge has read before is held to them too.
    assert_eq!(fs::read(configured.mounted.path(&package.path)).unwrap_err().raw_os_error(), EIO);
}
