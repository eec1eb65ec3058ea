//! Packages whose metadata has no signature in front: their Manifest, which is at the end, shows whether their index entries
//! are right.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::signed::{Members, Real, binhost, pkgdir_of, serve, with_keys};
use crate::harness::{Act, Gpg, Mounted, Options, Origin, eventually, gpg};
use crate::index_mismatch::{emerge, named, verify_index, with_added_dependency};

/// So much is left out of a large package.
const LARGE: u32 = 1_000_000;
const PACKAGE: &str = "acct-group/demo/";
const FIRST: &str = "bytes=0-65535";

/// How a package is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signed {
    /// GLEP 78 asks for no more; Portage does.
    ByManifestOnly,
    /// All signatures behind the image.
    AtTheEnd,
}

/// Who builds and signs packages otherwise than Portage does, in the binhost of one who does not.
struct Builder {
    gpg: Gpg,
    key: String,
    /// Of both.
    keyrings: [PathBuf; 2],
    header: String,
    packages: Vec<Real>,
}

impl Builder {
    fn new() -> Option<Self> {
        let (theirs, header, packages) = binhost("gpkg-signed")?;
        let gpg = gpg()?;
        let key = gpg.key("binhost", "ed25519", "sign", "0", None);
        let keyrings = [theirs, gpg.write("key.pgp", &gpg.export(&[&key]))];
        Some(Self { gpg, key, keyrings, header, packages })
    }

    fn options(&self) -> [&str; 2] {
        ["--local-user", &self.key]
    }

    /// The package of which the index will say something else, with an image of which `more` bytes are nothing to zstd.
    fn build(&self, signed: Signed, more: u32) -> Real {
        named(&self.packages, PACKAGE).changed(|members| {
            let image = members.members.iter_mut().find(|(name, _)| name == "image.tar.zst").unwrap();
            image.1.extend([&0x184D_2A50_u32.to_le_bytes()[..], &more.to_le_bytes(), &vec![7; more as usize]].concat());
            match signed {
                Signed::AtTheEnd => members.sign(&self.gpg, &self.options()),
                Signed::ByManifestOnly => {
                    members.without_signatures();
                    members.manifest = self.gpg.clearsign(&self.options(), &members.manifest);
                }
            }
        })
    }

    /// The binhost with this package.
    fn with(&self, package: &Real) -> Vec<Real> {
        let swap = |other: &Real| if other.path == package.path { package.clone() } else { other.clone() };
        self.packages.iter().map(swap).collect()
    }

    fn mount(&self, origin: &Origin, more: &[&str]) -> Mounted {
        let keyring = ["--keyring", self.keyrings[1].to_str().unwrap()];
        with_keys(origin, &self.keyrings[0]).with(keyring).with(more.iter().copied()).mount()
    }
}

fn ranges(origin: &Origin, package: &Real) -> Vec<String> {
    origin.asked(&package.path).into_iter().map(|asked| asked.range.unwrap_or_default()).collect()
}

