//! Mirrors that have to agree: not only on which packages there are, but on all that Portage is told of them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::binhost::Assembled;
use crate::harness::portage::{Emerge, Nginx, binhost};
use crate::harness::{Act, Mounted, Options, Origin, Package, can_mount, eventually, index_of};

/// A refresh a second.
const REFRESHED: u64 = 30;
const TIME: u64 = 1_760_000_000;
const HELLO: &str = "app-misc/hello/hello-2.0-r1";

fn mount(liar: &str, honest: &str) -> Mounted {
    Options::new(liar).with(["--mirror", honest, "--quorum", "2", "--refresh", "1s"]).mount()
}

/// Waits until the index with this TIMESTAMP is in use, and the mirrors disagree on so many of its entries.
fn await_votes(mounted: &Mounted, timestamp: u64, disputed: u64) {
    let binhost = || mounted.status()["binhosts"][0].clone();
    let voted = |binhost: &Value| binhost["index_timestamp"] == timestamp && binhost["entries"]["disputed"] == disputed;
    let mut last = Value::Null;
    eventually(REFRESHED, &format!("{disputed} are disputed at {timestamp}"), || {
        last = binhost();
        voted(&last)
    });
}

/// Paths of what is listed, sorted.
fn shown(text: &str) -> Vec<&str> {
    let mut paths: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("PATH: ")).collect();
    paths.sort_unstable();
    paths
}

fn votes(mounted: &Mounted) -> Vec<PathBuf> {
    let index = fs::read_dir(mounted.cache().join("v1/index")).unwrap().next().unwrap().unwrap().path();
    fs::read_dir(index.join("votes")).unwrap().map(|vote| vote.unwrap().path()).collect()
}

/// What one mirror says otherwise than another: of the package, or in the header. `daemon::binhosts` has a test, without a
/// mount, of all keys that decide something.
const LIES: [(&str, &str, &str); 2] = [("entry", "RDEPEND", "app-misc/evil"), ("header", "IUSE_IMPLICIT", "evil")];

#[test]
fn one_mirror_alone_changes_nothing_that_is_said_of_a_package() {
    if !can_mount() {
        return;
    }
    let [plain, target, own] = ["plain-1", "target-1", "own-1"].map(|pf| Package::new(pf, 9_000));
    let all = [plain.clone(), target.clone()];
    let (liar, honest) = (Origin::with(&all), Origin::with(&all));
    let mut mounted = mount(&liar.url(), &honest.url());
    await_votes(&mounted, TIME, 0);
    fs::create_dir_all(mounted.path(&own.path).parent().unwrap()).unwrap();
    fs::write(mounted.path(&own.path), &own.bytes).unwrap();
    let text = || fs::read_to_string(mounted.path("Packages")).unwrap();
    eventually(REFRESHED, "the local package is listed", || text().contains(&own.path));
    for (timestamp, (place, key, value)) in (TIME + 1..).zip(LIES) {
        let truth = index_of(timestamp, &all);
        let lie = match place {
            // The last stanza is the target's.
            "entry" => format!("{}{key}: {value}\n\n", truth.trim_end_matches('\n').to_owned() + "\n"),
            _ => truth.replacen("VERSION: 0\n", &format!("{key}: {value}\nVERSION: 0\n"), 1),
        };
        honest.put_index(truth.as_bytes());
        liar.put_index(lie.as_bytes());
        let (disputed, agreed) = if place == "entry" { (1, Some(&plain)) } else { (2, None) };
        await_votes(&mounted, timestamp, disputed);
        let expected: Vec<&str> = [Some(&own), agreed].into_iter().flatten().map(|package| &*package.path).collect();
        eventually(REFRESHED, key, || shown(&text()) == expected);
        assert!(!text().to_lowercase().contains("evil"), "{key}: {}", text());
    }
    let end = TIME + 100;
    let twice = target.stanza().replace("MTIME: ", "RDEPEND: app-misc/evil\nMTIME: 1").replace("PATH: ", "PATH: more/");
    honest.publish(end, &all);
    liar.put_index((index_of(end, &all) + &twice).as_bytes());
    await_votes(&mounted, end, 1);
    assert!(!text().contains("evil"), "{}", text());

    // What decides nothing may differ.
    let described = index_of(end + 1, &all).replace("MTIME: ", "DESC: other\nMTIME: ");
    honest.publish(end + 1, &all);
    liar.put_index(described.as_bytes());
    await_votes(&mounted, end + 1, 0);
    eventually(REFRESHED, "all are agreed on", || shown(&text()).len() == 3);

    liar.put_index(index_of(end + 2, &all).replace("MTIME: ", "RDEPEND: app-misc/evil\nMTIME: ").as_bytes());
    honest.publish(end + 2, &all);
    await_votes(&mounted, end + 2, 2);
    let why = mounted.ask("GET", "/v1/packages?atom=app-misc/target").body;
    assert!(why.contains("fewer than 2 URLs of ") && why.contains("say the same of it"), "{why}");
    mounted.stop();
    mounted.start();
    let text = fs::read_to_string(mounted.path("Packages")).unwrap();
    assert_eq!(shown(&text), [&*own.path], "the votes outlive a restart");
}

