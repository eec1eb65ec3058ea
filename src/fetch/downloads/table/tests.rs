use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use proptest::prelude::*;

use super::super::{MAX_LIVE, MAX_WAITERS, PLACES, PREFETCH_TURNS, REST_OF_LINE, TURNS, TURNS_OF_CACHE, TURNS_OF_USER};
use super::*;
use crate::cache::Unkeepable;
use crate::index::{BinhostId, EntryId};

/// A download of `size` bytes, with `left` bytes still to come.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sized {
    size: u64,
    left: Rc<Cell<u64>>,
}

impl Load for Sized {
    fn size(&self) -> u64 {
        self.size
    }

    fn left(&self) -> u64 {
        self.left.get()
    }

    fn is_placed(&self) -> bool {
        self.left.get() < self.size
    }
}

const A: Uid = Uid(1000);
const B: Uid = Uid(1001);

/// A table, and the numbers of its downloads that have a turn.
struct Scene {
    table: DownloadTable<Sized>,
    numbers: BTreeMap<u32, Number>,
}

fn key(binhost: u32, package: u32) -> PackageKey {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&package.to_be_bytes());
    (BinhostId(binhost), EntryId(id))
}

/// Packages 0 to 999 belong to the first binhost, the next thousand to the second one.
fn key_of(package: u32) -> PackageKey {
    key(package / 1000, package)
}

impl Scene {
    fn new() -> Self {
        Self { table: DownloadTable::new(), numbers: BTreeMap::new() }
    }

    fn want_sized(&mut self, package: u32, priority: Priority, size: u64) -> Sized {
        let key = key_of(package);
        let download = Sized { size, left: Rc::new(Cell::new(size)) };
        match self.table.join(key, priority) {
            Some((_, download, _)) => download,
            None => {
                let number = self.table.insert(key, Lane::Binhost(key.0), download.clone(), priority);
                self.numbers.insert(package, number);
                download
            }
        }
    }

    fn want(&mut self, package: u32, priority: Priority) {
        self.want_sized(package, priority, 10);
    }

    fn open(&mut self, packages: impl IntoIterator<Item = u32>, uid: Uid) {
        packages.into_iter().for_each(|package| self.want(package, Priority::Open(uid)));
    }

    /// The packages that get a turn now, in this order.
    fn next(&mut self) -> Vec<u32> {
        self.next_if(Gate::Open)
    }

    fn next_if(&mut self, gate: Gate) -> Vec<u32> {
        let mut given = Vec::new();
        loop {
            let before: BTreeMap<u32, Stage> = self.stages();
            if self.table.next(|_, _| gate).is_none() {
                return given;
            }
            let after = self.stages();
            let turn = |(package, stage): (&u32, &Stage)| *stage == Stage::Live && before[package] != Stage::Live;
            given.extend(after.iter().filter(|entry| turn(*entry)).map(|(package, _)| *package));
        }
    }

    fn stages(&self) -> BTreeMap<u32, Stage> {
        let stage = |(package, number): (&u32, &Number)| {
            Some((*package, self.table.entry(key_of(*package), *number).map(|entry| entry.stage)?))
        };
        self.numbers.iter().filter_map(stage).collect()
    }

    fn park(&mut self, package: u32) -> bool {
        self.table.park(key_of(package), self.numbers[&package])
    }

    fn resume(&mut self, package: u32) {
        self.table.resume(key_of(package), self.numbers[&package]);
    }

    fn finish(&mut self, package: u32) {
        self.table.finish(key_of(package), self.numbers[&package]);
    }

    fn leave(&mut self, package: u32, priority: Priority) -> OnLeave {
        self.table.leave(key_of(package), self.numbers[&package], priority)
    }
}

