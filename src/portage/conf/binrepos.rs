//! Reads the binhosts of Portage, from sections of binrepos.conf and URLs of PORTAGE_BINHOST, in
//! Portage's order.

use std::collections::BTreeSet;

use super::expand::MARK;
use super::files::Files;
use super::ini::{Ini, IniSection, is_space};
use super::make_conf::Variables;
use super::{Binrepo, Located, PortageError, PortagePaths};
use crate::portage::{Atom, AtomError};

/// Reads both sources; the most preferred binhost comes first.
pub(crate) fn read(
    places: &PortagePaths,
    files: &mut Files,
    fixed: &[(&'static str, String)],
    variables: &Variables,
    warnings: &mut Vec<String>,
) -> Result<Vec<Binrepo>, PortageError> {
    let defaults = || fixed.iter().map(|(name, value)| (*name, value.as_str())).chain([("frozen", "false")]);
    let mut ini = Ini::with_defaults(defaults());
    for path in [places.global.join("binrepos.conf"), places.binrepos_conf()] {
        for file in files.list(&path).map_err(|error| PortageError::read(&path, &error))? {
            let bytes = match files.read(&file) {
                Ok(bytes) => bytes.unwrap_or_default(),
                Err(error) => {
                    warnings.push(format!("{}: {error}; Portage goes on without it", file.display()));
                    continue;
                }
            };
            if let Err(error) = ini.read(&file, &String::from_utf8_lossy(&bytes)) {
                let PortageError { location, what } = error;
                warnings.push(format!("{location}: {what}; because of that Portage ignores binrepos.conf altogether"));
                return Ok(in_order(portage_binhost(variables, &mut BTreeSet::new(), warnings)));
            }
        }
    }
    let mut found = sections(&ini, warnings)?;
    let mut uris = found.iter().map(|binrepo| binrepo.uri.value.clone()).collect();
    found.extend(portage_binhost(variables, &mut uris, warnings));
    Ok(in_order(found))
}

impl Binrepo {
    /// The key that decides between equal priorities: the section, or for a URL of PORTAGE_BINHOST
    /// the MD5 of the URL, as in Portage.
    pub(crate) fn order(&self) -> String {
        self.section.clone().unwrap_or_else(|| md5(&self.uri.value))
    }
}

fn in_order(mut binrepos: Vec<Binrepo>) -> Vec<Binrepo> {
    binrepos.sort_by_cached_key(|binrepo| std::cmp::Reverse((binrepo.priority.value, binrepo.order())));
    binrepos
}

fn sections(ini: &Ini, warnings: &mut Vec<String>) -> Result<Vec<Binrepo>, PortageError> {
    let mut found = Vec::new();
    for (name, section) in ini.sections()? {
        let Some(uri) = said(&section, "sync-uri") else {
            warnings.push(format!("[{name}] of binrepos.conf has no sync-uri: Portage passes over it"));
            continue;
        };
        let uri = Located { value: uri.value.trim_end_matches('/').to_owned(), location: uri.location };
        let priority = priority(&section, warnings);
        let verify = said(&section, "verify-signature");
        if let Some(Located { value, location }) = verify.as_ref().filter(|said| is_meant_true(&said.value)) {
            warnings.push(format!(
                "{}: verify-signature = {value} is false for Portage, and so it is here: write true or false",
                location.clone().unwrap_or_default()
            ));
        }
        let verify_signature = verify.map(|said| Located { value: is_true(&said.value), location: said.location });
        let frozen = frozen(&section);
        let mut include = atoms(&section, "getbinpkg-include", warnings);
        let mut exclude = atoms(&section, "getbinpkg-exclude", warnings);
        let both = without_both(&mut include.value, &mut exclude.value);
        warnings.extend(
            both.iter().map(|atom| {
                format!("[{name}] of binrepos.conf both includes and excludes {atom}: Portage does neither")
            }),
        );
        found.push(Binrepo {
            section: Some(name),
            uri,
            unset: None,
            priority,
            verify_signature,
            frozen,
            include,
            exclude,
        });
    }
    Ok(found)
}

fn frozen(section: &IniSection) -> Located<bool> {
    let said = said(section, "frozen").unwrap_or(Located { value: String::new(), location: None });
    Located { value: is_true(&said.value), location: said.location }
}

fn priority(section: &IniSection, warnings: &mut Vec<String>) -> Located<i64> {
    let Some(Located { value, location }) = said(section, "priority") else {
        return Located { value: 0, location: None };
    };
    match integer(&value) {
        Some(value) => Located { value, location },
        None => {
            warnings.push(format!("{}: priority is no number: Portage takes 0", location.unwrap_or_default()));
            Located { value: 0, location: None }
        }
    }
}

/// The URLs of PORTAGE_BINHOST that binrepos.conf lacks. The first of them has the highest
/// priority.
fn portage_binhost(variables: &Variables, known: &mut BTreeSet<String>, warnings: &mut Vec<String>) -> Vec<Binrepo> {
    let Some(value) = variables.get("PORTAGE_BINHOST") else { return Vec::new() };
    let location = value.location.clone();
    let place = location.clone().unwrap_or_default();
    warnings.extend(value.is_broken().map(|doubt| format!("{place}: PORTAGE_BINHOST: {doubt}")));
    let addresses = value.marked.split(is_space).filter(|address| !address.is_empty()).rev();
    let addresses =
        addresses.map(|marked| (without_marked(marked), marked.contains(MARK).then(|| without_marks(marked))));
    let new = addresses.filter(|(address, _)| !address.is_empty() && known.insert(address.clone()));
    let binrepo = |((uri, unset), priority)| Binrepo {
        section: None,
        uri: Located { value: uri, location: location.clone() },
        unset,
        priority: Located { value: priority, location: location.clone() },
        verify_signature: None,
        frozen: Located { value: false, location: None },
        include: Located { value: Vec::new(), location: None },
        exclude: Located { value: Vec::new(), location: None },
    };
    new.zip(1..).map(binrepo).collect()
}

/// The text with unset variables as empty, as in Portage.
fn without_marked(marked: &str) -> String {
    let text: String = marked.split(MARK).step_by(2).collect();
    text.trim_end_matches('/').to_owned()
}

/// The text as the administrator wrote it.
fn without_marks(marked: &str) -> String {
    marked.replace(MARK, "")
}

fn said(section: &IniSection, key: &str) -> Option<Located<String>> {
    section.get(key).map(|entry| Located { value: entry.text.clone(), location: entry.location.clone() })
}

/// Removes the atoms that both lists have from both, and returns them.
pub(crate) fn without_both(include: &mut Vec<Atom>, exclude: &mut Vec<Atom>) -> Vec<Atom> {
    let both: Vec<Atom> = include.iter().filter(|atom| exclude.contains(atom)).cloned().collect();
    for atoms in [include, exclude] {
        atoms.retain(|atom| !both.contains(atom));
    }
    both
}

/// The atoms of a key of a section.
pub(crate) fn atoms(section: &IniSection, key: &str, warnings: &mut Vec<String>) -> Located<Vec<Atom>> {
    match said(section, key) {
        Some(said) => atoms_of(said, key, warnings),
        None => Located { value: Vec::new(), location: None },
    }
}

/// Parses those atoms that Portage accepts here. An atom without a category matches any category.
/// Warnings name `key`.
pub(crate) fn atoms_of(said: Located<String>, key: &str, warnings: &mut Vec<String>) -> Located<Vec<Atom>> {
    let Located { value, location } = said;
    let mut atoms = Vec::new();
    for word in value.split(is_space).filter(|word| !word.is_empty()) {
        match atom(word) {
            Ok(atom) => atoms.push(atom),
            Err(reason) => {
                let place = location.clone().unwrap_or_default();
                warnings.push(format!("{place}: {key}: {word} is passed over: {reason}"));
            }
        }
    }
    Located { value: atoms, location }
}

fn atom(word: &str) -> Result<Atom, String> {
    if word.starts_with(['=', '<', '>', '~', '!']) || word.contains('[') || word.contains("::") {
        return Err("Portage takes names, slots and wildcards only".to_owned());
    }
    let name = word.split(':').next().unwrap_or(word);
    let whole = if name.contains('/') { word.to_owned() } else { format!("*/{word}") };
    whole.parse().map_err(|error: AtomError| error.to_string())
}

fn is_true(text: &str) -> bool {
    matches!(text.to_lowercase().as_str(), "true" | "yes")
}

/// Whether a value that Portage takes for false may have been meant as true.
fn is_meant_true(text: &str) -> bool {
    let clear = ["true", "yes", "false", "no", "0", "off", "n", "f", "none", "never", ""];
    !clear.contains(&text.trim().to_lowercase().as_str())
}

/// Parses an integer as Python's `int` does: surrounding white space, a sign, single underscores
/// between digits.
fn integer(text: &str) -> Option<i64> {
    let text = text.trim_matches(is_space);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let groups = digits.split('_');
    if !groups.clone().all(|group| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit())) {
        return None;
    }
    let magnitude = groups.collect::<String>().parse().unwrap_or(i64::MAX);
    Some(if text.starts_with('-') { -magnitude } else { magnitude })
}

fn md5(text: &str) -> String {
    use md5::Digest as _;
    md5::Md5::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}
