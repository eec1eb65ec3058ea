//! The page at `/`: a [`Status`] for a browser. The page has no script, and its style is a separate
//! file. Text from a binhost can therefore become neither script nor style: see [`POLICY`].

use std::fmt::{self, Display, Write as _};
use std::time::Duration;

use crate::api::{BinhostStatus, DownloadStatus, FailureStatus, MirrorState, Status, frozen, stale};
use crate::units::{ByteSize, Interval, Plural};

/// The content security policy: a browser shows the page with its own style, and does nothing else.
pub(super) const POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// The style sheet, served at `/style.css`.
pub(super) const STYLE: &str = include_str!("page.css");
/// Maximum number of rows of a table. The rest is only counted.
const ROWS: usize = 50;

/// Text of any origin, harmless in HTML between tags and in quoted attributes.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            // Control characters, and those that reverse the direction of the text after them.
            c if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                f.write_char(char::REPLACEMENT_CHARACTER)
            }
            c => f.write_char(c),
        })
    }
}

/// A page that is being written.
struct Page<'a> {
    status: &'a Status,
    html: String,
}

/// Renders the page.
pub(super) fn render(status: &Status) -> String {
    let mut page = Page { status, html: String::new() };
    // Writing to a String cannot fail.
    let _ = page.write();
    page.html
}

