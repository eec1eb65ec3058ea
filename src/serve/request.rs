//! A request -> its answer.

use std::fs::File;
use std::io;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode, Uri};
use url::form_urlencoded;

use super::file_answer::{Representation, SelectedContent};
use super::file_body::{self, Body};
use super::limits::{ClientAddress, Pace};
use super::packages::SharedPackages;
use super::published::{BothForms, IndexFile, PublishedIndex};
use super::token::ServeToken;
use super::{BLOB, HELD, LINGER, PROGRESS};
use crate::cache::Blob;
use crate::fetch::{FetchError, Lookup, PackageRef, Uid};
use crate::index::ShareKey;
use crate::local::{Errno, Stat};
use crate::metrics::Metrics;

const PACKAGE: &str = "application/octet-stream";

/// What is served.
#[derive(Debug)]
pub(super) struct RequestHandler {
    pub(super) index: Arc<PublishedIndex>,
    pub(super) packages: SharedPackages,
    pub(super) metrics: Arc<Metrics>,
    pub(super) token: Option<ServeToken>,
}

/// A request of one client.
struct ClientRequest<'a> {
    method: &'a Method,
    headers: &'a HeaderMap,
    client: ClientAddress,
    pace: &'a Arc<Pace>,
}

/// Why a request is not answered with a file.
#[derive(Debug)]
enum RouteError {
    Unauthorized,
    Method,
    BadRequest(&'static str),
    NotFound,
    /// No index was published yet.
    NoIndex,
    /// The package is not here, and cannot be fetched.
    Fetch(Arc<FetchError>),
    /// A file of this machine cannot be read.
    Read(io::Error),
    /// The package is being fetched; the text changes as long as that makes progress.
    Underway(String),
}

type RouteResult = Result<Response<Body>, RouteError>;

impl RequestHandler {
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        client: ClientAddress,
        pace: &Arc<Pace>,
    ) -> Response<Body> {
        self.metrics.serve_requests.increase();
        let (method, headers, uri) = (request.method(), request.headers(), request.uri());
        let request = ClientRequest { method, headers, client, pace };
        let answer = self.route(&request, uri).await;
        let mut response = answer.unwrap_or_else(|error| error.response());
        tracing::debug!(%method, path = uri.path(), status = response.status().as_u16(), "answered another machine");
        response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        response
    }

    async fn route(&self, request: &ClientRequest<'_>, uri: &Uri) -> RouteResult {
        if self.token.as_ref().is_some_and(|token| !token.is_in(request.headers)) {
            return Err(RouteError::Unauthorized);
        }
        if ![Method::GET, Method::HEAD].contains(request.method) {
            return Err(RouteError::Method);
        }
        if let Some(key) = uri.path().strip_prefix(BLOB) {
            let key = key.parse().map_err(|_| RouteError::BadRequest("a blob is <sha1>-<md5>-<size>"))?;
            return self.blob(request, &key, uri.query().unwrap_or_default()).await;
        }
        match path_of(uri).as_deref() {
            None => Err(RouteError::BadRequest("the path is not UTF-8")),
            Some("Packages") => self.index(request, "text/plain; charset=utf-8", |both| &both.plain),
            Some("Packages.gz") => self.index(request, "application/gzip", |both| &both.compressed),
            Some(path) => self.package(request, path).await,
        }
    }

    fn index(
        &self,
        request: &ClientRequest<'_>,
        media_type: &'static str,
        form: fn(&BothForms) -> &IndexFile,
    ) -> RouteResult {
        let both = self.index.current().ok_or(RouteError::NoIndex)?;
        let IndexFile { file, size, digest } = form(&both);
        let (etag, modified) = (digest.to_string(), Some(both.timestamp));
        let facts =
            Representation { size: *size, etag, modified, date_is_exact: true, media_type, caching: "no-cache" };
        let selection = facts.select(request.headers);
        let file = (*request.method == Method::GET).then(|| Arc::clone(file));
        Ok(facts.answer(&selection, file, request.pace))
    }

