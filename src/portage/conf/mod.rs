//! What Portage reads: binhosts from binrepos.conf and PORTAGE_BINHOST, PKGDIR, compression and the keyring for packages from
//! make.conf, and which packages it installs from binaries.
//!
//! | what | where, later wins |
//! |---|---|
//! | binrepos.conf | `/usr/share/portage/config/binrepos.conf`, `/etc/portage/binrepos.conf` |
//! | repos.conf | `/usr/share/portage/config/repos.conf`, `/etc/portage/repos.conf` |
//! | variables | `/usr/share/portage/config/make.globals`, `/etc/make.conf`, `/etc/portage/make.conf` |
//!
//! Everything below `/etc` may be a directory of files, is read below the root that [`PortagePaths`] has, and is read as Portage
//! 3.0.83 reads it, its peculiarities included: whatever emerge makes of a configuration, binhostfs makes of it too. Where
//! emerge refuses, so does [`read`]. Nothing else has a say here: not the environment of whoever calls emerge (a daemon cannot
//! see it), not `make.defaults` of profiles ([`package_settings`] reads them), `/etc/profile.env` or `package.env`. A value that refers to a variable of theirs
//! comes with a warning.
//!
//! No file makes this hang, panic or use much memory: sizes, counts and depths are bounded.

mod binrepos;
mod expand;
mod files;
mod getbinpkg;
mod ini;
mod lexer;
mod make_conf;
mod options;
mod profile;
mod repos_conf;
mod settings;
mod usepkg;

use std::collections::BTreeSet;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::{Atom, Located, SourceLocation};
pub(crate) use files::Files;
pub use getbinpkg::GetBinpkg;
use lexer::Sourcing;
use make_conf::Variables;
pub use settings::package_settings;
pub use usepkg::UsePkg;

/// Where Portage installs its defaults.
pub const GLOBAL_CONFIG: &str = "/usr/share/portage/config";
/// PKGDIR where not even make.globals says one: what it says everywhere else.
pub const DEFAULT_PKGDIR: &str = "/var/cache/binpkgs";
/// Portage's keyring for packages unless `BINPKG_GPG_VERIFY_GPG_HOME` in make.conf says otherwise.
pub const DEFAULT_GNUPG: &str = "/etc/portage/gnupg";

/// BINPKG_COMPRESS where not even make.globals says it: what it says everywhere else.
pub const DEFAULT_COMPRESSION: &str = "zstd";

/// Where Portage's files are.
#[derive(Debug, Clone)]
pub struct PortagePaths {
    /// PORTAGE_CONFIGROOT: `etc/portage` is below it.
    pub config_root: PathBuf,
    /// Where `make.globals` and the first `binrepos.conf` are.
    pub global: PathBuf,
}

impl PortagePaths {
    /// Below `config_root`; defaults from there too, unless this system has some, which is where Portage looks.
    #[must_use]
    pub fn below(config_root: &Path) -> Self {
        let own = config_root.join(GLOBAL_CONFIG.trim_start_matches('/'));
        let global =
            if !Path::new(GLOBAL_CONFIG).exists() && own.exists() { own } else { PathBuf::from(GLOBAL_CONFIG) };
        Self { config_root: config_root.to_owned(), global }
    }

    /// `etc/portage/binrepos.conf`.
    #[must_use]
    pub fn binrepos_conf(&self) -> PathBuf {
        self.config_root.join("etc/portage/binrepos.conf")
    }

    /// `etc/portage/make.conf`.
    #[must_use]
    pub fn make_conf(&self) -> PathBuf {
        self.config_root.join("etc/portage/make.conf")
    }
}

/// What Portage cannot read, and emerge stops at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {what}; emerge cannot read it either")]
pub struct PortageError {
    /// Where.
    pub origin: SourceLocation,
    /// What is wrong.
    pub what: String,
}

impl PortageError {
    fn read(path: &Path, error: &io::Error) -> Self {
        Self { origin: SourceLocation { file: path.to_owned(), line: None }, what: error.to_string() }
    }
}

