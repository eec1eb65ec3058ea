//! What can go wrong on the way to a binhost.

use std::io;
use std::time::Duration;

/// Why bytes could not be had. URLs are shown without credentials.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The HTTP client could not be made.
    #[error("setting up TLS: {0}")]
    Setup(String),
    /// No answer, or a broken one.
    #[error("{url}: {reason}")]
    Transport {
        /// What was asked for.
        url: String,
        /// What happened, with its causes.
        reason: String,
    },
    /// An answer with an error status.
    #[error("{url}: HTTP status {status}{}", advice(*.status))]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// Redirects that lead in circles, are too many, or lead from https to http.
    #[error("{url}: {reason}")]
    Redirect {
        /// What was asked for.
        url: String,
        /// Why they are not followed.
        reason: String,
    },
    /// There is no index at this URL.
    #[error("{0}; is that the directory that holds Packages?")]
    NoIndex(Box<UpstreamError>),
    /// Nothing came for too long.
    #[error("{url}: no data for {} s", .after.as_secs())]
    Stalled {
        /// What was asked for.
        url: String,
        /// For how long.
        after: Duration,
    },
    /// Data came, but next to none.
    #[error("{url}: less than {floor} B/s for {} s", .window.as_secs())]
    TooSlow {
        /// What was asked for.
        url: String,
        /// The least rate that is waited for.
        floor: u64,
        /// Measured over.
        window: Duration,
    },
    /// Another URL is known to be much faster.
    #[error("{url}: {rate} B/s, left for {by}")]
    Outpaced {
        /// What was asked for.
        url: String,
        /// What it delivered.
        rate: u64,
        /// The other one.
        by: String,
    },
    /// The body ended early.
    #[error("{url}: ended after {got} of {expected} bytes")]
    Truncated {
        /// What was asked for.
        url: String,
        /// Bytes that came.
        got: u64,
        /// Bytes that the index names.
        expected: u64,
    },
    /// The server's file has another size than the index says.
    #[error(
        "{url}: the binhost has {got} bytes where its index says {expected}: index and package do not belong together"
    )]
    SizeMismatch {
        /// What was asked for.
        url: String,
        /// Bytes that the server announces.
        got: u64,
        /// Bytes that the index names.
        expected: u64,
    },
    /// The server went on with another part than asked for.
    #[error("{url}: the server continued with the wrong part ({range})")]
    WrongRange {
        /// What was asked for.
        url: String,
        /// Its Content-Range.
        range: String,
    },
    /// The server sends whole files only.
    #[error("{url}: the server does not send a part of a file (Range)")]
    NoRange {
        /// What was asked for.
        url: String,
    },
    /// A local file of a `file:` binhost.
    #[error("{url}: {source}")]
    File {
        /// Its URL.
        url: String,
        /// Why.
        source: io::Error,
    },
    /// The index cannot be stored.
    #[error("{attempted}: {source}")]
    Store {
        /// What was tried.
        attempted: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The index is compressed, and the compressed data is broken or cut short.
    #[error("{url}: the compressed index is damaged or cut short ({reason})")]
    Compressed {
        /// What was asked for.
        url: String,
        /// The decoder's reason.
        reason: String,
    },
    /// The index is larger than any real one.
    #[error("{url}: the index is larger than {limit} bytes")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// The bound.
        limit: u64,
    },
    /// All URLs failed; the last reason of each.
    #[error("{}", join(.0))]
    All(Vec<UpstreamError>),
}

impl UpstreamError {
    /// Whether the binhost has no such file, or one of another size than its index says, at every URL.
    #[must_use]
    pub fn contradicts_index(&self) -> bool {
        match self {
            Self::SizeMismatch { .. } | Self::Status { status: 404 | 410, .. } => true,
            Self::File { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::All(errors) => !errors.is_empty() && errors.iter().all(Self::contradicts_index),
            _ => false,
        }
    }
}

/// What to do about a status.
fn advice(status: u16) -> &'static str {
    match status {
        401 => "; it wants a user and a password: give them in a netrc file (LoadCredential=netrc:FILE)",
        _ => "",
    }
}

fn join(errors: &[UpstreamError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
