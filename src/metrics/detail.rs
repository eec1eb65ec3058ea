//! Measurements that have labels. All values of all labels are fixed, so that the measurements take
//! a fixed amount of memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Counter, Histogram, Metrics};

/// Declares the values of a label: an enum, a constant with all values, and the name of each value.
macro_rules! label {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $of:literal])+ $value:ident = $text:literal),+ $(,)? }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $of])+ $value),+ }

        impl $name {
            /// All values of the label, in order.
            pub const ALL: [Self; [$($text),+].len()] = [$(Self::$value),+];

            /// Returns the text of the label's value.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$value => $text),+ }
            }
        }
    };
}

label! {
    /// A kind of request from the kernel.
    Operation {
        /// Finding the inode of a name.
        Lookup = "lookup",
        /// Reading size, times and mode of an inode.
        Getattr = "getattr",
        /// Listing a directory's names, with or without their attributes.
        Readdir = "readdir",
        /// Opening a local file: the index, or a package in the cache.
        OpenCached = "open_cached",
        /// Opening a package that must be fetched.
        OpenFetched = "open_fetched",
        /// A read that is not passed through.
        Read = "read",
        /// A write that is not passed through.
        Write = "write",
        /// Another change of a local file: its name, size or attributes.
        Change = "change",
        /// Reading or changing extended attributes.
        Xattr = "xattr",
    }
}

label! {
    /// Result of a request.
    Outcome {
        /// The request was done.
        Done = "ok",
        /// The requested object does not exist, which is a valid answer, too.
        Absent = "absent",
        /// The request failed with an error.
        Failed = "error",
    }
}

label! {
    /// How a download differs from the package of its index entry.
    RefusalKind {
        /// The package has fewer or more bytes.
        Size = "size",
        /// MD5 or SHA1 of the whole package differs.
        Digest = "digest",
        /// The package is no sound GPKG or XPAK, or a member's digest is wrong.
        Container = "container",
        /// There is no good signature.
        Signature = "signature",
        /// The package's metadata cannot be read.
        Metadata = "metadata",
        /// The metadata names another package.
        Identity = "identity",
        /// The index entry differs from the package's metadata.
        IndexMismatch = "index-mismatch",
    }
}

const OPERATIONS: usize = Operation::ALL.len();
const OUTCOMES: usize = Outcome::ALL.len();

/// All measurements with labels. See the module's documentation.
#[derive(Debug)]
pub struct Detail {
    /// Duration of downloads, from their turn to their outcome.
    pub downloads: Histogram,
    requests: [[Counter; OUTCOMES]; OPERATIONS],
    latency: [Histogram; OPERATIONS],
    refusals: [Counter; RefusalKind::ALL.len()],
}

impl Default for Detail {
    fn default() -> Self {
        let latency = Operation::ALL.map(|operation| match operation {
            Operation::OpenFetched => Histogram::of_downloads(),
            _ => Histogram::of_requests(),
        });
        Self {
            downloads: Histogram::of_downloads(),
            requests: Default::default(),
            latency,
            refusals: Default::default(),
        }
    }
}

impl Detail {
    /// Counts a request that was answered, and its duration.
    pub fn count_request(&self, operation: Operation, outcome: Outcome, took: Duration) {
        if let Some(count) = self.count(operation, outcome) {
            count.increase();
        }
        if let Some(latency) = self.latency(operation) {
            latency.observe(took);
        }
    }

    /// Number of requests with this result.
    #[must_use]
    pub fn requests(&self, operation: Operation, outcome: Outcome) -> u64 {
        self.count(operation, outcome).map_or(0, Counter::get)
    }

    /// Durations of requests of one kind.
    #[must_use]
    pub fn latency(&self, operation: Operation) -> Option<&Histogram> {
        self.latency.get(operation as usize)
    }

    /// Counts a download that was refused for this reason.
    pub fn refused(&self, kind: RefusalKind) {
        if let Some(count) = self.refusals.get(kind as usize) {
            count.increase();
        }
    }

    /// Number of downloads that were refused for this reason.
    #[must_use]
    pub fn refusals(&self, kind: RefusalKind) -> u64 {
        self.refusals.get(kind as usize).map_or(0, Counter::get)
    }

    fn count(&self, operation: Operation, outcome: Outcome) -> Option<&Counter> {
        self.requests.get(operation as usize)?.get(outcome as usize)
    }
}

/// A request that is being answered. Dropping it counts the request.
#[derive(Debug)]
pub(crate) struct Timed {
    metrics: Arc<Metrics>,
    operation: Operation,
    outcome: Outcome,
    began: Instant,
}

impl Timed {
    /// Starts to measure a request. Its outcome is `Done` unless `ends` sets another one.
    #[must_use]
    pub(crate) fn begin(metrics: &Arc<Metrics>, operation: Operation) -> Self {
        Self { metrics: Arc::clone(metrics), operation, outcome: Outcome::Done, began: Instant::now() }
    }

    /// Changes the kind of the request.
    #[must_use]
    pub(crate) fn becoming(mut self, operation: Operation) -> Self {
        self.operation = operation;
        self
    }

    /// Sets the outcome of the request.
    pub(crate) fn ends(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        self.metrics.detail.count_request(self.operation, self.outcome, self.began.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_when_it_ends() {
        let metrics = Arc::new(Metrics::default());
        let mut timed = Timed::begin(&metrics, Operation::OpenCached).becoming(Operation::OpenFetched);
        timed.ends(Outcome::Failed);
        assert_eq!(metrics.detail.requests(Operation::OpenFetched, Outcome::Failed), 0);
        drop(timed);
        assert_eq!(metrics.detail.requests(Operation::OpenFetched, Outcome::Failed), 1);
        assert_eq!(metrics.detail.latency(Operation::OpenFetched).unwrap().read().count, 1);
        assert_eq!(metrics.detail.requests(Operation::OpenCached, Outcome::Done), 0);
        for kind in RefusalKind::ALL {
            metrics.detail.refused(kind);
            assert_eq!(metrics.detail.refusals(kind), 1);
        }
    }
}
