//! Decides when the indexes are asked for: at intervals with jitter, and sooner after a failure or
//! when packages contradict their entries.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::upstream::jittered;

/// Longest interval until the next refresh after a failed one, before jitter (a half to one and a
/// half of it).
const RETRY: Duration = Duration::from_secs(60);
/// Shortest interval between refreshes that failed packages trigger.
const PACE: Duration = Duration::from_secs(10);

/// When the last refresh was, and when the next one is due.
#[derive(Debug)]
pub(super) struct RefreshSchedule {
    /// Mean time between refreshes.
    interval: Duration,
    due: Instant,
    last: Option<Instant>,
}

impl RefreshSchedule {
    /// The first refresh is due at once: the stored indexes may be old.
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, due: Instant::now(), last: None }
    }

    /// Waits until a refresh is due.
    pub(super) async fn due(&self) {
        sleep_until(self.due).await;
    }

    /// Makes a refresh due at once.
    pub(super) fn hurry(&mut self) {
        self.due = Instant::now();
    }

    /// Makes a refresh due soon, because a package failed: not for every package.
    pub(super) fn refresh_soon(&mut self) {
        let now = Instant::now();
        self.due = self.due.min(self.last.map_or(now, |last| now.max(last + PACE)));
    }

    /// Sets the interval. A refresh is due at once.
    pub(super) fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
        self.hurry();
    }

    /// Records the end of a refresh.
    pub(super) fn refreshed(&mut self, failed: bool) {
        let (now, interval) = (Instant::now(), jittered(self.interval));
        self.last = Some(now);
        self.due = now + if failed { interval.min(jittered(RETRY)) } else { interval };
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::daemon::binhosts::freshness::Order;
    use crate::daemon::binhosts::scene::{INDEX, Scene, TIME, index};
    use crate::daemon::binhosts::{Asker, Binhosts};
    use crate::upstream::Answer;

    const HOUR: Duration = Duration::from_secs(3600);

    /// How long the schedule waits after each of many refreshes.
    async fn waits(interval: Duration, failed: bool) -> Vec<Duration> {
        let mut schedule = RefreshSchedule::new(interval);
        let mut waits = Vec::new();
        for _ in 0..200 {
            schedule.due().await;
            schedule.refreshed(failed);
            let start = Instant::now();
            schedule.due().await;
            waits.push(start.elapsed());
        }
        waits
    }

    fn bounds(waits: &[Duration]) -> (Duration, Duration) {
        (waits.iter().min().copied().unwrap(), waits.iter().max().copied().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn refreshes_are_an_interval_apart_more_or_less() {
        let start = Instant::now();
        RefreshSchedule::new(HOUR).due().await;
        assert_eq!(start.elapsed(), Duration::ZERO, "the first one is due at once");
        // tokio waits for whole milliseconds.
        let tick = Duration::from_millis(2);
        let (least, most) = bounds(&waits(HOUR, false).await);
        assert!(HOUR / 2 <= least && most <= HOUR * 3 / 2 + tick, "{least:?} {most:?}");
        assert!(most - least > HOUR / 2, "many clients do not ask at the same time: {least:?} {most:?}");
        // After a failure it is a minute, unless the interval is shorter.
        let (least, most) = bounds(&waits(HOUR, true).await);
        assert!(RETRY / 2 <= least && most <= RETRY * 3 / 2 + tick, "{least:?} {most:?}");
        let (least, most) = bounds(&waits(RETRY / 10, true).await);
        assert!(RETRY / 20 <= least && most <= RETRY / 10 * 3 / 2 + tick, "{least:?} {most:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn packages_that_fail_hasten_the_next_refresh_but_not_each() {
        let mut schedule = RefreshSchedule::new(HOUR);
        schedule.refreshed(false);
        let start = Instant::now();
        let mut refreshes = 0;
        // A package fails every second for a minute.
        while start.elapsed() < Duration::from_secs(60) {
            schedule.refresh_soon();
            if schedule.due <= Instant::now() {
                refreshes += 1;
                schedule.refreshed(false);
            }
            advance(Duration::from_secs(1)).await;
        }
        assert!((5..=6).contains(&refreshes), "{refreshes}");
        // One that is due already is not put off.
        schedule.hurry();
        let due = schedule.due;
        schedule.refresh_soon();
        assert_eq!(schedule.due, due);
        schedule.refreshed(false);
        schedule.set_interval(HOUR * 24);
        assert_eq!(schedule.due, Instant::now(), "another configuration is applied at once");
    }

    /// Refreshes for so long, as the refresher does.
    async fn run(binhosts: &mut Binhosts, schedule: &mut RefreshSchedule, time: Duration) {
        let refresh = async {
            loop {
                schedule.due().await;
                let failures = binhosts.refresh(Order::Forward, Asker::Timer).await;
                schedule.refreshed(!failures.is_empty());
            }
        };
        assert!(tokio::time::timeout(time, refresh).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_day_of_refreshes() {
        let scene = Scene::with_index(&index(TIME, &["one-1"]));
        let mut binhosts = scene.start_all();
        let mut schedule = RefreshSchedule::new(HOUR);
        let asked = || scene.mirrors[0].asked().len();
        run(&mut binhosts, &mut schedule, HOUR * 24).await;
        let day = asked();
        assert!((16..=48).contains(&day), "{day}");
        assert!(scene.mirrors[0].asked()[1..].iter().all(|asked| asked.conditional));
        // While the binhost fails, it is asked every minute, three times each.
        scene.answer(0, Answer::Status(503));
        run(&mut binhosts, &mut schedule, HOUR * 3).await;
        let failing = asked() - day;
        assert!((3 * 60..=3 * 400).contains(&failing), "{failing}");
        // Once it answers, it is asked every hour again.
        scene.publish(&index(TIME + 1, &["two-1"]));
        run(&mut binhosts, &mut schedule, HOUR * 24).await;
        assert!((16..=49).contains(&(asked() - day - failing)), "{}", asked() - day - failing);
        assert_eq!(scene.mirrors[0].asked().last().unwrap().path, format!("/{INDEX}"));
    }
}
