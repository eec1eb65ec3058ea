//! Spans of time in the notation that people use.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A span of whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interval(pub Duration);

/// A text that is not a span of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a span of time: give seconds, or a number with s, m, h or d, e.g. 30m")]
pub(crate) struct IntervalError(String);

const UNITS: [(char, u64); 4] = [('d', 86400), ('h', 3600), ('m', 60), ('s', 1)];

impl Interval {
    /// The shortest text that is parsed to exactly these seconds, e.g. `30m`.
    #[must_use]
    pub(crate) fn notation(&self) -> String {
        let seconds = self.0.as_secs();
        let whole = |(_, unit): &&(char, u64)| seconds > 0 && seconds.is_multiple_of(*unit);
        match UNITS.iter().find(whole) {
            Some((letter, unit)) => format!("{}{letter}", seconds / unit),
            None => seconds.to_string(),
        }
    }
}

impl FromStr for Interval {
    type Err = IntervalError;

    fn from_str(text: &str) -> Result<Self, IntervalError> {
        let error = || IntervalError(text.to_owned());
        let plain = text.trim();
        let unit = UNITS.iter().find(|(letter, _)| plain.ends_with(*letter));
        let (number, seconds) =
            unit.map_or((plain, 1), |(letter, seconds)| (plain.strip_suffix(*letter).unwrap_or(plain), *seconds));
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(error());
        }
        let number: u64 = number.parse().map_err(|_| error())?;
        // The limit is a hundred years: larger values overflow clocks.
        let total = number.checked_mul(seconds).filter(|total| *total <= 36500 * 86400).ok_or_else(error)?;
        Ok(Self(Duration::from_secs(total)))
    }
}

/// Prints a rounded value in the largest unit that fits, for people.
impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (letter, unit) = UNITS.iter().find(|(_, unit)| seconds >= 2 * unit).copied().unwrap_or(('s', 1));
        let name = match letter {
            'd' => "days",
            'h' => "h",
            'm' => "min",
            _ => "s",
        };
        write!(f, "{} {name}", seconds / unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_as_people_would_write_them() {
        for text in ["0", "1s", "90s", "30m", "5h", "25h", "14d"] {
            assert_eq!(text.parse::<Interval>().unwrap().notation(), text);
        }
    }

    #[test]
    fn spans_as_people_write_and_read_them() {
        for (text, seconds) in [("90", 90), ("1s", 1), ("30m", 1800), ("2h", 7200), ("1d", 86400), ("0", 0)] {
            assert_eq!(text.parse::<Interval>().unwrap().0.as_secs(), seconds, "{text}");
        }
        for bad in ["", "m", "-1", "1.5h", "1w", "mm", "1mm", "99999999999999999999", "9999999999d"] {
            assert!(bad.parse::<Interval>().is_err(), "{bad}");
        }
        for (seconds, text) in [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 days")] {
            assert_eq!(Interval(Duration::from_secs(seconds)).to_string(), text);
        }
    }
}
