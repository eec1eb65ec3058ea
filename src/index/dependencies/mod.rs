//! Removes the USE conditionals from a dependency string, as Portage does before it writes an
//! index.
//!
//! Source: portage 3.0.31 to 3.0.83, `use_reduce` and `paren_enclose` of `dep/__init__.py`, for any
//! EAPI. Portage's parser in C has the same results.
//!
//! * `flag? ( … )` is replaced by its content or by nothing; `[flag?,other=]` of an atom by its
//!   meaning.
//! * Brackets without a meaning are removed, also `|| ( )` around one alternative and within
//!   another `|| ( )`.
//! * `|| ( )` that loses all its alternatives becomes [`EMPTY_ANY_OF`], which no package satisfies.
//!
//! One kind of needless brackets stays: Portage turns `|| ( ( a || ( ( b c ) ) ) d )` into
//! `|| ( ( a ( b c ) ) d )`. Whether Portage keeps such brackets can depend on the preceding item,
//! and differs between its versions. Up to 3.0.77, atoms are strings in Portage, as the words of a
//! LICENSE still are. [`Dependencies::simplest`] has the same text for all versions.
//!
//! Not its job: whether an atom is valid. No index that Portage wrote has a text that Portage
//! cannot reduce.

mod parse;
mod use_dependency;

use std::borrow::Cow;

use crate::portage::words::words;

/// The deepest nesting of brackets. Packages have less than ten levels.
pub(crate) const MAX_DEPTH: usize = 100;
/// The most words of a text. Packages have some hundreds.
pub(crate) const MAX_WORDS: usize = 1 << 16;
/// Portage's name for a choice without alternatives.
pub(crate) const EMPTY_ANY_OF: &str = "__const__/empty-any-of";

/// Why a text is no dependency string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DependenciesError {
    /// A `)` has no `(` before it.
    #[error("`)` without `(`")]
    Unopened,
    /// A `(` has no `)` after it.
    #[error("`(` without `)`")]
    Unclosed,
    /// Brackets have no content: `( )`.
    #[error("nothing between `(` and `)`")]
    Empty,
    /// Another word than `(` follows `||` or a USE conditional.
    #[error("`||` or a USE conditional without `(`")]
    NoGroup,
    /// The text before `?` is no USE flag.
    #[error("a USE conditional without a valid flag")]
    Flag,
    /// The text has `->`, which is valid in SRC_URI alone.
    #[error("`->`")]
    Arrow,
    /// Brackets are nested deeper than [`MAX_DEPTH`].
    #[error("more than {MAX_DEPTH} brackets within brackets")]
    TooDeep,
    /// The text has more than [`MAX_WORDS`] words.
    #[error("more than {MAX_WORDS} words")]
    TooLong,
}

/// The type of the words in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Atoms, whose own USE conditionals are evaluated: DEPEND and the like.
    Atom,
    /// All other words: LICENSE, PROPERTIES, RESTRICT.
    Plain,
}

/// The enabled USE flags, sorted.
#[derive(Debug, Default)]
pub struct UseFlags<'a>(Vec<&'a str>);

impl<'a> UseFlags<'a> {
    /// Takes the flags from the words of USE.
    #[must_use]
    pub fn of(text: &'a str) -> Self {
        let mut flags: Vec<&str> = words(text).collect();
        flags.sort_unstable();
        Self(flags)
    }

    fn contains(&self, flag: &str) -> bool {
        self.0.binary_search(&flag).is_ok()
    }
}

