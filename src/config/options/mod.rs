//! The options: of the command line, of binhostfs.toml, of a binhost, each defined in one row of
//! one table.
//!
//! | file | job |
//! |---|---|
//! | `table` | the table |
//! | `kind` | how values are parsed, shown and written |
//! | `define` | the macro that makes types of the table |
//!
//! A row defines the flag and its help (`cli`), the key in binhostfs.toml, the line of
//! `check-config`, and whether a change takes effect without a restart. The reference in docs/ and
//! the man page (`examples/docs`) are made from it, too. [`MountOptions`] has the values of the
//! mount's options.

mod define;
mod kind;
mod table;

use std::ffi::OsStr;

pub use kind::Input;
pub(crate) use kind::serve_address;
pub use table::OPTIONS;
pub(super) use table::Typed;
pub(crate) use table::{MountOptions, Settings};

use super::toml_table::{TomlError, TomlTable};
use crate::portage::{Report, Sourced};
use kind::Kind;

/// How an option is given on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// Not at all.
    None,
    /// As an argument without a name, which has this name in the help.
    Positional(&'static str),
    /// With one value, which has this name in the help.
    Value(&'static str),
    /// With a value each time that it is given.
    Repeated(&'static str),
    /// Without a value: it is given or not.
    Switch,
}

/// Where binhostfs.toml has an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// At the top, for the mount.
    Mount,
    /// At the top for all binhosts, and in the table of one.
    Binhosts,
    /// At the top for the entries of all binhosts, and in the table of one for its own; an entry
    /// has to satisfy both.
    EachAndAll,
    /// In the table of a binhost only.
    OneBinhost,
    /// In the table `[object-store]`.
    ObjectStore,
    /// Not at all.
    CommandLine,
}

impl Scope {
    /// Whether the file has the option outside the tables of binhosts.
    #[must_use]
    pub fn is_at_top(self) -> bool {
        matches!(self, Self::Mount | Self::Binhosts | Self::EachAndAll)
    }

    /// Whether the table of a binhost has the option.
    #[must_use]
    pub fn is_of_binhost(self) -> bool {
        matches!(self, Self::Binhosts | Self::EachAndAll | Self::OneBinhost)
    }

    /// Whether the table of the object store has the option.
    #[must_use]
    pub fn is_of_store(self) -> bool {
        self == Self::ObjectStore
    }
}

/// When a change of the file takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakesEffect {
    Live,
    AfterRestart,
}

/// The part of the help that an option is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    Mount,
    Binhosts,
    Verification,
    Cache,
    Fetching,
    Access,
    Files,
}

impl Topic {
    /// The heading of the options.
    #[must_use]
    pub fn heading(self) -> &'static str {
        match self {
            Self::Mount => "The mount",
            Self::Binhosts => "Binhosts and packages",
            Self::Verification => "Verification",
            Self::Cache => "The cache",
            Self::Fetching => "Fetching",
            Self::Access => "Control and monitoring",
            Self::Files => "Configuration files",
        }
    }
}

/// The default, as documents and help print it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultText {
    /// The value itself.
    Value,
    /// A description of it.
    Words(&'static str),
    /// The option has no default.
    None,
}

/// All facts about an option that do not depend on its type.
#[derive(Debug, Clone, Copy)]
pub struct OptionInfo {
    /// The key in the file, with the table in front of it as `TABLE.KEY`, and the name of the flag.
    pub name: &'static str,
    pub scope: Scope,
    pub topic: Topic,
    pub flag: Flag,
    pub takes_effect: TakesEffect,
    pub default: DefaultText,
    /// The effect: a sentence in the imperative, without its end.
    pub help: &'static str,
    /// More sentences, or nothing.
    pub details: &'static str,
    /// A value as the file has it. Empty where the file does not have the option.
    pub example: &'static str,
}

impl OptionInfo {
    /// An option of which the row says nothing more.
    const fn named(name: &'static str) -> Self {
        Self {
            name,
            scope: Scope::Mount,
            topic: Topic::Mount,
            flag: Flag::None,
            takes_effect: TakesEffect::Live,
            default: DefaultText::Value,
            help: "",
            details: "",
            example: "",
        }
    }

    /// The key inside of its table.
    #[must_use]
    pub fn key(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }
}

/// A row of the table.
pub struct OptionRow {
    pub info: OptionInfo,
    /// The values of the flag.
    pub input: Input,
    /// The flag as it is given, for messages.
    said: &'static str,
    default: fn() -> Option<String>,
    set_text: fn(&mut Settings, &OsStr, &'static str) -> Result<(), String>,
    set_toml: fn(&mut Settings, &TomlTable<'_, '_>, &str) -> Result<(), TomlError>,
    differs: fn(&MountOptions, &MountOptions) -> bool,
}

impl OptionRow {
    /// The default, for people.
    #[must_use]
    pub fn default_text(&self) -> Option<String> {
        match self.info.default {
            DefaultText::Value => (self.default)(),
            DefaultText::Words(words) => Some(words.to_owned()),
            DefaultText::None => None,
        }
    }

    /// Adds a value of the command line.
    /// # Errors
    /// What is wrong with the value.
    pub(crate) fn set_text(&self, settings: &mut Settings, value: &OsStr) -> Result<(), String> {
        let said = match self.info.flag {
            Flag::Positional(name) => name,
            _ => self.said,
        };
        (self.set_text)(settings, value, said)
    }

