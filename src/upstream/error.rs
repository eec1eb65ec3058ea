//! Errors of requests to a binhost.

use std::io;
use std::time::Duration;

use crate::sys::is_full;

/// Why bytes could not be fetched. URLs are shown without credentials.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// The HTTP client could not be created.
    #[error("setting up HTTP: {0}")]
    Setup(String),
    /// The server sent no answer, or a broken one.
    #[error("{url}: {reason}")]
    Transport {
        /// URL of the request.
        url: String,
        /// The error with its causes.
        reason: String,
    },
    /// The server answered with an error status.
    #[error("{url}: HTTP status {status}{}", advice(*.status))]
    Status {
        /// URL of the request.
        url: String,
        /// The HTTP status code.
        status: u16,
        /// How long the client has to wait, as the server requested.
        retry_after: Option<Duration>,
    },
    /// The object store refused the request, or answered with a redirect.
    #[error("{url}: HTTP status {status}{}", said(.code.as_deref()))]
    Store {
        /// URL of the request.
        url: String,
        /// The HTTP status code.
        status: u16,
        /// The store's name for the error.
        code: Option<String>,
    },
    /// Redirects form a circle, are too many, lead from https to http, or the URL is at a private
    /// address to which this binhost must not lead.
    #[error("{url}: {reason}")]
    Redirect {
        /// URL of the request.
        url: String,
        /// Why the redirect was refused.
        reason: String,
    },
    /// There is no index at this URL.
    #[error("{0}; is that the directory that holds Packages?")]
    NoIndex(Box<UpstreamError>),
    /// The server sent nothing for too long.
    #[error("{url}: no data for {} s", .after.as_secs())]
    Stalled {
        /// URL of the request.
        url: String,
        /// Duration of the silence.
        after: Duration,
    },
    /// The rate was too low.
    #[error("{url}: less than {floor} B/s for {} s", .window.as_secs())]
    TooSlow {
        /// URL of the request.
        url: String,
        /// Minimum rate in bytes/s.
        floor: u64,
        /// Time over which the rate was measured.
        window: Duration,
    },
    /// Another URL is known to be much faster.
    #[error("{url}: {rate} B/s, left for {by}")]
    Outpaced {
        /// URL of the request.
        url: String,
        /// Measured rate in bytes/s.
        rate: u64,
        /// URL that is faster.
        by: String,
    },
    /// The file ended early.
    #[error("{url}: ended after {got} of {expected} bytes")]
    Truncated {
        /// URL of the request.
        url: String,
        /// Number of bytes received.
        got: u64,
        /// Size in the index, in bytes.
        expected: u64,
    },
    /// The file at the server has another size than in the index.
    #[error(
        "{url}: the binhost has {got} bytes where its index says {expected}: index and package do not belong together"
    )]
    SizeMismatch {
        /// URL of the request.
        url: String,
        /// Size that the server announced, in bytes.
        got: u64,
        /// Size in the index, in bytes.
        expected: u64,
    },
    /// The server sent another part than the requested one.
    #[error("{url}: the server continued with the wrong part ({range})")]
    WrongRange {
        /// URL of the request.
        url: String,
        /// Content-Range of the answer.
        range: String,
    },
    /// The server sends whole files only.
    #[error("{url}: the server does not send a part of a file (Range)")]
    NoRange {
        /// URL of the request.
        url: String,
    },
    /// A local file of a `file:` binhost cannot be read.
    #[error("{url}: {source}")]
    File {
        /// URL of the file.
        url: String,
        /// Error of the system call.
        source: io::Error,
    },
    /// The index cannot be stored.
    #[error("{attempted}: {source}")]
    Disk {
        /// The operation that failed.
        attempted: &'static str,
        /// Error of the system call.
        source: io::Error,
    },
    /// The compressed index is damaged or cut short.
    #[error("{url}: the compressed index is damaged or cut short ({reason})")]
    Compressed {
        /// URL of the request.
        url: String,
        /// Error of the decoder.
        reason: String,
    },
    /// The index is larger than `max-index`.
    #[error("{url}: the index is larger than {limit} bytes; if that is right, raise max-index")]
    TooLarge {
        /// URL of the request.
        url: String,
        /// Largest accepted size in bytes.
        limit: u64,
    },
    /// All URLs failed, with the last error of each.
    #[error("{}", join(.0))]
    All(Vec<UpstreamError>),
}

impl UpstreamError {
    /// Whether the disk had no room for what was fetched.
    pub(crate) fn is_disk_full(&self) -> bool {
        match self {
            Self::Disk { source, .. } => is_full(source),
            Self::All(errors) => errors.iter().any(Self::is_disk_full),
            _ => false,
        }
    }

    /// Whether the file is missing at every URL, or has another size than in the index.
    #[must_use]
    pub(crate) fn contradicts_index(&self) -> bool {
        match self {
            Self::SizeMismatch { .. } | Self::Status { status: 404 | 410, .. } => true,
            Self::File { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::All(errors) => !errors.is_empty() && errors.iter().all(Self::contradicts_index),
            _ => false,
        }
    }
}

/// Returns a remedy for a status.
fn advice(status: u16) -> &'static str {
    match status {
        401 => "; it wants a user and a password: give them in a netrc file (LoadCredential=netrc:FILE)",
        _ => "",
    }
}

/// The store's name for an error, and a remedy for those that an administrator can cure.
fn said(code: Option<&str>) -> String {
    let Some(code) = code else { return String::new() };
    let advice = match code {
        "RequestTimeTooSkewed" => "; the clock of this machine or of the store is wrong",
        "SignatureDoesNotMatch" => "; the secret of the key is wrong, or a proxy changes the host's name",
        "AuthorizationHeaderMalformed" => "; is `region` the store's own?",
        "InvalidAccessKeyId" => "; the store does not know the key",
        "NoSuchBucket" => "; `bucket` is not there",
        "AccessDenied" => "; the key must be allowed to read, to write and to list the bucket",
        _ => "",
    };
    format!(" ({code}{advice})")
}

fn join(errors: &[UpstreamError]) -> String {
    if errors.is_empty() {
        return "no URL can be asked now".to_owned();
    }
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
