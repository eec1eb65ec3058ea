//! Watches the addresses of this machine. When they change, peers that were absent are asked again
//! at once: the machine may have come home. Source: rtnetlink(7).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::daemon::state::DaemonState;

/// Multicast groups of new and removed IPv4 and IPv6 addresses. Source: linux/rtnetlink.h.
const GROUPS: u32 = 0x10 | 0x100;
/// How long the addresses may go on to change before peers are asked: a route may follow.
const SETTLED: Duration = Duration::from_secs(1);
/// Shortest time from one retry of the peers to the next. A router may announce an address again
/// and again, and each retry of an absent peer costs a download a second.
const PACE: Duration = Duration::from_secs(30);

/// Runs until it is cancelled, or until the addresses cannot be watched.
pub(crate) async fn follow(shared: Arc<DaemonState>) {
    let failed = match open() {
        Ok(socket) => watch(&socket, &shared).await,
        Err(error) => error,
    };
    // Peers are tried again after their rest in any case.
    if !tokio::runtime::is_rt_shutdown_err(&failed) {
        tracing::debug!(error = %failed, "changes of the network are not watched");
    }
}

fn open() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    // SAFETY: the registered value owns the descriptor and never exchanges it.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE)? })
}

/// Returns the error that ends the watch.
async fn watch(socket: &AsyncFd<OwnedFd>, shared: &DaemonState) -> io::Error {
    loop {
        if let Err(error) = changed(socket).await {
            return error;
        }
        tokio::time::sleep(SETTLED).await;
        shared.retry_peers();
        tokio::time::sleep(PACE).await;
    }
}

/// Waits for a change, and takes all that are queued. What they say does not matter.
async fn changed(socket: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut ready = socket.readable().await?;
    loop {
        match rustix::io::read(ready.get_inner(), &mut [0; 4096]) {
            // Some messages were lost, and those were changes, too.
            Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            Err(error) => return Err(error.into()),
        }
    }
    ready.clear_ready();
    Ok(())
}
