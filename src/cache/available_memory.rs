//! Memory that can still be taken, within the limits of the machine and of this process's control
//! groups.

use std::fs;
use std::path::{Path, PathBuf};

/// A version of control groups. Source: Documentation/admin-guide/cgroup-v2.rst and
/// cgroup-v1/memory.rst of the kernel.
struct CgroupVersion {
    /// The controller in a line `NUMBER:CONTROLLERS:PATH` of `/proc/PID/cgroup`.
    controllers: &'static str,
    /// Where systemd, OpenRC and containers mount the groups.
    mount: &'static str,
    limits: &'static [&'static str],
    usage: &'static str,
    /// Key in `memory.stat` of the file pages that the kernel reclaims first.
    reclaimable: &'static str,
}

const VERSIONS: [CgroupVersion; 2] = [
    CgroupVersion {
        controllers: "",
        mount: "sys/fs/cgroup",
        limits: &["memory.max", "memory.high"],
        usage: "memory.current",
        reclaimable: "inactive_file",
    },
    CgroupVersion {
        controllers: "memory",
        mount: "sys/fs/cgroup/memory",
        limits: &["memory.limit_in_bytes"],
        usage: "memory.usage_in_bytes",
        reclaimable: "total_inactive_file",
    },
];

/// Bytes that this process can still take, as the kernel estimates it.
pub(crate) fn available() -> u64 {
    below(Path::new("/"))
}

fn below(root: &Path) -> u64 {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let left = VERSIONS.iter().filter_map(|version| version.left(root, &groups));
    left.chain([of_machine(root)]).min().unwrap_or_default()
}

fn of_machine(root: &Path) -> u64 {
    let text = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: u64 = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default();
    kib.saturating_mul(1024)
}

impl CgroupVersion {
    /// The least that is left in the group of this process and in its ancestors. `None`: there is
    /// no bound.
    fn left(&self, root: &Path, groups: &str) -> Option<u64> {
        let path = groups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|controller| controller == self.controllers).then_some(path)
        })?;
        let group = PathBuf::from(path.trim_start_matches('/'));
        let mount = root.join(self.mount);
        group.ancestors().filter_map(|group| self.left_in(&mount.join(group))).min()
    }

    fn left_in(&self, group: &Path) -> Option<u64> {
        let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
        // A group without a bound has `max`, or a number larger than any memory.
        let limit = self.limits.iter().filter_map(|name| number(name)).min()?;
        let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let reclaimable = stat.lines().find_map(|line| line.strip_prefix(self.reclaimable)?.trim().parse::<u64>().ok());
        let used = number(self.usage)?.saturating_sub(reclaimable.unwrap_or_default());
        Some(limit.saturating_sub(used))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn the_least_of_machine_and_groups() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(below(root.path()), 0);
        write(root.path(), &[("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")]);
        assert_eq!(below(root.path()), 8_000 << 10);
        // Version 2, with a bound on a parent group.
        let group = "sys/fs/cgroup/system.slice/binhostfs.service";
        write(
            root.path(),
            &[
                ("proc/self/cgroup", "0::/system.slice/binhostfs.service\n"),
                (&format!("{group}/memory.max"), "max\n"),
                (&format!("{group}/memory.current"), "500000\n"),
                ("sys/fs/cgroup/system.slice/memory.max", "3000000\n"),
                ("sys/fs/cgroup/system.slice/memory.high", "max\n"),
                ("sys/fs/cgroup/system.slice/memory.current", "1000000\n"),
                ("sys/fs/cgroup/system.slice/memory.stat", "anon 5\ninactive_file 250000\nactive_file 9\n"),
            ],
        );
        assert_eq!(below(root.path()), 2_250_000);
        write(root.path(), &[(&format!("{group}/memory.high"), "600000\n")]);
        assert_eq!(below(root.path()), 100_000);
        write(root.path(), &[(&format!("{group}/memory.current"), "700000\n")]);
        assert_eq!(below(root.path()), 0);
    }

    #[test]
    fn groups_of_the_first_version_count_too() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("proc/meminfo", "MemAvailable: 8000 kB\n"),
                ("proc/self/cgroup", "8:pids:/a\n4:cpu,memory:/a\n1:name=systemd:/memory\n0::/\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1\n"),
                ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "2000000\n"),
                ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "1500000\n"),
                ("sys/fs/cgroup/memory/a/memory.stat", "inactive_file 1\ntotal_inactive_file 7\n"),
            ],
        );
        assert_eq!(below(root.path()), 500_007);
    }

    #[test]
    fn what_makes_no_sense_is_no_bound() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[("proc/meminfo", "MemAvailable: 8000 kB\n"), ("proc/self/cgroup", "nonsense\n0::/../x\n::")],
        );
        assert_eq!(below(root.path()), 8_000 << 10);
        write(root.path(), &[("sys/fs/cgroup/memory.max", "lots\n"), ("sys/fs/cgroup/memory.current", "-1\n")]);
        assert_eq!(below(root.path()), 8_000 << 10);
    }
}
