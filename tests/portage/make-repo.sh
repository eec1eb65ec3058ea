#!/bin/bash
# make-repo.sh - create the private ebuild repository and Portage configuration.
#
# usage: make-repo.sh BASE VENV
#   BASE   a directory that does not exist yet, or is empty
#   VENV   a python venv that has Portage
#
# Creates:
#   BASE/repo/                 ebuild repository "bhtest" (profile, arch amd64, 14 ebuilds, EAPI 8)
#   BASE/conf/etc/portage/     PORTAGE_CONFIGROOT (make.conf, repos.conf, make.profile)
#   BASE/host/                 the "running root" (PORTAGE_OVERRIDE_EPREFIX): same configuration, no packages
#   BASE/shim/                 gtar -> tar (Portage's xpak extractor calls `gtar`, which only Gentoo has)
#   BASE/gnupg-sign/           throw-away signing key; BASE/gnupg-sign/KEYID its fingerprint
#   BASE/gnupg-verify/         keyring as getuto leaves it; BASE/signing-key.pgp the public key alone
#   BASE/env.sh                source it: sets every variable that emerge needs here
# Nothing outside BASE is written, but for a link in a mktemp directory.
set -euo pipefail
umask 022

die() { printf 'make-repo.sh: %s\n' "$*" >&2; exit 1; }
[ $# -eq 2 ] || { sed -n '4,6p' "$0" >&2; exit 2; }
mkdir -p "$1"
base=$(cd "$1" && pwd -P)
venv=$(cd "$2" && pwd -P)
[ -x "$venv/bin/emerge" ] || die "no Portage in $venv"
[ -z "$(ls -A "$base")" ] || die "$base is not empty"
case $base$venv in *[[:space:]\"\'\$\`\\]*) die "Portage's configuration cannot hold the path $base" ;; esac

repo=$base/repo
user=$(id -un) group=$(id -gn)
mkdir -p "$repo"/{profiles/test,metadata,licenses}
mkdir -p "$base"/{conf/etc/portage,host/etc/portage,shim,distfiles,tmp,log}

# ---------- repository skeleton ----------
echo bhtest > "$repo/profiles/repo_name"
echo 8 > "$repo/profiles/eapi"
echo amd64 > "$repo/profiles/arch.list"
printf '%s\n' acct-group acct-user app-misc dev-libs sys-libs virtual > "$repo/profiles/categories"
echo 'amd64 test stable' > "$repo/profiles/profiles.desc"
printf 'nls - Native language support\ndoc - Documentation\nstatic-libs - static libs\n' > "$repo/profiles/use.desc"
cat > "$repo/metadata/layout.conf" <<X
masters =
thin-manifests = true
sign-manifests = false
profile-formats = portage-2
cache-formats = md5-dict
X
echo 8 > "$repo/profiles/test/eapi"
cat > "$repo/profiles/test/make.defaults" <<X
ARCH="amd64"
ACCEPT_KEYWORDS="amd64"
CHOST="x86_64-pc-linux-gnu"
CBUILD="x86_64-pc-linux-gnu"
ELIBC="glibc"
KERNEL="linux"
USERLAND="GNU"
USE="nls"
USE_EXPAND="ELIBC KERNEL"
USE_EXPAND_HIDDEN="ELIBC KERNEL"
USE_EXPAND_IMPLICIT="ELIBC KERNEL"
USE_EXPAND_VALUES_ELIBC="glibc musl"
USE_EXPAND_VALUES_KERNEL="linux"
IUSE_IMPLICIT="prefix"
X
: > "$repo/licenses/GPL-2"

# ---------- ebuilds ----------
# ebuild CATEGORY NAME VERSION SLOT IUSE RDEPEND PHASES
ebuild() {
	local package=$repo/$1/$2
	mkdir -p "$package"
	cat > "$package/$2-$3.ebuild" <<X
EAPI=8
DESCRIPTION="$2 test package"
HOMEPAGE="https://example.invalid/"
LICENSE="GPL-2"
SLOT="$4"
KEYWORDS="amd64"
IUSE="$5"
RDEPEND="$6"
S="\${WORKDIR}"
$7
X
}
program='src_install() {
	insinto /usr/share/${PN}
	printf "%s\n" "${PF}" "${USE}" > "${T}/version" || die
	doins "${T}/version"
	printf "#!/bin/sh\necho ${PF}\n" > "${T}/${PN}" || die
	dobin "${T}/${PN}"
	keepdir /etc/${PN}
}'
account='src_install() { keepdir /usr/share/${CATEGORY}-${PN}; }'
# Larger than its group: they have one file name and may be of one second, and Portage 3.0.65 and older, scanning PKGDIR, takes
# files with the same name, size and second for one package, whatever directories they are in.
user_account='src_install() {
	python3 -c "import random,sys; sys.stdout.buffer.write(random.Random(7).randbytes(8<<10))" > "${T}/payload" || die
	insinto /usr/share/${CATEGORY}-${PN}; doins "${T}/payload"
}'
libc='src_install() {
	insinto /lib64; echo "fake libc ${PV}" > "${T}/libc.txt" || die; doins "${T}/libc.txt"
	dosym libc.txt /lib64/libc-compat.txt
	insinto /usr/share/i18n; local i; for i in {1..200}; do echo "$i ${PV}" > "${T}/loc$i" || die; done
	doins "${T}"/loc*
}'
# 50 MiB that no compressor shrinks, the same bytes on every build
big='src_install() {
	python3 -c "import random,sys; sys.stdout.buffer.write(random.Random(42).randbytes(50<<20))" > "${T}/payload" || die
	insinto /usr/share/big; doins "${T}/payload"
}'
many='src_install() {
	local i; mkdir "${T}/m" || die
	for i in {1..1500}; do echo "file $i" > "${T}/m/f$i" || die; done
	insinto /usr/share/many; doins -r "${T}/m"
}'
ebuild acct-group demo 0 0 "" "" "$account"
ebuild acct-user demo 0 0 "" "acct-group/demo" "$user_account"
ebuild sys-libs glibc 2.40-r3 2.2 "static-libs" "" "$libc"
ebuild sys-libs glibc 2.41 2.2 "static-libs" "" "$libc"
ebuild dev-libs libfoo 1.2.3 0/1.2 "static-libs" "sys-libs/glibc" "$program"
ebuild dev-libs libfoo 1.3.0 0/1.3 "static-libs" "sys-libs/glibc" "$program"
ebuild app-misc hello 1.0 0 "nls doc" "sys-libs/glibc" "$program"
ebuild app-misc hello 1.1_p20260101 0 "nls doc" "sys-libs/glibc" "$program"
ebuild app-misc hello 2.0-r1 0 "+nls doc" ">=sys-libs/glibc-2.40 nls? ( dev-libs/libfoo:= )" "$program"
ebuild app-misc greet 0.9 0 "nls" ">=app-misc/hello-1.0[nls?] acct-user/demo virtual/libgreet" "$program"
ebuild app-misc usesfoo 1 0 "" "dev-libs/libfoo:=" "$program"
ebuild virtual libgreet 0 0 "" "|| ( dev-libs/libfoo sys-libs/glibc )" ''
ebuild app-misc big 1 0 "" "sys-libs/glibc" "$big"
ebuild app-misc many 1 0 "" "" "$many"

