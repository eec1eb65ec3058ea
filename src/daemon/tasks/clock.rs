//! Detects that the system clock was set. Decisions that depend on the clock are made again then.

use std::io;
use std::os::fd::OwnedFd;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys::{STEP, offset};

/// Reports when the system clock is set.
#[derive(Debug)]
pub(crate) struct ClockWatch {
    /// A timer that never expires. The kernel makes it readable when the clock is set. `None`: the
    /// clock cannot be watched.
    timer: Option<AsyncFd<OwnedFd>>,
    /// Time since the epoch minus time since the boot, s: it changes only when the clock is set.
    offset: i64,
}

impl ClockWatch {
    pub(crate) fn new() -> Self {
        let timer = watching_timer();
        if let Err(error) = &timer {
            tracing::warn!(%error, "changes of the system clock cannot be watched; indexes are judged again when they are refreshed");
        }
        Self { timer: timer.ok(), offset: offset() }
    }

    /// Waits until the clock is set to a time that differs by at least `STEP`.
    pub(crate) async fn stepped(&mut self) {
        while self.set().await.is_ok() {
            let before = std::mem::replace(&mut self.offset, offset());
            if self.offset.abs_diff(before) >= STEP {
                return;
            }
        }
        std::future::pending().await
    }

    /// Waits until the clock is set, to any time.
    async fn set(&self) -> io::Result<()> {
        let Some(timer) = &self.timer else { return Err(io::ErrorKind::Unsupported.into()) };
        let mut ready = timer.readable().await?;
        // The read fails with ECANCELED, and the timer stays armed.
        let _ = rustix::io::read(ready.get_inner(), &mut [0; 8]);
        ready.clear_ready();
        Ok(())
    }
}

fn watching_timer() -> io::Result<AsyncFd<OwnedFd>> {
    let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let never = Itimerspec {
        it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: Timespec { tv_sec: i64::MAX, tv_nsec: 0 },
    };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &never)?;
    // SAFETY: the registered value owns the descriptor and never exchanges it.
    Ok(unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE)? })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::time::Duration;

    use super::*;

    /// An expired timer stands for a clock that was set: a test must not set the machine's clock.
    fn expired() -> AsyncFd<OwnedFd> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC).unwrap();
        let it_value = Timespec { tv_sec: 0, tv_nsec: 1 };
        let soon = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &soon).unwrap();
        // SAFETY: the registered value owns the descriptor, as above.
        unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }.unwrap()
    }

    #[tokio::test]
    async fn only_clear_steps_are_reported() {
        let mut watch = ClockWatch::new();
        let timer = watch.timer.as_ref().unwrap().get_ref().as_raw_fd();
        let armed = std::fs::read_to_string(format!("/proc/self/fdinfo/{timer}")).unwrap();
        // CLOCK_REALTIME, with TFD_TIMER_ABSTIME and TFD_TIMER_CANCEL_ON_SET.
        assert!(armed.contains("clockid: 0\n") && armed.contains("settime flags: 03\n"), "{armed}");
        watch.timer = Some(expired());
        let waited = tokio::time::timeout(Duration::from_millis(500), watch.stepped()).await;
        assert!(waited.is_err(), "it is the same time as before");
        watch.timer = Some(expired());
        // One second more than STEP: both clocks are read in whole seconds.
        watch.offset -= STEP.cast_signed() + 1;
        tokio::time::timeout(Duration::from_secs(60), watch.stepped()).await.unwrap();
    }
}
