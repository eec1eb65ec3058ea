//! Tests of the cache as the fetcher uses it, without FUSE: which blobs it keeps and evicts, and
//! the state after a kill or damage.

// The demo's builder; some of its fields are unused here.
#[allow(dead_code, clippy::duplicate_mod, reason = "one builder of packages for all tests; the demo needs the rest")]
#[path = "../cli/demo/package.rs"]
mod package;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use md5::{Digest as _, Md5};
use proptest::prelude::*;
use sha1::Sha1;

use super::eviction::Among;
use super::incoming::ROOM_STEP;
use super::{
    Blob, BlobKeys, Cache, CacheError, Incoming, Limits, Pin, Placement, Removed, Resumed, Scrubbed, Unkeepable,
    Unproved,
};
use crate::index::{Digest, Entry, PkgPath};
use crate::metrics::Metrics;
use crate::portage::Cpv;
use crate::verify::{Policy, Receiver, recheck};

const NAMES: [&str; 6] = ["a-1", "b-1", "c-1", "d-1", "e-1", "f-1"];

#[derive(Debug)]
struct Sample {
    entry: Entry,
    bytes: Vec<u8>,
}

/// Real packages of 5 to 25 KiB.
static SAMPLES: LazyLock<Vec<Sample>> =
    LazyLock::new(|| NAMES.iter().enumerate().map(|(at, name)| Sample::new(name, 1000 + 4000 * at)).collect());

impl Sample {
    fn new(pf: &'static str, payload: usize) -> Self {
        let built = package::build("app-misc", pf, payload).unwrap();
        let entry = Entry {
            cpv: Cpv::parse(&format!("app-misc/{pf}")).unwrap(),
            path: PkgPath::parse(&built.path()).unwrap(),
            size: built.bytes.len() as u64,
            mtime: 1,
            build_id: Some(u64::from(package::BUILD_ID)),
            build_time: Some(package::BUILD_TIME),
            md5: Some(Digest(Md5::digest(&built.bytes).into())),
            sha1: Some(Digest(Sha1::digest(&built.bytes).into())),
        };
        Self { entry, bytes: built.bytes }
    }

    fn size(&self) -> u64 {
        self.entry.size
    }

    fn get(&self, cache: &Cache) -> Option<Blob> {
        cache.get(self.entry.id(), self.size(), &Policy::digests_only())
    }

    /// Receives and commits the package, as a download does.
    fn fetch(&self, cache: &Arc<Cache>) -> (Blob, Placement) {
        let mut incoming = cache.incoming(self.size()).unwrap();
        incoming.reserve(self.size()).unwrap();
        let mut receiver = Receiver::new(incoming.file().unwrap(), self.entry.clone(), Policy::digests_only());
        receiver.write(&self.bytes).unwrap();
        let blob = cache.blob(receiver.finish().unwrap());
        let placement = cache.commit(incoming, &blob, self.entry.id(), BlobKeys::default());
        (blob, placement)
    }

    fn unproved(&self, cache: &Cache) -> Vec<Unproved> {
        cache.recovery().unproved(self.entry.id(), self.size(), &Policy::digests_only())
    }

    /// Proves and adopts an unproved file, as an open does before it downloads.
    fn adopt(&self, cache: &Cache) -> Option<Blob> {
        cache.recovery().unproved(self.entry.id(), self.size(), &Policy::digests_only()).into_iter().find_map(
            |Unproved { digest, file, .. }| {
                let blob = cache.blob(recheck(file, self.entry.clone(), &Policy::digests_only()).ok()?);
                cache.recovery().adopt(digest, &blob, self.entry.id(), BlobKeys::default());
                Some(blob)
            },
        )
    }

    fn is(&self, blob: &Blob) -> bool {
        let mut bytes = vec![0; self.bytes.len()];
        blob.file().read_exact_at(&mut bytes, 0).unwrap();
        bytes == self.bytes && blob.size() == self.size()
    }
}

fn open(place: &Path, bound: u64) -> Arc<Cache> {
    // Between fork and exec, a child of another test holds a lock that was just given up.
    for _ in 0..100 {
        match Cache::open(place, bound, Arc::new(Metrics::default())) {
            Err(CacheError::InUse { .. }) => std::thread::sleep(Duration::from_millis(20)),
            other => return Arc::new(other.unwrap()),
        }
    }
    panic!("locked for ever");
}

/// A download of `size` bytes, all of which have room.
fn filled(cache: &Arc<Cache>, size: u64) -> Incoming {
    let mut incoming = cache.incoming(size).unwrap();
    incoming.reserve(size).unwrap();
    incoming
}

/// Files of blobs and their sizes.
fn files(place: &Path) -> BTreeMap<PathBuf, u64> {
    let directories = fs::read_dir(place.join("v1/blobs")).unwrap().map(|entry| entry.unwrap().path());
    let files = directories.flat_map(|directory| fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()));
    files.map(|file| (file.clone(), file.metadata().unwrap().len())).collect()
}

