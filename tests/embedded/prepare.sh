#!/bin/bash
# prepare.sh - make what tests/embedded/run builds and boots with, once: compilers, qemu, kernels.
#
# usage: prepare.sh DIR
#   DIR   new, empty, or made by an earlier run (the checkout's target/embedded)
# environment:
#   MIRROR=URL   Debian's mirror; default: mmdebstrap's own
#
# Creates in DIR; needs root, mmdebstrap and the network; takes five minutes and 5 GB:
#   sid/            Debian sid for this machine's processor (amd64): cargo, gcc and the libraries of Rust and C for arm64,
#                   armhf and s390x, musl, Rust's sources, gcc for mipsel, qemu
#   ARCH/packages/  Debian's kernel, libc and busybox for ARCH = arm64 and armhf, unpacked
#   stamp           what it was made from; written last
# While the script, MIRROR and DIR are unchanged, a second run does nothing: remove DIR/stamp for a newer sid.
# shellcheck disable=SC2016 # scripts for inner shells
set -euo pipefail
umask 022

# shellcheck source=../prepare-lib.sh
. "$(dirname "$0")/../prepare-lib.sh"
if [ $# != 1 ] || [ -z "$1" ]; then
	sed -n '4,5p' "$0" >&2
	exit 2
fi
[ "$(uname -m)" = x86_64 ] || die "this is no x86-64 machine: Debian has the cross compilers there"

enter "$1"
claim embedded
stamp() { { cat "$here/prepare.sh"; printf '%s\n' "${MIRROR:-}" "$dir"; } | sha256sum; }
if is_complete; then
	say "$dir is up to date"
	exit 0
fi
check_mmdebstrap
start sid arm64 armhf

packages=(ca-certificates cargo rustc rust-src gcc libc6-dev cpio e2fsprogs gpg gpg-agent kmod python3 xz-utils
	qemu-system-arm qemu-user musl-dev musl-tools gcc-mipsel-linux-gnu libc6-dev-mipsel-cross)
for entry in arm64:aarch64-linux-gnu armhf:arm-linux-gnueabihf s390x:s390x-linux-gnu; do
	packages+=("gcc-${entry#*:}" "libc6-dev:${entry%:*}" "libstd-rust-dev:${entry%:*}")
done
packages+=(musl-dev:arm64 musl-dev:armhf)
say "Debian sid with $(IFS=' '; echo "${packages[*]}")"
# Documents are a fifth of it. A mirror may be more than a week behind; what is built here is tried, and not passed on.
mmdebstrap --quiet --variant=apt --architectures=amd64,arm64,armhf,s390x \
	--include="$(IFS=,; echo "${packages[*]}")" \
	--aptopt='Acquire::Check-Valid-Until "false"' --aptopt='APT::Install-Recommends "false"' \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' --skip=cleanup/apt/lists sid "$dir/sid" ${MIRROR:+"$MIRROR"} 9>&- ||
	die "mmdebstrap failed; see above"

inside() { chroot "$dir/sid" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@" 9>&-; }
# kernel_packages IMAGE ARCH: the metapackage's image, and what that takes its files from
kernel_packages() {
	inside apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$1:$2" |
		sed -nE 's/^(linux-(image|binary|modules|base)-[0-9][^: ]*)(:.*)?$/\1/p' | sort -u
}
# fetch ARCH IMAGE: unpacks what a machine of ARCH boots with
fetch() {
	local arch=$1 image=$2 kernel
	mapfile -t kernel < <(kernel_packages "$image" "$arch")
	[ ${#kernel[@]} -gt 0 ] || die "Debian has no kernel $image for $arch"
	say "$arch: ${kernel[*]}"
	mkdir -p "$dir/$arch" "$dir/sid/download"
	inside sh -ec '
		cd /download
		apt-get -qq -o APT::Sandbox::User=root download "$@"
		for each in *.deb; do dpkg-deb -x "$each" unpacked; done
	' sh "${kernel[@]/%/:$arch}" "libc6:$arch" "busybox-static:$arch"
	mv -- "$dir/sid/download/unpacked" "$dir/$arch/packages"
	rm -rf --one-file-system -- "$dir/sid/download"
}
fetch arm64 linux-image-arm64
fetch armhf linux-image-armmp-lpae

finish
