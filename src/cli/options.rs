//! The arguments of `mount` and `check-config` that the table of options defines.

use std::ffi::OsStr;
use std::sync::Arc;

use clap::builder::{PathBufValueParser, PossibleValue, PossibleValuesParser, StringValueParser, TypedValueParser};
use clap::error::{Error, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::config::{CommandLine, ConfigFiles, Flag, Input, OPTIONS, OptionRow, Settings};

/// The options of the table.
#[derive(Debug)]
pub(super) struct ConfigArguments(pub(super) Arc<CommandLine>);

/// Options that only a mount has; `serve` is an argument without a name where there is none.
const OF_MOUNT: [&str; 7] =
    ["mountpoint", "serve", "read-only", "passthrough", "prefetch", "bulk-read-limit", "mount-namespace"];

/// The options of the table that a daemon without a mount has.
#[derive(Debug)]
pub(super) struct UnmountedArguments(pub(super) Box<CommandLine>);

impl Args for UnmountedArguments {
    fn augment_args(command: Command) -> Command {
        let rows = OPTIONS.iter().filter(|row| !OF_MOUNT.contains(&row.info.name));
        command.args(rows.filter_map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for UnmountedArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        command_line(matches).map(|line| Self(Box::new(line)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for ConfigArguments {
    fn augment_args(command: Command) -> Command {
        command.args(OPTIONS.iter().filter_map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ConfigArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        command_line(matches).map(|line| Self(Arc::new(line)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn command_line(matches: &ArgMatches) -> Result<CommandLine, Error> {
    let mut line = CommandLine { files: ConfigFiles::Read, ..CommandLine::default() };
    let here = |row: &&OptionRow| row.info.flag != Flag::None && matches.try_contains_id(row.info.name).is_ok();
    for row in OPTIONS.iter().filter(here) {
        // clap gives a switch that is not there the value `false`.
        if matches.value_source(row.info.name) != Some(ValueSource::CommandLine) {
            continue;
        }
        for value in matches.get_raw(row.info.name).into_iter().flatten() {
            let set = row.set_text(&mut line.settings, value);
            set.map_err(|reason| Error::raw(ErrorKind::ValueValidation, format!("{reason}\n")))?;
        }
    }
    Ok(line)
}

/// The argument of a row. `None`: the command line does not have the option.
fn argument(row: &'static OptionRow) -> Option<Arg> {
    let info = &row.info;
    let argument = Arg::new(info.name);
    let argument = match info.flag {
        Flag::None => return None,
        Flag::Positional(value) => with_value(argument, row).value_name(value),
        Flag::Value(value) => with_value(argument, row).long(info.name).value_name(value),
        Flag::Repeated(value) => with_value(argument, row).long(info.name).value_name(value).action(ArgAction::Append),
        Flag::Switch => argument.long(info.name).action(ArgAction::SetTrue),
    };
    let default = row.default_text().filter(|_| info.flag != Flag::Switch);
    let help = match default {
        Some(default) => format!("{} [default: {default}]", info.help),
        None => info.help.to_owned(),
    };
    let argument = match info.flag {
        Flag::Positional(_) => argument,
        _ => argument.help_heading(info.topic.heading()),
    };
    Some(argument.long_help(long_help(row, &help)).help(help))
}

/// The help with the details and the named values, each in a paragraph of its own.
fn long_help(row: &OptionRow, help: &str) -> String {
    let values = match row.input {
        Input::Choice(choices) => choices(),
        Input::Text | Input::Path => Vec::new(),
    };
    let values = values.into_iter().filter(|(_, help)| !help.is_empty());
    let values: Vec<String> = values.map(|(name, help)| format!("- {name}: {help}")).collect();
    let paragraphs = [help, row.info.details, &values.join("\n")];
    paragraphs.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n\n")
}

/// An argument whose value is refused where the option's own parser refuses it.
fn with_value(argument: Arg, row: &'static OptionRow) -> Arg {
    let check = |value: &OsStr| row.set_text(&mut Settings::default(), value);
    let text = move |text: String| check(text.as_ref()).map(|()| text);
    match row.input {
        Input::Text => argument.value_parser(StringValueParser::new().try_map(text)),
        Input::Path => argument.value_parser(PathBufValueParser::new()),
        Input::Choice(choices) => {
            let values = choices().into_iter().map(|(name, help)| match help {
                "" => PossibleValue::new(name),
                help => PossibleValue::new(name).help(help),
            });
            let parser = PossibleValuesParser::new(values.collect::<Vec<_>>()).try_map(text);
            // The long help has the values with their meanings.
            argument.value_parser(parser).hide_possible_values(true)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Settings, Error> {
        let command = ConfigArguments::augment_args(Command::default());
        let matches = command.try_get_matches_from([&["binhostfs"], words].concat())?;
        Ok(command_line(&matches)?.settings)
    }

    #[test]
    fn only_what_is_given_is_set() {
        let settings = parse(&[
            "--keyring",
            "/a",
            "--read-only",
            "--keyring",
            "/b",
            "/m",
            "--cache-size=1G",
            "--verify-signature",
            "false",
        ])
        .unwrap();
        assert_eq!(settings.keyring.unwrap().value.len(), 2);
        assert_eq!(settings.read_only.unwrap().source.to_string(), "--read-only");
        assert_eq!(settings.mountpoint.unwrap().source.to_string(), "MOUNTPOINT");
        assert_eq!(settings.cache_size.unwrap().value.0, 1 << 30);
        assert!(!settings.verify_signature.unwrap().value);
        let none = parse(&[]).unwrap();
        assert!(none.read_only.is_none() && none.keyring.is_none() && none.cache_dir.is_none());
    }

    #[test]
    fn wrong_values_are_named_with_their_option() {
        for (words, says) in [
            (&["--cache-size", "8X"][..], "invalid value '8X' for '--cache-size <SIZE>': \"8X\" is not a size"),
            (&["--refresh", "0"], "invalid value '0' for '--refresh <SPAN>': 0 s is shorter than 1 s"),
            (&["--passthrough", "on"], "[possible values: auto, off]"),
            (&["--verify-signature", "1"], "[possible values: true, false]"),
            (&["--cpu-level", "v9"], "[possible values: any, x86-64, "),
            (&["--cache-size", "1G", "--cache-size", "2G"], "cannot be used multiple times"),
            (&["--prefetch-budget", "1G"], "unexpected argument '--prefetch-budget'"),
        ] {
            let error = parse(words).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
