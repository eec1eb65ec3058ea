//! The embedded binhost of the demo: a real HTTP server on loopback.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use md5::{Digest as _, Md5};
use parking_lot::Mutex;
use sha1::Sha1;
use tokio::net::TcpListener;

use super::package::{self, BUILD_ID, BUILD_TIME, Package};

/// Pause after a connection could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// PATH of the intact package.
pub(super) const GOOD: &str = "app-misc/demo/demo-2.0-1.gpkg.tar";
/// PATH of the package with one wrong byte.
pub(super) const TAMPERED: &str = "app-misc/tampered/tampered-1.0-1.gpkg.tar";

#[derive(Debug, Default)]
struct Content {
    files: HashMap<String, Bytes>,
    downloads: Mutex<HashMap<String, u32>>,
}

/// A running server, which stops when it is dropped.
#[derive(Debug)]
pub(super) struct DemoBinhost {
    url: String,
    content: Arc<Content>,
    task: tokio::task::JoinHandle<()>,
}

impl DemoBinhost {
    pub(super) async fn start() -> io::Result<Self> {
        let content = Arc::new(content()?);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let task = tokio::spawn(serve(listener, Arc::clone(&content)));
        Ok(Self { url, content, task })
    }

    pub(super) fn url(&self) -> String {
        self.url.clone()
    }

    pub(super) fn packages(&self) -> usize {
        self.content.files.keys().filter(|path| path.ends_with(".gpkg.tar")).count()
    }

    /// Number of requests for a path.
    pub(super) fn downloads(&self, path: &str) -> u32 {
        self.content.downloads.lock().get(path).copied().unwrap_or_default()
    }

    /// Whether these are the bytes of [`GOOD`].
    pub(super) fn is_good(&self, bytes: &[u8]) -> bool {
        self.content.files.get(GOOD).is_some_and(|good| good == bytes)
    }
}

impl Drop for DemoBinhost {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn content() -> io::Result<Content> {
    let packages = [
        package::build("app-misc", "demo-2.0", 5 << 20)?,
        package::build("app-misc", "hello-1.0-r1", 40 << 10)?,
        package::build("app-misc", "tampered-1.0", 1 << 20)?,
        package::build("sys-libs", "zlib-1.3.1", 120 << 10)?,
    ];
    let mut index = format!("ARCH: amd64\nPACKAGES: {}\nTIMESTAMP: {BUILD_TIME}\nVERSION: 0\n\n", packages.len());
    let mut content = Content::default();
    for mut package in packages {
        index += &stanza(&package);
        let path = package.path();
        if path == TAMPERED {
            let middle = package.bytes.len() / 2;
            package.bytes.iter_mut().skip(middle).take(1).for_each(|byte| *byte ^= 1);
        }
        content.files.insert(path, package.bytes.into());
    }
    let mut compressed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    compressed.write_all(index.as_bytes())?;
    content.files.insert("Packages.gz".to_owned(), compressed.finish()?.into());
    Ok(content)
}

fn stanza(package: &Package) -> String {
    let hex = |digest: &[u8]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (md5, sha1) = (hex(&Md5::digest(&package.bytes)), hex(&Sha1::digest(&package.bytes)));
    let Package { category, pf, bytes } = package;
    let (path, size) = (package.path(), bytes.len());
    format!(
        "BUILD_ID: {BUILD_ID}\nBUILD_TIME: {BUILD_TIME}\nCPV: {category}/{pf}\nEAPI: 8\nMD5: {md5}\nPATH: {path}\n\
         SHA1: {sha1}\nSIZE: {size}\nMTIME: {BUILD_TIME}\nREPO: gentoo\n\n"
    )
}

async fn serve(listener: TcpListener, content: Arc<Content>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Such as a lack of descriptors, which the next try may still meet.
            tokio::time::sleep(ACCEPT_AGAIN).await;
            continue;
        };
        let content = Arc::clone(&content);
        tokio::spawn(async move {
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let response = answer(&content, request.uri().path().trim_start_matches('/'));
                async move { Ok::<_, Infallible>(response) }
            });
            // A client that closes the connection is no failure.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn answer(content: &Content, path: &str) -> Response<Full<Bytes>> {
    let file = content.files.get(path).cloned();
    let status = if file.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
    *content.downloads.lock().entry(path.to_owned()).or_default() += 1;
    let mut response = Response::new(Full::new(file.unwrap_or_default()));
    *response.status_mut() = status;
    response
}
