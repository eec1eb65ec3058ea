//! Requests to the refresher.

use tokio::sync::oneshot;

use super::binhosts::freshness::Order;
use crate::api::{ApiError, CacheTask, Keep, Managed, PackageStatus, RollbackTo};
use crate::config::MountConfig;
use crate::portage::Atom;

/// Channel for the answer to one request.
pub(super) type Reply<T> = oneshot::Sender<Result<T, ApiError>>;

/// A request to the refresher.
#[derive(Debug)]
pub(super) enum Request {
    /// Refreshes the indexes now.
    Refresh { order: Order, reply: Reply<String> },
    /// Explains what the daemon does with the entries that match `atoms`.
    Explain { atoms: Vec<Atom>, reply: Reply<Vec<PackageStatus>> },
    /// Runs a task on cached packages.
    Manage { task: CacheTask, names: Vec<String>, reply: Reply<Managed> },
    /// Shows another generation until that is undone.
    Rollback { to: RollbackTo, reply: Reply<String> },
    /// Marks a generation to be kept, or removes the mark.
    Keep { number: u64, keep: Keep, reply: Reply<String> },
    /// Applies another configuration of binhosts or rules.
    Configure(Box<MountConfig>),
}
