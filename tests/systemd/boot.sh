#!/bin/bash
# boot.sh - boot a root file system with its init as pid 1, and stay until it is powered off.
#
# usage: boot.sh ROOTFS NAME [OPTION of systemd-nspawn]...
#   ROOTFS   what prepare.sh made; nothing is written there
#   NAME     of the machine, one that no other has
# environment:
#   NOTIFY_SOCKET   is told X_NSPAWN_LEADER_PID=, and READY=1 once the machine runs
# SIGTERM powers it off. It has /dev/fuse and a network of its own with loopback only. Machines with the same ROOTFS
# run one after the other.
set -euo pipefail

[ $# -ge 2 ] || { sed -n '4,6p' "$0" >&2; exit 2; }
rootfs=$(cd "$1" && pwd -P)
name=$2
shift 2

exec 9< "$rootfs"
flock 9

options=(--quiet --register=no --boot --directory="$rootfs" --volatile=overlay --machine="$name" --notify-ready=yes
	--bind=/dev/fuse --private-network --console=pipe)
cgroups=()
if [ ! -d /run/systemd/system ]; then
	# Nobody here hands out cgroups: take one, in every hierarchy that systemd uses, so that machines do not meet.
	options+=(--keep-unit)
	mapfile -t cgroups < <(awk '/ - cgroup2 / || / - cgroup .*name=systemd/ { print $5 }' /proc/self/mountinfo)
fi
for i in "${!cgroups[@]}"; do
	cgroups[i]+=/$name
	mkdir "${cgroups[i]}" 2> /dev/null || unset "cgroups[i]"
done
machine=
cleanup() {
	for cgroup in "${cgroups[@]}"; do
		find "$cgroup" -depth -type d -exec rmdir {} + 2> /dev/null || true
	done
	# nspawn itself removes it only where /run is a tmpfs
	rmdir "/run/systemd/nspawn/propagate/$name" 2> /dev/null || true
}
trap cleanup EXIT
trap '[ -z "$machine" ] || kill -TERM "$machine" 2> /dev/null || true' TERM INT HUP

(
	for cgroup in "${cgroups[@]}"; do
		echo "$BASHPID" > "$cgroup/cgroup.procs"
	done
	# powered off also when this script is killed
	exec setpriv --pdeathsig TERM systemd-nspawn "${options[@]}" "$@" < /dev/null 9<&-
) &
machine=$!
status=0
while kill -0 "$machine" 2> /dev/null; do
	status=0
	wait "$machine" || status=$?
done
exit "$status"
