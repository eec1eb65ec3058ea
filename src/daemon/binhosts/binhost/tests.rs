//! Refreshes of one binhost, whose mirrors answer as the test says, by a clock that is paused.

use std::task::{Context, Poll};

use tokio::time::Instant;

use super::super::scene::{Scene, TIME, gzip, index, listed};
use super::*;
use crate::sys::seconds_now;
use crate::upstream::{Answer, HealthState, ScriptedBinhost};

/// The error of a refresh that has to fail.
async fn fails(binhost: &mut Binhost) -> String {
    format!("{:#}", binhost.refresh(Order::Forward).await.unwrap_err())
}

async fn refreshes(binhost: &mut Binhost) -> RefreshOutcome {
    binhost.refresh(Order::Forward).await.unwrap()
}

/// The files of the binhost in the cache that have bytes, with these.
fn stored(binhost: &Binhost) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(binhost.stored.path().parent().unwrap()).unwrap().map(|entry| entry.unwrap());
    let files = entries.filter(|entry| entry.metadata().unwrap().is_file());
    let mut all: Vec<_> = files
        .map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap()))
        .filter(|(_, bytes)| !bytes.is_empty())
        .collect();
    all.sort();
    all
}

/// Whether a mirror is distrusted because of an index from the future.
fn is_blamed(binhost: &Binhost, mirror: &ScriptedBinhost) -> bool {
    let all = binhost.remote.upstream.url_reports();
    let report = all.iter().find(|report| report.url.contains(&mirror.url())).unwrap();
    let reason = report.distrusted_for.as_deref().unwrap_or_default();
    report.standing == HealthState::Distrusted && reason.contains("from the future")
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_index_is_not_fetched_again() {
    let scene = Scene::with_index(&index(TIME, &["one-1"]));
    let mut binhost = scene.start().await;
    assert_eq!(refreshes(&mut binhost).await, RefreshOutcome::Changed);
    let before = stored(&binhost);
    for _ in 0..3 {
        assert_eq!(refreshes(&mut binhost).await, RefreshOutcome::Unmodified);
    }
    let asked: Vec<_> = scene.mirrors[0].asked().into_iter().map(|asked| (asked.path, asked.conditional)).collect();
    let path = || "/Packages.gz".to_owned();
    assert_eq!(asked, [(path(), false), (path(), true), (path(), true), (path(), true)]);
    assert!(stored(&binhost) == before, "what has not changed is not written");
    // The next daemon asks for changes only, too.
    let mut next = scene.start().await;
    assert_eq!((refreshes(&mut next).await, listed(&next)), (RefreshOutcome::Unmodified, vec!["one-1".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_index_is_known_by_its_bytes_where_the_binhost_cannot_say_so() {
    let scene = Scene::new(1, &[]);
    scene.answer(0, Answer::Whole(gzip(index(TIME, &["one-1"]).as_bytes())));
    let mut binhost = scene.start().await;
    assert_eq!(refreshes(&mut binhost).await, RefreshOutcome::Changed);
    for _ in 0..3 {
        assert_eq!(refreshes(&mut binhost).await, RefreshOutcome::Unmodified);
    }
    assert!(scene.mirrors[0].asked().iter().all(|asked| !asked.conditional));
}

#[tokio::test(start_paused = true)]
async fn an_index_may_be_plain_or_compressed_under_either_name() {
    let text = index(TIME, &["one-1"]).into_bytes();
    for (name, bytes) in [
        ("Packages", text.clone()),
        ("Packages", gzip(&text)),
        ("Packages.gz", text.clone()),
        ("Packages.gz", gzip(&text)),
        // Members one after the other, as `cat` and parallel compressors make them.
        ("Packages.gz", [gzip(&text[..50]), gzip(&text[50..])].concat()),
    ] {
        let scene = Scene::new(1, &[]);
        scene.mirrors[0].answer(name, Answer::File(bytes));
        let mut binhost = scene.start().await;
        assert_eq!((refreshes(&mut binhost).await, listed(&binhost).len()), (RefreshOutcome::Changed, 1), "{name}");
        assert_eq!(refreshes(&mut binhost).await, RefreshOutcome::Unmodified);
        assert!(scene.mirrors[0].asked().last().is_some_and(|asked| asked.conditional), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_index_leaves_the_last_good_one() {
    let new = index(TIME + 1, &["two-1"]);
    let compressed = gzip(new.as_bytes());
    let file = |text: &str| Answer::File(gzip(text.as_bytes()));
    let cut = |at: usize| Answer::File(compressed[..at].to_vec());
    let mut flipped = compressed.clone();
    flipped[60] ^= 1;
    for (answer, error) in [
        (Answer::File(b"<!DOCTYPE html>\n<html>404: not here</html>\n".to_vec()), "<!DOCTYPE html>"),
        (Answer::File(Vec::new()), "not a Packages index"),
        (Answer::File((0..20_000_u32).map(|n| ((n * n) >> 3) as u8).collect()), "not a Packages index"),
        (Answer::Cut(compressed.clone(), 100), "error"),
        (cut(compressed.len() / 2), "damaged or cut short"),
        (cut(compressed.len() - 3), "damaged or cut short"),
        (cut(5), "damaged or cut short"),
        (Answer::File([&compressed[..], b"garbage"].concat()), "damaged or cut short"),
        (Answer::File(flipped), "damaged or cut short"),
        (file(&new.replace("VERSION: 0", "VERSION: 1")), "VERSION 1"),
        (file(&new.replace("VERSION: 0\n", "")), "no usable VERSION"),
        (file(&format!("ARCH: {}\n{new}", "x".repeat(10 << 20))), "header is larger"),
        (Answer::Status(500), "HTTP status 500"),
        (Answer::Status(403), "HTTP status 403"),
    ] {
        let scene = Scene::with_index(&index(TIME, &["one-1"]));
        let mut binhost = scene.start().await;
        refreshes(&mut binhost).await;
        let before = stored(&binhost);
        scene.answer(0, answer.clone());
        let said = fails(&mut binhost).await;
        assert!(said.contains(error), "{answer:?}: {said}");
        assert_eq!((listed(&binhost), stored(&binhost) == before), (vec!["one-1".to_owned()], true), "{answer:?}");
        assert_eq!(binhost.last_refresh.error.as_deref(), Some(&*said));
        scene.publish(&new);
        assert_eq!(refreshes(&mut binhost).await, RefreshOutcome::Changed);
        assert_eq!((listed(&binhost), &binhost.last_refresh.error), (vec!["two-1".to_owned()], &None));
    }
}

#[tokio::test(start_paused = true)]
async fn the_error_of_the_plain_index_is_told() {
    let scene = Scene::new(1, &[]);
    scene.answer(0, Answer::Status(404));
    let mut binhost = scene.start().await;
    scene.mirrors[0].answer("Packages", Answer::Status(500));
    assert!(fails(&mut binhost).await.contains("/Packages: HTTP status 500"));
    // Where there is neither, the compressed one is missing.
    scene.mirrors[0].answer("Packages", Answer::Status(410));
    assert!(fails(&mut binhost).await.contains("/Packages.gz: HTTP status 404"));
}

#[tokio::test(start_paused = true)]
async fn an_index_that_is_too_large_leaves_the_last_good_one() {
    let scene = Scene::new(1, &[("max-index", "4K")]);
    let one = index(TIME, &["one-1"]);
    scene.publish(&one);
    let mut binhost = scene.start().await;
    refreshes(&mut binhost).await;
    // 4 KiB are 4 entries, and 682 bytes of PATHs.
    let many = index(TIME + 1, &["a-1", "b-1", "c-1", "d-1", "e-1"]);
    let long = format!("app-misc/{}/{}", "d".repeat(250), "n".repeat(250));
    let longer = index(TIME + 1, &["x-1", "y-1"]).replace("app-misc/x-1.gpkg", &format!("{long}x"));
    let longer = longer.replace("app-misc/y-1.gpkg", &format!("{long}y"));
    for (text, reason) in [
        (format!("X: {}\n{one}", "y".repeat(4096)), "the index is larger than 4096 bytes"),
        (many, "the index has more than 4 entries"),
        (longer, "the PATHs of the index have more than 682 bytes together"),
    ] {
        scene.publish(&text);
        let said = fails(&mut binhost).await;
        assert!(said.contains(&format!("{reason}; if that is right, raise max-index")), "{said}");
        assert_eq!(listed(&binhost), ["one-1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_older_index_is_refused_until_the_administrator_accepts_it() {
    let scene = Scene::with_index(&index(TIME, &["one-1"]));
    let mut binhost = scene.start().await;
    refreshes(&mut binhost).await;
    scene.publish(&index(TIME - 60, &["old-1"]));
    let since = {
        assert!(fails(&mut binhost).await.contains("the index is older (TIMESTAMP 1759999940)"));
        binhost.last_refresh.older_since.unwrap()
    };
    assert!(seconds_now().abs_diff(since) < 60, "{since}");
    // The next daemon knows it, also where the stored index is lost.
    let mut next = scene.start().await;
    assert!(fails(&mut next).await.contains("the index is older"));
    assert_eq!((listed(&next), next.last_refresh.older_since), (vec!["one-1".to_owned()], Some(since)));
    fs::remove_file(next.stored.path()).unwrap();
    let mut next = scene.start().await;
    assert!(fails(&mut next).await.contains("the index is older") && listed(&next).is_empty());

    assert_eq!(binhost.refresh(Order::Any).await.unwrap(), RefreshOutcome::Changed);
    assert_eq!((listed(&binhost), binhost.last_refresh.older_since), (vec!["old-1".to_owned()], None));
}

#[tokio::test(start_paused = true)]
async fn a_mirror_from_the_future_is_blamed_and_the_next_one_asked() {
    let scene = Scene::new(2, &[]);
    scene.publish(&index(TIME, &["one-1"]));
    let mut binhost = scene.start().await;
    refreshes(&mut binhost).await;
    scene.answer(0, Answer::File(gzip(index(i64::MAX, &["lie-1"]).as_bytes())));
    scene.answer(1, Answer::File(gzip(index(TIME + 1, &["two-1"]).as_bytes())));
    assert_eq!(refreshes(&mut binhost).await, RefreshOutcome::Changed);
    assert_eq!(listed(&binhost), ["two-1"]);
    assert!(is_blamed(&binhost, &scene.mirrors[0]) && !is_blamed(&binhost, &scene.mirrors[1]));
    // The administrator's leave to go back is none to go ahead.
    let alone = Scene::with_index(&index(i64::MAX, &["lie-1"]));
    let mut binhost = alone.start().await;
    let error = binhost.refresh(Order::Any).await.unwrap_err();
    assert!(format!("{error:#}").contains("TIMESTAMP 9223372036854775807 is more than 24 h ahead"), "{error:#}");
    // A day is what clocks may differ by.
    for (hours, accepted) in [(25, false), (23, true)] {
        alone.publish(&index(seconds_now().cast_signed() + hours * 3600, &["new-1"]));
        assert_eq!(binhost.refresh(Order::Forward).await.is_ok(), accepted, "{hours}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_binhost_that_does_not_answer_keeps_its_index() {
    let scene = Scene::new(1, &[("offline", "hide")]);
    scene.publish(&index(TIME, &["one-1"]));
    let mut binhost = scene.start().await;
    refreshes(&mut binhost).await;
    for answer in [Answer::Status(503), Answer::Silence] {
        scene.answer(0, answer.clone());
        let (before, start) = (scene.mirrors[0].asked().len(), Instant::now());
        fails(&mut binhost).await;
        assert!(binhost.unreachable && binhost.hides(), "{answer:?}");
        assert_eq!(listed(&binhost), ["one-1"]);
        let asked: Vec<Duration> =
            scene.mirrors[0].asked()[before..].iter().map(|asked| asked.at.duration_since(start)).collect();
        assert_eq!(asked.len(), 3, "{answer:?}");
        // Each wait is twice the one before, and differs by half of that; a silence takes 10 to 12
        // s.
        let silence = if matches!(answer, Answer::Silence) { 10_000..=12_000 } else { 0..=0 };
        for (pause, wait) in asked.windows(2).zip([250, 500]) {
            let pause = (pause[1] - pause[0]).as_millis();
            let (least, most) = (silence.start() + wait / 2, silence.end() + wait * 3 / 2 + 2);
            assert!((least..=most).contains(&pause), "{answer:?}: {asked:?}");
        }
        // The next daemon begins with the stored index.
        assert_eq!(listed(&scene.start().await), ["one-1"]);
    }
    scene.publish(&index(TIME, &["one-1"]));
    assert_eq!(refreshes(&mut binhost).await, RefreshOutcome::Changed, "its packages are shown again");
    assert!(!binhost.unreachable);
    // One that has no index any more is there.
    scene.answer(0, Answer::Status(404));
    fails(&mut binhost).await;
    assert!(!binhost.unreachable && !binhost.hides());
}

#[tokio::test(start_paused = true)]
async fn an_index_that_trickles_in_is_given_up() {
    let scene = Scene::with_index(&index(TIME, &["one-1"]));
    let mut binhost = scene.start().await;
    refreshes(&mut binhost).await;
    scene.answer(0, Answer::Trickle(Duration::from_secs(5)));
    let start = Instant::now();
    let said = fails(&mut binhost).await;
    assert!(said.contains("no index after 15 min"), "{said}");
    assert_eq!(start.elapsed().as_secs(), REFRESH_BUDGET.as_secs());
    assert_eq!((listed(&binhost), stored(&binhost).len()), (vec!["one-1".to_owned()], 2), "what came is removed");
    // A part of what was broken off may still be written, so the next one goes to another file.
    drop(binhost.stored.incoming().unwrap());
    assert!(binhost.stored.path().with_file_name("Packages.new.1").exists());
    scene.publish(&index(TIME + 1, &["two-1"]));
    assert_eq!(refreshes(&mut binhost).await, RefreshOutcome::Changed);
    assert_eq!(listed(&binhost), ["two-1"]);
}

#[tokio::test(start_paused = true)]
async fn the_next_mirror_is_asked_at_once() {
    let scene = Scene::new(2, &[]);
    scene.answer(0, Answer::Status(503));
    scene.answer(1, Answer::File(gzip(index(TIME, &["one-1"]).as_bytes())));
    let mut binhost = scene.start().await;
    let start = Instant::now();
    refreshes(&mut binhost).await;
    assert_eq!((listed(&binhost), start.elapsed()), (vec!["one-1".to_owned()], Duration::ZERO));
    assert_eq!(scene.mirrors.iter().map(|mirror| mirror.asked().len()).collect::<Vec<_>>(), [1, 1]);
}

/// What one mirror says otherwise than another: of the package, or in the header.
const LIES: [(&str, &str, &str); 21] = [
    ("entry", "BDEPEND", "app-misc/evil"),
    ("entry", "BUILD_TIME", "1"),
    ("entry", "CHOST", "evil"),
    ("entry", "DEFINED_PHASES", "evil"),
    ("entry", "DEPEND", "app-misc/evil"),
    ("entry", "EAPI", "7"),
    ("entry", "IUSE", "evil"),
    ("entry", "KEYWORDS", "evil"),
    ("entry", "LICENSE", "evil"),
    ("entry", "PROVIDES", "x86_64: evil.so"),
    ("entry", "RDEPEND", "app-misc/evil"),
    ("entry", "REPO", "evil"),
    ("entry", "repository", "evil"),
    ("entry", "REQUIRES", "x86_64: evil.so"),
    ("entry", "RESTRICT", "evil"),
    ("entry", "SLOT", "evil"),
    ("entry", "USE", "evil"),
    ("header", "CHOST", "evil"),
    ("header", "REPO", "evil"),
    ("header", "IUSE_IMPLICIT", "evil"),
    ("header", "USE_EXPAND", "EVIL"),
];

#[tokio::test(start_paused = true)]
async fn one_mirror_alone_changes_nothing_that_is_said_of_a_package() {
    let scene = Scene::new(2, &[("quorum", "2")]);
    let names = ["plain-1", "target-1"];
    scene.publish(&index(TIME, &names));
    let mut binhost = scene.start().await;
    refreshes(&mut binhost).await;
    assert_eq!(binhost.votes.disputed().len(), 0);
    for (timestamp, (place, key, value)) in (TIME + 1..).zip(LIES) {
        let truth = index(timestamp, &names);
        let lie = match place {
            // The last stanza is the target's.
            "entry" => format!("{}\n{key}: {value}\n\n", truth.trim_end()),
            _ => truth.replacen("VERSION: 0\n", &format!("{key}: {value}\nVERSION: 0\n"), 1),
        };
        scene.publish(&truth);
        scene.answer(0, Answer::File(gzip(lie.as_bytes())));
        refreshes(&mut binhost).await;
        let current = Arc::clone(&binhost.stored.current().unwrap().index);
        let target = current.records().iter().find(|record| current.path(record).contains("target")).unwrap().id;
        let all = if place == "entry" { 1 } else { 2 };
        assert_eq!((binhost.votes.disputed().len(), binhost.votes.disputed().contains(&target)), (all, true), "{key}");
    }
    // What decides nothing may differ.
    let truth = index(TIME + 50, &names);
    scene.publish(&truth);
    scene.answer(0, Answer::File(gzip(truth.replace("SIZE: ", "DESC: other\nSIZE: ").as_bytes())));
    refreshes(&mut binhost).await;
    assert_eq!(binhost.votes.disputed().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_is_silent_keeps_its_last_vote() {
    let scene = Scene::new(2, &[("quorum", "2")]);
    scene.publish(&index(TIME, &["one-1", "two-1"]));
    let mut binhost = scene.start().await;
    refreshes(&mut binhost).await;
    scene.publish(&index(TIME + 1, &["one-1", "new-1"]));
    scene.answer(1, Answer::Silence);
    refreshes(&mut binhost).await;
    assert_eq!(
        (listed(&binhost).len(), binhost.votes.disputed().len()),
        (2, 1),
        "the other one has not said anything of the new one"
    );
    // Votes outlive a restart.
    assert_eq!(scene.start().await.votes.disputed().len(), 1);
    // One from the future does not count, and costs the last one nothing.
    let tomorrow = seconds_now().cast_signed() + 25 * 3600;
    scene.answer(1, Answer::File(gzip(index(tomorrow, &["one-1", "new-1"]).as_bytes())));
    refreshes(&mut binhost).await;
    assert!(binhost.votes.disputed().len() == 1 && is_blamed(&binhost, &scene.mirrors[1]));
    scene.publish(&index(TIME + 1, &["one-1", "new-1"]));
    assert_eq!(refreshes(&mut binhost).await, RefreshOutcome::Changed);
    assert_eq!(binhost.votes.disputed().len(), 0);
}

/// Polls a future so many times at most, and drops it then, as a request does that cancels it.
async fn polled<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let (mut future, mut left) = (std::pin::pin!(future), times);
    let poll = |context: &mut Context<'_>| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    };
    std::future::poll_fn(poll).await
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_cancelled_anywhere_loses_no_vote() {
    for polls in 1.. {
        let scene = Scene::new(2, &[("quorum", "2")]);
        scene.publish(&index(TIME, &["one-1"]));
        let mut binhost = scene.start().await;
        refreshes(&mut binhost).await;
        // From now on the index comes from the other URL, and this one has its last vote.
        let from = scene.mirrors.iter().position(|mirror| binhost.stored.state.from.starts_with(&mirror.url()));
        scene.answer(from.unwrap(), Answer::Silence);
        let done = polled(binhost.refresh(Order::Forward), polls).await.is_some();
        binhost.stored.break_off();
        refreshes(&mut binhost).await;
        assert!(!binhost.stored.state.from.starts_with(&scene.mirrors[from.unwrap()].url()));
        assert_eq!(binhost.votes.disputed().len(), 0, "cancelled at poll {polls}");
        assert!(polls < 1000, "the refresh does not end");
        if done {
            assert!(polls > 5, "nothing was cancelled: {polls}");
            return;
        }
    }
}
