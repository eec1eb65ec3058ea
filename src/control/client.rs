//! Client of the control socket.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::header::SERVER;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::{
    ACCEPT_OLDER, ATOM, GENERATIONS_PATH, KEEP_PATH, NO_METHOD, NO_RESOURCE, PACKAGES_PATH, PREFETCH_PATH,
    REFRESH_PATH, RELOAD_PATH, ROLLBACK_PATH, RUN_PATH, STATUS_PATH, VERIFY_INDEX_PATH, VERIFY_PATH, handlers,
};
use crate::api::{
    CacheTask, CheckedEntries, CheckedEntry, GenerationList, Keep, Managed, Packages, PrefetchJob, PrefetchRequest,
    PrefetchStatus, Refreshed, Reloading, RollbackTo, Run, Status, VerifyResult,
};
use crate::portage::Atom;

const TIMEOUT: Duration = Duration::from_secs(10);
/// A refresh asks every URL, with retries.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(600);
/// A rollback reads and writes large indexes, perhaps on a small machine. It waits for no binhost.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(120);
/// A cache may be large, and its disk slow.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// The version of this program, for error messages.
const OWN: &str = concat!("version ", env!("CARGO_PKG_VERSION"));
/// Maximum time from the end of one run of the program to the first answer of the next.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(120);
/// Interval at which the client asks for the new run.
const RELOAD_POLL: Duration = Duration::from_millis(30);
/// Maximum size of an answer in bytes.
const MAX_ANSWER: usize = 256 << 20;

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
    #[error(
        "{0} is no socket, and so not that of a binhostfs; --control takes the same path as that of `binhostfs mount`"
    )]
    NotASocket(PathBuf),
    /// Another program answers on the socket.
    #[error(
        "what answers on {path} is no binhostfs ({reason}); --control takes the same path as that of `binhostfs mount`"
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
    /// The daemon refuses the request, for this reason.
    #[error("{0}")]
    Refused(String),
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
        what: String,
    },
    /// The answer is missing, not understood, or an error.
    #[error("{path}: {reason}")]
    BadAnswer {
        /// Path of the socket.
        path: PathBuf,
        /// Why the answer cannot be used.
        reason: String,
    },
}

/// Requests the status of the daemon behind `path`.
///
/// # Errors
/// See [`ClientError`].
pub(crate) async fn get_status(path: &Path) -> Result<Status, ClientError> {
    ask(path, Method::GET, STATUS_PATH, TIMEOUT).await
}

/// Makes the daemon behind `path` ask its binhosts for their indexes, and waits for the result.
///
/// # Errors
/// See [`ClientError`]. If the refresh failed, the answer says so.
pub(crate) async fn refresh(path: &Path, accept_older: bool) -> Result<Refreshed, ClientError> {
    let query = if accept_older { format!("{REFRESH_PATH}?{ACCEPT_OLDER}") } else { REFRESH_PATH.to_owned() };
    let answer: Refreshed = ask(path, Method::POST, &query, REFRESH_TIMEOUT).await?;
    if answer.summary.is_none() && answer.error.is_none() {
        let reason = format!(
            "its answer says neither what is shown now nor what failed; it is another version than this, {OWN}"
        );
        return Err(ClientError::BadAnswer { path: path.to_owned(), reason });
    }
    Ok(answer)
}

/// Requests the state of the packages that match `atoms`, or of all, from the daemon behind `path`.
///
/// # Errors
/// See [`ClientError`].
pub(crate) async fn get_packages(path: &Path, atoms: &[Atom]) -> Result<Packages, ClientError> {
    let start = format!("{PACKAGES_PATH}?");
    let length = start.len();
    let mut query = url::form_urlencoded::Serializer::for_suffix(start, length);
    query.extend_pairs(atoms.iter().map(|atom| (ATOM, atom.to_string())));
    let answer: Packages = ask(path, Method::GET, &query.finish(), REFRESH_TIMEOUT).await?;
    match answer.error {
        Some(reason) => Err(ClientError::BadAnswer { path: path.to_owned(), reason }),
        None => Ok(answer),
    }
}

/// Makes the daemon behind `path` compare the entries that are shown at `shown` with their
/// packages; at most [`MAX_CHECKED`](crate::api::MAX_CHECKED) of them.
///
/// # Errors
/// See [`ClientError`].
pub(crate) async fn check_entries(path: &Path, shown: &[&str]) -> Result<Vec<CheckedEntry>, ClientError> {
    let start = format!("{VERIFY_INDEX_PATH}?");
    let length = start.len();
    let mut query = url::form_urlencoded::Serializer::for_suffix(start, length);
    query.extend_pairs(shown.iter().map(|shown| (handlers::PATH, shown)));
    let answer: CheckedEntries = ask(path, Method::POST, &query.finish(), REFRESH_TIMEOUT).await?;
    Ok(answer.entries)
}

