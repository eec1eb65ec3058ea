//! The view of several binhosts as the real Portage sees it, beside what Portage plans itself with `--getbinpkg` from the same
//! binhosts: one `binrepos.conf` for both.

mod acceptance;
mod foreign;
mod guard;
mod nearest;
mod offline;
mod selection;
mod union;
mod zero;

use std::fs;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::binhost::configuration;
use crate::harness::portage::{Emerge, Nginx};
use crate::harness::{Mounted, Options, binary};

const TRUSTED: &str = "";
const VISITED: &str = "-pkgdir-index-trusted";

/// A section of binrepos.conf: its name, where below the server its binhost is, and more lines.
type Section<'a> = (&'a str, &'a str, &'a str);

/// A mount of what Portage's files say.
struct World {
    mounted: Mounted,
    /// PORTAGE_CONFIGROOT.
    root: TempDir,
    /// Where Portage has no packages, and where it puts what it fetches.
    theirs: TempDir,
}

impl World {
    /// With these sections, and a binhostfs.toml if it is not empty.
    fn of(server: &Nginx, sections: &[Section<'_>], toml: &str) -> Option<Self> {
        let [place, theirs] = [(); 2].map(|()| TempDir::with_prefix("binhostfs-it.").unwrap());
        let section = |(name, directory, more): &Section<'_>| {
            let location = theirs.path().join("fetched").join(name);
            let url = format!("{}/{directory}", server.url());
            let verify = if more.contains("verify-signature") { "" } else { "verify-signature = false\n" };
            format!("[{name}]\nsync-uri = {url}\nlocation = {}\n{verify}{more}\n", location.display())
        };
        let binrepos_conf: String = sections.iter().map(section).collect();
        fs::create_dir(theirs.path().join("pkgdir")).unwrap();
        let mountpoint = place.path().join("pkgdir");
        let root = configuration(&binrepos_conf, &format!("PKGDIR=\"{}\"\n", mountpoint.display()))?;
        let mut options = Options::of_portage(root.path());
        if !toml.is_empty() {
            let file = root.path().join("binhostfs.toml");
            fs::write(&file, toml).unwrap();
            options = options.with(["--config", file.to_str().unwrap()]);
        }
        Some(Self { mounted: options.mount_in(place), root, theirs })
    }

    /// An emerge that knows nothing of binhosts.
    fn ours(&self) -> Emerge {
        Emerge::configured(self.root.path()).with("MODE", "-k")
    }

    /// An emerge that asks the binhosts itself.
    fn theirs(&self) -> Emerge {
        let root = self.root.path().to_str().unwrap();
        Emerge::from(self.theirs.path().join("pkgdir")).with("CONFIGROOT", root).with("MODE", "-gk")
    }

    /// What a subcommand says.
    fn client(&self, words: &[&str]) -> String {
        let output = Command::new(binary()).args(words).arg("--control").arg(self.mounted.control()).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What `why` says of each build that an atom matches.
    fn why(&self, atom: &str) -> Vec<Value> {
        let told: Value = serde_json::from_str(&self.client(&["why", "--json", atom])).unwrap();
        told["packages"].as_array().unwrap().clone()
    }

    /// Where the entries are that are shown.
    fn paths(&self) -> Vec<String> {
        let text = fs::read_to_string(self.mounted.path("Packages")).unwrap();
        text.lines().filter_map(|line| line.strip_prefix("PATH: ")).map(str::to_owned).collect()
    }
}
