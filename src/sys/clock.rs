//! The system clock, and time that does not depend on it.
//!
//! A machine without a battery for its clock starts in 1970, or when its system was built, and gets the time minutes later from
//! a time server. A clock that shows an earlier time than one that has certainly passed ([`Passed`]) is wrong, and what it
//! decides is decided again later. How long ago something happened is measured from the boot ([`Moment`]).

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// When the program was built, seconds since the epoch; `build.rs` says where this comes from.
pub const BUILT: u64 = match u64::from_str_radix(env!("BINHOSTFS_BUILD_DATE"), 10) {
    Ok(date) => date,
    Err(_) => 0,
};
/// Smaller corrections of the clock change no judgement, s. Some virtual machines make one every minute.
pub const STEP: u64 = 60;
/// The last second that can be written as a date, since the epoch.
const END_OF_9999: u64 = 253_402_300_799;

/// What the system clock shows, seconds since the epoch.
#[must_use]
pub fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| span.as_secs())
}

/// Time since the epoch less time since the boot, s. It changes only when the clock is set, and is another one after each boot.
#[must_use]
pub fn offset() -> i64 {
    seconds_now().cast_signed().saturating_sub(clock_gettime(ClockId::Boottime).tv_sec)
}

/// When something happened, by a clock that nobody sets and that goes on while the machine sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    since_boot: Duration,
    /// What the system clock showed, seconds since the epoch.
    shown: u64,
}

impl Moment {
    /// This moment.
    #[must_use]
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let since_boot = Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default());
        Self { since_boot, shown: seconds_now() }
    }

    /// How long ago it was.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Self::now().since_boot.saturating_sub(self.since_boot)
    }

    /// When it was by the system clock as that is set now, seconds since the epoch. Small corrections do not show.
    #[must_use]
    pub fn by_clock(&self) -> u64 {
        let now = Self::now();
        let by_clock = now.shown.saturating_sub(now.since_boot.saturating_sub(self.since_boot).as_secs());
        if by_clock.abs_diff(self.shown) < STEP { self.shown } else { by_clock }
    }
}

/// What tells that a time has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PastEvent {
    /// The program was built.
    Built,
    /// A key of the keyring was made, or signed by its owner.
    KeySigned,
    /// A binhost confirmed the index that is stored.
    IndexConfirmed,
}

impl fmt::Display for PastEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Built => "this program was built",
            Self::KeySigned => "a key of the keyring was signed",
            Self::IndexConfirmed => "the index was last confirmed",
        })
    }
}

/// A time that has certainly passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    at: u64,
    event: PastEvent,
}

impl Passed {
    /// When the program was built.
    pub const BUILT: Self = Self { at: BUILT, event: PastEvent::Built };

    /// `at`: seconds since the epoch.
    #[must_use]
    pub fn new(at: u64, event: PastEvent) -> Self {
        Self { at: at.min(END_OF_9999), event }
    }

    /// The time.
    #[must_use]
    pub fn time(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.at)
    }

    /// The later one.
    #[must_use]
    pub fn or_later(self, other: Option<Self>) -> Self {
        other.filter(|other| other.at > self.at).unwrap_or(self)
    }

    /// Whether a clock that shows `now`, seconds since the epoch, can be right.
    ///
    /// # Errors
    /// It cannot.
    pub fn check(self, now: u64) -> Result<(), WrongClock> {
        if now < self.at { Err(WrongClock { shows: now, passed: self }) } else { Ok(()) }
    }
}

/// The system clock shows a time that has passed long ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongClock {
    shows: u64,
    passed: Passed,
}

impl std::error::Error for WrongClock {}

impl fmt::Display for WrongClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = |at: u64| httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(at));
        let Self { shows, passed: Passed { at, event } } = *self;
        write!(
            f,
            "the clock of this machine is wrong: it shows {}, but {event} on {}; set it (`date -s`, or a time server)",
            date(shows),
            date(at)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_time_that_has_passed_is_named() {
        // 2026 and 2100.
        assert!((1_767_225_600..4_102_444_800).contains(&BUILT), "{BUILT}");
        assert_eq!(Passed::BUILT.check(BUILT), Ok(()));
        let wrong = Passed::BUILT.check(3600).unwrap_err().to_string();
        assert!(wrong.contains("shows Thu, 01 Jan 1970 01:00:00 GMT, but this program was built on "), "{wrong}");
        let later = Passed::new(BUILT + 86400, PastEvent::KeySigned);
        let known = Passed::BUILT.or_later(None).or_later(Some(later));
        assert_eq!((known, known.or_later(Some(Passed::BUILT))), (later, later));
        assert_eq!(known.check(BUILT + 86400), Ok(()));
        assert!(known.check(BUILT).unwrap_err().to_string().contains("a key of the keyring was signed on "));
        // Whatever a damaged file says can be shown.
        let far = Passed::new(u64::MAX, PastEvent::IndexConfirmed).check(0).unwrap_err().to_string();
        assert!(far.contains("confirmed on Fri, 31 Dec 9999"), "{far}");
    }

    #[test]
    fn a_moment_is_shown_by_the_clock_of_whoever_asks() {
        let moment = Moment::now();
        assert!(moment.elapsed() < Duration::from_secs(60) && moment.by_clock() == moment.shown);
        // What it showed then is not what it would have shown if it had been set as now.
        let of_1970 = Moment { shown: 3600, ..moment };
        assert!(of_1970.by_clock().abs_diff(moment.shown) < 60, "{of_1970:?}");
        let slightly_off = Moment { shown: moment.shown - STEP / 2, ..moment };
        assert_eq!(slightly_off.by_clock(), moment.shown - STEP / 2);
    }
}
