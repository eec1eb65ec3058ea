"""Binhosts to measure with: entries like those of the official ones, real GPKG packages of any size, nginx around them.

All of it is deterministic. Source of the formats: portage 3.0.83, GLEP 78.
"""

import gzip
import hashlib
import io
import os
import random
import shutil
import socket
import subprocess
import tarfile
import time

BUILD_TIME = 1_760_000_000
MIB = 1 << 20

CATEGORIES = """acct-group acct-user app-admin app-arch app-crypt app-editors app-misc app-portage app-shells app-text
dev-cpp dev-db dev-lang dev-libs dev-ml dev-perl dev-python dev-qt dev-ruby dev-util dev-vcs gnome-base gnome-extra
gui-libs kde-apps kde-frameworks kde-plasma mail-client mail-mta media-fonts media-gfx media-libs media-plugins
media-sound media-video net-analyzer net-dns net-firewall net-fs net-im net-libs net-misc net-p2p net-print net-wireless
sci-libs sci-mathematics sys-apps sys-auth sys-block sys-boot sys-cluster sys-devel sys-fs sys-kernel sys-libs
sys-process virtual www-apps www-client www-servers x11-apps x11-base x11-libs x11-misc x11-themes x11-wm""".split()
SYLLABLES = "ba ce da fo gi hu ja ki lo ma ne or pa qu ri sa te un va wi xo yu zi arc bel cor dim eth fen gnu".split()
USES = """abi_x86_64 acl alsa bluetooth bzip2 cairo cxx dbus debug doc elibc_glibc examples ffmpeg gtk gtk-doc iconv icu
introspection ipv6 jpeg jpeg2k kernel_linux lzma man ncurses nls opengl openmp pam pcre png policykit pulseaudio
python_single_target_python3_13 python_targets_python3_12 python_targets_python3_13 qt6 readline seccomp selinux split-usr
sqlite ssl static-libs svg systemd test threads tiff truetype udev unicode vaapi verify-sig vulkan wayland webp xattr X
zlib zstd""".split()
LIBRARIES = """libc.so.6 libm.so.6 libstdc++.so.6 libgcc_s.so.1 libz.so.1 libzstd.so.1 libglib-2.0.so.0 libgobject-2.0.so.0
libssl.so.3 libcrypto.so.3 libX11.so.6 libxcb.so.1 libQt6Core.so.6 libQt6Gui.so.6 libcairo.so.2 libpango-1.0.so.0
libicuuc.so.76 libxml2.so.2 libsystemd.so.0 libudev.so.1 libdbus-1.so.3 libwayland-client.so.0""".split()


