//! Benchmarks of code: index, entry, tree, proof, cache. Whole-process figures are in `process`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark that panics has failed, which is what it is for"
)]

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use binhostfs::internals::cache::{Blob, BlobKeys, Cache, Incoming, Placement};
use binhostfs::internals::index::{
    AuxKey, AuxValues, BinhostId, Comparison, Digest, Entry, EntryValues, Index, IndexRenderer, PkgPath, View,
};
use binhostfs::internals::metrics::Metrics;
use binhostfs::internals::portage::Cpv;
use binhostfs::internals::tree::{Inode, PackagesFile, Tree};
use binhostfs::internals::verify::{Policy, Receiver, Verified};
use criterion::{BatchSize, Criterion, Throughput};
use md5::{Digest as _, Md5};
use sha1::Sha1;

#[path = "../src/cli/demo/package.rs"]
#[expect(dead_code, reason = "only the bytes of a package are wanted here")]
mod package;

const ENTRIES: usize = 20_000;
/// As in `fetch`.
const CHUNK: usize = 512 << 10;

/// A file without a name that holds `text`.
fn file_of(text: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text).unwrap();
    file
}

/// An index of entries of some 1.1 KiB, as the official binhosts have them. `changed`: every so many-th has another build.
fn index_text(changed: usize) -> String {
    let mut text = format!("ARCH: amd64\nPACKAGES: {ENTRIES}\nTIMESTAMP: 1760000000\nVERSION: 0\n\n");
    let dependencies =
        "dev-libs/libfoo:= >=dev-libs/glib-2.80:2[abi_x86_64(-)?] ssl? ( dev-libs/openssl:0= ) ".repeat(3);
    let libraries = "libc.so.6 libglib-2.0.so.0 libgobject-2.0.so.0 libz.so.1 ".repeat(3);
    for at in 0..ENTRIES {
        let (category, name) = (format!("cat-{}", at / 300), format!("package{}", at / 3));
        let (pf, build) = (format!("{name}-1.{}.{at}", at % 3), if at % changed == changed - 1 { 2 } else { 1 });
        write!(
            text,
            "BDEPEND: {dependencies}\nBUILD_ID: {build}\nBUILD_TIME: {time}\nCPV: {category}/{pf}\nDEFINED_PHASES: compile install\n\
             DEPEND: {dependencies}\nEAPI: 8\nIUSE: doc nls ssl static-libs test\nKEYWORDS: amd64\nLICENSE: GPL-2\nMD5: {at:032x}\n\
             PATH: {category}/{name}/{pf}-{build}.gpkg.tar\nRDEPEND: {dependencies}\nREQUIRES: x86_64: {libraries}\n\
             SHA1: {at:040x}\nSIZE: {size}\nUSE: amd64 elibc_glibc kernel_linux nls ssl\nMTIME: {time}\n\n",
            time = 1_750_000_000 + at,
            size = 20_480 + at * 512,
        )
        .unwrap();
    }
    text
}

fn tree_of(index: Index) -> Tree {
    let view = Arc::new(View::whole(BinhostId(0), Arc::new(index)));
    let rendered = IndexRenderer::of(&view).render(std::io::sink(), 1).unwrap();
    Tree::new(1, view, PackagesFile { content: Arc::new(tempfile::tempfile().unwrap()).into(), rendered })
}

fn index(criterion: &mut Criterion) {
    let text = index_text(usize::MAX);
    let file = file_of(text.as_bytes());
    let parse = || Index::parse(file.try_clone().unwrap()).unwrap();
    let mut group = criterion.benchmark_group("index of 20,000 entries");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("parse", |b| b.iter(parse));
    let view = View::whole(BinhostId(0), Arc::new(parse()));
    group.bench_function("render", |b| b.iter(|| IndexRenderer::of(&view).render(std::io::sink(), 1).unwrap()));
}

/// An entry held against its package: when the package is verified, and when it is in the cache.
fn entry(criterion: &mut Criterion) {
    let text = index_text(usize::MAX);
    let index = Index::parse(file_of(text.as_bytes())).unwrap();
    let stanza = index.stanza(&index.records()[ENTRIES / 2]).unwrap();
    let metadata = |key: AuxKey| match key {
        // As the ebuild has them; the entry has what the flags leave.
        AuxKey::Bdepend | AuxKey::Depend | AuxKey::Rdepend => Some(
            stanza
                .get(key.name())?
                .replace(" ssl? ( dev-libs/openssl:0= )", "\n\tssl? ( dev-libs/openssl:0= )\n\tdoc? ( app-text/x )"),
        ),
        _ => stanza.get(key.name()).map(str::to_owned),
    };
    let metadata: Vec<Option<String>> = AuxKey::ALL.map(metadata).into();
    let of_package = || AuxValues::of_package(|key| metadata[key as usize].as_deref().map(str::as_bytes));
    let reduced = of_package();
    let entry_text: String = AuxKey::ALL.map(|key| format!("{key}: {}\n", reduced.get(key))).concat();
    let header = text.split("\n\n").next().unwrap();
    let made = format!("{header}\n\nCPV: a/b-1\nMD5: {:032}\nPATH: a/b-1.gpkg.tar\nSIZE: 5\n{entry_text}\n", 0);
    let index = Index::parse(file_of(made.as_bytes())).unwrap();
    let stanza = index.stanza(&index.records()[0]).unwrap();
    let digest = reduced.digest();
    let mut group = criterion.benchmark_group("entry of 1.1 KiB");
    group.bench_function("make the package's values and compare", |b| {
        b.iter(|| assert_eq!(of_package().compare(&EntryValues::of(&stanza, &index)), Comparison::Equal))
    });
    group.bench_function("digest for the cache", |b| b.iter(|| reduced.digest()));
    let record = &index.records()[0];
    group.bench_function("read, and compare with a cached package", |b| {
        b.iter(|| assert!(EntryValues::of(&index.stanza(record).unwrap(), &index).agrees_with(digest)))
    });
}

