//! The index of the local packages, where things go wrong or are asked for by somebody who may not.

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, Uid};
use rustix::thread::gettid;
use tempfile::TempDir;

use super::mounted;
use crate::harness::portage::entries;
use crate::harness::{Mounted, Options, Origin, Package, can_mount, eventually};

/// In a thread of a user who has no rights.
pub(super) fn as_nobody<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    let disguised = || {
        let nobody = Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        act()
    };
    std::thread::scope(|scope| scope.spawn(disguised).join().unwrap())
}

#[test]
fn what_could_not_be_looked_at_is_looked_at_again() {
    if !can_mount() {
        return;
    }
    let (_origin, _, mounted) = mounted("auto");
    // What is shown cannot be written.
    let (scratch, away) = (mounted.cache().join("v1/generations"), mounted.cache().join("v1/away"));
    fs::rename(&scratch, &away).unwrap();
    let local = Package::new("three-3.0", 700);
    fs::create_dir(mounted.path("app-misc/three")).unwrap();
    fs::write(mounted.path(&local.path), &local.bytes).unwrap();
    eventually(60, "it is tried", || mounted.log().contains("local packages cannot be examined"));
    fs::rename(&away, &scratch).unwrap();
    let listed = || entries(&mounted.path("Packages")).iter().any(|entry| entry["CPV"] == "app-misc/three-3.0");
    eventually(60, "it is listed without anything else that happens", listed);
}

#[test]
fn an_endless_index_is_refused() {
    if !can_mount() {
        return;
    }
    let (_origin, _, mounted) = mounted("auto");
    let before = fs::read(mounted.path("Packages")).unwrap();
    let new = mounted.path("Packagesabcd");
    fs::File::create(&new).unwrap().set_len(3 << 30).unwrap();
    assert_eq!(rustix::fs::rename(&new, mounted.path("Packages")), Err(Errno::FBIG));
    assert!(new.exists() && fs::read(mounted.path("Packages")).unwrap() == before);
}

/// What came of each attempt on the index by somebody who is not root, and whether it has changed.
fn attempts(pkgdir: &Path) -> Vec<(&'static str, Result<(), Errno>, bool)> {
    let index = pkgdir.join("Packages");
    let mode = |name: &str, mode| fs::set_permissions(pkgdir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    let new = |name: &str, owner| {
        let text = format!("VERSION: 0\n\nCPV: a/local-1\nDESC: {name}\nPATH: local-1.xpak\n\n");
        fs::write(pkgdir.join(name), text).unwrap();
        chown(pkgdir.join(name), Some(owner), None).unwrap();
    };
    fs::create_dir(pkgdir.join("closed")).unwrap();
    mode("closed", 0o755);
    fs::write(pkgdir.join("local-1.xpak"), "what it names").unwrap();
    for (name, to) in [("first", "Packages"), ("first.gz", "Packages.gz")] {
        new(name, 0);
        fs::rename(pkgdir.join(name), pkgdir.join(to)).unwrap();
    }
    let mut told = Vec::new();
    let mut attempt = |what, act: &(dyn Fn() -> Result<(), Errno> + Sync)| {
        let before = fs::read(&index).unwrap();
        let outcome = as_nobody(act);
        told.push((what, outcome, fs::read(&index).unwrap() != before));
    };
    let over = |name: &'static str| move |to: &str| rustix::fs::rename(pkgdir.join(name), pkgdir.join(to));
    mode("", 0o1777);
    new("own", 65534);
    attempt("sticky, over root's", &|| over("own")("Packages"));
    attempt("sticky, over root's compressed one", &|| over("own")("Packages.gz"));
    attempt("sticky, unlink root's", &|| rustix::fs::unlink(pkgdir.join("Packages.gz")));
    new("theirs", 0);
    chown(&index, Some(65534), None).unwrap();
    attempt("sticky, somebody else's over the own", &|| over("theirs")("Packages"));
    attempt("sticky, the own over the own", &|| over("own")("Packages"));
    mode("", 0o777);
    new("closed/own", 65534);
    attempt("from a closed directory", &|| over("closed/own")("Packages"));
    attempt("somebody else's", &|| over("theirs")("Packages"));
    mode("", 0o755);
    new("another", 65534);
    attempt("in a closed directory", &|| over("another")("Packages"));
    attempt("unlink in a closed directory", &|| rustix::fs::unlink(pkgdir.join("Packages.gz")));
    mode("", 0o777);
    attempt("unlink", &|| rustix::fs::unlink(pkgdir.join("Packages.gz")));
    told
}

#[test]
fn who_may_replace_the_index_is_as_in_a_plain_directory() {
    if !can_mount() {
        return;
    }
    let (_origin, _, mounted) = mounted("auto");
    let plain = TempDir::with_prefix("binhostfs-it.").unwrap();
    let pkgdir = plain.path().join("pkgdir");
    fs::create_dir(&pkgdir).unwrap();
    for place in [mounted.place(), plain.path()] {
        fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
    }
    assert_eq!(attempts(&mounted.mountpoint()), attempts(&pkgdir));
}

/// Stops a daemon until it is dropped.
struct Halted<'a>(&'a Mounted);

impl Drop for Halted<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::CONT);
    }
}

/// Whether a thread of this process is in a system call. The kernel reports this to nobody.
fn is_in(thread: Pid, call: libc::c_long) -> bool {
    let text = fs::read_to_string(format!("/proc/self/task/{thread}/syscall")).unwrap();
    text.split(' ').next().is_some_and(|number| number.parse() == Ok(call))
}

#[test]
fn nobody_waits_for_those_who_write_to_a_slow_disk() {
    if !can_mount() {
        return;
    }
    // The disk is another mount: it hangs while its daemon does.
    let (_inner_origin, _, disk) = mounted("off");
    let beneath = disk.path("beneath");
    fs::create_dir(&beneath).unwrap();
    let packages = [Package::new("one-1.0", 300_000)];
    let origin = Origin::with(&packages);
    let options = Options::new(origin.url()).with(["--passthrough", "off"]);
    let mut mounted = options.unstarted_in(TempDir::with_prefix("binhostfs-it.").unwrap());
    std::os::unix::fs::symlink(&beneath, mounted.mountpoint()).unwrap();
    mounted.start();
    let files: Vec<_> = (0..8).map(|at| fs::File::create(mounted.path(&format!("file{at}"))).unwrap()).collect();
    files.iter().for_each(|file| file.write_all_at(b"text", 0).unwrap());
    let package = fs::File::open(mounted.path(&packages[0].path)).unwrap();
    let mut bytes = vec![0; packages[0].bytes.len()];
    std::thread::scope(|scope| {
        let halted = Halted(&disk);
        disk.signal(Signal::STOP);
        let (started, begun) = mpsc::channel();
        for file in &files {
            let started = started.clone();
            scope.spawn(move || {
                started.send(gettid()).unwrap();
                file.sync_all().unwrap();
            });
        }
        let writers: Vec<Pid> = files.iter().map(|_| begun.recv().unwrap()).collect();
        eventually(20, "all wait for the disk", || writers.iter().all(|writer| is_in(*writer, libc::SYS_fsync)));
        let (done, read) = mpsc::channel();
        let (package, bytes) = (&package, &mut bytes);
        scope.spawn(move || {
            done.send(package.read_exact_at(bytes, 0)).unwrap();
        });
        let answered = read.recv_timeout(Duration::from_secs(30));
        drop(halted);
        answered.unwrap().unwrap();
    });
    assert!(bytes == packages[0].bytes);
}