/// Makes the daemon behind `path` execute a task on cached packages. `names`: atoms, or PATHs of
/// pins.
///
/// # Errors
/// See [`ClientError`].
pub(crate) async fn manage(path: &Path, task: CacheTask, names: &[String]) -> Result<Managed, ClientError> {
    let Some((_, changes, resource)) = CacheTask::ALL.iter().find(|(known, ..)| *known == task) else {
        return Err(ClientError::BadAnswer { path: path.to_owned(), reason: format!("{task:?} has no resource") });
    };
    let (start, length) = (format!("{resource}?"), resource.len() + 1);
    let mut query = url::form_urlencoded::Serializer::for_suffix(start, length);
    query.extend_pairs(names.iter().map(|name| (ATOM, name)));
    let method = if *changes { Method::POST } else { Method::GET };
    let answer: Managed = ask(path, method, &query.finish(), REFRESH_TIMEOUT).await?;
    match answer.error {
        Some(reason) => Err(ClientError::Refused(reason)),
        None => Ok(answer),
    }
}

/// Requests the list of generations of the daemon behind `path`.
///
/// # Errors
/// See [`ClientError`].
pub(crate) async fn get_generations(path: &Path) -> Result<GenerationList, ClientError> {
    ask(path, Method::GET, GENERATIONS_PATH, ROLLBACK_TIMEOUT).await
}

/// Makes the daemon behind `path` show another generation.
///
/// # Errors
/// See [`ClientError`]. If the rollback failed, the answer says so.
pub(crate) async fn rollback(path: &Path, to: RollbackTo) -> Result<Refreshed, ClientError> {
    let query = match to {
        RollbackTo::Latest => format!("{ROLLBACK_PATH}?to=latest"),
        RollbackTo::Previous => ROLLBACK_PATH.to_owned(),
        RollbackTo::Generation(number) => format!("{ROLLBACK_PATH}?to={number}"),
    };
    ask(path, Method::POST, &query, ROLLBACK_TIMEOUT).await
}

/// Makes the daemon behind `path` mark a generation to be kept, or remove the mark.
///
/// # Errors
/// See [`ClientError`]. If that failed, the answer says so.
pub(crate) async fn keep(path: &Path, number: u64, keep: Keep) -> Result<Refreshed, ClientError> {
    let query = format!("{KEEP_PATH}?generation={number}&keep={}", keep == Keep::Always);
    ask(path, Method::POST, &query, ROLLBACK_TIMEOUT).await
}

/// Makes the daemon behind `path` start a prefetch job. Returns the number of the job.
///
/// # Errors
/// See [`ClientError`].
pub(crate) async fn prefetch(path: &Path, wish: &PrefetchRequest) -> Result<u64, ClientError> {
    let query = format!("{PREFETCH_PATH}?{}", handlers::prefetch_query(wish));
    either(path, Method::POST, &query).await.map(|PrefetchJob { job }| job)
}

/// Requests the state of a prefetch job, with the finished packages from number `since` on.
///
/// # Errors
/// See [`ClientError`].
pub(crate) async fn prefetch_status(path: &Path, job: u64, since: u64) -> Result<PrefetchStatus, ClientError> {
    either(path, Method::GET, &format!("{PREFETCH_PATH}?job={job}&since={since}")).await
}

/// Makes the daemon behind `path` stop a prefetch job. Fetched packages stay.
///
/// # Errors
/// See [`ClientError`].
pub(crate) async fn stop_prefetch(path: &Path, job: u64, since: u64) -> Result<PrefetchStatus, ClientError> {
    either(path, Method::DELETE, &format!("{PREFETCH_PATH}?job={job}&since={since}")).await
}

/// Sends a request whose answer is either the resource or an error of the daemon.
async fn either<T: DeserializeOwned>(path: &Path, method: Method, what: &str) -> Result<T, ClientError> {
    match ask(path, method, what, ROLLBACK_TIMEOUT).await? {
        ApiResult::Answer(answer) => Ok(answer),
        ApiResult::Refused(Refreshed { error, .. }) => Err(ClientError::Refused(
            error.unwrap_or_else(|| format!("{}: an answer without any reason", path.display())),
        )),
    }
}

/// Makes the daemon behind `path` read its whole cache again, and waits for the result.
///
/// # Errors
/// See [`ClientError`].
pub(crate) async fn verify(path: &Path) -> Result<VerifyResult, ClientError> {
    ask(path, Method::POST, VERIFY_PATH, VERIFY_TIMEOUT).await
}

/// Makes the daemon behind `path` start its program again, and waits until the new run answers.
///
/// # Errors
/// See [`ClientError`]. The program would not start, or did not.
pub(crate) async fn reload(path: &Path) -> Result<(), ClientError> {
    let bad = |reason: String| ClientError::BadAnswer { path: path.to_owned(), reason };
    let before: Run = ask(path, Method::GET, RUN_PATH, TIMEOUT).await?;
    let answer: Reloading = ask(path, Method::POST, RELOAD_PATH, RELOAD_TIMEOUT).await?;
    if let Some(error) = answer.error {
        return Err(bad(error));
    }
    let begun = tokio::time::Instant::now();
    loop {
        match ask::<Run>(path, Method::GET, RUN_PATH, TIMEOUT).await {
            Ok(run) if run != before => return Ok(()),
            Ok(_) | Err(_) if begun.elapsed() < RELOAD_TIMEOUT => tokio::time::sleep(RELOAD_POLL).await,
            Ok(_) => return Err(bad("it was not run anew; its log says why".to_owned())),
            Err(error) => return Err(error),
        }
    }
}

