//! The real Portage and Debian's nginx: the binhosts of `tests/portage/prepare.sh`, who serves them, who installs from them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{ReservedAddress, can_mount, eventually, have};

/// What `prepare.sh` made. `None`: skipped, loudly.
pub(crate) fn test_environment() -> Option<PathBuf> {
    let directory = std::env::var_os("BINHOSTFS_TEST_ENV").map(PathBuf::from).unwrap_or_default();
    let ready = directory.is_absolute() && directory.join("stamp").exists();
    have(ready, "BINHOSTFS_TEST_ENV, the absolute path of a directory that tests/portage/prepare.sh filled")
        .then_some(directory)
}

/// One of the binhosts, if this test can mount it, serve it and install from it.
pub(crate) fn binhost(name: &str) -> Option<PathBuf> {
    let nginx = Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_ok();
    (can_mount() && have(nginx, "nginx")).then(test_environment)?.map(|directory| directory.join("binhosts").join(name))
}

/// A copy of a binhost, for a test to damage or extend. Times of files stay as they are.
pub(crate) fn copy_of(binhost: &Path) -> TempDir {
    let copy = TempDir::with_prefix("binhostfs-it.").unwrap();
    let status = Command::new("cp").arg("-aT").arg(binhost).arg(copy.path()).status().unwrap();
    assert!(status.success());
    copy
}

/// Entries of a `Packages` file: keys and values.
pub(crate) fn entries(packages: &Path) -> Vec<BTreeMap<String, String>> {
    entries_of(&fs::read_to_string(packages).unwrap())
}

/// Those of its text.
pub(crate) fn entries_of(text: &str) -> Vec<BTreeMap<String, String>> {
    let stanza = |stanza: &str| {
        let pairs = stanza.lines().filter_map(|line| line.split_once(':'));
        pairs.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect()
    };
    text.split("\n\n").skip(1).map(stanza).filter(|entry: &BTreeMap<_, _>| !entry.is_empty()).collect()
}

/// An nginx of a test's own, on loopback; stopped when dropped.
#[derive(Debug)]
pub(crate) struct Nginx {
    prefix: TempDir,
    child: Option<Child>,
    address: ReservedAddress,
}

impl Nginx {
    /// Serves a directory.
    pub(crate) fn serve(directory: &Path) -> Self {
        Self::serve_with(directory, "")
    }

    /// Serves a directory, with more lines in the `server` block.
    pub(crate) fn serve_with(directory: &Path, more: &str) -> Self {
        let prefix = TempDir::with_prefix("binhostfs-it.").unwrap();
        let address = ReservedAddress::new();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {kind};\n"))
            .concat();
        // One process: nothing to be left over, and files are read as whoever runs the test.
        let configuration = format!(
            "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n{temporary}\
             default_type application/octet-stream;\nlog_format short '$uri $status';\naccess_log access.log short;\n\
             server {{\nlisten {address};\nroot {};\n{more}\n}}\n}}\n",
            directory.display()
        );
        fs::write(prefix.path().join("nginx.conf"), configuration).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-p").arg(prefix.path()).args(["-e", "stderr", "-c", "nginx.conf"]).stdin(Stdio::null());
        let mut nginx = Self { child: Some(command.spawn().unwrap()), prefix, address };
        let mut ended = false;
        // It listens before it writes that file.
        eventually(20, "nginx listens or ends", || {
            ended = nginx.child.as_mut().unwrap().try_wait().unwrap().is_some();
            ended || nginx.prefix.path().join("nginx.pid").exists()
        });
        assert!(!ended, "nginx does not start; see above");
        nginx
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Paths of all packages that were asked for, in order of name, each as often as it was. Whatever the answer was.
    pub(crate) fn fetched(&self) -> Vec<String> {
        let log = fs::read_to_string(self.prefix.path().join("access.log")).unwrap();
        let paths = log.lines().filter_map(|line| line.split(' ').next()?.strip_prefix('/'));
        let is_index = |path: &&str| path.rsplit('/').next().is_some_and(|name| name.starts_with("Packages"));
        let mut paths: Vec<_> = paths.filter(|path| !is_index(path)).map(str::to_owned).collect();
        paths.sort();
        paths
    }

    /// Listens again where it did.
    pub(crate) fn start_again(&mut self) {
        self.stop();
        let mut command = Command::new("nginx");
        command.arg("-p").arg(self.prefix.path()).args(["-e", "stderr", "-c", "nginx.conf"]).stdin(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        eventually(20, "nginx listens again", || std::net::TcpStream::connect(*self.address).is_ok());
    }

    /// From now on connections are refused.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
            // It may have ended already.
            let _ = kill_process(pid, Signal::TERM);
            let _ = child.wait();
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.stop();
    }
}

/// An `emerge` into a ROOT of its own.
#[derive(Debug)]
pub(crate) struct Emerge {
    root: TempDir,
    /// In place of `root`.
    shared_root: Option<PathBuf>,
    variables: Vec<(String, String)>,
    pkgdir: PathBuf,
}

/// How an emerge ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// 124: it had to be stopped.
    pub(crate) code: Option<i32>,
    /// Both streams.
    pub(crate) output: String,
}