#[test]
fn the_last_quarter_of_turns_is_for_users_without_any() {
    let mut scene = Scene::new();
    scene.open(0..100, A);
    assert_eq!(scene.next(), (0..TURNS_OF_USER as u32).collect::<Vec<_>>());
    scene.open(100..110, B);
    assert_eq!(scene.next(), [100]);
    scene.open([110], Uid::ROOT);
    assert_eq!((scene.next(), scene.table.live), (vec![110], TURNS));
    // A download that ends makes room for the user with the fewest turns.
    scene.finish(0);
    assert_eq!(scene.next(), Vec::<u32>::new(), "the last two are for users without any");
    scene.finish(1);
    assert_eq!(scene.next(), Vec::<u32>::new());
    scene.finish(2);
    assert_eq!(scene.next(), [101]);
}

#[test]
fn many_users_together_do_not_keep_root_out() {
    for parks in [false, true] {
        let mut scene = Scene::new();
        (0..100).for_each(|at| scene.open([at], Uid(2000 + at)));
        scene.next();
        while let Some((package, _)) = scene.stages().into_iter().find(|(_, stage)| parks && *stage == Stage::Live) {
            scene.park(package);
            scene.next();
        }
        let taken = if parks { PLACES } else { TURNS } - 1;
        assert_eq!(scene.table.choice().holders().count(), taken);
        scene.open([200, 201], Uid::ROOT);
        assert_eq!(scene.next(), [200]);
    }
}

#[test]
fn users_take_turns_however_many_downloads_they_have() {
    let mut scene = Scene::new();
    scene.open(0..500, A);
    scene.next();
    scene.open(500..503, B);
    let mut order = Vec::new();
    for _ in 0..12 {
        let oldest = scene.stages().into_iter().find(|(_, stage)| *stage == Stage::Live).unwrap().0;
        scene.finish(oldest);
        order.extend(scene.next());
    }
    let of_b: Vec<usize> =
        (500..503).map(|package| order.iter().position(|other| *other == package).unwrap()).collect();
    assert!(of_b.iter().all(|at| *at < 6), "{order:?}");
}

#[test]
fn a_binhost_takes_no_turn_from_another() {
    let mut scene = Scene::new();
    scene.open(0..100, A);
    scene.open((0..100).map(|package| 1000 + package), B);
    scene.open((0..100).map(|package| 2000 + package), A);
    scene.next();
    for round in 3..6 {
        scene.open([1000 * round], A);
        assert_eq!(scene.next(), [1000 * round], "binhost {round}");
    }
    assert!(scene.table.live <= MAX_LIVE);
}

#[test]
fn what_is_parked_leaves_its_turn_and_comes_back_first() {
    let mut scene = Scene::new();
    scene.open(0..100, A);
    for first in [0, 6, 12] {
        assert_eq!(scene.next(), (first..first + 6).collect::<Vec<_>>());
        assert!((first..first + 6).all(|package| scene.park(package)));
    }
    // A quarter of the places is left.
    assert_eq!((scene.next(), scene.table.counts()), (vec![], Counts { live: 0, parked: 18, waiting: 82, opens: 100 }));
    scene.open(100..110, Uid::ROOT);
    assert_eq!(scene.next(), [100], "root has a place then, and no quarter of them");
    scene.resume(7);
    scene.resume(5);
    assert_eq!(scene.next(), [5, 7]);
    scene.finish(5);
    assert_eq!(scene.table.counts(), Counts { live: 2, parked: 16, waiting: 91, opens: 109 });
}

#[test]
fn many_silent_binhosts_keep_no_more_than_a_few_connections_each() {
    let mut scene = Scene::new();
    for binhost in 0..4 {
        (0..100).for_each(|at| scene.open([1000 * binhost + at], Uid(2000 + at)));
    }
    scene.next();
    while let Some((package, _)) = scene.stages().into_iter().find(|(_, stage)| *stage == Stage::Live) {
        scene.park(package);
        scene.next();
    }
    let most = PLACES + 3 * TURNS + MAX_LIVE;
    assert!((PLACES..most).contains(&scene.table.counts().parked), "{:?}", scene.table.counts());
    assert!(scene.table.lanes.values().all(|queue| queue.parked() >= TURNS));
    // A binhost that is not silent has all of its turns.
    scene.open(4000..4010, A);
    assert_eq!(scene.next().len(), TURNS_OF_USER);
}

