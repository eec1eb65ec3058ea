//! What the fuzzers start from: small inputs of every kind that the bodies know, sound ones and near misses.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use tar::{EntryType, Header};

use super::bodies::archive::{manifest_of, regular, tar};

const XZ: &[u8] = include_bytes!("../../../src/verify/tests/fixtures/metadata.tar.xz");
const LZIP: &[u8] = include_bytes!("../../../src/verify/tests/fixtures/metadata.tar.lz");
const ZSTD: &[u8] = include_bytes!("../../../src/verify/tests/fixtures/metadata.tar.zst");
const VALUES: [(&str, &str); 4] =
    [("CATEGORY", "app-misc\n"), ("PF", "hello-2.0-r1\n"), ("BUILD_ID", "3\n"), ("BUILD_TIME", "1700000000\n")];
const MD5: &str = "MD5: d41d8cd98f00b204e9800998ecf8427e\n";
const SHA1: &str = "SHA1: da39a3ee5e6b4b0d3255bfef95601890afd80709\n";

#[test]
#[ignore = "writes into the source tree"]
fn write_seeds() {
    let targets = [
        ("entry", entry()),
        ("index", index()),
        ("listing", listing()),
        ("gpkg", gpkg()),
        ("manifest", manifest()),
        ("xpak", xpak()),
    ];
    for (target, seeds) in targets {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
        fs::create_dir_all(&directory).unwrap();
        for (name, bytes) in seeds {
            fs::write(directory.join(name), bytes).unwrap();
        }
    }
}

type Seeds = Vec<(&'static str, Vec<u8>)>;

fn listing() -> Seeds {
    let like = "CPV: a/b-1\nBUILD_ID: 2\nPATH: like.xpak\nSIZE: 6\nMTIME: 9\n\n";
    let more = "CPV: a/c-1\n\nCPV: a/d-1\nPATH: other.xpak\nSIZE: x\nREPO: r\nUSER_PATCHES: p\n\n";
    vec![
        ("seed-alike", format!("CHOST: y\nPACKAGES: 1\nTIMESTAMP: 9\nVERSION: 0\n\n{like}").into_bytes()),
        ("seed-more", format!("VERSION: 0\n\n{more}{like}").into_bytes()),
        ("seed-end", b"VERSION: 0\n\nCPV: a/b-1\nDESC: last".to_vec()),
        ("seed-stops", format!("VERSION: 0\n\n{like}\n{more}").into_bytes()),
        ("seed-newer", format!("VERSION: 1\n\n{like}").into_bytes()),
        ("seed-carriage-return", b"VERSION: 0\n\nCPV: a/b-1\nDESC: x\r\rCPV: a/c-1\r\n\n".to_vec()),
        ("seed-no-text", b"VERSION: 0\n\nCPV: a/b-1\nDESC: \xff\0\n\nCPV: a/c-1\n\n".to_vec()),
    ]
}

fn entry() -> Seeds {
    let with = |line: &str, metadata: &str| format!("a b c++\n{line}\n{metadata}").into_bytes();
    vec![
        ("seed-reduced", with("RDEPEND: x/y:= a? ( x/z )", "x/y:= a? ( x/z ) !a? ( || ( x/p b? ( x/q x/r ) ) )\n")),
        ("seed-use", with("DEPEND: x/y[a]", "!!>=x/y-1:0/2=[a?,!b(+)=,-d] ~x/z-2[d?]")),
        ("seed-brackets", with("LICENSE: ( A B )", "|| ( ( A || ( ( B d? ( C ) ) ) ) || ( E ) ( F G ) )")),
        ("seed-empty", with("PDEPEND: ", "|| ( d? ( x/y ) ) || ( x/z || ( d? ( x/y ) ) )")),
        ("seed-malformed", with("RESTRICT: test )", "( a? x || ) -> ( )")),
        ("seed-words", with("repository:  x\u{a0}y", "0/1.2 \u{1c}\t amd64\u{2028} \u{0}")),
        ("seed-no-text", b"\xff\nSLOT:\n\xe2\x82 \xff".to_vec()),
    ]
}

fn index() -> Seeds {
    let stanza = |cpv: &str, more: &str| format!("CPV: {cpv}\nSIZE: 5\n{MD5}{more}\n");
    let header = "ARCH: amd64\nURI: http://x/y\nTTL: 9\nTIMESTAMP: 7\nPACKAGES: 2\nVERSION: 0\n\n";
    let with = |stanzas: &[String]| format!("{header}{}", stanzas.concat()).into_bytes();
    vec![
        ("seed-empty", header.as_bytes().to_vec()),
        (
            "seed-full",
            with(&[
                stanza(
                    "a/b-1",
                    "PATH: a/b/b-1-2.gpkg.tar\nBUILD_ID: 2\nBUILD_TIME: 1700000000\nMTIME: 8\nDESC: it: works\n",
                ),
                stanza(
                    "x11-libs/gtk+-3.24.43-r2",
                    &format!("{SHA1}_mtime_: 9\nRDEPEND: >=a/b-1\nBASE_URI: http://z\n"),
                ),
            ]),
        ),
        (
            "seed-clashes",
            with(&[
                stanza("a/b-1", "PATH: one\n"),
                stanza("a/b-1", "PATH: two\n"),
                stanza("a/c-1", "PATH: same\nBUILD_TIME: 9\n"),
                stanza("a/d-1", "PATH: same\n"),
                stanza("a/e-1", "PATH: dir\n"),
                stanza("a/f-1", "PATH: dir/file\n"),
            ]),
        ),
        (
            "seed-dropped",
            with(&[
                stanza("bad", ""),
                stanza("a/b-1", "PATH: ../x\n"),
                stanza("a/b-2", "SIZE: 0x5\n"),
                stanza("a/b-3", "MD5: zz\n"),
                stanza("a/b-4", "DESC: \0\n"),
                stanza("a/b-5", "USER_PATCHES: x\nno colon\nE:\n"),
            ]),
        ),
        ("seed-carriage-return", with(&[stanza("a/b-1", "DESC: x\r\rCPV: a/c-1\rPATH: /etc/shadow\r")])),
        ("seed-stops", with(&[stanza("a/b-1", ""), "WHAT: x\n\n".to_owned(), stanza("a/c-1", "")])),
        ("seed-odd-header", b"ARCH: \xff\r\x01\nREPO: gentoo\nVERSION: -1\n\nrepository: r\nCPV: a/b-0\n".to_vec()),
        ("seed-version", b"VERSION: 1\n\n".to_vec()),
        ("seed-html", b"<!DOCTYPE html>\n<html>\n".to_vec()),
    ]
}

fn metadata() -> Vec<u8> {
    tar(&VALUES.map(|(key, value)| regular(&format!("metadata/{key}"), value.as_bytes())))
}

fn member(mut header: Header, name: &str, size: usize, kind: EntryType) -> Vec<u8> {
    header.set_path(name).unwrap();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size as u64);
    header.set_entry_type(kind);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn compressed(extension: &str) -> Vec<u8> {
    let bytes = metadata();
    match extension {
        "gz" => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            out.write_all(&bytes).unwrap();
            out.finish().unwrap()
        }
        "bz2" => {
            let mut out = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
            out.write_all(&bytes).unwrap();
            out.finish().unwrap()
        }
        "lz4" => {
            let mut out = lz4_flex::frame::FrameEncoder::new(Vec::new());
            out.write_all(&bytes).unwrap();
            out.finish().unwrap()
        }
        _ => bytes,
    }
}

