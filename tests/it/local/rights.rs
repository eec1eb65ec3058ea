//! Nobody gets at more through the mount than without it, whatever happens to a file or to the daemon meanwhile.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::io::Errno;
use tempfile::TempDir;

use super::beneath;
use crate::handover::{can_hand_over, reload};
use crate::harness::{Mounted, Options, Origin, Package, can_mount, eventually, have};

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

fn number(error: std::io::Error) -> Option<Errno> {
    Errno::from_io_error(&error)
}

/// An ext4 of a test's own; gone when dropped.
struct Ext4 {
    place: TempDir,
    /// A directory on it, to be mounted on, and a way to it beneath the mount.
    directory: File,
}

impl Ext4 {
    fn new(options: &str) -> Option<Self> {
        if !can_mount() || !have(run("mkfs.ext4", &["-V"]), "mkfs.ext4") {
            return None;
        }
        let place = TempDir::with_prefix("binhostfs-it.").unwrap();
        let [image, at] = ["image", "ext4"].map(|name| place.path().join(name).display().to_string());
        File::create(&image).unwrap().set_len(16 << 20).unwrap();
        fs::create_dir(&at).unwrap();
        let made: Vec<&str> = ["-q", "-O", "^has_journal"].into_iter().chain(options.split_whitespace()).collect();
        assert!(run("mkfs.ext4", &[&made[..], &[&image]].concat()));
        if !have(run("mount", &["-t", "ext4", "-o", "loop", &image, &at]), "mounting an ext4") {
            return None;
        }
        let directory = place.path().join("ext4/beneath");
        fs::create_dir(&directory).unwrap();
        Some(Self { place, directory: File::open(directory).unwrap() })
    }

    fn beneath(&self, name: &str) -> PathBuf {
        Path::new(&format!("/proc/self/fd/{}", self.directory.as_raw_fd())).join(name)
    }

    fn mount(&self, options: Options) -> Mounted {
        let mut mounted = options.unstarted_in(TempDir::with_prefix("binhostfs-it.").unwrap());
        std::os::unix::fs::symlink(self.place.path().join("ext4/beneath"), mounted.mountpoint()).unwrap();
        mounted.start();
        mounted
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        // Nothing is to be done about it.
        let _ = Command::new("umount").arg("-l").arg(self.place.path().join("ext4")).status();
    }
}

#[test]
fn what_is_open_never_becomes_another_file() {
    if !can_hand_over() {
        return;
    }
    let Some(ext4) = Ext4::new("") else { return };
    let origin = Origin::with(&[Package::new("one-1.0", 3_000)]);
    let mounted = ext4.mount(Options::new(origin.url()).with(["--passthrough", "off"]));
    let mine = File::options().read(true).write(true).create_new(true).open(mounted.path("mine")).unwrap();
    mine.write_all_at(b"mine", 0).unwrap();
    let inode = fs::metadata(ext4.beneath("mine")).unwrap().ino();
    fs::remove_file(mounted.path("mine")).unwrap();
    assert!(reload(&mounted).status.success());
    // The one before has let go of it: its number is free, now or in a moment.
    let mut theirs = None;
    eventually(60, "ext4 gives a number again", || {
        let mut names = (0..64).map(|n| ext4.beneath(&format!("{n}")));
        theirs = names.find(|path| {
            fs::write(path, "theirs").unwrap();
            let found = fs::metadata(path).unwrap().ino() == inode;
            found || fs::remove_file(path).is_err()
        });
        theirs.is_some()
    });
    let theirs = theirs.unwrap();
    let shown = mounted.path(theirs.file_name().unwrap().to_str().unwrap());
    for name in [theirs, ext4.beneath("Packages")] {
        if !name.exists() {
            fs::rename(ext4.beneath(shown.file_name().unwrap().to_str().unwrap()), &name).unwrap();
        }
        assert!(mine.write_at(b"evil", 0).is_err() && mine.read_at(&mut [0; 4], 0).is_err(), "{}", name.display());
        assert!(mine.set_len(0).is_err());
        assert_eq!(fs::read(&name).unwrap(), b"theirs");
    }
    fs::rename(ext4.beneath("Packages"), ext4.beneath("other")).unwrap();
    // Whoever opens that file does not open it for others.
    let other = mounted.path("other");
    let _ = File::options().write(true).open(&other);
    assert!(mine.write_at(b"evil", 0).is_err());
    assert_eq!(fs::read(ext4.beneath("other")).unwrap(), b"theirs");
    drop(mine);
    eventually(20, "it can be read", || fs::read(&other).is_ok_and(|read| read == b"theirs"));
}

