//! Server of the control socket.

use std::convert::Infallible;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixListener;

use super::response::{HttpResponse, json, problem, stopping, text};
use super::{
    ACCEPT_OLDER, ATOM, Control, GENERATIONS_PATH, KEEP_PATH, METRICS_PATH, NO_METHOD, NO_RESOURCE, PACKAGES_PATH,
    PAGE_PATH, PREFETCH_PATH, REFRESH_PATH, RELOAD_PATH, ROLLBACK_PATH, RUN_PATH, STATUS_PATH, STYLE_PATH,
    VERIFY_INDEX_PATH, VERIFY_PATH, exposition, handlers, page,
};
use crate::api::{CacheTask, Managed, Packages, Refreshed, Reloading, Run};
use crate::config::SocketGroup;
use crate::metrics::Exposition;
use crate::portage::Atom;

/// Maximum number of connections at the same time; more wait.
pub(crate) const MAX_CONNECTIONS: usize = 16;
/// Maximum time from the start of a connection to the end of a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the control socket or the TCP address cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// Another daemon answers on the socket.
    #[error("another binhostfs answers on {0} already: give each mount its own socket with --control")]
    InUse(PathBuf),
    /// The socket cannot be given to the group.
    #[error(
        "giving the control socket {path} to the group {group}: {source}; in a systemd unit, say Group={group} in a \
         drop-in (systemctl edit)"
    )]
    Group {
        /// Path of the socket.
        path: PathBuf,
        /// The group that `control-group` names.
        group: SocketGroup,
        /// The error of chown(2).
        source: io::Error,
    },
    /// The TCP address cannot be bound.
    #[error("answering on {address}: {source}; choose another address with --listen")]
    Address {
        /// The configured address.
        address: std::net::SocketAddr,
        /// The error of the bind.
        source: io::Error,
    },
    /// The socket cannot be made at this path.
    #[error("control socket {path}: {source}; choose another place with --control")]
    Io {
        /// Path of the socket.
        path: PathBuf,
        /// The error of the file system.
        source: io::Error,
    },
}

/// A control socket that answers. Dropping it removes the socket.
#[derive(Debug)]
pub(crate) struct Server {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Listens on `path`, also for members of `group`, and answers with the data of `control`.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub(crate) fn start(
        path: &Path,
        group: Option<&SocketGroup>,
        control: Arc<dyn Control>,
    ) -> Result<Self, ControlError> {
        let error = |source| ControlError::Io { path: path.to_owned(), source };
        if UnixStream::connect(path).is_ok() {
            return Err(ControlError::InUse(path.to_owned()));
        }
        if let Some(parent) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(error)?;
        }
        // Nobody answers, so a killed daemon has left this file. Only a socket is removed.
        if fs::symlink_metadata(path)
            .is_ok_and(|metadata| std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type()))
        {
            fs::remove_file(path).map_err(error)?;
        }
        let listener = UnixListener::bind(path).map_err(error)?;
        // In a unit with Group=, the socket has the right group from the start, and the daemon has
        // no right to change the group of a file.
        let given = |group: &&SocketGroup| fs::metadata(path).is_ok_and(|metadata| metadata.gid() == group.gid);
        if let Some(group) = group.filter(|group| !given(group)) {
            std::os::unix::fs::chown(path, None, Some(group.gid)).map_err(|source| ControlError::Group {
                path: path.to_owned(),
                group: group.clone(),
                source,
            })?;
        }
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(error)?;
        let task = tokio::spawn(serve(listener, control));
        Ok(Self { path: path.to_owned(), task })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "removing the control socket");
        }
    }
}

async fn serve(listener: UnixListener, control: Arc<dyn Control>) {
    let turns = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "accepting on the control socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let control = Arc::clone(&control);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let control = Arc::clone(&control);
                async move { Ok::<_, Infallible>(answer(&request, &*control).await) }
            });
            if let Err(error) = http().serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "answering on the control socket");
            }
            drop(turn);
        });
    }
}

