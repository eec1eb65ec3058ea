use super::super::binhosts::freshness::Order;
use super::super::binhosts::scene::{Scene, TIME, index};
use super::super::daemon_scene::DaemonScene;
use super::*;
use crate::api::{RollbackTo, sample};

fn of(name: &str, refresh: RefreshStatus) -> BinhostStatus {
    BinhostStatus { refresh, ..sample::binhost(name) }
}

#[test]
fn the_oldest_binhost_says_how_old_all_are() {
    let refresh = |confirmed, attempted, older_since| RefreshStatus { confirmed, attempted, error: None, older_since };
    let two = [of("one", refresh(20, 90, None)), of("two", refresh(10, 80, Some(5)))];
    assert_eq!(together(&two, None), refresh(10, 90, Some(5)));
    assert_eq!(together(&[], None), RefreshStatus::default());
    // A binhost without an index makes all of them unconfirmed.
    let none = [of("one", refresh(20, 90, None)), of("two", refresh(0, 80, None))];
    assert_eq!(together(&none, None).confirmed, 0);
}

#[test]
fn an_error_names_its_binhost_where_there_are_several() {
    let failed = |name| of(name, RefreshStatus { error: Some("no route".to_owned()), ..RefreshStatus::default() });
    let error =
        |binhosts: &[BinhostStatus], problem: Option<&str>| together(binhosts, problem.map(str::to_owned)).error;
    let good = || of("good", RefreshStatus::default());
    assert_eq!(error(&[failed("one")], None).as_deref(), Some("no route"));
    assert_eq!(error(&[failed("one"), good()], None).as_deref(), Some("one: no route"));
    assert_eq!(
        error(&[failed("one"), failed("two")], Some("no space")).as_deref(),
        Some("one: no route; two: no route; no space")
    );
    assert_eq!(error(&[good()], None), None);
}

#[test]
fn a_process_has_memory_and_says_how_much() {
    let ProcessStatus { resident, .. } = process();
    assert!(resident > 1 << 20 && resident < 1 << 40, "{resident}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_summary_says_what_is_shown_and_what_is_missing() {
    let empty = Scene::new(1, &[]);
    let daemon = DaemonScene::start(empty).await;
    let summary = daemon.state.summary();
    assert!(summary.contains(": no index yet, shown empty; 0 cached, 0 B of "), "{summary}");
    daemon.scene.publish(&index(TIME, &["one-1"]));
    daemon.refresh(Order::Forward).await.unwrap();
    let summary = daemon.state.summary();
    assert!(summary.contains(": 1 package, generation ") && summary.contains(", index confirmed "), "{summary}");
    assert!(!summary.contains("rolled back") && !summary.contains("without an index"), "{summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_is_that_of_the_moment() {
    let daemon = DaemonScene::start(Scene::with_index(&index(TIME, &["one-1", "two-1"]))).await;
    let state = &daemon.state;
    let status = state.status();
    assert_eq!((status.generation.packages, status.generation.index_timestamp), (2, TIME));
    assert!(status.started <= status.time && status.generation.created > 0);
    assert_eq!(status.mountpoint, "", "nothing is mounted");
    assert!(!status.signatures && status.serve.is_none() && status.upgrade_prefetch.is_none());
    assert_eq!(status.cache.bound, state.cache.usage().bound);
    assert_eq!((status.refresh.error, status.misconfigured, status.bypassed), (None, None, Vec::new()));

    state.set_problem(Some("no space".to_owned()));
    state.configured(Some("no such key".to_owned()));
    state.set_warnings(vec!["a warning".to_owned()]);
    let bypassed =
        BypassStatus { path: "a/b".to_owned(), binhost: "one".to_owned(), reason: "hidden".to_owned(), held: false };
    state.set_bypassed(vec![bypassed.clone()]);
    let status = state.status();
    assert_eq!(status.refresh.error.as_deref(), Some("no space"));
    assert_eq!((status.misconfigured.as_deref(), state.is_misconfigured()), (Some("no such key"), true));
    assert_eq!((status.warnings, status.bypassed), (vec!["a warning".to_owned()], vec![bypassed]));

    state.set_problem(None);
    state.configured(None);
    let status = state.status();
    assert_eq!((status.refresh.error, status.misconfigured, state.is_misconfigured()), (None, None, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_is_shown_already_is_not_published_again() {
    let daemon = DaemonScene::start(Scene::with_index(&index(TIME, &["one-1"]))).await;
    let first = daemon.state.front.remote();
    assert!(!daemon.state.publish(Arc::clone(&first)).unwrap());
    daemon.scene.publish(&index(TIME + 1, &["two-1"]));
    daemon.refresh(Order::Forward).await.unwrap();
    assert!(daemon.state.publish(first).unwrap());
    assert_eq!(daemon.shown(), ["one-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_is_in_the_status_until_it_is_undone() {
    let daemon = DaemonScene::start(Scene::with_index(&index(TIME, &["one-1"]))).await;
    daemon.scene.publish(&index(TIME + 1, &["two-1"]));
    daemon.refresh(Order::Forward).await.unwrap();
    daemon.roll_back(RollbackTo::Previous).await.unwrap();
    assert!(daemon.state.status().generation.rolled_back);
    daemon.roll_back(RollbackTo::Latest).await.unwrap();
    assert!(!daemon.state.status().generation.rolled_back);
}
