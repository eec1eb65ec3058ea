//! Peers: other binhostfs that are asked before the mirrors, as they should be and as they should not.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::client::{blob_of, serves};
use crate::harness::{Act, Mounted, Options, Origin, Package, ReservedAddress, can_mount, eventually, have};

/// Names of packages need to live as long as the test.
fn named(name: String) -> &'static str {
    name.leak()
}

fn packages(count: usize, size: usize) -> Vec<Package> {
    (0..count).map(|n| Package::new(named(format!("p{n}-1")), size + n)).collect()
}

fn hub(origin: &Origin) -> Mounted {
    Options::new(origin.url()).unmounted().mount()
}

fn url(daemon: &Mounted) -> String {
    format!("http://{}", serves(daemon))
}

/// A machine with an empty cache and these peers.
fn machine(origin: &Origin, peers: &[&str]) -> Mounted {
    let flags = peers.iter().flat_map(|peer| ["--peers", peer]);
    Options::new(origin.url()).with(flags).mount()
}

/// The path with which a peer is asked for a package, without the slash.
fn asked_as(package: &Package) -> String {
    let query = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("fetch", "true")
        .append_pair("path", &package.path)
        .finish();
    format!("{}?{query}", blob_of(package).trim_start_matches('/'))
}

/// A scripted peer that has these packages.
fn scripted(packages: &[Package]) -> Origin {
    let peer = Origin::start();
    packages.iter().for_each(|package| peer.put(&asked_as(package), package.bytes.clone()));
    peer
}

/// Reads all packages of all machines at the same time.
fn read_all(machines: &[Mounted], packages: &[Package]) {
    std::thread::scope(|scope| {
        for machine in machines {
            for package in packages {
                scope.spawn(move || {
                    let read = fs::read(machine.path(&package.path));
                    assert!(
                        read.unwrap_or_else(|error| panic!("{}: {error}\n{}", package.path, machine.log()))
                            == package.bytes
                    );
                });
            }
        }
    });
}

fn peer_status(machine: &Mounted) -> serde_json::Value {
    machine.status()["binhosts"][0]["peers"][0].clone()
}

#[test]
fn ten_machines_cost_the_binhost_one_download_each_package() {
    if !can_mount() {
        return;
    }
    let all = packages(40, 60_000);
    let origin = Origin::with(&all);
    let hub = hub(&origin);
    let machines: Vec<Mounted> = (0..10).map(|_| machine(&origin, &[&url(&hub)])).collect();
    read_all(&machines, &all);
    let asked = origin.asked_packages();
    assert_eq!(asked.len(), all.len(), "{asked:?}");
    for machine in &machines {
        let peer = peer_status(machine);
        assert_eq!((peer["hits"].as_u64(), peer["misses"].as_u64()), (Some(40), Some(0)), "{peer}");
        assert!(machine.is_sound());
    }
}

/// The hub is killed while it fetches the last packages, for which all machines wait.
#[test]
fn machines_go_on_when_the_hub_dies() {
    if !can_mount() {
        return;
    }
    let all = packages(40, 60_000);
    let (early, late) = all.split_at(36);
    let origin = Origin::with(&all);
    late.iter().for_each(|package| origin.script(&package.path, [Act::HoldAt(20_000)]));
    let mut hub = hub(&origin);
    let machines: Vec<Mounted> = (0..10).map(|_| machine(&origin, &[&url(&hub)])).collect();
    read_all(&machines, early);
    assert_eq!(origin.package_requests(), early.len());
    std::thread::scope(|scope| {
        scope.spawn(|| read_all(&machines, late));
        late.iter().for_each(|package| origin.await_requests(&package.path, 1));
        hub.kill();
        late.iter().for_each(|package| origin.release(&package.path));
    });
    let requests = origin.package_requests();
    assert!(requests > all.len() && requests <= 2 * all.len(), "{requests}");
    for machine in &machines {
        assert_eq!(machine.counter("failed_opens"), 0);
        assert!(machine.status()["failures"].as_array().unwrap().is_empty());
    }
}

#[test]
fn a_download_goes_on_at_the_mirror_where_the_peer_left_it() {
    if !can_mount() {
        return;
    }
    let all = packages(1, 900_000);
    let (origin, peer) = (Origin::with(&all), scripted(&all));
    peer.script(&asked_as(&all[0]), [Act::CloseAt(500_000)]);
    let machine = machine(&origin, &[&peer.url()]);
    assert!(fs::read(machine.path(&all[0].path)).unwrap() == all[0].bytes);
    let asked = origin.asked(&all[0].path);
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].range.as_deref(), Some("bytes=500000-"));
    assert_eq!(peer_status(&machine)["failures"], 1);
}

