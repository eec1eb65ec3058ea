//! `binhostfs demo`.

use std::process::Command;

use crate::harness::{binary, can_mount};

#[test]
fn the_demo_shows_the_main_job() {
    if !can_mount() {
        return;
    }
    let output = Command::new(binary()).arg("demo").output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    for part in [
        "app-misc/demo/demo-2.0-1.gpkg.tar",
        "downloaded once",
        "Input/output error",
        "its index entry says",
        "Unmounted",
    ] {
        assert!(out.contains(part), "{part:?} is not in:\n{out}");
    }
    assert_eq!(err, "");
}

#[test]
fn without_root_the_demo_says_what_is_missing() {
    if !can_mount() {
        return;
    }
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(binary())
        .arg("demo")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(err.contains("only root can mount"), "{err}");
}

/// Of a release build; the others have what is for debuggers.
#[test]
#[cfg(not(debug_assertions))]
fn the_program_is_small_enough_for_a_router() {
    let size = std::fs::metadata(binary()).unwrap().len();
    assert!(size <= 11 << 20, "{size} bytes; the bound is 11 MiB");
}
