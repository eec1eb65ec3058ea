//! `binhostfs demo`: the main job on a binhost inside the program.
//!
//! The demo runs the same daemon as `mount`, against a real HTTP server with packages that are
//! built in memory. It changes nothing outside a temporary directory, and removes that directory at
//! the end.

mod binhost;
mod package;

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use tracing_subscriber::filter::LevelFilter;

use super::output::{fail, say};
use super::{logging, runtime};
use crate::api::Status;
use crate::config::{CommandLine, ConfigFiles, MountConfig, Settings};
use crate::daemon::{Daemon, Mounting};
use crate::portage::Sourced;
use crate::units::ByteSize;
use binhost::DemoBinhost;

/// How long the demo waits for a commit, enough for a very slow disk.
const PATIENCE: Duration = Duration::from_secs(30);

/// Show the main features on a binhost inside the program.
///
/// Mounts it on a temporary directory, reads a package through the mount, tries a tampered one,
/// unmounts. Needs root and /dev/fuse.
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  binhostfs demo")]
pub(super) struct DemoArguments {}

pub(super) fn run(_arguments: &DemoArguments) -> ExitCode {
    // The demo prints its own report. Only errors are logged.
    if let Err(error) = logging::start(LevelFilter::ERROR) {
        return fail(2, error);
    }
    if let Some(missing) = missing() {
        return fail(1, format_args!("the demo cannot run here: {missing}"));
    }
    let (place, runtime) = match (DemoDirectory::new(), runtime(2)) {
        (Ok(place), Ok(runtime)) => (place, runtime),
        (Err(error), _) | (_, Err(error)) => return fail(1, format_args!("preparing the demo: {error}")),
    };
    let result = runtime.block_on(show(&place));
    runtime.shutdown_timeout(Duration::from_secs(3));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, format_args!("the demo failed: {error:#}")),
    }
}

fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root can mount; run it with sudo".to_owned());
    }
    let device = fs::File::options().read(true).write(true).open("/dev/fuse");
    device.err().map(|error| {
        format!("/dev/fuse: {error}; load the module with `modprobe fuse`, and in a container pass the device in")
    })
}

/// A temporary directory that is removed when dropped.
struct DemoDirectory(PathBuf);

impl DemoDirectory {
    fn new() -> io::Result<Self> {
        // The directory has mode 0700. If the name exists already, the demo fails: the directory
        // may be another user's.
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("binhostfs-demo.{}.{:x}", std::process::id(), since_epoch.as_nanos());
        let path = std::env::temp_dir().join(name);
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        let place = Self(path);
        fs::create_dir(place.mountpoint())?;
        Ok(place)
    }

    fn mountpoint(&self) -> PathBuf {
        self.0.join("pkgdir")
    }
}

impl Drop for DemoDirectory {
    fn drop(&mut self) {
        // If the mount is still there, rmdir fails, and nothing below it is removed.
        if fs::remove_dir(self.mountpoint()).is_ok() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

async fn show(place: &DemoDirectory) -> anyhow::Result<()> {
    let binhost = DemoBinhost::start().await.context("starting the embedded binhost")?;
    let mountpoint = place.mountpoint();
    say(format_args!("A binhost with {} packages runs inside this program: {}", binhost.packages(), binhost.url()));
    let settings = Settings {
        mountpoint: Some(Sourced::default(mountpoint.clone())),
        binhost: Some(Sourced::default(vec![binhost.url()])),
        cache_dir: Some(Sourced::default(place.0.join("cache"))),
        cache_size: Some(Sourced::default(ByteSize(64 << 20))),
        control: Some(Sourced::default(place.0.join("control.sock"))),
        verify_signature: Some(Sourced::default(false)),
        ..Settings::default()
    };
    let line = Arc::new(CommandLine { settings, files: ConfigFiles::Ignored, ..CommandLine::default() });
    let config = MountConfig::validate(&line)?;
    let started = Instant::now();
    let daemon = Daemon::start(config, Mounting::Mounted(None)).await?;
    say(format_args!("Mounted on {} in {}\n", mountpoint.display(), milliseconds(started)));
    list(&mountpoint).await?;
    read_twice(&mountpoint, &binhost, &daemon).await?;
    try_tampered(&mountpoint, &binhost, &daemon).await?;
    drop(daemon);
    ensure!(fs::read_dir(&mountpoint)?.next().is_none(), "{} is still mounted", mountpoint.display());
    say("\nUnmounted; nothing is left behind.");
    Ok(())
}

async fn list(mountpoint: &Path) -> anyhow::Result<()> {
    let root = mountpoint.to_owned();
    let files = blocking(move || {
        let mut files = Vec::new();
        walk(&root, &root, &mut files)?;
        Ok(files)
    })
    .await?;
    say("What Portage sees there (nothing has been fetched yet):");
    for (path, size) in files {
        say(format_args!("  {:>9}  {path}", ByteSize(size).to_string()));
    }
    Ok(())
}

fn walk(root: &Path, directory: &Path, files: &mut Vec<(String, u64)>) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(directory)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, metadata) = (entry.path(), entry.metadata()?);
        if metadata.is_dir() {
            walk(root, &path, files)?;
        } else {
            files.push((path.strip_prefix(root).unwrap_or(&path).display().to_string(), metadata.len()));
        }
    }
    Ok(())
}

