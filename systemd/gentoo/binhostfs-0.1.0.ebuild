# Distributed under the same terms as binhostfs: MIT OR Apache-2.0

EAPI=8

# The crates are vendored beside the sources: cargo vendor, tar --xz -cf binhostfs-0.1.0-crates.tar.xz vendor
# For your own overlay: put both archives into DISTDIR, then ebuild binhostfs-0.1.0.ebuild manifest
RUST_MIN_VER="1.88.0"

inherit cargo linux-info shell-completion

DESCRIPTION="A remote Gentoo binhost, mounted as PKGDIR: packages are fetched and verified when opened"
HOMEPAGE="https://wiki.gentoo.org/wiki/Binary_package_guide"
SRC_URI="${P}.tar.xz ${P}-crates.tar.xz"

LICENSE="|| ( MIT Apache-2.0 )"
# Linked in
LICENSE+=" Apache-2.0 BSD Boost-1.0 ISC LGPL-2+ MIT MPL-2.0 Unicode-3.0 ZLIB"
SLOT="0"
KEYWORDS="~amd64 ~arm64"
RESTRICT="fetch"

RDEPEND="
	app-misc/ca-certificates
	sec-keys/openpgp-keys-gentoo-release
"

CONFIG_CHECK="~FUSE_FS ~FUSE_PASSTHROUGH"

ECARGO_VENDOR="${WORKDIR}/vendor"

pkg_nofetch() {
	einfo "Put ${A} into your DISTDIR; the ebuild says how they are made."
}

src_install() {
	local -x DESTDIR="${D}" PREFIX="${EPREFIX}/usr" SBINDIR="${EPREFIX}/sbin" SYSCONFDIR="${EPREFIX}/etc"
	local -x BINARY="$(cargo_target_dir)/binhostfs" OPENRC=yes
	sh systemd/install || die
	einstalldocs
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