fn only_file(place: &Path) -> PathBuf {
    let files = files(place);
    assert_eq!(files.len(), 1);
    files.into_keys().next().unwrap()
}

fn unkept(placement: &Placement) -> bool {
    matches!(placement, Placement::Unkept(_))
}

/// Sets another modification time, as a restored backup or an edit does.
fn disturb(path: &Path) {
    let time = SystemTime::now() - Duration::from_secs(77);
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[derive(Debug, Clone)]
enum Step {
    /// Open a package, and fetch it if it is missing; keep it open or not.
    Read { at: usize, hold: bool },
    /// Close all open packages.
    LetGo,
    /// Start a download of this many bytes and drop it.
    Room(u64),
    /// Give the file of a blob another modification time.
    Disturb(usize),
    /// Stop the cache and start it again.
    Reopen,
    /// Kill during a download, and start again.
    Crash,
    /// Kill, lose the catalogue, and start again.
    CrashWithoutCatalogue,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0..NAMES.len(), any::<bool>()).prop_map(|(at, hold)| Step::Read { at, hold }),
        2 => Just(Step::LetGo),
        1 => (1..30_000_u64).prop_map(Step::Room),
        2 => (0..NAMES.len()).prop_map(Step::Disturb),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
        1 => Just(Step::CrashWithoutCatalogue),
    ];
    prop::collection::vec(step, 1..40)
}

/// Distance of a package from eviction: open or not; then without a record, not used since the
/// start, used.
type Rank = (bool, u32);

/// A cache, and the state that it should have.
struct Run {
    place: tempfile::TempDir,
    bound: u64,
    cache: Option<Arc<Cache>>,
    ranks: BTreeMap<usize, u32>,
    held: BTreeMap<usize, Blob>,
    /// Open and evicted: another download of the same package is another file.
    outlived: Vec<(usize, Blob)>,
    clock: u32,
}

impl Run {
    fn new(bound: u64) -> Self {
        let place = tempfile::tempdir().unwrap();
        let cache = Some(open(place.path(), bound));
        Self { place, bound, cache, ranks: BTreeMap::new(), held: BTreeMap::new(), outlived: Vec::new(), clock: 1 }
    }

    fn cache(&self) -> &Arc<Cache> {
        self.cache.as_ref().unwrap()
    }

    fn path_of(&self, at: usize) -> PathBuf {
        use sha2::Sha256;
        self.cache().blobs.path(Digest(Sha256::digest(&SAMPLES[at].bytes).into()))
    }

    fn rank(&self, at: usize) -> Rank {
        (self.held.contains_key(&at), self.ranks[&at])
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Read { at, hold } => self.read(*at, *hold),
            Step::LetGo => {
                self.held.clear();
                self.outlived.clear();
            }
            Step::Room(bytes) => {
                drop(filled(self.cache(), *bytes));
                self.notice_evictions();
            }
            Step::Disturb(at) if self.path_of(*at).exists() => disturb(&self.path_of(*at)),
            Step::Disturb(_) => {}
            Step::Reopen => self.restart(None, 1),
            Step::Crash => self.crash(true),
            Step::CrashWithoutCatalogue => self.crash(false),
        }
        self.check();
    }

    fn read(&mut self, at: usize, hold: bool) {
        let (sample, here) = (&SAMPLES[at], self.path_of(at).exists());
        let cached = sample.get(self.cache()).or_else(|| sample.adopt(self.cache()));
        assert_eq!(cached.is_some(), here, "what is there is not fetched again, and nothing else is found");
        let (blob, placement) =
            cached.map(|blob| (blob, Placement::Kept)).unwrap_or_else(|| sample.fetch(self.cache()));
        assert!(sample.is(&blob));
        assert_eq!(unkept(&placement), sample.size() > self.bound);
        self.notice_evictions();
        if placement == Placement::Kept {
            self.clock += 1;
            self.ranks.insert(at, self.clock);
        }
        if hold {
            self.held.entry(at).or_insert(blob);
        }
    }

    /// No evicted package may have a higher rank than one that stayed.
    fn notice_evictions(&mut self) {
        let (kept, gone): (Vec<usize>, Vec<usize>) =
            self.ranks.keys().copied().partition(|at| self.path_of(*at).exists());
        for gone in &gone {
            assert!(kept.iter().all(|kept| self.rank(*gone) <= self.rank(*kept)), "evicted in the wrong order");
        }
        self.ranks.retain(|at, _| !gone.contains(at));
        let held = gone.iter().filter_map(|gone| self.held.remove_entry(gone));
        self.outlived.extend(held);
    }

    fn crash(&mut self, with_catalogue: bool) {
        let copy = tempfile::tempdir().unwrap();
        let download = filled(self.cache(), 1);
        let copied = Command::new("cp").arg("-a").arg(self.place.path().join("v1")).arg(copy.path()).status().unwrap();
        assert!(copied.success());
        drop(download);
        self.notice_evictions();
        if !with_catalogue {
            fs::remove_dir_all(copy.path().join("v1/catalogue")).unwrap();
        }
        self.restart(Some(copy), u32::from(with_catalogue));
    }

    fn restart(&mut self, copy: Option<tempfile::TempDir>, rank: u32) {
        self.held.clear();
        self.outlived.clear();
        self.cache = None;
        self.place = copy.unwrap_or(std::mem::replace(&mut self.place, tempfile::tempdir().unwrap()));
        self.cache = Some(open(self.place.path(), self.bound));
        self.cache().recovery().sweep();
        self.ranks.values_mut().for_each(|known| *known = rank);
    }

    fn check(&self) {
        let (usage, files) = (self.cache().usage(), files(self.place.path()));
        assert!(usage.bytes + usage.reserved <= self.bound, "{usage:?}");
        assert_eq!((usage.bytes, usage.blobs), (files.values().sum(), files.len() as u64), "{files:?}");
        assert_eq!(usage.blobs, self.ranks.len() as u64);
        assert_eq!(fs::read_dir(self.place.path().join("v1/incoming")).unwrap().count(), 0);
        let mut open = self.held.iter().chain(self.outlived.iter().map(|(at, blob)| (at, blob)));
        assert!(open.all(|(at, blob)| SAMPLES[*at].is(blob)), "an open blob must stay readable");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_bound_holds_and_nothing_is_lost_but_by_eviction(
        bound in 8_000..80_000_u64,
        steps in steps(),
    ) {
        let mut run = Run::new(bound);
        steps.iter().for_each(|step| run.step(step));
    }
}

