//! Pages of docs/reference/ that are made from tables of the program. `src/control/reference/` makes two more.

use std::fmt::Write as _;

use binhostfs::internals::cli::{EXIT_CODES, JOURNAL_FIELDS};
use binhostfs::internals::config::OPTIONS;
use binhostfs::internals::fs::{XATTR_PREFIX, Xattr};
use clap::{Arg, Command};

use super::book::root;
use super::configuration_page::{self, wrapped};

/// Compares a committed page with the one that was made now, and writes it where they differ. The page that was not current.
fn outdated(name: &str, page: &str) -> Option<String> {
    let path = root().join("docs/reference").join(name);
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    if page == committed {
        return None;
    }
    std::fs::write(&path, page).unwrap();
    Some(path.display().to_string())
}

fn head(title: &str, made_from: &str) -> String {
    format!("# {title}\n\n<!-- Made from {made_from}: the test `the_reference_is_current` writes it. -->\n")
}

/// A text of the help in Markdown: its paragraphs are wrapped.
fn paragraphs(text: &str) -> String {
    let paragraphs: Vec<String> = text.split("\n\n").map(|text| wrapped(text, "", "")).collect();
    paragraphs.join("\n\n")
}

/// The text behind the help: examples, and other sentences.
fn after_help(command: &Command) -> (String, String) {
    let text = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with("Example"));
    let (code, rest): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.is_empty() || line.starts_with("  "));
    let code: Vec<&str> = code.into_iter().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
    (code.join("\n").trim_end().to_owned(), rest.join(" "))
}

/// Whether an option is one of the table.
fn is_of_mount(argument: &Arg) -> bool {
    OPTIONS.iter().any(|row| row.info.name == argument.get_id().as_str())
}

/// The help with its details, which are paragraphs, as sentences; and the list of values behind them.
fn sentences(help: &str) -> (String, Vec<&str>) {
    let (lists, parts): (Vec<&str>, Vec<&str>) = help.split("\n\n").partition(|part| part.starts_with("- "));
    let one_line = |part: &str| part.split_whitespace().collect::<Vec<_>>().join(" ");
    let parts = parts.into_iter().map(one_line).reduce(|before, part| {
        let stop = if before.ends_with(['.', '!', '?']) { "" } else { "." };
        format!("{before}{stop} {part}")
    });
    (parts.unwrap_or_default(), lists.into_iter().flat_map(str::lines).collect())
}

fn argument(argument: &Arg, links: bool) -> String {
    let values = match argument.get_value_names() {
        Some(names) if argument.get_action().takes_values() => {
            names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        }
        _ => String::new(),
    };
    let name = match argument.get_long() {
        Some(long) => format!("--{long} {values}").trim_end().to_owned(),
        None => values,
    };
    let short = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let long = argument.get_long_help().filter(|_| !links).map_or(short, ToString::to_string);
    let (help, values) = sentences(&long);
    let link = if links { format!(" ([more](configuration.md#{}))", argument.get_id()) } else { String::new() };
    let default = match argument.get_default_values() {
        [value] if argument.get_action().takes_values() => format!(" [default: {}]", value.to_string_lossy()),
        _ => String::new(),
    };
    let values = values.iter().map(|value| wrapped(value, "  ", "    ") + "\n");
    wrapped(&format!("`{name}`: {help}{default}{link}"), "- ", "  ") + "\n" + &values.collect::<String>()
}

/// The arguments of a command, by their headings. `mount` explains the options that `check-config` takes, too.
fn arguments(command: &Command) -> String {
    let is_mount = command.get_name() == "mount";
    let links = |argument: &Arg| is_of_mount(argument) && ["mount", "check-config"].contains(&command.get_name());
    let mut listed: Vec<(Option<&str>, String)> = Vec::new();
    for one in command.get_arguments().filter(|one| !["help", "version"].contains(&one.get_id().as_str())) {
        if links(one) && !is_mount {
            continue;
        }
        let (heading, line) = (one.get_help_heading(), argument(one, links(one)));
        match listed.iter_mut().find(|(listed, _)| *listed == heading) {
            Some((_, lines)) => lines.push_str(&line),
            None => listed.push((heading, line)),
        }
    }
    listed.sort_by_key(|(heading, _)| heading.is_some());
    let part = |(heading, lines): &(Option<&str>, String)| match heading {
        Some(heading) => format!("\n{heading}:\n\n{lines}"),
        None => format!("\n{lines}"),
    };
    let all =
        if command.get_name() == "check-config" { "\nTakes the options of `binhostfs mount`, and:\n" } else { "" };
    format!("{all}{}", listed.iter().map(part).collect::<String>())
}

