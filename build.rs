//! Links the unwinder of gcc into the binary, so that it needs no library beyond libc.
//!
//! Rust asks the linker for `-lgcc_s`. Where gcc has the same code as an archive (`libgcc_eh.a`), a linker script of that
//! name in a directory that is searched first stands for it. Elsewhere (musl, another compiler, cross builds) nothing is
//! changed, and the binary needs `libgcc_s.so.1` as any other Rust program does.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    if variable("CARGO_CFG_TARGET_ENV") != "gnu" || variable("HOST") != variable("TARGET") {
        return;
    }
    if archive().is_none() {
        return;
    }
    let directory = PathBuf::from(variable("OUT_DIR"));
    if std::fs::write(directory.join("libgcc_s.so"), "INPUT(-lgcc_eh -lgcc)\n").is_ok() {
        println!("cargo:rustc-link-search=native={}", directory.display());
    }
}

/// gcc's static unwinder, if gcc has one: asked for a file it does not have, it answers with the bare name.
fn archive() -> Option<PathBuf> {
    let output = Command::new("cc").arg("-print-file-name=libgcc_eh.a").output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.is_absolute().then_some(path)
}
