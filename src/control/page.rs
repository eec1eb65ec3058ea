//! The page at `/`: a [`Status`] for a browser. The page has no script, and its style is a separate
//! file. `maud` escapes all text, so text from a binhost can become neither script nor style: see
//! also [`POLICY`].

use std::time::Duration;

use maud::{DOCTYPE, Markup, display, html};

use crate::api::{BinhostStatus, DownloadStatus, FailureStatus, MirrorState, MirrorStatus, Status, frozen, stale};
use crate::units::{ByteSize, Interval, Plural};

pub(super) const MEDIA_TYPE: &str = "text/html; charset=utf-8";
/// The content security policy: a browser shows the page with its own style, and does nothing else.
pub(super) const POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// The style sheet, served at `/style.css`.
pub(super) const STYLE: &str = include_str!("page.css");
/// Maximum number of rows of a table. The rest is only counted.
const ROWS: usize = 50;

/// Renders the page.
pub(super) fn render(status: &Status) -> String {
    without_controls(&page(status).into_string())
}

/// Replaces control characters, and those that reverse the direction of the text after them. The
/// markup itself has none, so each one is from a text in it.
fn without_controls(html: &str) -> String {
    let harmful = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    html.replace(harmful, "\u{fffd}")
}

fn page(status: &Status) -> Markup {
    let Status { mountpoint, version, pid, started, alarms, refused, failures, .. } = status;
    let (subject, does) = (status.subject(), if mountpoint.is_empty() { "served" } else { "mounted" });
    let is_refused = |failure: &&FailureStatus| refused.iter().any(|refused| refused.path == failure.path);
    let passing: Vec<_> = failures.iter().filter(|failure| !is_refused(failure)).cloned().collect();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="refresh" content="10";
                title { "binhostfs: " (subject) }
                link rel="stylesheet" href="/style.css";
            }
            body {
                h1 { (subject) }
                p.dim { "binhostfs " (version) ", " (does) " for " (display(ago(status, *started))) " (pid " (pid) ")" }
                (cards(status))
                (problems(status))
                (downloads(status))
                @for binhost in &status.binhosts { (section(status, binhost)) }
                (failures_section(status, "Alarms: other bytes than before under one build", "bad", alarms))
                (failures_section(status, "Refused, and not shown to Portage", "bad", refused))
                (failures_section(status, "Could not be had lately", "dim", &passing))
                footer.dim {
                    "For programs: " a href="/v1/status" { "status" } ", " a href="/metrics" { "metrics" }
                }
            }
        }
    }
}

/// The time since `time`, by the clock of the status.
fn ago(status: &Status, time: u64) -> Interval {
    Interval(Duration::from_secs(status.time.saturating_sub(time)))
}

fn cards(status: &Status) -> Markup {
    let Status { generation, cache, metrics, passthrough, serve, object_store, .. } = status;
    let reads = if *passthrough { "reads by the kernel" } else { "reads through the daemon" };
    html! {
        div.cards {
            section {
                h2 { "Shown" }
                p.big { (display(Plural(generation.packages, "package"))) }
                p.dim {
                    "generation " (generation.number)
                    @if generation.created != 0 { ", made " (display(ago(status, generation.created))) " ago" }
                }
            }
            section {
                h2 { "Cache" }
                p.big { (display(ByteSize(cache.bytes))) " of " (display(ByteSize(cache.bound))) }
                progress max=(cache.bound.max(1)) value=(cache.bytes) {}
                p.dim { "packages: " (cache.packages) ", evicted: " (metrics.evicted) }
            }
            section {
                h2 { "Opens" }
                p.big { (metrics.hits) " cached, " (metrics.misses) " fetched" }
                p.dim {
                    (metrics.failed_opens) " failed; " (display(ByteSize(metrics.bytes_fetched))) " fetched in all; "
                    (reads)
                }
            }
            @if let Some(store) = object_store {
                section {
                    h2 { "Object store" }
                    p.big { (metrics.object_store_hits) " of " (display(Plural(metrics.object_store_hits.saturating_add(metrics.object_store_misses), "package"))) }
                    p.dim { (store.place) "; " (display(ByteSize(metrics.object_store_bytes))) ", " (metrics.object_store_wrong) " wrong" }
                    @if store.writes {
                        p.dim {
                            "stored: " (display(Plural(metrics.object_store_puts, "package"))) ", " (store.waiting) " wait; "
                            (metrics.object_store_write_failures) " failed, " (metrics.object_store_repaired) " replaced"
                        }
                    }
                    @for node in &store.nodes { p.dim { (node.line(status.time)) } }
                }
            }
            @if let Some(serve) = serve {
                section {
                    h2 { "Served to others" }
                    p.big { (display(ByteSize(metrics.serve_bytes))) }
                    p.dim {
                        "at " (serve.address) "; " (display(Plural(metrics.serve_requests, "request"))) ", "
                        (display(Plural(serve.connections, "connection"))) " now"
                    }
                }
            }
        }
    }
}

