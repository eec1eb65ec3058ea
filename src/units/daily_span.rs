//! Spans of time that come every day, e.g. `08:00-23:00`.

use std::fmt;
use std::str::FromStr;

const DAY: u16 = 24 * 60;

/// A span from one time of day until before another. It may contain midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DailySpan {
    /// The first minute, counted from midnight.
    from: u16,
    /// The minute after the last one.
    until: u16,
}

/// A text that is not such a span.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a span of the day: give two times of the 24-hour clock that differ, e.g. 08:00-23:00")]
pub(crate) struct DailySpanError(String);

impl DailySpan {
    fn contains(self, minute: u16) -> bool {
        if self.from < self.until {
            (self.from..self.until).contains(&minute)
        } else {
            minute >= self.from || minute < self.until
        }
    }

    /// Returns the seconds from `second` of the day to the end of the spans that contain it, or
    /// that follow without a gap; at most a day. `None`: no span contains it.
    #[must_use]
    pub(crate) fn rest_of(spans: &[Self], second: u32) -> Option<u64> {
        let minute = u16::try_from(second / 60).ok()?;
        let is_in = |after: &u16| spans.iter().any(|span| span.contains((minute + after) % DAY));
        let minutes = (0..DAY).take_while(is_in).count() as u64;
        (minutes > 0).then(|| minutes * 60 - u64::from(second % 60))
    }
}

fn time(text: &str) -> Option<u16> {
    let (hour, minute) = text.trim().split_once(':')?;
    let number = |text: &str, most: u16| -> Option<u16> {
        let plain = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|number| plain && *number <= most)
    };
    let minutes = number(hour, 24)? * 60 + number(minute, 59).filter(|_| minute.len() == 2)?;
    (minutes <= DAY).then_some(minutes)
}

impl FromStr for DailySpan {
    type Err = DailySpanError;

    fn from_str(text: &str) -> Result<Self, DailySpanError> {
        let parsed = text.split_once('-').and_then(|(from, until)| {
            let (from, until) = (time(from)?, time(until)?);
            (from < DAY && from != until).then_some(Self { from, until })
        });
        parsed.ok_or_else(|| DailySpanError(text.to_owned()))
    }
}

impl fmt::Display for DailySpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, until } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, until / 60, until % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(spans: &[&str], time_of_day: &str) -> Option<u64> {
        let spans: Vec<DailySpan> = spans.iter().map(|text| text.parse().unwrap()).collect();
        DailySpan::rest_of(&spans, u32::from(time(time_of_day).unwrap()) * 60)
    }

    #[test]
    fn spans_as_people_write_and_read_them() {
        for (text, shown) in
            [("08:00-23:00", "08:00-23:00"), ("8:00 - 9:05", "08:00-09:05"), ("0:00-24:00", "00:00-24:00")]
        {
            assert_eq!(text.parse::<DailySpan>().unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "8-23",
            "08:00",
            "08:00-08:00",
            "24:00-08:00",
            "08:60-09:00",
            "08:00-24:01",
            "8:0-9:00",
            "8am-9pm",
            "+8:00-9:00",
            "008:00-9:00",
        ] {
            let error = bad.parse::<DailySpan>().unwrap_err().to_string();
            assert!(error.contains("e.g. 08:00-23:00"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_span_ends_when_it_says() {
        assert_eq!([rest(&["08:00-23:00"], "07:59"), rest(&["08:00-23:00"], "23:00")], [None, None]);
        assert_eq!(rest(&["08:00-23:00"], "08:00"), Some(15 * 3600));
        assert_eq!(rest(&["08:00-23:00"], "22:59"), Some(60));
        let spans = ["08:00-23:00".parse().unwrap()];
        assert_eq!(DailySpan::rest_of(&spans, 23 * 3600 - 1), Some(1));
        assert_eq!(DailySpan::rest_of(&[], 5), None);
    }

    #[test]
    fn a_span_may_contain_midnight() {
        let night = &["22:30-06:00"];
        assert_eq!([rest(night, "22:29"), rest(night, "06:00"), rest(night, "12:00")], [None; 3]);
        assert_eq!(
            [rest(night, "22:30"), rest(night, "00:00"), rest(night, "05:59")],
            [Some(27000), Some(21600), Some(60)]
        );
        assert_eq!(rest(&["20:00-24:00"], "23:59"), Some(60));
    }

    #[test]
    fn spans_that_touch_are_one() {
        assert_eq!(rest(&["08:00-12:00", "11:00-13:00", "13:00-14:00"], "09:00"), Some(5 * 3600));
        assert_eq!(rest(&["20:00-24:00", "00:00-01:00"], "20:00"), Some(5 * 3600));
        // Together they have the whole day, and no end.
        assert_eq!(rest(&["06:00-18:00", "18:00-06:00"], "09:30"), Some(86400));
    }
}
