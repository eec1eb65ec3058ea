#!/bin/bash
# prepare.sh - make the root file system that the tests of the systemd unit, or of the OpenRC script, boot, once.
#
# usage: prepare.sh DIR
#   DIR   new, empty, or made by an earlier run (the checkout's target/test-env/systemd)
# environment:
#   INIT=systemd|openrc   what is pid 1 there; default: systemd
#   SUITE=bookworm   Debian's (or Ubuntu's) release; default: this machine's, so that what is built here runs there
#   MIRROR=URL       where from; default: mmdebstrap's own
#
# Creates in DIR:
#   rootfs/   a minimal Debian with systemd and what Portage needs, 200 MB, or with OpenRC, 90 MB; needs root, mmdebstrap and
#             the network; takes 30 s
#   stamp     what it was made from; written last
# While the script, INIT, SUITE and DIR are unchanged, a second run does nothing.
set -euo pipefail
umask 022

say() { printf 'systemd/prepare.sh: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
[ $# -eq 1 ] && [ -n "$1" ] || { sed -n '4,5p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd -P)
suite=${SUITE:-$(. /etc/os-release 2> /dev/null && echo "${VERSION_CODENAME:-}")}
suite=${suite:-stable}
init=${INIT:-systemd}
case $init in
	systemd) packages=systemd,systemd-sysv,python3,zstd,bzip2,lz4,xz-utils program=/usr/bin/systemd-analyze ;;
	# Before Debian 13 it has dpkg's start-stop-daemon, which knows other options than OpenRC's own.
	openrc) packages=openrc,procps program=/usr/lib/rc/sbin/start-stop-daemon ;;
	*) die "INIT=$init: it is systemd or openrc" ;;
esac

mkdir -p "$1"
dir=$(cd "$1" && pwd -P)
marker=$dir/.binhostfs-test-systemd
if [ ! -e "$marker" ]; then
	[ -z "$(ls -A "$dir")" ] || die "$dir holds files that are not from here; give an empty directory"
	: > "$marker"
fi
exec 9> "$dir/.lock"
flock -n 9 || { say "waiting for another run in $dir"; flock 9; }

stamp() { { cat "$here/prepare.sh"; printf '%s\n' "$init" "$suite" "$dir"; } | sha256sum; }
if cmp -s "$dir/stamp" <(stamp); then
	say "$dir is up to date"
	exit 0
fi
[ "$(id -u)" = 0 ] || die "a root file system can only be made by root"
rm -f -- "$dir/stamp"
if [ -e "$dir/rootfs" ]; then
	if awk -v path="$dir/rootfs" '$5 == path || index($5, path "/") == 1 { found = 1 } END { exit !found }' /proc/self/mountinfo; then
		die "something is mounted below $dir/rootfs: unmount it, then run this again"
	fi
	rm -rf --one-file-system -- "$dir/rootfs"
fi
SECONDS=0
say "$init of $suite into $dir/rootfs"
mmdebstrap --quiet --variant=minbase --include="$packages" \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' "$suite" "$dir/rootfs" ${MIRROR:+"$MIRROR"} 9>&- ||
	die "mmdebstrap failed; see above"
[ -x "$dir/rootfs$program" ] || die "no $program in $dir/rootfs"
if [ "$init" = openrc ]; then
	ln -s openrc-init "$dir/rootfs/sbin/init"
	# Debian has none of OpenRC's own services. All that this one would mount is mounted.
	printf '#!/sbin/openrc-run\nstart() { :; }\n' > "$dir/rootfs/etc/init.d/localmount"
	chmod 755 "$dir/rootfs/etc/init.d/localmount"
fi
# what podman mounts over: root of a container with a user namespace could not make them
touch "$dir/rootfs/etc/hosts" "$dir/rootfs/run/.containerenv"
stamp > "$dir/stamp.new"
mv -- "$dir/stamp.new" "$dir/stamp"
say "$dir is ready after $SECONDS s"