impl Page<'_> {
    fn write(&mut self) -> fmt::Result {
        let Status { mountpoint, version, pid, started, .. } = self.status;
        let (mountpoint, version, up) = (Escaped(mountpoint), Escaped(version), self.ago(*started));
        write!(
            self.html,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta http-equiv=\"refresh\" content=\"10\">\n<title>binhostfs: {mountpoint}</title>\n\
             <link rel=\"stylesheet\" href=\"/style.css\">\n</head>\n<body>\n\
             <h1>{mountpoint}</h1>\n<p class=\"dim\">binhostfs {version}, mounted for {up} (pid {pid})</p>\n"
        )?;
        self.cards()?;
        self.problems()?;
        self.downloads()?;
        self.binhosts()?;
        self.failures("Alarms: other bytes than before under one build", "bad", &self.status.alarms)?;
        self.failures("Refused, and not shown to Portage", "bad", &self.status.refused)?;
        let refused = |path: &String| self.status.refused.iter().any(|refused| refused.path == *path);
        let passing: Vec<_> = self.status.failures.iter().filter(|failure| !refused(&failure.path)).cloned().collect();
        self.failures("Could not be had lately", "dim", &passing)?;
        self.html.push_str(
            "<footer class=\"dim\">For programs: <a href=\"/v1/status\">status</a>, \
             <a href=\"/metrics\">metrics</a></footer>\n</body>\n</html>\n",
        );
        Ok(())
    }

    fn ago(&self, time: u64) -> Interval {
        Interval(Duration::from_secs(self.status.time.saturating_sub(time)))
    }

    fn cards(&mut self) -> fmt::Result {
        let Status { generation, cache, metrics, .. } = self.status;
        let (used, bound) = (ByteSize(cache.bytes), ByteSize(cache.bound));
        let made = if generation.created == 0 {
            String::new()
        } else {
            format!(", made {} ago", self.ago(generation.created))
        };
        let reads = if self.status.passthrough { "reads by the kernel" } else { "reads through the daemon" };
        write!(
            self.html,
            "<div class=\"cards\">\n\
             <section><h2>Shown</h2><p class=\"big\">{}</p><p class=\"dim\">generation {}{made}</p></section>\n\
             <section><h2>Cache</h2><p class=\"big\">{used} of {bound}</p><progress max=\"{}\" value=\"{}\"></progress>\
             <p class=\"dim\">packages: {}, evicted: {}</p></section>\n\
             <section><h2>Opens</h2><p class=\"big\">{} cached, {} fetched</p>\
             <p class=\"dim\">{} failed; {} fetched in all; {reads}</p></section>\n</div>\n",
            Plural(generation.packages, "package"),
            generation.number,
            cache.bound.max(1),
            cache.bytes,
            cache.packages,
            metrics.evicted,
            metrics.hits,
            metrics.misses,
            metrics.failed_opens,
            ByteSize(metrics.bytes_fetched),
        )
    }

    fn problems(&mut self) -> fmt::Result {
        let Status { generation, misconfigured, .. } = self.status;
        let wrong = misconfigured.as_ref().map(|error| format!("the changed configuration cannot be used: {error}"));
        let refresh = self.status.general_refresh_error();
        for problem in [generation.problem.as_deref(), refresh, wrong.as_deref()].into_iter().flatten() {
            writeln!(self.html, "<section class=\"bad\"><h2>Problem</h2><p>{}</p></section>", Escaped(problem))?;
        }
        let bypassed = self.status.bypassed.iter().map(ToString::to_string);
        for warning in self.status.warnings.iter().cloned().chain(bypassed) {
            writeln!(self.html, "<section><h2 class=\"bad\">Warning</h2><p>{}</p></section>", Escaped(&warning))?;
        }
        Ok(())
    }

    fn downloads(&mut self) -> fmt::Result {
        self.html.push_str("<section><h2>Downloads</h2>\n");
        if self.status.downloads.is_empty() {
            self.html.push_str("<p class=\"dim\">none at this moment</p>\n");
        } else {
            self.html.push_str("<table>\n");
            for download in self.status.downloads.iter().take(ROWS) {
                let (DownloadStatus { path, received, size, .. }, who) = (download, download.who());
                let (path, got, all) = (Escaped(path), ByteSize(*received), ByteSize(*size));
                writeln!(
                    self.html,
                    "<tr><td class=\"path\">{path}<td class=\"bar\"><progress max=\"{}\" value=\"{received}\">\
                     </progress><td class=\"number\">{got} of {all}\
                     <td class=\"dim\">{who}</tr>",
                    (*size).max(1),
                )?;
            }
            self.html.push_str("</table>\n");
            self.more(self.status.downloads.len())?;
        }
        self.html.push_str("</section>\n");
        Ok(())
    }

    fn binhosts(&mut self) -> fmt::Result {
        for binhost in &self.status.binhosts {
            self.binhost(binhost)?;
        }
        Ok(())
    }

    fn binhost(&mut self, binhost: &BinhostStatus) -> fmt::Result {
        let BinhostStatus { name, packages, refresh, unreachable, keyring, .. } = binhost;
        let (class, state) = match (unreachable, refresh.confirmed) {
            (true, _) => ("bad", "unreachable".to_owned()),
            (false, 0) => ("bad", "no index yet".to_owned()),
            (false, confirmed) => ("good", format!("up to date {} ago", self.ago(confirmed))),
        };
        let signed = match keyring {
            Some(keyring) => format!("signatures checked, {}", Plural(keyring.keys, "key")),
            None => "signatures not checked".to_owned(),
        };
        write!(
            self.html,
            "<section><h2>Binhost {}</h2>\n<p><span class=\"{class}\">{state}</span>, {}; {signed}</p>\n",
            Escaped(name),
            Plural(*packages, "package")
        )?;
        self.problems_of(binhost)?;
        self.mirrors(binhost)?;
        self.table(&binhost.index_mismatches)?;
        self.html.push_str("</section>\n");
        Ok(())
    }

    /// What is wrong with a binhost, and which of its entries are hidden or changed.
    fn problems_of(&mut self, binhost: &BinhostStatus) -> fmt::Result {
        let BinhostStatus { refresh, keyring, entries, .. } = binhost;
        let unusable = binhost.unusable.iter().map(|reason| format!("nothing of it can be used: {reason}"));
        let failed = refresh.error.iter().map(|error| format!("refreshing the index failed: {error}"));
        let frozen = refresh.frozen_since(self.status.time).map(|since| frozen(self.ago(since)));
        let keys = keyring.iter().flat_map(|keyring| &keyring.problems).map(|problem| format!("keyring: {problem}"));
        for problem in unusable.chain(failed).chain(frozen).chain(keys) {
            writeln!(self.html, "<p class=\"bad\">{}</p>", Escaped(&problem))?;
        }
        let stale = binhost.stale_since(self.status.time).map(|since| stale(self.ago(since)));
        let repository = binhost.repository.as_ref().map(ToString::to_string);
        let hidden = entries.hidden().into_iter().map(|hidden| format!("left out: {hidden}"));
        let changed = entries.changed().into_iter().map(|changed| format!("changed: {changed}"));
        for note in stale.into_iter().chain(repository).chain(hidden).chain(changed) {
            writeln!(self.html, "<p>{}</p>", Escaped(&note))?;
        }
        Ok(())
    }

    fn mirrors(&mut self, binhost: &BinhostStatus) -> fmt::Result {
        self.html.push_str(
            "<table>\n<thead><tr><th>URL<th>State<th class=\"number\">Rate<th class=\"number\">First byte\
             <th>Last failure</tr></thead>\n",
        );
        for mirror in binhost.mirrors.iter().take(ROWS) {
            let (class, state) = match mirror.state {
                MirrorState::Healthy => ("good", "healthy"),
                MirrorState::Distrusted => ("bad", mirror.distrust()),
                MirrorState::Probing => ("dim", "probing"),
                MirrorState::BackingOff => ("bad", "backing off"),
            };
            let rate = mirror.rate.map(|rate| format!("{}/s", ByteSize(rate))).unwrap_or_default();
            let first_byte = mirror.first_byte_ms.map(|time| format!("{time} ms")).unwrap_or_default();
            let error = mirror.last_error.as_deref().unwrap_or_default();
            writeln!(
                self.html,
                "<tr><td>{}<td class=\"{class}\">{}<td class=\"number\">{rate}\
                 <td class=\"number\">{first_byte}<td>{}</tr>",
                Escaped(&mirror.url),
                Escaped(state),
                Escaped(error)
            )?;
        }
        self.html.push_str("</table>\n");
        self.more(binhost.mirrors.len())
    }

    fn failures(&mut self, title: &str, class: &str, all: &[FailureStatus]) -> fmt::Result {
        if all.is_empty() {
            return Ok(());
        }
        writeln!(self.html, "<section><h2 class=\"{class}\">{title}</h2>")?;
        self.table(all)?;
        self.html.push_str("</section>\n");
        Ok(())
    }

    /// Packages with what is wrong with them. Nothing if there are none.
    fn table(&mut self, all: &[FailureStatus]) -> fmt::Result {
        if all.is_empty() {
            return Ok(());
        }
        self.html.push_str("<table>\n");
        for FailureStatus { path, reason, time } in all.iter().take(ROWS) {
            let (path, reason, ago) = (Escaped(path), Escaped(reason), self.ago(*time));
            writeln!(self.html, "<tr><td class=\"path\">{path}<td>{reason}<td class=\"number\">{ago} ago</tr>")?;
        }
        self.html.push_str("</table>\n");
        self.more(all.len())
    }

    fn more(&mut self, count: usize) -> fmt::Result {
        match count.saturating_sub(ROWS) {
            0 => Ok(()),
            more => writeln!(self.html, "<p class=\"dim\">and {more} more</p>"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::double::status;
    use super::*;
    use crate::api::{EntriesStatus, KeyringStatus, RefreshStatus, RepositoryDistance};

    #[test]
    fn nothing_gets_out_of_its_place() {
        let hostile = "</td><script>alert(1)</script>\" onload='x' &amp; \u{202e}\u{7}";
        assert_eq!(
            Escaped(hostile).to_string(),
            "&lt;/td&gt;&lt;script&gt;alert(1)&lt;/script&gt;&quot; onload=&#39;x&#39; &amp;amp; \u{fffd}\u{fffd}"
        );
    }

    #[test]
    fn a_binhost_has_its_problems_each_once() {
        let mismatch = FailureStatus { path: "a/c-1".to_owned(), reason: "another SLOT".to_owned(), time: 9_000 };
        let keyring = KeyringStatus { files: Vec::new(), keys: 1, problems: vec!["/k: <empty>".to_owned()] };
        let entries = EntriesStatus { filtered: 7, moved: 2, dropped: 1, ..EntriesStatus::default() };
        let refresh = RefreshStatus { error: Some("no route".to_owned()), ..RefreshStatus::default() };
        let binhost = BinhostStatus {
            name: "own".to_owned(),
            urls: Vec::new(),
            mirrors: Vec::new(),
            packages: 3,
            index_timestamp: 1,
            refresh,
            unreachable: false,
            not_refreshed: false,
            keyring: Some(keyring),
            entries: EntriesStatus { dropped_reasons: "1 without SIZE".to_owned(), ..entries },
            unusable: None,
            max_index_age: None,
            index_mismatches: vec![mismatch],
            repository: Some(RepositoryDistance { name: "gentoo".to_owned(), commit: "0".repeat(40), syncs: 2 }),
        };
        let error = Some("own: no route".to_owned());
        let mut status = Status { refresh: RefreshStatus { error, ..RefreshStatus::default() }, ..status() };
        // No binhost has the reason: it is a problem of all.
        assert_eq!(render(&status).matches("own: no route").count(), 1);
        status.binhosts.push(binhost);
        let html = render(&status);
        assert_eq!(html.matches("no route").count(), 1, "{html}");
        for text in [
            "<p class=\"bad\">refreshing the index failed: no route</p>",
            "<p class=\"bad\">keyring: /k: &lt;empty&gt;</p>",
            "<p>left out: 7 not selected by the configuration</p>",
            "<p>left out: 1 unfit entries: 1 without SIZE</p>",
            "<p>changed: 2 shown below its name</p>",
            "<p>the ebuild repository gentoo is 2 syncs ahead of the commit that it was built from (000000000000)</p>",
            "<tr><td class=\"path\">a/c-1<td>another SLOT<td class=\"number\">16 min ago</tr>",
        ] {
            assert_eq!(html.matches(text).count(), 1, "{text} is not in {html}");
        }
    }
}
