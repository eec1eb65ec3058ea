//! Arguments of all commands that send requests to the daemon.

use std::path::PathBuf;

use clap::Args;

use crate::config::DEFAULT_CONTROL;

#[derive(Debug, Args)]
pub(super) struct ClientArguments {
    /// Print the result as JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Ask the daemon on this socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONTROL)]
    pub(super) control: PathBuf,
}
