//! A table of a TOML file, with the location of each key and value. Only this file names the TOML
//! parser.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use crate::portage::{SourceLocation, Sourced, ValueSource};

/// A mistake in the file, with its location.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{location}: {what}")]
pub(crate) struct TomlError {
    pub location: SourceLocation,
    /// The mistake and its correction.
    pub what: String,
}

/// The most edits between a key and a known key for the first to count as a misspelling.
const MAX_DISTANCE: usize = 3;

/// Parses a file's text, and calls `read` with its top-level table.
pub(crate) fn parse<T>(
    file: &Path,
    text: &str,
    read: impl FnOnce(&TomlTable<'_, '_>) -> Result<T, TomlError>,
) -> Result<T, TomlError> {
    let document = Document { file, text };
    match DeTable::parse(text) {
        Ok(table) => read(&TomlTable { document: &document, name: String::new(), values: table.get_ref() }),
        Err(error) => Err(document.error(error.span().map_or(0, |span| span.start), error.message().to_owned())),
    }
}

struct Document<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Document<'_> {
    fn location(&self, at: usize) -> SourceLocation {
        let before = self.text.as_bytes().get(..at).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        SourceLocation { file: self.file.to_owned(), line: u32::try_from(line).ok() }
    }

    fn error(&self, at: usize, what: String) -> TomlError {
        TomlError { location: self.location(at), what }
    }
}

/// A table with its location in the file.
pub(crate) struct TomlTable<'a, 'i> {
    document: &'a Document<'a>,
    /// The name of the table with a dot at the end; empty for the file itself.
    name: String,
    values: &'a DeTable<'i>,
}

impl<'a, 'i> TomlTable<'a, 'i> {
    /// Fails for the first key that is not in `known`.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), TomlError> {
        let unknown = self.values.keys().filter(|key| !known.contains(&key.get_ref().as_ref()));
        let Some(key) = unknown.min_by_key(|key| key.span().start) else { return Ok(()) };
        let name = key.get_ref();
        let place =
            if self.name.is_empty() { String::new() } else { format!(" in [{}]", self.name.trim_end_matches('.')) };
        let what = match nearest(name, known) {
            Some(meant) => format!("there is no key {name:?}{place}; did you mean {meant:?}?"),
            None => format!("there is no key {name:?}{place}; those that are: {}", known.join(", ")),
        };
        Err(self.document.error(key.span().start, what))
    }

    /// Parses the value of `key`. `None`: the table does not have the key.
    pub(crate) fn get<T>(
        &self,
        key: &str,
        parse: impl Fn(&TomlValue<'_, 'i>) -> Result<T, String>,
    ) -> Result<Option<Sourced<T>>, TomlError> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        let at = value.span().start;
        match parse(&TomlValue(value.get_ref())) {
            Ok(value) => Ok(Some(Sourced { value, source: ValueSource::File(self.document.location(at)) })),
            Err(reason) => Err(self.document.error(at, format!("{}{key}: {reason}", self.name))),
        }
    }

    /// The table `key` with its location. `None`: there is none.
    pub(crate) fn table(&self, key: &str) -> Result<Option<(SourceLocation, TomlTable<'a, 'i>)>, TomlError> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        let location = self.document.location(value.span().start);
        let Some(values) = value.get_ref().as_table() else {
            let what = format!("{key} is a table: write [{key}], with its keys below");
            return Err(TomlError { location, what });
        };
        Ok(Some((location, TomlTable { document: self.document, name: format!("{key}."), values })))
    }

    /// The tables in the table `key`, with their names and locations.
    pub(crate) fn tables(&self, key: &str) -> Result<Vec<(String, SourceLocation, TomlTable<'a, 'i>)>, TomlError> {
        let Some(value) = self.values.get(key) else { return Ok(Vec::new()) };
        let Some(tables) = value.get_ref().as_table() else {
            let what = format!("{key} must have a name: write [{key}.NAME]");
            return Err(self.document.error(value.span().start, what));
        };
        let table = |(name, value): (&'a toml::Spanned<_>, &'a toml::Spanned<DeValue<'i>>)| {
            let name: &std::borrow::Cow<'_, str> = name.get_ref();
            let location = self.document.location(value.span().start);
            let Some(values) = value.get_ref().as_table() else {
                let what = format!("{key}.{name} is a value; a binhost is a table: [{key}.NAME], with its keys below");
                return Err(TomlError { location, what });
            };
            Ok((
                name.to_string(),
                location,
                TomlTable { document: self.document, name: format!("{key}.{name}."), values },
            ))
        };
        tables.iter().map(table).collect()
    }
}

pub(crate) struct TomlValue<'a, 'i>(&'a DeValue<'i>);

impl TomlValue<'_, '_> {
    pub(crate) fn text(&self) -> Result<&str, String> {
        self.0.as_str().ok_or_else(|| self.instead_of("a string in quotation marks"))
    }

    pub(crate) fn boolean(&self) -> Result<bool, String> {
        self.0.as_bool().ok_or_else(|| self.instead_of("true or false"))
    }

    pub(crate) fn integer(&self) -> Result<i64, String> {
        let integer = self.0.as_integer().ok_or_else(|| self.instead_of("a whole number"))?;
        i64::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| format!("{integer} is too large"))
    }

    /// Reads one string, or an array of strings.
    pub(crate) fn texts(&self) -> Result<Vec<&str>, String> {
        let all = || self.instead_of("a string, or an array of strings");
        match self.0 {
            DeValue::String(text) => Ok(vec![text.as_ref()]),
            DeValue::Array(items) => items.iter().map(|item| item.get_ref().as_str().ok_or_else(all)).collect(),
            _ => Err(all()),
        }
    }

    fn instead_of(&self, wanted: &str) -> String {
        format!(
            "it must be {wanted}, and is {}",
            match self.0.type_str() {
                "array" => "an array",
                "integer" => "an integer",
                "boolean" => "a boolean",
                "string" => "a string",
                "table" => "a table",
                "float" => "a float",
                other => other,
            }
        )
    }
}

/// The known name with the fewest edits to `key`, unless there are more than `MAX_DISTANCE` or half
/// of its characters.
pub(crate) fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |known: &&&str| strsim::osa_distance(key, known);
    known
        .iter()
        .min_by_key(distance)
        .copied()
        .filter(|near| strsim::osa_distance(key, near) <= MAX_DISTANCE.min(key.chars().count().max(2) / 2))
}
