//! System calls, on the mount and on a plain directory: each has the same outcome.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;
use tempfile::TempDir;

use super::{beneath, mounted, tree};
use crate::harness::{can_mount, index_of};

type Outcome = Result<String, Errno>;

fn error(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap()
}

fn open(path: &Path, flags: OFlags, mode: u32) -> Result<fs::File, Errno> {
    Ok(rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(mode))?.into())
}

/// What is done in a directory, and what came of it.
type Step = (&'static str, fn(&Path) -> Outcome);

/// What each says has to be the same in both.
fn steps() -> Vec<Step> {
    vec![
        ("create", |d| {
            let file = open(&d.join("f"), OFlags::CREATE | OFlags::EXCL | OFlags::RDWR, 0o640)?;
            file.write_all_at(b"hello world", 0).map_err(error)?;
            let metadata = file.metadata().map_err(error)?;
            Ok(format!("{:o} {} {} {}", metadata.mode(), metadata.len(), metadata.nlink(), metadata.uid()))
        }),
        ("create again", |d| {
            open(&d.join("f"), OFlags::CREATE | OFlags::EXCL | OFlags::RDWR, 0o640).map(|_| "".into())
        }),
        ("read back", |d| fs::read_to_string(d.join("f")).map_err(error)),
        ("open what is not there", |d| open(&d.join("none"), OFlags::RDONLY, 0).map(|_| "".into())),
        ("append", |d| {
            use std::io::Write as _;
            let mut file = open(&d.join("f"), OFlags::WRONLY | OFlags::APPEND, 0)?;
            file.write_all(b"!").map_err(error)?;
            fs::read_to_string(d.join("f")).map_err(error)
        }),
        ("truncate by opening", |d| {
            let file = open(&d.join("f"), OFlags::WRONLY | OFlags::TRUNC, 0)?;
            let after = file.metadata().map_err(error)?.len();
            file.write_all_at(b"0123456789", 0).map_err(error)?;
            Ok(format!("{after} {}", fs::metadata(d.join("f")).map_err(error)?.len()))
        }),
        ("truncate and grow", |d| {
            let file = open(&d.join("f"), OFlags::RDWR, 0)?;
            file.set_len(4).map_err(error)?;
            file.set_len(6).map_err(error)?;
            Ok(format!("{:?}", fs::read(d.join("f")).map_err(error)?))
        }),
        ("truncate by path", |d| {
            let path = CString::new(d.join("f").as_os_str().as_bytes()).unwrap();
            // SAFETY: a path that ends in NUL.
            match unsafe { libc::truncate(path.as_ptr(), 3) } {
                0 => fs::read_to_string(d.join("f")).map_err(error),
                _ => Err(error(std::io::Error::last_os_error())),
            }
        }),
        ("chmod", |d| {
            fs::set_permissions(d.join("f"), fs::Permissions::from_mode(0o600)).map_err(error)?;
            Ok(format!("{:o}", fs::metadata(d.join("f")).map_err(error)?.mode()))
        }),
        ("chown", |d| {
            std::os::unix::fs::chown(d.join("f"), Some(1), Some(2)).map_err(error)?;
            let metadata = fs::metadata(d.join("f")).map_err(error)?;
            Ok(format!("{} {}", metadata.uid(), metadata.gid()))
        }),
        ("utimens", |d| {
            let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
            let times = Timestamps { last_access: time(7, 8), last_modification: time(1_234_567_890, 123_456_789) };
            rustix::fs::utimensat(CWD, d.join("f"), &times, AtFlags::empty())?;
            let metadata = fs::metadata(d.join("f")).map_err(error)?;
            Ok(format!("{} {} {}", metadata.atime(), metadata.mtime(), metadata.mtime_nsec()))
        }),
        ("mkdir", |d| {
            rustix::fs::mkdir(d.join("new"), Mode::from_raw_mode(0o750))?;
            let metadata = fs::metadata(d.join("new")).map_err(error)?;
            Ok(format!("{:o}", metadata.mode()))
        }),
        ("mkdir again", |d| rustix::fs::mkdir(d.join("new"), Mode::RWXU).map(|()| "".into())),
        ("mkdir in a file", |d| rustix::fs::mkdir(d.join("f/x"), Mode::RWXU).map(|()| "".into())),
        ("rename", |d| rustix::fs::rename(d.join("f"), d.join("new/g")).map(|()| "".into())),
        ("the old name", |d| fs::metadata(d.join("f")).map(|_| "".into()).map_err(error)),
        ("rename over", |d| {
            fs::write(d.join("h"), "other").map_err(error)?;
            rustix::fs::rename(d.join("h"), d.join("new/g"))?;
            fs::read_to_string(d.join("new/g")).map_err(error)
        }),
        ("rename what is not there", |d| rustix::fs::rename(d.join("f"), d.join("x")).map(|()| "".into())),
        ("rename, not over", |d| {
            fs::write(d.join("h"), "other").map_err(error)?;
            let flags = RenameFlags::NOREPLACE;
            rustix::fs::renameat_with(CWD, d.join("h"), CWD, d.join("new/g"), flags).map(|()| "".into())
        }),
        ("rename a file over a directory", |d| rustix::fs::rename(d.join("h"), d.join("new")).map(|()| "".into())),
        ("rmdir of one that is not empty", |d| rustix::fs::rmdir(d.join("new")).map(|()| "".into())),
        ("rmdir of a file", |d| rustix::fs::rmdir(d.join("h")).map(|()| "".into())),
        ("unlink of a directory", |d| rustix::fs::unlink(d.join("new")).map(|()| "".into())),
        ("link", |d| {
            rustix::fs::link(d.join("h"), d.join("i"))?;
            let (one, two) = (fs::metadata(d.join("h")).map_err(error)?, fs::metadata(d.join("i")).map_err(error)?);
            Ok(format!("{} {} {}", one.ino() == two.ino(), one.nlink(), two.nlink()))
        }),
        ("link over", |d| rustix::fs::link(d.join("h"), d.join("new/g")).map(|()| "".into())),
        ("rename onto itself", |d| {
            rustix::fs::rename(d.join("h"), d.join("i"))?;
            Ok(format!("{} {}", d.join("h").exists(), d.join("i").exists()))
        }),
        ("unlink one of two", |d| {
            rustix::fs::unlink(d.join("h"))?;
            Ok(format!("{} {}", fs::metadata(d.join("i")).map_err(error)?.nlink(), d.join("h").exists()))
        }),
        ("unlinked and open", |d| {
            let file = open(&d.join("i"), OFlags::RDWR, 0)?;
            rustix::fs::unlink(d.join("i"))?;
            file.write_all_at(b"still here", 0).map_err(error)?;
            let mut bytes = [0; 10];
            file.read_exact_at(&mut bytes, 0).map_err(error)?;
            let metadata = file.metadata().map_err(error)?;
            Ok(format!("{} {} {}", String::from_utf8_lossy(&bytes), metadata.len(), metadata.nlink()))
        }),
        ("unlink what is not there", |d| rustix::fs::unlink(d.join("i")).map(|()| "".into())),
        ("a symbolic link", |d| {
            rustix::fs::symlink("new/g", d.join("link"))?;
            let target = fs::read_link(d.join("link")).map_err(error)?;
            Ok(format!("{target:?} {}", fs::read_to_string(d.join("link")).map_err(error)?))
        }),
        ("unlink a symbolic link", |d| rustix::fs::unlink(d.join("link")).map(|()| "".into())),
        ("a long name", |d| fs::write(d.join("x".repeat(256)), "").map(|()| "".into()).map_err(error)),
        ("the longest name", |d| {
            fs::write(d.join("x".repeat(255)), "").map_err(error)?;
            fs::remove_file(d.join("x".repeat(255))).map(|()| "".into()).map_err(error)
        }),
        ("a name that is not UTF-8", |d| {
            let path = d.join(std::ffi::OsStr::from_bytes(b"a\xffb"));
            fs::write(&path, "bytes").map_err(error)?;
            let read = fs::read_to_string(&path).map_err(error)?;
            fs::remove_file(&path).map_err(error)?;
            Ok(read)
        }),
        ("fsync", |d| {
            let file = open(&d.join("new/g"), OFlags::RDWR, 0)?;
            file.sync_all().map_err(error)?;
            file.sync_data().map_err(error)?;
            fs::File::open(d.join("new")).and_then(|directory| directory.sync_all()).map(|()| "".into()).map_err(error)
        }),
        ("fallocate", |d| {
            let file = open(&d.join("new/big"), OFlags::RDWR | OFlags::CREATE, 0o644)?;
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 8192)?;
            Ok(file.metadata().map_err(error)?.len().to_string())
        }),
        ("a hole", |d| {
            let file = open(&d.join("new/big"), OFlags::RDWR | OFlags::TRUNC, 0)?;
            file.write_all_at(b"x", 3_000_000).map_err(error)?;
            Ok(fs::read(d.join("new/big")).map_err(error)?.len().to_string())
        }),
        ("mmap", |d| {
            let output = Command::new("python3").args(["-c", MMAP]).arg(d.join("new/mapped")).output().unwrap();
            Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
        }),
        ("copy", |d| {
            fs::copy(d.join("new/big"), d.join("new/copy")).map_err(error)?;
            Ok((fs::read(d.join("new/copy")).map_err(error)? == fs::read(d.join("new/big")).map_err(error)?)
                .to_string())
        }),
        ("locks", |d| {
            let output = Command::new("python3").args(["-c", LOCKS]).arg(d.join("lock")).output().unwrap();
            Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
        }),
        ("many names, removed while they are listed", |d| {
            rustix::fs::mkdir(d.join("many"), Mode::RWXU)?;
            (0..3000).try_for_each(|n| fs::write(d.join(format!("many/{n}")), "")).map_err(error)?;
            let listed = fs::read_dir(d.join("many")).map_err(error)?;
            let removed = listed.map(|entry| fs::remove_file(entry.unwrap().path())).filter(Result::is_ok).count();
            Ok(format!("{removed} {:?}", rustix::fs::rmdir(d.join("many"))))
        }),
        ("by somebody who may not", |d| {
            let as_nobody = |script: &str| {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", script]).current_dir(d);
                command.output().unwrap().status.success()
            };
            let scripts = [
                "cat new/g",
                "echo x > new/g",
                "touch y",
                "mkdir y",
                "rm new/g",
                "mv new/g y",
                "chmod 777 new/g",
                "test -w .",
            ];
            Ok(format!("{:?}", scripts.map(as_nobody)))
        }),
        ("below a directory that is not for everybody", |d| {
            rustix::fs::mkdir(d.join("closed"), Mode::RWXU)?;
            rustix::fs::mkdir(d.join("closed/open"), Mode::RWXU)?;
            fs::set_permissions(d.join("closed/open"), fs::Permissions::from_mode(0o777)).map_err(error)?;
            for file in ["closed/f", "closed/open/f"] {
                fs::write(d.join(file), "x").map_err(error)?;
            }
            // Names of directories are remembered for a second, whoever asks.
            std::thread::sleep(Duration::from_millis(1500));
            let as_nobody = |script: &str| {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", script]).current_dir(d);
                command.output().unwrap().status.success()
            };
            let scripts = [
                "ls closed",
                "stat closed/f",
                "cat closed/f",
                "ls closed/open",
                "echo x > closed/open/n",
                "mkdir closed/open/n",
                "ln -s x closed/open/n",
                "rm -f closed/open/f",
                "mv closed/open/f closed/open/n",
                "echo x > mine && mv mine closed/open/n",
                "test -e closed/open/f",
            ];
            fs::set_permissions(d, fs::Permissions::from_mode(0o777)).map_err(error)?;
            let done = scripts.map(as_nobody);
            fs::set_permissions(d, fs::Permissions::from_mode(0o755)).map_err(error)?;
            fs::remove_file(d.join("mine")).map_err(error)?;
            fs::remove_dir_all(d.join("closed")).map_err(error)?;
            Ok(format!("{done:?}"))
        }),
        ("attributes of what is open and has no name any more", |d| {
            let file = open(&d.join("nameless"), OFlags::RDWR | OFlags::CREATE, 0o644)?;
            fs::remove_file(d.join("nameless")).map_err(error)?;
            let changed = (rustix::fs::fchmod(&file, Mode::RUSR), rustix::fs::ftruncate(&file, 7));
            let metadata = file.metadata().map_err(error)?;
            Ok(format!("{changed:?} {:o} {}", metadata.mode(), metadata.len()))
        }),
        ("somebody's own", |d| {
            fs::set_permissions(d.join("new"), fs::Permissions::from_mode(0o777)).map_err(error)?;
            let mut command = Command::new("setpriv");
            let script =
                "umask 027; echo x > new/own && chmod 604 new/own && mv new/own new/owned && ! chown 0 new/owned";
            command.args(["--reuid=65534", "--regid=1234", "--clear-groups", "sh", "-c", script]).current_dir(d);
            let output = command.output().unwrap();
            let metadata = fs::metadata(d.join("new/owned")).map_err(error)?;
            Ok(format!("{} {} {} {:o}", output.status, metadata.uid(), metadata.gid(), metadata.mode()))
        }),
        ("a umask that takes nothing away", |d| {
            let script = "umask 0; echo x > new/all; mkdir new/within; stat -c %a new/all new/within";
            let output = Command::new("sh").args(["-c", script]).current_dir(d).output().unwrap();
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }),
        ("a group that is only one of several", |d| {
            std::os::unix::fs::chown(d.join("new/g"), Some(0), Some(4321)).map_err(error)?;
            fs::set_permissions(d.join("new/g"), fs::Permissions::from_mode(0o640)).map_err(error)?;
            let can = |group: &str| {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=65534", "--regid=65534", "--groups", group, "cat"]).arg(d.join("new/g"));
                command.output().unwrap().status.success()
            };
            Ok(format!("{} {}", can("4321"), can("4322")))
        }),
        ("setgid directories", |d| {
            std::os::unix::fs::chown(d.join("new"), Some(0), Some(4321)).map_err(error)?;
            fs::set_permissions(d.join("new"), fs::Permissions::from_mode(0o2775)).map_err(error)?;
            fs::write(d.join("new/inherits"), "").map_err(error)?;
            rustix::fs::mkdir(d.join("new/deeper"), Mode::from_raw_mode(0o755))?;
            let (file, directory) = (
                fs::metadata(d.join("new/inherits")).map_err(error)?,
                fs::metadata(d.join("new/deeper")).map_err(error)?,
            );
            Ok(format!("{} {} {:o}", file.gid(), directory.gid(), directory.mode()))
        }),
    ]
}

