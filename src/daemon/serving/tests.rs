//! Serving other machines: a daemon whose binhost answers as the test says.

use std::fs;
use std::net::TcpListener;

use super::super::binhosts::Binhosts;
use super::super::binhosts::scene::{Scene, TIME, index};
use super::*;

const PATH: &str = "app-misc/own-1.gpkg.tar";

/// The parts of a daemon that serves, with a directory for local packages.
struct ServingScene {
    config: MountConfig,
    serving: Serving,
    front: PublishedTree,
    fetcher: Arc<Fetcher>,
    cache: Arc<Cache>,
    _binhosts: Binhosts,
    _scene: Scene,
}

impl ServingScene {
    async fn new(mounted: bool, options: &[(&str, &str)]) -> Self {
        let scene = Scene::new(1, options);
        scene.publish(&index(TIME, &["one-1"]));
        let config = scene.config();
        fs::create_dir_all(&config.mountpoint).unwrap();
        let (mut binhosts, cache, fetcher) = scene.start_with_cache(&config);
        let front = unmounted(&config, &cache, binhosts.first().await.unwrap()).await.unwrap();
        let serving = Serving::new(&config, mounted, &front, &fetcher, &scene.metrics, &cache).unwrap().unwrap();
        Self { config, serving, front, fetcher, cache, _binhosts: binhosts, _scene: scene }
    }

    fn complete(&self) -> Result<(), ServeError> {
        self.serving.complete(&self.front, &self.fetcher, &|_| Ok(HashSet::new()))
    }

    /// Publishes without the local packages at these paths.
    fn publish(&self, withheld: &[&str]) {
        self.serving.publish(&self.front, &self.fetcher, &|_| Ok(paths(withheld)));
    }

    /// Writes a local package and the index, as Portage does.
    fn put(&self, bytes: &str) {
        let file = self.config.mountpoint.join(PATH);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
        let entry = format!("CPV: app-misc/own-1\nMD5: {}\nPATH: {PATH}\nSIZE: {}\n\n", "5".repeat(32), bytes.len());
        fs::write(self.config.mountpoint.join("Packages.new"), format!("VERSION: 0\n\n{entry}")).unwrap();
        fs::rename(self.config.mountpoint.join("Packages.new"), self.config.mountpoint.join("Packages")).unwrap();
    }
}

fn paths(all: &[&str]) -> HashSet<String> {
    all.iter().map(|path| (*path).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_is_tried_again() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let scene = ServingScene::new(true, &[("serve", &address)]).await;
    assert!(scene.serving.is_incomplete() && scene.serving.problem().is_none());
    for _ in 0..2 {
        assert!(matches!(scene.complete(), Err(ServeError::Address { .. })));
        let problem = scene.serving.problem().unwrap();
        assert!(problem.starts_with("other machines are not served: ") && problem.contains(&address), "{problem}");
        assert!(scene.serving.is_incomplete());
    }
    // The index is there all the same.
    assert!(scene.serving.status().index_timestamp > 0);
    drop(other);
    scene.complete().unwrap();
    assert!(!scene.serving.is_incomplete() && scene.serving.problem().is_none());
    assert_eq!((scene.serving.status().address, scene.serving.status().connections), (address, 0));
    scene.complete().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_cannot_be_made_is_tried_again() {
    let scene = ServingScene::new(true, &[("serve", "127.0.0.1:0"), ("serve-local", "true")]).await;
    // Something else has the name of its directory.
    let directory = scene.cache.directory().join(DIRECTORY);
    fs::write(&directory, "x").unwrap();
    scene.complete().unwrap();
    assert!(scene.serving.is_incomplete(), "it listens, and has nothing");
    assert_eq!((scene.serving.status().index_timestamp, scene.serving.disk_usage()), (0, 0));
    fs::remove_file(&directory).unwrap();
    scene.complete().unwrap();
    assert!(!scene.serving.is_incomplete() && scene.serving.status().index_timestamp > 0);
    assert!(scene.serving.disk_usage() > 0 && scene.serving.take_written() > 0);
    assert_eq!(scene.serving.take_written(), 0, "it was counted");
    // One that fails later leaves the one before.
    let before = scene.serving.status().index_timestamp;
    scene.serving.publish(&scene.front, &scene.fetcher, &|_| Err(io::ErrorKind::TimedOut.into()));
    assert_eq!((scene.serving.is_incomplete(), scene.serving.status().index_timestamp), (true, before));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_portage_has_changed_is_published_again() {
    let scene = ServingScene::new(false, &[("serve", "127.0.0.1:0"), ("serve-local", "true")]).await;
    scene.publish(&[]);
    assert!(!scene.serving.has_own_changes(&scene.front));
    let timestamp = || scene.serving.status().index_timestamp;
    let before = timestamp();
    scene.put("bytes");
    assert!(scene.serving.has_own_changes(&scene.front));
    scene.publish(&[]);
    assert!(!scene.serving.has_own_changes(&scene.front) && timestamp() > before);
    // What is withheld now is not what was published.
    let withheld = timestamp();
    assert!(scene.serving.withholds_others(&paths(&[PATH])) && !scene.serving.withholds_others(&paths(&[])));
    scene.publish(&[PATH]);
    assert!(!scene.serving.withholds_others(&paths(&[PATH])) && scene.serving.withholds_others(&paths(&[])));
    assert!(timestamp() > withheld);
    // Nothing is written where nothing is mounted.
    assert!(!scene.serving.has_local_changes(&scene.front));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_serve_local_nothing_depends_on_local_packages() {
    let scene = ServingScene::new(false, &[("serve", "127.0.0.1:0")]).await;
    scene.publish(&[PATH]);
    scene.put("bytes");
    assert!(!scene.serving.has_own_changes(&scene.front) && !scene.serving.has_local_changes(&scene.front));
    assert!(!scene.serving.withholds_others(&paths(&[PATH])));
    assert_eq!(scene.front.local_packages(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_an_error_of_the_start() {
    let scene = Scene::new(1, &[("serve", "127.0.0.1:0"), ("serve-token", "/nowhere/token"), ("serve-local", "true")]);
    scene.publish(&index(TIME, &[]));
    let config = scene.config();
    let (mut binhosts, cache, fetcher) = scene.start_with_cache(&config);
    let tree = binhosts.first().await.unwrap();
    let error = unmounted(&config, &cache, Arc::clone(&tree)).await.unwrap_err();
    assert!(format!("{error:#}").starts_with(&format!("opening {}: ", config.mountpoint.display())), "{error:#}");
    fs::create_dir_all(&config.mountpoint).unwrap();
    let front = unmounted(&config, &cache, tree).await.unwrap();
    let serving = |config: &MountConfig| Serving::new(config, true, &front, &fetcher, &scene.metrics, &cache);
    assert!(matches!(serving(&config), Err(TokenError::Read { .. })));
    let mut config = config;
    config.options.serve = None;
    assert!(serving(&config).unwrap().is_none(), "nobody needs the token");
}
