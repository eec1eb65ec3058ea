//! Many readers of one package, a cache that is too small, a disk that is full, users without rights.

use std::fs::{self, File, Permissions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::harness::{Act, Mounted, Options, Origin, Package, binary, can_mount, eventually, have, index_of};

fn digest(package: &Package) -> String {
    Sha256::digest(&package.bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Child processes; killed when dropped.
struct Children(Vec<Child>);

impl Children {
    fn start(commands: impl IntoIterator<Item = Command>) -> Self {
        let spawn = |mut command: Command| {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        Self(commands.into_iter().map(spawn).collect())
    }

    fn finish(mut self) -> Vec<Output> {
        std::mem::take(&mut self.0).into_iter().map(|child| child.wait_with_output().unwrap()).collect()
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn command<'a>(words: impl IntoIterator<Item = &'a str>, path: &Path) -> Command {
    let mut words = words.into_iter();
    let mut command = Command::new(words.next().unwrap());
    command.args(words).arg(path);
    command
}

fn waiters(mounted: &Mounted) -> u64 {
    mounted.status()["downloads"][0]["waiters"].as_u64().unwrap_or_default()
}

fn reads_right(mounted: &Mounted, package: &Package) -> bool {
    fs::read(mounted.path(&package.path)).unwrap() == package.bytes
}

fn bytes_of_blobs(mounted: &Mounted) -> u64 {
    // One may go while it is looked at.
    mounted.blobs().iter().filter_map(|body| Some(body.metadata().ok()?.len())).sum()
}

fn names(count: usize) -> impl Iterator<Item = &'static str> {
    (0..count).map(|at| -> &'static str { Box::leak(format!("p{at}-1").into_boxed_str()) })
}

#[test]
fn sixteen_processes_in_two_namespaces_cause_one_download() {
    if !can_mount() {
        return;
    }
    let packages = [Package::new("large-1", 50 << 20)];
    let origin = Origin::with(&packages);
    origin.script(&packages[0].path, [Act::HoldAt(1 << 20)]);
    let mounted = Options::new(origin.url()).mount();
    let eight = "for i in 1 2 3 4 5 6 7 8; do sha256sum \"$0\" & done; wait";
    let namespace = || command(["unshare", "-m", "sh", "-c", eight], &mounted.path(&packages[0].path));
    let readers = Children::start([namespace(), namespace()]);
    eventually(10, "all sixteen wait", || waiters(&mounted) == 16);
    origin.release(&packages[0].path);
    let outputs = readers.finish();
    let text: String = outputs.iter().map(|output| String::from_utf8_lossy(&output.stdout)).collect();
    assert_eq!(text.matches(&digest(&packages[0])).count(), 16, "{text}{outputs:?}");
    assert_eq!(origin.package_requests(), 1);
    assert_eq!(mounted.counter("downloads"), 1);
}

#[test]
fn readers_that_are_killed_while_they_wait_harm_nobody() {
    if !can_mount() {
        return;
    }
    let packages = [Package::new("one-1", 3 << 20)];
    let origin = Origin::with(&packages);
    origin.script(&packages[0].path, [Act::HoldAt(64 << 10)]);
    let mounted = Options::new(origin.url()).mount();
    let read = || command(["sha256sum"], &mounted.path(&packages[0].path));
    let staying = Children::start([read(), read(), read()]);
    let mut leaving = Children::start([read(), read(), read()]);
    eventually(10, "all wait", || waiters(&mounted) == 6);
    for child in &mut leaving.0 {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(
        mounted.status()["downloads"].as_array().unwrap().len(),
        1,
        "they are gone before the download is there"
    );
    eventually(20, "three wait", || waiters(&mounted) == 3);
    origin.release(&packages[0].path);
    for output in staying.finish() {
        assert!(String::from_utf8_lossy(&output.stdout).starts_with(&digest(&packages[0])), "{output:?}");
    }
    assert_eq!((origin.package_requests(), mounted.counter("interrupted_opens")), (1, 3));
}

#[test]
fn a_mapped_file_stays_whole_when_it_is_evicted() {
    if !can_mount() {
        return;
    }
    let packages = [Package::new("one-1", 600_000), Package::new("two-1", 600_000)];
    let program = "import hashlib, mmap, sys\n\
                   with open(sys.argv[1], 'rb') as f: m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\n\
                   print('mapped', flush=True)\n\
                   sys.stdin.readline()\n\
                   print(hashlib.sha256(m).hexdigest())";
    for passthrough in ["auto", "off"] {
        let origin = Origin::with(&packages);
        let mounted = Options::new(origin.url()).with(["--cache-size", "1M", "--passthrough", passthrough]).mount();
        let mut readers = Children::start([command(["python3", "-c", program], &mounted.path(&packages[0].path))]);
        let mut output = BufReader::new(readers.0[0].stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "mapped\n");
        eventually(20, "it is kept", || mounted.blobs().len() == 1);
        let before = mounted.blobs();

        assert!(reads_right(&mounted, &packages[1]));
        eventually(20, "the other is kept", || mounted.blobs().len() == 1);
        assert_ne!(mounted.blobs(), before, "it is evicted");
        drop(readers.0[0].stdin.take());
        line.clear();
        output.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), digest(&packages[0]));
    }
}

#[test]
fn the_bound_holds_while_packages_come_and_go() {
    if !can_mount() {
        return;
    }
    let bound = 2 << 20;
    let packages: Vec<_> = names(24).enumerate().map(|(at, name)| Package::new(name, 50_000 + at * 20_000)).collect();
    let origin = Origin::with(&packages);
    let mounted = Options::new(origin.url()).with(["--cache-size", "2M"]).mount();
    // The largest, and so the first to be in the way.
    let last = packages.last().unwrap();
    let mut open = File::open(mounted.path(&last.path)).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                let cache = mounted.status()["cache"].clone();
                let (bytes, reserved) = (cache["bytes"].as_u64().unwrap(), cache["reserved"].as_u64().unwrap());
                assert!(bytes <= bound && reserved <= bound, "{cache}");
                assert!(bytes_of_blobs(&mounted) <= bound);
            }
        });
        let read = |part: &[Package]| part.iter().for_each(|package| assert!(reads_right(&mounted, package)));
        let readers: Vec<_> = packages[..23].chunks(8).map(|part| scope.spawn(move || read(part))).collect();
        let results: Vec<_> = readers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::SeqCst);
        watcher.join().unwrap();
        assert!(results.iter().all(Result::is_ok));
    });
    assert!(mounted.counter("evicted") > 0);
    eventually(20, "everything is written", || mounted.status()["cache"]["reserved"] == 0);
    assert_eq!(mounted.status()["cache"]["bytes"].as_u64(), Some(bytes_of_blobs(&mounted)));

    // A second daemon's worth of pressure on what is still open.
    for package in &packages[10..20] {
        assert!(reads_right(&mounted, package));
    }
    let mut bytes = Vec::new();
    open.read_to_end(&mut bytes).unwrap();
    assert!(bytes == last.bytes);
}