/// Nothing that a peer does costs more than time: no wrong byte, no refusal.
#[test]
fn a_lying_peer_harms_nobody() {
    if !can_mount() {
        return;
    }
    let html = b"<html><body>Sign in to this network</body></html>".to_vec();
    let acts = |length: usize| {
        vec![
            (Act::Flip(length / 2), "wrong"),
            (Act::Flip(0), "wrong"),
            (Act::Instead(html.clone()), "failures"),
            (Act::ShortBy(1), "failures"),
            (Act::CloseAt(length / 2), "failures"),
            (Act::ResetAt(length / 2), "failures"),
            (Act::ChunkedUpTo(length / 2), "failures"),
            (Act::Endless, "failures"),
            (Act::Redirect(String::from("http://127.0.0.1:9/")), "failures"),
            (Act::Status(403, Vec::new()), "failures"),
            (Act::Status(401, Vec::new()), "failures"),
            (Act::Status(500, Vec::new()), "misses"),
            (Act::Status(404, Vec::new()), "misses"),
        ]
    };
    let all = packages(13, 300_000);
    let origin = Origin::with(&all);
    for (package, (act, counted)) in all.iter().zip(acts(300_000)) {
        let peer = scripted(&all);
        peer.script(&asked_as(package), [act.clone()]);
        let machine = machine(&origin, &[&peer.url()]);
        let read = fs::read(machine.path(&package.path)).unwrap_or_else(|error| panic!("{act:?}: {error}"));
        assert!(read == package.bytes, "{act:?}");
        let status = machine.status();
        let of_peer = &status["binhosts"][0]["peers"][0];
        assert_eq!(of_peer[counted], 1, "{act:?}: {of_peer}");
        assert!(status["refused"].as_array().unwrap().is_empty(), "{act:?}");
        assert!(status["failures"].as_array().unwrap().is_empty(), "{act:?}");
        assert_eq!(status["binhosts"][0]["mirrors"][0]["wrong"], 0, "{act:?}");
        assert_eq!(machine.counter("refused"), 0, "{act:?}");
        assert_eq!(peer.asked(&asked_as(package)).len(), 1, "{act:?}");
        assert!(machine.is_sound(), "{act:?}");
    }
    assert_eq!(all.len(), acts(300_000).len());
}

/// Wrong bytes of a peer that breaks off are found in what the mirror completes, and cost the mirror nothing.
#[test]
fn wrong_bytes_in_front_of_right_ones_count_against_the_peer() {
    if !can_mount() {
        return;
    }
    let all = packages(1, 600_000);
    let (origin, peer) = (Origin::with(&all), Origin::start());
    let mut wrong = all[0].bytes.clone();
    wrong[100_000] ^= 1;
    peer.put(&asked_as(&all[0]), wrong);
    peer.script(&asked_as(&all[0]), [Act::CloseAt(300_000)]);
    let machine = machine(&origin, &[&peer.url()]);
    assert!(fs::read(machine.path(&all[0].path)).unwrap() == all[0].bytes);
    let ranges: Vec<_> = origin.asked(&all[0].path).into_iter().map(|asked| asked.range).collect();
    assert_eq!(ranges, [Some("bytes=300000-".to_owned()), None]);
    let status = machine.status();
    assert_eq!(status["binhosts"][0]["peers"][0]["wrong"], 1);
    assert_eq!((&status["binhosts"][0]["mirrors"][0]["wrong"], machine.counter("refused")), (&0.into(), 0));
}

/// The same if the reader leaves meanwhile, and another one gets the rest.
#[test]
fn wrong_bytes_of_an_interrupted_download_count_against_the_peer() {
    if !can_mount() {
        return;
    }
    let all = packages(1, 3_000_000);
    let (origin, peer) = (Origin::with(&all), Origin::start());
    let mut wrong = all[0].bytes.clone();
    wrong[100_000] ^= 1;
    peer.put(&asked_as(&all[0]), wrong);
    peer.script(&asked_as(&all[0]), [Act::StallAt(1_000_000), Act::Status(404, Vec::new())]);
    let machine = machine(&origin, &[&peer.url()]);
    let mut reader = Command::new("cat").arg(machine.path(&all[0].path)).stdout(Stdio::null()).spawn().unwrap();
    eventually(30, "the bytes are there", || machine.counter("peer_bytes") == 1_000_000);
    reader.kill().unwrap();
    reader.wait().unwrap();
    machine.settled();
    eventually(30, "they are kept", || machine.status()["cache"]["parked"] == 1_000_000);
    assert!(fs::read(machine.path(&all[0].path)).unwrap() == all[0].bytes);
    let ranges: Vec<_> = origin.asked(&all[0].path).into_iter().map(|asked| asked.range).collect();
    assert_eq!(ranges, [Some("bytes=1000000-".to_owned()), None]);
    let status = machine.status();
    assert_eq!(status["binhosts"][0]["peers"][0]["wrong"], 1);
    assert_eq!((&status["binhosts"][0]["mirrors"][0]["wrong"], machine.counter("refused")), (&0.into(), 0));
}