#[test]
fn an_open_body_survives_its_eviction() {
    let place = tempfile::tempdir().unwrap();
    let sample = &SAMPLES[0];
    let cache = open(place.path(), sample.size());
    let (blob, _) = sample.fetch(&cache);
    drop(filled(&cache, 1));
    assert!(files(place.path()).is_empty() && sample.get(&cache).is_none());
    assert!(sample.is(&blob));
}

#[test]
fn a_blob_that_is_fetched_again_while_it_is_evicted_stays() {
    let place = tempfile::tempdir().unwrap();
    let (cache, sample) = (open(place.path(), 1 << 20), &SAMPLES[0]);
    let digest = sample.fetch(&cache).0.digest;
    let victims = cache.blobs.state().victims(1, Among::All);
    assert_eq!(victims, [digest]);
    // An eviction removes the record first, which takes as long as the disk does.
    cache.blobs.catalogue.remove(&victims);
    assert!(sample.get(&cache).is_none() && !unkept(&sample.fetch(&cache).1));
    cache.blobs.unlink_evicted(&victims);
    assert!(sample.get(&cache).is_some_and(|blob| sample.is(&blob)));
    // Nothing fetches it again.
    cache.evictor().evict(1, Among::All);
    assert!(sample.get(&cache).is_none() && files(place.path()).is_empty());
}

#[test]
fn a_body_that_was_touched_is_proved_again_and_one_that_was_changed_is_not_served() {
    let place = tempfile::tempdir().unwrap();
    let (sample, cache) = (&SAMPLES[1], open(place.path(), 1 << 20));
    drop(sample.fetch(&cache));
    let path = only_file(place.path());

    disturb(&path);
    assert!(sample.get(&cache).is_none());
    assert_eq!(sample.unproved(&cache).len(), 1);
    assert!(sample.is(&sample.adopt(&cache).unwrap()));
    assert!(sample.get(&cache).is_some() && sample.unproved(&cache).is_empty());

    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"!", 3000).unwrap();
    assert!(sample.get(&cache).is_none() && sample.adopt(&cache).is_none());
    let (_, placement) = sample.fetch(&cache);
    assert_eq!((placement, cache.usage().blobs), (Placement::Kept, 1));
    assert!(sample.is(&sample.get(&cache).unwrap()));

    File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
    assert!(sample.get(&cache).is_none() && sample.adopt(&cache).is_none());
    assert_eq!(cache.usage().bytes, 100);
    fs::remove_file(&path).unwrap();
    assert!(sample.adopt(&cache).is_none());
    assert_eq!(sample.fetch(&cache).1, Placement::Kept);
    assert_eq!(cache.usage().bytes, sample.size());

    fs::remove_file(&path).unwrap();
    assert!(sample.get(&cache).is_none());
    assert_eq!((cache.usage().bytes, cache.usage().blobs), (0, 0));
}

