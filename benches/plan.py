"""The real emerge installs 30 packages over a slow line: with Portage's own download, and through the mount.

The packages are built by the real Portage, once, and kept in `target/bench-plan`. Together they are 300 MiB; their sizes are
those of what an update of a desktop brings (lognormal; from 0.2 to 47 MiB, half of them below 3.1). What is in them compresses to a
third, as programs, text and bytecode do, and the sizes of their files are those below /usr of a Debian machine with compilers: half
of them below 2 KiB, a tenth above 26 KiB, one in 300 has megabytes; 40 KiB in the mean, 22,000 files in all.
"""

import contextlib
import fcntl
import os
import random
import shutil
import subprocess
import time

import binhost
from binhost import MIB, Nginx

PACKAGES = 30
TOTAL = 300 * MIB
RATE = "100mbit"
#: Changes when packages are to be built anew.
VERSION = "2"
WORDS = " ".join(binhost.SYLLABLES).encode() * 20

EBUILD = """EAPI=8
DESCRIPTION="one of a plan"
HOMEPAGE="https://example.invalid/"
LICENSE="GPL-2"
SLOT="0"
KEYWORDS="amd64"
S="${WORKDIR}"
src_install() { cp -a "%s/." "${ED}" || die; }
"""


def sizes():
    """Bytes of each package, compressed."""
    chance = random.Random(30)
    raw = [min(max(chance.lognormvariate(0, 1.4), 0.07), 16) for _ in range(PACKAGES)]
    return [int(size / sum(raw) * TOTAL) for size in raw]


def fill(directory, size, seed):
    """Files that compress to `size` bytes together; their number."""
    chance, count = random.Random(seed), 0
    while size > 0:
        place = os.path.join(directory, f"usr/share/plan{seed}/{count // 40}")
        os.makedirs(place, exist_ok=True)
        # A third of a file cannot be compressed.
        large = chance.random() < 0.003
        noise = min(size, int(chance.uniform(0.3, 8) * MIB if large else chance.lognormvariate(6.56, 2)) + 1)
        with open(os.path.join(place, f"file{count}"), "wb") as file:
            for at in range(0, noise, 1024):
                part = min(1024, noise - at)
                file.write(chance.randbytes(part) + WORDS[: 2 * part])
        size, count = size - noise, count + 1
    return count


def remove(path):
    """A directory of ours, never across a mount."""
    subprocess.run(["rm", "-rf", "--one-file-system", "--", path], check=True)


def prepare(root, target, environment, say):
    """The binhost with these packages and the configuration that Portage has for it; built when it is not there."""
    place = os.path.join(target, "bench-plan")
    os.makedirs(place, exist_ok=True)
    with open(os.path.join(place, "lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp, wanted = os.path.join(place, "stamp"), f"{VERSION} {environment}\n"
        with contextlib.suppress(FileNotFoundError), open(stamp, encoding="utf-8") as file:
            if file.read() == wanted:
                return os.path.join(place, "binhost"), os.path.join(place, "env")
        say("building 30 packages, which takes some minutes")
        for part in ("binhost", "env", "images"):
            remove(os.path.join(place, part))
        scripts = os.path.join(root, "tests/portage")
        subprocess.run([f"{scripts}/make-repo.sh", f"{place}/env", f"{environment}/venv"], check=True)
        files = 0
        for number, size in enumerate(sizes()):
            files += fill(f"{place}/images/{number}", size, number)
            ebuild = f"{place}/env/repo/app-misc/plan{number}"
            os.makedirs(ebuild)
            with open(f"{ebuild}/plan{number}-1.ebuild", "w", encoding="ascii") as file:
                file.write(EBUILD % f"{place}/images/{number}")
        atoms = [f"=app-misc/plan{number}-1" for number in range(PACKAGES)]
        subprocess.run([f"{scripts}/build-binhost.sh", f"{place}/binhost", "gpkg", f"{place}/env", *atoms], check=True)
        remove(f"{place}/images")
        say(f"{files} files in them")
        with open(stamp, "w", encoding="utf-8") as file:
            file.write(wanted)
    return os.path.join(place, "binhost"), os.path.join(place, "env")


class Installs:
    """Emerges of all packages, each into a ROOT of its own."""

    def __init__(self, bench, root, base):
        self.bench, self.base = bench, base
        self.script = os.path.join(root, "tests/portage/emerge-from.sh")
        self.atoms = [f"app-misc/plan{number}" for number in range(PACKAGES)]

    def run(self, pkgdir, mode, **variables):
        """Seconds that it took."""
        root = self.bench.directory("root")
        environment = {**os.environ, "BASE": self.base, "MODE": mode, "TIMEOUT": "900", **variables}
        os.sync()
        begin = time.perf_counter()
        done = subprocess.run(
            [self.script, pkgdir, root, "--quiet", *self.atoms], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        seconds = time.perf_counter() - begin
        installed = os.path.join(root, "var/db/pkg/app-misc")
        if done.returncode or len(os.listdir(installed)) != PACKAGES:
            raise RuntimeError(done.stdout)
        remove(root)
        return seconds


def measure(bench, root, target, link, say, rounds):
    """Seconds of each round: Portage's own download, the mount, the mount without fetching ahead, the mount with all of it cached."""
    environment = os.environ.get("BINHOSTFS_TEST_ENV", os.path.join(target, "test-env"))
    subprocess.run([os.path.join(root, "tests/portage/prepare.sh"), environment], check=True, stdout=subprocess.DEVNULL)
    source, base = prepare(root, target, environment, say)
    installs, seconds = Installs(bench, root, base), []
    with link(RATE) as (address, through), Nginx(bench.work, source, address, through) as nginx:
        for _ in range(rounds):
            own = bench.directory("pkgdir")
            getbinpkg = installs.run(own, "-gK", BINREPOS=nginx.url, BINREPO_LOCATION=os.path.join(own, "location"))
            shutil.rmtree(own)
            with bench.daemon(nginx.url) as daemon:
                ahead = installs.run(daemon.mountpoint, "-K")
                metrics = daemon.status()["metrics"]
                if metrics["prefetched"] < PACKAGES - 2:
                    raise RuntimeError(f"only {metrics['prefetched']} of {PACKAGES} were fetched ahead")
                merging = installs.run(daemon.mountpoint, "-K")
            with bench.daemon(nginx.url, "--prefetch", "off") as daemon:
                without = installs.run(daemon.mountpoint, "-K")
            seconds.append((getbinpkg, ahead, without, merging))
            say("seconds: getbinpkg {:.1f}, mount {:.1f}, without prefetch {:.1f}, all cached {:.1f}".format(*seconds[-1]))
    return seconds