#[test]
fn nothing_is_written_after_a_reload_with_read_only() {
    if !can_hand_over() {
        return;
    }
    let origin = Origin::with(&[Package::new("one-1.0", 3_000)]);
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let file = place.path().join("binhostfs.toml");
    let configure = |read_only: bool| {
        fs::write(&file, format!("read-only = {read_only}\n[binhost.test]\nurl = \"{}\"\n", origin.url())).unwrap();
    };
    configure(false);
    let mounted = Options::configured(&file).with(["--passthrough", "off"]).mount();
    let path = mounted.path("f");
    let open = File::create(&path).unwrap();
    open.write_all_at(b"before", 0).unwrap();
    configure(true);
    assert!(reload(&mounted).status.success());
    let allocate = || rustix::fs::fallocate(&open, rustix::fs::FallocateFlags::empty(), 0, 8192);
    assert_eq!(number(open.write_at(b"after", 0).unwrap_err()), Some(Errno::ROFS));
    assert_eq!(allocate(), Err(Errno::ROFS));
    assert_eq!(number(open.set_len(0).unwrap_err()), Some(Errno::ROFS));
    for options in [File::options().write(true), File::options().write(true).truncate(true)] {
        assert_eq!(options.open(&path).map(drop).map_err(number), Err(Some(Errno::ROFS)));
    }
    assert_eq!(fs::read(&path).unwrap(), b"before");
}

#[test]
fn what_may_only_grow_is_appended_to() {
    if !can_mount() {
        return;
    }
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let path = place.path().join("pkgdir/grows");
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(&path, "1").unwrap();
    let set = |sign: &str, path: &Path| run("chattr", &[&format!("{sign}a"), path.to_str().unwrap()]);
    if !have(set("+", &path), "chattr +a") {
        return;
    }
    let origin = Origin::with(&[Package::new("one-1.0", 3_000)]);
    let mounted = Options::new(origin.url()).with(["--passthrough", "off"]).mount_in(place);
    let path = mounted.path("grows");
    let outcome = || {
        let reader = File::open(&path)?;
        File::options().append(true).open(&path)?.write_all(b"2")?;
        let refused = File::options().write(true).open(&path).map(drop).map_err(number);
        let mut read = [0; 2];
        reader.read_exact_at(&mut read, 0)?;
        Ok::<_, std::io::Error>((refused, read))
    };
    let outcome = outcome();
    let place = beneath(mounted);
    assert!(set("-", &place.path().join("pkgdir/grows")));
    assert_eq!(outcome.unwrap(), (Err(Some(Errno::PERM)), *b"12"));
}

#[test]
fn what_is_kept_for_root_is_kept() {
    // So many per cent are root's.
    let Some(ext4) = Ext4::new("-m 30") else { return };
    let origin = Origin::with(&[Package::new("one-1.0", 3_000)]);
    let mounted = ext4.mount(Options::new(origin.url()).with(["--passthrough", "off"]));
    let status = fs::read_to_string(format!("/proc/{}/status", mounted.pid())).unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    // CAP_SYS_RESOURCE is the 24th.
    assert_eq!(u64::from_str_radix(effective, 16).unwrap() >> 24 & 1, 0);
    let path = mounted.path("fills");
    fs::write(&path, "").unwrap();
    std::os::unix::fs::chown(&path, Some(65534), Some(65534)).unwrap();
    fs::set_permissions(mounted.mountpoint(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::set_permissions(mounted.place(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::set_permissions(ext4.place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let as_nobody = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).args(words);
        command.output().unwrap().status.success()
    };
    let target = path.to_str().unwrap();
    assert!(!as_nobody(&["fallocate", "--length", "15M", target]));
    assert!(!as_nobody(&["dd", "if=/dev/zero", "bs=64k", &format!("of={target}")]));
    let space = rustix::fs::statvfs(ext4.beneath(".")).unwrap();
    // But for less than what is written at once.
    assert!(
        space.f_bavail * space.f_frsize < 128 << 10 && space.f_bfree > space.f_blocks / 5,
        "{} {}",
        space.f_bavail,
        space.f_bfree
    );
    // root may.
    let filler = File::create(mounted.path("root")).unwrap();
    filler.write_all_at(&[7; 1 << 20], 0).unwrap();
    filler.sync_all().unwrap();
}
