//! Where a value comes from, for people who ask why.

use std::fmt;
use std::path::PathBuf;

/// A place in a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceLocation {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; `None`: the file as a whole.
    pub line: Option<u32>,
}

impl fmt::Display for SourceLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.file.display()),
            None => write!(f, "{}", self.file.display()),
        }
    }
}

/// A value of a file and where it stands. `None`: nowhere, it is a default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub origin: Option<SourceLocation>,
}

/// Who decided a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueSource {
    /// This option of the command line.
    CommandLine(&'static str),
    /// This variable of the environment.
    Environment(&'static str),
    /// This place in a file.
    File(SourceLocation),
    /// Nobody.
    Default,
}

impl fmt::Display for ValueSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine(option) => f.write_str(option),
            Self::Environment(variable) => write!(f, "{variable} in the environment"),
            Self::File(origin) => origin.fmt(f),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value and who decided it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced<T> {
    /// The value.
    pub value: T,
    /// Who decided.
    pub source: ValueSource,
}

impl<T> Sourced<T> {
    pub(crate) fn default(value: T) -> Self {
        Self { value, source: ValueSource::Default }
    }

    pub(crate) fn option(value: Option<T>, option: &'static str) -> Option<Self> {
        value.map(|value| Self { value, source: ValueSource::CommandLine(option) })
    }
}

impl<T> From<Located<T>> for Sourced<T> {
    fn from(said: Located<T>) -> Self {
        Self { value: said.value, source: said.origin.map_or(ValueSource::Default, ValueSource::File) }
    }
}

/// A value of the configuration as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its key in `/etc/binhostfs.toml`, or what it would be called there.
    pub key: String,
    /// The value, without credentials.
    pub value: String,
    /// Who decided.
    pub source: ValueSource,
}

/// What is found out on the way to a configuration.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Every value, in the order in which a person wants to read them.
    pub settings: Vec<Setting>,
    /// What an administrator should know, one thing each.
    pub warnings: Vec<String>,
}

impl Report {
    pub(crate) fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }

    /// Notes a value and who decided it, and hands the value on.
    pub(crate) fn note<T>(&mut self, key: impl Into<String>, sourced: Sourced<T>, shown: impl Fn(&T) -> String) -> T {
        let Sourced { value, source } = sourced;
        self.settings.push(Setting { key: key.into(), value: shown(&value), source });
        value
    }
}

/// The first that says something.
pub(crate) fn first<T, const N: usize>(said: [Option<Sourced<T>>; N], default: T) -> Sourced<T> {
    said.into_iter().flatten().next().unwrap_or_else(|| Sourced::default(default))
}
