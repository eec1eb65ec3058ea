//! Finds the route of a request, and answers: with what its handler returns, or with an error.

use std::net::SocketAddr;
use std::time::Instant;

use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Uri};
use tracing::Instrument as _;
use tracing::field::display;

use super::Control;
use super::handlers::HandlerResult;
use super::query::Query;
use super::response::{HttpResponse, refusal};
use super::routes::{Route, Sides};
use crate::api::{ApiError, ErrorCode};

/// The sender of a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Requester {
    /// A process on this machine, over the control socket. `uid`: its user, if the kernel says it.
    Socket {
        uid: Option<u32>,
    },
    Tcp(SocketAddr),
}

impl Requester {
    fn uid(self) -> Option<u32> {
        match self {
            Self::Socket { uid } => uid,
            Self::Tcp(_) => None,
        }
    }

    fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Socket { .. } => None,
            Self::Tcp(address) => Some(address),
        }
    }

    fn reaches(self, sides: Sides) -> bool {
        matches!(self, Self::Socket { .. }) || sides == Sides::SocketAndTcp
    }
}

/// Answers a request inside a span of its own.
pub(super) async fn answer<C: Control>(method: &Method, uri: &Uri, peer: Requester, control: &C) -> HttpResponse {
    let (uid, address) = (peer.uid(), peer.address().map(display));
    let span = tracing::debug_span!("request", %method, path = uri.path(), uid, address);
    let answered = async {
        let begun = Instant::now();
        let response = respond(method, uri, peer, control).await;
        tracing::debug!(status = response.status().as_u16(), duration = ?begun.elapsed(), "answered");
        response
    };
    answered.instrument(span).await
}

async fn respond<C: Control>(method: &Method, uri: &Uri, peer: Requester, control: &C) -> HttpResponse {
    let at_path = |route: &&Route<C>| route.endpoint.path == uri.path() && peer.reaches(route.endpoint.sides);
    let routes: Vec<&Route<C>> = Route::ALL.iter().filter(at_path).collect();
    match routes.iter().find(|route| route.endpoint.method == *method) {
        Some(route) => run(route, uri, control).await.unwrap_or_else(|error| refusal(&error)),
        None => unserved(&routes, peer),
    }
}

async fn run<C: Control>(route: &Route<C>, uri: &Uri, control: &C) -> HandlerResult {
    let query = Query::parse(uri.query().unwrap_or_default(), route.endpoint.parameters)?;
    (route.handler)(control, query).await
}

