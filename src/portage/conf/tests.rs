//! Tests of everything that a comparison with Portage cannot show: locations, warnings, watched
//! paths, and files that would cause hangs or exhaust memory.

use std::fs;

use super::*;

struct System(tempfile::TempDir);

impl System {
    fn with(files: &[(&str, &str)]) -> Self {
        let system = Self(tempfile::tempdir().unwrap());
        for (path, text) in files {
            let path = system.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        system
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn read(&self) -> Reading {
        read(&PortagePaths { config_root: self.0.path().to_owned(), global: self.path("global") })
    }

    #[track_caller]
    fn refused(&self) -> String {
        self.read().result.unwrap_err().to_string().replace(&format!("{}/", self.0.path().display()), "")
    }

    fn warnings(&self) -> String {
        self.read().result.unwrap().warnings.join("\n").replace(&format!("{}/", self.0.path().display()), "")
    }
}

const MAKE: &str = "etc/portage/make.conf";
const REPOS: &str = "etc/portage/binrepos.conf";

#[test]
fn every_value_says_where_it_stands() {
    let system = System::with(&[
        ("global/make.globals", "\nPKGDIR=/g\n"),
        ("global/binrepos.conf", "[DEFAULT]\nverify-signature = true\n"),
        (MAKE, "A=1\nsource more\n"),
        ("etc/portage/more", "\n\nBINPKG_GPG_VERIFY_GPG_HOME=/k\n"),
        (REPOS, "[a]\nsync-uri = https://a\n\npriority = 2\n"),
    ]);
    let portage = system.read().result.unwrap();
    let at = |path: &str, line| Some(SourceLocation { file: system.path(path), line: Some(line) });
    assert_eq!(portage.pkgdir, Located { value: "/g".into(), location: at("global/make.globals", 2) });
    assert_eq!(portage.gnupg, Located { value: "/k".into(), location: at("etc/portage/more", 3) });
    let a = &portage.binrepos[0];
    assert_eq!((a.uri.location.clone(), a.priority.location.clone()), (at(REPOS, 2), at(REPOS, 4)));
    assert_eq!(a.verify_signature, Some(Located { value: true, location: at("global/binrepos.conf", 2) }));
    assert_eq!(portage.warnings, [""; 0]);
    let nothing = System::with(&[]).read().result.unwrap();
    assert_eq!(nothing.pkgdir, Located { value: DEFAULT_PKGDIR.into(), location: None });
}

#[test]
fn what_portage_does_silently_is_said() {
    for (path, text, says) in [
        (
            REPOS,
            "[a]\nsync-uri=u\n[a]\n",
            "etc/portage/binrepos.conf:3: the section [a] is there twice in one file; because of that Portage ignores binrepos.conf altogether",
        ),
        (REPOS, "[a]\npriority=1\n", "[a] of binrepos.conf has no sync-uri: Portage passes over it"),
        (REPOS, "[a]\nsync-uri=u\npriority=x\n", "etc/portage/binrepos.conf:3: priority is no number: Portage takes 0"),
        (
            REPOS,
            "[a]\nsync-uri=u\ngetbinpkg-include=>=a/b-1\n",
            "etc/portage/binrepos.conf:3: getbinpkg-include: >=a/b-1 is passed over: Portage takes names, slots and wildcards only",
        ),
        (
            MAKE,
            "\nPORTAGE_BINHOST=\"http://h/$ \"\n",
            "etc/portage/make.conf:2: PORTAGE_BINHOST: a '$' has no proper name after it: Portage takes the whole value for empty",
        ),
        (
            REPOS,
            "[a]\nsync-uri=u\nverify-signature = On\n",
            "etc/portage/binrepos.conf:3: verify-signature = On is false for Portage, and so it is here: write true or false",
        ),
        (REPOS, "[a]\nsync-uri=u\nverify-signature = off\n", ""),
        (
            MAKE,
            "PKGDIR=\"/$ \"\n",
            "etc/portage/make.conf:1: PKGDIR: a '$' has no proper name after it: Portage takes the whole value for empty",
        ),
        (MAKE, "OTHER=$X\n", ""),
    ] {
        assert_eq!(System::with(&[(path, text)]).warnings(), says, "{text}");
    }
}

#[test]
fn hostile_files_end_in_an_error() {
    let large = "x".repeat(5 << 20);
    let mut doubling = "A=xxxxxxxx\n".to_owned();
    doubling.push_str(&"A=$A$A\n".repeat(60));
    for (text, says) in [
        (
            large.as_str(),
            "etc/portage/make.conf: it is too large to be a configuration file; emerge cannot read it either",
        ),
        (
            &doubling,
            "etc/portage/make.conf:19: the value of A grows beyond 1048576 bytes; emerge cannot read it either",
        ),
        (
            "source make.conf\n",
            "etc/portage/make.conf:1: source: too many files; does one source itself?; emerge cannot read it either",
        ),
        (
            "source /dev/zero\n",
            "etc/portage/make.conf:1: source \"/dev/zero\": it is not a regular file; emerge cannot read it either",
        ),
        ("\n\"A\n", "etc/portage/make.conf:2: a quotation mark is not closed; emerge cannot read it either"),
    ] {
        assert_eq!(System::with(&[(MAKE, text)]).refused(), says);
    }
    let binary: String = (0..=255).map(char::from).collect();
    System::with(&[(MAKE, &binary), (REPOS, &binary)]).refused();
    assert!(System::with(&[(REPOS, &large)]).warnings().contains("too large"));
    // Two links to the directory itself: 2^40 paths.
    let system = System::with(&[("etc/portage/binrepos.conf/a", "")]);
    for link in ["b", "c"] {
        std::os::unix::fs::symlink(".", system.path(REPOS).join(link)).unwrap();
    }
    assert!(system.refused().contains("too many files"));
}

#[test]
fn what_could_change_the_result_is_seen() {
    let system = System::with(&[(MAKE, "source more\n"), ("etc/portage/binrepos.conf/x/a", "")]);
    let reading = system.read();
    assert!(reading.result.is_err());
    for path in ["etc/make.conf", MAKE, "etc/portage/more"] {
        assert!(reading.seen.contains(&system.path(path)), "{path}: {:?}", reading.seen);
    }
    fs::write(system.path("etc/portage/more"), "").unwrap();
    let reading = system.read();
    for path in [
        REPOS,
        "etc/portage/binrepos.conf/x",
        "etc/portage/binrepos.conf/x/a",
        "global/make.globals",
        "global/binrepos.conf",
    ] {
        assert!(reading.seen.contains(&system.path(path)), "{path}: {:?}", reading.seen);
    }
}
