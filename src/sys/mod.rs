//! What several modules need of the system: the clock, and whether a mount answers.

mod clock;
pub mod mount_probe;

pub use clock::{BUILT, Moment, Passed, PastEvent, STEP, WrongClock, offset, seconds_now};
