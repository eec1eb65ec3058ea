//! Two things that the program takes from where it is built: its date, and the unwinder of gcc.
//!
//! **Date** (`BINHOSTFS_BUILD_DATE`, seconds since the epoch): a system clock that shows less is not set. It is the same for the
//! same sources: SOURCE_DATE_EPOCH where the environment has it, else the newest date in a heading of CHANGELOG.md
//! (`## 1.2.3 (2027-01-31)`), and never less than [`WRITTEN`].
//!
//! **Unwinder:** it is linked into the binary, so that it needs no library beyond libc. Rust asks the linker for `-lgcc_s`. Where
//! gcc has the same code as an archive (`libgcc_eh.a`), a linker script of that name in a directory that is searched first stands
//! for it. A cross build asks the linker that cargo is told of (`CARGO_TARGET_…_LINKER`). Elsewhere (musl, another compiler)
//! nothing is changed, and the binary needs `libgcc_s.so.1` as any other Rust program does.

use std::path::PathBuf;
use std::process::Command;

/// 2026-11-22: the first version was written.
const WRITTEN: u64 = 1_795_305_600;
const DAY: u64 = 86400;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-env=BINHOSTFS_BUILD_DATE={}", build_date());
    link_unwinder();
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

fn link_unwinder() {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    println!("cargo:rerun-if-env-changed=RUSTC_LINKER");
    if compiler(&variable).and_then(|compiler| archive(&compiler)).is_none() {
        return;
    }
    let directory = PathBuf::from(variable("OUT_DIR"));
    if std::fs::write(directory.join("libgcc_s.so"), "INPUT(-lgcc_eh -lgcc)\n").is_ok() {
        println!("cargo:rustc-link-search=native={}", directory.display());
    }
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

/// gcc's static unwinder, if gcc has one: asked for a file it does not have, it answers with the bare name.
fn archive(compiler: &str) -> Option<PathBuf> {
    let output = Command::new(compiler).arg("-print-file-name=libgcc_eh.a").output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.is_absolute().then_some(path)
}