fn problems(status: &Status) -> Markup {
    let Status { generation, misconfigured, warnings, bypassed, .. } = status;
    let wrong = misconfigured.as_ref().map(|error| format!("the changed configuration cannot be used: {error}"));
    let problems = [generation.problem.as_deref(), status.general_refresh_error(), wrong.as_deref()];
    let warnings = warnings.iter().cloned().chain(bypassed.iter().map(ToString::to_string));
    html! {
        @for problem in problems.into_iter().flatten() {
            section.bad { h2 { "Problem" } p { (problem) } }
        }
        @for warning in warnings {
            section { h2.bad { "Warning" } p { (warning) } }
        }
    }
}

fn downloads(status: &Status) -> Markup {
    let downloads = &status.downloads;
    let limits = status.bandwidth.iter().flat_map(|bandwidth| bandwidth.lines(status.time));
    let row = |download: &DownloadStatus| {
        let DownloadStatus { path, received, size, .. } = download;
        html! {
            tr {
                td.path { (path) }
                td.bar { progress max=((*size).max(1)) value=(received) {} }
                td.number { (display(ByteSize(*received))) " of " (display(ByteSize(*size))) }
                td.dim { (download.who()) }
            }
        }
    };
    html! {
        section {
            h2 { "Downloads" }
            @for line in limits { p.dim { (line) } }
            @if downloads.is_empty() {
                p.dim { "none at this moment" }
            } @else {
                table { @for download in downloads.iter().take(ROWS) { (row(download)) } }
                (more(downloads.len()))
            }
        }
    }
}

/// The section of a binhost.
fn section(status: &Status, binhost: &BinhostStatus) -> Markup {
    let BinhostStatus { name, packages, refresh, unreachable, keyring, .. } = binhost;
    let (class, state) = match (unreachable, refresh.confirmed) {
        (true, _) => ("bad", "unreachable".to_owned()),
        (false, 0) => ("bad", "no index yet".to_owned()),
        (false, confirmed) => ("good", format!("up to date {} ago", ago(status, confirmed))),
    };
    let signed = match keyring {
        Some(keyring) => format!("signatures checked, {}", Plural(keyring.keys, "key")),
        None => "signatures not checked".to_owned(),
    };
    html! {
        section {
            h2 { "Binhost " (name) }
            p { span class=(class) { (state) } ", " (display(Plural(*packages, "package"))) "; " (signed) }
            (problems_of(status, binhost))
            (mirrors(binhost))
            (table(status, &binhost.index_mismatches))
        }
    }
}

/// The problems of a binhost, and the numbers of its hidden and changed entries.
fn problems_of(status: &Status, binhost: &BinhostStatus) -> Markup {
    let BinhostStatus { refresh, keyring, entries, .. } = binhost;
    let unusable = binhost.unusable.iter().map(|reason| format!("nothing of it can be used: {reason}"));
    let failed = refresh.error.iter().map(|error| format!("refreshing the index failed: {error}"));
    let frozen = refresh.frozen_since(status.time).map(|since| frozen(ago(status, since)));
    let keys = keyring.iter().flat_map(|keyring| &keyring.problems).map(|problem| format!("keyring: {problem}"));
    let stale = binhost.stale_since(status.time).map(|since| stale(ago(status, since)));
    let repository = binhost.repository.as_ref().map(ToString::to_string);
    let hidden = entries.hidden().into_iter().map(|hidden| format!("left out: {hidden}"));
    let changed = entries.changed().into_iter().map(|changed| format!("changed: {changed}"));
    let peers = binhost.peers.iter().map(|peer| format!("peer {}", peer.line(status.time)));
    html! {
        @for problem in unusable.chain(failed).chain(frozen).chain(keys) { p.bad { (problem) } }
        @for note in peers.chain(stale).chain(repository).chain(hidden).chain(changed) { p { (note) } }
    }
}