    async fn package(&self, request: &ClientRequest<'_>, path: &str) -> RouteResult {
        if let Some(local) = self.packages.local.as_ref().filter(|local| local.has(path)) {
            match tokio::task::block_in_place(|| local.open(path)) {
                Ok((file, stat)) => return local_package(request, file, &stat),
                // It was removed a moment ago, and a binhost may have another package there.
                Err(Errno::NOENT) => {}
                Err(_) => return Err(RouteError::NotFound),
            }
        }
        let wanted = self.packages.at(path).ok_or(RouteError::NotFound)?;
        let record = wanted.record();
        let facts = Representation {
            size: record.size,
            etag: crate::index::Digest(record.id.0).to_string(),
            // Reproducible packages have a constant, and others keep it when they are built again.
            modified: u64::try_from(record.mtime).ok().filter(|mtime| *mtime > 1),
            date_is_exact: false,
            media_type: PACKAGE,
            caching: "no-cache",
        };
        let selection = facts.select(request.headers);
        if !is_sent(request.method, &selection) {
            return Ok(facts.answer(&selection, None, request.pace));
        }
        let blob = self.fetch(request, wanted).await?;
        Ok(facts.answer(&selection, Some(Arc::clone(blob.file())), request.pace))
    }

    async fn blob(&self, request: &ClientRequest<'_>, key: &ShareKey, query: &str) -> RouteResult {
        let mut path = None;
        let mut fetch = false;
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match (&*name, &*value) {
                ("fetch", "true") => fetch = true,
                ("fetch", "false") => fetch = false,
                ("path", _) => path = Some(value.into_owned()),
                _ => return Err(RouteError::BadRequest("parameters are fetch=true|false and path=PATH")),
            }
        }
        let facts = Representation {
            size: key.size,
            etag: key.to_string(),
            modified: None,
            date_is_exact: false,
            media_type: PACKAGE,
            caching: "max-age=31536000, immutable",
        };
        let selection = facts.select(request.headers);
        let blob = match tokio::task::block_in_place(|| self.packages.blob(key)) {
            Some(blob) => blob,
            None => {
                // A HEAD asks what is here.
                let path = path.filter(|_| fetch && *request.method == Method::GET).ok_or(RouteError::NotFound)?;
                let found =
                    tokio::task::block_in_place(|| self.packages.of_key(key, &path)).map_err(RouteError::Read)?;
                self.fetch_while_held(request, found.ok_or(RouteError::NotFound)?).await?
            }
        };
        self.metrics.serve_blobs.increase();
        let file = is_sent(request.method, &selection).then(|| Arc::clone(blob.file()));
        Ok(facts.answer(&selection, file, request.pace))
    }

    /// Fetches a package for at most [`HELD`]. The download goes on after that, and the client asks
    /// again. A download without a byte ends with its last waiter, so one stays until the client
    /// must have come back.
    async fn fetch_while_held(&self, request: &ClientRequest<'_>, wanted: PackageRef) -> Result<Blob, RouteError> {
        let fetcher = &self.packages.fetcher;
        if let Lookup::Ready(blob) = tokio::task::block_in_place(|| fetcher.look_up(&wanted)) {
            return Ok(blob);
        }
        let (machines, client) = (Arc::clone(fetcher.for_machines()), Uid(request.client.number()));
        let of_waiter = wanted.clone();
        let fetched = async move { machines.open(of_waiter, client).await };
        let waiter = tokio::spawn(tokio::time::timeout(HELD + LINGER, fetched));
        match tokio::time::timeout(HELD, waiter).await {
            Ok(Ok(Ok(fetched))) => fetched.map_err(RouteError::Fetch),
            // The runtime stops.
            Ok(Err(_)) => Err(RouteError::Fetch(Arc::new(FetchError::Stopped))),
            Ok(Ok(Err(_))) | Err(_) => Err(RouteError::Underway(fetcher.for_machines().progress_of(&wanted))),
        }
    }

    async fn fetch(&self, request: &ClientRequest<'_>, wanted: PackageRef) -> Result<Blob, RouteError> {
        let fetcher = &self.packages.fetcher;
        if let Lookup::Ready(blob) = tokio::task::block_in_place(|| fetcher.look_up(&wanted)) {
            return Ok(blob);
        }
        fetcher.for_machines().open(wanted, Uid(request.client.number())).await.map_err(RouteError::Fetch)
    }
}

