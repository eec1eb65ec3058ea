//! Full disks, read-only file systems, quotas, and crashes.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use rustix::io::Errno;
use tempfile::TempDir;

use super::resent::is_traced;
use super::tree;
use crate::harness::portage::entries;
use crate::harness::{Mounted, Options, Origin, Package, can_mount, eventually, have, index_of};

/// A file system of its own beneath the mount; gone when dropped.
struct Small(TempDir);

impl Small {
    fn new(options: &str) -> Self {
        let place = TempDir::with_prefix("binhostfs-it.").unwrap();
        let pkgdir = place.path().join("pkgdir");
        fs::create_dir(&pkgdir).unwrap();
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&pkgdir).status().unwrap();
        assert!(status.success());
        Self(place)
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("pkgdir")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Nothing is to be done about it.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// A mount on a directory within that file system: the mountpoint itself may not be one.
fn mount_on(small: &Small) -> (Origin, Mounted) {
    let packages = [Package::new("one-1.0", 30_000)];
    let origin = Origin::with(&packages);
    let mut mounted = Options::new(origin.url()).unstarted_in(TempDir::with_prefix("binhostfs-it.").unwrap());
    let directory = small.path().join("beneath");
    fs::create_dir_all(&directory).ok();
    std::os::unix::fs::symlink(&directory, mounted.mountpoint()).unwrap();
    mounted.start();
    (origin, mounted)
}

fn write_index(pkgdir: &Path, text: &str) -> std::io::Result<()> {
    let new = pkgdir.join("Packagesabcd");
    fs::write(&new, text)?;
    fs::rename(&new, pkgdir.join("Packages"))
}

#[test]
fn what_cannot_be_listed_is_not_taken_out_of_the_index() {
    let strace = Command::new("strace").arg("-V").output().is_ok();
    if !can_mount() || !have(strace, "strace") {
        return;
    }
    let packages = [Package::new("one-1.0", 30_000)];
    let origin = Origin::with(&packages);
    let mounted = Options::new(origin.url()).mount();
    let pkgdir = mounted.place().join("pkgdir");
    let local = Package::new("mine-1.0", 3000);
    fs::create_dir_all(mounted.path(&local.path).parent().unwrap()).unwrap();
    fs::write(mounted.path(&local.path), &local.bytes).unwrap();
    let listed = || fs::read_to_string(mounted.path("Packages")).unwrap().contains("mine-1.0");
    eventually(20, "it is listed", listed);
    let before = fs::read_to_string(pkgdir.join("Packages")).unwrap();

    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o"]).arg(mounted.place().join("strace"));
    strace.args(["-p", &mounted.status()["pid"].to_string(), "-e", "trace=getdents64"]);
    let mut strace = strace.args(["-e", "inject=getdents64:error=EIO"]).spawn().unwrap();
    eventually(60, "strace has the daemon", || is_traced(&mounted));
    let written = write_index(&pkgdir, &index_of(1_800_000_000, []));
    assert_eq!(written.unwrap_err().raw_os_error(), Some(Errno::IO.raw_os_error()));
    let shown = fs::read_to_string(pkgdir.join("Packages")).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_child(&strace), rustix::process::Signal::TERM).unwrap();
    strace.wait().unwrap();
    assert_eq!(shown, before);
    write_index(&pkgdir, &index_of(1_800_000_000, [])).unwrap();
}

#[test]
fn a_full_disk_leaves_the_index_whole() {
    if !can_mount() {
        return;
    }
    let small = Small::new("size=256k");
    let (_origin, mut mounted) = mount_on(&small);
    let local = Package::new("three-3.0", 700);
    fs::create_dir(mounted.path("app-misc/three")).unwrap();
    fs::write(mounted.path(&local.path), &local.bytes).unwrap();
    write_index(&mounted.mountpoint(), &index_of(1_790_000_000, [])).unwrap();
    let before = fs::read(mounted.path("Packages")).unwrap();
    // Until nothing more goes in.
    let filler = fs::File::create(mounted.path("filler")).unwrap();
    let mut written = 0;
    let error = loop {
        match filler.write_at(&[7; 4096], written) {
            Ok(count) => written += count as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(Errno::from_io_error(&error), Some(Errno::NOSPC));
    assert!(written > 100_000);
    // Room for what is renamed, and none for what is written beneath.
    let long = index_of(1_790_000_001, []).replace("VERSION: 0", &format!("KEY: {}\nVERSION: 0", "x".repeat(20_000)));
    filler.set_len(written - 24_000).unwrap();
    let refused = write_index(&mounted.mountpoint(), &long).unwrap_err();
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::NOSPC));
    assert_eq!(fs::read(mounted.path("Packages")).unwrap(), before);
    assert!(mounted.log().contains("a new index of the local packages is not taken"), "{}", mounted.log());
    drop(filler);
    assert_eq!(mounted.stop(), Some(0));
    let beneath = small.path().join("beneath");
    assert!(fs::read_to_string(beneath.join("Packages")).unwrap().contains("VERSION: 0\n"));
    assert!(!beneath.join(".Packages.binhostfs-new").exists());
}

