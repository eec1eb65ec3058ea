//! Measurements with labels. Every value of every label is known beforehand, so that they take a fixed space.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Counter, Histogram, Metrics};

/// Declares the values of a label: an enum, all of it, and each one's name.
macro_rules! label {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $of:literal])+ $value:ident = $text:literal),+ $(,)? }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $of])+ $value),+ }

        impl $name {
            /// All of them, in order.
            pub const ALL: [Self; [$($text),+].len()] = [$(Self::$value),+];

            /// As the value of a label.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$value => $text),+ }
            }
        }
    };
}

label! {
    /// What the kernel asks.
    Operation {
        /// What is behind a name.
        Lookup = "lookup",
        /// Size, times, mode.
        Getattr = "getattr",
        /// A directory's names, with or without their attributes.
        Readdir = "readdir",
        /// Opening what is here: the index, or a package in the cache.
        OpenCached = "open_cached",
        /// Opening a package that has to be fetched.
        OpenFetched = "open_fetched",
        /// A read that is not passed through.
        Read = "read",
        /// A write that is not passed through.
        Write = "write",
        /// Another change of something local: its name, size or attributes.
        Change = "change",
        /// Extended attributes.
        Xattr = "xattr",
    }
}

label! {
    /// How it ended.
    Outcome {
        /// It was done.
        Done = "ok",
        /// There is no such thing, which is an answer too.
        Absent = "absent",
        /// It failed.
        Failed = "error",
    }
}

label! {
    /// In what a download is not the package of its index entry.
    RefusalKind {
        /// Fewer or more bytes.
        Size = "size",
        /// MD5 or SHA1 of the whole.
        Digest = "digest",
        /// It is no sound GPKG or XPAK, or a member's digest is wrong.
        Container = "container",
        /// There is no good signature.
        Signature = "signature",
        /// What it says of itself cannot be read.
        Metadata = "metadata",
        /// It is another package.
        Identity = "identity",
        /// Its index entry says something else of it than the package.
        IndexMismatch = "index-mismatch",
    }
}

const OPERATIONS: usize = Operation::ALL.len();
const OUTCOMES: usize = Outcome::ALL.len();

/// See the module's documentation.
#[derive(Debug)]
pub struct Detail {
    /// Downloads from their turn to the verdict.
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
    /// A request was answered.
    pub fn count_request(&self, operation: Operation, outcome: Outcome, took: Duration) {
        if let Some(count) = self.count(operation, outcome) {
            count.increase();
        }
        if let Some(latency) = self.latency(operation) {
            latency.observe(took);
        }
    }

    /// How many requests ended like this.
    #[must_use]
    pub fn requests(&self, operation: Operation, outcome: Outcome) -> u64 {
        self.count(operation, outcome).map_or(0, Counter::get)
    }

    /// How long they took.
    #[must_use]
    pub fn latency(&self, operation: Operation) -> Option<&Histogram> {
        self.latency.get(operation as usize)
    }

    /// A download was refused for this.
    pub fn refused(&self, kind: RefusalKind) {
        if let Some(count) = self.refusals.get(kind as usize) {
            count.increase();
        }
    }

    /// How many downloads were refused for this.
    #[must_use]
    pub fn refusals(&self, kind: RefusalKind) -> u64 {
        self.refusals.get(kind as usize).map_or(0, Counter::get)
    }

    fn count(&self, operation: Operation, outcome: Outcome) -> Option<&Counter> {
        self.requests.get(operation as usize)?.get(outcome as usize)
    }
}

/// A request that is being answered; counted when dropped.
#[derive(Debug)]
pub struct Timed {
    metrics: Arc<Metrics>,
    operation: Operation,
    outcome: Outcome,
    began: Instant,
}

impl Timed {
    /// It begins now, and is done unless somebody says otherwise.
    #[must_use]
    pub fn begin(metrics: &Arc<Metrics>, operation: Operation) -> Self {
        Self { metrics: Arc::clone(metrics), operation, outcome: Outcome::Done, began: Instant::now() }
    }

    /// It turned out to be another one.
    #[must_use]
    pub fn becoming(mut self, operation: Operation) -> Self {
        self.operation = operation;
        self
    }

    /// How it ends.
    pub fn ends(&mut self, outcome: Outcome) {
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
