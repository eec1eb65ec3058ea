//! Kinds of values: how the value of an option is parsed, shown and written.

use std::ffi::OsStr;
use std::fmt::Display;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::config::choices::Choice;
use crate::config::cpu::CpuNeed;
use crate::config::toml_table::TomlValue;
use crate::config::{BinhostUrl, MAX_PLAN_CHECK, MIN_MAX_INDEX, MIN_RATE_LIMIT, MIN_REFRESH, SocketGroup};
use crate::portage::Atom;
use crate::sys::MountNamespace;
use crate::units::{ByteSize, DailySpan, Interval};

/// The form of a value of the command line, for code that does not know its type.
#[derive(Debug, Clone, Copy)]
pub enum Input {
    Text,
    Path,
    /// One of these names, each with its meaning, which may be empty.
    Choice(fn() -> Vec<(&'static str, &'static str)>),
}

/// How a value is parsed, shown and written.
pub(super) struct Kind<T> {
    /// Parses one value of the command line.
    pub(super) text: fn(&OsStr) -> Result<T, String>,
    pub(super) toml: fn(&TomlValue<'_, '_>) -> Result<T, String>,
    /// For `check-config`. `None`: there is nothing to show.
    pub(super) show: fn(&T) -> Option<String>,
    /// As it would be given. Empty: that cannot be given.
    pub(super) write: fn(&T) -> String,
    /// Adds another value of the command line.
    pub(super) join: fn(&mut T, T),
    pub(super) input: Input,
}

pub(super) const PATH: Kind<PathBuf> = Kind {
    text: |text| Ok(absolute(text)),
    toml: |item| path(item.text()?),
    show: |path| Some(path.display().to_string()),
    write: |path| path.display().to_string(),
    join: replace,
    input: Input::Path,
};

pub(super) const OPTIONAL_PATH: Kind<Option<PathBuf>> = Kind {
    text: |text| Ok(Some(absolute(text))),
    toml: |item| path(item.text()?).map(Some),
    show: |path| path.as_ref().map(|path| path.display().to_string()),
    write: |path| path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
    join: replace,
    input: Input::Path,
};

pub(super) const NAMESPACE: Kind<MountNamespace> = Kind {
    text: |text| Ok(MountNamespace::new(Some(absolute(text)))),
    toml: |item| path(item.text()?).map(|path| MountNamespace::new(Some(path))),
    show: |_| None,
    write: |_| String::new(),
    join: replace,
    input: Input::Path,
};

pub(super) const PATHS: Kind<Vec<PathBuf>> = Kind {
    text: |text| Ok(vec![absolute(text)]),
    toml: |item| {
        let paths: Vec<PathBuf> = item.texts()?.into_iter().map(path).collect::<Result<_, _>>()?;
        if paths.is_empty() { Err("there must be one file at least".to_owned()) } else { Ok(paths) }
    },
    show: |paths| Some(spaced(paths.iter().map(|path| path.display()))),
    write: |paths| spaced(paths.iter().map(|path| path.display())),
    join: |paths, more| paths.extend(more),
    input: Input::Path,
};

/// Texts that are parsed later.
pub(super) const TEXTS: Kind<Vec<String>> = Kind {
    text: |text| Ok(vec![utf8(text)?.to_owned()]),
    toml: |item| Ok(item.texts()?.into_iter().map(str::to_owned).collect()),
    show: |texts| Some(spaced(texts)),
    write: |texts| spaced(texts),
    join: |texts, more| texts.extend(more),
    input: Input::Text,
};

pub(super) const URL: Kind<BinhostUrl> = Kind {
    text: parsed,
    toml: |item| one(item.text()?),
    show: |url| Some(url.to_string()),
    write: BinhostUrl::to_string,
    join: replace,
    input: Input::Text,
};

pub(super) const URLS: Kind<Vec<BinhostUrl>> = list();

/// URLs of other binhostfs.
pub(super) const PEERS: Kind<Vec<BinhostUrl>> = Kind {
    text: |text| Ok(vec![peer(utf8(text)?)?]),
    toml: |item| item.texts()?.into_iter().map(peer).collect(),
    ..URLS
};