async fn read_twice(mountpoint: &Path, binhost: &DemoBinhost, daemon: &Daemon) -> anyhow::Result<()> {
    let path = mountpoint.join(binhost::GOOD);
    say(format_args!("\nReading {}:", binhost::GOOD));
    for (time, told) in [("first", "fetched, verified, cached"), ("second", "from the cache")] {
        let (path, started) = (path.clone(), Instant::now());
        let bytes = blocking(move || fs::read(path)).await.with_context(|| format!("the {time} read"))?;
        ensure!(binhost.is_good(&bytes), "the bytes that were read are not those of the package");
        say(format_args!("  {time} time: {} in {} ({told})", ByteSize(bytes.len() as u64), milliseconds(started)));
        // A package can be read as soon as it is verified. The commit with fsync may take longer on
        // a slow disk.
        while daemon.status().cache.packages == 0 && started.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let downloads = binhost.downloads(binhost::GOOD);
    ensure!(downloads == 1, "the package was downloaded {downloads} times instead of once");
    let Status { metrics, cache, passthrough, .. } = wait_until_stored(daemon).await?;
    ensure!(metrics.verified == 1 && cache.packages == 1, "it was not verified and cached: {metrics:?}");
    let reads =
        if passthrough { "the kernel reads it straight from the cache" } else { "reads pass through the daemon" };
    say(format_args!("  downloaded once; size, MD5, SHA1 and each member's SHA512 and BLAKE2B verified; {reads}"));
    say("  (these packages are not signed: the demo runs with --verify-signature false, `mount` asks for signatures)");
    Ok(())
}

/// Waits until no download is left. The commit continues after the reader has its bytes.
async fn wait_until_stored(daemon: &Daemon) -> anyhow::Result<Status> {
    let started = Instant::now();
    loop {
        let status = daemon.status();
        if status.downloads.is_empty() {
            return Ok(status);
        }
        ensure!(started.elapsed() < PATIENCE, "the package is not in the cache after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn try_tampered(mountpoint: &Path, binhost: &DemoBinhost, daemon: &Daemon) -> anyhow::Result<()> {
    let path = mountpoint.join(binhost::TAMPERED);
    say(format_args!("\nReading {}, of which the binhost serves one wrong byte:", binhost::TAMPERED));
    let started = Instant::now();
    let opened = blocking(move || {
        let mut byte = [0];
        fs::File::open(path)?.read(&mut byte)
    });
    match opened.await {
        Ok(_) => bail!("a tampered package could be read"),
        Err(error) => say(format_args!("  open fails after {}: {error}", milliseconds(started))),
    }
    let status = wait_until_stored(daemon).await?;
    let failure = status.failures.iter().find(|failure| failure.path == binhost::TAMPERED);
    say(format_args!("  reason: {}", failure.context("the reason was not kept")?.reason));
    ensure!(status.cache.packages == 1, "something of the tampered package is in the cache");
    say("  not a byte of it could be read, and nothing of it was kept");
    ensure!(binhost.downloads(binhost::TAMPERED) > 0, "it was never asked for");
    Ok(())
}

/// Runs `work` on another thread. The mount must not be read on a thread of the runtime: its daemon
/// is in this process.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> anyhow::Result<T> {
    Ok(tokio::task::spawn_blocking(work).await??)
}

fn milliseconds(since: Instant) -> String {
    format!("{:.1} ms", since.elapsed().as_secs_f64() * 1000.0)
}