/// A peer that says nothing, or always that it is fetching, does not hold a package for ever.
#[test]
fn a_peer_without_progress_is_left() {
    if !can_mount() {
        return;
    }
    let all = packages(2, 50_000);
    let origin = Origin::with(&all);
    let under_way = |progress: String| Act::Status(202, vec![format!("binhostfs-progress: {progress}")]);
    let counting: Vec<_> = (0..300).map(|number| under_way(format!("own-{number}"))).collect();
    for acts in [vec![Act::Silence], vec![under_way("7".to_owned())], counting] {
        let act = &acts[0];
        let peer = scripted(&all);
        all.iter().for_each(|package| peer.script(&asked_as(package), acts.clone()));
        let machine = machine(&origin, &[&peer.url()]);
        let start = Instant::now();
        assert!(fs::read(machine.path(&all[0].path)).unwrap() == all[0].bytes);
        assert!(start.elapsed() < Duration::from_secs(25), "{act:?}: {:?}", start.elapsed());
        // The next package does not wait for it.
        let start = Instant::now();
        assert!(fs::read(machine.path(&all[1].path)).unwrap() == all[1].bytes);
        assert!(start.elapsed() < Duration::from_secs(4), "{act:?}: {:?}", start.elapsed());
        assert!(peer.asked(&asked_as(&all[1])).is_empty());
        assert_eq!(peer_status(&machine)["state"], "backing_off");
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

#[test]
fn a_black_hole_costs_the_first_open_alone() {
    if !can_mount() {
        return;
    }
    let all = packages(60, 5_000);
    let origin = Origin::with(&all);
    let (address, _held) = black_hole();
    let machine = machine(&origin, &[&format!("http://{address}")]);
    let read = |package: &Package| {
        let start = Instant::now();
        assert!(fs::read(machine.path(&package.path)).unwrap() == package.bytes);
        start.elapsed()
    };
    let first = read(&all[0]);
    assert!(first >= Duration::from_millis(900) && first < Duration::from_secs(8), "{first:?}");
    let mut others: Vec<Duration> = all[1..40].iter().map(read).collect();
    others.sort();
    let median = others[others.len() / 2];
    assert!(median < Duration::from_millis(700), "{median:?}");
    assert_eq!(machine.counter("peer_failures"), 1);
}

#[test]
fn the_tier_of_a_package_is_named_everywhere() {
    if !can_mount() {
        return;
    }
    let all = packages(2, 50_000);
    let origin = Origin::with(&all);
    let hub = hub(&origin);
    let machine = machine(&origin, &[&url(&hub)]);
    assert!(fs::read(machine.path(&all[0].path)).unwrap() == all[0].bytes);
    machine.settled();
    let peer = format!("peer http://{}/", serves(&hub));
    let peer = peer.trim_end_matches('/');
    let mut value = [0; 1024];
    let length = rustix::fs::getxattr(machine.path(&all[0].path), "user.binhostfs.origin", &mut value).unwrap();
    let origin_of = String::from_utf8(value[..length].to_vec()).unwrap();
    assert!(origin_of.contains(peer), "{origin_of}");
    let why = machine.runs(&["why", "app-misc/p0"]);
    assert!(why.contains(peer), "{why}");
    let status = machine.status_text();
    let line = format!("peer      http://{}", serves(&hub));
    assert!(status.contains(&line) && status.contains("had 1 of 1 packages"), "{status}");
    assert_eq!((machine.counter("peer_hits"), machine.counter("peer_bytes")), (1, all[0].bytes.len() as u64));
    assert!(machine.log().contains(&format!(" from http://{}", serves(&hub))), "{}", machine.log());
}

/// A peer is asked for nothing of a binhost with credentials, and never for an index.
#[test]
fn a_private_binhost_is_no_matter_of_peers() {
    if !can_mount() {
        return;
    }
    let all = packages(1, 50_000);
    let (origin, peer) = (Origin::with(&all), scripted(&all));
    let private = format!("http://joe:secret@{}", origin.address());
    let machine = Options::new(private).with(["--peers", &peer.url()]).mount();
    assert!(fs::read(machine.path(&all[0].path)).unwrap() == all[0].bytes);
    assert!(peer.asked_packages().is_empty());
    assert!(machine.status()["binhosts"][0]["peers"].as_array().unwrap().is_empty());
    let public = self::machine(&origin, &[&peer.url()]);
    assert!(fs::read(public.path(&all[0].path)).unwrap() == all[0].bytes);
    assert_eq!(peer.asked_packages(), [asked_as(&all[0])]);
    assert!(peer.asked("Packages").is_empty() && peer.asked("Packages.gz").is_empty());
}

/// An absent peer is asked again after its rest, and at once when the administrator refreshes.
#[test]
fn an_absent_peer_comes_back() {
    if !can_mount() {
        return;
    }
    let all = packages(3, 50_000);
    let origin = Origin::with(&all);
    let address = ReservedAddress::new();
    let machine = machine(&origin, &[&format!("http://{address}")]);
    assert!(fs::read(machine.path(&all[0].path)).unwrap() == all[0].bytes);
    assert_eq!(peer_status(&machine)["state"], "backing_off");
    let peer = Origin::start_on(&address);
    all.iter().for_each(|package| peer.put(&asked_as(package), package.bytes.clone()));
    assert!(fs::read(machine.path(&all[1].path)).unwrap() == all[1].bytes);
    assert!(peer.asked_packages().is_empty(), "it rests");
    machine.runs(&["refresh"]);
    assert!(fs::read(machine.path(&all[2].path)).unwrap() == all[2].bytes);
    assert_eq!(peer.asked_packages(), [asked_as(&all[2])]);
    assert_eq!(peer_status(&machine)["state"], "healthy");
}

/// The rest of an absent peer ends when the machine gets an address: it may have come home.
#[test]
fn a_change_of_the_network_ends_the_rest_of_a_peer() {
    let tools = ["unshare", "nsenter", "ip"].iter().all(|tool| Command::new(tool).arg("-V").output().is_ok());
    if !can_mount() || !have(tools, "unshare, nsenter and ip") {
        return;
    }
    let all = packages(1, 50_000);
    let binhost = tempfile::TempDir::with_prefix("binhostfs-it.").unwrap();
    let path = binhost.path().join(&all[0].path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, &all[0].bytes).unwrap();
    fs::write(binhost.path().join("Packages"), crate::harness::index_of(1_760_000_000, &all)).unwrap();
    let options = Options::new(format!("file://{}", binhost.path().display()));
    // A network of its own, without any address.
    let machine = options.with(["--peers", "http://192.0.2.1:8081"]).run_by(["unshare", "--net"]).mount();
    assert!(fs::read(machine.path(&all[0].path)).unwrap() == all[0].bytes);
    let before = peer_status(&machine);
    assert_eq!(before["state"], "backing_off", "{before}");
    let network = format!("--net=/proc/{}/ns/net", machine.pid());
    let address = ["ip", "address", "add", "192.0.2.7/24", "dev", "lo"];
    assert!(Command::new("nsenter").arg(&network).args(address).status().unwrap().success());
    // Its rest would last for 10 s at least.
    eventually(6, "the peer may be asked", || peer_status(&machine)["state"] == "healthy");
}

#[test]
fn what_is_no_peer_is_refused() {
    let place = tempfile::TempDir::with_prefix("binhostfs-it.").unwrap();
    let check = |peer: &str| {
        let file = place.path().join("own.toml");
        fs::write(&file, format!("[binhost.a]\nurl = \"http://127.0.0.1:9\"\npeers = [\"{peer}\"]\n")).unwrap();
        let mut command = Command::new(crate::harness::binary());
        command.arg("check-config").arg("--config").arg(&file).arg("--portage-root").arg(place.path());
        let output = command.output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let said = check("file:///srv");
    assert!(
        said.contains("own.toml:3: ") && said.contains("is no peer: give for example http://hub.lan:8081"),
        "{said}"
    );
    assert!(check("nonsense").contains("is not a URL"));
    let said = check("http://joe:secret@hub:8081");
    assert!(said.contains("binhost.a.peers = http://***@hub:8081") && !said.contains("secret"), "{said}");
}