/// URLs of the nodes of an object store.
pub(super) const ENDPOINTS: Kind<Vec<BinhostUrl>> = Kind {
    text: |text| Ok(vec![endpoint(utf8(text)?)?]),
    toml: |item| item.texts()?.into_iter().map(endpoint).collect(),
    ..URLS
};

const WORD: Kind<String> = Kind {
    text: |text| utf8(text).map(str::to_owned),
    toml: |item| item.text().map(str::to_owned),
    show: |text| Some(text.clone()).filter(|text| !text.is_empty()),
    write: String::clone,
    join: replace,
    input: Input::Text,
};

pub(super) const BUCKET: Kind<String> =
    Kind { text: |text| bucket(utf8(text)?), toml: |item| bucket(item.text()?), ..WORD };

/// Parts of a path, without slashes at its ends.
pub(super) const PREFIX: Kind<String> =
    Kind { text: |text| prefix(utf8(text)?), toml: |item| prefix(item.text()?), ..WORD };

pub(super) const REGION: Kind<String> =
    Kind { text: |text| region(utf8(text)?), toml: |item| region(item.text()?), ..WORD };

pub(super) const ATOMS: Kind<Vec<Atom>> = list();

pub(super) const SIZE: Kind<ByteSize> = Kind {
    text: parsed,
    toml: |item| match item.integer() {
        Ok(bytes) => u64::try_from(bytes).map(ByteSize).map_err(|_| "it is less than nothing".to_owned()),
        Err(_) => one(item.text().map_err(|_| "it must be bytes, or a size such as \"8G\"".to_owned())?),
    },
    show: |size| Some(size.to_string()),
    write: ByteSize::notation,
    join: replace,
    input: Input::Text,
};

/// The size of an index; a limit that every index exceeds is a mistake.
pub(super) const INDEX_LIMIT: Kind<ByteSize> =
    Kind { text: |text| plausible_index(parsed(text)?), toml: |item| plausible_index((SIZE.toml)(item)?), ..SIZE };

/// Bytes a second; 0: any.
pub(super) const RATE_LIMIT: Kind<ByteSize> = Kind {
    text: |text| rate(utf8(text)?),
    toml: |item| match item.integer() {
        Ok(_) => (SIZE.toml)(item).and_then(plausible_rate),
        Err(_) => rate(item.text().map_err(|_| "it must be bytes a second, e.g. \"2M\"".to_owned())?),
    },
    show: |rate| Some(if rate.0 == 0 { "any".to_owned() } else { format!("{rate}/s") }),
    ..SIZE
};

/// Spans of the day.
pub(super) const HOURS: Kind<Vec<DailySpan>> = list();

/// A limit; 0: there is none.
pub(super) const SIZE_LIMIT: Kind<ByteSize> =
    Kind { show: |size| Some(if size.0 == 0 { "any".to_owned() } else { size.to_string() }), ..SIZE };

pub(super) const COUNT: Kind<NonZeroUsize> = Kind {
    text: number,
    toml: |item| {
        let number = usize::try_from(item.integer()?).ok().and_then(NonZeroUsize::new);
        number.ok_or_else(|| "it must be 1 or more".to_owned())
    },
    show: |number| Some(number.to_string()),
    write: NonZeroUsize::to_string,
    join: replace,
    input: Input::Text,
};

/// A number of packages; 0: any.
pub(super) const PACKAGE_LIMIT: Kind<u32> = Kind {
    text: number,
    toml: |item| u32::try_from(item.integer()?).map_err(|_| "it must be a number of packages, or 0 for any".to_owned()),
    show: |number| Some(if *number == 0 { "any".to_owned() } else { number.to_string() }),
    write: u32::to_string,
    join: replace,
    input: Input::Text,
};

pub(super) const PRIORITY: Kind<i64> = Kind {
    text: number,
    toml: |item| item.integer(),
    show: |number| Some(number.to_string()),
    write: i64::to_string,
    join: replace,
    input: Input::Text,
};

