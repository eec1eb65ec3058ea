//! Sizes, spans of time, times of day and numbers of things, as people read and write them.

mod daily_span;
mod interval;
mod plural;
mod size;

pub(crate) use daily_span::DailySpan;
pub(crate) use interval::Interval;
pub(crate) use plural::Plural;
pub(crate) use size::ByteSize;
