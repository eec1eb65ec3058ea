//! What a terminal shows while a program runs on it.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Size of the terminal, in characters.
const ROWS: u16 = 12;
const COLUMNS: u16 = 100;
/// Of a character in the picture, in pixels.
const WIDTH: f32 = 8.4;
const HEIGHT: u16 = 19;
const MARGIN: u16 = 14;

/// All that a program wrote to its terminal.
pub(crate) struct Recording {
    bytes: Vec<u8>,
    pub(crate) succeeded: bool,
}

impl Recording {
    /// Runs a command of the shell to its end, on a terminal that script(1) makes.
    pub(crate) fn of(command: &str) -> Self {
        let line = format!("stty rows {ROWS} columns {COLUMNS}; exec {command}");
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").stdin(Stdio::null());
        let output = script.output().unwrap();
        Self { bytes: output.stdout, succeeded: output.status.success() }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// A screen that has all these parts, as lines: the middle one of all that have them.
    pub(crate) fn screen_with(&self, parts: &[&str]) -> Option<String> {
        let mut terminal = vt100::Parser::new(ROWS.try_into().unwrap(), COLUMNS.try_into().unwrap(), 0);
        let mut found = Vec::new();
        // Before each movement of the cursor there is something to see.
        for written in self.bytes.chunk_by(|_, next| *next != b'\x1b' && *next != b'\r') {
            terminal.process(written);
            // Row by row, because a bar fills its row, and the text of the screen joins such a row with the next.
            let shown: String = terminal.screen().rows(0, COLUMNS).map(|row| format!("{}\n", row.trim_end())).collect();
            if parts.iter().all(|part| shown.contains(part)) {
                found.push(shown.trim_end().to_owned());
            }
        }
        let middle = found.len() / 2;
        found.into_iter().nth(middle)
    }
}

/// Draws a screen below the command that led to it, as SVG. Where `BINHOSTFS_TEST_SCREENSHOTS` names
/// a directory, the picture is left there for people.
pub(crate) fn paint(name: &str, command: &str, screen: &str) {
    let Some(directory) = std::env::var_os("BINHOSTFS_TEST_SCREENSHOTS").map(PathBuf::from) else { return };
    let lines: Vec<&str> = std::iter::once(command).chain(screen.lines()).collect();
    let (width, height) = (f32::from(COLUMNS) * WIDTH, u16::try_from(lines.len()).unwrap() * HEIGHT);
    let (width, height) = (width + f32::from(2 * MARGIN), height + 2 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"monospace\" \
         font-size=\"14\" fill=\"#e6e6e6\">\n<rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"#1e2227\"/>\n"
    );
    for (number, line) in (0_u16..).zip(lines) {
        let line = line.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let y = MARGIN + number * HEIGHT + 14;
        writeln!(svg, "<text x=\"{MARGIN}\" y=\"{y}\" xml:space=\"preserve\">{line}</text>").unwrap();
    }
    svg.push_str("</svg>\n");
    std::fs::write(directory.join(name), svg).unwrap();
}
