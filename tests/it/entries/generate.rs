//! Metadata of packages as ebuilds could have it, the same on every run.

use std::collections::BTreeMap;

/// Metadata of one package.
pub(super) type Metadata = BTreeMap<&'static str, Vec<u8>>;

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(end).unwrap()).unwrap()
    }

    pub(super) fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }

    /// Some USE flags.
    pub(super) fn some_flags(&mut self) -> String {
        self.some(&FLAGS)
    }

    /// Each of the words with a chance of one half.
    fn some(&mut self, words: &[&str]) -> String {
        let some: Vec<&str> = words.iter().copied().filter(|_| self.below(2) == 0).collect();
        some.join(" ")
    }
}

const FLAGS: [&str; 6] = ["nls", "doc", "c++", "python_targets_python3_12", "ssl", "L10N_en@euro"];
const LICENSES: [&str; 5] = ["GPL-2", "GPL-2+", "MIT", "BSD-2", "all-rights-reserved"];
const RESTRICTS: [&str; 5] = ["test", "strip", "fetch", "bindist", "mirror"];

/// An atom, in which each flag has the same default wherever it is.
fn atom(random: &mut Random) -> String {
    let name = random.of(&["dev-libs/foo", "x11-libs/gtk+", "sys-libs/c1", "virtual/p-q", "dev-lang/python"]);
    let atom = match random.below(6) {
        0 => format!(">={name}-1.2_p3-r4"),
        1 => format!("~{name}-3.12.0_rc1"),
        2 => format!("={name}-1.{}*", random.below(9)),
        3 => format!("<{name}-2"),
        _ => name.to_owned(),
    };
    let slot = random.of(&["", "", ":0", ":=", ":*", ":0/1.2=", ":3.12", ":2/2="]);
    let repository = random.of(&["", "", "", "", "", "", "", "::gentoo"]);
    let mut flags = Vec::new();
    for _ in 0..random.below(4).saturating_sub(1) {
        let flag = FLAGS[random.below(FLAGS.len())];
        let default = ["", "(+)", "(-)"][flag.len() % 3];
        let (before, after) = [("", ""), ("-", ""), ("", "?"), ("!", "?"), ("", "="), ("!", "=")][random.below(6)];
        flags.push(format!("{before}{flag}{default}{after}"));
    }
    let flags = if flags.is_empty() { String::new() } else { format!("[{}]", flags.join(",")) };
    format!("{}{atom}{slot}{repository}{flags}", random.of(&["", "", "", "", "!", "!!"]))
}

/// A dependency string of such words.
pub(super) fn dependencies(random: &mut Random, depth: usize, word: &dyn Fn(&mut Random) -> String) -> String {
    let count = if depth == 0 { random.below(6) } else { 1 + random.below(3) };
    let mut parts = Vec::new();
    for _ in 0..count {
        let kind = if depth > 5 { 9 } else { random.below(10) };
        let opening = match kind {
            0 | 1 => "|| ".to_owned(),
            2 => String::new(),
            3 | 4 => format!("{}? ", FLAGS[random.below(FLAGS.len())]),
            5 => format!("!{}? ", FLAGS[random.below(FLAGS.len())]),
            _ => {
                parts.push(word(random));
                continue;
            }
        };
        parts.push(format!("{opening}( {} )", dependencies(random, depth + 1, word)));
    }
    parts.join(random.of(&[" ", " ", "\n\t", "  "]))
}

pub(super) fn atoms(random: &mut Random) -> String {
    dependencies(random, 0, &atom)
}

