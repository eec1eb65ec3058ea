use proptest::prelude::*;

use super::*;
use crate::upstream::retry::{MAX_BACKOFF, backoff};

const S: Duration = Duration::from_secs(1);

fn mirrors(count: usize) -> Mirrors {
    let urls: Vec<BinhostUrl> = (0..count).map(|n| format!("http://m{n}/").parse().unwrap()).collect();
    Mirrors::new(&urls)
}

fn fail(mirrors: &mut Mirrors, slot: MirrorSlot, now: Instant) {
    mirrors.note(slot, |health| health.failed(now, "no".to_owned(), |n| backoff(n, 0.5), Duration::ZERO));
}

/// Records a delivery; `rate` is in MB/s.
fn deliver(mirrors: &mut Mirrors, slot: MirrorSlot, now: Instant, rate: f64) {
    mirrors.note(slot, |health| health.note_response(S / 100));
    mirrors.delivered(slot, now, ((rate * 1e6) as u64, S));
    mirrors.note(slot, Health::served);
}

#[derive(Debug, Clone)]
enum Happening {
    Fails,
    Lacks,
    Delivers(f64),
    Wrong,
    Asked,
    Passes(u64),
    Chance,
    Named(u8),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => Just(Happening::Fails),
        1 => Just(Happening::Lacks),
        3 => (0.1..100.0).prop_map(Happening::Delivers),
        1 => Just(Happening::Wrong),
        2 => Just(Happening::Asked),
        2 => (0_u64..400).prop_map(Happening::Passes),
        1 => Just(Happening::Chance),
        1 => (0_u8..9).prop_map(Happening::Named),
    ]
}

fn apply(mirrors: &mut Mirrors, slot: MirrorSlot, what: &Happening, now: &mut Instant) {
    match what {
        Happening::Fails => fail(mirrors, slot, *now),
        Happening::Lacks => mirrors.note(slot, Health::served),
        Happening::Delivers(rate) => deliver(mirrors, slot, *now, *rate),
        Happening::Wrong => mirrors.note(slot, |health| health.wrong(*now)),
        Happening::Asked => mirrors.note(slot, |health| health.note_request(*now)),
        Happening::Passes(seconds) => *now += S * u32::try_from(*seconds).unwrap(),
        Happening::Chance => drop(mirrors.chance(*now)),
        Happening::Named(n) => drop(mirrors.slot_of(&format!("http://named{n}/").parse().unwrap())),
    }
}

proptest! {
    #[test]
    fn whatever_happens_all_are_asked_and_the_healthy_first(
        history in prop::collection::vec((0_usize..4, happening()), 0..80),
    ) {
        let start = Instant::now();
        let (mut one, mut other) = (mirrors(4), mirrors(4));
        let (mut now, mut same) = (start, start);
        for (slot, what) in &history {
            apply(&mut one, *slot, what, &mut now);
            apply(&mut other, *slot, what, &mut same);
            let order = one.order(now);
            // The same history gives the same order.
            prop_assert_eq!(&order, &other.order(now));
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..one.known.len()).collect::<Vec<_>>());
            let standings: Vec<HealthState> = order.iter().map(|slot| one.state(*slot, now)).collect();
            prop_assert!(standings.is_sorted());
            // No URL is behind one that is clearly slower and in no better state.
            for (at, slot) in order.iter().enumerate() {
                for before in &order[..at] {
                    let (a, b) = (one.health(*slot).unwrap(), one.health(*before).unwrap());
                    let same = a.state(now) == b.state(now) && a.state(now) != HealthState::BackingOff;
                    prop_assert!(!same || !a.is_clearly_faster(b));
                }
            }
            for mirror in &one.known {
                prop_assert!(mirror.health.backoff_until().is_none_or(|until| until <= now + MAX_BACKOFF));
            }
        }
        // No failure counts against a URL for ever.
        let later = now + S * 3600;
        prop_assert!(one.order(later).iter().all(|slot| one.state(*slot, later) == HealthState::Healthy));
    }

    #[test]
    fn the_configured_order_stays_while_nobody_is_clearly_faster(
        samples in prop::collection::vec((0_usize..3, 5.0..6.5), 0..60),
    ) {
        let (mut mirrors, now) = (mirrors(3), Instant::now());
        for (slot, rate) in samples {
            deliver(&mut mirrors, slot, now, rate);
            prop_assert_eq!(mirrors.order(now), [0, 1, 2]);
        }
    }

    /// Constant rates, measured with noise, lead to one stable order.
    #[test]
    fn the_order_does_not_flap(
        rates in prop::collection::vec(0.2_f64..20.0, 4),
        noise in prop::collection::vec((0_usize..4, 0.9_f64..1.1), 100),
    ) {
        let (mut mirrors, now) = (mirrors(4), Instant::now());
        let mut changes = 0;
        for (slot, noise) in noise {
            let before = mirrors.order(now);
            deliver(&mut mirrors, slot, now, rates[slot] * noise);
            changes += usize::from(mirrors.order(now) != before);
        }
        prop_assert!(changes <= 6, "{changes} changes with {rates:?}");
    }
}