impl ClientError {
    /// Whether no daemon answers on the socket.
    #[must_use]
    pub(crate) fn is_nobody(&self) -> bool {
        matches!(self, Self::NoDaemon { .. } | Self::NotASocket(_) | Self::Stranger { .. })
    }
}

async fn ask<T: DeserializeOwned>(
    path: &Path,
    method: Method,
    what: &str,
    timeout: Duration,
) -> Result<T, ClientError> {
    let stream = UnixStream::connect(path).await.map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => ClientError::NotAllowed(path.to_owned()),
        io::ErrorKind::ConnectionRefused if !is_socket(path) => ClientError::NotASocket(path.to_owned()),
        _ => ClientError::NoDaemon { path: path.to_owned(), source },
    })?;
    let bad = |reason: String| ClientError::BadAnswer { path: path.to_owned(), reason };
    match tokio::time::timeout(timeout, exchange(stream, method, what)).await {
        Err(_) => Err(bad(format!("no answer within {} s", timeout.as_secs()))),
        Ok(Err(RequestError::NoHttp(reason))) => Err(ClientError::Stranger { path: path.to_owned(), reason }),
        Ok(Err(RequestError::Broken(reason))) => Err(bad(reason)),
        Ok(Ok(answer)) => answer.read(path, what),
    }
}

fn is_socket(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// The answer to a request, of whatever status.
struct ClientResponse {
    code: StatusCode,
    /// The version that the answer names. `None`: the answer is not from a binhostfs, or from an
    /// old one.
    version: Option<String>,
    body: Bytes,
}

impl ClientResponse {
    fn read<T: DeserializeOwned>(self, path: &Path, what: &str) -> Result<T, ClientError> {
        let path = path.to_owned();
        if self.code == StatusCode::SERVICE_UNAVAILABLE
            && let Ok(Refreshed { error: Some(error), .. }) = serde_json::from_slice(&self.body)
        {
            return Err(ClientError::Refused(error));
        }
        let error = match serde_json::from_slice(&self.body) {
            Ok(answer) if !self.is_unknown() => return Ok(answer),
            Ok(_) => None,
            Err(error) => Some(error),
        };
        let Self { code, version, .. } = &self;
        let other =
            version.as_ref().map_or_else(|| "of another version".to_owned(), |version| format!("version {version}"));
        match error {
            _ if self.is_unknown() && self.is_ours() => {
                let what = what.split('?').next().unwrap_or_default().to_owned();
                Err(ClientError::Unknown { path, other, what })
            }
            Some(error) if self.is_ours() => {
                let reason = format!(
                    "its answer (status {code}) is not understood ({error}); it is {other}, this is {OWN}: after an \
                     upgrade the daemon has to be started again"
                );
                Err(ClientError::BadAnswer { path, reason })
            }
            _ => Err(ClientError::Stranger { path, reason: format!("status {code}") }),
        }
    }

    /// Whether the daemon does not know the requested resource. The status is not enough: an object
    /// that does not exist, such as an old prefetch job, is 404, too.
    fn is_unknown(&self) -> bool {
        let says = |word: &str| self.body.windows(word.len()).any(|window| window == word.as_bytes());
        self.code == StatusCode::NOT_FOUND && says(NO_RESOURCE)
            || self.code == StatusCode::METHOD_NOT_ALLOWED && says(NO_METHOD)
    }

    /// Whether a binhostfs answers. Old versions do not name their version, but answer with JSON.
    fn is_ours(&self) -> bool {
        self.version.is_some() || serde_json::from_slice::<serde_json::Value>(&self.body).is_ok()
    }
}

/// Why an exchange failed.
enum RequestError {
    /// The answer is not HTTP.
    NoHttp(String),
    Broken(String),
}

impl From<hyper::Error> for RequestError {
    fn from(error: hyper::Error) -> Self {
        if error.is_parse() { Self::NoHttp(error.to_string()) } else { Self::Broken(error.to_string()) }
    }
}

async fn exchange(stream: UnixStream, method: Method, what: &str) -> Result<ClientResponse, RequestError> {
    let broken = |error: &dyn std::error::Error| RequestError::Broken(error.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(what).header("host", "binhostfs");
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| broken(&e))?;
    let response = sender.send_request(request).await?;
    let code = response.status();
    let said = response.headers().get(SERVER).and_then(|value| value.to_str().ok());
    let version = said.and_then(|said| said.strip_prefix("binhostfs/")).map(str::to_owned);
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await
        .map_err(|e| RequestError::Broken(e.to_string()))?
        .to_bytes();
    Ok(ClientResponse { code, version, body })
}
/// A response: the resource, or an error of the daemon.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ApiResult<T> {
    Answer(T),
    Refused(Refreshed),
}
