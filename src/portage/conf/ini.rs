//! Reads binrepos.conf like Python's `ConfigParser`: sections and keys, `[DEFAULT]`, continuation
//! lines, `%(name)s`.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use super::files::lines_normal;
use super::{PortageError, SourceLocation};

/// The deepest chain of `%(name)s` references, as in Python.
const MAX_DEPTH: usize = 10;
/// The most bytes and references that one value may expand to.
const MAX_WORK: usize = 1 << 20;

/// A value with its location. `None`: Portage sets the value itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IniValue {
    pub(crate) text: String,
    pub(crate) location: Option<SourceLocation>,
}

/// Values by their keys in lower case.
pub(crate) type IniSection = BTreeMap<String, IniValue>;

/// The contents of the files that were read so far.
#[derive(Debug, Default)]
pub(crate) struct Ini {
    defaults: IniSection,
    sections: BTreeMap<String, IniSection>,
}

impl Ini {
    /// Makes a reader with default values for every section.
    pub(crate) fn with_defaults<'a>(defaults: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let entry =
            |(key, text): (&str, &str)| (key.to_lowercase(), IniValue { text: text.to_owned(), location: None });
        Self { defaults: defaults.into_iter().map(entry).collect(), sections: BTreeMap::new() }
    }

    /// Adds the contents of a file.
    ///
    /// # Errors
    /// The text is invalid for Python's parser. In that case Portage discards *everything* that it
    /// read.
    pub(crate) fn read(&mut self, file: &Path, text: &str) -> Result<(), PortageError> {
        IniReader { ini: self, file, section: None, key: None, indent: 0, seen: HashSet::new() }.read(text)
    }

    /// Returns every section by name, with inherited values, and with `%(name)s` replaced.
    ///
    /// # Errors
    /// A `%` is neither `%%` nor `%(name)s`, or a reference has no target or is circular: emerge
    /// ends with a traceback then.
    pub(crate) fn sections(&self) -> Result<BTreeMap<String, IniSection>, PortageError> {
        let resolve = |(name, own): (&String, &IniSection)| {
            let mut all = self.defaults.clone();
            all.extend(own.clone());
            let mut resolved = all.clone();
            for (key, entry) in &mut resolved {
                let mut value = Interpolation { section: &all, out: String::new(), work: 0 };
                value.add(&entry.text, 1).map_err(|what| PortageError {
                    location: entry.location.clone().unwrap_or_default(),
                    what: format!("{key} of [{name}]: {what}"),
                })?;
                entry.text = value.out;
            }
            Ok((name.clone(), resolved))
        };
        self.sections.iter().map(resolve).collect()
    }
}

struct IniReader<'a> {
    ini: &'a mut Ini,
    file: &'a Path,
    section: Option<String>,
    key: Option<String>,
    indent: usize,
    seen: HashSet<(String, Option<String>)>,
}

impl IniReader<'_> {
    fn read(mut self, text: &str) -> Result<(), PortageError> {
        for (number, line) in (1..).zip(lines_normal(text).lines()) {
            self.line(number, line).map_err(|what| PortageError {
                location: SourceLocation { file: self.file.to_owned(), line: Some(number) },
                what,
            })?;
        }
        for section in std::iter::once(&mut self.ini.defaults).chain(self.ini.sections.values_mut()) {
            for entry in section.values_mut() {
                entry.text.truncate(entry.text.trim_end_matches(is_space).len());
            }
        }
        Ok(())
    }

    fn line(&mut self, number: u32, line: &str) -> Result<(), String> {
        let text = line.trim_matches(is_space);
        if text.starts_with(['#', ';']) {
            return Ok(());
        }
        if text.is_empty() {
            self.go_on("");
            return Ok(());
        }
        let indent = line.chars().take_while(|character| is_space(*character)).count();
        if indent > self.indent && self.go_on(text) {
            return Ok(());
        }
        self.indent = indent;
        match header(text) {
            Some(name) => self.header(name),
            None => self.option(number, text),
        }
    }

    /// Appends a line to the previous value. `false`: there is no previous value.
    fn go_on(&mut self, text: &str) -> bool {
        let (Some(section), Some(key)) = (&self.section, &self.key) else { return false };
        let section = match section.as_str() {
            "DEFAULT" => Some(&mut self.ini.defaults),
            name => self.ini.sections.get_mut(name),
        };
        let Some(entry) = section.and_then(|section| section.get_mut(key)) else { return false };
        entry.text.push('\n');
        entry.text.push_str(text);
        true
    }

    fn header(&mut self, name: &str) -> Result<(), String> {
        if name != "DEFAULT" {
            self.ini.sections.entry(name.to_owned()).or_default();
            if !self.seen.insert((name.to_owned(), None)) {
                return Err(format!("the section [{name}] is there twice in one file"));
            }
        }
        (self.section, self.key) = (Some(name.to_owned()), None);
        Ok(())
    }

    fn option(&mut self, number: u32, text: &str) -> Result<(), String> {
        let Some(name) = &self.section else { return Err("a [section] must come first".to_owned()) };
        let Some((key, value)) = text.split_once(['=', ':']) else {
            return Err(format!("{text:?} is neither a [section] nor `key = value`"));
        };
        let key = key.trim_end_matches(is_space).to_lowercase();
        if key.is_empty() {
            return Err("there is no key before the '=' or ':'".to_owned());
        }
        if !self.seen.insert((name.clone(), Some(key.clone()))) {
            return Err(format!("{key} is there twice in [{name}] of one file"));
        }
        let location = Some(SourceLocation { file: self.file.to_owned(), line: Some(number) });
        let entry = IniValue { text: value.trim_matches(is_space).to_owned(), location };
        let section = match name.as_str() {
            "DEFAULT" => &mut self.ini.defaults,
            name => self.ini.sections.entry(name.to_owned()).or_default(),
        };
        section.insert(key.clone(), entry);
        self.key = Some(key);
        Ok(())
    }
}

