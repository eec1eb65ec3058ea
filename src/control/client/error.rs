//! Why a request of the client has no answer.

use std::io;
use std::path::PathBuf;

use crate::api::ApiError;

/// The version of this program, for error messages.
pub(super) const OWN: &str = concat!("version ", env!("CARGO_PKG_VERSION"));

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// No process answers on the socket.
    #[error("no binhostfs answers on {path} ({source}): is it running? Another socket is named with --control")]
    NoDaemon {
        /// Path of the socket.
        path: PathBuf,
        /// Why the connection failed.
        source: io::Error,
    },
    /// The path is not that of a socket.
    #[error("{0} is not a socket; --control takes the same path as that of `binhostfs mount`")]
    NotASocket(PathBuf),
    /// Another program answers on the socket.
    #[error(
        "the program that answers on {path} is not binhostfs ({reason}); --control takes the same path as that of `binhostfs mount`"
    )]
    Stranger {
        /// Path of the socket.
        path: PathBuf,
        /// Why the answer is not that of a binhostfs.
        reason: String,
    },
    /// The user may not use the socket.
    #[error("{0} may only be used by root, and by the group that `control-group` names if the daemon has one")]
    NotAllowed(PathBuf),
    /// The daemon refuses the request, or has failed.
    #[error(transparent)]
    Refused(ApiError),
    /// The daemon does not know the requested resource.
    #[error(
        "the binhostfs behind {path} is {other}, and does not know what this one, {own}, asks for ({what}): after an \
         upgrade the daemon has to be started again",
        own = OWN
    )]
    Unknown {
        /// Path of the socket.
        path: PathBuf,
        /// Version of the daemon, as far as its answer says it.
        other: String,
        /// Path of the requested resource.
        what: &'static str,
    },
    /// The answer is missing, or not understood.
    #[error("{path}: {reason}")]
    BadAnswer {
        /// Path of the socket.
        path: PathBuf,
        /// Why the answer cannot be used.
        reason: String,
    },
}

impl ClientError {
    /// Whether no daemon answers on the socket.
    #[must_use]
    pub(crate) fn is_nobody(&self) -> bool {
        matches!(self, Self::NoDaemon { .. } | Self::NotASocket(_) | Self::Stranger { .. })
    }
}
