//! Plans of an emerge that exists only in a directory like /proc, under a paused clock.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{advance, sleep};

use super::*;
use crate::fetch::downloads::{Counts, PREFETCH_TURNS, Uid};
use crate::fetch::prefetch::plan_queue::READ_PAUSE;
use crate::fetch::sample::PackageScene;
use crate::fetch::sample::package::{BUILD_ID, BUILD_TIME, Package};
use crate::portage::emerge_process::read_process;
use crate::portage::merge_plan;
use crate::upstream::Act;

const NAMES: [&str; 6] = ["a-1", "b-1", "c-1", "d-1", "e-1", "f-1"];
const PAYLOAD: usize = 10_000;
const USER: Uid = Uid(1000);

/// A /proc with one process, and the root directory of that process.
struct EmergeScene(TempDir);

impl EmergeScene {
    fn new() -> Self {
        let scene = Self(TempDir::new().unwrap());
        fs::create_dir_all(scene.process("")).unwrap();
        fs::create_dir_all(scene.plan().parent().unwrap()).unwrap();
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let ids = |id: u32| format!("{id}\t{id}\t{id}\t{id}");
        let status = format!("Tgid:\t7\nPPid:\t0\nUid:\t{}\nGid:\t{}\nGroups:\t\n", ids(uid), ids(gid));
        fs::write(scene.0.path().join("proc/uptime"), "3600.00 1.00\n").unwrap();
        fs::write(scene.process("status"), status).unwrap();
        // Fields 3 to 22: the last one is the start time.
        fs::write(scene.process("stat"), "7 (emerge) S 0 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 700 0").unwrap();
        fs::write(scene.process("cmdline"), "emerge\0-k\0").unwrap();
        fs::write(scene.process("environ"), "HOME=/\0").unwrap();
        symlink(scene.0.path().join("root"), scene.process("root")).unwrap();
        scene
    }

    fn process(&self, file: &str) -> PathBuf {
        self.0.path().join("proc/7").join(file)
    }

    fn plan(&self) -> PathBuf {
        self.0.path().join("root").join(merge_plan::PATH)
    }

    /// Writes the plan: these packages, in this order.
    fn plans(&self, scene: &PackageScene, at: &[usize]) {
        let packages: Vec<_> = at.iter().map(|at| &scene.packages[*at]).collect();
        let cpv = |package: &Package| format!("{}/{}", package.category, package.pf);
        let binpkgs: Vec<_> = packages
            .iter()
            .map(|package| {
                let (cpv, size) = (cpv(package), package.bytes.len());
                serde_json::json!({"CPV": cpv, "BUILD_ID": BUILD_ID, "BUILD_TIME": BUILD_TIME, "SIZE": size})
            })
            .collect();
        let mergelist: Vec<_> =
            packages.iter().map(|package| serde_json::json!(["binary", "/", cpv(package), "merge"])).collect();
        let text = serde_json::json!({"resume": {"binpkgs": binpkgs, "mergelist": mergelist}});
        fs::write(self.plan(), text.to_string()).unwrap();
    }

    fn opener(&self) -> Arc<OpenerProcess> {
        Arc::new(read_process(&self.0.path().join("proc"), 7).unwrap())
    }

    fn key(&self) -> ProcessKey {
        self.opener().emerge.as_ref().unwrap().key()
    }

    fn end(&self) {
        fs::remove_file(self.process("stat")).unwrap();
    }
}

fn prefetch(scene: &PackageScene, prefetch: Prefetch) -> PlanPrefetch {
    PlanPrefetch::new(Arc::clone(&scene.fetcher), prefetch, Duration::from_secs(1))
}

/// Follows a plan that an open of package 0 has brought up.
fn follow(plans: &PlanPrefetch, scene: &PackageScene, emerge: &EmergeScene, plan: &[usize]) -> JoinHandle<()> {
    let (inner, looked, key) = (Arc::clone(&plans.inner), emerge.opener(), emerge.key());
    let added = inner.queue().add(key, plan.iter().map(|at| scene.wanted(*at)), scene.wanted(0).key());
    assert_eq!(added, Added::New);
    tokio::spawn(async move { inner.follow(key, &looked).await })
}