#[test]
fn what_nobody_waits_for_ends_when_it_costs_nothing_to_end_it() {
    let mut scene = Scene::new();
    scene.open(0..8, A);
    scene.next();
    assert_eq!(scene.leave(7, Priority::Open(A)), OnLeave::Removed);
    assert_eq!(scene.leave(0, Priority::Open(A)), OnLeave::Stays);
    scene.want(1, Priority::Plan);
    assert!(scene.park(1) && scene.park(2) && !scene.park(0));
    assert!(!scene.table.contains(key_of(0)), "nobody joins what is to end");
    assert_eq!(scene.leave(1, Priority::Open(A)), OnLeave::Stays, "a plan has it");
    assert_eq!(scene.leave(2, Priority::Open(A)), OnLeave::Stop);
    assert_eq!(scene.leave(1, Priority::Plan), OnLeave::Stop);
    let number = scene.numbers[&3];
    assert!(scene.table.end_unless_wanted(key_of(3), number));
    scene.leave(3, Priority::Open(A));
    assert!(!scene.table.end_unless_wanted(key_of(3), number) && !scene.table.contains(key_of(3)));
    // A later download of the same package has another number.
    scene.open([3], B);
    assert_eq!(scene.table.leave(key_of(3), number, Priority::Open(B)), OnLeave::Stays);
    scene.table.finish(key_of(3), number);
    assert!(scene.table.contains(key_of(3)));
}

#[test]
fn prefetches_come_after_what_is_opened_and_in_their_order() {
    let mut scene = Scene::new();
    scene.want(1, Priority::Requested);
    scene.want(2, Priority::Upgrade);
    scene.want(3, Priority::Plan);
    scene.want(4, Priority::Open(A));
    assert_eq!(scene.next(), [4, 3, 1]);
    // The upgrade prefetch waits until there is no other download.
    [4, 3].into_iter().for_each(|package| scene.finish(package));
    assert_eq!(scene.next(), Vec::<u32>::new());
    scene.finish(1);
    assert_eq!(scene.next(), [2]);
    assert!(scene.table.take_out_of_the_way().is_empty());
    scene.want(5, Priority::Requested);
    assert_eq!(scene.table.take_out_of_the_way().len(), 1);
    assert!(!scene.table.contains(key_of(2)));
    scene.finish(5);
    scene.want(2, Priority::Upgrade);
    assert_eq!(scene.next(), [2]);
    // The open takes over the upgrade prefetch, which is not stopped then.
    scene.open([2, 6], A);
    assert!(scene.table.take_out_of_the_way().is_empty());
}

#[test]
fn an_upgrade_of_which_half_is_there_goes_on() {
    let mut scene = Scene::new();
    let upgrade = scene.want_sized(1, Priority::Upgrade, 100);
    assert_eq!(scene.next(), [1]);
    upgrade.left.set(50);
    scene.open([2], A);
    assert!(scene.table.take_out_of_the_way().is_empty());
    upgrade.left.set(51);
    assert_eq!(scene.table.take_out_of_the_way().len(), 1);
}

#[test]
fn prefetches_leave_half_of_the_turns() {
    let mut scene = Scene::new();
    (0..50).for_each(|package| scene.want(package, Priority::Requested));
    assert_eq!(scene.next().len(), PREFETCH_TURNS);
    (50..100).for_each(|package| scene.want(package, Priority::Plan));
    assert_eq!(scene.next(), [50]);
    scene.open(100..110, A);
    assert_eq!(scene.next(), [100, 101]);
    // An open of a queued prefetch makes it an open download.
    scene.open([0, 1, 49], A);
    assert_eq!(scene.table.counts().opens, 13);
    scene.finish(2);
    scene.finish(50);
    assert_eq!(scene.next(), [49, 102]);
}

