//! kill -9 at any moment, and damage to the cache: the next start works, and nothing wrong is ever read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use binhostfs::internals::cache::Cache;
use binhostfs::internals::index::Index;
use binhostfs::internals::verify::Policy;

use crate::harness::{Act, Mounted, Options, Origin, Package, Random, can_mount, eventually, index_of, number};

const FRESH: usize = 4;

/// Paths of packages that a cache on these files has; the files stay as they are.
fn committed(cache: &Path, index: &Index) -> BTreeSet<String> {
    let copy = tempfile::tempdir_in(cache.parent().unwrap()).unwrap();
    fs::create_dir(copy.path().join("v1")).unwrap();
    for (part, how) in [("catalogue", "-a"), ("blobs", "-al")] {
        let from = cache.join("v1").join(part);
        assert!(Command::new("cp").arg(how).arg(from).arg(copy.path().join("v1")).status().unwrap().success());
    }
    let cache = Cache::open(copy.path(), u64::MAX >> 1, Arc::default()).unwrap();
    let here =
        index.records().iter().filter(|record| cache.get(record.id, record.size, &Policy::digests_only()).is_some());
    here.map(|record| index.path(record).to_owned()).collect()
}

/// `BINHOSTFS_TEST_KILLS`: how many, in place of 50.
#[test]
fn kills_leave_only_whole_blobs_and_lose_no_commit() {
    if !can_mount() {
        return;
    }
    let rounds = number("BINHOSTFS_TEST_KILLS", 50);
    let mut random = Random::new();
    let name = |at: usize| -> &'static str { Box::leak(format!("p{at}-1").into_boxed_str()) };
    let mut size = || if random.below(2) == 0 { random.below(60_000) } else { random.below(900_000) };
    let packages: Vec<Package> = (0..rounds * FRESH).map(|at| Package::new(name(at), size() as usize)).collect();
    let origin = Origin::with(&packages);
    for package in &packages {
        origin.script(&package.path, [Act::Slow(64 << 10, Duration::from_millis(random.below(12)))]);
    }
    let mut text = tempfile::tempfile().unwrap();
    text.write_all(index_of(1, &packages).as_bytes()).unwrap();
    text.rewind().unwrap();
    let index = Index::parse(text).unwrap();

    let mut mounted = Options::new(origin.url()).mount();
    // Of each package that was seen committed: how often it had been asked for until then.
    let mut asked: BTreeMap<String, usize> = BTreeMap::new();
    let (mut broken_reads, mut early_kills) = (0, 0);
    for round in 0..rounds {
        let fresh = &packages[round * FRESH..(round + 1) * FRESH];
        let old = [(); 2].map(|()| &packages[random.below((round * FRESH + 1) as u64) as usize]);
        broken_reads += std::thread::scope(|scope| {
            let readers = fresh.iter().chain(old).map(|package| {
                let path = mounted.path(&package.path);
                scope.spawn(move || match fs::read(path) {
                    Ok(bytes) => {
                        assert!(bytes == package.bytes, "wrong bytes were read");
                        0
                    }
                    Err(_) => 1,
                })
            });
            let readers: Vec<_> = readers.collect();
            random.pause(250);
            mounted.kill();
            readers.into_iter().map(|reader| reader.join().unwrap()).sum::<u32>()
        });
        for path in committed(&mounted.cache(), &index) {
            let times = origin.asked(&path).len();
            assert_eq!(*asked.entry(path.clone()).or_insert(times), times, "{path} was committed and fetched again");
        }
        for _ in 0..random.below(3) {
            mounted.spawn();
            random.pause(60);
            mounted.kill();
            early_kills += 1;
        }
        mounted.start();
        assert!(mounted.is_sound());
        for package in fresh {
            assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes);
        }
    }
    for package in &packages {
        assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes);
    }
    for (path, times) in &asked {
        assert_eq!(origin.asked(path).len(), *times, "{path} was committed and fetched again");
    }
    eprintln!("{broken_reads} reads broken off, {early_kills} kills during a start, {} commits survived", asked.len());
    assert!(broken_reads > 0 && asked.len() > rounds, "the kills came at the wrong moments");
    assert_eq!(mounted.stop(), Some(0));
    assert!(mounted.is_sound());
    assert!(!mounted.log().contains("panicked"), "{}", mounted.log());
}

/// What a start after damage showed.
struct Survived {
    log: String,
    fetched: usize,
}

