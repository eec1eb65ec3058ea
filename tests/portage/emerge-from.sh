#!/bin/bash
# emerge-from.sh - install from a PKGDIR with the real Portage.
#
# usage: emerge-from.sh PKGDIR ROOT ATOM...          (more options of emerge may be mixed in, e.g. -p -v)
#   PKGDIR  a directory (or a mounted filesystem) that holds Packages and packages; -: what the configuration says
#   ROOT    private directory that receives the packages; created, or used again
# environment:
#   MODE=-K        -K = --usepkgonly (default) | -k = --usepkg | -gK / -gk = with --getbinpkg (uses BINREPOS)
#   FEATURES=...   added to the defaults, e.g. FEATURES="-pkgdir-index-trusted binpkg-request-signature"
#   BINREPOS=URL   a binrepos.conf with this sync-uri is used (only with MODE=-g...); VERIFY=true|false its
#                  verify-signature, BINREPO_LOCATION its location
#   CONFIGROOT=DIR a copy of BASE/conf that is used instead (PORTAGE_CONFIGROOT)
#   BASE=DIR       what make-repo.sh made (default: $BINHOSTFS_TEST_ENV/env, else <checkout>/target/test-env/env)
#   TIMEOUT=SECS   stop emerge after so long (exit status 124); without it emerge may hang for ever
#   WRAP="strace -f -o x"  command put in front of emerge
# exit status: emerge's own
set -euo pipefail
umask 022

die() { printf 'emerge-from.sh: %s\n' "$*" >&2; exit 2; }
[ $# -ge 3 ] || { sed -n '4,17p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd -P)
base=${BASE:-${BINHOSTFS_TEST_ENV:-$here/../../target/test-env}/env}
[ -f "$base/env.sh" ] || die "no test environment in $base: run prepare.sh"
pkgdir=
[ "$1" = - ] || pkgdir=$(cd "$1" && pwd -P)
mkdir -p "$2"
root=$(cd "$2" && pwd -P)
shift 2
case $root in /*/*) ;; *) die "refusing to install into $root" ;; esac
. "$base/env.sh"

# Temporary files and logs are private to the run: runs in parallel must not meet there. (Portage names a log after the
# package and the second.)
work=$(mktemp -d "$BH_BASE/tmp/run.XXXXXX")
trap 'rm -rf --one-file-system -- "$work"' EXIT
chmod 755 "$work" # gpg --verify runs as nobody
mkdir "$work/tmp" "$work/log"
export PORTAGE_TMPDIR=$work/tmp PORTAGE_LOGDIR=$work/log EMERGE_LOG_DIR=$work/log
[ -z "${CONFIGROOT:-}" ] || export PORTAGE_CONFIGROOT=$CONFIGROOT
if [ -n "${BINREPOS:-}" ]; then
	cp -a "$PORTAGE_CONFIGROOT" "$work/conf"
	export PORTAGE_CONFIGROOT=$work/conf
	# the default location, /var/cache/binhost/<name>, is on the real root even with ROOT set
	printf '[bhtest]\nsync-uri = %s\nlocation = %s\npriority = 1\nverify-signature = %s\n' "$BINREPOS" \
		"${BINREPO_LOCATION:-$root/var/cache/binhost/bhtest}" "${VERIFY:-false}" > "$work/conf/etc/portage/binrepos.conf"
fi
[ -z "$pkgdir" ] || export PKGDIR=$pkgdir
export ROOT=$root
# WRAP and MODE hold several words on purpose
# shellcheck disable=SC2086
${TIMEOUT:+timeout --kill-after=10 "$TIMEOUT"} ${WRAP:-} emerge ${MODE:--K} --oneshot --nospinner "$@" && exit
status=$?
# what Portage says only there
for log in "$work"/log/*:*.log; do
	[ ! -s "$log" ] || { echo "--- ${log##*/}"; tail -n 30 "$log"; } >&2
done
exit "$status"