    /// Takes the value of a table of binhostfs.toml, if it has the option.
    pub(super) fn set_toml(&self, settings: &mut Settings, table: &TomlTable<'_, '_>) -> Result<(), TomlError> {
        (self.set_toml)(settings, table, self.info.key())
    }

    /// Whether the option differs between two configurations of one mount.
    pub(super) fn differs(&self, one: &MountOptions, other: &MountOptions) -> bool {
        (self.differs)(one, other)
    }
}

/// An option with its type.
pub(super) struct TypedOption<T> {
    name: &'static str,
    kind: Kind<T>,
    default: fn() -> T,
    get: fn(&Settings) -> Option<&Sourced<T>>,
}

impl<T: Clone> TypedOption<T> {
    /// The value of the first source that has one, else the default.
    pub(super) fn first(&self, sources: &[&Settings]) -> Sourced<T> {
        self.first_or(sources, self.default)
    }

    /// The same with a default that depends on other options.
    pub(super) fn first_or(&self, sources: &[&Settings], default: impl FnOnce() -> T) -> Sourced<T> {
        let given = sources.iter().find_map(|source| (self.get)(source));
        given.cloned().unwrap_or_else(|| Sourced::default(default()))
    }

    /// Notes a value in the report, at `prefix` and the name of the option, and returns it.
    pub(super) fn note(&self, value: Sourced<T>, prefix: &str, report: &mut Report) -> T {
        match (self.kind.show)(&value.value) {
            Some(shown) => report.note(format!("{prefix}{}", self.name), value, |_| shown.clone()),
            None => value.value,
        }
    }

    /// Notes and returns the value of the first source that has one.
    pub(super) fn given(&self, sources: &[&Settings], prefix: &str, report: &mut Report) -> Option<T> {
        let given = sources.iter().find_map(|source| (self.get)(source))?;
        Some(self.note(given.clone(), prefix, report))
    }

    pub(super) fn resolve(&self, sources: &[&Settings], prefix: &str, report: &mut Report) -> T {
        self.note(self.first(sources), prefix, report)
    }
}

/// Adds a value of the command line to what the line has already said of the option.
fn put<T>(kind: &Kind<T>, field: &mut Option<Sourced<T>>, text: &OsStr, said: &'static str) -> Result<(), String> {
    let value = (kind.text)(text)?;
    match field {
        Some(given) => (kind.join)(&mut given.value, value),
        None => *field = Sourced::option(Some(value), said),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::portage::ValueSource;
    use crate::units::ByteSize;

    fn given(options: &[(&str, &str)]) -> Settings {
        let mut settings = Settings::default();
        for (name, value) in options {
            let row = OPTIONS.iter().find(|row| row.info.name == *name).unwrap();
            row.set_text(&mut settings, value.as_ref()).unwrap();
        }
        settings
    }

    #[test]
    fn the_first_source_counts_and_is_noted() {
        let (line, file) = (given(&[("quorum", "3")]), given(&[("quorum", "2"), ("cache-size", "1G")]));
        let mut report = Report::default();
        assert_eq!(Typed::quorum().resolve(&[&line, &file], "binhost.a.", &mut report).get(), 3);
        assert_eq!(Typed::quorum().resolve(&[], "", &mut report).get(), 1);
        let noted: Vec<_> =
            report.settings.iter().map(|noted| (noted.key.as_str(), noted.source.to_string())).collect();
        assert_eq!(noted, [("binhost.a.quorum", "--quorum".to_owned()), ("quorum", "default".to_owned())]);

        let mut report = Report::default();
        let options = MountOptions::resolve(&[&line, &file], &mut report);
        assert_eq!((options.cache_size, options.listen), (ByteSize(1 << 30), None));
        let keys: Vec<&str> = report.settings.iter().map(|noted| noted.key.as_str()).collect();
        assert!(keys.contains(&"cache-size") && !keys.contains(&"listen") && !keys.contains(&"quorum"), "{keys:?}");
        assert_eq!(Typed::include().given(&[&line], "", &mut report), None);
    }

    #[test]
    fn an_option_that_is_given_again_is_added_or_replaced() {
        let settings = given(&[("keyring", "/a"), ("keyring", "/b"), ("mountpoint", "/m"), ("mountpoint", "/n")]);
        let keyring = settings.keyring.unwrap();
        assert_eq!((keyring.value.len(), keyring.source), (2, ValueSource::CommandLine("--keyring")));
        let mountpoint = settings.mountpoint.unwrap();
        assert_eq!((mountpoint.value, mountpoint.source), ("/n".into(), ValueSource::CommandLine("MOUNTPOINT")));
    }

    #[test]
    fn a_scope_says_where_the_file_has_an_option() {
        let places = |scope: Scope| (scope.is_at_top(), scope.is_of_binhost());
        let scopes = [Scope::Mount, Scope::Binhosts, Scope::EachAndAll, Scope::OneBinhost, Scope::CommandLine];
        assert_eq!(scopes.map(places), [(true, false), (true, true), (true, true), (false, true), (false, false)]);
        assert_eq!(places(Scope::ObjectStore), (false, false));
        assert!(Scope::ObjectStore.is_of_store() && !scopes.iter().any(|scope| scope.is_of_store()));
    }
}
