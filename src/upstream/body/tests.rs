use tokio::time::advance;

use super::*;
use crate::config::BinhostConfig;
use crate::upstream::scene::{DownloadScene, HALF, KEY, PATH, SIZE, read};
use crate::upstream::{Act, HealthState, UrlReport};

const S: Duration = Duration::from_secs(1);

fn mirror(scene: &DownloadScene, at: usize) -> UrlReport {
    let all = scene.upstream.url_reports();
    all.into_iter().find(|report| report.url.contains(&scene.mirrors[at])).unwrap()
}

/// Reads the download, which must deliver the package. Returns how often it began again.
async fn delivers(stream: &mut BodyStream<'_>) -> usize {
    let (bytes, restarts) = read(stream).await.unwrap();
    assert!(bytes == DownloadScene::bytes(), "other bytes");
    restarts
}

#[tokio::test(start_paused = true)]
async fn a_peer_spares_the_mirrors() {
    let scene = DownloadScene::new(2, 1);
    scene.peer_acts(0, [Act::Status(404)]);
    let mut stream = scene.body();
    assert_eq!(delivers(&mut stream).await, 0);
    assert!(stream.is_of_sharer() && stream.sharer() == Some("peer") && stream.source().contains(&scene.peers[1]));
    scene.assert_asked(&[("peer 0", 0), ("peer 1", 0)]);
    let counts: Vec<_> = scene.upstream.peer_reports().into_iter().map(|report| report.counts.bytes).collect();
    assert_eq!((counts, scene.metrics.bytes_fetched.get()), (vec![0, SIZE as u64], SIZE as u64));
}

#[tokio::test(start_paused = true)]
async fn without_a_key_no_peer_is_asked() {
    let scene = DownloadScene::new(1, 1);
    let mut stream = scene.upstream.body(None, PATH, SIZE as u64).with_sharers(None, PATH);
    assert_eq!(delivers(&mut stream).await, 0);
    assert!(!stream.is_of_sharer() && stream.sharer().is_none() && stream.source().contains(&scene.mirrors[0]));
    scene.assert_asked(&[("mirror 0", 0)]);
}

