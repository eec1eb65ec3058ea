//! Responses of the control socket: JSON, text, errors.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, SERVER, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};

use super::page;
use crate::api::ApiError;

/// A response with its whole content in memory.
pub(super) type HttpResponse = Response<Full<Bytes>>;

/// A response with text. Its headers forbid a browser to guess another media type, to store the
/// text, and to send a referrer.
pub(super) fn text(media_type: &'static str, body: impl Into<Bytes>) -> HttpResponse {
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

/// The answer to a request that succeeded.
pub(super) fn json(body: &impl serde::Serialize) -> HttpResponse {
    encoded(StatusCode::OK, body)
}

/// The answer to a request that has no result.
pub(super) fn refusal(error: &ApiError) -> HttpResponse {
    let status = StatusCode::from_u16(error.code().status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    encoded(status, error)
}

fn encoded(code: StatusCode, body: &impl serde::Serialize) -> HttpResponse {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ErrorCode;

    #[test]
    fn an_error_has_the_status_of_its_code() {
        for (code, _) in ErrorCode::ALL {
            let response = refusal(&ApiError::new(*code, "x"));
            assert_eq!(response.status().as_u16(), code.status());
            assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        }
    }
}
