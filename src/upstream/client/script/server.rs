//! The mirrors of a binhost that serve packages: each request is answered as the test says, also
//! for a part of a file.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use reqwest::header::{CONTENT_RANGE, DATE, ETAG, IF_RANGE, RANGE};
use reqwest::{Body, Request};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::{Host, etag_of, register, status};
use crate::upstream::retry;

/// The time between two pieces of [`Act::Drip`].
const DRIP: Duration = Duration::from_millis(500);

/// How the server answers one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// Sends everything at once.
    Serve,
    /// Answers with this status, and no body.
    Status(u16),
    /// Answers with this status, and with a text that takes an hour.
    SlowError(u16),
    /// Sends nothing, not even a status, and takes no byte of a body.
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
    /// Answers 416, with the size of the file.
    Unsatisfiable,
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
    pub(crate) method: String,
}

#[derive(Debug, Default)]
struct ScriptedContent {
    files: BTreeMap<String, Bytes>,
    /// When files were written, by the clocks of the hosts that were asked.
    written: HashMap<String, SystemTime>,
    /// How far the clocks of hosts are ahead.
    ahead: HashMap<String, Duration>,
    /// Writes below this path are refused.
    read_only: Option<String>,
    /// How long requests to write or to list take at most, on their way there and back.
    latency: Duration,
    acts: HashMap<(String, String), VecDeque<Act>>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct ScriptedServer {
    content: Mutex<ScriptedContent>,
    requests: watch::Sender<Vec<ScriptedRequest>>,
    released: watch::Sender<bool>,
    began: Instant,
}

impl ScriptedServer {
    pub(crate) fn new() -> Arc<Self> {
        let (requests, released) = (watch::Sender::default(), watch::Sender::new(false));
        Arc::new(Self { content: Mutex::default(), requests, released, began: Instant::now() })
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

    /// Lets requests to write or to list take a random time up to `most`, there and back.
    pub(crate) fn set_latency(&self, most: Duration) {
        self.content.lock().latency = most;
    }

    /// Refuses all writes below `path` with status 403.
    pub(crate) fn refuse_writes(&self, path: &str) {
        self.content.lock().read_only = Some(path.to_owned());
    }

    /// Sets the clock of a host ahead of the others.
    pub(crate) fn set_ahead(&self, host: &str, by: Duration) {
        self.content.lock().ahead.insert(host.to_owned(), by);
    }

    /// The paths of the files below `directory`.
    pub(crate) fn files(&self, directory: &str) -> Vec<String> {
        let content = self.content.lock();
        content.files.keys().filter(|path| path.starts_with(directory)).cloned().collect()
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

    pub(super) async fn respond(&self, request: &mut Request) -> Response<Body> {
        let (body, is_write) = (request.body_mut().take(), matches!(request.method().as_str(), "PUT" | "DELETE"));
        let url = request.url();
        let is_list = url.query().is_some_and(|query| query.starts_with("list-type=2&"));
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
        let now = self.now(&host);
        let method = request.method().to_string();
        self.requests.send_modify(|requests| requests.push(ScriptedRequest { host, path, from, method }));
        let file = match (&act, file) {
            (Act::Ignore, _) => return std::future::pending().await,
            (Act::Status(code), _) => return status(*code),
            (Act::SlowError(code), _) => {
                let text = self.body(Bytes::from(vec![b'x'; 4096]), Act::Drip(Duration::from_secs(3600)));
                return Response::builder().status(*code).body(text).unwrap();
            }
            _ if is_write || is_list => {
                let latency = self.content.lock().latency;
                sleep(latency.mul_f64(retry::random())).await;
                let answer =
                    if is_write { self.write(request, body, now).await } else { self.list(request.url(), now) };
                sleep(latency.mul_f64(retry::random())).await;
                return answer;
            }
            (Act::Fetching(progress), _) => {
                let answer = Response::builder().status(202).header("binhostfs-progress", progress);
                return answer.body(Body::default()).unwrap();
            }
            (_, None) => return status(404),
            (Act::Unsatisfiable, Some(file)) => {
                let range = format!("bytes */{}", file.len());
                return Response::builder().status(416).header(CONTENT_RANGE, range).body(Body::default()).unwrap();
            }
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
        response.body(self.body(bytes, act)).unwrap()
    }

    /// Takes a body to its end, and puts it in the place of the file, unless the file is copied
    /// onto itself.
    async fn write(&self, request: &Request, body: Option<Body>, now: SystemTime) -> Response<Body> {
        let bytes = match body {
            Some(body) => body.collect().await.unwrap().to_bytes(),
            None => Bytes::new(),
        };
        let path = request.url().path().trim_start_matches('/');
        let mut content = self.content.lock();
        if content.read_only.as_ref().is_some_and(|refused| path.starts_with(refused)) {
            return status(403);
        }
        if request.method() == "DELETE" {
            content.files.remove(path);
        } else if !request.headers().contains_key("x-amz-copy-source") {
            content.files.insert(path.to_owned(), bytes);
            content.written.insert(path.to_owned(), now);
        }
        status(200)
    }

    /// The time that the clock of a host shows.
    fn now(&self, host: &str) -> SystemTime {
        let ahead = self.content.lock().ahead.get(host).copied().unwrap_or_default();
        UNIX_EPOCH + Duration::from_secs(1_369_353_600) + self.began.elapsed() + ahead
    }

    /// The objects of a bucket whose keys begin as the request says.
    fn list(&self, url: &reqwest::Url, now: SystemTime) -> Response<Body> {
        let bucket = format!("{}/", url.path().trim_matches('/'));
        let prefix = url.query_pairs().find_map(|(name, value)| (name == "prefix").then(|| value.into_owned()));
        let (content, prefix) = (self.content.lock(), prefix.unwrap());
        let object = |path: &String| {
            let key = path.strip_prefix(&bucket).filter(|key| key.starts_with(&prefix))?;
            let written = content.written.get(path).map(|time| listed_time(*time))?;
            Some(format!("<Contents><Key>{key}</Key><LastModified>{written}</LastModified><Size>0</Size></Contents>"))
        };
        let objects: String = content.files.keys().filter_map(object).collect();
        let text = format!("<?xml version=\"1.0\"?><ListBucketResult>{objects}</ListBucketResult>");
        Response::builder().header(DATE, httpdate::fmt_http_date(now)).body(Body::from(text)).unwrap()
    }

    /// A body that sends these bytes as the act has it.
    fn body(&self, bytes: Bytes, act: Act) -> Body {
        let length = bytes.len() as u64;
        let body = ScriptedBody { bytes, act: Some(act), released: self.released.subscribe() };
        let pieces = stream::unfold(body, |mut body| async move {
            let piece = body.chunk().await.transpose()?;
            Some((piece.map(Frame::data), body))
        });
        Body::wrap(SizedBody { body: Box::pin(StreamBody::new(pieces)), length })
    }
}

/// A time as a list of objects has it, on the day of [`ScriptedServer::now`].
fn listed_time(time: SystemTime) -> String {
    let text = httpdate::fmt_http_date(time);
    let (day, clock) = (&text[5..7], &text[17..25]);
    format!("2013-05-{day}T{clock}.000Z")
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
            sleep(DRIP).await;
            let pieces = left.as_millis().div_ceil(DRIP.as_millis());
            *left -= DRIP;
            let size = self.bytes.len() / usize::try_from(pieces).unwrap_or(1);
            return Ok(Some(self.bytes.split_to(size.max(1).min(self.bytes.len()))));
        }
        // A call that is given up, and repeated, plays the act again.
        match &self.act {
            Some(Act::Break(_)) if !self.bytes.is_empty() => return Err(ConnectionReset),
            Some(Act::Pause(_, time)) => sleep(*time).await,
            Some(Act::Hold(_)) => drop(self.released.wait_for(|released| *released).await),
            _ => {}
        }
        self.act = None;
        let rest = std::mem::take(&mut self.bytes);
        Ok((!rest.is_empty()).then_some(rest))
    }
}
