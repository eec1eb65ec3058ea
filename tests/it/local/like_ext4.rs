//! What a plain directory does about set-id bits, directories that are renamed, and paths without end: the same as the
//! mount.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, Mode, RenameFlags};
use rustix::io::Errno;
use tempfile::TempDir;

use super::{beneath, mounted, tree};
use crate::harness::{Mounted, can_mount, eventually};

/// Writes in all ways to files of another user that have set-id bits, and says which bits are left.
const SET_ID: &str = r#"
import os, sys
os.chdir(sys.argv[1])

def attempt(mode, flags, act):
    name = 'f'
    with open(name, 'w') as f:
        f.write('text')
    os.chmod(name, mode)
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            fd = os.open(name, flags)
            act(fd, name)
        except OSError as e:
            os._exit(e.errno)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    said = '%d %o %r' % (status, os.stat(name).st_mode, open(name).read())
    os.unlink(name)
    return said

nothing = lambda fd, name: None
acts = [
    ('write', os.O_WRONLY, lambda fd, name: os.write(fd, b'x')),
    ('write twice', os.O_RDWR, lambda fd, name: [os.write(fd, b'x'), os.write(fd, b'y')]),
    ('append', os.O_WRONLY | os.O_APPEND, lambda fd, name: os.write(fd, b'x')),
    ('empty by opening', os.O_WRONLY | os.O_TRUNC, nothing),
    ('ftruncate', os.O_WRONLY, lambda fd, name: os.ftruncate(fd, 2)),
    ('truncate', os.O_RDONLY, lambda fd, name: os.truncate(name, 2)),
    ('fallocate', os.O_WRONLY, lambda fd, name: os.posix_fallocate(fd, 0, 8)),
    ('open for writing', os.O_WRONLY, nothing),
    ('read', os.O_RDONLY, lambda fd, name: os.read(fd, 4)),
    ('chown', os.O_RDONLY, lambda fd, name: os.chown(name, 65534, 65534)),
    ('chmod by a reader', os.O_RDONLY, lambda fd, name: os.chmod(name, 0o644)),
]
for mode in [0o4777, 0o2777, 0o6777, 0o4755, 0o1777] + [int(mode, 8) for mode in sys.argv[2:]]:
    for what, flags, act in acts:
        print('%o' % mode, what, attempt(mode, flags, act))
for mode in 0o4755, 0o2755:
    # Who may only read a file does not get the bits off it.
    print('%o' % mode, attempt(mode, os.O_RDONLY, lambda fd, name: os.chmod(name, 0o755)))
# The owner, and root.
with open('own', 'w') as f:
    f.write('text')
os.chmod('own', 0o6755)
with open('own', 'a') as f:
    f.write('more')
print('%o' % os.stat('own').st_mode)
os.chown('own', 1, 2)
print('%o' % os.stat('own').st_mode)
"#;

/// Goes to a directory with a path longer than PATH_MAX, and works there.
const DEEP: &str = r#"
import os, sys
os.chdir(sys.argv[1])
name = 'n' * 200
depth = 30
for at in range(depth):
    os.mkdir(name)
    os.chdir(name)
    if at % 10 == 0:
        with open('f%d' % at, 'w') as f:
            f.write(str(at))
with open('f', 'w') as f:
    f.write('deep')
os.mkdir('d')
os.rename('f', 'd/g')
os.link('d/g', 'h')
os.symlink('d/g', 'l')
os.chmod('h', 0o600)
os.truncate('h', 2)
os.utime('h', (7, 8))
print(sorted(os.listdir('.')), open('l').read(), os.stat('h').st_nlink, '%o' % os.stat('h').st_mode, os.stat('h').st_mtime)
# The longest name, and one more.
for length in 255, 256:
    try:
        open('x' * length, 'w').close()
        print(length, os.path.exists('x' * length))
        os.unlink('x' * length)
    except OSError as e:
        print(length, e.errno)
os.rename('d', 'e')
print(open('e/g').read(), os.access('e', os.W_OK))
for path in 'h', 'l', 'e/g':
    os.unlink(path)
