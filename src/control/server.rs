//! Server of the control socket.

use std::convert::Infallible;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixListener;

use super::Control;
use super::dispatch::{Requester, answer};
use crate::config::SocketGroup;

/// Maximum number of connections at the same time; more wait.
pub(crate) const MAX_CONNECTIONS: usize = 16;
/// Maximum time from the start of a connection to the end of a request's head.
pub(super) const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

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
        control: Arc<impl Control>,
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

async fn serve(listener: UnixListener, control: Arc<impl Control>) {
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
        let peer = Requester::Socket { uid: stream.peer_cred().ok().map(|credentials| credentials.uid()) };
        let control = Arc::clone(&control);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let control = Arc::clone(&control);
                async move { Ok::<_, Infallible>(answer(request.method(), request.uri(), peer, &*control).await) }
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

#[cfg(test)]
mod tests {
    use super::super::double::Double;
    use super::super::{ClientError, client};
    use super::*;
    use crate::api::{ApiError, CacheTask, ErrorCode, IndexEntries, Keep, PrefetchRequest, RollbackTo};

    /// Sends every request that the client has.
    async fn everything(socket: &Path) -> Vec<(&'static str, Result<(), ClientError>)> {
        let (names, atoms) = (["a/b".to_owned()], ["a/b".parse().unwrap()]);
        let mut answers = vec![
            ("refresh", client::refresh(socket, true).await.map(drop)),
            ("packages", client::get_packages(socket, &atoms).await.map(drop)),
            ("index", client::get_index(socket, IndexEntries::All).await.map(drop)),
            ("check", client::check_entries(socket, &["a/b"]).await.map(drop)),
            ("generations", client::get_generations(socket).await.map(drop)),
            ("rollback", client::rollback(socket, RollbackTo::Latest).await.map(drop)),
            ("rollback", client::rollback(socket, RollbackTo::MatchTree).await.map(drop)),
            ("rollback", client::rollback(socket, RollbackTo::Previous).await.map(drop)),
            ("rollback", client::rollback(socket, RollbackTo::Generation(3)).await.map(drop)),
            ("keep", client::keep(socket, 3, Keep::AsUsual).await.map(drop)),
            ("prefetch", client::prefetch(socket, &PrefetchRequest::World).await.map(drop)),
            ("job", client::prefetch_status(socket, 7, 2).await.map(drop)),
            ("job", client::stop_prefetch(socket, 7, 2).await.map(drop)),
            ("verify", client::verify(socket).await.map(drop)),
        ];
        for (task, names) in [
            (CacheTask::Pins, &[][..]),
            (CacheTask::Pin, &names),
            (CacheTask::Unpin, &names),
            (CacheTask::Evict, &names),
            (CacheTask::Collect, &[]),
        ] {
            answers.push(("manage", client::manage(socket, task, names).await.map(drop)));
        }
        answers
    }

    #[tokio::test]
    async fn every_request_of_the_client_arrives() {
        let directory = tempfile::tempdir().unwrap();
        let (socket, daemon) = (directory.path().join("control.sock"), Arc::new(Double::default()));
        let _server = Server::start(&socket, None, Arc::clone(&daemon)).unwrap();
        assert_eq!(client::get_status(&socket).await.unwrap().mountpoint, "/m");
        for (what, answer) in everything(&socket).await {
            assert!(answer.is_ok(), "{what}: {answer:?}");
        }
        let expected = [
            "refresh true",
            "packages [\"a/b\"]",
            "index All",
            "check [\"a/b\"]",
            "generations",
            "rollback Latest",
            "rollback MatchTree",
            "rollback Previous",
            "rollback Generation(3)",
            "keep 3 AsUsual",
            "prefetch World",
            "job 7 2 false",
            "job 7 2 true",
            "verify",
            "Pins []",
            "Pin [\"a/b\"]",
            "Unpin [\"a/b\"]",
            "Evict [\"a/b\"]",
            "Collect []",
        ];
        assert_eq!(daemon.asked(), expected);
    }

    #[tokio::test]
    async fn every_error_arrives_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        for error in [ApiError::stopping(), ApiError::new(ErrorCode::Conflict, "not <now>")] {
            let _server = Server::start(&socket, None, Arc::new(Double::failing(error.clone()))).unwrap();
            let reload = ("reload", client::reload(&socket).await);
            for (what, answer) in everything(&socket).await.into_iter().chain([reload]) {
                assert!(
                    matches!(&answer, Err(ClientError::Refused(refused)) if *refused == error),
                    "{what}: {answer:?}"
                );
            }
        }
    }
}