const SPAN: Kind<Duration> = Kind {
    text: |text| parsed::<Interval>(text).map(|span| span.0),
    toml: |item| Ok(span(item)?.0),
    show: |span| Some(Interval(*span).to_string()),
    write: |span| Interval(*span).notation(),
    join: replace,
    input: Input::Text,
};

pub(super) const REFRESH: Kind<Duration> = Kind {
    text: |text| long_enough((SPAN.text)(text)?, "30m"),
    toml: |item| long_enough(span(item)?.0, "\"30m\""),
    ..SPAN
};

/// How long an open may wait; 0: not at all.
pub(super) const WAIT: Kind<Duration> = Kind {
    toml: |item| match span(item)? {
        (span, text) if span > MAX_PLAN_CHECK => Err(format!("{text} is longer than {MAX_PLAN_CHECK:?}; 0 is never")),
        (span, _) => Ok(span),
    },
    show: |span| Some(if span.is_zero() { "off".to_owned() } else { Interval(*span).to_string() }),
    ..SPAN
};

/// An age; 0: any.
pub(super) const AGE: Kind<Duration> =
    Kind { show: |span| Some(if span.is_zero() { "any".to_owned() } else { Interval(*span).to_string() }), ..SPAN };

/// The time after which something is removed; 0: never.
pub(super) const EXPIRY: Kind<Duration> =
    Kind { show: |span| Some(if span.is_zero() { "never".to_owned() } else { Interval(*span).to_string() }), ..SPAN };

pub(super) const GROUP: Kind<Option<SocketGroup>> = Kind {
    text: |text| parsed(text).map(Some),
    toml: |item| one(item.text()?).map(Some),
    show: |group| group.as_ref().map(SocketGroup::to_string),
    write: |group| group.as_ref().map(SocketGroup::to_string).unwrap_or_default(),
    join: replace,
    input: Input::Text,
};

pub(super) const ADDRESS: Kind<Option<SocketAddr>> = Kind {
    text: |text| {
        let example = "it is not an IP address with a port; give for example 127.0.0.1:9123 or [::1]:9123";
        utf8(text)?.parse().map(Some).map_err(|_| example.to_owned())
    },
    toml: |item| {
        let (text, example) = (item.text()?, "such as \"127.0.0.1:9123\" or \"[::1]:9123\"");
        text.parse().map(Some).map_err(|_| format!("{text:?} is not an address with a port, {example}"))
    },
    show: |address| address.as_ref().map(SocketAddr::to_string),
    write: |address| address.as_ref().map(SocketAddr::to_string).unwrap_or_default(),
    join: replace,
    input: Input::Text,
};

pub(super) const CPU: Kind<CpuNeed> = Kind {
    text: parsed,
    toml: |item| one(item.text()?),
    show: |_| None,
    write: |_| String::new(),
    join: replace,
    input: Input::Choice(|| CpuNeed::NAMES.iter().map(|name| (*name, "")).collect()),
};

/// Parses the address of `binhostfs serve`.
///
/// # Errors
/// It is no address with a port.
pub(crate) fn serve_address(text: &str) -> Result<SocketAddr, String> {
    let example = "it is not an IP address with a port; give for example 0.0.0.0:8081 or [::]:8081";
    text.parse().map_err(|_| example.to_owned())
}

/// One of the names of `T`, in quotation marks.
pub(super) const fn named<T: Choice>() -> Kind<T> {
    Kind {
        text: |text| chosen(utf8(text)?),
        toml: |item| chosen(item.text()?),
        show: |value| Some(value.name().to_owned()),
        write: |value| value.name().to_owned(),
        join: replace,
        input: Input::Choice(|| T::CHOICES.iter().map(|(name, help, _)| (*name, *help)).collect()),
    }
}

/// One of two values, named `true` and `false`.
pub(super) const fn boolean<T: Choice>() -> Kind<T> {
    Kind { toml: |item| chosen(item.boolean()?.name()), ..named() }
}

const fn list<T: FromStr<Err: ToString> + Display>() -> Kind<Vec<T>> {
    Kind {
        text: |text| Ok(vec![parsed(text)?]),
        toml: |item| item.texts()?.into_iter().map(one).collect(),
        show: |items| Some(spaced(items)),
        write: |items| spaced(items),
        join: |items, more| items.extend(more),
        input: Input::Text,
    }
}