class Entries:
    """Entries of about 1 KiB, in the mean: 5,800 packages, up to six versions or builds of each."""

    def __init__(self, seed=1):
        self.random = random.Random(seed)
        self.names = set()

    def _name(self):
        while True:
            word = "".join(self.random.choices(SYLLABLES, k=self.random.randint(2, 4)))
            name = f"{self.random.choice(CATEGORIES)}/{self.random.choice(['', '', '', 'lib', 'py'])}{word}"
            if name not in self.names:
                self.names.add(name)
                return name

    def _dependencies(self, most):
        parts = []
        for _ in range(self.random.randint(0, most)):
            name = f"{self.random.choice(CATEGORIES)}/{''.join(self.random.choices(SYLLABLES, k=3))}"
            parts.append(
                self.random.choice([name, f">={name}-{self.random.randint(0, 9)}.{self.random.randint(0, 40)}:=", f"{name}[abi_x86_64(-)?,ssl?]"])
            )
        if self.random.random() < 0.3 and parts:
            parts = [f"{self.random.choice(USES)}?", "(", *parts, ")", "virtual/pkgconfig"]
        return " ".join(parts)

    def stanzas(self, count):
        made = 0
        while made < count:
            name = self._name()
            for version in range(min(self.random.randint(1, 6), count - made)):
                made += 1
                yield self._stanza(name, version)

    def _stanza(self, name, at):
        choose, number = self.random, self.random.randint
        version = f"{number(0, 12)}.{at}.{number(0, 30)}" + choose.choice(["", "", f"-r{number(1, 4)}", "_p20260101"])
        category, package = name.split("/")
        pf, build = f"{package}-{version}", number(1, 3)
        digest = choose.randbytes(36).hex()
        iuse = sorted(choose.sample(USES, number(2, 22)))
        requires = sorted(choose.sample(LIBRARIES, number(0, 14)))
        fields = {
            "BDEPEND": self._dependencies(5),
            "BUILD_ID": build,
            "BUILD_TIME": BUILD_TIME - number(0, 20_000_000),
            "CPV": f"{name}-{version}",
            "DEFINED_PHASES": choose.choice(["compile configure install prepare test", "install", "configure postinst"]),
            "DEPEND": self._dependencies(10),
            "EAPI": 8,
            "IUSE": " ".join(iuse),
            "KEYWORDS": "~alpha amd64 arm arm64 ~hppa ~loong ppc ppc64 ~riscv ~s390 sparc x86",
            "LICENSE": choose.choice(["GPL-2", "LGPL-2.1+", "MIT", "|| ( GPL-2 LGPL-3 )", "BSD"]),
            "MD5": digest[:32],
            "PATH": f"{category}/{package}/{pf}-{build}.gpkg.tar",
            "PROVIDES": f"x86_64: lib{package}.so.{number(0, 9)}" if requires else "",
            "RDEPEND": self._dependencies(12),
            "REQUIRES": "x86_64: " + " ".join(requires) if requires else "",
            "SHA1": digest[32:],
            "SIZE": max(10_240, int(choose.lognormvariate(12.5, 1.8))) // 512 * 512,
            "SLOT": choose.choice(["0", "0", f"0/{at}", str(at)]),
            "USE": " ".join(choose.sample(iuse, len(iuse) // 2) + ["amd64", "elibc_glibc", "kernel_linux"]),
            "MTIME": BUILD_TIME + number(0, 1000),
        }
        return "".join(f"{key}: {value}\n" for key, value in fields.items() if value != "")


def write_index(directory, stanzas, timestamp):
    """Writes `Packages` and `Packages.gz`; returns the number of bytes of `Packages`."""
    stanzas = list(stanzas)
    header = f"ARCH: amd64\nPACKAGES: {len(stanzas)}\nREPO: gentoo\nTIMESTAMP: {timestamp}\nVERSION: 0\n"
    text = "\n".join([header, *stanzas, ""]).encode()
    for name, content in (("Packages", text), ("Packages.gz", gzip.compress(text, 6, mtime=0))):
        new = os.path.join(directory, name + ".new")
        with open(new, "wb") as file:
            file.write(content)
        os.rename(new, os.path.join(directory, name))
    return len(text)


def stanzas_of(index):
    """The stanzas of an index that is there already, without its header."""
    with open(index, encoding="utf-8") as file:
        return [stanza.strip("\n") + "\n" for stanza in file.read().split("\n\n")[1:] if stanza.strip("\n")]


NOISE = random.Random(7).randbytes(MIB)


class _Digesting:
    """Writes to a file and keeps the digests of all of it, and of the member that is being written."""

    def __init__(self, file):
        self.file, self.size = file, 0
        self.md5, self.sha1 = hashlib.md5(), hashlib.sha1()
        self.member = []

    def write(self, data):
        self.file.write(data)
        self.size += len(data)
        for digest in (self.md5, self.sha1, *self.member):
            digest.update(data)

    def add(self, name, chunks, size):
        header = tarfile.TarInfo(name)
        header.size, header.mode, header.mtime = size, 0o644, BUILD_TIME
        self.write(header.tobuf(tarfile.USTAR_FORMAT))
        self.member = [hashlib.sha512(), hashlib.blake2b()]
        for chunk in chunks:
            self.write(chunk)
        sha512, blake2b = self.member
        self.member = []
        self.write(b"\0" * (-size % 512))
        return f"DATA {name.split('/')[-1]} {size} SHA512 {sha512.hexdigest()} BLAKE2B {blake2b.hexdigest()}\n"


def _metadata(pf):
    inner = io.BytesIO()
    values = {"BUILD_ID": "1", "BUILD_TIME": str(BUILD_TIME), "CATEGORY": "bench", "EAPI": "8", "PF": pf}
    values |= {"KEYWORDS": "amd64", "SLOT": "0", "repository": "gentoo"}
    with tarfile.open(fileobj=inner, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, value in values.items():
            header = tarfile.TarInfo(f"metadata/{key}")
            header.size = len(value) + 1
            tar.addfile(header, io.BytesIO(value.encode() + b"\n"))
    return gzip.compress(inner.getvalue(), mtime=0)


def _image(number, size):
    """`size` bytes that no compressor shrinks and that differ from package to package."""
    yield number.to_bytes(8, "big")[: min(8, size)]
    left = size - 8
    while left > 0:
        yield NOISE[: min(left, MIB)]
        left -= MIB


def write_package(directory, name, size, number=0, signer=None):
    """A GPKG `bench/<name>-1` of about `size` bytes; its path and stanza. Its image is noise that nothing unpacks.

    `signer`: signs bytes in the two forms that Portage writes, `detach` for members and `clear` for the Manifest.
    """
    pf = f"{name}-1"
    path = f"bench/{name}/{pf}-1.gpkg.tar"
    os.makedirs(os.path.join(directory, "bench", name), exist_ok=True)
    with open(os.path.join(directory, path), "wb") as file:
        out, metadata, payload = _Digesting(file), _metadata(pf), max(8, size - 10_240)
        manifest = out.add(f"{pf}-1/gpkg-1", [], 0)
        manifest += out.add(f"{pf}-1/metadata.tar.gz", [metadata], len(metadata))
        manifest += out.add(f"{pf}-1/image.tar.gz", _image(number, payload), payload)
        if signer is not None:
            image = b"".join(_image(number, payload))
            for member, content in (("metadata.tar.gz", metadata), ("image.tar.gz", image)):
                signature = signer.detach(content)
                manifest += out.add(f"{pf}-1/{member}.sig", [signature], len(signature))
        text = manifest.encode() if signer is None else signer.clear(manifest.encode())
        out.add(f"{pf}-1/Manifest", [text], len(text))
        out.write(b"\0" * 1024)
    os.utime(os.path.join(directory, path), (BUILD_TIME, BUILD_TIME))
    stanza = (
        f"BUILD_ID: 1\nBUILD_TIME: {BUILD_TIME}\nCPV: bench/{pf}\nEAPI: 8\nKEYWORDS: amd64\nMD5: {out.md5.hexdigest()}\n"
        f"PATH: {path}\nSHA1: {out.sha1.hexdigest()}\nSIZE: {out.size}\nSLOT: 0\nMTIME: {BUILD_TIME}\n"
    )
    return path, stanza


def sizes(total, seed=3):
    """Package sizes as on the official binhosts (median 270 KB, a few of 100 MB), together `total` bytes."""
    chance, left = random.Random(seed), total
    while left > 0:
        size = min(max(20_480, int(chance.lognormvariate(12.5, 1.9))), 200 * MIB, left)
        left -= size
        yield size


class Nginx:
    """nginx that serves a directory; stopped at the end of `with`. `through`: a command to start it with."""

    def __init__(self, work, root, address="127.0.0.1", through=()):
        self.work, self.root, self.address, self.through = work, root, address, through

    def __enter__(self):
        with socket.socket() as chosen:
            chosen.bind(("127.0.0.1", 0))
            port = chosen.getsockname()[1]
        self.url = f"http://{self.address}:{port}"
        place = os.path.join(self.work, f"nginx-{port}")
        os.makedirs(place)
        paths = "".join(f"{kind}_temp_path {place}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        user = "user root;" if os.geteuid() == 0 else ""
        with open(os.path.join(place, "conf"), "w", encoding="utf-8") as file:
            file.write(
                f"{user} daemon off; worker_processes 1; pid {place}/pid; error_log {place}/error.log;\n"
                "events { worker_connections 64; }\n"
                f"http {{ access_log off; sendfile on; tcp_nopush on; types {{ }} default_type application/octet-stream; {paths}\n"
                f"server {{ listen {self.address}:{port}; location / {{ root {self.root}; }} }} }}\n"
            )
        program = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
        self.process = subprocess.Popen([*self.through, program, "-e", f"{place}/error.log", "-c", f"{place}/conf"])
        for _ in range(200):
            if os.path.exists(f"{place}/pid") and os.path.getsize(f"{place}/pid"):
                return self
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        self.__exit__()
        raise RuntimeError("nginx does not start")

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait()