fn parts() -> Vec<(&'static str, Vec<u8>)> {
    vec![("gpkg-1", Vec::new()), ("metadata.tar.gz", compressed("gz")), ("image.tar.zst", b"an image".to_vec())]
}

fn members(directory: &str, parts: &[(&str, Vec<u8>)]) -> Vec<Vec<u8>> {
    let manifest = manifest_of(parts.iter().map(|(name, bytes)| (*name, bytes.as_slice())));
    let mut all: Vec<_> = parts.iter().map(|(name, bytes)| regular(&format!("{directory}/{name}"), bytes)).collect();
    all.push(regular(&format!("{directory}/Manifest"), manifest.as_bytes()));
    all
}

/// Members with GNU headers and names before themselves.
fn long_names() -> Vec<u8> {
    let directory = "d".repeat(120);
    let manifest = manifest_of(parts().iter().map(|(name, bytes)| (*name, bytes.as_slice()))).into_bytes();
    let mut all = Vec::new();
    for (name, bytes) in parts().into_iter().chain([("Manifest", manifest)]) {
        let long = format!("{directory}/{name}\0").into_bytes();
        all.push(member(Header::new_gnu(), "././@LongLink", long.len(), EntryType::GNULongName));
        all.push(long);
        let mut header =
            member(Header::new_gnu(), &format!("{directory}/{name}")[..100], bytes.len(), EntryType::Regular);
        header.extend(&bytes);
        all.push(header);
        all.iter_mut().for_each(|part| part.resize(part.len().next_multiple_of(512), 0));
    }
    tar(&all)
}