#[test]
fn a_package_larger_than_the_bound_is_served_and_not_kept() {
    let place = tempfile::tempdir().unwrap();
    let (small, large) = (&SAMPLES[0], &SAMPLES[5]);
    let cache = open(place.path(), large.size() - 1);
    drop(small.fetch(&cache));
    let (blob, placement) = large.fetch(&cache);
    assert!(unkept(&placement) && large.is(&blob) && large.get(&cache).is_none());
    // Nothing was evicted for it.
    assert!(small.get(&cache).is_some());
    assert_eq!(files(place.path()).len(), 1);
}

#[test]
fn downloads_in_progress_count_against_the_bound() {
    let place = tempfile::tempdir().unwrap();
    let sample = &SAMPLES[0];
    let cache = open(place.path(), 2 * sample.size());
    drop(sample.fetch(&cache));
    let (first, second) = (filled(&cache, sample.size()), filled(&cache, sample.size()));
    let usage = cache.usage();
    assert_eq!((usage.bytes, usage.reserved), (0, 2 * sample.size()));
    // No room for a third download: its blob is transient.
    let (blob, placement) = sample.fetch(&cache);
    assert!(sample.is(&blob) && unkept(&placement));
    drop((first, second));
    assert_eq!(cache.usage().reserved, 0);
    assert_eq!(sample.fetch(&cache).1, Placement::Kept);
}

#[test]
fn room_is_made_for_what_has_arrived_and_not_for_what_an_index_names() {
    let place = tempfile::tempdir().unwrap();
    let bound = 4 * ROOM_STEP;
    let cache = open(place.path(), bound);
    SAMPLES.iter().for_each(|sample| drop(sample.fetch(&cache)));
    let blobs = cache.usage().blobs;
    let mut incoming = cache.incoming(bound).unwrap();
    assert_eq!((cache.usage().reserved, cache.usage().blobs), (0, blobs));
    incoming.reserve(1).unwrap();
    incoming.reserve(2 * ROOM_STEP + 1).unwrap();
    assert_eq!((cache.usage().reserved, cache.usage().blobs), (3 * ROOM_STEP, blobs));
    // Only now there is too little room for all downloads.
    incoming.reserve(3 * ROOM_STEP + 1).unwrap();
    assert_eq!((cache.usage().reserved, cache.usage().blobs), (bound, 0));
    // The bytes that the download expects are not given to another one.
    assert!(incoming.kept_path().is_some() && cache.incoming(1).unwrap().kept_path().is_none());
    incoming.restart();
    assert_eq!(cache.usage().reserved, 0);
    drop(incoming);
    assert!(cache.incoming(bound).unwrap().kept_path().is_some());
}

#[test]
fn what_a_parked_download_has_received_goes_where_another_needs_the_room() {
    let place = tempfile::tempdir().unwrap();
    let (sample, bound) = (&SAMPLES[5], 2 * SAMPLES[5].size());
    let cache = open(place.path(), bound);
    let half = sample.size() / 2;
    let received = || {
        let mut incoming = filled(&cache, sample.size());
        incoming.file().unwrap().write_all_at(&sample.bytes[..half as usize], 0).unwrap();
        incoming.start_writeback(half);
        incoming.park(half);
        incoming
    };
    let parked = |incoming: &Incoming| incoming.file().unwrap().metadata().unwrap().len();
    let mut first = received();
    let usage = cache.usage();
    assert_eq!((usage.reserved, usage.parked), (0, half));
    // The download continues, since nothing needed its room.
    assert_eq!((first.resume(), cache.usage().parked, cache.usage().reserved), (Resumed::Whole, 0, half));
    first.reserve(sample.size()).unwrap();
    assert_eq!(cache.usage().reserved, sample.size());
    first.park(half);
    let mut second = received();
    drop(SAMPLES[0].fetch(&cache));
    // A blob is evicted before the parked download.
    let whole = filled(&cache, bound - 2 * half);
    assert_eq!((cache.usage().bytes, cache.usage().parked), (0, 2 * half));
    let more = filled(&cache, 1);
    assert_eq!((cache.usage().parked, parked(&first), parked(&second)), (half, 0, half));
    assert_eq!((first.resume(), second.resume()), (Resumed::Lost, Resumed::Whole));
    drop((first, whole, more));
    // A download that does not fit any more continues, but is not kept.
    second.park(half);
    let all = filled(&cache, bound - half);
    assert_eq!((second.resume(), second.kept_path(), cache.usage().parked), (Resumed::Whole, None, 0));
    drop((second, all));
    assert_eq!(cache.usage(), super::Usage { bound, ..crate::cache::Usage::default() });
    // An abandoned download is discarded before a blob is evicted.
    let mut abandoned = received();
    assert!(abandoned.abandon(half) && abandoned.abandon(half));
    drop(SAMPLES[0].fetch(&cache));
    let before = cache.usage();
    assert_eq!(before.parked, half);
    let whole = filled(&cache, bound - before.bytes);
    assert_eq!((cache.usage().bytes, cache.usage().parked), (before.bytes, 0));
    assert!(!abandoned.abandon(half) && abandoned.resume() == Resumed::Lost);
    drop((abandoned, whole));
    assert_eq!(cache.usage(), super::Usage { parked: 0, ..before });
    assert_eq!(fs::read_dir(place.path().join("v1/incoming")).unwrap().count(), 0);
}