# ---------- configuration (PORTAGE_CONFIGROOT) ----------
# As root Portage drops to nobody:nogroup for `gpg --verify`. Where that user cannot reach BASE (a checkout
# below /root), it must not drop; an empty name says so.
drop_user='' drop_group=''
if [ "$(id -u)" = 0 ] && getent group nogroup > /dev/null &&
	setpriv --reuid nobody --regid nogroup --clear-groups test -x "$base" 2> /dev/null; then
	drop_user=nobody drop_group=nogroup
fi
# FEATURES: only what a build without sandbox needs. The rest are Portage's own defaults (make.globals):
# binpkg-multi-instance, compress-index, pkgdir-index-trusted, merge-wait, parallel-fetch stay on unless the
# caller changes FEATURES. BINPKG_GPG_SIGNING_KEY is not here but in build-binhost.sh: with it, every run of
# emerge unlocks the key first and leaves a gpg-agent behind.
cat > "$base/conf/etc/portage/make.conf" <<X
FEATURES="-sandbox -usersandbox -userpriv -userfetch -usersync -ipc-sandbox -network-sandbox -pid-sandbox -news -merge-sync -xattr -preserve-libs -qa-unresolved-soname-deps -multilib-strict"
PORTAGE_USERNAME="$user"
PORTAGE_GRPNAME="$group"
PORTAGE_INST_UID="$(id -u)"
PORTAGE_INST_GID="$(id -g)"
ACCEPT_LICENSE="*"
MAKEOPTS="-j2"
DISTDIR="$base/distfiles"
PORTAGE_TMPDIR="$base/tmp"
PORTAGE_LOGDIR="$base/log"
EMERGE_LOG_DIR="$base/log"
EMERGE_DEFAULT_OPTS="--color=n"
NOCOLOR=true
PORTAGE_ELOG_SYSTEM="echo"
CLEAN_DELAY=0
EMERGE_WARNING_DELAY=0
BINPKG_GPG_SIGNING_BASE_COMMAND="$(command -v flock) $base/tmp/gpg.lock $(command -v gpg) --sign --armor [PORTAGE_CONFIG]"
BINPKG_GPG_SIGNING_GPG_HOME="$base/gnupg-sign"
BINPKG_GPG_VERIFY_GPG_HOME="$base/gnupg-verify"
GPG_VERIFY_USER_DROP="$drop_user"
GPG_VERIFY_GROUP_DROP="$drop_group"
PORTAGE_TRUST_HELPER=""
X
cat > "$base/conf/etc/portage/repos.conf" <<X
[DEFAULT]
main-repo = bhtest
[bhtest]
location = $repo
auto-sync = no
X
ln -s "$repo/profiles/test" "$base/conf/etc/portage/make.profile"
cp -a "$base/conf/etc/portage/." "$base/host/etc/portage/"
mkdir -p "$base"/host/var/{db/pkg,lib/portage,cache/edb,cache/binpkgs} "$base"/host/usr
echo "PKGDIR=\"$base/host/var/cache/binpkgs\"" >> "$base/host/etc/portage/make.conf"
# Portage reads its global configuration from ${const.EPREFIX}/share/portage/config, and const.EPREFIX is
# BASE/host here: give it the shipped files unchanged, less the [gentoo] repository.
mkdir -p "$base/host/share/portage"
cp -a "$venv/share/portage/config" "$base/host/share/portage/"
echo '[DEFAULT]' > "$base/host/share/portage/config/repos.conf"
ln -s "$(command -v tar)" "$base/shim/gtar"