/// Answers with a local package. Portage replaces one by another file, never in place.
fn local_package(request: &ClientRequest<'_>, file: File, stat: &Stat) -> RouteResult {
    let ((seconds, nanoseconds), (changed, of_change)) = (stat.mtime, stat.ctime);
    let facts = Representation {
        size: stat.size,
        etag: format!("{:x}-{:x}-{seconds:x}.{nanoseconds:x}-{changed:x}.{of_change:x}", stat.number, stat.size),
        modified: u64::try_from(seconds).ok().filter(|seconds| *seconds > 1),
        date_is_exact: false,
        media_type: PACKAGE,
        caching: "no-cache",
    };
    let selection = facts.select(request.headers);
    let file = is_sent(request.method, &selection).then(|| Arc::new(file));
    Ok(facts.answer(&selection, file, request.pace))
}

/// Whether bytes of the file are sent.
fn is_sent(method: &Method, selection: &SelectedContent) -> bool {
    *method == Method::GET && matches!(selection, SelectedContent::Whole | SelectedContent::Part(_))
}

/// The path below the root, decoded.
fn path_of(uri: &Uri) -> Option<String> {
    let encoded = uri.path().trim_start_matches('/');
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let decoded = match (first, after) {
            (b'%', [high, low, ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                digit(high).zip(digit(low)).and_then(|(high, low)| u8::try_from(high << 4 | low).ok())
            }
            _ => None,
        };
        bytes.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8(bytes).ok()
}

impl RouteError {
    /// The reasons of a failed download are in the log of this machine: they name its mirrors.
    fn response(self) -> Response<Body> {
        let (status, text) = match &self {
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "the token of this binhostfs is missing or wrong"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered"),
            Self::BadRequest(text) => (StatusCode::BAD_REQUEST, *text),
            Self::NotFound => (StatusCode::NOT_FOUND, "there is no such package here"),
            Self::NoIndex => (StatusCode::SERVICE_UNAVAILABLE, "there is no index yet: ask again"),
            Self::Fetch(error) if error.is_final() => {
                (StatusCode::NOT_FOUND, "the binhost does not have this package as its index says")
            }
            Self::Fetch(error) => match **error {
                FetchError::Busy | FetchError::Stopped => {
                    (StatusCode::SERVICE_UNAVAILABLE, "too much is asked for at once, or the daemon stops")
                }
                _ => (
                    StatusCode::BAD_GATEWAY,
                    "the package cannot be fetched now; `binhostfs status` on this machine says why",
                ),
            },
            Self::Read(error) => {
                tracing::warn!(%error, "a stored index that another machine asks for cannot be read");
                (StatusCode::INTERNAL_SERVER_ERROR, "a stored index cannot be read")
            }
            Self::Underway(_) => (StatusCode::ACCEPTED, "the package is being fetched: ask again"),
        };
        let mut response = Response::new(file_body::text(format!("{text}\n")));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        match self {
            Self::Unauthorized => {
                drop(headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"binhostfs\"")))
            }
            Self::Method => drop(headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"))),
            Self::Underway(progress) => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("0"));
                if let Ok(progress) = HeaderValue::try_from(progress) {
                    headers.insert(PROGRESS, progress);
                }
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests;
