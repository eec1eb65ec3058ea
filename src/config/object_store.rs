//! The object store of `[object-store]`, and the key with which its requests are signed.
//!
//! The key comes from the file that `credentials` names, else from `object-store` in the
//! credentials directory, else from the environment. No output ever shows the secret.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::options::MountOptions;
use super::{BinhostUrl, ConfigError, Features, StoreAccess, credentials_directory};
use crate::portage::{Report, SourceLocation, Sourced, ValueSource};

/// The name of the file in the credentials directory.
const NAME: &str = "object-store";
/// The variables of the environment, as other programs for object stores have them.
const ID: &str = "AWS_ACCESS_KEY_ID";
const SECRET: &str = "AWS_SECRET_ACCESS_KEY";
const TOKEN: &str = "AWS_SESSION_TOKEN";

/// An object store, with all that is needed to ask it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectStoreConfig {
    /// The nodes, in the order in which they are asked; never empty.
    pub endpoints: Vec<BinhostUrl>,
    pub bucket: String,
    /// The beginning of all keys of objects, without a slash at the end; may be empty.
    pub prefix: String,
    pub region: String,
    /// Whether the bucket is in the path, and not in front of the host's name.
    pub path_style: bool,
    pub access: StoreAccess,
    /// After so long the store removes an object that is not written again. `None`: never.
    pub expiry: Option<Duration>,
    /// Whether one machine fetches a large package, and the others wait for it.
    pub claims: bool,
    /// `None`: requests are not signed.
    pub key: Option<AccessKey>,
}

/// The key with which requests are signed.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct AccessKey {
    pub id: String,
    pub secret: String,
    /// The token of a key that is lent for a while.
    pub token: Option<String>,
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl ObjectStoreConfig {
    /// The store of the section at `section`.
    ///
    /// # Errors
    /// An option is missing that has no default, the options do not go together, or this program
    /// cannot ask the store.
    pub(super) fn new(
        section: &SourceLocation,
        options: &MountOptions,
        features: Features,
        report: &mut Report,
    ) -> Result<Self, ConfigError> {
        let location = || section.clone();
        if !features.object_store {
            return Err(ConfigError::NoObjectStores { location: location() });
        }
        let (endpoints, bucket) = (options.store_endpoints.clone(), options.store_bucket.clone());
        let missing = match (endpoints.is_empty(), bucket.is_empty()) {
            (true, _) => Some("endpoints = [\"http://store.lan:3900\"]"),
            (false, true) => Some("bucket = \"binpkgs\""),
            (false, false) => None,
        };
        if let Some(missing) = missing {
            return Err(ConfigError::ObjectStore { location: location(), missing });
        }
        if !options.store_path_style {
            if let Some(endpoint) = endpoints.iter().find(|url| !url.has_host_name()).cloned() {
                return Err(ConfigError::StoreAddress { location: location(), endpoint });
            }
            if !is_host_name(&bucket) {
                return Err(ConfigError::StoreBucket { location: location(), bucket });
            }
        }
        let endpoints = Sourced { value: endpoints, source: ValueSource::File(location()) };
        features.check_urls(&endpoints)?;
        let variable = |name: &str| std::env::var_os(name);
        let key = AccessKey::find(options.store_credentials.as_deref(), credentials_directory().as_deref(), variable);
        let key = key.unwrap_or_else(|problem| {
            report.warn(format!("{problem}; requests to the object store are not signed, and nothing is stored"));
            None
        });
        Ok(Self {
            endpoints: endpoints.value,
            bucket,
            prefix: options.store_prefix.clone(),
            region: options.store_region.clone(),
            path_style: options.store_path_style,
            access: options.store_access,
            expiry: Some(options.store_expiry).filter(|expiry| !expiry.is_zero()),
            claims: options.store_claims,
            key,
        })
    }
}

