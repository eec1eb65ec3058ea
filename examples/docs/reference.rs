//! The reference of all options, from the table that the program itself uses.

use binhostfs::internals::config::{Change, Flag, Input, OPTIONS, OptionRow, Scope};

/// The chapters: title, introduction, and the options of each.
const CHAPTERS: [(&str, &str, &[Scope]); 3] = [
    ("The mount", "Keys at the top of the file.", &[Scope::Mount]),
    (
        "Binhosts",
        "Keys of `[binhost.NAME]`, where NAME is a section of binrepos.conf, whose values are then overridden, or a new \
         name, with a `url`. Most may be at the top of the file as well, for every binhost that does not say otherwise. \
         `include` and `exclude` at the top count for the packages of all binhosts, in addition to those of each.",
        &[Scope::Binhosts, Scope::EachAndAll, Scope::OneBinhost],
    ),
    ("On the command line only", "", &[Scope::CommandLine]),
];

/// docs/reference/configuration.md.
pub(crate) fn page() -> String {
    let mut page = format!(
        "# Configuration\n\n\
         <!-- Made from src/config/options/table.rs: cargo run --example docs -- --reference >docs/reference/configuration.md -->\n\n\
         Every option of binhostfs. The command line of `mount` counts more than `/etc/binhostfs.toml`, and that more than \
         Portage's files. All are optional; a key that is not known is an error. `binhostfs check-config` prints every value, \
         and where it comes from.\n\n\
         A size is a number of bytes, or has a unit (powers of 1024): `500M`, `8G`. A span is a number of seconds, or has a \
         unit: `30m`, `1h`, `14d`. Units need quotation marks in the file.\n\n\
         ## All keys of binhostfs.toml\n\n```toml\n{}```\n",
        example()
    );
    for (title, introduction, scopes) in CHAPTERS {
        page += &format!("\n## {title}\n\n");
        if !introduction.is_empty() {
            page += &format!("{introduction}\n\n");
        }
        page += &of_scopes(scopes).map(section).collect::<Vec<_>>().join("\n");
    }
    page
}

/// A configuration file with all keys.
pub(crate) fn example() -> String {
    let lines = |scopes| -> String {
        let line = |row: &OptionRow| format!("{} = {}\n", row.info.name, row.info.example);
        of_scopes(scopes).map(line).collect()
    };
    let of_both: Vec<&str> = of_scopes(&[Scope::Binhosts, Scope::EachAndAll]).map(|row| row.info.name).collect();
    format!(
        "{}\n# Show only these packages, of whatever binhost, and not those:\n{}\n\
         # For every binhost that does not say otherwise:\n{}\n[binhost.gentoo]\n{}# and {}\n",
        lines(&[Scope::Mount]),
        lines(&[Scope::EachAndAll]),
        lines(&[Scope::Binhosts]),
        lines(&[Scope::OneBinhost]),
        of_both.join(", "),
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
    match row.info.change {
        Change::Live => "at once",
        Change::AfterRestart => "when binhostfs is started again",
    }
}

fn of_scopes(scopes: &[Scope]) -> impl Iterator<Item = &'static OptionRow> {
    OPTIONS.iter().filter(|row| scopes.contains(&row.info.scope))
}

fn section(row: &'static OptionRow) -> String {
    let info = &row.info;
    let mut facts = Vec::new();
    let place = match info.scope {
        Scope::Mount => "",
        Scope::Binhosts | Scope::EachAndAll => ", at the top or in `[binhost.NAME]`",
        Scope::OneBinhost => ", in `[binhost.NAME]`",
        Scope::CommandLine => "",
    };
    if info.scope != Scope::CommandLine {
        facts.push(format!("File: `{} = {}`{place}", info.name, info.example));
    }
    let flag = match info.flag {
        Flag::None => None,
        Flag::Positional(value) => Some(format!("`{value}`")),
        Flag::Value(value) => Some(format!("`--{} {value}`", info.name)),
        Flag::Repeated(value) => Some(format!("`--{} {value}`, again for each", info.name)),
        Flag::Switch => Some(format!("`--{}`", info.name)),
    };
    facts.extend(flag.map(|flag| format!("Command line: {flag}")));
    facts.extend(row.default_text().map(|default| format!("Default: {default}")));
    facts.extend(choices(row).into_iter().map(|(name, help)| format!("`{name}`: {help}")));
    if info.scope != Scope::CommandLine {
        facts.push(format!("A change takes effect {}", effect(row)));
    }
    let facts: String = facts.iter().map(|fact| format!("- {fact}\n")).collect();
    format!("### {}\n\n{}\n\n{facts}", info.name, description(row))
}
