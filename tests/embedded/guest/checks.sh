#!/bin/busybox sh
# checks.sh - what is checked in the machine. The host reads its lines from the console:
#   ok NAME               the check passed
#   FAIL NAME REASON      it did not; lines of the daemon's log follow
#   figure NAME = VALUE   for the table
#   end                   all checks have run
# The kernel's command line has binhost=URL, the host's, and now=SECONDS, its time. /expected is a file of variables: `entries`,
# and path and SHA-256 of packages.
program=/usr/bin/binhostfs
mountpoint=/var/cache/binpkgs
log=/tmp/log
# option NAME: of the kernel's command line
option() { tr ' ' '\n' < /proc/cmdline | sed -n "s/^$1=//p"; }
binhost=$(option binhost)
now=$(option now)
big='' big_sum='' small='' small_sum='' signed='' signed_sum='' entries=''
# shellcheck source=/dev/null
. /expected

pid='' group='' size=200M reason=''
uptime() { cut -d' ' -f1 /proc/uptime; }
# since UPTIME: seconds
since() { awk -v from="$1" -v to="$(uptime)" 'BEGIN { printf "%.1f s", to - from }'; }
figure() { echo "figure $1 = $2"; }
# because REASON: the reason of a failure, and the failure
because() {
	reason=$*
	return 1
}
# within SECONDS COMMAND...: polls; there is no event to wait for in a shell
within() {
	local deadline
	deadline=$(($(uptime | cut -d. -f1) + $1))
	shift
	until "$@"; do
		[ "$(uptime | cut -d. -f1)" -lt $deadline ] || return 1
		sleep 0.2
	done
}
mebibytes() { awk -v kib="$1" 'BEGIN { printf "%.1f MiB", kib / 1024 }'; }
# memory FIELD: of the daemon
memory() { mebibytes "$(awk -v field="$1:" '$1 == field { print $2 }' "/proc/$pid/status")"; }
available() { mebibytes "$(awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo)"; }

is_mounted() { grep -q " $mountpoint fuse" /proc/mounts; }
is_mounted_or_ended() { is_mounted || ! kill -0 "$pid" 2> /dev/null; }
shows_the_index() { [ "$(grep -c '^CPV: ' "$mountpoint/Packages" 2> /dev/null)" = "$1" ]; }
# start ENTRIES OPTION...: mounts, and waits for the index
start() {
	local entries=$1
	shift
	begin=$(uptime)
	(
		[ -z "$group" ] || echo 0 > "$group/cgroup.procs"
		exec "$program" mount --cache-size $size "$@" "$mountpoint" > $log 2>&1
	) &
	pid=$!
	within 300 is_mounted_or_ended
	is_mounted || because "it does not mount" || return
	mounted=$(since "$begin")
	within 600 shows_the_index "$entries" || because "not the index of $entries entries" || return
	shown=$(since "$begin")
}
start_unsigned() { start "$entries" --binhost "$binhost/main" --verify-signature false "$@"; }
start_signed() { start 2 --binhost "$binhost/signed" --refresh 5s "$@"; }
stop() {
	[ -z "$pid" ] || {
		kill "$pid" 2> /dev/null
		wait "$pid"
	}
	! is_mounted || umount -l "$mountpoint"
	pid='' group='' size=200M
}
# reads PATH SHA256
reads() {
	local sum
	sum=$(sha256sum "$mountpoint/$1" 2> /tmp/error) || because "$1: $(cat /tmp/error)" || return
	[ "${sum%% *}" = "$2" ] || because "$1: wrong bytes, SHA-256 ${sum%% *}"
}
does_not_read() { ! cat "$mountpoint/$1" > /dev/null 2>&1; }
reads_big() { reads "$big" "$big_sum"; }
reads_small() { reads "$small" "$small_sum"; }
says() { "$program" status 2>&1 | grep -q "$1"; }
# check NAME COMMAND...
check() {
	local name=$1
	shift
	reason="it failed"
	begin=$(uptime)
	if "$@"; then
		echo "ok $name"
	else
		echo "FAIL $name $reason"
		tail -n 12 $log | sed 's/^/    /'
	fi
}

demo() {
	"$program" demo > $log 2>&1 || because "exit status $?" || return
	figure "\`binhostfs demo\`" "$(since "$begin")"
}

first_mount() {
	figure "available, before" "$(available)"
	start_unsigned || return
	figure "time to the mount" "$mounted"
	figure "time to the first index" "$shown"
	# what came with the index is given back
	sleep 5
	figure "RSS with the index" "$(memory VmRSS)"
	figure "of it anonymous" "$(memory RssAnon)"
	figure "peak with the index" "$(memory VmHWM)"
	figure "available, mounted" "$(available)"
}
cold_read() {
	begin=$(uptime)
	reads_big || return
	figure "50 MiB, first read" "$(since "$begin")"
	figure "RSS after it" "$(memory VmRSS)"
	figure "peak after it" "$(memory VmHWM)"
	begin=$(uptime)
	reads_big || return
	figure "50 MiB, second read" "$(since "$begin")"
}
killed() {
	kill -9 "$pid"
	wait "$pid"
	does_not_read "$big" || because "it can be read without a daemon" || return
	start_unsigned || return
	figure "mount after a kill, stored index" "$mounted"
	reads_big
}
restarted() {
	stop
	start_unsigned || return
	sleep 5
	figure "RSS with a stored index" "$(memory VmRSS)"
	reads_small
}

