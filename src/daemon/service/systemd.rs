//! Tells systemd how the daemon does, and never depends on being heard.
//!
//! A supervisor that has stopped reading blocks whoever sends to it once its queue is full (ten messages, as Linux has it by
//! default): some minutes after the start, and for ever. So a thread of its own sends, one message after the other, and what
//! waits for it gives up.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// How long a supervisor that does not listen holds the daemon up, once.
const PATIENCE: Duration = Duration::from_secs(1);

/// Since when a message is being sent.
static SENDING: Mutex<Option<Instant>> = Mutex::new(None);
/// It was sent.
static SENT: Condvar = Condvar::new();

/// Says where the daemon stands. Without systemd there is nobody to tell, which is no error.
pub(crate) fn notify(states: Vec<NotifyState<'static>>) {
    say(states, None);
}

/// A line for people, with whatever else there is to say.
pub(crate) fn notify_status(states: Vec<NotifyState<'static>>, status: String) {
    say(states, Some(status));
}

fn say(states: Vec<NotifyState<'static>>, status: Option<String>) {
    let Some(mut sending) = sent() else {
        return tracing::debug!("systemd does not listen; not telling it");
    };
    *sending = Some(Instant::now());
    drop(sending);
    let send = move || {
        let status = status.as_deref().map(NotifyState::Status);
        let message: Vec<NotifyState<'_>> = states.into_iter().chain(status).collect();
        if let Err(error) = sd_notify::notify(&message) {
            tracing::debug!(%error, "telling systemd");
        }
        *SENDING.lock().unwrap_or_else(PoisonError::into_inner) = None;
        SENT.notify_all();
    };
    match std::thread::Builder::new().name("systemd".to_owned()).spawn(send) {
        Ok(_) => drop(sent()),
        Err(error) => {
            *SENDING.lock().unwrap_or_else(PoisonError::into_inner) = None;
            tracing::debug!(%error, "starting a thread to tell systemd");
        }
    }
}

/// Waits until nothing is being sent, but not longer than sending may take. `None`: something still is.
fn sent() -> Option<MutexGuard<'static, Option<Instant>>> {
    let mut sending = SENDING.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some(since) = *sending {
        let left = PATIENCE.checked_sub(since.elapsed()).filter(|left| !left.is_zero())?;
        (sending, _) = SENT.wait_timeout(sending, left).unwrap_or_else(PoisonError::into_inner);
    }
    Some(sending)
}