impl Emerge {
    /// Portage's defaults; packages only (`-K`).
    pub(crate) fn from(pkgdir: PathBuf) -> Self {
        Self { root: TempDir::with_prefix("binhostfs-it.").unwrap(), shared_root: None, variables: Vec::new(), pkgdir }
    }

    /// With the configuration below `root` alone, which says where PKGDIR is.
    pub(crate) fn configured(root: &Path) -> Self {
        Self::from(PathBuf::from("-")).with("CONFIGROOT", root.to_str().unwrap())
    }

    /// The same ROOT as another's.
    pub(crate) fn into_root_of(mut self, other: &Self) -> Self {
        self.shared_root = Some(other.path(""));
        self
    }

    /// MODE, FEATURES, USE and the like: see emerge-from.sh.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs it with these arguments; it is given five minutes, on a busy machine it may need one.
    pub(crate) fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Ended {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/portage/emerge-from.sh");
        let mut command = Command::new(script);
        command.arg(&self.pkgdir).arg(self.path("")).args(arguments).env("TIMEOUT", "300").stdin(Stdio::null());
        // What the machine's own Portage or a shell may have set.
        for name in ["USE", "FEATURES", "BINPKG_COMPRESS", "EMERGE_DEFAULT_OPTS", "PORTAGE_BINHOST"] {
            command.env_remove(name);
        }
        let output = command.envs(self.variables.iter().map(|(name, value)| (name, value))).output().unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        Ended { code: output.status.code(), output: text }
    }

    /// Runs it and fails unless emerge says that all went well.
    pub(crate) fn succeed<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> String {
        let Ended { code, output } = self.run(arguments);
        assert_eq!(code, Some(0), "emerge failed:\n{output}");
        output
    }

    /// What it would merge, in that order: `binary` or `ebuild`, and the package with its BUILD_ID, if it has one.
    pub(crate) fn plan<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let output = self.succeed(["--pretend"].into_iter().chain(arguments));
        let line = |line: &str| {
            let (kind, rest) = line.strip_prefix('[')?.split_once(']')?;
            let kind = kind.split_whitespace().next().filter(|kind| ["binary", "ebuild"].contains(kind))?;
            Some(format!("{kind} {}", rest.split_whitespace().next()?))
        };
        output.lines().filter_map(line).collect()
    }

    /// What Portage's Python says to a script with one argument, in the same configuration and ROOT.
    pub(crate) fn python(&self, script: &str, argument: &str) -> String {
        let file = self.path("script.py");
        fs::write(&file, script).unwrap();
        // In emerge's place.
        let wrapper = format!("python {} {argument} --", file.display());
        let mut instead = Self::from(self.pkgdir.clone()).into_root_of(self).with("WRAP", &wrapper);
        instead.variables.extend(self.variables.iter().cloned());
        let Ended { code, output } = instead.run(["-p"]);
        assert_eq!(code, Some(0), "{output}");
        output
    }

    /// Portage's `emaint`, with what is installed below ROOT.
    pub(crate) fn emaint(&self, arguments: &[&str]) -> String {
        let script = format!("from portage.emaint.main import emaint_main\nemaint_main({arguments:?})\n");
        self.python(&script, "")
    }

    /// A path below ROOT.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.shared_root.as_deref().unwrap_or(self.root.path()).join(path)
    }

    /// What is installed: CPV and, where the package has one, BUILD_ID; in order.
    pub(crate) fn installed(&self) -> BTreeMap<String, Option<String>> {
        let below = |directory: &Path| -> Vec<PathBuf> {
            fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
        };
        let database = self.path("var/db/pkg");
        let packages = below(&database).into_iter().flat_map(|category| below(&category));
        let described = packages.map(|package| {
            let build_id = fs::read_to_string(package.join("BUILD_ID")).ok().map(|text| text.trim().to_owned());
            (package.strip_prefix(&database).unwrap().to_str().unwrap().to_owned(), build_id)
        });
        described.collect()
    }

    /// Names of what is installed.
    pub(crate) fn names(&self) -> Vec<String> {
        self.installed().into_keys().collect()
    }

    /// Paths in `binhost` of exactly the packages that are installed, in order.
    pub(crate) fn sources(&self, binhost: &Path) -> Vec<String> {
        let entries = entries(&binhost.join("Packages"));
        let source = |(cpv, build_id): (String, Option<String>)| {
            let fits = entries.iter().filter(|entry| entry["CPV"] == cpv && entry.get("BUILD_ID") == build_id.as_ref());
            let paths: Vec<_> = fits.map(|entry| entry["PATH"].clone()).collect();
            assert_eq!(paths.len(), 1, "{cpv} {build_id:?} in the index");
            paths.concat()
        };
        let mut paths: Vec<_> = self.installed().into_iter().map(source).collect();
        paths.sort();
        paths
    }

    /// What an installed script says.
    pub(crate) fn says(&self, script: &str) -> String {
        let output = Command::new("sh").arg(self.path(script)).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}
