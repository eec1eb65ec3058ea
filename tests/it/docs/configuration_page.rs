//! docs/reference/configuration.md, made from the table of options.

use binhostfs::internals::config::{Flag, OptionRow, Scope};

use super::reference::{CHAPTERS, choices, description, effect, example, of_scopes};

pub(super) fn page() -> String {
    let mut page = format!(
        "# Configuration\n\n\
         <!-- Made from src/config/options/table.rs: the test `the_reference_is_current` writes it. -->\n\n\
         Every option of binhostfs. The command line of `mount` overrides `/etc/binhostfs.toml`, and that\n\
         overrides Portage's files. All options are optional, and an unknown key is an error. `binhostfs\n\
         check-config` prints every value, and where it comes from.\n\n\
         A size is a number of bytes, or has a unit (powers of 1024): `500M`, `8G`. A span is a number of\n\
         seconds, or has a unit: `30m`, `1h`, `14d`. Units need quotation marks in the file.\n\n\
         ## All keys of binhostfs.toml\n\n```toml\n{}```\n",
        example()
    );
    for (title, introduction, scopes) in CHAPTERS {
        page += &format!("\n## {title}\n\n");
        if !introduction.is_empty() {
            page += &format!("{}\n\n", wrapped(introduction, "", ""));
        }
        page += &of_scopes(scopes).map(section).collect::<Vec<_>>().join("\n");
    }
    page
}

fn section(row: &'static OptionRow) -> String {
    let info = &row.info;
    let mut facts = Vec::new();
    let place = match info.scope {
        Scope::Mount => "",
        Scope::Binhosts | Scope::EachAndAll => ", at the top or in `[binhost.NAME]`",
        Scope::OneBinhost => ", in `[binhost.NAME]`",
        Scope::ObjectStore => ", in `[object-store]`",
        Scope::CommandLine => "",
    };
    if info.scope != Scope::CommandLine {
        facts.push(format!("File: `{} = {}`{place}", info.key(), info.example));
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
    let facts: String = facts.iter().map(|fact| wrapped(fact, "- ", "  ") + "\n").collect();
    format!("### {}\n\n{}\n\n{facts}", info.name, wrapped(&description(row), "", ""))
}

/// A text in lines of at most 100 columns, the first of which begins with `first`, the others with `next`. Spans of code stay
/// in one line.
pub(super) fn wrapped(text: &str, first: &str, next: &str) -> String {
    const COLUMNS: usize = 100;
    let (mut lines, mut line, mut is_span) = (Vec::new(), first.to_owned(), false);
    let mut words: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match words.last_mut().filter(|_| is_span) {
            Some(last) => *last += &format!(" {word}"),
            None => words.push(word.to_owned()),
        }
        is_span ^= word.matches('`').count() % 2 == 1;
    }
    for word in words {
        let is_empty = line == first && lines.is_empty() || line == next;
        if !is_empty && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            lines.push(std::mem::replace(&mut line, next.to_owned()));
            line += &word;
            continue;
        }
        line += &format!("{}{word}", if is_empty { "" } else { " " });
    }
    lines.push(line);
    lines.join("\n")
}
