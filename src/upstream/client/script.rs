//! A binhost that answers as a test says, without a network. Its clock is tokio's, which a test may
//! pause: then a silence of minutes takes no time.

mod server;

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::Response;
use hyper::body::Frame;
use parking_lot::Mutex;
use reqwest::header::{ETAG, IF_NONE_MATCH};
use reqwest::{Body, Request};
use tokio::time::{Instant, sleep};

pub(crate) use server::{Act, ScriptedServer};

/// All scripted hosts, by name.
static ALL: LazyLock<Mutex<HashMap<String, Host>>> = LazyLock::new(Mutex::default);

#[derive(Debug, Clone)]
enum Host {
    Binhost(Weak<ScriptedBinhost>),
    Server(Weak<ScriptedServer>),
}

/// Registers a host under a name that no other one has.
fn register(host: impl FnOnce(&str) -> Host) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("binhost-{}.test", NUMBER.fetch_add(1, Ordering::Relaxed));
    let host = host(&name);
    ALL.lock().insert(name, host);
}

/// A binhost that exists until the test drops it.
#[derive(Debug)]
pub(crate) struct ScriptedBinhost {
    host: String,
    answers: Mutex<HashMap<String, Answer>>,
    asked: Mutex<Vec<Asked>>,
}

/// The answers to requests for one file.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// The file, with an ETag made of it; 304 to a request with that ETag.
    File(Vec<u8>),
    /// The file, without an ETag.
    Whole(Vec<u8>),
    /// Only a status.
    Status(u16),
    /// Nothing, for ever.
    Silence,
    /// The first bytes of the file; then the connection breaks.
    Cut(Vec<u8>, usize),
    /// Line ends without end, 64 KiB at a time, after so long each.
    Trickle(Duration),
}

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) at: Instant,
    /// Whether the file was requested only if it has changed.
    pub(crate) conditional: bool,
}

impl ScriptedBinhost {
    /// A binhost that has no files yet.
    pub(crate) fn new() -> Arc<Self> {
        let mut binhost = None;
        register(|host| {
            let new = Self { host: host.to_owned(), answers: Mutex::default(), asked: Mutex::default() };
            Host::Binhost(Arc::downgrade(binhost.insert(Arc::new(new))))
        });
        binhost.unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.host)
    }

    /// Sets the answer to requests for the file at `path`. A file without an answer is missing.
    pub(crate) fn answer(&self, path: &str, answer: Answer) {
        self.answers.lock().insert(format!("/{path}"), answer);
    }

    /// All requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }

    async fn respond(&self, request: &Request) -> Response<Body> {
        let (path, etag) = (request.url().path().to_owned(), request.headers().get(IF_NONE_MATCH));
        let answer = self.answers.lock().get(&path).cloned().unwrap_or(Answer::Status(404));
        self.asked.lock().push(Asked { path, at: Instant::now(), conditional: etag.is_some() });
        match answer {
            Answer::File(bytes) => {
                let own = etag_of(&bytes);
                if etag.is_some_and(|etag| etag == own.as_str()) {
                    return status(304);
                }
                let response = Response::builder().header(ETAG, own);
                response.body(Body::from(bytes)).unwrap()
            }
            Answer::Whole(bytes) => Response::new(Body::from(bytes)),
            Answer::Status(code) => status(code),
            Answer::Silence => std::future::pending().await,
            Answer::Cut(bytes, at) => {
                let start = Frame::data(Bytes::copy_from_slice(&bytes[..at]));
                let pieces = stream::iter([Ok(start), Err(io::Error::from(io::ErrorKind::ConnectionReset))]);
                Response::new(Body::wrap(StreamBody::new(pieces)))
            }
            Answer::Trickle(every) => {
                let piece = Bytes::from(vec![b'\n'; 64 << 10]);
                let pieces = stream::unfold(piece, move |piece| async move {
                    sleep(every).await;
                    Some((Ok::<_, Infallible>(Frame::data(piece.clone())), piece))
                });
                Response::new(Body::wrap(StreamBody::new(pieces)))
            }
        }
    }
}

fn status(code: u16) -> Response<Body> {
    Response::builder().status(code).body(Body::default()).unwrap()
}

fn etag_of(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("\"{:x}\"", hasher.finish())
}

/// The answer to a request, if it is for a scripted binhost.
pub(super) async fn answered(request: &mut Request) -> Option<reqwest::Response> {
    let host = ALL.lock().get(request.url().host_str()?)?.clone();
    Some(match host {
        Host::Binhost(binhost) => binhost.upgrade()?.respond(request).await.into(),
        Host::Server(server) => server.upgrade()?.respond(request).await.into(),
    })
}