/// HTTP/1 with one request for each connection, and a limit for the time of its head.
pub(super) fn http() -> hyper::server::conn::http1::Builder {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).keep_alive(false);
    http
}

pub(super) async fn answer(request: &Request<Incoming>, control: &dyn Control) -> HttpResponse {
    match (request.method(), request.uri().path()) {
        (&Method::GET, STATUS_PATH) => json(StatusCode::OK, &control.status()),
        (&Method::GET, METRICS_PATH) => {
            text(Exposition::MEDIA_TYPE, exposition::render(&control.status(), &control.metrics()))
        }
        (&Method::GET, PAGE_PATH) => text("text/html; charset=utf-8", page::render(&control.status())),
        (&Method::GET, STYLE_PATH) => text("text/css; charset=utf-8", page::STYLE),
        (&Method::POST, REFRESH_PATH) => {
            let Ok(answer) = control.refresh(request.uri().query() == Some(ACCEPT_OLDER)).await else {
                return stopping();
            };
            let code = if answer.is_ok() { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
            json(code, &Refreshed { error: answer.as_ref().err().cloned(), summary: answer.ok() })
        }
        (&Method::GET, PACKAGES_PATH) => packages(request.uri().query().unwrap_or_default(), control).await,
        (&Method::POST, VERIFY_PATH) => match control.verify().await {
            Ok(result) => json(StatusCode::OK, &result),
            Err(_) => stopping(),
        },
        (&Method::POST, VERIFY_INDEX_PATH) => handlers::check_entries(request, control).await,
        (&Method::GET, GENERATIONS_PATH) | (&Method::POST, ROLLBACK_PATH | KEEP_PATH) => {
            handlers::generations(request, control).await
        }
        (&Method::GET | &Method::POST | &Method::DELETE, PREFETCH_PATH) => handlers::prefetch(request, control).await,
        (&Method::GET, RUN_PATH) => json(StatusCode::OK, &Run::this()),
        (&Method::POST, RELOAD_PATH) => {
            let Ok(answer) = control.reload().await else { return stopping() };
            let code = if answer.is_ok() { StatusCode::OK } else { StatusCode::CONFLICT };
            json(code, &Reloading { error: answer.err() })
        }
        (
            _,
            GENERATIONS_PATH | ROLLBACK_PATH | KEEP_PATH | PREFETCH_PATH | STATUS_PATH | METRICS_PATH | PAGE_PATH
            | STYLE_PATH | REFRESH_PATH | VERIFY_PATH | VERIFY_INDEX_PATH | PACKAGES_PATH | RELOAD_PATH | RUN_PATH,
        ) => json(StatusCode::METHOD_NOT_ALLOWED, &problem(NO_METHOD)),
        (method, path) => match CacheTask::ALL.iter().find(|(.., known)| *known == path) {
            None => json(StatusCode::NOT_FOUND, &problem(NO_RESOURCE)),
            Some((task, changes, _)) if *method == if *changes { Method::POST } else { Method::GET } => {
                manage(*task, request.uri().query().unwrap_or_default(), control).await
            }
            Some(_) => json(StatusCode::METHOD_NOT_ALLOWED, &problem(NO_METHOD)),
        },
    }
}

async fn manage(task: CacheTask, query: &str, control: &dyn Control) -> HttpResponse {
    let names = url::form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == ATOM);
    let answer = control.manage(task, names.map(|(_, value)| value.into_owned()).collect()).await;
    match answer {
        Err(_) => stopping(),
        Ok(Ok(managed)) => json(StatusCode::OK, &managed),
        Ok(Err(error)) => json(StatusCode::BAD_REQUEST, &Managed { error: Some(error), ..Managed::default() }),
    }
}

