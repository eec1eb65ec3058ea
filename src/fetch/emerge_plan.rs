//! The merge plan of a running emerge, and its entries in a view.

use std::collections::HashMap;
use std::os::fd::AsFd as _;

use crate::index::View;
use crate::portage::emerge_process::Emerge;
use crate::portage::merge_plan::{self, PlanError, Planned};

/// The plan of an emerge, from the first EROOT that has one. It is read with the emerge's own
/// access to files.
pub(crate) fn read(emerge: &Emerge) -> Result<Vec<Planned>, PlanError> {
    let root = emerge.root().map_err(PlanError::Open)?;
    let mut last = Ok(Vec::new());
    for eroot in &emerge.eroots {
        last = emerge.act(|| merge_plan::read(root.as_fd(), eroot, emerge.started));
        if last.as_ref().is_ok_and(|plan| !plan.is_empty()) {
            break;
        }
    }
    last
}

/// Row numbers of the entries that a plan names, in the order of the plan.
pub(crate) fn rows(view: &View, plan: &[Planned]) -> Vec<u32> {
    places(view, plan).into_iter().flatten().collect()
}

/// The row number of the entry for each package of a plan, if it has one. Reads the text only of
/// entries whose SIZE occurs in the plan.
pub(crate) fn places(view: &View, plan: &[Planned]) -> Vec<Option<u32>> {
    let mut by_size: HashMap<u64, Vec<usize>> = HashMap::new();
    for (at, planned) in plan.iter().enumerate() {
        by_size.entry(planned.size).or_default().push(at);
    }
    let mut found = vec![None; plan.len()];
    for row in 0..view.len() as u32 {
        let Some(wanted) = view.record(row).and_then(|record| by_size.get(&record.size)) else { continue };
        let Ok(entry) = view.entry(row) else { continue };
        for at in wanted {
            let fits = plan.get(*at).is_some_and(|planned| {
                let Planned { cpv, build_id, build_time, .. } = planned;
                // For an entry without BUILD_TIME, the plan has BUILD_TIME 0.
                let same_time = entry.build_time.is_none() || build_time.is_none() || *build_time == entry.build_time;
                *cpv == entry.cpv && *build_id == entry.build_id && same_time
            });
            if let Some(slot) = found.get_mut(*at).filter(|slot| fits && slot.is_none()) {
                *slot = Some(row);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::Arc;

    use super::*;
    use crate::index::{BinhostId, Index};
    use crate::portage::Cpv;

    #[test]
    fn entries_are_found_by_all_that_tells_them_apart() {
        let mut text = "VERSION: 0\n\n".to_owned();
        for (path, cpv, more) in [
            ("a/a.xpak", "a/one-1", "SIZE: 5\nBUILD_ID: 1\nBUILD_TIME: 7\n"),
            ("a/b.xpak", "a/one-1", "SIZE: 5\nBUILD_ID: 2\nBUILD_TIME: 7\n"),
            ("a/c.xpak", "a/one-1", "SIZE: 6\nBUILD_ID: 1\nBUILD_TIME: 7\n"),
            ("a/d.xpak", "a/two-1", "SIZE: 5\n"),
        ] {
            text += &format!("CPV: {cpv}\nPATH: {path}\nMD5: d41d8cd98f00b204e9800998ecf8427e\n{more}\n");
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let view = View::whole(BinhostId(1), Arc::new(Index::parse(file).unwrap()));
        let planned = |cpv: &str, build_id, build_time, size| Planned {
            cpv: Cpv::parse(cpv).unwrap(),
            build_id,
            build_time,
            size,
        };
        let plan = [
            planned("a/two-1", None, Some(0), 5),
            planned("a/one-1", Some(1), Some(7), 6),
            planned("a/one-1", Some(2), Some(8), 5),
            planned("a/one-1", Some(3), Some(7), 5),
            planned("a/none-1", Some(1), Some(7), 5),
            planned("a/one-1", Some(2), None, 5),
        ];
        let paths: Vec<&str> = rows(&view, &plan).into_iter().map(|row| view.path(row)).collect();
        assert_eq!(paths, ["a/d.xpak", "a/c.xpak", "a/b.xpak"]);
    }
}
