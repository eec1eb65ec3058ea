//! The read-only server over TCP: page, metrics and status, for every client that reaches the
//! address.
//!
//! - Routes that change something, or are expensive, are on the control socket only.
//!   `/v1/packages` is one of these: it reads every index. The table of routes says which they are.
//! - A request must name this machine: an IP address, localhost, the machine's own name or a
//!   configured one. A page from elsewhere can have a browser ask this address by a name of its own
//!   (DNS rebinding), and would read the answer.
//! - TCP connections have their own limits, so that they do not take the administrator's
//!   connections. At most `MAX_CONNECTIONS` requests are answered at the same time. A connection
//!   that has not sent its request yet counts only against [`MAX_SILENT`], so that silent clients
//!   do not delay others.
//! - A connection ends after [`CONNECTION_TIMEOUT`] at the latest, whatever the client does.
//!   Accepted connections are at least [`PACE`] apart.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::http::uri::Authority;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;

use super::dispatch::{Requester, answer};
use super::response::{HttpResponse, refusal};
use super::server::{MAX_CONNECTIONS, http};
use super::{Control, ControlError};
use crate::api::{ApiError, ErrorCode};

/// Time from one accepted connection to the next: endless requests take little of the machine.
const PACE: Duration = Duration::from_millis(10);
/// Maximum duration of a connection.
pub(super) const CONNECTION_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum size of a request's head in bytes; hyper takes no smaller bound.
const MAX_HEAD: usize = 8192;
/// Maximum number of connections, most of which may have sent nothing yet. Each takes a descriptor
/// and up to [`MAX_HEAD`] bytes.
const MAX_SILENT: usize = 256;

/// A TCP listener. Dropping it stops the listener.
#[derive(Debug)]
pub(crate) struct Listener {
    task: tokio::task::JoinHandle<()>,
}

impl Listener {
    /// Listens on `address`, and answers with the data of `control`. Clients may ask for it by
    /// `names`, besides its addresses and the machine's own name. The caller must be inside a tokio
    /// runtime.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub(crate) fn start(
        address: SocketAddr,
        names: &[String],
        control: Arc<impl Control>,
    ) -> Result<Self, ControlError> {
        let listen = || -> io::Result<_> {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, tokio::net::TcpListener::from_std(listener)?))
        };
        let (own, listener) = listen().map_err(|source| ControlError::Address { address, source })?;
        tracing::info!("status and metrics are on http://{own}/");
        Ok(Self { task: tokio::spawn(serve(listener, Arc::new(Names::new(names)), control)) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The names of this machine, in lower case.
#[derive(Debug)]
struct Names(Vec<String>);

impl Names {
    fn new(configured: &[String]) -> Self {
        let own = rustix::system::uname().nodename().to_str().unwrap_or_default().to_owned();
        let all = configured.iter().cloned().chain([own, "localhost".to_owned()]);
        Self(all.map(|name| name.to_ascii_lowercase()).filter(|name| !name.is_empty()).collect())
    }

    /// Whether a Host header names this machine. No name of a stranger is an IP address.
    fn has(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let name = authority.host().trim_end_matches('.').to_ascii_lowercase();
        let address = name.trim_start_matches('[').trim_end_matches(']');
        address.parse::<IpAddr>().is_ok() || self.0.contains(&name)
    }
}

/// Answers a request, unless it names another machine.
async fn answer_own(
    request: Request<Incoming>,
    peer: Requester,
    names: &Names,
    control: &impl Control,
) -> HttpResponse {
    let host = request.headers().get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
    match host.filter(|host| !names.has(host)) {
        None => answer(request.method(), request.uri(), peer, control).await,
        Some(host) => {
            let shown: String = host.chars().filter(|c| !c.is_control()).take(100).collect();
            let reason =
                format!("{shown:?} is no name of this machine; ask for its IP address, or configure listen-name");
            refusal(&ApiError::new(ErrorCode::OtherHost, reason))
        }
    }
}

async fn serve(listener: tokio::net::TcpListener, names: Arc<Names>, control: Arc<impl Control>) {
    let (silent, turns) = (Arc::new(Semaphore::new(MAX_SILENT)), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    loop {
        let Ok(place) = Arc::clone(&silent).acquire_owned().await else { return };
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "accepting over TCP");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (names, control, turns) = (Arc::clone(&names), Arc::clone(&control), Arc::clone(&turns));
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (names, control, turns) = (Arc::clone(&names), Arc::clone(&control), Arc::clone(&turns));
                async move {
                    let _turn = turns.acquire_owned().await;
                    Ok::<_, Infallible>(answer_own(request, Requester::Tcp(address), &names, &*control).await)
                }
            });
            let mut http = http();
            let connection = http.max_buf_size(MAX_HEAD).serve_connection(TokioIo::new(stream), service);
            match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "answering over TCP"),
                Err(_) => tracing::debug!("a client over TCP took too long"),
            }
            drop(place);
        });
        tokio::time::sleep(PACE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_answered_to() {
        let names = Names::new(&["Router.lan".to_owned()]);
        let own = rustix::system::uname().nodename().to_str().unwrap().to_owned();
        for host in [
            "127.0.0.1:9123",
            "192.0.2.7",
            "[::1]:9123",
            "[2001:db8::1]",
            "localhost",
            "LOCALHOST:1",
            "router.lan:80",
            "router.lan.",
            &own,
        ] {
            assert!(names.has(host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9123",
            "localhost.evil.example",
            "router.lan.evil.example",
            "127.0.0.1.evil.example",
            "",
            "a b",
            "[::1",
            "user@evil.example",
        ] {
            assert!(!names.has(host), "{host}");
        }
    }
}
