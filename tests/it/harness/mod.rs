//! What tests share: a scriptable origin, packages, a mounted daemon, skipping.

mod address;
pub(crate) mod binhost;
mod chance;
pub(crate) mod clock;
#[cfg(feature = "object-store")]
pub(crate) mod garage;
#[allow(dead_code, reason = "the unit tests need the rest")]
#[path = "../../../src/verify/tests/gpg.rs"]
mod gpg;
pub(crate) mod http;
pub(crate) mod machine;
#[allow(dead_code, reason = "not every act is in every test run")]
mod origin;
#[path = "../../../src/cli/demo/package.rs"]
mod package;
mod packages;
pub(crate) mod portage;
mod process;
pub(crate) mod signed;
pub(crate) mod terminal;

pub(crate) use address::ReservedAddress;
pub(crate) use chance::{Random, number};
pub(crate) use gpg::Gpg;
pub(crate) use origin::{Act, Origin};
pub(crate) use packages::{Package, index_of, plan_of};
pub(crate) use process::{Mounted, Options, Stopped, binary, blobs_in, hashes_to_its_name};

use std::path::Path;

/// Whether a test that mounts can run. Says loudly when not; fails where everything is required.
pub(crate) fn can_mount() -> bool {
    let device = Path::new("/dev/fuse").exists();
    let root = rustix::process::geteuid().is_root();
    have(device && root, "mounting needs root and /dev/fuse")
}

/// gpg with a home of its own. `None`: skipped, loudly.
pub(crate) fn gpg() -> Option<Gpg> {
    let gpg = Gpg::new();
    have(gpg.is_some(), "gpg");
    gpg
}

/// `true`, or a loud skip, or a failure where `BINHOSTFS_TEST_REQUIRE_ALL` is set.
pub(crate) fn have(condition: bool, what: &str) -> bool {
    if !condition {
        let required = std::env::var_os("BINHOSTFS_TEST_REQUIRE_ALL").is_some();
        assert!(!required, "required, and not here: {what}");
        note_skip(what);
    }
    condition
}

/// Says that the test is skipped: the output of a test that passes is not shown, so `tests/run` collects them.
fn note_skip(what: &str) {
    eprintln!("SKIPPED: {what}");
    let Some(file) = std::env::var_os("BINHOSTFS_TEST_SKIPS") else { return };
    let thread = std::thread::current();
    let line = format!("{}: {what}\n", thread.name().unwrap_or("a test"));
    let mut file = std::fs::File::options().append(true).create(true).open(file).unwrap();
    std::io::Write::write_all(&mut file, line.as_bytes()).unwrap();
}

/// Polls `condition` until it holds; fails after `seconds`. For what has no event to wait for: the status and the metrics of a
/// daemon, its log, the mount table, and what the kernel has cached.
pub(crate) fn eventually(seconds: u64, what: &str, mut condition: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed().as_secs() < seconds, "not within {seconds} s: {what}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
