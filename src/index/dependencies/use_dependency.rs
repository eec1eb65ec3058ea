//! USE dependencies of an atom, such as `[flag?,other(-)=]`, evaluated with the flags of the
//! package itself (PMS 8.3.4).

use std::borrow::Cow;

use super::UseFlags;

/// Returns `atom` without USE conditionals. An atom without any stays as it is, and so does a word
/// that is no atom.
///
/// An atom that is evaluated loses its repository, as in Portage.
pub(super) fn evaluated<'a>(atom: &'a str, enabled: &UseFlags<'_>) -> Cow<'a, str> {
    let brackets = atom.split_once('[').and_then(|(head, rest)| Some((head, rest.strip_suffix(']')?)));
    let Some((head, flags)) = brackets else { return Cow::Borrowed(atom) };
    let head = head.split_once("::").map_or(head, |(head, _)| head);
    // The usual case: without these characters there is no conditional.
    if !flags.contains(['?', '=']) || !is_head(head) {
        return Cow::Borrowed(atom);
    }
    let mut kept: Vec<Cow<'_, str>> = Vec::new();
    for text in flags.split(',') {
        let Some(dependency) = UseDependency::parse(text) else { return Cow::Borrowed(atom) };
        kept.extend(dependency.evaluated(enabled));
    }
    Cow::Owned(if kept.is_empty() { head.to_owned() } else { format!("{head}[{}]", kept.join(",")) })
}

/// Whether the text before the brackets can be an atom. Any other text must not become a word of
/// its own.
fn is_head(text: &str) -> bool {
    text.contains('/') && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+_./:=<>~!*-".contains(&byte))
}

/// Whether `text` can be the name of a USE flag.
pub(super) fn is_flag(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+_@-".contains(&byte);
    text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) && text.bytes().all(allowed)
}

/// One of the flags between the brackets.
struct UseDependency<'a> {
    whole: &'a str,
    flag: &'a str,
    /// The flag with its default `(+)` or `(-)`.
    name: &'a str,
    condition: Option<FlagCondition>,
}

enum FlagCondition {
    /// `flag?`: required if enabled in the package itself.
    IfEnabled,
    /// `!flag?`: required to be off if off in the package itself.
    IfDisabled,
    /// `flag=`: required to be as in the package itself.
    Equal,
    /// `!flag=`: required to be the opposite.
    Opposite,
}

impl<'a> UseDependency<'a> {
    fn parse(whole: &'a str) -> Option<Self> {
        let (negated, rest) = match whole.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, whole),
        };
        let ending = |ending| rest.strip_suffix(ending);
        let (name, condition) = match (ending('?'), ending('='), negated) {
            (Some(name), _, false) => (name, Some(FlagCondition::IfEnabled)),
            (Some(name), _, true) => (name, Some(FlagCondition::IfDisabled)),
            (_, Some(name), false) => (name, Some(FlagCondition::Equal)),
            (_, Some(name), true) => (name, Some(FlagCondition::Opposite)),
            (None, None, true) => return None,
            (None, None, false) => (rest.strip_prefix('-').unwrap_or(rest), None),
        };
        let flag = name.strip_suffix("(+)").or_else(|| name.strip_suffix("(-)")).unwrap_or(name);
        is_flag(flag).then_some(Self { whole, flag, name, condition })
    }

    /// The dependency without its condition; `None` where the condition requires nothing.
    fn evaluated(&self, enabled: &UseFlags<'_>) -> Option<Cow<'a, str>> {
        let on = enabled.contains(self.flag);
        let wanted = match self.condition {
            None => return Some(Cow::Borrowed(self.whole)),
            Some(FlagCondition::IfEnabled) => on.then_some(true),
            Some(FlagCondition::IfDisabled) => (!on).then_some(false),
            Some(FlagCondition::Equal) => Some(on),
            Some(FlagCondition::Opposite) => Some(!on),
        };
        wanted.map(|wanted| if wanted { Cow::Borrowed(self.name) } else { Cow::Owned(format!("-{}", self.name)) })
    }
}
