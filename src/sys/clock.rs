//! The system clock, and time that does not depend on it.
//!
//! A machine without a battery for its clock starts in 1970, or at the build date of its system. A
//! time server corrects the clock minutes later. A clock is wrong if it shows an earlier time than
//! one that has certainly passed ([`Passed`]); decisions made by such a clock are made again later.
//! [`Moment`] measures elapsed time from the boot.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// When the program was built, in seconds since the epoch. `build.rs` explains the source of this
/// value.
pub(crate) const BUILT: u64 = match u64::from_str_radix(env!("BINHOSTFS_BUILD_DATE"), 10) {
    Ok(date) => date,
    Err(_) => 0,
};
/// Corrections of the clock smaller than this, in seconds, change no decision. Some virtual
/// machines correct their clock every minute.
pub(crate) const STEP: u64 = 60;
/// The last second that can be written as a date, in seconds since the epoch.
const END_OF_9999: u64 = 253_402_300_799;

/// Returns the time of the system clock, in seconds since the epoch.
#[must_use]
pub(crate) fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| span.as_secs())
}

/// Returns the time since the epoch minus the time since the boot, in seconds. The value changes
/// only when the clock is set, and differs after each boot.
#[must_use]
pub(crate) fn offset() -> i64 {
    seconds_now().cast_signed().saturating_sub(clock_gettime(ClockId::Boottime).tv_sec)
}

/// The reading of the system clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    /// The clock shows a time before the program was built, so it cannot be right.
    Unset,
    /// Plausible time, seconds since the epoch.
    Set(u64),
}

impl Clock {
    pub(crate) fn now() -> Self {
        Self::showing(seconds_now())
    }

    pub(crate) fn showing(seconds: u64) -> Self {
        if seconds < BUILT { Self::Unset } else { Self::Set(seconds) }
    }
}

/// A point in time, by a clock that nobody sets and that runs while the machine sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    since_boot: Duration,
    /// Time of the system clock at that moment, in seconds since the epoch.
    shown: u64,
}

impl Moment {
    /// Returns the present moment.
    #[must_use]
    pub(crate) fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let since_boot = Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default());
        Self { since_boot, shown: seconds_now() }
    }

    /// Returns the moment by the system clock as it is set now, in seconds since the epoch.
    /// Corrections below `STEP` do not change the result.
    #[must_use]
    pub(crate) fn by_clock(&self) -> u64 {
        let now = Self::now();
        let by_clock = now.shown.saturating_sub(now.since_boot.saturating_sub(self.since_boot).as_secs());
        if by_clock.abs_diff(self.shown) < STEP { self.shown } else { by_clock }
    }
}

/// Event which proves that a time has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PastEvent {
    /// The build of this program.
    Built,
    /// The creation of a key of the keyring, or a signature by its owner.
    KeySigned,
    /// A binhost's confirmation of the stored index.
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

/// A time that has certainly passed, and the event that proves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    at: u64,
    event: PastEvent,
}

impl Passed {
    /// The time at which the program was built.
    pub const BUILT: Self = Self { at: BUILT, event: PastEvent::Built };

    /// Makes a time that has passed; `at` is in seconds since the epoch.
    #[must_use]
    pub fn new(at: u64, event: PastEvent) -> Self {
        Self { at: at.min(END_OF_9999), event }
    }

    /// Returns the time as a `SystemTime`.
    #[must_use]
    pub fn time(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.at)
    }

    /// Returns the later of two times.
    #[must_use]
    pub fn or_later(self, other: Option<Self>) -> Self {
        other.filter(|other| other.at > self.at).unwrap_or(self)
    }

    /// Checks a clock that shows `now`, in seconds since the epoch.
    ///
    /// # Errors
    /// The clock is wrong, because it shows an earlier time.
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
    fn a_clock_before_the_build_is_not_set() {
        assert_eq!([0, BUILT - 1].map(Clock::showing), [Clock::Unset; 2]);
        assert_eq!(Clock::showing(BUILT), Clock::Set(BUILT));
    }

    #[test]
    fn the_latest_time_that_has_passed_is_named() {
        // The build date is between 2026 and 2100.
        assert!((1_767_225_600..4_102_444_800).contains(&BUILT), "{BUILT}");
        assert_eq!(Passed::BUILT.check(BUILT), Ok(()));
        let wrong = Passed::BUILT.check(3600).unwrap_err().to_string();
        assert!(wrong.contains("shows Thu, 01 Jan 1970 01:00:00 GMT, but this program was built on "), "{wrong}");
        let later = Passed::new(BUILT + 86400, PastEvent::KeySigned);
        let known = Passed::BUILT.or_later(None).or_later(Some(later));
        assert_eq!((known, known.or_later(Some(Passed::BUILT))), (later, later));
        assert_eq!(known.check(BUILT + 86400), Ok(()));
        assert!(known.check(BUILT).unwrap_err().to_string().contains("a key of the keyring was signed on "));
        // Any value from a damaged file can be printed.
        let far = Passed::new(u64::MAX, PastEvent::IndexConfirmed).check(0).unwrap_err().to_string();
        assert!(far.contains("confirmed on Fri, 31 Dec 9999"), "{far}");
    }

    #[test]
    fn a_moment_is_shown_by_the_clock_of_whoever_asks() {
        let moment = Moment::now();
        assert_eq!(moment.by_clock(), moment.shown);
        // If the clock was wrong then, the result is the time by the corrected clock.
        let of_1970 = Moment { shown: 3600, ..moment };
        assert!(of_1970.by_clock().abs_diff(moment.shown) < 60, "{of_1970:?}");
        let slightly_off = Moment { shown: moment.shown - STEP / 2, ..moment };
        assert_eq!(slightly_off.by_clock(), moment.shown - STEP / 2);
    }
}