/// A binhost of Portage's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binrepo {
    /// Its section in binrepos.conf. `None`: it is one of PORTAGE_BINHOST.
    pub section: Option<String>,
    /// `sync-uri`, without slashes at the end.
    pub uri: Located<String>,
    /// The URI as it was written, where it refers to a variable that make.conf does not set: a profile may, and then it is another.
    pub unset: Option<String>,
    /// `priority`; of PORTAGE_BINHOST, the place in it, counted from the end.
    pub priority: Located<i64>,
    /// `verify-signature`. `None`: nobody says; for Portage that means no.
    pub verify_signature: Option<Located<bool>>,
    /// `frozen`: its index is not asked for where one is stored.
    pub frozen: Located<bool>,
    /// `getbinpkg-include`
    pub include: Located<Vec<Atom>>,
    /// `getbinpkg-exclude`
    pub exclude: Located<Vec<Atom>>,
}

/// What Portage's files say.
#[derive(Debug, Clone)]
pub struct Portage {
    /// In the order in which Portage prefers them.
    pub binrepos: Vec<Binrepo>,
    /// PKGDIR, normalised.
    pub pkgdir: Located<PathBuf>,
    /// `BINPKG_GPG_VERIFY_GPG_HOME`.
    pub gnupg: Located<PathBuf>,
    /// `BINPKG_COMPRESS`: how packages are compressed, and those decompressed whose names do not say it.
    pub compression: Located<String>,
    /// Where FEATURES has `binpkg-request-signature`: emerge then takes no package without a signature, of whatever binhost.
    pub request_signature: Option<SourceLocation>,
    /// CHOST of make.conf; usually a profile sets it, which is not read.
    pub chost: Option<String>,
    /// ACCEPT_CHOSTS of make.conf.
    pub accept_chosts: Option<String>,
    /// Where emerge is told to fetch packages of these binhosts itself.
    pub getbinpkg: Option<GetBinpkg>,
    /// Which packages emerge installs from binaries.
    pub usepkg: UsePkg,
    /// What an administrator should know, one thing each.
    pub warnings: Vec<String>,
}

/// [`Portage`], or why there is none.
#[derive(Debug)]
pub struct Reading {
    /// What the files say.
    pub result: Result<Portage, PortageError>,
    /// All files and directories that were looked at, also those that do not exist: a change of one may change the result.
    pub seen: BTreeSet<PathBuf>,
}

/// Reads Portage's configuration.
#[must_use]
pub fn read(places: &PortagePaths) -> Reading {
    let mut files = Files::default();
    let result = read_all(places, &mut files);
    Reading { result, seen: files.seen }
}

fn read_all(places: &PortagePaths, files: &mut Files) -> Result<Portage, PortageError> {
    let mut warnings = Vec::new();
    let (fixed, variables) = variables(places, files, &mut warnings)?;
    let binrepos = binrepos::read(places, files, &fixed, &variables, &mut warnings)?;
    let mut path = |name: &str, default: &str| {
        let value = variables.get(name);
        let doubts = value.into_iter().flat_map(|value| value.doubts().into_iter().map(move |doubt| (value, doubt)));
        warnings.extend(
            doubts.map(|(value, doubt)| format!("{}: {name}: {doubt}", value.origin.clone().unwrap_or_default())),
        );
        let text = value.map_or(default, |value| value.text.as_str());
        Located { value: PathBuf::from(normal(text)), origin: value.and_then(|value| value.origin.clone()) }
    };
    let pkgdir = path("PKGDIR", DEFAULT_PKGDIR);
    let gnupg = path("BINPKG_GPG_VERIFY_GPG_HOME", DEFAULT_GNUPG);
    let compression = variables.get("BINPKG_COMPRESS");
    let compression = Located {
        value: compression.map_or(DEFAULT_COMPRESSION, |value| value.text.as_str()).to_owned(),
        origin: compression.and_then(|value| value.origin.clone()),
    };
    let request_signature = feature(&variables, "binpkg-request-signature");
    let getbinpkg = getbinpkg::find(&variables).filter(|_| !binrepos.is_empty());
    let usepkg = usepkg::read(places, files, &fixed, &variables, &mut warnings);
    let text = |name: &str| variables.get(name).map(|value| value.text.clone());
    let (chost, accept_chosts) = (text("CHOST"), text("ACCEPT_CHOSTS"));
    Ok(Portage {
        binrepos,
        pkgdir,
        gnupg,
        compression,
        request_signature,
        chost,
        accept_chosts,
        getbinpkg,
        usepkg,
        warnings,
    })
}

