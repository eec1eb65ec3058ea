//! Renders a [`View`] as the `Packages` file that Portage reads from PKGDIR.
//!
//! Every rendered entry has to meet Portage's expectations:
//!
//! * USER_PATCHES is in every entry, if need be empty. CHOST and REPO are in the entry or in the
//!   header. Without these keys Portage 3.0.83 opens each package.
//! * MTIME equals st_mtime of the file.
//! * PATH is explicit.
//! * Keys that point to a remote host are absent.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io::{self, BufWriter, Write};

use super::digest_writer::DigestWriter;
use super::header::SOURCE_TIMESTAMP;
use super::stanza::{OWN_KEYS, Stanza};
use super::{BinhostId, Entry, Header, Listing, Sha256Digest, View};

/// The version of the rendering, a part of a rendered file's identity. Raise it when the same index
/// is rendered differently.
pub(crate) const RENDER_VERSION: u32 = 3;

/// Keys that say where or how to fetch a package. A local index must not have them.
pub(super) const STRIPPED: [&str; 4] = ["BASE_URI", "PKGINDEX_URI", "FETCHCOMMAND", "RESUMECOMMAND"];
/// The key that every entry gets, if need be with an empty value.
const USER_PATCHES: &str = "USER_PATCHES";
/// Header keys that are written new or do not belong into a local index.
const HEADER_STRIPPED: [&str; 9] = [
    "URI",
    "TTL",
    "DOWNLOAD_TIMESTAMP",
    "FETCHCOMMAND",
    "RESUMECOMMAND",
    "VERSION",
    "TIMESTAMP",
    "PACKAGES",
    SOURCE_TIMESTAMP,
];

/// A description of a rendered file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rendered {
    /// Size of the file in bytes.
    pub size: u64,
    /// TIMESTAMP of the header, in seconds since the epoch.
    pub timestamp: i64,
    /// SHA-256 of the whole file.
    pub digest: Sha256Digest,
}

/// What a `Packages` file has: rows of a view, after the entries of a listing, under one header.
pub struct IndexRenderer<'a> {
    view: &'a View,
    /// Rows of the view, in the order in which they are written.
    rows: Cow<'a, [u32]>,
    local: Option<&'a Listing>,
    header: Cow<'a, Header>,
    /// The newest TIMESTAMP of the binhosts' own indexes, if the file says it.
    source: Option<i64>,
    additions: Additions,
}

/// Whether a rendered entry has the dependency that the view adds to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Additions {
    Written,
    LeftOut,
}

impl<'a> IndexRenderer<'a> {
    /// The index that Portage reads from PKGDIR.
    #[must_use]
    pub fn of(view: &'a View) -> Self {
        Self {
            rows: Cow::Owned(view.in_file_order()),
            view,
            local: None,
            header: Cow::Borrowed(view.header()),
            source: None,
            additions: Additions::Written,
        }
    }

    /// The index for other machines: the entries of those binhosts that `shares` names, with the
    /// dependencies of their binhost. [`SOURCE_TIMESTAMP`] has the newest TIMESTAMP of the
    /// binhosts' own indexes, and no header has another one. The entries of `local` come first, and
    /// hide others as with [`IndexRenderer::beneath`], also those at their paths.
    ///
    /// # Errors
    /// Reading the text of the view fails.
    pub(crate) fn shared(view: &'a View, shares: &dyn Fn(BinhostId) -> bool, local: &'a Listing) -> io::Result<Self> {
        let paths: HashSet<&str> = local.entries().iter().map(|entry| &*entry.path).collect();
        let mut rows = rows_beneath(view, local, &|path| paths.contains(path))?;
        rows.retain(|row| view.part(*row).is_some_and(|part| shares(part.binhost)));
        let mut header = view.header_of(shares);
        if !local.entries().is_empty() {
            header = Header::united([local.header(), &header]);
        }
        header.remove("TIMESTAMP");
        let shared = view.parts().iter().filter(|part| shares(part.binhost));
        let source = shared.filter_map(|part| part.index.header().source_timestamp()).max();
        let rows = Cow::Owned(rows);
        Ok(Self { view, rows, local: Some(local), header: Cow::Owned(header), source, additions: Additions::LeftOut })
    }