#[test]
fn the_next_of_a_plan_waits_for_the_line() {
    let mut scene = Scene::new();
    let first = scene.want_sized(1, Priority::Plan, 3 * REST_OF_LINE);
    (2..5).for_each(|package| scene.want(package, Priority::Plan));
    assert_eq!(scene.next(), [1]);
    first.left.set(REST_OF_LINE);
    assert_eq!(scene.next(), Vec::<u32>::new());
    first.left.set(REST_OF_LINE - 11);
    assert_eq!(scene.next(), [2, 3]);
    // A parked download does not count, so the next prefetch may start.
    first.left.set(2 * REST_OF_LINE);
    assert!(scene.park(1));
    assert_eq!(scene.next(), [4]);
}

#[test]
fn what_would_not_be_kept_is_not_prefetched() {
    let mut scene = Scene::new();
    scene.want(1, Priority::Plan);
    scene.open([2], A);
    assert_eq!(scene.next_if(Gate::Later), [2]);
    let step = scene.table.next(|_, on_the_way| {
        assert_eq!(on_the_way, OnTheWay { all: 10, unplaced: 10 });
        Gate::Never(Unkeepable::Disk)
    });
    assert!(matches!(step, Some(NextAction::Refuse(_, Unkeepable::Disk))));
    assert!(!scene.table.contains(key_of(1)));
    // A download that has begun is finished.
    scene.want(3, Priority::Plan);
    assert_eq!(scene.next(), [3]);
    scene.park(3);
    scene.resume(3);
    assert_eq!(scene.next_if(Gate::Never(Unkeepable::Disk)), [3]);
}

#[test]
fn a_user_takes_no_more_waiters_than_are_left_for_others() {
    let mut table = DownloadTable::<Sized>::new();
    let fill = |table: &mut DownloadTable<Sized>, uid: Uid| {
        let download = Sized { size: 1, left: Rc::default() };
        let mut count = 0;
        while table.admits(Priority::Open(uid)) {
            let key = key(0, count + 100_000 * uid.0);
            table.insert(key, Lane::Binhost(BinhostId(0)), download.clone(), Priority::Open(uid));
            count += 1;
        }
        count as usize
    };
    assert_eq!(fill(&mut table, A), MAX_WAITERS / 2);
    assert!(!table.admits(Priority::Open(A)) && table.admits(Priority::Plan));
    assert_eq!(fill(&mut table, B), MAX_WAITERS / 4);
    // Root has a share, however many opens others have.
    assert!(table.admits(Priority::Open(Uid::ROOT)));
    assert_eq!(fill(&mut table, Uid::ROOT), MAX_WAITERS);
}

#[test]
fn what_may_lie_in_the_cache_needs_no_turn_of_its_binhost() {
    let mut scene = Scene::new();
    scene.open(0..20, A);
    scene.next();
    let download = Sized { size: 10, left: Rc::default() };
    for package in 100..104 {
        let number = scene.table.insert(key_of(package), Lane::Cache, download.clone(), Priority::Open(A));
        scene.numbers.insert(package, number);
    }
    assert_eq!(scene.next(), [100, 101]);
    assert_eq!(scene.next().len() + TURNS_OF_CACHE, 2);
    let binhost = Lane::Binhost(BinhostId(0));
    assert!(scene.table.change_lane(key_of(100), scene.numbers[&100], binhost));
    assert_eq!(scene.next(), [102], "it waits with the others");
    scene.leave(101, Priority::Open(A));
    assert!(!scene.table.change_lane(key_of(101), scene.numbers[&101], binhost));
    assert!(!scene.table.contains(key_of(101)));
    assert_eq!(scene.next(), [103]);
    (0..19).for_each(|package| scene.finish(package));
    assert_eq!(scene.next(), [19, 100]);
}

#[derive(Debug, Clone)]
enum Act {
    Want(u32, u8),
    Leave(u32, u8),
    Park(u32),
    Resume(u32),
    Finish(u32),
}

