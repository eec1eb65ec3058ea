//! Texts about all options, from the table that the program itself uses.

use binhostfs::internals::config::{Input, OPTIONS, OptionRow, Scope, TakesEffect};

/// The chapters: title, introduction, and the options of each.
pub(crate) const CHAPTERS: [(&str, &str, &[Scope]); 4] = [
    ("The mount", "Keys at the top of the file.", &[Scope::Mount]),
    (
        "Binhosts",
        "Keys of `[binhost.NAME]`. NAME is a section of binrepos.conf, whose values are then overridden, or a new name, \
         with a `url`. Most keys may be at the top of the file as well, for every binhost that does not say otherwise. \
         `include` and `exclude` at the top count for the packages of all binhosts, in addition to those of each.",
        &[Scope::Binhosts, Scope::EachAndAll, Scope::OneBinhost],
    ),
    (
        "The object store",
        "Keys of `[object-store]`. Without that table there is none. `endpoints` and `bucket` have to be there.",
        &[Scope::ObjectStore],
    ),
    ("On the command line only", "", &[Scope::CommandLine]),
];

/// A configuration file with all keys.
pub(crate) fn example() -> String {
    let lines = |scopes| -> String {
        let line = |row: &OptionRow| format!("{} = {}\n", row.info.key(), row.info.example);
        of_scopes(scopes).map(line).collect()
    };
    let of_both: Vec<&str> = of_scopes(&[Scope::Binhosts, Scope::EachAndAll]).map(|row| row.info.name).collect();
    format!(
        "{}\n# Show only these packages, of whatever binhost, and not those:\n{}\n\
         # For every binhost that does not say otherwise:\n{}\n[binhost.gentoo]\n{}# and {}\n\n[object-store]\n{}",
        lines(&[Scope::Mount]),
        lines(&[Scope::EachAndAll]),
        lines(&[Scope::Binhosts]),
        lines(&[Scope::OneBinhost]),
        of_both.join(", "),
        lines(&[Scope::ObjectStore]),
    )
}

/// The options that the file has, in the order of the chapters.
pub(crate) fn keys() -> impl Iterator<Item = &'static OptionRow> {
    CHAPTERS.iter().flat_map(|(_, _, scopes)| of_scopes(scopes)).filter(|row| row.info.scope != Scope::CommandLine)
}

/// What an option does, in sentences.
pub(crate) fn description(row: &OptionRow) -> String {
    format!("{}. {}", row.info.help, row.info.details).trim_end().to_owned()
}

/// The values of an option that has a few named ones, each with its meaning.
pub(crate) fn choices(row: &OptionRow) -> Vec<(&'static str, &'static str)> {
    match row.input {
        Input::Choice(choices) => choices().into_iter().filter(|(_, help)| !help.is_empty()).collect(),
        Input::Text | Input::Path => Vec::new(),
    }
}

/// When a change of the file takes effect.
pub(crate) fn effect(row: &OptionRow) -> &'static str {
    match row.info.takes_effect {
        TakesEffect::Live => "at once",
        TakesEffect::AfterRestart => "when binhostfs is started again",
    }
}

pub(crate) fn of_scopes(scopes: &[Scope]) -> impl Iterator<Item = &'static OptionRow> {
    OPTIONS.iter().filter(|row| scopes.contains(&row.info.scope))
}
