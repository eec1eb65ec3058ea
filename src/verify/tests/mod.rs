//! Tests of the public functions of `verify`: packages that pass, and packages that are refused.

#[allow(dead_code, reason = "shared with tests/it, each uses a part")]
#[path = "../../../tests/it/harness/chance.rs"]
mod chance;
mod container;
#[cfg(feature = "openpgp")]
mod differential;
#[allow(dead_code, reason = "shared with tests/it, each uses a part")]
pub(super) mod gpg;
#[cfg(feature = "openpgp")]
mod head;
mod hostile;
mod metadata;
mod receive;
mod sample;
#[cfg(feature = "openpgp")]
mod signed;
mod xpak;

use std::io::Write;

use super::{Policy, Receiver, Verified, VerifyError};
use crate::index::Entry;

/// Policy of a machine whose Portage reads uncompressed members.
const READER: Policy = Policy { keyring: None, uncompressed: true };

/// Receives `bytes` in chunks.
fn receive(bytes: &[u8], entry: &Entry, chunk: usize) -> Result<Verified, VerifyError> {
    receive_by(bytes, entry, chunk, &READER)
}

fn receive_by(bytes: &[u8], entry: &Entry, chunk: usize, policy: &Policy) -> Result<Verified, VerifyError> {
    let mut receiver = Receiver::new(tempfile::tempfile().unwrap(), entry.clone(), policy.clone());
    for chunk in bytes.chunks(chunk) {
        receiver.write(chunk)?;
    }
    receiver.finish()
}

/// Receives `bytes`, and checks that proving them from the disk gives the same result.
fn prove(bytes: &[u8], entry: &Entry) -> Result<Verified, VerifyError> {
    prove_by(bytes, entry, &READER)
}

fn prove_by(bytes: &[u8], entry: &Entry, policy: &Policy) -> Result<Verified, VerifyError> {
    let received = receive_by(bytes, entry, usize::MAX, policy);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    let rechecked = super::recheck(file, entry.clone(), policy);
    let outcome = |result: &Result<Verified, VerifyError>| match result {
        Ok(verified) => format!("{} {} {:?}", verified.size(), verified.digest(), verified.assurance()),
        Err(error) => error.to_string(),
    };
    assert_eq!(outcome(&received), outcome(&rechecked));
    received
}

/// Returns the error of `bytes` against an entry with their own digests.
fn fault(path: &str, bytes: &[u8]) -> VerifyError {
    prove(bytes, &sample::entry(path, bytes)).unwrap_err()
}

#[test]
fn what_crosses_threads() {
    fn sends<T: Send + Sync>() {}
    sends::<(Verified, VerifyError)>();
    fn sends_once<T: Send>() {}
    sends_once::<Receiver>();
}