#[test]
fn a_package_larger_than_the_cache_is_fetched_once_and_not_kept() {
    if !can_mount() {
        return;
    }
    let packages = [Package::new("small-1", 100_000), Package::new("large-1", 3 << 20)];
    let origin = Origin::with(&packages);
    let mounted = Options::new(origin.url()).with(["--cache-size", "1M"]).mount();
    assert!(reads_right(&mounted, &packages[0]));
    let read = || command(["sha256sum"], &mounted.path(&packages[1].path));
    for output in Children::start((0..8).map(|_| read())).finish() {
        assert!(String::from_utf8_lossy(&output.stdout).starts_with(&digest(&packages[1])), "{output:?}");
    }
    for _ in 0..20 {
        assert!(reads_right(&mounted, &packages[1]));
    }
    assert_eq!(origin.asked(&packages[1].path).len(), 1);
    // Its readers do not wait until it is decided that it is not kept.
    mounted.settled();
    assert_eq!((mounted.counter("transient_blobs"), mounted.blobs().len()), (1, 1));
    assert!(mounted.log().contains("not kept in the cache"));
    assert!(reads_right(&mounted, &packages[0]));
    assert_eq!(origin.asked(&packages[0].path).len(), 1, "nothing had to go for it");
}

/// A file system of its own; unmounted when dropped.
pub(crate) struct Disk(TempDir);

impl Disk {
    pub(crate) fn ext4(mebibytes: u64) -> Self {
        let disk = Self::empty();
        let image = disk.0.path().join("image");
        File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        run(command(["mkfs.ext4", "-q", "-F"], &image));
        // A loop device that mount(8) makes goes with the mount.
        let mut mount = command(["mount", "-o", "loop"], &image);
        mount.arg(disk.path());
        run(mount);
        disk
    }

    pub(crate) fn tmpfs(mebibytes: u64) -> Self {
        let disk = Self::empty();
        run(command(["mount", "-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"], &disk.path()));
        disk
    }

    fn empty() -> Self {
        let disk = Self(TempDir::with_prefix("binhostfs-disk.").unwrap());
        fs::create_dir(disk.path()).unwrap();
        disk
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("disk")
    }

    /// Directories for a daemon whose cache is here.
    pub(crate) fn place(&self) -> TempDir {
        let place = TempDir::with_prefix("binhostfs-it.").unwrap();
        fs::create_dir(self.path().join("cache")).unwrap();
        symlink(self.path().join("cache"), place.path().join("cache")).unwrap();
        place
    }

