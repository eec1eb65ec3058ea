//! Reads the [`PackageSettings`] from the profile, make.conf and the `package.*` files.
//!
//! The files are read only to explain why emerge does not take a package. The environment,
//! `package.env`, a repository's settings for its own packages, and `use.stable.*` are not read.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::files::Files;
use super::ini::{IniSection, is_space};
use super::lexer::Sourcing;
use super::make_conf::Variables;
use super::profile::{self, Repository, lines};
use super::{PortagePaths, make_confs, repos_conf};
use crate::portage::{Atom, IncrementalVariable, PackageSettings};

/// The most licenses that a license group may expand to.
const MAX_LICENSES: usize = 100_000;

/// Reads all settings for packages. `None`: there is no profile, or Portage could not read it
/// either.
#[must_use]
pub(crate) fn package_settings(places: &PortagePaths) -> Option<PackageSettings> {
    let (mut files, mut unused) = (Files::default(), Vec::new());
    let (fixed, _) = super::variables(places, &mut files, &mut unused).ok()?;
    let repositories = repositories(places, &mut files, &fixed);
    let profiles = profile::directories(places, &mut files, &repositories)?;
    let mut reader = SettingsReader { files, variables: Variables::default(), use_expand: BTreeSet::new() };
    fixed.iter().for_each(|(name, value)| reader.variables.set(name, value));
    reader.variables.read(&mut reader.files, &places.global.join("make.globals"), Sourcing::Off).ok()?;
    let mut settings = PackageSettings::default();
    let mut make_defaults = Vec::new();
    for directory in &profiles {
        let own = reader.read(&directory.join("make.defaults"), Sourcing::Off)?;
        reader.use_expand.extend(own.words("USE_EXPAND"));
        make_defaults.push(own);
    }
    let mut own = FileVariables::default();
    for path in make_confs(places, &mut unused) {
        own.0.extend(reader.read(&path, Sourcing::Allowed)?.0);
    }
    reader.use_expand.extend(own.words("USE_EXPAND"));
    for (directory, own) in profiles.iter().zip(&make_defaults) {
        settings.keywords.all.extend(own.words("ACCEPT_KEYWORDS"));
        settings.licenses.all.extend(own.words("ACCEPT_LICENSE"));
        let flags = reader.expanded(own, Clear::No).into_iter().chain(own.words("USE")).collect();
        let mut layer = |all, some| Some(IncrementalVariable { all, some: reader.packages(&directory.join(some))? });
        settings.flags.push(layer(flags, "package.use")?);
        settings.forced.push(layer(Vec::new(), "package.use.force")?);
        settings.masked.push(layer(Vec::new(), "package.use.mask")?);
        for (layers, name) in [(&mut settings.forced, "use.force"), (&mut settings.masked, "use.mask")] {
            let all = lines(&mut reader.files, &directory.join(name))?.into_iter().flatten().collect();
            layers.push(IncrementalVariable { all, some: Vec::new() });
        }
    }
    let portage = places.config_root.join("etc/portage");
    settings.keywords.all.extend(own.words("ACCEPT_KEYWORDS"));
    settings.licenses.all.extend(own.words("ACCEPT_LICENSE"));
    let flags = own.words("USE").into_iter().chain(reader.expanded(&own, Clear::Yes)).collect();
    settings.flags.push(IncrementalVariable { all: flags, some: reader.packages(&portage.join("package.use"))? });
    settings.keywords.some = reader.packages(&portage.join("package.accept_keywords"))?;
    settings.licenses.some = reader.packages(&portage.join("package.license"))?;
    let groups = Groups::read(&mut reader.files, &repositories, &portage)?;
    let licenses = settings.licenses.some.iter_mut().map(|(_, words)| words);
    licenses.chain([&mut settings.licenses.all]).for_each(|words| *words = groups.expanded(words));
    settings.chosts = reader.chosts();
    Some(settings)
}

