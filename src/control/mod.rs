//! What the daemon tells about itself: HTTP with JSON on a Unix socket.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | a [`Status`] |
//! | `POST /v1/refresh`, with `?accept_older=true` if need be | a [`Refreshed`], when it is done |
//! | `POST /v1/verify` | a [`VerifyResult`], when the whole cache was read |
//!
//! The socket belongs to whoever started the daemon (mode 0600).
//!
//! Not its job: doing any of it; that is behind [`Control`].

mod client;
mod server;
mod status;

pub use client::{ClientError, get_status, refresh, verify};
pub use server::{ControlError, Server};
pub use status::{
    BinhostStatus, CacheStatus, DownloadStatus, EntriesStatus, FailureStatus, GenerationStatus, KeyringStatus,
    MirrorState, MirrorStatus, RefreshStatus, Refreshed, Status, VerifyResult,
};

/// Path of the status resource.
const STATUS_PATH: &str = "/v1/status";
/// Path of the refresh resource.
const REFRESH_PATH: &str = "/v1/refresh";
/// Path of the verification of the cache.
const VERIFY_PATH: &str = "/v1/verify";
/// Query of a refresh that may bring an older index.
const ACCEPT_OLDER: &str = "accept_older=true";

/// What the daemon does when it is asked.
pub trait Control: Send + Sync {
    /// How it is doing.
    fn status(&self) -> Status;
    /// Reads the whole cache again.
    fn verify(&self) -> tokio::sync::oneshot::Receiver<VerifyResult>;
    /// Asks the binhost for its index now. The answer, when it comes, is a summary or why it failed.
    fn refresh(&self, accept_older: bool) -> tokio::sync::oneshot::Receiver<Result<String, String>>;
}
