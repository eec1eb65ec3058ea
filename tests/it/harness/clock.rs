//! A system clock for a daemon alone. The kernel has none of the kind: time namespaces leave CLOCK_REALTIME as it is.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use super::{Options, have};

/// Seconds since the epoch, on this machine.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A clock that a test may set.
#[derive(Debug)]
pub(crate) struct TestClock {
    place: TempDir,
    offset: File,
}

impl TestClock {
    /// One that shows the machine's time. `None`: skipped, loudly.
    pub(crate) fn new() -> Option<Self> {
        let place = TempDir::with_prefix("binhostfs-it.").unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/harness/clock.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(place.path().join("clock.so")).args([source, "-ldl"]);
        if !have(compiler.status().is_ok_and(|status| status.success()), "cc, for a clock of the daemon's own") {
            return None;
        }
        let file = place.path().join("offset");
        fs::write(&file, 0_i64.to_ne_bytes()).unwrap();
        let offset = File::options().write(true).open(file).unwrap();
        Some(Self { place, offset })
    }

    /// A daemon that goes by it.
    pub(crate) fn of(&self, options: Options) -> Options {
        self.variables().iter().fold(options, |options, (name, value)| options.variable(name, value))
    }

    /// The variables of the environment by which a program goes by it.
    pub(crate) fn variables(&self) -> [(&'static str, String); 2] {
        let path = |name: &str| self.place.path().join(name).to_str().unwrap().to_owned();
        [("LD_PRELOAD", path("clock.so")), ("BINHOSTFS_TEST_CLOCK", path("offset"))]
    }

    /// Shows `seconds` since the epoch from now on. No kernel tells anybody.
    pub(crate) fn set(&self, seconds: u64) {
        let offset = seconds.cast_signed() - now().cast_signed();
        self.offset.write_all_at(&offset.to_ne_bytes(), 0).unwrap();
    }

    /// Goes on by so many seconds at once.
    pub(crate) fn advance(&self, seconds: u64) {
        let path = self.place.path().join("offset");
        let before = i64::from_ne_bytes(fs::read(path).unwrap().try_into().unwrap());
        self.offset.write_all_at(&(before + seconds.cast_signed()).to_ne_bytes(), 0).unwrap();
    }
}
