//! Peers: other binhostfs that are asked before the mirrors, as they should be and as they should not.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::client::{blob_of, serves};
use super::sharers::{
    self, a_black_hole_costs_one_open, check_config, directory_of, lies, lies_harm_nobody, origin_of, packages, ranges,
    read_all, reads,
};
use crate::harness::{Act, Mounted, Options, Origin, Package, ReservedAddress, can_mount, eventually, have};

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
    sharers::scripted(packages, asked_as)
}

/// The bytes of a package with one of them changed.
fn flipped(package: &Package) -> Vec<u8> {
    let mut wrong = package.bytes.clone();
    wrong[100_000] ^= 1;
    wrong
}

fn peer_status(machine: &Mounted) -> serde_json::Value {
    machine.status()["binhosts"][0]["peers"][0].clone()
}

/// Holds that wrong bytes count against the only peer, not against the mirror or the package.
fn assert_peer_is_blamed(machine: &Mounted) {
    let status = machine.status();
    let wrong = |tier: &str| status["binhosts"][0][tier][0]["wrong"].as_u64();
    assert_eq!((wrong("peers"), wrong("mirrors"), machine.counter("refused")), (Some(1), Some(0), 0), "{status}");
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
    reads(&machine, &all[0]);
    assert_eq!(ranges(&origin, &all[0].path), [Some("bytes=500000-".to_owned())]);
    assert_eq!(peer_status(&machine)["failures"], 1);
}

#[test]
fn a_lying_peer_harms_nobody() {
    if !can_mount() {
        return;
    }
    let mut acts = lies("failures");
    acts.extend([
        (Act::Status(401, Vec::new()), "failures"),
        (Act::Status(500, Vec::new()), "misses"),
        (Act::Status(404, Vec::new()), "misses"),
    ]);
    lies_harm_nobody(&acts, asked_as, |origin, peer| machine(origin, &[peer]), peer_status);
}

/// Wrong bytes of a peer that breaks off are found in what the mirror completes, and cost the mirror nothing.
#[test]
fn wrong_bytes_in_front_of_right_ones_count_against_the_peer() {
    if !can_mount() {
        return;
    }
    let all = packages(1, 600_000);
    let (origin, peer) = (Origin::with(&all), Origin::start());
    peer.put(&asked_as(&all[0]), flipped(&all[0]));
    peer.script(&asked_as(&all[0]), [Act::CloseAt(300_000)]);
    let machine = machine(&origin, &[&peer.url()]);
    reads(&machine, &all[0]);
    assert_eq!(ranges(&origin, &all[0].path), [Some("bytes=300000-".to_owned()), None]);
    assert_peer_is_blamed(&machine);
}

/// The same if the reader leaves meanwhile, and another one gets the rest.
#[test]
fn wrong_bytes_of_an_interrupted_download_count_against_the_peer() {
    if !can_mount() {
        return;
    }
    let all = packages(1, 3_000_000);
    let (origin, peer) = (Origin::with(&all), Origin::start());
    peer.put(&asked_as(&all[0]), flipped(&all[0]));
    peer.script(&asked_as(&all[0]), [Act::StallAt(1_000_000), Act::Status(404, Vec::new())]);
    let machine = machine(&origin, &[&peer.url()]);
    let mut reader = Command::new("cat").arg(machine.path(&all[0].path)).stdout(Stdio::null()).spawn().unwrap();
    eventually(30, "the bytes are there", || machine.counter("peer_bytes") == 1_000_000);
    reader.kill().unwrap();
    reader.wait().unwrap();
    machine.settled();
    eventually(30, "they are kept", || machine.status()["cache"]["parked"] == 1_000_000);
    reads(&machine, &all[0]);
    assert_eq!(ranges(&origin, &all[0].path), [Some("bytes=1000000-".to_owned()), None]);
    assert_peer_is_blamed(&machine);
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
        reads(&machine, &all[0]);
        assert!(start.elapsed() < Duration::from_secs(25), "{act:?}: {:?}", start.elapsed());
        // The next package does not wait for it.
        let start = Instant::now();
        reads(&machine, &all[1]);
        assert!(start.elapsed() < Duration::from_secs(4), "{act:?}: {:?}", start.elapsed());
        assert!(peer.asked(&asked_as(&all[1])).is_empty());
        assert_eq!(peer_status(&machine)["state"], "backing_off");
    }
}