#[test]
fn a_file_that_is_not_there_is_no_ill_health() {
    let (mut mirrors, now) = (mirrors(2), Instant::now());
    (0..20).for_each(|_| mirrors.note(0, Health::served));
    assert_eq!((mirrors.order(now), mirrors.state(0, now)), (vec![0, 1], HealthState::Healthy));
}

#[test]
fn who_is_clearly_faster_comes_first_and_stays_there() {
    let (mut mirrors, now) = (mirrors(3), Instant::now());
    deliver(&mut mirrors, 0, now, 1.0);
    // The URL in between was never measured, and does not block the move.
    deliver(&mut mirrors, 2, now, 1.6);
    assert_eq!(mirrors.order(now), [2, 0, 1]);
    // A little faster is not enough to move back.
    (0..9).for_each(|_| deliver(&mut mirrors, 0, now, 2.0));
    assert_eq!(mirrors.order(now), [2, 0, 1]);
    (0..9).for_each(|_| deliver(&mut mirrors, 0, now, 3.0));
    assert_eq!(mirrors.order(now), [0, 2, 1]);
}

#[test]
fn where_all_rest_the_one_that_is_back_first_is_asked() {
    let (mut mirrors, now) = (mirrors(3), Instant::now());
    for (slot, at) in [(0, 3), (1, 1), (2, 2)] {
        fail(&mut mirrors, slot, now + S * at);
    }
    assert_eq!(mirrors.order(now + S * 4), [1, 2, 0]);
    mirrors.note(2, Health::served);
    assert_eq!(mirrors.order(now + S * 4), [2, 1, 0]);
}

#[test]
fn whoever_is_not_known_gets_a_chance_now_and_then() {
    let (mut mirrors, mut now) = (mirrors(3), Instant::now());
    deliver(&mut mirrors, 0, now, 1.0);
    fail(&mut mirrors, 1, now);
    let chances = |mirrors: &mut Mirrors, now, packages: usize| -> Vec<MirrorSlot> {
        (0..packages).filter_map(|_| mirrors.chance(now)).collect()
    };
    assert_eq!(chances(&mut mirrors, now, 7), Vec::<MirrorSlot>::new());
    // The URL that backs off gets none; the one without the file ever fewer.
    assert_eq!(chances(&mut mirrors, now, 100), [2, 2, 2, 2]);
    now += MAX_BACKOFF;
    deliver(&mut mirrors, 2, now, 9.0);
    assert_eq!(mirrors.order(now), [2, 0, 1]);
    assert_eq!(chances(&mut mirrors, now, 8), [1]);
    deliver(&mut mirrors, 1, now, 9.0);
    assert_eq!(chances(&mut mirrors, now, 100), Vec::<MirrorSlot>::new());
    // An old measurement is repeated.
    assert!(!chances(&mut mirrors, now + S * 4000, 8).is_empty());
}

#[test]
fn the_index_comes_from_where_it_came_from_but_not_for_ever() {
    let (mut mirrors, now) = (mirrors(3), Instant::now());
    assert_eq!(mirrors.index_first(None, now), 0);
    assert_eq!(mirrors.index_first(Some(2), now), 2);
    assert_eq!(mirrors.index_first(Some(2), now + HOME_TIME / 2), 2);
    assert_eq!(mirrors.index_first(Some(2), now + HOME_TIME), 0);
    assert_eq!(mirrors.index_first(Some(2), now + HOME_TIME + S), 2);
    assert_eq!(mirrors.index_first(Some(1), now + HOME_TIME * 2), 1);
    assert_eq!(mirrors.index_first(Some(0), now + HOME_TIME * 2), 0);
}

#[test]
fn places_that_indexes_name_are_bounded() {
    let mut mirrors = mirrors(2);
    let named = |n: usize| format!("http://named{n}/").parse::<BinhostUrl>().unwrap();
    assert_eq!(mirrors.slot_of(&"http://m1/".parse().unwrap()), 1);
    for n in 0..99 {
        let slot = mirrors.slot_of(&named(n));
        assert_eq!(mirrors.slot_of(&named(n)), slot);
    }
    assert_eq!(mirrors.known.len(), 2 + MAX_NAMED);
}
