//! The URLs of one file, and the choice of the next one to ask.
//!
//! The best mirror state comes first, then the fewest tries, then the order of `mirrors`. The
//! number of tries is bounded for each URL, and so is the number of times that a slow URL is left.
//! A URL that lacks the file, or had it wrong, is not asked for it again.
//!
//! A file that was put together from several connections may prove wrong once for each URL that
//! contributed. After that, such a URL is asked for the whole file only, and once. Otherwise a
//! server that breaks off and sends wrong continuations could repeat this for ever.

use std::time::Duration;

use tokio::time::Instant;
use url::Url;

use super::UpstreamError;
use super::health::{Health, HealthState};
use super::mirrors::{MirrorSlot, Mirrors};
use super::retry::{self, ATTEMPTS, MAX_SLOW, Others, PROGRESS, RetryDecision, STALL_TIMEOUT};

/// One URL of the file.
#[derive(Debug)]
pub(super) struct UrlCandidate {
    pub(super) slot: MirrorSlot,
    pub(super) url: Url,
    /// Number of tries without progress between them.
    tries: u32,
    /// Number of new bytes from this URL that do not count as progress yet.
    new_bytes: u64,
    gone: bool,
    /// Whether bytes of the current file came from this URL.
    contributed: bool,
    /// Whether the URL is asked for the whole file only, and given up if that fails.
    whole: bool,
    /// Rate in bytes/s at which a download left the URL because it was slow.
    slow: Option<f64>,
    /// Error of the last failure.
    error: Option<UpstreamError>,
}

impl UrlCandidate {
    pub(super) fn new(slot: MirrorSlot, url: Url) -> Self {
        Self {
            slot,
            url,
            tries: 0,
            new_bytes: 0,
            gone: false,
            contributed: false,
            whole: false,
            slow: None,
            error: None,
        }
    }

    fn is_left(&self) -> bool {
        !self.gone && self.tries < ATTEMPTS
    }
}

/// The URLs of one file. See the module's documentation.
#[derive(Debug)]
pub(super) struct Candidates {
    all: Vec<UrlCandidate>,
    /// Slot to ask before others in the same mirror state.
    first: Option<MirrorSlot>,
    current: Option<usize>,
    slow: u32,
}

impl Candidates {
    pub(super) fn new(all: Vec<UrlCandidate>, first: Option<MirrorSlot>) -> Self {
        Self { all, first, current: None, slow: 0 }
    }

    /// Returns the URL that is asked now.
    pub(super) fn current(&self) -> Option<&UrlCandidate> {
        self.current.and_then(|at| self.all.get(at))
    }

    /// Whether the first URL is that of a local file.
    pub(super) fn is_local(&self) -> bool {
        self.all.first().is_some_and(|candidate| candidate.url.scheme() == "file")
    }

    /// Chooses a URL to ask, if none is chosen. `None`: nothing is left to try.
    pub(super) fn choose(&mut self, mirrors: &Mirrors, now: Instant) -> Option<&UrlCandidate> {
        if self.current.is_none() {
            let order = mirrors.order(now);
            let key = |candidate: &UrlCandidate| {
                let position = order.iter().position(|slot| *slot == candidate.slot);
                let UrlCandidate { slot, tries, slow, .. } = *candidate;
                (mirrors.state(slot, now), slow.is_some(), tries, Some(slot) != self.first, position)
            };
            let left = self.all.iter().enumerate().filter(|(_, candidate)| candidate.is_left());
            self.current = left.min_by_key(|(_, candidate)| key(candidate)).map(|(at, _)| at);
        }
        self.current()
    }

    /// Whether another URL is available that neither backs off nor is being probed.
    pub(super) fn others(&self, mirrors: &Mirrors, now: Instant) -> Others {
        let ready = |candidate: &UrlCandidate| mirrors.state(candidate.slot, now) <= HealthState::Distrusted;
        if self.besides().any(ready) { Others::Ready } else { Others::None }
    }

    /// How long the current URL may send nothing.
    pub(super) fn patience(&self, mirrors: &Mirrors, now: Instant) -> Duration {
        match self.others(mirrors, now) {
            Others::None => STALL_TIMEOUT,
            Others::Ready => {
                let health = self.current().and_then(|candidate| mirrors.health(candidate.slot));
                retry::patience(health.and_then(Health::first_byte))
            }
        }
    }

