//! The asking side of the socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::index::Atom;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::{
    ACCEPT_OLDER, ATOM, Managed, PACKAGES_PATH, Packages, REFRESH_PATH, Refreshed, STATUS_PATH, Status, Task,
    VERIFY_PATH, VerifyResult,
};

const TIMEOUT: Duration = Duration::from_secs(10);
/// A refresh tries every URL, with patience.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(600);
/// A cache may be large, and its disk slow.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Largest answer that is read, bytes.
const MAX_ANSWER: usize = 256 << 20;

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers.
    #[error("no binhostfs answers on {path} ({source}): is it running? Another socket is named with --control")]
    NoDaemon {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not allowed to ask.
    #[error("{0} may only be used by the user that runs the daemon (root)")]
    NotAllowed(PathBuf),
    /// The daemon does not do it.
    #[error("{0}")]
    Refused(String),
    /// An answer that makes no sense, or none.
    #[error("{path}: {reason}")]
    BadAnswer {
        /// The socket's path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Asks the daemon behind `path` how it is doing.
///
/// # Errors
/// See [`ClientError`].
pub async fn get_status(path: &Path) -> Result<Status, ClientError> {
    ask(path, Method::GET, STATUS_PATH, TIMEOUT).await
}

/// Has the daemon behind `path` ask its binhost for the index, and waits for it.
///
/// # Errors
/// See [`ClientError`]. That the refresh failed is in the answer.
pub async fn refresh(path: &Path, accept_older: bool) -> Result<Refreshed, ClientError> {
    let query = if accept_older { format!("{REFRESH_PATH}?{ACCEPT_OLDER}") } else { REFRESH_PATH.to_owned() };
    ask(path, Method::POST, &query, REFRESH_TIMEOUT).await
}

/// Asks the daemon behind `path` what becomes of packages that match, or of all.
///
/// # Errors
/// See [`ClientError`].
pub async fn get_packages(path: &Path, atoms: &[Atom]) -> Result<Packages, ClientError> {
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

/// Has the daemon behind `path` do something with cached packages.
///
/// # Errors
/// See [`ClientError`].
pub async fn manage(path: &Path, task: Task, names: &[String]) -> Result<Managed, ClientError> {
    let Some((_, changes, resource)) = Task::ALL.iter().find(|(known, ..)| *known == task) else {
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

/// Has the daemon behind `path` read its whole cache again, and waits for it.
///
/// # Errors
/// See [`ClientError`].
pub async fn verify(path: &Path) -> Result<VerifyResult, ClientError> {
    ask(path, Method::POST, VERIFY_PATH, VERIFY_TIMEOUT).await
}

async fn ask<T: DeserializeOwned>(
    path: &Path,
    method: Method,
    what: &str,
    timeout: Duration,
) -> Result<T, ClientError> {
    let stream = UnixStream::connect(path).await.map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => ClientError::NotAllowed(path.to_owned()),
        _ => ClientError::NoDaemon { path: path.to_owned(), source },
    })?;
    let bad = |reason: String| ClientError::BadAnswer { path: path.to_owned(), reason };
    match tokio::time::timeout(timeout, exchange(stream, method, what)).await {
        Err(_) => Err(bad(format!("no answer within {} s", timeout.as_secs()))),
        Ok(answer) => answer.map_err(bad),
    }
}

async fn exchange<T: DeserializeOwned>(stream: UnixStream, method: Method, what: &str) -> Result<T, String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| text(&e))?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(what).header("host", "binhostfs");
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| text(&e))?;
    let response = sender.send_request(request).await.map_err(|e| text(&e))?;
    let code = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|e| e.to_string())?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| {
        format!("its answer (status {code}) is not understood ({error}); is it another version of binhostfs?")
    })
}
