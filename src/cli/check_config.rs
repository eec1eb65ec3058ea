//! `binhostfs check-config`: prints the configuration that `mount` would use, and the origin of
//! each value.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::options::ConfigArguments;
use super::output::{fail, say};
use super::systemd;
use crate::config::{MountpointCheck, Resolution};
use crate::daemon::{check_keys, check_token};
use crate::portage::{Report, Setting};

/// Print the configuration that `mount` would use.
///
/// Each value is printed with the place that it comes from.
///
/// Changes nothing, and needs no root. Exit code 0: `mount` can start with it; 2: `mount` cannot
/// start, and standard error says why.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  binhostfs check-config
  binhostfs check-config --cache-size 20G --json
  binhostfs check-config --systemd > /etc/systemd/system/binhostfs.service.d/paths.conf")]
pub(super) struct CheckArguments {
    #[command(flatten)]
    options: ConfigArguments,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Print a drop-in for systemd's unit instead, which narrows what the daemon can reach
    #[arg(long, conflicts_with = "json")]
    systemd: bool,
}

/// The configuration as JSON. Keys may be added; no key changes its meaning.
#[derive(Debug, Serialize)]
struct ConfigReport<'a> {
    usable: bool,
    /// Why `mount` cannot start with this configuration.
    error: Option<String>,
    settings: Vec<SettingReport<'a>>,
    warnings: &'a [String],
}

#[derive(Debug, Serialize)]
struct SettingReport<'a> {
    key: &'a str,
    value: &'a str,
    source: String,
}

impl<'a> From<&'a Setting> for SettingReport<'a> {
    fn from(setting: &'a Setting) -> Self {
        Self { key: &setting.key, value: &setting.value, source: setting.source.to_string() }
    }
}

pub(super) fn run(arguments: CheckArguments) -> ExitCode {
    let ConfigArguments(line) = &arguments.options;
    let Resolution { result, mut report, .. } = line.resolve(&MountpointCheck::Look);
    let drop_in = result.as_ref().ok().filter(|_| arguments.systemd).map(systemd::drop_in).transpose();
    let error = match result.map(|config| (check_keys(&config), check_token(&config))) {
        Ok((Ok(advice), token)) => {
            report.warnings.extend(advice);
            token.err().map(|error| error.to_string())
        }
        Ok((Err(error), _)) => Some(error.to_string()),
        Err(error) => Some(error.to_string()),
    };
    if arguments.systemd {
        match drop_in {
            Ok(text) => text.filter(|_| error.is_none()).iter().for_each(|text| say(text.trim_end())),
            Err(error) => return fail(2, error),
        }
    } else if arguments.json {
        let settings = report.settings.iter().map(SettingReport::from).collect();
        let told = ConfigReport { usable: error.is_none(), error: error.clone(), settings, warnings: &report.warnings };
        match serde_json::to_string_pretty(&told) {
            Ok(text) => say(text),
            Err(error) => return fail(1, error),
        }
    } else if !report.settings.is_empty() {
        say(text(&report));
    }
    match error {
        None => ExitCode::SUCCESS,
        Some(error) => fail(2, error),
    }
}

/// The settings in the form of the configuration file, with comments. Warnings follow.
fn text(report: &Report) -> String {
    let width =
        report.settings.iter().map(|setting| setting.key.len() + setting.value.len()).max().unwrap_or(0).min(70);
    let line = |setting: &Setting| {
        let assigned = format!("{} = {}", setting.key, setting.value);
        format!("{assigned:<width$}  # {}", setting.source, width = width + 3)
    };
    let warnings = report.warnings.iter().map(|warning| format!("warning: {warning}"));
    report.settings.iter().map(line).chain(warnings).collect::<Vec<_>>().join("\n")
}
