//! A panic is a bug, and the log says where it is, in one line like any other.

/// Has panics logged. A panic of one request or task ends that, and not the daemon.
pub(super) fn log_them() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(|s| &**s));
        let text = text.unwrap_or("no reason given");
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("without a name");
        tracing::error!(
            "a bug: the thread {thread} panicked at {place}: {text}; please report it, with what was done before"
        );
    }));
}