/// The answer if the path has no route for the method. `routes`: those for other methods.
fn unserved<C: Control>(routes: &[&Route<C>], peer: Requester) -> HttpResponse {
    let methods: Vec<&str> = routes.iter().map(|route| route.endpoint.method.as_str()).collect();
    let error = match (methods.is_empty(), peer) {
        (true, Requester::Socket { .. }) => ApiError::unknown_resource(),
        (true, Requester::Tcp(_)) => {
            let reason = "this is for the control socket alone, or there is no such thing";
            ApiError::new(ErrorCode::Forbidden, reason)
        }
        (false, Requester::Socket { .. }) => ApiError::unknown_method(),
        (false, Requester::Tcp(_)) => ApiError::new(ErrorCode::UnknownMethod, "it can only be read here"),
    };
    let mut response = refusal(&error);
    if let Ok(methods) = HeaderValue::from_str(&methods.join(", "))
        && !methods.is_empty()
    {
        response.headers_mut().insert(ALLOW, methods);
    }
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::BodyExt as _;
    use hyper::header::CONTENT_TYPE;
    use parking_lot::Mutex;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::super::double::Double;
    use super::*;

    const SOCKET: Requester = Requester::Socket { uid: Some(0) };

    fn tcp() -> Requester {
        Requester::Tcp(([127, 0, 0, 1], 1).into())
    }

    /// Status, `Allow`, and the body.
    async fn ask(daemon: &Double, method: &Method, uri: &str, peer: Requester) -> (u16, String, String) {
        let response = answer(method, &uri.parse().unwrap(), peer, daemon).await;
        let allow = response.headers().get(ALLOW).map(|value| value.to_str().unwrap().to_owned());
        let (status, json) = (response.status().as_u16(), response.headers()[CONTENT_TYPE] == "application/json");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(!json || serde_json::from_str::<serde_json::Value>(&body).is_ok(), "{uri}: {body}");
        (status, allow.unwrap_or_default(), body)
    }

    #[tokio::test]
    async fn every_route_is_served_where_the_table_says_and_nothing_else() {
        let daemon = Double::default();
        for Route { endpoint, .. } in Route::<Double>::ALL {
            let same = Route::<Double>::ALL.iter().filter(|other| other.endpoint.path == endpoint.path);
            let same: Vec<&Method> = same.map(|other| &other.endpoint.method).collect();
            assert_eq!(same.iter().filter(|method| **method == endpoint.method).count(), 1, "{endpoint:?} twice");
            // Without the parameters that it needs, a route answers that they are missing.
            let (status, _, body) = ask(&daemon, &endpoint.method, endpoint.path, SOCKET).await;
            assert!(status == 200 || status == 400 && body.contains(" is missing"), "{endpoint:?}: {status} {body}");
            let (status, allow, body) = ask(&daemon, &Method::PATCH, endpoint.path, SOCKET).await;
            let methods = same.iter().map(|method| method.as_str()).collect::<Vec<_>>().join(", ");
            assert_eq!((status, allow), (405, methods), "{endpoint:?}");
            assert!(body.contains("\"code\":\"unknown-method\""), "{body}");
            let (status, _, body) =
                ask(&daemon, &endpoint.method, &format!("{}?nonsense=1", endpoint.path), SOCKET).await;
            assert!(status == 400 && body.contains("no such parameter: nonsense"), "{endpoint:?}: {status} {body}");
            let (status, allow, _) = ask(&daemon, &Method::PATCH, endpoint.path, tcp()).await;
            let readable = endpoint.sides == Sides::SocketAndTcp;
            assert_eq!((status, &*allow), if readable { (405, "GET") } else { (403, "") }, "{endpoint:?}");
            let asked = daemon.asked().len();
            let (status, ..) = ask(&daemon, &endpoint.method, endpoint.path, tcp()).await;
            assert_eq!((status, daemon.asked().len()), (if readable { 200 } else { 403 }, 0), "{endpoint:?}: {asked}");
        }
        assert_eq!(ask(&daemon, &Method::GET, "/v1/nothing", SOCKET).await.0, 404);
        assert_eq!(ask(&daemon, &Method::GET, "/v1/nothing", tcp()).await.0, 403);
    }

    #[tokio::test]
    async fn parameters_reach_the_daemon() {
        let daemon = Double::default();
        for (method, uri, asked) in [
            (Method::POST, "/v1/refresh", "refresh false"),
            (Method::POST, "/v1/refresh?accept_older=true", "refresh true"),
            (Method::POST, "/v1/refresh?accept_older=false", "refresh false"),
            (Method::POST, "/v1/rollback", "rollback Previous"),
            (Method::POST, "/v1/rollback?to=previous", "rollback Previous"),
            (Method::POST, "/v1/rollback?to=12", "rollback Generation(12)"),
            (Method::POST, "/v1/keep?generation=3", "keep 3 Always"),
            (Method::POST, "/v1/keep?keep=false&generation=3", "keep 3 AsUsual"),
            (Method::GET, "/v1/prefetch?job=3", "job 3 0 false"),
            (Method::DELETE, "/v1/prefetch?job=3&since=9", "job 3 9 true"),
            (Method::POST, "/v1/unpin?atom=a/b.gpkg.tar&atom=%3Da/b-1", "Unpin [\"a/b.gpkg.tar\", \"=a/b-1\"]"),
        ] {
            assert_eq!(ask(&daemon, &method, uri, SOCKET).await.0, 200, "{uri}");
            assert_eq!(daemon.asked(), [asked], "{uri}");
        }
        for (method, uri) in [
            (Method::POST, "/v1/refresh?accept_older=yes"),
            (Method::POST, "/v1/refresh?accept_older=true&accept_older=true"),
            (Method::POST, "/v1/rollback?to=x"),
            (Method::POST, "/v1/keep?generation=-1"),
            (Method::POST, "/v1/keep?generation=1&keep=perhaps"),
            (Method::GET, "/v1/prefetch?job=1&since=garbage"),
            (Method::GET, "/v1/packages?atom=%20"),
            (Method::POST, "/v1/prefetch?atom=a/b&world=true"),
        ] {
            let (status, _, body) = ask(&daemon, &method, uri, SOCKET).await;
            assert!(status == 400 && body.contains("\"code\":\"bad-request\""), "{uri}: {status} {body}");
            assert_eq!(daemon.asked(), [""; 0], "{uri}");
        }
    }

    #[tokio::test]
    async fn a_daemon_that_stops_is_503_for_everything_that_waits_for_it() {
        let daemon = Double::failing(ApiError::stopping());
        let mut waiting = 0;
        for Route { endpoint, .. } in Route::<Double>::ALL {
            let needed = match endpoint.path {
                "/v1/prefetch" if endpoint.method == Method::POST => "?world=true",
                "/v1/prefetch" => "?job=1",
                "/v1/keep" => "?generation=1",
                "/v1/verify-index" => "?path=a/b",
                _ => "",
            };
            let (status, _, body) = ask(&daemon, &endpoint.method, &format!("{}{needed}", endpoint.path), SOCKET).await;
            if !daemon.asked().is_empty() {
                waiting += 1;
                assert_eq!((status, &*body), (503, r#"{"error":"the daemon is stopping","code":"stopping"}"#));
            }
        }
        assert!(waiting > 14, "{waiting}");
    }

    /// The lines that a log gets.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn every_request_has_a_span_and_its_duration() {
        let (log, daemon) = (Log::default(), Double::default());
        let writer = log.clone();
        let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone()).with_ansi(false);
        let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer.without_time()));
        ask(&daemon, &Method::GET, "/v1/run", SOCKET).await;
        ask(&daemon, &Method::POST, "/v1/nothing?atom=secret", tcp()).await;
        drop(guard);
        let text = String::from_utf8(log.0.lock().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let begins =
            "DEBUG request{method=GET path=\"/v1/run\" uid=0}: binhostfs::control::dispatch: answered status=200";
        assert!(lines[0].starts_with(begins) && lines[0].contains(" duration="), "{text}");
        assert!(lines[1].contains("request{method=POST path=\"/v1/nothing\" address=127.0.0.1:1}: "), "{text}");
        assert!(lines.len() == 2 && lines[1].contains("answered status=403"), "{text}");
    }
}