fn replace<T>(old: &mut T, new: T) {
    *old = new;
}

fn spaced<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(" ")
}

fn utf8(text: &OsStr) -> Result<&str, String> {
    text.to_str().ok_or_else(|| "it is not UTF-8".to_owned())
}

fn one<T: FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn parsed<T: FromStr<Err: ToString>>(text: &OsStr) -> Result<T, String> {
    one(utf8(text)?)
}

fn peer(text: &str) -> Result<BinhostUrl, String> {
    let url: BinhostUrl = one(text)?;
    if url.is_file() { Err(format!("{text:?} is no peer: give for example http://hub.lan:8081")) } else { Ok(url) }
}

fn endpoint(text: &str) -> Result<BinhostUrl, String> {
    let url: BinhostUrl = one(text)?;
    match url.is_file() || url.has_login() {
        true => Err(format!(
            "{url} is no endpoint: give for example http://store.lan:3900, and the key of the store in a file (credentials)"
        )),
        false => Ok(url),
    }
}

fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}

fn bucket(text: &str) -> Result<String, String> {
    let fits = (3..=63).contains(&text.len()) && is_plain(text);
    fits.then(|| text.to_owned())
        .ok_or_else(|| format!("{text:?} is no bucket: it has 3 to 63 letters, digits, '-', '.' and '_'"))
}

fn prefix(text: &str) -> Result<String, String> {
    let is_part = |part: &str| !matches!(part, "" | "." | "..") && is_plain(part);
    let fits = text.len() <= 512 && text.split('/').all(is_part);
    fits.then(|| text.to_owned()).ok_or_else(|| {
        format!("{text:?} is no prefix: give for example \"binhostfs\", or \"a/b\" without slashes at the ends")
    })
}

fn region(text: &str) -> Result<String, String> {
    let fits = (1..=64).contains(&text.len()) && is_plain(text);
    fits.then(|| text.to_owned()).ok_or_else(|| format!("{text:?} is no region: give for example \"us-east-1\""))
}

fn number<T: FromStr>(text: &OsStr) -> Result<T, String> {
    utf8(text)?.parse().map_err(|_| "it is not such a number; give for example 2".to_owned())
}

fn chosen<T: Choice>(text: &str) -> Result<T, String> {
    let found = T::CHOICES.iter().find(|(name, ..)| *name == text);
    found.map(|(.., value)| *value).ok_or_else(|| {
        let names: Vec<String> = T::CHOICES.iter().map(|(name, ..)| format!("{name:?}")).collect();
        let names = match names.as_slice() {
            [others @ .., before, last] => {
                let others: String = others.iter().map(|name| format!("{name}, ")).collect();
                format!("{others}{before} and {last}")
            }
            few => few.concat(),
        };
        format!("{text:?} is none of {names}")
    })
}

/// The path of the command line, which is relative to the directory in which the program started.
fn absolute(path: &OsStr) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.into())
}

fn plausible_index(size: ByteSize) -> Result<ByteSize, String> {
    if size < MIN_MAX_INDEX {
        return Err(format!("no index is smaller than {size}: give for example 192M"));
    }
    Ok(size)
}

fn rate(text: &str) -> Result<ByteSize, String> {
    plausible_rate(one(text.trim().strip_suffix("/s").unwrap_or(text))?)
}

fn plausible_rate(rate: ByteSize) -> Result<ByteSize, String> {
    if (1..MIN_RATE_LIMIT.0).contains(&rate.0) {
        let least = MIN_RATE_LIMIT.notation();
        return Err(format!("{} bytes a second are less than {least}: give for example 2M, or 0 for any", rate.0));
    }
    Ok(rate)
}

fn path(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    path.is_absolute().then(|| path.to_owned()).ok_or_else(|| format!("{text:?} must begin with a slash"))
}

/// Parses `"30m"`, or a number of seconds. The text is for messages.
fn span(item: &TomlValue<'_, '_>) -> Result<(Duration, String), String> {
    let text = match item.integer() {
        Ok(seconds) => seconds.to_string(),
        Err(_) => item.text().map_err(|_| "it must be seconds, or a span such as \"30m\"".to_owned())?.to_owned(),
    };
    Ok((one::<Interval>(&text)?.0, text))
}

