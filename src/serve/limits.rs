//! Limits for the clients of one address, and for slow readers.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use portable_atomic::AtomicU64;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::metrics::Metrics;

/// Connections at the same time, of all clients.
const MAX_CONNECTIONS: usize = 1024;
/// Connections at the same time of one address. Another binhostfs has 24 for each binhost, and ten
/// of them may be behind one address.
const MAX_OF_ADDRESS: usize = 256;
/// Time over which the pace of a client is measured.
const WINDOW: Duration = Duration::from_secs(30);
/// Bytes that a client takes within [`WINDOW`] at least, while it is sent something.
const LEAST: u64 = 1024 * WINDOW.as_secs();

/// The clients that share the limit of one address: an IPv4 address, or the /64 of an IPv6 address,
/// whose owner has all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ClientAddress(IpAddr);

impl ClientAddress {
    pub(super) fn new(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
            v4 => v4,
        })
    }

    /// A number that is the same for all connections of the client.
    pub(super) fn number(self) -> u32 {
        let folded = match self.0 {
            IpAddr::V4(address) => address.to_bits(),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments().map(u32::from);
                (a << 16 | b) ^ (c << 16 | d)
            }
        };
        // Users of this machine have numbers below these.
        folded | 1 << 31
    }
}

/// Connections by client.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<HashMap<ClientAddress, usize>>);

/// One connection among those of its client, until it is dropped.
#[derive(Debug)]
pub(super) struct Admitted {
    connections: Arc<Connections>,
    client: ClientAddress,
}

impl Connections {
    /// Counts a connection. `None`: the client, or all together, have as many as they may.
    pub(super) fn admit(self: &Arc<Self>, client: ClientAddress) -> Option<Admitted> {
        let mut counts = self.0.lock();
        let own = counts.get(&client).copied().unwrap_or_default();
        if own >= MAX_OF_ADDRESS || counts.values().sum::<usize>() >= MAX_CONNECTIONS {
            return None;
        }
        counts.insert(client, own + 1);
        Some(Admitted { connections: Arc::clone(self), client })
    }

    /// Connections of all clients.
    pub(super) fn count(&self) -> usize {
        self.0.lock().values().sum()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut counts = self.connections.0.lock();
        match counts.get_mut(&self.client) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&self.client)),
        }
    }
}

/// The bytes that a connection sends at the moment.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Bodies of files that are being sent.
    bodies: AtomicUsize,
    /// Bodies that were sent or given up.
    ended: AtomicUsize,
    written: AtomicU64,
}

impl Pace {
    /// Counts the body of a file as being sent, until the value is dropped.
    pub(super) fn send(self: &Arc<Self>) -> Sending {
        self.bodies.fetch_add(1, Ordering::Relaxed);
        Sending(Arc::clone(self))
    }

    /// Ends when the client has read less than [`LEAST`] of one body within a window.
    pub(super) async fn too_slow(&self) {
        self.too_slow_within(|| tokio::time::sleep(WINDOW)).await;
    }

    async fn too_slow_within<W: Future<Output = ()>>(&self, mut window: impl FnMut() -> W) {
        loop {
            let before = self.state();
            window().await;
            let after = self.state();
            if before.0 && (after.0, after.1) == (before.0, before.1) && after.2.saturating_sub(before.2) < LEAST {
                return;
            }
        }
    }

    /// Whether a body is being sent, how many have ended, and the bytes that were written.
    fn state(&self) -> (bool, usize, u64) {
        let [bodies, ended] = [&self.bodies, &self.ended].map(|count| count.load(Ordering::Relaxed));
        (bodies > 0, ended, self.written.load(Ordering::Relaxed))
    }
}

/// See [`Pace::send`].
#[derive(Debug)]
pub(super) struct Sending(Arc<Pace>);

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.bodies.fetch_sub(1, Ordering::Relaxed);
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// A connection that counts the bytes that the kernel takes.
#[derive(Debug)]
pub(super) struct CountedStream {
    pub(super) stream: TcpStream,
    pub(super) pace: Arc<Pace>,
    pub(super) metrics: Arc<Metrics>,
}

impl CountedStream {
    fn count(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = written {
            self.pace.written.fetch_add(*bytes as u64, Ordering::Relaxed);
            self.metrics.serve_bytes.add(*bytes as u64);
        }
    }
}

impl AsyncRead for CountedStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for CountedStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let own = self.get_mut();
        let written = Pin::new(&mut own.stream).poll_write(context, bytes);
        own.count(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let own = self.get_mut();
        let written = Pin::new(&mut own.stream).poll_write_vectored(context, bytes);
        own.count(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> ClientAddress {
        ClientAddress::new(address.parse().unwrap())
    }

    #[test]
    fn an_address_has_its_share_and_no_more() {
        let connections = Arc::new(Connections::default());
        let mut own: Vec<_> = (0..MAX_OF_ADDRESS).map(|_| connections.admit(client("192.0.2.1")).unwrap()).collect();
        assert!(connections.admit(client("192.0.2.1")).is_none());
        assert!(connections.admit(client("::ffff:192.0.2.1")).is_none(), "the same address in IPv6");
        let other = connections.admit(client("192.0.2.2")).unwrap();
        own.pop();
        assert!(connections.admit(client("192.0.2.1")).is_some());
        assert_eq!(connections.count(), MAX_OF_ADDRESS);
        drop((own, other));
        assert_eq!(connections.count(), 0);
        let all: Vec<_> =
            (0..MAX_CONNECTIONS).map(|n| connections.admit(client(&format!("10.0.{}.1", n % 256)))).collect();
        assert!(all.iter().all(Option::is_some) && connections.admit(client("192.0.2.1")).is_none());
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:1"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        for address in ["192.0.2.1", "10.0.0.1", "2001:db8::1", "::1"] {
            assert!(client(address).number() >= 1 << 31, "{address}");
        }
    }

    /// Whether the client is found to be too slow within nine windows, in each of which it does
    /// this.
    async fn is_too_slow(pace: &Pace, does: impl Fn()) -> bool {
        let mut windows = 0;
        let judged = pace.too_slow_within(|| {
            windows += 1;
            does();
            let goes_on = windows <= 9;
            async move { if goes_on { tokio::task::yield_now().await } else { std::future::pending().await } }
        });
        // The last window never ends, and the other ones end at once.
        tokio::select! {
            biased;
            () = judged => true,
            () = async { for _ in 0..100 { tokio::task::yield_now().await } } => false,
        }
    }

    #[tokio::test]
    async fn who_reads_nothing_is_left_and_who_waits_is_not() {
        let pace = Arc::new(Pace::default());
        assert!(!is_too_slow(&pace, || {}).await, "nothing is sent");
        let sending = pace.send();
        assert!(is_too_slow(&pace, || {}).await);
        let reads = || {
            pace.written.fetch_add(LEAST, Ordering::Relaxed);
        };
        assert!(!is_too_slow(&pace, reads).await, "it reads");
        assert!(!is_too_slow(&pace, || drop(pace.send())).await, "it has small files, one after the other");
        drop(sending);
        assert!(!is_too_slow(&pace, || {}).await, "all is sent");
    }
}
