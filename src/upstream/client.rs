//! HTTP client for requests to binhosts. No other file names reqwest.
//!
//! | file | job |
//! |---|---|
//! | `tls` | TLS |
//! | `no_tls` | stands in for it in a program that is built without |
//! | `store` | requests to an object store |
//! | `script` | tests: answers without a network |

#[cfg(test)]
pub(super) mod script;
#[cfg(feature = "object-store")]
mod store;
#[cfg_attr(not(feature = "tls"), path = "client/no_tls.rs")]
mod tls;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{
    CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    LAST_MODIFIED, RANGE, RETRY_AFTER,
};
use reqwest::redirect::{Attempt, Policy};
use url::Url;

use super::UpstreamError;
use super::reach::Reach;
use super::retry::{CONNECT_TIMEOUT, PEER_CONNECT_TIMEOUT, STALL_TIMEOUT};
use crate::config::{self, BinhostUrl};

const MAX_REDIRECTS: usize = 5;

#[derive(Debug, Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    reach: Arc<Reach>,
}

/// Resolves host names to the addresses that the binhost may lead to.
#[derive(Debug)]
struct BoundedResolver(Arc<Reach>);

impl Resolve for BoundedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = Arc::clone(&self.0);
        Box::pin(async move {
            let found = reach.addresses(name.as_str()).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Condition of a request, sent as headers.
pub(super) enum RequestCondition<'a> {
    /// Request the whole file unconditionally.
    None,
    /// Request the file only if it has changed.
    Changed { etag: Option<&'a str>, last_modified: Option<&'a str> },
    /// Request these bytes, at least one.
    Range(Range<u64>),
    /// Request the bytes from `offset` on, if the file is still the one that `validator` belongs
    /// to.
    From { offset: u64, validator: Option<&'a str> },
}

/// An answer whose body has not been read yet.
#[derive(Debug)]
pub(super) struct UpstreamResponse {
    response: reqwest::Response,
    url: String,
}

impl Client {
    /// Creates an HTTP client for a binhost. The second value is the reason why it can trust no
    /// https server, if there is one.
    pub(super) fn new(reach: Reach) -> Result<(Self, Option<String>), UpstreamError> {
        let reach = Arc::new(reach);
        let (http, untrusting) = tls::build(|| builder(&reach))?;
        Ok((Self { http, reach }, untrusting))
    }

    /// Creates an HTTP client for peers, which follows no redirects.
    pub(super) fn of_peers(urls: &[BinhostUrl]) -> Result<Self, UpstreamError> {
        let reach = Arc::new(Reach::new(urls));
        let builder = || builder(&reach).redirect(Policy::none()).connect_timeout(PEER_CONNECT_TIMEOUT);
        let (http, _) = tls::build(builder)?;
        Ok(Self { http, reach })
    }

    /// Requests `url` of a peer, and waits for at most `patience`. Every status is an answer.
    pub(super) async fn ask_peer(
        &self,
        url: &Url,
        condition: RequestCondition<'_>,
        patience: Duration,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let shown = config::display(url);
        let response = response(conditional(self.http.get(url.clone()), condition), shown.clone(), patience).await?;
        Ok(UpstreamResponse { response, url: shown })
    }

    /// Refuses a URL to which the binhost must not lead.
    async fn check(&self, url: &Url) -> Result<(), UpstreamError> {
        match self.reach.refusal_of_stored(url).await {
            Some(reason) => Err(UpstreamError::Redirect { url: config::display(url), reason }),
            None => Ok(()),
        }
    }

    /// Asks with HEAD for size, ETag and date of a file. `None`: the status is not 200.
    pub(super) async fn head(&self, url: &Url) -> Result<Option<String>, UpstreamError> {
        self.check(url).await?;
        let response = response(self.http.head(url.clone()), config::display(url), STALL_TIMEOUT).await?;
        let headers = response.headers();
        let parts = [CONTENT_LENGTH, ETAG, LAST_MODIFIED].map(|name| header(headers, name).unwrap_or_default());
        Ok((response.status() == StatusCode::OK).then(|| parts.join(" ")))
    }

    /// Requests `url`, and waits for at most `patience`. Only the statuses 200, 206 and 304 are
    /// answers; others are errors.
    pub(super) async fn get(
        &self,
        url: &Url,
        condition: RequestCondition<'_>,
        patience: Duration,
    ) -> Result<UpstreamResponse, UpstreamError> {
        self.check(url).await?;
        let shown = config::display(url);
        let response = response(conditional(self.http.get(url.clone()), condition), shown.clone(), patience).await?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED => {
                Ok(UpstreamResponse { response, url: shown })
            }
            status => {
                let retry_after = header(response.headers(), RETRY_AFTER).and_then(|text| waiting_time(&text));
                Err(UpstreamError::Status { url: shown, status: status.as_u16(), retry_after })
            }
        }
    }
}

impl UpstreamResponse {
    pub(super) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The URL of the request, without credentials.
    pub(super) fn url(&self) -> String {
        self.url.clone()
    }

    /// The value of a header.
    pub(super) fn header_text(&self, name: &'static str) -> Option<String> {
        header(self.response.headers(), HeaderName::from_static(name))
    }

    /// Length of the body in bytes, if the server sent it.
    pub(super) fn length(&self) -> Option<u64> {
        self.response.content_length()
    }

    pub(super) fn etag(&self) -> Option<String> {
        header(self.response.headers(), ETAG)
    }

    pub(super) fn last_modified(&self) -> Option<String> {
        header(self.response.headers(), LAST_MODIFIED)
    }

    pub(super) fn content_range(&self) -> Option<String> {
        header(self.response.headers(), CONTENT_RANGE)
    }

    /// Returns the next piece, waiting for at most `patience`; `None` at the end.
    pub(super) async fn chunk(&mut self, patience: Duration) -> Result<Option<Bytes>, UpstreamError> {
        match tokio::time::timeout(patience, self.response.chunk()).await {
            Err(_) => Err(UpstreamError::Stalled { url: self.url.clone(), after: patience }),
            Ok(Err(error)) => {
                Err(UpstreamError::Transport { url: self.url.clone(), reason: causes(&error.without_url()) })
            }
            Ok(Ok(chunk)) => Ok(chunk),
        }
    }
}

fn builder(reach: &Arc<Reach>) -> reqwest::ClientBuilder {
    let agent = concat!("binhostfs/", env!("CARGO_PKG_VERSION"));
    let (redirecting, resolving) = (Arc::clone(reach), BoundedResolver(Arc::clone(reach)));
    let follow = Policy::custom(move |attempt| redirect(&redirecting, attempt));
    // A Referer would tell the host of a redirect where the binhost is, and its path.
    let builder = reqwest::Client::builder().user_agent(agent).redirect(follow).referer(false);
    let builder = builder.dns_resolver(Arc::new(resolving)).connect_timeout(CONNECT_TIMEOUT).http1_only();
    builder.pool_max_idle_per_host(2).pool_idle_timeout(Duration::from_secs(30))
}

#[cfg(not(test))]
async fn send(request: reqwest::RequestBuilder) -> reqwest::Result<reqwest::Response> {
    request.send().await
}

#[cfg(test)]
async fn send(request: reqwest::RequestBuilder) -> reqwest::Result<reqwest::Response> {
    let (client, request) = request.build_split();
    let mut request = request?;
    match script::answered(&mut request).await {
        Some(answer) => Ok(answer),
        None => client.execute(request).await,
    }
}

/// Sends a request and returns the answer, whatever its status is.
async fn response(
    request: reqwest::RequestBuilder,
    url: String,
    patience: Duration,
) -> Result<reqwest::Response, UpstreamError> {
    // If no other URL is available, connecting has time of its own.
    let limit = if patience < STALL_TIMEOUT { patience } else { CONNECT_TIMEOUT + STALL_TIMEOUT };
    match tokio::time::timeout(limit, send(request)).await {
        Err(_) => Err(UpstreamError::Stalled { url, after: patience }),
        Ok(Err(error)) if error.is_redirect() => {
            Err(UpstreamError::Redirect { url, reason: causes(&error.without_url()) })
        }
        Ok(Err(error)) => Err(UpstreamError::Transport { url, reason: causes(&error.without_url()) }),
        Ok(Ok(response)) => Ok(response),
    }
}

fn conditional(request: reqwest::RequestBuilder, condition: RequestCondition<'_>) -> reqwest::RequestBuilder {
    let with = |request: reqwest::RequestBuilder, name: HeaderName, value: Option<&str>| match value {
        Some(value) => request.header(name, value),
        None => request,
    };
    match condition {
        RequestCondition::None => request,
        RequestCondition::Changed { etag, last_modified } => {
            with(with(request, IF_NONE_MATCH, etag), IF_MODIFIED_SINCE, last_modified)
        }
        RequestCondition::Range(Range { start, end }) => {
            request.header(RANGE, format!("bytes={start}-{}", end.saturating_sub(1)))
        }
        RequestCondition::From { offset, validator } => {
            with(request.header(RANGE, format!("bytes={offset}-")), IF_RANGE, validator)
        }
    }
}

fn redirect(reach: &Reach, attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let url = attempt.url();
    match refusal(attempt.previous(), url).or_else(|| tls::refusal(url)).or_else(|| reach.refusal(url)) {
        Some(reason) => attempt.error(reason),
        None => attempt.follow(),
    }
}

/// Why a redirect from `previous`, oldest first, to `next` is refused.
fn refusal(previous: &[Url], next: &Url) -> Option<String> {
    if previous.iter().any(|url| url.scheme() == "https") && next.scheme() != "https" {
        return Some("a redirect leads from https to http".to_owned());
    }
    (previous.len() > MAX_REDIRECTS).then(|| format!("more than {MAX_REDIRECTS} redirects"))
}

fn header(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// Parses Retry-After, which has seconds or a date.
fn waiting_time(text: &str) -> Option<Duration> {
    let date = || httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok();
    text.trim().parse().ok().map(Duration::from_secs).or_else(date)
}

/// Texts of errors that are dropped from the chain if a cause follows.
const EMPTY_WORDS: [&str; 4] =
    ["error sending request", "client error (Connect)", "client error (SendRequest)", "tcp connect error"];

/// Formats an error with its causes in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut parts = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = cause.source();
    }
    if let Some(last) = parts.pop() {
        parts.retain(|part| !EMPTY_WORDS.contains(&part.as_str()));
        parts.push(last);
    }
    let text = parts.join(": ");
    let advice = tls::advice(&text);
    text + advice
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_bounded_and_stay_secure() {
        let urls = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Url>>();
        let why = |previous: &[&str], next: &str| refusal(&urls(previous), &next.parse().unwrap());
        assert_eq!(why(&["http://a"], "http://b"), None);
        assert_eq!(why(&["http://a"], "https://a"), None);
        assert_eq!(why(&["https://a"; MAX_REDIRECTS], "https://b"), None);
        assert!(why(&["https://a"; MAX_REDIRECTS + 1], "https://b").unwrap().contains("more than 5"));
        for previous in [&["https://a"][..], &["http://a", "https://a"], &["https://a", "https://b"]] {
            assert!(why(previous, "http://a").unwrap().contains("from https to http"), "{previous:?}");
        }
    }
}