child() { awk -v parent="$pid" '$4 == parent { print $1 }' /proc/[0-9]*/stat 2> /dev/null; }
# has_continued TIMES: a daemon has taken over the mount of the one before it
has_continued() { [ "$(grep -c 'going on with the mount of the daemon before' $log)" = "$1" ] && "$program" status > /dev/null 2>&1; }
# The package stays open over a reload and a kill; what was read of it has to be right in all.
supervised() {
	local sum
	start_unsigned --supervise || return
	exec 3< "$mountpoint/$big" || because "it does not open" || return
	dd bs=1048576 count=1 <&3 > /tmp/part 2> /dev/null
	"$program" reload > /tmp/error 2>&1 || because "reload: $(cat /tmp/error)" || return
	within 120 has_continued 1 || because "no other daemon after a reload" || return
	dd bs=1048576 count=1 <&3 >> /tmp/part 2> /dev/null
	kill -9 "$(child)"
	within 120 has_continued 2 || because "no other daemon after a kill" || return
	sum=$(cat /tmp/part - <&3 | sha256sum)
	[ "${sum%% *}" = "$big_sum" ] || because "wrong bytes in the open file" || return
	reads_small || return
	figure "RSS of the supervising process" "$(memory VmRSS)"
}

signed() {
	start_signed --cache-dir /cache/signed --keyring /keys/builder.pgp || return
	reads "$signed" "$signed_sum"
}
signed_by_another() {
	start_signed --cache-dir /cache/stranger --keyring /keys/stranger.pgp || return
	does_not_read "$signed" || because "a package of an unknown key can be read" || return
	says "signature" || because "the status does not name the signature"
}
no_clock() {
	date -s @3600 > /dev/null
	start_signed --cache-dir /cache/clock --keyring /keys/builder.pgp || return
	does_not_read "$signed" || because "a signature of the future counts" || return
	says "the clock of this machine is wrong" || because "the status does not name the clock" || return
	date -s "@$now" > /dev/null
	within 120 reads "$signed" "$signed_sum"
}

small_cgroup() {
	echo +memory > /sys/fs/cgroup/cgroup.subtree_control || because "no memory controller" || return
	group=/sys/fs/cgroup/small
	mkdir $group
	echo 24M > $group/memory.max
	start_unsigned --cache-dir /cache/cgroup || return
	reads_big || return
	kill -0 "$pid" || because "it ended" || return
	grep -q '^oom_kill 0$' /sys/fs/cgroup/small/memory.events || because "the kernel killed in the cgroup" || return
	figure "cgroup of 24 MB, limit reached" "$(awk '$1 == "max" { print $2 " times" }' /sys/fs/cgroup/small/memory.events)"
}
small_tmpfs() {
	mkdir /ram
	mount -t tmpfs -o size=24m tmpfs /ram || because "no tmpfs" || return
	size=4M
	start_unsigned --cache-dir /ram/cache || return
	says "Packages is rendered when it is read" || because "Packages is stored on a disk of 24 MB" || return
	reads_small || return
	figure "tmpfs of 24 MB, used" "$(mebibytes "$(df -k /ram | awk 'END { print $3 }')")"
	stop
	umount /ram
}
without_passthrough() {
	start_unsigned --cache-dir /cache/copied --passthrough off || return
	reads_big || return
	begin=$(uptime)
	reads_big || return
	figure "without passthrough, second read" "$(since "$begin")"
	figure "without passthrough, peak" "$(memory VmHWM)"
}

date -s "@$now" > /dev/null
echo "machine: $(uname -rm), $(mebibytes "$(awk '$1 == "MemTotal:" { print $2 }' /proc/meminfo)")"
figure "memory that Linux has" "$(mebibytes "$(awk '$1 == "MemTotal:" { print $2 }' /proc/meminfo)")"
check demo demo
check mount first_mount
check cold-read cold_read
check kill killed
check restart restarted
stop
check supervise supervised
exec 3<&-
rm -f /tmp/part
stop
check signed signed
stop
check signed-by-another signed_by_another
stop
check no-clock no_clock
stop
check cgroup-24M small_cgroup
stop
check tmpfs-24M small_tmpfs
stop
check passthrough-off without_passthrough
stop
! dmesg | grep -iE 'out of memory|oom-kill|segfault' || echo "FAIL kernel it killed something"
echo end
