//! The bytes of a file as the body of an answer. At most one piece is in memory: the next one is
//! read when the connection has taken the one before.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::unfold;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;

use super::limits::Sending;

/// Size of a piece in bytes.
const PIECE: u64 = 256 << 10;

/// The body of an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A body with text.
pub(super) fn text(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A part of a file. The client's pace counts from the first piece to the last.
pub(super) fn part(file: Arc<File>, part: Range<u64>, sending: Sending) -> Body {
    let pieces = unfold((file, part, sending), async |(file, part, sending)| {
        if part.is_empty() {
            return None;
        }
        let end = part.end.min(part.start.saturating_add(PIECE));
        let (reading, from) = (Arc::clone(&file), part.start);
        let read = tokio::task::spawn_blocking(move || read(&reading, from..end)).await;
        let read = read.unwrap_or_else(|error| Err(io::Error::other(error))).map(Frame::data);
        let rest = if read.is_ok() { end..part.end } else { part.end..part.end };
        Some((read, (file, rest, sending)))
    });
    StreamBody::new(pieces).boxed_unsync()
}

fn read(file: &File, part: Range<u64>) -> io::Result<Bytes> {
    let length = usize::try_from(part.end - part.start).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, part.start)?;
    Ok(bytes.into())
}