    /// The index that Portage reads from PKGDIR, after the entries of `local`. Local entries stay
    /// unchanged, and the local header takes precedence. Two kinds of entries of the view are left
    /// out: those whose paths `hidden` names, and those that Portage could not distinguish from a
    /// local entry.
    ///
    /// # Errors
    /// Reading the text of the view fails.
    pub fn beneath(view: &'a View, local: &'a Listing, hidden: &dyn Fn(&str) -> bool) -> io::Result<Self> {
        let rows = rows_beneath(view, local, hidden)?;
        let header = Cow::Owned(Header::united([local.header(), view.header()]));
        let rows = Cow::Owned(rows);
        Ok(Self { view, rows, local: Some(local), header, source: None, additions: Additions::Written })
    }

    /// Writes the file. `timestamp` is its TIMESTAMP if the header has none.
    ///
    /// # Errors
    /// Reading the texts or writing `out` fails.
    pub fn render(&self, out: impl Write, timestamp: i64) -> io::Result<Rendered> {
        let timestamp = self.header.timestamp().unwrap_or(timestamp);
        let mut out = BufWriter::with_capacity(64 << 10, DigestWriter::new(out));
        self.head(timestamp, &mut out)?;
        (0..self.len()).try_for_each(|number| self.entry(number, &mut out))?;
        let (size, digest) = out.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?;
        Ok(Rendered { size, timestamp, digest })
    }

    /// The same file again, from the header and the rows of an earlier renderer.
    pub(super) fn again(view: &'a View, local: &'a Listing, header: &'a Header, rows: &'a [u32]) -> Self {
        let (header, rows) = (Cow::Borrowed(header), Cow::Borrowed(rows));
        Self { view, rows, local: Some(local), header, source: None, additions: Additions::Written }
    }

    /// The header and the rows, for [`IndexRenderer::again`].
    pub(super) fn into_parts(self) -> (Header, Vec<u32>) {
        (self.header.into_owned(), self.rows.into_owned())
    }

    /// The number of entries.
    pub(super) fn len(&self) -> usize {
        self.local.map_or(0, |local| local.entries().len()) + self.rows.len()
    }

    /// Writes the header.
    pub(super) fn head(&self, timestamp: i64, out: &mut impl Write) -> io::Result<()> {
        self.source.map_or(Ok(()), |source| writeln!(out, "{SOURCE_TIMESTAMP}: {source}"))?;
        header(&self.header, self.len(), out, timestamp)
    }

    /// Writes entry number `number`.
    pub(super) fn entry(&self, number: usize, out: &mut impl Write) -> io::Result<()> {
        let mut first = 0;
        if let Some(listing) = self.local {
            if let Some(entry) = listing.entries().get(number) {
                return as_written(&listing.stanza(entry)?, &Inherited::of(listing.header(), &self.header), out);
            }
            first = listing.entries().len();
        }
        self.rows.get(number - first).map_or(Ok(()), |row| self.row(*row, out))
    }

    fn row(&self, row: u32, out: &mut impl Write) -> io::Result<()> {
        let (Some(part), Some(record)) = (self.view.part(row), self.view.record(row)) else { return Ok(()) };
        let text = part.index.stanza(record)?;
        let inherited = Inherited::of(part.index.header(), &self.header);
        let dependency = self.view.dependency(row).filter(|_| self.additions == Additions::Written);
        stanza(&text, &EntryEdits { path: self.view.path(row), dependency, inherited }, out)
    }
}

/// The rows of a view that local entries do not hide, in the order of the file.
fn rows_beneath(view: &View, local: &Listing, hidden: &dyn Fn(&str) -> bool) -> io::Result<Vec<u32>> {
    let facts: HashSet<(u64, i64)> = local.entries().iter().filter_map(|e| Some((e.size?, e.mtime?))).collect();
    let instances: HashSet<[u8; 16]> = local.entries().iter().map(|entry| entry.instance).collect();
    let mut rows = Vec::with_capacity(view.len());
    for row in view.in_file_order() {
        let Some(record) = view.record(row) else { continue };
        let alike = facts.contains(&(record.size, record.mtime));
        let same = alike && instances.contains(&view.entry(row)?.instance());
        if !same && !hidden(view.path(row)) {
            rows.push(row);
        }
    }
    Ok(rows)
}

