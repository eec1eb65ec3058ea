use std::pin::pin;

use super::*;
use crate::config::AccessKey;
use crate::upstream::health::HealthState;
use crate::upstream::scene::{DownloadScene, HALF, KEY, PATH, SIZE, read};
use crate::upstream::tier::{ProvedPackage, StoreFinding};
use crate::upstream::{Act, BodyFault, Event, ScriptedServer};

fn wanted(size: u64) -> Wanted {
    Wanted { key: KEY.to_owned(), path: PATH.to_owned(), size, mirror_time: Duration::ZERO }
}

fn store(config: ObjectStoreConfig) -> ObjectStore {
    ObjectStore::new(Arc::new(config), Arc::default()).unwrap().unwrap()
}

fn config(endpoints: &[&str]) -> ObjectStoreConfig {
    ObjectStoreConfig::of_endpoints(endpoints)
}

fn key() -> Option<AccessKey> {
    Some(AccessKey { id: "GK".to_owned(), secret: "hidden".to_owned(), token: None })
}

/// A store at these URLs that this machine writes into.
fn written(urls: &[String]) -> ObjectStore {
    store(ObjectStoreConfig { key: key(), ..ObjectStoreConfig::of_endpoints(urls) })
}

/// A verified package of so many zeros.
fn proved(size: u64) -> ProvedPackage {
    let file = tempfile::tempfile().unwrap();
    file.set_len(size).unwrap();
    let (md5, sha1, sha256) = ([1; 16], [2; 20], [3; 32]);
    ProvedPackage { key: KEY.to_owned(), size, md5, sha1, sha256, file: Arc::new(file) }
}

#[test]
fn an_object_has_one_name() {
    let url = |config: ObjectStoreConfig| store(config).next(0, &wanted(1)).unwrap().1.to_string();
    let plain = config(&["http://s:3900"]);
    assert_eq!(url(plain.clone()), format!("http://s:3900/bucket/v1/{KEY}"));
    let prefixed = ObjectStoreConfig { prefix: "a/b".to_owned(), ..config(&["http://s:3900/base/"]) };
    assert_eq!(url(prefixed), format!("http://s:3900/base/bucket/a/b/v1/{KEY}"));
    let of_host = ObjectStoreConfig { path_style: false, prefix: "a".to_owned(), ..config(&["https://s.test"]) };
    assert_eq!(url(of_host), format!("https://bucket.s.test/a/v1/{KEY}"));
    // A store takes no larger object in one piece.
    assert!(store(plain.clone()).next(0, &wanted(MAX_OBJECT)).is_some());
    assert!(store(plain).next(0, &wanted(MAX_OBJECT + 1)).is_none());
}

#[test]
fn requests_are_signed_where_there_is_a_key() {
    let url = "http://s/b/k".parse().unwrap();
    assert!(store(config(&["http://s"])).signed("GET", &url, Headers::new(), EMPTY).is_empty());
    let signing = written(&["http://s".to_owned()]);
    let headers = signing.signed("GET", &url, Headers::new(), EMPTY);
    let (_, said) = headers.iter().find(|(name, _)| *name == "authorization").unwrap();
    assert!(said.starts_with("AWS4-HMAC-SHA256 Credential=GK/") && said.contains("/garage/s3/"), "{said}");
    assert!(!format!("{signing:?}").contains("hidden"));
}

/// Reads the download, which must deliver the package.
async fn delivers(scene: &DownloadScene) -> &'static str {
    let mut stream = scene.body();
    let (bytes, _) = read(&mut stream).await.unwrap();
    assert!(bytes == DownloadScene::bytes(), "other bytes");
    stream.sharer().unwrap_or("mirror")
}