/// Bytes that a Range of these last bytes asks for.
fn count_of(range: &str, package: &Real) -> usize {
    let (from, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    assert_eq!(last, (package.bytes.len() - 1).to_string(), "to the end");
    package.bytes.len() - from.parse::<usize>().unwrap()
}

/// What is found out of the entry of [`PACKAGE`].
fn outcome(mounted: &Mounted) -> (String, String) {
    let (code, checked) = verify_index(mounted, &["acct-group/*"]);
    let entries = checked["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 1, "{checked}");
    let outcome = entries[0]["outcome"].as_str().unwrap().to_owned();
    assert_eq!(code, Some(i32::from(outcome == "wrong")), "{checked}");
    (outcome, entries[0]["reason"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_dependency_added_to_a_package_that_only_its_manifest_signs_is_not_installed() {
    let Some(builder) = Builder::new() else { return };
    for (signed, more) in [(Signed::ByManifestOnly, LARGE), (Signed::AtTheEnd, LARGE), (Signed::ByManifestOnly, 100)] {
        let package = builder.build(signed, more);
        let packages = with_added_dependency(&builder.with(&package));
        let origin = serve(&builder.header, &packages);
        let mounted = builder.mount(&origin, &["--prefetch", "off"]);
        let safe = emerge(&mounted);
        let ended = safe.run(["acct-group/demo"]);
        assert!(ended.code == Some(1) && safe.names().is_empty(), "{signed:?} {more}: {}", ended.output);
        let log = mounted.log();
        assert!(log.contains("no package of an emerge's plan is given out: it has acct-group/demo/"), "{log}");
        assert!(log.contains("RDEPEND is \"dev-libs/libfoo\" in the index, but \"\" in the package"), "{log}");
        if more == LARGE {
            let [first, last] = &ranges(&origin, &package)[..] else { panic!("{:?}", ranges(&origin, &package)) };
            assert_eq!(first, FIRST);
            assert!(count_of(last, &package) < 16 << 10, "{last}");
        }
        eventually(20, "the entry leaves the index", || mounted.listing().len() == packages.len() - 1);
    }
}

#[test]
fn another_package_that_only_its_manifest_signs_brings_no_other_under_a_false_name() {
    let Some(builder) = Builder::new() else { return };
    for more in [LARGE, 100] {
        let real = builder.build(Signed::ByManifestOnly, more);
        let path = "acct-group/fake/fake-0-1.gpkg.tar";
        let stanza = real.stanza.replace("acct-group/demo-0", "acct-group/fake-0").replace(&real.path, path);
        let stanza = format!("{stanza}\nRDEPEND: dev-libs/libfoo");
        let fake = Real { path: path.to_owned(), stanza, bytes: real.bytes.clone() };
        let packages: Vec<Real> = builder.packages.iter().chain([&fake]).cloned().collect();
        let origin = serve(&builder.header, &packages);
        let mounted = builder.mount(&origin, &["--prefetch", "off"]);
        let safe = emerge(&mounted);
        let ended = safe.run(["acct-group/fake"]);
        assert!(ended.code == Some(1) && safe.names().is_empty(), "{more}: {}", ended.output);
        let log = mounted.log();
        assert!(log.contains("the package inside has CPV \"acct-group/demo-0\""), "{log}");
        eventually(20, "the entry leaves the index", || mounted.listing().len() == builder.packages.len());
    }
}

#[test]
fn an_entry_that_is_right_agrees_if_the_package_is_signed_as_emerge_wants_it() {
    let Some(builder) = Builder::new() else { return };
    let package = builder.build(Signed::AtTheEnd, LARGE);
    let packages = builder.with(&package);
    let origin = serve(&builder.header, &packages);
    let mounted = builder.mount(&origin, &[]);
    assert_eq!(outcome(&mounted).0, "agrees");
    let [first, last] = &ranges(&origin, &package)[..] else { panic!("{:?}", ranges(&origin, &package)) };
    assert!(first == FIRST && count_of(last, &package) < 16 << 10, "{first} {last}");
    // It is known now, and what was known is so.
    assert_eq!((outcome(&mounted).0.as_str(), origin.asked(&package.path).len()), ("agrees", 2));
    assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes);
    drop(mounted);

    // Of a directory as of a server.
    let directory = pkgdir_of(&builder.header, &packages);
    let of_directory = |packages: &Path| {
        let keyrings = builder.keyrings.iter().flat_map(|file| ["--keyring", file.to_str().unwrap()]);
        Options::new(format!("file://{}", packages.display())).with(keyrings).mount()
    };
    let mounted = of_directory(directory.path());
    assert_eq!((outcome(&mounted).0.as_str(), mounted.blobs().len()), ("agrees", 0));
    drop(mounted);
    let directory = pkgdir_of(&builder.header, &with_added_dependency(&packages));
    let mounted = of_directory(directory.path());
    assert_eq!((outcome(&mounted).0.as_str(), mounted.blobs().len()), ("wrong", 0));
    drop(mounted);

    // Emerge will not have it, so nothing says that it can be had.
    let package = builder.build(Signed::ByManifestOnly, LARGE);
    let origin = serve(&builder.header, &builder.with(&package));
    let mounted = builder.mount(&origin, &[]);
    let (outcome, reason) = outcome(&mounted);
    assert!(outcome == "unknown" && reason.contains("emerge would refuse the package"), "{outcome}: {reason}");
    assert_eq!(mounted.listing().len(), packages.len());
    assert!(fs::read(mounted.path(&package.path)).is_err(), "it is refused");
}

/// With the Manifest that `change` makes of the right one before it is signed, and of that.
fn with_manifest(builder: &Builder, change: &dyn Fn(&Members) -> Vec<u8>) -> Real {
    builder.build(Signed::AtTheEnd, LARGE).changed(|members| members.manifest = change(members))
}

#[test]
fn a_manifest_that_is_not_good_is_no_index_mismatch() {
    let Some(builder) = Builder::new() else { return };
    let clearsign = |text: &str| builder.gpg.clearsign(&builder.options(), text.as_bytes());
    let stranger = builder.gpg.key("stranger", "ed25519", "sign", "0", None);
    let changed_later = with_manifest(&builder, &|members| {
        String::from_utf8(members.manifest.clone()).unwrap().replacen("SHA512 ", "SHA512  ", 1).into_bytes()
    });
    let other_digests = with_manifest(&builder, &|members| {
        let record = |line: &str| {
            let (before, digest) = line.rsplit_once(' ').unwrap();
            let is_metadata = line.starts_with("DATA metadata.tar.zst ");
            format!("{before} {}\n", if is_metadata { "0".repeat(digest.len()) } else { digest.to_owned() })
        };
        clearsign(&members.text().lines().map(record).collect::<String>())
    });
    let of_stranger = with_manifest(&builder, &|members| {
        builder.gpg.clearsign(&["--local-user", &stranger], members.text().as_bytes())
    });
    let huge = with_manifest(&builder, &|members| clearsign(&(members.text() + &"\n".repeat(80 << 10))));
    for (what, package, reason, requests) in [
        ("changed after it was signed", changed_later, "BAD signature", 2),
        ("other digests", other_digests, "does not have the BLAKE2B of the Manifest", 2),
        ("an unknown key", of_stranger, "unknown key", 2),
        ("a huge Manifest", huge, "its first and last bytes do not have its metadata signed", 1),
    ] {
        let packages = with_added_dependency(&builder.with(&package));
        let origin = serve(&builder.header, &packages);
        let mounted = builder.mount(&origin, &[]);
        let (outcome, said) = outcome(&mounted);
        assert!(outcome == "unknown" && said.contains(reason), "{what}: {outcome}: {said}");
        let asked = ranges(&origin, &package);
        assert!(asked.len() == requests && asked[0] == FIRST, "{what}: {asked:?}");
        assert_eq!(mounted.counter("downloads"), 0, "{what}");
        // The package's own verification decides.
        assert_eq!(mounted.listing().len(), packages.len(), "{what}");
        assert_eq!(mounted.counter("index_mismatches"), 0, "{what}");
        let refused = fs::read(mounted.path(&package.path)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(5), "{what}");
    }
}

#[test]
fn last_bytes_that_do_not_come_as_they_should_prove_nothing() {
    let Some(builder) = Builder::new() else { return };
    let package = builder.build(Signed::AtTheEnd, LARGE);
    let wrong = with_added_dependency(&builder.with(&package));
    for (act, reason) in [
        // A server that does not know Range, and one that forgets it: neither has to send the whole.
        (Act::Whole, "does not send a part of a file (Range)"),
        (Act::Endless, "does not send a part of a file (Range)"),
        (Act::ShortBy(1), "index and package do not belong together"),
        (Act::Status(416, Vec::new()), "HTTP status 416"),
        (Act::WrongRange, "with the wrong part"),
        (Act::Drip(3000), ": "),
        (Act::LyingRange(0), "the padding after a member is not zero"),
    ] {
        let origin = serve(&builder.header, &wrong);
        origin.script(&package.path, [Act::Serve, act.clone(), Act::Serve]);
        let mounted = builder.mount(&origin, &[]);
        let before = mounted.counter("bytes_fetched");
        let (outcome, said) = outcome(&mounted);
        assert!(outcome == "unknown" && said.contains(reason), "{act:?}: {outcome}: {said}");
        let (asked, fetched) = (ranges(&origin, &package), mounted.counter("bytes_fetched") - before);
        assert!(asked.len() == 2 && fetched < 80 << 10, "{act:?}: {asked:?} {fetched}");
        assert_eq!(mounted.listing().len(), wrong.len(), "{act:?}");
    }
    // What comes after the bytes that were asked for is not read.
    let origin = serve(&builder.header, &wrong);
    origin.script(&package.path, [Act::Serve, Act::EndlessRange, Act::Serve]);
    let mounted = builder.mount(&origin, &[]);
    let (outcome, said) = outcome(&mounted);
    assert!(outcome == "wrong" && said.starts_with("index mismatch: RDEPEND"), "{outcome}: {said}");
}

/// As docs/trust.md says.
#[test]
fn what_neither_end_of_a_package_shows_can_have_dependencies_merged() {
    let Some(builder) = Builder::new() else { return };
    let package = builder.build(Signed::AtTheEnd, LARGE);
    let image_in_front = package.changed(|members| {
        members.members.sort_by_key(|(name, _)| name.starts_with("metadata"));
    });
    for (act, package) in [(Act::Whole, package), (Act::Serve, image_in_front)] {
        let origin = serve(&builder.header, &with_added_dependency(&builder.with(&package)));
        origin.script(&package.path, [act]);
        let mounted = builder.mount(&origin, &["--prefetch", "off"]);
        let emerge = emerge(&mounted);
        assert_eq!(emerge.run(["acct-group/demo"]).code, Some(1));
        assert_eq!(emerge.names(), ["dev-libs/libfoo-1.3.0", "sys-libs/glibc-2.41"]);
        // It is found when the package is opened, and nothing else is wrong with that.
        assert!(mounted.log().contains("index mismatch: RDEPEND"), "{}", mounted.log());
        eventually(20, "the entry leaves the index", || mounted.listing().len() == builder.packages.len() - 1);
    }
}
