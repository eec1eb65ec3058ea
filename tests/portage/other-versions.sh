#!/bin/bash
# other-versions.sh - other versions of Portage: tests in merge_lists install from a mount with older ones, those in coverage ask
# older ones what they would compile, and entries::versions holds the packages and indexes of all against each other.
#
# usage: other-versions.sh DIR [VERSION...]
#   DIR       new, empty, or made by an earlier run; what is there stays while it is what these scripts make
#   VERSION   of Portage on PyPI; default: 3.0.31 (the first with GPKG), 3.0.48, 3.0.65, 3.0.77, 3.0.83
# environment:
#   PYTHON=python3   the interpreter of the venvs
#
# Creates in DIR for each: VERSION/venv, VERSION/env (see make-repo.sh). 20 s and 60 MB each.
# merge_lists and coverage run this script themselves, for what they need, in target/portages or BINHOSTFS_TEST_PORTAGES, and take
# some 2 minutes for each version:
#   tests/run --test it --run-ignored only -E 'test(merge_lists) | test(coverage)'
# entries::versions takes some 40 minutes with what is there already:
#   BINHOSTFS_TEST_ENV=.../target/test-env BINHOSTFS_TEST_PORTAGES=DIR \
#       cargo nextest run --test it --run-ignored only -E 'test(entries::versions)' --no-capture
set -euo pipefail
umask 022

[ $# -ge 1 ] && [ -n "$1" ] || { sed -n '5,9p' "$0" >&2; exit 2; }
mkdir -p "$1"
dir=$(cd "$1" && pwd -P)
shift
here=$(cd "$(dirname "$0")" && pwd -P)
[ $# -gt 0 ] || set -- 3.0.31 3.0.48 3.0.65 3.0.77 3.0.83

# Tests that need the same one start this at the same time.
exec 9> "$dir/.lock"
flock 9
made_from() { { cat "$here/make-repo.sh" "$here/other-versions.sh"; printf '%s\n' "$dir"; } | sha256sum; }
for version; do
	[[ $version =~ ^[0-9.]*[0-9]$ ]] || { echo "other-versions.sh: not a version: $version" >&2; exit 2; }
	if [ -e "$dir/$version" ]; then
		! cmp -s "$dir/$version/complete" <(made_from) || continue
		[ -e "$dir/$version/venv/pyvenv.cfg" ] || { echo "other-versions.sh: $dir/$version is not from here" >&2; exit 1; }
		rm -rf --one-file-system -- "$dir/${version:?}"
	fi
	mkdir -p "$dir/$version"
	echo "other-versions.sh: Portage $version" >&2
	"${PYTHON:-python3}" -m venv "$dir/$version/venv" 9>&-
	"$dir/$version/venv/bin/python" -m pip --quiet --disable-pip-version-check install "portage==$version" 9>&-
	"$here/make-repo.sh" "$dir/$version/env" "$dir/$version/venv" 9>&-
	# 3.0.31 looks for programs of an ebuild only below its prefix.
	ln -s /usr/bin "$dir/$version/env/host/usr/bin"
	ln -s /bin "$dir/$version/env/host/bin"
	made_from > "$dir/$version/complete"
done
