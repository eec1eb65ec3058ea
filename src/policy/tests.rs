use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;

use proptest::prelude::*;

use super::*;
use crate::index::{Index, IndexRenderer};

/// An index of `stanzas`, which have no SIZE and MD5 of their own.
fn input(name: &str, binhost: u32, stanzas: &[String]) -> UnionMember {
    let mut text = "VERSION: 0\nREPO: gentoo\n\n".to_owned();
    stanzas.iter().for_each(|stanza| text += &format!("{stanza}\n\n"));
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let part = BinhostIndex { binhost: BinhostId(binhost), index: Arc::new(Index::parse(file).unwrap()) };
    let (hidden, selection, formats) = Default::default();
    UnionMember { name: name.to_owned(), part, hidden, selection, formats, here: None }
}

fn entry(cpv: &str, path: &str, content: u8, more: &str) -> String {
    format!("CPV: {cpv}\nPATH: {path}\nSIZE: 5\nMD5: {:032x}\nMTIME: 7\n{more}", content).trim_end().to_owned()
}

fn shown(inputs: &[UnionMember], rules: &Rules) -> (Vec<String>, Vec<EntryCounts>) {
    let Union { view, tallies } = compose(inputs, rules).unwrap();
    let rows = (0..view.len() as u32).map(|row| format!("{} of {}", view.path(row), view.part(row).unwrap().binhost.0));
    (rows.collect(), tallies.into_iter().map(|(_, tally)| tally).collect())
}

fn atoms(atoms: &[&str]) -> Vec<crate::portage::Atom> {
    atoms.iter().map(|atom| atom.parse().unwrap()).collect()
}

#[test]
fn the_preferred_binhost_wins_and_other_builds_stand_beside_it() {
    let one =
        input("one", 1, &[entry("a/b-1", "a/b-1-1.xpak", 1, "BUILD_ID: 1"), entry("a/c-1", "a/c-1-1.xpak", 2, "")]);
    let two = input(
        "two",
        2,
        &[
            // The same package, and one that Portage cannot distinguish from it.
            entry("a/b-1", "elsewhere/b-1-1.xpak", 1, "BUILD_ID: 1"),
            entry("a/c-1", "a/c-1-2.xpak", 9, ""),
            // Another build at a free path, and one at an occupied path.
            entry("a/b-1", "a/b-1-2.xpak", 3, "BUILD_ID: 2"),
            entry("a/c-1", "a/c-1-1.xpak", 4, "BUILD_ID: 7"),
            entry("a/d-1", "a/b-1-1.xpak/d.xpak", 5, ""),
        ],
    );
    let (rows, tallies) = shown(&[one, two], &Rules::default());
    let expected = [
        "a/b-1-1.xpak of 1",
        "a/b-1-2.xpak of 2",
        "a/c-1-1.xpak of 1",
        "two/a/b-1-1.xpak/d.xpak of 2",
        "two/a/c-1-1.xpak of 2",
    ];
    assert_eq!(rows, expected);
    assert_eq!((tallies[0].shown, tallies[0].shadowed), (2, 0));
    assert_eq!((tallies[1].shown, tallies[1].moved, tallies[1].shadowed), (3, 2, 2));
}

#[test]
fn what_is_left_out_gives_way_to_the_next_binhost() {
    let entries = [entry("a/b-1", "b.xpak", 1, ""), entry("a/c-1", "c.xpak", 2, "SLOT: 5")];
    let (mut one, two) = (input("one", 1, &entries), input("two", 2, &entries));
    one.hidden = one.part.index.records().iter().take(1).map(|record| record.id).collect();
    one.selection = Selection { include: Vec::new(), exclude: atoms(&["a/c:5"]) };
    let (rows, tallies) = shown(&[one, two], &Rules::default());
    assert_eq!(rows, ["b.xpak of 2", "c.xpak of 2"]);
    assert_eq!((tallies[0].hidden, tallies[0].filtered, tallies[0].shown), (1, 1, 0));
}

#[test]
fn a_binhost_of_which_all_is_hidden_says_nothing_in_the_header() {
    let inputs = || {
        [1, 2].map(|binhost| input("x", binhost, &[entry("a/b-1", "b.xpak", 1, ""), entry("a/c-1", "c.xpak", 2, "")]))
    };
    let repository = |inputs: &[UnionMember]| {
        compose(inputs, &Rules::default()).unwrap().view.header().repository().map(str::to_owned)
    };
    let hide = |input: &mut UnionMember, count: usize| {
        input.hidden = input.part.index.records().iter().take(count).map(|record| record.id).collect();
    };
    let [mut one, mut two] = inputs();
    hide(&mut one, 2);
    // An entry that a preferred binhost has as well is shadowed, not hidden.
    assert_eq!(repository(&inputs()), Some("gentoo".to_owned()));
    hide(&mut two, 1);
    assert_eq!(repository(&[one, two]), Some("gentoo".to_owned()));
    let [mut one, mut two] = inputs();
    [&mut one, &mut two].into_iter().for_each(|input| hide(input, 2));
    assert_eq!(repository(&[one, two]), None);
}