    /// Returns the slot of a better URL, if the current one delivers `rate` bytes/s with `missing`
    /// bytes to come. `None`: the current URL is kept.
    pub(super) fn outpaced(&self, mirrors: &Mirrors, now: Instant, rate: f64, missing: u64) -> Option<MirrorSlot> {
        if self.slow >= MAX_SLOW {
            return None;
        }
        let better = |candidate: &&UrlCandidate| {
            let health = mirrors.health(candidate.slot);
            let proven =
                health.is_some_and(|health| health.failures() == 0 && health.state(now) == HealthState::Healthy);
            // The rate measured for this file is more reliable than an older one.
            proven && retry::is_outpaced(rate, candidate.slow.or(health.and_then(Health::rate)), missing)
        };
        let order = mirrors.order(now);
        let position = |candidate: &&UrlCandidate| order.iter().position(|slot| *slot == candidate.slot);
        self.besides().filter(better).min_by_key(position).map(|candidate| candidate.slot)
    }

    /// Prefers `slot` from now on.
    pub(super) fn prefer(&mut self, slot: MirrorSlot) {
        self.first = Some(slot);
        self.all.iter_mut().filter(|candidate| candidate.slot == slot).for_each(|candidate| candidate.slow = None);
    }

    /// Failed tries of the current URL, without progress between them.
    pub(super) fn tries(&self) -> u32 {
        self.current().map_or(0, |candidate| candidate.tries)
    }

    /// Records a failure of the current URL.
    pub(super) fn failed(&mut self, error: UpstreamError, decision: RetryDecision) {
        let Some(candidate) = self.current.and_then(|at| self.all.get_mut(at)) else { return };
        // A slow URL can still serve the file, so slowness is not stored as its error.
        if let UpstreamError::Outpaced { rate, .. } = error {
            self.slow += 1;
            candidate.slow = Some(rate as f64);
        } else {
            candidate.tries += 1;
            candidate.gone |= candidate.whole;
            candidate.error = Some(error);
        }
        candidate.gone |= decision == RetryDecision::Gone;
        if decision != RetryDecision::Again || !candidate.is_left() {
            self.current = None;
        }
    }

    /// Records new bytes from the current URL, which no URL had sent before.
    pub(super) fn progressed(&mut self, bytes: u64) {
        if let Some(candidate) = self.current.and_then(|at| self.all.get_mut(at)) {
            candidate.new_bytes += bytes;
            if candidate.new_bytes >= PROGRESS {
                (candidate.tries, candidate.new_bytes) = (0, 0);
            }
        }
    }

    /// Gives up the current URL for this file, because it is useless or was used.
    pub(super) fn give_up_current(&mut self) {
        if let Some(candidate) = self.current.take().and_then(|at| self.all.get_mut(at)) {
            candidate.gone = true;
        }
    }

    /// Records that the current URL sends the file from its first byte.
    pub(super) fn began(&mut self) {
        self.all.iter_mut().for_each(|candidate| candidate.contributed = false);
        self.contributes();
    }

    /// Records that the current URL continues the file.
    pub(super) fn contributes(&mut self) {
        if let Some(candidate) = self.current.and_then(|at| self.all.get_mut(at)) {
            candidate.contributed = true;
        }
    }

    /// Whether the current URL may only be asked for the whole file.
    pub(super) fn must_send_whole(&self) -> bool {
        self.current().is_some_and(|candidate| candidate.whole)
    }

    /// Records that a file from several connections proved wrong. Which of the URLs is at fault is
    /// unknown.
    pub(super) fn spliced_wrong(&mut self) {
        for candidate in self.all.iter_mut().filter(|candidate| candidate.contributed) {
            candidate.whole = true;
        }
    }

    /// Resets the tries, because the file is fetched from its beginning again.
    pub(super) fn begin_anew(&mut self) {
        self.all.iter_mut().for_each(|candidate| candidate.tries = 0);
    }

    /// Gives up all URLs.
    pub(super) fn stop(&mut self) {
        self.current = None;
        self.all.iter_mut().for_each(|candidate| candidate.gone = true);
    }

