//! The mirrors of a binhost that serve packages: each request is answered as the test says, also
//! for a part of a file.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use reqwest::header::{CONTENT_RANGE, ETAG, IF_RANGE, RANGE};
use reqwest::{Body, Request};
use tokio::sync::watch;

use super::{Host, etag_of, register, status};

/// The time between two pieces of [`Act::Drip`].
const DRIP: Duration = Duration::from_millis(500);

/// How the server answers one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// Sends everything at once.
    Serve,
    /// Answers with this status, and no body.
    Status(u16),
    /// Sends nothing, not even a status.
    Ignore,
    /// Sends the first bytes, then the connection fails.
    Break(usize),
    /// Sends the first bytes, and the rest after this time.
    Pause(usize, Duration),
    /// Sends the first bytes, and the rest after [`ScriptedServer::release`].
    Hold(usize),
    /// Sends the bytes in pieces, one every [`DRIP`], in this time altogether.
    Drip(Duration),
    /// Sends other bytes than those of the file.
    Wrong,
    /// Sends the requested part, and says that it is another one.
    Misplace,
    /// Answers as a peer that is fetching the file itself, and reports this progress.
    Fetching(String),
}

/// A request as the server has received it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScriptedRequest {
    /// Host of the URL.
    pub(crate) host: String,
    /// Path of the URL, without the leading slash.
    pub(crate) path: String,
    /// The first byte that was requested.
    pub(crate) from: usize,
}

#[derive(Debug, Default)]
struct ScriptedContent {
    files: HashMap<String, Bytes>,
    acts: HashMap<(String, String), VecDeque<Act>>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct ScriptedServer {
    content: Mutex<ScriptedContent>,
    requests: watch::Sender<Vec<ScriptedRequest>>,
    released: watch::Sender<bool>,
}

impl ScriptedServer {
    pub(crate) fn new() -> Arc<Self> {
        let (requests, released) = (watch::Sender::default(), watch::Sender::new(false));
        Arc::new(Self { content: Mutex::default(), requests, released })
    }

    /// Adds a mirror with the same files. Returns its name.
    pub(crate) fn add_mirror(self: &Arc<Self>) -> String {
        let mut name = String::new();
        register(|host| {
            host.clone_into(&mut name);
            Host::Server(Arc::downgrade(self))
        });
        name
    }

    /// Serves `bytes` at `path`, at every mirror.
    pub(crate) fn put(&self, path: &str, bytes: impl Into<Bytes>) {
        self.content.lock().files.insert(path.to_owned(), bytes.into());
    }

    /// The next requests for `path` at `host` are answered by `acts`, one after the other. All
    /// others are served.
    pub(crate) fn act(&self, host: &str, path: &str, acts: impl IntoIterator<Item = Act>) {
        self.content.lock().acts.entry((host.to_owned(), path.to_owned())).or_default().extend(acts);
    }

    /// All further requests are served.
    pub(crate) fn heal(&self) {
        self.content.lock().acts.clear();
    }

    /// Sends what [`Act::Hold`] holds back, from now on.
    pub(crate) fn release(&self) {
        self.released.send_replace(true);
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<ScriptedRequest> {
        self.requests.borrow().clone()
    }

    /// The paths of all requests so far.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.requests().into_iter().map(|request| request.path).collect()
    }

    /// Waits until the server has received so many requests.
    pub(crate) async fn await_requests(&self, count: usize) {
        let mut requests = self.requests.subscribe();
        requests.wait_for(|requests| requests.len() >= count).await.expect("the sender is in self");
    }

