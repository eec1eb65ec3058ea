//! Stands in for TLS in a program that is built without: the client speaks plain HTTP only.
//!
//! The configuration has no https URL then. An index (`URI`), a redirect or a proxy of the
//! environment may still lead to one.

use reqwest::{Client, ClientBuilder};
use url::Url;

use super::causes;
use crate::upstream::UpstreamError;

/// Text of the HTTP client for a URL that is not http.
const NOT_HTTP: &str = "scheme is not http";

/// Builds a client. There is no https server that it could trust or not.
pub(super) fn build(builder: impl Fn() -> ClientBuilder) -> Result<(Client, Option<String>), UpstreamError> {
    builder().build().map(|http| (http, None)).map_err(|error| UpstreamError::Setup(causes(&error)))
}

/// Why a URL cannot be requested for lack of TLS.
pub(super) fn refusal(url: &Url) -> Option<String> {
    let needs_tls = url.scheme() == "https";
    needs_tls.then(|| "it leads to https, and this binhostfs was built without TLS (cargo's feature tls)".to_owned())
}

/// What to add to the text of an error; empty if nothing helps.
pub(super) fn advice(error: &str) -> &'static str {
    if error.contains(NOT_HTTP) {
        "; https, and a proxy that is asked over https, need a binhostfs that was built with TLS (cargo's feature tls)"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Client, RequestCondition};
    use super::*;
    use crate::upstream::reach::Reach;
    use crate::upstream::retry::STALL_TIMEOUT;

    #[tokio::test]
    async fn https_is_refused_and_the_feature_is_named() {
        let (client, untrusting) = Client::new(Reach::new(&["http://127.0.0.1:9/x".parse().unwrap()])).unwrap();
        assert_eq!(untrusting, None);
        let url: Url = "https://127.0.0.1:9/x".parse().unwrap();
        let error = client.get(&url, RequestCondition::None, STALL_TIMEOUT).await.unwrap_err().to_string();
        assert!(error.starts_with(url.as_str()) && error.contains("cargo's feature tls"), "{error}");
        assert!(refusal(&url).unwrap().contains("cargo's feature tls"));
        assert_eq!(refusal(&"http://a".parse().unwrap()), None);
    }
}