/// The repositories of repos.conf with their locations.
pub(super) fn repositories(
    places: &PortagePaths,
    files: &mut Files,
    fixed: &[(&'static str, String)],
) -> Vec<Repository> {
    let sections = repos_conf::read(places, files, fixed).unwrap_or_default();
    let location = |section: &IniSection| Path::new(&section.get("location")?.text).canonicalize().ok();
    sections.into_iter().filter_map(|(name, section)| Some((name, location(&section)?))).collect()
}

/// The variables that one file sets.
#[derive(Default)]
struct FileVariables(HashMap<String, String>);

impl FileVariables {
    fn words(&self, name: &str) -> Vec<String> {
        let text = self.0.get(name).map_or("", String::as_str);
        text.split(is_space).filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }
}

/// Whether a variable of USE_EXPAND removes its earlier flags.
#[derive(Clone, Copy, PartialEq)]
enum Clear {
    Yes,
    No,
}

struct SettingsReader {
    files: Files,
    /// The variables after all files that were read so far.
    variables: Variables,
    use_expand: BTreeSet<String>,
}

impl SettingsReader {
    fn read(&mut self, path: &Path, sourcing: Sourcing) -> Option<FileVariables> {
        let before = self.variables.clone();
        self.variables.read(&mut self.files, path, sourcing).ok()?;
        let changed = self.variables.iter().filter(|(name, value)| {
            before.get(name).is_none_or(|other| other.location != value.location || other.text != value.text)
        });
        Some(FileVariables(changed.map(|(name, value)| (name.to_owned(), value.text.clone())).collect()))
    }

    /// The flags of the variables that USE_EXPAND lists: `PYTHON_TARGETS="a"` is
    /// `python_targets_a`.
    fn expanded(&self, own: &FileVariables, clear: Clear) -> Vec<String> {
        let mut flags = Vec::new();
        for name in self.use_expand.iter().filter(|name| own.0.contains_key(*name)) {
            flags.extend((clear == Clear::Yes).then(|| format!("-{}_*", name.to_lowercase())));
            flags.extend(own.words(name).iter().map(|word| prefixed(name, word)));
        }
        flags
    }

    /// The lines of a `package.*` file, the more particular atoms last. A line without an atom is
    /// skipped.
    fn packages(&mut self, path: &Path) -> Option<Vec<(Atom, Vec<String>)>> {
        let mut found: Vec<(Atom, Vec<String>)> = Vec::new();
        for line in lines(&mut self.files, path)? {
            let mut words = line.into_iter();
            let Some(atom) = words.next().and_then(|word| word.parse().ok()) else { continue };
            let mut prefix: Option<String> = None;
            let mut flags = Vec::new();
            for word in words {
                match (word.strip_suffix(':'), &prefix) {
                    (Some(name), _) => prefix = Some(name.to_owned()),
                    (None, Some(name)) => flags.push(prefixed(name, &word)),
                    (None, None) => flags.push(word),
                }
            }
            found.push((atom, flags));
        }
        found.sort_by_key(|(atom, _)| particularity(&atom.to_string()));
        Some(found)
    }

    fn chosts(&self) -> Vec<String> {
        let of = |name| {
            self.variables.get(name).map_or("", |value| &value.text).split(is_space).filter(|word| !word.is_empty())
        };
        let accepted: Vec<String> = of("ACCEPT_CHOSTS").map(str::to_owned).collect();
        if accepted.is_empty() { of("CHOST").map(str::to_owned).collect() } else { accepted }
    }
}

fn prefixed(name: &str, word: &str) -> String {
    let name = name.to_lowercase();
    word.strip_prefix('-').map_or_else(|| format!("{name}_{word}"), |word| format!("-{name}_{word}"))
}

/// A rough rank by particularity, after Portage's `best_match_to_list`.
fn particularity(atom: &str) -> u8 {
    match atom {
        _ if atom.starts_with(['=', '~']) && !atom.ends_with('*') => 5,
        _ if atom.starts_with('=') => 4,
        _ if atom.starts_with(['<', '>']) => 2,
        _ if atom.contains('*') => 0,
        _ if atom.contains(':') => 3,
        _ => 1,
    }
}

/// Groups of licenses, by name.
struct Groups(HashMap<String, Vec<String>>);

impl Groups {
    fn read(files: &mut Files, repositories: &[Repository], portage: &Path) -> Option<Self> {
        let mut groups: HashMap<String, Vec<String>> = HashMap::new();
        let places = repositories.iter().map(|(_, location)| location.join("profiles")).chain([portage.to_owned()]);
        for place in places {
            for line in lines(files, &place.join("license_groups"))? {
                let mut words = line.into_iter();
                groups.entry(words.next().unwrap_or_default()).or_default().extend(words);
            }
        }
        Some(Self(groups))
    }

    /// Replaces the groups in `words`, such as `@FREE`, by their licenses.
    fn expanded(&self, words: &[String]) -> Vec<String> {
        let mut out = Vec::new();
        for word in words {
            let (sign, name) = word.strip_prefix('-').map_or(("", word.as_str()), |name| ("-", name));
            match name.strip_prefix('@') {
                None => out.push(word.clone()),
                Some(group) => {
                    let mut licenses = BTreeSet::new();
                    self.add(group, &mut BTreeSet::new(), &mut licenses);
                    out.extend(licenses.into_iter().map(|license| format!("{sign}{license}")));
                }
            }
        }
        out
    }

    fn add<'a>(&'a self, group: &'a str, seen: &mut BTreeSet<&'a str>, out: &mut BTreeSet<&'a str>) {
        // Each group is entered once, so the number of groups bounds the depth.
        if !seen.insert(group) || out.len() > MAX_LICENSES || seen.len() > 1000 {
            return;
        }
        for word in self.0.get(group).into_iter().flatten() {
            match word.strip_prefix('@') {
                Some(inner) => self.add(inner, seen, out),
                None => drop(out.insert(word)),
            }
        }
    }
}