fn tree(criterion: &mut Criterion) {
    let tree = tree_of(Index::parse(file_of(index_text(usize::MAX).as_bytes())).unwrap());
    let mut group = criterion.benchmark_group("tree of 20,000 entries");
    let rendered = tree.packages().rendered;
    let packages = || PackagesFile { content: tree.packages().content.clone(), rendered };
    let build = |packages| Tree::new(1, Arc::clone(tree.view()), packages);
    group.bench_function("build", |b| b.iter_batched(packages, build, BatchSize::SmallInput));
    let paths: Vec<&str> = (0..tree.view().len() as u32).map(|row| tree.view().path(row)).collect();
    let inode = |path: &str| path.split('/').fold(Inode::ROOT, |at, name| tree.lookup(at, name).unwrap().inode);
    // Far from each other, as a prime steps through them.
    let mut next = (0..).map(|at| at * 7919 % ENTRIES);
    group.bench_function("look up a path of three names", |b| b.iter(|| inode(paths[next.next().unwrap()])));
    let inodes: Vec<Inode> = paths.iter().map(|path| inode(path)).collect();
    let attributes = |inode| tree.attributes(tree.node(inode).unwrap()).unwrap();
    group.bench_function("attributes of an inode", |b| b.iter(|| attributes(inodes[next.next().unwrap()])));
    let newer = tree_of(Index::parse(file_of(index_text(10).as_bytes())).unwrap());
    group.bench_function("changes to one in which every tenth differs", |b| b.iter(|| tree.changes(&newer)));
}

fn entry_of(pf: &str, ending: &str, bytes: &[u8]) -> Entry {
    Entry {
        cpv: Cpv::parse(&format!("app-misc/{pf}")).unwrap(),
        path: PkgPath::parse(&format!("app-misc/{pf}.{ending}")).unwrap(),
        size: bytes.len() as u64,
        mtime: 1,
        build_id: None,
        build_time: None,
        md5: Some(Digest(Md5::digest(bytes).into())),
        sha1: Some(Digest(Sha1::digest(bytes).into())),
    }
}

/// An XPAK of `image` bytes, which differ by `number`. Source of the format: xpak(5).
fn xpak(pf: &str, image: usize, number: u64) -> Vec<u8> {
    let word = |number: usize| u32::try_from(number).unwrap().to_be_bytes();
    let (mut names, mut data) = (Vec::new(), Vec::new());
    for (name, value) in [("CATEGORY", "app-misc"), ("PF", pf)] {
        names.extend([&word(name.len())[..], name.as_bytes(), &word(data.len()), &word(value.len())].concat());
        data.extend(value.bytes());
    }
    let segment = [&b"XPAKPACK"[..], &word(names.len()), &word(data.len()), &names, &data, b"XPAKSTOP"].concat();
    let mut file = number.to_be_bytes().repeat(image / 8);
    file.extend(&segment);
    file.extend([&word(segment.len())[..], b"STOP"].concat());
    file
}

fn receive(file: File, entry: &Entry, bytes: &[u8]) -> Verified {
    let mut receiver = Receiver::new(file, entry.clone(), Policy::digests_only());
    bytes.chunks(CHUNK).for_each(|chunk| receiver.write(chunk).unwrap());
    receiver.finish().unwrap()
}

fn verify(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("receive and prove 32 MiB");
    let gpkg = package::build("app-misc", "big-1", 32 << 20).unwrap().bytes;
    for (ending, bytes) in [("gpkg.tar", gpkg), ("xpak", xpak("big-1", 32 << 20, 1))] {
        let entry = entry_of("big-1", ending, &bytes);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let empty = || tempfile::tempfile().unwrap();
        let receive = |file| receive(file, &entry, &bytes);
        group.bench_function(ending, |b| b.iter_batched(empty, receive, BatchSize::PerIteration));
    }
}

/// A blob of 16 KiB that is received and not yet committed.
fn received(cache: &Arc<Cache>, number: u64) -> (Incoming, Blob, Entry) {
    let bytes = xpak("small-1", 16 << 10, number);
    let entry = entry_of("small-1", "xpak", &bytes);
    let mut incoming = cache.incoming(entry.size).unwrap();
    incoming.reserve(entry.size).unwrap();
    let blob = cache.blob(receive(incoming.file().unwrap(), &entry, &bytes));
    (incoming, blob, entry)
}

fn cache(criterion: &mut Criterion) {
    // Beside the program: /tmp may be in memory, where fsync costs nothing.
    let directory = tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
    let cache = Arc::new(Cache::open(directory.path(), 1 << 30, Arc::new(Metrics::default())).unwrap());
    let commit = |(incoming, blob, entry): (_, Blob, Entry)| {
        assert_eq!(cache.commit(incoming, &blob, entry.id(), BlobKeys::default()), Placement::Kept)
    };
    let mut group = criterion.benchmark_group("cache");
    let mut numbers = 0..;
    let mut next = || received(&cache, numbers.next().unwrap());
    group.bench_function("commit 16 KiB, durably", |b| b.iter_batched(&mut next, commit, BatchSize::PerIteration));
    let (_, _, entry) = received(&cache, 0);
    group.bench_function("get", |b| b.iter(|| cache.get(entry.id(), entry.size, &Policy::digests_only()).unwrap()));
}

fn main() {
    let short = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(300));
    let mut criterion = short.measurement_time(Duration::from_secs(2)).configure_from_args();
    for benchmark in [index, entry, tree, verify, cache] {
        benchmark(&mut criterion);
    }
    criterion.final_summary();
}
