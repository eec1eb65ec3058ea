//! Why a request has no result: a code for programs, and a message for people.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// Messages for an unknown path and for a wrong method. Daemons that send no code send these, too.
const NO_RESOURCE: &str = "no such resource";
const NO_METHOD: &str = "not this method";

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $code:ident = $status:literal),+ $(,)?) => {
        /// The kind of an error. Codes are only ever added.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub(crate) enum ErrorCode { $($(#[doc = $doc])+ $code),+ }

        impl ErrorCode {
            /// All codes, with their meanings.
            #[cfg(test)]
            pub(crate) const ALL: &[(Self, &str)] = &[$((Self::$code, concat!($($doc),+))),+];

            /// The status of HTTP.
            pub(crate) fn status(self) -> u16 {
                match self { $(Self::$code => $status),+ }
            }
        }
    };
}

codes! {
    /// A parameter is unknown, missing or bad, or selects nothing.
    BadRequest = 400,
    /// The resource is not on this side, or does not exist.
    Forbidden = 403,
    /// The path is not known. The daemon may be older than the client.
    UnknownResource = 404,
    /// The path is known, and what the parameters name does not exist.
    NotFound = 404,
    /// The path is known, and does not have the method. The header `Allow` lists the methods.
    UnknownMethod = 405,
    /// The present state of the daemon does not admit the request.
    Conflict = 409,
    /// The request names another host than this one, over TCP.
    OtherHost = 421,
    /// The daemon is at fault. Its log has more.
    Internal = 500,
    /// The daemon tried and failed: a binhost, a disk or the configuration is at fault.
    Failed = 502,
    /// Too many requests wait already. A later attempt may succeed.
    Busy = 503,
    /// The daemon is stopping. The next daemon may answer.
    Stopping = 503,
}

impl ErrorCode {
    /// The code of an answer that has none, or one that is not known.
    fn inferred(status: u16, message: &str) -> Self {
        match status {
            400 => Self::BadRequest,
            403 => Self::Forbidden,
            404 if message == NO_RESOURCE => Self::UnknownResource,
            404 => Self::NotFound,
            405 => Self::UnknownMethod,
            409 => Self::Conflict,
            421 => Self::OtherHost,
            503 => Self::Stopping,
            502 => Self::Failed,
            _ => Self::Internal,
        }
    }
}

/// Why a request has no result. As JSON: `{"error": MESSAGE, "code": CODE}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    /// The failure in words, for a person.
    #[serde(rename = "error")]
    message: String,
    /// The kind of failure, for a program.
    code: ErrorCode,
}

impl ApiError {
    /// The message is the whole text of `reason`: one that has causes of its own formats them.
    pub(crate) fn new(code: ErrorCode, reason: impl ToString) -> Self {
        Self { message: reason.to_string(), code }
    }

    /// A parameter is wrong.
    pub(crate) fn bad_request(reason: impl ToString) -> Self {
        Self::new(ErrorCode::BadRequest, reason)
    }

    /// The daemon is stopping, and drops the request.
    pub(crate) fn stopping() -> Self {
        Self::new(ErrorCode::Stopping, "the daemon is stopping")
    }

    /// The daemon does not know the path.
    pub(crate) fn unknown_resource() -> Self {
        Self::new(ErrorCode::UnknownResource, NO_RESOURCE)
    }

    /// The path does not have the method.
    pub(crate) fn unknown_method() -> Self {
        Self::new(ErrorCode::UnknownMethod, NO_METHOD)
    }

    pub(crate) fn code(&self) -> ErrorCode {
        self.code
    }
}

/// An [`ApiError`] as a client reads it. Daemons that send no code, and codes of newer daemons, are
/// understood.
#[derive(Debug, Deserialize)]
pub(crate) struct ErrorBody {
    error: String,
    #[serde(default)]
    code: Option<CodeOnWire>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum CodeOnWire {
    Known(ErrorCode),
    Other(IgnoredAny),
}

impl ErrorBody {
    /// The error of an answer with this status of HTTP.
    pub(crate) fn into_error(self, status: u16) -> ApiError {
        let code = match self.code {
            Some(CodeOnWire::Known(code)) => code,
            Some(CodeOnWire::Other(_)) | None => ErrorCode::inferred(status, &self.error),
        };
        ApiError { message: self.error, code }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str, status: u16) -> ApiError {
        serde_json::from_str::<ErrorBody>(json).unwrap().into_error(status)
    }

    #[test]
    fn an_error_survives_json() {
        let error = ApiError::new(ErrorCode::NotFound, "there is no job 7");
        let json = serde_json::to_string(&error).unwrap();
        assert_eq!(json, r#"{"error":"there is no job 7","code":"not-found"}"#);
        assert_eq!(read(&json, error.code().status()), error);
    }

    #[test]
    fn answers_without_a_code_and_with_a_newer_one_are_understood() {
        for (json, status, code) in [
            (r#"{"summary":null,"error":"no such resource"}"#, 404, ErrorCode::UnknownResource),
            (r#"{"summary":null,"error":"there is no prefetch 7"}"#, 404, ErrorCode::NotFound),
            (r#"{"summary":null,"error":"not this method"}"#, 405, ErrorCode::UnknownMethod),
            (r#"{"packages":[],"error":"bad atom"}"#, 400, ErrorCode::BadRequest),
            (r#"{"error":"a","code":"too-hot"}"#, 409, ErrorCode::Conflict),
            (r#"{"error":"a","code":{"of":"another kind"}}"#, 418, ErrorCode::Internal),
            (r#"{"error":"a","code":null}"#, 503, ErrorCode::Stopping),
        ] {
            assert_eq!(read(json, status).code(), code, "{json}");
        }
        assert!(serde_json::from_str::<ErrorBody>(r#"{"summary":null,"error":null}"#).is_err());
        assert!(serde_json::from_str::<ErrorBody>(r#"{"packages":[]}"#).is_err());
    }

    #[test]
    fn every_code_has_the_status_of_an_error() {
        for (code, meaning) in ErrorCode::ALL {
            assert!((400..600).contains(&code.status()) && meaning.ends_with('.'), "{code:?}");
        }
    }
}
