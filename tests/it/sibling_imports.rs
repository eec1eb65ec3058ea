//! Inside a module, imports point one way: of the files and folders that are beside each other, no two use one another, directly
//! or through others. A file may use what the modules around it define.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::imports::sources;

/// The path of a module or of an item, from the root of the crate.
type Names = Vec<String>;

/// The code of each module, without comments and without the tests at its end.
struct Crate(BTreeMap<Names, String>);

/// What the `use` declarations of each module name: the absolute path by its last name.
type Imported = BTreeMap<Names, BTreeMap<String, Names>>;

/// The paths in the tree of a `use` declaration: `a::{b, c::{d, self}}` is `a::b`, `a::c::d` and `a::c`.
fn leaves(before: &[&str], tree: &str, found: &mut Vec<Names>) {
    let tree = tree.split(" as ").next().unwrap_or_default().trim();
    let Some((start, group)) = tree.split_once('{') else {
        let path = before.iter().copied().chain(tree.split("::")).filter(|name| *name != "self" || before.is_empty());
        return found.push(path.map(str::to_owned).collect());
    };
    let before: Vec<&str> =
        before.iter().copied().chain(start.split("::").map(str::trim).filter(|name| !name.is_empty())).collect();
    let (mut level, mut from) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => level += 1,
            ',' | '}' if level == 0 => {
                if !group[from..at].trim().is_empty() {
                    leaves(&before, &group[from..at], found);
                }
                from = at + 1;
                if c == '}' {
                    return;
                }
            }
            '}' => level -= 1,
            _ => {}
        }
    }
}

impl Crate {
    fn of(texts: impl IntoIterator<Item = (Names, String)>) -> Self {
        let code = |text: String| {
            let lines: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
            let text = lines.join("\n");
            text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()
        };
        Self(texts.into_iter().map(|(module, text)| (module, code(text))).collect())
    }

    fn read(root: &Path) -> Self {
        let mut files = Vec::new();
        sources(root, &mut files);
        Self::of(files.into_iter().map(|file: PathBuf| {
            let relative = file.strip_prefix(root).unwrap().with_extension("");
            let names = relative.iter().map(|name| name.to_str().unwrap().to_owned());
            (
                names.filter(|name| !["mod", "lib", "main"].contains(&name.as_str())).collect(),
                fs::read_to_string(&file).unwrap(),
            )
        }))
    }

    /// The absolute path of one that is written in `here`; `None`: another crate's.
    fn absolute(&self, here: &[String], path: &[String]) -> Option<Names> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([here, rest].concat()),
            "super" => {
                let ups = path.iter().take_while(|name| *name == "super").count();
                Some([here.get(..here.len().checked_sub(ups)?)?, &path[ups..]].concat())
            }
            _ => Some([here, path].concat()).filter(|whole| self.0.contains_key(&whole[..=here.len()])),
        }
    }

    fn imported(&self) -> Imported {
        let of = |(here, code): (&Names, &String)| {
            let mut paths = Vec::new();
            for line in code.split(';') {
                let line = line.trim();
                let declaration = line.rsplit_once("use ").filter(|(before, _)| {
                    before.lines().last().unwrap_or_default().trim().is_empty()
                        || before.trim_end().ends_with(')')
                        || before.trim_end().ends_with("pub")
                });
                declaration.into_iter().for_each(|(_, tree)| leaves(&[], tree, &mut paths));
            }
            let absolute = |path: &Names| Some((path.last()?.clone(), self.absolute(here, path)?));
            (here.clone(), paths.iter().filter_map(absolute).collect())
        };
        self.0.iter().map(of).collect()
    }

    /// The absolute paths that begin with a keyword, outside and inside of declarations.
    fn inline(&self, here: &[String]) -> Vec<Names> {
        let code = self.0.get(here).map(String::as_str).unwrap_or_default();
        let part_of_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let paths = code
            .split(|c: char| !part_of_path(c))
            .filter(|path| ["crate::", "super::", "self::"].iter().any(|start| path.starts_with(start)));
        let names = paths.map(|path| path.trim_end_matches(':').split("::").map(str::to_owned).collect::<Names>());
        names.filter_map(|path| self.absolute(here, &path)).collect()
    }

    /// The module that defines an item. A module that passes it on does not.
    fn definer(&self, path: &[String], imported: &Imported, depth: usize) -> Names {
        let length = (0..=path.len()).rev().find(|length| self.0.contains_key(&path[..*length])).unwrap_or_default();
        let (module, rest) = path.split_at(length);
        let passed_on = rest.first().and_then(|name| imported.get(module)?.get(name)).filter(|_| depth < 10);
        passed_on
            .map_or_else(|| module.to_vec(), |from| self.definer(&[from, &rest[1..]].concat(), imported, depth + 1))
    }

    /// For each module, which of its parts uses which.
    fn uses(&self) -> BTreeMap<Names, BTreeSet<(String, String)>> {
        let (imported, mut uses) = (self.imported(), BTreeMap::<Names, BTreeSet<(String, String)>>::new());
        for here in self.0.keys().filter(|module| module.iter().all(|name| name != "tests")) {
            let named = imported[here].values().cloned().chain(self.inline(here));
            for definer in named.map(|path| self.definer(&path, &imported, 0)) {
                let common = here.iter().zip(&definer).take_while(|(one, other)| one == other).count();
                if let (Some(from), Some(to), true) = (here.get(common), definer.get(common), common > 0) {
                    uses.entry(here[..common].to_vec()).or_default().insert((from.clone(), to.clone()));
                }
            }
        }
        uses
    }
}

