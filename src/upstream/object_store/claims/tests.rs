use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use tokio::task::{AbortHandle, JoinSet};

use super::*;
use crate::config::{AccessKey, BinhostConfig, StoreAccess};
use crate::upstream::ObjectStore;
use crate::upstream::object_store::writes::REFUSED;
use crate::upstream::tier::ProvedPackage;
use crate::upstream::{Act, Event, ScriptedServer, Upstream};

const S: Duration = Duration::from_secs(1);
const PATH: &str = "a/large-1.gpkg.tar";
/// The time in which a mirror sends the package.
const FETCH: Duration = Duration::from_secs(4);

fn package() -> Vec<u8> {
    (0..MIN_SIZE).map(|at| (at % 251) as u8).collect()
}

fn key(bytes: &[u8]) -> String {
    format!("0123-4567-{}", bytes.len())
}

/// A machine with an empty cache.
struct Machine {
    upstream: Upstream,
    store: Arc<ObjectStore>,
    metrics: Arc<Metrics>,
    writer: AbortHandle,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

impl Machine {
    /// Fetches the package, and has it stored. Returns how long it took until it was there.
    async fn fetches(&self, bytes: &[u8]) -> Duration {
        let began = Instant::now();
        let (size, key) = (bytes.len() as u64, key(bytes));
        let mut stream = self.upstream.body(None, PATH, size).with_sharers(Some(key.clone()), PATH);
        let mut got = Vec::new();
        loop {
            match stream.next().await.unwrap() {
                Event::Chunk(chunk) => got.extend_from_slice(&chunk),
                Event::Restart => got.clear(),
                Event::End => break,
            }
        }
        assert!(got == bytes, "other bytes");
        let took = began.elapsed();
        stream.proved(|| {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(bytes, 0).unwrap();
            Some(ProvedPackage { key, size, md5: [1; 16], sha1: [2; 20], sha256: [3; 32], file: Arc::new(file) })
        });
        took
    }

    /// The machine loses its power.
    fn dies(self) {}
}

/// Machines that share a store of two nodes, and a mirror.
struct Fleet {
    server: Arc<ScriptedServer>,
    nodes: [String; 2],
    mirror: String,
    bytes: Arc<Vec<u8>>,
}

impl Fleet {
    fn new() -> Self {
        let server = ScriptedServer::new();
        let nodes = [(); 2].map(|()| server.add_mirror());
        let mirror = server.add_mirror();
        let bytes = Arc::new(package());
        server.put(PATH, (*bytes).clone());
        server.act(&mirror, PATH, std::iter::repeat_n(Act::Drip(FETCH), 10));
        Self { server, nodes, mirror, bytes }
    }

    /// A machine that asks one of the nodes first.
    fn machine(&self, number: usize) -> Machine {
        self.machine_with(number, StoreAccess::ReadWrite)
    }

    fn machine_with(&self, number: usize, access: StoreAccess) -> Machine {
        let mut urls = self.nodes.clone().map(|host| format!("http://{host}"));
        urls.rotate_left(number % 2);
        self.machine_of(&urls, access)
    }

    /// A machine that knows these nodes.
    fn machine_of(&self, urls: &[String], access: StoreAccess) -> Machine {
        let key = Some(AccessKey { id: "GK".to_owned(), secret: "s".to_owned(), token: None });
        let config = ObjectStoreConfig { key, access, claims: true, ..ObjectStoreConfig::of_endpoints(urls) };
        let metrics = Arc::<Metrics>::default();
        let store = Arc::new(ObjectStore::new(config.into(), Arc::clone(&metrics)).unwrap().unwrap());
        let binhost = BinhostConfig::of_urls(&[format!("http://{}", self.mirror)]);
        let upstream = Upstream::new(binhost, Arc::clone(&metrics), Some(Arc::clone(&store))).unwrap();
        let writer = Arc::clone(&store);
        // Its downloads never end: only what is claimed is stored at once.
        let writer = tokio::spawn(async move { writer.write(|| true).await }).abort_handle();
        Machine { upstream, store, metrics, writer }
    }

    /// So many machines fetch the package at the same time. Returns the longest time.
    async fn all_fetch(&self, machines: Vec<Machine>) -> (Duration, Vec<Machine>) {
        let mut fetching = JoinSet::new();
        for machine in machines {
            let bytes = Arc::clone(&self.bytes);
            fetching.spawn(async move { (machine.fetches(&bytes).await, machine) });
        }
        let (times, machines): (Vec<_>, Vec<_>) = fetching.join_all().await.into_iter().unzip();
        (times.into_iter().max().unwrap_or_default(), machines)
    }

