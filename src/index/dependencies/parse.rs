//! Words -> nested groups, with a stack of its own, as deep as [`MAX_DEPTH`].

use std::borrow::Cow;

use super::use_dependency::{evaluated, is_flag};
use super::{DependenciesError, Item, MAX_DEPTH, MAX_WORDS, Opening, TokenKind, UseFlags};
use crate::index::words::words;

/// What the next `( … )` is.
#[derive(Clone, Copy)]
enum Group {
    All(Opening),
    Any,
    /// Of a USE conditional that does not hold: read, and left out.
    Inactive,
}

pub(super) fn parse<'a>(
    text: &'a str,
    kind: TokenKind,
    enabled: &UseFlags<'_>,
) -> Result<Vec<Item<'a>>, DependenciesError> {
    let mut open: Vec<(Group, Vec<Item<'a>>)> = Vec::new();
    let mut items = Vec::new();
    let mut announced = None;
    let mut all = words(text).peekable();
    let mut count = 0;
    while let Some(word) = all.next() {
        count += 1;
        match word {
            _ if count > MAX_WORDS => return Err(DependenciesError::TooLong),
            "(" if all.peek() == Some(&")") => return Err(DependenciesError::Empty),
            "(" if open.len() == MAX_DEPTH => return Err(DependenciesError::TooDeep),
            "(" => open.push((announced.take().unwrap_or(Group::All(Opening::Nothing)), std::mem::take(&mut items))),
            _ if announced.is_some() => return Err(DependenciesError::NoGroup),
            ")" => {
                let (group, outer) = open.pop().ok_or(DependenciesError::Unopened)?;
                let inner = std::mem::replace(&mut items, outer);
                match group {
                    Group::All(opening) => items.push(Item::All(opening, inner)),
                    Group::Any => items.push(Item::Any(inner)),
                    Group::Inactive => {}
                }
            }
            "||" => announced = Some(Group::Any),
            "->" => return Err(DependenciesError::Arrow),
            _ => match word.strip_suffix('?') {
                Some(condition) => announced = Some(conditional(condition, enabled)?),
                None if kind == TokenKind::Atom => items.push(Item::Word(evaluated(word, enabled))),
                None => items.push(Item::Word(Cow::Borrowed(word))),
            },
        }
    }
    match (announced, open.is_empty()) {
        (Some(_), _) => Err(DependenciesError::NoGroup),
        (None, false) => Err(DependenciesError::Unclosed),
        (None, true) => Ok(items),
    }
}

/// The group after `flag?` or `!flag?`.
fn conditional(condition: &str, enabled: &UseFlags<'_>) -> Result<Group, DependenciesError> {
    let (flag, wanted) = match condition.strip_prefix('!') {
        Some(flag) => (flag, false),
        None => (condition, true),
    };
    match is_flag(flag) {
        false => Err(DependenciesError::Flag),
        true if enabled.contains(flag) == wanted => Ok(Group::All(Opening::Conditional)),
        true => Ok(Group::Inactive),
    }
}