#[test]
fn a_parked_download_counts_for_nothing_in_the_budget_of_a_day() {
    let place = tempfile::tempdir().unwrap();
    let cache = open(place.path(), 1 << 30);
    cache.evictor().set_limits(Limits { bound: 1 << 30, min_free: 0, writes_per_day: Some(1000) });
    let mut incoming = filled(&cache, 800);
    incoming.file().unwrap().write_all_at(&[0; 300], 0).unwrap();
    incoming.start_writeback(300);
    assert!(!cache.budget().may_write(201));
    incoming.park(300);
    assert!(cache.budget().may_write(700) && !cache.budget().may_write(701));
    assert_eq!(incoming.resume(), Resumed::Whole);
    assert!(cache.budget().may_write(200) && !cache.budget().may_write(201));
    drop(incoming);
    assert_eq!((cache.budget().written().today(), cache.budget().may_write(700)), (300, true));
}

#[test]
fn the_same_bytes_under_two_entries_are_kept_once_and_go_together() {
    let place = tempfile::tempdir().unwrap();
    let one = &SAMPLES[0];
    let two = Sample { entry: Entry { sha1: None, ..one.entry.clone() }, bytes: one.bytes.clone() };
    assert_ne!(one.entry.id(), two.entry.id());
    let cache = open(place.path(), 1 << 20);
    drop((one.fetch(&cache), two.fetch(&cache)));
    assert_eq!((files(place.path()).len(), cache.usage().bytes), (1, one.size()));
    assert_eq!(one.get(&cache).unwrap().digest(), two.get(&cache).unwrap().digest());
    drop(cache);
    let cache = open(place.path(), 1 << 20);
    assert!(one.get(&cache).is_some() && two.get(&cache).is_some());
    drop(filled(&cache, 1 << 20));
    assert!(one.get(&cache).is_none() && two.get(&cache).is_none());
    assert_eq!(cache.usage().bytes, 0);
}

#[test]
fn a_smaller_bound_holds_from_the_start() {
    let place = tempfile::tempdir().unwrap();
    let cache = open(place.path(), 1 << 20);
    SAMPLES.iter().for_each(|sample| drop(sample.fetch(&cache)));
    drop(cache);
    let cache = open(place.path(), 30_000);
    assert!(cache.usage().bytes <= 30_000 && cache.usage().blobs > 0);
    assert_eq!(files(place.path()).values().sum::<u64>(), cache.usage().bytes);
}

#[test]
fn bodies_outlive_their_catalogue() {
    for ruin in [
        (|catalogue: &Path| fs::remove_dir_all(catalogue).unwrap()) as fn(&Path),
        |catalogue| fs::write(catalogue.join("db"), vec![0x5a; 100_000]).unwrap(),
        |catalogue| {
            fs::remove_dir_all(catalogue).unwrap();
            fs::write(catalogue, "a file where a directory should be").unwrap();
        },
    ] {
        let place = tempfile::tempdir().unwrap();
        let cache = open(place.path(), 1 << 20);
        SAMPLES.iter().for_each(|sample| drop(sample.fetch(&cache)));
        drop(cache);
        ruin(&place.path().join("v1/catalogue"));

        let cache = open(place.path(), 1 << 20);
        assert!(SAMPLES.iter().all(|sample| sample.get(&cache).is_none()));
        // Blobs are unknown until the sweep.
        assert_eq!(cache.usage().bytes, 0);
        cache.recovery().sweep();
        assert_eq!(cache.usage().bytes, SAMPLES.iter().map(Sample::size).sum::<u64>());
        for sample in SAMPLES.iter() {
            assert!(sample.is(&sample.adopt(&cache).unwrap()));
            assert!(sample.is(&sample.get(&cache).unwrap()));
        }
        assert_eq!(cache.usage().blobs, SAMPLES.len() as u64);
    }
}

#[test]
fn while_the_catalogue_cannot_be_written_bodies_are_proved_and_nothing_is_kept() {
    let place = tempfile::tempdir().unwrap();
    let cache = open(place.path(), 1 << 20);
    drop(SAMPLES[0].fetch(&cache));
    cache.blobs.catalogue.database().close();
    for _ in 0..2 {
        assert!(SAMPLES[0].get(&cache).is_none());
        assert!(SAMPLES[0].is(&SAMPLES[0].adopt(&cache).unwrap()));
    }
    let (blob, placement) = SAMPLES[1].fetch(&cache);
    assert!(SAMPLES[1].is(&blob) && unkept(&placement));
    // The bytes of both blobs are on the disk, and count.
    assert_eq!(cache.usage().bytes, SAMPLES[0].size() + SAMPLES[1].size());
    assert!(SAMPLES[1].is(&SAMPLES[1].adopt(&cache).unwrap()));
    drop(cache);
    let cache = open(place.path(), 1 << 20);
    assert!(SAMPLES[0].get(&cache).is_some());
    assert!(SAMPLES[1].get(&cache).is_none() && SAMPLES[1].adopt(&cache).is_some());
    assert!(SAMPLES[1].get(&cache).is_some());
}

