//! The time of day by the time zone of this machine.
//!
//! The C library knows the zone (`TZ`, /etc/localtime), also with summer time. A crate for it would
//! read the same files.

use std::mem::MaybeUninit;

unsafe extern "C" {
    /// tzset(3): reads the time zone again, if it has changed. The libc crate does not declare it.
    fn tzset();
}

/// 28 years in seconds. After them, the days of a year fall on the same weekdays.
const CYCLE: u64 = (28 * 365 + 7) * 86400;

/// Returns the seconds since midnight, local time, at `seconds` since the epoch. `None`: the C
/// library has no local time for it.
#[must_use]
pub(crate) fn second_of_day(seconds: u64) -> Option<u32> {
    // The type is that of localtime_r's parameter. The libc crate has deprecated its name for musl.
    // With 32 bits it ends in 2038.
    let time = match seconds.try_into() {
        Ok(time) => time,
        Err(_) => within_32_bits(seconds)?.try_into().ok()?,
    };
    let mut local = MaybeUninit::<libc::tm>::uninit();
    // SAFETY: tzset has no arguments; nothing in this program changes the environment that it
    // reads. localtime_r reads `time` and writes only `local`, both of which live until it returns.
    let filled = unsafe {
        tzset();
        !libc::localtime_r(&raw const time, local.as_mut_ptr()).is_null()
    };
    // SAFETY: localtime_r has filled the structure, since it has not returned NULL.
    let local = filled.then(|| unsafe { local.assume_init() })?;
    // A leap second is the last second of its minute.
    let second = local.tm_hour * 3600 + local.tm_min * 60 + local.tm_sec.min(59);
    u32::try_from(second).ok()
}

/// Returns a time before 2038 with the same time of day, also where summer time begins and ends on
/// a weekday of a month. That holds until 2100, which is no leap year. `None`: no clock shows this
/// time.
fn within_32_bits(seconds: u64) -> Option<u64> {
    i64::try_from(seconds).ok()?;
    let beyond = seconds.saturating_sub(i32::MAX.cast_unsigned().into());
    Some(seconds - beyond.div_ceil(CYCLE) * CYCLE)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// 2026-01-15 and 2026-07-15, 12:00 UTC.
    const WINTER: u64 = 1_768_478_400;
    const SUMMER: u64 = 1_784_116_800;
    /// 2100-01-01, 00:00 UTC.
    const LATE: u64 = 4_102_444_800;

    /// Runs this test again in a process that has another time zone.
    #[test]
    fn the_zone_and_its_summer_time_count() {
        if let Ok(expected) = std::env::var("BINHOSTFS_TEST_HOURS") {
            let hours = [WINTER, SUMMER].map(|time| second_of_day(time).unwrap() / 3600);
            assert_eq!(format!("{hours:?}"), expected);
            // Each hour of every seventh year.
            for hour in (2027..2100).step_by(7).flat_map(|year| (0..8766).map(move |hour| (year - 1970) * 8766 + hour))
            {
                let time = hour * 3600;
                assert_eq!(within_32_bits(time).and_then(second_of_day), second_of_day(time), "{time}");
            }
            return;
        }
        for (zone, expected) in
            [("UTC0", "[12, 12]"), ("CET-1CEST,M3.5.0,M10.5.0/3", "[13, 14]"), ("XYZ+13", "[23, 23]")]
        {
            let mut again = Command::new(std::env::current_exe().unwrap());
            again.args(["--exact", "sys::local_time::tests::the_zone_and_its_summer_time_count"]);
            let output = again.env("TZ", zone).env("BINHOSTFS_TEST_HOURS", expected).output().unwrap();
            assert!(output.status.success(), "{zone}: {}", String::from_utf8_lossy(&output.stdout));
        }
    }

    #[test]
    fn times_after_2038_have_a_time_of_day() {
        let last = u64::from(i32::MAX.cast_unsigned());
        for time in [0, last, last + 1, last + CYCLE, last + CYCLE + 1, LATE, i64::MAX.cast_unsigned()] {
            let earlier = within_32_bits(time).unwrap();
            assert!(earlier <= last && (time - earlier).is_multiple_of(CYCLE), "{time}: {earlier}");
        }
        assert!(second_of_day(LATE).is_some() && second_of_day(u64::MAX).is_none());
    }

    #[test]
    fn no_time_panics() {
        for time in [0, 1, u64::from(u32::MAX), 1 << 40, 1 << 55, i64::MAX.cast_unsigned(), u64::MAX] {
            assert!(second_of_day(time).is_none_or(|second| second < 86400), "{time}");
        }
    }
}