#[test]
fn a_read_only_file_system_says_so() {
    if !can_mount() {
        return;
    }
    let small = Small::new("size=1m");
    let local = Package::new("three-3.0", 700);
    let beneath = small.path().join("beneath");
    fs::create_dir_all(beneath.join("app-misc/three")).unwrap();
    fs::write(beneath.join(&local.path), &local.bytes).unwrap();
    let status = Command::new("mount").args(["-o", "remount,ro"]).arg(small.path()).status().unwrap();
    assert!(status.success());
    let (_origin, mounted) = mount_on(&small);
    let refused = fs::write(mounted.path("x"), "").unwrap_err();
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::ROFS));
    assert_eq!(rustix::fs::unlink(mounted.path(&local.path)), Err(Errno::ROFS));
    // What is there is shown and listed all the same.
    assert!(fs::read(mounted.path(&local.path)).unwrap() == local.bytes);
    let listed = || entries(&mounted.path("Packages")).iter().any(|entry| entry["CPV"] == "app-misc/three-3.0");
    eventually(20, "it is listed", listed);
}

#[test]
fn a_crash_in_any_step_leaves_an_index() {
    if !can_mount() {
        return;
    }
    let packages = [Package::new("one-1.0", 30_000)];
    let origin = Origin::with(&packages);
    let local = Package::new("three-3.0", 700);
    let mut mounted = Options::new(origin.url()).mount();
    fs::create_dir(mounted.path("app-misc/three")).unwrap();
    let pkgdir = mounted.mountpoint();
    for step in 0..5 {
        if step >= 1 {
            fs::write(mounted.path(&format!("{}new", local.path)), &local.bytes).unwrap();
        }
        if step >= 2 {
            fs::rename(mounted.path(&format!("{}new", local.path)), mounted.path(&local.path)).unwrap();
        }
        let text = index_of(1_790_000_000 + step, []);
        if step >= 3 {
            fs::write(pkgdir.join("Packagesabcd"), &text).unwrap();
        }
        if step >= 4 {
            fs::rename(pkgdir.join("Packagesabcd"), pkgdir.join("Packages")).unwrap();
        }
        mounted.kill();
        rustix::mount::unmount(&pkgdir, rustix::mount::UnmountFlags::DETACH).unwrap();
        let beneath = tree(&pkgdir);
        let whole = |name: &str| {
            let text = beneath.get(Path::new(name)).map(|(_, text)| String::from_utf8(text.clone()).unwrap());
            text.is_none_or(|text| text.contains("VERSION: 0\n\n") && text.ends_with("\n\n"))
        };
        assert!(whole("Packages"), "step {step}");
        assert_eq!(beneath.contains_key(Path::new(&local.path)), step >= 2, "step {step}");
        mounted.start();
        assert!(fs::read(mounted.path(&packages[0].path)).unwrap() == packages[0].bytes);
        let listed = || entries(&pkgdir.join("Packages")).iter().any(|entry| entry["CPV"] == "app-misc/three-3.0");
        if step >= 2 {
            eventually(20, "what was left without an index is listed", listed);
        }
    }
}

/// A btrfs of a test's own, whose sub-volume `pkgdir` may hold 8 MiB; gone when dropped.
fn limited() -> Option<Small> {
    let run = |program: &str, arguments: &[&str]| {
        Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
    };
    let programs = run("mkfs.btrfs", &["--version"]);
    if !can_mount() || !have(programs, "mkfs.btrfs") {
        return None;
    }
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let (image, pkgdir) = (place.path().join("image"), place.path().join("pkgdir"));
    fs::File::create(&image).unwrap().set_len(160 << 20).unwrap();
    fs::create_dir(&pkgdir).unwrap();
    let [image, at] = [&image, &pkgdir].map(|path| path.display().to_string());
    assert!(run("mkfs.btrfs", &["-q", &image]));
    if !have(run("mount", &["-t", "btrfs", "-o", "loop", &image, &at]), "btrfs") {
        return None;
    }
    let small = Small(place);
    let volume = format!("{at}/beneath");
    assert!(run("btrfs", &["quota", "enable", &at]));
    assert!(run("btrfs", &["subvolume", "create", &volume]));
    assert!(run("btrfs", &["qgroup", "limit", "8M", &volume]));
    Some(small)
}

#[test]
fn a_quota_leaves_the_index_whole() {
    let Some(small) = limited() else { return };
    let (_origin, mut mounted) = mount_on(&small);
    let local = Package::new("three-3.0", 700);
    fs::create_dir(mounted.path("app-misc/three")).unwrap();
    fs::write(mounted.path(&local.path), &local.bytes).unwrap();
    write_index(&mounted.mountpoint(), &index_of(1_790_000_000, [])).unwrap();
    let before = fs::read(mounted.path("Packages")).unwrap();
    let filler = fs::File::create(mounted.path("filler")).unwrap();
    let mut written = 0;
    let error = loop {
        match filler.write_at(&[7; 65_536], written) {
            Ok(count) => written += count as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(Errno::from_io_error(&error), Some(Errno::DQUOT));
    assert!((4 << 20..16 << 20).contains(&written), "{written}");
    let long = index_of(1_790_000_001, []).replace("VERSION: 0", &format!("KEY: {}\nVERSION: 0", "x".repeat(20_000)));
    let refused = write_index(&mounted.mountpoint(), &long).unwrap_err();
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::DQUOT));
    assert_eq!(fs::read(mounted.path("Packages")).unwrap(), before);
    drop(filler);
    assert_eq!(mounted.stop(), Some(0));
    let beneath = small.path().join("beneath");
    assert!(fs::read_to_string(beneath.join("Packages")).unwrap().contains("VERSION: 0\n"));
    assert!(!beneath.join(".Packages.binhostfs-new").exists());
}