    /// Somebody else takes all that is free.
    pub(crate) fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.path().join("filler")).unwrap();
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
    }

    /// It gives so many bytes back.
    pub(crate) fn leave(&self, bytes: u64) {
        let file = File::options().write(true).open(self.path().join("filler")).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length - bytes).unwrap();
        file.sync_all().unwrap();
    }

    pub(crate) fn clear(&self) {
        fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let umount = |flag: &str| command(["umount", flag], &self.path()).stderr(Stdio::null()).status();
        if !umount("-v").is_ok_and(|status| status.success()) {
            let _ = umount("-l");
        }
    }
}

fn run(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn more_packages_than_the_disk_holds_are_all_read() {
    if !can_mount() {
        return;
    }
    let disk = Disk::ext4(40);
    let packages: Vec<_> = names(16).map(|name| Package::new(name, 3 << 20)).collect();
    let origin = Origin::with(&packages);
    let mut mounted = Options::new(origin.url()).mount_in(disk.place());
    for package in &packages {
        assert!(reads_right(&mounted, package));
    }
    assert!(reads_right(&mounted, &packages[15]));
    assert_eq!(origin.package_requests(), 16);
    eventually(20, "everything is written", || mounted.status()["cache"]["reserved"] == 0);
    let (evicted, kept) = (mounted.counter("evicted"), mounted.blobs().len());
    assert!(evicted > 0 && kept >= 4, "{evicted} evicted, {kept} kept\n{}", mounted.log());
    assert_eq!(mounted.stop(), Some(0));
    assert!(!mounted.log().contains("panicked"), "{}", mounted.log());
}

fn outlives_a_full_disk(disk: &Disk) {
    let packages: Vec<_> = names(40).enumerate().map(|(at, name)| Package::new(name, 300_000 + 1000 * at)).collect();
    let large = Package::new("large-1", 3 << 20);
    let mut all = packages.clone();
    all.push(large.clone());
    let origin = Origin::with(&all);
    let mut mounted = Options::new(origin.url()).with(["--refresh", "1s"]).mount_in(disk.place());
    for package in &packages[..3] {
        assert!(reads_right(&mounted, package));
    }
    eventually(20, "three are kept", || mounted.status()["cache"]["packages"] == 3);
    disk.fill();

    // Evicting all there is would not make room for it.
    assert!(reads_right(&mounted, &large));
    assert!(mounted.log().contains("holding it in memory"), "{}", mounted.log());
    assert!(packages[..3].iter().all(|package| reads_right(&mounted, package)));
    // Its readers do not wait until it is decided that it is not kept.
    eventually(20, "one is not kept", || mounted.counter("transient_blobs") == 1);
    assert_eq!(origin.package_requests(), 4, "{}", mounted.log());
    // Others have to go for these.
    for package in &packages[3..8] {
        assert!(reads_right(&mounted, package));
    }
    let later = Package::new("later-1", 100_000);
    all.push(later.clone());
    let mut timestamp = 1_770_000_000;
    origin.publish(timestamp, &all);
    eventually(10, "a new index is shown all the same", || {
        // What was evicted may be freed only now.
        disk.fill();
        timestamp += 1;
        origin.put_index(index_of(timestamp, &all).as_bytes());
        mounted.path(&later.path).exists()
    });
    assert!(mounted.status()["refresh"]["error"].is_null(), "{}", mounted.status_text());
    // A start finds the disk full, too.
    assert_eq!(mounted.stop(), Some(0));
    let name = |body: &PathBuf| body.file_name().unwrap().to_str().unwrap().to_owned();
    let names: Vec<String> = mounted.blobs().iter().map(name).collect();
    let (kept, asked) =
        (packages.iter().filter(|p| names.contains(&digest(p)[2..].to_owned())), origin.package_requests());
    mounted.start();
    for package in kept {
        for _ in 0..3 {
            assert!(reads_right(&mounted, package));
        }
    }
    // Those alone are asked for that went for an index, which had been held in memory.
    let again = origin.package_requests() - asked;
    assert!(again as u64 <= 3 * mounted.counter("evicted"), "{again} requests, {names:?}\n{}", mounted.log());
    for package in &packages[..8] {
        assert!(reads_right(&mounted, package));
    }

    disk.clear();
    let mut fresh = packages[8..].iter();
    // The catalogue is opened again some ten seconds after an error; each attempt takes two packages.
    let pause = || std::thread::sleep(Duration::from_secs(1));
    eventually(30, "packages are kept again", || {
        pause();
        let package = fresh.next().unwrap();
        assert!(reads_right(&mounted, package));
        mounted.settled();
        let asked = origin.package_requests();
        let kept = mounted.counter("transient_blobs");
        let again = fresh.next().unwrap();
        assert!(reads_right(&mounted, again));
        eventually(20, "written", || mounted.status()["cache"]["reserved"] == 0);
        origin.package_requests() == asked + 1 && mounted.counter("transient_blobs") == kept
    });
    eventually(10, "the new index is shown", || mounted.path(&later.path).exists());
    assert!(reads_right(&mounted, &later));
    let kept = mounted.status()["cache"]["packages"].as_u64().unwrap();
    assert_eq!(mounted.stop(), Some(0));
    mounted.start();
    assert!(mounted.status()["cache"]["packages"].as_u64().unwrap() >= kept - 1);
    assert_eq!(mounted.stop(), Some(0));
    let log = mounted.log();
    assert!(!log.contains("damaged") && !log.contains("panicked"), "{log}");
}

#[test]
fn a_disk_that_others_fill_is_no_obstacle_ext4() {
    if can_mount() {
        outlives_a_full_disk(&Disk::ext4(40));
    }
}

#[test]
fn a_disk_that_others_fill_is_no_obstacle_tmpfs() {
    if can_mount() {
        outlives_a_full_disk(&Disk::tmpfs(8));
    }
}

/// As uid and gid 65534.
fn nobody<'a>(words: impl IntoIterator<Item = &'a str>, path: &Path) -> Output {
    let wrapper = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    command(wrapper.into_iter().chain(words), path).output().unwrap()
}

