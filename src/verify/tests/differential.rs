//! Python's tarfile reads every verified package in the same way, and Portage's own check accepts
//! it.
//!
//! Containers are generated at random. Most of them are sound, in every form that Portage writes.
//! The others have one or two things that Portage does not write. Digests and signatures are right
//! in all of them. One Portage process reads all containers.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use blake2::Blake2b512;
use serde_json::Value;
use sha2::{Digest as _, Sha256, Sha512};
use tar::{EntryType, Header};

use super::super::gpkg::Container;
use super::super::{Keyring, recheck};
use super::chance::{Random, number};
use super::gpg::Gpg;
use super::metadata::EXTENSIONS;
use super::sample::{GPKG, VALUES, compress, entry, metadata_tar, regular};
use super::*;
use crate::index::Digest;

/// One package in this many is signed, because gpg takes most of the time.
const SIGNED: u64 = 4;

/// Variants of a header that Portage writes.
#[derive(Debug, Clone, Copy)]
struct Form {
    gnu: bool,
    mode: u32,
    mtime: u64,
    owner: &'static str,
    /// Device numbers as Python 3.9 to 3.11 write them, or as later versions do.
    devices: &'static [u8; 8],
    /// Whether the checksum is `%06o\0 ` or `%07o\0`.
    python_checksum: bool,
}

