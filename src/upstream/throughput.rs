//! Measures the rate of one connection by the time spent waiting for it, so that a slow receiver
//! does not make it look slow.

use std::time::Duration;

use super::retry::{RATE_WINDOW, SLOW_WINDOW};

#[derive(Debug, Default, Clone, Copy)]
struct Sum {
    bytes: u64,
    waited: Duration,
}

impl Sum {
    fn add(&mut self, bytes: u64, waited: Duration) {
        self.bytes += bytes;
        self.waited += waited;
    }

    /// Returns the rate in bytes/s once `window` is full, and then starts a new window.
    fn full(&mut self, window: Duration) -> Option<f64> {
        (self.waited >= window).then(|| {
            let Self { bytes, waited } = std::mem::take(self);
            bytes as f64 / waited.as_secs_f64()
        })
    }
}

/// Rates of one connection over several windows. See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Throughput {
    total: Sum,
    short: Sum,
    long: Sum,
}

impl Throughput {
    pub(super) fn add(&mut self, bytes: u64, waited: Duration) {
        [&mut self.total, &mut self.short, &mut self.long].into_iter().for_each(|sum| sum.add(bytes, waited));
    }

    /// Returns the number of bytes, and the time spent waiting for them.
    pub(super) fn total(&self) -> (u64, Duration) {
        (self.total.bytes, self.total.waited)
    }

    /// Returns the rate in bytes/s once for each window of [`SLOW_WINDOW`].
    pub(super) fn short(&mut self) -> Option<f64> {
        self.short.full(SLOW_WINDOW)
    }

    /// Returns the rate in bytes/s once for each window of [`RATE_WINDOW`].
    pub(super) fn long(&mut self) -> Option<f64> {
        self.long.full(RATE_WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_come_one_after_the_other() {
        let (mut pace, part) = (Throughput::default(), SLOW_WINDOW / 4);
        let rates: Vec<Option<f64>> = (0..8)
            .map(|at| {
                pace.add(if at < 4 { 100 } else { 300 }, part);
                pace.short()
            })
            .collect();
        let per_second = 1.0 / part.as_secs_f64();
        assert_eq!((rates[3], rates[7]), (Some(100.0 * per_second), Some(300.0 * per_second)));
        assert_eq!(rates.iter().flatten().count(), 2);
        assert_eq!(pace.total(), (1600, SLOW_WINDOW * 2));
        assert_eq!(pace.long(), None);
    }
}
