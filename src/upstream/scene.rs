//! One package at peers, nodes of an object store and mirrors that answer as a test says, under a
//! clock that the test pauses.

use std::sync::Arc;

use super::{Act, BodyStream, Event, ObjectStore, ScriptedServer, Upstream, UpstreamError};
use crate::config::{BinhostConfig, ObjectStoreConfig};
use crate::metrics::Metrics;

/// Size of the package in bytes.
pub(super) const SIZE: usize = 200_000;
/// Half of [`SIZE`].
pub(super) const HALF: usize = SIZE / 2;
/// Key of the package, by which peers are asked.
pub(super) const KEY: &str = "0123-4567-200000";
/// PATH of the package.
pub(super) const PATH: &str = "a/one-1.gpkg.tar";

/// See the module's documentation.
pub(super) struct DownloadScene {
    pub(super) server: Arc<ScriptedServer>,
    pub(super) upstream: Upstream,
    pub(super) metrics: Arc<Metrics>,
    /// The hosts of the peers, in the configured order.
    pub(super) peers: Vec<String>,
    /// The hosts of the mirrors, in the configured order.
    pub(super) mirrors: Vec<String>,
    /// The hosts of the object store's nodes, in the configured order.
    #[cfg(feature = "object-store")]
    nodes: Vec<String>,
    #[cfg(feature = "object-store")]
    store: Option<Arc<ObjectStore>>,
}

impl DownloadScene {
    /// A binhost with so many peers and mirrors, which all have the package.
    pub(super) fn new(peers: usize, mirrors: usize) -> Self {
        Self::with_store(peers, 0, mirrors)
    }

    /// The same with so many nodes of an object store.
    pub(super) fn with_store(peers: usize, nodes: usize, mirrors: usize) -> Self {
        let server = ScriptedServer::new();
        let hosts = |count| (0..count).map(|_| server.add_mirror()).collect::<Vec<String>>();
        let (peers, nodes, mirrors) = (hosts(peers), hosts(nodes), hosts(mirrors));
        let urls = |hosts: &[String]| hosts.iter().map(|host| format!("http://{host}")).collect::<Vec<String>>();
        let binhost = BinhostConfig {
            peers: urls(&peers).iter().map(|url| url.parse().unwrap()).collect(),
            ..BinhostConfig::of_urls(&urls(&mirrors))
        };
        let metrics = Arc::<Metrics>::default();
        let config = ObjectStoreConfig::of_endpoints(&urls(&nodes));
        let store =
            if nodes.is_empty() { None } else { ObjectStore::new(config.into(), Arc::clone(&metrics)).unwrap() };
        let store = store.map(Arc::new);
        let upstream = Upstream::new(binhost, Arc::clone(&metrics), store.clone()).unwrap();
        [PATH, &Self::blob(), &Self::object()].iter().for_each(|path| server.put(path, Self::bytes()));
        Self {
            server,
            upstream,
            metrics,
            peers,
            mirrors,
            #[cfg(feature = "object-store")]
            nodes,
            #[cfg(feature = "object-store")]
            store,
        }
    }

    /// The path of the package at a peer.
    fn blob() -> String {
        format!("v1/blob/{KEY}")
    }

    /// The path of the package at a node.
    fn object() -> String {
        format!("bucket/v1/{KEY}")
    }

    /// The bytes of the package. No two pieces of it are alike.
    pub(super) fn bytes() -> Vec<u8> {
        (0..SIZE as u32).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect()
    }

    /// The next requests to peer number `at` are answered by `acts`.
    pub(super) fn peer_acts(&self, at: usize, acts: impl IntoIterator<Item = Act>) {
        self.server.act(&self.peers[at], &Self::blob(), acts);
    }

    /// The next requests to mirror number `at` are answered by `acts`.
    pub(super) fn mirror_acts(&self, at: usize, acts: impl IntoIterator<Item = Act>) {
        self.server.act(&self.mirrors[at], PATH, acts);
    }

    /// A download that asks the peers first.
    pub(super) fn body(&self) -> BodyStream<'_> {
        self.upstream.body(None, PATH, SIZE as u64).with_sharers(Some(KEY.to_owned()), PATH)
    }

    /// All requests so far: who was asked, and from which byte on.
    pub(super) fn asked(&self) -> Vec<(String, usize)> {
        let number = |hosts: &[String], host: &String| hosts.iter().position(|other| other == host);
        #[cfg(feature = "object-store")]
        let node = |host: &String| number(&self.nodes, host);
        #[cfg(not(feature = "object-store"))]
        let node = |_: &String| None::<usize>;
        let name = |host: &String| match (number(&self.peers, host), number(&self.mirrors, host), node(host)) {
            (Some(at), ..) => format!("peer {at}"),
            (None, Some(at), _) => format!("mirror {at}"),
            (None, None, Some(at)) => format!("node {at}"),
            (None, None, None) => host.clone(),
        };
        self.server.requests().iter().map(|request| (name(&request.host), request.from)).collect()
    }

    /// Whether the requests so far are these.
    #[track_caller]
    pub(super) fn assert_asked(&self, expected: &[(&str, usize)]) {
        let asked = self.asked();
        let asked: Vec<(&str, usize)> = asked.iter().map(|(who, from)| (who.as_str(), *from)).collect();
        assert_eq!(asked, expected);
    }
}

#[cfg(feature = "object-store")]
impl DownloadScene {
    /// The next requests to node number `at` are answered by `acts`.
    pub(super) fn node_acts(&self, at: usize, acts: impl IntoIterator<Item = Act>) {
        self.server.act(&self.nodes[at], &Self::object(), acts);
    }

    /// Puts other bytes under the key of the package.
    pub(super) fn put_object(&self, bytes: Vec<u8>) {
        self.server.put(&Self::object(), bytes);
    }

    pub(super) fn store(&self) -> &ObjectStore {
        self.store.as_ref().unwrap()
    }

    pub(super) fn nodes(&self) -> Vec<super::MemberReport> {
        self.store().reports()
    }
}

/// Reads a download to its end. Returns the bytes, and how often the package began again.
pub(super) async fn read(stream: &mut BodyStream<'_>) -> Result<(Vec<u8>, usize), UpstreamError> {
    let (mut bytes, mut restarts) = (Vec::new(), 0);
    loop {
        match stream.next().await? {
            Event::Chunk(chunk) => bytes.extend_from_slice(&chunk),
            Event::Restart => {
                bytes.clear();
                restarts += 1;
            }
            Event::End => return Ok((bytes, restarts)),
        }
    }
}
