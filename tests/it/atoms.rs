//! CPVs, versions and atoms, held against the real Portage: random ones of a fixed seed, all in one Python process.

use std::cmp::Ordering;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use binhostfs::internals::portage::{Atom, AtomError, Cpv, Version};

use crate::harness::portage::test_environment;

/// What Portage says of each line: a version's order, whether a CPV is one, what an atom is or whether it matches.
/// Where Portage asks `match_from_list` itself, all candidates have the atom's category and name already.
const JUDGE: &str = r#"
import sys
from portage.dep import Atom, match_from_list
from portage.exception import InvalidAtom
from portage.versions import _pkg_str, catpkgsplit, vercmp

def package(cpv, slot, repo):
    return _pkg_str(cpv, slot=slot or "0", repo=repo or None)

def atom(text):
    try:
        return Atom(text, allow_wildcard=True, allow_repo=True)
    except InvalidAtom:
        return None

def matches(text, cpv, slot, repo):
    one, other = atom(text), package(cpv, slot, repo)
    if not one.extended_syntax and one.cp != other.cp:
        return False
    return bool(match_from_list(one, [other]))

def kind(text):
    found = atom(text)
    if found is None:
        return "invalid"
    special = found.use or found.blocker or found.slot_operator or found.build_id is not None
    return "special" if special else "good"

def sign(order):
    return "invalid" if order is None else (order > 0) - (order < 0)

verbs = {
    "vercmp": lambda a, b: sign(vercmp(a, b)),
    "cpv": lambda text: catpkgsplit(text) is not None and "/" in text,
    "atom": kind,
    "match": matches,
}
for line in sys.stdin:
    verb, *arguments = line.rstrip("\n").split("\t")
    print(verbs[verb](*arguments))
"#;

/// Answers of Portage, one a question.
fn portage(environment: &Path, questions: &[String]) -> Vec<String> {
    let mut python = Command::new(environment.join("venv/bin/python"))
        .args(["-c", JUDGE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = python.stdin.take().unwrap();
    let text: String = questions.iter().map(|question| format!("{question}\n")).collect();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()).unwrap());
    let output = python.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    let answers: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(answers.len(), questions.len());
    answers
}

/// SplitMix64: the same questions on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(end).unwrap()).unwrap()
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }

    /// Most often the first.
    fn rarely<'a>(&mut self, usual: &'a str, choices: &[&'a str]) -> &'a str {
        if self.below(3) > 0 { usual } else { self.of(choices) }
    }

    fn version(&mut self) -> String {
        let number = |random: &mut Self| random.of(&["0", "1", "2", "10", "01", "010", "00", "9999", "20"]).to_owned();
        let mut text = number(self);
        for _ in 0..self.below(3) {
            text += &format!(".{}", number(self));
        }
        text += self.rarely("", &["a", "b", "z"]);
        for _ in 0..self.below(3).saturating_sub(1) + self.below(2) {
            let (kind, number) =
                (self.of(&["alpha", "beta", "pre", "rc", "p"]), self.of(&["", "0", "1", "2", "10", "01"]));
            text += &format!("_{kind}{number}");
        }
        text + self.rarely("", &["-r0", "-r1", "-r2", "-r10", "-r01"])
    }

    fn category(&mut self) -> &'static str {
        self.of(&["dev-libs", "dev-util", "app-misc", "a", "x11+y.z"])
    }

    fn package(&mut self) -> &'static str {
        self.of(&["foo", "foo-bar", "foo-r1", "gtk+", "mysql++", "font-100dpi", "o", "foo_1", "libfoo"])
    }

    fn cpv(&mut self) -> String {
        format!("{}/{}-{}", self.category(), self.package(), self.version())
    }

    fn atom(&mut self) -> String {
        let (category, package) = (self.category(), self.package());
        let category = self.rarely(category, &["*", "dev-*", "*-libs", "d*v-*", "*i*", "+a"]);
        let package = self.rarely(package, &["*", "foo*", "*foo", "*o*", "f*o-*", "o*o", "lib*o", "+o"]);
        let head = format!("{category}/{package}");
        let head = match self.below(8) {
            0..4 => head,
            4 | 5 => format!("{}{head}-{}", self.of(&["=", ">=", ">", "<=", "<", "~"]), self.version()),
            6 => format!("={head}-{}*", self.version()),
            _ => format!("={head}-*{}*", self.of(&["9", "9999", "1", "_p", "r1", "alpha", "0"])),
        };
        head + self.rarely("", &[":0", ":1", ":0/1.2", ":0/0", ":2.2/3", ":1/1"])
            + self.rarely("", &["::gentoo", "::guru", "::a-b"])
    }

    /// With one or two characters put in, taken out or replaced.
    fn damaged(&mut self, text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..=self.below(2) {
            let at = self.below(bytes.len().max(1));
            let byte = b"*:/-+=<>~![],._ar019 "[self.below(21)];
            match self.below(3) {
                0 => bytes.insert(at, byte),
                1 if at < bytes.len() => bytes[at] = byte,
                _ if at < bytes.len() => drop(bytes.remove(at)),
                _ => {}
            }
        }
        String::from_utf8(bytes).unwrap()
    }
}

fn order(order: Ordering) -> &'static str {
    match order {
        Ordering::Less => "-1",
        Ordering::Equal => "0",
        Ordering::Greater => "1",
    }
}