/// Fills a cache with three packages, stops, damages `<cache>/v1`, starts, and reads everything back.
fn survive(damage: impl Fn(&Path)) -> Survived {
    let packages = [Package::new("one-1", 100_000), Package::new("two-1", 5_000), Package::new("three-1", 400_000)];
    let origin = Origin::with(&packages);
    let mut mounted = Options::new(origin.url()).mount();
    let read = |mounted: &Mounted| packages.iter().all(|p| fs::read(mounted.path(&p.path)).is_ok_and(|b| b == p.bytes));
    assert!(read(&mounted));
    eventually(10, "all are kept", || mounted.status()["cache"]["packages"] == 3);
    let shown = fs::read(mounted.path("Packages")).unwrap();
    assert_eq!(mounted.stop(), Some(0));
    let (before, asked) = (mounted.log().len(), origin.package_requests());
    damage(&mounted.cache().join("v1"));

    mounted.start();
    // Whatever was wrong with the index, the first refresh heals it.
    eventually(20, "everything reads right again", || {
        fs::read(mounted.path("Packages")).is_ok_and(|text| text == shown) && read(&mounted)
    });
    eventually(10, "all are kept", || mounted.status()["cache"]["packages"] == 3 && mounted.is_sound());
    assert!(read(&mounted));
    assert_eq!(mounted.stop(), Some(0));
    let log = mounted.log()[before..].to_owned();
    assert!(!log.contains("panicked"), "{log}");
    Survived { log, fetched: origin.package_requests() - asked }
}

fn said(survived: &Survived, what: &str) {
    let warned = survived.log.lines().any(|line| line.contains(" WARN ") && line.contains(what));
    assert!(warned, "no warning says {what:?}:\n{}", survived.log);
}

/// Changes bytes in the middle, or wherever `at` says.
fn overwrite(path: &Path, at: impl Fn(u64) -> u64, bytes: &[u8]) {
    let mut file = File::options().write(true).open(path).unwrap();
    let at = at(file.metadata().unwrap().len());
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

fn flip(path: &Path, at: u64) {
    let mut byte = [0];
    let mut file = File::open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    overwrite(path, |_| at, &[byte[0] ^ 1]);
}

fn truncate(path: &Path, length: impl Fn(u64) -> u64) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(length(file.metadata().unwrap().len())).unwrap();
}

/// Files below a directory.
fn below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.flat_map(|path| if path.is_dir() { below(&path) } else { vec![path] }).collect();
    files.sort();
    files
}

/// The file `name` below the only directory in `part`.
fn the(part: &Path, name: &str) -> PathBuf {
    let found: Vec<_> = below(part).into_iter().filter(|path| path.file_name().unwrap() == name).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

/// Replaces `from` by something of the same length, in the middle of a file.
fn replace(path: &Path, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from:?} is not in {}", path.display());
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn a_damaged_catalogue_costs_no_download() {
    if !can_mount() {
        return;
    }
    let garbage: Vec<u8> = (0..4096_u32).map(|at| (at * 7 % 251) as u8).collect();
    for part in 0..6 {
        let survived = survive(|v1| overwrite(&v1.join("catalogue/db"), |length| length * part / 6, &garbage));
        assert_eq!(survived.fetched, 0, "part {part}\n{}", survived.log);
    }
    for part in [0, 1, 3] {
        let survived = survive(|v1| truncate(&v1.join("catalogue/db"), |length| length * part / 4));
        assert_eq!(survived.fetched, 0, "cut to {part}/4\n{}", survived.log);
    }
    let gone = survive(|v1| fs::remove_dir_all(v1.join("catalogue")).unwrap());
    assert_eq!(gone.fetched, 0, "{}", gone.log);
    let garbled = survive(|v1| {
        for file in below(&v1.join("catalogue")) {
            fs::write(file, &garbage).unwrap();
        }
        fs::write(v1.join("catalogue/snap.0000000000000000.generating"), "half").unwrap();
    });
    said(&garbled, "the catalogue");
    assert_eq!(garbled.fetched, 0, "{}", garbled.log);
}

#[test]
fn a_lost_catalogue_is_made_anew_from_the_blobs() {
    if !can_mount() {
        return;
    }
    // Several have one size.
    let packages: [Package; 6] =
        std::array::from_fn(|at| Package::new(Box::leak(format!("p{at}-1").into_boxed_str()), 100 * at + 1));
    let origin = Origin::with(&packages);
    let mut mounted = Options::new(origin.url()).mount();
    packages.iter().for_each(|package| assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes));
    eventually(10, "all are kept", || mounted.status()["cache"]["packages"] == packages.len());
    assert_eq!(mounted.stop(), Some(0));
    fs::remove_dir_all(mounted.cache().join("v1/catalogue")).unwrap();
    // A bit has turned in one of them, and one is nothing that is known.
    let blobs = below(&mounted.cache().join("v1/blobs"));
    flip(&blobs[0], 3000);
    fs::write(blobs[1].with_file_name("0".repeat(62)), &packages[0].bytes[1..]).unwrap();
    mounted.start();
    let sound = packages.len() as u64 - 1;
    // Nobody opens anything.
    eventually(60, "the others are proved", || mounted.counter("recovered") == sound);
    eventually(20, "it ends", || mounted.log().contains("were proved again and kept"));
    assert_eq!((mounted.counter("hits"), mounted.counter("misses")), (0, 0));
    // From now on they are as good as ever.
    assert_eq!(mounted.stop(), Some(0));
    mounted.start();
    packages.iter().for_each(|package| assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes));
    assert_eq!((mounted.counter("hits"), mounted.counter("misses")), (sound, 1), "{}", mounted.log());
    assert_eq!(origin.package_requests(), packages.len() + 1);
}

