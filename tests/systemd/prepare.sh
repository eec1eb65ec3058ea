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

# shellcheck source=../prepare-lib.sh
. "$(dirname "$0")/../prepare-lib.sh"
[ $# -eq 1 ] && [ -n "$1" ] || { sed -n '4,5p' "$0" >&2; exit 2; }
suite=${SUITE:-$(. /etc/os-release 2> /dev/null && echo "${VERSION_CODENAME:-}")}
suite=${suite:-stable}
init=${INIT:-systemd}
case $init in
	systemd) packages=systemd,systemd-sysv,python3,gpg,gpg-agent,zstd,bzip2,lz4,xz-utils program=/usr/bin/systemd-analyze ;;
	# Before Debian 13 it has dpkg's start-stop-daemon, which knows other options than OpenRC's own.
	openrc) packages=openrc,procps program=/usr/lib/rc/sbin/start-stop-daemon ;;
	*) die "INIT=$init: it is systemd or openrc" ;;
esac

enter "$1"
claim systemd
stamp() { { cat "$here/prepare.sh"; printf '%s\n' "$init" "$suite" "$dir"; } | sha256sum; }
if is_complete; then
	say "$dir is up to date"
	exit 0
fi
check_mmdebstrap
start rootfs
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
finish