/// Whether a bucket can be the first labels of a host's name.
fn is_host_name(bucket: &str) -> bool {
    let is_label = |label: &str| {
        let plain = label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        plain && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    bucket.split('.').all(is_label)
}

/// Whether a text may be a part of a key: it has no spaces, and no characters that HTTP does not
/// send.
fn is_key(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_graphic())
}

/// The value of a variable of the environment. `None`: it is not set, or empty.
///
/// # Errors
/// The value is no part of a key. The text does not have it, because it may be the secret.
fn key_of(name: &str, variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<String>, String> {
    let Some(value) = variable(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    let value = value.into_string().ok().filter(|value| is_key(value));
    value.map(Some).ok_or_else(|| {
        format!("{name} is no key: it has a space, a control character or a character that is not ASCII")
    })
}

impl AccessKey {
    /// The key of the first place that has one. `None`: no place has one.
    ///
    /// # Errors
    /// A file cannot be read or parsed, or a variable is no key; the text is for the administrator.
    fn find(
        named: Option<&Path>,
        directory: Option<&Path>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Option<Self>, String> {
        let passed: Option<PathBuf> = directory.map(|directory| directory.join(NAME)).filter(|path| path.exists());
        if let Some(path) = named.or(passed.as_deref()) {
            let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            return Self::parse(&text).map(Some).map_err(|error| format!("{}: {error}", path.display()));
        }
        let half = |missing| {
            Err(format!(
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together, and {missing} is not set, or empty"
            ))
        };
        match (key_of(ID, &variable)?, key_of(SECRET, &variable)?) {
            (Some(id), Some(secret)) => Ok(Some(Self { id, secret, token: key_of(TOKEN, &variable)? })),
            (None, None) => Ok(None),
            (None, Some(_)) => half(ID),
            (Some(_), None) => half(SECRET),
        }
    }

    /// Parses the lines of a file like ~/.aws/credentials that has one profile.
    fn parse(text: &str) -> Result<Self, String> {
        let mut key = Self::default();
        for (number, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with(['#', ';', '[']) {
                continue;
            }
            // No message shows the line, because it may be the secret.
            let number = number + 1;
            let (name, value) = line.split_once('=').ok_or_else(|| format!("line {number} is not `NAME = VALUE`"))?;
            let value = value.trim();
            if value.is_empty() || !is_key(value) {
                return Err(format!("line {number} has a value that is no key"));
            }
            let field = match name.trim() {
                "aws_access_key_id" => &mut key.id,
                "aws_secret_access_key" => &mut key.secret,
                "aws_session_token" => key.token.get_or_insert_default(),
                _ => {
                    return Err(format!(
                        "line {number} is none of aws_access_key_id, aws_secret_access_key and aws_session_token"
                    ));
                }
            };
            value.clone_into(field);
        }
        match (key.id.is_empty(), key.secret.is_empty()) {
            (false, false) => Ok(key),
            (true, _) => Err("it has no line `aws_access_key_id = ID`".to_owned()),
            (false, true) => Err("it has no line `aws_secret_access_key = SECRET`".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    const TEXT: &str = "# ours\n[default]\naws_access_key_id = GK1\naws_secret_access_key=s3cret/+=\n";

    #[test]
    fn a_file_has_a_key() {
        let key = AccessKey::parse(TEXT).unwrap();
        assert_eq!((key.id.as_str(), key.secret.as_str(), &key.token), ("GK1", "s3cret/+=", &None));
        let with_token = AccessKey::parse(&format!("{TEXT}aws_session_token = t\n")).unwrap();
        assert_eq!(with_token.token.as_deref(), Some("t"));
        for (wrong, says) in [
            ("", "it has no line `aws_access_key_id = ID`"),
            ("aws_access_key_id = a", "it has no line `aws_secret_access_key = SECRET`"),
            ("s3cret", "line 1 is not `NAME = VALUE`"),
            ("\naws_secret_access_key = s3 cret", "line 2 has a value that is no key"),
            ("aws_secret_access_key =", "line 1 has a value that is no key"),
            ("secret = s3cret", "line 1 is none of aws_access_key_id,"),
        ] {
            let error = AccessKey::parse(wrong).unwrap_err();
            assert!(error.starts_with(says) && !error.contains("s3"), "{error}");
        }
        assert!(!format!("{key:?} {with_token:?}").contains("s3cret"));
    }

    #[test]
    fn the_first_place_that_has_a_key_counts() {
        let place = tempfile::tempdir().unwrap();
        let (file, directory) = (place.path().join("own"), place.path().join("credentials"));
        let id = |named: Option<&Path>, directory: Option<&Path>, environment: bool| {
            let variable = |name: &str| environment.then(|| OsString::from(format!("of-{name}")));
            AccessKey::find(named, directory, variable).map(|key| key.map(|key| key.id))
        };
        assert_eq!(id(None, None, false), Ok(None));
        assert_eq!(id(None, Some(&directory), true), Ok(Some("of-AWS_ACCESS_KEY_ID".to_owned())));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join(NAME), TEXT.replace("GK1", "GK2")).unwrap();
        assert_eq!(id(None, Some(&directory), true), Ok(Some("GK2".to_owned())));
        // What is named must be there.
        assert!(id(Some(&file), Some(&directory), true).unwrap_err().contains("/own: "));
        fs::write(&file, TEXT).unwrap();
        assert_eq!(id(Some(&file), Some(&directory), true), Ok(Some("GK1".to_owned())));
    }

    /// What three variables with these values are: the key, and its token.
    fn of_variables(values: [&[u8]; 3]) -> Result<Option<(String, Option<String>)>, String> {
        let variable = |name: &str| {
            let at = [ID, SECRET, TOKEN].iter().position(|known| *known == name).unwrap();
            Some(OsString::from_vec(values[at].to_vec()))
        };
        AccessKey::find(None, None, variable).map(|key| key.map(|key| (key.id, key.token)))
    }

    #[test]
    fn variables_have_a_whole_key() {
        assert_eq!(of_variables([b"GK1", b"s3/+=", b"t"]), Ok(Some(("GK1".to_owned(), Some("t".to_owned())))));
        assert_eq!(of_variables([b"GK1", b"s3", b""]), Ok(Some(("GK1".to_owned(), None))));
        assert_eq!(of_variables([b"", b"", b"t"]), Ok(None));
        assert_eq!(AccessKey::find(None, None, |_| None), Ok(None));
        let halves: [([&[u8]; 3], &str); 2] = [([b"GK1", b"", b""], SECRET), ([b"", b"s3", b""], ID)];
        for (values, name) in halves {
            let error = of_variables(values).unwrap_err();
            assert!(error.ends_with(&format!("belong together, and {name} is not set, or empty")), "{error}");
        }
        let bad: [&[u8]; 6] =
            [b"se cret", b"secret ", b"secret\n", b"se\0cret", "s\u{e9}cret".as_bytes(), b"secret\xff"];
        for value in bad {
            for (at, name) in [ID, SECRET, TOKEN].into_iter().enumerate() {
                let mut values: [&[u8]; 3] = [b"GK1", b"s3", b"t"];
                values[at] = value;
                let error = of_variables(values).unwrap_err();
                assert!(error.starts_with(&format!("{name} is no key: ")) && !error.contains("cret"), "{error}");
            }
        }
    }

    #[test]
    fn some_buckets_are_no_part_of_a_name() {
        for (bucket, fits) in [
            ("pkgs", true),
            ("a.b-c.1", true),
            ("Pkgs", false),
            ("bin_pkgs", false),
            ("-pkgs", false),
            ("a..b", false),
            ("pkgs.", false),
        ] {
            assert_eq!(is_host_name(bucket), fits, "{bucket}");
        }
    }
}
