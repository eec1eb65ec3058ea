use std::collections::BTreeMap;
use std::io::Write as _;

use proptest::prelude::*;

use super::super::{Index, Stanza};
use super::*;

const PACKAGE: [(&str, &str); 20] = [
    ("BDEPEND", "b/d"),
    ("BUILD_ID", "3\n"),
    ("BUILD_TIME", "1700000000\n"),
    ("CHOST", "x86_64-pc-linux-gnu\n"),
    ("DEFINED_PHASES", "compile install\n"),
    ("DEPEND", "d/e:0=[nls?]"),
    ("EAPI", "8\n"),
    ("IDEPEND", "i/d"),
    ("IUSE", "+nls doc\n"),
    ("KEYWORDS", "amd64 ~arm64\n"),
    ("LICENSE", "|| ( GPL-2 doc? ( FDL ) )\n"),
    ("PDEPEND", "p/d"),
    ("PROPERTIES", "interactive\n"),
    ("PROVIDES", "x86_64: libx.so.1\n"),
    ("RDEPEND", "r/a\n\tnls? ( || ( r/b doc? ( r/c ) r/d ) )\n"),
    ("repository", "gentoo\n"),
    ("REQUIRES", "x86_64: libc.so.6\n"),
    ("RESTRICT", "!doc? ( test )\n"),
    ("SLOT", "2/3\n"),
    ("USE", "amd64 nls\n"),
];

const ENTRY: &str = "BDEPEND: b/d\nBUILD_ID: 3\nBUILD_TIME: 1700000000\nDEFINED_PHASES: compile install\n\
    DEPEND: d/e:0=[nls]\nEAPI: 8\nIDEPEND: i/d\nIUSE: +nls doc\nKEYWORDS: amd64 ~arm64\nLICENSE: GPL-2\nPDEPEND: p/d\n\
    PROPERTIES: interactive\nPROVIDES: x86_64: libx.so.1\nRDEPEND: r/a || ( r/b r/d )\nREPO: gentoo\n\
    REQUIRES: x86_64: libc.so.6\nRESTRICT: test\nSLOT: 2/3\nUSE: amd64 nls\n";

const GPKG: &str = "PATH: a/b-1.gpkg.tar\n";

fn values(pairs: &[(&str, &str)]) -> AuxValues {
    let pairs: BTreeMap<&str, &str> = pairs.iter().copied().collect();
    AuxValues::of_package(|key| pairs.get(key.name()).map(|value| value.as_bytes()))
}

fn index(header: &str, entries: &[&str]) -> Index {
    let mut text = format!("VERSION: 0\n{header}\n");
    for (at, entry) in entries.iter().enumerate() {
        text += &format!("CPV: a/b-{at}\nMD5: d41d8cd98f00b204e9800998ecf8427e\nSIZE: 5\n{entry}\n");
    }
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Index::parse(file).unwrap()
}

/// Compares an entry of the index, and checks that the digests agree with the result.
fn compared(package: &AuxValues, index: &Index, stanza: &Stanza) -> Comparison {
    let entry = EntryValues::of(stanza, index);
    let comparison = package.compare(&entry);
    match &comparison {
        Comparison::Mismatch(_) => assert!(!entry.agrees_with(package.digest())),
        Comparison::Equal => assert_eq!(entry.agrees_with(package.digest()), entry.compared == AuxKeys::ALL),
        Comparison::OtherForm(_) => {}
    }
    assert!(entry.agrees_with(entry.digest()));
    comparison
}

fn compare(package: &[(&str, &str)], header: &str, entry: &str) -> Comparison {
    let index = index(header, &[entry]);
    let stanza = index.stanza(&index.records()[0]).unwrap();
    compared(&values(package), &index, &stanza)
}

fn keys(comparison: &Comparison) -> Vec<AuxKey> {
    match comparison {
        Comparison::Mismatch(found) => found.iter().map(|found| found.key).collect(),
        _ => Vec::new(),
    }
}

const CHOST: &str = "CHOST: x86_64-pc-linux-gnu\n";