fn command(command: &mut Command) -> String {
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let usage = command.render_usage().to_string().replace("Usage: ", "");
    let name = command.get_bin_name().unwrap_or_default().to_owned();
    let (code, rest) = after_help(command);
    let rest = if rest.is_empty() { String::new() } else { format!("\n{}\n", paragraphs(&rest)) };
    let (about, arguments) = (paragraphs(&about), arguments(command));
    format!("\n## {name}\n\n{about}\n\n```text\n{usage}\n```\n{arguments}\nExamples:\n\n```text\n{code}\n```\n{rest}")
}

fn command_line() -> String {
    let mut page = head("Command line", "the definitions of `src/cli/`");
    page += "\n`binhostfs --help` lists the commands, and `binhostfs help COMMAND` prints what this page has. All\n\
             commands also take `--help` and `--version`. [Exit codes](exit-codes.md) has a page of its own.\n";
    let mut program = binhostfs::command();
    program.build();
    for subcommand in program.get_subcommands_mut().filter(|subcommand| subcommand.get_name() != "help") {
        page += &command(subcommand);
    }
    page
}

fn exit_codes() -> String {
    let mut page = head("Exit codes", "`src/cli/exit_codes.rs` and the help of the commands");
    page += "\n| code | name | meaning |\n|---|---|---|\n";
    for (code, name, meaning) in EXIT_CODES {
        writeln!(page, "| {code} | {name} | {meaning} |").unwrap();
    }
    page += "\nFor some commands the code means more:\n\n";
    for command in binhostfs::command().get_subcommands() {
        let about = command.get_long_about().map(ToString::to_string).unwrap_or_default();
        let text = format!("{about} {}", after_help(command).1).split_whitespace().collect::<Vec<_>>().join(" ");
        for sentence in text.split_inclusive(". ").filter(|sentence| sentence.contains("xit code")) {
            page +=
                &(wrapped(&format!("`binhostfs {}`: {}", command.get_name(), sentence.trim_end()), "- ", "  ") + "\n");
        }
    }
    page
}

fn journal() -> String {
    let mut page = head("Journal fields", "`src/cli/journal.rs`");
    page += "\nUnder systemd, log entries about packages have these fields. `journalctl` finds entries by them, and\n\
             prints them with `-o verbose` or `-o json`:\n\n\
             ```sh\njournalctl -u binhostfs BINHOSTFS_PACKAGE=app-misc/hello/hello-1.gpkg.tar -o verbose\n```\n\n\
             | field | value |\n|---|---|\n";
    for (name, value) in JOURNAL_FIELDS {
        writeln!(page, "| `{name}` | {value} |").unwrap();
    }
    page
}

fn xattrs() -> String {
    let mut page = head("Extended attributes", "`src/fs/xattrs.rs`");
    page += "\nEach file of the mount has its state as extended attributes. `getfattr -d FILE` prints them. Reading\n\
             them never uses the network, and they cannot be changed. An attribute is there only while it has a\n\
             value.\n\n| name | value |\n|---|---|\n";
    for attribute in Xattr::ALL {
        writeln!(page, "| `{XATTR_PREFIX}{}` | {} |", attribute.name(), attribute.meaning()).unwrap();
    }
    page
}

#[test]
fn the_reference_is_current() {
    let page = configuration_page::page();
    for row in OPTIONS {
        assert!(page.contains(&format!("\n### {}\n", row.info.name)), "{}", row.info.name);
    }
    let pages = [
        ("configuration.md", page),
        ("command-line.md", command_line()),
        ("exit-codes.md", exit_codes()),
        ("journal.md", journal()),
        ("xattrs.md", xattrs()),
    ];
    let outdated: Vec<String> = pages.iter().filter_map(|(name, page)| outdated(name, page)).collect();
    assert!(outdated.is_empty(), "{outdated:?} were not current, and are now: commit them");
}
