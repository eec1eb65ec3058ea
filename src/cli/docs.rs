//! `binhostfs docs`, with the feature `docs`: man pages and completions, from the definitions that parse the command line.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Arguments;

/// Shells, and below a prefix where they look for completions.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "share/bash-completion/completions/binhostfs"),
    (Shell::Zsh, "share/zsh/site-functions/_binhostfs"),
    (Shell::Fish, "share/fish/vendor_completions.d/binhostfs.fish"),
];
/// Below a prefix, where man looks.
const MAN: &str = "share/man/man1";

/// Write man pages and completions for bash, zsh and fish below a prefix.
#[cfg(feature = "docs")]
#[derive(Debug, clap::Args)]
pub(super) struct DocsArguments {
    /// E.g. /usr/local: they go to its share directory
    #[arg(value_name = "PREFIX")]
    prefix: PathBuf,
}

#[cfg(feature = "docs")]
pub(super) fn run(arguments: &DocsArguments) -> std::process::ExitCode {
    match write(&arguments.prefix) {
        Ok(files) => {
            files.iter().for_each(|file| super::output::say(file.display()));
            std::process::ExitCode::SUCCESS
        }
        Err(error) => super::output::fail(1, format_args!("writing below {}: {error}", arguments.prefix.display())),
    }
}

/// Writes everything below `prefix`; the files.
pub(super) fn write(prefix: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut put = |path: PathBuf, bytes: &[u8]| {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(&path, bytes)?;
        files.push(path);
        io::Result::Ok(())
    };
    for (shell, path) in COMPLETIONS {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Arguments::command(), "binhostfs", &mut script);
        put(prefix.join(path), &script)?;
    }
    let mut command = Arguments::command().disable_help_subcommand(true);
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn every_command_has_a_page_with_all_its_options() {
        let prefix = tempfile::tempdir().unwrap();
        let files = write(prefix.path()).unwrap();
        let page = |name: &str| fs::read_to_string(prefix.path().join(MAN).join(format!("{name}.1"))).unwrap();
        let mut command = Arguments::command();
        command.build();
        let own = page("binhostfs");
        assert!(own.contains(".TH BINHOSTFS 1") && own.contains("Exit codes: 0 done"), "{own}");
        let mut pages = 1;
        let told = |subcommand: &&clap::Command| subcommand.get_name() != "help" && !subcommand.is_hide_set();
        for subcommand in command.get_subcommands().filter(told) {
            let name = format!("binhostfs-{}", subcommand.get_name());
            let text = page(&name).replace("\\-", "-").replace("\\fB", "").replace("\\fR", "");
            assert!(text.contains(&format!(".TH {} 1", name.to_uppercase())), "{text}");
            assert!(own.replace("\\-", "-").contains(&format!("{name}(1)")), "{name} is not in binhostfs(1)");
            for long in subcommand.get_opts().filter_map(|option| option.get_long()) {
                assert!(text.contains(&format!("--{long}")), "{name}(1) lacks --{long}:\n{text}");
            }
            pages += 1;
        }
        assert_eq!(files.len(), pages + COMPLETIONS.len());
    }

    #[test]
    fn bash_completes_commands_and_options() {
        let prefix = tempfile::tempdir().unwrap();
        write(prefix.path()).unwrap();
        let script = prefix.path().join("share/bash-completion/completions/binhostfs");
        let complete = |words: &str| {
            let count = words.split(' ').count() - 1;
            let ask = format!(
                "source {}; COMP_WORDS=({words}); COMP_CWORD={count}; cur=${{COMP_WORDS[{count}]}}; \
                 prev=${{COMP_WORDS[{}]}}; _binhostfs binhostfs \"$cur\" \"$prev\"; echo \"${{COMPREPLY[*]}}\"",
                script.display(),
                count - 1,
            );
            let output = Command::new("bash").args(["-c", &ask]).output().unwrap();
            assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        assert_eq!(complete("binhostfs stat"), "status");
        assert_eq!(complete("binhostfs status --js"), "--json");
        assert_eq!(complete("binhostfs mount --passthrough o"), "off");
    }
}