    pub(super) async fn respond(&self, request: &Request) -> Response<Body> {
        let url = request.url();
        let (host, path) =
            (url.host_str().unwrap_or_default().to_owned(), url.path().trim_start_matches('/').to_owned());
        let headers = request.headers();
        let range = headers.get(RANGE).map(|range| range.to_str().unwrap().trim_start_matches("bytes="));
        let range = range.and_then(|range| range.split_once('-'));
        let from: usize = range.map_or(0, |(from, _)| from.parse().unwrap());
        let (file, act) = {
            let mut content = self.content.lock();
            let act = content.acts.get_mut(&(host.clone(), path.clone())).and_then(VecDeque::pop_front);
            (content.files.get(&path).cloned(), act.unwrap_or(Act::Serve))
        };
        self.requests.send_modify(|requests| requests.push(ScriptedRequest { host, path, from }));
        let file = match (&act, file) {
            (Act::Ignore, _) => return std::future::pending().await,
            (Act::Status(code), _) => return status(*code),
            (Act::Fetching(progress), _) => {
                let answer = Response::builder().status(202).header("binhostfs-progress", progress);
                return answer.body(Body::default()).unwrap();
            }
            (_, None) => return status(404),
            (Act::Wrong, Some(file)) => Bytes::from(vec![b'x'; file.len()]),
            (_, Some(file)) => file,
        };
        let (whole, etag) = (file.len(), etag_of(&file));
        // The file has changed: all of it is sent.
        let range = range.filter(|_| headers.get(IF_RANGE).is_none_or(|seen| seen == etag.as_str()));
        let from = if range.is_some() { from } else { 0 };
        let end = range.and_then(|(_, last)| last.parse::<usize>().ok()).map_or(whole, |last| whole.min(last + 1));
        let bytes = file.slice(from.min(end)..end);
        let mut response = Response::builder().header(ETAG, etag);
        if range.is_some() {
            let said = if act == Act::Misplace { from + 1 } else { from };
            let range = format!("bytes {said}-{}/{whole}", end.saturating_sub(1));
            response = response.status(206).header(CONTENT_RANGE, range);
        }
        let length = bytes.len() as u64;
        let body = ScriptedBody { bytes, act: Some(act), released: self.released.subscribe() };
        let pieces = stream::unfold(body, |mut body| async move {
            let piece = body.chunk().await.transpose()?;
            Some((piece.map(Frame::data), body))
        });
        let body = SizedBody { body: Box::pin(StreamBody::new(pieces)), length };
        response.body(Body::wrap(body)).unwrap()
    }
}

/// A body whose length is sent before it.
#[derive(Debug)]
struct SizedBody<B> {
    body: Pin<Box<B>>,
    length: u64,
}

impl<B: HttpBody> HttpBody for SizedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.body.as_mut().poll_frame(context)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}

/// The connection broke.
#[derive(Debug, thiserror::Error)]
#[error("connection reset")]
struct ConnectionReset;

/// The rest of an answer's body.
#[derive(Debug)]
struct ScriptedBody {
    bytes: Bytes,
    /// `None`: the act has been played.
    act: Option<Act>,
    released: watch::Receiver<bool>,
}

impl ScriptedBody {
    /// The next piece. `None`: the end.
    async fn chunk(&mut self) -> Result<Option<Bytes>, ConnectionReset> {
        let first = match self.act {
            Some(Act::Break(first) | Act::Pause(first, _) | Act::Hold(first)) => first,
            Some(Act::Drip(_)) => 0,
            _ => self.bytes.len(),
        };
        if first > 0 && self.act.is_some() && !self.bytes.is_empty() {
            let piece = self.bytes.split_to(first.min(self.bytes.len()));
            // The next call plays the rest of the act.
            match &mut self.act {
                Some(Act::Break(left) | Act::Pause(left, _) | Act::Hold(left)) => *left = 0,
                act => *act = None,
            }
            return Ok(Some(piece));
        }
        if let Some(Act::Drip(left)) = &mut self.act
            && *left >= DRIP
        {
            tokio::time::sleep(DRIP).await;
            let pieces = left.as_millis().div_ceil(DRIP.as_millis());
            *left -= DRIP;
            let size = self.bytes.len() / usize::try_from(pieces).unwrap_or(1);
            return Ok(Some(self.bytes.split_to(size.max(1).min(self.bytes.len()))));
        }
        // A call that is given up, and repeated, plays the act again.
        match &self.act {
            Some(Act::Break(_)) if !self.bytes.is_empty() => return Err(ConnectionReset),
            Some(Act::Pause(_, time)) => tokio::time::sleep(*time).await,
            Some(Act::Hold(_)) => drop(self.released.wait_for(|released| *released).await),
            _ => {}
        }
        self.act = None;
        let rest = std::mem::take(&mut self.bytes);
        Ok((!rest.is_empty()).then_some(rest))
    }
}
