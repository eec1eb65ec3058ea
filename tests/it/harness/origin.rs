//! A binhost, or a store of objects, that misbehaves on demand: an HTTP/1.1 server on loopback, written by hand so that it can break the protocol.

mod objects;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::ReservedAddress;

/// What to do with one request.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Serve the file, with ranges and conditions.
    Serve,
    /// Serve the file, but as if ranges were unknown: always whole, without validators.
    Whole,
    /// Only this status, with these header lines.
    Status(u16, Vec<String>),
    /// Announce everything, send so many bytes of the body, then close.
    CloseAt(usize),
    /// Like `CloseAt`, but reset the connection.
    ResetAt(usize),
    /// Announce and send only so many bytes, properly ended.
    ShortBy(usize),
    /// A chunked body that ends properly after so many bytes.
    ChunkedUpTo(usize),
    /// Serve with one bit flipped in the byte at this place.
    Flip(usize),
    /// Answer nothing at all, until the test ends.
    Silence,
    /// Send so many bytes of the body, then nothing more.
    StallAt(usize),
    /// Send so many bytes of the body, and the rest when the test releases the path.
    HoldAt(usize),
    /// So many bytes at a time, with a pause in between.
    Slow(usize, Duration),
    /// A chunked body without end.
    Endless,
    /// 302 to this Location.
    Redirect(String),
    /// A range answered with another range than the one asked for.
    WrongRange,
    /// A range answered with what was asked for, and more behind it without end.
    EndlessRange,
    /// Like `CloseAt`; a range is answered as it was asked for, with other bytes than the file's.
    LyingRange(usize),
    /// Announce everything that is asked for, with ranges, send so many bytes of it, then close.
    Drip(usize),
    /// These bytes instead of the file, with status 200.
    Instead(Vec<u8>),
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) if_range: Option<String>,
    pub(crate) conditional: bool,
    pub(crate) authorization: Option<String>,
    pub(crate) referer: Option<String>,
    pub(crate) headers: HashMap<String, String>,
}

#[derive(Debug, Default)]
struct Content {
    files: HashMap<String, Arc<Vec<u8>>>,
    /// Of each path: acts for the requests to come; the last one stays.
    acts: HashMap<String, VecDeque<Act>>,
    /// What is held no longer.
    released: HashSet<String>,
    asked: Vec<Asked>,
    /// Last-Modified of files that have one.
    modified: HashMap<String, String>,
    /// Bytes of whole packages that were served.
    sent: u64,
    /// The methods that are refused, and with which status.
    refused: Option<(&'static [&'static str], u16)>,
}

#[derive(Debug, Default)]
struct Shared {
    content: Mutex<Content>,
    changed: Condvar,
    stopping: AtomicBool,
}

/// The server; stops when dropped.
#[derive(Debug)]
pub(crate) struct Origin {
    address: ReservedAddress,
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
}

impl Origin {
    /// Serves nothing yet.
    pub(crate) fn start() -> Self {
        Self::start_on(&ReservedAddress::new())
    }

