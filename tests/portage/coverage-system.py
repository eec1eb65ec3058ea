"""Makes a system for the tests of `binhostfs coverage`.

It has installed packages, newer ebuilds, and a binhost that fits in part.

usage: PYTHON coverage-system.py DIR BASE [FILLER]
  PYTHON  of a venv that has Portage, which packs the binary packages
  DIR     new or empty
  BASE    what make-repo.sh made with that venv
  FILLER  so many entries are added to the indexes whose packages do not exist

Creates in DIR:
  repo/              ebuild repository "coverage", with its metadata cache, and GLSAs
  conf/etc/portage/  PORTAGE_CONFIGROOT
  root/              ROOT: packages that are installed, without files; all are in @world
  binhost/           real packages, and Portage's own index of them
  x86-64-v4/         another binhost, with app-cause/cpu-level alone
  shown/Packages     the index of binhost without app-cause/hidden
  environment.json   variables for an emerge in this system
  expected.json      what emerge has to do, by package: the CPV, why it is compiled ("": it is a
                     binary package), whether USE flags alone make it a binary package, and whether
                     holding its version does
"""

import bz2
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile

IMPLICIT_USE = "amd64 elibc_glibc kernel_linux"
BUILD_TIME = 1_760_000_000
PROFILE = """ARCH="amd64"
ACCEPT_KEYWORDS="amd64"
CHOST="x86_64-pc-linux-gnu"
CBUILD="x86_64-pc-linux-gnu"
ELIBC="glibc"
KERNEL="linux"
USERLAND="GNU"
USE="nls"
PYTHON_TARGETS="python3_13"
USE_EXPAND="ELIBC KERNEL PYTHON_TARGETS"
USE_EXPAND_HIDDEN="ELIBC KERNEL"
USE_EXPAND_IMPLICIT="ELIBC KERNEL"
USE_EXPAND_VALUES_ELIBC="glibc musl"
USE_EXPAND_VALUES_KERNEL="linux"
IUSE_IMPLICIT="prefix"
"""
INSTALL = """src_install() {
	insinto /usr/share/${PN}
	echo "${PF} ${USE}" > "${T}/version" || die
	doins "${T}/version"
}
"""
GLSA = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE glsa SYSTEM "http://www.gentoo.org/dtd/glsa.dtd">
<glsa id="202610-01">
  <title>behind-glsa: a hole</title>
  <synopsis>A hole.</synopsis>
  <product type="ebuild">behind-glsa</product>
  <announced>2026-10-01</announced>
  <revised count="1">2026-10-01</revised>
  <bug>1</bug>
  <access>remote</access>
  <affected>
    <package name="app-version/behind-glsa" auto="yes" arch="*">
      <unaffected range="ge">2.1</unaffected>
      <vulnerable range="lt">2.1</vulnerable>
    </package>
  </affected>
  <background><p>.</p></background>
  <description><p>.</p></description>
  <impact type="high"><p>.</p></impact>
  <workaround><p>.</p></workaround>
  <resolution><p>.</p></resolution>
  <references></references>