#[test]
fn an_entry_is_made_as_portage_makes_it() {
    assert_eq!(compare(&PACKAGE, CHOST, &(ENTRY.to_owned() + GPKG)), Comparison::Equal);
    assert_eq!(compare(&[], "", GPKG), Comparison::Equal);
    let nothing = values(&[("EAPI", " \n"), ("IUSE", "")]);
    assert_eq!((nothing.get(AuxKey::Eapi), nothing.get(AuxKey::Slot), nothing.get(AuxKey::Iuse)), ("0", "0", ""));
    let bytes = AuxValues::of_package(|_| Some(b"a\xffb\xe2\x82 c"));
    assert_eq!(bytes.get(AuxKey::Keywords), "a\u{fffd}b\u{fffd} c");
    // Portage refuses such a package; here only the identical text is equal.
    let odd = [("RDEPEND", "a/b )")];
    assert_eq!(compare(&odd, "", &format!("RDEPEND: a/b )\n{GPKG}")), Comparison::Equal);
    assert_eq!(keys(&compare(&odd, "", &format!("RDEPEND: a/b\n{GPKG}"))), [AuxKey::Rdepend]);
}

#[test]
fn every_key_that_is_changed_or_deleted_is_found() {
    for line in ENTRY.lines() {
        let (name, value) = line.split_once(": ").unwrap();
        let key = AuxKey::of_entry(name).unwrap();
        for changed in [String::new(), format!("{name}: {value}x\n"), format!("{name}: \n"), format!("{name}: x/y\n")] {
            let entry = ENTRY.replace(&format!("{line}\n"), &changed) + GPKG;
            let comparison = compare(&PACKAGE, CHOST, &entry);
            assert_eq!(keys(&comparison), [key], "{changed:?} in place of {line:?}");
            let Comparison::Mismatch(found) = comparison else { unreachable!() };
            assert_eq!(found[0].package, value);
        }
        // The last value of a repeated key counts.
        assert_eq!(keys(&compare(&PACKAGE, CHOST, &format!("{ENTRY}{name}: x/y\n{GPKG}"))), [key], "{line}");
        assert_eq!(compare(&PACKAGE, CHOST, &format!("{name}: x/y\n{ENTRY}{GPKG}")), Comparison::Equal, "{line}");
    }
    assert_eq!(keys(&compare(&PACKAGE, "CHOST: other\n", &(ENTRY.to_owned() + GPKG))), [AuxKey::Chost]);
    assert_eq!(keys(&compare(&PACKAGE, "", &(ENTRY.to_owned() + GPKG))), [AuxKey::Chost]);
}

#[test]
fn what_the_package_does_not_have_cannot_be_added() {
    for key in AuxKey::ALL.into_iter().filter(|key| !key.is_inherited()) {
        let comparison = compare(&[], "", &format!("{key}: x/y\n{GPKG}"));
        assert_eq!(keys(&comparison), [key]);
    }
}

#[test]
fn other_forms_of_the_same_are_no_mismatch() {
    for (key, written) in [
        (AuxKey::Rdepend, "r/a nls? ( || ( r/b doc? ( r/c ) r/d ) )"),
        (AuxKey::Rdepend, "r/a || ( r/b ( r/d ) )"),
        (AuxKey::Rdepend, " r/a  ||  ( r/b r/d )"),
        (AuxKey::Depend, "d/e:0=[nls?]"),
        (AuxKey::License, "|| ( GPL-2 doc? ( FDL ) )"),
        (AuxKey::Restrict, "!doc? ( test )"),
        (AuxKey::Use, "amd64  nls"),
    ] {
        let line = ENTRY.lines().find(|line| line.starts_with(&format!("{key}: "))).unwrap();
        let entry = ENTRY.replace(&format!("{line}\n"), &format!("{key}: {written}\n")) + GPKG;
        let mut other = AuxKeys::default();
        other.insert(key);
        assert_eq!(compare(&PACKAGE, CHOST, &entry), Comparison::OtherForm(other), "{written}");
    }
    let mut inherited = AuxKeys::default();
    inherited.insert(AuxKey::Chost);
    inherited.insert(AuxKey::Repository);
    assert_eq!(compare(&[], "CHOST: c\nREPO: r\n", GPKG), Comparison::OtherForm(inherited));
    // The resolver reduces a value by the flags of the entry.
    let flags =
        ENTRY.replace("USE: amd64 nls\n", "USE: amd64 doc\n").replace("RESTRICT: test", "RESTRICT: !doc? ( test )");
    assert_eq!(keys(&compare(&PACKAGE, CHOST, &(flags + GPKG))), [AuxKey::Restrict, AuxKey::Use]);
}

