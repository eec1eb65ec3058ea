//! Sizes, spans of time and numbers of things, as people read and write them.

mod interval;
mod plural;
mod size;

pub(crate) use interval::Interval;
pub(crate) use plural::Plural;
pub(crate) use size::ByteSize;
