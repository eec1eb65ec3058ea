//! All binhosts together, by a clock that is paused.

use std::time::Duration;

use tokio::time::Instant;

use super::scene::{INDEX, Scene, TIME, index};
use super::*;
use crate::upstream::Answer;

#[tokio::test(start_paused = true)]
async fn a_start_without_an_index_waits_for_a_silent_binhost_only_so_long() {
    let scene = Scene::new(1, &[]);
    scene.answer(0, Answer::Silence);
    let mut binhosts = scene.start_all();
    let start = Instant::now();
    let tree = binhosts.first().await.unwrap();
    assert_eq!((tree.view().len(), start.elapsed().as_secs()), (0, START_BUDGET.as_secs()));
    scene.publish(&index(TIME, &["one-1"]));
    assert!(binhosts.refresh(Order::Forward, Asker::Timer).await.is_empty() && binhosts.is_behind());
    assert_eq!(binhosts.tree().await.unwrap().view().len(), 1);
    // With a stored index, nothing is asked.
    drop(binhosts);
    let asked = scene.mirrors[0].asked().len();
    assert_eq!(scene.start_all().first().await.unwrap().view().len(), 1);
    assert_eq!(scene.mirrors[0].asked().len(), asked);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_binhost_is_asked_only_by_the_administrator() {
    let scene = Scene::with_index(&index(TIME, &["one-1"]));
    let mut config = scene.config();
    config.binhosts[0].frozen = true;
    let mut binhosts = scene.start_all_of(&config);
    assert!(binhosts.refresh(Order::Forward, Asker::Timer).await.is_empty());
    scene.publish(&index(TIME + 1, &["two-1"]));
    let asked = |path: &str| scene.mirrors[0].asked().iter().filter(|asked| asked.path == path).count();
    let path = format!("/{INDEX}");
    for (asker, times) in [(Asker::Timer, 1), (Asker::Administrator, 2)] {
        assert!(binhosts.refresh(Order::Forward, asker).await.is_empty());
        assert_eq!(asked(&path), times);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_cancelled_refresh_has_taken_is_published_by_the_next() {
    let scene = Scene::new(2, &[("quorum", "2")]);
    scene.publish(&index(TIME, &["one-1"]));
    let mut binhosts = scene.start_all();
    assert!(binhosts.refresh(Order::Forward, Asker::Timer).await.is_empty());
    assert!(binhosts.tree().await.unwrap().view().len() == 1 && !binhosts.is_behind());
    let next = index(TIME + 1, &["one-1", "two-1"]);
    scene.publish(&next);
    scene.answer(1, Answer::Silence);
    let refresh = tokio::time::timeout(Duration::from_secs(1), binhosts.refresh(Order::Forward, Asker::Timer));
    assert!(refresh.await.is_err(), "the vote of the second URL is waited for");
    binhosts.all.iter_mut().for_each(|binhost| binhost.stored.break_off());
    // The first URL says that nothing has changed since then.
    scene.answer(1, Answer::File(scene::gzip(next.as_bytes())));
    assert!(binhosts.refresh(Order::Forward, Asker::Timer).await.is_empty() && binhosts.is_behind());
    assert!(binhosts.tree().await.unwrap().view().len() == 2 && !binhosts.is_behind());
}
