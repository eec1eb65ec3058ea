//! `${VARIABLE}` in values of make.conf, as Portage's `varexpand` does it, with its peculiarities.

use std::iter::Peekable;
use std::str::Chars;

/// The most bytes that a value may expand to. Beyond that, it is a value that doubles itself.
pub(crate) const MAX_VALUE: usize = 1 << 20;

/// An expanded value.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Expanded {
    pub(crate) text: String,
    /// Variables that are not set, which are taken for empty.
    pub(crate) unknown: Vec<String>,
    /// A `$` with no name after it, or a `{` without `}`: the whole value is empty.
    pub(crate) broken: bool,
    /// Longer than [`MAX_VALUE`].
    pub(crate) too_long: bool,
}

/// What stands for a variable that is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unset {
    /// Nothing, as for Portage.
    Empty,
    /// Its reference between two [`MARK`]s.
    Marked,
}

/// A character that is no text.
pub(crate) const MARK: char = '\u{ffff}';

/// `text` is a word of the lexer: quotes are gone, those that are left are part of the value.
pub(crate) fn expand<'a>(text: &str, unset: Unset, lookup: impl Fn(&str) -> Option<&'a str>) -> Expanded {
    let mut out = Expanded::default();
    let mut rest = text.chars().peekable();
    let (mut single, mut double) = (false, false);
    while let Some(character) = rest.next() {
        // Before it doubles once more.
        if out.text.len() > MAX_VALUE {
            return Expanded { too_long: true, ..Expanded::default() };
        }
        match character {
            '\'' => {
                // Taken for a quotation mark once more: after an apostrophe nothing is expanded.
                single ^= !double;
                out.text.push('\'');
            }
            '"' => {
                double ^= !single;
                out.text.push('"');
            }
            _ if single => out.text.push(character),
            '\n' => out.text.push(' '),
            '\\' => escape(&mut rest, &mut out.text),
            '$' => match name(&mut rest) {
                Some(name) if name.is_empty() => out.text.push('$'),
                Some(name) => match lookup(&name) {
                    Some(value) => out.text.push_str(value),
                    None => {
                        if unset == Unset::Marked {
                            out.text.extend([MARK, '$', '{'].into_iter().chain(name.chars()).chain(['}', MARK]));
                        }
                        out.unknown.push(name);
                    }
                },
                None => return Expanded { broken: true, ..Expanded::default() },
            },
            _ => out.text.push(character),
        }
    }
    out.too_long = out.text.len() > MAX_VALUE;
    out
}

/// What a backslash and the character after it become.
fn escape(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    match rest.next() {
        None => out.push('\\'),
        Some('$') => out.push('$'),
        Some('\\') => {
            out.push('\\');
            if let Some(next) = rest.next_if(|next| matches!(next, '\'' | '"' | '$')) {
                out.push(next);
            }
        }
        Some('\n') => {}
        Some(other) => out.extend(['\\', other]),
    }
}

/// The name after a `$`; empty at the end of the value, `None` where there should be one.
fn name(rest: &mut Peekable<Chars<'_>>) -> Option<String> {
    if rest.peek().is_none() {
        return Some(String::new());
    }
    let braced = rest.next_if_eq(&'{').is_some();
    let mut name = String::new();
    while let Some(character) = rest.next_if(|next| next.is_ascii_alphanumeric() || *next == '_') {
        name.push(character);
    }
    if braced {
        rest.next_if_eq(&'}')?;
    }
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> String {
        expand(text, Unset::Empty, |name| (name == "A").then_some("x")).text
    }

    #[test]
    fn as_portage_expands() {
        for (text, wanted) in [
            ("$A/${A}$A", "x/xx"),
            ("a${NONE}b", "ab"),
            (r"\$A \\ \\$A \n", r"$A \ \$A \n"),
            ("a\nb", "a b"),
            ("it's $A", "it's $A"),
            ("\"it's\" $A", "\"it's\" x"),
            ("cost$", "cost$"),
            ("cost$ ", ""),
            ("${A", ""),
            ("${}", ""),
            ("a${", ""),
        ] {
            assert_eq!(expanded(text), wanted, "{text}");
        }
        let doubling = "x".repeat(MAX_VALUE);
        assert!(expand("$A$A$A", Unset::Empty, |_| Some(&doubling)).too_long);
        assert_eq!(expand("a$NONE/b", Unset::Marked, |_| None).text, "a\u{ffff}${NONE}\u{ffff}/b");
    }
}
