//! Answers to requests, without a connection.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use hyper::header::{AUTHORIZATION, CONTENT_LENGTH};
use tempfile::TempDir;

use super::*;
use crate::fetch::sample::PackageScene;
use crate::tree::{Snapshots, Tree};

const TOKEN: &str = "a-token-of-16-bytes-or-more";

/// Two packages that are not cached, before an index was published.
struct Served {
    scene: PackageScene,
    handler: RequestHandler,
    place: TempDir,
}

impl Served {
    fn new() -> Self {
        let (place, scene) = (TempDir::new().unwrap(), PackageScene::new(1, &["one-1", "two-1"], 2_000));
        let tree = Arc::new(Tree::of_view(1, Arc::clone(scene.view())));
        let (fetcher, snapshots) = (Arc::clone(&scene.fetcher), Arc::new(Snapshots::new(tree)));
        let handler = RequestHandler {
            index: Arc::new(PublishedIndex::open(place.path().join("serve"))),
            packages: SharedPackages { fetcher, snapshots, local: None },
            metrics: Arc::clone(&scene.metrics),
            token: None,
        };
        Self { scene, handler, place }
    }

    /// The path of package number `at` in a URL.
    fn path(&self, at: usize) -> String {
        format!("/{}", self.scene.packages[at].path())
    }

    async fn ask_with(&self, method: Method, uri: &str, headers: &HeaderMap) -> Response<Body> {
        let (client, pace) = (ClientAddress::new(IpAddr::V4(Ipv4Addr::LOCALHOST)), Arc::default());
        let request = ClientRequest { method: &method, headers, client, pace: &pace };
        self.handler.route(&request, &uri.parse().unwrap()).await.unwrap_or_else(RouteError::response)
    }

