//! How fast one connection is, by the time that it was waited for: whoever takes the bytes slowly does not make it slow.

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

    /// Bytes/s, once `window` is full; it then begins anew.
    fn full(&mut self, window: Duration) -> Option<f64> {
        (self.waited >= window).then(|| {
            let Self { bytes, waited } = std::mem::take(self);
            bytes as f64 / waited.as_secs_f64()
        })
    }
}

/// See the module's documentation.
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

    /// Bytes, and how long they were waited for.
    pub(super) fn total(&self) -> (u64, Duration) {
        (self.total.bytes, self.total.waited)
    }

    /// Bytes/s over [`SLOW_WINDOW`], once for each.
    pub(super) fn short(&mut self) -> Option<f64> {
        self.short.full(SLOW_WINDOW)
    }

    /// Bytes/s over [`RATE_WINDOW`], once for each.
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
