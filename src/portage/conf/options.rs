//! Parses EMERGE_DEFAULT_OPTS into words, and finds options in them.
//!
//! Source: portage 3.0.83, `_emerge/main.py` (`emerge_main`, `insert_optional_args`, `parse_opts`).

use super::ini::is_space;

/// The words of emerge's default options.
#[derive(Debug, Default)]
pub(crate) struct Options(Vec<String>);

impl Options {
    /// Splits the text like Python's `shlex.split`. An unfinished quotation stops emerge, so there
    /// are no options then.
    pub(crate) fn of(text: &str) -> Self {
        Self(split(text).unwrap_or_default())
    }

    /// The value of each `--NAME`: the text after `=`, or the next word.
    fn each<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Option<&'a str>> {
        let following = self.0.iter().skip(1).map(Some).chain([None]);
        self.0.iter().zip(following).filter_map(move |(word, next)| {
            let rest = word.strip_prefix("--")?.strip_prefix(name)?;
            if rest.is_empty() { Some(next.map(String::as_str)) } else { Some(Some(rest.strip_prefix('=')?)) }
        })
    }

    /// All values of an option that takes one: `--NAME VALUE` or `--NAME=VALUE`.
    pub(crate) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.each(name).flatten()
    }

    /// The last value of an option whose default value is `y`. `None`: the option is absent.
    pub(crate) fn switch(&self, name: &str) -> Option<bool> {
        self.each(name).last().map(|value| value != Some("n"))
    }
}

fn split(text: &str) -> Option<Vec<String>> {
    let (mut words, mut word): (Vec<String>, Option<String>) = (Vec::new(), None);
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        match character {
            '\'' => loop {
                let place = word.get_or_insert_default();
                match rest.next()? {
                    '\'' => break,
                    other => place.push(other),
                }
            },
            '"' => loop {
                let place = word.get_or_insert_default();
                match rest.next()? {
                    '"' => break,
                    '\\' => match rest.next()? {
                        escaped @ ('"' | '\\') => place.push(escaped),
                        other => place.extend(['\\', other]),
                    },
                    other => place.push(other),
                }
            },
            '\\' => word.get_or_insert_default().push(rest.next()?),
            space if is_space(space) => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_as_a_shell_has_them() {
        for (text, words) in [
            ("a  b\n\tc", Some(vec!["a", "b", "c"])),
            ("--x='a b' \"c d\"e ''", Some(vec!["--x=a b", "c de", ""])),
            (r#"a\ b "q\"\\\n" 'it\s'"#, Some(vec!["a b", r#"q"\\n"#, r"it\s"])),
            ("'", None),
            ("\"a", None),
            ("a\\", None),
        ] {
            let words = words.map(|words| words.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(split(text), words, "{text}");
        }
    }

    #[test]
    fn options_and_their_values() {
        let options =
            Options::of("--jobs 4 --usepkg-exclude 'a b' --usepkg-exclude=c --usepkg-exclude-live --ask n --quiet");
        assert_eq!(options.values("usepkg-exclude").collect::<Vec<_>>(), ["a b", "c"]);
        assert_eq!(["ask", "quiet", "verbose"].map(|name| options.switch(name)), [Some(false), Some(true), None]);
        assert_eq!(Options::of("--ask=n --ask").switch("ask"), Some(true));
    }
}
