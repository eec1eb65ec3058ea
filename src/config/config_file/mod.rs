//! Reads `/etc/binhostfs.toml`: the settings that Portage's files cannot express, and those that
//! should differ from them.
//!
//! Every mistake is an error with file, line and key. No value is guessed, and no key is ignored.

mod table;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::cpu::CpuNeed;
use super::{BinhostUrl, LibcGuard, Offline, OnMismatch, Passthrough, Prefetch, SocketGroup, Writes};
use crate::portage::conf::Files;
use crate::portage::{Atom, SourceLocation, Sourced};
use crate::units::{ByteSize, Interval};
use table::{TomlTable, TomlValue};

/// The keys of the file.
pub(super) const KEYS: [&str; 27] = [
    "mountpoint",
    "cache-dir",
    "cache-size",
    "min-free",
    "write-budget",
    "bulk-read-limit",
    "refresh",
    "control",
    "control-group",
    "listen",
    "passthrough",
    "prefetch",
    "read-only",
    "prefetch-budget",
    "plan-check",
    "generations",
    "verify-signature",
    "keyring",
    "include",
    "exclude",
    "libc-guard",
    "offline",
    "index-mismatch",
    "max-index-age",
    "cpu-level",
    "quorum",
    "binhost",
];
/// The keys of a `[binhost.NAME]` table.
pub(super) const BINHOST_KEYS: [&str; 13] = [
    "url",
    "mirrors",
    "priority",
    "verify-signature",
    "keyring",
    "quorum",
    "include",
    "exclude",
    "offline",
    "index-mismatch",
    "max-index-age",
    "cpu-level",
    "enabled",
];

/// A mistake in the file, with its location.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{location}: {what}")]
pub(crate) struct OwnError {
    pub location: SourceLocation,
    /// The mistake and its correction.
    pub what: String,
}

type FileSetting<T> = Option<Sourced<T>>;

/// The settings of the file.
#[derive(Debug, Default)]
pub(super) struct ConfigFile {
    pub(super) mountpoint: FileSetting<PathBuf>,
    pub(super) cache_dir: FileSetting<PathBuf>,
    pub(super) cache_size: FileSetting<ByteSize>,
    pub(super) min_free: FileSetting<ByteSize>,
    pub(super) write_budget: FileSetting<ByteSize>,
    pub(super) bulk_read_limit: FileSetting<u32>,
    pub(super) refresh: FileSetting<Duration>,
    pub(super) control: FileSetting<PathBuf>,
    pub(super) control_group: FileSetting<SocketGroup>,
    pub(super) listen: FileSetting<SocketAddr>,
    pub(super) passthrough: FileSetting<Passthrough>,
    pub(super) prefetch: FileSetting<Prefetch>,
    pub(super) writes: FileSetting<Writes>,
    pub(super) prefetch_budget: FileSetting<ByteSize>,
    pub(super) plan_check: FileSetting<Duration>,
    pub(super) generations: FileSetting<NonZeroUsize>,
    pub(super) libc_guard: FileSetting<LibcGuard>,
    pub(super) include: FileSetting<Vec<Atom>>,
    pub(super) exclude: FileSetting<Vec<Atom>>,
    /// The settings for every binhost without its own.
    pub(super) shared: BinhostOptions,
    pub(super) binhosts: BTreeMap<String, OwnBinhost>,
}

/// The settings that both the file and a `[binhost.NAME]` table can have.
#[derive(Debug, Clone, Default)]
pub(super) struct BinhostOptions {
    pub(super) verify_signature: FileSetting<bool>,
    pub(super) keyring: FileSetting<Vec<PathBuf>>,
    pub(super) quorum: FileSetting<NonZeroUsize>,
    pub(super) offline: FileSetting<Offline>,
    pub(super) on_mismatch: FileSetting<OnMismatch>,
    /// Zero means any age.
    pub(super) max_index_age: FileSetting<Duration>,
    pub(super) cpu: FileSetting<CpuNeed>,
}

/// The settings of a `[binhost.NAME]` table.
#[derive(Debug, Clone, Default)]
pub(super) struct OwnBinhost {
    pub(super) location: SourceLocation,
    pub(super) url: FileSetting<BinhostUrl>,
    pub(super) mirrors: FileSetting<Vec<BinhostUrl>>,
    pub(super) priority: FileSetting<i64>,
    pub(super) include: FileSetting<Vec<Atom>>,
    pub(super) exclude: FileSetting<Vec<Atom>>,
    pub(super) enabled: FileSetting<bool>,
    pub(super) shared: BinhostOptions,
}

/// Reads and checks the file. `None`: the file does not exist.
pub(super) fn read(files: &mut Files, file: &Path) -> Result<Option<ConfigFile>, OwnError> {
    let error = |what| OwnError { location: SourceLocation { file: file.to_owned(), line: None }, what };
    let Some(bytes) = files.read(file).map_err(|reason| error(reason.to_string()))? else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|_| error("it is not UTF-8 text".to_owned()))?;
    table::parse(file, &text, own).map(Some)
}