os.rmdir('e')
for at in reversed(range(depth)):
    if at % 10 == 0:
        os.unlink('f%d' % at)
    os.chdir('..')
    os.rmdir(name)
print(sorted(os.listdir('.')))
# As long as an absolute path can be: its last name has this many bytes.
here = os.getcwd()
names = []
while len(here) + sum(len(name) + 1 for name in names) + 201 < 4000:
    names.append('n' * 200)
    os.mkdir(os.path.join(here, *names))
longest = os.path.join(here, *names)
for total in 4095, 4096:
    path = longest + '/' + 'x' * (total - len(longest) - 1)
    try:
        open(path, 'w').close()
        print(total, os.path.exists(path))
        os.unlink(path)
    except OSError as e:
        print(total, e.errno)
"#;

/// Renames directories with files that are open and directories that processes are in.
const RENAME: &str = r#"
import os, sys
os.chdir(sys.argv[1])
os.makedirs('one/two/three')
os.mkdir('other')
with open('one/two/three/f', 'w') as f:
    f.write('text')
os.link('one/two/three/f', 'one/g')
held = open('one/two/three/f', 'r+')
inodes = lambda at: [os.stat(at + path).st_ino for path in ('', '/two', '/two/three', '/two/three/f', '/g')]
before = inodes('one')
os.chdir('one/two')
os.rename('../../one', '../../other/renamed')
print(open('three/f').read(), sorted(os.listdir('.')), os.path.basename(os.getcwd()), sorted(os.listdir('..')))
with open('new', 'w') as f:
    f.write('new')
os.mkdir('made')
held.seek(0)
held.write('TEXT')
held.flush()
os.chdir('../../..')
print(before == inodes('other/renamed'), open('other/renamed/g').read(), sorted(os.listdir('other/renamed/two')))
print(os.path.exists('one'), sorted(os.listdir('other')))

def attempt(what, *arguments):
    try:
        what(*arguments)
        print('done')
    except OSError as e:
        print(e.errno)

os.mkdir('empty')
os.mkdir('full')
os.mkdir('full/x')
open('file', 'w').close()
attempt(os.rename, 'other', 'full')
attempt(os.rename, 'other', 'file')
attempt(os.rename, 'file', 'empty')
attempt(os.rename, 'other', 'other/renamed/below')
attempt(os.rename, 'other/renamed', 'other')
attempt(os.rename, 'none', 'empty')
attempt(os.rename, 'other', 'none/x')
attempt(os.rename, 'other', 'other')
attempt(os.rename, 'other', 'empty')
print(sorted(os.listdir('.')), open('empty/renamed/two/three/f').read())
# There and back again: the names of before are free.
os.rename('empty', 'other')
os.mkdir('empty')
with open('empty/f', 'w') as f:
    f.write('another')
print(open('empty/f').read(), open('other/renamed/two/new').read())

def as_nobody(*paths):
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            os.rename(*paths)
        except OSError as e:
            os._exit(e.errno)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

os.mkdir('sticky')
os.chmod('sticky', 0o1777)
for name, owner in ('mine', 65534), ('theirs', 0):
    os.mkdir('sticky/' + name)
    os.chown('sticky/' + name, owner, owner)
as_nobody('sticky/theirs', 'sticky/moved')
as_nobody('sticky/mine', 'sticky/moved')
as_nobody('sticky/moved', 'sticky/theirs')
as_nobody('sticky/moved', 'full/moved')
os.chmod('full', 0o777)
# The directory's own `..` changes: the mode counts.
os.chmod('sticky/moved', 0o500)
as_nobody('sticky/moved', 'full/moved')
print(sorted(os.listdir('sticky')), sorted(os.listdir('full')))
"#;

