//! Binhosts that answer as a test says, for tests of their refreshes. No test here needs a network,
//! a mount or a moment of real time.

use std::io::Write as _;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use super::Binhosts;
use super::binhost::Binhost;
use crate::cache::Cache;
use crate::config::{CommandLine, ConfigFiles, MountConfig, MountpointCheck, OPTIONS};
use crate::daemon::policies;
use crate::fetch::{Fetcher, RemoteBinhost};
use crate::index::BinhostId;
use crate::metrics::Metrics;
use crate::upstream::{Answer, ScriptedBinhost, Upstream};

/// TIMESTAMP of the first index.
pub(crate) const TIME: i64 = 1_760_000_000;
/// The name of the index that is asked for first.
pub(crate) const INDEX: &str = "Packages.gz";

/// A cache, and the mirrors of one binhost.
pub(crate) struct Scene {
    place: TempDir,
    pub(crate) mirrors: Vec<Arc<ScriptedBinhost>>,
    line: Arc<CommandLine>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Scene {
    /// `options`: of the command line, beside the URLs.
    pub(crate) fn new(mirrors: usize, options: &[(&str, &str)]) -> Self {
        let place = TempDir::new().unwrap();
        let mirrors: Vec<_> = (0..mirrors).map(|_| ScriptedBinhost::new()).collect();
        let mut line = CommandLine { files: ConfigFiles::Ignored, ..CommandLine::default() };
        let mut give = |name: &str, value: &str| {
            let row = OPTIONS.iter().find(|row| row.info.name == name).unwrap();
            row.set_text(&mut line.settings, value.as_ref()).unwrap();
        };
        for (at, mirror) in mirrors.iter().enumerate() {
            give(if at == 0 { "binhost" } else { "mirror" }, &mirror.url());
        }
        let [cache, mountpoint] = ["cache", "pkgdir"].map(|name| place.path().join(name).display().to_string());
        [("mountpoint", &*mountpoint), ("cache-dir", &*cache), ("verify-signature", "false")]
            .iter()
            .chain(options)
            .for_each(|(name, value)| give(name, value));
        Self { place, mirrors, line: Arc::new(line), metrics: Arc::default() }
    }

    /// A binhost of one URL, with this index.
    pub(crate) fn with_index(index: &str) -> Self {
        let scene = Self::new(1, &[]);
        scene.publish(index);
        scene
    }

    /// Puts an index on all mirrors.
    pub(crate) fn publish(&self, index: &str) {
        self.mirrors.iter().for_each(|mirror| mirror.answer(INDEX, Answer::File(gzip(index.as_bytes()))));
    }

    /// Sets the answer of a mirror to requests for the index.
    pub(crate) fn answer(&self, mirror: usize, answer: Answer) {
        self.mirrors[mirror].answer(INDEX, answer);
    }

    pub(crate) fn config(&self) -> MountConfig {
        self.line.resolve(&MountpointCheck::Unused).result.unwrap()
    }

    /// The binhost as a daemon that starts opens it: with the stored index, if there is one.
    pub(crate) async fn start(&self) -> Binhost {
        let config = self.config();
        let [binhost] = <[_; 1]>::try_from(config.binhosts.clone()).unwrap();
        let policy = policies(&config).unwrap().remove(0);
        let upstream = Arc::new(Upstream::new(binhost.clone(), Arc::clone(&self.metrics), None).unwrap());
        let remote = RemoteBinhost::new("one".to_owned(), upstream, policy, binhost.on_mismatch);
        let mut opened =
            Binhost::open(&self.place.path().join("cache"), binhost, BinhostId(0), Arc::new(remote)).unwrap();
        opened.load().await;
        opened
    }

    /// All binhosts as a daemon that starts opens them, before any index is read.
    pub(crate) fn start_all(&self) -> Binhosts {
        self.start_all_of(&self.config())
    }

    /// The same with another configuration.
    pub(crate) fn start_all_of(&self, config: &MountConfig) -> Binhosts {
        self.start_with_cache(config).0
    }

    /// The same, with the cache and the fetcher that the binhosts use.
    pub(crate) fn start_with_cache(&self, config: &MountConfig) -> (Binhosts, Arc<Cache>, Arc<Fetcher>) {
        let metrics = || Arc::clone(&self.metrics);
        let cache = Arc::new(Cache::open(&self.place.path().join("cache"), 1 << 20, metrics()).unwrap());
        let (fetcher, _) = Fetcher::new(Arc::clone(&cache), metrics());
        let policies = policies(config).unwrap();
        let binhosts =
            Binhosts::open(Arc::clone(&cache), Arc::clone(&fetcher), metrics(), None, config, policies).unwrap();
        (binhosts, cache, fetcher)
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A `Packages` with a TIMESTAMP and these packages.
pub(crate) fn index(timestamp: i64, packages: &[&str]) -> String {
    let header = format!("ARCH: amd64\nPACKAGES: {}\nTIMESTAMP: {timestamp}\nVERSION: 0\n\n", packages.len());
    let stanza = |pf: &&str| {
        let (md5, sha1) = ("5".repeat(32), "1".repeat(40));
        format!(
            "BUILD_ID: 1\nBUILD_TIME: 1760000000\nCPV: app-misc/{pf}\nEAPI: 8\nMD5: {md5}\n\
             PATH: app-misc/{pf}.gpkg.tar\nREPO: gentoo\nSHA1: {sha1}\nSIZE: 9000\n\n"
        )
    };
    header + &packages.iter().map(stanza).collect::<String>()
}

/// PATHs of the latest index, without what all have.
pub(crate) fn listed(binhost: &Binhost) -> Vec<String> {
    let Some(current) = binhost.stored.current() else { return Vec::new() };
    let path =
        |record| current.index.path(record).trim_start_matches("app-misc/").trim_end_matches(".gpkg.tar").to_owned();
    current.index.records().iter().map(path).collect()
}
