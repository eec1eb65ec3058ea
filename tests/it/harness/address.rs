//! Addresses of loopback on which a test has somebody listen, or nobody.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::ops::Deref;
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

/// A port on loopback. While this is kept, the system gives it to nobody who asks for any port, also when nobody listens there: a
/// connection is refused then. Whoever names it and sets SO_REUSEADDR can listen there.
#[derive(Debug, Clone)]
pub(crate) struct ReservedAddress {
    address: SocketAddr,
    /// Bound to the port, and never listening.
    _socket: Arc<TcpListener>,
}

impl ReservedAddress {
    pub(crate) fn new() -> Self {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        sockopt::set_socket_reuseaddr(&socket, true).unwrap();
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
        let socket = TcpListener::from(socket);
        Self { address: socket.local_addr().unwrap(), _socket: Arc::new(socket) }
    }

    /// Listens there.
    pub(crate) fn listen(&self) -> TcpListener {
        // The library sets SO_REUSEADDR.
        TcpListener::bind(self.address).unwrap()
    }
}

impl Deref for ReservedAddress {
    type Target = SocketAddr;

    fn deref(&self) -> &SocketAddr {
        &self.address
    }
}

impl fmt::Display for ReservedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}
