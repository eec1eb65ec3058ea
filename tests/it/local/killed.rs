//! kill -9 of the daemon while the real Portage writes: emerge goes on, and what it leaves is what a plain directory has.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::portage::{Side, assert_same_beneath};
use crate::handover::can_hand_over;
use crate::harness::portage::{self, entries_of};
use crate::harness::{Mounted, Options, eventually};

/// What is seen in the directories when a step is reached: the placeholder, the package beside it, the lock, its probe, the new
/// indexes.
const STEPS: [&str; 8] = [
    "hello-1.0-1.gpkg.tar",
    "1.gpkg.tar.",
    ".portage_lockfile",
    "hardlock",
    "Packages.gz",
    "Packages",
    "many-1-1.gpkg.tar",
    "many-1-1.gpkg.tar.",
];

fn names(mounted: &Mounted) -> Vec<String> {
    let directories = ["", "app-misc/hello", "app-misc/many"].map(|name| fs::read_dir(mounted.path(name)));
    let names = directories.into_iter().flatten().flatten().flatten();
    names.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

fn is_whole(packages: &Path) {
    let text = fs::read_to_string(packages).unwrap();
    let count: usize = text.lines().find_map(|line| line.strip_prefix("PACKAGES: ")).unwrap().parse().unwrap();
    assert_eq!(entries_of(&text).len(), count, "{text}");
}

#[test]
fn a_daemon_that_is_killed_in_any_step_is_not_noticed_by_emerge() {
    let Some(binhost) = portage::binhost("gpkg-flat").filter(|_| can_hand_over()) else { return };
    let plain = TempDir::with_prefix("binhostfs-it.").unwrap();
    let build = ["=app-misc/hello-1.0", "=app-misc/many-1"];
    Side::new(plain.path()).build("--buildpkgonly", &build);
    let url = format!("file://{}", binhost.display());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/portage/emerge-from.sh");
    for step in STEPS {
        let mounted = Options::new(url.as_str()).with(["--supervise"]).mount();
        let side = Side::new(&mounted.mountpoint());
        let before = i32::try_from(mounted.status()["pid"].as_u64().unwrap()).unwrap();
        let mut emerge = Command::new(&script);
        emerge.arg(&side.pkgdir).arg(side.emerge.path("")).arg("--nodeps").args(build);
        emerge.env("MODE", "--buildpkgonly").env("TIMEOUT", "300").stdin(Stdio::null());
        let log = fs::File::create(side.emerge.path("log")).unwrap();
        let mut emerge = emerge.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let there =
            || names(&mounted).iter().any(|name| name.contains(step) && (step != "Packages" || name.len() > 11));
        while !there() && emerge.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        kill_process(Pid::from_raw(before).unwrap(), Signal::KILL).unwrap();
        is_whole(&mounted.path("Packages"));
        let status = emerge.wait().unwrap();
        assert!(status.success(), "{step}: {}", fs::read_to_string(side.emerge.path("log")).unwrap());
        is_whole(&mounted.path("Packages"));
        eventually(60, "the next daemon answers", || mounted.control().exists());
        assert_same_beneath(mounted, plain.path());
    }
}
