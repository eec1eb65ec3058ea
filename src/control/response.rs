//! Responses of the control socket: JSON, text, errors.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, SERVER, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};

use super::page;
use crate::api::Refreshed;

/// A response with its whole content in memory.
pub(super) type HttpResponse = Response<Full<Bytes>>;

pub(super) fn problem(error: &str) -> Refreshed {
    Refreshed { summary: None, error: Some(error.to_owned()) }
}

/// A response with text. Its headers forbid a browser to guess another media type, to store the
/// text, and to send a referrer.
pub(super) fn text(media_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    for (name, value) in [
        (CONTENT_TYPE, media_type),
        (CONTENT_SECURITY_POLICY, page::POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The daemon is stopping, and drops the request. The client may ask the next daemon.
pub(super) fn stopping() -> HttpResponse {
    refuse(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping".to_owned())
}

/// An error with its reason.
pub(super) fn refuse(code: StatusCode, error: String) -> HttpResponse {
    json(code, &problem(&error))
}

pub(super) fn json(code: StatusCode, body: &impl serde::Serialize) -> Response<Full<Bytes>> {
    let (code, body) = match serde_json::to_vec(body) {
        Ok(body) => (code, body),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string().into_bytes()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(SERVER, HeaderValue::from_static(concat!("binhostfs/", env!("CARGO_PKG_VERSION"))));
    response
}
