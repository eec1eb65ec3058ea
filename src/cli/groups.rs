//! The help of the program itself: commands in groups, one line each.

use clap::Command;

use super::exit_codes;

/// Purposes, and the commands for each. A command is in one group.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Use", &["mount", "serve", "prefetch", "demo"]),
    ("Look", &["status", "list", "why", "coverage", "generations", "check-config"]),
    ("Change", &["refresh", "pin", "evict", "gc", "allow", "rollback"]),
    ("Maintain", &["verify", "reload", "help"]),
];

const EXAMPLES: &str = "\
Examples:
  binhostfs demo                        see what it does, on a binhost inside the program
  binhostfs check-config                see what would be mounted, and where each value comes from
  binhostfs mount                       mount the binhosts of Portage's configuration on PKGDIR
  emerge --pretend --usepkg app-editors/vim
  binhostfs coverage --suggest          see why emerge compiles, and what to write

RUST_LOG=debug logs more, RUST_LOG=info,binhostfs::fetch=debug does so for one module.
`binhostfs help COMMAND` explains a command.";

/// The command with its commands in groups.
pub(super) fn grouped(command: Command) -> Command {
    let listing = listing(&command);
    let codes = exit_codes::summary();
    command
        .help_template(format!(
            "{{about-with-newline}}{{usage-heading}} {{usage}}\n\n{listing}Options: -h, --help (--help has examples), -V, --version{{after-help}}"
        ))
        .after_long_help(format!("{codes}\n\n{EXAMPLES}"))
        .after_help(codes)
}

fn listing(command: &Command) -> String {
    let width = GROUPS.iter().flat_map(|(_, names)| *names).map(|name| name.len()).max().unwrap_or_default();
    let about = |name: &str| match command.find_subcommand(name).and_then(Command::get_about) {
        Some(about) => about.to_string(),
        // clap adds this one itself, later.
        None => "Print the help of a command".to_owned(),
    };
    let line = |group: &str, name: &str| format!("{group:<10}{name:<width$}  {}\n", about(name));
    let of_group = |(group, names): &(&str, &[&str])| -> String {
        let lines = names.iter().enumerate();
        lines.map(|(at, name)| line(if at == 0 { group } else { "" }, name)).collect()
    };
    GROUPS.iter().map(of_group).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn words(arguments: &[&str]) -> String {
        let mut command = crate::cli::command();
        command.try_get_matches_from_mut(arguments).unwrap_err().to_string()
    }

    #[test]
    fn every_command_is_in_one_group() {
        let mut command = crate::cli::command();
        command.build();
        let commands: BTreeSet<&str> = command.get_subcommands().map(Command::get_name).collect();
        let grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| *names).copied().collect();
        assert_eq!(grouped.iter().copied().collect::<BTreeSet<_>>(), commands);
        assert_eq!(grouped.len(), commands.len());
    }

    #[test]
    fn the_short_help_fits_a_screen() {
        let help = words(&["binhostfs", "-h"]);
        assert!(help.lines().count() <= 25, "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
        assert!(help.contains("\nUse       mount "), "{help}");
        for name in ["mount", "check-config"] {
            let help = words(&["binhostfs", name, "-h"]);
            assert!(help.lines().count() <= 70, "{help}");
        }
    }

    #[test]
    fn every_command_has_an_example_in_its_long_help() {
        let mut command = crate::cli::command();
        command.build();
        let commands: Vec<&str> =
            command.get_subcommands().map(Command::get_name).filter(|name| *name != "help").collect();
        for name in commands {
            let help = words(&["binhostfs", name, "--help"]);
            let (_, examples) =
                help.split_once("\nExample").unwrap_or_else(|| panic!("{name} has no example:\n{help}"));
            assert!(examples.contains(&format!("\n  binhostfs {name}")), "{help}");
        }
        assert!(words(&["binhostfs", "--help"]).contains("\n  binhostfs demo "));
    }
}
