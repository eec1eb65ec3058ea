//! Reads `/etc/binhostfs.toml`: the settings that Portage's files cannot express, and those that
//! should differ from them.
//!
//! Every mistake is an error with file, line and key. No value is guessed, and no key is ignored.
//! The keys are those of `options`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::options::{OPTIONS, Scope, Settings};
use super::toml_table::{self, TomlError, TomlTable};
use crate::portage::SourceLocation;
use crate::portage::conf::Files;

/// The key whose tables are binhosts.
const BINHOST: &str = "binhost";
/// The table of the object store.
const OBJECT_STORE: &str = "object-store";

/// The contents of the file.
#[derive(Debug, Default)]
pub(super) struct ConfigFile {
    pub(super) settings: Settings,
    pub(super) binhosts: BTreeMap<String, BinhostTable>,
    /// Where `[object-store]` is, if the file has it. Its keys are among `settings`.
    pub(super) object_store: Option<SourceLocation>,
}

/// A `[binhost.NAME]` table.
#[derive(Debug, Clone, Default)]
pub(super) struct BinhostTable {
    pub(super) location: SourceLocation,
    pub(super) settings: Arc<Settings>,
}

/// Reads and checks the file. `None`: the file does not exist.
pub(super) fn read(files: &mut Files, file: &Path) -> Result<Option<ConfigFile>, TomlError> {
    let error = |what| TomlError { location: SourceLocation { file: file.to_owned(), line: None }, what };
    let Some(bytes) = files.read(file).map_err(|reason| error(reason.to_string()))? else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|_| error("it is not UTF-8 text".to_owned()))?;
    toml_table::parse(file, &text, contents).map(Some)
}

fn contents(table: &TomlTable<'_, '_>) -> Result<ConfigFile, TomlError> {
    let binhosts = table.tables(BINHOST)?.into_iter();
    let mut settings = Settings::default();
    read_into(&mut settings, table, Scope::is_at_top, &[BINHOST, OBJECT_STORE])?;
    let object_store = table.table(OBJECT_STORE)?;
    if let Some((_, table)) = &object_store {
        read_into(&mut settings, table, Scope::is_of_store, &[])?;
    }
    let object_store = object_store.map(|(location, _)| location);
    Ok(ConfigFile { settings, binhosts: binhosts.map(binhost).collect::<Result<_, _>>()?, object_store })
}

fn binhost(
    (name, location, table): (String, SourceLocation, TomlTable<'_, '_>),
) -> Result<(String, BinhostTable), TomlError> {
    let mut settings = Settings::default();
    read_into(&mut settings, &table, Scope::is_of_binhost, &[])?;
    Ok((name, BinhostTable { location, settings: Arc::new(settings) }))
}

/// Reads the options that belong into a table. Fails for a key that is neither one of them nor one
/// of `others`.
fn read_into(
    settings: &mut Settings,
    table: &TomlTable<'_, '_>,
    belongs: fn(Scope) -> bool,
    others: &[&'static str],
) -> Result<(), TomlError> {
    let rows: Vec<_> = OPTIONS.iter().filter(|row| belongs(row.info.scope)).collect();
    let names: Vec<&str> = rows.iter().map(|row| row.info.key()).chain(others.iter().copied()).collect();
    table.only(&names)?;
    rows.into_iter().try_for_each(|row| row.set_toml(settings, table))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::ByteSize;

    fn parsed(text: &str) -> Result<ConfigFile, String> {
        toml_table::parse(Path::new("f"), text, contents).map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_belongs_where_its_scope_says() {
        let file = parsed("cache-size = \"1G\"\nquorum = 2\n[binhost.a]\nquorum = 3\nurl = \"http://h\"\n").unwrap();
        assert_eq!(file.settings.cache_size.unwrap().value, ByteSize(1 << 30));
        let table = &file.binhosts["a"];
        assert_eq!((file.settings.quorum.unwrap().value.get(), table.location.line), (2, Some(3)));
        assert_eq!(table.settings.quorum.as_ref().unwrap().value.get(), 3);
        assert!(table.settings.url.is_some() && file.settings.url.is_none());
        for (wrong, says) in [
            ("url = \"http://h\"", "f:1: there is no key \"url\"; those that are: "),
            ("config = \"/x\"", "f:1: there is no key \"config\""),
            ("[binhost.a]\ncache-size = 1", "f:2: there is no key \"cache-size\" in [binhost.a]"),
            ("[binhost.a]\nbinhost = 1", "f:2: there is no key \"binhost\" in [binhost.a]"),
        ] {
            let error = parsed(wrong).unwrap_err();
            assert!(error.starts_with(says), "{error}");
        }
        let all = parsed("x = 1").unwrap_err();
        assert!(all.ends_with(", binhost, object-store") && all.contains(" mountpoint, cache-dir, "), "{all}");
    }
}