</glsa>
"""


class Version:
    """An ebuild, a build of one, or an installed package: metadata where it is not the usual."""

    def __init__(self, version, use="", **metadata):
        self.version, self.use, self.metadata = version, use, metadata

    def values(self):
        usual = {"SLOT": "0", "KEYWORDS": "amd64", "LICENSE": "GPL-2", "IUSE": "", "RDEPEND": ""}
        return {"EAPI": "8", "DESCRIPTION": "test", **usual, **self.metadata}

    def built(self):
        """Metadata of what was built of it."""
        values = self.values()
        use = sorted({*self.use.split(), *IMPLICIT_USE.split()})
        return {
            "CHOST": "x86_64-pc-linux-gnu",
            "repository": "coverage",
            "DEFINED_PHASES": "install",
            **values,
            "USE": " ".join(use),
        }


class Package:
    """A package of @world.

    cause    why emerge compiles it; "" for a binary package; None: there is nothing to merge
    by_use   USE flags alone make it binary
    by_hold  without the newer versions of the tree, nothing is compiled
    """

    def __init__(self, cp, cause, ebuilds, builds, installed=None, by_use=False, by_hold=False):
        self.cp, self.cause, self.ebuilds, self.builds = cp, cause, ebuilds, builds
        self.installed = installed or Version("1.0", **{"SLOT": ebuilds[-1].values()["SLOT"].split("/")[0]})
        self.by_use, self.by_hold = by_use, by_hold
        # Its line of @world; others are dependencies.
        self.world = cp
        # Of a binhost that the CPU cannot use.
        self.other_binhost = False

    def not_installed(self):
        self.installed = self.world = None
        return self


def fitting():
    """Binary packages, some with dependencies."""
    for number in range(30):
        both = dict(IUSE="nls doc", RDEPEND=f">=app-binary/fit{number - 1:02}-2.0" if number % 3 else "")
        yield Package(f"app-binary/fit{number:02}", "", [Version("2.0", **both)], [Version("2.0", "nls", **both)])


def by_use():
    """Builds with other USE flags that the user may set."""
    for number in range(14):
        both = dict(IUSE="nls doc")
        yield Package(
            f"app-use/more{number:02}",
            "use",
            [Version("2.0", **both)],
            [Version("2.0", "nls doc", **both)],
            by_use=True,
        )
    for number in range(5):
        both = dict(IUSE="nls gui")
        yield Package(
            f"app-use/less{number:02}", "use", [Version("2.0", **both)], [Version("2.0", "", **both)], by_use=True
        )
    for number in range(3):
        # The first build differs in fewer flags than the newest one.
        both = dict(IUSE="nls doc gui static-libs")
        builds = [Version("2.0", "nls doc", **both), Version("2.0", "nls doc gui static-libs", **both)]
        yield Package(f"app-use/nearest{number:02}", "use", [Version("2.0", **both)], builds, by_use=True)
    for number in range(2):
        both = dict(IUSE="python_targets_python3_12 python_targets_python3_13")
        build = Version("2.0", "python_targets_python3_12", **both)
        yield Package(f"app-use/python{number:02}", "use", [Version("2.0", **both)], [build], by_use=True)


def not_by_use():
    """Builds with other USE flags, which nobody may or can set for the user."""
    doc, chosen = dict(IUSE="nls doc"), dict(IUSE="nls chosen")
    yield Package("app-use/in-package-use", "use", [Version("2.0", **doc)], [Version("2.0", "nls", **doc)])
    yield Package("app-use/in-make-conf", "use", [Version("2.0", **chosen)], [Version("2.0", "nls", **chosen)])
    for flag, use in (("impossible", "nls impossible"), ("necessary", "nls")):
        both = dict(IUSE=f"nls {flag}")
        yield Package(f"app-use/{flag}", "use", [Version("2.0", **both)], [Version("2.0", use, **both)])
    yield Package("app-use/other-iuse", "use", [Version("2.0", IUSE="nls doc")], [Version("2.0", "nls", IUSE="nls")])
    # With the flag the package is binary, and two others are compiled.
    both = dict(IUSE="nls gui", RDEPEND="gui? ( dev-libs/toolkit dev-libs/theme )")
    built = dict(IUSE="nls gui", RDEPEND="dev-libs/toolkit dev-libs/theme")
    yield Package("app-use/worse", "use", [Version("2.0", **both)], [Version("2.0", "nls gui", **built)])
    for name in ("toolkit", "theme"):
        yield Package(f"dev-libs/{name}", None, [Version("1.0")], []).not_installed()


def other_versions():
    ahead_of_binhost, build = [Version("2.0"), Version("2.1")], [Version("2.0")]
    yield Package("app-version/behind", "version", ahead_of_binhost, build, by_hold=True)
    yield Package("app-version/behind-installed", "version", ahead_of_binhost, build, Version("2.0"), by_hold=True)
    slot = dict(SLOT="2")
    yield Package(
        "app-version/behind-slot",
        "version",
        [Version("2.0", **slot), Version("2.1", **slot)],
        [Version("2.0", **slot)],
        by_hold=True,
    )
    yield Package("app-version/behind-glsa", "version", ahead_of_binhost, build)
    # Held, it is to be built with other USE flags still.
    both = dict(IUSE="nls doc")
    yield Package(
        "app-version/behind-use",
        "version",
        [Version("2.0", **both), Version("2.1", **both)],
        [Version("2.0", "nls doc", **both)],
    )
    yield Package("app-version/ahead", "version", [Version("2.0")], [Version("3.0")])
    unstable = Version("3.0", KEYWORDS="~amd64")
    yield Package("app-version/ahead-unstable", "version", [Version("2.0"), unstable], [unstable])


def causes():
    plain = [Version("2.0")]

    def one(name, cause, ebuild=None, build=None, **rest):
        return Package(f"app-cause/{name}", cause, [ebuild or Version("2.0")], [build or Version("2.0")], **rest)

    yield one("hidden", "hidden")
    yield Package("app-cause/absent", "absent", plain, [])
    yield Package("app-cause/bindist", "absent", [Version("2.0", RESTRICT="bindist")], [])
    slot = one("slot", "slot", build=Version("2.0", SLOT="2"))
    slot.world = "app-cause/slot:0"
    yield slot
    yield one("chost", "chost", build=Version("2.0", CHOST="i686-pc-linux-gnu"))
    cpu = one("cpu-level", "cpu-level")
    cpu.other_binhost = True
    yield cpu
    yield one("keywords", "keywords", build=Version("2.0", KEYWORDS="~amd64"))
    yield one("license", "license", build=Version("2.0", LICENSE="Secret"))
    yield one("excluded", "excluded")
    live = dict(PROPERTIES="live")
    yield one("live", "excluded", Version("9999", **live), Version("9999", **live))
    yield one("user-patches", "user-patches")
    yield one("deps", "deps", Version("2.0", RDEPEND="dev-libs/needed"))
    # Built against the library that is replaced.
    needs, built = dict(RDEPEND="dev-libs/needed:="), dict(RDEPEND="dev-libs/needed:0/1=")
    yield one("sub-slot", "deps", Version("2.0", **needs), Version("2.0", **built))
    yield Package(
        "dev-libs/needed", "", [Version("2.0", SLOT="0/2")], [Version("2.0", SLOT="0/2")], Version("1.0", SLOT="0/1")
    )


def packages():
    return [package for group in (fitting, by_use, not_by_use, other_versions, causes) for package in group()]


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


def make_repository(repo, packages):
    categories = sorted({package.cp.split("/")[0] for package in packages})
    for path, text in {
        "profiles/repo_name": "coverage\n",
        "profiles/eapi": "8\n",
        "profiles/arch.list": "amd64\n",
        "profiles/categories": "".join(f"{category}\n" for category in categories),
        "profiles/profiles.desc": "amd64 test stable\n",
        "profiles/test/eapi": "8\n",
        "profiles/test/make.defaults": PROFILE,
        "profiles/test/use.mask": "impossible\n",
        "profiles/test/use.force": "necessary\n",
        "licenses/GPL-2": "",
        "licenses/Secret": "",
        "metadata/layout.conf": "masters =\nthin-manifests = true\nsign-manifests = false\nprofile-formats = portage-2\ncache-formats = md5-dict\n",
        "metadata/glsa/glsa-202610-01.xml": GLSA,
    }.items():
        write(f"{repo}/{path}", text)
    for package in packages:
        name = package.cp.split("/")[1]
        for ebuild in package.ebuilds:
            text = ebuild_text(ebuild)
            write(f"{repo}/{package.cp}/{name}-{ebuild.version}.ebuild", text)
            cache = {**ebuild.values(), "DEFINED_PHASES": "install", "_md5_": hashlib.md5(text.encode()).hexdigest()}
            lines = [f"{key}={value}\n" for key, value in sorted(cache.items()) if value]
            write(f"{repo}/metadata/md5-cache/{package.cp}-{ebuild.version}", "".join(lines))


def ebuild_text(ebuild):
    values = ebuild.values()
    lines = [f"EAPI={values.pop('EAPI')}\n"]
    lines += [f'{key}="{value}"\n' for key, value in values.items()]
    return "".join([*lines, 'S="${WORKDIR}"\n', INSTALL])


def make_configuration(directory, base):
    etc = f"{directory}/conf/etc/portage"
    with open(f"{base}/conf/etc/portage/make.conf") as file:
        make_conf = file.read()
    for directories in ("tmp", "log", "distfiles", "pkgdir"):
        os.makedirs(f"{directory}/{directories}")
    make_conf += f"""
