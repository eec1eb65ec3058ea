//! What holds for a peer as for a node of an object store, and what their tests share.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::{Act, Mounted, Options, Origin, Package, binary, index_of};

/// The size of the packages about which sharers lie.
const LENGTH: usize = 300_000;

pub(super) fn packages(count: usize, size: usize) -> Vec<Package> {
    // Names of packages need to live as long as the test.
    (0..count).map(|n| Package::new(format!("p{n}-1").leak(), size + n)).collect()
}

/// A directory with these packages, as a binhost has them.
pub(super) fn directory_of(packages: &[Package]) -> TempDir {
    let directory = TempDir::with_prefix("binhostfs-it.").unwrap();
    for package in packages {
        let path = directory.path().join(&package.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &package.bytes).unwrap();
    }
    fs::write(directory.path().join("Packages"), index_of(1_760_000_000, packages)).unwrap();
    directory
}

/// A scripted sharer that has these packages at these paths.
pub(super) fn scripted(packages: &[Package], path: impl Fn(&Package) -> String) -> Origin {
    let sharer = Origin::start();
    packages.iter().for_each(|package| sharer.put(&path(package), package.bytes.clone()));
    sharer
}

pub(super) fn reads(machine: &Mounted, package: &Package) {
    let read = fs::read(machine.path(&package.path));
    let read = read.unwrap_or_else(|error| panic!("{}: {error}\n{}", package.path, machine.log()));
    assert!(read == package.bytes, "{}", package.path);
}

/// Reads all packages of all machines at the same time.
pub(super) fn read_all(machines: &[Mounted], packages: &[Package]) {
    std::thread::scope(|scope| {
        for machine in machines {
            packages.iter().for_each(|package| drop(scope.spawn(move || reads(machine, package))));
        }
    });
}

/// Where a package came from, as its extended attribute says.
pub(super) fn origin_of(machine: &Mounted, package: &Package) -> String {
    let mut value = [0; 1024];
    let length = rustix::fs::getxattr(machine.path(&package.path), "user.binhostfs.origin", &mut value).unwrap();
    String::from_utf8(value[..length].to_vec()).unwrap()
}

/// What `check-config` says of a file `own.toml` with this text, and its exit code.
pub(super) fn check_config(text: &str) -> (Option<i32>, String) {
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let file = place.path().join("own.toml");
    fs::write(&file, text).unwrap();
    let mut command = Command::new(binary());
    command.arg("check-config").arg("--config").arg(&file).arg("--portage-root").arg(place.path());
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// What was asked for of each request for a path.
pub(super) fn ranges(sharer: &Origin, path: &str) -> Vec<Option<String>> {
    sharer.asked(path).into_iter().map(|asked| asked.range).collect()
}

/// What every sharer may do with a request, and which counter of its record has that. `other_size` is the counter of an answer
/// that has not the size of the package.
pub(super) fn lies(other_size: &'static str) -> Vec<(Act, &'static str)> {
    let html = b"<html><body>Sign in to this network</body></html>".to_vec();
    vec![
        (Act::Flip(LENGTH / 2), "wrong"),
        (Act::Flip(0), "wrong"),
        (Act::Instead(html), other_size),
        (Act::ShortBy(1), other_size),
        (Act::CloseAt(LENGTH / 2), "failures"),
        (Act::ResetAt(LENGTH / 2), "failures"),
        (Act::ChunkedUpTo(LENGTH / 2), other_size),
        (Act::Endless, other_size),
        (Act::Redirect(String::from("http://127.0.0.1:9/")), "failures"),
        (Act::Status(403, Vec::new()), "failures"),
    ]
}

/// Nothing that a sharer does costs more than time: no wrong byte, no refusal. `acts` are what it does with a request for a
/// package, which it has at `path`, and which counter of its record has that. `machine` is one that asks the sharer first.
pub(super) fn lies_harm_nobody(
    acts: &[(Act, &str)],
    path: impl Fn(&Package) -> String,
    machine: impl Fn(&Origin, &str) -> Mounted,
    record: impl Fn(&Mounted) -> serde_json::Value,
) {
    let all = packages(acts.len(), LENGTH);
    let origin = Origin::with(&all);
    for (package, (act, counted)) in all.iter().zip(acts) {
        let sharer = scripted(&all, &path);
        sharer.script(&path(package), [act.clone(), Act::Serve]);
        let machine = machine(&origin, &sharer.url());
        reads(&machine, package);
        // Who is at fault may show only with the bytes of the mirror.
        machine.settled();
        let (status, record) = (machine.status(), record(&machine));
        assert_eq!(record[*counted], 1, "{act:?}: {record}");
        assert!(status["refused"].as_array().unwrap().is_empty(), "{act:?}");
        assert!(status["failures"].as_array().unwrap().is_empty(), "{act:?}");
        assert_eq!(status["binhosts"][0]["mirrors"][0]["wrong"], 0, "{act:?}");
        assert_eq!(machine.counter("refused"), 0, "{act:?}");
        assert!(machine.is_sound(), "{act:?}");
        assert_eq!(origin.asked(&package.path).len(), 1, "{act:?}");
    }
}

/// An address that takes no connections and refuses none: the queue of its listener is full.
fn black_hole() -> (SocketAddr, impl Sized) {
    use rustix::net::{AddressFamily, Ipv4Addr, SocketAddrV4, SocketType, bind, listen, socket};
    let listener = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    listen(&listener, 0).unwrap();
    let listener = TcpListener::from(listener);
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        queued.push(stream);
        assert!(queued.len() < 50, "the queue does not get full");
    }
    (address, (listener, queued))
}

/// Neither a connection nor a refusal: the first open waits for a second, and the others for nothing. `machine` is one that
/// asks the sharer at this URL first, and `failures` its counter.
pub(super) fn a_black_hole_costs_one_open(machine: impl Fn(&Origin, &str) -> Mounted, failures: &str) {
    const OPENS: usize = 200;
    let all = packages(OPENS + 1, 5_000);
    let origin = Origin::with(&all);
    let (address, _held) = black_hole();
    let (with, without) = (machine(&origin, &format!("http://{address}")), Options::new(origin.url()).mount());
    let open = |machine: &Mounted, package: &Package| {
        let start = Instant::now();
        reads(machine, package);
        start.elapsed()
    };
    let first = open(&with, &all[0]);
    assert!((900..8000).contains(&first.as_millis()), "the sharer takes no connection: {first:?}");
    open(&without, &all[0]);
    // In turns, so that both have the same load beside them.
    let (mut ours, mut theirs): (Vec<_>, Vec<_>) =
        all[1..].iter().map(|package| (open(&with, package), open(&without, package))).unzip();
    ours.sort();
    theirs.sort();
    let [ours, theirs] = [ours, theirs].map(|times| times[OPENS * 95 / 100]);
    assert!(ours < theirs + Duration::from_millis(50), "p95 is {ours:?} with the sharer, {theirs:?} without it");
    // The rest may end a few times.
    assert!((1..=5).contains(&with.counter(failures)), "{}", with.counter(failures));
    assert_eq!((with.counter("failed_opens"), with.counter("misses")), (0, OPENS as u64 + 1));
}
