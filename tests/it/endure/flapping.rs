//! A mirror that comes and goes: a relay to another server, which refuses everything for a while.

use std::io::copy;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use portable_atomic::AtomicU64;

#[derive(Debug)]
struct Relay {
    to: SocketAddr,
    is_up: AtomicBool,
    is_over: AtomicBool,
    /// Both ends of each connection.
    open: Mutex<Vec<TcpStream>>,
    relayed: AtomicU64,
    refused: AtomicU64,
}

/// The mirror; gone when dropped.
#[derive(Debug)]
pub(super) struct Flapping {
    address: SocketAddr,
    relay: Arc<Relay>,
    accepts: Option<std::thread::JoinHandle<()>>,
}

impl Relay {
    fn accept(&self, client: TcpStream) {
        if !self.is_up.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return;
        }
        let Ok(server) = TcpStream::connect(self.to) else { return };
        self.relayed.fetch_add(1, Ordering::SeqCst);
        for (from, to) in [(&client, &server), (&server, &client)] {
            let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else { return };
            std::thread::spawn(move || {
                // Whichever end breaks, both are closed.
                let _ = copy(&mut from, &mut to);
                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            });
        }
        let mut open = self.open.lock();
        open.retain(|stream| stream.peer_addr().is_ok());
        open.extend([client, server]);
    }

    /// Breaks all connections.
    fn drop_all(&self) {
        for stream in self.open.lock().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Flapping {
    pub(super) fn new(to: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let relay = Arc::new(Relay {
            to,
            is_up: AtomicBool::new(true),
            is_over: AtomicBool::new(false),
            open: Mutex::default(),
            relayed: AtomicU64::default(),
            refused: AtomicU64::default(),
        });
        let accepting = Arc::clone(&relay);
        let accepts = std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if accepting.is_over.load(Ordering::SeqCst) {
                    return;
                }
                accepting.accept(client);
            }
        });
        Self { address, relay, accepts: Some(accepts) }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Goes away, with all connections, or comes back.
    pub(super) fn turn(&self, up: bool) {
        self.relay.is_up.store(up, Ordering::SeqCst);
        if !up {
            self.relay.drop_all();
        }
    }

    /// How many connections were relayed, and how many refused.
    pub(super) fn connections(&self) -> (u64, u64) {
        (self.relay.relayed.load(Ordering::SeqCst), self.relay.refused.load(Ordering::SeqCst))
    }
}

impl Drop for Flapping {
    fn drop(&mut self) {
        self.relay.is_over.store(true, Ordering::SeqCst);
        self.relay.drop_all();
        // The listener is waiting for somebody.
        let _ = TcpStream::connect(self.address);
        if let Some(accepts) = self.accepts.take() {
            let _ = accepts.join();
        }
    }
}
