# prepare-lib.sh - what each prepare.sh shares: a directory of its own, which one run at a time fills, once.
#
# A prepare.sh sources it, defines `stamp`, which prints what the content is made from, and calls in this order:
#   enter DIR           makes DIR; sets `dir`, its path
#   claim NAME          takes DIR for NAME, if it is empty or NAME has taken it before; waits for another run
#   is_complete         whether an earlier run has finished with the same `stamp`
#   start NAME...       removes these from DIR, and the stamp
#   finish              writes the stamp
# File descriptor 9 has the lock: a program that may outlive the script gets 9>&-.
# This file is no part of the stamps: it changes nothing of what is made.
# shellcheck shell=bash

here=$(cd "$(dirname "$0")" && pwd -P)

say() { printf '%s/prepare.sh: %s\n' "${here##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

enter() {
	mkdir -p -- "$1"
	dir=$(cd -- "$1" && pwd -P)
}

claim() {
	local marker=$dir/.binhostfs-test-$1
	if [ ! -e "$marker" ]; then
		# Another run may have taken it in between.
		[ -z "$(ls -A -- "$dir")" ] || [ -e "$marker" ] || die "$dir holds files that are not from here; give an empty directory"
		: > "$marker"
	fi
	exec 9> "$dir/.lock"
	flock -n 9 || { say "waiting for another run in $dir"; flock 9; }
}

is_complete() { cmp -s "$dir/stamp" <(stamp); }

# remove NAME: one of the fixed names in $dir, never across a mount
remove() {
	local path=${dir:?}/${1:?}
	[ -e "$path" ] || [ -L "$path" ] || return 0
	# as mountinfo spells it
	local spelled=${path//\\/\\134}
	spelled=${spelled// /\\040} spelled=${spelled//$'\t'/\\011} spelled=${spelled//$'\n'/\\012}
	if path=$spelled awk '$5 == ENVIRON["path"] || index($5, ENVIRON["path"] "/") == 1 { found = 1 } END { exit !found }' \
		/proc/self/mountinfo; then
		die "something is mounted below $path: unmount it, then run this again"
	fi
	rm -rf --one-file-system -- "$path"
}

start() {
	local name
	rm -f -- "${dir:?}/stamp"
	for name; do remove "$name"; done
	SECONDS=0
}

finish() {
	stamp > "$dir/stamp.new"
	mv -- "$dir/stamp.new" "$dir/stamp"
	say "$dir is ready after $SECONDS s"
}

# check_mmdebstrap: whether it can make a root file system
check_mmdebstrap() {
	[ "$(id -u)" = 0 ] || die "a root file system can only be made by root"
	command -v mmdebstrap > /dev/null || die "no mmdebstrap: apt-get install mmdebstrap"
}