#[test]
fn other_users_read_the_mount_and_nothing_else() {
    if !can_mount() {
        return;
    }
    let packages = [Package::new("one-1", 100_000)];
    let origin = Origin::with(&packages);
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    // Also where the administrator made the directory.
    fs::create_dir(place.path().join("cache")).unwrap();
    let mounted = Options::new(origin.url()).mount_in(place);
    let output = nobody(["sha256sum"], &mounted.path(&packages[0].path));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with(&digest(&packages[0])), "{output:?}");
    assert!(nobody(["ls", "-lR"], &mounted.mountpoint()).status.success());
    assert!(nobody(["cat"], &mounted.path("Packages")).status.success());

    eventually(20, "it is kept", || mounted.blobs().len() == 1);
    for private in [mounted.cache().join("v1"), mounted.blobs().remove(0), mounted.cache().join("v1/catalogue/db")] {
        let output = nobody(["cat"], &private);
        assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"), "{output:?}");
    }
    let output = nobody([binary(), "status", "--control"], &mounted.control());
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("only be used by root"));
}

/// A control group whose memory is bounded.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// Below the one that this process is in. `None`: skipped, loudly.
    fn of(bytes: u64) -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = |wanted: &str| {
            let path = groups.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                (controllers == wanted).then_some(path)
            });
            path.unwrap_or_default().trim_start_matches('/').to_owned()
        };
        let name = format!("binhostfs-it.{}", std::process::id());
        let tried = [
            (Path::new("/sys/fs/cgroup/memory").join(own("memory")), "memory.limit_in_bytes"),
            // One that has processes has no controllers for others.
            (PathBuf::from("/sys/fs/cgroup"), "memory.max"),
        ];
        let group = tried.into_iter().find_map(|(parent, limit)| {
            let group = Self(parent.join(&name));
            fs::create_dir(&group.0).ok()?;
            fs::write(group.0.join(limit), bytes.to_string()).ok().map(|()| group)
        });
        have(group.is_some(), "a control group of memory");
        group
    }

    /// Words before a program that is to run in it.
    fn enter(&self) -> [String; 4] {
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.0.display());
        ["sh", "-c", &script, "sh"].map(str::to_owned)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Whatever is in it has just ended, and the kernel removes it a moment later.
        for _ in 0..100 {
            match fs::remove_dir(&self.0) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                _ => break,
            }
        }
    }
}

#[test]
fn what_is_held_in_memory_is_bounded_by_the_control_group() {
    if !can_mount() {
        return;
    }
    let Some(group) = MemoryGroup::of(160 << 20) else { return };
    let [small, large] = [Package::new("small-1", 3 << 20), Package::new("large-1", 48 << 20)];
    let origin = Origin::with(&[small.clone(), large.clone()]);
    let disk = Disk::ext4(16);
    let words = group.enter();
    let options = Options::new(origin.url()).run_by(words.iter().map(String::as_str));
    let mounted = options.mount_in(disk.place());
    disk.fill();
    assert!(reads_right(&mounted, &small), "{}", mounted.log());
    // A quarter of what the machine has would be enough.
    assert!(fs::read(mounted.path(&large.path)).is_err());
    let reason = mounted.reason(&large.path).unwrap();
    assert!(reason.contains("no space"), "{reason}");
    let mounted = Options::new(origin.url()).mount_in(mounted.into_place());
    assert!(reads_right(&mounted, &large), "{}", mounted.log());
}
