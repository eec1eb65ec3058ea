//! Reads make.globals and make.conf like Portage's `getconfig`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::expand::{self, Expanded, Unset};
use super::files::{Files, lines_normal};
use super::lexer::{Lexer, Sourcing, Token};
use super::{PortageError, SourceLocation};

/// The most files that one file may source. More than these are a sign of a file that sources
/// itself.
const MAX_SOURCED: usize = 100;

/// The value of a variable.
#[derive(Debug, Clone)]
pub(crate) struct Variable {
    pub(crate) text: String,
    /// The value with marked references instead of unset variables: see [`Unset::Marked`].
    pub(crate) marked: String,
    /// The location of the assignment. `None`: Portage sets the variable itself.
    pub(crate) location: Option<SourceLocation>,
    /// The unset variables that the value refers to.
    pub(crate) unset: Vec<String>,
    /// Whether a `$` has no name after it; the whole value is empty then.
    pub(crate) broken: bool,
}

impl Variable {
    /// Problems of the value that Portage ignores.
    pub(crate) fn doubts(&self) -> Vec<String> {
        let unset = self.unset.iter().map(|name| format!("{name} is not set, taken for empty"));
        unset.chain(self.is_broken()).collect()
    }

    pub(crate) fn is_broken(&self) -> Option<String> {
        let why = "a '$' has no proper name after it: Portage takes the whole value for empty";
        self.broken.then(|| why.to_owned())
    }
}

/// The variables that are set, by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Variables(HashMap<String, Variable>);

impl Variables {
    pub(crate) fn get(&self, name: &str) -> Option<&Variable> {
        self.0.get(name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Variable)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Sets a variable that Portage sets itself.
    pub(crate) fn set(&mut self, name: &str, text: &str) {
        self.0.insert(
            name.to_owned(),
            Variable {
                text: text.to_owned(),
                marked: text.to_owned(),
                location: None,
                unset: Vec::new(),
                broken: false,
            },
        );
    }

    fn expand(&self, text: &str) -> Expanded {
        expand::expand(text, Unset::Empty, |name| self.0.get(name).map(|value| value.text.as_str()))
    }

    fn expand_marked(&self, text: &str) -> String {
        expand::expand(text, Unset::Marked, |name| self.0.get(name).map(|value| value.marked.as_str())).text
    }

    /// Sets the variables of the file `path`, or of the files below the directory `path`. A path
    /// that does not exist sets none.
    pub(crate) fn read(&mut self, files: &mut Files, path: &Path, sourcing: Sourcing) -> Result<(), PortageError> {
        let list = files.list(path).map_err(|error| PortageError::read(path, &error))?;
        list.iter().try_for_each(|file| self.read_file(files, file, sourcing))
    }

    fn read_file(&mut self, files: &mut Files, path: &Path, sourcing: Sourcing) -> Result<(), PortageError> {
        let bytes = files.read(path).map_err(|error| PortageError::read(path, &error))?;
        let Some(bytes) = bytes else { return Ok(()) };
        let mut text = lines_normal(&String::from_utf8_lossy(&bytes));
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let mut words = Words { lexer: Lexer::new(path.to_owned(), &text, sourcing), files, sourced: 0 };
        while let Some(mut key) = words.next(self)? {
            if key == "export" {
                match words.next(self)? {
                    Some(next) => key = next,
                    None => break,
                }
            }
            match words.next(self)? {
                Some(equals) if equals == "=" => {}
                Some(other) => return Err(words.error(format_args!("{other:?} stands where '=' should, after {key}"))),
                None => return Err(words.error(format_args!("the file ends after {key}: there is no '='"))),
            }
            let Some(value) = words.next(self)? else {
                return Err(words.error(format_args!("the file ends where the value of {key} should be")));
            };
            if !is_name(&key) {
                return Err(words.error(format_args!("{key:?} cannot be the name of a variable")));
            }
            let value = words.value(self, &key, &value)?;
            self.0.insert(key, value);
        }
        Ok(())
    }
}

/// The words of a file and of the files that it sources.
struct Words<'a> {
    lexer: Lexer,
    files: &'a mut Files,
    sourced: usize,
}

impl Words<'_> {
    fn next(&mut self, variables: &Variables) -> Result<Option<String>, PortageError> {
        loop {
            match self.lexer.next().map_err(|error| self.error(error))? {
                Token::Word(word) => return Ok(Some(word)),
                Token::End => return Ok(None),
                Token::Source(name) => self.source(name.as_deref(), variables)?,
            }
        }
    }

    fn source(&mut self, name: Option<&str>, variables: &Variables) -> Result<(), PortageError> {
        let name = variables.expand(name.unwrap_or_default()).text;
        self.sourced += 1;
        if name.is_empty() {
            return Err(self.error("source: there is no file name after it"));
        }
        if self.sourced > MAX_SOURCED || self.lexer.depth() > MAX_SOURCED {
            return Err(self.error("source: too many files; does one source itself?"));
        }
        let unquoted = name.strip_prefix('"').map(|rest| rest.strip_suffix('"').unwrap_or(rest));
        let directory = self.lexer.place().0.parent().unwrap_or(Path::new("/"));
        let file: PathBuf = directory.join(unquoted.unwrap_or(&name));
        let bytes = self.files.read(&file).map_err(|error| self.error(format_args!("source {file:?}: {error}")))?;
        let Some(bytes) = bytes else {
            return Err(self.error(format_args!("source {file:?}: there is no such file")));
        };
        match String::from_utf8(bytes) {
            Ok(text) => self.lexer.push(file, &lines_normal(&text)),
            Err(_) => return Err(self.error(format_args!("source {file:?}: it is not UTF-8 text"))),
        }
        Ok(())
    }

    fn value(&self, variables: &Variables, key: &str, raw: &str) -> Result<Variable, PortageError> {
        let Expanded { text, unknown: unset, broken, too_long } = variables.expand(raw);
        if too_long {
            return Err(self.error(format_args!("the value of {key} grows beyond {} bytes", expand::MAX_VALUE)));
        }
        Ok(Variable { text, marked: variables.expand_marked(raw), location: Some(self.location()), unset, broken })
    }

    fn location(&self) -> SourceLocation {
        let (file, line) = self.lexer.place();
        SourceLocation { file: file.clone(), line: Some(line) }
    }

    fn error(&self, what: impl std::fmt::Display) -> PortageError {
        PortageError { location: self.location(), what: what.to_string() }
    }
}

fn is_name(key: &str) -> bool {
    !key.starts_with(char::is_numeric) && key.chars().all(|character| character.is_alphanumeric() || character == '_')
}
