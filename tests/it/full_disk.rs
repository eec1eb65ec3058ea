//! The real emerge, with a cache on a disk that is too small for what it installs, or that somebody else fills.

use crate::harness::portage::{self, Emerge, Nginx};
use crate::harness::{Mounted, Options, eventually};
use crate::sharing::Disk;

/// Packages that app-misc/greet is installed with; 100 KiB together.
const GREET: usize = 7;

fn emerge(mounted: &Mounted) -> Emerge {
    Emerge::from(mounted.mountpoint())
}

#[track_caller]
fn assert_all_went_well(mounted: &Mounted) {
    assert_eq!((mounted.counter("failed_opens"), mounted.counter("refused")), (0, 0), "{}", mounted.log());
    assert!(!mounted.log().contains("panicked"), "{}", mounted.log());
    eventually(10, "nothing is left over", || {
        mounted.incoming().is_empty() && mounted.status()["cache"]["reserved"] == 0
    });
}

#[test]
fn a_package_larger_than_the_disk_installs_among_others() {
    let Some(binhost) = portage::binhost("gpkg-multi") else { return };
    let disk = Disk::ext4(24);
    let nginx = Nginx::serve(&binhost);
    let mounted = Options::new(nginx.url()).mount_in(disk.place());
    let emerge = emerge(&mounted);
    emerge.succeed(["app-misc/big", "app-misc/greet"]);
    assert_eq!(std::fs::metadata(emerge.path("usr/share/big/payload")).unwrap().len(), 50 << 20);
    assert_eq!(emerge.says("usr/bin/greet"), "greet-0.9");
    // What cannot be kept may have been fetched ahead for nothing, and is fetched once more then.
    let mut fetched = nginx.fetched();
    assert!(fetched.len() <= emerge.sources(&binhost).len() + 1, "{fetched:?}");
    fetched.dedup();
    assert_eq!(fetched, emerge.sources(&binhost));
    assert!(mounted.counter("transient_blobs") >= 1, "{}", mounted.log());
    assert_all_went_well(&mounted);
}

#[test]
fn more_packages_than_there_is_space_for_install() {
    let Some(binhost) = portage::binhost("gpkg-multi") else { return };
    let disk = Disk::ext4(16);
    let nginx = Nginx::serve(&binhost);
    let mounted = Options::new(nginx.url()).mount_in(disk.place());
    disk.fill();
    disk.leave(64 << 10);
    for _ in 0..2 {
        let emerge = emerge(&mounted);
        emerge.succeed(["app-misc/greet"]);
        assert_eq!((emerge.names().len(), emerge.says("usr/bin/greet").as_str()), (GREET, "greet-0.9"));
    }
    let (evicted, unkept) = (mounted.counter("evicted"), mounted.counter("transient_blobs"));
    assert!(evicted + unkept > 0, "all of it had space\n{}", mounted.log());
    assert_all_went_well(&mounted);
}

#[test]
fn a_disk_that_is_filled_meanwhile_does_not_stop_an_emerge() {
    let Some(binhost) = portage::binhost("gpkg-multi") else { return };
    let disk = Disk::ext4(16);
    // Slow enough that there is no doubt what came first.
    let nginx = Nginx::serve_with(&binhost, "location ~ tar$ { limit_rate 4k; }");
    let mut mounted = Options::new(nginx.url()).mount_in(disk.place());
    let first = emerge(&mounted);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| first.succeed(["app-misc/greet"]));
        eventually(120, "a package is in the cache", || mounted.status()["cache"]["packages"].as_u64() > Some(0));
        disk.fill();
        assert!(!running.is_finished(), "the disk was to be filled while emerge runs");
        running.join().unwrap();
    });
    assert_eq!((first.names().len(), first.says("usr/bin/greet").as_str()), (GREET, "greet-0.9"));
    assert_all_went_well(&mounted);
    // It stays full over a restart, and is freed at last.
    assert_eq!(mounted.stop(), Some(0));
    mounted.start();
    emerge(&mounted).succeed(["app-misc/greet"]);
    disk.clear();
    emerge(&mounted).succeed(["app-misc/greet"]);
    assert_all_went_well(&mounted);
}
