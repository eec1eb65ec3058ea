//! Progress display: bars on a terminal, else a line for each package. Only this file draws.
//!
//! A terminal shows `^C` at the cursor, which is at the end of the last bar. That line would wrap,
//! and move all bars by a line that the drawing library does not count. Therefore the terminal does
//! not echo control characters while there are bars.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Stderr};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::output::say;
use crate::api::{PrefetchOutcome, PrefetchStatus};
use crate::units::Plural;

/// Templates of the bars, without colours. `{msg}` is what the bar is for.
const ONE: &str = "  {wide_msg} {bytes:>10} of {total_bytes:>10} [{bar:20}] {binary_bytes_per_sec:>12}";
const ENTRIES: &str = "{pos} of {len} entries [{wide_bar}] {per_sec}, {eta} left";
const ALL: &str = "{msg} {bytes:>10} of {total_bytes:>10} [{wide_bar}] {binary_bytes_per_sec:>12}, {eta} left";

/// The way in which the progress of a prefetch job is shown.
pub(super) enum ProgressDisplay {
    /// Nothing is shown: the output is for a program.
    Silent,
    Lines,
    Bars(Box<Bars>),
}

/// One bar for each download, and one for all together.
pub(super) struct Bars {
    place: MultiProgress,
    total: ProgressBar,
    one: ProgressStyle,
    underway: HashMap<String, ProgressBar>,
    /// Number of finished packages.
    packages: u64,
    /// Bytes of the finished packages that were not in the cache.
    bytes: u64,
    /// Bytes of the finished packages that were in the cache.
    cached: u64,
    _terminal: Option<Unechoed>,
}

/// A terminal that does not echo control characters, until this is dropped.
struct Unechoed {
    terminal: Stderr,
    before: Termios,
}

impl Unechoed {
    /// `None`: the terminal's mode cannot be read or set.
    fn new(terminal: Stderr) -> Option<Self> {
        let before = tcgetattr(&terminal).ok()?;
        let mut unechoed = before.clone();
        unechoed.local_modes.remove(LocalModes::ECHOCTL);
        tcsetattr(&terminal, OptionalActions::Now, &unechoed).ok()?;
        Some(Self { terminal, before })
    }
}

impl Drop for Unechoed {
    fn drop(&mut self) {
        // If this fails, the prompt does not show `^C`, which is harmless.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

/// Whether there is a terminal for bars. If either stream is not a terminal, lines are better.
fn is_watched() -> bool {
    std::io::stderr().is_terminal() && std::io::stdout().is_terminal()
}

/// The templates are valid. If one were not, the bar would have another look.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

impl ProgressDisplay {
    /// `silent`: nothing is shown before the end.
    pub(super) fn new(silent: bool) -> Self {
        if silent {
            return Self::Silent;
        }
        if !is_watched() {
            return Self::Lines;
        }
        let place = MultiProgress::new();
        let total = place.add(ProgressBar::new(0).with_style(style(ALL)));
        let (one, underway, _terminal) = (style(ONE), HashMap::new(), Unechoed::new(std::io::stderr()));
        Self::Bars(Box::new(Bars { place, total, one, underway, packages: 0, bytes: 0, cached: 0, _terminal }))
    }

    /// Shows a new status. Its `done` has only packages that finished since the last call.
    pub(super) fn show(&mut self, status: &PrefetchStatus) {
        match self {
            Self::Silent => {}
            // The caller prints failures at the end, to standard error.
            Self::Lines => {
                status.done.iter().filter(|package| package.outcome != PrefetchOutcome::Failed).for_each(say);
            }
            Self::Bars(bars) => bars.show(status),
        }
    }
}

/// Removes the bars, and resets the terminal.
impl Drop for Bars {
    fn drop(&mut self) {
        self.underway.values().for_each(ProgressBar::finish_and_clear);
        self.total.finish_and_clear();
    }
}

/// A bar for entries that are checked. Nothing is shown if the output is no terminal.
pub(super) struct EntriesBar(Option<(ProgressBar, Option<Unechoed>)>);

impl EntriesBar {
    /// `silent`: the output is for a program.
    pub(super) fn new(total: usize, silent: bool) -> Self {
        let bar = || ProgressBar::new(total as u64).with_style(style(ENTRIES));
        Self((!silent && is_watched()).then(|| (bar(), Unechoed::new(std::io::stderr()))))
    }

    /// Counts `more` checked entries.
    pub(super) fn add(&self, more: usize) {
        self.0.iter().for_each(|(bar, _)| bar.inc(more as u64));
    }
}

/// Removes the bar, and resets the terminal.
impl Drop for EntriesBar {
    fn drop(&mut self) {
        self.0.iter().for_each(|(bar, _)| bar.finish_and_clear());
    }
}

impl Bars {
    fn show(&mut self, status: &PrefetchStatus) {
        self.packages += status.done.len() as u64;
        for package in &status.done {
            let cached = package.outcome == PrefetchOutcome::Cached;
            *(if cached { &mut self.cached } else { &mut self.bytes }) += package.size;
        }
        self.underway.retain(|path, bar| {
            let stays = status.underway.iter().any(|package| package.path == *path);
            if !stays {
                bar.finish_and_clear();
            }
            stays
        });
        let mut received = self.bytes;
        for package in &status.underway {
            let bar = self.underway.entry(package.path.clone()).or_insert_with(|| {
                let name = package.path.rsplit('/').next().unwrap_or_default().to_owned();
                let bar = ProgressBar::new(package.size).with_style(self.one.clone()).with_message(name);
                self.place.insert_before(&self.total, bar)
            });
            bar.set_position(package.received);
            received += package.received;
        }
        self.total.set_length(status.bytes.saturating_sub(self.cached));
        self.total.set_position(received);
        self.total.set_message(format!("{} of {}", self.packages, Plural(status.packages, "package")));
    }
}
