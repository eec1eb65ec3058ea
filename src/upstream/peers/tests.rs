use tokio::time::advance;

use super::*;
use crate::upstream::Act;
use crate::upstream::health::HealthState;
use crate::upstream::scene::{DownloadScene, HALF, KEY, PATH, SIZE};
use crate::upstream::tier::MemberReport;

const S: Duration = Duration::from_secs(1);

fn wanted() -> Wanted {
    Wanted { key: KEY.to_owned(), path: PATH.to_owned(), size: SIZE as u64, mirror_time: Duration::ZERO }
}

fn report(scene: &DownloadScene, at: usize) -> MemberReport {
    scene.upstream.peer_reports()[at].clone()
}

/// Asks the first peer that is to be asked. `None`: there is none.
async fn ask(scene: &DownloadScene, offset: usize) -> Option<Option<UpstreamResponse>> {
    let (slot, url) = scene.upstream.sharers.peers().next(0, &wanted())?;
    Some(scene.upstream.sharers.peers().ask((slot, &url), &wanted(), offset as u64, &scene.metrics).await)
}

#[test]
fn a_request_names_the_package_and_a_binhost_that_is_not_shared_has_no_peers() {
    let binhost = |share| BinhostConfig {
        peers: vec!["http://u:p@peer.test:81/base".parse().unwrap()],
        share,
        ..BinhostConfig::of_urls(&["http://host.test".to_owned()])
    };
    let peers = Peers::new(&binhost(true)).unwrap();
    let odd = Wanted { path: "a/b c&d=1.gpkg.tar".to_owned(), ..wanted() };
    let (slot, url) = peers.next(0, &odd).unwrap();
    assert_eq!((slot, url.path()), (0, format!("/base/v1/blob/{KEY}").as_str()));
    let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    assert_eq!(pairs, [("fetch", "true"), ("path", odd.path.as_str())].map(|(k, v)| (k.to_owned(), v.to_owned())));
    assert!(peers.next(1, &odd).is_none());
    assert!(!peers.tier().display_url(0).contains("u:p"), "{}", peers.tier().display_url(0));
    assert!(Peers::new(&binhost(false)).unwrap().next(0, &odd).is_none());
}

