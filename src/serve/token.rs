//! The token that clients have to send, if one is configured.

use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::header::{AUTHORIZATION, HeaderMap};

/// Lengths that a token may have.
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=512;

/// Why the token cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    /// The file cannot be read.
    #[error("reading serve-token {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// The content is no token.
    #[error("serve-token {}: a token is one line of {} to {} visible ASCII characters; `openssl rand -hex 32` prints one", .0.display(), LENGTHS.start(), LENGTHS.end())]
    Content(PathBuf),
}

/// Checks that a file has a token.
///
/// # Errors
/// See [`TokenError`].
pub(crate) fn check_token(path: &Path) -> Result<(), TokenError> {
    ServeToken::read(path).map(drop)
}

/// A token. It is never shown.
pub(super) struct ServeToken(String);

impl fmt::Debug for ServeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServeToken(***)")
    }
}

impl ServeToken {
    /// Reads the token that is in a file, without the line end.
    pub(super) fn read(path: &Path) -> Result<Self, TokenError> {
        let text = fs::read_to_string(path).map_err(|source| TokenError::Read { path: path.to_owned(), source })?;
        let text = text.trim_ascii();
        let is_token = LENGTHS.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if is_token { Ok(Self(text.to_owned())) } else { Err(TokenError::Content(path.to_owned())) }
    }

    /// Whether a request has the token: as a bearer token, or as the password of any user, which is
    /// what Portage and wget can send.
    pub(super) fn is_in(&self, headers: &HeaderMap) -> bool {
        let sent =
            headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|text| text.split_once(' '));
        let Some((scheme, value)) = sent else { return false };
        let value = value.trim_ascii();
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.is(value.as_bytes());
        }
        let decoded = BASE64_STANDARD.decode(value).unwrap_or_default();
        let password = decoded.iter().position(|byte| *byte == b':').and_then(|colon| decoded.get(colon + 1..));
        scheme.eq_ignore_ascii_case("basic") && password.is_some_and(|password| self.is(password))
    }

    /// The time that this takes tells nothing but the length of the token.
    fn is(&self, sent: &[u8]) -> bool {
        let own = self.0.as_bytes();
        own.len() == sent.len() && own.iter().zip(sent).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn read(content: &str) -> Result<ServeToken, TokenError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        ServeToken::read(file.path())
    }

    #[test]
    fn only_the_token_is_let_in() {
        let token = read(&format!("{TOKEN}\n")).unwrap();
        let accepts = |value: &str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
            token.is_in(&headers)
        };
        let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
        for good in [
            &format!("Bearer {TOKEN}"),
            &format!("bearer  {TOKEN}"),
            &basic(&format!("emerge:{TOKEN}")),
            &basic(&format!(":{TOKEN}")),
        ] {
            assert!(accepts(good), "{good}");
        }
        for bad in [
            TOKEN,
            "Bearer",
            "Bearer x",
            &format!("Digest {TOKEN}"),
            &basic(TOKEN),
            &basic(&format!("{TOKEN}:")),
            "Basic !",
            &format!("Bearer {TOKEN}0"),
        ] {
            assert!(!accepts(bad), "{bad}");
        }
        assert!(!token.is_in(&HeaderMap::new()) && !format!("{token:?}").contains(TOKEN));
    }

    #[test]
    fn what_is_no_token_is_refused_without_being_shown() {
        for content in ["", "short", "with a space in the middle", "ümlautümlautümlaut", &"x".repeat(513)] {
            let error = read(content).unwrap_err().to_string();
            assert!(error.contains("16 to 512 visible") && (content.is_empty() || !error.contains(content)), "{error}");
        }
        let error = ServeToken::read(Path::new("/nonexistent/token")).unwrap_err().to_string();
        assert!(error.starts_with("reading serve-token /nonexistent/token: "), "{error}");
    }
}
