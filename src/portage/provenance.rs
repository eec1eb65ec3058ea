//! The sources of configuration values, for reports to people.

use std::fmt;
use std::path::PathBuf;

/// A location in a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceLocation {
    pub file: PathBuf,
    /// The line number from 1; `None`: the file as a whole.
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

/// A value with its location. `None`: the value is a default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    pub value: T,
    /// The location of the value.
    pub location: Option<SourceLocation>,
}

/// The source that decided a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ValueSource {
    /// This option of the command line.
    CommandLine(&'static str),
    /// This variable of the environment.
    Environment(&'static str),
    /// This location in a file.
    File(SourceLocation),
    /// The default that is built in.
    Default,
}

impl fmt::Display for ValueSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine(option) => f.write_str(option),
            Self::Environment(variable) => write!(f, "{variable} in the environment"),
            Self::File(location) => location.fmt(f),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value with its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sourced<T> {
    pub value: T,
    /// The source that decided the value.
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
        Self { value: said.value, source: said.location.map_or(ValueSource::Default, ValueSource::File) }
    }
}

/// A configuration value as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The key in `/etc/binhostfs.toml`, or the name that it would have there.
    pub key: String,
    /// The value, without credentials.
    pub value: String,
    /// The source that decided the value.
    pub source: ValueSource,
}

/// The facts about a configuration that are collected while it is resolved.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    /// Every value, in the order in which people read them.
    pub settings: Vec<Setting>,
    /// Warnings for the administrator, one text for each fact.
    pub warnings: Vec<String>,
}

impl Report {
    pub(crate) fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }

    /// Records a value with its source, and returns the value.
    pub(crate) fn note<T>(&mut self, key: impl Into<String>, sourced: Sourced<T>, shown: impl Fn(&T) -> String) -> T {
        let Sourced { value, source } = sourced;
        self.settings.push(Setting { key: key.into(), value: shown(&value), source });
        value
    }
}
