//! Parses one entry's stanza into typed values.

use std::borrow::Cow;
use std::io;

use sha2::{Digest as _, Sha256};

use super::aux_key::{AuxKey, AuxKeys};
use super::drop_reason::DropReason;
use super::line::pairs;
use super::{Entry, EntryId, PkgPath, changed_on_disk};
use crate::portage::Cpv;

/// Keys that this module interprets and that rendering writes new. MTIME has two names.
pub(super) const OWN_KEYS: [&str; 9] =
    ["CPV", "PATH", "SIZE", "MTIME", "_mtime_", "MD5", "SHA1", "BUILD_ID", "BUILD_TIME"];

/// Other keys that Portage takes from an entry (`_pkgindex_allowed_pkg_keys`). Portage stops
/// reading at a stanza that has none of these, none of [`OWN_KEYS`] and no [`AuxKey`].
const OTHER_KEYS: [&str; 8] =
    ["DESC", "DESCRIPTION", "FEATURES", "HOMEPAGE", "PKGINDEX_URI", "REQUIRED_USE", "BASE_URI", "RESUMECOMMAND"];

/// Decodes text as Portage does: U+FFFD replaces bytes that are not UTF-8.
pub(super) fn decoded(text: &[u8]) -> Cow<'_, str> {
    // The check alone is several times as fast, and nearly all text passes it.
    str::from_utf8(text).map_or_else(|_| String::from_utf8_lossy(text), Cow::Borrowed)
}

/// The values of [`OWN_KEYS`] in one stanza. The last value of a repeated key counts.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    cpv: Option<&'a str>,
    path: Option<&'a str>,
    size: Option<&'a str>,
    mtime: Option<&'a str>,
    md5: Option<&'a str>,
    sha1: Option<&'a str>,
    build_id: Option<&'a str>,
    build_time: Option<&'a str>,
    carried: AuxKeys,
    not_text: bool,
    known: bool,
}

impl<'a> Fields<'a> {
    /// Reads the values from text that is [`decoded`].
    pub(super) fn from_text(text: &'a str) -> Self {
        // Portage reads the file in Python's text mode, where a carriage return ends a line as
        // well. Text after it would be other keys, or another entry.
        let not_text = memchr::memchr2(0, b'\r', text.as_bytes()).is_some();
        let mut fields = Self { not_text, ..Self::default() };
        for (key, value) in pairs(text) {
            let aux_key = AuxKey::of_entry(key);
            aux_key.into_iter().for_each(|key| fields.carried.insert(key));
            match key {
                "CPV" => fields.cpv = Some(value),
                "PATH" => fields.path = Some(value),
                "SIZE" => fields.size = Some(value),
                "MTIME" | "_mtime_" => fields.mtime = Some(value),
                "MD5" => fields.md5 = Some(value),
                "SHA1" => fields.sha1 = Some(value),
                "BUILD_ID" => fields.build_id = Some(value),
                "BUILD_TIME" => fields.build_time = Some(value),
                other => {
                    fields.known = fields.known || aux_key.is_some() || OTHER_KEYS.contains(&other);
                    continue;
                }
            }
            fields.known = true;
        }
        fields
    }

    /// Whether Portage would take this stanza for an entry.
    pub(super) fn is_entry(&self) -> bool {
        self.known
    }

    /// The compared keys that occur in the stanza.
    pub(super) fn carried(&self) -> AuxKeys {
        self.carried
    }

    /// The unparsed CPV, shortened, for messages.
    pub(super) fn name(&self) -> String {
        self.cpv.unwrap_or("an entry without CPV").chars().take(100).collect()
    }

    /// The part of the entry that a [`Listing`](super::Listing) keeps; `None` for a stanza without
    /// CPV or with bytes that cannot be text.
    pub(super) fn listed(&self, stanza: (u64, u32)) -> Option<ListedEntry> {
        let cpv = self.cpv.filter(|cpv| !cpv.is_empty() && !self.not_text)?;
        let path = match self.path.filter(|path| !path.is_empty()) {
            Some(path) => path.into(),
            None => format!("{cpv}.tbz2").into(),
        };
        let size = self.size.and_then(decimal);
        let mtime = self.mtime.and_then(decimal).and_then(|time| i64::try_from(time).ok());
        let numbers = Numbers {
            size: size.unwrap_or_default(),
            build_id: self.build_id.and_then(decimal),
            build_time: self.build_time.and_then(decimal).filter(|time| *time > 0),
        };
        let instance = first_16(numbers.instance(cpv, mtime));
        Some(ListedEntry { path, size, mtime, instance, stanza })
    }