fn header(shown: &Header, packages: usize, out: &mut impl Write, timestamp: i64) -> io::Result<()> {
    for (key, value) in shown.pairs() {
        // Portage takes an empty value for none. An empty CHOST, however, would keep Portage from
        // using the client's.
        if !HEADER_STRIPPED.contains(&key) && !value.is_empty() {
            writeln!(out, "{key}: {value}")?;
        }
    }
    write!(out, "PACKAGES: {packages}\nTIMESTAMP: {timestamp}\nVERSION: 0\n\n")
}

/// Writes a local entry with Portage's own text, and adds only the required keys that are missing.
fn as_written(text: &Stanza, inherited: &Inherited<'_>, out: &mut impl Write) -> io::Result<()> {
    out.write_all(text.0.as_bytes())?;
    let patches = text.get("USER_PATCHES").is_none().then_some("");
    let chost = inherited.chost.filter(|_| text.get("CHOST").is_none());
    let repository = inherited.repository.filter(|_| text.repository().is_none());
    for (key, value) in [("CHOST", chost), ("REPO", repository), ("USER_PATCHES", patches)] {
        value.map_or(Ok(()), |value| writeln!(out, "{key}: {value}"))?;
    }
    out.write_all(b"\n")
}

/// The values that an entry has to state itself, because the rendered header has other ones.
#[derive(Default)]
struct Inherited<'a> {
    chost: Option<&'a str>,
    repository: Option<&'a str>,
}

impl<'a> Inherited<'a> {
    fn of(own: &'a Header, shown: &'a Header) -> Self {
        let [own_chost, shown_chost] = [own, shown].map(|header| header.get("CHOST").unwrap_or_default());
        let [own_repository, shown_repository] = [own, shown].map(|header| header.repository().unwrap_or_default());
        Self {
            // Without CHOST in the header, Portage takes the client's.
            chost: (own_chost != shown_chost).then_some(own_chost),
            repository: (own_repository != shown_repository || own_repository.is_empty()).then_some(own_repository),
        }
    }
}

/// The differences between a rendered entry and the entry of its binhost.
struct EntryEdits<'a> {
    path: &'a str,
    dependency: Option<&'a str>,
    inherited: Inherited<'a>,
}

fn stanza(text: &Stanza, changes: &EntryEdits<'_>, out: &mut impl Write) -> io::Result<()> {
    let Entry { cpv, size, mtime, build_id, build_time, md5, sha1, .. } = text.entry()?;
    let EntryEdits { path, dependency, inherited: Inherited { chost, repository } } = changes;
    writeln!(out, "CPV: {cpv}")?;
    let (mut missing, mut chost, mut repository, mut patches) = (*dependency, *chost, *repository, "");
    for (key, value) in text.pairs() {
        if OWN_KEYS.contains(&key) || STRIPPED.contains(&key) {
            continue;
        }
        if key == USER_PATCHES {
            patches = value;
            continue;
        }
        write!(out, "{key}: {value}")?;
        match key {
            // The last of several RDEPEND lines counts, so each one gets the dependency.
            "RDEPEND" => {
                dependency.map_or(Ok(()), |atom| write!(out, " {atom}"))?;
                missing = None;
            }
            "CHOST" => chost = None,
            "REPO" | "repository" => repository = None,
            _ => {}
        }
        out.write_all(b"\n")?;
    }
    for (key, value) in [("RDEPEND", missing), ("CHOST", chost), ("REPO", repository)] {
        value.map_or(Ok(()), |value| writeln!(out, "{key}: {value}"))?;
    }
    for (key, value) in [("BUILD_ID", build_id), ("BUILD_TIME", build_time)] {
        value.map_or(Ok(()), |value| writeln!(out, "{key}: {value}"))?;
    }
    md5.map_or(Ok(()), |md5| writeln!(out, "MD5: {md5}"))?;
    sha1.map_or(Ok(()), |sha1| writeln!(out, "SHA1: {sha1}"))?;
    write!(out, "PATH: {path}\nSIZE: {size}\nMTIME: {mtime}\nUSER_PATCHES: {patches}\n\n")
}

#[cfg(test)]
mod tests {
    use super::super::{BinhostId, Index};
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    const MD5: &str = "MD5: d41d8cd98f00b204e9800998ecf8427e\n";

