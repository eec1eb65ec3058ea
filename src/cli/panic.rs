//! Writes panics to the log. A panic is a bug, and one log line says where it happened.

/// Installs a hook that logs panics. A panic ends one request or task, but not the daemon.
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    /// Panics in a thread, as a request may, and again with a payload that is no text. The hook is
    /// global to the process. Therefore the other test runs this one in a process of its own.
    #[test]
    #[ignore = "run by the other test"]
    fn panics_twice() {
        crate::cli::logging::start(tracing_subscriber::filter::LevelFilter::INFO).unwrap();
        super::log_them();
        let thread = std::thread::Builder::new().name("a-request".to_owned());
        assert!(thread.spawn(|| panic!("the reason")).unwrap().join().is_err());
        assert!(std::thread::spawn(|| std::panic::panic_any(7)).join().is_err());
    }

    #[test]
    fn a_panic_is_one_line_that_says_where() {
        let arguments = ["--exact", "cli::panic::tests::panics_twice", "--ignored", "--nocapture"];
        let mut command = Command::new("/proc/self/exe");
        // As in the journal: a priority, and no second copy with a time.
        command.args(arguments).env("JOURNAL_STREAM", "0:0").env_remove("RUST_LOG").env("RUST_BACKTRACE", "1");
        let output = command.output().unwrap();
        let (out, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        // The process survives both panics.
        assert!(output.status.success() && out.contains("1 passed"), "{output:?}");
        let [first, second] = *log.lines().collect::<Vec<_>>() else { panic!("not two lines:\n{log}") };
        assert!(first.starts_with("<3>a bug: the thread a-request panicked at src/cli/panic.rs:"), "{first}");
        assert!(first.contains(": the reason; please report it"), "{first}");
        assert!(second.starts_with("<3>a bug: the thread without a name panicked at src/cli/panic.rs:"), "{second}");
        assert!(second.contains(": no reason given; "), "{second}");
    }
}
