//! Man pages and completions, from the definitions that parse the command line.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use binhostfs::internals::config::OptionRow;
use clap_complete::Shell;

use super::reference::{choices, description, effect, example, keys};

/// Shells, and below a prefix where they look for completions.
pub(crate) const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "share/bash-completion/completions/binhostfs"),
    (Shell::Zsh, "share/zsh/site-functions/_binhostfs"),
    (Shell::Fish, "share/fish/vendor_completions.d/binhostfs.fish"),
];
/// Below a prefix, where man looks for commands, and for files.
pub(crate) const MAN: &str = "share/man/man1";
pub(crate) const MAN_OF_FILES: &str = "share/man/man5";

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
        clap_complete::generate(shell, &mut binhostfs::command(), "binhostfs", &mut script);
        let script = String::from_utf8(script).map_err(io::Error::other)?;
        put(prefix.join(path), with_packages(shell, &script, &of_packages()).as_bytes())?;
    }
    let mut command = binhostfs::command().disable_help_subcommand(true);
    command.build();
    let pages = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()).cloned();
    let pages: Vec<clap::Command> = pages.collect();
    for page in [command].into_iter().chain(pages) {
        // clap calls a subcommand `binhostfs mount`; man wants one word.
        let name = page.get_display_name().unwrap_or(page.get_name()).replace(' ', "-");
        let mut text = Vec::new();
        let page = page.display_name(&name);
        let man = clap_mangen::Man::new(page.clone()).title(name.to_uppercase());
        man.source(VERSION).render(&mut text)?;
        let text = String::from_utf8(text).map_err(io::Error::other)?;
        put(prefix.join(MAN).join(format!("{name}.1")), with_synopsis(&text, &page).as_bytes())?;
    }
    put(prefix.join(MAN_OF_FILES).join("binhostfs.toml.5"), configuration_page().as_bytes())?;
    Ok(files)
}

const VERSION: &str = concat!("binhostfs ", env!("CARGO_PKG_VERSION"));

/// Subcommands that take packages.
fn of_packages() -> Vec<String> {
    let takes = |command: &&clap::Command| command.get_positionals().any(|argument| argument.get_id() == "atoms");
    binhostfs::command().get_subcommands().filter(takes).map(|command| command.get_name().to_owned()).collect()
}

/// Has a completion script offer the packages that are shown at that moment, where one is to be given.
fn with_packages(shell: Shell, script: &str, commands: &[String]) -> String {
    const NAMES: &str = "binhostfs list --names 2>/dev/null";
    match shell {
        Shell::Bash => {
            let function = format!(
                "_binhostfs_with_packages() {{\n    _binhostfs \"$@\"\n    case ${{COMP_WORDS[1]}}:$2:$3 in\n    \
                 *:-*:*|*:--control) ;;\n    {}) COMPREPLY=($(compgen -W \"$({NAMES})\" -- \"$2\")) ;;\n    esac\n}}\n",
                commands.iter().map(|command| format!("{command}:*")).collect::<Vec<_>>().join("|")
            );
            format!("{}{function}", script.replace("complete -F _binhostfs ", "complete -F _binhostfs_with_packages "))
        }
        Shell::Zsh => {
            let line = |line: &str| match line.strip_suffix(":_default' \\").filter(|_| line.contains("::atoms -- ")) {
                Some(start) => format!("{start}:_binhostfs_packages' \\\n"),
                None => format!("{line}\n"),
            };
            let function = format!(
                "_binhostfs_packages() {{\n    local -a packages=(${{(f)\"$({NAMES})\"}})\n    compadd -a packages\n}}\n"
            );
            let script: String = script.lines().map(line).collect();
            // At the end it runs already.
            script.replacen("\n_binhostfs() {", &format!("\n{function}\n_binhostfs() {{"), 1)
        }
        _ => {
            let line = |command: &String| {
                let condition = format!("__fish_binhostfs_using_subcommand {command}");
                format!("complete -c binhostfs -n \"{condition}\" -f -a \"({NAMES})\"\n")
            };
            script.to_owned() + &commands.iter().map(line).collect::<String>()
        }
    }
}

/// A page with a synopsis that says what values options take.
fn with_synopsis(page: &str, command: &clap::Command) -> String {
    let Some((before, rest)) = page.split_once(".SH SYNOPSIS\n") else { return page.to_owned() };
    let after = rest.split_once('\n').map_or("", |(_, after)| after);
    format!("{before}.SH SYNOPSIS\n{}\n{after}", synopsis(command))
}

fn synopsis(command: &clap::Command) -> String {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let mut words = vec![format!("\\fB{}\\fR", roff(name))];
    let always = |argument: &&clap::Arg| ["help", "version"].contains(&argument.get_id().as_str());
    let options = command.get_arguments().filter(|argument| !argument.is_positional() && !always(argument));
    for argument in options.chain(command.get_positionals()) {
        let mut word =
            argument.get_long().map(|long| format!("\\fB{}\\fR", roff(&format!("--{long}")))).unwrap_or_default();
        if argument.get_action().takes_values() {
            let values = argument.get_value_names().unwrap_or_default();
            for value in values {
                let space = if word.is_empty() { "" } else { " " };
                word += &format!("{space}\\fI{}\\fR", roff(value));
            }
        }
        let repeats = if matches!(argument.get_action(), clap::ArgAction::Append) { "..." } else { "" };
        words.push(if argument.is_required_set() { word + repeats } else { format!("[{word}]{repeats}") });
    }
    if command.has_subcommands() {
        words.push("\\fICOMMAND\\fR ...".to_owned());
    }
    words.join(" ")
}

/// binhostfs.toml(5): a file with all keys, and what each does.
fn configuration_page() -> String {
    let key = |row: &OptionRow| -> String {
        let named =
            choices(row).into_iter().map(|(name, help)| format!("\n.br\n\\fB{}\\fR: {}.", roff(name), roff(help)));
        let default = row.default_text().map(|default| format!("\n.br\nDefault: {}.", roff(&default)));
        let effect = format!("\n.br\nA change takes effect {}.", effect(row));
        let rest: String = named.chain(default).chain([effect]).collect();
        format!(".TP\n\\fB{}\\fR\n{}{rest}\n", roff(row.info.name), roff(&description(row)))
    };
    format!(
        ".TH BINHOSTFS.TOML 5 \"\" \"{VERSION}\"\n\
         .SH NAME\nbinhostfs.toml \\- configuration of binhostfs\n\
         .SH SYNOPSIS\n/etc/binhostfs.toml\n\
         .SH DESCRIPTION\nThe file adds what Portage has no word for to Portage's own configuration, and overrides it. An option of\n\
         .BR binhostfs\\-mount (1)\ncounts more than the file. All keys are optional; a key that is not known is an error.\n\
         .BR binhostfs\\-check\\-config (1)\nprints every value, and where it comes from.\n\
         .SH EXAMPLE\nAll keys:\n.PP\n.nf\n{}.fi\n\
         .SH KEYS\n{}\
         .SH SEE ALSO\n.BR binhostfs (1),\n.BR binhostfs\\-mount (1),\n.BR binhostfs\\-check\\-config (1)\n",
        example().lines().map(|line| format!("{}\n", roff(line))).collect::<String>(),
        keys().map(key).collect::<String>(),
    )
}

/// Text for roff: what it would take for something else is escaped.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    text.lines()
        .map(|line| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() })
        .collect::<Vec<_>>()
        .join("\n")
}
