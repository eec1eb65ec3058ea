//! Arguments of all commands that ask the daemon.

use std::path::PathBuf;

use clap::Args;

use crate::config::DEFAULT_CONTROL;

#[derive(Debug, Args)]
pub(super) struct ClientArguments {
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Socket of the daemon
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONTROL)]
    pub(super) control: PathBuf,
}