#[tokio::test(start_paused = true)]
async fn the_store_is_asked_after_the_peers_and_before_the_mirrors() {
    let scene = DownloadScene::with_store(1, 2, 1);
    scene.peer_acts(0, [Act::Status(404)]);
    assert_eq!(delivers(&scene).await, "object store");
    scene.assert_asked(&[("peer 0", 0), ("node 0", 0)]);
    assert_eq!((scene.metrics.object_store_hits.get(), scene.metrics.object_store_bytes.get()), (1, SIZE as u64));
    assert_eq!(scene.metrics.peer_misses.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_one_node_lacks_no_other_is_asked_for() {
    let scene = DownloadScene::with_store(0, 2, 1);
    scene.node_acts(0, [Act::Status(404)]);
    assert_eq!(delivers(&scene).await, "mirror");
    scene.assert_asked(&[("node 0", 0), ("mirror 0", 0)]);
    assert_eq!((scene.metrics.object_store_misses.get(), scene.metrics.object_store_failures.get()), (1, 0));
    assert_eq!(scene.nodes()[0].url.standing, HealthState::Healthy);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_fails_rests_and_the_next_one_is_asked() {
    for act in [403, 500, 503, 302, 429].map(Act::Status).into_iter().chain([Act::Ignore]) {
        let scene = DownloadScene::with_store(0, 2, 1);
        scene.node_acts(0, [act.clone()]);
        assert_eq!(delivers(&scene).await, "object store", "{act:?}");
        scene.assert_asked(&[("node 0", 0), ("node 1", 0)]);
        assert_eq!(scene.nodes()[0].url.standing, HealthState::BackingOff, "{act:?}");
        // The next package does not ask it.
        assert_eq!(delivers(&scene).await, "object store");
        assert_eq!(scene.asked().last().unwrap().0, "node 1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_takes_an_hour_to_say_why_it_fails_is_left_after_a_second() {
    for status in [404, 500] {
        let scene = DownloadScene::with_store(0, 2, 1);
        scene.node_acts(0, [Act::SlowError(status)]);
        let began = Instant::now();
        delivers(&scene).await;
        assert!(began.elapsed() < Duration::from_secs(3), "{status}: {:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_node_goes_on_in_the_middle_of_a_package() {
    let scene = DownloadScene::with_store(0, 2, 1);
    scene.node_acts(0, [Act::Break(HALF)]);
    assert_eq!(delivers(&scene).await, "object store");
    scene.assert_asked(&[("node 0", 0), ("node 1", HALF)]);
    assert_eq!((scene.metrics.resumes.get(), scene.metrics.object_store_failures.get()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn wrong_bytes_count_against_the_store_and_no_mirror() {
    let scene = DownloadScene::with_store(0, 2, 1);
    scene.node_acts(0, [Act::Wrong]);
    let mut stream = scene.body();
    assert!(read(&mut stream).await.unwrap().0 != DownloadScene::bytes());
    assert!(stream.reject(BodyFault::Url));
    assert_eq!(stream.next().await.unwrap(), Event::Restart);
    assert!(read(&mut stream).await.unwrap().0 == DownloadScene::bytes());
    // The other node has the same object.
    scene.assert_asked(&[("node 0", 0), ("mirror 0", 0)]);
    assert_eq!((scene.nodes()[0].url.standing, scene.nodes()[0].url.wrong), (HealthState::Distrusted, 1));
    assert_eq!((scene.metrics.object_store_wrong.get(), scene.upstream.url_reports()[0].wrong), (1, 0));
}

/// An object that is no sound package is as wrong at the binhost, or the node is at fault.
#[tokio::test(start_paused = true)]
async fn who_sent_an_unsound_package_shows_with_the_next_one() {
    for sound in [true, false] {
        let scene = DownloadScene::with_store(0, 1, 1);
        let mut stream = scene.body();
        read(&mut stream).await.unwrap();
        assert!(stream.reject(BodyFault::Undecided));
        assert_eq!((scene.nodes()[0].url.wrong, scene.metrics.object_store_wrong.get()), (0, 0));
        read(&mut stream).await.unwrap();
        scene.assert_asked(&[("node 0", 0), ("mirror 0", 0)]);
        if sound {
            let mut told = false;
            stream.proved(|| {
                told = true;
                None
            });
            assert!(told, "the object is to be repaired");
        } else {
            assert!(!stream.reject(BodyFault::Undecided), "nobody is left");
        }
        let state = if sound { HealthState::Distrusted } else { HealthState::Healthy };
        assert_eq!((scene.nodes()[0].url.standing, scene.nodes()[0].url.wrong), (state, u64::from(sound)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_package_that_was_built_wrongly_counts_against_nobody() {
    let scene = DownloadScene::with_store(0, 1, 1);
    let mut stream = scene.body();
    read(&mut stream).await.unwrap();
    assert!(stream.reject(BodyFault::Package));
    assert_eq!(scene.metrics.object_store_wrong.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_object_of_another_size_is_wrong() {
    for size in [SIZE - 1, SIZE + 1] {
        let scene = DownloadScene::with_store(0, 1, 1);
        scene.put_object(vec![0; size]);
        assert_eq!(delivers(&scene).await, "mirror");
        assert_eq!((scene.metrics.object_store_wrong.get(), scene.metrics.object_store_hits.get()), (1, 0));
    }
}

/// A node that has no bytes from the middle on: only an object of another size is wrong.
#[tokio::test(start_paused = true)]
async fn only_an_object_that_is_too_short_is_wrong_in_its_middle() {
    for (act, size, wrong) in [
        (Act::Unsatisfiable, SIZE, 0),
        (Act::Unsatisfiable, HALF, 1),
        (Act::Status(416), SIZE, 1),
        // It sends a part of a file of this size.
        (Act::Serve, SIZE + 1, 1),
        (Act::Misplace, SIZE, 0),
    ] {
        let scene = DownloadScene::with_store(0, 2, 1);
        scene.node_acts(0, [Act::Break(HALF)]);
        scene.node_acts(1, [act.clone()]);
        let mut stream = scene.body();
        assert!(matches!(stream.next().await.unwrap(), Event::Chunk(first) if first.len() == HALF));
        scene.put_object(vec![0; size]);
        while stream.next().await.unwrap() != Event::End {}
        scene.assert_asked(&[("node 0", 0), ("node 1", HALF), ("mirror 0", HALF)]);
        let state = if wrong > 0 { HealthState::Distrusted } else { HealthState::BackingOff };
        let node = &scene.nodes()[1].url;
        assert_eq!((node.standing, node.wrong), (state, wrong), "{act:?}, {size}");
    }
    let scene = DownloadScene::with_store(0, 1, 1);
    scene.node_acts(0, [Act::Unsatisfiable]);
    let (store, package) = (scene.store(), wanted(SIZE as u64));
    let (slot, url) = store.next(0, &package).unwrap();
    // No byte is missing after the last one.
    assert!(matches!(store.ask((slot, &url), &package, SIZE as u64).await, StoreAnswer::Failed));
}

#[tokio::test(start_paused = true)]
async fn a_rest_ends_with_a_change_of_the_network_and_on_request() {
    let scene = DownloadScene::with_store(0, 1, 1);
    scene.node_acts(0, [Act::Status(500), Act::Wrong]);
    assert_eq!(delivers(&scene).await, "mirror");
    scene.upstream.network_changed();
    let mut stream = scene.body();
    read(&mut stream).await.unwrap();
    stream.reject(BodyFault::Url);
    scene.upstream.network_changed();
    assert_eq!(delivers(&scene).await, "mirror", "it served wrong bytes, whatever the network");
    scene.upstream.allow_retries();
    assert_eq!(delivers(&scene).await, "object store");
}

/// A store of two nodes that this machine writes into, and the path of the package there.
fn two_nodes() -> (Arc<ScriptedServer>, [String; 2], ObjectStore, String) {
    let server = ScriptedServer::new();
    let hosts = [(); 2].map(|()| server.add_mirror());
    let store = written(&hosts.clone().map(|host| format!("http://{host}")));
    (server, hosts, store, format!("bucket/v1/{KEY}"))
}

/// Writes what is queued until the store has received so many requests. Returns how long that took.
async fn writes(store: &ObjectStore, server: &ScriptedServer, requests: usize) -> Duration {
    let began = Instant::now();
    tokio::select! {
        () = store.write(|| false) => panic!("it ends"),
        () = server.await_requests(requests) => began.elapsed(),
    }
}

/// The package that is being written stays on the disk as those do that wait.
#[tokio::test(start_paused = true)]
async fn the_package_that_is_written_counts_among_those_that_wait() {
    let (server, hosts, store, path) = two_nodes();
    server.act(&hosts[0], &path, [Act::Ignore]);
    let skipped = || store.metrics.object_store_skipped.get();
    store.proved(StoreFinding::Lacks, proved(3 << 29), None);
    let mut writing = pin!(store.write(|| false));
    tokio::select! {
        () = &mut writing => panic!("it ends"),
        () = server.await_requests(1) => {}
    }
    assert_eq!((store.waiting(), skipped()), (0, 0));
    store.proved(StoreFinding::Lacks, proved(1 << 30), None);
    assert_eq!((store.waiting(), skipped()), (0, 1), "together they have 2.5 GiB");
    store.proved(StoreFinding::Lacks, proved(1 << 29), None);
    assert_eq!((store.waiting(), skipped()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_takes_no_bytes_is_left_for_the_next_one() {
    const SIZE: u64 = 16 << 20;
    let (server, hosts, store, path) = two_nodes();
    server.act(&hosts[0], &path, [Act::Ignore]);
    for key in [KEY, "another"] {
        store.proved(StoreFinding::Lacks, ProvedPackage { key: key.to_owned(), ..proved(SIZE) }, None);
    }
    // The second package does not wait for it.
    let waited = writes(&store, &server, 3).await;
    assert_eq!(waited.as_secs(), 30);
    let asked: Vec<String> = server.requests().into_iter().map(|request| request.host).collect();
    assert_eq!(asked, [&hosts[0], &hosts[1], &hosts[1]].map(String::clone));
    assert_eq!((store.metrics.object_store_puts.get(), store.metrics.object_store_write_failures.get()), (1, 0));
    let nodes = store.nodes.writes.reports();
    let error = nodes[0].url.last_error.as_ref().unwrap();
    assert!(error.0.contains("no data for 30 s") && nodes[1].url.last_error.is_none(), "{nodes:?}");
    // It can be read all the same.
    assert_eq!(store.reports()[0].url.standing, HealthState::Healthy);
}

/// A node that fails while a wrong object is looked at: the next one is asked.
#[tokio::test(start_paused = true)]
async fn a_wrong_object_is_looked_at_where_a_node_answers() {
    let (server, hosts, store, path) = two_nodes();
    server.put(&path, b"wrong".to_vec());
    server.act(&hosts[0], &path, [Act::Ignore]);
    store.proved(StoreFinding::Wrong, proved(5), None);
    // It is looked at, and replaced.
    writes(&store, &server, 3).await;
    let asked: Vec<String> = server.requests().into_iter().map(|request| request.host).collect();
    assert_eq!(asked, [&hosts[0], &hosts[1], &hosts[1]].map(String::clone));
}