#[tokio::test(start_paused = true)]
async fn mirrors_continue_where_a_peer_broke_off() {
    let scene = DownloadScene::new(1, 2);
    scene.peer_acts(0, [Act::Break(HALF)]);
    let mut stream = scene.body();
    let began = Instant::now();
    assert_eq!((delivers(&mut stream).await, began.elapsed()), (0, Duration::ZERO));
    scene.assert_asked(&[("peer 0", 0), ("mirror 0", HALF)]);
    assert!(stream.is_of_sharer() && stream.sharer().is_none());
    assert_eq!((scene.metrics.resumes.get(), scene.metrics.peer_failures.get()), (1, 1));
    assert_eq!(scene.upstream.peer_reports()[0].url.standing, HealthState::BackingOff);
    assert_eq!((mirror(&scene, 0).failures, scene.metrics.mirror_switches.get()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn another_peer_continues_before_a_mirror() {
    let scene = DownloadScene::new(2, 1);
    scene.peer_acts(0, [Act::Break(HALF)]);
    let mut stream = scene.body();
    assert_eq!(delivers(&mut stream).await, 0);
    scene.assert_asked(&[("peer 0", 0), ("peer 1", HALF)]);
    // Either of them may be at fault.
    assert!(stream.reject(BodyFault::Url));
    assert_eq!(scene.metrics.peer_wrong.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn wrong_bytes_of_a_peer_count_against_it_and_against_no_mirror() {
    let scene = DownloadScene::new(2, 1);
    scene.peer_acts(0, [Act::Wrong]);
    let mut stream = scene.body();
    assert!(read(&mut stream).await.unwrap().0.iter().all(|byte| *byte == b'x'));
    assert!(stream.reject(BodyFault::Url));
    assert_eq!(stream.next().await.unwrap(), Event::Restart);
    assert_eq!(delivers(&mut stream).await, 0);
    // The other peer is not asked: what is verified next has to come from a mirror.
    scene.assert_asked(&[("peer 0", 0), ("mirror 0", 0)]);
    assert!(!stream.is_of_sharer());
    let peers = scene.upstream.peer_reports();
    assert_eq!((peers[0].url.standing, peers[0].url.wrong), (HealthState::Distrusted, 1));
    assert_eq!((peers[1].url.standing, peers[1].url.wrong), (HealthState::Healthy, 0));
    assert_eq!((mirror(&scene, 0).wrong, mirror(&scene, 0).standing), (0, HealthState::Healthy));
}

#[tokio::test(start_paused = true)]
async fn mirrors_send_the_whole_after_a_peer_and_a_mirror_were_wrong_together() {
    let scene = DownloadScene::new(1, 1);
    scene.peer_acts(0, [Act::Break(HALF)]);
    let mut stream = scene.body();
    delivers(&mut stream).await;
    assert!(stream.reject(BodyFault::Url));
    assert_eq!(delivers(&mut stream).await, 1);
    scene.assert_asked(&[("peer 0", 0), ("mirror 0", HALF), ("mirror 0", 0)]);
    assert_eq!((scene.upstream.peer_reports()[0].url.wrong, mirror(&scene, 0).wrong), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_package_that_was_built_wrongly_is_nobodys_fault() {
    let scene = DownloadScene::new(1, 1);
    let mut stream = scene.body();
    delivers(&mut stream).await;
    assert!(stream.reject(BodyFault::Package));
    assert_eq!(delivers(&mut stream).await, 1);
    // The only mirror has been used.
    assert!(!stream.reject(BodyFault::Package));
    assert_eq!((scene.upstream.peer_reports()[0].url.wrong, mirror(&scene, 0).wrong), (0, 0));
    assert_eq!(scene.metrics.peer_wrong.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_peers_took_is_not_the_mirrors_time() {
    let scene = DownloadScene::new(4, 1);
    // Together they take nearly all the time that a download may take without a new byte.
    (0..4).for_each(|at| scene.peer_acts(at, std::iter::repeat_n(Act::Fetching("own-0".to_owned()), 1000)));
    scene.mirror_acts(0, [Act::Ignore]);
    let began = Instant::now();
    assert_eq!(delivers(&mut scene.body()).await, 0);
    assert!(began.elapsed() > NO_PROGRESS_BUDGET, "{:?}", began.elapsed());
    let of_mirror = scene.asked().iter().filter(|(who, _)| who == "mirror 0").count();
    assert_eq!(of_mirror, 2, "its second try is the one that succeeds");
}

#[tokio::test(start_paused = true)]
async fn bytes_that_the_caller_lost_come_from_the_same_mirror_again() {
    let scene = DownloadScene::new(0, 2);
    scene.mirror_acts(0, [Act::Hold(HALF)]);
    let mut stream = scene.body();
    assert!(matches!(stream.next().await.unwrap(), Event::Chunk(first) if first.len() == HALF));
    stream.start_over();
    assert_eq!(delivers(&mut stream).await, 1);
    scene.assert_asked(&[("mirror 0", 0), ("mirror 0", 0)]);
    assert_eq!((mirror(&scene, 0).failures, scene.metrics.resumes.get()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_was_kept_waiting_has_not_failed() {
    let scene = DownloadScene::new(1, 1);
    scene.peer_acts(0, [Act::Break(HALF)]);
    let mut stream = scene.body();
    assert!(matches!(stream.next().await.unwrap(), Event::Chunk(_)));
    stream.kept_waiting(NEGLECTED);
    while stream.next().await.unwrap() != Event::End {}
    scene.assert_asked(&[("peer 0", 0), ("mirror 0", HALF)]);
    assert_eq!(scene.upstream.peer_reports()[0].url.failures, 0);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_has_not_changed_is_continued() {
    let scene = DownloadScene::new(0, 1);
    scene.mirror_acts(0, [Act::Break(HALF)]);
    assert_eq!(delivers(&mut scene.body()).await, 0);
    scene.assert_asked(&[("mirror 0", 0), ("mirror 0", HALF)]);
    assert_eq!((scene.metrics.resumes.get(), scene.metrics.retries.get()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_file_that_has_changed_begins_again() {
    let scene = DownloadScene::new(0, 1);
    scene.server.put(PATH, vec![b'o'; SIZE]);
    scene.mirror_acts(0, [Act::Break(HALF), Act::Break(HALF / 2)]);
    let mut stream = scene.body();
    for length in [HALF, HALF / 2] {
        let Event::Chunk(bytes) = stream.next().await.unwrap() else { panic!("no bytes") };
        assert_eq!(bytes, vec![b'o'; length]);
    }
    // The server has another ETag now, and answers the request for a part with the whole file.
    scene.server.put(PATH, DownloadScene::bytes());
    assert_eq!(delivers(&mut stream).await, 1);
    scene.assert_asked(&[("mirror 0", 0), ("mirror 0", HALF), ("mirror 0", HALF + HALF / 2)]);
    assert_eq!(scene.metrics.resumes.get(), 1);
    // What it sent last is not put together from two connections: the mirror itself is at fault.
    assert!(!stream.reject(BodyFault::Url));
    assert_eq!(mirror(&scene, 0).wrong, 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_continues_wrongly_is_asked_for_the_whole() {
    for act in [Act::Misplace, Act::Status(416)] {
        let scene = DownloadScene::new(0, 2);
        scene.mirror_acts(0, [Act::Break(HALF)]);
        scene.mirror_acts(1, [act.clone()]);
        assert_eq!(delivers(&mut scene.body()).await, 1, "{act:?}");
        scene.assert_asked(&[("mirror 0", 0), ("mirror 1", HALF), ("mirror 1", 0)]);
        assert_eq!((mirror(&scene, 1).failures, scene.metrics.resumes.get()), (0, 0), "{act:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn mirrors_that_were_wrong_together_send_the_whole_once_each() {
    let scene = DownloadScene::new(0, 2);
    scene.mirror_acts(0, [Act::Break(HALF)]);
    scene.mirror_acts(1, [Act::Wrong, Act::Wrong]);
    let mut stream = scene.body();
    read(&mut stream).await.unwrap();
    // Which of them it was is unknown, so it counts against neither.
    assert!(stream.reject(BodyFault::Url));
    assert_eq!([0, 1].map(|at| mirror(&scene, at).wrong), [0, 0]);
    read(&mut stream).await.unwrap();
    assert!(stream.reject(BodyFault::Url));
    assert_eq!([0, 1].map(|at| mirror(&scene, at).wrong), [0, 1]);
    assert_eq!(delivers(&mut stream).await, 1);
    scene.assert_asked(&[("mirror 0", 0), ("mirror 1", HALF), ("mirror 1", 0), ("mirror 0", 0)]);
    assert!(!stream.reject(BodyFault::Url), "each was asked for the whole");
}

#[tokio::test(start_paused = true)]
async fn a_file_of_another_size_contradicts_the_index() {
    let scene = DownloadScene::new(0, 1);
    scene.server.put(PATH, vec![0; SIZE - 1]);
    let mut stream = scene.body();
    let error = stream.next().await.unwrap_err();
    assert!(matches!(error, UpstreamError::SizeMismatch { got, .. } if got == SIZE as u64 - 1), "{error}");
    assert!(error.contradicts_index());
    scene.assert_asked(&[("mirror 0", 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_was_kept_waiting_has_not_failed() {
    for (wait, failures) in [(NEGLECTED, 0), (NEGLECTED - S / 1000, 1)] {
        let scene = DownloadScene::new(0, 2);
        scene.mirror_acts(0, [Act::Break(HALF)]);
        let mut stream = scene.body();
        assert!(matches!(stream.next().await.unwrap(), Event::Chunk(_)));
        stream.kept_waiting(wait);
        while stream.next().await.unwrap() != Event::End {}
        assert_eq!(mirror(&scene, 0).failures, failures);
        assert_eq!(scene.asked()[1], (format!("mirror {failures}"), HALF));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_mirror_is_left_for_another_one_without_blame() {
    let scene = DownloadScene::new(0, 2);
    // 400 bytes a second.
    scene.mirror_acts(0, [Act::Drip(S * 500)]);
    let began = Instant::now();
    assert_eq!(delivers(&mut scene.body()).await, 0);
    assert!(began.elapsed() < RATE_WINDOW, "{:?}", began.elapsed());
    let asked = scene.asked();
    assert!(asked.len() == 2 && asked[1].0 == "mirror 1" && asked[1].1 > 0, "{asked:?}");
    assert_eq!((mirror(&scene, 0).failures, scene.metrics.mirror_switches.get()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn the_only_mirror_must_keep_up_a_minimum_rate() {
    let scene = DownloadScene::new(0, 1);
    scene.mirror_acts(0, std::iter::repeat_n(Act::Drip(S * 500), 10));
    let began = Instant::now();
    let error = read(&mut scene.body()).await.unwrap_err();
    assert!(matches!(error, UpstreamError::TooSlow { .. }), "{error}");
    assert!(began.elapsed() > RATE_WINDOW * 2, "it is tried again: {:?}", began.elapsed());
    assert_eq!(mirror(&scene, 0).standing, HealthState::BackingOff);
}

#[tokio::test(start_paused = true)]
async fn another_stream_continues_what_one_has_received() {
    let scene = DownloadScene::new(0, 1);
    scene.mirror_acts(0, [Act::Hold(HALF)]);
    let mut stream = scene.body();
    let Event::Chunk(first) = stream.next().await.unwrap() else { panic!("no bytes") };
    let part = stream.into_part().unwrap();
    advance(S * 60).await;
    let mut next = scene.body();
    next.go_on(part, first.len() as u64);
    let (rest, restarts) = read(&mut next).await.unwrap();
    assert!(restarts == 0 && [&first[..], &rest].concat() == DownloadScene::bytes());
    scene.assert_asked(&[("mirror 0", 0), ("mirror 0", HALF)]);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_the_caller_lost_come_from_the_same_peer_again() {
    let scene = DownloadScene::new(2, 1);
    scene.peer_acts(0, [Act::Hold(HALF)]);
    let mut stream = scene.body();
    assert!(matches!(stream.next().await.unwrap(), Event::Chunk(first) if first.len() == HALF));
    stream.start_over();
    assert_eq!(delivers(&mut stream).await, 1);
    scene.assert_asked(&[("peer 0", 0), ("peer 0", 0)]);
    assert_eq!((scene.metrics.peer_failures.get(), scene.metrics.resumes.get()), (0, 0));
}

/// A download that was interrupted between its last byte and its end has nothing to request.
#[tokio::test(start_paused = true)]
async fn a_stream_that_continues_with_all_bytes_asks_nobody() {
    for peers in [0, 1] {
        let scene = DownloadScene::new(peers, 1);
        let mut stream = scene.body();
        assert!(matches!(stream.next().await.unwrap(), Event::Chunk(all) if all.len() == SIZE));
        let (source, part) = (stream.source(), stream.into_part().unwrap());
        let mut next = scene.body();
        next.go_on(part, SIZE as u64);
        assert_eq!(next.next().await.unwrap(), Event::End);
        assert_eq!(scene.asked().len(), 1);
        let of = if peers > 0 { &scene.peers[0] } else { &scene.mirrors[0] };
        assert!(source.contains(of) && next.source().contains(of), "{source}, {}", next.source());
        // They prove wrong: the mirror sends the whole.
        assert!(next.reject(BodyFault::Undecided));
        assert_eq!(delivers(&mut next).await, 1);
        assert_eq!(scene.asked().last().unwrap(), &("mirror 0".to_owned(), 0));
    }
}

#[tokio::test(start_paused = true)]
async fn no_peer_is_asked_for_a_package_in_a_local_directory() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("a")).unwrap();
    std::fs::write(directory.path().join(PATH), DownloadScene::bytes()).unwrap();
    let scene = DownloadScene::new(1, 1);
    let (local, far) = (format!("file://{}", directory.path().display()), format!("http://{}", scene.mirrors[0]));
    for (urls, asked) in [([&local, &far], vec![]), ([&far, &local], vec![("peer 0", 0)])] {
        let binhost = BinhostConfig {
            peers: vec![format!("http://{}", scene.peers[0]).parse().unwrap()],
            ..BinhostConfig::of_urls(&urls.map(String::clone))
        };
        let upstream = Upstream::new(binhost, std::sync::Arc::default(), None).unwrap();
        let mut stream = upstream.body(None, PATH, SIZE as u64).with_sharers(Some(KEY.to_owned()), PATH);
        assert_eq!(delivers(&mut stream).await, 0);
        scene.assert_asked(&asked);
    }
}