    async fn ask(&self, method: Method, uri: &str) -> Response<Body> {
        self.ask_with(method, uri, &HeaderMap::new()).await
    }
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_costs_the_binhost_nothing() {
    let served = Served::new();
    let key = format!("{}-{}-2000", "1".repeat(40), "5".repeat(32));
    let path = served.scene.packages[0].path();
    for (method, uri, status) in [
        (Method::POST, "/Packages".to_owned(), 405),
        (Method::DELETE, format!("/v1/blob/{key}"), 405),
        (Method::GET, "/%ff".to_owned(), 400),
        (Method::GET, "/v1/blob/".to_owned(), 400),
        (Method::GET, format!("/v1/blob/{key}0x"), 400),
        (Method::GET, format!("/v1/blob/{key}?fetch=maybe"), 400),
        (Method::GET, format!("/v1/blob/{key}?fetch=true&path={path}&url=x"), 400),
        (Method::GET, format!("/v1/blob/{key}"), 404),
        (Method::GET, format!("/v1/blob/{key}?fetch=true"), 404),
        (Method::GET, format!("/v1/blob/{key}?path={path}"), 404),
        (Method::GET, format!("/v1/blob/{key}?fetch=true&fetch=false&path={path}"), 404),
        (Method::GET, format!("/v1/blob/{key}?fetch=true&path=none"), 404),
        // Another package has the path.
        (Method::GET, format!("/v1/blob/{key}?fetch=true&path={path}"), 404),
        (Method::HEAD, format!("/v1/blob/{key}?fetch=true&path={path}"), 404),
        (Method::GET, "/none".to_owned(), 404),
        (Method::GET, "/".to_owned(), 404),
        (Method::GET, format!("/../{path}"), 404),
        // Nothing was published yet.
        (Method::GET, "/Packages".to_owned(), 503),
        (Method::HEAD, "/Packages.gz".to_owned(), 503),
    ] {
        let answer = served.ask(method.clone(), &uri).await;
        assert_eq!(answer.status().as_u16(), status, "{method} {uri}");
        assert_eq!(header(&answer, "allow"), if status == 405 { "GET, HEAD" } else { "" });
    }
    assert!(served.scene.asked().is_empty());
    assert_eq!(served.scene.metrics.serve_blobs.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_request_for_bytes_fetches_a_package() {
    let served = Served::new();
    let size = served.scene.packages[0].bytes.len().to_string();
    let head = served.ask(Method::HEAD, &served.path(0)).await;
    assert_eq!((head.status().as_u16(), header(&head, CONTENT_LENGTH.as_str())), (200, &*size));
    let mut known = HeaderMap::new();
    known.insert("if-none-match", head.headers()["etag"].clone());
    assert_eq!(served.ask_with(Method::GET, &served.path(0), &known).await.status().as_u16(), 304);
    let mut beyond = HeaderMap::new();
    beyond.insert("range", format!("bytes={size}-").parse().unwrap());
    assert_eq!(served.ask_with(Method::GET, &served.path(0), &beyond).await.status().as_u16(), 416);
    assert!(served.scene.asked().is_empty());
    let get = served.ask(Method::GET, &served.path(0)).await;
    assert_eq!((get.status().as_u16(), header(&get, CONTENT_LENGTH.as_str())), (200, &*size));
    assert_eq!(served.scene.asked(), [0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_answered_without_the_token() {
    let mut served = Served::new();
    let file = served.place.path().join("token");
    fs::write(&file, TOKEN).unwrap();
    served.handler.token = Some(ServeToken::read(&file).unwrap());
    let with = |value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        headers
    };
    for headers in [HeaderMap::new(), with("Bearer another-token-of-16-bytes"), with(TOKEN)] {
        // Not even that a method is not allowed, or that nothing is there.
        for (method, uri) in
            [(Method::GET, "/none".to_owned()), (Method::POST, "/".to_owned()), (Method::GET, served.path(0))]
        {
            let answer = served.ask_with(method, &uri, &headers).await;
            assert_eq!(
                (answer.status().as_u16(), header(&answer, "www-authenticate")),
                (401, "Basic realm=\"binhostfs\"")
            );
        }
    }
    assert!(served.scene.asked().is_empty());
    let answer = served.ask_with(Method::GET, "/none", &with(&format!("Bearer {TOKEN}"))).await;
    assert_eq!(answer.status().as_u16(), 404);
}

/// A client goes on to the binhost's own URLs after 404, and asks again after 503.
#[test]
fn a_failed_download_has_the_status_of_its_reason() {
    let fetch = |error| RouteError::Fetch(Arc::new(error));
    for (error, status) in [
        (fetch(FetchError::Busy), 503),
        (fetch(FetchError::Stopped), 503),
        (fetch(FetchError::IndexMismatch(Vec::new())), 404),
        (fetch(FetchError::NotUsed), 502),
        (fetch(FetchError::Disk(io::ErrorKind::StorageFull.into())), 502),
        (RouteError::Read(io::ErrorKind::InvalidData.into()), 500),
    ] {
        let text = format!("{error:?}");
        assert_eq!(error.response().status().as_u16(), status, "{text}");
    }
    let underway = RouteError::Underway("own-7".to_owned()).response();
    assert_eq!(underway.status().as_u16(), 202);
    assert_eq!((header(&underway, PROGRESS), header(&underway, "retry-after")), ("own-7", "0"));
}

#[test]
fn paths_are_decoded_once() {
    for (path, expected) in [
        ("/app-misc/a/a-1-1.gpkg.tar", Some("app-misc/a/a-1-1.gpkg.tar")),
        ("/app-misc/a%2Bb%2bc", Some("app-misc/a+b+c")),
        ("/a%252B", Some("a%2B")),
        ("/a%zz%2", Some("a%zz%2")),
        ("/%2e%2e/x", Some("../x")),
        ("/%ff", None),
        ("/", Some("")),
    ] {
        assert_eq!(path_of(&path.parse().unwrap()).as_deref(), expected, "{path}");
    }
}
