//! A block device whose state at one instant can be kept: what a power cut would leave.
//!
//! An ext4 in a file, through a loop device with direct I/O, on an XFS, which can clone the file in one step. What the page
//! cache holds and nobody has synced is not in the clone; the cache of a real drive is not modelled.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::harness::{can_mount, have};

/// Large enough for XFS; little of it is ever used.
const XFS_SIZE: u64 = 2 << 30;
const DISK_SIZE: u64 = 96 << 20;

#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {error}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Something mounted; unmounted when dropped.
#[derive(Debug)]
pub(super) struct Filesystem(PathBuf);

impl Filesystem {
    /// Mounts a file or a device on a new directory.
    fn mount(what: &Path, options: &str, on: PathBuf) -> Self {
        std::fs::create_dir(&on).unwrap();
        run("mount", &["-o", options, what.to_str().unwrap(), on.to_str().unwrap()]);
        Self(on)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Filesystem {
    fn drop(&mut self) {
        // Loop devices of `mount` go with it.
        let unmounted = Command::new("umount").arg(&self.0).status();
        if unmounted.is_ok_and(|status| status.success()) {
            let _ = std::fs::remove_dir(&self.0);
        } else {
            let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
        }
    }
}

/// See the module's documentation. Fields are dropped in this order.
#[derive(Debug)]
pub(super) struct Disk {
    ext4: Filesystem,
    _xfs: Filesystem,
    image: PathBuf,
    place: TempDir,
}

impl Disk {
    /// An empty one. `None`: skipped, loudly.
    pub(super) fn new() -> Option<Self> {
        let there =
            |tool: &&str| Command::new(tool).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
        let tools = ["mkfs.xfs", "mkfs.ext4", "losetup"].iter().all(there);
        let kernel = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let kernel =
            ["\txfs\n", "\text4\n"].iter().all(|name| kernel.contains(name)) && Path::new("/dev/loop-control").exists();
        (can_mount() && have(tools && kernel, "loop devices, ext4 and XFS with their mkfs")).then(Self::make)
    }

    fn make() -> Self {
        let place = TempDir::with_prefix("binhostfs-it.").unwrap();
        let file = |path: &Path, size| std::fs::File::create(path).unwrap().set_len(size).unwrap();
        let (below, xfs) = (place.path().join("xfs.img"), place.path().join("xfs"));
        file(&below, XFS_SIZE);
        run("mkfs.xfs", &["-q", "-m", "reflink=1", below.to_str().unwrap()]);
        let xfs = Filesystem::mount(&below, "loop", xfs);
        let image = xfs.path().join("disk.img");
        file(&image, DISK_SIZE);
        run("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image.to_str().unwrap()]);
        let device = run("losetup", &["--find", "--show", "--direct-io=on", image.to_str().unwrap()]);
        let ext4 = Filesystem::mount(Path::new(&device), "defaults", place.path().join("disk"));
        // It goes when it is unmounted.
        run("losetup", &["--detach", &device]);
        Self { ext4, _xfs: xfs, image, place }
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> &Path {
        self.ext4.path()
    }

    /// Keeps what is on it at this instant.
    pub(super) fn snapshot(&self) -> Snapshot {
        let image = self.image.with_file_name("snapshot.img");
        run("cp", &["--reflink=always", self.image.to_str().unwrap(), image.to_str().unwrap()]);
        Snapshot { image, mountpoint: self.place.path().join("snapshot") }
    }
}

/// What a disk held at an instant.
#[derive(Debug)]
pub(super) struct Snapshot {
    image: PathBuf,
    mountpoint: PathBuf,
}

impl Snapshot {
    /// Mounts it, as the next start of the machine does.
    pub(super) fn mount(&self) -> Filesystem {
        Filesystem::mount(&self.image, "loop", self.mountpoint.clone())
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.image);
    }
}
