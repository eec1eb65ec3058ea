//! All metrics in Prometheus' text format: counters, and the figures of a [`Status`].
//!
//! docs/reference/metrics.md lists the names; they are stable.

use crate::api::{BinhostStatus, DownloadCounts, MirrorState, MirrorStatus, Status};
use crate::metrics::{Exposition, FamilyKind, Metrics, Operation, Outcome, RefusalKind};

/// The answer to `GET /metrics`.
pub(super) fn render(status: &Status, metrics: &Metrics) -> String {
    let mut text = Exposition::default();
    process(&mut text, status);
    generation(&mut text, status);
    cache(&mut text, status);
    binhosts(&mut text, &status.binhosts, status.time);
    mirrors(&mut text, &status.binhosts);
    requests(&mut text, metrics);
    for (name, help, value) in status.metrics.counters() {
        text.single(name, FamilyKind::Counter, help, value);
    }
    text.finish()
}

fn process(text: &mut Exposition, status: &Status) {
    let mut build = text.family("binhostfs_build_info", FamilyKind::Gauge, "1; its label says which version runs.");
    build.sample(&[("version", &status.version)], 1);
    let started = "When the daemon was started, seconds since the epoch.";
    text.single("binhostfs_start_time_seconds", FamilyKind::Gauge, started, status.started);
    let resident = "Memory of the daemon, as the kernel counts it (RSS).";
    text.single("binhostfs_resident_memory_bytes", FamilyKind::Gauge, resident, status.process.resident);
    let written = "Bytes that the daemon had the kernel write to disks: packages, indexes, catalogue and the rest \
                   (write_bytes of /proc/self/io).";
    text.single("binhostfs_disk_written_bytes_total", FamilyKind::Counter, written, status.process.written);
    let wrong = "1 while the configuration, as it stands in the files, cannot be used.";
    text.single("binhostfs_misconfigured", FamilyKind::Gauge, wrong, u8::from(status.misconfigured.is_some()));
}

fn generation(text: &mut Exposition, status: &Status) {
    let generation = &status.generation;
    text.single(
        "binhostfs_generation",
        FamilyKind::Gauge,
        "Number of the generation that is shown.",
        generation.number,
    );
    // Nobody noted the time for an index that is rendered when it is read.
    if generation.created > 0 {
        let made = "When the generation that is shown was made, seconds since the epoch.";
        text.single("binhostfs_generation_timestamp_seconds", FamilyKind::Gauge, made, generation.created);
    }
    text.single("binhostfs_packages_shown", FamilyKind::Gauge, "Packages that Portage sees.", generation.packages);
    let rolled_back = "1 while an earlier generation is shown, as the administrator has chosen.";
    text.single("binhostfs_rolled_back", FamilyKind::Gauge, rolled_back, u8::from(generation.rolled_back));
    let refused = "Packages that are left out since the binhost serves something else than its index says.";
    text.single("binhostfs_packages_refused", FamilyKind::Gauge, refused, status.refused.len());
}

fn cache(text: &mut Exposition, status: &Status) {
    let cache = &status.cache;
    for (name, help, value) in [
        ("binhostfs_cache_bytes", "Bytes of packages in the cache.", cache.bytes),
        ("binhostfs_cache_reserved_bytes", "Bytes kept free for downloads in progress.", cache.reserved),
        ("binhostfs_cache_bound_bytes", "Most bytes that the cache may take.", cache.bound),
        ("binhostfs_cache_packages", "Packages in the cache.", cache.packages),
        ("binhostfs_index_bytes", "Bytes of the disk that the indexes and generations take.", cache.indexes),
    ] {
        text.single(name, FamilyKind::Gauge, help, value);
    }
    let world = status.upgrade_prefetch.clone().unwrap_or_default();
    for (name, help, value) in [
        (
            "binhostfs_upgrade_prefetch_budget_bytes",
            "Bytes that may be fetched in a day for upgrades to come.",
            world.budget,
        ),
        ("binhostfs_upgrade_prefetch_left_bytes", "Of these, bytes that are left today.", world.left),
    ] {
        text.single(name, FamilyKind::Gauge, help, value);
    }
    let limits = status.bandwidth.clone().unwrap_or_default();
    for (name, help, value) in [
        (
            "binhostfs_rate_limit_bytes",
            "Bytes of packages received a second at most (rate-limit); 0: any.",
            limits.rate_limit,
        ),
        (
            "binhostfs_prefetch_rate_limit_bytes",
            "Bytes prefetched a second at most (prefetch-rate-limit); 0: any.",
            limits.prefetch_rate_limit,
        ),
        (
            "binhostfs_quiet_until_timestamp_seconds",
            "When the present quiet hours end, seconds since the epoch; 0: it is no quiet hour.",
            limits.quiet_until.unwrap_or_default(),
        ),
    ] {
        text.single(name, FamilyKind::Gauge, help, value);
    }
    let DownloadCounts { live, parked, waiting, opens } = status.download_counts;
    for (name, help, value) in [
        (
            "binhostfs_downloads_active",
            "Downloads in progress, and those that wait for their turn.",
            live + parked + waiting,
        ),
        ("binhostfs_downloads_parked", "Of these, downloads whose binhost is silent.", parked),
        ("binhostfs_opens_waiting", "Opens that wait for a download.", opens),
    ] {
        text.single(name, FamilyKind::Gauge, help, value);
    }
}