    /// Serves on this address, which may be that of an earlier origin.
    pub(crate) fn start_on(address: &ReservedAddress) -> Self {
        let listener = Arc::new(address.listen());
        let shared = Arc::new(Shared::default());
        let (accepting, server) = (Arc::clone(&listener), Arc::clone(&shared));
        std::thread::spawn(move || {
            for stream in accepting.incoming() {
                if server.stopping.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), server) = (stream, Arc::clone(&server)) else { continue };
                std::thread::spawn(move || while serve(&stream, &server).unwrap_or(false) {});
            }
        });
        Self { address: address.clone(), shared, listener }
    }

    /// An origin with these packages and their index.
    pub(crate) fn with(packages: &[super::Package]) -> Self {
        let origin = Self::start();
        origin.publish(1_760_000_000, packages);
        origin
    }

    /// Puts packages and their index in place of those before.
    pub(crate) fn publish(&self, timestamp: u64, packages: &[super::Package]) {
        for package in packages {
            self.put(&package.path, package.bytes.clone());
        }
        self.put_index(super::index_of(timestamp, packages).as_bytes());
    }

    /// Puts an index, plain and compressed.
    pub(crate) fn put_index(&self, text: &[u8]) {
        let mut compressed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        compressed.write_all(text).unwrap();
        self.put("Packages.gz", compressed.finish().unwrap());
        self.put("Packages", text.to_vec());
    }

    pub(crate) fn put(&self, path: &str, bytes: Vec<u8>) {
        self.content().files.insert(path.to_owned(), Arc::new(bytes));
    }

    /// Answers requests with these methods, of those that write, with this status.
    pub(crate) fn refuse(&self, methods: &'static [&'static str], status: u16) {
        self.content().refused = Some((methods, status));
    }

    /// Says when a file was modified.
    pub(crate) fn set_modified(&self, path: &str, date: std::time::SystemTime) {
        self.content().modified.insert(path.to_owned(), httpdate::fmt_http_date(date));
    }

    /// The bytes at a path.
    pub(crate) fn file(&self, path: &str) -> Option<Arc<Vec<u8>>> {
        self.content().files.get(path).cloned()
    }

    /// All requests with this method, in their order.
    pub(crate) fn asked_with(&self, method: &str) -> Vec<Asked> {
        self.content().asked.iter().filter(|asked| asked.method == method).cloned().collect()
    }

    pub(crate) fn remove(&self, path: &str) {
        self.content().files.remove(path);
    }

    /// What to do with the next requests for a path, one after the other; the last act stays.
    pub(crate) fn script(&self, path: &str, acts: impl IntoIterator<Item = Act>) {
        self.content().acts.insert(path.to_owned(), acts.into_iter().collect());
    }

    /// Has what is held of a path sent.
    pub(crate) fn release(&self, path: &str) {
        self.content().released.insert(path.to_owned());
    }

    /// Bytes of whole packages that were served without a fault.
    pub(crate) fn bytes_sent(&self) -> u64 {
        self.content().sent
    }

    /// All requests for a path so far.
    pub(crate) fn asked(&self, path: &str) -> Vec<Asked> {
        self.content().asked.iter().filter(|asked| asked.path == path).cloned().collect()
    }

    /// What was said of who asks.
    pub(crate) fn authorizations(&self) -> Vec<String> {
        self.content().asked.iter().filter_map(|asked| asked.authorization.clone()).collect()
    }

    /// Packages that were asked for, in the order of the requests.
    pub(crate) fn asked_packages(&self) -> Vec<String> {
        let content = self.content();
        let paths = content.asked.iter().map(|asked| asked.path.clone());
        paths.filter(|path| !path.starts_with("Packages")).collect()
    }

    /// How many requests for packages there were.
    pub(crate) fn package_requests(&self) -> usize {
        self.content().asked.iter().filter(|asked| !asked.path.starts_with("Packages")).count()
    }

    /// Waits until a path has been asked for `count` times.
    pub(crate) fn await_requests(&self, path: &str, count: usize) {
        let enough = |content: &mut Content| content.asked.iter().filter(|asked| asked.path == path).count() < count;
        let waited = self.shared.changed.wait_while_for(&mut self.content(), enough, Duration::from_secs(30));
        assert!(!waited.timed_out(), "{path} was not asked for {count} times");
    }

    /// Where it serves. Whoever keeps this can serve there again.
    pub(crate) fn address(&self) -> ReservedAddress {
        self.address.clone()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.shared.content.lock()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Nobody listens from now on, and the thread that accepts ends.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

struct Request {
    method: String,
    /// HEAD: everything but the body.
    head: bool,
    path: String,
    range: Option<usize>,
    /// With `range`, the last byte asked for.
    last: Option<usize>,
    headers: HashMap<String, String>,
    /// Last-Modified of the file, if it has one.
    modified: Option<String>,
}

fn read_request(stream: &TcpStream) -> io::Result<Option<Request>> {
    let mut lines = BufReader::with_capacity(1, stream).lines();
    let Some(first) = lines.next().transpose()? else { return Ok(None) };
    let head = first.starts_with("HEAD ");
    let method = first.split(' ').next().unwrap_or_default().to_owned();
    let target = first.split(' ').nth(1).unwrap_or_default();
    // A proxy is asked for whole URLs: it stands in for every host.
    let path = target.strip_prefix("http://").map_or(target, |rest| rest.split_once('/').map_or("", |(_, path)| path));
    let path = path.trim_start_matches('/').to_owned();
    let mut headers = HashMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let bytes = headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let (range, last) = bytes.map_or((None, None), |(from, last)| (from.parse().ok(), last.parse().ok()));
    Ok(Some(Request { method, head, path, range, last, headers, modified: None }))
}

fn etag(bytes: &[u8]) -> String {
    use sha1::Digest as _;
    let digest = sha1::Sha1::digest(bytes);
    format!("\"{}\"", digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// One request. `true`: the connection may be used again.
fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<bool> {
    let Some(mut request) = read_request(stream)? else { return Ok(false) };
    if shared.stopping.load(Ordering::SeqCst) {
        // Gone is gone, for connections from before too.
        return Ok(false);
    }
    let (act, file) = {
        let mut content = shared.content.lock();
        if request.head {
            // Asking about a file is no request for it.
            let file = content.files.get(&request.path).cloned();
            drop(content);
            return answer_head(stream, file.as_deref());
        }
        let asked = |request: &Request| {
            let header = |name| request.headers.get(name).cloned();
            Asked {
                method: request.method.clone(),
                path: request.path.clone(),
                range: header("range"),
                if_range: header("if-range"),
                conditional: ["if-none-match", "if-modified-since"].iter().any(|name| header(name).is_some()),
                authorization: header("authorization"),
                referer: header("referer"),
                headers: request.headers.clone(),
            }
        };
        if request.method != "GET" {
            content.asked.push(asked(&request));
            drop(content);
            shared.changed.notify_all();
            return objects::write(stream, &request, shared);
        }
        let acts = content.acts.entry(request.path.clone()).or_default();
        let act = if acts.len() > 1 { acts.pop_front() } else { acts.front().cloned() };
        content.asked.push(asked(&request));
        request.modified = content.modified.get(&request.path).cloned();
        let file = content.files.get(&request.path).cloned();
        if !request.path.starts_with("Packages") {
            content.sent +=
                file.as_ref().map_or(0, |file| file.len() - request.range.unwrap_or(0).min(file.len())) as u64;
        }
        (act.unwrap_or(Act::Serve), file)
    };
    shared.changed.notify_all();
    let Some(file) = file else {
        let act = match act {
            Act::Serve => Act::Status(404, Vec::new()),
            other => other,
        };
        return perform(stream, &request, &act, &[], shared);
    };
    perform(stream, &request, &act, &file, shared)
}

fn answer_head(mut stream: &TcpStream, file: Option<&Vec<u8>>) -> io::Result<bool> {
    let head = match file {
        Some(file) => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\netag: {}\r\n\r\n", file.len(), etag(file)),
        None => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
    };
    stream.write_all(head.as_bytes())?;
    Ok(true)
}

fn perform(mut stream: &TcpStream, request: &Request, act: &Act, file: &[u8], shared: &Shared) -> io::Result<bool> {
    let head = |status: &str, length: usize, more: &str| {
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{more}\r\n")
    };
    let whole = head("200 OK", file.len(), &format!("etag: {}\r\naccept-ranges: bytes\r\n", etag(file)));
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    match act {
        Act::Serve => return serve_file(stream, request, file),
        Act::Whole => {
            stream.write_all(head("200 OK", file.len(), "").as_bytes())?;
            stream.write_all(file)?;
        }
        Act::Status(status, headers) => {
            let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
            stream.write_all(head(&format!("{status} Scripted"), 0, &lines).as_bytes())?;
        }
        Act::CloseAt(at) => {
            stream.write_all(whole.as_bytes())?;
            stream.write_all(&file[..(*at).min(file.len())])?;
            return Ok(false);
        }
        Act::ResetAt(at) => {
            stream.write_all(whole.as_bytes())?;
            stream.write_all(&file[..(*at).min(file.len())])?;
            // With unread data or a linger of 0, closing sends a reset.
            rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
            return Ok(false);
        }
        Act::ShortBy(by) => {
            stream.write_all(head("200 OK", file.len() - by, "").as_bytes())?;
            stream.write_all(&file[..file.len() - by])?;
        }
        Act::ChunkedUpTo(length) => {
            stream.write_all(chunked.as_bytes())?;
            write!(stream, "{length:x}\r\n")?;
            stream.write_all(&file[..*length])?;
            stream.write_all(b"\r\n0\r\n\r\n")?;
        }
        Act::Flip(at) => {
            let mut bytes = file.to_vec();
            bytes[*at] ^= 1;
            return serve_file(stream, request, &bytes);
        }
        Act::Silence => await_end(stream, shared),
        Act::StallAt(at) => {
            stream.write_all(whole.as_bytes())?;
            stream.write_all(&file[..(*at).min(file.len())])?;
            await_end(stream, shared);
        }
        Act::HoldAt(at) => {
            stream.write_all(whole.as_bytes())?;
            let (first, rest) = file.split_at((*at).min(file.len()));
            stream.write_all(first)?;
            await_end_or(stream, shared, || shared.content.lock().released.contains(&request.path));
            stream.set_read_timeout(None)?;
            stream.write_all(rest)?;
        }
        Act::Slow(bytes, pause) => {
            stream.write_all(whole.as_bytes())?;
            for part in file.chunks(*bytes) {
                stream.write_all(part)?;
                std::thread::sleep(*pause);
            }
        }
        Act::Endless => {
            stream.write_all(chunked.as_bytes())?;
            let zeros = vec![0; 64 << 10];
            while !shared.stopping.load(Ordering::SeqCst) {
                write!(stream, "{:x}\r\n", zeros.len())?;
                stream.write_all(&zeros)?;
                stream.write_all(b"\r\n")?;
            }
        }
        Act::Redirect(to) => stream.write_all(head("302 Found", 0, &format!("location: {to}\r\n")).as_bytes())?,
        Act::WrongRange => match request.range {
            Some(from) => {
                let (from, last) = (from / 2, file.len() - 1);
                let range = format!("content-range: bytes {from}-{last}/{}\r\n", file.len());
                stream.write_all(head("206 Partial Content", file.len() - from, &range).as_bytes())?;
                stream.write_all(&file[from..])?;
            }
            None => return serve_file(stream, request, file),
        },
        Act::EndlessRange => {
            let (from, last) = (request.range.unwrap(), request.last.unwrap());
            let range = format!("content-range: bytes {from}-{last}/{}", file.len());
            let head = format!("HTTP/1.1 206 Partial Content\r\ntransfer-encoding: chunked\r\n{range}\r\n\r\n");
            stream.write_all(head.as_bytes())?;
            let mut part = &file[from..=last];
            while !shared.stopping.load(Ordering::SeqCst) {
                write!(stream, "{:x}\r\n", part.len())?;
                stream.write_all(part)?;
                stream.write_all(b"\r\n")?;
                part = &[0; 64 << 10];
            }
        }
        Act::LyingRange(at) => match request.range {
            Some(from) => {
                let lie: Vec<u8> = file[from..].iter().map(|byte| !byte).collect();
                let range = format!("content-range: bytes {from}-{}/{}\r\n", file.len() - 1, file.len());
                stream.write_all(head("206 Partial Content", lie.len(), &range).as_bytes())?;
                stream.write_all(&lie)?;
            }
            None => return perform(stream, request, &Act::CloseAt(*at), file, shared),
        },
        Act::Drip(bytes) => {
            let (from, size) = (request.range.unwrap_or_default(), file.len());
            let (status, range) = match request.range {
                Some(_) => ("206 Partial Content", format!("content-range: bytes {from}-{}/{size}\r\n", size - 1)),
                None => ("200 OK", String::new()),
            };
            stream.write_all(head(status, size - from, &format!("{range}etag: {}\r\n", etag(file))).as_bytes())?;
            stream.write_all(&file[from..(from + bytes).min(size)])?;
            return Ok(false);
        }
        Act::Instead(bytes) => {
            stream.write_all(head("200 OK", bytes.len(), "").as_bytes())?;
            stream.write_all(bytes)?;
        }
    }
    Ok(!matches!(act, Act::Silence | Act::StallAt(_) | Act::Endless | Act::EndlessRange))
}

fn serve_file(mut stream: &TcpStream, request: &Request, file: &[u8]) -> io::Result<bool> {
    let etag = etag(file);
    if request.headers.get("if-none-match") == Some(&etag) {
        stream.write_all(format!("HTTP/1.1 304 Not Modified\r\netag: {etag}\r\n\r\n").as_bytes())?;
        return Ok(true);
    }
    let fits = request.headers.get("if-range").is_none_or(|wanted| *wanted == etag);
    let last = request.last.unwrap_or(usize::MAX).min(file.len().saturating_sub(1));
    let (status, from, more) = match request.range.filter(|_| fits) {
        Some(from) if from >= file.len() => {
            stream.write_all(b"HTTP/1.1 416 Range Not Satisfiable\r\ncontent-length: 0\r\n\r\n")?;
            return Ok(true);
        }
        Some(from) => ("206 Partial Content", from, format!("content-range: bytes {from}-{last}/{}\r\n", file.len())),
        None => ("200 OK", 0, String::new()),
    };
    let end = if from == 0 && more.is_empty() { file.len() } else { last + 1 };
    let length = end - from;
    let more = more + &request.modified.iter().map(|date| format!("last-modified: {date}\r\n")).collect::<String>();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\netag: {etag}\r\n{more}\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(&file[from..end])?;
    Ok(true)
}

/// Until the test ends, or whoever asked has hung up.
fn await_end(stream: &TcpStream, shared: &Shared) {
    await_end_or(stream, shared, || false);
}

/// The same, or until it is `over`.
fn await_end_or(stream: &TcpStream, shared: &Shared, over: impl Fn() -> bool) {
    let pause = Duration::from_millis(50);
    let _ = stream.set_read_timeout(Some(pause));
    while !shared.stopping.load(Ordering::SeqCst) && !over() {
        match stream.peek(&mut [0]) {
            Ok(0) => return,
            Ok(_) => std::thread::sleep(pause),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}