fn python(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

/// Fails, naming the first few, if answers differ.
fn agree(environment: &Path, what: &str, asked: &[(String, String)]) -> Vec<String> {
    let questions: Vec<String> = asked.iter().map(|(question, _)| question.clone()).collect();
    let answers = portage(environment, &questions);
    let differ = asked.iter().zip(&answers).filter(|((_, ours), theirs)| ours != *theirs);
    let differ: Vec<String> = differ.map(|((q, ours), theirs)| format!("{q}: {ours}, Portage {theirs}")).collect();
    let shown = &differ[..differ.len().min(20)];
    assert!(differ.is_empty(), "{what}: {} of {} differ:\n{}", differ.len(), asked.len(), shown.join("\n"));
    answers
}

/// How often an answer was given; a judge that always says the same judges nothing.
fn count(answers: &[String], answer: &str) -> usize {
    answers.iter().filter(|given| *given == answer).count()
}

#[test]
fn versions_are_ordered_as_portage_orders_them() {
    let Some(environment) = test_environment() else { return };
    let mut random = Random(1);
    let mut asked = Vec::new();
    for round in 0..6000 {
        let one = random.version();
        let other = match round % 3 {
            0 => random.version(),
            1 => random.damaged(&one),
            _ => format!("{one}{}", random.of(&["0", ".0", "-r0", "_p", "_p0", "00"])),
        };
        let ours = match (Version::parse(&one), Version::parse(&other)) {
            (Some(one), Some(other)) => order(one.cmp(&other)),
            // Portage does not look at what is the same.
            _ if one == other => "0",
            _ => "invalid",
        };
        asked.push((format!("vercmp\t{one}\t{other}"), ours.to_owned()));
    }
    let answers = agree(&environment, "versions", &asked);
    for answer in ["-1", "0", "1", "invalid"] {
        assert!(count(&answers, answer) > 300, "{answer}");
    }
}

#[test]
fn a_cpv_is_what_portage_takes_for_one() {
    let Some(environment) = test_environment() else { return };
    let mut random = Random(2);
    let texts = (0..6000).map(|round| {
        let text = random.cpv();
        if round % 3 == 0 { text } else { random.damaged(&text) }
    });
    let asked: Vec<_> =
        texts.map(|text| (format!("cpv\t{text}"), python(Cpv::parse(&text).is_ok()).to_owned())).collect();
    let answers = agree(&environment, "CPVs", &asked);
    assert!(count(&answers, "True") > 2000 && count(&answers, "False") > 1000);
}

#[test]
fn an_atom_is_what_portage_takes_for_one() {
    let Some(environment) = test_environment() else { return };
    let mut random = Random(3);
    let mut asked = Vec::new();
    for round in 0..8000 {
        let whole = random.atom();
        let text = match round % 4 {
            0 => whole,
            1 => whole + random.of(&["[nls]", "[nls?,-doc]", ":=", ":0=", ":*", "-3", "=", ":0/1="]),
            _ => random.damaged(&whole),
        };
        let ours = match text.parse::<Atom>() {
            Ok(_) => "good",
            // Documented: Portage takes it where the version has no dot, and then it can match nothing.
            Err(AtomError::WildcardVersion(_)) => continue,
            Err(AtomError::NoOperator(_)) if text.starts_with('+') || text.contains("/+") => continue,
            Err(AtomError::Invalid(_) | AtomError::NoOperator(_) | AtomError::NoVersion(_)) => "invalid",
            Err(_) => "special",
        };
        asked.push((format!("atom\t{text}"), ours.to_owned()));
    }
    // Ours says why first, whatever else is wrong.
    let questions: Vec<String> = asked.iter().map(|(question, _)| question.clone()).collect();
    let answers = portage(&environment, &questions);
    for ((_, ours), theirs) in asked.iter_mut().zip(&answers) {
        if ours == "special" && theirs == "invalid" {
            "invalid".clone_into(ours);
        }
    }
    agree(&environment, "atoms", &asked);
    for answer in ["good", "special", "invalid"] {
        assert!(count(&answers, answer) > 400, "{answer}");
    }
}

#[test]
fn atoms_match_what_they_match_in_portage() {
    let Some(environment) = test_environment() else { return };
    let mut random = Random(4);
    let mut asked = Vec::new();
    let atoms = (0..2000).filter_map(|_| random.atom().parse::<Atom>().ok()).collect::<Vec<_>>();
    for atom in &atoms {
        for _ in 0..12 {
            let mut cpv = random.cpv();
            // A random version is hardly ever the atom's.
            let name = atom.to_string();
            let name = name.trim_start_matches(['=', '>', '<', '~']).split(':').next().unwrap().trim_end_matches('*');
            if random.below(2) == 0 && !name.contains('*') {
                cpv = match random.below(3) {
                    _ if Cpv::parse(name).is_err() => format!("{name}-{}", random.version()),
                    0 => name.to_owned(),
                    1 => format!("{name}{}", random.of(&["0", ".1", "-r1", "_p1", "b", "-r0", ".0"])),
                    _ => format!("{}-{}", Cpv::parse(name).unwrap().cp(), random.version()),
                };
            }
            let Ok(cpv) = Cpv::parse(&cpv) else { continue };
            let slot = random.of(&["", "0", "1", "0/1.2", "2.2/3", "bad slot"]);
            let repository = random.of(&["", "gentoo", "guru", "__unknown__"]);
            let given = |text: &'static str| Some(text).filter(|text| !text.is_empty());
            let ours = atom.matches(&cpv, given(slot), given(repository));
            asked.push((format!("match\t{atom}\t{cpv}\t{slot}\t{repository}"), python(ours).to_owned()));
        }
    }
    let answers = agree(&environment, "matches", &asked);
    assert!(asked.len() > 10_000 && count(&answers, "True") > 2000 && count(&answers, "False") > 2000);
}