USE="chosen"
ACCEPT_LICENSE="* -Secret"
PKGDIR="{directory}/pkgdir"
DISTDIR="{directory}/distfiles"
PORTAGE_TMPDIR="{directory}/tmp"
PORTAGE_LOGDIR="{directory}/log"
EMERGE_LOG_DIR="{directory}/log"
EMERGE_DEFAULT_OPTS="--color=n --quiet --verbose-conflicts --jobs=2 --usepkg-exclude app-cause/excluded --usepkg-exclude-live"
"""
    write(f"{etc}/make.conf", make_conf)
    write(
        f"{etc}/repos.conf",
        f"[DEFAULT]\nmain-repo = coverage\n[coverage]\nlocation = {directory}/repo\nauto-sync = no\n",
    )
    write(f"{etc}/package.use/user", "app-use/in-package-use doc\n")
    write(f"{etc}/patches/app-cause/user-patches/local.patch", "--- a/x\n+++ b/x\n")
    os.symlink(f"{directory}/repo/profiles/test", f"{etc}/make.profile")


def make_root(root, packages):
    for counter, package in enumerate(package for package in packages if package.installed):
        category, name = package.cp.split("/")
        pf = f"{name}-{package.installed.version}"
        values = {
            **package.installed.built(),
            "CATEGORY": category,
            "PF": pf,
            "COUNTER": str(counter + 1),
            "BUILD_TIME": "1750000000",
        }
        for key, value in {**values, "CONTENTS": ""}.items():
            write(f"{root}/var/db/pkg/{category}/{pf}/{key}", f"{value}\n" if value else "")
    world = [f"{package.world}\n" for package in packages if package.world]
    write(f"{root}/var/lib/portage/world", "".join(sorted(world)))


def make_binhost(pkgdir, builds):
    """Packs builds and has Portage make their index."""
    os.makedirs(pkgdir)
    os.environ.update(PKGDIR=pkgdir, BINPKG_FORMAT="gpkg", BINPKG_COMPRESS="zstd", FEATURES="binpkg-multi-instance")
    import portage
    from portage.dbapi.bintree import binarytree
    from portage.versions import _pkg_str

    tree = binarytree(pkgdir=pkgdir, settings=portage.settings)
    tree.populate(getbinpkgs=False)
    for number, (package, build, build_id) in enumerate(builds):
        category, name = package.cp.split("/")
        pf = f"{name}-{build.version}"
        identity = {"CATEGORY": category, "PF": pf, "BUILD_ID": str(build_id), "BUILD_TIME": str(BUILD_TIME + number)}
        values = {
            key: value.encode()
            for key, value in {**build.built(), **identity, f"{pf}.ebuild": ebuild_text(build)}.items()
        }
        # What the phases of the ebuild would have left; emerge does not install without.
        values["environment.bz2"] = bz2.compress(
            f'declare -- EAPI="8"\ndeclare -- SLOT="{build.values()["SLOT"]}"\n'.encode()
        )
        path = f"{pkgdir}/{pf}-{build_id}.gpkg.tar"
        with tempfile.TemporaryDirectory() as image:
            write(f"{image}/usr/share/{name}/version", f"{pf} {build.use}\n")
            container = portage.gpkg.gpkg(portage.settings, f"{pf}-{build_id}", path)
            container.compress(image, {key: value for key, value in values.items() if value})
        # Moves it to where it belongs.
        tree.inject(_pkg_str(f"{category}/{pf}"), path)


def fill(binhost, count):
    """Adds entries of packages that nobody has installed."""
    compressed = f"{binhost}/Packages.gz"
    if os.path.exists(compressed):
        os.remove(compressed)
    entry = (
        "BUILD_ID: 1\nBUILD_TIME: 1760000000\nCPV: {cpv}\nDEFINED_PHASES: install\nEAPI: 8\nIUSE: nls doc\nKEYWORDS: amd64\n"
        "LICENSE: GPL-2\nMD5: 0123456789abcdef0123456789abcdef\nMTIME: 1760000000\nPATH: {path}\nRDEPEND: dev-libs/needed\n"
        "REPO: coverage\nSHA1: 0123456789abcdef0123456789abcdef01234567\nSIZE: 4096\nUSE: amd64 elibc_glibc kernel_linux nls\n\n"
    )
    with open(f"{binhost}/Packages", "a") as file:
        for number in range(count):
            name = f"filler{number // 2}"
            pf = f"{name}-{1 + number % 2}.0"
            file.write(entry.format(cpv=f"app-filler/{pf}", path=f"app-filler/{name}/{pf}-1.gpkg.tar"))


def without(text, cp):
    """The text of an index without one package."""
    stanzas = text.split("\n\n")
    return "\n\n".join(stanza for stanza in stanzas if f"\nCPV: {cp}-" not in f"\n{stanza}")


def main(directory, base, filler="0"):
    os.makedirs(directory, exist_ok=True)
    if os.listdir(directory):
        sys.exit(f"coverage-system.py: {directory} is not empty")
    directory, base = os.path.realpath(directory), os.path.realpath(base)
    environment = subprocess.run(
        ["bash", "-c", '. "$0" && env -0', f"{base}/env.sh"], check=True, stdout=subprocess.PIPE, text=True
    )
    environment = dict(line.split("=", 1) for line in environment.stdout.split("\0") if line)
    names = ("PATH", "PORTAGE_OVERRIDE_EPREFIX", "EPREFIX", "PORTAGE_USERNAME", "PORTAGE_GRPNAME", "LC_ALL")
    environment = {name: environment[name] for name in names}
    environment.update(PORTAGE_CONFIGROOT=f"{directory}/conf", ROOT=f"{directory}/root")
    os.environ.update(environment)

    system = packages()
    make_repository(f"{directory}/repo", system)
    make_configuration(directory, base)
    make_root(f"{directory}/root", system)
    builds = [(package, build, number) for package in system for number, build in enumerate(package.builds, 1)]
    make_binhost(f"{directory}/binhost", [build for build in builds if not build[0].other_binhost])
    make_binhost(f"{directory}/x86-64-v4", [build for build in builds if build[0].other_binhost])
    shutil.rmtree(f"{directory}/tmp")
    os.makedirs(f"{directory}/tmp")
    fill(f"{directory}/binhost", int(filler))
    with open(f"{directory}/binhost/Packages") as file:
        write(f"{directory}/shown/Packages", without(file.read(), "app-cause/hidden"))
    expected = {
        package.cp: {
            "cpv": f"{package.cp}-{expected_version(package)}",
            "cause": package.cause,
            "by_use": package.by_use,
            "by_hold": package.by_hold,
        }
        for package in system
        if package.cause is not None
    }
    write(f"{directory}/expected.json", json.dumps(expected, indent=1))
    write(f"{directory}/environment.json", json.dumps(environment, indent=1))


def expected_version(package):
    """The newest one whose ebuild is not masked."""
    return [ebuild.version for ebuild in package.ebuilds if ebuild.values()["KEYWORDS"] == "amd64"][-1]


if __name__ == "__main__":
    main(*sys.argv[1:])
