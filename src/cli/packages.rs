//! `binhostfs list` and `binhostfs why`.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;

use super::client_arguments::ClientArguments;
use super::output::{fail, say, tell, unanswered};
use super::runtime;
use crate::api::{PackageState, PackageStatus};
use crate::control::get_packages;
use crate::portage::{Atom, AtomError, Cpv};

/// List the shown packages, and which are cached or local.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  binhostfs list
  binhostfs list 'dev-libs/*'
  binhostfs list --names")]
pub(super) struct ListArguments {
    /// List only packages that match, e.g. dev-lang/rust, 'dev-libs/*', '>=app-misc/hello-2', or a
    /// bare name
    #[arg(value_name = "ATOM", value_parser = atom)]
    atoms: Vec<Atom>,
    /// Print only names, each once, e.g. dev-lang/rust
    #[arg(long, conflicts_with = "json")]
    names: bool,
    #[command(flatten)]
    client: ClientArguments,
}

/// Explain why a package is shown, hidden or not taken.
///
/// Explains each build in the index of any binhost: whether it is shown and cached, and by which
/// key it was verified. Also names the USE flags that `emerge -k` must find set to take it.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  binhostfs why dev-lang/rust
  binhostfs why '=app-misc/hello-2.0-r1' --json")]
pub(super) struct WhyArguments {
    /// Select these packages, e.g. dev-lang/rust, '=app-misc/hello-2.0-r1', or a bare name
    #[arg(value_name = "ATOM", required = true, value_parser = atom)]
    atoms: Vec<Atom>,
    #[command(flatten)]
    client: ClientArguments,
}

/// The text of an atom, for an argument. A bare name selects packages of that name in all
/// categories; borrowed: the argument is no bare name.
pub(super) fn atom_text(argument: &str) -> Cow<'_, str> {
    let bare = !argument.contains('/') && !argument.starts_with(['=', '<', '>', '~']);
    if bare { format!("*/{argument}").into() } else { argument.into() }
}

/// Parses an argument as an atom, see [`atom_text`].
pub(super) fn atom(argument: &str) -> Result<Atom, AtomError> {
    let text = atom_text(argument);
    // The error names the argument as it was typed.
    text.parse().map_err(|error: AtomError| match text {
        Cow::Owned(_) => AtomError::Invalid(argument.to_owned()),
        Cow::Borrowed(_) => error,
    })
}

pub(super) fn list(arguments: &ListArguments) -> ExitCode {
    ask(&arguments.atoms, &arguments.client, |packages| {
        packages.retain(|package| package.state == PackageState::Shown);
        if arguments.names {
            let parsed: Vec<Cpv> = packages.iter().filter_map(|package| Cpv::parse(&package.cpv).ok()).collect();
            parsed.iter().map(Cpv::cp).collect::<BTreeSet<_>>().into_iter().for_each(say);
            return ExitCode::SUCCESS;
        }
        packages.iter().for_each(|package| tell(package.line()));
        ExitCode::SUCCESS
    })
}

pub(super) fn why(arguments: &WhyArguments) -> ExitCode {
    ask(&arguments.atoms, &arguments.client, |packages| {
        if packages.is_empty() {
            return fail(
                1,
                "no binhost has such a package in its index, and none is local; `binhostfs status` says how old the indexes are",
            );
        }
        packages.iter().for_each(tell);
        ExitCode::SUCCESS
    })
}

fn ask(atoms: &[Atom], client: &ClientArguments, tell: impl FnOnce(&mut Vec<PackageStatus>) -> ExitCode) -> ExitCode {
    let runtime = match runtime(1) {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, format_args!("starting threads: {error}")),
    };
    match runtime.block_on(get_packages(&client.control, atoms)) {
        Ok(mut packages) if !client.json => tell(&mut packages.packages),
        Ok(packages) => match serde_json::to_string(&packages) {
            Ok(json) => {
                say(json);
                ExitCode::SUCCESS
            }
            Err(error) => fail(1, error),
        },
        Err(error) => unanswered(&error),
    }
}