    /// Whether any URL is left to try.
    pub(super) fn any_left(&self) -> bool {
        self.all.iter().any(UrlCandidate::is_left)
    }

    /// Whether any URL failed with an error that was not taken yet.
    pub(super) fn has_error(&self) -> bool {
        self.all.iter().any(|candidate| candidate.error.is_some())
    }

    /// Takes the last error of each URL, as the reason why the file cannot be fetched.
    pub(super) fn take_error(&mut self) -> UpstreamError {
        let mut errors: Vec<UpstreamError> =
            self.all.iter_mut().filter_map(|candidate| candidate.error.take()).collect();
        match errors.pop() {
            Some(only) if errors.is_empty() => only,
            last => UpstreamError::All(errors.into_iter().chain(last).collect()),
        }
    }

    /// Iterates over the URLs left to try, without the current one.
    fn besides(&self) -> impl Iterator<Item = &UrlCandidate> {
        let others = self.all.iter().enumerate().filter(|(at, _)| Some(*at) != self.current);
        others.map(|(_, candidate)| candidate).filter(|candidate| candidate.is_left())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    struct Scene(Mirrors, Candidates, Instant);

    impl Scene {
        fn new(count: usize) -> Self {
            let url = |slot: usize| format!("http://m{slot}/");
            let mirrors = Mirrors::new(&(0..count).map(|slot| url(slot).parse().unwrap()).collect::<Vec<_>>());
            let all = (0..count).map(|slot| UrlCandidate::new(slot, url(slot).parse().unwrap())).collect();
            Self(mirrors, Candidates::new(all, None), Instant::now())
        }

        fn choose(&mut self) -> Option<MirrorSlot> {
            self.1.choose(&self.0, self.2).map(|candidate| candidate.slot)
        }

        fn stall(&mut self) -> RetryDecision {
            let Self(mirrors, candidates, now) = self;
            let error = UpstreamError::Stalled { url: String::new(), after: S };
            let slot = candidates.current().unwrap().slot;
            mirrors.note(slot, |health| health.failed(*now, String::new(), |_| S * 10, Duration::ZERO));
            let decision = retry::judge(&error, candidates.others(mirrors, *now));
            candidates.failed(error, decision);
            *now += S / 10;
            decision
        }

        fn lacks(&mut self) {
            self.1.failed(
                UpstreamError::Status { url: String::new(), status: 404, retry_after: None },
                RetryDecision::Gone,
            );
        }

        fn leave(&mut self, rate: f64, to: MirrorSlot) {
            let error = UpstreamError::Outpaced { url: String::new(), rate: rate as u64, by: String::new() };
            self.1.failed(error, RetryDecision::Elsewhere);
            self.1.prefer(to);
        }

        fn delivered(&mut self, slot: MirrorSlot, rate: f64) {
            self.0.delivered(slot, self.2, (rate as u64, S));
        }
    }

    /// A URL that was left for an even slower one is asked again, once.
    #[test]
    fn the_less_slow_gets_it_back() {
        let mut scene = Scene::new(2);
        assert_eq!(scene.choose(), Some(0));
        assert_eq!(scene.1.outpaced(&scene.0, scene.2, 50e3, 100 << 20), Some(1));
        scene.leave(50e3, 1);
        assert_eq!(scene.choose(), Some(1));
        assert_eq!(scene.1.outpaced(&scene.0, scene.2, 20e3, 100 << 20), None);
        assert_eq!(scene.1.outpaced(&scene.0, scene.2, 10e3, 100 << 20), Some(0));
        scene.leave(10e3, 0);
        assert_eq!(scene.choose(), Some(0));
        assert_eq!(scene.1.outpaced(&scene.0, scene.2, 1.0, 100 << 20), None);
    }

    #[test]
    fn dead_urls_take_turns_and_end() {
        let mut scene = Scene::new(3);
        let mut asked = Vec::new();
        while let Some(slot) = scene.choose() {
            let patient = scene.1.patience(&scene.0, scene.2) == STALL_TIMEOUT;
            asked.push((slot, patient, scene.stall()));
        }
        assert_eq!(asked[..2], [(0, false, RetryDecision::Elsewhere), (1, false, RetryDecision::Elsewhere)]);
        assert!(
            asked[2..].iter().all(|(_, patient, decision)| *patient && *decision == RetryDecision::Later),
            "{asked:?}"
        );
        let slots: Vec<MirrorSlot> = asked.iter().map(|(slot, ..)| *slot).collect();
        assert_eq!(slots, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
        assert!(matches!(scene.1.take_error(), UpstreamError::All(errors) if errors.len() == 3));
    }

    #[test]
    fn what_rests_is_left_alone_while_another_has_the_file() {
        let mut scene = Scene::new(2);
        assert_eq!((scene.choose(), scene.stall()), (Some(0), RetryDecision::Elsewhere));
        let next = Candidates::new(vec![UrlCandidate::new(0, "http://a/".parse().unwrap())], None);
        assert_eq!(scene.choose(), Some(1));
        scene.lacks();
        // The last resort is asked nevertheless, and with patience.
        assert_eq!(scene.choose(), Some(0));
        assert_eq!(scene.1.patience(&scene.0, scene.2), STALL_TIMEOUT);
        let mut alone = Scene(scene.0, next, scene.2);
        assert_eq!(alone.choose(), Some(0));
    }

    #[test]
    fn what_took_part_in_a_wrong_body_gets_one_try_for_the_whole() {
        let mut scene = Scene::new(3);
        assert_eq!(scene.choose(), Some(0));
        scene.1.began();
        scene.stall();
        assert_eq!(scene.choose(), Some(1));
        scene.1.contributes();
        scene.1.spliced_wrong();
        scene.1.begin_anew();
        let mut asked = Vec::new();
        while let Some(slot) = scene.choose() {
            asked.push((slot, scene.1.must_send_whole()));
            // Progress before the break resets the tries of a URL, except for one that may only
            // send the whole file.
            scene.1.began();
            if asked.len() < 5 {
                scene.1.progressed(PROGRESS);
            }
            scene.stall();
        }
        let of = |wanted: MirrorSlot| asked.iter().filter(move |(slot, _)| *slot == wanted).map(|(_, whole)| *whole);
        assert_eq!(asked[0], (1, true), "the one that was asked last");
        assert!(of(0).eq([true]) && of(1).eq([true]), "{asked:?}");
        assert!(of(2).count() >= ATTEMPTS as usize && of(2).all(|whole| !whole), "{asked:?}");
    }

    #[test]
    fn a_few_bytes_at_a_time_are_no_progress() {
        let tries = |bytes: u64| {
            let mut scene = Scene::new(1);
            let tries = (0..100).take_while(|_| {
                let left = scene.choose().is_some();
                scene.1.progressed(bytes);
                left && scene.stall() == RetryDecision::Later
            });
            tries.count()
        };
        assert_eq!([0, 1, PROGRESS / 3 - 1].map(tries), [ATTEMPTS as usize; 3]);
        assert_eq!([PROGRESS / 2, PROGRESS].map(tries), [100; 2]);
    }

    #[test]
    fn a_file_that_nobody_has_contradicts_the_index() {
        let mut scene = Scene::new(2);
        while scene.choose().is_some() {
            scene.lacks();
        }
        assert!(scene.1.take_error().contradicts_index());
    }

    #[test]
    fn the_slow_are_left_for_the_proven_and_never_ping_pong() {
        let mut scene = Scene::new(4);
        let slow = 100e3;
        let outpaced = |scene: &Scene| scene.1.outpaced(&scene.0, scene.2, slow, 100 << 20);
        scene.choose();
        assert_eq!(outpaced(&scene), None, "nobody is known to be faster");
        scene.delivered(2, 10e6);
        scene.delivered(3, 300e3);
        let mut way = vec![0];
        while let Some(to) = outpaced(&scene) {
            scene.leave(slow, to);
            way.push(scene.choose().unwrap());
        }
        // 0 is not asked again, 3 is not much faster.
        assert_eq!(way, [0, 2]);
        assert!(scene.1.any_left());
        assert_eq!(scene.1.outpaced(&scene.0, scene.2, 10.0, 10), None, "nothing is left to gain");
    }
}