fn priority(number: u8) -> Priority {
    match number {
        0 => Priority::Upgrade,
        1 => Priority::Requested,
        2 => Priority::Plan,
        uid => Priority::Open(Uid(uid.into())),
    }
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let package = || (0..3_u32, 0..40_u32).prop_map(|(binhost, package)| 1000 * binhost + package);
    let act = prop_oneof![
        8 => (package(), 0..7_u8).prop_map(|(package, who)| Act::Want(package, who)),
        3 => (package(), 0..7_u8).prop_map(|(package, who)| Act::Leave(package, who)),
        3 => package().prop_map(Act::Park),
        3 => package().prop_map(Act::Resume),
        3 => package().prop_map(Act::Finish),
    ];
    prop::collection::vec(act, 1..300)
}

/// Checks that the counts agree with the table, and that no bound is exceeded.
fn check(scene: &Scene) {
    let table = &scene.table;
    let stages =
        |wanted: &dyn Fn(&TableEntry<Sized>) -> bool| table.downloads.values().filter(|entry| wanted(entry)).count();
    assert_eq!(table.live, stages(&|entry| entry.stage == Stage::Live));
    assert!(table.live <= MAX_LIVE);
    for (lane, queue) in &table.lanes {
        let of = |stage: &dyn Fn(Stage) -> bool| stages(&|entry| entry.lane == *lane && stage(entry.stage));
        assert_eq!(queue.live, of(&|stage| stage == Stage::Live));
        assert_eq!(queue.holders.len(), of(&|stage| stage != Stage::Waiting));
        let keys: BTreeSet<PackageKey> = queue.queued().chain(queue.prefetches.values().copied()).collect();
        assert_eq!(keys.len(), of(&|stage| matches!(stage, Stage::Waiting | Stage::Resuming)));
        assert!(queue.live <= TURNS && queue.holders.len() <= PLACES && !queue.is_idle());
    }
    let opens = |uid: Uid| -> usize {
        let counts = table.downloads.values().flat_map(TableEntry::opens).filter(|(other, _)| *other == uid);
        counts.map(|(_, count)| count).sum()
    };
    for (uid, waiters) in table.users.all() {
        assert_eq!(waiters, opens(uid));
        assert!(waiters > 0);
    }
    assert_eq!(table.users.waiters(), table.users.all().map(|(_, waiters)| waiters).sum::<usize>());
    assert!(table.downloads.values().all(|entry| entry.stage != Stage::Waiting || entry.is_wanted()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn counts_and_bounds_hold_whatever_happens(acts in acts()) {
        let mut scene = Scene::new();
        let mut wants: BTreeMap<(u32, Number, u8), u32> = BTreeMap::new();
        for act in acts {
            match act {
                Act::Want(package, who) => {
                    scene.want(package, priority(who));
                    *wants.entry((package, scene.numbers[&package], who)).or_default() += 1;
                }
                Act::Leave(package, who) => {
                    let number = scene.numbers.get(&package).copied().unwrap_or_default();
                    if let Some(count) = wants.get_mut(&(package, number, who)).filter(|count| **count > 0) {
                        *count -= 1;
                        scene.leave(package, priority(who));
                    }
                }
                Act::Park(package) if scene.numbers.contains_key(&package) => {
                    scene.park(package);
                }
                Act::Resume(package) if scene.numbers.contains_key(&package) => scene.resume(package),
                Act::Finish(package) if scene.stages().get(&package).is_some_and(|stage| *stage != Stage::Waiting) => {
                    scene.finish(package);
                }
                Act::Park(_) | Act::Resume(_) | Act::Finish(_) => {}
            }
            scene.table.take_out_of_the_way();
            scene.next();
            check(&scene);
        }
        // Each remaining download gets its turn once those before it have ended.
        while let Some((package, _)) = scene.stages().into_iter().find(|(_, stage)| *stage != Stage::Waiting) {
            scene.finish(package);
            scene.next();
        }
        prop_assert!(scene.table.is_empty(), "{:?}", scene.table);
    }
}
