//! Three things that the program takes from where it is built: its date, the unwinder of gcc, and the form of its relocations.
//!
//! **Date** (`BINHOSTFS_BUILD_DATE`, seconds since the epoch): a system clock that shows less is not set. It is the same for the
//! same sources: SOURCE_DATE_EPOCH where the environment has it, else the newest date in a heading of CHANGELOG.md
//! (`## 1.2.3 (2027-01-31)`), and never less than [`WRITTEN`].
//!
//! **Unwinder:** it is linked into the binary, so that it needs no library beyond libc. Rust asks the linker for `-lgcc_s`. Where
//! gcc has the same code as an archive (`libgcc_eh.a`), a linker script of that name in a directory that is searched first stands
//! for it. A cross build asks the linker that cargo is told of (`CARGO_TARGET_…_LINKER`). Elsewhere (musl, another compiler)
//! nothing is changed, and the binary needs `libgcc_s.so.1` as any other Rust program does.
//!
//! **Relocations:** each pointer in a table of constants is a relocation of 24 bytes, 350 KiB in all. In the packed form
//! (DT_RELR) they are 4 KiB. Loaders before glibc 2.36 cannot read that form, so it is asked for where the libc that the linker
//! takes has it, and only if a trial shows that the linker takes the option: gold, for one, refuses it, and the linker for 32-bit
//! ARM warns that it ignores it.

use std::path::PathBuf;
use std::process::Command;

/// 2026-11-22: the first version was written.
const WRITTEN: u64 = 1_795_305_600;
const DAY: u64 = 86400;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-env=BINHOSTFS_BUILD_DATE={}", build_date());
    println!("cargo:rerun-if-env-changed=RUSTC_LINKER");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let Some(compiler) = compiler(&variable) else { return };
    link_unwinder(&compiler, &variable);
    pack_relocations(&compiler, &variable);
}

fn build_date() -> u64 {
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo:rerun-if-changed=CHANGELOG.md");
    let given = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.trim().parse().ok());
    given.or_else(newest_release).unwrap_or_default().max(WRITTEN)
}

fn newest_release() -> Option<u64> {
    let changelog = std::fs::read_to_string("CHANGELOG.md").ok()?;
    let headings = changelog.lines().filter(|line| line.starts_with("## "));
    headings.flat_map(str::split_whitespace).filter_map(|word| seconds(word.trim_matches(['(', ')']))).max()
}

/// `2027-01-31` -> seconds since the epoch.
fn seconds(date: &str) -> Option<u64> {
    let mut parts = date.splitn(3, '-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years begin in March, so that the leap day is the last one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    // Days from the first of March of the year 0 to the epoch.
    Some((days - 719_468) * DAY)
}

fn link_unwinder(compiler: &str, variable: &dyn Fn(&str) -> String) {
    if file_of(compiler, "libgcc_eh.a").is_none() {
        return;
    }
    let directory = PathBuf::from(variable("OUT_DIR"));
    if std::fs::write(directory.join("libgcc_s.so"), "INPUT(-lgcc_eh -lgcc)\n").is_ok() {
        println!("cargo:rustc-link-search=native={}", directory.display());
    }
}

fn pack_relocations(compiler: &str, variable: &dyn Fn(&str) -> String) {
    const OPTION: &str = "-Wl,-z,pack-relative-relocs";
    // The version that a program with packed relocations needs of libc.
    let marker = b"GLIBC_ABI_DT_RELR";
    println!("cargo:rerun-if-env-changed=CARGO_ENCODED_RUSTFLAGS");
    let libc = file_of(compiler, "libc.so.6").and_then(|path| std::fs::read(path).ok());
    if !libc.is_some_and(|libc| libc.windows(marker.len()).any(|window| window == marker)) {
        return;
    }
    let mut trial = Command::new(compiler);
    trial.args(linker_arguments(&variable("CARGO_ENCODED_RUSTFLAGS")));
    trial.args(["-shared", "-nostdlib", OPTION, "-x", "c", "/dev/null", "-o"]);
    trial.arg(PathBuf::from(variable("OUT_DIR")).join("trial.so"));
    if trial.output().is_ok_and(|output| output.status.success() && output.stderr.is_empty()) {
        println!("cargo:rustc-link-arg-bins={OPTION}");
    }
}

/// What RUSTFLAGS say to the linker, e.g. `-fuse-ld=gold`.
pub(crate) fn linker_arguments(flags: &str) -> Vec<&str> {
    let mut arguments = Vec::new();
    let mut flags = flags.split('\x1f');
    while let Some(flag) = flags.next() {
        let option = if flag == "-C" { flags.next() } else { flag.strip_prefix("-C") };
        match option.and_then(|option| option.split_once('=')) {
            Some(("link-arg", argument)) => arguments.push(argument),
            Some(("link-args", several)) => arguments.extend(several.split_whitespace()),
            _ => {}
        }
    }
    arguments
}

/// Which compiler links, as far as cargo says. `None`: it is not known, or is not to be asked.
pub(crate) fn compiler(variable: &dyn Fn(&str) -> String) -> Option<String> {
    if variable("CARGO_CFG_TARGET_ENV") != "gnu" {
        return None;
    }
    match variable("RUSTC_LINKER") {
        linker if !linker.is_empty() => Some(linker),
        _ => (variable("HOST") == variable("TARGET")).then(|| "cc".to_owned()),
    }
}

/// Where the compiler finds a file to link with. Asked for one that it does not have, it answers with the bare name.
fn file_of(compiler: &str, name: &str) -> Option<PathBuf> {
    let output = Command::new(compiler).arg(format!("-print-file-name={name}")).output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.is_absolute().then_some(path)
}
