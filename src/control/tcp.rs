//! The read-only server over TCP: page, metrics and status, for every client that reaches the
//! address.
//!
//! - Routes that change something, or are expensive, are on the control socket only.
//!   `/v1/packages` is one of these: it reads every index. The table of routes says which they are.
//! - TCP connections have their own limit (`MAX_CONNECTIONS`), so that they do not take the
//!   administrator's connections.
//! - A connection ends after [`CONNECTION_TIMEOUT`] at the latest, whatever the client does.
//!   Accepted connections are at least [`PACE`] apart.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::dispatch::{Peer, answer};
use super::server::{MAX_CONNECTIONS, http};
use super::{Control, ControlError};

/// Time from one accepted connection to the next: endless requests take little of the machine.
const PACE: Duration = Duration::from_millis(10);
/// Maximum duration of a connection.
pub(super) const CONNECTION_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum size of a request's head in bytes; hyper takes no smaller bound.
const MAX_HEAD: usize = 8192;

/// A TCP listener. Dropping it stops the listener.
#[derive(Debug)]
pub(crate) struct Listener {
    task: tokio::task::JoinHandle<()>,
}

impl Listener {
    /// Listens on `address`, and answers with the data of `control`. The caller must be inside a
    /// tokio runtime.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub(crate) fn start(address: SocketAddr, control: Arc<impl Control>) -> Result<Self, ControlError> {
        let listen = || -> io::Result<_> {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, tokio::net::TcpListener::from_std(listener)?))
        };
        let (own, listener) = listen().map_err(|source| ControlError::Address { address, source })?;
        tracing::info!("status and metrics are on http://{own}/");
        Ok(Self { task: tokio::spawn(serve(listener, control)) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: tokio::net::TcpListener, control: Arc<impl Control>) {
    let turns = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "accepting over TCP");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let control = Arc::clone(&control);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (control, peer) = (Arc::clone(&control), Peer::Tcp(address));
                async move { Ok::<_, Infallible>(answer(request.method(), request.uri(), peer, &*control).await) }
            });
            let mut http = http();
            let connection = http.max_buf_size(MAX_HEAD).serve_connection(TokioIo::new(stream), service);
            match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "answering over TCP"),
                Err(_) => tracing::debug!("a client over TCP took too long"),
            }
            drop(turn);
        });
        tokio::time::sleep(PACE).await;
    }
}
