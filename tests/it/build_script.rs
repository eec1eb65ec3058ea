//! `build.rs`: which compiler and linker it asks.

#[allow(dead_code, clippy::print_stdout, reason = "cargo runs the rest")]
#[path = "../../build.rs"]
mod script;

use script::{compiler, linker_arguments};

#[test]
fn a_cross_build_asks_its_own_linker() {
    let (host, other) = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu");
    let asked = |target: &str, environment: &str, linker: &str| {
        compiler(&|name| {
            let values =
                [("HOST", host), ("TARGET", target), ("CARGO_CFG_TARGET_ENV", environment), ("RUSTC_LINKER", linker)];
            values.iter().find(|(key, _)| *key == name).unwrap().1.to_owned()
        })
    };
    assert_eq!(asked(host, "gnu", "").as_deref(), Some("cc"));
    assert_eq!(asked(other, "gnu", "aarch64-linux-gnu-gcc").as_deref(), Some("aarch64-linux-gnu-gcc"));
    assert_eq!(asked(other, "gnu", ""), None);
    assert_eq!(asked(other, "musl", "aarch64-linux-musl-gcc"), None);
}

#[test]
fn a_trial_link_uses_the_linker_that_rustflags_name() {
    let flags =
        ["-C", "link-arg=-fuse-ld=gold", "-Clink-args=-s  -Wl,-O1", "-C", "opt-level=3", "--cfg", "link-arg=x", "-C"];
    assert_eq!(linker_arguments(&flags.join("\x1f")), ["-fuse-ld=gold", "-s", "-Wl,-O1"]);
    assert!(linker_arguments("").is_empty());
}