#[test]
fn votes_of_an_earlier_version_do_not_count() {
    if !can_mount() {
        return;
    }
    let package = Package::new("one-1", 9_000);
    let (one, two) = (Origin::with(std::slice::from_ref(&package)), Origin::with(std::slice::from_ref(&package)));
    let mut mounted = mount(&one.url(), &two.url());
    await_votes(&mounted, TIME, 0);
    mounted.stop();
    // It kept only which packages there were, under this name.
    let has = |extension: &str| {
        let all = votes(&mounted).into_iter();
        all.filter(|vote| vote.extension().is_some_and(|other| other == extension)).collect::<Vec<_>>()
    };
    let [digests] = <[PathBuf; 1]>::try_from(has("digests")).unwrap();
    fs::rename(&digests, digests.with_extension("ids")).unwrap();
    two.script("Packages.gz", [Act::Status(503, Vec::new())]);
    mounted.start();
    assert!(mounted.listing().is_empty());
    assert!(votes(&mounted).iter().all(|vote| vote.extension().is_some_and(|extension| extension != "ids")));
    two.script("Packages.gz", [Act::Serve]);
    eventually(REFRESHED, "it is asked whole", || mounted.listing() == [&*package.path]);
}

/// A binhost in `place` with hello-1.0, one build of hello-2.0-r1 of which `said` is said, and what they need.
fn publish(place: &Path, source: &Path, timestamp: u64, build: u32, said: &[(&str, &str)]) {
    let hello = format!("{HELLO}-{build}.gpkg.tar");
    let assembled = Assembled::new(place.to_owned(), source).header("TIMESTAMP", &timestamp.to_string());
    let others = [
        "app-misc/hello/hello-1.0-1.gpkg.tar",
        "app-misc/many/many-1-1.gpkg.tar",
        "dev-libs/libfoo/libfoo-1.3.0-1.gpkg.tar",
        "sys-libs/glibc/glibc-2.41-2.gpkg.tar",
    ];
    let assembled = others.iter().fold(assembled, |assembled, path| assembled.take(source, path));
    assembled.take_as(source, &hello, &hello, said).publish();
}

#[test]
fn emerge_does_not_follow_one_mirror_alone() {
    let Some(source) = binhost("gpkg-multi") else { return };
    let [lying, honest] = [(); 2].map(|()| TempDir::with_prefix("binhostfs-it.").unwrap());
    let both = |timestamp: u64, build: u32, truth: &[(&str, &str)], lie: &[(&str, &str)]| {
        publish(honest.path(), &source, timestamp, build, truth);
        publish(lying.path(), &source, timestamp, build, &[truth, lie].concat());
    };
    both(TIME, 3, &[], &[]);
    let servers = [&lying, &honest].map(|place| Nginx::serve(place.path()));
    let mounted = mount(&servers[0].url(), &servers[1].url());
    // One that believes whoever lies.
    let credulous = Options::new(servers[0].url()).with(["--refresh", "1s"]).mount();
    await_votes(&mounted, TIME, 0);
    let emerge = Emerge::from(mounted.mountpoint());
    let plan = || emerge.plan(["app-misc/hello"]);
    assert!(plan().contains(&"binary app-misc/hello-2.0-r1-3".to_owned()), "{:?}", plan());
    for (timestamp, (build, truth, lie)) in (TIME + 1..).zip([
        (3, None, ("RDEPEND", "sys-libs/glibc app-misc/many")),
        (3, None, ("SLOT", "9")),
        // It was built without.
        (1, None, ("USE", "elibc_glibc kernel_linux nls")),
        (3, Some(("KEYWORDS", "~amd64")), ("KEYWORDS", "amd64")),
    ]) {
        both(timestamp, build, truth.as_slice(), &[lie]);
        await_votes(&mounted, timestamp, 1);
        eventually(REFRESHED, "it is not shown", || !mounted.listing().iter().any(|path| path.starts_with(HELLO)));
        let plan = plan();
        assert!(plan.contains(&"binary app-misc/hello-1.0-1".to_owned()), "{lie:?}: {plan:?}");
        assert!(!plan.iter().any(|line| line.contains("hello-2.0") || line.contains("many")), "{lie:?}: {plan:?}");
        await_votes(&credulous, timestamp, 0);
        eventually(REFRESHED, "it is shown", || credulous.listing().contains(&format!("{HELLO}-{build}.gpkg.tar")));
        let misled = Emerge::from(credulous.mountpoint()).plan(["app-misc/hello"]);
        assert!(misled.iter().any(|line| line.contains("hello-2.0")), "{lie:?}: {misled:?}");
        assert_eq!(misled.iter().any(|line| line.contains("many")), lie.0 == "RDEPEND", "{lie:?}: {misled:?}");
    }
    // The header changes Portage's own configuration.
    publish(honest.path(), &source, TIME + 9, 3, &[]);
    let header = Assembled::new(lying.path().to_owned(), &source).header("TIMESTAMP", &(TIME + 9).to_string());
    header.header("IUSE_IMPLICIT", "prefix evil").take_index(honest.path()).publish();
    await_votes(&mounted, TIME + 9, 5);
    eventually(REFRESHED, "nothing is shown", || mounted.listing().is_empty());
    let script = "import portage\n\
        tree = portage.db[portage.root]['bintree']\n\
        tree.populate()\n\
        print('merged', sorted(tree._pkgindex_header.items()))";
    let output = emerge.python(script, "-");
    let merged = output.lines().find(|line| line.starts_with("merged ")).unwrap_or_else(|| panic!("{output}"));
    assert!(!merged.contains("evil"), "{merged}");
}