/// The uses that are in a circle: all that is left once parts that use nothing, or that nothing uses, are taken away.
fn circles(mut uses: BTreeSet<(String, String)>) -> BTreeSet<(String, String)> {
    loop {
        let (using, used): (BTreeSet<_>, BTreeSet<_>) = uses.iter().cloned().unzip();
        let before = uses.len();
        uses.retain(|(from, to)| used.contains(from) && using.contains(to));
        if uses.len() == before {
            return uses;
        }
    }
}

#[test]
fn uses_of_all_forms_are_seen() {
    let names = |path: &str| path.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect::<Names>();
    let of = |texts: &[(&str, &str)]| {
        let uses = Crate::of(texts.iter().map(|(module, text)| (names(module), (*text).to_owned()))).uses();
        let uses = uses.into_iter().map(|(module, uses)| (module.join("::"), uses));
        uses.flat_map(|(module, uses)| uses.into_iter().map(move |(from, to)| format!("{module}: {from} {to}")))
            .collect::<Vec<_>>()
    };
    let passing_on = ("m", "mod a;\nmod b;\npub use b::{Thing, c::Other};\npub(crate) use crate::n::Far;\nstruct Own;");
    for (code, expected) in [
        ("use super::b::Thing;", vec!["m: a b"]),
        ("use crate::{n::Far, m::{b::{c::Other, Thing}}};", vec!["m: a b"]),
        ("use super::Thing;", vec!["m: a b"]),
        ("fn f() { crate::m::Other::new() }", vec!["m: a b"]),
        ("fn f(x: super::b::Thing) {}", vec!["m: a b"]),
        ("use super::Own;", vec![]),
        ("use super::Far;", vec![]),
        (
            "// use super::b::Thing;\nuse std::fmt;\n#[cfg(test)]\nmod tests {\n    use super::super::b::Thing;\n}",
            vec![],
        ),
    ] {
        let crate_ =
            [("", "mod m;\nmod n;"), passing_on, ("m::a", code), ("m::b", "mod c;"), ("m::b::c", ""), ("n", "")];
        assert_eq!(of(&crate_), expected, "{code}");
    }
    let pairs =
        |all: &[(&str, &str)]| all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<BTreeSet<_>>();
    assert_eq!(circles(pairs(&[("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")])), pairs(&[("b", "c"), ("c", "b")]));
    assert_eq!(circles(pairs(&[("a", "b"), ("a", "c"), ("b", "c")])), pairs(&[]));
}

#[test]
fn imports_inside_a_module_point_one_way() {
    let uses = Crate::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).uses();
    assert!(uses.len() > 20 && uses.values().map(BTreeSet::len).sum::<usize>() > 200, "{}", uses.len());
    let circles: Vec<String> = uses
        .into_iter()
        .flat_map(|(module, uses)| {
            circles(uses).into_iter().map(move |(from, to)| format!("{}: {from} uses {to}", module.join("::")))
        })
        .collect();
    assert!(circles.is_empty(), "these use one another:\n{}", circles.join("\n"));
}
