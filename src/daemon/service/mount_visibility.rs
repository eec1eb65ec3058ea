//! Checks whether processes outside the service see the mount.
//!
//! A service manager can give a service a mount namespace of its own. A mount in that namespace
//! stays there, and PKGDIR remains empty for all other processes.

use std::path::Path;

use crate::sys::mounts_of;

/// systemd options that give a service a mount namespace of its own. Source: systemd.exec(5).
const OPTIONS: &str = "PrivateTmp=, PrivateMounts=, PrivateDevices=, ProtectSystem=, ProtectHome=, ProtectKernelTunables=, \
    ProtectKernelModules=, ProtectKernelLogs=, ProtectControlGroups=, ProtectProc=, ProcSubset=, ReadOnlyPaths=, \
    ReadWritePaths=, InaccessiblePaths=, ExecPaths=, NoExecPaths=, BindPaths=, BindReadOnlyPaths=, TemporaryFileSystem=, \
    MountFlags=, RootDirectory=, DynamicUser= and, with some versions, PrivateNetwork=";

/// Explains why no other process sees the mount on `mountpoint`, which has the number `device`.
/// `None`: others see the mount, or that cannot be determined.
pub(crate) fn hidden(mountpoint: &Path, device: Option<u64>) -> Option<String> {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    if namespace("1")? == namespace("self")? {
        return None;
    }
    let ours = device?;
    if mounts_of("1").ok()?.iter().any(|mount| mount.device == ours) {
        return None;
    }
    Some(match systemd_unit(&std::fs::read_to_string("/proc/self/cgroup").ok()?) {
        Some(unit) => format!(
            "nobody else sees what is mounted on {}: the service {unit} has a mount namespace of its own. Have it \
             mount in everybody's, with --mount-namespace=/proc/1/ns/mnt; or take out the option that makes one (`systemctl \
             cat {unit}` shows them all): {OPTIONS}",
            mountpoint.display()
        ),
        None => format!(
            "nobody outside sees what is mounted on {}: this process has a mount namespace of its own, as in a container or \
             under `unshare --mount`",
            mountpoint.display()
        ),
    })
}

/// The systemd unit that a process is in. Source: proc_pid_cgroup(5).
fn systemd_unit(cgroups: &str) -> Option<&str> {
    let paths = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.filter_map(|path| path.rsplit('/').find(|part| part.ends_with(".service"))).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_in_the_control_group() {
        let unit = |text| systemd_unit(text);
        assert_eq!(unit("0::/system.slice/binhostfs.service\n"), Some("binhostfs.service"));
        assert_eq!(unit("4:cpu:/\n1:name=systemd:/a/binhostfs@x.service/sub\n"), Some("binhostfs@x.service"));
        assert_eq!(unit("0::/user.slice/session-1.scope\n"), None);
        assert_eq!(hidden(Path::new("/proc"), None), None);
    }
}