const MMAP: &str = "
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 8192)
m = mmap.mmap(fd, 8192)
m[5000:5005] = b'hello'
m.flush()
m.close()
print(os.pread(fd, 5, 5000), open(sys.argv[1], 'rb').read()[5000:5005])
";

const LOCKS: &str = "
import fcntl, os, sys
name = sys.argv[1]
for lock in fcntl.lockf, fcntl.flock:
    held = open(name, 'w')
    lock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    pid = os.fork()
    if pid == 0:
        try:
            lock(open(name, 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            os._exit(e.errno)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    held.close()
    lock(open(name, 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)
";

#[test]
fn the_same_as_a_plain_directory() {
    if !can_mount() {
        return;
    }
    for passthrough in ["auto", "off"] {
        let (_origin, _, mounted) = mounted(passthrough);
        let plain = TempDir::with_prefix("binhostfs-it.").unwrap();
        // In a directory that only the binhost has, at first.
        let here = mounted.path("app-misc");
        let there = plain.path().join("app-misc");
        for place in [mounted.place(), plain.path()] {
            fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::create_dir(&there).unwrap();
        for (name, step) in steps() {
            assert_eq!(step(&here), step(&there), "{name} (passthrough {passthrough})");
        }
        let place = beneath(mounted);
        assert_eq!(tree(&place.path().join("pkgdir")), tree(plain.path()));
    }
}

#[test]
fn an_index_is_for_those_who_may_read_the_one_beneath() {
    if !can_mount() {
        return;
    }
    let (_origin, _, mounted) = mounted("auto");
    fs::set_permissions(mounted.place(), fs::Permissions::from_mode(0o755)).unwrap();
    let (new, index) = (mounted.path(".Packages.new"), mounted.path("Packages"));
    fs::write(&new, "PACKAGES: 0\nTIMESTAMP: 1\nVERSION: 0\n\n").unwrap();
    fs::rename(&new, &index).unwrap();
    let can_read = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "cat"]).arg(&index);
        command.output().unwrap().status.success()
    };
    for (mode, expected) in [(0o644, true), (0o640, false), (0o644, true)] {
        fs::set_permissions(&index, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(can_read(), expected, "{mode:o}");
        assert!(fs::read(&index).is_ok());
    }
    // Also where the kernel still knows its name.
    fs::set_permissions(mounted.mountpoint(), fs::Permissions::from_mode(0o750)).unwrap();
    fs::metadata(&index).unwrap();
    assert!(!can_read());
}

#[test]
fn an_index_is_replaced_by_those_who_may_replace_a_file() {
    if !can_mount() {
        return;
    }
    let (_origin, packages, mounted) = mounted("auto");
    let write = |name: &str, timestamp: u64| {
        fs::write(mounted.path(name), index_of(timestamp, [])).unwrap();
        fs::rename(mounted.path(name), mounted.path("Packages")).unwrap();
    };
    let as_nobody = |script: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", script]);
        command.current_dir(mounted.mountpoint()).output().unwrap().status.success()
    };
    fs::set_permissions(mounted.place(), fs::Permissions::from_mode(0o755)).unwrap();
    write(".new", 1_790_000_000);
    for (mode, timestamp, may) in
        [(0o777, 1_800_000_001, true), (0o1777, 1_800_000_002, false), (0o755, 1_800_000_003, false)]
    {
        let text = index_of(timestamp, []);
        fs::set_permissions(mounted.mountpoint(), fs::Permissions::from_mode(0o777)).unwrap();
        let directory = mounted.path("theirs");
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(as_nobody(&format!("printf '%s' '{text}' > theirs/new")));
        fs::set_permissions(mounted.mountpoint(), fs::Permissions::from_mode(mode)).unwrap();
        // It is theirs from then on, which a sticky bit would let them replace.
        assert_eq!(as_nobody("mv -f theirs/new Packages"), may, "{mode:o}");
        std::os::unix::fs::chown(mounted.path("Packages"), Some(0), Some(0)).unwrap();
        fs::remove_dir_all(&directory).unwrap();
    }
    // A directory that is there decides, not the one above.
    fs::set_permissions(mounted.mountpoint(), fs::Permissions::from_mode(0o777)).unwrap();
    let category = mounted.path("app-misc");
    fs::set_permissions(&category, fs::Permissions::from_mode(0o755)).unwrap();
    let of_the_binhost = Path::new(&packages[0].path).parent().unwrap();
    assert!(of_the_binhost.starts_with("app-misc/one"), "{of_the_binhost:?}");
    assert!(!as_nobody(&format!("touch {}/x", of_the_binhost.display())));
    fs::set_permissions(&category, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(as_nobody(&format!("touch {}/x", of_the_binhost.display())));
    let place = beneath(mounted);
    assert!(fs::read_to_string(place.path().join("pkgdir/Packages")).unwrap().contains("1800000001"));
}

#[test]
fn what_is_not_claimed_is_refused() {
    if !can_mount() {
        return;
    }
    let (_origin, _, mounted) = mounted("auto");
    let path = |name| mounted.path(name);
    fs::create_dir(path("new")).unwrap();
    fs::write(path("f"), "").unwrap();
    let exchange = rustix::fs::renameat_with(CWD, path("f"), CWD, path("new"), RenameFlags::EXCHANGE);
    assert_eq!(exchange, Err(Errno::INVAL));
    let fifo = rustix::fs::mknodat(CWD, path("p"), rustix::fs::FileType::Fifo, Mode::RWXU, 0);
    assert_eq!(fifo, Err(Errno::PERM));
}