fn said(script: &str, place: &Path, words: &[&str]) -> String {
    let output = Command::new("python3").args(["-c", script]).arg(place).args(words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a script on the mount and in a plain directory. Returns what it says. `words`: where the daemon writes by itself.
fn both(script: &str, words: &[&str]) -> String {
    let mut last = String::new();
    for passthrough in ["auto", "off"] {
        let (_origin, _, mounted) = mounted(passthrough);
        let plain = TempDir::with_prefix("binhostfs-it.").unwrap();
        for place in [mounted.place(), plain.path()] {
            fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
        }
        // Both paths have the same length.
        let (here, there) = (mounted.path("l"), plain.path().join("pkgdir/l"));
        for directory in [&here, &there] {
            fs::create_dir_all(directory).unwrap();
            fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
        }
        assert_eq!(here.as_os_str().len(), there.as_os_str().len());
        let words = if passthrough == "off" { words } else { &[] };
        last = said(script, &there, words);
        assert_eq!(said(script, &here, words), last, "passthrough {passthrough}");
        let place = beneath(mounted);
        assert_eq!(tree(&place.path().join("pkgdir/l")), tree(&there));
    }
    last
}

/// Set-group-ID without execution by the group is no right. Where the kernel writes by itself, it leaves this bit.
#[test]
fn a_write_takes_the_set_id_bits_from_a_file() {
    if !can_mount() {
        return;
    }
    let said = both(SET_ID, &["2767", "6766"]);
    assert!(said.contains("6777 write 0 100777 'xext'\n") && said.contains("4755 write 13 104755"), "{said}");
}

#[test]
fn a_path_may_be_longer_than_any_that_a_call_takes() {
    if !can_mount() {
        return;
    }
    let said = both(DEEP, &[]);
    assert!(said.contains("4095 True\n4096 36\n"), "{said}");
}

#[test]
fn a_directory_of_local_files_is_renamed_with_all_that_is_open_in_it() {
    if !can_mount() {
        return;
    }
    let said = both(RENAME, &[]);
    assert!(said.starts_with("text ['three'] two ['g', 'two']\nTrue TEXT"), "{said}");
}

/// Local packages, in a directory that the binhost does not have.
fn with_local_directory() -> (crate::harness::Origin, Mounted, String) {
    let (origin, packages, mounted) = mounted("auto");
    fs::create_dir_all(mounted.path("own/place")).unwrap();
    fs::write(mounted.path("own/place/f"), "own").unwrap();
    (origin, mounted, packages[0].path.clone())
}

#[test]
fn a_directory_that_the_binhosts_have_as_well_is_copied() {
    if !can_mount() {
        return;
    }
    let (_origin, mounted, package) = with_local_directory();
    let rename = |from: &str, to: &str| rustix::fs::rename(mounted.path(from), mounted.path(to));
    let directory = Path::new(&package).parent().unwrap().to_str().unwrap();
    fs::write(mounted.path(directory).join("local"), "local").unwrap();
    assert_eq!(rename(directory, "newer"), Err(Errno::XDEV));
    assert_eq!(rename("app-misc", "newer"), Err(Errno::XDEV));
    assert_eq!(rename("own", directory), Err(Errno::NOTEMPTY));
    assert_eq!(rename("own", &package), Err(Errno::NOTDIR));
    for (index, error) in [("Packages", Errno::NOTDIR), ("Packages.gz", Errno::PERM), (".binhostfs-new-1", Errno::PERM)]
    {
        assert_eq!(rename("own", index), Err(error), "{index}");
    }
    let flags = RenameFlags::NOREPLACE;
    let onto = |to: &str| rustix::fs::renameat_with(CWD, mounted.path("own"), CWD, mounted.path(to), flags);
    assert_eq!((onto(directory), onto(&package)), (Err(Errno::EXIST), Err(Errno::EXIST)));
    // Into a directory that only the binhost has.
    rename("own", "app-misc/own").unwrap();
    assert_eq!(fs::read_to_string(mounted.path("app-misc/own/place/f")).unwrap(), "own");
    // mv knows what to do.
    let moved = Command::new("mv").arg(mounted.path(directory)).arg(mounted.path("newer")).output().unwrap();
    assert!(fs::read_to_string(mounted.path("newer/local")).is_ok_and(|text| text == "local"), "{moved:?}");
}

#[test]
fn packages_in_a_renamed_directory_are_listed_at_their_new_place() {
    if !can_mount() {
        return;
    }
    let (_origin, packages, mounted) = mounted("auto");
    let bytes = fs::read(mounted.path(&packages[0].path)).unwrap();
    fs::create_dir(mounted.path("aside")).unwrap();
    // Without a BUILD_ID, Portage looks for a package in All.
    fs::write(mounted.path("aside/one-1.0.gpkg.tar"), &bytes).unwrap();
    let lists = || fs::read_to_string(mounted.path("Packages")).unwrap().contains("PATH: All/one-1.0.gpkg.tar\n");
    for (from, to, listed) in [("aside", "All", true), ("All", "aside", false)] {
        rustix::fs::rename(mounted.path(from), mounted.path(to)).unwrap();
        eventually(20, "Packages follows", || lists() == listed);
    }
}

#[test]
fn nobody_loses_a_file_while_directories_are_renamed() {
    if !can_mount() {
        return;
    }
    let (_origin, _, mounted) = mounted("auto");
    fs::create_dir_all(mounted.path("a/b")).unwrap();
    for n in 0..50 {
        fs::write(mounted.path(&format!("a/b/{n}")), n.to_string()).unwrap();
    }
    let inside = fs::File::open(mounted.path("a/b")).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut n = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    n = (n + 1) % 50;
                    let name = n.to_string();
                    let file = rustix::fs::openat(&inside, &name, rustix::fs::OFlags::RDONLY, Mode::empty()).unwrap();
                    assert_eq!(std::io::read_to_string(fs::File::from(file)).unwrap(), name);
                    let _ = rustix::fs::statat(&inside, &name, rustix::fs::AtFlags::empty()).unwrap();
                }
            });
        }
        let renamed = (0..400).try_for_each(|n| {
            let (from, to) = if n % 2 == 0 { ("a", "c") } else { ("c", "a") };
            rustix::fs::rename(mounted.path(from), mounted.path(to))
        });
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        renamed.unwrap();
    });
    assert_eq!(fs::read_dir(mounted.path("a/b")).unwrap().count(), 50);
}

