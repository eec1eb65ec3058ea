//! What the daemon tells about itself: HTTP with JSON on a Unix socket.
//!
//! `GET /v1/status` answers a [`Status`]. The socket belongs to whoever started the daemon (mode 0600).
//!
//! Not its job: changing anything.

mod client;
mod server;
mod status;

pub use client::{ClientError, get_status};
pub use server::{ControlError, Server};
pub use status::{
    BinhostStatus, CacheStatus, DownloadStatus, FailureStatus, GenerationStatus, KeyringStatus, RefreshStatus, Status,
};

/// Path of the status resource.
const STATUS_PATH: &str = "/v1/status";
