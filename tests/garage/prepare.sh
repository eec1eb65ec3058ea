#!/bin/bash
# tests/garage/prepare.sh DIRECTORY - build Garage, the object store that tests/it/fleet/garage.rs starts, into DIRECTORY/bin.
#
# Some eight minutes on two idle processors, the first time: it is built as cheaply as a program of tests may be, with one database
# engine and without what nobody asks it for. Garage is under the AGPL: it is a program of its own here, and no part of binhostfs.
set -euo pipefail
version=2.5.0
directory=$(realpath -m -- "$1")
mkdir -p "$directory"
# Whoever needs the program waits for this lock (tests/it/harness/garage.rs).
exec 9> "$directory/lock"
flock 9
if [ "$(cat "$directory/version" 2> /dev/null)" = "$version" ] && [ -x "$directory/bin/garage" ]; then
	exit 0
fi
export CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
	CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_STRIP=true CARGO_INCREMENTAL=0 \
	CARGO_TARGET_DIR=$directory/build
# Whatever waits for the processor comes first.
nice -n 19 cargo install --quiet --locked garage --version "$version" --no-default-features --features bundled-libs,lmdb \
	--root "$directory" --force
echo "$version" > "$directory/version"
rm -rf --one-file-system -- "$directory/build"
