//! `binhostfs generations` and `binhostfs rollback`.

use std::process::ExitCode;

use clap::Args;

use super::client_arguments::ClientArguments;
use super::output::{fail, say, unanswered};
use super::runtime;
use crate::api::{Keep, Refreshed, RollbackTo};
use crate::control::{ClientError, get_generations, keep, rollback};

/// What has been shown to Portage lately, and can be shown again.
///
/// A generation is the set of indexes that was shown at a time. Each line: number, since when, packages, what came and went
/// against the one before.
#[derive(Debug, Args)]
pub(super) struct GenerationsArguments {
    /// Keep this one, however old it becomes
    #[arg(long, value_name = "GENERATION", conflicts_with = "release", value_parser = generation)]
    keep: Option<u64>,
    /// Let this one go like any other
    #[arg(long, value_name = "GENERATION", value_parser = generation)]
    release: Option<u64>,
    #[command(flatten)]
    client: ClientArguments,
}

/// Show an earlier generation to Portage, until that is undone with --latest.
///
/// It stays so over restarts and new indexes. What is refused, or not selected any more, stays away, and every package is
/// verified as ever; one that its binhost has removed can be had only if it is in the cache.
#[derive(Debug, Args)]
pub(super) struct RollbackArguments {
    /// Its number, as `binhostfs generations` says it [default: the one before the one that is shown]
    #[arg(value_name = "GENERATION", value_parser = generation)]
    generation: Option<u64>,
    /// Show the newest again, and every newer one as it comes
    #[arg(long, conflicts_with = "generation")]
    latest: bool,
    #[command(flatten)]
    client: ClientArguments,
}

fn generation(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| "it is not the number of a generation, e.g. 12; `binhostfs generations` lists them".to_owned())
}

pub(super) fn generations(arguments: &GenerationsArguments) -> ExitCode {
    let ClientArguments { json, control } = &arguments.client;
    let mark = match (arguments.keep, arguments.release) {
        (Some(number), _) => Some((number, Keep::Always)),
        (None, Some(number)) => Some((number, Keep::AsUsual)),
        (None, None) => None,
    };
    if let Some((number, how)) = mark {
        return ask(keep(control, number, how), |done| told(&done, *json));
    }
    ask(get_generations(control), |all| {
        if *json {
            return say_json(&all);
        }
        all.generations.iter().for_each(|generation| say(generation.line(all.time)));
        ExitCode::SUCCESS
    })
}

pub(super) fn roll_back(arguments: &RollbackArguments) -> ExitCode {
    let to = match arguments.generation {
        Some(number) => RollbackTo::Generation(number),
        None if arguments.latest => RollbackTo::Latest,
        None => RollbackTo::Previous,
    };
    ask(rollback(&arguments.client.control, to), |done| told(&done, arguments.client.json))
}

fn told(done: &Refreshed, json: bool) -> ExitCode {
    match (&done.error, json) {
        (error, true) => {
            let code = say_json(done);
            if error.is_some() { ExitCode::FAILURE } else { code }
        }
        (Some(error), false) => fail(1, error),
        (None, false) => {
            say(done.summary.as_deref().unwrap_or_default());
            ExitCode::SUCCESS
        }
    }
}

fn say_json(what: &impl serde::Serialize) -> ExitCode {
    match serde_json::to_string(what) {
        Ok(json) => {
            say(json);
            ExitCode::SUCCESS
        }
        Err(error) => fail(1, error),
    }
}

fn ask<T>(question: impl Future<Output = Result<T, ClientError>>, tell: impl FnOnce(T) -> ExitCode) -> ExitCode {
    let runtime = match runtime(1) {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, format_args!("starting threads: {error}")),
    };
    match runtime.block_on(question) {
        Ok(answer) => tell(answer),
        Err(error) => unanswered(&error),
    }
}