async fn packages(query: &str, control: &dyn Control) -> HttpResponse {
    let refuse = |code, error| json(code, &Packages { packages: Vec::new(), error: Some(error) });
    let mut atoms = Vec::new();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match value.parse::<Atom>() {
            Ok(atom) if name == ATOM => atoms.push(atom),
            Ok(_) => return refuse(StatusCode::BAD_REQUEST, format!("no such parameter: {name}")),
            Err(error) => return refuse(StatusCode::BAD_REQUEST, error.to_string()),
        }
    }
    match control.packages(atoms).await {
        Ok(Ok(packages)) => json(StatusCode::OK, &Packages { packages, error: None }),
        Ok(Err(error)) => refuse(StatusCode::BAD_GATEWAY, error),
        Err(_) => stopping(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::{Receiver, channel};

    use super::super::{ClientError, client};
    use super::*;
    use crate::api::{
        CheckedEntry, GenerationList, Keep, PackageStatus, PrefetchRequest, PrefetchStatus, RollbackTo, Status,
        VerifyResult,
    };
    use crate::metrics::Metrics;

    /// A daemon that stops while it executes a request.
    struct Ending;

    fn nobody<T>() -> Receiver<T> {
        channel().1
    }

    impl Control for Ending {
        fn status(&self) -> Status {
            unreachable!("not asked for")
        }

        fn metrics(&self) -> Arc<Metrics> {
            Arc::default()
        }

        fn packages(&self, _: Vec<Atom>) -> Receiver<Result<Vec<PackageStatus>, String>> {
            nobody()
        }

        fn check_entries(&self, _: Vec<String>) -> Receiver<Vec<CheckedEntry>> {
            nobody()
        }

        fn manage(&self, _: CacheTask, _: Vec<String>) -> Receiver<Result<Managed, String>> {
            nobody()
        }

        fn generations(&self) -> Receiver<GenerationList> {
            nobody()
        }

        fn rollback(&self, _: RollbackTo) -> Receiver<Result<String, String>> {
            nobody()
        }

        fn keep(&self, _: u64, _: Keep) -> Receiver<Result<String, String>> {
            nobody()
        }

        fn prefetch(&self, _: PrefetchRequest) -> Receiver<Result<u64, String>> {
            nobody()
        }

        fn prefetch_status(&self, _: u64, _: u64, _: bool) -> Option<PrefetchStatus> {
            None
        }

        fn verify(&self) -> Receiver<VerifyResult> {
            nobody()
        }

        fn reload(&self) -> Receiver<Result<(), String>> {
            nobody()
        }

        fn refresh(&self, _: bool) -> Receiver<Result<String, String>> {
            nobody()
        }
    }

    async fn status_line(socket: &Path, request: &str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
        stream.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("the daemon is stopping"), "{request}: {answer}");
        answer.lines().next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn a_daemon_that_stops_is_503_for_everything_that_waits_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        let _server = Server::start(&socket, None, Arc::new(Ending)).unwrap();
        let managed = CacheTask::ALL.iter().map(|(_, changes, path)| (if *changes { "POST" } else { "GET" }, *path));
        let others = [
            ("POST", REFRESH_PATH),
            ("GET", PACKAGES_PATH),
            ("POST", VERIFY_PATH),
            ("POST", "/v1/verify-index?path=a/b"),
            ("GET", GENERATIONS_PATH),
            ("POST", ROLLBACK_PATH),
            ("POST", "/v1/keep?generation=1"),
            ("POST", "/v1/prefetch?world=true"),
            ("POST", RELOAD_PATH),
        ];
        for (method, path) in others.into_iter().chain(managed) {
            let line = status_line(&socket, &format!("{method} {path}")).await;
            assert_eq!(line, "HTTP/1.1 503 Service Unavailable", "{method} {path}");
        }
        let refused = client::get_packages(&socket, &[]).await.unwrap_err();
        assert!(matches!(&refused, ClientError::Refused(why) if why == "the daemon is stopping"), "{refused}");
    }
}