#[test]
fn foreign_files_are_left_alone_and_counted_as_nothing() {
    let place = tempfile::tempdir().unwrap();
    drop(open(place.path(), 1 << 20));
    let blobs = place.path().join("v1/blobs");
    fs::write(blobs.join("note"), "x").unwrap();
    fs::create_dir(blobs.join("ab")).unwrap();
    fs::write(blobs.join("ab/cdef"), "x").unwrap();
    fs::create_dir(blobs.join("ab").join("0".repeat(62))).unwrap();
    fs::write(place.path().join("v1/incoming/7.part"), "half").unwrap();
    let cache = open(place.path(), 1 << 20);
    cache.recovery().sweep();
    assert_eq!((cache.usage().bytes, cache.usage().blobs), (0, 0));
    assert!(blobs.join("note").exists() && blobs.join("ab/cdef").exists());
    assert!(!place.path().join("v1/incoming/7.part").exists());
}

#[test]
fn one_directory_serves_one_daemon_and_nobody_else_reads_it() {
    let place = tempfile::tempdir().unwrap();
    let cache = open(place.path(), 1 << 20);
    let second = Cache::open(place.path(), 1 << 20, Arc::default());
    let message = second.unwrap_err();
    assert!(matches!(message, CacheError::InUse { .. }));
    assert!(message.to_string().contains(&format!("(pid {})", std::process::id())), "{message}");
    drop(SAMPLES[0].fetch(&cache));
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(cache.directory()), 0o700);
    assert_eq!(mode(&only_file(place.path())), 0o600);
    drop(cache);
    drop(open(place.path(), 1 << 20));
}

/// Flips a bit and restores size and modification time, as a failing disk does.
fn turn_a_bit(path: &Path) {
    let modified = path.metadata().unwrap().modified().unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 100).unwrap();
    file.write_all_at(&[byte[0] ^ 4], 100).unwrap();
    file.set_modified(modified).unwrap();
}

#[test]
fn a_turned_bit_is_found_and_the_rest_stays() {
    let place = tempfile::tempdir().unwrap();
    let cache = open(place.path(), 1 << 20);
    assert!(cache.scrub(Digest([0; 32])).is_none());
    let packages = [&SAMPLES[0], &SAMPLES[1], &SAMPLES[2]];
    packages.iter().for_each(|package| drop(package.fetch(&cache)));
    let victim = cache.blobs.path(packages[1].get(&cache).unwrap().digest());
    turn_a_bit(&victim);
    let mut outcomes = Vec::new();
    let mut after = Digest([0; 32]);
    for _ in 0..3 {
        let mut scrub = cache.scrub(after).unwrap();
        after = scrub.digest();
        outcomes.push(std::iter::repeat_with(|| scrub.step()).find(|step| *step != Scrubbed::Unfinished).unwrap());
    }
    for outcome in [Scrubbed::Damaged, Scrubbed::Sound(packages[0].size()), Scrubbed::Sound(packages[2].size())] {
        assert!(outcomes.contains(&outcome), "{outcomes:?}");
    }
    assert!(!victim.exists());
    assert!(
        packages[1].get(&cache).is_none() && packages[0].get(&cache).is_some() && packages[2].get(&cache).is_some()
    );
    // After the last blob comes the first; a blob that is evicted meanwhile is no damage.
    let mut scrub = cache.scrub(Digest([0xff; 32])).unwrap();
    cache.evictor.shrink_to(0);
    assert_eq!(
        std::iter::repeat_with(|| scrub.step()).find(|step| *step != Scrubbed::Unfinished),
        Some(Scrubbed::Gone)
    );
}

