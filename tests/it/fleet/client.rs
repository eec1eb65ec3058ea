//! A client of a binhostfs that serves, byte by byte.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use md5::{Digest as _, Md5};
use sha1::Sha1;

use crate::harness::signed::hex;
use crate::harness::{Mounted, Package};

/// An answer as it came.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Reply {
    /// The value of a header.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// Sends one request, with more header lines.
pub(super) fn request(address: SocketAddr, method: &str, path: &str, more: &[&str]) -> Reply {
    try_request(address, method, path, more).expect("an answer")
}

/// The same. `None`: the connection ends without an answer.
pub(super) fn try_request(address: SocketAddr, method: &str, path: &str, more: &[&str]) -> Option<Reply> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let more: String = more.iter().map(|line| format!("{line}\r\n")).collect();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n{more}\r\n");
    // The other side may have ended the connection.
    let _ = stream.write_all(head.as_bytes());
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1)?.parse().unwrap();
    Some(Reply { status, head, body: bytes[end + 4..].to_vec() })
}

/// Where a daemon serves other machines.
pub(super) fn serves(daemon: &Mounted) -> SocketAddr {
    let log = daemon.log();
    let (_, rest) = log.rsplit_once("packages are served on http://").expect("not in the log");
    rest.split_once('/').unwrap().0.parse().unwrap()
}

/// The key by which sharers have these bytes.
pub(super) fn share_key(bytes: &[u8]) -> String {
    format!("{}-{}-{}", hex(&Sha1::digest(bytes)), hex(&Md5::digest(bytes)), bytes.len())
}

/// The path of a package's blob.
pub(super) fn blob_of(package: &Package) -> String {
    format!("/v1/blob/{}", share_key(&package.bytes))
}