#[test]
fn a_selection_holds_for_one_binhost_or_for_all() {
    let entries = [
        entry("app-misc/a-1", "a.xpak", 1, ""),
        entry("app-misc/b-2", "b.xpak", 2, "REPO: own"),
        entry("dev-libs/c-3", "c.xpak", 3, ""),
    ];
    let select = |global: Selection, own: Selection| {
        let mut only = input("one", 1, &entries);
        only.selection = own;
        shown(&[only], &Rules { selection: global, ..Rules::default() }).0
    };
    let include = |list: &[&str]| Selection { include: atoms(list), exclude: Vec::new() };
    let exclude = |list: &[&str]| Selection { include: Vec::new(), exclude: atoms(list) };
    assert_eq!(select(include(&["app-misc/*"]), Selection::default()), ["a.xpak of 1", "b.xpak of 1"]);
    assert_eq!(select(Selection::default(), exclude(&["app-misc/*"])), ["c.xpak of 1"]);
    assert_eq!(select(include(&["app-misc/*"]), exclude(&[">=app-misc/b-2"])), ["a.xpak of 1"]);
    assert_eq!(select(include(&["*/*::own"]), Selection::default()), ["b.xpak of 1"]);
    assert_eq!(select(include(&["*/*::gentoo"]), Selection::default()), ["a.xpak of 1", "c.xpak of 1"]);
}

#[test]
fn what_cannot_be_signed_gives_way_where_it_has_to_be() {
    let paths = ["a.xpak", "b.tbz2", "c.gpkg.tar"];
    let entries: Vec<String> =
        paths.iter().zip(1..).map(|(path, at)| entry(&format!("a/p{at}-1"), path, at, "")).collect();
    let host = |name, binhost, formats| UnionMember { formats, ..input(name, binhost, &entries) };
    let (rows, tallies) = shown(&[host("one", 1, Formats::Signed), host("two", 2, Formats::All)], &Rules::default());
    assert_eq!(rows, ["a.xpak of 2", "b.tbz2 of 2", "c.gpkg.tar of 1"]);
    assert_eq!((tallies[0].unsigned_format, tallies[1].shadowed), (2, 1));
}

#[test]
fn only_what_is_here_while_a_binhost_is_away() {
    let mut one = input("one", 1, &[entry("a/b-1", "b.xpak", 1, ""), entry("a/c-1", "c.xpak", 2, "")]);
    let here = one.part.index.records()[1].id;
    one.here = Some(Box::new(move |record| record.id == here));
    let (rows, tallies) = shown(&[one], &Rules::default());
    assert_eq!((rows, tallies[0].offline), (vec!["c.xpak of 1".to_owned()], 1));
}

#[test]
fn the_guard_names_the_newest_libc_of_that_time() {
    let needs = "REQUIRES: x86_64: libc.so.6 libm.so.6\n";
    let host = input(
        "one",
        1,
        &[
            entry("sys-libs/glibc-2.39-r9", "g1.xpak", 1, "BUILD_TIME: 300"),
            entry("sys-libs/glibc-2.40", "g2.xpak", 2, "BUILD_TIME: 200\nREQUIRES: x86_64: libc.so.6"),
            entry("sys-libs/glibc-2.41", "g3.xpak", 3, "BUILD_TIME: 400"),
            entry("sys-libs/musl-1.2.5", "m.xpak", 4, "BUILD_TIME: 100"),
            entry("a/early-1", "early.xpak", 5, &format!("{needs}BUILD_TIME: 199")),
            entry("a/middle-1", "middle.xpak", 6, &format!("{needs}BUILD_TIME: 300\nRDEPEND: dev-libs/x")),
            entry("a/late-1", "late.xpak", 7, &format!("{needs}BUILD_TIME: 500")),
            entry(
                "a/knows-1",
                "knows.xpak",
                8,
                &format!("{needs}BUILD_TIME: 500\nRDEPEND: >=sys-libs/glibc-2.38:2.2="),
            ),
            entry("a/other-1", "other.xpak", 9, &format!("{needs}BUILD_TIME: 500\nRDEPEND: sys-libs/glibc-tools")),
            entry(
                "a/any-1",
                "any.xpak",
                13,
                &format!("{needs}BUILD_TIME: 500\nRDEPEND: sys-libs/glibc:2.2 !<sys-libs/glibc-2.40"),
            ),
            entry("a/script-1", "script.xpak", 10, "BUILD_TIME: 500"),
            entry("a/musl-1", "musl.xpak", 11, "REQUIRES: x86_64: libc.so\nBUILD_TIME: 500"),
            entry("a/timeless-1", "timeless.xpak", 12, needs),
        ],
    );
    let Union { view, tallies } = compose(&[host], &Rules { libc_guard: LibcGuard::On, ..Rules::default() }).unwrap();
    let added: BTreeMap<&str, &str> =
        (0..view.len() as u32).filter_map(|row| Some((view.path(row), view.dependency(row)?))).collect();
    let expected = BTreeMap::from([
        ("middle.xpak", ">=sys-libs/glibc-2.40"),
        ("late.xpak", ">=sys-libs/glibc-2.41"),
        ("other.xpak", ">=sys-libs/glibc-2.41"),
        ("any.xpak", ">=sys-libs/glibc-2.41"),
        ("musl.xpak", ">=sys-libs/musl-1.2.5"),
    ]);
    assert_eq!(added, expected);
    assert_eq!(tallies[0].1.libc_guarded, 5);
}