#[test]
fn what_is_pinned_stays_and_its_part_of_the_cache_is_bounded() {
    let place = tempfile::tempdir().unwrap();
    let bound = SAMPLES.iter().map(Sample::size).sum();
    let cache = open(place.path(), bound);
    let pin = |sample: &Sample| Pin::new(sample.entry.id(), sample.size(), sample.entry.path.as_str());
    // Pins hold before and after the fetch.
    cache.pins().add(&[pin(&SAMPLES[0])]).unwrap();
    SAMPLES.iter().for_each(|sample| drop(sample.fetch(&cache)));
    cache.pins().add(&[pin(&SAMPLES[1]), pin(&SAMPLES[0])]).unwrap();
    drop(cache);

    let cache = open(place.path(), bound);
    assert_eq!(cache.pins().list().iter().map(|pin| pin.size).collect::<Vec<_>>(), [0, 1].map(|at| SAMPLES[at].size()));
    let pinned = SAMPLES[0].size() + SAMPLES[1].size();
    drop(filled(&cache, bound - pinned));
    assert_eq!(cache.usage().bytes, pinned);
    // A download larger than the unpinned rest is not kept.
    drop(filled(&cache, bound - pinned + 1));
    assert_eq!((cache.usage().bytes, cache.usage().blobs), (pinned, 2));
    let error = cache.pins().add(&SAMPLES.iter().map(pin).collect::<Vec<_>>()).unwrap_err().to_string();
    assert!(error.contains("is not pinned") && error.contains("cache-size"), "{error}");
    assert_eq!(cache.pins().list().len(), 2);

    cache.pins().remove(&[SAMPLES[0].entry.id()]).unwrap();
    drop(filled(&cache, bound - SAMPLES[1].size()));
    assert!(SAMPLES[0].get(&cache).is_none() && SAMPLES[1].get(&cache).is_some());
    // The bound holds even against pins.
    cache.evictor().set_limits(Limits { bound: SAMPLES[1].size() - 1, ..Limits::default() });
    assert_eq!(cache.usage().bytes, 0);
}

#[test]
fn ranks_are_asked_for_when_something_has_to_go() {
    let place = tempfile::tempdir().unwrap();
    let bound = SAMPLES.iter().map(Sample::size).sum();
    let cache = open(place.path(), bound);
    SAMPLES.iter().for_each(|sample| drop(sample.fetch(&cache)));
    let asked = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = Arc::clone(&asked);
    cache.evictor().classify_by(move |digest_of| {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let rank = |at: usize| if at == 5 { super::EvictionClass::Installed } else { super::EvictionClass::Waiting };
        (0..SAMPLES.len()).filter_map(|at| Some((digest_of(SAMPLES[at].entry.id())?, rank(at)))).collect()
    });
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 0);
    // The most recently used blob is installed: it is evicted first.
    drop(filled(&cache, 1));
    assert!(SAMPLES[5].get(&cache).is_none() && SAMPLES[0].get(&cache).is_some());
    drop(filled(&cache, SAMPLES[5].size() + 1));
    assert!(SAMPLES[1].get(&cache).is_none());
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn min_free_evicts_what_helps_and_nothing_where_nothing_does() {
    let place = tempfile::tempdir().unwrap();
    let cache = open(place.path(), 1 << 30);
    SAMPLES.iter().for_each(|sample| drop(sample.fetch(&cache)));
    let limits = |min_free| Limits { bound: 1 << 30, min_free, ..Limits::default() };
    cache.evictor().set_limits(limits(1));
    assert_eq!(cache.usage().blobs, SAMPLES.len() as u64);
    // A download is refused the disk, and no blob is evicted, since that would not free enough.
    *cache.evictor.limits.lock() = limits(1 << 60);
    let incoming = cache.incoming(1000).unwrap();
    assert!(incoming.kept_path().is_none());
    drop(incoming);
    assert_eq!((cache.usage().blobs, cache.usage().reserved), (SAMPLES.len() as u64, 0));
    // Whichever program fills the disk, blobs are evicted until min-free holds or only open ones
    // are left.
    let open = SAMPLES[2].get(&cache).unwrap();
    cache.evictor().keep_free();
    assert_eq!(cache.usage().blobs, 1);
    assert!(SAMPLES[2].is(&open));
    cache.evictor().keep_free();
    assert!(SAMPLES[2].get(&cache).is_some());
}

#[test]
fn what_is_written_in_a_day_is_bounded_and_the_rest_is_served() {
    let place = tempfile::tempdir().unwrap();
    let (one, two) = (&SAMPLES[4], &SAMPLES[0]);
    let limits = Limits { bound: 1 << 30, min_free: 0, writes_per_day: Some(one.size() + two.size() - 1) };
    let cache = open(place.path(), 1 << 30);
    cache.evictor().set_limits(limits);
    let received = |sample: &Sample, cache: &Arc<Cache>| {
        let mut incoming = filled(cache, sample.size());
        let mut receiver = Receiver::new(incoming.file().unwrap(), sample.entry.clone(), Policy::digests_only());
        receiver.write(&sample.bytes).unwrap();
        incoming.start_writeback(sample.size());
        let blob = cache.blob(receiver.finish().unwrap());
        assert!(sample.is(&blob));
        cache.commit(incoming, &blob, sample.entry.id(), BlobKeys::default())
    };
    assert_eq!(received(one, &cache), Placement::Kept);
    assert_eq!(cache.budget().written().today(), one.size());
    drop(cache);
    let cache = open(place.path(), 1 << 30);
    cache.evictor().set_limits(limits);
    let placement = received(two, &cache);
    assert!(matches!(&placement, Placement::Unkept(why) if why.contains("write-budget")), "{placement:?}");
    assert_eq!((cache.budget().written().today(), cache.usage().blobs), (one.size(), 1));
    cache.evictor().set_limits(Limits { writes_per_day: None, ..limits });
    assert_eq!(received(two, &cache), Placement::Kept);
}