#[tokio::test(start_paused = true)]
async fn an_absent_peer_is_left_out_longer_each_time_and_then_tried_once() {
    let scene = DownloadScene::new(1, 1);
    scene.peer_acts(0, std::iter::repeat_n(Act::Ignore, 3));
    let mut longest = 10 * S;
    for failures in 1..=3 {
        let began = Instant::now();
        assert!(ask(&scene, 0).await.unwrap().is_none());
        let took = began.elapsed();
        assert!(took >= HELD && took < HELD + S / 100, "{took:?}");
        let MemberReport { url, counts } = report(&scene, 0);
        assert_eq!((url.failures, url.standing, counts.misses), (failures, HealthState::BackingOff, 0));
        assert!(url.last_error.is_some_and(|(error, _)| error.contains("no data")));
        let rest = url.backs_off_for.unwrap();
        assert!(rest >= longest && rest <= longest.mul_f64(1.5), "{rest:?}");
        advance(rest - S / 1000).await;
        assert!(ask(&scene, 0).await.is_none(), "it is asked too early");
        advance(S / 1000).await;
        longest *= 2;
    }
    assert_eq!(scene.metrics.peer_failures.get(), 3);
    // Its turn is one download's; the others go on without it.
    let (slot, url) = scene.upstream.sharers.peers().next(0, &wanted()).unwrap();
    assert!(scene.upstream.sharers.peers().next(0, &wanted()).is_none());
    let answer = scene.upstream.sharers.peers().ask((slot, &url), &wanted(), 0, &scene.metrics).await;
    assert!(answer.is_some() && scene.upstream.sharers.peers().next(0, &wanted()).is_some());
    scene.upstream.sharers.peers().tier().note_served(0);
    assert_eq!((report(&scene, 0).url.failures, report(&scene, 0).counts.hits), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn the_next_peer_stands_in_for_one_that_rests() {
    let scene = DownloadScene::new(2, 1);
    scene.peer_acts(0, [Act::Ignore]);
    assert!(ask(&scene, 0).await.unwrap().is_none());
    assert!(ask(&scene, 0).await.unwrap().is_some());
    scene.assert_asked(&[("peer 0", 0), ("peer 1", 0)]);
    // A change of the network ends the rest.
    scene.upstream.network_changed();
    assert_eq!(scene.upstream.sharers.peers().next(0, &wanted()).unwrap().0, 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_lacks_a_package_is_asked_for_the_next_one() {
    let scene = DownloadScene::new(1, 1);
    let lacks = [404, 410, 416, 429, 500, 503];
    scene.peer_acts(0, lacks.map(Act::Status));
    for _ in lacks {
        assert!(ask(&scene, 0).await.unwrap().is_none());
    }
    let MemberReport { url, counts } = report(&scene, 0);
    assert_eq!((url.failures, url.standing, counts.misses, counts.hits), (0, HealthState::Healthy, 6, 0));
    assert_eq!((scene.metrics.peer_misses.get(), scene.metrics.peer_failures.get()), (6, 0));
    // Other statuses are those of a server that is none of ours, and a redirect leads anywhere.
    for status in [302, 403] {
        let scene = DownloadScene::new(1, 1);
        scene.peer_acts(0, [Act::Status(status)]);
        assert!(ask(&scene, 0).await.unwrap().is_none());
        assert_eq!(report(&scene, 0).url.standing, HealthState::BackingOff, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_makes_progress_is_waited_for() {
    let scene = DownloadScene::new(1, 1);
    // It waits for its turn there, then is fetched, and has news just in time.
    let times = |seconds: u64| seconds * 1000 / PACE.as_millis() as u64;
    let queue = (1..=times(25)).map(|other| format!("all-{other}"));
    let fetched = ["own-0".to_owned(), format!("own-{}", SIZE - 1)];
    let fetched = fetched.into_iter().flat_map(|own| std::iter::repeat_n(own, times(9) as usize));
    scene.peer_acts(0, queue.chain(fetched).map(Act::Fetching));
    let began = Instant::now();
    let answer = ask(&scene, 0).await.unwrap().unwrap();
    assert_eq!((answer.status(), answer.length()), (200, Some(SIZE as u64)));
    assert!(began.elapsed() >= S * 43, "{:?}", began.elapsed());
    assert_eq!(scene.asked().len() as u64, times(43) + 1);
    assert_eq!((report(&scene, 0).counts.hits, scene.metrics.peer_failures.get()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_peer_without_progress_is_left_after_a_while() {
    for act in [Act::Fetching("own-7".to_owned()), Act::Status(202)] {
        let scene = DownloadScene::new(1, 1);
        scene.peer_acts(0, std::iter::repeat_n(act, 1000));
        let began = Instant::now();
        assert!(ask(&scene, 0).await.unwrap().is_none());
        let took = began.elapsed();
        assert!(took >= STALL_TIMEOUT && took <= STALL_TIMEOUT + PACE, "{took:?}");
        let url = report(&scene, 0).url;
        assert_eq!((url.standing, url.failures), (HealthState::BackingOff, 1));
        assert!(ask(&scene, 0).await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_at_which_the_package_never_has_its_turn_is_left() {
    let scene = DownloadScene::new(1, 1);
    scene.peer_acts(0, (1..10_000).map(|other| Act::Fetching(format!("all-{other}"))));
    let began = Instant::now();
    assert!(ask(&scene, 0).await.unwrap().is_none());
    let (took, most) = (began.elapsed(), MAX_QUEUE + STALL_TIMEOUT);
    assert!(took >= most - PACE && took <= most + PACE, "{took:?}");
    assert_eq!(report(&scene, 0).url.failures, 1);
}

#[tokio::test(start_paused = true)]
async fn only_the_requested_part_of_the_right_size_is_taken() {
    let scene = DownloadScene::new(1, 1);
    let part = ask(&scene, HALF).await.unwrap().unwrap();
    assert_eq!((part.status(), part.length()), (206, Some(HALF as u64)));
    assert_eq!(part.content_range(), Some(format!("bytes {HALF}-{}/{SIZE}", SIZE - 1)));
    scene.peer_acts(0, [Act::Misplace]);
    assert!(ask(&scene, HALF).await.unwrap().is_none());
    let error = report(&scene, 0).url.last_error.unwrap().0;
    assert!(error.contains("wrong part"), "{error}");
    for size in [SIZE - 1, SIZE + 1] {
        let scene = DownloadScene::new(1, 1);
        scene.server.put(&format!("v1/blob/{KEY}"), vec![0; size]);
        assert!(ask(&scene, 0).await.unwrap().is_none());
        let error = report(&scene, 0).url.last_error.unwrap().0;
        assert!(error.contains(&format!("has {size} bytes")), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_served_wrong_bytes_is_not_asked_for_a_while() {
    let scene = DownloadScene::new(1, 1);
    let peers = scene.upstream.sharers.peers();
    peers.tier().note_bytes(0, 5, &scene.metrics);
    peers.tier().note_wrong(0, &scene.metrics);
    let MemberReport { url, counts } = report(&scene, 0);
    assert_eq!((url.standing, url.wrong, counts.bytes), (HealthState::Distrusted, 1, 5));
    assert_eq!((scene.metrics.peer_wrong.get(), scene.metrics.peer_bytes.get()), (1, 5));
    // That it served a package before does not change that.
    peers.tier().note_served(0);
    assert!(peers.next(0, &wanted()).is_none());
    scene.upstream.network_changed();
    assert!(peers.next(0, &wanted()).is_none());
    scene.upstream.allow_retries();
    assert!(peers.next(0, &wanted()).is_some());
}

/// Seconds after which a peer is left that reports this each second.
fn left_after(size: u64, report: impl Fn(u64) -> Option<String>) -> u64 {
    let began = Instant::now();
    let mut wait = Wait::new(size, began);
    (1..100_000).find(|second| !wait.goes_on(report(*second).as_deref(), began + Duration::from_secs(*second))).unwrap()
}

#[test]
fn only_the_progress_of_the_package_is_waited_for() {
    const SIZE: u64 = 10 << 20;
    assert_eq!(left_after(SIZE, |_| None), 10);
    assert_eq!(left_after(SIZE, |second| Some(second.to_string())), 10, "another form");
    // It begins once, and then has too little.
    assert_eq!(left_after(SIZE, |second| Some(format!("own-{second}"))), 11);
    assert_eq!(left_after(SIZE, |second| Some(format!("own-{}", second * 15_000))), 11);
    assert_eq!(left_after(SIZE, |second| Some(format!("own-{}", SIZE + second))), 10, "more than there is");
    assert_eq!(left_after(SIZE, |second| Some(format!("own-{}", SIZE - second))), 11, "less and less");
    // The last turn counts at 29 s.
    assert_eq!(left_after(SIZE, |second| Some(format!("all-{second}"))), 39);
    // All of it in 103 s, and nothing after that.
    assert_eq!(left_after(SIZE, |second| Some(format!("own-{}", SIZE.min(second * 102_800)))), 113);
    // However large the package is, at most 1 MiB/s slower than 120 s.
    assert_eq!(left_after(SIZE * 100, |second| Some(format!("own-{}", second * 200_000))), 1120);
}
