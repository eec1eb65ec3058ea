//! Tells systemd how the daemon does, and never depends on being heard.
//!
//! A supervisor that has stopped reading blocks whoever sends to it once its queue is full (ten messages, as Linux has it by
//! default): some minutes after the start, and for ever. So a thread of its own sends, and what waits for it gives up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use sd_notify::NotifyState;

/// How long a supervisor that does not listen holds the daemon up, once.
const PATIENCE: Duration = Duration::from_secs(1);

/// A message is being sent; until it is, others are not.
static SENDING: AtomicBool = AtomicBool::new(false);

/// Says where the daemon stands, and a line for people. Without systemd there is nobody to tell, which is no error.
pub(super) fn tell(state: Vec<NotifyState<'static>>, status: Option<String>) {
    if SENDING.swap(true, Ordering::SeqCst) {
        return tracing::debug!("systemd does not listen; not telling it");
    }
    let (sent, wait) = mpsc::channel::<()>();
    let send = move || {
        let status = status.as_deref().map(NotifyState::Status);
        let message: Vec<NotifyState<'_>> = state.into_iter().chain(status).collect();
        if let Err(error) = sd_notify::notify(&message) {
            tracing::debug!(%error, "telling systemd");
        }
        SENDING.store(false, Ordering::SeqCst);
        drop(sent);
    };
    match std::thread::Builder::new().name("systemd".to_owned()).spawn(send) {
        // Nothing is ever received: the other end is dropped, or it takes too long.
        Ok(_) => drop(wait.recv_timeout(PATIENCE)),
        Err(error) => {
            SENDING.store(false, Ordering::SeqCst);
            tracing::debug!(%error, "starting a thread to tell systemd");
        }
    }
}