    fn parsed(text: &[u8]) -> Arc<Index> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        Arc::new(Index::parse(file).unwrap())
    }

    fn rendered(index: &Arc<Index>) -> String {
        let mut out = Vec::new();
        let told = IndexRenderer::of(&View::whole(BinhostId(0), Arc::clone(index))).render(&mut out, 42).unwrap();
        assert_eq!(told.size, out.len() as u64);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_portage_gets() {
        let text = format!(
            "ARCH: amd64\nURI: http://elsewhere/\nTTL: 3600\nFETCHCOMMAND: rm -rf /\nVERSION: 0\nPACKAGES: 9\n\n\
             CPV: a/b-1\nDESC: it: works\nBASE_URI: http://x\nPKGINDEX_URI: http://x\nFETCHCOMMAND: evil\nSIZE: 5\n\
             {MD5}_mtime_: 9\nRDEPEND: >=sys-libs/glibc-2.40\n\n"
        );
        assert_eq!(
            rendered(&parsed(text.as_bytes())),
            format!(
                "ARCH: amd64\nPACKAGES: 1\nTIMESTAMP: 42\nVERSION: 0\n\n\
                 CPV: a/b-1\nDESC: it: works\nRDEPEND: >=sys-libs/glibc-2.40\nREPO: \n{MD5}\
                 PATH: a/b-1.tbz2\nSIZE: 5\nMTIME: 9\nUSER_PATCHES: \n\n"
            )
        );
    }

    #[test]
    fn user_patches_stay() {
        let text = format!("VERSION: 0\n\nCPV: a/b-1\nUSER_PATCHES: 12ab\nSIZE: 5\n{MD5}USE: x\n\n");
        let text = rendered(&parsed(text.as_bytes()));
        assert!(text.ends_with("MTIME: 1\nUSER_PATCHES: 12ab\n\n"), "{text}");
    }

    #[test]
    fn an_empty_index_is_one_that_portage_reads() {
        let text = rendered(&Arc::new(Index::empty()));
        assert_eq!(text, "PACKAGES: 0\nTIMESTAMP: 42\nVERSION: 0\n\n");
        assert!(parsed(text.as_bytes()).records().is_empty());
    }

    fn entries() -> impl Strategy<Value = Vec<(String, Vec<(String, String)>)>> {
        let cpv = "[a-z]{1,3}/[a-z]{1,4}-[0-9]{1,2}(-r[0-9])?";
        let key = "(PATH|SIZE|MTIME|BUILD_ID|BUILD_TIME|DESC|RDEPEND|USE|SLOT|MD5|SHA1|XYZ)";
        let value = "(\\PC{0,12}|[0-9]{1,6}|[a-z]{1,3}/[a-z]{1,4}\\.xpak)";
        prop::collection::vec((cpv, prop::collection::vec((key, value), 0..8)), 0..12)
    }

    proptest! {
        #[test]
        fn rendering_and_parsing_again_changes_nothing(entries in entries()) {
            let mut text = "VERSION: 0\nCHOST: x\n\n".to_owned();
            for (cpv, pairs) in &entries {
                text += &format!("CPV: {cpv}\nSIZE: 5\n{MD5}");
                pairs.iter().for_each(|(key, value)| text += &format!("{key}: {value}\n"));
                text += "\n";
            }
            let first = parsed(text.as_bytes());
            prop_assert_eq!(first.records().len() as u32 + first.dropped().total(), entries.len() as u32);
            let once = rendered(&first);
            let second = parsed(once.as_bytes());
            prop_assert_eq!(second.dropped().total(), 0);
            prop_assert_eq!(first.records().len(), second.records().len());
            for (a, b) in first.records().iter().zip(second.records()) {
                prop_assert_eq!(first.entry(a).unwrap(), second.entry(b).unwrap());
                prop_assert_eq!(a.id, b.id);
            }
            prop_assert_eq!(once, rendered(&second));
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 0_usize..400) {
            let mut text = b"VERSION: 0\n\nCPV: a/b-1\nSIZE: 5\nMD5: d41d8cd98f00b204e9800998ecf8427e\n\n".to_vec();
            text.truncate(cut.max(12));
            text.extend(bytes);
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&text).unwrap();
            if let Ok(index) = Index::parse(file) {
                rendered(&Arc::new(index));
            }
        }
    }
}
