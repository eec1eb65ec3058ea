//! Why a refresh failed, wholly or in part.

use std::fmt;

use crate::api::{ApiError, ErrorCode};

/// The failure of a refresh.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RefreshFailure {
    /// The index of the only binhost.
    #[error("{0:#}")]
    Index(anyhow::Error),
    /// The index of one of several binhosts.
    #[error("{binhost}: {error:#}")]
    IndexOf {
        /// Name of the binhost.
        binhost: String,
        /// Why there is no index.
        error: anyhow::Error,
    },
    /// Publishing the tree.
    #[error("showing it: {0:#}")]
    Publish(anyhow::Error),
}

/// All failures of a refresh.
#[derive(Debug, thiserror::Error)]
pub(crate) struct RefreshError(pub(crate) Vec<RefreshFailure>);

impl fmt::Display for RefreshError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(number, failure)| {
            let before = if number == 0 { "" } else { "; " };
            write!(f, "{before}{failure}")
        })
    }
}

impl From<RefreshError> for ApiError {
    fn from(error: RefreshError) -> Self {
        Self::new(ErrorCode::Failed, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_is_named_with_its_causes() {
        let error = || anyhow::anyhow!("no route").context("Packages");
        let alone = RefreshError(vec![RefreshFailure::Index(error())]);
        assert_eq!(alone.to_string(), "Packages: no route");
        let of = |binhost: &str| RefreshFailure::IndexOf { binhost: binhost.to_owned(), error: error() };
        let all = RefreshError(vec![of("a"), of("b"), RefreshFailure::Publish(anyhow::anyhow!("no space"))]);
        let text = "a: Packages: no route; b: Packages: no route; showing it: no space";
        assert_eq!(ApiError::from(all), ApiError::new(ErrorCode::Failed, text));
    }
}
