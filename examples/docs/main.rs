//! Writes man pages and completions for bash, zsh and fish below a prefix.
//!
//! ```text
//! cargo run --locked --release --example docs -- target/docs
//! ```
//!
//! An example, so that the program does not carry what only packagers need.

mod reference;
mod write;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(prefix), None) = (arguments.next(), arguments.next()) else {
        return fail(2, format_args!("usage: docs PREFIX (e.g. target/docs: files go to its directory share)"));
    };
    match write::write(&prefix) {
        Ok(files) => {
            let lines: Vec<String> = files.iter().map(|file| format!("{}\n", file.display())).collect();
            // Whoever reads the names may have gone.
            let _ = io::stdout().write_all(lines.concat().as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => fail(1, format_args!("writing below {}: {error}", prefix.display())),
    }
}

fn fail(code: u8, why: std::fmt::Arguments<'_>) -> ExitCode {
    let _ = writeln!(io::stderr(), "docs: {why}");
    ExitCode::from(code)
}
