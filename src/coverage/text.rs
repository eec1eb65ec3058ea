//! The report as text for people.

use std::fmt;

use super::report::{BinaryReport, CoverageReport, SourceReport, WrittenReport};
use crate::api::Cause;
use crate::units::{ByteSize, Interval, Plural};

/// The most packages that are listed under one cause.
const MAX_LISTED: usize = 15;
/// Width of the bar in characters.
const BAR: usize = 40;

/// Parts of the text besides the report.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TextOptions {
    /// Every binary package with its size.
    pub(crate) sizes: bool,
    /// Lines to write.
    pub(crate) suggest: bool,
}

/// The report for people.
#[derive(Debug)]
pub(crate) struct ReportText<'a>(pub(crate) &'a CoverageReport, pub(crate) TextOptions);

impl fmt::Display for ReportText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(report, options) = self;
        let percent = report.percent();
        writeln!(f, "{}", headline(report))?;
        writeln!(f, "binary  [{:<BAR$}] {} %", "=".repeat(filled(percent)), percent.floor())?;
        if let Some(seconds) = report.download_seconds.filter(|seconds| *seconds > 0) {
            let time = Interval(std::time::Duration::from_secs(seconds));
            writeln!(f, "time    about {time} for the download, at the measured speed of the mirrors")?;
        }
        for note in &report.notes {
            writeln!(f, "note    {note}")?;
        }
        report.written.as_ref().map_or(Ok(()), |written| writeln!(f, "{}", written_line(written, report)))?;
        for (cause, packages) in report.by_cause() {
            writeln!(f, "\n{cause:<12}  {}, {}", Plural(packages.len() as u64, "package"), meaning(cause))?;
            let width = packages.iter().map(|package| package.cpv.len()).max().unwrap_or_default().min(40);
            for package in packages.iter().take(MAX_LISTED) {
                writeln!(f, "  {:<width$}  {}{}", package.cpv, package.detail, further(package))?;
            }
            if let Some(more) = packages.len().checked_sub(MAX_LISTED).filter(|more| *more > 0) {
                writeln!(f, "  and {more} more; --json lists all")?;
            }
        }
        if options.sizes {
            writeln!(f, "\nbinary packages")?;
            report.binaries.iter().try_for_each(|binary| writeln!(f, "  {}", binary_line(binary)))?;
        }
        if options.suggest { suggestions(f, report) } else { Ok(()) }
    }
}

/// The first line, which says everything.
fn headline(report: &CoverageReport) -> String {
    let CoverageReport { packages, binary, download_bytes, cached_bytes, source, .. } = report;
    let whole = report.percent().floor();
    let of = format!("{binary} of {} as binaries ({whole} %)", Plural(*packages as u64, "package"));
    let come = if *packages == 1 { " comes" } else { " come" };
    let of = of.replacen(" as ", &format!("{come} as "), 1);
    let (all, cached) = (ByteSize(*download_bytes), ByteSize(*cached_bytes));
    format!("{of}; {all} to download, {cached} of it cached; {} would be compiled", source.len())
}

/// How much of the bar is filled.
fn filled(percent: f64) -> usize {
    // The value is between 0 and BAR.
    (percent / 100.0 * BAR as f64) as usize
}

fn meaning(cause: Cause) -> &'static str {
    match cause {
        Cause::Hidden => "hidden by binhostfs",
        Cause::Absent => "absent from every index",
        Cause::Version => "in the indexes with other versions only",
        Cause::Slot => "in the indexes for another slot",
        Cause::Chost => "built for another CHOST",
        Cause::CpuLevel => "built for another CPU",
        Cause::Keywords => "with keywords that are not accepted",
        Cause::License => "with a licence that is not accepted",
        Cause::Excluded => "excluded by Portage's configuration",
        Cause::UserPatches => "with other user patches",
        Cause::Use => "with other USE flags",
        Cause::Deps => "with other dependencies",
        Cause::Unknown => "for a reason that is not known",
    }
}

/// The further causes of a package.
fn further(package: &SourceReport) -> String {
    let further: Vec<&str> = package.causes.iter().skip(1).map(|cause| cause.name()).collect();
    if further.is_empty() { String::new() } else { format!(" (also: {})", further.join(", ")) }
}

fn binary_line(binary: &BinaryReport) -> String {
    let BinaryReport { cpv, size, cached, local, binhost, .. } = binary;
    let state = match (local, cached) {
        (true, _) => "local",
        (false, true) => "cached",
        (false, false) => "-",
    };
    let size = ByteSize(*size).to_string();
    format!("{state:<6} {size:>10}  {cpv}  {binhost}").trim_end().to_owned()
}

fn written_line(written: &WrittenReport, report: &CoverageReport) -> String {
    let WrittenReport { directory, package_use, package_mask, changed, before_packages, before_binary, .. } = written;
    let files = match (package_use, package_mask) {
        (0, 0) => "no line helps, and none is written".to_owned(),
        (uses, masks) => {
            let (uses, masks) = (Plural(*uses as u64, "line"), Plural(*masks as u64, "line"));
            format!("package.use/zz-binhostfs has {uses}, package.mask/zz-binhostfs {masks}")
        }
    };
    let changed = if *changed { "" } else { " (unchanged)" };
    let (packages, binary) = (report.packages, report.binary);
    format!(
        "written {directory}: {files}{changed}; before {before_binary} of {before_packages} were binary, now \
         {binary} of {packages}"
    )
}

/// The lines to write, by file.
fn suggestions(f: &mut fmt::Formatter<'_>, report: &CoverageReport) -> fmt::Result {
    let all = || report.source.iter().filter_map(|source| Some((source, source.suggestion.as_ref()?)));
    let mut files: Vec<Option<&str>> = all().map(|(_, suggestion)| suggestion.file).collect();
    files.sort_unstable();
    files.dedup();
    // Advice without a file comes last.
    files.sort_by_key(Option::is_none);
    if files.is_empty() {
        return writeln!(f, "\nnothing to suggest: no line would make emerge take more binary packages");
    }
    for file in files {
        match file {
            Some(file) => writeln!(f, "\nfor /etc/portage/{file}:")?,
            None => writeln!(f, "\nto do otherwise:")?,
        }
        for (source, suggestion) in all().filter(|(_, suggestion)| suggestion.file == file) {
            match file {
                Some(_) => writeln!(f, "  {}  # {}", suggestion.line, suggestion.reason)?,
                None => writeln!(f, "  {}: {} ({})", source.cpv, suggestion.line, suggestion.reason)?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
