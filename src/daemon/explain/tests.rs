use std::fs;
use std::io::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use tempfile::TempDir;

use super::*;
use crate::cache::Pin;
use crate::config::{BinhostConfig, OnMismatch, Selection};
use crate::index::{BinhostId, BinhostIndex, IndexRenderer, Record, View};
use crate::local::LowerDirectory;
use crate::metrics::Metrics;
use crate::policy::Formats;
use crate::tree::{PackagesFile, Tree};
use crate::upstream::Upstream;
use crate::verify::Policy;

type Binhost = (UnionMember, BinhostContext);

/// A machine with a lower directory and Portage's files, and a daemon without any download.
struct Scene {
    place: TempDir,
    cache: Arc<Cache>,
    fetcher: Arc<Fetcher>,
    remote: Arc<RemoteBinhost>,
}

impl Scene {
    fn new() -> Self {
        let place = TempDir::new().unwrap();
        ["pkgdir/a", "scratch", "root"].iter().for_each(|path| fs::create_dir_all(place.path().join(path)).unwrap());
        let metrics = Arc::<Metrics>::default();
        let cache = Arc::new(Cache::open(&place.path().join("cache"), 1 << 20, Arc::clone(&metrics)).unwrap());
        let (fetcher, _) = Fetcher::new(Arc::clone(&cache), Arc::clone(&metrics));
        let config = BinhostConfig::of_urls(&["http://host.test".to_owned()]);
        let upstream = Arc::new(Upstream::new(config, metrics, None).unwrap());
        let remote = RemoteBinhost::new("host".to_owned(), upstream, Policy::digests_only(), OnMismatch::Refuse);
        Self { place, cache, fetcher, remote: Arc::new(remote) }
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.place.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A binhost with these entries. At least two of its URLs have to say the same of each.
    fn binhost(&self, name: &str, number: u32, stanzas: &[String]) -> Binhost {
        let text: String = stanzas.iter().map(|stanza| format!("{stanza}\n\n")).collect();
        let mut file = tempfile::tempfile().unwrap();
        write!(file, "VERSION: 0\nREPO: gentoo\n\n{text}").unwrap();
        let part = BinhostIndex { binhost: BinhostId(number), index: Arc::new(Index::parse(file).unwrap()) };
        let (hidden, selection, formats) = Default::default();
        let member = UnionMember { name: name.to_owned(), part, hidden, selection, formats, here: None };
        let (refused, mismatched) = Default::default();
        let remote = Arc::clone(&self.remote);
        let context = BinhostContext { name: name.to_owned(), remote, refused, mismatched, quorum: 2, nowhere: None };
        (member, context)
    }

    /// What the daemon publishes of these binhosts.
    fn explained(&self, binhosts: Vec<Binhost>) -> (Arc<Explained>, Machine) {
        let (inputs, beside): (Vec<_>, Vec<_>) = binhosts.into_iter().unzip();
        let rules = Arc::new(Rules::default());
        let view = Arc::new(policy::compose(&inputs, &rules).unwrap().view);
        let file = tempfile::tempfile().unwrap();
        let rendered = IndexRenderer::of(&view).render(&file, 1000).unwrap();
        let tree = Arc::new(Tree::new(1, view, PackagesFile { content: Arc::new(file).into(), rendered }));
        let layer = Arc::new(LowerDirectory::open(&self.place.path().join("pkgdir"), false).unwrap());
        let front = Arc::new(PublishedTree::new(tree, layer, self.place.path().join("scratch")).unwrap());
        let (cache, fetcher) = (Arc::clone(&self.cache), Arc::clone(&self.fetcher));
        let explained = Explained { inputs, beside, rules, cache, fetcher, indexless: None, newer: Vec::new() };
        (Arc::new(explained), Machine { front, root: self.place.path().join("root") })
    }

    async fn answer(&self, binhosts: Vec<Binhost>, atoms: &[&str]) -> Vec<PackageStatus> {
        let (explained, machine) = self.explained(binhosts);
        let failures = HashMap::from([("a/shown-1.gpkg.tar".to_owned(), "HTTP status 500".to_owned())]);
        let atoms = atoms.iter().map(|atom| atom.parse().unwrap()).collect();
        explained.answer(atoms, failures, machine).await.unwrap()
    }
}

/// An entry in the directory of the category, whose package has these bytes.
fn entry(cpv: &str, content: u8, more: &str) -> String {
    entry_at(&format!("{cpv}.gpkg.tar"), cpv, content, more)
}

fn entry_at(path: &str, cpv: &str, content: u8, more: &str) -> String {
    format!("CPV: {cpv}\nMD5: {content:032x}\nMTIME: 7\nPATH: {path}\nSIZE: 5\n{more}").trim_end().to_owned()
}

/// The identity of the entry with this PATH.
fn id((member, _): &Binhost, path: &str) -> EntryId {
    let index = &member.part.index;
    index.records().iter().find(|record| index.path(record) == path).unwrap().id
}

/// Two binhosts and a lower directory in which each reason to hide an entry occurs.
fn with_all_reasons(scene: &Scene) -> Vec<Binhost> {
    scene.write("pkgdir/a/local-1.gpkg.tar", "unlisted");
    scene.write("pkgdir/a/twin-1.xpak", "local");
    let twin = fs::File::options().write(true).open(scene.place.path().join("pkgdir/a/twin-1.xpak")).unwrap();
    twin.set_modified(UNIX_EPOCH + Duration::from_secs(7)).unwrap();
    scene.write("pkgdir/Packages", "VERSION: 0\n\nCPV: a/twin-1\nMTIME: 7\nPATH: a/twin-1.xpak\nSIZE: 5\n\n");
    let names = ["shown", "refused", "mismatch", "disputed", "filtered", "offline", "local", "target"];
    let mut stanzas: Vec<String> =
        names.iter().zip(1..).map(|(name, content)| entry(&format!("a/{name}-1"), content, "")).collect();
    stanzas.push(entry_at("a/unsigned-1.xpak", "a/unsigned-1", 20, ""));
    stanzas.push(entry_at("two/a/shown-1.gpkg.tar", "a/taken-1", 21, ""));
    stanzas.push(entry_at("b/twin-1.gpkg.tar", "a/twin-1", 22, ""));
    stanzas.push("CPV: a/dropped-1\nPATH: a/dropped-1.gpkg.tar\nSIZE: 5".to_owned());
    let mut one = scene.binhost("one", 1, &stanzas);
    let [refused, mismatch, disputed, offline] =
        ["refused", "mismatch", "disputed", "offline"].map(|name| id(&one, &format!("a/{name}-1.gpkg.tar")));
    let (member, context) = (&mut one.0, &mut one.1);
    member.hidden = HashSet::from([refused, mismatch, disputed]);
    context.refused.insert(refused, (HiddenReason::Refused, "its bytes are wrong".to_owned()));
    context.refused.insert(mismatch, (HiddenReason::Mismatch, "its SLOT is another".to_owned()));
    member.selection = Selection { include: Vec::new(), exclude: vec!["a/filtered".parse().unwrap()] };
    member.formats = Formats::Signed;
    member.here = Some(Box::new(move |record: &Record| record.id != offline));
    let two = [
        entry_at("b/shown-1.gpkg.tar", "a/shown-1", 1, ""),
        entry_at("a/shown-1.gpkg.tar", "a/conflict-1", 30, ""),
        entry_at("a/target-1.gpkg.tar", "a/moved-1", 31, ""),
    ];
    vec![one, scene.binhost("two", 2, &two)]
}

#[tokio::test]
async fn each_entry_is_shown_or_hidden_for_a_reason() {
    let scene = Scene::new();
    let binhosts = with_all_reasons(&scene);
    let found = scene.answer(binhosts, &["*/*"]).await;
    let expected = [
        ("a/conflict-1", "two", Some(HiddenReason::PathConflict), "its path is taken, and so is that below"),
        ("a/disputed-1", "one", Some(HiddenReason::Disputed), "fewer than 2 URLs of one say the same"),
        ("a/dropped-1", "one", Some(HiddenReason::Dropped), "is not fit for use"),
        ("a/filtered-1", "one", Some(HiddenReason::Filtered), "(include, exclude) does not select it"),
        ("a/local-1", "one", Some(HiddenReason::Local), "a local file is at its path"),
        ("a/mismatch-1", "one", Some(HiddenReason::Mismatch), "its SLOT is another; `binhostfs refresh`"),
        ("a/moved-1", "two", None, "another binhost's package is at its path"),
        ("a/offline-1", "one", Some(HiddenReason::Offline), "one is away, and it is not in the cache"),
        ("a/refused-1", "one", Some(HiddenReason::Refused), "its bytes are wrong; `binhostfs refresh`"),
        ("a/shown-1", "one", None, ""),
        ("a/shown-1", "two", Some(HiddenReason::Shadowed), "a preferred binhost has the same one"),
        ("a/taken-1", "one", None, ""),
        ("a/target-1", "one", None, ""),
        ("a/twin-1", "", None, ""),
        ("a/twin-1", "one", Some(HiddenReason::Local), "cannot tell it from a local package"),
        ("a/unsigned-1", "one", Some(HiddenReason::UnsignedFormat), "XPAK packages cannot be signed"),
    ];
    let names: Vec<(&str, &str)> = found.iter().map(|status| (status.cpv.as_str(), status.binhost.as_str())).collect();
    assert_eq!(names, expected.map(|(cpv, binhost, ..)| (cpv, binhost)));
    for (status, (cpv, binhost, hidden, reason)) in found.iter().zip(expected) {
        let state = if hidden.is_none() { PackageState::Shown } else { PackageState::LeftOut };
        assert_eq!((status.hidden, status.state), (hidden, state), "{cpv} of {binhost}");
        let said = status.reason.as_deref().unwrap_or_default();
        assert!(said.contains(reason) && said.is_empty() == reason.is_empty(), "{cpv} of {binhost}: {said}");
        assert_eq!(status.local, binhost.is_empty(), "{cpv}");
    }
    // Where Portage finds it, and where the binhost has it.
    let path = |cpv: &str| found.iter().find(|status| status.cpv == cpv).map(|status| status.path.as_str());
    assert_eq!(path("a/moved-1"), Some("two/a/target-1.gpkg.tar"));
    assert_eq!(path("a/conflict-1"), Some("a/shown-1.gpkg.tar"));
    let failure = |cpv: &str| found.iter().find(|status| status.cpv == cpv).map(|status| status.failure.as_deref());
    assert_eq!((failure("a/shown-1"), failure("a/target-1")), (Some(Some("HTTP status 500")), Some(None)));
    // It would be at the path of the one that failed.
    assert_eq!(failure("a/conflict-1"), Some(None));
}

#[tokio::test]
async fn a_binhost_that_no_url_leads_to_says_why() {
    let scene = Scene::new();
    let mut binhost = scene.binhost("one", 1, &[entry("a/b-1", 1, "")]);
    binhost.0.here = Some(Box::new(|_: &Record| false));
    binhost.1.nowhere = Some("its index names ftp://x".to_owned());
    let found = scene.answer(vec![binhost], &[]).await;
    assert_eq!(found.len(), 1);
    let said = (found[0].hidden, found[0].reason.as_deref());
    assert_eq!(said, (Some(HiddenReason::Offline), Some("its index names ftp://x")));
}

#[tokio::test]
async fn atoms_select_and_without_any_all_is_listed_and_nothing_is_judged() {
    let scene = Scene::new();
    let stanzas = [
        entry_at("a/b-1-2.gpkg.tar", "a/b-1", 1, "BUILD_ID: 2\nSLOT: 5\nEAPI: 77"),
        entry_at("a/b-1-1.gpkg.tar", "a/b-1", 2, "BUILD_ID: 1\nIUSE: +nls -doc\nUSE: nls amd64"),
        entry_at("x/c.gpkg.tar", "a/c-1", 3, "REPO: own"),
        "CPV: a/d-1\nPATH: a/d-1.gpkg.tar\nSIZE: 5".to_owned(),
    ];
    let ask = async |atoms: &[&str]| {
        let found = scene.answer(vec![scene.binhost("one", 1, &stanzas)], atoms).await;
        found.into_iter().map(|status| (status.path, status.rejected.len())).collect::<Vec<_>>()
    };
    let paths = |paths: &[(&str, usize)]| {
        paths.iter().map(|(path, rejected)| ((*path).to_owned(), *rejected)).collect::<Vec<_>>()
    };
    let all = [("a/b-1-1.gpkg.tar", 0), ("a/b-1-2.gpkg.tar", 0), ("x/c.gpkg.tar", 0)];
    assert_eq!(ask(&[]).await, paths(&all));
    assert_eq!(ask(&["a/b"]).await, paths(&[all[0], ("a/b-1-2.gpkg.tar", 1)]));
    assert_eq!(ask(&["a/b:5", "*/*::own"]).await, paths(&[("a/b-1-2.gpkg.tar", 1), all[2]]));
    assert_eq!(ask(&["a/d"]).await, paths(&[("a/d-1.gpkg.tar", 0)]));
    assert!(ask(&["a/none"]).await.is_empty());
    let found = scene.answer(vec![scene.binhost("one", 1, &stanzas)], &["=a/b-1:0"]).await;
    let [status] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((status.build_id, status.slot.as_str(), status.size), (Some(1), "0", 5));
    assert_eq!((status.use_flags.as_str(), status.use_needed.as_deref()), ("nls amd64", Some("nls -doc")));
}

#[tokio::test]
async fn an_answer_has_what_the_daemon_knows_of_the_package() {
    let scene = Scene::new();
    let mut binhost = scene.binhost("one", 1, &[entry("a/b-1", 1, ""), entry("a/c-1", 2, "")]);
    let own = id(&binhost, "a/b-1.gpkg.tar");
    binhost.1.mismatched.insert(own, "its USE is another".to_owned());
    scene.cache.pins().add(&[Pin::new(own, 5, "a/b-1.gpkg.tar")]).unwrap();
    scene.fetcher.add_binhost(BinhostId(1), Arc::clone(&scene.remote));
    let view = Arc::new(View::whole(BinhostId(1), Arc::clone(&binhost.0.part.index)));
    let row = view.row_at("a/b-1.gpkg.tar").unwrap();
    scene.fetcher.opened_by(&scene.fetcher.wanted(&view, row).unwrap(), std::process::id());
    let found = scene.answer(vec![binhost], &[]).await;
    let [known, other] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((known.state, known.pinned, known.cached), (PackageState::Shown, true, false));
    assert_eq!(known.index_mismatch.as_deref(), Some("its USE is another"));
    let caller = known.caller.as_ref().unwrap();
    assert!(caller.pid == std::process::id() && !caller.name.is_empty() && caller.time > 0, "{caller:?}");
    assert_eq!((other.pinned, &other.caller, &other.index_mismatch), (false, &None, &None));
}

#[tokio::test]
async fn the_nearest_build_that_emerge_can_have_is_named() {
    let scene = Scene::new();
    scene.write("root/etc/portage/make.profile/use.mask", "never\n");
    scene.write("root/etc/portage/make.conf", "ACCEPT_KEYWORDS=\"**\"\nUSE=\"nls\"\n");
    let build = |number: u8, flags: &str| {
        let more = format!("BUILD_ID: {number}\nIUSE: nls doc test\nUSE: {flags}");
        entry_at(&format!("a/b-1-{number}.gpkg.tar"), "a/b-1", number, &more)
    };
    let mut stanzas = vec![build(1, "nls doc test"), build(2, "nls doc"), build(3, "nls"), build(4, "test")];
    stanzas.push(entry("a/masked-1", 9, "IUSE: never\nUSE: never"));
    let mut binhost = scene.binhost("one", 1, &stanzas);
    // The one that fits is disputed.
    binhost.0.hidden = HashSet::from([id(&binhost, "a/b-1-3.gpkg.tar")]);
    let found = scene.answer(vec![binhost], &["a/*"]).await;
    let differs: Vec<String> = found.iter().map(|status| status.use_differs.as_ref().unwrap().join(" ")).collect();
    assert_eq!(differs, ["doc test", "doc", "", "-nls test", "never"]);
    let lines: Vec<Option<&str>> = found.iter().map(|status| status.package_use.as_deref()).collect();
    assert_eq!(lines, [None, Some("=a/b-1 doc"), None, None, None]);
    assert_eq!((found[1].rejected.len(), found[4].rejected.as_slice()), (0, &[FIXED.to_owned()][..]));
    assert!(found[1].causes.contains(&Cause::Use) && found[2].causes.is_empty(), "{found:?}");
}

#[tokio::test]
async fn the_whole_index_has_hidden_entries_and_the_published_one_has_not() {
    let scene = Scene::new();
    let (explained, machine) = scene.explained(with_all_reasons(&scene));
    let cpvs = |text: Vec<u8>| {
        let text = String::from_utf8(text).unwrap();
        let mut cpvs: Vec<String> =
            text.lines().filter_map(|line| line.strip_prefix("CPV: a/")).map(str::to_owned).collect();
        cpvs.sort();
        cpvs.join(" ")
    };
    assert_eq!(cpvs(shown_index(&machine.front).unwrap()), "moved-1 shown-1 taken-1 target-1 twin-1");
    assert_eq!(
        cpvs(explained.whole_index(&machine.front).unwrap()),
        "conflict-1 disputed-1 filtered-1 mismatch-1 moved-1 offline-1 refused-1 shown-1 taken-1 target-1 twin-1 unsigned-1"
    );
}

#[test]
fn flags_that_a_build_needs() {
    assert_eq!(needed("+nls -doc test", "nls x86").as_deref(), Some("nls -doc -test"));
    assert_eq!(needed("", "nls"), None);
}