/// Where FEATURES switches this on. It is a list in which later words count, and `-*` takes back all before it.
fn feature(variables: &Variables, name: &str) -> Option<SourceLocation> {
    let features = variables.get("FEATURES")?;
    let words = features.text.split(ini::is_space);
    let on = words.fold(false, |on, word| match word.strip_prefix('-') {
        Some(off) if off == name || off == "*" => false,
        _ => on || word == name,
    });
    on.then(|| features.origin.clone()).flatten()
}

/// Names and values that binrepos.conf can refer to.
type Fixed = [(&'static str, String); 4];

/// Variables that Portage sets itself, for binrepos.conf; and those of make.globals and make.conf.
fn variables(
    places: &PortagePaths,
    files: &mut Files,
    warnings: &mut Vec<String>,
) -> Result<(Fixed, Variables), PortageError> {
    let config_root = directory(&places.config_root.to_string_lossy());
    let make_confs = make_confs(places, warnings);
    // Portage reads them twice: first for ROOT, with no variable but their own.
    let mut first = Variables::default();
    make_confs.iter().try_for_each(|path| first.read(files, path, Sourcing::Allowed))?;
    let root = first.get("ROOT").map(|value| value.text.trim()).filter(|root| !root.is_empty());
    let root = directory(root.unwrap_or("/"));
    let fixed =
        [("EPREFIX", String::new()), ("EROOT", root.clone()), ("PORTAGE_CONFIGROOT", config_root), ("ROOT", root)];
    let mut variables = Variables::default();
    for (name, value) in &fixed {
        variables.set(name, value);
    }
    for (name, value) in [("BROOT", ""), ("ESYSROOT", "/"), ("SYSROOT", "/")] {
        variables.set(name, value);
    }
    variables.read(files, &places.global.join("make.globals"), Sourcing::Off)?;
    make_confs.iter().try_for_each(|path| variables.read(files, path, Sourcing::Allowed))?;
    Ok((fixed, variables))
}

/// `etc/make.conf` and `etc/portage/make.conf`; the first alone where both are one.
fn make_confs(places: &PortagePaths, warnings: &mut Vec<String>) -> Vec<PathBuf> {
    let (old, new) = (places.config_root.join("etc/make.conf"), places.make_conf());
    match (old.canonicalize(), new.canonicalize()) {
        (Ok(one), Ok(other)) if one == other => return vec![old],
        (Ok(_), Ok(_)) => {
            warnings.push(format!("both {} and {} are there; Portage uses both", old.display(), new.display()));
        }
        _ => {}
    }
    vec![old, new]
}

/// An absolute path without `.`, `..` and double slashes, and with a slash at the end.
fn directory(path: &str) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
    let normal = normal(&absolute.to_string_lossy());
    format!("{}/", normal.trim_end_matches('/'))
}

/// As Python's `normpath`: by the text alone.
fn normal(path: &str) -> String {
    let mut out = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if out.file_name().is_some() => {
                out.pop();
            }
            Component::ParentDir if out.has_root() => {}
            other => out.push(other),
        }
    }
    match out.as_os_str().is_empty() {
        true => ".".to_owned(),
        false => out.to_string_lossy().into_owned(),
    }
}

#[cfg(test)]
mod tests;
