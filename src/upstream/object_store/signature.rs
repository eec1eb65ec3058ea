//! Signs requests to an object store: AWS Signature Version 4 in the Authorization header, with the
//! digest of the payload in it.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>

use std::time::SystemTime;

use httpdate::HttpDate;
use ring::hmac;
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::config::AccessKey;

/// SHA-256 of no bytes: the payload of a request without a body.
pub(super) const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// The months in an HTTP date.
pub(super) const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Headers of a request, with names in lower case.
pub(super) type Headers = Vec<(&'static str, String)>;

/// Adds what a store needs to know who asks, at the time `now`: date, digest of the payload (hex)
/// and signature. All of `headers` are signed. The parameters of `url` have to be in the order of
/// their names, and percent-encoded, slashes too.
pub(super) fn sign(
    headers: &mut Headers,
    (key, region): (&AccessKey, &str),
    (method, url): (&str, &Url),
    payload: &str,
    now: SystemTime,
) {
    let (day, time) = stamp(now);
    let date = format!("{day}T{time}Z");
    headers.push(("x-amz-date", date.clone()));
    headers.push(("x-amz-content-sha256", payload.to_owned()));
    headers.extend(key.token.clone().map(|token| ("x-amz-security-token", token)));

    let mut signed: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.trim())).collect();
    let host = host(url);
    signed.push(("host", &host));
    signed.sort_unstable();
    let lines: String = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let names = signed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let query = url.query().unwrap_or_default();
    let canonical = format!("{method}\n{}\n{query}\n{lines}\n{names}\n{payload}", path(url));

    let scope = format!("{day}/{region}/s3/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
    let secret = format!("AWS4{}", key.secret).into_bytes();
    let signing = [&*day, region, "s3", "aws4_request"].iter().fold(secret, |key, part| hmac(&key, part));
    let signature = hex(&hmac(&signing, &text));
    let id = &key.id;
    headers.push((
        "authorization",
        format!("AWS4-HMAC-SHA256 Credential={id}/{scope},SignedHeaders={names},Signature={signature}"),
    ));
}

/// Date and time as `20130524` and `000000`, in UTC.
fn stamp(now: SystemTime) -> (String, String) {
    // Fri, 24 May 2013 00:00:00 GMT
    let text = HttpDate::from(now).to_string();
    let words: Vec<&str> = text.split(' ').collect();
    let word = |at: usize| words.get(at).copied().unwrap_or_default();
    let month = 1 + MONTHS.iter().position(|month| *month == word(2)).unwrap_or_default();
    (format!("{}{month:02}{}", word(3), word(1)), word(4).replace(':', ""))
}

/// The header `Host`, as an HTTP client sends it.
fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The path, in which all but letters, digits and `-._~/` is percent-encoded.
fn path(url: &Url) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/%".contains(&byte);
    url.path().bytes().map(|byte| if plain(byte) { char::from(byte).into() } else { format!("%{byte:02X}") }).collect()
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn key(token: Option<&str>) -> AccessKey {
        AccessKey {
            id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            token: token.map(str::to_owned),
        }
    }

    /// The signature of a request at 2013-05-24, and the names of what is signed.
    fn signed(key: &AccessKey, method: &str, url: &str, mut headers: Headers, payload: &str) -> (String, String) {
        let now = UNIX_EPOCH + Duration::from_secs(1_369_353_600);
        sign(&mut headers, (key, "us-east-1"), (method, &url.parse().unwrap()), payload, now);
        let (_, said) = headers.iter().find(|(name, _)| *name == "authorization").unwrap();
        let said = said.strip_prefix(
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,SignedHeaders=",
        );
        let (names, signature) = said.unwrap().split_once(",Signature=").unwrap();
        (signature.to_owned(), names.to_owned())
    }

    /// The examples of the documentation.
    #[test]
    fn signs_as_the_documentation_does() {
        let range = vec![("range", "bytes=0-9".to_owned())];
        let (signature, names) =
            signed(&key(None), "GET", "https://examplebucket.s3.amazonaws.com/test.txt", range, EMPTY);
        assert_eq!(signature, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
        assert_eq!(names, "host;range;x-amz-content-sha256;x-amz-date");
        let list = "https://examplebucket.s3.amazonaws.com/?max-keys=2&prefix=J";
        let (signature, _) = signed(&key(None), "GET", list, Headers::new(), EMPTY);
        assert_eq!(signature, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
        let put = vec![
            ("date", "Fri, 24 May 2013 00:00:00 GMT".to_owned()),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY".to_owned()),
        ];
        let payload = hex(&Sha256::digest("Welcome to Amazon S3."));
        let (signature, _) =
            signed(&key(None), "PUT", "https://examplebucket.s3.amazonaws.com/test$file.text", put, &payload);
        assert_eq!(signature, "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
    }

    #[test]
    fn a_token_is_signed_and_no_secret_is_sent() {
        let mut headers = Headers::new();
        let url = "http://store:3900/b/k".parse().unwrap();
        sign(&mut headers, (&key(Some("tok")), "garage"), ("GET", &url), EMPTY, SystemTime::now());
        let (_, said) = headers.last().unwrap();
        assert!(said.contains("SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token,"), "{said}");
        assert!(headers.contains(&("x-amz-security-token", "tok".to_owned())));
        assert!(headers.iter().all(|(_, value)| !value.contains("wJalrX")));
        assert_eq!((host(&url), host(&"http://h/".parse().unwrap())), ("store:3900".to_owned(), "h".to_owned()));
    }

    #[test]
    fn dates_have_two_digits_each() {
        let stamp = |seconds| stamp(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(stamp(0), ("19700101".to_owned(), "000000".to_owned()));
        assert_eq!(stamp(1_764_372_245), ("20251128".to_owned(), "232405".to_owned()));
    }
}