fn gpkg() -> Seeds {
    let with = |head: [u8; 4], bytes: Vec<u8>| [head.to_vec(), bytes].concat();
    let sound = tar(&members("hello-2.0-r1-3", &parts()));
    let mut signed = parts();
    signed.push(("notes", b"an extra".to_vec()));
    signed.reverse();
    let two = [parts(), vec![("image.tar", b"another".to_vec())]].concat();
    let link = [members("p", &parts()), vec![member(Header::new_ustar(), "p/x", 0, EntryType::Symlink)]].concat();
    vec![
        ("seed-sound", with([0, 255, 255, 255], sound.clone())),
        ("seed-by-magic", with([1, 9, 63, 0], sound.clone())),
        ("seed-mended", with([6, 90, 91, 92], sound.clone())),
        ("seed-restarted", with([8, 255, 1, 90], sound.clone())),
        ("seed-reversed", with([6, 90, 90, 90], tar(&members("p", &signed)))),
        ("seed-long-names", with([0, 90, 90, 90], long_names())),
        ("seed-two-images", with([4, 255, 90, 90], tar(&members("p", &two)))),
        ("seed-a-link", with([6, 255, 255, 255], tar(&link))),
        ("seed-cut", with([0, 90, 90, 90], sound[..sound.len() - 700].to_vec())),
    ]
}

fn manifest() -> Seeds {
    let metadata = metadata();
    let text = manifest_of([("gpkg-1", &b""[..]), ("metadata.tar", b""), ("image.tar", b"an image")]);
    let signed = format!(
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n- {text}-----BEGIN PGP SIGNATURE-----\n\niQIz\n=abcd\n\
         -----END PGP SIGNATURE-----\n"
    );
    let end = metadata.len() - 1024;
    let directory = [
        member(Header::new_gnu(), "metadata/", 0, EntryType::Directory),
        metadata[..end].to_vec(),
        member(Header::new_gnu(), "metadata/x", 1024, EntryType::Directory),
        regular("metadata/PF", b"other-1"),
        metadata[end..].to_vec(),
    ];
    let with = |mode: u8, extension: u8, bytes: &[u8]| [&[mode, extension], bytes].concat();
    vec![
        ("seed-text", with(0, 0, text.as_bytes())),
        ("seed-signed", with(0, 0, signed.as_bytes())),
        ("seed-plain", with(2, 0, &metadata)),
        ("seed-directories", with(2, 0, &directory.concat())),
        ("seed-gz", with(1, 1, &compressed("gz"))),
        ("seed-bz2", with(1, 2, &compressed("bz2"))),
        ("seed-lz4", with(1, 3, &compressed("lz4"))),
        ("seed-lz", with(1, 4, LZIP)),
        ("seed-xz", with(1, 5, XZ)),
        ("seed-zst", with(1, 6, ZSTD)),
        ("seed-skippable-zst", with(1, 6, &[&b"\x50\x2a\x4d\x18\x02\0\0\0xx"[..], ZSTD].concat())),
        ("seed-two-gz", with(1, 1, &[compressed("gz"), compressed("gz")].concat())),
    ]
}

fn segment(values: &[(&str, &str)]) -> Vec<u8> {
    let (mut index, mut data) = (Vec::new(), Vec::new());
    let number = |number: usize| u32::try_from(number).unwrap().to_be_bytes();
    for (key, value) in values {
        index.extend([&number(key.len())[..], key.as_bytes(), &number(data.len()), &number(value.len())].concat());
        data.extend(value.as_bytes());
    }
    let segment = [b"XPAKPACK", &number(index.len())[..], &number(data.len()), &index, &data, b"XPAKSTOP"].concat();
    [&segment[..], &number(segment.len()), b"STOP"].concat()
}

fn xpak() -> Seeds {
    let with = |head: [u8; 4], before: &[u8], segment: Vec<u8>| [&head[..], before, &segment].concat();
    let twice = [("PF", "hello-2.0-r1"), ("CATEGORY", "app-misc"), ("repository", "r"), ("PF", "x")];
    vec![
        ("seed-sound", with([0, 255, 255, 255], b"a compressed tar", segment(&VALUES))),
        ("seed-tbz2", with([1, 9, 9, 9], b"", segment(&VALUES))),
        ("seed-by-bytes", with([2, 8, 0, 90], &[b'x'; 300], segment(&VALUES))),
        ("seed-restarted", with([8, 20, 20, 20], b"x", segment(&VALUES))),
        ("seed-twice", with([0, 255, 255, 255], b"", segment(&twice))),
        ("seed-few", with([0, 255, 255, 255], b"", segment(&twice[..3]))),
        ("seed-another", with([0, 255, 255, 255], b"", segment(&[("CATEGORY", "app-misc"), ("PF", "hello-3")]))),
        ("seed-nothing", with([0, 255, 255, 255], b"", segment(&[]))),
    ]
}