    pub(super) fn entry(&self) -> Result<Entry, DropReason> {
        if self.not_text {
            return Err(DropReason::NotText);
        }
        let cpv = Cpv::parse(self.cpv.unwrap_or_default()).map_err(|_| DropReason::InvalidCpv)?;
        let path = match self.path.filter(|path| !path.is_empty()) {
            Some(path) => PkgPath::parse(path),
            None => PkgPath::parse(&format!("{cpv}.tbz2")),
        };
        let size = self.size.and_then(decimal).filter(|size| (1..=i64::MAX as u64).contains(size));
        // Portage reads a missing BUILD_TIME as 0, so it cannot distinguish the two.
        let build_time = self.build_time.and_then(decimal).filter(|t| (1..=i64::MAX as u64).contains(t));
        // MTIME must equal st_mtime. Where the entry has none, the substitute must be the same
        // every time.
        let given = self.mtime.and_then(decimal).and_then(|t| i64::try_from(t).ok());
        let mtime = given.or(build_time.map(u64::cast_signed)).filter(|t| *t > 0).unwrap_or(1);
        let digest = |text: Option<&'a str>| text.map(str::trim).filter(|t| !t.is_empty());
        let md5 = digest(self.md5).map(str::parse).transpose().map_err(|_| DropReason::NoDigest)?;
        let sha1 = digest(self.sha1).map(str::parse).transpose().map_err(|_| DropReason::NoDigest)?;
        if md5.is_none() && sha1.is_none() {
            return Err(DropReason::NoDigest);
        }
        Ok(Entry {
            cpv,
            path: path.map_err(|_| DropReason::UnsafePath)?,
            size: size.ok_or(DropReason::BadSize)?,
            mtime,
            build_id: self.build_id.and_then(decimal),
            build_time,
            md5,
            sha1,
        })
    }
}

/// The part of a listing's entry that is kept in memory.
#[derive(Debug, Clone)]
pub struct ListedEntry {
    /// PATH, also where the entry leaves it out.
    pub path: Box<str>,
    /// SIZE, where it is a number.
    pub size: Option<u64>,
    /// MTIME, where it is a number.
    pub mtime: Option<i64>,
    /// The hashed instance key, see [`Entry::instance`](super::Entry::instance).
    pub instance: [u8; 16],
    pub(super) stanza: (u64, u32),
}

/// The text of one entry as in its index, decoded as Portage does it, without the empty line after
/// it.
#[derive(Debug)]
pub struct Stanza(pub(super) String);

impl Stanza {
    /// The stanza that an index has as these bytes.
    pub(super) fn read(bytes: Vec<u8>) -> Self {
        // Nearly all text is UTF-8, and is not copied.
        Self(String::from_utf8(bytes).unwrap_or_else(|error| decoded(error.as_bytes()).into_owned()))
    }

    /// Makes the text of an entry from keys and values. White space in a value becomes one space,
    /// so each pair is one line.
    #[must_use]
    pub fn of<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let line = |(key, value): (&str, &str)| {
            let words: Vec<&str> = value.split_whitespace().collect();
            format!("{key}: {}\n", words.join(" "))
        };
        Self(pairs.into_iter().map(line).collect())
    }

    /// The value of `key`, also of keys that this program does not interpret. The last value of a
    /// repeated key counts.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs().filter(|(name, _)| *name == key).last().map(|(_, value)| value)
    }

    /// The ebuild repository of the entry, if the stanza names it.
    #[must_use]
    pub fn repository(&self) -> Option<&str> {
        self.pairs().filter(|(name, _)| matches!(*name, "REPO" | "repository")).last().map(|(_, value)| value)
    }

    /// Parses the stanza into an entry.
    ///
    /// # Errors
    /// The stanza is no valid entry any more.
    pub fn entry(&self) -> io::Result<Entry> {
        Fields::from_text(&self.0).entry().map_err(|_| changed_on_disk())
    }

    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        pairs(&self.0)
    }
}

/// Parses plain decimal digits: no sign, no spaces, no hexadecimal.
fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl Entry {
    /// The identity of the package, see [`EntryId`].
    #[must_use]
    pub fn id(&self) -> EntryId {
        let mut hash = self.instance_hash(Sha256::new_with_prefix(b"entry\0"), false);
        for digest in [self.md5.as_ref().map(|d| &d.0[..]), self.sha1.as_ref().map(|d| &d.0[..])] {
            hash.update([digest.map_or(0, |d| d.len() as u8)]);
            hash.update(digest.unwrap_or_default());
        }
        EntryId(first_16(hash))
    }

    /// Portage's instance key (CPV, BUILD_ID, SIZE, BUILD_TIME, MTIME), hashed. Portage sees only
    /// one of two entries with the same key.
    #[must_use]
    pub fn instance(&self) -> [u8; 16] {
        first_16(self.instance_hash(Sha256::new_with_prefix(b"instance\0"), true))
    }

    fn instance_hash(&self, hash: Sha256, with_mtime: bool) -> Sha256 {
        let Self { size, build_id, build_time, mtime, .. } = *self;
        let numbers = Numbers { size, build_id, build_time };
        numbers.hash(hash, self.cpv.as_str(), with_mtime.then_some(mtime))
    }
}

