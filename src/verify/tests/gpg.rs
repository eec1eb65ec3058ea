//! Runs gpg with a home and keys of its own, which are removed after the test.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A gpg with its home. Dropping it stops the agent, and removes the home unless it is permanent.
#[derive(Debug)]
pub(crate) struct Gpg {
    home: PathBuf,
    _own: Option<TempDir>,
}

impl Gpg {
    /// Creates a temporary home. `None`: there is no gpg.
    pub(crate) fn new() -> Option<Self> {
        // The path must be short, because the path of the agent's socket is limited to some 100
        // bytes.
        let home = TempDir::with_prefix_in("bhfs-gpg.", "/tmp").unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let there = Command::new("gpg").arg("--version").stdout(Stdio::null()).status().is_ok_and(|s| s.success());
        there.then(|| Self { home: home.path().to_owned(), _own: Some(home) })
    }

    /// Uses a permanent home, whose path must be short.
    pub(crate) fn in_home(home: &Path) -> Self {
        fs::create_dir_all(home).unwrap();
        fs::set_permissions(home, fs::Permissions::from_mode(0o700)).unwrap();
        Self { home: home.to_owned(), _own: None }
    }

    fn output(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = Command::new("gpg");
        command.arg("--homedir").arg(&self.home);
        command.args(["--batch", "--yes", "--no-tty", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]);
        command.args(["--trust-model", "always"]).args(arguments);
        feed(command, input)
    }

    /// Runs gpg and returns its standard output.
    pub(crate) fn run(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let output = self.output(arguments, input);
        assert!(output.status.success(), "gpg {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Makes a key and returns its fingerprint. `when` is the faked time, e.g. `20200101T000000!`.
    pub(crate) fn key(&self, name: &str, algorithm: &str, usage: &str, expire: &str, when: Option<&str>) -> String {
        let time: Vec<&str> = when.into_iter().flat_map(|when| ["--faked-system-time", when]).collect();
        let user = format!("{name} <{name}@example.invalid>");
        self.run(&[&time[..], &["--quick-gen-key", &user, algorithm, usage, expire]].concat(), b"");
        self.fingerprints(name)[0].clone()
    }

    /// Returns the fingerprints of a key and of its subkeys.
    pub(crate) fn fingerprints(&self, name: &str) -> Vec<String> {
        let listed = self.run(&["--with-colons", "--with-subkey-fingerprint", "--list-keys", name], b"");
        let listed = String::from_utf8(listed).unwrap();
        listed.lines().filter_map(|line| Some(line.strip_prefix("fpr:")?.trim_matches(':').to_owned())).collect()
    }

    /// Exports the certificates of these keys.
    pub(crate) fn export(&self, keys: &[&str]) -> Vec<u8> {
        self.run(&[&["--export"], keys].concat(), b"")
    }

    /// Revokes a key by its revocation certificate.
    pub(crate) fn revoke(&self, fingerprint: &str) {
        let path = self.home.join("openpgp-revocs.d").join(format!("{fingerprint}.rev"));
        // gpg puts a colon in front of the certificate, so that it cannot be used by accident.
        let certificate = fs::read_to_string(path).unwrap().replace(":-----BEGIN", "-----BEGIN");
        self.run(&["--import"], certificate.as_bytes());
    }

    /// Runs commands of `--edit-key`.
    pub(crate) fn edit(&self, fingerprint: &str, commands: &[u8]) {
        let mut command = Command::new("gpg");
        command.arg("--homedir").arg(&self.home).args(["--no-tty", "--quiet", "--pinentry-mode", "loopback"]);
        command.args(["--passphrase", "", "--command-fd", "0", "--status-fd", "2", "--edit-key", fingerprint]);
        let output = feed(command, commands);
        assert!(output.status.success(), "gpg: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Makes a cleartext signature of `text`.
    pub(crate) fn clearsign(&self, options: &[&str], text: &[u8]) -> Vec<u8> {
        self.run(&[options, &["--clearsign"]].concat(), text)
    }

    /// Makes a detached signature of `bytes`.
    pub(crate) fn detach(&self, options: &[&str], bytes: &[u8]) -> Vec<u8> {
        self.run(&[options, &["--detach-sign"]].concat(), bytes)
    }

    /// Whether a gpg that has only `certificates` calls a cleartext signature good, by Portage's
    /// criterion: GOODSIG, and no failure.
    pub(crate) fn verifies(certificates: &[u8], signed: &[u8]) -> bool {
        let gpg = Self::new().unwrap();
        // gpg may refuse some of the certificates.
        let _ = gpg.output(&["--import"], certificates);
        let output = gpg.output(&["--status-fd", "1", "--verify", "-"], signed);
        output.status.success() && String::from_utf8_lossy(&output.stdout).contains("GOODSIG ")
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.home.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn home(&self) -> &Path {
        &self.home
    }
}

fn feed(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    // gpg may end before it has read everything.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let _ = Command::new("gpgconf").arg("--homedir").arg(&self.home).args(["--kill", "all"]).status();
    }
}