#[test]
fn a_key_of_no_entry_is_compared_unless_the_index_may_be_older() {
    let without: String =
        ENTRY.lines().filter(|line| !line.starts_with("IDEPEND")).map(|line| format!("{line}\n")).collect();
    let package = values(&PACKAGE);
    let result = |entries: &[&str]| {
        let index = index(CHOST, entries);
        let stanza = Stanza(format!("CPV: a/b-0\n{}", entries[0]));
        keys(&compared(&package, &index, &stanza))
    };
    let with_path = |path: &str| format!("{without}PATH: {path}\n");
    for xpak in [without.clone(), with_path(""), with_path("a/b-1.xpak"), with_path("b.tbz2")] {
        assert_eq!(result(&[&xpak]), [], "{xpak}");
        assert_eq!(result(&[&xpak, "IDEPEND: i/d\n"]), [AuxKey::Idepend]);
    }
    for other in ["a/b-1.gpkg.tar", "a/b-1"] {
        assert_eq!(result(&[&with_path(other)]), [AuxKey::Idepend]);
    }
}

#[test]
fn both_names_of_a_key_count_in_the_header_too() {
    let package = [("repository", "gentoo")];
    for header in
        ["REPO: gentoo\n", "repository: gentoo\n", "REPO: x\nrepository: gentoo\n", "repository: x\nREPO: gentoo\n"]
    {
        assert_eq!(compare(&package, header, GPKG), Comparison::Equal, "{header}");
    }
    assert_eq!(keys(&compare(&package, "REPO: gentoo\nrepository: x\n", GPKG)), [AuxKey::Repository]);
}

#[test]
fn a_mismatch_names_key_and_values() {
    let mismatch = |index: &str, package: &str| {
        IndexMismatch { key: AuxKey::Slot, index: index.to_owned(), package: package.to_owned() }.to_string()
    };
    assert_eq!(mismatch("0", "2/3"), r#"SLOT is "0" in the index, but "2/3" in the package"#);
    let long = "é/x ".repeat(500);
    let text = mismatch(&format!("{long}a/evil {long}"), &format!("{long}{long}"));
    assert!(text.contains("a/evil") && text.len() < 1000, "{text}");
}

#[test]
fn a_digest_is_of_all_values_in_whatever_form() {
    let package = values(&PACKAGE);
    let agrees = |entry: &str| {
        let index = index(CHOST, &[entry]);
        let stanza = index.stanza(&index.records()[0]).unwrap();
        EntryValues::of(&stanza, &index).agrees_with(package.digest())
    };
    let entry = ENTRY.to_owned() + GPKG;
    assert!(agrees(&entry) && agrees(&entry.replace("RDEPEND: r/a", "RDEPEND: ( r/a doc? ( x/y ) )")));
    // The digest changes when text moves from one value to the next.
    assert!(!agrees(&entry.replace("BDEPEND: b/d\n", "BDEPEND: b/\n").replace("BUILD_ID: ", "BUILD_ID: d")));
    // An entry that was accepted without a key is no longer accepted where the key is compared.
    let (path, package) = ("PATH: b.xpak\n", values(&[("IDEPEND", "i/d")]));
    let [older, newer] = [index("", &[path]), index("", &[path, "IDEPEND: x/y\n"])];
    let stanza = Stanza(path.into());
    let [older, newer] = [&older, &newer].map(|index| EntryValues::of(&stanza, index));
    assert_eq!(package.compare(&older), Comparison::Equal);
    assert!(older.agrees_with(older.digest()) && !newer.agrees_with(older.digest()));
    assert_eq!(values(&[]).digest(), values(&[("EAPI", "0"), ("SLOT", "0\n"), ("IUSE", "\n")]).digest());
}

proptest! {
    #[test]
    fn no_metadata_and_no_entry_make_it_panic(
        value in prop::collection::vec(any::<u8>(), 0..60), words in "(\\(|\\)|\\|\\||[a-c]\\?|a/b|[a-c]| ){0,40}",
        entry in "([A-Z]{1,4}|RDEPEND|USE): \\PC{0,40}"
    ) {
        let package = AuxValues::of_package(|key| Some(if key.is_inherited() { &value } else { words.as_bytes() }));
        let index = index("", &["IUSE: a\n"]);
        let stanza = Stanza(format!("RDEPEND: {words}\n{entry}\n{GPKG}"));
        compared(&package, &index, &stanza);
    }
}

#[test]
fn an_entry_may_be_silent_on_user_patches_but_not_lie() {
    let compare = |entry: &str| compare(&[("USER_PATCHES", "12ab\n")], "", &format!("{entry}{GPKG}"));
    let mut silent = AuxKeys::default();
    silent.insert(AuxKey::UserPatches);
    assert_eq!(compare("USER_PATCHES: 12ab\n"), Comparison::Equal);
    assert_eq!(
        (compare(""), compare("USER_PATCHES: \n")),
        (Comparison::OtherForm(silent), Comparison::OtherForm(silent))
    );
    assert_eq!(keys(&compare("USER_PATCHES: 34cd\n")), [AuxKey::UserPatches]);
}