/// The numbers that distinguish builds of one CPV.
struct Numbers {
    size: u64,
    build_id: Option<u64>,
    build_time: Option<u64>,
}

impl Numbers {
    fn instance(&self, cpv: &str, mtime: Option<i64>) -> Sha256 {
        self.hash(Sha256::new_with_prefix(b"instance\0"), cpv, mtime)
    }

    fn hash(&self, mut hash: Sha256, cpv: &str, mtime: Option<i64>) -> Sha256 {
        hash.update(cpv);
        hash.update([0]);
        let number = |n: Option<u64>| n.map_or([0xff; 8], u64::to_be_bytes);
        hash.update(self.size.to_be_bytes());
        hash.update(number(self.build_id));
        hash.update(number(self.build_time));
        mtime.into_iter().for_each(|mtime| hash.update(mtime.to_be_bytes()));
        hash
    }
}

pub(super) fn first_16(hash: Sha256) -> [u8; 16] {
    let mut first = [0; 16];
    first.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
    first
}

impl crate::portage::KeyValues for Stanza {
    fn get(&self, key: &str) -> Option<&str> {
        self.get(key)
    }

    fn repository(&self) -> Option<&str> {
        self.repository()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "CPV: app-misc/hello-1.0\nMD5: d41d8cd98f00b204e9800998ecf8427e\nSIZE: 10\n";

    fn entry(text: &str) -> Result<Entry, DropReason> {
        Fields::from_text(text).entry()
    }

    #[test]
    fn missing_values_are_made_explicit() {
        let least = entry(GOOD).unwrap();
        assert_eq!(least.path.as_str(), "app-misc/hello-1.0.tbz2");
        assert_eq!((least.mtime, least.build_id, least.build_time), (1, None, None));
        let built = entry(&format!("{GOOD}BUILD_TIME: 1700000000\nBUILD_ID: 3\nPATH: \n")).unwrap();
        assert_eq!((built.mtime, built.build_id), (1_700_000_000, Some(3)));
        assert_eq!(built.path, least.path);
        assert_eq!(entry(&format!("{GOOD}_mtime_: 7\n")).unwrap().mtime, 7);
        // Portage takes 0 for a missing BUILD_TIME.
        assert_eq!(entry(&format!("{GOOD}BUILD_TIME: 0\n")).unwrap().instance(), least.instance());
    }

    #[test]
    fn bad_values_name_their_reason() {
        for (more, reason) in [
            ("CPV: nonsense\n", DropReason::InvalidCpv),
            ("PATH: /etc/passwd\n", DropReason::UnsafePath),
            ("PATH: a/../../b\n", DropReason::UnsafePath),
            ("SIZE: 0\n", DropReason::BadSize),
            ("SIZE: -1\n", DropReason::BadSize),
            ("SIZE: +1\n", DropReason::BadSize),
            ("SIZE: 0x10\n", DropReason::BadSize),
            ("SIZE: \n", DropReason::BadSize),
            ("SIZE: 99999999999999999999\n", DropReason::BadSize),
            ("SIZE: 9223372036854775808\n", DropReason::BadSize),
            ("MD5: 00\n", DropReason::NoDigest),
            ("MD5: \n", DropReason::NoDigest),
            ("DESC: a\0b\n", DropReason::NotText),
            ("DESC: a\r\rCPV: c/d-1\rPATH: /etc/shadow\n", DropReason::NotText),
        ] {
            assert_eq!(entry(&format!("{GOOD}{more}")).unwrap_err(), reason, "{more}");
        }
    }

    #[test]
    fn identity_depends_on_everything_but_the_place() {
        let one = entry(GOOD).unwrap();
        let moved = entry(&format!("{GOOD}PATH: elsewhere.xpak\nMTIME: 5\n")).unwrap();
        assert_eq!(one.id(), moved.id());
        for more in ["SIZE: 11\n", "BUILD_ID: 1\n", "BUILD_TIME: 1\n", "MD5: d41d8cd98f00b204e9800998ecf8427f\n"] {
            assert_ne!(entry(&format!("{GOOD}{more}")).unwrap().id(), one.id(), "{more}");
        }
        assert_ne!(one.instance(), moved.instance());
    }
}
