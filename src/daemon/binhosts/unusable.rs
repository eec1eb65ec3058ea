//! Finds binhosts of which nothing can be used for one reason. A warning explains this better than
//! `0 packages`.

use std::io;
use std::sync::Arc;

use crate::config::AcceptedChosts;
use crate::index::{BinhostId, Index};
use crate::policy::EntryCounts;
use crate::units::Plural;

/// The facts about a binhost that the reason follows from.
pub(crate) struct BinhostFacts {
    pub(crate) id: BinhostId,
    pub(crate) index: Arc<Index>,
    /// Number of entries on which too few mirrors agree.
    pub(crate) disputed: usize,
    /// Why no package can be fetched at all, if there is a reason.
    pub(crate) nowhere: Option<String>,
}

/// Returns why nothing of a binhost can be used. `None`: something can be used, the index is empty,
/// or there are several reasons.
pub(crate) fn reason(
    facts: &BinhostFacts,
    tally: EntryCounts,
    accepted: &AcceptedChosts,
) -> io::Result<Option<String>> {
    let BinhostFacts { index, disputed, nowhere, .. } = facts;
    let entries = index.records().len();
    if nowhere.is_some() {
        return Ok(nowhere.clone());
    }
    if tally.shown > 0 {
        return of_chost(index, accepted);
    }
    let is_all = |count: usize| entries > 0 && count == entries;
    let dropped = index.dropped();
    let announced =
        index.header().get("PACKAGES").and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or_default();
    Ok(if entries == 0 && dropped.total() == 0 && announced > 0 {
        Some(format!(
            "its index announces {}, and has none that Portage could read; are its line ends CR LF?",
            Plural(announced, "package")
        ))
    } else if entries == 0 && dropped.total() > 0 {
        Some(format!("none of its {} entries is fit for Portage: {dropped}", dropped.total()))
    } else if is_all(tally.unsigned_format as usize) {
        Some(format!(
            "each of its packages ({entries}) is an XPAK, which cannot be signed, and signatures are asked for; with verify-signature = false \
             they are shown, checked by size and digests only"
        ))
    } else if is_all(tally.filtered as usize) {
        Some(format!("include and exclude select none of its packages ({entries})"))
    } else if is_all(tally.hidden as usize) && is_all(*disputed) {
        Some(format!("too few of its URLs have the same digests (quorum) for any of its packages ({entries})"))
    } else {
        None
    })
}

/// Checks whether any package is for this machine. Entries inherit CHOST from the header.
fn of_chost(index: &Index, accepted: &AcceptedChosts) -> io::Result<Option<String>> {
    let chost = index.header().get("CHOST").unwrap_or_default();
    if accepted.take(chost) {
        return Ok(None);
    }
    for record in index.records() {
        if index.stanza(record)?.get("CHOST").is_some_and(|chost| accepted.take(chost)) {
            return Ok(None);
        }
    }
    let count = index.records().len();
    Ok(Some(format!(
        "each of its packages ({count}) is for {chost}, and this machine is another: emerge passes over them"
    )))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn index(header: &str, entries: &[&str]) -> Arc<Index> {
        let mut text = format!("VERSION: 0\n{header}\n\n");
        for (at, more) in entries.iter().enumerate() {
            text += &format!("CPV: a/p{at}-1\nPATH: {at}.xpak\nSIZE: 5\nMD5: {at:032x}\n{more}\n");
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Arc::new(Index::parse(file).unwrap())
    }

    #[test]
    fn one_reason_for_all_is_told() {
        let two = index("ARCH: amd64", &["", ""]);
        let told = |index: &Arc<Index>, tally: EntryCounts, disputed| {
            let facts = BinhostFacts { id: BinhostId(0), index: Arc::clone(index), disputed, nowhere: None };
            reason(&facts, tally, &AcceptedChosts::Any).unwrap()
        };
        let none = EntryCounts::default();
        for (tally, disputed, says) in [
            (EntryCounts { unsigned_format: 2, ..none }, 0, "each of its packages (2) is an XPAK"),
            (EntryCounts { filtered: 2, ..none }, 0, "include and exclude select none of its packages (2)"),
            (EntryCounts { hidden: 2, ..none }, 2, "quorum"),
        ] {
            let told = told(&two, tally, disputed);
            assert!(told.as_ref().is_some_and(|told| told.contains(says)), "{told:?}");
        }
        for (tally, disputed) in [
            (EntryCounts { unsigned_format: 1, filtered: 1, ..none }, 0),
            (EntryCounts { unsigned_format: 1, shown: 1, ..none }, 0),
            (EntryCounts { hidden: 2, ..none }, 1),
            (EntryCounts { shadowed: 2, ..none }, 0),
            (EntryCounts { offline: 2, ..none }, 0),
        ] {
            assert_eq!(told(&two, tally, disputed), None, "{tally:?}");
        }
        let unfit = told(&index("ARCH: amd64", &["DESC: a\rb\n", "DESC: c\rd\n"]), none, 0).unwrap();
        assert!(
            unfit.starts_with("none of its 2 entries is fit for Portage: 2 with NUL or carriage return"),
            "{unfit}"
        );
        assert_eq!(told(&index("ARCH: amd64", &[]), none, 0), None);
        assert_eq!(told(&index("PACKAGES: 0", &[]), none, 0), None);
        let dos = told(&index("PACKAGES: 2\r", &[]), none, 0).unwrap();
        assert!(dos.contains("announces 2 packages"), "{dos}");
    }

    #[test]
    fn packages_for_another_machine() {
        let accepted = AcceptedChosts::One("x86_64-pc-linux-gnu".to_owned());
        let told = |header: &str, entries: &[&str]| {
            let tally = EntryCounts { shown: entries.len() as u32, ..EntryCounts::default() };
            let facts = BinhostFacts { id: BinhostId(0), index: index(header, entries), disputed: 0, nowhere: None };
            reason(&facts, tally, &accepted).unwrap()
        };
        let foreign = "CHOST: aarch64-unknown-linux-gnu";
        let why = told(foreign, &["", "CHOST: riscv64-unknown-linux-gnu\n"]).unwrap();
        assert!(why.starts_with("each of its packages (2) is for aarch64-unknown-linux-gnu"), "{why}");
        assert_eq!(told(foreign, &["", "CHOST: x86_64-pc-linux-gnu\n"]), None);
        assert_eq!(told("CHOST: x86_64-pc-linux-gnu", &[""]), None);
        assert_eq!(told("ARCH: amd64", &[""]), None);
    }
}
