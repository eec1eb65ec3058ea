//! The `Packages` file that Portage keeps in PKGDIR. The text of its entries is copied unchanged.
//!
//! An [`Index`](super::Index) comes from a binhost, and its entries have to be verifiable. A
//! [`Listing`] is the administrator's own. All that Portage writes there is accepted, also entries
//! without digests. Stanzas without CPV or with bytes that cannot be text are left out.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Seek as _, Write};
use std::os::unix::fs::FileExt as _;

use super::line::StanzaReader;
use super::stanza::{Fields, ListedEntry, decoded};
use super::{Header, MAX_ENTRIES, Stanza};

/// The longest listing that is read, in bytes. The limit exceeds several binhosts' indexes
/// together, which Portage writes into this file.
const MAX_LISTING: u64 = 2 << 30;

/// A parsed listing. The texts of its entries stay in the file.
#[derive(Debug, Default)]
pub struct Listing {
    header: Header,
    entries: Vec<ListedEntry>,
    text: Option<File>,
}

impl Listing {
    /// Parses `text`, which stays open for its entries, and keeps the entries for which `wanted`
    /// returns true. A file that Portage would not read as an index has no entries.
    ///
    /// # Errors
    /// Reading fails. EFBIG: the file has more than 2 GiB, or more than [`MAX_ENTRIES`] wanted
    /// entries.
    pub fn parse(mut text: File, mut wanted: impl FnMut(&ListedEntry) -> bool) -> io::Result<Self> {
        let too_large = || io::Error::from_raw_os_error(libc::EFBIG);
        if text.metadata()?.len() > MAX_LISTING {
            return Err(too_large());
        }
        text.rewind()?;
        let mut reader = StanzaReader::new(BufReader::with_capacity(64 << 10, &text));
        let header = reader.next()?.map(|stanza| Header::of(&decoded(stanza.text))).unwrap_or_default();
        let mut entries: Vec<ListedEntry> = Vec::new();
        let readable = header.get("VERSION").and_then(|version| version.trim().parse::<i64>().ok());
        if readable.is_none_or(|version| version > 0) {
            return Ok(Self::default());
        }
        while let Some(stanza) = reader.next()? {
            let text = decoded(stanza.text);
            let fields = Fields::from_text(&text);
            if stanza.text.is_empty() || !fields.is_entry() {
                break;
            }
            let listed = fields.listed((stanza.offset, stanza.text.len() as u32)).filter(|_| !stanza.too_long);
            let Some(listed) = listed.filter(|listed| wanted(listed)) else { continue };
            if entries.len() >= MAX_ENTRIES {
                return Err(too_large());
            }
            entries.push(listed);
        }
        drop(reader);
        Ok(Self { header, entries, text: Some(text) })
    }

    /// The listing with only the entries that `keep` accepts.
    ///
    /// # Errors
    /// There are too many open files.
    pub(crate) fn retained(&self, keep: impl Fn(&ListedEntry) -> bool) -> io::Result<Self> {
        let text = self.text.as_ref().map(File::try_clone).transpose()?;
        let entries = self.entries.iter().filter(|entry| keep(entry)).cloned().collect();
        Ok(Self { header: self.header.clone(), entries, text })
    }

    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The entries, in the order of the file.
    #[must_use]
    pub fn entries(&self) -> &[ListedEntry] {
        &self.entries
    }

    /// The text of an entry.
    ///
    /// # Errors
    /// The text cannot be read any more.
    pub fn stanza(&self, entry: &ListedEntry) -> io::Result<Stanza> {
        let mut bytes = vec![0; entry.stanza.1 as usize];
        match &self.text {
            Some(text) => text.read_exact_at(&mut bytes, entry.stanza.0)?,
            None => return Err(io::ErrorKind::NotFound.into()),
        }
        // The file may end without a line end, and more text will follow the stanza.
        if !bytes.ends_with(b"\n") {
            bytes.push(b'\n');
        }
        Ok(Stanza::read(bytes))
    }