#[derive(Debug)]
enum DependencyItem<'a> {
    Word(Cow<'a, str>),
    /// All of the items: `( … )`.
    All(GroupPrefix, Vec<DependencyItem<'a>>),
    /// One of the items: `|| ( … )`.
    Any(Vec<DependencyItem<'a>>),
}

/// The word before `(`; `||` is not one of these.
#[derive(Debug, Clone, Copy, PartialEq)]
enum GroupPrefix {
    Nothing,
    Conditional,
}

/// A dependency string without USE conditionals, with its original brackets.
#[derive(Debug)]
pub struct Dependencies<'a> {
    items: Vec<DependencyItem<'a>>,
    kind: TokenKind,
}

impl<'a> Dependencies<'a> {
    /// Removes the USE conditionals from `text`, given the enabled flags.
    ///
    /// # Errors
    /// The text is no dependency string, or is larger than any package's.
    pub fn reduce(text: &'a str, kind: TokenKind, enabled: &UseFlags<'_>) -> Result<Self, DependenciesError> {
        Ok(Self { items: parse::parse(text, kind, enabled)?, kind })
    }

    /// The text that Portage 3.0.83 writes.
    #[must_use]
    pub fn as_portage(self) -> String {
        let kind = self.kind;
        self.enclosed(Brackets::Portage(kind))
    }

    /// The text with the fewest brackets of the same meaning. Where versions of Portage write
    /// different texts, this text is the same.
    #[must_use]
    pub fn simplest(self) -> String {
        self.enclosed(Brackets::Fewest)
    }

    fn enclosed(self, brackets: Brackets) -> String {
        let (mut items, mut text) = (Vec::with_capacity(self.items.len()), String::new());
        brackets.conjunction(self.items, Only::IsInlined, &mut items);
        write(&items, &mut text);
        text
    }
}

/// The rule that decides which brackets stay.
#[derive(Clone, Copy, PartialEq)]
enum Brackets {
    Portage(TokenKind),
    Fewest,
}

/// How `( … )` is written that is the only alternative of `|| ( )`.
#[derive(Clone, Copy)]
enum Only {
    IsInlined,
    KeepsBrackets,
}

impl Brackets {
    /// Appends `items`, all of which are required, to `out`.
    fn conjunction<'a>(self, items: Vec<DependencyItem<'a>>, only: Only, out: &mut Vec<DependencyItem<'a>>) {
        let start = out.len();
        for item in items {
            match item {
                DependencyItem::Word(_) => out.push(item),
                DependencyItem::All(opening, inner) => {
                    self.conjunction(inner, self.within(opening, out.get(start..), only), out)
                }
                DependencyItem::Any(inner) => {
                    let mut alternatives = Vec::with_capacity(inner.len());
                    self.alternatives(inner, &mut alternatives);
                    if alternatives.len() > 1 {
                        out.push(DependencyItem::Any(alternatives));
                        continue;
                    }
                    match (alternatives.pop(), only) {
                        (None, _) => out.push(empty_any_of()),
                        (Some(DependencyItem::All(_, inner)), Only::IsInlined) => out.extend(inner),
                        (Some(alternative), _) => out.push(alternative),
                    }
                }
            }
        }
    }

    /// Appends `items`, one of which is required, to `out`.
    fn alternatives<'a>(self, items: Vec<DependencyItem<'a>>, out: &mut Vec<DependencyItem<'a>>) {
        let start = out.len();
        for item in items {
            match item {
                DependencyItem::Word(_) => out.push(item),
                DependencyItem::All(opening, inner) => {
                    let mut all = Vec::with_capacity(inner.len());
                    self.conjunction(inner, self.within(opening, out.get(start..), Only::KeepsBrackets), &mut all);
                    match (all.len(), all.pop()) {
                        (_, None) => {}
                        (1, Some(DependencyItem::Any(alternatives))) => out.extend(alternatives),
                        (1, Some(alternative)) => out.push(alternative),
                        (_, Some(last)) => {
                            all.push(last);
                            out.push(DependencyItem::All(opening, all));
                        }
                    }
                }
                DependencyItem::Any(inner) => {
                    let before = out.len();
                    self.alternatives(inner, out);
                    match self {
                        _ if out.len() > before => {}
                        Self::Portage(_) => out.push(DependencyItem::All(GroupPrefix::Nothing, vec![empty_any_of()])),
                        Self::Fewest => out.push(empty_any_of()),
                    }
                }
            }
        }
    }

    /// The rule for `( … )` that follows `before`. Portage searches backwards for the enclosing
    /// `||`, and a string right before the bracket ends its search.
    fn within(self, opening: GroupPrefix, before: Option<&[DependencyItem<'_>]>, outside: Only) -> Only {
        let last = before.and_then(<[DependencyItem<'_>]>::last);
        match (self, opening, last) {
            (Self::Fewest, ..)
            | (Self::Portage(TokenKind::Plain), GroupPrefix::Nothing, Some(DependencyItem::Word(_))) => Only::IsInlined,
            _ => outside,
        }
    }
}

fn empty_any_of<'a>() -> DependencyItem<'a> {
    DependencyItem::Word(Cow::Borrowed(EMPTY_ANY_OF))
}

/// Appends `items` to `text`, with brackets and with one space between two words.
fn write(items: &[DependencyItem<'_>], text: &mut String) {
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            text.push(' ');
        }
        let (open, inner) = match item {
            DependencyItem::Word(word) => {
                text.push_str(word);
                continue;
            }
            DependencyItem::All(_, inner) => ("( ", inner),
            DependencyItem::Any(inner) => ("|| ( ", inner),
        };
        text.push_str(open);
        write(inner, text);
        text.push_str(" )");
    }
}

#[cfg(test)]
mod tests;
