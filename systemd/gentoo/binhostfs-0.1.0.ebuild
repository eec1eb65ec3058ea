# Distributed under the same terms as binhostfs: MIT OR Apache-2.0

EAPI=8

# For your own overlay: make both archives in a checkout, put them into DISTDIR, then ebuild binhostfs-0.1.0.ebuild manifest
#   git archive --prefix=binhostfs-0.1.0/ HEAD | xz > binhostfs-0.1.0.tar.xz
#   cargo vendor --locked cargo_home/gentoo && tar --xz -cf binhostfs-0.1.0-crates.tar.xz cargo_home
RUST_MIN_VER="1.88.0"

inherit cargo linux-info

DESCRIPTION="A remote Gentoo binhost, mounted as PKGDIR: packages are fetched and verified when opened"
HOMEPAGE="https://wiki.gentoo.org/wiki/Binary_package_guide"
SRC_URI="${P}.tar.xz ${P}-crates.tar.xz"

LICENSE="|| ( MIT Apache-2.0 )"
# Linked in
LICENSE+=" Apache-2.0 BSD BZIP2 Boost-1.0 ISC LGPL-2+ MIT Unicode-3.0 ZLIB"
SLOT="0"
KEYWORDS="~amd64 ~arm64"
RESTRICT="fetch"

RDEPEND="
	app-misc/ca-certificates
	sec-keys/openpgp-keys-gentoo-release
"

CONFIG_CHECK="~FUSE_FS ~FUSE_PASSTHROUGH"

# Both eclasses have one.
pkg_setup() {
	linux-info_pkg_setup
	rust_pkg_setup
}

pkg_nofetch() {
	einfo "Put ${A} into your DISTDIR; the ebuild says how they are made."
}

src_install() {
	local -x DESTDIR="${D}" PREFIX="${EPREFIX}/usr" SBINDIR="${EPREFIX}/sbin" SYSCONFDIR="${EPREFIX}/etc"
	local -x BINARY="$(cargo_target_dir)/binhostfs" OPENRC=yes
	sh systemd/install || die
	einstalldocs
	dodoc CHANGELOG.md
	keepdir /etc/binhostfs
}

src_test() {
	# The others mount, and need a network.
	cargo_src_test --lib
}

pkg_postinst() {
	elog "Start it with one of"
	elog "    systemctl enable --now binhostfs"
	elog "    rc-update add binhostfs default; rc-service binhostfs start"
	elog "Portage checks the packages itself, too; for that, run getuto once."
}
