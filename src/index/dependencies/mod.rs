//! A dependency string without its USE conditionals, as Portage writes it into an index.
//!
//! Source: portage 3.0.31 to 3.0.83, `use_reduce` and `paren_enclose` of `dep/__init__.py`, for any EAPI. Its parser in C has
//! the same results.
//!
//! * `flag? ( … )` is replaced by what is in it, or by nothing; `[flag?,other=]` of an atom by what it means.
//! * Brackets that mean nothing are left out, also `|| ( )` around one alternative and within another `|| ( )`.
//! * `|| ( )` that loses all its alternatives becomes [`EMPTY_ANY_OF`], which no package satisfies.
//!
//! One kind of needless brackets stays: of `|| ( ( a || ( ( b c ) ) ) d )` Portage makes `|| ( ( a ( b c ) ) d )`. Whether it does so
//! can depend on what stands before, and differs between its versions (up to 3.0.77 atoms are strings to it, as the words of a
//! LICENSE are still). [`Dependencies::simplest`] has the same text for all.
//!
//! Not its job: whether an atom is valid. A text that Portage cannot reduce is in no index that it wrote.

mod parse;
mod use_dependency;

use std::borrow::Cow;

use crate::portage::words::words;

/// Most brackets within brackets. Packages have less than ten.
pub const MAX_DEPTH: usize = 100;
/// Most words of a text. Packages have some hundreds.
pub const MAX_WORDS: usize = 1 << 16;
/// Portage's name for a choice without alternatives.
pub const EMPTY_ANY_OF: &str = "__const__/empty-any-of";

/// Why a text is no dependency string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DependenciesError {
    /// A `)` too many.
    #[error("`)` without `(`")]
    Unopened,
    /// A `)` too few.
    #[error("`(` without `)`")]
    Unclosed,
    /// `( )`.
    #[error("nothing between `(` and `)`")]
    Empty,
    /// Something else than `(` after `||` or a USE conditional.
    #[error("`||` or a USE conditional without `(`")]
    NoGroup,
    /// What stands before `?` is no USE flag.
    #[error("a USE conditional without a valid flag")]
    Flag,
    /// `->`, which belongs into SRC_URI.
    #[error("`->`")]
    Arrow,
    /// More than [`MAX_DEPTH`].
    #[error("more than {MAX_DEPTH} brackets within brackets")]
    TooDeep,
    /// More than [`MAX_WORDS`].
    #[error("more than {MAX_WORDS} words")]
    TooLong,
}

/// What the words of a text are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Atoms, whose own USE conditionals are evaluated: DEPEND and the like.
    Atom,
    /// Anything else: LICENSE, PROPERTIES, RESTRICT.
    Plain,
}

/// The USE flags that are enabled.
#[derive(Debug, Default)]
pub struct UseFlags<'a>(Vec<&'a str>);

impl<'a> UseFlags<'a> {
    /// The words of USE.
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

/// A part of a dependency string.
#[derive(Debug)]
enum DependencyItem<'a> {
    Word(Cow<'a, str>),
    /// `( … )`.
    All(GroupPrefix, Vec<DependencyItem<'a>>),
    /// `|| ( … )`.
    Any(Vec<DependencyItem<'a>>),
}

/// What stood before `(`.
#[derive(Debug, Clone, Copy, PartialEq)]
enum GroupPrefix {
    Nothing,
    Conditional,
}

/// A dependency string without USE conditionals, its brackets as they stand.
#[derive(Debug)]
pub struct Dependencies<'a> {
    items: Vec<DependencyItem<'a>>,
    kind: TokenKind,
}

impl<'a> Dependencies<'a> {
    /// What is left of `text` with these flags.
    ///
    /// # Errors
    /// It is no dependency string, or larger than any package has.
    pub fn reduce(text: &'a str, kind: TokenKind, enabled: &UseFlags<'_>) -> Result<Self, DependenciesError> {
        Ok(Self { items: parse::parse(text, kind, enabled)?, kind })
    }

    /// As Portage 3.0.83 writes it.
    #[must_use]
    pub fn as_portage(self) -> String {
        let kind = self.kind;
        self.enclosed(Brackets::Portage(kind))
    }

    /// With the fewest brackets that mean the same: what several versions of Portage make of one text is the same here.
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

/// Which brackets stay.
#[derive(Clone, Copy, PartialEq)]
enum Brackets {
    Portage(TokenKind),
    Fewest,
}

/// What becomes of `( … )` that is the only alternative of `|| ( )`.
#[derive(Clone, Copy)]
enum Only {
    IsInlined,
    KeepsBrackets,
}

impl Brackets {
    /// Appends `items`, all of which have to be there, to `out`.
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

    /// Appends `items`, one of which has to be there, to `out`.
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

    /// What holds in `( … )` that comes after `before`. Portage looks for the `||` that it stands in, and takes a string right
    /// before a bracket for the end of its search.
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

/// Appends `items` to `text`, with brackets and one space between two words.
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
