//! What several modules need of the system: the clock.

mod clock;

pub use clock::{BUILT, Moment, Passed, PastEvent, STEP, WrongClock, offset, seconds_now};
