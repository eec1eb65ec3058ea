//! Talking to a daemon byte by byte, on its socket and over TCP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::Mounted;

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    fn read(mut stream: impl Read) -> Option<Self> {
        let mut bytes = Vec::new();
        // A peer that has had enough of us resets; what came before it counts.
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().unwrap();
        Some(Self { status, head: head.to_lowercase(), body: body.to_owned() })
    }

    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

impl Mounted {
    /// Where it answers over TCP (`--listen 127.0.0.1:0`), as the log says.
    pub(crate) fn listens(&self) -> SocketAddr {
        let log = self.log();
        let (_, rest) = log.rsplit_once("status and metrics are on http://").expect("not in the log");
        rest.split_once('/').unwrap().0.parse().unwrap()
    }

    /// Asks on the control socket.
    pub(crate) fn ask(&self, method: &str, path: &str) -> Answer {
        let mut stream = UnixStream::connect(self.control()).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        Answer::read(stream).unwrap()
    }

    /// A connection over TCP.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.listens()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Asks over TCP.
    pub(crate) fn ask_over_tcp(&self, method: &str, path: &str) -> Answer {
        self.send_over_tcp(format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").as_bytes()).unwrap()
    }

    /// Sends these bytes over TCP. `None`: the daemon hangs up without an answer.
    pub(crate) fn send_over_tcp(&self, request: &[u8]) -> Option<Answer> {
        let mut stream = self.connect();
        // It may have hung up before the end.
        let _ = stream.write_all(request);
        Answer::read(stream)
    }
}
