//! Sends notifications to systemd, without depending on systemd to receive them.
//!
//! A supervisor that stopped reading blocks every sender once its queue is full (ten messages, by
//! Linux's default). That happens some minutes after the start, and then lasts for ever. So a
//! separate thread sends one message after the other, and the callers wait for it only for a
//! limited time.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use sd_notify::NotifyState;

/// How long a supervisor that does not read can delay the daemon, once.
const PATIENCE: Duration = Duration::from_secs(1);

/// Since when a message has been in transmission, if there is one.
static SENDING: Mutex<Option<Instant>> = Mutex::new(None);
/// Notified when a message has been sent.
static SENT: Condvar = Condvar::new();

/// Notifies systemd of a state. Without systemd, this does nothing and is no error.
pub(crate) fn notify(states: Vec<NotifyState<'static>>) {
    say(states, None);
}

/// Notifies systemd of states, together with a status line for people.
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
        *SENDING.lock() = None;
        SENT.notify_all();
    };
    match std::thread::Builder::new().name("systemd".to_owned()).spawn(send) {
        Ok(_) => drop(sent()),
        Err(error) => {
            *SENDING.lock() = None;
            tracing::debug!(%error, "starting a thread to tell systemd");
        }
    }
}

/// Waits until no message is in transmission, for at most `PATIENCE`. `None`: a message still is.
fn sent() -> Option<MutexGuard<'static, Option<Instant>>> {
    let mut sending = SENDING.lock();
    while let Some(since) = *sending {
        let left = PATIENCE.checked_sub(since.elapsed()).filter(|left| !left.is_zero())?;
        SENT.wait_for(&mut sending, left);
    }
    Some(sending)
}