/// A change that Portage never writes.
#[derive(Debug, Clone, Copy)]
enum Odd {
    Nothing,
    /// Changes bytes somewhere in a header.
    Header,
    /// Fills a field of a header with bytes that another reader might interpret.
    Field(usize, &'static [u8]),
    /// Changes the kind of a member.
    Kind(u8),
    /// Adds a header before the first, of this kind and with this name.
    Before(u8, &'static [u8]),
    /// Adds a second member of one name.
    Twice,
    /// Moves a member to another directory, or to none.
    Elsewhere(&'static str),
    /// Changes something in the tail.
    Tail,
    /// Changes a line of the Manifest.
    Manifest(&'static str, &'static str),
    /// Changes the name of a member.
    Name(&'static str, &'static str),
    /// Leaves out a member.
    Without(&'static str),
    /// Empties a member of the container.
    Empty(&'static str),
    /// Moves a member of the metadata to another place.
    Metadata(&'static str),
}

const ODD: &[Odd] = &[
    Odd::Header,
    Odd::Header,
    Odd::Header,
    Odd::Field(0, b"BZh91AY&SY"),
    Odd::Field(0, b"]\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff"),
    Odd::Field(0, b"Z0\0\0\0\0\0\0\0\0\0\0\0"),
    Odd::Field(0, b"]\xff\xff\xff\xff"),
    Odd::Field(0, b"LZIP\0"),
    Odd::Field(0, b"LZIP\x01"),
    Odd::Field(0, b"\x28\xb5\x2f\xfd"),
    Odd::Field(0, b"P*M\x18"),
    Odd::Field(0, b"\x1f\x8b\x08"),
    Odd::Field(100, b"0000 644"),
    Odd::Field(100, b"-000644\0"),
    Odd::Field(108, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
    Odd::Field(108, b"9999999\0"),
    Odd::Field(124, b"0000000001 \0"),
    Odd::Field(124, b"        512\0"),
    Odd::Field(124, b"512\0\0\0\0\0\0\0\0\0"),
    Odd::Field(124, b"\x80\0\0\0\0\0\0\0\0\0\x02\0"),
    Odd::Field(124, b"\x80\0\0\x01\0\0\0\0\0\0\0\0"),
    Odd::Field(124, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\0"),
    Odd::Field(136, b"-1\0"),
    Odd::Field(136, b"1700000000.5"),
    Odd::Field(157, b"link"),
    Odd::Field(257, b"ustar\0  "),
    Odd::Field(257, b"ustar  x"),
    Odd::Field(257, b"\0\0\0\0\0\0\0\0"),
    Odd::Field(265, b"\xff\xfe"),
    Odd::Field(265, b"root\0x"),
    Odd::Field(329, b"xxxxxxxx"),
    Odd::Field(345, b"directory"),
    Odd::Field(482, b"\x01"),
    Odd::Field(500, b"x"),
    Odd::Kind(0),
    Odd::Kind(b'1'),
    Odd::Kind(b'2'),
    Odd::Kind(b'5'),
    Odd::Kind(b'7'),
    Odd::Kind(b'D'),
    Odd::Kind(b'K'),
    Odd::Kind(b'L'),
    Odd::Kind(b'S'),
    Odd::Kind(b'V'),
    Odd::Kind(b'g'),
    Odd::Kind(b'x'),
    Odd::Before(b'L', b"././@LongLink"),
    Odd::Before(b'L', b"BZh91AY&SY"),
    Odd::Before(b'K', b"././@LongLink"),
    Odd::Before(b'x', b"p/PaxHeaders"),
    Odd::Before(b'g', b"pax_global_header"),
    Odd::Before(b'5', b"hello-2.0-r1-3/"),
    Odd::Before(b'V', b"a volume"),
    Odd::Twice,
    Odd::Elsewhere("other/"),
    Odd::Elsewhere("./"),
    Odd::Elsewhere("/"),
    Odd::Elsewhere(""),
    Odd::Elsewhere("hello-2.0-r1-3/deeper/"),
    Odd::Elsewhere("hello-2.0-r1-3/../hello-2.0-r1-3/"),
    Odd::Tail,
    Odd::Manifest("SHA512 ", "SHA512 0"),
    Odd::Manifest("DATA gpkg-1", "DATA  gpkg-1"),
    Odd::Manifest("DATA gpkg-1 0", "DATA gpkg-1 00"),
    Odd::Manifest("DATA gpkg-1 0", "DATA gpkg-1 0_0"),
    Odd::Manifest("DATA gpkg-1 0", "DATA gpkg-1 +0"),
    Odd::Manifest("DATA gpkg-1", "MISC gpkg-1"),
    Odd::Manifest("DATA gpkg-1", "DATA hello-2.0-r1-3/gpkg-1"),
    Odd::Manifest("\n", "\r\n"),
    Odd::Manifest("\n", "\u{b}"),
    Odd::Manifest("\n", "\n\n"),
    Odd::Manifest("\n", " \n"),
    Odd::Manifest("\n", "\u{2028}"),
    Odd::Manifest("BLAKE2B", "blake2b"),
    Odd::Manifest("DATA", "data"),
    Odd::Name("image.tar", "image.tar.lol"),
    Odd::Name("image.tar", "Image.tar"),
    Odd::Name("image.tar", "image"),
    Odd::Name("metadata.tar", "metadata.tar.lol"),
    Odd::Name("metadata.tar", "metadata.tgz"),
    Odd::Name("gpkg-1", "gpkg-2"),
    Odd::Name("gpkg-1", "gpkg-1.sig"),
    Odd::Name("Manifest", "manifest"),
    Odd::Without("gpkg-1"),
    Odd::Without("Manifest"),
    Odd::Without("image.tar"),
    Odd::Without("metadata.tar"),
    Odd::Without(".sig"),
    Odd::Empty("image.tar"),
    Odd::Empty("metadata.tar"),
    Odd::Empty("Manifest"),
    Odd::Metadata("metadata/./PF"),
    Odd::Metadata("metadata/x/../PF"),
    Odd::Metadata("./metadata/PF"),
    Odd::Metadata("metadata/PF"),
    Odd::Metadata("metadata/"),
    Odd::Metadata("PF"),
];

/// A package, and whether Portage would make it in this way.
struct Package {
    bytes: Vec<u8>,
    signed: bool,
    sound: bool,
    what: String,
}

struct Generator {
    random: Random,
    gpg: Gpg,
    key: String,
    /// Cache of signatures for members that occur repeatedly.
    signatures: HashMap<[u8; 32], Vec<u8>>,
    images: Vec<Vec<u8>>,
}

impl Generator {
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.random.below(of.len() as u64) as usize]
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.random.below(count) == 0
    }

    fn form(&mut self) -> Form {
        Form {
            gnu: self.one_in(3),
            mode: self.pick(&[0o644, 0o644, 0o644, 0o600, 0o755, 0]),
            mtime: self.pick(&[1_700_000_000, 0, 0o77_777_777_777]),
            owner: self.pick(&["", "", "root", "portage"]),
            devices: self.pick(&[&[0; 8], b"0000000\0"] as &[&[u8; 8]]),
            python_checksum: !self.one_in(4),
        }
    }

    /// Returns characters of a PF.
    fn name(&mut self, length: u64) -> String {
        let word = b"abcxyzABCXYZ0123456789_";
        let first = char::from(self.pick(word));
        let rest = (1..length).map(|_| char::from(self.pick(b"abcXYZ0123456789_+.-")));
        std::iter::once(first).chain(rest).collect()
    }

    fn directory(&mut self) -> String {
        let length = match self.random.below(12) {
            0..4 => return "hello-2.0-r1-3".to_owned(),
            4..8 => 1 + self.random.below(40),
            8 | 9 => 80 + self.random.below(30),
            10 => 110 + self.random.below(50),
            _ => 150 + self.random.below(106),
        };
        self.name(length)
    }

    /// Returns members without Manifest and signatures.
    fn parts(&mut self, odd: Odd) -> Vec<(String, Vec<u8>)> {
        let mut extension = self.pick(&EXTENSIONS);
        let mut values = metadata_tar(&VALUES);
        if let Odd::Metadata(name) = odd {
            extension = self.pick(&["", "gz", "bz2"]);
            let odd_one = regular(name, b"other-1");
            let at = self.pick(&[0, 1024]);
            values.splice(at..at, odd_one);
        }
        let dot = |extension: &str| if extension.is_empty() { String::new() } else { format!(".{extension}") };
        let image_extension = self.pick(&["zst", "zst", "xz", "lzo", "gz", "lz4", "lz", "bz2", ""]);
        let image = self.images[self.random.below(self.images.len() as u64) as usize].clone();
        let mut parts = vec![
            ("gpkg-1".to_owned(), Vec::new()),
            (format!("metadata.tar{}", dot(extension)), compress(extension, &values)),
            (format!("image.tar{}", dot(image_extension)), image),
        ];
        for _ in 0..if self.one_in(6) { 1 + self.random.below(3) } else { 0 } {
            let length = 1 + self.random.below(20);
            let (name, count) = (self.name(length), self.random.below(2000) as usize);
            parts.push((format!("z{name}"), vec![b'x'; count]));
        }
        for (name, bytes) in &mut parts {
            match odd {
                Odd::Name(from, to) => *name = name.replacen(from, to, 1),
                Odd::Empty(which) if name.starts_with(which) => bytes.clear(),
                _ => {}
            }
        }
        parts.retain(|(name, _)| !matches!(odd, Odd::Without(which) if name.starts_with(which)));
        parts
    }

    fn signature(&mut self, bytes: &[u8], armor: &str) -> Vec<u8> {
        let id: [u8; 32] = Sha256::new().chain_update(armor).chain_update(bytes).finalize().into();
        let (gpg, key) = (&self.gpg, &self.key);
        self.signatures.entry(id).or_insert_with(|| gpg.detach(&[armor, "--local-user", key], bytes)).clone()
    }

    fn manifest(&mut self, parts: &[(String, Vec<u8>)], odd: Odd) -> String {
        let (swapped, upper) = (self.one_in(2), self.one_in(8));
        let line = |(name, bytes): &(String, Vec<u8>)| {
            let mut sums = [
                format!("SHA512 {}", Digest(Sha512::digest(bytes).into())),
                format!("BLAKE2B {}", Digest(Blake2b512::digest(bytes).into())),
            ];
            if swapped {
                sums.swap(0, 1);
            }
            let sums = sums.join(" ");
            format!("DATA {name} {} {}\n", bytes.len(), if upper { sums.to_uppercase() } else { sums })
        };
        let text: String = parts.iter().map(line).collect();
        match odd {
            Odd::Manifest(from, to) => text.replacen(from, to, 1),
            _ => text,
        }
    }

    fn package(&mut self) -> Package {
        let signed = self.one_in(SIGNED);
        let odd = if self.one_in(3) { self.pick(ODD) } else { Odd::Nothing };
        let mut parts = self.parts(odd);
        if signed {
            let armor = self.pick(&["--armor", "--no-armor"]);
            let tars: Vec<_> = parts.iter().filter(|(name, _)| name != "gpkg-1").cloned().collect();
            let signatures =
                tars.into_iter().map(|(name, bytes)| (format!("{name}.sig"), self.signature(&bytes, armor)));
            let signatures: Vec<_> = signatures.collect();
            if !matches!(odd, Odd::Without(".sig")) {
                parts.extend(signatures);
            }
        }
        let text = self.manifest(&parts, odd);
        let manifest =
            if signed { self.gpg.clearsign(&["--local-user", &self.key], text.as_bytes()) } else { text.into_bytes() };
        let manifest = if matches!(odd, Odd::Empty("Manifest")) { Vec::new() } else { manifest };
        if !matches!(odd, Odd::Without("Manifest")) {
            let name = if matches!(odd, Odd::Name("Manifest", _)) { "manifest" } else { "Manifest" };
            parts.push((name.to_owned(), manifest));
        }
        // Portage writes no members beyond its own. Names of such members alone could begin a file.
        let mut sound = matches!(odd, Odd::Nothing) && !parts.iter().any(|(name, _)| name.starts_with('z'));
        if self.one_in(3) {
            for at in (1..parts.len()).rev() {
                parts.swap(at, self.random.below(at as u64 + 1) as usize);
            }
            // Portage does not find a signature before its member.
            let at = |name: &str| parts.iter().position(|(other, _)| other == name);
            sound &= parts.iter().all(|(name, _)| at(&format!("{name}.sig")).is_none_or(|sig| Some(sig) > at(name)));
        }
        let (bytes, what) = self.container(&parts, odd);
        Package { bytes, signed, sound, what: format!("{odd:?} signed={signed} {what}") }
    }

    fn container(&mut self, parts: &[(String, Vec<u8>)], odd: Odd) -> (Vec<u8>, String) {
        let directory = self.directory();
        let form = self.form();
        let strange = self.random.below(parts.len().max(1) as u64) as usize;
        let mut all = Vec::new();
        if let Odd::Before(kind, name) = odd {
            let content = self.pick(&[&b"x\0"[..], b"", b"30 path=hello-2.0-r1-3/gpkg-1\n"]);
            all.extend(head(name, content.len(), kind, form));
            all.extend(padded(content));
        }
        for (at, (name, bytes)) in parts.iter().enumerate() {
            // Portage writes a container in one format, and may later rewrite parts of it in the
            // other.
            let form = Form { gnu: form.gnu != self.one_in(5), ..form };
            let mut place = format!("{directory}/");
            let mut member = if let (Odd::Elsewhere(other), true) = (odd, at == strange) {
                other.clone_into(&mut place);
                header(&format!("{place}{name}"), bytes.len(), form)
            } else {
                header(&format!("{place}{name}"), bytes.len(), form)
            };
            let last = member.len() - 512;
            if at == strange {
                self.damage(&mut member[last..], odd);
            }
            member.extend(padded(bytes));
            if matches!(odd, Odd::Twice) && at == strange {
                let other: Vec<u8> = bytes.iter().map(|byte| byte ^ 1).collect();
                let mut again = header(&format!("{place}{name}"), other.len(), form);
                again.extend(padded(&other));
                if self.one_in(2) { all.extend(again) } else { member.extend(again) }
            }
            all.extend(member);
        }
        let blocks = self.pick(&[2, 2, 3, 20, 37]);
        all.resize(all.len() + 512 * blocks, 0);
        if self.one_in(2) {
            all.resize(all.len().next_multiple_of(10240), 0);
        }
        if matches!(odd, Odd::Tail) {
            let end = all.len();
            match self.random.below(3) {
                0 => all[end - 1] = 1,
                1 => all.truncate(end - 512 * blocks.min(2)),
                _ => all.extend(header("hello-2.0-r1-3/x", 0, form)),
            }
        }
        (all, format!("{directory} {form:?}"))
    }

    fn damage(&mut self, block: &mut [u8], odd: Odd) {
        match odd {
            Odd::Header => {
                for _ in 0..1 + self.random.below(3) {
                    block[self.random.below(512) as usize] = self.random.below(256) as u8;
                }
            }
            Odd::Field(at, bytes) => block[at..at + bytes.len()].copy_from_slice(bytes),
            Odd::Kind(kind) => block[156] = kind,
            _ => return,
        }
        let mut head = Header::new_old();
        head.as_mut_bytes().copy_from_slice(block);
        head.set_cksum();
        block.copy_from_slice(head.as_bytes());
    }
}

/// Builds one header block.
fn head(name: &[u8], size: usize, kind: u8, form: Form) -> Vec<u8> {
    let mut head = if form.gnu { Header::new_gnu() } else { Header::new_ustar() };
    head.as_old_mut().name[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
    head.set_mode(form.mode);
    head.set_uid(0);
    head.set_gid(0);
    head.set_mtime(form.mtime);
    head.set_size(size as u64);
    head.as_old_mut().linkflag = [kind];
    head.set_username(form.owner).unwrap();
    head.set_groupname(form.owner).unwrap();
    head.as_mut_bytes()[329..337].copy_from_slice(form.devices);
    head.as_mut_bytes()[337..345].copy_from_slice(form.devices);
    head.set_cksum();
    if form.python_checksum {
        let sum = format!("{:06o}\0 ", head.cksum().unwrap());
        head.as_old_mut().cksum.copy_from_slice(sum.as_bytes());
    }
    head.as_bytes().to_vec()
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut all = bytes.to_vec();
    all.resize(all.len().next_multiple_of(512), 0);
    all
}

/// Builds a header as Portage writes it. A long name has a GNU header before it, or is split into
/// two fields if it fits.
fn header(path: &str, size: usize, form: Form) -> Vec<u8> {
    let plain = EntryType::Regular.as_byte();
    if path.len() <= 100 {
        return head(path.as_bytes(), size, plain, form);
    }
    match path.split_once('/') {
        Some((directory, name)) if !form.gnu && directory.len() <= 155 && name.len() <= 100 => {
            let mut block = head(name.as_bytes(), size, plain, form);
            let mut ustar = Header::new_old();
            block[345..345 + directory.len()].copy_from_slice(directory.as_bytes());
            ustar.as_mut_bytes().copy_from_slice(&block);
            ustar.set_cksum();
            ustar.as_bytes().to_vec()
        }
        _ => {
            let form = Form { gnu: true, ..form };
            let link = Form { mode: 0, mtime: 0, owner: "", ..form };
            let long = format!("{path}\0");
            [
                head(b"././@LongLink", long.len(), b'L', link),
                padded(long.as_bytes()),
                head(path.as_bytes(), size, plain, form),
            ]
            .concat()
        }
    }
}

/// A process with the real Portage, which reads the packages whose paths it gets.
struct Portage {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Portage {
    fn start(python: &Path, place: &Path, gpg_home: &Path) -> Self {
        let script = place.join("reader.py");
        fs::write(&script, include_str!("reader.py")).unwrap();
        let mut command = Command::new(python);
        command.arg("-I").arg(script).arg(gpg_home).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, stdin, stdout }
    }

    fn read(&mut self, path: &Path) -> Value {
        writeln!(self.stdin, "{}", path.display()).unwrap();
        let mut line = String::new();
        // Portage itself also prints the faults that it finds.
        while !line.starts_with('{') {
            line.clear();
            assert!(self.stdout.read_line(&mut line).unwrap() > 0, "Portage has ended");
        }
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Portage {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Names and SHA-256 of the members as this program reads them.
fn members(bytes: &[u8]) -> BTreeMap<String, String> {
    let mut container = Container::new(bytes.len() as u64);
    container.push(bytes).unwrap();
    let contents = container.finish().unwrap();
    let sum = |bytes: &[u8]| Digest::<32>(Sha256::digest(bytes).into()).to_string();
    let own = |member: &super::super::gpkg::Member| {
        let (offset, size) = (member.offset as usize, member.size as usize);
        (member.name.clone(), sum(&bytes[offset..offset + size]))
    };
    let mut all: BTreeMap<_, _> = contents.members().iter().map(own).collect();
    all.insert("Manifest".to_owned(), sum(&contents.manifest));
    all
}

/// Returns the difference between Portage's reading and this program's, if there is one.
fn difference(bytes: &[u8], answer: &Value) -> Option<String> {
    if let Some(fault) = answer.get("fault") {
        return Some(format!("Portage refuses it: {fault}"));
    }
    let listed: Vec<(String, u64, String)> = serde_json::from_value(answer["members"].clone()).unwrap();
    let named = |(path, _, sum): &(String, u64, String)| (path.split_once('/').unwrap().1.to_owned(), sum.clone());
    let theirs: BTreeMap<_, _> = listed.iter().map(named).collect();
    let ours = members(bytes);
    if theirs != ours || listed.len() != ours.len() {
        return Some(format!("Portage reads {listed:?}, not {ours:?}"));
    }
    let metadata = answer["metadata"].as_object()?;
    let differs = |(key, value): &(&str, &str)| metadata.get(*key).and_then(Value::as_str) != Some(value);
    VALUES.iter().find(|value| differs(value)).map(|value| format!("Portage has no {value:?} but {metadata:?}"))
}

/// Returns the interpreter that has the real Portage. `None`: the test is skipped with a message.
fn python() -> Option<PathBuf> {
    let environment = std::env::var_os("BINHOSTFS_TEST_ENV").map(PathBuf::from).unwrap_or_default();
    let python = environment.join("venv/bin/python");
    let ready = python.is_absolute() && python.exists();
    let required = std::env::var_os("BINHOSTFS_TEST_REQUIRE_ALL").is_some();
    assert!(ready || !required, "required, and not here: BINHOSTFS_TEST_ENV, filled by tests/portage/prepare.sh");
    if !ready {
        eprintln!("SKIPPED: BINHOSTFS_TEST_ENV, filled by tests/portage/prepare.sh");
    }
    ready.then_some(python)
}

#[test]
fn portage_reads_every_verified_package_as_it_was_verified() {
    let Some(python) = python() else { return };
    let gpg = Gpg::new().expect("Portage is here, and gpg is not");
    let key = gpg.key("differential", "ed25519", "sign", "0", None);
    // Portage requires gpg to trust the key, and gpg must not compute the trust during the test.
    gpg.run(&["--trust-model", "pgp", "--check-trustdb"], b"");
    let keyring = Keyring::open([gpg.write("key.pgp", &gpg.export(&[&key]))]).unwrap();
    let signed = Policy { uncompressed: true, ..Policy::signed(Arc::new(keyring)) };
    let place = tempfile::tempdir().unwrap();
    let mut portage = Portage::start(&python, place.path(), gpg.home());
    let mut random = Random::new();
    let images = (0..8).map(|_| (0..1 + random.below(3000)).map(|at| at as u8).collect()).collect();
    let mut generator = Generator { random, gpg, key, signatures: HashMap::new(), images };
    let wanted = number("BINHOSTFS_TEST_DIFFERENTIAL", 400);
    let (mut verified, mut signatures, mut refused) = (0, 0, BTreeMap::<String, u32>::new());
    let path = place.path().join("hello-2.0-r1-3.gpkg.tar");
    while verified < wanted {
        let package = generator.package();
        let bytes = &package.bytes;
        fs::write(&path, bytes).unwrap();
        let policy = if package.signed { &signed } else { &READER };
        match recheck(fs::File::open(&path).unwrap(), entry(GPKG, bytes), policy) {
            Ok(_) => {
                let answer = portage.read(&path);
                if let Some(difference) = difference(bytes, &answer) {
                    let kept = std::env::temp_dir().join("binhostfs-differs.gpkg.tar");
                    fs::write(&kept, bytes).unwrap();
                    panic!("{}: {difference}\nThe package is in {}", package.what, kept.display());
                }
                verified += 1;
                signatures += usize::from(package.signed);
            }
            // The only accepted reason is the missing decoder of lzo.
            Err(VerifyError::Compression { .. }) => {}
            Err(error) => {
                assert!(!package.sound, "{}: {error}", package.what);
                *refused.entry(error.to_string().chars().take(60).collect()).or_default() += 1;
            }
        }
    }
    println!(
        "{verified} verified packages, {signatures} of them signed, are read alike by Python and accepted by Portage; {} \
         were refused, for {} reasons",
        refused.values().sum::<u32>(),
        refused.len()
    );
    assert!(refused.len() >= wanted.min(400) / 20, "{refused:#?}");
}
