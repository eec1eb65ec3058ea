//! Target `entry`: a line of USE flags, a line of a key and its value in the index, and the metadata of the package for it.

use binhostfs::internals::index::{
    AuxKey, AuxValues, Comparison, Dependencies, EntryValues, Index, Stanza, TokenKind, UseFlags,
};

/// Values that are made of the metadata are those of an entry that has them; what is made of them again means the same. The
/// digest says the same as the comparison.
pub fn entry(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |byte| *byte == b'\n');
    let [flags, line, metadata] = [(); 3].map(|()| parts.next().unwrap_or_default());
    let package = AuxValues::of_package(|key| Some(if key == AuxKey::Use { flags } else { metadata }));
    let written = AuxKey::ALL.map(|key| (key.name(), package.get(key)));
    let path = [("PATH", "a/b-1.gpkg.tar")];
    let index = Index::empty();
    let made = Stanza::of(written.into_iter().chain(path));
    compare(&package, &EntryValues::of(&made, &index), |comparison| *comparison == Comparison::Equal);

    let line = String::from_utf8_lossy(line);
    let (key, value) = line.split_once(':').unwrap_or_default();
    let changed = Stanza::of(written.into_iter().chain(path).chain([(key, value)]));
    compare(&package, &EntryValues::of(&changed, &index), |_| true);

    let (flags, text) = (String::from_utf8_lossy(flags), String::from_utf8_lossy(metadata));
    for kind in [TokenKind::Atom, TokenKind::Plain] {
        let reduced =
            |text: &str| Dependencies::reduce(text, kind, &UseFlags::of(&flags)).map(Dependencies::as_portage);
        let simplest = |text: &str| Dependencies::reduce(text, kind, &UseFlags::of(&flags)).map(Dependencies::simplest);
        let Ok(once) = reduced(&text) else { continue };
        assert_eq!(simplest(&once), simplest(&text), "two forms of {text:?}");
        let simple = simplest(&once).expect("reduced before");
        assert_eq!(simplest(&simple).as_ref(), Ok(&simple), "not the simplest form of {text:?}");
    }
}

fn compare(package: &AuxValues, entry: &EntryValues<'_>, expected: impl Fn(&Comparison) -> bool) {
    let comparison = package.compare(entry);
    assert!(expected(&comparison), "{comparison:?}");
    let agrees = entry.agrees_with(package.digest());
    match &comparison {
        Comparison::Equal => assert!(agrees),
        // CHOST or repository, where the package has none.
        Comparison::OtherForm(keys) => assert!(agrees || keys.iter().any(AuxKey::is_inherited)),
        Comparison::Mismatch(found) => {
            assert!(!agrees && found.iter().all(|mismatch| mismatch.index != mismatch.package));
            assert!(found.iter().all(|mismatch| !mismatch.to_string().is_empty()));
        }
    }
    assert!(entry.agrees_with(entry.digest()));
}
