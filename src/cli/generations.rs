//! `binhostfs generations` and `binhostfs rollback`.

use std::process::ExitCode;

use clap::Args;

use super::client_arguments::ClientArguments;
use super::output::{fail, say, say_json, summarised, unanswered};
use super::runtime;
use crate::api::{Keep, RollbackTo};
use crate::control::{ClientError, get_generations, keep, rollback};

/// List the generations of the index that are kept.
///
/// A generation is the set of indexes that was shown at a time. Each line has its number, its age,
/// the number of packages, and the packages added and removed since the generation before.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  binhostfs generations
  binhostfs generations --keep 12")]
pub(super) struct GenerationsArguments {
    /// Keep this generation, however old it becomes
    #[arg(long, value_name = "GENERATION", conflicts_with = "release", value_parser = generation)]
    keep: Option<u64>,
    /// Remove this generation at the usual age again
    #[arg(long, value_name = "GENERATION", value_parser = generation)]
    release: Option<u64>,
    #[command(flatten)]
    client: ClientArguments,
}

/// Show an earlier generation, until --latest undoes that.
///
/// The generation stays over restarts and new indexes. Packages that are refused, or not selected
/// any more, stay hidden, and every package is verified as usual. A package that its binhost has
/// removed can be opened only if it is in the cache.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  binhostfs rollback                 the generation before the one that is shown
  binhostfs rollback 12
  binhostfs rollback --match-tree
  binhostfs rollback --latest")]
pub(super) struct RollbackArguments {
    /// Show the generation of this number; `binhostfs generations` lists the numbers [default: the
    /// one before the one that is shown]
    #[arg(value_name = "GENERATION", value_parser = generation)]
    generation: Option<u64>,
    /// Show the newest generation again, and every newer one as it comes
    #[arg(long, conflicts_with = "generation")]
    latest: bool,
    /// Show the newest generation that was built from the commit that the ebuild repository is at,
    /// or else from one that it was at before. Only where the indexes name their commits
    #[arg(long, conflicts_with_all = ["generation", "latest"])]
    match_tree: bool,
    #[command(flatten)]
    client: ClientArguments,
}

/// An argument is no generation.
#[derive(Debug, thiserror::Error)]
#[error("it is not the number of a generation, e.g. 12; `binhostfs generations` lists them")]
struct NotAGeneration;

fn generation(text: &str) -> Result<u64, NotAGeneration> {
    text.parse().map_err(|_| NotAGeneration)
}

pub(super) fn generations(arguments: &GenerationsArguments) -> ExitCode {
    let ClientArguments { json, control } = &arguments.client;
    let mark = match (arguments.keep, arguments.release) {
        (Some(number), _) => Some((number, Keep::Always)),
        (None, Some(number)) => Some((number, Keep::AsUsual)),
        (None, None) => None,
    };
    if let Some((number, how)) = mark {
        return ask(keep(control, number, how), |answer| summarised(answer, "", *json));
    }
    ask(get_generations(control), |answer| match answer {
        Ok(all) if *json => say_json(&all),
        Ok(all) => {
            all.generations.iter().for_each(|generation| say(generation.line(all.time)));
            ExitCode::SUCCESS
        }
        Err(error) => unanswered(&error),
    })
}

pub(super) fn roll_back(arguments: &RollbackArguments) -> ExitCode {
    let to = match arguments.generation {
        Some(number) => RollbackTo::Generation(number),
        None if arguments.latest => RollbackTo::Latest,
        None if arguments.match_tree => RollbackTo::MatchTree,
        None => RollbackTo::Previous,
    };
    ask(rollback(&arguments.client.control, to), |answer| summarised(answer, "", arguments.client.json))
}

fn ask<T>(
    question: impl Future<Output = Result<T, ClientError>>,
    tell: impl FnOnce(Result<T, ClientError>) -> ExitCode,
) -> ExitCode {
    match runtime(1) {
        Ok(runtime) => tell(runtime.block_on(question)),
        Err(error) => fail(1, format_args!("starting threads: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::generation;

    #[test]
    fn a_generation_is_a_number() {
        assert_eq!(generation("12").unwrap(), 12);
        for bad in ["", "-1", "latest"] {
            assert!(generation(bad).unwrap_err().to_string().starts_with("it is not the number of a generation"));
        }
    }
}
