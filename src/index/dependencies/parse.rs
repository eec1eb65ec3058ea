//! Parses words into nested groups. The parser has an explicit stack, at most [`MAX_DEPTH`] deep,
//! so input cannot overflow the thread's stack.

use std::borrow::Cow;

use super::use_dependency::{evaluated, is_flag};
use super::{DependenciesError, DependencyItem, GroupPrefix, MAX_DEPTH, MAX_WORDS, TokenKind, UseFlags};
use crate::portage::words::words;

/// The kind of the next `( … )`.
#[derive(Clone, Copy)]
enum GroupKind {
    All(GroupPrefix),
    Any,
    /// The group of a USE conditional that does not hold: parsed and left out.
    Inactive,
}

pub(super) fn parse<'a>(
    text: &'a str,
    kind: TokenKind,
    enabled: &UseFlags<'_>,
) -> Result<Vec<DependencyItem<'a>>, DependenciesError> {
    let mut open: Vec<(GroupKind, Vec<DependencyItem<'a>>)> = Vec::new();
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
            "(" => open
                .push((announced.take().unwrap_or(GroupKind::All(GroupPrefix::Nothing)), std::mem::take(&mut items))),
            _ if announced.is_some() => return Err(DependenciesError::NoGroup),
            ")" => {
                let (group, outer) = open.pop().ok_or(DependenciesError::Unopened)?;
                let inner = std::mem::replace(&mut items, outer);
                match group {
                    GroupKind::All(opening) => items.push(DependencyItem::All(opening, inner)),
                    GroupKind::Any => items.push(DependencyItem::Any(inner)),
                    GroupKind::Inactive => {}
                }
            }
            "||" => announced = Some(GroupKind::Any),
            "->" => return Err(DependenciesError::Arrow),
            _ => match word.strip_suffix('?') {
                Some(condition) => announced = Some(conditional(condition, enabled)?),
                None if kind == TokenKind::Atom => items.push(DependencyItem::Word(evaluated(word, enabled))),
                None => items.push(DependencyItem::Word(Cow::Borrowed(word))),
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
fn conditional(condition: &str, enabled: &UseFlags<'_>) -> Result<GroupKind, DependenciesError> {
    let (flag, wanted) = match condition.strip_prefix('!') {
        Some(flag) => (flag, false),
        None => (condition, true),
    };
    match is_flag(flag) {
        false => Err(DependenciesError::Flag),
        true if enabled.contains(flag) == wanted => Ok(GroupKind::All(GroupPrefix::Conditional)),
        true => Ok(GroupKind::Inactive),
    }
}