fn own(table: &TomlTable<'_, '_>) -> Result<ConfigFile, OwnError> {
    table.only(&KEYS)?;
    let binhosts =
        table.tables("binhost")?.into_iter().map(|(name, location, table)| Ok((name, binhost(location, &table)?)));
    Ok(ConfigFile {
        mountpoint: table.get("mountpoint", |item| path(item.text()?))?,
        cache_dir: table.get("cache-dir", |item| path(item.text()?))?,
        cache_size: table.get("cache-size", size)?,
        min_free: table.get("min-free", size)?,
        write_budget: table.get("write-budget", size)?,
        bulk_read_limit: table.get("bulk-read-limit", |item| {
            u32::try_from(item.integer()?).map_err(|_| "it must be a number of packages, or 0 for any".to_owned())
        })?,
        refresh: table.get("refresh", refresh)?,
        control: table.get("control", |item| path(item.text()?))?,
        control_group: table.get("control-group", |item| one(item.text()?))?,
        listen: table.get("listen", |item| listen(item.text()?))?,
        passthrough: table
            .get("passthrough", |item| choice(&item, [("auto", Passthrough::Auto), ("off", Passthrough::Off)]))?,
        writes: table
            .get("read-only", |item| item.boolean().map(|on| if on { Writes::Refused } else { Writes::Beneath }))?,
        prefetch: table.get("prefetch", |item| {
            choice(&item, [("plan", Prefetch::Plan), ("world", Prefetch::World), ("off", Prefetch::Off)])
        })?,
        prefetch_budget: table.get("prefetch-budget", size)?,
        plan_check: table.get("plan-check", plan_check)?,
        generations: table.get("generations", number)?,
        libc_guard: table
            .get("libc-guard", |item| item.boolean().map(|on| if on { LibcGuard::On } else { LibcGuard::Off }))?,
        include: table.get("include", parsed)?,
        exclude: table.get("exclude", parsed)?,
        shared: shared(table)?,
        binhosts: binhosts.collect::<Result<_, _>>()?,
    })
}

fn binhost(location: SourceLocation, table: &TomlTable<'_, '_>) -> Result<OwnBinhost, OwnError> {
    table.only(&BINHOST_KEYS)?;
    Ok(OwnBinhost {
        location,
        url: table.get("url", |item| one(item.text()?))?,
        mirrors: table.get("mirrors", parsed)?,
        priority: table.get("priority", |item| item.integer())?,
        include: table.get("include", parsed)?,
        exclude: table.get("exclude", parsed)?,
        enabled: table.get("enabled", |item| item.boolean())?,
        shared: shared(table)?,
    })
}

fn shared(table: &TomlTable<'_, '_>) -> Result<BinhostOptions, OwnError> {
    Ok(BinhostOptions {
        verify_signature: table.get("verify-signature", |item| item.boolean())?,
        keyring: table.get("keyring", keyring)?,
        quorum: table.get("quorum", number)?,
        offline: table.get("offline", |item| choice(&item, [("show", Offline::Show), ("hide", Offline::Hide)]))?,
        max_index_age: table.get("max-index-age", |item| Ok(span(&item)?.0))?,
        on_mismatch: table.get("index-mismatch", |item| choice(&item, OnMismatch::NAMES))?,
        cpu: table.get("cpu-level", |item| one(item.text()?))?,
    })
}

fn one<T: FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn parsed<T: FromStr<Err: ToString>>(item: TomlValue<'_, '_>) -> Result<Vec<T>, String> {
    item.texts()?.into_iter().map(one).collect()
}

fn choice<T: Copy, const N: usize>(item: &TomlValue<'_, '_>, choices: [(&str, T); N]) -> Result<T, String> {
    let text = item.text()?;
    let found = choices.iter().find(|(name, _)| *name == text);
    found
        .map(|(_, value)| *value)
        .ok_or_else(|| format!("{text:?} is none of {}", choices.map(|(name, _)| format!("{name:?}")).join(" and ")))
}

fn number(item: TomlValue<'_, '_>) -> Result<NonZeroUsize, String> {
    let number = usize::try_from(item.integer()?).ok().and_then(NonZeroUsize::new);
    number.ok_or_else(|| "it must be 1 or more".to_owned())
}

fn path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    path.is_absolute().then_some(path).ok_or_else(|| format!("{text:?} must begin with a slash"))
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not an address with a port, such as \"127.0.0.1:9123\" or \"[::1]:9123\""))
}

fn keyring(item: TomlValue<'_, '_>) -> Result<Vec<PathBuf>, String> {
    let paths: Vec<PathBuf> = item.texts()?.into_iter().map(path).collect::<Result<_, _>>()?;
    if paths.is_empty() { Err("there must be one file at least".to_owned()) } else { Ok(paths) }
}

/// Parses `"8G"`, or a number of bytes.
fn size(item: TomlValue<'_, '_>) -> Result<ByteSize, String> {
    match item.integer() {
        Ok(bytes) => u64::try_from(bytes).map(ByteSize).map_err(|_| "it is less than nothing".to_owned()),
        Err(_) => one(item.text().map_err(|_| "it must be bytes, or a size such as \"8G\"".to_owned())?),
    }
}

/// Parses `"30m"`, or a number of seconds.
fn span(item: &TomlValue<'_, '_>) -> Result<(Duration, String), String> {
    let text = match item.integer() {
        Ok(seconds) => seconds.to_string(),
        Err(_) => item.text().map_err(|_| "it must be seconds, or a span such as \"30m\"".to_owned())?.to_owned(),
    };
    Ok((one::<Interval>(&text)?.0, text))
}

fn refresh(item: TomlValue<'_, '_>) -> Result<Duration, String> {
    match span(&item)? {
        (span, _) if span < super::MIN_REFRESH => {
            let (span, least) = (Interval(span), Interval(super::MIN_REFRESH));
            Err(format!("{span} is shorter than {least}; give for example \"30m\""))
        }
        (span, _) => Ok(span),
    }
}

fn plan_check(item: TomlValue<'_, '_>) -> Result<Duration, String> {
    match span(&item)? {
        (span, text) if span > super::MAX_PLAN_CHECK => {
            Err(format!("{text} is longer than {:?}; 0 is never", super::MAX_PLAN_CHECK))
        }
        (span, _) => Ok(span),
    }
}

/// The name in `names` that `name` probably is a misspelling of.
pub(super) fn nearest<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    table::nearest(name, names)
}
