//! Connections of other machines: one task for each, within limits of their own.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::limits::{ClientAddress, Connections, CountedStream, Pace};
use super::packages::SharedPackages;
use super::published::PublishedIndex;
use super::request::RequestHandler;
use super::token::{ServeToken, TokenError};
use crate::metrics::Metrics;

/// Maximum time for the head of a request. An idle connection ends after this time, too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum size of a request's head in bytes.
const MAX_HEAD: usize = 16 << 10;
/// Maximum number of headers.
const MAX_HEADERS: usize = 64;
/// The answer to a connection beyond the limits.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The address cannot be bound.
    #[error("serving on {address}: {source}; choose another address with --serve")]
    Address { address: SocketAddr, source: io::Error },
    /// The token cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// A listener for other machines. Dropping it stops the listener.
#[derive(Debug)]
pub(crate) struct ServeListener {
    address: SocketAddr,
    connections: Arc<Connections>,
    task: tokio::task::JoinHandle<()>,
}

impl ServeListener {
    /// Serves `index` and `packages` on `address`. With `token`, only clients
    /// that send what is in this file are answered. The caller must be inside a tokio runtime.
    ///
    /// # Errors
    /// The address cannot be bound, or the token cannot be read.
    pub(crate) fn start(
        address: SocketAddr,
        token: Option<&Path>,
        index: Arc<PublishedIndex>,
        packages: SharedPackages,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ServeError> {
        let token = token.map(ServeToken::read).transpose()?;
        let listen = || -> io::Result<_> {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, tokio::net::TcpListener::from_std(listener)?))
        };
        let (address, listener) = listen().map_err(|source| ServeError::Address { address, source })?;
        tracing::info!("packages are served on http://{address}/");
        let connections = Arc::<Connections>::default();
        let handler = Arc::new(RequestHandler { index, packages, metrics, token });
        let task = tokio::spawn(accept(listener, handler, Arc::clone(&connections)));
        Ok(Self { address, connections, task })
    }

    /// The address, with the port that was chosen if none was asked for.
    #[must_use]
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Number of connections.
    #[must_use]
    pub(crate) fn connections(&self) -> usize {
        self.connections.count()
    }
}

impl Drop for ServeListener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: tokio::net::TcpListener, handler: Arc<RequestHandler>, connections: Arc<Connections>) {
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "accepting a connection of another machine");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let client = ClientAddress::new(address.ip());
        let Some(admitted) = connections.admit(client) else {
            handler.metrics.serve_refused_connections.increase();
            tracing::debug!(%address, "too many connections of other machines");
            // A new connection takes so few bytes at once, or has ended already.
            let _ = stream.try_write(TOO_MANY);
            continue;
        };
        let handler = Arc::clone(&handler);
        tokio::spawn(async move {
            serve(stream, client, handler).await;
            drop(admitted);
        });
    }
}

async fn serve(stream: TcpStream, client: ClientAddress, handler: Arc<RequestHandler>) {
    // The pieces are large, and the last one must not wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    let pace = Arc::new(Pace::default());
    let counted = CountedStream { stream, pace: Arc::clone(&pace), metrics: Arc::clone(&handler.metrics) };
    let of_connection = Arc::clone(&pace);
    let service = service_fn(move |request: Request<Incoming>| {
        let (handler, pace) = (Arc::clone(&handler), Arc::clone(&of_connection));
        async move { Ok::<_, Infallible>(handler.answer(request, client, &pace).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
    tokio::select! {
        ended = http.serve_connection(TokioIo::new(counted), service) => {
            ended.unwrap_or_else(|error| tracing::debug!(%error, "serving another machine"));
        }
        () = pace.too_slow() => tracing::debug!("a client of another machine reads too slowly"),
    }
}
