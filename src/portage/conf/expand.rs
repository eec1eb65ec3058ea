//! Expands `${VARIABLE}` in values of make.conf like Portage's `varexpand`, with its peculiarities.

use std::iter::Peekable;
use std::str::Chars;

/// The most bytes that a value may expand to. A longer value probably doubles itself.
pub(crate) const MAX_VALUE: usize = 1 << 20;

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Expanded {
    pub(crate) text: String,
    /// Variables that are not set and count as empty.
    pub(crate) unknown: Vec<String>,
    /// Whether a `$` has no name after it, or a `{` has no `}`. The whole value is empty then.
    pub(crate) broken: bool,
    /// Whether the value is longer than [`MAX_VALUE`].
    pub(crate) too_long: bool,
}

/// The replacement of a variable that is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unset {
    /// The empty string, as in Portage.
    Empty,
    /// The reference itself between two [`MARK`]s.
    Marked,
}

/// A code point that no text has (a noncharacter).
pub(crate) const MARK: char = '\u{ffff}';

/// Expands `text`, a word of the lexer. The lexer has removed quoting; remaining quotation marks
/// are part of the value.
pub(crate) fn expand<'a>(text: &str, unset: Unset, lookup: impl Fn(&str) -> Option<&'a str>) -> Expanded {
    let mut out = Expanded::default();
    let mut rest = text.chars().peekable();
    let (mut single, mut double) = (false, false);
    while let Some(character) = rest.next() {
        // Stop before the value doubles once more.
        if out.text.len() > MAX_VALUE {
            return Expanded { too_long: true, ..Expanded::default() };
        }
        match character {
            '\'' => {
                // Portage takes the character for a quotation mark again, so variables after an
                // apostrophe stay unexpanded.
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

/// Appends the result of a backslash and the character after it.
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

/// Reads the name after a `$`: empty at the end of the value, `None` where a name is missing.
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