/// An ebuild with conditionals in all that may have them.
pub(super) fn ebuild(random: &mut Random) -> String {
    // An ebuild may not name a repository, nor the sub-slot that an atom was built against.
    let mut atoms = || atoms(random).replace("::gentoo", "").replace(":2/2=", ":2=").replace("/1.2=", "=");
    let dependencies =
        ["BDEPEND", "DEPEND", "IDEPEND", "PDEPEND", "RDEPEND"].map(|key| format!("{key}=\"{}\"\n", atoms()));
    let license = self::dependencies(random, 0, &of(&["GPL-2"]));
    let properties = self::dependencies(random, 0, &of(&["live"]));
    let restrict = self::dependencies(random, 0, &of(&["test", "strip", "bindist"]));
    let iuse: Vec<String> = FLAGS.iter().map(|flag| format!("{}{flag}", random.of(&["", "+", "-"]))).collect();
    let slot = random.of(&["0", "0/1.2", "2", "3.12/3.12"]);
    format!(
        "EAPI=8\nDESCRIPTION=\"a test\"\nHOMEPAGE=\"https://example.invalid/\"\nSLOT=\"{slot}\"\nKEYWORDS=\"amd64 ~arm64\"\n\
         IUSE=\"{}\"\nLICENSE=\"{license}\"\nPROPERTIES=\"{properties}\"\nRESTRICT=\"{restrict}\"\n{}S=\"${{WORKDIR}}\"\n{}",
        iuse.join(" "),
        dependencies.concat(),
        random.of(&["", "src_install() { keepdir /usr/share/${PN}; }\npkg_postinst() { :; }\n"]),
    )
}

fn of(words: &'static [&'static str]) -> impl Fn(&mut Random) -> String {
    move |random| random.of(words).to_owned()
}

/// The metadata of package `number`. Half of the packages have a value of any key; BUILD_ID is the one of the file's name, as
/// Portage wants it.
pub(super) fn metadata(random: &mut Random, number: usize) -> Metadata {
    let mut iuse = String::new();
    for flag in FLAGS {
        iuse += &format!("{}{flag}{}", random.of(&["", "+", "-"]), random.of(&[" ", "\n", "\u{a0}", "\u{1f}"]));
    }
    let values = [
        ("BDEPEND", atoms(random)),
        ("BUILD_ID", random.of(&["1", " 1\n"]).to_owned()),
        ("BUILD_TIME", (1_700_000_000 + random.below(9_000_000)).to_string()),
        ("CHOST", random.of(&["x86_64-pc-linux-gnu", "x86_64-pc-linux-gnu", "aarch64-unknown-linux-gnu"]).to_owned()),
        ("DEFINED_PHASES", random.of(&["-", "compile install", "install  postinst\tpretend"]).to_owned()),
        ("DEPEND", atoms(random)),
        ("EAPI", random.of(&["0", "5", "6", "7", "8"]).to_owned()),
        ("IDEPEND", atoms(random)),
        ("IUSE", iuse),
        ("KEYWORDS", random.of(&["amd64 ~arm64 -*", "~amd64", "**"]).to_owned()),
        ("LICENSE", dependencies(random, 0, &of(&LICENSES))),
        ("PDEPEND", atoms(random)),
        ("PROPERTIES", dependencies(random, 0, &of(&["interactive", "live", "test_network"]))),
        ("PROVIDES", random.of(&["x86_64: libfoo.so.1 libé.so", "x86_32: a.so  x86_64: a.so"]).to_owned()),
        ("RDEPEND", atoms(random)),
        ("repository", random.of(&["gentoo", "bhtest", "my-overlay"]).to_owned()),
        ("REQUIRES", "x86_64: libc.so.6 libm.so.6".to_owned()),
        ("RESTRICT", dependencies(random, 0, &of(&RESTRICTS))),
        ("USE", random.some(&FLAGS) + random.of(&["", " amd64 elibc_glibc", "  kernel_linux"])),
    ];
    let mut metadata: Metadata = BTreeMap::new();
    for (key, value) in values {
        match random.below(8) {
            0..3 => {}
            3 => drop(metadata.insert(key, Vec::new())),
            _ => drop(metadata.insert(key, format!("{value}{}", random.of(&["", "\n"])).into_bytes())),
        }
    }
    if random.below(20) == 0 {
        metadata.insert("KEYWORDS", b"amd64 \xff\xe2\x82 x\xc3".to_vec());
    }
    metadata.insert("CATEGORY", b"app-misc\n".to_vec());
    metadata.insert("PF", format!("p{number}-1.{}\n", random.below(9)).into_bytes());
    metadata.insert("SLOT", random.of(&["0", "0\n", "0/1.2", "2", "3.12/3.12"]).into());
    metadata
}