/// Waits for what other tasks bring about, and only counters and lists show: these send nothing.
/// The clock is paused, so no real time passes.
async fn until(what: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if what() {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
    panic!("it does not happen");
}

fn is_quiet(scene: &PackageScene) -> bool {
    let Counts { live, parked, waiting, .. } = scene.fetcher.counts();
    (live, parked, waiting) == (0, 0, 0)
}

#[tokio::test(start_paused = true)]
async fn a_plan_is_fetched_in_its_order_until_its_emerge_ends() {
    let (scene, emerge) = (PackageScene::new(1, &NAMES, PAYLOAD), EmergeScene::new());
    let plans = prefetch(&scene, Prefetch::Plan);
    let followed = follow(&plans, &scene, &emerge, &[5, 0, 3, 1, 4]);
    until(|| scene.metrics.prefetched.get() == 4).await;
    // Package 0 is the one that was opened. Of the others, as many as have a turn begin together.
    let mut asked = scene.asked();
    asked[..PREFETCH_TURNS].sort_unstable();
    assert_eq!(asked, [1, 3, 5, 4]);
    let size: u64 = [5, 3, 1, 4].iter().map(|at| scene.wanted(*at).record().size).sum();
    assert_eq!(scene.metrics.prefetched_bytes.get(), size);
    plans.opened(&scene.wanted(3));
    plans.opened(&scene.wanted(3));
    plans.opened(&scene.wanted(2));
    assert_eq!(scene.metrics.prefetch_hits.get(), 1);
    sleep(LIVENESS * 3).await;
    assert!(!followed.is_finished() && plans.inner.queue().is_planned(scene.wanted(1).key()));
    emerge.end();
    followed.await.unwrap();
    assert_eq!(scene.metrics.prefetch_wasted.get(), 3);
    assert!(!plans.inner.queue().is_planned(scene.wanted(1).key()));
}

#[tokio::test(start_paused = true)]
async fn downloads_end_with_the_emerge_unless_an_open_waits_for_them() {
    let (scene, emerge) = (PackageScene::new(1, &NAMES, PAYLOAD), EmergeScene::new());
    let plans = prefetch(&scene, Prefetch::Plan);
    (1..=2).for_each(|at| scene.act(at, [Act::Hold(10)]));
    let followed = follow(&plans, &scene, &emerge, &[1, 2]);
    scene.server.await_requests(2).await;
    let open = scene.opening(2, USER);
    until(|| scene.fetcher.counts().opens == 1).await;
    emerge.end();
    followed.await.unwrap();
    until(|| !scene.fetcher.downloads.contains(scene.wanted(1).key())).await;
    assert!(scene.fetcher.downloads.contains(scene.wanted(2).key()), "somebody waits for it");
    scene.server.release();
    assert!(open.await.unwrap().is_ok());
    until(|| is_quiet(&scene)).await;
    assert!(!scene.fetcher.is_cached(&scene.wanted(1)) && scene.fetcher.failures().is_empty());
    assert_eq!((scene.asked().len(), scene.metrics.prefetched.get()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_prefetch_stops_what_it_follows() {
    let (scene, emerge) = (PackageScene::new(1, &NAMES, PAYLOAD), EmergeScene::new());
    let plans = prefetch(&scene, Prefetch::Plan);
    scene.act(1, [Act::Hold(10)]);
    let (inner, looked, key) = (Arc::clone(&plans.inner), emerge.opener(), emerge.key());
    inner.queue().add(key, [scene.wanted(1)], scene.wanted(0).key());
    plans.tasks.lock().spawn(async move { inner.follow(key, &looked).await });
    scene.server.await_requests(1).await;
    let inner = Arc::clone(&plans.inner);
    drop(plans);
    until(|| is_quiet(&scene)).await;
    assert!(!inner.queue().is_planned(scene.wanted(1).key()));
    assert_eq!(scene.metrics.prefetch_wasted.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_concerns_one_package_and_is_not_remembered() {
    let (scene, emerge) = (PackageScene::new(1, &NAMES, PAYLOAD), EmergeScene::new());
    let plans = prefetch(&scene, Prefetch::Plan);
    scene.act(1, [Act::Status(404)]);
    let followed = follow(&plans, &scene, &emerge, &[1, 2, 3]);
    until(|| scene.metrics.prefetched.get() == 2).await;
    until(|| is_quiet(&scene)).await;
    assert!(scene.fetcher.failures().is_empty() && !scene.fetcher.is_cached(&scene.wanted(1)));
    assert!(scene.open(1, USER).await.is_ok());
    emerge.end();
    followed.await.unwrap();
    // The failed one was not ahead any more.
    let mut asked = scene.asked();
    asked[..3].sort_unstable();
    assert_eq!((asked, scene.metrics.prefetch_wasted.get()), (vec![1, 2, 3, 1], 2));
}

#[tokio::test(start_paused = true)]
async fn a_package_that_is_opened_before_its_turn_was_not_prefetched() {
    let (scene, emerge) = (PackageScene::new(1, &NAMES, PAYLOAD), EmergeScene::new());
    let plans = prefetch(&scene, Prefetch::Plan);
    let key = emerge.key();
    plans.inner.queue().add(key, [1, 2].map(|at| scene.wanted(at)), scene.wanted(0).key());
    for (at, before, prefetched) in [(1, true, 0), (2, false, 1)] {
        let (wanted, waiter) = plans.inner.next(key).unwrap();
        assert_eq!(wanted.key(), scene.wanted(at).key());
        if before {
            plans.opened(&wanted);
        }
        let waiter = waiter.unwrap();
        plans.inner.watch(key, &wanted, Some(waiter.watcher().clone())).await;
        assert!(scene.fetcher.is_cached(&wanted));
        assert_eq!(scene.metrics.prefetched.get(), prefetched);
    }
    assert_eq!(scene.metrics.prefetch_hits.get(), 0);
    plans.opened(&scene.wanted(2));
    assert_eq!(scene.metrics.prefetch_hits.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_cached_or_under_way_is_not_fetched_ahead() {
    let (scene, emerge) = (PackageScene::new(1, &NAMES, PAYLOAD), EmergeScene::new());
    let plans = prefetch(&scene, Prefetch::Plan);
    let key = emerge.key();
    assert!(scene.open(1, USER).await.is_ok());
    until(|| is_quiet(&scene)).await;
    scene.act(2, [Act::Hold(10)]);
    let open = scene.opening(2, USER);
    scene.server.await_requests(2).await;
    plans.inner.queue().add(key, [1, 2, 3].map(|at| scene.wanted(at)), scene.wanted(0).key());
    let (next, _waiter) = plans.inner.next(key).unwrap();
    assert_eq!(next.key(), scene.wanted(3).key());
    assert!(plans.inner.next(key).is_none());
    scene.server.release();
    assert!(open.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn packages_of_a_binhost_that_is_not_used_are_passed_over() {
    let (scene, emerge) = (PackageScene::new(1, &NAMES, PAYLOAD), EmergeScene::new());
    let plans = prefetch(&scene, Prefetch::Plan);
    let key = emerge.key();
    plans.inner.queue().add(key, (1..6).map(|at| scene.wanted(at)).collect::<Vec<_>>(), scene.wanted(0).key());
    scene.fetcher.retain_binhosts(&HashSet::new());
    assert!(plans.inner.next(key).is_none());
    // None of them is waited for.
    assert_eq!((plans.inner.queue().end(key), scene.asked().len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_plan_of_the_emerge_that_opened_one_of_its_packages() {
    let (scene, emerge) = (PackageScene::new(1, &NAMES, PAYLOAD), EmergeScene::new());
    let plans = prefetch(&scene, Prefetch::Plan);
    let found = |at: usize| {
        let found = plans.inner.find(&scene.wanted(at), emerge.opener())?;
        assert_eq!(found.key, emerge.key());
        let number = |wanted: &PackageRef| (0..NAMES.len()).find(|at| scene.wanted(*at).key() == wanted.key());
        Some(found.plan.iter().filter_map(number).collect::<Vec<_>>())
    };
    assert_eq!(found(0), None, "there is no plan");
    emerge.plans(&scene, &[4, 0, 2, 1]);
    assert!(scene.open(2, USER).await.is_ok());
    until(|| is_quiet(&scene)).await;
    assert_eq!(found(0), Some(vec![4, 0, 1]), "the cached one is left out");
    assert_eq!(found(3), None, "it is not in the plan");
    // A plan that was read a moment ago is not read again.
    plans.inner.queue().add(emerge.key(), [scene.wanted(4)], scene.wanted(0).key());
    assert_eq!(found(0), None);
    advance(READ_PAUSE).await;
    assert_eq!(found(0), Some(vec![4, 0, 1]));
    // The process is no emerge.
    fs::write(emerge.process("cmdline"), "tar\0").unwrap();
    assert!(plans.inner.find(&scene.wanted(0), emerge.opener()).is_none());
}

#[tokio::test(start_paused = true)]
async fn the_opener_is_looked_up_only_where_it_may_have_a_new_plan() {
    let (scene, emerge) = (PackageScene::new(1, &NAMES, PAYLOAD), EmergeScene::new());
    let (plans, off) = (prefetch(&scene, Prefetch::Plan), prefetch(&scene, Prefetch::Off));
    plans.inner.queue().add(emerge.key(), [scene.wanted(1)], scene.wanted(0).key());
    for (plans, at, tid, walks) in [
        (&off, 2, std::process::id(), 0),
        (&plans, 2, 0, 0),
        (&plans, 0, std::process::id(), 0),
        (&plans, 1, std::process::id(), 0),
        (&plans, 2, std::process::id(), 1),
    ] {
        let (wanted, miss) = (scene.wanted(at), scene.fetcher.miss(tid, Uid::ROOT));
        plans.missed(&wanted, &miss);
        plans.found(&wanted, &miss).await;
        assert_eq!(scene.fetcher.openers.walks.load(Ordering::Relaxed), walks, "{at} {tid}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_plans_are_read_at_a_time_than_readers_there_are() {
    let scene = PackageScene::new(1, &NAMES, PAYLOAD);
    let plans = prefetch(&scene, Prefetch::Plan);
    let busy: Vec<_> =
        (0..MAX_READERS).map(|_| Arc::clone(&plans.inner.readers).try_acquire_owned().unwrap()).collect();
    let miss = scene.fetcher.miss(std::process::id(), Uid::ROOT);
    plans.missed(&scene.wanted(0), &miss);
    assert!(plans.tasks.lock().is_empty());
    drop(busy);
    plans.missed(&scene.wanted(0), &miss);
    assert_eq!(plans.tasks.lock().len(), 1);
}
