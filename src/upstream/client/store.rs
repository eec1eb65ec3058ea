//! Requests to an object store. They carry headers that others have signed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use url::Url;

use super::{Client, RequestCondition, UpstreamResponse, causes, conditional, response, send};
use crate::config;
use crate::upstream::UpstreamError;
use crate::upstream::retry::{NO_PROGRESS_BUDGET, RATE_WINDOW};

/// Size of a piece of a file that is sent.
const PIECE: u64 = 256 << 10;

impl Client {
    /// Requests `url` of an object store with `headers`, and waits for at most `patience`. Every
    /// status is an answer.
    pub(in crate::upstream) async fn ask_store(
        &self,
        url: &Url,
        headers: Vec<(&'static str, String)>,
        condition: RequestCondition<'_>,
        patience: Duration,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let shown = config::display(url);
        let request = with_headers(conditional(self.http.get(url.clone()), condition), headers);
        let response = response(request, shown.clone(), patience).await?;
        Ok(UpstreamResponse { response, url: shown })
    }

    /// Sends a request to an object store, with the bytes of a file, in at most `time`. Every
    /// status is an answer.
    ///
    /// A store that takes no bytes for [`RATE_WINDOW`] is left, and one that does not answer within
    /// [`NO_PROGRESS_BUDGET`] after the last byte. Shorter times would say nothing: the kernel
    /// holds some MiB on their way, and takes no more before there is room for a good part of that.
    pub(in crate::upstream) async fn write_to_store(
        &self,
        method: &'static str,
        url: &Url,
        headers: Vec<(&'static str, String)>,
        body: Option<(&Arc<File>, u64)>,
        time: Duration,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let shown = config::display(url);
        let request = match method {
            "DELETE" => self.http.delete(url.clone()),
            _ => self.http.put(url.clone()),
        };
        let request = with_headers(request, headers);
        let sent = match body {
            Some((file, size)) => {
                let (body, left) = FileBody::new(Arc::clone(file), size);
                within(time, left, send(request.body(reqwest::Body::wrap(body)))).await
            }
            None => timeout(time, send(request.body(Bytes::new()))).await.map_err(|_| time),
        };
        match sent {
            Err(after) => Err(UpstreamError::Stalled { url: shown, after }),
            Ok(Err(error)) => Err(UpstreamError::Transport { url: shown, reason: causes(&error.without_url()) }),
            Ok(Ok(response)) => Ok(UpstreamResponse { response, url: shown }),
        }
    }
}

/// Waits for the answer to a request with a body, of which `left` bytes are left.
///
/// # Errors
/// No byte was taken, or no answer came, for so long.
async fn within<T>(
    time: Duration,
    mut left: watch::Receiver<u64>,
    request: impl Future<Output = T>,
) -> Result<T, Duration> {
    let end = Instant::now() + time;
    let mut request = pin!(request);
    loop {
        let patience = if *left.borrow_and_update() > 0 { RATE_WINDOW } else { NO_PROGRESS_BUDGET };
        tokio::select! {
            answer = &mut request => return Ok(answer),
            Ok(()) = left.changed() => {}
            () = sleep(patience) => return Err(patience),
            () = sleep_until(end) => return Err(time),
        }
    }
}

fn with_headers(request: reqwest::RequestBuilder, headers: Vec<(&'static str, String)>) -> reqwest::RequestBuilder {
    headers.into_iter().fold(request, |request, (name, value)| request.header(name, value))
}

/// The bytes of a file, as the body of a request. They are read a piece ahead. While the network
/// takes nothing, no thread waits for it.
struct FileBody {
    file: Arc<File>,
    size: u64,
    /// Number of bytes that were not taken yet.
    left: watch::Sender<u64>,
    /// The next piece. `None`: the last one was taken.
    next: Option<JoinHandle<io::Result<Bytes>>>,
}

impl FileBody {
    /// The first `size` bytes of a file, and how many of them are left.
    fn new(file: Arc<File>, size: u64) -> (Self, watch::Receiver<u64>) {
        let (left, receiver) = watch::channel(size);
        let mut body = Self { file, size, left, next: None };
        body.read_ahead();
        (body, receiver)
    }

    fn bytes_left(&self) -> u64 {
        *self.left.borrow()
    }

    fn read_ahead(&mut self) {
        let (left, file) = (self.bytes_left(), Arc::clone(&self.file));
        let at = self.size - left;
        self.next = (left > 0).then(|| {
            spawn_blocking(move || {
                let mut piece = vec![0; usize::try_from(left.min(PIECE)).unwrap_or_default()];
                file.read_exact_at(&mut piece, at).map(|()| piece.into())
            })
        });
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(next) = &mut self.next else { return Poll::Ready(None) };
        let read = ready!(Pin::new(next).poll(context));
        let piece = read.unwrap_or_else(|_| Err(io::Error::other("reading was broken off")));
        self.next = None;
        if let Ok(piece) = &piece {
            self.left.send_modify(|left| *left = left.saturating_sub(piece.len() as u64));
            self.read_ahead();
        }
        Poll::Ready(Some(piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes_left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes_left())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_body_has_the_bytes_of_its_file() {
        let bytes: Vec<u8> = (0..2 * PIECE + 7).map(|at| (at % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let file = Arc::new(file);
        let (body, left) = FileBody::new(Arc::clone(&file), bytes.len() as u64);
        assert_eq!((body.size_hint().exact(), *left.borrow()), (Some(bytes.len() as u64), bytes.len() as u64));
        assert!(body.collect().await.unwrap().to_bytes() == bytes && *left.borrow() == 0);
        // A file that is shorter than it was fails.
        let (body, _) = FileBody::new(file, bytes.len() as u64 + 1);
        assert!(body.collect().await.is_err());
    }

    /// How long an answer is waited for that never comes, while the store takes a byte every so
    /// often.
    async fn waited(time: Duration, bytes: u64, every: Duration) -> Duration {
        let (left, receiver) = watch::channel(bytes);
        let began = Instant::now();
        let request = async move {
            for rest in (0..bytes).rev() {
                sleep(every).await;
                left.send_replace(rest);
            }
            std::future::pending::<()>().await;
        };
        assert!(within(time, receiver, request).await.is_err());
        Duration::from_secs(began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_store_that_takes_bytes_is_waited_for() {
        const HOUR: Duration = Duration::from_secs(3600);
        let often = RATE_WINDOW - Duration::from_secs(1);
        assert_eq!(waited(HOUR, 1, HOUR).await, RATE_WINDOW);
        assert_eq!(waited(HOUR, 10, often).await, often * 10 + NO_PROGRESS_BUDGET);
        // The whole time counts as well.
        assert_eq!(waited(HOUR, 1000, often).await, HOUR);
    }
}