    /// How often the mirror was asked for the package.
    fn downloads(&self) -> usize {
        self.server.requests().iter().filter(|request| request.host == self.mirror).count()
    }

    fn asked(&self, method: &str) -> usize {
        let of_nodes = |host: &String| *host != self.mirror;
        self.server.requests().iter().filter(|asked| of_nodes(&asked.host) && asked.method == method).count()
    }

    fn claims(&self) -> Vec<String> {
        self.server.files("bucket/claims/")
    }

    /// Waits until a machine fetches the package, and owns it.
    async fn is_claimed(&self) {
        loop {
            if self.downloads() > 0 {
                return assert!(self.claims().iter().any(|claim| claim.contains("/owner-")), "{:?}", self.claims());
            }
            sleep(S / 10).await;
        }
    }

    fn object(&self) -> String {
        format!("bucket/v1/{}", key(&self.bytes))
    }
}

fn sum(machines: &[Machine], counter: fn(&Metrics) -> u64) -> u64 {
    machines.iter().map(|machine| counter(&machine.metrics)).sum()
}

/// Whatever the nodes' clocks show, and however long requests and answers take.
#[tokio::test(start_paused = true)]
async fn of_ten_machines_one_fetches() {
    for round in 0..8 {
        let fleet = Fleet::new();
        fleet.server.set_ahead(&fleet.nodes[round % 2], 2 * S);
        fleet.server.set_latency(Duration::from_millis(round as u64 * 40));
        let (took, machines) = fleet.all_fetch((0..10).map(|number| fleet.machine(number)).collect()).await;
        assert_eq!(fleet.downloads(), 1, "{round}");
        assert_eq!(sum(&machines, |metrics| metrics.object_store_claims.get()), 1);
        assert_eq!(sum(&machines, |metrics| metrics.object_store_hits.get()), 9);
        assert!(took < FETCH + 5 * S, "{took:?}");
        sleep(2 * S).await;
        assert_eq!(fleet.claims(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_comes_later_waits_too() {
    let fleet = Fleet::new();
    let (first, later) = (fleet.machine(0), fleet.machine(1));
    let (_, took) = tokio::join!(first.fetches(&fleet.bytes), async {
        sleep(FETCH / 2).await;
        later.fetches(&fleet.bytes).await
    });
    assert_eq!((fleet.downloads(), later.metrics.object_store_claim_waits.get()), (1, 1));
    assert!(took < FETCH / 2 + 2 * S, "{took:?}");
    // It puts no claim: one is listed. The first one has put a candidate and two owners at least.
    assert_eq!(fleet.server.requests().iter().filter(|asked| asked.path.contains("/candidate-")).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_dies_costs_one_more_download() {
    let fleet = Fleet::new();
    let owner = fleet.machine(0);
    tokio::select! {
        _ = owner.fetches(&fleet.bytes) => panic!("it is not killed"),
        () = async { fleet.is_claimed().await; sleep(FETCH / 2).await } => {}
    }
    // What the download has dropped is not deleted by a dead machine.
    let others: Vec<Machine> = (1..10).map(|number| fleet.machine(number)).collect();
    drop(owner.store.claims.as_ref().unwrap().table.take_over());
    owner.dies();
    let (took, _others) = fleet.all_fetch(others).await;
    assert_eq!(fleet.downloads(), 2);
    assert!(took < DEAD + FETCH + 6 * S, "{took:?}");
    sleep(2 * S).await;
    assert_eq!(fleet.claims(), Vec::<String>::new(), "the dead claim is deleted");
}

/// The owner's waiters go away, say, or the package proves wrong.
#[tokio::test(start_paused = true)]
async fn an_owner_that_gives_up_is_followed_at_once() {
    let fleet = Fleet::new();
    let (owner, next) = (fleet.machine(0), fleet.machine(1));
    let (_, took) = tokio::join!(
        async {
            tokio::select! {
                _ = owner.fetches(&fleet.bytes) => panic!("it does not give up"),
                () = async { fleet.is_claimed().await; sleep(S).await } => {}
            }
        },
        async {
            fleet.is_claimed().await;
            next.fetches(&fleet.bytes).await
        }
    );
    assert_eq!((fleet.downloads(), next.metrics.object_store_claims.get()), (2, 1));
    assert!(took < FETCH + 3 * S, "{took:?}");
}

/// No byte comes for minutes, or a byte now and then. The mirror of the waiter may have been as
/// slow so long ago.
#[tokio::test(start_paused = true)]
async fn an_owner_that_gets_nowhere_is_not_waited_for() {
    let usual = MAX_WAIT + 2 * 8 * S;
    for (act, slow, longest) in [
        (Act::Hold(1000), None, DEAD),
        (Act::Drip(600 * S), None, usual),
        (Act::Drip(600 * S), Some(Duration::ZERO), MAX_WHOLE_WAIT),
        (Act::Drip(600 * S), Some(3600 * S), usual),
    ] {
        let fleet = Fleet::new();
        fleet.server.heal();
        fleet.server.act(&fleet.mirror, PATH, [act.clone(), Act::Drip(FETCH), act.clone(), act.clone()]);
        let (owner, other) = (fleet.machine(0), fleet.machine(1));
        if let Some(ago) = slow {
            // 1 KiB/s: the package would take more than two hours.
            other.upstream.mirrors.note_pace(Some(0), (10 << 10, 10 * S));
            sleep(ago).await;
        }
        let took = tokio::select! {
            _ = owner.fetches(&fleet.bytes) => panic!("it is slow"),
            took = async { fleet.is_claimed().await; other.fetches(&fleet.bytes).await } => took,
        };
        assert!(fleet.downloads() <= 3);
        assert!(took < longest + FETCH + 5 * S, "{act:?}: {took:?}");
    }
}

/// A machine that fetches, and cannot store: each waits for two of them at most.
#[tokio::test(start_paused = true)]
async fn a_store_that_takes_no_package_costs_a_bounded_time() {
    let fleet = Fleet::new();
    fleet.server.refuse_writes("bucket/v1/");
    let (took, machines) = fleet.all_fetch((0..10).map(|number| fleet.machine(number)).collect()).await;
    assert!(took < 3 * (FETCH + 3 * S), "{took:?}");
    assert!(sum(&machines, |metrics| metrics.object_store_claim_timeouts.get()) == 0);
}

/// What the store refuses once is claimed by nobody for a while. What it takes is claimed again.
#[tokio::test(start_paused = true)]
async fn a_machine_that_cannot_store_claims_nothing() {
    let fleet = Fleet::new();
    fleet.server.refuse_writes("bucket/v1/");
    let machine = fleet.machine(0);
    machine.fetches(&fleet.bytes).await;
    sleep(S).await;
    let puts = fleet.asked("PUT");
    machine.fetches(&fleet.bytes).await;
    assert_eq!((machine.metrics.object_store_claims.get(), fleet.asked("PUT")), (1, puts), "a refusal");
    // What nobody has claimed is tried a minute later.
    sleep(REFUSED + 70 * S).await;
    fleet.server.refuse_writes("nothing");
    machine.fetches(&fleet.bytes).await;
    sleep(2 * S).await;
    assert_eq!(machine.metrics.object_store_claims.get(), 2);
    assert_eq!(fleet.server.files("bucket/"), [fleet.object()]);
}

/// The key may not list, or the store answers nothing. The mirrors are asked before long, and the
/// next package does not ask for claims. Packages are read as before.
#[tokio::test(start_paused = true)]
async fn a_store_without_claims_costs_little_and_once() {
    for (act, most) in [(Act::Status(403), S), (Act::Ignore, ELECTION + S)] {
        let fleet = Fleet::new();
        fleet.server.heal();
        for node in &fleet.nodes {
            fleet.server.act(node, "bucket", std::iter::repeat_n(act.clone(), 100));
        }
        let machine = fleet.machine(0);
        let took = machine.fetches(&fleet.bytes).await;
        assert!(took < most, "{act:?}: {took:?}");
        let lists = fleet.server.paths().iter().filter(|path| *path == "bucket").count();
        assert!(machine.fetches(&fleet.bytes).await < S, "{act:?}");
        assert!(lists <= 2 && fleet.server.paths().iter().filter(|path| *path == "bucket").count() <= lists + 1);
        fleet.server.put(&fleet.object(), (*fleet.bytes).clone());
        machine.fetches(&fleet.bytes).await;
        assert_eq!(machine.metrics.object_store_hits.get(), 1, "{act:?}");
    }
}

/// One node fails once. After its backoff, packages are claimed again.
#[tokio::test(start_paused = true)]
async fn a_node_that_failed_once_is_asked_again() {
    let fleet = Fleet::new();
    fleet.server.act(&fleet.nodes[0], "bucket", [Act::Status(500)]);
    let machine = fleet.machine_of(&[format!("http://{}", fleet.nodes[0])], StoreAccess::ReadWrite);
    machine.fetches(&fleet.bytes).await;
    assert_eq!(machine.metrics.object_store_claims.get(), 0);
    sleep(retry::backoff(1, 1.0)).await;
    machine.fetches(&fleet.bytes).await;
    assert_eq!(machine.metrics.object_store_claims.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_goes_dark_ends_the_wait() {
    let fleet = Fleet::new();
    fleet.server.heal();
    fleet.server.act(&fleet.mirror, PATH, [Act::Drip(60 * S)]);
    let (owner, other) = (fleet.machine(0), fleet.machine(1));
    let took = tokio::select! {
        _ = owner.fetches(&fleet.bytes) => panic!("it is slow"),
        took = async {
            fleet.is_claimed().await;
            let dark = async {
                sleep(3 * S).await;
                fleet.nodes.iter().for_each(|node| fleet.server.act(node, "bucket", std::iter::repeat_n(Act::Ignore, 100)));
            };
            tokio::join!(other.fetches(&fleet.bytes), dark).0
        } => took,
    };
    assert!(took > 3 * S && took < 3 * S + 2 * PATIENCE + 2 * S, "{took:?}");
    assert_eq!(other.metrics.object_store_claim_timeouts.get(), 0, "the owner may still store it");
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_only_reads_waits_and_puts_nothing() {
    let fleet = Fleet::new();
    let (owner, reader) = (fleet.machine(0), fleet.machine_with(1, StoreAccess::ReadOnly));
    tokio::join!(owner.fetches(&fleet.bytes), async {
        fleet.is_claimed().await;
        let puts = fleet.asked("PUT");
        reader.fetches(&fleet.bytes).await;
        puts
    });
    assert_eq!((fleet.downloads(), reader.metrics.object_store_hits.get()), (1, 1));
    let alone = Fleet::new();
    alone.machine_with(0, StoreAccess::ReadOnly).fetches(&alone.bytes).await;
    assert_eq!((alone.downloads(), alone.asked("PUT"), alone.asked("GET")), (1, 0, 2), "the package, and a list");
}

/// Whose clocks differ by more than the age of a dead claim.
#[tokio::test(start_paused = true)]
async fn nodes_that_disagree_on_the_time_cost_no_time() {
    let fleet = Fleet::new();
    fleet.server.set_ahead(&fleet.nodes[0], 60 * S);
    let (took, _machines) = fleet.all_fetch((0..4).map(|number| fleet.machine(number)).collect()).await;
    assert!(took < FETCH + 3 * S, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_small_package_is_not_claimed() {
    let fleet = Fleet::new();
    let small = Arc::new(fleet.bytes[1..].to_vec());
    fleet.server.put(PATH, (*small).clone());
    fleet.machine(0).fetches(&small).await;
    let asked = fleet.server.paths();
    assert_eq!(asked, [format!("bucket/v1/{}", key(&small)), PATH.to_owned()]);
}

/// A thousand machines have died, or somebody has filled the bucket.
#[tokio::test(start_paused = true)]
async fn dead_claims_without_number_lead_to_few_requests() {
    let fleet = Fleet::new();
    let (other, machine) = (fleet.machine(0), fleet.machine(1));
    let claims = other.store.claims.as_ref().unwrap();
    let odd = ["owner-1".to_owned(), format!("owner-{}", "0".repeat(200)), "candidate-".to_owned()];
    let dead = (0..1000).map(|number| format!("{OWNER}{number:0NUMBER_LENGTH$x}"));
    for id in odd.iter().cloned().chain(dead) {
        claims.ask_for(ClaimRequest::Put(&format!("{}/{id}", key(&fleet.bytes)))).await.unwrap();
    }
    sleep(60 * S).await;
    machine.fetches(&fleet.bytes).await;
    sleep(60 * S).await;
    let lists = fleet.asked("GET") - 1;
    let own = 2;
    assert!((1..=lists * table::MAX_DEAD + own).contains(&fleet.asked("DELETE")), "{}", fleet.asked("DELETE"));
    let left = fleet.claims();
    assert!(odd.iter().all(|id| left.iter().any(|claim| claim.ends_with(&format!("/{id}")))), "objects of others");
    // The store takes no DELETE: what others have left is not tried again before the next list.
    fleet.server.refuse_writes("bucket/claims/");
    claims.claims_of(&key(&fleet.bytes)).await.unwrap();
    sleep(600 * S).await;
    assert!(fleet.asked("DELETE") <= (lists + 1) * table::MAX_DEAD + own);
    assert!(!claims.table.has_over());
}

/// The store fails for a moment when a claim is to be deleted.
#[tokio::test(start_paused = true)]
async fn a_claim_is_deleted_as_soon_as_the_store_takes_that() {
    let fleet = Fleet::new();
    let machine = fleet.machine(0);
    machine.fetches(&fleet.bytes).await;
    fleet.server.refuse_writes("bucket/claims/");
    sleep(60 * S).await;
    assert_eq!(fleet.claims().len(), 1);
    fleet.server.refuse_writes("nothing");
    sleep(400 * S).await;
    assert_eq!(fleet.claims(), Vec::<String>::new());
}
