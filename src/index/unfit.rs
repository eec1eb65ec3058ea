//! Lists the entries that parsing an index left out, by reading the text once more.
//!
//! [`Dropped`](super::Dropped) only counts them. Their text stays on disk, because only diagnostics
//! need it.

use std::collections::{HashMap, HashSet};
use std::io;

use super::drop_reason::DropReason;
use super::line::StanzaReader;
use super::stanza::{Fields, decoded};
use super::{Entry, Index, Stanza};

/// An entry that was left out.
#[derive(Debug)]
pub struct DroppedEntry<'a> {
    pub reason: DropReason,
    /// The unparsed CPV, which need not be valid.
    pub cpv: &'a str,
    /// The text of the entry; only its beginning where it is too long.
    pub stanza: &'a Stanza,
}

/// A valid entry that is not among the records.
struct Superseded {
    entry: Entry,
    stanza: (u64, u32),
    /// Whether a later entry has the same instance key.
    same_instance: bool,
}

impl Index {
    /// Calls `told` with each entry that was left out.
    ///
    /// # Errors
    /// The text cannot be read any more.
    pub fn unfit(&self, told: &mut dyn FnMut(DroppedEntry<'_>)) -> io::Result<()> {
        let Some(text) = self.text.as_ref().filter(|_| self.dropped.total() > 0) else { return Ok(()) };
        let kept: HashSet<u64> = self.records.iter().map(|record| record.stanza.0).collect();
        let mut superseded: HashMap<[u8; 16], Vec<Superseded>> = HashMap::new();
        let mut reader = StanzaReader::new(text.reader());
        reader.next()?;
        while let Some(raw) = reader.next()? {
            let bytes = decoded(raw.text);
            let fields = Fields::from_text(&bytes);
            if !raw.too_long && !fields.is_entry() {
                break;
            }
            let place = (raw.offset, raw.text.len() as u32);
            match fields.entry().map_err(|reason| (reason, fields.name())) {
                Ok(_) if raw.too_long => tell(told, DropReason::TooLong, fields.name(), &bytes),
                Err((_, name)) if raw.too_long => tell(told, DropReason::TooLong, name, &bytes),
                Err((reason, name)) => tell(told, reason, name, &bytes),
                Ok(entry) => {
                    let same = superseded.entry(entry.instance()).or_default();
                    same.iter_mut().for_each(|earlier| earlier.same_instance = true);
                    if !kept.contains(&raw.offset) {
                        same.push(Superseded { entry, stanza: place, same_instance: false });
                    }
                }
            }
        }
        drop(reader);
        for Superseded { entry, stanza: (offset, length), same_instance } in superseded.into_values().flatten() {
            let reason = match same_instance {
                true => DropReason::DuplicateInstance,
                false if self.has_path(entry.path.as_str()) => DropReason::DuplicatePath,
                false => DropReason::PathIsDirectory,
            };
            let mut bytes = vec![0; length as usize];
            text.read_exact_at(&mut bytes, offset)?;
            tell(told, reason, entry.cpv.to_string(), &decoded(&bytes));
        }
        Ok(())
    }

    fn has_path(&self, path: &str) -> bool {
        self.records.binary_search_by(|record| super::by_parts(self.path(record), path)).is_ok()
    }
}

fn tell(told: &mut dyn FnMut(DroppedEntry<'_>), reason: DropReason, cpv: String, text: &str) {
    told(DroppedEntry { reason, cpv: &cpv, stanza: &Stanza(text.to_owned()) });
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn each_entry_that_is_counted_is_told() {
        let digest = "SIZE: 5\nMD5: d41d8cd98f00b204e9800998ecf8427e\n";
        let long = format!("DESC: {}\n", "x".repeat(2 << 20));
        let mut text = "VERSION: 0\n\n".to_owned();
        for (cpv, more) in [
            ("a/good-1", "PATH: good.xpak\n"),
            ("no cpv", ""),
            ("a/absolute-1", "PATH: /etc/passwd\n"),
            ("a/size-1", "SIZE: 0\n"),
            ("a/digest-1", "MD5: 00\n"),
            ("a/nul-1", "DESC: \0\n"),
            ("a/long-1", &long),
            ("a/twice-1", "PATH: twice.xpak\n"),
            ("a/twice-1", "PATH: again.xpak\n"),
            ("a/place-1", "PATH: same.xpak\nBUILD_TIME: 1\n"),
            ("a/place-2", "PATH: same.xpak\nBUILD_TIME: 2\n"),
            ("a/directory-1", "PATH: dir\n"),
            ("a/below-1", "PATH: dir/below.xpak\n"),
        ] {
            text += &format!("CPV: {cpv}\n{digest}{more}\n");
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let index = Index::parse(file).unwrap();
        let mut found = Vec::new();
        index.unfit(&mut |unfit| found.push((unfit.reason, unfit.cpv.to_owned()))).unwrap();
        found.sort();
        let expected = [
            (DropReason::InvalidCpv, "no cpv"),
            (DropReason::UnsafePath, "a/absolute-1"),
            (DropReason::BadSize, "a/size-1"),
            (DropReason::NoDigest, "a/digest-1"),
            (DropReason::NotText, "a/nul-1"),
            (DropReason::TooLong, "a/long-1"),
            (DropReason::DuplicateInstance, "a/twice-1"),
            (DropReason::DuplicatePath, "a/place-1"),
            (DropReason::PathIsDirectory, "a/directory-1"),
        ]
        .map(|(reason, cpv)| (reason, cpv.to_owned()));
        assert_eq!(found, expected);
        assert_eq!(index.dropped().total() as usize, expected.len());
        for (reason, _) in expected {
            assert_eq!(index.dropped().count(reason), 1, "{reason}");
        }
    }
}
