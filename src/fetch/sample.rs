//! A fetcher with one binhost, for tests: its server answers as the test says, and needs no socket.

// The demo's builder; some of its fields are unused here.
#[allow(dead_code, clippy::duplicate_mod, reason = "one builder of packages for all tests; the demo needs the rest")]
#[path = "../cli/demo/package.rs"]
pub(crate) mod package;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use md5::{Digest as _, Md5};
use tempfile::TempDir;

use super::downloads::Uid;
use super::error::Outcome;
use super::fetcher::Fetcher;
use super::remote_binhost::{PackageRef, RemoteBinhost};
use crate::cache::Cache;
use crate::config::{BinhostConfig, OnMismatch};
use crate::index::{BinhostId, Digest, Index, View};
use crate::metrics::Metrics;
use crate::upstream::{Act, ScriptedServer, Upstream};
use crate::verify::Policy;
use package::Package;

/// A fetcher whose cache is at `place`, and whose binhost `id` has unsigned packages at the mirrors
/// `hosts` of `server`. The caller must be inside a tokio runtime.
fn fetcher_of(place: &Path, id: BinhostId, on_mismatch: OnMismatch, hosts: &[String]) -> (Arc<Fetcher>, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::default());
    let urls: Vec<String> = hosts.iter().map(|host| format!("http://{host}")).collect();
    let binhost = BinhostConfig { on_mismatch, ..BinhostConfig::of_urls(&urls) };
    let upstream = Arc::new(Upstream::new(binhost, Arc::clone(&metrics), None).unwrap());
    let cache = Arc::new(Cache::open(place, 64 << 20, Arc::clone(&metrics)).unwrap());
    cache.recovery().sweep();
    let (fetcher, _) = Fetcher::new(cache, Arc::clone(&metrics));
    let remote = RemoteBinhost::new("host".to_owned(), upstream, Policy::digests_only(), on_mismatch);
    fetcher.add_binhost(id, Arc::new(remote));
    (fetcher, metrics)
}

/// A fetcher whose cache is at `place`, and whose binhost `id` has no packages.
pub(crate) fn fetcher(place: &Path, id: BinhostId, on_mismatch: OnMismatch) -> Arc<Fetcher> {
    fetcher_of(place, id, on_mismatch, &["none.test".to_owned()]).0
}

/// An index with an entry for each package, and `more` values that the packages do not have.
pub(crate) fn index_of(packages: &[Package], more: &str) -> Arc<Index> {
    let mut text = "VERSION: 0\n\n".to_owned();
    for package in packages {
        text += &format!(
            "BUILD_ID: {}\nBUILD_TIME: {}\nCPV: {}/{}\nEAPI: 8\nMD5: {}\nPATH: {}\nREPO: gentoo\nSIZE: {}\n{more}\n",
            package::BUILD_ID,
            package::BUILD_TIME,
            package.category,
            package.pf,
            Digest::<16>(Md5::digest(&package.bytes).into()),
            package.path(),
            package.bytes.len(),
        );
    }
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Arc::new(Index::parse(file).unwrap())
}

/// A binhost with packages, and a fetcher that has none of them.
pub(crate) struct PackageScene {
    pub(crate) fetcher: Arc<Fetcher>,
    pub(crate) server: Arc<ScriptedServer>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) packages: Vec<Package>,
    /// The names of the mirrors, in the configured order.
    pub(crate) hosts: Vec<String>,
    view: Arc<View>,
    _place: TempDir,
}

impl PackageScene {
    /// A binhost with so many mirrors, and packages of `payload` bytes and more.
    pub(crate) fn new(mirrors: usize, names: &[&'static str], payload: usize) -> Self {
        let (place, id) = (TempDir::new().unwrap(), BinhostId(7));
        let server = ScriptedServer::new();
        let hosts: Vec<String> = (0..mirrors).map(|_| server.add_mirror()).collect();
        let (fetcher, metrics) = fetcher_of(place.path(), id, OnMismatch::Refuse, &hosts);
        let packages: Vec<Package> = names.iter().map(|name| package::build("a", name, payload).unwrap()).collect();
        packages.iter().for_each(|package| server.put(&package.path(), package.bytes.clone()));
        let view = Arc::new(View::whole(id, index_of(&packages, "")));
        Self { fetcher, server, metrics, packages, hosts, view, _place: place }
    }

    /// The entries of the packages.
    pub(crate) fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Package number `at`.
    pub(crate) fn wanted(&self, at: usize) -> PackageRef {
        let row = self.view.row_at(&self.packages[at].path()).unwrap();
        self.fetcher.wanted(&self.view, row).unwrap()
    }

    /// The next requests for package number `at` at the first mirror are answered by `acts`.
    pub(crate) fn act(&self, at: usize, acts: impl IntoIterator<Item = Act>) {
        self.server.act(&self.hosts[0], &self.packages[at].path(), acts);
    }

    /// The next request for package number `at` gets this many bytes, and the rest when the server
    /// is released.
    pub(crate) fn hold(&self, at: usize, bytes: usize) {
        self.act(at, [Act::Hold(bytes)]);
    }

    /// The next request for package number `at` is answered as if it were missing.
    pub(crate) fn lose(&self, at: usize) {
        self.act(at, [Act::Status(404)]);
    }

    /// Opens package number `at`, by a thread that the daemon does not see.
    pub(crate) async fn open(&self, at: usize, uid: Uid) -> Outcome {
        self.fetcher.open(self.wanted(at), &self.fetcher.miss(0, uid), uid).await
    }

    /// The same in a task of its own. Aborting it gives up the open.
    pub(crate) fn opening(&self, at: usize, uid: Uid) -> tokio::task::JoinHandle<Outcome> {
        let (fetcher, wanted, miss) = (Arc::clone(&self.fetcher), self.wanted(at), self.fetcher.miss(0, uid));
        tokio::spawn(async move { fetcher.open(wanted, &miss, uid).await })
    }

    /// The numbers of the packages that the server was asked for, in order.
    pub(crate) fn asked(&self) -> Vec<usize> {
        let number = |path: &String| self.packages.iter().position(|package| package.path() == *path).unwrap();
        self.server.paths().iter().map(number).collect()
    }
}