fn binhosts(text: &mut Exposition, binhosts: &[BinhostStatus], now: u64) {
    let mut each = |name, help, value: &dyn Fn(&BinhostStatus) -> i64| {
        let mut family = text.family(name, FamilyKind::Gauge, help);
        binhosts.iter().for_each(|binhost| family.sample(&[("binhost", &binhost.name)], value(binhost)));
    };
    each("binhostfs_binhost_up", "0 if none of its URLs answered the last time.", &|binhost| {
        (!binhost.unreachable).into()
    });
    each("binhostfs_binhost_packages", "Packages of it that are shown.", &|binhost| binhost.packages.cast_signed());
    each(
        "binhostfs_index_timestamp_seconds",
        "TIMESTAMP of its index, seconds since the epoch; 0 without one.",
        &|binhost| binhost.index_timestamp,
    );
    each(
        "binhostfs_index_confirmed_timestamp_seconds",
        "When it last confirmed or sent its index, seconds since the epoch; 0: never.",
        &|binhost| binhost.refresh.confirmed.cast_signed(),
    );
    each("binhostfs_index_refresh_failed", "1 if the last attempt to get its index failed.", &|binhost| {
        binhost.refresh.error.is_some().into()
    });
    each(
        "binhostfs_index_frozen",
        "1 if for more than a day it has had only indexes that are older than the one in use, and were refused.",
        &|binhost| binhost.refresh.frozen_since(now).is_some().into(),
    );
    each("binhostfs_index_stale", "1 if its index is older than max-index-age.", &|binhost| {
        binhost.stale_since(now).is_some().into()
    });
    let mut family =
        text.family("binhostfs_entries_hidden", FamilyKind::Gauge, "Entries of its index that are not shown, by why.");
    for binhost in binhosts {
        let entries = &binhost.entries;
        for (reason, count) in [
            ("dropped", entries.dropped),
            ("refused", entries.refused),
            ("disputed", entries.disputed),
            ("unsigned_format", entries.unsigned_format),
            ("filtered", entries.filtered),
            ("offline", entries.offline),
            ("shadowed", entries.shadowed),
            ("path_conflict", entries.path_conflict),
        ] {
            family.sample(&[("binhost", &binhost.name), ("reason", reason)], count);
        }
    }
}

fn mirrors(text: &mut Exposition, binhosts: &[BinhostStatus]) {
    let all = || binhosts.iter().flat_map(|binhost| binhost.mirrors.iter().map(|mirror| (&*binhost.name, mirror)));
    let mut states =
        text.family("binhostfs_mirror_state", FamilyKind::Gauge, "1 for the state that a URL of a binhost is in.");
    for (binhost, mirror) in all() {
        for (name, state) in [
            ("healthy", MirrorState::Healthy),
            ("distrusted", MirrorState::Distrusted),
            ("probing", MirrorState::Probing),
            ("backing_off", MirrorState::BackingOff),
        ] {
            let labels = [("binhost", binhost), ("url", &*mirror.url), ("state", name)];
            states.sample(&labels, u8::from(mirror.state == state));
        }
    }
    let mut each = |name, kind, help, value: &dyn Fn(&MirrorStatus) -> Option<f64>| {
        let mut family = text.family(name, kind, help);
        for (binhost, mirror) in all() {
            value(mirror)
                .into_iter()
                .for_each(|value| family.sample(&[("binhost", binhost), ("url", &mirror.url)], value));
        }
    };
    each(
        "binhostfs_mirror_bytes_per_second",
        FamilyKind::Gauge,
        "Smoothed rate of downloads from it; not there while it is not known.",
        &|mirror| mirror.rate.map(|rate| rate as f64),
    );
    each(
        "binhostfs_mirror_first_byte_seconds",
        FamilyKind::Gauge,
        "Smoothed time to its first byte; not there while it is not known.",
        &|mirror| mirror.first_byte_ms.map(|time| time as f64 / 1000.0),
    );
    each("binhostfs_mirror_failures", FamilyKind::Gauge, "Its failures in a row.", &|mirror| {
        Some(mirror.failures as f64)
    });
    each(
        "binhostfs_mirror_wrong_packages_total",
        FamilyKind::Counter,
        "Packages from it that proved wrong.",
        &|mirror| Some(mirror.wrong as f64),
    );
}

fn requests(text: &mut Exposition, metrics: &Metrics) {
    let detail = &metrics.detail;
    let help = "What the kernel asked, and how it ended (absent: there is no such file or attribute).";
    let mut requests = text.family("binhostfs_requests_total", FamilyKind::Counter, help);
    for operation in Operation::ALL {
        for outcome in Outcome::ALL {
            let labels = [("operation", operation.name()), ("outcome", outcome.name())];
            requests.sample(&labels, detail.requests(operation, outcome));
        }
    }
    let mut latency =
        text.family("binhostfs_request_seconds", FamilyKind::Histogram, "How long the kernel waited for the answer.");
    for operation in Operation::ALL {
        let reading = detail.latency(operation).map(|latency| latency.read());
        reading.iter().for_each(|reading| latency.histogram(&[("operation", operation.name())], reading));
    }
    let help = "Downloads that were verified, from their turn to the verdict.";
    let mut downloads = text.family("binhostfs_download_seconds", FamilyKind::Histogram, help);
    downloads.histogram(&[], &detail.downloads.read());
    let help = "Downloads refused, by what was wrong with them; each attempt counts.";
    let mut refusals = text.family("binhostfs_verification_failures_total", FamilyKind::Counter, help);
    for kind in RefusalKind::ALL {
        refusals.sample(&[("kind", kind.name())], detail.refusals(kind));
    }
}
