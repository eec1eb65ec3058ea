//! Sizes, spans of time and numbers of things, as people read and write them.

mod interval;
mod plural;
mod size;

pub use interval::{Interval, IntervalError};
pub use plural::Plural;
pub use size::{ByteSize, SizeError};
