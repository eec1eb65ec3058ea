//! `src/coverage/calculate.py` by itself, with emerge's own Python: what the program does not show.

use std::path::Path;
use std::process::{Command, Stdio};

use super::why::other_portage;
use crate::harness::portage::test_environment;

fn with(venv: &Path, base: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/portage/calculate-test.py");
    let mut command = Command::new(venv.join("bin/python"));
    let output = command.arg("-B").arg(script).arg(base).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn emerges_own_calculation() {
    let Some(environment) = test_environment() else { return };
    with(&environment.join("venv"), &environment.join("env"));
}

#[test]
#[ignore = "group portages: installs an older Portage from PyPI"]
fn emerges_own_calculation_with_portage_3_0_65() {
    let (venv, base) = other_portage("3.0.65");
    with(&venv, &base);
}

#[test]
#[ignore = "group portages: installs an older Portage from PyPI"]
fn emerges_own_calculation_with_portage_3_0_77() {
    let (venv, base) = other_portage("3.0.77");
    with(&venv, &base);
}