/// The name in `[name]`; text after the last bracket is ignored.
fn header(text: &str) -> Option<&str> {
    let (name, _) = text.strip_prefix('[')?.rsplit_once(']')?;
    (!name.is_empty()).then_some(name)
}

struct Interpolation<'a> {
    section: &'a IniSection,
    out: String,
    work: usize,
}

impl Interpolation<'_> {
    fn add(&mut self, text: &str, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err("%(…)s leads in a circle, or too far".to_owned());
        }
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            self.out.push_str(before);
            self.work += 1;
            if self.work + self.out.len() > MAX_WORK {
                return Err("%(…)s makes it too long".to_owned());
            }
            if let Some(after) = after.strip_prefix('%') {
                self.out.push('%');
                rest = after;
                continue;
            }
            let reference = after.strip_prefix('(').and_then(|after| after.split_once(')'));
            let found = reference.and_then(|(name, after)| Some((name, after.strip_prefix('s')?)));
            let Some((name, after)) = found.filter(|(name, _)| !name.is_empty()) else {
                return Err(format!("'%{after}': write %% for a percent sign, or %(name)s"));
            };
            let entry = self.section.get(&name.to_lowercase()).ok_or_else(|| format!("%({name})s is not set"))?;
            match entry.text.contains('%') {
                true => self.add(&entry.text, depth + 1)?,
                false => self.out.push_str(&entry.text),
            }
            rest = after;
        }
        self.out.push_str(rest);
        Ok(())
    }
}

/// Whether Python takes the character for white space.
pub(crate) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\x1c'..='\x1f').contains(&character)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str, key: &str) -> Result<Option<String>, String> {
        let mut ini = Ini::with_defaults([("ROOT", "/r/")]);
        ini.read(Path::new("f"), text).map_err(|error| error.to_string())?;
        let sections = ini.sections().map_err(|error| error.to_string())?;
        Ok(sections.get("a").and_then(|section| section.get(key)).map(|entry| entry.text.clone()))
    }

    #[test]
    fn references_have_an_end() {
        assert_eq!(value("[a]\nx = %(root)s%%%(y)s\nY: 1", "x"), Ok(Some("/r/%1".into())));
        for bad in ["%(x)s", "%(none)s", "%", "5%", "%(x", "%()s", "%(y)s"] {
            assert!(value(&format!("[a]\nx = {bad}\ny = %(x)s"), "x").is_err(), "{bad}");
        }
        let mut bomb = "[a]\nk0 =\n".to_owned();
        (1..9).for_each(|n| bomb.push_str(&format!("k{n} = {}\n", format!("%(k{})s", n - 1).repeat(1000))));
        assert!(value(&bomb, "k8").unwrap_err().contains("too long"));
    }

    #[test]
    fn what_is_refused_is_named_by_line() {
        for (text, line) in [("x = 1", 1), ("[a]\n[a]", 2), ("[a]\nx=1\n\nX=2", 4), ("[a]\nx", 2), ("[a]\n=1", 2)] {
            assert!(value(text, "x").unwrap_err().starts_with(&format!("f:{line}: ")), "{text}");
        }
    }
}