#[test]
fn a_black_hole_costs_the_first_open_alone() {
    if can_mount() {
        a_black_hole_costs_one_open(|origin, peer| machine(origin, &[peer]), "peer_failures");
    }
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
    reads(&machine, &all[0]);
    machine.settled();
    let peer = format!("peer http://{}/", serves(&hub));
    let peer = peer.trim_end_matches('/');
    let origin_of = origin_of(&machine, &all[0]);
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
    reads(&machine, &all[0]);
    assert!(peer.asked_packages().is_empty());
    assert!(machine.status()["binhosts"][0]["peers"].as_array().unwrap().is_empty());
    let public = self::machine(&origin, &[&peer.url()]);
    reads(&public, &all[0]);
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
    reads(&machine, &all[0]);
    assert_eq!(peer_status(&machine)["state"], "backing_off");
    let peer = Origin::start_on(&address);
    all.iter().for_each(|package| peer.put(&asked_as(package), package.bytes.clone()));
    reads(&machine, &all[1]);
    assert!(peer.asked_packages().is_empty(), "it rests");
    machine.runs(&["refresh"]);
    reads(&machine, &all[2]);
    assert_eq!(peer.asked_packages(), [asked_as(&all[2])]);
    assert_eq!(peer_status(&machine)["state"], "healthy");
}

/// What is in a local directory is read from there, by whichever sharers the machine has.
#[test]
fn a_local_binhost_needs_no_peer() {
    if !can_mount() {
        return;
    }
    let all = packages(1, 50_000);
    let (binhost, peer) = (directory_of(&all), scripted(&all));
    let local = Options::new(format!("file://{}", binhost.path().display()));
    let machine = local.with(["--peers", &peer.url()]).mount();
    reads(&machine, &all[0]);
    assert!(peer.asked_packages().is_empty());
    assert_eq!(machine.counter("peer_misses"), 0);
    machine.settled();
    assert!(origin_of(&machine, &all[0]).contains("file://"), "{}", origin_of(&machine, &all[0]));
}

/// The rest of an absent peer ends when the machine gets an address: it may have come home.
#[test]
fn a_change_of_the_network_ends_the_rest_of_a_peer() {
    let tools = ["unshare", "nsenter", "ip"].iter().all(|tool| Command::new(tool).arg("-V").output().is_ok());
    if !can_mount() || !have(tools, "unshare, nsenter and ip") {
        return;
    }
    let all = packages(1, 50_000);
    let binhost = directory_of(&all);
    // A local binhost would be read without the peer.
    let options = Options::new("http://192.0.2.2").with(["--mirror", &format!("file://{}", binhost.path().display())]);
    // A network of its own, without any address.
    let machine = options.with(["--peers", "http://192.0.2.1:8081"]).run_by(["unshare", "--net"]).mount();
    reads(&machine, &all[0]);
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
    let check =
        |peer: &str| check_config(&format!("[binhost.a]\nurl = \"http://127.0.0.1:9\"\npeers = [\"{peer}\"]\n")).1;
    let said = check("file:///srv");
    assert!(
        said.contains("own.toml:3: ") && said.contains("is no peer: give for example http://hub.lan:8081"),
        "{said}"
    );
    assert!(check("nonsense").contains("is not a URL"));
    let said = check("http://joe:secret@hub:8081");
    assert!(said.contains("binhost.a.peers = http://***@hub:8081") && !said.contains("secret"), "{said}");
}