#[test]
fn downloads_at_once_do_not_write_more_than_one_after_the_other() {
    let place = tempfile::tempdir().unwrap();
    let cache = open(place.path(), 1 << 30);
    cache.evictor().set_limits(Limits { bound: 1 << 30, min_free: 0, writes_per_day: Some(1000) });
    let kept = |incoming: &Incoming| incoming.kept_path().is_some();
    let mut first = cache.incoming(600).unwrap();
    assert!(
        kept(&first)
            && !kept(&cache.incoming(600).unwrap())
            && cache.budget().may_write(400)
            && !cache.budget().may_write(401)
    );
    assert_eq!(cache.space().would_keep(401), Err(Unkeepable::Budget));
    first.start_writeback(100);
    assert_eq!(
        (cache.budget().written().today(), cache.budget().may_write(400), cache.budget().may_write(401)),
        (100, true, false)
    );
    // The download was aborted: other downloads may write its missing bytes.
    drop(first);
    assert!(kept(&cache.incoming(900).unwrap()) && cache.budget().may_write(900) && !cache.budget().may_write(901));
}

#[test]
fn what_would_not_be_kept_is_known_before() {
    let place = tempfile::tempdir().unwrap();
    let bound = SAMPLES.iter().map(Sample::size).sum();
    let cache = open(place.path(), bound);
    SAMPLES.iter().for_each(|sample| drop(sample.fetch(&cache)));
    assert_eq!(
        (cache.space().would_keep(bound), cache.space().would_keep(bound + 1)),
        (Ok(()), Err(Unkeepable::TooLarge))
    );
    cache.pins().add(&[Pin::new(SAMPLES[0].entry.id(), SAMPLES[0].size(), "x")]).unwrap();
    let left = bound - SAMPLES[0].size();
    assert_eq!((cache.space().would_keep(left), cache.space().would_keep(left + 1)), (Ok(()), Err(Unkeepable::Pinned)));
    *cache.evictor.limits.lock() = Limits { bound, min_free: 1 << 60, ..Limits::default() };
    assert_eq!(cache.space().would_keep(1), Err(Unkeepable::Disk));
    assert_eq!(cache.usage().blobs, SAMPLES.len() as u64);
}

#[test]
fn what_is_named_or_pinned_is_retained() {
    let place = tempfile::tempdir().unwrap();
    let cache = open(place.path(), 1 << 20);
    SAMPLES.iter().take(4).for_each(|sample| drop(sample.fetch(&cache)));
    let ids = |at: &[usize]| at.iter().map(|at| SAMPLES[*at].entry.id()).collect::<Vec<_>>();
    cache.pins().add(&[Pin::new(SAMPLES[3].entry.id(), 1, "x")]).unwrap();
    disturb(&cache.blobs.path(SAMPLES[1].get(&cache).unwrap().digest()));
    assert!(SAMPLES[1].get(&cache).is_none());
    assert_eq!(cache.recovery().orphans().iter().map(|(_, size)| *size).collect::<Vec<_>>(), [SAMPLES[1].size()]);
    // Names that were looked up earlier would miss blobs that are committed meanwhile.
    let removed = cache.retain(ids(&[0, 1]).into_iter().inspect(|_| assert!(cache.blobs.commits.is_locked())));
    assert_eq!(removed, Removed { blobs: 2, bytes: SAMPLES[1].size() + SAMPLES[2].size() });
    let here = |at: usize| SAMPLES[at].get(&cache).is_some();
    assert_eq!([0, 1, 2, 3].map(here), [true, false, false, true]);
    assert_eq!(
        (cache.forget(SAMPLES[0].entry.id()), cache.forget(SAMPLES[0].entry.id())),
        (Some(SAMPLES[0].size()), None)
    );
    assert_eq!(files(place.path()).len(), 1);
}

/// Between a look-up that finds nothing and this check, another thread may begin to adopt the blob.
#[test]
fn a_body_that_is_being_adopted_may_be_an_orphan() {
    let place = tempfile::tempdir().unwrap();
    let cache = open(place.path(), 1 << 20);
    let sample = &SAMPLES[0];
    let may_have = || cache.recovery().may_have_orphans(sample.size());
    assert!(may_have(), "nobody has looked for orphans yet");
    cache.recovery().sweep();
    assert!(!may_have());
    {
        let _adopting = cache.recovery().adoptions.lock();
        assert!(may_have());
    }
    assert!(!may_have());
    let path = cache.blobs.path(sample.fetch(&cache).0.digest());
    assert!(!may_have(), "it has its record");
    disturb(&path);
    assert!(sample.get(&cache).is_none() && may_have(), "it is an orphan");
}