#[test]
fn the_mode_of_an_index_is_changed_or_the_change_is_refused() {
    if !can_mount() {
        return;
    }
    let (_origin, _, mounted) = mounted("auto");
    let index = mounted.path("Packages");
    let chmod = |name: &str, mode| {
        let changed = fs::set_permissions(mounted.path(name), fs::Permissions::from_mode(mode));
        changed.map_err(|error| Errno::from_io_error(&error).unwrap())
    };
    let mode = |name: &str| fs::metadata(mounted.path(name)).unwrap().mode() & 0o7777;
    // No index beneath the mount would keep it.
    assert_eq!((chmod("Packages", 0o600), mode("Packages")), (Err(Errno::PERM), 0o644));
    let chown = std::os::unix::fs::chown(&index, Some(1), None);
    assert_eq!(Errno::from_io_error(&chown.unwrap_err()), Some(Errno::PERM));
    assert_eq!((chmod("Packages", 0o644), mode("Packages")), (Ok(()), 0o644));
    for name in ["Packages", "Packages.gz"] {
        fs::write(mounted.path("new"), "PACKAGES: 0\nTIMESTAMP: 1\nVERSION: 0\n\n").unwrap();
        fs::rename(mounted.path("new"), mounted.path(name)).unwrap();
        for bits in [0o600, 0o664, 0o640] {
            assert_eq!((chmod(name, bits), mode(name)), (Ok(()), bits), "{name}");
        }
    }
    assert_eq!((chmod("Packages", 0o644), mode("Packages.gz")), (Ok(()), 0o640));
    fs::set_permissions(mounted.place(), fs::Permissions::from_mode(0o755)).unwrap();
    let as_nobody = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).args(words);
        command.current_dir(mounted.mountpoint()).output().unwrap().status.success()
    };
    assert!(as_nobody(&["cat", "Packages"]) && !as_nobody(&["cat", "Packages.gz"]));
    for words in
        [&["chmod", "644", "Packages"][..], &["touch", "-d", "@7", "Packages"], &["chmod", "644", "Packages.gz"]]
    {
        assert!(!as_nobody(words), "{words:?}");
    }
}
