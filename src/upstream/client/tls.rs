//! TLS of the HTTP client. No other file names rustls.

use reqwest::{Client, ClientBuilder};
use url::Url;

use super::causes;
use crate::upstream::UpstreamError;

/// Error name in rustls for bytes that are not TLS, as from a server that speaks plain HTTP on that
/// port.
const NOT_TLS: &str = "InvalidContentType";

/// Builds a client that can speak TLS. The second value is the reason why it can trust no https
/// server, if there is one.
pub(super) fn build(builder: impl Fn() -> ClientBuilder) -> Result<(Client, Option<String>), UpstreamError> {
    // The call fails only if a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match builder().build() {
        Ok(http) => Ok((http, None)),
        // The system has no CA certificates, as a new or small system may. http and file do not
        // need them.
        Err(error) => match builder().tls_certs_only([]).build() {
            Ok(http) => Ok((http, Some(causes(&error)))),
            Err(error) => Err(UpstreamError::Setup(causes(&error))),
        },
    }
}

/// Why a URL cannot be requested for lack of TLS.
pub(super) fn refusal(_: &Url) -> Option<String> {
    None
}

/// What to add to the text of an error; empty if nothing helps.
pub(super) fn advice(error: &str) -> &'static str {
    if error.contains(NOT_TLS) { "; the server seems to speak http and not https here" } else { "" }
}
