//! Man pages and completions, from the definitions that parse the command line.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use binhostfs::cli;
use clap_complete::Shell;

/// Shells, and below a prefix where they look for completions.
pub(crate) const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "share/bash-completion/completions/binhostfs"),
    (Shell::Zsh, "share/zsh/site-functions/_binhostfs"),
    (Shell::Fish, "share/fish/vendor_completions.d/binhostfs.fish"),
];
/// Below a prefix, where man looks.
pub(crate) const MAN: &str = "share/man/man1";

/// Writes everything below `prefix`; the files.
pub(crate) fn write(prefix: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut put = |path: PathBuf, bytes: &[u8]| {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(&path, bytes)?;
        files.push(path);
        io::Result::Ok(())
    };
    for (shell, path) in COMPLETIONS {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut cli::command(), "binhostfs", &mut script);
        put(prefix.join(path), &script)?;
    }
    let mut command = cli::command().disable_help_subcommand(true);
    command.build();
    let pages = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()).cloned();
    let pages: Vec<clap::Command> = pages.collect();
    for page in [command].into_iter().chain(pages) {
        // clap calls a subcommand `binhostfs mount`; man wants one word.
        let name = page.get_display_name().unwrap_or(page.get_name()).replace(' ', "-");
        let mut text = Vec::new();
        let man = clap_mangen::Man::new(page.display_name(&name)).title(name.to_uppercase());
        man.source(concat!("binhostfs ", env!("CARGO_PKG_VERSION"))).render(&mut text)?;
        put(prefix.join(MAN).join(format!("{name}.1")), &text)?;
    }
    Ok(files)
}