# ---------- throw-away OpenPGP key ----------
# The path of a gpg-agent's socket is limited to about 100 bytes: reach the home through a short link.
short=$(mktemp -d)
cleanup() {
	for home in "$short"/sign "$short"/verify; do
		[ ! -d "$home" ] || gpgconf --homedir "$home" --kill all 2> /dev/null || true
	done
	rm -rf --one-file-system -- "$short"
}
trap cleanup EXIT
mkdir -m 700 "$base/gnupg-sign"
mkdir -m 755 "$base/gnupg-verify"
ln -s "$base/gnupg-sign" "$short/sign"
ln -s "$base/gnupg-verify" "$short/verify"
gpg_sign() { gpg --homedir "$short/sign" --batch --quiet "$@"; }
gpg_verify() { gpg --homedir "$short/verify" --batch --quiet --no-permission-warning "$@"; }

gpg_sign --passphrase '' --quick-gen-key 'bhtest binhost <bhtest@example.invalid>' ed25519 sign 0 2> "$base/log/gpg.log" ||
	{ cat "$base/log/gpg.log" >&2; die "gpg cannot make a key"; }
key=$(gpg_sign --list-secret-keys --with-colons | awk -F: '/^fpr/ { print $10; exit }')
[ -n "$key" ] || die "gpg made no key"
echo "$key" > "$base/gnupg-sign/KEYID"
gpg_sign --export "$key" > "$base/signing-key.pgp"
gpg_verify --import "$base/signing-key.pgp"
echo "$key:6:" | gpg_verify --import-ownertrust
gpg_verify --check-trustdb 2> /dev/null || true
# readable by everybody, exactly as getuto leaves /etc/portage/gnupg
rm -f -- "$base"/gnupg-verify/*.lock
chmod -R a+rX "$base/gnupg-verify"

cat > "$base/env.sh" <<X
# source me: environment for running the real Portage here without touching the real root
export BH_BASE="$base" BH_VENV="$venv"
export PATH="$base/shim:$venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
export PORTAGE_CONFIGROOT="$base/conf"
export PORTAGE_OVERRIDE_EPREFIX="$base/host"   # the *running* root's prefix: private, not /
export EPREFIX=""                              # the *target* has no prefix
export PORTAGE_USERNAME="$user" PORTAGE_GRPNAME="$group"
export LC_ALL=C.UTF-8
unset ROOT
X
