//! Readers, eviction, changing indexes and faults of the network for a long time: nobody waits too long, and nothing grows.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::flapping::Flapping;
use super::{Churn, Until};
use crate::harness::{Act, Mounted, Options, Random, can_mount, eventually, number};

const READERS: usize = 8;
const BOUND: u64 = 24 << 20;
/// What a read may take: a binhost that sends nothing is given up 45 s after its last byte.
const PATIENCE: Duration = Duration::from_secs(50);
/// MiB of memory, of the program as it is released.
const MEMORY: f64 = 40.0;
/// MiB that memory may grow after the first quarter.
const GROWTH: f64 = 4.0;

/// MiB of the daemon's memory: all of it that is in use, what is not files, and the most that was ever in use.
#[derive(Debug, Clone, Copy)]
struct Memory {
    rss: f64,
    anonymous: f64,
    peak: f64,
}

impl Memory {
    fn of(mounted: &Mounted) -> Self {
        let text = fs::read_to_string(format!("/proc/{}/status", mounted.pid())).unwrap();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
        };
        Self { rss: field("VmRSS"), anonymous: field("RssAnon"), peak: field("VmHWM") }
    }
}

fn median(samples: &[Memory], what: impl Fn(&Memory) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(what).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Files of the cache, finished or not, that the daemon has open.
fn open_files(mounted: &Mounted) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{}/fd", mounted.pid())).unwrap().flatten();
    let names = entries.filter_map(|entry| fs::read_link(entry.path()).ok()).map(|path| path.display().to_string());
    names
        .filter(|name| ["/v1/blobs/", "/v1/incoming/", "/memfd:binhostfs "].iter().any(|part| name.contains(part)))
        .collect()
}

/// Has requests fail in one way or another, one after the other.
fn spoil(churn: &Churn, stop: &AtomicBool, mut random: Random) {
    while !stop.load(Ordering::SeqCst) {
        random.pause(400);
        let package = &churn.packages[random.below(churn.packages.len() as u64) as usize];
        let at = random.below(package.bytes.len() as u64) as usize;
        // Each of the last two costs ten seconds.
        let fault = match random.below(24) {
            0..6 => Act::Status(503, Vec::new()),
            6..10 => Act::Status(500, Vec::new()),
            10..16 => Act::ResetAt(at),
            16..22 => Act::CloseAt(at),
            22 => Act::StallAt(at),
            _ => Act::Silence,
        };
        churn.origin.script(&package.path, [fault, Act::Serve]);
        let fault = [Act::Status(502, Vec::new()), Act::ResetAt(100), Act::StallAt(300)];
        if let (0, Some(fault)) = (random.below(20), fault.get(random.below(3) as usize)) {
            churn.origin.script("Packages.gz", [fault.clone(), Act::Serve]);
        }
    }
}

/// Has a mirror come and go.
fn flap(mirror: &Flapping, stop: &AtomicBool, mut random: Random) {
    for up in [false, true].into_iter().cycle() {
        random.pause(4_000);
        if stop.load(Ordering::SeqCst) {
            return mirror.turn(true);
        }
        mirror.turn(up);
    }
}

#[test]
fn nobody_waits_too_long_and_nothing_grows() {
    if !can_mount() {
        return;
    }
    let span = Duration::from_secs(number("BINHOSTFS_TEST_SOAK", 15) as u64);
    let mut churn = Churn::new(90, 400_000, 3_000_000, Duration::from_secs(2)).restfully(300);
    let flapping = Flapping::new(*churn.origin.address());
    let first = churn.origin.url().replace(&churn.origin.address().to_string(), &flapping.address().to_string());
    assert_ne!(first, churn.origin.url());
    let options = Options::new(first).with(["--mirror", &churn.origin.url()]);
    let mut mounted = options.with(["--cache-size", "24M", "--refresh", "1s"]).mount();
    let (random, flaps) = (Random::new(), Random::new());
    let (samples, reads) = churn.during(&mounted.mountpoint(), READERS, |churn| {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _until = Until(&stop);
            scope.spawn(|| spoil(churn, &stop, random));
            scope.spawn(|| flap(&flapping, &stop, flaps));
            let (begin, mut samples) = (Instant::now(), Vec::new());
            while begin.elapsed() < span {
                std::thread::sleep((span / 60).clamp(Duration::from_millis(250), Duration::from_secs(5)));
                samples.push(Memory::of(&mounted));
                let status = mounted.status();
                let cache = &status["cache"];
                let taken = cache["bytes"].as_u64().unwrap() + cache["reserved"].as_u64().unwrap();
                assert!(taken <= BOUND, "{cache}");
            }
            samples
        })
    });
    // The index may have stalled for the whole span: a stall costs ten seconds, and the next attempt may meet another one.
    eventually(60, "an index is taken after the faults", || {
        mounted.status()["metrics"]["refreshes"].as_u64() > Some(0)
    });
    // Downloads that nobody waits for go on for half a minute, and what could not be kept is held for two.
    eventually(240, "everything is given back", || {
        let status = mounted.status();
        let downloads = status["downloads"].as_array().unwrap().len();
        (downloads, status["cache"]["reserved"].as_u64()) == (0, Some(0)) && open_files(&mounted).is_empty()
    });
    let metrics = &mounted.status()["metrics"];
    let quarter = samples.len() / 4;
    let (early, late) = (&samples[quarter..2 * quarter], &samples[samples.len() - quarter..]);
    let [early, late] = [early, late].map(|samples| (median(samples, |m| m.rss), median(samples, |m| m.anonymous)));
    let peak = samples.last().unwrap().peak;
    let (relayed, refused) = flapping.connections();
    eprintln!(
        "{span:?}, {reads:?}; connections to the flapping mirror: {relayed}, and {refused} refused\nRSS and anonymous, MiB: {early:?}, at the end {late:?}, peak {peak}\n{metrics:#}"
    );

    assert!(reads.slowest < PATIENCE, "a read took {:?}", reads.slowest);
    // Whatever is tried again three times in vain.
    assert!(reads.broken() * 100 < reads.right, "{reads:?}");
    assert!(relayed > 0 && refused > 0, "the mirror did not flap: {relayed} and {refused} connections");
    for name in ["evicted", "refreshes", "retries", "resumes", "mirror_switches"] {
        assert!(metrics[name].as_u64() > Some(0), "no {name}: {metrics:#}");
    }
    assert!(late.1 < early.1 + GROWTH && late.0 < early.0 + GROWTH, "memory grows");
    // A debug build alone has more code than that.
    let most = if cfg!(debug_assertions) && std::env::var_os("BINHOSTFS").is_none() {
        samples.iter().map(|memory| memory.anonymous).fold(0.0, f64::max)
    } else {
        peak
    };
    assert!(most <= MEMORY, "{most} MiB");
    assert!(mounted.is_sound());
    assert_eq!(mounted.stop(), Some(0));
    assert!(!mounted.log().contains("panicked"), "{}", mounted.log());
}
