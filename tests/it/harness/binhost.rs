//! Binhosts put together from packages of others, and configurations that name them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::portage::{entries, test_environment};

type Stanza = BTreeMap<String, String>;

/// Packages and their index, in a directory.
#[derive(Debug)]
pub(crate) struct Assembled {
    directory: PathBuf,
    header: Stanza,
    said: Vec<(String, String)>,
    entries: Vec<Stanza>,
}

impl Assembled {
    /// An empty one that says of itself what `like` says, but for TIMESTAMP.
    pub(crate) fn new(directory: PathBuf, like: &Path) -> Self {
        fs::create_dir_all(&directory).unwrap();
        let text = fs::read_to_string(like.join("Packages")).unwrap();
        let lines = text.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(": "));
        let header = lines.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Self { directory, header, said: Vec::new(), entries: Vec::new() }
    }

    /// Says something else of itself; nothing: it does not say it.
    pub(crate) fn header(mut self, key: &str, value: &str) -> Self {
        set(&mut self.header, key, value);
        self
    }

    /// Says this of all packages to come; nothing: it does not say it of them.
    pub(crate) fn say(mut self, key: &str, value: &str) -> Self {
        self.said.push((key.to_owned(), value.to_owned()));
        self
    }

    /// With the package that `from` has at `path`.
    pub(crate) fn take(self, from: &Path, path: &str) -> Self {
        self.take_as(from, path, path, &[])
    }

    /// With the package that `from` has at `path`, at another one, and with other things said of it.
    pub(crate) fn take_as(mut self, from: &Path, path: &str, at: &str, said: &[(&str, &str)]) -> Self {
        let entry = entries(&from.join("Packages")).into_iter().find(|entry| entry["PATH"] == path).unwrap();
        let to = self.directory.join(at);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        assert!(Command::new("cp").arg("-a").arg(from.join(path)).arg(&to).status().unwrap().success());
        self.add(entry, [("PATH", at)].iter().chain(said));
        self
    }

    fn add<'a>(&mut self, mut entry: Stanza, said: impl IntoIterator<Item = &'a (&'a str, &'a str)>) {
        said.into_iter().for_each(|(key, value)| set(&mut entry, key, value));
        self.said.iter().for_each(|(key, value)| set(&mut entry, key, value));
        self.entries.push(entry);
    }

    /// With all packages of `from` as they are.
    pub(crate) fn take_all(mut self, from: &Path) -> Self {
        for entry in entries(&from.join("Packages")) {
            self = self.take(from, &entry["PATH"]);
        }
        self
    }

    /// With all that `from` has in its index, and nothing else of it.
    pub(crate) fn take_index(mut self, from: &Path) -> Self {
        entries(&from.join("Packages")).into_iter().for_each(|entry| self.add(entry, []));
        self
    }

    /// Writes the index.
    pub(crate) fn publish(self) {
        let line = |(key, value): (&String, &String)| format!("{key}: {value}\n");
        let stanza = |stanza: &Stanza| stanza.iter().map(line).chain(["\n".to_owned()]).collect::<String>();
        let text: String = [&self.header].into_iter().chain(&self.entries).map(stanza).collect();
        let mut compressed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        compressed.write_all(text.as_bytes()).unwrap();
        fs::write(self.directory.join("Packages.gz"), compressed.finish().unwrap()).unwrap();
        fs::write(self.directory.join("Packages"), text).unwrap();
    }
}

fn set(stanza: &mut Stanza, key: &str, value: &str) {
    match value {
        "" => stanza.remove(key),
        value => stanza.insert(key.to_owned(), value.to_owned()),
    };
}

/// A PORTAGE_CONFIGROOT with these lines in binrepos.conf and, on top of what tests need, in make.conf.
pub(crate) fn configuration(binrepos_conf: &str, make_conf: &str) -> Option<TempDir> {
    let root = TempDir::with_prefix("binhostfs-it.").unwrap();
    let conf = test_environment()?.join("env/conf");
    assert!(Command::new("cp").arg("-aT").arg(conf).arg(root.path()).status().unwrap().success());
    let portage = root.path().join("etc/portage");
    fs::write(portage.join("binrepos.conf"), binrepos_conf).unwrap();
    let before = fs::read_to_string(portage.join("make.conf")).unwrap();
    fs::write(portage.join("make.conf"), before + make_conf).unwrap();
    Some(root)
}

/// A copy of the ebuild repository in `directory`, with version 1 of more packages in app-misc; its repos.conf.
pub(crate) fn repository(directory: &Path, ebuilds: &[(&str, &str)]) -> String {
    let repository = directory.join("repo");
    let original = test_environment().unwrap().join("env/repo");
    assert!(Command::new("cp").arg("-aT").arg(original).arg(&repository).status().unwrap().success());
    for (name, text) in ebuilds {
        let package = repository.join("app-misc").join(name);
        fs::create_dir(&package).unwrap();
        fs::write(package.join(format!("{name}-1.ebuild")), text).unwrap();
    }
    format!("[DEFAULT]\nmain-repo = bhtest\n[bhtest]\nlocation = {}\n", repository.display())
}
