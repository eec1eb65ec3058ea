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

/// Numbers, names and digests that differ from run to run.
fn without_numbers(line: &str) -> String {
    line.trim().chars().filter(|c| !c.is_ascii_hexdigit() && !matches!(c, '.' | ' ')).collect()
}

#[test]
fn the_readme_has_the_output_of_the_demo() {
    if !can_mount() {
        return;
    }
    let output = Command::new(binary()).arg("demo").output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let readme = include_str!("../../README.md");
    let (_, shown) = readme.split_once("```text\n").unwrap();
    let (shown, _) = shown.split_once("\n```").unwrap();
    let [shown, printed] = [shown, &*out].map(|text| -> Vec<String> {
        // Without passthrough, as on older kernels, this line has other words.
        let lines = text.trim().lines().filter(|line| !line.contains("downloaded once"));
        lines.map(without_numbers).collect()
    });
    assert_eq!(shown, printed);
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
