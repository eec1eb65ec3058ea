//! What has to hold for weeks: kills, power cuts and faults at any moment, while packages are fetched, evicted and replaced.
//!
//! The suite runs each of these for a moment. A variable of the environment makes it as long as one likes:
//!
//! | test | variable | usual |
//! |---|---|---|
//! | `kills` | `BINHOSTFS_TEST_KILLS` | 20 kills |
//! | `power` | `BINHOSTFS_TEST_POWER_CUTS` | 10 snapshots of a block device |
//! | `soak` | `BINHOSTFS_TEST_SOAK` | 15 seconds, with a mirror that comes and goes |

mod disk;
mod flapping;
mod kills;
mod power;
mod soak;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io};

use crate::harness::{Act, Origin, Package, Random, index_of};

/// Packages that come in two builds at the same path, now this one, now the other.
const REBUILT: usize = 4;
/// Of so many packages one is missing in each index.
const MISSING: usize = 10;

/// A binhost that is never the same for long, and programs that read whatever it has.
struct Churn {
    origin: Origin,
    packages: Vec<Package>,
    /// Other builds of the first of `packages`.
    rebuilt: Vec<Package>,
    random: Random,
    publish_every: Duration,
    /// ms between two reads of a program, at most.
    rest: u64,
}

/// What the programs saw. Wrong bytes are not in it: they end the test.
#[derive(Debug, Default)]
struct Reads {
    right: u64,
    /// Packages that are missing in an index, or out of step with theirs.
    gone: u64,
    /// Others, by error.
    failed: BTreeMap<String, u64>,
    slowest: Duration,
}

impl Reads {
    fn and(mut self, other: Self) -> Self {
        self.right += other.right;
        self.gone += other.gone;
        other.failed.into_iter().for_each(|(kind, count)| *self.failed.entry(kind).or_default() += count);
        self.slowest = self.slowest.max(other.slowest);
        self
    }

    /// Packages that should have been readable, and were not.
    fn broken(&self) -> u64 {
        self.failed.values().sum()
    }
}

/// Says stop, also when a test fails.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Churn {
    /// `count` packages: two of three up to `small` bytes, the others up to `large`.
    fn new(count: usize, small: u64, large: u64, publish_every: Duration) -> Self {
        let mut random = Random::new();
        let name = |at: usize| -> &'static str { Box::leak(format!("p{at}-1").into_boxed_str()) };
        let mut package = |at: usize| {
            let most = if at.is_multiple_of(3) { large } else { small };
            Package::new(name(at), random.below(most) as usize)
        };
        let packages: Vec<Package> = (0..count).map(&mut package).collect();
        let rebuilt = (0..REBUILT).map(&mut package).collect();
        let churn = Self { origin: Origin::start(), packages, rebuilt, random, publish_every, rest: 1 };
        churn.packages.iter().for_each(|package| churn.origin.put(&package.path, package.bytes.clone()));
        churn.publish(0);
        churn
    }

    /// Has every package arrive slowly, so that whatever happens finds downloads under way.
    fn slowly(mut self, milliseconds: u64) -> Self {
        for package in &self.packages {
            let pause = Duration::from_millis(self.random.below(milliseconds));
            self.origin.script(&package.path, [Act::Slow(64 << 10, pause)]);
        }
        self
    }

    /// Has programs rest between two reads, some `milliseconds` at most, so that they do not do nothing but wait for the processor.
    fn restfully(mut self, milliseconds: u64) -> Self {
        self.rest = milliseconds;
        self
    }

    /// Another index: other packages are missing, and some have been built again.
    fn publish(&self, turn: usize) {
        let builds = if turn.is_multiple_of(2) { &self.packages[..REBUILT] } else { &self.rebuilt[..] };
        builds.iter().for_each(|package| self.origin.put(&package.path, package.bytes.clone()));
        let shown = builds.iter().chain(&self.packages[REBUILT..]).enumerate();
        let shown = shown.filter(|(at, _)| at % MISSING != turn % MISSING).map(|(_, package)| package);
        self.origin.put_index(index_of(1_760_000_000 + turn as u64, shown).as_bytes());
    }

    /// Whether a package is the same in every index that has it.
    fn is_steady(&self, path: &str) -> bool {
        self.packages[REBUILT..].iter().any(|package| package.path == path)
    }

    /// Opens and reads a package; it fails, or is whole and right.
    fn read(&self, mountpoint: &Path, at: usize) -> io::Result<()> {
        let path = &self.packages[at].path;
        let bytes = fs::read(mountpoint.join(path))?;
        let mut builds = [self.packages.get(at), self.rebuilt.get(at)].into_iter().flatten();
        assert!(builds.any(|build| build.bytes == bytes), "wrong bytes were read of {path}");
        Ok(())
    }

    fn read_until(&self, stop: &AtomicBool, mountpoint: &Path, mut random: Random) -> Reads {
        let mut reads = Reads::default();
        while !stop.load(Ordering::SeqCst) {
            let (before, at) = (Instant::now(), random.below(self.packages.len() as u64) as usize);
            match self.read(mountpoint, at) {
                Ok(()) => reads.right += 1,
                Err(error) => {
                    match error.kind() {
                        io::ErrorKind::NotFound => reads.gone += 1,
                        _ if at < REBUILT => reads.gone += 1,
                        _ => *reads.failed.entry(error.to_string()).or_default() += 1,
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            reads.slowest = reads.slowest.max(before.elapsed());
            random.pause(self.rest);
        }
        reads
    }

    /// Does `work` while so many programs read and the binhost changes.
    fn during<T>(&mut self, mountpoint: &Path, readers: usize, work: impl FnOnce(&Self) -> T) -> (T, Reads) {
        let stop = AtomicBool::new(false);
        let randoms: Vec<Random> = (0..readers).map(|_| self.random.branch()).collect();
        let churn = &*self;
        std::thread::scope(|scope| {
            let until = Until(&stop);
            let reading = |random| scope.spawn(|| churn.read_until(&stop, mountpoint, random));
            let reading: Vec<_> = randoms.into_iter().map(reading).collect();
            scope.spawn(|| {
                for turn in 1.. {
                    std::thread::sleep(churn.publish_every);
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    churn.publish(turn);
                }
            });
            let done = work(churn);
            drop(until);
            let reads = reading.into_iter().map(|reader| reader.join().unwrap());
            (done, reads.fold(Reads::default(), Reads::and))
        })
    }
}
