//! What comes at random, and how often.

use std::time::{Duration, SystemTime};

/// Numbers that can be had again: the seed is printed, and taken from BINHOSTFS_TEST_SEED.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        let given = std::env::var("BINHOSTFS_TEST_SEED").ok().map(|seed| seed.parse().unwrap());
        let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = given.unwrap_or_else(now);
        eprintln!("BINHOSTFS_TEST_SEED={seed}");
        Self(seed | 1)
    }

    /// Another source of numbers, for a thread of its own.
    pub(crate) fn branch(&mut self) -> Self {
        Self(self.below(1 << 50) << 1 | 1)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    /// Kills are to come at any moment, so here time passes without an event.
    pub(crate) fn pause(&mut self, milliseconds: u64) {
        std::thread::sleep(Duration::from_micros(self.below(1000 * milliseconds)));
    }
}

/// How many rounds, seconds or the like: a variable of the environment, or what does for every day.
pub(crate) fn number(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number")))
}
