//! One request and its answer over the control socket.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::header::SERVER;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::super::routes::Endpoint;
use super::error::{ClientError, OWN};
use crate::api::{ErrorBody, ErrorCode};

/// Maximum size of an answer in bytes.
const MAX_ANSWER: usize = 256 << 20;

/// Sends a request to the daemon behind the socket `path`, and reads the answer.
pub(super) async fn ask<T: DeserializeOwned>(
    path: &Path,
    endpoint: &Endpoint,
    parameters: &[(&'static str, String)],
    timeout: Duration,
) -> Result<T, ClientError> {
    send(path, endpoint, parameters, timeout).await?.read(path, endpoint)
}

/// The same for an answer that is not JSON.
pub(super) async fn ask_text(
    path: &Path,
    endpoint: &Endpoint,
    parameters: &[(&'static str, String)],
    timeout: Duration,
) -> Result<Bytes, ClientError> {
    let answer = send(path, endpoint, parameters, timeout).await?;
    if answer.code.is_success() { Ok(answer.body) } else { Err(answer.refusal(path, endpoint)) }
}

async fn send(
    path: &Path,
    endpoint: &Endpoint,
    parameters: &[(&'static str, String)],
    timeout: Duration,
) -> Result<ClientResponse, ClientError> {
    let stream = UnixStream::connect(path).await.map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => ClientError::NotAllowed(path.to_owned()),
        io::ErrorKind::ConnectionRefused if !is_socket(path) => ClientError::NotASocket(path.to_owned()),
        _ => ClientError::NoDaemon { path: path.to_owned(), source },
    })?;
    let bad = |reason: String| ClientError::BadAnswer { path: path.to_owned(), reason };
    match tokio::time::timeout(timeout, exchange(stream, endpoint, parameters)).await {
        Err(_) => Err(bad(format!("no answer within {} s", timeout.as_secs()))),
        Ok(Err(RequestError::NoHttp(reason))) => Err(ClientError::Stranger { path: path.to_owned(), reason }),
        Ok(Err(RequestError::Broken(reason))) => Err(bad(reason)),
        Ok(Ok(answer)) => Ok(answer),
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
    fn read<T: DeserializeOwned>(self, path: &Path, endpoint: &Endpoint) -> Result<T, ClientError> {
        if self.code.is_success() {
            return serde_json::from_slice(&self.body).map_err(|error| self.not_understood(path, &error));
        }
        Err(self.refusal(path, endpoint))
    }

    /// The error of an answer that is no success.
    fn refusal(&self, path: &Path, endpoint: &Endpoint) -> ClientError {
        let body: ErrorBody = match serde_json::from_slice(&self.body) {
            Ok(body) => body,
            Err(error) => return self.not_understood(path, &error),
        };
        let error = body.into_error(self.code.as_u16());
        if matches!(error.code(), ErrorCode::UnknownResource | ErrorCode::UnknownMethod) {
            return ClientError::Unknown { path: path.to_owned(), other: self.sender(), what: endpoint.path };
        }
        ClientError::Refused(error)
    }

    fn not_understood(&self, path: &Path, error: &serde_json::Error) -> ClientError {
        let (path, code, other) = (path.to_owned(), self.code, self.sender());
        if self.is_ours() {
            let reason = format!(
                "its answer (status {code}) is not understood ({error}); it is {other}, this is {OWN}: after an \
                 upgrade the daemon has to be started again"
            );
            ClientError::BadAnswer { path, reason }
        } else {
            ClientError::Stranger { path, reason: format!("status {code}") }
        }
    }

    /// The version of the daemon, for a person.
    fn sender(&self) -> String {
        self.version.as_ref().map_or_else(|| "of another version".to_owned(), |version| format!("version {version}"))
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

async fn exchange(
    stream: UnixStream,
    endpoint: &Endpoint,
    parameters: &[(&'static str, String)],
) -> Result<ClientResponse, RequestError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder().method(&endpoint.method).uri(uri(endpoint.path, parameters));
    let request = request.header("host", "binhostfs").body(Empty::<Bytes>::new());
    let response = sender.send_request(request.map_err(|e| RequestError::Broken(e.to_string()))?).await?;
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

fn uri(path: &str, parameters: &[(&'static str, String)]) -> String {
    if parameters.is_empty() {
        return path.to_owned();
    }
    let (start, length) = (format!("{path}?"), path.len() + 1);
    url::form_urlencoded::Serializer::for_suffix(start, length).extend_pairs(parameters).finish()
}

#[cfg(test)]
mod tests {
    use super::super::super::routes;
    use super::*;
    use crate::api::Packages;

    fn answer(code: u16, version: Option<&str>, body: &'static str) -> ClientError {
        let (code, version) = (StatusCode::from_u16(code).unwrap(), version.map(str::to_owned));
        let response = ClientResponse { code, version, body: Bytes::from_static(body.as_bytes()) };
        response.read::<Packages>(Path::new("/s"), &routes::PACKAGES).unwrap_err()
    }

    #[test]
    fn who_has_answered_decides_what_an_answer_means() {
        let refused = answer(400, Some("1"), r#"{"error":"bad atom","code":"bad-request"}"#);
        assert!(matches!(&refused, ClientError::Refused(error) if error.to_string() == "bad atom"), "{refused:?}");
        // A daemon that sends no code.
        let refused = answer(503, Some("1"), r#"{"summary":null,"error":"the daemon is stopping"}"#);
        let stopping = crate::api::ApiError::stopping();
        assert!(matches!(&refused, ClientError::Refused(error) if *error == stopping), "{refused:?}");
        let unknown = answer(404, None, r#"{"summary":null,"error":"no such resource"}"#);
        let text = unknown.to_string();
        assert!(text.contains("is of another version, and does not know") && text.contains("(/v1/packages)"), "{text}");
        let unknown = answer(405, Some("9"), r#"{"error":"not this method","code":"unknown-method"}"#);
        assert!(matches!(&unknown, ClientError::Unknown { other, .. } if other == "version 9"), "{unknown:?}");
        for (code, version, body) in [(200, Some("9"), "\"changed\""), (404, Some("9"), "<html>"), (404, None, "7")] {
            let error = answer(code, version, body);
            assert!(matches!(error, ClientError::BadAnswer { .. }), "{error:?}");
        }
        for code in [200, 404, 503] {
            let error = answer(code, None, "<html>");
            assert!(matches!(error, ClientError::Stranger { .. }) && error.is_nobody(), "{error:?}");
        }
    }

    #[test]
    fn parameters_are_encoded() {
        assert_eq!(uri("/v1/run", &[]), "/v1/run");
        let parameters = [("atom", ">=a/b-1&x".to_owned()), ("since", "7".to_owned())];
        assert_eq!(uri("/v1/x", &parameters), "/v1/x?atom=%3E%3Da%2Fb-1%26x&since=7");
    }
}
