//! Histograms of durations with fixed buckets.

use std::sync::atomic::Ordering;
use std::time::Duration;

use portable_atomic::AtomicU64;

/// Most buckets of a histogram. One more bucket counts longer durations.
const MAX_BUCKETS: usize = 12;

/// Counts of durations, in buckets that never change.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds in µs, ascending; at most [`MAX_BUCKETS`].
    bounds: &'static [u64],
    /// Number of durations in each bucket alone. The bucket after the last bound counts the rest.
    counts: [AtomicU64; MAX_BUCKETS + 1],
    /// Sum of all durations, in ns.
    sum: AtomicU64,
}

/// A histogram at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramReading {
    /// Upper bound in seconds, and the number of durations up to this bound.
    pub buckets: Vec<(f64, u64)>,
    /// Number of all durations.
    pub count: u64,
    /// Sum of all durations, in seconds.
    pub sum: f64,
}

impl Histogram {
    /// Creates a histogram for requests of the kernel, which take microseconds.
    #[must_use]
    pub const fn of_requests() -> Self {
        Self::new(&[10, 25, 50, 100, 250, 500, 1_000, 5_000, 25_000, 100_000, 1_000_000])
    }

    /// Creates a histogram for operations that wait for the network.
    #[must_use]
    pub const fn of_downloads() -> Self {
        Self::new(&[
            10_000,
            50_000,
            100_000,
            250_000,
            500_000,
            1_000_000,
            2_500_000,
            5_000_000,
            10_000_000,
            30_000_000,
            60_000_000,
            300_000_000,
        ])
    }

    const fn new(bounds: &'static [u64]) -> Self {
        assert!(bounds.len() <= MAX_BUCKETS);
        Self { bounds, counts: [const { AtomicU64::new(0) }; MAX_BUCKETS + 1], sum: AtomicU64::new(0) }
    }

    /// Adds one duration to its bucket and to the sum.
    pub fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = self.bounds.partition_point(|bound| *bound < micros);
        if let Some(count) = self.counts.get(at) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Reads the histogram. The count is the sum of the buckets, even if other threads add
    /// durations meanwhile.
    #[must_use]
    pub fn read(&self) -> HistogramReading {
        let mut count = 0;
        let mut counts = self.counts.iter().map(|bucket| {
            count += bucket.load(Ordering::Relaxed);
            count
        });
        let buckets = self.bounds.iter().zip(&mut counts).map(|(bound, up_to)| (*bound as f64 / 1e6, up_to)).collect();
        let all = counts.next().unwrap_or_default();
        HistogramReading { buckets, count: all, sum: self.sum.load(Ordering::Relaxed) as f64 / 1e9 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_is_not_longer_than_each_bound() {
        let histogram = Histogram::new(&[10, 100]);
        for micros in [5, 10, 11, 100, 101, 5_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let HistogramReading { buckets, count, sum } = histogram.read();
        assert_eq!((buckets, count), (vec![(1e-5, 2), (1e-4, 4)], 6));
        assert!((sum - 5.000_227).abs() < 1e-9, "{sum}");
        for histogram in [Histogram::of_requests(), Histogram::of_downloads()] {
            assert!(histogram.bounds.is_sorted() && histogram.bounds.len() <= MAX_BUCKETS);
            histogram.observe(Duration::from_secs(86_400));
            assert_eq!((histogram.read().count, histogram.read().buckets.last().unwrap().1), (1, 0));
        }
    }
}