fn long_enough(span: Duration, example: &str) -> Result<Duration, String> {
    let (shown, least) = (Interval(span), Interval(MIN_REFRESH));
    if span < MIN_REFRESH {
        Err(format!("{shown} is shorter than {least}; give for example {example}"))
    } else {
        Ok(span)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;
    use crate::config::choices::{Passthrough, StoreIndex, Writes};
    use crate::config::toml_table;

    fn of_line<T>(kind: &Kind<T>, text: &str) -> Result<T, String> {
        (kind.text)(text.as_ref())
    }

    fn of_file<T>(kind: &Kind<T>, text: &str) -> Result<T, String> {
        let read = toml_table::parse(Path::new("f"), &format!("x = {text}"), |table| table.get("x", kind.toml));
        read.map(|read| read.unwrap().value).map_err(|error| error.what.trim_start_matches("x: ").to_owned())
    }

    #[track_caller]
    fn agree<T: PartialEq + Debug>(kind: &Kind<T>, line: &str, file: &str, shown: &str) {
        let value = of_line(kind, line).unwrap();
        assert_eq!(of_file(kind, file).as_ref(), Ok(&value));
        assert_eq!((kind.show)(&value).as_deref(), Some(shown));
        assert_eq!(of_line(kind, &(kind.write)(&value)), Ok(value));
    }

    #[test]
    fn the_line_and_the_file_mean_the_same() {
        agree(&SIZE, "8G", "\"8G\"", "8.0 GiB");
        agree(&SIZE, "0", "0", "0 B");
        agree(&SIZE_LIMIT, "0", "0", "any");
        agree(&PACKAGE_LIMIT, "0", "0", "any");
        agree(&INDEX_LIMIT, "192M", "\"192M\"", "192.0 MiB");
        agree(&RATE_LIMIT, "2M", "\"2M/s\"", "2.0 MiB/s");
        agree(&RATE_LIMIT, "0", "0", "any");
        agree(&HOURS, "22:00-6:00", "\"22:00-06:00\"", "22:00-06:00");
        agree(&COUNT, "3", "3", "3");
        agree(&PRIORITY, "-5", "-5", "-5");
        agree(&REFRESH, "1h", "3600", "60 min");
        agree(&WAIT, "0", "\"0\"", "off");
        agree(&AGE, "0", "0", "any");
        agree(&EXPIRY, "0", "0", "never");
        agree(&AGE, "14d", "\"14d\"", "14 days");
        agree(&PATH, "/a b", "\"/a b\"", "/a b");
        agree(&PATHS, "/a", "[\"/a\"]", "/a");
        agree(&ADDRESS, "[::1]:9", "\"[::1]:9\"", "[::1]:9");
        agree(&URL, "http://h/x", "\"http://h/x\"", "http://h/x");
        agree(&BUCKET, "bin.pkgs", "\"bin.pkgs\"", "bin.pkgs");
        agree(&PREFIX, "a/b", "\"a/b\"", "a/b");
        agree(&REGION, "eu-1", "\"eu-1\"", "eu-1");
        agree(&ENDPOINTS, "http://h:1/x", "[\"http://h:1/x\"]", "http://h:1/x");
        agree(&ATOMS, "app-misc/*", "\"app-misc/*\"", "app-misc/*");
        agree(&named::<Passthrough>(), "off", "\"off\"", "off");
        agree(&boolean::<Writes>(), "true", "true", "true");
        assert_eq!(of_line(&CPU, "x86-64-v2"), of_file(&CPU, "\"x86-64-v2\""));
        assert_eq!(of_line(&GROUP, "0").unwrap().unwrap().gid, 0);
    }

    #[test]
    fn a_bad_address_of_serve_gets_an_example() {
        assert_eq!(serve_address("[::]:8081").map(|address| address.port()), Ok(8081));
        for bad in ["8081", "0.0.0.0", "hub:8081", ":8081", ""] {
            assert!(serve_address(bad).unwrap_err().contains("give for example 0.0.0.0:8081"), "{bad}");
        }
    }

    #[test]
    fn both_refuse_with_a_reason() {
        for (error, says) in [
            (of_line(&REFRESH, "0").err(), "0 s is shorter than 1 s; give for example 30m"),
            (of_file(&REFRESH, "0").err(), "0 s is shorter than 1 s; give for example \"30m\""),
            (of_file(&WAIT, "\"1h\"").err(), "1h is longer than 600s; 0 is never"),
            (of_line(&COUNT, "0").err(), "it is not such a number; give for example 2"),
            (of_file(&COUNT, "0").err(), "it must be 1 or more"),
            (of_file(&PACKAGE_LIMIT, "-1").err(), "it must be a number of packages, or 0 for any"),
            (of_file(&SIZE, "-1").err(), "it is less than nothing"),
            (
                of_line(&RATE_LIMIT, "500").err(),
                "500 bytes a second are less than 4K: give for example 2M, or 0 for any",
            ),
            (
                of_file(&RATE_LIMIT, "4095").err(),
                "4095 bytes a second are less than 4K: give for example 2M, or 0 for any",
            ),
            (of_line(&INDEX_LIMIT, "0").err(), "no index is smaller than 0 B: give for example 192M"),
            (of_file(&INDEX_LIMIT, "1023").err(), "no index is smaller than 1023 B: give for example 192M"),
            (of_file(&RATE_LIMIT, "true").err(), "it must be bytes a second, e.g. \"2M\""),
            (of_file(&RATE_LIMIT, "-1").err(), "it is less than nothing"),
            (
                of_line(&HOURS, "8-23").err(),
                "\"8-23\" is not a span of the day: give two times of the 24-hour clock that differ, e.g. 08:00-23:00",
            ),
            (of_file(&PATH, "\"x\"").err(), "\"x\" must begin with a slash"),
            (of_file(&PATHS, "[]").err(), "there must be one file at least"),
            (of_file(&boolean::<Writes>(), "\"true\"").err(), "it must be true or false, and is a string"),
            (of_file(&named::<Passthrough>(), "\"on\"").err(), "\"on\" is none of \"auto\" and \"off\""),
            (of_file(&named::<StoreIndex>(), "\"yes\"").err(), "\"yes\" is none of \"auto\", \"plain\" and \"small\""),
        ] {
            assert_eq!(error.as_deref(), Some(says));
        }
        for bucket in ["ab", "a/b", "a b", &"a".repeat(64)] {
            assert!(of_line(&BUCKET, bucket).unwrap_err().contains("is no bucket"), "{bucket}");
        }
        for prefix in ["", "/a", "a/", "a//b", "../a", "a?b", &"a".repeat(513)] {
            assert!(of_line(&PREFIX, prefix).unwrap_err().contains("is no prefix"), "{prefix}");
        }
        assert!(of_line(&REGION, "a\nb").unwrap_err().contains("is no region"));
        for url in ["file:///srv", "http://joe:secret@h"] {
            let error = of_line(&ENDPOINTS, url).unwrap_err();
            assert!(error.contains("is no endpoint") && !error.contains("secret"), "{error}");
        }
        assert!(of_line(&ADDRESS, "localhost").is_err() && of_file(&ADDRESS, "\"9123\"").is_err());
        assert_eq!((SIZE.text)(OsStr::from_bytes(b"\xff")), Err("it is not UTF-8".to_owned()));
    }

    #[test]
    fn paths_of_the_line_are_relative_to_where_the_program_started() {
        let here = std::path::absolute("x").unwrap();
        assert_eq!((of_line(&PATH, "x"), of_line(&PATHS, "x")), (Ok(here.clone()), Ok(vec![here])));
        let bytes = OsStr::from_bytes(b"/\xff");
        assert_eq!((PATH.text)(bytes), Ok(PathBuf::from(bytes)));
        let mut both = of_line(&PATHS, "/a").unwrap();
        (PATHS.join)(&mut both, of_line(&PATHS, "/b").unwrap());
        assert_eq!(both, [Path::new("/a"), Path::new("/b")]);
    }
}