#[test]
fn any_number_of_binhosts() {
    let host = |number: u32| {
        let cpv = format!("a/p{number}-1");
        input(&format!("host{number}"), number, &[entry(&cpv, "p.xpak", number as u8, "")])
    };
    let inputs: Vec<UnionMember> = (0..300).map(host).collect();
    let (rows, tallies) = shown(&inputs, &Rules::default());
    assert_eq!((rows.len(), tallies.len()), (300, 300));
    assert!(rows.contains(&"p.xpak of 0".to_owned()) && rows.contains(&"host299/p.xpak of 299".to_owned()));
}

/// Entries of a few packages at a few paths, so that they conflict.
fn some_entries() -> impl Strategy<Value = Vec<String>> {
    let path = "[ab](/[ab]){0,2}\\.xpak(/[ab]\\.xpak)?";
    let one = ("a/[bc]-[12]", path, 0_u8..6, 0_u8..3);
    prop::collection::vec(one, 0..8).prop_map(|all| {
        let text = |(cpv, path, content, build): (String, String, u8, u8)| {
            entry(&cpv, &path, content, &format!("BUILD_ID: {build}"))
        };
        all.into_iter().map(text).collect()
    })
}

proptest! {
    #[test]
    fn whatever_is_united(hosts in prop::collection::vec(some_entries(), 1..4)) {
        let inputs: Vec<UnionMember> =
            hosts.iter().zip(0..).map(|(entries, at)| input(["one", "a", "b.xpak"][at as usize], at, entries)).collect();
        let Union { view, tallies } = compose(&inputs, &Rules::default()).unwrap();
        let again = compose(&inputs, &Rules::default()).unwrap().view;
        prop_assert_eq!(view.fingerprint(), again.fingerprint());

        // One entry a path, and no path below another; one entry an instance key; every entry can
        // be read.
        let paths: BTreeSet<&str> = (0..view.len() as u32).map(|row| view.path(row)).collect();
        prop_assert_eq!(paths.len(), view.len());
        for path in &paths {
            prop_assert!(path.match_indices('/').all(|(at, _)| !paths.contains(&path[..at])), "{:?}", paths);
        }
        let mut instances = BTreeSet::new();
        for row in 0..view.len() as u32 {
            prop_assert!(instances.insert(view.entry(row).unwrap().instance()));
        }
        // Portage reads exactly these entries, and every hidden entry is counted.
        let mut text = tempfile::tempfile().unwrap();
        IndexRenderer::of(&view).render(&mut text, 42).unwrap();
        let parsed = Index::parse(text).unwrap();
        prop_assert_eq!(parsed.dropped().total(), 0);
        prop_assert_eq!(parsed.records().iter().map(|record| parsed.path(record)).collect::<BTreeSet<_>>(), paths);
        for ((_, tally), input) in tallies.iter().zip(&inputs) {
            let EntryCounts { shown, hidden, unsigned_format, filtered, offline, shadowed, path_conflict, .. } = tally;
            let all = shown + hidden + unsigned_format + filtered + offline + shadowed + path_conflict;
            prop_assert_eq!(all as usize, input.part.index.records().len());
        }
        // The first binhost is shown whole, at its own paths.
        prop_assert_eq!((tallies[0].1.shown as usize, tallies[0].1.moved), (inputs[0].part.index.records().len(), 0));

        // The choice that Portage has does not depend on the order of the binhosts, as long as
        // every entry gets a path.
        let (mut turned, first) = (inputs, tallies);
        turned.reverse();
        let Union { view: other, tallies } = compose(&turned, &Rules::default()).unwrap();
        if first.iter().chain(&tallies).all(|(_, tally)| tally.path_conflict == 0) {
            let others: BTreeSet<_> = (0..other.len() as u32).map(|row| other.entry(row).unwrap().instance()).collect();
            prop_assert_eq!(instances, others);
        }
    }
}