/// The class and the text of a mirror's state.
fn state(mirror: &MirrorStatus) -> (&str, &str) {
    match mirror.state {
        MirrorState::Healthy => ("good", "healthy"),
        MirrorState::Distrusted => ("bad", mirror.distrust()),
        MirrorState::Probing => ("dim", "probing"),
        MirrorState::BackingOff => ("bad", "backing off"),
    }
}

fn mirrors(binhost: &BinhostStatus) -> Markup {
    html! {
        table {
            thead {
                tr { th { "URL" } th { "State" } th.number { "Rate" } th.number { "First byte" } th { "Last failure" } }
            }
            @for mirror in binhost.mirrors.iter().take(ROWS) {
                @let (class, state) = state(mirror);
                tr {
                    td { (mirror.url) }
                    td class=(class) { (state) }
                    td.number { @if let Some(rate) = mirror.rate { (display(ByteSize(rate))) "/s" } }
                    td.number { @if let Some(time) = mirror.first_byte_ms { (time) " ms" } }
                    td { @if let Some(error) = &mirror.last_error { (error) } }
                }
            }
        }
        (more(binhost.mirrors.len()))
    }
}

/// A section of packages, or nothing if there are none.
fn failures_section(status: &Status, title: &str, class: &str, all: &[FailureStatus]) -> Markup {
    html! {
        @if !all.is_empty() {
            section { h2 class=(class) { (title) } (table(status, all)) }
        }
    }
}

/// Packages with what is wrong with them, or nothing if there are none.
fn table(status: &Status, all: &[FailureStatus]) -> Markup {
    html! {
        @if !all.is_empty() {
            table {
                @for FailureStatus { path, reason, time } in all.iter().take(ROWS) {
                    tr {
                        td.path { (path) }
                        td { (reason) }
                        td.number { (display(ago(status, *time))) " ago" }
                    }
                }
            }
            (more(all.len()))
        }
    }
}

/// The number of rows that a table leaves out, if it leaves any out.
fn more(count: usize) -> Markup {
    let more = count.saturating_sub(ROWS);
    html! { @if more > 0 { p.dim { "and " (more) " more" } } }
}

#[cfg(test)]
mod tests {
    use super::super::double::status;
    use super::*;
    use crate::api::{EntriesStatus, KeyringStatus, RefreshStatus, RepositoryDistance, sample};

    #[test]
    fn nothing_gets_out_of_its_place() {
        let hostile = "</td><script>alert(1)</script>\" onload='x' &amp; \u{202e}\u{7}\n";
        let harmless =
            "&lt;/td&gt;&lt;script&gt;alert(1)&lt;/script&gt;&quot; onload='x' &amp;amp; \u{fffd}\u{fffd}\u{fffd}";
        let failure = FailureStatus { path: hostile.to_owned(), reason: hostile.to_owned(), time: 0 };
        let mountpoint = hostile.to_owned();
        let html =
            render(&Status { mountpoint, alarms: vec![failure], warnings: vec![hostile.to_owned()], ..status() });
        assert_eq!(html.matches(harmless).count(), 5, "{html}");
        assert!(!html.contains("<script") && !html.contains(char::is_control), "{html}");
    }

    #[test]
    fn a_binhost_has_its_problems_each_once() {
        let mismatch = FailureStatus { path: "a/c-1".to_owned(), reason: "another SLOT".to_owned(), time: 9_000 };
        let keyring = KeyringStatus { files: Vec::new(), keys: 1, problems: vec!["/k: <empty>".to_owned()] };
        let entries = EntriesStatus { filtered: 7, moved: 2, dropped: 1, ..EntriesStatus::default() };
        let refresh = RefreshStatus { error: Some("no route".to_owned()), ..RefreshStatus::default() };
        let binhost = BinhostStatus {
            packages: 3,
            index_timestamp: 1,
            refresh,
            keyring: Some(keyring),
            entries: EntriesStatus { dropped_reasons: "1 without SIZE".to_owned(), ..entries },
            index_mismatches: vec![mismatch],
            repository: Some(RepositoryDistance { name: "gentoo".to_owned(), commit: "0".repeat(40), syncs: 2 }),
            ..sample::binhost("own")
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
            "<tr><td class=\"path\">a/c-1</td><td>another SLOT</td><td class=\"number\">16 min ago</td></tr>",
        ] {
            assert_eq!(html.matches(text).count(), 1, "{text} is not in {html}");
        }
    }
}