    /// Writes the listing again with the entries that `keep` accepts, followed by `more`. The
    /// header always gets a VERSION, and a new TIMESTAMP if one is given.
    ///
    /// # Errors
    /// Reading the text or writing `out` fails.
    pub fn write(
        &self,
        keep: impl Fn(&ListedEntry) -> bool,
        more: &[Stanza],
        timestamp: Option<i64>,
        out: impl Write,
    ) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(64 << 10, out);
        let kept: Vec<&ListedEntry> = self.entries.iter().filter(|entry| keep(entry)).collect();
        let mut header = self.header.clone();
        header.set("PACKAGES", kept.len() + more.len());
        if header.get("VERSION").is_none() {
            header.set("VERSION", 0);
        }
        timestamp.into_iter().for_each(|time| header.set("TIMESTAMP", time));
        for (key, value) in header.pairs().filter(|(_, value)| !value.is_empty()) {
            writeln!(out, "{key}: {value}")?;
        }
        out.write_all(b"\n")?;
        for entry in kept {
            writeln!(out, "{}", self.stanza(entry)?.0)?;
        }
        for stanza in more {
            writeln!(out, "{}", stanza.0)?;
        }
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BinhostId, Index, IndexRenderer, View};
    use super::*;
    use std::sync::Arc;

    const MD5: &str = "MD5: d41d8cd98f00b204e9800998ecf8427e\n";

    fn file(text: &str) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn listing(text: &str) -> Listing {
        Listing::parse(file(text), |_| true).unwrap()
    }

    #[test]
    fn what_portage_wrote_is_carried_on() {
        let text = "ACCEPT_KEYWORDS: amd64\nPACKAGES: 3\nTIMESTAMP: 7\nVERSION: 0\n\n\
                    CPV: a/b-1\nDESC:  odd\nMTIME: 5\nPATH: a/b-1.xpak\nSIZE: 3\n\nCPV: a/c-1\n\nDESC: no name\n\n";
        let listing = listing(text);
        let paths: Vec<&str> = listing.entries().iter().map(|entry| &*entry.path).collect();
        assert_eq!(paths, ["a/b-1.xpak", "a/c-1.tbz2"]);
        let written = |keep: &dyn Fn(&ListedEntry) -> bool, more: &[Stanza]| {
            let mut out = Vec::new();
            listing.write(keep, more, None, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            written(&|entry| entry.size == Some(3), &[Stanza::of([("CPV", "x/y-1"), ("SLOT", "0")])]),
            "ACCEPT_KEYWORDS: amd64\nPACKAGES: 2\nTIMESTAMP: 7\nVERSION: 0\n\n\
             CPV: a/b-1\nDESC:  odd\nMTIME: 5\nPATH: a/b-1.xpak\nSIZE: 3\n\nCPV: x/y-1\nSLOT: 0\n\n"
        );
    }

    #[test]
    fn a_file_may_end_without_a_line_end() {
        let listing = listing("VERSION: 0\n\nCPV: a/b-1\nDESC: last");
        let mut out = Vec::new();
        listing.write(|_| true, &[Stanza::of([("CPV", "x/y-1")])], None, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.ends_with("\n\nCPV: a/b-1\nDESC: last\n\nCPV: x/y-1\n\n"), "{text}");
        let (mut out, view) = (Vec::new(), View::whole(BinhostId(0), Arc::new(Index::empty())));
        IndexRenderer::beneath(&view, &listing, &|_| false).unwrap().render(&mut out, 42).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.ends_with("\nCPV: a/b-1\nDESC: last\nREPO: \nUSER_PATCHES: \n\n"), "{text}");
    }

    #[test]
    fn no_more_is_kept_than_is_wanted_and_can_be() {
        let many = "VERSION: 0\n\n".to_owned() + &"CPV: a/b-1\n\n".repeat(MAX_ENTRIES + 1);
        assert!(Listing::parse(file(&many), |_| false).unwrap().entries().is_empty());
        let long = tempfile::tempfile().unwrap();
        long.set_len(MAX_LISTING + 1).unwrap();
        for refused in [Listing::parse(file(&many), |_| true), Listing::parse(long, |_| true)] {
            assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EFBIG));
        }
    }

    #[test]
    fn what_portage_would_not_read_has_no_entries() {
        for text in ["", "nonsense", "VERSION: 1\n\nCPV: a/b-1\n\n", "PACKAGES: 1\n\nCPV: a/b-1\n\n"] {
            assert!(listing(text).entries().is_empty(), "{text}");
        }
        let mut out = Vec::new();
        Listing::default().write(|_| true, &[], Some(9), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "PACKAGES: 0\nTIMESTAMP: 9\nVERSION: 0\n\n");
    }

    #[test]
    fn local_entries_stand_in_front() {
        let remote = format!(
            "VERSION: 0\nTIMESTAMP: 5\nCHOST: remote\nREPO: r\nUSE_EXPAND: A\n\n\
             CPV: a/same-1\nPATH: there.xpak\nSIZE: 5\nMTIME: 3\n{MD5}\nCPV: a/over-1\nPATH: over.xpak\nSIZE: 6\n{MD5}\n\
             CPV: a/other-1\nPATH: other.xpak\nSIZE: 5\nMTIME: 3\n{MD5}\n"
        );
        let view = View::whole(BinhostId(0), Arc::new(Index::parse(file(&remote)).unwrap()));
        let local = listing(
            "CHOST: local\nREPO: r\nTIMESTAMP: 8\nUSE_EXPAND: B\nVERSION: 0\n\n\
             CPV: a/same-1\nMTIME: 3\nPATH: here.xpak\nSIZE: 5\n\n",
        );
        let mut out = Vec::new();
        let told =
            IndexRenderer::beneath(&view, &local, &|path| path == "over.xpak").unwrap().render(&mut out, 42).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            format!(
                "CHOST: local\nREPO: r\nUSE_EXPAND: A B\nPACKAGES: 2\nTIMESTAMP: 8\nVERSION: 0\n\n\
                 CPV: a/same-1\nMTIME: 3\nPATH: here.xpak\nSIZE: 5\nUSER_PATCHES: \n\n\
                 CPV: a/other-1\nCHOST: remote\n{MD5}PATH: other.xpak\nSIZE: 5\nMTIME: 3\nUSER_PATCHES: \n\n"
            )
        );
        assert_eq!(told.timestamp, 8);
    }
}