#[test]
fn a_damaged_blob_is_fetched_again_and_the_others_are_not() {
    if !can_mount() {
        return;
    }
    let body = |v1: &Path| below(&v1.join("blobs")).into_iter().next().unwrap();
    for damage in [
        (|body| flip(body, 3000)) as fn(&Path),
        |body| truncate(body, |length| length / 2),
        |body| truncate(body, |_| 0),
        |body| overwrite(body, |length| length, b"more"),
        |body| fs::remove_file(body).unwrap(),
    ] {
        let survived = survive(|v1| damage(&body(v1)));
        said(&survived, "is not as it was left");
        assert_eq!(survived.fetched, 1, "{}", survived.log);
    }
}

#[test]
fn foreign_files_in_the_cache_harm_nothing() {
    if !can_mount() {
        return;
    }
    let survived = survive(|v1| {
        let first = below(&v1.join("blobs")).into_iter().next().unwrap();
        fs::write(first.with_file_name("README"), "x").unwrap();
        fs::write(v1.join("blobs/stray"), "x").unwrap();
        fs::write(v1.join("incoming/0.part"), "half a download").unwrap();
        fs::create_dir(v1.join("incoming/1.part")).unwrap();
        fs::write(v1.join("generations/nonsense"), "x").unwrap();
        fs::write(v1.join("lock"), "not a pid").unwrap();
    });
    said(&survived, "this is no blob of a package");
    said(&survived, "an unfinished download cannot be removed");
    assert_eq!(survived.fetched, 0, "{}", survived.log);
}

/// The rendered index of the cache that has this stored index: a text with the same entries.
fn rendered(index: &Path) -> String {
    let v1 = index.ancestors().nth(3).unwrap();
    fs::read_to_string(the(&v1.join("generations"), "Packages")).unwrap()
}

#[test]
fn a_damaged_index_is_fetched_again() {
    if !can_mount() {
        return;
    }
    let index = |v1: &Path| the(&v1.join("index"), "Packages");
    for damage in [
        (|index| fs::write(index, "<html>").unwrap()) as fn(&Path),
        |index| truncate(index, |_| 0),
        // Still an index, and a wrong one.
        |index| truncate(index, |length| length * 2 / 3),
        |index| fs::write(index, rendered(index).replace("CPV: app-misc/one-1", "CPV: app-misc/two-7")).unwrap(),
        |index| fs::write(index, rendered(index).replace("REPO: gentoo", "REPO: gentuu")).unwrap(),
        |index| flip(index, 30),
        |index| flip(index, fs::metadata(index).unwrap().len() - 20),
    ] {
        let survived = survive(|v1| damage(&index(v1)));
        said(&survived, "the stored index");
        assert_eq!(survived.fetched, 0, "{}", survived.log);
    }
    let gone = survive(|v1| fs::remove_file(index(v1)).unwrap());
    assert_eq!(gone.fetched, 0, "{}", gone.log);
    let state = survive(|v1| fs::write(the(&v1.join("index"), "state.json"), "{\"confirmed\": tr").unwrap());
    said(&state, "the file is damaged and is ignored");
    assert_eq!(state.fetched, 0, "{}", state.log);
}

#[test]
fn a_damaged_generation_is_rendered_again() {
    if !can_mount() {
        return;
    }
    let generation = |v1: &Path| the(&v1.join("generations"), "Packages");
    for damage in [
        (|generation| replace(generation, "REPO: gentoo", "REPO: gentuu")) as fn(&Path),
        |generation| flip(generation, 100),
        |generation| truncate(generation, |length| length / 2),
        |generation| fs::remove_file(generation).unwrap(),
    ] {
        let survived = survive(|v1| damage(&generation(v1)));
        assert!(survived.log.contains("generation 2"), "{}", survived.log);
        assert_eq!(survived.fetched, 0, "{}", survived.log);
    }
    let state = survive(|v1| fs::write(the(&v1.join("generations"), "state.json"), "nonsense").unwrap());
    said(&state, "the file is damaged and is ignored");
    let valid = survive(|v1| replace(&the(&v1.join("generations"), "state.json"), "\"since\":1", "\"since\":2"));
    said(&valid, "the file is damaged and is ignored");
    let gone = survive(|v1| fs::remove_dir_all(v1.join("generations")).unwrap());
    assert_eq!((state.fetched, gone.fetched), (0, 0));
}
