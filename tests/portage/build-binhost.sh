#!/bin/bash
# build-binhost.sh - build packages into a binhost directory with the real Portage.
#
# usage: build-binhost.sh OUTDIR FORMAT BASE ATOM...
#   OUTDIR  becomes PKGDIR: packages plus Portage's own Packages and Packages.gz. Run again, it adds to it.
#   FORMAT  gpkg | xpak | gpkg-signed      (BINPKG_FORMAT, + FEATURES=binpkg-signing)
#   BASE    what make-repo.sh made
#   ATOM    exact versions, =category/name-version
# environment:
#   LAYOUT=multi   multi: FEATURES=binpkg-multi-instance, Portage's default (category/name/pf-BUILD_ID.gpkg.tar|.xpak)
#                  flat: without it (category/pf.gpkg.tar|.tbz2)
#   COMPRESS=zstd  BINPKG_COMPRESS: zstd, xz, gzip, bzip2, lz4, none
#   USE="..."      as for emerge          JOBS=2   emerge --jobs
# Nothing is written outside OUTDIR and BASE, but for a link in a mktemp directory.
set -euo pipefail
umask 022

[ $# -ge 4 ] || { sed -n '4,13p' "$0" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd -P)
format=$2
base=$(cd "$3" && pwd -P)
shift 3
. "$base/env.sh"

work=$(mktemp -d)
root=$(mktemp -d "$base/tmp/root.XXXXXX")
cleanup() {
	# the signing gpg-agent must not outlive this run
	[ ! -e "$work/gnupg" ] || gpgconf --homedir "$work/gnupg" --kill all 2> /dev/null || true
	rm -rf --one-file-system -- "$work" "$root"
}
trap cleanup EXIT

# Portage packs a gpkg in a process of its own that does not get BINPKG_* from the environment: the settings go
# into a private copy of make.conf.
cp -a "$PORTAGE_CONFIGROOT" "$work/conf"
export PORTAGE_CONFIGROOT=$work/conf
make_conf() { printf '%s="%s"\n' "$@" >> "$work/conf/etc/portage/make.conf"; }

features=
case $format in
	gpkg | xpak) make_conf BINPKG_FORMAT "$format" ;;
	gpkg-signed)
		features=binpkg-signing
		# through a short link: the path of the agent's socket is limited to about 100 bytes
		ln -s "$base/gnupg-sign" "$work/gnupg"
		make_conf BINPKG_FORMAT gpkg BINPKG_GPG_SIGNING_KEY "$(cat "$base/gnupg-sign/KEYID")" \
			BINPKG_GPG_SIGNING_GPG_HOME "$work/gnupg"
		;;
	*) echo "build-binhost.sh: no such format: $format" >&2; exit 2 ;;
esac
case ${LAYOUT:-multi} in
	multi) features="$features binpkg-multi-instance" ;;
	flat) features="$features -binpkg-multi-instance" ;;
	*) echo "build-binhost.sh: no such layout: $LAYOUT" >&2; exit 2 ;;
esac
compress=${COMPRESS:-zstd}
make_conf BINPKG_COMPRESS "${compress/#none/}"
export PKGDIR=$out ROOT=$root FEATURES=$features
if ! emerge --quiet --nospinner --oneshot --nodeps --jobs="${JOBS:-2}" --buildpkg --buildpkgonly "$@" > "$work/log" 2>&1; then
	tail -n 60 "$work/log" >&2
	echo "build-binhost.sh: emerge could not build $* into $out" >&2
	exit 1
fi
