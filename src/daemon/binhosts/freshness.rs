//! Decides by TIMESTAMP whether an index is accepted.
//!
//! An index must not be older than the newest one that was accepted: an old index brings back
//! packages with known security holes. One false TIMESTAMP could therefore shut out every later
//! index. So an index is rejected if it is more than [`MAX_AHEAD`] ahead of the clock. A stored
//! TIMESTAMP does not count while it is that far ahead.
//!
//! While the clock is not set, every index is accepted that is not older, and its TIMESTAMP is not
//! remembered. The first refresh after the clock was set judges that index like a new one.

use crate::index::Index;
use crate::sys::Clock;

/// How far the TIMESTAMP of an index may be ahead of the clock, s: the clocks of two machines
/// differ.
const MAX_AHEAD: u64 = 24 * 3600;

/// Whether an index may be older than the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// TIMESTAMP must not decrease.
    Forward,
    /// The administrator permits an older index.
    Any,
}

/// Reasons to reject an index. The text is the same at each refresh, so that a repeated failure is
/// logged once.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IndexRejection {
    /// Only this reason is the mirror's fault.
    #[error(
        "the index is from the future (TIMESTAMP {0} is more than 24 h ahead of this machine's clock): refused, since every \
         index after it would be older; check `date`, and the clock of the machine that makes the index"
    )]
    Ahead(i64),
    #[error(
        "the index is older (TIMESTAMP {timestamp}) than the one accepted before ({newest}): refused, since it could bring \
         back packages with known holes; `binhostfs refresh --accept-older` takes it all the same"
    )]
    Older { timestamp: i64, newest: i64 },
}

/// TIMESTAMP of an index; 0 if it has none.
pub(crate) fn timestamp(index: &Index) -> i64 {
    index.header().timestamp().unwrap_or_default()
}

/// The TIMESTAMP by which an index is judged. A hub whose clock was ahead once stays ahead, because
/// its TIMESTAMP never decreases. The index then counts by the binhost's own TIMESTAMP.
pub(super) fn judged_timestamp(index: &Index, clock: Clock) -> i64 {
    let own = timestamp(index);
    if is_ahead(own, clock) { index.header().source_timestamp().unwrap_or(own) } else { own }
}

/// Judges an index by its TIMESTAMP; `newest` is the newest one that counts.
pub(crate) fn judge(timestamp: i64, newest: i64, order: Order, clock: Clock) -> Result<(), IndexRejection> {
    not_ahead(timestamp, clock)?;
    if order == Order::Forward && timestamp < newest {
        Err(IndexRejection::Older { timestamp, newest })
    } else {
        Ok(())
    }
}

/// The newest of the stored TIMESTAMPs, without those from the future.
pub(crate) fn newest(stored: impl IntoIterator<Item = i64>, clock: Clock) -> i64 {
    stored.into_iter().filter(|timestamp| !is_ahead(*timestamp, clock)).max().unwrap_or_default()
}

/// Judges only whether a TIMESTAMP is from the future.
pub(crate) fn not_ahead(timestamp: i64, clock: Clock) -> Result<(), IndexRejection> {
    if is_ahead(timestamp, clock) { Err(IndexRejection::Ahead(timestamp)) } else { Ok(()) }
}

/// Whether a TIMESTAMP is too far ahead. `false` if the clock is not set.
pub(crate) fn is_ahead(timestamp: i64, clock: Clock) -> bool {
    match clock {
        Clock::Unset => false,
        Clock::Set(now) => u64::try_from(timestamp).is_ok_and(|timestamp| timestamp > now.saturating_add(MAX_AHEAD)),
    }
}

/// The newest TIMESTAMP to keep after an index with `timestamp` was accepted.
pub(crate) fn newest_after(timestamp: i64, newest: i64, clock: Clock) -> i64 {
    match clock {
        Clock::Unset => newest.min(timestamp),
        Clock::Set(_) => timestamp,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const HOUR: i64 = 3600;
    const NOW: i64 = 1_800_000_000;

    fn forward(timestamp: i64, newest: i64, clock: Clock) -> Result<(), IndexRejection> {
        judge(timestamp, newest, Order::Forward, clock)
    }

    #[test]
    fn a_day_ahead_is_the_most() {
        let set = Clock::Set(NOW.cast_unsigned());
        for (ahead, taken) in [(23 * HOUR, true), (24 * HOUR, true), (24 * HOUR + 1, false), (25 * HOUR, false)] {
            assert_eq!(forward(NOW + ahead, 0, set).is_ok(), taken, "{ahead}");
            // The administrator permits an older index, not one from the future.
            assert_eq!(judge(NOW + ahead, 0, Order::Any, set).is_ok(), taken, "{ahead}");
        }
        assert_eq!(forward(i64::MAX, 0, set), Err(IndexRejection::Ahead(i64::MAX)));
        assert_eq!(forward(i64::MAX, i64::MAX, set), Err(IndexRejection::Ahead(i64::MAX)));
    }

    #[test]
    fn a_hub_that_was_ahead_once_counts_by_its_binhost() {
        let index = |header: &str| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(format!("VERSION: 0\n{header}\n\n").as_bytes()).unwrap();
            Index::parse(file).unwrap()
        };
        let (set, ahead) = (Clock::Set(NOW.cast_unsigned()), NOW + 1000 * HOUR);
        let hub = index(&format!("TIMESTAMP: {ahead}\nBINHOSTFS_SOURCE_TIMESTAMP: {NOW}"));
        assert_eq!((judged_timestamp(&hub, set), judged_timestamp(&hub, Clock::Unset)), (NOW, ahead));
        let current = index(&format!("TIMESTAMP: {NOW}\nBINHOSTFS_SOURCE_TIMESTAMP: 7"));
        assert_eq!(judged_timestamp(&current, set), NOW, "it grows when the hub goes back");
        assert_eq!(judged_timestamp(&index(&format!("TIMESTAMP: {ahead}")), set), ahead);
    }

    #[test]
    fn an_older_one_is_refused_unless_what_is_stored_cannot_be() {
        let set = Clock::Set(NOW.cast_unsigned());
        let older = Err(IndexRejection::Older { timestamp: NOW - HOUR, newest: NOW });
        assert_eq!(forward(NOW - HOUR, NOW, set), older);
        assert_eq!(forward(NOW, NOW, set), Ok(()));
        assert_eq!(judge(NOW - HOUR, NOW, Order::Any, set), Ok(()));
        for stored in [NOW + 25 * HOUR, i64::MAX] {
            assert_eq!(newest([stored, NOW], set), NOW);
            assert_eq!(newest([stored], set), 0);
            assert_eq!(newest([stored, NOW], Clock::Unset), stored);
        }
        assert_eq!(newest([NOW + 24 * HOUR, NOW], set), NOW + 24 * HOUR);
        assert_eq!(newest_after(NOW - HOUR, i64::MAX, set), NOW - HOUR);
    }

    #[test]
    fn a_clock_that_is_not_set_judges_nothing_and_remembers_nothing() {
        assert_eq!(forward(i64::MAX, NOW, Clock::Unset), Ok(()));
        assert_eq!(newest_after(i64::MAX, NOW, Clock::Unset), NOW);
        assert_eq!(newest_after(NOW, 0, Clock::Unset), 0);
        // The order holds without a clock, too.
        assert!(forward(NOW - HOUR, NOW, Clock::Unset).is_err());
        assert_eq!(newest_after(NOW - HOUR, NOW, Clock::Unset), NOW - HOUR, "the administrator let it go back");
    }
}
