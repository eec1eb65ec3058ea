//! The refresher, with binhosts that answer as the test says. No test here waits for a time.

use super::super::binhosts::scene::{Scene, TIME, index};
use super::super::daemon_scene::DaemonScene;
use super::*;
use crate::config::SignaturePolicy;
use crate::fetch::FetchError;
use crate::upstream::Answer;

/// A daemon that has shown `one-1`, and then `one-1` and `two-1`.
async fn with_two_generations() -> DaemonScene {
    let daemon = DaemonScene::start(Scene::with_index(&index(TIME, &["one-1"]))).await;
    daemon.scene.publish(&index(TIME + 1, &["one-1", "two-1"]));
    daemon.refresh(Order::Forward).await.unwrap();
    daemon
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_shows_what_the_binhost_has_now() {
    let daemon = DaemonScene::start(Scene::with_index(&index(TIME, &["one-1"]))).await;
    assert_eq!(daemon.shown(), ["one-1"]);
    daemon.scene.publish(&index(TIME + 1, &["one-1", "two-1"]));
    let summary = daemon.refresh(Order::Forward).await.unwrap();
    assert!(summary.contains(": 2 packages, generation "), "{summary}");
    assert_eq!(daemon.shown(), ["one-1", "two-1"]);
    // Nothing has changed since.
    daemon.refresh(Order::Forward).await.unwrap();
    let metrics = &daemon.scene.metrics;
    assert_eq!((metrics.refreshes.get(), metrics.failed_refreshes.get()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_fails_says_why_and_what_is_shown_stays() {
    let daemon = with_two_generations().await;
    daemon.scene.answer(0, Answer::Status(404));
    let error = daemon.refresh(Order::Forward).await.unwrap_err();
    assert!(error.code() == ErrorCode::Failed && error.to_string().contains("404"), "{error:?}");
    let status = daemon.state.status();
    assert!(status.refresh.error.is_some_and(|text| text.contains("404")));
    assert_eq!((daemon.shown().len(), daemon.scene.metrics.failed_refreshes.get()), (2, 1));
    // An older index is one that a mirror may have held back, unless the administrator knows better.
    daemon.scene.publish(&index(TIME - 1, &["one-1"]));
    let error = daemon.refresh(Order::Forward).await.unwrap_err();
    assert!(error.to_string().contains("older"), "{error:?}");
    assert_eq!(daemon.shown().len(), 2);
    daemon.refresh(Order::Any).await.unwrap();
    assert_eq!(daemon.shown(), ["one-1"]);
    assert_eq!(daemon.state.status().refresh.error, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_does_not_wait_for_a_binhost_and_the_refresh_that_did_is_repeated() {
    let daemon = with_two_generations().await;
    daemon.scene.answer(0, Answer::Silence);
    let waiting = daemon.requested(|reply| Request::Refresh { order: Order::Forward, reply }).await;
    let summary = daemon.roll_back(RollbackTo::Previous).await.unwrap();
    assert!(summary.contains("(rolled back)"), "{summary}");
    assert_eq!(daemon.shown(), ["one-1"]);
    // The repeated refresh waits as well, until the next rollback.
    daemon.scene.publish(&index(TIME + 2, &["one-1", "three-1"]));
    let error = daemon.roll_back(RollbackTo::Generation(999)).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Conflict);
    let summary = waiting.await.unwrap().unwrap();
    assert!(summary.contains("(rolled back)"), "{summary}");
    assert_eq!(daemon.shown(), ["one-1"], "the earlier generation stays");
    daemon.roll_back(RollbackTo::Latest).await.unwrap();
    assert_eq!(daemon.shown(), ["one-1", "three-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_is_kept_on_request() {
    let daemon = with_two_generations().await;
    let number = daemon.state.status().generation.number;
    let keep = async |number, keep| daemon.request(|reply| Request::Keep { number, keep, reply }).await;
    let kept = keep(number, Keep::Always).await.unwrap();
    assert_eq!(kept, format!("generation {number} is kept, however old it becomes"));
    assert!(keep(number, Keep::AsUsual).await.unwrap().ends_with("goes when it is old, like any other"));
    assert_eq!(keep(999, Keep::Always).await.unwrap_err().code(), ErrorCode::Conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_configuration_is_applied_as_a_whole_or_not_at_all() {
    let daemon = with_two_generations().await;
    let mut config = daemon.scene.config();
    config.selection.exclude = vec!["app-misc/two".parse().unwrap()];
    daemon.configure(config.clone()).await;
    assert_eq!((daemon.shown(), daemon.state.is_misconfigured()), (vec!["one-1".to_owned()], false));
    let mut broken = daemon.scene.config();
    broken.binhosts[0].signatures = SignaturePolicy::Required { keyrings: vec!["/nonexistent/keyring".into()] };
    daemon.configure(broken).await;
    assert_eq!((daemon.shown(), daemon.state.is_misconfigured()), (vec!["one-1".to_owned()], true));
    assert!(daemon.state.status().misconfigured.is_some_and(|text| text.contains("/nonexistent/keyring")));
    config.selection.exclude.clear();
    daemon.configure(config).await;
    assert_eq!((daemon.shown().len(), daemon.state.is_misconfigured()), (2, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_package_is_hidden_until_it_is_fetched_or_the_administrator_asks() {
    let daemon = with_two_generations().await;
    let refused = || OutcomeKind::Refused(Arc::new(FetchError::KeysChanged));
    let before = daemon.scene.mirrors[0].asked().len();
    daemon.report("two-1", refused(), &["one-1"]).await;
    let status = daemon.state.status();
    assert_eq!((status.refused.len(), status.refused[0].path.as_str()), (1, "app-misc/two-1.gpkg.tar"));
    daemon.report("two-1", OutcomeKind::Verified, &["one-1", "two-1"]).await;
    daemon.report("one-1", refused(), &["two-1"]).await;
    daemon.refresh(Order::Forward).await.unwrap();
    assert_eq!(daemon.shown(), ["one-1", "two-1"]);
    // The index may be wrong: the binhost is asked for it, and for the package itself.
    let asked: Vec<String> = daemon.scene.mirrors[0].asked().split_off(before).into_iter().map(|a| a.path).collect();
    assert!(asked.contains(&"/app-misc/two-1.gpkg.tar".to_owned()) && asked.contains(&"/Packages.gz".to_owned()));
}
