#!/bin/bash
# prepare.sh - build what the tests with the real Portage need, once.
#
# usage: prepare.sh DIR
#   DIR   new, empty, or made by an earlier run (the checkout's target/test-env)
# environment:
#   PYTHON=python3   the interpreter of the venv
#
# Creates in DIR:
#   venv/                    Portage, pinned
#   env/                     ebuild repository, configuration, keys (see make-repo.sh); env/env.sh to source
#   binhosts/gpkg-multi      17 packages: many compressions, several builds of one version, 50 MiB app-misc/big
#   binhosts/gpkg-flat       \
#   binhosts/xpak-multi       } app-misc/hello 2.0-r1, app-misc/greet and their dependencies
#   binhosts/xpak-flat        }
#   binhosts/gpkg-signed     /  (multi)
#   binhosts/gpkg-uncompressed   2 packages (multi) that Portage itself reads only with BINPKG_COMPRESS="":
#                            it takes the client's setting for a member without suffix
#   stamp                    what it was all built from, and the state of the binhosts; written last
# While the scripts, the Portage version, the interpreter, DIR and the binhosts are unchanged, a second run does
# nothing. Otherwise, or when an earlier run did not finish, everything is built again.
set -euo pipefail
umask 022

portage_version=3.0.83
# what it has been tried with; the wheel itself asks for 3.9 or newer
python_oldest=9 python_newest=13

# shellcheck source=../prepare-lib.sh
. "$(dirname "$0")/../prepare-lib.sh"
[ $# -eq 1 ] && [ -n "$1" ] || { sed -n '4,7p' "$0" >&2; exit 2; }
python=${PYTHON:-python3}

enter "$1"
case $dir in
	/ | /[^/]*) [ "${dir#/*/}" != "$dir" ] || die "refusing to work in $dir: it is not a directory of its own" ;;
esac
case $dir in *[[:space:]\"\'\$\`\\]*) die "Portage's configuration cannot hold the path $dir: no white space, quotes, \$ or \\" ;; esac
claim env

# ---------- is it all there already? ----------
python_version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3], sys.executable)') ||
	die "no python3; install it, or name one in PYTHON"
fingerprint=$({
	cat "$here"/make-repo.sh "$here"/build-binhost.sh "$here"/prepare.sh
	printf '%s\n' "$portage_version" "$python_version" "$dir"
} | sha256sum)
fingerprint=${fingerprint%% *}
# a test that wrote into a binhost must not spoil the next
binhosts_state() { (cd "$dir/binhosts" 2> /dev/null && find . -type f -printf '%p %s %T@\n' | LC_ALL=C sort | sha256sum); }
stamp() { printf '%s\n%s\n' "$fingerprint" "$(binhosts_state)"; }
if is_complete && "$dir/venv/bin/python" -c 'import portage' 2> /dev/null; then
	say "$dir is up to date"
	exit 0
fi

# ---------- build ----------
minor=${python_version#3.} minor=${minor%%.*}
case $python_version in 3.*) ;; *) die "Portage $portage_version needs Python 3.$python_oldest or newer, this is $python_version" ;; esac
[ "$minor" -ge "$python_oldest" ] ||
	die "Portage $portage_version needs Python 3.$python_oldest or newer, this is $python_version; name another in PYTHON"
[ "$minor" -le "$python_newest" ] ||
	say "warning: Portage $portage_version has not been tried with Python $python_version, only up to 3.$python_newest; PYTHON names another"

start binhosts env venv

say "Portage $portage_version into a venv"
"$python" -m venv "$dir/venv" 9>&- || die "\`$python -m venv\` failed; on Debian: apt-get install python3-venv"
"$dir/venv/bin/python" -m pip --quiet --disable-pip-version-check install "portage==$portage_version" 9>&- ||
	die "pip could not install portage $portage_version; see above"

say "ebuild repository, configuration, keys"
"$here/make-repo.sh" "$dir/env" "$dir/venv" 9>&-

# build BINHOST FORMAT ATOM...: environment as build-binhost.sh takes it
build() {
	local name=$1 format=$2
	shift 2
	say "$name: $*"
	"$here/build-binhost.sh" "$dir/binhosts/$name" "$format" "$dir/env" "$@" 9>&-
}
# app-misc/greet and all that it depends on
greet=("=app-misc/greet-0.9" "=app-misc/hello-2.0-r1" "=acct-group/demo-0" "=acct-user/demo-0"
	"=virtual/libgreet-0" "=dev-libs/libfoo-1.3.0" "=sys-libs/glibc-2.41")

# The build with default USE comes last: `emerge -K` takes the newest.
COMPRESS=gzip build gpkg-multi gpkg =sys-libs/glibc-2.40-r3
COMPRESS=bzip2 build gpkg-multi gpkg =dev-libs/libfoo-1.2.3
COMPRESS=xz build gpkg-multi gpkg =app-misc/hello-1.0
COMPRESS=lz4 build gpkg-multi gpkg =app-misc/usesfoo-1
USE=-nls build gpkg-multi gpkg =app-misc/hello-2.0-r1
USE="doc static-libs" build gpkg-multi gpkg =app-misc/hello-2.0-r1 =sys-libs/glibc-2.41
build gpkg-multi gpkg "${greet[@]}" =app-misc/hello-1.1_p20260101 =app-misc/many-1 =app-misc/big-1
LAYOUT=flat build gpkg-flat gpkg "${greet[@]}"
USE=doc build xpak-multi xpak =app-misc/hello-2.0-r1
build xpak-multi xpak "${greet[@]}"
LAYOUT=flat COMPRESS=bzip2 build xpak-flat xpak "${greet[@]}"
build gpkg-signed gpkg-signed "${greet[@]}"
COMPRESS=none build gpkg-uncompressed gpkg =app-misc/hello-1.0 =sys-libs/glibc-2.41

# ---------- is it what it should be? ----------
# expect BINHOST PACKAGES
expect() {
	local found
	found=$(grep -c '^CPV:' "$dir/binhosts/$1/Packages") || true
	[ "$found" = "$2" ] || die "binhosts/$1: $found packages in the index, $2 expected"
	cmp -s "$dir/binhosts/$1/Packages" <(gzip -dc "$dir/binhosts/$1/Packages.gz") || die "binhosts/$1: Packages.gz differs from Packages"
}
expect gpkg-multi 17
expect gpkg-flat 7
expect xpak-multi 8
expect xpak-flat 7
expect gpkg-signed 7
expect gpkg-uncompressed 2
members=$(for package in "$dir"/binhosts/gpkg-*/*/*/*.gpkg.tar; do tar -tf "$package"; done)
for suffix in tar tar.gz tar.bz2 tar.xz tar.lz4 tar.zst; do
	grep -q "/metadata\.$suffix\$" <<< "$members" || die "binhosts/gpkg-*: no package with a metadata.$suffix"
done
for package in "$dir"/binhosts/gpkg-signed/*/*/*.gpkg.tar; do
	tar -tf "$package" | grep '/metadata\.tar.*\.sig$' > /dev/null || die "not signed: $package"
done

finish
